"""Sweeps whose trials are sweeps whose trials are sweeps, killed at any commit: nothing is lost, nothing repeated."""

from __future__ import annotations

import random
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest
from simulation import Doomed, Killed, begin, leave

from sweep import SweepExperiment
from sweep.context import Context
from sweep.optimizers import GridOptimizer, RandomOptimizer
from sweep.schedulers import ASHAScheduler, HyperbandScheduler, PBTScheduler, Scheduler
from sweep.space import Choice, Uniform
from sweep.store.writer import Store


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWEEP_QUIET", "1")


def innermost(seed: int) -> tuple[Scheduler, int]:
    """Return the scheduler of the innermost sweeps, and their budget."""
    kinds = [
        (ASHAScheduler(max_epochs=3), 3),
        (HyperbandScheduler(max_epochs=4, reduction_factor=2), 4),
        (PBTScheduler(population_size=3, num_generations=2), 3),
    ]
    return kinds[seed % len(kinds)]


class Nest:
    """Three levels: a grid, a grid whose first attempts fail now and then, and a random search that is cut short."""

    def __init__(self, path: Path, seed: int) -> None:
        self.path, self.seed = path, seed
        self.repeats = random.Random(seed).choice([1, 1, 2])
        self.ran: Counter[str] = Counter()

    def leaf(self, x: float, ctx: Context) -> None:
        """Report four steps."""
        assert ctx.path not in self.finished(), f"{ctx.path} runs again"
        self.ran[ctx.path] += 1
        for step in range(int(ctx.load(0)) + 1, 5):
            ctx.save(step)
            ctx.report(step, loss=x / step)

    async def middle(self, b: int, ctx: Context) -> float:
        """Search for x."""
        scheduler, budget = innermost(self.seed)
        best = await self.sweep(self.leaf, {"x": Uniform(0, 1)}, RandomOptimizer(), "inner", scheduler).run(budget)
        if (b + self.seed) % 2 and ctx.attempt == 1:
            raise ValueError("the first time")
        return float(best.best_score) + b

    async def outer(self, a: int) -> float:
        """Search for b."""
        return float((await self.sweep(self.middle, {"b": Choice([1, 2])}, GridOptimizer(), "middle").run()).best_score) * a

    def sweep(
        self, objective: Any, space: dict[str, Any], optimizer: Any, name: str, scheduler: Scheduler | None = None
    ) -> SweepExperiment:
        return SweepExperiment(
            objective, space, optimizer=optimizer, scheduler=scheduler, name=name, seed=self.seed, retries=9,
            repeats=self.repeats if name == "middle" else 1,
        )  # fmt: skip

    def finished(self) -> set[str]:
        """Return the paths of the leaves that the store says are over."""
        with closing(sqlite3.connect(self.path)) as connection:
            return {path for path, status in _paths(connection).items() if status in ("completed", "failed")}

    async def session(self, commits: int | None, after: bool) -> float | None:
        """Work until the end, or until death after so many commits."""
        store = Store(self.path)
        connection = store._connection
        if commits is not None:
            store._connection = Doomed(connection, commits, after=after)  # type: ignore[assignment]  # stands in
        try:
            known = connection.execute("SELECT 1 FROM run WHERE parent_id=0").fetchone()
            top = self.sweep(self.outer, {"a": Choice([1, 2])}, GridOptimizer(), "outer")
            result = await top.run(resume="must" if known else "auto", store=store)  # type: ignore[arg-type]  # an open one
            return float(result.best_score)
        except (Killed, BaseExceptionGroup) as death:
            if "Killed" not in repr(death):
                raise
            return None
        finally:
            leave(store, connection)

    def rows(self) -> list[tuple[Any, ...]]:
        """Return what must not depend on deaths."""
        with closing(sqlite3.connect(self.path)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            paths = _paths(connection, "id")
            query = "SELECT id, params, status, reason, score, step FROM run"
            return sorted((paths[row[0]], *row[1:]) for row in connection.execute(query))


def _paths(connection: sqlite3.Connection, key: str = "path") -> dict[Any, str]:
    """Return status by path of every trial, or path by id of every run."""
    found = {row[0]: row[1:] for row in connection.execute("SELECT id, parent_id, stage, name, number, level, status FROM run")}

    def path(number: int) -> str:
        parent, stage, name, ordinal, level, _ = found[number]
        own = "/".join(filter(None, (stage, f"{name}[{ordinal}]" if level == "trial" else name)))
        return f"{path(parent)}/{own}" if parent else own

    return {number: path(number) for number in found} if key == "id" else {path(n): row[-1] for n, row in found.items()}


def test_three_levels_killed_at_any_commit_are_as_if_nothing_had_happened(tmp_path: Path) -> None:
    died = 0
    for seed in range(6):
        dice = random.Random(seed)
        nest, twin = Nest(tmp_path / "nest.db", seed), Nest(tmp_path / "twin.db", seed)
        begin(nest.path)
        begin(twin.path)
        for commits in [*(dice.choice([dice.randint(0, 12), dice.randint(0, 120)]) for _ in range(6)), None]:
            best = anyio.run(nest.session, commits, dice.random() < 0.5)
            if best is not None:
                break
            died += 1
        assert best == anyio.run(twin.session, None, False), f"seed {seed}"
        assert nest.rows() == twin.rows(), f"seed {seed}"
        assert all(status != "running" for status in (row[2] for row in nest.rows()))
    assert died >= 12
