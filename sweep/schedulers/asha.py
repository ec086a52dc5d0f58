"""Asynchronous successive halving (arXiv 1810.05934) and asynchronous Hyperband."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import ClassVar, Literal, TypeAlias, final

from sweep.errors import StrategyError
from sweep.schedulers.arguments import one_of, real, whole
from sweep.schedulers.base import JudgingScheduler
from sweep.schedulers.predicted import Predict, PredictedRank
from sweep.schedulers.rungs import Rung, exact, hyperband_sizes, levels
from sweep.space import Choice, Distribution, Integer, Ordinal, SearchSpace
from sweep.trial import Decision, Objective, Status, Trial

__all__ = ["ASHAScheduler", "AsyncHyperbandScheduler"]

Rule: TypeAlias = Literal["promotion", "stopping"]

# By prediction, promotions begin when so many trials were started and so many have come to a rung; a trial's
# chance to win counts from the second on that has come to the end.
_STARTED, _BACK, _ENDS = 15, 4, 2


class _Phase(Enum):
    """Where a trial is between two rungs."""

    RUNNING = "running"
    PAUSING = "pausing"  # told to pause, not yet known to have paused
    PAUSED = "paused"
    STOPPED = "stopped"  # told to stop, or ended


class _Run:
    """What is remembered of a trial."""

    __slots__ = ("at", "phase", "rungs", "trial")

    def __init__(self, trial: Trial, rungs: list[Rung]) -> None:
        self.trial, self.rungs = trial, rungs
        self.at = -1  # index of the highest rung entered
        self.phase = _Phase.RUNNING


class _AsynchronousHalving(JudgingScheduler):
    """Brackets of rungs whose trials go up (or on) as soon as their rank allows it."""

    def __init__(self, owner: str, max_epochs: int, reduction_factor: float, grace_period: int, rule: Rule) -> None:
        self.max_epochs = self.max_resource = whole(owner, "max_epochs", max_epochs)
        factor = real(owner, "reduction_factor", reduction_factor, 1, math.inf, "a number > 1")
        self.reduction_factor = reduction_factor
        self.grace_period = whole(owner, "grace_period", grace_period)
        if grace_period > max_epochs:
            raise StrategyError(
                f"{owner}(grace_period={grace_period}): expected at most max_epochs, which is {max_epochs}"
            )
        self.rule: Rule = rule
        self.pauses = rule == "promotion"
        self._factor = exact(factor)
        self._keep = self._factor  # a rung of n lets floor(n / _keep) up
        self._levels = levels(grace_period, max_epochs, self._factor)
        self._ladders = 1

    def _begin(self) -> None:
        """Make the brackets; the b-th starts at the b-th level and has its share of Hyperband's trials."""
        self._runs: dict[int, _Run] = {}
        self._version = 0  # grows with whatever may change a prediction
        count = self._ladders
        self._shares, self._taken = hyperband_sizes(len(self._levels), self._factor)[:count], [0] * count
        self._brackets = [[Rung(level) for level in self._levels[b:]] for b in range(count)]
        # Promotions are looked for from the highest level down, the lower bracket first; the top rung is the end.
        rungs = [(rung, b) for b, bracket in enumerate(self._brackets) for rung in bracket[:-1]]
        self._search = [rung for rung, b in sorted(rungs, key=lambda pair: (-pair[0].level, pair[1]))]

    def on_add(self, trial: Trial) -> None:
        """Give the trial its bracket: the one that is furthest behind its share."""
        if trial.number in self._runs:
            return
        total = sum(self._taken) + 1
        weight = sum(self._shares)
        behind = [share * total - taken * weight for share, taken in zip(self._shares, self._taken, strict=True)]
        bracket = behind.index(max(behind))
        self._taken[bracket] += 1
        self._runs[trial.number] = _Run(trial, self._brackets[bracket])

    def next_decision(self, trial: Trial) -> int | None:
        """Return the level of the trial's next rung."""
        run = self._run(trial)
        return run.rungs[min(run.at + 1, len(run.rungs) - 1)].level

    def on_report(self, trial: Trial, step: int, metrics: Mapping[str, float]) -> Decision:
        """Enter the trial into the highest rung at or below ``step``, if it is above those entered.

        A report between rungs, a repeated or a lower step, and a report without the metric decide nothing
        (the next one with the metric does). At ``max_epochs`` the trial is stopped, which completes it.
        """
        run = self._run(trial)
        if run.phase is _Phase.STOPPED:
            return Decision.STOP
        if run.at + 1 < len(run.rungs) and step < run.rungs[run.at + 1].level:
            return Decision.CONTINUE
        loss = self._measure.loss(metrics)
        if loss is None and step < self.max_epochs:
            return Decision.CONTINUE
        decision = self._judge(run, step, math.inf if loss is None else loss)
        run.phase = {Decision.STOP: _Phase.STOPPED, Decision.PAUSE: _Phase.PAUSING}.get(decision, run.phase)
        return decision

    def on_end(self, trial: Trial) -> None:
        """Let a paused trial wait for promotion; one that ended takes its place in the rung it was bound for.

        A trial that completed by itself takes it by its last result, one that failed, was lost or was stopped
        from outside as worst. Neither is ever promoted.
        """
        run = self._run(trial)
        self._version += 1
        if trial.status is Status.PAUSED:
            if run.phase is not _Phase.STOPPED and run.at >= 0:
                run.phase = _Phase.PAUSED
                run.rungs[run.at].offer(trial.number)
            return
        phase, run.phase = run.phase, _Phase.STOPPED
        if phase in (_Phase.STOPPED, _Phase.PAUSED):
            return
        if phase is _Phase.PAUSING:
            if trial.status is not Status.COMPLETED:
                run.rungs[run.at].enter(trial.number, math.inf)
            return
        loss = self._measure.final(trial) if trial.status is Status.COMPLETED else math.inf
        run.at = min(run.at + 1, len(run.rungs) - 1)
        run.rungs[run.at].enter(trial.number, loss)

    def next_trial(self) -> Trial | None:
        """Promote the best waiting trial of the highest rung that has one among its first floor(n / eta)."""
        if self.rule == "stopping":
            return None
        for rung in self._search:
            number = self._promotable(rung)
            if number is not None:
                run = self._runs[number]
                run.phase = _Phase.RUNNING
                self._version += 1
                return run.trial
        return None

    def restore(self, trials: Sequence[Trial]) -> None:
        """Take over the trials of an earlier session: the rungs follow from their histories and states."""
        for trial in sorted(trials, key=lambda trial: trial.number):
            if trial.number < 0:
                continue
            run = self._run(trial)
            for step, metrics in trial.history:
                loss = self._measure.loss(metrics)
                if loss is not None and run.at + 1 < len(run.rungs) and step >= run.rungs[run.at + 1].level:
                    self._enter(run, step, loss)
            if trial.status is Status.PAUSED:
                self.on_end(trial)
            elif trial.status.ended:
                judged = trial.status is Status.STOPPED or trial.step >= self.max_epochs
                run.phase = _Phase.STOPPED if judged and run.at >= 0 else _Phase.RUNNING
                self.on_end(trial)

    def _judge(self, run: _Run, step: int, loss: float) -> Decision:
        """Enter a rung and return what follows from the place taken there."""
        rank = self._enter(run, step, loss)
        if step >= self.max_epochs or loss == math.inf:
            return Decision.STOP
        if self.rule == "promotion":
            return Decision.PAUSE
        return Decision.CONTINUE if rank < max(1, self._room(run.rungs[run.at])) else Decision.STOP

    def _enter(self, run: _Run, step: int, loss: float) -> int:
        """Enter the highest rung at or below ``step`` and return the rank there."""
        run.at = bisect_right(run.rungs, step, key=_level) - 1
        self._version += 1
        return run.rungs[run.at].enter(run.trial.number, loss)

    def _promotable(self, rung: Rung) -> int | None:
        """Return the trial that may leave the rung upwards now, no longer waiting there, or None."""
        number = rung.best(self._room(rung))
        while number is not None:
            rung.take(number)
            if self._runs[number].trial.status is Status.PAUSED:  # else it was ended while it waited
                return number
            number = rung.best(self._room(rung))
        return None

    def _room(self, rung: Rung) -> int:
        """Return how many of a rung may go up."""
        return len(rung) * self._keep.denominator // self._keep.numerator

    def _run(self, trial: Trial) -> _Run:
        run = self._runs.get(trial.number)
        if run is None:
            self.on_add(trial)
            run = self._runs[trial.number]
        return run


@final
class ASHAScheduler(_AsynchronousHalving):
    """Asynchronous successive halving, algorithm 2 of arXiv 1810.05934.

    Trials are compared at rungs: ``grace_period * reduction_factor**k < max_epochs``, then ``max_epochs``.

    - ``rule="promotion"`` (the paper's): a trial pauses at every rung below the last. A free slot goes to the best
      trial, in the highest rung that has one, that is among the first ``floor(n / reduction_factor)`` of the n
      trials there and has not gone up yet; to a new trial otherwise. It then goes on from its checkpoint.
    - ``rule="stopping"``: a trial goes on without a pause if, on arrival, it is among the first
      ``max(1, floor(n / reduction_factor))`` of its rung, and is stopped otherwise.

    Ties go to the lower number. A loss that is NaN or infinite is never promoted, and the trial is stopped there. A
    trial that failed, was lost or was stopped from outside takes its place in its next rung as worst; one that
    completed by itself takes it by its result.

    Args:
        max_epochs: Steps after which a trial is complete (R).
        reduction_factor: A rung lets one in so many up (eta); any number > 1.
        grace_period: Step of the lowest rung (r).
        brackets: Ladders that start at the 1st, 2nd, … rung; new trials are dealt to them in Hyperband's shares.
        rule: ``"promotion"`` or ``"stopping"``.
        rank_by: ``"observed"`` compares trials by what they reported. ``"predicted"`` compares them by where the
            optimizer's model expects them at ``max_epochs``, promotes none that has less than 5% to beat the best so
            far (once two have come to the end), and none before 15 were started and 4 have come to a rung.
            An optimizer without a model leaves it at the observed. With the promotion rule only.
        promotion_factor: One in so many goes up, where that is not to be the factor between levels.

    Raises:
        StrategyError: An argument is out of its range.

    Example:
        >>> scheduler = ASHAScheduler(max_epochs=9)
        >>> trial = Trial({"lr": 0.1}, number=0)
        >>> scheduler.on_add(trial)
        >>> scheduler.on_report(trial, 1, {"loss": 0.5})
        <Decision.PAUSE: 'pause'>
    """

    TUNABLE: ClassVar[Mapping[str, Distribution]] = {
        "reduction_factor": Ordinal([2, 3, 4]),
        "grace_period": Integer(1, 10),
        "rule": Choice(["promotion", "stopping"]),
    }

    def __init__(
        self,
        max_epochs: int = 100,
        reduction_factor: float = 3,
        grace_period: int = 1,
        brackets: int = 1,
        rule: Rule = "promotion",
        rank_by: Literal["observed", "predicted"] = "observed",
        *,
        promotion_factor: float | None = None,
    ) -> None:
        owner = "ASHAScheduler"
        super().__init__(owner, max_epochs, reduction_factor, grace_period, rule)
        one_of(owner, "rule", rule, ("promotion", "stopping"))
        self.rank_by = one_of(owner, "rank_by", rank_by, ("observed", "predicted"))
        if rank_by == "predicted" and rule != "promotion":
            raise StrategyError(f"{owner}(rank_by='predicted', rule={rule!r}): predicted ranks need rule='promotion'")
        if promotion_factor is not None:
            self._keep = exact(real(owner, "promotion_factor", promotion_factor, 1, math.inf, "a number > 1, or None"))
        self.brackets = whole(owner, "brackets", brackets)
        if brackets > len(self._levels):
            raise StrategyError(
                f"{owner}(brackets={brackets}): expected at most one for each rung; there are {len(self._levels)}: "
                f"{', '.join(map(str, self._levels))}"
            )
        self._ladders = brackets
        self._begin()

    def _begin(self) -> None:
        super()._begin()
        self._exhausted = False
        self._rank: PredictedRank | None = None
        self._ranked_at, self._back, self._ends = -1, 0, 0

    def setup(
        self, space: SearchSpace, objectives: Sequence[Objective], seed: int, predict: Predict | None = None
    ) -> None:
        """Learn which metric counts, and the optimizer's model if there is one; forgets all trials known before."""
        super().setup(space, objectives, seed)
        if self.rank_by == "predicted" and predict is not None:
            self._rank = PredictedRank(predict, self._measure.objective, self.max_epochs)

    def on_exhausted(self) -> None:
        """Promote by prediction even where fewer than 15 trials were started: no others will come."""
        self._exhausted = True

    def _promotable(self, rung: Rung) -> int | None:
        if self._rank is None:
            return super()._promotable(rung)
        rank = self._up_to_date(self._rank)
        if not self._exhausted and (len(self._runs) < _STARTED or self._back < _BACK):
            return None
        first = rank.order(rung.numbers(), self._arrived)[: self._room(rung)]
        for number in first:
            run = self._runs[number]
            if run.phase is _Phase.PAUSED and run.rungs[run.at] is rung and run.trial.status is Status.PAUSED:
                return number if self._ends < _ENDS or rank.promising(number) else None
        return None

    def _up_to_date(self, rank: PredictedRank) -> PredictedRank:
        """Ask the model again if anything has happened since it was last asked."""
        if self._ranked_at != self._version:
            back = [run for run in self._runs.values() if run.at >= 0]
            alive = [run.trial for run in back if run.rungs[run.at].loss(run.trial.number) < math.inf]
            losses = [rung.loss(n) for bracket in self._brackets for rung in bracket for n in rung.numbers()]
            rank.learn(alive, losses)
            self._back = len(alive)
            self._ends = sum(self._arrived(trial.number) for trial in alive)
            self._ranked_at = self._version
        return rank

    def _arrived(self, number: int) -> bool:
        """Return whether a trial has come to the last rung."""
        run = self._runs[number]
        return run.at == len(run.rungs) - 1


@final
class AsyncHyperbandScheduler(_AsynchronousHalving):
    """Asynchronous Hyperband (arXiv 1810.05934, section 3): ASHA in as many brackets as there are rungs.

    New trials are dealt to the brackets in the shares of Hyperband's algorithm 1 (81:34:15:8:5 for five rungs and a
    factor of 3), at any time as nearly as whole trials can be. Promotion as in `ASHAScheduler`, in each bracket by
    itself; of several brackets the trial at the highest level goes first.

    Args:
        max_epochs: Steps after which a trial is complete (R).
        reduction_factor: A rung lets one in so many up (eta); any number > 1.
        grace_period: Step of the lowest rung of the first bracket (r).

    Raises:
        StrategyError: An argument is out of its range.
    """

    TUNABLE: ClassVar[Mapping[str, Distribution]] = {"reduction_factor": Ordinal([2, 3, 4]), "grace_period": Integer(1, 10)}

    def __init__(self, max_epochs: int = 81, reduction_factor: float = 3, grace_period: int = 1) -> None:
        super().__init__("AsyncHyperbandScheduler", max_epochs, reduction_factor, grace_period, "promotion")
        self._ladders = len(self._levels)
        self._begin()


def _level(rung: Rung) -> int:
    return rung.level
