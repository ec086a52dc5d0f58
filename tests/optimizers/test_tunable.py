"""What strategies publish for meta-experiments can be built: every sample of a TUNABLE space is a strategy that begins."""

from __future__ import annotations

import inspect
import random
from typing import Any

import pytest

import sweep.optimizers
import sweep.schedulers
from sweep.errors import MissingExtra
from sweep.optimizers import Optimizer
from sweep.schedulers import Scheduler
from sweep.space import SearchSpace, Uniform
from sweep.trial import Objective

NOTHING_TO_TUNE = {"GridOptimizer", "RandomOptimizer", "SobolOptimizer", "BatchScheduler", "DistributedScheduler"}
STRATEGIES = [
    getattr(module, name)
    for module, base in ((sweep.optimizers, Optimizer), (sweep.schedulers, Scheduler))
    for name in module.__all__
    if inspect.isclass(getattr(module, name)) and issubclass(getattr(module, name), base) and getattr(module, name) is not base
]


def test_only_strategies_without_arguments_of_their_own_publish_nothing() -> None:
    assert {each.__name__ for each in STRATEGIES if not each.TUNABLE} == NOTHING_TO_TUNE


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ax's imports
@pytest.mark.parametrize("strategy", [each for each in STRATEGIES if each.TUNABLE])
def test_every_sample_begins(strategy: Any) -> None:
    space, dice = SearchSpace(strategy.TUNABLE), random.Random(strategy.__name__)
    for _ in range(12):
        made = strategy(**space.sample(dice))
        try:
            made.setup(SearchSpace({"x": Uniform(0, 1)}), [Objective("loss")], 1)
        except MissingExtra as error:
            pytest.skip(str(error))
