"""The optimizer's lane: its calls, one at a time, in the order in which the machine asks for them.

An optimizer that is cheap (it answers from memory, in microseconds) is called where its effects arise, and what
comes of it is part of the same commit. Any other is called by one task, ``suggest`` in a worker thread, while
trials run and report.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, final

import anyio

from sweep.experiments import events as ev
from sweep.experiments.conductor import Conductor, Step
from sweep.optimizers.base import Optimizer
from sweep.threads import WorkerThreads
from sweep.trial import Trial

__all__ = ["Lane"]


@final
class Lane:
    """Calls one optimizer.

    Args:
        optimizer: It need not be set up yet.

    Attributes:
        cheap: Its calls never wait, so that :meth:`answered` performs them.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.cheap = bool(getattr(optimizer, "cheap", False))
        self._turn = threading.Lock()
        self._calls: deque[ev.Ask | ev.Observe] = deque()
        self._wake = anyio.Event()

    def predictor(self) -> Callable[..., object] | None:
        """Return the optimizer's ``predict``, which waits its turn while another call works; None if it has none."""
        predict = getattr(self.optimizer, "predict", None)
        if predict is None:
            return None

        def in_turn(trials: Sequence[object], resource: float) -> object:
            with self._turn:
                return predict(trials, resource)

        return in_turn

    def answered(self, step: Step, conductor: Conductor) -> None:
        """Perform a cheap optimizer's effects of a step, on any thread: what follows from them joins the step.

        It lives in memory alone, so that nothing outside it precedes the commit.
        """
        others: list[Any] = []
        effects = deque(step.effects)
        while effects:
            effect = effects.popleft()
            if isinstance(effect, ev.Observe):
                self._observe(effect)
            elif isinstance(effect, ev.Ask):
                more = conductor.suggested(effect, self._suggest(effect.n))
                step.events += more.events
                effects += more.effects
            else:
                others.append(effect)
        step.effects = others

    def put(self, effect: ev.Ask | ev.Observe) -> None:
        """Let :meth:`work` perform an effect after those before it; called on the loop."""
        self._calls.append(effect)
        self._wake.set()

    async def work(
        self,
        threads: WorkerThreads,
        hold: Callable[[], AbstractContextManager[object]],
        answer: Callable[[ev.Ask, Sequence[Trial]], object],
    ) -> None:
        """Perform what was put here, until cancelled.

        Args:
            threads: Where ``suggest`` runs.
            hold: Lets virtual time stand still while the optimizer thinks.
            answer: Takes what it suggests.
        """
        while True:
            if not self._calls:
                await self._wake.wait()
            self._wake = anyio.Event()
            while self._calls:
                effect = self._calls.popleft()
                if isinstance(effect, ev.Observe):
                    self._observe(effect)
                else:
                    with hold():
                        trials = await threads.run(self._suggest, effect.n)
                    answer(effect, trials)

    def _observe(self, effect: ev.Observe) -> None:
        with self._working("observe"):
            self.optimizer.observe(effect.trial, effect.result)

    def _suggest(self, n: int) -> list[Trial]:
        with self._working("suggest"):
            return self.optimizer.suggest(n)

    @contextmanager
    def _working(self, method: str) -> Iterator[None]:
        """Let one call of the optimizer work at a time; what it raises says which it was."""
        with self._turn:
            try:
                yield
            except Exception as error:
                error.add_note(f"in {method}() of the optimizer {type(self.optimizer).__name__}")
                raise
