"""The distributions of a search space: frozen data, checked where their name is known.

Each maps the unit interval onto its domain (`Distribution.from_unit`), numbers on
their own scale, options by equal bins. Sampling is that map at a random number, so
random, quasi-random and model-based search all see one geometry.

A constructor refuses nothing. `SearchSpace` asks for `Distribution.problems` and
reports them under the parameter's name, all of them at once.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import MISSING, dataclass, field, fields
from functools import cached_property
from typing import Any, ClassVar, Protocol, TypeAlias

from sweep.space.values import canonical, encode, plain

__all__ = ["Conditions", "Distribution", "RandomSource", "When", "bin_of", "turned"]

When: TypeAlias = tuple[str, object] | Sequence[tuple[str, object]] | None
"""``(parent, values)``, or a list of such pairs that must all hold; one value may stand without its list."""
Conditions: TypeAlias = tuple[tuple[str, tuple[object, ...]], ...]
"""`When` in its one normal form: sorted pairs, values sorted and without repeats."""


class RandomSource(Protocol):
    """Where random numbers come from: `random.Random` and `numpy.random.Generator` both fit."""

    def random(self) -> float:
        """Return a float in [0, 1)."""
        ...


@dataclass(frozen=True, repr=False, eq=False)
class Distribution(ABC):
    """What one parameter may be. The set of its classes is closed; each is final and immutable.

    Args:
        when: ``(parent, values)``: the parameter exists only where the parent has one of the values.
            Several such pairs in a list must all hold.

    Attributes:
        continuous: Whether there are more values than can be counted; then a grid needs ``num``.
    """

    continuous: ClassVar[bool] = False
    when: When = field(default=(), kw_only=True)

    @cached_property
    def conditions(self) -> Conditions:
        """``when`` in normal form.

        Raises:
            ValueError: It is not ``(parent, values)``; the message says what to write.
        """
        return _read_when(self.when)

    @property
    def fixed(self) -> bool:
        """Whether there is only one value."""
        return False

    @property
    @abstractmethod
    def expected(self) -> str:
        """The domain in words, for messages."""

    @abstractmethod
    def problems(self) -> Iterator[str]:
        """Yield what is wrong with this definition, a sentence each."""

    @abstractmethod
    def contains(self, value: object) -> bool:
        """Whether ``value`` is in the domain, its type included."""

    def cast(self, value: object) -> Any:
        """Return ``value`` as plain data; where a float is due, an int becomes one."""
        return plain(value)

    @abstractmethod
    def from_unit(self, u: float) -> Any:
        """Return the value at ``u`` in [0, 1]; never one outside the domain."""

    @abstractmethod
    def to_unit(self, value: Any) -> float:
        """Return the place in [0, 1] of a ``value`` of the domain; of a bin, its middle."""

    def sample(self, rng: RandomSource) -> Any:
        """Draw one value; takes exactly one random number."""
        return self.from_unit(rng.random())

    @abstractmethod
    def perturb(self, value: Any, factor: float, rng: RandomSource) -> Any:
        """Return a neighbour of ``value``, inside the domain (`SearchSpace.perturb` has the rules)."""

    @abstractmethod
    def grid(self) -> Sequence[Any] | None:
        """Return the distinct values of a grid, or None: continuous and without ``num``."""

    def spec(self) -> dict[str, object]:
        """Return this distribution as JSON data, without what equals its default.

        Raises:
            ValueError: It holds what JSON cannot.
        """
        data: dict[str, object] = {"type": type(self).__name__}
        for name, value in _given(self):
            data[name] = [encode(item) for item in value] if name == "options" else encode(value)
        if self.conditions:
            data["when"] = [[parent, [encode(value) for value in values]] for parent, values in self.conditions]
        return data

    @cached_property
    def _identity(self) -> str:
        try:
            return json.dumps(self.spec(), sort_keys=True)
        except ValueError:  # a wrong definition is still compared and shown until a space refuses it
            return repr(self)

    def __eq__(self, other: object) -> bool:
        return self._identity == other._identity if isinstance(other, Distribution) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._identity)

    def __repr__(self) -> str:
        shown = []
        for name, value in _given(self):
            text = repr(list(value) if name == "options" and isinstance(value, tuple) else value)
            shown.append(f"{name}={text}" if name in ("num", "step") else text)
        if self.when:
            shown.append(f"when={_show_when(self.when)}")
        return f"{type(self).__name__}({', '.join(shown)})"

    def __getstate__(self) -> dict[str, object]:
        return {part.name: getattr(self, part.name) for part in fields(self)}


def _given(of: Distribution) -> list[tuple[str, Any]]:
    """Return name and value of each field but ``when`` that is not at its default, ``num`` last."""
    parts = [(part.name, part.default, getattr(of, part.name)) for part in fields(of) if part.name != "when"]
    given = [(name, value) for name, default, value in parts if default is MISSING or value != default]
    return sorted(given, key=lambda part: part[0] == "num")


def _read_when(when: When) -> Conditions:
    found: dict[str, tuple[object, ...]] = {}
    for parent, values in _pairs(when):
        if parent in found:
            raise ValueError(f"when={when!r} names {parent!r} twice: write one pair with the values common to both")
        several = list(values) if isinstance(values, list | tuple | range | AbstractSet) else [values]
        by_text = {canonical(value): value for value in plain(several)}
        if not by_text:
            raise ValueError(f"when={when!r} names no value of {parent!r}: it would never be active")
        found[parent] = tuple(by_text[text] for text in sorted(by_text))
    return tuple(sorted(found.items(), key=lambda pair: pair[0]))


def _pairs(when: When) -> Sequence[tuple[str, object]]:
    if isinstance(when, tuple) and when and isinstance(when[0], str):
        when = [when]
    if not isinstance(when, list | tuple | None):
        raise ValueError(f"when={when!r}: write when=('parent', [values])")
    for pair in when or ():
        if not (isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str)):
            raise ValueError(f"when={when!r}: write when=('parent', [values]), or a list of such pairs")
    return when or ()


def _show_when(when: When) -> str:
    try:
        pairs = [(parent, list(values)) for parent, values in _read_when(when)]
    except ValueError:
        return repr(when)
    return repr(pairs[0] if len(pairs) == 1 else pairs)


def bin_of(u: float, count: int) -> int:
    """Return which of ``count`` equal bins of [0, 1] holds ``u``."""
    return min(max(int(u * count), 0), count - 1)


def turned(place: int, direction: int, count: int) -> int:
    """Return the neighbour of ``place`` in ``direction``; at the end, the other neighbour."""
    there = place + direction
    return there if 0 <= there < count else place - direction
