"""An experiment's fields, and those of the runs inside it, come from a scope: values, provenance, identity, resume."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from sweep import (
    Constant,
    Experiment,
    LogUniform,
    MetaExperiment,
    Ordinal,
    Pipeline,
    SearchSpace,
    SweepExperiment,
    Uniform,
    open_store,
)
from sweep.config import MultiScope, Scope, explain
from sweep.errors import ConfigError, ContractError, ResumeRefused, UnknownName
from sweep.optimizers import RandomOptimizer
from sweep.schedulers import ASHAScheduler
from sweep.store.runs import children, find_run, roots

CALLS: list[str] = []


class Optimizer(BaseModel):
    """A field that is a model."""

    lr: float = 0.1
    name: str = "adam"


@dataclass
class Data:
    """A field that is a dataclass."""

    path: str = "here"
    n: int = 3


class Train(Experiment):
    """The innermost."""

    lr: float = 0.5
    depth: int = 1

    def pipeline(self) -> Pipeline:
        return Pipeline().stage("fit", self.fit).through(score=float)

    @staticmethod
    def fit(lr: float, depth: int) -> float:
        CALLS.append(f"fit {lr} {depth}")
        if depth == 13:
            raise ValueError("unlucky")
        return lr * depth


class Middle(Experiment):
    """Holds one as a stage."""

    tag: str = "t"

    def pipeline(self) -> Pipeline:
        return Pipeline().stage("inner", Train(name="inner", lr=2.0)).through(inner=dict)


class Study(Experiment):
    """Holds runs as stages, and starts one in a function."""

    data: str

    def pipeline(self) -> Pipeline:
        return (
            Pipeline()
            .stage("explore", Train(name="exploration"))
            .through(explored=dict)
            .stage("middle", Middle(name="middle"))
            .through(middle=dict)
            .stage("late", self.late)
            .through(late=float)
        )

    async def late(self) -> float:
        return float((await Train(name="late").run()).value)


class Parts(Experiment):
    """Fields with parts."""

    optimizer: Optimizer = Optimizer()
    data: Data = Data()
    extra: dict[str, Any] = {"keep": 1}  # noqa: RUF012  # an experiment copies it

    def pipeline(self) -> Pipeline:
        def use(optimizer: Optimizer, data: Data, extra: dict[str, Any]) -> str:
            return f"{optimizer.lr} {optimizer.name} {data.path} {data.n} {sorted(extra.items())}"

        return Pipeline().stage("use", use).through(text=str)


def study_scope() -> Scope:
    scope = Scope(name="study")

    @scope.observe(default=True)
    def defaults(cfg: Any) -> None:
        cfg.data = "digits"
        cfg.exploration.lr = 0.1
        cfg.middle.inner.depth = 4
        cfg.late.depth = 3

    @scope.observe()
    def big(cfg: Any) -> None:
        cfg.exploration.lr = 0.9

    return scope


def layers_of(store: Path, *path: str) -> list[dict[str, Any]]:
    """Return the layers kept with a run, by the names from the root down."""
    with open_store(store) as opened:
        row = next(one for one in roots(opened) if one.name == path[0])
        for name in path[1:]:
            row = next(one for one in children(opened, row.id) if one.name == name)
        ((text,),) = opened.rows("SELECT value FROM journal WHERE run_id=? AND kind='config'", (row.id,))
    return list(json.loads(text))


@pytest.fixture(autouse=True)
def _forget() -> None:
    CALLS.clear()


def test_fields_and_those_of_the_runs_inside_come_from_a_scope_two_deep(tmp_path: Path) -> None:
    scope = study_scope()
    scope.parse("big middle.inner.depth=7")
    study = Study(config=scope, store=tmp_path / "s.db")
    result = study.run()
    assert result.state.data == "digits"
    assert CALLS == ["fit 0.9 1", "fit 2.0 7", "fit 0.5 3"]
    with pytest.raises(AttributeError):
        _ = study.data  # the object itself stays as the code made it


def test_every_run_knows_where_its_values_are_from(tmp_path: Path) -> None:
    scope = study_scope()
    scope.parse("big middle.inner.depth=7")
    Study(config=scope, store=tmp_path / "s.db").run()
    text = explain("depth", layers_of(tmp_path / "s.db", "Study", "middle", "inner"))
    assert [line.split()[0] for line in text.splitlines()] == ["depth", "schema", "default", "command"]
    assert "4 → 7" in text
    assert "middle.inner.depth=7" in text
    text = explain("lr", layers_of(tmp_path / "s.db", "Study", "exploration"))
    assert "big" in text
    assert "0.1 → 0.9" in text
    text = explain("exploration.lr", layers_of(tmp_path / "s.db", "Study"))
    assert "0.1 → 0.9" in text


def test_what_the_code_says_is_the_lowest_layer_and_why_shows_it(tmp_path: Path) -> None:
    Train(lr=7.0, config={"lr": 3}, store=tmp_path / "s.db").run()
    assert CALLS == ["fit 3.0 1"]
    text = explain("lr", layers_of(tmp_path / "s.db", "Train"))
    assert [line.split("  ")[1].strip() for line in text.splitlines()[1:]] == ["schema", "default", "default"]
    assert "0.5 → 7.0" in text
    assert "7.0 → 3" in text


def test_a_resume_restores_two_deep_and_a_changed_config_is_refused_with_the_difference(tmp_path: Path) -> None:
    scope = study_scope()
    scope.parse("late.depth=13")
    with pytest.raises(ValueError, match="unlucky"):
        Study(config=scope, store=tmp_path / "s.db").run()
    assert CALLS == ["fit 0.1 1", "fit 2.0 4", "fit 0.5 13"]
    CALLS.clear()
    for words, line in (
        ("late.depth=12", "config.late.depth: 13 -> 12"),
        ("late.depth=13 middle.inner.depth=5", "fields.depth: 4 -> 5"),
        ("late.depth=13 data=mnist", "fields.data: 'digits' -> 'mnist'"),
    ):
        scope.parse(words)
        with pytest.raises(ResumeRefused) as refused:
            Study(config=scope, store=tmp_path / "s.db").run(resume="must")
        assert any(line in one for one in refused.value.diff), refused.value.diff
    assert CALLS == []
    scope.parse("late.depth=13")
    with pytest.raises(ValueError, match="unlucky"):
        Study(config=scope, store=tmp_path / "s.db").run(resume="must")
    assert CALLS == ["fit 0.5 13"]


@pytest.mark.parametrize(
    ("config", "kind", "message"),
    [
        ({"dta": "x"}, UnknownName, "unknown key 'dta'.*did you mean 'data'"),
        ({"data": "x", "exploraton": {"lr": 1}}, UnknownName, "did you mean 'exploration'"),
        ({"data": "x", "exploration": {"lrr": 1}}, UnknownName, "'lrr'.*did you mean 'lr'"),
        ({"data": "x", "middle": {"inner": {"dept": 1}}}, UnknownName, "'dept'.*did you mean 'depth'"),
        ({"data": "x", "middle": {"other": {"depth": 1}}}, UnknownName, "unknown key 'other'.*there are: inner, tag"),
        ({"data": "x", "exploration": {"lr": "much"}}, ConfigError, r"exploration\.lr .*valid number.*'much'"),
        ({"data": "x", "exploration": 3}, ConfigError, "'exploration' is a run, not one value; write exploration.KEY"),
        ({"data": {"a": 1}}, ConfigError, "data.*expected a valid string"),
    ],
)
def test_mistakes_are_found_before_anything_runs(tmp_path: Path, config: Any, kind: type, message: str) -> None:
    study = Study(config=config, store=tmp_path / "s.db")
    for act in (study.check, study.run):
        with pytest.raises(kind, match=message):
            act()
    assert CALLS == []
    assert not (tmp_path / "s.db").exists()


def test_a_run_that_was_never_started_is_named_afterwards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Study(config={"data": "x", "lte": {"lr": 1}}, store=tmp_path / "s.db").run()
    assert "started no run named 'lte'" in capsys.readouterr().err


def test_parts_of_a_field_are_put_into_what_the_code_says(tmp_path: Path) -> None:
    config = {"optimizer": {"name": "sgd"}, "data": {"n": 9}, "extra": {"more": 2}}
    result = Parts(config=config, store=tmp_path / "s.db").run()
    assert result.state.text == "0.1 sgd here 9 [('keep', 1), ('more', 2)]"
    with pytest.raises(UnknownName, match=r"did you mean 'optimizer\.lr'"):
        Parts(config={"optimizer": {"lrr": 1}}).check()
    with pytest.raises(UnknownName, match=r"did you mean 'data\.path'"):
        Parts(config={"data": {"pth": 1}}).check()


def test_a_multiscope_gives_each_run_its_scope(tmp_path: Path) -> None:
    exploration, middle = Scope(name="exploration"), Scope(name="middle")

    @exploration.observe(default=True)
    def first(cfg: Any) -> None:
        cfg.lr = 0.25

    @middle.observe(default=True)
    def second(cfg: Any) -> None:
        cfg.inner.lr = 4.0

    both = MultiScope(exploration, middle)
    both.parse([])
    Study(data="x", config=both, store=tmp_path / "s.db").run()
    assert CALLS == ["fit 0.25 1", "fit 4.0 1", "fit 0.5 1"]
    assert "first" in explain("lr", layers_of(tmp_path / "s.db", "Study", "exploration"))


def test_a_model_and_a_schema_give_fields(tmp_path: Path) -> None:
    class Settings(BaseModel):
        lr: float = 0.75
        depth: int = 2

    Train(config=Settings(depth=4), store=tmp_path / "s.db").run()
    scope = Scope(Settings)
    scope.parse("depth=5")
    Train(config=scope, store=tmp_path / "s.db").run()
    assert CALLS == ["fit 0.75 4", "fit 0.75 5"]


class Own(Experiment):
    """Has a constructor of its own."""

    def __init__(self, width: int, depth: int = 2, **options: Any) -> None:
        super().__init__(**options)
        self.area = width * depth
        self._config = "a cache of its own"

    def pipeline(self) -> Pipeline:
        return Pipeline().stage("area", lambda: float(self.area)).through(found=float)


def test_a_constructor_of_its_own_is_called_with_what_is_given(tmp_path: Path) -> None:
    assert Own(3, config={"depth": 5}, name="own", store=tmp_path / "s.db").run().value == 15.0


def test_a_field_named_config_stays_a_field(tmp_path: Path) -> None:
    class Named(Experiment):
        config: dict[str, int]

        def pipeline(self) -> Pipeline:
            return Pipeline().stage("use", lambda config: config["a"]).through(a=int)

    assert Named(config={"a": 4}, store=tmp_path / "s.db").run().value == 4


def test_two_configs_for_one_run_are_refused() -> None:
    class Outer(Experiment):
        def pipeline(self) -> Pipeline:
            return Pipeline().stage("in", Train(name="in", config={"lr": 1.0}))

    with pytest.raises(ContractError, match="keep one"):
        Outer(config={"in": {"lr": 2.0}}).check()
    with pytest.raises(ContractError, match="expected a Scope"):
        Train(config=7).check()


def test_a_run_that_a_function_in_a_thread_starts_is_given_its_own(tmp_path: Path) -> None:
    class Threaded(Experiment):
        def pipeline(self) -> Pipeline:
            return Pipeline().stage("start", lambda: Train(name="late").run().value).through(late=float)

    assert Threaded(config={"late": {"depth": 6}}, store=tmp_path / "s.db").run().value == 3.0


def test_siblings_side_by_side_are_given_their_own(tmp_path: Path) -> None:
    class Both(Experiment):
        def pipeline(self) -> Pipeline:
            return Pipeline().parallel(a=Middle(name="a"), b=Middle(name="b")).through(a=dict, b=dict)

    Both(config={"a": {"inner": {"lr": 0.125}}, "b": {"inner": {"depth": 8}}}, store=tmp_path / "s.db").run()
    assert sorted(CALLS) == ["fit 0.125 1", "fit 2.0 8"]


# ---------------------------------------------------------------- sweeps


def objective(lr: float, depth: int = 3) -> float:
    """What is searched."""
    return lr * depth


def sweep(**options: Any) -> SweepExperiment:
    return SweepExperiment(objective, {"lr": Uniform(0, 1)}, optimizer=RandomOptimizer(), seed=1, **options)


class Searching(Experiment):
    """Starts a sweep as a stage."""

    def pipeline(self) -> Pipeline:
        return Pipeline().stage("search", sweep(name="exploration")).through(found=dict)


def test_a_sweep_inside_is_given_its_space_and_its_settings(tmp_path: Path) -> None:
    config = {"exploration": {"lr": "log(1e-3,1e-1)", "depth": 5, "mode": "max"}}
    result = Searching(config=config, store=tmp_path / "s.db").run(budget=4)
    with open_store(tmp_path / "s.db") as store:
        row = find_run(store, "Searching/search/exploration")
        identity = row.data("identity")
        params = [json.loads(text) for (text,) in store.rows("SELECT params FROM run WHERE parent_id=?", (row.id,))]
    assert SearchSpace.from_json(identity["space"]) == SearchSpace({"lr": LogUniform(1e-3, 1e-1), "depth": Constant(5)})
    assert all(1e-3 <= one["lr"] <= 1e-1 and one["depth"] == 5 for one in params)
    assert result.value is not None
    with pytest.raises(ResumeRefused) as refused:
        Searching(config={"exploration": {"lr": 0.5}}, store=tmp_path / "s.db").run(resume="must")
    assert any("space" in line for line in refused.value.diff)


def test_a_plain_value_holds_a_parameter_and_strangers_are_refused() -> None:
    held = sweep(config={"lr": 0.5})._with_config()
    assert dict(held.space()) == {"lr": Constant(0.5)}
    with pytest.raises(UnknownName, match="did you mean 'depth'"):
        sweep(config={"dept": 5}).check()
    with pytest.raises(ConfigError, match="valid integer"):
        sweep(config={"depth": "deep"}).check()
    with pytest.raises(UnknownName, match="did you mean 'lr'"):
        Searching(config={"exploration": {"llr": 0.5}}).check()


def test_a_meta_experiments_own_keys_stay_its_own() -> None:
    fixed = {"objective": objective, "search_space": {"lr": Uniform(0, 1)}, "scheduler": ASHAScheduler}
    config, space = {"scheduler": {"reduction_factor": 4}}, {"scheduler.reduction_factor": Ordinal([2, 3])}
    meta = MetaExperiment(SweepExperiment, space, optimizer=RandomOptimizer(), fixed=fixed, config=config)
    assert dict(meta._with_config().space()) == {"scheduler.reduction_factor": Constant(4)}


def test_an_optimizer_made_for_the_old_space_searches_the_new_one(tmp_path: Path) -> None:
    made = SweepExperiment(
        objective, optimizer=RandomOptimizer({"lr": Uniform(0, 1)}), seed=1, config={"lr": "uniform(5,6)"}, store=tmp_path / "s.db"
    )
    assert all(5 <= trial.params["lr"] <= 6 for trial in made.run(4).trials)
    assert made.optimizer.search_space is not None, "the object itself stays as the code made it"


def test_what_is_inside_a_sweeps_trials_is_given_nothing(tmp_path: Path) -> None:
    class Above(Experiment):
        def pipeline(self) -> Pipeline:
            search = SweepExperiment(Train, {"lr": Uniform(0, 1)}, optimizer=RandomOptimizer(), name="tune")
            return Pipeline().stage("search", search).through(found=dict).stage("own", Train(name="Train")).through(own=dict)

    Above(config={"Train": {"lr": 77.0}}, store=tmp_path / "s.db").run(budget=2)
    assert sum(call.startswith("fit 77.0") for call in CALLS) == 1
