"""Frames on a stream socket, and values in them.

A frame is a kind, a number of parts, their lengths, the parts. Notes are JSON; values are
cloudpickle, which travels only between our own processes and is never stored. Large arrays
are parts of their own (pickle protocol 5), so they are not copied into the pickle.
"""

from __future__ import annotations

import json
import pickle
import socket
import struct
from collections.abc import Generator, Sequence
from enum import IntEnum
from typing import Any, NamedTuple, final

import anyio
import cloudpickle  # type: ignore[import-untyped]  # it has no stubs

from sweep.errors import in_words

__all__ = [
    "CHILD_VARIABLE",
    "Frame",
    "Kind",
    "NotSendable",
    "Stream",
    "dump",
    "dump_error",
    "load",
    "load_error",
    "note",
    "receive",
    "send",
]

CHILD_VARIABLE = "SWEEP_CHILD_PID"
"""Environment variable that holds the pid of the child it was set in."""

Parts = Sequence[bytes | bytearray | memoryview]

_HEAD = struct.Struct("!BI")
_SHORT = struct.Struct("!BIQ")  # the head of a frame of one part
_CHUNK = 1 << 16  # frames up to this many bytes are sent, and read ahead, by one call


class Kind(IntEnum):
    """What a frame is."""

    SETUP = 1  # owner to server: note (cwd, path, argv, environment), pickled functions
    READY = 2  # server to owner: note
    START = 3  # owner to server: note (cpus, gpus, output …)
    STATUS = 4  # server to owner: note (pid; later exit code or signal)
    TASK = 5  # owner to child: note, function, arguments
    REPORT = 6  # child to owner: [step, metrics]
    SAVE = 7  # child to owner: value
    LOAD = 8  # child to owner
    LOG = 9  # child to owner: message
    METRIC = 10  # child to owner: [name, value, step]
    ARTIFACT = 11  # child to owner: path
    ANSWER = 12  # owner to child: value
    FAULT = 13  # owner to child: exception that the session raised
    VALUE = 14  # child to owner: what the function returned
    ENDED = 15  # child to owner: note (stopped, paused, or the error)
    TOLD = 16  # child to owner: [step, metrics], a report below the next decision


class Frame(NamedTuple):
    """One message."""

    kind: Kind
    parts: list[bytearray]

    def note(self) -> Any:
        """Return the first part, which is JSON."""
        return json.loads(self.parts[0])


@final
class NotSendable(Exception):
    """A value cannot be pickled; says why as pickle does."""


def note(value: object) -> bytes:
    """Return plain data as the bytes of a note."""
    return json.dumps(value, separators=(",", ":")).encode()


def dump(value: object) -> list[bytes | memoryview]:
    """Return a value as parts of a frame.

    Raises:
        NotSendable: It cannot be pickled.
    """
    buffers: list[pickle.PickleBuffer] = []
    try:
        data = cloudpickle.dumps(value, protocol=5, buffer_callback=buffers.append)
        try:
            return [data, *(buffer.raw() for buffer in buffers)]
        except BufferError:  # an array that is not contiguous stays inside the pickle
            return [cloudpickle.dumps(value, protocol=5)]
    except Exception as error:  # classes say how they are pickled, so they may raise anything
        raise NotSendable(str(error)) from error


def load(parts: Parts) -> Any:
    """Return the value that :func:`dump` wrote.

    Raises:
        Exception: Whatever unpickling it raises.
    """
    return pickle.loads(parts[0], buffers=parts[1:])  # noqa: S301  # written by our own process at the other end


def dump_error(error: BaseException) -> list[bytes | memoryview]:
    """Return an exception as parts of a frame: its class, arguments and attributes, or else its words.

    Not by its own ``__reduce__``, which calls the constructor with the message, whatever it takes.
    """
    try:
        parts = dump((type(error), error.args, vars(error)))
        load_error(parts)
    except Exception:  # noqa: BLE001  # any part of it may refuse, then its words must do
        return dump((RuntimeError, (in_words(error),), {}))
    return parts


def load_error(parts: Parts) -> BaseException:
    """Return the exception that :func:`dump_error` wrote.

    Raises:
        Exception: Whatever unpickling it raises.
    """
    kind, arguments, attributes = load(parts)
    error: BaseException = kind.__new__(kind, *arguments)
    vars(error).update(attributes)
    return error


def send(sock: socket.socket, kind: Kind, *parts: bytes | bytearray | memoryview) -> None:
    """Send a frame on a blocking socket."""
    for piece in _pieces(kind, parts):
        sock.sendall(piece)


def receive(sock: socket.socket) -> Frame:
    """Read a frame from a blocking socket.

    Raises:
        EOFError: The other end is gone.
    """
    reading = _frame(sock, None)
    while True:
        try:
            next(reading)
        except StopIteration as done:
            frame: Frame = done.value
            return frame


@final
class Stream:
    """Frames on a socket without blocking the event loop; a cancelled read goes on where it stopped."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.socket = sock
        self._ahead = bytearray()
        self._reading: Generator[None, None, Frame] | None = None

    async def receive(self) -> Frame:
        """Return the next frame.

        Raises:
            EOFError: The other end is gone.
        """
        if self._reading is None:
            self._reading = _frame(self.socket, self._ahead)
        while True:
            try:
                next(self._reading)
            except StopIteration as done:
                self._reading = None
                frame: Frame = done.value
                return frame
            await anyio.wait_readable(self.socket)

    async def send(self, kind: Kind, *parts: bytes | bytearray | memoryview) -> None:
        """Send a frame.

        Raises:
            OSError: The other end is gone.
        """
        for piece in _pieces(kind, parts):
            view = memoryview(piece).cast("B")
            while view:
                try:
                    view = view[self.socket.send(view) :]
                except BlockingIOError:
                    await anyio.wait_writable(self.socket)

    def close(self) -> None:
        """Close the socket."""
        self.socket.close()


def _pieces(kind: Kind, parts: Parts) -> Parts:
    """Return a frame as buffers to send one after another."""
    if len(parts) == 1 and isinstance(part := parts[0], bytes) and len(part) <= _CHUNK:
        return [_SHORT.pack(kind, 1, len(part)) + part]
    sizes = [memoryview(part).nbytes for part in parts]
    head = _HEAD.pack(kind, len(parts)) + struct.pack(f"!{len(parts)}Q", *sizes)
    return [b"".join([head, *parts])] if sum(sizes) <= _CHUNK else [head, *parts]


def _frame(sock: socket.socket, ahead: bytearray | None) -> Generator[None, None, Frame]:
    """Read one frame; yields where a non-blocking socket has nothing yet.

    Args:
        sock: Where to read.
        ahead: Keeps what was read beyond this frame; None = read no further.
    """
    kind, count = _HEAD.unpack((yield from _exactly(sock, ahead, _HEAD.size)))
    sizes = struct.unpack(f"!{count}Q", (yield from _exactly(sock, ahead, 8 * count)))
    parts = []
    for size in sizes:
        parts.append((yield from _exactly(sock, ahead, size)))  # a comprehension cannot yield
    return Frame(Kind(kind), parts)


def _exactly(sock: socket.socket, ahead: bytearray | None, count: int) -> Generator[None, None, bytearray]:
    data = bytearray(count)
    view, filled = memoryview(data), 0
    while True:
        if ahead:
            taken = min(len(ahead), count - filled)
            view[filled : filled + taken] = ahead[:taken]
            del ahead[:taken]
            filled += taken
        if filled == count:
            return data
        try:
            if ahead is None or count - filled >= _CHUNK:
                filled += _some(sock.recv_into(view[filled:]))
            else:
                ahead += (more := sock.recv(_CHUNK))
                _some(len(more))
        except BlockingIOError:
            yield
        except ConnectionError as error:
            raise EOFError("the connection broke") from error


def _some(got: int) -> int:
    if not got:
        raise EOFError("the other end has closed the connection")
    return got
