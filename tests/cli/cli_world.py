"""What the tests of the command line share: a file to run, and ways to call ``sweep``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from click.testing import Result

Cli = Callable[..., Result]

WORK = '''
import os
from pathlib import Path

from sweep import Experiment, Integer, Pipeline, SweepExperiment, Uniform
from sweep.optimizers import RandomOptimizer
from sweep.schedulers import ASHAScheduler


def note(word):
    with open("calls.txt", "a") as file:
        file.write(word + "\\n")


def load(n: int) -> int:
    note("load")
    return n


def train(x: int) -> int:
    note("train")
    print("training")
    if os.path.exists("boom"):
        raise ValueError("the reactor is hot")
    return x + 1


pipeline = Pipeline().stage("load", load).through(x=int).stage("train", train).through(y=int)


def objective(lr: float, k: int, ctx):
    note(f"trial {ctx.trial}")
    for step in range(ctx.step + 1, 4):
        ctx.log(f"step {step}")
        ctx.save({"step": step})
        if os.path.exists("boom"):
            raise ValueError("the reactor is hot")
        ctx.report(step, loss=(lr - 0.3) ** 2 + k / step)


SPACE = {"lr": Uniform(0, 1), "k": Integer(1, 3)}
tune = SweepExperiment(objective, SPACE, optimizer=RandomOptimizer(), metric="loss", name="tune")
race = SweepExperiment(
    objective, SPACE, optimizer=RandomOptimizer(), scheduler=ASHAScheduler(max_epochs=3), metric="loss", name="race", seed=5
)


class Square(Experiment):
    n: int = 3
    tag: str = "a"

    def pipeline(self):
        return Pipeline().stage("sq", lambda n: n * n).through(sq=int).stage("say", self.say).through(text=str)

    @staticmethod
    def say(sq: int, tag: str) -> str:
        return tag + str(sq)


def make(most: int, name: str = "made"):
    space = {"lr": Uniform(0, 1), "k": Integer(1, most)}
    return SweepExperiment(objective, space, optimizer=RandomOptimizer(), metric="loss", name=name)


number = 7
'''


def forget(known: set[str]) -> None:
    """Forget the modules imported since."""
    for name in set(sys.modules) - known:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(Path.cwd())):
            del sys.modules[name]


def calls() -> list[str]:
    """Return what the functions of ``work.py`` noted, and forget it."""
    file = Path("calls.txt")
    words = file.read_text().split("\n")[:-1] if file.exists() else []
    file.unlink(missing_ok=True)
    return words


def data(result: Result) -> Any:
    """Return the JSON document on stdout."""
    return json.loads(result.stdout)


def start(*words: str, **variables: str) -> subprocess.Popen[str]:
    """Start ``python -m sweep WORDS…`` as a process of its own."""
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "PYTHONWARNINGS": "default", **variables}
    command = [sys.executable, "-m", "sweep", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
