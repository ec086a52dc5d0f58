"""The optimizer a sweep takes when it is given none."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from sweep.errors import MissingExtra
from sweep.optimizers.base import Optimizer
from sweep.optimizers.bayesian import BayesianOptimizer
from sweep.optimizers.optuna import OptunaOptimizer
from sweep.space import SearchSpace
from sweep.trial import Objective

__all__ = ["default_optimizer"]

_MANY = 20  # dimensions beyond which the Gaussian process has not been measured


def default_optimizer(space: SearchSpace, objectives: Sequence[Objective] = ()) -> tuple[Optimizer, str]:
    """Return an optimizer for ``space``, and in one line which and why.

    Args:
        space: What is searched.
        objectives: What is optimised; none given: one.

    Raises:
        MissingExtra: The package of the choice is not installed; random search is never taken silently instead.

    Example:
        >>> from sweep.space import Uniform
        >>> optimizer, reason = default_optimizer(SearchSpace({"x": Uniform(0, 1)}))
        >>> reason.split(":")[0]
        'optimizer'
    """
    installed = find_spec("numpy") is not None and find_spec("scipy") is not None
    if installed and len(objectives) <= 1 and len(space.dimensions) <= _MANY:
        return BayesianOptimizer(), "optimizer: BayesianOptimizer, which reads learning curves and was ahead of TPE"
    if find_spec("optuna") is None:
        instead = "or name an optimizer; optimizer=RandomOptimizer() needs nothing"
        raise MissingExtra("the default optimizer", "optuna", "optuna", instead)
    why = "scipy is not installed"
    if len(objectives) > 1:
        why = "it takes several objectives"
    elif installed:
        why = f"{len(space.dimensions)} parameters are many for a Gaussian process"
    return OptunaOptimizer(), f"optimizer: Optuna's TPE ({why})"
