"""One explicit subtype table over annotations.

``subtype(given, wanted)`` answers, before anything runs, what the run-time
validator of ``wanted`` (:class:`sweep.pipeline.contracts.FieldContract`) would
say to values annotated ``given``:

====================  =====================================================================
verdict               meaning
====================  =====================================================================
``Verdict.PROVEN``    every value of ``given`` is accepted
``Verdict.REFUTED``   no value of ``given`` is accepted (an empty container may be)
``Verdict.UNPROVEN``  some values are, or the annotations do not tell
====================  =====================================================================

``Any`` on either side is the user's opt-out and always PROVEN. Values flow one
way, so every container is covariant. A class stands for its plain instances:
``int`` is not ``bool`` here, because the validators keep them apart.
"""

from __future__ import annotations

import collections
import collections.abc as abc
import enum
import os
import pathlib
import typing
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime
from typing import Any, Final, final

import annotated_types
import typing_extensions
from pydantic import RootModel
from pydantic.fields import FieldInfo

from sweep.pipeline.annotations import (
    Annotation,
    Record,
    class_of,
    entries_of,
    is_protocol,
    items_of,
    lineage,
    members,
    peel,
    split,
    value_of,
)

__all__ = ["Verdict", "subtype"]


@final
class Verdict(enum.Enum):
    """What the table says of a pair of annotations."""

    PROVEN = "proven"
    REFUTED = "refuted"
    UNPROVEN = "unproven"


PROVEN, REFUTED, UNPROVEN = Verdict.PROVEN, Verdict.REFUTED, Verdict.UNPROVEN
_Seen = tuple[tuple[Annotation, Annotation], ...]
_Row = Callable[[Annotation, Annotation, _Seen], Verdict]
_NONE: Final = type(None)
_TEXT: Final = (str, bytes, bytearray)
#: Containers whose items the validators of ``Iterable``, ``Collection`` … check.
CHECKED_CONTAINERS: Final = (list, tuple, set, frozenset)
_DEEPEST: Final = 60  # nesting at which a generic recursive alias is given up


def subtype(given: Annotation, wanted: Annotation) -> Verdict:
    """Say whether values annotated ``given`` fit a contract annotated ``wanted``.

    Args:
        given: Resolved annotation of what comes, for example a return annotation.
        wanted: Resolved annotation of what is due.

    Returns:
        The verdict; see the table in the module's docstring.

    Example:
        >>> subtype(list[bool], list[str]).name, subtype(int, float).name, subtype(float, int).name
        ('REFUTED', 'PROVEN', 'UNPROVEN')
    """
    return _relate(given, wanted, ())


def _every(verdicts: Iterable[Verdict]) -> Verdict:
    """Conjunction: what must hold of all parts of one value."""
    found = set(verdicts)
    return REFUTED if REFUTED in found else UNPROVEN if UNPROVEN in found else PROVEN


def _some(verdicts: Iterable[Verdict]) -> Verdict:
    """Disjunction: one way to be accepted is enough."""
    found = set(verdicts)
    return PROVEN if PROVEN in found else UNPROVEN if UNPROVEN in found else REFUTED


def _alike(verdicts: Iterable[Verdict]) -> Verdict:
    """Alternatives of the given side: mixed answers prove nothing."""
    found = set(verdicts)
    return found.pop() if len(found) == 1 else UNPROVEN


def _at_most_unproven(verdict: Verdict) -> Verdict:
    return UNPROVEN if verdict is PROVEN else verdict


def _at_least_unproven(verdict: Verdict) -> Verdict:
    return UNPROVEN if verdict is REFUTED else verdict


def _within(cls: type, base: Any) -> bool:
    """``issubclass`` that answers False where Python refuses to answer (some protocols)."""
    try:
        return issubclass(cls, base)
    except TypeError:
        return base in cls.__mro__


# ---------------------------------------------------------------- forms: unions, literals, wrappers


def _relate(given: Annotation, wanted: Annotation, seen: _Seen) -> Verdict:
    if any(one is given and other is wanted for one, other in seen):
        return PROVEN  # a recursive type met again: assumed, as everywhere in coinduction
    if len(seen) > _DEEPEST:
        return UNPROVEN
    seen = (*seen, (given, wanted))
    metadata = _metadata(wanted)
    if metadata and given != wanted:
        return _with_metadata(_relate(given, peel(wanted), seen), metadata)
    given, wanted = peel(given), peel(wanted)
    if given is Any or wanted is Any or wanted is object or given in (typing.Never, typing.NoReturn):
        return PROVEN
    if given == wanted:
        return PROVEN
    if isinstance(given, str | typing.ForwardRef) or isinstance(wanted, str | typing.ForwardRef):
        return UNPROVEN
    return _split_given(given, wanted, seen)


def _metadata(annotation: Annotation) -> list[Annotation]:
    """Return the parts of ``Annotated`` that constrain or convert; notes for readers are left out."""
    if isinstance(annotation, typing_extensions.TypeAliasType):
        return _metadata(value_of(annotation))
    origin, args = split(annotation)
    if origin is not typing.Annotated:
        return []
    found: list[Annotation] = []
    for item in args[1:]:
        found.extend(item.metadata if isinstance(item, FieldInfo) else [item])
    return [item for item in found if _constrains(item) or _converts(item)]


def _constrains(item: Annotation) -> bool:
    if isinstance(item, annotated_types.DocInfo):
        return False
    return isinstance(item, annotated_types.BaseMetadata | annotated_types.GroupedMetadata)


def _converts(item: Annotation) -> bool:
    return hasattr(item, "__get_pydantic_core_schema__") or type(item).__module__.startswith("pydantic.")


def _with_metadata(verdict: Verdict, metadata: list[Annotation]) -> Verdict:
    """A constraint may refuse what fits; a converter may also accept what does not."""
    return _at_most_unproven(verdict) if all(_constrains(item) for item in metadata) else UNPROVEN


def _split_given(given: Annotation, wanted: Annotation, seen: _Seen) -> Verdict:
    """Take the alternatives of the given side one by one."""
    alternatives = members(given)
    if alternatives is not None:
        return _alike(_relate(part, wanted, seen) for part in alternatives)
    origin, args = split(given)
    if origin is typing.Literal:
        return _alike(_literal(value, wanted, seen) for value in args)
    if isinstance(given, typing.NewType):
        return _relate(given.__supertype__, wanted, seen)
    return _split_wanted(given, wanted, seen)


def _literal(value: Annotation, wanted: Annotation, seen: _Seen) -> Verdict:
    """One value that is known exactly."""
    alternatives = members(wanted)
    if alternatives is not None:
        return _some(_literal(value, peel(part), seen) for part in alternatives)
    origin, args = split(wanted)
    if origin is typing.Literal:
        return PROVEN if any(_same(value, other) for other in args) else REFUTED
    if wanted is bool and type(value) is int:
        return PROVEN if value in (0, 1) else REFUTED
    if isinstance(wanted, type) and issubclass(wanted, enum.Enum) and _same_as_a_member(value, wanted):
        return PROVEN
    return PROVEN if type(value) is wanted else _split_wanted(type(value), wanted, seen)


def _same(one: Annotation, other: Annotation) -> bool:
    """Compare as the validator does: 1 is True, True is not 1."""
    return (type(one) is type(other) or (type(other) is bool and type(one) is int)) and bool(one == other)


def _same_as_a_member(value: Annotation, wanted: type[enum.Enum]) -> bool:
    return any(_same(value, member.value) for member in wanted)


def _split_wanted(given: Annotation, wanted: Annotation, seen: _Seen) -> Verdict:
    """Take the alternatives and the forms that are no classes on the wanted side."""
    alternatives = members(wanted)
    if alternatives is not None:
        return _some(_relate(given, part, seen) for part in alternatives)
    if wanted in (typing.Never, typing.NoReturn):
        return REFUTED
    if isinstance(wanted, typing.NewType):  # the validator sees only the supertype; the distinction is the user's
        return _at_most_unproven(_relate(given, wanted.__supertype__, seen))
    origin, args = split(wanted)
    if origin is typing.Literal:
        return _to_literal(given, args)
    if class_of(given) is object:  # `object` itself, and forms without a row
        return UNPROVEN
    if origin is type:
        return _to_class_object(given, args)
    if origin is abc.Callable:
        return _to_callable(given, args, seen)
    if is_protocol(wanted):
        return PROVEN if origin in class_of(given).__mro__ else UNPROVEN
    return _to_class(given, wanted, seen)


def _to_literal(given: Annotation, values: tuple[Annotation, ...]) -> Verdict:
    """A class under ``Literal``: proven only where its values are few and all named."""
    cls = class_of(given)
    if cls is _NONE:
        return PROVEN if None in values else REFUTED
    if cls is bool:
        return _few_to_literal([True, False], values, REFUTED)
    if issubclass(cls, enum.Enum):
        return _few_to_literal([*cls.__members__.values()], values, UNPROVEN if issubclass(cls, str | int) else REFUTED)
    if _numeric(cls):
        return UNPROVEN if any(isinstance(value, int) for value in values) else REFUTED
    return UNPROVEN if any(_within(type(value), cls) or _within(cls, type(value)) for value in values) else REFUTED


def _few_to_literal(whole: list[object], values: tuple[object, ...], without: Verdict) -> Verdict:
    """A class of few values: ``without`` is what holds where none of them is named."""
    named = [value for value in whole if any(_same(value, other) for other in values)]
    return PROVEN if len(named) == len(whole) else UNPROVEN if named else without


def _to_class_object(given: Annotation, args: tuple[Annotation, ...]) -> Verdict:
    """``type`` and ``type[X]``: the classes themselves are the values."""
    origin, given_args = split(given)
    if not isinstance(origin, type) or not issubclass(origin, type):
        return REFUTED
    have, want = (peel(part[0]) if part else Any for part in (given_args, args))
    if have is Any or want is Any or want is object:
        return PROVEN
    targets = [class_of(peel(part)) for part in members(want) or (want,)]
    sources = [class_of(peel(part)) for part in members(have) or (have,)]
    return _alike(_some(_subclass(source, target) for target in targets) for source in sources)


def _subclass(source: type, target: type) -> Verdict:
    return PROVEN if _within(source, target) else UNPROVEN if _within(target, source) else REFUTED


def _to_callable(given: Annotation, args: tuple[Annotation, ...], seen: _Seen) -> Verdict:
    """The validator asks ``callable()`` only, so a differing signature is never refuted."""
    origin, have = split(given)
    if origin is not abc.Callable:
        known = _within(class_of(given), abc.Callable)
        return REFUTED if not known else PROVEN if not args or class_of(given) is type else UNPROVEN
    if not have or not args:
        return PROVEN
    checks = [_relate(have[-1], args[-1], seen)]
    if isinstance(have[0], list) and isinstance(args[0], list):
        checks.append(PROVEN if len(have[0]) == len(args[0]) else UNPROVEN)
        checks += [_relate(due, taken, seen) for taken, due in zip(have[0], args[0], strict=False)]
    elif have[0] is not Ellipsis and args[0] is not Ellipsis:
        checks.append(UNPROVEN)
    return _at_least_unproven(_every(checks))


# ---------------------------------------------------------------- classes


def _to_class(given: Annotation, wanted: Annotation, seen: _Seen) -> Verdict:
    """Dispatch on the class of the wanted side: the first row that applies."""
    origin, _ = split(wanted)
    if not isinstance(origin, type):
        return UNPROVEN  # a typing form without a row of its own
    if issubclass(origin, enum.Enum):
        return _to_enum(given, origin, seen)
    if issubclass(origin, RootModel) and not _within(class_of(given), origin):
        return _at_most_unproven(_relate(given, origin.model_fields["root"].annotation, seen))
    record = Record.of(wanted)
    if record is not None:
        return _to_record(given, wanted, record, seen)
    if _is_number(origin):
        return _to_number(given, origin)
    row = _ROWS.get(origin)
    if row is not None:
        return row(given, wanted, seen)
    return _to_other(given, wanted, seen)


#: Row: kind of the wanted class; column: kind of the given class; absent: refuted.
_NUMBERS: Final[Mapping[str, Mapping[str, Verdict]]] = {
    "bool": {"bool": PROVEN, "int": UNPROVEN, "float": UNPROVEN, "decimal": UNPROVEN, "opaque": UNPROVEN},
    "int": {"int": PROVEN, "float": UNPROVEN, "decimal": UNPROVEN, "opaque": UNPROVEN},
    "float": {"int": PROVEN, "float": PROVEN, "decimal": UNPROVEN, "opaque": UNPROVEN},
    "complex": {"int": PROVEN, "float": PROVEN, "complex": PROVEN, "decimal": UNPROVEN, "opaque": UNPROVEN},
    "decimal": {"int": PROVEN, "float": UNPROVEN, "decimal": PROVEN, "opaque": UNPROVEN},
}
#: Classes named instead of imported, so that numpy stays unloaded.
_NUMBER_NAMES: Final[Mapping[str, str]] = {
    "builtins.bool": "bool",
    "builtins.int": "int",
    "builtins.float": "float",
    "builtins.complex": "complex",
    "decimal.Decimal": "decimal",
    "numpy.bool": "bool",
    "numpy.bool_": "bool",
    "numpy.integer": "int",
    "numpy.floating": "float",
    "numpy.complexfloating": "complex",
}


def _numeric(cls: type) -> str:
    """Return the kind of number, ``"opaque"`` for what converts itself (tensors), ``""`` for no number."""
    for base in cls.__mro__:
        kind = _NUMBER_NAMES.get(f"{base.__module__}.{base.__qualname__}")
        if kind is not None:
            return kind
    return "opaque" if hasattr(cls, "__float__") or hasattr(cls, "__index__") else ""


def _is_number(cls: type) -> bool:
    """Say whether the validator converts numbers to this class (of numpy's it asks ``isinstance``)."""
    return cls.__module__ in {"builtins", "decimal"} and f"{cls.__module__}.{cls.__qualname__}" in _NUMBER_NAMES


def _to_number(given: Annotation, wanted: type) -> Verdict:
    have = class_of(given)
    if issubclass(have, enum.Enum) and not _numeric(have):  # a member is read by its value: accepted, hardly meant
        return _at_most_unproven(_alike(subtype(type(member.value), wanted) for member in have))
    if _within(wanted, have) and not _numeric(have):
        return UNPROVEN  # for example Hashable
    return _NUMBERS[_numeric(wanted)].get(_numeric(have), REFUTED)


def _to_enum(given: Annotation, wanted: type[enum.Enum], seen: _Seen) -> Verdict:
    """An enum accepts its members and, where they match, their values."""
    have = class_of(given)
    if _within(have, wanted):
        return PROVEN
    if any("_missing_" in vars(base) for base in wanted.__mro__ if base is not enum.Enum):
        return UNPROVEN  # user code decides
    kinds = {type(member.value) for member in wanted}
    if _numeric(have) == "bool":
        return UNPROVEN if bool in kinds else REFUTED
    return _at_most_unproven(_some(_relate(given, kind, seen) for kind in kinds))


def _to_text(given: Annotation, wanted: Annotation, seen: _Seen) -> Verdict:
    have, want = class_of(given), class_of(wanted)
    if issubclass(have, want) or (want is bytes and issubclass(have, bytearray)):
        return PROVEN
    read = issubclass(have, (*_TEXT, enum.Enum))  # an enum's member by its value: accepted, hardly meant
    return UNPROVEN if read or _within(want, have) else REFUTED


def _to_day(given: Annotation, wanted: Annotation, seen: _Seen) -> Verdict:
    """A date is a datetime to the validator; a datetime is a date only at midnight."""
    if class_of(given) in (date, datetime):
        return PROVEN if wanted is datetime else UNPROVEN
    return _to_other(given, wanted, seen)


def _to_path(given: Annotation, wanted: Annotation, seen: _Seen) -> Verdict:
    return PROVEN if issubclass(class_of(given), str) else _to_other(given, wanted, seen)


#: Modules whose classes pydantic builds from text or numbers.
_BUILDING: Final = frozenset({"datetime", "uuid", "pathlib", "pathlib._local", "re", "ipaddress", "fractions", "os"})


def _to_other(given: Annotation, wanted: Annotation, seen: _Seen) -> Verdict:
    """Any other class: the validator asks ``isinstance``, unless pydantic knows a conversion."""
    have, want, args = class_of(given), class_of(wanted), split(wanted)[1]
    if _within(have, want):
        return PROVEN if not args else _arguments(given, want, args, seen)
    plain = issubclass(have, str | bytes | int | float) or have.__module__ in {"decimal", "os", want.__module__}
    if hasattr(want, "__get_pydantic_core_schema__") or (want.__module__ in _BUILDING and plain):
        return UNPROVEN
    return UNPROVEN if _within(want, have) or is_protocol(given) else REFUTED


def _arguments(given: Annotation, want: type, args: tuple[Annotation, ...], seen: _Seen) -> Verdict:
    """Arguments of other generics are not looked at when it runs, so they are never refuted."""
    for base in lineage(given):
        origin, have = split(base)
        if origin is want:
            return _at_least_unproven(_every(_relate(one, due, seen) for one, due in zip(have, args, strict=False)))
    if issubclass(want, abc.Iterable | abc.AsyncIterable):
        return _at_least_unproven(_every(_relate(item, args[0], seen) for item in items_of(given)))
    return UNPROVEN


# ---------------------------------------------------------------- containers

#: What the validator makes of the abstract containers that can be changed or hashed.
_BECOMES: Final[Mapping[type, type]] = {abc.MutableSequence: list, abc.Set: frozenset, abc.MutableSet: set}


def _to_gathered(given: Annotation, wanted: Annotation, seen: _Seen) -> Verdict:
    """``list``, ``set``, ``frozenset``, ``deque``, ``tuple``: built from any iterable but text and mappings."""
    have, want, args = class_of(given), class_of(wanted), split(wanted)[1]
    want = _BECOMES.get(want, want)
    if issubclass(have, (*_TEXT, abc.Mapping)):
        return REFUTED
    if not issubclass(have, abc.Iterable):
        return UNPROVEN if _within(want, have) else REFUTED
    items = items_of(given)
    if want is tuple and wanted is not tuple and not (len(args) == 2 and args[1] is Ellipsis):
        verdict = _to_fixed_tuple(given, items, args, seen)
    else:
        verdict = _every(_relate(item, args[0] if args else Any, seen) for item in items)
    if issubclass(want, set | frozenset) and any(class_of(item).__hash__ is None for item in items):
        return REFUTED
    hides = _within(dict, have) or _within(str, have)  # an abstract class may hide text or a mapping
    return _at_most_unproven(verdict) if hides else verdict


def _to_fixed_tuple(given: Annotation, items: tuple[Annotation, ...], args: tuple[Annotation, ...], seen: _Seen) -> Verdict:
    if any(split(part)[0] is typing_extensions.Unpack or getattr(part, "__unpacked__", False) for part in args):
        return UNPROVEN
    if _is_fixed(given):
        if len(items) != len(args):
            return REFUTED
        return _every(_relate(item, due, seen) for item, due in zip(items, args, strict=True))
    return _at_most_unproven(_every(_relate(item, due, seen) for item in items for due in args))


def _is_fixed(annotation: Annotation) -> bool:
    """Say whether the annotation is a tuple of known length."""
    origin, args = split(annotation)
    if not isinstance(origin, type) or not issubclass(origin, tuple):
        return False
    return hasattr(origin, "_fields") or (annotation is not tuple and Ellipsis not in args)


def _to_sequence(given: Annotation, wanted: Annotation, seen: _Seen) -> Verdict:
    """``Sequence``: text is refused here, as a sequence of letters is hardly ever meant."""
    have, (_, args) = class_of(given), split(wanted)
    if issubclass(have, _TEXT):
        return REFUTED
    if not issubclass(have, abc.Sequence):
        return UNPROVEN if _within(abc.Sequence, have) else REFUTED
    verdict = _every(_relate(item, args[0] if args else Any, seen) for item in items_of(given))
    rebuilt = have.__module__ in {"builtins", "collections", "collections.abc"} or hasattr(have, "_fields")
    return verdict if rebuilt else UNPROVEN


def _to_iterable(given: Annotation, wanted: Annotation, seen: _Seen) -> Verdict:
    """``Iterable``, ``Collection`` …: the items of the concrete containers are checked, no others."""
    have, want, args = class_of(given), class_of(wanted), split(wanted)[1]
    if not _within(have, want):
        return UNPROVEN if _within(want, have) else REFUTED
    verdict = _every(_relate(item, args[0] if args else Any, seen) for item in items_of(given))
    return verdict if have in CHECKED_CONTAINERS else _at_least_unproven(verdict)


def _to_mapping(given: Annotation, wanted: Annotation, seen: _Seen) -> Verdict:
    have, want, args = class_of(given), class_of(wanted), split(wanted)[1]
    if not issubclass(have, abc.Mapping):
        return UNPROVEN if _within(want, have) else REFUTED
    due = (args[0], int) if want is collections.Counter and args else args or (Any, Any)
    record = Record.of(given)
    if record is not None:
        checks = [_relate(str, due[0], seen)]
        for name, annotation in record.fields.items():
            verdict = _relate(annotation, due[1], seen)
            checks.append(verdict if name in record.required else _at_least_unproven(verdict))
        return _every(checks)
    verdict = _every(_relate(one, other, seen) for one, other in zip(entries_of(given), due, strict=True))
    rebuilt = issubclass(have, dict) or want in (dict, abc.Mapping, abc.MutableMapping)
    return verdict if rebuilt else _at_most_unproven(verdict)


_ROWS: Final[Mapping[type, _Row]] = {
    **dict.fromkeys((str, bytes), _to_text),
    **dict.fromkeys((date, datetime), _to_day),
    **dict.fromkeys((pathlib.Path, pathlib.PurePath, os.PathLike), _to_path),
    **dict.fromkeys((list, set, frozenset, tuple, collections.deque, *_BECOMES), _to_gathered),
    **dict.fromkeys((abc.Iterable, abc.Collection, abc.Container, abc.Reversible), _to_iterable),
    **dict.fromkeys((dict, abc.Mapping, abc.MutableMapping), _to_mapping),
    **dict.fromkeys((collections.OrderedDict, collections.defaultdict, collections.Counter), _to_mapping),
    abc.Sequence: _to_sequence,
}


# ---------------------------------------------------------------- records


def _to_record(given: Annotation, wanted: Annotation, record: Record, seen: _Seen) -> Verdict:
    """A model, dataclass, TypedDict or NamedTuple: an instance, or what it can be built from."""
    have, is_dict = class_of(given), class_of(wanted) is dict
    if not is_dict and _within(have, record.cls):
        return _to_other(given, wanted, seen)
    if record.lenient:
        return UNPROVEN
    if issubclass(have, abc.Mapping):
        return _mapping_to_record(given, record, seen)
    if issubclass(record.cls, tuple) and issubclass(have, abc.Iterable) and not issubclass(have, _TEXT):
        return _tuple_to_record(given, record, seen)
    return UNPROVEN if _within(class_of(wanted), have) or is_protocol(given) else REFUTED


def _mapping_to_record(given: Annotation, record: Record, seen: _Seen) -> Verdict:
    """Compare key by key; a mapping with values of ``Any`` is the user's opt-out."""
    if record.custom:
        return UNPROVEN
    source = Record.of(given)
    if source is not None:
        return _keys(source, record, seen)
    key, value = entries_of(given)
    if value is Any:
        return PROVEN
    checks = [_relate(value, record.fields[name], seen) for name in record.required]
    checks += [_relate(key, str, seen)] if record.required else []
    return _at_most_unproven(_every(checks))


def _keys(source: Record, record: Record, seen: _Seen) -> Verdict:
    checks = []
    for name, annotation in record.fields.items():
        key = record.aliases.get(name, name)
        if key not in source.fields:
            checks.append(REFUTED if name in record.required else PROVEN)
            continue
        verdict = _relate(source.fields[key], annotation, seen)
        if key not in source.required:
            verdict = _at_least_unproven(verdict)
            verdict = _at_most_unproven(verdict) if name in record.required else verdict
        checks.append(verdict)
    extras = set(source.fields) - {record.aliases.get(name, name) for name in record.fields}
    if record.closed and extras:
        checks.append(REFUTED if extras & source.required else UNPROVEN)
    return _every(checks)


def _tuple_to_record(given: Annotation, record: Record, seen: _Seen) -> Verdict:
    """A NamedTuple is built from the items in their order."""
    items, fields = items_of(given), list(record.fields.values())
    if not _is_fixed(given):
        return _at_most_unproven(_every(_relate(item, fields[0], seen) for item in items if fields))
    if not len(record.required) <= len(items) <= len(fields):
        return REFUTED
    return _every(_relate(item, due, seen) for item, due in zip(items, fields, strict=False))
