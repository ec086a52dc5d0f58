"""A sweep's events in the store, and back.

A trial is one row of ``run``: that it was suggested, started and ended stands in columns of
that row; every other event is a row of ``journal`` under ``~`` and its place in the order.
Reports are rows of ``metric``. ``seq`` numbers them all without a gap, so that what is read back is
the list of events as it was committed; each row has a checksum, for SQLite does not look whether
the disk gives back what was written.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from struct import Struct
from struct import error as struct_error
from typing import Any, final

from sweep.errors import StoreCorrupt
from sweep.experiments import events as ev
from sweep.store.bulk import collector_paused
from sweep.store.journal import checksum_of
from sweep.store.runs import TRIAL
from sweep.store.writer import Store
from sweep.trial import Status, Trial

__all__ = ["EventLog"]

_INSERT = (
    "INSERT INTO run(parent_id, root_id, level, stage, name, number, status, params, source, origin, seq, suggested,"
    " started, checksum, epoch) VALUES (?,?,'trial','','trial',?,?,?,?,?,?,?,?,?,0)"
)
_PLACE = "WHERE parent_id=? AND stage='' AND name='trial' AND number=?"
_MOVE = f"UPDATE run SET status=?, reason=?, score=?, cost=?, step=?, error=?, attempts=? {_PLACE}"  # noqa: S608  # ours
_END = "UPDATE run SET status=?, reason=?, score=?, cost=?, step=?, ended=?, error=?, result=?, ended_seq=?,"
_END += " checksum=? WHERE id=?"
_ENDED = f"UPDATE run SET ended=? {_PLACE}"  # noqa: S608  # ours
_STARTED = f"UPDATE run SET started=? {_PLACE}"  # noqa: S608  # ours
_REOPEN = f"UPDATE run SET ended_seq=NULL, ended=NULL, result=NULL, checksum=? {_PLACE}"  # noqa: S608  # ours
_METRIC = "INSERT INTO metric(run_id, name, step, value, labels, seq, checksum) VALUES (?,?,?,?,?,?,?)"
_EVENT = "INSERT INTO journal(run_id, key, kind, value, at, checksum) VALUES (?,?,?,?,?,?)"
_PACK = Struct("<qqqqd").pack
_JSON = json.JSONEncoder(separators=(",", ":"))


@final
@dataclass(slots=True)
class EventLog:
    """Writes and reads the events of one sweep.

    Attributes:
        store: The open store.
        run_id: The sweep's run.
        root_id: Its root.
        ids: Row id of every trial by number.
        sums: Checksum of every trial's row by number, as it was before the trial's end was written there.
    """

    store: Store
    run_id: int
    root_id: int
    ids: list[int] = field(default_factory=list)
    sums: list[int] = field(default_factory=list)
    _seq: int = 0
    _left: list[str] = field(default_factory=list)

    # ------------------------------------------------------------ writing

    def write(self, events: list[ev.Event], trials: list[Trial], wall: float) -> None:
        """Queue events for the next commit; ``trials`` are as they stand after them."""
        started = {(one.number, one.attempt, one.run): one for one in events if isinstance(one, ev.Started)}
        at_once: set[int] = set()
        for event in events:
            if isinstance(event, ev.Started) and event.number in at_once and (event.attempt, event.run) == (1, 0):
                continue  # the trial's row says so
            self._seq += 1
            if isinstance(event, ev.Reported) and event.metrics:
                self._report(event)
            elif isinstance(event, ev.Suggested) and event.trials:
                self._suggested(event, started, at_once, wall)
            elif isinstance(event, ev.Ended) and self._is_plain(event, trials[event.number]):
                self._ended(event, trials[event.number])
            else:
                self._other(event, trials, wall)

    def _report(self, event: ev.Reported) -> None:
        facts = (event.attempt, event.run, event.decision)
        labels = None if facts == (1, 0, "continue") else json.dumps(facts)
        row, count = self.ids[event.number], len(event.metrics)
        for name, value in event.metrics.items():
            checksum = _sum_of_metric(row, count, name, event.step, value, labels, self._seq)
            self.store.add(_METRIC, (row, name, event.step, value, labels, self._seq, checksum))

    def _suggested(self, event: ev.Suggested, started: dict[Any, ev.Started], at_once: set[int], wall: float) -> None:
        for new in event.trials:
            begin = started.get((new.number, 1, 0))
            if begin is not None:
                at_once.add(new.number)
            origin: list[Any] = [event.asked, event.observed, *([new.notes] if new.notes else [])]
            self._insert(new, _JSON.encode(origin), None if begin is None else begin.wall, wall)

    def _insert(self, new: ev.New, origin: str | None, started: float | None, wall: float) -> None:
        status = Status.PENDING if started is None else Status.RUNNING
        source = None if new.source == "optimizer" else new.source
        params = _JSON.encode(new.params)
        self.sums.append(_sum_of_trial(new.number, params, source, origin, self._seq, started is not None))
        values = (
            self.run_id, self.root_id, new.number, status.value, params, source, origin, self._seq, wall, started,
            self.sums[new.number],
        )  # fmt: skip
        self.store.add(_INSERT, values, self.ids.append)

    @staticmethod
    def _is_plain(event: ev.Ended, trial: Trial) -> bool:
        as_said = event.kind in ("completed", "failed") and trial.status.value == event.kind
        return as_said and event.attempt == 1 and event.run == 0

    def _ended(self, event: ev.Ended, trial: Trial) -> None:
        plain = type(event.value) is float and event.value == trial.score
        result = None if plain or event.kind == "failed" else json.dumps(event.value)
        reason = None if trial.reason is None else trial.reason.value
        values = (trial.status.value, reason, trial.score, event.cost, trial.step, event.wall, event.error, result)
        facts = (trial.status.value, _as_kept(trial.score), _as_kept(event.cost), event.error, result, self._seq)
        checksum = _sum_of_end(self.sums[event.number], *facts)
        self.store.add(_END, (*values, self._seq, checksum, self.ids[event.number]))

    def _other(self, event: ev.Event, trials: list[Trial], wall: float) -> None:
        data = ev.to_data(event)
        kind = data.pop("event")
        self._event(self._seq, kind, data, wall)
        if isinstance(event, ev.Reopened):
            self._reopened(event.number)
        elif isinstance(event, ev.Exploited):
            self._insert(event.new, None, None, wall)
            self._move(trials[event.number])
        elif isinstance(event, ev.Finished):
            for trial in trials:
                if trial.status in (Status.STOPPED, Status.SKIPPED):
                    self._move(trial)
        elif isinstance(event, ev.Started | ev.Ended | ev.Promoted):
            self._move(trials[event.number])
        if isinstance(event, ev.Ended) and trials[event.number].status.ended:
            self.store.add(_ENDED, (event.wall, self.run_id, event.number))
        if isinstance(event, ev.Started) and event.attempt == 1:
            self.store.add(_STARTED, (event.wall, self.run_id, event.number))

    def _event(self, seq: int, kind: str, data: dict[str, Any], wall: float) -> None:
        key, text = f"~{seq:09d}", _JSON.encode(data)
        self.store.add(_EVENT, (self.run_id, key, kind, text, wall, checksum_of(key, kind, text)))

    def _reopened(self, number: int) -> None:
        """Write a plain end down as an event: the row is needed for another."""
        query = f"SELECT ended_seq, status, score, cost, ended, error, result FROM run {_PLACE}"  # noqa: S608  # ours
        row = self.store.row(query, (self.run_id, number))
        if row is None or row[0] is None:
            return
        data = ev.to_data(_plain_end(number, *row[1:]))
        self._event(row[0], data.pop("event"), data, row[4])
        self.store.add(_REOPEN, (self.sums[number], self.run_id, number))

    def agree(self, trials: list[Trial], wall: float) -> None:
        """Queue the rows of trials that are not any more what the last session left: it died before it could say so."""
        for trial, left in zip(trials, self._left, strict=False):
            if trial.status.value != left:
                self._move(trial)
                if trial.status.ended:
                    self.store.add(_ENDED, (wall, self.run_id, trial.number))
        self._left = []

    def _move(self, trial: Trial) -> None:
        reason = None if trial.reason is None else trial.reason.value
        values = (trial.status.value, reason, trial.score, trial.cost, trial.step, trial.error, trial.attempts)
        self.store.add(_MOVE, (*values, self.run_id, trial.number))

    # ------------------------------------------------------------ reading

    @collector_paused()
    def read(self) -> list[ev.Event]:
        """Return all committed events in order, and take up numbering after them.

        Raises:
            StoreCorrupt: They are not what was written.
        """
        others = list(self._journal_events())
        begun = {
            event.number
            for _, event in others
            if isinstance(event, ev.Started) and (event.attempt, event.run) == (1, 0)
        }
        found = [*others, *self._trial_events(begun), *self._reports()]
        found.sort(key=itemgetter(0))
        self._seq = math.floor(found[-1][0]) if found else 0
        kept = {place for place, _ in found if type(place) is int}  # the others lie between: starts told by a trial's row
        if len(kept) != self._seq:
            missing = next(place for place in range(1, self._seq + 1) if place not in kept)
            raise self._damaged(f"event {missing} of {self._seq}", "is missing")
        return [event for _, event in found]

    def _damaged(self, what: str, how: str = "is damaged, it is not what was written") -> StoreCorrupt:
        return StoreCorrupt(
            f"{self.store.path}, run {self.run_id}: {what} {how}; put a copy of {self.store.path.name} back, "
            "or begin a new run (resume='never', --new)"
        )

    def _trial_events(self, begun: set[int]) -> Iterator[tuple[float, ev.Event]]:
        """Yield the events in the rows of trials; ``begun`` have their first start elsewhere."""
        query = (
            "SELECT id, number, params, source, origin, seq, started, status, score, cost, ended, error, result, ended_seq,"
            " checksum FROM run WHERE parent_id=? AND level=? ORDER BY number"
        )
        rows = self.store.rows(query, (self.run_id, TRIAL))
        self.ids, self._left = [row[0] for row in rows], [row[7] for row in rows]
        self.sums = [self._sum_of_row(index, row, begun) for index, row in enumerate(rows)]
        yield from _beginnings(rows, begun)
        for _, number, _, _, _, _, _, status, score, cost, ended, error, result, ended_seq, _ in rows:
            if ended_seq is not None:
                yield ended_seq, _plain_end(number, status, score, cost, ended, error, result)

    def _sum_of_row(self, index: int, row: tuple[Any, ...], begun: set[int]) -> int:
        """Return the checksum of a trial's row before its end, having compared the row with its own."""
        _, number, params, source, origin, seq, started, status, score, cost, _, error, result, ended_seq, checksum = (
            row
        )
        if number != index:
            raise self._damaged(f"trial {index}", "is missing")
        found = whole = _sum_of_trial(number, params, source, origin, seq, started is not None and number not in begun)
        if ended_seq is not None:
            whole = _sum_of_end(found, status, score, cost, error, result, ended_seq)
        if checksum is not None and checksum != whole:
            raise self._damaged(f"the row of trial {number}")
        return found

    def _journal_events(self) -> Iterator[tuple[float, ev.Event]]:
        query = "SELECT key, kind, value, checksum FROM journal WHERE run_id=? AND key>='~' ORDER BY key"
        for key, kind, value, checksum in self.store.rows(query, (self.run_id,)):
            if checksum is not None and checksum != checksum_of(key, kind, value):
                raise self._damaged(f"event {key}")
            yield int(key[1:]), ev.from_data({"event": kind, **json.loads(value)})

    def _reports(self) -> Iterator[tuple[float, ev.Event]]:
        query = (
            "SELECT m.seq, m.step, m.name, m.value, m.labels, m.checksum, r.number, r.id FROM metric m JOIN run r"
            " ON r.id=m.run_id WHERE r.parent_id=? AND r.level=? AND m.seq IS NOT NULL ORDER BY m.seq, m.id"
        )
        rows = self.store.rows(query, (self.run_id, TRIAL))
        for seq, group in groupby(rows, key=itemgetter(0)):
            together = list(group)
            metrics: dict[str, float] = {}
            for _, step, name, kept, labels, checksum, number, row in together:
                value = math.nan if kept is None else kept
                found = checksum if checksum is None else _sum_of_metric(row, len(together), name, step, value, labels, seq)
                if found != checksum:
                    raise self._damaged(f"metric {name!r} of trial {number} at step {step}")
                metrics[name] = value
            attempt, run, decision = (1, 0, "continue") if labels is None else json.loads(labels)
            yield seq, ev.Reported(number, attempt, step, metrics, run, decision)  # type: ignore[arg-type]  # one of the three


def _beginnings(rows: list[tuple[Any, ...]], begun: set[int]) -> Iterator[tuple[float, ev.Event]]:
    """Yield how trials came into the sweep, and the first starts that their rows tell."""
    params_of = _parsed(row[2] for row in rows)
    origins = _parsed("null" if row[4] is None else row[4] for row in rows)
    batch: list[ev.New] = []
    for index, (row, facts) in enumerate(zip(rows, origins, strict=True)):
        number, source, seq, started = row[1], row[3], row[5], row[6]
        if facts is None:
            continue
        notes = facts[2] if len(facts) > 2 else None
        batch.append(ev.New(number, params_of[index], source or "optimizer", notes))
        if index + 1 == len(rows) or rows[index + 1][5] != seq:
            yield seq, ev.Suggested(tuple(batch), facts[0], facts[1])
            batch = []
        if started is not None and number not in begun:
            yield seq + (1 + number) * 1e-7, ev.Started(number, 1, started)


def _parsed(texts: Iterable[str]) -> list[Any]:
    """Return what each of many JSON texts says, parsed in one go."""
    found: list[Any] = json.loads(f"[{','.join(texts)}]")
    return found


def _plain_end(
    number: int, status: str, score: float | None, cost: float | None, ended: float | None, error: str | None, result: str | None
) -> ev.Ended:
    """Return the end of a trial that its row tells."""
    kind: ev.Kind = "failed" if status == Status.FAILED.value else "completed"
    value = None if kind == "failed" else score if result is None else json.loads(result)
    return ev.Ended(number, 1, kind, value, error, cost or 0.0, ended or 0.0)


def _as_kept(number: float | None) -> float | None:
    """Return a number as SQLite gives it back: it has no NaN and no -0.0."""
    return None if number is None or number != number else number + 0.0


def _sum_of_metric(row: int, count: int, name: str, step: int, value: float, labels: str | None, seq: int) -> int:
    """Return the checksum of one of ``count`` metrics of a report (packed: a report is written in microseconds)."""
    try:
        numbers = _PACK(row, count, step, seq, value + 0.0 if value == value else math.nan)  # SQLite has no -0.0
    except (struct_error, TypeError):  # other types than were written
        return -1
    return zlib.crc32(numbers + (name if labels is None else f"{name}\0{labels}").encode())


def _sum_of_trial(number: int, params: str, source: str | None, origin: str | None, seq: int, begun: bool) -> int:
    """Return the checksum of a trial's row as it enters the sweep."""
    return zlib.crc32(f"{number}\0{params}\0{source}\0{origin}\0{seq}\0{begun}".encode())


def _sum_of_end(
    before: int, status: str, score: float | None, cost: float | None, error: str | None, result: str | None, seq: int
) -> int:
    """Return the checksum of a trial's row with its end."""
    return zlib.crc32(f"{status}\0{score}\0{cost}\0{error}\0{result}\0{seq}".encode(), before)
