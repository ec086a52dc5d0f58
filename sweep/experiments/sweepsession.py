"""One session of a sweep: what its store has is replayed, then it goes on from there.

:class:`~sweep.experiments.sweep.SweepExperiment` says what is to be done (:class:`Sweep`) and opens the run;
:func:`work` sets the strategies up, brings machine and strategies to where the journal left them, and drives.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, final

from sweep.clock import current_clock
from sweep.errors import ContractError, StoreCorrupt
from sweep.executors.base import Executor
from sweep.experiments import events as ev
from sweep.experiments.attempts import Attempts
from sweep.experiments.checkpoints import Checkpoints
from sweep.experiments.conductor import Conductor, replay
from sweep.experiments.constraints import Constrained, Constraint
from sweep.experiments.driver import Driver
from sweep.experiments.eventlog import EventLog
from sweep.experiments.given import Given
from sweep.experiments.history import earlier_trials
from sweep.experiments.lane import Lane
from sweep.experiments.ledger import Rules
from sweep.experiments.machine import Machine, budget_for
from sweep.experiments.objective import Objective
from sweep.experiments.planning import plan_of_sweep
from sweep.experiments.purse import current_purse
from sweep.experiments.restarts import restart_notice
from sweep.experiments.sharing import sharing
from sweep.experiments.sweepresult import SweepResult
from sweep.optimizers.base import Optimizer
from sweep.pipeline.durable import Opened
from sweep.pipeline.planning import announce
from sweep.pipeline.redo import reopened
from sweep.pipeline.runtime import Activation, Handle, Root
from sweep.schedulers.base import Scheduler
from sweep.space import SearchSpace
from sweep.store.bulk import collector_paused
from sweep.tracker.stream import say
from sweep.trial import Budget, Resources, Status

__all__ = ["Sweep", "copied", "work"]

_CODE, _SEED = "!code", "!seed"


@final
@dataclass(frozen=True, slots=True)
class Sweep:
    """A sweep as it was checked: what a session works on.

    Attributes:
        name: Of the sweep.
        experiment: The experiment itself, owner of what its trials start.
        objective: Checked against the space.
        space: What is searched.
        rules: For the machine; seed, path and longest trial are those of the run.
        optimizer: None = a default.
        scheduler: None = every trial to its end.
        constraints: Feasible means <= 0.
        executor: Where trials run.
        shared_as: Name under which all sweeps of the tree share the executor, or None.
        workers: Attempts at once.
        resources: What a trial occupies.
        init_from: Earlier results, or None.
        budget: What the user gave.
        given: The config, to be kept with the run.
    """

    name: str
    experiment: Any
    objective: Objective
    space: SearchSpace
    rules: Rules
    optimizer: Optimizer | None
    scheduler: Scheduler | None
    constraints: Sequence[Constraint]
    executor: Executor
    shared_as: str | None
    workers: int
    resources: Resources
    init_from: Any
    budget: int | Budget | None
    given: Given


async def work(sweep: Sweep, root: Root, opened: Opened, parent: Activation | None) -> SweepResult:
    """Replay what the store has, then go on.

    Args:
        sweep: What to do.
        root: What the tree shares.
        opened: The sweep's run.
        parent: In what it was started, or None.

    Raises:
        StoreCorrupt: The store does not hold what was written.
        StrategyError: A strategy broke its protocol.
    """
    handle, asked = opened.handle, opened.request
    dry = asked is not None and asked.dry_run
    lane, scheduler, lines = _strategies(sweep, handle.seed, inside=parent is not None)
    longest = getattr(scheduler, "max_resource", None)
    machine = Machine(replace(sweep.rules, seed=handle.seed, path=handle.path, max_resource=longest))
    log = EventLog(handle.store, handle.run_id, handle.root_id)
    past = log.read()
    _check_seed(handle, begun=bool(past))
    fresh: list[ev.Event] = []
    if not opened.finished:
        fresh, line = _opening(sweep, past, lane.optimizer, scheduler, handle)
        lines += [line] if line else []
        again = handle.redo.trials.get(handle.run_id, ()) if dry else reopened(handle.journal)
        fresh += [ev.Reopened(number) for number in sorted(again)]
    if opened.finished or _was_over(past, fresh, opened):
        machine.apply(past)
        _announce_plan(sweep, machine, opened)
        return _result(sweep, root, opened, machine)
    if not dry:
        sweep.given.keep(handle)
        _notice_code(root, opened, sweep.objective)
        log.write(fresh, machine.trials, current_clock().wall())
        handle.store.commit()
    _replay(machine, [*past, *fresh], lane.optimizer, scheduler)
    if not dry:
        log.agree(machine.trials, current_clock().wall())
    _announce_plan(sweep, machine, opened)
    if asked is None and machine.trials:
        say(_resume_line(handle.path, machine))
    _say_once(root, lines)
    driver, attempts = _at_work(sweep, root, parent, handle, lane, Conductor(machine, scheduler, current_clock().wall), log)
    root.stream.emit("run.resumed" if past else "run.started", handle.run_id, handle.path, sweep=driver)
    with sharing(driver, past, leaf=sweep.objective.is_leaf):
        await driver.run(attempts)
    return _result(sweep, root, opened, machine)


def _at_work(
    sweep: Sweep, root: Root, parent: Activation | None, handle: Handle, lane: Lane, conductor: Conductor, log: EventLog
) -> tuple[Driver, Attempts]:
    """Return what drives the sweep, and what runs its attempts."""
    notice = restart_notice(sweep.objective, conductor.scheduler)
    _say_once(root, [] if notice is None else [notice])
    executor = sweep.executor if sweep.shared_as is None else root.executors.setdefault(sweep.shared_as, sweep.executor)
    kept = Checkpoints(handle.store, handle.root_id, conductor.machine)
    driver = Driver(root, handle, conductor, lane, log, executor, sweep.workers, kept)
    attempts = Attempts(
        driver, sweep.objective, sweep.resources, repeats=sweep.rules.repeats, tells_pauses=notice is None,
        hooks=() if parent is None else parent.frame.hooks,
        owner=sweep.experiment if parent is None else parent.frame.owner, may_follow=lane.cheap,
    )  # fmt: skip
    return driver, attempts


def _result(sweep: Sweep, root: Root, opened: Opened, machine: Machine) -> SweepResult:
    """Return what the sweep came to; write it down, if that was not done before."""
    handle = opened.handle
    result = SweepResult.of_machine(sweep.name, opened, machine, sweep.space)
    if not opened.finished:
        opened.status, opened.reason = result.status, result.reason
        result.write(handle)
        root.stream.emit("run.ended", handle.run_id, handle.path, status=str(result.status), result=result)
    return result


# ---------------------------------------------------------------- strategies


def _strategies(sweep: Sweep, seed: int, *, inside: bool) -> tuple[Lane, Scheduler, list[str]]:
    """Return optimizer and scheduler, set up, and lines about defaults; ``inside`` another run: copies."""
    from sweep.schedulers import BatchScheduler

    lines: list[str] = []
    optimizer, scheduler = sweep.optimizer, sweep.scheduler or BatchScheduler()
    if inside:  # what is given once runs many times, also side by side
        optimizer, scheduler = copied(optimizer, sweep.name), copied(scheduler, sweep.name)
    space, objectives = sweep.space, sweep.rules.objectives
    if optimizer is None:
        from sweep.optimizers.default import default_optimizer

        optimizer, line = default_optimizer(space, objectives)
        lines.append(line)
    if sweep.constraints:
        optimizer = Constrained(optimizer, sweep.constraints)
    optimizer.setup(space, objectives, seed)
    lane = Lane(optimizer)
    if "predict" in inspect.signature(scheduler.setup).parameters:
        scheduler.setup(space, objectives, seed, lane.predictor())  # type: ignore[call-arg]  # it asks for it
    else:
        scheduler.setup(space, objectives, seed)
    return lane, scheduler, lines


def copied(strategy: Any, name: str) -> Any:
    """Return a copy of a strategy of the sweep ``name``.

    Raises:
        ContractError: It cannot be copied.
    """
    try:
        return copy.deepcopy(strategy)
    except TypeError as error:
        problem = f"a sweep inside another run works on a copy of its strategies; {strategy!r} cannot be copied: {error}"
        raise ContractError(name, [f"{problem}. Make the sweep in the stage or objective that runs it"]) from error


# ---------------------------------------------------------------- going on where the journal ends


def _opening(
    sweep: Sweep, past: Sequence[ev.Event], optimizer: Optimizer, scheduler: Scheduler, handle: Handle
) -> tuple[list[ev.Event], str]:
    """Return the events with which this session begins, and a line about a budget that nobody gave."""
    events: list[ev.Event] = [ev.Opened(current_clock().wall(), sweep.workers)]
    line, outer = "", current_purse()
    if not past or sweep.budget is not None or outer is not None:
        finite = bool(getattr(optimizer, "finite", False))
        limits, line = budget_for(sweep.budget, finite=finite, n_trials=scheduler.n_trials)
        left = None if not line or outer is None else outer.left()
        if left is not None and any(map(math.isfinite, left[:4])):
            line += f", or what {left.path!r} has left"
        earlier = [event for event in past if isinstance(event, ev.BudgetSet)]
        if not earlier or earlier[-1] != ev.BudgetSet.of(limits):
            events.append(ev.BudgetSet.of(limits))
    if not past and sweep.init_from is not None:
        events.append(ev.Imported(earlier_trials(sweep.init_from, sweep.space, sweep.rules.objectives, handle.store)))
    return events, line


def _was_over(past: Sequence[ev.Event], fresh: Sequence[ev.Event], opened: Opened) -> bool:
    """Whether the last session died between the end of the sweep and that of its run, and nothing new is asked for."""
    died = opened.before is not None and opened.before.status is Status.RUNNING
    return died and len(fresh) == 1 and bool(past) and isinstance(past[-1], ev.Finished)


@collector_paused()
def _replay(machine: Machine, events: list[ev.Event], optimizer: Optimizer, scheduler: Scheduler) -> None:
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


def _notice_code(root: Root, opened: Opened, callee: Objective) -> None:
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


# ---------------------------------------------------------------- what is said


def _announce_plan(sweep: Sweep, machine: Machine, opened: Opened) -> None:
    """Show what a resume that was asked for does; a dry run ends here."""
    if opened.request is not None:
        announce(opened, plan_of_sweep(machine, opened, is_leaf=sweep.objective.is_leaf))


def _resume_line(path: str, machine: Machine) -> str:
    """Return in one line what was restored and what runs again."""
    counts = machine.standing.counts
    ended = sum(count for status, count in counts.items() if status.ended)
    cut = [trial for trial in machine.trials if trial.status in (Status.RUNNING, Status.PENDING, Status.INTERRUPTED)]
    again = ", ".join(f"{trial.number} from step {(machine.checkpoint(trial.number) or (0,))[0]}" for trial in cut[:4])
    again += ", …" if len(cut) > 4 else ""
    runs = f"; runs again: trial {again}" if cut else ""
    return f"resuming {path!r}: restored {ended} finished and {counts[Status.PAUSED]} paused trials{runs}"


def _say_once(root: Root, lines: Sequence[str]) -> None:
    for line in lines:
        if line not in root.said:
            root.said.add(line)
            say(line)
