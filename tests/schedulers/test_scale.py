"""Thousands of trials on hundreds of workers, in virtual time, through the whole sweep: no slot stands idle."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from sweep import Context, SweepExperiment, Uniform
from sweep.executors import SimulatedExecutor
from sweep.optimizers import RandomOptimizer
from sweep.schedulers import ASHAScheduler
from sweep.trial import Status

TRIALS, WORKERS, EPOCHS = 2000, 100, 9


def train(x: float, ctx: Context) -> None:
    for epoch in range(ctx.load(0) + 1, EPOCHS + 1):
        ctx.save(epoch)
        ctx.report(epoch, loss=x + 1 / epoch)


def seconds(params: Any, step: int) -> float:
    return 1.0 + float(params["x"])


def test_two_thousand_trials_on_a_hundred_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWEEP_QUIET", "1")
    executor = SimulatedExecutor(WORKERS, seconds)
    began = time.process_time()
    result = SweepExperiment(
        train, {"x": Uniform(0, 1)}, optimizer=RandomOptimizer(), scheduler=ASHAScheduler(EPOCHS), executor=executor,
        name="scale", seed=1, store=tmp_path / "scale.db",
    ).run(TRIALS)  # fmt: skip
    assert time.process_time() - began < 20
    # algorithm 2 of the paper leaves no worker without a job while there are new configurations
    work = sum(trial.step * seconds(trial.params, 1) for trial in result.trials)
    longest = (EPOCHS + 1) * 2.0
    assert work / WORKERS <= executor.clock.now() <= work / WORKERS + longest
    # a third of a rung goes up, and those that went up on too little evidence: at most the square root of it more
    reached = Counter(trial.step for trial in result.trials)
    assert sum(reached.values()) == TRIALS
    up = TRIALS - reached[1]
    assert TRIALS // 3 <= up <= TRIALS / 3 + 3 * TRIALS**0.5
    assert all(trial.status is Status.COMPLETED for trial in result.trials if trial.step == EPOCHS)
    assert min(result.trials, key=lambda trial: trial.params["x"]).status is Status.COMPLETED
