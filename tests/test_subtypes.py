"""The subtype table: pairs by hand, and soundness against the run-time validators."""

from __future__ import annotations

import collections
import collections.abc as abc
import dataclasses
import datetime
import decimal
import enum
import pathlib
import types
import typing
import uuid
from collections.abc import Callable
from typing import Annotated, Any, Generic, Literal, NamedTuple, NewType, NotRequired, Protocol, TypeVar

import numpy as np
import pytest
import typing_extensions
from annotated_types import Gt, Len
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, RootModel, model_validator
from typing_extensions import TypedDict

from sweep.errors import ContractViolation
from sweep.pipeline.contracts import FieldContract
from sweep.pipeline.subtypes import Verdict, subtype

P, R, U = Verdict.PROVEN, Verdict.REFUTED, Verdict.UNPROVEN


class Animal: ...


class Dog(Animal): ...


class Stone: ...


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Size(enum.IntEnum):
    SMALL = 1
    LARGE = 2


class Mode(enum.StrEnum):
    MIN = "min"
    MAX = "max"


class Model(BaseModel):
    lr: float
    depth: int = 3


class Child(Model):
    extra: str = ""


class Other(BaseModel):
    name: str


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")
    lr: float


class Aliased(BaseModel):
    rate: float = Field(alias="lr")


class FromAnything(BaseModel):
    lr: float

    @model_validator(mode="before")
    @classmethod
    def read(cls, value: Any) -> Any:
        return {"lr": value} if isinstance(value, float) else value


class Scores(RootModel[list[float]]): ...


@dataclasses.dataclass
class Point:
    x: float
    y: float = 0.0


@dataclasses.dataclass
class Point3(Point):
    z: float = 0.0


class Pair(NamedTuple):
    name: str
    score: float = 0.0


class Row(TypedDict):
    lr: float
    depth: int


class Partial(TypedDict, total=False):
    lr: float
    depth: int


class Mixed(TypedDict):
    lr: float
    note: NotRequired[str]


class BadRow(TypedDict):
    lr: str
    depth: int


class OnlyDepth(TypedDict):
    depth: int


class Wide(TypedDict):
    lr: float
    depth: int
    name: str


class OldRow(typing.TypedDict):
    lr: float
    depth: int


class Node(TypedDict):
    value: int
    children: list[Node]


class Tree(TypedDict):
    value: float
    children: list[Tree]


class TextTree(TypedDict):
    value: str
    children: list[TextTree]


class Closes(Protocol):
    def close(self) -> None: ...


class File(Closes):
    def close(self) -> None: ...


T = TypeVar("T")
Bound = TypeVar("Bound", bound=Animal)
OneOf = TypeVar("OneOf", int, str)
UserId = NewType("UserId", int)
ItemId = NewType("ItemId", int)
Json = typing_extensions.TypeAliasType("Json", "dict[str, Json] | list[Json] | str | int | float | None")
Numbers = typing_extensions.TypeAliasType("Numbers", list[int])
Listed = typing_extensions.TypeAliasType("Listed", list[T], type_params=(T,))


class Box(Generic[T]): ...


class IntBox(Box[int]): ...


@dataclasses.dataclass
class Holder(Generic[T]):
    held: T


class Table(dict[str, float]): ...


class Frozen(abc.Mapping[str, int]):
    def __init__(self, values: dict[str, int] | None = None) -> None:
        self.values_ = dict(values or {})

    def __getitem__(self, key: str) -> int:
        return self.values_[key]

    def __iter__(self) -> abc.Iterator[str]:
        return iter(self.values_)

    def __len__(self) -> int:
        return len(self.values_)


TABLE: list[tuple[Any, Any, Verdict]] = [
    # Any, object, None
    (Any, int, P),
    (int, Any, P),
    (list[Any], list[int], P),
    (list, list[int], P),
    (typing.List, list[int], P),  # noqa: UP006  (the old alias is what is tested)
    (int, object, P),
    (None, object, P),
    (object, int, U),
    (object, list[int], U),
    (object, Model, U),
    (None, None, P),
    (None, type(None), P),
    (int, None, R),
    (None, int, R),
    (None, Model, R),
    (typing.NoReturn, int, P),
    (int, typing.Never, R),
    # numbers, text, bool
    (int, int, P),
    (int, float, P),
    (int, complex, P),
    (float, complex, P),
    (float, int, U),
    (complex, float, R),
    (bool, int, R),
    (bool, float, R),
    (bool, complex, R),
    (bool, bool, P),
    (int, bool, U),
    (float, bool, U),
    (str, int, R),
    (str, float, R),
    (str, bool, R),
    (str, complex, R),
    (bytes, int, R),
    (bytes, float, R),
    (bytes, bool, R),
    (str, str, P),
    (int, str, R),
    (float, str, R),
    (bool, str, R),
    (bytes, str, U),
    (str, bytes, U),
    (bytearray, bytes, P),
    (int, decimal.Decimal, P),
    (float, decimal.Decimal, U),
    (str, decimal.Decimal, R),
    (bool, decimal.Decimal, R),
    (decimal.Decimal, float, U),
    (decimal.Decimal, str, R),
    (Size, int, P),
    (Size, float, P),
    (Mode, str, P),
    (typing.LiteralString, str, P),
    (str, typing.LiteralString, P),
    # numpy
    (np.float32, float, P),
    (np.float64, float, P),
    (np.int64, int, P),
    (np.int64, float, P),
    (np.float32, int, U),
    (np.bool_, bool, P),
    (np.bool_, int, R),
    (float, np.float32, R),
    (np.ndarray, np.ndarray, P),
    (list[float], np.ndarray, R),
    (np.ndarray, list[float], U),
    (np.ndarray, float, U),
    # time and paths
    (datetime.datetime, datetime.datetime, P),
    (datetime.date, datetime.datetime, P),
    (datetime.datetime, datetime.date, U),
    (str, datetime.datetime, U),
    (list[int], datetime.datetime, R),
    (str, uuid.UUID, U),
    (str, pathlib.Path, P),
    (pathlib.Path, str, R),
    (pathlib.PosixPath, pathlib.Path, P),
    (int, pathlib.Path, U),
    # unions
    (int, int | str, P),
    (str, int | float, R),
    (bool, int | None, R),
    (int | str, str | int, P),
    (int | str, int | str | None, P),
    (int | None, int, U),
    (int | str, int, U),
    (str | bytes, int | float, R),
    (typing.Optional[int], int | None, P),  # noqa: UP045  (the old spelling is what is tested)
    (int, typing.Optional[float], P),  # noqa: UP045  (the old spelling is what is tested)
    (typing.Union[int, str], float | str, P),  # noqa: UP007  (the old spelling is what is tested)
    (None, int | None, P),
    (list[int] | None, list[float] | None, P),
    (float, int | str, U),
    # classes
    (Dog, Animal, P),
    (Animal, Dog, U),
    (Stone, Animal, R),
    (int, Animal, R),
    (Animal, int, R),
    (type[Dog], type[Animal], P),
    (type[Animal], type[Dog], U),
    (type[Stone], type[Animal], R),
    (type[int | str], type[int | str | float], P),
    (type, type[int], P),
    (type[int], type, P),
    (int, type[int], R),
    (type[int], int, R),
    # lists and other gathered containers
    (list[int], list[int], P),
    (list[int], list, P),
    (list[int], list[float], P),
    (list[bool], list[int], R),
    (list[str], list[int], R),
    (list[float], list[int], U),
    (list[int | str], list[int], U),
    (list[list[int]], list[list[float]], P),
    (list[dict[str, str]], list[dict[str, int]], R),
    (list[Dog], list[Animal], P),
    (tuple[int, ...], list[int], P),
    (set[int], list[int], P),
    (list[int], set[int], P),
    (list[list[int]], set, R),
    (frozenset[int], set[float], P),
    (collections.deque[int], list[int], P),
    (list[int], collections.deque[int], P),
    (dict[str, int], list[str], R),
    (str, list[str], R),
    (bytes, list[int], R),
    (int, list[int], R),
    (range, list[int], P),
    (abc.Iterator[int], list[int], P),
    (abc.Generator[int, None, str], list[int], P),
    (abc.Generator[str, None, None], list[int], R),
    (abc.Sequence[int], list[int], U),
    (abc.Iterable[str], list[int], R),
    (abc.KeysView[int], list[int], P),
    (abc.ItemsView[str, int], list[tuple[str, int]], P),
    (abc.ValuesView[str], list[int], R),
    # tuples
    (tuple[int, str], tuple[int, str], P),
    (tuple[int, str], tuple[float, str], P),
    (tuple[int, str], tuple[int, int], R),
    (tuple[int, str], tuple[int], R),
    (tuple[int, ...], tuple[int, int], U),
    (tuple[str, ...], tuple[int, int], R),
    (tuple[int, int], tuple[int, ...], P),
    (tuple[int, str], tuple[int, ...], R),
    (tuple[int, int], list[float], P),
    (tuple[int, str], list[int], R),
    (tuple, tuple[int, str], U),
    (tuple[()], tuple[int, ...], P),
    (tuple[int], tuple[()], R),
    (list[int], tuple[int, int], U),
    (list[str], tuple[int, int], R),
    (Pair, tuple[str, float], P),
    (Pair, tuple[str, str], R),
    # abstract containers
    (list[int], abc.Sequence[int], P),
    (list[bool], abc.Sequence[int], R),
    (tuple[int, ...], abc.Sequence[float], P),
    (set[int], abc.Sequence[int], R),
    (str, abc.Sequence[str], R),
    (range, abc.Sequence[int], P),
    (list[int], abc.Iterable[int], P),
    (list[str], abc.Iterable[int], R),
    (set[int], abc.Collection[float], P),
    (set[str], abc.Collection[int], R),
    (dict[str, int], abc.Iterable[str], P),
    (dict[str, int], abc.Iterable[int], U),
    (str, abc.Iterable[str], P),
    (int, abc.Iterable[int], R),
    (abc.Iterator[int], abc.Iterable[float], P),
    (abc.Generator[int, None, None], abc.Iterator[int], P),
    (abc.Generator[str, None, None], abc.Iterator[int], U),
    (abc.Iterator[int], abc.Collection[int], R),
    (abc.AsyncGenerator[int, None], abc.AsyncIterator[int], P),
    (list[int], abc.AsyncIterator[int], R),
    (set[int], abc.Set[int], P),
    (list[int], abc.MutableSequence[float], P),
    (int, abc.Hashable, P),
    (abc.Hashable, int, U),
    (abc.Awaitable[int], int, R),
    (abc.Coroutine[Any, Any, int], abc.Awaitable[int], U),
    # mappings
    (dict[str, int], dict[str, float], P),
    (dict[str, int], dict[str, str], R),
    (dict[str, int], dict[int, int], R),
    (dict[str, bool], dict[str, int], R),
    (dict[str, float], dict[str, int], U),
    (dict[str, int], abc.Mapping[str, int], P),
    (dict, abc.Mapping[str, int], P),
    (abc.Mapping[str, int], dict[str, int], P),
    (Frozen, dict, P),
    (Frozen, dict[str, int], P),
    (Frozen, dict[str, str], R),
    (Table, dict[str, float], P),
    (Table, dict[str, str], R),
    (collections.OrderedDict[str, int], dict[str, int], P),
    (dict[str, int], collections.OrderedDict[str, int], P),
    (collections.Counter[str], dict[str, int], P),
    (collections.Counter[str], dict[str, str], R),
    (collections.defaultdict[str, list[int]], dict[str, list[float]], P),
    (list[int], dict[str, int], R),
    (int, dict, R),
    (dict[str, int], Table, U),
    # Literal and enums
    (Literal["a"], str, P),
    (Literal["a"], int, R),
    (Literal[1], int, P),
    (Literal[1], float, P),
    (Literal[True], int, R),
    (Literal[1], bool, P),
    (Literal[5], bool, R),
    (Literal["a"], Literal["a", "b"], P),
    (Literal["a", "b"], Literal["a"], U),
    (Literal["c"], Literal["a", "b"], R),
    (Literal[1], Literal[True], P),
    (Literal["a", 1], str | int, P),
    (Literal["a", 1], str, U),
    (Literal["a", None], Literal["a"] | None, P),
    (str, Literal["a", "b"], U),
    (int, Literal["a"], R),
    (str, Literal[1], R),
    (bool, Literal[True, False], P),
    (bool, Literal[True], U),
    (bool, Literal[1], R),
    (Colour, Colour, P),
    (Colour, str, U),
    (Colour, int, R),
    (Literal[True], Literal[1], R),
    (str, Colour, U),
    (int, Colour, R),
    (int, Size, U),
    (str, Size, R),
    (bool, Size, R),
    (Literal["red"], Colour, P),
    (Literal["green"], Colour, U),
    (Literal[Colour.RED], Colour, P),
    (Colour, Literal[Colour.RED, Colour.BLUE], P),
    (Colour, Literal[Colour.RED], U),
    # Annotated
    (Annotated[int, Gt(0)], int, P),
    (int, Annotated[int, Gt(0)], U),
    (Annotated[int, Gt(0)], Annotated[int, Gt(0)], P),
    (str, Annotated[int, Gt(0)], R),
    (int, Annotated[int, "a note"], P),
    (int, Annotated[int, Field(description="a note")], P),
    (int, Annotated[int, Field(ge=0)], U),
    (str, Annotated[int, BeforeValidator(int)], U),
    (list[int], Annotated[list[int], Len(1)], U),
    (list[Annotated[int, Gt(0)]], list[int], P),
    (list[int], list[Annotated[int, Gt(0)]], U),
    # TypedDict
    (Row, Row, P),
    (Row, OldRow, P),
    (OldRow, Row, P),
    (OldRow, Partial, P),
    (BadRow, OldRow, R),
    (Row, Partial, P),
    (Partial, Row, U),
    (OnlyDepth, Row, R),
    (Wide, Row, P),
    (BadRow, Row, R),
    (BadRow, Partial, R),
    (Row, Mixed, P),
    (Row, dict[str, float], P),
    (Row, dict[str, str], R),
    (Row, dict[int, float], R),
    (Wide, dict[str, float], R),
    (Row, abc.Mapping[str, float], P),
    (Row, list[str], R),
    (dict, Row, P),
    (dict[str, Any], Row, P),
    (dict[str, float], Row, U),
    (dict[str, str], Row, R),
    (int, Row, R),
    (Node, Tree, P),
    (Node, TextTree, R),
    # models
    (Model, Model, P),
    (Child, Model, P),
    (Model, Child, U),
    (Other, Model, R),
    (int, Model, R),
    (Row, Model, P),
    (BadRow, Model, R),
    (OnlyDepth, Model, R),
    (Partial, Model, U),
    (Wide, Strict, R),
    (Row, Aliased, P),
    (dict[str, float], Model, U),
    (dict[str, str], Model, R),
    (Model, dict, R),
    (Model, Row, R),
    (list[Child], list[Model], P),
    (float, FromAnything, U),
    (list[int], Scores, U),
    (str, Scores, R),
    # dataclasses and named tuples
    (Point, Point, P),
    (Point3, Point, P),
    (Point, Point3, U),
    (Point, Model, R),
    (Point, dict, R),
    (dict[str, str], Point, R),
    (dict[str, float], Point, U),
    (Pair, Pair, P),
    (tuple[str, float], Pair, P),
    (tuple[str], Pair, P),
    (tuple[int, float], Pair, R),
    (tuple[str, float, int], Pair, R),
    (list[str], Pair, U),
    (Holder[int], Holder[int], P),
    (Holder[str], Holder[int], U),
    # NewType, TypeVar, aliases
    (UserId, int, P),
    (UserId, UserId, P),
    (UserId, float, P),
    (UserId, str, R),
    (int, UserId, U),
    (str, UserId, R),
    (UserId, ItemId, U),
    (int, T, P),
    (T, int, P),
    (Dog, Bound, P),
    (Stone, Bound, R),
    (Bound, Animal, P),
    (int, OneOf, P),
    (OneOf, int, U),
    (list[int], Numbers, P),
    (Numbers, list[str], R),
    (Listed[int], list[int], P),
    (Listed[str], list[int], R),
    (str, Json, P),
    (dict[str, list[int]], Json, P),
    (Stone, Json, R),
    # generics of the user's own
    (Box[int], Box, P),
    (Box, Box[int], P),
    (Box[int], Box[float], P),
    (Box[int], Box[str], U),
    (IntBox, Box[int], P),
    (IntBox, Box[str], U),
    (Stone, Box[int], R),
    # callables and protocols
    (abc.Callable[[int], str], abc.Callable, P),
    (abc.Callable[[int], str], abc.Callable[[int], str], P),
    (abc.Callable[[float], int], abc.Callable[[int], float], P),
    (abc.Callable[[int], str], abc.Callable[[str], str], U),
    (abc.Callable[[int], str], abc.Callable[..., str], P),
    (type[int], abc.Callable[[int], str], P),
    (int, abc.Callable, R),
    (File, Closes, P),
    (Stone, Closes, U),
    (Closes, File, U),
    # unresolved references
    ("Model", "Model", P),
    ("Model", int, U),
]


def told(pair: Any) -> str:
    return str(pair)


@pytest.mark.parametrize(("have", "want", "verdict"), TABLE, ids=told)
def test_table(have: Any, want: Any, verdict: Verdict) -> None:
    assert subtype(have, want) is verdict


def test_table_is_large_enough_and_names_no_pair_twice() -> None:
    pairs = [f"{have!r} {want!r}" for have, want, _ in TABLE]
    assert len(pairs) >= 120
    assert sorted(pairs) == sorted(set(pairs))


# ---------------------------------------------------------------- soundness

#: Values of classes for which hypothesis needs help, or would leave the class's plain instances.
STRATEGIES: dict[Any, st.SearchStrategy[Any]] = {
    int: st.integers(-(2**64), 2**64),
    float: st.floats(allow_nan=True),
    decimal.Decimal: st.decimals(allow_nan=False, allow_infinity=False, places=3),
    str: st.text(),
    object: st.builds(object),
    Model: st.builds(Model, lr=st.floats(), depth=st.integers()),
    Child: st.builds(Child, lr=st.floats(), depth=st.integers(), extra=st.text()),
    Other: st.builds(Other, name=st.text()),
    Frozen: st.builds(Frozen, st.dictionaries(st.text(), st.integers(), min_size=1)),
    Table: st.builds(Table, st.dictionaries(st.text(), st.floats(), min_size=1)),
    np.float32: st.floats(width=32).map(np.float32),
    np.float64: st.floats().map(np.float64),
    np.int64: st.integers(-(2**63), 2**63 - 1).map(np.int64),
    np.bool_: st.booleans().map(np.bool_),
    np.ndarray: st.lists(st.floats()).map(np.array),
    Box: st.builds(Box),
    IntBox: st.builds(IntBox),
    Stone: st.builds(Stone),
    range: st.integers(1, 5).map(range),
    abc.Hashable: st.integers(),
    typing.LiteralString: st.text(),
    File: st.builds(File),
    pathlib.Path: st.text("abc/").map(pathlib.Path),
    pathlib.PosixPath: st.text("abc/").map(pathlib.PosixPath),
    type: st.sampled_from([int, str, Dog]),
}


def filled(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(inner, min_size=1, max_size=4)


def entries(key: Any, value: Any = int) -> st.SearchStrategy[dict[Any, Any]]:
    return st.dictionaries(values(key), values(value), min_size=1, max_size=3)


#: Generic classes: strategies of their values from their arguments.
GENERICS: dict[Any, Callable[..., st.SearchStrategy[Any]]] = {
    list: lambda item: filled(values(item)),
    abc.Sequence: lambda item: filled(values(item)),  # bytes is one too, and refused: the module says so
    set: lambda item: filled(values(item)).map(set),
    frozenset: lambda item: filled(values(item)).map(frozenset),
    collections.deque: lambda item: filled(values(item)).map(collections.deque),
    dict: entries,
    abc.Mapping: entries,
    collections.OrderedDict: lambda key, value: entries(key, value).map(collections.OrderedDict),
    collections.defaultdict: lambda key, value: entries(key, value).map(lambda f: collections.defaultdict(list, f)),
    collections.Counter: lambda key: entries(key).map(collections.Counter),
    abc.Iterator: lambda item: filled(values(item)).map(iter),
    abc.Generator: lambda item, *_: filled(values(item)).map(lambda found: (one for one in found)),
    abc.KeysView: lambda key: entries(key).map(lambda found: found.keys()),
    abc.ValuesView: lambda value: entries(int, value).map(lambda found: found.values()),
    abc.ItemsView: lambda key, value: entries(key, value).map(lambda found: found.items()),
    typing.Union: lambda *parts: st.one_of(*map(values, parts)),
    types.UnionType: lambda *parts: st.one_of(*map(values, parts)),
    Holder: lambda held: st.builds(Holder, values(held)),
    Box: lambda *_: st.builds(Box),
}
LEAVES = {"Node": st.integers(), "Tree": st.floats(), "TextTree": st.text()}


def values(annotation: Any) -> st.SearchStrategy[Any]:
    """Values of exactly the annotated type, containers not empty."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is None:
        return st.none()
    if annotation in STRATEGIES:
        return STRATEGIES[annotation]
    if origin in GENERICS:
        return GENERICS[origin](*args)
    if origin is tuple:
        return filled(values(args[0])).map(tuple) if Ellipsis in args else st.tuples(*map(values, args))
    return typed_dicts(annotation) if typing_extensions.is_typeddict(annotation) else st.from_type(annotation)


def typed_dicts(annotation: Any) -> st.SearchStrategy[Any]:
    if annotation.__name__ in LEAVES:
        leaf = LEAVES[annotation.__name__]
        flat = st.fixed_dictionaries({"value": leaf, "children": st.just([])})
        return st.fixed_dictionaries({"value": leaf, "children": st.lists(flat, max_size=2)})
    hints = typing_extensions.get_type_hints(annotation)
    due, may = annotation.__required_keys__, annotation.__optional_keys__
    return st.fixed_dictionaries({k: values(hints[k]) for k in due}, optional={k: values(hints[k]) for k in may})


#: Forms without concrete values: the user's opt-out, unresolved names, distinctions that exist only for the reader.
WITHOUT_VALUES = (Any, T, Bound, OneOf, UserId, ItemId, Numbers, typing.NoReturn, typing.Never, list, dict, tuple, type)


def has_values(annotation: Any) -> bool:
    if annotation is None or isinstance(annotation, str) or any(annotation is form for form in WITHOUT_VALUES):
        return False
    origin = typing.get_origin(annotation)
    unsupported = (abc.Awaitable, abc.Coroutine, abc.AsyncGenerator, abc.Callable, Listed, type)
    return annotation is not typing.List and origin not in unsupported and Any not in typing.get_args(annotation)  # noqa: UP006


CONCRETE = [row for row in TABLE if row[2] is not U and has_values(row[0]) and not isinstance(row[1], str)]
CONTRACTS: dict[int, FieldContract] = {}


def contract(want: Any) -> FieldContract:
    return CONTRACTS.setdefault(id(want), FieldContract("x", want))


def accepts(want: Any, value: Any) -> bool:
    try:
        contract(want).validate(value, "stage")
    except ContractViolation:
        return False
    return True


@pytest.mark.parametrize(("have", "want"), [row[:2] for row in CONCRETE if row[2] is P], ids=told)
def test_proven_pairs_are_accepted_when_they_run(have: Any, want: Any) -> None:
    @settings(max_examples=12, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(values(have))
    def check(value: Any) -> None:
        assert accepts(want, value), value

    check()


REFUSED = [row[:2] for row in CONCRETE if row[2] is R and row[1] is not typing.Never]


@pytest.mark.parametrize(("have", "want"), REFUSED, ids=told)
def test_refuted_pairs_are_refused_when_they_run(have: Any, want: Any) -> None:
    answers: list[bool] = []

    @settings(max_examples=12, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(values(have))
    def check(value: Any) -> None:
        answers.append(accepts(want, value))

    check()
    assert not all(answers)


def test_most_of_the_table_is_checked_against_the_validators() -> None:
    assert len(CONCRETE) >= 170


PARTS = st.sampled_from(
    [int, float, bool, str, bytes, None, complex, Colour, Size, Mode, Literal["a", 1], Row, Model, Pair]
)
ANNOTATIONS = st.recursive(
    PARTS,
    lambda inner: st.one_of(
        inner.map(lambda one: list[one]),
        inner.map(lambda one: tuple[one, ...]),
        st.tuples(inner, inner).map(lambda two: tuple[two]),
        st.tuples(inner, inner).map(lambda two: typing.Union[two]),  # noqa: UP007  (from values)
        inner.map(lambda one: dict[str, one]),
        inner.map(lambda one: abc.Sequence[one]),
        inner.map(lambda one: abc.Mapping[str, one]),
    ),
    max_leaves=3,
)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(ANNOTATIONS, ANNOTATIONS, st.data())
def test_random_pairs_are_sound(have: Any, want: Any, data: st.DataObject) -> None:
    verdict = subtype(have, want)
    if verdict is U:
        return
    contract = FieldContract("x", want)
    value = data.draw(values(have))
    if verdict is P:
        contract.validate(value, "stage")
    else:
        with pytest.raises(ContractViolation):
            contract.validate(value, "stage")


@settings(max_examples=100, deadline=None)
@given(ANNOTATIONS)
def test_every_annotation_fits_itself_and_any(annotation: Any) -> None:
    assert subtype(annotation, annotation) is P
    assert subtype(annotation, Any) is P
    assert subtype(Any, annotation) is P
    assert subtype(annotation, typing.Optional[annotation]) is P  # noqa: UP045  (from a value)
    assert subtype(list[annotation], abc.Iterable[annotation]) is P
