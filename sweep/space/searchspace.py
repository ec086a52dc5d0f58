"""The search space: sampling, grids, checks, neighbours, the unit cube, JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import final

from sweep.errors import SpaceError, did_you_mean
from sweep.space.base import Distribution, RandomSource
from sweep.space.definition import KINDS, Problems, read_definition, refuse
from sweep.space.grids import Gates, Grid, is_open
from sweep.space.naming import flatten
from sweep.space.values import Params, decode, key

__all__ = ["SearchSpace"]

_SLACK = 1e-9  # how far rounding may push a point out of the unit cube


@final
class SearchSpace(Mapping[str, Distribution]):
    """What an optimizer may try: a read-only mapping of dotted names to distributions.

    Names may be nested or dotted, which is the same. A plain value (None, bool, number, text) is a `Constant`.
    Ato's dictionaries (``param_type``, ``param_range``, ``num_samples``, ``space_type``, ``categories``) are read
    too. In a group, the parent in ``when=`` may be named without the group.

    There is one order: by name, parents before the parameters that depend on them. Neither equality nor any
    result depends on the order in which the definition was written. Parameters are given out as a flat dict
    with dotted names (`nest` groups them); a parameter whose condition does not hold is left out.

    Args:
        mapping: Names to distributions, plain values or nested mappings of these.

    Raises:
        SpaceError: Something in the definition is wrong. Every problem is named, each with its parameter.

    Example:
        >>> from random import Random
        >>> from sweep.space import Choice, Integer, LogUniform, SearchSpace
        >>> space = SearchSpace({
        ...     "lr": LogUniform(1e-4, 1e-1, num=4),
        ...     "model": {"kind": Choice(["mlp", "cnn"]), "layers": Integer(1, 3, when=("kind", "mlp"))},
        ... })
        >>> space.names
        ('lr', 'model.kind', 'model.layers')
        >>> sorted(space.sample(Random(0)))
        ['lr', 'model.kind']
        >>> space.grid_size()
        16
        >>> space == SearchSpace.from_json(space.model_dump_json())
        True
    """

    def __init__(self, mapping: Mapping[str, object]) -> None:
        self._parts = read_definition(mapping)
        self._gates: dict[str, Gates] = {
            name: tuple((parent, frozenset(map(key, values))) for parent, values in part.conditions)
            for name, part in self._parts.items()
        }
        # sampling is the hot path: everything it looks up is bound here
        self._plan: list[tuple[str, Callable[[float], object], Gates]] = [
            (name, part.from_unit, self._gates[name]) for name, part in self._parts.items()
        ]
        self._names = tuple(self._parts)
        self._dimensions = tuple(name for name, part in self._parts.items() if not part.fixed)

    def __getitem__(self, name: str) -> Distribution:
        return self._parts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)

    def __eq__(self, other: object) -> bool:
        return self._json == other._json if isinstance(other, SearchSpace) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._json)

    def __repr__(self) -> str:
        return f"SearchSpace({self._parts!r})"

    def __reduce__(self) -> tuple[type[SearchSpace], tuple[dict[str, Distribution]]]:
        return SearchSpace, (self._parts,)

    @property
    def names(self) -> tuple[str, ...]:
        """Every parameter's dotted name, in the order of the space."""
        return self._names

    @property
    def dimensions(self) -> tuple[str, ...]:
        """The parameters with more than one value, in the order of the unit cube's coordinates."""
        return self._dimensions

    def is_active(self, name: str, params: Mapping[str, object]) -> bool:
        """Whether ``name`` exists beside ``params``, a flat mapping that holds at least its active parents.

        Example:
            >>> from sweep.space import Choice, Integer, SearchSpace
            >>> space = SearchSpace({"kind": Choice(["a", "b"]), "size": Integer(1, 9, when=("kind", "a"))})
            >>> space.is_active("size", {"kind": "b"})
            False
        """
        return is_open(self._gates[name], params)

    def sample(self, rng: RandomSource) -> Params:
        """Draw one set of parameters, each independently from its distribution.

        Args:
            rng: A `random.Random` or a `numpy.random.Generator`; one number is taken for each active parameter.
        """
        draw = _draw(rng)
        params: Params = {}
        for name, from_unit, gates in self._plan:
            if not gates or is_open(gates, params):
                params[name] = from_unit(draw())
        return params

    def grid(self) -> Iterator[Params]:
        """Iterate over every combination exactly once, the last parameter fastest.

        Raises:
            SpaceError: A continuous parameter has no ``num``.
        """
        return iter(Grid(self._parts, self._gates))

    def grid_size(self) -> int:
        """Count the combinations of `grid` without making them.

        Raises:
            SpaceError: A continuous parameter has no ``num``.
        """
        return Grid(self._parts, self._gates).size()

    def contains(self, params: Mapping[str, object]) -> bool:
        """Whether ``params`` (flat or nested) has exactly the active parameters, each inside its domain."""
        try:
            self.validate(params)
        except SpaceError:
            return False
        return True

    def validate(self, params: Mapping[str, object]) -> Params:
        """Return ``params`` (flat or nested) as this space gives them out: flat, in order, ints as floats where due.

        Raises:
            SpaceError: A parameter is unknown, missing, inactive or outside its domain; names every such one.
        """
        if not isinstance(params, Mapping):
            raise SpaceError("", f"params are a mapping of names to values, got {params!r}")
        given = flatten(params, self._parts)
        problems: Problems = [
            (name, f"is not in the search space{did_you_mean(name, self._names) or f'; it has {list(self._names)}'}")
            for name in given
            if name not in self._parts
        ]
        valid: Params = {}
        undecided: set[str] = set()  # below a wrong parameter nothing can be said
        for name, part in self._parts.items():
            if any(parent in undecided for parent, _ in self._gates[name]):
                undecided.add(name)
                continue
            active = self.is_active(name, valid)
            if name not in given:
                text = f"is missing, expected {part.expected}" if active else ""
            elif not active:
                text = _closed(part)
            else:
                valid[name] = value = part.cast(given[name])
                text = "" if part.contains(value) else f"got {_typed(value)}, expected {part.expected}"
            if text:
                problems.append((name, text))
                undecided |= {name} if active else set()
        refuse("params", problems)
        return valid

    def perturb(
        self,
        params: Mapping[str, object],
        rng: RandomSource,
        factors: Sequence[float] = (0.8, 1.2),
        *,
        resample: float = 0.0,
    ) -> Params:
        """Return a neighbour of ``params``: the explore step of population based training (arXiv 1711.09846).

        A number is multiplied by one of ``factors``, drawn for each parameter; where multiplying cannot leave or
        cross zero (value 0, or a range round zero) it is shifted by ``factor - 1`` times half the range; a `Normal`
        by ``factor - 1`` times two standard deviations. Floats are clipped to their range. Whole numbers always
        change, by at least one step; an `Ordinal` goes one step, up for a factor above 1; both turn back at the ends.
        A `Choice` is drawn anew. Parameters that become active are drawn, those that cease to be are dropped.

        Args:
            params: Where to start, flat or nested.
            rng: A `random.Random` or a `numpy.random.Generator`.
            factors: What to multiply with, each above 0.
            resample: Probability that a parameter is drawn anew instead.

        Raises:
            SpaceError: ``params`` are not of this space, or ``factors`` or ``resample`` cannot be used.
        """
        if not len(factors) or not all(0 < factor < math.inf for factor in factors):
            raise SpaceError("", f"factors={factors!r}, expected finite numbers above 0, for example (0.8, 1.2)")
        if not 0 <= resample <= 1:
            raise SpaceError("", f"resample={resample!r}, expected a probability in [0, 1]")
        draw = _draw(rng)
        old = self.validate(params)
        new: Params = {}
        for name, part in self._parts.items():
            if not is_open(self._gates[name], new):
                continue
            if name not in old or draw() < resample:
                new[name] = part.from_unit(draw())
            else:
                new[name] = part.perturb(old[name], factors[int(draw() * len(factors))], rng)
        return new

    def to_unit(self, params: Mapping[str, object]) -> list[float]:
        """Return the point of the unit cube for ``params``, a coordinate for each of `dimensions`.

        Numbers lie on their own (log) scale, whole numbers and options in the middle of their bin; the coordinate
        of an inactive parameter is 0.5. `from_unit` leads back: exactly for whole numbers and options, to within
        rounding for floats.

        Raises:
            SpaceError: ``params`` are not of this space.
        """
        valid = self.validate(params)
        return [self._parts[name].to_unit(valid[name]) if name in valid else 0.5 for name in self._dimensions]

    def from_unit(self, u: Sequence[float]) -> Params:
        """Return the parameters at the point ``u`` of the unit cube; the inverse of `to_unit`.

        Raises:
            SpaceError: ``u`` has the wrong length, or a coordinate is outside [0, 1].
        """
        if len(u) != len(self._dimensions):
            raise SpaceError("", f"a point has {len(self._dimensions)} coordinates {self._dimensions}, got {len(u)}")
        at = {name: float(x) for name, x in zip(self._dimensions, u, strict=True)}
        refuse(
            "point",
            [(name, f"coordinate {x!r}, expected [0, 1]") for name, x in at.items() if not -_SLACK <= x <= 1 + _SLACK],
        )
        params: Params = {}
        for name, from_unit, gates in self._plan:
            if not gates or is_open(gates, params):
                params[name] = from_unit(at.get(name, 0.5))
        return params

    def model_dump_json(self) -> str:
        """Return the space as JSON text: the same text for equal spaces, however they were written."""
        return self._json

    @classmethod
    def from_json(cls, text: str) -> SearchSpace:
        """Return the space that `model_dump_json` wrote.

        Raises:
            SpaceError: ``text`` is not JSON, not of this form, or defines no valid space.
        """
        try:
            data = json.loads(text)
        except ValueError as error:
            raise SpaceError("", f"the text of a search space is not JSON: {error}") from error
        if not isinstance(data, dict):
            raise SpaceError("", f"the JSON of a search space is an object of parameters, got {data!r}")
        problems: Problems = []
        parts: dict[str, Distribution] = {}
        for name, spec in data.items():
            try:
                parts[name] = _from_spec(spec)
            except ValueError as error:
                problems.append((name, str(error)))
        refuse("search space", problems)
        return cls(parts)

    @cached_property
    def _json(self) -> str:
        specs = {name: part.spec() for name, part in self._parts.items()}
        return json.dumps(specs, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _closed(part: Distribution) -> str:
    needs = " and ".join(f"{parent!r} in {list(values)!r}" for parent, values in part.conditions)
    return f"is given but not active: it needs {needs}; leave it out"


def _typed(value: object) -> str:
    return f"{value!r} ({type(value).__name__})"


def _draw(rng: RandomSource) -> Callable[[], float]:
    try:
        return rng.random
    except AttributeError:
        raise SpaceError("", f"rng={rng!r}, expected a random.Random or a numpy Generator") from None


def _from_spec(spec: object) -> Distribution:
    if not isinstance(spec, dict) or not isinstance(spec.get("type"), str):
        raise ValueError(f'{spec!r} is no distribution: write {{"type": "Uniform", "low": 0.0, "high": 1.0}}')
    kind = KINDS.get(spec["type"])
    if kind is None:
        there_are = did_you_mean(spec["type"], KINDS) or f"; there are {', '.join(KINDS)}"
        raise ValueError(f"unknown distribution {spec['type']!r}{there_are}")
    arguments = {name: decode(value) for name, value in spec.items() if name not in ("type", "when")}
    try:
        return kind(**arguments, when=[tuple(pair) for pair in decode(spec.get("when", []))])
    except TypeError as error:
        raise ValueError(f"{spec!r} does not fit {kind.__name__}: {error}") from error
