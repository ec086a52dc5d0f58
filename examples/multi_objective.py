"""Two objectives: a small model or a good one? The answer is a Pareto front."""

import tempfile
from pathlib import Path

from sweep import Integer, SweepExperiment, Uniform
from sweep.optimizers import OptunaOptimizer


def train(width: int, dropout: float) -> dict[str, float]:
    """Return a made-up error, which falls with the width up to a point, and the number of parameters."""
    error = 1 / width + 0.02 * (dropout - 0.3) ** 2 + width / 4000
    return {"error": error, "parameters": float(width * (width + 10))}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        sweep = SweepExperiment(
            train, {"width": Integer(4, 128), "dropout": Uniform(0.0, 0.9)}, optimizer=OptunaOptimizer(sampler="NSGAII"),
            metric=["error", "parameters"], mode=["min", "min"], name="front", seed=0, store=Path(place) / "sweep.db",
        )  # fmt: skip
        front = sweep.run(budget=150).pareto_front
    for trial in sorted(front, key=lambda trial: trial.values[1])[:: max(1, len(front) // 6)]:
        error, parameters = trial.values
        print(f"width {trial.params['width']:4}   error {error:.4f}   {parameters:6.0f} parameters")
    print(f"{len(front)} of 150 trials are on the front")
