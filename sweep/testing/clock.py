"""Virtual time for tests: hours pass in milliseconds, in a definite order."""

from __future__ import annotations

import heapq
import itertools
import math
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from typing import final

import anyio
from anyio.lowlevel import EventLoopToken, checkpoint, current_token

from sweep.threads import post

__all__ = ["VirtualClock"]


@final
class VirtualClock:
    """A :class:`sweep.clock.Clock` whose time jumps to the next deadline when nothing else is left to do.

    Time advances when the event loop has been quiet: for ``quiet`` rounds of the loop nobody has
    begun or ended a wait on this clock, and nothing is :meth:`outstanding`. Pure async code needs
    no more. Work that the loop cannot see (threads, processes, sockets) is wrapped in
    ``with clock.outstanding():`` by whoever waits for it or does it. Waits with equal deadlines end
    in the order in which they began. One event loop at a time, asyncio or trio.

    Args:
        start: What ``now()`` gives at first.
        wall: What ``wall()`` gives at first, in seconds since the epoch.
        quiet: Rounds of the loop; code that goes on for more rounds without touching the clock is overtaken.

    Example:
        >>> import anyio
        >>> from sweep.clock import current_clock, using_clock
        >>> async def an_hour():
        ...     await current_clock().sleep(3600)
        ...     return current_clock().now()
        >>> with using_clock(VirtualClock()):
        ...     anyio.run(an_hour)
        3600.0
    """

    def __init__(self, start: float = 0.0, *, wall: float = 1_700_000_000.0, quiet: int = 20) -> None:
        self._now, self._offset, self._quiet = float(start), wall - start, quiet
        self._lock = threading.Lock()
        self._outstanding = 0
        self._serial = itertools.count()
        self._waits: list[tuple[float, int, _Wait]] = []
        self._token: EventLoopToken | None = None
        self._rounds = -1  # of quiet so far; -1: nobody counts

    def now(self) -> float:
        """Return virtual seconds."""
        return self._now

    def wall(self) -> float:
        """Return virtual seconds since the epoch."""
        return self._now + self._offset

    async def sleep(self, seconds: float) -> None:
        """Wait in virtual time; zero or less only gives way to others."""
        if not seconds > 0:
            await checkpoint()
            return
        event = anyio.Event()
        wait = self._begin(seconds, event.set)
        try:
            await event.wait()
        finally:
            self._end(wait)

    @contextmanager
    def move_on_after(self, seconds: float) -> Iterator[anyio.CancelScope]:
        """Return a cancel scope that is cancelled after so many virtual seconds."""
        with anyio.CancelScope() as scope:
            if not seconds > 0:
                scope.cancel()
            wait = self._begin(seconds, scope.cancel) if 0 < seconds < math.inf else None
            try:
                yield scope
            finally:
                if wait is not None:
                    self._end(wait)

    @contextmanager
    def outstanding(self) -> Iterator[None]:
        """Hold time while the block runs: something works that the loop cannot see. From any thread."""
        with self._lock:
            self._outstanding += 1
        try:
            yield
        finally:
            with self._lock:
                self._outstanding -= 1
            self._count()

    def advance(self, seconds: float) -> None:
        """Let time pass at once, from inside the event loop: what is due by then ends, in order.

        Raises:
            ValueError: Negative seconds.
        """
        if not seconds >= 0:
            raise ValueError(f"advance({seconds!r}): expected seconds >= 0; virtual time never runs back")
        until = self._now + seconds
        while self._waits and self._waits[0][0] <= until:
            self._fire()
        self._now = until

    def _begin(self, seconds: float, wake: Callable[[], None]) -> _Wait:
        token = current_token()
        if token != self._token:  # waits of a loop that has ended are nobody's
            self._token, self._waits, self._rounds = token, [], -1
        wait = _Wait(wake)
        heapq.heappush(self._waits, (self._now + seconds, next(self._serial), wait))
        self._count()
        return wait

    def _end(self, wait: _Wait) -> None:
        wait.wake = None
        self._count()

    def _count(self) -> None:
        """Begin to count quiet rounds, or begin anew."""
        with self._lock:
            counting, self._rounds = self._rounds >= 0, 0
            token = self._token
            if counting or token is None:
                return
        try:
            post(token, self._round)
        except CancelledError:  # the loop has ended while a thread of its still worked
            self._rounds = -1

    def _round(self) -> None:
        """One round of the loop has passed (on the loop's thread)."""
        while self._waits and self._waits[0][2].wake is None:
            heapq.heappop(self._waits)
        with self._lock:
            if self._outstanding or not self._waits:
                self._rounds = -1  # whoever ends the work, or waits next, counts again
                return
            self._rounds += 1
            due = self._rounds > self._quiet
            if due:
                self._rounds = 0
        if due:
            deadline = self._waits[0][0]
            while self._waits and self._waits[0][0] == deadline:
                self._fire()
        if self._token is not None:
            post(self._token, self._round)

    def _fire(self) -> None:
        """Go on to the first deadline and end its wait."""
        deadline, _, wait = heapq.heappop(self._waits)
        wake, wait.wake = wait.wake, None
        if wake is not None:
            self._now = max(self._now, deadline)
            wake()


@final
class _Wait:
    """Somebody who waits; ``wake`` is None once that is over."""

    __slots__ = ("wake",)

    def __init__(self, wake: Callable[[], None]) -> None:
        self.wake: Callable[[], None] | None = wake
