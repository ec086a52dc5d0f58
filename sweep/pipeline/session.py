"""The context of a stage outside a sweep: what it reports, saves and logs goes to its run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

from sweep.clock import current_clock
from sweep.context import Context, Session
from sweep.pipeline.runtime import Activation, Handle
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
    return None if act.frame.handle is None else StageSession(act, act.frame.handle)


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
    """The session of a stage outside a sweep: what it saves is kept under its own key."""

    next_decision: int | None = None

    def __init__(self, act: Activation, handle: Handle) -> None:
        self._act, self._handle = act, handle

    def report(self, step: int, metrics: Mapping[str, float]) -> Decision:
        """Record metrics; nobody decides."""
        for name, value in metrics.items():
            self.log_metric(name, value, step)
        return Decision.CONTINUE

    def save(self, value: Any) -> None:
        """Keep a checkpoint of the stage, in place of the one before."""
        place = f"ctx.save() in stage {self._act.path!r}"
        text = self._handle.journal.encode(value, place=place)
        self._handle.journal.replace(f"{self._act.key}!saved", "saved", text)
        self._handle.store.commit()

    def load(self) -> Any | None:
        """Return the checkpoint of an earlier attempt, or None."""
        key = f"{self._act.key}!saved"
        text = self._handle.journal.fetch(key)
        return None if text is None else self._handle.journal.decode(key, text)

    def log(self, message: str) -> None:
        """Hand a line to the sinks."""
        self._act.frame.root.stream.emit("log", self._handle.run_id, self._act.path, message=message)

    def log_metric(self, name: str, value: float, step: int | None) -> None:
        """Queue a metric for the next commit."""
        query = "INSERT INTO metric(run_id, name, step, value) VALUES (?,?,?,?)"
        self._handle.store.add(query, (self._handle.run_id, name, step, value))
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
