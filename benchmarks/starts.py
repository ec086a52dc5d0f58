"""What a start costs: of ``import sweep``, and of a trial in a child process."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

import anyio
from measure import Cost, Row, Watch, have, least

from sweep.executors import ProcessExecutor
from sweep.executors.base import Task


def interpreter(code: str, rounds: int) -> Cost:
    """Return the least cost of some code in a fresh interpreter, without the interpreter's own start."""
    begin = "import time; w, c = time.perf_counter(), time.process_time()"
    script = f"{begin}; {code}; print(time.perf_counter() - w, time.process_time() - c)"

    def once() -> Cost:
        text = subprocess.check_output([sys.executable, "-c", script], text=True)  # this interpreter
        wall, cpu = map(float, text.split())
        return Cost(wall, cpu)

    return least(once() for _ in range(rounds))


def import_rows(rounds: int) -> list[Row]:
    """Return the rows about imports."""
    pydantic = interpreter("from pydantic import BaseModel, TypeAdapter", rounds)
    bare = interpreter("import sweep", rounds)
    found = [Row("import sweep", bare.text("ms"), "", "CPU <= 60 ms", bare.cpu <= 0.060)]
    for name, limit in (("Pipeline", 0.250), ("SweepExperiment", None)):
        cost = interpreter(f"from sweep import {name}", rounds)
        target = "" if limit is None else f"CPU <= {limit * 1e3:.0f} ms"
        reached = None if limit is None else cost.cpu <= limit
        found.append(Row(f"from sweep import {name}", cost.text("ms"), f"pydantic alone {pydantic.text('ms')}", target, reached))
    return found


class Silent:
    """A session nobody listens to."""

    next_decision = None

    def __getattr__(self, name: str) -> Any:
        return lambda *args: None


def child_rows(rounds: int) -> list[Row]:
    """Return the row about child processes, if torch is there to be preloaded."""
    if not have("torch"):
        return []
    from torch_objective import torch_objective

    starts, wholes = [], []

    async def main() -> None:
        executor = ProcessExecutor(workers=1)
        async with executor.open([torch_objective]):
            for _ in range(rounds + 1):
                watch, before = Watch(), time.monotonic()
                began = await executor.run(Task(torch_objective, {"x": 1.0}), Silent())
                wholes.append(watch.read())
                starts.append(Cost(began - before, 0.0))

    anyio.run(main)
    start, whole = least(starts[1:]), least(wholes[1:])
    torch = interpreter("import torch", max(1, rounds // 6))
    fresh = f"import torch in a fresh process {torch.wall * 1e3:.3g} ms: {torch.wall / start.wall:.3g}x"
    beside = f"start to end {whole.wall * 1e3:.3g} ms; {fresh}"
    figure = "start of a torch trial in a child process, warm fork server"
    return [Row(figure, f"{start.wall * 1e3:.3g} ms", beside, "<= 50 ms", start.wall <= 0.05)]


def rows(quick: bool) -> list[Row]:
    """Return the rows about starts."""
    return [*import_rows(2 if quick else 10), *child_rows(2 if quick else 20)]
