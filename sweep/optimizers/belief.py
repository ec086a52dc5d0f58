"""What the curve model knows after a set of results, and what it would try next.

Imports numpy and scipy; imported only where the model is used.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any, final

import numpy as np

from sweep.optimizers.curves import CurveModel, Scale, log_expected_improvement
from sweep.optimizers.encoding import Array, Encoding
from sweep.optimizers.history import Record, State
from sweep.space import SearchSpace
from sweep.trial import Objective, Trial

__all__ = ["Belief", "Memory"]

_ROWS = 200  # results that the model takes in; cost grows with the third power
_LEVELS = 3  # of a trial, counted from its last
_APART = 0.8  # a level counts if it is at most this share of the next
_HUGE = 1e100  # losses are squared
_MARGIN = 0.02  # standard deviations by which the best is to be beaten; at 0 the search stays where it is
_KNOWN = 1e6  # what the logarithm of an improvement loses where the model is surer than the margin: copies of the best
_BOUND = 2.5  # standard deviations below the mean that the confidence bound looks
_BOUND_SHARE = {True: 0.25, False: 0.10}  # of proposals: where starts are cheap, and elsewhere
_RANDOM, _BEST, _NEAR, _NEAR_SCALES = 500, 6, 20, (0.02, 0.08, 0.2)
_TOP, _TOP_NEAR, _TOP_SCALES = 8, 12, (0.1, 0.05, 0.02, 0.01)


@final
class Memory:
    """What stays the same about trials, worked out once for each.

    Args:
        space: What is searched.
        encoding: Of that space.
        objective: What is optimised.
    """

    def __init__(self, space: SearchSpace, encoding: Encoding, objective: Objective) -> None:
        self._space, self.encoding, self._objective = space, encoding, objective
        self._units: dict[int, tuple[Trial, list[float] | None]] = {}  # by id; the trial beside it keeps the id taken
        self._curves: dict[Record, tuple[int, list[int], list[float]]] = {}

    def unit(self, trial: Trial) -> list[float] | None:
        """Return the trial's point of the unit cube, or None if it lies outside the space."""
        known = self._units.get(id(trial))
        if known is None:
            unit = self._space.to_unit(trial.params) if self._space.contains(trial.params) else None
            known = self._units[id(trial)] = (trial, unit)
        return known[1]

    def snapped(self, records: Sequence[Record]) -> Array:
        """Return the points (n, d) of trials inside the space."""
        rows = np.array([self.unit(record.trial) for record in records], dtype=float)
        return self.encoding.snap(rows.reshape(len(records), self.encoding.dimensions))

    def curve(self, record: Record) -> tuple[list[int], list[float]]:
        """Return the steps that a trial reported and its best loss up to each; empty if its score is no report of it."""
        known = self._curves.get(record)
        if known is None or known[0] != record.step:
            curve = record.curve(self._objective) if record.step > 0 else []
            # a score that is not the last report (a test score at the end) is another quantity: no curve leads to it
            if curve and curve[-1][1] != record.losses[0]:
                curve = []
            bests = list(accumulate((_bounded(loss) for _, loss in curve), min))
            known = self._curves[record] = (record.step, [step for step, _ in curve], bests)
        return known[1], known[2]


@final
class Belief:
    """The curve model conditioned on the results of a history.

    Args:
        memory: What is known of single trials.
        records: The history; at least one trial with a score.
        last: The highest step, if it is known to be above those seen.
        theta: The model's hyperparameters; None: those of its prior.
        seed: The sweep's.

    Attributes:
        n_results: (trial, level) pairs known.
    """

    def __init__(
        self,
        memory: Memory,
        records: Sequence[Record],
        last: float,
        theta: Sequence[float] | None,
        seed: int,
    ) -> None:
        self._memory, self._encoding = memory, memory.encoding
        seen = [record for record in records if record.state is State.SEEN]
        failed = [record for record in records if record.state is State.FAILED]
        self._last = float(max([last, 1.0, *(record.step for record in seen)]))
        levels = _levels(seen)
        self.n_results = sum(len(_last_levels(record.step, levels)) for record in seen)
        chosen = _chosen(seen, failed, seed)
        curves = [self._points(record, levels) for record in chosen if record.state is State.SEEN]
        curves = _within(curves, _ROWS - len(chosen))
        self._read(chosen, curves)
        self._records = records
        self._model = CurveModel(self._encoding.width, self._last, None if theta is None else np.array(theta))
        self._model.condition(self._x, self._steps, self._z)

    def _points(self, record: Record, levels: Sequence[int]) -> list[tuple[float, float]]:
        """Return (step, best loss so far) of a trial at its last levels, ascending; never empty."""
        steps, bests = self._memory.curve(record)
        if not steps:
            return [(float(record.step or self._last), _bounded(record.losses[0]))]
        found = []
        for level in _last_levels(record.step, levels):
            place = bisect_right(steps, level) - 1
            if place >= 0 and steps[place] > _APART * level:
                found.append((float(level), bests[place]))
        return found

    def _read(self, chosen: Sequence[Record], curves: Sequence[list[tuple[float, float]]]) -> None:
        """Make the model's rows from the trials chosen; those that failed come last and have no curve."""
        trials = self._memory.snapped(chosen)
        owners = [place for place, curve in enumerate(curves) for _ in curve]
        losses = np.array([loss for curve in curves for _, loss in curve])
        bests = np.array([min(loss for _, loss in curve) for curve in curves])
        self._scale = Scale.of(losses, bests)
        z = self._scale.apply(losses)
        n_failed = len(chosen) - len(curves)
        owners += range(len(curves), len(chosen))
        self._units = trials
        self._x = self._encoding.features(trials)[owners]
        steps = [step for curve in curves for step, _ in curve] + [self._last] * n_failed
        self._steps = np.array(steps)
        self._z = np.concatenate([z, np.full(n_failed, z.max())])
        self._target = float(z.min()) - _MARGIN

    def fit(self) -> list[float]:
        """Return hyperparameters fitted to these results, starting from those in use."""
        self._model.fit(self._x, self._steps, self._z)
        return [float(value) for value in self._model.theta]

    def losses(self, units: Sequence[Sequence[float]], step: float) -> list[tuple[float, float]]:
        """Return mean and standard deviation of the loss at ``step`` for each of some points of the unit cube."""
        rows = np.array(units, dtype=float).reshape(len(units), self._encoding.dimensions)
        x = self._encoding.features(self._encoding.snap(rows))
        mean, sd = self._model.predict(x, min(max(step, 1.0), self._last))
        middle, eps = self._scale.undo(mean), 1e-3
        slope = (self._scale.undo(mean + eps) - middle) / eps
        return list(zip(middle.tolist(), (sd * slope).tolist(), strict=True))

    def best_candidate(self, waiting: Sequence[Record], cheap: bool, rng: np.random.Generator) -> dict[str, Any]:
        """Return the parameters of the most promising new configuration.

        Args:
            waiting: Trials on their way; they count with the value expected of them.
            cheap: Whether trials are stopped early.
            rng: The proposal's own generator.
        """
        model = self._supposed(waiting, rng)
        bound = rng.random() < _BOUND_SHARE[cheap]

        def promise(units: Array) -> Array:
            mean, sd = model.predict(self._encoding.features(units), self._last)
            if bound:
                return _BOUND * sd - mean
            gain = log_expected_improvement(mean, sd, self._target)
            return np.where(sd < _MARGIN, gain - _KNOWN, gain)

        return self._encoding.params(self._climb(model, promise, rng))

    def _supposed(self, waiting: Sequence[Record], rng: np.random.Generator) -> CurveModel:
        """Return a model to propose by: other likely lengths, and pending trials came out as expected."""
        model = self._model.varied(rng)
        x, steps, z = self._x, self._steps, self._z
        if waiting:
            more = self._encoding.features(self._memory.snapped(waiting))
            mean, _ = self._model.predict(more, self._last)
            x, z = np.concatenate([x, more]), np.concatenate([z, mean])
            steps = np.concatenate([steps, np.full(len(more), self._last)])
        model.condition(x, steps, z)
        return model

    def _climb(self, model: CurveModel, promise: Callable[[Array], Array], rng: np.random.Generator) -> Array:
        """Return the point of the unit cube where ``promise`` is highest among those not tried yet."""
        encoding, d = self._encoding, self._encoding.dimensions
        if d == 0:
            return np.empty(0)
        mean, _ = model.predict(encoding.features(self._units), self._last)
        best = self._units[np.argsort(mean, kind="stable")[:_BEST]]
        near = [encoding.perturb(np.repeat(best, _NEAR, 0), s, max(0.3, 2 / d), rng) for s in _NEAR_SCALES]
        units = encoding.snap(np.concatenate([rng.random((_RANDOM, d)), *near]))
        scores = promise(units)
        for scale in _TOP_SCALES:
            top = units[np.argsort(-scores, kind="stable")[:_TOP]]
            more = encoding.snap(encoding.perturb(np.repeat(top, _TOP_NEAR, 0), scale, 0.5, rng))
            units, scores = np.concatenate([units, more]), np.concatenate([scores, promise(more)])
        return self._first_new(units[np.argsort(-scores, kind="stable")])

    def _first_new(self, units: Array) -> Array:
        """Return the first point that no trial has; in a small space, where all may have been tried, the first."""
        seen: set[bytes] = set()
        for place in range(len(units)):
            unit: Array = units[place]
            name = unit.tobytes()
            if name not in seen:
                seen.add(name)
                params = self._encoding.params(unit)
                if all(record.params != params for record in self._records):
                    return unit
        first: Array = units[0]
        return first


def _levels(records: Sequence[Record]) -> list[int]:
    """Return the steps at which trials came to rest, ascending, none close to the next."""
    found: list[int] = []
    for step in sorted({record.step for record in records}, reverse=True):
        if step > 0 and (not found or step <= _APART * found[-1]):
            found.append(step)
    return found[::-1]


def _last_levels(step: int, levels: Sequence[int]) -> list[int]:
    """Return the levels from which a trial that has come to ``step`` gives results: its own and those before it."""
    before = [level for level in levels[: bisect_right(levels, step)] if level <= _APART * step]
    return [*before[1 - _LEVELS :], step]


def _chosen(seen: Sequence[Record], failed: Sequence[Record], seed: int) -> list[Record]:
    """Return the trials that the model takes in, all or 200: the best third, and of the others a random choice.

    Those with a score come first.
    """
    if len(seen) + len(failed) <= _ROWS:
        return [*seen, *failed]
    best = set(sorted(range(len(seen)), key=lambda place: seen[place].losses[0])[: _ROWS // 3])
    # one draw for each trial ever, in order, so that the choice stays the same while more come in
    draws = np.random.default_rng([seed % 2**32, 1]).random(len(seen) + len(failed))
    others = [place for place in range(len(draws)) if place not in best]
    others.sort(key=lambda place: draws[place])
    keep = sorted([*best, *others[: _ROWS - len(best)]])
    return [(*seen, *failed)[place] for place in keep]


def _bounded(loss: float) -> float:
    return min(max(loss, -_HUGE), _HUGE)


def _within(curves: list[list[tuple[float, float]]], spare: int) -> list[list[tuple[float, float]]]:
    """Leave out earlier levels, of the worst trials first, until not more than ``spare`` are left."""
    order = sorted(range(len(curves)), key=lambda place: curves[place][-1][1])
    kept = list(curves)
    for place in order:
        if len(curves[place]) - 1 > spare:
            kept[place] = curves[place][-1:]
        spare -= len(kept[place]) - 1
    return kept
