"""Durable runs: found again by name and place, owned, resumed or refused, closed with a true status."""

from __future__ import annotations

import json
import os
import secrets
import sqlite3
import sys
import traceback
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, final

import anyio

from sweep.clock import current_clock
from sweep.errors import ContractError, ResumeRefused, RunInChild, RunLocked, RunNotFound, StoreError, SweepError
from sweep.pipeline.nodes import name_problem
from sweep.pipeline.redo import Redo, find_stages
from sweep.pipeline.request import Plan, PlanLine, Planned, Request, requested
from sweep.pipeline.runtime import Activation, Handle, Root
from sweep.store.journal import Journal
from sweep.store.runs import RunRow, insert_run, latest_run, path_of, read_run, roots, spent_below
from sweep.store.writer import Durability, Store
from sweep.tracker.console import console_for
from sweep.tracker.stream import say
from sweep.trial import Reason, Status

__all__ = ["Opened", "Resume", "RunSpec", "differences", "entry_of_process", "open_child", "open_top"]

Resume = Literal["auto", "never", "must"]
ENTRY_VARIABLE = "SWEEP_ENTRY"
_NODES = ("stage", "loop", "branch", "parallel")
_AGAIN = "UPDATE run SET status=?, reason=NULL, ended=NULL, error=NULL, cost=NULL WHERE id=?"


@final
@dataclass(slots=True)
class RunSpec:
    """What a run is, before it is found or made.

    Attributes:
        name: Its name.
        level: ``pipeline``, ``experiment``, ``sweep`` …
        identity: What must be equal for a resume, as JSON data.
        params: Its inputs or fields as JSON data, for people to read.
        seed: Given by the user, or None (then drawn once and journaled).
        extends: A larger budget may extend a completed run (``resume="must"``).
        redo: Stages that run again although they have finished.
        allow_changed: Go on although structure or contracts have changed.
    """

    name: str
    level: str
    identity: Mapping[str, object]
    params: Mapping[str, object] = field(default_factory=dict)
    seed: int | None = None
    extends: bool = False
    redo: Redo = field(default_factory=Redo)
    allow_changed: bool = False
    fresh_after_failure: bool = False


@final
@dataclass(slots=True)
class Opened:
    """An open run: its handle, and what was there before.

    Attributes:
        handle: The run.
        before: Its row as an earlier session left it, or None for a new run.
        finished: It had completed already; its result is to be read, not computed.
        request: What ``sweep resume`` asked of this very run, or None.
    """

    handle: Handle
    before: RunRow | None = None
    finished: bool = False
    status: Status | None = None
    reason: Reason | None = None
    request: Request | None = None


# ---------------------------------------------------------------- identity


def differences(old: object, new: object, place: str = "") -> list[str]:
    """Return what differs between two identities, a line each.

    Example:
        >>> differences({"seed": 1, "space": {"lr": "a"}}, {"seed": 1, "space": {"lr": "b"}})
        ["space.lr: 'a' -> 'b'"]
    """
    if isinstance(old, dict) and isinstance(new, dict):
        lines: list[str] = []
        for key in {**old, **new}:
            inner = f"{place}.{key}" if place else str(key)
            if key not in new:
                lines.append(f"{inner}: {_short(old[key])} is gone")
            elif key not in old:
                lines.append(f"{inner}: {_short(new[key])} is new")
            else:
                lines += differences(old[key], new[key], inner)
        return lines
    if isinstance(old, list) and isinstance(new, list) and _are_nodes(old) and _are_nodes(new):
        return _node_differences(old, new, place)
    return [] if old == new else [f"{place}: {_short(old)} -> {_short(new)}"]


def _are_nodes(items: list[Any]) -> bool:
    return all(isinstance(item, dict) and any(kind in item for kind in _NODES) for item in items)


def _node_name(node: Mapping[str, object]) -> str:
    return str(next(node[kind] for kind in _NODES if kind in node))


def _node_differences(old: list[Any], new: list[Any], place: str) -> list[str]:
    """Compare two lists of stages: renamed, inserted, removed, reordered, changed."""
    by_name = {_node_name(node): node for node in new}
    lines = _moves([_node_name(node) for node in old], list(by_name))
    for node in old:
        if _node_name(node) in by_name:
            lines += differences(node, by_name[_node_name(node)], f"stage {_node_name(node)!r}")
    return lines


def _moves(before: list[str], after: list[str]) -> list[str]:
    """Say which stages were renamed, inserted, removed or reordered."""
    gone, fresh = [n for n in before if n not in after], [n for n in after if n not in before]
    if len(gone) == len(fresh) and [before.index(n) for n in gone] == [after.index(n) for n in fresh]:
        lines = [f"stage {a!r} was renamed to {b!r}" for a, b in zip(gone, fresh, strict=True)]
    else:
        lines = [f"stage {name!r} was removed" for name in gone] + [f"stage {name!r} was inserted" for name in fresh]
    common = [name for name in before if name in after]
    if common != [name for name in after if name in before]:
        lines.append(f"stages were reordered: {' '.join(before)} -> {' '.join(after)}")
    return lines


def _short(value: object) -> str:
    text = value if isinstance(value, str) and len(value) > 60 else repr(value)
    return text if len(text) <= 100 else text[:97] + "..."


# ---------------------------------------------------------------- top


@asynccontextmanager
async def open_top(
    root: Root, spec: RunSpec, store: str | Path | Store | None, resume: Resume, durability: Durability
) -> AsyncIterator[Opened]:
    """Find or make a root run, own it, and close it with a true status.

    Raises:
        ResumeRefused: ``resume="must"`` (or ``sweep resume``) and the identity differs.
        RunLocked: A live process owns it.
        RunInChild: This is a child process, which never opens the store.
    """
    _check_name(spec)
    if resume not in ("auto", "never", "must"):
        raise SweepError(f"resume={resume!r}: expected 'auto', 'never' or 'must'")
    from sweep.process import inside_child  # the child runner is not needed before

    if inside_child():
        raise RunInChild(spec.level, spec.name)
    with ExitStack() as held:
        place = store if isinstance(store, Store) else held.enter_context(closing(Store(store, durability=durability)))
        opened = _find_or_make(place, spec, resume)
        with _closing(root, opened), ExitStack() as shown:
            root.resume_line = f"sweep resume {opened.handle.run_id} --store {place.path}"
            console = console_for()
            if console is not None:
                root.stream.add(console)
                shown.callback(console.close)
            yield opened


def _find_or_make(store: Store, spec: RunSpec, resume: Resume) -> Opened:
    request = requested()
    opened = None if request is None or spec.level == "rerun" else _requested(store, spec, request)
    return opened if opened is not None else _usual(store, spec, resume)


def _usual(store: Store, spec: RunSpec, resume: Resume) -> Opened:
    row = latest_run(store, 0, "", spec.name)
    if row is None or resume == "never":
        if row is None and resume == "must":
            raise RunNotFound(spec.name, str(store.path), {one.name for one in roots(store)})
        return _make(store, spec, 1 if row is None else row.number + 1)
    changed = _changed(spec, row)
    if changed:
        return _other_identity(store, spec, row, resume, changed)
    if row.status is Status.COMPLETED and resume != "must":
        _mention_unfinished(store, spec)
        say(f"{spec.name!r} has finished already{_best(row)}: this is a new run, {spec.name}#{row.number + 1}")
        return _make(store, spec, row.number + 1)
    by_failures = row.status is Status.FAILED and row.result is not None  # a sweep that has come to its end
    if by_failures and spec.fresh_after_failure and resume == "auto":
        say(f"{spec.name!r} ended by failures ({row.error}): this is a new run, {spec.name}#{row.number + 1}")
        return _make(store, spec, row.number + 1)
    return _take_over(store, spec, row)


def _check_name(spec: RunSpec) -> None:
    problem = name_problem(spec.level, spec.name)
    if problem is not None:
        raise ContractError(f"name={spec.name!r}", [problem])


def _requested(store: Store, spec: RunSpec, request: Request) -> Opened | None:
    """Open the run that ``sweep resume`` means, or read a finished one that the program runs beside it."""
    meant = [one for one in roots(store) if one.name == spec.name and request.means(store.path, one.id)]
    if meant:
        row = meant[0]
        spec.redo, spec.allow_changed = find_stages(store, row, request.redo), request.allow_changed
        changed = _changed(spec, row)
        if changed:
            return _other_identity(store, spec, row, "must", changed)
        opened = _look(store, spec, row) if request.dry_run else _take_over(store, spec, row)
        opened.request = request
        return opened
    beside = latest_run(store, 0, "", spec.name)
    if beside is not None and beside.status is Status.COMPLETED and not _changed(spec, beside):
        return _look(store, spec, beside)
    if request.dry_run:
        note = f"the program runs this before it comes to run {request.run}; what follows may depend on it"
        raise Planned(Plan(request.run, str(request.run), (PlanLine(spec.name, "runs", note),)))
    return None


def _changed(spec: RunSpec, row: RunRow) -> list[str]:
    """Return what forbids to go on with a run: the differences of its identity."""
    if spec.allow_changed:
        return []
    old, new = row.data("identity"), _plain(spec.identity)
    changed = differences(old, new)
    if changed:
        changed = differences(*_with_values(old, new, row.data("params"), json.loads(_shown(spec.params))))
    return [line for line in changed if spec.seed is not None or not line.startswith("seed:")]


def _with_values(old: Any, new: Any, before: Any, now: Any) -> tuple[Any, Any]:
    """Put values in the place of the hashes of inputs, where those tell what differs: for people to read."""
    hashes, others = old.get("inputs"), new.get("inputs")
    if not isinstance(hashes, dict) or not isinstance(others, dict) or not isinstance(before, dict):
        return old, new
    told = [key for key, one in hashes.items() if others.get(key, one) != one and before.get(key) != now.get(key)]
    values, new_values = {key: before.get(key) for key in told}, {key: now.get(key) for key in told}
    return {**old, "inputs": {**hashes, **values}}, {**new, "inputs": {**others, **new_values}}


def _look(store: Store, spec: RunSpec, row: RunRow) -> Opened:
    """Open a run for reading alone: nobody owns it, and nothing of it is changed."""
    finished = _is_finished(spec, row)
    if not finished and store.is_live(row.id):
        raise RunLocked(row.segment, store.owner(row.id))
    return Opened(_handle(store, row, row.id, row.segment, spec.redo), row, finished)


def _handle(store: Store, row: RunRow, root_id: int, path: str, redo: Redo, *, fresh: bool = False) -> Handle:
    journal = Journal(store, row.id, root_id, fresh=fresh)
    return Handle(store, row.id, root_id, path, journal, not fresh, redo, row.seed or 0)


def _is_finished(spec: RunSpec, row: RunRow) -> bool:
    return row.status is Status.COMPLETED and not spec.extends and not spec.redo


def _other_identity(store: Store, spec: RunSpec, row: RunRow, resume: Resume, changed: list[str]) -> Opened:
    remedy = f"start a new run instead (--new, resume='never'), keeping its history with init_from={row.id}"
    if resume == "must":
        raise ResumeRefused(row.segment, changed, f"{remedy}, or go on all the same (--allow-changed)")
    _mention_unfinished(store, spec)
    shown = "; ".join(changed[:5]) + ("; …" if len(changed) > 5 else "")
    say(f"{row.segment!r} was another {spec.level} ({shown}): this is a new run, {spec.name}#{row.number + 1}")
    if spec.level == "sweep":
        say(f"to keep its history: init_from={row.id}")
    return _make(store, spec, row.number + 1)


def _mention_unfinished(store: Store, spec: RunSpec) -> None:
    """Say that an earlier run of the same identity is unfinished: whoever changed it and changed it back wants that one."""
    for row in reversed(list(roots(store))):
        begun = row.name == spec.name and row.status not in (Status.COMPLETED, Status.FAILED)
        if begun and not store.is_live(row.id) and not _changed(spec, row):
            say(f"{row.segment!r} was this very {spec.level} and is unfinished; to go on with it: sweep resume {row.id}")
            return


def _best(row: RunRow) -> str:
    return "" if row.score is None else f" (best {row.score:.6g})"


def _plain(data: object) -> Any:
    """Return identity as it reads back from the store."""
    return json.loads(json.dumps(data))


def _shown(params: Mapping[str, object]) -> str:
    """Return inputs or fields as JSON for people to read."""
    return json.dumps(params, default=repr)


def _make(store: Store, spec: RunSpec, number: int) -> Opened:
    seed = spec.seed if spec.seed is not None else secrets.randbelow(2**31)
    try:
        run_id = insert_run(store, number=number, **_columns(spec, seed), entry=json.dumps(entry_of_process()))
    except StoreError as error:
        if isinstance(error.__cause__, sqlite3.IntegrityError):
            raise RunLocked(spec.name, "another process, which began it a moment ago") from error
        raise
    store.own(run_id, spec.name)
    row = read_run(store, run_id)
    return Opened(_handle(store, row, run_id, row.segment, Redo(), fresh=True))


def _columns(spec: RunSpec, seed: int) -> dict[str, object]:
    return {
        "level": spec.level,
        "name": spec.name,
        "status": Status.RUNNING.value,
        "started": current_clock().wall(),
        "seed": seed,
        "params": _shown(spec.params) if spec.params else None,
        "identity": json.dumps(spec.identity),
    }


def _take_over(store: Store, spec: RunSpec, row: RunRow) -> Opened:
    store.own(row.id, row.segment)
    row = read_run(store, row.id)
    finished = _is_finished(spec, row)
    if not finished:
        store.add(_AGAIN, (Status.RUNNING.value, row.id))
        if spec.allow_changed:
            store.add("UPDATE run SET identity=? WHERE id=?", (json.dumps(spec.identity), row.id))
        spec.redo.forget(store, row.id)
        store.commit()
    handle = _handle(store, row, row.id, row.segment, spec.redo)
    if not finished:
        done = sum(1 for key in handle.journal if "!" not in key)
        if done and requested() is None and spec.level != "sweep":
            say(f"resuming {row.segment!r}: {done} finished step{'s' if done != 1 else ''} restored, the rest runs now")
    return Opened(handle, row, finished)


# ---------------------------------------------------------------- child


@asynccontextmanager
async def open_child(parent: Activation, spec: RunSpec) -> AsyncIterator[Opened]:
    """Find or make a child run below a stage activation; it uses the parent's store.

    Raises:
        SweepError: A sibling of the same name is running.
        ResumeRefused: The journaled run at this place is another one.
    """
    _check_name(spec)
    handle = parent.frame.handle
    if handle is None:
        raise SweepError(f"{parent.path!r} is no durable run")
    if spec.name in parent.live:
        raise SweepError(
            f"two runs named {spec.name!r} at once in {parent.path!r}: name your runs, name=…, so that each is found again"
        )
    number = parent.children[spec.name] = parent.children.get(spec.name, 0) + 1
    parent.live.add(spec.name)
    try:
        opened = _child(handle, parent.key, spec, number)
        with _closing(parent.frame.root, opened):
            yield opened
    finally:
        parent.live.discard(spec.name)


def _child(parent: Handle, stage: str, spec: RunSpec, number: int) -> Opened:
    store = parent.store
    found = store.row(
        "SELECT id FROM run WHERE parent_id=? AND stage=? AND name=? AND number=?",
        (parent.run_id, stage, spec.name, number),
    )
    if found is None:
        seed = spec.seed if spec.seed is not None else _derived_seed(parent.seed, stage, spec.name, number)
        columns = _columns(spec, seed)
        run_id = insert_run(
            store, parent_id=parent.run_id, root_id=parent.root_id, stage=stage, number=number, **columns
        )
        row, before = read_run(store, run_id), None
    else:
        row = before = read_run(store, int(found[0]))
        request = requested()
        spec.allow_changed = spec.allow_changed or (request is not None and request.allow_changed)
        changed = _changed(spec, row)
        if changed:
            raise ResumeRefused(
                path_of(store, row),
                changed,
                "another run stood here before: name your runs (name=…), or --allow-changed",
            )
    path = f"{parent.path}/{row.place}"
    handle = _handle(store, row, parent.root_id, path, parent.redo, fresh=before is None)
    finished = before is not None and row.status is Status.COMPLETED and path not in parent.redo.above
    if before is not None and not finished:
        store.add(_AGAIN, (Status.RUNNING.value, row.id))
    return Opened(handle, before, finished)


def _derived_seed(seed: int, *parts: object) -> int:
    from sweep.fingerprint import structure_hash

    return int(structure_hash([seed, *map(str, parts)])[:8], 16) & 0x7FFFFFFF


# ---------------------------------------------------------------- the end


@contextmanager
def _closing(root: Root, opened: Opened) -> Iterator[None]:
    """Write the run's last status, whatever happens inside."""
    try:
        yield
    except BaseException as error:  # Ctrl-C and cancellation end a run, too
        if isinstance(error, RunLocked | Planned):
            raise
        status, reason = _status_of(root, error)
        _close(opened, status, reason, _one_line(error))
        if status is Status.FAILED and opened.handle.run_id == opened.handle.root_id:
            error.add_note(f"what was finished is kept; go on, once this is mended: {root.resume_line}")
        raise
    if not opened.finished:
        _close(opened, opened.status or Status.COMPLETED, opened.reason or Reason.COMPLETED, None)


def _status_of(root: Root, error: BaseException) -> tuple[Status, Reason | None]:
    if isinstance(error, Exception) and not isinstance(error, anyio.get_cancelled_exc_class()):
        return Status.FAILED, Reason.ERROR
    if root.interrupted is None and isinstance(error, anyio.get_cancelled_exc_class()):
        return Status.INTERRUPTED, Reason.PARENT
    return Status.INTERRUPTED, None


def _close(opened: Opened, status: Status, reason: Reason | None, error: str | None) -> None:
    handle = opened.handle
    if opened.status is None:
        _roll_up(handle)  # it commits what is queued, so the status comes after it: a run that has ended is whole
    query = "UPDATE run SET status=?, reason=?, ended=?, error=? WHERE id=?"
    handle.store.add(query, (status.value, reason and reason.value, current_clock().wall(), error, handle.run_id))
    handle.store.commit()


def _roll_up(handle: Handle) -> None:
    """Note what everything below a run has cost, and how its trials have ended; a finished sweep has said so itself."""
    with suppress(StoreError):  # whatever is wrong with the store, the commit that follows says so
        below = spent_below(handle.store, handle.run_id)
        if below.counts:
            facts = json.dumps({"cost": below.cost, "counts": below.counts})
            query = "UPDATE run SET cost=COALESCE(cost, ?), result=CASE level WHEN 'sweep' THEN result ELSE ? END WHERE id=?"
            handle.store.add(query, (below.cost, facts, handle.run_id))


def _one_line(error: BaseException) -> str:
    return "".join(traceback.format_exception_only(error)).strip().splitlines()[0][:500]


def entry_of_process() -> dict[str, object]:
    """Return how this process was entered, so that ``sweep resume`` can enter it again."""
    given = os.environ.get(ENTRY_VARIABLE)
    if given:
        return dict(json.loads(given))
    main = sys.modules.get("__main__")
    script = getattr(main, "__file__", None)
    if script is None or hasattr(sys, "ps1") or "ipykernel" in sys.modules:
        return {"kind": "notebook"}
    return {"kind": "script", "script": str(Path(script).resolve()), "argv": sys.argv[1:], "cwd": str(Path.cwd())}
