"""Finds processes that were left behind, by a mark in the environment that they inherit."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

__all__ = ["left_over", "marked"]


def marked(mark: str) -> set[int]:
    """Return the living processes that were started with ``mark`` in their environment (none where /proc is missing)."""
    found = set()
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark.encode() in (place / "environ").read_bytes() and not _is_zombie(place):
                found.add(int(place.name))
    return found


def _is_zombie(place: Path) -> bool:
    return (place / "stat").read_text().rpartition(")")[2].split()[0] == "Z"


def left_over(mark: str, patience: float = 2.0) -> set[int]:
    """Wait until no process with a mark lives; return those that still do after so many seconds."""
    until = time.monotonic() + patience
    while left := marked(mark):
        if time.monotonic() > until:
            return left
        time.sleep(0.005)
    return set()
