"""The SQLite statements of the schema, without importing SQLAlchemy.

``schema`` holds the truth; a test compares the two. Importing SQLModel costs 0.4 s of CPU,
which a new store should not have to pay.
"""

from __future__ import annotations

__all__ = ["MIGRATIONS", "SCHEMA_VERSION", "statements"]

SCHEMA_VERSION = 2
MIGRATIONS = {
    2: ("ALTER TABLE run ADD COLUMN checksum INTEGER", "ALTER TABLE metric ADD COLUMN checksum INTEGER"),
}
"""What makes a store of the version before one of this version."""

_DDL = """
CREATE TABLE project (
  id INTEGER NOT NULL,
  name VARCHAR NOT NULL,
  created FLOAT NOT NULL,
  PRIMARY KEY (id),
  UNIQUE (name)
);
CREATE TABLE run (
  id INTEGER NOT NULL,
  parent_id INTEGER NOT NULL,
  root_id INTEGER NOT NULL,
  project_id INTEGER,
  level VARCHAR NOT NULL,
  stage VARCHAR NOT NULL,
  name VARCHAR NOT NULL,
  number INTEGER NOT NULL,
  status VARCHAR NOT NULL,
  reason VARCHAR,
  suggested FLOAT,
  started FLOAT,
  ended FLOAT,
  seq INTEGER,
  ended_seq INTEGER,
  seed INTEGER,
  attempts INTEGER,
  params TEXT,
  score FLOAT,
  cost FLOAT,
  step INTEGER,
  result TEXT,
  error TEXT,
  source VARCHAR,
  origin TEXT,
  identity TEXT,
  entry TEXT,
  owner TEXT,
  epoch INTEGER NOT NULL,
  checksum INTEGER,
  PRIMARY KEY (id)
);
CREATE UNIQUE INDEX run_place ON run (parent_id, stage, name, number);
CREATE TABLE metric (
  id INTEGER NOT NULL,
  run_id INTEGER NOT NULL,
  name VARCHAR NOT NULL,
  step INTEGER,
  value FLOAT,
  labels TEXT,
  seq INTEGER,
  checksum INTEGER,
  PRIMARY KEY (id)
);
CREATE INDEX metric_run ON metric (run_id);
CREATE TABLE artifact (
  id INTEGER NOT NULL,
  run_id INTEGER NOT NULL,
  name VARCHAR NOT NULL,
  kind VARCHAR NOT NULL,
  path VARCHAR NOT NULL,
  size INTEGER,
  step INTEGER,
  at FLOAT NOT NULL,
  PRIMARY KEY (id)
);
CREATE INDEX artifact_run ON artifact (run_id);
CREATE TABLE fingerprint (
  id INTEGER NOT NULL,
  run_id INTEGER NOT NULL,
  kind VARCHAR NOT NULL,
  name VARCHAR NOT NULL,
  hash VARCHAR NOT NULL,
  data TEXT,
  PRIMARY KEY (id)
);
CREATE INDEX fingerprint_run ON fingerprint (run_id);
CREATE TABLE tag (
  run_id INTEGER NOT NULL,
  name VARCHAR NOT NULL,
  value VARCHAR NOT NULL,
  PRIMARY KEY (run_id, name)
);
CREATE TABLE journal (
  run_id INTEGER NOT NULL,
  "key" VARCHAR NOT NULL,
  kind VARCHAR NOT NULL,
  value TEXT,
  code INTEGER,
  contract INTEGER,
  at FLOAT,
  checksum INTEGER,
  PRIMARY KEY (run_id, "key")
)
 WITHOUT ROWID;
CREATE TABLE blob (
  digest VARCHAR NOT NULL,
  run_id INTEGER NOT NULL,
  "key" VARCHAR NOT NULL,
  PRIMARY KEY (digest, run_id, "key")
)
 WITHOUT ROWID;
CREATE INDEX blob_place ON blob (run_id, "key");
CREATE TABLE definition (
  id INTEGER NOT NULL,
  hash VARCHAR NOT NULL,
  kind VARCHAR NOT NULL,
  text TEXT,
  PRIMARY KEY (id),
  UNIQUE (hash)
);
"""


def statements() -> list[str]:
    """Return the statements that make an empty store.

    Example:
        >>> statements()[0].split("(")[0].strip()
        'CREATE TABLE project'
    """
    return [statement.strip() for statement in _DDL.split(";") if statement.strip()]
