"""Sweeps at their public face: objectives, budgets, failures, history, results, kills."""

from __future__ import annotations

import ctypes
import json
import math
import os
import resource
import signal
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import numpy as np
import pandas
import pytest
from dying import Deaths, Killed, rows
from pydantic import BaseModel

from sweep import (
    Budget,
    Choice,
    Context,
    Experiment,
    Integer,
    LogUniform,
    Pipeline,
    Resources,
    Result,
    Status,
    SweepExperiment,
    Trial,
    Uniform,
    open_store,
)
from sweep.clock import using_clock
from sweep.errors import (
    ContractError,
    NoResult,
    NotAwaited,
    PlacementError,
    ResumeRefused,
    RunNotFound,
    StoreUnwritable,
    StrategyError,
)
from sweep.optimizers import GridOptimizer, Optimizer, OptunaOptimizer, RandomOptimizer
from sweep.schedulers import ASHAScheduler, BatchScheduler, PBTScheduler, Scheduler, SynchronousBatchScheduler
from sweep.store.runs import find_run
from sweep.testing.clock import VirtualClock

X = {"x": Uniform(-1, 1)}


class Log(list[Any]):
    """A list whose content is no part of the code that closes over it."""


LOG = Log()


@pytest.fixture(autouse=True)
def _empty_log() -> None:
    LOG.clear()


def sweep(objective: Any = None, space: Any = X, **more: Any) -> SweepExperiment:
    return SweepExperiment(objective, space, **{"optimizer": RandomOptimizer(), "name": "s", "seed": 1, **more})


def square(x: float) -> float:
    return x * x


async def square_async(x: float) -> float:
    await anyio.lowlevel.checkpoint()
    return x * x


def square_steps(x: float) -> Iterator[dict[str, float]]:
    for step in range(3):
        yield {"loss": x * x + 2 - step}


async def square_async_steps(x: float) -> AsyncIterator[dict[str, float]]:
    for step in range(3):
        yield {"loss": x * x + 2 - step}


def square_reported(x: float, ctx: Context) -> None:
    for step in range(1, 4):
        ctx.report(step, loss=x * x + 3 - step)


class SquareExperiment(Experiment):
    x: float

    def pipeline(self) -> Pipeline:
        return Pipeline().stage("square", lambda x: x * x).through(y=float)


class SquareInputs(Experiment):
    def pipeline(self) -> Pipeline:
        return Pipeline(x=float).stage("square", lambda x: x * x).through(y=float)


PIPELINE = (
    Pipeline(x=float).stage("half", lambda x: x).through(z=float).stage("square", lambda z: z * z).through(y=float)
)


# ---------------------------------------------------------------- objectives


@pytest.mark.parametrize(
    "objective",
    [
        square,
        square_async,
        square_steps,
        square_async_steps,
        square_reported,
        PIPELINE,
        SquareExperiment,
        SquareInputs(),
    ],
    ids=["function", "async", "generator", "async generator", "reports", "pipeline", "experiment class", "experiment"],
)
def test_every_kind_of_objective(objective: Any) -> None:
    result = sweep(objective).run(6)
    assert [trial.score for trial in result.trials] == pytest.approx(
        [trial.params["x"] ** 2 for trial in result.trials]
    )
    assert [trial.number for trial in result.trials] == list(range(6))
    assert all(trial.status is Status.COMPLETED for trial in result.trials)
    best = min(result.trials, key=lambda trial: trial.params["x"] ** 2)
    assert result.best_trial is best
    assert result.best_params == best.params
    assert result.value == result.best_score == best.score
    assert str(result.status) == "completed"


@dataclass
class Net:
    depth: int
    width: int = 8


class Config(BaseModel):
    lr: float
    net: Net


def test_dotted_parameters_build_models_and_dataclasses() -> None:
    def train(lr: float, net: Net) -> float:
        LOG.append(net)
        return lr * net.depth

    space = {"lr": LogUniform(1e-3, 1), "net.depth": Integer(1, 4)}
    sweep(train, space).run(3)
    assert all(isinstance(net, Net) and net.width == 8 for net in LOG)

    def whole(config: Config) -> float:
        return config.lr * config.net.depth

    result = sweep(whole, space, name="whole").run(3)
    assert all(trial.score == pytest.approx(trial.params["lr"] * trial.params["net.depth"]) for trial in result.trials)


def test_the_lonely_parameter_gets_them_all() -> None:
    result = sweep(lambda params: params.x + params.n, {"x": Uniform(0, 1), "n": Integer(1, 2)}).run(2)
    assert all(trial.score == sum(trial.params.values()) for trial in result.trials)


@pytest.mark.parametrize(
    ("objective", "space", "told"),
    [
        (lambda x, y: x, X, "parameter 'y' is not in the space"),
        (
            lambda leraning_rate: 1.0,
            {"learning_rate": Uniform(0, 1), "n": Integer(1, 2)},
            "did you mean 'learning_rate'",
        ),
        (lambda x: x, {**X, "depth": Integer(1, 2)}, "takes no parameter 'depth'"),
        (PIPELINE, {"n": Uniform(0, 1)}, "input 'x' is not in the space"),
        (SquareExperiment, {"n": Integer(1, 3)}, "no field 'n'"),
        (SquareExperiment, {"n": Integer(1, 3)}, "'x' has no default and is not in the space"),
        (SquareInputs(), {"z": Uniform(0, 1)}, "input 'x' is not in the space"),
    ],
)
def test_an_objective_that_does_not_fit_its_space_is_refused_before_anything_runs(
    objective: Any, space: Any, told: str, store_path: Path
) -> None:
    for face in (lambda s: s.check(), lambda s: s.run(2)):
        with pytest.raises(ContractError, match=told):
            face(sweep(objective, space))
    assert not store_path.exists()


def test_types_of_parameters_are_compared_with_the_space() -> None:
    def train(x: int) -> float:
        return x

    with pytest.raises(ContractError, match="'x' is int, but the space gives float"):
        sweep(train).check()

    class Typed(Experiment):
        x: int

        def pipeline(self) -> Pipeline:
            return Pipeline().stage("s", lambda x: x).through(y=int)

    with pytest.raises(ContractError, match="'x' is int, but the space gives float"):
        sweep(Typed).check()


def test_no_objective_and_no_space() -> None:
    with pytest.raises(ContractError, match="no objective"):
        sweep(None).check()
    with pytest.raises(ContractError, match="no search space"):
        sweep(square, None).check()
    with pytest.raises(ContractError, match="different search spaces"):
        sweep(square, X, optimizer=RandomOptimizer({"x": Uniform(0, 2)})).check()
    assert sweep(square, None, optimizer=RandomOptimizer(X)).run(1).best_score >= 0


def test_train_of_a_subclass() -> None:
    class Mine(SweepExperiment):
        search_space = X

        def train(self, x: float) -> float:
            return x * x

    assert Mine(optimizer=RandomOptimizer()).run(3).best_score >= 0


@pytest.mark.parametrize(
    "arguments",
    [
        {"workers": 0}, {"repeats": 0}, {"retries": -1}, {"mode": "minimise"}, {"seed": 1.5}, {"max_failures": True},
        {"metric": ["a", "b"], "mode": ["min"]}, {"optimizer": RandomOptimizer}, {"scheduler": object()}, {"workers": 2.0},
    ],
)  # fmt: skip
def test_arguments_that_cannot_be(arguments: dict[str, Any]) -> None:
    with pytest.raises(ContractError):
        sweep(square, **arguments)


def test_impossible_resources_are_refused_at_once() -> None:
    with pytest.raises(PlacementError, match="gpus"):
        sweep(square, resources=Resources(gpus=99)).run(1)


@pytest.mark.parametrize("budget", [0, -1, "10", True, 1.5])
def test_impossible_budgets(budget: Any) -> None:
    with pytest.raises((ContractError, ValueError), match=r"budget|trials"):
        sweep(square).run(budget)


# ---------------------------------------------------------------- score


def test_metric_by_name_mode_and_last_report() -> None:
    def train(x: float, ctx: Context) -> None:
        ctx.report(1, loss=9.0, accuracy=0.0)
        ctx.report(2, loss=x, accuracy=-x)

    low = sweep(train, metric="loss").run(5)
    high = sweep(train, metric="accuracy", mode="max", name="high").run(5)
    assert low.best_trial.number == high.best_trial.number
    assert low.best_score == -high.best_score
    assert low.best_trial.step == 2
    assert [report.step for report in low.best_trial.history] == [1, 2]


def test_several_metrics_without_a_name_are_named() -> None:
    result = sweep(lambda x, ctx: ctx.report(1, a=x, b=x)).run(1)
    assert result.trials[0].status is Status.FAILED
    assert "'a', 'b'" in str(result.trials[0].error)
    with pytest.raises(NoResult, match="which metric"):
        _ = result.best_score


@pytest.mark.parametrize(
    ("returned", "told"),
    [(None, "no score"), ("text", "'text'"), ({"a": "b"}, "without a number"), (object(), "object")],
)
def test_values_that_are_no_score(returned: Any, told: str) -> None:
    result = sweep(lambda x: returned).run(1)
    assert told in str(result.trials[0].error)
    assert str(result.status) == "failed"


@pytest.mark.parametrize("value", [np.float32(2), np.array(2.0), 2, {"value": 2.0}])
def test_values_that_are_numbers(value: Any) -> None:
    assert sweep(lambda x: value).run(1).best_score == 2


def test_nan_and_infinity_never_win() -> None:
    values = iter([math.nan, math.inf, -math.inf, 5.0, 7.0])
    result = sweep(lambda x: next(values)).run(5)
    assert result.best_score == 5
    assert result.best_trial.number == 3
    values = iter([math.nan, math.inf, -math.inf, 5.0, 7.0])
    assert sweep(lambda x: next(values), mode="max", name="max").run(5).best_score == 7


# ---------------------------------------------------------------- failures


def test_one_bad_trial_never_ends_a_sweep_nor_wins_it() -> None:
    def train(x: float, ctx: Context) -> float:
        if ctx.trial == 2:
            raise ZeroDivisionError("bad luck")
        return x + 10

    result = sweep(train).run(6)
    assert str(result.status) == "completed"
    assert result.n_failed == 1
    assert result.trials[2].status is Status.FAILED
    assert result.trials[2].error == "ZeroDivisionError: bad luck"
    assert math.isnan(result.trials[2].score)
    assert result.best_trial.number != 2


def test_a_failures_traceback_is_kept(store_path: Path) -> None:
    def deep() -> None:
        raise KeyError("where")

    sweep(lambda x: deep()).run(1)
    (text,) = [path.read_text() for path in (store_path.parent / "sweep.db.d").rglob("error.log")]
    assert "in deep" in text


@pytest.mark.parametrize(("workers", "expected"), [(1, 5), (8, 8)])
def test_all_of_the_first_trials_failing_ends_the_sweep(workers: int, expected: int) -> None:
    async def train(x: float) -> float:
        await anyio.lowlevel.checkpoint()
        raise OSError("always")

    result = sweep(train, workers=workers).run(100)
    assert str(result.status) == "failed"
    assert result.n_failed == expected
    assert "OSError: always" in str(result.error)
    with pytest.raises(NoResult):
        _ = result.best_params


def test_max_failures() -> None:
    def train(x: float, ctx: Context) -> float:
        if ctx.trial in (1, 3, 5):
            raise OSError("now and then")
        return x

    assert str(sweep(train, max_failures=3).run(8).status) == "completed"
    result = sweep(train, max_failures=2, name="strict").run(8)
    assert str(result.status) == "failed"
    assert len(result.trials) == 6


def test_a_sweep_that_ended_by_failures_begins_anew() -> None:
    def train(x: float) -> float:
        if not LOG:
            raise OSError("always")
        return x

    sweep(train).run(6)
    LOG.append("mended")
    result = sweep(train).run(3)
    assert result.path == "s#2"
    assert len(result.trials) == 3


def test_retries_go_on_from_the_checkpoint() -> None:
    def train(x: float, ctx: Context) -> float:
        start = ctx.load(0)
        LOG.append((ctx.trial, ctx.attempt, start))
        for step in range(start, 4):
            if step == 2 and ctx.attempt < 3 and ctx.trial == 1:
                raise OSError("again")
            ctx.save(step + 1)
            ctx.report(step + 1, loss=x)
        return x

    result = sweep(train, retries=2).run(2)
    assert LOG == [(0, 1, 0), (1, 1, 0), (1, 2, 2), (1, 3, 2)]
    assert result.trials[1].attempts == 3
    assert result.trials[1].status is Status.COMPLETED
    assert [report.step for report in result.trials[1].history] == [1, 2, 3, 4]


def test_a_broken_strategy_ends_the_sweep_as_itself(store_path: Path) -> None:
    class Broken(Optimizer):
        def suggest(self, n: int) -> list[Trial]:
            raise KeyError("optimizer bug")

        def observe(self, trial: Trial, result: float) -> None: ...

    with pytest.raises(KeyError, match="optimizer bug") as caught:
        sweep(square, optimizer=Broken()).run(3)
    assert any("suggest() of the optimizer Broken" in note for note in caught.value.__notes__)

    class Judge(Scheduler):
        def should_stop(self, trial: Trial) -> bool:
            raise KeyError("scheduler bug")

    with pytest.raises(KeyError, match="scheduler bug"):
        sweep(square_reported, scheduler=Judge(), name="judge").run(3)

    class Wrong(Optimizer):
        def suggest(self, n: int) -> Any:
            return [{"x": 1}]

        def observe(self, trial: Trial, result: float) -> None: ...

    with pytest.raises(StrategyError, match="expected a list of Trial"):
        sweep(square, optimizer=Wrong(), name="wrong").run(3)
    assert {status for (status,) in rows(store_path, "SELECT status FROM run WHERE parent_id=0")} == {"failed"}
    assert not rows(store_path, "SELECT 1 FROM run WHERE status='running'")


def test_a_sweep_cut_by_a_bug_goes_on_when_it_is_mended() -> None:
    class Bug(RandomOptimizer):
        def observe(self, trial: Trial, result: Result) -> None:
            if len(LOG) == 0 and trial.number == 2:
                raise KeyError("bug")
            super().observe(trial, result)

    with pytest.raises(KeyError):
        sweep(square, optimizer=Bug()).run(5)
    LOG.append("mended")
    result = sweep(square, optimizer=Bug()).run(5)
    assert result.path == "s"
    assert len(result.trials) == 5


# ---------------------------------------------------------------- budgets, schedulers


def test_budgets() -> None:
    assert len(sweep(square).run(Budget(trials=4)).trials) == 4
    assert len(sweep(square_reported, name="resource").run(Budget(resource=10)).trials) == 4

    def costly(x: float, ctx: Context) -> float:
        ctx.report(1, loss=x, cost=2.5)
        return x

    result = sweep(costly, name="cost", metric="loss").run(Budget(cost=10))
    assert result.cost == 10
    assert len(result.trials) == 4


@pytest.mark.anyio
async def test_a_budget_in_seconds_cuts_what_runs() -> None:
    from sweep.clock import current_clock

    async def slow(x: float) -> float:
        await current_clock().sleep(10)
        return x

    with using_clock(VirtualClock()):
        result = await sweep(slow, workers=2).run(Budget(seconds=25))
    assert str(result.status) == "completed"
    assert Counter(str(trial.status) for trial in result.trials) == {"completed": 4, "stopped": 2}
    assert {trial.reason for trial in result.trials if trial.status is Status.STOPPED} == {"budget"}


def test_a_grid_needs_no_budget() -> None:
    result = sweep(lambda x, n: x * n, {"x": Choice([1, 2, 3]), "n": Integer(1, 2)}, optimizer=GridOptimizer()).run()
    assert sorted(trial.score for trial in result.trials) == [1, 2, 2, 3, 4, 6]


def test_workers_run_at_once() -> None:
    together = threading.Barrier(3, timeout=5)

    def train(x: float) -> float:
        together.wait()
        return x

    result = sweep(train, executor="thread", workers=3).run(6)
    assert result.n_failed == 0


@pytest.mark.anyio
async def test_hundreds_of_async_trials_at_once() -> None:
    most = 0
    running = 0

    async def train(x: float) -> float:
        nonlocal most, running
        running += 1
        most = max(most, running)
        await anyio.sleep(0.01)
        running -= 1
        return x

    result = await sweep(train, workers=200).run(200)
    assert len(result.trials) == 200
    assert most == 200


def learn(x: float, ctx: Context) -> None:
    start = ctx.load(0)
    for step in range(start + 1, 10):
        LOG.append((ctx.trial, step))
        ctx.save(step)
        ctx.report(step, loss=x + 1 / step)


def test_asha_pauses_promotes_and_goes_on_from_the_checkpoint() -> None:
    scheduler = ASHAScheduler(max_epochs=9, reduction_factor=3, grace_period=1)
    result = sweep(learn, scheduler=scheduler).run(18)
    assert max(Counter(LOG).values()) == 1, "no step runs twice"
    steps = Counter(trial.step for trial in result.trials)
    assert set(steps) == {1, 3, 9}
    completed = [trial for trial in result.trials if trial.status is Status.COMPLETED]
    assert all(trial.step == 9 for trial in completed)
    assert result.best_trial in completed
    assert result.saved > 0
    unpromoted = [trial for trial in result.trials if trial.status is Status.STOPPED]
    assert {trial.reason for trial in unpromoted} == {"unpromoted"}
    assert len(unpromoted) + len(completed) == 18


def test_of_the_checkpoints_the_best_three_stay_and_the_files_of_the_others_go(store_path: Path) -> None:
    def heavy(x: float, ctx: Context) -> None:
        for step in range(1, 6):
            ctx.save({"weights": np.full(4000, x + step), "step": step})
            ctx.report(step, loss=x * x + 1 / step)

    best = sorted(sweep(heavy).run(8).trials, key=lambda trial: trial.score or 0.0)[:3]
    kept = [path for path in (store_path.parent / "sweep.db.d" / "blobs").rglob("*") if path.is_file()]
    assert sorted(float(np.load(path)[0]) for path in kept) == sorted(trial.params["x"] + 5 for trial in best)
    with open_store() as store:
        assert store.row("SELECT count(*) FROM journal WHERE kind='checkpoint'") == (3,)
        assert store.row("SELECT count(*) FROM blob") == (3,)


def test_rungs_promote_the_best() -> None:
    result = sweep(learn, scheduler=ASHAScheduler(max_epochs=9, reduction_factor=3), workers=1).run(27)
    by_score = sorted(result.trials, key=lambda trial: trial.params["x"])
    assert result.best_trial is by_score[0]


# ---------------------------------------------------------------- enqueue, history, constraints


def test_enqueued_parameters_come_first() -> None:
    result = sweep(square, enqueue=[{"x": 0.0}, {"x": 0.5}]).run(4)
    assert [trial.params["x"] for trial in result.trials[:2]] == [0.0, 0.5]
    assert [str(trial.source) for trial in result.trials] == ["enqueued", "enqueued", "optimizer", "optimizer"]
    with pytest.raises(ContractError, match="enqueue"):
        sweep(square, enqueue=[{"x": 7.0}]).check()


class Remembers(Optimizer):
    """Notes everything it is told."""

    def __init__(self) -> None:
        self.seen: list[tuple[dict[str, Any], float]] = []
        self.count = 0

    def suggest(self, n: int) -> list[Trial]:
        self.count += 1
        return [Trial({"x": self.count / 100})]

    def observe(self, trial: Trial, result: Result) -> None:
        self.seen.append((trial.params, float(result)))


def test_init_from_rows_frames_results_names_and_ids(store_path: Path) -> None:
    earlier = sweep(square, name="earlier").run(3)
    expected = [(trial.params, trial.score) for trial in earlier.trials]
    table = [{"x": trial.params["x"], "score": trial.score} for trial in earlier.trials]
    sources = [earlier, "earlier", earlier.run_id, table, pandas.DataFrame(table), earlier.trials]
    for number, source in enumerate(sources):
        optimizer = Remembers()
        result = sweep(square, optimizer=optimizer, init_from=source, name=f"later{number}").run(1)
        assert optimizer.seen[:3] == expected, number
        assert len(result.trials) == 1
    with pytest.raises(RunNotFound):
        sweep(square, init_from="erlier", name="none").run(1)


def test_history_outside_of_the_space_is_left_out_and_said(capsys: pytest.CaptureFixture[str]) -> None:
    optimizer = Remembers()
    sweep(square, optimizer=optimizer, init_from=[{"x": 5.0, "score": 1}, {"x": 0.5, "score": 2}]).run(1)
    assert optimizer.seen[0] == ({"x": 0.5}, 2.0)
    assert "1 trials do not fit the space" in capsys.readouterr().err


def test_constraints() -> None:
    def positive(params: Any) -> float:
        return -params["x"]

    result = sweep(square, constraints=[positive]).run(10)
    assert all(trial.params["x"] >= 0 for trial in result.trials)
    assert len(result.trials) == 10

    def impossible(params: Any) -> float:
        return 1.0

    with pytest.raises(StrategyError, match="impossible"):
        sweep(square, constraints=[impossible], name="never").run(1)


# ---------------------------------------------------------------- smoke, repeats, several objectives


def test_smoke_is_one_trial_and_one_step_apart_from_real_runs(store_path: Path) -> None:
    result = sweep(learn).run(50, smoke=True)
    assert LOG == [(0, 1)]
    assert len(result.trials) == 1
    assert str(result.status) == "completed"
    assert result.path == "s-smoke"
    assert sweep(learn).run(1).path == "s"


def test_repeats_are_averaged_each_with_its_own_seed() -> None:
    def train(x: float, ctx: Context) -> float:
        LOG.append(ctx.seed)
        return x + len(LOG)

    result = sweep(train, repeats=3).run(2)
    assert len(set(LOG)) == 6
    assert result.trials[0].score == pytest.approx(result.trials[0].params["x"] + 2)
    assert result.trials[1].score == pytest.approx(result.trials[1].params["x"] + 5)


def test_repeats_of_a_pipeline_keep_their_stages_apart(store_path: Path) -> None:
    pipeline = Pipeline(x=float).stage("draw", lambda ctx: float(ctx.seed)).through(y=float)
    result = sweep(pipeline, repeats=2).run(1)
    seeds = [value for (value,) in rows(store_path, "SELECT value FROM journal WHERE kind='stage'")]
    assert len(set(seeds)) == 2
    assert result.best_score == pytest.approx(sum(json.loads(seed)["y"] for seed in seeds) / 2)


def test_several_objectives_have_a_front() -> None:
    def train(x: float) -> dict[str, float]:
        return {"up": x, "down": -x if x > 0 else 1.0}

    result = sweep(train, metric=["up", "down"], mode=["max", "min"]).run(12)
    brute = [
        one.number
        for one in result.trials
        if not any(
            other.values[0] >= one.values[0] and other.values[1] <= one.values[1] and other.values != one.values
            for other in result.trials
        )
    ]
    assert [trial.number for trial in result.pareto_front] == brute


# ---------------------------------------------------------------- seed 004: custom strategies


class MyOptimizer(Optimizer):
    def suggest(self, n: int) -> list[Trial]:
        LOG.append("suggest")
        return [Trial({"x": len(LOG) / 1000}) for _ in range(n)]

    def observe(self, trial: Trial, result: float) -> None:
        LOG.append(result)


class MyScheduler(Scheduler):
    def should_stop(self, trial: Trial) -> bool:
        return trial.step >= 2

    def allocate_resources(self, trial: Trial) -> Resources:
        return Resources(cpus=1, time_limit=3600)


def test_custom_strategies_as_in_the_seed() -> None:
    experiment = SweepExperiment(square_reported, X, optimizer=MyOptimizer(), scheduler=MyScheduler())
    result = experiment.run(budget=3)
    assert [trial.step for trial in result.trials] == [2, 2, 2]
    assert all(trial.reason == "pruned" for trial in result.trials)
    assert sum(isinstance(one, Result) for one in LOG) == 3


def test_a_gpu_that_is_not_there_is_refused_not_waited_for() -> None:
    class Greedy(MyScheduler):
        def allocate_resources(self, trial: Trial) -> Resources:
            return Resources(gpus=64, time_limit=3600)

    with pytest.raises(PlacementError, match="64"):
        SweepExperiment(square, X, optimizer=RandomOptimizer(), scheduler=Greedy()).run(3)


# ---------------------------------------------------------------- results


def test_results(store_path: Path) -> None:
    result = sweep(learn, scheduler=ASHAScheduler(max_epochs=9)).run(9)
    frame = result.to_frame()
    assert list(frame["number"]) == list(range(9))
    assert {"x", "loss", "score", "status", "step", "cost"} <= set(frame.columns)
    text = result.summary()
    assert str(result.best_trial.number) in text
    assert "9 trials" in text
    assert "early stopping saved" in text
    assert "<pre>" in result._repr_html_()
    assert dict(result)["best_score"] == result.best_score
    assert json.dumps(dict(result))
    with pytest.raises(AttributeError, match="no 'best_scor'; did you mean 'best_score'"):
        _ = result.best_scor


@pytest.mark.anyio
async def test_pending_results() -> None:
    pending = sweep(square).run(2)
    with pytest.raises(NotAwaited):
        _ = pending.best_score
    with pytest.raises(NotAwaited):
        pending.summary()
    assert "pending" in pending._repr_html_()
    assert (await pending).best_score >= 0
    assert pending.best_score == (await pending).best_score


def test_finished_sweeps_extend_under_a_larger_budget_or_begin_anew(capsys: pytest.CaptureFixture[str]) -> None:
    first = sweep(square).run(3)
    same = sweep(square).run(3, resume="must")
    more = sweep(square).run(5, resume="must")
    assert [trial.params for trial in same.trials] == [trial.params for trial in first.trials]
    assert [trial.params for trial in more.trials[:3]] == [trial.params for trial in first.trials]
    assert (len(more.trials), more.path) == (5, "s")
    capsys.readouterr()
    assert sweep(square).run(2).path == "s#2"
    assert "has finished already (best" in capsys.readouterr().err


def test_another_sweep_of_that_name_is_told_apart(capsys: pytest.CaptureFixture[str], deaths: Deaths) -> None:
    deaths.run(lambda: sweep(square).run(5), at=6)
    with pytest.raises(ResumeRefused) as caught:
        sweep(square, mode="max").run(5, resume="must")
    assert any("'min' -> 'max'" in line for line in caught.value.diff)
    assert "init_from=" in str(caught.value)
    assert sweep(square, mode="max").run(2).path == "s#2"
    assert "init_from=" in capsys.readouterr().err


def test_budget_executor_and_workers_are_no_identity(deaths: Deaths) -> None:
    deaths.run(lambda: sweep(square).run(5), at=8)
    result = sweep(square, executor="thread", workers=2).run(7, resume="must")
    assert (result.path, len(result.trials)) == ("s", 7)


def test_the_seed_is_drawn_once(deaths: Deaths) -> None:
    deaths.run(lambda: sweep(square, seed=None).run(5), at=8)
    cut = rows_of("s")
    result = sweep(square, seed=None).run(5)
    assert [trial.params for trial in result.trials[: len(cut)]] == cut


def rows_of(name: str) -> list[dict[str, Any]]:
    from sweep.experiments.history import machine_of

    with open_store() as store:
        return [dict(trial.params) for trial in machine_of(store, find_run(store, name)).trials]


# ---------------------------------------------------------------- nesting


def test_a_sweep_in_a_trial_is_a_child_of_it(store_path: Path) -> None:
    def meta(depth: int) -> float:
        inner = SweepExperiment(lambda x: x * depth, {"x": Uniform(0, 1)}, optimizer=RandomOptimizer(), name="inner")
        return inner.run(2).best_score  # type: ignore[no-any-return]

    result = sweep(meta, {"depth": Integer(1, 3)}, name="meta").run(2)
    assert result.n_failed == 0
    query = "SELECT p.name || p.number FROM run r JOIN run p ON p.id=r.parent_id WHERE r.name='inner' ORDER BY r.id"
    assert rows(store_path, query) == [("trial0",), ("trial1",)]


def test_experiments_in_a_sweep_report_to_its_scheduler() -> None:
    class Learner(Experiment):
        x: float

        def pipeline(self) -> Pipeline:
            return Pipeline().stage("learn", self.learn).through(final=float)

        def learn(self, x: float, ctx: Context) -> float:
            for step in range(1, 10):
                ctx.report(step, loss=x + 1 / step)
            return x

    result = sweep(Learner, metric="loss", scheduler=MyScheduler()).run(2)
    assert [trial.step for trial in result.trials] == [2, 2]


def test_a_pipeline_objective_restores_its_finished_stages(deaths: Deaths, tmp_path: Path) -> None:
    def load() -> int:
        LOG.append("load")
        return 3

    def train(data: int, x: float) -> float:
        LOG.append("train")
        return data * x

    pipeline = Pipeline(x=float).stage("load", load).through(data=int).stage("train", train).through(loss=float)
    whole = sweep(pipeline, metric="loss").run(2, store=tmp_path / "w.db")
    for at in range(2, deaths.count):
        LOG.clear()
        store = tmp_path / f"{at}.db"
        deaths.run(lambda store=store: sweep(pipeline, metric="loss").run(2, store=store), at=at)
        done = rows(store, "SELECT count(*) FROM journal WHERE key='load'")[0][0]
        first = len(LOG)
        result = sweep(pipeline, metric="loss").run(2, store=store)
        assert [trial.score for trial in result.trials] == [trial.score for trial in whole.trials]
        assert LOG[first:].count("load") == 2 - done


# ---------------------------------------------------------------- killed and resumed


def facts(result: Any) -> list[tuple[Any, ...]]:
    return [
        (
            trial.number,
            json.dumps(trial.params, sort_keys=True),
            str(trial.status),
            str(trial.reason),
            None if trial.score is None or math.isnan(trial.score) else trial.score,
            trial.step,
            trial.history,
            trial.error,
        )
        for trial in result.trials
    ]


def objective(x: float, kind: str, ctx: Context) -> float:
    if kind == "bad":
        raise OSError("bad kind")
    start = ctx.load(0)
    for step in range(start + 1, 5):
        ctx.save(step)
        ctx.report(step, loss=x + 1 / step)
    return x


SPACE = {"x": Uniform(0, 1), "kind": Choice(["a", "b", "bad"])}
GRID = {"x": Choice([0.1, 0.2, 0.3]), "kind": Choice(["a", "b", "bad"])}


@pytest.mark.parametrize(
    ("optimizer", "space", "scheduler"),
    [
        (RandomOptimizer, SPACE, BatchScheduler),
        (GridOptimizer, GRID, BatchScheduler),
        (lambda: OptunaOptimizer(sampler="TPE", n_startup_trials=3), SPACE, BatchScheduler),
        (RandomOptimizer, SPACE, lambda: ASHAScheduler(max_epochs=4, reduction_factor=2)),
        (RandomOptimizer, SPACE, lambda: SynchronousBatchScheduler(batch_size=3)),
        (Remembers, {"x": Uniform(0, 1)}, MyScheduler),
        (RandomOptimizer, SPACE, lambda: PBTScheduler(population_size=4, num_generations=3)),
    ],
    ids=["random", "grid", "tpe", "asha", "synchronous", "two methods", "pbt"],
)
def test_killed_at_any_commit_the_trials_are_the_same(
    optimizer: Callable[[], Any], space: Any, scheduler: Callable[[], Any], deaths: Deaths, tmp_path: Path
) -> None:
    budget = None if optimizer is GridOptimizer else 8

    def run(store: Path) -> Any:
        what = objective if "kind" in space else square_reported
        return sweep(what, space, optimizer=optimizer(), scheduler=scheduler(), retries=1).run(budget, store=store)

    whole = run(tmp_path / "whole.db")
    total = deaths.count
    assert len(whole.trials) >= 6
    for at in [*range(2, 10), *range(10, total + 1, 4)]:
        store = tmp_path / f"{at}.db"
        assert isinstance(deaths.run(lambda store=store: run(store), at=at), Killed), at
        again = run(store)
        assert facts(again) == facts(whole), at
        assert again.best_trial.number == whole.best_trial.number
        assert again.path == "s"
        assert not rows(store, "SELECT 1 FROM run WHERE status IN ('running', 'interrupted', 'pending')")


# ---------------------------------------------------------------- runs inside trials


def test_runs_inside_a_trial_report_to_its_scheduler() -> None:
    inner = Pipeline(x=float).stage("learn", learn_in_a_stage).through(y=float)

    def bare(x: float) -> float:
        return inner.run(x=x).y  # type: ignore[no-any-return]

    def named(x: float) -> float:
        return inner.run(x=x, name="inner").y  # type: ignore[no-any-return]

    nested = Pipeline(x=float).stage("inner", inner).through(y=float)
    for number, what in enumerate([bare, named, nested]):
        result = sweep(what, scheduler=MyScheduler(), metric="loss", name=f"s{number}").run(2)
        assert [trial.step for trial in result.trials] == [2, 2], number
        assert {trial.reason for trial in result.trials} == {"pruned"}


def learn_in_a_stage(x: float, ctx: Context) -> float:
    for step in range(1, 10):
        ctx.report(step, loss=x + 1 / step)
    return x


def test_a_stage_of_a_trial_that_starts_runs_takes_no_second_slot() -> None:
    def outer(x: float) -> float:
        inside = Pipeline(x=float).stage("leaf", lambda x: x + 1).through(y=float).run(x=x).y
        return inside + SquareExperiment(x=x).run().value  # type: ignore[no-any-return]

    pipeline = Pipeline(x=float).stage("outer", outer).through(loss=float)
    result = sweep(pipeline).run(Budget(trials=2, seconds=20))
    assert [trial.score for trial in result.trials] == pytest.approx(
        [t.params["x"] + 1 + t.params["x"] ** 2 for t in result.trials]
    )


def test_a_sweep_inside_a_sweep_needs_a_space_of_its_own() -> None:
    with pytest.raises(ContractError, match="'x' is in its own space and in the outer one"):
        sweep(sweep(square)).check()


# ---------------------------------------------------------------- children that die in every way


def die(kind: str, ctx: Context) -> float:
    if kind == "raise":
        raise ValueError("boom")
    if kind == "signal":
        os.kill(os.getpid(), signal.SIGSEGV)
    if kind == "exit":
        sys.exit(3)
    if kind == "_exit":
        os._exit(7)
    if kind == "hang":
        ctypes.CDLL(None).sleep(60)
    if kind == "nan":
        ctx.report(1, loss=math.nan)
        return math.nan
    if kind == "inf":
        return -math.inf
    print("words of the trial")
    return 1.0


def test_every_way_to_die_is_named_and_none_ends_the_sweep_or_wins_it(store_path: Path) -> None:
    kinds = ["raise", "signal", "exit", "_exit", "hang", "nan", "inf", "fine"]
    result = sweep(
        die,
        {"kind": Choice(kinds)},
        optimizer=GridOptimizer(),
        executor="process",
        workers=2,
        resources=Resources(time_limit=0.7),
    ).run()
    told = {trial.params["kind"]: trial for trial in result.trials}
    assert set(told) == set(kinds)
    assert result.best_params == {"kind": "fine"}
    words = {
        "raise": "ValueError: boom",
        "signal": "SIGSEGV",
        "exit": "sys.exit(3)",
        "_exit": "code 7",
        "hang": "time limit",
    }
    for kind, text in words.items():
        assert told[kind].status is Status.FAILED
        assert text in str(told[kind].error)
    assert (told["hang"].reason, told["raise"].reason) == ("timeout", "error")
    assert told["nan"].status is told["inf"].status is Status.COMPLETED
    kept = [
        path
        for path in store_path.with_name("sweep.db.d").rglob("stdout.log")
        if "words of the trial" in path.read_text()
    ]
    assert len(kept) == 1
    assert not rows(store_path, "SELECT 1 FROM run WHERE status='running'")


def test_an_objective_that_cannot_travel_is_named_before_anything_runs(store_path: Path) -> None:
    lock = threading.Lock()

    def train(x: float) -> float:
        with lock:
            return x

    with pytest.raises(ContractError, match="'lock'"):
        sweep(train, executor="process").run(2)


def test_a_full_disk_ends_a_sweep_with_its_work_kept(store_path: Path) -> None:
    def train(x: float) -> dict[str, float]:
        return {f"metric{number}": x for number in range(400)}

    def run() -> Any:
        return sweep(train, metric="metric0").run(60)

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, hard))
    try:
        with pytest.raises(StoreUnwritable, match="what was finished before is kept"):
            run()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    done = rows(store_path, "SELECT number, score FROM run WHERE level='trial' AND status='completed' ORDER BY number")
    assert 0 < len(done) < 60
    result = run()
    assert result.path == "s"
    assert [(trial.number, trial.score) for trial in result.trials[: len(done)]] == done
    assert len(result.trials) == 60


def test_changed_code_of_the_objective_is_said_and_finished_trials_keep_their_results(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def version(text: str) -> Any:
        path = tmp_path / "objective.py"
        path.write_text(text, encoding="utf-8")
        names: dict[str, Any] = {}
        exec(compile(text, str(path), "exec"), names)  # noqa: S102  # a module as an editor would leave it
        return names["train"]

    def swept(function: Any, budget: int) -> Any:
        sweep = SweepExperiment(function, {"x": Uniform(0, 1)}, optimizer=RandomOptimizer(), name="s", seed=1)
        return sweep.run(budget, store=tmp_path / "s.db", resume="auto" if budget == 3 else "must")

    first = swept(version("def train(x):\n    return x\n"), 3)
    again = swept(version("def train(x):\n    # a comment\n    return x\n"), 4)
    assert "code has changed" not in capsys.readouterr().err
    last = swept(version("def train(x):\n    return 2 * x\n"), 5)
    assert "code has changed" in capsys.readouterr().err
    assert [trial.score for trial in last.trials[:4]] == [trial.score for trial in again.trials]
    assert [trial.score for trial in again.trials[:3]] == [trial.score for trial in first.trials]
    assert last.trials[4].score == 2 * last.trials[4].params["x"]


def test_a_parameter_named_like_a_column_has_its_own(tmp_path: Path) -> None:
    sweep = SweepExperiment(
        lambda step, y: step + y, {"step": Uniform(0, 1), "y": Uniform(0, 1)}, optimizer=RandomOptimizer(), name="s"
    )
    frame = sweep.run(3, store=tmp_path / "s.db").to_frame()
    assert list(frame["step"]) == [0, 0, 0]
    assert frame["params.step"].between(0, 1).all()
