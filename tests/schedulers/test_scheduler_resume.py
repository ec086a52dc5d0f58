"""Every scheduler in the sweep's machine: killed after any event, it ends as if it had not been."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from sweep_world import Counting, Plan, World

from sweep.experiments import events as ev
from sweep.schedulers import (
    ASHAScheduler,
    AsyncHyperbandScheduler,
    BatchScheduler,
    DistributedScheduler,
    HyperbandScheduler,
    MedianStoppingScheduler,
    PBTScheduler,
    Scheduler,
    SuccessiveHalvingScheduler,
    SynchronousBatchScheduler,
)
from sweep.space import Integer, SearchSpace
from sweep.trial import Budget, Objective, Reason, Status

_SPACE = SearchSpace({"i": Integer(0, 1000)})
_MAKERS: dict[str, Callable[[], Scheduler]] = {
    "batch": BatchScheduler,
    "synchronous batch": lambda: SynchronousBatchScheduler(3),
    "asha": lambda: ASHAScheduler(4, 2),
    "asha stopping": lambda: ASHAScheduler(4, 2, rule="stopping"),
    "async hyperband": lambda: AsyncHyperbandScheduler(4, 2),
    "halving": lambda: SuccessiveHalvingScheduler(4, 2),
    "hyperband": lambda: HyperbandScheduler(4, 2),
    "median": lambda: MedianStoppingScheduler(min_samples=2),
    "pbt": lambda: PBTScheduler(4, 4, quantile=0.5),
    "distributed": lambda: DistributedScheduler(HyperbandScheduler(4, 2), "process"),
}


def _world(name: str, journal: list[ev.Event], plan: Plan | None = None, **more: Any) -> World:
    scheduler = _MAKERS[name]()
    scheduler.setup(_SPACE, [Objective("loss")], 5)
    budget = Budget(trials=scheduler.n_trials or 9)
    config = {"seed": 7, "objectives": [Objective("loss")]}
    return World(journal, Counting(), scheduler, plan or Plan(steps=6), budget, config=config, **more).run()


@pytest.mark.parametrize("name", _MAKERS)
def test_killed_after_any_event_it_ends_as_if_it_had_not_been(name: str) -> None:
    journal: list[ev.Event] = []
    whole = _world(name, journal)
    assert whole.finish is not None
    for cut in range(1, len(journal)):
        again = _world(name, journal[:cut])
        assert again.differences == []
        assert again.result() == whole.result(), f"killed after {cut} events: {journal[cut - 1]}"


@pytest.mark.parametrize("name", list(_MAKERS))
@pytest.mark.parametrize("seed", range(3))
def test_with_workers_failures_and_many_kills_nothing_is_lost_or_open(name: str, seed: int) -> None:
    dice = random.Random(seed)
    journal: list[ev.Event] = []
    plan = Plan(steps=6, fails=lambda params: (1 + params["i"] % 3, 9 if params["i"] % 4 == 3 else 0))
    for _ in range(200):
        more: dict[str, Any] = {
            "workers": 3,
            "order": random.Random(dice.random()),
            "stop_at": len(journal) + dice.randint(5, 40),
        }
        world = _world(name, journal, plan, **more)
        if world.finish is not None and world.machine.finished is not None:
            break
    trials = world.machine.trials
    assert all(trial.status.ended for trial in trials)
    assert sum(trial.source == "optimizer" for trial in trials) == (_MAKERS[name]().n_trials or 9)
    best = world.machine.standing.best
    assert best is not None
    assert best.status in (Status.COMPLETED, Status.STOPPED)


def test_the_ways_a_trial_ends_are_told_apart() -> None:
    halved = Counter(trial.reason for trial in _world("halving", []).machine.trials)
    assert halved == {Reason.UNPROMOTED: 3, Reason.COMPLETED: 1}
    stopped = Counter(trial.reason for trial in _world("asha stopping", []).machine.trials)
    assert set(stopped) == {Reason.PRUNED, Reason.COMPLETED}
    bred = Counter(trial.reason for trial in _world("pbt", []).machine.trials)
    assert bred == {Reason.EXPLOITED: 6, Reason.COMPLETED: 4}
