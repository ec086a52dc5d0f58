"""The build: what every stage takes and gives, found before anything runs.

``compile_nodes`` walks the nodes once with the names known so far, binds every parameter,
compares types through the subtype table, and collects *all* problems. What comes out is
what the runner executes: steps with their bindings and contracts ready.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, final

from sweep.pipeline.annotations import Annotation, Record, describe, items_of, peel
from sweep.pipeline.contracts import MISSING, OutputContract, Parameter, Signature
from sweep.pipeline.known import Known
from sweep.pipeline.nodes import Branch, Each, Hooks, Loop, Node, Parallel, Side, Stage
from sweep.pipeline.stagecheck import StageCheck, as_several, own_fields, place_of, runtime_of
from sweep.pipeline.steps import (
    Binding,
    BranchStep,
    Compiled,
    ItemContract,
    Items,
    LoopStep,
    ParallelStep,
    StageStep,
    Step,
    Structure,
    Unit,
    result_names,
    text_of,
)
from sweep.pipeline.subtypes import Verdict, subtype
from sweep.pipeline.units import make_unit

__all__ = ["compile_nodes"]


def compile_nodes(
    nodes: Sequence[Node],
    *,
    declared: Mapping[str, Annotation] | None,
    known: Mapping[str, Annotation],
    hooks: Sequence[Hooks],
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
        self.maps = _MapCheck(self.check)

    def nodes(self, nodes: Sequence[Node], structure: Structure) -> tuple[Step, ...]:
        return tuple(self.node(node, structure) for node in nodes)

    def node(self, node: Node, structure: Structure) -> Step:
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

    def loop(self, node: Loop, structure: Structure) -> LoopStep:
        known, place = self.known, f"loop {node.name!r} ({node.where})"
        known.unique("loop", node.name, node.where)
        given = fields_of(node.body)
        known.predicate(place, node.predicate, given)
        inner: Structure = []
        structure.append({"loop": node.name, "body": inner})
        known.later.append(given)
        body = self.nodes(node.body, inner)
        known.later.pop()
        if not body:
            known.problem(f"{place} is empty; put stages between loop_while and end_loop")
        return LoopStep(node.name, node.predicate, node.max_iterations, body, node.where)

    def branch(self, node: Branch, structure: Structure) -> BranchStep:
        """Check both sides from the same start, and join what they give."""
        known, place = self.known, f"branch {node.name!r} ({node.where})"
        known.unique("branch", node.name, node.where)
        known.predicate(place, node.predicate, set())
        sides: dict[str, Structure] = {"then": [], "otherwise": []}
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

    def side(self, side: Side, structure: Structure, place: str) -> tuple[Step, ...]:
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

    def parallel(self, node: Parallel, structure: Structure) -> ParallelStep:
        """Check stages against the same start, then add what they give."""
        known, inner = self.known, Structure()
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


# ---------------------------------------------------------------- maps


@final
class _MapCheck:
    """Checks maps by means of the check of a stage."""

    def __init__(self, check: StageCheck) -> None:
        self.check = check
        self.known = check.known

    def prepare(self, node: Stage, each: Each, structure: Structure) -> StageStep:
        """Check a map; what it gives is not known yet."""
        self.known.unique("map", node.name, node.where)
        place, hooks = place_of(node), self.check.merged(node)
        per_item = {name: hooks.pop(name) for name in ("isolate", "resources") if name in hooks} | as_several(each.hooks)
        given = {**node.hooks, **each.hooks}
        unit = self.check.unit(each.what, per_item, place)
        self.check.leaves(given, unit, place)
        contract = self.check.contract(node.through, place)
        item_contract = None if "transform" in hooks else self.item_contract(contract, each, place)
        if item_contract is not None and "transform" not in per_item:
            self.returns(unit, item_contract, place)
        settings = {**node.settings, **each.settings}
        taker = self.taker(unit, settings, place)
        self.over(each, taker, place)
        rest = tuple(one for one in unit.signature.parameters if one is not taker)
        without = replace(unit, signature=replace(unit.signature, parameters=rest))
        bindings = self.check.bind(replace(node, settings=settings), without, place)
        self.check.unreached(unit, settings, contract is not None or "transform" in (*hooks, *per_item), place)
        self.check.in_order(unit, bindings, place, "" if taker is None else taker.name)
        item = StageStep(
            node.name,
            unit,
            bindings,
            None,
            per_item,
            node.where,
            item_contract=item_contract,
            is_item=True,
            keeps_value=contract is not None,
        )
        items = Items(item, each.over, "" if taker is None else taker.name, each.concurrency, each.goes_on)
        whole = self.whole(node, each, unit)
        shared = (Binding(each.over, "field", each.over), *(one for one in bindings if one.source != "context"))
        structure.append({"stage": node.name, "kind": "map", "gives": text_of(contract), "is": whole.structure})
        return StageStep(node.name, whole, shared, contract, hooks, node.where, items=items)

    def whole(self, node: Stage, each: Each, unit: Unit) -> Unit:
        """Return the map as what a stage runs; its items run ``unit``."""
        signature = Signature(node.name, (), MISSING, "", True, False, True, ())
        structure = {"over": each.over, "kind": unit.kind, "is": unit.structure}
        return Unit("map", unit.function, signature, structure=structure, code=unit.code)

    def returns(self, unit: Unit, contract: ItemContract, place: str) -> None:
        """Compare what an item gives with the contract of one result."""
        given = unit.signature.returns
        if unit.nested is not None:
            names = result_names(unit.nested.steps)
            given = unit.nested.outputs[names[0]] if len(names) == 1 else dict[str, Any] if names else None
        if given is not MISSING and given is not Any:
            text = f"an item gives {describe(given)}, its contract is {describe(contract.annotation)}"
            self.known.compare(given, contract.annotation, f"{place}: {text}")

    def taker(self, unit: Unit, settings: Mapping[str, object], place: str) -> Parameter | None:
        """Return the parameter that takes the item: the only one that nothing else gives, or ``item``, or the first."""
        takers = (one for one in unit.signature.parameters if not one.variadic and runtime_of(one) is None)
        free = [one for one in takers if one.name not in settings]
        unbound = [one for one in free if one.name not in self.known.fields and not one.has_default]
        named = [one for one in free if one.name == "item"]
        if unbound or named or len(free) == 1:
            return (unbound if len(unbound) == 1 else named or unbound or free)[0]
        names = ", ".join(one.name for one in unit.signature.parameters) or "none"
        self.known.problem(
            f"{place}: no parameter is left for the item (parameters: {names}; fields give the others); call one `item`"
        )
        return None

    def over(self, each: Each, chosen: Parameter | None, place: str) -> None:
        """Compare the items with the parameter that takes one."""
        known, name = self.known, each.over
        if name not in known.fields:
            known.add_input(name, Any, f"{place}: over")
            return
        if name in known.unsure:
            known.problem(f"{place}: over={name!r} needs the field of {known.unsure[name]}")
        given = known.fields[name]
        if peel(given) is not Any and subtype(given, Iterable) is Verdict.REFUTED:
            known.problem(
                f"{place}: over={name!r}: {describe(given)} from {known.givers[name]} has no items; name a sequence"
            )
        elif chosen is not None and chosen.annotation is not MISSING:
            for item in items_of(peel(given)):
                known.compare(
                    item,
                    chosen.annotation,
                    f"{place}: parameter {chosen.name!r} is {describe(chosen.annotation)}, "
                    f"but an item of {name!r} from {known.givers[name]} is {describe(item)}",
                )

    def item_contract(self, contract: OutputContract | None, each: Each, place: str) -> ItemContract | None:
        """Return the contract of one item, read off the contract of all results."""
        if contract is None:
            return None
        if contract.model is not None or len(contract.annotations) != 1:
            self.known.problem(f"{place}: a map gives one field, the results in order: .through(results=list[…])")
            return None
        ((name, annotation),) = contract.annotations.items()
        if subtype(list[Any], annotation) is Verdict.REFUTED:
            self.known.problem(f"{place}: a map gives a list, its contract is field {name!r}: {describe(annotation)}")
            return None
        found = items_of(peel(annotation)) if peel(annotation) is not Any else (Any,)
        one = found[0] if len(found) == 1 and found[0] is not object else Any
        if each.goes_on and subtype(None, one) is not Verdict.PROVEN:
            self.known.problem(
                f"{place}: on_failure='continue' makes a failed item None, but field {name!r} is {describe(annotation)}; "
                f"write list[{describe(one)} | None]"
            )
        return ItemContract(name, one)
