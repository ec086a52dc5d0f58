"""Resolution: one invocation's layers, built in their order, and the frozen config they come to."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, final

from sweep.config import adict as adict_module
from sweep.config.adict import ADict, Path, disown, dotted, leaves, seal, snapshot, unread
from sweep.config.commandline import Assignment, Explicit, range_hint
from sweep.config.layers import REMOVED, Layer, Mark
from sweep.config.schema import Schema
from sweep.config.views import Plan, SuspendedView, View
from sweep.errors import ConfigError, UnknownName, did_you_mean, near_miss

__all__ = ["Resolution", "resolve"]

_OURS = vars(adict_module)  # frames of ADict's own methods are not the place of a write
_BELOW = ("schema", "default", "view", "lazy")  # the layers below the explicit ones
_PLAIN = frozenset({int, float, str, bool, type(None), bytes, complex})


@final
@dataclass(frozen=True, slots=True)
class Resolution:
    """One resolved config: its value, and the layers it came from.

    Attributes:
        name: Name of the scope.
        value: The frozen config: an ADict, or the schema's model.
        layers: The layers in their order.
    """

    name: str
    value: object
    layers: Sequence[Layer]

    def layers_as_data(self) -> list[dict[str, object]]:
        """Return the layers as plain JSON data."""
        return [layer.as_data() for layer in self.layers]

    def unread(self) -> list[str]:
        """Return the keys that were set but not read so far.

        Raises:
            ConfigError: The config is a model; reads of a model are not seen.
        """
        if not isinstance(self.value, ADict):
            raise ConfigError("what was read is known of an ADict only; this config is a pydantic model")
        return [dotted(path) for path in unread(self.value)]


def resolve(
    name: str,
    schema: Schema | None,
    strict: bool,
    views: Mapping[str, View],
    plan: Plan,
    flag_defaults: Mapping[str, object],
    explicit: Sequence[Explicit],
) -> Resolution:
    """Build the layers and the config. Nothing outside changes; on an error there is no config.

    Args:
        name: Name of the scope.
        schema: Its schema, if it has one.
        strict: Whether every unknown key is an error.
        views: All views, for hints.
        plan: The views that apply.
        flag_defaults: Defaults of an argparse parser.
        explicit: Explicit values, the lowest source first.

    Raises:
        ConfigError: A wrong key or value, named with its place.
    """
    builder = _Builder(name, schema)
    waiting: list[tuple[View, SuspendedView]] = []
    try:
        if schema is not None:
            builder.set_defaults(schema.model.__qualname__, schema.model.__module__, "schema", schema.defaults())
        if flag_defaults:
            builder.set_defaults("argparse", "", "default", flag_defaults)
        for kind, group in (("default", plan.defaults), ("view", plan.selected)):
            for view in group:
                builder.run(Layer(kind, view.name, view.where), view, waiting)
        for source in explicit:
            builder.set_explicit(source)
        while waiting:
            view, suspended = waiting[0]
            builder.call(view, suspended.resume)
            waiting.pop(0)
        for view in plan.lazy:
            builder.run(Layer("lazy", view.name, view.where), view, [])
    finally:
        for _, suspended in waiting:
            suspended.abandon()
    if schema is None:  # else every key has been checked when it was set
        _check_keys(builder, views, strict)
    _warn_of_unset(builder)
    order = {kind: index for index, kind in enumerate(_BELOW)}
    layers = sorted(builder.layers, key=lambda layer: order.get(layer.kind, len(order)))
    return Resolution(name, _frozen(builder, views), layers)


class _Builder:
    """Owns the config while it is built: every write becomes part of the current layer."""

    def __init__(self, name: str, schema: Schema | None) -> None:
        self.name, self.schema = name, schema
        self.layers: list[Layer] = []
        self.layer: Layer | None = None
        self.source: str | None = None  # the place of an explicit value; views' places are read off the stack
        self.explicit: dict[Path, Assignment] = {}
        self.protected: set[Path] = set()  # groups that hold explicit values
        self.loans: dict[Path, tuple[ADict, object, object, object]] = {}
        self.asked: dict[Path, View] = {}  # read by a view while nothing had set it
        self.root = ADict.auto()
        self.root._adict.owned(self, (), True)

    # -- layers ---------------------------------------------------------------------------------

    def begin(self, layer: Layer) -> None:
        layer.scope = self.name
        if all(layer is not other for other in self.layers):
            self.layers.append(layer)
        self.layer = layer

    def end(self) -> None:
        """Settle what was changed in place, and let nothing more be set."""
        for path, (node, key, value, before) in self.loans.items():
            if dict.get(node, key) is value and _changed(value, before) and self.layer is not None:
                if self.layer.kind == "lazy" and path in self.explicit:
                    self.layer.lost.add(path)
                    dict.__setitem__(node, key, before)
                self.layer.writes[path] = (snapshot(value), None)
        self.loans.clear()
        self.layer = None

    def run(self, layer: Layer, view: View, waiting: list[tuple[View, SuspendedView]]) -> None:
        self.begin(layer)
        if view.has_lazy_block:
            late = Layer("lazy", view.name, view.where)
            suspended = SuspendedView(lambda: view.call(self.root), lambda: self.begin(late), self.end)
            self.call(view, suspended.start)
            if not suspended.done:
                waiting.append((view, suspended))
        else:
            self.call(view, lambda: view.call(self.root))
        self.end()

    def call(self, view: View, body: Callable[[], object]) -> None:
        """Run a view, or a part of one: remember what it read unset, and say so if it fails."""
        try:
            body()
        except BaseException as error:
            names = ", ".join(map(dotted, _placeholders(self.root)))
            said = f"; nothing has set what it read: {names}" if names else ""
            error.add_note(f"in view {view.name!r} ({view.where}){said}")
            raise
        finally:
            for path in _placeholders(self.root):
                self.asked.setdefault(path, view)

    def set_defaults(self, name: str, where: str, kind: str, values: Mapping[str, object]) -> None:
        self.begin(Layer(kind, name, where))
        self.source = where
        for key, value in values.items():
            self.root[key] = value
        self.source = None
        self.end()

    def set_explicit(self, source: Explicit) -> None:
        self.begin(Layer(source.kind, source.name, source.name))
        wrong: list[ConfigError] = []
        for item in source.items:
            try:
                self.put_all(item)
            except ConfigError as error:
                wrong.append(error)
        if wrong:
            raise wrong[0] if len(wrong) == 1 else ConfigError("\n".join(map(str, wrong)))
        self.end()

    def put_all(self, item: Assignment) -> None:
        """Set an explicit value, a mapping's each by itself."""
        if item.problem and self.schema is None and not isinstance(self.peek(item.path), str):
            raise ConfigError(f"{item.source!r}: {item.problem}")
        if isinstance(item.value, Mapping) and item.value:
            for path, value in leaves(item.value):
                self.put(Assignment((*item.path, *path), value, None, item.source))
        else:
            self.put(item)

    def put(self, item: Assignment) -> None:
        """Set one explicit value in the type that is known of it."""
        known = self.peek(item.path)
        if isinstance(known, ADict) and known and item.value is not None and item.value != {}:
            raise ConfigError(
                f"{item.source!r}: {dotted(item.path)!r} is a group ({', '.join(map(str, known.keys()))}), "
                f"not one value; write {dotted(item.path)}.{next(iter(known))}=…"
            )
        node = self.group_for(item)
        if self.schema is not None:
            value = self.schema.coerce(item)
        else:
            value = item.value if item.typed else _coerced(item, known)
        if isinstance(known, ADict) and value == {}:
            return
        self.source = item.source
        node[item.path[-1]] = value
        self.source = None
        self.explicit[item.path] = item
        self.protected.update(item.path[:depth] for depth in range(1, len(item.path)))

    def group_for(self, item: Assignment) -> ADict:
        """Return the group that is to hold an explicit value; None gives way to one."""
        node = self.root
        for depth, key in enumerate(item.path[:-1], 1):
            inner = dict.get(node, key)
            if inner is not None and not isinstance(inner, ADict):
                if self.schema is not None:
                    self.schema.field(item.path, item.source)  # words it better, if it knows
                raise ConfigError(
                    f"{item.source!r}: {dotted(item.path[:depth])!r} is {inner!r} "
                    f"({self.place(item.path[:depth])}), no group that could hold {dotted(item.path)!r}"
                )
            if inner is None:
                if key in node:
                    del node[key]
                inner = node.__missing__(key)
            node = inner
        return node

    def peek(self, path: Path) -> Any:
        """Return the present value at ``path`` without making or noting anything; REMOVED if there is none."""
        node: object = self.root
        for key in path:
            if not isinstance(node, ADict) or key not in node:
                return REMOVED
            node = dict.get(node, key)
        return node

    def place(self, path: Path) -> str:
        """Say which layer set ``path``, or something in it."""
        for layer in reversed(self.layers):
            for written in layer.writes:
                if written[: len(path)] == path or path[: len(written)] == written:
                    return " ".join(dict.fromkeys((f"set by {layer.kind}", layer.name, layer.place(written))))
        return ""

    # -- the owner of the config (adict.Owner) --------------------------------------------------

    def wrote(self, node: ADict, key: object, value: object) -> bool:
        layer = self.layer
        if layer is None:
            raise ConfigError(
                f"{dotted((*node._adict.path, key))!r} is set after a Scope.lazy() block (or outside the views); "
                "set it above the block, or inside"
            )
        path = (*node._adict.path, key)
        mark: Mark = self.source
        if mark is None:
            frame = sys._getframe(2)  # wrote, __setitem__, then perhaps more of ADict's methods
            while frame.f_globals is _OURS and frame.f_back is not None:
                frame = frame.f_back
            mark = (frame.f_code, frame.f_lasti)
        old = dict.get(node, key)
        if type(value) in _PLAIN and type(old) is not ADict:
            layer.writes[path] = (value, mark)
            if layer.kind == "lazy" and path in self.explicit:
                layer.lost.add(path)
                return False
            return True
        old = dict.get(node, key, REMOVED)
        return self.replaced(layer, node, path, old, value, mark)

    def replaced(self, layer: Layer, node: ADict, path: Path, old: object, value: object, mark: Mark) -> bool:
        """Note a write that is a group, replaces one, or is a value that could be changed in place."""
        new = dict(leaves(value, path)) if isinstance(value, Mapping) and value else {path: value}
        gone = [inner for inner in _leaf_paths(old, path) if inner not in new]
        if layer.kind == "lazy" and (path in self.explicit or path in self.protected):
            if path not in self.explicit and isinstance(value, Mapping):
                self.drop_leaves(layer, gone, mark)
            for inner, item in new.items():
                self.yield_leaf(layer, inner, item, mark, lost=path in self.explicit)
            return False
        if old is not REMOVED:
            layer.writes.update({inner: (REMOVED, mark) for inner in gone})
        if isinstance(old, ADict):
            disown(old)
        layer.writes.update({inner: (snapshot(item), mark) for inner, item in new.items()})
        return True

    def drop_leaves(self, layer: Layer, paths: Sequence[Path], mark: Mark) -> None:
        for path in paths:
            layer.writes[path] = (REMOVED, mark)
            if path in self.explicit:
                layer.lost.add(path)
            else:
                dict.__delitem__(self.peek(path[:-1]), path[-1])

    def yield_leaf(self, layer: Layer, path: Path, value: object, mark: Mark, *, lost: bool) -> None:
        """Set one value of a lazy view's group, unless it is ``lost`` or an explicit value stands there."""
        layer.writes[path] = (snapshot(value), mark)
        if lost or path in self.explicit or path in self.protected:
            layer.lost.add(path)
            return
        node = self.root
        for key in path[:-1]:
            inner = dict.get(node, key)
            node = inner if isinstance(inner, ADict) else node.__missing__(key)
        layer, self.layer = layer, Layer("lazy", "", "")
        node[path[-1]] = value  # noted already by the write it is part of
        self.layer = layer

    def removed(self, node: ADict, key: object) -> bool:
        path = (*node._adict.path, key)
        layer = self.layer
        if layer is None:
            raise ConfigError(f"{dotted(path)!r} is removed after a Scope.lazy() block; remove it above the block")
        kept = layer.kind == "lazy" and (path in self.explicit or path in self.protected)
        gone = _leaf_paths(dict.get(node, key), path)
        layer.writes.update({inner: (REMOVED, self.source) for inner in gone})
        layer.lost.update(gone if kept else ())
        return not kept

    def lent(self, node: ADict, key: object, value: object) -> None:
        path = (*node._adict.path, key)
        if path not in self.loans:
            self.loans[path] = (node, key, value, snapshot(value))

    def missing(self, path: Path) -> str:
        return f"no key {dotted(path)!r} in {self.name}"


# ---------------------------------------------------------------- the end


def _check_keys(builder: _Builder, views: Mapping[str, View], strict: bool) -> None:
    """Compare explicit keys with those that views know; retype what a lazy view knows."""
    known = {path for layer in builder.layers if layer.kind in ("default", "view", "lazy") for path in layer.writes}
    groups = {path[:depth] for path in known for depth in range(1, len(path) + 1)}
    for path, item in builder.explicit.items():
        if path in known:
            _retype(builder, path, item)
        elif path not in groups and not any(path[:depth] in known for depth in range(1, len(path))):
            _unknown(builder.name, path, item, groups, views, strict)


def _retype(builder: _Builder, path: Path, item: Assignment) -> None:
    for layer in builder.layers:
        if layer.kind == "lazy" and path in layer.lost and layer.writes[path][0] is not REMOVED:
            value = _coerced(item, layer.writes[path][0])
            builder.source, builder.layer = item.source, Layer("file", "", "")
            builder.peek(path[:-1])[path[-1]] = value
            builder.source, builder.layer = None, None
            top = [one for one in builder.layers if one.kind not in _BELOW and path in one.writes][-1]
            top.writes[path] = (value, top.writes[path][1])


def _unknown(
    name: str, path: Path, item: Assignment, groups: set[Path], views: Mapping[str, View], strict: bool
) -> None:
    depth = next(depth for depth in range(1, len(path) + 1) if path[:depth] not in groups)
    siblings = [str(other[-1]) for other in groups if len(other) == depth and other[:-1] == path[: depth - 1]]
    key, here, rest = dotted(path), str(path[depth - 1]), path[depth:]
    if strict or near_miss(here, siblings) is not None:
        known = [dotted((*path[: depth - 1], other, *rest)) for other in siblings]
        raise UnknownName("key", key, known, item.source)
    elsewhere = [dotted(other) for other in groups if other[-1] == path[-1]]
    hint = f"; there is {elsewhere[0]!r}" if elsewhere else _hint(key, views)
    _warn(
        f"{item.source!r}: no view of {name!r} knows {key!r}{hint}; it is set all the same "
        "(strict=True makes this an error)"
    )


def _warn_of_unset(builder: _Builder) -> None:
    """Say which key a view has read under a wrong name."""
    for path, view in builder.asked.items():
        node = builder.peek(path[:-1])
        meant = near_miss(str(path[-1]), [str(key) for key in node]) if isinstance(node, ADict) else None
        if meant is not None and builder.peek(path) is REMOVED:
            _warn(
                f"view {view.name!r} ({view.where}) read {dotted(path)!r}, which nothing has set; "
                f"did you mean {dotted((*path[:-1], meant))!r}?"
            )


def _frozen(builder: _Builder, views: Mapping[str, View]) -> object:
    """Return the finished config: the sealed ADict, or the schema's model."""
    if builder.schema is None:
        seal(builder.root, _Words(builder.name, builder.root, views))
        return builder.root
    written = [path for layer in builder.layers if layer.kind != "schema" for path in layer.writes]
    touched = {path[0] for path in written}
    values = {key: value for key, value in builder.root.to_dict().items() if key in touched}
    return builder.schema.build(values, builder.place)


def _leaf_paths(value: object, path: Path) -> list[Path]:
    """Return the paths of the leaves of what stands at ``path``."""
    return [inner for inner, _ in leaves(value, path)] if isinstance(value, ADict) and value else [path]


def _placeholders(node: ADict) -> Iterator[Path]:
    for child in (node._adict.pending or {}).values():
        inner = list(_placeholders(child))
        yield from inner or [child._adict.path]
    for value in dict.values(node):
        if isinstance(value, ADict):
            yield from _placeholders(value)


class _Words:
    """Owner of the finished config: says what is known of a key that is not there."""

    def __init__(self, name: str, root: ADict, views: Mapping[str, View]) -> None:
        self.name, self.root, self.views = name, root, views

    def missing(self, path: Path) -> str:
        key = dotted(path)
        node: Any = self.root
        for step in path[:-1]:
            node = dict.get(node, step)
        siblings = [dotted((*path[:-1], other)) for other in node] if isinstance(node, ADict) else []
        hint = _hint(key, self.views) or did_you_mean(key, siblings)
        return f"no key {key!r} in {self.name}{hint}"

    def wrote(self, node: ADict, key: object, value: object) -> bool:
        return False

    def removed(self, node: ADict, key: object) -> bool:
        return False

    def lent(self, node: ADict, key: object, value: object) -> None:
        pass


def _hint(key: str, views: Mapping[str, View]) -> str:
    """Return the view that would set ``key``, as a remedy."""
    for view in views.values():
        line = view.sets().get(key)
        if line is not None and not view.default:
            file = view.where.rpartition(":")[0]
            return (
                f"; view {view.name!r} sets it ({file}:{line}): name it on the command line, or observe(default=True)"
            )
    return ""


def _warn(message: str) -> None:
    """Warn, naming the first line outside this package."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).startswith("sweep.config."):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, UserWarning, stacklevel=level)


def _changed(value: Any, before: Any) -> bool:
    """Whether a container was changed in place; values of unknown types count by identity."""
    if type(value) is not type(before):
        return True
    if isinstance(value, list | tuple):
        return len(value) != len(before) or any(map(_changed, value, before))
    if isinstance(value, ADict):
        return value.keys() != before.keys() or any(_changed(dict.get(value, key), before[key]) for key in before)
    return value is not before and not (type(value) in (*_PLAIN, set) and value == before)


@dataclass(frozen=True, slots=True)
class _Rule:
    """How a known value types an explicit one; null stays null."""

    words: str  # what it is
    fits: Callable[[Any], bool]
    convert: Callable[[Any], object]

    def takes(self, value: object) -> bool:
        return value is None or self.fits(value)

    def typed(self, value: object) -> object:
        return None if value is None else self.convert(value)


_ANYTHING = _Rule("anything", lambda value: True, lambda value: value)


def _rule_of(known: object) -> _Rule:
    """Return the rule of a known value."""
    match known:
        case str():
            return _Rule("text", lambda value: isinstance(value, str), lambda value: value)
        case bool():
            return _Rule("true or false", lambda value: value in (0, 1), bool)
        case float():
            return _Rule("a number", _is_number, float)
        case int():  # 1e3 is 1000; 0.5 over a 0 is meant
            return _Rule("a number", _is_number, lambda value: int(value) if value % 1 == 0 else value)
        case list() | tuple():
            item, kind = _rule_of_items(known), type(known)
            return _Rule(
                "a list",
                lambda value: isinstance(value, list | tuple) and all(map(item.takes, value)),
                lambda value: kind(map(item.typed, value)),
            )
        case PurePath():
            return _Rule("a path", lambda value: isinstance(value, str), type(known))
    return _ANYTHING


def _rule_of_items(known: Sequence[object]) -> _Rule:
    """Return the rule for each item of a list of numbers, or of truths; one fraction among them makes all fractions."""
    kinds = {type(one) for one in known}
    if kinds == {int, float}:
        return _rule_of(0.0)
    return _rule_of(known[0]) if len(kinds) == 1 and kinds <= {bool, int, float} else _ANYTHING


def _is_number(value: object) -> bool:
    return type(value) in (int, float)


def _coerced(item: Assignment, known: object) -> object:
    """Return an explicit value in the type of the value it overrides.

    Raises:
        ConfigError: It cannot be of that type.
    """
    value, rule = item.value, _rule_of(known)
    if isinstance(known, str) and item.text is not None and value is not None:
        return value if isinstance(value, str) else item.text  # where text stands, all that is written is text
    if rule.takes(value):
        return rule.typed(value)
    shown = item.text if item.text is not None else repr(value)
    raise ConfigError(f"{item.source!r}: {dotted(item.path)!r} is {rule.words} ({known!r}), got {shown}{range_hint(shown)}")
