"""Grid search."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from itertools import islice
from typing import final

from sweep.optimizers.seeding import SeededOptimizer
from sweep.space.values import key
from sweep.trial import Result, Source, Status, Trial

__all__ = ["GridOptimizer"]


@final
class GridOptimizer(SeededOptimizer):
    """Try every combination of the space's grid exactly once, in the order of ``SearchSpace.grid``.

    A combination counts as tried once it has been suggested, enqueued by the user, or completed in a
    sweep whose history was taken over. Whether it then failed makes no difference (retries are the sweep's).
    When nothing is left ``suggest`` returns ``[]``. Needs no package.

    Args:
        search_space: What to search; None: the sweep's. A continuous parameter needs ``num=``.

    Raises:
        SpaceError: At ``setup``: a continuous parameter without ``num=``.

    Example:
        >>> from sweep.space import Choice, SearchSpace
        >>> optimizer = GridOptimizer(SearchSpace({"depth": Choice([1, 2]), "act": Choice(["relu", "gelu"])}))
        >>> len(optimizer.suggest(3)), len(optimizer.suggest(3)), len(optimizer.suggest(3))
        (3, 1, 0)
    """

    finite = True
    cheap = True
    cheap = True

    def _begin(self) -> None:
        self._passed = 0  # how many combinations of the grid have been dealt with
        self._tried: set[Hashable] = set()  # what was tried without having been suggested here
        self._source: Iterator[Mapping[str, object]] | None = iter(self._space.grid()) if self._space is not None else None

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_source": None}  # an iterator does not pickle; the place in it does

    def _ahead(self) -> Iterator[Mapping[str, object]]:
        if self._source is None:
            self._source = islice(iter(self.space.grid()), self._passed, None)
        return self._source

    def suggest(self, n: int) -> list[Trial]:
        """Return the next ``n`` combinations not tried yet, fewer at the end; ``[]``: exhausted."""
        self.space  # noqa: B018  # sets up a free-standing optimizer, or says what is missing
        trials: list[Trial] = []
        while len(trials) < n:
            params = next(self._ahead(), None)
            if params is None:
                break
            self._passed += 1
            if not self._tried or _key(params) not in self._tried:
                trials.append(Trial(dict(params)))
        return trials

    def observe(self, trial: Trial, result: Result) -> None:
        """Note a combination that somebody else proposed."""
        if trial.source is not Source.OPTIMIZER:
            self._tried.add(_key(trial.params))

    def restore(self, trials: Iterable[Trial]) -> None:
        """Take over which combinations have been tried."""
        self.space  # noqa: B018  # as above
        self._tried.update(_key(trial.params) for trial in trials if _counts(trial))


def _counts(trial: Trial) -> bool:
    """Whether a trial stands for its combination; one of an earlier sweep only if it was completed."""
    return trial.status is Status.COMPLETED if trial.source is Source.EARLIER else True


def _key(params: Mapping[str, object]) -> Hashable:
    return key({name: params[name] for name in sorted(params)})
