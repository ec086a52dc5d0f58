"""What our optimizers have in common: a space, and randomness by number.

A running stream of random numbers would make suggestion 7 depend on how the first six were
asked for, and a resumed sweep would have to replay them. Here each suggestion has a seed of
its own, made of the sweep's seed and its number.
"""

from __future__ import annotations

import zlib
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence

from sweep.errors import StrategyError
from sweep.optimizers.base import Optimizer
from sweep.space import Params, SearchSpace
from sweep.trial import Objective, Result, Source, Trial

__all__ = ["IndexedOptimizer", "SeededOptimizer", "own_seed"]

_MASK = (1 << 64) - 1


def own_seed(seed: int, index: int, purpose: str = "") -> int:
    """Return the seed (>= 0, at most 160 bits) of suggestion ``index`` of the sweep with ``seed``.

    Args:
        seed: The sweep's seed, taken modulo 2**64.
        index: Number of the suggestion, from 0.
        purpose: Tells streams apart that must not repeat each other, for example the class's name.

    Example:
        >>> own_seed(1, 2) == own_seed(1, 2), own_seed(1, 2) == own_seed(2, 1)
        (True, False)
    """
    return (zlib.crc32(purpose.encode()) << 128) | ((seed & _MASK) << 64) | (index & _MASK)


class SeededOptimizer(Optimizer):
    """Base of our optimizers: takes a space early or late, and seed and objectives at ``setup``.

    Used by itself, without a sweep, it sets itself up on first use: seed 0, one objective to minimise.

    Args:
        search_space: What to search, as a `SearchSpace` or a mapping of names to distributions; None: the sweep's.

    Raises:
        SpaceError: The mapping is no search space.
    """

    def __init__(self, search_space: Mapping[str, object] | None = None) -> None:
        if search_space is not None and not isinstance(search_space, SearchSpace):
            search_space = SearchSpace(search_space)
        self.search_space = search_space
        self._space: SearchSpace | None = None
        self._objectives: tuple[Objective, ...] = (Objective(),)
        self._seed = 0

    def setup(self, space: SearchSpace, objectives: Sequence[Objective], seed: int) -> None:
        """Take the sweep's space, objectives and seed; forgets everything learned before."""
        self._space, self._objectives, self._seed = space, tuple(objectives), seed
        self._begin()

    @property
    def space(self) -> SearchSpace:
        """The space that is searched.

        Raises:
            StrategyError: None was given, neither here nor at ``setup``.
        """
        if self._space is None:
            if self.search_space is None:
                name = type(self).__name__
                raise StrategyError(f"{name} has no search space yet: give it one, {name}(space), or call setup first")
            self.setup(self.search_space, self._objectives, self._seed)
        return self._space  # type: ignore[return-value]  # setup has just set it

    @abstractmethod
    def _begin(self) -> None:
        """Start afresh on ``_space``, ``_objectives`` and ``_seed``."""


class IndexedOptimizer(SeededOptimizer):
    """Base of optimizers without history: suggestion ``i`` depends on the seed and ``i`` alone."""

    cheap = True
    _next = 0

    def _begin(self) -> None:
        self._next = 0

    @abstractmethod
    def _params(self, index: int) -> Params:
        """Return the parameters of suggestion ``index``."""

    def suggest(self, n: int) -> list[Trial]:
        """Return the next ``n`` trials."""
        first = self._next
        if first == 0:
            self.space  # noqa: B018  # sets up a free-standing optimizer, or says what is missing
        self._next = first + n
        return [Trial(self._params(index)) for index in range(first, first + n)]

    def observe(self, trial: Trial, result: Result) -> None:
        """Learn nothing."""

    def restore(self, trials: Iterable[Trial]) -> None:
        """Go on after as many suggestions as ``trials`` holds of this optimizer's own."""
        self.space  # noqa: B018  # as above
        self._next = sum(1 for trial in trials if trial.source is Source.OPTIMIZER)
