"""Kills programs, starts them again, and compares what they did with what their store says.

The promise (DESIGN 5): what is committed never runs again, nothing is lost, results are those of an uninterrupted run,
no run stays "running", and the store can be opened after every kill.
"""

from __future__ import annotations

import json
import os
import re
import select
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from orphans import left_over

from sweep import open_store
from sweep.store.runs import roots

HERE = Path(__file__).parent
_ENDED = {"completed", "stopped", "failed"}
_OPEN = {"pending", "running", "paused", "interrupted"}
_TRIAL = re.compile(r"trial\[\d+\](/run\[\d+\])?$")


@dataclass(frozen=True)
class Shape:
    """A program and what is known of it beforehand.

    Attributes:
        program: Its name in `programs`.
        units: Units of work that there are: stages, items, trials.
        width: Units at work at once: what one kill can cost.
        exact: Serial and deterministic: every row of the store ends as without a kill.
        kills: Statements at which it is killed by default.
        naps: Seconds that each step of a trial takes.
    """

    program: str
    units: int
    width: int = 1
    exact: bool = True
    kills: int = 6
    naps: float = 0.0


class Work(NamedTuple):
    """One line of a log."""

    kind: str
    path: str
    attempt: int
    pid: int


def works(log: Path) -> list[Work]:
    """Return what was done, in order."""
    lines = [line.split() for line in log.read_text().splitlines()] if log.exists() else []
    return [Work(kind, path, int(attempt), int(pid)) for kind, path, attempt, pid in lines]


@dataclass
class Census:
    """What a store says, read by plain SQLite.

    Attributes:
        runs: Path -> level, status and reason of every run.
        finished: Paths of runs, stages and items whose outcome is committed.
        tried: Path of a stage -> attempts that have failed.
        attempts: Path of a trial, and the attempts of it that have ended.
    """

    runs: dict[str, tuple[str, str, str | None]] = field(default_factory=dict)
    finished: set[str] = field(default_factory=set)
    tried: dict[str, int] = field(default_factory=dict)
    attempts: set[tuple[str, int]] = field(default_factory=set)

    def note_end(self, sweep: str, event: dict[str, Any]) -> None:
        """Note the end of an attempt that did not end its trial."""
        path, repeat = f"{sweep}/trial[{event['number']}]", f"/run[{event.get('run', 0)}]"
        self.attempts |= {(path, event["attempt"]), (path + repeat, event["attempt"])}
        if event["kind"] == "completed":
            self.finished.add(path + repeat)

    def has(self, path: str) -> bool:
        """Whether a path, or anything above it, is finished."""
        parts = [path[: mark.start()] for mark in re.finditer(r"[/\[]", path)]
        return bool(self.finished.intersection([*parts, path]))


def census(store: Path) -> Census:
    """Read a store; nothing where its tables are not made yet."""
    found = Census()
    if not store.exists():
        return found
    with closing(sqlite3.connect(store)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name='run'").fetchall():
            return found
        paths = {0: ""}
        query = "SELECT id, parent_id, level, stage, name, number, status, reason FROM run ORDER BY id"
        for number, parent, level, stage, name, ordinal, status, reason in connection.execute(query):
            own = f"{name}[{ordinal}]" if level == "trial" else name if ordinal == 1 else f"{name}#{ordinal}"
            paths[number] = path = "/".join(filter(None, (paths[parent], stage, own)))
            found.runs[path] = (level, status, reason)
            if status in _ENDED if level == "trial" else status == "completed":
                found.finished.add(path)
        for run, key, kind, value in connection.execute("SELECT run_id, key, kind, value FROM journal WHERE run_id>0"):
            if kind in ("stage", "done"):
                found.finished.add(f"{paths[run]}/{key}")
            elif kind == "attempts":
                found.tried[f"{paths[run]}/{key.partition('!')[0]}"] = int(value)
            elif kind == "ended":
                found.note_end(paths[run], json.loads(value))
    return found


# ---------------------------------------------------------------- processes


class Ended(NamedTuple):
    """How a process ended."""

    killed: bool
    returned: Any = None
    instants: int = 0


class Zygote:
    """The process that forks the programs."""

    def __init__(self) -> None:
        env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path]), "SWEEP_QUIET": "1"}
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "zygote.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, env=env
        )

    def run(self, job: dict[str, Any], log: Path, kill: tuple[int, float] | None) -> Ended:
        """Run a program to its end, or kill it some seconds after its log has so many lines."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(job).encode() + b"\n")
        pid = self._read()["pid"]
        if kill is not None:
            self._kill(pid, log, *kill)
        ended = self._read()
        if ended.get("code"):
            raise AssertionError(Path(job["error"]).read_text())
        assert ended.get("signal", signal.SIGKILL) == signal.SIGKILL, ended
        return Ended("signal" in ended, ended.get("returned"), ended.get("instants", 0))

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def _kill(self, pid: int, log: Path, lines: int, seconds: float) -> None:
        while not self._has_ended() and len(works(log)) < lines:
            time.sleep(0.001)
        time.sleep(seconds)
        if not self._has_ended():  # should it end just now, its number stays its own until the next job
            os.kill(pid, signal.SIGKILL)

    def _has_ended(self) -> bool:
        return bool(select.select([self.process.stdout], [], [], 0)[0])

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(10)
        self.process.stdout.close()


# ---------------------------------------------------------------- stories


@dataclass
class Story:
    """One run of a shape, with all its sessions."""

    shape: Shape
    zygote: Zygote
    directory: Path
    name: str
    kills: int = 0
    before: Census = field(default_factory=Census)
    _told: int = 0

    @property
    def store(self) -> Path:
        return self.directory / f"{self.name}.db"

    @property
    def log(self) -> Path:
        return self.directory / f"{self.name}.log"

    def session(self, *, at: int = 0, kill: tuple[int, float] | None = None) -> Ended:
        """Start or resume it, to its end or its death; what it did must agree with what was committed before."""
        mark = f"CRASH_MARK={self.directory.name}-{self.name}"
        root = self.before.runs.get("program")
        job = {
            "program": self.shape.program,
            "store": str(self.store),
            "resume": "must" if root is not None and root[1] == "completed" else "auto",
            "error": f"{self.log}.err",
            "at": at,
            "environment": {"CRASH_LOG": str(self.log), "CRASH_SLEEP": str(self.shape.naps), **dict([mark.split("=")])},
        }
        ended = self.zygote.run(job, self.log, kill)
        assert not left_over(mark), "a child outlived its parent"
        self.kills += ended.killed
        done = works(self.log)
        self._check_session(done[self._told :])
        self._told = len(done)
        self.before = census(self.store)
        self._check_order(done)
        self._check_open()
        return ended

    def _check_session(self, new: list[Work]) -> None:
        """What was committed before has not been done again, and nothing was done twice."""
        started = [work for work in new if work.kind == "start"]
        again = {work.path for work in started if self.before.has(work.path)}
        assert not again, f"committed, and done again: {again}"
        tried = [work for work in started if work.attempt <= self.before.tried.get(work.path, 0)]
        assert not tried, f"the count of attempts was lost: {tried}"
        failed = Counter(work.path for work in new if work.kind == "fail")
        times = Counter(work.path for work in started if not _TRIAL.search(work.path))
        twice = {path: count for path, count in times.items() if count > 1 + failed[path]}
        assert not twice, f"done twice in one session: {twice}"

    def _check_order(self, done: list[Work]) -> None:
        """No effect came before its cause was committed: trials exist before they start, ends are kept before the next."""
        trials = [work for work in done if work.kind == "start" and _TRIAL.search(work.path)]
        unknown = {work.path for work in trials if work.path.partition("/run[")[0] not in self.before.runs}
        assert not unknown, f"started, but not in the store: {unknown}"
        twice = {
            place: times for place, times in Counter((one.path, one.attempt) for one in trials).items() if times > 1
        }
        assert not twice, f"attempts that were begun twice: {twice}"
        counts = [work for work in done if work.kind == "start" and work.attempt > 1 and not _TRIAL.search(work.path)]
        uncounted = {
            one
            for one in counts
            if not self.before.has(one.path) and self.before.tried.get(one.path, 0) < one.attempt - 1
        }
        assert not uncounted, f"another attempt began before the one before was counted: {uncounted}"
        ended = [work for work in done if work.kind in ("end", "told") and not self.before.has(work.path)]
        lost = {work.path for work in ended if (work.path, work.attempt) not in self.before.attempts}
        # what the scheduler had decided is not begun again, so its end is never told: one such for each kill
        assert len(lost) <= self.shape.width * max(1, self.kills), f"more was lost than was at work: {lost}"

    def _check_open(self) -> None:
        if self.store.exists():
            with open_store(self.store) as store:
                assert not any(store.is_live(row.id) for row in roots(store)), "somebody still owns it"

    def check_end(self, ended: Ended, whole: Story, told: Ended) -> None:
        """Compare a run that has come to its end with one that nothing has interrupted."""
        assert ended.returned == told.returned
        assert not {path: run for path, run in self.before.runs.items() if run[1] in _OPEN}
        ends, once = self.ends(), whole.ends()
        if self.shape.exact:
            assert self.before.runs == whole.before.runs
            cut = set(once) - set(ends)  # decided and committed, but killed before the trial itself heard of it
            assert not set(ends) - set(once)
            assert len(cut) <= self.kills
            assert all(map(_TRIAL.search, cut)), f"work was lost: {cut}"
            assert not cut & {work.path for work in works(whole.log) if work.kind == "end"}, f"work was lost: {cut}"
        extra = len(ends) - len(once)
        most = self.kills * self.shape.width
        assert not self.shape.exact or extra <= most, f"{extra} units were done again after {self.kills} kills"

    def ends(self) -> list[str]:
        """Return the path of every unit that came to an end, as often as it did."""
        return [work.path for work in works(self.log) if work.kind in ("end", "told")]

    def check_whole(self) -> None:
        """An uninterrupted run does what the table says, and leaves nothing open."""
        ends = self.ends()
        assert len(set(ends)) == self.shape.units
        assert all(map(self.before.has, ends))
        assert self.before.runs["program"][1] == "completed"
