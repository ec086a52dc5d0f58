"""The sweep's machine against make-believe worlds that die at every event."""

from __future__ import annotations

import itertools
import math
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sweep_world import Counting, Generations, Halving, Learning, Median, Plan, Population, World, loss

from sweep.errors import StrategyError
from sweep.experiments import events as ev
from sweep.experiments.conductor import Conductor, replay
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
    machine = Machine(max_resource=world.scheduler.max_resource, **{**spec["config"], "enqueue": []})
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

    machine = Machine(max_resource=4)
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
