"""The protocol of optimizers: what to try next."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

from sweep.space import Distribution, SearchSpace
from sweep.trial import Objective, Result, Trial

__all__ = ["Optimizer"]


class Optimizer(ABC):
    """Decides what to try next. Two methods suffice.

    The sweep calls one method at a time, ``suggest`` in a worker thread.
    Subclasses need not call ``super().__init__()``.

    Optional methods, used where a subclass has them:

    - ``restore(trials: Sequence[Trial]) -> None``: take over the history of an earlier
      session as data, instead of having ``suggest`` and ``observe`` replayed call by call.
      Trials carry number, params, status, score, history, source and notes; pending and
      running ones are among them. Called after ``setup``, at most once, before anything else.
      It also receives ``init_from`` history (``source="earlier"``).
    - ``predict(trials: Sequence[Trial], resource: float) -> list[tuple[float, float]]``: mean and
      standard deviation of each trial's score at a resource (steps), for schedulers that rank by it.

    Attributes:
        search_space: The space given to the constructor, or None (then the sweep's is used).
        finite: Whether suggestions run out by themselves (a grid); then a sweep needs no budget.
        cheap: ``suggest`` and ``observe`` return within microseconds and touch nothing but the optimizer's own memory:
            they need no worker thread, and may come before the commit of what they follow from.
        TUNABLE: Search space of constructor arguments for meta-experiments (plain mapping).
    """

    search_space: SearchSpace | None = None
    finite: bool = False
    cheap: bool = False
    TUNABLE: ClassVar[Mapping[str, Distribution]] = {}

    @abstractmethod
    def suggest(self, n: int) -> list[Trial]:
        """Return up to ``n`` new trials; ``[]`` = wait if something runs, else exhausted."""

    @abstractmethod
    def observe(self, trial: Trial, result: Result) -> None:
        """Learn a result: called each time a trial pauses or ends; a later call replaces the earlier.

        ``result`` is a float, raw (not oriented); NaN with ``.failure`` set for a failed trial.
        """

    def setup(self, space: SearchSpace, objectives: Sequence[Objective], seed: int) -> None:  # noqa: B027  # optional on purpose
        """Called once before anything else, with the sweep's space, objectives and seed."""
