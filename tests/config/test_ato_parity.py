"""The same inputs through Ato: 2.2.1 itself, and 2.0.2's answers as recorded (see ``ato_facts.py``).

Where Ato is right we agree; where it is wrong, or its two versions differ, the test says why.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sweep.config import ADict, Scope, structural_hash

HERE = Path(__file__).parent
spec = importlib.util.spec_from_file_location("ato_facts", HERE / "ato_facts.py")
assert spec is not None
assert spec.loader is not None
ato_facts = importlib.util.module_from_spec(spec)
spec.loader.exec_module(ato_facts)

RIGHT = [" ".join(words) for words in ato_facts.COMMAND_LINES]


@pytest.fixture(scope="module", params=["2.0.2", "2.2.1"])
def facts(request: pytest.FixtureRequest) -> dict[str, Any]:
    """What a version of Ato does: recorded, or by the version that is installed."""
    if request.param == "2.0.2":
        recorded: dict[str, Any] = json.loads((HERE.parent / "golden" / "config" / "ato_2_0_2.json").read_text())
        assert recorded["version"] == "2.0.2"
        return recorded
    pytest.importorskip("ato.scope")
    done = subprocess.run(  # our own script
        [sys.executable, str(HERE / "ato_facts.py")], capture_output=True, text=True, env=dict(os.environ), check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["version"] == "2.2.1"
    return found


def by_ato(facts: dict[str, Any]) -> dict[str, Any]:
    return {" ".join(one["words"]): one["config"] for one in facts["scope"]}


def by_us(words: str) -> Any:
    scope = Scope()
    ato_facts.define(scope)
    return scope.resolve(words).to_dict()


@pytest.mark.parametrize("words", RIGHT, ids=[words or "nothing" for words in RIGHT])
def test_same_config(words: str, facts: dict[str, Any]) -> None:
    assert by_us(words) == by_ato(facts)[words]


def test_text_between_percent_signs_is_right_in_2_0_2_and_a_syntax_error_in_2_2_1(facts: dict[str, Any]) -> None:
    theirs = by_ato(facts)["name=%resnet101%"]
    if facts["version"] == "2.2.1":
        assert theirs == "SyntaxError"  # the word is executed as Python, percent signs and all: its own first example
        return
    assert theirs["name"] == "resnet101"
    assert by_us("name=%resnet101%") == theirs


def test_where_ato_is_wrong(facts: dict[str, Any]) -> None:
    theirs = by_ato(facts)
    assert theirs["greedy lr=0.5"]["lr"] == 9.0  # a lazy view overrules the command line
    assert by_us("greedy lr=0.5")["lr"] == 0.5
    assert theirs["lrr=0.5"]["lrr"] == 0.5  # a typo becomes a new key
    assert theirs["hihg_lr"]["lr"] == 0.001  # an unknown view is ignored
    for words in ("lrr=0.5", "hihg_lr"):
        with pytest.raises(Exception, match="did you mean"):
            by_us(words)


def test_adict_agrees(facts: dict[str, Any]) -> None:
    assert json.loads(json.dumps(ato_facts.adict_facts(ADict))) == facts["adict"]
    assert facts["adict"]["update_if_absent"]["lr"] == 0.1, "the facts themselves say what the documents do"


def test_files_agree(tmp_path: Path, facts: dict[str, Any]) -> None:
    for suffix, text in facts["files"].items():
        (tmp_path / f"theirs.{suffix}").write_text(text)
        assert ADict.from_file(tmp_path / f"theirs.{suffix}") == ato_facts.DATA


def test_ato_reads_our_files(tmp_path: Path) -> None:
    theirs = pytest.importorskip("ato.adict").ADict
    for suffix in ("json", "yaml", "toml", "xyz"):
        ADict(ato_facts.DATA).dump(tmp_path / f"ours.{suffix}")
        assert theirs.from_file(str(tmp_path / f"ours.{suffix}")).to_dict() == ato_facts.DATA


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
