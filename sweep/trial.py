"""What a sweep is made of: trials, their results and states, budgets and resources.

Data only. Every strategy and every executor may import this module, and it
imports nothing of theirs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import Any, Literal, NamedTuple, final

from sweep.errors import SpaceError

__all__ = [
    "Budget",
    "Decision",
    "Objective",
    "Reason",
    "Report",
    "Resources",
    "Result",
    "Source",
    "Status",
    "Trial",
]


class Status(StrEnum):
    """State of a run: a pipeline, an experiment, a sweep or a trial."""

    PENDING = "pending"
    RUNNING = "running"
    PAUSED = "paused"
    COMPLETED = "completed"
    STOPPED = "stopped"
    FAILED = "failed"
    ABORTED = "aborted"
    SKIPPED = "skipped"
    INTERRUPTED = "interrupted"

    @property
    def ended(self) -> bool:
        """Whether the run will never go on (completed, stopped, failed, aborted or skipped)."""
        return self in _ENDED


_ENDED = frozenset({Status.COMPLETED, Status.STOPPED, Status.FAILED, Status.ABORTED, Status.SKIPPED})


class Reason(StrEnum):
    """Why a run is in its state; the second column beside :class:`Status`."""

    COMPLETED = "completed"
    PRUNED = "pruned"
    EXPLOITED = "exploited"
    UNPROMOTED = "unpromoted"
    BUDGET = "budget"
    USER = "user"
    ERROR = "error"
    TIMEOUT = "timeout"
    LOST = "lost"
    PARENT = "parent"


class Source(StrEnum):
    """Who proposed a trial."""

    OPTIMIZER = "optimizer"
    ENQUEUED = "enqueued"
    SCHEDULER = "scheduler"
    EARLIER = "earlier"


class Decision(Enum):
    """What a scheduler answers to a report."""

    CONTINUE = "continue"
    STOP = "stop"
    PAUSE = "pause"


class Report(NamedTuple):
    """One report of a trial: the metrics after ``step`` units of work."""

    step: int
    metrics: Mapping[str, float]


@final
@dataclass(frozen=True, slots=True)
class Objective:
    """One thing to optimise.

    Args:
        metric: Name of the metric; None takes the returned number or the only reported metric.
        mode: ``"min"`` or ``"max"``.

    Example:
        >>> Objective("accuracy", "max").loss(0.9)
        -0.9
    """

    metric: str | None = None
    mode: Literal["min", "max"] = "min"

    def loss(self, score: float) -> float:
        """Return the score oriented so that lower is better; NaN and both infinities become +inf (never win)."""
        if not math.isfinite(score):
            return math.inf
        return -score if self.mode == "max" else score


@final
@dataclass(frozen=True, slots=True)
class Resources:
    """What one trial occupies while it runs.

    Args:
        cpus: CPU cores; also the number of threads given to OpenMP, MKL and torch.
        gpus: GPUs; a fraction shares one (0.5 = two trials a GPU).
        memory: Bytes, or None.
        time_limit: Seconds of one attempt, or None.

    Raises:
        ValueError: A negative or non-finite amount.
    """

    cpus: float = 1
    gpus: float = 0
    memory: int | None = None
    time_limit: float | None = None

    def __post_init__(self) -> None:
        for name in ("cpus", "gpus", "memory", "time_limit"):
            amount = getattr(self, name)
            if amount is None:
                continue
            if isinstance(amount, bool) or not isinstance(amount, int | float) or not 0 <= amount < math.inf:
                raise ValueError(f"Resources({name}={amount!r}): expected a number >= 0")
        if self.time_limit == 0:
            raise ValueError("Resources(time_limit=0): expected seconds > 0, or None for no limit")


@final
@dataclass(frozen=True, slots=True)
class Budget:
    """When a sweep has spent enough; whichever limit is reached first ends it.

    Args:
        trials: New configurations started (promotions are free).
        seconds: Seconds of wall time, summed over resumes.
        cost: Sum of the trials' costs (see ``Trial.cost``).
        resource: Sum of the steps (epochs) run.

    Raises:
        ValueError: A limit that is not positive.
    """

    trials: int | None = None
    seconds: float | None = None
    cost: float | None = None
    resource: float | None = None

    def __post_init__(self) -> None:
        for name in ("trials", "seconds", "cost", "resource"):
            limit = getattr(self, name)
            if limit is None:
                continue
            if isinstance(limit, bool) or not isinstance(limit, int | float) or not limit > 0:
                raise ValueError(f"Budget({name}={limit!r}): expected a number > 0")
        if self.trials is not None and not isinstance(self.trials, int):
            raise ValueError(f"Budget(trials={self.trials!r}): expected a whole number")


@final
@dataclass(slots=True, eq=False)
class Trial:
    """One configuration and everything known of its run.

    An optimizer makes it from ``params`` alone; the sweep fills in the rest.
    Strategies read it and never write to it. ``params`` never change.

    Attributes:
        params: Parameter values by dotted name.
        number: Position in the sweep, from 0; -1 before the sweep has taken it.
        status: State of the trial.
        reason: Why it is in that state.
        score: Score for the first objective, raw (not oriented); None while unknown, NaN if it failed.
        values: Scores for all objectives.
        metrics: Latest value of each reported metric.
        history: All reports in order of steps.
        step: Highest step reported; 0 before the first.
        cost: Seconds worked on it so far (or the ``cost`` metric the user reports).
        seed: Seed of the trial, derived from the sweep's.
        error: One line on why it failed.
        parent: Number of the trial it took over from (PBT), or None.
        start_from: Number of the trial whose latest checkpoint it starts from, or None.
        attempts: How often it has been started.
        path: Path in the run tree, for example ``"digits/trial[5]"``.
        source: Who proposed it.
        notes: JSON data its optimizer wants back in ``restore`` and ``observe``.

    Example:
        >>> Trial({"lr": 0.1}).params["lr"]
        0.1
    """

    params: dict[str, Any]
    number: int = -1
    status: Status = Status.PENDING
    reason: Reason | None = None
    score: float | None = None
    values: tuple[float, ...] = ()
    metrics: dict[str, float] = field(default_factory=dict)
    history: list[Report] = field(default_factory=list)
    step: int = 0
    cost: float = 0.0
    seed: int = 0
    error: str | None = None
    parent: int | None = None
    start_from: int | None = None
    attempts: int = 0
    path: str = ""
    source: Source = Source.OPTIMIZER
    notes: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.params, Mapping):
            raise SpaceError("", f"Trial(params): expected a mapping of names to values, got {self.params!r}")

    def __repr__(self) -> str:
        score = "" if self.score is None else f", score={self.score:.6g}"
        return f"Trial({self.number}, {self.status}{score}, {self.params!r})"


@final
class Result(float):
    """The score of a trial, as a float that knows where it comes from; raw, not oriented.

    A failure is NaN with ``failure`` set.

    Attributes:
        metrics: Latest value of each reported metric.
        cost: Seconds (or the user's ``cost`` metric).
        failure: One line on why the trial failed, or None.
        trial: The trial.
        step: Resource at which the score was taken.
        values: Scores for all objectives.

    Example:
        >>> Result(0.25, step=3) + 1
        1.25
    """

    __slots__ = ("cost", "failure", "metrics", "step", "trial", "values")

    metrics: Mapping[str, float]
    cost: float
    failure: str | None
    trial: Trial | None
    step: int
    values: tuple[float, ...]

    def __new__(
        cls,
        score: float,
        *,
        metrics: Mapping[str, float] | None = None,
        cost: float = 0.0,
        failure: str | None = None,
        trial: Trial | None = None,
        step: int = 0,
        values: Sequence[float] | None = None,
    ) -> Result:
        """Make a result; ``values`` defaults to the score alone."""
        self = super().__new__(cls, score)
        self.metrics = metrics if metrics is not None else {}
        self.cost, self.failure, self.trial, self.step = cost, failure, trial, step
        self.values = tuple(values) if values is not None else (float(score),)
        return self

    def __getnewargs_ex__(self) -> tuple[tuple[float], dict[str, Any]]:
        """Pickle with all attributes (results travel between our own processes)."""
        kept = {name: getattr(self, name) for name in self.__slots__}
        return (float(self),), kept
