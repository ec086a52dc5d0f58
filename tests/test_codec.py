"""The file format: golden files, the way there and back, what is refused, and a stranger's text."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import datetime as dt
import decimal
import enum
import fractions
import json
import math
import os
import pathlib
import struct
import subprocess
import sys
import types
import typing
import uuid
import zoneinfo
from collections.abc import Callable
from pathlib import Path
from typing import Any

import codec_classes as known
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydantic import BaseModel

from sweep.errors import NotStorable, StoreCorrupt
from sweep.store.blobs import BlobStore, MemoryBlobs
from sweep.store.codec import FORMAT_VERSION, INLINE_BYTES, MAX_DEPTH, Classes, decode, encode, references

GOLDEN = Path(__file__).parent / "golden" / "codec"


# --- equality by type and value, written without the codec -----------------------------------------------------------


def identical(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, float | complex | decimal.Decimal | np.floating | np.complexfloating):
        return repr(one) == repr(other)
    if isinstance(one, np.ndarray | np.generic):
        return _same_array(np.asarray(one), np.asarray(other))
    if isinstance(one, torch.Tensor):
        flags = [(x.dtype, x.shape, x.requires_grad, x.device) for x in (one, other)]
        return flags[0] == flags[1] and _tensor_bytes(one) == _tensor_bytes(other)
    if isinstance(one, dict):
        attributes = identical(getattr(one, "__dict__", 0), getattr(other, "__dict__", 0))
        return attributes and identical([*one], [*other]) and identical([*one.values()], [*other.values()])
    if isinstance(one, set | frozenset):
        return len(one) == len(other) and all(any(identical(a, b) for b in other) for a in one)
    if isinstance(one, list | tuple | collections.deque):
        same_bound = getattr(one, "maxlen", None) == getattr(other, "maxlen", None)
        return same_bound and len(one) == len(other) and all(map(identical, one, other))
    if isinstance(one, BaseModel):
        states = [(x.__dict__, x.model_fields_set, x.__pydantic_extra__, x.__pydantic_private__) for x in (one, other)]
        return all(map(identical, *states))
    if dataclasses.is_dataclass(one):
        return all(identical(getattr(one, f.name), getattr(other, f.name)) for f in dataclasses.fields(one))
    if isinstance(one, dt.datetime | dt.time):
        return repr(one) == repr(other) and one.fold == other.fold and type(one.tzinfo) is type(other.tzinfo)
    return bool(one == other) and repr(one) == repr(other)


def _same_array(one: Any, other: Any) -> bool:
    layout = one.flags.c_contiguous == other.flags.c_contiguous or one.ndim < 2 or not one.flags.f_contiguous
    return layout and one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


def _tensor_bytes(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.detach().resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8).numpy())


def there_and_back(value: Any, expected: Any = None) -> Any:
    """Encode and decode, checking what is true of every text."""
    blobs = MemoryBlobs()
    text = encode(value, blobs, expected)
    text.encode()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"bare {name}"))
    assert references(text) == set(blobs.data)
    back = decode(text, blobs, expected)
    assert encode(back, MemoryBlobs(), expected) == text
    return back


# --- golden files ----------------------------------------------------------------------------------------------------

_BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")


def _state_dict() -> collections.OrderedDict[str, Any]:
    state = collections.OrderedDict(
        [("0.weight", torch.arange(600, dtype=torch.float32).reshape(20, 30)), ("0.bias", torch.ones(3).bfloat16())]
    )
    state.__dict__["_metadata"] = collections.OrderedDict([("", {"version": 1})])
    return state


GOLDEN_VALUES: dict[str, Any] = {
    "plain": {"a": [1, -2, 0.5, -0.0, 1e300, True, None, "ü\n\u2028🙂"], "": {}},
    "floats": [math.nan, math.inf, -math.inf],
    "ints": [2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 10**30],
    "surrogate": "a\ud800",
    "tuple": (1, (), [()]),
    "sets": [{3, 1, 2}, frozenset({"b", "a"}), set()],
    "keys": {1: "a", "1": "b", None: 0, (1, 2): [], False: 1, 2.5: 2},
    "dollar": {"$": "tuple", "v": [1]},
    "bytes": [b"", b"\x00\xff", bytearray(b"ab")],
    "numbers": [1 + 2j, complex(math.nan, -0.0), decimal.Decimal("1.10"), fractions.Fraction(-1, 3), range(0, 9, 2)],
    "slice": slice(None, 5, None),
    "dates": [dt.date(2024, 2, 29), dt.time(1, 2, 3, 4), dt.timedelta(days=-1, microseconds=5)],
    "datetimes": [
        dt.datetime(2024, 1, 2, 3, 4, 5, 6),
        dt.datetime(2024, 1, 2, tzinfo=dt.UTC),
        dt.datetime(2024, 10, 27, 2, 30, tzinfo=_BERLIN, fold=1),
        dt.datetime(2024, 1, 2, tzinfo=dt.timezone(dt.timedelta(hours=-3), "BRT")),
        dt.time(1, tzinfo=dt.timezone(dt.timedelta(minutes=90))),
    ],
    "uuid": uuid.UUID("12345678123456781234567812345678"),
    "paths": [pathlib.PurePosixPath("a/b"), pathlib.PureWindowsPath("c:/d"), pathlib.PosixPath("/")],
    "collections": [
        collections.OrderedDict([("b", 1), ("a", 2)]),
        collections.defaultdict(list, {"a": [1]}),
        collections.defaultdict(None, {1: 2}),
        collections.Counter("aab"),
        collections.deque([1, 2], 3),
    ],
    "enums": [known.Colour.RED, known.Level.HIGH, known.Status.DONE, known.Rights.READ | known.Rights.WRITE],
    "namedtuples": [known.Point(1, [2]), known.Pair("a", None)],
    "dataclasses": [known.Box([1], 2), known.Frozen(a=(1,)), known.SubBox("x", 1, "y")],
    "models": [known.SubConfig(lr=1.0, depth=2), known.Aliased(theName="n", o=2, more=(1,)), known.Numbers([1, 2])],
    "generic": known.Generous[int](item=3),
    "array": np.array([[1.5, -2.0]], dtype=">f4"),
    "array_kinds": [np.array(["ab", "c"]), np.array("2024-01-01", "M8[D]"), np.zeros((0, 2), np.int8)],
    "array_blob": {"x": np.arange(300, dtype=np.float64)},
    "fortran": np.asfortranarray(np.arange(6, dtype=np.uint8).reshape(2, 3)),
    "structured": np.array([(1, 2.0)], dtype=[("a", "<i2"), ("b", "<f8")]),
    "scalars": [np.float32(0.1), np.int64(3), np.bool_(True), np.float64("nan"), np.complex64(1j), np.str_("ü")],
    "tensors": [torch.tensor([1, 2]), torch.tensor(True), torch.tensor([0.5]).bfloat16(), torch.zeros(0, 3)],
    "parameter": torch.nn.Parameter(torch.tensor([1.0])),
    "state_dict": _state_dict(),
    "torch": [torch.Size([1, 2]), torch.float16, torch.device("cuda:1")],
}
_GOLDEN_CLASSES = Classes(*(kind for kind in vars(known).values() if isinstance(kind, type)), known.Generous[int])


@pytest.mark.parametrize("name", sorted(GOLDEN_VALUES))
def test_golden_files_are_read_and_written_for_ever(name: str) -> None:
    """A text that was ever written is read; what is written does not change without a reason.

    To add a value: SWEEP_WRITE_GOLDEN=1 writes the files that are missing, never those that are there.
    """
    file, value = GOLDEN / f"{name}.json", GOLDEN_VALUES[name]
    if os.environ.get("SWEEP_WRITE_GOLDEN") and not file.exists():
        file.write_text(encode(value, BlobStore(GOLDEN / "blobs"), _GOLDEN_CLASSES), encoding="utf-8")
    text = file.read_text(encoding="utf-8")
    assert identical(decode(text, BlobStore(GOLDEN / "blobs"), _GOLDEN_CLASSES), value)
    assert encode(value, MemoryBlobs(), _GOLDEN_CLASSES) == text
    assert references(text) <= set(BlobStore(GOLDEN / "blobs").addresses())


def test_every_golden_file_is_checked() -> None:
    assert {file.stem for file in GOLDEN.glob("*.json")} == set(GOLDEN_VALUES)
    assert FORMAT_VERSION == 1


# --- there and back --------------------------------------------------------------------------------------------------

_anything = st.characters(exclude_categories=())  # lone surrogates too
_zones = st.none() | st.just(dt.UTC) | st.timezones() | st.timedeltas(
    dt.timedelta(hours=-23), dt.timedelta(hours=23)
).map(dt.timezone)  # fmt: skip
_hashable = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=2**63 - 2, max_value=2**63 + 2)
    | st.floats()
    | st.complex_numbers()
    | st.text(_anything, max_size=8)
    | st.sampled_from(["$", "v", '{"$":', "t", "\ud83d\ude00", "\ud83d\ude00"])
    | st.binary(max_size=12)
    | st.decimals().filter(lambda number: not number.is_snan())
    | st.fractions()
    | st.uuids()
    | st.dates()
    | st.times(timezones=_zones)
    | st.datetimes(timezones=_zones, allow_imaginary=True)
    | st.timedeltas()
    | st.sampled_from([*known.Colour, *known.Level, *known.Status, known.Rights(0), known.Rights(3)])
    | st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=8).map(pathlib.PurePosixPath)
    | st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=8).map(pathlib.PureWindowsPath)
    | st.builds(range, st.integers(-9, 9), st.integers(-9, 9), st.integers(1, 3))
)
_numpy_dtypes = hnp.scalar_dtypes() | hnp.array_dtypes() | hnp.unicode_string_dtypes() | hnp.byte_string_dtypes()
_arrays = hnp.arrays(_numpy_dtypes, hnp.array_shapes(min_dims=0, min_side=0, max_side=4))
_tensor_dtypes = [
    "bool", "uint8", "int8", "int16", "int32", "int64", "uint16", "uint32", "uint64", "float16", "bfloat16", "float32",
    "float64", "complex64", "complex128", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e8m0fnu",
]  # fmt: skip


@st.composite
def _tensors(draw: st.DrawFn) -> torch.Tensor:
    dtype = getattr(torch, draw(st.sampled_from(_tensor_dtypes)))
    shape = draw(hnp.array_shapes(min_dims=0, min_side=0, max_side=5))
    size = math.prod(shape) * dtype.itemsize
    if dtype is torch.bool:
        data = bytes(draw(st.lists(st.integers(0, 1), min_size=size, max_size=size)))
    else:
        data = draw(st.binary(min_size=size, max_size=size))
    flat = torch.tensor(list(data), dtype=torch.uint8).view(dtype) if size else torch.empty(0, dtype=dtype)
    tensor = flat.reshape(shape)
    return tensor.transpose(0, -1) if len(shape) > 1 and draw(st.booleans()) else tensor


_leaves = _hashable | st.decimals() | _arrays | _tensors() | st.binary(max_size=9).map(bytearray)


def _deeper(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    keys = st.text(max_size=4) | _hashable
    return (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text(max_size=4), inner, max_size=4)
        | st.dictionaries(keys, inner, max_size=4)
        | st.dictionaries(keys, inner, max_size=3).map(collections.OrderedDict)
        | st.dictionaries(keys, inner, max_size=3).map(lambda d: collections.defaultdict(dict, d))
        | st.builds(collections.deque, st.lists(inner, max_size=3), st.none() | st.integers(3, 5))
        | st.sets(_hashable, max_size=4)
        | st.frozensets(_hashable | st.tuples(_hashable), max_size=4)
        | st.builds(known.Point, inner, inner)
        | st.builds(known.Box, inner)
        | st.builds(known.Frozen, a=inner)
        | st.builds(known.Config, lr=st.floats(allow_nan=False), payload=inner)
    )


_values = st.recursive(_leaves, _deeper, max_leaves=12)


@given(_values)
@example({"$": {"$": 1}})
@example([{"$": "tuple", "v": []}, {"v": 1, "$": "$"}])
@example({1: 1, "1": 2})
@example({True: 1})
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_every_value_comes_back_by_type_and_value(value: Any) -> None:
    assert identical(there_and_back(value), value)
    assert identical(there_and_back(value, known.Config | known.Box | known.Frozen), value)


_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"), max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3).filter(lambda k: k != "$"), inner),
    max_leaves=12,
)  # fmt: skip


@given(_json)
def test_what_json_has_is_plain_json(value: Any) -> None:
    text = encode(value, MemoryBlobs())
    assert text == json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    assert encode([value, ()], MemoryBlobs()) == f'[{text},{{"$":"tuple","v":[]}}]'  # the slow way writes it alike


_taglike = st.recursive(
    st.none() | st.sampled_from(["$", "tuple", "dict", "x:y"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["$", "v", "t", "b", "$$", "x", '{"$":']), inner, max_size=4)
    ),
)


@given(_taglike)
def test_a_dict_that_looks_like_a_tag_stays_a_dict(value: Any) -> None:
    assert identical(there_and_back(value), value)
    assert identical(there_and_back((value, {1: value})), (value, {1: value}))


@pytest.mark.parametrize("value", [{1: "int"}, {True: "bool"}, {1.0: "float"}, {"1": "str"}, {0: 0, "0": 1, None: 2}])
def test_keys_keep_their_type(value: dict[Any, Any]) -> None:
    assert identical(there_and_back(value), value)


def test_huge_ints_pass_the_digit_limit() -> None:
    huge = 7**20_000
    assert there_and_back([huge, -huge, range(huge), fractions.Fraction(1, huge)])[1] == -huge


def test_ints_of_64_bits_are_plain_and_no_others() -> None:
    for value in (2**63 - 1, -(2**63)):
        assert encode(value, MemoryBlobs()) == encode([value, ()], MemoryBlobs())[1:].partition(",")[0] == str(value)
    for value in (2**63, -(2**63) - 1):
        assert encode({"a": value}, MemoryBlobs()) == f'{{"a":{{"$":"int","v":["{value:#x}"]}}}}'


def test_a_pair_of_surrogates_is_not_joined() -> None:
    pair = "\ud83d" + "\ude00"
    assert there_and_back({pair: pair}) == {pair: pair} != {"😀": "😀"}


@pytest.mark.parametrize("wrap", [lambda x: [x], lambda x: {"a": x}, lambda x: (x,), lambda x: {1: x}, known.Box,
                                  lambda x: known.Config(payload=x), lambda x: collections.deque([x])])  # fmt: skip
@pytest.mark.parametrize("core", [0, math.nan])
def test_depth_is_limited_and_the_limit_works(wrap: Callable[[Any], Any], core: Any) -> None:
    value = core
    for _ in range(MAX_DEPTH):
        value = wrap(value)
    assert repr(there_and_back(value)) == repr(value)
    with pytest.raises(NotStorable, match="nested more than"):
        encode(wrap(value), MemoryBlobs())


def test_bottomless_recursion_is_refused_and_not_a_crash() -> None:
    value: Any = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(NotStorable, match="nested"):
        encode(value, MemoryBlobs())
    while value:  # or the interpreter's own recursion frees it
        value = value.pop()
    with pytest.raises(StoreCorrupt):
        decode("[" * 100_000 + "]" * 100_000, MemoryBlobs())


def _cycles() -> list[Any]:
    a_list: list[Any] = []
    a_list.append({"x": a_list})
    a_dict: dict[str, Any] = {}
    a_dict["me"] = (a_dict,)
    box = known.Box(None)
    box.content = [box]
    config = known.Config()
    config.payload = config
    return [a_list, a_dict, box, config]


@pytest.mark.parametrize("value", _cycles(), ids=lambda value: type(value).__name__)
def test_cycles_are_refused(value: Any) -> None:
    with pytest.raises(NotStorable, match="contains itself"):
        encode(value, MemoryBlobs())


def test_one_object_in_two_places_is_no_cycle() -> None:
    shared = [1]
    assert there_and_back([shared, (shared, shared), {}]) == [[1], ([1], [1]), {}]


def test_an_object_may_say_what_mapping_it_is() -> None:
    back = there_and_back([known.Summary({"a": (1,)}), known.Summary({"$": known.Summary({})})])
    assert identical(back, [{"a": (1,)}, {"$": {}}])


# --- classes ---------------------------------------------------------------------------------------------------------

_CLASS_VALUES = [
    known.SubConfig(lr=2.0),
    known.Config.model_construct(lr=1.5, payload=known.SubBox((1,))),
    known.Aliased(theName="a"),
    known.Aliased(theName="a", o=3, x={1: 2}, theOther=None),
    known.Private(),
    known.Generous[int](item=1),
    known.Generous[list[str]](item=["a"]),
    known.Numbers([]),
    known.Checked(3),
    known.Frozen(a=[known.Frozen()]),
    known.SubBox(known.Point(known.Colour.GREEN, known.Rights.READ)),
]


@pytest.mark.parametrize("value", _CLASS_VALUES, ids=repr)
def test_instances_come_back_with_and_without_their_class_in_the_contract(value: Any) -> None:
    assert identical(there_and_back(value), value)
    assert identical(there_and_back(value, type(value)), value)
    assert identical(there_and_back([value], list[type(value) | None]), [value])


def test_private_attributes_and_unset_fields_come_back() -> None:
    value = known.Private()
    value._cache = {"a": (1, 2)}
    for expected in (None, known.Private):
        assert identical(there_and_back(value, expected)._cache, {"a": (1, 2)})
        assert there_and_back(known.SubConfig(depth=1), expected).model_fields_set == {"depth"}


def test_a_cached_property_is_computed_again() -> None:
    value = known.SubBox(1, 2)
    assert value.doubled == 4
    back = there_and_back(value)
    assert "doubled" not in vars(back)
    assert back.doubled == 4


def test_local_classes_need_the_contract() -> None:
    @dataclasses.dataclass
    class Local:
        x: int

    class Shade(enum.Enum):
        DARK = 1

    for value in (Local(1), Shade.DARK):
        with pytest.raises(NotStorable, match="name it in the contract"):
            encode(value, MemoryBlobs())
        assert identical(there_and_back([value], dict[str, tuple[Local, ...]] | Shade), [value])


def test_a_class_whose_name_another_one_took_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    old = known.Box(1)
    taking = dataclasses.make_dataclass("Box", ["content"], namespace={"__module__": "codec_classes"})
    monkeypatch.setattr(known, "Box", taking)
    with pytest.raises(NotStorable, match="another class now has its name"):
        encode(old, MemoryBlobs())
    assert identical(there_and_back(old, type(old)), old)


def test_contracts_are_searched_to_their_leaves() -> None:
    @dataclasses.dataclass
    class Inner:
        x: int

    @dataclasses.dataclass
    class SubInner(Inner):
        pass

    class Model(BaseModel):
        inner: Inner | None = None

    Options = typing.TypedDict("Options", {"model": typing.Annotated[list[Model], "some"]})  # noqa: UP013 - a class could not name local classes
    alias = typing.NewType("alias", Options)
    bound = typing.TypeVar("bound", bound=Options)
    for annotation in (Options, dict[str, alias], typing.Callable[[int, Model], None], bound, Model | int):  # type: ignore[valid-type]  # not static types
        assert identical(there_and_back(SubInner(1), annotation), SubInner(1))


def test_classes_can_be_prepared_once() -> None:
    classes = Classes(known.Config, list[known.Box])
    assert identical(there_and_back([known.SubConfig(), known.Box(1)], classes), [known.SubConfig(), known.Box(1)])


def test_a_script_imported_by_name_finds_its_classes_again() -> None:
    text = encode([known.Box(1), known.Colour.RED], MemoryBlobs()).replace("codec_classes:", "__main__:")
    assert decode(text, MemoryBlobs(), list[known.Box | known.Colour]) == [known.Box(1), known.Colour.RED]
    with pytest.raises(StoreCorrupt, match="__main__"):
        decode(text, MemoryBlobs())


# --- what is refused -------------------------------------------------------------------------------------------------


class _Text(str):
    __slots__ = ()


class _Dict(dict[Any, Any]):
    pass


@dataclasses.dataclass
class _Opens:
    path: dataclasses.InitVar[str]
    n: int = 0


@dataclasses.dataclass
class _Output(collections.OrderedDict[str, Any]):
    loss: float = 0.0


class _OwnRights(enum.Flag):
    READ = 1
    WRITE = 2

    @classmethod
    def _missing_(cls, value: object) -> Any:
        return super()._missing_(value)


@dataclasses.dataclass
class _Computes:
    n: int

    def __post_init__(self) -> None:
        self.n += 1


@dataclasses.dataclass
class _Keeps:
    n: int

    def __post_init__(self) -> None:
        self.memory = [self.n]


def _changed_keeps() -> _Keeps:
    value = _Keeps(1)
    value.memory.append(2)
    return value


def _off_type() -> known.Config:
    value = known.Config()
    value.lr = "0.1"  # type: ignore[assignment]  # what a model without validate_assignment lets pass
    return value


def _locked() -> known.Private:
    value = known.Private()
    value._cache = object()
    return value


def _with_grad() -> torch.Tensor:
    leaf = torch.ones(2, requires_grad=True)
    (leaf * 2).sum().backward()  # type: ignore[no-untyped-call]  # torch does not say
    return leaf


_REFUSED: list[tuple[str, Any, str, str]] = [
    ("object", {"a": [1, object()]}, "value['a'][1]", "builtins.object"),
    ("function", {"f": len}, "value['f']", "builtin_function"),
    ("class", [int], "value[0]", "builtins.type"),
    ("generator", (x for x in ()), "value", "list(value)"),
    ("str subclass", {"a": _Text("x")}, "value['a']", "str(value)"),
    ("str subclass key", {_Text("x"): 1}, "value key 'x'", "str(value)"),
    ("dict subclass", [_Dict()], "value[0]", "dict(value)"),
    ("module in model", {"state": known.Config(payload=[0, (torch.nn.Linear(1, 1),)])}, "value['state'].payload[1][0]",
     "state_dict()"),
    ("frozenset element", {frozenset({(object,)})}, "value element", "type"),
    ("tuple key", {(1, len): 2}, "value key", "builtin_function"),
    ("memoryview", memoryview(b""), "value", "memoryview"),
    ("defaultdict", collections.defaultdict(lambda: 1), "value", "default_factory"),
    ("own tzinfo", dt.datetime(2024, 1, 1, tzinfo=type("Zone", (dt.tzinfo,), {})()), "value[1]", "Zone"),
    ("lambda in dataclass", known.Box(lambda: 0), "value.content", "function"),
    ("dataclass of a dict", [_Output(1.0)], "value[0]", "dict(value)"),
    ("flag with code", _OwnRights.READ, "value", "_missing_"),
    ("init var", _Opens("x"), "value", "could not be read back"),
    ("object array", np.array([None]), "value", "tolist"),
    ("padding", np.zeros(3, np.dtype([("a", "i1"), ("b", "f8")], align=True)), "value", "repack_fields"),
    ("masked array", np.ma.masked_array([1, 2], [True, False]), "value", "numpy.array"),
    ("matrix", np.ones((2, 2)).view(np.matrix), "value", "numpy.array"),
    ("grad history", torch.ones(1, requires_grad=True) * 2, "value", "detach()"),
    ("grad", _with_grad(), "value", "detach()"),
    ("sparse", torch.eye(2).to_sparse(), "value", "to_dense()"),
    ("meta", torch.empty(2, device="meta"), "value", "meta"),
    ("optimizer", torch.optim.SGD([torch.ones(1)]), "value", "state_dict()"),
    ("private", _locked(), "value._cache", "object"),
    ("doubling validator", {"m": known.Doubling(n=1)}, "value['m']", "validators"),
    ("off type", _off_type(), "value", "differs"),
    ("changed by constructor", _Computes(1), "value", "constructor"),
    ("attribute beside the fields", _changed_keeps(), "value", "differs"),
]  # fmt: skip


@pytest.mark.parametrize(("value", "place", "words"), [pytest.param(*row[1:], id=row[0]) for row in _REFUSED])
def test_what_would_not_come_back_is_refused_by_name(value: Any, place: str, words: str) -> None:
    expected = known.Doubling | known.Config | _Computes | _Keeps | _Opens | _Output
    with pytest.raises(NotStorable) as caught:
        encode(value, MemoryBlobs(), expected)
    assert caught.value.place.startswith(place)
    assert words in str(caught.value)


def test_a_constructor_that_fits_its_own_fields_is_fine() -> None:
    value = _Keeps(1)
    back = there_and_back(value, _Keeps)
    assert back.memory == [1]
    with pytest.raises(NotStorable, match="name the class in the contract"):
        encode(value, MemoryBlobs())  # without the contract the constructor may not run, and nothing makes `memory`


def test_pandas_is_refused_with_a_remedy() -> None:
    import pandas

    for value in (pandas.DataFrame({"a": [1]}), pandas.Timestamp("2024-01-01"), pandas.Series([1])):
        with pytest.raises(NotStorable, match="to_dict"):
            encode({"table": value}, MemoryBlobs(), place="field 'x'")


def test_the_place_is_called_what_the_caller_calls_it() -> None:
    with pytest.raises(NotStorable, match=r"^field 'state'\['model'\]\.content\[2\] is a "):
        encode({"model": known.Box([0, 1, object()])}, MemoryBlobs(), place="field 'state'")


# --- a stranger's store ----------------------------------------------------------------------------------------------


def _text(tag: str, **parts: Any) -> str:
    return json.dumps({"$": tag, **parts}, separators=(",", ":"))


def test_no_code_of_a_class_runs_unless_the_contract_names_it() -> None:
    known.Loud.ran.clear()
    known.LoudData.ran.clear()
    model = decode(_text("model", t="codec_classes:Loud", v={"n": 3}), MemoryBlobs(), dict[str, Any])
    data = decode(_text("dataclass", t="codec_classes:LoudData", v={"n": 3}), MemoryBlobs())
    assert (model.n, data.n) == (3, 3)
    with pytest.raises(StoreCorrupt):
        decode(_text("enum", t="codec_classes:LoudEnum", v=["B"]), MemoryBlobs())
    with pytest.raises(StoreCorrupt, match="__del__"):
        decode(_text("dataclass", t="codec_classes:Dying", v={"n": 3}), MemoryBlobs())
    assert known.Loud.ran == known.LoudData.ran == []
    decode(_text("dataclass", t="codec_classes:LoudData", v={"n": 3}), MemoryBlobs(), known.LoudData)
    decode(_text("model", t="codec_classes:Loud", v={"n": 3}), MemoryBlobs(), known.Loud)
    assert known.LoudData.ran
    assert known.Loud.ran


@pytest.mark.parametrize("tag", ["model", "dataclass", "enum", "namedtuple"])
@pytest.mark.parametrize(
    "path",
    ["os:system", "subprocess:Popen", "builtins:eval", "builtins:object", "codec_classes:T", "codec_classes:known",
     "a:b", "", ":", "codec_classes:Summary", "os:path.join"],
)  # fmt: skip
def test_only_classes_of_their_kind_are_made(tag: str, path: str) -> None:
    for parts in ({}, [], ["echo"], {"args": ["echo"]}):
        with pytest.raises(StoreCorrupt):
            decode(_text(tag, t=path, v=parts), MemoryBlobs())


def test_no_module_is_imported_for_a_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stranger.py").write_text("raise SystemExit\nclass Evil: pass\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    for tag in ("model", "dataclass", "enum", "namedtuple"):
        with pytest.raises(StoreCorrupt, match="import 'stranger' before"):
            decode(_text(tag, t="stranger:Evil", v=[]), MemoryBlobs())
    assert "stranger" not in sys.modules


def test_a_module_hook_does_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    trap = types.ModuleType("trap")
    trap.__dict__["__getattr__"] = lambda name: pytest.fail(f"asked for {name}")
    monkeypatch.setitem(sys.modules, "trap", trap)
    with pytest.raises(StoreCorrupt):
        decode(_text("dataclass", t="trap:Evil", v={}), MemoryBlobs())


def test_no_pickle_is_read() -> None:
    import io

    file = io.BytesIO()
    np.save(file, np.array([len], dtype=object), allow_pickle=True)
    blobs = MemoryBlobs()
    address = blobs.put(file.getvalue(), ".npy")
    with pytest.raises(StoreCorrupt, match="allow_pickle"):
        decode(_text("array", b=address), blobs)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nul",
        "[1,",
        "NaN",
        "[Infinity]",
        '{"$":"what","v":[]}',
        '{"$":1}',
        '{"$":[]}',
        '{"$":"tuple"}',
        '{"$":"set","v":[[1]]}',
        '{"$":"dict","v":[[[1],2]]}',
        '{"$":"dict","v":[1]}',
        '{"$":"int","v":["xyz"]}',
        '{"$":"bytes","v":["*"]}',
        '{"$":"decimal","v":["x"]}',
        '{"$":"date","v":["2024-13-01"]}',
        '{"$":"zone","v":["../../etc/passwd"]}',
        '{"$":"zone","v":["No/Where"]}',
        '{"$":"WindowsPath","v":["a"]}',
        '{"$":"fraction","v":[1,0]}',
        '{"$":"range","v":["a"]}',
        '{"$":"numpy","v":["load","x"]}',
        '{"$":"numpy","v":["object_",1]}',
        '{"$":"array","v":["AAAA"]}',
        '{"$":"array","b":"x"}',
        '{"$":"array","b":"../../../../etc/passwd.npy"}',
        '{"$":"array","b":7}',
        '{"$":"tensor","v":["load",[1],"AAAA"]}',
        '{"$":"tensor","v":["float32",[-1],""]}',
        '{"$":"tensor","v":["float32",[1],"AAAA"]}',
        '{"$":"tensor","v":["float32",["a"],""]}',
        '{"$":"torch.dtype","v":["load"]}',
        '{"$":"torch.device","v":["xyz"]}',
        '{"$":"defaultdict","v":["eval",[]]}',
        '{"$":"enum","t":"codec_classes:Colour","v":["BLUE"]}',
        '{"$":"enum","t":"codec_classes:Colour","v":[1]}',
        '{"$":"enum","t":"codec_classes:Colour","v":["__class__"]}',
        '{"$":"namedtuple","t":"codec_classes:Point","v":[1]}',
        '{"$":"dataclass","t":"codec_classes:Box","v":{"content":1}}',
        '{"$":"dataclass","t":"codec_classes:Box","v":{"content":1,"count":1,"x":1}}',
        '{"$":"model","t":"codec_classes:Config","v":{"lr":1.0}}',
        '{"$":"model","t":"codec_classes:Private","v":{"value":1},"p":{"x":1}}',
        '{"$":"model","t":"codec_classes:Box","v":{}}',
    ],
)
def test_a_damaged_text_is_a_clear_error(text: str, tmp_path: Path) -> None:
    for blobs in (MemoryBlobs(), BlobStore(tmp_path)):
        with pytest.raises(StoreCorrupt):
            decode(text, blobs)


def test_stored_fields_are_validated_again() -> None:
    text = _text("model", t="codec_classes:Config", v={"lr": "fast", "payload": None})
    with pytest.raises(StoreCorrupt, match="lr"):
        decode(text, MemoryBlobs(), known.Config)


@given(st.sampled_from(sorted(GOLDEN_VALUES)), st.data())
@settings(max_examples=300, deadline=None)
def test_a_text_with_an_error_in_it_never_raises_anything_else(name: str, data: st.DataObject) -> None:
    text = (GOLDEN / f"{name}.json").read_text(encoding="utf-8")
    at = data.draw(st.integers(0, len(text)))
    piece = data.draw(
        st.sampled_from(["", "0", '"', "[", "]", "{", "}", ",", "1e9", "-", "a", "null", '"$":', "9" * 20])
    )
    broken = text[:at] + piece + text[at + data.draw(st.integers(0, 3)) :]
    assume("0000" not in broken or len(broken) < 10_000)
    with contextlib.suppress(StoreCorrupt):
        decode(broken, BlobStore(GOLDEN / "blobs"), _GOLDEN_CLASSES)


# --- arrays and tensors ----------------------------------------------------------------------------------------------

_ARRAYS = {
    "large": np.arange(5000, dtype=np.int32),
    "strided": np.arange(10_000)[::3],
    "negative strides": np.arange(10_000)[::-1],
    "transposed": np.arange(6000.0).reshape(60, 100).T,
    "column": np.arange(9000.0).reshape(1000, 9)[:, 1:2],
    "broadcast": np.broadcast_to(np.float32(1), (100, 100)),
    "empty": np.zeros((0, 5)),
    "no extent": np.array(3.5),
    "big endian": np.arange(1000, dtype=">i8"),
    "text": np.array(["ü" * 50, ""] * 30),
    "no width": np.zeros(3, "U0"),
    "times": np.array(["2024-01-01T00:00", "NaT"], "M8[ns]"),
    "long double": np.array([1, 2], np.longdouble) / 3,
    "nested": np.zeros(400, [("a", "<f8", (2,)), ("ü", [("c", "S3")])]),
    "three": np.arange(5040, dtype=np.uint16).reshape(7, 8, 90).transpose(1, 0, 2),
}


@pytest.mark.parametrize("name", _ARRAYS)
def test_arrays(name: str, tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path, sync=False)
    array = _ARRAYS[name]
    text = encode({"a": [array]}, blobs)
    back = decode(text, blobs)["a"][0]
    assert identical(back, array if array.flags.c_contiguous or array.flags.f_contiguous else array.copy("C"))
    assert back.flags.writeable
    addresses = references(text)
    assert len(addresses) == (array.nbytes > INLINE_BYTES)
    for address in addresses:
        loaded = np.load(blobs.path(address))  # any other tool reads it too
        assert identical(loaded, back)


def test_numpy_scalars_keep_their_type() -> None:
    kinds = {kind for kind in np.sctypeDict.values() if kind not in (np.object_, np.void)}
    values = [kind(1) if kind not in (np.str_, np.bytes_, np.datetime64) else None for kind in kinds]
    values = [value for value in values if value is not None]
    values += [np.str_("a\0"), np.bytes_(b"a\0"), np.datetime64("2024-01-01", "ns"), np.datetime64("NaT", "D"),
               np.timedelta64(5, "ns"), np.float16("inf"), np.zeros(1, [("a", "i4")])[0]]  # fmt: skip
    for value in values:
        assert identical(there_and_back([value])[0], value), type(value)


def test_tensors_of_every_size_and_layout() -> None:
    values = [
        torch.arange(3_000_000).reshape(1000, 3000).t(),
        torch.ones(1, 700, 700)[:, ::2, ::2],
        torch.complex(torch.arange(2000.0), torch.ones(2000)).conj(),
        torch.imag(torch.complex(torch.arange(2000.0), torch.ones(2000)).conj()),
        torch._neg_view(torch.ones(2000)),
        torch.zeros(5000, dtype=torch.bfloat16),
        torch.tensor(2.5, dtype=torch.float64),
        torch.ones(2, requires_grad=True),
        torch.nn.Parameter(torch.ones(1000), requires_grad=False),
    ]
    assert identical(there_and_back(values), values)


def test_a_state_dict_is_one_file_that_safetensors_reads(tmp_path: Path) -> None:
    import safetensors.torch

    model = torch.nn.Sequential(torch.nn.Linear(40, 40), torch.nn.BatchNorm1d(40), torch.nn.Linear(40, 40).bfloat16())
    state = {"model": model.state_dict(), "optimizer": torch.optim.Adam(model.parameters()).state_dict()}
    blobs = BlobStore(tmp_path)
    text = encode(state, blobs)
    back = decode(text, blobs)
    assert identical(back, state)
    model.load_state_dict(back["model"])
    (address,) = references(text)
    loaded = safetensors.torch.load_file(blobs.path(address))
    assert sorted(tuple(t.shape) for t in loaded.values()) == [(40, 40), (40, 40)]


def test_tensors_in_a_file_are_aligned_to_their_items() -> None:
    blobs = MemoryBlobs()
    encode([torch.zeros(2051, dtype=torch.uint8), torch.zeros(999, dtype=torch.complex128), torch.zeros(901)], blobs)
    (data,) = blobs.data.values()
    (length,) = struct.unpack("<Q", data[:8])
    starts = [entry["data_offsets"][0] for entry in json.loads(data[8 : 8 + length]).values()]
    assert length % 8 == 0
    assert sorted(starts) == [0, 999 * 16, 999 * 16 + 901 * 4]


def test_tied_weights_stay_tied_and_others_apart() -> None:
    weight = torch.ones(1000)
    one, two, three = there_and_back([weight, weight.view(1000), weight.clone()])
    one[0] = 5
    assert (two[0], three[0]) == (5, 1)


def test_a_tensor_of_a_device_that_is_not_here_comes_to_the_cpu() -> None:
    text = encode(torch.ones(2), MemoryBlobs())
    moved = text.replace('"v":', '"at":"cuda:99","v":')
    assert identical(decode(moved, MemoryBlobs()), torch.ones(2))


def test_long_bytes_are_blobs() -> None:
    blobs = MemoryBlobs()
    value = [b"x" * INLINE_BYTES, b"y" * (INLINE_BYTES + 1), bytearray(b"z" * 5000)]
    assert identical(decode(encode(value, blobs), blobs), value)
    assert len(blobs.data) == 2


def test_a_large_array_costs_little_beside_itself(tmp_path: Path) -> None:
    """Measured in a process of its own: peak resident memory over what the array itself takes."""
    script = (
        "import resource, sys, numpy as np\n"
        "from sweep.store.blobs import BlobStore\n"
        "from sweep.store.codec import encode, decode\n"
        "unit = 1 << 20 if sys.platform == 'darwin' else 1 << 10\n"
        "def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit\n"
        "blobs = BlobStore(sys.argv[1], sync=False)\n"
        "decode(encode(np.ones(1000), blobs), blobs)\n"
        "array = np.ones(100 << 17)\n"
        "start = peak(); text = encode({'a': array[::1], 'n': 1}, blobs); written = peak() - start\n"
        "del array\n"
        "start = peak(); back = decode(text, blobs)['a']; read = peak() - start\n"
        "print(written, read, back.nbytes >> 20)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", script, str(tmp_path)]
    shown = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    written, read, size = map(float, shown.split())
    assert size == 100
    assert written < 30
    assert read < 30  # the array's own 100 MB reuse those that were freed


def test_damage_to_a_blob_is_noticed_and_names_the_file(tmp_path: Path) -> None:
    for value in (np.arange(1000.0), torch.arange(1000.0), b"x" * 5000):
        blobs = BlobStore(tmp_path)
        text = encode(value, blobs)
        (address,) = references(text)
        path = blobs.path(address)
        data = bytearray(path.read_bytes())
        for damaged in (data[:-1], data[:2500] + bytes([data[2500] ^ 1]) + data[2501:], b""):
            path.write_bytes(damaged)
            with pytest.raises(StoreCorrupt, match=path.name):
                decode(text, blobs)
        path.unlink()
        with pytest.raises(StoreCorrupt, match=path.name):
            decode(text, blobs)
        assert encode(value, blobs) == text
        assert identical(decode(text, blobs), value)


def test_a_hostile_tensor_file_is_refused() -> None:
    blobs = MemoryBlobs()
    outside = [b'{"0":{"data_offsets":[0,4000]}}', b'{"0":{"data_offsets":[-4,0]}}', b'{"0":{}}', b"{}", b"[]"]
    files = [struct.pack("<Q", len(header)) + header for header in outside]
    for file in (b"", b"\xff" * 8, struct.pack("<Q", 1 << 40), *files):
        address = blobs.put(file, ".safetensors")
        with pytest.raises(StoreCorrupt):
            decode(_text("tensor", v=["float32", [1000], "0"], b=address), blobs)


def test_plain_values_import_nothing_heavy() -> None:
    script = (
        "import sys\nfrom sweep.store.codec import encode, decode\nfrom sweep.store.blobs import MemoryBlobs\n"
        "value = {'a': [1, 2.5, (3,), {4}, b'5', float('nan')]}\n"
        "decode(encode(value, MemoryBlobs(), dict[str, list[int]]), MemoryBlobs(), dict[str, list[int]])\n"
        "print(*(m for m in ('numpy', 'torch', 'pydantic', 'anyio') if m in sys.modules))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    shown = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == ""
