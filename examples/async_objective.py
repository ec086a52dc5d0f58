"""Hundreds of trials at once in one process: an async objective costs a task, not a thread."""

import tempfile
import time
from pathlib import Path

import anyio

from sweep import Integer, SweepExperiment, Uniform
from sweep.optimizers import RandomOptimizer


async def ask_service(x: float, retries: int) -> float:
    """Wait for a (pretended) remote evaluation of 50 ms."""
    await anyio.sleep(0.05)
    return (x - 0.5) ** 2 + 0.01 * retries


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        sweep = SweepExperiment(
            ask_service,
            {"x": Uniform(0, 1), "retries": Integer(0, 3)},
            optimizer=RandomOptimizer(),
            workers=200,
            name="service",
            store=Path(place) / "sweep.db",
        )
        began = time.perf_counter()
        result = sweep.run(budget=1000)
        seconds = time.perf_counter() - began
        print(result.summary())
        print(f"1000 trials of 50 ms in {seconds:.1f} s: one after the other they take 50 s")
