"""Cost-aware search with Protein, then a second sweep that starts from what the first one learned.

A larger model is better and dearer. Protein looks for good scores at every cost; the warm start reads the
first sweep's results by its name and goes on among the cheap ones; what lies outside is listed.
"""

import math
import tempfile
from pathlib import Path

from sweep import Context, LogUniform, SweepExperiment
from sweep.optimizers import BayesianOptimizer, ProteinOptimizer


def train(size: float, lr: float, ctx: Context) -> None:
    """Report a made-up loss, and what it cost in dollars."""
    loss = size**-0.3 + (math.log10(lr) + 3 - math.log10(size) / 2) ** 2 / 4
    ctx.report(1, loss=loss, cost=0.01 * size)


SPACE = {"size": LogUniform(1.0, 1000.0), "lr": LogUniform(1e-5, 1.0)}
NEAR = {"size": LogUniform(1.0, 100.0), "lr": LogUniform(1e-4, 1e-1)}

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        store = Path(place) / "sweep.db"
        first = SweepExperiment(
            train, SPACE, optimizer=ProteinOptimizer(max_suggestion_cost=5), metric="loss", name="first", seed=0, store=store
        ).run(budget=20)
        front, best = [], math.inf
        for trial in sorted(first.trials, key=lambda trial: trial.cost):
            if trial.score is not None and trial.score < best:
                best = trial.score
                front.append(f"{best:.3f} for ${trial.cost:.2f}")
        print("best at every cost:", ", ".join(front[-6:]))
        second = SweepExperiment(
            train, NEAR, optimizer=BayesianOptimizer(), metric="loss", name="second", seed=0, store=store, init_from="first"
        ).run(budget=8)
        print(f"then {len(second.trials)} trials of at most $1 each: best {second.best_score:.3f}")
