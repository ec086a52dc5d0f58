"""Population based training: a schedule of learning rates is found while the model trains.

The best learning rate falls with every epoch, so no constant one is good to the end. Bad members of the population
take over the checkpoint of a good one and go on with a learning rate near its own.
"""

import tempfile
from pathlib import Path

from sweep import Context, LogUniform, SweepExperiment, Trial
from sweep.optimizers import RandomOptimizer
from sweep.schedulers import BatchScheduler, PBTScheduler, Scheduler

EPOCHS = 30


def train(lr: float, ctx: Context) -> None:
    """Walk down to 0; a step that is too long for how near it is goes astray."""
    distance = ctx.load(1.0)  # of the donor, where this member takes over
    for epoch in range(ctx.step + 1, EPOCHS + 1):
        best = 0.5 * 0.93**epoch
        distance *= 1 - 0.3 * min(lr / best, best / lr) if lr < 2 * best else 1.05
        ctx.save(distance)
        ctx.report(epoch, distance=distance)


def schedule(trials: list[Trial], last: Trial) -> list[str]:
    """Return the learning rates that led to a trial, from its first ancestor on."""
    rates: list[str] = []
    trial: Trial | None = last
    while trial is not None:
        rates.insert(0, f"{trial.params['lr']:.3f}")
        trial = None if trial.start_from is None else trials[trial.start_from]
    return rates


def run(scheduler: Scheduler, place: str) -> None:
    """Run 16 trials and say how the best one came about."""
    sweep = SweepExperiment(
        train, {"lr": LogUniform(1e-3, 1.0)}, optimizer=RandomOptimizer(), scheduler=scheduler, metric="distance",
        name=type(scheduler).__name__, seed=1, store=Path(place) / "sweep.db",
    )  # fmt: skip
    result = sweep.run(budget=16)
    rates = schedule(result.trials, result.best_trial)
    print(f"{sweep.name}: distance {result.best_score:.6f} with learning rate {' -> '.join(rates)}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        run(BatchScheduler(), directory)
        run(PBTScheduler(population_size=16, num_generations=EPOCHS // 3, interval=3), directory)
