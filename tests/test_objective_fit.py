"""What a sweep says before it runs about an objective, a space and settings that do not fit; what generators yield."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
from pydantic import BaseModel, ConfigDict, Field, field_validator

from sweep import Choice, Integer, LogUniform, SweepExperiment, Uniform
from sweep.errors import ContractError, NoResult, StrategyError
from sweep.optimizers import OptunaOptimizer, RandomOptimizer
from sweep.schedulers import ASHAScheduler

LR = LogUniform(0.001, 1)
X = {"x": Uniform(0, 1)}


class Optimizer(BaseModel):
    name: str = "sgd"
    lr: float = Field(0.1, gt=0)


class Config(BaseModel):
    width: int = 3
    optimizer: Optimizer = Optimizer()


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    width: int = 3


class Judged(BaseModel):
    width: int

    @field_validator("width", mode="before")
    @classmethod
    def rounded(cls, value: Any) -> Any:
        return round(value)


@dataclass
class Needs:
    depth: int
    rate: float = 1.0


def whole(config: Config) -> float:
    return config.optimizer.lr * config.width


def other(config: Open) -> float:
    return float(config.width)


def judged(config: Judged) -> float:
    return float(config.width)


def needing(config: Needs) -> float:
    return config.depth * config.rate


def sweep_of(objective: Any, space: dict[str, Any], tmp_path: Path, **more: Any) -> SweepExperiment:
    given = {"optimizer": RandomOptimizer(), "seed": 0, "store": tmp_path / "sweep.db", **more}
    return SweepExperiment(objective, space, **given)


def by_place(x: float, /) -> float:
    return x


def choosing(x: bool) -> float:
    return float(x)


@pytest.mark.parametrize(
    ("objective", "space", "text"),
    [
        (
            whole,
            {"config.widht": Integer(1, 4)},
            "no field 'widht' for 'config.widht' of the space; did you mean 'width'",
        ),
        (whole, {"widht": Integer(1, 4)}, "no field 'widht' for 'widht' of the space; did you mean 'width'"),
        (whole, {"optimizer": {"nmae": Choice(["a", "b"])}}, "Optimizer has no field 'nmae'"),
        (whole, {"config.width": LR}, "'config.width' of Config is int, but the space gives float"),
        (whole, {"optimizer.lr": Choice(["0.1", "0.2"])}, "'optimizer.lr' of Optimizer is "),
        (needing, {"config.rate": LR}, "Needs needs 'config.depth', which is not in the space"),
        (judged, {"config.widht": LR}, "no field 'widht'"),
        (by_place, {"x": LR}, "parameter 'x' is positional-only, and a trial gives it by name"),
        (math.sin, {"x": LR}, "parameter 'x' is positional-only, and a trial gives it by name"),
        (max, {"x": LR}, "it does not tell its parameters; put it into a function of your own"),
        (choosing, {"x": LR}, "parameter 'x' is bool, but the space gives float"),
        (lambda x: x, {}, "parameter 'x' is not in the space; add it to the space, or give it a default. The space has: nothing"),
    ],
)
def test_parameters_that_no_field_takes_are_found_before_anything_runs(
    objective: Callable[..., float], space: dict[str, Any], text: str, tmp_path: Path
) -> None:
    with pytest.raises(ContractError, match=text.replace("(", r"\(")):
        sweep_of(objective, space, tmp_path).check()


@pytest.mark.parametrize(
    ("objective", "space"),
    [
        (whole, {"config.width": Integer(1, 4), "config.optimizer.lr": LR}),
        (whole, {"optimizer.lr": Integer(1, 4), "optimizer.name": Choice(["sgd", "adam"])}),
        (whole, {"optimizer": Choice([{"lr": 0.1}, {"name": "adam"}])}),
        (other, {"config.anything": LR}),
        (judged, {"config.width": Uniform(1, 4)}),
        (needing, {"depth": Integer(1, 4)}),
    ],
)
def test_parameters_that_a_class_takes_are_let_through(
    objective: Callable[..., float], space: dict[str, Any], tmp_path: Path
) -> None:
    assert sweep_of(objective, space, tmp_path).run(3).n_failed == 0


@pytest.mark.parametrize(
    ("constraint", "text"),
    [
        (lambda p: p["x"] < 0.5, "returned (True|False): expected a number"),
        (lambda p: np.float64(p["x"]) < 0.5, "returned .*(True|False).*: expected a number"),
        (lambda p: None, "returned None: expected a number"),
        (lambda p: p["y"], "constraint '<lambda>' raised KeyError: 'y', for {'x'"),
    ],
)
def test_a_constraint_gives_a_number(constraint: Any, text: str, tmp_path: Path) -> None:
    with pytest.raises(StrategyError, match=text):
        sweep_of(lambda x: x, X, tmp_path, constraints=[constraint]).run(3)


def test_one_constraint_and_one_point_to_try_first_need_no_list(tmp_path: Path) -> None:
    result = sweep_of(lambda x: x, X, tmp_path, constraints=lambda p: 0.5 - p["x"], enqueue={"x": 0.75}).run(5)
    assert result.trials[0].params == {"x": 0.75}
    assert min(trial.params["x"] for trial in result.trials) >= 0.5


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"resources": 2}, r"resources=2: expected Resources\("),
        ({"constraints": [3]}, "constraints: 3 is not callable"),
        ({"metric": ["a", "a"]}, "the same metric twice"),
    ],
)
def test_wrong_settings_are_refused_at_construction(settings: dict[str, Any], text: str, tmp_path: Path) -> None:
    with pytest.raises(ContractError, match=text):
        sweep_of(lambda x: x, X, tmp_path, **settings)


def test_no_best_trial_says_that_no_score_is_finite(tmp_path: Path) -> None:
    with pytest.raises(NoResult, match="no score of 3 trials is finite, the last is nan"):
        _ = sweep_of(lambda x: math.nan, X, tmp_path).run(3).best_score


def plain(x: float) -> Iterator[float]:
    for epoch in range(1, 10):
        yield x + 1 / epoch


def scalars(x: float) -> Iterator[Any]:
    for epoch in range(1, 10):
        yield np.float64(x + 1 / epoch)


async def later(x: float) -> AsyncIterator[float]:
    for epoch in range(1, 10):
        yield x + 1 / epoch


@pytest.mark.parametrize("metric", [None, "loss"])
@pytest.mark.parametrize("objective", [plain, scalars, later])
def test_a_number_that_a_generator_yields_is_the_metric(objective: Any, metric: str | None, tmp_path: Path) -> None:
    result = sweep_of(objective, X, tmp_path, metric=metric, scheduler=ASHAScheduler(max_epochs=9)).run(9)
    assert result.n_failed == 0
    assert result.best_score == pytest.approx(result.best_params["x"] + 1 / 9)
    assert result.best_trial.metrics == {metric or "value": result.best_score}


def test_a_sampler_of_one_objective_says_so_where_there_are_two(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    pytest.importorskip("cmaes")
    sweep = sweep_of(
        lambda x, y: {"a": x, "b": y},
        {**X, "y": Uniform(0, 1)},
        tmp_path,
        metric=["a", "b"],
        optimizer=OptunaOptimizer(sampler="CmaEs"),
    )
    with pytest.raises(StrategyError, match="CmaEsSampler with several objectives"):
        sweep.run(3)


def test_a_change_that_is_taken_back_is_told_of_the_run_it_left_unfinished(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scopes: list[anyio.CancelScope] = []

    async def waits(x: float) -> float:
        for scope in scopes:
            scope.cancel()
        await anyio.sleep(0 if (tmp_path / "go").exists() else 60)
        return x

    async def cut_short() -> None:
        with anyio.CancelScope() as scope:
            scopes.append(scope)
            await sweep_of(waits, X, tmp_path, name="s").run(6)
        scopes.clear()

    anyio.run(cut_short)
    (tmp_path / "go").touch()
    assert sweep_of(waits, {"x": Uniform(0, 2)}, tmp_path, name="s").run(3).path == "s#2"
    capsys.readouterr()
    assert sweep_of(waits, X, tmp_path, name="s").run(3).path == "s#3"
    assert "'s' was this very sweep and is unfinished; to go on with it: sweep resume 1" in capsys.readouterr().err
    assert sweep_of(waits, {"x": Uniform(0, 3)}, tmp_path, name="s").run(3).path == "s#4"
    assert "unfinished" not in capsys.readouterr().err
