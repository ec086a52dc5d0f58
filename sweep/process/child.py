"""The child: one task, then the end. Its context speaks over the wire."""

from __future__ import annotations

import ctypes
import faulthandler
import inspect
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, final

import anyio

from sweep.clock import current_clock
from sweep.context import Context
from sweep.errors import NotStorable, TrialPaused, TrialStopped, in_words, shortened
from sweep.process import wire
from sweep.process.wire import Frame, Kind, NotSendable
from sweep.trial import Decision

__all__ = ["decision_in", "run"]

_LINUX = sys.platform.startswith("linux")
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def decision_in(error: BaseException) -> TrialStopped | TrialPaused | None:
    """Return the scheduler's decision that an exception is, or that its groups contain; a stop comes first.

    Example:
        >>> decision_in(BaseExceptionGroup("tasks", [TrialPaused(), ValueError()]))
        TrialPaused()
    """
    if isinstance(error, TrialStopped | TrialPaused):
        return error
    if not isinstance(error, BaseExceptionGroup):
        return None
    found = [decision for inner in error.exceptions if (decision := decision_in(inner)) is not None]
    stopped = [decision for decision in found if isinstance(decision, TrialStopped)]
    return (stopped or found or [None])[0]


def run(
    connection: socket.socket,
    note: dict[str, Any],
    functions: list[Callable[..., object]],
    server: int,
    foreign: list[int],
    pools: Any,
) -> NoReturn:
    """Do the task that comes over the wire, and exit.

    Args:
        connection: The wire to the owner.
        note: cpus, gpus, output directory, title.
        functions: The preloaded functions.
        server: Process id of the fork server.
        foreign: Descriptors of the server's that are none of ours.
        pools: threadpoolctl's controller of the loaded libraries, or None.
    """
    code = 70
    try:
        _settle(note, server, foreign, pools)
        code = _work(connection, functions)
    except SystemExit as error:
        code = _exit_code(error)
    except BaseException:  # noqa: BLE001  # nothing may return into the server's loop
        traceback.print_exc()
    finally:
        try:
            _flush()
        finally:
            os._exit(code)


def _settle(note: dict[str, Any], server: int, foreign: list[int], pools: Any) -> None:
    """Make a process of our own of this copy of the server."""
    os.setsid()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, _terminate)  # SIGINT stays ignored: the owner decides
    for descriptor in foreign:
        os.close(descriptor)
    if _LINUX:
        libc = ctypes.CDLL(None)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # so that whatever we leave behind is found
    else:
        threading.Thread(target=_die_with, args=(server,), name="sweep-watchdog", daemon=True).start()
    if os.getppid() != server:
        os._exit(70)
    os.environ[wire.CHILD_VARIABLE] = str(os.getpid())
    if note["output"] is not None:
        _redirect(Path(note["output"]), note["title"])
    faulthandler.enable(file=2)
    if note["gpus"] is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(note["gpus"])
    _limit_threads(max(1, int(note["cpus"])), pools)


def _die_with(server: int) -> None:
    """Exit when the server is gone (where the kernel cannot do it for us)."""
    while os.getppid() == server:
        time.sleep(0.5)
    os.killpg(os.getpid(), signal.SIGKILL)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _redirect(directory: Path, title: str) -> None:
    """Send descriptors 1 and 2 to files; C code is line-buffered, too."""
    directory.mkdir(parents=True, exist_ok=True)
    head = f"--- {title} · {datetime.now().astimezone().isoformat(timespec='seconds')} · pid {os.getpid()} ---\n"
    for descriptor, name in ((1, "stdout.log"), (2, "stderr.log")):
        log = os.open(directory / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.write(log, head.encode())
        os.dup2(log, descriptor)
        os.close(log)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # the server never replaces them
    libc = ctypes.CDLL(None)
    try:
        out = ctypes.c_void_p.in_dll(libc, "stdout" if _LINUX else "__stdoutp")
        libc.setvbuf(out, None, 1, 0)  # _IOLBF
    except ValueError:
        return  # a C library without that symbol: its output comes when the buffer is full


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    ctypes.CDLL(None).fflush(None)


def _limit_threads(count: int, pools: Any) -> None:
    """Give the numeric libraries as many threads as the task has cpus; loaded ones and those to come."""
    os.environ.update(dict.fromkeys(_THREADS, str(count)))
    if pools is not None:
        pools.limit(limits=count)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(count)
    if "numpy.random" in sys.modules:  # the copies of the server would all draw the same numbers
        sys.modules["numpy.random"].seed()


def _work(connection: socket.socket, functions: list[Callable[..., object]]) -> int:
    """Run the task and send what it came to; return the exit code."""
    session = _PipeSession(connection)
    try:
        task = wire.load(wire.receive(connection).parts)
        value = _call(task, functions, session)
        parts = _dump_value(value)
    except BaseException as error:  # noqa: BLE001  # everything a task may raise is reported
        ended = _describe(error, session)
        wire.send(connection, Kind.ENDED, wire.note(ended))
        return int(ended.get("exit") or 0) or (0 if "decision" in ended else 1)
    wire.send(connection, Kind.VALUE, *parts)
    return 0


def _call(task: Mapping[str, Any], functions: list[Callable[..., object]], session: _PipeSession) -> object:
    function = task["function"]
    function = functions[function] if isinstance(function, int) else function
    kwargs = dict(task["kwargs"])
    session.next_decision = task["next_decision"]
    if task["context_name"] is not None:
        left = task["remaining"]
        deadline = None if left is None else current_clock().now() + left
        kwargs[task["context_name"]] = Context(session, directory=task["directory"], deadline=deadline, **task["facts"])
    if inspect.iscoroutinefunction(function):
        return anyio.run(partial(function, **kwargs), backend=task["backend"])
    value = function(**kwargs)
    if inspect.isawaitable(value):
        return anyio.run(_wait_for, value, backend=task["backend"])
    return value


async def _wait_for(value: Awaitable[object]) -> object:
    return await value


def _dump_value(value: object) -> list[bytes | memoryview]:
    try:
        return wire.dump(value)
    except NotSendable as error:
        part = _refused(value)
        kind = f"{type(part).__module__}.{type(part).__qualname__}"
        what = f"the returned value, a {kind}," if part is value else f"a {kind} in the returned value"
        raise TypeError(f"{what} cannot be sent to the owning process: {error}; return plain data") from error


def _refused(value: object) -> object:
    """Return the innermost part of a value that cannot be pickled."""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    for part in parts:
        try:
            wire.dump(part)
        except NotSendable:
            return _refused(part)
    return value


def _describe(error: BaseException, session: _PipeSession) -> dict[str, Any]:
    """Return what ended the task as a note."""
    decision = decision_in(error)
    if decision is not None:
        return {"decision": "stop" if isinstance(decision, TrialStopped) else "pause"}
    start = error.__traceback__
    while start is not None and start.tb_frame.f_code.co_filename == __file__:
        start = start.tb_next  # the user's frames only, unless there are none
    shown = error.with_traceback(start) if start is not None else error
    note = {
        "words": in_words(error),
        "traceback": shortened("".join(traceback.format_exception(shown))),
        "fault": error is session.fault,
    }
    return note | ({"exit": _exit_code(error)} if isinstance(error, SystemExit) else {})


def _exit_code(error: SystemExit) -> int:
    """Return the code the interpreter would exit with."""
    if error.code is None:
        return 0
    return error.code & 0xFF if isinstance(error.code, int) else 1


@final
class _PipeSession:
    """The session of a context in a child: every call is a frame to the owner."""

    def __init__(self, connection: socket.socket) -> None:
        self.next_decision: int | None = None
        self.fault: BaseException | None = None
        self._connection = connection
        self._lock = threading.Lock()  # user threads may report, too

    def report(self, step: int, metrics: Mapping[str, float]) -> Decision:
        frame = wire.note([step, dict(metrics)])
        if self.next_decision is not None and step < self.next_decision:
            self._tell(Kind.TOLD, frame)
            return Decision.CONTINUE
        decision, self.next_decision = wire.load(self._ask(Kind.REPORT, frame).parts)
        return Decision(decision)

    def save(self, value: object) -> None:
        try:
            parts = wire.dump(value)
        except NotSendable as error:
            raise NotStorable("the checkpoint", type(value), str(error)) from error
        self._ask(Kind.SAVE, *parts)

    def load(self) -> Any:
        return wire.load(self._ask(Kind.LOAD).parts)

    def log(self, message: str) -> None:
        self._tell(Kind.LOG, wire.note(message))

    def log_metric(self, name: str, value: float, step: int | None) -> None:
        self._tell(Kind.METRIC, wire.note([name, value, step]))

    def log_artifact(self, path: Path) -> None:
        self._ask(Kind.ARTIFACT, wire.note(str(path.absolute())))

    def _tell(self, kind: Kind, *parts: bytes | memoryview) -> None:
        with self._lock:
            self._send(kind, *parts)

    def _ask(self, kind: Kind, *parts: bytes | memoryview) -> Frame:
        with self._lock:
            self._send(kind, *parts)
            try:
                answer = wire.receive(self._connection)
            except EOFError:
                raise SystemExit("the process that owns this trial is gone") from None
        if answer.kind is Kind.FAULT:
            self.fault = wire.load_error(answer.parts)
            raise self.fault
        return answer

    def _send(self, kind: Kind, *parts: bytes | memoryview) -> None:
        try:
            wire.send(self._connection, kind, *parts)
        except OSError:
            raise SystemExit("the process that owns this trial is gone") from None
