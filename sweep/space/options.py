"""Distributions over options: choices, ordered choices, constants."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

from sweep.space.base import Distribution, RandomSource, bin_of, turned
from sweep.space.values import canonical, fresh, key, plain

__all__ = ["Choice", "Constant", "Ordinal"]


@dataclass(frozen=True, repr=False, eq=False)
class _Options(Distribution):
    """One of a list of values."""

    options: Sequence[object]

    def __post_init__(self) -> None:
        options = self.options
        if isinstance(options, Iterable) and not isinstance(options, str | bytes | Mapping | AbstractSet):
            object.__setattr__(self, "options", tuple(plain(option) for option in options))

    @property
    def fixed(self) -> bool:
        """Whether there is only one value."""
        return len(self.options) == 1

    @cached_property
    def _places(self) -> dict[Hashable, int]:
        return {key(option): place for place, option in enumerate(self.options)}

    @property
    def expected(self) -> str:
        """The domain in words, for messages."""
        shown = [repr(option) for option in self.options[:12]]
        return f"one of {', '.join(shown)}{', …' if len(self.options) > 12 else ''}"

    def problems(self) -> Iterator[str]:
        """Yield what is wrong with this definition, a sentence each."""
        if not isinstance(self.options, tuple):
            why = "has no order that stays the same" if isinstance(self.options, AbstractSet) else "is no list"
            yield f"options={self.options!r} {why}: write a list, {type(self).__name__}([…])"
        elif not self.options:
            yield "has no options: give at least one"
        else:
            yield from self._option_problems()

    def _option_problems(self) -> Iterator[str]:
        seen: dict[Hashable, int] = {}
        for place, option in enumerate(self.options):
            try:
                canonical(option)
            except ValueError as error:
                yield f"option {place}: {error}"
                continue
            first = seen.setdefault(key(option), place)
            if first != place:
                yield f"option {place} ({option!r}) repeats option {first}: name each option once"

    def contains(self, value: object) -> bool:
        """Whether ``value`` is in the domain, its type included."""
        return key(value) in self._places

    def from_unit(self, u: float) -> Any:
        """Return the option whose bin holds ``u`` in [0, 1]."""
        return fresh(self.options[bin_of(u, len(self.options))])

    def to_unit(self, value: object) -> float:
        """Return the middle of the option's bin in [0, 1]."""
        return (self._places[key(value)] + 0.5) / len(self.options)

    def grid(self) -> Sequence[object]:
        """Return every option."""
        return self.options


@final
@dataclass(frozen=True, repr=False, eq=False)
class Choice(_Options):
    """One of ``options``, all equally probable, in no order.

    Args:
        options: Plain data (None, bool, int, float, text, lists, tuples and dicts of these). ``1``, ``1.0`` and
            ``True`` are different options. A single option is a constant.
        when: See `Distribution`.

    Example:
        >>> Choice(["sgd", "adam"], when=("train", True))
        Choice(['sgd', 'adam'], when=('train', [True]))
    """

    def perturb(self, value: object, factor: float, rng: RandomSource) -> Any:
        """Return an option drawn anew."""
        return self.sample(rng)


@final
@dataclass(frozen=True, repr=False, eq=False)
class Ordinal(_Options):
    """One of ``options`` that have an order, all equally probable.

    Args:
        options: As in `Choice`, in their order.
        when: See `Distribution`.

    Example:
        >>> Ordinal(["small", "medium", "large"]).to_unit("medium")
        0.5
    """

    def perturb(self, value: object, factor: float, rng: RandomSource) -> Any:
        """Return the next option, up for a ``factor`` above 1 and down below it; the ends turn back."""
        place, count = self._places[key(value)], len(self.options)
        if count > 1 and factor != 1:
            place = turned(place, 1 if factor > 1 else -1, count)
        return fresh(self.options[place])


@final
@dataclass(frozen=True, repr=False, eq=False)
class Constant(Distribution):
    """Always ``value``.

    Args:
        value: Plain data, as the options of `Choice`.
        when: See `Distribution`.

    Example:
        >>> Constant([64, 64])
        Constant([64, 64])
    """

    value: object

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", plain(self.value))

    @property
    def fixed(self) -> bool:
        """Whether there is only one value."""
        return True

    @property
    def expected(self) -> str:
        """The domain in words, for messages."""
        return f"the constant {self.value!r}"

    def problems(self) -> Iterator[str]:
        """Yield what is wrong with this definition, a sentence each."""
        try:
            canonical(self.value)
        except ValueError as error:
            yield str(error)

    def contains(self, value: object) -> bool:
        """Whether ``value`` is in the domain, its type included."""
        return key(value) == key(self.value)

    def from_unit(self, u: float) -> Any:
        """Return the value."""
        return fresh(self.value)

    def to_unit(self, value: object) -> float:
        """Return 0.5."""
        return 0.5

    def perturb(self, value: object, factor: float, rng: RandomSource) -> Any:
        """Return the value."""
        return fresh(self.value)

    def grid(self) -> Sequence[object]:
        """Return the one value."""
        return (self.value,)
