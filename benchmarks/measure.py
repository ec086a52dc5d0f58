"""Wall and CPU seconds of a call, and the rows of a table."""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

os.environ["SWEEP_QUIET"] = "1"


class Cost(NamedTuple):
    """Seconds on the clock, and seconds of CPU of this process (all its threads)."""

    wall: float
    cpu: float

    def __truediv__(self, count: float) -> Cost:
        return Cost(self.wall / count, self.cpu / count)

    def less(self, other: Cost) -> Cost:
        """Return what is over another cost."""
        return Cost(self.wall - other.wall, self.cpu - other.cpu)

    def text(self, unit: str = "us") -> str:
        """Write both in one unit: s, ms or us."""
        scale = {"s": 1.0, "ms": 1e3, "us": 1e6}[unit]
        return f"{self.wall * scale:.3g} {unit} (CPU {self.cpu * scale:.3g})"


class Row(NamedTuple):
    """One figure.

    Attributes:
        figure: What is measured.
        ours: The figure.
        beside: Floors and peers of the same run, with their ratio to ours.
        target: What is to be reached, in words.
        reached: Whether it is, or None where nothing was promised.
    """

    figure: str
    ours: str
    beside: str = ""
    target: str = ""
    reached: bool | None = None


class Watch:
    """Reads both clocks."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Begin again."""
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def read(self) -> Cost:
        """Return the cost since the start."""
        return Cost(time.perf_counter() - self._wall, time.process_time() - self._cpu)


def cost_of(call: Callable[[], Any]) -> Cost:
    """Return what one call costs."""
    watch = Watch()
    call()
    return watch.read()


def least(costs: Iterable[Cost]) -> Cost:
    """Return the least wall and the least CPU time: on a shared machine the rest is other people's work."""
    found = list(costs)
    return Cost(min(one.wall for one in found), min(one.cpu for one in found))


def repeated(call: Callable[[], Cost], rounds: int) -> Cost:
    """Return the least of several rounds."""
    return least(call() for _ in range(rounds))


def have(package: str) -> bool:
    """Whether a peer is installed."""
    return importlib.util.find_spec(package) is not None


def times(ours: Cost, theirs: Cost) -> str:
    """Write how many times dearer they are than we, by the clock and by CPU."""
    return f"{theirs.wall / ours.wall:.3g}x (CPU {theirs.cpu / max(ours.cpu, 1e-9):.3g}x)"


def table(rows: Iterable[Row]) -> str:
    """Return a Markdown table."""
    marks = {True: "yes", False: "**no**", None: ""}
    lines = [("figure", "sweep", "beside it", "to reach", "reached"), ("---",) * 5]
    lines += [(*row[:4], marks[row.reached]) for row in rows]
    widths = [max(len(line[column]) for line in lines) for column in range(5)]

    def padded(line: tuple[str, ...]) -> str:
        fill = "-" if line[0] == "---" else " "
        return f"| {' | '.join(cell.ljust(width, fill) for cell, width in zip(line, widths, strict=True))} |"

    return "\n".join(map(padded, lines))
