"""A disk that is full is no fault of the trial that came upon it: the sweep ends, and goes on once there is room."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sweep import Context, Experiment, Pipeline, SweepExperiment, Uniform
from sweep.errors import StoreUnwritable
from sweep.optimizers import RandomOptimizer


@contextmanager
def full_above(limit: int) -> Iterator[None]:
    """Let no file grow beyond a limit, in bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def saves(x: float, ctx: Context) -> float:
    """Save more in the third trial."""
    ctx.save(np.full(200_000 if ctx.trial == 2 else 10, x))
    ctx.report(1, loss=x)
    return x


def logs(x: float, ctx: Context) -> float:
    """Log more in the third trial."""
    ctx.log("w" * (1_600_000 if ctx.trial == 2 else 10))
    return x


class Keeps(Experiment):
    """A trial with a stage that keeps more where x is large."""

    x: float

    def pipeline(self) -> Pipeline:
        """Return the stages."""
        return (
            Pipeline().stage("make", self.make).through(made=np.ndarray).stage("score", self.score).through(loss=float)
        )

    def make(self, x: float) -> np.ndarray:
        """Return an array that is large in one trial of the four."""
        return np.full(200_000 if x > 0.8 else 10, x)

    def score(self, made: np.ndarray) -> float:
        """Return its first number."""
        return float(made[0])


@pytest.mark.parametrize(
    ("objective", "executor"),
    [(saves, "inline"), (saves, "thread"), (saves, "process"), (logs, "inline"), (Keeps, "inline")],
)
def test_a_trial_that_finds_the_disk_full_is_not_failed_but_runs_again(
    objective: Callable[..., Any], executor: str, tmp_path: Path
) -> None:
    def run() -> Any:
        return SweepExperiment(
            objective, {"x": Uniform(0, 1)}, optimizer=RandomOptimizer(), executor=executor,
            seed=1, name="s", store=tmp_path / "sweep.db", metric=None if objective is logs else "loss",
        ).run(budget=4)  # fmt: skip

    with full_above(1_000_000), pytest.raises(StoreUnwritable, match="then resume"):
        run()
    result = run()
    assert result.path == "s", "the run goes on, it is no new one"
    assert [trial.status for trial in result.trials] == ["completed"] * 4
    attempts = [trial.attempts for trial in result.trials]
    assert sum(attempts) == 5, "only the one that was cut runs again"
