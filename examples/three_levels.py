"""Three levels: a study whose stage is a sweep, whose trials are experiments, each with a sweep inside.

It is killed with -9 in the middle and started again: no training that was finished is repeated, at any level.
"""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from sweep import Experiment, Ordinal, Pipeline, SweepExperiment
from sweep.optimizers import GridOptimizer


def train(lr: float, depth: int) -> float:
    """Train one model, unless the machine dies."""
    log = Path(os.environ["TRAINED"])
    done = log.read_text().splitlines() if log.exists() else []
    if len(done) == 7 and os.environ.get("DIE"):
        os.kill(os.getpid(), signal.SIGKILL)
    log.write_text("\n".join([*done, f"lr={lr} depth={depth}"]))
    return abs(lr - 0.1) + 1 / depth


class TuneDepth(Experiment):
    """The best loss of a depth: a sweep over learning rates."""

    depth: int

    def pipeline(self) -> Pipeline:
        """Return the stages."""
        return Pipeline().stage("tune", self.tune).through(loss=float)

    async def tune(self, depth: int) -> float:
        """Find the best learning rate for this depth."""
        space = {"lr": Ordinal([0.01, 0.1, 1.0])}
        sweep = SweepExperiment(lambda lr: train(lr, depth), space, optimizer=GridOptimizer(), name="rates")
        return (await sweep.run()).best_score


class Study(Experiment):
    """Which depth is best, each at its best learning rate?"""

    def pipeline(self) -> Pipeline:
        """Return the stages."""
        depths = SweepExperiment(TuneDepth, {"depth": Ordinal([1, 2, 4, 8])}, optimizer=GridOptimizer(), name="depths")
        return Pipeline().stage("search", depths).through(found=dict)


def main(place: Path) -> None:
    """Start it, let it die, start it again, and print the tree."""
    store, log = str(place / "sweep.db"), place / "trained.txt"
    here = {**os.environ, "SWEEP_STORE": store, "TRAINED": str(log)}
    for environment in ({**here, "DIE": "1"}, here):
        end = subprocess.run([sys.executable, __file__], env=environment, check=False)
        print(f"ended with {end.returncode}, {len(log.read_text().splitlines())} models trained", flush=True)
    trained = log.read_text().splitlines()
    print(f"{len(trained)} trainings, {len(set(trained))} different ones", flush=True)
    subprocess.run([sys.executable, "-m", "sweep", "show", "Study", "--store", store], check=True)


if __name__ == "__main__":
    if "TRAINED" in os.environ:
        print("best:", Study().run().state.found["best_params"])
    else:
        with tempfile.TemporaryDirectory() as folder:
            main(Path(folder))
