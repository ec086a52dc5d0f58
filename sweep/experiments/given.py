"""What a run is given from outside its code: by a scope, by files, the environment, the command line.

What the code says (defaults of a class, arguments of a constructor) is the lowest layer; what is
given stands above it. A key is a field of the run, or the name of a run started below it, whose own
keys stand under it, at any depth: ``exploration.lr=0.1``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, NoReturn, final, get_args

from sweep.config.adict import dotted, leaves
from sweep.config.commandline import Assignment, Explicit, range_hint
from sweep.config.layers import Layer
from sweep.errors import ConfigError, ContractError, ContractViolation, UnknownName
from sweep.pipeline.annotations import Record
from sweep.pipeline.contracts import FieldContract
from sweep.pipeline.runtime import Handle
from sweep.pipeline.units import Configuration

__all__ = ["NOTHING", "Given", "current_given", "giving", "parts", "plain", "typed"]

_LAYERS = "!config"


@final
@dataclass(frozen=True, slots=True)
class Given:
    """Values for a run and for those below it.

    Attributes:
        items: The values, the lowest source first; their paths begin with a field, or with a run's name.
        layers: Where they are from, lowest first.
    """

    items: tuple[Assignment, ...] = ()
    layers: tuple[Layer, ...] = ()

    @classmethod
    def of(cls, config: object) -> Given:
        """Read a Scope or MultiScope as it is resolved now, a mapping, or a model.

        Raises:
            ContractError: It is none of these.
            ConfigError: The scope cannot be resolved.
        """
        if config is None or isinstance(config, Given):
            return config or NOTHING
        if not isinstance(config, type) and isinstance(config, Configuration):
            values, layers = plain(config.resolve()), _layers_of(config)
        elif isinstance(config, Mapping) or hasattr(type(config), "model_fields"):
            values = plain(config)
            layers = [Layer.of("default", "config=", values)]
        else:
            raise ContractError(f"config={config!r}", ["expected a Scope, a MultiScope, a mapping or a pydantic model"])
        return cls(tuple(Assignment(path, value, None, _place(layers, path)) for path, value in leaves(values)), tuple(layers))

    @classmethod
    def by(cls, sources: Sequence[Explicit]) -> Given:
        """Return what explicit sources give."""
        layers = []
        for source in sources:
            writes = {
                path: (value, item.source) for item in source.items for path, value in leaves({item.path[0]: _nested(item)})
            }
            layers.append(Layer(source.kind, source.name, source.name, dict(writes)))
        return cls(tuple(item for source in sources for item in source.items), tuple(layers))

    def __bool__(self) -> bool:
        return bool(self.items)

    def __add__(self, above: Given) -> Given:
        return Given((*self.items, *above.items), (*self.layers, *above.layers))

    def heads(self) -> dict[Any, list[Assignment]]:
        """Return the values by the first part of their keys."""
        found: dict[Any, list[Assignment]] = {}
        for item in self.items:
            found.setdefault(item.path[0], []).append(item)
        return found

    def only(self, heads: Sequence[str]) -> Given:
        """Return the values whose keys begin with one of ``heads``."""
        return Given(
            tuple(item for item in self.items if item.path[0] in heads),
            tuple(_cut(layer, {path: path for path in layer.writes if path[0] in heads}) for layer in self.layers),
        )

    def below(self, name: str) -> Given:
        """Return the values for the runs of that name, with their own keys."""
        if not any(item.path[0] == name for item in self.items):
            return NOTHING
        items: list[Assignment] = []
        for item in self.items:
            if item.path[0] == name and len(item.path) > 1:
                items.append(replace(item, path=item.path[1:]))
            elif item.path[0] == name:
                items += [replace(item, path=path, value=value, text=None) for path, value in _group(item, name)]
        kept = [_cut(layer, {path: path[1:] for path in layer.writes if path[0] == name and path[1:]}) for layer in self.layers]
        return Given(tuple(items), tuple(layer for layer in kept if layer.writes))

    def places(self) -> dict[str, list[str]]:
        """Return where values are from, by the first part of their keys, the lowest source first."""
        found: dict[str, list[str]] = {}
        for layer in self.layers:
            for path in layer.writes:
                said = found.setdefault(str(path[0]), [])
                place = f"{layer.kind}: {layer.place(path)}"
                said += [] if place in said else [place]
        return found

    def as_data(self) -> dict[str, object]:
        """Return the values by dotted key as plain JSON data, for identity."""
        values = {dotted(item.path): item.value for item in self.items}
        return dict(json.loads(json.dumps(values, default=repr)))

    def keep(self, handle: Handle) -> None:
        """Store the layers with a run."""
        rows = [layer.as_data() for layer in self.layers if layer.writes]
        if rows:
            handle.journal.put(_LAYERS, "config", json.dumps(rows, default=repr))


NOTHING = Given()
_GIVEN: ContextVar[Given] = ContextVar("sweep_given", default=NOTHING)


def current_given() -> Given:
    """Return what the run in which the caller works was given for those below it."""
    return _GIVEN.get()


@contextmanager
def giving(given: Given) -> Iterator[None]:
    """Give the runs that start here their share of ``given``."""
    token = _GIVEN.set(given)
    try:
        yield
    finally:
        _GIVEN.reset(token)


def _nested(item: Assignment) -> object:
    """Return an item's value under the rest of its path."""
    value = item.value
    for part in reversed(item.path[1:]):
        value = {part: value}
    return value


def _group(item: Assignment, name: str) -> Iterator[tuple[Any, object]]:
    if not isinstance(item.value, Mapping):
        raise ConfigError(f"{item.source!r}: {name!r} is a run, not one value; write {name}.KEY=…")
    return leaves(item.value)


def _cut(layer: Layer, paths: Mapping[Any, Any]) -> Layer:
    """Return a layer with some of its paths, renamed."""
    writes = {new: layer.writes[old] for old, new in paths.items()}
    lost = {new for old, new in paths.items() if old in layer.lost}
    return Layer(layer.kind, layer.name, layer.where, writes, lost)


def _layers_of(config: Configuration) -> list[Layer]:
    """Return a scope's layers; those of a MultiScope under the names of its scopes, as its values are."""
    layers = [Layer.from_data(row) for row in config.layers_as_data()]
    for layer in layers:
        if getattr(config, "scopes", (config,)) != (config,):
            layer.writes = {(layer.scope, *path): write for path, write in layer.writes.items()}
            layer.lost = {(layer.scope, *path) for path in layer.lost}
        layer.scope = ""
    return layers


def _place(layers: Sequence[Layer], path: Any) -> str:
    for layer in reversed(layers):
        if path in layer.writes and path not in layer.lost:
            place = layer.place(path)
            said = " ".join(dict.fromkeys(part for part in (layer.kind, layer.name, place) if part))
            return place if layer.kind == "command line" else f"{dotted(path)} ({said})"
    return dotted(path)


def plain(value: object) -> Any:
    """Return a config as plain mappings; values stay as they are."""
    if hasattr(type(value), "model_fields"):
        return {name: plain(inner) for name, inner in value.__dict__.items()}
    return {key: plain(inner) for key, inner in value.items()} if isinstance(value, Mapping) else value


def parts(value: object) -> object:
    """Return a field's value as plain mappings, dataclasses too."""
    names = () if isinstance(value, type) else getattr(type(value), "__dataclass_fields__", ())
    return {name: parts(getattr(value, name)) for name in names} if names else plain(value)


def _group_of(value: object) -> dict[str, object]:
    found = parts(value)
    return dict(found) if isinstance(found, Mapping) else {}


# ---------------------------------------------------------------- values


def typed(key: str, items: Sequence[Assignment], annotation: object, current: object = None) -> object:
    """Return a value as its annotation wants it: what is given, else the text as it was written.

    Args:
        key: Name of the field, parameter or input.
        items: What is given for it, the lowest source first: the whole, or parts by longer paths.
        annotation: Its annotation.
        current: What the code says; parts are put into it.

    Raises:
        UnknownName: A part that the annotation does not have.
        ConfigError: The value does not fit; the message names the word, file or view that gave it.
    """
    contract = FieldContract(key, annotation)
    first: ContractViolation | None = None
    last = items[-1]
    for as_text in (False, True):
        if last.problem and len(last.path) == 1 and not as_text:
            continue  # it begins like a literal and is none: it can only be text
        try:
            return contract.validate(_whole(items, annotation, current, as_text), "config")
        except ContractViolation as error:
            first = first or error
    _refuse(last, first)


def _refuse(item: Assignment, error: ContractViolation | None) -> NoReturn:
    expected = error.expected.partition(" (text is")[0] if error is not None else ""
    expected = " or ".join(one for one in expected.split(" or ") if "are not allowed" not in one) or expected  # of a union
    reason = item.problem or f"expected {expected}"
    got = "" if item.text is not None else f", got {error.value!r}" if error is not None else ""
    hint = range_hint(item.text or "").replace("`sweep run`", "`sweep run` of a sweep")
    raise ConfigError(f"{item.source!r}: {reason}{got}{hint}") from error


def _whole(items: Sequence[Assignment], annotation: object, current: object, as_text: bool) -> object:
    """Put together what is given for one field: the last whole value, and above it the parts."""
    last = max((index for index, item in enumerate(items) if len(item.path) == 1), default=-1)
    below, said = items[last + 1 :], items[last]
    given = said.text if as_text and said.text is not None else said.value
    if not below:
        return given
    record = _record(annotation)
    whole = _group_of(current if last < 0 else given)
    known = record.fields if record is not None else {}
    by_part: dict[str, list[Assignment]] = {}
    for item in below:
        by_part.setdefault(item.path[1], []).append(replace(item, path=item.path[1:]))
    for part, inner in by_part.items():
        if record is not None and part not in known and not record.open:
            names = [dotted((items[0].path[0], name)) for name in known]
            raise UnknownName("key", dotted((items[0].path[0], part)), names, repr(inner[0].source))
        whole[part] = typed(part, inner, known.get(part, Any), whole.get(part))
    return {record.aliases.get(name, name): value for name, value in whole.items()} if record is not None else whole


def _record(annotation: object) -> Record | None:
    """Return the one class with named fields that an annotation means, also where it may be None."""
    found = [Record.of(one) for one in (annotation, *get_args(annotation))]
    records = [one for one in found if one is not None]
    return records[0] if len(records) == 1 else None
