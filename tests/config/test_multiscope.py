"""MultiScope: namespaces that do not touch, one command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from sweep.config import ADict, MultiScope, Scope, explain
from sweep.errors import ConfigError, UnknownName


def team() -> tuple[MultiScope, Scope, Scope]:
    model, data = Scope(name="model"), Scope(name="data")

    @model.observe(default=True)
    def resnet(model: ADict) -> None:
        model.backbone = "resnet50"
        model.lr = 0.1

    @model.observe(priority=1)
    def big(model: ADict) -> None:
        model.backbone = "resnet101"

    @model.observe(priority=2)
    def tuned(model: ADict) -> None:
        model.lr = 0.05

    @data.observe(default=True, priority=99)
    def cifar(data: ADict) -> None:
        data.dataset = "cifar10"
        data.lr = 0.001

    @data.observe("tuned")
    def other(data: ADict) -> None:
        data.lr = 5.0

    @data.observe()
    def imagenet(data: ADict) -> None:
        data.dataset = "imagenet"

    return MultiScope(model, data), model, data


def test_scopes_are_isolated() -> None:
    scope, _, _ = team()

    @scope
    def train(model: Any, data: Any) -> Any:
        return model.backbone, model.lr, data.dataset, data.lr

    assert train() == ("resnet50", 0.1, "cifar10", 0.001)
    scope.parse(["big", "imagenet", "model.lr=1", "data.tuned"])
    assert train() == ("resnet101", 1.0, "imagenet", 5.0)
    assert scope.resolve([]).to_dict() == {
        "model": {"backbone": "resnet50", "lr": 0.1},
        "data": {"dataset": "cifar10", "lr": 0.001},
    }
    assert scope.resolve(["model={}", "data={lr: 2}"]).to_dict() == {
        "model": {"backbone": "resnet50", "lr": 0.1},
        "data": {"dataset": "cifar10", "lr": 2.0},
    }
    assert scope.result_type is ADict


@pytest.mark.parametrize(
    ("words", "kind", "said"),
    [
        (["tuned"], ConfigError, r"in 2 scopes; write model.tuned or data.tuned"),
        (["imagnet"], UnknownName, "did you mean 'imagenet'"),
        (["data.big"], UnknownName, "unknown view 'big'"),
        (["modle.tuned"], UnknownName, r"did you mean 'model\.tuned'"),
        (["modl.lr=1"], UnknownName, "unknown scope 'modl'.*did you mean 'model'"),
        (["lr=1"], UnknownName, "unknown scope 'lr'.*model.lr=1"),
        (["model.lrr=1"], UnknownName, "did you mean 'lr'"),
        (["model.dataset=x", "data.datset=1"], UnknownName, "dataset"),
        (["model=1"], ConfigError, "'model' is a scope"),
        (["model.lr=abc"], ConfigError, "'lr' is a number"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*no view of 'model'")
def test_wrong_words(words: list[str], kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said):
        team()[0].resolve(words)


def test_parameters() -> None:
    class Settings(BaseModel):
        size: int = 3

    class Other(BaseModel):
        depth: int = 4

    scope = MultiScope(Scope(Settings, name="one"), Scope(Other, name="two"))

    @scope
    def typed(x: int, s: Settings, /, t: Other, y: int = 1) -> Any:
        return x, s.size, t.depth, y

    @scope
    def spread(one: Settings, **rest: Any) -> Any:
        return one.size, sorted(rest), rest.get("z")

    @scope
    def only_one(x: int, two: Any) -> Any:
        return x, two.depth

    @scope
    def wrong(onee: Any) -> None: ...

    assert typed(9) == (9, 3, 4, 1)
    assert spread(z=5) == (3, ["two", "z"], 5)
    assert only_one(2) == (2, 4)
    with pytest.raises(ConfigError, match=r"wrong\(\): parameter 'onee'.*did you mean 'one'"):
        wrong()


def test_functions_of_one_scope_inside_a_function_of_all() -> None:
    scope, model, _ = team()

    @model
    def build(model: ADict) -> str:
        return f"{model.backbone} {model.lr}"

    @scope
    def train(model: ADict, data: ADict) -> str:
        return build()

    scope.parse(["big", "data.lr=3", "model.lr=2"])
    assert train() == "resnet101 2.0"
    assert build() == "resnet50 0.1"


def test_files_and_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scope = MultiScope(*team()[0].scopes, env_prefix="APP_")
    (tmp_path / "c.yaml").write_text("model: {lr: 3}\ndata: {dataset: mine}\n")
    monkeypatch.setenv("APP_DATA__LR", "7")
    found = scope.resolve(["--config", str(tmp_path / "c.yaml"), "model.backbone=x"])
    assert found.model == {"backbone": "x", "lr": 3.0}
    assert found.data == {"dataset": "mine", "lr": 7.0}
    (tmp_path / "c.yaml").write_text("modle: {lr: 3}\n")
    with pytest.raises(UnknownName, match="did you mean 'model'"):
        scope.resolve(["--config", str(tmp_path / "c.yaml")])


def test_why_over_several_scopes() -> None:
    scope, _, _ = team()
    scope.parse(["big", "model.tuned", "data.lr=2"])
    assert [step.name for step in scope.why("model.lr")] == ["resnet", "tuned"]
    assert [step.kind for step in scope.why("data.lr")] == ["default", "command line"]
    assert explain("data.lr", scope) == explain("data.lr", scope.layers_as_data()) == str(scope.why("data.lr"))
    with pytest.raises(UnknownName, match="did you mean 'model'"):
        scope.why("modl.lr")
    other = team()[0]
    other.parse([])
    assert other.diff(scope) == [
        "data.lr: 0.001 → 2.0",
        "model.backbone: 'resnet50' → 'resnet101'",
        "model.lr: 0.1 → 0.05",
    ]
    scope.resolve(["big", "model.tuned", "data.lr=2"])
    assert set(scope.unread()) == {"model.backbone", "model.lr", "data.dataset", "data.lr"}


def test_names_must_differ() -> None:
    with pytest.raises(ConfigError, match="two scopes are named 'config'"):
        MultiScope(Scope(), Scope())
    with pytest.raises(ConfigError, match="needs scopes"):
        MultiScope()
