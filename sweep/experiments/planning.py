"""The plan of a sweep's resume: read off the replayed machine, before anything is due."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from sweep.experiments.machine import Machine
from sweep.pipeline.durable import Opened
from sweep.pipeline.planning import lines_inside
from sweep.pipeline.request import Plan, PlanLine
from sweep.pipeline.runtime import Handle
from sweep.trial import Status, Trial

__all__ = ["plan_of_sweep"]


def plan_of_sweep(machine: Machine, opened: Opened, *, is_leaf: bool) -> Plan:
    """Return what a resume of a sweep does: finished trials, those that go on and from where, those that wait.

    Args:
        machine: Replayed up to the new session.
        opened: The sweep's run.
        is_leaf: The objective is one function, so that a trial without a checkpoint begins anew.
    """
    handle = opened.handle
    lines = [PlanLine("everything", "finished", _ended(machine))] if opened.finished else list(_lines(machine, is_leaf, handle))
    return Plan(handle.run_id, handle.path, tuple(lines))


def _ended(machine: Machine) -> str:
    found = machine.finished
    return "nothing runs" if found is None else f"{found.text or found.reason}; nothing runs"


def _lines(machine: Machine, is_leaf: bool, handle: Handle) -> Iterator[PlanLine]:
    trials = machine.trials
    done = [trial for trial in trials if trial.status.ended]
    if done:
        yield PlanLine(_trials(done), "restored", _counts(done))
    for trial in trials:
        if trial.status in (Status.INTERRUPTED, Status.RUNNING):
            yield _going_on(machine, trial, is_leaf)
            yield from lines_inside(handle, f"trial[{trial.number}]")
    pending = [trial for trial in trials if trial.status is Status.PENDING]
    if pending:
        yield PlanLine(_trials(pending), "runs", "waiting for a free slot")
    paused = [trial for trial in trials if trial.status is Status.PAUSED]
    if paused:
        yield PlanLine(_trials(paused), "waits", "paused for a promotion")
    limit = machine.budget.trials
    if limit is not None:
        left = max(0, limit - machine.standing.configurations)
        yield PlanLine("new trials", "runs", f"{left} of {limit} left in the budget")


def _going_on(machine: Machine, trial: Trial, is_leaf: bool) -> PlanLine:
    path = f"trial[{trial.number}]"
    found = machine.checkpoint(trial.number)
    if found is not None:
        return PlanLine(path, "goes on", f"from its checkpoint at step {found[0]}")
    if not is_leaf:
        return PlanLine(path, "goes on", "its finished stages are restored")
    return PlanLine(path, "runs again", "it saved no checkpoint")


def _trials(trials: list[Trial]) -> str:
    return f"trial[{trials[0].number}]" if len(trials) == 1 else f"{len(trials)} trials"


def _counts(trials: list[Trial]) -> str:
    counts = Counter(
        str(trial.status) if trial.reason in (None, str(trial.status)) else f"{trial.status}: {trial.reason}" for trial in trials
    )
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
