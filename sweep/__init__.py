"""Durable, typed, recursive experiments for machine learning.

Every name is imported where it is first used, so that ``import sweep`` is cheap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sweep import errors
from sweep.faces import lazy

if TYPE_CHECKING:
    from sweep.context import Context
    from sweep.experiments.base import Experiment
    from sweep.experiments.composite import MetaExperiment
    from sweep.experiments.result import RunResult
    from sweep.experiments.sweep import SweepExperiment
    from sweep.experiments.sweepresult import SweepResult
    from sweep.pipeline.builder import Pipeline
    from sweep.pipeline.nodes import Cache, Retry, ref
    from sweep.pipeline.state import State
    from sweep.space import (
        Choice,
        Constant,
        Integer,
        LogInteger,
        LogNormal,
        LogUniform,
        Normal,
        Ordinal,
        SearchSpace,
        Uniform,
    )
    from sweep.store.writer import open_store
    from sweep.trial import Budget, Resources, Result, Status, Trial

__version__ = "0.1.0"

__all__ = [
    "Budget",
    "Cache",
    "Choice",
    "Constant",
    "Context",
    "Experiment",
    "Integer",
    "LogInteger",
    "LogNormal",
    "LogUniform",
    "MetaExperiment",
    "Normal",
    "Ordinal",
    "Pipeline",
    "Resources",
    "Result",
    "Retry",
    "RunResult",
    "SearchSpace",
    "State",
    "Status",
    "SweepExperiment",
    "SweepResult",
    "Trial",
    "Uniform",
    "errors",
    "open_store",
    "ref",
]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "context": "Context",
        "experiments.base": "Experiment",
        "experiments.composite": "MetaExperiment",
        "experiments.result": "RunResult",
        "experiments.sweep": "SweepExperiment",
        "experiments.sweepresult": "SweepResult",
        "pipeline.builder": "Pipeline",
        "pipeline.nodes": "Cache Retry ref",
        "pipeline.state": "State",
        "space": "Choice Constant Integer LogInteger LogNormal LogUniform Normal Ordinal SearchSpace Uniform",
        "store.writer": "open_store",
        "trial": "Budget Resources Result Status Trial",
    },
)
