"""Attempts of trials: each begins with a ``Start``, runs where the executor places it, and comes to an ``Ended``.

Whatever an attempt does reaches the sweep through its desk, the driver: reports and checkpoints through a
:class:`~sweep.experiments.trialsession.TrialSession`, its end from here. Each attempt is one task, or one of several
that a task (or a thread, see :mod:`sweep.experiments.inrow`) runs one after the other.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Protocol, final

import anyio
import anyio.lowlevel

from sweep.clock import current_clock
from sweep.errors import PlacementError, StoreUnwritable, TrialFailed, TrialPaused, TrialStopped
from sweep.executors.base import Executor, Task
from sweep.experiments import events as ev
from sweep.experiments.eventlog import EventLog
from sweep.experiments.inrow import Turn, in_row, in_row_on_the_loop
from sweep.experiments.objective import FunctionObjective, Objective, as_numbers
from sweep.experiments.placing import placing
from sweep.experiments.purse import Purse, carrying, current_purse
from sweep.experiments.restarts import PAUSED_WITHOUT_CHECKPOINT
from sweep.experiments.trialsession import Desk, TrialSession
from sweep.pipeline.runtime import ACTIVATION, Activation, Frame, Handle, Root
from sweep.store.journal import Journal
from sweep.store.runs import segment
from sweep.tracker.stream import say
from sweep.trial import Resources, Trial
from sweep.turns import holding

__all__ = ["Attempts", "AttemptsDesk"]

_SLOTS: ContextVar[anyio.Semaphore | None] = ContextVar("sweep_slots", default=None)
"""What all sweeps of a tree share: as many trials at once as the outermost has workers."""
_TURNS = 16
"""Attempts that one task runs before others get their turn, where nothing in them waits."""
_KINDS: dict[str, ev.Kind] = {"timeout": "timeout", "lost": "lost"}


class AttemptsDesk(Desk, Protocol):
    """What attempts ask of the driver."""

    root: Root
    log: EventLog
    executor: Executor
    workers: int
    purse: Purse
    failure: BaseException | None

    def ended(self, event: ev.Ended, counted: float) -> None:
        """Submit the end of an attempt; ``counted`` of its cost has been spent from the purses already."""

    def ended_in_row(self, event: ev.Ended, counted: float, take: Callable[[ev.Start], bool]) -> None:
        """Do so on any thread, and offer ``take`` the start that may follow at once."""

    def next_start(self) -> ev.Start | None:
        """Return what is to be started next, if nothing else comes before it."""

    def fail(self, error: BaseException) -> None:
        """End the sweep with an error."""


@final
class Attempts:
    """Runs the attempts of one sweep.

    Args:
        desk: The driver.
        objective: Checked against the space.
        resources: What a trial occupies unless the scheduler says otherwise.
        repeats: Runs of each trial.
        hooks: Global hooks in force.
        owner: The experiment in whose stage the sweep runs, or itself.
        tells_pauses: Whether to say when a trial pauses that has saved no checkpoint.
        may_follow: The next trial is known as soon as one has ended: a call may go on with it by itself.
    """

    def __init__(
        self,
        desk: AttemptsDesk,
        objective: Objective,
        resources: Resources,
        *,
        repeats: int = 1,
        hooks: tuple[Mapping[str, object], ...] = (),
        owner: object = None,
        tells_pauses: bool = True,
        may_follow: bool = False,
    ) -> None:
        self.desk, self.objective, self.resources = desk, objective, resources
        self.repeats, self.hooks, self.owner, self.tells_pauses = repeats, hooks, owner, tells_pauses
        self._in_rows = may_follow and self._is_short()
        self._scopes: dict[tuple[int, int], anyio.CancelScope] = {}
        self._slots: anyio.Semaphore

    def _is_short(self) -> bool:
        """Whether there is one attempt at a time, with nothing to say on the way."""
        objective, desk = self.objective, self.desk
        alone = desk.workers == self.repeats == 1 and desk.executor.in_process and self.resources.time_limit is None
        if not alone or not isinstance(objective, FunctionObjective) or objective.context_name is not None:
            return False
        return not objective.signature.is_generator

    @contextmanager
    def slots(self) -> Iterator[None]:
        """Share the slots of the tree while the body runs; the outermost sweep brings them."""
        self._slots = _SLOTS.get() or anyio.Semaphore(self.desk.workers, fast_acquire=True)
        token = _SLOTS.set(self._slots)
        try:
            yield
        finally:
            _SLOTS.reset(token)

    def cancel(self, number: int, run: int) -> None:
        """Cancel an attempt, if it runs."""
        scope = self._scopes.get((number, run))
        if scope is not None:
            scope.cancel()

    async def run(self, start: ev.Start) -> None:
        """Run an attempt to its end, and then whichever is to start next: a task for each would cost more."""
        turn = 0
        following: ev.Start | None = start
        while following is not None:
            await self._one(following)
            turn += 1
            if self._in_rows or turn % _TURNS == 0:
                await anyio.lowlevel.checkpoint()
            following = self.desk.next_start()

    async def _one(self, start: ev.Start) -> None:
        clock, desk = current_clock(), self.desk
        kind: ev.Kind = "completed"
        value: object = None
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
            except (PlacementError, StoreUnwritable) as refusal:  # no fault of this trial: none could run, or be kept
                desk.fail(refusal)
            except Exception as failure:  # noqa: BLE001  # a trial's failure is a result, kept with its traceback
                kind, error = self._failed(turn.start or start, failure)
            except BaseExceptionGroup as group:
                kind = _told(group)
            finally:
                with desk.mutex:
                    turn.over = True
        if scope.cancelled_caught:
            kind = "stopped"
        if turn.start is None:
            return
        del self._scopes[turn.start.trial.number, turn.start.run]
        if desk.failure is not None:  # the sweep is ending: this attempt was cut by that
            return
        plain, problem = as_numbers(value)
        if problem is not None and kind == "completed":
            kind, error = "failed", problem
        desk.ended(*self._end(turn.start, turn, kind, plain, error))

    # ------------------------------------------------------------ how it ends

    def _end(self, start: ev.Start, turn: Turn, kind: ev.Kind, value: object, error: str | None = None) -> tuple[ev.Ended, float]:
        """Return the end of an attempt: its cost is what the sweeps inside it spent, else the seconds worked on it."""
        clock, cost = current_clock(), turn.purse.cost
        counted = cost - self.desk.conductor.machine.charged(start.trial.number, start.run) if cost else 0.0
        seconds = counted if cost else clock.now() - turn.began
        return ev.Ended(start.trial.number, start.attempt, kind, value, error, seconds, clock.wall(), start.run), counted

    def _failed(self, start: ev.Start, failure: Exception) -> tuple[ev.Kind, str]:
        """Keep the traceback with the trial; return how it counts and one line."""
        kind: ev.Kind = "failed"
        text = "".join(traceback.format_exception(failure))
        line = "".join(traceback.format_exception_only(failure)).strip()
        if isinstance(failure, TrialFailed):
            kind, text, line = _KINDS.get(failure.kind, kind), failure.traceback or text, str(failure)
        directory = self.desk.handle.store.run_directory(self.desk.log.ids[start.trial.number])
        directory.mkdir(parents=True, exist_ok=True)
        with (directory / "error.log").open("a", encoding="utf-8") as file:
            file.write(f"--- attempt {start.attempt}\n{text}\n")
        return kind, line.splitlines()[0][:500] if line else type(failure).__name__

    def _notice_pause(self, start: ev.Start) -> None:
        """Say once that a function which saves no checkpoint begins anew after a pause."""
        if not self.tells_pauses or not isinstance(self.objective, FunctionObjective):
            return
        if self.desk.conductor.machine.checkpoint(start.trial.number, start.run) is None:
            self.tells_pauses = False
            say(PAUSED_WITHOUT_CHECKPOINT)

    # ------------------------------------------------------------ one after the other

    def _follow(self, turn: Turn, value: object) -> bool:
        """Submit what an attempt came to, where it ran, and go on with the next if it may follow at once."""
        plain, problem = as_numbers(value)
        desk = self.desk
        with desk.mutex:
            start = turn.start
            if turn.over or start is None or problem is not None or desk.failure is not None:
                return False
            end, counted = self._end(start, turn, "completed", plain)
            del self._scopes[start.trial.number, start.run]
            turn.start = None
            desk.ended_in_row(end, counted, partial(self._go_on, turn))
            return turn.start is not None

    def _go_on(self, turn: Turn, start: ev.Start) -> bool:
        """Put the next attempt in the place of the one that has ended, if it wants the same."""
        wanted = self.desk.conductor.scheduler.allocate_resources(start.trial) or self.resources
        if start.attempt > 1 or wanted != self.resources:
            return False
        turn.start, turn.purse, turn.began = start, self._purse_of(start), current_clock().now()
        self._scopes[start.trial.number, start.run] = turn.scope
        act, _ = self._activation(start, self.resources)
        ACTIVATION.set(act)
        if turn.task is not None:
            turn.task.facts = act.frame.facts
        return True

    # ------------------------------------------------------------ the call and what surrounds it

    async def _call(self, start: ev.Start, turn: Turn) -> object:
        trial, objective, executor = start.trial, self.objective, self.desk.executor
        resources = self.desk.conductor.scheduler.allocate_resources(trial) or self.resources
        act, session = self._activation(start, resources)
        frame = act.frame
        self._recall(start, act)
        token = ACTIVATION.set(act)  # runs that the objective starts here are children of the trial
        try:
            if not isinstance(objective, FunctionObjective):
                goals = self.desk.conductor.machine.standing.objectives
                return (await objective.orchestrate(trial.params, act)).scored_by(goals)
            if self._in_rows and resources == self.resources:
                row = in_row_on_the_loop if objective.signature.is_async else in_row
                call = partial(row, turn, objective, self._follow)
                turn.task = task = Task(call, {}, None, resources, frame.facts)
            else:
                kwargs, function = objective.kwargs(trial.params), objective.callable
                directory = self.desk.handle.store.run_directory(frame.facts["run_id"])
                task = Task(function, kwargs, objective.context_name, resources, frame.facts, directory, directory)
            return await executor.run(task, session)
        finally:
            ACTIVATION.reset(token)

    def _activation(self, start: ev.Start, resources: Resources) -> tuple[Activation, TrialSession]:
        """Return what surrounds an attempt, and its wire into the sweep."""
        trial, objective, desk = start.trial, self.objective, self.desk
        row = desk.log.ids[trial.number]
        session = TrialSession(desk, start, row)
        path = f"{trial.path}/run[{start.run}]" if self.repeats > 1 else trial.path
        facts = {
            "run_id": row, "path": path, "trial": trial.number, "attempt": start.attempt,
            "step": start.step, "seed": start.seed,
        }  # fmt: skip
        leaf = isinstance(objective, FunctionObjective)
        handle = self._trial_handle(trial, row, fresh=leaf or (start.attempt == 1 and start.step == 0))
        place = None if leaf else placing(
            desk.executor, objective, session, resources, facts, desk.handle.store.run_directory(row)
        )
        frame = Frame(desk.root, handle, trial.path, self.hooks, self.owner, session, place, facts=facts)
        act = Activation(frame, None, f"run[{start.run}]" if self.repeats > 1 else "", None)
        act.attempt = start.attempt
        return act, session

    def _trial_handle(self, trial: Trial, row: int, *, fresh: bool) -> Handle:
        sweep = self.desk.handle
        journal = Journal(sweep.store, row, sweep.root_id, fresh=fresh)
        path = f"{sweep.path}/{segment('trial', 'trial', trial.number)}"
        return Handle(sweep.store, row, sweep.root_id, path, journal, not fresh, sweep.redo, trial.seed)

    def _purse_of(self, start: ev.Start) -> Purse:
        return Purse(start.trial.path, parent=self.desk.purse, private=True)

    def _recall(self, start: ev.Start, act: Activation) -> None:
        """Count what sweeps inside this trial's repeat spent in earlier attempts."""
        purse, store, row = current_purse(), self.desk.handle.store, act.frame.facts["run_id"]
        if start.attempt == 1 or purse is None:
            return
        if store.row("SELECT 1 FROM run WHERE parent_id=? LIMIT 1", (row,)) is not None:
            purse.recall(store, row, act.key)


def _told(group: BaseExceptionGroup[BaseException]) -> ev.Kind:
    """Return what an exception group says where a trial was told to stop inside a task group of its own."""
    if group.subgroup(TrialPaused) is not None:
        return "paused"
    if group.subgroup(TrialStopped) is not None:
        return "stopped"
    raise group
