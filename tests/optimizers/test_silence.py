"""What libraries say about their own insides does not reach the user: a program's stderr stays hers."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """
from sweep.optimizers import AxOptimizer, NevergradOptimizer, OptunaOptimizer
from sweep.space import SearchSpace, Uniform
from sweep.testing.optimizers import play
space = SearchSpace({"x": Uniform(0, 1), "y": Uniform(0, 1)})
play(%s, 9, lambda params: params["x"])
"""
QUIET = {
    "ax": "AxOptimizer(space, n_initial=9)",  # announces what it imports, at setup
    "optuna": "OptunaOptimizer(space, 'QMC')",  # an interface of Optuna's that may change
    "nevergrad": "NevergradOptimizer(space)",  # its COBYLA has no tolerance
}


@pytest.mark.parametrize("package", QUIET)
def test_nothing_is_said(package: str) -> None:
    pytest.importorskip(package, exc_type=ImportError)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM % QUIET[package]], env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    assert found.stderr == ""


def test_what_an_option_of_the_users_brings_is_said() -> None:
    """An option that is experimental is the user's own choice, unlike the class that a name stands for."""
    optuna = pytest.importorskip("optuna", reason="the extra 'optuna' is not installed")
    from sweep.optimizers import OptunaOptimizer
    from sweep.space import SearchSpace, Uniform

    with pytest.warns(optuna.exceptions.ExperimentalWarning, match="with_margin"):
        OptunaOptimizer(SearchSpace({"x": Uniform(0, 1), "y": Uniform(0, 1)}), "CmaEs", with_margin=True).suggest(1)
