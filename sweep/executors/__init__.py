"""Where it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sweep.faces import lazy

if TYPE_CHECKING:
    from sweep.executors.base import Executor
    from sweep.executors.local import InlineExecutor, ProcessExecutor, ThreadExecutor, make_executor
    from sweep.executors.simulated import SimulatedExecutor

__all__ = ["Executor", "InlineExecutor", "ProcessExecutor", "SimulatedExecutor", "ThreadExecutor", "make_executor"]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "base": "Executor",
        "local": "InlineExecutor ProcessExecutor ThreadExecutor make_executor",
        "simulated": "SimulatedExecutor",
    },
)
