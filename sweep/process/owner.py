"""The owner's hold on its fork server and on each child."""

from __future__ import annotations

import functools
import io
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, final

import anyio
import cloudpickle  # type: ignore[import-untyped]  # it has no stubs
from anyio.lowlevel import current_token

from sweep.clock import current_clock
from sweep.context import Session
from sweep.errors import ContractError, TrialFailed, TrialPaused, TrialStopped
from sweep.process import wire
from sweep.process.wire import Frame, Kind, NotSendable, Stream
from sweep.threads import WorkerThreads
from sweep.trial import Decision, Resources

__all__ = ["ForkServer", "Job"]

_PATIENCE = 10.0
"""Seconds of the machine's clock to wait for a process that was told to end."""
_PACKAGE = str(Path(__file__).resolve().parents[2])
"""Where sweep is imported from; the server finds it there, too, however our path came about."""


class Job(Protocol):
    """What a child is to do; an executor's task is one."""

    @property
    def function(self) -> Callable[..., object]:
        """The function; sync or async."""

    @property
    def kwargs(self) -> Mapping[str, object]:
        """Its arguments by name, without the context."""

    @property
    def context_name(self) -> str | None:
        """The parameter that takes the context."""

    @property
    def resources(self) -> Resources:
        """cpus, memory and time limit are used here."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """Arguments of the context."""

    @property
    def directory(self) -> Path | None:
        """The run's directory."""

    @property
    def output(self) -> Path | None:
        """Directory of the logs of stdout and stderr; None = inherited."""


@final
class ForkServer:
    """A fork server of our own and the functions it has preloaded.

    It starts on first use, and again if it has died; tasks that ran on a dead one are lost. Where
    importing the objectives initialises CUDA (which no fork survives), the server preloads nothing,
    so that each child imports everything itself, as after a spawn.

    Args:
        threads: Where sessions save and load, so that large checkpoints do not hold up the loop.
    """

    def __init__(self, threads: WorkerThreads) -> None:
        self._threads = threads
        self._lock = anyio.Lock()
        self._functions: list[Callable[..., object]] = []
        self._by_value: list[ModuleType] = []
        self._preloads = True
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._retired: list[tuple[subprocess.Popen[bytes], socket.socket]] = []

    @property
    def pid(self) -> int | None:
        """Process id of the running server, or None."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    async def preload(self, functions: Sequence[Callable[..., object]]) -> None:
        """Import what ``functions`` need and send them once.

        Raises:
            ContractError: One of them cannot be sent, or not be imported there; the message says why.
        """
        async with self._lock:
            new = [function for function in functions if self._index(function) is None]
            for function in new:
                self._check(function)
            with ExitStack() as undo:
                undo.callback(setattr, self, "_functions", self._functions)
                self._functions = [*self._functions, *new]
                if self.pid is None:
                    await self._start()
                elif new and self._preloads:
                    await self._setup(new)
                undo.pop_all()

    async def run(self, job: Job, session: Session, gpus: Sequence[str] | None = None) -> Any:
        """Run one task in a child of its own and return its value; cancelling the call ends the child.

        Args:
            job: What to do.
            session: The run behind the task's context.
            gpus: Value of ``CUDA_VISIBLE_DEVICES`` as a list, or None to leave it.

        Raises:
            TrialStopped: The session answered a report so.
            TrialPaused: The session answered a report so.
            TrialFailed: The child raised, died, timed out or was lost.
            TypeError: An argument cannot be sent to the child.
            Exception: What the session raised, if the task let it pass.
        """
        async with self._lock:
            if self.pid is None:
                await self._start()
        message = self._message(job, session)
        child = self._spawn(job, gpus)
        limit, order = job.resources.time_limit, b"K"
        try:
            with current_clock().move_on_after(limit) if limit is not None else nullcontext() as scope:
                await child.talk(message, session, self._threads)
            if scope is not None and scope.cancelled_caught:
                raise TrialFailed(
                    f"{child.title} did not finish within its time limit of {limit:g} s and was killed", kind="timeout"
                )
        except anyio.get_cancelled_exc_class():
            order = b"T"
            raise
        finally:
            await child.end(order)
            child.close()
        return child.result()

    async def close(self) -> None:
        """End the server and every child; returns when it is gone."""
        self._retire()
        servers, self._retired = self._retired, []
        for _, control in servers:
            control.close()
        with anyio.CancelScope(shield=True):
            for process, _ in servers:
                with anyio.move_on_after(_PATIENCE):
                    await self._threads.run(process.wait)
                if process.poll() is None:
                    process.kill()
                    process.wait()

    async def _start(self) -> None:
        """Start a server and preload all functions."""
        self._retire()  # a dead one, if any
        ours, theirs = socket.socketpair()
        path = os.pathsep.join(filter(None, [_PACKAGE, os.environ.get("PYTHONPATH", "")]))
        with theirs:
            self._process = subprocess.Popen(  # noqa: ASYNC220, S603  # returns as soon as exec has happened; the command is ours
                [sys.executable, "-m", "sweep.process", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=os.environ | {"PYTHONPATH": path},
                start_new_session=True,
            )
        self._control = ours
        async with AsyncExitStack() as undo:
            undo.push_async_callback(self.close)
            await self._setup(self._functions if self._preloads else [])
            undo.pop_all()

    def _retire(self) -> None:
        """Fork no more from this server, but let its children finish."""
        if self._process is not None and self._control is not None:
            self._retired.append((self._process, self._control))
        self._process = self._control = None

    async def _setup(self, functions: Sequence[Callable[..., object]]) -> None:
        """Have the server take over our surroundings and load functions."""
        answer = await self._ask(functions)
        while (module := sys.modules.get(answer.get("missing") or "")) is not None and module not in self._by_value:
            self._by_value.append(module)  # it cannot be imported by its name (loaded from a file, say)
            answer = await self._ask(functions)
        if "error" in answer:
            raise ContractError(
                "executor 'process'", [f"the objective cannot be imported in a child process:\n{answer['error']}"]
            )
        if answer["cuda"]:
            self._preloads = False
            self._retire()
            sys.stderr.write("sweep: importing the objective initialises CUDA: children are spawned, not forked\n")
            await self._start()

    async def _ask(self, functions: Sequence[Callable[..., object]]) -> dict[str, Any]:
        surroundings = {
            "cwd": str(Path.cwd()),
            "path": [entry for entry in sys.path if isinstance(entry, str)],
            "argv": sys.argv,
            "environ": dict(os.environ),
            "backend": _backend(),
        }
        with _by_value(self._by_value):
            parts = wire.dump(list(functions)) if functions else []
        ours, theirs = socket.socketpair()
        stream = Stream(ours)
        try:
            with theirs:
                self._hand_over(b"S", theirs)
            await stream.send(Kind.SETUP, wire.note(surroundings), *parts)
            answer: dict[str, Any] = (await stream.receive()).note()
        except (EOFError, OSError) as error:
            raise TrialFailed("the fork server died while it imported the objective", kind="lost") from error
        finally:
            stream.close()
        return answer

    def _hand_over(self, kind: bytes, *ends: socket.socket) -> None:
        if self._control is None:
            raise BrokenPipeError("the fork server is closed")
        socket.send_fds(self._control, [kind], [end.fileno() for end in ends])

    def _index(self, function: Callable[..., object]) -> int | None:
        bound = hasattr(function, "__self__")  # each access makes a new method: compare those by value
        for index, known in enumerate(self._functions):
            if known is function or (bound and known == function):
                return index
        return None

    def _check(self, function: Callable[..., object]) -> None:
        try:
            with _by_value(self._by_value):
                wire.dump(function)
        except NotSendable as error:
            place, cause = _culprit(function, _name(function), error)
            raise ContractError(
                "executor 'process'",
                [
                    f"{place} cannot be sent to a child process: {cause}; make it inside the function, "
                    "or use executor='thread' or 'inline'"
                ],
            ) from error

    def _message(self, job: Job, session: Session) -> list[bytes | memoryview]:
        index = self._index(job.function) if self._preloads else None
        task = {
            "function": job.function if index is None else index,
            "kwargs": dict(job.kwargs),
            "context_name": job.context_name,
            "facts": dict(job.facts),
            "directory": None if job.directory is None else job.directory.absolute(),
            "remaining": job.resources.time_limit,
            "next_decision": session.next_decision,
            "backend": _backend(),
        }
        if index is None:
            self._check(job.function)
        try:
            with _by_value(self._by_value):
                return wire.dump(task)
        except NotSendable as error:
            name, cause = _first_unpicklable({**job.kwargs, **job.facts}) or ("?", error)
            raise TypeError(f"{_title(job)}: argument {name!r} cannot be sent to a child process: {cause}") from error

    def _spawn(self, job: Job, gpus: Sequence[str] | None) -> _Child:
        """Have the server fork."""
        note = {
            "cpus": job.resources.cpus,
            "gpus": None if gpus is None else list(gpus),
            "memory": job.resources.memory,
            "output": None if job.output is None else str(job.output.absolute()),
            "title": f"{job.facts.get('path') or _name(job.function)}, attempt {job.facts.get('attempt', 1)}",
        }
        (handle, handle_there), (talk, talk_there) = socket.socketpair(), socket.socketpair()
        child = _Child(_title(job), Stream(handle), Stream(talk), job.output)
        with handle_there, talk_there:
            wire.send(handle, Kind.START, wire.note(note))
            with suppress(OSError):  # a dead server: the child is found lost when its handle is read
                self._hand_over(b"T", handle_there, talk_there)
        return child


@final
class _Child:
    """One child: its handle, its wire, and what it came to."""

    def __init__(self, title: str, handle: Stream, connection: Stream, output: Path | None) -> None:
        self.title = title
        self._handle, self._wire, self._output = handle, connection, output
        self._pid: int | None = None
        self._status: dict[str, Any] | None = None
        self._last: Frame | None = None
        self._decision: Decision | None = None
        self._fault: BaseException | None = None

    async def talk(self, message: list[bytes | memoryview], session: Session, threads: WorkerThreads) -> None:
        """Send the task, serve the child's session, and wait until the child has exited."""
        raised: list[BaseException] = []
        async with anyio.create_task_group() as group:
            group.start_soon(self._watch, group.cancel_scope)
            try:
                await self._converse(message, session, threads)
            except Exception as error:  # noqa: BLE001  # raised again below, outside the group
                raised.append(error)
            if raised or self._decision is not None:
                group.cancel_scope.cancel()
        if raised:
            raise raised[0]
        if self._decision is not None:
            await self.end(b"T")

    async def end(self, order: bytes) -> None:
        """Have the server end the child (``T``: with a short grace, ``K``: at once) and wait until it is gone."""
        with anyio.CancelScope(shield=True), anyio.move_on_after(_PATIENCE), suppress(OSError):
            if self._status is None:
                self._handle.socket.send(order)
                await self._watch(None)

    def close(self) -> None:
        """Close our ends; a child that still runs is killed by that."""
        self._wire.close()
        self._handle.close()

    def result(self) -> Any:
        """Return the value of a child that has ended, or raise what it came to."""
        if self._decision is not None:
            raise TrialStopped if self._decision is Decision.STOP else TrialPaused
        if self._last is None:
            raise self._death()
        if self._last.kind is Kind.VALUE:
            try:
                return wire.load(self._last.parts)
            except Exception as error:  # classes say how they are unpickled, so they may raise anything
                raise TrialFailed(
                    f"{self.title} returned a value that cannot be read in the owning process: {error}"
                ) from error
        raise self._ended(self._last.note())

    def _ended(self, note: Mapping[str, Any]) -> BaseException:
        if "decision" in note:
            return TrialStopped() if note["decision"] == "stop" else TrialPaused()
        if note["fault"] and self._fault is not None:
            return self._fault
        if "exit" in note:
            text = f"{self.title} called sys.exit({note['words'].partition(': ')[2]})"
        else:
            text = f"{self.title} raised {note['words']}"
        return TrialFailed(text, exit_code=note.get("exit"), traceback=note["traceback"])

    def _death(self) -> TrialFailed:
        """Return what to say of a child that died without a word."""
        status = self._status or {}
        if status.get("note"):
            return TrialFailed(f"{self.title} was killed: {status['note']}", signal=status.get("signal"))
        if "signal" in status:
            name = str(status["signal"])
            text = f"{self.title} was ended by {name}{_SIGNALS.get(name, '')}"
            return TrialFailed(text, signal=name, traceback=self._fatal())
        if "exit" in status:
            text = f"{self.title} exited with code {status['exit']} before it returned"
            return TrialFailed(text, exit_code=status["exit"], traceback=self._fatal())
        if "failed" in status:
            return TrialFailed(f"{self.title} could not be forked: {status['failed']}", kind="lost")
        return TrialFailed(f"{self.title} was lost: its fork server died", kind="lost")

    def _fatal(self) -> str:
        """Return what the interpreter wrote of a crash to the child's stderr."""
        try:
            with (self._output / "stderr.log").open("rb") if self._output is not None else io.BytesIO() as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - 8000))
                text = log.read().decode(errors="replace")
        except OSError:
            return ""
        attempt = text.rpartition("\n--- ")[2]
        return attempt[attempt.find("Fatal Python error") :] if "Fatal Python error" in attempt else ""

    async def _watch(self, scope: anyio.CancelScope | None) -> None:
        """Read the handle until the server announces the end; a dead server takes its children with it."""
        try:
            while True:
                note = (await self._handle.receive()).note()
                self._pid = note.get("pid", self._pid)
                if "pid" not in note:
                    self._status = note
                    return
        except EOFError:
            self._status = {}
            if self._pid is not None:
                with suppress(ProcessLookupError, PermissionError):  # what the child itself had started
                    os.killpg(self._pid, signal.SIGKILL)
            if scope is not None:
                scope.cancel()

    async def _converse(self, message: list[bytes | memoryview], session: Session, threads: WorkerThreads) -> None:
        """Send the task and serve the session until the last frame, or the end of the connection."""
        try:
            await self._wire.send(Kind.TASK, *message)
        except OSError:
            return
        while self._last is None and self._decision is None:
            try:
                frame = await self._wire.receive()
            except EOFError:
                return
            if frame.kind in (Kind.VALUE, Kind.ENDED):
                self._last = frame
            elif frame.kind in (Kind.LOG, Kind.METRIC, Kind.TOLD):
                decision = _tell(frame, session)
                self._decision = None if decision is Decision.CONTINUE else decision
            else:
                await self._answer(frame, session, threads)

    async def _answer(self, frame: Frame, session: Session, threads: WorkerThreads) -> None:
        """Do what the child waits for; what the session raises, it raises there."""
        try:
            kind, parts = Kind.ANSWER, wire.dump(await _ask(frame, session, threads))
        except Exception as error:  # noqa: BLE001  # the child's code may handle it
            self._fault = error
            kind, parts = Kind.FAULT, wire.dump_error(error)
        with suppress(OSError):  # a dead child: the next read finds the end
            await self._wire.send(kind, *parts)


_SIGNALS = {
    "SIGSEGV": " (segmentation fault)",
    "SIGKILL": " (out of memory? or killed by hand)",
    "SIGABRT": " (aborted in C code)",
    "SIGBUS": " (bus error)",
    "SIGFPE": " (arithmetic error in C code)",
}


def _tell(frame: Frame, session: Session) -> Decision:
    """Tell the session what the child does not wait for."""
    note = frame.note()
    if frame.kind is Kind.TOLD:
        return session.report(*note)
    if frame.kind is Kind.LOG:
        session.log(note)
    else:
        session.log_metric(*note)
    return Decision.CONTINUE


async def _ask(frame: Frame, session: Session, threads: WorkerThreads) -> Any:
    """Return the session's answer; what touches the disk does so in a thread, and to its end."""
    if frame.kind is Kind.REPORT:
        decision = session.report(*frame.note())
        return decision.value, session.next_decision
    with anyio.CancelScope(shield=True):
        if frame.kind is Kind.SAVE:
            return await threads.run(session.save, wire.load(frame.parts))
        if frame.kind is Kind.LOAD:
            return await threads.run(session.load)
        return await threads.run(session.log_artifact, Path(frame.note()))


def _backend() -> str:
    """Return the event loop library that async tasks are to run under in the child, too."""
    native = type(current_token().native_token).__module__
    return "trio" if native.partition(".")[0] == "trio" else "asyncio"


@contextmanager
def _by_value(modules: Sequence[ModuleType]) -> Iterator[None]:
    """Pickle what is defined in ``modules`` by value."""
    registered = cloudpickle.list_registry_pickle_by_value()
    ours = [module for module in modules if module.__name__ not in registered]
    for module in ours:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in ours:
            cloudpickle.unregister_pickle_by_value(module)


def _name(function: Callable[..., object]) -> str:
    if isinstance(function, functools.partial):
        return _name(function.func)
    if not hasattr(function, "__qualname__") and hasattr(function, "__wrapped__"):
        return _name(function.__wrapped__)
    return getattr(function, "__qualname__", type(function).__qualname__)


def _title(job: Job) -> str:
    path = job.facts.get("path")
    return f"{getattr(job, 'level', 'trial')} {path!r}" if path else f"{_name(job.function)}()"


def _first_unpicklable(named: Mapping[str, object]) -> tuple[str, Exception] | None:
    for name, value in named.items():
        try:
            wire.dump(value)
        except NotSendable as error:
            return name, error
    return None


def _culprit(thing: object, place: str, error: Exception, depth: int = 4) -> tuple[str, Exception]:
    """Return the innermost part of a function that cannot be pickled, in words, and why."""
    found = _first_unpicklable(_parts_of(thing)) if depth else None
    if found is None:
        return place, error
    name, inner = found
    return _culprit(_parts_of(thing)[name], f"{place}: {name}", inner, depth - 1)


def _parts_of(thing: Any) -> dict[str, object]:
    """Return what is pickled with a thing, by name."""
    parts: dict[str, object] = {}
    if isinstance(thing, functools.partial):
        parts |= {"the function": thing.func, **{f"argument {i}": value for i, value in enumerate(thing.args)}}
        parts |= {f"argument {name!r}": value for name, value in thing.keywords.items()}
    if (owner := getattr(thing, "__self__", None)) is not None and not isinstance(owner, ModuleType):
        parts["its instance"] = owner
    if (code := getattr(thing, "__code__", None)) is not None:
        cells = zip(code.co_freevars, thing.__closure__ or (), strict=False)
        for name, cell in cells:
            with suppress(ValueError):  # not assigned yet
                parts[f"variable {name!r}"] = cell.cell_contents
        names = [name for name in code.co_names if name in thing.__globals__]
        parts |= {f"global {name!r}": thing.__globals__[name] for name in names}
    elif hasattr(thing, "__wrapped__"):
        return _parts_of(thing.__wrapped__)
    elif not isinstance(thing, type | ModuleType):
        parts |= {f"attribute {name!r}": value for name, value in getattr(thing, "__dict__", {}).items()}
    return parts
