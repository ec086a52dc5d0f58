"""Random search under ASHA and Hyperband against plain programs of their own, by regret at a fixed total resource.

The reference knows nothing of ours: it is written down from the papers and runs its own event loop over a table of
learning curves. Both try the same configurations in the same order (the n-th that RandomOptimizer suggests), so that
what differs is the method. Mean regret over the seeds is to lie within 0.8 to 1.25 of the reference's.
"""

from __future__ import annotations

import heapq
import math
import random
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from sweep.optimizers import RandomOptimizer
from sweep.schedulers import ASHAScheduler, AsyncHyperbandScheduler, HyperbandScheduler, Scheduler
from sweep.space import Integer, SearchSpace
from sweep.testing.schedulers import Rehearsal
from sweep.trial import Objective

EPOCHS, ETA, SLOTS, ROWS = 27, 3, 4, 2000
BUDGETS = (10 * EPOCHS, 20 * EPOCHS, 40 * EPOCHS)  # epochs of all trials together
SEEDS = 80
Job = tuple[int, int, int]  # configuration, first and last epoch


def _table() -> list[list[float]]:
    """Learning curves that cross: a good end may begin badly; row by row the losses of epochs 1 to 27."""
    rng = random.Random("table")
    rows = []
    for _ in range(ROWS):
        end, start, pace = rng.random() ** 0.5, rng.uniform(0.5, 3.0), rng.uniform(0.3, 1.5)
        rows.append([end + start * (e**-pace - EPOCHS**-pace) + rng.gauss(0, 0.02) for e in range(1, EPOCHS + 1)])
    return rows


TABLE = _table()
BEST = min(row[-1] for row in TABLE)
SPREAD = statistics.median(row[-1] for row in TABLE) - BEST


def sampled(seed: int, count: int = 500) -> list[int]:
    """Return rows of the table as random search tries them."""
    optimizer = RandomOptimizer()
    optimizer.setup(SearchSpace({"row": Integer(0, ROWS - 1)}), [Objective("loss")], seed)
    return [trial.params["row"] for trial in optimizer.suggest(count)]


# ---------------------------------------------------------------- the papers, written down again


@dataclass
class Simulation:
    """Four workers; every epoch takes one unit of time. A method hands out jobs and is told their results.

    A configuration is its number; its learning curve is that of its row in the table.
    """

    rows: list[int]
    spent: int = 0
    found: list[float] = field(default_factory=list)  # best final loss so far at each budget
    best: float = math.inf

    def run(self, get_job: Callable[[], Job | None], done: Callable[[Job], None]) -> list[float]:
        """Work until the largest budget is spent."""
        busy: list[tuple[int, int, Job]] = []
        now = ordinal = 0
        while len(self.found) < len(BUDGETS):
            while len(busy) < SLOTS and (job := get_job()) is not None:
                ordinal += 1
                heapq.heappush(busy, (now + job[2] - job[1], ordinal, job))
            now, _, job = heapq.heappop(busy)
            self._count(job)
            done(job)
        return self.found

    def _count(self, job: Job) -> None:
        number, first, last = job
        for epoch in range(first + 1, last + 1):
            self.spent += 1
            if epoch == EPOCHS:
                self.best = min(self.best, self.loss(number, EPOCHS))
            if len(self.found) < len(BUDGETS) and self.spent >= BUDGETS[len(self.found)]:
                self.found.append(self.best)

    def loss(self, number: int, epoch: int) -> float:
        """Return what a configuration reports."""
        return TABLE[self.rows[number]][epoch - 1]


def asha(rows: list[int], shares: tuple[int, ...] = (1, 0, 0, 0)) -> list[float]:
    """Algorithm 2 of arXiv 1810.05934, in brackets that begin at the 1st to 4th rung; each trial draws its bracket."""
    simulation, rng = Simulation(rows), random.Random(rows[0])
    levels = [1, 3, 9, 27]
    rungs: dict[tuple[int, int], list[tuple[float, int]]] = {(k, b): [] for k in range(4) for b in range(k + 1)}
    promoted: set[tuple[int, int]] = set()  # configuration, rung
    at: list[tuple[int, int]] = []  # rung and bracket of each configuration

    def get_job() -> Job:
        for k in (2, 1, 0):
            for bracket in range(k + 1):
                ranked = sorted(rungs[k, bracket])
                for _, number in ranked[: len(ranked) // ETA]:
                    if (number, k) not in promoted:
                        promoted.add((number, k))
                        at[number] = (k + 1, bracket)
                        return number, levels[k], levels[k + 1]
        bracket = rng.choices(range(4), shares)[0]
        at.append((bracket, bracket))
        return len(at) - 1, 0, levels[bracket]

    def done(job: Job) -> None:
        number, _, last = job
        rungs[at[number]].append((simulation.loss(number, last), number))

    return simulation.run(get_job, done)


def hyperband(rows: list[int]) -> list[float]:
    """Algorithm 1 of arXiv 1603.06560, pass after pass; a free slot begins the next bracket rather than wait."""
    simulation = Simulation(rows)
    brackets: list[_Halving] = []
    sizes = _sizes()

    def get_job() -> Job:
        for bracket in sorted(brackets, key=lambda one: -one.level()):
            if bracket.queue:
                return bracket.take()
        n, s = next(sizes)
        begun = sum(bracket.n for bracket in brackets)
        brackets.append(_Halving(list(range(begun, begun + n)), s))
        return brackets[-1].take()

    def done(job: Job) -> None:
        bracket = next(bracket for bracket in brackets if job in bracket.running)
        bracket.done(job, simulation.loss(job[0], job[2]))

    return simulation.run(get_job, done)


def _sizes() -> Iterator[tuple[int, int]]:
    while True:
        for s in (3, 2, 1, 0):
            yield -(-4 * ETA**s // (s + 1)), s


class _Halving:
    """One bracket: n configurations from epochs R / eta**s on."""

    def __init__(self, numbers: list[int], s: int) -> None:
        self.n, self.s, self.i = len(numbers), s, 0
        self.queue = numbers
        self.running: list[Job] = []
        self.results: list[tuple[float, int]] = []

    def level(self) -> int:
        return EPOCHS // int(ETA ** (self.s - self.i))

    def take(self) -> Job:
        job = (self.queue.pop(0), EPOCHS // ETA ** (self.s - self.i + 1) if self.i else 0, self.level())
        self.running.append(job)
        return job

    def done(self, job: Job, loss: float) -> None:
        self.running.remove(job)
        self.results.append((loss, job[0]))
        if not self.running and not self.queue and self.i < self.s:
            self.i += 1
            self.queue = [number for _, number in sorted(self.results)[: self.n // ETA**self.i]]
            self.results = []


# ---------------------------------------------------------------- ours


def ours(scheduler: Scheduler, rows: list[int], trials: int) -> list[float]:
    """Return the best final loss when each budget was spent."""
    rehearsal = Rehearsal(
        scheduler,
        trials,
        SLOTS,
        curve=lambda trial, step: {"loss": TABLE[rows[trial.number]][step - 1]},
        seconds=lambda trial, step: 1.0,
    ).run()
    best, found = math.inf, list[float]()
    for spent, call in enumerate(rehearsal.of("report"), 1):
        if call.detail[0] == EPOCHS:
            best = min(best, TABLE[rows[call.number]][-1])
        if spent == BUDGETS[len(found)]:
            found.append(best)
            if len(found) == len(BUDGETS):
                return found
    raise AssertionError(f"only {len(rehearsal.of('report'))} epochs were trained")


def _regrets(runs: list[list[float]]) -> list[float]:
    """Return the mean normalised regret at each budget; nothing found counts as the median of random search."""
    return [statistics.mean(min(1.0, (loss - BEST) / SPREAD) for loss in column) for column in zip(*runs, strict=True)]


@pytest.mark.parametrize(
    ("make", "trials", "reference", "since"),
    [
        (lambda: ASHAScheduler(EPOCHS, ETA), 400, asha, 0),
        (lambda: HyperbandScheduler(EPOCHS, ETA), 200, hyperband, 0),
        # the reference draws a trial's bracket where ours deals them in turn: at first that is not the same
        (lambda: AsyncHyperbandScheduler(EPOCHS, ETA), 200, lambda rows: asha(rows, (27, 12, 6, 4)), 1),
    ],
    ids=["asha", "hyperband", "async hyperband"],
)
def test_regret_is_that_of_the_reference(
    make: Callable[[], Scheduler], trials: int, reference: Callable[[list[int]], list[float]], since: int
) -> None:
    draws = [sampled(seed) for seed in range(SEEDS)]
    mine = _regrets([ours(make(), rows, trials) for rows in draws])
    theirs = _regrets([reference(rows) for rows in draws])
    for budget, a, b in [*zip(BUDGETS, mine, theirs, strict=True)][since:]:
        assert 0.8 <= a / b <= 1.25, f"after {budget} epochs: {a:.3f}, the reference {b:.3f}"
