"""``--debug``: every stage and trial as readable lines, from the event stream."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from sweep.tracker.stream import Event

__all__ = ["trace"]


def trace(event: Event) -> None:
    """Write one event as a line to stderr, if it tells what code did."""
    text = _text(event)
    if text is not None:
        sys.stderr.write(f"debug: {event.path}  {text}\n")
        sys.stderr.flush()


def _text(event: Event) -> str | None:
    data = event.data
    match event.kind:
        case "stage.started":
            return f"starts with {_values(data['inputs'])}"
        case "stage.ended":
            attempt = f", attempt {data['attempt']}" if data["attempt"] > 1 else ""
            return f"gave {_short(data['output'])} in {data['seconds']:.3f} s{attempt}"
        case "stage.restored":
            return "restored from the journal"
        case "stage.skipped":
            return "skipped"
        case "stage.retried":
            return f"attempt {data['attempt']} failed: {data['error']}"
        case "log":
            return str(data["message"])
        case "run.started" | "run.resumed" | "run.ended":
            return event.kind.partition(".")[2]
    if event.kind.startswith("trial."):
        return _trial(event.kind.partition(".")[2], data)
    return None


def _trial(what: str, data: Mapping[str, Any]) -> str | None:
    trial = data.get("trial")
    if trial is None:
        return None
    if what == "started":
        return f"trial[{trial.number}] starts with {_values(trial.params)}"
    if what == "reported":
        return f"trial[{trial.number}] step {trial.step}: {_values(trial.metrics)}"
    if what == "ended":
        why = "" if trial.error is None else f": {trial.error}"
        return f"trial[{trial.number}] {trial.status}, score {_short(trial.score)}{why}"
    return f"trial[{trial.number}] {what}"


def _values(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={_short(value)}" for name, value in values.items()) or "nothing"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
