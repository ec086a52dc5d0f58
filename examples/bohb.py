"""BOHB is a composition: Hyperband says how long, a model says what. Here beside Hyperband with random search."""

import math
import tempfile
from pathlib import Path

from sweep import Context, LogUniform, SweepExperiment, Uniform
from sweep.optimizers import OptunaOptimizer, RandomOptimizer
from sweep.schedulers import HyperbandScheduler


def train(lr: float, momentum: float, decay: float, ctx: Context) -> None:
    """Report a made-up learning curve; best at lr = 0.01, momentum = 0.9, decay = 0.001."""
    floor = (math.log10(lr) + 2) ** 2 / 4 + (momentum - 0.9) ** 2 + (math.log10(decay) + 3) ** 2 / 20
    for epoch in range(ctx.load(0) + 1, 28):
        ctx.save(epoch)
        ctx.report(epoch, loss=floor + (1 + 3 * lr) / epoch)


SPACE = {"lr": LogUniform(1e-5, 1.0), "momentum": Uniform(0.0, 1.0), "decay": LogUniform(1e-6, 1e-1)}

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        for label, optimizer in [("Hyperband", RandomOptimizer()), ("BOHB", OptunaOptimizer())]:
            sweep = SweepExperiment(
                train, SPACE, optimizer=optimizer, scheduler=HyperbandScheduler(max_epochs=27), metric="loss", name=label,
                seed=0, store=Path(place) / "sweep.db",
            )  # fmt: skip
            result = sweep.run(budget=2 * 49)  # two passes over the brackets 27@1, 12@3, 6@9, 4@27
            epochs = sum(trial.step for trial in result.trials)
            whole = 27 * len(result.trials)
            print(f"{label:10} best {result.best_score:.4f}; {epochs} epochs where {whole} would be all trials to their end")
