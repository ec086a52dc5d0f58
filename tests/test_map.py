"""Maps: items and results against contracts, order, failures, resume."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import anyio
import pytest
from dying import Deaths, Killed
from flows import Gone, one, problems, text
from pydantic import BaseModel

from sweep import Context, Experiment, Pipeline, Retry, errors, open_store, ref
from sweep.pipeline.request import Planned
from sweep.pipeline.steps import Results
from sweep.process.wire import dump, load


class Scores(BaseModel):
    """A model for binding by annotation."""

    score: float


class Item:
    """Something heavy."""


# ---------------------------------------------------------------- map: the check


def test_items_and_results_are_checked_against_the_fields() -> None:
    def takes(x: int) -> str:
        return str(x)

    told = problems(Pipeline(xs=list[str]).map("m", takes, over="xs").through(ys=list[str]))
    assert "map 'm'" in told
    assert "parameter 'x' is int, but an item of 'xs' from inputs is str" in told
    told = problems(Pipeline(xs=list[int]).map("m", takes, over="xs").through(ys=list[int]))
    assert "an item gives str, its contract is int" in told
    told = problems(Pipeline(xs=list[int]).map("m", takes, over="xs").through(ys=int))
    assert "a map gives a list, its contract is field 'ys': int" in told
    told = problems(Pipeline(xs=list[int]).map("m", takes, over="xs").through(Scores))
    assert "a map gives one field" in told
    told = problems(Pipeline(xs=int).map("m", takes, over="xs").through(ys=list[str]))
    assert "int from inputs has no items" in told
    told = problems(Pipeline(xs=list[int]).map("m", takes, over="xx").through(ys=list[str]))
    assert "over 'xx': nothing gives it" in told
    item = Pipeline(x=int).stage("a", text).through(t=str)
    told = problems(Pipeline(xs=list[int]).map("m", item, over="xs").through(ys=list[int]))
    assert "an item gives str, its contract is int" in told


def test_under_continue_the_item_type_must_allow_none() -> None:
    told = problems(Pipeline(xs=list[int]).map("m", one, over="xs", on_failure="continue").through(ys=list[int]))
    assert "on_failure='continue' makes a failed item None" in told
    assert "list[int | None]" in told
    Pipeline(xs=list[int]).map("m", one, over="xs", on_failure="continue").through(ys=list[int | None]).check()
    Pipeline(xs=list[int]).map("m", one, over="xs", on_failure="continue").through(ys=list).check()


def test_which_parameter_takes_the_item() -> None:
    def scaled(factor: int, x: int) -> int:
        return factor * x

    known = Pipeline(xs=list[int], factor=int)
    assert known.map("m", scaled, over="xs").through(ys=list[int]).run(xs=[1, 2], factor=3).ys == [3, 6]
    assert Pipeline(xs=list[int]).map("m", scaled, over="xs", factor=5).through(ys=list[int]).run(xs=[2]).ys == [10]
    assert Pipeline(xs=list[int], x=int).map("m", one, over="xs").through(ys=list[int]).run(xs=[2], x=9).ys == [3]
    both = Pipeline(xs=list[int], n=int, item=int)
    assert both.map("m", lambda n, item: n * item, over=ref("xs")).through(ys=list[int]).run(
        xs=[2, 3], n=2, item=9
    ).ys == [4, 6]
    told = problems(Pipeline(xs=list[int], n=int, k=int).map("m", lambda n, k: n, over="xs"))
    assert "no parameter is left for the item" in told
    assert Pipeline().map("m", scaled, over="xs").inputs == {"xs": Any, "x": int}  # the first of several is the item
    with_state = Pipeline(xs=list[int], k=int).map("m", lambda x, state: x * state.k, over="xs").through(ys=list[int])
    assert with_state.run(xs=[2, 3], k=4).ys == [8, 12]


# ---------------------------------------------------------------- map: the run


@pytest.mark.anyio
async def test_results_are_ordered_and_no_more_items_run_at_once_than_asked() -> None:
    now, most = 0, 0

    async def slow(x: int) -> int:
        nonlocal now, most
        now += 1
        most = max(most, now)
        for _ in range(x):
            await anyio.lowlevel.checkpoint()
        now -= 1
        return -x

    built = Pipeline(xs=list[int]).map("m", slow, over="xs", concurrency=3).through(ys=list[int])
    xs = [9, 1, 5, 0, 7, 2, 8, 3]
    assert (await built.run(xs=xs)).ys == [-x for x in xs]
    assert most == 3


@pytest.mark.anyio
async def test_items_are_pulled_as_they_are_needed_and_let_go() -> None:
    alive: weakref.WeakSet[Item] = weakref.WeakSet()
    most = 0

    def items() -> Iterator[Item]:
        for _ in range(500):
            item = Item()
            alive.add(item)
            yield item

    async def look(item: Item) -> int:
        nonlocal most
        await anyio.lowlevel.checkpoint()
        most = max(most, len(alive))
        return 1

    built = Pipeline(xs=Iterator[Item]).map("m", look, over="xs", concurrency=4).through(ys=list[int])
    assert sum((await built.run(xs=items())).ys) == 500
    assert most <= 12


@pytest.mark.anyio
async def test_items_that_never_wait_leave_the_loop_to_others() -> None:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await anyio.lowlevel.checkpoint()

    async def quick(x: int) -> int:
        return x

    async with anyio.create_task_group() as group:
        group.start_soon(tick)
        await (
            Pipeline(xs=list[int])
            .map("m", quick, over="xs", concurrency=2)
            .through(ys=list[int])
            .run(xs=list(range(2000)))
        )
        group.cancel_scope.cancel()
    assert ticks >= 20


@pytest.mark.anyio
async def test_the_first_failed_item_stops_the_others() -> None:
    begun: list[int] = []

    async def fails(x: int) -> int:
        begun.append(x)
        if x == 2:
            raise Gone("two")
        await anyio.sleep_forever()
        return x

    with anyio.fail_after(5), pytest.raises(Gone) as found:
        await (
            Pipeline(xs=list[int])
            .map("m", fails, over="xs", concurrency=3)
            .through(ys=list[int])
            .run(xs=[0, 1, 2, 3, 4])
        )
    assert sorted(begun) == [0, 1, 2]
    assert any(note.startswith("in item 'm[2]'") for note in found.value.__notes__)
    assert any(note.startswith("in stage 'm'") for note in found.value.__notes__)


def test_under_continue_failures_are_kept_by_index() -> None:
    def inverse(x: int) -> float:
        return 1 / x

    built = Pipeline(xs=list[int]).map("m", inverse, over="xs", on_failure="continue").through(ys=list[float | None])
    found = built.run(xs=[1, 0, 2, 0]).ys
    assert found == [1.0, None, 0.5, None]
    assert list(found.failures) == [1, 3]
    assert isinstance(found.failures[1], ZeroDivisionError)
    with pytest.raises(errors.ContractViolation, match=r"m\[1\]"):
        Pipeline(xs=list[Any]).map("m", lambda x: x, over="xs").through(ys=list[int]).run(xs=[1, "2"])
    wrong = Pipeline(xs=list[Any]).map("m", lambda x: x, over="xs", on_failure="continue").through(ys=list[int | None])
    assert isinstance(wrong.run(xs=[1, "2"]).ys.failures[1], errors.ContractViolation)


def test_failures_survive_a_sub_pipeline_a_resume_and_a_finished_run() -> None:
    fails = [True]

    def end(ys: list[int | None]) -> int:
        if fails and fails.pop():
            raise Gone
        return len(ys)

    inner = (
        Pipeline(xs=list[int]).map("m", lambda x: 1 // x, over="xs", on_failure="continue").through(ys=list[int | None])
    )
    built = Pipeline(xs=list[int]).stage("sub", inner).through(ys=list[int | None]).stage("end", end).through(n=int)
    with pytest.raises(Gone):
        built.run(xs=[1, 0], name="run")
    found = built.run(xs=[1, 0], name="run").ys
    assert found == [1, None]
    assert isinstance(found.failures[1], errors.ItemFailed)
    assert (found.failures[1].kind, found.failures[1].message) == (
        "ZeroDivisionError",
        "integer division or modulo by zero",
    )


def test_results_travel_with_their_failures() -> None:
    found = load(dump(Results([1, None], {1: errors.ItemFailed("ValueError", "no")})))
    assert found == [1, None]
    assert str(found.failures[1]) == "ValueError: no"


def test_a_retried_map_runs_the_failed_items_only() -> None:
    runs: list[int] = []

    def once(x: int) -> int:
        runs.append(x)
        if x == 1 and runs.count(1) == 1:
            raise Gone
        return x

    built = Pipeline(xs=list[int]).map("m", once, over="xs").through(ys=list[int], retry=Retry(2, backoff=0))
    assert built.run(xs=[0, 1, 2]).ys == [0, 1, 2]
    assert runs == [0, 1, 1, 2]
    broken = Pipeline(xs=Iterator[int]).map("m", lambda x: 1 // 0, over="xs")
    with pytest.raises(errors.SweepError, match="used up after one pass"):
        broken.through(ys=list[int], retry=Retry(1, backoff=0)).run(xs=iter([1]))


def test_hooks_of_the_map_wrap_each_item_and_hooks_of_its_contract_the_whole() -> None:
    tried: list[int] = []
    afterwards: list[Any] = []

    def flaky(x: int, ctx: Context) -> int:
        tried.append(x)
        if ctx.attempt == 1:
            raise Gone
        return x

    built = Pipeline(xs=list[int]).map("m", flaky, over="xs", retry=Retry(1, backoff=0), transform=lambda y: y * 2)
    built = built.through(ys=list[int], after=afterwards.append, validate=lambda ys: len(ys) == 2)
    assert built.run(xs=[1, 2]).ys == [2, 4]
    assert tried == [1, 1, 2, 2]
    assert afterwards == [[2, 4]]


def test_pipelines_and_experiments_are_items() -> None:
    class Fit(Experiment):
        """An experiment whose value is a number."""

        def pipeline(self) -> Pipeline:
            return Pipeline(seed=int).stage("fit", lambda seed: seed / 2).through(loss=float)

    item = (
        Pipeline(x=int, k=int)
        .stage("a", lambda x, k: x * k)
        .through(y=int)
        .stage("b", lambda y: (y, str(y)))
        .through(pair=tuple[int, str])
    )
    assert Pipeline(xs=list[int], k=int).map("m", item, over="xs").through(ys=list[tuple[int, str]]).run(
        xs=[1, 2], k=3
    ).ys == [
        (3, "3"),
        (6, "6"),
    ]
    assert Pipeline(seeds=list[int]).map("m", Fit(), over="seeds", concurrency=2).through(ys=list[float]).run(
        seeds=[1, 4]
    ).ys == [0.5, 2]
    named = (
        Pipeline(seeds=list[int])
        .map("m", Fit(), over="seeds", concurrency=2)
        .through(ys=list[float])
        .run(seeds=[1, 4], name="run")
    )
    assert named.ys == [0.5, 2]
    with open_store() as store:
        assert [row[0] for row in store.rows("SELECT stage FROM run WHERE parent_id>0 ORDER BY stage")] == [
            "m[0]",
            "m[1]",
        ]


def test_a_map_inside_a_map_and_in_a_loop() -> None:
    inner = Pipeline(row=list[int]).map("cell", lambda x: x + 1, over="row").through(out=list[int])
    built = (
        Pipeline(grid=list[list[int]], n=int)
        .loop_while(lambda s: s.n < 3)
        .map("row", inner, over="grid", concurrency=2)
        .through(grid=list[list[int]])
        .stage("count", lambda n: n + 1)
        .through(n=int)
        .end_loop()
    )
    assert built.run(grid=[[1, 2], [3]], n=0).grid == [[4, 5], [6]]
    assert built.run(grid=[[1, 2], [3]], n=0, name="run").grid == [[4, 5], [6]]


def test_a_resume_runs_exactly_the_failed_and_unfinished_items() -> None:
    runs: list[int] = []
    bad = {3, 5}

    def work(x: int) -> dict[str, int]:
        runs.append(x)
        if x in bad:
            raise Gone(str(x))
        return {"x": x}

    built = Pipeline(xs=list[int]).map("m", work, over="xs").through(ys=list[dict[str, int]])
    xs = list(range(8))
    with pytest.raises(Gone):
        built.run(xs=xs, name="run")
    assert runs == [0, 1, 2, 3]
    with open_store() as store:
        keys = [row[0] for row in store.rows("SELECT key FROM journal WHERE key NOT LIKE '%!%' ORDER BY key")]
    assert keys == ["m[0]", "m[1]", "m[2]"]
    bad.remove(3)
    with pytest.raises(Gone):
        built.run(xs=xs, name="run")
    bad.clear()
    assert built.run(xs=xs, name="run").ys == [{"x": x} for x in xs]
    assert runs == [0, 1, 2, 3, 3, 4, 5, 5, 6, 7]
    with open_store() as store:
        keys = [row[0] for row in store.rows("SELECT key FROM journal ORDER BY key")]
    assert keys == ["!end", "m"]


def test_an_item_that_cannot_be_kept_runs_again_and_says_so() -> None:
    runs: list[int] = []
    broken = [True]

    class Odd:
        """Nothing a store could keep."""

    def work(x: int) -> Any:
        runs.append(x)
        return Odd() if x == 1 else x

    def end() -> None:
        if broken and broken.pop():
            raise Gone

    built = Pipeline(xs=list[int]).map("m", work, over="xs").through(ys=list[Any]).stage("end", end)
    with pytest.warns(RuntimeWarning, match=r"m\[1\]"), pytest.raises(Gone):
        built.run(xs=[0, 1, 2], name="run")
    built.run(xs=[0, 1, 2], name="run")
    assert runs == [0, 1, 2, 1]


def test_items_that_finish_together_share_a_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    async def quick(x: int) -> int:
        await anyio.lowlevel.checkpoint()
        return x

    deaths = Deaths(monkeypatch)
    built = Pipeline(xs=list[int]).map("m", quick, over="xs", concurrency=50).through(ys=list[int])
    deaths.run(lambda: built.run(xs=list(range(1000)), name="run"))
    assert deaths.count < 100


def test_an_item_counts_as_finished_once_it_is_committed(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[int] = []

    async def quick(x: int) -> int:
        runs.append(x)
        return x

    deaths = Deaths(monkeypatch)
    built = Pipeline(xs=list[int]).map("m", quick, over="xs", concurrency=3).through(ys=list[int])
    deaths.run(lambda: built.run(xs=list(range(12)), name="whole"))
    for at in range(1, deaths.count + 1):
        for after in (False, True):
            name, kept = f"run-{at}-{after}", []
            runs.clear()
            assert isinstance(
                deaths.run(lambda name=name: built.run(xs=list(range(12)), name=name), at=at, after=after), Killed
            )
            with open_store() as store:
                query = "SELECT j.key FROM journal j JOIN run r ON r.id=j.run_id WHERE r.name=? AND j.kind='stage'"
                kept = [row[0] for row in store.rows(query, (name,))]
                ended = store.rows("SELECT 1 FROM run WHERE name=? AND status='completed'", (name,))
            runs.clear()
            if ended:
                continue
            assert built.run(xs=list(range(12)), name=name).ys == list(range(12))
            done = set(range(12)) if "m" in kept else {int(key[2:-1]) for key in kept if key.startswith("m[")}
            assert sorted(runs) == sorted(set(range(12)) - done)


def test_the_plan_of_a_resume_counts_items(monkeypatch: pytest.MonkeyPatch) -> None:
    bad = [True]

    def work(x: int) -> int:
        if x == 2 and bad:
            raise Gone
        return x

    built = Pipeline(xs=list[int], x=int).branch(lambda s: True, one, name="way").through(y=int)
    built = built.map("m", work, over="xs").through(ys=list[int])
    with pytest.raises(Gone):
        built.run(xs=[0, 1, 2, 3], x=1, name="run")
    monkeypatch.setenv("SWEEP_RESUME", '{"run": 1, "dry_run": true}')
    with pytest.raises(Planned) as planned:
        built.run(xs=[0, 1, 2, 3], x=1, name="run")
    shown = {line.path: (line.action, line.note) for line in planned.value.plan.lines}
    assert shown["way/then"][0] == "restored"
    assert shown["m"][0] == "runs"
    assert shown["m[]"] == ("restored", "2 items")


def test_the_next_item_of_a_worker_begins_after_the_commit_of_the_one_before() -> None:
    kept: list[int] = []

    def look(x: int) -> int:
        with open_store() as store:
            kept.append(len(store.rows("SELECT 1 FROM journal WHERE key LIKE 'm[%'")))
        return x

    Pipeline(xs=list[int]).map("m", look, over="xs").through(ys=list[int]).run(xs=[1, 2, 3], name="run")
    assert kept == [0, 1, 2]


def test_an_iteration_begun_in_its_first_map_goes_on_whatever_the_predicate_says_now() -> None:
    answers = [True, True, False, False]
    bad = {(1, 2)}
    runs: list[tuple[int, int]] = []

    def work(n: int, item: int) -> int:
        runs.append((n, item))
        if (n, item) in bad:
            raise Gone
        return item

    built = Pipeline(xs=list[int], n=int).loop_while(lambda s: answers.pop(0)).map("m", work, over="xs")
    built = built.through(ys=list[int]).stage("count", lambda n: n + 1).through(n=int).end_loop()
    with pytest.raises(Gone):
        built.run(xs=[1, 2, 3], n=0, name="run")
    bad.clear()
    assert built.run(xs=[1, 2, 3], n=0, name="run").n == 2
    assert runs == [(0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (1, 2), (1, 3)]
    assert answers == [False]


def leaves(x: int) -> int:
    if x == 1:
        raise SystemExit(3)
    return x


@pytest.mark.parametrize("concurrency", [1, 3])
def test_an_item_that_exits_ends_the_run_and_nothing_is_left_of_the_loop(
    concurrency: int, caplog: pytest.LogCaptureFixture
) -> None:
    pipeline = Pipeline(xs=list[int]).map("m", leaves, over="xs", concurrency=concurrency, on_failure="continue")
    code = None
    try:
        pipeline.through(ys=list[int | None]).run(xs=[0, 1, 2, 3])
    except SystemExit as error:
        code = error.code
    gc.collect()  # nothing refers to the traceback any more
    assert code == 3
    assert not caplog.records, "asyncio complains of no task"


def test_what_has_no_items_is_told_with_the_field() -> None:
    with pytest.raises(errors.ContractViolation, match=r"stage 'm', field 'xs': got None .*, expected something that has items"):
        Pipeline(xs=object).map("m", lambda x: x, over="xs").run(xs=None)


def test_a_kept_run_takes_a_generator_which_has_no_name_of_a_module() -> None:
    async def double(x: int) -> int:
        return 2 * x

    pipeline = Pipeline(xs=Iterator[int]).map("each", double, over="xs", concurrency=3).through(ys=list[int])
    with pytest.warns(RuntimeWarning, match="input 'xs' of 'generated' is a builtins.generator, which cannot be stored"):
        assert pipeline.run(xs=(x for x in range(5)), name="generated").ys == [0, 2, 4, 6, 8]
