"""AxOptimizer keeps the contract; in a file of its own, for Ax takes seconds to import."""

from __future__ import annotations

import pytest

pytest.importorskip("ax", reason="the extra 'ax' is not installed", exc_type=ImportError)

from sweep.optimizers import AxOptimizer
from sweep.testing.optimizers import OptimizerContract


class TestAx(OptimizerContract):
    budget = 5  # one or two models each

    def make(self) -> AxOptimizer:
        return AxOptimizer(n_initial=4)
