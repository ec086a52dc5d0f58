"""``--redo``: which finished stages a resume runs again, and what has to run again to come to them.

Everything is told by structural path: a stage of a child run or of a trial is reached only through the
stage that starts the child, so that one runs again, too; what else is finished there is restored.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, final

from sweep.errors import ConfigError, UnknownName
from sweep.store.journal import Journal
from sweep.store.runs import TRIAL, RunRow, descendants
from sweep.store.writer import Store
from sweep.trial import Status

__all__ = ["Outcome", "Redo", "find_stages", "reopened"]

_KINDS = "('stage', 'done', 'unstored', 'skipped', 'branch')"
_NUMBER = re.compile(r"#[\d.]+$|\[\d+\]$")
_BRANCH = "!branch"
_REOPENED = "!reopen"
"""Key of a sweep's journal under which trials stand that are to go on: kept with what is forgotten, gone with their events."""


class Outcome(NamedTuple):
    """What is journaled of one stage activation.

    Attributes:
        run_id: The run whose journal has it.
        key: Its key there.
        path: Its path from the root of the tree.
    """

    run_id: int
    key: str
    path: str


@final
@dataclass(frozen=True, slots=True)
class Redo:
    """Stage activations whose outcomes are to be forgotten, by their paths from the root of the tree.

    Attributes:
        paths: The activations that were meant.
        above: The runs and activations around them.
        outcomes: What is journaled of all of these.
        runs: Finished child runs that go on.
        trials: Sweeps (by run id) and the numbers of their trials that go on.

    Example:
        >>> redo = Redo(frozenset({"study/tune/Tune/load"}), frozenset({"study/tune/Tune", "study/tune", "study"}))
        >>> redo.stops("study/tune"), redo.stops("study/load"), redo.below("study/tune/Tune")
        (True, False, ['study/tune/Tune/load'])
    """

    paths: frozenset[str] = frozenset()
    above: frozenset[str] = frozenset()
    outcomes: tuple[Outcome, ...] = ()
    runs: tuple[int, ...] = ()
    trials: Mapping[int, frozenset[int]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.paths)

    def stops(self, path: str) -> bool:
        """Whether the activation at a path is not restored."""
        return path in self.paths or path in self.above

    def below(self, path: str) -> list[str]:
        """Return the activations inside a run or another activation that were meant, in order."""
        return sorted(one for one in self.paths if one.startswith(f"{path}/"))

    def forget(self, store: Store, root_id: int) -> None:
        """Queue the removal of the outcomes, so that this and any later session runs their stages."""
        for run_id, key, path in self.outcomes:
            journal, meant = Journal(store, run_id, root_id, fresh=True), path in self.paths
            notes = store.rows("SELECT key FROM journal WHERE run_id=? AND key>? AND key<?", (run_id, f"{key}!", f'{key}"'))
            for (note,) in notes if meant else ():
                journal.discard(note)
            journal.discard(key)
        for run_id in self.runs:
            store.add("UPDATE run SET status=? WHERE id=?", (Status.INTERRUPTED.value, run_id))
        for run_id, numbers in self.trials.items():
            journal = Journal(store, run_id, root_id, fresh=False)
            journal.put(_REOPENED, "redo", json.dumps(sorted(numbers | reopened(journal))))


def reopened(journal: Journal) -> frozenset[int]:
    """Return the numbers of a sweep's trials that a ``--redo`` has left to reopen, of this session or of one cut short.

    They are gone from the journal by the commit that follows, which is to have the events that reopen them.
    """
    entry = journal.get(_REOPENED)
    if entry is None or entry.value is None:
        return frozenset()
    journal.discard(_REOPENED)
    return frozenset(json.loads(entry.value))


def find_stages(store: Store, root: RunRow, texts: Iterable[str]) -> Redo:
    """Return the finished stages that a user means. A stage that is a pipeline means all stages in it.

    Args:
        store: Where the tree is.
        root: Its root.
        texts: Paths below the root, or their ends: a name stands for all its iterations, items and trials
            (``train``, ``tune/Tune/trial/train``), with a number for one of them (``trial[3]/train``).
            One that begins with the root's own name means exactly that place.

    Raises:
        UnknownName: No finished stage is called so.
        ConfigError: Several are, at different places; or one is in a trial that was cut short.
    """
    wanted = list(texts)
    if not wanted:
        return Redo()
    runs: dict[int, tuple[RunRow, str]] = {}
    for _, row in descendants(store, root):
        runs[row.id] = (row, row.segment if row.id == root.id else f"{runs[row.parent_id][1]}/{row.place}")
    finished = list(_outcomes(store, root, {number: path for number, (_, path) in runs.items()}))
    paths = frozenset(path for text in wanted for path in _meant(text.strip("/"), finished, root))
    above = frozenset(outer for path in paths for outer in _around(path))
    led_to = (one for one in finished if one.path in above and not one.key.endswith(_BRANCH))  # sides stay chosen
    outcomes = (*(one for one in finished if one.path in paths), *led_to)
    return Redo(paths, above, outcomes, *_reopened(row for row, path in runs.values() if path in above and row.id != root.id))


def _reopened(rows: Iterable[RunRow]) -> tuple[tuple[int, ...], dict[int, frozenset[int]]]:
    """Return the finished runs, and the trials by sweep, that are to go on.

    Raises:
        ConfigError: A trial was ended by a scheduler or the user: its end stands.
    """
    again: list[int] = []
    trials: dict[int, frozenset[int]] = {}
    for row in rows:
        if row.level == TRIAL and row.status in (Status.STOPPED, Status.ABORTED, Status.SKIPPED):
            raise ConfigError(
                f"--redo: {row.segment} was {row.status} ({row.reason}), so its stages are not run again; "
                "run it alone: sweep rerun"
            )
        if row.level == TRIAL:
            trials[row.parent_id] = trials.get(row.parent_id, frozenset()) | {row.number}
        elif row.status.ended:
            again.append(row.id)
    return tuple(again), trials


def _around(path: str) -> Iterator[str]:
    """Yield everything that a path is inside of; an item ``name[3]`` is inside of ``name``, too."""
    parts = path.split("/")
    for count in range(1, len(parts) + 1):
        outer = "/".join(parts[:count])
        if outer != path:
            yield outer
        if outer.endswith("]"):
            yield outer.rpartition("[")[0]


def _outcomes(store: Store, root: RunRow, paths: Mapping[int, str]) -> Iterator[Outcome]:
    """Yield what is journaled of the stages of a tree, in the order in which it was."""
    query = (
        "SELECT j.run_id, j.key FROM journal j JOIN run r ON r.id=j.run_id "  # noqa: S608  # words of our own
        f"WHERE (r.root_id=? OR r.id=?) AND j.kind IN {_KINDS} AND j.key NOT LIKE '~%' ORDER BY j.at"
    )
    for run_id, key in store.rows(query, (root.id, root.id)):
        yield Outcome(run_id, key, f"{paths[run_id]}/{key.removesuffix(_BRANCH)}")


def _meant(text: str, finished: list[Outcome], root: RunRow) -> Iterator[str]:
    parts = text.split("/")
    exactly = parts[0] in (root.segment, root.name) and len(parts) > 1
    parts = parts[1:] if exactly else parts
    found = [one for one in finished if _fits(parts, one.path.split("/")[1:], exactly)]
    found = [one for one in found if one.path.endswith(f"/{text}")] or found  # a number left out means all, or none
    places = dict.fromkeys(_place(one.path) for one in found)
    if not found:
        raise _unknown(text, finished, root)
    if len(places) > 1:
        listed = "\n".join(f"  --redo {place}" for place in places)
        raise ConfigError(f"--redo {text}: {len(places)} stages of {root.segment} are called so; name one:\n{listed}")
    for one in found:
        inside = (f"{one.key.removesuffix(_BRANCH)}/", f"{one.key}[")
        yield one.path
        yield from (other.path for other in finished if other.run_id == one.run_id and other.key.startswith(inside))


def _unknown(text: str, finished: list[Outcome], root: RunRow) -> UnknownName:
    known = {_place(one.path).partition("/")[2] for one in finished}
    ends = {name.rpartition("/")[2] for name in known} if "/" not in text else set()
    return UnknownName("stage", text, known | ends, f"--redo; finished stages of {root.segment}")


def _fits(parts: list[str], path: list[str], exactly: bool) -> bool:
    if len(parts) > len(path) or (exactly and len(parts) < len(path)):
        return False
    return all(one in (other, _NUMBER.sub("", other)) for one, other in zip(reversed(parts), reversed(path), strict=False))


def _place(path: str) -> str:
    """Return a path without the numbers of iterations, items and trials."""
    head, *rest = path.split("/")
    return "/".join([head, *(_NUMBER.sub("", part) for part in rest)])
