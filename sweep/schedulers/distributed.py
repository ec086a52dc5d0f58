"""A scheduler together with the executor that its trials are placed on."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, final

from sweep.errors import StrategyError
from sweep.schedulers.base import Scheduler
from sweep.schedulers.predicted import Predict
from sweep.space import SearchSpace
from sweep.trial import Decision, Objective, Resources, Trial

__all__ = ["DistributedScheduler"]


@final
class DistributedScheduler(Scheduler):
    """Any scheduler, with its trials placed on ``executor``: it decides exactly as the one it wraps.

    A sweep takes this one where it is given none of its own (other than ``"inline"``, the default).

    Args:
        scheduler: The scheduler that decides.
        executor: An executor, or the name of one (``"process"``, ``"thread"``, …).

    Raises:
        StrategyError: The first is no scheduler, or the second no executor.

    Example:
        >>> from sweep.schedulers.batch import BatchScheduler
        >>> DistributedScheduler(BatchScheduler(), "process").executor
        'process'
    """

    def __init__(self, scheduler: Scheduler, executor: object) -> None:
        if not isinstance(scheduler, Scheduler):
            raise StrategyError(f"DistributedScheduler(scheduler={scheduler!r}): expected a Scheduler")
        if not isinstance(executor, str) and not callable(getattr(executor, "run", None)):
            raise StrategyError(f"DistributedScheduler(executor={executor!r}): expected an Executor or the name of one")
        self.scheduler, self.executor = scheduler, executor
        self.max_resource, self.pauses = scheduler.max_resource, scheduler.pauses

    def __getattr__(self, name: str) -> Any:
        """Offer what the wrapped scheduler offers beyond the protocol (``restore``, its settings)."""
        if name.startswith("_") or "scheduler" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self.scheduler, name)

    @property
    def n_trials(self) -> int | None:
        """New trials in one pass of the wrapped scheduler."""
        return self.scheduler.n_trials

    def objection(self, *, finite: bool, trials: int | None) -> str | None:
        """Ask the wrapped scheduler."""
        return self.scheduler.objection(finite=finite, trials=trials)

    def setup(
        self, space: SearchSpace, objectives: Sequence[Objective], seed: int, predict: Predict | None = None
    ) -> None:
        """Set the wrapped scheduler up, with ``predict`` if it takes it."""
        wants = "predict" in inspect.signature(self.scheduler.setup).parameters
        extra: tuple[Predict | None, ...] = (predict,) if wants else ()
        self.scheduler.setup(space, objectives, seed, *extra)

    def should_stop(self, trial: Trial) -> bool:
        """Ask the wrapped scheduler."""
        return self.scheduler.should_stop(trial)

    def allocate_resources(self, trial: Trial) -> Resources | None:
        """Ask the wrapped scheduler."""
        return self.scheduler.allocate_resources(trial)

    def room(self, free: int) -> int:
        """Ask the wrapped scheduler."""
        return self.scheduler.room(free)

    def on_add(self, trial: Trial) -> None:
        """Tell the wrapped scheduler."""
        self.scheduler.on_add(trial)

    def next_decision(self, trial: Trial) -> int | None:
        """Ask the wrapped scheduler."""
        return self.scheduler.next_decision(trial)

    def on_report(self, trial: Trial, step: int, metrics: Mapping[str, float]) -> Decision:
        """Ask the wrapped scheduler."""
        return self.scheduler.on_report(trial, step, metrics)

    def on_save(self, trial: Trial, step: int) -> None:
        """Tell the wrapped scheduler."""
        self.scheduler.on_save(trial, step)

    def on_end(self, trial: Trial) -> None:
        """Tell the wrapped scheduler."""
        self.scheduler.on_end(trial)

    def next_trial(self) -> Trial | None:
        """Ask the wrapped scheduler."""
        return self.scheduler.next_trial()

    def on_exhausted(self) -> None:
        """Tell the wrapped scheduler."""
        self.scheduler.on_exhausted()
