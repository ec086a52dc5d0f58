"""NevergradOptimizer keeps the contract."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import pytest

from sweep import Context, SweepExperiment
from sweep.optimizers import NevergradOptimizer
from sweep.schedulers import ASHAScheduler
from sweep.space import SearchSpace, Uniform
from sweep.testing.optimizers import OptimizerContract, end, play
from sweep.trial import Objective, Source, Status, Trial

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


class TestCobyla(OptimizerContract):
    """A method that asks one question at a time."""

    budget = 14

    def make(self) -> NevergradOptimizer:
        return NevergradOptimizer(optimizer="Cobyla")


SQUARE = SearchSpace({"x": Uniform(0, 1), "y": Uniform(0, 1)})
SEQUENTIAL = ["NGOpt", "Cobyla", "SQP", "NelderMead"]  # NGOpt chooses Cobyla for this square


def ready(name: str) -> NevergradOptimizer:
    optimizer = NevergradOptimizer(optimizer=name)
    optimizer.setup(SQUARE, [Objective("loss")], 1)
    return optimizer


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", SEQUENTIAL)
def test_a_method_that_waits_for_its_result_keeps_nobody_waiting_for_ever(name: str) -> None:
    """Asked again while a trial runs it gives out none; failed, lost and foreign trials do not block it either."""
    optimizer = ready(name)
    for number, status in enumerate([Status.FAILED, Status.ABORTED, Status.COMPLETED, Status.FAILED, Status.ABORTED] * 3):
        [trial] = optimizer.suggest(3)
        assert optimizer.suggest(1) == []
        trial.number = number
        score = trial.params["x"] if status is Status.COMPLETED else math.nan
        end(optimizer, trial, score, status)
        end(optimizer, Trial(SQUARE.from_unit([0.1, number / 20]), number=100 + number, source=Source.ENQUEUED), 0.1)
    assert len(play(optimizer, 10, lambda params: params["x"] + params["y"])) == 10


@pytest.mark.timeout(60)
@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("name", SEQUENTIAL)
def test_it_searches_with_pauses_and_any_number_of_workers(name: str, workers: int) -> None:
    def curve(x: float, y: float, ctx: Context) -> None:
        for step in range(ctx.load(0) + 1, 5):
            ctx.save(step)
            ctx.report(step, loss=x + y + 1 / step)

    options: Any = {"scheduler": ASHAScheduler(4, 2), "metric": "loss", "workers": workers, "seed": 1, "name": "s"}
    result = SweepExperiment(curve, SQUARE, optimizer=NevergradOptimizer(optimizer=name), **options).run(10)
    assert len(result.trials) == 10


@pytest.mark.timeout(60)
def test_a_program_that_keeps_the_optimizer_comes_to_its_end() -> None:
    """The thread in which such a method waits for its result keeps no process alive."""
    program = """
from sweep.optimizers import NevergradOptimizer
from sweep.space import SearchSpace, Uniform
optimizer = NevergradOptimizer(SearchSpace({"x": Uniform(0, 1), "y": Uniform(0, 1)}), "Cobyla")
[trial] = optimizer.suggest(1)
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=40)
