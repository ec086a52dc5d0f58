"""What happens in a sweep (events) and what is to be done about it (effects).

Events are plain data: the journal of a sweep is a list of them, and
:meth:`sweep.experiments.machine.Machine.fold` turns each into effects. An event names
everything the journal must keep and nothing that follows from earlier events.
:func:`to_data` and :func:`from_data` carry them to and from JSON-like data.

Effects are never stored; they may hold the live :class:`~sweep.trial.Trial`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeAlias, final, get_args

from sweep.trial import Budget, Reason, Result, Status, Trial

__all__ = [
    "Added",
    "Ask",
    "BudgetSet",
    "Cancel",
    "Drain",
    "Drained",
    "Earlier",
    "Effect",
    "Ended",
    "Enqueue",
    "Event",
    "Exploited",
    "Finish",
    "Finished",
    "Imported",
    "Judge",
    "Kept",
    "Kind",
    "New",
    "Observe",
    "Opened",
    "Place",
    "Promoted",
    "Reopened",
    "Reported",
    "Saved",
    "Settled",
    "Start",
    "Started",
    "StopRequested",
    "Suggested",
    "Ticked",
    "from_data",
    "to_data",
]

Kind: TypeAlias = Literal["completed", "stopped", "paused", "failed", "timeout", "lost", "interrupted"]


# ---- parts of events -------------------------------------------------------------------------------------------------


@final
@dataclass(frozen=True, slots=True)
class New:
    """A trial that enters the sweep.

    Attributes:
        number: Its number: the count of trials before it.
        params: Parameter values by dotted name.
        source: A :class:`~sweep.trial.Source`: ``"optimizer"``, ``"enqueued"`` or ``"scheduler"``.
        notes: JSON data its optimizer wants back.
        parent: Number of the trial it takes over from (an exploit), or None.
        start_from: Number of the trial whose latest checkpoint it starts from, or None.
    """

    number: int
    params: dict[str, Any]
    source: str = "optimizer"
    notes: dict[str, Any] | None = None
    parent: int | None = None
    start_from: int | None = None


@final
@dataclass(frozen=True, slots=True)
class Earlier:
    """A finished trial of an earlier sweep (``init_from=``): history for the optimizer, no part of this sweep."""

    params: dict[str, Any]
    values: tuple[float, ...] = ()
    metrics: Mapping[str, float] | None = None
    step: int = 0
    cost: float = 0.0
    status: str = "completed"
    error: str | None = None


# ---- events ----------------------------------------------------------------------------------------------------------


@final
@dataclass(frozen=True, slots=True)
class Opened:
    """A process begins to work on the sweep: the first event, and the first after each resume.

    Attempts that an earlier process left without an end are interrupted by it.

    Attributes:
        wall: Seconds since the epoch.
        workers: Attempts that may run at once, at least 1.
    """

    wall: float
    workers: int = 1


@final
@dataclass(frozen=True, slots=True)
class BudgetSet:
    """The limits from now on (see :class:`sweep.trial.Budget`); replaces those before."""

    trials: int | None = None
    seconds: float | None = None
    cost: float | None = None
    resource: float | None = None

    @classmethod
    def of(cls, budget: Budget) -> BudgetSet:
        """Return the event that sets ``budget``."""
        return cls(budget.trials, budget.seconds, budget.cost, budget.resource)


@final
@dataclass(frozen=True, slots=True)
class Imported:
    """History of earlier sweeps (``init_from=``), journaled so that a resume does not need them."""

    trials: tuple[Earlier, ...]


@final
@dataclass(frozen=True, slots=True)
class Suggested:
    """New trials: the optimizer's answer to one :class:`Ask`, or one :class:`Enqueue` performed.

    Attributes:
        trials: The trials in order; empty where the optimizer had nothing.
        asked: The n of ``suggest(n)``; 0 where the optimizer was not asked (enqueued).
        observed: Copied from the ``Ask``: results given to the optimizer before the call.
    """

    trials: tuple[New, ...]
    asked: int = 0
    observed: int = 0


@final
@dataclass(frozen=True, slots=True)
class Promoted:
    """The scheduler lets a paused trial go on (also one that is still unwinding after its pause).

    Attributes:
        number: Number of the trial.
        step: The step at which it paused.
    """

    number: int
    step: int


@final
@dataclass(frozen=True, slots=True)
class Exploited:
    """The scheduler ends trial ``number`` and puts ``new`` in its place: one event, never half of it."""

    number: int
    new: New


@final
@dataclass(frozen=True, slots=True)
class Started:
    """An attempt begins.

    Attributes:
        number: Number of the trial.
        attempt: 1 for the first attempt of this repeat.
        wall: Seconds since the epoch.
        run: Repeat, from 0.
    """

    number: int
    attempt: int
    wall: float = 0.0
    run: int = 0


@final
@dataclass(frozen=True, slots=True)
class Reported:
    """An attempt reported metrics after ``step`` units of work, and the scheduler has answered.

    Attributes:
        number: Number of the trial.
        attempt: The attempt.
        step: Units of work done.
        metrics: What it reported.
        run: Repeat, from 0.
        decision: The scheduler's answer. Live, the report is folded first, as ``"continue"``, and what the
            scheduler then says goes to :meth:`~sweep.experiments.machine.Machine.decide` and into the
            event that is journaled.
    """

    number: int
    attempt: int
    step: int
    metrics: dict[str, float]
    run: int = 0
    decision: Literal["continue", "stop", "pause"] = "continue"


@final
@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint, which ``ctx.load()`` gives the next attempt once its step has been reported.

    ``ctx.save`` comes before the report it belongs to, so this event goes just before that
    report, when its step is known (see ``Conductor.save``).

    Attributes:
        number: Number of the trial.
        attempt: The attempt that saved.
        step: The step the checkpoint belongs to.
        reference: Where the store keeps it.
        run: Repeat, from 0.
    """

    number: int
    attempt: int
    step: int
    reference: str
    run: int = 0


@final
@dataclass(frozen=True, slots=True)
class Ended:
    """An attempt has ended and its slot is free.

    Attributes:
        number: Number of the trial.
        attempt: The attempt.
        kind: How: it returned (``completed``), was stopped or paused at a report or cancelled on
            request (``stopped``, ``paused``), raised (``failed``), overran (``timeout``), its host
            was lost (``lost``), or this process was told to leave (``interrupted``).
        value: What it returned: a number, a list of numbers (one for each objective), a mapping of
            names to numbers, or None.
        error: One line on why it failed.
        cost: Seconds it worked.
        wall: Seconds since the epoch.
        run: Repeat, from 0.
    """

    number: int
    attempt: int
    kind: Kind
    value: Any = None
    error: str | None = None
    cost: float = 0.0
    wall: float = 0.0
    run: int = 0


@final
@dataclass(frozen=True, slots=True)
class Drained:
    """The scheduler was told (``on_exhausted``) that no new trial will come while trials are paused."""


@final
@dataclass(frozen=True, slots=True)
class StopRequested:
    """The user stops one trial, or the sweep (None).

    Attributes:
        number: Number of the trial, or None.
        spent: It is no user: a run above has nothing left to spend, and this is why. None: it is one.
    """

    number: int | None = None
    spent: str | None = None


@final
@dataclass(frozen=True, slots=True)
class Reopened:
    """A trial that had ended by itself goes on, because stages of it are to run again (``--redo``)."""

    number: int


@final
@dataclass(frozen=True, slots=True)
class Ticked:
    """So many more seconds have passed while a process worked on the sweep."""

    seconds: float


@final
@dataclass(frozen=True, slots=True)
class Finished:
    """The sweep is over; trials still paused or pending are closed by it. A later ``Opened`` extends the sweep."""

    status: str
    reason: str
    text: str = ""
    wall: float = 0.0


Event: TypeAlias = (
    Opened
    | BudgetSet
    | Imported
    | Suggested
    | Promoted
    | Exploited
    | Started
    | Reported
    | Saved
    | Ended
    | Drained
    | Reopened
    | StopRequested
    | Ticked
    | Finished
)

_EVENTS: dict[str, type[Any]] = {cls.__name__.lower(): cls for cls in get_args(Event)}
_NAMES = {cls: name for name, cls in _EVENTS.items()}
_FIELDS = {cls: tuple(f.name for f in fields(cls)) for cls in (*_NAMES, New, Earlier)}
_PARTS: dict[type[Any], tuple[str, type[Any]]] = {
    Suggested: ("trials", New), Imported: ("trials", Earlier), Exploited: ("new", New)
}  # fmt: skip


def to_data(event: Event) -> dict[str, Any]:
    """Return an event as plain data; ``data["event"]`` names its class.

    Example:
        >>> to_data(Promoted(3, 9))
        {'event': 'promoted', 'number': 3, 'step': 9}
    """
    kind = type(event)
    data = {"event": _NAMES[kind], **_fields(event)}
    if kind in _PARTS:
        name, part = _PARTS[kind]
        inside = data[name]
        data[name] = _fields(inside) if type(inside) is part else [_fields(one) for one in inside]
    return data


def _fields(value: Any) -> dict[str, Any]:
    return {name: getattr(value, name) for name in _FIELDS[type(value)]}


def from_data(data: Mapping[str, Any]) -> Event:
    """Return the event that :func:`to_data` made ``data`` from.

    Raises:
        KeyError: ``data["event"]`` is no event.

    Example:
        >>> from_data({"event": "promoted", "number": 3, "step": 9})
        Promoted(number=3, step=9)
    """
    kept = {name: value for name, value in data.items() if name != "event"}
    cls = _EVENTS[data["event"]]
    if cls in _PARTS:
        name, part = _PARTS[cls]
        found = kept[name]
        kept[name] = tuple(_part(part, one) for one in found) if isinstance(found, list) else _part(part, found)
    event: Event = cls(**kept)
    return event


def _part(cls: type[Any], data: Mapping[str, Any]) -> Any:
    return cls(**{name: tuple(value) if name == "values" else value for name, value in data.items()})


# ---- effects: for the driver -----------------------------------------------------------------------------------------


@final
@dataclass(frozen=True, slots=True)
class Start:
    """Start an attempt.

    Attributes:
        trial: The trial.
        attempt: Number of the attempt, from 1.
        run: Repeat, from 0.
        seed: Seed of this repeat (the trial's own where nothing is repeated).
        step: Step of the checkpoint; 0 without one.
        checkpoint: Reference of the checkpoint that ``ctx.load()`` gives, or None.
    """

    trial: Trial
    attempt: int
    run: int = 0
    seed: int = 0
    step: int = 0
    checkpoint: str | None = None


@final
@dataclass(frozen=True, slots=True)
class Ask:
    """Call ``optimizer.suggest(n)`` and answer with :class:`Suggested` (``asked=n``, the same ``observed``).

    Optimizer effects (``Ask``, ``Observe``) are performed one at a time in the order they came.
    """

    n: int
    observed: int


@final
@dataclass(frozen=True, slots=True)
class Observe:
    """Call ``optimizer.observe(trial, result)``."""

    trial: Trial
    result: Result


@final
@dataclass(frozen=True, slots=True)
class Cancel:
    """End this attempt; its :class:`Ended` (any kind) follows."""

    number: int
    attempt: int
    run: int
    reason: Reason


@final
@dataclass(frozen=True, slots=True)
class Finish:
    """The sweep is over and nothing runs."""

    status: Status
    reason: Reason
    text: str


# ---- effects: for the scheduler, performed before the next event is folded (see Conductor) ---------------------------


@final
@dataclass(frozen=True, slots=True)
class Added:
    """Call ``scheduler.on_add(trial)``."""

    trial: Trial


@final
@dataclass(frozen=True, slots=True)
class Judge:
    """Call ``scheduler.on_report(trial, step, metrics)``; unless it says CONTINUE, call ``machine.decide``."""

    trial: Trial
    step: int
    metrics: Mapping[str, float]


@final
@dataclass(frozen=True, slots=True)
class Settled:
    """Call ``scheduler.on_end(trial)``."""

    trial: Trial


@final
@dataclass(frozen=True, slots=True)
class Kept:
    """Call ``scheduler.on_save(trial, step)``."""

    trial: Trial
    step: int


@final
@dataclass(frozen=True, slots=True)
class Drain:
    """Call ``scheduler.on_exhausted()`` and fold :class:`Drained`."""


@final
@dataclass(frozen=True, slots=True)
class Place:
    """Call ``scheduler.next_trial()``: fold :class:`Promoted` or :class:`Exploited`, or ``machine.admit(room)``.

    Attributes:
        free: Slots that are free, at least 1.
        new: Slots left for trials that do not exist yet: ask ``scheduler.room(new)`` if it is above 0.
    """

    free: int
    new: int


@final
@dataclass(frozen=True, slots=True)
class Enqueue:
    """Fold :class:`Suggested` with these trials: starts the user asked for come before the optimizer's."""

    trials: tuple[New, ...]


Effect: TypeAlias = Start | Ask | Observe | Cancel | Finish | Added | Judge | Settled | Kept | Place | Drain | Enqueue
