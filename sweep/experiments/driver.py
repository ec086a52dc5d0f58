"""Drives a sweep: commits the machine's events, then performs its effects.

Reports come from any thread and are answered under one lock; strategies are called one at a
time by one task, ``suggest`` in a worker thread; each attempt is one task.
"""

from __future__ import annotations

import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager, nullcontext, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any, final

import anyio
import anyio.lowlevel
from anyio.lowlevel import EventLoopToken, current_token

from sweep.clock import current_clock
from sweep.errors import PlacementError, RunLocked, StoreError, StrategyError, TrialFailed, TrialPaused, TrialStopped
from sweep.executors.base import Executor, Task
from sweep.experiments import events as ev
from sweep.experiments.checkpoints import Checkpoints
from sweep.experiments.conductor import Conductor, Step
from sweep.experiments.eventlog import EventLog
from sweep.experiments.inrow import Turn, in_row, in_row_on_the_loop
from sweep.experiments.objective import FunctionObjective, Objective, PipelineObjective, Returned, as_numbers
from sweep.experiments.purse import Purse, carrying, current_purse
from sweep.experiments.restarts import PAUSED_WITHOUT_CHECKPOINT
from sweep.experiments.trialsession import TrialSession
from sweep.optimizers.base import Optimizer
from sweep.pipeline.runtime import ACTIVATION, Activation, Frame, Handle, Place, Root
from sweep.store.journal import Journal
from sweep.store.runs import segment
from sweep.threads import post
from sweep.tracker.stream import say
from sweep.trial import Resources, Status, Trial
from sweep.turns import holding

__all__ = ["Driver"]

_FLUSH = 0.5
"""Seconds after which reports are committed by themselves."""
_POLL = 1.0
"""Seconds between looks at what other processes ask for."""
_SLOTS: ContextVar[anyio.Semaphore | None] = ContextVar("sweep_slots", default=None)
"""What all sweeps of a tree share: as many trials at once as the outermost has workers."""
_TURNS = 16
"""Attempts that one task runs before others get their turn, where nothing in them waits."""


@final
@dataclass(slots=True)
class Driver:
    """One session of work on one sweep.

    Attributes:
        root: What the tree shares.
        handle: The sweep's own durable run.
        conductor: Machine and scheduler.
        optimizer: Set up and restored.
        objective: Checked against the space.
        executor: Where leaf functions run.
        resources: What a trial occupies unless the scheduler says otherwise.
        log: The sweep's events in the store.
        hooks: Global hooks in force.
        checkpoints: Which checkpoints are kept.
        turn: Held while the optimizer works: its strategies are called one at a time.
        repeats: Runs of each trial.
        workers: Attempts at once; of the outermost sweep of a tree, also how many all sweeps inside have together.
        purse: What it may spend.
        tells_pauses: Whether to say when a trial pauses that has saved no checkpoint.
        owner: The experiment in whose stage it runs, or None.
    """

    root: Root
    handle: Handle
    conductor: Conductor
    optimizer: Optimizer
    objective: Objective
    executor: Executor
    resources: Resources
    log: EventLog
    hooks: tuple[Mapping[str, Any], ...] = ()
    checkpoints: Checkpoints | None = None
    turn: threading.Lock = field(default_factory=threading.Lock)
    repeats: int = 1
    workers: int = 1
    purse: Purse = field(default_factory=lambda: Purse(""))
    owner: Any = None
    tells_pauses: bool = True
    mutex: Any = field(default_factory=threading.RLock)
    _effects: deque[Any] = field(default_factory=deque)
    _calls: deque[Any] = field(default_factory=deque)
    _scopes: dict[tuple[int, int], anyio.CancelScope] = field(default_factory=dict)
    _wake: anyio.Event = field(default_factory=anyio.Event)
    _strategy: anyio.Event = field(default_factory=anyio.Event)
    _token: EventLoopToken | None = None
    _thread: int = 0
    _cheap: bool = False
    _in_rows: bool = False
    _finish: ev.Finish | None = None
    _flushed: float = 0.0
    _failure: BaseException | None = None
    _slots: Any = None
    _seen: tuple[float, float] = (0.0, 0.0)
    _counted: float = 0.0

    # ------------------------------------------------------------ the loop

    async def run(self) -> ev.Finish:
        """Work until the sweep is over; returns how it ended.

        Raises:
            StrategyError: A strategy broke its protocol.
            StoreError: The store cannot be written.
        """
        self._token, self._thread = current_token(), threading.get_ident()
        self._cheap = bool(getattr(self.optimizer, "cheap", False))
        self._in_rows = self._cheap and self._is_short()
        outside = current_clock()
        standing = self.conductor.machine.standing
        self._seen = (standing.cost, standing.resource)
        self._slots = _SLOTS.get() or anyio.Semaphore(self.workers, fast_acquire=True)
        token = _SLOTS.set(self._slots)
        try:
            async with self.executor.open(self.objective.functions()), anyio.create_task_group() as tasks:
                self._flushed = current_clock().now()
                tasks.start_soon(self._strategist)
                tasks.start_soon(self._ticker, current_clock() is outside)
                self._guarded(self.conductor.wake)
                await self._perform(tasks)
                tasks.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            self._failure = self._failure or _alone(group)
        finally:
            _SLOTS.reset(token)
            with self.mutex:
                self._interrupt_rest()
        if self._failure is not None:
            raise self._failure
        if self._finish is None:
            raise StrategyError("the sweep ended without a reason")
        return self._finish

    def _is_short(self) -> bool:
        """Whether a call may go on with the next trial by itself: one at a time, nothing to say on the way."""
        objective = self.objective
        alone = self.workers == self.repeats == 1 and self.executor.in_process and self.resources.time_limit is None
        if not alone or not isinstance(objective, FunctionObjective) or objective.context_name is not None:
            return False
        return not objective.signature.is_generator

    async def _perform(self, tasks: Any) -> None:
        while self._finish is None:
            if not self._effects and self._failure is None:
                await self._wake.wait()
            self._wake = anyio.Event()
            if self._failure is not None:
                return
            while self._effects:
                effect = self._effects.popleft()
                if isinstance(effect, ev.Start):
                    tasks.start_soon(self._attempt, effect)
                elif isinstance(effect, ev.Cancel):
                    scope = self._scopes.get((effect.number, effect.run))
                    if scope is not None:
                        scope.cancel()
                elif isinstance(effect, ev.Finish):
                    self._finish = effect
                else:
                    self._calls.append(effect)
                    self._strategy.set()

    def submit(self, call: Callable[..., Step], *args: Any) -> Step:
        """Let the conductor take something, commit what came of it, and hand its effects on."""
        with self.mutex:
            try:
                step = self._taken(call, *args)
                if step.effects:
                    self._hand_on(step.effects)
            except Exception as error:
                self._fail(error)  # a strategy or the store is broken: no fault of the attempt that came upon it
                raise
        return step

    def _taken(self, call: Callable[..., Step], *args: Any) -> Step:
        """Let the conductor take something, and a cheap optimizer what follows for it; commit it all at once.

        A cheap optimizer lives in memory alone, so that nothing outside it precedes the commit; and as only it is
        called here, always under the mutex, on any thread, its calls never wait for one another.
        """
        step = call(*args)
        try:
            if self._cheap and step.effects:
                step.effects = self._answered(step)
        finally:
            if step.events:
                self._commit(step.events)
        return step

    def _answered(self, step: Step) -> list[Any]:
        """Perform a cheap optimizer's calls; add the events that follow to the step, and return the other effects."""
        others: list[Any] = []
        effects = deque(step.effects)
        while effects:
            effect = effects.popleft()
            if isinstance(effect, ev.Observe):
                self._observe(effect)
            elif isinstance(effect, ev.Ask):
                with _told_where(self.optimizer, "suggest"):
                    trials = self.optimizer.suggest(effect.n)
                more = self.conductor.suggested(effect, trials)
                step.events += more.events
                effects += more.effects
            else:
                others.append(effect)
        return others

    def _commit(self, events: Sequence[ev.Event]) -> None:
        clock = current_clock()
        self.log.write(list(events), self.conductor.machine.trials, clock.wall())
        self._retain(events)
        decisive = any(not isinstance(event, ev.Reported) or event.decision != "continue" for event in events)
        if decisive or clock.now() - self._flushed > _FLUSH:
            self.handle.store.commit()
            self._flushed = clock.now()
        self._spend()
        if self.root.stream:
            self._announce(events)

    def _spend(self) -> None:
        """Count what these trials have cost, here and in the runs above."""
        standing = self.conductor.machine.standing
        cost, resource = standing.cost - self._seen[0] - self._counted, standing.resource - self._seen[1]
        self._seen, self._counted = (standing.cost, standing.resource), 0.0
        if cost or resource:
            self.purse.spend(cost=cost, resource=resource)

    def stop(self, why: str) -> None:
        """Wind down: a run above has nothing left to spend. May be called on any thread."""
        if self._token is not None and self._finish is None:
            with suppress(CancelledError):
                post(self._token, lambda: self._guarded(self.conductor.submit, ev.StopRequested(spent=why)))

    def _retain(self, events: Sequence[ev.Event]) -> None:
        """Drop checkpoints that these events have made useless."""
        if self.checkpoints is None:
            return
        for event in events:
            if isinstance(event, ev.Saved):
                self.checkpoints.update(event.number, event.run)
            elif isinstance(event, ev.Exploited):
                self.checkpoints.update(event.new.number)
            elif isinstance(event, ev.Ended) and self.conductor.machine.trials[event.number].status.ended:
                self.checkpoints.ended(self.conductor.machine.trials[event.number])

    def _guarded(self, call: Callable[..., Step], *args: Any) -> None:
        """Submit; what goes wrong ends the sweep, and is raised by ``run`` as itself."""
        with suppress(Exception):  # raised by ``run``, outside of the task group
            self.submit(call, *args)

    def _fail(self, error: BaseException) -> None:
        self._failure = self._failure or error
        self._hand_on(())

    def _hand_on(self, effects: Iterable[Any]) -> None:
        if threading.get_ident() == self._thread:
            self._effects.extend(effects)
            self._wake.set()
        elif self._token is not None:
            self._effects.extend(effects)
            with suppress(CancelledError):  # the loop has ended: an abandoned thread came too late
                post(self._token, lambda: self._wake.set())

    def _interrupt_rest(self) -> None:
        """Note that attempts were cut off, so that nothing stays running in the store."""
        machine = self.conductor.machine
        running, wall = machine.running, current_clock().wall()
        machine.apply(())  # from here on nothing is due
        with suppress(StoreError, RunLocked):  # what could not be written stays queued, and closing the run says so
            for number, attempt, run in running:
                self.submit(self.conductor.ended, ev.Ended(number, attempt, "interrupted", wall=wall, run=run))
            self.handle.store.commit()

    async def _ticker(self, flushes: bool) -> None:
        """Count seconds of work where the budget limits them, flush reports, look for requests of other processes.

        Trials that live in a time of their own (simulated ones) are flushed in that time alone, by what happens:
        a flush by the time outside would make each simulation another.
        """
        clock = current_clock()
        last = clock.now()
        while True:
            if self.conductor.machine.budget.seconds is None:
                await anyio.sleep(_POLL)  # requests come in real time, whatever clock the trials run on
            else:
                await clock.sleep(min(_POLL, max(0.01, self.conductor.machine.seconds_left)))
                self._guarded(self.conductor.submit, ev.Ticked(clock.now() - last))
            last = clock.now()
            self._requests()
            with self.mutex:
                if flushes and last - self._flushed > _FLUSH:
                    self.handle.store.commit()
                    self._flushed = last

    def _requests(self) -> None:
        """Take up what ``sweep stop`` asked for from another terminal."""
        query = "SELECT name, value FROM tag WHERE run_id=? AND name LIKE 'request:%'"
        for name, value in self.handle.store.rows(query, (self.handle.run_id,)):
            self.handle.store.add("DELETE FROM tag WHERE run_id=? AND name=?", (self.handle.run_id, name))
            number = int(value) if value else None
            self._guarded(self.conductor.submit, ev.StopRequested(number))

    # ------------------------------------------------------------ strategies

    async def _strategist(self) -> None:
        """Call the optimizer, one call at a time, in the order of the effects."""
        while True:
            if not self._calls:
                await self._strategy.wait()
            self._strategy = anyio.Event()
            while self._calls:
                effect = self._calls.popleft()
                try:
                    if isinstance(effect, ev.Observe):
                        self._observe(effect)
                    elif isinstance(effect, ev.Ask):
                        await self._suggest(effect)
                except Exception as error:  # noqa: BLE001  # raised by ``run``, outside of the task group
                    self._fail(error)
                    return

    def _observe(self, effect: ev.Observe) -> None:
        with self.turn, _told_where(self.optimizer, "observe"):
            self.optimizer.observe(effect.trial, effect.result)

    async def _suggest(self, ask: ev.Ask) -> None:
        hold = getattr(self.executor, "hold", nullcontext)  # virtual time stands still while a model thinks
        with hold(), _told_where(self.optimizer, "suggest"):
            trials = await self.root.threads.run(self._in_turn, ask.n)
        self.submit(self.conductor.suggested, ask, trials)

    def _in_turn(self, n: int) -> list[Trial]:
        """Ask the optimizer, while a scheduler that ranks by its model has to wait."""
        with self.turn:
            return self.optimizer.suggest(n)

    # ------------------------------------------------------------ attempts

    async def _attempt(self, start: ev.Start) -> None:
        """Run an attempt to its end, and then whichever is to start next: a task for each would cost more."""
        turn = 0
        while True:
            await self._one_attempt(start)
            turn += 1
            if self._in_rows or turn % _TURNS == 0:
                await anyio.lowlevel.checkpoint()
            if not self._effects or not isinstance(self._effects[0], ev.Start) or self._failure is not None:
                return
            start = self._effects.popleft()

    async def _one_attempt(self, start: ev.Start) -> None:
        clock = current_clock()
        kind: ev.Kind = "completed"
        value: Any = None
        error: str | None = None
        with anyio.CancelScope() as scope:
            turn = Turn(start, self._purse_of(start), scope, clock.now())
            self._scopes[start.trial.number, start.run] = scope
            try:
                async with holding(lambda: self._slots):
                    turn.began = clock.now()
                    with carrying(turn.purse):
                        value = await self._call(start, turn)
            except TrialStopped:
                kind = "stopped"
            except TrialPaused:
                kind = "paused"
                self._notice_pause(turn.start or start)
            except PlacementError as refusal:  # asked for by the user or the scheduler: no trial could run
                self._fail(refusal)
            except Exception as failure:  # noqa: BLE001  # a trial's failure is a result, kept with its traceback
                kind, error = self._failed(turn.start or start, failure)
            except BaseExceptionGroup as group:
                kind = _told(group)
            finally:
                with self.mutex:
                    turn.over = True
        if scope.cancelled_caught:
            kind = "stopped"
        if turn.start is None:
            return
        del self._scopes[turn.start.trial.number, turn.start.run]
        if self._failure is not None:  # the sweep is ending: this attempt was cut by that
            return
        plain, problem = as_numbers(value)
        if problem is not None and kind == "completed":
            kind, error = "failed", problem
        self._guarded(self.conductor.ended, self._end(turn.start, turn, kind, plain, error))

    def _notice_pause(self, start: ev.Start) -> None:
        """Say once that a function which saves no checkpoint begins anew after a pause."""
        if not self.tells_pauses or not isinstance(self.objective, FunctionObjective):
            return
        if self.conductor.machine.checkpoint(start.trial.number, start.run) is None:
            self.tells_pauses = False
            say(PAUSED_WITHOUT_CHECKPOINT)

    def _purse_of(self, start: ev.Start) -> Purse:
        return Purse(start.trial.path, parent=self.purse, private=True)

    def _end(self, start: ev.Start, turn: Turn, kind: ev.Kind, value: Any, error: str | None = None) -> ev.Ended:
        """Return the end of an attempt; its cost is what the sweeps inside it spent, else the seconds worked on it."""
        clock, cost = current_clock(), turn.purse.cost
        if cost:
            cost = self._counted = cost - self.conductor.machine.charged(start.trial.number, start.run)
        else:
            cost = clock.now() - turn.began
        return ev.Ended(start.trial.number, start.attempt, kind, value, error, cost, clock.wall(), start.run)

    def _follow(self, turn: Turn, value: Any) -> bool:
        """Submit what an attempt came to, where it ran, and go on with the next if it may follow at once."""
        plain, problem = as_numbers(value)
        with self.mutex:
            start = turn.start
            if turn.over or start is None or problem is not None or self._failure is not None:
                return False
            ended = self._end(start, turn, "completed", plain)
            del self._scopes[start.trial.number, start.run]
            turn.start = None
            try:
                effects = deque(self._taken(self.conductor.ended, ended).effects)
                if effects and isinstance(effects[0], ev.Start) and self._may_follow(effects[0]):
                    self._go_on(turn, effects[0])
                    effects.popleft()
                if effects:
                    self._hand_on(effects)
            except Exception as error:  # noqa: BLE001  # raised by ``run``
                self._fail(error)
            return turn.start is not None

    def _may_follow(self, start: ev.Start) -> bool:
        wanted = self.conductor.scheduler.allocate_resources(start.trial) or self.resources
        return start.attempt == 1 and wanted == self.resources and not self._effects

    def _go_on(self, turn: Turn, start: ev.Start) -> None:
        """Put the next attempt in the place of the one that has ended."""
        turn.start, turn.purse, turn.began = start, self._purse_of(start), current_clock().now()
        self._scopes[start.trial.number, start.run] = turn.scope
        act, _ = self._activation(start, self.resources)
        ACTIVATION.set(act)
        if turn.task is not None:
            turn.task.facts = act.frame.facts

    async def _call(self, start: ev.Start, turn: Turn) -> Any:
        trial, objective = start.trial, self.objective
        resources = self.conductor.scheduler.allocate_resources(trial) or self.resources
        act, session = self._activation(start, resources)
        frame = act.frame
        self._recall(start, act)
        token = ACTIVATION.set(act)  # runs that the objective starts here are children of the trial
        try:
            if not isinstance(objective, FunctionObjective):
                return self._value(await objective.orchestrate(trial.params, act))
            if self._in_rows and resources == self.resources:
                row = in_row_on_the_loop if objective.signature.is_async else in_row
                call = partial(row, turn, objective, self._follow)
                turn.task = task = Task(call, {}, None, resources, frame.facts)
            else:
                kwargs, function = objective.kwargs(trial.params), objective.callable
                directory = self.handle.store.run_directory(frame.facts["run_id"])
                task = Task(function, kwargs, objective.context_name, resources, frame.facts, directory, directory)
            return await self.executor.run(task, session)
        finally:
            ACTIVATION.reset(token)

    def _activation(self, start: ev.Start, resources: Resources) -> tuple[Activation, TrialSession]:
        """Return what surrounds an attempt, and its wire into the sweep."""
        trial, objective = start.trial, self.objective
        row = self.log.ids[trial.number]
        session = TrialSession(self, start, row)
        path = f"{trial.path}/run[{start.run}]" if self.repeats > 1 else trial.path
        facts = {
            "run_id": row, "path": path, "trial": trial.number, "attempt": start.attempt,
            "step": start.step, "seed": start.seed,
        }  # fmt: skip
        leaf = isinstance(objective, FunctionObjective)
        here = leaf or (self.executor.in_process and not isinstance(objective, PipelineObjective))
        handle = self._trial_handle(trial, row, fresh=leaf or (start.attempt == 1 and start.step == 0))
        place = None if here else self._placing(session, resources, facts)
        frame = Frame(self.root, handle, trial.path, self.hooks, self.owner, session, place, facts=facts)
        act = Activation(frame, None, f"run[{start.run}]" if self.repeats > 1 else "", None)
        act.attempt = start.attempt
        return act, session

    def _recall(self, start: ev.Start, act: Activation) -> None:
        """Count what sweeps inside this trial's repeat spent in earlier attempts."""
        purse, store, row = current_purse(), self.handle.store, act.frame.facts["run_id"]
        if start.attempt == 1 or purse is None:
            return
        if store.row("SELECT 1 FROM run WHERE parent_id=? LIMIT 1", (row,)) is not None:
            purse.recall(store, row, act.key)

    def _value(self, returned: Returned) -> Any:
        """Return the number that a pipeline or experiment gives, or all its numbers where a metric is named."""
        named = any(objective.metric is not None for objective in self.conductor.machine.standing.objectives)
        if returned.value is not None and not named:
            return returned.value
        return returned.numbers or returned.value

    def _trial_handle(self, trial: Trial, row: int, *, fresh: bool) -> Handle:
        journal = Journal(self.handle.store, row, self.handle.root_id, fresh=fresh)
        path = f"{self.handle.path}/{segment('trial', 'trial', trial.number)}"
        return Handle(
            self.handle.store, row, self.handle.root_id, path, journal, not fresh, self.handle.redo, trial.seed
        )

    def _placing(self, session: TrialSession, resources: Resources, facts: Mapping[str, Any]) -> Place:
        directory = self.handle.store.run_directory(facts["run_id"])

        async def place(
            act: Activation, function: Callable[..., Any], kwargs: Mapping[str, Any], context: str | None
        ) -> Any:
            wanted = act.step.hooks.get("resources") or resources
            own = {**facts, "path": act.path, "attempt": act.attempt}
            task = Task(function, kwargs, context, wanted, own, directory, directory)
            return await self.executor.run(task, session)

        return Place(place, apart=not self.executor.in_process)

    def _failed(self, start: ev.Start, failure: Exception) -> tuple[ev.Kind, str]:
        """Keep the traceback with the trial; return how it counts and one line."""
        kind: ev.Kind = "failed"
        text = "".join(traceback.format_exception(failure))
        line = "".join(traceback.format_exception_only(failure)).strip()
        if isinstance(failure, TrialFailed):
            kind, text, line = _KINDS.get(failure.kind, kind), failure.traceback or text, str(failure)
        directory = self.handle.store.run_directory(self.log.ids[start.trial.number])
        directory.mkdir(parents=True, exist_ok=True)
        with (directory / "error.log").open("a", encoding="utf-8") as file:
            file.write(f"--- attempt {start.attempt}\n{text}\n")
        return kind, line.splitlines()[0][:500] if line else type(failure).__name__

    # ------------------------------------------------------------ events for people

    def _announce(self, events: Sequence[ev.Event]) -> None:
        """Tell the sinks."""
        for event in events:
            number = getattr(event, "number", None)
            trial = self.conductor.machine.trials[number] if number is not None else None
            kind = _EVENTS.get(type(event))
            if kind is not None:
                self.root.stream.emit(
                    kind, self.handle.run_id, self.handle.path, trial=trial, event=event, standing=self._standing
                )

    def _standing(self) -> dict[str, Any]:
        """Return where the sweep stands, for sinks that ask."""
        machine = self.conductor.machine
        standing, best = machine.standing, machine.standing.best
        open_ = standing.counts[Status.PENDING] + standing.counts[Status.RUNNING]
        return {
            "done": len(standing.trials) - open_, "total": machine.budget.trials,
            "counts": {str(status): count for status, count in standing.counts.items() if count},
            "best": None if best is None else best.score, "best_trial": None if best is None else best.number,
        }  # fmt: skip


_KINDS: dict[str, ev.Kind] = {"timeout": "timeout", "lost": "lost"}
_EVENTS: dict[type, str] = {
    ev.Suggested: "trial.suggested", ev.Started: "trial.started", ev.Reported: "trial.reported",
    ev.Saved: "trial.saved", ev.Promoted: "trial.promoted",
    ev.Exploited: "trial.exploited", ev.Ended: "trial.ended",
}  # fmt: skip


@contextmanager
def _told_where(optimizer: Optimizer, method: str) -> Iterator[None]:
    """Say whose fault it is when an optimizer raises."""
    try:
        yield
    except Exception as error:
        error.add_note(f"in {method}() of the optimizer {type(optimizer).__name__}")
        raise


def _alone(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the one failure that a group holds, or the group where there are several."""
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup) and len(found.exceptions) == 1:
        found = found.exceptions[0]
    return found


def _told(group: BaseExceptionGroup[BaseException]) -> ev.Kind:
    """Return what an exception group says where a trial was told to stop inside a task group of its own."""
    if group.subgroup(TrialPaused) is not None:
        return "paused"
    if group.subgroup(TrialStopped) is not None:
        return "stopped"
    raise group
