"""A search space as numpy arrays: the unit cube, its grid of values that exist, and features for a model.

Imports numpy; imported only where a model needs it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, final

import numpy as np
from numpy.typing import NDArray

from sweep.space import Choice, Distribution, Integer, LogInteger, Ordinal, SearchSpace

__all__ = ["Array", "Encoding"]

Array: TypeAlias = NDArray[np.float64]

_SAME = 1e-9  # coordinates closer than this are the same value
_HALF = math.sqrt(0.5)  # two different categories are as far apart as the two ends of a number's range


@final
class Encoding:
    """Maps between parameters, points of the unit cube (n, d) and features (n, D).

    A number is one feature, its place on its own (log) scale; a category is one-hot times sqrt(1/2).
    An inactive parameter is 0.5, an inactive category all 0.

    Args:
        space: What is encoded.

    Attributes:
        dimensions: d, coordinates of the unit cube.
        width: D, features.
    """

    def __init__(self, space: SearchSpace) -> None:
        self._space = space
        names = space.dimensions
        self.dimensions = len(names)
        self._column = {name: place for place, name in enumerate(names)}
        self._snaps = [_snap(space[name]) for name in names]
        sizes = [len(part.options) if isinstance(part, Choice) else 0 for part in map(space.__getitem__, names)]
        self._sizes = sizes
        self.categories = np.array([size > 0 for size in sizes], dtype=bool)
        self.width = sum(max(size, 1) for size in sizes)

    def __reduce__(self) -> tuple[type[Encoding], tuple[SearchSpace]]:
        return Encoding, (self._space,)

    def units(self, params: Sequence[Mapping[str, Any]]) -> Array:
        """Return points (n, d) of the unit cube."""
        rows = [self._space.to_unit(each) for each in params]
        return np.array(rows, dtype=float).reshape(len(params), self.dimensions)

    def params(self, unit: Array) -> dict[str, Any]:
        """Return the parameters at one point (d,)."""
        return self._space.from_unit(unit.tolist())

    def snap(self, units: Array) -> Array:
        """Return the points (n, d) that stand for the values at ``units``; 0.5 where a parameter is inactive."""
        found = np.empty_like(units)
        for column, snap in enumerate(self._snaps):
            found[:, column] = snap(units[:, column])
        for name, active in self._active(found).items():
            if name in self._column:
                found[~active, self._column[name]] = 0.5
        return found

    def features(self, snapped: Array) -> Array:
        """Return features (n, D) of points as `snap` returns them."""
        columns = []
        active = self._active(snapped)
        for (name, column), size in zip(self._column.items(), self._sizes, strict=True):
            if size == 0:
                columns.append(snapped[:, column])
                continue
            bins = np.minimum((snapped[:, column] * size).astype(int), size - 1)
            columns += [np.where((bins == option) & active[name], _HALF, 0.0) for option in range(size)]
        return np.stack(columns, axis=1) if columns else np.zeros((len(snapped), 0))

    def perturb(self, units: Array, scale: float | Array, chance: float, rng: np.random.Generator) -> Array:
        """Return neighbours (n, d): each coordinate moved with probability ``chance``, at least one.

        Numbers take a Gaussian step of ``scale``, reflected at the borders; categories are drawn anew.
        """
        n, d = units.shape
        moved = rng.random((n, d)) < chance
        moved[np.arange(n), rng.integers(0, d, n)] = True
        steps = units + scale * rng.standard_normal((n, d))
        steps = np.abs(steps) % 2.0
        steps = np.where(steps > 1.0, 2.0 - steps, steps)
        steps = np.where(self.categories, rng.random((n, d)), steps)
        return np.where(moved, steps, units)

    def _active(self, snapped: Array) -> dict[str, NDArray[np.bool_]]:
        """Return for each parameter the rows in which it is active."""
        active: dict[str, NDArray[np.bool_]] = {}
        for name, part in self._space.items():
            here = np.ones(len(snapped), dtype=bool)
            for parent, values in part.conditions:
                here &= active[parent] & self._holds(parent, values, snapped)
            active[name] = here
        return active

    def _holds(self, parent: str, values: Sequence[Any], snapped: Array) -> NDArray[np.bool_]:
        part, column = self._space[parent], self._column.get(parent)
        known = [part.to_unit(part.cast(value)) for value in values if part.contains(part.cast(value))]
        if column is None:
            return np.full(len(snapped), bool(known))
        return np.any([np.abs(snapped[:, column] - unit) < _SAME for unit in known], axis=0)  # type: ignore[no-any-return]  # numpy


def _snap(part: Distribution) -> Callable[[Array], Array]:
    """Return what maps unit coordinates to those of the values that exist."""
    if isinstance(part, Choice | Ordinal):
        return _bins(len(part.options))
    if isinstance(part, Integer):
        return _bins((part.high - part.low) // part.step + 1)
    if isinstance(part, LogInteger):
        low, high = math.log10(part.low - 0.5), math.log10(part.high + 0.5)
        first, last = part.low, part.high

        def snap(u: Array) -> Array:
            value = np.clip(np.floor(10.0 ** (low + (high - low) * u) + 0.5), first, last)
            snapped: Array = (np.log10(value) - low) / (high - low)
            return snapped

        return snap
    return lambda u: u


def _bins(count: int) -> Callable[[Array], Array]:
    return lambda u: (np.minimum(np.floor(u * count), count - 1) + 0.5) / count
