"""The plan of a resume: the journal read against the pipeline, by the rules by which the runner restores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import final

from sweep.fingerprint import Fingerprinter
from sweep.pipeline.durable import Opened
from sweep.pipeline.records import ATTEMPTS, UNSTORED, code_text, kept
from sweep.pipeline.request import Plan, PlanLine, Planned
from sweep.pipeline.runner import reached
from sweep.pipeline.runtime import Handle
from sweep.pipeline.steps import BranchStep, Compiled, Items, LoopStep, StageStep, Step
from sweep.store.journal import Entry
from sweep.store.runs import RunRow, children
from sweep.tracker.stream import say
from sweep.trial import Status

__all__ = ["announce", "lines_inside", "plan_of"]


def announce(opened: Opened, plan: Plan) -> None:
    """Say a requested resume's plan; a dry run ends here.

    Raises:
        Planned: It is a dry run.
    """
    if opened.request is not None and opened.request.dry_run:
        raise Planned(plan)
    if not opened.finished:
        for line in str(plan).splitlines():
            say(line)


def plan_of(compiled: Compiled, opened: Opened) -> Plan:
    """Return what a resume of a pipeline's run does, a line for each stage."""
    handle = opened.handle
    if opened.finished:
        lines: tuple[PlanLine, ...] = (PlanLine("everything", "finished", "nothing runs; the result is read"),)
    else:
        lines = tuple(_Walk(handle, Fingerprinter()).steps(compiled.steps, "", ""))
    return Plan(handle.run_id, handle.path, lines)


@final
@dataclass(frozen=True, slots=True)
class _Walk:
    """One pass over the steps of a run."""

    handle: Handle
    fingerprints: Fingerprinter
    anew: dict[str, str] = field(default_factory=dict)
    """Fields that stages give anew because of ``--redo``, and whose they are."""

    def path(self, key: str) -> str:
        return f"{self.handle.path}/{key}"

    def kept(self, step: StageStep, key: str) -> Entry | None:
        return None if self.handle.redo.stops(self.path(key)) else kept(step, key, self.handle)

    def outdated(self, step: StageStep) -> str:
        """Return a note for a restored stage whose output was made of what is made anew now."""
        takes = [one.key for one in step.bindings if one.source in ("field", "maybe") and one.key in self.anew]
        if not takes:
            return ""
        return f"made of the {takes[0]!r} before; --redo {step.name} makes it of what {self.anew[takes[0]]} gives now"

    def steps(self, steps: Sequence[Step], prefix: str, suffix: str) -> Iterator[PlanLine]:
        for step in steps:
            if isinstance(step, StageStep):
                yield from self.stage(step, f"{prefix}{step.name}{suffix}")
            elif isinstance(step, LoopStep):
                yield from self.loop(step, prefix, suffix)
            elif isinstance(step, BranchStep):
                yield from self.branch(step, f"{prefix}{step.name}{suffix}")
            else:
                yield from self.steps(step.stages, prefix, suffix)

    def branch(self, step: BranchStep, key: str) -> Iterator[PlanLine]:
        """Yield the lines of the side that was taken."""
        entry = None if self.path(key) in self.handle.redo.paths else self.handle.journal.get(f"{key}!branch")
        if entry is None:
            yield PlanLine(key, "runs", "its predicate says which side")
        else:
            yield from self.steps(step.then if entry.value == "then" else step.otherwise, f"{key}/", "")

    def items(self, items: Items, key: str) -> Iterator[PlanLine]:
        """Yield a line for the items that are restored, and what there is of those that are not."""
        below = {one for one in self.handle.journal if one.startswith(f"{key}[")}
        done = {one for one in below if one.endswith("]") and self.kept(items.step, one) is not None}
        if done:
            yield PlanLine(f"{key}[]", "restored", f"{len(done)} item{'s' if len(done) != 1 else ''}")
        if items.step.unit.nested is not None:
            begun = {one[: one.index("]", len(key)) + 1] for one in below} - done
            for one in sorted(begun, key=lambda text: int(text[len(key) + 1 : -1])):
                yield from self.steps(items.step.unit.nested.steps, f"{one}/", "")

    def stage(self, step: StageStep, key: str) -> Iterator[PlanLine]:
        entry = self.kept(step, key)
        if entry is not None:
            changed = self.changed(step, entry.code)
            note = f"its code has changed; the saved output is used, --redo {step.name} does it again" if changed else ""
            yield PlanLine(key, "restored", note or self.outdated(step), changed)
            return
        if self.handle.redo.stops(self.path(key)):
            self.anew.update({} if step.contract is None else dict.fromkeys(step.contract.fields, step.name))
        found = self.handle.journal.get(key)
        if found is not None and found.kind == "skipped":
            yield PlanLine(key, "skipped")
            return
        yield self.again(step, key, None if found is None else found.kind)
        if step.items is not None:
            yield from self.items(step.items, key)
        if step.unit.nested is not None:
            yield from self.steps(step.unit.nested.steps, f"{key}/", "")
        for row in children(self.handle.store, self.handle.run_id):
            if row.stage == key:
                yield _child_line(self.handle, row)
                yield from lines_inside(self.handle, row.place)

    def again(self, step: StageStep, key: str, kind: str | None) -> PlanLine:
        """Return the line of a stage that is not restored."""
        tried = self.handle.journal.get(f"{key}!{ATTEMPTS}")
        inside = self.handle.redo.below(self.path(key))
        if self.path(key) in self.handle.redo.paths:
            return PlanLine(key, "runs again", "--redo")
        if inside:
            return PlanLine(key, "runs again", f"it leads to {inside[0].removeprefix(self.path(key))[1:]}")
        if not step.checkpointed:
            return PlanLine(key, "runs again", "its output is not kept: checkpoint=False")
        if kind == UNSTORED:
            return PlanLine(key, "runs again", "its output could not be stored")
        if self.handle.journal.get(f"{key}!saved") is not None:
            return PlanLine(key, "goes on", "from what it saved: ctx.load()")
        if tried is not None and tried.value is not None:
            return PlanLine(key, "runs again", f"attempt {int(tried.value) + 1}")
        return PlanLine(key, "runs")

    def changed(self, step: StageStep, code: int | None) -> bool:
        """Whether a stage's code is another than that which made its saved output."""
        if code is None or not step.unit.code:
            return False
        row = self.handle.store.row("SELECT hash FROM definition WHERE id=?", (code,))
        return row is not None and row[0] != code_text(step, self.fingerprints)

    def loop(self, step: LoopStep, prefix: str, suffix: str) -> Iterator[PlanLine]:
        mark = self.handle.journal.get(f"{prefix}{step.name}{suffix}!loop")
        whole = int(mark.value) if mark is not None and mark.value is not None else None
        index, done, rest = 0, 0, list[PlanLine]()
        while index < whole if whole is not None else self.begun(step, prefix, suffix, index):
            lines = list(self.steps(step.body, prefix, _inner(suffix, index)))
            plain = all(line.action in ("restored", "skipped") and not line.changed for line in lines)
            if plain and not rest:
                done += 1
            else:
                rest += lines
            index += 1
        if done:
            yield PlanLine(f"{prefix}{step.name}{suffix}", "restored", f"{done} iteration{'s' if done != 1 else ''}")
        yield from rest
        if whole is None:
            yield PlanLine(f"{prefix}{step.name}{suffix}", "goes on", f"at iteration {index}, if its predicate holds")

    def begun(self, step: LoopStep, prefix: str, suffix: str, index: int) -> bool:
        return reached(step.body, prefix, _inner(suffix, index), self.handle)


def _inner(suffix: str, index: int) -> str:
    return f"{suffix}.{index}" if suffix else f"#{index}"


def lines_inside(parent: Handle, place: str) -> Iterator[PlanLine]:
    """Yield a line for each stage that ``--redo`` means inside a child run or a trial."""
    for path in parent.redo.below(f"{parent.path}/{place}"):
        yield PlanLine(path.removeprefix(f"{parent.path}/"), "runs again", "--redo")


def _child_line(parent: Handle, row: RunRow) -> PlanLine:
    """Return the line of a child run below a stage that runs again."""
    if row.status is Status.COMPLETED and f"{parent.path}/{row.place}" not in parent.redo.above:
        return PlanLine(row.place, "restored", _rolled_up(parent, row))
    return PlanLine(row.place, "goes on", _rolled_up(parent, row) or "its finished stages are restored")


def _rolled_up(parent: Handle, row: RunRow) -> str:
    """Return the statuses of a run's children in a few words."""
    query = "SELECT status, count(*) FROM run WHERE parent_id=? GROUP BY status ORDER BY status"
    return ", ".join(f"{count} {status}" for status, count in parent.store.rows(query, (row.id,)))
