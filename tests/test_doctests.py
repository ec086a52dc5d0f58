"""The examples in the docstrings run."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import sweep
from sweep.errors import MissingExtra

NAMES = sorted(
    found.name for found in pkgutil.walk_packages(sweep.__path__, "sweep.") if not found.name.endswith("__main__")
)
HEAVY = ("ax", "dask", "hydra", "mlflow", "nevergrad", "optuna", "pandas", "ray", "torch", "wandb")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_examples(name: str) -> None:
    try:
        module = importlib.import_module(name)
    except MissingExtra as missing:
        pytest.skip(str(missing))
    except ModuleNotFoundError as missing:
        if missing.name not in HEAVY:
            raise
        pytest.skip(f"{name} needs {missing.name}")
    found = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    assert found.failed == 0
