"""The median stopping rule."""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Mapping, Sequence
from typing import ClassVar, final

from sweep.schedulers.arguments import whole
from sweep.schedulers.base import JudgingScheduler
from sweep.space import Distribution, Integer
from sweep.trial import Decision, Trial

__all__ = ["MedianStoppingScheduler"]


class _Run:
    """What is remembered of a trial's curve."""

    __slots__ = ("best", "count", "step", "stopped", "total")

    def __init__(self) -> None:
        self.best, self.total, self.count = math.inf, 0.0, 0
        self.step = 0
        self.stopped = False


@final
class MedianStoppingScheduler(JudgingScheduler):
    """Stops a trial whose best loss is worse than the median of the others' running averages at the same step.

    The rule of Google Vizier (Golovin et al., KDD 2017, section 3.2.1). As in Ray Tune, the others are all trials that
    have reported at that very step, ended or not, and there must be ``min_samples`` of them. NaN and infinity
    count as worst. Repeated or lower steps and reports without the metric decide nothing.

    Args:
        grace_period: No trial is stopped before this step.
        min_samples: Others that must have reported at the step.

    Raises:
        StrategyError: An argument is no whole number >= 1.

    Example:
        >>> scheduler = MedianStoppingScheduler(min_samples=2)
        >>> trials = [Trial({}, number=number) for number in range(3)]
        >>> [scheduler.on_report(trial, 1, {"loss": loss}).value for trial, loss in zip(trials, [1.0, 2.0, 3.0])]
        ['continue', 'continue', 'stop']
    """

    TUNABLE: ClassVar[Mapping[str, Distribution]] = {"grace_period": Integer(1, 20), "min_samples": Integer(1, 10)}

    def __init__(self, grace_period: int = 1, min_samples: int = 3) -> None:
        self.grace_period = whole("MedianStoppingScheduler", "grace_period", grace_period)
        self.min_samples = whole("MedianStoppingScheduler", "min_samples", min_samples)
        self._begin()

    def _begin(self) -> None:
        self._runs: dict[int, _Run] = {}
        self._averages: dict[int, list[float]] = {}  # by step, sorted: the running average of each trial there

    def next_decision(self, trial: Trial) -> int | None:
        """Return None: every report counts for the averages."""
        return None

    def on_report(self, trial: Trial, step: int, metrics: Mapping[str, float]) -> Decision:
        """Compare the trial's best loss so far with the median at ``step``, then add its own running average."""
        run = self._runs.setdefault(trial.number, _Run())
        if run.stopped:
            return Decision.STOP
        loss = self._measure.loss(metrics)
        if loss is None or step <= run.step:
            return Decision.CONTINUE
        run.step, run.best = step, min(run.best, loss)
        run.total, run.count = run.total + loss, run.count + 1
        others = self._averages.setdefault(step, [])
        enough = step >= self.grace_period and len(others) >= self.min_samples
        run.stopped = enough and run.best > _median(others)
        insort(others, run.total / run.count)
        return Decision.STOP if run.stopped else Decision.CONTINUE


def _median(ordered: Sequence[float]) -> float:
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
