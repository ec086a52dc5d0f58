"""An optimizer and a scheduler of your own: two methods each."""

import random
import tempfile
from pathlib import Path

from sweep import Context, Resources, Result, SweepExperiment, Trial, Uniform
from sweep.optimizers import Optimizer
from sweep.schedulers import Scheduler


class HillClimber(Optimizer):
    """Step away from the best point so far, by less and less."""

    def __init__(self) -> None:
        self.rng = random.Random(0)
        self.best: tuple[float, float] = (float("inf"), 0.0)
        self.width = 1.0

    def suggest(self, n: int) -> list[Trial]:
        """Return n neighbours of the best."""
        x = self.best[1]
        return [Trial({"x": min(1.0, max(-1.0, x + self.rng.gauss(0, self.width)))}) for _ in range(n)]

    def observe(self, trial: Trial, result: Result) -> None:
        """Remember the best; narrow the search."""
        self.best = min(self.best, (float(result), trial.params["x"]))
        self.width *= 0.95


class GiveUp(Scheduler):
    """Stop a trial whose loss is hopeless after two steps."""

    def should_stop(self, trial: Trial) -> bool:
        """Judge by the last report."""
        return trial.step >= 2 and trial.metrics["loss"] > 0.5

    def allocate_resources(self, trial: Trial) -> Resources:
        """One core a trial, one minute."""
        return Resources(cpus=1, time_limit=60)


def objective(x: float, ctx: Context) -> None:
    """Report a loss that shrinks towards (x - 0.3)^2."""
    for step in range(1, 6):
        ctx.report(step, loss=(x - 0.3) ** 2 + 0.1 / step)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        sweep = SweepExperiment(
            objective, {"x": Uniform(-1, 1)}, optimizer=HillClimber(), scheduler=GiveUp(), metric="loss", name="climb",
            store=Path(place) / "sweep.db",
        )  # fmt: skip
        print(sweep.run(budget=40).summary())
