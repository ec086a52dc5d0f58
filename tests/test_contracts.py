"""Run-time contracts, the meaning of return values, and what functions say of themselves."""

from __future__ import annotations

import collections
import collections.abc as abc
import dataclasses
import datetime
import enum
import functools
import pickle
import subprocess
import sys
import types
import typing
from decimal import Decimal
from typing import Annotated, Any, Generic, Literal, NamedTuple, Protocol, TypeVar

import numpy as np
import pytest
import torch
import typing_extensions
from annotated_types import Ge, Len
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import (
    AliasChoices,
    AliasPath,
    BaseModel,
    ConfigDict,
    Field,
    StrictInt,
    TypeAdapter,
    ValidationError,
    field_validator,
)
from typing_extensions import TypedDict

from sweep.errors import ContractError, ContractViolation
from sweep.pipeline.annotations import describe, is_annotation
from sweep.pipeline.contracts import MISSING, FieldContract, Fields, OutputContract, read_signature

T = TypeVar("T")


class Colour(enum.Enum):
    RED = "red"


class Size(enum.IntEnum):
    SMALL = 1


class Weight(enum.Enum):
    HALF = 0.5
    ONE = 1


class Trial(BaseModel):
    lr: float
    depth: int = 3


class Child(Trial):
    extra: str = "x"


class Node(BaseModel):
    value: int
    children: list[Node] = []


class Kind(BaseModel):
    type: int
    schema_: float = Field(default=0.0)


class Circle(BaseModel):
    shape: Literal["circle"]
    radius: float


class Square(BaseModel):
    shape: Literal["square"]
    side: float


class Page(BaseModel, Generic[T]):
    items: list[T]


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    lr: float


class Checked(BaseModel):
    lr: float

    @field_validator("lr")
    @classmethod
    def positive(cls, value: float) -> float:
        if value <= 0:
            raise ValueError("a rate above 0")
        return value


@dataclasses.dataclass
class Point:
    x: float
    y: int = 0


class Aliased(BaseModel):
    lr: float = Field(alias="rate")
    depth: int = Field(validation_alias=AliasChoices("depth_", "deep"))
    m: int = Field(validation_alias=AliasPath("n", "m"))


@dataclasses.dataclass
class Seeded:
    x: float
    seed: dataclasses.InitVar[int] = 0

    def __post_init__(self, seed: int) -> None:
        self.x += seed


class Pair(NamedTuple):
    name: str
    score: float


class Row(TypedDict):
    lr: float
    depth: int


class OldRow(typing.TypedDict):
    lr: float
    rows: list[Row]


class Closes(Protocol):
    def close(self) -> None: ...


@typing.runtime_checkable
class Sized2(Protocol):
    def size2(self) -> int: ...


class Stone: ...


class Summary(abc.Mapping[str, Any]):
    """A read-only mapping, as results are."""

    def __init__(self, **values: Any) -> None:
        self._values = values

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __iter__(self) -> abc.Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


def check(annotation: Any, value: Any) -> Any:
    return FieldContract("x", annotation).validate(value, "loop/train#3")


def refusal(annotation: Any, value: Any) -> ContractViolation:
    with pytest.raises(ContractViolation) as caught:
        check(annotation, value)
    return caught.value


# ---------------------------------------------------------------- numbers, text, bools

#: Places at which a number may stand: annotation with a hole, value with a hole.
PLACES: list[tuple[Any, Any]] = [
    (lambda t: t, lambda v: v),
    (lambda t: list[t], lambda v: [v]),
    (lambda t: dict[str, t], lambda v: {"k": v}),
    (lambda t: tuple[t, ...], lambda v: (v,)),
    (lambda t: tuple[str, t], lambda v: ("a", v)),
    (lambda t: typing.Optional[t], lambda v: v),  # noqa: UP045  (from a value)
    (lambda t: set[t], lambda v: {v}),
    (lambda t: collections.deque[t], lambda v: collections.deque([v])),
    (lambda t: abc.Sequence[t], lambda v: [v]),
    (lambda t: abc.Iterable[t], lambda v: [v]),
    (lambda t: abc.Collection[t], lambda v: (v,)),
    (lambda t: abc.Mapping[str, list[t]], lambda v: {"k": [v]}),
    (lambda t: Annotated[t, Field(description="note")], lambda v: v),
    (lambda t: dataclasses.make_dataclass("D", [("a", t)]), lambda v: {"a": v}),
    (lambda t: TypedDict("D", {"a": t}), lambda v: {"a": v}),
    (lambda t: typing.TypedDict("D", {"a": t}), lambda v: {"a": v}),
    (lambda t: NamedTuple("D", [("a", t)]), lambda v: (v,)),
    (lambda t: Page[t], lambda v: {"items": [v]}),
    (lambda t: type("D", (BaseModel,), {"__annotations__": {"a": t}, "__module__": __name__}), lambda v: {"a": v}),
    (lambda t: typing_extensions.TypeAliasType("A", list[t]), lambda v: [v]),
]
REFUSED = [
    (int, "5"),
    (int, b"5"),
    (int, True),
    (int, np.True_),
    (int, np.str_("5")),
    (float, "0.5"),
    (float, "nan"),
    (float, False),
    (float, np.False_),
    (bool, "true"),
    (bool, "1"),
    (bool, b"1"),
    (complex, "1j"),
    (complex, True),
    (Decimal, "1.5"),
    (Decimal, True),
    (int, 1.5),
    (int, float("nan")),
    (int | float, "1"),
    (int | float, True),
    (int | None, "1"),
    (Size, "1"),
    (Size, True),
    (Weight, True),
    (Literal[1, 2], True),
    (Literal[1, 2], "1"),
]


@pytest.mark.parametrize(("annotation", "value"), REFUSED)
@pytest.mark.parametrize("place", range(len(PLACES)))
def test_text_and_bools_become_no_number_at_any_depth(place: int, annotation: Any, value: Any) -> None:
    hole, held = PLACES[place]
    with pytest.raises(ContractViolation):
        check(hole(annotation), held(value))


ACCEPTED = [
    (int, 5, 5),
    (int, 5.0, 5),
    (int, 10**40, 10**40),
    (int, np.int64(2**62 + 1), 2**62 + 1),
    (int, np.uint8(7), 7),
    (int, Size.SMALL, 1),
    (float, 5, 5.0),
    (float, np.float32(0.5), 0.5),
    (float, np.float64(0.1), 0.1),
    (float, np.int32(3), 3.0),
    (float, Decimal("0.5"), 0.5),
    (float, float("inf"), float("inf")),
    (bool, True, True),
    (bool, 1, True),
    (bool, np.True_, True),
    (complex, 2, 2 + 0j),
    (complex, np.complex64(1j), 1j),
    (Decimal, 3, Decimal(3)),
    (int | float, 5, 5),
    (int | float, 5.5, 5.5),
    (float | int, 5, 5),
    (int | str, "5", "5"),
    (bool | int, 1, 1),
    (bool | int, True, True),
    (str | None, None, None),
    (Size, 1, Size.SMALL),
    (Size, np.int64(1), Size.SMALL),
    (Weight, 1, Weight.ONE),
    (Literal[1, "a"], "a", "a"),
    (Literal[True], True, True),
    (Colour, "red", Colour.RED),
]


@pytest.mark.parametrize(("annotation", "value", "expected"), ACCEPTED)
@pytest.mark.parametrize("wrapped", [False, True])
def test_numbers_arrive_as_plain_numbers(annotation: Any, value: Any, expected: Any, wrapped: bool) -> None:
    got = check(list[annotation], [value])[0] if wrapped else check(annotation, value)
    assert got == expected
    assert type(got) is type(expected)


def test_arrays_without_dimensions_are_numbers_and_others_are_not() -> None:
    assert check(float, torch.tensor(1.5, requires_grad=True)) == 1.5
    assert check(int, np.array(3)) == 3
    assert check(bool, torch.tensor(True)) is True
    assert "reduce it" in str(refusal(float, np.array([1.5])))
    for bad in (True, "1"):
        refusal(float, np.array(bad))
        refusal(int, np.array(bad))
    refusal(int, torch.tensor(True))
    refusal(float, torch.tensor(True))
    refusal(float, torch.tensor([1.0, 2.0]))


def test_constraints_hold_on_both_paths() -> None:
    bounded = Annotated[int, Field(ge=1, le=5)]
    assert check(bounded, 5) == 5
    assert check(bounded, 5.0) == 5
    assert check(bounded, np.int8(1)) == 1
    for bad in (0, 6, 0.0, np.int8(6)):
        assert "than or equal to" in str(refusal(bounded, bad))
    assert check(Annotated[list[int], Len(1)], [1]) == [1]
    refusal(Annotated[list[int], Len(1)], [])


def test_strict_fields_stay_strict() -> None:
    refusal(StrictInt, 1.0)
    assert check(StrictInt, 1) == 1


PLAIN = st.one_of(st.integers(), st.floats(allow_nan=False), st.none(), st.just([]), st.decimals(allow_nan=False))
KINDS = [int, float, str, bytes, type(None), int | float, int | str, float | None, int | float | str | None]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(KINDS), PLAIN, st.booleans())
def test_beyond_the_rule_the_answers_are_pydantics(annotation: Any, value: Any, nested: bool) -> None:
    """Where no text and no bool comes, values and verdicts are those of plain pydantic."""
    annotation, value = (dict[str, list[annotation]], {"k": [value]}) if nested else (annotation, value)
    try:
        expected = TypeAdapter(annotation).validate_python(value)
    except ValidationError:
        refusal(annotation, value)
        return
    got = check(annotation, value)
    assert repr(got) == repr(expected)


def test_text_may_become_what_is_no_number() -> None:
    assert check(datetime.date, "2024-02-03") == datetime.date(2024, 2, 3)
    assert check(bytes, "a") == b"a"


def test_dict_keys_of_text_are_no_numbers() -> None:
    assert check(dict[int, str], {1: "a"}) == {1: "a"}
    violation = refusal(dict[int, str], {"1": "a"})
    assert violation.field == "x['1'] (the key)"


# ---------------------------------------------------------------- models, classes, containers


def test_instances_are_taken_as_they_are() -> None:
    for annotation, value in [
        (Trial, Child(lr=1, extra="kept")),
        (list[Trial], Child(lr=1)),
        (Point, Point(1.0)),
        (Pair, Pair("a", 1.0)),
        (Stone, Stone()),
        (np.ndarray, np.zeros(2)),
        (torch.Tensor, torch.zeros(2)),
        (dict[str, torch.Tensor], torch.zeros(2)),
    ]:
        origin = typing.get_origin(annotation)
        if origin is list:
            assert check(annotation, [value])[0] is value
        elif origin is dict:
            assert check(annotation, {"k": value})["k"] is value
        else:
            assert check(annotation, value) is value or annotation is Pair


def test_unknown_classes_mean_isinstance() -> None:
    assert refusal(Stone, 3).value == 3
    assert "Tensor" in str(refusal(torch.Tensor, [1.0]))
    assert "an instance of Stone" in str(refusal(list[Stone], [Stone(), 3]))


def test_models_are_built_from_mappings_and_recursive_ones_checked_to_the_leaves() -> None:
    built = check(Node, {"value": 1, "children": [{"value": 2.0, "children": [{"value": 3}]}]})
    assert built.children[0].children[0] == Node(value=3)
    violation = refusal(Node, {"value": 1, "children": [{"value": 2, "children": [{"value": "3"}]}]})
    assert violation.field == "x.children[0].children[0].value"


def test_fields_named_like_schema_keys() -> None:
    assert check(Kind, {"type": 1, "schema_": 2}).type == 1
    assert refusal(Kind, {"type": "1"}).field == "x.type"


def test_tagged_unions() -> None:
    shape = Annotated[Circle | Square, Field(discriminator="shape")]
    assert check(shape, {"shape": "square", "side": 2}) == Square(shape="square", side=2)
    refusal(shape, {"shape": "circle", "radius": "2"})


def test_generic_models() -> None:
    assert check(Page[Trial], {"items": [{"lr": 1}]}).items[0].lr == 1.0
    assert refusal(Page[Trial], {"items": [{"lr": "1"}]}).field == "x.items[0].lr"


def test_read_only_mappings_under_dict_and_mapping() -> None:
    summary = Summary(best=0.5, n=3)
    assert check(dict, summary) == {"best": 0.5, "n": 3}
    assert check(dict[str, float], summary) == {"best": 0.5, "n": 3.0}
    assert check(list[dict], [types.MappingProxyType({"a": 1})]) == [{"a": 1}]
    assert check(abc.Mapping, summary) is summary
    refusal(dict[str, int], summary)


def test_typed_dicts_of_the_standard_library() -> None:
    assert check(OldRow, {"lr": 1, "rows": [{"lr": 2, "depth": 3}]}) == {"lr": 1.0, "rows": [{"lr": 2.0, "depth": 3}]}
    assert refusal(OldRow, {"lr": 1, "rows": [{"lr": 2, "depth": "3"}]}).field == "x.rows[0].depth"
    assert refusal(list[OldRow], [{"lr": 1}]).field == "x[0].rows"


def test_iterables_keep_the_value_and_are_not_consumed() -> None:
    numbers = (n for n in [1, 2])
    assert check(abc.Iterable[int], numbers) is numbers
    assert list(numbers) == [1, 2]
    assert check(abc.Iterator[int], iter([1])) is not None
    assert check(abc.Iterable[float], [1, 2]) == [1.0, 2.0]
    assert type(check(abc.Collection[int], frozenset({1}))) is frozenset
    assert refusal(abc.Iterable[int], [1, "2"]).field == "x[1]"
    refusal(abc.Collection[int], iter([1]))
    refusal(abc.Iterable[int], 3)


def test_protocols() -> None:
    stone = Stone()
    assert check(Closes, stone) is stone  # cannot be asked at run time
    refusal(Sized2, stone)


def test_values_are_not_changed() -> None:
    given_value = {"lr": 1, "rows": [{"lr": 2, "depth": 3}]}
    check(OldRow, given_value)
    assert repr(given_value) == "{'lr': 1, 'rows': [{'lr': 2, 'depth': 3}]}"


# ---------------------------------------------------------------- messages


@pytest.mark.parametrize(
    ("annotation", "value", "field", "words"),
    [
        (int, "abc", "x", ["loop/train#3", "'abc' (str)", "a valid integer", "text is never read", "contract: int"]),
        (list[Trial], [{"lr": 1}, {"lr": "1"}], "x[1].lr", ["a valid number", "contract: list[Trial]"]),
        (dict[str, Trial], {"a b": {"depth": 1}}, "x['a b'].lr", ["a value for this key"]),
        (list[Trial] | None, [{"lr": []}], "x[0].lr", ["got [] (list)"]),
        (int | list[Trial], [{"lr": []}], "x[0].lr", ["a valid number"]),
        (int | str, 1.5, "x", ["a valid string", " or "]),
        (Trial, {"lr": "a", "depth": "b"}, "x.lr", ["and 1 more problem)"]),
        (Checked, {"lr": -1}, "x.lr", ["expected a rate above 0"]),
        (Point, {"x": "1"}, "x.x", []),
        (Row, {"lr": 1, "depth": True}, "x.depth", ["a bool is never read as a number"]),
    ],
)
def test_messages_name_the_plain_place(annotation: Any, value: Any, field: str, words: list[str]) -> None:
    violation = refusal(annotation, value)
    assert violation.field == field
    assert violation.stage == "loop/train#3"
    text = str(violation)
    assert all(word in text for word in words), text
    assert "\0" not in text
    assert "function-" not in text
    assert violation.__suppress_context__


@pytest.mark.parametrize("annotation", [typing.Never, "Trial", 3, list["Nowhere"]])  # noqa: F821  (unknown on purpose)
def test_annotations_that_cannot_be_checked(annotation: Any) -> None:
    with pytest.raises(ContractError, match="field 'x'"):
        FieldContract("x", annotation)


def test_contracts_travel() -> None:
    again = pickle.loads(pickle.dumps(FieldContract("x", list[int])))
    assert again.validate([1], "s") == [1]
    contract = pickle.loads(pickle.dumps(OutputContract(fields={"a": int, "b": str})))
    assert contract.accept("s", {"a": 1, "b": "x"}, {}).updates == {"a": 1, "b": "x"}


# ---------------------------------------------------------------- cost


def python_calls(run: Any) -> int:
    """Count the Python functions that a call runs."""
    calls = 0

    def count(frame: types.FrameType, event: str, arg: object) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        run()
    finally:
        sys.setprofile(None)
    return calls


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (list[int], list(range(1000))),
        (list[float], [0.5] * 1000),
        (dict[str, bool], {str(n): True for n in range(1000)}),
        (list[Trial], [{"lr": 0.1, "depth": 2}] * 1000),
        (abc.Iterable[int], list(range(1000))),
    ],
)
def test_values_of_the_exact_type_are_checked_without_python(annotation: Any, value: Any) -> None:
    contract = FieldContract("x", annotation)
    assert python_calls(lambda: contract.validate(value, "s")) <= 20  # for all 1000 items


def test_importing_errors_does_not_import_pydantic() -> None:
    code = "import sys, sweep.errors; sys.exit('pydantic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---------------------------------------------------------------- what a return value means


def known(**annotations: Any) -> dict[str, FieldContract]:
    return {name: FieldContract(name, annotation) for name, annotation in annotations.items()}


def test_without_contract_nothing_is_passed_on() -> None:
    accepted = OutputContract().accept("s", 5, known(a=int))
    assert accepted == ({}, 5, {})


class TestOneField:
    contract = OutputContract(fields={"score": float})

    def test_the_value_itself(self) -> None:
        assert self.contract.accept("s", 1, {}) == ({"score": 1.0}, 1.0, {})

    def test_a_dict_of_known_fields(self) -> None:
        got = self.contract.accept("s", {"score": 1, "step": 4}, known(step=int, lr=float))
        assert got == ({"score": 1.0, "step": 4}, 1.0, {})

    def test_the_others_have_their_own_contracts(self) -> None:
        with pytest.raises(ContractViolation, match="field 'step'"):
            self.contract.accept("s", {"score": 1, "step": "4"}, known(step=int))

    def test_an_unknown_key_makes_it_the_value(self) -> None:
        with pytest.raises(ContractViolation, match=r"'stepp' is no known field; did you mean 'step'\?") as caught:
            self.contract.accept("s", {"score": 1, "stepp": 4}, known(step=int))
        assert caught.value.field == "score"

    @pytest.mark.parametrize(
        ("returned", "expected"),
        [
            ({"a": 1}, {"a": 1}),
            ({}, {}),
            ({"results": {"a": 1}}, {"a": 1}),
            ({"results": {"a": 1}, "a": 1}, {"results": {"a": 1}, "a": 1}),
            ({"step": 1}, {"step": 1}),
            (collections.OrderedDict(results={"a": 1}), {"results": {"a": 1}}),
            (Summary(results={}), {"results": {}}),
            (types.MappingProxyType({"results": {}}), {"results": {}}),
        ],
    )
    def test_under_dict(self, returned: Any, expected: Any) -> None:
        accepted = OutputContract(fields={"results": dict}).accept("s", returned, known(step=int))
        assert accepted.updates["results"] == accepted.output == expected

    def test_a_model_as_a_named_field_is_no_model_contract(self) -> None:
        accepted = OutputContract(fields={"task": Trial}).accept("s", {"lr": 1}, {})
        assert accepted.output == Trial(lr=1)
        assert accepted.models == {}

    def test_none(self) -> None:
        assert OutputContract(fields={"x": type(None)}).accept("s", None, {}).updates == {"x": None}
        with pytest.raises(ContractViolation):
            self.contract.accept("s", None, {})


class TestSeveralFields:
    contract = OutputContract(fields={"acquisition": str, "rate": float, "batch": int})

    def test_a_mapping_with_all(self) -> None:
        accepted = self.contract.accept("s", Summary(acquisition="EI", rate=1, batch=2.0), {})
        assert accepted.updates == {"acquisition": "EI", "rate": 1.0, "batch": 2}
        assert accepted.output.rate == 1.0
        assert dict(accepted.output) == accepted.updates

    def test_extras_are_known_fields(self) -> None:
        values = {"acquisition": "EI", "rate": 1, "batch": 2, "step": 5.0}
        accepted = self.contract.accept("s", values, known(step=int))
        assert accepted.updates["step"] == 5
        assert "step" not in accepted.output
        with pytest.raises(ContractViolation, match="did you mean 'steps'") as caught:
            self.contract.accept("s", values, known(steps=int))
        assert caught.value.field == "step"

    def test_missing(self) -> None:
        with pytest.raises(ContractViolation, match=r"'rate' is missing; did you mean 'rates'\?"):
            self.contract.accept("s", {"acquisition": "EI", "rates": 1, "batch": 2}, {})

    @pytest.mark.parametrize("returned", [None, 5, ("EI", 1.0, 2), Stone()])
    def test_no_mapping(self, returned: Any) -> None:
        with pytest.raises(ContractViolation, match="a mapping with acquisition, rate, batch"):
            self.contract.accept("s", returned, {})

    def test_each_by_its_contract(self) -> None:
        with pytest.raises(ContractViolation, match="field 'batch'"):
            self.contract.accept("s", {"acquisition": "EI", "rate": 1, "batch": True}, {})


class TestModel:
    def test_an_instance(self) -> None:
        child = Child(lr=0.5)
        accepted = OutputContract(Trial).accept("s", child, {})
        assert accepted.output is child
        assert accepted.models == {Trial: child}
        assert accepted.updates == {"lr": 0.5, "depth": 3}

    @pytest.mark.parametrize("returned", [{"lr": 1}, Summary(lr=1), types.MappingProxyType({"lr": 1})])
    @pytest.mark.parametrize("model", [Trial, Checked])
    def test_a_mapping(self, model: Any, returned: Any) -> None:
        assert OutputContract(model).accept("s", returned, {}).output == model(lr=1)

    def test_extras_are_known_fields(self) -> None:
        accepted = OutputContract(Trial).accept("s", {"lr": 1, "step": 2}, known(step=int))
        assert accepted.updates == {"lr": 1.0, "depth": 3, "step": 2}
        with pytest.raises(ContractViolation, match="did you mean 'depth'"):
            OutputContract(Trial).accept("s", {"lr": 1, "dpeth": 2}, known(step=int))

    def test_open_models_keep_their_extras(self) -> None:
        accepted = OutputContract(Open).accept("s", {"lr": 1, "more": 2}, {})
        assert accepted.output.more == 2
        assert accepted.updates == {"lr": 1.0}

    def test_keys_under_which_a_record_is_given(self) -> None:
        given_by = {"rate": 1, "deep": 2, "n": {"m": 3}}
        assert OutputContract(Aliased).accept("s", given_by, {}).updates == {"lr": 1.0, "depth": 2, "m": 3}
        assert OutputContract(Seeded).accept("s", {"x": 1, "seed": 2}, {}).updates == {"x": 3.0}

    def test_unresolvable_fields(self) -> None:
        @dataclasses.dataclass
        class Broken:
            ok: int
            x: Nowhere  # type: ignore[name-defined]  # noqa: F821  (on purpose)

        with pytest.raises(ContractError, match="the name in x: Nowhere is not known"):
            OutputContract(Broken)

    def test_the_place_is_the_field(self) -> None:
        with pytest.raises(ContractViolation) as caught:
            OutputContract(Node).accept("s", {"value": 1, "children": [{"value": "1"}]}, {})
        assert caught.value.field == "children[0].value"
        with pytest.raises(ContractViolation) as caught:
            OutputContract(Trial).accept("s", 5, {})
        assert caught.value.field == "Trial"

    def test_dataclass(self) -> None:
        accepted = OutputContract(Point).accept("s", Summary(x=1), {})
        assert accepted.output == Point(1.0)
        assert accepted.updates == {"x": 1.0, "y": 0}
        point = Point(2.0)
        assert OutputContract(Point).accept("s", point, {}).output is point

    def test_a_dataclass_instance_has_checked_nothing_itself(self) -> None:
        with pytest.raises(ContractViolation, match="field 'x'"):
            OutputContract(Point).accept("s", Point("1"), {})  # type: ignore[arg-type]  # on purpose

    def test_typed_dict_and_named_tuple(self) -> None:
        accepted = OutputContract(Row).accept("s", {"lr": 1, "depth": 2}, {})
        assert accepted.updates == accepted.output == {"lr": 1.0, "depth": 2}
        assert OutputContract(Pair).accept("s", ("a", 1), {}).updates == {"name": "a", "score": 1.0}
        assert OutputContract(Pair).accept("s", {"name": "a", "score": 1}, {}).output == Pair("a", 1.0)

    @pytest.mark.parametrize("model", [int, list[Trial], dict, Stone, 3])
    def test_what_has_no_fields_needs_a_name(self, model: Any) -> None:
        with pytest.raises(ContractError, match="needs a name"):
            OutputContract(model)

    def test_model_and_fields_exclude_each_other(self) -> None:
        with pytest.raises(ContractError, match="not both: got Trial and a, b"):
            OutputContract(Trial, {"a": int, "b": int})


def test_fields_view_is_read_only() -> None:
    view = Fields({"rate": 1.0})
    with pytest.raises(AttributeError, match="did you mean 'rate'"):
        _ = view.rat
    with pytest.raises(AttributeError, match="read-only"):
        view.rate = 2.0
    assert pickle.loads(pickle.dumps(view)) == view


# ---------------------------------------------------------------- signatures


def plain(a: int, b: list[Trial], c: Annotated[float, Ge(0)] = 1.0, *args: int, ctx, **more: Any) -> Trial: ...  # type: ignore[no-untyped-def,empty-body]  # an unannotated parameter on purpose


async def coroutine(a: int) -> float: ...  # type: ignore[empty-body]


def by_hand(a: int) -> abc.Coroutine[Any, Any, float]: ...  # type: ignore[empty-body]


def stream(a: int) -> abc.Iterator[float]:
    yield 0.5


class Worker:
    def run(self, trial: Trial) -> Point: ...  # type: ignore[empty-body]

    async def wait(self) -> None: ...

    @staticmethod
    def fixed(a: int) -> int: ...  # type: ignore[empty-body]

    @classmethod
    def made(cls, a: int) -> Worker: ...  # type: ignore[empty-body]

    def __call__(self, n: int) -> str: ...  # type: ignore[empty-body]


class AsyncWorker:
    async def __call__(self, n: int) -> str: ...  # type: ignore[empty-body]


def parameters(function: Any) -> list[tuple[str, Any, bool]]:
    return [(p.name, p.annotation, p.required) for p in read_signature(function).parameters]


def test_a_function() -> None:
    facts = read_signature(plain)
    assert [p.name for p in facts.parameters] == ["a", "b", "c", "args", "ctx", "more"]
    assert [p.required for p in facts.parameters] == [True, True, False, False, True, False]
    assert facts.parameters[1].annotation == list[Trial]
    assert facts.parameters[2].annotation == Annotated[float, Ge(0)]
    assert facts.parameters[4].annotation is MISSING
    assert facts.returns is Trial
    assert facts.where == f"tests/test_contracts.py:{plain.__code__.co_firstlineno}"
    assert (facts.is_async, facts.is_generator, facts.known, facts.problems) == (False, False, True, ())


def test_async_ones() -> None:
    assert read_signature(coroutine).is_async
    assert read_signature(coroutine).returns is float
    assert read_signature(by_hand).is_async
    assert read_signature(by_hand).returns is float
    assert read_signature(functools.partial(coroutine, 1)).is_async
    assert read_signature(AsyncWorker()).is_async
    assert read_signature(Worker().wait).is_async
    assert not read_signature(plain).is_async


def test_generators() -> None:
    assert read_signature(stream).is_generator
    assert read_signature(stream).returns == abc.Iterator[float]


def test_other_callables() -> None:
    worker = Worker()
    assert parameters(lambda x, y=1: x) == [("x", MISSING, True), ("y", MISSING, False)]
    assert parameters(worker.run) == [("trial", Trial, True)]
    assert read_signature(worker.run).returns is Point
    assert parameters(Worker.fixed) == [("a", int, True)]
    assert parameters(Worker.made) == [("a", int, True)]
    assert parameters(worker) == [("n", int, True)]
    assert read_signature(worker).returns is str
    partial = functools.partial(plain, 1, c=2.0)
    assert parameters(partial)[:2] == [("b", list[Trial], True), ("c", Annotated[float, Ge(0)], False)]
    assert parameters(functools.partial(worker.run)) == [("trial", Trial, True)]
    assert read_signature(functools.partial(plain, 1)).where == read_signature(plain).where


def test_classes_give_themselves() -> None:
    assert parameters(Point) == [("x", float, True), ("y", int, False)]
    assert read_signature(Point).returns is Point
    assert parameters(Trial) == [("lr", float, True), ("depth", int, False)]
    assert read_signature(Point).where.startswith("tests/test_contracts.py:")


def test_wrapped_functions_are_read_through() -> None:
    @functools.wraps(plain)
    def wrapper(*args: Any, **more: Any) -> Any: ...

    assert parameters(wrapper) == parameters(plain)
    assert read_signature(wrapper).where == read_signature(plain).where


def test_builtins() -> None:
    assert not read_signature(min).known
    assert read_signature(min).parameters == ()
    assert parameters(len) == [("obj", MISSING, True)]


def test_unresolved_names_are_problems_and_not_errors() -> None:
    def stage(a: Trail, b: int) -> Nowhere: ...  # type: ignore[name-defined]  # noqa: F821  (on purpose)

    facts = read_signature(stage)
    assert [p.annotation for p in facts.parameters] == [MISSING, int]
    assert facts.returns is MISSING
    assert len(facts.problems) == 2
    assert "no name 'Trail'; did you mean 'Trial'?" in facts.problems[0]
    assert "of parameter 'a'" in facts.problems[0]
    assert "test_contracts.py:" in facts.problems[0]
    assert "of its return value" in facts.problems[1]


def test_names_of_an_enclosing_function_are_found_where_they_are_used() -> None:
    class Local: ...

    def stage(a: Local) -> list[Local]:
        return [Local()]

    facts = read_signature(stage)
    assert facts.parameters[0].annotation is Local
    assert facts.returns == list[Local]


# ---------------------------------------------------------------- wording


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (int, "int"),
        (None, "None"),
        (list[Trial], "list[Trial]"),
        (typing.List[int], "list[int]"),  # noqa: UP006  (the old alias is what is tested)
        (typing.Optional[dict[str, int]], "dict[str, int] | None"),  # noqa: UP045  (the old spelling is what is tested)
        (tuple[int, ...], "tuple[int, ...]"),
        (tuple[()], "tuple[()]"),
        (Literal["a", 1], "Literal['a', 1]"),
        (Any, "Any"),
        (T, "T"),
        (Page[int], "Page[int]"),
        (abc.Callable[[int, str], bool], "Callable[[int, str], bool]"),
        (abc.Callable[..., bool], "Callable[..., bool]"),
        (type[Trial], "type[Trial]"),
        (Annotated[int, Ge(0)], "Annotated[int, Ge(ge=0)]"),
        (typing_extensions.TypeAliasType("Name", list[int]), "Name"),
        (typing.NewType("UserId", int), "UserId"),
        (list["Trial"], "list[Trial]"),
        (Row, "Row"),
    ],
)
def test_describe(annotation: Any, text: str) -> None:
    assert describe(annotation) == text


TYPES = [int, list, list[int], int | None, Any, T, Row, Trial, Literal[1], typing.List, Colour]  # noqa: UP006  (as above)


@pytest.mark.parametrize("value", TYPES)
def test_annotations_are_told_from_settings(value: Any) -> None:
    assert is_annotation(value)


@pytest.mark.parametrize("value", [3, "int", None, [int], (int,), {"a": int}, len, lambda: 3, Colour.RED, Stone()])
def test_settings_are_told_from_annotations(value: Any) -> None:
    assert not is_annotation(value)
