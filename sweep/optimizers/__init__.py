"""What to try next: one file for each optimizer, imported when its name is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sweep.errors import did_you_mean

if TYPE_CHECKING:  # names for type checkers; at run time __getattr__ imports one file
    from sweep.optimizers.ax import AxOptimizer
    from sweep.optimizers.base import Optimizer
    from sweep.optimizers.bayesian import BayesianOptimizer
    from sweep.optimizers.default import default_optimizer
    from sweep.optimizers.grid import GridOptimizer
    from sweep.optimizers.nevergrad import NevergradOptimizer
    from sweep.optimizers.optuna import OptunaOptimizer
    from sweep.optimizers.protein import ProteinOptimizer
    from sweep.optimizers.random import RandomOptimizer
    from sweep.optimizers.sobol import SobolOptimizer

__all__ = [
    "AxOptimizer",
    "BayesianOptimizer",
    "GridOptimizer",
    "NevergradOptimizer",
    "Optimizer",
    "OptunaOptimizer",
    "ProteinOptimizer",
    "RandomOptimizer",
    "SobolOptimizer",
    "default_optimizer",
]


def __getattr__(name: str) -> Any:
    """Import the file that holds ``name``: the first word of it, in lower case."""
    if name not in __all__:
        raise AttributeError(f"module 'sweep.optimizers' has no attribute {name!r}{did_you_mean(name, __all__)}")
    file = "base" if name == "Optimizer" else name.removesuffix("Optimizer").removesuffix("_optimizer").lower()
    return getattr(import_module(f"sweep.optimizers.{file}"), name)


def __dir__() -> list[str]:
    return list(__all__)
