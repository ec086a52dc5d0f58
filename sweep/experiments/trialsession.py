"""The wire of one attempt of a trial into its sweep."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, final

from sweep.clock import current_clock
from sweep.errors import StoreError, StoreUnwritable
from sweep.experiments import events as ev
from sweep.experiments.checkpoints import Checkpoints
from sweep.experiments.conductor import Conductor, Step
from sweep.pipeline.runtime import Handle
from sweep.store.journal import Journal
from sweep.trial import Decision

__all__ = ["Desk", "TrialSession"]


class Desk(Protocol):
    """What a session asks of the driver."""

    conductor: Conductor
    handle: Handle
    checkpoints: Checkpoints
    mutex: Any

    def submit(self, call: Callable[..., Step], *args: Any) -> Step:
        """Let the conductor take something, commit it, and hand its effects on."""


@final
class TrialSession:
    """The wire of one attempt into the sweep; used from the loop or from any thread."""

    __slots__ = ("_attempt", "_desk", "_journal", "_reference", "_row", "_run", "_saves", "_trial", "next_decision")

    def __init__(self, desk: Desk, start: ev.Start, row: int) -> None:
        self._desk, self._trial, self._row = desk, start.trial, row
        self._attempt, self._run, self._reference = start.attempt, start.run, start.checkpoint
        self._saves, self._journal = 0, Journal(desk.handle.store, row, desk.handle.root_id, fresh=True)
        self.next_decision: int | None = desk.conductor.scheduler.next_decision(start.trial)

    def report(self, step: int, metrics: Mapping[str, float]) -> Decision:
        """Fold a report and return the decision."""
        desk, number = self._desk, self._trial.number
        taken = desk.submit(desk.conductor.report, number, self._attempt, step, dict(metrics), self._run)
        if taken.answer is Decision.CONTINUE:
            self.next_decision = desk.conductor.scheduler.next_decision(self._trial)
        return taken.answer

    def save(self, value: Any) -> None:
        """Write a checkpoint; it counts from the next report on. A full disk ends the sweep, it is no fault of the trial."""
        desk, journal = self._desk, self._journal
        place = f"ctx.save() of {self._trial.path}"
        try:
            text = journal.encode(value, place=place)
        except StoreUnwritable as error:
            desk.submit(_raising, error)
            raise
        with desk.mutex:
            self._saves += 1
            key = f"checkpoint/{self._attempt}.{self._run}.{self._saves}"
            reference = f"{self._row}:{key}"
            journal.put(key, "checkpoint", text)
            desk.checkpoints.written(reference, text)
            desk.submit(desk.conductor.save, self._trial.number, self._attempt, reference, self._run)
        self._reference = reference

    def load(self) -> Any | None:
        """Read the checkpoint this attempt goes on from; a damaged one ends the sweep, it is no fault of the trial."""
        if self._reference is None:
            return None
        try:
            return self._read(self._reference)
        except StoreError as error:
            self._desk.submit(_raising, error)
            raise

    def _read(self, reference: str) -> Any:
        row, _, key = reference.partition(":")
        store, root_id = self._desk.handle.store, self._desk.handle.root_id
        store.commit()
        journal = Journal(store, int(row), root_id, fresh=True)
        found = journal.fetch(key)
        if found is None:
            raise StoreError(f"the checkpoint {reference} of {self._trial.path} is gone from {store.path}")
        return journal.decode(key, found)

    def log(self, message: str) -> None:
        """Append a line to the trial's log."""
        file = self._desk.handle.store.run_directory(self._row) / "log.txt"
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("a", encoding="utf-8") as lines:
                lines.write(f"{message}\n")
        except OSError as error:
            problem = StoreUnwritable(f"cannot write {file}: {error.strerror or error}; make room for it, then resume")
            self._desk.submit(_raising, problem)
            raise problem from error

    def log_metric(self, name: str, value: float, step: int | None) -> None:
        """Queue a metric that no scheduler sees."""
        query = "INSERT INTO metric(run_id, name, step, value) VALUES (?,?,?,?)"
        self._desk.handle.store.add(query, (self._row, name, step, value))

    def log_artifact(self, path: Path) -> None:
        """Note a file of the trial."""
        query = "INSERT INTO artifact(run_id, name, kind, path, size, at) VALUES (?,?,?,?,?,?)"
        facts = (self._row, path.name, "file", str(path.resolve()), path.stat().st_size, current_clock().wall())
        self._desk.handle.store.add(query, facts)


def _raising(error: Exception) -> Step:
    raise error
