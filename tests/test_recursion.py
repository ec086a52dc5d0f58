"""Experiments inside experiments: one tree, one pool of slots, one budget, true statuses, nothing finished repeated."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from sweep import (
    Budget,
    Choice,
    Context,
    Experiment,
    Integer,
    MetaExperiment,
    Ordinal,
    Pipeline,
    RunResult,
    SweepExperiment,
    SweepResult,
    Trial,
    Uniform,
)
from sweep.errors import ContractError, NoResult
from sweep.executors import ThreadExecutor
from sweep.experiments import ValidationExperiment
from sweep.optimizers import AxOptimizer, GridOptimizer, RandomOptimizer
from sweep.schedulers import ASHAScheduler, MedianStoppingScheduler, PBTScheduler
from sweep.turns import holding, lending


def rows(path: Path, query: str = "SELECT level, name, status, reason FROM run ORDER BY id") -> list[tuple[Any, ...]]:
    with sqlite3.connect(path) as connection:
        return connection.execute(query).fetchall()


def tree(path: Path) -> list[str]:
    """The paths of all runs that are no trials, and of those trials that have runs below them."""
    found = {
        number: (parent, stage, f"{name}[{n}]" if level == "trial" else name if n == 1 else f"{name}#{n}")
        for number, parent, stage, level, name, n in rows(
            path, "SELECT id, parent_id, stage, level, name, number FROM run ORDER BY id"
        )
    }

    def path_of(number: int) -> str:
        parent, stage, name = found[number]
        own = f"{stage}/{name}" if stage else name
        return f"{path_of(parent)}/{own}" if parent else own

    return [path_of(number) for number, (_, _, name) in found.items() if not name.startswith("trial[")]


# ---------------------------------------------------------------- the tree


def square(x: float) -> float:
    return x * x


def grid(name: str, *values: float) -> dict[str, Any]:
    return {name: Ordinal(list(values))}


class Level1(Experiment):
    """Depth 4: this, a sweep as its stage, an experiment as that one's objective, a sweep awaited inside."""

    def pipeline(self) -> Pipeline:
        middle = SweepExperiment(Level3, grid("scale", 1, 2), optimizer=GridOptimizer(), name="middle")
        return Pipeline().stage("search", middle).through(found=dict)


class Level3(Experiment):
    scale: float

    def pipeline(self) -> Pipeline:
        return Pipeline().stage("tune", self.tune).through(score=float)

    async def tune(self, scale: float) -> float:
        inner = SweepExperiment(square, grid("x", scale, 3), optimizer=GridOptimizer(), name="inner")
        return (await inner.run()).best_score


def test_four_levels_make_one_tree_with_structural_paths(store_path: Path) -> None:
    result = Level1().run()
    assert result.state.found["best_params"] == {"scale": 1}
    assert tree(store_path) == [
        "Level1",
        "Level1/search/middle",
        "Level1/search/middle/trial[0]/Level3",
        "Level1/search/middle/trial[0]/Level3/tune/inner",
        "Level1/search/middle/trial[1]/Level3",
        "Level1/search/middle/trial[1]/Level3/tune/inner",
    ]
    assert {row[2] for row in rows(store_path)} == {"completed"}


def asks_for_sweep(x: float) -> float:
    """A plain function that runs a sweep, from a worker thread."""
    return SweepExperiment(lambda y: x + y, grid("y", 1, 2), optimizer=GridOptimizer(), name="below").run().best_score


async def awaits_sweep(x: float) -> float:
    sweep = SweepExperiment(lambda y: x + y, grid("y", 1, 2), optimizer=GridOptimizer(), name="below")
    return (await sweep.run()).best_score


@pytest.mark.parametrize("objective", [asks_for_sweep, awaits_sweep])
@pytest.mark.parametrize("executor", ["inline", "thread", ThreadExecutor(1)])
def test_an_objective_that_runs_a_sweep_lends_its_slot(objective: Any, executor: Any, store_path: Path) -> None:
    """On one slot, with one thread: whoever held on to either would wait for itself."""
    sweep = SweepExperiment(objective, grid("x", 1, 2, 3), optimizer=GridOptimizer(), executor=executor, name="above")
    assert [trial.score for trial in sweep.run(Budget(seconds=10)).trials] == [2, 3, 4]  # a deadlock ends by the budget
    assert tree(store_path) == ["above", *(f"above/trial[{n}]/below" for n in range(3))]


def test_a_sweep_as_an_objective_finds_the_best_for_each_trial_of_the_outer_one(store_path: Path) -> None:
    inner = SweepExperiment(lambda x, a: (x - a) ** 2 + a, grid("x", 0, 1, 2), optimizer=GridOptimizer(), name="inner")
    result = SweepExperiment(inner, grid("a", 1, 2, 5), optimizer=GridOptimizer(), name="outer").run()
    truth = [min((x - a) ** 2 + a for x in (0, 1, 2)) for a in (1, 2, 5)]
    assert [trial.score for trial in result.trials] == truth
    assert len(rows(store_path)) == 1 + 3 * (1 + 1 + 3)
    with pytest.raises(ContractError, match="in its own space and in the outer one"):
        SweepExperiment(inner, grid("x", 1), optimizer=GridOptimizer()).check()


def test_an_instance_as_an_objective_runs_anew_for_each_trial() -> None:
    """Stateful strategies of an inner sweep are copied: each run begins with them as they were given."""

    optimizer = GridOptimizer()

    class Inner(Experiment):
        def pipeline(self) -> Pipeline:
            sweep = SweepExperiment(square, grid("x", 1, 2), optimizer=optimizer, name="inner")
            return (
                Pipeline(bias=float)
                .stage("s", sweep)
                .through(s=dict)
                .stage("add", lambda s, bias: s["n_trials"] + bias)
                .through(v=float)
            )

    result = SweepExperiment(
        Inner(), {"bias": Ordinal([0.5, 1.5])}, optimizer=GridOptimizer(), workers=2, metric="v"
    ).run()
    assert [trial.score for trial in result.trials] == [2.5, 3.5]


def test_a_sweep_in_a_pipeline_that_is_not_kept_is_an_error_that_says_what_to_do() -> None:
    async def stage() -> float:
        return (await SweepExperiment(square, grid("x", 1), optimizer=GridOptimizer()).run()).best_score

    with pytest.raises(ContractError, match=r"run that pipeline under a name, run\(name=…\)"):
        Pipeline().stage("s", stage).through(s=float).run()
    assert Pipeline().stage("s", stage).through(s=float).run(name="kept").s == 1


# ---------------------------------------------------------------- slots


class Gauge:
    """How many leaf calls are at work, and the most there were."""

    def __init__(self) -> None:
        self.now = self.most = self.calls = 0
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        with self._lock:
            self.now, self.calls = self.now + 1, self.calls + 1
            self.most = max(self.most, self.now)

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self.now -= 1


@pytest.mark.parametrize("slots", [1, 4])
@pytest.mark.parametrize("kind", ["async", "thread"])
def test_four_by_four_trials_finish_on_the_slots_of_the_tree(slots: int, kind: str) -> None:
    """The first leaves wait for one another until every slot is taken: so many work at once, and never more."""
    gauge, met = Gauge(), threading.Event()

    def full() -> bool:
        if gauge.now == slots:
            met.set()
        return met.is_set()

    async def leaf(x: float, y: float) -> float:
        with gauge:
            while not full():
                await anyio.sleep(0.001)
            await anyio.sleep(0.002)  # others that should not be here have the time to come
        return x + y

    def sync_leaf(x: float, y: float) -> float:
        with gauge:
            full()
            met.wait(10)
            time.sleep(0.002)
        return x + y

    what, executor = (leaf, "inline") if kind == "async" else (sync_leaf, "thread")
    inner = SweepExperiment(
        what, grid("x", 0, 1, 2, 3), optimizer=GridOptimizer(), workers=4, executor=executor, name="in"
    )
    outer = SweepExperiment(inner, grid("y", 0, 1, 2, 3), optimizer=GridOptimizer(), workers=slots, name="out")
    assert [trial.score for trial in outer.run(Budget(seconds=30)).trials] == [0, 1, 2, 3]
    assert gauge.calls == 16
    assert gauge.most == slots


def test_executors_named_alike_are_one_for_the_tree() -> None:
    """``inline`` has one thread; twenty sweeps side by side do not make it twenty."""
    gauge = Gauge()

    def leaf(x: float, y: int) -> float:
        with gauge:
            time.sleep(0.001)
        return x + y

    inner = SweepExperiment(leaf, grid("x", 0, 1), optimizer=GridOptimizer(), name="in")
    SweepExperiment(inner, {"y": Integer(0, 7)}, optimizer=GridOptimizer(), workers=8, name="out").run()
    assert (gauge.calls, gauge.most) == (16, 1)


@pytest.mark.anyio
async def test_what_is_lent_is_taken_again_and_given_back_once() -> None:
    slots = anyio.Semaphore(1)

    async def other() -> None:
        async with slots:
            await anyio.lowlevel.checkpoint()

    async with holding(lambda: slots):
        async with lending(), lending(), anyio.create_task_group() as tasks:
            tasks.start_soon(other)
        assert slots.value == 0
    assert slots.value == 1


@pytest.mark.anyio
async def test_a_borrower_that_is_cancelled_leaves_nothing_held() -> None:
    slots = anyio.Semaphore(1)
    with anyio.CancelScope() as scope:
        async with holding(lambda: slots), lending():
            scope.cancel()
            await anyio.sleep(1)
    assert scope.cancelled_caught
    assert slots.value == 1


# ---------------------------------------------------------------- budgets


def priced(x: float, ctx: Context) -> float:
    ctx.report(1, loss=x, cost=2.0)
    return x


class Phases(Experiment):
    """Two sweeps, one after the other."""

    def pipeline(self) -> Pipeline:
        return Pipeline().stage("a", self.a).through(a=dict).stage("b", self.b).through(b=dict)

    async def a(self) -> SweepResult:
        return await SweepExperiment(
            priced, {"x": Uniform(0, 1)}, optimizer=RandomOptimizer(), metric="loss", name="first"
        ).run(6)

    async def b(self) -> SweepResult:
        return await SweepExperiment(
            priced, {"x": Uniform(0, 1)}, optimizer=RandomOptimizer(), metric="loss", name="second"
        ).run()


@pytest.mark.parametrize(
    ("budget", "trials"),
    [
        (10, (6, 4)),
        (Budget(trials=4), (4, 0)),
        (Budget(cost=15), (6, 2)),
        (Budget(cost=8), (4, 0)),
        (Budget(resource=9), (6, 3)),
    ],
)
def test_an_experiments_budget_limits_the_sweeps_inside_together(
    budget: Any, trials: tuple[int, int], capsys: pytest.CaptureFixture[str]
) -> None:
    result = Phases().run(budget=budget)
    assert "no budget given: 100 trials, or what 'Phases' has left" in capsys.readouterr().err
    assert (result.state.a["n_trials"], result.state.b["n_trials"]) == trials
    assert result.cost == 2 * sum(trials)


def test_a_sweep_that_finds_nothing_left_says_whose_budget_is_spent() -> None:
    class After(Phases):
        async def b(self) -> SweepResult:
            result = await super().b()
            with pytest.raises(NoResult, match="the budget of 'After' is spent: trials"):
                _ = result.best_score
            return result

    After().run(budget=3)


def test_an_outer_sweeps_cost_limits_those_inside_its_trials(store_path: Path) -> None:
    """Each inner trial costs 2: of 100 that an inner sweep would make, the outer budget allows 5 in all."""
    inner = SweepExperiment(
        lambda x, y, ctx: priced(x + y, ctx),
        {"x": Uniform(0, 1)},
        optimizer=RandomOptimizer(),
        metric="loss",
        name="inner",
    )
    result = SweepExperiment(inner, grid("y", 1, 2, 3), optimizer=GridOptimizer(), name="outer").run(Budget(cost=10))
    assert result.cost == 10
    assert len(result.trials) == 1
    [(status, reason, count)] = rows(
        store_path, "SELECT status, reason, json_extract(result, '$.n_trials') FROM run WHERE name='inner'"
    )
    assert (status, reason, count) == ("completed", "budget", 5)
    [(text,)] = rows(
        store_path,
        "SELECT json_extract(value, '$.text') FROM journal JOIN run ON run.id=run_id WHERE kind='finished' AND name='inner'",
    )
    assert text == "the budget is spent: cost=10", "it knew its limit, and began nothing beyond it"


def test_inner_trials_are_not_counted_as_the_outer_ones() -> None:
    inner = SweepExperiment(lambda x, y: x + y, grid("x", 1, 2, 3), optimizer=GridOptimizer(), name="inner")
    assert len(SweepExperiment(inner, grid("y", 1, 2, 3), optimizer=GridOptimizer(), name="outer").run(3).trials) == 3


def test_parallel_sweeps_share_what_is_left() -> None:
    """Four sweeps side by side spend no more than one trial each beyond what they have together."""

    async def slow(x: float, y: float, ctx: Context) -> float:
        await anyio.sleep(0.001)
        ctx.report(1, loss=x, cost=1.0)
        return x

    inner = SweepExperiment(slow, {"x": Uniform(0, 1)}, optimizer=RandomOptimizer(), metric="loss", name="inner")
    outer = SweepExperiment(inner, grid("y", 1, 2, 3, 4), optimizer=GridOptimizer(), workers=4, name="outer")
    result = outer.run(Budget(cost=20))
    assert 20 <= result.cost < 23.5  # 23 whole trials at most; one cut before it reports counts its milliseconds
    assert [trial.status for trial in result.trials] == ["completed"] * 4


def test_seconds_of_an_experiment_end_the_sweep_inside() -> None:
    class Timed(Experiment):
        def pipeline(self) -> Pipeline:
            return Pipeline().stage("s", self.s).through(s=dict)

        async def s(self) -> SweepResult:
            async def nap(x: float) -> float:
                await anyio.sleep(0.01)
                return x

            return await SweepExperiment(nap, {"x": Uniform(0, 1)}, optimizer=RandomOptimizer(), name="naps").run(
                10_000
            )

    began = time.monotonic()
    result = Timed().run(budget=Budget(seconds=0.6))
    assert time.monotonic() - began < 5
    assert 1 < result.state.s["n_trials"] < 200


# ---------------------------------------------------------------- rolling up


def test_costs_counts_and_the_best_reach_every_ancestor(store_path: Path) -> None:
    class Failing(Experiment):
        y: float

        def pipeline(self) -> Pipeline:
            return Pipeline().stage("s", self.s).through(best=float)

        async def s(self, y: float) -> float:
            def leaf(x: float, ctx: Context) -> float:
                if x == 3:
                    raise ValueError("three")
                ctx.report(1, loss=x + y, cost=5.0)
                return x + y

            return (
                await SweepExperiment(
                    leaf, grid("x", 1, 2, 3), optimizer=GridOptimizer(), metric="loss", name="in"
                ).run()
            ).best_score

    class Top(Experiment):
        def pipeline(self) -> Pipeline:
            return Pipeline().stage(
                "s", SweepExperiment(Failing, grid("y", 1, 2), optimizer=GridOptimizer(), name="mid")
            )

    result = Top().run()
    found = {
        name: (score, cost, json.loads(text or "{}").get("counts"))
        for name, score, cost, text in rows(
            store_path, "SELECT name, score, cost, result FROM run WHERE level!='trial'"
        )
    }
    assert found["Top"][0] == found["mid"][0] == 2
    assert found["Top"][1] == found["mid"][1] == pytest.approx(20, abs=0.5)
    assert found["Top"][2] == {"completed": 6, "failed": 2}
    assert found["Failing"][2] == {"completed": 2, "failed": 1}
    assert result.cost == found["Top"][1]
    for (cost,) in rows(store_path, "SELECT cost FROM run WHERE level='trial' AND params LIKE '%y%'"):
        assert cost == pytest.approx(10, abs=0.5)


# ---------------------------------------------------------------- statuses


def test_a_level_that_fails_is_told_truly_above_and_below(store_path: Path) -> None:
    class Breaks(Experiment):
        y: float

        def pipeline(self) -> Pipeline:
            return (
                Pipeline()
                .stage("s", SweepExperiment(square, grid("x", 1, 2), optimizer=GridOptimizer(), name="fine"))
                .stage("boom", self.boom)
            )

        def boom(self) -> None:
            raise RuntimeError("boom")

    result = SweepExperiment(
        Breaks, grid("y", 1, 2), optimizer=GridOptimizer(), metric="best_score", name="outer"
    ).run()
    assert [trial.status for trial in result.trials] == ["failed", "failed"]
    assert Counter(row[:3] for row in rows(store_path)) == {
        ("sweep", "outer", "failed"): 1, ("trial", "trial", "failed"): 2, ("experiment", "Breaks", "failed"): 2,
        ("sweep", "fine", "completed"): 2, ("trial", "trial", "completed"): 4,
    }  # fmt: skip


async def waits(x: float, y: float) -> float:
    await anyio.sleep(60)
    return x + y


def waiting(**options: Any) -> SweepExperiment:
    inner = SweepExperiment(waits, grid("x", 1, 2), optimizer=GridOptimizer(), workers=2, name="inner")
    return SweepExperiment(inner, grid("y", 1, 2), optimizer=GridOptimizer(), workers=2, name="outer", **options)


@pytest.mark.anyio
async def test_cancelling_the_outermost_reaches_all_levels(store_path: Path) -> None:
    began = time.monotonic()
    with anyio.move_on_after(0.3):
        await waiting().run()
    assert time.monotonic() - began < 2.3
    assert {(level, status) for level, _, status, _ in rows(store_path)} == {
        ("sweep", "interrupted"),
        ("trial", "interrupted"),
    }


def test_a_timeout_of_a_stage_reaches_the_levels_below_it(store_path: Path) -> None:
    class Limited(Experiment):
        def pipeline(self) -> Pipeline:
            return Pipeline().stage("s", waiting()).through(s=dict, timeout=0.3)

    began = time.monotonic()
    with pytest.raises(TimeoutError):
        Limited().run()
    assert time.monotonic() - began < 2.3
    assert {row[0]: row[2:] for row in rows(store_path)} == {
        "experiment": ("failed", "error"), "sweep": ("interrupted", "parent"), "trial": ("interrupted", None),
    }  # fmt: skip


def test_an_outer_trial_that_is_stopped_stops_what_is_inside(store_path: Path) -> None:
    """As ``sweep stop outer/trial[0]`` from another terminal does."""

    def ask(path: Path) -> None:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            time.sleep(0.02)
            with suppress(sqlite3.OperationalError), sqlite3.connect(path) as store:
                if store.execute("SELECT COUNT(*) FROM run WHERE level='trial'").fetchone()[0] == 6:
                    store.execute("INSERT INTO tag(run_id, name, value) VALUES (1, 'request:stop', '')")
                    return

    asker = threading.Thread(target=ask, args=(store_path,))
    asker.start()
    result = waiting().run()
    asker.join()
    assert (result.status, result.reason) == ("stopped", "user")
    found = Counter((row[0], row[2], row[3]) for row in rows(store_path))
    assert found[("trial", "stopped", "user")] == 2
    assert found[("sweep", "interrupted", "parent")] == 2
    assert found[("trial", "interrupted", None)] == 4


# ---------------------------------------------------------------- MetaExperiment


def epochs(lr: float, ctx: Context) -> None:
    for step in range(1, 10):
        ctx.report(step, loss=(lr - 0.3) ** 2 + 1 / step)


FIXED = {"objective": epochs, "search_space": {"lr": Uniform(0, 1)}, "metric": "loss", "optimizer": RandomOptimizer}


def test_a_meta_sweep_gives_each_trial_its_own_experiment(store_path: Path) -> None:
    space = {"scheduler.reduction_factor": Ordinal([2, 3]), "seed": Ordinal([1, 2])}
    meta = MetaExperiment(
        SweepExperiment,
        space,
        optimizer=GridOptimizer(),
        fixed={**FIXED, "scheduler": ASHAScheduler(max_epochs=9)},
        budget=4,
    )
    result = meta.run()
    assert len(result.trials) == 4
    seen = rows(store_path, "SELECT identity FROM run WHERE name='SweepExperiment' ORDER BY id")
    for trial, (identity,) in zip(result.trials, seen, strict=True):
        told = json.loads(identity)
        assert (
            told["scheduler"]["ASHAScheduler"].get("reduction_factor", 3) == trial.params["scheduler.reduction_factor"]
        )
        assert told["scheduler"]["ASHAScheduler"]["max_epochs"] == 9
        assert told["seed"] == trial.params["seed"]
    direct = SweepExperiment(
        **{**FIXED, "optimizer": RandomOptimizer()}, scheduler=ASHAScheduler(9, 2), seed=1, name="direct"
    ).run(4)
    assert (
        next(t.score for t in result.trials if t.params == {"scheduler.reduction_factor": 2, "seed": 1})
        == direct.best_score
    )


def test_without_a_space_what_the_strategies_call_tunable_is_searched() -> None:
    meta = MetaExperiment(
        SweepExperiment, optimizer=PBTScheduler(4, 2), fixed={**FIXED, "scheduler": ASHAScheduler(9)}, budget=3
    )
    assert set(meta.space()) == {f"scheduler.{name}" for name in ASHAScheduler.TUNABLE}
    assert len(meta.run().trials) == 5  # four members, and one that took over from the best
    assert set(MetaExperiment(SweepExperiment, optimizer=PBTScheduler()).space()) == {"optimizer.n_initial"}


@pytest.mark.parametrize(
    ("space", "fixed", "told"),
    [
        ({"optimizer.acquisitoin": Choice(["EI"])}, {"optimizer": AxOptimizer}, "did you mean 'acquisition'"),
        ({"optimiser.acquisition": Choice(["EI"])}, {}, "did you mean 'optimizer'"),
        ({"scheduler.reduction_factor": Ordinal([2])}, {}, r"another scheduler: fixed=\{'scheduler'"),
        ({"executor.workers": Ordinal([2])}, {}, "an argument of what"),
        ({"seed": Ordinal([1])}, {"seed": 3}, "in the space and in fixed"),
        ({"optimizer": Choice(["RandomOptimiser"])}, {}, "did you mean 'RandomOptimizer'"),
        ({"repeats": Ordinal([0])}, {}, "expected a whole number >= 1"),
        ({"seed": Ordinal([1])}, {"search_space": {"learning_rate": Uniform(0, 1)}}, "'learning_rate'"),
    ],
)
def test_what_does_not_fit_the_base_is_known_before_anything_runs(
    space: Any, fixed: Any, told: str, store_path: Path
) -> None:
    with pytest.raises(ContractError, match=told):
        both = {name: value for name, value in {**FIXED, **fixed}.items() if name in fixed or name not in space}
        MetaExperiment(SweepExperiment, space, optimizer=RandomOptimizer(), fixed=both).run()
    assert not store_path.exists()


def test_strategies_may_be_chosen_by_name_and_experiments_by_their_fields() -> None:
    names = Choice(["RandomOptimizer", "SobolOptimizer"])
    fixed = {"objective": square, "search_space": {"x": Uniform(0, 1)}}
    meta = MetaExperiment(SweepExperiment, {"optimizer": names}, optimizer=GridOptimizer(), fixed=fixed, budget=3)
    assert len(meta.run().trials) == 2

    class Area(Experiment):
        width: float
        height: float = 2.0

        def pipeline(self) -> Pipeline:
            return Pipeline().stage("area", lambda width, height: width * height).through(area=float)

    meta = MetaExperiment(Area, grid("width", 1, 3), optimizer=GridOptimizer(), score="area", mode="max", name="areas")
    assert meta.run().best_params == {"width": 3}
    assert (
        MetaExperiment(Area, grid("width", 1), optimizer=GridOptimizer(), score=lambda r: -r.value, name="f")
        .run()
        .best_score
        == -2
    )


def test_a_base_without_objective_takes_the_train_method_of_the_experiment_around_it() -> None:
    class Around(Experiment):
        def pipeline(self) -> Pipeline:
            return Pipeline().stage("meta", self.meta).through(best=float)

        def train(self, x: float) -> float:
            return x + 10

        async def meta(self) -> float:
            space = {"optimizer": Choice(["RandomOptimizer", "SobolOptimizer"])}
            meta = MetaExperiment(
                SweepExperiment, space, optimizer=GridOptimizer(), fixed={"search_space": grid("x", 1)}, budget=2
            )
            return (await meta.run()).best_score

    assert Around().run().value == 11


def test_median_stopping_and_others_are_rebuilt_from_instances_with_what_they_were_given() -> None:
    meta = MetaExperiment(
        SweepExperiment, {"scheduler.min_samples": Ordinal([2, 4])}, optimizer=GridOptimizer(),
        fixed={**FIXED, "scheduler": MedianStoppingScheduler(grace_period=3)}, budget=2,
    )  # fmt: skip
    built: Any = meta._base.build({"scheduler.min_samples": 4})
    assert (built.scheduler.grace_period, built.scheduler.min_samples) == (3, 4)


# ---------------------------------------------------------------- phases


class HandsOver(Experiment):
    def pipeline(self) -> Pipeline:
        return (
            Pipeline()
            .stage("explore", self.explore)
            .through(exploration_results=list[Trial])
            .stage("model", self.model)
            .through(told=list[Trial], init_from="exploration_results")
        )

    async def explore(self) -> list[Trial]:
        return (
            await SweepExperiment(square, {"x": Uniform(-1, 1)}, optimizer=RandomOptimizer(), name="a").run(5)
        ).trials

    async def model(self, init_from: list[Trial], ctx: Context) -> list[Trial]:
        class Listens(RandomOptimizer):
            def restore(self, trials: Any) -> None:
                heard.extend(trials)
                super().restore(trials)

        heard: list[Trial] = []
        sweep = SweepExperiment(square, {"x": Uniform(-1, 1)}, optimizer=Listens(), init_from=init_from, name="b")
        await sweep.run(2)
        assert [trial.score for trial in heard] == [trial.score for trial in init_from]
        return list(init_from)


def test_phases_hand_their_trials_over() -> None:
    state = HandsOver().run().state
    assert [(t.params, t.score) for t in state.told] == [(t.params, t.score) for t in state.exploration_results]
    assert len(state.told) == 5


def test_validation_ranks_by_the_mean_of_fresh_seeds_with_its_standard_error() -> None:
    candidates = [
        Trial({"x": x}, score=score) for x, score in ((1.0, 0.0), (0.2, 0.1), (0.1, 0.2), (5.0, 9.0), (1.0, 3.0))
    ]

    def noisy(x: float, ctx: Context) -> float:
        return x + ctx.rng.gauss(0, 0.01)

    sweep = ValidationExperiment(noisy, candidates, {"x": Uniform(0, 9)}, k=3, n_seeds=6)
    ranking = ValidationExperiment.ranking(sweep.run())
    assert [one.params["x"] for one in ranking] == [0.1, 0.2, 1.0]  # the lucky one was not the best
    for one in ranking:
        assert len(set(one.scores)) == 6
        mean = sum(one.scores) / 6
        deviation = math.sqrt(sum((score - mean) ** 2 for score in one.scores) / 5)
        assert (one.mean, one.error) == (pytest.approx(mean), pytest.approx(deviation / math.sqrt(6)))


# ---------------------------------------------------------------- kill -9


PROGRAM = """
import os, sys, time
from sweep import Experiment, Ordinal, Pipeline, SweepExperiment
from sweep.optimizers import GridOptimizer, RandomOptimizer
from sweep import Uniform

def note(*words):
    with open(os.environ["LOG"], "a") as file:
        file.write(" ".join(map(str, words)) + "\\n")

def leaf(x, scale):
    note("start", scale, x)
    time.sleep(0.004)
    note("end", scale, x)
    return (x - 0.5) ** 2 + scale

class Inner(Experiment):
    scale: int
    def pipeline(self):
        return (Pipeline().stage("prepare", self.prepare).through(ready=bool)
                .stage("tune", self.tune).through(score=float))
    def prepare(self, scale):
        note("prepare", scale)
        return True
    async def tune(self, scale):
        sweep = SweepExperiment(lambda x: leaf(x, scale), {"x": Uniform(0, 1)}, optimizer=RandomOptimizer(), name="deep")
        return (await sweep.run(5)).best_score

class Outer(Experiment):
    def pipeline(self):
        return Pipeline().stage("search", SweepExperiment(
            Inner, {"scale": Ordinal([1, 2, 3, 4])}, optimizer=GridOptimizer(), seed=7, name="middle",
            workers=int(os.environ["WORKERS"]))).through(found=dict)

if __name__ == "__main__":
    result = Outer().run()
    print(result.state.found["best_score"], result.cost > 0)
"""


def begin(program: Path, log: Path, store: Path, workers: int) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "LOG": str(log),
        "SWEEP_STORE": str(store),
        "WORKERS": str(workers),
        "SWEEP_QUIET": "1",
    }
    return subprocess.Popen(
        [sys.executable, str(program)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize(("seed", "workers"), [(1, 1), (2, 3)])
def test_three_levels_killed_at_any_instant_repeat_nothing_that_was_finished(
    seed: int, workers: int, tmp_path: Path
) -> None:
    """The count is kept outside of the store: a leaf may begin again, but what was finished and committed may not."""
    rng = random.Random(seed)
    program, log, store = tmp_path / "program.py", tmp_path / "log.txt", tmp_path / "s.db"
    program.write_text(PROGRAM)
    log.touch()
    kills = 0
    while True:
        process = begin(program, log, store, workers)
        before = len(log.read_text().splitlines())
        target = before + rng.randrange(2, 14)
        deadline = time.monotonic() + 20
        while process.poll() is None and time.monotonic() < deadline and kills < 4:
            if len(log.read_text().splitlines()) >= target:
                time.sleep(rng.random() * 0.01)
                process.send_signal(signal.SIGKILL)
                kills += 1
                break
            time.sleep(0.001)
        out, err = process.communicate(timeout=30)
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, err
    assert kills == 4
    words = [line.split() for line in log.read_text().splitlines()]
    ends = Counter(tuple(line[1:]) for line in words if line[0] == "end")
    starts = Counter(tuple(line[1:]) for line in words if line[0] == "start")
    assert len(ends) == 20, "every trial of every inner sweep was finished, and no other"
    assert set(starts) == set(ends)
    assert sum(ends.values()) - 20 <= kills * workers, "only what was at work at a kill was begun again"
    assert all(count <= 1 + kills for count in starts.values())
    prepared = Counter(line[1] for line in words if line[0] == "prepare")
    assert set(prepared) == {"1", "2", "3", "4"}
    assert sum(prepared.values()) - 4 <= kills * workers
    found = rows(store)
    assert {row[2] for row in found} == {"completed"}
    assert Counter(row[0] for row in found) == {"experiment": 5, "sweep": 5, "trial": 24}
    best, costs = out.split()
    assert float(best) == min(
        row[0] for row in rows(store, "SELECT score FROM run WHERE level='trial' AND score IS NOT NULL")
    )
    assert costs == "True"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_three_levels_in_good_order(number: signal.Signals, code: int, tmp_path: Path) -> None:
    program, log, store = tmp_path / "program.py", tmp_path / "log.txt", tmp_path / "s.db"
    program.write_text(PROGRAM.replace("time.sleep(0.004)", "time.sleep(0.05)"))
    log.touch()
    process = begin(program, log, store, 3)
    while len(log.read_text().splitlines()) < 12 and process.poll() is None:
        time.sleep(0.005)
    began = time.monotonic()
    process.send_signal(number)
    _, err = process.communicate(timeout=10)
    assert time.monotonic() - began < 2
    assert process.returncode == code, err
    found = rows(store)
    assert not {row[2] for row in found} & {"running", "failed"}
    assert {row[2] for row in found if row[0] in ("experiment", "sweep") and row[1] in ("Outer", "middle")} == {
        "interrupted"
    }


def test_what_a_killed_session_spent_counts_in_the_next(store_path: Path) -> None:
    """An experiment's budget, its cost and what it gave for one trial survive a session that was cut short."""

    class Cut(Phases):
        async def b(self) -> SweepResult:
            if not again:
                raise RuntimeError("cut")
            return await super().b()

    again: list[int] = []
    with pytest.raises(RuntimeError, match="cut"):
        Cut().run(budget=9)
    again.append(1)
    result: RunResult = Cut().run()
    assert (result.state.a["n_trials"], result.state.b["n_trials"]) == (6, 3)
    assert result.cost == 18
