"""Experiments: pipelines with a name, a journal and children."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sweep.errors import did_you_mean

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

_FILES = {
    "DistributedHyperBand": "hyperband",
    "Experiment": "base",
    "HyperBand": "hyperband",
    "MetaExperiment": "composite",
    "RunResult": "result",
    "SweepExperiment": "sweep",
    "SweepResult": "sweepresult",
    "ValidatedParams": "composite",
    "ValidationExperiment": "composite",
}


def __getattr__(name: str) -> Any:
    """Import an experiment class where it is first used."""
    if name not in _FILES:
        raise AttributeError(f"sweep.experiments has no {name!r}{did_you_mean(name, __all__)}")
    return getattr(import_module(f"sweep.experiments.{_FILES[name]}"), name)


def __dir__() -> list[str]:
    """Return the public names."""
    return __all__
