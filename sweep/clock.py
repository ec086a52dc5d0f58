"""Time: the only place where sweep reads a clock or waits.

Deadlines and waits go through the clock of the current context, so that tests run in
virtual time (:class:`sweep.testing.VirtualClock`) without touching anything else.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Protocol, final

import anyio

__all__ = ["Clock", "SystemClock", "current_clock", "using_clock"]


class Clock(Protocol):
    """What sweep asks of time."""

    def now(self) -> float:
        """Return seconds that never jump back; only differences mean something."""

    def wall(self) -> float:
        """Return seconds since the epoch, for people to read; never used for deadlines."""

    async def sleep(self, seconds: float) -> None:
        """Wait."""

    def move_on_after(self, seconds: float) -> AbstractContextManager[anyio.CancelScope]:
        """Return a cancel scope that is cancelled after ``seconds``."""


@final
class SystemClock:
    """The machine's clock."""

    def now(self) -> float:
        """Return the monotonic clock in seconds."""
        return time.monotonic()

    def wall(self) -> float:
        """Return seconds since the epoch."""
        return time.time()

    async def sleep(self, seconds: float) -> None:
        """Wait on the event loop."""
        await anyio.sleep(seconds)

    def move_on_after(self, seconds: float) -> AbstractContextManager[anyio.CancelScope]:
        """Return a cancel scope with a deadline on the event loop's clock."""
        return anyio.move_on_after(seconds)


_SYSTEM = SystemClock()
_CLOCK: ContextVar[Clock] = ContextVar("sweep_clock", default=_SYSTEM)


def current_clock() -> Clock:
    """Return the clock of this context.

    Example:
        >>> current_clock().now() <= current_clock().now()
        True
    """
    return _CLOCK.get()


@contextmanager
def using_clock(clock: Clock) -> Iterator[None]:
    """Use ``clock`` for everything started inside the block."""
    token = _CLOCK.set(clock)
    try:
        yield
    finally:
        _CLOCK.reset(token)
