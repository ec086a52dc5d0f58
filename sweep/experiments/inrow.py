"""Trials that follow one another at once, in one call of an executor.

A sync objective runs in a worker thread, so that it never blocks the loop; the way there and back costs more than
a short trial and its commit. Where the next trial is known as soon as one has ended, the thread goes on with it.
An async objective stays on the loop, and what an executor does round a call is done once for several.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

from sweep.clock import current_clock
from sweep.executors.base import Task
from sweep.experiments import events as ev
from sweep.experiments.objective import FunctionObjective
from sweep.experiments.purse import Purse, carrying

__all__ = ["Turn", "in_row", "in_row_on_the_loop"]

_SLICE = 0.005
"""Seconds after which others who wait for the thread, the loop or a slot have their turn."""
_PLAIN = (float, int, dict, type(None))
"""What ends a trial at once; anything else (a coroutine, an array) is for the loop to look at."""


@final
@dataclass(slots=True)
class Turn:
    """What a task is at.

    Attributes:
        start: The attempt; None once it has been submitted and no other follows.
        purse: What it spends.
        scope: Its task's cancel scope.
        began: When the attempt began.
        over: Nobody waits for the call any more: what it still does counts for nothing.
        task: The call that was placed.
    """

    start: ev.Start | None
    purse: Purse
    scope: Any
    began: float = 0.0
    over: bool = False
    task: Task | None = None


def in_row(turn: Turn, objective: FunctionObjective, follow: Callable[[Turn, Any], bool]) -> Any:
    """Run the attempt of a turn and those that follow it; return the value of the last, which is not submitted yet.

    Args:
        turn: Where it stands.
        objective: A sync function without a context.
        follow: Submits a value and moves the turn on to the next attempt; False if it has not.
    """
    until = current_clock().now() + _SLICE
    while turn.start is not None:
        with carrying(turn.purse):
            value = objective.function(**objective.kwargs(turn.start.trial.params))
        if type(value) not in _PLAIN or current_clock().now() > until or not follow(turn, value):
            return value
    return None


async def in_row_on_the_loop(turn: Turn, objective: FunctionObjective, follow: Callable[[Turn, Any], bool]) -> Any:
    """Do as :func:`in_row` with an async function."""
    until = current_clock().now() + _SLICE
    while turn.start is not None:
        with carrying(turn.purse):
            value = await objective.function(**objective.kwargs(turn.start.trial.params))
        if type(value) not in _PLAIN or current_clock().now() > until or not follow(turn, value):
            return value
    return None
