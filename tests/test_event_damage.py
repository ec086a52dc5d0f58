"""A sweep whose store the disk has changed: noticed with a message to act on, or the same result as without."""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from simulation import outcome

from sweep import SweepExperiment, Uniform
from sweep.context import Context
from sweep.errors import ResumeRefused, RunLocked, StoreCorrupt, StoreError, StrategyError
from sweep.optimizers import RandomOptimizer
from sweep.schedulers import ASHAScheduler
from sweep.store.ddl import SCHEMA_VERSION, statements
from sweep.store.runs import children, read_run, spent_below
from sweep.store.writer import Store, open_store

BUDGET = 6


class Power(BaseException):
    """The process ends here."""


class Curves:
    """An objective with checkpoints; the trial of that number is the last thing the process does."""

    def __init__(self, last: int | None = None) -> None:
        self.last = last

    def train(self, x: float, ctx: Context) -> None:
        """Report a curve, fail now and then."""
        for step in range(int(ctx.load(0)) + 1, 5):
            if ctx.trial == self.last and step == 2:
                raise Power
            if x < 0.15:
                raise ValueError("too small")
            ctx.save(step)
            ctx.report(step, loss=x / step, spare=-0.0)


def sweep(path: Path, last: int | None = None) -> SweepExperiment:
    return SweepExperiment(
        Curves(last).train, {"x": Uniform(0, 1)}, optimizer=RandomOptimizer(), metric="loss", name="digits",
        scheduler=ASHAScheduler(max_epochs=4, reduction_factor=2), store=path, seed=3,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWEEP_QUIET", "1")


@pytest.fixture
def cut(tmp_path: Path) -> tuple[Path, Any]:
    """A sweep that died in the middle, its log written back; and what comes of it without damage."""
    path = tmp_path / "cut" / "sweep.db"
    path.parent.mkdir()
    with pytest.raises(BaseException) as death:  # noqa: PT011  # alone, or in a group
        sweep(path, last=4).run(BUDGET)
    assert "Power" in repr(death.value)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    whole = tmp_path / "whole"
    shutil.copytree(path.parent, whole)
    result = sweep(whole / "sweep.db").run(BUDGET)
    return path, outcome(result)


def damaged(path: Path, change: Callable[[sqlite3.Connection], object]) -> None:
    with closing(sqlite3.connect(path)) as connection:
        change(connection)
        connection.commit()


def test_a_flipped_bit_is_noticed_or_harmless(
    cut: tuple[Path, Any], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Sampled by default; with ``--simulations 100000`` every byte of every page."""
    path, truth = cut
    whole, dice, noticed = path.read_bytes(), random.Random(11), 0
    spots = [at for at in range(len(whole)) if whole[at]]
    count = int(request.config.getoption("--simulations"))
    for at in spots if count >= len(spots) else sorted(dice.sample(spots, count + 50)):
        shutil.rmtree(tmp_path / "flipped", ignore_errors=True)
        shutil.copytree(path.parent, tmp_path / "flipped", ignore=shutil.ignore_patterns("*-wal", "*-shm", "lock"))
        target = tmp_path / "flipped" / "sweep.db"
        data = bytearray(whole)
        data[at] ^= 1 << dice.randrange(8)
        target.write_bytes(data)
        try:
            found = sweep(target).run(BUDGET)
        except (StoreError, ResumeRefused, RunLocked, StrategyError) as error:
            noticed += 1
            assert any(place in str(error) for place in ("sweep.db", "run 1", "digits")), f"byte {at}: {error!r}"
        else:
            assert outcome(found) == truth, f"byte {at} of {len(whole)}, bit changed unnoticed"
    assert noticed > 10


def test_a_tree_that_goes_round_ends_nowhere_in_a_loop(cut: tuple[Path, Any]) -> None:
    """A flipped bit in the index of places can make a run its own child; in a row, its own parent."""
    path, _ = cut
    whole = path.read_bytes()
    with closing(sqlite3.connect(path)) as connection:
        (last,) = connection.execute("SELECT max(id) FROM run").fetchone()
        (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name='run_place'").fetchone()
        size = connection.execute("PRAGMA page_size").fetchone()[0]
    entry = b"\x01trial" + bytes((4, last))  # a row number of one byte; name, number of the trial, row
    at = whole.index(entry, (page - 1) * size, page * size)
    path.write_bytes(whole[:at] + b"\x09" + whole[at + 1 :])  # the row number 1, of no byte: the sweep is its own child
    with pytest.raises(StoreCorrupt, match=r"sweep\.db"):
        sweep(path).run(BUDGET)
    with Store(path) as store:
        assert spent_below(store, 1).trials == last - 2
        with pytest.raises(StoreCorrupt, match="run 1: the row is damaged: its parent cannot be run 1"):
            children(store, 1)
    path.write_bytes(whole)
    damaged(path, lambda connection: connection.execute("UPDATE run SET parent_id=id WHERE id=1"))
    with Store(path) as store, pytest.raises(StoreCorrupt, match="run 1: the row is damaged: its parent cannot be run 1"):
        read_run(store, 1)


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("UPDATE run SET params='{\"x\":0.5}' WHERE number=1 AND level='trial'", "row of trial 1 is damaged"),
        ("UPDATE run SET source='enqueued' WHERE number=0 AND level='trial'", "row of trial 0 is damaged"),
        ("UPDATE run SET number=77 WHERE number=2 AND level='trial'", "trial 2 is missing"),
        ("UPDATE run SET seed=seed+1 WHERE level='sweep'", "its seed is 4, the journal says 3"),
        ("UPDATE metric SET value=value/2 WHERE id=3", "metric '.*' of trial . at step . is damaged"),
        ("UPDATE metric SET name='lost' WHERE id=1", "metric 'lost' of trial . at step 1 is damaged"),
        ("DELETE FROM metric WHERE id IN (1, 2)", "event . of .* is missing"),
        ("UPDATE journal SET value=replace(value, 'number', 'numbes') WHERE key LIKE '~%'", "event ~.* is damaged"),
        ("DELETE FROM journal WHERE kind='saved' AND key<'~000000009'", "event . of .* is missing"),
        ("UPDATE journal SET value='7' WHERE kind='checkpoint'", "'checkpoint/.*the row is damaged"),
    ],
)
def test_what_is_damaged_is_named_and_what_to_do(cut: tuple[Path, Any], statement: str, message: str) -> None:
    path, _ = cut
    damaged(path, lambda connection: connection.execute(statement))
    with pytest.raises(StoreCorrupt, match=rf"sweep\.db, run \d+.*{message}.*put a copy of sweep\.db back.*--new"):
        sweep(path).run(BUDGET, resume="must")


def test_a_store_of_the_version_before_is_brought_up_to_this_one(cut: tuple[Path, Any]) -> None:
    path, truth = cut

    def back(connection: sqlite3.Connection) -> None:
        for table in ("run", "metric"):
            connection.execute(f"ALTER TABLE {table} DROP COLUMN checksum")
        connection.execute("PRAGMA user_version=1")

    damaged(path, back)
    with pytest.raises(StoreError, match="earlier version"):
        open_store(path)
    assert outcome(sweep(path).run(BUDGET)) == truth
    with Store(path) as store, closing(sqlite3.connect(":memory:")) as fresh:
        assert store.row("PRAGMA user_version") == (SCHEMA_VERSION,)
        for statement in statements():
            fresh.execute(statement)
        for table in ("run", "metric", "journal"):
            query = f"SELECT name, type FROM pragma_table_info('{table}') ORDER BY name"  # noqa: S608  # our names
            assert store.rows(query) == fresh.execute(query).fetchall()
