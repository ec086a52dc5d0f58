"""The build: what every stage takes and gives, found before anything runs.

``compile_nodes`` walks the nodes once with the names known so far, binds every parameter,
compares types through the subtype table, and collects *all* problems. What comes out is
what the runner executes: steps with their bindings and contracts ready.
"""

from __future__ import annotations

import dis
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, final

import typing_extensions

from sweep.context import Context
from sweep.errors import ContractError, did_you_mean, near_miss
from sweep.pipeline.annotations import Record, describe, is_protocol, peel
from sweep.pipeline.contracts import MISSING, FieldContract, OutputContract, Parameter
from sweep.pipeline.nodes import Loop, Node, Ref, Stage, unknown_hook
from sweep.pipeline.state import State
from sweep.pipeline.subtypes import Verdict, subtype
from sweep.pipeline.units import Unit, make_unit

__all__ = ["Binding", "Compiled", "LoopStep", "StageStep", "compile_nodes"]


@final
@dataclass(frozen=True, slots=True)
class Binding:
    """Where one parameter's value comes from.

    ``source`` is one of constant, field, maybe (a field that may be missing, else the
    default), model, state, context.
    """

    parameter: str
    source: str
    key: Any = None


@final
@dataclass(slots=True)
class StageStep:
    """A stage ready to run."""

    name: str
    unit: Unit
    bindings: tuple[Binding, ...]
    contract: OutputContract | None
    hooks: Mapping[str, Any]
    where: str
    call: Any = None
    code: str | None = None
    warned: bool = False
    classes: Any = None
    checkpointed: bool = field(init=False, default=True)
    context_name: str | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.checkpointed = bool(self.hooks.get("checkpoint", True))
        names = [binding.parameter for binding in self.bindings if binding.source == "context"]
        self.context_name = names[0] if names else None


@final
@dataclass(slots=True)
class LoopStep:
    """A loop ready to run."""

    name: str
    predicate: Callable[..., Any]
    max_iterations: int | None
    body: tuple[StageStep | LoopStep, ...]
    where: str


Step = StageStep | LoopStep


@final
@dataclass(slots=True)
class Compiled:
    """A checked pipeline: what the runner runs.

    Attributes:
        inputs: Required inputs and their annotations.
        outputs: Fields that the stages give.
        contracts: The contract of every field.
        problems: What is wrong; empty if it may run.
        warnings: What could not be proved.
        structure: Names, kinds and contracts as JSON data: identity.
        hooks: The global hooks it was compiled within, outermost first.
    """

    steps: tuple[Step, ...] = ()
    inputs: dict[str, Any] = field(default_factory=dict)
    outputs: dict[str, Any] = field(default_factory=dict)
    contracts: dict[str, FieldContract] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    structure: list[Any] = field(default_factory=list)
    hooks: tuple[Mapping[str, Any], ...] = ()


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
    walk = _Walk(declared, known, hooks)
    for name, annotation in {**known, **(declared or {})}.items():
        walk.add_field(name, annotation, "inputs")
    walk.out.inputs.update(declared or {})
    walk.out.steps = tuple(walk.nodes(nodes, walk.out.structure))
    return walk.out


class _Walk:
    """One pass over the nodes; holds what is known so far."""

    def __init__(
        self, declared: Mapping[str, Any] | None, known: Mapping[str, Any], hooks: Sequence[Mapping[str, Any]]
    ) -> None:
        self.declared, self.hooks = declared, hooks
        self.out = Compiled(hooks=tuple(hooks))
        self.fields: dict[str, Any] = {}
        self.givers: dict[str, str] = {}
        self.models: dict[type, list[StageStep]] = {}
        self.skippable: dict[str, str] = {}
        self.names: set[str] = set()
        self.found: set[str] = set()
        self.later: list[set[str]] = []

    # ------------------------------------------------------------ names

    def add_field(self, name: str, annotation: Any, giver: str) -> None:
        earlier = self.fields.get(name, MISSING)
        if earlier is Any and name in self.found:  # an input whose type nobody has said before
            self.out.inputs[name], self.givers[name] = annotation, giver
        elif earlier is not MISSING and earlier != annotation:
            self.problem(
                f"field {name!r} is {describe(earlier)} from {self.givers[name]} and {describe(annotation)} from {giver}; "
                "a field keeps its type: use one annotation, or two names"
            )
            return
        self.fields[name], self.givers[name] = annotation, giver
        self.out.contracts[name] = FieldContract(name, annotation)

    def problem(self, text: str) -> None:
        self.out.problems.append(text)

    def warn(self, text: str) -> None:
        self.out.warnings.append(text)

    def unique(self, kind: str, name: str, where: str) -> None:
        if name in self.names:
            self.problem(f"{kind} {name!r} ({where}): the name is taken; names are unique in their pipeline")
        self.names.add(name)

    # ------------------------------------------------------------ nodes

    def nodes(self, nodes: Sequence[Node], structure: list[Any]) -> list[Step]:
        return [self.loop(node, structure) if isinstance(node, Loop) else self.stage(node, structure) for node in nodes]

    def loop(self, node: Loop, structure: list[Any]) -> LoopStep:
        self.unique("loop", node.name, node.where)
        self.predicate(f"loop {node.name!r} ({node.where})", node.predicate, fields_of(node.body))
        inner: list[Any] = []
        structure.append({"loop": node.name, "body": inner})
        self.later.append(fields_of(node.body))
        body = self.nodes(node.body, inner)
        self.later.pop()
        if not body:
            self.problem(f"loop {node.name!r} ({node.where}) is empty; put stages between loop_while and end_loop")
        return LoopStep(node.name, node.predicate, node.max_iterations, tuple(body), node.where)

    def predicate(self, place: str, predicate: Callable[..., Any], later: set[str]) -> None:
        """Find fields that a predicate reads and nobody gives."""
        for name in attributes_read(predicate):
            if name in self.fields:
                continue
            if name in later:
                self.problem(
                    f"{place}: the predicate reads {name!r}, which only the loop's own body gives; "
                    "give a start value (an input or a field of the experiment)"
                )
            elif near_miss(name, self.given()) or self.declared is not None:
                self.problem(
                    f"{place}: the predicate reads {name!r}, which nobody gives{did_you_mean(name, self.fields)}"
                )
            else:
                self.add_input(name, Any, place)

    def stage(self, node: Stage, structure: list[Any]) -> StageStep:
        self.unique("stage", node.name, node.where)
        place = f"stage {node.name!r} ({node.where})"
        unit = make_unit(node.what, self.fields)
        if unit.within is not None and self.hooks:
            unit = replace(unit, nested=unit.within(self.hooks))
        for text in (*unit.problems, *unit.signature.problems):
            self.problem(f"{place}: {text}")
        contract = self.contract(node, place)
        bindings = self.bind(node, unit, place)
        step = StageStep(node.name, unit, bindings, contract, self.merged(node), node.where)
        if contract is not None:
            if "transform" not in step.hooks:
                self.returns(unit, contract, place)
            self.give(contract, step, place)
        self.hooks_of(node, step, place)
        structure.append({"stage": node.name, "kind": unit.kind, "gives": text_of(contract), "is": unit.structure})
        return step

    def merged(self, node: Stage) -> dict[str, Any]:
        """Return local hooks with the global ones in the place of their kind."""
        merged = dict(node.hooks)
        for hooks in reversed(self.hooks):
            for name, value in hooks.items():
                if name in ("before", "after", "metrics"):
                    own = merged.get(name, ())
                    own = own if isinstance(own, tuple) else (own,)
                    merged[name] = (value, *own) if name == "before" else (*own, value)
                else:
                    merged.setdefault(name, value)
        return merged

    def contract(self, node: Stage, place: str) -> OutputContract | None:
        through = node.through
        if through is None or (through.model is None and not through.fields):
            return None
        try:
            return OutputContract(through.model, through.fields)
        except ContractError as error:
            for text in error.problems:
                self.problem(f"{place}: {text}")
            return None

    def give(self, contract: OutputContract, step: StageStep, place: str) -> None:
        for name, annotation in contract.annotations.items():
            if "skip_if" not in step.hooks:
                self.skippable.pop(name, None)
            elif name not in self.fields:
                self.skippable[name] = step.name
            self.add_field(name, annotation, place)
            self.out.outputs[name] = annotation
        if contract.model is not None:
            self.models.setdefault(contract.model, []).append(step)

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
        self.compare(given, target, f"{place}: it returns {describe(given)}, its contract is {label}")

    def nested(self, inner: Compiled, contract: OutputContract, place: str) -> None:
        """Compare what a sub-pipeline gives with what its stage's contract asks for."""
        for name, annotation in contract.annotations.items():
            if name not in inner.outputs:
                self.problem(f"{place}: the sub-pipeline has no field {name!r}{did_you_mean(name, inner.outputs)}")
                continue
            given = inner.outputs[name]
            text = f"{place}: field {name!r} of the sub-pipeline is {describe(given)}, its contract is {describe(annotation)}"
            self.compare(given, annotation, text)

    def dictionary(self, given: Any, contract: OutputContract, place: str) -> bool:
        """Whether a dict-like return proves nothing under a field contract (checked key by key if it can be)."""
        if _plain_mapping(given):
            return True
        record = Record.of(given)
        ((name, annotation),) = contract.annotations.items()
        if record is None or not issubclass(record.cls, dict) or name not in record.fields:
            return False
        self.compare(
            record.fields[name],
            annotation,
            f"{place}: key {name!r} of {describe(given)} does not fit {describe(annotation)}",
        )
        return True

    def several(self, given: Any, contract: OutputContract, place: str) -> None:
        record = Record.of(given)
        if record is not None and issubclass(record.cls, dict):
            for name, annotation in contract.annotations.items():
                if name not in record.fields:
                    self.problem(f"{place}: {describe(given)} has no key {name!r}{did_you_mean(name, record.fields)}")
                    continue
                self.compare(
                    record.fields[name],
                    annotation,
                    f"{place}: key {name!r} of {describe(given)} does not fit {describe(annotation)}",
                )
            return
        if subtype(given, Mapping) is Verdict.REFUTED:
            names = ", ".join(map(repr, contract.annotations))
            self.problem(
                f"{place}: it returns {describe(given)}, but several fields need a mapping with the keys {names}"
            )

    def compare(self, given: Any, wanted: Any, text: str) -> None:
        verdict = subtype(given, wanted)
        if verdict is Verdict.REFUTED:
            self.problem(text)
        elif verdict is Verdict.UNPROVEN:
            self.warn(f"{text} (cannot be proved; checked at run time)")

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
        found += self.unbound(lonely, place)
        contexts = [binding.parameter for binding in found if binding.source == "context"]
        if len(contexts) > 1:
            self.problem(f"{place}: {' and '.join(map(repr, contexts))} both take the Context; keep one")
        if takes_any:
            found += [self.setting(name, value, place) for name, value in settings.items()]
        else:
            taken = [parameter.name for parameter in unit.signature.parameters]
            for name in settings:
                hint = unknown_hook(name) or did_you_mean(name, taken)
                self.problem(f"{place}: {name!r} is no hook, no type, and no parameter of the stage{hint}")
        return tuple(found)

    def parameter(self, parameter: Parameter, settings: dict[str, Any], place: str) -> Binding | None:
        """Bind one parameter by the rules in their order; None if it is left over."""
        name, annotation = parameter.name, parameter.annotation
        if peel(annotation) is Context or (name == "ctx" and annotation is MISSING):
            return Binding(name, "context")
        if peel(annotation) is State:
            return Binding(name, "state")
        if name in settings:
            return self.setting(name, settings.pop(name), place, annotation)
        if name in self.fields:
            return self.field(parameter, place)
        model = self.model(annotation, name, place)
        if model is not None:
            return model
        if parameter.has_default:
            return (
                Binding(name, "maybe", name) if any(name in later for later in self.later) else Binding(name, "default")
            )
        return None

    def field(self, parameter: Parameter, place: str) -> Binding:
        name = parameter.name
        if name in self.skippable and not parameter.has_default:
            self.problem(
                f"{place}: parameter {name!r} needs the field of stage {self.skippable[name]!r}, which skip_if may skip; "
                "give the parameter a default"
            )
        if parameter.annotation is not MISSING:
            given = self.fields[name]
            self.compare(
                given,
                parameter.annotation,
                f"{place}: parameter {name!r} is {describe(parameter.annotation)}, "
                f"but field {name!r} from {self.givers[name]} is {describe(given)}",
            )
        return Binding(name, "maybe" if name in self.skippable else "field", name)

    def model(self, annotation: Any, name: str, place: str) -> Binding | None:
        wanted = peel(annotation) if annotation is not MISSING else None
        if not isinstance(wanted, type):
            return None
        givers = [(model, step) for model, steps in self.models.items() if _is_a(model, wanted) for step in steps]
        if not givers or Record.of(wanted) is None:
            return None
        if len(givers) > 1:
            names = " and ".join(repr(step.name) for _, step in givers)
            self.problem(
                f"{place}: parameter {name!r} is a {describe(wanted)}, which both {names} give; name a field instead"
            )
        elif "skip_if" in givers[0][1].hooks:
            self.problem(
                f"{place}: parameter {name!r} needs the {describe(wanted)} of stage {givers[0][1].name!r}, which skip_if may "
                "skip; take the fields you need by name, with defaults"
            )
        return Binding(name, "model", givers[-1][0])

    def setting(self, name: str, value: Any, place: str, annotation: Any = MISSING) -> Binding:
        if isinstance(value, Ref) or (name == "init_from" and isinstance(value, str) and value in self.fields):
            target = value.name if isinstance(value, Ref) else str(value)
            if target not in self.fields:
                self.problem(
                    f"{place}: setting {name}=ref({target!r}): no such field{did_you_mean(target, self.fields)}"
                )
            elif annotation is not MISSING:
                given = self.fields[target]
                text = (
                    f"{place}: parameter {name!r} is {describe(annotation)}, but field {target!r} is {describe(given)}"
                )
                self.compare(given, annotation, text)
            return Binding(name, "field", target)
        return Binding(name, "constant", value)

    def unbound(self, parameters: list[Parameter], place: str) -> list[Binding]:
        """What is left: one bare parameter takes the State, the rest are inputs of the pipeline."""
        bare = [parameter for parameter in parameters if parameter.annotation is MISSING]
        if len(bare) == 1 and len(parameters) == 1:
            meant = near_miss(bare[0].name, self.given())
            if meant is None:
                return [Binding(bare[0].name, "state")]
            self.problem(
                f"{place}: nothing gives parameter {bare[0].name!r}; did you mean {meant!r}? (`: State` insists)"
            )
            return []
        for parameter in parameters:
            annotation = Any if parameter.annotation is MISSING else parameter.annotation
            self.add_input(parameter.name, annotation, f"{place}: parameter")
        return [Binding(parameter.name, "field", parameter.name) for parameter in parameters]

    def add_input(self, name: str, annotation: Any, place: str) -> None:
        meant = near_miss(name, self.given())
        if self.declared is not None:
            self.problem(
                f"{place} {name!r}: nothing gives it, and it is no declared input{did_you_mean(name, self.fields)}"
            )
        elif meant is not None:
            self.problem(f"{place} {name!r}: nothing gives it; did you mean {meant!r}? (Pipeline({name}=…) insists)")
        else:
            self.out.inputs[name] = annotation
            self.found.add(name)
            self.add_field(name, annotation, "inputs")

    def given(self) -> list[str]:
        """Return the fields that something gives; inputs that were found out may well look alike (beta1, beta2)."""
        return [name for name in self.fields if name not in self.found]

    # ------------------------------------------------------------ hooks

    def hooks_of(self, node: Stage, step: StageStep, place: str) -> None:
        for name in ("skip_if",):
            if name in step.hooks:
                self.predicate(f"{place}, {name}", step.hooks[name], set())
        for value in (
            step.hooks.get("before", ()) if isinstance(step.hooks.get("before"), tuple) else [step.hooks.get("before")]
        ):
            if value is None or step.contract is None:
                continue
            wrong = [
                name
                for name in attributes_read(value)
                if name in step.contract.annotations and self.first_given(name, step)
            ]
            if wrong:
                self.problem(
                    f"{place}: its 'before' hook reads {wrong[0]!r}, which the stage itself gives; "
                    "move the hook to 'after', which gets the output"
                )
        if node.hooks.get("checkpoint") is True and step.contract is None:
            self.problem(f"{place}: checkpoint=True needs a contract that says what to keep; add .through(…)")
        for name in ("isolate", "breakpoint"):
            if step.hooks.get(name):
                self.problem(f"{place}: {name}= is not available in this version")

    def first_given(self, name: str, step: StageStep) -> bool:
        return self.givers.get(name, "").startswith(f"stage {step.name!r} ")


def fields_of(nodes: Sequence[Node]) -> set[str]:
    """Return the names of all fields that nodes give."""
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, Loop):
            names |= fields_of(node.body)
        elif node.through is not None:
            names |= set(node.through.fields)
            record = None if node.through.model is None else Record.of(node.through.model)
            names |= set(record.fields) if record is not None else set()
    return names


def attributes_read(function: Callable[..., Any]) -> list[str]:
    """Return the attributes that a plain function reads of its last positional argument.

    Best effort, from its bytecode: enough to name a misspelt field before anything runs.

    Example:
        >>> attributes_read(lambda s: s.task_idx < len(s.tasks))
        ['task_idx', 'tasks']
    """
    code = getattr(function, "__code__", None)
    if code is None or code.co_argcount == 0:
        return []
    names = code.co_varnames[: code.co_argcount]
    wanted, found, previous = names[-1], [], None
    for instruction in dis.get_instructions(code):
        loads = instruction.opname in ("LOAD_ATTR", "LOAD_METHOD")
        if loads and previous is not None and previous.argval == wanted and previous.opname.startswith("LOAD_FAST"):
            found.append(str(instruction.argval))
        previous = instruction
    return [name for name in dict.fromkeys(found) if not name.startswith("_")]


def _is_a(model: Any, wanted: type) -> bool:
    """Whether a contract's model is a ``wanted``; protocols and TypedDicts stand for themselves alone."""
    if model is wanted:
        return True
    by_class = isinstance(model, type) and not is_protocol(wanted) and not typing_extensions.is_typeddict(wanted)
    return by_class and issubclass(model, wanted)


def _plain_mapping(annotation: Any) -> bool:
    """Whether an annotation is a dict or Mapping without named keys."""
    origin = getattr(peel(annotation), "__origin__", peel(annotation))
    return isinstance(origin, type) and issubclass(origin, Mapping) and Record.of(annotation) is None


def text_of(contract: OutputContract | None) -> Any:
    """Return a contract as identity compares it."""
    if contract is None:
        return None
    model = None if contract.model is None else describe(contract.model)
    return {"model": model, "fields": {name: describe(ann) for name, ann in contract.annotations.items()}}
