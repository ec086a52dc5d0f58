"""Constraints on parameters, for any optimizer: infeasible suggestions are told to it and asked again."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

from sweep.errors import StrategyError
from sweep.experiments.objective import number_of
from sweep.optimizers.base import Optimizer
from sweep.space import SearchSpace
from sweep.trial import Objective, Result, Trial

__all__ = ["Constrained", "Constraint"]

Constraint = Callable[[Mapping[str, Any]], float]

_PATIENCE = 1000


@final
class Constrained(Optimizer):
    """Keeps infeasible suggestions from the sweep.

    It has no ``restore``: a resumed sweep repeats the calls, rejections included, so that the
    wrapped optimizer stands where it stood.
    """

    def __init__(self, inner: Optimizer, constraints: Sequence[Constraint]) -> None:
        self.inner, self.constraints = inner, constraints
        self.finite = bool(getattr(inner, "finite", False))
        self.search_space = getattr(inner, "search_space", None)
        if hasattr(inner, "predict"):
            self.predict = inner.predict

    def setup(self, space: SearchSpace, objectives: Sequence[Objective], seed: int) -> None:
        """Hand on."""
        self.inner.setup(space, objectives, seed)

    def suggest(self, n: int) -> list[Trial]:
        """Return up to ``n`` feasible trials.

        Raises:
            StrategyError: A thousand suggestions in a row were infeasible, or a constraint gave no number.
        """
        found: list[Trial] = []
        rejected = 0
        while len(found) < n:
            trials = self.inner.suggest(n - len(found))
            if not trials:
                break
            for trial in trials:
                broken = self._broken(trial.params)
                if broken is None:
                    found.append(trial)
                    continue
                rejected += 1
                self.inner.observe(trial, Result(math.nan, failure=f"infeasible: {broken}", trial=trial))
                if rejected >= _PATIENCE:
                    raise StrategyError(
                        f"{rejected} suggestions in a row were infeasible, the last by {broken}: {trial.params}"
                    )
        return found

    def observe(self, trial: Trial, result: Result) -> None:
        """Hand on."""
        self.inner.observe(trial, result)

    def _broken(self, params: Mapping[str, Any]) -> str | None:
        for constraint in self.constraints:
            name = getattr(constraint, "__name__", constraint)
            try:
                value = constraint(params)
            except Exception as error:
                raise StrategyError(f"constraint {name!r} raised {type(error).__name__}: {error}, for {params}") from error
            number = number_of(value)
            if number is None:  # of a truth nobody knows whether True means that it holds or that it is broken
                raise StrategyError(
                    f"constraint {name!r} returned {value!r}: expected a number, <= 0 where feasible, "
                    "such as p['x'] + p['y'] - 1 for x + y <= 1"
                )
            if not number <= 0:
                return f"{name} = {value!r} > 0"
        return None
