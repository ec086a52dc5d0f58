"""Real processes, killed with -9 at every statement of their journal and at random instants."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sweep import open_store

HERE = Path(__file__).parent


class Zygote:
    """The process that forks the programs."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])}
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "zygote.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
        )

    def run(
        self, program: str, name: str, *, die_at: int = 0, after: bool = False, seconds: float = 0
    ) -> dict[str, Any]:
        """Run a program to its end, or kill it at a transaction or after some seconds."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        store, log = self.directory / f"{name}.db", self.directory / f"{name}.log"
        job = {
            "program": program,
            "store": str(store),
            "log": str(log),
            "error": str(log) + ".err",
            "die_at": die_at,
            "after": after,
        }
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        pid = json.loads(self.process.stdout.readline())["pid"]
        if seconds:
            time.sleep(seconds)
            with contextlib.suppress(ProcessLookupError):  # it was faster
                os.kill(pid, signal.SIGKILL)
        ended: dict[str, Any] = json.loads(self.process.stdout.readline())
        if ended.get("code"):
            pytest.fail(Path(job["error"]).read_text())
        return ended

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(10)
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def zygote(tmp_path: Path) -> Iterator[Zygote]:
    process = Zygote(tmp_path)
    yield process
    process.close()


def lines(path: Path) -> list[list[str]]:
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def rows(path: Path, query: str) -> list[tuple[Any, ...]]:
    """Read with plain SQLite; nothing where the tables are not made yet."""
    if not path.exists():
        return []
    connection = sqlite3.connect(path)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name='run'").fetchall():
            return []
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def openable(path: Path) -> None:
    if path.exists() and path.stat().st_size:
        open_store(path).close()


def committed(path: Path) -> set[str]:
    """Stages, nested ones and those of children, whose outcome is in the store."""
    query = (
        "SELECT r.level, r.stage, j.key FROM journal j JOIN run r ON r.id=j.run_id WHERE j.kind IN ('stage', 'done')"
    )
    found = {
        key if level == "pipeline" else f"child/{stage.partition('#')[2]}" for level, stage, key in rows(path, query)
    }
    return found - {"nested"}


@pytest.mark.parametrize("program", ["chain", "loop"])
def test_killed_at_every_statement_of_the_journal(program: str, zygote: Zygote, tmp_path: Path) -> None:
    whole = zygote.run(program, "whole")["answer"]
    assert whole["transactions"] >= 15
    for at in range(1, whole["transactions"] + 1):
        name = f"{at}"
        store, log = tmp_path / f"{name}.db", tmp_path / f"{name}.log"
        killed = zygote.run(program, name, die_at=at)
        assert killed["signal"] == signal.SIGKILL
        openable(store)
        done, first = committed(store), len(lines(log))
        again = zygote.run(program, name)["answer"]
        assert again["returned"] == whole["returned"], at
        started = Counter(key for kind, key in lines(log)[first:] if kind == "start")
        assert not done & set(started), (at, "committed stages ran again")
        assert max(started.values(), default=1) <= (2 if program == "chain" else 1)
        assert rows(store, "SELECT count(*) FROM run WHERE status!='completed'") == [(0,)]
        assert rows(store, "SELECT count(*) FROM run WHERE name='program'") == [(1,)]


def test_killed_after_the_last_statement_nothing_is_left_to_do(zygote: Zygote, tmp_path: Path) -> None:
    whole = zygote.run("chain", "whole")["answer"]
    killed = zygote.run("chain", "end", die_at=whole["transactions"], after=True)
    assert killed["signal"] == signal.SIGKILL
    assert rows(tmp_path / "end.db", "SELECT status FROM run") == [("completed",)]


def finished(store: Path) -> set[int]:
    return {number for (number,) in rows(store, "SELECT number FROM run WHERE level='trial' AND status='completed'")}


@pytest.mark.parametrize("program", ["inline", "rungs"])
def test_a_serial_sweep_killed_at_its_commits_ends_as_if_it_had_not_been(
    program: str, zygote: Zygote, tmp_path: Path
) -> None:
    whole = zygote.run(program, "whole")["answer"]
    total = whole["transactions"]
    for at in random.Random(4).sample(range(1, total + 1), 12):
        store, log = tmp_path / f"{at}.db", tmp_path / f"{at}.log"
        assert zygote.run(program, f"{at}", die_at=at)["signal"] == signal.SIGKILL
        openable(store)
        done, first = finished(store), len(lines(log))
        again = zygote.run(program, f"{at}")["answer"]["returned"]
        assert again == whole["returned"], at
        assert not done & {int(line[1]) for line in lines(log)[first:]}
        assert rows(store, "SELECT count(*) FROM run WHERE status IN ('running', 'interrupted', 'pending')") == [(0,)]


def gone(pid: int) -> bool:
    """Whether a process has ended (a zombie that nobody has reaped has)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def all_gone(pids: set[int], patience: float = 5) -> bool:
    until = time.monotonic() + patience
    while time.monotonic() < until:
        if all(map(gone, pids)):
            return True
        time.sleep(0.02)
    return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_a_sweep_with_children_killed_at_random_instants(
    zygote: Zygote, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    began = time.monotonic()
    whole = zygote.run("children", "whole")["answer"]["returned"]
    length = time.monotonic() - began
    assert len(whole["trials"]) == 40
    rounds = int(request.config.getoption("--crash-rounds"))
    for seed in range(rounds):
        dice = random.Random(seed)
        store, log = tmp_path / f"r{seed}.db", tmp_path / f"r{seed}.log"
        ended: dict[str, Any] = {"signal": 9}
        kills = 0
        while kills < 4 and "signal" in ended:
            first, done = len(lines(log)), finished(store)
            ended = zygote.run("children", f"r{seed}", seconds=0.1 + dice.random() * length * (40 - len(done)) / 80)
            kills += "signal" in ended
            pids = {int(line[3]) for line in lines(log)}
            assert all_gone(pids), "a child outlived its parent"
            assert not done & {int(line[1]) for line in lines(log)[first:]}, "a finished trial ran again"
            openable(store)
        first, done = len(lines(log)), finished(store)
        again = zygote.run("children", f"r{seed}")["answer"]["returned"]
        assert kills > 0
        assert not done & {int(line[1]) for line in lines(log)[first:]}
        assert again == whole
        ends = Counter(int(line[1]) for line in lines(log) if line[0] == "end")
        assert set(ends) == set(range(40))
        assert rows(store, "SELECT count(*), count(DISTINCT number) FROM run WHERE level='trial'") == [(40, 40)]
        assert rows(store, "SELECT count(*) FROM run WHERE status!='completed'") == [(0,)]
        assert sum(ends.values()) <= 40 + 3 * kills, "more was done twice than could be lost"
