"""Forks a process for each program that is to run, and possibly to die; so that each start costs milliseconds.

Reads jobs as JSON lines; answers each with the pid, and then with how the process ended and what it returned.

A process can die at every instant that its store can tell: before each statement that writes (and before the COMMIT
after it, when all is written and nothing kept), after each COMMIT, and round the files that arrays are kept in.
"""

from __future__ import annotations

import faulthandler
import gc
import importlib
import itertools
import json
import os
import signal
import sqlite3
import sys
import time
import traceback
import warnings
from contextlib import suppress
from functools import partial
from typing import Any

import programs

_WRITES = ("BEGIN", "COMMIT", "INSERT", "UPDATE", "DELETE")
_LONG = 60.0
"""Seconds after which a program hangs: it says where, and ends."""


class Instants:
    """Counts the instants at which this process may die, and dies at one of them."""

    def __init__(self, at: int) -> None:
        self.at, self._next = at, itertools.count(1).__next__

    def pass_one(self) -> None:
        """Go on, or die."""
        if self._next() == self.at:
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(600)  # on other threads the signal comes a moment later

    @property
    def passed(self) -> int:
        return self._next() - 1

    def watch(self) -> None:
        """Count from here on what is written by this process."""
        instants = self

        class Connection(sqlite3.Connection):
            def execute(self, statement: str, *parameters: Any) -> Any:  # type: ignore[override]  # as it is called
                if statement.startswith(_WRITES):
                    instants.pass_one()
                done = super().execute(statement, *parameters)
                if statement == "COMMIT":
                    instants.pass_one()
                return done

        sqlite3.connect = partial(sqlite3.connect, factory=Connection)
        for name in ("replace", "fsync", "unlink"):
            setattr(os, name, self._around(getattr(os, name)))

    def _around(self, function: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            self.pass_one()
            done = function(*args, **options)
            self.pass_one()
            return done

        return call


def main() -> None:
    """Serve jobs until the end of input."""
    warnings.simplefilter("error")
    dead = 0
    for line in sys.stdin:
        if dead:  # only now: until the caller knows of its end it may kill it, and its number must be nobody else's
            os.waitpid(dead, 0)
        job = json.loads(line)
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            _child(job, writing)
        os.close(writing)
        print(json.dumps({"pid": pid}), flush=True)
        with open(reading, encoding="utf-8") as answer:
            text = answer.read()
        dead, status = pid, os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        ended = {"code" if status.si_code == os.CLD_EXITED else "signal": status.si_status}
        answered = json.loads(text) if text and "code" in ended else {}  # the kill may come while it answers
        _warm(answered.pop("modules", []))
        print(json.dumps({**ended, **answered}), flush=True)


def _warm(modules: list[str]) -> None:
    """Import what a program has imported, so that the next one finds it."""
    new = [name for name in modules if name not in sys.modules]
    for name in new:
        with suppress(ImportError, AttributeError):
            importlib.import_module(name)
    if new:
        gc.collect()
        gc.freeze()


def _child(job: dict[str, Any], writing: int) -> None:
    sys.stdin.close()
    error = os.open(job["error"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(error, 2)
    os.set_inheritable(writing, False)
    os.environ.update(job["environment"])
    faulthandler.dump_traceback_later(_LONG, exit=True)
    code, instants = 1, Instants(job["at"])
    try:
        instants.watch()
        returned = getattr(programs, job["program"])({"store": job["store"], "resume": job["resume"]})
        passed = instants.passed
        with open(writing, "w", encoding="utf-8") as answer:
            json.dump({"returned": returned, "instants": passed, "modules": sorted(sys.modules)}, answer)
        code = 0
    except BaseException:  # noqa: BLE001  # whatever it is, it is told, and this process ends here
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
