"""The tables of a store, as SQLModel classes.

One schema for every database: the journal of a run is always SQLite (``writer``); MySQL
and PostgreSQL take the same tables as targets of tracker sinks. The classes are the
readable truth and create the tables; hot paths use prepared statements against them.

``run`` is the tree of everything that runs (project > experiment > sweep > trial > …): one row
each, integer ids, a trial is one row whose ``suggested``, ``started`` and ``ended`` are columns.
"""

from __future__ import annotations

from typing import Any, ClassVar

from sqlalchemy import Column, Index, Integer, Text
from sqlmodel import Field, SQLModel

from sweep.store.ddl import SCHEMA_VERSION

__all__ = ["SCHEMA_VERSION", "create_tables", "tables"]


class _Base(SQLModel):
    """Common ground: our tables live in metadata of their own."""


class Project(_Base, table=True):
    """A group of experiments."""

    __tablename__: ClassVar[Any] = "project"
    id: int | None = Field(default=None, primary_key=True)
    name: str = Field(unique=True)
    created: float


class Run(_Base, table=True):
    """A node of the run tree: pipeline, experiment, sweep, trial, repeat, epoch, batch.

    ``parent_id`` is 0 for a root. ``stage`` is the stage activation of the parent that started
    it, ``number`` the ordinal among equal names there (from 1), or the number of a trial (from 0).
    ``seq`` and ``ended_seq`` order a sweep's events across tables; ``checksum`` covers what a trial's row says of them.
    """

    __tablename__: ClassVar[Any] = "run"
    __table_args__: ClassVar[Any] = (Index("run_place", "parent_id", "stage", "name", "number", unique=True),)
    id: int | None = Field(default=None, primary_key=True)
    parent_id: int = 0
    root_id: int = 0
    project_id: int | None = None
    level: str = "experiment"
    stage: str = ""
    name: str = ""
    number: int = 1
    status: str = "pending"
    reason: str | None = None
    suggested: float | None = None
    started: float | None = None
    ended: float | None = None
    seq: int | None = None
    ended_seq: int | None = None
    seed: int | None = None
    attempts: int | None = None
    params: str | None = Field(default=None, sa_column=Column(Text))
    score: float | None = None
    cost: float | None = None
    step: int | None = None
    result: str | None = Field(default=None, sa_column=Column(Text))
    error: str | None = Field(default=None, sa_column=Column(Text))
    source: str | None = None
    origin: str | None = Field(default=None, sa_column=Column(Text))
    identity: str | None = Field(default=None, sa_column=Column(Text))
    entry: str | None = Field(default=None, sa_column=Column(Text))
    owner: str | None = Field(default=None, sa_column=Column(Text))
    epoch: int = 0
    checksum: int | None = None


class Metric(_Base, table=True):
    """One value of one metric at one step; ``labels`` holds per-label values as JSON.

    ``value`` is NULL for NaN. ``seq`` is set for a report that a scheduler saw.
    """

    __tablename__: ClassVar[Any] = "metric"
    __table_args__: ClassVar[Any] = (Index("metric_run", "run_id"),)
    id: int | None = Field(default=None, sa_column=Column(Integer, primary_key=True))
    run_id: int
    name: str
    step: int | None = None
    value: float | None = None
    labels: str | None = Field(default=None, sa_column=Column(Text))
    seq: int | None = None
    checksum: int | None = None


class Artifact(_Base, table=True):
    """A file kept with a run."""

    __tablename__: ClassVar[Any] = "artifact"
    __table_args__: ClassVar[Any] = (Index("artifact_run", "run_id"),)
    id: int | None = Field(default=None, primary_key=True)
    run_id: int
    name: str
    kind: str = "file"
    path: str
    size: int | None = None
    step: int | None = None
    at: float


class Fingerprint(_Base, table=True):
    """A structural, static or runtime fingerprint of a run."""

    __tablename__: ClassVar[Any] = "fingerprint"
    __table_args__: ClassVar[Any] = (Index("fingerprint_run", "run_id"),)
    id: int | None = Field(default=None, primary_key=True)
    run_id: int
    kind: str
    name: str = ""
    hash: str
    data: str | None = Field(default=None, sa_column=Column(Text))


class Tag(_Base, table=True):
    """A word on a run."""

    __tablename__: ClassVar[Any] = "tag"
    run_id: int = Field(primary_key=True)
    name: str = Field(primary_key=True)
    value: str = ""


class Journal(_Base, table=True):
    """The outcome of one stage activation, checkpoint or event, by its structural key.

    ``run_id`` 0 is the shared scope: the cache. ``code`` and ``contract`` are definition ids.
    ``checksum`` tells a damaged disk from what was written (SQLite itself does not look).
    """

    __tablename__: ClassVar[Any] = "journal"
    __table_args__: ClassVar[Any] = {"sqlite_with_rowid": False}
    run_id: int = Field(primary_key=True)
    key: str = Field(primary_key=True)
    kind: str
    value: str | None = Field(default=None, sa_column=Column(Text))
    code: int | None = None
    contract: int | None = None
    at: float | None = None
    checksum: int | None = None


class Blob(_Base, table=True):
    """Which journal rows need which content-addressed file."""

    __tablename__: ClassVar[Any] = "blob"
    __table_args__: ClassVar[Any] = (Index("blob_place", "run_id", "key"), {"sqlite_with_rowid": False})
    digest: str = Field(primary_key=True)
    run_id: int = Field(primary_key=True)
    key: str = Field(primary_key=True)


class Definition(_Base, table=True):
    """A contract, code fingerprint or identity, written once and referred to by id."""

    __tablename__: ClassVar[Any] = "definition"
    id: int | None = Field(default=None, primary_key=True)
    hash: str = Field(unique=True)
    kind: str
    text: str = Field(sa_column=Column(Text))


def tables() -> dict[str, type[SQLModel]]:
    """Return the table classes by table name.

    Example:
        >>> sorted(tables())[:3]
        ['artifact', 'blob', 'definition']
    """
    classes = (Project, Run, Metric, Artifact, Fingerprint, Tag, Journal, Blob, Definition)
    return {str(cls.__tablename__): cls for cls in classes}


def create_tables(url: str) -> None:
    """Create the missing tables in the database at an SQLAlchemy URL."""
    from sqlalchemy import create_engine

    engine = create_engine(url)
    try:
        SQLModel.metadata.create_all(engine, tables=[cls.__table__ for cls in tables().values()])  # type: ignore[attr-defined]  # SQLModel adds it
    finally:
        engine.dispose()
