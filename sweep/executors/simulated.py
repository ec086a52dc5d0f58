"""Trials in virtual time: an instrument for schedulers, at any number of workers.

Objectives are ordinary functions that report through ``ctx``. Each runs in a worker thread that is held at
every report until virtual time has come there, one thread at a time, so that a run of a thousand workers is
exact, repeatable, and over in seconds. Schedulers, optimizers and the sweep cannot tell.

The rejected ways: calling the objective to its end first and replaying its reports is not exact where what it does
depends on an answer, a checkpoint or a time; greenlets are no dependency of ours; generators only would make the
simulated objective another than the real one.
"""

from __future__ import annotations

import asyncio
import heapq
import inspect
import itertools
import math
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, final

import anyio
from anyio.lowlevel import checkpoint

from sweep.clock import using_clock
from sweep.context import Context, Session
from sweep.errors import TrialFailed, TrialStopped
from sweep.executors.base import Capacity, Executor, Task
from sweep.process.child import decision_in
from sweep.threads import LoopThread, WorkerThreads, current_loop_thread
from sweep.trial import Decision

__all__ = ["Faults", "SimulatedExecutor", "Timeline"]

Cost: TypeAlias = Callable[[Mapping[str, Any], int], float]

_ROUNDS = 25  # turns of the event loop without news after which nobody is taken to be about to start anything


@final
@dataclass(frozen=True, slots=True)
class Faults:
    """What goes wrong in a simulation, drawn from the executor's seed: probabilities from 0 to 1.

    Args:
        stragglers: Share of attempts that are slow throughout.
        slowdown: How many times as long a straggler takes, >= 1.
        jitter: Standard deviation of the logarithm of each step's duration.
        failures: Probability that a step fails (at a random moment of it), which ends the attempt.
        losses: Probability that the host is lost during a step, which ends every attempt on it.
        host_size: Workers on a host; each attempt is placed on a host at random.
        late: Probability that the last report of an attempt comes again after its end.
        double: Probability that a report is delivered twice.
        reordered: Probability that a report which needs no answer is delivered after the next one.

    Raises:
        ValueError: A number out of its range.
    """

    stragglers: float = 0.0
    slowdown: float = 10.0
    jitter: float = 0.0
    failures: float = 0.0
    losses: float = 0.0
    host_size: int = 1
    late: float = 0.0
    double: float = 0.0
    reordered: float = 0.0

    def __post_init__(self) -> None:
        least = {"slowdown": 1.0, "host_size": 1.0}
        most = {"slowdown": math.inf, "jitter": math.inf, "host_size": math.inf}
        for part in fields(self):
            value = getattr(self, part.name)
            if not least.get(part.name, 0.0) <= value <= most.get(part.name, 1.0):
                low, high = least.get(part.name, 0.0), most.get(part.name, 1.0)
                raise ValueError(f"Faults({part.name}={value!r}): expected a number from {low:g} to {high:g}")


@final
class _Waiter:
    """A moment on the timeline, and who or what waits for it."""

    __slots__ = ("action", "dead", "event", "fired", "held", "leads")

    def __init__(self, held: bool = False, action: Callable[[], object] | None = None) -> None:
        self.event = anyio.Event() if action is None else None
        self.action, self.held = action, held
        self.fired = self.dead = self.leads = False


@final
class Timeline:
    """A clock whose time goes on only when nothing is left to do: to the next moment anyone waits for.

    Of the tasks that wait, one leads: it lets the loop turn until nobody is active, then wakes the earliest. So no
    task of its own is needed. Whoever is active without waiting here says so by `hold`.
    """

    def __init__(self) -> None:
        self._now = 0.0
        self._heap: list[tuple[float, tuple[int, ...], int, _Waiter]] = []
        self._count = itertools.count()
        self._holds = self._news = 0
        self._quiet = -1  # the news after which the loop was last seen to have nothing to do
        self._stirred = False  # somebody was woken who does not hold
        self._led = False
        self._free: anyio.Event | None = None
        self.settled: Callable[[], bool] = lambda: False  # whether nobody could start anything now, held or not

    def now(self) -> float:
        """Return virtual seconds since the start."""
        return self._now

    def wall(self) -> float:
        """Return virtual seconds since the start."""
        return self._now

    async def sleep(self, seconds: float) -> None:
        """Wait in virtual time."""
        await self.until(self._now + max(0.0, seconds))

    @contextmanager
    def move_on_after(self, seconds: float) -> Iterator[anyio.CancelScope]:
        """Give a cancel scope that is cancelled after so many virtual seconds."""
        with anyio.CancelScope() as scope:
            waiter = self.call_at(self._now + max(0.0, seconds), scope.cancel)
            try:
                yield scope
            finally:
                waiter.dead = True

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Let no time pass inside."""
        self.acquire()
        try:
            yield
        finally:
            self.release()

    def acquire(self) -> None:
        """Begin to be active."""
        self._holds += 1
        self._news += 1

    def release(self) -> None:
        """Be active no more; others may act on what was done."""
        self._news += 1
        self._let_go()

    def _let_go(self) -> None:
        self._holds -= 1
        if not self._holds and self._free is not None:
            self._free.set()
            self._free = None

    def call_at(self, at: float, action: Callable[[], object]) -> _Waiter:
        """Call ``action`` when time has come to ``at``."""
        waiter = _Waiter(action=action)
        self._push(at, (), waiter)
        return waiter

    async def until(self, at: float, order: tuple[int, ...] = (), *, held: bool = False) -> None:
        """Wait until ``at``; of equal moments the lower ``order`` comes first.

        Args:
            at: Virtual time.
            order: What decides between equal moments.
            held: Whether the caller holds; the hold is given up while it waits.
        """
        await self.wait(self.prepare(at, order, held=held))

    def prepare(self, at: float, order: tuple[int, ...] = (), *, held: bool = False) -> _Waiter:
        """Return the moment that `wait` waits for."""
        waiter = _Waiter(held)
        self._push(at, order, waiter)
        return waiter

    def advance(self, waiter: _Waiter) -> None:
        """Let a moment that lies ahead be now."""
        self._push(self._now, (), waiter)

    async def wait(self, waiter: _Waiter) -> None:
        """Wait for a moment, leading the others if nobody does."""
        if waiter.event is None:
            raise ValueError("this moment has an action: nobody can wait for it")
        if waiter.held:
            self._let_go()
        try:
            if self._led:
                await waiter.event.wait()
            else:
                self._led = waiter.leads = True
            while not waiter.fired:  # it was told to lead
                await self._settle()
                self._fire()
        finally:
            if not waiter.fired:  # cancelled: whoever held holds again, to clean up
                waiter.dead = True
                if waiter.held:
                    self.acquire()
            if waiter.leads:
                self._hand_over()

    def _push(self, at: float, order: tuple[int, ...], waiter: _Waiter) -> None:
        heapq.heappush(self._heap, (at, order, next(self._count), waiter))

    def _fire(self) -> None:
        """Go on to the earliest moment."""
        while self._heap:
            at, _, _, waiter = heapq.heappop(self._heap)
            if waiter.dead or waiter.fired:
                continue
            self._now = max(self._now, at)
            waiter.fired = True
            if waiter.held:
                self._holds += 1  # no news: an attempt that goes on to its next step makes nobody start anything
            else:
                self._news += 1
                self._stirred = True
            if waiter.action is not None:
                waiter.action()
            elif waiter.event is not None:
                waiter.event.set()
            return

    def _hand_over(self) -> None:
        """Let the task that waits for the earliest moment lead."""
        self._led = False
        while self._heap and (self._heap[0][3].dead or self._heap[0][3].fired):
            heapq.heappop(self._heap)
        tasks = (entry for entry in self._heap if entry[3].event is not None and not (entry[3].dead or entry[3].fired))
        heir = next(tasks, None)  # any will do; the first is mostly the earliest
        if heir is not None and heir[3].event is not None:
            self._led = heir[3].leads = True
            heir[3].event.set()

    async def _settle(self) -> None:
        """Return when nobody is active, and nobody seems about to be."""
        while True:
            if self._holds:
                self._free = self._free or anyio.Event()
                await self._free.wait()
                continue
            if self._quiet == self._news or (self.settled() and not self._stirred):
                return
            news = self._news
            for _ in range(_ROUNDS):
                await checkpoint()
                if self._news != news:
                    break
            else:
                self._quiet, self._stirred = news, False


@final
class _Attempt:
    """One task while it runs: its slot, its own random numbers, and where it stands in virtual time."""

    def __init__(self, owner: SimulatedExecutor, task: Task, session: Session, count: int) -> None:
        self.owner, self.task, self.session = owner, task, session
        facts = task.facts
        trial = facts.get("trial")
        where = (facts.get("path", ""), trial, facts.get("attempt", 1), facts.get("step", 0))
        # Of what happens at one moment the lower trial comes first, in whatever order the loop started its tasks.
        self.order = (count if trial is None else int(trial), count)
        self.rng = random.Random(repr((owner.seed, *where)))  # noqa: S311  # reproducibility, not secrecy
        self.host = self.rng.randrange(max(1, (owner.workers or 1) // owner.faults.host_size))
        self.began = owner.clock.now()
        slow = self.rng.random() < owner.faults.stragglers
        self.pace = owner.faults.slowdown if slow else 1.0
        self.step = 0
        self.reports = 0
        self.failure: TrialFailed | None = None
        self.over = False
        self.scope = anyio.CancelScope()
        self.waiter: _Waiter | None = None
        self.kept: tuple[int, Mapping[str, float]] | None = None  # a report that comes after the next
        self.last: tuple[int, Mapping[str, float]] | None = None

    async def work(self, threads: WorkerThreads) -> Any:
        """Run the task to its end in virtual time."""
        value = None
        with self.scope:
            try:
                value = await threads.run(self._call)
            except SystemExit as error:
                code = error.code if isinstance(error.code, int) else int(error.code is not None)
                raise TrialFailed(f"the trial called sys.exit({error.code!r})", exit_code=code) from error
            except BaseExceptionGroup as group:
                decision = decision_in(group)
                if decision is not None:
                    raise decision from group
                raise
            if not self.reports:
                await self._spend([self.step + 1])
        if self.failure is not None:
            raise self.failure
        return value

    async def report(self, step: int, metrics: Mapping[str, float]) -> Decision:
        """Let the time of the steps since the last report pass, then deliver this one."""
        self.reports += 1
        await self._spend(range(self.step + 1, step + 1) if step > self.step else [step])
        self.step = max(self.step, step)
        faults, draw = self.owner.faults, self.rng.random
        answered = self.session.next_decision is None or step >= self.session.next_decision
        if not answered and self.kept is None and draw() < faults.reordered:
            self.kept = (step, metrics)
            return Decision.CONTINUE
        self.last = (step, metrics)
        decision = self.session.report(step, metrics)
        if draw() < faults.double:
            self.session.report(step, metrics)
        self._deliver_kept()
        return decision

    def end(self) -> None:
        """Deliver what is still on its way; the last report may come again. The thread may say no more."""
        self.over = True
        self._deliver_kept()
        if self.last is not None and self.rng.random() < self.owner.faults.late:
            delay = self.rng.expovariate(1.0) * max(1.0, self.owner.clock.now() - self.began)
            self.owner.clock.call_at(self.owner.clock.now() + delay, partial(self.session.report, *self.last))

    def fail(self, kind: str, why: str) -> None:
        """End the attempt as failed, wherever it is."""
        if self.failure is None:
            self.failure = TrialFailed(why, kind=kind)
        if self.waiter is not None:
            self.owner.clock.advance(self.waiter)

    def _deliver_kept(self) -> None:
        if self.kept is not None:
            kept, self.kept = self.kept, None
            self.session.report(*kept)

    async def _spend(self, steps: Sequence[int]) -> None:
        """Let the time of ``steps`` pass; what fails in them ends the attempt."""
        clock, faults = self.owner.clock, self.owner.faults
        limit = self.task.resources.time_limit
        deadline = math.inf if limit is None else self.began + limit
        at, failing = clock.now(), None
        for step in steps:
            seconds = self._seconds(step)
            hurt = self.rng.random()
            if hurt < faults.failures + faults.losses:
                at += seconds * self.rng.random()
                failing = "error" if hurt < faults.failures else "lost"
                break
            at += seconds
        if at > deadline:
            at, failing = deadline, "timeout"
        self.waiter = clock.prepare(at, self.order, held=True)
        await clock.wait(self.waiter)
        self.waiter = None
        if self.failure is None and failing is not None:
            self._strike(failing)
        if self.failure is not None:
            self.scope.cancel()
            await checkpoint()  # ends here: the thread is told that nobody waits for it

    def _strike(self, kind: str) -> None:
        at = f"at {self.owner.clock.now():g} s"
        if kind == "lost":
            self.owner.lose_host(self.host)
        elif kind == "timeout":
            self.fail(kind, f"the trial overran its time limit of {self.task.resources.time_limit:g} s")
        else:
            self.fail(kind, f"simulated failure {at}")

    def _seconds(self, step: int) -> float:
        cost = self.owner.cost(self.task.kwargs, step)
        if not 0 <= cost < math.inf:
            raise ValueError(f"SimulatedExecutor(cost=…) returned {cost!r} for step {step}: expected seconds >= 0")
        jitter = self.owner.faults.jitter
        return cost * self.pace * (math.exp(self.rng.gauss(0.0, jitter)) if jitter else 1.0)

    def _call(self) -> Any:
        """Call the objective (in its thread)."""
        thread = current_loop_thread()
        if thread is None:
            raise RuntimeError("a simulated objective runs in one of sweep's worker threads")
        kwargs = dict(self.task.kwargs)
        if self.task.context_name is not None:
            limit = self.task.resources.time_limit
            kwargs[self.task.context_name] = Context(
                _Wire(self, thread),
                directory=self.task.directory,
                deadline=None if limit is None else self.began + limit,
                **self.task.facts,
            )
        value = self.task.function(**kwargs)
        return anyio.run(_finish, value, backend=self.owner.backend) if inspect.isawaitable(value) else value


@final
class _Wire:
    """The session an objective sees: its reports wait for virtual time, everything else goes straight through."""

    def __init__(self, attempt: _Attempt, thread: LoopThread) -> None:
        self._attempt, self._thread = attempt, thread

    @property
    def next_decision(self) -> int | None:
        return self._session().next_decision

    @next_decision.setter
    def next_decision(self, step: int | None) -> None:
        self._session().next_decision = step

    def report(self, step: int, metrics: Mapping[str, float]) -> Decision:
        self._session()
        try:
            return self._thread.call(self._attempt.report, step, metrics)
        except CancelledError:  # nobody waits for the objective any more
            raise TrialStopped from None

    def save(self, value: Any) -> None:
        self._session().save(value)

    def load(self) -> Any | None:
        self._attempt.step = max(self._attempt.step, int(self._attempt.task.facts.get("step", 0)))
        return self._session().load()

    def log(self, message: str) -> None:
        self._session().log(message)

    def log_metric(self, name: str, value: float, step: int | None) -> None:
        self._session().log_metric(name, value, step)

    def log_artifact(self, path: Path) -> None:
        self._session().log_artifact(path)

    def _session(self) -> Session:
        if self._attempt.over:
            raise TrialStopped  # ends the abandoned function as soon as it speaks
        return self._attempt.session


@final
class SimulatedExecutor(Executor):
    """Runs objectives in virtual time: each step takes ``cost(params, step)`` seconds that nobody waits for.

    Time passes at reports alone: a report at step s comes when the steps since the last report (or since the
    checkpoint that was loaded) have passed. A trial that reports nothing takes the time of one step. Whatever an
    objective really computes takes no virtual time. Nothing is drawn from anything but ``seed``, the trial, its
    attempt and the step it starts from.

    Objectives run in threads, those declared ``async`` in a loop of their own in such a thread; at most one computes
    at any moment once time has begun to pass.

    Args:
        workers: Tasks at once.
        cost: Seconds of a step, from the arguments of the objective and the step (from 1).
        seed: Seed of everything that is drawn.
        faults: What goes wrong.

    Attributes:
        clock: The virtual clock; inside `open` it is the clock of everything (deadlines, budgets, costs).

    Raises:
        ValueError: ``workers`` is no whole number >= 1, or ``cost`` cannot be called.

    Example:
        >>> class Recorder:
        ...     next_decision = None
        ...     def report(self, step, metrics):
        ...         print(executor.clock.now(), step, dict(metrics))
        ...         return Decision.CONTINUE
        >>> def objective(x, ctx):
        ...     for step in (1, 2):
        ...         ctx.report(step, loss=x / step)
        ...     return x
        >>> executor = SimulatedExecutor(workers=1, cost=lambda params, step: 3600.0)
        >>> anyio.run(executor.run, Task(objective, {"x": 1.0}, context_name="ctx"), Recorder())
        3600.0 1 {'loss': 1.0}
        7200.0 2 {'loss': 0.5}
        1.0
    """

    def __init__(self, workers: int, cost: Cost, seed: int = 0, faults: Faults | None = None) -> None:
        if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
            raise ValueError(f"SimulatedExecutor(workers={workers!r}): expected a whole number >= 1")
        if not callable(cost):
            raise ValueError(f"SimulatedExecutor(cost={cost!r}): expected a function cost(params, step) -> seconds")
        self.workers: int | None = workers
        self.cost, self.seed, self.faults = cost, seed, faults or Faults()
        self.clock = Timeline()
        self.clock.settled = lambda: len(self._running) >= workers
        self.backend = "asyncio"
        self._running: dict[int, _Attempt] = {}  # by order of starts
        self._slots = anyio.Semaphore(workers)
        self._started = itertools.count()
        self._worked = 0.0
        self._threads: WorkerThreads | None = None

    def __repr__(self) -> str:
        return f"SimulatedExecutor(workers={self.workers}, seed={self.seed})"

    def capacity(self) -> Capacity:
        """Return that nothing but the number of workers is limited."""
        return Capacity(gpus=None)

    @property
    def utilisation(self) -> float:
        """Share of the workers' time so far in which they worked."""
        total = (self.workers or 1) * self.clock.now()
        busy = sum(self.clock.now() - attempt.began for attempt in self._running.values())
        return (self._worked + busy) / total if total else 0.0

    def hold(self) -> AbstractContextManager[None]:
        """Let no virtual time pass inside: for whoever decides, in real time, what to start next."""
        return self.clock.hold()

    @asynccontextmanager
    async def open(self, preload: Sequence[Callable[..., Any]] = ()) -> AsyncIterator[None]:
        """Hold the threads, and make the virtual clock the clock of everything inside."""
        if self._threads is not None:
            yield
            return
        self._threads = WorkerThreads()
        try:
            with using_clock(self.clock):
                yield
        finally:
            self._threads.close()
            self._threads = None

    async def run(self, task: Task, session: Session) -> Any:
        """Run one task in virtual time and return its value.

        Raises:
            TrialStopped: The session answered a report so.
            TrialPaused: The session answered a report so.
            TrialFailed: A simulated failure, host loss, or time limit.
            ValueError: ``cost`` gave no seconds.
            Exception: What the function raised.
        """
        self.backend = _backend()
        async with self._slots:
            return await self._run(task, session)

    async def _run(self, task: Task, session: Session) -> Any:
        count = next(self._started)
        attempt = self._running[count] = _Attempt(self, task, session, count)
        self.clock.acquire()
        try:
            with nullcontext(self._threads) if self._threads is not None else WorkerThreads() as threads:
                return await attempt.work(threads)
        finally:
            del self._running[count]
            self._worked += self.clock.now() - attempt.began
            attempt.end()
            self.clock.release()

    def lose_host(self, host: int) -> None:
        """Lose a host (from 0): all that runs on it fails now, with ``kind="lost"``."""
        for attempt in list(self._running.values()):
            if attempt.host == host:
                attempt.fail("lost", f"simulated loss of host {host} at {self.clock.now():g} s")


async def _finish(value: Awaitable[Any]) -> Any:
    return await value


def _backend() -> str:
    """Return the name of the event loop that runs here, as anyio calls it."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return "trio"
    return "asyncio"
