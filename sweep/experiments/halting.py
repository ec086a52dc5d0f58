"""What ends a sweep before its time, and what becomes of the trials it cuts."""

from __future__ import annotations

from typing import NamedTuple

from sweep.experiments.standing import Standing
from sweep.trial import Budget, Reason, Status, Trial

__all__ = ["BY_USER", "CUT", "UNPROMOTED", "Halt", "by_budget", "intolerable", "spent"]


class Halt(NamedTuple):
    """Why a sweep winds down: how it will finish, and what becomes of the trials it cuts."""

    status: Status
    reason: Reason
    text: str
    trial: tuple[Status, Reason]


CUT = {
    Reason.BUDGET: (Status.STOPPED, Reason.BUDGET),
    Reason.USER: (Status.STOPPED, Reason.USER),
    Reason.ERROR: (Status.ABORTED, Reason.PARENT),
}
"""What becomes of trials that are cut, by the reason for which the sweep ends."""

UNPROMOTED = (Status.STOPPED, Reason.UNPROMOTED)
BY_USER = Halt(Status.STOPPED, Reason.USER, "stopped by the user", CUT[Reason.USER])


def spent(budget: Budget, elapsed: float, standing: Standing) -> Halt | None:
    """Return a halt if seconds, cost or resource of the budget are spent.

    Args:
        budget: The limits; the one in trials is none of ours, it only lets nobody in.
        elapsed: Seconds worked on the sweep.
        standing: For cost and resource.
    """
    limits = (
        (budget.seconds, elapsed, "seconds"),
        (budget.cost, standing.cost, "cost"),
        (budget.resource, standing.resource, "resource"),
    )
    for limit, used, name in limits:
        if limit is not None and used >= limit:
            return by_budget(f"the budget is spent: {name}={limit:g}")
    return None


def by_budget(text: str) -> Halt:
    """Return the halt of a sweep that may spend no more."""
    return Halt(Status.COMPLETED, Reason.BUDGET, text, CUT[Reason.BUDGET])


def intolerable(last: Trial, standing: Standing, max_failures: int | None, workers: int) -> Halt | None:
    """Return a halt if more trials have failed than a sweep puts up with.

    Args:
        last: The trial that has just failed.
        standing: For the counts.
        max_failures: So many are tolerated; None: any number, except that all of the first ``max(5, workers)`` fail.
        workers: Attempts at once.
    """
    if max_failures is not None and standing.failed > max_failures:
        why = f"{standing.failed} trials failed, max_failures={max_failures}"
    elif not standing.succeeded and standing.failed >= max(5, workers):
        why = f"all of the first {standing.failed} trials failed"
    else:
        return None
    text = f"{why}; the last one, trial {last.number}: {last.error}"
    return Halt(Status.FAILED, Reason.ERROR, text, CUT[Reason.ERROR])
