"""The run tree as plain data: what ``ls``, ``show``, ``compare`` and ``export`` print."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from sweep.cli.face import age
from sweep.store.runs import TRIAL, RunRow, children, path_of
from sweep.store.writer import Store
from sweep.trial import Status

__all__ = ["Facts", "fold_loops", "overview", "stages_of", "status_of", "tree", "trials_of"]

Facts = dict[str, Any]  # what is known of a run, a trial or a stage, as JSON data

_LATEST = (
    "SELECT r.number, m.name, m.value, m.step FROM metric m JOIN run r ON r.id=m.run_id"
    " WHERE r.parent_id=? AND r.level=? ORDER BY m.id"
)


def status_of(store: Store, row: RunRow) -> Status:
    """Return a run's status as it is now: one whose owner is gone is interrupted, not running."""
    if row.status is Status.RUNNING and not store.is_live(row.root_id):
        return Status.INTERRUPTED
    return row.status


def overview(store: Store, row: RunRow, now: float) -> Facts:
    """Return one run in a line's worth of facts, the trials below it counted."""
    begun, ended = row.started or row.suggested, row.ended
    status = status_of(store, row)
    unknown = begun is None or (status is Status.INTERRUPTED and ended is None)
    seconds = None if begun is None or unknown else (ended or now) - begun
    done, total = _counted(store, row)
    return {
        "id": row.id, "path": path_of(store, row), "level": row.level, "status": str(status),
        "reason": None if row.reason is None else str(row.reason), "score": row.score,
        "trials_done": done, "trials": total, "started": begun, "ended": ended, "seconds": seconds,
        "age": None if begun is None else now - begun, "error": row.error,
    }  # fmt: skip


def _counted(store: Store, row: RunRow) -> tuple[int, int]:
    """Return how many trials below a run have ended, and how many there are."""
    where = "root_id=? AND level='trial'" if not row.parent_id else "parent_id=? AND level='trial'"
    query = f"SELECT status, count(*) FROM run WHERE {where} GROUP BY status"  # noqa: S608  # ours
    counts = {Status(status): count for status, count in store.rows(query, (row.id,))}
    return sum(count for status, count in counts.items() if status.ended), sum(counts.values())


# ---------------------------------------------------------------- trials


def trials_of(store: Store, row: RunRow) -> list[Facts]:
    """Return the trials of a sweep by number, with where they come from and how they ended."""
    rows = [one for one in children(store, row.id) if one.level == TRIAL]
    promotions, lineage, worked = _events(store, row.id)
    metrics, steps = _metrics(store, row.id)
    found = []
    for one in sorted(rows, key=lambda each: each.number):
        parent, donor = lineage.get(one.number, (None, None))
        status = status_of(store, one)
        facts = {
            "number": one.number, "id": one.id, "status": str(status), "reason": None if one.reason is None else str(one.reason),
            "score": one.score, "step": max(one.step or 0, steps.get(one.number, 0)), "cost": one.cost,
            "attempts": one.attempts or 1, "promotions": promotions[one.number], "parent": parent, "start_from": donor,
            "source": one.source or "optimizer", "error": one.error, "params": one.data("params"),
            "metrics": metrics.get(one.number, {}), "started": one.started,
            "ended": one.ended or (worked.get(one.number) if status.ended else None),
        }  # fmt: skip
        found.append({**facts, "how": _how(status, facts)})
    return found


def _how(status: Status, facts: Mapping[str, Any]) -> str:
    """Return in words what became of a trial, and where it came from."""
    reason = facts["reason"]
    words = [str(status) if reason in (None, str(status)) else f"{reason}" if status is Status.STOPPED else f"{status}: {reason}"]
    if facts["promotions"]:
        words.append(f"promoted {facts['promotions']}x")
    if facts["parent"] is not None:
        donor = "" if facts["start_from"] is None else f" with the checkpoint of trial[{facts['start_from']}]"
        words.append(f"in the place of trial[{facts['parent']}]{donor}")
    tries = facts["attempts"] - facts["promotions"]
    if tries > 1:
        words.append(f"{tries} attempts")
    return ", ".join(words)


def _events(
    store: Store, run_id: int
) -> tuple[Counter[int], dict[int, tuple[int | None, int | None]], dict[int, float]]:
    """Return how often each trial was promoted, from whom each exploiting trial came, and when each last worked."""
    kinds = "('promoted', 'exploited', 'ended')"
    query = f"SELECT kind, value FROM journal WHERE run_id=? AND key>='~' AND kind IN {kinds} ORDER BY key"  # noqa: S608  # ours
    promotions: Counter[int] = Counter()
    lineage: dict[int, tuple[int | None, int | None]] = {}
    worked: dict[int, float] = {}  # a trial that was paused and never went on has no end of its own
    for kind, value in store.rows(query, (run_id,)):
        event = json.loads(value)
        if kind == "promoted":
            promotions[event["number"]] += 1
        elif kind == "ended":
            worked[event["number"]] = event["wall"]
        else:
            new = event["new"]
            lineage[new["number"]] = (new.get("parent"), new.get("start_from"))
    return promotions, lineage, worked


def _metrics(store: Store, run_id: int) -> tuple[dict[int, dict[str, object]], dict[int, int]]:
    """Return the latest value of each metric of each trial, and the highest step."""
    latest: dict[int, dict[str, object]] = {}
    steps: dict[int, int] = {}
    for number, name, value, step in store.rows(_LATEST, (run_id, TRIAL)):
        latest.setdefault(number, {})[name] = value
        steps[number] = max(steps.get(number, 0), step or 0)
    return latest, steps


# ---------------------------------------------------------------- tree


def tree(store: Store, row: RunRow, now: float) -> Facts:
    """Return a run with its stages, its trials and its child runs, at any depth."""
    node = {
        **overview(store, row, now), "seed": row.seed, "params": row.data("params"), "stages": stages_of(store, row),
        "metrics": _own_metrics(store, row.id),
    }  # fmt: skip
    if row.level == "sweep":
        trials = trials_of(store, row)
        node |= {"counts": dict(Counter(trial["status"] for trial in trials)), "list": trials, "mode": _mode(row)}
    below = [child for child in children(store, row.id) if child.level != TRIAL or _has_children(store, child.id)]
    node["children"] = [tree(store, child, now) for child in below]
    return node


def _has_children(store: Store, run_id: int) -> bool:
    return store.row("SELECT 1 FROM run WHERE parent_id=? LIMIT 1", (run_id,)) is not None


def _mode(row: RunRow) -> str:
    mode = (row.data("identity") or {}).get("mode", "min")
    return str(mode[0] if isinstance(mode, list) else mode)


def _own_metrics(store: Store, run_id: int) -> list[Facts]:
    query = "SELECT step, name, value FROM metric WHERE run_id=? ORDER BY id"
    return [{"step": step, "name": name, "value": value} for step, name, value in store.rows(query, (run_id,))]


def stages_of(store: Store, row: RunRow) -> list[Facts]:
    """Return the finished stages of a run in the order in which they finished."""
    query = "SELECT key, kind, at FROM journal WHERE run_id=? AND kind IN ('stage', 'done', 'skipped', 'unstored') ORDER BY at"
    last, found = row.started, []
    for key, kind, at in store.rows(query, (row.id,)):
        seconds = None if last is None or at is None else max(0.0, at - last)
        found.append({"key": key, "kind": {"stage": "kept", "done": "kept"}.get(kind, kind), "at": at, "since_last": seconds})
        last = at
    return found


def fold_loops(stages: list[Facts]) -> list[tuple[str, str]]:
    """Return stages as (name, what), the iterations of a loop as one; the time is that since the stage before.

    Example:
        >>> fold_loops([{"key": f"train#{i}", "kind": "kept", "since_last": 1.0} for i in range(3)])
        [('train', 'kept  3.0s, 3 iterations, the last: train#2')]
    """
    grouped: dict[str, list[Facts]] = {}
    for stage in stages:
        grouped.setdefault(re.sub(r"#[\d.]+", "", stage["key"]), []).append(stage)
    lines = []
    for name, several in grouped.items():
        text = f"{several[-1]['kind']}  {age(sum(one['since_last'] or 0.0 for one in several))}"
        if len(several) > 1:
            lines.append((name, f"{text}, {len(several)} iterations, the last: {several[-1]['key']}"))
        else:
            lines.append((several[0]["key"], text))
    return lines
