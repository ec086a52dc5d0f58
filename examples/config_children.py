"""One config for an experiment and the runs inside it, two deep; each run can say why; a change is refused.

Try ``sweep run examples/config_children.py:study big search.lr=0.3``, ``'search.lr=log(1e-3,1)' search.depth=2,4``,
``final.fit.epohcs=9``, then ``sweep config why epochs Study/final/final/fit/fit``.
"""

import json
import tempfile
from pathlib import Path

from sweep import Experiment, Pipeline, SweepExperiment, Uniform, open_store
from sweep.config import Scope, explain
from sweep.errors import ResumeRefused
from sweep.optimizers import RandomOptimizer
from sweep.store.runs import find_run

scope = Scope(name="study")


@scope.observe(default=True)
def defaults(cfg):
    cfg.data = "digits"
    cfg.search.depth = 3  # of the sweep named "search": held, not searched
    cfg.final.fit.epochs = 5  # of the run "fit" inside the run "final"


@scope.observe()
def big(cfg):
    cfg.final.fit.epochs = 50


def loss(lr: float, depth: int = 1) -> float:
    """What the sweep inside minimises."""
    return (lr - 0.1) ** 2 + 1 / depth


class Fit(Experiment):
    """The innermost run."""

    epochs: int = 1

    def pipeline(self):
        """Return the stages."""
        return Pipeline().stage("train", lambda epochs: 1 - 1 / epochs).through(accuracy=float)


class Final(Experiment):
    """Holds one run."""

    def pipeline(self):
        """Return the stages."""
        return Pipeline().stage("fit", Fit(name="fit")).through(fitted=dict)


class Study(Experiment):
    """A sweep, then a run that holds a run: each is given what stands under its name."""

    data: str

    def pipeline(self):
        """Return the stages."""
        sweep = SweepExperiment(loss, {"lr": Uniform(0, 1)}, optimizer=RandomOptimizer(), name="search", seed=0)
        return Pipeline().stage("search", sweep).through(found=dict).stage("final", Final(name="final")).through(last=dict)


study = Study(config=scope)

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        store = Path(place) / "sweep.db"
        scope.parse("big")
        result = study.run(budget=5, store=store)
        print("accuracy", result.children[-1].value)
        with open_store(store) as opened:
            fit = find_run(opened, "Study/final/final/fit/fit")
            ((layers,),) = opened.rows("SELECT value FROM journal WHERE run_id=? AND kind='config'", (fit.id,))
        print(explain("epochs", json.loads(layers)))  # what `sweep config why` prints
        scope.parse("big data=mnist")
        try:
            study.run(budget=5, store=store, resume="must")
        except ResumeRefused as refused:
            print("refused:", *refused.diff)
