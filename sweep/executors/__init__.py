"""Where it runs."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sweep.errors import ContractError, did_you_mean
from sweep.executors.base import Executor

if TYPE_CHECKING:
    from sweep.executors.local import InlineExecutor, ProcessExecutor, ThreadExecutor
    from sweep.executors.simulated import SimulatedExecutor

__all__ = ["Executor", "InlineExecutor", "ProcessExecutor", "SimulatedExecutor", "ThreadExecutor", "make_executor"]

_NAMES = {"inline": "InlineExecutor", "thread": "ThreadExecutor", "process": "ProcessExecutor"}
_FILES = {name: "local" for name in _NAMES.values()} | {"SimulatedExecutor": "simulated"}


def make_executor(what: str | Executor) -> Executor:
    """Return an executor by its short name, or as it is given.

    Raises:
        ContractError: No such name, or no executor.

    Example:
        >>> type(make_executor("inline")).__name__
        'InlineExecutor'
    """
    if isinstance(what, Executor):
        return what
    if not isinstance(what, str) or what not in _NAMES:
        hint = did_you_mean(what, _NAMES) if isinstance(what, str) else ""
        raise ContractError("executor", [f"{what!r}: expected {', '.join(map(repr, _NAMES))}, or an Executor{hint}"])
    executor: Executor = __getattr__(_NAMES[what])()
    return executor


def __getattr__(name: str) -> Any:
    """Import an executor where it is first used."""
    if name not in _FILES:
        raise AttributeError(f"sweep.executors has no {name!r}{did_you_mean(name, __all__)}")
    return getattr(import_module(f"sweep.executors.{_FILES[name]}"), name)


def __dir__() -> list[str]:
    """Return the public names."""
    return __all__
