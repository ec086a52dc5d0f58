"""Experiments: fields, children, and the shapes of seed 004 with small stand-ins."""

from __future__ import annotations

import copy
import datetime
import decimal
import logging
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import numpy
import pytest
import torch
from dying import Deaths, Killed, rows
from pydantic import BaseModel

from sweep import Choice, Context, Experiment, Integer, Pipeline, RunResult, SweepExperiment, Trial, Uniform, open_store
from sweep.errors import ContractError, ContractViolation, NotAwaited, ResumeRefused, SweepError
from sweep.optimizers import RandomOptimizer
from sweep.schedulers import ASHAScheduler
from sweep.store.runs import descendants, path_of, roots

logger = logging.getLogger(__name__)


class Log(list[Any]):
    """A list whose content is no part of the code that closes over it."""


LOG = Log()


@pytest.fixture(autouse=True)
def _empty_log() -> None:
    LOG.clear()


class Square(Experiment):
    n: int = 3
    tags: list[str] = []  # noqa: RUF012  # a field: each instance gets its own

    def pipeline(self) -> Pipeline:
        return Pipeline().stage("square", self.square).through(square=int)

    def square(self, n: int) -> int:
        LOG.append(n)
        return n * n


# ---------------------------------------------------------------- fields


def test_fields_are_state_from_the_start() -> None:
    result = Square(n=4).run()
    assert (result.value, result.state.n, result.state.square, result.state.tags) == (16, 4, 16, [])
    assert result.name == "Square"
    assert result.path == "Square"
    assert dict(result)["value"] == 16
    assert str(result.status) == "completed"


def test_unknown_wrong_and_missing_fields() -> None:
    with pytest.raises(ContractError, match=r"unknown field 'm'.*n, tags|did you mean"):
        Square(m=1)
    with pytest.raises(ContractViolation, match="field 'n'"):
        Square(n="4")

    class Needs(Square):
        lr: float

    with pytest.raises(ContractError, match="'lr': float has no value"):
        Needs().check()
    with pytest.raises(ContractError, match="'lr'"):
        Needs().run()
    assert LOG == []


def test_a_constructor_of_ones_own_gives_fields_too() -> None:
    class Own(Experiment):
        def __init__(self, lr: float, depth: int = 2) -> None:
            self.lr, self.depth = lr, depth

        def pipeline(self) -> Pipeline:
            return Pipeline().stage("s", lambda lr, depth: lr * depth).through(y=float)

    own = Own(0.5)
    assert own.fields == {"lr": 0.5, "depth": 2}
    assert own.run().value == 1
    assert Own(depth=4, lr=1.0).run().value == 4


def test_defaults_are_not_shared_between_instances() -> None:
    one, two = Square(), Square()
    one.tags.append("x")
    assert two.tags == []
    assert Square.tags == []


def test_fields_are_part_of_identity(deaths: Deaths) -> None:
    assert isinstance(deaths.run(lambda: Square(n=1).run(), at=4), Killed)
    with pytest.raises(ResumeRefused) as caught:
        Square(n=2).run(resume="must")
    assert any("n: 1 -> 2" in line for line in caught.value.diff)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (numpy.zeros(3), numpy.ones(3)),
        (torch.zeros(2), torch.ones(2)),
        (numpy.float32(1), numpy.float32(2)),
        (b"a", b"b"),
        (datetime.date(2024, 1, 1), datetime.date(2024, 1, 2)),
        (decimal.Decimal("1"), decimal.Decimal("1.0")),
        (range(3), range(4)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_in_fields_are_told_apart_by_what_they_hold(one: Any, other: Any) -> None:
    class Holds(Experiment):
        value: Any = None

        def pipeline(self) -> Pipeline:
            return Pipeline().stage("fail", self.fail)

        def fail(self) -> None:
            raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            Holds(value=copy.deepcopy(one)).run()
    with pytest.raises(ResumeRefused, match="value"):
        Holds(value=other).run(resume="must")


def test_assignment_while_running_is_refused_and_says_what_to_return() -> None:
    class Bad(Square):
        def square(self, n: int) -> int:
            self._cache = n
            self.n = 5
            return n

    bad = Bad()
    with pytest.raises(SweepError, match=r"return \{'n'"):
        bad.run()
    assert bad._cache == 3
    bad.n = 7
    assert bad.n == 7


def test_nothing_of_a_run_lives_on_the_object_and_it_pickles() -> None:
    experiment = Square(n=5, name="five")
    before = dict(experiment.__dict__)
    experiment.run()
    assert experiment.__dict__ == before
    for twin in (pickle.loads(pickle.dumps(experiment)), copy.deepcopy(experiment)):
        assert (twin.n, twin.name, twin.fields) == (5, "five", experiment.fields)
        assert twin.run(resume="never").value == 25


def test_open_inputs_come_with_run() -> None:
    class Open(Experiment):
        scale: int = 2

        def pipeline(self) -> Pipeline:
            return Pipeline(x=int).stage("s", lambda x, scale: x * scale).through(y=int)

    assert Open().run(x=4).value == 8
    with pytest.raises(ContractError, match="'x': int is missing"):
        Open().run()
    with pytest.raises(ContractError, match="unknown input 'z'"):
        Open().run(x=1, z=2)


def test_the_value_of_a_model_is_the_model_also_when_read_again() -> None:
    class Made(Experiment):
        def pipeline(self) -> Pipeline:
            return Pipeline().stage("s", lambda: {"loss": 0.5}).through(Output)

    assert Made().run().value == Output(loss=0.5)
    assert Made().run(resume="must").value == Output(loss=0.5)


class Output(BaseModel):
    loss: float


@pytest.mark.anyio
async def test_inside_a_loop_results_are_pending() -> None:
    pending = Square().run()
    with pytest.raises(NotAwaited, match=r"await …Square\.run\(\)"):
        _ = pending.value
    assert "pending" in repr(pending)
    assert (await pending).value == 9
    assert (await pending).value == 9


def test_no_pipeline() -> None:
    class Empty(Experiment):
        pass

    with pytest.raises(NotImplementedError, match="pipeline"):
        Empty().check()

    class Wrong(Experiment):
        def pipeline(self) -> Any:
            return 3

    with pytest.raises(ContractError, match="expected a Pipeline"):
        Wrong().check()


# ---------------------------------------------------------------- children


class Parent(Experiment):
    sizes: list[int] = [1, 2, 3]  # noqa: RUF012  # a field: each instance gets its own

    def pipeline(self) -> Pipeline:
        return Pipeline().stage("children", self.all).through(total=int).stage("end", self.end).through(y=int)

    async def all(self, sizes: list[int]) -> int:
        return sum([(await Square(n=size).run()).value for size in sizes])

    def end(self, total: int) -> int:
        LOG.append("end")
        return total + 1


def test_children_count_by_name_and_use_the_parents_store(store_path: Path, tmp_path: Path) -> None:
    result = Parent().run(store=tmp_path / "other.db")
    assert result.value == 15
    places = [
        (name, number, stage, status)
        for name, number, stage, status in rows(
            tmp_path / "other.db", "SELECT name, number, stage, status FROM run ORDER BY id"
        )
    ]
    assert places == [
        ("Parent", 1, "", "completed"),
        ("Square", 1, "children", "completed"),
        ("Square", 2, "children", "completed"),
        ("Square", 3, "children", "completed"),
    ]
    assert not store_path.exists()


def test_killed_anywhere_finished_children_do_not_run_again(deaths: Deaths, tmp_path: Path) -> None:
    assert Parent().run(store=tmp_path / "whole.db").value == 15
    for at in range(1, deaths.count + 1):
        LOG.clear()
        store = tmp_path / f"{at}.db"
        assert isinstance(deaths.run(lambda store=store: Parent().run(store=store), at=at), Killed)
        tables = rows(store, "SELECT count(*) FROM sqlite_master")[0][0] if store.exists() else 0
        query = "SELECT r.number FROM journal j JOIN run r ON r.id=j.run_id WHERE j.key='square'"
        done = {number for (number,) in rows(store, query)} if tables else set()
        first = len(LOG)
        assert Parent().run(store=store).value == 15
        assert not done & set(LOG[first:]), at
        assert {status for (status,) in rows(store, "SELECT status FROM run")} == {"completed"}
        assert rows(store, "SELECT count(*) FROM run") == [(4,)]


def test_killed_anywhere_unnamed_pipelines_in_a_stage_lose_nothing(deaths: Deaths, tmp_path: Path) -> None:
    LOG.clear()

    def note(name: str) -> Any:
        return lambda n: LOG.append(f"{name} {n}") or n + 1

    def tune() -> float:
        space = {"x": Uniform(0, 1)}
        sweep = SweepExperiment(lambda x: LOG.append("trial") or x, space, optimizer=RandomOptimizer(), seed=1, name="deep")
        return float(sweep.run(2).best_score)

    inner = Pipeline(n=int).stage("one", note("one")).through(n=int).stage("two", note("two")).through(n=int)

    async def work() -> int:
        first = await inner.run(n=0)
        second = await inner.stage("tune", tune).through(best=float).run(n=10)
        return int(first.n + second.n)

    def live(store: Path) -> Any:
        return Pipeline().stage("work", work).through(total=int).run(name="r", store=store)

    assert live(tmp_path / "whole.db").total == 14
    with open_store(tmp_path / "whole.db") as store:
        paths = {path_of(store, row) for _, row in descendants(store, roots(store)[0]) if row.level != "trial"}
    assert paths == {"r", "r/work/Pipeline", "r/work/Pipeline#2", "r/work/Pipeline#2/tune/deep"}
    every = ["one 0", "two 1", "one 10", "two 11", "trial", "trial"]
    assert every == LOG
    deaths.run(lambda: live(tmp_path / "counted.db"))
    for at in range(1, deaths.count - 1):  # the last two end the run
        LOG.clear()
        store = tmp_path / f"{at}.db"
        assert isinstance(deaths.run(lambda store=store: live(store), at=at, after=True), Killed)
        assert live(store).total == 14
        again = [name for name in every if LOG.count(name) > every.count(name)]
        assert len(set(again)) <= 1, (at, LOG)  # only what was cut short
        assert not again or len(LOG) <= len(every) + 1, (at, LOG)


def test_unnamed_pipelines_at_once_are_to_be_named() -> None:
    async def both() -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(2):
                tasks.start_soon(go)

    async def go() -> None:
        await Pipeline().stage("wait", anyio.lowlevel.checkpoint).run()

    with pytest.raises(ExceptionGroup) as caught:
        Pipeline().stage("both", both).run(name="r")
    assert caught.group_contains(SweepError, match="two runs named 'Pipeline' at once.*name your runs")


def test_another_child_in_the_place_is_refused(deaths: Deaths) -> None:
    assert isinstance(deaths.run(lambda: Parent(name="p").run(), at=8), Killed)

    class Renamed(Square):
        def pipeline(self) -> Pipeline:
            return Pipeline().stage("squared", self.square).through(square=int)

    Renamed.__qualname__ = Renamed.__name__ = "Square"

    async def other(self: Any, sizes: list[int]) -> int:
        return sum([(await Renamed(n=size).run()).value for size in sizes])

    class Changed(Parent):
        all = other  # type: ignore[assignment]

    Changed.__qualname__ = "Parent"
    with pytest.raises(ResumeRefused, match="name your runs"):
        Changed(name="p").run()


def test_concurrent_siblings_of_one_name_are_refused_and_named_ones_are_not(store_path: Path) -> None:
    class Together(Experiment):
        named: bool = False

        def pipeline(self) -> Pipeline:
            return Pipeline().stage("s", self.both).through(y=int)

        async def both(self, named: bool) -> int:
            found: list[int] = []

            async def one(n: int) -> None:
                found.append((await Slow(n=n, name=f"slow{n}" if named else None).run()).value)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(one, 1)
                tasks.start_soon(one, 2)
            return sum(found)

    class Slow(Experiment):
        n: int

        def pipeline(self) -> Pipeline:
            return Pipeline().stage("wait", self.wait).through(y=int)

        async def wait(self, n: int) -> int:
            await anyio.sleep(0.005)
            return n

    with pytest.raises(ExceptionGroup) as caught:
        Together().run()
    (told,) = caught.value.exceptions
    assert "name your runs" in str(told)
    assert Together(named=True).run().value == 3


def test_a_stage_can_be_an_experiment(store_path: Path) -> None:
    pipeline = (
        Pipeline()
        .stage("n", lambda: 7)
        .through(whole=int)
        .stage("square", Square(n=6))
        .through(square=int)
        .stage("again", Square(n=2, name="again"))
        .through(summary=dict)
    )
    state = pipeline.run(name="r")
    assert state.square == 36
    assert state.summary["value"] == 4
    assert [place for (place,) in rows(store_path, "SELECT stage FROM run WHERE parent_id>0 ORDER BY id")] == [
        "square",
        "again",
    ]


def test_sync_stages_start_children_too() -> None:
    class Sync(Parent):
        def all(self, sizes: list[int]) -> int:  # type: ignore[override]
            return sum(Square(n=size).run().value for size in sizes)

    assert Sync().run().value == 15
    assert [child.path for child in Sync(name="again").run().children] == [
        "again/children/Square", "again/children/Square#2", "again/children/Square#3",
    ]  # fmt: skip


def test_global_hooks_reach_children() -> None:
    class Watched(Parent):
        def pipeline(self) -> Pipeline:
            return super().pipeline().with_global_hooks(before=lambda stage, state: LOG.append(stage))

    Watched(sizes=[5]).run()
    assert LOG == ["Watched/children", "Watched/children/Square/square", 5, "Watched/end", "end"]


def test_retried_stages_get_their_finished_children_back() -> None:
    class Flaky(Parent):
        def pipeline(self) -> Pipeline:
            return Pipeline().stage("children", self.all, retry=3).through(total=int)

        async def all(self, sizes: list[int]) -> int:
            total = await super().all(sizes)
            LOG.append("try")
            if LOG.count("try") < 3:
                raise OSError("again")
            return total

    assert Flaky(sizes=[1, 2]).run().value == 5
    assert Counter(LOG) == {1: 1, 2: 1, "try": 3}


# ---------------------------------------------------------------- seed 004: MyExperiment


class SuggestionOutput(BaseModel):
    trials: list[dict[str, float]]


class TrainingOutput(BaseModel):
    losses: list[float]


class EvalOutput(BaseModel):
    best: float


class MyExperiment(Experiment):
    failures: int = 2

    def pipeline(self) -> Pipeline:
        return (
            Pipeline()
            .stage("suggest", self.generate_suggestions)
            .through(
                SuggestionOutput,
                after=lambda d: logger.info("Generated %d trials", len(d.trials)),
                validate=lambda d: len(d.trials) > 0,
                checkpoint=True,
                timeout=300,
            )
            .stage("train", self.train_models)
            .through(TrainingOutput, retry=3, on_error=lambda e: self.handle_failure(e))
            .stage("evaluate", self.evaluate_results)
            .through(EvalOutput, cache=True)
        )

    def generate_suggestions(self, ctx: Context) -> SuggestionOutput:
        LOG.append("suggest")
        return SuggestionOutput(trials=[{"lr": ctx.rng.random()} for _ in range(3)])

    async def train_models(self, suggested: SuggestionOutput, failures: int) -> TrainingOutput:
        LOG.append("train")
        if LOG.count("train") <= failures:
            raise RuntimeError("out of memory")
        return TrainingOutput(losses=[trial["lr"] for trial in suggested.trials])

    def evaluate_results(self, trained: TrainingOutput) -> EvalOutput:
        LOG.append("evaluate")
        return EvalOutput(best=min(trained.losses))

    def handle_failure(self, error: Exception) -> TrainingOutput:
        LOG.append(str(error))
        return TrainingOutput(losses=[9.0])


@pytest.mark.parametrize(("failures", "tried", "best"), [(2, 3, None), (9, 4, 9.0)])
def test_my_experiment(failures: int, tried: int, best: float | None) -> None:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = MyExperiment(failures=failures, name=f"my{failures}").run()
    assert isinstance(result.value, EvalOutput)
    assert LOG.count("train") == tried
    assert LOG.count("evaluate") == 1
    if best is not None:
        assert result.value.best == best
        assert "out of memory" in LOG


# ---------------------------------------------------------------- seed 004: CurriculumExperiment


class Task(BaseModel):
    name: str
    target: float


class CurriculumExperiment(Experiment):
    """Curriculum that runs a sweep for each task."""

    task_idx: int = 0

    def pipeline(self) -> Pipeline:
        return (
            Pipeline()
            .stage("init", self.setup_curriculum)
            .through(tasks=list[Task])
            .loop_while(lambda ctx: ctx.task_idx < len(ctx.tasks))
            .stage("select_task", self.get_next_task)
            .through(current_task=Task)
            .stage("optimize_task", self.run_task_sweep)
            .through(task_results=dict)
            .stage("check_mastery", self.evaluate_progress)
            .through(should_advance=bool)
            .end_loop()
        )

    def setup_curriculum(self) -> list[Task]:
        LOG.append("init")
        return [Task(name="easy", target=1), Task(name="hard", target=2)]

    def get_next_task(self, tasks: list[Task], task_idx: int) -> Task:
        return tasks[task_idx]

    async def run_task_sweep(self, input):  # type: ignore[no-untyped-def]
        """Each task gets its own optimization."""
        sweep = SweepExperiment(
            search_space={"x": Uniform(0, 1)},
            optimizer=self.create_optimizer_for_task(input.current_task),
            scheduler=ASHAScheduler(max_epochs=4, reduction_factor=2),
        )
        return await sweep.run(budget=3)

    def create_optimizer_for_task(self, task: Task) -> RandomOptimizer:
        return RandomOptimizer()

    def train(self, x: float, ctx: Context) -> None:
        start = ctx.load(0)
        for step in range(start, 4):
            LOG.append((ctx.path, step))
            ctx.save(step + 1)
            ctx.report(step + 1, loss=x / (step + 1))

    def evaluate_progress(self, task_results: dict[str, Any], task_idx: int) -> dict[str, Any]:
        return {"should_advance": task_results["best_score"] < 1, "task_idx": task_idx + 1}


def test_the_curriculum(store_path: Path) -> None:
    result = CurriculumExperiment().run()
    assert result.state.task_idx == 2
    assert result.state.task_results["n_trials"] == 3
    assert [child.path for child in result.children] == [
        "CurriculumExperiment/optimize_task#0/SweepExperiment",
        "CurriculumExperiment/optimize_task#1/SweepExperiment",
    ]
    assert {status for (status,) in rows(store_path, "SELECT status FROM run WHERE level='sweep'")} == {"completed"}


def test_the_curriculum_killed_anywhere_ends_as_if_it_had_not_been(deaths: Deaths, tmp_path: Path) -> None:
    def scores(store: Path) -> list[tuple[Any, ...]]:
        query = (
            "SELECT p.stage, t.number, t.status, t.reason, t.step, t.score FROM run t JOIN run p ON p.id=t.parent_id"
            " WHERE t.level='trial' ORDER BY p.stage, t.number"
        )
        return rows(store, query)

    def run(store: Path) -> RunResult:
        experiment = CurriculumExperiment(name="c")
        with store.with_suffix(".seed").open("w"):
            return experiment.run(store=store)

    whole = run(tmp_path / "whole.db")
    total, expected = deaths.count, len(scores(tmp_path / "whole.db"))
    assert whole.state.task_idx == 2
    for at in range(1, total + 1, 3):
        store = tmp_path / f"{at}.db"
        if not isinstance(deaths.run(lambda store=store: run(store), at=at), Killed):
            assert at > total / 2, "another seed, other promotions, fewer commits"
            continue
        LOG.clear()
        result = run(store)
        assert result.state.task_idx == 2
        assert LOG.count("init") <= 1
        assert len(scores(store)) == expected
        assert {status for (status,) in rows(store, "SELECT status FROM run WHERE level!='trial'")} == {"completed"}
        assert not {"running", "pending", "interrupted"} & {row[2] for row in scores(store)}


# ---------------------------------------------------------------- seed 004: OptimizerOptimizer


class OptimizerOptimizer(Experiment):
    """Find the best optimizer configuration."""

    def pipeline(self) -> Pipeline:
        return (
            Pipeline()
            .stage("suggest_config", self.suggest_optimizer_params)
            .through(acquisition_fn=str, exploration_rate=float, batch_size=int)
            .stage("test_optimizer", self.run_sweep_with_config)
            .through(performance=float)
            .stage("update", self.update_meta_model)
        )

    def suggest_optimizer_params(self) -> dict[str, Any]:
        return {"acquisition_fn": "EI", "exploration_rate": 0.1, "batch_size": 4}

    async def run_sweep_with_config(self, config):  # type: ignore[no-untyped-def]
        LOG.append((config.acquisition_fn, config.exploration_rate, config.batch_size))
        sweep = SweepExperiment(
            search_space={"x": Uniform(0, 1), "kind": Choice(["a", "b"])}, optimizer=RandomOptimizer()
        )
        result = await sweep.run(budget=4)
        return result.best_score

    def train(self, x: float, kind: str) -> float:
        return x + (kind == "b")

    def update_meta_model(self, performance: float) -> None:
        LOG.append(performance)


def test_the_optimizer_of_optimizers() -> None:
    result = OptimizerOptimizer().run()
    assert LOG[0] == ("EI", 0.1, 4)
    assert LOG[1] == result.state.performance
    assert 0 < LOG[1] < 2


# ---------------------------------------------------------------- seed 004: HybridExperiment


class HybridExperiment(Experiment):
    """Combine strategies; settings stand among the fields, a reference by its bare name."""

    def pipeline(self) -> Pipeline:
        return (
            Pipeline()
            .stage("explore", self.random_search)
            .through(exploration_results=list[Trial], n_trials=5, max_time_per_trial=600)
            .stage("model", self.refine)
            .through(modeled_results=list[Trial], n_trials=3, init_from="exploration_results")
            .stage("validate", self.intensive_evaluation)
            .through(validation_scores=dict, n_seeds=10, full_evaluation=True)
        )

    async def random_search(self, n_trials: int, max_time_per_trial: float) -> list[Trial]:
        sweep = SweepExperiment(search_space={"n": Integer(1, 9)}, optimizer=RandomOptimizer())
        return list((await sweep.run(budget=n_trials)).trials)

    async def refine(self, n_trials: int, init_from: list[Trial]) -> list[Trial]:
        LOG.append(len(init_from))
        sweep = SweepExperiment(search_space={"n": Integer(1, 9)}, optimizer=RandomOptimizer(), init_from=init_from)
        return list((await sweep.run(budget=n_trials)).trials)

    def train(self, n: int) -> float:
        return n * n

    def intensive_evaluation(
        self, modeled_results: list[Trial], n_seeds: int, full_evaluation: bool
    ) -> dict[str, float]:
        return {str(trial.params["n"]): n_seeds * trial.score for trial in modeled_results if trial.score is not None}


def test_the_hybrid_and_its_trials_in_state(deaths: Deaths, tmp_path: Path) -> None:
    result = HybridExperiment().run(store=tmp_path / "whole.db")
    assert LOG == [5]
    assert all(isinstance(trial, Trial) for trial in result.state.modeled_results)
    again = HybridExperiment().run(store=tmp_path / "whole.db", resume="must")
    assert [trial.params for trial in again.state.modeled_results] == [
        trial.params for trial in result.state.modeled_results
    ]
    assert again.state.validation_scores == result.state.validation_scores
    total = deaths.count
    for at in range(2, total, 5):
        store = tmp_path / f"{at}.db"
        deaths.run(lambda store=store: HybridExperiment().run(store=store), at=at)
        LOG.clear()
        final = HybridExperiment().run(store=store)
        assert len(final.state.modeled_results) == 3
        assert len(final.state.exploration_results) == 5
