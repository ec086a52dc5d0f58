"""How long to try it: schedulers decide when a trial pauses, goes on, stops, or is replaced."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sweep.errors import did_you_mean

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

_HOME = {
    "ASHAScheduler": "asha",
    "AsyncHyperbandScheduler": "asha",
    "BatchScheduler": "batch",
    "Decision": "base",
    "DistributedScheduler": "distributed",
    "HyperbandScheduler": "halving",
    "MedianStoppingScheduler": "median",
    "PBTScheduler": "pbt",
    "Scheduler": "base",
    "SuccessiveHalvingScheduler": "halving",
    "SynchronousBatchScheduler": "batch",
}


def __getattr__(name: str) -> Any:
    """Import a scheduler when it is first named."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{did_you_mean(name, __all__)}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
