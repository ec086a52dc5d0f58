"""Scope(Model): typed, defaults, constraints, frozen result."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, field_validator

from sweep.config import ADict, Scope
from sweep.errors import ConfigError, UnknownName


class Model(BaseModel):
    backbone: str = "resnet50"
    depth: int = Field(50, ge=1)


class Train(BaseModel):
    lr: float = Field(0.1, gt=0, description="Learning rate")
    name: str = "run"
    kind: Literal["adam", "sgd"] = "adam"
    model: Model = Model(depth=18)
    head: Model | None = None
    tags: list[str] = []
    betas: tuple[float, float] = (0.9, 0.99)
    out: Path = Path("out")
    free: dict[str, Any] = {}
    on: bool = False
    steps: int = 3


def test_defaults_and_overrides_in_the_schemas_types() -> None:
    scope = Scope(Train)
    assert scope.result_type is Train
    assert scope.resolve([]) == Train()
    words = "lr=1 name=123 model.depth=7 head.depth=3 tags=[a,%1%] betas=[1,2] out=x/y free.a.b=1 on=true kind=sgd"
    found = scope.resolve(words)
    assert isinstance(found, Train)
    assert found == Train(
        lr=1.0,
        name="123",
        model=Model(depth=7),
        head=Model(depth=3),
        tags=["a", "1"],
        betas=(1.0, 2.0),
        out=Path("x/y"),
        free={"a": {"b": 1}},
        on=True,
        kind="sgd",
    )
    assert type(found.lr) is float


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("lr=abc", r"'lr' \(lr=abc\).*number.*got abc"),
        ("lr=log(1e-5,1e-1)", "search ranges are read by"),
        ("lr=-1", "greater than 0"),
        ("lr=%0.1%", "str is no float"),
        ("lr=__import__('os').mkdir('made')", "'lr'"),
        ("steps=1.5", "integer"),
        ("steps=true", "bool is no int"),
        ("on=2", "boolean"),
        ("kind=adm", "'adam' or 'sgd'"),
        ("model=3", "'model' is a group"),
        ("lr.x=3", "'lr' is a float, no group"),
        ("tags=3", "list"),
        ("betas=[1,2,3]", "at most 2"),
        ("tags=[1]", "'tags"),
    ],
)
def test_wrong_values_are_errors_that_name_key_word_and_value(
    word: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=said):
        Scope(Train).resolve([word])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("modle.depth=3", "did you mean 'model'"),
        ("model.dept=3", "did you mean 'model.depth'"),
        ("zzz=3", "there are: betas"),
    ],
)
def test_unknown_keys_are_errors(word: str, said: str) -> None:
    with pytest.raises(UnknownName, match=said):
        Scope(Train).resolve([word])


def test_views_are_checked_too() -> None:
    scope = Scope(Train)

    @scope.observe()
    def text(cfg: ADict) -> None:
        cfg.lr = "0.1"
        cfg.model.depth = True

    @scope.observe()
    def typo(cfg: ADict) -> None:
        cfg.model.dept = 3

    @scope.observe(lazy=True)
    def double(cfg: ADict) -> None:
        cfg.lr = cfg.lr * 2
        cfg.model.depth += 1

    with pytest.raises(ConfigError, match=r"(?s)'lr' .*view text.*str, no float.*'model.depth'.*bool, no int"):
        scope.resolve(["text"])
    with pytest.raises(UnknownName, match=r"model.dept.*test_config_schema.py:\d+.*model.depth"):
        scope.resolve(["typo"])
    found = scope.resolve(["double", "lr=3"])
    assert (found.lr, found.model.depth) == (3.0, 19)


def test_a_required_field_without_a_value_is_named() -> None:
    class Needs(BaseModel):
        data: str

    with pytest.raises(ConfigError, match="'data': Field required"):
        Scope(Needs).resolve([])
    assert Scope(Needs).resolve(["data=x"]) == Needs(data="x")


def test_the_result_is_frozen_and_still_the_model() -> None:
    found = Scope(Train).resolve(["head.depth=2"])
    for change in (
        lambda: setattr(found, "lr", 1.0),
        lambda: setattr(found.model, "depth", 1),
        lambda: setattr(found.head, "depth", 1),
        lambda: delattr(found, "lr"),
    ):
        with pytest.raises(ConfigError, match="frozen"):
            change()
    same = Train(head=Model(depth=2))
    assert found == same
    assert same == found
    assert found != Train()
    assert repr(found) == repr(same)
    assert found.model_dump_json() == same.model_dump_json()
    again = pickle.loads(pickle.dumps(found))  # our own bytes
    assert again == found
    with pytest.raises(ConfigError, match="frozen"):
        again.model.depth = 1
    assert copy.deepcopy(found) == found
    assert found.model_copy(update={"lr": 2.0}).lr == 2.0
    assert found.model_fields_set == {"head"}  # the rest is the schema's own
    same.lr = 5.0  # the user's own class is as it was
    assert Train(model=found.model).model is found.model


def test_models_inside_lists_and_mappings_are_frozen_too() -> None:
    class Net(BaseModel):
        blocks: list[Model] = [Model()]
        named: dict[str, Model] = {"a": Model()}

    found = Scope(Net).resolve(["blocks=[{depth: 3}]"])
    for inner in (found.blocks[0], found.named["a"]):
        with pytest.raises(ConfigError, match="frozen"):
            inner.depth = 1


def test_aliases_validators_and_open_models() -> None:
    class Odd(BaseModel):
        model_config = ConfigDict(extra="allow", frozen=True)
        rate: float = Field(0.1, alias="learning-rate")
        size: int = 1
        doubled: int = Field(default_factory=lambda data: data["size"] * 2)

        @field_validator("size", mode="before")
        @classmethod
        def thousands(cls, value: Any) -> Any:
            return int(value[:-1]) * 1000 if isinstance(value, str) and value.endswith("k") else value

    found = Scope(Odd).resolve(["rate=1", "size=10k", "extra.key=1"])
    assert isinstance(found, Odd)
    assert (found.rate, found.size, found.doubled) == (1.0, 10_000, 20_000)
    assert found.model_extra == {"extra": {"key": 1}}


def test_a_schema_must_be_a_model() -> None:
    with pytest.raises(ConfigError, match="pydantic model"):
        Scope({"lr": 1})  # type: ignore[arg-type]  # what is tested


def test_the_manual_shows_descriptions(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        Scope(Train).parse(["manual"])
    assert "config.lr: Learning rate" in capsys.readouterr().out
