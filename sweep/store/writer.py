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
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, final

from sweep.clock import current_clock
from sweep.errors import RunLocked, RunNotFound, StoreError, StoreUnwritable
from sweep.store.opening import as_ours, check_place, connect, translated
from sweep.store.ownership import LockFile

__all__ = ["Durability", "Store", "default_store", "open_store"]

Durability = Literal["process", "power"]
T = TypeVar("T")
_LOOK = 1.0  # seconds between looks at whether the file is still there


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
        if self.durability not in ("process", "power"):
            raise StoreError(f"durability={self.durability!r}: expected 'process' or 'power'")
        check_place(self.path, self.files, create=create, local=not (readonly or allow_network))
        synchronous = "FULL" if self.durability == "power" else "NORMAL"
        with translated(self.path):
            self._connection = connect(self.path, readonly=readonly, synchronous=synchronous)
        self._inode, self._looked = self._file.stat().st_ino, time.monotonic()
        self._runs = self.files / "runs"
        self._locks: LockFile | None = None

    def __repr__(self) -> str:
        return f"Store({str(self.path)!r})"

    # ------------------------------------------------------------ reading

    def rows(self, query: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Return all rows of a query, queued writes of this process not included."""
        with self._mutex, translated(self.path):
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
            raise as_ours(self.path, error) from error
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


def placeholders(values: Iterable[Any]) -> str:
    """Return ``?,?,?`` for an IN clause."""
    return ",".join("?" for _ in values)
