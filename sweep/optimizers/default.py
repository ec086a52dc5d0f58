"""The optimizer a sweep takes when it is given none."""

from __future__ import annotations

from importlib.util import find_spec

from sweep.errors import MissingExtra
from sweep.optimizers.base import Optimizer
from sweep.optimizers.optuna import OptunaOptimizer
from sweep.space import SearchSpace

__all__ = ["default_optimizer"]


def default_optimizer(space: SearchSpace) -> tuple[Optimizer, str]:
    """Return an optimizer for ``space``, and in one line which and why.

    Raises:
        MissingExtra: Optuna is not installed; random search is never taken silently instead.

    Example:
        >>> from sweep.space import Uniform
        >>> optimizer, reason = default_optimizer(SearchSpace({"x": Uniform(0, 1)}))
        >>> reason.split(":")[0]
        'optimizer'
    """
    if find_spec("optuna") is None:
        instead = "or name an optimizer; optimizer=RandomOptimizer() needs nothing"
        raise MissingExtra("the default optimizer", "optuna", "optuna", instead)
    return OptunaOptimizer(), "optimizer: Optuna's multivariate TPE, the best of the cheap ones up to some 100 trials"
