"""Short trials that follow one another share a call of the executor; nothing else may change for them."""

from __future__ import annotations

import sqlite3
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

import sweep.experiments.inrow as inrow
from sweep import Resources, Status, SweepExperiment, Trial, Uniform
from sweep.optimizers import Optimizer, RandomOptimizer
from sweep.threads import WorkerThreads

X = {"x": Uniform(-1, 1)}


def square(x: float) -> float:
    return x * x


async def square_async(x: float) -> float:
    return x * x


def fails_below(x: float) -> float:
    if x < -0.5:
        raise ValueError(f"{x} is too low")
    if x < 0:
        sys.exit(3)
    return x


async def fails_below_async(x: float) -> float:
    return fails_below(x)


class Asked(Optimizer):
    """What a random optimizer says, called as one that takes its time."""

    def __init__(self) -> None:
        self._inner = RandomOptimizer()

    def setup(self, *args: Any) -> None:
        self._inner.setup(*args)

    def suggest(self, n: int) -> list[Trial]:
        return self._inner.suggest(n)

    def observe(self, trial: Trial, result: Any) -> None:
        self._inner.observe(trial, result)

    def restore(self, trials: Any) -> None:
        self._inner.restore(trials)


def sweep(objective: Any, optimizer: Any = None, **more: Any) -> SweepExperiment:
    return SweepExperiment(objective, X, optimizer=optimizer or RandomOptimizer(), seed=1, **{"name": "s", **more})


def told(path: Path) -> list[tuple[Any, ...]]:
    """What the store says of each trial, but for clocks and costs."""
    query = "SELECT number, status, reason, score, attempts, error, result, params FROM run WHERE level='trial' ORDER BY number"
    with sqlite3.connect(path) as connection:
        found = connection.execute(query).fetchall()
    connection.close()
    return found


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Calls of worker threads."""
    found: list[Any] = []
    run = WorkerThreads.run

    async def counted(self: WorkerThreads, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        found.append(function)
        return await run(self, function, *args, **kwargs)

    monkeypatch.setattr(WorkerThreads, "run", counted)
    return found


def test_trials_of_a_sync_function_share_calls_of_the_worker_thread(calls: list[Any]) -> None:
    assert len(sweep(square).run(300).trials) == 300
    assert 0 < len(calls) < 200


@pytest.mark.parametrize("more", [{"workers": 2}, {"repeats": 2}, {"resources": Resources(time_limit=60)}])
def test_each_has_a_call_where_others_take_part_or_time_is_limited(calls: list[Any], more: dict[str, Any]) -> None:
    sweep(square, **more).run(20)
    assert len(calls) == 20 * more.get("repeats", 1)


@pytest.mark.parametrize("executor", ["inline", "thread"])
@pytest.mark.parametrize("objective", [square, square_async, fails_below, fails_below_async])
def test_the_trials_are_those_of_one_call_each(tmp_path: Path, objective: Any, executor: str) -> None:
    rows = []
    for name, optimizer in (("row", RandomOptimizer()), ("each", Asked())):
        store = tmp_path / f"{name}.db"
        result = sweep(objective, optimizer, store=store, executor=executor).run(60)
        assert [trial.number for trial in result.trials] == list(range(60))
        rows.append(told(store))
    assert rows[0] == rows[1]
    assert {row[1] for row in rows[0]} == ({"completed"} if "square" in objective.__name__ else {"completed", "failed"})


@pytest.mark.usefixtures("long_rows")
def test_a_failure_is_told_of_the_trial_that_failed(store_path: Path) -> None:
    for trial in sweep(fails_below).run(40).trials:
        if trial.params["x"] < -0.5:
            assert trial.error == f"ValueError: {trial.params['x']} is too low"
        elif trial.params["x"] < 0:
            assert f"'{trial.path}'" in str(trial.error)
            assert "sys.exit(3)" in str(trial.error)
        else:
            assert trial.error is None


@pytest.fixture
def long_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that last, however slow this machine is."""
    monkeypatch.setattr(inrow, "_SLICE", 60.0)


@pytest.mark.usefixtures("long_rows")
def test_a_run_inside_a_trial_is_a_child_of_that_trial(store_path: Path, calls: list[Any]) -> None:
    def outer(x: float) -> float:
        return float(sweep(square, name="inner").run(2).best_score)

    sweep(outer).run(5)
    assert len(calls) == 6, "the trials of the outer sweep were to share one call"
    with sqlite3.connect(store_path) as connection:
        found = connection.execute(
            "SELECT t.number, c.number FROM run c JOIN run t ON t.id=c.parent_id WHERE c.level='sweep' ORDER BY t.number"
        ).fetchall()
    connection.close()
    assert found == [(number, 1) for number in range(5)]


@pytest.mark.usefixtures("long_rows")
async def test_what_is_cut_in_a_row_is_interrupted_and_its_late_result_counts_for_nothing(store_path: Path) -> None:
    starts: Counter[float] = Counter()
    reached, go = threading.Event(), threading.Event()
    late: list[float] = []

    def objective(x: float) -> float:
        starts[x] += 1
        if len(starts) == 8 and not go.is_set():
            reached.set()
            go.wait(10)
            late.append(x)
            return -1000.0
        return x * x

    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:

            async def cut() -> None:
                while not reached.is_set():
                    await anyio.sleep(0.001)
                scope.cancel()

            tasks.start_soon(cut)
            await sweep(objective).run(20)
    rows = told(store_path)
    assert [row[1] for row in rows] == ["completed"] * 7 + ["interrupted"]
    go.set()
    result = await sweep(objective).run(20)
    assert len(late) <= 1
    assert [trial.status for trial in result.trials] == [Status.COMPLETED] * 20
    assert min(trial.score or 0.0 for trial in result.trials) >= 0
    cut_short = result.trials[7].params["x"]
    assert starts.pop(cut_short) == 2
    assert set(starts.values()) == {1}


async def test_others_on_the_loop_have_their_turn() -> None:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await anyio.lowlevel.checkpoint()
            ticks += 1

    async def busy(x: float) -> float:
        return x

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(tick)
        await sweep(busy).run(600)
        tasks.cancel_scope.cancel()
    assert ticks > 3


pytestmark = pytest.mark.anyio
