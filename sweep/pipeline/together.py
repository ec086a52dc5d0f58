"""Several things at once: the first failure cancels the others and comes out as itself, several as a group."""

from __future__ import annotations

import traceback
from collections.abc import Awaitable, Callable, Sequence

import anyio

__all__ = ["together"]


async def together(calls: Sequence[Callable[[], Awaitable[None]]], what: str) -> None:
    """Run calls in one task group.

    Args:
        calls: What to run.
        what: What a group of failures calls them.

    Raises:
        Exception: The failure of one.
        ExceptionGroup: The failures of several, with a line each.
        TrialStopped: A scheduler's decision, unwrapped.
        TrialPaused: A scheduler's decision, unwrapped.
    """
    found: dict[int, Exception] = {}

    async def guarded(index: int, call: Callable[[], Awaitable[None]]) -> None:
        try:
            await call()
        except Exception as error:  # noqa: BLE001  # raised again below
            found[index] = error
            group.cancel_scope.cancel()

    try:
        async with anyio.create_task_group() as group:
            for index, call in enumerate(calls):
                group.start_soon(guarded, index, call)
    except BaseExceptionGroup as several:
        raise _unwrapped(several) from None
    failures = list({id(found[index]): found[index] for index in sorted(found)}.values())
    if len(failures) == 1:
        raise failures[0]
    if failures:
        lines = [f"  {_one_line(error)}" for error in failures]
        raise ExceptionGroup("\n".join([f"{len(failures)} {what} failed:", *lines]), failures)


def _unwrapped(several: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the decision of a scheduler that a group contains, or the first of its exceptions (none is a failure)."""
    from sweep.process.child import decision_in  # the child runner is not needed before

    error: BaseException = decision_in(several) or several
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _one_line(error: Exception) -> str:
    text = "".join(traceback.format_exception_only(error)).strip()
    notes = [note for note in getattr(error, "__notes__", ()) if note.startswith("in ")]
    return f"{notes[0] + ': ' if notes else ''}{text.splitlines()[0]}"
