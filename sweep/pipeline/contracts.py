"""Contracts: what passes a seam, and what a return value means.

:class:`FieldContract` checks one named value while the pipeline runs;
:class:`OutputContract` is what ``.through()`` holds. Both are built before
anything runs and are cheap to call: the checking itself is pydantic's, in Rust.

The rule on top of pydantic's lax mode: text never becomes a number or a bool,
and a bool never becomes a number, at any depth. ``TypeAdapter`` cannot say that,
so the core schema is rewritten: each number node becomes *strict, else guard and
lax*. The first branch is the fast path and costs nothing measurable; the second,
with the guard in Python, runs only for values that are not exactly of the type.
A model that defines its own ``__init__`` is outside the rule: when it is built from a
mapping, its ``__init__`` runs pydantic's own validation.
"""

from __future__ import annotations

import collections.abc as abc
import dataclasses
import enum
import functools
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple, NoReturn, TypeAlias, final

import typing_extensions
from pydantic import ConfigDict, GetCoreSchemaHandler, TypeAdapter
from pydantic.errors import PydanticUndefinedAnnotation, PydanticUserError
from pydantic_core import CoreSchema, PydanticCustomError, SchemaError, SchemaValidator, ValidationError, core_schema

from sweep.errors import ContractError, ContractViolation, did_you_mean
from sweep.pipeline.annotations import Annotation, Record, describe, is_annotation, is_protocol, split
from sweep.pipeline.signatures import MISSING, Missing, Parameter, Signature, read_signature
from sweep.pipeline.subtypes import CHECKED_CONTAINERS

__all__ = [
    "MISSING",
    "Accepted",
    "FieldContract",
    "Fields",
    "Missing",
    "OutputContract",
    "Parameter",
    "Signature",
    "read_signature",
]

_TEXT: Final = (str, bytes, bytearray)

# ---------------------------------------------------------------- what pydantic is asked for


@final
@dataclasses.dataclass(frozen=True, slots=True)
class _Items:
    """Schema of ``Iterable[X]``, ``Collection[X]`` …: pydantic's own consumes the value or ignores its items."""

    origin: type
    item: Annotation

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        items = core_schema.list_schema(handler.generate_schema(self.item))
        return core_schema.no_info_wrap_validator_function(functools.partial(_check_items, self.origin), items)


def _check_items(origin: type, value: object, validate: Callable[[object], list[object]]) -> object:
    if not isinstance(value, origin):
        raise PydanticCustomError("is_instance_of", "Input should be an instance of {name}", {"name": describe(origin)})
    kind: Callable[[object], object] = type(value)
    return kind(validate(value)) if kind in CHECKED_CONTAINERS else value


@final
@dataclasses.dataclass(frozen=True, slots=True)
class _Instance:
    """Schema of an abstract class that pydantic would convert or consume: the value stays as it is."""

    origin: type

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.is_instance_schema(self.origin)


_ITERABLES: Final = (abc.Iterable, abc.Collection, abc.Container, abc.Reversible)
_AS_THEY_ARE: Final = (abc.Iterator, abc.Generator, abc.AsyncIterator, abc.AsyncGenerator)


def _prepare(annotation: Annotation) -> Annotation:
    """Replace what pydantic refuses, consumes or leaves unchecked by what a contract means."""
    origin, args = split(annotation)
    if annotation in (typing.Never, typing.NoReturn):
        raise TypeError("no value can fit it")
    if annotation is typing.LiteralString:
        return str
    if is_protocol(annotation) and not getattr(origin, "_is_runtime_protocol", False):
        return Any
    if type(origin).__module__ == "typing" and typing_extensions.is_typeddict(origin) and sys.version_info < (3, 12):
        return _modern_typed_dict(annotation)
    if origin is typing.Annotated:
        return typing.Annotated[(_prepare(args[0]), *args[1:])]
    return _prepare_class(annotation, origin, args)


def _prepare_class(annotation: Annotation, origin: Any, args: tuple[Annotation, ...]) -> Annotation:
    """Prepare a class and what stands in its brackets."""
    if origin in _AS_THEY_ARE or (origin is abc.Mapping and not args):
        return typing.Annotated[Any, _Instance(origin)]
    if origin in _ITERABLES:
        return typing.Annotated[Any, _Items(origin, _prepare(args[0]) if args else Any)]
    if origin in (typing.Literal, abc.Callable) or not args:
        return annotation
    prepared = tuple(part if part in (Ellipsis, ()) else _prepare(part) for part in args)
    return annotation if all(a is b for a, b in zip(prepared, args, strict=True)) else _rebuild(origin, prepared)


def _rebuild(origin: Any, args: tuple[Annotation, ...]) -> Annotation:
    return typing.Union[args] if describe(origin) in {"Union", "UnionType"} else origin[args]  # noqa: UP007  (values)


def _modern_typed_dict(annotation: Annotation) -> Annotation:
    """Rebuild a ``typing.TypedDict``, which pydantic refuses before Python 3.12, as typing_extensions' own."""
    record = Record.of(annotation)
    if record is None:
        return annotation
    fields = {
        name: typing_extensions.Required[hint] if name in record.required else typing_extensions.NotRequired[hint]
        for name, hint in ((name, _prepare(hint)) for name, hint in record.fields.items())
    }
    modern = typing_extensions.TypedDict(record.cls.__name__, fields)  # type: ignore[misc]  # built from values
    modern.__pydantic_config__ = getattr(record.cls, "__pydantic_config__", ConfigDict())  # type: ignore[attr-defined]  # pydantic's hook
    return modern


# ---------------------------------------------------------------- text is no number, a bool is no number

_Node: TypeAlias = dict[str, Any]
"""A node of pydantic's core schema."""

#: Labels of union branches: they show up in the locations of errors and are taken out again.
_FAST: Final = "\0fast"
_BRANCH: Final = "\0"
#: Keys of core schema nodes under which further nodes stand.
_NESTED: Final = frozenset(
    {
        "arguments_schema",
        "choices",
        "definitions",
        "extras_keys_schema",
        "extras_schema",
        "fields",
        "items_schema",
        "json_schema",
        "keys_schema",
        "lax_schema",
        "python_schema",
        "return_schema",
        "schema",
        "steps",
        "strict_schema",
        "values_schema",
        "var_args_schema",
        "var_kwargs_schema",
    }
)
_NUMBERS: Final = {
    "int": "a valid integer",
    "float": "a valid number",
    "bool": "a valid boolean",
    "complex": "a valid complex number",
    "decimal": "a valid decimal",
}
_CONVERTIBLE: Final = {"float": (float, int), "complex": (complex, float, int)}


def _without_text_as_numbers(node: Any) -> Any:
    """Return a copy of a core schema in which no number is read from text or from a bool."""
    if isinstance(node, list):
        return [_without_text_as_numbers(part) for part in node]
    if isinstance(node, tuple):  # (schema, label) among the choices of a union
        return (_without_text_as_numbers(node[0]), *node[1:])
    if not isinstance(node, dict):
        return node
    kind = node.get("type")
    if not isinstance(kind, str):  # named fields, or the choices of a tagged union
        return {name: _without_text_as_numbers(part) for name, part in node.items()}
    copy = {key: _without_text_as_numbers(part) if key in _NESTED else part for key, part in node.items()}
    copy.pop("serialization", None)
    if kind == "union":
        copy["choices"] = [(_unlabelled(part), f"{_BRANCH}{number}") for number, part in enumerate(copy["choices"])]
    if kind in _NUMBERS and not copy.get("strict"):
        return _guarded_number(kind, copy)
    return _guarded_values(copy) if kind in {"enum", "literal"} else copy


def _unlabelled(choice: Any) -> Any:
    return choice[0] if isinstance(choice, tuple) else choice


def _guarded_number(kind: str, node: _Node) -> _Node:
    ref = {"ref": node.pop("ref")} if "ref" in node else {}
    slow = _before(functools.partial(_check_number, _NUMBERS[kind], kind == "bool"), node)
    fast: _Node = {**node, "strict": True}
    if kind in _CONVERTIBLE:  # even strict, pydantic takes whatever has __float__ or __complex__, numpy's bool too
        fast = {"type": "chain", "steps": [{"type": "is-instance", "cls": _CONVERTIBLE[kind]}, fast]}
    choices = [(fast, _FAST), (slow, f"{_BRANCH}slow")]
    return {"type": "union", "mode": "left_to_right", "choices": choices, **ref}


def _guarded_values(node: _Node) -> _Node:
    """Guard an enum or a Literal of numbers: pydantic compares by equality, and ``True == 1``."""
    values = node["expected"] if node["type"] == "literal" else [member.value for member in node["members"]]
    numbers = [value for value in values if isinstance(value, int | float)]
    if not numbers:
        return node
    ref = {"ref": node.pop("ref")} if "ref" in node else {}
    texts = node["type"] == "literal" or any(isinstance(value, str | bytes) for value in values)
    bools = any(isinstance(value, bool) for value in values)
    expected = " or ".join(repr(value) for value in values)
    check = functools.partial(_check_value, expected, bools, texts)
    return {**_before(check, node), **ref}


def _before(check: Callable[[object], object], node: _Node) -> _Node:
    return {"type": "function-before", "function": {"type": "no-info", "function": check}, "schema": node}


def _plain(value: Any) -> object:
    """Return the Python value of an enum's member, a numpy scalar, or an array or tensor without dimensions."""
    if isinstance(value, enum.Enum):
        return value.value
    if hasattr(value, "dtype") and callable(getattr(value, "item", None)) and getattr(value, "ndim", 0) == 0:
        return value.item()
    return value


def _check_number(expected: str, bools: bool, value: object) -> object:
    value = _plain(value)
    if hasattr(value, "dtype") and getattr(value, "ndim", 0) > 0:
        _refuse(expected, "an array is no number; reduce it in the stage")
    if isinstance(value, _TEXT):
        _refuse(expected, "text is never read as a number; convert it in the stage")
    if isinstance(value, bool) and not bools:
        _refuse(expected, "a bool is never read as a number; convert it in the stage")
    return value


def _check_value(expected: str, bools: bool, texts: bool, value: object) -> object:
    value = _plain(value)
    if (isinstance(value, bool) and not bools) or (isinstance(value, _TEXT) and not texts):
        _refuse(expected, "neither text nor a bool is read as a number")
    return value


def _refuse(expected: str, why: str) -> NoReturn:
    raise PydanticCustomError("sweep_number", "Input should be {expected} ({why})", {"expected": expected, "why": why})


def _build(annotation: Annotation) -> SchemaValidator:
    """Build the validator of an annotation.

    ``list[...]`` around it lets one config serve every annotation: pydantic refuses
    a config beside a model, dataclass or TypedDict, but hands it down to them.
    """
    wrapped: Any = types.GenericAlias(list, (_prepare(annotation),))
    adapter: TypeAdapter[object] = TypeAdapter(wrapped, config=ConfigDict(arbitrary_types_allowed=True))
    schema: _Node = dict(adapter.core_schema)
    if schema["type"] == "definitions":
        schema["schema"] = schema["schema"].get("items_schema", {"type": "any"})
    else:
        schema = schema.get("items_schema", {"type": "any"})
    # Without the last argument the validators that models carry would take the place of the rewritten nodes.
    return SchemaValidator(_without_text_as_numbers(schema), None, False)


# ---------------------------------------------------------------- one value


@final
class FieldContract:
    """The type of one named value, ready to check it.

    Args:
        name: Name of the field; ``""`` for a model whose fields stand alone.
        annotation: Resolved annotation. A class unknown to pydantic means ``isinstance``.

    Raises:
        ContractError: The annotation cannot be checked, with the reason.

    Example:
        >>> FieldContract("scores", list[float]).validate([1, 2.5], "train")
        [1.0, 2.5]
        >>> FieldContract("scores", list[float]).validate([1, "2.5"], "train")
        Traceback (most recent call last):
            ...
        sweep.errors.ContractViolation: stage 'train', field 'scores[1]': got '2.5' (str), expected a valid number \
(text is never read as a number; convert it in the stage); contract: list[float]
    """

    __slots__ = ("_validate", "annotation", "name")

    def __init__(self, name: str, annotation: Annotation) -> None:
        self.name, self.annotation = name, annotation
        what = f"field {name!r}" if name else f"contract {describe(annotation)}"
        if annotation is not None and not is_annotation(annotation):
            reason = f"{annotation!r} is no type; a contract is a class, a typing construct or an alias"
            raise ContractError(what, [reason])
        try:
            self._validate = _build(annotation).validate_python
        except (PydanticUserError, PydanticUndefinedAnnotation, SchemaError, TypeError, NameError) as error:
            problem = f"{describe(annotation)} cannot be checked: {_reason(annotation, error)}"
            raise ContractError(what, [problem]) from error

    def validate(self, value: object, stage: str, hint: str = "") -> Any:
        """Return the value as the contract types it.

        Args:
            value: What is to be checked; never changed.
            stage: Path of the stage, for the message.
            hint: What to do, for the message; by default it names the contract.

        Raises:
            ContractViolation: The value does not fit.
        """
        try:
            return self._validate(value)
        except ValidationError as error:
            raise self._violation(error, stage, hint) from None  # the original shows our labels

    def _violation(self, error: ValidationError, stage: str, hint: str) -> ContractViolation:
        place, expected, value, others = _first_problem(error)
        path = _path(self.name, place) or describe(self.annotation)
        more = f" (and {others} more problem{'s' if others > 1 else ''})" if others else ""
        contract = f"contract: {describe(self.annotation)}"
        return ContractViolation(stage, path, value, expected + more, f"{contract}; {hint}" if hint else contract)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.name, self.annotation)

    def __repr__(self) -> str:
        return f"FieldContract({self.name!r}, {describe(self.annotation)})"


def _reason(annotation: Annotation, error: Exception) -> str:
    record = Record.of(annotation)
    unknown = [f"{name}: {hint}" for name, hint in record.fields.items() if isinstance(hint, str)] if record else []
    if unknown:
        return f"the name in {', '.join(unknown)} is not known in the module of {describe(annotation)}"
    return str(error).split("\n\nFor further information", 1)[0]


_Place = tuple[int | str, ...]


def _first_problem(error: ValidationError) -> tuple[_Place, str, object, int]:
    """Return place, expectation and value of the first problem, and how many others there are.

    Of the branches of a union, the one that got deepest is told; those equally deep together.
    """
    groups: dict[_Place, list[tuple[_Place, str, object]]] = {}
    for detail in error.errors(include_url=False, include_context=False):
        labels = [index for index, part in enumerate(detail["loc"]) if str(part).startswith(_BRANCH)]
        if any(detail["loc"][index] == _FAST for index in labels):
            continue
        start = tuple(detail["loc"][: labels[0]] if labels else detail["loc"])
        place = tuple(part for part in detail["loc"] if not str(part).startswith(_BRANCH))
        expected = "a value for this key" if detail["type"] == "missing" else detail["msg"]
        told = expected.removeprefix("Input should be ").removeprefix("Value error, ")
        groups.setdefault(start, []).append((place, told, detail["input"]))
    problems = next(iter(groups.values()))
    deepest = max(problems, key=lambda problem: len(problem[0]))
    expected = " or ".join(dict.fromkeys(told for place, told, _ in problems if place == deepest[0]))
    return deepest[0], expected, deepest[2], len(groups) - 1


def _path(name: str, place: _Place) -> str:
    """Write a location as code would: ``trials[2].lr``."""
    path = name
    for part in place:
        if part == "[key]":
            path += " (the key)"
        elif isinstance(part, str) and part.isidentifier():
            path += f".{part}" if path else part
        else:
            path += f"[{part!r}]"
    return path


# ---------------------------------------------------------------- what a stage returns


@final
class Fields(Mapping[str, Any]):
    """A read-only view of several fields, read by key or by attribute.

    Example:
        >>> view = Fields({"lr": 0.1, "depth": 3})
        >>> view.lr, view["depth"], dict(view)
        (0.1, 3, {'lr': 0.1, 'depth': 3})
    """

    __slots__ = ("_values",)

    _values: dict[str, Any]

    def __init__(self, values: Mapping[str, object]) -> None:
        object.__setattr__(self, "_values", dict(values))

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name not in self._values:
            raise AttributeError(f"no field {name!r}{did_you_mean(name, self._values)}")
        return self._values[name]

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"fields are read-only; return {{{name!r}: …}} from a stage instead")

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self._values,)

    def __repr__(self) -> str:
        return f"Fields({', '.join(f'{name}={value!r}' for name, value in self._values.items())})"


class Accepted(NamedTuple):
    """What a return value came to.

    Attributes:
        updates: Field name to validated value, declared fields and others it set.
        output: What hooks get: the model, the bare value of a single field, or :class:`Fields`.
        models: The model's class to its instance, for binding by annotation.
    """

    updates: dict[str, Any]
    output: Any
    models: dict[Annotation, Any]


@final
class OutputContract:
    """What ``.through()`` promises of the stage before it.

    Args:
        model: A pydantic model, dataclass, TypedDict or NamedTuple.
        fields: Name to annotation. Empty together with no model: nothing is passed on.

    Attributes:
        model: The class, or ``None``.
        fields: Name to contract; a model contributes its fields.

    Raises:
        ContractError: Both are given, the model has no fields, or an annotation cannot be checked.

    Example:
        >>> contract = OutputContract(fields={"score": float})
        >>> contract.accept("evaluate", 1, {}).updates
        {'score': 1.0}
        >>> contract.accept("evaluate", {"score": 1, "step": 4}, {"step": FieldContract("step", int)}).updates
        {'score': 1.0, 'step': 4}
    """

    __slots__ = ("_only", "_record", "_whole", "fields", "model")

    def __init__(self, model: Annotation = None, fields: Mapping[str, Annotation] | None = None) -> None:
        if model is not None and fields:
            names = ", ".join(fields)
            raise ContractError(
                "through()", [f"it takes a model or named fields, not both: got {describe(model)} and {names}"]
            )
        self.model = model
        self._record = None if model is None else _record(model)
        self._whole = None if model is None else FieldContract("", model)
        annotations = self._record.fields if self._record is not None else fields or {}
        self.fields = {name: FieldContract(name, annotation) for name, annotation in annotations.items()}
        self._only = next(iter(self.fields.items())) if self._record is None and len(self.fields) == 1 else None

    @property
    def annotations(self) -> dict[str, Annotation]:
        """Field name to annotation."""
        return {name: field.annotation for name, field in self.fields.items()}

    def accept(self, stage: str, returned: object, known: Mapping[str, FieldContract]) -> Accepted:
        """Say what a return value means, and check it.

        Args:
            stage: Path of the stage, for messages.
            returned: The raw (or transformed) return value.
            known: Contracts of all fields a dict may set besides: contracts, inputs, experiment fields.

        Raises:
            ContractViolation: It does not fit, a field is missing, or a key is no known field.
        """
        if self._only is not None:
            return self._accept_one(stage, returned, known, *self._only)
        if self._record is not None and self._whole is not None:
            return self._accept_model(stage, returned, known, self._record, self._whole)
        return self._accept_several(stage, returned, known) if self.fields else Accepted({}, returned, {})

    def _accept_model(
        self, stage: str, returned: object, known: Mapping[str, FieldContract], record: Record, whole: FieldContract
    ) -> Accepted:
        updates: dict[str, Any] = {}
        typed_dict = typing_extensions.is_typeddict(record.cls)
        if isinstance(returned, Mapping) and (typed_dict or not isinstance(returned, record.cls)):
            extras = {} if record.open else {key: value for key, value in returned.items() if key not in record.keys}
            updates = self._extras(stage, extras, known)
            returned = {key: value for key, value in returned.items() if key not in extras}
        model = whole.validate(returned, stage)
        values = model if typed_dict else {name: getattr(model, name) for name in record.fields}
        if not hasattr(record.cls, "model_fields"):  # an instance of a plain class has checked nothing itself
            values = {name: self.fields[name].validate(value, stage) for name, value in values.items()}
        updates.update(values)
        return Accepted(updates, model, {self.model: model})

    def _accept_one(
        self, stage: str, returned: object, known: Mapping[str, FieldContract], name: str, contract: FieldContract
    ) -> Accepted:
        hint = ""
        if type(returned) is dict and name in returned:
            if len(returned) == 1:
                value = contract.validate(returned[name], stage)
                return Accepted({name: value}, value, {})
            extras = {key: value for key, value in returned.items() if key != name}
            unknown = [key for key in extras if key not in known]
            if not unknown:
                value = contract.validate(returned[name], stage)
                return Accepted({name: value, **self._extras(stage, extras, known)}, value, {})
            meant = did_you_mean(str(unknown[0]), [*known, name])
            hint = f"the dict is not taken as fields, because {unknown[0]!r} is no known field{meant}"
        value = contract.validate(returned, stage, hint)
        return Accepted({name: value}, value, {})

    def _accept_several(self, stage: str, returned: object, known: Mapping[str, FieldContract]) -> Accepted:
        names = ", ".join(self.fields)
        if not isinstance(returned, Mapping):
            raise ContractViolation(stage, names, returned, f"a mapping with {names}")
        extras = {key: value for key, value in returned.items() if key not in self.fields}
        for name in self.fields:
            if name not in returned:
                meant = did_you_mean(name, (str(key) for key in extras if key not in known))
                raise ContractViolation(stage, name, returned, f"a mapping with {names}", f"{name!r} is missing{meant}")
        updates = self._extras(stage, extras, known)
        values = {name: contract.validate(returned[name], stage) for name, contract in self.fields.items()}
        return Accepted({**values, **updates}, Fields(values), {})

    def _extras(self, stage: str, extras: dict[str, object], known: Mapping[str, FieldContract]) -> dict[str, object]:
        """Check the keys beyond the contract: each must be a field that is known."""
        for key, value in extras.items():
            if key not in known:
                fields = list(dict.fromkeys([*self.fields, *known]))
                raise ContractViolation(
                    stage,
                    str(key),
                    value,
                    "no such key: besides the contract's own only known fields may be set",
                    did_you_mean(str(key), fields).removeprefix("; ") or f"known are {', '.join(fields)}",
                )
        return {key: known[key].validate(value, stage) for key, value in extras.items()}

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.model, {} if self.model is not None else self.annotations)

    def __repr__(self) -> str:
        if self.model is not None:
            return f"through({describe(self.model)})"
        return f"through({', '.join(f'{name}={describe(one)}' for name, one in self.annotations.items())})"


def _record(model: Annotation) -> Record:
    record = Record.of(model)
    if record is None:
        told = describe(model) if is_annotation(model) else repr(model)
        reason = (
            f"{told} has no fields of its own, so it needs a name: .through(result={told}); "
            "alone stands only a pydantic model, dataclass, TypedDict or NamedTuple"
        )
        raise ContractError("through()", [reason])
    return record
