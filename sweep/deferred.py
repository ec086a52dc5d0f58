"""One face for sync and async callers: ``result = x.run()`` and ``result = await x.run()``.

``launch`` looks where it is called. Where no event loop runs, it runs the work to its end
and returns the finished result. Inside a loop it returns a pending one: awaiting it does
the work, reading it raises ``NotAwaited``, dropping it warns. In a worker thread of ours
it calls into the loop that the thread belongs to.
"""

from __future__ import annotations

import asyncio
import sys
import warnings
from collections.abc import Awaitable, Callable, Generator
from typing import Any, Self, TypeVar, final

import anyio

from sweep.errors import NotAwaited
from sweep.threads import current_loop_thread

__all__ = ["Deferred", "in_event_loop", "launch"]

D = TypeVar("D", bound="Deferred")
Main = Callable[[], Awaitable[object]]


@final
class _Pending:
    """Work that waits for its ``await``. It, and not the result, warns when it is dropped: finished results cost nothing."""

    __slots__ = ("_begun", "_main", "_what")

    def __init__(self, main: Main, what: str) -> None:
        self._main, self._what, self._begun = main, what, False

    def __call__(self) -> Awaitable[Any]:
        self._begun = True
        return self._main()

    def __del__(self) -> None:
        if not self._begun:
            warnings.warn(f"{self._what} was never awaited: nothing ran", RuntimeWarning, stacklevel=2, source=self)


class Deferred:
    """Base of results: finished, or pending until awaited; finished ones await to themselves."""

    __slots__ = ("_main", "_what")

    _main: Main | None
    _what: str

    def _adopt(self, finished: Any) -> None:
        """Take over the content of a finished result of the same class."""
        raise NotImplementedError

    @classmethod
    def _pending(cls, main: Main, what: str) -> Self:
        self = cls.__new__(cls)
        object.__setattr__(self, "_main", _Pending(main, what))
        object.__setattr__(self, "_what", what)
        return self

    def _require_finished(self) -> None:
        """Raise if this result is pending.

        Raises:
            NotAwaited: It is.
        """
        if getattr(self, "_main", None) is not None:
            raise NotAwaited(self._what)

    def __await__(self) -> Generator[Any, Any, Self]:
        main = getattr(self, "_main", None)
        if main is not None:
            object.__setattr__(self, "_main", None)
            try:
                finished = yield from main().__await__()
            except BaseException:
                object.__setattr__(self, "_what", "run(), which failed")
                raise
            self._adopt(finished)
        return self


def in_event_loop() -> bool:
    """Whether the caller runs in an event loop (asyncio or trio)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        return True
    trio = sys.modules.get("trio")
    return trio is not None and trio.lowlevel.in_trio_run()


def launch(result: type[D], main: Callable[[bool], Awaitable[D]], what: str) -> D:
    """Run ``main`` here and now, or return it as a pending result inside an event loop.

    ``main`` is told whether the event loop is ours (then signals are, too).
    """
    if in_event_loop():
        return result._pending(lambda: main(False), what)
    thread = current_loop_thread()
    if thread is not None:
        return thread.call(main, False)
    return anyio.run(main, True)
