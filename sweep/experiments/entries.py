"""A trial of the sweep with its repeats and attempts, as the ledger keeps it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeAlias, final

from sweep.experiments import events as ev
from sweep.experiments.standing import COST, values_of
from sweep.trial import Decision, Objective, Reason, Result, Source, Status, Trial

__all__ = ["Entry", "Key", "Run", "result_of", "trial_of"]

Key: TypeAlias = tuple[int, int]
"""Number of a trial and of its repeat."""


@final
class Run:
    """One repeat of a trial (where nothing is repeated: the trial itself) and its latest attempt.

    Attributes:
        key: Number of the trial and index of the repeat.
        attempt: Number of the latest attempt; 0 before the first.
        live: It runs now.
        done: It has returned ``value``.
        step: Highest step reported by any attempt; -1 before the first report.
        checkpoint: Reference of the checkpoint to go on from, and ``at`` its step.
        next: Step and reference of a checkpoint whose report is still to come.
        retries: Failures and timeouts after which it was started again, and ``losses`` those by a lost host.
        metrics: Latest value of each metric; of a trial that is not repeated, the trial's own.
        cost: Seconds worked on it.
    """

    __slots__ = (
        "at",
        "attempt",
        "checkpoint",
        "cost",
        "done",
        "entry",
        "index",
        "key",
        "live",
        "losses",
        "metrics",
        "next",
        "retries",
        "step",
        "value",
    )

    def __init__(self, entry: Entry, index: int, metrics: dict[str, float]) -> None:
        self.entry, self.index, self.metrics = entry, index, metrics
        self.key: Key = (entry.trial.number, index)
        self.attempt = self.at = self.retries = self.losses = 0
        self.step = -1
        self.live = self.done = False
        self.checkpoint: str | None = None
        self.next: tuple[int, str] | None = None
        self.value: object = None
        self.cost = 0.0

    def keep(self, step: int, reference: str) -> int:
        """Make a checkpoint the one to go on from and return its step."""
        self.next, self.at, self.checkpoint = None, step, reference
        return step

    def try_again(self, kind: ev.Kind, retries: int, losses: int) -> bool:
        """Count an end by failure, timeout or loss; return whether so many allow another attempt."""
        if kind == "lost":
            self.losses += 1
            return self.losses <= losses
        self.retries += 1
        return self.retries <= retries

    def cancel(self, reason: Reason) -> ev.Cancel:
        """Return the effect that ends its attempt."""
        return ev.Cancel(self.entry.trial.number, self.attempt, self.index, reason)

    def spent(self) -> float:
        """Return the cost: what it reports as such, else the seconds worked on it."""
        reported = self.metrics.get(COST, -1.0)
        return reported if 0 <= reported < math.inf else self.cost


@final
class Entry:
    """A trial, its repeats, and what was decided about it.

    Attributes:
        trial: The live trial.
        runs: Its repeats, at least one.
        undone: Repeats that have not returned.
        busy: Attempts that run now.
        decision: STOP or PAUSE, once the scheduler has said so; it stands however the attempt ends.
        promoted: The scheduler let it go on before it had unwound after its PAUSE.
        cancelled: USER or EXPLOITED, once asked for.
        failure: Reason and text, once an attempt has failed for good.
        partial: Reports of some repeats by step, until all have come.
    """

    __slots__ = ("busy", "cancelled", "decision", "failure", "partial", "promoted", "runs", "trial", "undone")

    def __init__(self, trial: Trial, repeats: int) -> None:
        self.trial = trial
        self.busy, self.undone = 0, repeats
        self.decision: Decision | None = None
        self.promoted = False
        self.cancelled: Reason | None = None
        self.failure: tuple[Reason, str] | None = None
        self.partial: dict[int, list[Mapping[str, float]]] | None = None
        if repeats == 1:
            self.runs = [Run(self, 0, trial.metrics)]
        else:
            self.partial = {}
            self.runs = [Run(self, index, {}) for index in range(repeats)]

    def start_from(self, donor: Entry) -> None:
        """Let each repeat begin at the checkpoint of the donor's."""
        for run, given in zip(self.runs, donor.runs, strict=True):
            if given.checkpoint is not None:
                run.checkpoint, run.at, run.step = given.checkpoint, given.at, given.at
        self.trial.step = max(0, min(run.step for run in self.runs))

    def reopen(self) -> dict[Key, Run]:
        """Take back how it ended; return its repeats, which start again."""
        self.decision = self.failure = self.trial.score = None
        self.undone = len(self.runs)
        for run in self.runs:
            run.done, run.value, run.retries = False, None, 0
        return {run.key: run for run in self.runs}

    @property
    def settled(self) -> bool:
        """Whether it is known how the trial goes on once its attempts have ended."""
        return self.decision is not None or self.failure is not None or self.cancelled is not None

    def verdict(self, full: bool, cut: tuple[Status, Reason] | None) -> tuple[Status, Reason | None] | None:
        """Return how the trial stands when none of its attempts runs; None = it goes on.

        Args:
            full: A trial that is stopped here has had all it can get.
            cut: What becomes of a trial that the sweep cuts as it winds down, or None.
        """
        if self.decision is Decision.STOP:
            return (Status.COMPLETED, Reason.COMPLETED) if full else (Status.STOPPED, Reason.PRUNED)
        if self.failure is not None:
            return Status.FAILED, self.failure[0]
        if not self.undone:
            return Status.COMPLETED, Reason.COMPLETED
        if self.cancelled is not None:
            return Status.STOPPED, self.cancelled
        return (Status.PAUSED, None) if self.decision is Decision.PAUSE else cut

    def score(
        self, objectives: Sequence[Objective], status: Status, reason: Reason | None
    ) -> tuple[Status, Reason | None]:
        """Set the trial's score, values and error and return its status: without a score none has ended well."""
        trial = self.trial
        trial.score, trial.values = math.nan, ()
        if status is Status.FAILED:
            return status, reason
        try:
            values = self._values(objectives, status)
        except (ValueError, TypeError) as error:
            if reason in (Reason.COMPLETED, Reason.PRUNED, None):
                trial.error = str(error)
                return Status.FAILED, Reason.ERROR
            trial.score = None
            return status, reason
        trial.error, trial.values, trial.score = None, values, values[0]
        return status, reason

    def _values(self, objectives: Sequence[Objective], status: Status) -> tuple[float, ...]:
        """Return the scores of what its repeats returned if it completed by itself, else of the last report."""
        if status is not Status.COMPLETED or self.decision is not None:
            return values_of(objectives, None, self.trial.metrics)
        if len(self.runs) == 1:
            return values_of(objectives, self.runs[0].value, self.trial.metrics)
        self.trial.metrics.update(_mean([run.metrics for run in self.runs]))
        each = [values_of(objectives, run.value, run.metrics) for run in self.runs]
        return tuple(sum(column) / len(each) for column in zip(*each, strict=True))

    def cost(self) -> float:
        """Return the trial's cost."""
        return self.runs[0].spent() if len(self.runs) == 1 else sum(run.spent() for run in self.runs)

    def joined(self, step: int, metrics: Mapping[str, float]) -> Mapping[str, float] | None:
        """Return the mean of the repeats' reports for a step once all have come, else None."""
        partial = self.partial
        if partial is None:
            return metrics
        got = partial.setdefault(step, [])
        got.append(metrics)
        if len(got) < len(self.runs):
            return None
        self.partial = {later: reports for later, reports in partial.items() if later > step}
        whole = _mean(got)
        self.trial.metrics.update(whole)
        return whole


def trial_of(old: ev.Earlier) -> Trial:
    """Return a trial of an earlier sweep."""
    trial = Trial(dict(old.params), status=Status(old.status), source=Source.EARLIER, values=old.values)
    trial.metrics, trial.step, trial.cost, trial.error = dict(old.metrics or {}), old.step, old.cost, old.error
    trial.score = old.values[0] if old.values else math.nan
    return trial


def result_of(trial: Trial) -> Result:
    """Return what the optimizer is told of a trial that has paused or ended."""
    unseen = trial.score is None
    return Result(
        math.nan if trial.score is None else trial.score,
        metrics=dict(trial.metrics),
        cost=trial.cost,
        failure=f"ended before its first report ({trial.reason})" if unseen else trial.error,
        trial=trial,
        step=trial.step,
        values=trial.values,
    )


def _mean(reports: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each metric that all reports have."""
    return {
        name: sum(report[name] for report in reports) / len(reports)
        for name in reports[0]
        if all(name in report for report in reports)
    }
