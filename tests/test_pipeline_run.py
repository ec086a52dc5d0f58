"""What a pipeline does when it runs: values, hooks, retries, timeouts, threads, both faces of ``run``."""

from __future__ import annotations

import itertools
import logging
import os
import subprocess
import sys
import textwrap
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from pydantic import BaseModel

from sweep import Experiment, Pipeline, Resources, Retry, State, SweepExperiment, Uniform
from sweep.clock import current_clock, using_clock
from sweep.errors import ContractError, ContractViolation, HookError, NotAwaited, StageTimeout, SweepError
from sweep.optimizers import RandomOptimizer
from sweep.testing.clock import VirtualClock
from sweep.tracker.stream import Event, listening

anyio_mark = pytest.mark.anyio


class Batch(BaseModel):
    size: int
    note: str = "-"


class Log(list[Any]):
    """A list whose content is no part of the code that closes over it."""


def give(value: Any) -> Callable[[], Any]:
    return lambda: value


# ---------------------------------------------------------------- what a return value means


@pytest.mark.parametrize(
    ("returned", "fields"),
    [
        (1, {"x": 1, "n": 0}),
        ({"x": 2}, {"x": 2, "n": 0}),
        ({"x": 2, "n": 7}, {"x": 2, "n": 7}),
    ],
)
def test_one_field_takes_the_value_or_a_dict_of_known_fields(returned: Any, fields: dict[str, Any]) -> None:
    state = Pipeline(n=int).stage("s", give(returned)).through(x=int).run(n=0)
    assert state == fields


def test_one_field_of_type_dict_keeps_a_dict_with_other_keys() -> None:
    pipeline = Pipeline().stage("s", give({"x": 1, "other": 2})).through(x=dict)
    assert pipeline.run().x == {"x": 1, "other": 2}


def test_an_almost_field_dict_says_which_key_is_in_the_way() -> None:
    pipeline = Pipeline(count=int).stage("s", give({"x": 1, "cuont": 2})).through(x=int)
    with pytest.raises(ContractViolation, match=r"'cuont' is no known field.*did you mean 'count'"):
        pipeline.run(count=0)


def test_fields_set_besides_are_checked_by_their_own_contract() -> None:
    with pytest.raises(ContractViolation, match="field 'n'"):
        Pipeline(n=int).stage("s", give({"x": 1, "n": "2"})).through(x=int).run(n=0)


def test_several_fields_need_all_of_them_and_no_strangers() -> None:
    pipeline = Pipeline().stage("s", give({"a": 1, "b": 2})).through(a=int, b=int)
    assert pipeline.run() == {"a": 1, "b": 2}
    with pytest.raises(ContractViolation, match="'b' is missing"):
        Pipeline().stage("s", give({"a": 1})).through(a=int, b=int).run()
    with pytest.raises(ContractViolation, match="field 'c'"):
        Pipeline().stage("s", give({"a": 1, "b": 2, "c": 3})).through(a=int, b=int).run()


@pytest.mark.parametrize("returned", [Batch(size=3), {"size": 3}])
def test_a_model_adds_its_fields_and_itself(returned: Any) -> None:
    def use(batch: Batch, size: int) -> list[Any]:
        return [batch, size]

    state = Pipeline().stage("s", give(returned)).through(Batch).stage("use", use).through(both=list[Any]).run()
    assert state.both == [Batch(size=3), 3]
    assert state.note == "-"


def test_no_contract_passes_nothing_on() -> None:
    assert Pipeline().stage("s", give({"x": 1})).run() == {}


@pytest.mark.parametrize(("value", "kind"), [("1", int), (True, int), (b"1", float), ("yes", bool), (True, float)])
def test_text_and_bools_never_become_numbers(value: Any, kind: type) -> None:
    with pytest.raises(ContractViolation) as caught:
        Pipeline().stage("deep", give([value])).through(x=list[kind]).run()  # type: ignore[valid-type]
    assert caught.value.field == "x[0]"
    assert caught.value.stage == "deep"
    assert caught.value.value == value


def test_nothing_downstream_of_a_violation_runs() -> None:
    ran: list[int] = []
    pipeline = Pipeline().stage("a", give("x")).through(x=int).stage("b", lambda x: ran.append(x))
    with pytest.raises(ContractViolation):
        pipeline.run()
    assert ran == []


def test_later_values_replace_earlier_ones() -> None:
    pipeline = Pipeline().stage("a", give(1)).through(x=int).stage("b", lambda x: x + 1).through(x=int)
    assert pipeline.run().x == 2


# ---------------------------------------------------------------- the one order of hooks


def test_every_hook_in_its_place() -> None:
    seen: list[str] = []

    def note(name: str, result: Any = None) -> Callable[[Any], Any]:
        return lambda data: (seen.append(f"{name}:{data!r}"), result)[1]

    failures = iter([RuntimeError("once"), None])

    def work(x: int) -> int:
        seen.append("function")
        failure = next(failures)
        if failure is not None:
            raise failure
        return x + 1

    state = (
        Pipeline(x=int)
        .stage("work", work)
        .through(
            y=int,
            skip_if=note("skip_if", False),
            on_error=note("on_error"),
            retry=Retry(1, backoff=0),
            timeout=60,
            before=note("before"),
            profile=lambda facts: seen.append("profile"),
            transform=lambda raw: (seen.append(f"transform:{raw}"), raw * 10)[1],
            validate=note("validate"),
            metrics=note("metrics"),
            after=note("after"),
        )
        .run(x=1)
    )
    assert state.y == 20
    assert seen == [
        "skip_if:State(x=1)",
        "before:State(x=1)",
        "function",
        "before:State(x=1)",
        "function",
        "transform:2",
        "validate:20",
        "profile",
        "metrics:{'y': 20}",
        "after:20",
    ]


def test_output_for_hooks_is_the_model_the_bare_value_or_a_view() -> None:
    seen: list[Any] = []
    (
        Pipeline()
        .stage("model", give({"size": 1}))
        .through(Batch, after=seen.append, metrics=seen.append)
        .stage("several", give({"a": 1, "b": 2}))
        .through(a=int, b=int, after=lambda view: seen.append((view.a, view["b"])))
        .stage("nothing", give(5), after=seen.append, metrics=seen.append)
        .run()
    )
    assert seen == [{"size": 1, "note": "-"}, Batch(size=1), (1, 2), {}, 5]


def test_global_hooks_stand_in_the_place_of_their_kind() -> None:
    seen: list[str] = []

    def hook(name: str) -> Callable[[Any], None]:
        return lambda data: seen.append(name)

    inner = Pipeline().stage("in", give(1)).through(x=int).with_global_hooks(before=hook("inner"))
    pipeline = (
        Pipeline()
        .stage("s", inner, before=hook("local"), after=hook("local after"), validate=hook("local validate"))
        .through(x=int)
        .with_global_hooks(
            before=lambda stage, data: seen.append(f"global {stage}"),
            after=hook("global after"),
            validate=lambda data: seen.append("global validate"),
            metrics=hook("metrics"),
        )
    )
    pipeline.run()
    assert seen == [
        "global s", "local", "global s/in", "inner", "global validate", "metrics", "global after",
        "local validate", "metrics", "local after", "global after",
    ]  # fmt: skip


@anyio_mark
async def test_async_hooks_are_awaited() -> None:
    seen: list[Any] = []

    async def before(state: State) -> None:
        await anyio.lowlevel.checkpoint()
        seen.append("before")

    async def validate(x: int) -> bool:
        await anyio.lowlevel.checkpoint()
        return x > 1

    async def on_error(error: Exception, state: State) -> int:
        seen.append((type(error).__name__, state.n))
        return 7

    pipeline = Pipeline(n=int).stage("s", give(1)).through(x=int, before=before, validate=validate, on_error=on_error)
    assert (await pipeline.run(n=3)).x == 7
    assert seen == ["before", ("ContractViolation", 3)]


# ---------------------------------------------------------------- single hooks


def test_skip_if() -> None:
    ran: list[int] = []
    pipeline = Pipeline(n=int).stage("s", lambda n: ran.append(n), skip_if=lambda s: s.n == 0)
    assert pipeline.run(n=0) == {"n": 0}
    pipeline.run(n=1)
    assert ran == [1]


@pytest.mark.parametrize("verdict", [None, True, 1])
def test_validate_passes(verdict: Any) -> None:
    assert Pipeline().stage("s", give(1)).through(x=int, validate=lambda x: verdict).run().x == 1


def boom(_: Any) -> bool:
    raise KeyError("bad")


@pytest.mark.parametrize("check", [lambda x: False, lambda x: 0, boom])
def test_validate_refuses_and_that_is_a_failed_attempt(check: Callable[[Any], Any]) -> None:
    ran: list[int] = []
    pipeline = (
        Pipeline().stage("s", lambda: ran.append(1) or 1).through(x=int, validate=check, retry=Retry(2, backoff=0))
    )
    with pytest.raises(ContractViolation, match="a value that"):
        pipeline.run()
    assert len(ran) == 3


def test_before_that_fails_is_a_failed_attempt() -> None:
    tries: list[int] = []

    def before(_: State) -> None:
        tries.append(1)
        if len(tries) < 3:
            raise OSError("not yet")

    assert Pipeline().stage("s", give(1)).through(x=int, before=before, retry=Retry(2, backoff=0)).run().x == 1


@pytest.mark.parametrize(("answer", "outcome"), [(None, OSError), (5, 5), ("x", ContractViolation)])
def test_on_error(answer: Any, outcome: Any) -> None:
    def fail() -> int:
        raise OSError("disk")

    pipeline = Pipeline().stage("s", fail).through(x=int, on_error=lambda error: answer)
    if isinstance(outcome, int):
        assert pipeline.run().x == outcome
    else:
        with pytest.raises(outcome):
            pipeline.run()


@pytest.mark.parametrize("name", ["after", "metrics"])
def test_what_fails_after_the_commit_is_a_hook_error_with_the_value(name: str, store_path: Path) -> None:
    ran = Log()

    def hook(_: Any) -> None:
        if len(ran) < 2:
            raise ValueError("no disk for plots")

    def make() -> Pipeline:
        return Pipeline().stage("s", lambda: ran.append(1) or 9).through(fields={"x": int}, **{name: hook})

    with pytest.raises(HookError) as caught:
        make().run(name="hooked")
    assert (caught.value.stage, caught.value.hook, caught.value.value) == ("hooked/s", name, 9)
    assert isinstance(caught.value.__cause__, ValueError)
    ran.append(0)
    assert make().run(name="hooked").x == 9
    assert ran == [1, 0], "the stage's value was kept"


def test_transform_gets_the_raw_value_before_the_contract() -> None:
    pipeline = (
        Pipeline().stage("s", give("1,2")).through(x=list[int], transform=lambda raw: [int(p) for p in raw.split(",")])
    )
    assert pipeline.run().x == [1, 2]


def test_two_parameters_get_the_stage_and_the_data() -> None:
    seen: list[Any] = []
    Pipeline().stage("s", give(1)).through(
        x=int,
        before=lambda stage, data: seen.append((stage, len(data))),
        after=lambda stage, data: seen.append((stage, data)),
        validate=lambda stage, data: stage == "s",
        transform=lambda stage, raw: raw,
    ).run()
    assert seen == [("s", 0), ("s", 1)]


# ---------------------------------------------------------------- retries and timeouts in virtual time


@anyio_mark
async def test_backoff_doubles_up_to_its_limit() -> None:
    times: list[float] = []

    async def fail() -> int:
        times.append(current_clock().now())
        raise OSError("again")

    retry = Retry(6, backoff=1, max_backoff=8, jitter=False)
    with using_clock(VirtualClock()), pytest.raises(OSError, match="again") as caught:
        await Pipeline().stage("s", fail).through(x=int, retry=retry).run()
    assert [b - a for a, b in itertools.pairwise(times)] == [1, 2, 4, 8, 8, 8]
    assert any("attempt 7 of 7" in note for note in caught.value.__notes__)


@anyio_mark
async def test_jitter_waits_between_half_and_all() -> None:
    times: list[float] = []

    async def fail() -> int:
        times.append(current_clock().now())
        raise OSError("again")

    with using_clock(VirtualClock()), pytest.raises(OSError, match="again"):
        await Pipeline().stage("s", fail).through(x=int, retry=Retry(20, backoff=4, max_backoff=4)).run()
    waits = [b - a for a, b in itertools.pairwise(times)]
    assert all(2 <= wait <= 4 for wait in waits)
    assert len(set(waits)) > 1


@anyio_mark
async def test_a_long_series_of_retries_never_overflows() -> None:
    count = 0

    async def fail() -> int:
        nonlocal count
        count += 1
        if count <= 1100:
            raise OSError("again")
        return count

    with using_clock(VirtualClock()):
        state = await Pipeline().stage("s", fail).through(x=int, retry=Retry(1100, jitter=False, max_backoff=0)).run()
    assert state.x == 1101


def test_only_what_retry_names_is_retried() -> None:
    ran: list[int] = []

    def fail() -> int:
        ran.append(1)
        raise KeyError("other")

    with pytest.raises(KeyError):
        Pipeline().stage("s", fail).through(x=int, retry=Retry(3, backoff=0, on=OSError)).run()
    assert len(ran) == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_interrupts_are_never_retried(error: type[BaseException]) -> None:
    ran: list[int] = []

    def fail() -> int:
        ran.append(1)
        raise error

    with pytest.raises(error):
        Pipeline().stage("s", fail).through(x=int, retry=Retry(3, backoff=0), on_error=lambda e: 1).run()
    assert len(ran) == 1


def test_errors_of_the_build_inside_are_never_retried_nor_handled() -> None:
    ran: list[int] = []

    def nested() -> int:
        ran.append(1)
        Pipeline().stage("bad", lambda: 1, nonsense=2).run()
        return 1

    with pytest.raises(ContractError):
        Pipeline().stage("s", nested).through(x=int, retry=Retry(3, backoff=0), on_error=lambda e: 1).run()
    assert len(ran) == 1


@anyio_mark
async def test_a_timeout_is_per_attempt_and_cancels_async_code() -> None:
    ends: list[str] = []

    async def slow() -> int:
        try:
            await current_clock().sleep(100)
        except anyio.get_cancelled_exc_class():
            ends.append("cancelled")
            raise
        return 1

    clock = VirtualClock()
    with using_clock(clock), pytest.raises(StageTimeout) as caught:
        await Pipeline().stage("s", slow).through(x=int, timeout=5, retry=Retry(2, backoff=1, jitter=False)).run()
    assert ends == ["cancelled"] * 3
    assert clock.now() == 5 + 1 + 5 + 2 + 5
    assert (caught.value.stage, caught.value.seconds) == ("s", 5)
    assert isinstance(caught.value, TimeoutError)


@anyio_mark
async def test_async_code_that_blocked_past_its_deadline_fails() -> None:
    clock = VirtualClock()

    async def blocks() -> int:
        clock.advance(10)  # as time.sleep would
        return 1

    with using_clock(clock), pytest.raises(StageTimeout, match="blocked the event loop"):
        await Pipeline().stage("s", blocks).through(x=int, timeout=5).run()


@anyio_mark
async def test_a_users_own_timeout_error_is_not_ours() -> None:
    async def fail() -> int:
        raise TimeoutError("mine")

    with pytest.raises(TimeoutError, match="mine") as caught:
        await Pipeline().stage("s", fail).through(x=int, timeout=5).run()
    assert not isinstance(caught.value, StageTimeout)


@anyio_mark
async def test_a_sync_function_past_its_deadline_is_abandoned_with_a_warning_and_its_result_barred() -> None:
    release = threading.Event()
    done = threading.Event()

    def slow() -> int:
        release.wait(5)
        done.set()
        return 1

    def handle(error: Exception) -> int:
        assert isinstance(error, StageTimeout)
        return -1

    with pytest.warns(RuntimeWarning, match="abandoned"):
        state = await Pipeline().stage("s", slow).through(x=int, timeout=0.02, on_error=handle).run()
    release.set()
    assert done.wait(5)
    assert state.x == -1


def test_process_exit_does_not_wait_for_an_abandoned_thread() -> None:
    code = """
        import time, warnings
        warnings.simplefilter("ignore")
        from sweep import Pipeline
        from sweep.errors import StageTimeout
        try:
            Pipeline().stage("s", lambda: time.sleep(60)).through(x=int, timeout=0.02).run()
        except StageTimeout:
            print("timed out")
    """
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout == "timed out\n"
    assert time.monotonic() - began < 20


# ---------------------------------------------------------------- threads and the loop


@anyio_mark
async def test_sync_stages_never_block_the_loop() -> None:
    beat = threading.Event()

    def wait_for_the_loop() -> bool:
        return beat.wait(5)

    async with anyio.create_task_group() as tasks:

        async def pulse() -> None:
            await anyio.sleep(0.005)
            beat.set()

        tasks.start_soon(pulse)
        state = await Pipeline().stage("s", wait_for_the_loop).through(ok=bool).run()
    assert state.ok
    assert "sweep-worker" not in threading.current_thread().name


def test_run_without_a_loop_is_finished() -> None:
    state = Pipeline().stage("s", give(1)).through(x=int).run()
    assert isinstance(state, State)
    assert state.x == 1


@anyio_mark
async def test_inside_a_loop_run_is_pending_until_awaited() -> None:
    ran: list[int] = []
    pending = Pipeline().stage("s", lambda: ran.append(1) or 1).through(x=int).run()
    with pytest.raises(NotAwaited, match="await"):
        _ = pending.x
    with pytest.raises(NotAwaited):
        _ = pending["x"]
    with pytest.raises(NotAwaited):
        len(pending)
    assert "pending" in repr(pending)
    assert ran == []
    done = await pending
    assert done is pending
    assert (done.x, (await done).x) == (1, 1)
    assert ran == [1]


@anyio_mark
async def test_a_dropped_pending_result_warns() -> None:
    pending = [Pipeline().stage("s", give(1)).through(x=int).run()]
    with pytest.warns(RuntimeWarning, match="never awaited"):
        pending.clear()


@anyio_mark
async def test_in_a_worker_thread_run_uses_the_loop_of_its_parent() -> None:
    loops: list[int] = []

    async def leaf() -> int:
        loops.append(threading.get_ident())
        return 3

    def middle() -> int:
        return Pipeline().stage("leaf", leaf).through(x=int).run().x  # type: ignore[no-any-return]

    state = await Pipeline().stage("middle", middle).through(y=int).run()
    assert state.y == 3
    assert loops == [threading.get_ident()]


def test_foreign_threads_run_on_their_own() -> None:
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(Pipeline().stage("s", give(4)).through(x=int).run().x))
    thread.start()
    thread.join(10)
    assert found == [4]


@anyio_mark
async def test_cancellation_reaches_every_depth() -> None:
    ends: list[str] = []

    async def forever() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ends.append("inner")

    def middle() -> None:
        try:
            Pipeline().stage("leaf", forever).run()
        finally:
            ends.append("thread")

    pipeline = Pipeline().stage("nested", Pipeline().stage("middle", middle))
    with anyio.move_on_after(0.03) as scope:
        await pipeline.run()
    assert scope.cancelled_caught
    for _ in range(200):
        if len(ends) == 2:
            break
        await anyio.sleep(0.005)
    assert sorted(ends) == ["inner", "thread"]


def test_exceptions_are_themselves_with_the_stage_as_a_note() -> None:
    def fail(n: int) -> int:
        if n == 2:
            raise ZeroDivisionError("here")
        return n + 1

    inner = Pipeline(n=int).stage("fail", fail).through(n=int)
    pipeline = Pipeline(n=int).loop_while(lambda s: True, name="go").stage("nest", inner).through(n=int).end_loop()
    with pytest.raises(ZeroDivisionError, match="here") as caught:
        pipeline.run(n=0)
    notes = "\n".join(caught.value.__notes__)
    assert "in stage 'nest#2/fail'" in notes
    assert __file__ in notes


def test_loops_count_from_zero_and_stop() -> None:
    seen: list[int] = []
    pipeline = (
        Pipeline(i=int, total=int)
        .loop_while(lambda s: s.i < 4)
        .stage("add", lambda i, total: {"total": total + i, "i": i + 1})
        .through(total=int)
        .end_loop()
        .stage("end", lambda total: seen.append(total))
    )
    assert pipeline.run(i=0, total=0).total == 6
    assert pipeline.run(i=9, total=5).total == 5
    assert seen == [6, 5]


def test_max_iterations_names_the_predicate() -> None:
    def never_done(state: State) -> bool:
        return True

    pipeline = Pipeline().loop_while(never_done, name="forever", max_iterations=3).stage("s", give(1)).end_loop()
    with pytest.raises(SweepError, match=r"(?s)'forever'.*never_done.*max_iterations=3"):
        pipeline.run()


def test_exactly_max_iterations_is_no_error() -> None:
    pipeline = (
        Pipeline(i=int)
        .loop_while(lambda s: s.i < 3, max_iterations=3)
        .stage("s", lambda i: i + 1)
        .through(i=int)
        .end_loop()
    )
    assert pipeline.run(i=0).i == 3


def test_loops_in_loops() -> None:
    seen: list[tuple[int, int]] = []
    pipeline = (
        Pipeline(i=int, j=int)
        .loop_while(lambda s: s.i < 2, name="outer")
        .stage("reset", give(0))
        .through(j=int)
        .loop_while(lambda s: s.j < 2, name="inner")
        .stage("note", lambda i, j: (seen.append((i, j)), {"j": j + 1})[1])
        .through(j=int)
        .end_loop()
        .stage("next", lambda i: i + 1)
        .through(i=int)
        .end_loop()
    )
    pipeline.run(i=0, j=0)
    assert seen == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_a_field_that_a_loop_of_no_turns_left_out_is_named() -> None:
    pipeline = Pipeline().loop_while(lambda s: False).stage("a", give(1)).through(x=int).end_loop()
    with pytest.raises(AttributeError, match="no field 'x'"):
        pipeline.stage("use", lambda x: x).through(y=int).run()


def test_a_state_is_read_only_and_pickles() -> None:
    import copy
    import pickle

    state = Pipeline().stage("s", give({"size": 2})).through(Batch).run()
    with pytest.raises(AttributeError, match="return"):
        state.size = 3
    assert pickle.loads(pickle.dumps(state)) == state
    assert copy.copy(state) == state


def test_bare_runs_keep_nothing(store_path: Path) -> None:
    Pipeline().stage("s", give(1)).through(x=int).run()
    assert not store_path.exists()


def test_resources_are_waited_for_outside_of_the_timeout_and_impossible_ones_refused() -> None:
    from sweep.errors import PlacementError

    with pytest.raises(PlacementError, match="available"):
        Pipeline().stage("s", give(1)).through(x=int, resources=Resources(cpus=10_000)).run()
    assert Pipeline().stage("s", give(1)).through(x=int, resources=Resources(cpus=1), timeout=5).run().x == 1


ALL = Resources(cpus=os.cpu_count() or 1)
"""Two that hold this can never run at once, and one inside the other would wait for ever."""


class Leaf(Experiment):
    """One stage that wants everything."""

    def pipeline(self) -> Pipeline:
        return Pipeline().stage("leaf", give(1), resources=ALL).through(x=int)


async def starts_a_pipeline() -> int:
    return int((await Pipeline().stage("leaf", give(1), resources=ALL).through(x=int).run()).x)


async def starts_an_experiment() -> int:
    return int((await Leaf().run()).state.x)


async def starts_a_sweep() -> int:
    objective = Pipeline(lr=float).stage("leaf", give(1.0), resources=ALL).through(loss=float)
    sweep = SweepExperiment(objective, {"lr": Uniform(0, 1)}, optimizer=RandomOptimizer(), workers=2, name="inner")
    return int((await sweep.run(3)).best_score)


def starts_one_in_a_thread() -> int:
    return int(Leaf().run().state.x)


@pytest.mark.anyio
@pytest.mark.parametrize("name", [None, "kept"])
@pytest.mark.parametrize(
    "what",
    [Leaf().pipeline(), Pipeline().stage("deep", Leaf().pipeline()).through(x=int), starts_a_pipeline, starts_an_experiment,
     starts_a_sweep, starts_one_in_a_thread],
    ids=["pipeline", "deep", "starts a pipeline", "starts an experiment", "starts a sweep", "in a thread"],
)  # fmt: skip
async def test_an_orchestrator_holds_no_resources(what: Any, name: str | None) -> None:
    if what is starts_a_sweep and name is None:
        pytest.skip("a sweep is kept")
    local = Pipeline().stage("s", what, resources=ALL).through(x=int)
    everywhere = Pipeline().stage("s", what).through(x=int).with_global_hooks(resources=ALL)
    with anyio.fail_after(20):
        assert (await local.run(name=name)).x == 1
        assert (await everywhere.run(name=name and f"{name} globally")).x == 1


@pytest.mark.anyio
async def test_resources_of_a_pipeline_are_those_of_each_of_its_stages() -> None:
    running, most = [0], [0]

    async def work() -> None:
        running[0] += 1
        most[0] = max(most[0], running[0])
        await anyio.lowlevel.checkpoint()
        running[0] -= 1

    both = Pipeline().stage("one", work).stage("two", work)
    pipeline = Pipeline().parallel(a=both, b=both).through(resources=ALL)
    with anyio.fail_after(20):
        await pipeline.run()
    assert most == [1]
    most[0] = 0
    await Pipeline().parallel(a=both, b=both).run()
    assert most == [2]


def test_resources_of_an_experiment_are_refused_with_the_remedy() -> None:
    with pytest.raises(ContractError, match=r"resources= is for functions.*with_global_hooks\(resources="):
        Pipeline().stage("s", Leaf(), resources=ALL).check()
    with pytest.raises(ContractError, match=r"map 's'.*resources= is for functions"):
        Pipeline(xs=list[int]).map("s", Leaf(), over="xs", resources=ALL).check()


def test_seed_004_debug_and_production_hooks(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[Any] = []
    logger = logging.getLogger("seed")
    hooks = {"metrics": seen.append, "checkpoint": True, "retry": 3, "on_error": lambda e: seen.append(e)}
    pipeline = (
        Pipeline()
        .stage("train", give({"size": 1}))
        .through(Batch, **hooks)
        .with_global_hooks(
            before=lambda stage, data: logger.warning("[%s] Starting", stage),
            after=lambda stage, data: seen.append(f"{stage}.complete"),
            profile=True,
        )
    )
    pipeline.run()
    assert seen == [{"size": 1, "note": "-"}, "train.complete"]
    assert "[train] Starting" in caplog.text


def test_the_traceback_is_the_users(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError) as caught:
        Pipeline().stage("s", fail).run()
    text = "".join(traceback.format_exception(caught.value))
    assert "During handling" not in text
    assert text.count("Traceback") == 1


def test_an_error_that_cannot_be_told_comes_out_as_itself_with_its_stage(tmp_path: Path) -> None:
    class Silent(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    def fail() -> int:
        raise Silent

    told: list[Event] = []
    with listening(told.append), pytest.raises(Silent) as caught:
        Pipeline().stage("fail", fail).through(x=int, retry=Retry(1, backoff=0)).run(name="r", store=tmp_path / "s.db")
    assert any("in stage 'r/fail'" in note for note in caught.value.__notes__)
    assert [one.data["error"] for one in told if one.data.get("error")] == ["Silent: <no str: RuntimeError>"] * 2
    with pytest.raises(ContractViolation, match=r"got <no repr: RuntimeError> \(Mute\), expected a valid integer"):
        Pipeline().stage("mute", lambda: Mute()).through(x=int).run()


def test_errors_that_take_no_notes_come_out_as_themselves() -> None:
    class Odd(Exception):
        def add_note(self, note: str) -> None:
            raise RuntimeError("no notes")

    def odd() -> None:
        raise Odd

    def wrong() -> None:
        error = KeyError("x")
        error.__notes__ = "no list"  # type: ignore[assignment]  # that is the point
        raise error

    with pytest.raises(Odd) as caught:
        Pipeline().stage("odd", odd).run()
    assert any("in stage 'odd'" in note for note in caught.value.__notes__)
    with pytest.raises(KeyError):
        Pipeline().stage("wrong", wrong).run()


class Mute:
    def __repr__(self) -> str:
        raise RuntimeError("no words")
