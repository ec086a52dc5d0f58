"""Distributions over numbers: intervals, whole numbers, normal distributions."""

from __future__ import annotations

import math
import sys
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, TypeVar, final

from sweep.space.base import Distribution, RandomSource, bin_of, turned
from sweep.space.values import plain

if TYPE_CHECKING:
    from statistics import NormalDist

__all__ = ["Integer", "LogInteger", "LogNormal", "LogUniform", "LogitUniform", "Normal", "Uniform"]

_T = TypeVar("_T")
_MOST_INTEGERS = 2**40  # more could not be told apart on a logarithmic unit interval in double precision
_NARROW = 1e-6  # a log range of relative width below this is linear to within rounding
_TAIL = 6.3e-16  # a normal's unit interval ends 8 standard deviations out, where doubles end too


@dataclass(frozen=True, repr=False, eq=False)
class _Interval(Distribution):
    """Floats between two bounds, on a scale of their own."""

    continuous: ClassVar[bool] = True
    low: float
    high: float
    num: int | None = None

    def __post_init__(self) -> None:
        _floats(self, "low", "high")

    @property
    def expected(self) -> str:
        """The domain in words, for messages."""
        return f"a float in [{self.low!r}, {self.high!r}]"

    def problems(self) -> Iterator[str]:
        """Yield what is wrong with this definition, a sentence each."""
        yield from _num_problem(self.num)
        wrong = [*_number_problem("low", self.low), *_number_problem("high", self.high)]
        yield from wrong or _range_problem(self.low, self.high) or self._scale_problem()

    def _scale_problem(self) -> list[str]:
        """Say whether a bound is outside the scale."""
        return []

    def contains(self, value: object) -> bool:
        """Whether ``value`` is in the domain, its type included."""
        return type(value) is float and self.low <= value <= self.high

    def cast(self, value: object) -> object:
        """Return ``value`` as a float, if it is a number."""
        return _float(value)

    @cached_property
    def _ends(self) -> tuple[float, float] | None:
        """The bounds on the scale; None: it is linear, or as good as linear between them."""
        return None

    def _onto(self, value: float) -> float:
        """Return the place of ``value`` on the scale."""
        return math.log10(value)

    def _back(self, place: float) -> float:
        """Return the value at a place on the scale."""
        return _power(place)

    def from_unit(self, u: float) -> float:
        """Return the value at ``u`` in [0, 1]; never one outside the domain."""
        low, high, ends = self.low, self.high, self._ends
        if u <= 0 or u >= 1:
            return low if u <= 0 else high
        value = _between(low, high, u) if ends is None else self._back(_between(*ends, u))
        return low if value < low else high if value > high else value

    def to_unit(self, value: float) -> float:
        """Return the place in [0, 1] of a ``value`` of the domain."""
        ends = self._ends
        return _share(self.low, self.high, value) if ends is None else _share(*ends, self._onto(value))

    def perturb(self, value: float, factor: float, rng: RandomSource) -> float:
        """Return ``value`` times ``factor``, or shifted in a range round zero; clipped to the domain."""
        return min(max(self._moved(value, factor), self.low), self.high)

    def _moved(self, value: float, factor: float) -> float:
        return _moved(value, factor, self.low, self.high)

    def grid(self) -> Sequence[float] | None:
        """Return ``num`` values from low to high, evenly spaced on the scale; None without ``num``."""
        return None if self.num is None else _distinct(self.from_unit(u) for u in _even(self.num))


@final
@dataclass(frozen=True, repr=False, eq=False)
class Uniform(_Interval):
    """A float, uniform between ``low`` and ``high``, both included.

    Args:
        low: Lower bound.
        high: Upper bound.
        num: Number of values in a grid.
        when: See `Distribution`.

    Example:
        >>> list(Uniform(0, 1, num=5).grid())
        [0.0, 0.25, 0.5, 0.75, 1.0]
    """


@final
@dataclass(frozen=True, repr=False, eq=False)
class LogUniform(_Interval):
    """A float whose logarithm is uniform between those of ``low`` > 0 and ``high``, both included.

    Args:
        low: Lower bound, above zero.
        high: Upper bound.
        num: Number of values in a grid, evenly spaced on the logarithmic scale.
        when: See `Distribution`.

    Example:
        >>> list(LogUniform(1e-4, 1e-1, num=4).grid())
        [0.0001, 0.001, 0.01, 0.1]
    """

    def _scale_problem(self) -> list[str]:
        return _log_problem(self.low)

    @cached_property
    def _ends(self) -> tuple[float, float] | None:
        return None if self.high / self.low < 1 + _NARROW else (math.log10(self.low), math.log10(self.high))


@final
@dataclass(frozen=True, repr=False, eq=False)
class LogitUniform(_Interval):
    """A share between 0 and 1 whose log odds are uniform between those of ``low`` and ``high``, both included.

    For discounts, momenta and other shares that are told apart near 1 (or near 0): 0.9, 0.99 and 0.999 are about as far
    from each other. A neighbour has ``factor`` times the odds.

    Args:
        low: Lower bound, above 0.
        high: Upper bound, below 1.
        num: Number of values in a grid, evenly spaced on the scale of log odds.
        when: See `Distribution`.

    Example:
        >>> [round(share, 3) for share in LogitUniform(0.5, 0.999, num=4).grid()]
        [0.5, 0.909, 0.99, 0.999]
    """

    def _scale_problem(self) -> list[str]:
        if self.low > 0 and self.high < 1:
            return []
        return [f"low={self.low!r} and high={self.high!r}, but log odds need 0 < low and high < 1: or use Uniform"]

    @cached_property
    def _ends(self) -> tuple[float, float] | None:
        ends = self._onto(self.low), self._onto(self.high)
        return ends if ends[1] - ends[0] > _NARROW else None

    def _onto(self, value: float) -> float:
        return math.log10(value / (1 - value))

    def _back(self, place: float) -> float:
        return 1 / (1 + _power(-place))

    def _moved(self, value: float, factor: float) -> float:
        return factor * value / (1 - value + factor * value)


@dataclass(frozen=True, repr=False, eq=False)
class _Whole(Distribution):
    """Whole numbers between two bounds, both included."""

    low: int
    high: int
    num: int | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        for name in ("low", "high"):
            object.__setattr__(self, name, plain(getattr(self, name)))

    @property
    def _stride(self) -> int:
        return 1

    @cached_property
    def _count(self) -> int:
        return (self.high - self.low) // self._stride + 1

    @property
    def expected(self) -> str:
        """The domain in words, for messages."""
        step = f" in steps of {self._stride} from {self.low}" if self._stride != 1 else ""
        return f"a whole number (int) in [{self.low}, {self.high}]{step}"

    def problems(self) -> Iterator[str]:
        """Yield what is wrong with this definition, a sentence each."""
        yield from _num_problem(self.num)
        wrong = [*_whole_problem("low", self.low), *_whole_problem("high", self.high)]
        wrong = wrong or _range_problem(self.low, self.high) or self._scale_problem()
        yield from wrong
        if not wrong and max(self._count, self._reach) > _MOST_INTEGERS:
            yield f"reaches over {self._count} whole numbers, at most {_MOST_INTEGERS} (2**40) work: use a larger step"

    @abstractmethod
    def _scale_problem(self) -> list[str]:
        """Say whether step or bounds are outside the scale."""

    @property
    def _reach(self) -> int:
        """How far the scale has to tell numbers apart."""
        return self._count

    def contains(self, value: object) -> bool:
        """Whether ``value`` is in the domain, its type included."""
        return type(value) is int and self.low <= value <= self.high and (value - self.low) % self._stride == 0

    def perturb(self, value: int, factor: float, rng: RandomSource) -> int:
        """Return another number: ``value`` times ``factor`` (or shifted), rounded, at least one step away."""
        target = _moved(value, factor, self.low, self.high)
        here = (value - self.low) // self._stride
        if factor == 1:
            return int(value)
        there = min(max(round((target - self.low) / self._stride), 0), self._count - 1)
        if there == here:
            there = turned(here, 1 if target > value else -1, self._count)
        return self.low + there * self._stride

    def grid(self) -> Sequence[int]:
        """Return every value, or with ``num`` so many of them, evenly spaced on the scale (fewer if they coincide)."""
        if self.num is None or self.num >= self._count:
            return range(self.low, self.low + self._count * self._stride, self._stride)
        return _distinct(self._spaced(u) for u in _even(self.num))

    @abstractmethod
    def _spaced(self, u: float) -> int:
        """Return the value ``u`` of the way from the lowest to the highest, for grids."""


@final
@dataclass(frozen=True, repr=False, eq=False)
class Integer(_Whole):
    """A whole number among ``low, low + step, …`` up to ``high``, both bounds included, all equally probable.

    Args:
        low: Lower bound.
        high: Upper bound; the last value is the highest one that a whole number of steps reaches.
        step: Distance of neighbours.
        num: Number of values in a grid; all without it.
        when: See `Distribution`.

    Example:
        >>> list(Integer(1, 8, step=3).grid())
        [1, 4, 7]
    """

    step: int = 1

    @property
    def _stride(self) -> int:
        return self.step

    def _scale_problem(self) -> list[str]:
        wrong = _whole_problem("step", self.step)
        if not wrong and not 1 <= self.step <= self.high - self.low:
            wrong = [f"step={self.step} is not between 1 and high - low = {self.high - self.low}"]
        return wrong

    def from_unit(self, u: float) -> int:
        """Return the value at ``u`` in [0, 1]; never one outside the domain."""
        return self.low + bin_of(u, self._count) * self.step

    def to_unit(self, value: int) -> float:
        """Return the place in [0, 1] of a ``value`` of the domain, the middle of its bin."""
        return ((int(value) - self.low) // self.step + 0.5) / self._count

    def _spaced(self, u: float) -> int:
        return self.low + round(u * (self._count - 1)) * self.step


@final
@dataclass(frozen=True, repr=False, eq=False)
class LogInteger(_Whole):
    """A whole number from ``low`` >= 1 to ``high``, both included, uniform on a logarithmic scale.

    It is a `LogUniform` from ``low - 0.5`` to ``high + 0.5``, rounded.

    Args:
        low: Lower bound, at least 1.
        high: Upper bound.
        num: Number of values in a grid, evenly spaced on the logarithmic scale; all without it.
        when: See `Distribution`.

    Example:
        >>> list(LogInteger(16, 128, num=4).grid())
        [16, 32, 64, 128]
    """

    def _scale_problem(self) -> list[str]:
        return _log_problem(self.low)

    @property
    def _reach(self) -> int:
        return self.high

    @cached_property
    def _log_ends(self) -> tuple[float, float]:
        return math.log10(self.low - 0.5), math.log10(self.high + 0.5)

    def from_unit(self, u: float) -> int:
        """Return the value at ``u`` in [0, 1]; never one outside the domain."""
        value = int(_power(_between(*self._log_ends, u)) + 0.5)
        return min(max(value, self.low), self.high)

    def to_unit(self, value: int) -> float:
        """Return the place in [0, 1] of a ``value`` of the domain."""
        return _share(*self._log_ends, math.log10(value))

    def _spaced(self, u: float) -> int:
        return round(_power(_between(math.log10(self.low), math.log10(self.high), u)))


@dataclass(frozen=True, repr=False, eq=False)
class _Gaussian(Distribution):
    """A normal distribution, of the value or of its logarithm; the domain has no bounds."""

    continuous: ClassVar[bool] = True
    mean: float
    std: float
    num: int | None = None

    def __post_init__(self) -> None:
        _floats(self, "mean", "std")

    def problems(self) -> Iterator[str]:
        """Yield what is wrong with this definition, a sentence each."""
        yield from _num_problem(self.num)
        wrong = [*_number_problem("mean", self.mean), *_number_problem("std", self.std)]
        if not wrong and self.std <= 0:
            wrong.append(f"std={self.std!r}, expected a number above 0 (for a single value write Constant)")
        yield from wrong or self._reach_problem()

    @abstractmethod
    def _reach_problem(self) -> list[str]:
        """Say whether values 8 standard deviations out leave the range of floats."""

    def cast(self, value: object) -> object:
        """Return ``value`` as a float, if it is a number."""
        return _float(value)

    @cached_property
    def _standard(self) -> NormalDist:
        from statistics import NormalDist  # takes 12 ms to import, and few spaces need it

        return NormalDist()

    def _deviate(self, u: float) -> float:
        deviate: float = self._standard.inv_cdf(min(max(u, _TAIL), 1 - _TAIL))
        return self.mean + self.std * deviate

    def _rank(self, value: float) -> float:
        return 0.5 * math.erfc((self.mean - value) / self.std / math.sqrt(2))  # erfc keeps the lower tail exact

    def grid(self) -> Sequence[float] | None:
        """Return the middles of ``num`` equally probable parts; None without ``num``."""
        if self.num is None:
            return None
        return _distinct(self.from_unit((i + 0.5) / self.num) for i in range(self.num))


@final
@dataclass(frozen=True, repr=False, eq=False)
class Normal(_Gaussian):
    """A normally distributed float; any finite float is in the domain.

    Its unit interval is the cumulative probability, clipped 8 standard deviations out.

    Args:
        mean: Mean.
        std: Standard deviation, above zero.
        num: Number of values in a grid: the middles of equally probable parts.
        when: See `Distribution`.

    Example:
        >>> Normal(10, 2).from_unit(0.5)
        10.0
    """

    def _reach_problem(self) -> list[str]:
        reach = abs(self.mean) + 8 * self.std
        return [] if math.isfinite(reach) else [f"mean={self.mean!r} and std={self.std!r} leave the range of floats"]

    @property
    def expected(self) -> str:
        """The domain in words, for messages."""
        return "a finite float"

    def contains(self, value: object) -> bool:
        """Whether ``value`` is in the domain, its type included."""
        return type(value) is float and math.isfinite(value)

    def from_unit(self, u: float) -> float:
        """Return the value below which a share ``u`` of the probability lies."""
        return self._deviate(u)

    def to_unit(self, value: float) -> float:
        """Return the cumulative probability of ``value``."""
        return self._rank(value)

    def perturb(self, value: float, factor: float, rng: RandomSource) -> float:
        """Return ``value`` shifted by ``factor - 1`` times two standard deviations."""
        most = sys.float_info.max
        return min(max(float(value) + (factor - 1) * 2 * self.std, -most), most)


@final
@dataclass(frozen=True, repr=False, eq=False)
class LogNormal(_Gaussian):
    """A float whose natural logarithm is normally distributed; any finite float above zero is in the domain.

    Args:
        mean: Mean of the natural logarithm.
        std: Standard deviation of the natural logarithm, above zero.
        num: Number of values in a grid: the middles of equally probable parts.
        when: See `Distribution`.

    Example:
        >>> LogNormal(0, 1).from_unit(0.5)
        1.0
    """

    def _reach_problem(self) -> list[str]:
        if abs(self.mean) + 8 * self.std <= 700:
            return []
        return [
            f"mean={self.mean!r} and std={self.std!r} leave the range of floats: "
            "both are of the natural logarithm of the value (write log(value))"
        ]

    @property
    def expected(self) -> str:
        """The domain in words, for messages."""
        return "a finite float above 0"

    def contains(self, value: object) -> bool:
        """Whether ``value`` is in the domain, its type included."""
        return type(value) is float and 0 < value < math.inf

    def from_unit(self, u: float) -> float:
        """Return the value below which a share ``u`` of the probability lies."""
        return math.exp(self._deviate(u))

    def to_unit(self, value: float) -> float:
        """Return the cumulative probability of ``value``."""
        return self._rank(math.log(value))

    def perturb(self, value: float, factor: float, rng: RandomSource) -> float:
        """Return ``value`` times ``factor``."""
        return min(max(float(value) * factor, sys.float_info.min), sys.float_info.max)


def _float(value: object) -> object:
    value = plain(value)
    if type(value) is not int:
        return value
    try:
        return float(value)
    except OverflowError:
        return value


def _floats(of: Distribution, *names: str) -> None:
    for name in names:
        object.__setattr__(of, name, _float(getattr(of, name)))


def _number_problem(label: str, value: object) -> list[str]:
    if type(value) is not float:
        return [f"{label}={value!r} ({type(value).__name__}), expected a number"]
    return [] if math.isfinite(value) else [f"{label}={value!r}, expected a finite number"]


def _whole_problem(label: str, value: object) -> list[str]:
    return [] if type(value) is int else [f"{label}={value!r} ({type(value).__name__}), expected a whole number (int)"]


def _range_problem(low: float, high: float) -> list[str]:
    if low == high:
        return [f"low and high are both {low!r}: write Constant({low!r})"]
    if low > high:
        return [f"low={low!r} is above high={high!r}: swap them"]
    return []


def _log_problem(low: float) -> list[str]:
    return [] if low > 0 else [f"low={low!r}, but a logarithmic scale needs low > 0: raise low, or use Uniform or Integer"]


def _num_problem(num: object) -> list[str]:
    if num is None or (type(num) is int and num >= 1):
        return []
    return [f"num={num!r}, expected the number of values in a grid (int, at least 1)"]


def _between(low: float, high: float, u: float) -> float:
    span = high - low
    return low + span * u if span < math.inf else low * (1 - u) + high * u


def _share(low: float, high: float, value: float) -> float:
    span = high - low
    share = (value - low) / span if span < math.inf else (value / 2 - low / 2) / (high / 2 - low / 2)
    return min(max(share, 0.0), 1.0)


def _power(exponent: float) -> float:
    try:
        return float(10.0**exponent)  # base 10, so that powers of ten come out exact
    except OverflowError:
        return math.inf


def _even(num: int) -> list[float]:
    return [i / (num - 1) for i in range(num)] if num > 1 else [0.5]


def _distinct(values: Iterable[_T]) -> tuple[_T, ...]:
    return tuple(dict.fromkeys(values))


def _moved(value: float, factor: float, low: float, high: float) -> float:
    if value == 0 or low < 0 < high:  # multiplying can neither leave nor cross zero
        return value + (factor - 1) * (high / 2 - low / 2)
    return value * factor
