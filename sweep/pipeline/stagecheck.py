"""The check of one stage: where its parameters come from, whether its types fit, whether its hooks make sense."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, final

import typing_extensions

from sweep.context import Context
from sweep.errors import ContractError, did_you_mean, near_miss
from sweep.pipeline.annotations import Annotation, Record, describe, is_protocol, peel
from sweep.pipeline.contracts import MISSING, OutputContract, Parameter
from sweep.pipeline.known import Known, attributes_read
from sweep.pipeline.nodes import Each, Hooks, Ref, Stage, Through, unknown_hook
from sweep.pipeline.state import State
from sweep.pipeline.steps import Binding, Compiled, StageStep, Structure, Unit, text_of, unstorable
from sweep.pipeline.subtypes import Verdict, subtype
from sweep.pipeline.units import make_unit

__all__ = ["StageCheck", "as_several", "own_fields", "place_of", "runtime_of"]

_NAMELESS = [inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD]
_SEVERAL = ("before", "after", "metrics")
_OF_LEAVES = ("isolate", "resources")
"""Hooks that mean the functions a stage comes to, wherever they stand."""
_RUNTIME: Mapping[str, tuple[type, str]] = {"ctx": (Context, "context"), "state": (State, "state")}
"""Reserved names: what a parameter of that name gets, and the source of its binding."""


@final
class StageCheck:
    """Checks stages against what is known."""

    def __init__(self, known: Known) -> None:
        self.known = known

    def prepare(self, node: Stage, structure: Structure, *, in_parallel: bool = False) -> StageStep:
        """Check what a stage takes and returns; what it gives is not known yet."""
        self.known.unique("stage", node.name, node.where)
        place = place_of(node)
        hooks = self.merged(node)
        unit = self.unit(node.what, hooks, place)
        through = own_fields(node, unit) if in_parallel and node.through is None else node.through
        contract = self.contract(through, place)
        step = StageStep(node.name, unit, self.bind(node, unit, place), contract, hooks, node.where)
        self.in_order(unit, step.bindings, place)
        if contract is not None and "transform" not in hooks:
            self.returns(unit, contract, place)
        self.unreached(unit, node.settings, contract is not None or "transform" in hooks, place)
        self.leaves(node.hooks, unit, place)
        structure.append({"stage": node.name, "kind": unit.kind, "gives": text_of(step.contract), "is": unit.structure})
        return step

    def finish(self, node: Stage, step: StageStep) -> None:
        """Add what a prepared stage gives."""
        if step.contract is not None:
            self.known.give(step.contract, step.name, place_of(node), may_skip="skip_if" in step.hooks)
        self.hooks_of(node, step, place_of(node))

    def unit(self, what: object, hooks: dict[str, Any], place: str) -> Unit:
        """Return what a stage runs. The stages inside a sub-pipeline are wrapped by the global hooks, too, and by
        those of its own that are for leaves: an orchestrator holds nothing itself."""
        unit = make_unit(what, self.known.fields)
        if unit.kind != "function":
            theirs = {name: hooks.pop(name) for name in _OF_LEAVES if hooks.get(name)}
            inside = (*self.known.hooks, theirs) if theirs else self.known.hooks
            if unit.within is not None and inside:
                unit = replace(unit, nested=unit.within(inside))
        for text in (*unit.problems, *unit.signature.problems):
            self.known.problem(f"{place}: {text}")
        if not unit.signature.known:
            name = unit.signature.name
            self.known.problem(
                f"{place}: {name} does not tell its parameters (it is written in C), so nothing would be passed to it; "
                f"wrap it in a function that names them: lambda x: {name}(x)"
            )
        if unit.nested is not None:
            self.known.out.breakpoints += unit.nested.breakpoints
            self.known.out.caches += unit.nested.caches
            self.known.out.warnings += unit.nested.warnings
        return unit

    def leaves(self, given: Hooks, unit: Unit, place: str) -> None:
        """Refuse hooks for leaves where a stage has none of its own."""
        for name in _OF_LEAVES:
            if given.get(name) and unit.kind not in ("function", "pipeline"):
                self.known.problem(
                    f"{place}: {name}= is for functions and pipelines of them, not for a stage that is a {unit.kind}; "
                    f"with_global_hooks({name}={given[name]!r}) reaches every function inside"
                )

    # ------------------------------------------------------------ contract and hooks

    def merged(self, node: Stage) -> dict[str, Any]:
        """Return local hooks with the global ones in the place of their kind."""
        merged = as_several(node.hooks)
        for hooks in reversed(self.known.hooks):
            for name, value in as_several(hooks).items():
                if name in _SEVERAL:
                    own = merged.get(name, ())
                    merged[name] = (*value, *own) if name == "before" else (*own, *value)
                else:
                    merged.setdefault(name, value)
        return merged

    def contract(self, through: Through | None, place: str) -> OutputContract | None:
        if through is None or (through.model is None and not through.fields):
            return None
        try:
            return OutputContract(through.model, through.fields)
        except ContractError as error:
            for text in error.problems:
                self.known.problem(f"{place}: {text}")
            return None

    # ------------------------------------------------------------ types

    def returns(self, unit: Unit, contract: OutputContract, place: str) -> None:
        """Compare what the function says it returns with its contract."""
        given = unit.signature.returns
        if unit.nested is not None:
            self.nested(unit.nested, contract, place)
        if unit.nested is not None or given is MISSING or given is Any:
            return
        target = contract.model
        if target is None and len(contract.annotations) == 1:
            ((name, target),) = contract.annotations.items()
            if self.dictionary(given, contract, place):
                return
            label = f"field {name!r}: {describe(target)}"
        elif target is not None:
            label = describe(target)
            if _plain_mapping(given):
                return
        else:
            self.several(given, contract, place)
            return
        self.known.compare(given, target, f"{place}: it returns {describe(given)}, its contract is {label}")

    def nested(self, inner: Compiled, contract: OutputContract, place: str) -> None:
        """Compare what a sub-pipeline gives with what its stage's contract asks for."""
        self.by_name(inner.outputs, contract, f"{place}: the sub-pipeline", "field")
        for name in contract.annotations:
            if name in inner.maybe:
                text = f"{place}: field {name!r} of the sub-pipeline may be missing: it is of {inner.maybe[name]}"
                self.known.problem(text)

    def by_name(self, given: Mapping[str, Annotation], contract: OutputContract, giver: str, kind: str) -> None:
        """Compare named values with a contract, one by one."""
        for name, annotation in contract.annotations.items():
            if name not in given:
                self.known.problem(f"{giver} has no {kind} {name!r}{did_you_mean(name, given)}")
                continue
            text = f"{giver}: {kind} {name!r} is {describe(given[name])}, its contract is {describe(annotation)}"
            self.known.compare(given[name], annotation, text)

    def dictionary(self, given: Annotation, contract: OutputContract, place: str) -> bool:
        """Whether a dict-like return proves nothing under a field contract (checked key by key if it can be)."""
        if _plain_mapping(given):
            return True
        record, (name,) = Record.of(given), contract.annotations
        if record is None or not issubclass(record.cls, dict) or name not in record.fields:
            return False
        self.by_name(record.fields, contract, f"{place}: {describe(given)}", "key")
        return True

    def several(self, given: Annotation, contract: OutputContract, place: str) -> None:
        record = Record.of(given)
        if record is not None and issubclass(record.cls, dict):
            self.by_name(record.fields, contract, f"{place}: {describe(given)}", "key")
        elif subtype(given, Mapping) is Verdict.REFUTED:
            names = ", ".join(map(repr, contract.annotations))
            self.known.problem(
                f"{place}: it returns {describe(given)}, but several fields need a mapping with the keys {names}"
            )

    # ------------------------------------------------------------ binding

    def bind(self, node: Stage, unit: Unit, place: str) -> tuple[Binding, ...]:
        settings = dict(node.settings)
        found: list[Binding] = []
        lonely: list[Parameter] = []
        takes_any = False
        for parameter in unit.signature.parameters:
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                takes_any = True
            elif parameter.kind is not inspect.Parameter.VAR_POSITIONAL:
                binding = self.parameter(parameter, settings, place)
                if binding is None:
                    lonely.append(parameter)
                elif binding.source != "default":
                    found.append(binding)
        found += self.unbound(lonely, unit, place)
        contexts = [binding.parameter for binding in found if binding.source == "context"]
        if len(contexts) > 1:
            self.known.problem(f"{place}: {' and '.join(map(repr, contexts))} both take the Context; keep one")
        if takes_any:
            found += [self.setting(name, value, place) for name, value in settings.items()]
        else:
            taken = [parameter.name for parameter in unit.signature.parameters]
            for name in settings:
                hint = unknown_hook(name) or did_you_mean(name, taken)
                self.known.problem(f"{place}: {name!r} is no hook, no type, and no parameter of the stage{hint}")
        return tuple(found)

    def unreached(self, unit: Unit, settings: Mapping[str, object], taken: bool, place: str) -> None:
        """Refuse a generator function whose generator nobody takes; warn of a function to which nothing is passed."""
        name, kinds = unit.signature.name, [one.kind for one in unit.signature.parameters]
        if unit.kind == "function" and unit.signature.is_generator and not taken:
            self.known.problem(
                f"{place}: {name} is a generator function, of which nothing would run: nobody takes what it "
                "yields; let it return, or say what becomes of the items: .through(NAME=list[…])"
            )
        if kinds == _NAMELESS and not settings:
            self.known.warn(
                f"{place}: {name}(*args, **kwargs) names no parameter, so no field is passed to it; "
                "if it wraps another function, put functools.wraps(…) on it"
            )

    def in_order(self, unit: Unit, bindings: Sequence[Binding], place: str, taker: str = "") -> None:
        """Refuse a positional-only parameter behind one that may be left out: its value would slip into that place."""
        sources = {**{binding.parameter: binding.source for binding in bindings}, taker: "item"}
        left_out = ""
        for name in unit.positional:
            if left_out and name in sources:
                self.known.problem(
                    f"{place}: parameter {name!r} is positional-only, so it cannot be given without {left_out!r} before it, "
                    f"which nothing is sure to give; take the `/` out of {unit.signature.name}, or wrap it in a function"
                )
                return
            if sources.get(name, "maybe") == "maybe":
                left_out = left_out or name

    def parameter(self, parameter: Parameter, settings: dict[str, object], place: str) -> Binding | None:
        """Bind one parameter by the rules in their order; None if it is left over."""
        name, annotation = parameter.name, parameter.annotation
        if name in settings and peel(annotation) not in (Context, State):
            return self.setting(name, settings.pop(name), place, annotation)
        source = runtime_of(parameter)
        if source is not None:
            return Binding(name, source)
        if name in _RUNTIME and not parameter.has_default:
            self.known.problem(
                f"{place}: parameter {name!r} is {describe(annotation)}, but {name!r} is a reserved name: it gets the "
                f"{_RUNTIME[name][0].__name__}; call the parameter otherwise, or give it a value: settings={{{name!r}: …}}"
            )
            return Binding(name, "default")
        if name in self.known.fields:
            return self.field(parameter, place)
        model = self.model(annotation, name, place)
        if model is not None:
            return model
        if parameter.has_default:
            return (
                Binding(name, "maybe", name)
                if any(name in later for later in self.known.later)
                else Binding(name, "default")
            )
        return None

    def field(self, parameter: Parameter, place: str) -> Binding:
        name = parameter.name
        if name in self.known.unsure and not parameter.has_default:
            self.known.problem(
                f"{place}: parameter {name!r} needs the field of {self.known.unsure[name]}; "
                "give the parameter a default"
            )
        if parameter.annotation is not MISSING:
            given = self.known.fields[name]
            self.known.compare(
                given,
                parameter.annotation,
                f"{place}: parameter {name!r} is {describe(parameter.annotation)}, "
                f"but field {name!r} from {self.known.givers[name]} is {describe(given)}",
            )
        return Binding(name, "maybe" if name in self.known.unsure else "field", name)

    def model(self, annotation: Annotation, name: str, place: str) -> Binding | None:
        wanted = peel(annotation) if annotation is not MISSING else None
        if not isinstance(wanted, type):
            return None
        givers = [(model, giver) for model, all_ in self.known.models.items() if _is_a(model, wanted) for giver in all_]
        if not givers or Record.of(wanted) is None:
            return None
        unsure = givers[0][1].unsure
        if len(givers) > 1:
            names = " and ".join(repr(giver.name) for _, giver in givers)
            self.known.problem(
                f"{place}: parameter {name!r} is a {describe(wanted)}, which both {names} give; name a field instead"
            )
        elif unsure is not None:
            self.known.problem(
                f"{place}: parameter {name!r} needs the {describe(wanted)} of {unsure}; "
                "take the fields you need by name, with defaults"
            )
        return Binding(name, "model", givers[-1][0])

    def setting(self, name: str, value: object, place: str, annotation: Annotation = MISSING) -> Binding:
        if isinstance(value, Ref) or (name == "init_from" and isinstance(value, str) and value in self.known.fields):
            target = value.name if isinstance(value, Ref) else str(value)
            if target not in self.known.fields:
                self.known.problem(
                    f"{place}: setting {name}=ref({target!r}): no such field{did_you_mean(target, self.known.fields)}"
                )
            elif target in self.known.unsure:
                self.known.problem(f"{place}: setting {name}=ref({target!r}) needs the field of {self.known.unsure[target]}")
            elif annotation is not MISSING:
                given = self.known.fields[target]
                text = (
                    f"{place}: parameter {name!r} is {describe(annotation)}, but field {target!r} is {describe(given)}"
                )
                self.known.compare(given, annotation, text)
            return Binding(name, "field", target)
        return Binding(name, "constant", value)

    def unbound(self, parameters: list[Parameter], unit: Unit, place: str) -> list[Binding]:
        """What is left: one bare parameter takes the State, the rest are inputs of the pipeline."""
        bare = [parameter for parameter in parameters if parameter.annotation is MISSING]
        if len(bare) == 1 and len(parameters) == 1:
            name, meant = bare[0].name, near_miss(bare[0].name, self.known.given())
            if meant is None and not inspect.ismodule(getattr(unit.function, "__self__", None)):  # len, math.sin …
                return [Binding(name, "state")]
            builtin = unit.signature.name
            wrap = f"wrap {builtin} in a function that names the field it takes: lambda FIELD: {builtin}(FIELD)"
            hint = wrap if meant is None else f"did you mean {meant!r}? (`: State` insists)"
            self.known.problem(f"{place}: nothing gives parameter {name!r}; {hint}")
            return []
        for parameter in parameters:
            annotation = Any if parameter.annotation is MISSING else parameter.annotation
            self.known.add_input(parameter.name, annotation, f"{place}: parameter")
        return [Binding(parameter.name, "field", parameter.name) for parameter in parameters]

    # ------------------------------------------------------------ hooks

    def hooks_of(self, node: Stage, step: StageStep, place: str) -> None:
        """Find hooks that read what is not there, or ask for what cannot be."""
        if "skip_if" in step.hooks:
            self.known.predicate(f"{place}, skip_if", step.hooks["skip_if"], set())
        self.before(step, place)
        if node.hooks.get("checkpoint") is True and step.contract is None:
            self.known.problem(f"{place}: checkpoint=True needs a contract that says what to keep; add .through(…)")
        lost = unstorable(step.contract) if step.hooks.get("checkpoint") is True else ""
        if lost:
            self.known.problem(f"{place}: checkpoint=True cannot be kept: {lost} (checkpoint=False goes on in memory)")
        item = step.items.step.hooks if step.items is not None else {}
        for name, places in (("breakpoint", self.known.out.breakpoints), ("cache", self.known.out.caches)):
            if step.hooks.get(name) or item.get(name):
                places.append(place)

    def before(self, step: StageStep, place: str) -> None:
        """Find ``before`` hooks that read what only the stage itself gives."""
        own = () if step.contract is None else step.contract.annotations
        first = [name for name in own if self.known.givers.get(name, "").startswith(f"stage {step.name!r} ")]
        for hook in step.hooks.get("before", ()):
            wrong = [name for name in attributes_read(hook) if name in first]
            if wrong:
                self.known.problem(
                    f"{place}: its 'before' hook reads {wrong[0]!r}, which the stage itself gives; "
                    "move the hook to 'after', which gets the output"
                )


def as_several(hooks: Hooks) -> dict[str, Any]:
    """Return hooks with those in a tuple of which a stage may have several: local and global ones."""
    return {name: (value,) if name in _SEVERAL else value for name, value in hooks.items()}


def runtime_of(parameter: Parameter) -> str | None:
    """Return ``"context"`` or ``"state"`` for a parameter that gets one, by its annotation or else its name; else None."""
    for name, (kind, source) in _RUNTIME.items():
        if peel(parameter.annotation) is kind:
            return source
        bare = parameter.annotation is MISSING
        if parameter.name == name and (bare or subtype(kind, parameter.annotation) is not Verdict.REFUTED):
            return source
    return None


def place_of(node: Stage) -> str:
    """Return a stage's name and place for messages."""
    return f"{'map' if isinstance(node.what, Each) else 'stage'} {node.name!r} ({node.where})"


def own_fields(node: Stage, unit: Unit) -> Through | None:
    """Return the contract of a parallel stage that has none: a pipeline's fields, or the result under the stage's name."""
    if unit.nested is not None:
        return Through(None, {name: one for name, one in unit.nested.outputs.items() if name not in unit.nested.maybe})
    returns = unit.signature.returns
    if returns is None or returns is type(None):
        return None
    return Through(None, {node.name: Any if returns is MISSING else returns})


def _is_a(model: Annotation, wanted: type) -> bool:
    """Whether a contract's model is a ``wanted``; protocols and TypedDicts stand for themselves alone."""
    if model is wanted or is_protocol(wanted) or typing_extensions.is_typeddict(wanted):
        return model is wanted
    return isinstance(model, type) and issubclass(model, wanted)


def _plain_mapping(annotation: Annotation) -> bool:
    """Whether an annotation is a dict or Mapping without named keys."""
    origin = getattr(peel(annotation), "__origin__", peel(annotation))
    return isinstance(origin, type) and issubclass(origin, Mapping) and Record.of(annotation) is None
