"""NevergradOptimizer keeps the contract."""

from __future__ import annotations

import pytest

from sweep.optimizers import NevergradOptimizer
from sweep.testing.optimizers import OptimizerContract

pytest.importorskip("nevergrad", reason="the extra 'nevergrad' is not installed", exc_type=ImportError)


class TestNGOpt(OptimizerContract):
    def make(self) -> NevergradOptimizer:
        return NevergradOptimizer()


class TestPSO(OptimizerContract):
    budget = 12

    def make(self) -> NevergradOptimizer:
        return NevergradOptimizer(optimizer="PSO")


class TestCMA(OptimizerContract):
    budget = 14

    def make(self) -> NevergradOptimizer:
        return NevergradOptimizer(optimizer="CMA")
