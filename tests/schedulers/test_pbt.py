"""Population based training: who is replaced by whom, with what, and how often."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest

from sweep.errors import StrategyError
from sweep.schedulers import PBTScheduler
from sweep.space import Choice, Integer, LogUniform, SearchSpace, Uniform
from sweep.testing.schedulers import Rehearsal
from sweep.trial import Decision, Objective, Report, Result, Source, Status, Trial

_SPACE = SearchSpace(
    {
        "lr": LogUniform(1e-6, 1e2),
        "depth": Integer(1, 9),
        "kind": Choice(["a", "b", "c"]),
        "momentum": Uniform(0.0, 0.9, when=("kind", ["b"])),
    }
)


class _Population:
    """A population in lock step: each generation's losses are given, its exploits are taken."""

    def __init__(self, pbt: PBTScheduler, seed: int = 0, space: SearchSpace = _SPACE) -> None:
        self.pbt = pbt
        pbt.setup(space, [Objective("loss")], seed)
        rng = random.Random(seed)
        self.trials = [Trial(space.sample(rng), number=number) for number in range(pbt.population_size)]
        self.members = list(self.trials)
        for trial in self.trials:
            pbt.on_add(trial)
        self.step = 0

    def generation(
        self, losses: Mapping[int, float] | None = None, saved: bool = True
    ) -> list[tuple[Trial, Trial, Trial]]:
        """Train all for an interval; return the exploits: (new, parent, donor). Losses by place, else the place."""
        self.step += self.pbt.interval
        for place, trial in enumerate(self.members):
            if trial.status.ended:
                continue
            loss = (losses or {}).get(place, float(place))
            trial.step = self.step
            if saved:
                self.pbt.on_save(trial, self.step)
            said = self.pbt.on_report(trial, self.step, {"loss": loss})
            trial.status = Status.PAUSED if said is Decision.PAUSE else Status.COMPLETED
            self.pbt.on_end(trial)
        return self._take()

    def _take(self) -> list[tuple[Trial, Trial, Trial]]:
        found = []
        while (trial := self.pbt.next_trial()) is not None:
            if trial.number < 0:
                assert trial.parent is not None
                assert trial.start_from is not None
                parent, donor = self.trials[trial.parent], self.trials[trial.start_from]
                assert donor.status is Status.PAUSED, "the donor has trained on already"
                found.append((trial, parent, donor))
                trial.number = len(self.trials)
                self.trials.append(trial)
                if not parent.status.ended:
                    parent.status = Status.STOPPED
                self.pbt.on_add(trial)
                self.members[self.members.index(parent)] = trial
        for trial in self.members:
            if not trial.status.ended:
                trial.status = Status.RUNNING
        return found


@pytest.mark.parametrize(
    ("size", "quantile", "replaced"),
    [(20, 0.2, 4), (10, 0.3, 3), (10, 0.25, 2), (4, 0.2, 1), (7, 0.5, 3), (2, 0.5, 1), (30, 0.1, 3)],
)
def test_truncation_takes_exact_quantiles(size: int, quantile: float, replaced: int) -> None:
    """0.3 of 10 is 3 (in floats it is more); of a population of four at least one."""
    population = _Population(PBTScheduler(size, 3, quantile=quantile))
    exploits = population.generation()
    assert sorted(parent.number for _, parent, _ in exploits) == list(range(size - replaced, size))
    assert {donor.number for _, _, donor in exploits} <= set(range(replaced))


def test_donors_are_drawn_uniformly_from_the_best() -> None:
    """2000 draws among 4 donors: each 500, within four standard deviations (sd 19.4)."""
    drawn: Counter[int] = Counter()
    for seed in range(500):
        for _, _, donor in _Population(PBTScheduler(20, 3), seed).generation():
            drawn[donor.number] += 1
    assert set(drawn) == {0, 1, 2, 3}
    for count in drawn.values():
        assert abs(count - 500) <= 78


def test_perturbation_multiplies_by_either_factor_equally_often() -> None:
    """Of 2000 learning rates each is 0.8 or 1.2 times the donor's; 1000 each, within four sd (22.4)."""
    seen: Counter[float] = Counter()
    for seed in range(500):
        for new, _, donor in _Population(PBTScheduler(20, 3), seed).generation():
            assert _SPACE.contains(new.params)
            ratio = new.params["lr"] / donor.params["lr"]
            seen[round(ratio, 6)] += 1 if 2e-6 < donor.params["lr"] < 80 else 0
    inside = {factor: count for factor, count in seen.items() if factor in (0.8, 1.2)}
    total = sum(inside.values())
    assert total >= 0.97 * 2000 * (math.log(80 / 2e-6) / math.log(1e8))  # none is anything else, but at the ends
    for count in inside.values():
        assert abs(count - total / 2) <= 4 * math.sqrt(total) / 2


def test_perturbation_draws_categories_anew() -> None:
    """Any of the three with equal probability: two thirds of 2000 differ from the donor's, within four sd (21.1)."""
    changed = sum(
        new.params["kind"] != donor.params["kind"]
        for seed in range(500)
        for new, _, donor in _Population(PBTScheduler(20, 3), seed).generation()
    )
    assert abs(changed - 2000 * 2 / 3) <= 84


def test_resampling_redraws_each_parameter_with_its_probability() -> None:
    """A learning rate drawn anew is another one: 25% of 2000, within four sd (19.4); categories: two thirds of it."""
    changed: Counter[str] = Counter()
    for seed in range(500):
        pbt = PBTScheduler(20, 3, explore_method="resample")
        for new, _, donor in _Population(pbt, seed).generation():
            assert _SPACE.contains(new.params)
            for name in ("lr", "kind"):
                changed[name] += new.params[name] != donor.params[name]
    assert abs(changed["lr"] - 500) <= 78
    assert abs(changed["kind"] - 500 * 2 / 3) <= 4 * math.sqrt(2000 / 6 * 5 / 6)


@pytest.mark.parametrize("method", ["perturb", "resample"])
def test_integers_move_and_conditions_hold(method: Any) -> None:
    depths, momentum = set(), 0
    for seed in range(60):
        pbt = PBTScheduler(20, 3, explore_method=method, resample_probability=0.5)
        for new, _, donor in _Population(pbt, seed).generation():
            depths.add(new.params["depth"] - donor.params["depth"])
            assert ("momentum" in new.params) == (new.params["kind"] == "b")
            momentum += new.params["kind"] == "b" and donor.params["kind"] != "b"
    assert {-1, 1} <= depths
    assert momentum > 0  # a parameter that became active was drawn


@pytest.mark.parametrize("slots", [1, 3, 12, 50])
def test_the_number_of_slots_changes_nothing(slots: int) -> None:
    """Members wait for each other at the boundary: lineage and parameters do not depend on who ran when."""

    def lineage(slots: int) -> list[tuple[Any, ...]]:
        pbt = PBTScheduler(12, 5, interval=3, quantile=0.25)
        rehearsal = Rehearsal(pbt, 12, slots).run()
        assert not rehearsal.stuck
        return [(trial.number, trial.parent, trial.start_from, trial.params["x"]) for trial in rehearsal.trials]

    assert lineage(slots) == lineage(7)
    assert len(lineage(slots)) == 12 + 4 * 3  # four boundaries with exploits, three each; none at the last


def test_members_stay_within_one_interval() -> None:
    """At any report, the live members' steps are at most an interval apart, with slow and fast ones."""
    rehearsal = Rehearsal(
        PBTScheduler(9, 6, interval=4), 9, 5, seconds=lambda trial, _: 0.2 if trial.number % 2 else 3.0
    ).run()
    at: dict[int, int] = dict.fromkeys(range(9), 0)
    for call in rehearsal.calls:
        if call.what == "exploit":
            at[call.number] = at.pop(call.detail[0])
        elif call.what == "report":
            at[call.number] = call.detail[0]
            assert max(at.values()) - min(at.values()) <= 4
    assert set(at.values()) == {24}
    assert sum(trial.status is Status.COMPLETED for trial in rehearsal.trials) == 9


def test_an_exploit_takes_over_checkpoint_and_step() -> None:
    rehearsal = Rehearsal(PBTScheduler(10, 4, interval=5), 10, 3).run()
    starts = rehearsal.starts()
    for call in rehearsal.of("exploit"):
        parent, donor = call.detail
        assert starts[call.number][0] == _boundary(rehearsal, call.time) > 0
        assert rehearsal.trials[donor].attempts > 1
        assert rehearsal.trials[parent].status is Status.STOPPED


def _boundary(rehearsal: Rehearsal, time: float) -> int:
    """Return the step at which the population stood at a time."""
    return max(int(call.detail[0]) for call in rehearsal.of("report") if call.time <= time)


def test_no_exploit_from_a_donor_without_a_checkpoint() -> None:
    population = _Population(PBTScheduler(10, 4))
    assert population.generation(saved=False) == []
    population.pbt.on_save(population.members[1], 1)
    exploits = population.generation(saved=False)
    assert [donor.number for _, _, donor in exploits] == [1, 1]


def test_bad_numbers_are_worst_and_donate_nothing() -> None:
    losses = {0: math.nan, 1: -math.inf, 2: math.inf}
    exploits = _Population(PBTScheduler(10, 4)).generation(losses)
    assert [parent.number for _, parent, _ in exploits] == [1, 2]  # of equally bad ones the later places
    assert {donor.number for _, _, donor in exploits} <= {3, 4}
    everyone = dict.fromkeys(range(10), math.nan)
    assert _Population(PBTScheduler(10, 4)).generation(everyone) == []


def test_a_failed_member_is_replaced_at_the_boundary() -> None:
    population = _Population(PBTScheduler(10, 4))
    for trial in population.members[:3]:
        trial.status = Status.FAILED
        population.pbt.on_end(trial)
    exploits = population.generation()
    assert [parent.number for _, parent, _ in exploits] == [0, 1, 2]  # the worst two, and the third that failed
    assert {donor.number for _, _, donor in exploits} <= {3, 4}
    assert len(population.generation()) == 2


def test_failed_members_without_a_donor_leave() -> None:
    population = _Population(PBTScheduler(4, 4))
    population.members[0].status = Status.FAILED
    population.pbt.on_end(population.members[0])
    assert population.generation(saved=False) == []
    assert [trial.status for trial in population.members] == [Status.FAILED] + [Status.RUNNING] * 3
    assert len(population.generation()) == 1


def test_a_member_that_is_stopped_leaves_and_nobody_waits_for_it() -> None:
    population = _Population(PBTScheduler(10, 4))
    population.members[9].status = Status.STOPPED
    population.pbt.on_end(population.members[9])
    assert [parent.number for _, parent, _ in population.generation()] == [8]  # floor(0.2 * 9)


def test_the_last_generation_completes() -> None:
    population = _Population(PBTScheduler(10, 2, interval=3))
    assert len(population.generation()) == 2
    assert population.generation() == []
    assert {trial.status for trial in population.members} == {Status.COMPLETED}
    assert population.pbt.max_resource == 6
    assert population.pbt.n_trials == 10


def test_the_same_seed_gives_the_same_exploits() -> None:
    def params(seed: int) -> list[dict[str, Any]]:
        population = _Population(PBTScheduler(10, 9), 0)
        population.pbt.setup(_SPACE, [Objective("loss")], seed)
        return [new.params for _ in range(3) for new, _, _ in population.generation()]

    assert params(1) == params(1)
    assert params(1) != params(2)


# ---- as an optimizer


def _loss(params: Mapping[str, Any]) -> float:
    return float(abs(math.log10(params["lr"]) + 2) + abs(params["depth"] - 5))


def _search(pbt: PBTScheduler, limit: int = 10**6, batch: int = 5) -> list[Trial]:
    """Run a sweep with ``batch`` slots; results come back in another order."""
    trials: list[Trial] = []
    while len(trials) < limit:
        found = pbt.suggest(batch)
        if not found:
            break
        for trial in found:
            trial.number = len(trials)
            trials.append(trial)
        for trial in reversed(found):
            pbt.observe(trial, Result(_loss(trial.params)))
    return trials


def _ready(seed: int = 0, **arguments: Any) -> PBTScheduler:
    pbt = PBTScheduler(**arguments)
    pbt.setup(_SPACE, [Objective("loss")], seed)
    return pbt


def test_as_an_optimizer_it_ends_by_itself_and_gets_better() -> None:
    trials = _search(_ready(population_size=20, num_generations=40))
    assert len(trials) == 20 + 39 * 4
    assert all(_SPACE.contains(trial.params) for trial in trials)
    first, last = trials[:20], trials[-20:]
    assert sum(_loss(trial.params) for trial in last) < 0.5 * sum(_loss(trial.params) for trial in first)


def test_generations_do_not_depend_on_batches() -> None:
    one, many = (_search(_ready(population_size=10, num_generations=6), batch=batch) for batch in (1, 64))
    assert [trial.params for trial in one] == [trial.params for trial in many]


def test_it_waits_for_missing_results() -> None:
    pbt = _ready(population_size=4, num_generations=3)
    found = pbt.suggest(10)
    assert len(found) == 4
    assert pbt.suggest(1) == []
    for number, trial in enumerate(found):
        trial.number = number
    for trial in found[:3]:
        pbt.observe(trial, Result(_loss(trial.params)))
    assert pbt.suggest(1) == []
    pbt.observe(found[3], Result(math.nan, failure="raised"))
    assert len(pbt.suggest(10)) == 1  # the one that failed is worst


def test_a_later_result_replaces_the_earlier() -> None:
    pbt = _ready(population_size=4, num_generations=3)
    found = pbt.suggest(4)
    for number, trial in enumerate(found):
        trial.number = number
        pbt.observe(trial, Result(float(number)))
    pbt.observe(found[0], Result(100.0))  # the best turns out to be the worst
    (new,) = pbt.suggest(4)
    assert new.notes == {"generation": 1, "place": 0}


def test_trials_of_others_take_places_of_the_first_generation() -> None:
    pbt = _ready(population_size=4, num_generations=3)
    earlier = Trial({"lr": 0.01, "depth": 5, "kind": "a"}, source=Source.EARLIER)
    pbt.observe(earlier, Result(_loss(earlier.params)))
    pbt.observe(Trial({"elsewhere": 1}, source=Source.EARLIER), Result(0.0))
    found = pbt.suggest(10)
    assert len(found) == 3
    for number, trial in enumerate(found):
        trial.number = number
        pbt.observe(trial, Result(50.0 + number))
    (new,) = pbt.suggest(10)
    assert abs(new.params["depth"] - 5) <= 2  # explored from the one that was brought along


def test_without_setup_it_says_so() -> None:
    with pytest.raises(StrategyError, match=r"call setup\(space, objectives, seed\) first"):
        PBTScheduler().suggest(1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"population_size": 1}, r"population_size=1\): expected a whole number >= 2"),
        ({"num_generations": 0}, r"num_generations=0"),
        ({"interval": 1.5}, r"interval=1.5"),
        ({"exploit_method": "truncate"}, r"exploit_method='truncate'\): expected one of 'truncation'; did you mean"),
        ({"explore_method": "jump"}, r"explore_method='jump'\): expected one of 'perturb', 'resample'"),
        ({"quantile": 0.6}, r"quantile=0.6\): expected a number > 0 and <= 0.5"),
        ({"quantile": 0}, r"quantile=0\)"),
        ({"perturb_factors": (0.8, -1)}, r"perturb_factors=-1\): expected numbers > 0"),
        ({"perturb_factors": ()}, r"perturb_factors=\(\)"),
        ({"resample_probability": 1.5}, r"resample_probability=1.5"),
    ],
)
def test_arguments_out_of_range(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(StrategyError, match=message):
        PBTScheduler(**arguments)


def test_reports_beyond_a_boundary_count_for_it() -> None:
    """Reports every three steps, boundaries every two: each boundary is met by the next report."""
    pbt = _ready(population_size=2, num_generations=3, interval=2, quantile=0.5)
    trial = Trial(_SPACE.sample(random.Random(0)), number=0)
    pbt.on_add(trial)
    assert pbt.next_decision(trial) == 2
    trial.history.append(Report(3, {"loss": 1.0}))
    assert pbt.on_report(trial, 1, {"loss": 1.0}) is Decision.CONTINUE
    assert pbt.on_report(trial, 3, {}) is Decision.CONTINUE
    assert pbt.on_report(trial, 4, {"loss": 1.0}) is Decision.PAUSE
    assert pbt.on_report(trial, 6, {"loss": 1.0}) is Decision.STOP
