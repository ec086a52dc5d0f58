"""How long to try it: schedulers decide when a trial pauses, goes on, stops, or is replaced."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sweep.faces import lazy

if TYPE_CHECKING:
    from sweep.schedulers.asha import ASHAScheduler, AsyncHyperbandScheduler
    from sweep.schedulers.base import Decision, Scheduler
    from sweep.schedulers.batch import BatchScheduler, SynchronousBatchScheduler
    from sweep.schedulers.distributed import DistributedScheduler
    from sweep.schedulers.halving import HyperbandScheduler, SuccessiveHalvingScheduler
    from sweep.schedulers.median import MedianStoppingScheduler
    from sweep.schedulers.pbt import PBTScheduler

__all__ = [
    "ASHAScheduler",
    "AsyncHyperbandScheduler",
    "BatchScheduler",
    "Decision",
    "DistributedScheduler",
    "HyperbandScheduler",
    "MedianStoppingScheduler",
    "PBTScheduler",
    "Scheduler",
    "SuccessiveHalvingScheduler",
    "SynchronousBatchScheduler",
]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "asha": "ASHAScheduler AsyncHyperbandScheduler",
        "base": "Decision Scheduler",
        "batch": "BatchScheduler SynchronousBatchScheduler",
        "distributed": "DistributedScheduler",
        "halving": "HyperbandScheduler SuccessiveHalvingScheduler",
        "median": "MedianStoppingScheduler",
        "pbt": "PBTScheduler",
    },
)
