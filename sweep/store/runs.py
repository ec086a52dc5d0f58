"""The run tree: rows of ``run`` as data, found by id, name, ``name#k`` or path."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, final

from sweep.errors import RunNotFound, StoreCorrupt
from sweep.store.writer import Store
from sweep.trial import Reason, Status

__all__ = [
    "RunRow", "Spent", "children", "descendants", "find_run", "insert_run", "latest_run", "read_run", "roots", "segment",
    "spent_below",
]  # fmt: skip

TRIAL = "trial"
REPEAT = "run"


@final
@dataclass(slots=True)
class RunRow:
    """One row of ``run``; see ``schema.Run`` for the columns. JSON columns stay text."""

    id: int
    parent_id: int
    root_id: int
    level: str
    stage: str
    name: str
    number: int
    status: Status
    reason: Reason | None
    suggested: float | None
    started: float | None
    ended: float | None
    seq: int | None
    ended_seq: int | None
    seed: int | None
    attempts: int | None
    params: str | None
    score: float | None
    cost: float | None
    step: int | None
    result: str | None
    error: str | None
    source: str | None
    origin: str | None
    identity: str | None
    entry: str | None
    owner: str | None
    epoch: int

    @property
    def segment(self) -> str:
        """The run's own part of its path, for example ``digits#2`` or ``trial[5]``."""
        return segment(self.level, self.name, self.number)

    @property
    def place(self) -> str:
        """Stage activation and segment: the path below the parent."""
        return f"{self.stage}/{self.segment}" if self.stage else self.segment

    def data(self, column: str) -> Any:
        """Return a JSON column as data, or None.

        Raises:
            StoreCorrupt: It is no JSON any more.
        """
        text = getattr(self, column)
        try:
            return None if text is None else json.loads(text)
        except ValueError as error:
            raise StoreCorrupt(f"run {self.id}: its {column} is damaged ({error}): {text[:80]}") from error


_COLUMNS = tuple(field.name for field in fields(RunRow))
_SELECT = f"SELECT {', '.join(_COLUMNS)} FROM run"  # noqa: S608  # column names of our own


def segment(level: str, name: str, number: int) -> str:
    """Return the part of a path that one run contributes.

    Example:
        >>> segment("trial", "trial", 5), segment("experiment", "digits", 2), segment("sweep", "digits", 1)
        ('trial[5]', 'digits#2', 'digits')
    """
    if level in (TRIAL, REPEAT):
        return f"{name}[{number}]"
    return name if number == 1 else f"{name}#{number}"


def _row(store: Store, values: Sequence[Any]) -> RunRow:
    row = RunRow(*values)
    try:
        row.status = Status(row.status)
        row.reason = None if row.reason is None else Reason(row.reason)
        if {type(row.id), type(row.parent_id), type(row.root_id), type(row.number), type(row.epoch)} != {int}:
            raise ValueError("an id or a number is missing")
        if not 0 <= row.parent_id < row.id:  # so that nobody who follows parents or children goes round for ever
            raise ValueError(f"its parent cannot be run {row.parent_id}")
    except ValueError as error:
        raise StoreCorrupt(f"{store.path}, run {row.id}: the row is damaged: {error}") from error
    return row


def _select(store: Store, where: str, parameters: Sequence[Any]) -> list[RunRow]:
    return [_row(store, values) for values in store.rows(f"{_SELECT} {where}", parameters)]


def read_run(store: Store, run_id: int) -> RunRow:
    """Return one run.

    Raises:
        RunNotFound: There is no such id.
    """
    found = _select(store, "WHERE id=?", (run_id,))
    if not found:
        raise RunNotFound(str(run_id), str(store.path))
    return found[0]


def roots(store: Store) -> list[RunRow]:
    """Return all root runs, oldest first."""
    return _select(store, "WHERE parent_id=0 ORDER BY id", ())


def children(store: Store, run_id: int) -> list[RunRow]:
    """Return the direct children of a run, in the order in which they began."""
    return _select(store, "WHERE parent_id=? ORDER BY id", (run_id,))


def descendants(store: Store, row: RunRow, depth: int = 0) -> Iterator[tuple[int, RunRow]]:
    """Yield ``(depth, run)`` for a run and everything below it, depth first."""
    yield depth, row
    for child in children(store, row.id):
        yield from descendants(store, child, depth + 1)


def latest_run(store: Store, parent_id: int, stage: str, name: str) -> RunRow | None:
    """Return the run of a name with the highest ordinal at one place, or None."""
    found = _select(
        store, "WHERE parent_id=? AND stage=? AND name=? ORDER BY number DESC LIMIT 1", (parent_id, stage, name)
    )
    return found[0] if found else None


_BELOW = """
WITH RECURSIVE below(id) AS (
  SELECT id FROM run WHERE parent_id=?1 AND id>?1 AND (?2='' OR stage=?2 OR substr(stage, 1, length(?2)+1)=?2||'/')
  UNION ALL SELECT run.id FROM run JOIN below ON run.parent_id=below.id AND run.id>below.id)
SELECT run.id, parent_id, level, status, source, CAST(step AS INTEGER), CAST(cost AS REAL), CAST(COALESCE(
  CASE WHEN json_type(result)='object' THEN json_extract(result, '$.cost') END,
  (SELECT value FROM metric WHERE run_id=run.id AND name='cost' ORDER BY metric.id DESC LIMIT 1)) AS REAL)
FROM run JOIN below ON below.id=run.id ORDER BY run.id DESC"""


class Spent(NamedTuple):
    """What everything below a run has come to.

    Attributes:
        cost: Of all trials: what they reported as such, else seconds, or what the sweeps inside have cost if that is more.
        trials: Configurations of the sweeps below, without those inside of trials.
        resource: Steps of those trials.
        counts: Trials at all depths by status.
    """

    cost: float
    trials: int
    resource: int
    counts: dict[str, int]


def spent_below(store: Store, run_id: int, stage: str = "") -> Spent:
    """Add up what is below a run, or a stage of it, finished or not (queued writes are committed first)."""
    store.commit()
    rows = store.rows(_BELOW, (run_id, stage))  # children have higher ids than parents: from the leaves upwards
    inside = {run_id: False}
    for number, parent, level, *_ in reversed(rows):
        inside[number] = level == TRIAL or inside.get(parent, False)
    cost: defaultdict[int, float] = defaultdict(float)
    counts: Counter[str] = Counter()
    trials = resource = 0
    for number, parent, level, status, source, step, seconds, reported in rows:
        if level == TRIAL:
            cost[number] = max(cost[number], seconds or 0.0) if reported is None else reported
            counts[status] += 1
            if not inside[parent]:
                trials += source != "scheduler"
                resource += step or int(status == Status.COMPLETED.value)
        cost[parent] += cost[number]
    return Spent(cost[run_id], trials, resource, dict(counts))


def insert_run(store: Store, **columns: Any) -> int:
    """Insert a run and return its id (committed; queued writes first)."""
    values = {"parent_id": 0, "root_id": 0, "level": "experiment", "stage": "", "number": 1, "epoch": 0, **columns}
    names = ", ".join(values)
    marks = ",".join("?" for _ in values)
    run_id = store.insert(f"INSERT INTO run({names}) VALUES ({marks})", list(values.values()))  # noqa: S608  # our column names
    return run_id


def path_of(store: Store, row: RunRow) -> str:
    """Return the path of a run from its root."""
    parts = [row.place]
    while row.parent_id:
        row = read_run(store, row.parent_id)
        parts.append(row.place)
    return "/".join(reversed(parts))


def find_run(store: Store, reference: str) -> RunRow:
    """Return the run meant by an id, a name (its latest run), ``name#k`` or a path in the tree.

    Raises:
        RunNotFound: Nothing matches; the message has near misses.
    """
    if reference.isdigit():
        return read_run(store, int(reference))
    top = roots(store)
    head, _, rest = reference.partition("/")
    found = [row for row in top if head in (row.segment, f"{row.name}#{row.number}", row.name)]
    if not found:
        raise RunNotFound(reference, str(store.path), {row.name for row in top} | {row.segment for row in top})
    row = found[-1]
    while rest:
        below = children(store, row.id)
        matching = [child for child in below if rest == child.place or rest.startswith(child.place + "/")]
        if not matching:
            known = [f"{path_of(store, row)}/{child.place}" for child in below]
            raise RunNotFound(reference, str(store.path), known)
        row = max(matching, key=lambda child: len(child.place))
        rest = rest[len(row.place) + 1 :]
    return row


def loop_indices(key: str) -> tuple[int, ...]:
    """Return the loop indices in a stage key.

    Example:
        >>> loop_indices("train#7")
        (7,)
    """
    return tuple(int(index) for index in re.findall(r"#(\d+)", key))
