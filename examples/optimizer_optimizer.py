"""Optimizing the optimizer: by hand, in three stages; and as a sweep whose trials are whole sweeps."""

import tempfile
from pathlib import Path

from sweep import Choice, Context, Experiment, Integer, MetaExperiment, Ordinal, Pipeline, SweepExperiment, Uniform
from sweep.optimizers import BayesianOptimizer, RandomOptimizer, SobolOptimizer
from sweep.schedulers import ASHAScheduler, PBTScheduler

SPACE = {"x": Uniform(-5, 5), "y": Uniform(-5, 5)}


def create_optimizer(acquisition: str, exploration: float) -> RandomOptimizer | SobolOptimizer:
    """Return an optimizer for a configuration."""
    width = 5 * exploration
    kind = SobolOptimizer if acquisition == "sobol" else RandomOptimizer
    return kind({"x": Uniform(-width, width), "y": Uniform(-width, width)})


class OptimizerOptimizer(Experiment):
    """Find the best optimizer configuration."""

    def pipeline(self) -> Pipeline:
        """Return the stages."""
        return (
            Pipeline()
            # Suggest optimizer configuration
            .stage("suggest_config", self.suggest_optimizer_params)
            .through(acquisition_fn=str, exploration_rate=float, batch_size=int)
            # Run a sweep with that configuration
            .stage("test_optimizer", self.run_sweep_with_config)
            .through(performance=float)
            # Update our meta-optimizer
            .stage("update", self.update_meta_model)
        )

    def suggest_optimizer_params(self) -> dict:
        """Return what to try."""
        return {"acquisition_fn": "sobol", "exploration_rate": 0.5, "batch_size": 16}

    async def run_sweep_with_config(self, config):
        """Run a full sweep to test this optimizer."""
        optimizer = create_optimizer(acquisition=config.acquisition_fn, exploration=config.exploration_rate)
        sweep = SweepExperiment(optimizer=optimizer)
        result = await sweep.run(budget=config.batch_size)
        return result.best_score

    def train(self, x: float, y: float) -> float:
        """What the sweep inside minimises."""
        return (x - 1) ** 2 + (y + 2) ** 2

    def update_meta_model(self, performance: float) -> None:
        """Learn from it."""
        print(f"sobol with half the width: {performance:.3f}")


def learn(ctx: Context, x: float, y: float) -> None:
    """Minimise a paraboloid in nine epochs."""
    for epoch in range(1, 10):
        ctx.report(epoch, loss=(x - 1) ** 2 + (y + 2) ** 2 + 1 / epoch)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        store = Path(place) / "sweep.db"
        OptimizerOptimizer(store=store).run()
        meta_sweep = MetaExperiment(
            base=SweepExperiment,
            optimizer=PBTScheduler(population_size=4, num_generations=2),  # PBT finds the best configuration
            search_space={
                "scheduler.reduction_factor": Ordinal([2, 3, 4]),
                "scheduler.rule": Choice(["promotion", "stopping"]),
                "optimizer.n_initial": Integer(5, 10),
            },
            fixed={
                "objective": learn, "search_space": SPACE, "metric": "loss",
                "optimizer": BayesianOptimizer, "scheduler": ASHAScheduler(max_epochs=9),
            },
            budget=6,
            store=store,
        )  # fmt: skip
        print(meta_sweep.run().summary())
