"""A sweep inside other runs: it spends from their budgets, and gets no more than they have left."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from sweep.experiments import events as ev
from sweep.experiments.driver import Driver
from sweep.experiments.machine import Machine
from sweep.experiments.purse import NO_LIMITS, Left, Purse, carrying, current_purse
from sweep.trial import Budget

__all__ = ["sharing"]


@contextmanager
def sharing(driver: Driver, past: Sequence[ev.Event], *, leaf: bool) -> Iterator[None]:
    """Give a driver its purse while it works, and its machine limits that the runs above can keep.

    Args:
        driver: Replayed, not yet at work.
        past: The events of earlier sessions.
        leaf: The objective is one function.
    """
    machine, outer = driver.conductor.machine, current_purse()
    elapsed = sum(event.seconds for event in past if isinstance(event, ev.Ticked))
    driver.purse = purse = Purse(
        driver.handle.path, lambda: _limits(machine), parent=outer, stop=driver.stop if outer is not None else None
    )
    if past and not leaf:
        purse.recall(driver.handle.store, driver.handle.run_id)
    elif past:
        purse.cost = machine.standing.cost
    purse.elapsed = elapsed
    if outer is None:
        with carrying(purse):
            yield
        return
    taken, began = _narrow(driver, outer.left(), elapsed), machine.standing.configurations
    outer.spend(trials=taken)
    try:
        with carrying(purse):
            yield
    finally:
        outer.spend(trials=machine.standing.configurations - began - taken)


def _limits(machine: Machine) -> Budget:
    """Return what limits the sweeps inside its trials: their trials and steps are their own affair."""
    if machine.budget.seconds is None and machine.budget.cost is None:
        return NO_LIMITS
    return Budget(seconds=machine.budget.seconds, cost=machine.budget.cost)


def _narrow(driver: Driver, left: Left, elapsed: float) -> int:
    """Set the limits of a sweep to what is left above it; return how many trials are set aside for it."""
    machine = driver.conductor.machine
    budget, standing = machine.budget, machine.standing
    nothing = left.nothing()
    if nothing:
        driver.submit(driver.conductor.submit, ev.StopRequested(spent=nothing))
        return 0
    trials = _least(budget.trials, standing.configurations + left.trials)
    narrowed = Budget(
        None if trials is None else int(trials),
        _least(budget.seconds, elapsed + left.seconds),
        _least(budget.cost, standing.cost + left.cost),
        _least(budget.resource, standing.resource + left.resource),
    )
    if narrowed != budget:
        driver.submit(driver.conductor.submit, ev.BudgetSet.of(narrowed))
    return 0 if trials is None else max(0, int(trials) - standing.configurations)


def _least(limit: float | None, other: float) -> float | None:
    least = min(math.inf if limit is None else limit, other)
    return None if least == math.inf else least
