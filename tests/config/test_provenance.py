"""The one list of layers: why, diff, plain data; cheap."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from sweep.config import ADict, Scope, diff, explain
from sweep.errors import ConfigError, UnknownName

LINES = Path(__file__).read_text().splitlines()


def line_of(text: str) -> str:
    return f"{Path(__file__).name}:{next(n for n, line in enumerate(LINES, 1) if line.strip() == text)}"


class Inner(BaseModel):
    depth: int = 50


class Train(BaseModel):
    lr: float = 0.1
    model: Inner = Inner()


def layered(schema: Any = Train) -> Scope:
    scope = Scope(schema)

    @scope.observe(default=True)
    def defaults(cfg: ADict) -> None:
        cfg.lr = 0.2
        cfg.update(model={"depth": 18})

    @scope.observe()
    def big(cfg: ADict) -> None:
        cfg.model.depth = 101

    @scope.observe(lazy=True)
    def scaled(cfg: ADict) -> None:
        cfg.lr = cfg.lr * 10

    return scope


def test_every_layer_is_named_with_its_line_and_both_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text("lr: 0.3\n")
    scope = layered()
    scope.parse("big scaled --config c.yaml lr=0.5 model.depth=7")
    steps = scope.why("lr")
    assert [(s.kind, s.name, s.before, s.value, s.applied) for s in steps][1:] == [
        ("default", "defaults", 0.1, 0.2, True),
        ("lazy", "scaled", 0.2, 5.0, False),
        ("file", "c.yaml", 0.2, 0.3, True),
        ("command line", "", 0.3, 0.5, True),
    ]
    assert (steps[0].kind, steps[0].name, steps[0].value) == ("schema", "Train", 0.1)
    assert [step.where for step in steps][3:] == ["c.yaml", "lr=0.5"]
    assert steps[1].where.endswith(line_of("cfg.lr = 0.2"))
    assert steps[2].where.endswith(line_of("cfg.lr = cfg.lr * 10"))
    assert steps.value == 0.5
    depth = scope.why("model")
    assert [(step.key, step.value) for step in depth] == [("model.depth", value) for value in (50, 18, 101, 7)]
    assert depth[1].where.endswith(line_of('cfg.update(model={"depth": 18})'))
    text = explain("lr", scope)
    assert text == str(steps)
    assert text.splitlines()[0] == "lr = 0.5"
    assert "5.0 lost to the explicit value" in text
    with pytest.raises(UnknownName, match=r"did you mean 'model\.depth'"):
        scope.why("model.dept")


def test_replaced_and_removed_parts_are_seen() -> None:
    scope = Scope()

    @scope.observe(default=True)
    def first(cfg: ADict) -> None:
        cfg.model = {"depth": 1, "width": 2}
        cfg.layers = [1]
        cfg.gone = 1

    @scope.observe(default=True)
    def second(cfg: ADict) -> None:
        cfg.model = {"depth": 3}
        cfg.layers.append(2)
        del cfg.gone

    assert scope.resolve([]) == {"model": {"depth": 3}, "layers": [1, 2]}
    assert [repr(step.value) for step in scope.why("model.width")] == ["2", "(unset)"]
    assert [step.value for step in scope.why("layers")] == [[1], [1, 2]]
    assert [repr(step.value) for step in scope.why("gone")] == ["1", "(unset)"]
    assert diff({}, scope.layers_as_data()) == ["layers: (unset) → [1, 2]", "model.depth: (unset) → 3"]


def test_changes_in_place_belong_to_the_view_that_made_them() -> None:
    scope = Scope()

    @scope.observe(default=True)
    def first(cfg: ADict) -> None:
        cfg.layers = [1, 2]
        cfg.blocks = [{"n": 1}]
        cfg.names = {"a"}
        cfg.same = [1]

    @scope.observe(default=True)
    def second(cfg: ADict) -> None:
        cfg.layers[0] = 7
        cfg.blocks[0].n = 8
        cfg.names.add("b")
        _ = cfg.same[0]

    assert scope.resolve([]) == {"layers": [7, 2], "blocks": [{"n": 8}], "names": {"a", "b"}, "same": [1]}
    assert [(step.name, step.value) for step in scope.why("layers")] == [("first", [1, 2]), ("second", [7, 2])]
    assert [step.value for step in scope.why("blocks")] == [[{"n": 1}], [{"n": 8}]]
    assert [step.value for step in scope.why("names")] == [{"a"}, {"a", "b"}]
    assert len(scope.why("same")) == 1


def test_layers_are_plain_json_and_say_the_same() -> None:
    scope = layered(None)
    scope.parse(["big", "scaled", "lr=0.5"])
    data = json.loads(json.dumps(scope.layers_as_data()))
    assert data == scope.layers_as_data()
    assert [row["kind"] for row in data] == ["default", "view", "lazy", "command line"]
    for key in ("lr", "model", "model.depth"):
        assert explain(key, data) == explain(key, scope)
    assert diff(data, scope) == []
    with pytest.raises(UnknownName, match="did you mean 'lr'"):
        explain("lrr", data)


def test_keys_with_dots_are_told_apart() -> None:
    scope = Scope()

    @scope.observe(default=True)
    def odd(cfg: ADict) -> None:
        cfg["a.b"] = 1
        cfg.a = {"b": 2}

    scope.parse([])
    assert [step.value for step in scope.why("a.b")] == [2]
    assert [step.value for step in scope.why('["a.b"]')] == [1]
    assert [step.value for step in scope.why("a")] == [2]
    assert explain('["a.b"]', scope.layers_as_data()).startswith('["a.b"] = 1')


def test_diff_of_everything_with_everything() -> None:
    scope = layered()
    found = scope.parse(["lr=0.5"])
    assert diff(found, Train(lr=0.5, model=Inner(depth=18))) == []
    assert diff(found, {"lr": 0.5, "model": {"depth": 19}}) == ["model.depth: 18 → 19"]
    assert scope.diff(Train()) == ["lr: 0.5 → 0.1", "model.depth: 18 → 50"]
    assert diff({"a": 1, "n": float("nan")}, {"a": 1.0, "n": float("nan")}) == ["a: 1 → 1.0"]
    with pytest.raises(ConfigError, match="not a int"):
        diff({}, 3)


def test_a_thousand_keys_times_ten_views_with_history_are_cheap() -> None:
    """The bar is 20 ms and 20 times OmegaConf (benchmarks/config.py); here with room for a busy machine."""
    names = [f"key{n}" for n in range(1000)]
    scope = Scope()
    for number in range(10):

        def view(cfg: ADict, number: int = number) -> None:
            for name in names:
                setattr(cfg, name, number)

        scope.observe(f"view{number}", default=True)(view)
    took = []
    for words in ([], ["key1=0"], ["key2=0"]):
        begin = time.process_time()
        found = scope.resolve(words)
        took.append(time.process_time() - begin)
        assert found.key999 == 9
    assert len(scope.why("key5")) == 10
    assert min(took) < 0.1
