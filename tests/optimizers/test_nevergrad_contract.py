"""NevergradOptimizer keeps the contract."""

from __future__ import annotations

import pytest

pytest.importorskip("nevergrad", reason="the extra 'nevergrad' is not installed", exc_type=ImportError)

from sweep.optimizers import NevergradOptimizer
from sweep.testing.optimizers import OptimizerContract


class TestNGOpt(OptimizerContract):
    def make(self) -> NevergradOptimizer:
        return NevergradOptimizer()


class TestTwoPointsDE(OptimizerContract):
    budget = 40  # past the first population

    def make(self) -> NevergradOptimizer:
        return NevergradOptimizer(optimizer="TwoPointsDE")


class TestCMA(OptimizerContract):
    budget = 24

    def make(self) -> NevergradOptimizer:
        return NevergradOptimizer(optimizer="CMA")
