"""Drives a sweep: commits the machine's events, then performs its effects.

Whatever happens comes in through :meth:`Driver.submit`, from any thread, under one lock: the machine folds it, what
came of it is committed, and its effects are handed to the loop. The optimizer's are performed by the
:class:`~sweep.experiments.lane.Lane`, starts by the :class:`~sweep.experiments.attempts.Attempts`.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import CancelledError
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, final

import anyio
from anyio.lowlevel import EventLoopToken, current_token

from sweep.clock import current_clock
from sweep.errors import RunLocked, StoreError, StrategyError
from sweep.executors.base import Executor
from sweep.experiments import events as ev
from sweep.experiments.attempts import Attempts
from sweep.experiments.checkpoints import Checkpoints
from sweep.experiments.conductor import Conductor, Step
from sweep.experiments.eventlog import EventLog
from sweep.experiments.lane import Lane
from sweep.experiments.purse import Purse
from sweep.pipeline.runtime import Handle, Root
from sweep.threads import post

__all__ = ["Driver"]

_FLUSH = 0.5
"""Seconds after which reports are committed by themselves."""
_POLL = 1.0
"""Seconds between looks at what other processes ask for."""


@final
@dataclass(slots=True)
class Driver:
    """One session of work on one sweep.

    Attributes:
        root: What the tree shares.
        handle: The sweep's own durable run.
        conductor: Machine and scheduler, replayed.
        lane: The optimizer, restored.
        log: The sweep's events in the store.
        executor: Where leaf functions run.
        workers: Attempts at once; of the outermost sweep of a tree, also how many all sweeps inside have together.
        checkpoints: Which checkpoints are kept.
        purse: What it may spend.
        mutex: Held while an event is taken and committed.
        failure: What ends the sweep by an error.
    """

    root: Root
    handle: Handle
    conductor: Conductor
    lane: Lane
    log: EventLog
    executor: Executor
    workers: int
    checkpoints: Checkpoints
    purse: Purse = field(default_factory=lambda: Purse(""))
    mutex: Any = field(default_factory=threading.RLock)
    failure: BaseException | None = None
    _effects: deque[Any] = field(default_factory=deque)
    _wake: anyio.Event = field(default_factory=anyio.Event)
    _token: EventLoopToken | None = None
    _thread: int = 0
    _finish: ev.Finish | None = None
    _flushed: float = 0.0
    _seen: tuple[float, float] = (0.0, 0.0)
    _counted: float = 0.0

    async def run(self, attempts: Attempts) -> ev.Finish:
        """Work until the sweep is over; returns how it ended.

        Args:
            attempts: Runs what is to start; this driver is its desk.

        Raises:
            StrategyError: A strategy broke its protocol.
            StoreError: The store cannot be written.
        """
        self._token, self._thread = current_token(), threading.get_ident()
        outside = current_clock()
        standing = self.conductor.machine.standing
        self._seen = (standing.cost, standing.resource)
        try:
            with attempts.slots():
                async with self.executor.open(attempts.objective.functions()), anyio.create_task_group() as tasks:
                    self._flushed = current_clock().now()
                    tasks.start_soon(self._strategist)
                    tasks.start_soon(self._ticker, current_clock() is outside)
                    self._guarded(self.conductor.wake)
                    await self._perform(attempts, tasks)
                    tasks.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            self.failure = self.failure or _alone(group)
        finally:
            with self.mutex:
                self._interrupt_rest()
        if self.failure is not None:
            raise self.failure
        if self._finish is None:
            raise StrategyError("the sweep ended without a reason")
        return self._finish

    # ------------------------------------------------------------ events

    def submit(self, call: Callable[..., Step], *args: Any) -> Step:
        """Let the conductor take something, commit what came of it, and hand its effects on."""
        with self.mutex:
            try:
                step = self._taken(call, *args)
                if step.effects:
                    self._hand_on(step.effects)
            except Exception as error:
                self.fail(error)  # a strategy or the store is broken: no fault of the attempt that came upon it
                raise
        return step

    def ended(self, event: ev.Ended, counted: float) -> None:
        """Submit the end of an attempt.

        Args:
            event: The end.
            counted: What of its cost the sweeps inside it have spent, here and in the runs above.
        """
        with self.mutex:
            self._counted = counted
            self._guarded(self.conductor.ended, event)
            self._counted = 0.0

    def ended_in_row(self, event: ev.Ended, counted: float, take: Callable[[ev.Start], bool]) -> None:
        """Do so on the thread of the attempt; ``take`` is offered the start that may follow there at once."""
        with self.mutex:
            self._counted = counted
            try:
                effects = deque(self._taken(self.conductor.ended, event).effects)
                if effects and isinstance(effects[0], ev.Start) and not self._effects and take(effects[0]):
                    effects.popleft()
                if effects:
                    self._hand_on(effects)
            except Exception as error:  # noqa: BLE001  # raised by ``run``
                self.fail(error)
            self._counted = 0.0

    def stop(self, why: str) -> None:
        """Wind down: a run above has nothing left to spend. May be called on any thread."""
        if self._token is not None and self._finish is None:
            with suppress(CancelledError):
                post(self._token, lambda: self._guarded(self.conductor.submit, ev.StopRequested(spent=why)))

    def fail(self, error: BaseException) -> None:
        """End the sweep with an error, which ``run`` raises."""
        self.failure = self.failure or error
        self._hand_on(())

    def _guarded(self, call: Callable[..., Step], *args: Any) -> None:
        """Submit; what goes wrong ends the sweep, and is raised by ``run`` as itself."""
        with suppress(Exception):  # raised by ``run``, outside of the task group
            self.submit(call, *args)

    def _taken(self, call: Callable[..., Step], *args: Any) -> Step:
        """Let the conductor take something, and a cheap optimizer what follows for it; commit it all at once."""
        step = call(*args)
        try:
            if self.lane.cheap and step.effects:
                self.lane.answered(step, self.conductor)
        finally:
            if step.events:
                self._commit(step.events)
        return step

    def _commit(self, events: Sequence[ev.Event]) -> None:
        clock, machine = current_clock(), self.conductor.machine
        self.log.write(list(events), machine.trials, clock.wall())
        self.checkpoints.follow(events)
        if not all(map(_rides, events)) or clock.now() - self._flushed > _FLUSH:
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

    def _announce(self, events: Sequence[ev.Event]) -> None:
        """Tell the sinks."""
        machine = self.conductor.machine
        for event in events:
            kind = _ANNOUNCED.get(type(event))
            if kind is not None:
                number = getattr(event, "number", None)
                trial = machine.trials[number] if number is not None else None
                self.root.stream.emit(
                    kind, self.handle.run_id, self.handle.path, trial=trial, event=event, standing=machine.progress
                )

    # ------------------------------------------------------------ effects

    def _hand_on(self, effects: Iterable[Any]) -> None:
        if threading.get_ident() == self._thread:
            self._effects.extend(effects)
            self._wake.set()
        elif self._token is not None:
            self._effects.extend(effects)
            with suppress(CancelledError):  # the loop has ended: an abandoned thread came too late
                post(self._token, lambda: self._wake.set())

    async def _perform(self, attempts: Attempts, tasks: Any) -> None:
        while self._finish is None:
            if not self._effects and self.failure is None:
                await self._wake.wait()
            self._wake = anyio.Event()
            if self.failure is not None:
                return
            while self._effects:
                effect = self._effects.popleft()
                if isinstance(effect, ev.Start):
                    tasks.start_soon(attempts.run, effect)
                elif isinstance(effect, ev.Cancel):
                    attempts.cancel(effect.number, effect.run)
                elif isinstance(effect, ev.Finish):
                    self._finish = effect
                else:
                    self.lane.put(effect)

    def next_start(self) -> ev.Start | None:
        """Take the next effect, if it is a start: a task whose attempt has ended goes on with it."""
        if not self._effects or not isinstance(self._effects[0], ev.Start) or self.failure is not None:
            return None
        start: ev.Start = self._effects.popleft()
        return start

    async def _strategist(self) -> None:
        hold = getattr(self.executor, "hold", nullcontext)  # virtual time stands still while a model thinks
        try:
            await self.lane.work(self.root.threads, hold, partial(self.submit, self.conductor.suggested))
        except Exception as error:  # noqa: BLE001  # raised by ``run``, outside of the task group
            self.fail(error)

    # ------------------------------------------------------------ beside the trials

    async def _ticker(self, flushes: bool) -> None:
        """Count seconds of work where the budget limits them, flush reports, look for requests of other processes.

        Trials that live in a time of their own (simulated ones) are flushed in that time alone, by what happens:
        a flush by the time outside would make each simulation another.
        """
        clock, machine = current_clock(), self.conductor.machine
        last = clock.now()
        while True:
            if machine.budget.seconds is None:
                await anyio.sleep(_POLL)  # requests come in real time, whatever clock the trials run on
            else:
                await clock.sleep(min(_POLL, max(0.01, machine.seconds_left)))
                self._guarded(self.conductor.submit, ev.Ticked(clock.now() - last))
            last = clock.now()
            self._requests()
            with self.mutex:
                if flushes and last - self._flushed > _FLUSH:
                    self.handle.store.commit()
                    self._flushed = last

    def _requests(self) -> None:
        """Take up what ``sweep stop`` asked for from another terminal."""
        store, run_id = self.handle.store, self.handle.run_id
        for name, value in store.rows("SELECT name, value FROM tag WHERE run_id=? AND name LIKE 'request:%'", (run_id,)):
            store.add("DELETE FROM tag WHERE run_id=? AND name=?", (run_id, name))
            self._guarded(self.conductor.submit, ev.StopRequested(int(value) if value else None))

    def _interrupt_rest(self) -> None:
        """Note that attempts were cut off, so that nothing stays running in the store."""
        machine = self.conductor.machine
        running, wall = machine.running, current_clock().wall()
        machine.apply(())  # from here on nothing is due
        with suppress(StoreError, RunLocked):  # what could not be written stays queued, and closing the run says so
            for number, attempt, run in running:
                self.submit(self.conductor.ended, ev.Ended(number, attempt, "interrupted", wall=wall, run=run))
            self.handle.store.commit()


_ANNOUNCED: dict[type, str] = {
    ev.Suggested: "trial.suggested", ev.Started: "trial.started", ev.Reported: "trial.reported",
    ev.Saved: "trial.saved", ev.Promoted: "trial.promoted",
    ev.Exploited: "trial.exploited", ev.Ended: "trial.ended",
}  # fmt: skip


def _rides(event: ev.Event) -> bool:
    """Whether an event may wait for the next commit: lost with the tail, it is as if the trial had not come so far.

    A checkpoint counts from a report on, so it waits as that does.
    """
    return isinstance(event, ev.Saved) or (isinstance(event, ev.Reported) and event.decision == "continue")


def _alone(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the one failure that a group holds, or the group where there are several."""
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup) and len(found.exceptions) == 1:
        found = found.exceptions[0]
    return found
