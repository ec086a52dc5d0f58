"""Contract suites for your own plug-ins, and virtual time.

Subclass a suite in your tests and say how the plug-in is made::

    from sweep.testing import OptimizerContract

    class TestMine(OptimizerContract):
        def make(self):
            return MyOptimizer()
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sweep.errors import did_you_mean

if TYPE_CHECKING:
    from sweep.testing.clock import VirtualClock
    from sweep.testing.executors import ExecutorContract, RecordingSession
    from sweep.testing.optimizers import OptimizerContract
    from sweep.testing.schedulers import Rehearsal, SchedulerContract

__all__ = ["ExecutorContract", "OptimizerContract", "RecordingSession", "Rehearsal", "SchedulerContract", "VirtualClock"]

_FILES = {
    "ExecutorContract": "executors",
    "OptimizerContract": "optimizers",
    "RecordingSession": "executors",
    "Rehearsal": "schedulers",
    "SchedulerContract": "schedulers",
    "VirtualClock": "clock",
}


def __getattr__(name: str) -> Any:
    """Import a suite where it is first used."""
    if name not in _FILES:
        raise AttributeError(f"sweep.testing has no {name!r}{did_you_mean(name, __all__)}")
    return getattr(import_module(f"sweep.testing.{_FILES[name]}"), name)


def __dir__() -> list[str]:
    """Return the public names."""
    return __all__
