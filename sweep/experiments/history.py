"""Earlier results as history for an optimizer: ``init_from=``."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sweep.errors import ContractError, SpaceError
from sweep.experiments.eventlog import EventLog
from sweep.experiments.events import Earlier
from sweep.experiments.ledger import Rules
from sweep.experiments.machine import Machine
from sweep.space import SearchSpace
from sweep.store.runs import RunRow, find_run
from sweep.store.writer import Store
from sweep.tracker.stream import say
from sweep.trial import Objective, Trial

__all__ = ["earlier_trials", "machine_of"]

_NUMBERS = ("score", "value", "loss")
_FACTS: dict[str, Callable[[Any], Any]] = {"step": int, "cost": float}  # of a row, where they are no parameters


def earlier_trials(
    source: Any, space: SearchSpace, objectives: Sequence[Objective], store: Store
) -> tuple[Earlier, ...]:
    """Return the finished trials of a run (id, name), a result, trials, or rows of a table.

    Trials outside the space are left out; one line lists each parameter that does not fit, with the first reason.

    Raises:
        RunNotFound: There is no such run.
        ContractError: The source is none of these.
    """
    found: list[Earlier] = []
    misfits: list[SpaceError] = []
    for params, rest in _candidates(source, space, objectives, store):
        try:
            found.append(Earlier(space.validate(params), **rest))
        except SpaceError as error:
            misfits.append(error)
    if misfits:
        reasons = dict(problem for error in reversed(misfits) for problem in reversed(error.problems))
        listed = "; ".join(f"{name!r} {text}" if name else text for name, text in reversed(reasons.items()))
        say(f"init_from: {len(misfits)} trials do not fit the space and are left out: {listed}")
    return tuple(found)


def _candidates(
    source: Any, space: SearchSpace, objectives: Sequence[Objective], store: Store
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    if isinstance(source, int | str) and not isinstance(source, bool):
        row = find_run(store, str(source))
        return [_of_trial(trial) for trial in machine_of(store, row, objectives).trials if trial.values]
    trials = getattr(source, "trials", source)
    if hasattr(trials, "to_dict"):
        trials = trials.to_dict("records")
    if not isinstance(trials, Sequence):
        raise ContractError("init_from", [f"{source!r}: expected a run id or name, a result, trials, or rows"])
    return [
        _of_trial(one) if isinstance(one, Trial) else _of_row(one, space, objectives)
        for one in trials
        if _is_known(one)
    ]


def _is_known(one: Any) -> bool:
    return not isinstance(one, Trial) or one.score is not None


def _of_trial(trial: Trial) -> tuple[dict[str, Any], dict[str, Any]]:
    values = trial.values or (() if trial.score is None else (trial.score,))
    rest = {"values": tuple(values), "metrics": dict(trial.metrics), "step": trial.step, "cost": trial.cost}
    return dict(trial.params), rest


def _of_row(row: Any, space: SearchSpace, objectives: Sequence[Objective]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return one row of a table: parameters and scores by column."""
    if not isinstance(row, Mapping):
        raise ContractError("init_from", [f"{row!r}: expected a Trial or a mapping of names to values"])
    params = {name: row[name] for name in space if name in row and row[name] is not None}
    names: list[str | None] = [objective.metric for objective in objectives if objective.metric in row]
    names = names or list[str | None](name for name in _NUMBERS if name in row)[:1]
    if not names:
        raise ContractError("init_from", [f"the row {dict(row)!r} has no score; name it like the metric, or 'score'"])
    rest = {name: as_is(row[name]) for name, as_is in _FACTS.items() if name not in space and row.get(name) is not None}
    return params, {"values": tuple(float(row[name]) for name in names if name is not None), **rest}


def machine_of(store: Store, row: RunRow, objectives: Sequence[Objective] | None = None) -> Machine:
    """Return a sweep's machine as the store has it."""
    if objectives is None:
        objectives = objectives_of(row)
    repeats = _identity(row).get("repeats") or 1
    machine = Machine(Rules(tuple(objectives), seed=row.seed or 0, repeats=repeats, path=row.segment))
    machine.apply(EventLog(store, row.id, row.root_id).read())
    return machine


def objectives_of(row: RunRow) -> tuple[Objective, ...]:
    """Return what a stored sweep optimises."""
    identity = _identity(row)
    metric, mode = identity.get("metric"), identity.get("mode", "min")
    metrics = metric if isinstance(metric, list) else [metric]
    modes = mode if isinstance(mode, list) else [mode] * len(metrics)
    return tuple(Objective(one, how) for one, how in zip(metrics, modes, strict=True))


def _identity(row: RunRow) -> dict[str, Any]:
    return {} if row.identity is None else dict(json.loads(row.identity))
