"""What a sweep says of trials that will restart at a pause, and which budgets it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from sweep import Budget, Context, SweepExperiment, Trial, Uniform
from sweep.errors import ContractError
from sweep.optimizers import GridOptimizer, RandomOptimizer
from sweep.schedulers import (
    ASHAScheduler,
    BatchScheduler,
    DistributedScheduler,
    HyperbandScheduler,
    PBTScheduler,
    Scheduler,
    SuccessiveHalvingScheduler,
)
from sweep.trial import Decision

SPACE = {"x": Uniform(0, 1, num=4)}
RESTARTS, PAUSED = "takes no ctx, so it saves no checkpoint", "a trial has paused that had saved no checkpoint"
ASHA = ASHAScheduler(max_epochs=4, reduction_factor=2)


def steps(x: float) -> Iterator[dict[str, float]]:
    """Yield a learning curve; there is no ctx to keep anything with."""
    for step in range(1, 5):
        yield {"loss": x + 1 / step}


def forgetful(x: float, ctx: Context) -> None:
    for step in range(1, 5):
        ctx.report(step, loss=x + 1 / step)


def careful(x: float, ctx: Context) -> None:
    for step in range(ctx.load(0) + 1, 5):
        ctx.save(step)
        ctx.report(step, loss=x + 1 / step)


class Own(Scheduler):
    """A user's, which does not say that it pauses."""

    max_resource = 4

    def __init__(self) -> None:
        self.waiting: list[Trial] = []

    def should_stop(self, trial: Trial) -> bool:
        return False

    def on_report(self, trial: Trial, step: int, metrics: Any) -> Decision:
        return Decision.PAUSE if step == 2 and trial.attempts == 1 else Decision.CONTINUE

    def on_end(self, trial: Trial) -> None:
        if trial.status == "paused":
            self.waiting.append(trial)

    def next_trial(self) -> Trial | None:
        return self.waiting.pop() if self.waiting else None


def _sweep(objective: Any, scheduler: Any, **more: Any) -> SweepExperiment:
    return SweepExperiment(
        objective, SPACE, **{"optimizer": RandomOptimizer(), "scheduler": scheduler, "name": "s", "seed": 1, **more}
    )


@pytest.mark.parametrize("scheduler", [ASHA, HyperbandScheduler(4, 2), PBTScheduler(3, 2), DistributedScheduler(ASHA, "inline")])
def test_an_objective_without_ctx_is_told_at_check_that_it_restarts(
    scheduler: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    _sweep(steps, scheduler).check()
    said = capsys.readouterr().err
    assert said.count(RESTARTS) == 1
    assert "'steps'" in said
    assert type(scheduler).__name__ in said


@pytest.mark.parametrize(
    ("objective", "scheduler"),
    [(careful, ASHA), (forgetful, ASHA), (steps, None), (steps, BatchScheduler()), (steps, ASHAScheduler(rule="stopping"))],
)
def test_nothing_is_said_where_nothing_is_known_to_restart(
    objective: Any, scheduler: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    _sweep(objective, scheduler).check()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("objective", "scheduler", "told", "paused"),
    [
        (steps, ASHA, 1, 0),
        (forgetful, ASHA, 0, 1),
        (careful, ASHA, 0, 0),
        (steps, Own(), 0, 1),
        (forgetful, Own(), 0, 1),
        (careful, Own(), 0, 0),
        (forgetful, BatchScheduler(), 0, 0),
    ],
)
def test_a_run_says_it_once(
    objective: Any, scheduler: Any, told: int, paused: int, capsys: pytest.CaptureFixture[str]
) -> None:
    result = _sweep(objective, scheduler).run(8)
    said = capsys.readouterr().err
    assert (said.count(RESTARTS), said.count(PAUSED)) == (told, paused)
    assert sum(trial.attempts > 1 for trial in result.trials) >= (0 if isinstance(scheduler, BatchScheduler) else 2)


def test_a_promoted_trial_without_a_checkpoint_does_restart() -> None:
    """What is said is what happens: the same steps run again, and are answered from the journal."""
    seen: list[int] = []

    def objective(x: float, ctx: Context) -> None:
        for step in range(1, 5):
            seen.append(step)
            ctx.report(step, loss=x + 1 / step)

    result = _sweep(objective, ASHAScheduler(max_epochs=4, reduction_factor=2)).run(4)
    assert seen.count(1) == sum(trial.attempts for trial in result.trials) > 4
    assert all([report.step for report in trial.history] == list(range(1, trial.step + 1)) for trial in result.trials)


@pytest.mark.parametrize("budget", [3, Budget(trials=3)])
@pytest.mark.parametrize(
    "scheduler",
    [HyperbandScheduler(4, 2), SuccessiveHalvingScheduler(4, 2), DistributedScheduler(HyperbandScheduler(4, 2), "inline")],
)
def test_a_budget_below_the_first_bracket_is_refused_when_run_begins(budget: Any, scheduler: Any) -> None:
    ran: list[float] = []
    sweep = _sweep(lambda x: ran.append(x), scheduler)
    with pytest.raises(ContractError, match=r"budget=3: .* begins with a bracket of 4 trials from step 1"):
        sweep.run(budget)
    assert not ran
    assert len(_sweep(careful, HyperbandScheduler(4, 2)).run(4).trials) == 4


def test_a_budget_below_the_population_is_refused_when_run_begins() -> None:
    with pytest.raises(ContractError, match=r"budget=3: PBT begins with a population of 4 trials"):
        _sweep(careful, PBTScheduler(4, 2)).run(3)


def test_budgets_that_no_bracket_speaks_against() -> None:
    """One in seconds, a smoke run, and a grid that is smaller than the bracket."""
    assert len(_sweep(careful, HyperbandScheduler(4, 2)).run(Budget(cost=1e-9)).trials) >= 1
    assert len(_sweep(careful, HyperbandScheduler(9, 3), name="smoke").run(1, smoke=True).trials) == 1
    grid = _sweep(careful, HyperbandScheduler(9, 3), optimizer=GridOptimizer(), name="grid").run()
    assert len(grid.trials) == 4
