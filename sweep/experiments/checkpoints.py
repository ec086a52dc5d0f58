"""Which checkpoints of a sweep are kept: the latest of each live trial, the best three of the rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import final

from sweep.experiments import events as ev
from sweep.experiments.history import machine_of
from sweep.experiments.machine import Machine
from sweep.store.journal import Journal
from sweep.store.runs import RunRow
from sweep.store.writer import Store
from sweep.trial import Trial

__all__ = ["Checkpoints", "orphans"]

_BEST = 3


@final
class Checkpoints:
    """Counts who needs which checkpoint and drops those that nobody needs any more.

    Args:
        store: The open store.
        root_id: Root of the tree, which owns the blobs.
        machine: The sweep; what it refers to now is taken over.
    """

    def __init__(self, store: Store, root_id: int, machine: Machine) -> None:
        self._store, self._root_id, self._machine = store, root_id, machine
        self._held: dict[int, dict[int, str]] = {}  # by trial and repeat
        self._users: Counter[str] = Counter()
        self._best: list[tuple[float, int]] = []
        self._bare: set[str] = set()
        for trial in machine.trials:
            self.update(trial.number)
            if trial.status.ended:
                self.ended(trial)

    def follow(self, events: Sequence[ev.Event]) -> None:
        """Drop what events that the machine has taken make useless."""
        for event in events:
            if isinstance(event, ev.Saved):
                self.update(event.number, event.run)
            elif isinstance(event, ev.Exploited):
                self.update(event.new.number)
            elif isinstance(event, ev.Ended) and self._machine.trials[event.number].status.ended:
                self.ended(self._machine.trials[event.number])

    def written(self, reference: str, text: str) -> None:
        """Take note of what a checkpoint is: one without arrays is dropped by one statement instead of three."""
        if "$" not in text:
            self._bare.add(reference)

    def update(self, number: int, run: int = 0) -> None:
        """Take note of the checkpoint that a trial goes on from now."""
        found = self._machine.checkpoint(number, run)
        if found is not None:
            self._hold(number, run, found[1])

    def ended(self, trial: Trial) -> None:
        """A trial will not go on: keep its checkpoint only if it is among the best three."""
        if 0 not in self._held.get(trial.number, ()):
            return
        loss = self._machine.standing.objectives[0].loss(trial.score) if trial.score is not None else float("inf")
        self._best = sorted([*self._best, (loss, trial.number)])
        if len(self._best) > _BEST:
            _, number = self._best.pop()
            for run in tuple(self._held.get(number, ())):
                self._hold(number, run, None)
            self._held.pop(number, None)

    def _hold(self, number: int, run: int, reference: str | None) -> None:
        held = self._held.setdefault(number, {})
        old = held.pop(run, None)
        if reference is not None:
            held[run] = reference
            self._users[reference] += 1
        if old is not None:
            self._users[old] -= 1
            if self._users[old] <= 0:
                del self._users[old]
                row, _, name = old.partition(":")
                Journal(self._store, int(row), self._root_id, fresh=True).discard(name, bare=old in self._bare)
                self._bare.discard(old)


def orphans(store: Store, row: RunRow) -> list[tuple[int, str]]:
    """Return run id and key of the stored checkpoints of a sweep that no trial would start from any more.

    A crash leaves some: those saved after the last report, and those of trials that ended while it died.
    """
    machine = machine_of(store, row)
    repeats = (row.data("identity") or {}).get("repeats") or 1
    loss = machine.standing.objectives[0].loss
    ended = [trial for trial in machine.trials if trial.status.ended]
    ended.sort(key=lambda trial: (float("inf") if trial.score is None else loss(trial.score), trial.number))
    best = [trial for trial in ended if machine.checkpoint(trial.number) is not None][:_BEST]
    going_on = [trial for trial in machine.trials if not trial.status.ended]
    found = [machine.checkpoint(trial.number, run) for trial in (*best, *going_on) for run in range(repeats)]
    kept = {reference for _, reference in filter(None, found)}
    query = "SELECT j.run_id, j.key FROM journal j JOIN run r ON r.id=j.run_id WHERE r.parent_id=? AND j.kind='checkpoint'"
    return [(run_id, key) for run_id, key in store.rows(query, (row.id,)) if f"{run_id}:{key}" not in kept]
