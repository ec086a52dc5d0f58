"""Who stands where in a sweep: scores, counts, totals, the best trial and the Pareto front.

Kept up to date by one small step for each event, so that reading it costs nothing at any
number of trials.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias, final

from sweep.errors import did_you_mean
from sweep.trial import Objective, Reason, Source, Status, Trial

__all__ = ["COST", "Standing", "values_of"]

COST = "cost"
"""The metric that, where a trial reports it, is its cost instead of the seconds measured."""

_CUT = (Status.STOPPED, Status.PAUSED)
_Rank: TypeAlias = tuple[int, int, float, int]


def values_of(objectives: Sequence[Objective], value: Any, metrics: Mapping[str, float]) -> tuple[float, ...]:
    """Return the score of a trial for each objective, raw.

    Args:
        objectives: What is optimised, at least one.
        value: What the trial returned: a number, a list of numbers, a mapping of names to numbers, or None.
        metrics: The latest value of each metric it reported.

    Raises:
        ValueError: There is no such score; the message names what there is.

    Example:
        >>> values_of([Objective("loss")], None, {"loss": 0.5, "accuracy": 0.9})
        (0.5,)
        >>> values_of([Objective()], 3, {})
        (3.0,)
    """
    if type(value) is float and len(objectives) == 1:
        return (value,)
    if isinstance(value, Mapping):
        return tuple(_named(objective.metric, {**metrics, **value}, value) for objective in objectives)
    if value is None:
        return tuple(_named(objective.metric, metrics, metrics) for objective in objectives)
    if not isinstance(value, list | tuple):
        if len(objectives) == 1:
            return (float(value),)
        value = [value]
    numbers = value
    if len(numbers) != len(objectives):
        raise ValueError(
            f"the trial returned {len(numbers)} number{'s' * (len(numbers) != 1)} for {len(objectives)} objectives "
            f"({_listed(objective.metric for objective in objectives)}); return a mapping of names to numbers"
        )
    return tuple(float(number) for number in numbers)


def _named(name: str | None, known: Mapping[str, float], candidates: Mapping[str, float]) -> float:
    """Return the metric of that name; without a name, the only one there is."""
    if name is not None:
        if name in known:
            return float(known[name])
        there = f"there are: {_listed(known)}" if known else "it reported and returned nothing"
        raise ValueError(f"no metric {name!r}{did_you_mean(name, known)}; {there}")
    names = [key for key in candidates if key != COST]
    if len(names) == 1:
        return float(candidates[names[0]])
    if not names:
        raise ValueError("the trial has no score: it returned no number and reported no metric")
    raise ValueError(f"which metric is the score? There are {_listed(names)}; name one: metric={names[0]!r}")


def _listed(names: Iterable[str | None]) -> str:
    return ", ".join(repr(name) for name in names)


@final
class Standing:
    """Trials of a sweep by number, and what is known of all of them together.

    Args:
        objectives: What is optimised.
        max_resource: The step at which a trial is complete, where the scheduler has one.

    Attributes:
        trials: All trials of the sweep by number.
        earlier: Finished trials of earlier sweeps (``init_from=``).
        counts: Number of trials in each status.
        configurations: New configurations that count in ``Budget.trials``.
        failed: Trials that failed for good.
        succeeded: Results that are no failure (a trial that pauses twice counts twice).
        cost: Sum of the trials' costs.
        resource: Sum of the steps run.
        best: The best trial so far, or None.
    """

    def __init__(self, objectives: Sequence[Objective], max_resource: int | None = None) -> None:
        self.objectives = tuple(objectives)
        self.max_resource = max_resource
        self.trials: list[Trial] = []
        self.earlier: list[Trial] = []
        self.counts: dict[Status, int] = dict.fromkeys(Status, 0)
        self.configurations = self.failed = self.succeeded = 0
        self.cost = self.resource = 0.0
        self.best: Trial | None = None
        self._keys: dict[int, _Rank] = {}
        self._closed: list[tuple[Trial, Status, Reason | None]] = []

    def add(self, trial: Trial) -> None:
        """Take a trial that is pending."""
        self.trials.append(trial)
        self.counts[trial.status] += 1
        if trial.source is not Source.SCHEDULER:
            self.configurations += 1

    def move(self, trial: Trial, status: Status, reason: Reason | None) -> None:
        """Set the status of a trial."""
        self.counts[trial.status] -= 1
        self.counts[status] += 1
        trial.status, trial.reason = status, reason

    def close(self, trial: Trial, status: Status, reason: Reason) -> None:
        """Set the status of a trial that had not ended when the sweep did; see :meth:`reopen`."""
        self._closed.append((trial, trial.status, trial.reason))
        self.move(trial, status, reason)
        self.judge(trial)

    def reopen(self) -> None:
        """Take back what :meth:`close` did: the sweep goes on."""
        for trial, status, reason in self._closed:
            self.move(trial, status, reason)
        self._closed = []

    def spend(self, trial: Trial, cost: float) -> None:
        """Set the cost of a trial."""
        self.cost += cost - trial.cost
        trial.cost = cost

    def judge(self, trial: Trial) -> None:
        """Let a trial with a new score, or one that failed, compete for the best.

        The best is found among trials at the highest resource reached: completed ones, else
        those with the highest step. NaN and infinity never win; ties go to the lower number.
        """
        key = self._rank(trial)
        if key is None:
            if self._keys.pop(trial.number, None) is not None and trial is self.best:
                best = min(self._keys.values(), default=None)
                self.best = None if best is None else self.trials[best[-1]]
            return
        self._keys[trial.number] = key
        if self.best is None or key <= self._keys[self.best.number]:
            self.best = trial

    def _rank(self, trial: Trial) -> _Rank | None:
        """Return the sort key of a trial (lower is better), or None where it cannot win."""
        if trial.score is None or trial.status is Status.FAILED:
            return None
        losses = self._losses(trial)
        if math.inf in losses:
            return None
        loss = losses[0]
        return (0, 0, loss, trial.number) if trial.status is Status.COMPLETED else (1, -trial.step, loss, trial.number)

    def pareto_front(self) -> list[Trial]:
        """Return the trials that none beats in every objective, by number.

        Among trials at the highest resource reached, as for the best; of equal ones all are kept.
        """
        if not self._keys:
            return []
        first = min(self._keys.values())
        if len(self.objectives) == 1:
            return [self.trials[number] for number in sorted(key[3] for key in self._keys.values() if key[:3] == first[:3])]
        top = first[:2]
        losses = [(self._losses(self.trials[key[-1]]), key[-1]) for key in self._keys.values() if key[:2] == top]
        front: list[tuple[tuple[float, ...], int]] = []
        for point, number in sorted(losses):  # in this order no later point beats an earlier one
            if not any(_dominates(other, point) for other, _ in front):
                front.append((point, number))
        return [self.trials[number] for number in sorted(number for _, number in front)]

    def _losses(self, trial: Trial) -> tuple[float, ...]:
        if len(trial.values) == 1:
            return (self.objectives[0].loss(trial.values[0]),)
        return tuple(objective.loss(value) for objective, value in zip(self.objectives, trial.values, strict=True))

    def saved(self) -> float | None:
        """Return the steps that early stopping saved, or None where trials have no common length.

        Each trial that was cut short saved what was missing to ``max_resource``.
        """
        if self.max_resource is None:
            return None
        cut = [trial for trial in self.trials if trial.status in _CUT and trial.reason is not Reason.EXPLOITED]
        return float(sum(max(0, self.max_resource - trial.step) for trial in cut))

    def summary(self) -> dict[str, Any]:
        """Return the sweep in a few plain numbers."""
        best = self.best
        return {
            "trials": len(self.trials),
            "counts": {str(status): count for status, count in self.counts.items() if count},
            "best_trial": None if best is None else best.number,
            "best_score": None if best is None else best.score,
            "cost": self.cost,
            "resource": self.resource,
            "saved": self.saved(),
        }


def _dominates(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    """Whether ``one`` is nowhere worse and somewhere better."""
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))
