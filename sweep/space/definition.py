"""From what a user writes to checked distributions by dotted name, every problem in one error."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from sweep.errors import SpaceError, did_you_mean
from sweep.space.base import Conditions, Distribution
from sweep.space.numeric import Integer, LogInteger, LogitUniform, LogNormal, LogUniform, Normal, Uniform
from sweep.space.options import Choice, Constant, Ordinal
from sweep.space.values import plain

__all__ = ["KINDS", "Problems", "read_definition", "refuse"]

KINDS: Mapping[str, type[Distribution]] = MappingProxyType(
    {
        kind.__name__: kind
        for kind in (Uniform, LogUniform, LogitUniform, Integer, LogInteger, Choice, Ordinal, Normal, LogNormal, Constant)
    }
)
"""Every distribution by the name it has in JSON; the set is closed."""

Problems = list[tuple[str, str]]
"""Parameter and sentence, for each thing that is wrong."""

_ATO: dict[str, dict[str, Callable[..., Distribution]]] = {
    "FLOAT": {"LINEAR": Uniform, "LOG": LogUniform},
    "INTEGER": {"LINEAR": Integer, "LOG": LogInteger},
}
_ATO_KEYS = {
    "CATEGORY": ["param_type", "categories"],
    "FLOAT": ["param_type", "param_range", "num_samples", "space_type", "base"],
    "INTEGER": ["param_type", "param_range", "num_samples", "space_type", "base"],
}


def refuse(what: str, problems: Problems) -> None:
    """Raise one SpaceError with every problem, if there is any; its ``parameter`` is the first one's."""
    if not problems:
        return
    if len(problems) == 1:
        raise SpaceError(*problems[0])
    lines = [f"parameter {name!r}: {text}" if name else text for name, text in problems]
    error = SpaceError("", "\n  - ".join([f"{what}: {len(problems)} problems", *lines]))
    error.parameter, error.problems = problems[0][0], tuple(problems)
    raise error


def read_definition(mapping: Mapping[str, object]) -> dict[str, Distribution]:
    """Return the distributions of a search space by dotted name: sorted by name, parents before children.

    Conditions come out with the full names of their parents.

    Raises:
        SpaceError: Anything in the definition is wrong; names everything that is.
    """
    if not isinstance(mapping, Mapping):
        raise SpaceError("", f"a search space is a mapping of names to distributions, got {mapping!r}")
    problems: Problems = []
    found: dict[str, Distribution] = {}
    _walk(mapping, "", found, problems)
    for name in found:
        parts = name.split(".")
        outer = next((o for o in (".".join(parts[:n]) for n in range(1, len(parts))) if o in found), None)
        if outer is not None:
            problems.append((name, f"clashes with parameter {outer!r}, a name is a value or a group: rename one"))
    faults = {name: list(found[name].problems()) for name in found}
    problems += [(name, text) for name, texts in faults.items() for text in texts]
    resolved = {name: _resolve(name, found, faults, problems) for name in found}
    order = _order(resolved, problems)
    refuse("search space", problems)
    return {name: replace(found[name], when=resolved[name]) for name in order}


def _walk(mapping: Mapping[Any, object], prefix: str, found: dict[str, Distribution], problems: Problems) -> None:
    for part, value in mapping.items():
        name = f"{prefix}{part}"
        if not isinstance(part, str):
            problems.append((name, f"the name {part!r} ({type(part).__name__}) is not text"))
        elif not all(segment and segment == segment.strip() for segment in part.split(".")):
            problems.append((name, f"{part!r} is no name: write one word, or words joined by single dots"))
        elif isinstance(value, Mapping) and not _is_ato(value):
            _walk(value, f"{name}.", found, problems)
            if not value:
                problems.append((name, "is an empty mapping: give it parameters or leave it out"))
        elif name in found:
            problems.append((name, "is defined twice, nested and dotted: keep one"))
        else:
            try:
                found[name] = _leaf(value)
            except ValueError as error:
                problems.append((name, str(error)))


def _leaf(value: object) -> Distribution:
    if isinstance(value, Distribution) and type(value) in KINDS.values():
        return value
    if isinstance(value, Mapping):
        return _from_ato(value)
    value = plain(value)
    if value is None or type(value) in (bool, int, float, str):
        return Constant(value)
    if isinstance(value, list | tuple | range):
        numbers = len(value) == 2 and all(type(item) in (int, float) for item in value)
        ways = "Uniform(low, high), LogUniform(low, high), Integer(low, high), " if numbers else ""
        raise ValueError(f"{value!r} may be read in more than one way: write {ways}Choice([…]) or Constant([…])")
    shown = f"the class {value.__name__}" if isinstance(value, type) else f"{value!r} ({type(value).__name__})"
    hint = ", with its arguments" if isinstance(value, type) and value.__name__ in KINDS else ""
    raise ValueError(f"{shown} is no distribution: write one of {', '.join(KINDS)}{hint}, or a plain value")


def _is_ato(value: Mapping[Any, object]) -> bool:
    return isinstance(value.get("param_type"), str)


def _from_ato(value: Mapping[Any, Any]) -> Distribution:
    """Read Ato's dictionary form (``param_type``, ``param_range``, ``num_samples``, ``space_type``, ``categories``)."""
    kind = value["param_type"].upper()
    if kind not in _ATO_KEYS:
        raise ValueError(f"param_type={value['param_type']!r}, expected FLOAT, INTEGER or CATEGORY")
    for name in value:
        if name not in _ATO_KEYS[kind]:
            meant = did_you_mean(str(name), _ATO_KEYS[kind])
            raise ValueError(f"param_type {kind} takes no {name!r}{meant or f'; it takes {_ATO_KEYS[kind]}'}")
    if kind == "CATEGORY":
        if "categories" not in value:
            raise ValueError("param_type CATEGORY needs categories=[…]")
        return Choice(value["categories"])
    scale = str(value.get("space_type", "LINEAR")).upper()
    if scale not in _ATO[kind]:
        raise ValueError(f"space_type={value['space_type']!r}, expected LINEAR or LOG")
    bounds = value.get("param_range")
    if not (isinstance(bounds, list | tuple) and len(bounds) == 2):
        raise ValueError(f"param_type {kind} needs param_range=(low, high), got {bounds!r}")
    return _ATO[kind][scale](*bounds, num=value.get("num_samples"))


# Conditions


def _resolve(
    name: str, found: Mapping[str, Distribution], faults: Mapping[str, list[str]], problems: Problems
) -> Conditions:
    """Return the conditions of ``name`` with the full names of the parents, those that exist."""
    try:
        conditions = found[name].conditions
    except ValueError as error:
        problems.append((name, str(error)))
        return ()
    resolved = {}
    for written, values in conditions:
        parent = next((full for full in _candidates(name, written) if full in found), None)
        if parent is None:
            there_are = did_you_mean(written, found) or f"; there are {', '.join(found)}"
            problems.append((name, f"when: there is no parameter {written!r}{there_are}"))
        elif parent == name:
            problems.append((name, "when: it cannot depend on itself"))
        elif parent in resolved:
            problems.append((name, f"when names {parent!r} twice: write one pair with the values common to both"))
        else:
            resolved[parent] = values
            problems += [(name, text) for text in _parent_problems(parent, found[parent], values, faults[parent])]
    return tuple(sorted(resolved.items()))


def _candidates(name: str, parent: str) -> list[str]:
    """Return the full names that ``parent`` may stand for, first choice first.

    A plain name is looked for beside the parameter, then outwards; a dotted one from the top first,
    so that names that are full already stay what they are.
    """
    groups = name.split(".")[:-1]
    nearest = [".".join([*groups[:depth], parent]) for depth in range(len(groups), -1, -1)]
    return [parent, *nearest] if "." in parent else nearest


def _parent_problems(parent: str, of: Distribution, values: Iterable[object], faults: list[str]) -> list[str]:
    if faults:
        return []
    if of.continuous:
        return [f"when: {parent!r} is continuous; a condition needs Choice, Ordinal, Integer or Constant"]
    wrong = []
    for value in values:
        if not of.contains(value):
            options = of.options if isinstance(of, Choice | Ordinal) and isinstance(value, str) else ()
            meant = did_you_mean(str(value), [option for option in options if isinstance(option, str)])
            wrong.append(f"when: {parent!r} is never {value!r}, it is {of.expected}{meant}")
    return wrong


def _order(parents: Mapping[str, Conditions], problems: Problems) -> list[str]:
    """Sort by name, parents before children; a circle is a problem."""
    missing = {name: len(conditions) for name, conditions in parents.items()}
    children: dict[str, list[str]] = {name: [] for name in parents}
    for name, conditions in parents.items():
        for parent, _ in conditions:
            children[parent].append(name)
    ready = sorted(name for name, count in missing.items() if not count)
    order = []
    while ready:
        name = heapq.heappop(ready)
        order.append(name)
        for child in children[name]:
            missing[child] -= 1
            if not missing[child]:
                heapq.heappush(ready, child)
    if len(order) < len(parents):
        circle = _circle(parents, set(order))
        text = " -> ".join([*circle, circle[0]])
        problems.append((circle[0], f"when: the conditions form a circle: {text}; remove one of them"))
    return order


def _circle(parents: Mapping[str, Conditions], ordered: set[str]) -> list[str]:
    walked: list[str] = []
    name = min(name for name in parents if name not in ordered)
    while name not in walked:
        walked.append(name)
        name = next(parent for parent, _ in parents[name] if parent not in ordered)
    return walked[walked.index(name) :]
