"""An event loop and a thread that take turns: while one of the two works, the other waits."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import final

from anyio.lowlevel import EventLoopToken

from sweep.threads import post

__all__ = ["Baton"]


@final
class Baton:
    """Passes the word between the loop's thread and another, without a turn of the event loop for each word.

    While the loop's thread waits here, it calls by itself what the other posts. Once its patience is over, or while
    it does something else, the loop calls it as usual.
    """

    __slots__ = ("_seat", "_words")

    def __init__(self) -> None:
        self._seat: deque[None] = deque()  # taken by whoever is first: the other thread to speak, or this one to go
        self._words: SimpleQueue[Callable[[], object]] = SimpleQueue()

    def wait(self, seconds: float) -> None:
        """Wait for the other thread to post something and call that; give up after so many real seconds."""
        self._seat.append(None)
        try:
            word = self._words.get(timeout=seconds)
        except Empty:
            if self._seat:
                self._seat.pop()
                return
            word = self._words.get()
        word()

    def post(self, token: EventLoopToken, callback: Callable[[], object]) -> None:
        """Have something called on the loop's thread (in the other one).

        Raises:
            concurrent.futures.CancelledError: The loop has ended.
        """
        try:
            self._seat.pop()
        except IndexError:
            post(token, callback)
        else:
            self._words.put(callback)
