"""A branch, parallel stages, a map that goes on after failures, and a resume that runs only what is left."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from sweep import Pipeline


async def fit(degree: int, points: list[float]) -> float:
    """Score one model; one of them cannot be fitted, and one run dies before the last."""
    if degree == 4 and os.environ.get("DIE"):
        os.kill(os.getpid(), signal.SIGKILL)
    print(f"fit degree {degree}", flush=True)
    return sum(abs(point) ** degree for point in points) / (2 - degree)


def mean(points: list[float]) -> float:
    """Return the middle of the points."""
    return sum(points) / len(points)


def widest(points: list[float]) -> float:
    """Return the largest distance from zero."""
    return max(abs(point) for point in points)


def best(scores: list[float | None]) -> int:
    """Return the index of the lowest score; a failed fit has none."""
    return min(range(len(scores)), key=lambda index: float("inf") if scores[index] is None else scores[index])


shrink = (
    Pipeline().stage("shrink", lambda points, scale: [point / scale for point in points]).through(points=list[float])
)
pipeline = (
    Pipeline(points=list[float], degrees=list[int])
    .parallel(mean=mean, scale=widest)
    .branch(lambda s: s.scale > 1, shrink, name="if-wide")
    .map("fit", fit, over="degrees", concurrency=1, on_failure="continue")
    .through(scores=list[float | None])
    .stage("best", best)
    .through(best=int)
)

if __name__ == "__main__":
    if "SWEEP_STORE" in os.environ:
        state = pipeline.run(points=[0.5, -2.0, 1.0], degrees=[1, 2, 3, 4], name="fits")
        print("best degree", state.degrees[state.best], "failed", {i: str(e) for i, e in state.scores.failures.items()})
    else:
        print(pipeline.plan())
        with tempfile.TemporaryDirectory() as place:
            here = {**os.environ, "SWEEP_STORE": str(Path(place) / "sweep.db")}
            for environment in ({**here, "DIE": "1"}, here):
                print("--- start", flush=True)
                subprocess.run([sys.executable, __file__], env=environment, check=False)
