"""Whole sweeps in virtual time that die between two events and go on: driver, event log and store are the real ones.

One seed gives one story: strategies, workers, faults of the executor, and the commits at which the process dies.
A death is a BaseException at a COMMIT, just before it (the transaction is lost) or just after (nothing that should
follow is done); from then on the dead process writes nothing. The next session is a new sweep on the same file.
What objectives did is written down here, outside of the store, and compared with what the store says.
"""

from __future__ import annotations

import json
import math
import random
import sqlite3
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio._core._run
from simulated_objective import Calls

from sweep.clock import SystemClock, using_clock
from sweep.context import Context
from sweep.executors.simulated import Faults, SimulatedExecutor
from sweep.experiments.sweep import SweepExperiment
from sweep.experiments.sweepresult import SweepResult
from sweep.optimizers import GridOptimizer, Optimizer, RandomOptimizer, SobolOptimizer
from sweep.schedulers import (
    ASHAScheduler,
    AsyncHyperbandScheduler,
    BatchScheduler,
    HyperbandScheduler,
    MedianStoppingScheduler,
    PBTScheduler,
    Scheduler,
    SuccessiveHalvingScheduler,
    SynchronousBatchScheduler,
)
from sweep.space import Integer, Uniform
from sweep.store.writer import Store
from sweep.trial import Result, Status, Trial

ENDED = {str(status) for status in Status if status.ended}


class Killed(BaseException):
    """The process dies here."""


class Doomed:
    """A connection whose process dies at its n-th COMMIT; a dead one does nothing any more."""

    def __init__(self, connection: sqlite3.Connection, commits: int, *, after: bool) -> None:
        self.connection, self.left, self.after = connection, commits, after
        self.dead = False

    def execute(self, statement: str, parameters: Any = ()) -> Any:
        if self.dead:
            raise Killed
        if statement == "COMMIT":
            self.left -= 1
            if self.left < 0:
                self.dead = True
                if self.after:
                    self.connection.execute("COMMIT")
                raise Killed
        return self.connection.execute(statement, parameters)

    @property
    def in_transaction(self) -> bool:
        return not self.dead and self.connection.in_transaction

    def close(self) -> None:
        self.connection.close()


class Jumpy(SystemClock):  # type: ignore[misc]  # final for users; here one method of it lies
    """The machine's clock, with a wall clock that jumps by years, back and forth."""

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice

    def wall(self) -> float:
        return self.dice.uniform(0.0, 4e9)


class Follower(Optimizer):
    """A user's optimizer of two methods: a running stream of numbers, and each result changes what comes next."""

    def __init__(self) -> None:
        self.rng = random.Random(11)

    def suggest(self, n: int) -> list[Trial]:
        return [Trial({"x": round(self.rng.random(), 6), "i": self.rng.randrange(3)}) for _ in range(n)]

    def observe(self, trial: Trial, result: Result) -> None:
        for _ in range(1 if result != result else 1 + int(result * 10) % 3):
            self.rng.random()


OPTIMIZERS: dict[str, Callable[[], Optimizer]] = {
    "random": RandomOptimizer,
    "sobol": SobolOptimizer,
    "grid": GridOptimizer,
    "follower": Follower,
}
NEEDS = {  # what some optimizers import
    "tpe": "optuna",
    "cmaes": "cmaes",
    "bayesian": "scipy",
    "protein": "scipy",
    "nevergrad": "nevergrad",
    "ax": "ax",
}
SCHEDULERS: dict[str, Callable[[], Scheduler | None]] = {
    "none": lambda: None,
    "batch": BatchScheduler,
    "rounds": lambda: SynchronousBatchScheduler(batch_size=3),
    "asha": lambda: ASHAScheduler(max_epochs=4, reduction_factor=2),
    "stopping": lambda: ASHAScheduler(max_epochs=4, reduction_factor=2, rule="stopping"),
    "brackets": lambda: AsyncHyperbandScheduler(max_epochs=4, reduction_factor=2),
    "hyperband": lambda: HyperbandScheduler(max_epochs=4, reduction_factor=2),
    "halving": lambda: SuccessiveHalvingScheduler(max_epochs=4, reduction_factor=2, n=4),
    "median": lambda: MedianStoppingScheduler(grace_period=1, min_samples=2),
    "pbt": lambda: PBTScheduler(population_size=3, num_generations=2),
}


@dataclass
class Story:
    """What one seed stands for."""

    seed: int

    def __post_init__(self) -> None:
        dice = self.dice = random.Random(self.seed)
        self.serial = dice.random() < 0.5
        self.workers = 1 if self.serial else dice.randint(2, 4)
        self.scheduler = dice.choice(sorted(SCHEDULERS))
        endless = sorted(set(OPTIMIZERS) - {"grid"}) if self.scheduler == "pbt" else sorted(OPTIMIZERS)
        self.optimizer = dice.choice(endless)
        least = {"hyperband": 4, "halving": 4, "pbt": 3}.get(self.scheduler, 1)  # the first bracket, the population
        self.budget = max(least, dice.randint(1, 8))
        self.repeats = dice.choice([1, 1, 1, 2]) if self.scheduler != "pbt" else 1
        self.retries = dice.randint(0, 2)
        self.steps = dice.randint(1, 4)
        self.sparse = 1 if self.scheduler == "pbt" else dice.randint(1, 3)
        self.bad, self.times = dice.randint(2, 6), dice.randint(0, 2) * (1000 if self.serial else 1)  # serial: for good
        self.faults = Faults() if self.serial else _faults(dice)
        self.kills = [_kill(dice) for _ in range(dice.randint(1, 6))]
        self.jumps = dice.random() < 0.3
        self.several = self.scheduler in ("none", "batch", "rounds") and dice.random() < 0.4  # objectives

    def __str__(self) -> str:
        return ", ".join(f"{key}={value!r}" for key, value in vars(self).items() if key != "dice")


def _kill(dice: random.Random) -> tuple[int, bool]:
    """Return after how many commits the process dies, and whether the last of them still counts."""
    return dice.choice([dice.randint(0, 8), dice.randint(0, 60)]), dice.random() < 0.5


def _faults(dice: random.Random) -> Faults:
    if dice.random() < 0.3:
        return Faults()
    some = {name: dice.choice([0.0, 0.3]) for name in ("stragglers", "late", "double", "reordered")}
    rare = {name: dice.choice([0.0, 0.0, 0.05]) for name in ("failures", "losses")}
    return Faults(jitter=dice.choice([0.0, 0.5]), host_size=dice.randint(1, 3), **some, **rare)


def loss(i: int, x: float, step: int) -> float:
    """A learning curve that depends on the params alone; curves of different params cross."""
    return ((i * 7919) % 97) / 97 + x / 10 + 1 / (step + i % 3 + 1)


@dataclass
class World:
    """The sessions of one story on one file."""

    story: Story
    path: Path
    starts: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    reports: dict[tuple[int, int], float] = field(default_factory=dict)
    returned: set[int] = field(default_factory=set)
    finished: dict[int, tuple[Any, ...]] = field(default_factory=dict)
    sessions: int = 0
    deaths: int = 0
    dawdle: float = 0.0  # real seconds that an objective sleeps at most, now and then: nothing may depend on them

    async def run(self, *, mortal: bool = True) -> SweepResult | None:
        """Work until the sweep is over, through all its deaths; check what must hold after each.

        None if it died just after it had ended by failures: another session would be a new run.
        """
        kills: list[tuple[int | None, bool]] = [*self.story.kills] if mortal else []
        for commits, after in [*kills, (None, False)]:
            result = await self._session(commits, after=after)
            if result is not None:
                return result
            if self._after_death() == "failed":
                return None
        raise AssertionError("the last session dies no more")

    async def _session(self, commits: int | None, *, after: bool) -> SweepResult | None:
        self.sessions += 1
        story = self.story
        store = Store(self.path)
        connection = store._connection
        if commits is not None:
            store._connection = Doomed(connection, commits, after=after)  # type: ignore[assignment]  # stands in
        try:
            with using_clock(Jumpy(random.Random(story.seed)) if story.jumps else SystemClock()):
                known = connection.execute(
                    "SELECT 1 FROM run WHERE parent_id=0"
                ).fetchone()  # perhaps it died at its end
                how = "must" if known else "auto"
                return await self._sweep().run(story.budget, resume=how, store=store)  # type: ignore[arg-type]  # an open one
        except (Killed, BaseExceptionGroup) as death:
            if not _is_death(death):
                raise
            self.deaths += 1
            return None
        finally:
            leave(store, connection)

    def _sweep(self) -> SweepExperiment:
        story = self.story
        executor = SimulatedExecutor(
            story.workers, lambda params, step: 1.0 + params["i"] % 3, story.seed, story.faults
        )
        if story.jumps:
            executor.clock.wall = Jumpy(random.Random(story.seed)).wall  # type: ignore[method-assign]  # likewise
        return SweepExperiment(
            Calls(self.objective).objective, {"x": Uniform(0, 1, num=3), "i": Integer(0, 2)},
            optimizer=OPTIMIZERS[story.optimizer](), scheduler=SCHEDULERS[story.scheduler](), executor=executor,
            name="simulated", seed=story.seed, repeats=story.repeats, retries=story.retries,
            metric=["loss", "size"] if story.several else None, mode=["min", "max"] if story.several else "min",
        )  # fmt: skip

    def objective(self, x: float, i: int, ctx: Context) -> None:
        """Report a learning curve; now and then fail."""
        story, number = self.story, int(ctx.trial or 0)
        assert number not in self.finished, f"finished trial {number} runs again"
        self.starts[number].append(ctx.attempt)
        done = ctx.load(0)
        assert done == ctx.step, f"trial {number} goes on from step {done}, the sweep says {ctx.step}"
        steps = max(story.steps, 4 if story.scheduler not in ("none", "batch", "rounds", "median") else 0)
        for step in range(done + 1, steps + 1):
            if (i + step) % story.bad == 0 and ctx.attempt <= story.times:
                raise ValueError(f"boom at {step}")
            if self.dawdle:
                time.sleep(self.dawdle * random.random())
            if step % story.sparse == 0:
                ctx.save(step)
            ctx.report(step, loss=loss(i, x, step), **({"size": float(i)} if story.several else {}))
        self.returned.add(number)

    # ------------------------------------------------------------ what must hold

    def rows(self) -> dict[int, tuple[Any, ...]]:
        """Return number, params, status, reason, score and step of the trials; -1 is the sweep."""
        with closing(sqlite3.connect(self.path)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            query = (
                "SELECT CASE level WHEN 'trial' THEN number ELSE -1 END, params, status, reason, score, step FROM run"
            )
            return {row[0]: row[1:] for row in connection.execute(query)}

    def _after_death(self) -> str | None:
        """Check that nothing finished was lost; return the sweep's status."""
        rows = self.rows()
        sweep = rows.pop(-1, None)
        assert sorted(rows) == list(range(len(rows))), "trial numbers without a gap"
        for number, row in self.finished.items():
            assert rows[number] == row, f"finished trial {number} was {row}, is now {rows[number]}"
        ended = {number: row for number, row in rows.items() if row[1] in ("completed", "failed")}
        self.finished.update(ended)
        return None if sweep is None else str(sweep[1])

    def check(self, result: SweepResult) -> None:
        """Check what holds for every sweep that has come to its end."""
        story, trials, rows = self.story, list(result.trials), self.rows()
        assert self._after_death() == str(result.status)
        del rows[-1]
        assert {row[1] for row in rows.values()} <= ENDED, rows
        own = [trial for trial in trials if trial.source == "optimizer"]
        most = {"pbt": 3}.get(story.scheduler, 9 if story.optimizer == "grid" else story.budget)
        limit = min(story.budget, most)
        if result.status is Status.COMPLETED:
            assert len(own) == limit, f"{len(own)} configurations, expected {limit}"
        assert len(rows) == len(trials)
        for trial in trials:
            self._check_trial(trial, rows[trial.number])
        if story.several:
            assert {trial.number for trial in result.pareto_front} == _undominated(trials)

    def _check_trial(self, trial: Trial, row: tuple[Any, ...]) -> None:
        number = trial.number
        assert json.loads(row[0]) == trial.params
        assert row[1] == str(trial.status)
        score = None if trial.score is None or math.isnan(trial.score) else trial.score  # SQL has no NaN
        assert row[3] == score, f"trial {number} {trial.status} has score {trial.score}, its row {row[3]}"
        assert set(self.starts[number]) <= set(range(1, trial.attempts + 1)) or self.story.repeats > 1
        steps = [report.step for report in trial.history]
        assert steps == sorted(set(steps)), f"trial {number} has reports twice: {steps}"
        for report in trial.history:
            truth = loss(trial.params["i"], trial.params["x"], report.step)
            assert math.isclose(report.metrics["loss"], truth)
        if steps:
            assert steps[0] == 1 or trial.start_from is not None, f"trial {number} lost its first reports: {steps}"
            assert steps == list(range(steps[0], steps[-1] + 1)), f"trial {number} lost a report: {steps}"
        if trial.status is Status.COMPLETED:
            assert number in self.returned or trial.reason == "completed"
            assert steps, f"trial {number} completed without a report"


def _undominated(trials: list[Trial]) -> set[int]:
    """Return the completed trials that no other beats in one objective without losing in the other."""
    points = {t.number: (t.values[0], -t.values[1]) for t in trials if t.status is Status.COMPLETED}
    return {
        number
        for number, (a, b) in points.items()
        if not any(c <= a and d <= b and (c, d) != (a, b) for c, d in points.values())
    }


def leave(store: Store, connection: sqlite3.Connection) -> None:
    """Let go of a store as the end of its process would."""
    if connection.in_transaction:
        connection.execute("ROLLBACK")
    for root in list(store._owned):
        store.disown(root)
    connection.close()


def _is_death(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return all(map(_is_death, error.exceptions))
    return isinstance(error, Killed)


def outcome(result: SweepResult) -> list[tuple[Any, ...]]:
    """What must not depend on how often the process died."""
    return [
        (
            t.number, t.params, t.status, t.reason, t.score, t.values, t.step, t.parent, t.seed,
            [(report.step, dict(report.metrics)) for report in t.history], t.error,
        )
        for t in result.trials
    ]  # fmt: skip


def begin(path: Path) -> None:
    """Put an empty store in the place of what is there; the lock file stays, which this process keeps open."""
    for suffix in ("", "-wal", "-shm"):
        with suppress(FileNotFoundError):
            path.with_name(path.name + suffix).unlink()
    template = path.with_name("template.db")
    if not template.exists():
        Store(template).close()
    path.write_bytes(template.read_bytes())  # its tables are made once


@contextmanager
def woken_as_drawn(seed: int) -> Iterator[None]:
    """Let trio wake its tasks in an order that the seed draws, not in one of its own each time (as Hypothesis does)."""
    scheduler: Any = trio._core._run
    before = scheduler._ALLOW_DETERMINISTIC_SCHEDULING, scheduler._r.getstate()
    scheduler._ALLOW_DETERMINISTIC_SCHEDULING = True
    scheduler._r.seed(seed)
    try:
        yield
    finally:
        scheduler._ALLOW_DETERMINISTIC_SCHEDULING = before[0]
        scheduler._r.setstate(before[1])


async def simulate(seed: int, directory: Path) -> World:
    """Live one story to its end and check it.

    Raises:
        AssertionError: Something that must hold does not; a note has the story and the command that lives it again.
    """
    world = World(Story(seed), directory / "sweep.db")
    try:
        begin(world.path)
        with woken_as_drawn(seed):
            result = await world.run()
        if result is not None:
            world.check(result)
        if world.story.serial:
            twin = World(Story(seed), directory / "twin.db")
            begin(twin.path)
            whole = await twin.run(mortal=False)
            assert world.rows() == twin.rows()
            assert result is None or (whole is not None and outcome(result) == outcome(whole))
    except BaseException as error:
        error.add_note(
            f"died {world.deaths} times in the story {world.story}\n"
            f"which is lived again by: pytest tests/test_simulation.py --simulation-seed {seed}"
        )
        raise
    return world
