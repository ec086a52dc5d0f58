"""Programs that are killed. What they do is counted outside of any store, in a file opened with O_APPEND.

Every unit of work (a stage, an item, an attempt of a trial) writes a line when it starts and one when it ends, under
its path in the run tree, with its attempt and its process. A program returns its result as plain data, which must be
the same however often it was killed on the way.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from sweep import Context, Experiment, Integer, Ordinal, Pipeline, Retry, SweepExperiment, Uniform
from sweep.errors import TrialPaused, TrialStopped
from sweep.optimizers import GridOptimizer, RandomOptimizer
from sweep.schedulers import ASHAScheduler, HyperbandScheduler, PBTScheduler

TRIALS = 24


def count(*facts: object) -> None:
    """Append a line in one write, which no kill can cut."""
    descriptor = os.open(os.environ["CRASH_LOG"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(descriptor, (" ".join(map(str, facts)) + "\n").encode())
    finally:
        os.close(descriptor)


@contextmanager
def counted(ctx: Context) -> Iterator[None]:
    """Count a unit of work: that it starts, and that it ends, fails, or does as the scheduler told it."""
    how = "end"
    count("start", ctx.path, ctx.attempt, os.getpid())
    try:
        yield
    except (TrialStopped, TrialPaused):
        how = "told"
        raise
    except Exception:
        how = "fail"
        raise
    finally:
        count(how, ctx.path, ctx.attempt, os.getpid())


def giving(value: Any) -> Any:
    """Make a stage that gives a value."""

    def work(ctx: Context) -> Any:
        with counted(ctx):
            return value

    return work


def add(a: int, ctx: Context) -> int:
    with counted(ctx):
        return a + 1


async def add_later(a: int, ctx: Context) -> int:
    with counted(ctx):
        return a + 1


def flaky(a: int, ctx: Context) -> int:
    """Fail twice."""
    with counted(ctx):
        if ctx.attempt < 3:
            raise OSError(f"attempt {ctx.attempt}")
        return a + ctx.attempt


class Summary(BaseModel):
    total: int
    note: str


# ---------------------------------------------------------------- pipelines


def chain(how: dict[str, Any]) -> Any:
    """Stages of different kinds, one of them a pipeline and one in the cache."""
    inner = Pipeline().stage("one", giving(7)).through(p=int).stage("two", giving(8)).through(q=int)
    pipeline = (
        Pipeline()
        .stage("a", giving(1))
        .through(a=int)
        .stage("model", giving({"total": 2, "note": "x"}))
        .through(Summary)
        .stage("pair", giving({"b": 3, "c": "y"}))
        .through(b=int, c=str)
        .stage("nothing", giving(None))
        .stage("bytes", giving(b"\0" * 20_000))
        .through(blob=bytes)
        .stage("later", add_later)
        .through(f=int)
        .stage("nested", inner)
        .through(q=int)
        .stage("shared", giving(9))
        .through(g=int, cache=True)
        .stage("last", giving(10))
        .through(h=int)
    )
    found = pipeline.run(name="program", **how)._asdict()
    return {**found, "blob": len(found["blob"])}


class Child(Experiment):
    n: int

    def pipeline(self) -> Pipeline:
        return Pipeline().stage("square", self.square).through(y=int).stage("again", self.square).through(z=int)

    def square(self, n: int, ctx: Context) -> int:
        with counted(ctx):
            return n * n


def loops(how: dict[str, Any]) -> Any:
    """A loop in a loop; the inner body holds a child experiment."""

    async def step(i: int, j: int, total: int, ctx: Context) -> dict[str, int]:
        with counted(ctx):
            child = await Child(n=10 * i + j).run()
            return {"total": total + child.value, "j": j + 1}

    def turn(i: int, ctx: Context) -> dict[str, int]:
        with counted(ctx):
            return {"i": i + 1, "j": 0}

    pipeline = (
        Pipeline(i=int, j=int, total=int)
        .loop_while(lambda state: state.i < 2, name="outer")
        .loop_while(lambda state: state.j < 2, name="inner")
        .stage("step", step)
        .through(total=int)
        .end_loop()
        .stage("turn", turn)
        .through(i=int)
        .end_loop()
    )
    return pipeline.run(name="program", i=0, j=0, total=0, **how)._asdict()


def retries(how: dict[str, Any]) -> Any:
    """Stages, a pipeline and a map that fail at first, with waits between."""
    again = Retry(3, backoff=0.002)

    def fails_by_turns(a: int, ctx: Context) -> int:
        with counted(ctx):
            if ctx.attempt == 1:
                raise ValueError("once")
            return a

    inner = (
        Pipeline(a=int)
        .stage("first", add)
        .through(b=int)
        .stage("second", flaky)
        .through(c=int, retry=again)
        .stage("third", giving(4))
        .through(d=int)
    )
    pipeline = (
        Pipeline()
        .stage("begin", giving(1))
        .through(a=int)
        .stage("flaky", flaky)
        .through(e=int, retry=again)
        .stage("inner", inner)
        .through(c=int, retry=again)
        .stage("numbers", giving([1, 2, 3]))
        .through(numbers=list[int])
        .map("items", fails_by_turns, over="numbers", retry=again)
        .through(doubled=list[int])
        .stage("end", add)
        .through(z=int)
    )
    return pipeline.run(name="program", **how)._asdict()


def sides(how: dict[str, Any]) -> Any:
    """Branches and parallel stages, one of them a pipeline, in a loop."""
    then = Pipeline().stage("up", giving(1)).through(u=int).stage("further", add_later).through(v=int)
    otherwise = Pipeline().stage("down", giving(2)).through(v=int)
    deep = Pipeline(a=int).stage("left", add).through(x=int).stage("right", add_later).through(y=int)
    pipeline = (
        Pipeline(a=int)
        .loop_while(lambda state: state.a < 2, name="turns")
        .branch(lambda state: state.a == 0, then, otherwise, name="side")
        .parallel(one=giving(11), two=add_later, deep=deep)
        .stage("next", add)
        .through(a=int)
        .end_loop()
        .stage("last", giving(12))
        .through(z=int)
    )
    return pipeline.run(name="program", a=0, **how)._asdict()


def arrays(how: dict[str, Any]) -> Any:
    """Arrays between stages: files of their own, written before the rows that name them."""
    import numpy

    def grow(big: Any, ctx: Context) -> Any:
        with counted(ctx):
            return numpy.concatenate([big, big + 1])

    def saves(big: Any, ctx: Context) -> int:
        with counted(ctx):
            begin, total = ctx.load((0, numpy.zeros(3000)))
            for step in range(begin, 3):
                total = total + big[:3000]
                ctx.save((step + 1, total))
            return int(total.sum())

    pipeline = (
        Pipeline()
        .stage("make", giving(numpy.arange(4000.0)))
        .through(big=numpy.ndarray)
        .stage("grow", grow)
        .through(big=numpy.ndarray)
        .stage("save", saves)
        .through(total=int)
        .stage("last", giving(1))
        .through(z=int)
    )
    state = pipeline.run(name="program", **how)
    return [state.total, hashlib.sha256(state.big.tobytes()).hexdigest()]


# ---------------------------------------------------------------- maps


def tenfold(n: int, ctx: Context) -> int:
    with counted(ctx):
        if n in (2, 5):
            raise ValueError(f"item {n}")
        return 10 * n


def map_continue(how: dict[str, Any]) -> Any:
    """Items that fail and stop nobody: sync functions, then pipelines."""

    async def fails(n: int, ctx: Context) -> int:
        with counted(ctx):
            if n == 3:
                raise KeyError(n)
            return n + 1

    item = Pipeline(n=int).stage("ten", add_n).through(t=int).stage("fails", fails).through(f=int)
    pipeline = (
        Pipeline()
        .stage("numbers", giving(list(range(8))))
        .through(numbers=list[int])
        .map("items", tenfold, over="numbers", concurrency=3, on_failure="continue")
        .through(tens=list[int | None])
        .map("deep", item, over="numbers", concurrency=2, on_failure="continue")
        .through(ones=list[int | None])
        .stage("last", giving(1))
        .through(z=int)
    )
    state = pipeline.run(name="program", **how)
    told = {name: sorted(map(str, state[name].failures)) for name in ("tens", "ones")}
    return [state.tens, state.ones, told]


def add_n(n: int, ctx: Context) -> int:
    with counted(ctx):
        return n + 10


def map_stop(how: dict[str, Any]) -> Any:
    """An item that fails the first time and stops all; the program goes on with what is left."""

    failed = Path(os.environ["CRASH_LOG"] + ".failed")

    def fail_once() -> None:
        if not failed.exists():
            failed.touch()
            raise ValueError("once")

    async def fails_once(n: int, ctx: Context) -> int:
        with counted(ctx):
            if n == 5:
                fail_once()
            return 10 * n

    pipeline = (
        Pipeline()
        .stage("numbers", giving(list(range(8))))
        .through(numbers=list[int])
        .map("items", fails_once, over="numbers", concurrency=3)
        .through(tens=list[int])
        .stage("last", giving(1))
        .through(z=int)
    )
    try:
        return pipeline.run(name="program", **how).tens
    except ValueError:
        return pipeline.run(name="program", **{**how, "resume": "must"}).tens


# ---------------------------------------------------------------- processes


def stubborn(n: int, ctx: Context) -> int:
    """Work in a child process that starts another, which no SIGTERM ends."""
    with counted(ctx):
        code = "import signal, sys, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(600)"
        grandchild = subprocess.Popen([sys.executable, "-S", "-c", code], stdout=subprocess.PIPE)
        assert grandchild.stdout is not None
        grandchild.stdout.readline()
        time.sleep(0.04)
        return n + 1


def isolated(how: dict[str, Any]) -> Any:
    """Stages and items in processes of their own."""
    pipeline = (
        Pipeline(n=int)
        .stage("alone", stubborn)
        .through(a=int, isolate="process")
        .stage("numbers", giving([1, 2, 3]))
        .through(numbers=list[int])
        .map("items", stubborn, over="numbers", concurrency=2, isolate="process")
        .through(found=list[int])
        .stage("flaky", flaky)
        .through(z=int, isolate="process", retry=Retry(3, backoff=0.002))
    )
    return pipeline.run(name="program", n=1, **how)._asdict()


# ---------------------------------------------------------------- sweeps


def train(x: float, n: int, ctx: Context) -> float:
    """A trial that saves and reports nine steps."""
    with counted(ctx):
        begin, total = ctx.load((0, 0.0))
        for step in range(begin + 1, 10):
            total += x / step
            ctx.save((step, total))
            time.sleep(float(os.environ["CRASH_SLEEP"]))
            ctx.report(step, loss=x + n / step, total=total)
        return x + n / 9


def _told(result: Any) -> Any:
    """Return all that a sweep has come to."""
    facts = {
        one.number: [one.params, str(one.status), str(one.reason), one.step, one.score, one.metrics, one.parent, one.history]
        for one in result.trials
    }
    return {"best": result.best_score, "trials": facts}


def _sweep(how: dict[str, Any], trials: int | None = TRIALS, **options: Any) -> Any:
    sweep = SweepExperiment(
        train,
        {"x": Uniform(0, 1), "n": Integer(1, 9)},
        optimizer=RandomOptimizer(),
        metric="loss",
        name="program",
        seed=3,
        **options,
    )
    return _told(sweep.run(budget=trials, **how))


def plain(how: dict[str, Any]) -> Any:
    """All trials in full."""
    return _sweep(how, 12)


def repeated(how: dict[str, Any]) -> Any:
    """Each trial twice."""
    return _sweep(how, 6, repeats=2)


def asha(how: dict[str, Any]) -> Any:
    """Promotions out of pauses."""
    return _sweep(how, 16, scheduler=ASHAScheduler(max_epochs=9, reduction_factor=3))


def hyperband(how: dict[str, Any]) -> Any:
    """One pass of all brackets."""
    return _sweep(how, None, scheduler=HyperbandScheduler(max_epochs=9, reduction_factor=3))


def pbt(how: dict[str, Any]) -> Any:
    """A population that pauses, and whose worst are replaced by heirs of the best."""
    return _sweep(how, None, scheduler=PBTScheduler(population_size=5, num_generations=4, interval=2))


def children(how: dict[str, Any]) -> Any:
    """Trials in child processes."""
    return _sweep(how, 18, executor="process", workers=3)


def threads(how: dict[str, Any]) -> Any:
    """Trials in threads, some cut short; which ones depends on who is quicker, so they are not compared."""
    found = _sweep(how, 30, executor="thread", workers=4, scheduler=ASHAScheduler(max_epochs=9, reduction_factor=3))
    return [len(found["trials"]), {number: trial[0] for number, trial in found["trials"].items()}]


class Inner(Experiment):
    """A pipeline with a sweep in it: what one outer trial is."""

    scale: int

    def pipeline(self) -> Pipeline:
        return (
            Pipeline()
            .stage("prepare", self.prepare)
            .through(ready=int)
            .stage("tune", self.tune)
            .through(score=float)
            .stage("check", self.check)
            .through(score=float)
        )

    def prepare(self, scale: int, ctx: Context) -> int:
        with counted(ctx):
            return scale

    async def tune(self, scale: int, ctx: Context) -> float:
        with counted(ctx):
            sweep = SweepExperiment(
                train,
                {"x": Uniform(0, scale), "n": Integer(1, 9)},
                optimizer=RandomOptimizer(),
                scheduler=ASHAScheduler(max_epochs=9, reduction_factor=3),
                metric="loss",
                name="deep",
            )
            return float((await sweep.run(4)).best_score)

    def check(self, score: float, ctx: Context) -> float:
        with counted(ctx):
            return score


class Outer(Experiment):
    """An experiment around a sweep of experiments."""

    def pipeline(self) -> Pipeline:
        workers = int(os.environ.get("CRASH_WORKERS", "1"))
        middle = SweepExperiment(
            Inner, {"scale": Ordinal([1, 2, 3])}, optimizer=GridOptimizer(), name="middle", seed=5, workers=workers
        )
        return (
            Pipeline().stage("begin", giving(1)).through(a=int).stage("search", middle).through(found=dict).stage(
                "end", giving(2)
            ).through(z=int)
        )  # fmt: skip


def nested(how: dict[str, Any]) -> Any:
    """An experiment, a sweep in it, in each trial a pipeline, and a sweep in that."""
    os.environ["CRASH_WORKERS"] = "1"
    return _nested(how)


def nested_wide(how: dict[str, Any]) -> Any:
    """The same with three outer trials at once."""
    os.environ["CRASH_WORKERS"] = "3"
    return _nested(how)


def _nested(how: dict[str, Any]) -> Any:
    result = Outer(name="program").run(**how)
    found = result.state.found
    return [found["best_score"], found["n_trials"]]


def pipelines(how: dict[str, Any]) -> Any:
    """A sweep whose trials are pipelines."""
    objective = (
        Pipeline(x=float)
        .stage("first", lambda x, ctx: _twice(x, ctx))
        .through(y=float)
        .stage("flaky", flaky_float)
        .through(loss=float, retry=Retry(3, backoff=0.002))
    )
    sweep = SweepExperiment(
        objective, {"x": Uniform(0, 1)}, optimizer=RandomOptimizer(), metric="loss", name="program", seed=3
    )
    return _told(sweep.run(budget=5, **how))


def _twice(x: float, ctx: Context) -> float:
    with counted(ctx):
        return 2 * x


def flaky_float(y: float, ctx: Context) -> float:
    """Fail once."""
    with counted(ctx):
        if ctx.attempt < 2:
            raise OSError("once")
        return y + 1
