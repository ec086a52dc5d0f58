"""Opening a store: is it there, whole, ours and of this version, and a connection that is ready to be used."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sweep.errors import StoreCorrupt, StoreError, StoreTooNew, StoreUnwritable
from sweep.store.ddl import MIGRATIONS, SCHEMA_VERSION, statements
from sweep.store.ownership import network_file_system

__all__ = ["as_ours", "check_place", "connect", "translated"]

_LEAST = 512  # bytes of the smallest SQLite database
_TABLES = frozenset({"run", "journal", "metric", "blob", "definition"})


def check_place(path: Path, files: Path, *, create: bool, local: bool) -> None:
    """Refuse a place where no store can be.

    Args:
        path: The SQLite file.
        files: The directory beside it.
        create: Make the file if it is not there.
        local: It has to lie on a local disk.

    Raises:
        StoreError: There is no such store, or it lies on a network file system.
        StoreUnwritable: The directory is missing, or the path is one.
        StoreCorrupt: It is a stump of what was a store.
    """
    if not path.parent.is_dir():
        raise StoreUnwritable(f"store {path}: the directory {path.parent} does not exist; make it first")
    if path.is_dir():
        raise StoreUnwritable(f"store {path} is a directory; name a file in it, for example {path}/sweep.db")
    if not path.exists() and not create:
        raise StoreError(f"there is no store {path}; run something first, or name one (--store, SWEEP_STORE)")
    _check_whole(path, files)
    kind = network_file_system(path.parent) if local and os.environ.get("SWEEP_ALLOW_NETWORK_FS") != "1" else None
    if kind is not None:
        raise StoreError(
            f"store {path} lies on a network file system ({kind}), where locks may not hold; "
            "use a local disk, or set SWEEP_ALLOW_NETWORK_FS=1"
        )


def _check_whole(path: Path, files: Path) -> None:
    """Refuse a stump of a file that was a store: SQLite would begin it anew and throw its log away."""
    log = _log_of(path)
    # In this order: of a store that another process makes just now, the file has content before these exist.
    used = files.exists() or (log.exists() and log.stat().st_size > 0)
    size = path.stat().st_size if path.exists() else _LEAST
    if 0 < size < _LEAST or (size == 0 and used):
        raise StoreCorrupt(
            f"{path} is {'cut off' if size else 'empty'} ({size} bytes)"
            + (f", but {files.name} or {log.name} beside it say that it was a store" if used else "")
            + f"; put a copy of {path.name} back, or move what is left away to begin anew"
        )


def connect(path: Path, *, readonly: bool, synchronous: str) -> sqlite3.Connection:
    """Return a connection to a store of this version; its tables are made, or brought up to date, as needed.

    Args:
        path: The SQLite file.
        readonly: Open for reading only.
        synchronous: SQLite's word for when it waits for the disk.

    Raises:
        StoreTooNew: It was written by a newer sweep.
        StoreCorrupt: It is no store of ours.
        StoreError: It is of an earlier version and must not be written.
    """
    uri = f"file:{_quoted(path)}" + (_read_mode(path) if readonly else "")
    connection = sqlite3.connect(uri, uri=True, check_same_thread=False, isolation_level=None, timeout=30)
    try:
        if readonly and _is_blank(connection):  # who made it died before its tables: a store without runs
            connection.close()
            connection = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
            _create(connection)
        connection.execute("PRAGMA busy_timeout=30000")
        version = _version(path, connection)
        if not readonly:
            _write_ahead(connection)
            connection.execute(f"PRAGMA synchronous={synchronous}")
            if version == 0:
                _create(connection)
            elif version < SCHEMA_VERSION:
                _migrate(connection)
        elif version < SCHEMA_VERSION:
            raise StoreError(f"{path} was written by an earlier version of sweep; open it once for writing: sweep gc")
    except BaseException:
        connection.close()
        raise
    return connection


def _read_mode(path: Path) -> str:
    """Return how to open it for reading: where no log can be made beside it, nobody else writes it either."""
    still = not os.access(path.parent, os.W_OK) and not _log_of(path).exists()
    return "?mode=ro&immutable=1" if still else "?mode=ro"


def _version(path: Path, connection: sqlite3.Connection) -> int:
    """Return the version of the schema, 0 for an empty file; refuse what is not ours before it is touched."""
    connection.execute("BEGIN")  # both from one instant: another process may be making the tables
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
    connection.execute("COMMIT")
    if version > SCHEMA_VERSION:
        raise StoreTooNew(str(path), version, SCHEMA_VERSION)
    if (tables or version) and (version < 1 or not tables >= _TABLES):
        raise StoreCorrupt(f"{path} is a SQLite database, but not a store of sweep; name another file")
    return version


def _migrate(connection: sqlite3.Connection) -> None:
    """Bring a store of an earlier version up to this one; of several processes one does it."""
    connection.execute("BEGIN IMMEDIATE")
    for version in range(connection.execute("PRAGMA user_version").fetchone()[0] + 1, SCHEMA_VERSION + 1):
        for statement in MIGRATIONS[version]:
            connection.execute(statement)
    connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
    connection.execute("COMMIT")


def _create(connection: sqlite3.Connection) -> None:
    """Make the tables; of several processes one does it."""
    connection.execute("BEGIN IMMEDIATE")
    if connection.execute("PRAGMA user_version").fetchone()[0] == 0:
        for statement in statements():
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
    connection.execute("COMMIT")


def _is_blank(connection: sqlite3.Connection) -> bool:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    return not version and not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Switch to WAL; of two processes that do so at one instant SQLite tells one "locked", whatever its timeout."""
    until = time.monotonic() + 30
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > until:
                raise
            time.sleep(0.01)


def _log_of(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


def _quoted(path: Path) -> str:
    from urllib.parse import quote

    return quote(str(path.resolve()))


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Let what SQLite says in the body be an error of ours."""
    try:
        yield
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # a damaged schema may stand in the message
        raise as_ours(path, error) from error


def as_ours(path: Path, error: sqlite3.DatabaseError | UnicodeDecodeError) -> StoreError:
    """Return what SQLite says as an error of ours, which names the file and what to do."""
    text = str(error)
    if not isinstance(error, sqlite3.OperationalError):
        return StoreCorrupt(
            f"{path} cannot be read: {error}; if it was a store, copy it and try: sqlite3 {path} .recover"
        )
    if any(word in text for word in ("readonly", "unable to open", "disk is full", "disk I/O", "permission")):
        return StoreUnwritable(
            f"cannot write the store {path}: {text}; what was finished before is kept: "
            "free some space or make it writable, then resume"
        )
    damaged = "malformed" in text or "UTF-8" in text
    return StoreCorrupt(f"{path}: {text}") if damaged else StoreError(f"store {path}: {text}")
