"""What a sweep is given from outside: settings, arguments of its strategies, and its search space.

A range searches a parameter (``lr=log(1e-5,1e-1)``, ``depth=50,101``), a plain value holds it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from sweep.config.adict import dotted
from sweep.config.commandline import RANGES, Assignment, search_range
from sweep.errors import ConfigError, ContractError, SweepError, UnknownName
from sweep.experiments.base import argument_types
from sweep.experiments.building import build, unknown_argument
from sweep.experiments.given import Given, typed
from sweep.experiments.objective import Objective, fits, value_type
from sweep.pipeline.annotations import describe, peel
from sweep.space import Constant, Distribution

__all__ = ["SETTINGS", "given_settings", "given_space", "given_strategy"]

# An example of each kind that takes a range.
_RANGES_OF: dict[object, str] = {int: "int(1,8)", float: "uniform(0,1)", bool: "false,true", str: "%1%,%2%"}

SETTINGS = ("metric", "mode", "workers", "seed", "repeats", "retries", "max_failures", "init_from")


def given_settings(cls: type, given: Given, fields: Mapping[str, object], current: object) -> dict[str, object]:
    """Return the settings and fields that are given, typed.

    Raises:
        ConfigError: A value that does not fit.
    """
    arguments = argument_types(cls)
    types = {**{name: arguments.get(name, Any) for name in SETTINGS}, **fields}
    return {
        key: typed(key, items, types[key], getattr(current, key, None))
        for key, items in given.heads().items()
        if key in types
    }


def given_strategy(head: str, items: Sequence[Assignment], present: object) -> object:
    """Return an optimizer or scheduler: by its name, or the present one with other arguments.

    Raises:
        ConfigError: A name or an argument that does not exist, or a value that it refuses.
    """
    given = {head: present, **{dotted(item.path): item.value for item in items}}
    for item in items:
        problem = unknown_argument(_owner, dotted(item.path), given, head)
        if problem:
            raise ConfigError(f"{item.source!r}: {problem}")
    try:
        return build(_owner, given)[head]
    except (SweepError, TypeError, ValueError) as error:
        said = "; ".join(error.problems) if isinstance(error, ContractError) else error
        raise ConfigError(f"{items[-1].source!r}: {said}") from error


def _owner(optimizer: object = None, scheduler: object = None) -> dict[str, object]:
    return {"optimizer": optimizer, "scheduler": scheduler}


def given_space(
    given: Mapping[str, Sequence[Assignment]], space: Mapping[str, object], objective: Objective | None, settings: Sequence[str]
) -> dict[str, object]:
    """Return what is given of the search space, by dotted name.

    Args:
        given: Values by the first part of their keys.
        space: The space as the code has it.
        objective: Says what it can take; None = nobody knows before the sweep runs.
        settings: What else could have been meant.

    Raises:
        UnknownName: The objective does not take it.
        ConfigError: A malformed range, or a value that is not of the parameter's type.
    """
    taken = None if objective is None else objective.takes()
    heads = {name.partition(".")[0] for name in space}
    found: dict[str, object] = {}
    for head, items in given.items():
        if head not in heads and taken is not None and head not in taken:
            inside = "; what runs inside a trial is given the trial's parameters, and no config of its own"
            where = repr(items[0].source) + (inside if len(items[0].path) > 1 else "")
            raise UnknownName("key", dotted(items[0].path), {*taken, *space, *settings}, where)
        for item in items:
            found[dotted(item.path)] = _distribution(item, (taken or {}).get(head, Any))
    return found


def _distribution(item: Assignment, annotation: object) -> object:
    """Return the range or the constant that a word means, or refuse it by name."""
    text = item.text if item.text is not None else item.value
    found = search_range(item.source, text.strip()) if isinstance(text, str) else None
    if len(item.path) > 1:
        if peel(annotation) in _RANGES_OF:
            raise ConfigError(f"{item.source!r}: {item.path[0]!r} is {describe(annotation)}, no group")
        return Constant(item.value) if found is None else found
    if found is not None:
        _check_kind(item, found, annotation)
        return found
    try:
        return Constant(typed(str(item.path[0]), [item], annotation))
    except ConfigError as error:
        match = re.fullmatch(r"([a-z]+)\(.*\)", str(text))
        if match is not None:
            raise UnknownName("range", match.group(1), RANGES, repr(item.source)) from error
        raise


def _check_kind(item: Assignment, found: Distribution, annotation: Any) -> None:
    """Refuse a range whose values the parameter cannot take."""
    if fits(found, annotation):
        return
    given, key, hint = value_type(found), dotted(item.path), _RANGES_OF.get(peel(annotation))
    instead = f"; write for example {key}={hint}" if hint else ""
    raise ConfigError(
        f"{item.source!r}: {key!r} is {describe(annotation)}, but the range gives {describe(given)}{instead}"
    )
