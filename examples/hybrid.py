"""Four phases that hand their results on: explore, model, refine, validate."""

import tempfile
from pathlib import Path

from sweep import Context, Experiment, LogUniform, Pipeline, Resources, SweepExperiment, Trial, Uniform
from sweep.experiments import ValidationExperiment
from sweep.optimizers import BayesianOptimizer, RandomOptimizer
from sweep.schedulers import PBTScheduler

SPACE = {"lr": LogUniform(1e-4, 1), "momentum": Uniform(0, 0.99)}


class HybridExperiment(Experiment):
    """Combine multiple optimization strategies."""

    def pipeline(self) -> Pipeline:
        """Return the phases."""
        return (
            Pipeline()
            # Phase 1: Broad exploration with random search
            .stage("explore", self.random_search)
            .through(
                exploration_results=list[Trial],
                n_trials=16,
                max_time_per_trial=600,  # Quick eval
            )
            # Phase 2: Model the space with Bayesian optimization
            .stage("model", self.bayesian_optimization)
            .through(
                modeled_results=list[Trial],
                n_trials=6,
                init_from="exploration_results",  # Warm start
            )
            # Phase 3: Refine with population evolution
            .stage("refine", self.population_evolution)
            .through(
                final_results=list[Trial],
                population_size=4,
                generations=3,
            )
            # Phase 4: Validate best candidates
            .stage("validate", self.intensive_evaluation)
            .through(
                validation_scores=dict,
                n_seeds=5,
                full_evaluation=True,
            )
        )

    def train(self, ctx: Context, lr: float, momentum: float) -> None:
        """Train a noisy toy model for three epochs; it can go on from a checkpoint."""
        distance = ctx.load(10.0)
        for epoch in range(ctx.step + 1, 4):
            distance *= min(1.0, abs(lr - 0.1) + abs(momentum - 0.9) + 0.1)
            ctx.save(distance)
            ctx.report(epoch, loss=distance + 0.01 * ctx.rng.random())

    async def random_search(self, n_trials, max_time_per_trial):
        """Look everywhere."""
        limit = Resources(time_limit=max_time_per_trial)
        sweep = SweepExperiment(search_space=SPACE, optimizer=RandomOptimizer(), resources=limit, name="random")
        return (await sweep.run(budget=n_trials)).trials

    async def bayesian_optimization(self, n_trials, init_from):
        """Go on from what is known."""
        sweep = SweepExperiment(search_space=SPACE, optimizer=BayesianOptimizer(), init_from=init_from, name="bayes")
        return (await sweep.run(budget=n_trials)).trials

    async def population_evolution(self, population_size, generations, modeled_results: list[Trial]):
        """Let the best evolve."""
        best = sorted((trial for trial in modeled_results if trial.score is not None), key=lambda trial: trial.score)
        sweep = SweepExperiment(
            search_space=SPACE,
            optimizer=RandomOptimizer(),
            scheduler=PBTScheduler(population_size=population_size, num_generations=generations),
            enqueue=[trial.params for trial in best[: population_size // 2]],
            name="evolve",
        )
        return (await sweep.run()).trials

    async def intensive_evaluation(self, n_seeds, full_evaluation, modeled_results: list[Trial], final_results: list[Trial]):
        """Run the best again, each with several seeds."""
        candidates = [*modeled_results, *final_results]
        sweep = ValidationExperiment(self.train, candidates, SPACE, k=3 if full_evaluation else 1, n_seeds=n_seeds)
        ranking = sweep.ranking(await sweep.run())
        for one in ranking:
            print(f"loss {one.mean:.4f} ± {one.error:.4f} of {len(one.scores)} seeds: lr {one.params['lr']:.3g}")
        return {"best": ranking[0].params, "mean": ranking[0].mean, "error": ranking[0].error}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        result = HybridExperiment(store=Path(place) / "sweep.db").run()
    print(f"{len(result.children)} phases; the best has a mean loss of {result.state.validation_scores['mean']:.3f}")
