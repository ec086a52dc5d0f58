"""Random search."""

from __future__ import annotations

import random
from typing import final

from sweep.optimizers.seeding import IndexedOptimizer, own_seed
from sweep.space import Params

__all__ = ["RandomOptimizer"]


@final
class RandomOptimizer(IndexedOptimizer):
    """Draw every trial at random, each parameter from its own distribution.

    Suggestion ``i`` depends on the sweep's seed and ``i`` alone: any number of workers, and a
    resumed sweep, get the same trials. Needs no package.

    Args:
        search_space: What to search; None: the sweep's.

    Source: Bergstra and Bengio, Random Search for Hyper-Parameter Optimization, JMLR 13 (2012).

    Example:
        >>> from sweep.space import SearchSpace, Uniform
        >>> optimizer = RandomOptimizer(SearchSpace({"x": Uniform(0, 1)}))
        >>> [trial] = optimizer.suggest(1)
        >>> 0 <= trial.params["x"] <= 1
        True
    """

    cheap = True

    def _begin(self) -> None:
        super()._begin()
        self._rng = random.Random(0)  # noqa: S311  # reproducibility, not secrecy

    def _params(self, index: int) -> Params:
        self._rng.seed(own_seed(self._seed, index, "random"))  # half the price of a new generator
        return self.space.sample(self._rng)
