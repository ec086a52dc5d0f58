"""Daemon worker threads bound to an event loop.

anyio's own worker threads are counted by a limiter and, on asyncio, a busy one keeps the
loop's shutdown and the interpreter's exit waiting. Ours are daemons: an abandoned call never
holds anything up. Coroutines that a thread sends back run inside the task that waits for the
thread, so cancelling that task cancels them too, at any depth.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import CancelledError
from contextlib import suppress
from contextvars import Context, ContextVar, Token, copy_context
from queue import SimpleQueue
from types import TracebackType
from typing import Any, ParamSpec, TypeVar, final

import anyio
from anyio.lowlevel import EventLoopToken, current_token

__all__ = ["LoopThread", "WorkerThreads", "call_in_loop", "current_loop_thread", "post", "shared_threads"]

P = ParamSpec("P")
T = TypeVar("T")

_MISSING = object()
Changes = dict[ContextVar[Any], object]


@final
class LoopThread:
    """A call that runs in one of our worker threads, and its way back to the loop.

    Attributes:
        token: The event loop the call belongs to (anyio's opaque token).
        abandoned: True once nobody waits for the call any more; its result will be dropped.
        route: How what it says gets to the loop's thread; :func:`post`, unless the loop's thread waits for it.
    """

    __slots__ = ("_args", "_before", "_event", "_function", "_inbox", "_kwargs", "abandoned", "route", "token")

    def __init__(
        self, token: EventLoopToken, function: Callable[..., object], args: tuple[object, ...], kwargs: dict[str, object]
    ) -> None:
        self.token, self.abandoned = token, False
        self.route: Callable[[EventLoopToken, Callable[[], object]], None] = post
        self._function, self._args, self._kwargs = function, args, kwargs
        self._before = copy_context()
        self._event = anyio.Event()
        self._inbox: deque[_Request | _Outcome] = deque()

    def call(self, function: Callable[..., Awaitable[T]], /, *args: object) -> T:
        """Run a coroutine function on the owning loop and wait here for its value; see :func:`call_in_loop`."""
        request = _Request(function, args, _changes(self._before))
        self._post(request)
        value: T = request.reply.get().unwrap()
        return value

    def call_sync(self, function: Callable[..., T], /, *args: object) -> T:
        """Run a plain function on the owning loop's thread and wait here for its value.

        Cheaper than :meth:`call`: the loop calls it between two tasks.

        Raises:
            concurrent.futures.CancelledError: The loop has ended.
        """
        reply: SimpleQueue[_Outcome] = SimpleQueue()
        context = self._before.copy()
        context.run(_apply, _changes(self._before))
        self.route(self.token, lambda: reply.put(_attempt(context, function, args, {})))
        value: T = reply.get().unwrap()
        return value

    def _post(self, message: _Request | _Outcome) -> None:
        self.route(self.token, lambda: self._deliver(message))

    def _deliver(self, message: _Request | _Outcome) -> None:
        """Hand a message to the waiting task (on the loop's thread)."""
        self._inbox.append(message)
        self._event.set()
        if self.abandoned:
            self._refuse()

    def _refuse(self) -> None:
        """Drop what the thread sent after nobody waits any more (on the loop's thread)."""
        while self._inbox:
            message = self._inbox.popleft()
            if isinstance(message, _Request):
                message.reply.put(_Outcome(None, CancelledError("the call in this thread was cancelled")))

    def _execute(self) -> _Outcome:
        """Run the call itself (in the worker thread)."""
        context = self._before.copy()
        context.run(_enter_thread, self)
        try:
            return _attempt(context, self._function, self._args, self._kwargs)
        finally:
            del self._function, self._args, self._kwargs

    async def _wait(self) -> _Outcome:
        """Serve the thread's requests until its outcome is there (in the waiting task)."""
        try:
            while True:
                await self._event.wait()
                message = self._inbox.popleft()
                if isinstance(message, _Outcome):
                    return message
                await message.serve()
                if not self._inbox:
                    self._event = anyio.Event()
        finally:
            self.abandoned = True
            self._refuse()


@final
class WorkerThreads:
    """Daemon threads of one event loop: they grow as needed and are reused.

    Nothing here limits how many calls run at once; that is the caller's business. Use it as a
    context manager (or call :meth:`close`) so that idle threads end with the loop. What is begun
    inside its ``with`` block may use the same threads: :func:`shared_threads`.

    Example:
        >>> async def main() -> int:
        ...     with WorkerThreads() as threads:
        ...         return await threads.run(sum, [1, 2, 3])
        >>> anyio.run(main)
        6
    """

    def __init__(self) -> None:
        self._idle: deque[_Worker] = deque()
        self._closed = False
        self._token: Token[WorkerThreads | None] | None = None

    def __enter__(self) -> WorkerThreads:
        self._token = _SHARED.set(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._token is not None:
            _SHARED.reset(self._token)
        self.close()

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a plain function in a daemon thread and return its value.

        The thread sees a copy of the caller's context variables. Cancelling the call abandons the
        thread: its late result is dropped, and the thread is used again only once it has really ended.

        Raises:
            RuntimeError: The pool is closed, or the function raised StopIteration.
            BaseException: What the function raised.
        """
        if self._closed:
            raise RuntimeError("these worker threads are closed: their event loop run is over")
        call = LoopThread(current_token(), function, args, kwargs)
        worker = self._pop() or _Worker(self._take_back)
        worker.work.put(call)
        outcome = await call._wait()
        try:
            value: T = outcome.unwrap()
        except StopIteration as error:
            name = getattr(function, "__qualname__", repr(function))
            raise RuntimeError(f"{name} raised StopIteration, which cannot pass through a coroutine") from error
        return value

    def close(self) -> None:
        """End idle threads now and busy ones when their call returns; waits for nothing."""
        self._closed = True
        while (worker := self._pop()) is not None:
            worker.work.put(None)

    def _pop(self) -> _Worker | None:
        try:
            return self._idle.pop()
        except IndexError:
            return None

    def _take_back(self, worker: _Worker) -> None:
        """Keep a thread whose call has really ended (called in that thread; deques are thread-safe)."""
        self._idle.append(worker)
        if self._closed:
            self.close()


def shared_threads() -> WorkerThreads | None:
    """Return the threads in whose ``with`` block the caller works, or None: a new thread for each sweep inside costs more."""
    return _SHARED.get()


def current_loop_thread() -> LoopThread | None:
    """Return the worker-thread call this code runs in, or None (on a loop, or in a foreign thread)."""
    return _CURRENT.get()


def call_in_loop(function: Callable[..., Awaitable[T]], /, *args: object) -> T:
    """Run a coroutine function on the loop that owns this worker thread, and wait for its value.

    It runs inside the task that waits for this thread, so it is cancelled with that task, and sees
    the context variables that this thread has set.

    Raises:
        RuntimeError: This is not one of our worker threads.
        concurrent.futures.CancelledError: The call was cancelled, or its loop has ended.

    Example:
        >>> async def double(x: int) -> int:
        ...     return 2 * x
        >>> async def main() -> int:
        ...     with WorkerThreads() as threads:
        ...         return await threads.run(lambda: call_in_loop(double, 21))
        >>> anyio.run(main)
        42
    """
    thread = current_loop_thread()
    if thread is None:
        raise RuntimeError("call_in_loop() works only inside a function run by WorkerThreads.run()")
    return thread.call(function, *args)


_SHARED: ContextVar[WorkerThreads | None] = ContextVar("sweep_shared_threads", default=None)
_CURRENT: ContextVar[LoopThread | None] = ContextVar("sweep_loop_thread", default=None)


@final
class _Outcome:
    """What a call came to."""

    __slots__ = ("error", "value")

    def __init__(self, value: object, error: BaseException | None) -> None:
        self.value, self.error = value, error

    def unwrap(self) -> Any:
        if self.error is None:
            return self.value
        try:
            raise self.error
        finally:
            self.error = None  # the traceback refers to this frame: leave no cycle behind


@final
class _Request:
    """A coroutine function that a thread wants run on its loop."""

    __slots__ = ("args", "changes", "function", "reply")

    def __init__(self, function: Callable[..., Awaitable[object]], args: tuple[object, ...], changes: Changes) -> None:
        self.function, self.args, self.changes = function, args, changes
        self.reply: SimpleQueue[_Outcome] = SimpleQueue()

    async def serve(self) -> None:
        """Run it under the thread's context variables; cancellation goes on to the waiting task."""
        tokens = _apply(self.changes)
        try:
            outcome = _Outcome(await self.function(*self.args), None)
        except anyio.get_cancelled_exc_class():
            self.reply.put(_Outcome(None, CancelledError("the task that waits for this thread was cancelled")))
            raise
        except BaseException as error:  # noqa: BLE001  # it is raised in the thread that asked
            outcome = _Outcome(None, error)
        finally:
            for variable, token in tokens:
                variable.reset(token)
        self.reply.put(outcome)


@final
class _Worker:
    """One daemon thread with its queue."""

    __slots__ = ("_done", "work")

    def __init__(self, done: Callable[[_Worker], None]) -> None:
        self.work: SimpleQueue[LoopThread | None] = SimpleQueue()
        self._done = done
        threading.Thread(target=self._loop, name="sweep-worker", daemon=True).start()

    def _loop(self) -> None:
        while (call := self.work.get()) is not None:
            outcome = call._execute()
            self._done(self)
            with suppress(CancelledError):  # the loop has ended: nobody is there to be told
                call._post(outcome)
            del call, outcome


def _attempt(context: Context, function: Callable[..., object], args: tuple[object, ...], kwargs: dict[str, object]) -> _Outcome:
    try:
        return _Outcome(context.run(function, *args, **kwargs), None)
    except BaseException as error:  # noqa: BLE001  # it is raised again where the call is waited for
        return _Outcome(None, error)


def post(token: EventLoopToken, callback: Callable[[], object]) -> None:
    """Call back on the loop's thread, soon.

    The native calls, because anyio's public ones wait for the answer, which costs a second switch.

    Raises:
        concurrent.futures.CancelledError: The loop has ended.
    """
    native: Any = token.native_token
    call = native.call_soon_threadsafe if hasattr(native, "call_soon_threadsafe") else native.run_sync_soon
    try:
        call(callback)
    except RuntimeError as error:  # asyncio: closed loop; trio: RunFinishedError
        raise CancelledError("the event loop of this worker thread has ended") from error


def _enter_thread(call: LoopThread) -> None:
    """Set the context variables of a worker thread: it is ours, and no event loop runs in it."""
    _CURRENT.set(call)
    library = _library()
    if library is not None:
        library.set(None)


def _library() -> ContextVar[Any] | None:
    """Return the variable by which anyio, where sniffio is installed, knows the running loop."""
    sniffio = sys.modules.get("sniffio")
    return None if sniffio is None else sniffio.current_async_library_cvar


def _changes(before: Context) -> Changes:
    """Return the context variables that the function in this thread has set so far."""
    ours = (_CURRENT, _library())
    now = copy_context()
    return {name: value for name, value in now.items() if before.get(name, _MISSING) is not value and name not in ours}


def _apply(changes: Changes) -> list[tuple[ContextVar[Any], Token[Any]]]:
    return [(variable, variable.set(value)) for variable, value in changes.items()]
