"""A make-believe driver for the sweep's machine: a list for a journal, and attempts that are a few numbers.

``World`` does what the real driver does, in the same order, and dies on request: after ``stop_at``
events the rest of a commit is lost, as are all effects, live objects and strategies.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sweep.experiments import events as ev
from sweep.experiments.conductor import Conductor, Step, replay
from sweep.experiments.ledger import Rules
from sweep.experiments.machine import Machine
from sweep.optimizers.base import Optimizer
from sweep.schedulers.base import Scheduler
from sweep.trial import Budget, Decision, Result, Trial


@dataclass
class Plan:
    """What every attempt of every trial will do, by its params alone.

    Attributes:
        steps: Steps until a trial returns.
        fails: params -> (step, times): it raises before that step, so many times.
        saves: params, step -> whether it saves before that report.
        returns: params -> what it returns.
    """

    steps: int = 4
    fails: Callable[[dict[str, Any]], tuple[int, int]] = lambda params: (0, 0)
    saves: Callable[[dict[str, Any], int], bool] = lambda params, step: True
    returns: Callable[[dict[str, Any]], Any] = lambda params: None
    kind: ev.Kind = "failed"


def loss(params: dict[str, Any], step: int, run: int = 0) -> float:
    """A learning curve that depends on the params alone; curves of different params cross."""
    i = int(params["i"])
    return ((i * 7919) % 97) / 97 + 1 / (step + i % 3) + run / 8


@dataclass
class Attempt:
    """An attempt that runs."""

    start: ev.Start
    step: int
    kind: ev.Kind | None = None

    @property
    def place(self) -> tuple[int, int, int]:
        return self.start.trial.number, self.start.attempt, self.start.run


class Crash(Exception):
    """The process dies here."""


@dataclass
class World:
    """One process that works on the sweep whose journal is ``journal``."""

    journal: list[ev.Event]
    optimizer: Optimizer
    scheduler: Scheduler
    plan: Plan = field(default_factory=Plan)
    budget: Budget = field(default_factory=lambda: Budget(trials=4))
    workers: int = 1
    order: random.Random | None = None
    stop_at: int | None = None
    config: dict[str, Any] = field(default_factory=dict)
    noise: Callable[[World], None] | None = None

    def __post_init__(self) -> None:
        self.machine = Machine(Rules(**{"max_resource": self.scheduler.max_resource, **self.config}))
        self.attempts: list[Attempt] = []
        self.lane: list[ev.Ask | ev.Observe] = []
        self.finish: ev.Finish | None = None
        self.most_live = 0

    def run(self) -> World:
        """Work until the sweep is over or the process dies."""
        try:
            self._open()
            while self.finish is None:
                if self.noise is not None:
                    self.noise(self)
                self._one()
            for effect in self.lane:
                if isinstance(effect, ev.Observe):
                    self.optimizer.observe(effect.trial, effect.result)
        except Crash:
            pass
        return self

    def _open(self) -> None:
        fresh = not any(isinstance(event, ev.BudgetSet) for event in self.journal)
        self.commit([ev.Opened(0.0, self.workers), *([ev.BudgetSet.of(self.budget)] if fresh else [])])
        by_data = [hasattr(strategy, "restore") for strategy in (self.optimizer, self.scheduler)]
        self.differences = replay(
            self.machine,
            self.journal,
            optimizer=None if by_data[0] else self.optimizer,
            scheduler=None if by_data[1] else self.scheduler,
        )
        for strategy, restores in zip((self.optimizer, self.scheduler), by_data, strict=True):
            if restores and not fresh:
                strategy.restore(self.machine.trials)  # type: ignore[union-attr]  # it has it
        self.conductor = Conductor(self.machine, self.scheduler, lambda: 0.0)
        self.take(self.conductor.wake())

    def commit(self, events: Sequence[ev.Event]) -> None:
        for event in events:
            if self.stop_at is not None and len(self.journal) >= self.stop_at:
                raise Crash
            self.journal.append(ev.from_data(json.loads(json.dumps(ev.to_data(event)))))

    def take(self, step: Step) -> None:
        """Commit, then perform."""
        self.commit(step.events)
        if self.stop_at is not None and len(self.journal) >= self.stop_at:
            raise Crash
        for effect in step.effects:
            if isinstance(effect, ev.Start):
                self._start(effect)
            elif isinstance(effect, ev.Cancel):
                for attempt in self.attempts:
                    if attempt.place == (effect.number, effect.attempt, effect.run):
                        attempt.kind = "stopped"
            elif isinstance(effect, ev.Finish):
                self.finish = effect
            else:
                self.lane.append(effect)

    def _start(self, effect: ev.Start) -> None:
        if effect.checkpoint is None:
            assert effect.step == 0
        else:
            assert effect.checkpoint.endswith(f"@{effect.step}"), "a checkpoint goes with its step"
        self.attempts.append(Attempt(effect, effect.step))
        self.most_live = max(self.most_live, len(self.attempts))
        assert len(self.attempts) <= self.workers

    def _one(self) -> None:
        """Let one thing happen: serial worlds serve the optimizer first, others whatever the dice say."""
        choices: list[Attempt | None] = [None] * bool(self.lane) + list(self.attempts)
        assert choices, "nothing to do and not finished: the sweep hangs"
        picked = choices[0] if self.order is None else self.order.choice(choices)
        if picked is not None:
            self._advance(picked)
            return
        effect = self.lane.pop(0)
        if isinstance(effect, ev.Ask):
            self.take(self.conductor.suggested(effect, self.optimizer.suggest(effect.n)))
        else:
            self.optimizer.observe(effect.trial, effect.result)

    def _advance(self, attempt: Attempt) -> None:
        number, nth, run = attempt.place
        params, at = attempt.start.trial.params, attempt.step + 1
        fails_at, times = self.plan.fails(params)
        if attempt.kind is not None:
            self.end(attempt, attempt.kind)
        elif at == fails_at and self._failures(number, run) < times:
            self.end(attempt, self.plan.kind, error=f"boom at {at}")
        elif at > self.plan.steps:
            self.end(attempt, "completed", value=self.plan.returns(params))
        else:
            if self.plan.saves(params, at):
                self.take(self.conductor.save(number, nth, f"{number}.{run}@{at}", run))
            step = self.conductor.report(number, nth, at, {"loss": loss(params, at, run)}, run)
            attempt.step = at
            if step.answer is not Decision.CONTINUE:
                attempt.kind = "paused" if step.answer is Decision.PAUSE else "stopped"
            self.take(step)

    def end(self, attempt: Attempt, kind: ev.Kind, **facts: Any) -> None:
        self.attempts.remove(attempt)
        number, nth, run = attempt.place
        self.take(self.conductor.ended(ev.Ended(number, nth, kind, run=run, cost=1.0, **facts)))

    def _failures(self, number: int, run: int) -> int:
        bad = ("failed", "lost", "timeout")
        ends = (e for e in self.journal if isinstance(e, ev.Ended) and e.kind in bad)
        return sum((e.number, e.run) == (number, run) for e in ends)

    def result(self) -> list[tuple[Any, ...]]:
        """What must not depend on how often the process died."""
        return [
            (t.number, t.params, t.status, t.reason, t.score, t.step, t.parent, t.seed, tuple(t.history), t.error)
            for t in self.machine.trials
        ]


# ---- strategies ------------------------------------------------------------------------------------------------------


class Counting(Optimizer):
    """History-free: the n-th suggestion is n. Restored as data."""

    def __init__(self, limit: int | None = None) -> None:
        self.given, self.limit = 0, limit

    def suggest(self, n: int) -> list[Trial]:
        if self.limit is not None:
            n = min(n, self.limit - self.given)
        self.given += n
        return [Trial({"i": self.given - n + k}) for k in range(n)]

    def observe(self, trial: Trial, result: Result) -> None:
        pass

    def restore(self, trials: Sequence[Trial]) -> None:
        self.given = sum(trial.source == "optimizer" for trial in trials)


class Learning(Optimizer):
    """A user's: two methods, a running stream of random numbers, and every observation changes what comes next."""

    def __init__(self) -> None:
        self.rng = random.Random(5)
        self.calls: list[tuple[Any, ...]] = []
        self.own: dict[int, Trial] = {}

    def suggest(self, n: int) -> list[Trial]:
        made = [Trial({"i": self.rng.randrange(1000)}) for _ in range(n)]
        self.own.update({id(trial): trial for trial in made})
        self.calls.append(("suggest", n, [trial.params["i"] for trial in made]))
        return made

    def observe(self, trial: Trial, result: Result) -> None:
        assert id(trial) in self.own, "the object it made itself comes back"
        self.calls.append(("observe", trial.number, None if result != result else float(result)))
        for _ in range(1 if result != result else 1 + int(result * 10) % 3):
            self.rng.random()


class Generations(Learning):
    """Says [] until all of a generation has been observed; two generations of two."""

    def __init__(self) -> None:
        super().__init__()
        self.born: list[Trial] = []
        self.seen: set[Trial] = set()

    def suggest(self, n: int) -> list[Trial]:
        whole = len(self.born) % 2 == 0
        if len(self.born) == 4 or (whole and len(self.seen) < len(self.born)):
            self.calls.append(("suggest", n, []))
            return []
        made = super().suggest(min(n, 2 - len(self.born) % 2))
        self.born += made
        return made

    def observe(self, trial: Trial, result: Result) -> None:
        super().observe(trial, result)
        self.seen.add(trial)


class Median(Scheduler):
    """Two methods would do: stop what is worse than the mean of all reports so far at that step."""

    def __init__(self) -> None:
        self.seen: dict[int, list[float]] = {}

    def should_stop(self, trial: Trial) -> bool:
        seen = self.seen.setdefault(trial.step, [])
        seen.append(trial.metrics["loss"])
        return len(seen) > 2 and seen[-1] > sum(seen) / len(seen)


class Halving(Scheduler):
    """Pauses everybody at steps 1 and 2 and promotes the best half of those who came; no ``restore``."""

    max_resource = 4

    def __init__(self) -> None:
        self.rungs: dict[int, list[tuple[float, int]]] = {1: [], 2: []}
        self.up: set[tuple[int, int]] = set()
        self.known: dict[int, Trial] = {}
        self.drained = 0

    def should_stop(self, trial: Trial) -> bool:
        return trial.step >= 4

    def on_add(self, trial: Trial) -> None:
        assert trial.number not in self.known
        self.known[trial.number] = trial

    def on_report(self, trial: Trial, step: int, metrics: Any) -> Decision:
        if step not in self.rungs:
            return super().on_report(trial, step, metrics)
        self.rungs[step].append((metrics["loss"], trial.number))
        return Decision.PAUSE

    def on_end(self, trial: Trial) -> None:
        for rung in self.rungs.values():
            rung.sort()

    def on_exhausted(self) -> None:
        self.drained += 1

    def next_trial(self) -> Trial | None:
        for step in (2, 1):
            rung = self.rungs[step]
            for _, number in rung[: (len(rung) + (self.drained > 0)) // 2]:
                if (step, number) not in self.up and self.known[number].status == "paused":
                    self.up.add((step, number))
                    return self.known[number]
        return None


class Population(Scheduler):
    """PBT in small: members pause at step 2; once there are two, the worse takes over from the better."""

    max_resource = 4

    def __init__(self) -> None:
        self.members: list[Trial] = []
        self.saved: set[int] = set()
        self.rng = random.Random(3)
        self.winner: Trial | None = None

    def should_stop(self, trial: Trial) -> bool:
        return trial.step >= 4

    def on_report(self, trial: Trial, step: int, metrics: Any) -> Decision:
        return Decision.PAUSE if step == 2 and trial.parent is None else super().on_report(trial, step, metrics)

    def on_save(self, trial: Trial, step: int) -> None:
        self.saved.add(trial.number)

    def on_end(self, trial: Trial) -> None:
        if trial.status == "paused":
            self.members.append(trial)

    def next_trial(self) -> Trial | None:
        if len(self.members) < 2:
            return None
        one, other = sorted(self.members[:2], key=lambda trial: (trial.metrics["loss"], trial.number))
        if self.winner is None and one.number in self.saved:
            self.winner = one
            return Trial({"i": self.rng.randrange(1000)}, parent=other.number, start_from=one.number)
        self.winner = None
        self.members = self.members[2:]
        return one
