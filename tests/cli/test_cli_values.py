"""Values on the command line of ``sweep run``: ranges of a sweep, dotted keys, files, environment, scopes, runs inside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cli_world import Cli, calls, data

from sweep.space import Choice, Constant, Integer, LogUniform, SearchSpace, Uniform
from sweep.store.runs import find_run
from sweep.store.writer import Store

MORE = '''
from dataclasses import dataclass

from pydantic import BaseModel

from sweep import Experiment, Pipeline, SweepExperiment, Uniform
from sweep.config import Scope
from sweep.optimizers import RandomOptimizer
from sweep.schedulers import ASHAScheduler
from work import note


class Settings(BaseModel):
    lr: float = 0.1
    name: str = "adam"


@dataclass
class Source:
    path: str
    n: int = 3


def objective(lr: float, depth: int = 3, kind: str = "a", ctx=None) -> float:
    note(f"{lr} {depth} {kind}")
    return lr * depth


def made(**options):
    return SweepExperiment(objective, {"lr": Uniform(0, 1)}, optimizer=RandomOptimizer(), seed=1, **options)


tune = made(name="tune")


class Tuner(SweepExperiment):
    """A sweep with an objective of its own."""

    layers: list[int] = [1]
    search_space = {"lr": Uniform(0, 1)}

    def train(self, lr: float, depth: int = 3) -> float:
        note(f"{lr} {depth} {self.layers}")
        return lr


race = made(name="race", scheduler=ASHAScheduler(max_epochs=9))
pipe = (
    Pipeline(settings=Settings, source=Source, tag=str)
    .stage("use", lambda settings, source, tag: f"{settings.lr} {settings.name} {source.path} {source.n} {tag}")
    .through(text=str)
)


class Train(Experiment):
    settings: Settings = Settings()
    lr: float = 0.5

    def pipeline(self):
        return Pipeline().stage("fit", self.fit).through(score=float)

    @staticmethod
    def fit(lr: float) -> float:
        note(f"fit {lr}")
        if lr == 13:
            raise ValueError("unlucky")
        return lr


class Study(Experiment):
    n: int = 1

    def pipeline(self):
        return (
            Pipeline()
            .stage("explore", made(name="exploration"))
            .through(found=dict)
            .stage("train", Train(name="train"))
            .through(trained=dict)
        )


class Needs(Experiment):
    data: str

    def pipeline(self):
        return Pipeline().stage("use", self.use).through(text=str)

    @staticmethod
    def use(data: str, gain: int) -> str:
        return data * gain


scope = Scope(name="settings")


@scope.observe(default=True)
def defaults(cfg):
    cfg.n = 2
    cfg.train.lr = 0.25


@scope.observe()
def big(cfg):
    cfg.train.lr = 4.0


scoped = Study(config=scope, name="scoped")


class Staged(Experiment):
    n: int = 1

    def pipeline(self):
        return Pipeline().stage("config", scope).through(cfg=object).stage("use", lambda cfg, n: cfg.train.lr * n).through(lr=float)


tags = Pipeline().stage("config", scope).through(cfg=object).stage("use", lambda cfg: cfg.train.lr).through(lr=float)
'''


@pytest.fixture
def more(work: Path) -> Path:
    (work / "more.py").write_text(MORE)
    (work / "numbers.yaml").write_text("1: 2\n")
    return work


@pytest.fixture
def run(cli: Cli, more: Path) -> Cli:
    """Call ``sweep run more.py:…``."""

    def call(*words: str, code: int = 0) -> Any:
        target, *rest = words
        return cli("run", f"more.py:{target}", *rest, code=code)

    return call


def space_of(name: str) -> SearchSpace:
    with Store("sweep.db") as store:
        return SearchSpace.from_json(find_run(store, name).data("identity")["space"])


# ---------------------------------------------------------------- ranges of a sweep


def test_ranges_replace_and_join_the_space_and_plain_values_hold_a_parameter(run: Cli) -> None:
    found = data(run("tune", "lr=log(1e-5,1e-1)", "depth=50,101", "kind=7", "--budget", "5", "--json"))
    assert space_of("tune") == SearchSpace({"lr": LogUniform(1e-5, 1e-1), "depth": Choice([50, 101]), "kind": Constant("7")})
    assert found["n_trials"] == 5
    assert {line.split()[2] for line in calls()} == {"7"}


def test_the_space_is_identity_and_a_resume_searches_the_same(run: Cli, cli: Cli) -> None:
    words = ("lr=log(1e-5,1e-1)", "depth=int(1,8)")
    run("tune", *words, "--budget", "2")
    cli("resume", "tune", "--budget", "4")
    assert space_of("tune") == SearchSpace({"lr": LogUniform(1e-5, 1e-1), "depth": Integer(1, 8)})
    resumed = calls()
    run("tune", *words, "--budget", "4", "--new")
    assert calls() == resumed, "the same trials as without the stop"
    text = run("tune", "lr=uniform(0,2)", "--budget", "1").stderr
    assert "was another sweep" in text
    assert "tune#3" in text
    assert space_of("tune#3") == SearchSpace({"lr": Uniform(0, 2)})


def test_the_class_of_a_sweep_takes_them_too(run: Cli) -> None:
    run("Tuner", "optimizer=RandomOptimizer", "lr=0.5", "depth=2", "layers=[64,", "128]", "--budget", "1", "--seed", "1")
    assert calls() == ["0.5 2 [64, 128]"]
    assert "did you mean 'depth'?" in run("Tuner", "dept=2", code=2).stderr


def test_a_single_trial_is_run_again_in_the_space_that_was_given(run: Cli, cli: Cli) -> None:
    run("tune", "lr=uniform(5,6)", "depth=7", "--budget", "2")
    first = calls()[0]
    cli("rerun", "tune/trial[0]")
    assert calls() == [first]


def test_strategies_take_arguments_and_other_names(run: Cli) -> None:
    run("race", "scheduler.max_epochs=27", "--budget", "1")
    others = ("scheduler=MedianStoppingScheduler", "scheduler.grace_period=2", "optimizer=SobolOptimizer")
    run("race", *others, "--budget", "1", "--new")
    with Store("sweep.db") as store:
        first, second = (find_run(store, name).data("identity") for name in ("1", "race#2"))
    assert first["scheduler"] == {"ASHAScheduler": {"max_epochs": 27}}
    assert second["scheduler"] == {"MedianStoppingScheduler": {"grace_period": 2}}
    assert "SobolOptimizer" in second["optimizer"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["Train", "--config", "numbers.yaml"], "unknown key '1' ('numbers.yaml' for Train)"),
        (["tune", "lrr=0.1"], "unknown key 'lrr' ('lrr=0.1'); did you mean 'lr'?"),
        (["tune", "dept=1,2"], "did you mean 'depth'?"),
        (["tune", "lr=unifrom(0,1)"], "unknown range 'unifrom' (lr=unifrom(0,1)); did you mean 'uniform'?"),
        (["tune", "lr=uniform(1)"], "lr=uniform(1)"),
        (["tune", "depth=deep"], "'depth=deep': expected a valid integer"),
        (["tune", "depth=uniform(0,1)"], "'depth' is int, but the range gives float"),
        (["tune", "lr=__import__('os').mkdir('evil')"], ".mkdir('evil')\": expected a valid number"),
        (["race", "scheduler.max_epoch=3"], "did you mean 'max_epochs'?"),
        (["race", "scheduler=MedianStopingScheduler"], "did you mean 'MedianStoppingScheduler'?"),
        (["race", "scheduler.reduction_factor=0"], "scheduler.reduction_factor=0"),
        (["Train", "lr=log(1e-3,1)"], "'lr=log(1e-3,1)': expected a valid number; search ranges are read by `sweep run`"),
        (["Train", "lr=1,2"], "search ranges are read by `sweep run` of a sweep"),
        (["Train", "lr=true"], "'lr=true': expected a valid number"),
        (["Train", "settings.lr=fast"], "settings.lr=fast"),
        (["tune", "lr=log(1e-1,1e-5)"], "'lr=log(1e-1,1e-5)': low=0.1 is above high=1e-05: swap them"),
        (["Study", "exploration.lr=log(0,1)"], "'exploration.lr=log(0,1)': low=0, but a logarithmic scale needs low > 0"),
        (["tune", "lr=log(1e-5,1e-1"], "'lr=log(1e-5,1e-1': the closing ) is missing"),
        (["tune", "lr=lgo(1e-5,1e-1)"], "unknown range 'lgo' ('lr=lgo(1e-5,1e-1)'); there are: choice, int"),
        (["tune", "lr=a,b"], "'lr=a,b': 'lr' is float, but the range gives str; write for example lr=uniform(0,1)"),
        (["tune", "depth=uniform(1,8)"], "'depth' is int, but the range gives float; write for example depth=int(1,8)"),
        (["tune", "kind=1,2"], "'kind' is str, but the range gives int; write for example kind=%1%,%2%"),
        (["tune", "depth.x=3"], "'depth.x=3': 'depth' is int, no group"),
        (["tune", "inner.lr=3"], "what runs inside a trial is given the trial's parameters, and no config of its own"),
        (["tune", "optimizer=Random"], "there is no optimizer named 'Random'; did you mean 'RandomOptimizer'?; there are Ax"),
        (["tune", "scheduler=asha"], "did you mean 'ASHAScheduler'?"),
        (["tune", "mode=maxx"], "'mode=maxx': expected 'min' or 'max'\n"),
        (["scope", "big"], "more.py:scope is a scope, nothing to run; ask it: sweep config why KEY more.py:scope"),
        (["Needs"], "Needs needs data: give data=VALUE"),
        (["Needs", "data=x"], "Needs needs gain: give gain=VALUE"),
        (["Needs", "DATA=x", "gain=2"], "unknown key 'DATA' ('DATA=x' for Needs); did you mean 'data'?"),
        (["Needs", "data=x", "gain=2", "extra=3"], "unknown key 'extra' ('extra=3' for Needs); there are: data, gain"),
        (["pipe", "tag=a"], "pipe needs settings, source: give settings=VALUE"),
        (["Train", "--lr", "3"], "Values are given without dashes: lr=VALUE."),
        (["Train", "settings.lrr=1"], "did you mean 'settings.lr'?"),
        (["Train", "settings=3"], "'settings=3': expected a valid dictionary or instance of Settings"),
        (["Train", "lr.x=3"], "'lr.x=3': expected a valid number"),
        (["Train", "--config", "nowhere.yaml"], "config file 'nowhere.yaml' does not exist"),
        (["Train", "--confg", "base.yaml"], "--config"),
        (["pipe", "source.path=p", "source.nn=3", "settings.lr=1", "tag=a"], "did you mean 'source.n'?"),
        (["pipe", "sorce.path=p"], "unknown key 'sorce' ('sorce.path=p' for pipe); did you mean 'source'?"),
        (["Study", "trian.lr=3"], "did you mean 'train'?"),
        (["Study", "train.lrr=3"], "unknown key 'lrr' ('train.lrr=3' for train); did you mean 'lr'?"),
        (["Study", "train=3"], "'train' is a run, not one value; write train.KEY=…"),
        (["Study", "exploration.lrr=3"], "did you mean 'lr'?"),
        (["Study", "exploration.lr=logg(1,2)"], "did you mean 'log'?"),
        (["scoped", "bigg"], "unknown view 'bigg' (scope 'settings'); did you mean 'big'?"),
        (["scoped", "train.lrr=3"], "did you mean 'train.lr'?"),
        (["scoped", "--env", "APP_"], "a scope names its own variables"),
        (["tags", "train.lr=fast"], "'train.lr' is a number"),
    ],
)
def test_mistakes_name_the_word_and_what_was_meant(run: Cli, more: Path, words: list[str], message: str) -> None:
    result = run(*words, code=2)
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert calls() == [], "nothing has run"
    assert not (more / "sweep.db").exists()
    assert not (more / "evil").exists()


# ---------------------------------------------------------------- dotted keys, files, environment


def test_dotted_keys_are_parts_of_models_and_dataclasses_typed_by_them(run: Cli) -> None:
    found = data(run("pipe", "settings.name=7", "source.path=9", "source.n=4", "tag=true", "--json"))
    assert found["state"]["text"] == "0.1 7 9 4 true"


def test_files_variables_and_words_stand_above_each_other(run: Cli, cli: Cli, more: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (more / "base.yaml").write_text("lr: 0.5\nsettings: {lr: 0.75, name: sgd}\n")
    (more / "top.toml").write_text("lr = 0.625\n")
    monkeypatch.setenv("APP_SETTINGS__NAME", "rms")
    monkeypatch.setenv("APP_LR", "0.875")
    run("Train", "--config", "base.yaml", "--config", "top.toml", "--env", "APP_", "settings.lr=2")
    assert calls() == ["fit 0.875"]
    shown = data(cli("show", "Train", "--json"))["params"]
    assert "rms" in json.dumps(shown)
    text = cli("config", "why", "lr", "Train").stdout
    assert [line.split()[0] for line in text.splitlines()] == ["lr", "schema", "file", "file", "environment"]
    assert "0.625 → 0.875" in text
    assert "sgd" in cli("config", "why", "settings.name", "Train").stdout


def test_a_plain_pipeline_and_what_a_function_was_given_say_where_values_are_from(
    run: Cli, cli: Cli, more: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (more / "base.yaml").write_text("tag: low\nsource: {path: p}\nsettings: {lr: 0.75}\n")
    monkeypatch.setenv("APP_TAG", "middle")
    run("pipe", "--config", "base.yaml", "--env", "APP_", "source.n=4", "tag=top")
    lines = cli("config", "why", "tag", "pipe").stdout.splitlines()
    assert lines == ["tag = 'top'", "  file: base.yaml", "  environment: APP_TAG=middle", "  command line: tag=top"]
    assert cli("config", "why", "source.path", "pipe").stdout.splitlines()[1:] == [
        "  file: base.yaml",
        "  command line: source.n=4",
    ]
    assert data(cli("config", "why", "settings", "pipe", "--json"))["source"] == "file: base.yaml"
    assert "did you mean 'source'?" in cli("config", "why", "sorce", "pipe", code=2).stderr
    cli("run", "work.py:make", "most=2", "--budget", "1", "--store", "sweep.db")
    assert "command line: most=2" in cli("config", "why", "most", "made").stdout


def test_a_sweep_reads_ranges_from_a_file(run: Cli, more: Path) -> None:
    (more / "space.yaml").write_text("lr: log(1e-3, 1e-1)\ndepth: 5\n")
    run("tune", "--config", "space.yaml", "--budget", "1")
    assert space_of("tune") == SearchSpace({"lr": LogUniform(1e-3, 1e-1), "depth": Constant(5)})


def test_a_resume_reads_the_same_file_and_refuses_it_when_it_has_changed(run: Cli, cli: Cli, more: Path) -> None:
    (more / "base.yaml").write_text("lr: 13\n")
    run("Train", "--config", "base.yaml", code=1)
    assert "unlucky" in cli("resume", "Train", code=1).stderr
    (more / "base.yaml").write_text("lr: 14\n")
    assert "fields.lr: 13.0 -> 14.0" in cli("resume", "Train", code=2).stderr
    cli("resume", "Train", "--allow-changed")
    assert calls() == ["fit 13.0", "fit 13.0", "fit 14.0"]


def test_python_tags_in_a_file_run_nothing(run: Cli, more: Path) -> None:
    (more / "evil.yaml").write_text("lr: !!python/object/apply:os.mkdir [evil]\n")
    result = run("Train", "--config", "evil.yaml", code=2)
    assert "evil.yaml:1" in result.stderr
    assert not (more / "evil").exists()


# ---------------------------------------------------------------- runs inside, and scopes


def test_runs_inside_are_given_their_own_words(run: Cli, cli: Cli) -> None:
    run("Study", "exploration.lr=uniform(5,6)", "exploration.depth=2", "train.lr=3", "n=9", "--budget", "2")
    *trials, last = calls()
    assert last == "fit 3.0"
    assert all(5 <= float(line.split()[0]) <= 6 and line.split()[1] == "2" for line in trials)
    text = cli("config", "why", "lr", "Study/train/train").stdout
    assert "train.lr=3" in text
    assert "0.5 → 3" in text
    assert "exploration.lr=uniform(5,6)" in cli("config", "why", "lr", "Study/explore/exploration").stdout
    run("Study", "exploration.lr=0.5", "train={lr: 6, settings: {name: sgd}}", "--budget", "1")
    assert calls()[-1] == "fit 6.0"
    assert "0.5 → 6" in cli("config", "why", "lr", "Study#2/train/train").stdout
    assert "'adam' → 'sgd'" in cli("config", "why", "settings.name", "Study#2/train/train").stdout


def test_words_are_those_of_the_scope_that_the_experiment_has(run: Cli, cli: Cli) -> None:
    text = run("scoped", "big", "exploration.lr=uniform(5,6)", "exploration.depth=2", "--budget", "1").stderr
    assert "no view" not in text, "a run inside takes it"
    *trials, last = calls()
    assert last == "fit 4.0"
    assert all(line.split()[1] == "2" for line in trials)
    assert all(float(line.split()[0]) >= 5 for line in trials)
    text = cli("config", "why", "train.lr", "scoped").stdout
    assert "0.25 → 4.0" in text
    assert "defaults more.py:" in text
    assert "finished already" in cli("resume", "scoped").stderr


def test_words_reach_the_scope_that_is_a_stage(run: Cli, cli: Cli) -> None:
    assert data(run("tags", "big", "train.lr=8", "--json"))["state"]["lr"] == 8.0
    assert "4.0 → 8.0" in cli("config", "why", "train.lr", "tags").stdout
    assert data(run("Staged", "big", "train.lr=8", "--json"))["value"] == 8.0
    assert data(run("Staged", "train.lr=8", "n=3", "--json"))["value"] == 24.0
    assert "did you mean 'train.lr'?" in run("Staged", "train.lrr=8", code=2).stderr


def test_why_is_said_of_an_experiment_before_it_runs(cli: Cli, more: Path) -> None:
    (more / "base.yaml").write_text("lr: 0.75\n")
    text = cli("config", "why", "lr", "more.py:Train", "--config", "base.yaml", "lr=2").stdout
    assert [line.split()[0] for line in text.splitlines()] == ["lr", "schema", "file", "command"]
    assert "0.75 → 2" in text
    text = cli("config", "why", "train.lr", "more.py:scoped", "big").stdout
    assert "0.25 → 4.0" in text
    assert "did you mean 'lr'?" in cli("config", "why", "lrr", "more.py:Train", "lr=2", code=2).stderr
    assert "train.lr = 8" in cli("config", "why", "train.lr", "more.py:scope", "train.lr=8").stdout
    assert not (more / "sweep.db").exists()


def test_validate_checks_the_words_too(cli: Cli, more: Path) -> None:
    assert "fits together" in cli("validate", "more.py:tune", "lr=log(1,2)").stdout
    assert "did you mean 'lr'?" in cli("validate", "more.py:Study", "train.lrr=1", code=2).stderr
    assert not (more / "sweep.db").exists()
