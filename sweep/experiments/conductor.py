"""Machine and scheduler together, still without I/O: what the driver of a sweep talks to.

The scheduler answers at once, so its calls need no driver: ``Conductor`` performs them and folds
the answers. Each call returns a :class:`Step`: events to commit in one transaction, then effects to
perform (``Start``, ``Ask``, ``Observe``, ``Cancel``, ``Finish``). So a report and its decision, or
the end of one attempt, a promotion and the start of the next, are one commit.

:func:`replay` gives strategies without ``restore`` their calls again, in journal order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias, final

from sweep.errors import StrategyError
from sweep.experiments import events as ev
from sweep.experiments.machine import Machine
from sweep.optimizers.base import Optimizer
from sweep.schedulers.base import Scheduler
from sweep.trial import Decision, Trial

__all__ = ["Conductor", "Step", "replay"]

DriverEffect: TypeAlias = ev.Start | ev.Ask | ev.Observe | ev.Cancel | ev.Finish
_FOR_DRIVER = (ev.Ask, ev.Observe, ev.Cancel)
_ANSWERS = (ev.Promoted, ev.Exploited)  # tuples: isinstance is several times slower with a union


@final
@dataclass(slots=True)
class Step:
    """What one call of the conductor came to.

    Attributes:
        events: To be committed, in this order, in one transaction.
        effects: To be performed after that, in this order.
        answer: For a report: what the attempt is to do.
    """

    events: list[ev.Event] = field(default_factory=list)
    effects: list[DriverEffect] = field(default_factory=list)
    answer: Decision = Decision.CONTINUE


@final
@dataclass(slots=True)
class _Held:
    """The attempt of a repeat, the last step it reported, and a checkpoint whose report is still to come."""

    attempt: int
    step: int
    reference: str | None = None


@final
class Conductor:
    """Drives the machine's scheduler; the driver does the rest.

    One call at a time; nothing in here waits.

    Args:
        machine: Fresh, or replayed and opened.
        scheduler: Set up, and restored if there is a history.
        wall: Returns seconds since the epoch, for ``Started`` and ``Finished``.
    """

    def __init__(self, machine: Machine, scheduler: Scheduler, wall: Callable[[], float]) -> None:
        self.machine, self.scheduler, self._wall = machine, scheduler, wall
        self._held: dict[tuple[int, int], _Held] = {}

    def wake(self) -> Step:
        """Begin, or go on after a replay.

        Raises:
            StrategyError: The scheduler broke its protocol (this and all other methods).
        """
        step = Step()
        self._perform(self.machine.wake(), step)
        return step

    def submit(self, event: ev.Event, made: Sequence[Trial] = ()) -> Step:
        """Fold an event and whatever the scheduler makes of it; an event that is late or double gives an empty step."""
        step = Step()
        self._fold(event, step, made)
        return step

    def suggested(self, ask: ev.Ask, trials: Sequence[Trial]) -> Step:
        """Take the optimizer's answer to ``ask``.

        Raises:
            StrategyError: It is no list of new trials, or of more than were asked for.
        """
        call = f"suggest({ask.n}) of the optimizer"
        if not isinstance(trials, list | tuple) or not all(isinstance(trial, Trial) for trial in trials):
            raise StrategyError(f"{call} returned {trials!r}; expected a list of Trial(params), [] for none")
        if len(trials) > ask.n:
            raise StrategyError(f"{call} returned {len(trials)} trials; expected at most {ask.n}")
        if len({id(trial) for trial in trials}) < len(trials) or any(trial.number >= 0 for trial in trials):
            raise StrategyError(f"{call} returned a trial that the sweep already has; make a new Trial each time")
        first = len(self.machine.trials)
        news = tuple(ev.New(first + i, trial.params, notes=trial.notes) for i, trial in enumerate(trials))
        return self.submit(ev.Suggested(news, ask.n, ask.observed), trials)

    def save(self, number: int, attempt: int, reference: str, run: int = 0) -> Step:
        """Take a checkpoint; it counts from the attempt's next report on (or its next save, or its return)."""
        step = Step()
        held = self._held.get((number, run))
        if held is not None and held.attempt == attempt:
            self._release(number, run, held, held.step, step)
            held.reference = reference
        return step

    def report(self, number: int, attempt: int, at: int, metrics: dict[str, float], run: int = 0) -> Step:
        """Take a report; ``answer`` is the decision. One that is already journaled is answered from the journal."""
        step = Step()
        held = self._held.get((number, run))
        if held is not None and held.attempt == attempt:
            self._release(number, run, held, at, step)
            held.step = max(held.step, at)
        self._fold(ev.Reported(number, attempt, at, metrics, run), step)
        step.answer = self.machine.answer(number, attempt, run)
        return step

    def ended(self, event: ev.Ended) -> Step:
        """Take the end of an attempt."""
        step = Step()
        held = self._held.get((event.number, event.run))
        if held is not None and held.attempt == event.attempt:
            if event.kind == "completed":
                self._release(event.number, event.run, held, held.step, step)
            del self._held[event.number, event.run]
        self._fold(event, step)
        return step

    def _release(self, number: int, run: int, held: _Held, at: int, step: Step) -> None:
        if held.reference is not None:
            self._fold(ev.Saved(number, held.attempt, at, held.reference, run), step)
            held.reference = None

    def _fold(self, event: ev.Event, step: Step, made: Sequence[Trial] = ()) -> None:
        effects = self.machine.fold(event, made)
        if effects is not None:
            step.events.append(event)
            self._perform(effects, step)

    def _perform(self, effects: Iterable[ev.Effect], step: Step) -> None:
        """Perform the scheduler's effects and hand on the others."""
        queue = deque(effects)
        while queue:
            effect = queue.popleft()
            event: ev.Event | None = None
            made: tuple[Trial, ...] = ()
            if isinstance(effect, ev.Start):
                number, run = effect.trial.number, effect.run
                event = ev.Started(number, effect.attempt, self._wall(), run)
                self._held[number, run] = _Held(effect.attempt, effect.step)
                step.effects.append(effect)
            elif isinstance(effect, _FOR_DRIVER):
                step.effects.append(effect)
            elif isinstance(effect, ev.Place):
                found = self.scheduler.next_trial()
                if found is None:
                    queue += self.machine.admit(self._room(effect.new))
                    continue
                event, made = self._placed(found), (found,)
            elif isinstance(effect, ev.Judge):
                decision = self.scheduler.on_report(effect.trial, effect.step, effect.metrics)
                self._judge(effect.trial, effect.step, decision, step)
            else:
                event = self._rare(effect, step)
            if event is not None:
                follow = self.machine.fold(event, made)
                if follow is None:
                    raise StrategyError(_refused(event, self.machine))
                step.events.append(event)
                queue += follow

    def _rare(
        self, effect: ev.Added | ev.Settled | ev.Kept | ev.Enqueue | ev.Drain | ev.Finish, step: Step
    ) -> ev.Event | None:
        """Perform an effect and return the event that answers it, if there is one."""
        if isinstance(effect, ev.Enqueue):
            return ev.Suggested(effect.trials)
        if isinstance(effect, ev.Finish):
            step.effects.append(effect)
            return ev.Finished(str(effect.status), str(effect.reason), effect.text, self._wall())
        if isinstance(effect, ev.Drain):
            self.scheduler.on_exhausted()
            return ev.Drained()
        _tell(self.scheduler, effect)
        return None

    def _room(self, new: int) -> int:
        return max(0, self.scheduler.room(new)) if new > 0 else 0

    def _judge(self, trial: Trial, at: int, decision: Decision, step: Step) -> None:
        """Write a decision into the report's own event, the last of the step."""
        if decision is Decision.CONTINUE:
            return
        if not isinstance(decision, Decision):
            raise StrategyError(
                f"on_report of the scheduler returned {decision!r} for trial {trial.number} at step {at}; "
                "expected Decision.CONTINUE, STOP or PAUSE"
            )
        self.machine.decide(trial.number, decision)
        word: Literal["stop", "pause"] = "stop" if decision is Decision.STOP else "pause"
        report = step.events[-1]
        if isinstance(report, ev.Reported):
            step.events[-1] = replace(report, decision=word)

    def _placed(self, trial: Trial) -> ev.Event:
        """Return the event of what ``next_trial`` wants."""
        if not isinstance(trial, Trial):
            raise StrategyError(f"next_trial of the scheduler returned {trial!r}; expected a Trial or None")
        if trial.number >= 0:
            return ev.Promoted(trial.number, trial.step)
        if trial.parent is None:
            raise StrategyError(
                "next_trial of the scheduler returned a new trial without parent; expected a paused trial, or a new "
                "one with parent (whose place it takes) and start_from (whose checkpoint it starts from)"
            )
        donor = trial.start_from
        if donor is not None and not (0 <= donor < len(self.machine.trials) and self.machine.checkpoint(donor)):
            raise StrategyError(
                f"next_trial of the scheduler starts a trial from trial {donor}, which has no checkpoint; "
                "the objective has to call ctx.save(state) before ctx.report(...)"
            )
        new = ev.New(len(self.machine.trials), trial.params, "scheduler", trial.notes, trial.parent, donor)
        return ev.Exploited(trial.parent, new)


def _refused(event: ev.Event, machine: Machine) -> str:
    """Return what was wrong with an answer of the scheduler."""
    if isinstance(event, _ANSWERS):
        known = event.number < len(machine.trials)
        state = f"is {machine.trials[event.number].status}" if known else "does not exist"
        wanted = "a paused trial" if isinstance(event, ev.Promoted) else "the parent to be a trial that has not ended"
        return f"next_trial of the scheduler picked trial {event.number}, which {state}; expected {wanted}"
    return f"the sweep cannot take {event!r} now"


def replay(
    machine: Machine,
    events: Iterable[ev.Event],
    *,
    optimizer: Optimizer | None = None,
    scheduler: Scheduler | None = None,
) -> list[str]:
    """Replay a journal into a fresh machine and give strategies without ``restore`` their calls again.

    ``suggest`` and ``observe``, ``on_add``, ``on_report``, ``on_end``, ``on_save``, ``on_exhausted`` and
    ``next_trial`` are called in the order in which they were called the first time (a ``next_trial`` that
    said None left no trace and is not repeated). Where an answer differs from the journal's, the journal's stands.

    Args:
        machine: Fresh.
        events: The journal, the new session's ``Opened`` included.
        optimizer: Set up; None if it has ``restore``.
        scheduler: Set up; None if it has ``restore``.

    Returns:
        One line for each answer that differed.
    """
    if optimizer is None and scheduler is None:
        machine.apply(events)
        return []
    player = _Player(machine, optimizer, scheduler)
    for event in events:
        player.take(event)
    player.observe(None)
    return player.differences


@final
class _Player:
    """The state of a replay."""

    def __init__(self, machine: Machine, optimizer: Optimizer | None, scheduler: Scheduler | None) -> None:
        self.machine, self.optimizer, self.scheduler = machine, optimizer, scheduler
        self.differences: list[str] = []
        self._results: deque[ev.Observe] = deque()
        self._told = 0

    def take(self, event: ev.Event) -> None:
        """Repeat the calls that came before an event, fold it, and repeat those that follow from it."""
        made: Sequence[Trial] = ()
        if self.optimizer is not None and isinstance(event, ev.Suggested) and event.asked:
            made = self._suggest(self.optimizer, event)
        elif self.scheduler is not None and isinstance(event, _ANSWERS):
            made = self._next_trial(self.scheduler, event)
        elif self.scheduler is not None and isinstance(event, ev.Drained):
            self.scheduler.on_exhausted()
        for effect in self.machine.fold(event, made) or ():
            if isinstance(effect, ev.Observe):
                self._results.append(effect)
            elif self.scheduler is None:
                continue
            elif isinstance(effect, ev.Judge):
                if isinstance(event, ev.Reported):
                    self._judge(self.scheduler, effect, event.decision)
            else:
                _tell(self.scheduler, effect)

    def observe(self, until: int | None) -> None:
        """Deliver results until so many have been given in all (None: every one)."""
        while self._results and (until is None or self._told < until):
            effect = self._results.popleft()
            self._told += 1
            if self.optimizer is not None:
                self.optimizer.observe(effect.trial, effect.result)

    def _suggest(self, optimizer: Optimizer, event: ev.Suggested) -> Sequence[Trial]:
        self.observe(event.observed)
        made = optimizer.suggest(event.asked)
        journaled, now = [new.params for new in event.trials], [trial.params for trial in made]
        if journaled == now:
            return made
        where = f"trial {event.trials[0].number}" if event.trials else "no trial"
        self.differences.append(f"suggest({event.asked}) gave {journaled} ({where}), now it gives {now}")
        return ()

    def _next_trial(self, scheduler: Scheduler, event: ev.Promoted | ev.Exploited) -> Sequence[Trial]:
        found = scheduler.next_trial()
        if isinstance(event, ev.Promoted):
            if found is None or found.number != event.number:
                self.differences.append(f"next_trial resumed trial {event.number}, now it gives {found!r}")
            return ()
        if found is not None and found.parent == event.number and found.params == event.new.params:
            return (found,)
        self.differences.append(
            f"next_trial replaced trial {event.number} by {event.new.params}, now it gives {found!r}"
        )
        return ()

    def _judge(self, scheduler: Scheduler, effect: ev.Judge, then: str) -> None:
        now = scheduler.on_report(effect.trial, effect.step, effect.metrics)
        if now.value != then:
            self.differences.append(
                f"trial {effect.trial.number} was told {then.upper()} at step {effect.step}, "
                f"now on_report gives {now.name}"
            )


def _tell(scheduler: Scheduler, effect: ev.Effect) -> None:
    """Perform a scheduler's effect that has no answer."""
    if isinstance(effect, ev.Added):
        scheduler.on_add(effect.trial)
    elif isinstance(effect, ev.Settled):
        scheduler.on_end(effect.trial)
    elif isinstance(effect, ev.Kept):
        scheduler.on_save(effect.trial, effect.step)
