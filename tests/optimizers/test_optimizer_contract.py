"""Every optimizer of ours keeps the contract."""

from __future__ import annotations

from typing import Any

import pytest

from sweep.optimizers import (
    BayesianOptimizer,
    GridOptimizer,
    OptunaOptimizer,
    ProteinOptimizer,
    RandomOptimizer,
    SobolOptimizer,
)
from sweep.testing.optimizers import OptimizerContract


class TestRandom(OptimizerContract):
    history_free = True

    def make(self) -> RandomOptimizer:
        return RandomOptimizer()


class TestGrid(OptimizerContract):
    seeded = False

    def make(self) -> GridOptimizer:
        return GridOptimizer()


class TestSobol(OptimizerContract):
    history_free = True

    def make(self) -> SobolOptimizer:
        return SobolOptimizer()


class TestTPE(OptimizerContract):
    def make(self) -> OptunaOptimizer:
        return OptunaOptimizer(n_startup_trials=5)


class TestCmaEs(OptimizerContract):
    budget = 30  # several generations

    def make(self) -> OptunaOptimizer:
        return OptunaOptimizer(sampler="CmaEs", popsize=4)


class TestNSGAII(OptimizerContract):
    budget = 24

    def make(self) -> OptunaOptimizer:
        return OptunaOptimizer(sampler="NSGAII", population_size=5)


class TestQMC(OptimizerContract):
    def make(self) -> OptunaOptimizer:
        return OptunaOptimizer(sampler="QMC")


class TestNSGAIII(OptimizerContract):
    def make(self) -> OptunaOptimizer:
        return OptunaOptimizer(sampler="NSGAIII", population_size=5)


@pytest.mark.filterwarnings("ignore:.*Sampler is experimental:optuna.exceptions.ExperimentalWarning")
class TestOptunaInstance(OptimizerContract):
    def make(self) -> OptunaOptimizer:
        import optuna

        inner: Any = optuna.samplers.TPESampler(n_startup_trials=4)
        return OptunaOptimizer(sampler=optuna.samplers.PartialFixedSampler({"depth": 2}, inner))


class TestBayesian(OptimizerContract):
    budget = 12

    def make(self) -> BayesianOptimizer:
        return BayesianOptimizer(n_initial=5)


class TestProtein(OptimizerContract):
    budget = 9

    def make(self) -> ProteinOptimizer:
        return ProteinOptimizer()


class TestProteinEI(OptimizerContract):
    budget = 9

    def make(self) -> ProteinOptimizer:
        return ProteinOptimizer(acquisition="ei", num_random_samples=3)
