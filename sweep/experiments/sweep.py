"""``SweepExperiment``: the one loop that joins optimizer, scheduler and executor."""

from __future__ import annotations

import copy
import inspect
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

from sweep.clock import current_clock
from sweep.config.adict import dotted
from sweep.deferred import launch
from sweep.errors import ContractError, PlacementError, SpaceError, StoreCorrupt, did_you_mean
from sweep.executors.base import Executor
from sweep.experiments import events as ev
from sweep.experiments.base import Experiment
from sweep.experiments.checkpoints import Checkpoints
from sweep.experiments.conductor import Conductor, replay
from sweep.experiments.constraints import Constrained, Constraint
from sweep.experiments.driver import Driver
from sweep.experiments.eventlog import EventLog
from sweep.experiments.given import NOTHING, Given, giving
from sweep.experiments.history import earlier_trials
from sweep.experiments.identity import identity_of
from sweep.experiments.machine import Machine, budget_for
from sweep.experiments.objective import Objective as Callee
from sweep.experiments.objective import make_objective
from sweep.experiments.overrides import SETTINGS, given_settings, given_space, given_strategy
from sweep.experiments.planning import plan_of_sweep
from sweep.experiments.purse import current_purse
from sweep.experiments.rerun import rerun_trial
from sweep.experiments.restarts import restart_notice
from sweep.experiments.sharing import sharing
from sweep.experiments.sweepresult import SweepResult
from sweep.optimizers.base import Optimizer
from sweep.pipeline.contracts import MISSING, Signature
from sweep.pipeline.durable import Opened, Resume, RunSpec, open_child, open_top
from sweep.pipeline.planning import announce
from sweep.pipeline.redo import reopened
from sweep.pipeline.request import Reran, requested
from sweep.pipeline.runtime import Activation, Handle, Root, current_activation, open_root
from sweep.pipeline.units import Unit
from sweep.schedulers.base import Scheduler
from sweep.space import Constant, SearchSpace, nest
from sweep.store.bulk import collector_paused
from sweep.store.writer import Durability
from sweep.tracker.stream import say
from sweep.trial import Budget, Objective, Resources, Status
from sweep.turns import lending

__all__ = ["SweepExperiment"]

Mode = Literal["min", "max"]
_CODE, _SEED = "!code", "!seed"


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
        >>> from sweep import SweepExperiment, Uniform
        >>> from sweep.optimizers import RandomOptimizer
        >>> sweep = SweepExperiment(lambda x: x * x, {"x": Uniform(-1, 1)}, optimizer=RandomOptimizer())
        >>> sweep.run(20).best_params  # doctest: +SKIP
        {'x': 0.0213...}
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
        problems = [*_count_problems(self), *_strategy_problems(self)]
        if problems:
            raise ContractError(f"{type(self).__name__}(…)", problems)

    # ------------------------------------------------------------ reading

    @property
    def fields(self) -> dict[str, Any]:
        """A sweep's arguments are not State; only a subclass's annotated fields are."""
        types = self._field_types()
        return {key: value for key, value in super().fields.items() if key in types}

    def _field_types(self) -> dict[str, Any]:
        from sweep.experiments.base import field_annotations

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
            self.optimizer = self._copied(self.optimizer)
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
        problems = [*callee.problems(space), *_count_problems(self)]
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
        held._executor()
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

    # ------------------------------------------------------------ strategies

    def _executor(self) -> tuple[Executor, int]:
        """Return the executor and the number of workers."""
        from sweep.executors import make_executor

        wrapped = getattr(self.scheduler, "executor", None)
        executor = wrapped if isinstance(wrapped, Executor) else make_executor(self.executor)
        if self.workers is not None and executor.workers is not None and self.workers != executor.workers:
            raise ContractError(
                self.name,
                [f"workers={self.workers}, but its executor has workers={executor.workers}; give one of the two"],
            )
        workers = self.workers or executor.workers or 1
        asked = self.resources
        have = None if asked is None else executor.capacity()  # looking for GPUs takes its time
        for what in ("cpus", "gpus", "memory"):
            wanted, available = getattr(asked, what, None), getattr(have, what, None)
            if wanted is not None and available is not None and wanted > available:
                raise PlacementError(f"sweep {self.name!r}: a trial", f"{wanted:g} {what}", f"{available:g} {what}")
        return executor, workers

    def _strategies(
        self, space: SearchSpace, seed: int, lock: threading.Lock, inside: bool
    ) -> tuple[Optimizer, Scheduler, list[str]]:
        """Return optimizer and scheduler, set up, and lines about defaults; ``inside`` another run: copies."""
        from sweep.schedulers import BatchScheduler

        lines: list[str] = []
        optimizer, scheduler = self.optimizer, self.scheduler or BatchScheduler()
        if inside:  # what is given once runs many times, also side by side
            optimizer, scheduler = self._copied(optimizer), self._copied(scheduler)
        if optimizer is None:
            from sweep.optimizers.default import default_optimizer

            optimizer, line = default_optimizer(space, self.objectives())
            lines.append(line)
        objectives = self.objectives()
        if self.constraints:
            optimizer = Constrained(optimizer, self.constraints)
        optimizer.setup(space, objectives, seed)
        if "predict" in inspect.signature(scheduler.setup).parameters:
            scheduler.setup(space, objectives, seed, _predictor(optimizer, lock))  # type: ignore[call-arg]  # it asks for it
        else:
            scheduler.setup(space, objectives, seed)
        return optimizer, scheduler, lines

    def _copied(self, strategy: Any) -> Any:
        try:
            return copy.deepcopy(strategy)
        except TypeError as error:
            problem = f"a sweep inside another run works on a copy of its strategies; {strategy!r} cannot be copied: {error}"
            raise ContractError(self.name, [f"{problem}. Make the sweep in the stage or objective that runs it"]) from error

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
        problems = [] if smoke else _strategy_problems(self, budget.trials if isinstance(budget, Budget) else budget)
        if problems:
            raise ContractError(self.name, problems)
        callee, space = self._built()
        executor, _ = self._executor()
        name = f"{self.name}-smoke" if smoke else self.name
        request = requested()
        if request is not None and request.trial is not None and request.name == name:
            resources = self.resources or Resources()
            async with open_root(owns_loop) as root:
                found = await rerun_trial(root, request, callee, self.objectives(), executor, resources, durability)
            raise Reran(found)
        identity = self._sweep_identity(callee, space)
        spec = RunSpec(name, self.level, identity, self.fields, seed=self.seed, fresh_after_failure=True)
        parent = current_activation()
        async with AsyncExitStack() as stack:
            stack.enter_context(giving(NOTHING))
            if parent is None:
                root = await stack.enter_async_context(open_root(owns_loop))
                spec.extends = resume == "must" and budget is not None
                place = store or self.store
                how: Resume = "never" if smoke else resume
                opened = await stack.enter_async_context(open_top(root, spec, place, how, durability))
            elif parent.frame.handle is None:
                raise ContractError(
                    self.name,
                    ["a sweep inside a pipeline that is not kept: run that pipeline under a name, run(name=…)"],
                )
            else:
                root = parent.frame.root
                await stack.enter_async_context(lending())
                opened = await stack.enter_async_context(open_child(parent, spec))
            return await self._work(root, opened, callee, space, budget, smoke, parent)

    async def _work(
        self,
        root: Root,
        opened: Opened,
        callee: Callee,
        space: SearchSpace,
        budget: int | Budget | None,
        smoke: bool,
        parent: Activation | None,
    ) -> SweepResult:
        """Replay what the store has, then go on."""
        handle = opened.handle
        executor, workers = self._executor()
        if isinstance(self.executor, str):
            executor = root.executors.setdefault(self.executor, executor)
        lock = threading.Lock()
        optimizer, scheduler, lines = self._strategies(space, handle.seed, lock, parent is not None)
        machine = Machine(
            self.objectives(), seed=handle.seed, repeats=self.repeats, retries=self.retries, max_failures=self.max_failures,
            max_resource=getattr(scheduler, "max_resource", None), smoke=smoke, path=handle.path,
            enqueue=[space.validate(params) for params in self.enqueue],
        )  # fmt: skip
        log = EventLog(handle.store, handle.run_id, handle.root_id)
        past = log.read()
        _check_seed(handle, begun=bool(past))
        asked = opened.request
        if opened.finished:
            machine.apply(past)
            if asked is not None:
                announce(opened, plan_of_sweep(machine, opened, is_leaf=callee.is_leaf))
            return SweepResult.of_machine(self.name, opened, machine, space)
        fresh = self._opening(past, machine, workers, budget, optimizer, scheduler, space, lines, handle)
        dry = asked is not None and asked.dry_run
        again = handle.redo.trials.get(handle.run_id, ()) if dry else reopened(handle.journal)
        fresh += [ev.Reopened(number) for number in sorted(again)]
        if _was_over(past, fresh, opened):
            machine.apply(past)
            if asked is not None:
                announce(opened, plan_of_sweep(machine, opened, is_leaf=callee.is_leaf))
            return self._ended(root, opened, machine, space)
        if not dry:
            self._given_kept.keep(handle)
            _notice_code(root, opened, callee)
            log.write(fresh, machine.trials, current_clock().wall())
            handle.store.commit()
        self._replayed(machine, [*past, *fresh], optimizer, scheduler)
        if not dry:
            log.agree(machine.trials, current_clock().wall())
        if asked is not None:
            announce(opened, plan_of_sweep(machine, opened, is_leaf=callee.is_leaf))
        elif machine.trials:
            say(_resume_line(handle.path, machine))
        notice = restart_notice(callee, scheduler)
        for line in lines if notice is None else [*lines, notice]:
            if line not in root.said:
                root.said.add(line)
                say(line)
        conductor = Conductor(machine, scheduler, current_clock().wall)
        driver = Driver(root, handle, conductor, optimizer, callee, executor, self.resources or Resources(), log)
        driver.hooks, driver.repeats = () if parent is None else parent.frame.hooks, 1 if smoke else self.repeats
        driver.tells_pauses = notice is None
        driver.turn, driver.workers, driver.owner = lock, workers, self if parent is None else parent.frame.owner
        driver.checkpoints = Checkpoints(handle.store, handle.root_id, machine)
        root.stream.emit("run.resumed" if past else "run.started", handle.run_id, handle.path, sweep=driver)
        with sharing(driver, past, leaf=callee.is_leaf):
            await driver.run()
        return self._ended(root, opened, machine, space)

    def _ended(self, root: Root, opened: Opened, machine: Machine, space: SearchSpace) -> SweepResult:
        """Write how the sweep ended, and return its result."""
        handle = opened.handle
        result = SweepResult.of_machine(self.name, opened, machine, space)
        opened.status, opened.reason = result.status, result.reason
        result.write(handle)
        root.stream.emit("run.ended", handle.run_id, handle.path, status=str(result.status), result=result)
        return result

    def _opening(
        self, past: list[ev.Event], machine: Machine, workers: int, budget: int | Budget | None, optimizer: Optimizer,
        scheduler: Scheduler, space: SearchSpace, lines: list[str], handle: Any,
    ) -> list[ev.Event]:  # fmt: skip
        """Return the events with which this session begins."""
        events: list[ev.Event] = [ev.Opened(current_clock().wall(), workers)]
        if not past or budget is not None or current_purse() is not None:
            finite = bool(getattr(optimizer, "finite", False))
            limits, line = budget_for(budget, finite=finite, n_trials=scheduler.n_trials)
            lines += [line] if line else []
            earlier = [event for event in past if isinstance(event, ev.BudgetSet)]
            if not earlier or earlier[-1] != ev.BudgetSet.of(limits):
                events.append(ev.BudgetSet.of(limits))
        if not past and self.init_from is not None:
            events.append(ev.Imported(earlier_trials(self.init_from, space, self.objectives(), handle.store)))
        return events

    @staticmethod
    @collector_paused()
    def _replayed(machine: Machine, events: list[ev.Event], optimizer: Optimizer, scheduler: Scheduler) -> None:
        """Bring machine and strategies to where the journal left them."""
        restore_optimizer = getattr(optimizer, "restore", None)
        restore_scheduler = getattr(scheduler, "restore", None)
        differences = replay(
            machine,
            events,
            optimizer=optimizer if restore_optimizer is None else None,
            scheduler=scheduler if restore_scheduler is None else None,
        )
        history = [*machine.standing.earlier, *machine.trials]
        if restore_optimizer is not None and history:
            restore_optimizer(history)
        if restore_scheduler is not None and machine.trials:
            restore_scheduler(machine.trials)
        if differences:
            say(f"a strategy answers otherwise than before ({differences[0]}); the journal stands")


def _notice_code(root: Root, opened: Opened, callee: Callee) -> None:
    """Keep the fingerprint of the objective's code; say so if it has changed since the run began."""
    handle = opened.handle
    code = "+".join(root.fingerprints.code_fingerprint(one) for one in callee.functions())
    entry = handle.journal.get(_CODE)
    if entry is not None and entry.value != code:
        say(
            f"{handle.path!r}: the objective's code has changed since this run began; finished trials keep their "
            "results, the others run the new code (begin anew: resume='never', --new)"
        )
    if entry is None or entry.value != code:
        handle.journal.put(_CODE, "code", code)


def _check_seed(handle: Handle, *, begun: bool) -> None:
    """Keep the seed a second time, and compare: from a seed that the disk has changed another sweep would come."""
    entry = handle.journal.get(_SEED)
    if not begun:
        handle.journal.put(_SEED, "seed", str(handle.seed))
    elif entry is not None and entry.value != str(handle.seed):
        raise StoreCorrupt(
            f"{handle.store.path}, run {handle.run_id}: its seed is {handle.seed}, the journal says {entry.value}: the row "
            f"is damaged; put a copy of {handle.store.path.name} back, or begin a new run (resume='never', --new)"
        )


def _predictor(optimizer: Optimizer, lock: threading.Lock) -> Callable[..., Any] | None:
    """Return the optimizer's ``predict``, which waits its turn while ``suggest`` works in its thread."""
    predict = getattr(optimizer, "predict", None)
    if predict is None:
        return None

    def in_turn(trials: Sequence[Any], resource: float) -> Any:
        with lock:
            return predict(trials, resource)

    return in_turn


def _was_over(past: Sequence[ev.Event], fresh: Sequence[ev.Event], opened: Opened) -> bool:
    """Whether the last session died between the end of the sweep and that of its run, and nothing new is asked for."""
    died = opened.before is not None and opened.before.status is Status.RUNNING
    return died and len(fresh) == 1 and bool(past) and isinstance(past[-1], ev.Finished)


def _resume_line(path: str, machine: Machine) -> str:
    """Return in one line what was restored and what runs again."""
    counts = machine.standing.counts
    ended = sum(count for status, count in counts.items() if status.ended)
    cut = [trial for trial in machine.trials if trial.status in (Status.RUNNING, Status.PENDING, Status.INTERRUPTED)]
    again = ", ".join(f"{trial.number} from step {(machine.checkpoint(trial.number) or (0,))[0]}" for trial in cut[:4])
    again += ", …" if len(cut) > 4 else ""
    runs = f"; runs again: trial {again}" if cut else ""
    return f"resuming {path!r}: restored {ended} finished and {counts[Status.PAUSED]} paused trials{runs}"


def _count_problems(sweep: SweepExperiment) -> list[str]:
    """Return what is wrong with the numbers."""
    problems: list[str] = []
    for name, least in (("workers", 1), ("repeats", 1), ("retries", 0), ("max_failures", 0), ("seed", 0)):
        value = getattr(sweep, name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
            problems.append(f"{name}={value!r}: expected a whole number >= {least}")
    if sweep.resources is not None and not isinstance(sweep.resources, Resources):
        problems.append(f"resources={sweep.resources!r}: expected Resources(cpus=…, gpus=…)")
    problems += [f"constraints: {one!r} is not callable" for one in sweep.constraints if not callable(one)]
    metrics = [sweep.metric] if sweep.metric is None or isinstance(sweep.metric, str) else list(sweep.metric)
    if len(set(metrics)) < len(metrics):
        problems.append(f"metric={sweep.metric!r}: the same metric twice")
    modes = [sweep.mode] if isinstance(sweep.mode, str) else list(sweep.mode)
    if not isinstance(sweep.mode, str) and len(modes) != len(metrics):
        problems.append(f"mode={sweep.mode!r}: {len(modes)} modes for {len(metrics)} metrics")
    problems += [
        f"mode={mode!r}: expected 'min' or 'max'{did_you_mean(str(mode), ('min', 'max'))}"
        for mode in modes
        if mode not in ("min", "max")
    ]
    return problems


def _strategy_problems(sweep: SweepExperiment, trials: int | None = None) -> list[str]:
    """Return what is wrong with the strategies by themselves, and with a budget of so many trials."""
    problems: list[str] = []
    optimizer, scheduler = sweep.optimizer, sweep.scheduler
    if isinstance(optimizer, type) or (
        optimizer is not None and not (hasattr(optimizer, "suggest") and hasattr(optimizer, "observe"))
    ):
        problems.append(
            f"optimizer={optimizer!r}: expected an object with suggest(n) and observe(trial, result), such as RandomOptimizer()"
        )
    if isinstance(scheduler, type) or (scheduler is not None and not hasattr(scheduler, "should_stop")):
        problems.append(f"scheduler={scheduler!r}: expected an object with should_stop(trial), such as ASHAScheduler()")
    if not problems and isinstance(scheduler, Scheduler):
        objection = scheduler.objection(finite=bool(getattr(optimizer, "finite", False)), trials=trials)
        problems += [] if objection is None else [objection]
    return problems
