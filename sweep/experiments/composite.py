"""Experiments over experiments: one whose trials are whole experiments, and one that validates the best of another."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, final

from sweep.errors import ContractError, SweepError, did_you_mean
from sweep.experiments.base import Experiment
from sweep.experiments.building import STRATEGIES, arguments_of, build, class_of, maker_of, unknown_argument
from sweep.experiments.identity import identity_of
from sweep.experiments.objective import Objective, Returned, number_of
from sweep.experiments.sweep import SweepExperiment
from sweep.experiments.sweepresult import SweepResult
from sweep.optimizers.base import Optimizer
from sweep.pipeline.runtime import Activation
from sweep.schedulers.base import Scheduler
from sweep.space import SearchSpace
from sweep.trial import Budget, Result, Trial

__all__ = ["MetaExperiment", "ValidatedParams", "ValidationExperiment"]

Mode = Literal["min", "max"]


@final
class MetaExperiment(SweepExperiment):
    """A sweep whose trials are whole experiments: it searches their constructor arguments.

    Keys of the space are arguments of ``base``, dotted ones arguments of its arguments:
    ``"optimizer.acquisition"``, ``"scheduler.reduction_factor"``. What they are arguments *of* is looked up in
    ``fixed``, else in the default of ``base``'s constructor; a sweep without optimizer takes
    ``BayesianOptimizer``. All keys are compared with the signatures, and one experiment is built and checked,
    before anything runs. In every other respect it is a ``SweepExperiment``.

    Args:
        base: The experiment's class.
        search_space: Mapping of (dotted) arguments to distributions. None = the ``TUNABLE`` spaces of the base's
            strategies, those in ``fixed`` included.
        optimizer: What to try; PBT will do (``PBTScheduler()``).
        scheduler: As for a sweep.
        fixed: Arguments that all trials share, dotted ones too. A strategy may be a class, an instance, or its name.
        score: What of the base's result counts: an attribute, a key of its summary or of its State, or a
            function of the result.
        budget: Of each base experiment. (That of this sweep is given to ``run``.)
        mode: ``"min"`` or ``"max"``; None = the base's own, else ``"min"``.
        **options: As for a sweep: ``workers``, ``seed``, ``name``, ``store`` …

    Raises:
        ContractError: Arguments that cannot go together. (What does not fit the base is an error of ``check()``.)

    Example:
        >>> from sweep import SweepExperiment, Uniform
        >>> from sweep.optimizers import RandomOptimizer
        >>> from sweep.schedulers import MedianStoppingScheduler, PBTScheduler
        >>> def train(lr):
        ...     return (lr - 0.1) ** 2
        >>> meta = MetaExperiment(
        ...     SweepExperiment, optimizer=PBTScheduler(population_size=4), budget=8,
        ...     fixed={
        ...         "objective": train, "search_space": {"lr": Uniform(0, 1)}, "optimizer": RandomOptimizer,
        ...         "scheduler": MedianStoppingScheduler,
        ...     },
        ... )
        >>> list(meta.check().space())
        ['scheduler.grace_period', 'scheduler.min_samples']
    """

    def __init__(
        self,
        base: type[Experiment],
        search_space: Mapping[str, Any] | None = None,
        *,
        optimizer: Optimizer | Any = None,
        scheduler: Scheduler | None = None,
        fixed: Mapping[str, Any] | None = None,
        score: str | Callable[[Any], float] = "best_score",
        budget: int | Budget | None = None,
        mode: Mode | None = None,
        **options: Any,
    ) -> None:
        if not (isinstance(base, type) and issubclass(base, Experiment)):
            raise ContractError("MetaExperiment(…)", [f"base={base!r}: expected an experiment's class, such as SweepExperiment"])
        self._base = _Base(base, dict(fixed or {}), score, budget)
        options["mode"] = mode or _own_mode(base, fixed or {})
        super().__init__(None, search_space, optimizer=optimizer, scheduler=scheduler, **options)

    def space(self) -> SearchSpace:
        """Return the search space: the one given, else what the base's strategies call tunable.

        Raises:
            ContractError: There is neither.
        """
        if self.search_space is not None or getattr(self.optimizer, "search_space", None) is not None:
            return super().space()
        tunable = self._base.tunable()
        if not tunable:
            problem = f"the strategies of {self._base.name} publish no TUNABLE space; give a search_space"
            raise ContractError(self.name, [f"{problem}, such as {{'scheduler.reduction_factor': Ordinal([2, 3, 4])}}"])
        return SearchSpace(tunable)

    def _callee(self) -> Objective:
        return self._base


def _own_mode(base: type[Experiment], fixed: Mapping[str, Any]) -> Any:
    mode = fixed.get("mode", getattr(base, "mode", "min"))
    return mode if mode in ("min", "max") else "min"


@final
class _Base:
    """The base experiment as an objective: builds one from a trial's params, runs it, reads its score."""

    is_leaf = False

    def __init__(
        self, cls: type[Experiment], fixed: dict[str, Any], score: str | Callable[[Any], float], budget: int | Budget | None
    ) -> None:
        self.cls, self.fixed, self.score, self.budget, self.name = cls, fixed, score, budget, cls.__name__

    def takes(self) -> None:
        """Return nothing: what it takes depends on its arguments, see ``problems``."""

    def identity(self) -> Any:
        """Return the class and what its instances share."""
        return {
            "base": identity_of(self.cls), "fixed": identity_of(self.fixed), "score": identity_of(self.score),
            "budget": repr(self.budget),
        }  # fmt: skip

    def functions(self) -> tuple[Callable[..., Any], ...]:
        """Nothing of an experiment is placed whole."""
        return ()

    def tunable(self) -> dict[str, Any]:
        """Return what the strategies of the base call tunable, by dotted name."""
        found: dict[str, Any] = {}
        for head in dict.fromkeys([*(name for name in STRATEGIES if name in arguments_of(self.cls)), *self.fixed]):
            maker = maker_of(self.cls, head, self.fixed)
            space = getattr(class_of(maker), "TUNABLE", {})
            found |= {f"{head}.{name}": part for name, part in space.items() if f"{head}.{name}" not in self.fixed}
        return found

    def problems(self, space: SearchSpace) -> list[str]:
        """Compare all keys with the signatures; then build one experiment and check it."""
        both = [f"{self.name}: {name!r} is in the space and in fixed; keep one" for name in space if name in self.fixed]
        unknown = [
            problem
            for name in [*space, *self.fixed]
            if (problem := unknown_argument(self.cls, name, {**self.fixed, **_options(space)}, self.name))
        ]
        if both or unknown:
            return [*both, *dict.fromkeys(unknown)]
        try:
            self.build(space.sample(random.Random(0))).check()  # noqa: S311  # one example, no secret
        except ContractError as error:
            return [f"{self.name}: {problem}" for problem in error.problems]
        except (SweepError, TypeError, ValueError) as error:
            return [f"{self.name}: {error}"]
        return []

    def build(self, params: Mapping[str, Any]) -> Experiment:
        """Return a base experiment with a trial's params."""
        built: Experiment = build(self.cls, {**self.fixed, **params})
        return built

    async def orchestrate(self, params: Mapping[str, Any], act: Activation) -> Returned:
        """Run a base experiment as a child of the trial."""
        result = await self.build(params).run(budget=self.budget)
        score = self._scored(result)
        return Returned(score, {self.score if isinstance(self.score, str) else "score": score})

    def _scored(self, result: Any) -> float:
        if callable(self.score):
            value: Any = self.score(result)
        elif isinstance(result, SweepResult) and self.score in ("best_score", "cost", "n_failed"):
            value = getattr(result, self.score)
        else:
            known = {**result.state._fields, **result}
            if self.score not in known:
                raise SweepError(f"the result of {self.name} has no {self.score!r}{did_you_mean(self.score, known)}")
            value = known[self.score]
        number = number_of(value)
        if number is None:
            raise SweepError(f"score={self.score!r} of {self.name} is {value!r}; expected a number")
        return number


def _options(space: SearchSpace) -> dict[str, Any]:
    """Return an example of each strategy that the space itself chooses by name."""
    return {name: space[name].sample(random.Random(0)) for name in space if name in STRATEGIES}  # noqa: S311  # an example


# ---------------------------------------------------------------- validation


@final
class _Nothing(Optimizer):
    """Suggests nothing: only what was enqueued is tried."""

    finite = True
    cheap = True

    def suggest(self, n: int) -> list[Trial]:
        return []

    def observe(self, trial: Trial, result: Result) -> None:
        return None


@final
@dataclass(frozen=True, slots=True)
class ValidatedParams:
    """Parameters that were run with several seeds.

    Attributes:
        params: The parameters.
        mean: Mean score.
        error: Standard error of the mean: ``sqrt(s² / n)`` with the unbiased variance; NaN for one seed.
        scores: Score with each seed.
    """

    params: dict[str, Any]
    mean: float
    error: float
    scores: tuple[float, ...]


@final
class ValidationExperiment(SweepExperiment):
    """Runs the best of a search again, each with several seeds, and ranks by the mean.

    The best of many noisy scores is lucky; its score says too much. Seeds come with the context (``ctx.seed``).

    Args:
        objective: As for a sweep.
        candidates: Trials with scores, or a sweep's result.
        search_space: The space they are from.
        k: So many of the best are validated.
        n_seeds: Runs of each.
        mode: ``"min"`` or ``"max"``, for choosing and for ranking.
        **options: As for a sweep.

    Raises:
        ContractError: No candidate has a score.

    Example:
        >>> from sweep import Trial, Uniform
        >>> trials = [Trial({"x": x}, score=x * x) for x in (0.9, 0.1, 0.5)]
        >>> ValidationExperiment(lambda x: x, trials, {"x": Uniform(0, 1)}, k=2, n_seeds=3).enqueue
        ({'x': 0.1}, {'x': 0.5})
    """

    def __init__(
        self,
        objective: Any,
        candidates: Sequence[Trial] | SweepResult,
        search_space: Mapping[str, Any],
        *,
        k: int = 5,
        n_seeds: int = 10,
        mode: Mode = "min",
        **options: Any,
    ) -> None:
        trials = candidates.trials if isinstance(candidates, SweepResult) else candidates
        scored = [trial for trial in trials if trial.score is not None and math.isfinite(trial.score)]
        if not scored:
            raise ContractError("ValidationExperiment(…)", [f"none of the {len(trials)} candidates has a score"])
        scored.sort(key=lambda trial: (-1 if mode == "max" else 1) * (trial.score or 0.0))
        best: list[dict[str, Any]] = []
        for trial in scored:
            if trial.params not in best and len(best) < k:
                best.append(dict(trial.params))
        super().__init__(
            objective, search_space, optimizer=_Nothing(), mode=mode, repeats=n_seeds, enqueue=best, **options
        )

    @staticmethod
    def ranking(result: SweepResult) -> list[ValidatedParams]:
        """Return the validated parameters, best mean first; those that failed are left out."""
        found = []
        for trial in result.ranked():
            scores = result.repeats.get(trial.number, (float(trial.score or 0.0),))
            mean = sum(scores) / len(scores)
            spread = sum((score - mean) ** 2 for score in scores)
            error = math.sqrt(spread / (len(scores) - 1) / len(scores)) if len(scores) > 1 else math.nan
            found.append(ValidatedParams(dict(trial.params), mean, error, scores))
        return found
