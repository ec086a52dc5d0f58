"""One event stream for everything; sinks consume it and never influence a run."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple, final

from sweep.clock import current_clock

__all__ = ["Event", "Sink", "Stream", "listeners", "listening", "say"]


class Event(NamedTuple):
    """Something that happened.

    Attributes:
        kind: For example ``"stage.ended"``; the list is in the API document.
        run_id: The run it belongs to; 0 for a run that is not kept.
        path: Path in the run tree, with the stage.
        at: Seconds since the epoch.
        data: Facts by name, for reading only.
    """

    kind: str
    run_id: int
    path: str
    at: float
    data: Mapping[str, Any]


Sink = Callable[[Event], None]


@final
class Stream:
    """Hands events to sinks; one that fails is reported once and dropped.

    Example:
        >>> seen = []
        >>> stream = Stream([seen.append])
        >>> stream.emit("log", 1, "digits", message="hello")
        >>> seen[0].kind, seen[0].data["message"]
        ('log', 'hello')
    """

    def __init__(self, sinks: list[Sink] | None = None) -> None:
        self._sinks: list[Sink] = list(sinks or [])

    def __bool__(self) -> bool:
        return bool(self._sinks)

    def add(self, sink: Sink) -> None:
        """Hand events to one more sink from now on."""
        self._sinks.append(sink)

    def remove(self, sink: Sink) -> None:
        """Stop handing events to a sink (no error if it was dropped before)."""
        if sink in self._sinks:
            self._sinks.remove(sink)

    def emit(self, kind: str, run_id: int, path: str, /, **data: Any) -> None:
        """Hand an event to every sink."""
        if not self._sinks:
            return
        event = Event(kind, run_id, path, current_clock().wall(), data)
        for sink in tuple(self._sinks):
            try:
                sink(event)
            except Exception as error:  # noqa: BLE001  # a sink never influences a run: reported once, then dropped
                self.remove(sink)
                say(f"the sink {sink!r} failed and gets no more events: {type(error).__name__}: {error}")


_LISTENERS: ContextVar[tuple[Sink, ...]] = ContextVar("sweep_listeners", default=())


def listeners() -> list[Sink]:
    """Return the sinks that every run started here and now is to have."""
    return list(_LISTENERS.get())


@contextmanager
def listening(sink: Sink) -> Iterator[None]:
    """Give a sink the events of every run that is started inside the ``with`` block.

    Example:
        >>> seen = []
        >>> with listening(seen.append):
        ...     Stream(listeners()).emit("log", 1, "digits", message="hello")
        >>> seen[0].kind
        'log'
    """
    token = _LISTENERS.set((*_LISTENERS.get(), sink))
    try:
        yield
    finally:
        _LISTENERS.reset(token)


def say(text: str) -> None:
    """Write a line for people to stderr, unless ``SWEEP_QUIET=1``; stdout belongs to the user's code."""
    if os.environ.get("SWEEP_QUIET") == "1":
        return
    print(f"sweep: {text}", file=sys.stderr, flush=True)  # noqa: T201  # the one place that does
