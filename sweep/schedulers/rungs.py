"""Rungs: the one implementation of successive halving's ladder, integer-exact.

Reduction factors are taken as the fraction that was meant (``2.5`` is 5/2, ``1.2`` is 6/5, ``1 / 0.3``
is 10/3) and all sizes follow by rational arithmetic, so that no logarithm and no rounding of floats
decides how many rungs there are or how many trials go up.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left
from fractions import Fraction
from typing import final

__all__ = ["Rung", "exact", "hyperband_sizes", "hyperband_table", "levels", "round_sizes", "training_steps", "whole_log"]


def exact(number: float | Fraction) -> Fraction:
    """Return the simplest fraction that a float can stand for: the nearest with a denominator up to 10**9.

    Example:
        >>> exact(1.2), exact(1 / 0.3)
        (Fraction(6, 5), Fraction(10, 3))
    """
    return Fraction(number) if isinstance(number, int | Fraction) else Fraction(number).limit_denominator(10**9)


def whole_log(ratio: Fraction, factor: Fraction) -> int:
    """Return the largest k with ``factor**k <= ratio`` (``ratio >= 1``, ``factor > 1``).

    Example:
        >>> whole_log(Fraction(243), Fraction(3))
        5
    """
    k, power = 0, factor
    while power <= ratio:
        k, power = k + 1, power * factor
    return k


def levels(first: int, last: int, factor: float | Fraction) -> tuple[int, ...]:
    """Return the resources at which trials are compared: ``first * factor**k < last``, then ``last``.

    With a factor that is no whole number a level is rounded down to a whole step, and levels that
    coincide are one.

    Example:
        >>> levels(1, 243, 3)
        (1, 3, 9, 27, 81, 243)
        >>> levels(5, 51, 2)
        (5, 10, 20, 40, 51)
        >>> levels(2, 20, 1.5)
        (2, 3, 4, 6, 10, 15, 20)
    """
    eta, level, found = exact(factor), Fraction(first), []
    while level < last:
        found.append(math.floor(level))
        level *= eta
    return (*dict.fromkeys(found), last)


def hyperband_sizes(count: int, factor: float | Fraction) -> tuple[int, ...]:
    """Return how many configurations Hyperband starts in each of its ``count`` brackets, the largest first.

    ``n = ceil(count / (s + 1) * factor**s)`` for s = count - 1 … 0, which is line 2 of algorithm 1 of
    arXiv 1603.06560 with B = count * R.

    Example:
        >>> hyperband_sizes(5, 3)
        (81, 34, 15, 8, 5)
    """
    eta = exact(factor)
    return tuple(math.ceil(Fraction(count, s + 1) * eta**s) for s in reversed(range(count)))


def hyperband_table(first: int, last: int, factor: float | Fraction) -> tuple[tuple[tuple[int, int], ...], ...]:
    """Return Hyperband's brackets, each as its rungs ``(trials, resource)``: algorithm 1 of arXiv 1603.06560.

    Resources are counted down from ``last`` (``last * factor**-j``, rounded down) as the paper does; none
    is below ``first``. ``trials`` is what the rung takes if no trial fails.

    Example:
        >>> hyperband_table(1, 9, 3)
        (((9, 1), (3, 3), (1, 9)), ((5, 3), (1, 9)), ((3, 9),))
    """
    eta = exact(factor)
    count = whole_log(Fraction(last, first), eta) + 1
    table = []
    for n, s in zip(hyperband_sizes(count, eta), reversed(range(count)), strict=True):
        rungs: dict[int, int] = {}
        for i in range(s + 1):  # levels that coincide after rounding are one rung, as wide as the first of them
            rungs.setdefault(math.floor(last / eta ** (s - i)), math.floor(n / eta**i))
        table.append(tuple((trials, resource) for resource, trials in rungs.items() if trials))
    return tuple(table)


def training_steps(n: int, halving_rate: float, num_min_samples: int, max_steps: int) -> list[int]:
    """Return the steps of each round of Ato's halving: one entry for each round, the last ``max_steps``.

    A round trains all configurations that are left, then keeps ``floor(n * halving_rate)`` of them;
    rounds go on while at least ``num_min_samples`` (and one) are left. Each round has ``1 / halving_rate``
    times the steps of the one before, rounded up. (Ato's own table can be a round short: it counts by
    logarithm, its loop by counting.)

    Args:
        n: Configurations in the first round, >= 1.
        halving_rate: Share that is kept, between 0 and 1.
        num_min_samples: Configurations below which no further round is run, >= 1.
        max_steps: Steps of the last round, >= 1.

    Example:
        >>> training_steps(27, 1 / 3, 3, 900)
        [100, 300, 900]
        >>> training_steps(20000, 0.3, 4, 120000)
        [27, 88, 292, 972, 3240, 10800, 36000, 120000]
    """
    rate, rounds = exact(halving_rate), len(round_sizes(n, halving_rate, num_min_samples))
    return [math.ceil(max_steps * rate**k) for k in reversed(range(rounds))]


def round_sizes(n: int, halving_rate: float, num_min_samples: int) -> list[int]:
    """Return how many configurations each round of Ato's halving runs; see :func:`training_steps`.

    Example:
        >>> round_sizes(300, 0.3, 3)
        [300, 90, 27, 8]
    """
    rate, left, sizes = exact(halving_rate), n, []
    while left >= max(1, num_min_samples):
        sizes.append(left)
        left = math.floor(left * rate)
    return sizes


@final
class Rung:
    """The trials that have come to one level, in order; insert and decision take O(log n) comparisons.

    A place is taken once for each trial: by its loss there, or as worst (``inf``) if it failed on the
    way. A lower loss comes first, of equal ones the lower number.

    Args:
        level: The resource of the rung, in steps.

    Example:
        >>> rung = Rung(3)
        >>> for number, loss in enumerate([0.5, 0.1, 0.3, 0.1]):
        ...     _ = rung.enter(number, loss)
        ...     rung.offer(number)
        >>> rung.best(len(rung) // 3), rung.best(0)
        (1, None)
        >>> rung.take(1)
        >>> rung.best(2)
        3
    """

    __slots__ = ("_losses", "_order", "_waiting", "level")

    def __init__(self, level: int) -> None:
        self.level = level
        self._losses: dict[int, float] = {}
        self._order: list[tuple[float, int]] = []
        self._waiting: list[tuple[float, int]] = []  # heap; entries that were taken are dropped when met

    def __len__(self) -> int:
        return len(self._order)

    def __contains__(self, number: int) -> bool:
        return number in self._losses

    def enter(self, number: int, loss: float) -> int:
        """Give a trial its place, or a new one, and return its rank (0 is best)."""
        self._leave(number)
        entry = (loss, number)
        self._losses[number] = loss
        at = bisect_left(self._order, entry)
        self._order.insert(at, entry)
        return at

    def offer(self, number: int) -> None:
        """Let a trial that is in the rung wait for promotion; one with an infinite loss never waits."""
        loss = self._losses[number]
        if loss < math.inf:
            heapq.heappush(self._waiting, (loss, number))

    def take(self, number: int) -> None:
        """End the waiting of a trial; its place stays."""
        if self._waiting and self._waiting[0][1] == number:
            heapq.heappop(self._waiting)
            return
        self._waiting = [entry for entry in self._waiting if entry[1] != number]
        heapq.heapify(self._waiting)

    def best(self, keep: int) -> int | None:
        """Return the best waiting trial if its rank is below ``keep``, else None."""
        if not self._waiting or keep < 1:
            return None
        first = self._waiting[0]
        # The best waiting trial is outside the first `keep` exactly if their last one comes before it.
        return first[1] if keep >= len(self._order) or first <= self._order[keep - 1] else None

    def numbers(self, keep: int | None = None) -> list[int]:
        """Return the first ``keep`` trials of the rung, the best first."""
        return [number for _, number in self._order[:keep]]

    def loss(self, number: int) -> float:
        """Return the loss with which a trial stands in the rung."""
        return self._losses[number]

    def _leave(self, number: int) -> None:
        known = self._losses.pop(number, None)
        if known is not None:
            del self._order[bisect_left(self._order, (known, number))]
