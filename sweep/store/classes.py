"""Which classes stored data may become, and how an instance is made of it.

The rule that keeps a stranger's store from running code:

1. A class that the contract (the *expected annotation*) names, or an already
   imported subclass of one, is made as its author meant it: a pydantic model by
   validation, a dataclass by its constructor.
2. Any other class is looked up among the modules *already imported*, never
   imported, and its instance is filled without calling anything of it: no
   validator, no ``__init__``, no ``__post_init__``. A class with ``__del__`` is
   refused there, because that would run later.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import sys
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, final

from sweep.errors import StoreCorrupt

__all__ = [
    "BUILTINS",
    "Classes",
    "class_path",
    "is_model",
    "is_namedtuple",
    "make_dataclass",
    "make_enum",
    "make_model",
    "make_namedtuple",
    "other_attributes",
    "remedy",
    "subclasses",
]

BUILTINS = (dict, list, tuple, set, frozenset, str, bytes, int, float, BaseException)
"""Types whose subclasses hold data of their own beside any attributes."""

_SCRIPTS = frozenset({"__main__", "__mp_main__"})


def class_path(kind: type) -> str:
    """Return the name under which a class is stored.

    Example:
        >>> import decimal
        >>> class_path(decimal.Decimal)
        'decimal:Decimal'
    """
    # pydantic puts Box[int] into the module that wrote it first; Box's own module stays the same.
    generic = vars(kind).get("__pydantic_generic_metadata__") or {}
    return f"{(generic.get('origin') or kind).__module__}:{kind.__qualname__}"


def is_model(kind: type) -> bool:
    """Tell whether ``kind`` is a pydantic model; does not import pydantic."""
    pydantic = sys.modules.get("pydantic.main")
    return pydantic is not None and issubclass(kind, pydantic.BaseModel)


def is_namedtuple(kind: type) -> bool:
    """Tell whether ``kind`` was made by ``NamedTuple`` or ``namedtuple``."""
    names = getattr(kind, "_fields", None)
    return issubclass(kind, tuple) and isinstance(names, tuple) and all(isinstance(name, str) for name in names)


@final
class Classes:
    """The classes that a contract names. Build it once for a contract and pass it as ``expected``.

    Args:
        annotations: Types, as in a contract; whatever they contain is found
            (unions, generics, ``Annotated``, fields of models and dataclasses …).

    Example:
        >>> import dataclasses
        >>> @dataclasses.dataclass
        ... class Point:
        ...     x: int
        >>> Classes(dict[str, Point | None]).find(class_path(Point)) is Point
        True
    """

    def __init__(self, *annotations: object) -> None:
        self._named: dict[str, type] = {}
        for kind in _classes_in(annotations):
            self._named.setdefault(class_path(kind), kind)
        self._trusted = set(self._named.values())
        self._found: dict[str, type] = dict(self._named)

    def find(self, path: str) -> type:
        """Return the class stored as ``path``.

        Raises:
            StoreCorrupt: It is neither named by the contract nor imported.
        """
        found = self._found.get(path) or self._subclass(path) or self._main(path) or _imported(path)
        if found is None:
            module, _, name = path.partition(":")
            raise StoreCorrupt(
                f"a stored value is of class {name!r} of module {module!r}, which is not to be found here; "
                f"import {module!r} before loading, or name the class in the contract"
            )
        self._found[path] = found
        return found

    def trusts(self, kind: type) -> bool:
        """Tell whether the contract names ``kind`` or a base of it, so that its own code may run."""
        return not self._trusted.isdisjoint(kind.__mro__)

    def _subclass(self, path: str) -> type | None:
        """Return the latest subclass of that path (a notebook cell run again makes another)."""
        found = None
        for kind in subclasses(self._named.values()):
            if class_path(kind) == path:
                found = kind
        return found

    def _main(self, path: str) -> type | None:
        """Find a class of a script that is now imported under its name, or the other way round."""
        module, _, name = path.partition(":")
        same = [kind for kind in self._named.values() if kind.__qualname__ == name]
        scripts = [kind for kind in same if module in _SCRIPTS or kind.__module__ in _SCRIPTS]
        return scripts[0] if len(scripts) == 1 else None


def make_enum(kind: type, member: object) -> object:
    """Return the member of that name, or the flag of that value; the class's own code does not run.

    Raises:
        ValueError: ``kind`` is no enum, or has no such member.
    """
    if not issubclass(kind, enum.Enum):
        raise ValueError(f"{class_path(kind)} is no enum")
    if isinstance(member, str):
        if member not in kind.__members__:
            raise ValueError(f"{class_path(kind)} has no member {member!r}; there are {list(kind.__members__)}")
        return kind.__members__[member]
    if not issubclass(kind, enum.Flag) or type(member) is not int:
        raise ValueError(f"{member!r} is no member of {class_path(kind)}")
    if kind._missing_.__func__ is not enum.Flag._missing_.__func__:  # type: ignore[attr-defined]  # a bound classmethod
        raise ValueError(f"{class_path(kind)} makes members by code of its own (_missing_)")
    return kind(member)


def make_namedtuple(kind: type, items: list[object]) -> tuple[object, ...]:
    """Return a namedtuple of ``items``; its own ``__new__`` does not run.

    Raises:
        ValueError: ``kind`` is no namedtuple, or has another number of fields.
    """
    if not is_namedtuple(kind) or len(kind._fields) != len(items):  # type: ignore[attr-defined]  # is_namedtuple says so
        raise ValueError(f"{class_path(kind)} is no namedtuple of {len(items)} fields")
    made: tuple[object, ...] = tuple.__new__(kind, items)
    return made


def make_dataclass(kind: type, values: Mapping[str, object], trusted: bool) -> object:
    """Return an instance of the dataclass ``kind`` with these field values.

    Args:
        kind: The class.
        values: Value by field, all of them.
        trusted: Call the constructor; else fill a bare object.

    Raises:
        ValueError: ``kind`` is no dataclass or has other fields, or its constructor refuses the values.
    """
    if not dataclasses.is_dataclass(kind):
        raise ValueError(f"{class_path(kind)} is no dataclass")
    fields = {field.name: field for field in dataclasses.fields(kind)}
    _same_names(kind, fields, values)
    if trusted:
        given = {name: value for name, value in values.items() if fields[name].init}
        made = _call(kind, given)
        late = [name for name in values if not fields[name].init]
    else:
        made = _bare(kind)
        late = list(values)
    for name in late:
        object.__setattr__(made, name, values[name])  # also for frozen ones
    return made


def make_model(kind: type, state: Mapping[str, Any], trusted: bool) -> Any:
    """Return an instance of the pydantic model ``kind``.

    Args:
        kind: The class.
        state: ``fields`` (value by field), ``extra`` (the same, or ``None``),
            ``unset`` (fields that were not given), ``private`` (attributes that
            differ from what validation makes; may be absent).
        trusted: Validate; else fill a bare object.

    Raises:
        ValueError: ``kind`` is no model or has other fields, or validation fails.
    """
    from pydantic import BaseModel, RootModel

    if not issubclass(kind, BaseModel):
        raise ValueError(f"{class_path(kind)} is no pydantic model")
    fields, extra = state["fields"], state["extra"]
    _same_names(kind, kind.model_fields, fields)
    if extra is None and kind.model_config.get("extra") == "allow":
        extra = {}
    if trusted:
        data = fields["root"] if issubclass(kind, RootModel) else {**fields, **(extra or {})}
        made = kind.model_validate(data, by_alias=False, by_name=True)
        made.model_fields_set.difference_update(state["unset"])
    else:
        made = _bare(kind)
        given = {*fields, *(extra or {})}.difference(state["unset"])
        bare = {"__dict__": dict(fields), "__pydantic_fields_set__": given, "__pydantic_extra__": extra}
        BaseModel.__setstate__(made, {**bare, "__pydantic_private__": {} if kind.__private_attributes__ else None})
    private = state.get("private") or {}
    if not private.keys() <= kind.__private_attributes__.keys():
        raise ValueError(f"{class_path(kind)} has no private attributes {sorted(private)}")
    if made.__pydantic_private__ is not None:
        made.__pydantic_private__.update(private)
    return made


def other_attributes(value: object, fields: Mapping[str, object]) -> dict[str, object]:
    """Return the instance's attributes that are neither fields nor cached properties."""
    kind = type(value)
    return {
        name: attribute
        for name, attribute in getattr(value, "__dict__", {}).items()
        if name not in fields and not isinstance(_static(kind, name), functools.cached_property)
    }


def remedy(kind: type) -> str:
    """Return what to return instead of a value of a type that is not stored, or ``""``."""
    torch = sys.modules.get("torch")
    if torch is not None and issubclass(kind, torch.nn.Module | torch.optim.Optimizer):
        return "return its state_dict()"
    if kind.__module__.partition(".")[0] == "pandas":
        return "return value.to_dict('list') or value.to_numpy(), or log it as an artifact"
    if issubclass(kind, Iterator):
        return "return list(value)"
    for plain in BUILTINS:
        if issubclass(kind, plain):
            return f"its own type would be lost; return {plain.__name__}(value)"
    return ""


def _static(kind: type, name: str) -> object:
    return next((vars(base)[name] for base in kind.__mro__ if name in vars(base)), None)


def _same_names(kind: type, known: Mapping[str, object], given: Mapping[str, object]) -> None:
    if known.keys() != given.keys():
        raise ValueError(f"{class_path(kind)} has fields {list(known)}, the stored value has {list(given)}")


def _call(kind: type[Any], given: Mapping[str, object]) -> object:
    try:
        return kind(**given)
    except Exception as error:
        raise ValueError(f"{class_path(kind)} refuses its stored fields: {type(error).__name__}: {error}") from error


def _bare(kind: type) -> Any:
    """Return an object of ``kind`` without calling anything of the class.

    Raises:
        ValueError: The class would run code of its own when the object dies.
    """
    if _static(kind, "__del__") is not None:
        raise ValueError(f"{class_path(kind)} has __del__; name the class in the contract to allow it")
    return object.__new__(kind)


def _imported(path: str) -> type | None:
    """Return the class ``module:qualname`` if its module is imported, without running any hook of that module."""
    module, _, name = path.partition(":")
    place: object = sys.modules.get(module)
    for part in name.partition("[")[0].split("."):
        if not isinstance(place, types.ModuleType | type):
            return None
        place = vars(place).get(part)
    if not isinstance(place, type):
        return None
    # A parametrized model, Box[int], is a subclass of Box and in no module.
    return next((kind for kind in (place, *subclasses([place])) if class_path(kind) == path), None)


def subclasses(kinds: typing.Iterable[type]) -> Iterator[type]:
    """Yield all imported subclasses of ``kinds``, each once."""
    seen: set[type] = set()
    stack: list[type] = [kind for kind in kinds if kind is not object]
    while stack:
        below: list[type] = type.__subclasses__(stack.pop())
        for kind in below:
            if kind not in seen:
                seen.add(kind)
                stack.append(kind)
                yield kind


def _classes_in(annotations: typing.Iterable[object]) -> Iterator[type]:
    """Yield every class in the annotations, fields of classes included, in order of appearance."""
    seen: set[int] = set()
    stack = list(annotations)[::-1]
    kept = []  # keeps what `seen` knows by id alive
    while stack:
        item = stack.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        kept.append(item)
        if isinstance(item, type) and item is not object and not isinstance(item, types.GenericAlias):
            yield item
        stack.extend(reversed(list(_parts(item))))


def _parts(item: object) -> Iterator[object]:
    """Yield what an annotation is made of."""
    origin = typing.get_origin(item)
    if origin is typing.Literal:
        yield from (type(value) for value in typing.get_args(item))
    elif origin is not None:
        yield from (origin, *typing.get_args(item))
    elif isinstance(item, list | tuple):  # the arguments of a Callable, or of a tuple type
        yield from item
    elif isinstance(item, typing.TypeVar):
        yield from (item.__bound__, *item.__constraints__)
    elif isinstance(item, type):
        yield from _fields(item)
    else:
        yield getattr(item, "__supertype__", None)  # NewType
        yield getattr(item, "__value__", None)  # `type X = …`


def _fields(kind: type) -> Iterator[object]:
    """Yield the annotations of a class's fields, if it is one that has fields."""
    if is_model(kind):
        yield from (field.annotation for field in kind.model_fields.values())  # type: ignore[attr-defined]  # a model
        yield from getattr(kind, "__pydantic_generic_metadata__", {}).get("args", ())  # BaseModel itself has none
    elif dataclasses.is_dataclass(kind) or is_namedtuple(kind) or typing.is_typeddict(kind):
        try:
            yield from typing.get_type_hints(kind).values()
        except (NameError, TypeError, AttributeError, SyntaxError):  # an annotation that does not resolve
            yield from getattr(kind, "__annotations__", {}).values()
