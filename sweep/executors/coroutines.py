"""Coroutines that run to their end in worker threads, in an event loop that each thread keeps."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Coroutine
from contextvars import copy_context
from typing import Any, final

import anyio

__all__ = ["Coroutines"]


@final
class Coroutines:
    """Runs coroutines in threads: to make an event loop costs more than a short trial, so a thread keeps its own.

    On trio, whose loops cannot be kept, each coroutine gets a new one.
    """

    def __init__(self) -> None:
        self._here = threading.local()
        self._loops: list[_Loop] = []

    def run(self, value: Awaitable[Any], backend: str) -> Any:
        """Run one to its end in this thread."""
        if backend != "asyncio":
            return anyio.run(_finish, value, backend=backend)
        loop: _Loop | None = getattr(self._here, "loop", None)
        if loop is None or loop.closed:
            loop = self._here.loop = _Loop()
            self._loops.append(loop)
        return loop.run(_finish(value))

    def close(self) -> None:
        """Close the loops; one that still runs is closed at the end of what it runs."""
        loops, self._loops = self._loops, []
        for loop in loops:
            loop.close()


@final
class _Loop:
    """An asyncio loop for one coroutine after the other."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        self._lock = threading.Lock()  # held while it runs
        self._tasks: list[asyncio.Task[Any]] = []
        self._loop = self._runner.get_loop()
        self._loop.set_task_factory(self._task)
        self.closed = False

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine, and end what it leaves behind."""
        with self._lock:
            try:
                return self._runner.run(work, context=copy_context())
            finally:
                if self.closed or any(not task.done() for task in self._tasks):
                    self.closed = True
                    self._runner.close()
                self._tasks.clear()

    def close(self) -> None:
        """Close it, here (it is in no thread's hands and has nothing left) or in its thread at the end of what it runs."""
        self.closed = True
        if self._lock.acquire(blocking=False):
            self._loop.close()
            self._lock.release()

    def _task(self, loop: asyncio.AbstractEventLoop, work: Any, **more: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(work, loop=loop, **more)
        self._tasks.append(task)
        return task


async def _finish(value: Awaitable[Any]) -> Any:
    return await value
