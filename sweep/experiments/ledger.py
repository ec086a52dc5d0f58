"""The durable half of the sweep's machine: what the events so far say, and nothing else.

Applying the same events to a fresh :class:`Ledger` gives the same ledger. What is *due*
(who starts, who is asked) is no part of it; that is :mod:`sweep.experiments.machine`.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, final

from sweep.experiments import events as ev
from sweep.experiments.entries import Entry, Key, Run, result_of, trial_of
from sweep.experiments.halting import BY_USER, CUT, UNPROMOTED, Halt, by_budget, intolerable, spent
from sweep.experiments.standing import COST, Standing
from sweep.trial import Budget, Decision, Objective, Reason, Report, Source, Status, Trial

__all__ = ["Ledger", "Rules", "seed_of"]


def seed_of(seed: int, number: int, run: int = 0) -> int:
    """Return the seed of a trial's repeat: 31 bits, made of the sweep's seed and its place alone.

    Example:
        >>> seed_of(0, 1) != seed_of(0, 1, run=1)
        True
    """
    return int.from_bytes(hashlib.blake2b(b"%d/%d/%d" % (seed, number, run), digest_size=4).digest(), "big") >> 1


_FAILURES = {"failed": Reason.ERROR, "timeout": Reason.TIMEOUT, "lost": Reason.LOST}


@final
@dataclass(frozen=True, slots=True)
class Rules:
    """What a sweep is told once, before its first event.

    Attributes:
        objectives: What is optimised, at least one.
        seed: The sweep's seed; trials and repeats have seeds of their own made from it.
        repeats: Runs of each trial, each with its own seed; its result is their mean, it fails if one of them fails,
            and the scheduler sees a step once all have reported it (repeats that are further by then, for want of
            slots, keep what they have; an exploit starts each from the same repeat of the donor).
        retries: How often a repeat that failed or timed out is started again, from its checkpoint.
        losses: How often a repeat whose host was lost is started again, apart from ``retries``.
        max_failures: Failed trials that are tolerated; one more ends the sweep. None: any number.
        max_resource: The scheduler's; a STOP at or beyond it completes the trial.
        smoke: One trial, one step: it is stopped at its first report and called complete.
        path: Path of the sweep; ``{path}/trial[5]`` is that of a trial.
        enqueue: Params that the user wants tried first.
    """

    objectives: tuple[Objective, ...] = (Objective(),)
    seed: int = 0
    repeats: int = 1
    retries: int = 0
    losses: int = 3
    max_failures: int | None = None
    max_resource: int | None = None
    smoke: bool = False
    path: str = ""
    enqueue: Sequence[Mapping[str, object]] = ()

    def is_full(self, trial: Trial) -> bool:
        """Whether a trial has got as far as it may."""
        return self.smoke or (self.max_resource is not None and trial.step >= self.max_resource)


@final
class Ledger:
    """Everything the events of a sweep say.

    Args:
        rules: What the sweep was told before.

    Attributes:
        standing: Trials, counts, totals and the best.
        entries: Every trial with its repeats, by number.
        budget: The limits in force.
        workers: Attempts at once.
        elapsed: Seconds worked on the sweep.
        live: Attempts that run now.
        ready: Repeats that start before anything new: retries, interrupted ones, promotions, exploits.
        pending: Repeats of new trials that wait for a slot.
        told: Results given to the optimizer so far.
        enqueued: Trials that the user wanted and that have entered.
        empty_at: ``told`` when the optimizer last had nothing to suggest, or None.
        halt: Why the sweep winds down, or None.
        finished: The last event of a sweep that is over, or None.
    """

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self._prefix = f"{rules.path}/trial[" if rules.path else "trial["
        self.standing = Standing(rules.objectives, rules.max_resource)
        self.entries: dict[int, Entry] = {}
        self.budget = Budget()
        self._limited = False
        self.workers = 1
        self.elapsed = 0.0
        self.live: dict[Key, Run] = {}
        self.ready: OrderedDict[Key, Run] = OrderedDict()
        self.pending: OrderedDict[Key, Run] = OrderedDict()
        self.told = 0
        self.enqueued = 0
        self.empty_at: int | None = None
        self.halt: Halt | None = None
        self.finished: ev.Finished | None = None

    # ---- the events ------------------------------------------------------------------------------------------------

    def apply(self, event: ev.Event, out: list[ev.Effect], made: Sequence[Trial] = ()) -> bool:
        """Take one event.

        Args:
            event: What happened.
            out: Gets the effects that follow from the event alone.
            made: The strategy's own trial objects, for new trials with the same params.

        Returns:
            False where the event is late, double, or of a dead attempt: then nothing has changed.
        """
        return _HANDLERS[type(event)](self, event, out, made)

    def _opened(self, event: ev.Opened, out: list[ev.Effect], _: object) -> bool:
        """Attempts that nobody ended are over; a finished sweep is open again, one that winds down goes on doing so."""
        self.workers, self.empty_at = event.workers, None
        if self.finished is not None or (self.halt is not None and self.halt.reason is Reason.BUDGET):
            self.halt = None  # the budget is looked at again, it may be a larger one
        self.standing.reopen()
        self.finished = None
        dead = list(self.live.values())
        self.live.clear()
        for run in dead:
            run.live = False
            run.entry.busy -= 1
        waiting, self.ready = self.ready, OrderedDict()
        for run in dead:
            if not run.entry.settled and self.halt is None:
                self.standing.move(run.entry.trial, Status.INTERRUPTED, None)
                self.ready[run.key] = run
        self.ready.update(waiting)
        for entry in {id(run.entry): run.entry for run in dead}.values():
            self._settle(entry, out)
        self._look_at_budget(out)
        return True

    def _budget_set(self, event: ev.BudgetSet, out: list[ev.Effect], _: object) -> bool:
        self.budget = Budget(event.trials, event.seconds, event.cost, event.resource)
        self._limited = any(limit is not None for limit in (event.seconds, event.cost, event.resource))
        if self.halt is not None and self.halt.reason is Reason.BUDGET:
            self.halt = None
        self._look_at_budget(out)
        return True

    def _imported(self, event: ev.Imported, out: list[ev.Effect], _: object) -> bool:
        for old in event.trials:
            trial = trial_of(old)
            self.standing.earlier.append(trial)
            self.told += 1
            out.append(ev.Observe(trial, result_of(trial)))
        return True

    def _suggested(self, event: ev.Suggested, out: list[ev.Effect], made: Sequence[Trial]) -> bool:
        if self.halt is not None or self.finished is not None:
            return False  # too late: the sweep winds down
        if event.trials and event.trials[0].number != len(self.entries):
            return False
        if event.asked:
            self.empty_at = None if event.trials else event.observed
        for position, new in enumerate(event.trials):
            entry = self._enter(new, made[position] if position < len(made) else None)
            self.enqueued += entry.trial.source is Source.ENQUEUED
            for run in entry.runs:
                self.pending[run.key] = run
            out.append(ev.Added(entry.trial))
        return True

    def _promoted(self, event: ev.Promoted, _out: list[ev.Effect], _: object) -> bool:
        entry = self.entries.get(event.number)
        if entry is None or entry.cancelled is not None or entry.trial.step != event.step:
            return False
        if entry.busy:
            if entry.decision is not Decision.PAUSE or entry.promoted:
                return False
            entry.promoted = True
            return True
        if entry.trial.status is not Status.PAUSED:
            return False
        self._go_on(entry)
        return True

    def _exploited(self, event: ev.Exploited, out: list[ev.Effect], made: Sequence[Trial]) -> bool:
        old, new = self.entries.get(event.number), event.new
        if old is None or old.cancelled or new.number != len(self.entries):
            return False
        if old.trial.status.ended and old.trial.status is not Status.FAILED:
            return False
        if not old.trial.status.ended:  # a failed one stays failed; its place in the population is taken over
            self._cancel(old, Reason.EXPLOITED, out)
        entry = self._enter(new, made[0] if made else None)
        for run in entry.runs:
            self.ready[run.key] = run
        out.append(ev.Added(entry.trial))
        return True

    def _started(self, event: ev.Started, _out: list[ev.Effect], _: object) -> bool:
        entry = self.entries.get(event.number)
        if entry is None or entry.settled or entry.trial.status.ended:
            return False
        run = entry.runs[event.run]
        if run.live or run.done or event.attempt != run.attempt + 1:
            return False
        key = (event.number, event.run)
        self.ready.pop(key, None)
        self.pending.pop(key, None)
        run.live, run.attempt, run.next = True, event.attempt, None
        self.live[key] = run
        entry.busy += 1
        entry.trial.attempts += 1
        if entry.trial.status is not Status.RUNNING:
            self.standing.move(entry.trial, Status.RUNNING, None)
        return True

    def _reported(self, event: ev.Reported, out: list[ev.Effect], _: object) -> bool:
        run = self.live.get((event.number, event.run))
        if run is None or run.attempt != event.attempt or self.halt is not None:
            return False
        entry, step, metrics = run.entry, event.step, event.metrics
        if step <= run.step or entry.decision is not None or entry.cancelled is not None or entry.failure is not None:
            return False
        self.standing.resource += step - max(run.step, 0)
        run.step = step
        run.metrics.update(metrics)
        if COST in metrics:
            self.standing.spend(entry.trial, entry.cost())
        if run.next is not None and run.next[0] <= step:
            out.append(ev.Kept(entry.trial, run.keep(*run.next)))
        whole = entry.joined(step, metrics)
        if whole is not None:
            trial = entry.trial
            trial.step = step
            trial.history.append(Report(step, whole))
            if self.rules.smoke:
                self.decide(entry, Decision.STOP)
            else:
                out.append(ev.Judge(trial, step, whole))
                if event.decision != "continue":
                    self.decide(entry, Decision(event.decision))
        self._look_at_budget(out)
        return True

    def decide(self, entry: Entry, decision: Decision) -> None:
        """Take STOP or PAUSE for a trial."""
        entry.decision = decision
        self._hold(entry)

    def _saved(self, event: ev.Saved, out: list[ev.Effect], _: object) -> bool:
        run = self.live.get((event.number, event.run))
        if run is None or run.attempt != event.attempt or event.step < run.at:
            return False
        if event.reference == run.checkpoint or (run.next is not None and event.step <= run.next[0]):
            return False
        if event.step > max(run.step, 0):
            run.next = (event.step, event.reference)
        else:
            out.append(ev.Kept(run.entry.trial, run.keep(event.step, event.reference)))
        return True

    def _ended(self, event: ev.Ended, out: list[ev.Effect], _: object) -> bool:
        key = (event.number, event.run)
        run = self.live.get(key)
        if run is None or run.attempt != event.attempt:
            return False
        del self.live[key]
        run.live = False
        entry = run.entry
        entry.busy -= 1
        run.cost += event.cost
        if event.kind == "completed" and entry.decision is None:
            run.done, run.value = True, event.value
            entry.undone -= 1
            if type(event.value) is not float and isinstance(event.value, Mapping):
                run.metrics.update(event.value)
        elif not entry.settled and (self.halt is None or event.kind == "interrupted"):
            self._cut_short(run, event, out)
        if run.done and run.step < 0:
            self.standing.resource += 1  # a trial that reports nothing is one unit of work
        self.standing.spend(entry.trial, entry.cost())
        self._settle(entry, out)
        self._look_at_budget(out)
        return True

    def _stop_requested(self, event: ev.StopRequested, out: list[ev.Effect], _: object) -> bool:
        if self.finished is not None:
            return False
        if event.number is None:
            self._wind_down(BY_USER if event.spent is None else by_budget(event.spent), out)
            return True
        entry = self.entries.get(event.number)
        if entry is None or entry.trial.status.ended or entry.cancelled is not None:
            return False
        self._cancel(entry, Reason.USER, out)
        return True

    def _reopened(self, event: ev.Reopened, _out: list[ev.Effect], _: object) -> bool:
        """Take back that a trial has ended; its reports and checkpoints stay."""
        entry = self.entries.get(event.number)
        if entry is None or entry.trial.status not in (Status.COMPLETED, Status.FAILED):
            return False
        standing = self.standing
        standing.failed -= entry.trial.status is Status.FAILED
        standing.succeeded -= entry.trial.status is not Status.FAILED
        self.ready.update(entry.reopen())
        standing.move(entry.trial, Status.INTERRUPTED, None)
        standing.judge(entry.trial)
        return True

    def _ticked(self, event: ev.Ticked, out: list[ev.Effect], _: object) -> bool:
        self.elapsed += event.seconds
        self._look_at_budget(out)
        return True

    def _finished(self, event: ev.Finished, _out: list[ev.Effect], _: object) -> bool:
        """Close what still waits; a later ``Opened`` takes this back."""
        if self.finished is not None:
            return False
        self.finished = event
        cut = CUT.get(Reason(event.reason), UNPROMOTED)
        for trial in self.standing.trials:
            if trial.status.ended:
                continue
            if trial.status is not Status.PAUSED and trial.history:
                self.entries[trial.number].score(self.rules.objectives, *cut)
            self.standing.close(trial, cut[0] if trial.attempts else Status.SKIPPED, cut[1])
        return True

    # ---- what follows ----------------------------------------------------------------------------------------------

    def _enter(self, new: ev.New, made: Trial | None) -> Entry:
        """Take a new trial: the strategy's own object, if it has the journaled params."""
        number = new.number
        trial = made if made is not None and made.params == new.params else Trial(new.params)
        trial.number, trial.source, trial.notes = number, Source(new.source), new.notes
        trial.parent, trial.start_from = new.parent, new.start_from
        trial.seed, trial.path = seed_of(self.rules.seed, number), f"{self._prefix}{number}]"
        entry = Entry(trial, 1 if self.rules.smoke else self.rules.repeats)
        donor = None if new.start_from is None else self.entries.get(new.start_from)
        if donor is not None:
            entry.start_from(donor)
        self.entries[number] = entry
        self.standing.add(trial)
        return entry

    def _hold(self, entry: Entry) -> None:
        """Let no repeat of a trial start that waits for a slot."""
        for run in entry.runs:
            self.ready.pop(run.key, None)
            self.pending.pop(run.key, None)

    def _go_on(self, entry: Entry) -> None:
        """Let a paused trial wait for a slot."""
        entry.decision, entry.promoted = None, False
        self.standing.move(entry.trial, Status.PENDING, None)
        for run in entry.runs:
            if not run.done:
                self.ready[run.key] = run

    def _cut_short(self, run: Run, event: ev.Ended, out: list[ev.Effect]) -> None:
        """An attempt ended before it was through, and nobody had decided so."""
        entry, kind = run.entry, event.kind
        if kind in ("stopped", "paused", "completed"):  # raised by the objective itself
            entry.decision = Decision.PAUSE if kind == "paused" else Decision.STOP
            return
        if kind == "interrupted":
            again, status = True, Status.INTERRUPTED
        else:
            again, status = run.try_again(kind, self.rules.retries, self.rules.losses), Status.PENDING
            entry.trial.error = event.error or f"the attempt ended as {kind}"
        if again:
            self.ready[run.key] = run
            if not entry.busy:
                self.standing.move(entry.trial, status, None)
            return
        entry.failure = (_FAILURES[kind], entry.trial.error or "")
        self._hold(entry)
        for other in entry.runs:
            if other.live:
                out.append(other.cancel(Reason.ERROR))

    def _cancel(self, entry: Entry, reason: Reason, out: list[ev.Effect]) -> None:
        """End a trial on request: at once, or when its attempts have unwound."""
        unwinding = entry.settled
        entry.cancelled = reason
        self._hold(entry)
        if not entry.busy:
            self._settle(entry, out)
        elif not unwinding:
            out += [run.cancel(reason) for run in entry.runs if run.live]

    def _settle(self, entry: Entry, out: list[ev.Effect]) -> None:
        """Give a trial its status and score, if its attempts are over, and tell the strategies."""
        if entry.busy:
            return
        trial, standing = entry.trial, self.standing
        cut = None if self.halt is None or any(run.key in self.ready for run in entry.runs) else self.halt.trial
        verdict = entry.verdict(self.rules.is_full(trial), cut)
        if verdict is None:
            return
        if entry.partial is not None:
            self._hold(entry)
        rested = trial.status is Status.PAUSED  # and so was scored and observed
        status, reason = verdict if rested else entry.score(self.rules.objectives, *verdict)
        standing.move(trial, status, reason)
        standing.judge(trial)
        if not rested:
            standing.failed += status is Status.FAILED
            standing.succeeded += status is not Status.FAILED and trial.score is not None
            self.told += 1
            out.append(ev.Observe(trial, result_of(trial)))
        if status is Status.PAUSED and entry.promoted:
            self._go_on(entry)  # the scheduler has already decided: to it the trial never rested
        elif not (rested and reason is Reason.EXPLOITED):
            out.append(ev.Settled(trial))
        if status is Status.FAILED:
            self._wind_down(intolerable(trial, standing, self.rules.max_failures, self.workers), out)

    def _look_at_budget(self, out: list[ev.Effect]) -> None:
        if self._limited:
            self._wind_down(spent(self.budget, self.elapsed, self.standing), out)

    def _wind_down(self, halt: Halt | None, out: list[ev.Effect]) -> None:
        """If there is a reason, start nothing any more and cut what runs."""
        if halt is not None and self.halt is None:
            self.halt = halt
            out += [run.cancel(halt.trial[1]) for run in self.live.values() if not run.entry.settled]


_Handler: TypeAlias = Callable[[Ledger, Any, list[ev.Effect], Sequence[Trial]], bool]
_HANDLERS: dict[type[object], _Handler] = {
    ev.Opened: Ledger._opened,
    ev.BudgetSet: Ledger._budget_set,
    ev.Imported: Ledger._imported,
    ev.Suggested: Ledger._suggested,
    ev.Promoted: Ledger._promoted,
    ev.Exploited: Ledger._exploited,
    ev.Started: Ledger._started,
    ev.Reported: Ledger._reported,
    ev.Saved: Ledger._saved,
    ev.Ended: Ledger._ended,
    ev.StopRequested: Ledger._stop_requested,
    ev.Ticked: Ledger._ticked,
    ev.Drained: lambda *_: True,
    ev.Reopened: Ledger._reopened,
    ev.Finished: Ledger._finished,
}
