"""One trial of a finished or unfinished sweep, alone, with its parameters and seed, as a new run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from sweep.errors import RunNotFound
from sweep.executors.base import Task
from sweep.experiments.ledger import seed_of
from sweep.experiments.objective import FunctionObjective, number_of
from sweep.experiments.placing import placing
from sweep.experiments.result import RunResult
from sweep.experiments.standing import values_of
from sweep.experiments.sweepsession import Sweep
from sweep.pipeline.durable import Opened, RunSpec, open_top
from sweep.pipeline.request import Request
from sweep.pipeline.runtime import ACTIVATION, Activation, Frame, Root
from sweep.pipeline.session import StageSession
from sweep.store.runs import TRIAL, RunRow, children, read_run
from sweep.store.writer import Durability, Store
from sweep.trial import Objective as Goal

__all__ = ["rerun_trial"]


async def rerun_trial(root: Root, request: Request, sweep: Sweep, durability: Durability) -> RunResult:
    """Run the objective once with a stored trial's parameters and seed; no scheduler cuts it short.

    Args:
        root: What the tree shares.
        request: Names store, sweep and trial.
        sweep: As the code is now.
        durability: Of the new run.

    Returns:
        The new run, with its score as ``value``.

    Raises:
        RunNotFound: The sweep has no such trial.
    """
    number = request.trial or 0
    with Store(request.store, create=False, readonly=True) as store:
        stored = read_run(store, request.run)
        trial = _trial(store, stored, number)
    params, seed = dict(trial.data("params")), seed_of(stored.seed or 0, number, 0)
    identity = {"objective": sweep.objective.identity(), "params": params, "trial": f"{stored.segment}/{trial.segment}"}
    spec = RunSpec(f"{stored.segment}-trial{number}", "rerun", identity, params, seed=seed)
    async with open_top(root, spec, Path(request.store), "never", durability) as opened:
        value = await _call(root, opened, sweep, params, number)
        opened.handle.store.commit()
        return _result(opened, sweep.rules.objectives, value)


def _trial(store: Store, sweep: RunRow, number: int) -> RunRow:
    found = [row for row in children(store, sweep.id) if row.level == TRIAL]
    for row in found:
        if row.number == number:
            return row
    raise RunNotFound(f"{sweep.segment}/trial[{number}]", str(store.path), [f"{sweep.segment}/{row.segment}" for row in found])


async def _call(root: Root, opened: Opened, sweep: Sweep, params: Mapping[str, object], number: int) -> object:
    handle, callee, executor, resources = opened.handle, sweep.objective, sweep.executor, sweep.resources
    facts = {"run_id": handle.run_id, "path": handle.path, "trial": number, "attempt": 1, "step": 0, "seed": handle.seed}
    directory = handle.store.run_directory(handle.run_id)
    act = Activation(Frame(root, handle, handle.path, facts=facts), None, "", None)
    act.frame.session = session = StageSession(act, handle)
    act.frame.place = placing(executor, callee, session, resources, facts, directory)
    token = ACTIVATION.set(act)  # runs that the objective starts here are children of this one
    try:
        async with executor.open(callee.functions()):
            if not isinstance(callee, FunctionObjective):
                return (await callee.orchestrate(params, act)).scored_by(sweep.rules.objectives)
            task = Task(callee.callable, callee.kwargs(params), callee.context_name, resources, facts, directory, directory)
            return await executor.run(task, session)
    finally:
        ACTIVATION.reset(token)


def _result(opened: Opened, goals: tuple[Goal, ...], value: object) -> RunResult:
    """Keep the score with the run, and return what it came to."""
    handle = opened.handle
    query = "SELECT name, value, step FROM metric WHERE run_id=? ORDER BY id"
    rows = handle.store.rows(query, (handle.run_id,))
    metrics = {name: one for name, one, _ in rows if one is not None}
    number = number_of(value)
    score = values_of(goals, value if number is None else number, metrics)[0]
    step = max((step for _, _, step in rows if step is not None), default=0)
    change = "UPDATE run SET score=?, step=?, result=? WHERE id=?"
    handle.store.add(change, (score, step, json.dumps(metrics), handle.run_id))
    return RunResult(run_id=handle.run_id, name=handle.path, path=handle.path, value=score)
