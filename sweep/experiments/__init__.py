"""Experiments: pipelines with a name, a journal and children."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sweep.faces import lazy

if TYPE_CHECKING:
    from sweep.experiments.base import Experiment
    from sweep.experiments.composite import MetaExperiment, ValidatedParams, ValidationExperiment
    from sweep.experiments.hyperband import DistributedHyperBand, HyperBand
    from sweep.experiments.result import RunResult
    from sweep.experiments.sweep import SweepExperiment
    from sweep.experiments.sweepresult import SweepResult

__all__ = [
    "DistributedHyperBand",
    "Experiment",
    "HyperBand",
    "MetaExperiment",
    "RunResult",
    "SweepExperiment",
    "SweepResult",
    "ValidatedParams",
    "ValidationExperiment",
]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "base": "Experiment",
        "composite": "MetaExperiment ValidatedParams ValidationExperiment",
        "hyperband": "DistributedHyperBand HyperBand",
        "result": "RunResult",
        "sweep": "SweepExperiment",
        "sweepresult": "SweepResult",
    },
)
