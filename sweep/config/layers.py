"""The one ordered list of layers, and what is read from it: why, diff, plain data.

From the lowest to the highest::

    schema < default < view < lazy < file < environment < command line

A lazy view *sees* everything (it runs last) and overrides views and defaults, never an explicit value.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import CodeType
from typing import Any, Protocol, final

from sweep.config.adict import Path, dotted, leaves
from sweep.errors import ConfigError, UnknownName

__all__ = ["KINDS", "REMOVED", "History", "Layer", "Step", "diff", "explain", "history", "short_path"]

KINDS = ("schema", "default", "view", "lazy", "file", "environment", "command line")

_PART = re.compile(r'\[("(?:[^"\\]|\\.)*"|-?[0-9]+)\]|\.?([^.\[\]]+)')


class _Removed:
    """Stands for a value that a layer took away."""

    def __repr__(self) -> str:
        return "(unset)"


REMOVED = _Removed()

Mark = tuple[CodeType, int] | str | None  # an instruction, whose line is looked up when asked for; or a text


@final
@dataclass(slots=True)
class Layer:
    """What one source set.

    Attributes:
        kind: One of ``KINDS``.
        name: Name of the view, file or model.
        where: ``file:line`` of the source, or ``""``.
        writes: Path of each leaf to its value and the place that set it (None: ``where``).
        lost: Paths whose value did not apply, because an explicit one stands above a lazy view.
        scope: Name of the scope, for several scopes in one list.
    """

    kind: str
    name: str
    where: str
    writes: dict[Path, tuple[object, Mark]] = field(default_factory=dict)
    lost: set[Path] = field(default_factory=set)
    scope: str = ""

    def place(self, path: Path) -> str:
        """Return where in the source ``path`` was set: ``file:line``, variable, or word."""
        mark = self.writes[path][1]
        if isinstance(mark, tuple):
            code, instruction = mark
            positions = list(code.co_positions())
            line = positions[instruction // 2][0] if instruction // 2 < len(positions) else None
            return f"{short_path(code.co_filename)}:{line or code.co_firstlineno}"
        return self.where if mark is None else mark

    def as_data(self) -> dict[str, object]:
        """Return the layer as plain JSON data (what JSON lacks becomes its ``repr``)."""
        return {
            "scope": self.scope,
            "kind": self.kind,
            "name": self.name,
            "where": self.where,
            "values": {dotted(path): _jsonable(v) for path, (v, _) in self.writes.items() if v is not REMOVED},
            "removed": [dotted(path) for path, (value, _) in self.writes.items() if value is REMOVED],
            "places": {dotted(path): self.place(path) for path in self.writes},
            "lost": sorted(dotted(path) for path in self.lost),
        }

    @classmethod
    def of(cls, kind: str, name: str, values: Mapping[str, object]) -> Layer:
        """Return the layer of a source that sets these (nested) values."""
        return cls(kind, name, "", {path: (value, None) for path, value in leaves(values)})

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Layer:
        """Read a layer that :meth:`as_data` wrote."""
        places = data.get("places", {})
        writes: dict[Path, tuple[object, Mark]] = {
            _undotted(key): (value, places.get(key)) for key, value in data["values"].items()
        }
        writes |= {_undotted(key): (REMOVED, places.get(key)) for key in data.get("removed", ())}
        lost = {_undotted(key) for key in data.get("lost", ())}
        return cls(data["kind"], data["name"], data["where"], writes, lost, data.get("scope", ""))


@final
@dataclass(frozen=True, slots=True)
class Step:
    """One layer's part in a value.

    Attributes:
        key: Dotted key.
        kind: Kind of the layer.
        name: Name of the view, file or model.
        where: The place that set it.
        before: The value below this layer (``REMOVED``: none).
        value: What the layer set.
        applied: False where a lazy view lost to an explicit value.
    """

    key: str
    kind: str
    name: str
    where: str
    before: Any
    value: Any
    applied: bool

    @property
    def source(self) -> str:
        """Name and place in one text."""
        return " ".join(dict.fromkeys(part for part in (self.name, self.where) if part))

    @property
    def change(self) -> str:
        """What the layer did, in words."""
        if not self.applied:
            return f"{_shown(self.value)} lost to the explicit value"
        return f"{_shown(self.before)} → {_shown(self.value)}"


@final
class History(tuple[Step, ...]):
    """The steps that made a value, lowest layer first; ``print`` it."""

    __slots__ = ()

    @property
    def value(self) -> Any:
        """What it came to (for a single key)."""
        applied = [step.value for step in self if step.applied]
        return applied[-1] if applied else REMOVED

    def __str__(self) -> str:
        width = max((len(step.source) for step in self), default=0)
        lines: list[str] = []
        for key in dict.fromkeys(step.key for step in self):
            steps = History(step for step in self if step.key == key)
            lines.append(f"{key} = {_shown(steps.value)}")
            lines += [f"  {step.kind:<12}  {step.source:<{width}}  {step.change}" for step in steps]
        return "\n".join(lines)


def history(layers: Iterable[Layer], key: str) -> History:
    """Return what each layer did to ``key`` (a leaf, or a group: all its leaves).

    Raises:
        UnknownName: No layer set it.
    """
    wanted = _undotted(key)
    ordered = sorted(layers, key=lambda layer: KINDS.index(layer.kind))
    current: dict[Path, object] = {}
    steps: list[Step] = []
    known: set[str] = set()
    for layer in ordered:
        for path, (value, _) in layer.writes.items():
            if path[: len(wanted)] != wanted:
                known.add(dotted(path))
                continue
            applied = path not in layer.lost
            before = current.get(path, REMOVED)
            steps.append(Step(dotted(path), layer.kind, layer.name, layer.place(path), before, value, applied))
            if applied:
                current[path] = value
    if not steps:
        raise UnknownName("key", key, known, "no layer set it")
    return History(steps)


def merged(layers: Iterable[Layer]) -> dict[str, object]:
    """Return the values that the layers come to, by dotted key."""
    found: dict[Path, object] = {}
    for layer in sorted(layers, key=lambda layer: KINDS.index(layer.kind)):
        for path, (value, _) in layer.writes.items():
            if path not in layer.lost:
                found[path] = value
    return {dotted(path): value for path, value in found.items() if value is not REMOVED}


class Layered(Protocol):
    """What has layers: a Scope, a MultiScope, a resolution."""

    def layers_as_data(self) -> list[dict[str, object]]:
        """Return the layers as plain JSON data."""


def explain(key: str, target: Layered | Sequence[Mapping[str, object]]) -> str:
    """Say why ``key`` has its value: the text of ``sweep config why KEY``.

    Args:
        key: Dotted key, led by the scope's name where there are several scopes.
        target: A Scope or MultiScope, or the stored ``layers_as_data()`` of a run.

    Raises:
        UnknownName: No such key (or scope), with near misses.

    Example:
        >>> from sweep.config import Scope
        >>> scope = Scope()
        >>> @scope.observe(default=True)
        ... def defaults(cfg):
        ...     cfg.lr = 0.1
        >>> _ = scope.parse(["lr=0.2"])
        >>> print(explain("lr", scope).splitlines()[0])
        lr = 0.2
    """
    rows = target if isinstance(target, Sequence) else target.layers_as_data()
    layers = [Layer.from_data(row) for row in rows]
    return str(history_of(layers, key))


def history_of(layers: Sequence[Layer], key: str) -> History:
    """Return :func:`history`; in a list of several scopes the key begins with the scope's name."""
    names = list(dict.fromkeys(layer.scope for layer in layers))
    if len(names) <= 1:
        return history(layers, key)
    name, _, rest = key.partition(".")
    if name not in names or not rest:
        raise UnknownName("scope", name, names, f"in {key!r}; a key here begins with its scope's name")
    return history([layer for layer in layers if layer.scope == name], rest)


def diff(before: object, after: object) -> list[str]:
    """Return the differences of two configs, one line each, in the order of their keys.

    Args:
        before: A mapping, a pydantic model, a Scope, or stored ``layers_as_data()``.
        after: The same.

    Example:
        >>> diff({"lr": 0.1, "model": {"depth": 50}}, {"lr": 0.2, "model": {"width": 2}})
        ['lr: 0.1 → 0.2', 'model.depth: 50 → (unset)', 'model.width: (unset) → 2']
    """
    old, new = _flat(before), _flat(after)
    return [
        f"{key}: {_shown(old.get(key, REMOVED))} → {_shown(new.get(key, REMOVED))}"
        for key in sorted(old.keys() | new.keys())
        if not _same(old.get(key, REMOVED), new.get(key, REMOVED))
    ]


def _flat(config: object) -> dict[str, object]:
    if isinstance(config, Mapping):
        return {dotted(path): _jsonable(value) for path, value in leaves(config)}
    if hasattr(config, "model_dump"):
        return _flat(config.model_dump())
    rows = config.layers_as_data() if hasattr(config, "layers_as_data") else config
    if not isinstance(rows, Sequence) or isinstance(rows, str):
        raise ConfigError(f"diff compares mappings, models, scopes or stored layers, not a {type(config).__name__}")
    layers = [Layer.from_data(row) for row in rows]
    names = list(dict.fromkeys(layer.scope for layer in layers))
    if len(names) <= 1:
        return merged(layers)
    return {
        f"{name}.{key}": value
        for name in names
        for key, value in merged(layer for layer in layers if layer.scope == name).items()
    }


def _same(one: object, other: object) -> bool:
    return type(one) is type(other) and bool(one == other or (one != one and other != other))


def _jsonable(value: object) -> object:
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    return repr(value)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


def _undotted(key: str) -> Path:
    return tuple(json.loads(quoted) if quoted else plain for quoted, plain in _PART.findall(key))


def short_path(path: str) -> str:
    """Return a file's path from the current directory where it lies below it."""
    try:
        near = os.path.relpath(path)
    except (ValueError, OSError):  # another drive, or a directory that is gone
        return path
    return path if near.startswith("..") or path.startswith("<") else near
