"""Every optimizer with every scheduler: real sweeps in virtual time, each killed once in the middle and resumed.

Driver, event log and store are the real ones; the process dies at a COMMIT, just before it or just after. How many
workers there are and when it dies is drawn from the names of the pair. What must hold after each death and at the end
is checked by the simulation's world: no finished trial is lost or runs again, no report twice, no trial left open,
as many configurations as the budget says. With one worker the trials are those of a sweep that did not die.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from ax_words import AX
from simulated_objective import Calls
from simulation import NEEDS, OPTIMIZERS, SCHEDULERS, Story, World, outcome

from sweep.errors import ContractError
from sweep.executors.simulated import Faults, SimulatedExecutor
from sweep.experiments.sweep import SweepExperiment
from sweep.optimizers import (
    AxOptimizer,
    BayesianOptimizer,
    NevergradOptimizer,
    OptunaOptimizer,
    ProteinOptimizer,
)
from sweep.schedulers import ASHAScheduler, DistributedScheduler, HyperbandScheduler, PBTScheduler, Scheduler
from sweep.space import Integer, Uniform
from sweep.trial import Trial


class Capped(Scheduler):
    """A user's scheduler of two methods."""

    def should_stop(self, trial: Trial) -> bool:
        return trial.step >= 3 and trial.metrics["loss"] > 0.9


ALL_OPTIMIZERS: dict[str, Callable[[], Any]] = {
    **OPTIMIZERS,
    "tpe": lambda: OptunaOptimizer(n_startup_trials=2),
    "cmaes": lambda: OptunaOptimizer(sampler="CmaEs", popsize=4),
    "bayesian": lambda: BayesianOptimizer(n_initial=4),
    "protein": ProteinOptimizer,
    "nevergrad": lambda: NevergradOptimizer(optimizer="TwoPointsDE"),
    "ax": lambda: AxOptimizer(n_initial=3),
    "pbt": lambda: PBTScheduler(population_size=3, num_generations=4),
}
ALL_SCHEDULERS: dict[str, Callable[[], Scheduler | None]] = {
    **{name: make for name, make in SCHEDULERS.items() if name != "none"},  # which is batch
    "predicted": lambda: ASHAScheduler(max_epochs=4, reduction_factor=2, rank_by="predicted"),
    "distributed": lambda: DistributedScheduler(HyperbandScheduler(max_epochs=4, reduction_factor=2), "inline"),
    "capped": Capped,
}
FINITE = ("grid", "pbt")
UNEQUAL = (
    "protein",
    "ax",
)  # one goes by seconds worked, which a kill makes more; the other's contract shows it, in time
PAIRS = [
    pytest.param(optimizer, scheduler, marks=AX if optimizer == "ax" else (), id=f"{optimizer}-{scheduler}")
    for optimizer in ALL_OPTIMIZERS
    for scheduler in ALL_SCHEDULERS
    if not (optimizer in FINITE and scheduler == "pbt")
]


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWEEP_QUIET", "1")


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """On a busy machine torch's threads wait for each other longer than they work."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class PairStory(Story):
    """Small, healthy but for its one death; some trials fail at their first attempt."""

    def __init__(self, optimizer: str, scheduler: str) -> None:
        super().__init__(zlib.crc32(f"{optimizer} {scheduler}".encode()))
        dice = random.Random(self.seed)
        self.optimizer, self.scheduler = optimizer, scheduler
        self.serial = dice.random() < 0.5
        self.workers = 1 if self.serial else 3
        self.budget, self.repeats, self.retries, self.steps, self.sparse = 4 if optimizer == "ax" else 6, 1, 1, 4, 1
        self.bad, self.times, self.faults, self.jumps = 5, 1, Faults(), False
        self.several = False
        self.kills = [(dice.randint(4, 16), dice.random() < 0.5)]


class Pair(World):
    """The sessions of one pair."""

    def _sweep(self) -> SweepExperiment:
        story = self.story
        executor = SimulatedExecutor(story.workers, _seconds, story.seed)
        return SweepExperiment(
            Calls(self.objective).objective, {"x": Uniform(0, 1, num=3), "i": Integer(0, 2)},
            optimizer=ALL_OPTIMIZERS[story.optimizer](), scheduler=ALL_SCHEDULERS[story.scheduler](), executor=executor,
            name="simulated", seed=story.seed, retries=story.retries, metric="loss",
        )  # fmt: skip


def _seconds(params: Any, step: int) -> float:
    return 1.0 + float(params["i"] % 3)


@pytest.mark.parametrize(("optimizer", "scheduler"), PAIRS)
def test_a_pair_that_is_killed_loses_and_repeats_nothing(optimizer: str, scheduler: str, tmp_path: Path) -> None:
    if optimizer in NEEDS:
        pytest.importorskip(NEEDS[optimizer], exc_type=ImportError)
    world = Pair(PairStory(optimizer, scheduler), tmp_path / "sweep.db")
    result = anyio.run(world.run)
    assert result is not None
    world.check(result)
    assert world.deaths == 1, "it ended before it was to be killed"
    if world.story.serial and optimizer not in UNEQUAL:
        twin = Pair(PairStory(optimizer, scheduler), tmp_path / "twin.db")
        whole = anyio.run(lambda: twin.run(mortal=False))
        assert whole is not None
        assert outcome(result) == outcome(whole)


@pytest.mark.parametrize("optimizer", FINITE)
@pytest.mark.parametrize(
    "wrap", [lambda pbt: pbt, lambda pbt: DistributedScheduler(pbt, "thread")], ids=["bare", "wrapped"]
)
def test_a_population_is_refused_from_a_source_that_ends(optimizer: str, wrap: Any) -> None:
    with pytest.raises(ContractError, match="PBT needs an optimizer that can go on for ever, such as RandomOpt"):
        SweepExperiment(
            lambda x: x, {"x": Uniform(0, 1)}, optimizer=ALL_OPTIMIZERS[optimizer](), scheduler=wrap(PBTScheduler())
        )
