"""An objective is a stage, and a trial's parameters are its inputs.

Whatever the user hands over (a function, sync, async or generator, a Pipeline, an Experiment
class or instance) becomes an ``Objective`` here, checked against the search space before
anything runs: exactly the inputs, of fitting types.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, final

from sweep.context import Context
from sweep.errors import ContractError, did_you_mean, near_miss
from sweep.experiments.base import Experiment, argument_types, field_annotations, value_of
from sweep.experiments.given import NOTHING, giving
from sweep.experiments.identity import identity_of
from sweep.pipeline.annotations import Record, describe, peel
from sweep.pipeline.builder import Pipeline
from sweep.pipeline.contracts import MISSING, FieldContract, Parameter, Signature, read_signature
from sweep.pipeline.nodes import contents_of
from sweep.pipeline.runner import execute
from sweep.pipeline.runs import as_input
from sweep.pipeline.runtime import Activation
from sweep.pipeline.stagecheck import runtime_of
from sweep.pipeline.state import State
from sweep.pipeline.steps import Compiled
from sweep.pipeline.subtypes import Verdict, subtype
from sweep.space import Integer, LogInteger, SearchSpace, nest
from sweep.trial import Objective as Goal

__all__ = [
    "FunctionObjective",
    "Objective",
    "PipelineObjective",
    "Returned",
    "RunObjective",
    "as_numbers",
    "fits",
    "make_objective",
    "number_of",
]


class Returned(NamedTuple):
    """What a pipeline or an experiment came to: the number its last stage gives, and all its numbers by name."""

    value: float | None
    numbers: dict[str, float]

    def scored_by(self, goals: Iterable[Goal]) -> float | dict[str, float] | None:
        """Return what a trial's score is made of: the number, or all of them where a metric is named."""
        if self.value is not None and all(goal.metric is None for goal in goals):
            return self.value
        return self.numbers or self.value


class Objective(Protocol):
    """What the driver asks of an objective."""

    is_leaf: bool
    name: str

    def problems(self, space: SearchSpace) -> list[str]:
        """Return what does not fit the space."""

    def takes(self) -> Mapping[str, Any] | None:
        """Return the parameters it can take, with annotations; None where any will do."""

    def identity(self) -> Any:
        """Return what a resume compares."""

    def functions(self) -> tuple[Callable[..., Any], ...]:
        """Return the functions whose code is the objective's, which an executor may preload."""

    async def orchestrate(self, params: Mapping[str, Any], act: Activation) -> Returned:
        """Run it here, under the trial (not for leaves)."""


def make_objective(what: Any, metric: str | None = None) -> Objective:
    """Return the objective that a user's object means; a bare number that a generator yields is its ``metric``.

    Raises:
        ContractError: It is none.
    """
    if isinstance(what, Pipeline):
        return PipelineObjective(what)
    if isinstance(what, Experiment) or (isinstance(what, type) and issubclass(what, Experiment)):
        return RunObjective(what)
    if callable(what):
        return FunctionObjective(what, metric or "value")
    raise ContractError("objective", [f"{what!r} is no function, Pipeline or Experiment"])


# ---------------------------------------------------------------- functions


@final
@dataclass(frozen=True, slots=True)
class _Slot:
    """How one parameter gets its value: ``one`` parameter, ``built`` from dotted ones, or ``all`` of them."""

    parameter: str
    kind: Literal["one", "built", "all"]
    contract: FieldContract | None = None


@final
class FunctionObjective:
    """A function of the parameters: sync, async, or a generator that yields metrics, or numbers for one ``metric``."""

    is_leaf = True

    def __init__(self, function: Callable[..., Any], metric: str = "value") -> None:
        self.function, self.metric = function, metric
        self.signature: Signature = read_signature(function)
        self.name = str(getattr(function, "__name__", type(function).__name__))
        self.context_name: str | None = None
        self.slots: tuple[_Slot, ...] = ()
        self.takes_any = False

    def takes(self) -> Mapping[str, Any] | None:
        """Return its parameters; None where one of them takes all that no other does."""
        found: dict[str, Any] = {}
        for one in self.signature.parameters:
            if one.kind is inspect.Parameter.VAR_KEYWORD:
                return None
            if runtime_of(one) != "context":
                found[one.name] = _annotation(one)
        lonely = [one for one in self.signature.parameters if one.name in found]
        return None if any(self._whole(one, len(lonely) == 1) is not None for one in lonely) else found

    def identity(self) -> Any:
        """Return the function's qualified name; its code is compared by fingerprint."""
        return identity_of(self.function)

    def functions(self) -> tuple[Callable[..., Any], ...]:
        """Return the function."""
        return (self.function,)

    def problems(self, space: SearchSpace) -> list[str]:
        """Bind every parameter to the space; return what is missing, unknown or of another type."""
        place = f"objective {self.name!r} ({self.signature.where})"
        problems = [f"{place}: {text}" for text in (*self.signature.problems, *self._not_by_name())]
        heads = {name.partition(".")[0] for name in space}
        used: set[str] = set()
        slots: list[_Slot] = []
        left: list[Parameter] = []
        for parameter in self.signature.parameters:
            if parameter.kind in (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL):
                self.takes_any = self.takes_any or parameter.kind is inspect.Parameter.VAR_KEYWORD
            elif runtime_of(parameter) == "context":
                self.context_name = parameter.name
            elif parameter.name in space:
                used.add(parameter.name)
                slots.append(self._one(parameter, space, place, problems))
            elif parameter.name in heads:
                used |= {name for name in space if name.partition(".")[0] == parameter.name}
                problems += [f"{place}: {text}" for text in _part_problems(parameter.annotation, space, parameter.name + ".")]
                slots.append(_Slot(parameter.name, "built", _contract(parameter)))
            else:
                left.append(parameter)
        slots += self._rest(left, space, used, place, problems)
        unknown = [name for name in space if name not in used and not self.takes_any]
        taken = [parameter.name for parameter in self.signature.parameters]
        problems += [
            f"{place}: it takes no parameter {name!r} of the space{did_you_mean(name, taken)}" for name in unknown
        ]
        self.slots = tuple(slots)
        return problems

    def _not_by_name(self) -> Iterator[str]:
        """Say what cannot be called with parameters given by name, as a trial does."""
        if not self.signature.known:
            yield "it does not tell its parameters; put it into a function of your own that names them"
        for one in self.signature.parameters:
            if one.kind is inspect.Parameter.POSITIONAL_ONLY and not one.has_default:
                yield f"parameter {one.name!r} is positional-only, and a trial gives it by name; take the / out, or wrap it"

    def _one(self, parameter: Parameter, space: SearchSpace, place: str, problems: list[str]) -> _Slot:
        distribution = space[parameter.name]
        given = value_type(distribution)
        if parameter.annotation is not MISSING and not fits(distribution, parameter.annotation):
            problems.append(
                f"{place}: parameter {parameter.name!r} is {describe(parameter.annotation)}, "
                f"but the space gives {describe(given)} ({distribution!r})"
            )
        if distribution.when and not parameter.has_default:
            problems.append(
                f"{place}: parameter {parameter.name!r} is conditional in the space; give it a default for when it is inactive"
            )
        plain = parameter.annotation is MISSING or subtype(given, parameter.annotation) is Verdict.PROVEN
        exact = plain and peel(parameter.annotation) in (MISSING, Any, int, str, bool, given)
        return _Slot(parameter.name, "one", None if exact else _contract(parameter))

    def _rest(
        self, left: list[Parameter], space: SearchSpace, used: set[str], place: str, problems: list[str]
    ) -> list[_Slot]:
        """A model over all parameters, one bare parameter, or a missing one."""
        slots: list[_Slot] = []
        for parameter in left:
            whole = self._whole(parameter, len([one for one in left if not one.has_default]) == 1)
            alike = parameter.annotation is MISSING and (not space or near_miss(parameter.name, space) is not None)
            if whole is not None and not used and not alike:
                used |= set(space)
                problems += [f"{place}: {text}" for text in _part_problems(parameter.annotation, space, "")]
                slots.append(whole)
            elif not parameter.has_default:
                problems.append(
                    f"{place}: parameter {parameter.name!r} is not in the space{did_you_mean(parameter.name, space)}; "
                    f"add it to the space, or give it a default. The space has: {', '.join(space) or 'nothing'}"
                )
        return slots

    @staticmethod
    def _whole(parameter: Parameter, lonely: bool) -> _Slot | None:
        annotation = peel(parameter.annotation)
        if annotation is MISSING or annotation is State:
            return _Slot(parameter.name, "all") if lonely else None
        origin = getattr(annotation, "__origin__", annotation)
        if isinstance(origin, type) and issubclass(origin, Mapping):
            return _Slot(parameter.name, "all", _contract(parameter))
        return _Slot(parameter.name, "all", _contract(parameter)) if Record.of(annotation) is not None else None

    def kwargs(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return the function's arguments for a trial's parameters."""
        kwargs: dict[str, Any] = {}
        taken: set[str] = set()
        for slot in self.slots:
            if slot.kind == "one":
                if slot.parameter not in params:
                    continue
                value = params[slot.parameter]
            elif slot.kind == "built":
                prefix = slot.parameter + "."
                value = nest({name[len(prefix) :]: one for name, one in params.items() if name.startswith(prefix)})
            else:
                value = nest(params) if slot.contract is not None else State(nest(params))
            taken.add(slot.parameter)
            kwargs[slot.parameter] = value if slot.contract is None else slot.contract.validate(value, self.name)
        if self.takes_any:
            heads = {name: one for name, one in params.items() if name.partition(".")[0] not in taken}
            kwargs.update(nest(heads))
        return kwargs

    @property
    def callable(self) -> Callable[..., Any]:
        """The function as an executor calls it: generators become functions that report."""
        if not self.signature.is_generator:
            return self.function
        self.context_name = self.context_name or "_sweep_context"
        own = self.context_name != "_sweep_context"
        if inspect.isasyncgenfunction(self.function):
            return _AsyncSteps(self.function, self.context_name, own, self.metric)
        return _Steps(self.function, self.context_name, own, self.metric)

    async def orchestrate(self, params: Mapping[str, Any], act: Activation) -> Returned:
        """Leaves are placed on an executor instead."""
        raise NotImplementedError


@final
@dataclass(frozen=True)
class _Steps:
    """A generator objective as a function: the n-th yield is the report of step n (or of its ``step``)."""

    function: Callable[..., Iterator[Mapping[str, float]]]
    context_name: str
    passes_context: bool
    metric: str

    def __call__(self, **kwargs: Any) -> Any:
        ctx: Context = kwargs[self.context_name] if self.passes_context else kwargs.pop(self.context_name)
        steps = self.function(**kwargs)
        step = ctx.step
        try:
            while True:
                try:
                    metrics = next(steps)
                except StopIteration as end:
                    return end.value
                step = _report(ctx, step, metrics, self.metric)
        finally:
            steps.close()  # type: ignore[attr-defined]  # a generator


@final
@dataclass(frozen=True)
class _AsyncSteps:
    """An async generator objective as a coroutine function."""

    function: Callable[..., AsyncIterator[Mapping[str, float]]]
    context_name: str
    passes_context: bool
    metric: str

    async def __call__(self, **kwargs: Any) -> None:
        ctx: Context = kwargs[self.context_name] if self.passes_context else kwargs.pop(self.context_name)
        steps = self.function(**kwargs)
        step = ctx.step
        try:
            async for metrics in steps:
                step = _report(ctx, step, metrics, self.metric)
        finally:
            await steps.aclose()  # type: ignore[attr-defined]  # an async generator


def _report(ctx: Context, step: int, metrics: Any, metric: str) -> int:
    number = number_of(metrics)
    if number is None and not isinstance(metrics, Mapping):
        raise TypeError(f"the objective yielded {metrics!r}; expected a number, or a mapping of metric names to numbers")
    named = dict(metrics) if number is None else {metric: number}
    step = int(named.pop("step", step + 1))
    ctx.report(step, **named)
    return step


# ---------------------------------------------------------------- pipelines and experiments


@final
class PipelineObjective:
    """A pipeline whose inputs are the parameters; its stages are journaled under the trial."""

    is_leaf = False

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline, self.name = pipeline, "pipeline"
        self.compiled: Compiled | None = None

    def takes(self) -> Mapping[str, Any]:
        """Return the pipeline's inputs."""
        return self.pipeline.inputs

    def identity(self) -> Any:
        """Return the pipeline's structure."""
        return self.pipeline._compile().structure

    def functions(self) -> tuple[Callable[..., Any], ...]:
        """Return the functions of its stages."""
        return tuple(what for what in contents_of(self.pipeline._done) if inspect.isfunction(what))

    def problems(self, space: SearchSpace) -> list[str]:
        """Return mismatches inside the pipeline, and between its inputs and the space."""
        self.compiled = self.pipeline._compile()
        return [*self.compiled.problems, *_input_problems("pipeline", self.compiled, space)]

    async def orchestrate(self, params: Mapping[str, Any], act: Activation) -> Returned:
        """Run the pipeline under the trial."""
        compiled = self.pipeline._checked(hooks=act.frame.hooks)
        values = nest(params)
        checked = {name: compiled.contracts[name].validate(values[name], act.path) for name in compiled.inputs}
        state = await execute(compiled, State(checked), act.frame, prefix=f"{act.key}/" if act.key else "")
        fields = {name: state._fields.get(name) for name in compiled.outputs}
        given = {name: number for name, one in fields.items() if (number := number_of(one)) is not None}
        return Returned(number_of(await value_of(act.frame.root, compiled, state)), given)


@final
class RunObjective:
    """An experiment: of a class, the parameters are constructor arguments; of an instance, inputs.

    An instance of a sweep hands them to its own objective, beside the parameters of its own space: for each trial
    of the outer sweep the inner one finds the best of the rest.
    """

    is_leaf = False

    def __init__(self, what: Any) -> None:
        with giving(NOTHING):  # what a run above was given is not for those inside a sweep
            self.what: Any = what if isinstance(what, type) else what._with_config()
        self.is_class = isinstance(what, type)
        self.name = what.__name__ if self.is_class else what.name

    def takes(self) -> Mapping[str, Any] | None:
        """Return the class's arguments, an instance's inputs, or what a sweep's own objective takes."""
        if self.is_class:
            return argument_types(self.what)
        found: Mapping[str, Any] | None
        found = self.what._callee().takes() if self.what.level == "sweep" else self.what._compiled().inputs
        return found

    def identity(self) -> Any:
        """Return the class, and of an instance its identity."""
        if self.is_class:
            return identity_of(self.what)
        return self.what._own_identity() if self.what.level == "sweep" else self.what._identity(self.what._compiled())

    def functions(self) -> tuple[Callable[..., Any], ...]:
        """Return the class: its stages are placed one by one."""
        return (self.what if self.is_class else type(self.what),)

    def problems(self, space: SearchSpace) -> list[str]:
        """Return parameters that the constructor or the pipeline does not take."""
        heads = {name.partition(".")[0] for name in space}
        if self.is_class:
            return self._class_problems(space, heads)
        if self.what.level == "sweep":
            return list(self.what._outer_problems(space))
        compiled = self.what._compiled()
        return [*compiled.problems, *_input_problems(self.name, compiled, space)]

    def _class_problems(self, space: SearchSpace, heads: set[str]) -> list[str]:
        types = field_annotations(self.what)
        needed = [name for name in types if not hasattr(self.what, name)]
        if self.what.__init__ is not Experiment.__init__:
            taken = [one for one in read_signature(self.what).parameters if one.kind is not inspect.Parameter.VAR_KEYWORD]
            if len(taken) == len(read_signature(self.what).parameters):  # without **kwargs it takes these alone
                needed = [one.name for one in taken if one.required]
            types = {**types, **{one.name: Any if one.annotation is MISSING else one.annotation for one in taken}}
        problems = [
            f"{self.name} has no field {name!r} of the space{did_you_mean(name, types)}"
            for name in heads
            if name not in types
        ]
        problems += [
            f"{self.name}: field {name!r} has no default and is not in the space{did_you_mean(name, heads)}"
            for name in needed
            if name not in heads
        ]
        return problems + _type_problems(self.name, "field", types, space)

    async def orchestrate(self, params: Mapping[str, Any], act: Activation) -> Returned:
        """Run the experiment as a child of the trial."""
        values = nest(params)
        if self.is_class:
            result = await self.what(**values).run()
        elif self.what.level == "sweep":
            result = await self.what._held_at(params).run()
        else:
            result = await self.what.run(**values)
        given = {**result.state._fields, **result}
        numbers = {key: number for key, one in given.items() if key not in values and (number := number_of(one)) is not None}
        numbers.pop("run_id", None)
        return Returned(number_of(result.value), numbers)


def _input_problems(name: str, compiled: Compiled, space: SearchSpace) -> list[str]:
    """Compare a pipeline's inputs with the space."""
    heads = {one.partition(".")[0] for one in space}
    problems = [
        f"{name}: input {one!r} is not in the space{did_you_mean(one, heads)}"
        for one in compiled.inputs
        if one not in heads
    ]
    problems += [
        f"{name}: it has no input {one!r} of the space{did_you_mean(one, compiled.inputs) or as_input(compiled, one)}"
        for one in heads
        if one not in compiled.inputs
    ]
    return problems + _type_problems(name, "input", compiled.inputs, space)


def _type_problems(name: str, what: str, types: Mapping[str, Any], space: SearchSpace) -> list[str]:
    return [
        f"{name}: {what} {one!r} is {describe(annotation)}, but the space gives {describe(value_type(space[one]))}"
        for one, annotation in types.items()
        if one in space and not fits(space[one], annotation)
    ]


def _part_problems(annotation: Any, space: SearchSpace, prefix: str) -> list[str]:
    """Compare the parameters that begin with ``prefix`` with the fields of the class that they are put into.

    What a class does with names or values by code of its own is not known before it is called.
    """
    record = Record.of(peel(annotation))
    if record is None or record.open or record.lenient or getattr(record.cls, "__pydantic_custom_init__", False):
        return []
    heads = dict.fromkeys(name[len(prefix) :].partition(".")[0] for name in space if name.startswith(prefix))
    problems = [problem for head in heads for problem in _field_problems(record, head, space, prefix)]
    if not record.custom:
        missing = sorted(name for name in record.required if not {name, record.aliases.get(name, name)} & set(heads))
        problems += [f"{record.cls.__name__} needs {prefix + name!r}, which is not in the space" for name in missing]
    return problems


def _field_problems(record: Record, head: str, space: SearchSpace, prefix: str) -> list[str]:
    name_of, field, whole = record.cls.__name__, record.fields.get(head), prefix + head
    if head not in record.keys:
        return [f"{name_of} has no field {head!r} for {whole!r} of the space{did_you_mean(head, record.keys)}"]
    if field is None:
        return []
    if whole not in space:
        return _part_problems(field, space, whole + ".")
    if record.custom or fits(space[whole], field):
        return []
    given = f"the space gives {describe(value_type(space[whole]))} ({space[whole]!r})"
    return [f"{whole!r} of {name_of} is {describe(field)}, but {given}"]


def fits(distribution: Any, annotation: Any) -> bool:
    """Whether a parameter can take a distribution's values; whole numbers and truths take no continuous ones."""
    given = value_type(distribution)
    if subtype(given, annotation) is Verdict.REFUTED:
        return False
    continuous = given is float and not hasattr(distribution, "options") and not hasattr(distribution, "value")
    return not (continuous and peel(annotation) in (int, bool))


def number_of(value: Any) -> float | None:
    """Return a value as a float if it is a number (numpy and torch scalars too), else None."""
    truth = isinstance(value, bool) or str(getattr(value, "dtype", "")).endswith("bool")
    if truth or isinstance(value, str | bytes) or not hasattr(value, "__float__"):
        return None
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        return None


def value_type(distribution: Any) -> Any:
    """Return the annotation of a distribution's values."""
    options = getattr(distribution, "options", None)
    if options is None and hasattr(distribution, "value"):
        options = [distribution.value]
    if options is not None:
        kinds = list(dict.fromkeys(type(option) for option in options))
        union: Any = kinds[0]
        for kind in kinds[1:]:
            union = union | kind
        return union
    return int if isinstance(distribution, Integer | LogInteger) else float


def _annotation(parameter: Parameter) -> Any:
    return Any if parameter.annotation is MISSING else parameter.annotation


def _contract(parameter: Parameter) -> FieldContract:
    return FieldContract(parameter.name, _annotation(parameter))


def as_numbers(value: Any) -> tuple[Any, str | None]:
    """Return an objective's value as numbers for the journal, and what is wrong with it."""
    if value is None or type(value) is float:
        return value, None
    if isinstance(value, Mapping):
        numbers = {str(key): number for key, one in value.items() if (number := number_of(one)) is not None}
        return (
            (numbers, None)
            if numbers
            else (None, f"the objective returned a mapping without a number: {sorted(map(str, value))}")
        )
    if isinstance(value, list | tuple):
        several = [number_of(one) for one in value]
        if several and None not in several:
            return several, None
    number = number_of(value)
    if number is None:
        return (
            None,
            f"the objective returned {value!r} ({type(value).__name__}); return a number, a mapping of numbers, or None",
        )
    return number, None
