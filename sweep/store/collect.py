"""Garbage of a store: blobs nobody refers to, files of runs that are gone, old runs on request."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import final

from sweep.store.blobs import BlobStore
from sweep.store.runs import RunRow, roots
from sweep.store.writer import Store, placeholders

__all__ = ["Garbage", "collect_blobs", "collect_files", "delete_runs", "finished_before"]

_GRACE = 3600.0
_TABLES = ("metric", "artifact", "fingerprint", "tag", "journal", "blob")
_MANY = 500


@final
@dataclass(slots=True)
class Garbage:
    """What was found, and freed unless it was a dry run.

    Attributes:
        count: Files, directories or rows.
        size: Bytes.
    """

    count: int = 0
    size: int = 0


def collect_blobs(store: Store, *, dry_run: bool) -> Garbage:
    """Remove blobs that no row refers to.

    Those of a live run are left for an hour: a blob is written before the row that refers to it.
    """
    found = Garbage()
    for directory in _directories(store.files / "blobs"):
        root_id = int(directory.name)
        query = "SELECT b.digest FROM blob b LEFT JOIN run r ON r.id=b.run_id WHERE coalesce(r.root_id, 0)=?"
        kept = {digest for (digest,) in store.rows(query, (root_id,))}
        live = root_id == 0 or store.is_live(root_id)
        before = time.time() - _GRACE if live else float("inf")
        blobs = BlobStore(directory)
        loose = [blobs.path(address).stat() for address in blobs.addresses() if address not in kept]
        found.count += sum(facts.st_mtime < before for facts in loose)
        found.size += sum(facts.st_size for facts in loose if facts.st_mtime < before)
        if not dry_run:
            blobs.collect(kept, before)
    return found


def collect_files(store: Store, *, dry_run: bool) -> Garbage:
    """Remove the files and blobs of runs that are not in the store any more."""
    known = {run_id for (run_id,) in store.rows("SELECT id FROM run")} | {0}
    found = Garbage()
    for place in ("runs", "blobs"):
        for directory in _directories(store.files / place):
            if int(directory.name) in known:
                continue
            found.count += 1
            found.size += sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
            if not dry_run:
                shutil.rmtree(directory)
    return found


def _directories(place: Path) -> Iterator[Path]:
    if place.is_dir():
        yield from sorted(one for one in place.iterdir() if one.is_dir() and one.name.isdigit())


def finished_before(store: Store, moment: float) -> list[RunRow]:
    """Return the root runs that ended for good before a time (seconds since the epoch)."""
    return [row for row in roots(store) if row.status.ended and row.ended is not None and row.ended < moment]


def delete_runs(store: Store, rows: list[RunRow]) -> int:
    """Delete whole trees of runs; returns how many runs are gone. Their files are garbage then."""
    gone = 0
    for root in rows:
        store.own(root.id, root.segment)  # nobody may go on with it meanwhile
        ids = [run_id for (run_id,) in store.rows("SELECT id FROM run WHERE root_id=?", (root.id,))]
        store.disown(root.id)
        for start in range(0, len(ids), _MANY):
            part = ids[start : start + _MANY]
            for table in _TABLES:
                store.add(f"DELETE FROM {table} WHERE run_id IN ({placeholders(part)})", part)  # noqa: S608  # our tables
            store.add(f"DELETE FROM run WHERE id IN ({placeholders(part)})", part)  # noqa: S608  # marks only
        store.commit()
        gone += len(ids)
    return gone
