"""Promotion by predicted rank: who will be best in the end, not who is best now.

A model of the learning curves (an optimizer's ``predict``) ranks the trials of a rung by where they are
expected to end. The rule and its constants were found by experiment on surrogates of real learning curves.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias, final

from sweep.trial import Objective, Trial

__all__ = ["Predict", "PredictedRank"]

Predict: TypeAlias = Callable[[Sequence[Trial], float], list[tuple[float, float]]]
"""Mean and standard deviation of each trial's score (raw, not oriented) at a resource."""

_OPTIMISM = 0.5  # standard deviations by which a trial that has not come to the end is favoured
_CHANCE = 0.05  # a trial goes on only if it beats the best so far with this probability
_MARGIN = 0.02  # "beats" means by so many standard deviations of the losses seen


@final
class PredictedRank:
    """Ranks trials by ``mean - sd / 2`` of their predicted loss at the end (``sd`` only for those not there yet).

    Args:
        predict: The model.
        objective: What turns its scores into losses.
        resource: The end: the step to predict.
    """

    def __init__(self, predict: Predict, objective: Objective, resource: int) -> None:
        self._predict, self._objective, self._resource = predict, objective, resource
        self._beliefs: dict[int, tuple[float, float]] = {}
        self._target = -math.inf

    def learn(self, trials: Sequence[Trial], losses: Iterable[float]) -> None:
        """Ask the model about ``trials``; ``losses`` are all results seen so far, at whatever level."""
        answers = self._predict(trials, self._resource) if trials else []
        self._beliefs = {
            trial.number: (self._objective.loss(mean), sd if math.isfinite(sd) and sd > 0 else 0.0)
            for trial, (mean, sd) in zip(trials, answers, strict=True)
        }
        self._target = _target([loss for loss in losses if math.isfinite(loss)])

    def order(self, numbers: Iterable[int], arrived: Callable[[int], bool]) -> list[int]:
        """Return trials by predicted rank, the best first; those that the model was not asked about come last."""

        def place(number: int) -> tuple[float, int]:
            mean, sd = self._beliefs.get(number, (math.inf, 0.0))
            return (mean if arrived(number) else mean - _OPTIMISM * sd, number)

        return sorted(numbers, key=place)

    def promising(self, number: int) -> bool:
        """Return whether the trial has a chance of at least 5% to end better than anything seen so far."""
        mean, sd = self._beliefs.get(number, (math.inf, 0.0))
        if sd == 0 or not math.isfinite(mean):
            return mean < self._target
        return 0.5 * math.erfc((mean - self._target) / (sd * math.sqrt(2))) >= _CHANCE


def _target(losses: Sequence[float]) -> float:
    """Return the loss to beat: the best one, less a margin that follows the spread of the better half.

    Losses above the median count by their logarithm, so that a few that exploded do not set the scale.
    """
    if not losses:
        return math.inf
    best, middle = min(losses), statistics.median(losses)
    scale = middle - best
    if scale == 0:
        return best
    squeezed = [y if y <= middle else middle + scale * math.log1p((y - middle) / scale) for y in losses]
    return best - _MARGIN * statistics.pstdev(squeezed)
