"""The same objective under several optimizers and schedulers: one line each."""

import math
import tempfile
from pathlib import Path

from sweep import Context, LogUniform, SweepExperiment, Uniform
from sweep.optimizers import GridOptimizer, OptunaOptimizer, RandomOptimizer
from sweep.schedulers import ASHAScheduler, BatchScheduler, SynchronousBatchScheduler


def train(lr: float, momentum: float, ctx: Context) -> None:
    """Report a made-up learning curve; best at lr = 0.01, momentum = 0.9."""
    best = (math.log10(lr) + 2) ** 2 + (momentum - 0.9) ** 2
    for epoch in range(ctx.step + 1, 10):
        ctx.save(epoch)
        ctx.report(epoch, loss=best + 1 / epoch)


SPACE = {"lr": LogUniform(1e-5, 1.0, num=6), "momentum": Uniform(0.0, 1.0, num=5)}

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        for optimizer, scheduler in [
            (GridOptimizer(), BatchScheduler()),
            (RandomOptimizer(), ASHAScheduler(max_epochs=9)),
            (OptunaOptimizer(), ASHAScheduler(max_epochs=9)),
            (OptunaOptimizer(sampler="Random"), SynchronousBatchScheduler(batch_size=5)),
        ]:
            name = f"{type(optimizer).__name__}-{type(scheduler).__name__}"
            sweep = SweepExperiment(
                train, SPACE, optimizer=optimizer, scheduler=scheduler, metric="loss", name=name, seed=0,
                store=Path(place) / "sweep.db",
            )  # fmt: skip
            result = sweep.run(budget=30)
            epochs = sum(trial.step for trial in result.trials)
            print(f"{name:45} best {result.best_score:.4f} after {epochs} epochs")
