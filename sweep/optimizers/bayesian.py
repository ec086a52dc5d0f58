"""Our own model-based search: one Gaussian process over configurations and learning curves."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, final

from sweep.errors import StrategyError
from sweep.optimizers.history import OwnModelOptimizer, Proposal, Record, State
from sweep.optimizers.seeding import own_seed
from sweep.optimizers.sobol import sobol_points
from sweep.space import Integer, SearchSpace
from sweep.trial import Result, Source, Status, Trial

if TYPE_CHECKING:
    from sweep.optimizers.belief import Belief, Memory

__all__ = ["BayesianOptimizer"]

_START = 10  # quasi-random trials where each is run to its end
_START_CURVES = 30  # up to which every other one is, where a start is cheap: trials pause or are stopped early
_FEWEST = 3  # results without which there is no model
_GROWTH = 1.15  # the model is fitted anew when it knows so many times the results it was last fitted to
_RANDOM = 0.15  # share of random trials where starts are cheap


@final
class BayesianOptimizer(OwnModelOptimizer):
    """Search with a Gaussian process over (configuration, step), in numpy and scipy.

    The model learns from every level at which trials paused, were stopped or ended, so a curve's start informs
    what its end will be; it offers `predict`, by which ``ASHAScheduler(rank_by="predicted")`` promotes. Where
    nothing is reported on the way it is a plain Bayesian optimizer. It begins with quasi-random points. Then
    most trials maximise the expected improvement at the last step, others the confidence bound; some are random
    where starts are cheap. Pending trials count with the value that is expected of them. A failed
    trial counts as bad as the worst that did not fail.

    Args:
        search_space: What to search; None: the sweep's.
        n_initial: Quasi-random trials at the start; None: 10, and where trials pause or are stopped early every other
            one up to the thirtieth. Each result of another trial (earlier, enqueued) spares one.

    Raises:
        MissingExtra: At ``setup``: numpy or scipy is not installed.
        StrategyError: At ``setup``: there are several objectives. Here: ``n_initial`` is no whole number from 1 on.

    Source: curve kernel after Swersky et al., Freeze-Thaw Bayesian Optimization (arXiv 1406.3896); expected
    improvement as in Ament et al. (arXiv 2310.20708). The combination and its constants were found by experiment.

    Example:
        >>> from sweep.space import SearchSpace, Uniform
        >>> from sweep.trial import Result
        >>> optimizer = BayesianOptimizer(SearchSpace({"x": Uniform(-1, 1)}))
        >>> losses = []
        >>> for _ in range(16):
        ...     [trial] = optimizer.suggest(1)
        ...     losses.append((trial.params["x"] - 0.3) ** 2)
        ...     optimizer.observe(trial, Result(losses[-1]))
        >>> min(losses) < 1e-3
        True
    """

    extra: ClassVar[str] = "bayesian"
    TUNABLE: ClassVar[Mapping[str, Any]] = {"n_initial": Integer(5, 40)}

    def __init__(
        self, search_space: SearchSpace | Mapping[str, Any] | None = None, *, n_initial: int | None = None
    ) -> None:
        super().__init__(search_space)
        if n_initial is not None and (type(n_initial) is not int or n_initial < 1):
            raise StrategyError(f"BayesianOptimizer(n_initial={n_initial!r}): expected a whole number >= 1, or None")
        self.n_initial = n_initial

    def _begin(self) -> None:
        super()._begin()
        self._memory: Memory = self._remember()
        self._theta: list[float] | None = None
        self._fitted_to = 0  # results
        self._last = 0.0  # the highest step that was asked about
        self._belief: Belief | None = None
        self._start: list[list[float]] = []

    def __getstate__(self) -> dict[str, Any]:
        if self._space is None:
            return self.__dict__
        return {**self.__dict__, "_belief": None, "_memory": self._remember()}  # made again from the history

    def _remember(self) -> Memory:
        from sweep.optimizers.belief import Memory

        return Memory(self.space, self._encoding, self._objectives[0])

    def observe(self, trial: Trial, result: Result) -> None:
        """Learn a result; a later one for the same trial replaces it. A trial outside the space is passed over.

        Raises:
            StrategyError: There is more than one score.
        """
        self._belief = None
        super().observe(trial, result)

    def restore(self, trials: Iterable[Trial]) -> None:
        """Take over the trials of an earlier session as data, and the model's hyperparameters from their notes."""
        trials = list(trials)
        super().restore(trials)
        self._belief = None
        for trial in trials:
            fit = (trial.notes or {}).get("fit") if trial.source is Source.OPTIMIZER else None
            if fit is not None:
                self._theta, self._fitted_to, self._last = fit["theta"], fit["results"], fit["last"]

    def predict(self, trials: Sequence[Trial], resource: float) -> list[tuple[float, float]]:
        """Return mean and standard deviation of each trial's score after ``resource`` steps, given all results.

        Scores are as reported, not oriented. Before there is a model: (NaN, NaN).
        """
        self.space  # noqa: B018  # sets up a free-standing optimizer, or says what is missing
        if resource > self._last:
            self._last, self._belief = float(resource), None
        belief = self._believe()
        units = [self._memory.unit(trial) for trial in trials]
        known = [unit for unit in units if unit is not None]
        if belief is None or not known:
            return [(math.nan, math.nan)] * len(trials)
        found = iter(belief.losses(known, resource))
        answers = [(math.nan, math.nan) if unit is None else next(found) for unit in units]
        sign = -1.0 if self._objectives[0].mode == "max" else 1.0
        return [(sign * mean, sd) for mean, sd in answers]

    def _proposals(self, first: int, n: int) -> Iterator[Proposal]:
        for index in range(first, first + n):
            yield self._propose(index)

    def _propose(self, index: int) -> Proposal:
        records = self._history.records
        cheap = any(record.partial for record in records)
        if self._spreads(index + self._history.n_given, cheap):
            return self._encoding.params(self._spread(index)), {}
        import numpy as np

        rng = np.random.default_rng(own_seed(self._seed, index, "bayesian"))
        note = self._refit()
        belief = self._believe()
        if belief is None or (cheap and rng.random() < _RANDOM):
            return self.space.sample(rng), note
        waiting = [record for record in records if _running(record)]
        return belief.best_candidate(waiting, cheap, rng), note

    def _spreads(self, index: int, cheap: bool) -> bool:
        """Whether suggestion ``index`` is one of the quasi-random ones at the start.

        Many cheap starts serve a long search, but a short one should not end before the model was asked: between
        the tenth and the thirtieth every other one is the model's.
        """
        if self.n_initial is not None:
            return index < self.n_initial
        return index < _START or (cheap and index < _START_CURVES and index % 2 == 1)

    def _spread(self, index: int) -> Any:
        """Return point ``index`` of the quasi-random sequence."""
        import numpy as np

        if index >= len(self._start):
            count = 1 << max(index, 31).bit_length()
            seed = own_seed(self._seed, 0, "bayesian")
            self._start = sobol_points(len(self.space.dimensions), 0, count, seed)
        return np.array(self._start[index])

    def _believe(self) -> Belief | None:
        """Return the model given all results, or None while there are too few."""
        if self._belief is None and sum(record.state is State.SEEN for record in self._history.records) >= _FEWEST:
            from sweep.optimizers.belief import Belief

            self._belief = Belief(self._memory, self._history.records, self._last, self._theta, self._seed)
        return self._belief

    def _refit(self) -> dict[str, Any]:
        """Fit the model if it is due, and return the note that lets a restored optimizer do without."""
        belief = self._believe()
        if belief is None or belief.n_results < self._fitted_to * _GROWTH:
            return {}
        # rounded, so that what the journal gives back is what was used
        self._theta = [round(value, 4) for value in belief.fit()]
        self._fitted_to = belief.n_results
        self._belief = None
        return {"fit": {"theta": self._theta, "results": self._fitted_to, "last": self._last}}


def _running(record: Record) -> bool:
    """Whether a trial is on its way to a result that is not known yet."""
    if record.state is State.PENDING:
        return True
    return record.state is State.SEEN and record.partial and record.trial.status is Status.RUNNING
