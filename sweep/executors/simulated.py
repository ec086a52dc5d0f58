"""Trials in virtual time: an instrument for schedulers, at any number of workers.

Objectives are ordinary functions that report through ``ctx``. Each runs in a worker thread that is held at
every report until virtual time has come there, one thread at a time, so that a run of a thousand workers is
exact, repeatable, and over in seconds. Schedulers, optimizers and the sweep cannot tell. What takes no time
(``ctx.save``, ``ctx.load``, logs) is done in the thread itself, unless an earlier report is still on its way.

The rejected ways: calling the objective to its end first and replaying its reports is not exact where what it does
depends on an answer, a checkpoint or a time; greenlets are no dependency of ours; generators only would make the
simulated objective another than the real one.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import math
import random
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from contextvars import copy_context
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeAlias, final

import anyio
from anyio.lowlevel import checkpoint

from sweep.clock import using_clock
from sweep.context import Context, Session
from sweep.errors import TrialFailed, TrialStopped
from sweep.executors.base import Capacity, Executor, Task
from sweep.executors.baton import Baton
from sweep.executors.coroutines import Coroutines
from sweep.executors.inbox import Inbox
from sweep.executors.timeline import Moment, Timeline
from sweep.process.child import decision_in
from sweep.threads import LoopThread, WorkerThreads, current_loop_thread
from sweep.trial import Decision

__all__ = ["Faults", "SimulatedExecutor"]

Cost: TypeAlias = Callable[[Mapping[str, Any], int], float]

_PATIENCE = 0.02
"""Real seconds for which the event loop waits for an objective that computes; then it goes on beside it."""
_NUMBERS = re.compile(r"\[(\d+)\]")
"""The numbers of trials in a path."""


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
        late: Probability that a report which needs no answer is long on its way, so that what the attempt says
            afterwards overtakes it; and that the last report of an attempt comes again after its end.
        double: Probability that a report is delivered twice.
        reordered: Probability that a report which needs no answer is delivered after the next message.

    Nothing of a living attempt is lost by this: what it says is put in order by an `Inbox`.

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
class _Message:
    """Something an objective says, with which its thread waits: its number, and what it makes the session do."""

    __slots__ = ("call", "seq", "step")

    def __init__(self, seq: int, call: Callable[[], Any], step: int | None) -> None:
        self.seq, self.call, self.step = seq, call, step  # a step: it is a report


@final
class _Attempt:
    """One task while it runs: its own random numbers, its thread, and where it stands in virtual time.

    All methods but `call` are called on the event loop's thread.
    """

    def __init__(self, owner: SimulatedExecutor, task: Task, session: Session, count: int) -> None:
        self.owner, self.task, self.session = owner, task, session
        facts = task.facts
        trial, path = facts.get("trial"), facts.get("path", "")
        where = (path, trial, facts.get("attempt", 1), facts.get("step", 0))
        # Of what happens at one moment the lower trial comes first, in whatever order the loop started its tasks.
        trials = tuple(map(int, _NUMBERS.findall(path))) or (count if trial is None else int(trial),)
        self.order = (*trials, count)
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
        self.inbox = Inbox()
        self.baton = Baton()
        self.replies: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
        self.stands = True  # its thread waits for a reply, before it begins and whenever it has said something
        self.active = True  # it holds the clock: its thread computes, or its task is about to go on
        self.moment: Moment | None = None  # when the message that the thread waits with comes, or it may go on
        self.waiting: _Message | None = None  # with which the thread waits, as long as it is not answered
        self.kept: _Message | None = None  # one that the next overtakes
        self.flying = 0  # how many are late
        self.landed: anyio.Event | None = None
        self.broken: BaseException | None = None  # raised by a message for whose answer nobody waits
        self.last: Callable[[], Any] | None = None

    async def work(self, threads: WorkerThreads) -> Any:
        """Run the task to its end in virtual time; all it has said has arrived by then."""
        value = None
        with self.scope:
            self._answer(None)
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
            finally:
                await self._all_arrived()
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
        thread.route = self.baton.post
        self.wait()
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
        return self.owner.coroutines.run(value, self.owner.backend) if inspect.isawaitable(value) else value

    def wait(self) -> Any:
        """Wait for a reply (in its thread)."""
        value, problem = self.replies.get()
        if problem is not None:
            raise problem
        return value

    def arrive(self, message: _Message) -> None:
        """Take what the thread says: a report comes when the steps since the last one have passed, all else now."""
        self.stands = True
        if self.over:
            self._go_on(None, TrialStopped())
            return
        at, failing = self.owner.clock.now(), None
        if message.step is not None:
            self.reports += 1
            steps = range(self.step + 1, message.step + 1) if message.step > self.step else [message.step]
            try:
                at, failing = self._plan(steps)
            except Exception as error:  # noqa: BLE001  # the user's cost function: raised where the trial reports
                self._answer(None, error)
                return
        self.waiting = message
        self._until(at, partial(self.context.run, self._come, message, failing))

    def fail(self, kind: str, why: str) -> None:
        """End the attempt as failed, wherever it is."""
        if self.failure is None and not self.over:
            self.failure = TrialFailed(why, kind=kind)
            self._wake()
            self.scope.cancel()

    def end(self) -> None:
        """The thread may say no more; the last report may come again."""
        self.over = True
        self._wake()
        self.waiting = None
        if self.stands:
            self._go_on(None, TrialStopped())
        self._take_kept()
        if self.last is not None and self.rng.random() < self.owner.faults.late:
            # Nobody keeps an inbox for a dead attempt: the sweep itself has to know that it is one.
            self.owner.clock.call_at(self.owner.clock.now() + self._delay(), partial(self.context.run, self.last))

    def _come(self, message: _Message, failing: str | None) -> None:
        """Deliver what the thread waits with, and let it go on with the answer."""
        self.moment, self.active = None, True
        if failing is not None:
            self._strike(failing)
            return
        if message.step is not None and self._strays(message.step):
            self._stray(message)
            self._answer(Decision.CONTINUE)
            return
        self._take(message)
        if message.step is not None:
            self.last = message.call
            if self.rng.random() < self.owner.faults.double:
                self._take(message)
        self._take_kept()
        if self.waiting is not None:  # for the answer to a message that waits for an earlier one
            self._rest()

    def _strays(self, step: int) -> bool:
        """Whether a report does not arrive at once. One that is answered does, and one that overtakes another."""
        self.step = max(self.step, step)
        answered = self.session.next_decision is None or step >= self.session.next_decision
        faults = self.owner.faults
        return not answered and self.kept is None and self.rng.random() < max(faults.late, faults.reordered)

    def _stray(self, message: _Message) -> None:
        """Let a report arrive after the next message, or later still."""
        faults = self.owner.faults
        if self.rng.random() * max(faults.late, faults.reordered) >= faults.late:
            self.kept = message
            return
        self.flying += 1
        at = self.owner.clock.now() + self._delay()
        self.owner.clock.call_at(at, partial(self.context.run, self._land, message), self.order, held=True)

    def _delay(self) -> float:
        return self.rng.expovariate(1.0) * max(1.0, self.owner.clock.now() - self.began)

    def _land(self, message: _Message) -> None:
        """Take a late report, and whatever has waited for it."""
        self.flying -= 1
        if self.over:
            message.call()
            self.owner.clock.rest()
            return
        self.active = True
        waited = self.waiting
        self._take(message)
        if self.landed is not None and not self.flying:
            self.landed.set()
        elif waited is None or self.waiting is waited:
            self._rest()

    def _take(self, message: _Message) -> None:
        self.inbox.take(message.seq, partial(self._perform, message))

    def _take_kept(self) -> None:
        if self.kept is not None:
            kept, self.kept = self.kept, None
            self._take(kept)

    def _perform(self, message: _Message) -> None:
        """Do what a message is for."""
        value, problem = None, None
        try:
            value = message.call()
        except BaseException as error:  # noqa: BLE001  # raised where the trial waits for the answer, or in its end
            problem = error
        if message is self.waiting:
            self._answer(value, problem)
        else:
            self.broken = self.broken or problem

    def _answer(self, value: Any, problem: BaseException | None = None) -> None:
        """Let the thread go on as soon as nobody else has anything to do: at most one computes at any moment."""
        self.waiting = None
        self._until(self.owner.clock.now(), partial(self._go_on, value, problem))

    def _go_on(self, value: Any, problem: BaseException | None = None) -> None:
        """Let the thread go on, and wait for what it says next."""
        self.moment, self.active, self.stands = None, True, False
        self.replies.put((value, problem))
        self.baton.wait(_PATIENCE)

    def _until(self, at: float, action: Callable[[], object]) -> None:
        """Wait until ``at``, for what makes the attempt active again."""
        self.moment = self.owner.clock.call_at(at, action, self.order, held=True)
        self._rest()

    async def _all_arrived(self) -> None:
        """Wait for what is still on its way: the end of an attempt comes after all it has said."""
        self._take_kept()
        if self.flying and self.failure is None:
            self.landed = anyio.Event()
            self._rest()
            try:
                await self.landed.wait()
            finally:
                self._wake()
        if self.broken is not None:
            raise self.broken

    async def _unreported(self) -> None:
        """Let the time of one step pass: the trial returned without a report."""
        at, failing = self._plan([self.step + 1])
        self._rest()
        try:
            await self.owner.clock.until(at, self.order)
        finally:
            self._wake()
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

    def _rest(self) -> None:
        """Wait for something on the timeline."""
        self.active = False
        self.owner.clock.rest()

    def _wake(self) -> None:
        """Be active again if waiting."""
        if self.moment is not None:
            self.moment.dead, self.moment = True, None
        if not self.active:
            self.active = True
            self.owner.clock.acquire()


@final
class _Wire:
    """The session an objective sees: what it says goes to the loop, where virtual time and order are known."""

    def __init__(self, attempt: _Attempt, thread: LoopThread) -> None:
        self._attempt, self._thread = attempt, thread
        self._said = itertools.count()

    @property
    def next_decision(self) -> int | None:
        return self._session().next_decision

    @next_decision.setter
    def next_decision(self, step: int | None) -> None:
        self._session().next_decision = step

    def report(self, step: int, metrics: Mapping[str, float]) -> Decision:
        decision: Decision = self._say(partial(self._session().report, step, metrics), step)
        return decision

    def save(self, value: Any) -> None:
        self._say(partial(self._session().save, value))

    def load(self) -> Any | None:
        self._attempt.step = max(self._attempt.step, int(self._attempt.task.facts.get("step", 0)))
        return self._say(self._session().load)

    def log(self, message: str) -> None:
        self._say(partial(self._session().log, message))

    def log_metric(self, name: str, value: float, step: int | None) -> None:
        self._say(partial(self._session().log_metric, name, value, step))

    def log_artifact(self, path: Path) -> None:
        self._say(partial(self._session().log_artifact, path))

    def _say(self, call: Callable[[], Any], step: int | None = None) -> Any:
        """Say something: a report waits until its time has come, all else only for a report that is on its way."""
        attempt = self._attempt
        if step is None and not attempt.flying and attempt.kept is None:
            return call()
        try:
            self._thread.route(self._thread.token, partial(attempt.arrive, _Message(next(self._said), call, step)))
        except CancelledError:  # the loop has ended
            raise TrialStopped from None
        return attempt.wait()

    def _session(self) -> Session:
        if self._attempt.over:
            raise TrialStopped  # ends the abandoned function as soon as it speaks
        return self._attempt.session


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

    Objectives run in threads, those declared ``async`` in an event loop that such a thread keeps; at most one
    computes at any moment, while nobody else has anything to do. The event loop waits for it, for a moment.

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

    in_process = True

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
        self.coroutines = Coroutines()

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
            self.coroutines.close()
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
            if self._threads is None:  # not opened: the threads have ended
                self.coroutines.close()

    def lose_host(self, host: int) -> None:
        """Lose a host (from 0): all that runs on it fails now, with ``kind="lost"``, one after the other."""
        now = self.clock.now()
        for attempt in self._running.values():
            if attempt.host == host:
                fail = partial(attempt.fail, "lost", f"simulated loss of host {host} at {now:g} s")
                self.clock.call_at(now, fail, attempt.order)
