"""The store: one SQLite file in WAL mode, its blobs and its lock file.

Layout for ``sweep.db``::

    sweep.db              tables of ``schema``
    sweep.db.d/lock       one lockable byte per root run
    sweep.db.d/blobs/7/   arrays and tensors of root run 7, by content hash
    sweep.db.d/runs/12/   files of run 12: logs, artifacts, ``ctx.dir``

``Store`` owns one connection, used under a lock by any thread. Statements are queued with
``add`` and written together by ``commit`` in one transaction, which first compares the
owner's epoch: a stopped owner that comes back cannot write any more (fencing).
"""

from __future__ import annotations

import json
import os
import platform
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar, final

from sweep.clock import current_clock
from sweep.errors import RunLocked, RunNotFound, StoreCorrupt, StoreError, StoreTooNew, StoreUnwritable
from sweep.store.ddl import MIGRATIONS, SCHEMA_VERSION, statements
from sweep.store.ownership import LockFile, network_file_system

__all__ = ["Durability", "Store", "default_store", "open_store"]

Durability = Literal["process", "power"]
T = TypeVar("T")
_LOOK = 1.0  # seconds between looks at whether the file is still there
_LEAST = 512  # bytes of the smallest SQLite database
_TABLES = frozenset({"run", "journal", "metric", "blob", "definition"})


def default_store() -> Path:
    """Return ``$SWEEP_STORE`` or ``./sweep.db``."""
    return Path(os.environ.get("SWEEP_STORE") or "sweep.db")


@final
class Store:
    """One open store.

    Args:
        path: The SQLite file; None = ``$SWEEP_STORE`` or ``./sweep.db``.
        create: Make the file if it is not there.
        readonly: Open for reading only.
        durability: ``"process"`` survives kill -9 (WAL, synchronous NORMAL);
            ``"power"`` survives a power cut (FULL).
        allow_network: Accept a network file system, where locks may not hold.

    Raises:
        StoreUnwritable: The directory is missing or cannot be written.
        StoreCorrupt: The file is no SQLite database, or is damaged.
        StoreTooNew: It was written by a newer sweep.
        StoreError: Anything else SQLite says.
    """

    def __init__(
        self,
        path: str | Path | None = None,
        *,
        create: bool = True,
        readonly: bool = False,
        durability: Durability = "process",
        allow_network: bool = False,
    ) -> None:
        self.path = Path(path) if path is not None else default_store()
        self.readonly = readonly
        self.durability: Durability = durability
        self._mutex = threading.RLock()
        self._pid = os.getpid()
        self._queue: list[tuple[str, Sequence[Any], Callable[[Any], None] | None]] = []
        self._after: list[Callable[[], None]] = []
        self._owned: dict[int, int] = {}
        self._definitions: dict[str, int] = {}
        self._file = self.path.absolute()  # a stage may change the working directory
        self.files = self._file.with_name(self.path.name + ".d")
        self._check_place(create, allow_network)
        with _translated(self.path):
            self._connection = self._connect()
        self._inode, self._looked = self._file.stat().st_ino, time.monotonic()
        self._runs = self.files / "runs"
        self._locks: LockFile | None = None

    def __repr__(self) -> str:
        return f"Store({str(self.path)!r})"

    def _check_place(self, create: bool, allow_network: bool) -> None:
        if self.durability not in ("process", "power"):
            raise StoreError(f"durability={self.durability!r}: expected 'process' or 'power'")
        if not self.path.parent.is_dir():
            raise StoreUnwritable(f"store {self.path}: the directory {self.path.parent} does not exist; make it first")
        if self.path.is_dir():
            raise StoreUnwritable(
                f"store {self.path} is a directory; name a file in it, for example {self.path}/sweep.db"
            )
        if not self.path.exists() and not create:
            raise StoreError(f"there is no store {self.path}; run something first, or name one (--store, SWEEP_STORE)")
        self._check_whole()
        allow = allow_network or os.environ.get("SWEEP_ALLOW_NETWORK_FS") == "1"
        kind = None if allow or self.readonly else network_file_system(self.path.parent)
        if kind is not None:
            raise StoreError(
                f"store {self.path} lies on a network file system ({kind}), where locks may not hold; "
                "use a local disk, or set SWEEP_ALLOW_NETWORK_FS=1"
            )

    def _check_whole(self) -> None:
        """Refuse a stump of a file that was a store: SQLite would begin it anew and throw its log away."""
        log = self.path.with_name(self.path.name + "-wal")
        # In this order: of a store that another process makes just now, the file has content before these exist.
        used = self.files.exists() or (log.exists() and log.stat().st_size > 0)
        size = self.path.stat().st_size if self.path.exists() else _LEAST
        if 0 < size < _LEAST or (size == 0 and used):
            raise StoreCorrupt(
                f"{self.path} is {'cut off' if size else 'empty'} ({size} bytes)"
                + (f", but {self.files.name} or {log.name} beside it say that it was a store" if used else "")
                + f"; put a copy of {self.path.name} back, or move what is left away to begin anew"
            )

    def _connect(self) -> sqlite3.Connection:
        uri = f"file:{_quoted(self.path)}" + (self._read_mode() if self.readonly else "")
        connection = sqlite3.connect(uri, uri=True, check_same_thread=False, isolation_level=None, timeout=30)
        try:
            if self.readonly and _is_blank(connection):  # who made it died before its tables: a store without runs
                connection.close()
                connection = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
                self._create(connection)
            return self._prepared(connection)
        except BaseException:
            connection.close()
            raise

    def _read_mode(self) -> str:
        """Return how to open it for reading: where no log can be made beside it, nobody else writes it either."""
        log = self.path.with_name(self.path.name + "-wal")
        still = not os.access(self.path.parent, os.W_OK) and not log.exists()
        return "?mode=ro&immutable=1" if still else "?mode=ro"

    def _prepared(self, connection: sqlite3.Connection) -> sqlite3.Connection:
        connection.execute("PRAGMA busy_timeout=30000")
        version = self._version(connection)
        if not self.readonly:
            _write_ahead(connection)
            connection.execute(f"PRAGMA synchronous={'FULL' if self.durability == 'power' else 'NORMAL'}")
            if version == 0:
                self._create(connection)
            elif version < SCHEMA_VERSION:
                self._migrate(connection)
        elif version < SCHEMA_VERSION:
            raise StoreError(
                f"{self.path} was written by an earlier version of sweep; open it once for writing: sweep gc"
            )
        return connection

    def _version(self, connection: sqlite3.Connection) -> int:
        """Return the version of the schema, 0 for an empty file; refuse what is not ours before it is touched."""
        connection.execute("BEGIN")  # both from one instant: another process may be making the tables
        version: int = connection.execute("PRAGMA user_version").fetchone()[0]
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
        connection.execute("COMMIT")
        if version > SCHEMA_VERSION:
            raise StoreTooNew(str(self.path), version, SCHEMA_VERSION)
        if (tables or version) and (version < 1 or not tables >= _TABLES):
            raise StoreCorrupt(f"{self.path} is a SQLite database, but not a store of sweep; name another file")
        return version

    def _migrate(self, connection: sqlite3.Connection) -> None:
        """Bring a store of an earlier version up to this one; of several processes one does it."""
        connection.execute("BEGIN IMMEDIATE")
        for version in range(connection.execute("PRAGMA user_version").fetchone()[0] + 1, SCHEMA_VERSION + 1):
            for statement in MIGRATIONS[version]:
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        connection.execute("COMMIT")

    def _create(self, connection: sqlite3.Connection) -> None:
        """Make the tables; of several processes one does it."""
        connection.execute("BEGIN IMMEDIATE")
        if connection.execute("PRAGMA user_version").fetchone()[0] == 0:
            for statement in statements():
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        connection.execute("COMMIT")

    # ------------------------------------------------------------ reading

    def rows(self, query: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Return all rows of a query, queued writes of this process not included."""
        with self._mutex, _translated(self.path):
            self._same_process()
            return self._connection.execute(query, parameters).fetchall()

    def row(self, query: str, parameters: Sequence[Any] = ()) -> tuple[Any, ...] | None:
        """Return the first row of a query, or None."""
        found = self.rows(query, parameters)
        return found[0] if found else None

    # ------------------------------------------------------------ writing

    def add(self, statement: str, parameters: Sequence[Any], inserted: Callable[[int], None] | None = None) -> None:
        """Queue a statement for the next commit; ``inserted`` then gets the id of the new row."""
        with self._mutex:
            self._queue.append((statement, parameters, inserted))

    def ask(self, query: str, parameters: Sequence[Any], answered: Callable[[list[tuple[Any, ...]]], None]) -> None:
        """Queue a query among the statements of the next commit; ``answered`` then gets what it found there."""
        with self._mutex:
            self._queue.append((query, parameters, answered))

    def after_commit(self, action: Callable[[], None]) -> None:
        """Call ``action`` once the statements queued so far are committed."""
        with self._mutex:
            self._after.append(action)

    def commit(self) -> None:
        """Write everything queued in one transaction, if this process still owns its runs.

        Raises:
            RunLocked: Another process has taken a run over.
            StoreUnwritable: Disk full or read-only; what was queued is kept for another try.
        """
        with self._mutex:
            if not self._queue:
                return
            self._same_process()
            if time.monotonic() - self._looked > _LOOK:
                self._check_there()
            answers = self._transaction(self._write_queue)
            self._queue = []
            for told, answer in answers:
                told(answer)
            actions, self._after = self._after, []
        for action in actions:
            action()

    def _check_there(self) -> None:
        """Look whether what is written can be found again: SQLite goes on in a file that was removed."""
        self._looked = time.monotonic()
        try:
            found = self._file.stat().st_ino
        except OSError:
            found = 0
        if found != self._inode:
            raise StoreUnwritable(
                f"the store {self.path} was removed while a run used it ({'another file is' if found else 'nothing is'} "
                "there now): what the run has finished is gone with it; start it again"
            )

    def _write_queue(self, connection: sqlite3.Connection) -> list[tuple[Callable[[Any], None], Any]]:
        """Execute what is queued; return who wants to know what came of it, and what did: a row's id, or rows."""
        answers: list[tuple[Callable[[Any], None], Any]] = []
        for statement, parameters, told in self._queue:
            cursor = connection.execute(statement, parameters)
            if told is not None:
                answers.append((told, cursor.lastrowid or 0 if cursor.description is None else cursor.fetchall()))
        return answers

    def _transaction(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do some work in one transaction, if this process still owns its runs (no context manager: it costs 3 µs)."""
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            try:
                for root, epoch in self._owned.items():
                    found = connection.execute("SELECT epoch FROM run WHERE id=?", (root,)).fetchone()
                    if found is None or found[0] != epoch:
                        raise RunLocked(str(root), "another process, which has taken it over")
                done = work(connection)
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            raise _ours(self.path, error) from error
        return done

    def insert(self, statement: str, parameters: Sequence[Any]) -> int:
        """Commit the queue and one insert, and return the new row's id."""
        with self._mutex:
            self.commit()
            return int(self._transaction(lambda connection: connection.execute(statement, parameters).lastrowid or 0))

    def definition(self, kind: str, digest: str, text: str) -> int:
        """Return the id of a definition (a contract, a code hash), written once."""
        known = self._definitions.get(digest)
        if known is not None:
            return known

        def write(connection: sqlite3.Connection) -> int:
            connection.execute(
                "INSERT OR IGNORE INTO definition(hash, kind, text) VALUES (?,?,?)", (digest, kind, text)
            )
            return int(connection.execute("SELECT id FROM definition WHERE hash=?", (digest,)).fetchone()[0])

        with self._mutex:
            self.commit()
            self._definitions[digest] = self._transaction(write)
            return self._definitions[digest]

    # ------------------------------------------------------------ ownership

    @property
    def locks(self) -> LockFile:
        """The lock file of this store."""
        if self._locks is None:
            self.files.mkdir(exist_ok=True)
            self._locks = LockFile.of(self.files / "lock")
        return self._locks

    def own(self, root_id: int, name: str) -> None:
        """Become the owner of a root run.

        Raises:
            RunLocked: A live process (or this one) owns it.
        """
        if not self.locks.acquire(root_id):
            raise RunLocked(name, self.owner(root_id))
        owner = json.dumps({"host": platform.node(), "pid": os.getpid(), "since": current_clock().wall()})

        def write(connection: sqlite3.Connection) -> int:
            connection.execute("UPDATE run SET epoch=epoch+1, owner=?, root_id=id WHERE id=?", (owner, root_id))
            found = connection.execute("SELECT epoch FROM run WHERE id=?", (root_id,)).fetchone()
            if found is None:
                raise RunNotFound(name, str(self.path))
            return int(found[0])

        try:
            with self._mutex:
                self._owned[root_id] = self._transaction(write)
        except BaseException:
            self.locks.release(root_id)
            raise

    def disown(self, root_id: int) -> None:
        """Give a root run back."""
        self._owned.pop(root_id, None)
        self.locks.release(root_id)

    def owner(self, root_id: int) -> str:
        """Return who owns (or last owned) a root run, in words."""
        found = self.row("SELECT owner FROM run WHERE id=?", (root_id,))
        if found is None or found[0] is None:
            return "another process"
        try:
            facts = json.loads(found[0])
        except ValueError:  # damaged; it only names somebody
            return "another process"
        return f"process {facts.get('pid')} on {facts.get('host')}"

    def is_live(self, root_id: int) -> bool:
        """Whether a live process owns the root run; read from the lock, never from a process id."""
        lock = self.files / "lock"
        if not lock.exists() or not os.access(lock, os.W_OK):  # where nobody may lock, nobody works
            return False
        return self.locks.is_held(root_id)

    # ------------------------------------------------------------ files

    def run_directory(self, run_id: int) -> Path:
        """Return the directory of a run's own files (not made yet)."""
        return self._runs / str(run_id)

    def blob_directory(self, root_id: int) -> Path:
        """Return the directory of a root run's blobs; 0 = the shared cache."""
        return self.files / "blobs" / str(root_id)

    def close(self) -> None:
        """Write what is queued, give back what is owned, and close."""
        if self._pid != os.getpid():
            return  # a forked child: the connection is its parent's
        try:
            if not self.readonly:
                self.commit()
                if self._owned:
                    self._check_there()
        finally:
            for root_id in list(self._owned):
                self.disown(root_id)
            if self._locks is not None:
                self._locks.leave()
                self._locks = None
            self._connection.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _same_process(self) -> None:
        if os.getpid() != self._pid:
            raise StoreError(f"{self.path} was opened before a fork; open it again in the child process")


def open_store(path: str | Path | None = None) -> Store:
    """Open an existing store for reading; close it, or use it as a context manager.

    Raises:
        StoreError: There is no such store.
    """
    return Store(path, create=False, readonly=True)


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


def _quoted(path: Path) -> str:
    from urllib.parse import quote

    return quote(str(path.resolve()))


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # a damaged schema may stand in the message
        raise _ours(path, error) from error


def _ours(path: Path, error: sqlite3.DatabaseError | UnicodeDecodeError) -> StoreError:
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


def placeholders(values: Iterable[Any]) -> str:
    """Return ``?,?,?`` for an IN clause."""
    return ",".join("?" for _ in values)
