"""Quasi-random search."""

from __future__ import annotations

from typing import Any, final

from sweep.errors import MissingExtra
from sweep.optimizers.seeding import IndexedOptimizer, own_seed

__all__ = ["SobolOptimizer"]

_CHUNK = 64


@final
class SobolOptimizer(IndexedOptimizer):
    """Spread trials evenly: points of a scrambled Sobol sequence in the space's unit cube.

    Suggestion ``i`` is point ``i`` of the sequence that the sweep's seed scrambles, so any number of
    workers, and a resumed sweep, get the same trials. A conditional parameter has a coordinate
    of its own, unused where it is inactive.

    Args:
        search_space: What to search; None: the sweep's.

    Raises:
        MissingExtra: numpy or scipy is not installed.

    Source: Sobol, USSR Comput. Math. Math. Phys. 7 (1967); scrambling: Owen, J. Complexity 14 (1998).

    Example:
        >>> from sweep.space import SearchSpace, Uniform
        >>> optimizer = SobolOptimizer(SearchSpace({"x": Uniform(0, 1)}))
        >>> sorted(int(4 * trial.params["x"]) for trial in optimizer.suggest(4))
        [0, 1, 2, 3]
    """

    def _begin(self) -> None:
        super()._begin()
        self._chunk: tuple[int, list[list[float]]] = (-1, [])

    def _params(self, index: int) -> dict[str, Any]:
        place, offset = divmod(index, _CHUNK)
        if self._chunk[0] != place:
            seed = own_seed(self._seed, 0, "sobol")
            self._chunk = place, sobol_points(len(self.space.dimensions), place * _CHUNK, _CHUNK, seed)
        return self.space.from_unit(self._chunk[1][offset])


def sobol_points(dimensions: int, first: int, count: int, seed: int) -> list[list[float]]:
    """Return points ``first`` to ``first + count`` in [0, 1)^dimensions of the scrambled Sobol sequence of ``seed``.

    Raises:
        MissingExtra: numpy or scipy is not installed.
    """
    if dimensions == 0:
        return [[] for _ in range(count)]
    try:
        import numpy as np
        from scipy.stats import qmc  # type: ignore[import-untyped]  # scipy has no types of its own
    except ImportError as error:
        raise MissingExtra("SobolOptimizer", error.name or "scipy", "bayesian") from error
    # from a multiple of its length on, a run of 2^k points is balanced; scipy warns of any other
    engine = qmc.Sobol(dimensions, scramble=True, rng=np.random.default_rng(seed))
    if first:
        engine.fast_forward(first)
    points: list[list[float]] = engine.random(count).tolist()
    return points
