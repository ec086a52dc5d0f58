"""Virtual time: a clock that goes on to the next moment as soon as nothing is left to do at this one."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, final

import anyio
from anyio.lowlevel import current_token

__all__ = ["Moment", "Timeline"]

_BURST = 100  # moments after which the event loop gets a turn whatever happens
_ROUNDS = 25  # turns of the event loop without news after which nobody is taken to be about to start anything


@final
class Moment:
    """A moment on the timeline, and what is to happen then."""

    __slots__ = ("action", "dead", "held")

    def __init__(self, action: Callable[[], object], held: bool) -> None:
        self.action, self.held, self.dead = action, held, False


@final
class Timeline:
    """A clock whose time goes on only when nothing is left to do: to the next moment anyone waits for.

    Whoever is active without waiting here says so by `hold`. When nobody holds and the event loop has nothing else
    to call, the earliest moment comes. Of a loop that does not tell what it has to call (trio's) that is taken for
    granted after some turns in which nobody told any news.
    """

    def __init__(self) -> None:
        self._now = 0.0
        self._heap: list[tuple[float, tuple[int, ...], int, Moment]] = []
        self._count = itertools.count()
        self._holds = self._news = self._rounds = 0
        self._mark = self._quiet = -1  # the news when rounds began; after which nobody had anything to do
        self._stirred = self._pumping = False  # somebody was woken who does not hold; the loop will call back
        self._loop: Any = None
        self._ready: Any = None  # asyncio's queue of what is to be called: no public way tells whether it is idle
        self.settled: Callable[[], bool] = lambda: False  # whether nobody could start anything, unless woken

    def now(self) -> float:
        """Return virtual seconds since the start."""
        return self._now

    def wall(self) -> float:
        """Return virtual seconds since the start."""
        return self._now

    async def sleep(self, seconds: float) -> None:
        """Wait in virtual time."""
        await self.until(self._now + max(0.0, seconds))

    @contextmanager
    def move_on_after(self, seconds: float) -> Iterator[anyio.CancelScope]:
        """Give a cancel scope that is cancelled after so many virtual seconds."""
        self.bind()
        with anyio.CancelScope() as scope:
            moment = self.call_at(self._now + max(0.0, seconds), scope.cancel)
            try:
                yield scope
            finally:
                moment.dead = True

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Let no time pass inside."""
        self.acquire()
        try:
            yield
        finally:
            self.release()

    def acquire(self) -> None:
        """Begin to be active."""
        self._holds += 1
        self._news += 1

    def release(self) -> None:
        """Be active no more; others may act on what was done."""
        self._news += 1
        self.rest()

    def rest(self) -> None:
        """Be active no more, having done nothing that others could act on."""
        self._holds -= 1
        self._kick()

    def call_at(
        self, at: float, action: Callable[[], object], order: tuple[int, ...] = (), *, held: bool = False
    ) -> Moment:
        """Call ``action`` on the event loop when time has come to ``at``.

        Args:
            at: Virtual time.
            action: What is called; it must not raise.
            order: What decides between equal moments: the lower comes first.
            held: Whether it makes somebody active, who will say when that is over.
        """
        if self._loop is None:
            self.bind()
        moment = Moment(action, held)
        heapq.heappush(self._heap, (at, order, next(self._count), moment))
        self._kick()
        return moment

    async def until(self, at: float, order: tuple[int, ...] = ()) -> None:
        """Wait until ``at``; see `call_at`."""
        self.bind()
        event = anyio.Event()
        moment = self.call_at(at, event.set, order)
        try:
            await event.wait()
        finally:
            moment.dead = True

    def bind(self) -> None:
        """Live in the event loop that runs here; a new one knows nothing of what the last was asked to call."""
        loop = current_token().native_token
        if loop is not self._loop:
            self._loop, self._pumping = loop, False
            self._ready = getattr(loop, "_ready", None)

    def forget(self) -> None:
        """Drop whatever was to come."""
        self._heap.clear()

    def _kick(self) -> None:
        if self._heap and not self._holds and not self._pumping:
            self._pumping = True
            self._soon()

    def _soon(self) -> None:
        """Have `_pump` called in the loop's next turn."""
        soon = self._loop.call_soon if hasattr(self._loop, "call_soon") else self._loop.run_sync_soon
        try:
            soon(self._pump)
        except RuntimeError:  # the loop has ended (trio's RunFinishedError is one too): nobody waits any more
            self._pumping = False

    def _pump(self) -> None:
        """Let the next moment come if it is time for it, else wait for another turn of the loop."""
        if self._holds or not self._heap:
            self._pumping = False
            return
        for _ in range(_BURST):
            if not self._is_quiet():
                break
            self._fire()
            if self._holds or not self._heap:
                self._pumping = False
                return
        self._soon()

    def _is_quiet(self) -> bool:
        """Whether nobody has anything left to do at this moment."""
        if self._mark != self._news:
            self._mark, self._rounds = self._news, 0
        self._rounds += 1
        late = self._rounds > _ROUNDS  # whoever is called in every turn, as is who cancels, starts nothing
        if self._ready is None:
            if late:
                self._quiet, self._stirred = self._news, False
            return self._quiet == self._news or (self.settled() and not self._stirred)
        if late or not self._ready:
            self._rounds = 0
            return True
        return False

    def _fire(self) -> None:
        """Go on to the earliest moment."""
        while self._heap:
            at, _, _, moment = heapq.heappop(self._heap)
            if moment.dead:
                continue
            self._now = max(self._now, at)
            if moment.held:
                self._holds += 1  # no news: an attempt that goes on to its next step makes nobody start anything
            else:
                self._news += 1
                self._stirred = True
            moment.dead = True
            moment.action()
            return
