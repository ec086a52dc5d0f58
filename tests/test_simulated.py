"""The simulated executor: exact in virtual time, repeatable, and no scheduler can tell."""

from __future__ import annotations

import heapq
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from sweep.clock import current_clock
from sweep.context import Context
from sweep.errors import TrialFailed, TrialPaused, TrialStopped
from sweep.executors.base import Executor, Task
from sweep.executors.simulated import Faults, SimulatedExecutor
from sweep.schedulers import ASHAScheduler, HyperbandScheduler, PBTScheduler, Scheduler
from sweep.space import SearchSpace, Uniform
from sweep.testing.executors import ExecutorContract
from sweep.testing.schedulers import Rehearsal
from sweep.trial import Decision, Objective, Report, Resources, Status, Trial


class _Recorder:
    """A session that writes down when what was reported, and answers as it is told."""

    def __init__(
        self, executor: SimulatedExecutor, answers: Mapping[int, Decision] | None = None, checkpoint: Any = None
    ) -> None:
        self.executor, self.answers, self.checkpoint = executor, answers or {}, checkpoint
        self.next_decision: int | None = None
        self.seen: list[tuple[float, int]] = []

    def report(self, step: int, metrics: Mapping[str, float]) -> Decision:
        self.seen.append((self.executor.clock.now(), step))
        return self.answers.get(step, Decision.CONTINUE)

    def save(self, value: Any) -> None:
        self.checkpoint = value

    def load(self) -> Any | None:
        return self.checkpoint

    def log(self, message: str) -> None: ...

    def log_metric(self, name: str, value: float, step: int | None) -> None: ...

    def log_artifact(self, path: Path) -> None: ...


class _Sweep:
    """The least driver of a sweep: it asks the scheduler, places trials, and tells it what came of them."""

    def __init__(self, scheduler: Scheduler, executor: SimulatedExecutor, objective: Callable[..., Any]) -> None:
        self.scheduler, self.executor, self.objective = scheduler, executor, objective
        self.trials: list[Trial] = []
        self.saved: dict[int, int] = {}
        self.starts: list[tuple[float, int, int]] = []
        self.free = executor.workers or 1

    async def run(self, params: list[dict[str, float]]) -> list[Trial]:
        self.send, receive = anyio.create_memory_object_stream[tuple[Trial, Status]](math.inf)
        async with self.executor.open(), anyio.create_task_group() as group, self.send, receive:
            while True:
                with self.executor.hold():
                    self._fill(group, params)
                    if self.free == self.executor.workers:
                        self.scheduler.on_exhausted()
                        self._fill(group, params)
                        if self.free == self.executor.workers:
                            break
                trial, status = await receive.receive()
                trial.status = status
                trial.score = trial.metrics.get("loss")
                self.free += 1
                self.scheduler.on_end(trial)
        return self.trials

    def _fill(self, group: Any, params: list[dict[str, float]]) -> None:
        while self.free:
            trial = self.scheduler.next_trial()
            if trial is None:
                if len(self.trials) >= len(params) or not self.scheduler.room(self.free):
                    return
                trial = Trial(params[len(self.trials)])
            if trial.number < 0:
                trial.number = len(self.trials)
                self.trials.append(trial)
                if trial.start_from is not None:
                    self.saved[trial.number] = self.saved[trial.start_from]
                self.scheduler.on_add(trial)
            trial.status, trial.attempts = Status.RUNNING, trial.attempts + 1
            self.free -= 1
            self.starts.append((self.executor.clock.now(), trial.number, self.saved.get(trial.number, 0)))
            group.start_soon(self._attempt, trial)

    async def _attempt(self, trial: Trial) -> None:
        facts = {"trial": trial.number, "attempt": trial.attempts, "step": self.saved.get(trial.number, 0)}
        try:
            await self.executor.run(Task(self.objective, trial.params, "ctx", facts=facts), _Live(self, trial))
            status = Status.COMPLETED
        except TrialPaused:
            status = Status.PAUSED
        except TrialStopped:
            status = Status.COMPLETED if trial.step >= (self.scheduler.max_resource or math.inf) else Status.STOPPED
        except TrialFailed:
            status = Status.FAILED
        self.send.send_nowait((trial, status))


class _Live(_Recorder):
    """The session of a trial of `_Sweep`; reports that come late or twice are dropped, as a sweep does."""

    def __init__(self, sweep: _Sweep, trial: Trial) -> None:
        super().__init__(sweep.executor)
        self.sweep, self.trial, self.attempt = sweep, trial, trial.attempts

    def report(self, step: int, metrics: Mapping[str, float]) -> Decision:
        trial, scheduler = self.trial, self.sweep.scheduler
        if trial.attempts != self.attempt or trial.status is not Status.RUNNING or step <= trial.step:
            return Decision.CONTINUE
        trial.step, trial.metrics = step, dict(metrics)
        trial.history.append(Report(step, metrics))
        self.sweep.saved[trial.number] = step
        scheduler.on_save(trial, step)
        return scheduler.on_report(trial, step, metrics)

    def load(self) -> Any | None:
        return self.sweep.saved.get(self.trial.number)


def _objective(x: float, ctx: Context) -> float:
    for step in range(int(ctx.load(0)) + 1, 244):
        ctx.report(step, loss=x + 1 / step)
    return x


def _params(count: int) -> list[dict[str, float]]:
    return [{"x": (number * 0.618034) % 1.0} for number in range(count)]


def _cost(params: Mapping[str, Any], step: int) -> float:
    return 1.0 + float(params["x"])


def _run(function: Callable[..., Any], *args: Any, backend: str = "asyncio") -> Any:
    return anyio.run(partial(function, *args), backend=backend)


# ---- the contract


class TestContract(ExecutorContract):
    def make(self, workers: int | None) -> Executor:
        return SimulatedExecutor(workers or 4, lambda params, step: 1.0)

    def test_tasks_run_side_by_side_up_to_the_workers(self) -> None:
        """Six tasks on three workers, in virtual time: those of the contract would wait for each other in real time."""
        executor = SimulatedExecutor(3, lambda params, step: 1.0)
        sessions = [_Recorder(executor) for _ in range(6)]

        async def main() -> None:
            async with executor.open(), anyio.create_task_group() as group:
                for number, session in enumerate(sessions):
                    facts = {"trial": number}
                    group.start_soon(executor.run, Task(_short, {"x": 0.0}, "ctx", facts=facts), session)

        _run(main)
        assert sorted(session.seen[0][0] for session in sessions) == [1.0] * 3 + [5.0] * 3
        assert executor.clock.now() == 8.0


# ---- exactness


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize(
    ("make", "count"),
    [
        (lambda: ASHAScheduler(27), 60),
        (lambda: ASHAScheduler(27, rule="stopping"), 60),
        (lambda: HyperbandScheduler(9), 34),
    ],
    ids=["asha", "stopping", "hyperband"],
)
@pytest.mark.parametrize("workers", [1, 7])
def test_it_does_what_a_rehearsal_without_threads_or_loops_does(
    make: Callable[[], Scheduler], count: int, workers: int, backend: str
) -> None:
    """The same jobs at the same moments as the plain event heap of sweep.testing, which shares no code with it."""
    params = _params(count)
    rehearsal = Rehearsal(make(), count, workers, seconds=lambda trial, step: _cost(trial.params, step))
    rehearsal._rng = _Given(params)  # type: ignore[assignment]  # the same parameters in the same order
    expected = [(call.time, call.number, call.detail[0]) for call in rehearsal.run().of("start")]
    sweep = _Sweep(make(), SimulatedExecutor(workers, _cost), _objective)
    _run(sweep.run, params, backend=backend)
    assert [(n, step) for _, n, step in sweep.starts] == [(n, step) for _, n, step in expected]
    assert [t for t, _, _ in sweep.starts] == pytest.approx([t for t, _, _ in expected])


class _Given:
    def __init__(self, params: list[dict[str, float]]) -> None:
        self.values = iter([each["x"] for each in params])

    def random(self) -> float:
        return next(self.values)


@pytest.mark.parametrize("workers", [1, 3, 50])
def test_makespan_is_that_of_list_scheduling(workers: int) -> None:
    class Batch(Scheduler):
        def should_stop(self, trial: Trial) -> bool:
            return trial.step >= 4

    executor = SimulatedExecutor(workers, _cost)
    _run(_Sweep(Batch(), executor, _objective).run, _params(20))
    slots = [0.0] * workers
    for each in _params(20):
        heapq.heappush(slots, heapq.heappop(slots) + 4 * (1 + each["x"]))
    assert executor.clock.now() == pytest.approx(max(slots))
    work = sum(4 * (1 + each["x"]) for each in _params(20))
    assert executor.utilisation == pytest.approx(work / (workers * max(slots)))


def test_population_based_training_takes_over_checkpoints() -> None:
    sweep = _Sweep(PBTScheduler(8, 5, interval=3), SimulatedExecutor(3, _cost), _objective)
    sweep.scheduler.setup(SearchSpace({"x": Uniform(0, 1)}), [Objective("loss")], 0)
    trials = _run(sweep.run, _params(8))
    assert len(trials) == 8 + 4
    assert Counter(trial.status for trial in trials)[Status.COMPLETED] == 8
    for now, number, step in sweep.starts:
        assert step % 3 == 0
        assert (step == 0) == (trials[number].parent is None and now <= sweep.starts[7][0])


def test_a_resumed_trial_pays_for_what_is_left() -> None:
    """It loads the checkpoint of step 5 of 8: three steps. One that does not load starts again: eight."""
    executor = SimulatedExecutor(1, lambda params, step: 10.0)

    def objective(loads: bool, ctx: Context) -> None:
        for step in range(1 + (ctx.load(0) if loads else 0), 9):
            ctx.report(step, loss=0.0)

    facts = {"trial": 0, "attempt": 2, "step": 5}
    session = _Recorder(executor, checkpoint=5)
    _run(executor.run, Task(objective, {"loads": True}, "ctx", facts=facts), session)
    assert session.seen == [(10.0, 6), (20.0, 7), (30.0, 8)]
    _run(executor.run, Task(objective, {"loads": False}, "ctx", facts=facts), session)
    assert session.seen[-1] == (110.0, 8)


def test_a_jump_over_steps_pays_for_each() -> None:
    executor = SimulatedExecutor(1, lambda params, step: float(step))
    session = _Recorder(executor)

    def objective(ctx: Context) -> None:
        ctx.report(4, loss=1.0)
        ctx.report(4, loss=1.0)

    _run(executor.run, Task(objective, {}, "ctx"), session)
    assert session.seen == [(10.0, 4), (14.0, 4)]


def test_an_objective_without_reports_takes_a_step() -> None:
    executor = SimulatedExecutor(1, lambda params, step: 7.0 * step)
    assert _run(executor.run, Task(lambda x: 2 * x, {"x": 3}), _Recorder(executor)) == 6
    assert executor.clock.now() == 7.0


# ---- what passes through


@pytest.mark.parametrize(
    ("answer", "raised"), [(Decision.STOP, TrialStopped), (Decision.PAUSE, TrialPaused)], ids=["stop", "pause"]
)
def test_decisions_reach_the_objective(answer: Decision, raised: type[BaseException]) -> None:
    executor = SimulatedExecutor(1, _cost)
    session = _Recorder(executor, {3: answer})
    with pytest.raises(raised):
        _run(executor.run, Task(_objective, {"x": 0.0}, "ctx"), session)
    assert [step for _, step in session.seen] == [1, 2, 3]


@pytest.mark.anyio
async def test_async_objectives() -> None:
    async def objective(x: float, ctx: Context) -> float:
        for step in (1, 2):
            await anyio.lowlevel.checkpoint()
            ctx.report(step, loss=x)
        return x

    executor = SimulatedExecutor(2, _cost)
    session = _Recorder(executor)
    assert await executor.run(Task(objective, {"x": 0.5}, "ctx"), session) == 0.5
    assert session.seen == [(1.5, 1), (3.0, 2)]


@pytest.mark.anyio
async def test_what_the_objective_raises_is_raised() -> None:
    def objective(ctx: Context) -> None:
        ctx.report(1, loss=1.0)
        raise LookupError("lost my keys")

    executor = SimulatedExecutor(1, lambda params, step: 1.0)
    with pytest.raises(LookupError, match="lost my keys"):
        await executor.run(Task(objective, {}, "ctx"), _Recorder(executor))


@pytest.mark.anyio
async def test_a_cancelled_attempt_leaves_the_others_in_order() -> None:
    executor = SimulatedExecutor(3, lambda params, step: 1.0)
    sessions = [_Recorder(executor) for _ in range(3)]

    async def one(number: int, scope: anyio.CancelScope | None = None) -> None:
        task = Task(_objective if scope else _short, {"x": float(number)}, "ctx", facts={"trial": number})
        with scope or anyio.CancelScope():
            await executor.run(task, sessions[number])

    async with executor.open(), anyio.create_task_group() as group:
        scope = anyio.CancelScope()
        group.start_soon(one, 0, scope)  # it leads the others in time, and is taken away
        group.start_soon(one, 1)
        group.start_soon(one, 2)
        executor.clock.call_at(2.5, scope.cancel)
    assert [step for _, step in sessions[0].seen] == [1, 2]
    for session in sessions[1:]:
        assert session.seen == [(1.0, 1), (2.0, 2), (3.0, 3), (4.0, 4)]


def _short(x: float, ctx: Context) -> None:
    for step in range(1, 5):
        ctx.report(step, loss=x)


# ---- time


@pytest.mark.anyio
async def test_inside_the_executor_everything_lives_in_virtual_time() -> None:
    executor = SimulatedExecutor(1, lambda params, step: 100.0)
    outside = current_clock()
    began = time.monotonic()
    async with executor.open():
        clock = current_clock()
        assert clock is executor.clock
        await clock.sleep(3600.0)
        assert clock.now() == 3600.0
        with clock.move_on_after(60.0) as scope:
            await clock.sleep(1e6)
        assert scope.cancelled_caught
        assert clock.now() == 3660.0
        with clock.move_on_after(1e9) as scope:
            await clock.sleep(1.0)
        assert not scope.cancelled_caught
        async with executor.open():  # a nested sweep
            assert current_clock() is executor.clock
    assert current_clock() is outside
    assert time.monotonic() - began < 5


@pytest.mark.anyio
async def test_no_time_passes_while_it_is_held() -> None:
    executor = SimulatedExecutor(2, lambda params, step: 1.0)
    session = _Recorder(executor)
    async with executor.open(), anyio.create_task_group() as group:
        group.start_soon(executor.run, Task(_short, {"x": 0.0}, "ctx"), session)
        with executor.hold():
            await anyio.sleep(0.03)  # an optimizer that thinks, in real time
            assert executor.clock.now() == 0.0
            assert session.seen == []
    assert executor.clock.now() == 4.0


@pytest.mark.anyio
async def test_the_objective_sees_its_deadline() -> None:
    left: list[float | None] = []

    def objective(ctx: Context) -> None:
        left.append(ctx.remaining)
        ctx.report(1, loss=0.0)
        left.append(ctx.remaining)

    executor = SimulatedExecutor(1, lambda params, step: 4.0)
    async with executor.open():
        await executor.run(Task(objective, {}, "ctx", resources=Resources(time_limit=10)), _Recorder(executor))
    assert left == [10.0, 6.0]


@pytest.mark.anyio
async def test_a_trial_over_its_time_limit() -> None:
    executor = SimulatedExecutor(1, lambda params, step: 4.0)
    session = _Recorder(executor)
    task = Task(_objective, {"x": 0.0}, "ctx", resources=Resources(time_limit=10))
    with pytest.raises(TrialFailed, match="time limit of 10 s") as caught:
        await executor.run(task, session)
    assert caught.value.kind == "timeout"
    assert session.seen == [(4.0, 1), (8.0, 2)]
    assert executor.clock.now() == 10.0


# ---- faults


def _history(faults: Faults, workers: int = 5, seed: int = 0, backend: str = "asyncio") -> tuple[_Sweep, list[Trial]]:
    sweep = _Sweep(ASHAScheduler(27), SimulatedExecutor(workers, _cost, seed, faults), _objective)
    return sweep, _run(sweep.run, _params(80), backend=backend)


_EVERYTHING = Faults(
    stragglers=0.1, jitter=0.3, failures=0.01, losses=0.002, host_size=2, late=0.3, double=0.3, reordered=0.3
)


def test_a_simulation_repeats_exactly() -> None:
    runs = [_history(_EVERYTHING, backend=backend)[0].starts for backend in ("asyncio", "asyncio", "trio")]
    assert runs[0] == runs[1] == runs[2]
    assert runs[0] != _history(_EVERYTHING, seed=1)[0].starts


def test_with_every_fault_at_once_all_trials_come_to_an_end() -> None:
    for workers in (1, 40):
        _, trials = _history(_EVERYTHING, workers)
        assert len(trials) == 80
        assert {trial.status for trial in trials} == {
            Status.PAUSED,
            Status.FAILED,
            Status.COMPLETED,
        }
        for trial in trials:
            assert [report.step for report in trial.history] == list(range(1, trial.step + 1))


def test_failures_come_as_often_as_was_said() -> None:
    """Each step fails with 5%: of some 450 steps run, within four standard deviations."""
    sweep, trials = _history(Faults(failures=0.05))
    steps = sum(trial.step for trial in trials)
    failed = sum(trial.status is Status.FAILED for trial in trials)
    assert abs(failed - 0.05 * (steps + failed)) <= 4 * math.sqrt(0.05 * (steps + failed))
    assert sweep.executor.clock.now() > 0


def test_stragglers_are_slow_throughout() -> None:
    executor = SimulatedExecutor(1, lambda params, step: 1.0, faults=Faults(stragglers=1.0, slowdown=7.0))
    session = _Recorder(executor)
    _run(executor.run, Task(_short, {"x": 0.0}, "ctx"), session)
    assert [at for at, _ in session.seen] == [7.0, 14.0, 21.0, 28.0]


@pytest.mark.anyio
async def test_a_lost_host_takes_all_that_runs_on_it() -> None:
    """Twelve trials on hosts of three: those on host 0 go at one moment, the others complete."""

    def cost(params: Mapping[str, Any], step: int) -> float:
        return 1.0

    ends: dict[int, tuple[float, str]] = {}
    executor = SimulatedExecutor(12, cost, faults=Faults(host_size=3))

    async def one(number: int) -> None:
        try:
            await executor.run(Task(_short, {"x": 0.0}, "ctx", facts={"trial": number}), _Recorder(executor))
            ends[number] = (executor.clock.now(), "completed")
        except TrialFailed as error:
            ends[number] = (executor.clock.now(), error.kind)

    async with executor.open(), anyio.create_task_group() as group:
        for number in range(12):
            group.start_soon(one, number)
        executor.clock.call_at(2.5, lambda: executor.lose_host(0))
    assert Counter(ends.values()).keys() == {(2.5, "lost"), (4.0, "completed")}
    assert len(ends) == 12
    again = SimulatedExecutor(12, cost, faults=Faults(losses=0.2, host_size=12))
    lost = []
    for number in range(12):  # one after the other on a single host: only its own steps end a trial
        try:
            await again.run(Task(_short, {"x": 0.0}, "ctx", facts={"trial": number}), _Recorder(again))
        except TrialFailed as error:
            lost.append(error.kind)
    assert 2 <= len(lost) <= 11  # 1 - 0.8 ** 4 = 59% of 12
    assert set(lost) == {"lost"}


@pytest.mark.anyio
@pytest.mark.parametrize("faults", [Faults(double=1.0), Faults(reordered=1.0), Faults(double=1.0, reordered=0.5)])
async def test_the_session_gets_double_and_reordered_reports_once_and_in_order(faults: Faults) -> None:
    executor = SimulatedExecutor(1, lambda params, step: 1.0, faults=faults)
    session = _Recorder(executor)
    session.next_decision = 4
    await executor.run(Task(_short, {"x": 0.0}, "ctx"), session)
    assert [step for _, step in session.seen] == [1, 2, 3, 4]
    if faults.reordered == 1.0:
        assert [at for at, _ in session.seen] == [2.0, 2.0, 4.0, 4.0], "overtaken by the second, it came with it"


@pytest.mark.anyio
@pytest.mark.parametrize("answered", [4, 5, None])
async def test_what_is_said_after_a_late_report_waits_for_it(answered: int | None) -> None:
    executor = SimulatedExecutor(1, lambda params, step: 1.0, seed=3, faults=Faults(late=1.0))
    session = _Recorder(executor)
    session.next_decision = answered
    await executor.run(Task(_short, {"x": 0.0}, "ctx"), session)
    ended = executor.clock.now()
    assert [step for _, step in session.seen] == [1, 2, 3, 4], "the attempt ended before all it had said was there"
    times = [at for at, _ in session.seen]
    assert times == sorted(times)
    if answered is None:
        assert times == [1.0, 2.0, 3.0, 4.0]
    else:
        assert times[0] > 1.0
        assert times[-1] == ended > 4.0
    await executor.clock.sleep(1e6)
    again = [at for at, step in session.seen[4:] if step == 4]
    assert len(again) == len(session.seen) - 4 == (answered != 5), "a report that was answered comes again"
    assert all(at > ended for at in again)


@pytest.mark.anyio
async def test_a_checkpoint_belongs_to_the_report_after_it_whatever_comes_late() -> None:
    class Notes(_Recorder):
        said: list[Any]

        def report(self, step: int, metrics: Mapping[str, float]) -> Decision:
            self.said.append(step)
            return super().report(step, metrics)

        def save(self, value: Any) -> None:
            self.said.append(value)

    def saving(ctx: Context) -> None:
        for step in range(1, 7):
            if step % 3 == 0:
                ctx.save(f"for {step}")
            ctx.report(step, loss=0.0)

    for seed in range(20):
        executor = SimulatedExecutor(1, lambda params, step: 1.0, seed, Faults(late=0.5, reordered=0.5, double=0.5))
        session = Notes(executor)
        session.next_decision, session.said = 7, []
        await executor.run(Task(saving, {}, "ctx"), session)
        assert session.said == [1, 2, "for 3", 3, 4, 5, "for 6", 6]


@pytest.mark.anyio
async def test_what_a_late_report_raises_ends_the_attempt() -> None:
    class Broken(_Recorder):
        def report(self, step: int, metrics: Mapping[str, float]) -> Decision:
            raise RuntimeError("the store is gone")

    executor = SimulatedExecutor(1, lambda params, step: 1.0, faults=Faults(late=1.0))
    session = Broken(executor)
    session.next_decision = 9
    with pytest.raises(RuntimeError, match="the store is gone"):
        await executor.run(Task(_short, {"x": 0.0}, "ctx"), session)


# ---- arguments, size


@pytest.mark.anyio
async def test_a_cost_that_is_no_time() -> None:
    executor = SimulatedExecutor(1, lambda params, step: math.nan)
    with pytest.raises(ValueError, match=r"SimulatedExecutor\(cost=…\) returned nan for step 1: expected seconds >= 0"):
        await executor.run(Task(lambda: 1, {}), _Recorder(executor))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SimulatedExecutor(0, _cost), r"workers=0\): expected a whole number >= 1"),
        (lambda: SimulatedExecutor(2, 3.0), r"cost=3.0\): expected a function"),  # type: ignore[arg-type]  # the test
        (lambda: Faults(failures=1.5), r"Faults\(failures=1.5\): expected a number from 0 to 1"),
        (lambda: Faults(slowdown=0.5), r"Faults\(slowdown=0.5\): expected a number from 1 to inf"),
        (lambda: Faults(jitter=math.nan), r"Faults\(jitter=nan\)"),
    ],
)
def test_arguments_out_of_range(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_thousand_trials_on_two_hundred_workers() -> None:
    began = time.process_time()
    sweep = _Sweep(ASHAScheduler(27), SimulatedExecutor(200, _cost), _objective)
    trials = _run(sweep.run, _params(1000))
    assert Counter(trial.status for trial in trials)[Status.COMPLETED] >= 10
    assert time.process_time() - began < 8
