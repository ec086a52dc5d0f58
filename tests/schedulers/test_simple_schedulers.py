"""Batches, the median rule, the distributed wrapper, and the package's face."""

from __future__ import annotations

import statistics
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import sweep.schedulers
from sweep.errors import StrategyError
from sweep.schedulers import (
    ASHAScheduler,
    BatchScheduler,
    DistributedScheduler,
    HyperbandScheduler,
    MedianStoppingScheduler,
    SynchronousBatchScheduler,
)
from sweep.testing.schedulers import Call, Rehearsal
from sweep.trial import Decision, Objective, Resources, Trial


def test_batch_keeps_every_slot_busy() -> None:
    rehearsal = Rehearsal(BatchScheduler(), 20, 4, length=5).run()
    assert {call.detail[1] for call in rehearsal.of("report")} == {Decision.CONTINUE}
    running, low = 0, []
    for call in rehearsal.calls:
        running += {"start": 1, "end": -1}.get(call.what, 0)
        if call.what == "report":
            low.append(running)
    assert set(low[: len(low) * 3 // 4]) == {4}


@pytest.mark.parametrize("slots", [1, 3, 10, 25])
def test_a_batch_is_suggested_whole_and_ends_whole(slots: int) -> None:
    """Ten are added before any of them ends; the next ten when all of them have ended."""
    rehearsal = Rehearsal(SynchronousBatchScheduler(10), 35, slots, length=3).run()
    order = [call.what for call in rehearsal.calls if call.what in ("add", "end")]
    expected = (["add"] * 10 + ["end"] * 10) * 3 + ["add"] * 5 + ["end"] * 5
    assert order == expected


def test_a_batch_is_filled_up_until_its_first_result() -> None:
    scheduler = SynchronousBatchScheduler(5)
    trials = [Trial({}, number=number) for number in range(3)]
    for trial in trials:
        scheduler.on_add(trial)
    assert scheduler.room(8) == 2
    trials[0].status = trials[0].status.FAILED
    scheduler.on_end(trials[0])
    assert scheduler.room(8) == 0
    for trial in trials[1:]:
        trial.status = trial.status.COMPLETED
        scheduler.on_end(trial)
    assert scheduler.room(8) == 5


def test_batch_size_is_checked() -> None:
    with pytest.raises(StrategyError, match=r"SynchronousBatchScheduler\(batch_size=0\): expected a whole number >= 1"):
        SynchronousBatchScheduler(0)


_CURVES = st.lists(st.lists(st.sampled_from([0.0, 1.0, 2.0, 3.0, float("nan")]), min_size=1, max_size=6), max_size=8)


@given(_CURVES, st.integers(1, 4), st.integers(1, 4))
def test_the_median_rule(curves: list[list[float]], grace: int, least: int) -> None:
    """Step by step, against the definition: best so far against the median of the others' running averages."""
    scheduler = MedianStoppingScheduler(grace, least)
    scheduler.setup(None, [Objective("loss")], 0)  # type: ignore[arg-type]  # it needs no space
    bad = float("inf")
    seen: list[list[float]] = [[] for _ in curves]
    stopped: set[int] = set()
    for step in range(1, 7):
        for number, curve in enumerate(curves):
            if step > len(curve) or number in stopped:
                continue
            seen[number].append(curve[step - 1] if curve[step - 1] == curve[step - 1] else bad)
            others = [
                sum(losses[:step]) / step
                for other, losses in enumerate(seen)
                if other != number and len(losses) >= step
            ]
            expected = step >= grace and len(others) >= least and min(seen[number]) > statistics.median(others)
            trial = Trial({}, number=number)
            found = scheduler.on_report(trial, step, {"loss": curve[step - 1]})
            assert found is (Decision.STOP if expected else Decision.CONTINUE)
            if expected:
                stopped.add(number)


def test_the_median_rule_ignores_repeated_steps() -> None:
    scheduler = MedianStoppingScheduler(min_samples=1)
    scheduler.setup(None, [Objective("loss")], 0)  # type: ignore[arg-type]  # it needs no space
    first, second = Trial({}, number=0), Trial({}, number=1)
    scheduler.on_report(first, 2, {"loss": 1.0})
    for step in (2, 1):
        assert scheduler.on_report(first, step, {"loss": 99.0}) is Decision.CONTINUE
    assert scheduler.on_report(second, 2, {"loss": 1.0}) is Decision.CONTINUE
    assert scheduler.on_report(second, 3, {"loss": 99.0}) is Decision.CONTINUE


def test_the_wrapper_decides_as_the_scheduler_it_wraps() -> None:
    def calls(scheduler: Any) -> list[Call]:
        return Rehearsal(scheduler, 60, 5).run().calls

    assert calls(DistributedScheduler(HyperbandScheduler(27), "dask")) == calls(HyperbandScheduler(27))


def test_the_wrapper_offers_what_the_scheduler_offers() -> None:
    class Big(_Plain):
        def allocate_resources(self, trial: Trial) -> Resources | None:
            return Resources(gpus=2)

    wrapped = DistributedScheduler(Big(), "process")
    assert wrapped.allocate_resources(Trial({})) == Resources(gpus=2)
    assert not hasattr(wrapped, "restore")
    asha = DistributedScheduler(ASHAScheduler(50, rank_by="predicted"), "process")
    assert hasattr(asha, "restore")
    assert (asha.max_resource, asha.n_trials, asha.reduction_factor) == (50, None, 3)
    asked: list[int] = []

    def predict(trials: Any, resource: float) -> list[tuple[float, float]]:
        asked.append(len(trials))
        return [(0.0, 0.0) for _ in trials]

    asha.setup(None, [Objective("loss")], 0, predict)  # type: ignore[arg-type]  # it needs no space
    trial = Trial({}, number=0)
    asha.on_add(trial)
    asha.on_report(trial, 1, {"loss": 1.0})
    asha.next_trial()
    assert asked == [1]


class _Plain(sweep.schedulers.Scheduler):
    """A scheduler without anything optional."""

    def should_stop(self, trial: Trial) -> bool:
        return False


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("asha", "process"), r"scheduler='asha'\): expected a Scheduler"),
        ((BatchScheduler(), 7), r"executor=7\): expected an Executor or the name of one"),
    ],
)
def test_the_wrapper_checks_what_it_is_given(arguments: Any, message: str) -> None:
    with pytest.raises(StrategyError, match=message):
        DistributedScheduler(*arguments)


def test_every_name_of_the_package_is_there() -> None:
    assert sorted(sweep.schedulers.__all__) == sweep.schedulers.__all__
    for name in sweep.schedulers.__all__:
        assert getattr(sweep.schedulers, name).__name__ == name
    assert set(sweep.schedulers.__all__) <= set(dir(sweep.schedulers))
    with pytest.raises(AttributeError, match="has no attribute 'ASHAScheduller'; did you mean 'ASHAScheduler'"):
        sweep.schedulers.ASHAScheduller  # noqa: B018  # type: ignore[attr-defined]  # the attribute is the test


def test_the_package_imports_nothing_until_it_is_asked() -> None:
    code = "import sys, sweep.schedulers; print([m for m in sys.modules if m.startswith('sweep.schedulers.')])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # ours
    assert found.stdout.strip() == "[]"
