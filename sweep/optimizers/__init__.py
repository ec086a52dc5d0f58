"""What to try next: one file for each optimizer, imported when its name is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sweep.faces import lazy

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

__getattr__, __dir__ = lazy(
    __name__,
    {
        "ax": "AxOptimizer",
        "base": "Optimizer",
        "bayesian": "BayesianOptimizer",
        "default": "default_optimizer",
        "grid": "GridOptimizer",
        "nevergrad": "NevergradOptimizer",
        "optuna": "OptunaOptimizer",
        "protein": "ProteinOptimizer",
        "random": "RandomOptimizer",
        "sobol": "SobolOptimizer",
    },
)
