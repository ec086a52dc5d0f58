"""How trials end is told apart in the store and by ``sweep show``: every ending here was brought about by a real sweep."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from cli_world import Cli
from dying import Deaths, Killed

from sweep import Context, SweepExperiment, Uniform
from sweep.executors import SimulatedExecutor
from sweep.executors.simulated import Faults
from sweep.optimizers import RandomOptimizer
from sweep.schedulers import ASHAScheduler, BatchScheduler, MedianStoppingScheduler, PBTScheduler, Scheduler


def objective(x: float, ctx: Context) -> None:
    for step in range(ctx.load(0) + 1, 5):
        ctx.save(step)
        ctx.report(step, loss=x + 1 / step)


def sometimes(x: float, ctx: Context) -> None:
    if x > 0.5:
        raise ValueError("the reactor is hot")
    objective(x, ctx)


def _sweep(name: str, scheduler: Scheduler, function: Callable[..., None] = objective, **more: Any) -> SweepExperiment:
    return SweepExperiment(
        function, {"x": Uniform(0, 1)}, optimizer=RandomOptimizer(), scheduler=scheduler, metric="loss", name=name, seed=3,
        store="sweep.db", **more,
    )  # fmt: skip


def _rows(store: Path) -> list[tuple[str, str | None]]:
    """Return status and reason of the trials of the only sweep as the store has them."""
    with closing(sqlite3.connect(store)) as connection:
        return connection.execute("SELECT status, reason FROM run WHERE level='trial' ORDER BY number").fetchall()


def _shown(cli: Cli, name: str) -> list[dict[str, Any]]:
    """Return the trials of ``sweep show --json``; its table, which cuts long words off, says the same of each."""
    trials: list[dict[str, Any]] = json.loads(cli("show", name, "--json").stdout)["list"]
    lines = {line.split()[0]: line for line in cli("show", name).stdout.splitlines()[3:]}
    for trial in trials:
        line = lines[str(trial["number"])]
        assert trial["status"] in line
        assert (trial["error"] or trial["how"])[:30] in line, line
    return sorted(trials, key=lambda trial: int(trial["number"]))


@pytest.mark.parametrize(
    ("scheduler", "function", "more", "endings"),
    [
        (BatchScheduler(), sometimes, {}, {("completed", "completed"), ("failed", "error")}),
        (MedianStoppingScheduler(min_samples=2), objective, {}, {("completed", "completed"), ("stopped", "pruned")}),
        (ASHAScheduler(4, 2), objective, {}, {("completed", "completed"), ("stopped", "unpromoted")}),
        (PBTScheduler(6, 2, interval=2), objective, {}, {("completed", "completed"), ("stopped", "exploited")}),
        (
            BatchScheduler(), objective,
            {"executor": SimulatedExecutor(2, lambda params, step: 1.0, 1, Faults(losses=0.3, host_size=1))},
            {("completed", "completed"), ("failed", "lost")},
        ),
    ],
    ids=["failed", "pruned", "unpromoted", "exploited", "lost"],
)  # fmt: skip
def test_each_ending_has_its_own_status_and_reason(
    scheduler: Scheduler, function: Any, more: dict[str, Any], endings: set[tuple[str, str]], cli: Cli, work: Path
) -> None:
    result = _sweep("s", scheduler, function, **more).run(6)
    rows = _rows(work / "sweep.db")
    assert set(rows) == endings
    assert rows == [(str(trial.status), str(trial.reason)) for trial in result.trials]
    shown = _shown(cli, "s")
    for trial, (status, reason) in zip(shown, rows, strict=True):
        assert (trial["status"], trial["reason"]) == (status, reason)
        assert trial["how"].startswith({"error": "failed", "lost": "failed: lost"}.get(str(reason), str(reason)))
    assert len({trial["how"].partition(",")[0] for trial in shown}) == 2


def test_promotions_and_exploits_are_shown_with_their_trials(cli: Cli, work: Path) -> None:
    result = _sweep("up", ASHAScheduler(4, 2)).run(6)
    for trial, shown in zip(result.trials, _shown(cli, "up"), strict=True):
        assert (f"promoted {trial.attempts - 1}x" in shown["how"]) == (trial.attempts > 1)
    bred = _sweep("bred", PBTScheduler(6, 2, interval=2)).run(6)
    heirs = [trial for trial in bred.trials if trial.parent is not None]
    assert heirs
    shown_trials = _shown(cli, "bred")
    for trial in heirs:
        said = f"in the place of trial[{trial.parent}] with the checkpoint of trial[{trial.start_from}]"
        assert said in shown_trials[trial.number]["how"]


def test_what_is_paused_and_what_was_cut_is_told_apart(cli: Cli, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process dies in the middle: paused trials wait, the one that ran is interrupted; resumed, all end."""
    deaths, seen = Deaths(monkeypatch), Counter[str]()
    for at in range(6, 16):
        (work / "sweep.db").unlink(missing_ok=True)
        for suffix in ("-wal", "-shm"):
            (work / f"sweep.db{suffix}").unlink(missing_ok=True)
        if not isinstance(deaths.run(lambda: _sweep("s", ASHAScheduler(4, 2)).run(6), at=at), Killed):
            break
        seen.update(trial["how"].partition(",")[0] for trial in _shown(cli, "s"))
    assert {"paused", "interrupted"} <= set(seen), seen
    _sweep("s", ASHAScheduler(4, 2)).run(6)
    assert {trial["status"] for trial in _shown(cli, "s")} == {"completed", "stopped"}
