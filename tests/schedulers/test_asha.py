"""ASHA against the pseudocode of arXiv 1810.05934, written down independently."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweep.errors import StrategyError
from sweep.schedulers import ASHAScheduler, AsyncHyperbandScheduler
from sweep.space import SearchSpace, Uniform
from sweep.testing.schedulers import Call, Rehearsal
from sweep.trial import Decision, Objective, Report, Status, Trial

_SPACE = SearchSpace({"x": Uniform(0.0, 1.0)})


class _Paper:
    """Algorithm 2: ``get_job`` looks from the top rung down for a promotable configuration."""

    def __init__(self, steps: Sequence[int], eta: Fraction) -> None:
        self.steps, self.eta = steps, eta
        self.results: list[dict[int, float]] = [{} for _ in steps]
        self.promoted: list[set[int]] = [set() for _ in steps]
        self.alive: set[int] = set()
        self.rung: dict[int, int] = {}
        self.trials = 0

    def get_job(self) -> tuple[int, int]:
        for k in reversed(range(len(self.steps) - 1)):
            ranked = sorted(self.results[k], key=lambda t: (self.results[k][t], t))
            candidates = ranked[: math.floor(len(ranked) / self.eta)]
            promotable = [
                t for t in candidates if t not in self.promoted[k] and t in self.alive and self.results[k][t] < math.inf
            ]
            if promotable:
                self.promoted[k].add(promotable[0])
                self.alive.discard(promotable[0])
                self.rung[promotable[0]] = k + 1
                return promotable[0], k + 1
        self.trials += 1
        self.rung[self.trials - 1] = 0
        return self.trials - 1, 0

    def returned(self, trial: int, loss: float, alive: bool) -> None:
        self.results[self.rung[trial]][trial] = loss
        if alive:
            self.alive.add(trial)


def _check_jobs(rehearsal: Rehearsal, steps: Sequence[int], eta: Fraction) -> None:
    """Every start of the rehearsal is the job that the paper's algorithm gives out at that moment."""
    paper, last = _Paper(steps, eta), {}
    for call in rehearsal.calls:
        match call:
            case Call(what="start", number=number):
                job, rung = paper.get_job()
                assert job == number, f"at {call.time}: started {number}, the paper starts {job} for rung {rung}"
            case Call(what="report", number=number, detail=(step, decision)):
                last[number] = (step, decision)
                trial = rehearsal.trials[number]
                if decision is not Decision.CONTINUE:
                    level = paper.steps[paper.rung[number]]
                    assert step == level, f"trial {number} was told {decision} at {step}, not at its rung {level}"
                    assert (decision is Decision.PAUSE) == (step < steps[-1] and _loss(trial, step) < math.inf)
            case Call(what="end", number=number, detail=(status,)):
                loss = math.inf if status is Status.FAILED else _loss(rehearsal.trials[number], last[number][0])
                if status is not Status.STOPPED or loss == math.inf:
                    paper.returned(number, loss, status is Status.PAUSED)


def _loss(trial: Trial, step: int) -> float:
    for report in trial.history:
        if report.step == step:
            return report.metrics["loss"] if math.isfinite(report.metrics["loss"]) else math.inf
    raise AssertionError(f"trial {trial.number} has no report at {step}")


@settings(max_examples=60, deadline=None)
@given(
    slots=st.integers(1, 12),
    eta=st.sampled_from([2, 3, 4, 2.5]),
    grace=st.integers(1, 3),
    epochs=st.integers(3, 40),
    seed=st.integers(0, 10**6),
    trouble=st.booleans(),
)
def test_jobs_are_those_of_the_paper(slots: int, eta: float, grace: int, epochs: int, seed: int, trouble: bool) -> None:
    rng = random.Random(seed)
    noise = {(number, step): rng.gauss(0, 0.3) for number in range(60) for step in range(1, 41)}
    pace = {number: rng.uniform(0.1, 3) for number in range(60)}

    def curve(trial: Trial, step: int) -> dict[str, float] | None:
        if trouble and (trial.number * 31 + step) % 23 == 0:
            return None
        if trouble and trial.number % 11 == 5:
            return {"loss": math.nan}
        return {"loss": round(trial.params["x"] + noise[trial.number, step], 1)}  # rounded: there are ties

    rehearsal = Rehearsal(
        ASHAScheduler(epochs, eta, grace), 60, slots, curve=curve, seconds=lambda trial, _: pace[trial.number]
    ).run()
    factor = Fraction(str(eta))
    steps = [math.floor(grace * factor**k) for k in range(10) if grace * factor**k < epochs]
    _check_jobs(rehearsal, [*dict.fromkeys(steps), epochs], factor)
    assert len(rehearsal.trials) == 60


def test_a_job_list_by_hand() -> None:
    """One worker, eta 3, R 9; losses fall with the number, so each newcomer is the best so far."""
    rehearsal = Rehearsal(
        ASHAScheduler(max_epochs=9), 9, 1, curve=lambda trial, step: {"loss": 100.0 - trial.number}
    ).run()
    jobs = [(call.number, call.detail[0]) for call in rehearsal.of("start")]
    # From three trials on the newcomer is the first of rung 1 and goes up at once; so in rung 3, from three there on.
    expected = [(0, 0), (1, 0), (2, 0), (2, 1), (3, 0), (3, 1)]
    for number in range(4, 9):
        expected += [(number, 0), (number, 1), (number, 3)]
    assert jobs == expected


def test_six_rungs_of_243() -> None:
    scheduler = ASHAScheduler(max_epochs=243)
    trial = Trial({"x": 0.0}, number=0)
    scheduler.on_add(trial)
    decisions = []
    for step in range(1, 244):
        decisions.append(scheduler.on_report(trial, step, {"loss": 1.0}))
    assert [step for step, said in enumerate(decisions, 1) if said is not Decision.CONTINUE] == [1, 3, 9, 27, 81, 243]
    assert decisions[-1] is Decision.STOP
    assert scheduler.max_resource == 243


def _stopping(order: Sequence[tuple[int, float]], eta: int) -> list[Decision]:
    """The stopping rule, with a plain list: among the best floor(n / eta), at least one, or stopped."""
    seen: list[tuple[float, int]] = []
    said = []
    for number, loss in order:
        seen.append((loss, number))
        on = sorted(seen).index((loss, number)) < max(1, len(seen) // eta) and loss < math.inf
        said.append(Decision.CONTINUE if on else Decision.STOP)
    return said


@given(st.lists(st.sampled_from([0.1, 0.2, 0.3, 0.4, math.inf]), max_size=40), st.integers(2, 4))
def test_the_stopping_rule(losses: list[float], eta: int) -> None:
    scheduler = ASHAScheduler(max_epochs=100, reduction_factor=eta, rule="stopping")
    found = []
    for number, loss in enumerate(losses):
        trial = Trial({}, number=number)
        scheduler.on_add(trial)
        found.append(scheduler.on_report(trial, 1, {"loss": loss}))
    assert found == _stopping(list(enumerate(losses)), eta)
    assert scheduler.next_trial() is None


def test_stopping_never_pauses() -> None:
    rehearsal = Rehearsal(ASHAScheduler(27, rule="stopping"), 40, 4).run()
    assert {call.detail[1] for call in rehearsal.of("report")} == set(Decision) - {Decision.PAUSE}
    assert max(rehearsal.starts().values(), key=len) == [0]


def _report(scheduler: ASHAScheduler, trial: Trial, step: int, loss: float) -> Decision:
    trial.status, trial.step = Status.RUNNING, max(trial.step, step)
    trial.history.append(Report(step, {"loss": loss}))
    said = scheduler.on_report(trial, step, {"loss": loss})
    if said is not Decision.CONTINUE:
        trial.status = Status.PAUSED if said is Decision.PAUSE else Status.STOPPED
        scheduler.on_end(trial)
    return said


def _added(scheduler: ASHAScheduler, count: int) -> list[Trial]:
    trials = [Trial({"x": float(number)}, number=number) for number in range(count)]
    for trial in trials:
        scheduler.on_add(trial)
    return trials


def test_skipped_repeated_and_lower_steps() -> None:
    scheduler = ASHAScheduler(max_epochs=81)
    (trial,) = _added(scheduler, 1)
    assert scheduler.next_decision(trial) == 1
    assert _report(scheduler, trial, 10, 1.0) is Decision.PAUSE  # beyond 1, 3 and 9: it enters 9
    assert scheduler.next_decision(trial) == 27
    trial.status = Status.RUNNING
    for step in (1, 3, 9, 10, 26):  # restarted from the beginning: all that was judged before
        assert scheduler.on_report(trial, step, {"loss": 0.0}) is Decision.CONTINUE
    assert scheduler.on_report(trial, 30, {"loss": 0.0}) is Decision.PAUSE
    assert scheduler.on_report(trial, 200, {"loss": 0.0}) is Decision.STOP


def test_a_report_without_the_metric_waits_for_one_that_has_it() -> None:
    scheduler = ASHAScheduler(max_epochs=9)
    scheduler.setup(_SPACE, [Objective("loss")], 0)
    (trial,) = _added(scheduler, 1)
    assert scheduler.on_report(trial, 1, {"time": 2.0}) is Decision.CONTINUE
    assert scheduler.on_report(trial, 2, {"time": 2.0, "loss": 1.0}) is Decision.PAUSE
    assert scheduler.on_report(trial, 9, {"time": 2.0}) is Decision.STOP


def test_several_metrics_need_a_name() -> None:
    scheduler = ASHAScheduler()
    (trial,) = _added(scheduler, 1)
    with pytest.raises(StrategyError, match="several metrics \\(accuracy, loss\\)"):
        scheduler.on_report(trial, 1, {"loss": 1.0, "accuracy": 0.5})
    assert scheduler.on_report(trial, 1, {"loss": 1.0, "cost": 3.0}) is Decision.PAUSE  # a price is no score


def test_failed_trials_hold_their_place() -> None:
    """Two failures and one result make a rung of three, of which one goes up; a failure never does."""
    scheduler = ASHAScheduler(max_epochs=9)
    trials = _added(scheduler, 6)
    for trial in trials[:2]:
        trial.status = Status.FAILED
        scheduler.on_end(trial)
    assert scheduler.next_trial() is None
    _report(scheduler, trials[2], 1, 5.0)
    assert scheduler.next_trial() is trials[2]
    for trial in trials[3:5]:
        trial.status = Status.FAILED
        scheduler.on_end(trial)
    trials[5].status = Status.FAILED
    scheduler.on_end(trials[5])
    assert scheduler.next_trial() is None


def test_a_trial_that_fails_while_it_pauses_is_worst_there() -> None:
    scheduler = ASHAScheduler(max_epochs=9)
    trials = _added(scheduler, 3)
    assert scheduler.on_report(trials[0], 1, {"loss": 0.0}) is Decision.PAUSE
    trials[0].status = Status.FAILED
    scheduler.on_end(trials[0])
    _report(scheduler, trials[1], 1, 1.0)
    _report(scheduler, trials[2], 1, 2.0)
    assert scheduler.next_trial() is trials[1]
    assert scheduler.next_trial() is None


def test_a_paused_trial_that_the_user_stops_is_not_promoted() -> None:
    scheduler = ASHAScheduler(max_epochs=9)
    trials = _added(scheduler, 6)
    for trial in trials:
        _report(scheduler, trial, 1, float(trial.number))
    trials[0].status = Status.STOPPED
    scheduler.on_end(trials[0])
    assert scheduler.next_trial() is trials[1]
    assert scheduler.next_trial() is None


@pytest.mark.parametrize("rule", ["promotion", "stopping"])
@pytest.mark.parametrize("cut", [1, 40, 150, 400])
def test_restore_goes_on_as_if_nothing_had_happened(rule: Any, cut: int) -> None:
    """The rungs follow from histories and states: both schedulers answer alike from then on."""
    lived = ASHAScheduler(max_epochs=27, brackets=2, rule=rule)
    rng = random.Random(cut)
    trials: list[Trial] = []
    for _ in range(cut):
        _advance(lived, trials, rng)
    restored = ASHAScheduler(max_epochs=27, brackets=2, rule=rule)
    restored.setup(_SPACE, [Objective("loss")], 0)
    restored.restore(list(reversed(trials)))
    for _ in range(100):
        state = rng.getstate()
        trial = lived.next_trial()
        assert restored.next_trial() is trial
        rng.setstate(state)
        if trial is not None:
            trial.status = Status.RUNNING
            continue
        _advance(lived, trials, rng, restored)


def _advance(scheduler: ASHAScheduler, trials: list[Trial], rng: random.Random, *others: ASHAScheduler) -> None:
    """One thing happens: a promotion, a new trial, a report, a failure."""
    running = [trial for trial in trials if trial.status is Status.RUNNING]
    found = None if others else scheduler.next_trial()
    if found is not None:
        found.status = Status.RUNNING
    elif len(running) < 4:
        trials.append(Trial({"x": rng.random()}, number=len(trials), status=Status.RUNNING))
        for each in (scheduler, *others):
            each.on_add(trials[-1])
    else:
        trial = rng.choice(running)
        if rng.random() < 0.03:
            trial.status = Status.FAILED
            for each in (scheduler, *others):
                each.on_end(trial)
            return
        trial.step += 1
        metrics = {"loss": round(trial.params["x"] + rng.gauss(0, 0.1), 2)}
        trial.history.append(Report(trial.step, metrics))
        said = {each.on_report(trial, trial.step, metrics) for each in (scheduler, *others)}
        assert len(said) == 1
        (decision,) = said
        if decision is not Decision.CONTINUE:
            top = trial.step >= 27
            stop = Status.COMPLETED if top else Status.STOPPED
            trial.status = Status.PAUSED if decision is Decision.PAUSE else stop
            trial.score = metrics["loss"]
            for each in (scheduler, *others):
                each.on_end(trial)


# ---- brackets


def test_brackets_take_trials_in_hyperbands_shares() -> None:
    scheduler = AsyncHyperbandScheduler(max_epochs=81)
    trials = [Trial({}, number=number) for number in range(2 * 143)]
    for trial in trials:
        scheduler.on_add(trial)
    firsts = [scheduler.next_decision(trial) for trial in trials]
    assert Counter(firsts) == {1: 162, 3: 68, 9: 30, 27: 16, 81: 10}
    half = Counter(firsts[:143])
    assert half == {1: 81, 3: 34, 9: 15, 27: 8, 81: 5}
    for count in range(1, 143):  # at any time as nearly as whole trials can be
        part = Counter(firsts[:count])
        for level, share in half.items():
            assert abs(part[level] - count * share / 143) <= 1.0 + 1e-9


def test_brackets_do_not_mix() -> None:
    """A trial is ranked among those of its own bracket alone."""
    rehearsal = Rehearsal(ASHAScheduler(27, brackets=4), 60, 5).run()
    firsts = {number: starts for number, starts in rehearsal.starts().items()}
    entered = {
        n: [
            call.detail[0]
            for call in rehearsal.of("report")
            if call.number == n and call.detail[1] is not Decision.CONTINUE
        ]
        for n in firsts
    }
    assert {steps[0] for steps in entered.values()} == {1, 3, 9, 27}
    for steps in entered.values():
        assert steps == [1, 3, 9, 27][[1, 3, 9, 27].index(steps[0]) :][: len(steps)]


# ---- promotion by predicted rank


class _Oracle:
    """A model that knows the end: the later the number, the better."""

    def __init__(self, mode: str = "min", sd: float = 0.0) -> None:
        self.mode, self.sd, self.asked = mode, sd, 0

    def __call__(self, trials: Sequence[Trial], resource: float) -> list[tuple[float, float]]:
        self.asked += 1
        sign = -1 if self.mode == "max" else 1
        return [(sign * -float(trial.number), self.sd) for trial in trials]


def _predicting(oracle: _Oracle | None, **options: Any) -> tuple[ASHAScheduler, list[Trial]]:
    scheduler = ASHAScheduler(9, rank_by="predicted", **options)
    objective = Objective("loss", "max" if oracle is not None and oracle.mode == "max" else "min")
    scheduler.setup(_SPACE, [objective], 0, oracle)
    return scheduler, _added(scheduler, 20)


def test_promotion_follows_the_prediction() -> None:
    scheduler, trials = _predicting(_Oracle())
    for trial in trials:
        _report(scheduler, trial, 1, float(trial.number))  # what they show so far is the other way round
    assert [scheduler.next_trial() for _ in range(7)] == [*trials[:13:-1], None]  # floor(20 / 3) of them


def test_prediction_is_oriented() -> None:
    scheduler, trials = _predicting(_Oracle("max"))
    for trial in trials:
        _report(scheduler, trial, 1, -float(trial.number))
    assert scheduler.next_trial() is trials[19]


def test_no_promotion_by_prediction_before_enough_is_known() -> None:
    scheduler = ASHAScheduler(9, rank_by="predicted")
    scheduler.setup(_SPACE, [Objective("loss")], 0, _Oracle())
    trials = _added(scheduler, 14)
    for trial in trials:
        _report(scheduler, trial, 1, 1.0)
    assert scheduler.next_trial() is None
    scheduler.on_exhausted()  # no others will come
    assert scheduler.next_trial() is trials[13]


def test_no_promotion_of_what_cannot_win_once_two_are_at_the_end() -> None:
    def flat(trials: Sequence[Trial], resource: float) -> list[tuple[float, float]]:
        return [(1.0, 0.001) for _ in trials]

    scheduler = ASHAScheduler(9, rank_by="predicted")
    scheduler.setup(_SPACE, [Objective("loss")], 0, flat)
    trials = _added(scheduler, 20)
    for trial in trials[2:]:
        _report(scheduler, trial, 1, 1.0)
    up = scheduler.next_trial()
    assert up is not None
    up.status = Status.RUNNING
    for trial in trials[:2]:
        assert scheduler.on_report(trial, 9, {"loss": 0.2 + trial.number}) is Decision.STOP
        trial.status = Status.COMPLETED
        scheduler.on_end(trial)
    assert scheduler.next_trial() is None  # predicted at 1.0 +- .001, the best is 0.2


def test_without_a_model_it_goes_by_what_is_seen() -> None:
    scheduler, trials = _predicting(None)
    for trial in trials:
        _report(scheduler, trial, 1, float(trial.number))
    assert scheduler.next_trial() is trials[0]


def test_the_model_is_asked_once_for_each_state() -> None:
    oracle = _Oracle()
    scheduler, trials = _predicting(oracle)
    for trial in trials[:-1]:
        _report(scheduler, trial, 1, 1.0)
    for trial in trials[:12]:  # nobody waits among the first: they are asked for, and not found
        trial.status = Status.STOPPED
    before = oracle.asked
    scheduler.next_trial()
    scheduler.next_trial()
    assert oracle.asked - before <= 2


def test_the_share_promoted_may_differ_from_the_factor_between_levels() -> None:
    scheduler = ASHAScheduler(51, 2, 5, promotion_factor=4)
    trials = _added(scheduler, 8)
    for trial in trials:
        assert scheduler.next_decision(trial) == 5
        _report(scheduler, trial, 5, float(trial.number))
    assert [scheduler.next_trial() for _ in range(3)] == [trials[0], trials[1], None]
    assert scheduler.next_decision(trials[0]) == 10


# ---- arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_epochs": 0}, r"ASHAScheduler\(max_epochs=0\): expected a whole number >= 1"),
        ({"max_epochs": 2.5}, r"max_epochs=2.5"),
        ({"reduction_factor": 1}, r"reduction_factor=1\): expected a number > 1"),
        ({"reduction_factor": math.nan}, r"reduction_factor=nan"),
        ({"reduction_factor": "3"}, r"reduction_factor='3'"),
        ({"grace_period": 200}, r"grace_period=200\): expected at most max_epochs, which is 100"),
        ({"brackets": 9}, r"brackets=9\): expected at most one for each rung; there are 6: 1, 3, 9, 27, 81, 100"),
        ({"rule": "promote"}, r"rule='promote'\): expected one of 'promotion', 'stopping'; did you mean 'promotion'"),
        ({"rank_by": "luck"}, r"rank_by='luck'"),
        ({"rank_by": "predicted", "rule": "stopping"}, r"predicted ranks need rule='promotion'"),
        ({"promotion_factor": 0.5}, r"promotion_factor=0.5"),
    ],
)
def test_arguments_out_of_range(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(StrategyError, match=message):
        ASHAScheduler(**arguments)


def test_the_highest_rung_goes_first_and_the_lower_bracket() -> None:
    scheduler = ASHAScheduler(max_epochs=27)
    trials = _added(scheduler, 9)
    for trial, step in zip(trials, [1, 1, 1, 3, 3, 3, 9, 9, 9], strict=True):
        _report(scheduler, trial, step, float(trial.number))
    ups = [scheduler.next_trial() for _ in range(4)]
    assert ups == [trials[6], trials[3], trials[0], None]

    scheduler = ASHAScheduler(max_epochs=9, brackets=2, reduction_factor=3)
    trials = _added(scheduler, 16)
    firsts = [scheduler.next_decision(trial) for trial in trials]
    for trial in trials:
        _report(scheduler, trial, 3, float(-trial.number))  # those of the first bracket skip their first rung
    bracket = {trial.number: first for trial, first in zip(trials, firsts, strict=True)}
    levels = []
    while (up := scheduler.next_trial()) is not None:
        levels.append(bracket[up.number] or 0)
    assert levels == sorted(levels)
    assert set(levels) == {1, 3}
