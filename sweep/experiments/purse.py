"""Budgets nest and costs add up: what a run and everything below it may spend, and has spent.

- **Seconds** and **cost** count through all levels: a sweep inside a trial, an experiment or a sweep
  never goes on with more of them than the least that any run above has left.
- **Trials** and **resource** count up to the nearest sweep: ``Experiment.run(budget=…)`` limits the
  sweeps inside it, but what those do inside their own trials is not counted in the outer one's units.
- **Trials** are set aside for a sweep when it begins, and what it does not use is given back when it
  is over: sweeps that run side by side and give no budget of their own are served in the order in which they begin.

Purses are found by context, as parents are. What was spent in earlier sessions is read from the store.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from contextvars import ContextVar
from typing import NamedTuple, final

from sweep.clock import current_clock
from sweep.pipeline.runtime import Handle
from sweep.store.runs import spent_below
from sweep.store.writer import Store
from sweep.trial import Budget

__all__ = ["NO_LIMITS", "Left", "Purse", "carrying", "current_purse", "kept_budget"]

NO_LIMITS = Budget()
_BUDGET = "!budget"
_TICKS = """
WITH RECURSIVE below(id, level) AS (
  SELECT id, level FROM run WHERE parent_id=?1 AND id>?1 AND (?2='' OR stage=?2 OR substr(stage, 1, length(?2)+1)=?2||'/')
  UNION ALL SELECT run.id, run.level FROM run JOIN below ON run.parent_id=below.id AND run.id>below.id WHERE below.level!='sweep')
SELECT COALESCE(SUM(json_extract(value, '$.seconds')), 0) FROM journal JOIN below ON below.id=journal.run_id
WHERE below.level='sweep' AND kind='ticked'"""


class Left(NamedTuple):
    """What may still be spent; infinite where nothing limits it. ``path`` names the run that is nearest to its end."""

    trials: float = math.inf
    seconds: float = math.inf
    cost: float = math.inf
    resource: float = math.inf
    path: str = ""

    def or_less(self, other: Left) -> Left:
        """Return the lesser of each; the path is that of ``other`` where it has less of anything."""
        shorter = any(a < b for a, b in zip(other[:4], self[:4], strict=True))
        return Left(
            min(self.trials, other.trials),
            min(self.seconds, other.seconds),
            min(self.cost, other.cost),
            min(self.resource, other.resource),
            other.path if shorter else self.path,
        )

    def nothing(self) -> str:
        """Return why nothing may be spent any more, or ``""``."""
        gone = [name for name in ("trials", "seconds", "cost", "resource") if getattr(self, name) <= 0]
        return f"the budget of {self.path!r} is spent: {', '.join(gone)}" if gone else ""


@final
class Purse:
    """What one run may spend.

    Args:
        path: Path of the run, for messages.
        limits: Returns its limits; they may change while it runs.
        parent: Of the run above, or None.
        private: A trial: trials and resource below it are no affair of the runs above.
        stop: Tells the run, a sweep, that what is above it has nothing left; called on any thread.
    """

    def __init__(
        self,
        path: str,
        limits: Callable[[], Budget] = lambda: NO_LIMITS,
        *,
        parent: Purse | None = None,
        private: bool = False,
        stop: Callable[[str], None] | None = None,
    ) -> None:
        self.path, self.limits, self.parent, self.private, self.stop = path, limits, parent, private, stop
        self.trials = self.cost = self.resource = self.elapsed = 0.0
        self._began = 0.0 if private else current_clock().now()  # a trial has no limits of its own
        self._below: set[Purse] = set()

    def own(self) -> Left:
        """Return what this run alone has left, whatever is above it."""
        limits = self.limits()
        if limits is NO_LIMITS:
            return Left(path=self.path)
        used = (self.trials, self.elapsed + current_clock().now() - self._began, self.cost, self.resource)
        allowed = (limits.trials, limits.seconds, limits.cost, limits.resource)
        trials, seconds, cost, resource = (
            math.inf if limit is None else limit - spent for limit, spent in zip(allowed, used, strict=True)
        )
        return Left(trials, seconds, cost, resource, self.path)

    def left(self) -> Left:
        """Return the least that this run and those above have left."""
        least, purse, private = self.own(), self.parent, self.private
        while purse is not None:
            own = purse.own()
            if private:
                own = own._replace(trials=math.inf, resource=math.inf)
            least = least.or_less(own)
            private, purse = private or purse.private, purse.parent
        return least

    def spend(self, *, trials: float = 0, cost: float = 0, resource: float = 0) -> None:
        """Count what was spent, here and above; sweeps inside a run that has nothing left are told."""
        purse: Purse | None = self
        while purse is not None:
            purse.trials += trials
            purse.cost += cost
            purse.resource += resource
            if purse._below and purse.limits() is not NO_LIMITS:
                own = purse.own()
                if own.cost <= 0 or own.resource <= 0:
                    purse._tell(own._replace(trials=math.inf).nothing())
            if purse.private:
                trials = resource = 0
            purse = purse.parent

    def _tell(self, text: str) -> None:
        for one in list(self._below):
            if one.stop is not None:
                one.stop(text)
            else:
                one._tell(text)

    def recall(self, store: Store, run_id: int, stage: str = "") -> None:
        """Count what earlier sessions spent below a run, or below a stage of it."""
        below = spent_below(store, run_id, stage)
        self.trials, self.cost, self.resource = below.trials, below.cost, below.resource
        row = store.row(_TICKS, (run_id, stage))
        self.elapsed = float(row[0]) if row is not None else 0.0


_PURSE: ContextVar[Purse | None] = ContextVar("sweep_purse", default=None)


def current_purse() -> Purse | None:
    """Return the purse of the run in which the caller works, or None outside any."""
    return _PURSE.get()


@final
class carrying:  # noqa: N801  # used like a function; a class costs each trial less than a generator
    """Make a purse the current one while its run works."""

    __slots__ = ("_purse", "_token")

    def __init__(self, purse: Purse) -> None:
        self._purse = purse

    def __enter__(self) -> Purse:
        purse = self._purse
        if purse.parent is not None:
            purse.parent._below.add(purse)
        self._token = _PURSE.set(purse)
        return purse

    def __exit__(self, *error: object) -> None:
        _PURSE.reset(self._token)
        if self._purse.parent is not None:
            self._purse.parent._below.discard(self._purse)


def kept_budget(handle: Handle, budget: int | Budget | None) -> Budget:
    """Return the limits of an experiment: those given now, else those of the session before; they are journaled."""
    entry = handle.journal.get(_BUDGET)
    if budget is None:
        return Budget(**json.loads(entry.value)) if entry is not None and entry.value is not None else NO_LIMITS
    limits = Budget(trials=budget) if isinstance(budget, int) else budget
    if limits == NO_LIMITS:
        return NO_LIMITS
    data = {name: getattr(limits, name) for name in ("trials", "seconds", "cost", "resource")}
    handle.journal.put(_BUDGET, "budget", json.dumps(data))
    return limits
