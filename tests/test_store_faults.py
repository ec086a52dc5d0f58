"""What a disk, a file system or another process can do to a store, and what comes of it."""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from sweep import Pipeline
from sweep.errors import ResumeRefused, RunLocked, StoreCorrupt, StoreError
from sweep.pipeline.request import RESUME_VARIABLE, Request
from sweep.store.writer import Store

PAGE, FRAME, HEADER = 4096, 4096 + 24, 32
STAGES = 6
RESULT = {f"v{n}": [n, "x" * 300 * n] for n in range(STAGES)}


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWEEP_QUIET", "1")


class Work:
    """A pipeline of a few stages; notes outside of any store which ran, and how long the log was when it began."""

    def __init__(self, path: Path) -> None:
        self.path, self.ran = path, list[int]()
        self.log_sizes: dict[int, int] = {}

    def run(self, path: Path | None = None) -> dict[str, Any]:
        """Run or resume it, and return its values."""
        self.ran = []
        pipeline = Pipeline()
        for n in range(STAGES):
            pipeline = pipeline.stage(f"s{n}", self._stage(n)).through(fields={f"v{n}": list[Any]})
        state = pipeline.run(name="work", store=path or self.path, resume="auto")
        return {name: state[name] for name in RESULT}

    def _stage(self, n: int) -> Any:
        def stage() -> list[Any]:
            log = self.path.with_name(self.path.name + "-wal")
            self.log_sizes[n] = log.stat().st_size if log.exists() else 0
            self.ran.append(n)
            return [n, "x" * 300 * n]

        return stage


@pytest.fixture
def torn(tmp_path: Path) -> Iterator[tuple[Work, Path]]:
    """A finished run whose log is still there, as after a kill."""
    path = tmp_path / "whole" / "sweep.db"
    path.parent.mkdir()
    Store(path).close()
    with closing(sqlite3.connect(path)) as reader:  # the last to close would write the log back
        reader.execute("SELECT * FROM run").fetchall()
        work = Work(path)
        assert work.run() == RESULT
        yield work, path


def attempt(work: Work, path: Path) -> tuple[dict[str, Any] | None, Exception | None]:
    """Run it; return its values, or what was said instead."""
    try:
        return work.run(path), None
    except (StoreError, ResumeRefused, RunLocked) as error:
        return None, error


def copy(path: Path, to: Path, *, log: int | None = None, cut: int | None = None) -> Path:
    """Copy a store, its log and its database cut off after so many bytes."""
    to.mkdir()
    target = to / path.name
    shutil.copytree(path.with_name(path.name + ".d"), to / (path.name + ".d"), ignore=shutil.ignore_patterns("lock"))
    for suffix, size in (("", cut), ("-wal", log)):
        data = path.with_name(path.name + suffix).read_bytes()
        target.with_name(target.name + suffix).write_bytes(data if size is None else data[:size])
    return target


def journaled(path: Path) -> list[int]:
    """Return which stages a store says are finished."""
    with Store(path) as store:
        rows = store.rows("SELECT key FROM journal WHERE kind='stage' ORDER BY key")
    return [int(key[1:]) for (key,) in rows]


# ---- torn files ------------------------------------------------------------------------------------------------------


def test_a_log_cut_anywhere_gives_a_prefix_of_what_was_committed(torn: tuple[Work, Path], tmp_path: Path) -> None:
    work, path = torn
    size = path.with_name("sweep.db-wal").stat().st_size
    frames = [HEADER + FRAME * k for k in range((size - HEADER) // FRAME + 1)]
    dice = random.Random(3)
    cuts = {0, 1, HEADER - 1, *frames, *(edge - 1 for edge in frames), *(dice.randrange(size) for _ in range(40))}
    begun = dict(work.log_sizes)
    for number, cut in enumerate(sorted(cuts)):
        target = copy(path, tmp_path / f"cut{number}", log=cut)
        # A stage was committed when the log had grown to what the next stage saw as it began.
        expected = [n for n in range(STAGES - 1) if begun[n + 1] <= cut]
        found = journaled(target)
        assert found[: len(expected)] == expected, f"cut after {cut} of {size} bytes"
        assert found == list(range(len(found)))
        assert len(found) <= len(expected) + (len(expected) == STAGES - 1)
        if number % 4 == 0:
            assert work.run(target) == RESULT
            assert work.ran == list(range(len(found), STAGES)), f"cut after {cut} of {size} bytes"


def test_a_database_cut_anywhere_is_said_to_be_damaged(torn: tuple[Work, Path], tmp_path: Path) -> None:
    work, path = torn
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    size = path.stat().st_size
    cuts = {0, 1, 15, 16, 99, 511, 512, PAGE - 1, *range(PAGE, size, PAGE), *range(PAGE + 700, size, 3 * PAGE)}
    for number, cut in enumerate(sorted(cuts)):
        target = copy(path, tmp_path / f"cut{number}", cut=cut, log=0)
        before = {file.name: file.read_bytes() for file in target.parent.glob("sweep.db*") if file.is_file()}
        _, error = attempt(work, target)
        assert isinstance(error, StoreCorrupt), f"cut after {cut} of {size} bytes: {error!r}"
        assert "sweep.db" in str(error)
        assert work.ran == []
        assert target.read_bytes() == before["sweep.db"], "a damaged store is left as it is"


def test_an_empty_database_beside_a_full_log_is_not_begun_anew(torn: tuple[Work, Path], tmp_path: Path) -> None:
    _, path = torn
    target = copy(path, tmp_path / "cut", cut=0)
    log = target.with_name("sweep.db-wal").read_bytes()
    with pytest.raises(StoreCorrupt, match="is empty"):
        Store(target)
    assert target.with_name("sweep.db-wal").read_bytes() == log, "SQLite would have thrown it away"


# ---- flipped bits ----------------------------------------------------------------------------------------------------


def test_a_flipped_bit_never_changes_a_value(torn: tuple[Work, Path], tmp_path: Path) -> None:
    work, path = torn
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    whole, dice, refused = path.read_bytes(), random.Random(5), 0
    spots = [at for at in range(len(whole)) if whole[at]]  # where there is something
    target = copy(path, tmp_path / "flipped", log=0)
    for at in [*dice.sample(spots, 120), *(whole.index(b"xxxx", dice.randrange(len(whole) // 2)) for _ in range(3))]:
        for suffix in ("-wal", "-shm"):
            target.with_name(target.name + suffix).unlink(missing_ok=True)
        damaged = bytearray(whole)
        damaged[at] ^= 1 << dice.randrange(8)
        target.write_bytes(damaged)
        found, error = attempt(work, target)
        refused += error is not None
        assert error is not None or found == RESULT, f"byte {at} of {len(whole)}"
        assert error is None or any(place in str(error) for place in ("sweep.db", "run 1", "'work")), error
    assert refused > 10


def test_a_damaged_value_is_named_and_its_stage_can_be_redone(
    torn: tuple[Work, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, path = torn
    target = copy(path, tmp_path / "damaged")
    with closing(sqlite3.connect(target)) as connection:
        connection.execute("UPDATE run SET status='running'")
        connection.execute("DELETE FROM journal WHERE key IN ('s5', '!end')")
        connection.execute("UPDATE journal SET value=replace(value, 'xxx', 'xyx') WHERE key='s3'")
        connection.commit()
    with pytest.raises(StoreCorrupt, match=r"sweep\.db.*'s3'.*--redo"):
        work.run(target)
    monkeypatch.setenv(RESUME_VARIABLE, Request(1, redo=("s3",)).to_text())
    assert work.run(target) == RESULT
    assert work.ran == [3, 5]


class Arrays:
    """One stage makes an array, the next fails the first time."""

    def __init__(self, path: Path) -> None:
        self.path, self.ran = path, list[str]()

    def make(self) -> Any:
        import numpy

        self.ran.append("make")
        return numpy.arange(5000.0)

    def total(self, big: Any) -> float:
        self.ran.append("total")
        if self.ran.count("total") == 1:
            raise RuntimeError("first time")
        return float(big.sum())

    def run(self) -> float:
        import numpy

        pipeline = Pipeline().stage("make", self.make).through(big=numpy.ndarray)
        return float(pipeline.stage("total", self.total).through(sum=float).run(name="arrays", store=self.path)["sum"])


@pytest.mark.parametrize("how", ["flipped", "cut", "gone"])
def test_a_damaged_blob_is_named_and_its_stage_can_be_redone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    work = Arrays(tmp_path / "sweep.db")
    with pytest.raises(RuntimeError, match="first time"):
        work.run()
    (blob,) = [file for file in (tmp_path / "sweep.db.d" / "blobs").rglob("*.npy")]
    data = bytearray(blob.read_bytes())
    data[-4] ^= 16
    if how == "gone":
        blob.unlink()
    else:
        blob.write_bytes(data if how == "flipped" else data[:-9])
    with pytest.raises(StoreCorrupt, match=rf"'make'.*{blob.name}.*"):
        work.run()
    monkeypatch.setenv(RESUME_VARIABLE, Request(1, redo=("make",)).to_text())
    assert work.run() == sum(range(5000))
    assert work.ran == ["make", "total", "make", "total"]


def test_a_damaged_row_of_a_run_is_damage_and_no_error_of_python(torn: tuple[Work, Path], tmp_path: Path) -> None:
    work, path = torn
    damages = {
        "UPDATE run SET status='runnong'": "runnong",
        "UPDATE run SET identity=substr(identity, 3)": "identity",
        "UPDATE run SET identity=CAST(x'c328' AS TEXT)": "UTF-8",
        "UPDATE run SET owner='{', status='running'": "",
    }
    for number, (damage, told) in enumerate(damages.items()):
        target = copy(path, tmp_path / f"damage{number}")
        with closing(sqlite3.connect(target)) as connection:
            connection.execute(damage)
            connection.commit()
        found, error = attempt(work, target)
        assert (error is None and not told) or isinstance(error, StoreCorrupt), error
        assert error is not None or found == RESULT
        assert error is None or (told in str(error) and ("sweep.db" in str(error) or "run 1" in str(error)))
