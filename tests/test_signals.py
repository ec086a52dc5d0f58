"""Ctrl-C and SIGTERM, once and twice: what is finished is saved, the line to go on with is printed, no process is left."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from orphans import left_over, marked

PROGRAMS = Path(__file__).with_name("signal_programs.py")
HELD = {"pipeline": 1, "blocked": 1, "isolated": 1, "nested": 3, "deaf": 3, "processes": 3, "timed": 3}
WAYS = [("script", signal.SIGTERM), ("cli", signal.SIGINT)]
OTHER_WAYS = [("script", signal.SIGINT), ("cli", signal.SIGTERM)]
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
ONCE = [(name, *way) for name in ("pipeline", "nested", "processes", "isolated") for way in WAYS]


class Program:
    """A program in a process of its own, and what it left behind."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.store, self.gate, self.log = directory / "s.db", directory / "gate", directory / "log"
        self.mark = f"SIGNAL_GATE={self.gate}"
        self.env = {
            **{name: value for name, value in os.environ.items() if name != "SWEEP_QUIET"},
            "SIGNAL_GATE": str(self.gate),
            "SIGNAL_LOG": str(self.log),
            "SWEEP_STORE": str(self.store),
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        self.log.touch()
        self.process: subprocess.Popen[str] | None = None

    def start(self, name: str, by: str) -> None:
        """Start it as a script or by ``sweep run``, and wait until all of it is held."""
        words = {"script": [str(PROGRAMS), name], "cli": ["-m", "sweep", "run", f"{PROGRAMS}:{name}"]}[by]
        words += ["x=2"] if (by, name) == ("cli", "isolated") else []
        with (self.directory / "err").open("w") as err:
            self.process = subprocess.Popen(
                [sys.executable, *words], env=self.env, stderr=err, stdout=err, text=True, start_new_session=True
            )
        self.until(lambda: self.log.read_text().count("held") >= HELD[name])

    def until(self, holds: Callable[[], bool]) -> None:
        assert self.process is not None
        deadline = time.monotonic() + 60
        while not holds():
            assert self.process.poll() is None, self.err()
            assert time.monotonic() < deadline, self.err()
            time.sleep(0.005)

    def send(self, sent: signal.Signals) -> None:
        """Send a signal: Ctrl-C goes to the whole group, as from a terminal."""
        assert self.process is not None
        if sent is signal.SIGINT:
            os.killpg(self.process.pid, sent)
        else:
            self.process.send_signal(sent)

    def code(self) -> int:
        """Return how it ended, which took less than 2 s; none of its children lives longer."""
        assert self.process is not None
        began = time.monotonic()
        code = self.process.wait(30)
        assert time.monotonic() - began < 2
        assert not left_over(self.mark)
        return code

    def err(self) -> str:
        return (self.directory / "err").read_text()

    def cli(self, *words: str) -> tuple[int, str]:
        """Call ``sweep``."""
        command = [sys.executable, "-m", "sweep", *words]
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout + (done.stderr if done.returncode else "")

    def statuses(self) -> set[str]:
        """Return the statuses of all runs, as they stand in the store."""
        with closing(sqlite3.connect(self.store)) as connection:
            return {status for (status,) in connection.execute("SELECT status FROM run")}

    def check_resume(self) -> None:
        """Let it come to its end by the line that it printed; nothing that was finished is done again."""
        self.gate.touch()
        code, out = self.cli(*self.err().split("go on with: sweep ")[1].splitlines()[0].split())
        assert code == 0, out
        assert self.statuses() == {"completed"}
        assert self.log.read_text().split().count("first") <= 1


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    one = Program(tmp_path)
    yield one
    for pid in marked(one.mark):
        os.kill(pid, signal.SIGKILL)
    if one.process is not None:
        one.process.wait(10)


@pytest.mark.parametrize(("name", "by", "sent"), [*ONCE, *(("processes", *way) for way in OTHER_WAYS)])
def test_once_stops_in_good_order(name: str, by: str, sent: signal.Signals, program: Program) -> None:
    program.start(name, by)
    program.send(sent)
    assert program.code() == CODES[sent], program.err()
    assert f"sweep resume 1 --store {program.store}" in program.err()
    assert "Traceback" not in program.err()
    assert program.statuses() == {"interrupted"}
    program.check_resume()


@pytest.mark.parametrize(("by", "sent"), WAYS)
@pytest.mark.parametrize("name", ["blocked", "deaf", "processes"])
def test_twice_leaves_at_once(name: str, by: str, sent: signal.Signals, program: Program) -> None:
    program.start(name, by)
    program.send(sent)
    program.until(lambda: "stopping" in program.err())
    program.send(sent)
    assert program.code() == CODES[sent], program.err()
    assert "Traceback" not in program.err()
    told, out = program.cli("ls", "--json")
    assert (told, json.loads(out)[0]["status"]) == (0, "interrupted")
    program.gate.touch()
    told, out = program.cli("resume", "1")
    assert told == 0, out
    assert program.statuses() == {"completed"}


def test_a_timeout_above_ends_children_that_ignore_everything(program: Program) -> None:
    program.start("timed", "script")
    assert program.process is not None
    children = marked(program.mark) - {program.process.pid}
    assert len(children) >= 6, "a server, three children, and what they have started"
    assert program.process.wait(30) == 1
    assert not left_over(program.mark)
    assert "StageTimeout" in program.err()
    assert program.statuses() == {"failed", "interrupted"}
