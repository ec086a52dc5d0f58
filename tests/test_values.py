"""Everything a contract may hold survives a kill and a resume by type and by value."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import fractions
import gc
import hashlib
import math
import time
import tracemalloc
import uuid
import zoneinfo
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import anyio
import numpy
import numpy.typing
import pytest
import torch
from dying import Deaths, Killed
from value_kinds import Circle, Colour, Fit, Level, Point, Shape

from sweep import Context, Experiment, Pipeline, open_store
from sweep.errors import ContractError, NotStorable, StoreCorrupt
from sweep.store.blobs import BlobStore, MemoryBlobs
from sweep.store.codec import encode
from sweep.store.storable import is_storable

UTC = datetime.timezone.utc  # noqa: UP017  # an instance, by its old name
VALUES: dict[str, tuple[Any, Any]] = {
    "int": (int, 7),
    "big int": (int, 3**400),
    "negative big int": (int, -(2**63) - 1),
    "nan": (float, math.nan),
    "infinities": (list[float], [math.inf, -math.inf, -0.0, 5e-324]),
    "bool": (bool, True),
    "none": (int | None, None),
    "text": (str, "grün \x00 \U0001f600 \n"),
    "lone surrogate": (str, "\udc80"),
    "bytes": (bytes, bytes(range(256))),
    "long bytes": (bytes, bytes(range(256)) * 100),
    "bytearray": (bytearray, bytearray(b"ab")),
    "date": (datetime.date, datetime.date(2024, 2, 29)),
    "naive": (datetime.datetime, datetime.datetime(2024, 1, 1, 12, 0, 0, 123456)),
    "utc": (datetime.datetime, datetime.datetime(2024, 1, 1, tzinfo=UTC)),
    "zone": (
        datetime.datetime,
        datetime.datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")),
    ),
    "timedelta": (datetime.timedelta, datetime.timedelta(days=-1, microseconds=3)),
    "decimal": (decimal.Decimal, decimal.Decimal("1.10")),
    "fraction": (fractions.Fraction, fractions.Fraction(1, 3)),
    "complex": (complex, complex(1, -2)),
    "uuid": (uuid.UUID, uuid.UUID(int=5)),
    "enum": (Colour, Colour.BLUE),
    "flag": (Level, Level.LOW | Level.HIGH),
    "path": (Path, Path("/a/b")),
    "pure path": (PurePosixPath, PurePosixPath("a/../b")),
    "tuple": (tuple[int, str], (1, "a")),
    "nested tuples": (Any, ((1, (2, [3, (4,)])), {})),
    "set": (set[int], {3, 1, 2}),
    "frozenset": (frozenset[Any], frozenset({(1, 2), "a"})),
    "keys": (dict[Any, Any], {1: "a", (2, 3): "b", None: "c", 1.5: "d", "$": "e", True.__class__.__name__: 1}),
    "order": (dict[str, int], {"b": 1, "a": 2}),
    "ordered": (Any, collections.OrderedDict([("b", 1), ("a", 2)])),
    "counter": (Any, collections.Counter("abca")),
    "deque": (Any, collections.deque([1, 2], maxlen=3)),
    "range": (Any, range(1, 10, 3)),
    "named tuple": (Point, Point(1.0, 2.5)),
    "dataclass": (Fit, Fit(0.5, Colour.RED, Fit(1.0, Colour.BLUE), {(1, 2): {3}})),
    "model": (Shape, Shape(name="s", size=(3, 4))),
    "subclass of a model": (Shape, Circle(name="c", radius=2.0)),
    "models in a list": (list[Shape], [Shape(name="a"), Circle(name="b")]),
    "array": (numpy.ndarray, numpy.arange(12, dtype="<i2").reshape(3, 4)),
    "large array": (numpy.ndarray, numpy.asfortranarray(numpy.arange(6000.0).reshape(60, 100))),
    "array of dates": (numpy.ndarray, numpy.array(["2024-01-01", "NaT"], dtype="datetime64[D]")),
    "empty array": (numpy.ndarray, numpy.zeros((0, 3), dtype=bool)),
    "float32": (numpy.float32, numpy.float32(0.1)),
    "int8": (numpy.int8, numpy.int8(-3)),
    "numpy bool": (numpy.bool_, numpy.bool_(True)),
    "tensor": (torch.Tensor, torch.arange(6.0).reshape(2, 3)),
    "bfloat16": (torch.Tensor, torch.ones(3000, dtype=torch.bfloat16)),
    "state dict": (
        dict[str, Any],
        {**torch.nn.Sequential(torch.nn.Linear(30, 40), torch.nn.BatchNorm1d(40)).state_dict()},
    ),
    "arrays deep inside": (dict[str, Any], {"a": [numpy.arange(1000), {"b": torch.zeros(1000)}], "n": (1, 2)}),
}


def same(one: Any, other: Any) -> bool:
    """Tell whether two values are equal in type and value, at any depth."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return (one != one and other != other) or (one == other and math.copysign(1, one) == math.copysign(1, other))
    if isinstance(one, numpy.ndarray):
        kept = one.dtype == other.dtype and one.shape == other.shape and one.flags.fnc == other.flags.fnc
        return bool(kept and one.tobytes() == other.tobytes())
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and one.shape == other.shape and bool(torch.equal(one, other))
    if isinstance(one, dict):
        return same([*one.items()], [*other.items()])
    if isinstance(one, list | tuple | collections.deque):
        return len(one) == len(other) and all(map(same, one, other))
    if dataclasses.is_dataclass(one) and not isinstance(one, type):
        return same(vars(one), vars(other))
    if isinstance(one, datetime.datetime):
        return one == other and (one.tzinfo, one.fold) == (other.tzinfo, other.fold)
    return bool(one == other)


class Life:
    """One stage gives a value, the next dies the first time and then has it."""

    def __init__(self, annotation: Any, value: Any, path: Path) -> None:
        self.value, self.path = value, path
        self.given = 0
        self.got: list[Any] = []
        pipeline = Pipeline().stage("give", self.give).through(fields={"v": annotation})
        self.pipeline = pipeline.stage("take", self.take).through(ok=bool)

    def give(self) -> Any:
        self.given += 1
        return {"v": self.value}

    def take(self, v: Any) -> bool:
        self.got.append(v)
        if len(self.got) == 1:
            raise KeyboardInterrupt
        return True

    def live(self) -> Any:
        """Die, resume, and return what the stage after the value got then."""
        with pytest.raises(KeyboardInterrupt):
            self.pipeline.run(name="life", store=self.path)
        assert self.pipeline.run(name="life", store=self.path)["ok"] is True
        return self.got[-1]


@pytest.mark.parametrize("kind", VALUES)
def test_a_value_survives_by_type_and_value(kind: str, tmp_path: Path) -> None:
    annotation, value = VALUES[kind]
    life = Life(annotation, value, tmp_path / "sweep.db")
    found = life.live()
    assert same(found, value), f"{found!r} ({type(found).__name__}), was {value!r}"
    assert life.given == 1, "the stage that gave it ran again"


def test_all_of_them_at_once_survive(tmp_path: Path) -> None:
    whole = {f"v{number}": pair for number, pair in enumerate(VALUES.values())}
    life = Life(dict[str, Any], {name: value for name, (_, value) in whole.items()}, tmp_path / "sweep.db")
    assert same(life.live(), life.value)
    assert life.given == 1


@pytest.mark.parametrize(
    "value",
    [lambda: 1, iter([1]), open, {"deep": [object()]}, numpy.array([object()]), torch.nn.Linear(2, 2)],
    ids=["function", "iterator", "builtin", "deep", "objects", "module"],
)
def test_what_cannot_be_kept_is_named_and_its_stage_runs_again(value: Any, tmp_path: Path) -> None:
    life = Life(Any, value, tmp_path / "sweep.db")
    with pytest.warns(RuntimeWarning, match=r"'life/give'.*'?v'?.*resume begins again before stage 'give'"):
        assert life.live() is value
    assert life.given == 2


def test_what_has_to_be_kept_and_cannot_is_an_error(tmp_path: Path) -> None:
    pipeline = Pipeline().stage("give", lambda: {"v": iter([1])}).through(fields={"v": Any}, checkpoint=True)
    with pytest.raises(NotStorable, match="give"):
        pipeline.run(name="life", store=tmp_path / "sweep.db")


@pytest.mark.parametrize(
    "value",
    [
        *(value for _, value in VALUES.values()),
        *(lambda: 1, iter([1]), open, object(), int, torch.nn.Linear(2, 2), ValueError("x"), numpy.random.default_rng(1)),
        *(numpy.ma.masked_array([1]), torch.Size([1]), torch.float32, torch.device("cpu"), type("Text", (str,), {})("x")),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_a_class_tells_is_what_the_codec_does(value: Any) -> None:
    try:
        encode(value, MemoryBlobs(), type(value))
        written = True
    except NotStorable:
        written = False
    assert is_storable(type(value)) in ((True, None) if written else (False, None))
    if type(value) is not object:  # of which everything is an instance
        assert is_storable(type(value)) is written, "the class tells it"


class Base:
    """Not stored itself; whether its subclasses are, nobody knows."""


@dataclasses.dataclass
class Derived(Base):
    """Stored."""

    n: int = 0


@dataclasses.dataclass
class Holder:
    """Holds what cannot be stored."""

    net: torch.nn.Linear


NEVER = [
    torch.nn.Module,
    list[torch.nn.Module],
    dict[str, tuple[int, Callable[[int], int]]],
    Iterator[int],
    Callable[[int], int] | type[int],
    Holder,
]
PERHAPS = [Any, object, Base, Callable[[int], int] | None, Iterable[int], numpy.typing.NDArray[numpy.float64]]


@pytest.mark.parametrize("annotation", NEVER, ids=str)
def test_an_explicit_checkpoint_that_the_type_forbids_is_an_error_of_the_build(annotation: Any) -> None:
    default = Pipeline().stage("give", lambda: {"v": None}).through(fields={"v": annotation})
    with pytest.raises(ContractError, match=r"'give' .*checkpoint=True cannot be kept: field 'v': .* cannot be stored"):
        Pipeline().stage("give", lambda: {"v": None}, checkpoint=True).through(fields={"v": annotation}).check()
    assert "(not kept, resumes before give: field 'v'" in default.plan()


@pytest.mark.parametrize("annotation", [*PERHAPS, *(annotation for annotation, _ in VALUES.values())], ids=str)
def test_an_explicit_checkpoint_that_the_type_allows_is_none(annotation: Any) -> None:
    pipeline = Pipeline().stage("give", lambda: {"v": None}, checkpoint=True).through(fields={"v": annotation})
    assert "not kept" not in pipeline.check().plan()


class Beat:
    """Measures how long the event loop's own thread works before others get their turn.

    In seconds of its CPU, so that neither a slow disk nor a busy machine counts.
    """

    def __init__(self) -> None:
        self.longest = 0.0

    async def during(self, work: Callable[[], Any]) -> Any:
        """Return what ``work`` gives."""
        over = anyio.Event()
        gc.collect()
        gc.freeze()  # what earlier tests left is not to be gone through meanwhile

        async def beat() -> None:
            last = time.thread_time()
            while not over.is_set():
                await anyio.sleep(0.002)
                now = time.thread_time()
                self.longest = max(self.longest, now - last)
                last = now

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(beat)
            await anyio.sleep(0.01)
            try:
                return await work()
            finally:
                over.set()
                gc.unfreeze()


def hashed(array: numpy.ndarray) -> float:
    """Return twice the CPU seconds that it takes to hash an array on this machine, as busy as it is now."""
    began = time.thread_time()
    hashlib.blake2b(array.data)
    return max(0.12, 2 * (time.thread_time() - began))


@pytest.mark.anyio
async def test_a_large_array_is_written_in_little_memory_while_the_loop_goes_on(tmp_path: Path) -> None:
    size = 100_000_000
    big = numpy.random.default_rng(1).bytes(size)
    array = numpy.frombuffer(big, dtype=numpy.uint8)
    beat = Beat()
    pipeline = Pipeline().stage("give", lambda: array).through(v=numpy.ndarray)
    gc.collect()
    tracemalloc.start()
    await beat.during(lambda: pipeline.run(name="large", store=tmp_path / "sweep.db"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < size / 2, f"{peak / 1e6:.0f} MB more than the array itself"
    assert beat.longest < hashed(array), f"the loop stood still for {beat.longest:.2f} s"


@pytest.mark.anyio
@pytest.mark.parametrize("where", ["input", "input of a child", "cache", "restored", "finished"])
async def test_large_values_never_stop_the_loop(where: str, tmp_path: Path) -> None:
    array = numpy.frombuffer(numpy.random.default_rng(1).bytes(100_000_000), dtype=numpy.uint8)
    store, beat, fail = tmp_path / "sweep.db", Beat(), [True]

    def last(v: numpy.ndarray) -> int:
        if where == "restored" and fail.pop():
            raise KeyboardInterrupt
        return int(v[0])

    use = Pipeline(v=numpy.ndarray).stage("use", last, cache=where == "cache").through(n=int)
    whole = Pipeline().stage("give", lambda: array).through(v=numpy.ndarray).stage("use", last).through(n=int)

    async def child(v: numpy.ndarray) -> int:
        return int((await use.run(v=v, name="child")).n)

    if where in ("input", "cache"):
        found = await beat.during(lambda: use.run(name="r", store=store, v=array))
    elif where == "input of a child":
        parent = Pipeline().stage("give", lambda: array, checkpoint=False).through(v=numpy.ndarray)
        found = await beat.during(lambda: parent.stage("child", child).through(n=int).run(name="r", store=store))
    else:
        try:
            await whole.run(name="r", store=store)
        except KeyboardInterrupt:
            fail = [False]
        tracemalloc.start()
        found = await beat.during(lambda: whole.run(name="r", store=store, resume="must"))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 1.3 * array.nbytes, f"{peak / 1e6:.0f} MB for an array of {array.nbytes / 1e6:.0f} MB"
    assert found.n == array[0]
    assert beat.longest < hashed(array), f"the loop stood still for {beat.longest:.2f} s"


class Opened:
    """Notes which blobs are opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.addresses: list[str] = []
        original = BlobStore.open

        def noted(blobs: BlobStore, address: str) -> Any:
            self.addresses.append(address)
            return original(blobs, address)

        monkeypatch.setattr(BlobStore, "open", noted)


def random_bytes(size: int) -> numpy.ndarray:
    return numpy.frombuffer(numpy.random.default_rng(1).bytes(size), dtype=numpy.uint8)


@dataclasses.dataclass
class Holding:
    """A model with something large in it."""

    weights: numpy.ndarray
    n: int


def stored(annotations: dict[str, Any], values: Any, path: Path, last: Callable[..., Any] = lambda state: 1) -> Pipeline:
    """Run a pipeline until it dies before its last stage; return it as it is to be resumed."""
    dead = [True]

    def die() -> bool:
        if dead.pop():
            raise KeyboardInterrupt
        return True

    given = Pipeline().stage("give", lambda: values)
    through = given.through(annotations[""]) if "" in annotations else given.through(fields=annotations)
    pipeline = through.stage("die", die, checkpoint=False).through(alive=bool).stage("last", last).through(m=int)
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(name="life", store=path)
    dead[:] = [False] * 9
    return pipeline


def test_a_large_value_that_nobody_takes_is_never_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = random_bytes(50_000_000)
    pipeline = stored({"v": numpy.ndarray, "n": int}, {"v": array, "n": 3}, tmp_path / "sweep.db", lambda n: n)
    opened = Opened(monkeypatch)
    tracemalloc.start()
    state = pipeline.run(name="life", store=tmp_path / "sweep.db", resume="must")
    again = pipeline.run(name="life", store=tmp_path / "sweep.db", resume="must")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (state.m, again.m, opened.addresses) == (3, 3, [])
    assert peak < array.nbytes / 5, f"{peak / 1e6:.1f} MB"
    assert "v=<50 MB, not read yet>" in repr(state)
    assert numpy.array_equal(state.v, array)
    assert numpy.array_equal(again["v"], array), "the last State stands as the stage wrote it"
    assert state.v is state.v
    assert len(opened.addresses) == 2


@pytest.mark.parametrize("how", ["field", "model", "nested", "state"])
def test_a_large_value_is_read_by_whoever_takes_it(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = random_bytes(2_000_000)
    total = int(array.sum())
    takers: dict[str, Any] = {
        "field": lambda v: int(v.sum()),
        "model": lambda it: int(it.weights.sum()) + it.n - 3,
        "nested": Pipeline(v=numpy.ndarray).stage("in", lambda v: int(v.sum())).through(m=int),
        "state": lambda state: int(state.v.sum()),
    }
    takers["model"].__annotations__["it"] = Holding
    annotations = {"": Holding} if how == "model" else {"v": numpy.ndarray}
    pipeline = stored(annotations, Holding(array, 3) if how == "model" else {"v": array}, tmp_path / "sweep.db", takers[how])
    opened = Opened(monkeypatch)
    state = pipeline.run(name="life", store=tmp_path / "sweep.db", resume="must")
    assert state.m == total
    assert len(opened.addresses) == 1, "once"
    if how == "model":
        assert numpy.array_equal(state.weights, array)


def test_tensors_that_share_memory_share_it_when_they_are_read_later(tmp_path: Path) -> None:
    weights = torch.ones(600_000)
    pipeline = stored(
        {"a": torch.Tensor, "b": torch.Tensor, "c": int}, {"a": weights, "b": weights, "c": 1}, tmp_path / "sweep.db"
    )
    state = pipeline.run(name="life", store=tmp_path / "sweep.db", resume="must")
    assert state.a.data_ptr() == state.b.data_ptr()
    assert torch.equal(state.a, weights)


@pytest.mark.parametrize("taken", [True, False])
def test_damage_of_a_large_value_is_named_when_it_is_read_and_a_lost_file_before_anything_runs(
    tmp_path: Path, taken: bool
) -> None:
    ran: list[int] = []

    def last(n: int) -> int:
        ran.append(n)
        return n

    array, path = random_bytes(2_000_000), tmp_path / "sweep.db"
    pipeline = stored({"v": numpy.ndarray, "n": int}, {"v": array, "n": 3}, path, (lambda v: len(v)) if taken else last)
    (blob,) = (tmp_path / "sweep.db.d" / "blobs").rglob("*.npy")
    whole = blob.read_bytes()
    blob.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    if taken:
        with pytest.raises(StoreCorrupt, match=rf"field 'v': .*sweep\.db, run 1, 'give': blob .*{blob.name} is damaged.*redo"):
            pipeline.run(name="life", store=path, resume="must")
    else:
        state = pipeline.run(name="life", store=path, resume="must")
        assert state.m == 3
        with pytest.raises(StoreCorrupt, match="field 'v'"):
            _ = state.v
    if taken:
        blob.unlink()
        with pytest.raises(StoreCorrupt, match=rf"'give': blob .*{blob.name} cannot be read"):
            pipeline.run(name="life", store=path, resume="must")
    assert len(ran) == (0 if taken else 1)


@pytest.mark.anyio
async def test_what_an_async_stage_saves_is_copied_at_once_and_written_beside_the_loop(tmp_path: Path) -> None:
    array = random_bytes(50_000_000).copy()
    spent: list[float] = []

    async def work(ctx: Context) -> int:
        for number in range(3):
            array[:4] = number
            began = time.thread_time()
            ctx.save({"w": array, "number": number})
            spent.append(time.thread_time() - began)
            array[:4] = 99
            await anyio.sleep(0.05)
        found = ctx.load()
        assert (found["number"], found["w"][0], found["w"].nbytes) == (2, 2, array.nbytes)
        return 1

    assert (await Pipeline().stage("work", work).through(n=int).run(name="r", store=tmp_path / "sweep.db")).n == 1
    began = time.thread_time()
    hashlib.blake2b(array.data)
    assert min(spent) < time.thread_time() - began, "less than only hashing it takes"


@pytest.mark.anyio
@pytest.mark.parametrize("after", [False, True], ids=["before it", "after it"])
async def test_killed_at_any_commit_a_checkpoint_has_its_files_and_comes_before_its_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    loaded: list[Any] = []

    async def work(ctx: Context) -> int:
        found = ctx.load()
        begin = 0 if found is None else int(found[0]) + 1
        loaded.append((begin, 0 if found is None else len(found)))
        for step in range(begin, 3):
            ctx.save(numpy.full(3000, step))
            ctx.report(step, loss=step)
            await anyio.sleep(0.001)
        return 3

    pipeline = Pipeline().stage("work", work).through(n=int)
    deaths = Deaths(monkeypatch)
    for at in range(1, 50):
        path = tmp_path / f"{at}.db"
        deaths.count, deaths.at, deaths.after, deaths.dead = 0, at, after, False
        try:
            await pipeline.run(name="r", store=path)
            died = False
        except BaseException as error:
            if not isinstance(error, Killed) and (
                not isinstance(error, BaseExceptionGroup) or error.subgroup(Killed) is None
            ):
                raise
            died = True
        deaths.at, deaths.dead = 0, False
        told, over = list[int](), False
        if path.exists():
            with open_store(path) as store:
                over = ("completed",) in store.rows("SELECT status FROM run")
                files = [BlobStore(store.blob_directory(1)).path(row[0]) for row in store.rows("SELECT digest FROM blob")]
                told = [int(row[0]) for row in store.rows("SELECT step FROM metric ORDER BY id")]
            assert all(file.exists() for file in files)
        loaded.clear()
        assert (await pipeline.run(name="r", store=path, resume="must" if over else "auto")).n == 3
        if died and loaded:
            assert all(step < loaded[0][0] for step in told), (at, told, loaded)
            assert loaded[0][0] == 0 or loaded[0][1] == 3000
        if not died:
            break
    assert at > 4


class Weighing(Experiment):
    """Has a large field."""

    weights: Any = None

    def pipeline(self) -> Pipeline:
        return Pipeline().stage("weigh", lambda weights: int(weights["w"][0])).through(n=int)


@pytest.mark.anyio
@pytest.mark.parametrize("inside", [False, True], ids=["alone", "inside a stage"])
async def test_large_fields_are_hashed_beside_the_loop(tmp_path: Path, inside: bool) -> None:
    array, beat = random_bytes(100_000_000), Beat()

    async def stage() -> int:
        return int((await Weighing(weights={"w": array}).run()).value)

    outer = Pipeline().stage("stage", stage).through(n=int)
    run = Weighing(weights={"w": array}, store=tmp_path / "sweep.db").run
    await beat.during(lambda: outer.run(name="r", store=tmp_path / "sweep.db") if inside else run())
    began = time.thread_time()
    hashlib.blake2b(array.data)
    assert beat.longest < max(0.05, time.thread_time() - began), f"the loop stood still for {beat.longest:.2f} s"
