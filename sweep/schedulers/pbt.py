"""Population based training (arXiv 1711.09846), as a scheduler and as an optimizer."""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Mapping, Sequence
from enum import Enum
from fractions import Fraction
from typing import ClassVar, Literal, TypeVar, final

from sweep.errors import StrategyError
from sweep.schedulers.arguments import one_of, real, whole
from sweep.schedulers.base import JudgingScheduler
from sweep.schedulers.rungs import exact
from sweep.space import Choice, Distribution, LogInteger, Params, SearchSpace, Uniform
from sweep.trial import Decision, Objective, Result, Source, Status, Trial

__all__ = ["PBTScheduler"]

_T = TypeVar("_T")


class _Phase(Enum):
    """Where a member of the population is in its interval."""

    RUNNING = "running"
    WAITING = "waiting"  # paused at the boundary until the others have come
    READY = "ready"  # to be started again, as itself or as an exploit
    FAILED = "failed"  # worst of its generation, to be replaced
    GONE = "gone"  # completed, stopped from outside, or failed with nobody to replace it


class _Member:
    """One place in the population; the trial in it changes with each exploit."""

    __slots__ = ("index", "loss", "phase", "trial")

    def __init__(self, index: int, trial: Trial) -> None:
        self.index, self.trial = index, trial
        self.loss: float | None = None  # at this generation's boundary, once it is there
        self.phase = _Phase.RUNNING


@final
class PBTScheduler(JudgingScheduler):
    """Population based training (Jaderberg et al., arXiv 1711.09846) with truncation selection.

    As a **scheduler**: ``population_size`` trials are trained for ``num_generations`` intervals. Each pauses at the
    end of an interval until all have come (so members are never more than one interval apart, whatever the number
    of slots). Then each of the worst ``floor(quantile * n)`` (at least one) is replaced: its trial ends and a new one
    takes over the checkpoint and step of a donor, drawn uniformly from as many of the best, with parameters explored
    from the donor's. The others go on from their own checkpoint.

    - ``explore_method="perturb"``: each number times one of ``perturb_factors``; categories are drawn anew
      (`SearchSpace.perturb`). ``"resample"``: each parameter is drawn anew from the space with
      ``resample_probability``, and kept otherwise. Both stay inside the domain and respect conditions.
    - A donor has a finite loss and has saved a checkpoint; where none of the best has, nobody is replaced.
    - NaN and infinity are worst; of equal losses the lower place is the better. A failed or lost member is worst
      and is replaced at the next boundary, beyond the quantile if need be. A member that was stopped from outside
      or completed by itself leaves the population.
    - The first report with the metric at or beyond a boundary counts for it.

    As an **optimizer**: the first generation is a random population; when all of it is observed, each of the
    worst is replaced by a new trial explored from one of the best, and so on for ``num_generations``; ``suggest``
    returns ``[]`` while results are missing. Trials that the sweep brings along (``enqueue``, ``init_from``) take
    places of the first generation.

    Args:
        population_size: Members, at least 2.
        num_generations: Intervals (as an optimizer: generations).
        interval: Steps between two boundaries.
        exploit_method: ``"truncation"``.
        explore_method: ``"perturb"`` or ``"resample"``.
        quantile: Share that is replaced, and share that donates; at most 0.5.
        perturb_factors: What numbers are multiplied with.
        resample_probability: See ``explore_method``.

    Raises:
        StrategyError: An argument is out of its range.

    Example:
        >>> PBTScheduler(population_size=8, num_generations=10, interval=5).max_resource
        50
    """

    TUNABLE: ClassVar[Mapping[str, Distribution]] = {
        "population_size": LogInteger(4, 64),
        "explore_method": Choice(["perturb", "resample"]),
        "quantile": Uniform(0.1, 0.5),
        "resample_probability": Uniform(0.0, 1.0),
    }
    search_space: SearchSpace | None = None
    finite = True
    pauses = True

    def __init__(
        self,
        population_size: int = 20,
        num_generations: int = 50,
        interval: int = 1,
        exploit_method: Literal["truncation"] = "truncation",
        explore_method: Literal["perturb", "resample"] = "perturb",
        quantile: float = 0.2,
        perturb_factors: Sequence[float] = (0.8, 1.2),
        resample_probability: float = 0.25,
    ) -> None:
        owner = "PBTScheduler"
        self.population_size = whole(owner, "population_size", population_size, 2)
        self.num_generations = whole(owner, "num_generations", num_generations)
        self.interval = whole(owner, "interval", interval)
        self.exploit_method = one_of(owner, "exploit_method", exploit_method, ("truncation",))
        self.explore_method = one_of(owner, "explore_method", explore_method, ("perturb", "resample"))
        self.quantile = real(owner, "quantile", quantile, 0, 0.5, "a number > 0 and <= 0.5")
        if isinstance(perturb_factors, str) or not isinstance(perturb_factors, Sequence) or not perturb_factors:
            raise StrategyError(f"{owner}(perturb_factors={perturb_factors!r}): expected factors such as (0.8, 1.2)")
        self.perturb_factors = tuple(
            float(real(owner, "perturb_factors", factor, 0, math.inf, "numbers > 0")) for factor in perturb_factors
        )
        if resample_probability != 0:
            real(owner, "resample_probability", resample_probability, 0, 1, "a probability from 0 to 1")
        self.resample_probability = resample_probability
        self.max_resource = self._last = num_generations * interval
        self._rules = _Rules(exact(self.quantile), explore_method, self.perturb_factors, resample_probability)
        self._begin()

    def _begin(self) -> None:
        self._breeding = _Breeding(self._rules, self.population_size, self.num_generations)
        self._members: list[_Member] = []
        self._of: dict[int, _Member] = {}  # by number of the trial, past ones too
        self._saved: set[int] = set()  # trials that have a checkpoint of their own
        self._generation = 1  # the boundary that is awaited: generation * interval
        self._closed = False
        self._moves: deque[tuple[_Member, _Member | None]] = deque()  # (member, donor or None)

    def setup(self, space: SearchSpace, objectives: Sequence[Objective], seed: int) -> None:
        """Learn the space to explore, which metric counts, and the seed; forgets all trials known before."""
        super().setup(space, objectives, seed)
        self._rules.space, self._rules.seed = space, seed

    # ---- the scheduler

    @property
    def n_trials(self) -> int | None:
        """The population: new trials that are asked of the optimizer; exploits are not counted."""
        return self.population_size

    def objection(self, *, finite: bool, trials: int | None) -> str | None:
        """Return that a grid is no population, or that the budget does not fill it, if so."""
        if finite:
            return "PBT with a grid: PBT needs an optimizer that can go on for ever, such as RandomOptimizer()"
        if trials is not None and trials < self.population_size:
            return (
                f"budget={trials}: PBT begins with a population of {self.population_size} trials; give it a budget of at "
                f"least {self.population_size}, or a smaller population_size"
            )
        return None

    def room(self, free: int) -> int:
        """Return how many members are missing, as far as there are slots."""
        return min(free, max(0, self.population_size - len(self._members)))

    def on_add(self, trial: Trial) -> None:
        """Take a new member, or the new trial of a member that exploits."""
        if trial.number in self._of:
            return
        member = None if trial.parent is None else self._of.get(trial.parent)
        if member is None:
            member = _Member(len(self._members), trial)
            self._members.append(member)
        member.trial = trial
        self._of[trial.number] = member

    def next_decision(self, trial: Trial) -> int | None:
        """Return the next boundary."""
        return self._generation * self.interval

    def on_save(self, trial: Trial, step: int) -> None:
        """Note that the trial may be a donor."""
        self._saved.add(trial.number)

    def on_report(self, trial: Trial, step: int, metrics: Mapping[str, float]) -> Decision:
        """Pause the trial at a boundary; stop it at the last one, which completes it."""
        member = self._member(trial)
        if step < self._generation * self.interval:
            return Decision.CONTINUE
        loss = self._measure.loss(metrics)
        if loss is None:
            if step < self._last:
                return Decision.CONTINUE
            loss = math.inf
        member.loss = loss
        return Decision.STOP if step >= self._last else Decision.PAUSE

    def on_end(self, trial: Trial) -> None:
        """Note that a member has come to the boundary, failed or left; the last one begins the next generation."""
        member = self._of.get(trial.number)
        if member is None or member.trial.number != trial.number or member.phase is _Phase.GONE:
            return
        if trial.status is Status.PAUSED:
            if member.loss is None or member.phase is not _Phase.RUNNING:
                return
            member.phase = _Phase.WAITING
        elif trial.status is Status.FAILED:
            member.phase, member.loss = _Phase.FAILED, math.inf
        else:
            member.phase = _Phase.GONE
        self._turn()

    def on_exhausted(self) -> None:
        """Go on with a population that will not be full."""
        if len(self._members) < self.population_size:
            self._closed = True
            self._turn()

    def next_trial(self) -> Trial | None:
        """Return the next exploit, as a new trial with ``parent`` and ``start_from``, or else a member to go on."""
        while self._moves:
            member, donor = self._moves.popleft()
            if member.phase is not _Phase.READY:  # it was ended from outside while it waited
                continue
            member.phase, member.loss = _Phase.RUNNING, None
            if donor is None:
                return member.trial
            params = self._rules.explore(donor.trial.params, self._generation, member.index)
            return Trial(params, parent=member.trial.number, start_from=donor.trial.number, source=Source.SCHEDULER)
        return None

    def _turn(self) -> None:
        """Begin the next generation if every member has come to the boundary."""
        there = [member for member in self._members if member.phase in (_Phase.WAITING, _Phase.FAILED)]
        running = any(member.phase in (_Phase.RUNNING, _Phase.READY) for member in self._members)
        full = self._closed or len(self._members) >= self.population_size
        if running or not full or not any(member.phase is _Phase.WAITING for member in there):
            return
        # Exploits go first, so that a donor has not trained on when its checkpoint is taken.
        self._moves.extend(sorted(self._next_moves(there), key=lambda move: move[1] is None))
        self._generation += 1

    def _next_moves(self, there: Sequence[_Member]) -> list[tuple[_Member, _Member | None]]:
        """Return each member that goes on, with the donor of those that are replaced, by place."""
        ranked = sorted(there, key=lambda member: (member.loss, member.index))
        count = self._rules.truncated(len(ranked))
        donors = [m for m in ranked[:count] if _finite(m.loss) and m.trial.number in self._saved]
        doomed = {*ranked[len(ranked) - count :], *(member for member in there if member.phase is _Phase.FAILED)}
        moves: list[tuple[_Member, _Member | None]] = []
        for member in sorted(there, key=lambda member: member.index):
            donor = self._rules.pick(donors, self._generation, member.index) if donors and member in doomed else None
            if donor is None and member.phase is _Phase.FAILED:
                member.phase = _Phase.GONE
                continue
            member.phase = _Phase.READY
            moves.append((member, donor))
        return moves

    def _member(self, trial: Trial) -> _Member:
        if trial.number not in self._of:
            self.on_add(trial)
        return self._of[trial.number]

    # ---- the optimizer

    def suggest(self, n: int) -> list[Trial]:
        """Return up to ``n`` trials of the generation; ``[]`` while results are missing, and at the end.

        Raises:
            StrategyError: ``setup`` has not been called.
        """
        return self._breeding.suggest(n)

    def observe(self, trial: Trial, result: Result) -> None:
        """Learn a result; a later one for the same trial replaces the earlier."""
        self._breeding.observe(trial, self._measure.objective.loss(float(result)))


class _Rules:
    """Who is replaced and how parameters are explored: what both uses of PBT share.

    Each draw has a generator of its own, from the seed and what is drawn: nothing depends on earlier draws.
    """

    def __init__(self, quantile: Fraction, method: str, factors: Sequence[float], resample: float) -> None:
        self.space: SearchSpace | None = None
        self.seed = 0
        self._quantile, self._method, self._factors, self._resample = quantile, method, factors, resample

    def truncated(self, n: int) -> int:
        """Return how many of ``n`` are replaced, and how many donate."""
        return min(n // 2, max(1, math.floor(n * self._quantile)))

    def pick(self, donors: Sequence[_T], generation: int, place: int) -> _T:
        """Draw a donor, each with equal probability."""
        return self._rng("donor", generation, place).choice(donors)

    def sample(self, generation: int, place: int) -> Params:
        """Draw parameters from the space."""
        return self._known_space().sample(self._rng("sample", generation, place))

    def explore(self, params: Mapping[str, object], generation: int, place: int) -> Params:
        """Return parameters near ``params``, inside the space."""
        space, rng = self._known_space(), self._rng("explore", generation, place)
        if self._method == "perturb":
            return space.perturb(params, rng, self._factors)
        new: Params = {}
        for name in space.names:
            if space.is_active(name, new):
                keep = name in params and rng.random() >= self._resample
                new[name] = params[name] if keep else space[name].sample(rng)
        return new

    def knows(self, params: Mapping[str, object]) -> bool:
        """Return whether the parameters are of the space."""
        return self._known_space().contains(params)

    def _known_space(self) -> SearchSpace:
        if self.space is None:
            raise StrategyError("PBTScheduler explores a search space: call setup(space, objectives, seed) first")
        return self.space

    def _rng(self, what: str, generation: int, place: int) -> random.Random:
        return random.Random(repr(("pbt", self.seed, what, generation, place)))  # noqa: S311  # not secrecy


class _Breeding:
    """The generational search behind ``suggest`` and ``observe``: places, and the trial that stands in each."""

    def __init__(self, rules: _Rules, size: int, generations: int) -> None:
        self._rules, self._generations = rules, generations
        self._generation = 0
        self._params: dict[int, Mapping[str, object]] = {}  # by place
        self._losses: dict[int, float] = {}
        self._place: dict[int, int] = {}  # by number of the trial
        self._open = deque(range(size))  # places to be suggested in this generation
        self._due = set(self._open)  # places whose result is missing

    def suggest(self, n: int) -> list[Trial]:
        """Return the next trials of the generation."""
        if not self._due:
            self._next_generation()
        return [self._newcomer(self._open.popleft()) for _ in range(min(n, len(self._open)))]

    def observe(self, trial: Trial, loss: float) -> None:
        """Take the result of a place's trial; one that was not suggested here takes a place that is still open."""
        place = self._place[trial.number] if trial.number in self._place else self._place_of(trial)
        if place is None:
            return
        if trial.number >= 0:
            self._place[trial.number] = place
        self._losses[place] = loss
        self._due.discard(place)

    def _place_of(self, trial: Trial) -> int | None:
        notes = trial.notes or {}
        if trial.source is Source.OPTIMIZER and "place" in notes:
            return int(notes["place"]) if notes["generation"] == self._generation else None
        if self._generation > 0 or not self._open or not self._rules.knows(trial.params):
            return None
        place = self._open.pop()
        self._params[place] = trial.params
        return place

    def _newcomer(self, place: int) -> Trial:
        if self._generation == 0:
            self._params[place] = self._rules.sample(0, place)
        return Trial(dict(self._params[place]), notes={"generation": self._generation, "place": place})

    def _next_generation(self) -> None:
        """Replace the worst by what is explored from the best."""
        if self._generation + 1 >= self._generations:
            return
        self._generation += 1
        ranked = sorted(self._losses, key=lambda place: (self._losses[place], place))
        count = self._rules.truncated(len(ranked))
        worst = ranked[len(ranked) - count :]
        donors = [place for place in ranked[:count] if _finite(self._losses[place])]
        self._params.update({place: self._heir(place, donors) for place in worst})
        self._losses = {place: loss for place, loss in self._losses.items() if place not in worst}
        self._place = {number: place for number, place in self._place.items() if place not in worst}
        self._open.extend(worst)
        self._due.update(worst)

    def _heir(self, place: int, donors: Sequence[int]) -> Params:
        """Return the parameters of a place that is replaced; without a donor, drawn from the space."""
        if not donors:
            return self._rules.sample(self._generation, place)
        donor = self._rules.pick(donors, self._generation, place)
        return self._rules.explore(self._params[donor], self._generation, place)


def _finite(loss: float | None) -> bool:
    return loss is not None and loss < math.inf
