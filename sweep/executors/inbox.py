"""What an attempt says, in the order in which it said it, each thing once."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

__all__ = ["Inbox"]


@final
class Inbox:
    """Puts the messages of one attempt in order, whatever becomes of them on their way.

    The sender counts its messages from 0. One that comes early waits until those before it have come; one
    that has been here before is dropped. So an engine whose transport may deliver twice, late or out of
    order gives its session each message once and in order. A pipe does so by itself and needs no inbox.

    Example:
        >>> inbox = Inbox()
        >>> for number in (1, 0, 0, 2):
        ...     inbox.take(number, lambda number=number: print(number))
        0
        1
        2
    """

    __slots__ = ("_due", "_early")

    def __init__(self) -> None:
        self._due = 0
        self._early: dict[int, Callable[[], object]] = {}

    def take(self, number: int, deliver: Callable[[], object]) -> None:
        """Take a message: ``deliver`` is called when its turn has come, perhaps at once."""
        if number >= self._due:
            self._early[number] = deliver
        while (found := self._early.pop(self._due, None)) is not None:
            self._due += 1
            found()
