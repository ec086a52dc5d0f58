"""``SweepExperiment``: the one loop that joins optimizer, scheduler and executor."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

from sweep.config.adict import dotted
from sweep.deferred import launch
from sweep.errors import ContractError, SpaceError
from sweep.executors.base import Executor
from sweep.experiments.base import Experiment, field_annotations
from sweep.experiments.constraints import Constraint
from sweep.experiments.given import NOTHING, Given, giving
from sweep.experiments.identity import identity_of
from sweep.experiments.ledger import Rules
from sweep.experiments.objective import Objective as Callee
from sweep.experiments.objective import make_objective
from sweep.experiments.overrides import SETTINGS, given_settings, given_space, given_strategy
from sweep.experiments.rerun import rerun_trial
from sweep.experiments.restarts import restart_notice
from sweep.experiments.sweepchecks import count_problems, placed, strategy_problems
from sweep.experiments.sweepresult import SweepResult
from sweep.experiments.sweepsession import Sweep, copied, work
from sweep.optimizers.base import Optimizer
from sweep.pipeline.contracts import MISSING, Signature
from sweep.pipeline.durable import Resume, RunSpec, open_child, open_top
from sweep.pipeline.request import Reran, requested
from sweep.pipeline.runtime import current_activation, open_root
from sweep.pipeline.units import Unit
from sweep.schedulers.base import Scheduler
from sweep.space import Constant, SearchSpace, nest
from sweep.store.writer import Durability
from sweep.tracker.stream import say
from sweep.trial import Budget, Objective, Resources
from sweep.turns import lending

__all__ = ["SweepExperiment"]

Mode = Literal["min", "max"]


class SweepExperiment(Experiment):
    """Searches a space for the parameters with the best score; durable, resumable, nestable.

    Args:
        objective: Function (sync, async, generator), Pipeline, Experiment class or instance whose inputs
            are the parameters. None = the method ``train`` of this class, or of the experiment in whose
            stage the sweep runs.
        search_space: Mapping of names to distributions; None = the optimizer's.
        optimizer: What to try; None = a default, said in one line.
        scheduler: How long to try it; None = every trial to its end.
        executor: Where trials run: ``"inline"``, ``"thread"``, ``"process"`` or an Executor.
        workers: Trials at once; None = the executor's, else 1.
        metric: Name of the score (or a list); None = the returned number or the only reported metric.
        mode: ``"min"`` or ``"max"`` (or a list).
        name: Name of its runs.
        store: SQLite file; None = ``$SWEEP_STORE`` or ``./sweep.db``.
        config: As for an experiment: gives settings, arguments of the strategies, and the search space (a range
            searches a parameter, a plain value holds it). What is inside its trials is given nothing.
        seed: Drawn once and journaled if None.
        resources: What a trial occupies.
        repeats: Runs of each trial; the score is their mean.
        retries: More attempts for a trial that fails.
        max_failures: Failed trials that end the sweep.
        init_from: Earlier results as history: a run id or name, a result, trials, or rows.
        enqueue: Parameters to try first.
        constraints: Callables of the parameters that return a number; feasible means <= 0.

    Raises:
        ContractError: Arguments that cannot go together.

    Example:
        >>> import tempfile
        >>> from sweep import SweepExperiment, Uniform
        >>> from sweep.optimizers import RandomOptimizer
        >>> with tempfile.TemporaryDirectory() as place:
        ...     sweep = SweepExperiment(
        ...         lambda x: x * x, {"x": Uniform(-1, 1)}, optimizer=RandomOptimizer(), store=f"{place}/sweep.db", seed=0
        ...     )
        ...     result = sweep.run(20)
        >>> len(result.trials), 0 <= result.best_score < 0.1
        (20, True)
    """

    level: ClassVar[str] = "sweep"

    def __init__(
        self,
        objective: Any = None,
        search_space: Mapping[str, Any] | None = None,
        *,
        optimizer: Optimizer | Any = None,
        scheduler: Scheduler | None = None,
        executor: str | Executor = "inline",
        workers: int | None = None,
        metric: str | Sequence[str] | None = None,
        mode: Mode | Sequence[Mode] = "min",
        name: str | None = None,
        store: str | Path | None = None,
        config: Any = None,
        seed: int | None = None,
        resources: Resources | None = None,
        repeats: int = 1,
        retries: int = 0,
        max_failures: int | None = None,
        init_from: Any = None,
        enqueue: Mapping[str, Any] | Sequence[Mapping[str, Any]] = (),
        constraints: Constraint | Sequence[Constraint] = (),
        **fields: Any,
    ) -> None:
        super().__init__(name=name, store=store, config=config, **fields)
        own = getattr(type(self), "search_space", None)
        self.objective = objective
        self.search_space = search_space if search_space is not None else own
        self.optimizer, self.scheduler, self.executor, self.workers = optimizer, scheduler, executor, workers
        self.metric, self.mode, self.seed, self.resources = metric, mode, seed, resources
        self.repeats, self.retries, self.max_failures = repeats, retries, max_failures
        self.init_from = init_from
        self.enqueue = (enqueue,) if isinstance(enqueue, Mapping) else tuple(enqueue)
        self.constraints = (constraints,) if callable(constraints) else tuple(constraints)
        problems = [*count_problems(self), *strategy_problems(self)]
        if problems:
            raise ContractError(f"{type(self).__name__}(…)", problems)

    # ------------------------------------------------------------ reading

    @property
    def fields(self) -> dict[str, Any]:
        """A sweep's arguments are not State; only a subclass's annotated fields are."""
        types = self._field_types()
        return {key: value for key, value in super().fields.items() if key in types}

    def _field_types(self) -> dict[str, Any]:
        return {key: ann for key, ann in field_annotations(type(self)).items() if key != "search_space"}

    def _take_given(self, given: Given) -> None:
        values = given_settings(type(self), given, self._field_types(), self)
        left = {key: items for key, items in given.heads().items() if key not in values}
        try:
            callee: Callee | None = self._callee()
        except ContractError:  # the objective is that of the run it is started in: nobody knows it yet
            callee = None
        taken = None if callee is None else callee.takes()
        for key, value in values.items():
            setattr(self, key, value)
        space = self._space_or_nothing()
        others = {name.partition(".")[0] for name in space}.union(taken or ())
        for head in [key for key in ("optimizer", "scheduler") if key in left and key not in others]:
            setattr(self, head, given_strategy(head, left.pop(head), getattr(self, head)))
        if left:
            found = given_space(left, space, callee, [*SETTINGS, *self._field_types(), "optimizer", "scheduler"])
            self._search({**space, **found})

    def _space_or_nothing(self) -> Mapping[str, Any]:
        theirs = getattr(self.optimizer, "search_space", None)
        return {} if self.search_space is None and theirs is None else self.space()

    def _search(self, space: Mapping[str, Any]) -> None:
        """Search another space; an optimizer that was made for the old one is not asked for its own."""
        self.search_space = space
        if getattr(self.optimizer, "search_space", None) is not None:
            self.optimizer = copied(self.optimizer, self.name)
            self.optimizer.search_space = None

    def _said_in_code(self, given: Given) -> dict[str, Any]:
        space = self._space_or_nothing()
        settings = {key: getattr(self, key) for key in given.heads() if key in (*SETTINGS, "optimizer", "scheduler")}
        searched = nest({dotted(item.path): space[dotted(item.path)] for item in given.items if dotted(item.path) in space})
        return {**super()._said_in_code(given), **settings, **searched}

    def space(self) -> SearchSpace:
        """Return the search space.

        Raises:
            ContractError: There is none, or two that differ.
            SpaceError: It is wrong.
        """
        given = self.search_space
        theirs = getattr(self.optimizer, "search_space", None)
        if given is None and theirs is None:
            raise ContractError(
                self.name, ["there is no search space; give SweepExperiment(objective, {name: distribution, …}) one"]
            )
        space = SearchSpace(given) if given is not None else SearchSpace(cast("Mapping[str, Any]", theirs))
        if given is not None and theirs is not None and SearchSpace(theirs) != space:
            raise ContractError(self.name, ["the sweep and its optimizer were given different search spaces; give one"])
        return space

    def objectives(self) -> tuple[Objective, ...]:
        """Return what is optimised."""
        metrics = [self.metric] if self.metric is None or isinstance(self.metric, str) else list(self.metric)
        modes = [self.mode] * len(metrics) if isinstance(self.mode, str) else list(self.mode)
        return tuple(Objective(metric, mode) for metric, mode in zip(metrics, modes, strict=True))

    def _callee(self) -> Callee:
        what = self.objective
        if what is None:
            what = getattr(self, "train", None)
        if what is None:
            parent = current_activation()
            what = getattr(parent.frame.owner, "train", None) if parent is not None else None
        if what is None:
            raise ContractError(
                self.name,
                ["there is no objective; give SweepExperiment(objective, …) one, or define a method train(self, …)"],
            )
        return make_objective(what, self.metric if isinstance(self.metric, str) else None)

    def _built(self) -> tuple[Callee, SearchSpace]:
        """Check objective against space and strategies against each other.

        Raises:
            ContractError: With all mismatches.
        """
        space, callee = self.space(), self._callee()
        problems = [*callee.problems(space), *count_problems(self)]
        for params in self.enqueue:
            try:
                space.validate(params)
            except SpaceError as error:
                problems.append(f"enqueue: {error}")
        if problems:
            raise ContractError(self.name, problems)
        return callee, space

    def check(self, strict: bool = False) -> SweepExperiment:
        """Check objective, space, strategies and resources; nothing runs.

        Raises:
            ContractError: With all mismatches.
            PlacementError: A trial asks for more than there is.
        """
        held = self._with_config()
        callee, _ = held._built()
        placed(held)
        notice = restart_notice(callee, held.scheduler)
        if notice is not None:
            say(notice)
        return self

    def __sweep_identity__(self) -> Any:
        """Return what two runs of this sweep share."""
        held = self._with_config()
        return held._sweep_identity(*held._built())

    def _own_identity(self) -> dict[str, Any]:
        """Return the identity of a sweep that is another's objective: its own may need parameters of that one."""
        return self._sweep_identity(self._callee(), self.space())

    def _outer_problems(self, outer: SearchSpace) -> list[str]:
        """Return what does not fit where the objective gets the parameters of an outer space, too."""
        own = self.space()
        both = [f"{self.name}: parameter {name!r} is in its own space and in the outer one" for name in outer if name in own]
        return both or self._callee().problems(SearchSpace({**own, **outer}))

    def _held_at(self, params: Mapping[str, Any]) -> SweepExperiment:
        """Return this sweep with further parameters, which do not vary."""
        held = copy.copy(self)
        held._search({**self.space(), **{name: Constant(value) for name, value in params.items()}})
        return held

    def _sweep_identity(self, callee: Callee, space: SearchSpace) -> dict[str, Any]:
        identity = {
            "class": type(self).__qualname__,
            "objective": callee.identity(),
            "space": identity_of(space.model_dump_json()),
            "optimizer": identity_of(self.optimizer),
            "scheduler": identity_of(self.scheduler),
            "metric": identity_of(self.metric),
            "mode": identity_of(self.mode),
            "repeats": self.repeats,
            "retries": self.retries,
            "constraints": identity_of(self.constraints),
            "fields": identity_of(self.fields),
        }
        return identity if self.seed is None else {**identity, "seed": self.seed}

    def __sweep_stage__(self, known: Mapping[str, Any]) -> Unit:
        """Return this sweep as a stage without inputs."""
        problems: tuple[str, ...] = ()
        structure: Any = None
        if self.objective is not None or hasattr(self, "train"):
            try:
                structure = self.__sweep_identity__()
            except ContractError as error:
                problems = tuple(error.problems)
        signature = Signature(self.name, (), MISSING, "", True, False, True, problems)
        return Unit("experiment", self.run, signature, structure=structure)

    # ------------------------------------------------------------ running

    def run(  # type: ignore[override]  # a sweep has no inputs
        self,
        budget: int | Budget | None = None,
        *,
        resume: Resume = "auto",
        store: str | Path | None = None,
        durability: Durability = "process",
        smoke: bool = False,
    ) -> SweepResult:
        """Run the sweep, or go on where its latest run stopped. Inside an event loop, await it.

        Args:
            budget: Trials, or a Budget; None = until a finite source is exhausted, else 100 trials.
            resume: Go on with the latest unfinished run of that name, never, or insist (a larger
                budget then extends a finished run).
            store: SQLite file; None = the constructor's.
            durability: ``"process"`` survives kill -9, ``"power"`` a power cut.
            smoke: One trial, one step: does it work at all? Kept apart from real runs.

        Raises:
            ContractError: Objective, space and strategies do not fit together; nothing has run.
            ResumeRefused: ``resume="must"`` and the sweep has changed.
        """
        if budget is not None and (isinstance(budget, bool) or not isinstance(budget, int | Budget)):
            raise ContractError(self.name, [f"budget={budget!r}: expected a number of trials, or Budget(…)"])

        async def main(owns_loop: bool) -> SweepResult:
            return await self._with_config()._run_sweep(owns_loop, budget, resume, store, durability, smoke)

        return launch(SweepResult, main, f"{type(self).__name__}.run()")

    async def _run_sweep(
        self,
        owns_loop: bool,
        budget: int | Budget | None,
        resume: Resume,
        store: str | Path | None,
        durability: Durability,
        smoke: bool,
    ) -> SweepResult:
        problems = [] if smoke else strategy_problems(self, budget.trials if isinstance(budget, Budget) else budget)
        if problems:
            raise ContractError(self.name, problems)
        sweep = self._as_checked(budget, smoke)
        request = requested()
        if request is not None and request.trial is not None and request.name == sweep.name:
            async with open_root(owns_loop) as root:
                raise Reran(await rerun_trial(root, request, sweep, durability))
        identity = self._sweep_identity(sweep.objective, sweep.space)
        spec = RunSpec(sweep.name, self.level, identity, self.fields, seed=self.seed, fresh_after_failure=True)
        parent = current_activation()
        if parent is not None and parent.frame.handle is None:
            problem = "a sweep inside a pipeline that is not kept: run that pipeline under a name, run(name=…)"
            raise ContractError(self.name, [problem])
        with giving(NOTHING):
            if parent is not None:
                async with lending(), open_child(parent, spec) as opened:
                    return await work(sweep, parent.frame.root, opened, parent)
            spec.extends = resume == "must" and budget is not None
            how: Resume = "never" if smoke else resume
            async with open_root(owns_loop) as root, open_top(root, spec, store or self.store, how, durability) as opened:
                return await work(sweep, root, opened, None)

    def _as_checked(self, budget: int | Budget | None, smoke: bool) -> Sweep:
        """Return what a session works on."""
        callee, space = self._built()
        executor, workers = placed(self)
        rules = Rules(
            self.objectives(), repeats=1 if smoke else self.repeats, retries=self.retries, max_failures=self.max_failures,
            smoke=smoke, enqueue=[space.validate(params) for params in self.enqueue],
        )  # fmt: skip
        return Sweep(
            f"{self.name}-smoke" if smoke else self.name, self, callee, space, rules, self.optimizer, self.scheduler,
            self.constraints, executor, self.executor if isinstance(self.executor, str) else None, workers,
            self.resources or Resources(), self.init_from, 1 if smoke else budget, self._given_kept,
        )  # fmt: skip
