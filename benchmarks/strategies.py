"""What optimizers and schedulers cost by themselves: a suggestion with its report, at 1,000 and at 10,000 trials.

Where an optimizer wraps a library, the library alone does the same work in the same run.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

from measure import Cost, Row, Watch, have, least, repeated

from sweep import LogUniform, Result, Status, Trial, Uniform
from sweep.optimizers import (
    BayesianOptimizer,
    GridOptimizer,
    NevergradOptimizer,
    OptunaOptimizer,
    ProteinOptimizer,
    RandomOptimizer,
    SobolOptimizer,
)
from sweep.schedulers import (
    ASHAScheduler,
    AsyncHyperbandScheduler,
    HyperbandScheduler,
    MedianStoppingScheduler,
    Scheduler,
    SuccessiveHalvingScheduler,
)
from sweep.space import SearchSpace
from sweep.trial import Decision, Objective, Reason, Report, Source

SPACE = SearchSpace({"x": Uniform(-1, 1), "y": Uniform(0, 1), "lr": LogUniform(1e-4, 1e-1)})
GRID = SearchSpace({"x": Uniform(-1, 1, num=40), "y": Uniform(0, 1, num=40), "z": Uniform(0, 1, num=40)})
ROUND = 20
"""Suggestions with their reports in one round."""


def history(count: int, space: SearchSpace) -> list[Trial]:
    """Finished trials of an earlier session."""
    source = RandomOptimizer()
    source.setup(space, (Objective(),), 1)
    trials = source.suggest(count)
    for number, trial in enumerate(trials):
        trial.number, trial.status, trial.source = number, Status.COMPLETED, Source.OPTIMIZER
        trial.score = math.sin(number * 12.9898)
        trial.values, trial.reason, trial.step = (trial.score,), Reason.COMPLETED, 1
    return trials


def suggestion(make: Callable[[], Any], count: int, space: SearchSpace = SPACE, rounds: int = 3) -> Cost:
    """Return the cost of one ``suggest(1)`` and its ``observe`` with ``count`` trials behind."""
    optimizer = make()
    optimizer.setup(space, (Objective(),), 0)
    optimizer.restore(history(count, space))
    numbers = iter(range(count, count + ROUND * rounds + 1))

    def once() -> None:
        [trial] = optimizer.suggest(1)
        trial.number, trial.status = next(numbers), Status.COMPLETED
        trial.score = math.sin(trial.number * 12.9898)
        optimizer.observe(trial, Result(trial.score, trial=trial, values=(trial.score,)))

    def several() -> Cost:
        watch = Watch()
        for _ in range(ROUND):
            once()
        return watch.read() / ROUND

    once()  # what is built on first use
    return repeated(several, rounds)


def optuna_alone(sampler: str, count: int, rounds: int = 3) -> Cost:
    """Return what Optuna in memory takes for the same with the same sampler."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    kind = optuna.samplers.RandomSampler if sampler == "Random" else optuna.samplers.TPESampler
    study = optuna.create_study(sampler=kind(seed=0))
    low_high = {"x": (-1.0, 1.0, False), "y": (0.0, 1.0, False), "lr": (1e-4, 1e-1, True)}
    kinds = {name: optuna.distributions.FloatDistribution(low, high, log=log) for name, (low, high, log) in low_high.items()}
    study.add_trials(
        optuna.trial.create_trial(params=trial.params, distributions=kinds, value=trial.score)
        for trial in history(count, SPACE)
    )

    def several() -> Cost:
        watch = Watch()
        for number in range(ROUND):
            study.tell(study.ask(kinds), math.sin(number))
        return watch.read() / ROUND

    several()
    return repeated(several, rounds)


def nevergrad_alone(rounds: int = 3) -> Cost:
    """Return what Nevergrad takes for the same, with no trials behind: it keeps none."""
    import nevergrad

    made = nevergrad.optimizers.registry["OnePlusOne"](
        nevergrad.p.Instrumentation(x=nevergrad.p.Scalar(lower=-1, upper=1), y=nevergrad.p.Scalar(lower=0, upper=1),
                                    lr=nevergrad.p.Log(lower=1e-4, upper=1e-1)), budget=10_000,
    )  # fmt: skip

    def several() -> Cost:
        watch = Watch()
        for number in range(ROUND):
            made.tell(made.ask(), math.sin(number))
        return watch.read() / ROUND

    several()
    return repeated(several, rounds)


def suggestion_rows(quick: bool) -> list[Row]:
    """Return the rows about optimizers."""
    few, many, large = (50, 200, 30) if quick else (1_000, 10_000, 100)
    cheap: list[tuple[str, Callable[[], Any], SearchSpace]] = [
        ("Random", RandomOptimizer, SPACE), ("Sobol", SobolOptimizer, SPACE), ("Grid", GridOptimizer, GRID),
    ]  # fmt: skip
    rows = []
    for name, make, space in cheap:
        low, high = suggestion(make, few, space), suggestion(make, many, space)
        grown = high.cpu / low.cpu
        figure = f"suggestion and report, {name}, at {few:,} and {many:,} trials"
        rows.append(Row(figure, f"{low.text()}; {high.text()}", f"{grown:.2f}x", "flat", grown < 2))
    if have("optuna"):
        for sampler, count in (("Random", few), ("Random", many), ("TPE", few)):
            rows.append(optuna_row(sampler, count))
    if have("nevergrad"):
        ours, alone = suggestion(lambda: NevergradOptimizer(optimizer="OnePlusOne"), few), nevergrad_alone()
        figure = f"the same, Nevergrad's OnePlusOne, at {few:,} trials"
        rows.append(Row(figure, ours.text(), f"Nevergrad alone {alone.text()}: {ours.cpu / alone.cpu:.2f}x CPU"))
    for name, model in (("Bayesian", BayesianOptimizer), ("Protein", ProteinOptimizer)):
        cost = suggestion(model, large, rounds=1)
        rows.append(Row(f"the same, {name}, at {large} trials", cost.text("ms"), "its model is its own"))
    return rows


def optuna_row(sampler: str, count: int) -> Row:
    """Return what our wrapper of a sampler costs beside Optuna alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours, alone = suggestion(lambda: OptunaOptimizer(sampler=sampler), count), optuna_alone(sampler, count)
    own = ours.less(alone)
    told = f"Optuna alone, in memory {alone.text()}: {ours.cpu / alone.cpu:.2f}x CPU, own {own.cpu * 1e6:.0f} us"
    return Row(f"the same, Optuna's {sampler}, at {count:,} trials", ours.text(), told)


def decision(scheduler: Scheduler, count: int) -> Cost:
    """Return the cost of a report with what follows it (end, next trial), from 9/10 of ``count`` trials to all of them."""
    scheduler.setup(SPACE, (Objective("loss"),), 0)
    calls, watch, added, begun = 0, Watch(), 0, count * 9 // 10
    while added < count or calls < 1:
        trial = scheduler.next_trial()
        if trial is None:
            if scheduler.room(1) < 1:
                scheduler.on_exhausted()
                trial = scheduler.next_trial()
            if trial is None:
                if added == begun:
                    calls = 0
                    watch.start()
                trial = Trial({"x": 0.0}, number=added)
                added += 1
                scheduler.on_add(trial)
        calls += follow(scheduler, trial)
    return watch.read() / max(1, calls)


def follow(scheduler: Scheduler, trial: Trial) -> int:
    """Report at each rung until the scheduler pauses or stops the trial; return the number of reports."""
    trial.status, calls = Status.RUNNING, 0
    while True:
        step = scheduler.next_decision(trial) or trial.step + 1
        loss = math.sin(trial.number * 12.9898) + 1 / step
        trial.step = step
        trial.metrics["loss"] = loss
        trial.history.append(Report(step, {"loss": loss}))
        decided = scheduler.on_report(trial, step, {"loss": loss})
        calls += 1
        if decided is not Decision.CONTINUE or step >= (scheduler.max_resource or 9):
            trial.status = Status.PAUSED if decided is Decision.PAUSE else Status.COMPLETED
            trial.score, trial.values = loss, (loss,)
            scheduler.on_end(trial)
            return calls


def decision_rows(quick: bool) -> list[Row]:
    """Return the rows about schedulers."""
    few, many = (50, 200) if quick else (1_000, 10_000)
    kinds: list[tuple[str, Callable[[], Scheduler]]] = [
        ("ASHA, promotion", lambda: ASHAScheduler(max_epochs=81)),
        ("ASHA, stopping", lambda: ASHAScheduler(max_epochs=81, rule="stopping")),
        ("AsyncHyperband", lambda: AsyncHyperbandScheduler(max_epochs=81)),
        ("Hyperband", lambda: HyperbandScheduler(max_epochs=81)),
        ("SuccessiveHalving", lambda: SuccessiveHalvingScheduler(max_epochs=81, n=many)),
        ("MedianStopping", MedianStoppingScheduler),
    ]
    rows = []
    for name, make in kinds:
        low, high = (least(decision(make(), count) for _ in range(3)) for count in (few, many))
        figure = f"report, end and next of {name}, at {few:,} and {many:,} trials"
        reached = high.cpu <= 20e-6
        rows.append(Row(figure, f"{low.text()}; {high.text()}", f"{high.cpu / low.cpu:.2f}x", "CPU <= 20 us", reached))
    return rows


def rows(quick: bool) -> list[Row]:
    """Return the rows about strategies by themselves."""
    return [*suggestion_rows(quick), *decision_rows(quick)]
