"""A scope of configuration as a stage of a durable pipeline."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import BaseModel

from sweep import Pipeline, open_store
from sweep.config import ADict, Scope
from sweep.errors import ContractError, ResumeRefused


class Settings(BaseModel):
    """A schema."""

    lr: float = 0.1
    depth: int = 2


def schema_pipeline(scope: Scope) -> Pipeline:
    return (
        Pipeline()
        .stage("config", scope)
        .through(Settings)
        .stage("use", lambda lr, depth: lr * depth)
        .through(score=float)
    )


def test_values_reach_later_stages_and_layers_are_kept(tmp_path: Path) -> None:
    scope = Scope(Settings, name="settings")
    scope.parse(["lr=0.5"])
    state = schema_pipeline(scope).run(name="kept", store=tmp_path / "s.db")
    assert state.score == 1.0
    with open_store(tmp_path / "s.db") as store:
        ((text,),) = store.rows("SELECT value FROM journal WHERE key='config!config'")
    assert {layer["kind"] for layer in json.loads(text)} >= {"schema", "command line"} or "0.5" in text


def test_a_changed_config_is_another_run_and_must_refuses_with_the_difference(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scope = Scope(Settings, name="settings")
    scope.parse([])
    pipeline = schema_pipeline(scope)
    pipeline.run(name="kept", store=tmp_path / "s.db")
    scope.parse(["lr=0.2"])
    with pytest.raises(ResumeRefused) as refused:
        pipeline.run(name="kept", store=tmp_path / "s.db", resume="must")
    assert any("lr: 0.1 -> 0.2" in line for line in refused.value.diff)
    assert pipeline.run(name="kept", store=tmp_path / "s.db").score == pytest.approx(0.4)
    assert "lr: 0.1 -> 0.2" in capsys.readouterr().err


def test_without_a_schema_the_config_is_an_adict_again_after_a_resume(tmp_path: Path) -> None:
    scope = Scope(name="free")

    @scope.observe(default=True)
    def view(config: ADict) -> None:
        config.model.depth = 3

    pipeline = (
        Pipeline().stage("config", scope).through(config=ADict).stage("use", lambda config: config.model.depth).through(n=int)
    )
    pipeline.run(name="kept", store=tmp_path / "s.db")
    again = pipeline.run(name="kept", store=tmp_path / "s.db", resume="must")
    assert isinstance(again.config, ADict)
    assert again.config.model.depth == again.n == 3


def test_a_wrong_config_is_a_problem_of_check(tmp_path: Path) -> None:
    scope = Scope(Settings, name="settings")
    with pytest.raises(Exception, match="lrr"):
        scope.parse(["lrr=0.2"])
    pipeline = schema_pipeline(scope).stage("more", lambda dept: dept)
    with pytest.raises(ContractError, match="did you mean 'depth'"):
        pipeline.check()


def test_the_command_line_says_why_a_kept_value_is_what_it_is(tmp_path: Path) -> None:
    from click.testing import CliRunner

    from sweep.cli.app import app

    scope = Scope(Settings, name="settings")
    scope.parse(["lr=0.5"])
    schema_pipeline(scope).run(name="kept", store=tmp_path / "s.db")
    done = CliRunner().invoke(app, ["config", "why", "lr", "kept", "--store", str(tmp_path / "s.db")])
    assert done.exit_code == 0, done.output
    assert "lr=0.5" in done.output
    assert "schema" in done.output
