"""The three local executors: the shipped contract, and what is theirs alone."""

from __future__ import annotations

import os
import pickle
import threading
import time

import anyio
import anyio.lowlevel
import pytest

from sweep.clock import SystemClock, using_clock
from sweep.errors import PlacementError, TrialFailed
from sweep.executors.base import Executor, Task
from sweep.executors.local import InlineExecutor, ProcessExecutor, ThreadExecutor
from sweep.executors.placement import Placement, machine_gpus
from sweep.testing.executors import ExecutorContract, RecordingSession
from sweep.trial import Resources


class TestInline(ExecutorContract):
    def make(self, workers: int | None) -> Executor:
        return InlineExecutor()


class TestThread(ExecutorContract):
    def make(self, workers: int | None) -> Executor:
        return ThreadExecutor(workers)


class TestProcess(ExecutorContract):
    ends_sync = True

    def make(self, workers: int | None) -> Executor:
        return ProcessExecutor(workers)


def sleeper(started: threading.Event, release: threading.Event) -> str:
    started.set()
    release.wait(10)
    return "late"


def speak_late(started: threading.Event, release: threading.Event, outcome: list[str], ctx: object) -> None:
    started.set()
    release.wait(10)
    try:
        ctx.save("late")  # type: ignore[attr-defined]
    except BaseException as error:
        outcome.append(type(error).__name__)
        raise


async def until(condition: object) -> None:
    with anyio.fail_after(10):
        while not condition():  # type: ignore[operator]
            await anyio.sleep(0.002)


@pytest.mark.anyio
@pytest.mark.parametrize("executor", [InlineExecutor(), ThreadExecutor(2)])
async def test_an_abandoned_function_is_warned_of_and_speaks_no_more(executor: Executor) -> None:
    started, release, outcome = threading.Event(), threading.Event(), []  # type: ignore[var-annotated]
    session = RecordingSession()
    task = Task(
        speak_late,
        {"started": started, "release": release, "outcome": outcome},
        "ctx",
        Resources(time_limit=0.03),
        {"path": "s/trial[1]"},
    )
    async with executor.open():
        with pytest.warns(RuntimeWarning, match=r"'s/trial\[1\]'.*abandoned"), pytest.raises(TrialFailed) as caught:
            await executor.run(task, session)
        assert caught.value.kind == "timeout"
        assert await executor.run(Task(int, {}), session) == 0, "others get another thread"
        release.set()
        await until(lambda: outcome)
    assert outcome == ["TrialStopped"]
    assert session.kept is None


@pytest.mark.anyio
async def test_async_code_that_blocked_past_its_limit_fails_even_if_it_returned() -> None:
    class Slow:
        """A clock by which the function takes ten seconds."""

        def __init__(self) -> None:
            self.time = 0.0

        now = wall = lambda self: self.time
        sleep = SystemClock.sleep
        move_on_after = SystemClock.move_on_after

    clock = Slow()

    async def blocking() -> str:
        clock.time += 10
        return "value"

    executor = InlineExecutor()
    async with executor.open():
        with using_clock(clock), pytest.raises(TrialFailed, match="time limit of 5 s") as caught:
            await executor.run(Task(blocking, {}, resources=Resources(time_limit=5)), RecordingSession())
        assert caught.value.kind == "timeout"
        with using_clock(clock):
            assert (
                await executor.run(Task(blocking, {}, resources=Resources(time_limit=50)), RecordingSession())
                == "value"
            )


@pytest.mark.anyio
async def test_inline_runs_sync_functions_one_at_a_time_and_async_ones_all_at_once() -> None:
    running, most, met = 0, 0, anyio.Event()

    def sync() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        time.sleep(0.002)
        running -= 1

    arrived = 0

    async def asynchronous() -> None:
        nonlocal arrived
        arrived += 1
        if arrived == 200:
            met.set()
        with anyio.fail_after(10):
            await met.wait()

    executor = InlineExecutor()
    async with executor.open(), anyio.create_task_group() as group:
        for _ in range(10):
            group.start_soon(executor.run, Task(sync, {}), RecordingSession())
        for _ in range(200):
            group.start_soon(executor.run, Task(asynchronous, {}), RecordingSession())
    assert (most, arrived) == (1, 200)


@pytest.mark.anyio
async def test_a_sync_function_that_returns_a_coroutine_is_awaited() -> None:
    async def inner() -> int:
        await anyio.lowlevel.checkpoint()
        return 5

    for executor in (InlineExecutor(), ThreadExecutor(), ProcessExecutor()):
        async with executor.open():
            assert await executor.run(Task(lambda: inner(), {}), RecordingSession()) == 5


def test_executors_name_themselves_pickle_while_open_and_refuse_nonsense() -> None:
    async def main() -> None:
        for executor in (InlineExecutor(), ThreadExecutor(3), ProcessExecutor()):
            async with executor.open():
                copy = pickle.loads(pickle.dumps(executor))
                assert (type(copy), copy.workers) == (type(executor), executor.workers)
                async with copy.open():
                    assert await copy.run(Task(int, {}), RecordingSession()) == 0

    anyio.run(main)
    assert [repr(InlineExecutor()), repr(ThreadExecutor(3)), repr(ProcessExecutor())] == [
        "InlineExecutor()",
        "ThreadExecutor(workers=3)",
        "ProcessExecutor()",
    ]
    for workers in (0, -1, 1.5, True, "two"):
        with pytest.raises(ValueError, match="workers"):
            ProcessExecutor(workers)  # type: ignore[arg-type]


@pytest.mark.anyio
async def test_a_closed_executor_says_how_to_open_it() -> None:
    for executor in (InlineExecutor(), ThreadExecutor(), ProcessExecutor()):
        with pytest.raises(RuntimeError, match="is not open: write `async with"):
            await executor.run(Task(int, {}), RecordingSession())


# ---------------------------------------------------------------- placement


@pytest.mark.anyio
async def test_gpus_are_shared_in_parts_and_whole_ones_stay_whole() -> None:
    placement = Placement(cpus=4, gpus=["3", "7"], memory=None)
    async with placement.hold(Resources(gpus=0.5)) as first, placement.hold(Resources(gpus=0.3)) as second:
        assert first == second
        async with placement.hold(Resources(gpus=1)) as whole:
            assert set(whole + first) == {"3", "7"}
        async with placement.hold(Resources(gpus=0.5)) as third:
            assert third != first, "0.8 of the first is taken"
    async with placement.hold(Resources(gpus=2)) as both:
        assert both == ("3", "7")
    async with placement.hold(Resources(gpus=1 / 3)), placement.hold(Resources(gpus=1 / 3)):
        async with placement.hold(Resources(gpus=1 / 3)), placement.hold(Resources(gpus=1)) as other:
            assert len(other) == 1


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("resources", "asked", "available"),
    [
        (Resources(cpus=5), "5 cpus", "4 cpus"),
        (Resources(gpus=3), "3 gpus", "2 gpus"),
        (Resources(gpus=1.5), "1.5 gpus", "a part of one gpu, or whole ones"),
        (Resources(memory=1001), "1001 bytes of memory", "1000 bytes"),
    ],
)
async def test_what_can_never_be_met_is_refused(resources: Resources, asked: str, available: str) -> None:
    placement = Placement(cpus=4, gpus=["0", "1"], memory=1000)
    with pytest.raises(PlacementError) as caught:
        async with placement.hold(resources):
            raise AssertionError("held")
    assert (caught.value.asked, caught.value.available) == (asked, available)


@pytest.mark.anyio
async def test_who_waits_longest_comes_first_and_a_cancelled_wait_frees_the_queue() -> None:
    placement = Placement(cpus=4, gpus=[], memory=1000, slots=3)
    order: list[str] = []
    release = anyio.Event()

    async def hold(name: str, resources: Resources, scope: anyio.CancelScope | None = None) -> None:
        with scope or anyio.CancelScope():
            async with placement.hold(resources):
                order.append(name)
                await release.wait()

    cancelled = anyio.CancelScope()
    async with anyio.create_task_group() as group:
        for name, resources, scope in (
            ("half", Resources(cpus=2), None),
            ("all", Resources(cpus=4), cancelled),
            ("rest", Resources(cpus=2), None),
            ("memory", Resources(memory=900), None),
            ("more memory", Resources(memory=200), None),
            ("small", Resources(), None),
        ):
            group.start_soon(hold, name, resources, scope)
            await anyio.wait_all_tasks_blocked()
        assert order == ["half"], "nobody overtakes the one that waits for everything"
        cancelled.cancel()
        await anyio.wait_all_tasks_blocked()
        assert sorted(order) == ["half", "memory", "rest"]
        release.set()
    assert sorted(order[3:]) == ["more memory", "small"]
    async with placement.hold(Resources(cpus=4, memory=1000)):
        pass


def test_gpus_are_found_without_touching_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    for value, names in (("2,5", ["2", "5"]), ("", []), ("-1", []), ("0,-1,1", ["0"]), ("GPU-abc", ["GPU-abc"])):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
        assert machine_gpus() == names


def visible() -> str | None:
    return os.environ.get("CUDA_VISIBLE_DEVICES")


@pytest.mark.anyio
async def test_children_see_the_gpus_they_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    executor = ProcessExecutor()
    assert executor.capacity().gpus == 2
    async with executor.open([visible]):
        seen = [
            await executor.run(Task(visible, {}, resources=Resources(gpus=gpus)), RecordingSession())
            for gpus in (0, 0.5, 1, 2)
        ]
    assert seen == ["4,6", "4", "4", "4,6"]
