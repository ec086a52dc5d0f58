"""The protocol of schedulers: how long to try it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, final

from sweep.errors import StrategyError
from sweep.space import Distribution, SearchSpace
from sweep.trial import Decision, Objective, Resources, Trial

__all__ = ["Decision", "JudgingScheduler", "Measure", "Scheduler"]


@final
class Measure:
    """The number by which trials are compared: the first objective's metric, lower is better.

    Args:
        objectives: The sweep's objectives; only the first counts.

    Example:
        >>> measure = Measure([Objective("accuracy", "max")])
        >>> measure.loss({"accuracy": 0.9}), measure.loss({"accuracy": float("nan")}), measure.loss({"time": 3.0})
        (-0.9, inf, None)
    """

    __slots__ = ("objective",)

    def __init__(self, objectives: Sequence[Objective] = ()) -> None:
        self.objective = objectives[0] if objectives else Objective()

    def loss(self, metrics: Mapping[str, float]) -> float | None:
        """Return the loss of a report (NaN and infinities are ``inf``), or None if it lacks the metric.

        Raises:
            StrategyError: No metric is named and there are several.
        """
        name = self.objective.metric
        if name is not None:
            return self.objective.loss(metrics[name]) if name in metrics else None
        names = list(metrics) if len(metrics) < 2 else [name for name in metrics if name != "cost"]  # a trial's price
        if len(names) > 1:
            listed = ", ".join(sorted(names))
            raise StrategyError(f"the objective reports several metrics ({listed}): say which one counts, metric=")
        return self.objective.loss(metrics[names[0]]) if names else None

    def final(self, trial: Trial) -> float:
        """Return the loss with which a trial ended, ``inf`` if it failed or has none."""
        if trial.score is not None:
            return self.objective.loss(trial.score)
        loss = self.loss(trial.metrics)
        return math.inf if loss is None else loss


class Scheduler(ABC):
    """Decides how long a trial runs. ``should_stop`` suffices.

    The sweep calls one method at a time. A scheduler must be deterministic given the
    order of calls (private seeded generators only): a resumed sweep replays ``on_add``,
    ``on_report``, ``on_end`` and ``next_trial`` in journal order, where the subclass has no
    ``restore(trials: Sequence[Trial]) -> None`` of its own.

    ``setup`` may take a fourth parameter named ``predict``: a callable
    ``predict(trials, resource) -> list[(mean, sd)]`` or None, if the optimizer offers it.

    The Trial objects it is handed are live: status, step, metrics and history are kept up to
    date by the sweep. A scheduler never writes to them.

    Attributes:
        TUNABLE: Search space of constructor arguments for meta-experiments (plain mapping).
        max_resource: Step at which a trial has had all it can get, or None. A STOP answered at or
            beyond it completes the trial (status completed); below it the trial was pruned.
        pauses: Whether it pauses trials, which then go on from their checkpoint, or anew without one.
    """

    TUNABLE: ClassVar[Mapping[str, Distribution]] = {}
    max_resource: int | None = None
    pauses: bool = False

    @abstractmethod
    def should_stop(self, trial: Trial) -> bool:
        """Return whether the trial should stop now, judged by ``trial.step`` and ``trial.metrics``."""

    def allocate_resources(self, trial: Trial) -> Resources | None:
        """Return what the trial occupies from this start on; None takes the sweep's ``resources``."""
        return None

    def setup(self, space: SearchSpace, objectives: Sequence[Objective], seed: int) -> None:  # noqa: B027  # optional on purpose
        """Called before anything else; a scheduler that is used for another run begins afresh here."""

    @property
    def n_trials(self) -> int | None:
        """New trials in one pass of a finite schedule (Hyperband, PBT), or None for an endless one."""
        return None

    def objection(self, *, finite: bool, trials: int | None) -> str | None:
        """Return why the schedule makes no sense with such an optimizer and budget, or None.

        Args:
            finite: The optimizer's suggestions run out by themselves (a grid).
            trials: New trials in the budget; None: not limited, or not known yet.
        """
        return None

    def room(self, free: int) -> int:
        """Return how many new trials to ask the optimizer for now, given ``free`` slots (>= 0).

        0 = wait for running trials. More than ``free`` is allowed: the rest queue as pending.
        """
        return free

    def on_add(self, trial: Trial) -> None:  # noqa: B027  # optional on purpose
        """A new trial has entered the sweep (number assigned, committed, not yet started)."""

    def next_decision(self, trial: Trial) -> int | None:
        """Return the next step at which ``on_report`` may answer other than CONTINUE for this trial.

        Reports below it need no answer and are sent one-way. None = any report may be decisive.
        Asked at every start of a trial; it may be asked again after each answered report.
        """
        return None

    def on_report(self, trial: Trial, step: int, metrics: Mapping[str, float]) -> Decision:
        """Judge a report; ``trial.step``, ``.metrics`` and ``.history`` already include it."""
        return Decision.STOP if self.should_stop(trial) else Decision.CONTINUE

    def on_end(self, trial: Trial) -> None:  # noqa: B027  # optional on purpose
        """A trial has paused or ended; ``trial.status`` and ``.reason`` say how."""

    def next_trial(self) -> Trial | None:
        """Return what to do with a free slot before new trials are asked for.

        Either a paused trial of this sweep, to be resumed (a promotion), or a new Trial with
        ``parent`` (the trial it takes over from) and ``start_from`` (the donor of the checkpoint):
        an exploit. None = ask the optimizer (as far as ``room`` allows). The call takes the
        decision: the same trial is not returned twice for one promotion.
        """
        return None

    def on_exhausted(self) -> None:  # noqa: B027  # optional on purpose
        """No new trial will come (the optimizer or the budget is exhausted) and nothing runs.

        The sweep calls it each time that it would otherwise end with paused trials left, and asks
        ``next_trial`` once more: a synchronous scheduler then goes on with those it has (a grid of 50
        in a bracket of 81). A trial that is added later, by a larger budget, is as welcome as before.
        """

    def on_save(self, trial: Trial, step: int) -> None:  # noqa: B027  # optional on purpose
        """A checkpoint of the trial is kept: from now on others may ``start_from`` it (at ``step``)."""


class JudgingScheduler(Scheduler):
    """Base of ours that judge trials by what they report: ``on_report`` decides, ``setup`` begins afresh."""

    _measure = Measure()

    def setup(self, space: SearchSpace, objectives: Sequence[Objective], seed: int) -> None:
        """Learn which metric counts; forgets all trials known before."""
        self._measure = Measure(objectives)
        self._begin()

    def should_stop(self, trial: Trial) -> bool:
        """Return whether the trial is to end at its last report."""
        return self.on_report(trial, trial.step, trial.metrics) is Decision.STOP

    @abstractmethod
    def _begin(self) -> None:
        """Start without any trial; called at construction too."""
