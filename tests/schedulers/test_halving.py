"""Synchronous halving and Hyperband against algorithm 1 of arXiv 1603.06560, run bracket by bracket."""

from __future__ import annotations

import math
import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweep.errors import StrategyError
from sweep.schedulers import DistributedScheduler, HyperbandScheduler, SuccessiveHalvingScheduler
from sweep.testing.schedulers import Rehearsal
from sweep.trial import Decision, Report, Status, Trial


def _algorithm_1(last: int, eta: int, loss: dict[tuple[int, int], float]) -> tuple[dict[int, int], int]:
    """Return the step each configuration comes to, and how many configurations there are."""
    s_max = max(s for s in range(12) if eta**s <= last)
    reached: dict[int, int] = {}
    count = 0
    for s in range(s_max, -1, -1):
        n = math.ceil((s_max + 1) * eta**s / (s + 1))
        chosen = list(range(count, count + n))
        count += n
        for i in range(s + 1):
            n_i, r_i = n // eta**i, last // eta ** (s - i)
            for trial in chosen:
                reached[trial] = r_i
            chosen = sorted(chosen, key=lambda trial: (loss[trial, r_i], trial))[: n_i // eta]
    return reached, count


@settings(max_examples=25, deadline=None)
@given(slots=st.integers(1, 40), eta=st.sampled_from([2, 3, 4]), last=st.integers(1, 81), seed=st.integers(0, 10**6))
def test_hyperband_is_algorithm_1_with_any_number_of_slots(slots: int, eta: int, last: int, seed: int) -> None:
    rng = random.Random(seed)
    scheduler = HyperbandScheduler(last, eta)
    assert scheduler.n_trials is not None
    numbers = range(scheduler.n_trials)
    loss = {(number, step): round(rng.random(), 1) for number in numbers for step in range(1, last + 1)}  # ties
    pace = {number: rng.uniform(0.1, 2) for number in numbers}
    rehearsal = Rehearsal(
        scheduler,
        scheduler.n_trials,
        slots,
        curve=lambda trial, step: {"loss": loss[trial.number, step]},
        seconds=lambda trial, _: pace[trial.number],
    ).run()
    reached, count = _algorithm_1(last, eta, loss)
    assert scheduler.n_trials == count
    assert {trial.number: trial.step for trial in rehearsal.trials} == reached
    assert not rehearsal.stuck


def test_the_job_list_of_the_paper() -> None:
    """R = 81, eta = 3: how many trials run from which step to which, and nothing twice."""
    rehearsal = Rehearsal(HyperbandScheduler(), 143, 9).run()
    jobs: Counter[tuple[int, int]] = Counter()
    for number, starts in rehearsal.starts().items():
        ends = [
            call.detail[0]
            for call in rehearsal.of("report")
            if call.number == number and call.detail[1] is not Decision.CONTINUE
        ]
        jobs.update(zip(starts, ends, strict=True))
    assert jobs == {
        (0, 1): 81, (1, 3): 27, (3, 9): 9 + 11, (9, 27): 3 + 3 + 5, (27, 81): 1 + 1 + 1 + 2,
        (0, 3): 34, (0, 9): 15, (0, 27): 8, (0, 81): 5,
    }  # fmt: skip
    assert sum(trial.step for trial in rehearsal.trials) == sum((b - a) * n for (a, b), n in jobs.items())


def test_brackets_begin_in_order_and_go_round() -> None:
    scheduler = HyperbandScheduler(9)
    trials = [Trial({}, number=number) for number in range(2 * 17)]
    for trial in trials:
        scheduler.on_add(trial)
    firsts = [scheduler.next_decision(trial) for trial in trials]
    assert firsts == ([1] * 9 + [3] * 5 + [9] * 3) * 2


def test_a_further_pass_for_a_larger_budget() -> None:
    rehearsal = Rehearsal(HyperbandScheduler(9), 34, 4).run()
    assert Counter(trial.step for trial in rehearsal.trials[:17]) == Counter(
        trial.step for trial in rehearsal.trials[17:]
    )


@settings(max_examples=25, deadline=None)
@given(
    slots=st.integers(1, 30),
    eta=st.sampled_from([2, 3, 2.5]),
    n=st.integers(40, 90),
    grace=st.integers(1, 4),
    seed=st.integers(0, 10**6),
)
def test_successive_halving(slots: int, eta: float, n: int, grace: int, seed: int) -> None:
    rng = random.Random(seed)
    last = 27
    loss = {(number, step): rng.random() for number in range(n) for step in range(1, last + 1)}
    steps = [math.floor(grace * eta**k) for k in range(6) if grace * eta**k < last] + [last]
    chosen, reached = list(range(n)), {}
    for i, step in enumerate(steps):
        chosen = chosen[: int(n / eta**i + 1e-9)]
        for trial in chosen:
            reached[trial] = step
        chosen.sort(key=[loss[trial, step] for trial in range(n)].__getitem__)
    rehearsal = Rehearsal(
        SuccessiveHalvingScheduler(last, eta, grace, n),
        n,
        slots,
        curve=lambda trial, step: {"loss": loss[trial.number, step]},
        seconds=lambda trial, step: 1 + loss[trial.number, step],
    ).run()
    assert {trial.number: trial.step for trial in rehearsal.trials} == reached


def test_nobody_goes_on_before_all_have_come() -> None:
    """81 trials, many slots, one straggler: the rung waits for it."""
    rehearsal = Rehearsal(
        SuccessiveHalvingScheduler(), 81, 100, seconds=lambda trial, step: 50.0 if trial.number == 40 else 1.0
    ).run()
    assert min(call.time for call in rehearsal.of("promote")) == 50.0


@pytest.mark.parametrize("slots", [1, 6, 200])
def test_failures_at_a_rung(slots: int) -> None:
    """Of 27, nine fail on the way and four report NaN: the rung goes on with those left, the best nine of them."""

    def curve(trial: Trial, step: int) -> dict[str, float] | None:
        if trial.number < 9:
            return None
        return {"loss": math.nan if trial.number < 13 else float(trial.number)}

    rehearsal = Rehearsal(SuccessiveHalvingScheduler(27), 27, slots, curve=curve).run()
    assert [trial.number for trial in rehearsal.trials if trial.step >= 3] == list(range(13, 22))
    assert [trial.number for trial in rehearsal.trials if trial.step >= 9] == [13, 14, 15]
    assert [trial.number for trial in rehearsal.trials if trial.status is Status.COMPLETED] == [13]


def test_most_of_a_rung_fails() -> None:
    """Fewer are left than may go on: all of them do."""
    rehearsal = Rehearsal(
        SuccessiveHalvingScheduler(9),
        9,
        3,
        curve=lambda trial, step: {"loss": 1.0} if trial.number == 8 else None,
    ).run()
    assert rehearsal.trials[8].status is Status.COMPLETED
    assert not rehearsal.stuck


def test_a_trial_that_fails_after_its_promotion_keeps_nobody_waiting() -> None:
    def curve(trial: Trial, step: int) -> dict[str, float] | None:
        return None if trial.number == 0 and step == 3 else {"loss": float(trial.number)}

    rehearsal = Rehearsal(SuccessiveHalvingScheduler(9), 9, 2, curve=curve).run()
    assert [trial.number for trial in rehearsal.trials if trial.status is Status.COMPLETED] == [1]


def test_a_trial_that_is_stopped_while_it_waits_does_not_go_on() -> None:
    scheduler = SuccessiveHalvingScheduler(3)
    trials = [Trial({}, number=number) for number in range(3)]
    for trial in trials:
        scheduler.on_add(trial)
    for trial in trials:
        assert scheduler.on_report(trial, 1, {"loss": float(trial.number)}) is Decision.PAUSE
    for trial in trials[:2]:
        trial.status = Status.PAUSED
        scheduler.on_end(trial)
    trials[0].status = Status.STOPPED
    scheduler.on_end(trials[0])
    trials[2].status = Status.PAUSED
    scheduler.on_end(trials[2])
    assert scheduler.next_trial() is trials[1]
    assert scheduler.next_trial() is None


def test_a_grid_smaller_than_the_bracket() -> None:
    """50 of 81: the bracket goes on with them, to the end."""
    rehearsal = Rehearsal(SuccessiveHalvingScheduler(), 50, 8).run()
    assert Counter(trial.step for trial in rehearsal.trials) == {1: 34, 3: 11, 9: 4, 81: 1}


def test_trials_that_return_before_their_rung() -> None:
    """They stand by their result: the best of them takes the place above, and nobody waits."""
    scheduler = SuccessiveHalvingScheduler(9)
    trials = [Trial({}, number=number) for number in range(9)]
    for trial in trials:
        scheduler.on_add(trial)
    for trial in trials:
        if trial.number == 0:
            trial.status, trial.score = Status.COMPLETED, -5.0  # never reported
        else:
            scheduler.on_report(trial, 1, {"loss": float(trial.number)})
            trial.status = Status.PAUSED
        scheduler.on_end(trial)
    ups = [scheduler.next_trial(), scheduler.next_trial(), scheduler.next_trial()]
    assert ups == [trials[1], trials[2], None]  # three places: trial 0 has the first
    for trial in trials[1:3]:
        trial.status = Status.RUNNING
        trial.history.append(Report(3, {"loss": float(trial.number)}))
        assert scheduler.on_report(trial, 3, {"loss": float(trial.number)}) is Decision.PAUSE
        trial.status = Status.PAUSED
        scheduler.on_end(trial)
    assert scheduler.next_trial() is None  # one place at the top, and trial 0 has it


@pytest.mark.parametrize(
    ("scheduler", "arguments", "message"),
    [
        (HyperbandScheduler, {"max_epochs": 0}, r"HyperbandScheduler\(max_epochs=0\)"),
        (HyperbandScheduler, {"grace_period": 100}, r"grace_period=100\): expected at most max_epochs, which is 81"),
        (HyperbandScheduler, {"reduction_factor": 0.5}, r"reduction_factor=0.5\): expected a number > 1"),
        (SuccessiveHalvingScheduler, {"n": 80}, r"n=80\): expected at least 81, of which one trial comes through"),
        (SuccessiveHalvingScheduler, {"n": True}, r"n=True\): expected a whole number"),
    ],
)
def test_arguments_out_of_range(scheduler: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(StrategyError, match=message):
        scheduler(**arguments)


@pytest.mark.parametrize(
    "scheduler", [HyperbandScheduler(), SuccessiveHalvingScheduler(), DistributedScheduler(HyperbandScheduler(), "thread")]
)
def test_a_budget_below_the_first_bracket_is_objected_to(scheduler: Any) -> None:
    said = scheduler.objection(finite=False, trials=80)
    assert "budget=80" in said
    assert "a bracket of 81 trials from step 1" in said
    assert scheduler.objection(finite=False, trials=81) is None
    assert scheduler.objection(finite=True, trials=None) is None  # a grid goes on with those it has
