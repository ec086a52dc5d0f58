"""Programs that get signals. Their work holds until the file ``$SIGNAL_GATE`` is there; it is noted in ``$SIGNAL_LOG``."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import Any

import anyio

from sweep import Context, Experiment, Integer, Pipeline, SweepExperiment
from sweep.optimizers import GridOptimizer


def note(*words: object) -> None:
    """Append a line in one write."""
    with open(os.environ["SIGNAL_LOG"], "a") as file:
        file.write(" ".join(map(str, words)) + "\n")


def is_open() -> bool:
    """Whether the gate is open."""
    return os.path.exists(os.environ["SIGNAL_GATE"])


def first() -> int:
    note("first")
    return 1


def hold(a: int) -> int:
    """Hold a thread."""
    note("held")
    while not is_open():
        time.sleep(0.01)
    return a + 1


async def block(a: int) -> int:
    """Hold the event loop itself: nothing but a second signal ends that."""
    note("held")
    while not is_open():
        time.sleep(0.01)  # noqa: ASYNC251  # that is the point
    return a + 1


async def wait(x: int) -> float:
    """Hold a task."""
    note("held", x)
    while not is_open():
        await anyio.sleep(0.01)
    return float(x)


async def shielded(x: int) -> float:
    """Hold a task that no cancelling ends."""
    with anyio.CancelScope(shield=True):
        return await wait(x)


def stubborn(x: int, ctx: Context) -> float:
    """Hold a child process that SIGTERM does not end, and that has started another such."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if not is_open():
        code = "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(600)"
        child = subprocess.Popen([sys.executable, "-S", "-c", code], stdout=subprocess.PIPE, start_new_session=x == 2)
        assert child.stdout is not None
        child.stdout.readline()
    note("held", x)
    while not is_open():
        time.sleep(0.01)
    return float(x)


def _pipeline(work: Any) -> Pipeline:
    return Pipeline().stage("first", first).through(a=int).stage("hold", work).through(b=int)


def _sweep(objective: Any, name: str, executor: str = "inline") -> SweepExperiment:
    return SweepExperiment(
        objective, {"x": Integer(1, 3)}, optimizer=GridOptimizer(), executor=executor, workers=3, name=name, seed=1
    )


class Nested(Experiment):
    """A sweep in an experiment."""

    def pipeline(self) -> Pipeline:
        return Pipeline().stage("first", first).through(a=int).stage("search", self.sweep()).through(found=dict)

    def sweep(self) -> SweepExperiment:
        return _sweep(wait, "inner")


class Shielded(Nested):
    def sweep(self) -> SweepExperiment:
        return _sweep(shielded, "inner")


class Timed(Nested):
    """Children that ignore everything, below a stage whose time is up."""

    def pipeline(self) -> Pipeline:
        inner = _sweep(stubborn, "inner", "process")
        return Pipeline().stage("first", first).through(a=int).stage("search", inner).through(found=dict, timeout=2.0)


pipeline = _pipeline(hold)
blocked = _pipeline(block)
isolated = Pipeline(x=int).stage("first", first).through(a=int).stage("hold", stubborn).through(b=float, isolate="process")
nested = Nested(name="nested")
deaf = Shielded(name="deaf")
timed = Timed(name="timed")
processes = _sweep(stubborn, "processes", "process")


def main(name: str) -> None:
    """Run one of them as a script does."""
    what = globals()[name]
    if not isinstance(what, Pipeline):
        what.run()
    elif what is isolated:
        what.run(name=name, x=2)
    else:
        what.run(name=name)


if __name__ == "__main__":
    main(sys.argv[1])
