"""The sweep as a state machine without I/O: ``fold(event) -> effects``.

No clock, no await, no store and no strategy is in here. A driver commits an event and then
performs the effects; live work, resume, dry run and simulation are the same fold. Resume is
:meth:`Machine.apply` over the journal, one more :class:`~sweep.experiments.events.Opened`, and
:meth:`Machine.wake`. :class:`sweep.experiments.conductor.Conductor` joins machine and scheduler.

To read it in one sitting: :mod:`~sweep.experiments.events` names what happens and what is then to be done;
the :class:`~sweep.experiments.ledger.Ledger` takes each event, one method for each, and keeps what is durable (a
trial's own part in :mod:`~sweep.experiments.entries`, all trials together in :mod:`~sweep.experiments.standing`, why
it ends early in :mod:`~sweep.experiments.halting`). This half knows what is due:

- first what has been started before (retries, interrupted attempts), promotions and exploits;
- then the scheduler is asked for a promotion or an exploit, at every free slot;
- then new trials that wait, those the user enqueued, and those the optimizer suggests.

The sweep is over when nothing runs and nothing can come: the budget in trials is spent, the
optimizer has nothing more, or the scheduler lets nobody in; sooner if seconds, cost or resource
are spent, the user stops it, or too many trials fail (``max_failures``, or all of the first
``max(5, workers)``). Promotions and exploits are free: only configurations of the optimizer and
of the user count.

A repeat that fails or overruns its time is started again from its checkpoint ``retries`` times;
one whose host was lost, ``losses`` times besides. Interrupted attempts cost neither.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import final

from sweep.experiments import events as ev
from sweep.experiments.entries import Run
from sweep.experiments.ledger import Ledger, Rules, seed_of
from sweep.experiments.standing import Standing, values_of
from sweep.trial import Budget, Decision, Reason, Status, Trial

__all__ = ["DEFAULT_TRIALS", "Machine", "budget_for"]

DEFAULT_TRIALS = 100


def budget_for(budget: int | Budget | None, *, finite: bool, n_trials: int | None) -> tuple[Budget, str]:
    """Return the budget of a sweep and, where it is a default, the line that says so (else ``""``).

    Args:
        budget: What the user gave.
        finite: The optimizer's suggestions run out by themselves (a grid).
        n_trials: New trials in one pass of the scheduler, or None.

    Raises:
        ValueError: A number of trials that is not positive.

    Example:
        >>> budget_for(None, finite=False, n_trials=None)
        (Budget(trials=100, seconds=None, cost=None, resource=None), 'no budget given: 100 trials')
    """
    if isinstance(budget, int):
        return Budget(trials=budget), ""
    if budget is not None and budget != Budget():
        return budget, ""
    if n_trials is not None:
        return Budget(trials=n_trials), f"no budget given: one pass of the scheduler, {n_trials} trials"
    if finite:
        return Budget(), "no budget given: until the optimizer has no further suggestion"
    return Budget(trials=DEFAULT_TRIALS), f"no budget given: {DEFAULT_TRIALS} trials"


@final
class Machine:
    """A sweep that is folded from events.

    Args:
        rules: What the sweep is told once.

    Example:
        >>> machine = Machine(Rules())
        >>> machine.apply([ev.Opened(wall=0.0, workers=1), ev.BudgetSet(trials=1)])
        >>> machine.wake()
        [Place(free=1, new=1)]
        >>> machine.admit(1)
        [Ask(n=1, observed=0)]
    """

    def __init__(self, rules: Rules) -> None:
        self._rules, self._ledger = rules, Ledger(rules)
        self._sleep()

    def _sleep(self) -> None:
        """Forget what is due: the driver has performed none of it."""
        self._starting: dict[tuple[int, int], Run] = {}
        self._ask: ev.Ask | None = None
        self._awake = self._drained = self._finishing = False

    # ---- events ----------------------------------------------------------------------------------------------------

    def fold(self, event: ev.Event, made: Sequence[Trial] = ()) -> list[ev.Effect] | None:
        """Take an event and return what is to be done, in this order.

        Args:
            event: What happened; the driver commits it before it performs the effects.
            made: For new trials, the strategy's own objects: they become the sweep's.

        Returns:
            The effects, or None: the event is late, double or of a dead attempt, nothing has changed,
            and it is not to be kept.
        """
        kind = type(event)
        if isinstance(event, ev.Started):
            self._starting.pop((event.number, event.run), None)
        elif isinstance(event, ev.Suggested) and event.asked and self._awake:
            if not _answers(event, self._ask, len(self._ledger.entries)):
                return None
            self._ask = None
        out: list[ev.Effect] = []
        if not self._ledger.apply(event, out, made):
            return None
        if kind is ev.Started:
            self._drained = False
        elif kind is ev.Opened:
            self._sleep()
        elif kind in _MOVING or self._ledger.halt is not None:
            self._drained = self._drained or kind is ev.Drained
            self._due(out)
        return out

    def apply(self, events: Iterable[ev.Event]) -> None:
        """Replay journaled events; nothing is due before :meth:`wake`."""
        out: list[ev.Effect] = []
        for event in events:
            self._ledger.apply(event, out)
            out.clear()
        self._sleep()

    def wake(self) -> list[ev.Effect]:
        """Begin, or go on after a replay: return what is due now."""
        self._awake = True
        out: list[ev.Effect] = []
        self._due(out)
        return out

    def admit(self, room: int) -> list[ev.Effect]:
        """The answer to a ``Place``: the scheduler has nobody for the free slots.

        Args:
            room: What ``scheduler.room(place.new)`` said, or 0 where ``place.new`` is 0.
        """
        out: list[ev.Effect] = []
        ledger = self._ledger
        if not self._awake or ledger.halt is not None or ledger.finished is not None:
            return out
        for _ in range(self._free()):
            if not ledger.pending:
                break
            self._start(ledger.pending.popitem(last=False)[1], out)
        count = min(room, self._left()) if self._ask is None else 0
        if count > 0 and ledger.enqueued < len(self._rules.enqueue):
            params = self._rules.enqueue[ledger.enqueued : ledger.enqueued + int(count)]
            first = len(ledger.entries)
            out.append(ev.Enqueue(tuple(ev.New(first + i, dict(each), "enqueued") for i, each in enumerate(params))))
            return out
        if count > 0 and not self._waiting():
            self._ask = ev.Ask(int(count), ledger.told)
            out.append(self._ask)
        if not ledger.live and not self._starting and self._ask is None:
            self._end(out)
        return out

    def decide(self, number: int, decision: Decision) -> None:
        """The answer to a ``Judge``, if it is not CONTINUE; the journaled ``Reported`` carries it too."""
        self._ledger.decide(self._ledger.entries[number], decision)

    def answer(self, number: int, attempt: int, run: int = 0) -> Decision:
        """Return what an attempt that has just reported is to do; one that is no longer wanted stops."""
        found = self._ledger.live.get((number, run))
        if found is None or found.attempt != attempt or self._ledger.halt is not None:
            return Decision.STOP
        entry = found.entry
        if entry.failure is not None or entry.cancelled is not None:
            return Decision.STOP
        return entry.decision or Decision.CONTINUE

    # ---- readings --------------------------------------------------------------------------------------------------

    @property
    def standing(self) -> Standing:
        """Trials, counts, totals, the best, the Pareto front."""
        return self._ledger.standing

    @property
    def trials(self) -> list[Trial]:
        """All trials by number; live objects."""
        return self._ledger.standing.trials

    @property
    def budget(self) -> Budget:
        """The limits in force."""
        return self._ledger.budget

    @property
    def finished(self) -> ev.Finished | None:
        """How the sweep ended, or None while it goes on."""
        return self._ledger.finished

    @property
    def running(self) -> list[tuple[int, int, int]]:
        """Number, attempt and repeat of every attempt that runs."""
        return [(number, run.attempt, index) for (number, index), run in self._ledger.live.items()]

    @property
    def seconds_left(self) -> float:
        """Seconds of the budget that are left (``inf`` without such a limit)."""
        limit = self._ledger.budget.seconds
        return math.inf if limit is None else max(0.0, limit - self._ledger.elapsed)

    def progress(self) -> dict[str, object]:
        """Return in a few numbers how far the sweep is, for people who watch."""
        standing, best = self.standing, self.standing.best
        waiting = standing.counts[Status.PENDING] + standing.counts[Status.RUNNING]
        return {
            "done": len(standing.trials) - waiting, "total": self.budget.trials,
            "counts": {str(status): count for status, count in standing.counts.items() if count},
            "best": None if best is None else best.score, "best_trial": None if best is None else best.number,
        }  # fmt: skip

    def checkpoint(self, number: int, run: int = 0) -> tuple[int, str] | None:
        """Return step and reference of the checkpoint that a trial would go on from, or None."""
        found = self._ledger.entries[number].runs[run]
        return None if found.checkpoint is None else (found.at, found.checkpoint)

    def repeated(self) -> dict[int, tuple[float, ...]]:
        """Return the first score of each repeat of the trials that have completed, by number; empty without repeats."""
        found = {}
        for number, trial in enumerate(self.trials):
            runs = self._ledger.entries[number].runs
            if len(runs) > 1 and all(run.done for run in runs):
                goals = self.standing.objectives
                found[trial.number] = tuple(values_of(goals, run.value, run.metrics)[0] for run in runs)
        return found

    def charged(self, number: int, run: int = 0) -> float:
        """Return what a trial's repeat has cost in the attempts that have ended."""
        return self._ledger.entries[number].runs[run].cost

    # ---- what is due -----------------------------------------------------------------------------------------------

    def _free(self) -> int:
        return self._ledger.workers - len(self._ledger.live) - len(self._starting)

    def _left(self) -> float:
        """Return how many configurations the budget still allows."""
        limit = 1 if self._rules.smoke else self._ledger.budget.trials
        return math.inf if limit is None else limit - self._ledger.standing.configurations

    def _waiting(self) -> bool:
        """Whether the optimizer had nothing, and has learned nothing since."""
        empty_at = self._ledger.empty_at
        return empty_at is not None and empty_at >= self._ledger.told

    def _due(self, out: list[ev.Effect]) -> None:
        ledger = self._ledger
        if not self._awake or ledger.finished is not None:
            return
        if ledger.halt is not None:
            if not ledger.live and not self._starting:
                self._finish(*ledger.halt[:3], out)
            return
        free = self._free()
        while free > 0 and ledger.ready:
            self._start(ledger.ready.popitem(last=False)[1], out)
            free -= 1
        if free > 0:
            new = free - len(ledger.pending)
            open_to_all = self._ask is None and self._left() > 0 and not self._waiting()
            out.append(ev.Place(free, new if new > 0 and open_to_all else 0))

    def _start(self, run: Run, out: list[ev.Effect]) -> None:
        trial, ledger = run.entry.trial, self._ledger
        self._starting[run.key] = run
        seed = trial.seed if run.index == 0 else seed_of(ledger.rules.seed, trial.number, run.index)
        out.append(ev.Start(trial, run.attempt + 1, run.index, seed, run.at, run.checkpoint))

    def _end(self, out: list[ev.Effect]) -> None:
        """Nothing runs and nobody comes: let the scheduler look once more at those who are paused, then finish."""
        standing = self._ledger.standing
        if standing.counts[Status.PAUSED] and not self._drained:
            out.append(ev.Drain())
            return
        if standing.failed and not standing.succeeded:
            last = next(trial for trial in reversed(standing.trials) if trial.status is Status.FAILED)
            text = f"all of the first {standing.failed} trials failed; the last one, trial {last.number}: {last.error}"
            self._finish(Status.FAILED, Reason.ERROR, text, out)
            return
        if self._left() <= 0:
            text = f"the budget is spent: trials={standing.configurations}"
        elif self._waiting():
            text = "the optimizer has no further suggestion"
        else:
            text = "the schedule is complete"
        self._finish(Status.COMPLETED, Reason.COMPLETED, text, out)

    def _finish(self, status: Status, reason: Reason, text: str, out: list[ev.Effect]) -> None:
        if not self._finishing:
            self._finishing = True
            out.append(ev.Finish(status, reason, text))


def _answers(event: ev.Suggested, ask: ev.Ask | None, known: int) -> bool:
    """Whether this is the answer to the question that is open, and no late or double one."""
    if ask is None or (event.asked, event.observed) != (ask.n, ask.observed):
        return False
    return not event.trials or event.trials[0].number == known


_MOVING = frozenset({ev.Suggested, ev.Promoted, ev.Exploited, ev.Ended, ev.Drained, ev.StopRequested, ev.BudgetSet})
