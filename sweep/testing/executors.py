"""The contract of executors as a test suite: ours pass it, and a plug-in's author can run it.

::

    from sweep.testing.executors import ExecutorContract

    class TestMine(ExecutorContract):
        def make(self, workers):
            return MyExecutor(workers)

Every test is a method that pytest collects; each runs on every event loop in ``backends``.
"""
# ruff: noqa: S101  # a test suite asserts; each assert says what was expected

from __future__ import annotations

import tempfile
import threading
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, final

import anyio
import anyio.lowlevel

from sweep.context import Context
from sweep.errors import NotStorable, PlacementError, TrialFailed, TrialPaused, TrialStopped
from sweep.executors.base import Executor, Task
from sweep.trial import Decision, Resources

__all__ = ["ExecutorContract", "RecordingSession"]


@final
class RecordingSession:
    """A session that notes everything it is told, and answers as it was told to.

    Args:
        decisions: Decision by step; CONTINUE where it says nothing.
        next_decision: Reports below this step need no answer.
        kept: The checkpoint there is at the start.
    """

    def __init__(
        self, decisions: Mapping[int, Decision] | None = None, next_decision: int | None = None, kept: Any = None
    ) -> None:
        self.next_decision = next_decision
        self.reports: list[tuple[int, dict[str, float]]] = []
        self.logs: list[str] = []
        self.metrics: list[tuple[str, float, int | None]] = []
        self.artifacts: list[str] = []
        self.kept = kept
        self._decisions = decisions or {}

    def report(self, step: int, metrics: Mapping[str, float]) -> Decision:
        """Note it and answer."""
        self.reports.append((step, dict(metrics)))
        return self._decisions.get(step, Decision.CONTINUE)

    def save(self, value: Any) -> None:
        """Keep it; a set cannot be stored here."""
        if isinstance(value, set):
            raise NotStorable("the checkpoint", set)
        self.kept = value

    def load(self) -> Any | None:
        """Return what is kept."""
        return self.kept

    def log(self, message: str) -> None:
        """Note it."""
        self.logs.append(message)

    def log_metric(self, name: str, value: float, step: int | None) -> None:
        """Note it."""
        self.metrics.append((name, value, step))

    def log_artifact(self, path: Path) -> None:
        """Note what the file says now."""
        self.artifacts.append(path.read_text())


class ExecutorContract(ABC):
    """What every executor must do.

    Attributes:
        backends: Event loops to run on; trio only where it is installed.
        ends_sync: Whether cancelling and time limits really end a sync function (a thread is only abandoned).
    """

    backends: ClassVar[Iterable[str]] = ("asyncio", "trio") if find_spec("trio") else ("asyncio",)
    ends_sync: ClassVar[bool] = False

    @abstractmethod
    def make(self, workers: int | None) -> Executor:
        """Return a new executor, with ``workers`` where it takes them."""

    def run(self, test: Callable[[Executor], Awaitable[None]], workers: int | None = None) -> None:
        """Run a test with an open executor on each event loop."""

        async def main() -> None:
            executor = self.make(workers)
            async with executor.open(_OBJECTIVES):
                await test(executor)

        for backend in self.backends:
            anyio.run(main, backend=backend)

    def test_the_value_comes_back_from_sync_and_async_functions(self) -> None:
        """Values, arguments by name, without a context."""

        async def test(executor: Executor) -> None:
            for function in (add, add_async):
                assert await executor.run(Task(function, {"a": 1, "b": [2, None]}), RecordingSession()) == (
                    1,
                    [2, None],
                )

        self.run(test)

    def test_what_the_function_raises_is_named(self) -> None:
        """In this process the error itself, else TrialFailed with type, message and traceback."""

        async def test(executor: Executor) -> None:
            for function in (fail, fail_async):
                error = await _error(executor, Task(function, {"message": "boom"}))
                assert isinstance(error, LookupError | TrialFailed), error
                assert "boom" in str(error)
                if isinstance(error, TrialFailed):
                    assert error.kind == "error"
                    assert "LookupError" in str(error)
                    assert "in fail" in error.traceback
            assert await executor.run(Task(add, {"a": 1, "b": 2}), RecordingSession()) == (1, 2), (
                "one failure ends one task"
            )

        self.run(test)

    def test_sys_exit_fails_the_task_and_nothing_else(self) -> None:
        """``sys.exit(3)`` is a failure with that exit code."""

        async def test(executor: Executor) -> None:
            error = await _error(executor, Task(leave, {"code": 3}))
            assert isinstance(error, TrialFailed), error
            assert error.exit_code == 3

        self.run(test)

    def test_the_context_knows_the_run(self) -> None:
        """Facts, directory and deadline arrive under the context's name."""

        async def test(executor: Executor) -> None:
            facts = {"run_id": 7, "path": "s/trial[5]", "trial": 5, "attempt": 2, "step": 4, "seed": 11}
            with tempfile.TemporaryDirectory() as folder:
                task = Task(tell, {}, "runtime", Resources(time_limit=50), facts, directory=Path(folder) / "run")
                told, remaining = await executor.run(task, RecordingSession())
                assert told == {**facts, "dir": str(Path(folder) / "run")}
                assert 0 < remaining <= 50
                told, remaining = await executor.run(Task(tell, {}, "runtime", facts=facts), RecordingSession())
                assert remaining is None

        self.run(test)

    def test_reports_are_answered_in_order(self) -> None:
        """All reports arrive once and in order, whether or not they need an answer."""

        async def test(executor: Executor) -> None:
            for function in (train, train_async):
                for next_decision in (None, 3, 100):
                    session = RecordingSession(next_decision=next_decision)
                    assert await executor.run(Task(function, {"steps": 5}, "ctx"), session) == 5
                    assert session.reports == [(step, {"loss": 1 / step}) for step in range(1, 6)]

        self.run(test)

    def test_a_decision_ends_the_function(self) -> None:
        """STOP and PAUSE are raised as themselves, out of task groups too, and no later report is made."""

        async def test(executor: Executor) -> None:
            for function in (train, train_async, train_in_group):
                for decision, kind in ((Decision.STOP, TrialStopped), (Decision.PAUSE, TrialPaused)):
                    session = RecordingSession({3: decision}, next_decision=2)
                    error = await _error(executor, Task(function, {"steps": 9}, "ctx"), session)
                    assert type(error) is kind, error
                    assert [step for step, _ in session.reports] == [1, 2, 3]

        self.run(test)

    def test_checkpoints_make_the_round_trip(self) -> None:
        """Saved values come back; what the session refuses is raised where it was saved."""

        async def test(executor: Executor) -> None:
            session = RecordingSession(kept={"epoch": 3})
            value = {"weights": [0.5, (1, 2)], "name": "ü", 3: None, "big": b"x" * 300_000}
            assert await executor.run(Task(keep, {"value": value}, "ctx"), session) == [{"epoch": 3}, value]
            assert session.kept == value
            assert await executor.run(Task(keep, {"value": 1}, "ctx"), RecordingSession()) == ["nothing", 1]
            error = await _error(executor, Task(keep, {"value": {1}}, "ctx"))
            assert isinstance(error, NotStorable), error
            assert await executor.run(Task(keep_or_not, {"value": {1}}, "ctx"), RecordingSession()) == "refused"

        self.run(test)

    def test_logs_metrics_and_artifacts_arrive(self) -> None:
        """An artifact is taken before ``log_artifact`` returns."""

        async def test(executor: Executor) -> None:
            session = RecordingSession()
            await executor.run(Task(log, {}, "ctx"), session)
            assert session.logs == ["one", "two"]
            assert session.metrics == [("lr", 0.5, 3), ("lr", float("inf"), None)]
            assert session.artifacts == ["contents"]
            assert isinstance(await _error(executor, Task(log_nothing, {}, "ctx")), FileNotFoundError | TrialFailed)

        self.run(test)

    def test_cancelling_ends_the_work(self) -> None:
        """After the call has been cancelled nothing more is reported."""

        async def test(executor: Executor) -> None:
            for function in (report_forever, report_forever_async):
                session = RecordingSession()
                async with anyio.create_task_group() as group:
                    group.start_soon(executor.run, Task(function, {}, "ctx"), session)
                    await _until(lambda session=session: len(session.reports) >= 3)  # type: ignore[misc]  # a default
                    group.cancel_scope.cancel()
                await _stays_silent(session)

        self.run(test)

    def test_a_time_limit_ends_the_work(self) -> None:
        """A task past its limit fails with kind "timeout" and reports no more; others go on."""

        async def test(executor: Executor) -> None:
            for function in (report_forever, report_forever_async):
                session = RecordingSession()
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", RuntimeWarning)  # an abandoned thread is warned of
                    task = Task(function, {}, "ctx", Resources(time_limit=0.1))
                    error = await _error(executor, task, session)
                assert isinstance(error, TrialFailed), error
                assert error.kind == "timeout"
                assert "0.1 s" in str(error)
                await _stays_silent(session)
            assert await executor.run(Task(add, {"a": 1, "b": 2}), RecordingSession()) == (1, 2)

        self.run(test)

    def test_tasks_run_side_by_side_up_to_the_workers(self) -> None:
        """Three of six tasks meet, never four where the executor has three workers."""

        async def test(executor: Executor) -> None:
            meeting = _Meeting(3)
            async with anyio.create_task_group() as group:
                for _ in range(6):
                    group.start_soon(meeting.attend, executor)
            assert meeting.most >= 3
            assert executor.workers is None or meeting.most <= executor.workers

        self.run(test, workers=3)

    def test_what_does_not_exist_is_refused(self) -> None:
        """A request beyond the capacity is a PlacementError at once."""

        async def test(executor: Executor) -> None:
            capacity = executor.capacity()
            asked = {"cpus": capacity.cpus, "gpus": capacity.gpus, "memory": capacity.memory}
            for name, there_is in asked.items():
                if there_is is not None:
                    task = Task(add, {"a": 1, "b": 2}, resources=Resources(**{name: int(there_is) + 1}))
                    error = await _error(executor, task)
                    assert isinstance(error, PlacementError), (name, error)

        self.run(test)

    def test_it_opens_again_while_open_and_after(self) -> None:
        """Nested sweeps share an executor; a closed one opens anew."""

        async def test(executor: Executor) -> None:
            async with executor.open([add]), executor.open():
                assert await executor.run(Task(add, {"a": 1, "b": 2}), RecordingSession()) == (1, 2)
            assert await executor.run(Task(add, {"a": 3, "b": 4}), RecordingSession()) == (3, 4)

        self.run(test)

        async def twice() -> None:
            executor = self.make(None)
            for _ in range(2):
                async with executor.open([add]):
                    assert await executor.run(Task(add, {"a": 1, "b": 2}), RecordingSession()) == (1, 2)

        anyio.run(twice)


@final
class _Meeting:
    """Tasks that wait until ``size`` of them run at once."""

    def __init__(self, size: int) -> None:
        self.most = 0
        self._size, self._inside, self._lock = size, 0, threading.Lock()

    async def attend(self, executor: Executor) -> None:
        session = RecordingSession()
        session.report = self._enter  # type: ignore[method-assign]  # one session for all
        session.load = lambda: self.most >= self._size  # type: ignore[method-assign]
        await executor.run(Task(meet, {}, "ctx"), session)

    def _enter(self, step: int, metrics: Mapping[str, float]) -> Decision:
        with self._lock:
            self._inside += 1 if step == 1 else -1
            self.most = max(self.most, self._inside)
        return Decision.CONTINUE


async def _error(executor: Executor, task: Task, session: RecordingSession | None = None) -> BaseException:
    try:
        value = await executor.run(task, session or RecordingSession())
    except (Exception, TrialStopped, TrialPaused) as error:  # noqa: BLE001  # it is what the test looks at
        return error
    raise AssertionError(f"{task.function.__name__} returned {value!r} where an exception was due")


async def _until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(20):
        while not condition():  # noqa: ASYNC110  # what it waits for is done in threads and processes
            await anyio.sleep(0.002)


async def _stays_silent(session: RecordingSession) -> None:
    await anyio.sleep(0.01)  # a report that was under way
    count = len(session.reports)
    await anyio.sleep(0.04)
    assert len(session.reports) == count, "the work went on after its end"


def add(a: Any, b: Any) -> Any:
    return a, b


async def add_async(a: Any, b: Any) -> Any:
    await anyio.lowlevel.checkpoint()
    return a, b


def fail(message: str) -> None:
    raise LookupError(message)


async def fail_async(message: str) -> None:
    await anyio.lowlevel.checkpoint()
    raise LookupError(message)


def leave(code: int) -> None:
    raise SystemExit(code)


def tell(runtime: Context) -> tuple[dict[str, Any], float | None]:
    told = {name: getattr(runtime, name) for name in ("run_id", "path", "trial", "attempt", "step", "seed")}
    try:
        told["dir"] = str(runtime.dir)
    except RuntimeError:
        told["dir"] = None
    return told, runtime.remaining


def train(steps: int, ctx: Context) -> int:
    for step in range(1, steps + 1):
        try:
            ctx.report(step, loss=1 / step)
        except Exception:  # noqa: BLE001, S112  # as a user's training loop may do
            continue
    return steps


async def train_async(steps: int, ctx: Context) -> int:
    await anyio.lowlevel.checkpoint()
    return train(steps, ctx)


async def train_in_group(steps: int, ctx: Context) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(train_async, steps, ctx)
        group.start_soon(anyio.sleep_forever)


def keep(value: Any, ctx: Context) -> Any:
    before = ctx.load("nothing")
    ctx.save(value)
    return [before, ctx.load()]


def keep_or_not(value: Any, ctx: Context) -> str:
    try:
        ctx.save(value)
    except NotStorable:
        return "refused"
    return "kept"


def log(ctx: Context) -> None:
    ctx.log("one")
    ctx.log_metric("lr", 0.5, 3)
    ctx.log_metric("lr", float("inf"))
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("contents")
        file.flush()
        ctx.log_artifact(file.name)
    ctx.log("two")


def log_nothing(ctx: Context) -> None:
    ctx.log_artifact("/nowhere/at/all")


def report_forever(ctx: Context) -> None:
    step = 0
    while True:
        step += 1
        ctx.report(step, loss=1.0)
        time.sleep(0.001)


async def report_forever_async(ctx: Context) -> None:
    step = 0
    while True:
        step += 1
        ctx.report(step, loss=1.0)
        await anyio.sleep(0.001)


async def meet(ctx: Context) -> None:
    ctx.report(1)
    while not ctx.load():  # noqa: ASYNC110  # an event does not reach another process
        await anyio.sleep(0.001)
    ctx.report(2)


_OBJECTIVES = (add, add_async, fail, fail_async, train, train_async, train_in_group, report_forever, meet)
