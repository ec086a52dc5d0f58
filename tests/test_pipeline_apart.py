"""Leaf stages of an objective run where the sweep's executor places them, as if they ran here."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest

from sweep import Context, Experiment, Pipeline, Retry, SweepExperiment, Uniform, open_store
from sweep.optimizers import RandomOptimizer
from sweep.pipeline.request import RESUME_VARIABLE, Request, Reran
from sweep.store.writer import default_store

OWNER = os.getpid()
SPACE = {"lr": Uniform(0.1, 1)}


def here() -> bool:
    return os.getpid() == OWNER


def leaf(x: float) -> float:
    return x + here()


async def inside(lr: float) -> float:
    inner = SweepExperiment(leaf, {"x": Uniform(1, 2)}, optimizer=RandomOptimizer(), executor="process", name="inner", seed=3)
    return float((await inner.run(2)).best_score) + 10 * here()


def fussy(ctx: Context) -> int:
    ctx.log_metric("tried", ctx.attempt)
    if ctx.attempt == 1:
        raise KeyError("not yet")
    return ctx.attempt + 10 * here()


class Whole(Experiment):
    """Sync, async, nested and orchestrating stages."""

    lr: float = 0.1

    def pipeline(self) -> Pipeline:
        nested = Pipeline().stage("deep", lambda: here()).through(deep=bool)
        return (
            Pipeline()
            .stage("sync", self.sync)
            .through(sync=bool)
            .stage("async", self.asynchronous)
            .through(asynchronous=bool)
            .stage("nested", nested)
            .through(deep=bool)
            .stage("fussy", fussy, retry=Retry(2, backoff=0, on=KeyError))
            .through(tries=int)
            .stage("inside", inside)
            .through(best=float)
            .stage("score", lambda lr: lr)
            .through(loss=float)
        )

    def sync(self) -> bool:
        return here()

    async def asynchronous(self) -> bool:
        return here()


def run(objective: Any, budget: int = 2, **options: Any) -> Any:
    sweep = SweepExperiment(objective, SPACE, optimizer=RandomOptimizer(), executor="process", metric="loss", seed=1, **options)
    return sweep.run(budget)


@pytest.mark.parametrize("objective", [Whole, Whole().pipeline()], ids=["class", "pipeline"])
def test_leaves_run_in_children_and_orchestrators_in_the_owner(objective: Any, capsys: pytest.CaptureFixture[str]) -> None:
    result = run(objective, name="o")
    assert [str(trial.status) for trial in result.trials] == ["completed"] * 2, result.trials[0].error
    with open_store() as store:
        values = dict(store.rows("SELECT key, value FROM journal WHERE key NOT LIKE '%!%' AND key NOT LIKE '~%'", ()))
        metrics = store.rows("SELECT value FROM metric WHERE name='tried'", ())
    assert values["sync"] == '{"sync":false}'
    assert values["async"] == '{"asynchronous":false}'
    assert values["nested/deep"] == '{"deep":false}'
    assert values["fussy"] == '{"tries":2}', "the error came out as itself, so that it was tried again"
    assert len(metrics) == 4
    best = float(values["inside"].split(":")[1][:-1])
    assert 11 <= best < 12, "the stage ran here, the leaf of its sweep did not"
    said = [line for line in capsys.readouterr().err.splitlines() if "starts runs of its own" in line]
    assert len(said) == 1


@pytest.mark.parametrize("objective", [Whole, Whole().pipeline()], ids=["class", "pipeline"])
def test_one_trial_alone_runs_its_leaves_where_the_sweep_does(objective: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before = run(objective, 1, name="o").trials[0]
    request = Request(1, str(default_store().resolve()), name="o", trial=0)
    monkeypatch.setenv(RESUME_VARIABLE, request.to_text())
    with pytest.raises(Reran) as ended:
        run(objective, 1, name="o")
    monkeypatch.delenv(RESUME_VARIABLE)
    assert ended.value.result.value == before.score
    with open_store() as store:
        below = "SELECT j.key, j.value FROM journal j JOIN run r ON r.id=j.run_id WHERE ? IN (r.id, r.root_id)"
        values = dict(store.rows(below, (ended.value.result.run_id,)))
    assert values["sync"] == '{"sync":false}'
    assert values["nested/deep"] == '{"deep":false}'
    assert 11 <= float(values["inside"].split(":")[1][:-1]) < 12


def slow(lr: float) -> float:
    time.sleep(60)
    return lr


def test_a_stage_past_its_timeout_is_killed() -> None:
    began = time.monotonic()
    result = run(Pipeline(lr=float).stage("slow", slow, timeout=0.3).through(loss=float), 1, name="o")
    assert "its process was killed" in str(result.trials[0].error)
    assert time.monotonic() - began < 30


def raises(lr: float) -> float:
    raise ZeroDivisionError(f"with {lr}")


def test_what_a_stage_raises_comes_out_as_itself() -> None:
    caught: list[BaseException] = []

    def handle(error: Exception) -> float:
        caught.append(error)
        return 1.0

    result = run(Pipeline(lr=float).stage("bad", raises, on_error=handle).through(loss=float), 1, name="o")
    assert result.best_score == 1.0
    assert isinstance(caught[0], ZeroDivisionError)
    assert any("in a child process" in note and "raises" in note for note in caught[0].__notes__)
