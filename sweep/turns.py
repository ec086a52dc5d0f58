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
class _Loan(Generic[T]):
    """One thing that is held, and how often it has been lent."""

    __slots__ = ("_held", "_lent", "_take", "value")

    def __init__(self, take: Callable[[], AbstractAsyncContextManager[T]]) -> None:
        self._take = take
        self._held: AbstractAsyncContextManager[T] | None = None
        self._lent = 0
        self.value: T

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
        self._lent += 1
        if self._lent == 1:
            await self.give_back()

    async def recover(self) -> None:
        self._lent -= 1
        if self._lent == 0:
            await self.take()


_HELD: ContextVar[tuple[_Loan[Any], ...]] = ContextVar("sweep_held", default=())


@asynccontextmanager
async def holding(take: Callable[[], AbstractAsyncContextManager[T]]) -> AsyncIterator[T]:
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
    loan = _Loan(take)
    await loan.take()
    token = _HELD.set((*_HELD.get(), loan))
    try:
        yield loan.value
    finally:
        _HELD.reset(token)
        await loan.give_back()


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
