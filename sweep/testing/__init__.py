"""Contract suites for your own plug-ins, and virtual time.

Subclass a suite in your tests and say how the plug-in is made::

    from sweep.testing import OptimizerContract

    class TestMine(OptimizerContract):
        def make(self):
            return MyOptimizer()
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sweep.faces import lazy

if TYPE_CHECKING:
    from sweep.testing.clock import VirtualClock
    from sweep.testing.executors import ExecutorContract, RecordingSession
    from sweep.testing.optimizers import OptimizerContract
    from sweep.testing.schedulers import Rehearsal, SchedulerContract

__all__ = ["ExecutorContract", "OptimizerContract", "RecordingSession", "Rehearsal", "SchedulerContract", "VirtualClock"]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "clock": "VirtualClock",
        "executors": "ExecutorContract RecordingSession",
        "optimizers": "OptimizerContract",
        "schedulers": "Rehearsal SchedulerContract",
    },
)
