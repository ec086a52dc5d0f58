"""Schedulers that let every trial run to its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, final

from sweep.schedulers.arguments import whole
from sweep.schedulers.base import Scheduler
from sweep.space import Distribution, LogInteger, SearchSpace
from sweep.trial import Objective, Status, Trial

__all__ = ["BatchScheduler", "SynchronousBatchScheduler"]

_NEVER = 2**63 - 1  # a step that no trial reaches


@final
class BatchScheduler(Scheduler):
    """Fills every free slot with a new trial and stops none.

    Example:
        >>> scheduler = BatchScheduler()
        >>> scheduler.room(3), scheduler.should_stop(Trial({}))
        (3, False)
    """

    def should_stop(self, trial: Trial) -> bool:
        """Return False."""
        return False

    def next_decision(self, trial: Trial) -> int | None:
        """Return a step that no trial reaches: no report needs an answer."""
        return _NEVER

    def restore(self, trials: Sequence[Trial]) -> None:
        """Remember nothing."""


@final
class SynchronousBatchScheduler(Scheduler):
    """Asks for ``batch_size`` trials at once and for the next batch when all of them have ended.

    All trials of a batch are suggested before a result of any of them is known, so that the number
    of workers does not change what is tried. An optimizer that gives fewer is asked for the rest of
    the batch until one of its trials has ended.

    Args:
        batch_size: Trials in a batch; those without a slot wait as pending.

    Raises:
        StrategyError: ``batch_size`` is no whole number >= 1.
    """

    TUNABLE: ClassVar[Mapping[str, Distribution]] = {"batch_size": LogInteger(1, 64)}

    def __init__(self, batch_size: int = 10) -> None:
        self.batch_size = whole("SynchronousBatchScheduler", "batch_size", batch_size)
        self._begin()

    def _begin(self) -> None:
        self._added = 0
        self._open: set[int] = set()
        self._closed = False

    def setup(self, space: SearchSpace, objectives: Sequence[Objective], seed: int) -> None:
        """Forget all trials known before."""
        self._begin()

    def should_stop(self, trial: Trial) -> bool:
        """Return False."""
        return False

    def next_decision(self, trial: Trial) -> int | None:
        """Return a step that no trial reaches: no report needs an answer."""
        return _NEVER

    def room(self, free: int) -> int:
        """Return what the batch lacks; 0 from its first result to its last."""
        if not self._open:
            self._added, self._closed = 0, False
        return 0 if self._closed else max(0, self.batch_size - self._added)

    def on_add(self, trial: Trial) -> None:
        """Count the trial in."""
        self._added += 1
        self._open.add(trial.number)

    def on_end(self, trial: Trial) -> None:
        """Close the batch to new trials; the last result opens the next one."""
        if trial.status is not Status.PAUSED and trial.number in self._open:
            self._closed = True
            self._open.discard(trial.number)
