"""ADict: a dict with attribute access, auto-nesting, freezing and a memory of what was read.

Files and composition are functions of :mod:`sweep.config.files` and :mod:`sweep.config.compose`;
the methods here that name them only wrap their plain result.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from functools import partial
from os import PathLike
from typing import Any, NoReturn, Protocol, Self, SupportsIndex, cast, final

from sweep.config import files
from sweep.config.files import Data, Items
from sweep.errors import ConfigError, did_you_mean

__all__ = ["ADict", "Owner", "Path", "disown", "dotted", "leaves", "seal", "snapshot", "structural_hash", "unread"]

Path = tuple[Any, ...]
Pairs = Items | Iterable[tuple[Any, object]]

_SCALARS = frozenset({int, float, str, bool, type(None), bytes, complex})
_LENT = frozenset({list, set})  # what a reader could change in place
_ABSENT: object = object()
_get, _set = dict.get, dict.__setitem__


def dotted(path: Iterable[object]) -> str:
    """Write a path of keys as text; a key that itself contains a dot or is no text is quoted.

    Example:
        >>> dotted(("model", "lr")), dotted(("a.b", 0))
        ('model.lr', '["a.b"][0]')
    """
    text = ""
    for key in path:
        if isinstance(key, str) and key and "." not in key and "[" not in key:
            text += f".{key}" if text else key
        else:
            text += f"[{json.dumps(key) if isinstance(key, str) else repr(key)}]"
    return text


class Owner(Protocol):
    """Who is told of what happens to an ADict: the resolution that builds it, or the result's scope."""

    def wrote(self, node: ADict, key: object, value: object) -> bool:
        """Note a write; False: it is not to be carried out (or already is)."""

    def removed(self, node: ADict, key: object) -> bool:
        """Note a removal; False: it is not to be carried out."""

    def lent(self, node: ADict, key: object, value: object) -> None:
        """Note that a value which can be changed in place was handed out."""

    def missing(self, path: Path) -> str:
        """Return what to say about a key that is not there."""


class _State:
    """What an ADict knows besides its items; one slot, so that one name is taken from the keys."""

    __slots__ = ("auto", "frozen", "home", "owner", "path", "pending", "plain", "reads", "watched")

    def __init__(self, auto: bool) -> None:
        self.auto = auto
        self.frozen = False
        self.plain = True  # neither frozen nor owned nor a placeholder: writes need no ceremony
        self.home: ADict | None = None  # the parent that a placeholder joins when it is written
        self.owner: Owner | None = None
        self.path: Path = ()
        self.pending: dict[object, ADict] | None = None  # placeholders handed out, by key
        self.reads: set[object] = set()
        self.watched = False  # the owner wants to know which values are handed out

    def owned(self, owner: Owner | None, path: Path, auto: bool) -> None:
        """Belong to an owner from now on, at ``path`` of its tree."""
        self.owner, self.path, self.auto = owner, path, auto
        self.watched = owner is not None
        self.plain = owner is None and self.home is None


class _FrozenList(list[object]):
    """A list that cannot be changed (it stays a list for ``isinstance``, JSON and arrays)."""

    __slots__ = ()

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise ConfigError("this list belongs to a frozen config; build a new one: [*values, more], or cfg.copy()")

    __setitem__ = __delitem__ = __iadd__ = __imul__ = _refuse
    append = extend = insert = pop = remove = clear = sort = reverse = _refuse

    def __deepcopy__(self, memo: dict[int, object]) -> list[object]:
        return [deepcopy(item, memo) for item in self]

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple[object, ...]:
        return (_FrozenList, (list(self),))


class _Guarded(Data):
    """Storage: every write passes the guard (freezing, placeholders, the owner), every read is remembered."""

    __slots__ = ("_adict",)
    _adict: _State

    def __new__(cls, *_: object, **__: object) -> Self:
        node = super().__new__(cls)
        object.__setattr__(node, "_adict", _State(False))
        return node

    def __missing__(self, key: object) -> ADict:
        state = self._adict
        if not state.auto or state.frozen:
            raise KeyError(self._absent(key))
        if state.pending is None:
            state.pending = {}
        child = state.pending.get(key)
        if child is None:
            child = state.pending[key] = _blank(True)
            inner = child._adict
            inner.home = cast(ADict, self)
            inner.owned(state.owner, (*state.path, key), True)
        return child

    def _absent(self, key: object) -> str:
        state = self._adict
        if state.owner is not None:
            return state.owner.missing((*state.path, key))
        here = dotted(state.path) or "config"
        return f"no key {key!r} in {here}{did_you_mean(str(key), (str(name) for name in self.keys()))}"

    def __getitem__(self, key: object) -> Any:
        value = _get(self, key, _ABSENT)
        if value is _ABSENT:
            return self.__missing__(key)
        state = self._adict
        state.reads.add(key)
        if state.watched and type(value) in _LENT and state.owner is not None:
            state.owner.lent(cast(ADict, self), key, value)
        return value

    def __setitem__(self, key: object, value: object) -> None:
        state = self._adict
        if not state.plain:
            if state.frozen:
                self._refuse(key)
            if state.home is not None:
                self._join()
            if state.owner is not None and not state.owner.wrote(cast(ADict, self), key, value):
                return
        if type(value) not in _SCALARS:
            value = _adopt(value, state, key)
        if state.pending:
            state.pending.pop(key, None)
        _set(self, key, value)

    def __delitem__(self, key: object) -> None:
        state = self._adict
        if state.frozen:
            self._refuse(key)
        if key not in self:
            raise KeyError(self._absent(key))
        if state.owner is None or state.owner.removed(cast(ADict, self), key):
            super().__delitem__(key)

    def _refuse(self, key: object) -> NoReturn:
        where = dotted((*self._adict.path, key))
        raise ConfigError(f"{where!r} cannot be changed: the config is frozen; change a copy: cfg.copy()")

    def _join(self) -> None:
        """Make a placeholder real: it becomes an item of the parent that handed it out."""
        state = self._adict
        home, key = state.home, state.path[-1]
        if home is None:
            return
        if key in home:
            raise ConfigError(
                f"{dotted(state.path)!r} has been set since this (empty) part of the config was read; read it again"
            )
        outer = home._adict
        if outer.frozen:
            home._refuse(key)
        if outer.home is not None:
            home._join()
        state.home = None
        state.plain = state.owner is None
        dict.__setitem__(home, key, self)
        if outer.pending:
            outer.pending.pop(key, None)

    def __iter__(self) -> Iterator[object]:  # defined, so that ** and dict() read through __getitem__ and are seen
        return super().__iter__()

    def get(self, key: object, default: object = None) -> Any:
        """Return the value of ``key``, or ``default``; never makes a placeholder."""
        return self[key] if key in self else default  # noqa: SIM401  # get is what is being defined

    def items(self) -> Any:
        """Return the items; all of them count as read."""
        self._adict.reads.update(dict.keys(self))
        return super().items()

    def values(self) -> Any:
        """Return the values; all of them count as read."""
        self._adict.reads.update(dict.keys(self))
        return super().values()

    def setdefault(self, key: object, default: object = None) -> Any:
        """Return the value of ``key``, setting it to ``default`` first where it is absent."""
        if key not in self:
            self[key] = default
        return self[key]

    def pop(self, key: object, *default: object) -> Any:
        """Remove ``key`` and return its value."""
        if key not in self and default:
            return default[0]
        value = super().get(key)
        del self[key]
        return value

    def popitem(self) -> tuple[Any, Any]:
        """Remove and return the last item."""
        if not self:
            raise KeyError("the config is empty")
        key = next(reversed(self))
        return key, self.pop(key)

    def clear(self) -> None:
        """Remove everything."""
        for key in list(dict.keys(self)):
            del self[key]

    def update(self, other: Any = (), /, **values: object) -> None:
        """Set every given key; a mapping replaces a mapping (``merge`` joins them)."""
        for key, value in _pairs(other, values):
            self[key] = value

    def __ior__(self, other: Any) -> Any:
        self.update(other)
        return self

    def __or__(self, other: Any) -> Any:
        if not isinstance(other, Mapping):
            return NotImplemented
        joined = cast(ADict, self).copy()
        joined.update(other)
        return joined

    def __ror__(self, other: Any) -> Any:
        return ADict(other) | self if isinstance(other, Mapping) else NotImplemented


@final
class ADict(_Guarded):
    """A dict whose items are attributes too, at any depth.

    Args:
        mapping: First items; nested mappings become ADicts.
        **values: More items.

    Reading a key that is not there raises ``KeyError`` / ``AttributeError`` with near misses, except
    in an ``ADict.auto()``, where it gives an empty placeholder that joins the config only once
    something is written through it. A key named like a method is reached as an item: ``cfg["items"]``.

    Example:
        >>> config = ADict(lr=0.1, model={"depth": 50})
        >>> config.model.depth
        50
        >>> auto = ADict.auto()
        >>> auto.model.backbone.layers = [64, 128]
        >>> auto
        ADict({'model': {'backbone': {'layers': [64, 128]}}})
    """

    __slots__ = ()

    def __init__(self, mapping: Pairs = (), /, **values: object) -> None:
        super().__init__()
        for key, value in _pairs(mapping, values):
            self[key] = value

    @classmethod
    def auto(cls) -> ADict:
        """Return an empty ADict in which parts come into being as they are written."""
        return _blank(True)

    def __getattr__(self, name: str) -> Any:
        value = _get(self, name, _ABSENT)
        state = self._adict
        if value is _ABSENT:
            if not state.auto or state.frozen or name[:1] == "_" == name[-1:]:
                raise AttributeError(self._absent(name))
            return self.__missing__(name)
        state.reads.add(name)  # as in __getitem__: the path of every cfg.key, kept short
        if state.watched and type(value) in _LENT and state.owner is not None:
            state.owner.lent(self, name, value)
        return value

    def __setattr__(self, name: str, value: object) -> None:
        if name in _METHODS:
            raise AttributeError(f"{name!r} is a method of ADict; write it as an item: cfg[{name!r}] = …")
        self[name] = value

    def __delattr__(self, name: str) -> None:
        if name not in self:
            raise AttributeError(self._absent(name))
        del self[name]

    def __repr__(self) -> str:
        return f"ADict({self.to_dict()!r})"

    @property
    def frozen(self) -> bool:
        """Whether writing raises."""
        return self._adict.frozen

    def freeze(self) -> ADict:
        """Make this config and all its parts raise ``ConfigError`` on every change; return it.

        Lists stay lists (that raise), sets become frozensets.
        """
        state = self._adict
        state.frozen, state.plain, state.watched, state.pending = True, False, False, None
        for key, value in dict.items(self):
            dict.__setitem__(self, key, _frozen(value))
        return self

    def copy(self) -> ADict:
        """Return a copy that can be changed; nested ADicts and lists are copied, other values shared."""
        return cast(ADict, _mapped(self, partial(_holding, auto=self._adict.auto), _itself))

    __copy__ = copy

    def __deepcopy__(self, memo: dict[int, object]) -> ADict:
        copied = _mapped(self, partial(_holding, auto=self._adict.auto), lambda value: deepcopy(value, memo))
        return cast(ADict, copied)

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple[object, ...]:
        return (_holding, (dict(dict.items(self)), self._adict.auto, self._adict.frozen))

    def merge(self, mapping: Items, /) -> ADict:
        """Set every leaf of ``mapping``: mappings are joined at any depth; return this config."""
        for key, value in mapping.items():
            old = dict.get(self, key)
            if isinstance(value, Mapping) and isinstance(old, ADict) and value:
                old.merge(value)
            else:
                self[key] = value
        return self

    def update_if_absent(self, mapping: Pairs = (), /, **values: object) -> ADict:
        """Set only what is not there yet, at any depth; return this config.

        Example:
            >>> ADict(lr=0.1).update_if_absent(lr=0.01, scheduler="cosine")
            ADict({'lr': 0.1, 'scheduler': 'cosine'})
        """
        for key, value in _pairs(mapping, values):
            old = dict.get(self, key)
            if key not in self:
                self[key] = value
            elif isinstance(old, ADict) and isinstance(value, Mapping):
                old.update_if_absent(value)
        return self

    def to_dict(self) -> Data:
        """Return the same data as plain dicts, lists and tuples."""
        return cast(Data, _mapped(self, dict, _itself))

    def __sweep_encode__(self) -> dict[object, object]:
        """Return what a store keeps of it."""
        return self.to_dict()

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: object) -> Any:
        """Let a contract ``ADict`` accept any mapping."""
        from pydantic_core import core_schema

        def accept(value: object) -> ADict:
            if not isinstance(value, Mapping):
                raise ValueError("expected a mapping")
            return value if isinstance(value, cls) else cls(value)

        return core_schema.no_info_plain_validator_function(accept)

    def get_structural_hash(self) -> str:
        """Return :func:`structural_hash` of this config: keys and types count, values do not."""
        return structural_hash(self)

    def get_minimal_config(self) -> ADict:
        """Return what has been read so far, as a new config."""
        minimal = ADict()
        for key, value in dict.items(self):
            if key in self._adict.reads:
                minimal[key] = value.get_minimal_config() if isinstance(value, ADict) else value
        return minimal

    @classmethod
    def from_file(cls, path: str | PathLike[str]) -> ADict:
        """Read a ``.json``, ``.yaml``, ``.yml``, ``.toml`` or ``.xyz`` file.

        Raises:
            ConfigError: The file is missing, malformed, or does not hold a mapping.
        """
        return cls(files.read(path))

    def load(self, path: str | PathLike[str]) -> ADict:
        """Merge a file (see :meth:`from_file`) into this config; return it."""
        return self.merge(files.read(path))

    def dump(self, path: str | PathLike[str]) -> None:
        """Write this config; the suffix chooses the format, missing directories are made.

        Raises:
            ConfigError: A value that the format cannot hold (its key is named); nothing is written.
        """
        files.write(path, self.to_dict())

    def load_mm_config(self, path: str | PathLike[str], *, execute: bool = False) -> ADict:
        """Merge an OpenMMLab config with its ``_base_`` chain into this one; return it.

        Args:
            path: A Python file of assignments (or JSON, YAML).
            execute: Consent to *run* Python files that are more than assignments.
        """
        from sweep.config.mmconfig import read_mm_config

        return self.merge(read_mm_config(path, execute=execute))

    @classmethod
    def compose_hierarchy(
        cls,
        root: str | PathLike[str],
        config_filename: str = "config",
        select: Mapping[str, str | Sequence[str]] | None = None,
        overrides: Mapping[str, object] | None = None,
        required: Sequence[str] = (),
        on_missing: str = "error",
    ) -> ADict:
        """Compose a directory of config groups; see :func:`sweep.config.compose.compose_hierarchy`."""
        from sweep.config.compose import compose_hierarchy

        return cls(compose_hierarchy(root, config_filename, select, overrides, required, on_missing))


_METHODS = frozenset(name for name in dir(ADict) if not name.startswith("__"))


def structural_hash(mapping: Items) -> str:
    """Return a hash (40 hex digits) of a config's structure: its keys and the types of its values.

    Order and values do not count; a list counts as "list" whatever it holds. Empty, nested and
    dotted forms differ: ``{}``, ``{"a": {}}``, ``{"a.b": 1}`` and ``{"a": {"b": 1}}`` are four structures.

    Example:
        >>> structural_hash({"lr": 0.1}) == structural_hash({"lr": 0.5})
        True
        >>> structural_hash({"lr": 0.1}) == structural_hash({"lr": "0.1"})
        False
    """
    import hashlib

    text = json.dumps(_shape(mapping), separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:40]


def _shape(value: object) -> object:
    if isinstance(value, Mapping):
        pairs = dict.items(value) if isinstance(value, dict) else value.items()
        return sorted([type(key).__name__, str(key), _shape(inner)] for key, inner in pairs)
    kind: type = list if isinstance(value, _FrozenList) else type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _pairs(mapping: Pairs, values: Mapping[str, object]) -> Iterator[tuple[object, object]]:
    if isinstance(mapping, Mapping):
        yield from mapping.items()
    else:
        yield from mapping
    yield from values.items()


def _blank(auto: bool) -> ADict:
    node = ADict()
    node._adict.auto = auto
    return node


def _adopt(value: Any, state: _State, key: object) -> object:
    """Turn nested mappings into ADicts that belong to the same tree as ``state``."""
    if isinstance(value, Mapping):
        return _adopt_mapping(value, state, key)
    if type(value) in (list, tuple, _FrozenList):
        loose = _State(False)  # parts inside a list have no path of their own: the list is one value
        items = [item if type(item) in _SCALARS else _adopt(item, loose, index) for index, item in enumerate(value)]
        return tuple(items) if type(value) is tuple else items
    return value


def _adopt_mapping(value: Items, state: _State, key: object) -> ADict:
    child = value if isinstance(value, ADict) and _is_fresh(value) else _blank(state.auto)
    if child is not value:
        for name, item in dict.items(value) if isinstance(value, dict) else value.items():
            dict.__setitem__(child, name, item if type(item) in _SCALARS else _adopt(item, child._adict, name))
    if state.owner is not None or state.auto or state.path or child._adict.path:
        _settle(child, state.owner, (*state.path, key), state.auto)
    return child


def _is_fresh(value: ADict) -> bool:
    """Whether the very object may join: nobody else's, so that later writes through it still count."""
    inner = value._adict
    return inner.owner is None and not inner.frozen and inner.home is None and not inner.path


def _settle(node: ADict, owner: Owner | None, path: Path, auto: bool) -> None:
    node._adict.owned(owner, path, auto)
    for key, value in dict.items(node):
        if isinstance(value, ADict):
            _settle(value, owner, (*path, key), auto)


def _frozen(value: object) -> object:
    if isinstance(value, ADict):
        return value.freeze()
    if type(value) is list:
        return _FrozenList(_frozen(item) for item in value)
    if type(value) is tuple:
        return tuple(_frozen(item) for item in value)
    return frozenset(value) if type(value) is set else value


def seal(node: ADict, owner: Owner) -> None:
    """Freeze a built config for good: nothing comes into being by reading, ``owner`` words what is missing."""
    state = node._adict
    state.auto, state.owner, state.reads = False, owner, set()
    for value in dict.values(node):
        if isinstance(value, ADict):
            seal(value, owner)
    node.freeze()


def unread(node: ADict) -> list[Path]:
    """Return the paths of all leaves that have not been read."""
    found: list[Path] = []
    for key, value in dict.items(node):
        seen = key in node._adict.reads
        if isinstance(value, ADict) and value:
            found += [(key, *path) for path in (unread(value) if seen else (path for path, _ in leaves(value)))]
        elif not seen:
            found.append((key,))
    return found


def leaves(mapping: Items, path: Path = ()) -> Iterator[tuple[Path, object]]:
    """Yield path and value of every leaf; an empty mapping is a leaf. Nothing counts as read."""
    for key, value in dict.items(mapping) if isinstance(mapping, dict) else mapping.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key), value


def snapshot(value: object) -> object:
    """Return a copy of nested containers that later changes in place do not reach; other values are shared."""
    return set(value) if type(value) is set else _mapped(value, _holding, _itself)


def disown(node: ADict) -> None:
    """Cut a part that has been replaced loose from the tree it was in."""
    _settle(node, None, (), node._adict.auto)


def _mapped(value: Any, group: Callable[[dict[Any, object]], object], leaf: Callable[[Any], object]) -> Any:
    """Return nested containers anew: each ADict as ``group`` makes it, each value that is no scalar as ``leaf`` does."""
    if isinstance(value, ADict):
        return group({key: _mapped(item, group, leaf) for key, item in dict.items(value)})
    if type(value) in (list, _FrozenList):
        return [_mapped(item, group, leaf) for item in value]
    if type(value) is tuple:
        return tuple(_mapped(item, group, leaf) for item in value)
    return value if type(value) in _SCALARS else leaf(value)


def _itself(value: object) -> object:
    return value


def _holding(data: Data, auto: bool = False, frozen: bool = False) -> ADict:
    """Return an ADict with these items as they are."""
    node = _blank(auto)
    dict.update(node, data)
    return node.freeze() if frozen else node
