"""The same inputs through Ato 2.2.1 itself: where it is right we agree, where it is wrong the test says why."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sweep.config import ADict, Scope, structural_hash

pytest.importorskip("ato.scope")

VIEWS = """
def define(scope, Scope):
    @scope.observe(default=True)
    def defaults(cfg):
        cfg.lr = 0.001
        cfg.epochs = 100
        cfg.name = 'base'
        cfg.model = {'depth': 50, 'parts': [1, 2]}

    @scope.observe(priority=1)
    def high_lr(cfg):
        cfg.lr = 0.01

    @scope.observe(priority=2, chain_with='high_lr')
    def long_training(cfg):
        cfg.epochs = 300

    @scope.observe(lazy=True)
    def computed(cfg):
        cfg.warmup = cfg.epochs // 10

    @scope.observe(lazy=True)
    def greedy(cfg):
        cfg.lr = 9.0
"""

ATO = """
import json, sys
from ato.adict import ADict
from ato.scope import Scope
from views import define
found = []
for words in json.loads(sys.argv[1]):
    Scope.registry.clear()
    Scope.parsed, Scope.stored_arguments = False, None
    sys.argv = ['train.py', *words]
    scope = Scope()
    define(scope, Scope)
    @scope
    def train(config):
        return config.to_dict()
    found.append(train())
print(json.dumps(found))
"""

AGREE = [
    [],
    ["high_lr"],
    ["long_training"],
    ["long_training", "high_lr"],
    ["lr=0.5"],
    ["lr=1e-5", "epochs=7"],
    ["model.depth=101"],
    ["model.parts=[3,4,5]"],
    ["computed", "epochs=50"],
    ["high_lr", "computed", "model.depth=3"],
]
DIFFER = [
    ["greedy", "lr=0.5"],  # a lazy view overrules the command line
    ["lrr=0.5"],  # a typo becomes a new key
    ["hihg_lr"],  # an unknown view is ignored
]


@pytest.fixture(scope="module")
def by_ato(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    folder = tmp_path_factory.mktemp("ato")
    (folder / "views.py").write_text(VIEWS)
    (folder / "run.py").write_text(ATO)
    command = [sys.executable, "run.py", json.dumps(AGREE + DIFFER)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=dict(os.environ), check=False)  # our own script
    assert done.returncode == 0, done.stderr
    found: list[Any] = json.loads(done.stdout)
    return found


def by_us(words: list[str]) -> Any:
    scope = Scope()
    space: dict[str, Any] = {}
    exec(VIEWS, space)  # noqa: S102  # the text above, given to both
    space["define"](scope, Scope)
    return scope.resolve(words).to_dict()


@pytest.mark.parametrize("index", range(len(AGREE)), ids=[" ".join(words) or "nothing" for words in AGREE])
def test_same_config(index: int, by_ato: list[Any]) -> None:
    assert by_us(AGREE[index]) == by_ato[index]


def test_the_percent_signs_of_its_own_first_example_fail_in_ato() -> None:
    parser = pytest.importorskip("ato.parser")
    assert parser.parse_command("name=%resnet101%") == ["name=%resnet101%"]  # executed as Python, a SyntaxError
    assert by_us(["name=%resnet101%"])["name"] == "resnet101"


def test_where_ato_is_wrong(by_ato: list[Any]) -> None:
    lazy, typo, view = by_ato[len(AGREE) :]
    assert lazy["lr"] == 9.0
    assert by_us(DIFFER[0])["lr"] == 0.5
    assert typo["lrr"] == 0.5
    assert view["lr"] == 0.001
    for words in DIFFER[1:]:
        with pytest.raises(Exception, match="did you mean"):
            by_us(words)


def test_adict_agrees() -> None:
    theirs = pytest.importorskip("ato.adict").ADict
    one = {"lr": 0.1, "model": {"depth": 50, "parts": [1, {"a": 2}]}}
    two = {"model": {"depth": 1, "parts": [3]}, "lr": 5.0}
    for kind in (ADict, theirs):
        first, second = kind(**one), kind(**two)
        assert first.get_structural_hash() == second.get_structural_hash()
        assert first.get_structural_hash() != kind(lr="0.1", model=one["model"]).get_structural_hash()
        assert first.model.parts[1].a == 2
        first.update_if_absent(lr=9, new=1)
        assert first.to_dict() == {**one, "new": 1}
        fresh = kind(**two)
        _ = fresh.model.depth
        assert fresh.get_minimal_config().to_dict() == {"model": {"depth": 1}}
        auto = kind.auto()
        auto.a.b.c = 1
        assert auto.to_dict() == {"a": {"b": {"c": 1}}}


def test_where_atos_adict_is_wrong() -> None:
    theirs = pytest.importorskip("ato.adict").ADict
    assert theirs().get_structural_hash() == theirs(a={}).get_structural_hash()  # empty parts vanish
    assert structural_hash({}) != structural_hash({"a": {}})
    assert theirs(**{"a.b": 1}).get_structural_hash() == theirs(a={"b": 1}).get_structural_hash()
    assert structural_hash({"a.b": 1}) != structural_hash({"a": {"b": 1}})
    for kind, counted in ((theirs, True), (ADict, False)):  # hashing counts as reading
        hashed = kind(unread=1)
        hashed.get_structural_hash()
        assert ("unread" in hashed.get_minimal_config()) == counted
    auto = theirs.auto()
    _ = auto.typo
    assert "typo" in auto  # reading makes a key
    assert "typo" not in ADict.auto()
    frozen = theirs(lr=1).freeze()
    frozen.lr = 2  # ignored without a word
    assert frozen.lr == 1


def test_files_agree(tmp_path: Path) -> None:
    theirs = pytest.importorskip("ato.adict").ADict
    data = {"lr": 0.1, "layers": [64, 128], "model": {"name": "resnet50", "on": True}}
    for suffix in ("json", "yaml", "toml", "xyz"):
        theirs(**data).dump(str(tmp_path / f"theirs.{suffix}"))
        ADict(data).dump(tmp_path / f"ours.{suffix}")
        assert ADict.from_file(tmp_path / f"theirs.{suffix}") == data
        assert theirs.from_file(str(tmp_path / f"ours.{suffix}")).to_dict() == data
