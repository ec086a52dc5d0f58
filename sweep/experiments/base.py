"""``Experiment``: a pipeline with a name, fields, a journal and children."""

from __future__ import annotations

import copy
import inspect
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from sweep.config.layers import Layer
from sweep.deferred import launch
from sweep.errors import ContractError, SweepError, UnknownName, did_you_mean, near_miss
from sweep.experiments.given import NOTHING, Given, current_given, giving, parts, typed
from sweep.experiments.identity import identity_of, is_heavy
from sweep.experiments.purse import Purse, carrying, current_purse, kept_budget
from sweep.experiments.result import RunResult
from sweep.pipeline.annotations import describe
from sweep.pipeline.builder import Pipeline
from sweep.pipeline.contracts import MISSING, FieldContract, Parameter, Signature
from sweep.pipeline.durable import Opened, RunSpec, open_child, open_top
from sweep.pipeline.nodes import contents_of
from sweep.pipeline.planning import announce, plan_of
from sweep.pipeline.runner import execute
from sweep.pipeline.runs import complete, finished_state, keep_state
from sweep.pipeline.runtime import Activation, Frame, Handle, Root, current_activation, open_root
from sweep.pipeline.state import State
from sweep.pipeline.steps import Compiled, StageStep, result_names
from sweep.pipeline.units import Unit
from sweep.pipeline.unread import read_ahead
from sweep.store.runs import children
from sweep.store.writer import Durability
from sweep.tracker.stream import say
from sweep.trial import Budget

__all__ = ["Experiment", "argument_types", "field_annotations", "runs_in", "value_of"]


class Experiment:
    """Base of experiments: subclass it, annotate fields, return a pipeline.

    Fields (annotated class attributes and constructor arguments) are part of the State from
    the start, and of the run's identity. Nothing of a run lives on the object: while it runs,
    assigning a public attribute raises; a stage returns what is to change.

    Args:
        name: Name of its runs; default: the class's name.
        store: SQLite file; None = ``$SWEEP_STORE`` or ``./sweep.db`` (a child uses its parent's).
        config: A Scope, MultiScope, mapping or model that gives fields, and under the names of runs that
            are started inside, theirs. It is read when the experiment is checked or run, and overrides what
            the code says; where each value is from is kept with the run (``sweep config why``).
        **fields: Values of fields.

    Raises:
        ContractError: An unknown field.
        ContractViolation: A value does not fit its field.
        ConfigError: ``config`` has a key that nothing takes, or a value that does not fit.

    Example:
        >>> class Count(Experiment):
        ...     n: int = 3
        ...     def pipeline(self):
        ...         return Pipeline().stage("square", lambda n: n * n).through(square=int)
        >>> Count(n=4).check().fields
        {'n': 4}
    """

    level: ClassVar[str] = "experiment"
    _arguments: Mapping[str, Any]
    _running: int
    _given_config: Any = None
    _given_kept: Given = NOTHING  # what is kept with the run
    _given_below: Given = NOTHING  # what of it is for the runs inside,
    _given_unseen: Given = NOTHING  # and for those of which nobody knows before they start

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Note the constructor's arguments: they are fields."""
        self = super().__new__(cls)
        object.__setattr__(self, "_arguments", _bound(cls, self, args, kwargs))
        object.__setattr__(self, "_running", 0)
        object.__setattr__(self, "name", cls.__name__)  # a constructor of their own need not call this one's
        object.__setattr__(self, "store", None)
        return self

    def __init__(
        self, *, name: str | None = None, store: str | Path | None = None, config: Any = None, **fields: Any
    ) -> None:
        self.name = name or type(self).__name__
        self.store = store
        annotations = field_annotations(type(self))
        if "config" in annotations:
            fields |= {} if config is None else {"config": config}
        else:
            self._given_config = config
            if config is not None and self._arguments.get("config") is config:  # handed on by its own constructor
                self._arguments = {key: value for key, value in self._arguments.items() if key != "config"}
        unknown = [
            f"unknown field {key!r}{did_you_mean(key, annotations) or _there_are(annotations)}"
            for key in fields
            if key not in annotations
        ]
        if unknown:
            raise ContractError(f"{type(self).__name__}(…)", unknown)
        for key, annotation in annotations.items():
            if key in fields:
                setattr(self, key, FieldContract(key, annotation).validate(fields[key], type(self).__name__))
            elif hasattr(type(self), key) and isinstance(getattr(type(self), key), list | dict | set):
                setattr(self, key, copy.deepcopy(getattr(type(self), key)))

    def pipeline(self) -> Pipeline:
        """Return the stages of this experiment.

        Raises:
            NotImplementedError: The subclass has none.
        """
        raise NotImplementedError(f"{type(self).__name__} has no pipeline(): define it and return a Pipeline")

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_") and self.__dict__.get("_running"):
            raise SweepError(
                f"{type(self).__name__}.{name} cannot be assigned while it runs: a resumed run would not know of it. "
                f"Return it from the stage instead: return {{{name!r}: …}} (names with a leading underscore are caches)"
            )
        object.__setattr__(self, name, value)

    # ------------------------------------------------------------ reading

    @property
    def fields(self) -> dict[str, Any]:
        """Values of the fields by name; a required one without a value is left out."""
        found = {key: getattr(self, key) for key in field_annotations(type(self)) if hasattr(self, key)}
        return {**{key: value for key, value in self._arguments.items() if key not in found}, **found}

    def _field_types(self) -> dict[str, Any]:
        return {**{name: Any for name in self._arguments}, **field_annotations(type(self))}

    def _with_config(self) -> Self:
        """Return this experiment with what its config, or that of the run it is started in, gives it: a copy."""
        own, share = Given.of(self._given_config), current_given().below(self.name)
        if own and share:
            place = f"{type(self).__name__}(config=…)"
            raise ContractError(place, [f"the run above has values for {self.name!r} too ({share.items[0].source}); keep one"])
        given = own or share
        if not given:
            return self
        held = self._with_arguments(given)
        object.__setattr__(held, "_running", 0)
        held._given_config = None
        held._take_given(given)
        held._given_kept = Given(given.items, (*self._code_layers(given), *given.layers))
        return held

    def _with_arguments(self, given: Given) -> Self:
        """Return a copy; a constructor of its own is called again where its arguments are given."""
        types = argument_types(type(self))
        own = {key: items for key, items in given.heads().items() if key in self._arguments}
        if not own or self.level == "sweep":
            return copy.copy(self)
        values = {key: typed(key, items, types.get(key, Any), self._arguments[key]) for key, items in own.items()}
        held = type(self)(**{**self._arguments, **values})
        held.name, held.store = self.name, self.store
        return held

    def _take_given(self, given: Given) -> None:
        """Set the fields that are given; what is left is for the runs inside."""
        heads, types = given.heads(), self._field_types()
        for key, items in heads.items():
            if key in types and key not in self._arguments:
                setattr(self, key, typed(key, items, types[key], getattr(self, key, None)))
        self._given_below = given.only([key for key in heads if key not in types])
        if self._given_below:
            self._refuse_strangers(types)

    def _refuse_strangers(self, types: Mapping[str, Any]) -> None:
        """Refuse what is neither a field nor a run inside, as far as that can be known before it runs."""
        runs, functions = runs_in(self.pipeline()) if all(name in self.fields for name in types) else ([], True)
        self._given_unseen = self._given_below.only([key for key in self._given_below.heads() if key not in runs])
        for key, items in self._given_below.heads().items():
            if key in runs:
                continue
            group = all(len(item.path) > 1 or isinstance(item.value, Mapping) for item in items)
            if not (group and functions) or near_miss(str(key), [*types, *runs]) is not None:
                raise UnknownName("key", str(key), [*types, *runs], f"{items[0].source!r} for {self.name}")

    def _code_layers(self, given: Given) -> list[Layer]:
        """Return what the code says of the fields that are given: the class, then the arguments of the constructor."""
        cls, said, fields = type(self), self._said_in_code(given), field_annotations(type(self))
        defaults = {key: parts(getattr(cls, key)) for key in said if key in fields and hasattr(cls, key)}
        own = {key: value for key, value in said.items() if repr(value) != repr(defaults.get(key, NOTHING))}
        return [Layer.of("schema", cls.__qualname__, defaults), Layer.of("default", f"{cls.__qualname__}(…)", own)]

    def _said_in_code(self, given: Given) -> dict[str, Any]:
        """Return what the code says, by key, of what is given."""
        return {key: parts(self.fields[key]) for key in given.heads() if key in self.fields}

    def check(self, strict: bool = False) -> Experiment:
        """Build it: everything is checked, nothing runs.

        Raises:
            ContractError: With all mismatches.
        """
        self._with_config()._compiled(strict=strict)
        return self

    def _compiled(self, hooks: tuple[Mapping[str, Any], ...] = (), *, strict: bool = False) -> Compiled:
        missing = [name for name in self._field_types() if name not in self.fields]
        if missing:
            types = self._field_types()
            raise ContractError(
                f"{type(self).__name__}(…)",
                [f"field {name!r}: {describe(types[name])} has no value" for name in missing],
            )
        pipeline = self.pipeline()
        if not isinstance(pipeline, Pipeline):
            raise ContractError(f"{type(self).__name__}.pipeline()", [f"expected a Pipeline, got {pipeline!r}"])
        try:
            with giving(self._given_below):
                return pipeline._checked(self._field_types(), hooks, strict=strict)
        except ContractError as error:
            raise ContractError(type(self).__name__, error.problems) from None

    def _identity(self, compiled: Compiled) -> dict[str, Any]:
        identity = {
            "class": type(self).__qualname__,
            "fields": identity_of(self.fields),
            "structure": compiled.structure,
        }
        return {**identity, "config": self._given_unseen.as_data()} if self._given_unseen else identity

    # ------------------------------------------------------------ running

    def __sweep_stage__(self, known: Mapping[str, Any]) -> Unit:
        """Return this experiment as a stage: its open inputs are the stage's parameters."""
        held = self._with_config()
        try:
            compiled = held._compiled()
            problems: tuple[str, ...] = ()
        except ContractError as error:
            compiled, problems = Compiled(), tuple(error.problems)
        parameters = tuple(
            Parameter(one, inspect.Parameter.KEYWORD_ONLY, ann, False) for one, ann in compiled.inputs.items()
        )
        signature = Signature(self.name, parameters, MISSING, "", True, False, True, problems)
        return Unit("experiment", self.run, signature, structure=held._identity(compiled))

    def run(
        self,
        *,
        budget: int | Budget | None = None,
        resume: Literal["auto", "never", "must"] = "auto",
        store: str | Path | None = None,
        durability: Durability = "process",
        **inputs: Any,
    ) -> RunResult:
        """Run it, or go on where its latest run stopped. Inside an event loop, await it.

        Args:
            budget: Limit for the sweeps inside, all of them together (see :mod:`sweep.experiments.purse`); a
                number is one of trials. None = that of the session before, else none.
            resume: Go on with the latest unfinished run of that name, never, or insist.
            store: SQLite file; None = the constructor's.
            durability: ``"process"`` survives kill -9, ``"power"`` a power cut.
            **inputs: Open inputs of the pipeline by name.

        Raises:
            ContractError: It does not fit together; nothing has run.
            ResumeRefused: ``resume="must"`` and it has changed.
        """

        async def main(owns_loop: bool) -> RunResult:
            return await self._with_config()._run(owns_loop, budget, resume, store, durability, inputs)

        return launch(RunResult, main, f"{type(self).__name__}.run()")

    async def _run(
        self,
        owns_loop: bool,
        budget: int | Budget | None,
        resume: Literal["auto", "never", "must"],
        store: str | Path | None,
        durability: Durability,
        inputs: Mapping[str, Any],
    ) -> RunResult:
        parent = current_activation()
        compiled = self._compiled(() if parent is None else parent.frame.hooks)
        state = State(complete(compiled, {**self.fields, **inputs}, self.name))
        if parent is None:
            async with open_root(owns_loop) as root:
                spec = await self._spec(root, compiled, inputs)
                async with open_top(root, spec, store or self.store, resume, durability) as opened:
                    return await self._durable(root, opened, compiled, state, None, budget)
        if parent.frame.handle is None:
            async with parent.lending():
                return await self._bare(parent, compiled, state)
        spec = await self._spec(parent.frame.root, compiled, inputs)
        async with parent.lending(), open_child(parent, spec) as opened:
            return await self._durable(parent.frame.root, opened, compiled, state, parent.frame, budget)

    async def _spec(self, root: Root, compiled: Compiled, inputs: Mapping[str, Any]) -> RunSpec:
        fields = self.fields
        heavy = is_heavy(fields)
        identity = await root.threads.run(self._identity, compiled) if heavy else self._identity(compiled)
        return RunSpec(self.name, self.level, identity, {**fields, **inputs})

    async def _bare(self, parent: Activation, compiled: Compiled, state: State) -> RunResult:
        frame = parent.frame.below(None, f"{parent.path}/{self.name}", owner=self)
        last = await self._execute(compiled, state, frame)
        return RunResult(name=self.name, path=frame.path, state=last, value=await value_of(parent.frame.root, compiled, last))

    async def _durable(
        self,
        root: Root,
        opened: Opened,
        compiled: Compiled,
        state: State,
        outer: Frame | None,
        budget: int | Budget | None,
    ) -> RunResult:
        handle = opened.handle
        limits = kept_budget(handle, budget)
        purse = Purse(handle.path, lambda: limits, parent=current_purse())
        if opened.before is not None:
            purse.recall(handle.store, handle.run_id)
        if opened.request is not None:
            announce(opened, plan_of(compiled, opened))
        last = await finished_state(root, opened, compiled) if opened.finished else None
        if last is None:
            self._given_kept.keep(handle)
            root.stream.emit("run.resumed" if opened.before else "run.started", handle.run_id, handle.path)
            frame = Frame(root, handle, handle.path, owner=self) if outer is None else outer.below(handle, handle.path, owner=self)
            with carrying(purse):
                last = await self._execute(compiled, state, frame)
            await keep_state(root, opened, compiled, last)
            root.stream.emit("run.ended", handle.run_id, handle.path, status="completed")
        if not opened.finished:
            self._say_unused(handle)
        below = [RunResult.of_row(row, f"{handle.path}/{row.place}") for row in children(handle.store, handle.run_id)]
        value = await value_of(root, compiled, last)
        best = value if isinstance(value, int | float) and not isinstance(value, bool) else _best(below)
        if not opened.finished:
            handle.store.add("UPDATE run SET score=? WHERE id=?", (best, handle.run_id))
        return RunResult(
            run_id=handle.run_id,
            name=self.name,
            path=handle.path,
            state=last,
            value=value,
            children=below,
            cost=purse.cost,
        )

    def _say_unused(self, handle: Handle) -> None:
        """Name what was given to runs that were never started."""
        if not self._given_below:
            return
        started = {row.name for row in children(handle.store, handle.run_id)}
        for key, items in self._given_below.heads().items():
            if key not in started:
                hint = did_you_mean(str(key), started) or (f"; it started {', '.join(sorted(started))}" if started else "")
                say(f"{handle.path!r} started no run named {key!r}, so {items[0].source!r} was not used{hint}")

    async def _execute(self, compiled: Compiled, state: State, frame: Frame) -> State:
        object.__setattr__(self, "_running", self._running + 1)
        try:
            with giving(self._given_below):
                return await execute(compiled, state, frame)
        finally:
            object.__setattr__(self, "_running", self._running - 1)


def field_annotations(cls: type) -> dict[str, Any]:
    """Return the annotated public class attributes of a class and its bases, below Experiment."""
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        if not issubclass(base, Experiment) or base is Experiment or "__annotations__" not in vars(base):
            continue
        names = [name for name, written in vars(base)["__annotations__"].items() if not _is_own_affair(name, written)]
        hints = typing.get_type_hints(base, include_extras=True) if names else {}
        found.update({name: hints[name] for name in names if typing.get_origin(hints[name]) is not ClassVar})
    return found


def _is_own_affair(name: str, written: Any) -> bool:
    """Whether an annotation is seen to make no field, without evaluating it, which is dear."""
    return name.startswith("_") or (isinstance(written, str) and written.startswith("ClassVar"))


def argument_types(cls: type) -> dict[str, Any]:
    """Return what an experiment class can be given, with annotations: its constructor's parameters and its fields."""
    own = inspect.getattr_static(cls, "__init__")
    try:
        hints = typing.get_type_hints(own, include_extras=True)
    except (NameError, TypeError):  # an annotation that is only there for the type checker
        hints = {}
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    found = list(inspect.signature(own).parameters.values())[1:]
    return {**{one.name: hints.get(one.name, Any) for one in found if one.kind in named}, **field_annotations(cls)}


def runs_in(pipeline: Pipeline) -> tuple[list[str], bool]:
    """Return the names of the experiments that are stages, and whether functions might start others."""
    names: list[str] = []
    functions = False
    for what in contents_of(pipeline._done):
        if isinstance(what, Experiment):
            names.append(what.name)
        elif isinstance(what, Pipeline):
            inner, more = runs_in(what)
            names, functions = [*names, *inner], functions or more
        else:
            functions = True
    return names, functions


def _bound(cls: type, self: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a subclass's own constructor by name."""
    own = vars(cls).get("__init__") or getattr(cls, "__init__")  # noqa: B009  # read, never called on an instance
    if own is Experiment.__init__:
        return {}
    try:
        bound = inspect.signature(own).bind(self, *args, **kwargs)
    except TypeError:
        return {}
    bound.apply_defaults()
    variable = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    parameters = inspect.signature(own).parameters
    reserved = {"name", "store", *list(parameters)[:1]}
    return {
        key: value
        for key, value in bound.arguments.items()
        if key not in reserved and parameters[key].kind not in variable
    }


def _there_are(names: Mapping[str, Any]) -> str:
    return f"; fields: {', '.join(names)}" if names else "; the class has no annotated fields"


def _best(below: list[RunResult]) -> float | None:
    """Return the score of the last run inside that has one."""
    scores = [run.value for run in below if isinstance(run.value, float)]
    return scores[-1] if scores else None


async def value_of(root: Root, compiled: Compiled, state: State) -> Any:
    """Return the output of the last stage, loop, branch or parallel stages, from the State."""
    last = compiled.steps[-1] if compiled.steps else None
    if isinstance(last, StageStep) and last.contract is not None and last.contract.model is not None:
        await read_ahead(root.threads, (state._models.get(last.contract.model),))
        return state._model(last.contract.model)
    names = () if last is None else result_names((last,))
    await read_ahead(root.threads, map(state._fields.get, names))
    values = {name: state[name] for name in names if name in state}
    return next(iter(values.values())) if len(names) == 1 and values else values or None
