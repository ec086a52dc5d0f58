"""What Ato itself makes of the inputs of ``test_ato_parity.py``, as JSON on stdout.

Facts of a version that is not installed are golden data: ``pip install --target DIR ato==2.0.2``,
``PYTHONPATH=DIR python ato_facts.py > ../golden/config/ato_2_0_2.json``.
"""

from __future__ import annotations

import json
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

COMMAND_LINES = [
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
    ["high_lr", "lr=0.5", "epochs=1"],
]
WRONG = [
    ["greedy", "lr=0.5"],  # a lazy view overrules the command line
    ["lrr=0.5"],  # a typo becomes a new key
    ["hihg_lr"],  # an unknown view is ignored
    ["name=%resnet101%"],  # its own first example
]
ONE = {"lr": 0.1, "model": {"depth": 50, "parts": [1, {"a": 2}]}}
TWO = {"model": {"depth": 1, "parts": [3]}, "lr": 5.0}
DATA = {"lr": 0.1, "layers": [64, 128], "model": {"name": "resnet50", "on": True}}


def define(scope: Any) -> None:
    """Define the views, for Ato and for us."""

    @scope.observe(default=True)
    def defaults(cfg: Any) -> None:
        cfg.lr = 0.001
        cfg.epochs = 100
        cfg.name = "base"
        cfg.model = {"depth": 50, "parts": [1, 2]}

    @scope.observe(priority=1)
    def high_lr(cfg: Any) -> None:
        cfg.lr = 0.01

    @scope.observe(priority=2, chain_with="high_lr")
    def long_training(cfg: Any) -> None:
        cfg.epochs = 300

    @scope.observe(lazy=True)
    def computed(cfg: Any) -> None:
        cfg.warmup = cfg.epochs // 10

    @scope.observe(lazy=True)
    def greedy(cfg: Any) -> None:
        cfg.lr = 9.0


def adict_facts(kind: Any) -> dict[str, Any]:
    """Return what an ADict does, Ato's or ours."""
    first, second = kind(**ONE), kind(**TWO)
    facts = {
        "same structure, same hash": first.get_structural_hash() == second.get_structural_hash(),
        "other type, other hash": first.get_structural_hash() != kind(lr="0.1", model=ONE["model"]).get_structural_hash(),
        "access in a list": first.model.parts[1].a,
    }
    first.update_if_absent(lr=9, new=1)
    fresh = kind(**TWO)
    _ = fresh.model.depth
    auto = kind.auto()
    auto.a.b.c = 1
    return {
        **facts,
        "update_if_absent": first.to_dict(),
        "minimal config": fresh.get_minimal_config().to_dict(),
        "auto": auto.to_dict(),
    }


def _of_words(scope_class: Any, words: list[str]) -> Any:
    scope_class.registry.clear()
    scope_class.parsed, scope_class.stored_arguments = False, None
    sys.argv = ["train.py", *words]
    scope = scope_class()
    define(scope)

    @scope
    def train(config: Any) -> Any:
        return config.to_dict()

    try:
        return train()
    except (SyntaxError, NameError) as error:  # it executes the words as Python
        return type(error).__name__


def main() -> None:
    """Print the facts of the Ato that can be imported."""
    from ato.adict import ADict
    from ato.scope import Scope

    files = {}
    with tempfile.TemporaryDirectory() as folder:
        for suffix in ("json", "yaml", "toml", "xyz"):
            path = Path(folder) / f"made.{suffix}"
            ADict(**DATA).dump(str(path))
            files[suffix] = path.read_text(encoding="utf-8")
    by_words = [{"words": words, "config": _of_words(Scope, words)} for words in COMMAND_LINES + WRONG]
    facts = {"version": version("ato"), "scope": by_words, "adict": adict_facts(ADict), "files": files}
    print(json.dumps(facts, indent=1, sort_keys=True))


if __name__ == "__main__":
    main()
