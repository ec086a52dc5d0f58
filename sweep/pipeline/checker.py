"""The build: what every stage takes and gives, found before anything runs.

``compile_nodes`` walks the nodes once with the names known so far, binds every parameter,
compares types through the subtype table, and collects *all* problems. What comes out is
what the runner executes: steps with their bindings and contracts ready.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, final

from sweep.pipeline.annotations import Record, describe
from sweep.pipeline.known import Known
from sweep.pipeline.mapcheck import MapCheck
from sweep.pipeline.nodes import Branch, Each, Loop, Node, Parallel, Side
from sweep.pipeline.stagecheck import StageCheck, own_fields
from sweep.pipeline.steps import BranchStep, Compiled, LoopStep, ParallelStep, Step
from sweep.pipeline.units import make_unit

__all__ = ["compile_nodes"]


def compile_nodes(
    nodes: Sequence[Node],
    *,
    declared: Mapping[str, Any] | None,
    known: Mapping[str, Any],
    hooks: Sequence[Mapping[str, Any]],
) -> Compiled:
    """Check nodes and make them ready to run.

    Args:
        nodes: As built.
        declared: Declared inputs, or None if inputs are found out.
        known: Fields that surround the pipeline (an experiment's), by annotation.
        hooks: Global hooks, outermost first.
    """
    now = Known(declared, hooks)
    for name, annotation in {**known, **(declared or {})}.items():
        now.add_field(name, annotation, "inputs")
    now.out.inputs.update(declared or {})
    now.out.steps = _Walk(now).nodes(nodes, now.out.structure)
    now.out.maybe = {name: why for name, why in now.unsure.items() if name in now.out.outputs}
    return now.out


@final
class _Walk:
    """One pass over the nodes."""

    def __init__(self, known: Known) -> None:
        self.known = known
        self.check = StageCheck(known)
        self.maps = MapCheck(self.check)

    def nodes(self, nodes: Sequence[Node], structure: list[Any]) -> tuple[Step, ...]:
        return tuple(self.node(node, structure) for node in nodes)

    def node(self, node: Node, structure: list[Any]) -> Step:
        if isinstance(node, Loop):
            return self.loop(node, structure)
        if isinstance(node, Branch):
            return self.branch(node, structure)
        if isinstance(node, Parallel):
            return self.parallel(node, structure)
        step = (
            self.maps.prepare(node, node.what, structure)
            if isinstance(node.what, Each)
            else self.check.prepare(node, structure)
        )
        self.check.finish(node, step)
        return step

    def loop(self, node: Loop, structure: list[Any]) -> LoopStep:
        known, place = self.known, f"loop {node.name!r} ({node.where})"
        known.unique("loop", node.name, node.where)
        given = fields_of(node.body)
        known.predicate(place, node.predicate, given)
        inner: list[Any] = []
        structure.append({"loop": node.name, "body": inner})
        known.later.append(given)
        body = self.nodes(node.body, inner)
        known.later.pop()
        if not body:
            known.problem(f"{place} is empty; put stages between loop_while and end_loop")
        return LoopStep(node.name, node.predicate, node.max_iterations, body, node.where)

    def branch(self, node: Branch, structure: list[Any]) -> BranchStep:
        """Check both sides from the same start, and join what they give."""
        known, place = self.known, f"branch {node.name!r} ({node.where})"
        known.unique("branch", node.name, node.where)
        known.predicate(place, node.predicate, set())
        sides: dict[str, list[Any]] = {"then": [], "otherwise": []}
        structure.append({"branch": node.name, **sides})
        start = known.moment()
        then = self.side(node.then, sides["then"], place)
        after = known.moment()
        if not then:
            known.problem(
                f"{place}: its then side is empty; give it the stages, and turn the predicate round if need be"
            )
        known.back_to(start)
        otherwise = self.side(node.otherwise, sides["otherwise"], place)
        known.join(after, known.moment(), node.name)
        return BranchStep(node.name, node.predicate, then, otherwise, node.where)

    def side(self, side: Side, structure: list[Any], place: str) -> tuple[Step, ...]:
        """Check one side; its names are its own, its global hooks are inside ours."""
        known = self.known
        for name, annotation in (side.declared or {}).items():
            if name in known.fields:
                text = f"{place}: its input {name!r} is {describe(annotation)}, but field {name!r} from "
                known.compare(
                    known.fields[name], annotation, f"{text}{known.givers[name]} is {describe(known.fields[name])}"
                )
            else:
                known.add_input(name, annotation, f"{place}: input")
        names, hooks = known.names, known.hooks
        known.names, known.hooks = set(), (*hooks, side.hooks) if side.hooks else hooks
        try:
            return self.nodes(side.nodes, structure)
        finally:
            known.names, known.hooks = names, hooks

    def parallel(self, node: Parallel, structure: list[Any]) -> ParallelStep:
        """Check stages against the same start, then add what they give."""
        known, inner = self.known, list[Any]()
        structure.append({"parallel": "+".join(stage.name for stage in node.stages), "body": inner})
        before = set(known.out.inputs)
        steps = [self.check.prepare(stage, inner, in_parallel=True) for stage in node.stages]
        read = set(known.out.inputs) - before
        givers: dict[str, str] = {}
        for stage, step in zip(node.stages, steps, strict=True):
            names = {} if step.contract is None else step.contract.annotations
            for name in names:
                if name in givers:
                    known.problem(
                        f"parallel ({node.where}): field {name!r} is given by {givers[name]!r} and by {step.name!r}, which run "
                        "at once; give one of them another name"
                    )
                elif name in read:
                    known.problem(
                        f"parallel ({node.where}): a stage takes {name!r}, which its sibling {step.name!r} gives at the same "
                        f"time; put that one before, or declare the input that both mean: Pipeline({name}=…)"
                    )
            givers.update(dict.fromkeys(names, step.name))
            self.check.finish(stage, step)
        return ParallelStep(tuple(steps), node.where)


def fields_of(nodes: Sequence[Node]) -> set[str]:
    """Return the names of all fields that nodes give."""
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, Loop):
            names |= fields_of(node.body)
        elif isinstance(node, Branch):
            names |= fields_of((*node.then.nodes, *node.otherwise.nodes))
        elif isinstance(node, Parallel):
            bare = [one for one in node.stages if one.through is None]
            own = [own_fields(one, make_unit(one.what, {})) for one in bare]
            names |= fields_of([replace(one, through=found) for one, found in zip(bare, own, strict=True)])
            names |= fields_of([one for one in node.stages if one.through is not None])
        elif node.through is not None:
            names |= set(node.through.fields)
            record = None if node.through.model is None else Record.of(node.through.model)
            names |= set(record.fields) if record is not None else set()
    return names
