"""The objective of a simulated sweep, in a small module: a sweep reads the module of its objective to know its code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sweep.context import Context


@dataclass
class Calls:
    """Calls a world whenever a trial runs."""

    work: Callable[[float, int, Context], None]

    def objective(self, x: float, i: int, ctx: Context) -> None:
        """Run one attempt of a trial."""
        self.work(x, i, ctx)
