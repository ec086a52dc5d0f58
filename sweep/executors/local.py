"""Executors on this machine: on the loop, in threads, in child processes."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any, final

import anyio

from sweep.clock import current_clock
from sweep.context import Context, Session
from sweep.errors import ContractError, TrialFailed, TrialStopped, did_you_mean
from sweep.executors.base import Capacity, Executor, Task
from sweep.executors.placement import Placement, machine_cpus, machine_gpus, machine_memory
from sweep.process import ForkServer
from sweep.process.child import decision_in
from sweep.threads import WorkerThreads, shared_threads
from sweep.trial import Decision
from sweep.turns import holding

__all__ = ["InlineExecutor", "ProcessExecutor", "ThreadExecutor", "make_executor"]


class _Open:
    """What an open executor holds; shared by all that have it open."""

    def __init__(self, workers: int | None) -> None:
        self.users = 0
        shared = shared_threads()
        self.threads = shared or WorkerThreads()
        self.own_threads = shared is None
        self.server = ForkServer(self.threads)
        self.one_thread = anyio.Semaphore(1, fast_acquire=True)
        self.placement = Placement(cpus=machine_cpus(), gpus=machine_gpus(), memory=machine_memory(), slots=workers)


class _LocalExecutor(Executor):
    """What the three have in common: the machine, and being open."""

    def __init__(self, workers: int | None = None) -> None:
        if workers is not None and (isinstance(workers, bool) or not isinstance(workers, int) or workers < 1):
            raise ValueError(f"{type(self).__name__}(workers={workers!r}): expected a whole number >= 1, or None")
        self.workers = workers
        self._open: _Open | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({'' if self.workers is None else f'workers={self.workers}'})"

    def __getstate__(self) -> dict[str, object]:
        """Pickle without what is open: an executor may travel inside an experiment."""
        return {"workers": self.workers, "_open": None}

    def capacity(self) -> Capacity:
        """Return the CPUs, GPUs and memory of this machine, as far as this process may use them."""
        return Capacity(cpus=machine_cpus(), gpus=len(machine_gpus()), memory=machine_memory())

    @asynccontextmanager
    async def open(self, preload: Sequence[Callable[..., object]] = ()) -> AsyncIterator[None]:
        """Hold threads and the fork server; opened again while open, it shares them.

        Raises:
            ContractError: A function cannot be sent to child processes (``ProcessExecutor`` only).
        """
        held = self._open = self._open or _Open(self.workers)
        held.users += 1
        try:
            await self._prepare(held, preload)
            yield
        finally:
            held.users -= 1
            if held.users == 0:
                self._open = None
                await held.server.close()
                if held.own_threads:
                    held.threads.close()

    async def _prepare(self, held: _Open, preload: Sequence[Callable[..., object]]) -> None:
        """Make ready for functions to come; in this process nothing is needed."""

    def _held(self) -> _Open:
        if self._open is None:
            raise RuntimeError(f"{self!r} is not open: write `async with executor.open(): await executor.run(…)`")
        return self._open

    async def _run_here(self, task: Task, session: Session, held: _Open, turn: AbstractAsyncContextManager[Any]) -> object:
        """Run a task in this process: async on the loop, sync in a worker thread when it is its turn."""
        asynchronous = _is_async(task.function)
        machine = holding(lambda: held.placement.hold(task.resources, _name(task)))
        async with machine, nullcontext() if asynchronous else holding(lambda: turn):
            with _Guard(session) as guard:
                return await _limited(task, guard, None if asynchronous else held.threads)


@final
class InlineExecutor(_LocalExecutor):
    """Runs tasks in this process: async functions on the event loop, many at once; sync ones one at a time.

    A sync function past its time limit is abandoned: its thread runs on, its reports and its result
    are dropped, and the next function gets another thread.

    Example:
        >>> from sweep.executors.base import Task
        >>> async def main() -> int:
        ...     executor = InlineExecutor()
        ...     async with executor.open():
        ...         return await executor.run(Task(pow, {"base": 2, "exp": 5}), session=None)
        >>> anyio.run(main)
        32
    """

    in_process = True

    def __init__(self) -> None:
        super().__init__()

    async def run(self, task: Task, session: Session) -> Any:
        """Run one task; see :meth:`Executor.run`."""
        held = self._held()
        return await self._run_here(task, session, held, held.one_thread)


@final
class ThreadExecutor(_LocalExecutor):
    """Runs sync tasks in daemon threads of this process, ``workers`` at once; async ones on the event loop.

    For code that waits or releases the GIL. A function past its time limit is abandoned as by
    :class:`InlineExecutor`.

    Args:
        workers: Tasks at once; None leaves it to the sweep.

    Raises:
        ValueError: ``workers`` is no whole number >= 1.
    """

    in_process = True

    async def run(self, task: Task, session: Session) -> Any:
        """Run one task; see :meth:`Executor.run`."""
        return await self._run_here(task, session, self._held(), nullcontext())


@final
class ProcessExecutor(_LocalExecutor):
    """Runs each task in a child process of its own, ``workers`` at once.

    Children are forked from a server that has imported the objective once, so a start costs
    milliseconds even where torch is used. They are killed with all they have started, in C code too,
    and none outlives this process. A child that uses more memory than its ``Resources(memory=)``
    is killed (Linux). numpy's global generator is seeded anew in each child.

    A child never opens the store. Where the objective is a pipeline or an experiment, each stage runs in a child;
    one that starts a run of its own there (a sweep, a named pipeline) is found out by that, said so once, and
    called again in this process, from its first line, the stages below it in children. So let it start its run
    before it does anything that costs or that is not to be done twice. A plain function that starts a run in its
    child fails with ``RunInChild``: pass what it starts as the objective instead.

    Args:
        workers: Tasks at once; None leaves it to the sweep.

    Raises:
        ValueError: ``workers`` is no whole number >= 1.
    """

    async def _prepare(self, held: _Open, preload: Sequence[Callable[..., object]]) -> None:
        await held.server.preload(preload)

    async def run(self, task: Task, session: Session) -> Any:
        """Run one task; see :meth:`Executor.run`."""
        held = self._held()
        async with held.placement.hold(task.resources, _name(task)) as gpus:
            return await held.server.run(task, session, gpus if task.resources.gpus else None)


@final
class _Guard:
    """A session that is closed when its task is over: an abandoned thread reports and saves no more."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._over = False

    def __enter__(self) -> _Guard:
        return self

    def __exit__(self, *error: object) -> None:
        self._over = True

    @property
    def next_decision(self) -> int | None:
        return self._of_task().next_decision

    @next_decision.setter
    def next_decision(self, step: int | None) -> None:
        self._of_task().next_decision = step

    def report(self, step: int, metrics: Mapping[str, float]) -> Decision:
        return self._of_task().report(step, metrics)

    def save(self, value: object) -> None:
        self._of_task().save(value)

    def load(self) -> object | None:
        return self._of_task().load()

    def log(self, message: str) -> None:
        self._of_task().log(message)

    def log_metric(self, name: str, value: float, step: int | None) -> None:
        self._of_task().log_metric(name, value, step)

    def log_artifact(self, path: Path) -> None:
        self._of_task().log_artifact(path)

    def _of_task(self) -> Session:
        if self._over:
            raise TrialStopped  # ends the abandoned function as soon as it speaks
        return self._session


async def _limited(task: Task, session: Session, threads: WorkerThreads | None) -> object:
    """Run a task under its time limit; what blocked past it fails, even if it returned."""
    clock, limit = current_clock(), task.resources.time_limit
    began = clock.now()
    with clock.move_on_after(limit) if limit is not None else nullcontext() as scope:
        value = await _call(task, session, threads)
    late = limit is not None and (clock.now() - began > limit)
    if scope is None or not (scope.cancelled_caught or late):
        return value
    text = f"{_name(task)} did not finish within its time limit of {limit:g} s"
    if scope.cancelled_caught and threads is not None:
        text += "; its thread was abandoned and runs on (executor='process' can kill it)"
        warnings.warn(text, RuntimeWarning, stacklevel=2)
    raise TrialFailed(text, kind="timeout")


async def _call(task: Task, session: Session, threads: WorkerThreads | None) -> object:
    """Call the function with its context; a decision comes out as itself, ``sys.exit`` as a failure."""
    kwargs = dict(task.kwargs)
    if task.context_name is not None:
        limit = task.resources.time_limit
        deadline = None if limit is None else current_clock().now() + limit
        kwargs[task.context_name] = Context(session, directory=task.directory, deadline=deadline, **task.facts)
    try:
        value = task.function(**kwargs) if threads is None else await threads.run(task.function, **kwargs)
        return await value if inspect.isawaitable(value) else value
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        raise TrialFailed(f"{_name(task)} called sys.exit({error.code!r})", exit_code=code) from error
    except BaseExceptionGroup as group:
        decision = decision_in(group)
        if decision is not None:
            raise decision from group
        raise


def _name(task: Task) -> str:
    path = task.facts.get("path")
    return f"trial {path!r}" if path else f"{getattr(task.function, '__qualname__', repr(task.function))}()"


def _is_async(function: Callable[..., object]) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004  # not whether, but what


def make_executor(what: str | Executor) -> Executor:
    """Return an executor by its short name, or as it is given.

    Raises:
        ContractError: No such name, or no executor.

    Example:
        >>> type(make_executor("inline")).__name__
        'InlineExecutor'
    """
    if isinstance(what, Executor):
        return what
    kinds: dict[str, type[_LocalExecutor]] = {"inline": InlineExecutor, "thread": ThreadExecutor, "process": ProcessExecutor}
    if not isinstance(what, str) or what not in kinds:
        hint = did_you_mean(what, kinds) if isinstance(what, str) else ""
        raise ContractError("executor", [f"{what!r}: expected {', '.join(map(repr, kinds))}, or an Executor{hint}"])
    return kinds[what]()
