"""Protein: cost-aware Gaussian-process search."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal, final

from sweep.errors import StrategyError
from sweep.optimizers.history import OwnModelOptimizer, Proposal, Record, State
from sweep.optimizers.seeding import own_seed
from sweep.space import Choice, Distribution, Integer, Params, Uniform

if TYPE_CHECKING:
    import numpy as np

    from sweep.optimizers.encoding import Array

__all__ = ["ProteinOptimizer"]

_ROWS = 300  # trials that the models take in: the best third, and the latest
_NEIGHBOURS = 5  # tried trials round a candidate whose failures count against it
_EFFICIENCY = 0.5  # least gain in score for the gain in cost, both in spans, of a point on the pruned front
_NEAR_BEST = 0.98  # share of the best score down to which the front is pruned
_HUGE = 1e100


@final
class ProteinOptimizer(OwnModelOptimizer):
    """Search for good scores at every cost: candidates round the Pareto front of score against cost.

    Two Gaussian processes (linear plus Matern-3/2 kernel, a length for each feature) predict score and logarithm of
    cost, both in spans of what was seen; each parameter on its own scale: linear, logarithmic, log odds (`LogitUniform`),
    whole numbers, powers of two (an `Ordinal` of them). A candidate's rating is its predicted score times the
    closeness of its predicted cost to a target drawn anew for each suggestion between 0 and ``1 + expansion_rate``.
    The first suggestion is the centre. Pending trials count as the worst seen (constant liar). A failure
    is no score: it lowers the rating of candidates by the share of failures among their nearest neighbours.
    Cost is the trial's, in seconds or as the user reports it.

    Args:
        search_space: What to search; None: the sweep's.
        acquisition: How the score model is read: ``"naive"`` (its mean), ``"ei"`` (expected improvement) or
            ``"ucb"`` (mean + ``ucb_beta`` standard deviations).
        center: Where to begin, by parameter; those left out begin at the middle of their range.
        scale: Standard deviation of candidates round their Pareto point, in half ranges, for each parameter named or
            for all.
        num_random_samples: Random suggestions after the first.
        resample_frequency: Every so many suggestions a Pareto point is tried again; 0: never.
        expansion_rate: How far beyond the highest cost seen (in spans of its logarithm) the target may lie.
        suggestions_per_pareto: Candidates round each Pareto point.
        max_suggestion_cost: Candidates predicted to cost more are left out; where all are, the cheapest is taken.
        ucb_beta: Standard deviations of ``"ucb"``.
        global_search_scale: Multiplies ``scale``.

    Raises:
        StrategyError: An argument is out of its range; at ``setup``: there are several objectives.
        SpaceError: At ``setup``: ``center`` or ``scale`` names a parameter that the space lacks, or a wrong value.
        MissingExtra: At ``setup``: numpy or scipy is not installed.

    Source: the cost-aware search of PufferLib and metta, by its description.

    Example:
        >>> from sweep.space import SearchSpace, Uniform
        >>> ProteinOptimizer(SearchSpace({"x": Uniform(0, 1)})).suggest(1)[0].params
        {'x': 0.5}
    """

    extra: ClassVar[str] = "protein"
    TUNABLE: ClassVar[Mapping[str, Distribution]] = {
        "acquisition": Choice(["naive", "ei", "ucb"]),
        "expansion_rate": Uniform(0, 1),
        "resample_frequency": Integer(0, 20),
        "global_search_scale": Uniform(0.25, 2),
    }

    def __init__(
        self,
        search_space: Mapping[str, object] | None = None,
        acquisition: Literal["naive", "ei", "ucb"] = "naive",
        *,
        center: Mapping[str, object] | None = None,
        scale: float | Mapping[str, float] = 0.5,
        num_random_samples: int = 0,
        resample_frequency: int = 10,
        expansion_rate: float = 0.25,
        suggestions_per_pareto: int = 256,
        max_suggestion_cost: float = 10800,
        ucb_beta: float = 2.0,
        global_search_scale: float = 1.0,
    ) -> None:
        super().__init__(search_space)
        if acquisition not in ("naive", "ei", "ucb"):
            raise StrategyError(f"ProteinOptimizer(acquisition={acquisition!r}): expected 'naive', 'ei' or 'ucb'")
        least = {
            "num_random_samples": (num_random_samples, 0),
            "resample_frequency": (resample_frequency, 0),
            "expansion_rate": (expansion_rate, 0),
            "suggestions_per_pareto": (suggestions_per_pareto, 1),
            "max_suggestion_cost": (max_suggestion_cost, 0),
            "ucb_beta": (ucb_beta, 0),
            "global_search_scale": (global_search_scale, 0),
        }
        for name, (value, low) in least.items():
            is_whole = name in ("num_random_samples", "resample_frequency", "suggestions_per_pareto")
            if not low <= value or (is_whole and not isinstance(value, int)):
                raise StrategyError(f"ProteinOptimizer({name}={value!r}): expected a {'whole ' * is_whole}number >= {low}")
        if not all(width > 0 for width in (scale.values() if isinstance(scale, Mapping) else [scale])):
            raise StrategyError(f"ProteinOptimizer(scale={scale!r}): expected standard deviations above 0, in half ranges")
        self.acquisition, self.center, self.scale = acquisition, dict(center or {}), scale
        self.num_random_samples, self.resample_frequency = num_random_samples, resample_frequency
        self.expansion_rate, self.suggestions_per_pareto = expansion_rate, suggestions_per_pareto
        self.max_suggestion_cost, self.ucb_beta = max_suggestion_cost, ucb_beta
        self.global_search_scale = global_search_scale

    def _begin(self) -> None:
        super()._begin()
        self._middle = self._center_unit()
        scales = self.scale if isinstance(self.scale, Mapping) else dict.fromkeys(self.space.dimensions, self.scale)
        self._refuse_unknown("scale", scales)
        # in half ranges, of which the unit cube has two
        self._scales = [scales.get(name, 0.5) * self.global_search_scale / 2 for name in self.space.dimensions]

    def _center_unit(self) -> list[float]:
        self._refuse_unknown("center", self.center)
        units = []
        for name in self.space.dimensions:
            part = self.space[name]
            value = part.cast(self.center[name]) if name in self.center else part.from_unit(0.5)
            if not part.contains(value):
                raise StrategyError(f"ProteinOptimizer(center): {name!r} is {value!r}, expected {part.expected}")
            units.append(part.to_unit(value))
        return units

    def _refuse_unknown(self, argument: str, names: Mapping[str, object]) -> None:
        unknown = [name for name in names if name not in self.space]
        if unknown:
            raise StrategyError(f"ProteinOptimizer({argument}) names {unknown}; the space has {list(self.space)}")

    def _proposals(self, first: int, n: int) -> Iterator[Proposal]:
        import numpy as np

        for index in range(first, first + n):
            rng = np.random.default_rng(own_seed(self._seed, index, "protein"))
            yield self._propose(index, rng), {}

    def _propose(self, index: int, rng: np.random.Generator) -> Params:
        if index == 0:
            return self.space.from_unit(self._middle)
        seen = [record for record in self._history.records if record.state is State.SEEN]
        if index <= self.num_random_samples or not seen:
            return self.space.sample(rng)
        front = _pareto(seen)
        if self.resample_frequency and index % self.resample_frequency == 0:
            return dict(front[rng.integers(len(front))].params)
        return self._best_candidate(seen, _pruned(front), rng)

    def _best_candidate(self, seen: list[Record], front: list[Record], rng: np.random.Generator) -> Params:
        import numpy as np

        best = sorted(seen, key=lambda record: record.losses[0])[:3]
        centers = {id(record): record for record in [*front, *best]}.values()
        units = np.repeat(self._encoding.units([each.params for each in centers]), self.suggestions_per_pareto, 0)
        units = self._encoding.perturb(units, np.array(self._scales), 1.0, rng)
        units = self._encoding.snap(units)
        rating = self._rate(self._encoding.features(units), seen, rng)
        return self._encoding.params(units[int(np.argmax(rating))])

    def _rate(self, x: Array, seen: list[Record], rng: np.random.Generator) -> Array:
        """Return the rating (n,) of candidates with features (n, D); where all are too dear, the cheapest is the best."""
        import numpy as np

        from sweep.optimizers.smooth import SmoothModel

        rows = _kept(seen)
        waiting = [record for record in self._history.records if record.state is State.PENDING]
        theirs = self._features([*rows, *waiting])
        losses = np.clip([record.losses[0] for record in rows], -_HUGE, _HUGE)
        worst, span = losses.max(), float(losses.max() - losses.min()) or 1.0
        scores = np.concatenate([(worst - losses) / span, np.zeros(len(waiting))])  # the lie: as bad as the worst
        mean, sd = SmoothModel(theirs, scores).predict(x)
        value = _read(self.acquisition, mean, sd, float(scores.max()), self.ucb_beta)
        logs = np.log(np.clip([record.cost for record in rows], 1e-9, _HUGE))
        low, reach = float(logs.min()), float(logs.max() - logs.min())
        target = (1.0 + self.expansion_rate) * rng.random()
        closeness = np.ones(len(x))
        if reach > 1e-9:
            cost, _ = SmoothModel(theirs[: len(rows)], (logs - low) / reach).predict(x)
            dear = cost * reach + low > math.log(self.max_suggestion_cost or 1e-9)
            if dear.all():
                return -cost
            closeness = np.maximum(1.0 - np.abs(cost - target), 0.0)
            value = np.where(dear, -np.inf, value)
        rating: Array = np.where(np.isfinite(value), np.maximum(value, 1e-9) * (closeness + 1e-9), -np.inf)
        return rating * self._survival(x, theirs[: len(rows)])

    def _features(self, records: Sequence[Record]) -> Array:
        return self._encoding.features(self._encoding.snap(self._encoding.units([each.params for each in records])))

    def _survival(self, x: Array, good: Array) -> Array:
        """Return for each candidate the share of its nearest neighbours that did not fail, at least a tenth."""
        import numpy as np

        failed = [record for record in self._history.records if record.state is State.FAILED]
        if not failed:
            return np.ones(len(x))
        bad = self._features(failed)
        tried, fate = np.concatenate([good, bad]), np.repeat([1.0, 0.0], [len(good), len(bad)])
        squares = (x**2).sum(1)[:, None] + (tried**2).sum(1)[None, :] - 2.0 * x @ tried.T
        nearest = np.argsort(squares, axis=1, kind="stable")[:, :_NEIGHBOURS]
        share: Array = np.maximum(fate[nearest].mean(1), 0.1)
        return share


def _read(acquisition: str, mean: Array, sd: Array, best: float, beta: float) -> Array:
    """Return what the score model promises; higher is better."""
    if acquisition == "naive":
        return mean
    if acquisition == "ucb":
        return mean + beta * sd
    import numpy as np
    from scipy.special import ndtr  # type: ignore[import-untyped]  # scipy has no types

    u = (mean - best) / sd
    gain: Array = sd * (u * ndtr(u) + np.exp(-0.5 * u**2) / math.sqrt(2 * math.pi))
    return gain


def _pareto(seen: Sequence[Record]) -> list[Record]:
    """Return the records that no other one beats in both loss and cost, by ascending cost."""
    front: list[Record] = []
    for record in sorted(seen, key=lambda record: (record.cost, record.losses[0])):
        if not front or record.losses[0] < front[-1].losses[0]:
            front.append(record)
    return front


def _pruned(front: list[Record]) -> list[Record]:
    """Return the front without points that gain little, from the dearest down, while what is left is near the best."""
    kept = list(front)
    losses, costs = [record.losses[0] for record in front], [record.cost for record in front]
    gain, price = losses[0] - losses[-1], costs[-1] - costs[0]
    while len(kept) > 1 and gain > 0 and price > 0:
        last, before = kept[-1], kept[-2]
        near = (losses[0] - before.losses[0]) / gain >= _NEAR_BEST
        efficiency = ((before.losses[0] - last.losses[0]) / gain) / max((last.cost - before.cost) / price, 1e-12)
        if not near or efficiency >= _EFFICIENCY:
            break
        kept.pop()
    return kept


def _kept(seen: list[Record]) -> list[Record]:
    """Return the records that the models take in: all, or the best third of 300 and the latest others."""
    if len(seen) <= _ROWS:
        return seen
    best = sorted(range(len(seen)), key=lambda place: seen[place].losses[0])[: _ROWS // 3]
    chosen = set(best)
    for place in reversed(range(len(seen))):
        if len(chosen) == _ROWS:
            break
        chosen.add(place)
    return [seen[place] for place in sorted(chosen)]
