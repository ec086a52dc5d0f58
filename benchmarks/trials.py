"""What a trial, a report and a resume of a sweep cost, beside Optuna and a bare asyncio loop."""

from __future__ import annotations

import asyncio
import math
import sqlite3
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import anyio
from measure import Cost, Row, Watch, cost_of, have, least, repeated, times

from sweep import Context, Experiment, Pipeline, SweepExperiment, Trial, Uniform
from sweep.executors import SimulatedExecutor
from sweep.optimizers import OptunaOptimizer, RandomOptimizer
from sweep.schedulers import ASHAScheduler

SPACE = {"x": Uniform(-1.0, 1.0)}


def square(x: float) -> float:
    return x * x


async def awaited_square(x: float) -> float:
    return x * x


def trivial(place: Path, name: str, objective: Any = square) -> SweepExperiment:
    return SweepExperiment(objective, SPACE, optimizer=RandomOptimizer(), name=name, store=place / f"{name}.db", seed=0)


def trial_cost(place: Path, count: int, rounds: int, objective: Any = square) -> tuple[Cost, int]:
    """Return the cost of one trial of a sweep of ``count``, start and end included, and the bytes of its store."""
    label = getattr(objective, "__name__", "")
    names = iter(f"{label}{count}-{number}" for number in range(rounds))
    found = repeated(lambda: cost_of(lambda: trivial(place, next(names), objective).run(count)), rounds)
    return found / count, (place / f"{label}{count}-0.db").stat().st_size


def optuna_cost(storage: Any, count: int) -> Cost:
    """Return the cost of one trial of Optuna with its random sampler."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study = optuna.create_study(storage=storage, sampler=optuna.samplers.RandomSampler(seed=0))
        run = lambda: study.optimize(lambda trial: square(trial.suggest_float("x", -1, 1)), n_trials=count)  # noqa: E731
        return cost_of(run) / count


def trial_rows(place: Path, quick: bool) -> list[Row]:
    """Return the rows about trivial trials: each speed, its growth, its size."""
    few, many, rounds = (100, 400, 2) if quick else (1_000, 10_000, 5)
    small, small_bytes = trial_cost(place, few, rounds)
    large, large_bytes = trial_cost(place, many, 1 if quick else 2)
    awaited, _ = trial_cost(place, few, rounds, awaited_square)
    size = (large_bytes - small_bytes) / (many - few)
    flat = large.cpu / small.cpu

    def row(count: int, kind: str, cost: Cost, beside: str) -> Row:
        figure = f"persisted trial, {count:,} trials, {kind} objective"
        return Row(figure, cost.text(), beside, "CPU <= 150 us", cost.cpu <= 150e-6)

    found = [
        row(few, "async", awaited, f"{1 / awaited.wall:,.0f} trials/s"),
        row(few, "sync", small, f"{1 / small.wall:,.0f} trials/s"),
        row(many, "sync", large, f"{1 / large.wall:,.0f} trials/s"),
        Row(f"CPU of a trial at {many:,} over one at {few:,}", f"{flat:.2f}x", "", "flat", flat < 1.15),
        Row("bytes of the store per trivial trial", f"{size:.0f}", "", "<= 300", size <= 300),
    ]
    if have("optuna"):
        found += optuna_rows(place, quick)
    return found


def optuna_rows(place: Path, quick: bool) -> list[Row]:
    """Return the rows beside Optuna, in turns with ours; fewer trials there, for its cost per trial hardly changes."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    count, rounds = (20, 1) if quick else (100, 4)

    def once(number: int) -> tuple[Cost, Cost, Cost]:
        ours = cost_of(lambda: trivial(place, f"beside{number}").run(count * 20)) / (count * 20)
        on_sqlite = optuna_cost(f"sqlite:///{place / f'optuna{number}.db'}", count)
        return ours, on_sqlite, optuna_cost(JournalStorage(JournalFileBackend(str(place / f"optuna{number}"))), count * 5)

    ours, on_sqlite, journal = map(least, zip(*map(once, range(rounds)), strict=True))

    def row(name: str, theirs: Cost, least: int) -> Row:
        found = f"{theirs.text()}: {times(ours, theirs)}"
        figure = f"persisted trial, {count * 20:,} trials, sync, beside {name}"
        reached = theirs.wall >= least * ours.wall and theirs.cpu >= least * ours.cpu  # other people's work favours neither
        return Row(figure, ours.text(), found, f">= {least}x", reached)

    return [row("Optuna on SQLite", on_sqlite, 40), row("Optuna's JournalStorage", journal, 4)]


def nested_row(place: Path, quick: bool) -> Row:
    """Return what a trial costs in ten sweeps inside a stage of an experiment, beside one in a sweep by itself."""
    sweeps, count, rounds = (2, 100, 1) if quick else (10, 100, 6)

    class Outer(Experiment):
        def pipeline(self) -> Pipeline:
            return Pipeline().stage("search", self.search).through(best=float)

        async def search(self) -> float:
            best = math.inf
            for number in range(sweeps):
                inner = SweepExperiment(square, SPACE, optimizer=RandomOptimizer(), name=f"inner{number}", seed=0)
                best = min(best, float((await inner.run(count)).best_score))
            return best

    def once(number: int) -> tuple[Cost, Cost]:
        flat = cost_of(lambda: trivial(place, f"flat{number}").run(sweeps * count))
        return flat, cost_of(lambda: Outer(name="outer", store=place / f"outer{number}.db").run())

    pairs = [once(number) for number in range(rounds)]
    total = sweeps * count
    flat, nested = least(pair[0] for pair in pairs) / total, least(pair[1] for pair in pairs) / total
    ratio = nested.cpu / flat.cpu
    figure = f"trial of {sweeps} nested sweeps of {count}, beside 1 of {total:,}"
    return Row(figure, nested.text(), f"flat {flat.text()}: CPU {ratio:.2f}x", "+-20%", ratio <= 1.2)


def report_row(place: Path, quick: bool) -> Row:
    """Return how many reports a second an inline ASHA sweep takes and keeps."""
    count, epochs = (20, 50) if quick else (200, 500)

    def curve(x: float, ctx: Context) -> None:
        for epoch in range(ctx.step + 1, epochs + 1):
            ctx.report(epoch, loss=x * x + 1 / epoch)

    def once(number: int) -> tuple[Cost, int]:
        scheduler = ASHAScheduler(max_epochs=epochs, grace_period=20, rule="stopping")
        sweep = SweepExperiment(
            curve, SPACE, optimizer=RandomOptimizer(), scheduler=scheduler, name="reports", metric="loss",
            store=place / f"reports{number}.db", seed=0,
        )  # fmt: skip
        cost = cost_of(lambda: sweep.run(count))
        with sqlite3.connect(place / f"reports{number}.db") as connection:
            return cost, connection.execute("SELECT count(*) FROM metric").fetchone()[0]

    found = [once(number) for number in range(1 if quick else 4)]
    reports = found[0][1]
    cost = least(one[0] for one in found) / reports
    figure = f"persisted report, ASHA inline ({count} trials, {reports:,} reports)"
    return Row(figure, cost.text(), f"{1 / cost.wall:,.0f} reports/s", ">= 10,000/s", cost.wall <= 1e-4)


def waiting_row(place: Path, quick: bool) -> Row:
    """Return how long async trials that only wait take on 8 workers, beside a bare loop."""
    workers, count, seconds = 8, 40 if quick else 400, 0.01 if quick else 0.05

    async def wait(x: float) -> float:
        await anyio.sleep(seconds)
        return x

    async def bare() -> None:
        queue = iter(range(count))

        async def worker() -> None:
            for number in queue:
                await wait(float(number))

        async with asyncio.TaskGroup() as tasks:
            for _ in range(workers):
                tasks.create_task(worker())

    def ours() -> Cost:
        sweep = SweepExperiment(
            wait, SPACE, optimizer=RandomOptimizer(), workers=workers, name="waiting", store=place / "waiting.db", seed=0
        )
        return cost_of(lambda: sweep.run(count, resume="never"))

    ideal = count * seconds / workers
    found, floor = repeated(ours, 2), cost_of(lambda: asyncio.run(bare()))
    ratio = found.wall / ideal
    figure = f"{workers} workers x {count} async trials of {seconds * 1e3:.0f} ms"
    beside = f"bare asyncio loop {floor.text('s')}; ideal {ideal:.3g} s"
    return Row(figure, f"{found.text('s')}: {ratio:.3f}x ideal", beside, "<= 1.1x ideal", ratio <= 1.1)


def simulation_rows(place: Path, quick: bool) -> list[Row]:
    """Return how long sweeps take in virtual time, kept in a store like any other: one report a trial, and under ASHA."""
    count, workers = (200, 50) if quick else (10_000, 1_000)

    def once(x: float, ctx: Context) -> None:
        ctx.report(1, loss=x * x)

    def train(x: float, ctx: Context) -> None:
        for epoch in range(ctx.load(0) + 1, 28):
            ctx.save(epoch)
            ctx.report(epoch, loss=x * x + 1 / epoch)

    found = []
    kinds: list[tuple[str, Callable[..., None], Any]] = [("one report each", once, None), ("ASHA", train, ASHAScheduler(27))]
    for label, objective, scheduler in kinds:
        executor = SimulatedExecutor(workers, lambda params, step: 2.0 + params["x"])
        sweep = SweepExperiment(
            objective, SPACE, optimizer=RandomOptimizer(), scheduler=scheduler, executor=executor, metric="loss",
            name=label, store=place / "simulated.db", seed=0,
        )  # fmt: skip
        cost = cost_of(partial(sweep.run, count))
        trials = sweep.run(count, resume="must").trials
        busy = sum(trial.step * (2.0 + trial.params["x"]) for trial in trials) / workers / executor.clock.now()
        reports = sum(trial.step for trial in trials)
        figure = f"{count:,} trials on {workers:,} simulated workers, {label}, {reports:,} reports"
        beside = f"{executor.clock.now():.0f} virtual s, {busy:.0%} busy"
        found.append(Row(figure, cost.text("s"), beside, "CPU <= 10 s", cost.cpu <= 10))
    return found


def resume_rows(place: Path, quick: bool) -> list[Row]:
    """Return how long a large sweep takes from ``run()`` until its optimizer is asked for the first new trial."""
    count = 300 if quick else 10_000
    kinds: list[tuple[str, Callable[[], Any]]] = [("Random", RandomOptimizer)]
    if have("optuna"):
        kinds.append(("TPE", OptunaOptimizer))
    found = []
    for label, make in kinds:
        store = place / f"resume-{label}.db"

        def sweep(optimizer: Any, at: Path = store) -> SweepExperiment:
            return SweepExperiment(square, SPACE, optimizer=optimizer, name="resume", store=at, seed=0)

        sweep(RandomOptimizer()).run(count)
        if label != "Random":  # 10,000 suggestions of a model would take hours: the history is Random's
            other = place / "identity.db"
            sweep(make(), other).run(1)
            adopt_identity(store, other)
        costs = []
        for number in range(1, 4):
            optimizer = Asked(make())
            again = sweep(optimizer.inner)
            optimizer.watch.start()
            again.run(count + number, resume="must")
            costs.append(optimizer.seen[0])
        cost = least(costs)
        figure = f"resume of {count:,} trials until the first suggestion, {label}"
        found.append(Row(figure, cost.text("s"), "", "<= 0.5 s", cost.wall <= 0.5))
    return found


class Asked:
    """Notes when an optimizer is asked."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.watch, self.seen = inner, Watch(), list[Cost]()
        self._suggest, inner.suggest = inner.suggest, self.suggest

    def suggest(self, n: int) -> list[Trial]:
        """Note the time and ask on."""
        self.seen.append(self.watch.read())
        return list(self._suggest(n))


def adopt_identity(store: Path, other: Path) -> None:
    """Let the run in ``store`` pass for one with the optimizer of the run in ``other``."""
    with sqlite3.connect(other) as source, sqlite3.connect(store) as target:
        (identity,) = source.execute("SELECT identity FROM run WHERE level='sweep'").fetchone()
        target.execute("UPDATE run SET identity=? WHERE level='sweep'", (identity,))


def rows(place: Path, quick: bool) -> list[Row]:
    """Return the rows about sweeps."""
    return [
        *trial_rows(place, quick),
        nested_row(place, quick),
        report_row(place, quick),
        waiting_row(place, quick),
        *simulation_rows(place, quick),
        *resume_rows(place, quick),
    ]
