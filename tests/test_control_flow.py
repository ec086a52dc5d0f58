"""Branches, parallel stages, maps, child processes and breakpoints of pipelines."""

from __future__ import annotations

import io
import os
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import pytest
from dying import Deaths, Killed
from pydantic import BaseModel

from sweep import Context, Experiment, Pipeline, Retry, State, errors, open_store, ref
from sweep.pipeline.request import Planned
from sweep.pipeline.steps import Results
from sweep.process.wire import dump, load


class Scores(BaseModel):
    """A model for binding by annotation."""

    score: float


class Item:
    """Something heavy."""


class Gone(Exception):
    """An error of the tests' own."""


def problems(pipeline: Pipeline) -> str:
    """Return what check() says."""
    with pytest.raises(errors.ContractError) as found:
        pipeline.check()
    return "\n".join(found.value.problems)


def one(x: int) -> int:
    """Give an int."""
    return x + 1


def text(x: int) -> str:
    """Give a text."""
    return str(x)


# ---------------------------------------------------------------- branch: the check


def test_what_both_sides_give_is_there_afterwards() -> None:
    built = Pipeline(x=int).branch(lambda s: s.x > 0, one, lambda x: -x, name="way").through(y=int)
    built = built.stage("use", lambda y: y * 10).through(z=int)
    assert built.run(x=3).z == 40
    assert built.run(x=-3).z == 30
    assert built.outputs == {"y": int, "z": int}


def test_what_one_side_gives_may_be_missing() -> None:
    given = Pipeline(x=int).branch(lambda s: s.x > 0, Pipeline().stage("a", one).through(y=int), name="way")
    told = problems(given.stage("use", lambda y: y))
    assert "parameter 'y' needs the field of branch 'way', of which only one side gives it" in told
    with_default = given.stage("use", lambda y=7: y).through(z=int)
    assert (with_default.run(x=1).z, with_default.run(x=0).z) == (2, 7)
    assert "y" not in given.run(x=0)
    told = problems(Pipeline(x=int).stage("sub", given).through(y=int))
    assert "field 'y' of the sub-pipeline may be missing" in told


def test_a_field_known_before_stays_known() -> None:
    given = Pipeline(x=int, y=int).branch(lambda s: s.x > 0, Pipeline().stage("a", one).through(y=int), name="way")
    assert given.stage("use", lambda y: y).through(z=int).run(x=1, y=5).z == 2
    assert given.stage("use", lambda y: y).through(z=int).run(x=0, y=5).z == 5


def test_sides_that_differ_in_type_are_refused_where_they_join() -> None:
    sides = (Pipeline().stage("a", one).through(y=int), Pipeline().stage("b", text).through(y=str))
    told = problems(Pipeline(x=int).branch(lambda s: s.x > 0, *sides, name="way"))
    assert "field 'y' is int from stage 'a'" in told
    assert "and str from stage 'b'" in told
    assert "where branch 'way' joins" in told


def test_a_model_of_both_sides_binds_by_annotation_and_of_one_side_does_not() -> None:
    side = Pipeline().stage("a", lambda x: Scores(score=x)).through(Scores)
    both = Pipeline(x=int).branch(lambda s: s.x > 0, side, side, name="way")

    def use(found: Scores) -> float:
        return found.score

    assert both.stage("use", use).through(z=float).run(x=2).z == 2.0
    told = problems(Pipeline(x=int).branch(lambda s: s.x > 0, side, name="way").stage("use", use))
    assert "needs the Scores of branch 'way'" in told


def test_each_side_has_names_of_its_own_and_the_branch_one_of_the_pipeline() -> None:
    side = Pipeline().stage("train", one).through(y=int)
    assert Pipeline(x=int).branch(lambda s: s.x, side, side, name="way").run(x=1).y == 2
    told = problems(Pipeline(x=int).stage("way", one).branch(lambda s: s.x, side, name="way"))
    assert "branch 'way'" in told
    assert "the name is taken" in told


def test_a_predicate_that_reads_what_nobody_gives_is_refused() -> None:
    told = problems(Pipeline(x=int).branch(lambda s: s.exx > 0, one, name="way"))
    assert "the predicate reads 'exx', which nobody gives" in told


def test_inputs_of_sides_are_inputs_of_the_pipeline() -> None:
    built = Pipeline().branch(lambda s: s.x > 0, Pipeline().stage("a", lambda y, z: y + z).through(w=int), name="way")
    assert set(built.inputs) == {"x", "y", "z"}
    declared = Pipeline(x=str).branch(lambda s: s.x, Pipeline(x=int).stage("a", one).through(y=int), name="way")
    assert "its input 'x' is int, but field 'x' from inputs is str" in problems(declared)


@pytest.mark.parametrize(
    ("build", "told"),
    [
        (lambda: Pipeline().branch(3, one, name="b"), "the predicate 3 is no function"),
        (lambda: Pipeline().branch(one, 3, name="b"), "3 is no function, pipeline or experiment"),
        (lambda: Pipeline().branch(one, one, name="a/b"), "needs a name"),
        (lambda: Pipeline().branch(one, Pipeline().loop_while(one), name="b"), "the then side has an open loop"),
        (lambda: Pipeline().branch(one, Pipeline(), name="b").check(), "its then side is empty"),
        (
            lambda: Pipeline().branch(one, Pipeline().stage("a", one).through(y=int), name="b").through(z=int),
            "have contracts of their own",
        ),
        (lambda: Pipeline().parallel(), "needs stages"),
        (lambda: Pipeline().parallel(a=3), "3 is no function"),
        (lambda: Pipeline().parallel(a=one).through(b=int), "'b' is no stage of parallel(a)"),
        (lambda: Pipeline().parallel(a=one).through(Scores), "parallel stages give a field each"),
        (lambda: Pipeline().map("m", one, over=[1]), "expected the name of a field"),
        (lambda: Pipeline().map("m", one, over="xs", concurrency=0), "expected a whole number >= 1"),
        (lambda: Pipeline().map("m", one, over="xs", on_failure="ignore"), "expected 'stop' or 'continue'"),
        (lambda: Pipeline().map("m", one, over="xs", after=print), "after= is not for single items"),
    ],
)
def test_what_is_wrong_by_itself_is_refused_at_once(build: Callable[[], object], told: str) -> None:
    with pytest.raises(errors.ContractError) as found:
        build()
    assert told in str(found.value)
    assert "test_control_flow.py" in str(found.value) or "pipeline" in str(found.value)


# ---------------------------------------------------------------- branch: the run


@pytest.mark.anyio
async def test_a_side_sees_the_whole_state_and_predicates_may_be_async() -> None:
    async def positive(state: State) -> bool:
        await anyio.lowlevel.checkpoint()
        return bool(state.x > 0)

    side = Pipeline().stage("a", lambda state: state.x + state.hidden).through(y=int)
    built = Pipeline(x=int, hidden=int).branch(positive, side, name="way")
    assert (await built.run(x=1, hidden=5)).y == 6


def test_a_failing_predicate_names_its_branch() -> None:
    with pytest.raises(ZeroDivisionError) as found:
        Pipeline(x=int).branch(lambda s: 1 / s.x, one, name="way").run(x=0)
    assert any("in the predicate of branch 'way'" in note for note in found.value.__notes__)


def test_global_hooks_reach_the_sides_and_those_of_a_side_stay_inside() -> None:
    seen: list[str] = []
    side = (
        Pipeline()
        .stage("a", one)
        .through(y=int)
        .with_global_hooks(after=lambda stage, data: seen.append(f"in {stage}"))
    )
    built = Pipeline(x=int).branch(lambda s: True, side, name="way").stage("end", one)
    built.with_global_hooks(before=lambda stage, state: seen.append(stage)).run(x=1)
    assert seen == ["way/a", "in way/a", "end"]


def test_a_resumed_branch_takes_the_side_it_took() -> None:
    answers = [True, False]
    fails = [True]

    def end(y: int) -> int:
        if fails.pop():
            raise Gone
        return y

    asked: list[bool] = []

    def predicate(state: State) -> bool:
        asked.append(answers.pop(0))
        return asked[-1]

    built = (
        Pipeline(x=int).branch(predicate, one, lambda x: -x, name="way").through(y=int).stage("end", end).through(z=int)
    )
    with pytest.raises(Gone):
        built.run(x=3, name="run")
    fails.append(False)
    assert built.run(x=3, name="run").z == 4
    assert asked == [True]


def test_another_side_or_predicate_name_is_another_structure() -> None:
    built = Pipeline(x=int).branch(lambda s: True, one, name="way").through(y=int)
    with pytest.raises(ZeroDivisionError):
        built.stage("boom", lambda: 1 / 0).run(x=1, name="run")
    other = Pipeline(x=int).branch(lambda s: True, Pipeline().stage("a", one).through(y=int), name="way")
    with pytest.raises(errors.ResumeRefused) as found:
        other.stage("boom", lambda: 1 / 0).run(x=1, name="run", resume="must")
    assert any("'then' was renamed to 'a'" in line for line in found.value.diff)


# ---------------------------------------------------------------- parallel


@pytest.mark.anyio
async def test_parallel_stages_run_at_once_on_the_same_state() -> None:
    met = anyio.Event(), anyio.Event()

    async def left(x: int) -> int:
        met[0].set()
        await met[1].wait()
        return x + 1

    async def right(x: int, state: State) -> int:
        met[1].set()
        await met[0].wait()
        assert set(state) == {"x"}
        return x * 10

    built = (
        Pipeline(x=int).parallel(left=left, right=right).stage("sum", lambda left, right: left + right).through(z=int)
    )
    with anyio.fail_after(5):
        assert (await built.run(x=2)).z == 23


def test_the_fields_of_parallel_stages() -> None:
    def nothing(x: int) -> None:
        """Give nothing."""

    inner = Pipeline(x=int).stage("a", one).through(u=int).stage("b", lambda u: u).through(v=int)
    built = Pipeline(x=int).parallel(typed=one, plain=lambda x: x, nothing=nothing, inner=inner)
    assert built.outputs == {"typed": int, "plain": Any, "u": int, "v": int}
    assert built.run(x=1) == {"x": 1, "typed": 2, "plain": 1, "u": 2, "v": 2}
    named = Pipeline(x=int).parallel(typed=one, inner=inner).through(typed=float, retry=1)
    assert named.outputs == {"typed": float, "u": int, "v": int}


def test_clashes_between_parallel_stages_are_refused() -> None:
    gives = Pipeline(x=int).stage("s", one).through(y=int)
    told = problems(Pipeline(x=int).parallel(a=gives, b=gives))
    assert "field 'y' is given by 'a' and by 'b', which run at once" in told

    def reads(a: int, x: int) -> int:
        return a + x

    told = problems(Pipeline().parallel(a=one, b=reads))
    assert "a stage takes 'a', which its sibling 'a' gives at the same time" in told
    both = Pipeline(x=int, n=int).parallel(a=lambda x: {"a": 1, "n": 2}, b=lambda x: {"b": 1, "n": 3})
    with pytest.raises(errors.ContractViolation, match=r"'a' sets it, too"):
        both.through(a=int, b=int).run(x=1, n=1)


@pytest.mark.anyio
async def test_a_failure_cancels_the_siblings_and_comes_out_as_itself() -> None:
    cancelled: list[str] = []

    async def waits(x: int) -> int:
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            cancelled.append("waits")
            raise
        return x

    async def fails(x: int) -> int:
        await anyio.lowlevel.checkpoint()
        raise Gone("away")

    with anyio.fail_after(5), pytest.raises(Gone) as found:
        await Pipeline(x=int).parallel(waits=waits, fails=fails).run(x=1)
    assert cancelled == ["waits"]
    assert any(note.startswith("in stage 'fails'") for note in found.value.__notes__)


@pytest.mark.anyio
async def test_several_failures_come_out_as_a_group_with_a_line_each() -> None:
    async def first(x: int) -> int:
        raise Gone("one")

    async def second(x: int) -> int:
        raise ValueError("two")

    with pytest.raises(ExceptionGroup) as found:
        await Pipeline(x=int).parallel(first=first, second=second).run(x=1)
    assert [type(error) for error in found.value.exceptions] == [Gone, ValueError]
    assert "in stage 'first'" in str(found.value)
    assert "ValueError: two" in str(found.value)


def test_parallel_stages_in_a_loop_resume_where_they_were(store_path: Any) -> None:
    runs: list[str] = []
    broken = [True]

    def left(n: int, ctx: Context) -> int:
        runs.append(ctx.path)
        return n + 1

    def step(left: int, right: int, ctx: Context) -> int:
        runs.append(ctx.path)
        if left == 2 and broken and broken.pop():
            raise Gone
        return left

    built = Pipeline(n=int).loop_while(lambda s: s.n < 3).parallel(left=left, right=left).through(left=int, right=int)
    built = built.stage("step", step).through(n=int).end_loop()
    with pytest.raises(Gone):
        built.run(n=0, name="run")
    runs.clear()
    assert built.run(n=0, name="run").n == 3
    assert sorted(runs) == ["run/left#2", "run/right#2", "run/step#1", "run/step#2"]


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


def test_plan_and_drawing_show_control_flow() -> None:
    side = Pipeline().stage("big", one).through(y=int)
    built = (
        Pipeline(x=int, xs=list[int])
        .branch(lambda s: s.x > 0, side, Pipeline().stage("small", one).through(y=int), name="way")
        .parallel(a=one, b=one)
        .map("each", Pipeline(x=int).stage("in", one).through(z=int), over="xs", concurrency=4, retry=2)
        .through(zs=list[int], timeout=9)
    )
    assert repr(built) == "Pipeline(way(big | small) -> (a & b) -> each[])"
    lines = built.plan().splitlines()
    assert lines[:2] == ["branch way, then:", "  big(x) -> y: int"]
    assert lines[4:7] == ["at once:", "  a(x) -> a: int", "  b(x) -> b: int"]
    assert lines[7:] == [
        "map each(x) over xs, 4 at once -> zs: list[int]  [timeout]  [each: retry]",
        "  in(x) -> z: int",
    ]
    drawn = built.to_mermaid()
    for line in (
        'b0{"way"}',
        'b0 -->|"then"| s1',
        'b0 -->|"otherwise"| s2',
        's1 -->|"y: int"| s3',
        's2 -->|"y: int"| s4',
        's3 -->|"a: int"| s5',
        's4 -->|"b: int"| s5',
        'subgraph s5["map each over xs"]',
    ):
        assert line in drawn


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


# ---------------------------------------------------------------- child processes


def in_child(x: int, ctx: Context) -> dict[str, int]:
    """Speak through the pipe."""
    seen = ctx.load()
    ctx.save({"x": x})
    ctx.log_metric("loss", 0.5)
    ctx.report(1, score=2.0)
    return {"pid": os.getpid(), "seen": -1 if seen is None else seen["x"], "left": int(ctx.remaining or 0)}


async def in_async_child(item: int) -> int:
    """Fail for 2."""
    await anyio.lowlevel.checkpoint()
    if item == 2:
        raise Gone("in the child")
    return os.getpid()


def hangs(x: int) -> int:
    """Never return."""
    while True:
        time.sleep(60)


@pytest.mark.anyio
async def test_a_stage_in_a_child_process(store_path: Any, capfd: pytest.CaptureFixture[str]) -> None:
    built = (
        Pipeline(x=int, xs=list[int])
        .stage("one", in_child, isolate="process", timeout=100)
        .through(found=dict[str, int])
        .map("many", in_async_child, over="xs", concurrency=2, on_failure="continue")
        .through(pids=list[int | None], isolate="process")
    )
    last = await built.run(x=4, xs=[1, 2], name="run")
    assert last.found["pid"] != os.getpid()
    assert last.found["seen"] == -1
    assert 0 < last.found["left"] <= 100
    assert last.pids[0] not in (None, os.getpid(), last.found["pid"])
    assert isinstance(last.pids.failures[1], Gone)
    assert any("in a child process" in note for note in last.pids.failures[1].__notes__)
    with open_store() as store:
        assert sorted(store.rows("SELECT name, value FROM metric")) == [("loss", 0.5), ("score", 2.0)]
        assert (store.run_directory(1) / "stdout.log").exists()


@pytest.mark.anyio
async def test_a_child_that_hangs_is_killed_by_its_timeout() -> None:
    with (
        warnings.catch_warnings(),
        anyio.fail_after(30),
        pytest.raises(errors.StageTimeout, match="its process was killed"),
    ):
        await Pipeline(x=int).stage("hangs", hangs, isolate="process", timeout=0.05).through(y=int).run(x=1)


def test_where_isolate_cannot_be() -> None:
    class Inner(Experiment):
        """Nothing."""

        def pipeline(self) -> Pipeline:
            return Pipeline().stage("a", lambda: 1).through(y=int)

    told = problems(Pipeline().stage("e", Inner(), isolate="process"))
    assert "isolate= is for functions and pipelines of them" in told
    lock = threading.Lock()  # something that cannot be sent
    with pytest.raises(errors.ContractError, match="cannot be sent to a child process"):
        Pipeline(x=int).stage("a", lambda x: (x, lock), isolate="process").run(x=1)


# ---------------------------------------------------------------- breakpoints


class Terminal(io.StringIO):
    """A stdin that is a terminal."""

    def isatty(self) -> bool:
        """Say so."""
        return True


def test_a_breakpoint_opens_the_debugger_with_the_state(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, int]] = []

    def hook() -> None:
        here = sys._getframe(1).f_locals
        seen.append((here["stage"], here["state"].x))

    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr(sys, "breakpointhook", hook)
    built = Pipeline(x=int).stage("a", one, breakpoint=True).through(y=int)
    built = built.stage("b", one, breakpoint=lambda s: s.y > 5).through(z=int)
    assert built.run(x=3).z == 4
    assert seen == [("a", 3)]
    built.run(x=8)
    assert seen == [("a", 3), ("a", 8), ("b", 8)]


def test_leaving_the_debugger_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    from bdb import BdbQuit

    def hook() -> None:
        raise BdbQuit

    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr(sys, "breakpointhook", hook)
    with pytest.raises(KeyboardInterrupt):
        Pipeline(x=int).stage("a", one, breakpoint=True, retry=3, on_error=lambda error: 1).through(y=int).run(x=1)


def test_without_a_terminal_a_breakpoint_is_an_error_of_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[int] = []
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    inner = Pipeline(xs=list[int]).map("m", one, over="xs", breakpoint=True)
    for built in (
        Pipeline(x=int).stage("first", ran.append).stage("a", one, breakpoint=True),
        Pipeline(x=int, xs=list[int]).stage("first", lambda x: ran.append(x)).stage("sub", inner),
        Pipeline(x=int).stage("a", lambda x: ran.append(x)).with_global_hooks(breakpoint=True),
    ):
        built.check()
        given = {name: [1] if name == "xs" else 1 for name in built.inputs}
        with pytest.raises(errors.ContractError, match="stdin is no terminal"):
            built.run(given)
    assert ran == []
