"""What our model-based optimizers know: every trial they proposed or were told of, and its latest result.

The state of such an optimizer is a function of this history and of the seed, nothing else. That is
what makes a restored optimizer equal to the one that lived through it.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, final

from sweep.errors import MissingExtra, StrategyError
from sweep.optimizers.seeding import SeededOptimizer
from sweep.space import SearchSpace
from sweep.trial import Objective, Reason, Result, Source, Status, Trial

if TYPE_CHECKING:
    from sweep.optimizers.encoding import Encoding

__all__ = ["History", "ModelOptimizer", "OwnModelOptimizer", "Proposal", "Record", "State"]

Proposal: TypeAlias = tuple[dict[str, Any], dict[str, Any]]
"""Parameters of a new trial, and JSON notes to keep with it."""


class State(Enum):
    """What is known of a trial."""

    PENDING = "pending"
    """Proposed, no result yet."""
    SEEN = "seen"
    """It has finite scores, perhaps not its last."""
    FAILED = "failed"
    """It raised, ran out of time or diverged: its parameters are to be avoided."""
    VOID = "void"
    """It says nothing about its parameters: its host was lost, or it was cut short by something else."""


@final
@dataclass(slots=True, eq=False)
class Record:
    """One trial as an optimizer sees it.

    Attributes:
        trial: The trial itself.
        index: Number among the optimizer's own suggestions, or -1.
        state: What is known of it.
        losses: Scores oriented so that lower is better, one for each objective; finite; empty unless seen.
        step: Resource at which the scores were taken; 0 without reports.
        partial: Whether it paused or was stopped before its end.
        cost: Seconds worked on it.
    """

    trial: Trial
    index: int = -1
    state: State = State.PENDING
    losses: tuple[float, ...] = ()
    step: int = 0
    partial: bool = False
    cost: float = 0.0

    @property
    def params(self) -> Mapping[str, Any]:
        """Its parameters."""
        return self.trial.params

    def curve(self, objective: Objective) -> list[tuple[int, float]]:
        """Return (step, loss) of each finite report up to ``step``, by ascending step.

        A report without the objective's metric is left out; without a name for it, one that
        has not exactly one metric beside ``cost``.
        """
        points = []
        for step, metrics in self.trial.history:
            if step > self.step:
                break
            if objective.metric is not None:
                score = metrics.get(objective.metric, math.nan)
            else:
                found = [value for name, value in metrics.items() if name != "cost"]  # that is a trial's price
                score = found[0] if len(found) == 1 else math.nan
            if math.isfinite(score):
                points.append((step, objective.loss(score)))
        return points


@final
class History:
    """The records of one sweep in the order in which the trials were proposed.

    Args:
        objectives: What is optimised, at least one.
    """

    def __init__(self, objectives: Sequence[Objective]) -> None:
        self.objectives = tuple(objectives)
        self.records: list[Record] = []
        self.n_own = 0
        self._by_key: dict[Hashable, Record] = {}

    @property
    def n_given(self) -> int:
        """Results of trials that were not proposed here: each spares a random one at the start."""
        return sum(record.index < 0 and record.state is State.SEEN for record in self.records)

    def ask(self, trial: Trial) -> Record:
        """Note a trial that this optimizer has just proposed, the ``n_own``-th."""
        record = Record(trial, index=self.n_own)
        self.n_own += 1
        return self._add(record)

    def observe(self, trial: Trial, result: Result | float) -> Record:
        """Note a result; a later one for the same trial replaces it. Trials of others are taken in.

        Raises:
            StrategyError: The number of scores is not the number of objectives.
        """
        record = self._by_key.get(_identity(trial)) or self._add(Record(trial))
        record.trial = trial
        self._judge(record, result if isinstance(result, Result) else Result(result))
        return record

    def restore(self, trials: Iterable[Trial]) -> None:
        """Take over the trials of an earlier session, in their order."""
        for trial in trials:
            own = trial.source is Source.OPTIMIZER
            record = self._add(Record(trial, index=self.n_own if own else -1))
            self.n_own += own
            if trial.status in _OPEN:
                record.step = trial.step
            elif trial.score is not None or trial.status in (Status.FAILED, Status.ABORTED, Status.SKIPPED):
                score = math.nan if trial.score is None else trial.score
                values = trial.values or (score,)
                failure = trial.error or "failed" if trial.status is Status.FAILED else None
                self._judge(record, Result(score, failure=failure, step=trial.step, values=values, cost=trial.cost))
            else:
                record.state = State.VOID

    def _add(self, record: Record) -> Record:
        self.records.append(record)
        self._by_key[_identity(record.trial)] = record
        return record

    def _judge(self, record: Record, result: Result) -> None:
        trial = record.trial
        record.step, record.cost = result.step, result.cost
        record.partial = trial.status in (Status.PAUSED, Status.STOPPED)
        record.losses = ()
        cut = trial.status in (Status.ABORTED, Status.SKIPPED) or trial.reason in (Reason.LOST, Reason.PARENT)
        if cut or (trial.status is Status.STOPPED and result.failure is not None):  # before its first report
            record.state = State.VOID
        elif result.failure is not None or not all(map(math.isfinite, result.values)):
            record.state = State.FAILED
        else:
            if len(result.values) != len(self.objectives):
                raise StrategyError(
                    f"trial {trial.number} has {len(result.values)} scores, the sweep has {len(self.objectives)} "
                    f"objectives: report or return a score for each"
                )
            record.state = State.SEEN
            record.losses = tuple(map(Objective.loss, self.objectives, result.values))


_OPEN = (Status.PENDING, Status.RUNNING, Status.INTERRUPTED)


def _identity(trial: Trial) -> Hashable:
    """Return what stays the same about a trial from proposal to result, also in a copy of it."""
    if trial.source is Source.OPTIMIZER and trial.notes is not None and "n" in trial.notes:
        return "own", trial.notes["n"]
    return (trial.source, trial.number) if trial.number >= 0 else id(trial)


class ModelOptimizer(SeededOptimizer):
    """Base of optimizers that learn: proposals are a function of the seed and the history."""

    _history: History

    def _begin(self) -> None:
        self._history = History(self._objectives)

    @abstractmethod
    def _proposals(self, first: int, n: int) -> Iterator[Proposal]:
        """Yield up to ``n`` proposals, numbers ``first`` and up.

        Each one is in the history, pending, before the next is asked for.
        """

    def _learned(self, record: Record) -> None:  # optional on purpose
        """A record has got a (new) result."""

    def suggest(self, n: int) -> list[Trial]:
        """Return up to ``n`` new trials; ``[]``: exhausted."""
        self.space  # noqa: B018  # sets up a free-standing optimizer, or says what is missing
        trials = []
        for params, notes in islice(self._proposals(self._history.n_own, n), n):
            trial = Trial(params, notes={"n": self._history.n_own, **notes})
            self._history.ask(trial)
            trials.append(trial)
        return trials

    def observe(self, trial: Trial, result: Result) -> None:
        """Learn a result; a later one for the same trial replaces it. A trial outside the space is passed over.

        Raises:
            StrategyError: The number of scores is not the number of objectives.
        """
        if self._fits(trial):
            self._learned(self._history.observe(trial, result))

    def restore(self, trials: Iterable[Trial]) -> None:
        """Take over the trials of an earlier session as data; those outside the space are passed over."""
        self.space  # noqa: B018  # as above
        self._history.restore(filter(self._fits, trials))

    def _fits(self, trial: Trial) -> bool:
        """Whether a trial, in particular one of another sweep, lies in this space."""
        space = self.space
        return trial.source is Source.OPTIMIZER or space.contains(trial.params)


class OwnModelOptimizer(ModelOptimizer):
    """Base of those whose model is our own, in numpy and scipy: one objective, the space as features.

    Attributes:
        extra: The extra that brings numpy and scipy.
    """

    extra: ClassVar[str]
    _encoding: Encoding

    def setup(self, space: SearchSpace, objectives: Sequence[Objective], seed: int) -> None:
        """Take the sweep's space, objective and seed; forgets everything learned before."""
        if len(objectives) > 1:
            raise StrategyError(
                f"{type(self).__name__} has one objective, the sweep has {len(objectives)}: "
                "use OptunaOptimizer(), whose samplers take several"
            )
        super().setup(space, objectives, seed)

    def _begin(self) -> None:
        super()._begin()
        try:
            import scipy  # type: ignore[import-untyped]  # noqa: F401  # the models'; missed now, not in mid-search

            from sweep.optimizers.encoding import Encoding
        except ImportError as error:
            raise MissingExtra(type(self).__name__, error.name or "numpy", self.extra) from error
        self._encoding = Encoding(self.space)
