"""The contract of schedulers as a test suite, and the rehearsal it is built on.

::

    from sweep.testing.schedulers import SchedulerContract

    class TestMine(SchedulerContract):
        def make(self):
            return MyScheduler()

Every test is a method that pytest collects. `Rehearsal` drives a scheduler as a sweep does, in
virtual time and without executor, store or event loop; use it to test what is special to yours.
"""
# ruff: noqa: S101  # a test suite asserts; each assert says what was expected

from __future__ import annotations

import copy
import heapq
import inspect
import itertools
import math
import pickle
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, NamedTuple, TypeAlias, final

from sweep.schedulers.base import Scheduler
from sweep.space import Distribution, SearchSpace, Uniform
from sweep.trial import Decision, Objective, Reason, Report, Status, Trial

__all__ = ["Call", "Rehearsal", "SchedulerContract"]

_SPACE = SearchSpace({"x": Uniform(0.0, 1.0)})
_LONG = 243  # steps after which an invented trial returns by itself

Curve: TypeAlias = Callable[[Trial, int], Mapping[str, float] | None]


class Call(NamedTuple):
    """One call of the scheduler, or a start, in a rehearsal.

    Attributes:
        time: Virtual time.
        what: ``"add"``, ``"start"``, ``"report"``, ``"end"``, ``"promote"``, ``"exploit"`` or ``"exhausted"``.
        number: Number of the trial; -1 where there is none.
        detail: Step and decision of a report, status of an end, step of a start, parent and donor of an exploit.
    """

    time: float
    what: str
    number: int
    detail: tuple[Any, ...] = ()


@final
class Rehearsal:
    """Drives a scheduler as a sweep does and writes down what happens.

    Args:
        scheduler: Fresh; it is set up here.
        trials: New trials at most (what a budget allows).
        slots: Trials at once.
        curve: Metrics of a trial at a step; None raises in the trial. By default the loss is ``x + 1 / step``.
        seconds: Duration of a step of a trial.
        length: Steps after which a trial returns by itself.
        saves: Whether trials save a checkpoint before each report; without, they restart.
        objective: What is optimised.
        seed: Seed of the parameters, and the scheduler's.

    Attributes:
        trials: All trials by number, exploits among them.
        calls: What happened, in order.
        stuck: Whether it ended although trials were wanted and nothing could go on.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        trials: int = 30,
        slots: int = 4,
        *,
        curve: Curve | None = None,
        seconds: Callable[[Trial, int], float] | None = None,
        length: int = _LONG,
        saves: bool = True,
        objective: Objective | None = None,
        seed: int = 0,
    ) -> None:
        self.scheduler, self.wanted, self.slots, self.length, self.saves = scheduler, trials, slots, length, saves
        self.curve = curve or (lambda trial, step: {"loss": trial.params["x"] + 1 / step})
        self.seconds = seconds or (lambda trial, step: 1.0 + trial.params["x"])
        self.objective, self.seed = objective or Objective("loss"), seed
        self.trials: list[Trial] = []
        self.calls: list[Call] = []
        self.stuck = False
        self.now = 0.0
        self._rng = random.Random(f"rehearsal {seed}")  # noqa: S311  # reproducibility, not secrecy
        self._new = self._running = 0
        self._checkpoint: dict[int, int] = {}
        self._decides: dict[int, int | None] = {}
        self._due: list[tuple[float, int, int, int]] = []  # time, ordinal, number, step
        self._ordinal = itertools.count()

    def run(self) -> Rehearsal:
        """Run to the end and return itself."""
        self.scheduler.setup(_SPACE, [self.objective], self.seed)
        while True:
            self._fill()
            if not self._due:
                self._log("exhausted", -1)
                self.scheduler.on_exhausted()
                self._fill()
                if not self._due:
                    break
            self.now, _, number, step = heapq.heappop(self._due)
            self._step(self.trials[number], step)
        limit = self.scheduler.n_trials
        self.stuck = self._new < (self.wanted if limit is None else min(limit, self.wanted))
        for trial in self.trials:
            if trial.status is Status.PAUSED:
                self._end(trial, Status.STOPPED, Reason.UNPROMOTED)
        return self

    def of(self, what: str) -> list[Call]:
        """Return the calls of one kind."""
        return [call for call in self.calls if call.what == what]

    def starts(self) -> dict[int, list[int]]:
        """Return the step from which each trial was started, each time."""
        found: dict[int, list[int]] = {trial.number: [] for trial in self.trials}
        for call in self.of("start"):
            found[call.number].append(call.detail[0])
        return found

    def _fill(self) -> None:
        while self._running < self.slots:
            trial = self.scheduler.next_trial()
            if trial is not None:
                self._place(trial)
                continue
            room = min(self.scheduler.room(self.slots - self._running), self.wanted - self._new)
            pending = [trial for trial in self.trials if trial.status is Status.PENDING]
            if not pending and room <= 0:
                return
            for _ in range(max(0, room)):
                self._new += 1
                pending.append(self._add(Trial({"x": self._rng.random()})))
            for trial in pending[: self.slots - self._running]:
                self._start(trial)

    def _place(self, trial: Trial) -> None:
        if trial.number >= 0:
            assert trial is self.trials[trial.number], f"next_trial returned a copy of trial {trial.number}"
            assert trial.status is Status.PAUSED, f"next_trial returned trial {trial.number}, which is {trial.status}"
            self._log("promote", trial.number)
            self._start(trial)
            return
        assert trial.parent is not None, "next_trial returned a new trial without a parent"
        parent = self.trials[trial.parent]
        if not parent.status.ended:
            parent.status, parent.reason = Status.STOPPED, Reason.EXPLOITED
        self._add(trial)
        self._log("exploit", trial.number, parent.number, trial.start_from)
        if trial.start_from is not None:
            assert trial.start_from in self._checkpoint, f"trial {trial.start_from} has no checkpoint to start from"
            trial.step = self._checkpoint[trial.number] = self._checkpoint[trial.start_from]
        self._start(trial)

    def _add(self, trial: Trial) -> Trial:
        trial.number = len(self.trials)
        self.trials.append(trial)
        self._log("add", trial.number)
        self.scheduler.on_add(trial)
        return trial

    def _start(self, trial: Trial) -> None:
        self.scheduler.allocate_resources(trial)
        self._decides[trial.number] = self.scheduler.next_decision(trial)
        trial.status, trial.attempts = Status.RUNNING, trial.attempts + 1
        self._running += 1
        step = self._checkpoint.get(trial.number, 0)
        self._log("start", trial.number, step)
        self._go_on(trial, step)

    def _go_on(self, trial: Trial, step: int) -> None:
        at = self.now + self.seconds(trial, step + 1)
        heapq.heappush(self._due, (at, next(self._ordinal), trial.number, step + 1))

    def _step(self, trial: Trial, step: int) -> None:
        metrics = self.curve(trial, step)
        if metrics is None:
            self._ended(trial, Status.FAILED, Reason.ERROR)
            return
        if self.saves:
            self._checkpoint[trial.number] = step
            self.scheduler.on_save(trial, step)
        if step > trial.step:
            trial.step = step
            trial.history.append(Report(step, metrics))
        trial.metrics = {**trial.metrics, **metrics}
        decision = self.scheduler.on_report(trial, step, metrics)
        self._log("report", trial.number, step, decision)
        first = self._decides[trial.number]
        assert first is None or step >= first or decision is Decision.CONTINUE, (
            f"on_report said {decision.name} at step {step}; next_decision had said {first}"
        )
        if decision is Decision.PAUSE:
            self._ended(trial, Status.PAUSED, None)
        elif decision is Decision.STOP:
            top = self.scheduler.max_resource
            complete = top is not None and step >= top
            self._ended(trial, *_OUTCOME[complete])
        elif step >= self.length:
            self._ended(trial, Status.COMPLETED, Reason.COMPLETED)
        else:
            self._go_on(trial, step)

    def _ended(self, trial: Trial, status: Status, reason: Reason | None) -> None:
        self._running -= 1
        name = self.objective.metric
        trial.score = math.nan if status is Status.FAILED else trial.metrics.get(name or "loss", math.nan)
        self._end(trial, status, reason)

    def _end(self, trial: Trial, status: Status, reason: Reason | None) -> None:
        trial.status, trial.reason = status, reason
        self._log("end", trial.number, status)
        self.scheduler.on_end(trial)

    def _log(self, what: str, number: int, *detail: Any) -> None:
        self.calls.append(Call(self.now, what, number, detail))


_OUTCOME = {True: (Status.COMPLETED, Reason.COMPLETED), False: (Status.STOPPED, Reason.PRUNED)}


class SchedulerContract(ABC):
    """What every scheduler keeps to. Subclass it, name the class ``Test…``, and give `make`.

    Attributes:
        trials: New trials in a rehearsal.
        length: Steps after which its trials return by themselves.
        oriented: Whether decisions follow from the objective's metric and mode.
    """

    trials: ClassVar[int] = 30
    length: ClassVar[int] = 100
    oriented: ClassVar[bool] = True

    @abstractmethod
    def make(self) -> Scheduler:
        """Return a fresh scheduler, not set up."""

    def rehearse(self, slots: int = 4, **options: Any) -> Rehearsal:
        """Return a rehearsal of a fresh scheduler, run to its end."""
        return Rehearsal(self.make(), self.trials, slots, **{"length": self.length, **options}).run()

    def test_every_trial_comes_to_an_end(self) -> None:
        """With any number of slots all trials are run and none is left open."""
        for slots in (1, 3, 64):
            self._all_end(self.rehearse(slots))

    def test_same_calls_same_answers(self) -> None:
        """The scheduler is a function of its seed and of the calls."""
        assert self.rehearse(seed=3).calls == self.rehearse(seed=3).calls

    def test_another_run_begins_afresh(self) -> None:
        """One scheduler for two runs: the second is as the first was."""
        scheduler = self.make()
        first, second = (Rehearsal(scheduler, self.trials, length=self.length).run().calls for _ in range(2))
        assert first == second, "setup did not begin afresh"

    def test_global_randomness_is_left_alone(self) -> None:
        """The generator of random is neither read nor advanced."""
        before = random.getstate()
        one = self.rehearse().calls
        assert random.getstate() == before, "the global random generator was advanced"
        random.seed(99)
        try:
            assert one == self.rehearse().calls, "decisions depend on the global random generator"
        finally:
            random.setstate(before)

    def test_orientation(self) -> None:
        """Minimising f and maximising -f lead to the same decisions."""
        if not self.oriented:
            return

        def negative(trial: Trial, step: int) -> dict[str, float]:
            return {"loss": -trial.params["x"] - 1 / step}

        modes: tuple[Literal["min", "max"], ...] = ("min", "max")
        down, up = (Objective("loss", mode) for mode in modes)
        same = self.rehearse(objective=down).calls == self.rehearse(objective=up, curve=negative).calls
        assert same, "other decisions where -f is maximised; of a scheduler that knows its metric itself: oriented = False"

    def test_constant_losses(self) -> None:
        """Ties are no trouble."""
        self._all_end(self.rehearse(curve=lambda trial, step: {"loss": 1.0}))

    def test_nothing_but_bad_numbers(self) -> None:
        """NaN and infinity in every report: no deadlock, nobody is promoted to the end by them."""
        for bad in (math.nan, math.inf, -math.inf):
            self._all_end(self.rehearse(curve=lambda trial, step, bad=bad: {"loss": bad}))

    def test_missing_metric(self) -> None:
        """Reports without the metric, always or mostly, are no trouble."""
        self._all_end(self.rehearse(curve=lambda trial, step: {"other": 1.0}))
        self._all_end(self.rehearse(curve=lambda trial, step: {"loss": 1.0} if step % 5 == 4 else {"other": 1.0}))

    def test_nothing_but_failures(self) -> None:
        """Every trial raises at its first step."""
        self._all_end(self.rehearse(curve=lambda trial, step: None))

    def test_some_fail(self) -> None:
        """A third of the trials raises at some step, a third reports NaN: no deadlock, and no donor among them."""

        def curve(trial: Trial, step: int) -> dict[str, float] | None:
            if trial.number % 3 == 0 and step > trial.number % 7:
                return None
            return {"loss": math.nan if trial.number % 3 == 1 else trial.params["x"]}

        for slots in (1, 5):
            rehearsal = self._all_end(self.rehearse(slots, curve=curve))
            for call in rehearsal.of("exploit"):
                assert call.detail[1] % 3 != 1, f"trial {call.number} takes over from {call.detail[1]}, which is NaN"

    def test_trials_that_return_early(self) -> None:
        """Objectives that return before a trial's resources are used up, or after one report."""
        self._all_end(self.rehearse(length=1))
        self._all_end(self.rehearse(length=5))

    def test_without_checkpoints(self) -> None:
        """Trials that restart at step 1 each time report the same steps again; nobody takes over from them."""
        rehearsal = self._all_end(self.rehearse(saves=False))
        assert not rehearsal.of("exploit"), "an exploit from a trial that has no checkpoint"

    def test_skipped_steps(self) -> None:
        """Trials that report every seventh step only."""
        self._all_end(self.rehearse(curve=lambda trial, step: {"loss": trial.params["x"]} if step % 7 == 0 else {}))

    def test_trials_are_not_written_to(self) -> None:
        """``on_add``, ``on_report`` and ``on_end`` leave a trial as it is."""
        scheduler = self.make()
        scheduler.setup(_SPACE, [Objective("loss")], 0)
        trial = Trial({"x": 0.5}, number=0)
        before = _state(trial)
        scheduler.on_add(trial)
        scheduler.allocate_resources(trial)
        scheduler.next_decision(trial)
        assert _state(trial) == before, "a trial was changed when it was added"
        trial.step, trial.metrics, trial.status = 1, {"loss": 1.0}, Status.RUNNING
        trial.history.append(Report(1, {"loss": 1.0}))
        before = _state(trial)
        scheduler.on_report(trial, 1, {"loss": 1.0})
        assert _state(trial) == before, "a trial was changed when it reported"
        trial.status = Status.FAILED
        before = _state(trial)
        scheduler.on_end(trial)
        assert _state(trial) == before, "a trial was changed when it ended"

    def test_room_is_a_count(self) -> None:
        """``room`` returns a number >= 0, more than 0 at the very start."""
        scheduler = self.make()
        scheduler.setup(_SPACE, [Objective("loss")], 0)
        assert scheduler.room(0) >= 0
        assert scheduler.room(2) > 0, "room(2) is 0 before anything has been started"

    def test_no_objection_to_an_endless_optimizer(self) -> None:
        """With an optimizer that goes on for ever and no limit to the trials nothing speaks against it."""
        assert self.make().objection(finite=False, trials=None) is None

    def test_pauses_says_so(self) -> None:
        """A scheduler that pauses trials says so, so that people learn of missing checkpoints before they wait."""
        paused = [call for call in self.rehearse().of("report") if call.detail[1] is Decision.PAUSE]
        assert not paused or self.make().pauses, f"trial {paused[0].number} was paused, but pauses is False"

    def test_pickling(self) -> None:
        """A fresh scheduler travels to another process."""
        scheduler = pickle.loads(pickle.dumps(self.make()))  # noqa: S301  # its own pickle
        copied = Rehearsal(scheduler, self.trials, length=self.length).run()
        assert copied.calls == self.rehearse().calls

    def test_restore(self) -> None:
        """Where there is a ``restore``: a scheduler that is given the trials goes on with them."""
        if not hasattr(self.make(), "restore"):
            return
        trials = self.rehearse().trials
        scheduler = self.make()
        scheduler.setup(_SPACE, [Objective("loss")], 0)
        scheduler.restore(copy.deepcopy(trials))  # type: ignore[attr-defined]  # optional in the protocol
        trial = Trial({"x": 0.0}, number=len(trials))
        scheduler.on_add(trial)
        assert scheduler.next_trial() is None, "all trials have ended: there is nobody to go on"

    def test_tunable(self) -> None:
        """``TUNABLE`` names constructor arguments and gives each a distribution."""
        cls = type(self.make())
        takes = inspect.signature(cls).parameters
        for name, part in cls.TUNABLE.items():
            assert isinstance(part, Distribution), f"TUNABLE[{name!r}] is {part!r}, expected a distribution"
            assert name in takes, f"TUNABLE[{name!r}] is no argument of {cls.__name__}"

    def _all_end(self, rehearsal: Rehearsal) -> Rehearsal:
        assert not rehearsal.stuck, f"only {len(rehearsal.trials)} trials were started, then nothing went on"
        for trial in rehearsal.trials:
            assert trial.status.ended, f"trial {trial.number} is still {trial.status}"
        return rehearsal


def _state(trial: Trial) -> dict[str, Any]:
    return copy.deepcopy({name: getattr(trial, name) for name in Trial.__slots__})
