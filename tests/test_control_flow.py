"""Branches, parallel stages, child processes and breakpoints of pipelines; see also ``test_map``."""

from __future__ import annotations

import io
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from flows import Gone, one, problems, text
from pydantic import BaseModel

from sweep import Context, Experiment, Pipeline, State, errors, open_store, ref


class Scores(BaseModel):
    """A model for binding by annotation."""

    score: float


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
    assert "setting n=ref('y') needs the field of branch 'way'" in problems(given.stage("use", lambda n: n, n=ref("y")))
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


# ---------------------------------------------------------------- plan


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


def stop_iteration() -> None:
    raise StopIteration("none left")


@pytest.mark.anyio
async def test_stop_iteration_of_a_child_is_told_with_its_place_there() -> None:
    with pytest.raises(RuntimeError, match="it raised StopIteration, which cannot pass through a coroutine") as caught:
        await Pipeline().stage("ends", stop_iteration, isolate="process").run()
    assert any("in stop_iteration" in note for note in caught.value.__notes__)


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
    with pytest.raises(errors.ContractError, match=r"variable 'lock' cannot be sent to a child.*or leave isolate= out"):
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
