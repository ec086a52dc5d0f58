"""The grid of a space with conditions: its combinations, and how many there are without making them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping
from typing import TypeAlias, final

from sweep.space.base import Distribution
from sweep.space.definition import refuse
from sweep.space.values import Params, fresh, key

__all__ = ["Gates", "Grid", "is_open"]

Gates: TypeAlias = tuple[tuple[str, frozenset[Hashable]], ...]
"""For each parent of a parameter, the keys of its values with which the parameter is active."""


def is_open(gates: Gates, params: Mapping[str, object]) -> bool:
    """Whether a parameter with these gates is active beside ``params``."""
    return all(parent in params and key(params[parent]) in allowed for parent, allowed in gates)


@final
class Grid:
    """Every combination of the parameters' grids, each once, the last parameter fastest.

    Args:
        parts: Distributions by name, parents first.
        gates: Those of each.

    Raises:
        SpaceError: A continuous parameter has no ``num``.
    """

    def __init__(self, parts: Mapping[str, Distribution], gates: Mapping[str, Gates]) -> None:
        values = {name: part.grid() for name, part in parts.items()}
        endless = [name for name, found in values.items() if found is None]
        refuse("grid", [(name, f"is continuous: say how many values, {_with_num(parts[name])}") for name in endless])
        self._values = {name: found for name, found in values.items() if found is not None}
        self._parts, self._gates, self._names = parts, gates, list(parts)

    def __iter__(self) -> Iterator[Params]:
        return self._below(0, {})

    def _below(self, depth: int, chosen: Params) -> Iterator[Params]:
        if depth == len(self._names):
            yield {name: fresh(value) for name, value in chosen.items()}
            return
        name = self._names[depth]
        if not is_open(self._gates[name], chosen):
            yield from self._below(depth + 1, chosen)
            return
        for value in self._values[name]:
            chosen[name] = value
            yield from self._below(depth + 1, chosen)
        del chosen[name]

    def size(self) -> int:
        """Count the combinations."""
        children: dict[str, dict[str, frozenset[Hashable]]] = {name: {} for name in self._names}
        for name, gates in self._gates.items():
            for parent, allowed in gates:
                children[parent][name] = allowed
        # Frontier of the count: which later parameters are already ruled out -> in how many combinations.
        frontier: dict[frozenset[str], int] = {frozenset(): 1}
        for name in self._counting_order(children):
            fates, everyone = self._fates(name, children[name]), frozenset(children[name])
            following: dict[frozenset[str], int] = defaultdict(int)
            for ruled_out, count in frontier.items():
                for lost, weight in {everyone: 1}.items() if name in ruled_out else fates.items():
                    following[(ruled_out | lost) - {name}] += count * weight
            frontier = following
        return sum(frontier.values())

    def _counting_order(self, children: Mapping[str, dict[str, frozenset[Hashable]]]) -> list[str]:
        """Sort so that children follow their parents as closely as can be: it keeps the count's frontier narrow."""
        order: dict[str, None] = {}
        waiting = list(reversed(self._names))
        while waiting:
            name = waiting.pop()
            if name not in order and all(parent in order for parent, _ in self._gates[name]):
                order[name] = None
                waiting += reversed(children[name])
        return list(order)

    def _fates(self, name: str, children: Mapping[str, frozenset[Hashable]]) -> dict[frozenset[str], int]:
        """Count the values of ``name`` by the set of children that they rule out."""
        conditions = [condition for child in children for condition in self._parts[child].conditions]
        named = {key(value): value for parent, some in conditions if parent == name for value in some}
        fates: dict[frozenset[str], int] = defaultdict(int)
        for text, value in named.items():
            if value in self._values[name]:
                fates[frozenset(child for child, allowed in children.items() if text not in allowed)] += 1
        others = len(self._values[name]) - sum(fates.values())
        if others:
            fates[frozenset(children)] += others
        return fates


def _with_num(part: Distribution) -> str:
    return f"{repr(part).split(', when=')[0].rstrip(')')}, num=5)"
