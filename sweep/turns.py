"""What a running function holds (a slot, a GPU, the one thread), lent while runs of its own work.

Orchestrators hold no slot: a trial that starts a sweep gives back what it holds until that sweep is
over, so that nesting can never wait for itself. Parents are found by context, as everywhere.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import ContextVar
from typing import Any, Generic, TypeVar, final

__all__ = ["holding", "lending"]

T = TypeVar("T")


@final
class holding(Generic[T]):  # noqa: N801  # used like a function; a class costs each trial less than a generator
    """Hold something while the body runs; what the body calls may lend it.

    Args:
        take: Returns a context manager that waits, holds and gives back; called again after each loan.

    Example:
        >>> import anyio
        >>> async def main() -> int:
        ...     slots = anyio.Semaphore(1)
        ...     async with holding(lambda: slots), lending(), holding(lambda: slots):
        ...         return slots.value
        >>> anyio.run(main)
        0
    """

    __slots__ = ("_held", "_lent", "_take", "_token", "value")

    def __init__(self, take: Callable[[], AbstractAsyncContextManager[T]]) -> None:
        self._take = take
        self._held: AbstractAsyncContextManager[T] | None = None
        self._lent = 0
        self.value: T

    async def __aenter__(self) -> T:
        await self.take()
        self._token = _HELD.set((*_HELD.get(), self))
        return self.value

    async def __aexit__(self, *error: object) -> None:
        _HELD.reset(self._token)
        await self.give_back()

    async def take(self) -> None:
        """Take it, waiting for it if others have it."""
        held = self._take()
        self.value = await held.__aenter__()
        self._held = held
        if self._lent:  # lent again while it was waited for
            await self.give_back()

    async def give_back(self) -> None:
        """Give it back, if it is held now."""
        held, self._held = self._held, None
        if held is not None:
            await held.__aexit__(None, None, None)

    async def lend(self) -> None:
        """Give it back for a while."""
        self._lent += 1
        if self._lent == 1:
            await self.give_back()

    async def recover(self) -> None:
        """Take it again, once all who lent it have come back."""
        self._lent -= 1
        if self._lent == 0:
            await self.take()


_HELD: ContextVar[tuple[holding[Any], ...]] = ContextVar("sweep_held", default=())


@asynccontextmanager
async def lending() -> AsyncIterator[None]:
    """Give back all that the caller holds while the body runs, and take it again (not where it is cancelled)."""
    held = _HELD.get()
    for loan in reversed(held):
        await loan.lend()
    token = _HELD.set(())
    try:
        yield
    finally:
        _HELD.reset(token)
        for loan in held:  # in the order in which they were taken, as everybody does
            await loan.recover()
