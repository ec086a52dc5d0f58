"""What a sweep takes when it is given no optimizer."""

from __future__ import annotations

import pytest

import sweep.optimizers.default as module
from sweep.errors import MissingExtra
from sweep.optimizers import BayesianOptimizer, OptunaOptimizer, default_optimizer
from sweep.space import SearchSpace, Uniform
from sweep.trial import Objective

SMALL = SearchSpace({"x": Uniform(0, 1)})


def installed(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: name if name in packages else None)


def test_the_choice_and_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, "numpy", "scipy", "optuna")
    several = [Objective("a"), Objective("b", "max")]
    large = SearchSpace({f"x{i}": Uniform(0, 1) for i in range(21)})
    for found, kind, why in (
        (default_optimizer(SMALL, [Objective("a")]), BayesianOptimizer, "learning curves"),
        (default_optimizer(SMALL, several), OptunaOptimizer, "several objectives"),
        (default_optimizer(large), OptunaOptimizer, "21 parameters"),
    ):
        optimizer, reason = found
        assert type(optimizer) is kind
        assert why in reason
        assert "\n" not in reason


def test_without_scipy_it_is_tpe_and_without_both_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, "numpy", "optuna")
    optimizer, reason = default_optimizer(SMALL)
    assert type(optimizer) is OptunaOptimizer
    assert "scipy" in reason
    installed(monkeypatch, "numpy")
    with pytest.raises(MissingExtra, match=r"sweep\[optuna\].*RandomOptimizer"):
        default_optimizer(SMALL)
