"""Content-addressed blobs: what is too big for a row of the store.

A blob's *address* is the BLAKE2b-256 digest of its bytes in hexadecimal, plus a
suffix that tells the format (``"3f…c2.npy"``). The same bytes are kept once, a
blob never changes, and what is read is checked against its own name.

Two places hold blobs: :class:`BlobStore` (a directory) and :class:`MemoryBlobs`
(a mapping, for a child process that sends its blobs over a pipe).
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import secrets
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Protocol, TypeAlias, final

from sweep.errors import StoreCorrupt, StoreUnwritable

__all__ = ["BlobSink", "BlobSource", "BlobStore", "Data", "HeldBlobs", "MemoryBlobs", "NoBlobs"]

Chunk: TypeAlias = bytes | bytearray | memoryview
Data: TypeAlias = Chunk | Iterable[Chunk]

_ADDRESS = re.compile(r"[0-9a-f]{64}\.[a-z0-9]{1,16}")
_TEMPORARY = ".tmp"


class BlobSink(Protocol):
    """Where :func:`sweep.store.codec.encode` puts arrays, tensors and long bytes."""

    def put(self, data: Data, suffix: str) -> str:
        """Keep ``data`` (bytes, or chunks of bytes) and return its address.

        When this returns, the blob is as durable as the sink can make it.
        """
        ...


class BlobSource(Protocol):
    """Where :func:`sweep.store.codec.decode` finds them again."""

    def open(self, address: str) -> BinaryIO:
        """Return the blob's bytes as a file, already checked; the caller closes it.

        Raises:
            StoreCorrupt: No such blob, or its bytes are not those its name says.
        """
        ...


@final
class BlobStore:
    """Blobs as files ``ab/cdef….npy`` under one directory.

    A blob is written to a temporary file beside its place, synced, and renamed
    into it, so that a reader sees a whole blob or none. Any number of threads
    and processes may use the same directory.

    Args:
        directory: Made when the first blob is put.
        sync: Call ``fsync`` before :meth:`put` returns. Without it a blob
            survives the death of the process, but not that of the machine.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     blobs = BlobStore(directory)
        ...     address = blobs.put([b"two ", b"chunks"], ".bin")
        ...     with blobs.open(address) as file:
        ...         file.read()
        b'two chunks'
    """

    def __init__(self, directory: str | os.PathLike[str], *, sync: bool = True) -> None:
        self._directory = Path(directory)
        self._sync = sync

    def path(self, address: str) -> Path:
        """Return the file that holds, or would hold, the blob ``address``.

        Raises:
            StoreCorrupt: ``address`` is no address of a blob.
        """
        if not isinstance(address, str) or not _ADDRESS.fullmatch(address):
            raise StoreCorrupt(f"{address!r} is no address of a blob in {self._directory}")
        return self._directory / address[:2] / address[2:]

    def put(self, data: Data, suffix: str) -> str:
        """Keep ``data`` and return its address; a blob that is there already is kept, a damaged one healed.

        Raises:
            StoreUnwritable: The directory cannot be written, or the disk is full.
        """
        temporary = self._directory / f"{os.getpid()}-{secrets.token_hex(8)}{_TEMPORARY}"
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            try:
                address = self._write(temporary, data) + suffix
                self._place(temporary, address)
            finally:
                temporary.unlink(missing_ok=True)
        except OSError as error:
            raise StoreUnwritable(
                f"cannot write a blob into {self._directory}: {error.strerror or error}; "
                "free some space or make it writable, then resume"
            ) from error
        return address

    def open(self, address: str) -> BinaryIO:
        """Return the blob as an open file at its start, after its whole content was checked.

        Costs one pass over the file in constant memory.

        Raises:
            StoreCorrupt: The file is missing, cannot be read, or was damaged.
        """
        path = self.path(address)
        try:
            file = path.open("rb")
        except OSError as error:
            raise StoreCorrupt(f"blob {path} cannot be read: {error.strerror or error}") from error
        try:
            whole = _digest_of(file) == address[:64]
            file.seek(0)
        except BaseException as error:
            file.close()
            if isinstance(error, OSError):
                raise StoreCorrupt(f"blob {path} cannot be read: {error.strerror or error}") from error
            raise
        if not whole:
            file.close()
            raise StoreCorrupt(f"blob {path} is damaged: its content does not match its name; redo the stage it is of")
        return file

    def size(self, address: str) -> int:
        """Return the bytes of a blob without opening it.

        Raises:
            StoreCorrupt: The file is missing.
        """
        path = self.path(address)
        try:
            return path.stat().st_size
        except OSError as error:
            raise StoreCorrupt(f"blob {path} cannot be read: {error.strerror or error}") from error

    def addresses(self) -> Iterator[str]:
        """Yield the address of every blob, in no order."""
        for path in self._directory.glob("??/*"):
            address = path.parent.name + path.name
            if _ADDRESS.fullmatch(address):
                yield address

    def collect(self, keep: Collection[str], before: float) -> int:
        """Remove what nothing refers to any more, and return the bytes freed.

        A blob counts as used from the moment it is put, which is before the row
        that refers to it is committed; hence ``before``.

        Args:
            keep: Addresses that are referred to (see :func:`sweep.store.codec.references`).
            before: Only files last put before this time (seconds since the epoch) go.
        """
        kept = frozenset(keep)
        loose = [self.path(address) for address in self.addresses() if address not in kept]
        freed = 0
        for path in [*loose, *self._directory.glob(f"*{_TEMPORARY}")]:
            with contextlib.suppress(FileNotFoundError):  # another collector was quicker
                facts = path.stat()
                if facts.st_mtime < before:
                    path.unlink()
                    freed += facts.st_size
        return freed

    def _write(self, temporary: Path, data: Data) -> str:
        """Write ``data`` to the file ``temporary`` and return its digest."""
        digest = _new_digest()
        with temporary.open("xb") as file:
            for chunk in _chunks(data):
                digest.update(chunk)
                file.write(chunk)
            if self._sync:
                file.flush()
                os.fsync(file.fileno())
        return digest.hexdigest()

    def _place(self, temporary: Path, address: str) -> None:
        """Move ``temporary`` to its place, unless the same content is there already."""
        path = self.path(address)
        path.parent.mkdir(exist_ok=True)
        if self._whole(path, address):
            os.utime(path)  # put again just now: `collect` leaves it
        else:
            os.replace(temporary, path)
        if self._sync:
            _sync_directory(path.parent)
            _sync_directory(self._directory)

    @staticmethod
    def _whole(path: Path, address: str) -> bool:
        """Tell whether ``path`` holds the content that ``address`` names.

        Checked, not presumed: else a stage redone because of a damaged blob
        would meet the same damage again.
        """
        try:
            with path.open("rb") as file:
                return _digest_of(file) == address[:64]
        except FileNotFoundError:
            return False


@final
class MemoryBlobs:
    """Blobs in memory, for values that travel to the owner of the store first.

    Attributes:
        data: Bytes by address.

    Example:
        >>> blobs = MemoryBlobs()
        >>> address = blobs.put(b"abc", ".bin")
        >>> blobs.open(address).read()
        b'abc'
    """

    def __init__(self, data: dict[str, bytes] | None = None) -> None:
        self.data: dict[str, bytes] = {} if data is None else data

    def put(self, data: Data, suffix: str) -> str:
        """Keep ``data`` and return its address."""
        whole = b"".join(_chunks(data))
        digest = _new_digest()
        digest.update(whole)
        address = digest.hexdigest() + suffix
        self.data[address] = whole
        return address

    def open(self, address: str) -> BinaryIO:
        """Return the blob as a file in memory.

        Raises:
            StoreCorrupt: No such blob.
        """
        if address not in self.data:
            raise StoreCorrupt(f"blob {address!r} did not come with the value that refers to it")
        return io.BytesIO(self.data[address])

    def copy_to(self, sink: BlobSink) -> None:
        """Put every blob into ``sink``; the addresses stay the same.

        Raises:
            StoreCorrupt: A blob's bytes are not those its address says (it was damaged on its way).
        """
        for address, data in self.data.items():
            if sink.put(data, address[64:]) != address:
                raise StoreCorrupt(f"blob {address!r} was damaged on its way: its content does not match its name")


@final
class HeldBlobs:
    """Copies of blobs in memory, to be put by another thread while the values that they are of may change again.

    Example:
        >>> held = HeldBlobs()
        >>> text = f'{{"b":"{held.put(bytearray(b"abc"), ".bin")}"}}'
        >>> text = held.put_into(blobs := MemoryBlobs(), text)
        >>> [*blobs.data.values()], [*blobs.data][0] in text
        ([b'abc'], True)
    """

    def __init__(self) -> None:
        self._data: dict[str, list[bytes]] = {}

    def __bool__(self) -> bool:
        return bool(self._data)

    def put(self, data: Data, suffix: str) -> str:
        """Copy ``data`` and return an address that stands for its own, which nobody knows yet."""
        address = secrets.token_hex(32) + suffix
        self._data[address] = [chunk if type(chunk) is bytes else bytes(chunk) for chunk in _chunks(data)]
        return address

    def put_into(self, sink: BlobSink, text: str) -> str:
        """Put everything into ``sink``, and return ``text`` with the addresses that this gives."""
        while self._data:
            address, chunks = self._data.popitem()
            text = text.replace(address, sink.put(chunks, address[64:]))
        return text


@final
class NoBlobs:
    """Keeps nothing but says the addresses, for whoever only wants to know whether two values are equal."""

    def put(self, data: Data, suffix: str) -> str:
        """Return the address of ``data``."""
        digest = _new_digest()
        for chunk in _chunks(data):
            digest.update(chunk)
        return digest.hexdigest() + suffix


def _new_digest() -> hashlib.blake2b:
    return hashlib.blake2b(digest_size=32)


def _digest_of(file: io.BufferedReader) -> str:
    new: Callable[[], hashlib.blake2b] = _new_digest
    return hashlib.file_digest(file, new).hexdigest()


def _chunks(data: Data) -> Iterable[Chunk]:
    return (data,) if isinstance(data, bytes | bytearray | memoryview) else data


def _sync_directory(directory: Path) -> None:
    """Make the names in ``directory`` durable (POSIX wants this apart from the files)."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
