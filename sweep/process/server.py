"""The fork server: imports the objectives once, forks a child for each task, ends children as trees.

It is a process of its own in a session of its own, started by exec, so it has none of the owner's
threads, locks or CUDA contexts. One thread, one selector; it never runs user code but for the
imports of the objectives.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import importlib.util
import os
import selectors
import signal
import socket
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from sweep.process import child, wire
from sweep.process.wire import Kind

__all__ = ["main"]

_GRACE = 0.5
"""Seconds between SIGTERM and SIGKILL."""
_TICK, _MEMORY_TICK = 1.0, 0.1
_LINUX = sys.platform.startswith("linux")
_PR_SET_CHILD_SUBREAPER = 36


def main(fd: int) -> None:
    """Serve the owner at the other end of ``fd`` until it closes it or dies."""
    os.set_inheritable(fd, False)
    server = _Server(socket.socket(fileno=fd))
    try:
        server.serve()
    finally:
        server.end()


@final
@dataclass(slots=True, eq=False)
class _Live:
    """A child that has not been announced as ended."""

    pid: int
    handle: socket.socket
    wire: socket.socket
    memory: int | None
    kill_at: float | None = None
    note: str = ""
    status: dict[str, object] | None = None


@final
class _Server:
    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._owner = os.getppid()
        self._functions: list[Callable[..., object]] = []
        self._kept: set[int] = set()  # processes that the imports have started
        self._pools: Any = None  # finding the numeric libraries takes longer than a fork
        self._live: set[_Live] = set()
        self._selector = selectors.DefaultSelector()
        self._wake, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC) if _LINUX else _pipe()
        self._wake_in = wake
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the owner decides
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        self._selector.register(control, selectors.EVENT_READ, self._on_control)
        self._selector.register(self._wake, selectors.EVENT_READ, self._on_wake)
        if _LINUX:  # orphans of a dead child come to us
            ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self._serving = True

    def serve(self) -> None:
        """Serve until the owner is gone."""
        while self._serving and os.getppid() == self._owner:
            watched = any(live.memory for live in self._live)
            deadlines = [live.kill_at - time.monotonic() for live in self._live if live.kill_at is not None]
            timeout = min([_MEMORY_TICK if watched else _TICK, *deadlines])
            for key, _ in self._selector.select(max(0.0, timeout)):
                key.data()
            for live in self._live:
                self._watch(live)

    def end(self) -> None:
        """Kill every child with its tree."""
        for live in self._live:
            self._kill(live)
        self._kept.clear()
        until = time.monotonic() + 2.0
        while time.monotonic() < until:
            self._reap()
            if not self._live and not self._kill_strays():
                break
            time.sleep(0.002)

    def _on_control(self) -> None:
        try:
            message, fds, _, _ = socket.recv_fds(self._control, 1, 2)
            for fd in fds:
                os.set_inheritable(fd, False)
        except ConnectionError:
            message, fds = b"", []
        if message == b"S":
            with socket.socket(fileno=fds[0]) as reply:
                self._setup(reply)
        elif message == b"T":
            self._start(socket.socket(fileno=fds[0]), socket.socket(fileno=fds[1]))
        else:
            self._serving = False

    def _setup(self, reply: socket.socket) -> None:
        """Take over the owner's surroundings and load the functions."""
        try:
            frame = wire.receive(reply)
        except EOFError:
            return
        note = frame.note()
        os.environ.clear()
        os.environ.update(note["environ"])
        sys.path[:], sys.argv[:] = note["path"], note["argv"]
        if Path(note["cwd"]).is_dir():
            os.chdir(note["cwd"])
        importlib.invalidate_caches()
        answer = self._load(frame.parts[1:], note["backend"])
        gc.collect()
        gc.freeze()  # children must not write to these pages only because a collector looks at them
        try:
            wire.send(reply, Kind.READY, wire.note(answer))
        except OSError:
            return  # the owner has given up; nothing depends on the answer

    def _load(self, parts: list[bytearray], backend: str) -> dict[str, object]:
        stdout = os.dup(1)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)  # what the imports print, the owner has printed already
        try:
            functions = wire.load(parts) if parts else []
            importlib.import_module(f"anyio._backends._{backend}")
            _import_lazy_torch()
            if "numpy" in sys.modules and importlib.util.find_spec("threadpoolctl") is not None:
                self._pools = importlib.import_module("threadpoolctl").ThreadpoolController()
        except BaseException as error:  # noqa: BLE001  # user imports may raise anything; the owner is told
            missing = error.name if isinstance(error, ModuleNotFoundError) else None
            return {"missing": missing, "error": "".join(traceback.format_exception(error))}
        finally:
            sys.stdout.flush()
            os.dup2(stdout, 1)
            os.close(stdout)
            os.close(null)
        self._kept |= _children() - {live.pid for live in self._live}
        first = len(self._functions)
        self._functions += functions
        return {"first": first, "cuda": _cuda_is_up()}

    def _start(self, handle: socket.socket, connection: socket.socket) -> None:
        try:
            note = wire.receive(handle).note()
        except EOFError:
            handle.close()
            connection.close()
            return
        try:
            with warnings.catch_warnings():  # 3.12 warns of threads that an import may have started
                warnings.simplefilter("ignore", DeprecationWarning)
                sys.stdout.flush()
                server = os.getpid()
                pid = os.fork()
        except OSError as error:
            _tell(handle, {"failed": str(error)})
            connection.close()
            handle.close()
            return
        if pid == 0:
            foreign = [*self._descriptors(), handle.fileno()]
            child.run(connection, note, self._functions, server, foreign, self._pools)
        live = _Live(pid, handle, connection, note["memory"])
        self._live.add(live)
        _tell(handle, {"pid": pid})
        self._selector.register(handle, selectors.EVENT_READ, lambda: self._on_handle(live))

    def _descriptors(self) -> list[int]:
        """Return what a child must not hold open."""
        sockets = [end.fileno() for live in self._live for end in (live.handle, live.wire)]
        return [self._control.fileno(), self._wake, self._wake_in, self._selector.fileno(), *sockets]

    def _on_handle(self, live: _Live) -> None:
        """End a child: gently if asked so, at once when its handle is closed."""
        try:
            order = live.handle.recv(1)
        except ConnectionError:
            order = b""
        if order == b"T" and live.kill_at is None and live.status is None:
            os.kill(live.pid, signal.SIGTERM)
            live.kill_at = time.monotonic() + _GRACE
            return
        if not order:
            self._selector.unregister(live.handle)
        self._kill(live)

    def _kill(self, live: _Live) -> None:
        if live.status is None:  # once it is reaped, its number may be anybody's
            _kill_group(live.pid)

    def _watch(self, live: _Live) -> None:
        """Kill a child whose grace is over or that uses more memory than it was given."""
        if live.status is not None:
            return
        if live.kill_at is not None and time.monotonic() >= live.kill_at:
            live.kill_at = None
            self._kill(live)
        if live.memory is not None and not live.note and (used := _own_memory(live.pid)) > live.memory:
            live.note = f"it used {used} bytes of memory, more than the {live.memory} it was given"
            self._kill(live)

    def _on_wake(self) -> None:
        with suppress(BlockingIOError):
            while os.read(self._wake, 512):
                continue
        self._reap()

    def _reap(self) -> None:
        """Reap dead children, kill what they left behind, and announce them once nothing is left."""
        for live in [live for live in self._live if live.status is None]:
            code = _reap_group(live.pid)
            live.status = None if code is None else _describe(code, live.note)
        strays = self._kill_strays()
        for live in [live for live in self._live if live.status is not None and not strays]:
            self._live.discard(live)
            if live.handle in self._selector.get_map():
                self._selector.unregister(live.handle)
            with suppress(OSError):  # the owner may have closed it already
                live.wire.shutdown(socket.SHUT_RDWR)  # whoever else still holds it, the owner sees the end
            _tell(live.handle, live.status or {})
            live.wire.close()
            live.handle.close()

    def _kill_strays(self) -> bool:
        """Kill our children that nobody asked for; return whether some are still to be reaped.

        Living children are reapers themselves, so an orphan that comes to us was left by a dead one.
        """
        known = {live.pid for live in self._live if live.status is None}
        left = False
        for pid in _children() - known - self._kept:
            try:
                os.kill(pid, signal.SIGKILL)
                left |= os.waitpid(pid, os.WNOHANG) == (0, 0)
            except (ProcessLookupError, ChildProcessError):
                continue
        return left


def _tell(handle: socket.socket, note: dict[str, object]) -> None:
    try:
        wire.send(handle, Kind.STATUS, wire.note(note))
    except OSError:
        return  # the owner no longer wants to know


def _describe(code: int, note: str) -> dict[str, object]:
    """Return a wait status as a note."""
    exit_code = os.waitstatus_to_exitcode(code)
    if exit_code >= 0:
        return {"exit": exit_code, "note": note}
    try:
        name = signal.Signals(-exit_code).name
    except ValueError:
        name = f"signal {-exit_code}"
    return {"signal": name, "note": note}


def _reap_group(pid: int) -> int | None:
    """Return the wait status of a dead child whose group is killed, or None while it lives."""
    if _LINUX:
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return None
        _kill_group(pid)  # before it is reaped: until then the group cannot be anybody else's
        return os.waitpid(pid, 0)[1]
    found, code = os.waitpid(pid, os.WNOHANG)  # macOS has no waitid before Python 3.13
    if not found:
        return None
    _kill_group(pid)
    return code


def _kill_group(pid: int) -> None:
    """Kill a child that is not reaped yet, and its group."""
    for kill in (os.killpg, os.kill):  # the group does not exist before the child has made it
        try:
            kill(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):  # macOS: a group of zombies only
            continue


def _children() -> set[int]:
    """Return the processes whose parent we are; nothing where ``/proc`` does not tell."""
    me = os.getpid()
    try:
        lists = [path.read_text() for path in Path(f"/proc/{me}/task").glob("*/children")]
    except OSError:
        lists = []
    if lists:
        return {int(pid) for text in lists for pid in text.split()}
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == me:
            found.add(int(stat.parent.name))
    return found


def _own_memory(pid: int) -> int:
    """Return resident bytes that are not shared with files; 0 where ``/proc`` does not tell.

    Address space limits (RLIMIT_AS) are no use: torch reserves far more than it touches.
    """
    try:
        _, resident, shared = Path(f"/proc/{pid}/statm").read_text().split()[:3]
    except (OSError, ValueError):
        return 0
    return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")


def _import_lazy_torch() -> None:
    """Import what torch puts off until the first optimizer is made.

    That is its compiler: 800 modules and 1.2 s, which each child would pay for itself.
    """
    if hasattr(sys.modules.get("torch"), "__path__") and importlib.util.find_spec("torch._dynamo") is not None:
        importlib.import_module("torch._dynamo")


def _cuda_is_up() -> bool:
    """Return whether an import initialised CUDA, which no fork survives."""
    torch = sys.modules.get("torch")
    return torch is not None and bool(torch.cuda.is_initialized())


def _pipe() -> tuple[int, int]:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    return reader, writer
