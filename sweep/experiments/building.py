"""Building from dotted arguments: ``scheduler.reduction_factor=4`` is an argument of an argument."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from sweep.errors import ContractError, did_you_mean
from sweep.experiments.base import Experiment, field_annotations
from sweep.experiments.identity import constructor_arguments

__all__ = ["STRATEGIES", "arguments_of", "build", "class_of", "maker_of", "unknown_argument"]

STRATEGIES = {"optimizer": "sweep.optimizers", "scheduler": "sweep.schedulers"}


def _groups(given: Mapping[str, object]) -> Iterator[tuple[str, dict[str, object]]]:
    """Yield each head of dotted names with what stands below it."""
    below: dict[str, dict[str, object]] = {}
    for name, value in given.items():
        head, _, rest = name.partition(".")
        if rest:
            below.setdefault(head, {})[rest] = value
    yield from below.items()


def build(maker: Callable[..., object], given: Mapping[str, object]) -> Any:
    """Call a constructor with plain and dotted arguments."""
    arguments = {name: _plain(name, value) for name, value in given.items() if "." not in name}
    for head, below in _groups(given):
        arguments[head] = build(maker_of(maker, head, given), below)
    return maker(**arguments)


def _plain(name: str, value: object) -> object:
    """Return an argument; a strategy's class or name becomes an instance."""
    if name not in STRATEGIES or value is None:
        return value
    maker = _named(name, value) if isinstance(value, str) else value
    return maker() if isinstance(maker, type | partial) else maker


def _named(head: str, name: str) -> object:
    from importlib import import_module

    home = import_module(STRATEGIES[head])
    suffix = head.capitalize()
    known = [one for one in home.__all__ if one.endswith(suffix) and one != suffix]
    if name not in known:
        near = did_you_mean(name, known) or did_you_mean(f"{name}{suffix}", known)
        raise ContractError(head, [f"there is no {head} named {name!r}{near}; there are {', '.join(known)}"])
    return getattr(home, name)


def maker_of(owner: Callable[..., object], head: str, given: Mapping[str, object]) -> Any:
    """Return what makes the argument ``head`` of ``owner``: a class, or a partial one; None if nobody can tell."""
    found = given.get(head)
    if found is None:
        parameter = arguments_of(owner).get(head)
        found = None if parameter is None or parameter is inspect.Parameter.empty else parameter
    if isinstance(found, str) and head in STRATEGIES:
        return _named(head, found)
    if found is None and head in STRATEGIES:
        return _named(head, "BayesianOptimizer" if head == "optimizer" else "BatchScheduler")
    if found is None or isinstance(found, type | partial):
        return found
    cls: Any = type(found)
    return None if cls.__module__ == "builtins" else partial(cls, **constructor_arguments(found))


def class_of(maker: object) -> Any:
    return maker.func if isinstance(maker, partial) else maker


def arguments_of(maker: object) -> dict[str, object]:
    """Return the arguments of a constructor by name, with their defaults (``Parameter.empty`` = none)."""
    cls = class_of(maker)
    variable = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    try:
        parameters = inspect.signature(cls).parameters.values()
    except (TypeError, ValueError):
        return {}
    found = {one.name: one.default for one in parameters if one.kind not in variable}
    if isinstance(cls, type) and issubclass(cls, Experiment):
        empty = inspect.Parameter.empty
        found |= {name: getattr(cls, name, empty) for name in field_annotations(cls) if name not in found}
    return found


def _takes_any(maker: object) -> bool:
    cls = class_of(maker)
    kinds = [one.kind for one in inspect.signature(cls).parameters.values()]
    return inspect.Parameter.VAR_KEYWORD in kinds and not (isinstance(cls, type) and issubclass(cls, Experiment))


def unknown_argument(maker: Any, name: str, given: Mapping[str, object], path: str) -> str:
    """Return what is wrong with a dotted name, or ``""``."""
    head, _, rest = name.partition(".")
    taken = arguments_of(maker)
    if head not in taken:
        if _takes_any(maker):
            return ""
        listed = ", ".join(taken) or "none"
        return f"{path} takes no argument {head!r}{did_you_mean(head, taken)}; it takes {listed}"
    if not rest:
        return ""
    inner = maker_of(maker, head, given)
    if inner is None:
        return f"{path}: {name!r} is an argument of what? Give fixed={{{head!r}: …}}, a class or an instance"
    below = dict(_groups(given)).get(head, {})
    label = getattr(class_of(inner), "__name__", head)
    problem = unknown_argument(inner, rest, below, label)
    hint = f" (another {head}: fixed={{{head!r}: …}})" if problem and head not in given else ""
    return problem + hint
