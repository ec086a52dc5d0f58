"""A config that can say why, as the first stage of a durable run; a changed config is noticed.

Run it, run it again with ``train.lr=0.01``: another config is another run, and it says what differs.
"""

import os
import sys
import tempfile
from pathlib import Path

from pydantic import BaseModel, Field

from sweep import Pipeline
from sweep.config import Scope


class TrainConfig(BaseModel):
    """What the training needs."""

    lr: float = Field(0.1, gt=0)
    layers: list[int] = [64, 64]
    name: str = "small"


scope = Scope(TrainConfig, name="train")


@scope.observe()
def large(config: TrainConfig) -> None:
    """A view: chosen by its name on the command line."""
    config.layers = [512, 512, 512]
    config.name = "large"


def train(config: TrainConfig) -> float:
    """Pretend to train."""
    return round(sum(config.layers) * config.lr, 3)


pipeline = Pipeline().stage("config", scope).through(TrainConfig).stage("train", train).through(score=float)

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        os.environ.setdefault("SWEEP_STORE", str(Path(place) / "sweep.db"))
        for words in ([], ["large"], ["large", "lr=0.01"]):
            scope.parse([*sys.argv[1:], *words])
            print(words, "->", pipeline.run(name="trained").score)
        print(scope.why("lr"))
