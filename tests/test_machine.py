"""The sweep's machine against make-believe worlds that die at every event."""

from __future__ import annotations

import math
import random
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sweep_world import Counting, Generations, Halving, Learning, Median, Plan, Population, World, loss

from sweep.errors import StrategyError
from sweep.experiments import events as ev
from sweep.experiments.conductor import Conductor, replay
from sweep.experiments.ledger import Rules
from sweep.experiments.machine import Machine, budget_for
from sweep.experiments.standing import values_of
from sweep.schedulers import ASHAScheduler, BatchScheduler
from sweep.trial import Budget, Decision, Objective, Reason, Status, Trial

settings.register_profile("machine", deadline=None)
settings.load_profile("machine")

SCHEDULERS = {
    "batch": BatchScheduler,
    "asha": lambda: ASHAScheduler(max_epochs=4, reduction_factor=2),
    "stopping": lambda: ASHAScheduler(max_epochs=4, reduction_factor=2, rule="stopping"),
    "median": Median,
    "halving": Halving,
    "population": Population,
}
OPTIMIZERS = {"counting": Counting, "learning": Learning, "generations": Generations}
RICH = {ev.Opened, ev.BudgetSet, ev.Imported, ev.Ticked, ev.Drained}
"""Events that may come twice and mean it."""


@st.composite
def worlds(draw: Any) -> dict[str, Any]:
    """A small sweep: its strategies, its faults, its limits."""
    bad, times = draw(st.integers(1, 5)), draw(st.integers(0, 3))
    sparse, start = draw(st.integers(1, 3)), draw(st.booleans())
    return {
        "optimizer": draw(st.sampled_from(sorted(OPTIMIZERS))),
        "scheduler": draw(st.sampled_from(sorted(SCHEDULERS))),
        "plan": Plan(
            fails=lambda params: (1 + params["i"] % 4, times if params["i"] % bad == 0 else 0),
            saves=lambda params, step: (step + params["i"]) % sparse == 0,
            kind=draw(st.sampled_from(["failed", "timeout", "lost"])),
            returns=(lambda params: params["i"] / 7) if start else (lambda params: None),
        ),
        "budget": Budget(trials=draw(st.integers(1, 6))),
        "config": {
            "retries": draw(st.integers(0, 2)),
            "losses": draw(st.integers(0, 2)),
            "repeats": draw(st.sampled_from([1, 1, 2])),
            "seed": 7,
            "enqueue": [{"i": 3}] * draw(st.integers(0, 1)),
        },
    }


def begin(spec: dict[str, Any], journal: list[ev.Event], **more: Any) -> World:
    """Return the world of a fresh process that has worked on ``journal`` until the sweep was over or it died."""
    facts = {**spec, **more, "scheduler": SCHEDULERS[spec["scheduler"]](), "config": dict(spec["config"])}
    if spec["scheduler"] == "population":  # its exploits are trials that the optimizer did not make
        facts["optimizer"] = "counting"
        facts["plan"] = Plan(**{**spec["plan"].__dict__, "saves": lambda params, step: True})
    if facts["optimizer"] != "counting":  # those insist on their own trials
        facts["config"]["enqueue"] = []
    facts["optimizer"] = OPTIMIZERS[facts["optimizer"]]()
    return World(journal, **facts).run()


# ---- dying and going on ----------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(worlds())
def test_a_serial_sweep_that_died_at_any_event_ends_as_if_it_had_not(spec: dict[str, Any]) -> None:
    journal: list[ev.Event] = []
    whole = begin(spec, journal)
    for cut in range(len(journal)):
        again = begin(spec, journal[:cut])
        assert again.differences == []
        assert again.result() == whole.result(), f"died after {cut} events: {journal[max(0, cut - 2) : cut]}"
        assert again.machine.standing.resource == whole.machine.standing.resource
        assert again.machine.finished == whole.machine.finished


@settings(max_examples=40)
@given(worlds(), st.integers(2, 4), st.integers(0, 1000))
def test_a_parallel_sweep_that_keeps_dying_loses_and_repeats_nothing(
    spec: dict[str, Any], workers: int, seed: int
) -> None:
    dice = random.Random(seed)
    journal: list[ev.Event] = []
    for _ in range(200):
        world = begin(
            spec,
            journal,
            workers=workers,
            order=random.Random(dice.random()),
            stop_at=len(journal) + dice.randint(2, 30),
        )
        if world.finish is not None and world.machine.finished is not None:
            break
    check(world, spec)


@settings(max_examples=40)
@given(worlds(), st.integers(1, 3), st.integers(0, 1000))
def test_events_that_come_twice_or_late_change_nothing(spec: dict[str, Any], workers: int, seed: int) -> None:
    dice = random.Random(seed)

    def echo(world: World) -> None:
        event = dice.choice(world.journal)
        if type(event) not in RICH:
            assert world.conductor.submit(event).events == [], event

    plain = begin(spec, [], workers=workers, order=random.Random(seed))
    noisy = begin(spec, [], workers=workers, order=random.Random(seed), noise=echo)
    assert noisy.result() == plain.result()
    for event in [e for e in noisy.journal if type(e) not in RICH]:
        assert noisy.machine.fold(event) is None, event


def check(world: World, spec: dict[str, Any]) -> None:
    """What holds for every sweep that has come to its end."""
    machine, journal = world.machine, world.journal
    trials = machine.trials
    counted = [trial for trial in trials if trial.source != "scheduler"]
    if spec["optimizer"] != "generations" and machine.finished.status != "failed":
        assert len(counted) == spec["budget"].trials
    assert all(trial.status.ended for trial in trials)
    assert machine.running == []
    own = [trial.params["i"] for trial in trials if trial.source == "optimizer"]
    if isinstance(world.optimizer, Counting):
        assert own == list(range(len(own))), "each suggestion once"
    assert machine.standing.counts == {status: sum(t.status is status for t in trials) for status in Status}
    assert machine.standing.cost == pytest.approx(sum(trial.cost for trial in trials))
    for trial in trials:
        steps = [report.step for report in trial.history]
        assert steps == sorted(set(steps)), "no report twice"
        if trial.status is Status.COMPLETED and (trial.start_from is None or spec["config"]["repeats"] == 1):
            first = steps[0] - 1
            assert steps == list(range(first + 1, spec["plan"].steps + 1)), "no report lost"
            assert first == (0 if trial.start_from is None else 2)
    attempts: dict[tuple[int, int], int] = {}
    for event in journal:
        if isinstance(event, ev.Started):
            place = event.number, event.run
            assert event.attempt == attempts.get(place, 0) + 1
            attempts[place] = event.attempt
    assert sum(trial.attempts for trial in trials) == sum(attempts.values())


@settings(max_examples=30)
@given(worlds(), st.integers(1, 3), st.integers(0, 1000), st.floats(0, 1))
def test_a_two_method_optimizer_gets_its_calls_again_in_order(
    spec: dict[str, Any], workers: int, seed: int, share: float
) -> None:
    spec = {**spec, "optimizer": "learning", "scheduler": "halving" if seed % 2 else "batch"}
    journal: list[ev.Event] = []
    world = begin(spec, journal, workers=workers, order=random.Random(seed))
    calls = world.optimizer.calls
    fresh = Learning()
    machine = Machine(Rules(**{"max_resource": world.scheduler.max_resource, **spec["config"], "enqueue": ()}))
    kept = journal[: int(len(journal) * share)]
    assert replay(machine, kept, optimizer=fresh) == []
    suggests = sum(isinstance(event, ev.Suggested) for event in kept)
    assert sum(call[0] == "suggest" for call in fresh.calls) == suggests
    told = [call for call in fresh.calls if call[0] == "observe"]
    assert told == [call for call in calls if call[0] == "observe"][: len(told)]
    last = max((i for i, call in enumerate(fresh.calls) if call[0] == "suggest"), default=-1)
    assert fresh.calls[: last + 1] == calls[: last + 1], "also how calls interleave"


def test_a_strategy_that_now_answers_otherwise_is_overruled_and_named() -> None:
    spec = {"optimizer": "learning", "scheduler": "halving", "budget": Budget(trials=4), "config": {}}
    journal: list[ev.Event] = []
    whole = begin(spec, journal)

    class Changed(Learning):
        def suggest(self, n: int) -> list[Trial]:
            return [Trial({"i": -1}) for _ in range(n)]

        def observe(self, trial: Trial, result: Any) -> None:
            pass

    class Lenient(Halving):
        def on_report(self, trial: Trial, step: int, metrics: Any) -> Decision:
            super().on_report(trial, step, metrics)
            return Decision.CONTINUE

        def next_trial(self) -> Trial | None:
            return None

    machine = Machine(Rules(max_resource=4))
    lines = replay(machine, journal, optimizer=Changed(), scheduler=Lenient())
    assert [trial.params for trial in machine.trials] == [trial.params for trial in whole.machine.trials]
    assert any(line.startswith("suggest(1) gave [{'i'") for line in lines)
    assert "trial 0 was told PAUSE at step 1, now on_report gives CONTINUE" in lines
    assert any(line.startswith("next_trial resumed trial") for line in lines)


# ---- accounting, against a model that is too simple to be wrong ------------------------------------------------------


@settings(max_examples=60)
@given(
    fails=st.lists(st.tuples(st.integers(1, 5), st.integers(0, 4)), min_size=1, max_size=12),
    retries=st.integers(0, 3),
    tolerated=st.none() | st.integers(0, 3),
    kind=st.sampled_from(["failed", "timeout", "lost"]),
)
def test_retries_failures_and_resources_are_counted_as_by_hand(
    fails: list[tuple[int, int]], retries: int, tolerated: int | None, kind: Any
) -> None:
    plan = Plan(steps=4, fails=lambda params: fails[params["i"]], kind=kind)
    config = {"retries": retries, "losses": retries, "max_failures": tolerated}
    world = World([], Counting(), BatchScheduler(), plan, Budget(trials=len(fails)), config=config).run()

    expected, attempts, resource, failed, good = [], [], 0, 0, 0
    for step, times in fails:
        dies = times > retries
        attempts.append(1 + min(times, retries))
        expected.append(Status.FAILED if dies else Status.COMPLETED)
        resource += step - 1 if dies else 4  # a step that is run again after a checkpoint counts once
        failed, good = failed + dies, good + (not dies)
        if dies and ((tolerated is not None and failed > tolerated) or (failed >= 5 and not good)):
            break
    trials = world.machine.trials
    assert [trial.status for trial in trials] == expected
    assert [trial.attempts for trial in trials] == attempts
    assert world.machine.standing.resource == resource
    assert world.machine.standing.failed == failed
    over = len(expected) < len(fails) or (tolerated is not None and failed > tolerated) or not good
    assert world.machine.finished.status == ("failed" if over else "completed")


@pytest.mark.parametrize(
    "budget", [Budget(cost=5), Budget(resource=9), Budget(trials=7), Budget(trials=2, resource=99)]
)
@pytest.mark.parametrize("workers", [1, 3])
def test_a_budget_ends_the_sweep(budget: Budget, workers: int) -> None:
    world = World([], Counting(), BatchScheduler(), Plan(steps=4), budget, workers, random.Random(2)).run()
    standing = world.machine.standing
    if budget.cost:
        assert 5 <= standing.cost < 5 + workers
    elif budget.resource == 9:
        assert standing.resource == 9
        cut = [trial for trial in world.machine.trials if trial.reason is Reason.BUDGET and trial.history]
        assert cut
        assert all(trial.score == trial.history[-1].metrics["loss"] for trial in cut)
    else:
        assert standing.counts[Status.COMPLETED] == budget.trials == len(world.machine.trials)


# ---- one rule at a time ----------------------------------------------------------------------------------------------


def opened(workers: int = 1, budget: Budget | None = None, scheduler: Any = None, **config: Any) -> Conductor:
    """Return a conductor whose sweep is open and awake."""
    scheduler = scheduler if scheduler is not None else BatchScheduler()
    machine = Machine(Rules(**{"max_resource": scheduler.max_resource, **config}))
    machine.apply([ev.Opened(0.0, workers), ev.BudgetSet.of(budget or Budget(trials=10))])
    conductor = Conductor(machine, scheduler, lambda: 0.0)
    conductor.first = conductor.wake()  # type: ignore[attr-defined]  # for the tests
    return conductor


def started(conductor: Conductor, *params: dict[str, Any]) -> list[Trial]:
    """Answer the open question with these params and return the trials."""
    [ask] = [effect for effect in conductor.first.effects if isinstance(effect, ev.Ask)]  # type: ignore[attr-defined]
    conductor.first = conductor.suggested(ask, [Trial(each) for each in params])  # type: ignore[attr-defined]
    return conductor.machine.trials


def finish(conductor: Conductor, number: int, value: Any = None, kind: ev.Kind = "completed", **more: Any) -> Any:
    attempt = conductor.machine.trials[number].attempts
    return conductor.ended(ev.Ended(number, attempt, kind, value, **more))


@pytest.mark.parametrize(
    ("objectives", "value", "metrics", "expected"),
    [
        ([Objective("loss")], None, {"loss": 0.5, "accuracy": 0.9}, (0.5,)),
        ([Objective("loss")], 0.25, {"loss": 0.5}, (0.25,)),
        ([Objective("loss")], {"loss": 0.1}, {"loss": 0.5}, (0.1,)),
        ([Objective("loss")], {"accuracy": 0.9}, {"loss": 0.5}, (0.5,)),
        ([Objective()], 3, {"loss": 0.5, "accuracy": 0.9}, (3.0,)),
        ([Objective()], None, {"loss": 0.5, "cost": 7.0}, (0.5,)),
        ([Objective()], {"loss": 2.0, "cost": 7.0}, {"a": 1.0, "b": 2.0}, (2.0,)),
        ([Objective("a"), Objective("b", "max")], [1, 2], {}, (1.0, 2.0)),
        ([Objective("a"), Objective("b", "max")], {"b": 2, "a": 1}, {}, (1.0, 2.0)),
        ([Objective("loss")], None, {"los": 0.5}, "no metric 'loss'; did you mean 'los'?; there are: 'los'"),
        ([Objective("loss")], None, {}, "no metric 'loss'; it reported and returned nothing"),
        ([Objective()], None, {}, "the trial has no score: it returned no number and reported no metric"),
        ([Objective()], None, {"a": 1.0, "b": 2.0}, "There are 'a', 'b'; name one: metric='a'"),
        ([Objective("a"), Objective("b")], 1.0, {}, "returned 1 number for 2 objectives ('a', 'b')"),
    ],
)
def test_what_the_score_is(objectives: Any, value: Any, metrics: Any, expected: Any) -> None:
    if isinstance(expected, str):
        with pytest.raises(ValueError, match=r"trial|metric") as caught:
            values_of(objectives, value, metrics)
        assert expected in str(caught.value)
    else:
        assert values_of(objectives, value, metrics) == expected


def test_a_trial_without_a_score_fails_and_says_why() -> None:
    conductor = opened(objectives=[Objective("val_loss")])
    [trial] = started(conductor, {})
    conductor.report(0, 1, 1, {"loss": 0.5})
    step = finish(conductor, 0)
    assert (trial.status, trial.reason) == (Status.FAILED, Reason.ERROR)
    assert "no metric 'val_loss'" in trial.error
    [told] = [effect for effect in step.effects if isinstance(effect, ev.Observe)]
    assert math.isnan(told.result)
    assert told.result.failure == trial.error


@pytest.mark.parametrize("mode", ["min", "max"])
def test_nan_and_infinity_never_win_and_ties_go_to_the_lower_number(mode: Any) -> None:
    conductor = opened(5, objectives=[Objective("x", mode)])
    trials = started(conductor, *[{}] * 5)
    for number, value in ((4, math.nan), (3, math.inf), (2, -math.inf), (1, 0.5), (0, 0.5)):
        finish(conductor, number, value)
        best = conductor.machine.standing.best
        assert best is (None if number > 1 else trials[number])
    assert all(trial.status is Status.COMPLETED for trial in trials)
    assert trials[0].score == 0.5


def test_the_best_is_found_at_the_highest_resource_and_falls_back_when_it_fails() -> None:
    conductor = opened(3, Budget(trials=3), Halving())
    trials = started(conductor, {}, {}, {})
    standing = conductor.machine.standing
    for number, metric in ((0, 0.1), (1, 0.2), (2, 0.3)):
        conductor.report(number, 1, 1, {"loss": metric})
    finish(conductor, 0, kind="paused")
    assert standing.best is trials[0]
    finish(conductor, 1, kind="paused")  # two of three paused: 0 goes up
    assert trials[0].status is Status.RUNNING
    conductor.report(0, 2, 2, {"loss": 0.9})
    finish(conductor, 0, kind="paused")
    assert standing.best is trials[0], "worse, but at step 2"
    finish(conductor, 2, kind="failed")
    assert trials[2].status is Status.PAUSED, "the decision stands, however the attempt ends"
    assert trials[0].status is Status.RUNNING, "nobody else came to step 2: it goes on"
    finish(conductor, 0, kind="failed", error="boom")
    assert trials[0].status is Status.FAILED
    assert standing.best is trials[1]


def test_several_objectives_have_a_front() -> None:
    conductor = opened(6, objectives=[Objective("a"), Objective("b", "max")])
    started(conductor, *[{}] * 6)
    for number, pair in enumerate([(1, 1), (2, 2), (3, 2), (0, math.nan), (1, 1), (3, 3)]):
        finish(conductor, number, list(pair))
    standing = conductor.machine.standing
    assert [trial.number for trial in standing.pareto_front()] == [0, 1, 4, 5]
    assert standing.best.number == 0, "3 has a NaN"
    assert standing.trials[1].values == (2.0, 2.0)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=12))
def test_the_front_is_what_brute_force_finds(points: list[tuple[int, int, int]]) -> None:
    conductor = opened(
        len(points), Budget(trials=12), objectives=[Objective("a"), Objective("b", "max"), Objective("c")]
    )
    started(conductor, *[{}] * len(points))
    for number, point in enumerate(points):
        finish(conductor, number, list(point))

    def beats(p: tuple[int, int, int], q: tuple[int, int, int]) -> bool:
        return p != q and p[0] <= q[0] and p[1] >= q[1] and p[2] <= q[2]

    front = [i for i, q in enumerate(points) if not any(beats(p, q) for p in points)]
    assert [trial.number for trial in conductor.machine.standing.pareto_front()] == front


def test_an_attempt_goes_on_from_its_checkpoint_and_old_reports_are_answered_from_the_journal() -> None:
    conductor = opened(retries=1)
    [trial] = started(conductor, {})
    for step in (1, 2, 3):
        if step != 3:
            conductor.save(0, 1, f"blob{step}")
        conductor.report(0, 1, step, {"loss": 1 / step})
    conductor.save(0, 1, "blob4")  # its report never comes
    [start] = [e for e in finish(conductor, 0, kind="failed", error="boom").effects if isinstance(e, ev.Start)]
    assert (start.attempt, start.step, start.checkpoint) == (2, 2, "blob2")
    again = conductor.report(0, 2, 3, {"loss": 99.0})
    assert (again.events, again.answer) == ([], Decision.CONTINUE)
    assert [report.metrics["loss"] for report in trial.history] == [1, 0.5, 1 / 3]
    assert conductor.report(0, 1, 4, {"loss": 0.0}).answer is Decision.STOP, "the first attempt is dead"
    assert len(conductor.report(0, 2, 4, {"loss": 0.25}).events) == 1
    assert trial.attempts == 2
    assert conductor.machine.standing.resource == 4


def test_checkpoints_without_reports_count_too() -> None:
    conductor = opened(retries=2)
    started(conductor, {})
    conductor.save(0, 1, "one")
    conductor.save(0, 1, "two")
    [start] = [e for e in finish(conductor, 0, kind="failed").effects if isinstance(e, ev.Start)]
    assert start.checkpoint == "one", "the last one may be ahead of a report that was to come"
    conductor.save(0, 2, "three")
    finish(conductor, 0, 1.0)
    assert conductor.machine.checkpoint(0) == (0, "three")


def test_interrupted_attempts_cost_no_retry_and_lost_ones_have_their_own_count() -> None:
    conductor = opened(retries=0, losses=1)
    [trial] = started(conductor, {})
    for kind in ("interrupted", "interrupted", "lost"):
        assert any(isinstance(e, ev.Start) for e in finish(conductor, 0, kind=kind).effects)
    finish(conductor, 0, kind="lost", error="host gone")
    assert (trial.status, trial.reason, trial.attempts) == (Status.FAILED, Reason.LOST, 4)

    conductor = opened(retries=1, losses=1)
    [trial] = started(conductor, {})
    for kind in ("lost", "timeout"):
        finish(conductor, 0, kind=kind)
        assert trial.status is Status.RUNNING
    finish(conductor, 0, kind="timeout")
    assert (trial.status, trial.reason, trial.attempts) == (Status.FAILED, Reason.TIMEOUT, 3)


def test_steps_may_be_skipped_but_not_repeated() -> None:
    conductor = opened()
    [trial] = started(conductor, {})
    for step in (0, 5, 5, 3, 9):
        assert conductor.report(0, 1, step, {"loss": float(step)}).answer is Decision.CONTINUE
    assert [report.step for report in trial.history] == [0, 5, 9]
    assert conductor.machine.standing.resource == 9
    assert trial.metrics == {"loss": 9.0}


def test_one_bad_trial_never_ends_the_sweep_but_all_of_the_first_do() -> None:
    conductor = opened(7)
    trials = started(conductor, *[{}] * 7)
    for number in range(6):
        assert conductor.machine.finished is None
        finish(conductor, number, kind="failed", error=f"boom {number}")
    assert conductor.machine.finished is None, "max(5, workers) is 7"
    step = finish(conductor, 6, kind="failed", error="boom 6")
    [end] = [e for e in step.effects if isinstance(e, ev.Finish)]
    assert (end.status, end.reason) == (Status.FAILED, Reason.ERROR)
    assert end.text == "all of the first 7 trials failed; the last one, trial 6: boom 6"
    assert all(trial.status is Status.FAILED for trial in trials)


def test_tolerated_failures_are_tolerated() -> None:
    conductor = opened(3, max_failures=1)
    trials = started(conductor, {}, {}, {})
    assert [type(e) for e in finish(conductor, 1, kind="failed").effects] == [ev.Observe, ev.Ask]
    assert ev.Cancel in [type(e) for e in finish(conductor, 0, kind="failed").effects]
    assert trials[2].status is Status.RUNNING


def test_too_many_failures_cut_what_runs() -> None:
    conductor = opened(3, max_failures=0)
    trials = started(conductor, {}, {}, {})
    conductor.report(2, 1, 1, {"loss": 0.5})
    step = finish(conductor, 1, kind="failed", error="boom")
    assert [(e.number, e.reason) for e in step.effects if isinstance(e, ev.Cancel)] == [
        (0, Reason.PARENT),
        (2, Reason.PARENT),
    ]
    finish(conductor, 0, kind="stopped")
    assert conductor.report(2, 1, 2, {"loss": 0.5}).answer is Decision.STOP
    finish(conductor, 2, kind="stopped")
    assert [trial.status for trial in trials] == [Status.ABORTED, Status.FAILED, Status.ABORTED]
    assert trials[2].score == 0.5
    assert conductor.machine.finished.status == "failed"


def test_the_user_stops_a_trial_that_runs_waits_or_rests() -> None:
    class Crowd(Halving):
        def room(self, free: int) -> int:
            return 3

    conductor = opened(1, Budget(trials=3), Crowd())
    running, pending, resting = trials = started(conductor, {}, {}, {})
    step = conductor.submit(ev.StopRequested(1))
    assert (pending.status, pending.reason) == (Status.STOPPED, Reason.USER)
    assert [type(e) for e in step.effects] == [ev.Observe]
    assert [e.reason for e in conductor.submit(ev.StopRequested(0)).effects] == [Reason.USER]
    assert conductor.submit(ev.StopRequested(0)).events == []
    finish(conductor, 0, kind="stopped")
    assert (running.status, running.reason) == (Status.STOPPED, Reason.USER)
    conductor.report(2, 1, 1, {"loss": 0.5})
    conductor.submit(ev.StopRequested(2))
    finish(conductor, 2, kind="paused")
    assert (resting.status, resting.reason) == (Status.STOPPED, Reason.USER)
    assert conductor.machine.finished.status == "completed"
    assert len(trials) == 3


def test_a_paused_trial_that_the_user_stops_is_not_observed_again() -> None:
    ends: list[tuple[int, str]] = []

    class Noting(Halving):
        def on_end(self, trial: Trial) -> None:
            ends.append((trial.number, str(trial.status)))

    conductor = opened(2, Budget(trials=2), Noting())
    started(conductor, {}, {})
    conductor.report(0, 1, 1, {"loss": 0.5})
    finish(conductor, 0, kind="paused")
    step = conductor.submit(ev.StopRequested(0))
    assert [effect for effect in step.effects if isinstance(effect, ev.Observe)] == []
    assert ends == [(0, "paused"), (0, "stopped")]
    assert conductor.machine.trials[0].score == 0.5


def test_a_suggestion_that_comes_when_the_sweep_winds_down_is_dropped() -> None:
    conductor = opened(2)
    [ask] = conductor.first.effects  # type: ignore[attr-defined]
    conductor.submit(ev.StopRequested())
    assert conductor.machine.finished is not None
    assert conductor.suggested(ask, [Trial({})]).events == []
    assert conductor.machine.trials == []


def test_a_start_that_is_on_its_way_has_its_slot() -> None:
    machine = Machine(Rules())
    machine.apply([ev.Opened(0.0, 1), ev.BudgetSet(trials=3)])
    machine.wake()
    [ask] = machine.admit(3)
    machine.fold(ev.Suggested((ev.New(0, {}), ev.New(1, {}), ev.New(2, {})), ask.n, ask.observed))
    assert [effect.trial.number for effect in machine.admit(0)] == [0]
    assert machine.fold(ev.StopRequested(1))[-1] == ev.Settled(machine.trials[1])
    assert machine.admit(0) == []
    assert machine.fold(ev.Started(0, 2)) is None
    assert machine.fold(ev.Started(0, 1)) == []
    assert [type(effect) for effect in machine.fold(ev.Ended(0, 1, "completed", 1.0))][-1] is ev.Place


def test_generations_wait_for_each_other() -> None:
    for workers in (1, 3):
        world = World(
            [], Generations(), BatchScheduler(), Plan(), Budget(trials=9), workers, random.Random(workers)
        ).run()
        assert len(world.machine.trials) == 4
        asks = [call for call in world.optimizer.calls if call[0] == "suggest" and call[2]]
        assert sum(len(call[2]) for call in asks) == 4


def test_the_scheduler_is_told_each_time_that_nobody_will_come() -> None:
    class OneAtATime(Halving):
        def next_trial(self) -> Trial | None:
            if self.drained > len(self.up):
                rested = [trial for trial in self.known.values() if trial.status is Status.PAUSED]
                self.up.add((len(self.up), 0))
                return rested[0] if rested else None
            return None

    world = World([], Counting(), OneAtATime(), Plan(), Budget(trials=2)).run()
    assert [trial.status for trial in world.machine.trials] == [Status.COMPLETED] * 2
    assert world.scheduler.drained == 4


def test_the_user_stops_the_sweep() -> None:
    conductor = opened(2)
    trials = started(conductor, {}, {})
    step = conductor.submit(ev.StopRequested())
    assert len(step.effects) == 2
    finish(conductor, 0, 1.0)
    finish(conductor, 1, kind="stopped")
    assert [trial.reason for trial in trials] == [Reason.COMPLETED, Reason.USER]
    assert (conductor.machine.finished.status, conductor.machine.finished.reason) == ("stopped", "user")


def test_seconds_are_summed_over_resumes_and_a_larger_budget_goes_on() -> None:
    journal: list[ev.Event] = [ev.Opened(0.0), ev.BudgetSet(seconds=10), ev.Ticked(6), ev.Opened(50.0)]
    machine = Machine(Rules())
    machine.apply(journal)
    assert machine.seconds_left == 4
    conductor = Conductor(machine, BatchScheduler(), lambda: 0.0)
    conductor.first = conductor.wake()  # type: ignore[attr-defined]
    [trial] = started(conductor, {"i": 1})
    assert [type(e) for e in conductor.submit(ev.Ticked(4)).effects] == [ev.Cancel]
    finish(conductor, 0, kind="stopped")
    assert (trial.status, trial.reason, trial.score) == (Status.STOPPED, Reason.BUDGET, None)
    assert (machine.finished.status, machine.finished.reason) == ("completed", "budget")
    conductor.submit(ev.Opened(60.0))
    step = conductor.submit(ev.BudgetSet(seconds=20))
    assert machine.finished is None
    assert step.effects == []
    assert [type(e) for e in conductor.wake().effects] == [ev.Ask]


def test_a_finished_sweep_with_a_larger_budget_goes_on_with_those_who_rested() -> None:
    spec = {"optimizer": "counting", "scheduler": "halving", "plan": Plan(), "config": {}}
    journal: list[ev.Event] = []
    small = begin({**spec, "budget": Budget(trials=3)}, journal)
    rested = [trial.number for trial in small.machine.trials if trial.reason is Reason.UNPROMOTED]
    assert rested
    journal.append(ev.BudgetSet(trials=9))
    large = begin({**spec, "budget": Budget(trials=9)}, journal)
    assert len(large.machine.trials) == 9
    assert large.differences == []
    opened_again = next(i for i, event in enumerate(journal[1:], 1) if isinstance(event, ev.Opened))
    gone_on = [event.number for event in journal[opened_again:] if isinstance(event, ev.Started)]
    assert set(gone_on) & set(rested)


def test_enqueued_starts_come_first_and_count() -> None:
    spec = {"optimizer": "counting", "scheduler": "batch", "plan": Plan(), "budget": Budget(trials=3)}
    world = begin({**spec, "config": {"enqueue": [{"i": 50}, {"i": 51}]}}, [], workers=1)
    trials = world.machine.trials
    assert [(trial.params["i"], str(trial.source)) for trial in trials] == [
        (50, "enqueued"),
        (51, "enqueued"),
        (0, "optimizer"),
    ]
    assert trials[0].path == "trial[0]"
    assert len({trial.seed for trial in trials}) == 3


def test_history_of_earlier_sweeps_goes_to_the_optimizer_alone() -> None:
    machine = Machine(Rules())
    old = (ev.Earlier({"i": 1}, (0.5,)), ev.Earlier({"i": 2}, status="failed", error="boom"))
    calls: list[Any] = []

    class Listening(Counting):
        def observe(self, trial: Trial, result: Any) -> None:
            calls.append((trial.params["i"], str(trial.source), result.failure))

    journal = [ev.Opened(0.0), ev.BudgetSet(trials=1), ev.Imported(old)]
    assert [ev.from_data(ev.to_data(event)) for event in journal] == journal
    replay(machine, journal, optimizer=Listening())
    assert calls == [(1, "earlier", None), (2, "earlier", "boom")]
    assert machine.trials == []
    assert machine.standing.best is None
    assert machine.wake() == [ev.Place(1, 1)]
    assert machine.admit(1) == [ev.Ask(1, 2)]


def test_smoke_is_one_trial_and_one_step() -> None:
    config = {"smoke": True, "repeats": 3}
    world = World(
        [], Counting(), Halving(), Plan(), Budget(trials=20), workers=4, order=random.Random(0), config=config
    ).run()
    [trial] = world.machine.trials
    assert (trial.status, trial.step, trial.score) == (Status.COMPLETED, 1, loss({"i": 0}, 1))


def test_repeats_run_at_once_with_seeds_of_their_own_and_count_by_their_mean() -> None:
    conductor = opened(2, Budget(trials=2), repeats=3)
    step = conductor.first  # type: ignore[attr-defined]
    [trial] = started(conductor, {})
    starts = [e for e in conductor.first.effects if isinstance(e, ev.Start)]  # type: ignore[attr-defined]
    assert [e.run for e in starts] == [0, 1], "as slots allow"
    conductor.report(0, 1, 1, {"loss": 1.0}, 0)
    conductor.report(0, 1, 1, {"loss": 2.0}, 1)
    assert trial.history == []
    step = conductor.ended(ev.Ended(0, 1, "completed", 1.0, run=0, cost=2.0))
    starts += [e for e in step.effects if isinstance(e, ev.Start)]
    assert len({e.seed for e in starts}) == 3
    assert starts[0].seed == trial.seed
    conductor.report(0, 1, 1, {"loss": 6.0}, 2)
    assert trial.history[0].metrics == {"loss": 3.0}
    conductor.ended(ev.Ended(0, 1, "completed", 2.0, run=1, cost=2.0))
    assert trial.status is Status.RUNNING
    conductor.ended(ev.Ended(0, 1, "completed", 6.0, run=2, cost=2.0))
    assert (trial.status, trial.score, trial.cost) == (Status.COMPLETED, 3.0, 6.0)


def test_a_repeat_that_fails_takes_its_trial_with_it() -> None:
    conductor = opened(2, Budget(trials=1), repeats=3)
    [trial] = started(conductor, {})
    step = conductor.ended(ev.Ended(0, 1, "failed", run=1, error="boom"))
    assert [(e.run, e.reason) for e in step.effects] == [(0, Reason.ERROR)]
    conductor.ended(ev.Ended(0, 1, "stopped", run=0))
    assert (trial.status, trial.error, trial.attempts) == (Status.FAILED, "boom", 2)


def test_a_stop_at_the_full_resource_completes() -> None:
    class To(BatchScheduler):  # type: ignore[misc]  # final for others
        max_resource = 3

        def should_stop(self, trial: Trial) -> bool:
            return trial.metrics["loss"] > 1 or trial.step >= 3

    conductor = opened(2, scheduler=To())
    full, bad = started(conductor, {}, {})
    for step in (1, 2, 3):
        answer = conductor.report(0, 1, step, {"loss": 0.5}).answer
    assert answer is Decision.STOP
    finish(conductor, 0, kind="stopped")
    assert conductor.report(1, 1, 1, {"loss": 2.0}).events[-1].decision == "stop"
    finish(conductor, 1, kind="stopped")
    assert (full.status, bad.reason) == (Status.COMPLETED, Reason.PRUNED)
    assert conductor.machine.standing.saved() == 2


def test_a_promotion_waits_until_the_attempt_has_unwound() -> None:
    class Eager(Halving):
        def next_trial(self) -> Trial | None:
            trial = self.known[0] if self.known and not self.up else None
            self.up.add((0, 0))
            return trial

    conductor = opened(2, Budget(trials=2), Eager())
    scheduler = conductor.scheduler
    scheduler.up.add((9, 9))
    trials = started(conductor, {}, {})
    conductor.report(0, 1, 1, {"loss": 0.5})
    scheduler.up.clear()
    step = finish(conductor, 1, 1.0)  # a slot is free: the scheduler promotes 0, which still runs
    assert ev.Promoted(0, 1) in step.events
    assert not any(isinstance(e, ev.Start) for e in step.effects)
    assert trials[0].status is Status.RUNNING
    [start] = [e for e in finish(conductor, 0, kind="paused").effects if isinstance(e, ev.Start)]
    assert (start.trial.number, start.attempt) == (0, 2)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda trials: 7, "returned 7; expected a Trial or None"),
        (lambda trials: Trial({}), "without parent"),
        (lambda trials: Trial({}, parent=0, start_from=0), "trial 0, which has no checkpoint"),
        (lambda trials: Trial({}, parent=0), "picked trial 0, which is completed; expected the parent"),
        (lambda trials: trials[0], "picked trial 0, which is completed; expected a paused trial"),
    ],
)
def test_a_scheduler_that_breaks_its_protocol_is_named(answer: Any, message: str) -> None:
    class Bad(BatchScheduler):  # type: ignore[misc]  # final for others
        def next_trial(self) -> Any:
            return answer(conductor.machine.trials) if "conductor" in holder else None

    holder: dict[str, Any] = {}
    conductor = opened(scheduler=Bad())
    started(conductor, {})
    holder["conductor"] = conductor
    with pytest.raises(StrategyError, match=r"next_trial of the scheduler") as caught:
        finish(conductor, 0, 1.0)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (None, "expected a list of Trial"),
        ([{"i": 1}], "expected a list of Trial"),
        ([Trial({}), Trial({})], "returned 2 trials; expected at most 1"),
        ([Trial({}, number=4)], "a trial that the sweep already has"),
    ],
)
def test_an_optimizer_that_breaks_its_protocol_is_named(answer: Any, message: str) -> None:
    conductor = opened()
    [ask] = conductor.first.effects  # type: ignore[attr-defined]
    with pytest.raises(StrategyError, match=r"suggest\(1\) of the optimizer") as caught:
        conductor.suggested(ask, answer)
    assert message in str(caught.value)


def test_the_default_budget_is_said_in_one_line() -> None:
    assert budget_for(5, finite=False, n_trials=None) == (Budget(trials=5), "")
    assert budget_for(Budget(seconds=3), finite=True, n_trials=9) == (Budget(seconds=3), "")
    assert budget_for(None, finite=True, n_trials=None)[0] == Budget()
    assert budget_for(Budget(), finite=False, n_trials=27)[0] == Budget(trials=27)
    with pytest.raises(ValueError, match="Budget"):
        budget_for(0, finite=False, n_trials=None)


def test_a_finite_optimizer_ends_the_sweep_and_waits_while_something_runs() -> None:
    world = World([], Counting(limit=5), BatchScheduler(), Plan(), Budget(), workers=2, order=random.Random(1)).run()
    assert world.machine.standing.counts[Status.COMPLETED] == 5
    assert world.machine.finished.text == "the optimizer has no further suggestion"
    assert world.most_live == 2


def test_a_trial_that_reports_its_own_cost_is_charged_that() -> None:
    conductor = opened(budget=Budget(cost=9))
    [trial] = started(conductor, {})
    conductor.report(0, 1, 1, {"loss": 1.0, "cost": 4.0})
    assert conductor.machine.standing.cost == 4
    assert conductor.report(0, 1, 2, {"loss": 1.0, "cost": 9.5}).answer is Decision.STOP
    finish(conductor, 0, kind="stopped", cost=123.0)
    assert (trial.cost, trial.reason) == (9.5, Reason.BUDGET)


def test_the_work_for_an_event_does_not_grow_with_the_number_of_trials() -> None:
    def lines(trials: int) -> float:
        count = 0

        def trace(frame: Any, kind: str, arg: Any) -> Any:
            nonlocal count
            if "/sweep/experiments/" not in frame.f_code.co_filename:
                return None
            count += kind == "line"
            return trace

        world = World([], Counting(), Halving(), Plan(), Budget(trials=trials), workers=3, order=random.Random(1))
        world.commit = lambda events: world.journal.extend(events)  # type: ignore[method-assign]
        world._failures = lambda number, run: 0  # type: ignore[method-assign]
        before = sys.gettrace()
        sys.settrace(trace)
        try:
            world.run()
        finally:
            sys.settrace(before)
        return count / len(world.journal)

    few, many = lines(20), lines(200)
    assert many < 1.1 * few


def test_events_survive_as_plain_data() -> None:
    journal: list[ev.Event] = []
    spec = {"optimizer": "counting", "scheduler": "population", "plan": Plan(), "budget": Budget(trials=4)}
    begin({**spec, "config": {}}, journal)
    kinds = {type(event) for event in journal}
    assert kinds >= {ev.Suggested, ev.Exploited, ev.Promoted, ev.Started, ev.Reported, ev.Saved, ev.Ended, ev.Finished}
    assert [ev.from_data(ev.to_data(event)) for event in journal] == journal
