"""Every stage and trial as it happens, on stderr: ``--debug``, or ``SWEEP_DEBUG=1`` for any program.

A readable line for each event, or with ``--json`` (``SWEEP_DEBUG=json``) a JSON document.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Mapping
from typing import Any

from sweep.tracker.stream import Event, Sink

__all__ = ["debugging", "trace", "trace_as_json"]

VARIABLE = "SWEEP_DEBUG"


def debugging() -> list[Sink]:
    """Return the sink that the environment asks for, if it asks for one."""
    wish = os.environ.get(VARIABLE, "")
    return [] if wish in ("", "0") else [trace_as_json if wish == "json" else trace]


def trace(event: Event) -> None:
    """Write one event as a line, if it tells what code did."""
    text = _text(event)
    if text is not None:
        _write(f"debug: {event.path}  {text}")


def trace_as_json(event: Event) -> None:
    """Write one event as a line of JSON, if it tells what code did: values are plain data, or their ``repr``."""
    if _text(event) is None:
        return
    facts = {name: _plain(value) for name, value in event.data.items() if name in _FACTS}
    trial = event.data.get("trial")
    if trial is not None:
        facts["trial"] = {
            "number": trial.number, "params": _plain(trial.params), "status": str(trial.status), "step": trial.step,
            "metrics": _plain(trial.metrics), "score": _plain(trial.score), "error": trial.error,
        }  # fmt: skip
    _write(json.dumps({"event": event.kind, "path": event.path, "run_id": event.run_id, "at": event.at, **facts}))


_FACTS = ("inputs", "output", "seconds", "attempt", "cached", "error", "message", "status")


def _write(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def _text(event: Event) -> str | None:
    data = event.data
    match event.kind:
        case "stage.started":
            return f"starts with {_values(data['inputs'])}"
        case "stage.ended":
            return _ended(data)
        case "stage.restored":
            return "restored from the journal"
        case "stage.skipped":
            return "skipped"
        case "stage.retried":
            return f"attempt {data['attempt']} failed: {data['error']}"
        case "log" | "warning":
            return str(data["message"])
        case "run.started" | "run.resumed" | "run.ended":
            return event.kind.partition(".")[2]
    if event.kind.startswith("trial."):
        return _trial(event.kind.partition(".")[2], data)
    return None


def _ended(data: Mapping[str, Any]) -> str:
    attempt = f", attempt {data['attempt']}" if data["attempt"] > 1 else ""
    if data.get("error") is not None:
        return f"failed after {data['seconds']:.3f} s{attempt}: {data['error']}"
    origin = "from the cache" if data.get("cached") else f"in {data['seconds']:.3f} s"
    return f"gave {_short(data['output'])} {origin}{attempt}"


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


def _values(values: Mapping[str, object]) -> str:
    return ", ".join(f"{name}={_short(value)}" for name, value in values.items()) or "nothing"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _plain(value: object, depth: int = 3) -> object:
    """Return a value as JSON has it where it is small plain data, else the beginning of its ``repr``."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else repr(value)
    if isinstance(value, str):
        return value if len(value) <= 1000 else value[:997] + "..."
    if type(value) is dict and len(value) <= 100 and depth:
        return {str(name): _plain(one, depth - 1) for name, one in value.items()}
    if isinstance(value, list | tuple) and type(value) in (list, tuple) and len(value) <= 100 and depth:
        return [_plain(one, depth - 1) for one in value]
    return _short(value)
