"""Programs that `test_store_processes` runs as processes of their own; each prints one line of JSON."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sweep import Pipeline, SweepExperiment, Uniform
from sweep.errors import SweepError
from sweep.optimizers import RandomOptimizer
from sweep.store.writer import Store

STAGES = 4


class Program:
    """A run whose stages write a line outside of the store whenever they run."""

    def __init__(self, path: str, name: str = "work") -> None:
        self.path, self.name = Path(path), name
        self.notes = Path(f"{path}.notes")
        self.wait: Callable[[int], None] = lambda n: None
        self.size = 10

    def run(self) -> list[int]:
        """Run or resume it; return the lengths of its values."""
        pipeline = Pipeline()
        for n in range(STAGES):
            pipeline = pipeline.stage(f"s{n}", self._stage(n)).through(fields={f"v{n}": str})
        state = pipeline.run(name=self.name, store=self.path)
        return [len(state[f"v{n}"]) for n in range(STAGES)]

    def _stage(self, n: int) -> Callable[[], str]:
        def stage() -> str:
            with self.notes.open("a") as file:
                file.write(f"{self.name} {n}\n")
            self.wait(n)
            return "x" * self.size * (n + 1)

        return stage

    def ran(self) -> list[str]:
        """Return the lines so far."""
        return self.notes.read_text().splitlines() if self.notes.exists() else []


def outcome(work: Callable[[], Any]) -> str:
    """Return what came of a call, as a word."""
    try:
        return f"done {work()}"
    except (SweepError, KeyboardInterrupt, OSError) as error:
        return f"{type(error).__name__}: {error}"


def forked(work: Callable[[int], str], count: int) -> list[str]:
    """Let forked children do something at one instant; return what each says."""
    go, start = os.pipe()
    readers = []
    for number in range(count):
        back, out = os.pipe()
        if os.fork() == 0:
            os.close(start)
            os.read(go, 1)  # ends for all of them when the parent closes its end
            os.write(out, work(number).encode()[:4000])
            os._exit(0)
        os.close(out)
        readers.append(back)
    time.sleep(0.01)
    os.close(start)
    os.close(go)
    said = []
    for reader in readers:
        with os.fdopen(reader, "rb") as file:
            said.append(file.read().decode())
    for _ in readers:
        os.wait()
    return said


def race(path: str, rounds: str) -> Any:
    """Two processes resume one interrupted run at one instant, again and again."""
    found = []
    for number in range(int(rounds)):
        program = Program(path, f"run{number}")

        def cut(n: int) -> None:
            if n == 2:
                raise OSError("cut")

        program.wait = cut
        outcome(program.run)
        program.wait = lambda n: time.sleep(0.02) if n == 2 else None
        said = forked(lambda _, run=program.run: outcome(run), 2)  # type: ignore[misc]  # bound here
        found.append([said, [line for line in program.ran() if line.startswith(f"{program.name} ")]])
    return found


def begin_together(path: str, rounds: str) -> Any:
    """Two processes begin a new run of one name in a new store at one instant."""
    found = []
    for number in range(int(rounds)):
        program = Program(f"{path}{number}")
        program.wait = lambda n: time.sleep(0.03) if n == 2 else None
        said = forked(lambda _, run=program.run: outcome(run), 2)  # type: ignore[misc]  # bound here
        found.append([said, program.ran()])
    return found


def many(path: str, count: str) -> Any:
    """Runs in one new store at once: pipelines and sweeps by turns."""

    def work(number: int) -> str:
        if number % 2:
            return outcome(Program(path, f"run{number}").run)
        sweep = SweepExperiment(
            lambda x: x * x, {"x": Uniform(0, 1)}, optimizer=RandomOptimizer(), name=f"run{number}", store=path
        )
        return outcome(lambda: len(sweep.run(20).trials))

    return forked(work, int(count))


def run(path: str, size: str = "10", hold: str = "") -> Any:
    """Run it; with ``hold``, stay in stage 2 until that file is there."""
    program = Program(path)
    program.size = int(size)
    if hold:

        def stay(n: int) -> None:
            while n == 2 and not Path(hold).exists():
                time.sleep(0.005)

        program.wait = stay
    return [outcome(program.run), program.ran()]


def live(path: str, run_id: str) -> bool:
    """Tell whether another process owns a run."""
    with Store(path) as store:
        return store.is_live(int(run_id))


def limited(path: str, size: str, limit: str) -> Any:
    """Run it where no file may grow beyond a limit: as on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
    return run(path, size)


if __name__ == "__main__":
    os.environ["SWEEP_QUIET"] = "1"
    print(json.dumps(globals()[sys.argv[1]](*sys.argv[2:])))
