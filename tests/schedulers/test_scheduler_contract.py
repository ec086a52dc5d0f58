"""Every scheduler passes the contract that users run over their own."""

from __future__ import annotations

from typing import ClassVar

import pytest

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
from sweep.testing.schedulers import Rehearsal, SchedulerContract
from sweep.trial import Trial


class TestBatch(SchedulerContract):
    length: ClassVar[int] = 9

    def make(self) -> Scheduler:
        return BatchScheduler()


class TestSynchronousBatch(SchedulerContract):
    length: ClassVar[int] = 9

    def make(self) -> Scheduler:
        return SynchronousBatchScheduler(7)


class TestASHA(SchedulerContract):
    def make(self) -> Scheduler:
        return ASHAScheduler(max_epochs=27)


class TestASHAStopping(SchedulerContract):
    def make(self) -> Scheduler:
        return ASHAScheduler(max_epochs=27, reduction_factor=2.5, rule="stopping", brackets=2)


class TestAsyncHyperband(SchedulerContract):
    def make(self) -> Scheduler:
        return AsyncHyperbandScheduler(max_epochs=27)


class TestSuccessiveHalving(SchedulerContract):
    def make(self) -> Scheduler:
        return SuccessiveHalvingScheduler(max_epochs=27)


class TestSuccessiveHalvingInRounds(SchedulerContract):
    def make(self) -> Scheduler:
        return SuccessiveHalvingScheduler(max_epochs=9, n=10)


class TestHyperband(SchedulerContract):
    trials: ClassVar[int] = 60

    def make(self) -> Scheduler:
        return HyperbandScheduler(max_epochs=27)


class TestMedianStopping(SchedulerContract):
    length: ClassVar[int] = 20

    def make(self) -> Scheduler:
        return MedianStoppingScheduler(grace_period=3)


class TestPBT(SchedulerContract):
    def make(self) -> Scheduler:
        return PBTScheduler(population_size=10, num_generations=6, interval=4)


class TestPBTThatTheBudgetCutsShort(SchedulerContract):
    def make(self) -> Scheduler:
        return PBTScheduler(population_size=40, num_generations=6, explore_method="resample")


class TestDistributed(SchedulerContract):
    def make(self) -> Scheduler:
        return DistributedScheduler(ASHAScheduler(max_epochs=27), "process")


class _TwoMethods(Scheduler):
    """The custom scheduler of the documentation: two methods are enough."""

    def should_stop(self, trial: Trial) -> bool:
        return trial.metrics.get("loss", 0.0) > 0.9


class TestTwoMethods(SchedulerContract):
    oriented: ClassVar[bool] = False

    def make(self) -> Scheduler:
        return _TwoMethods()


class _Forgetful(Scheduler):
    """Pauses everything and lets nothing go on; says that one more trial would have to end first."""

    def should_stop(self, trial: Trial) -> bool:
        return False

    def room(self, free: int) -> int:
        return 1 if not hasattr(self, "_added") else 0

    def on_add(self, trial: Trial) -> None:
        self._added = True


def test_the_contract_finds_a_deadlock() -> None:
    class Suite(SchedulerContract):
        def make(self) -> Scheduler:
            return _Forgetful()

    with pytest.raises(AssertionError, match="only 1 trials were started"):
        Suite().test_every_trial_comes_to_an_end()


def test_the_contract_finds_a_decision_that_was_not_announced() -> None:
    class Late(Scheduler):
        def should_stop(self, trial: Trial) -> bool:
            return trial.step >= 3

        def next_decision(self, trial: Trial) -> int | None:
            return 5

    with pytest.raises(AssertionError, match="on_report said STOP at step 3; next_decision had said 5"):
        Rehearsal(Late()).run()
