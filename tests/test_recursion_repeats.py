"""Repeats of trials that run sweeps inside: what each has cost is remembered, however its attempts end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sweep import SweepExperiment
from sweep.context import Context
from sweep.optimizers import GridOptimizer
from sweep.space import Choice


class Power(BaseException):
    """The process ends here."""


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWEEP_QUIET", "1")


def priced(x: int, ctx: Context) -> None:
    ctx.report(1, loss=float(x), cost=2.0)


def inner(name: str) -> SweepExperiment:
    return SweepExperiment(priced, {"x": Choice([1, 2, 3])}, optimizer=GridOptimizer(), metric="loss", name=name)


class Doubtful:
    """An objective of two sweeps of 3 trials at a cost of 2 each; between them the chosen attempts end."""

    def __init__(self, *ends: BaseException) -> None:
        self.ends = list(ends)

    async def work(self, y: int, ctx: Context) -> float:
        """Run the two sweeps."""
        first: Any = await inner("first").run(3)
        if y == 2 and self.ends:
            raise self.ends.pop()
        second: Any = await inner("second").run(3)
        return float(first.best_score + second.best_score)


def outer(path: Path, *ends: BaseException) -> SweepExperiment:
    return SweepExperiment(
        Doubtful(*ends).work, {"y": Choice([1, 2])}, optimizer=GridOptimizer(), name="outer", store=path, seed=1,
        repeats=2, retries=2,
    )  # fmt: skip


def test_attempts_that_fail_keep_what_they_have_cost(tmp_path: Path) -> None:
    path = tmp_path / "sweep.db"
    result = outer(path, ValueError("boom"), ValueError("again")).run()
    assert [trial.status.value for trial in result.trials] == ["completed", "completed"]
    assert [trial.cost for trial in result.trials] == pytest.approx([24, 24], abs=0.5)
    assert result.cost == pytest.approx(48, abs=1)


def test_attempts_cut_by_a_crash_keep_what_they_have_cost(tmp_path: Path) -> None:
    path = tmp_path / "sweep.db"
    for _ in range(2):
        with pytest.raises(BaseException) as death:  # noqa: PT011  # alone, or in a group
            outer(path, Power()).run()
        assert "Power" in repr(death.value)
    result = outer(path).run(resume="must")
    assert [trial.cost for trial in result.trials] == pytest.approx([24, 24], abs=0.5)
    assert result.cost == pytest.approx(48, abs=1)
