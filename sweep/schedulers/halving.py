"""Synchronous successive halving and Hyperband (arXiv 1603.06560)."""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from enum import Enum
from fractions import Fraction
from typing import ClassVar, TypeAlias, final

from sweep.errors import StrategyError
from sweep.schedulers.arguments import real, whole
from sweep.schedulers.base import JudgingScheduler
from sweep.schedulers.rungs import Rung, exact, hyperband_table, levels
from sweep.space import Distribution, Integer, Ordinal
from sweep.trial import Decision, Status, Trial

__all__ = ["HyperbandScheduler", "RoundsScheduler", "SuccessiveHalvingScheduler"]

Table: TypeAlias = tuple[tuple[int, int], ...]
"""A bracket: ``(trials, resource)`` of each rung, resources rising."""


class _Phase(Enum):
    """Where a trial is on its ladder."""

    RUNNING = "running"  # on its way to its rung, or told to pause there
    WAITING = "waiting"  # paused in its rung until the others have come
    READY = "ready"  # promoted, not yet started again
    ENDED = "ended"


class _Bracket:
    """One ladder: its rungs, and how many trials are due at each."""

    __slots__ = ("added", "due", "order", "rungs", "settled", "widths")

    def __init__(self, table: Table, order: int) -> None:
        self.order = order
        self.widths = [trials for trials, _ in table]
        self.rungs = [Rung(resource) for _, resource in table]
        self.due = [self.widths[0]] + [0] * (len(table) - 1)
        self.settled = [0] * len(table)
        self.added = 0


class _Run:
    """What is remembered of a trial."""

    __slots__ = ("bracket", "loss", "phase", "to", "trial")

    def __init__(self, trial: Trial, bracket: _Bracket) -> None:
        self.trial, self.bracket = trial, bracket
        self.to = 0  # index of the rung it is bound for, or waits in
        self.loss: float | None = None  # its last loss, once it is complete
        self.phase = _Phase.RUNNING


class _SynchronousHalving(JudgingScheduler):
    """Brackets of rungs where all trials of a rung must have come before the best of them go on.

    A bracket takes the new trials until it is full, then the next in the table, then the first again. Brackets
    overlap: a slot that has nobody to promote starts a new trial of the next bracket.

    Args:
        table: The brackets of one pass, each ``((trials, resource), …)``.
        factor: One trial in so many goes on.
    """

    pauses = True

    def __init__(self, table: Sequence[Table], factor: Fraction) -> None:
        self.table = tuple(table)
        self.max_resource = table[0][-1][1]
        self._factor = factor
        self._begin()

    def _begin(self) -> None:
        self._runs: dict[int, _Run] = {}
        self._brackets: list[_Bracket] = []
        self._ready: list[tuple[int, int, int, int]] = []  # heap: -level, bracket, rank, number

    @property
    def n_trials(self) -> int | None:
        """New trials in one pass."""
        return sum(bracket[0][0] for bracket in self.table)

    def objection(self, *, finite: bool, trials: int | None) -> str | None:
        """Return that the budget does not fill the first bracket, if so."""
        (first, level), *_ = self.table[0]
        if trials is None or trials >= first:
            return None
        return (
            f"budget={trials}: {type(self).__name__} begins with a bracket of {first} trials from step {level}, and one "
            f"pass takes {self.n_trials}; give it a budget of at least {first}, or a higher grace_period"
        )

    def on_add(self, trial: Trial) -> None:
        """Give the trial its place in the bracket that is being filled."""
        if trial.number in self._runs:
            return
        if not self._brackets or self._brackets[-1].added >= self._brackets[-1].due[0]:
            order = len(self._brackets)
            self._brackets.append(_Bracket(self.table[order % len(self.table)], order))
        bracket = self._brackets[-1]
        bracket.added += 1
        self._runs[trial.number] = _Run(trial, bracket)

    def next_decision(self, trial: Trial) -> int | None:
        """Return the level of the rung that the trial is bound for."""
        run = self._run(trial)
        return run.bracket.rungs[run.to].level

    def on_report(self, trial: Trial, step: int, metrics: Mapping[str, float]) -> Decision:
        """Pause the trial at its rung, stop it at the last (which completes it)."""
        run = self._run(trial)
        if run.phase is _Phase.ENDED or run.loss is not None:
            return Decision.STOP
        rung = run.bracket.rungs[run.to]
        if step < rung.level:
            return Decision.CONTINUE
        loss = self._measure.loss(metrics)
        if loss is None:
            if step < self._top(run):
                return Decision.CONTINUE
            loss = math.inf
        rung.enter(trial.number, loss)
        if step >= self._top(run) or loss == math.inf:
            run.loss = loss
            return Decision.STOP
        return Decision.PAUSE

    def on_end(self, trial: Trial) -> None:
        """Settle the trial's place in its rung; the last one to do so lets the best go on."""
        run = self._run(trial)
        rung = run.bracket.rungs[run.to]
        if run.phase is _Phase.ENDED:
            return
        if trial.status is Status.PAUSED:
            if run.phase is _Phase.RUNNING and trial.number in rung:
                run.phase = _Phase.WAITING
                self._settle(run)
            return
        if trial.status in (Status.FAILED, Status.ABORTED):
            run.loss = None
        elif run.loss is None and trial.status is Status.COMPLETED:
            run.loss = self._measure.final(trial)
        if run.loss is None or trial.number not in rung:
            rung.enter(trial.number, math.inf if run.loss is None else run.loss)
        waited = run.phase is _Phase.WAITING
        run.phase = _Phase.ENDED
        if not waited:
            self._settle(run)

    def next_trial(self) -> Trial | None:
        """Return the best promoted trial of the highest rung."""
        while self._ready:
            *_, number = heapq.heappop(self._ready)
            run = self._runs[number]
            if run.phase is _Phase.READY:  # else it was ended from outside
                run.phase = _Phase.RUNNING
                return run.trial
        return None

    def on_exhausted(self) -> None:
        """Let the bracket that is being filled go on with the trials it has."""
        bracket = self._brackets[-1] if self._brackets else None
        if bracket is None or bracket.added >= bracket.due[0]:
            return
        bracket.due[0] = bracket.added
        bracket.widths = [max(1, math.floor(bracket.added / self._factor**i)) for i in range(len(bracket.rungs))]
        self._advance(bracket, 0)

    def _settle(self, run: _Run) -> None:
        bracket = run.bracket
        bracket.settled[run.to] += 1
        self._advance(bracket, run.to)

    def _advance(self, bracket: _Bracket, at: int) -> None:
        """Promote the best of a rung if all that are due there have settled; then look one rung higher."""
        while at + 1 < len(bracket.rungs) and bracket.settled[at] == bracket.due[at] > 0:
            here, above = bracket.rungs[at], bracket.rungs[at + 1]
            best = [number for number in here.numbers() if here.loss(number) < math.inf][: bracket.widths[at + 1]]
            at += 1
            bracket.due[at] = len(best)
            for rank, number in enumerate(best):
                run = self._runs[number]
                run.to = at
                if run.loss is not None:  # it is complete: it needs no slot to stand here
                    above.enter(number, run.loss)
                    bracket.settled[at] += 1
                else:
                    run.phase = _Phase.READY
                    heapq.heappush(self._ready, (-above.level, bracket.order, rank, number))

    def _top(self, run: _Run) -> int:
        return run.bracket.rungs[-1].level

    def _run(self, trial: Trial) -> _Run:
        if trial.number not in self._runs:
            self.on_add(trial)
        return self._runs[trial.number]


@final
class SuccessiveHalvingScheduler(_SynchronousHalving):
    """Synchronous successive halving (algorithm 1 of arXiv 1810.05934 with s = 0).

    ``n`` trials run to the first of the levels ``grace_period * reduction_factor**k < max_epochs``, then
    ``max_epochs``; when all have come, the best ``floor(n / reduction_factor**k)`` go on to the k-th. Trials pause
    at a rung and resume from their checkpoint. After ``n`` trials another such bracket begins, if the budget asks for
    more; the two overlap where a slot would be idle.

    - A rung's trials go on as soon as each has paused, ended or failed there; of equal losses the lower number is
      the better. Losses that are NaN or infinite are stopped, never promoted; a failed, lost or stopped trial takes
      its place as worst. A trial that completed before its rung stands by its result, there and above.
    - A report beyond the level of the rung that a trial is bound for counts for that rung; reports without the metric
      are passed over until one has it.
    - When no new trial will come, a bracket that is not full goes on with those it has, at least one in each rung.

    Args:
        max_epochs: Steps after which a trial is complete (R).
        reduction_factor: One trial in so many goes on (eta); any number > 1.
        grace_period: Step of the lowest rung (r).
        n: Trials in a bracket; None takes the fewest of which one comes to ``max_epochs``.

    Raises:
        StrategyError: An argument is out of its range, or ``n`` is so small that no trial would come to the end.

    Example:
        >>> SuccessiveHalvingScheduler(max_epochs=27).table
        (((27, 1), (9, 3), (3, 9), (1, 27)),)
    """

    TUNABLE: ClassVar[Mapping[str, Distribution]] = {"reduction_factor": Ordinal([2, 3, 4]), "grace_period": Integer(1, 10)}

    def __init__(
        self, max_epochs: int = 81, reduction_factor: float = 3, grace_period: int = 1, n: int | None = None
    ) -> None:
        owner = "SuccessiveHalvingScheduler"
        eta = _checked(owner, max_epochs, reduction_factor, grace_period)
        self.max_epochs, self.reduction_factor, self.grace_period = max_epochs, reduction_factor, grace_period
        steps = levels(grace_period, max_epochs, eta)
        least = math.ceil(eta ** (len(steps) - 1))
        self.n = least if n is None else whole(owner, "n", n)
        if self.n < least:
            raise StrategyError(
                f"{owner}(n={n}): expected at least {least}, of which one trial comes through the rungs "
                f"{', '.join(map(str, steps))} to max_epochs; raise n or grace_period"
            )
        table = tuple((math.floor(self.n / eta**i), step) for i, step in enumerate(steps))
        super().__init__([table], eta)


@final
class HyperbandScheduler(_SynchronousHalving):
    """Hyperband, algorithm 1 of arXiv 1603.06560: brackets of synchronous successive halving, in order.

    R = 81 and eta = 3 give brackets of 81 trials from 1 epoch, 34 from 3, 15 from 9, 8 from 27 and 5 from 81. Trials
    pause at a rung and resume from their checkpoint. ``n_trials`` is one pass over the brackets; a larger budget
    begins further passes. With a model-based optimizer this is BOHB. Ties, NaN, failures, skipped steps and brackets
    that are not full are dealt with as in `SuccessiveHalvingScheduler`.

    Levels are the paper's, counted down from ``max_epochs`` (``max_epochs * reduction_factor**-k``, rounded down).

    Args:
        max_epochs: Steps after which a trial is complete (R).
        reduction_factor: One trial in so many goes on (eta); any number > 1.
        grace_period: No level is below it.

    Raises:
        StrategyError: An argument is out of its range.

    Example:
        >>> [bracket[0] for bracket in HyperbandScheduler().table]
        [(81, 1), (34, 3), (15, 9), (8, 27), (5, 81)]
    """

    TUNABLE: ClassVar[Mapping[str, Distribution]] = {"reduction_factor": Ordinal([2, 3, 4]), "grace_period": Integer(1, 10)}

    def __init__(self, max_epochs: int = 81, reduction_factor: float = 3, grace_period: int = 1) -> None:
        owner = "HyperbandScheduler"
        eta = _checked(owner, max_epochs, reduction_factor, grace_period)
        self.max_epochs, self.reduction_factor, self.grace_period = max_epochs, reduction_factor, grace_period
        super().__init__(hyperband_table(grace_period, max_epochs, eta), eta)


@final
class RoundsScheduler(_SynchronousHalving):
    """Synchronous halving in rounds of given sizes: a round is one step, and the best of each go on to the next.

    Args:
        sizes: Trials in each round, falling; the last round completes a trial.
        rate: Share that goes on, where a round is not full.

    Example:
        >>> RoundsScheduler([27, 8, 2], 0.3).table
        (((27, 1), (8, 2), (2, 3)),)
    """

    def __init__(self, sizes: Sequence[int], rate: float) -> None:
        self.sizes, self.rate = tuple(sizes), rate
        super().__init__([tuple((size, index + 1) for index, size in enumerate(sizes))], 1 / exact(rate))


def _checked(owner: str, max_epochs: int, reduction_factor: float, grace_period: int) -> Fraction:
    """Check the arguments that both have and return the exact factor."""
    whole(owner, "max_epochs", max_epochs)
    whole(owner, "grace_period", grace_period)
    if grace_period > max_epochs:
        raise StrategyError(f"{owner}(grace_period={grace_period}): expected at most max_epochs, which is {max_epochs}")
    return exact(real(owner, "reduction_factor", reduction_factor, 1, math.inf, "a number > 1"))
