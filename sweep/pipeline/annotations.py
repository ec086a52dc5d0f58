"""Reading annotations: their parts, their names in messages, their fields.

:class:`Record` is the one reading of classes with named and typed fields
(pydantic models, dataclasses, TypedDicts, NamedTuples); :func:`describe` the one
wording of annotations in messages.
"""

from __future__ import annotations

import collections
import collections.abc as abc
import dataclasses
import functools
import operator
import sys
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, TypeAlias, final

import typing_extensions
from pydantic import AliasChoices, AliasPath, BaseModel, RootModel
from pydantic.fields import FieldInfo

__all__ = [
    "Annotation",
    "Record",
    "class_of",
    "describe",
    "entries_of",
    "is_annotation",
    "is_protocol",
    "items_of",
    "lineage",
    "members",
    "peel",
    "records_in",
    "split",
    "value_of",
]

Annotation: TypeAlias = object
"""What stands after a colon: a class, a typing construct, an alias. Python has no type for these yet."""

_STANDARD: Final = frozenset({"builtins", "collections", "collections.abc", "typing", "types"})
_MARKS: Final = (typing.Required, typing.NotRequired, typing_extensions.ReadOnly)
_WRAPPERS: Final = (typing.Annotated, typing.Final, typing.ClassVar, *_MARKS)
_FORMS: Final = (typing.Any, typing.Never, typing.NoReturn, typing.LiteralString, typing_extensions.Any)


def split(annotation: Annotation) -> tuple[Annotation, tuple[Annotation, ...]]:
    """Return origin and arguments; a plain class is its own origin, without arguments."""
    origin = typing_extensions.get_origin(annotation)
    return (annotation, ()) if origin is None else (origin, typing_extensions.get_args(annotation))


def is_annotation(value: object) -> bool:
    """Say whether ``value`` is a class, a typing construct or an alias, and so no setting.

    Example:
        >>> is_annotation(list[int]), is_annotation(int | None), is_annotation(3), is_annotation("int")
        (True, True, False, False)
    """
    kinds = (type, types.GenericAlias, types.UnionType, typing.TypeVar, typing.NewType, typing_extensions.TypeAliasType)
    if isinstance(value, kinds) or any(value is form for form in _FORMS):
        return True
    return typing_extensions.get_origin(value) is not None


def peel(annotation: Annotation) -> Annotation:
    """Strip what says nothing about values: Annotated, Final, Required, aliases, type variables."""
    if annotation is None:
        return type(None)
    if annotation is typing.LiteralString:
        return str
    if annotation is typing_extensions.Any:
        return Any
    if annotation is typing.Tuple:  # noqa: UP006  (the bare alias has no arguments, as ``tuple[()]`` has none)
        return tuple
    if isinstance(annotation, typing.TypeVar):
        return _bound_of(annotation)
    if isinstance(annotation, typing_extensions.TypeAliasType):
        return peel(value_of(annotation))
    origin, args = split(annotation)
    if isinstance(origin, typing_extensions.TypeAliasType):
        return peel(_substitute(value_of(origin), dict(zip(origin.__type_params__, args, strict=False))))
    return peel(args[0]) if origin in _WRAPPERS and args else annotation


def value_of(alias: typing_extensions.TypeAliasType) -> Annotation:
    """Return what an alias stands for, its own forward references resolved where they can be."""
    return _hint(alias.__value__, vars(sys.modules.get(alias.__module__ or "", types)))


def _bound_of(variable: typing.TypeVar) -> Annotation:
    if variable.__constraints__:
        return functools.reduce(operator.or_, variable.__constraints__)
    return Any if variable.__bound__ is None else peel(variable.__bound__)


def _substitute(annotation: Any, values: Mapping[Annotation, Annotation]) -> Annotation:
    """Replace type variables; one without a value becomes ``Any``."""
    if isinstance(annotation, typing.TypeVar):
        return values.get(annotation, Any)
    parameters = () if isinstance(annotation, type) else getattr(annotation, "__parameters__", ())
    return annotation[tuple(values.get(parameter, Any) for parameter in parameters)] if parameters else annotation


def members(annotation: Annotation) -> tuple[Annotation, ...] | None:
    """Return the alternatives of a union, or ``None`` where it is none."""
    origin, args = split(annotation)
    return args if origin in (typing.Union, types.UnionType) else None


def class_of(annotation: Annotation) -> type:
    """Return the class of the values; ``object`` where the annotation names none."""
    origin, _ = split(peel(annotation))
    if isinstance(origin, typing.NewType):
        return class_of(origin.__supertype__)
    if typing_extensions.is_typeddict(origin):
        return dict
    return origin if isinstance(origin, type) else object


def is_protocol(annotation: Annotation) -> bool:
    """Say whether the annotation is a Protocol that is not one of the standard ABCs."""
    origin, _ = split(annotation)
    return bool(getattr(origin, "_is_protocol", False)) and origin.__module__ not in _STANDARD


def lineage(annotation: Annotation) -> Iterator[Annotation]:
    """Yield the annotation and its generic bases with their arguments, nearest first.

    Example:
        >>> class Scores(dict[str, float]): ...
        >>> [describe(base) for base in lineage(Scores)]
        ['Scores', 'dict[str, float]']
    """
    yield annotation
    origin, args = split(annotation)
    if not isinstance(origin, type) or origin.__module__ in _STANDARD:
        return
    values = dict(zip(getattr(origin, "__parameters__", ()), args, strict=False))
    for base in typing_extensions.get_original_bases(origin):
        if base is not object and split(base)[0] not in (typing.Generic, typing.Protocol):
            yield from lineage(_substitute(base, values))


def items_of(annotation: Annotation) -> tuple[Annotation, ...]:
    """Return the annotations that hold of what iteration yields, one by one for a fixed tuple.

    ``object`` stands for items about which nothing is known.

    Example:
        >>> items_of(list[int]), items_of(tuple[int, str]), items_of(tuple[int, ...]), items_of(dict[str, int])
        ((<class 'int'>,), (<class 'int'>, <class 'str'>), (<class 'int'>,), (<class 'str'>,))
    """
    record = Record.of(annotation)
    if record is not None and class_of(annotation) is not dict:
        return tuple(record.fields.values()) if issubclass(record.cls, tuple) else (object,)
    for base in lineage(annotation):
        origin, args = split(base)
        if class_of(base) is dict and origin is not dict:
            return (str,)
        if isinstance(origin, type) and origin.__module__ in _STANDARD:
            return _standard_items(base, origin, args)
    return (object,)


def _standard_items(annotation: Annotation, origin: type, args: tuple[Annotation, ...]) -> tuple[Annotation, ...]:
    if issubclass(origin, str):
        return (str,)
    if issubclass(origin, bytes | bytearray | memoryview | range):
        return (int,)
    if origin is tuple:
        return (Any,) if annotation is tuple else args[:1] if Ellipsis in args else args
    if issubclass(origin, abc.ItemsView) and len(args) == 2:
        return (tuple[args],)  # type: ignore[valid-type]  # built from values on purpose
    return (Any,) if not args else args[-1:] if issubclass(origin, abc.ValuesView) else args[:1]


def entries_of(annotation: Annotation) -> tuple[Annotation, Annotation]:
    """Return the annotations of keys and values of a mapping; ``object`` where they are unknown."""
    for base in lineage(annotation):
        origin, args = split(base)
        if isinstance(origin, type) and origin.__module__ in _STANDARD and issubclass(origin, abc.Mapping):
            if issubclass(origin, collections.Counter):
                return (args[0] if args else Any, int)
            return (args[0], args[1]) if len(args) == 2 else (Any, Any)
    return (object, object)


# ---------------------------------------------------------------- records


@final
@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """A class with named and typed fields.

    Attributes:
        cls: The class itself.
        fields: Name to annotation, in order.
        required: Names that a mapping must give.
        aliases: Name to the key under which a mapping gives it, where they differ.
        keys: All keys of a mapping that belong to the record.
        closed: Unknown keys are refused.
        open: Unknown keys are kept and belong to the record.
        custom: User code decides about mappings (validators, constructors).
        lenient: User code decides about any value.
    """

    cls: type
    fields: dict[str, Annotation]
    required: frozenset[str]
    keys: frozenset[str]
    aliases: dict[str, str] = dataclasses.field(default_factory=dict)
    closed: bool = False
    open: bool = False
    custom: bool = False
    lenient: bool = False

    @classmethod
    def of(cls, annotation: Annotation) -> Record | None:
        """Read a pydantic model, dataclass, TypedDict or NamedTuple; ``None`` for anything else.

        A forward reference that cannot be resolved stays as text.

        Example:
            >>> Point = typing.NamedTuple("Point", [("x", int), ("y", int)])
            >>> list(Record.of(Point).fields)
            ['x', 'y']
        """
        origin, args = split(annotation)
        if not isinstance(origin, type):
            return None
        record = _read(origin)
        if record is None or not args:
            return record
        values = dict(zip(getattr(origin, "__parameters__", ()), args, strict=False))
        fields = {name: _substitute(field, values) for name, field in record.fields.items()}
        return dataclasses.replace(record, fields=fields)


def _read(cls: type) -> Record | None:
    if issubclass(cls, BaseModel):
        return None if issubclass(cls, RootModel) else _read_model(cls)
    if dataclasses.is_dataclass(cls):
        return _read_dataclass(cls)
    if typing_extensions.is_typeddict(cls):
        return _read_typed_dict(cls)
    if issubclass(cls, tuple) and hasattr(cls, "_fields"):
        hints = _hints(cls)
        fields = {name: hints.get(name, Any) for name in cls._fields}
        required = frozenset(fields) - frozenset(getattr(cls, "_field_defaults", ()))
        return Record(cls, fields, required, frozenset(fields), closed=True)
    return None


def _hints(cls: type) -> dict[str, Annotation]:
    """Return resolved annotations; where a name is unknown, only that field keeps its text."""
    try:
        return typing_extensions.get_type_hints(cls, include_extras=True)
    except NameError:
        bases = [vars(base).get("__annotations__", {}) for base in reversed(cls.__mro__)]
        names = vars(sys.modules.get(cls.__module__, types))
        return {name: _hint(hint, names) for found in bases for name, hint in found.items()}


def _hint(hint: Annotation, names: dict[str, Annotation]) -> Annotation:
    carrier = types.SimpleNamespace(__annotations__={"it": hint})
    try:
        return typing_extensions.get_type_hints(carrier, names, include_extras=True)["it"]
    except NameError:
        return hint


def _read_model(model: type[BaseModel]) -> Record:
    config, infos = model.model_config, model.model_fields
    aliases = {name: info.validation_alias for name, info in infos.items() if isinstance(info.validation_alias, str)}
    paths = any(not isinstance(info.validation_alias, str | None) for info in infos.values())
    keys = {key for info in infos.values() for key in _alias_keys(info.validation_alias)}
    by_name = any(config.get(key) for key in ("populate_by_name", "validate_by_name"))
    custom, lenient = _decorated(model)
    return Record(
        model,
        {name: _field_annotation(info) for name, info in infos.items()},
        frozenset(name for name, info in infos.items() if info.is_required()),
        frozenset(infos) | keys,
        aliases,
        closed=config.get("extra") == "forbid",
        open=config.get("extra") == "allow",
        custom=custom or paths or by_name or model.__init__ is not BaseModel.__init__,
        lenient=lenient or bool(config.get("from_attributes")),
    )


def _alias_keys(alias: str | AliasPath | AliasChoices | None) -> set[str]:
    if isinstance(alias, AliasChoices):
        return {key for choice in alias.choices for key in _alias_keys(choice)}
    if isinstance(alias, AliasPath):
        return {str(alias.path[0])}
    return set() if alias is None else {alias}


def _field_annotation(info: FieldInfo) -> Annotation:
    return typing.Annotated[(info.annotation, *info.metadata)] if info.metadata else info.annotation


def _decorated(cls: type) -> tuple[bool, bool]:
    """Say whether a pydantic class has validators at all, and such as see the raw input."""
    decorators = getattr(cls, "__pydantic_decorators__", None)
    found = [getattr(decorators, kind, {}) for kind in ("validators", "field_validators", "root_validators")]
    whole = getattr(decorators, "model_validators", {})
    raw = any(getattr(getattr(check, "info", None), "mode", "after") != "after" for check in whole.values())
    return any(found) or bool(whole), raw


def _read_dataclass(cls: Any) -> Record:
    hints, missing = _hints(cls), dataclasses.MISSING
    fields, keys = dataclasses.fields(cls), frozenset(cls.__dataclass_fields__)  # the keys name the InitVars too
    needed = (f.name for f in fields if f.init and f.default is missing and f.default_factory is missing)
    custom, lenient = _decorated(cls)
    special = len(keys) > len(fields) or not all(field.init for field in fields)
    custom = custom or special or hasattr(cls, "__post_init__")
    annotations = {field.name: hints.get(field.name, Any) for field in fields}
    return Record(cls, annotations, frozenset(needed), keys, custom=custom, lenient=lenient)


def _read_typed_dict(cls: type) -> Record:
    config = getattr(cls, "__pydantic_config__", {})
    hints = _hints(cls)
    keys: frozenset[str] = cls.__required_keys__  # type: ignore[attr-defined]  # every TypedDict has them
    marks = {name: _marks(hint) for name, hint in hints.items()}  # the keys miss marks inside string annotations
    needed = {name for name, found in marks.items() if typing.Required in found or name in keys}
    required = frozenset(name for name in needed if typing.NotRequired not in marks[name])
    fields = {name: _unmark(hint) for name, hint in hints.items()}
    return Record(cls, fields, required, frozenset(fields), closed=config.get("extra") == "forbid")


def _marks(hint: Annotation) -> list[Annotation]:
    origin, args = split(hint)
    return [origin, *_marks(args[0])] if origin in _MARKS else []


def _unmark(hint: Annotation) -> Annotation:
    origin, args = split(hint)
    return _unmark(args[0]) if origin in _MARKS else hint


def records_in(annotations: Iterable[Annotation]) -> dict[str, Record]:
    """Return all records that annotations name, by name, those in fields of others included.

    Example:
        >>> Point = typing.NamedTuple("Point", [("x", int)])
        >>> list(records_in([dict[str, list[Point] | None]]))
        ['Point']
    """
    found: dict[str, Record] = {}
    waiting = list(annotations)
    while waiting:
        annotation = peel(waiting.pop(0))
        record = Record.of(annotation)
        if record is not None and describe(annotation) not in found:
            found[describe(annotation)] = record
            waiting += record.fields.values()
        if split(annotation)[0] is not typing.Literal:
            waiting += [one for one in split(annotation)[1] if one is not Ellipsis and not isinstance(one, list)]
    return found


# ---------------------------------------------------------------- wording


def describe(annotation: Annotation) -> str:
    """Return a short, readable name for an annotation.

    Example:
        >>> describe(typing.Optional[typing.List[int]]), describe(typing.Callable[[int], str]), describe(None)
        ('list[int] | None', 'Callable[[int], str]', 'None')
    """
    if annotation is Ellipsis:
        return "..."
    if annotation is None or annotation is type(None):
        return "None"
    if isinstance(annotation, str):
        return annotation
    if isinstance(annotation, typing.ForwardRef):
        return annotation.__forward_arg__
    if isinstance(annotation, list):
        return f"[{', '.join(describe(part) for part in annotation)}]"
    origin, args = split(annotation)
    if origin is not annotation:
        return _describe_parts(origin, args)
    return str(getattr(annotation, "__name__", None) or repr(annotation).removeprefix("typing."))


def _describe_parts(origin: Annotation, args: tuple[Annotation, ...]) -> str:
    if origin in (typing.Union, types.UnionType):
        return " | ".join(describe(part) for part in args)
    name = describe(origin)
    if origin is typing.Literal:
        return f"{name}[{', '.join(map(repr, args))}]"
    if origin is typing.Annotated:
        return f"{name}[{describe(args[0])}, {', '.join(map(repr, args[1:]))}]"
    if not args:
        return f"{name}[()]" if origin is tuple else name
    return f"{name}[{', '.join(describe(part) for part in args)}]"
