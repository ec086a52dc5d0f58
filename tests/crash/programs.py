"""Programs that are killed. What they do is counted outside of any store, in a file opened with O_APPEND."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from sweep import Context, Experiment, Integer, Pipeline, Retry, SweepExperiment, Uniform
from sweep.optimizers import RandomOptimizer
from sweep.schedulers import ASHAScheduler

TRIALS = 40


def count(log: str, *facts: object) -> None:
    """Append a line in one write, which no kill can cut."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(descriptor, (" ".join(map(str, facts)) + "\n").encode())
    finally:
        os.close(descriptor)


class Summary(BaseModel):
    total: int
    note: str


def chain(store: str, log: str) -> Any:
    """Ten stages of different kinds, one of them a pipeline and one retried; returns the last State as a dict."""

    def stage(name: str, give: Any) -> Any:
        def work() -> Any:
            count(log, "start", name)
            count(log, "end", name)
            return give

        return work

    def flaky() -> int:
        count(log, "start", "flaky")
        if not Path(log + ".tried").exists():
            Path(log + ".tried").touch()
            raise OSError("once")
        count(log, "end", "flaky")
        return 5

    async def asynchronous(a: int) -> int:
        count(log, "start", "asynchronous")
        count(log, "end", "asynchronous")
        return a + 1

    inner = (
        Pipeline()
        .stage("one", stage("nested/one", 7))
        .through(p=int)
        .stage("two", stage("nested/two", 8))
        .through(q=int)
    )
    pipeline = (
        Pipeline()
        .stage("a", stage("a", 1))
        .through(a=int)
        .stage("model", stage("model", {"total": 2, "note": "x"}))
        .through(Summary)
        .stage("pair", stage("pair", {"b": 3, "c": "y"}))
        .through(b=int, c=str)
        .stage("nothing", stage("nothing", None))
        .stage("bytes", stage("bytes", b"\0" * 20_000))
        .through(blob=bytes)
        .stage("flaky", flaky)
        .through(e=int, retry=Retry(3, backoff=0))
        .stage("asynchronous", asynchronous)
        .through(f=int)
        .stage("nested", inner)
        .through(q=int)
        .stage("shared", stage("shared", 9))
        .through(g=int, cache=True)
        .stage("last", stage("last", 10))
        .through(h=int)
    )
    return {
        name: value for name, value in pipeline.run(name="program", store=store)._asdict().items() if name != "blob"
    }


def loop(store: str, log: str) -> Any:
    """A loop whose body holds a stage and a child experiment."""

    async def step(i: int, total: int) -> dict[str, int]:
        count(log, "start", f"step#{i}")
        child = await Child(log=log, n=i).run()
        count(log, "end", f"step#{i}")
        return {"total": total + child.value, "i": i + 1}

    pipeline = (
        Pipeline(i=int, total=int)
        .loop_while(lambda state: state.i < 5)
        .stage("step", step)
        .through(total=int)
        .end_loop()
    )
    return pipeline.run(name="program", store=store, i=0, total=0)._asdict()


class Child(Experiment):
    log: str
    n: int

    def pipeline(self) -> Pipeline:
        return Pipeline().stage("square", self.square).through(y=int)

    def square(self, n: int, log: str) -> int:
        count(log, "start", f"child/{n}")
        count(log, "end", f"child/{n}")
        return n * n


def train(x: float, n: int, ctx: Context) -> float:
    """A trial that saves and reports five steps."""
    log = os.environ["CRASH_LOG"]
    count(log, "start", ctx.trial, ctx.attempt, os.getpid())
    begin = ctx.load(0)
    for step in range(begin + 1, 6):
        time.sleep(float(os.environ["CRASH_SLEEP"]))
        ctx.save(step)
        ctx.report(step, loss=x + n / step)
    count(log, "end", ctx.trial, ctx.attempt, os.getpid())
    return x + n / 5


def _sweep(store: str, log: str, executor: str, workers: int, scheduler: Any = None) -> Any:
    os.environ["CRASH_LOG"], os.environ["CRASH_SLEEP"] = log, "0.01" if executor == "process" else "0"
    result = SweepExperiment(
        train,
        {"x": Uniform(0, 1), "n": Integer(1, 9)},
        optimizer=RandomOptimizer(),
        scheduler=scheduler,
        executor=executor,
        workers=workers,
        name="program",
        seed=3,
        metric="loss" if scheduler is not None else None,
    ).run(budget=TRIALS, store=store)
    return {
        "best": result.best_score,
        "trials": {trial.number: [trial.params, str(trial.status), trial.step, trial.score] for trial in result.trials},
    }


def children(store: str, log: str) -> Any:
    """A sweep in child processes."""
    return _sweep(store, log, "process", 3)


def inline(store: str, log: str) -> Any:
    """The same, in this process."""
    return _sweep(store, log, "inline", 1)


def rungs(store: str, log: str) -> Any:
    """With promotions."""
    return _sweep(store, log, "inline", 1, ASHAScheduler(max_epochs=5, reduction_factor=2))
