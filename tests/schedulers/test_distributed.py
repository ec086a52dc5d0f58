"""A scheduler that names an executor has its trials there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from sweep import SweepExperiment, Uniform
from sweep.errors import ContractError
from sweep.executors import ProcessExecutor
from sweep.optimizers import RandomOptimizer
from sweep.schedulers import BatchScheduler, DistributedScheduler


def process_id(x: float) -> float:
    return float(os.getpid())


def where(named: Any, tmp_path: Path, **more: Any) -> set[float]:
    scheduler = DistributedScheduler(BatchScheduler(), named)
    store = tmp_path / "sweep.db"
    sweep = SweepExperiment(
        process_id, {"x": Uniform(0, 1)}, optimizer=RandomOptimizer(), scheduler=scheduler, store=store, **more
    )
    return {trial.score for trial in sweep.run(2).trials if trial.score is not None}


@pytest.mark.parametrize("executor", ["process", ProcessExecutor(1)], ids=["by name", "as an object"])
def test_trials_run_on_the_executor_that_the_scheduler_names(executor: Any, tmp_path: Path) -> None:
    found = where(executor, tmp_path)
    assert found
    assert float(os.getpid()) not in found


def test_the_sweeps_own_executor_comes_first(tmp_path: Path) -> None:
    assert where("process", tmp_path, executor="thread") == {float(os.getpid())}


def test_a_mistyped_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="did you mean 'process'"):
        where("proces", tmp_path)
