"""Progress for people, on stderr: live and nested on a terminal, one plain line per change elsewhere."""

from __future__ import annotations

import os
import sys
import time
from typing import Any, TextIO, final

from sweep.tracker.stream import Event

__all__ = ["Console", "console_for"]

_PLAIN_EVERY = 1.0
_LIVE_EVERY = 0.1
_LINES = 12


def console_for(stream: TextIO | None = None) -> Console | None:
    """Return a console for stderr, or None where ``SWEEP_QUIET=1`` asks for silence."""
    if os.environ.get("SWEEP_QUIET") == "1":
        return None
    return Console(stream if stream is not None else sys.stderr)


@final
class Console:
    """A sink that shows what runs, how far it is, the best score so far and when it may be over.

    Args:
        stream: Where to write; a terminal gets a live display, anything else plain lines.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._is_live = stream.isatty() and os.environ.get("TERM") != "dumb"
        self._live: Any = None
        self._is_held = False  # somebody has the terminal
        self._lines: dict[str, str] = {}
        self._begun: dict[str, tuple[float, int]] = {}
        self._last = 0.0

    def __call__(self, event: Event) -> None:
        """Take an event."""
        kind = event.kind
        if kind == "stage.started":
            self._show(event.path, "running", plain=False)
        elif kind in ("stage.ended", "stage.skipped", "stage.restored"):
            self._lines.pop(event.path, None)
        elif kind == "stage.retried":
            self._show(
                event.path, f"attempt {event.data['attempt']} failed: {event.data['error']}; trying again", now=True
            )
        elif kind in ("trial.ended", "trial.started", "trial.reported"):
            self._trial(event)
        elif kind == "stage.breakpoint":
            self._is_held = event.data["is_open"]
            if self._is_held:
                self.close()
        elif kind == "run.ended":
            self._lines.pop(event.path, None)
            self._begun.pop(event.path, None)
            if not self._lines:
                self.close()

    def close(self) -> None:
        """Take the live display down."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _trial(self, event: Event) -> None:
        now = time.monotonic()
        every = _LIVE_EVERY if self._is_live else _PLAIN_EVERY
        if now - self._last < every and event.path in self._lines:
            return
        if event.kind != "trial.ended" and not self._is_live:
            return
        standing = event.data["standing"]()
        done, total = standing["done"], standing["total"]
        begun, at = self._begun.setdefault(event.path, (now, done))
        eta = ""
        if total and done > at:
            eta = f"   eta {_duration((now - begun) / (done - at) * max(0, total - done))}"
        best = "" if standing["best"] is None else f"   best {standing['best']:.6g} (trial {standing['best_trial']})"
        counts = ", ".join(f"{count} {status}" for status, count in standing["counts"].items())
        bar = _bar(done, total) if self._is_live and total else ""
        self._show(event.path, f"{bar}{done}/{total or '?'} trials ({counts}){best}{eta}", now=True)

    def _show(self, path: str, text: str, *, plain: bool = True, now: bool = False) -> None:
        self._lines[path] = text
        self._last = time.monotonic()
        if self._is_held:
            return
        if self._is_live:
            self._draw()
        elif plain and now:
            self._stream.write(f"{path}  {text}\n")
            self._stream.flush()

    def _draw(self) -> None:
        from rich.console import Console as Terminal
        from rich.live import Live
        from rich.text import Text

        if self._live is None:
            self._live = Live(console=Terminal(file=self._stream), transient=True, auto_refresh=False)
            self._live.start()
        shown = list(self._lines.items())[-_LINES:]
        depth = min((path.count("/") for path, _ in shown), default=0)
        lines = [f"{'  ' * (path.count('/') - depth)}{path.rsplit('/', 1)[-1]}  {text}" for path, text in shown]
        self._live.update(Text("\n".join(lines), overflow="ellipsis", no_wrap=True), refresh=True)


def _bar(done: int, total: int, width: int = 24) -> str:
    filled = min(width, round(width * done / total))
    return f"[{'#' * filled}{'-' * (width - filled)}] "


def _duration(seconds: float) -> str:
    """Return seconds as people say them.

    Example:
        >>> _duration(75), _duration(7300)
        ('1m15s', '2h01m')
    """
    whole = int(seconds + 0.5)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
