"""What a checked pipeline is made of: steps with their bindings and contracts ready, as the runner takes them."""

from __future__ import annotations

import inspect
import re
import typing
from collections import abc
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias, final

from sweep.pipeline.annotations import Annotation, Record, describe, members, peel, records_in, split
from sweep.pipeline.contracts import Accepted, FieldContract, OutputContract, Signature
from sweep.pipeline.isolation import Carried
from sweep.pipeline.nodes import Hooks
from sweep.store.classes import remedy
from sweep.store.codec import Classes
from sweep.store.storable import is_storable

__all__ = [
    "Binding", "BranchStep", "Compiled", "Doubt", "ItemContract", "Items", "LoopStep", "ParallelStep", "Results", "StageStep",
    "Step", "Structure", "Unit", "result_names", "text_of", "unstorable",
]  # fmt: skip


class Doubt(NamedTuple):
    """What a check could not prove of a node, and the node's place."""

    text: str
    where: str


Structure: TypeAlias = list[dict[str, object]]
"""Names, kinds and contracts of stages as JSON data: what identity compares."""

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
"""What the name of a function has that is another in each process."""


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
@dataclass(frozen=True, slots=True)
class Unit:
    """What a stage runs, whatever it was made from.

    Attributes:
        kind: ``"function"``, ``"pipeline"``, ``"experiment"``, ``"scope"`` …
        function: Called with the bound parameters by name.
        signature: Its parameters and return annotation.
        nested: The compiled pipeline, where the stage is one.
        structure: What identity compares beside the stage's name.
        code: The functions whose code counts as the stage's.
        problems: What is wrong with it by itself.
        within: Compiles ``nested`` anew inside global hooks, which wrap its stages too.
        positional: Parameters that cannot be given by name.
    """

    kind: str
    function: Callable[..., Any]
    signature: Signature
    nested: Compiled | None = None
    structure: object = None
    code: tuple[Callable[..., object], ...] = ()
    problems: tuple[str, ...] = ()
    within: Callable[[Sequence[Hooks]], Compiled] | None = None
    positional: tuple[str, ...] = field(init=False, default=())

    def __post_init__(self) -> None:
        only = inspect.Parameter.POSITIONAL_ONLY
        names = tuple(parameter.name for parameter in self.signature.parameters if parameter.kind is only)
        object.__setattr__(self, "positional", names)


@final
@dataclass(slots=True)
class StageStep:
    """A stage ready to run."""

    name: str
    unit: Unit
    bindings: tuple[Binding, ...]
    contract: OutputContract | None
    hooks: Hooks
    where: str
    call: Callable[..., Awaitable[Accepted]] | None = None
    code: str | None = None
    promise: tuple[str, str] | None = None
    warned: bool = False
    classes: Classes | None = None
    items: Items | None = None
    item_contract: ItemContract | None = None
    is_item: bool = False
    keeps_value: bool = True
    isolated: Carried | None = None
    checkpointed: bool = field(init=False, default=True)
    context_name: str | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.checkpointed = bool(self.hooks.get("checkpoint", True))
        names = [binding.parameter for binding in self.bindings if binding.source == "context"]
        self.context_name = names[0] if names else None


@final
@dataclass(slots=True)
class Items:
    """What a map does with each item.

    Attributes:
        step: The stage that runs for an item; it has an ``item_contract``.
        over: The field that holds the items.
        parameter: The parameter that takes the item.
        concurrency: Items at once.
        goes_on: A failed item does not stop the others.
    """

    step: StageStep
    over: str
    parameter: str
    concurrency: int
    goes_on: bool


@final
@dataclass(slots=True)
class LoopStep:
    """A loop ready to run."""

    name: str
    predicate: Callable[..., object]
    max_iterations: int | None
    body: tuple[Step, ...]
    where: str


@final
@dataclass(slots=True)
class BranchStep:
    """A branch ready to run; ``otherwise`` may be empty."""

    name: str
    predicate: Callable[..., object]
    then: tuple[Step, ...]
    otherwise: tuple[Step, ...]
    where: str


@final
@dataclass(slots=True)
class ParallelStep:
    """Stages that run at once on the same State."""

    stages: tuple[StageStep, ...]
    where: str

    @property
    def name(self) -> str:
        """The names of its stages, joined."""
        return "+".join(stage.name for stage in self.stages)


Step = StageStep | LoopStep | BranchStep | ParallelStep


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
        warned: It has been said.
        structure: Names, kinds and contracts as JSON data: identity.
        hooks: The global hooks it was compiled within, outermost first.
        maybe: Outputs that may be missing in the end, and whose they are.
        breakpoints: Places that open the debugger, sub-pipelines included.
        caches: Places that share outputs through a store, likewise.
    """

    steps: tuple[Step, ...] = ()
    inputs: dict[str, Annotation] = field(default_factory=dict)
    outputs: dict[str, Annotation] = field(default_factory=dict)
    contracts: dict[str, FieldContract] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    warnings: list[Doubt] = field(default_factory=list)
    warned: bool = False
    structure: Structure = field(default_factory=list)
    hooks: tuple[Hooks, ...] = ()
    maybe: dict[str, str] = field(default_factory=dict)
    breakpoints: list[str] = field(default_factory=list)
    caches: list[str] = field(default_factory=list)


# ---------------------------------------------------------------- items of a map


@final
class Results(list[Any]):
    """The results of a map in the order of its items; equal to a plain list of them.

    Attributes:
        failures: Errors of failed items by index. An error of an earlier session is an
            :class:`sweep.errors.ItemFailed`, which says what it was.

    Example:
        >>> found = Results([1, None], {1: ValueError("no data")})
        >>> found == [1, None], found.failures
        (True, {1: ValueError('no data')})
    """

    def __init__(self, values: Iterable[object] = (), failures: Mapping[int, Exception] | None = None) -> None:
        super().__init__(values)
        self.failures: dict[int, Exception] = dict(failures or {})

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (list(self), self.failures)


@final
class ItemContract:
    """The contract of one item of a map: the value itself is what is checked, whatever it is.

    Args:
        name: The field that gets the results.
        annotation: Annotation of one of them.
    """

    __slots__ = ("_field", "annotation")

    def __init__(self, name: str, annotation: Annotation) -> None:
        self.annotation = annotation
        self._field = FieldContract(f"{name}[]", annotation)

    def accept(self, stage: str, returned: object) -> Accepted:
        """Check an item's result.

        Raises:
            ContractViolation: It does not fit.
        """
        return Accepted({}, self._field.validate(returned, stage), {})


def text_of(contract: OutputContract | None) -> object:
    """Return a contract as identity compares it: names and types of its fields, and of those of all classes in it."""
    if contract is None:
        return None
    model = None if contract.model is None else describe(contract.model)
    text = {"model": model, "fields": _described(contract.annotations)}
    classes = {name: _described(record.fields) for name, record in records_in(contract.annotations.values()).items()}
    return {**text, "classes": classes} if classes else text


def _described(fields: Mapping[str, Annotation]) -> dict[str, str]:
    return {name: _ADDRESS.sub("", describe(annotation)) for name, annotation in fields.items()}


def result_names(steps: Sequence[Step]) -> tuple[str, ...]:
    """Return the fields that a pipeline comes to: those of its last stage that gives any."""
    for step in reversed(steps):
        if isinstance(step, StageStep):
            names = () if step.contract is None else tuple(step.contract.fields)
        elif isinstance(step, LoopStep):
            names = result_names(step.body)
        elif isinstance(step, BranchStep):
            names = tuple(dict.fromkeys(result_names(step.then) + result_names(step.otherwise)))
        else:
            names = tuple(name for stage in step.stages for name in result_names((stage,)))
        if names:
            return names
    return ()


# ---------------------------------------------------------------- what no store can keep

_STANDARD = ("builtins", "collections", "collections.abc")


def unstorable(contract: OutputContract | None) -> str:
    """Return which fields of a contract can never be stored, by name, type and remedy; ``""`` for none.

    Example:
        >>> unstorable(OutputContract(None, {"n": int, "net": abc.Callable[[int], int]}))
        "field 'net': Callable[[int], int] cannot be stored"
    """
    if contract is None:
        return ""
    record = None if contract.model is None else Record.of(contract.model)
    lines = []
    for name, annotation in _needed(contract.annotations, record).items():
        refused = _refused(annotation, ())
        if refused is not None:
            inside = "" if refused is split(peel(annotation))[0] else f" holds {describe(refused)}, which"
            hint = remedy(refused)
            lines.append(f"field {name!r}: {describe(annotation)}{inside} cannot be stored{hint and f'; {hint}'}")
    return "; ".join(lines)


def _refused(annotation: Annotation, around: tuple[Annotation, ...]) -> type | None:
    """Return the class that keeps every value of an annotation out of a store, or None if there may be others."""
    annotation = peel(annotation)
    alternatives = members(annotation)
    if alternatives is not None:
        found = [_refused(one, around) for one in alternatives]
        return found[0] if all(one is not None for one in found) else None
    origin, _ = split(annotation)
    if isinstance(origin, typing.NewType):
        return _refused(origin.__supertype__, around)
    if not isinstance(origin, type) or annotation is Any or annotation in around:
        return None
    record = Record.of(annotation)
    if not (record is not None and issubclass(record.cls, dict)) and is_storable(origin) is False:
        return origin
    inside = (_refused(part, (*around, annotation)) for part in _parts(annotation, record))
    return next((one for one in inside if one is not None), None)


def _parts(annotation: Annotation, record: Record | None) -> Iterable[Annotation]:
    """Return the annotations of what every value holds: fields, keys, items."""
    if record is not None:
        return _needed(record.fields, record).values()
    origin, args = split(annotation)
    holds = isinstance(origin, type) and origin.__module__ in _STANDARD and issubclass(origin, abc.Collection)
    return [one for one in args if one is not Ellipsis] if holds else ()


def _needed(fields: Mapping[str, Annotation], record: Record | None) -> Mapping[str, Annotation]:
    """Return the fields that every value has: a TypedDict may leave some out."""
    if record is None or not issubclass(record.cls, dict):
        return fields
    return {name: one for name, one in fields.items() if name in record.required}
