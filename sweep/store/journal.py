"""The journal of one run: the outcome of every stage activation, by its structural key."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from functools import cached_property
from typing import Any, NamedTuple, final

from sweep.clock import current_clock
from sweep.errors import StoreCorrupt
from sweep.store.blobs import BlobStore
from sweep.store.bulk import collector_paused
from sweep.store.codec import decode, encode, references
from sweep.store.writer import Store

__all__ = ["Entry", "Journal", "checksum_of"]

_PUT = "INSERT OR REPLACE INTO journal(run_id, key, kind, value, code, contract, at, checksum) VALUES (?,?,?,?,?,?,?,?)"
_HELD = "SELECT b.digest, j.at FROM blob b JOIN journal j ON j.run_id=b.run_id AND j.key=b.key WHERE b.run_id=? AND b.key=?"
_GET = "SELECT key, kind, value, code, contract, checksum FROM journal WHERE run_id=?"

_MARKS = re.compile(r"[/\[!]")
"""What divides a key from what is kept below it."""


class Entry(NamedTuple):
    """One row: what kind of outcome, its encoded value, and the definitions it was made under."""

    kind: str
    value: str | None
    code: int | None
    contract: int | None


@final
class Journal:
    """Outcomes of one run.

    Args:
        store: The open store.
        run_id: The run (0 = the cache shared by all runs).
        root_id: Its root, which owns the blobs.
        fresh: The run is new: nothing to load.
    """

    def __init__(self, store: Store, run_id: int, root_id: int, *, fresh: bool) -> None:
        self.store, self.run_id, self.root_id = store, run_id, root_id
        self._rows: dict[str, tuple[Any, ...]] = {}
        if not fresh:
            self._load(_GET, (run_id,))

    @cached_property
    def blobs(self) -> BlobStore:
        """The arrays and tensors of the tree (made on use: a sweep opens a journal for every trial)."""
        return BlobStore(self.store.blob_directory(self.root_id))

    def get(self, key: str) -> Entry | None:
        """Return the entry of a key as it stood when the run was opened (restores are read once).

        Raises:
            StoreCorrupt: It is not what was written.
        """
        row = self._rows.get(key)
        if row is None:
            return None
        _, kind, value, code, contract, checksum = row
        if checksum is not None and checksum != checksum_of(key, kind, value):
            stage = key.partition("!")[0].rpartition("/")[2].partition("#")[0]
            raise StoreCorrupt(
                f"{self.store.path}, run {self.run_id}, {key!r}: the row is damaged, it is not what was written; "
                f"redo the stage: sweep resume {self.root_id} --redo {stage or 'STAGE'}"
            )
        return Entry(kind, value, code, contract)

    def fetch(self, key: str) -> str | None:
        """Return the committed value of a key, whenever it was written; None without one.

        Raises:
            StoreCorrupt: It is not what was written.
        """
        row = self.store.row(f"{_GET} AND key=?", (self.run_id, key))
        if row is None:
            return None
        if row[5] is not None and row[5] != checksum_of(*row[:3]):
            raise StoreCorrupt(
                f"{self.store.path}, run {self.run_id}, {key!r}: the row is damaged, it is not what was written; "
                f"put a copy of {self.store.path.name} back, or begin a new run (resume='never', --new)"
            )
        value: str | None = row[2]
        return value

    @collector_paused()
    def _load(self, query: str, parameters: tuple[Any, ...]) -> None:
        self._rows.update((row[0], row) for row in self.store.rows(query, parameters))

    def has(self, key: str) -> bool:
        """Whether an earlier session has kept anything at a key or below: a mark, a stage, an item, a child run."""
        return key in self._rows or key in self._heads

    @cached_property
    def _heads(self) -> frozenset[str]:
        """The keys below which something is kept (read once, on use)."""
        stages = self.store.rows("SELECT DISTINCT stage FROM run WHERE parent_id=?", (self.run_id,))
        keys = [f"{row[0]}/" for row in stages]
        return frozenset(key[: mark.start()] for key in [*self._rows, *keys] for mark in _MARKS.finditer(key))

    def __iter__(self) -> Iterator[str]:
        """Iterate over the keys that were there when the run was opened, without what was forgotten."""
        return iter(self._rows)

    def forget(self, key: str) -> None:
        """Drop a restored entry from memory, so that memory stays flat, or to have the stage run again."""
        self._rows.pop(key, None)

    def reload(self, prefix: str) -> None:
        """Read the committed entries below a key again, those of this session included."""
        self._load(f"{_GET} AND key>=? AND key<?", (self.run_id, prefix, f"{prefix}\U0010ffff"))

    def encode(self, value: Any, expected: Any = None, *, place: str = "value") -> str:
        """Encode a value; its arrays are written and synced at once.

        Args:
            value: What to keep.
            expected: Annotation it will be decoded under.
            place: What messages call it.

        Raises:
            NotStorable: Part of the value cannot be written.
        """
        return encode(value, self.blobs, expected, place=place)

    def decode(self, key: str, text: str, expected: Any = None) -> Any:
        """Decode a stored value.

        Raises:
            StoreCorrupt: It does not read back; the message names run and key.
        """
        try:
            return decode(text, self.blobs, expected)
        except StoreCorrupt as error:
            raise StoreCorrupt(f"{self.store.path}, run {self.run_id}, {key!r}: {error}") from error

    def put(
        self, key: str, kind: str, text: str | None, *, code: int | None = None, contract: int | None = None
    ) -> None:
        """Queue an outcome for the next commit."""
        checksum = checksum_of(key, kind, text)
        self.store.add(_PUT, (self.run_id, key, kind, text, code, contract, current_clock().wall(), checksum))
        if text is not None and "$" in text:
            for digest in references(text):
                self.store.add(
                    "INSERT OR IGNORE INTO blob(digest, run_id, key) VALUES (?,?,?)", (digest, self.run_id, key)
                )

    def replace(self, key: str, kind: str, text: str) -> None:
        """Queue an outcome that takes the place of an earlier one, whose blobs go after the commit."""
        self._release(key, references(text) if "$" in text else set())
        self.put(key, kind, text)

    def discard(self, key: str, *, bare: bool = False) -> None:
        """Queue the removal of an outcome; its blobs go after the commit, unless it is known to have none (``bare``)."""
        if not bare:
            self._release(key, set())
        self.store.add("DELETE FROM journal WHERE run_id=? AND key=?", (self.run_id, key))

    def discard_below(self, prefix: str) -> None:
        """Queue the removal of all outcomes whose key begins with ``prefix``; their blobs are left to ``sweep gc``."""
        end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
        for table in ("journal", "blob"):
            self.store.add(f"DELETE FROM {table} WHERE run_id=? AND key>=? AND key<?", (self.run_id, prefix, end))  # noqa: S608  # one of two names

    def _release(self, key: str, kept: set[str]) -> None:
        """Queue that a key refers to no blob any more; where something was queued for it before, that counts too."""
        place = (self.run_id, key)
        self.store.ask(_HELD, place, lambda rows: self._let_go(rows, kept))
        self.store.add("DELETE FROM blob WHERE run_id=? AND key=?", place)

    def _let_go(self, rows: list[tuple[Any, ...]], kept: set[str]) -> None:
        gone = {digest for digest, _ in rows} - kept
        if gone:
            self.store.after_commit(lambda: self._drop(gone, float(rows[0][1])))

    def _drop(self, digests: set[str], before: float) -> None:
        """Remove blobs that no row refers to, unless somebody has put the same content since."""
        query = "SELECT 1 FROM blob b JOIN run r ON r.id=b.run_id WHERE b.digest=? AND r.root_id=? LIMIT 1"
        for digest in digests:
            path = self.blobs.path(digest)
            if (
                path.exists()
                and path.stat().st_mtime <= before
                and self.store.row(query, (digest, self.root_id)) is None
            ):
                path.unlink(missing_ok=True)


def checksum_of(key: str, kind: str, value: str | None) -> int:
    """Return what a row of the journal keeps to be known again."""
    return zlib.crc32(f"{key}\0{kind}\0{value}".encode())
