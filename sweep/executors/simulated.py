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
from contextvars import copy_context
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeAlias, final

import anyio
from anyio.lowlevel import checkpoint, current_token

from sweep.clock import using_clock
from sweep.context import Context, Session
from sweep.errors import TrialFailed, TrialStopped
from sweep.executors.base import Capacity, Executor, Task
from sweep.process.child import decision_in
from sweep.threads import LoopThread, WorkerThreads, current_loop_thread, post
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
class _Moment:
    """A moment on the timeline, and what is to happen then."""

    __slots__ = ("action", "dead", "held")

    def __init__(self, action: Callable[[], object], held: bool) -> None:
        self.action, self.held, self.dead = action, held, False


@final
class Timeline:
    """A clock whose time goes on only when nothing is left to do: to the next moment anyone waits for.

    Whoever is active without waiting here says so by `hold`. When nobody holds, the event loop is given some more
    turns, in case a task is about to start something; then the earliest moment comes.
    """

    def __init__(self) -> None:
        self._now = 0.0
        self._heap: list[tuple[float, tuple[int, ...], int, _Moment]] = []
        self._count = itertools.count()
        self._holds = self._news = self._rounds = 0
        self._mark = self._quiet = -1  # the news when rounds began; after which nobody had anything to do
        self._stirred = self._pumping = False  # somebody was woken who does not hold; the loop will call back
        self._loop: Any = None
        self.settled: Callable[[], bool] = lambda: False  # whether nobody could start anything, unless woken

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
        self.bind()
        with anyio.CancelScope() as scope:
            moment = self.call_at(self._now + max(0.0, seconds), scope.cancel)
            try:
                yield scope
            finally:
                moment.dead = True

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
        self.rest()

    def rest(self) -> None:
        """Be active no more, having done nothing that others could act on."""
        self._holds -= 1
        self._kick()

    def call_at(
        self, at: float, action: Callable[[], object], order: tuple[int, ...] = (), *, held: bool = False
    ) -> _Moment:
        """Call ``action`` on the event loop when time has come to ``at``.

        Args:
            at: Virtual time.
            action: What is called; it must not raise.
            order: What decides between equal moments: the lower comes first.
            held: Whether it makes somebody active, who will say when that is over.
        """
        if self._loop is None:
            self.bind()
        moment = _Moment(action, held)
        heapq.heappush(self._heap, (at, order, next(self._count), moment))
        self._kick()
        return moment

    async def until(self, at: float, order: tuple[int, ...] = ()) -> None:
        """Wait until ``at``; see `call_at`."""
        self.bind()
        event = anyio.Event()
        moment = self.call_at(at, event.set, order)
        try:
            await event.wait()
        finally:
            moment.dead = True

    def bind(self) -> None:
        """Live in the event loop that runs here; a new one knows nothing of what the last was asked to call."""
        loop = current_token().native_token
        if loop is not self._loop:
            self._loop, self._pumping = loop, False

    def forget(self) -> None:
        """Drop whatever was to come."""
        self._heap.clear()

    def _kick(self) -> None:
        if self._heap and not self._holds and not self._pumping:
            self._pumping = True
            self._soon()

    def _soon(self) -> None:
        """Have `_pump` called in the loop's next turn."""
        soon = self._loop.call_soon if hasattr(self._loop, "call_soon") else self._loop.run_sync_soon
        try:
            soon(self._pump)
        except RuntimeError:  # the loop has ended (trio's RunFinishedError is one too): nobody waits any more
            self._pumping = False

    def _pump(self) -> None:
        """Let the next moment come if it is time for it, else wait for another turn of the loop."""
        if self._holds or not self._heap:
            self._pumping = False
            return
        if self._mark != self._news:
            self._mark, self._rounds = self._news, 0
        if self._rounds >= _ROUNDS:
            self._quiet, self._stirred = self._news, False
        if self._quiet == self._news or (self.settled() and not self._stirred):
            self._fire()
        else:
            self._rounds += 1
        self._soon()

    def _fire(self) -> None:
        """Go on to the earliest moment."""
        while self._heap:
            at, _, _, moment = heapq.heappop(self._heap)
            if moment.dead:
                continue
            self._now = max(self._now, at)
            if moment.held:
                self._holds += 1  # no news: an attempt that goes on to its next step makes nobody start anything
            else:
                self._news += 1
                self._stirred = True
            moment.dead = True
            moment.action()
            return


@final
class _Attempt:
    """One task while it runs: its own random numbers, its thread, and where it stands in virtual time.

    All methods but `call` are called on the event loop's thread.
    """

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
        self.context = copy_context()
        self.moment: _Moment | None = None  # when the report that the thread waits with comes
        self.reply: SimpleQueue[Decision | BaseException] | None = None
        self.kept: tuple[int, Mapping[str, float]] | None = None  # a report that comes after the next
        self.last: tuple[int, Mapping[str, float]] | None = None

    async def work(self, threads: WorkerThreads) -> Any:
        """Run the task to its end in virtual time."""
        value = None
        with self.scope:
            try:
                value = await threads.run(self.call)
            except SystemExit as error:
                code = error.code if isinstance(error.code, int) else int(error.code is not None)
                raise TrialFailed(f"the trial called sys.exit({error.code!r})", exit_code=code) from error
            except BaseExceptionGroup as group:
                decision = decision_in(group)
                if decision is not None:
                    raise decision from group
                raise
            if not self.reports:
                await self._unreported()
        if self.failure is not None:
            raise self.failure
        return value

    def call(self) -> Any:
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

    def arrive(self, step: int, metrics: Mapping[str, float], reply: SimpleQueue[Decision | BaseException]) -> None:
        """Take a report from the thread: it comes when the steps since the last one have passed."""
        if self.over:
            reply.put(TrialStopped())
            return
        self.reports += 1
        try:
            at, failing = self._plan(range(self.step + 1, step + 1) if step > self.step else [step])
        except Exception as error:  # noqa: BLE001  # the user's cost function: raised where the trial reports
            reply.put(error)
            return
        self.reply = reply
        come = partial(self.context.run, self._come, step, metrics, failing)
        self.moment = self.owner.clock.call_at(at, come, self.order, held=True)
        self.owner.clock.rest()

    def fail(self, kind: str, why: str) -> None:
        """End the attempt as failed, wherever it is."""
        if self.failure is None and not self.over:
            self.failure = TrialFailed(why, kind=kind)
            self._wake()
            self.scope.cancel()

    def end(self) -> None:
        """Deliver what is still on its way; the last report may come again. The thread may say no more."""
        self.over = True
        self._wake()
        if self.reply is not None:
            self.reply.put(TrialStopped())
        self._deliver_kept()
        if self.last is not None and self.rng.random() < self.owner.faults.late:
            delay = self.rng.expovariate(1.0) * max(1.0, self.owner.clock.now() - self.began)
            again = partial(self.context.run, self.session.report, *self.last)
            self.owner.clock.call_at(self.owner.clock.now() + delay, again)

    def _come(self, step: int, metrics: Mapping[str, float], failing: str | None) -> None:
        """Deliver the report that the thread waits with, and let it go on with the answer."""
        self.moment = None
        if failing is not None:
            self._strike(failing)
            return
        answer: Decision | BaseException
        try:
            answer = self._deliver(step, metrics)
        except BaseException as error:  # noqa: BLE001  # raised where the trial reports
            answer = error
        if self.reply is not None:
            self.reply.put(answer)
            self.reply = None

    def _deliver(self, step: int, metrics: Mapping[str, float]) -> Decision:
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

    def _deliver_kept(self) -> None:
        if self.kept is not None:
            kept, self.kept = self.kept, None
            self.session.report(*kept)

    async def _unreported(self) -> None:
        """Let the time of one step pass: the trial returned without a report."""
        at, failing = self._plan([self.step + 1])
        self.owner.clock.rest()
        try:
            await self.owner.clock.until(at, self.order)
        finally:
            self.owner.clock.acquire()
        if failing is not None:
            self._strike(failing)
            await checkpoint()  # ends here

    def _plan(self, steps: Sequence[int]) -> tuple[float, str | None]:
        """Return when ``steps`` will have passed, or how and when they fail."""
        at, faults = self.owner.clock.now(), self.owner.faults
        limit = self.task.resources.time_limit
        deadline = math.inf if limit is None else self.began + limit
        failing = None
        for step in steps:
            seconds = self._seconds(step)
            hurt = self.rng.random()
            if hurt < faults.failures + faults.losses:
                at += seconds * self.rng.random()
                failing = "error" if hurt < faults.failures else "lost"
                break
            at += seconds
        return (at, failing) if at <= deadline else (deadline, "timeout")

    def _seconds(self, step: int) -> float:
        cost = self.owner.cost(self.task.kwargs, step)
        if not 0 <= cost < math.inf:
            raise ValueError(f"SimulatedExecutor(cost=…) returned {cost!r} for step {step}: expected seconds >= 0")
        jitter = self.owner.faults.jitter
        return cost * self.pace * (math.exp(self.rng.gauss(0.0, jitter)) if jitter else 1.0)

    def _strike(self, kind: str) -> None:
        if kind == "lost":
            self.fail(kind, f"simulated loss of host {self.host} at {self.owner.clock.now():g} s")
            self.owner.lose_host(self.host)
        elif kind == "timeout":
            self.fail(kind, f"the trial overran its time limit of {self.task.resources.time_limit:g} s")
        else:
            self.fail(kind, f"simulated failure at {self.owner.clock.now():g} s")

    def _wake(self) -> None:
        """Be active again if waiting."""
        if self.moment is not None:
            self.moment.dead, self.moment = True, None
            self.owner.clock.acquire()


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
        reply: SimpleQueue[Decision | BaseException] = SimpleQueue()
        try:
            post(self._thread.token, partial(self._attempt.arrive, step, metrics, reply))
        except CancelledError:  # the loop has ended
            raise TrialStopped from None
        answer = reply.get()
        if isinstance(answer, BaseException):
            raise answer
        return answer

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


async def _finish(value: Awaitable[Any]) -> Any:
    return await value


def _backend() -> str:
    """Return the name of the event loop that runs here, as anyio calls it."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return "trio"
    return "asyncio"


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
        self.clock.bind()
        self._threads = WorkerThreads()
        try:
            with using_clock(self.clock):
                yield
        finally:
            self._threads.close()
            self._threads = None
            self.clock.forget()  # messages still on their way have nobody to go to

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
        self.clock.bind()
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
        """Lose a host (from 0): all that runs on it fails now, with ``kind="lost"``, one after the other."""
        now = self.clock.now()
        for attempt in self._running.values():
            if attempt.host == host:
                fail = partial(attempt.fail, "lost", f"simulated loss of host {host} at {now:g} s")
                self.clock.call_at(now, fail, attempt.order)
