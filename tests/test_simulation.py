"""Deterministic simulation: whole sweeps on the real driver, event log and store that die between any two events.

``pytest tests/test_simulation.py --simulations 5000`` lives more stories; a failing one says the command
that lives it alone, on asyncio and on trio, exactly as it was.
"""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest
from simulation import Story, World, begin, simulate, woken_as_drawn

from sweep.executors.simulated import Faults
from sweep.experiments.eventlog import EventLog

_MEMORY = Path("/dev/shm")  # noqa: S108  # a directory of our own is made in it


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWEEP_QUIET", "1")


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory, where there is one: syncing costs nothing there."""
    if not _MEMORY.is_dir():
        yield tmp_path
        return
    directory = Path(tempfile.mkdtemp(dir=_MEMORY))
    yield directory
    shutil.rmtree(directory)


def _live(seeds: range, directory: Path, backend: str = "asyncio") -> list[World]:
    async def all_of_them() -> list[World]:
        return [await simulate(seed, directory) for seed in seeds]

    return anyio.run(all_of_them, backend=backend)


def test_sweeps_that_die_between_events_lose_and_repeat_nothing(request: pytest.FixtureRequest, memory: Path) -> None:
    worlds = _live(_seeds(request, range(int(request.config.getoption("--simulations")))), memory)
    if len(worlds) >= 100:
        assert sum(world.deaths for world in worlds) > len(worlds), "the simulation has lost its bite"


def test_on_trio_too(request: pytest.FixtureRequest, memory: Path) -> None:
    _live(_seeds(request, range(10_000, 10_020)), memory, "trio")


def _seeds(request: pytest.FixtureRequest, usual: range) -> range:
    chosen = request.config.getoption("--simulation-seed")
    return usual if chosen is None else range(chosen, chosen + 1)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_seed_replays_exactly(memory: Path, backend: str) -> None:
    """However long its threads take: the second time objectives sleep now and then, in real time."""
    wild = [seed for seed in range(400) if not (story := Story(seed)).serial and story.faults != Faults()]
    for seed in random.Random(7).sample(wild, 12):
        first, second = (_trace(seed, memory, backend, dawdle) for dawdle in (0.0, 0.004))
        assert first == second, f"--simulation-seed {seed}"


def _trace(seed: int, directory: Path, backend: str, dawdle: float) -> list[Any]:
    """Return all that a story has left in its store, but for when it was by the clock on the wall."""
    world = World(Story(seed), directory / "trace.db", dawdle=dawdle)
    begin(world.path)
    with woken_as_drawn(seed):
        anyio.run(world.run, backend=backend)
    with closing(sqlite3.connect(world.path)) as connection:
        runs = connection.execute("SELECT number, status, reason, score, cost, step, params, seq, ended_seq FROM run")
        found: list[Any] = runs.fetchall()
        for key, kind, text in connection.execute("SELECT key, kind, value FROM journal ORDER BY run_id, key"):
            facts = json.loads(text) if text.startswith("{") else {"text": text}
            found.append((key, kind, {name: fact for name, fact in facts.items() if name != "wall"}))
        found += connection.execute("SELECT run_id, name, step, value, seq FROM metric ORDER BY id").fetchall()
    return [*found, dict(world.starts), world.deaths]


def test_a_planted_bug_is_found_and_its_seed_is_said(memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EventLog, "agree", lambda self, trials, wall: None)  # rows of trials that a crash settled
    with pytest.raises(AssertionError) as caught:
        _live(range(60, 200), memory)
    assert any("--simulation-seed" in note for note in caught.value.__notes__)
