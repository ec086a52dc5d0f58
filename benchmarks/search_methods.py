"""What is compared: our optimizers and schedulers, Optuna's samplers and pruners, and a canary.

The smallest rung of everything that stops trials early is unit 1 (epoch 2), but for the recipe of the library's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from search_problem import UNITS

from sweep.optimizers import AxOptimizer, BayesianOptimizer, OptunaOptimizer, RandomOptimizer
from sweep.optimizers.base import Optimizer
from sweep.optimizers.optuna_study import make_axes
from sweep.schedulers import ASHAScheduler, BatchScheduler, HyperbandScheduler, Scheduler
from sweep.space import SearchSpace
from sweep.trial import Decision, Objective, Result, Status, Trial

Pair = tuple[Optimizer, Scheduler]


class Corners(Optimizer):
    """The canary: corners of the box and its middle."""

    def setup(self, space: SearchSpace, objectives: Any, seed: int) -> None:
        self._space, self._rng = space, np.random.default_rng(seed)

    def suggest(self, n: int) -> list[Trial]:
        d = len(self._space.dimensions)
        return [Trial(self._space.from_unit(self._rng.choice([0.02, 0.5, 0.98], d).tolist())) for _ in range(n)]

    def observe(self, trial: Trial, result: Result) -> None:
        pass


class Study(Optimizer):
    """A study of Optuna as its users have it, asked and told; the pruner belongs to it."""

    def __init__(self, pruner: Callable[[], Any]) -> None:
        self._pruner = pruner

    def setup(self, space: SearchSpace, objectives: Any, seed: int) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._space = space
        sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True)
        # HyperbandPruner deals trials to brackets by a hash of the study's name, which is random if not given
        self.study = optuna.create_study(sampler=sampler, pruner=self._pruner(), study_name=f"search-{seed}")
        self._axes = make_axes(space)
        self.asked: dict[int, Any] = {}  # made anew, a trial of Optuna would be sampled anew

    def suggest(self, n: int) -> list[Trial]:
        trials = []
        for _ in range(n):
            asked = self.study.ask({name: axis.distribution for name, axis in self._axes.items()})
            self.asked[asked.number] = asked
            params = {name: axis.decode(asked.params[name]) for name, axis in self._axes.items()}
            trials.append(Trial(self._space.validate(params), notes={"asked": asked.number}))
        return trials

    def observe(self, trial: Trial, result: Result) -> None:
        import optuna

        number = (trial.notes or {})["asked"]
        if trial.status is Status.STOPPED:
            self.study.tell(number, state=optuna.trial.TrialState.PRUNED)  # with its last report as its value
        else:
            self.study.tell(number, float(result))


class Pruning(Scheduler):
    """Asks the study's pruner at every report."""

    max_resource = UNITS

    def __init__(self, optimizer: Study) -> None:
        self._optimizer = optimizer

    def should_stop(self, trial: Trial) -> bool:
        return self.on_report(trial, trial.step, trial.metrics) is Decision.STOP

    def on_report(self, trial: Trial, step: int, metrics: Mapping[str, float]) -> Decision:
        asked = self._optimizer.asked[(trial.notes or {})["asked"]]
        asked.report(metrics["loss"], step)
        return Decision.STOP if step < UNITS and asked.should_prune() else Decision.CONTINUE


def _median() -> Pair:
    import optuna

    optimizer = Study(optuna.pruners.MedianPruner)
    return optimizer, Pruning(optimizer)


def _hyperband() -> Pair:
    import optuna

    optimizer = Study(lambda: optuna.pruners.HyperbandPruner(min_resource=1, max_resource=UNITS, reduction_factor=3))
    return optimizer, Pruning(optimizer)


def _tpe() -> OptunaOptimizer:
    return OptunaOptimizer(sampler="TPE", multivariate=True, constant_liar=True)


def _recipe() -> ASHAScheduler:
    """Levels 5 10 20 40 51, as the recipe of curves has them."""
    return ASHAScheduler(UNITS, 2, 5, rank_by="predicted", promotion_factor=2.5)


METHODS: dict[str, Callable[[], Pair]] = {
    "tpe": lambda: (_tpe(), BatchScheduler()),
    "tpe-median": _median,
    "tpe-hyperband": _hyperband,
    "bayesian": lambda: (BayesianOptimizer(), _recipe()),
    "bayesian-full": lambda: (BayesianOptimizer(), BatchScheduler()),
    "ax-full": lambda: (AxOptimizer(), BatchScheduler()),
    "random": lambda: (RandomOptimizer(), BatchScheduler()),
    "random-asha": lambda: (RandomOptimizer(), ASHAScheduler(UNITS, 3, 1)),
    "random-hyperband": lambda: (RandomOptimizer(), HyperbandScheduler(UNITS, 3, 1)),
    "tpe-asha": lambda: (_tpe(), ASHAScheduler(UNITS, 3, 1)),
    "corners": lambda: (Corners(), BatchScheduler()),
}
OBJECTIVES = (Objective("loss"),)
