"""An experiment of three stages: suggest, train, evaluate; contracts between them, hooks where they are needed."""

import logging
import random
import tempfile
from dataclasses import dataclass
from pathlib import Path

from sweep import Experiment, LogUniform, Pipeline, SearchSpace, Trial

logger = logging.getLogger("my_experiment")


@dataclass
class SuggestionOutput:
    """What to try."""

    trials: list[Trial]


@dataclass
class TrainingOutput:
    """Final loss of each trial."""

    losses: list[float]


@dataclass
class EvalOutput:
    """The best learning rate and its loss."""

    best_lr: float
    best_loss: float


class MyExperiment(Experiment):
    """Twenty random learning rates for a toy model."""

    n_trials: int = 20

    def pipeline(self) -> Pipeline:
        """Return the stages."""
        return (
            Pipeline()
            # Stage 1: generate suggestions
            .stage("suggest", self.generate_suggestions)
            .through(
                SuggestionOutput,  # type contract
                before=lambda state: logger.info("Generating %d trials", state.n_trials),
                after=lambda d: logger.info("Generated %d trials", len(d.trials)),
                validate=lambda d: len(d.trials) > 0,
                checkpoint=True,
                timeout=300,
            )
            # Stage 2: train models
            .stage("train", self.train_models)
            .through(
                TrainingOutput,
                retry=3,  # retry failed training
                on_error=lambda e: self.handle_failure(e),
            )
            # Stage 3: evaluate results
            .stage("evaluate", self.evaluate_results)
            .through(EvalOutput, cache=True)  # cache expensive evaluations
        )

    def generate_suggestions(self, n_trials: int) -> SuggestionOutput:
        """Draw learning rates."""
        space, rng = SearchSpace({"lr": LogUniform(1e-4, 1e-1)}), random.Random(7)
        return SuggestionOutput([Trial(space.sample(rng)) for _ in range(n_trials)])

    def train_models(self, trials: list[Trial]) -> TrainingOutput:
        """Train one model for each."""
        return TrainingOutput([abs(trial.params["lr"] - 0.01) for trial in trials])

    def handle_failure(self, error: Exception) -> None:
        """Say what went wrong; None lets it go on."""
        logger.warning("training failed: %s", error)

    def evaluate_results(self, trials: list[Trial], losses: list[float]) -> EvalOutput:
        """Pick the best."""
        best = min(range(len(trials)), key=lambda i: losses[i])
        return EvalOutput(trials[best].params["lr"], losses[best])


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with tempfile.TemporaryDirectory() as place:
        result = MyExperiment(store=Path(place) / "sweep.db").run()
    print(f"best lr {result.value.best_lr:.4f} with loss {result.value.best_loss:.4f}")
