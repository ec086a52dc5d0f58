"""The context of a stage outside a sweep: what it reports, saves and logs goes to its run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

from sweep.clock import current_clock
from sweep.context import Context, Session
from sweep.deferred import in_event_loop
from sweep.pipeline.runtime import Activation, Handle, Saving
from sweep.store.blobs import HeldBlobs
from sweep.store.codec import encode
from sweep.trial import Decision

__all__ = ["StageSession", "facts_of", "session_of", "stage_context"]


def stage_context(act: Activation) -> Context:
    """Return the context of a stage activation."""
    handle = act.frame.handle
    return Context(
        session_of(act),
        **facts_of(act),
        directory=handle.store.run_directory(handle.run_id) if handle else None,
        deadline=act.deadline,
        tracker=act.frame.facts.get("tracker"),
    )


def session_of(act: Activation) -> Session | None:
    """Return the session of the trial that an activation is part of, or its own; None if nothing is kept."""
    if act.frame.session is not None:
        return act.frame.session
    return None if act.frame.handle is None else StageSession(act, act.frame.handle, is_waited_for=True)


def facts_of(act: Activation) -> dict[str, Any]:
    """Return the plain facts of an activation's context."""
    handle, facts = act.frame.handle, act.frame.facts
    return {
        "run_id": handle.run_id if handle else 0,
        "path": act.path,
        "trial": facts.get("trial"),
        "attempt": act.attempt,
        "step": facts.get("step", 0),
        "seed": facts.get("seed", handle.seed if handle else 0),
    }


@final
class StageSession:
    """The session of a stage outside a sweep: what it saves is kept under its own key.

    Args:
        act: The stage.
        handle: Its run.
        is_waited_for: Whoever calls the stage waits for ``act.saving`` afterwards.
    """

    next_decision: int | None = None

    def __init__(self, act: Activation, handle: Handle, *, is_waited_for: bool = False) -> None:
        self._act, self._handle, self._is_waited_for = act, handle, is_waited_for

    def report(self, step: int, metrics: Mapping[str, float]) -> Decision:
        """Record metrics; nobody decides."""
        for name, value in metrics.items():
            self.log_metric(name, value, step)
        return Decision.CONTINUE

    def save(self, value: object) -> None:
        """Keep a checkpoint of the stage, in place of the one before.

        What has large arrays is copied, and written by a thread where the event loop would have to wait: what the stage
        reports after it is kept after it, and the stage has ended once it is kept.
        """
        place, journal = f"ctx.save() in stage {self._act.path!r}", self._handle.journal
        self._wait()
        if self._is_waited_for and in_event_loop():
            held = HeldBlobs()
            text = encode(value, held, place=place)
            if held:
                self._act.saving = Saving(lambda: self._keep(held.put_into(journal.blobs, text)))
                return
        else:
            text = journal.encode(value, place=place)
        self._keep(text)

    def _keep(self, text: str) -> None:
        self._handle.journal.replace(f"{self._act.key}!saved", "saved", text)
        self._handle.store.commit()

    def _wait(self) -> None:
        saving, self._act.saving = self._act.saving, None
        if saving is not None:
            saving.wait()

    def load(self) -> object | None:
        """Return the checkpoint of an earlier attempt, or None."""
        self._wait()
        key = f"{self._act.key}!saved"
        text = self._handle.journal.fetch(key)
        return None if text is None else self._handle.journal.decode(key, text)

    def log(self, message: str) -> None:
        """Hand a line to the sinks."""
        self._act.frame.root.stream.emit("log", self._handle.run_id, self._act.path, message=message)

    def log_metric(self, name: str, value: float, step: int | None) -> None:
        """Queue a metric for the next commit."""
        query = "INSERT INTO metric(run_id, name, step, value) VALUES (?,?,?,?)"
        facts, saving = (self._handle.run_id, name, step, value), self._act.saving
        if saving is None:
            self._handle.store.add(query, facts)
        else:
            saving.then(lambda: self._handle.store.add(query, facts))
        self._act.frame.root.stream.emit(
            "metric", self._handle.run_id, self._act.path, name=name, value=value, step=step
        )

    def log_artifact(self, path: Path) -> None:
        """Note a file; it stays where it is."""
        query = "INSERT INTO artifact(run_id, name, kind, path, size, at) VALUES (?,?,?,?,?,?)"
        facts = (
            self._handle.run_id,
            path.name,
            "file",
            str(path.resolve()),
            path.stat().st_size,
            current_clock().wall(),
        )
        self._handle.store.add(query, facts)
        self._act.frame.root.stream.emit("artifact", self._handle.run_id, self._act.path, artifact=str(path))
