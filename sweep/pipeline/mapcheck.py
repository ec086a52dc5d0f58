"""The check of a map: what an item takes and returns, and the contract of all results."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, final

from sweep.pipeline.annotations import describe, items_of, peel
from sweep.pipeline.contracts import MISSING, OutputContract, Parameter, Signature
from sweep.pipeline.nodes import Each, Stage
from sweep.pipeline.stagecheck import StageCheck, place_of, runtime_of
from sweep.pipeline.steps import Binding, ItemContract, Items, StageStep, result_names, text_of
from sweep.pipeline.subtypes import Verdict, subtype
from sweep.pipeline.units import Unit

__all__ = ["MapCheck"]


@final
class MapCheck:
    """Checks maps by means of the check of a stage."""

    def __init__(self, check: StageCheck) -> None:
        self.check = check
        self.known = check.known

    def prepare(self, node: Stage, each: Each, structure: list[Any]) -> StageStep:
        """Check a map; what it gives is not known yet."""
        self.known.unique("map", node.name, node.where)
        place, hooks = place_of(node), self.check.merged(node)
        per_item = {name: hooks.pop(name) for name in ("isolate", "resources") if name in hooks} | dict(each.hooks)
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

    def taker(self, unit: Unit, settings: Mapping[str, Any], place: str) -> Parameter | None:
        """Return the parameter that takes the item: the only one that nothing else gives, or ``item``, or the first."""
        variadic = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
        free = [
            one
            for one in unit.signature.parameters
            if one.kind not in variadic
            and one.name not in settings
            and runtime_of(one) is None
        ]
        unbound = [one for one in free if one.name not in self.known.fields and not one.has_default]
        named = [one for one in free if one.name == "item"]
        if len(unbound) == 1 or len(free) == 1 or (named and named[0] not in unbound):
            return (unbound if len(unbound) == 1 else named or free)[0]
        if unbound:
            return next((one for one in unbound if one.name == "item"), unbound[0])
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
