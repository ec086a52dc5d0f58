"""The fluent builder: a pipeline is data, every call returns a new one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from operator import is_
from pathlib import Path
from typing import Literal, NamedTuple, final

from sweep.deferred import launch
from sweep.errors import ContractError, did_you_mean
from sweep.pipeline.checker import compile_nodes
from sweep.pipeline.contracts import MISSING, Parameter, Signature
from sweep.pipeline.drawing import mermaid, outline, plan
from sweep.pipeline.nodes import (
    HOOKS,
    ITEM_HOOKS,
    Branch,
    Each,
    Loop,
    Node,
    Parallel,
    Ref,
    Side,
    Stage,
    Through,
    arity_problems,
    caller,
    classify,
    contracted,
    field_problems,
    name_problem,
    refuse,
    unfinished,
    warn_at,
)
from sweep.pipeline.runs import run_pipeline
from sweep.pipeline.state import State
from sweep.pipeline.steps import Compiled
from sweep.pipeline.units import Unit, has_config
from sweep.store.writer import Durability

__all__ = ["Pipeline"]

_BUILDS = 8


class _Build(NamedTuple):
    """What a pipeline came to among these fields, within these global hooks."""

    known: dict[str, object]
    hooks: tuple[Mapping[str, object], ...]
    compiled: Compiled


@final
class Pipeline:
    """A chain of stages joined by typed contracts.

    Fluent and immutable: every call returns a new pipeline, so a shared prefix is safe.

    Args:
        **inputs: Declared inputs, name to annotation; then anything else unbound is an error.
            Without any, required parameters that nothing gives are found out to be inputs.

    Example:
        >>> def double(x: int) -> int:
        ...     return 2 * x
        >>> Pipeline().stage("double", double).through(y=int).run(x=21).y
        42
    """

    __slots__ = ("_cache", "_declared", "_done", "_hooks", "_open")

    def __init__(self, **inputs: object) -> None:
        refuse("Pipeline(…)", field_problems(inputs))
        self._declared: Mapping[str, object] | None = inputs or None
        self._done: tuple[Node, ...] = ()
        self._open: tuple[tuple[Loop, tuple[Node, ...]], ...] = ()
        self._hooks: Mapping[str, object] = {}
        self._cache: list[_Build] = []

    # ------------------------------------------------------------ building

    def _next(self, **changes: object) -> Pipeline:
        new = Pipeline.__new__(Pipeline)
        for name in ("_declared", "_done", "_open", "_hooks"):
            setattr(new, name, changes.get(name, getattr(self, name)))
        new._cache = []
        return new

    def stage(
        self, name: str, what: object, /, *, settings: Mapping[str, object] | None = None, **hooks_or_settings: object
    ) -> Pipeline:
        """Add a stage.

        Args:
            name: Unique in this pipeline; part of the run's identity.
            what: A function (sync or async), a Pipeline, an Experiment, a Scope, a Tracker.
            settings: Settings whose names clash with hooks.
            **hooks_or_settings: Hooks (``retry=3``), or values for the stage's parameters.

        Raises:
            ContractError: The name or a hook is wrong by itself.
        """
        where = caller(2)
        refuse(where, _wrong(name, what))
        _, hooks, given = classify(where, hooks_or_settings, may_have_fields=False)
        return self._add(Stage(name, what, where, {**given, **(settings or {})}, hooks))

    def through(
        self,
        model: object = None,
        /,
        *,
        fields: Mapping[str, object] | None = None,
        settings: Mapping[str, object] | None = None,
        **fields_hooks_settings: object,
    ) -> Pipeline:
        """Type what passes the seam after the stage before, and hang hooks on it.

        Args:
            model: A pydantic model or dataclass; adds its fields and itself.
            fields: Fields whose names clash with hooks.
            settings: Settings whose names clash with hooks.
            **fields_hooks_settings: ``name=type`` is a field, a hook's name is a hook,
                anything else is a setting for the stage's parameter of that name.

        Raises:
            ContractError: There is no stage before, it has a contract already, or a keyword is wrong.
        """
        where = caller(2)
        found, hooks, given = classify(where, fields_hooks_settings, may_have_fields=True)
        found.update(fields or {})
        refuse(where, field_problems(found))
        *before, last = self._body() or (None,)
        joined = contracted(last, where, Through(model, found), hooks, {**given, **(settings or {})})
        return self._replace((*before, joined))

    def with_global_hooks(self, **hooks: object) -> Pipeline:
        """Wrap every stage, nested experiments included; local hooks win, before/after/metrics add.

        Raises:
            ContractError: A keyword is no hook.
        """
        where = caller(2)
        refuse(where, [f"{name!r} is no hook{did_you_mean(name, HOOKS)}" for name in hooks if name not in HOOKS])
        classify(where, hooks, may_have_fields=False)
        return self._next(_hooks={**self._hooks, **hooks})

    def loop_while(
        self, predicate: Callable[..., object], *, name: str = "loop", max_iterations: int | None = None
    ) -> Pipeline:
        """Begin a loop: its stages run as long as ``predicate(state)`` holds; close it with ``end_loop()``.

        Args:
            predicate: Gets the State; sync or async.
            name: Unique in this pipeline.
            max_iterations: More than that is an error that names the predicate.

        Raises:
            ContractError: The name, predicate or limit is wrong by itself.
        """
        where, problems = caller(2), _wrong_turn("loop", name, predicate)
        whole = isinstance(max_iterations, int) and not isinstance(max_iterations, bool)
        if max_iterations is not None and (not whole or max_iterations < 1):
            problems.append(f"loop {name!r}: max_iterations={max_iterations!r}, expected a whole number >= 1")
        refuse(where, problems)
        return self._next(_open=(*self._open, (Loop(name, predicate, max_iterations, where), ())))

    def end_loop(self) -> Pipeline:
        """End the innermost open loop.

        Raises:
            ContractError: No loop is open.
        """
        if not self._open:
            raise ContractError(caller(2), ["end_loop() without loop_while(…)"])
        *outer, last = self._open
        return self._next(_open=tuple(outer))._add(*unfinished((), [last]))

    def branch(self, predicate: Callable[..., object], then: object, otherwise: object = None, *, name: str) -> Pipeline:
        """Take one of two ways, as ``predicate(state)`` says; a resumed run takes the same.

        The stages of a side see the whole State, as if they stood here, and are journaled below the
        branch's name. What only one side gives may be missing afterwards.

        Args:
            predicate: Gets the State; sync or async.
            then: A pipeline, or a single function or experiment, whose contract is the ``.through`` that follows.
            otherwise: The other side; None = go on.
            name: Unique in this pipeline.

        Raises:
            ContractError: The name, the predicate or a side is wrong by itself.

        Example:
            >>> ways = Pipeline(n=int).branch(lambda s: s.n % 2, lambda n: 3 * n + 1, lambda n: n // 2, name="step")
            >>> ways.through(next=int).run(n=7).next
            22
        """
        where, problems = caller(2), _wrong_turn("branch", name, predicate)
        side = _side("then", then, where, problems)
        other = Side(()) if otherwise is None else _side("otherwise", otherwise, where, problems)
        refuse(where, problems)
        return self._add(Branch(name, predicate, side, other, where))

    def parallel(self, **stages: object) -> Pipeline:
        """Run stages at once on the same State; the first that fails cancels the others.

        Args:
            **stages: Name to function, pipeline or experiment. A pipeline gives all its fields; what anything
                else returns is the field of its name, typed by its annotation or by the ``.through`` that follows.

        Raises:
            ContractError: No stages, or one of them is wrong by itself.

        Example:
            >>> both = Pipeline(x=int).parallel(double=lambda x: 2 * x, square=lambda x: x * x)
            >>> both.through(double=int, square=int).run(x=3)
            State(x=3, double=6, square=9)
        """
        where = caller(2)
        problems = [f"parallel: {problem}" for name, what in stages.items() for problem in _wrong(name, what)]
        if not stages:
            problems.append("parallel() needs stages: parallel(name=function, …)")
        refuse(where, problems)
        return self._add(Parallel(tuple(Stage(name, what, where) for name, what in stages.items()), where))

    def map(
        self,
        name: str,
        stage: object,
        *,
        over: str | Ref,
        concurrency: int = 1,
        on_failure: Literal["stop", "continue"] = "stop",
        settings: Mapping[str, object] | None = None,
        **hooks_or_settings: object,
    ) -> Pipeline:
        """Run a stage for each item of a field; ``.through(results=list[X])`` types the ordered results.

        The item goes to the one parameter that nothing else gives (of several, to ``item``, else to the
        first). In a durable run each item is kept by itself as ``name[3]``, and a resume runs exactly the
        failed and unfinished ones. Hooks given here wrap each item, those of ``.through`` the map as a whole.

        Args:
            name: Unique in this pipeline.
            stage: A function, pipeline or experiment. A pipeline comes to the fields of its last stage.
            over: Name of the field that holds the items; any iterable, read as the items are needed.
            concurrency: Items at once.
            on_failure: ``"stop"`` cancels the others; under ``"continue"`` a failed item is None in the
                results and its error in ``.failures`` by index.
            settings: Settings whose names clash with hooks.
            **hooks_or_settings: Hooks of each item, or values for the stage's parameters.

        Raises:
            ContractError: The name, an argument or a hook is wrong by itself.

        Example:
            >>> squares = Pipeline().map("square", lambda x: x * x, over="xs", concurrency=2)
            >>> squares.through(squares=list[int]).run(xs=[1, 2, 3]).squares
            [1, 4, 9]
        """
        where = caller(2)
        problems = _wrong(name, stage) + _wrong_map(name, over, concurrency, on_failure)
        _, hooks, given = classify(where, hooks_or_settings, may_have_fields=False)
        whole = [hook for hook in hooks if hook not in ITEM_HOOKS]
        problems += [f"map {name!r}: {hook}= is not for single items; give it in .through(…)" for hook in whole]
        refuse(where, problems)
        field = over.name if isinstance(over, Ref) else over
        each = Each(stage, field, concurrency, on_failure == "continue", {**given, **(settings or {})}, hooks)
        return self._add(Stage(name, each, where))

    def then(self, other: Pipeline) -> Pipeline:
        """Append the stages of another pipeline.

        Raises:
            ContractError: One of the two has an open loop.
        """
        if self._open or other._open:
            raise ContractError(caller(2), ["then(…) with an open loop: close it with end_loop()"])
        declared = {**(self._declared or {}), **(other._declared or {})} or None
        return self._next(_done=self._done + other._done, _declared=declared, _hooks={**self._hooks, **other._hooks})

    def _body(self) -> tuple[Node, ...]:
        return self._open[-1][1] if self._open else self._done

    def _replace(self, body: tuple[Node, ...]) -> Pipeline:
        if not self._open:
            return self._next(_done=body)
        *outer, (loop, _) = self._open
        return self._next(_open=(*outer, (loop, body)))

    def _add(self, node: Node) -> Pipeline:
        return self._replace((*self._body(), node))

    # ------------------------------------------------------------ reading

    @property
    def inputs(self) -> dict[str, object]:
        """Required inputs: name to annotation."""
        return dict(self._compile().inputs)

    @property
    def outputs(self) -> dict[str, object]:
        """Fields that the stages give: name to annotation."""
        return dict(self._compile().outputs)

    def check(self, strict: bool = False) -> Pipeline:
        """Build the pipeline: bind every parameter, compare every type; runs nothing.

        Args:
            strict: What cannot be proved is an error, too; else it is a warning, given once.

        Returns:
            The pipeline itself.

        Raises:
            ContractError: With all mismatches at once.
        """
        self._checked(strict=strict)
        return self

    def plan(self) -> str:
        """Return what would run, a line for each stage: what it takes, gives, and whether it is kept."""
        return plan(self._checked().steps)

    def to_mermaid(self) -> str:
        """Return the pipeline as a Mermaid flowchart; edges carry the contracts.

        Example:
            >>> print(Pipeline().stage("a", lambda: 1).through(x=int).stage("b", lambda x: None).to_mermaid())
            flowchart TD
                s0["a"]
                s1["b"]
                s0 -->|"x: int"| s1
        """
        return mermaid(self._checked().steps)

    def __repr__(self) -> str:
        return f"Pipeline({outline(unfinished(self._done, self._open)) or 'empty'})"

    def _compile(self, known: Mapping[str, object] | None = None, hooks: Sequence[Mapping[str, object]] = ()) -> Compiled:
        known = dict(known or {})
        for built in self._cache:
            if built.known == known and len(built.hooks) == len(hooks) and all(map(is_, built.hooks, hooks)):
                return built.compiled
        every = [*hooks, self._hooks] if self._hooks else list(hooks)
        nodes = unfinished(self._done, self._open)
        compiled = compile_nodes(nodes, declared=self._declared, known=known, hooks=every)
        compiled.problems += [f"loop {one.name!r} ({one.where}) is not closed; add .end_loop()" for one, _ in self._open]
        if not has_config(nodes):  # a config may resolve to other values next time
            del self._cache[: -_BUILDS + 1]
            self._cache.append(_Build(known, tuple(hooks), compiled))
        return compiled

    def _checked(
        self, known: Mapping[str, object] | None = None, hooks: Sequence[Mapping[str, object]] = (), *, strict: bool = False
    ) -> Compiled:
        compiled = self._compile(known, hooks)
        refuse("pipeline", compiled.problems + [one.text for one in compiled.warnings if strict])
        if not compiled.warned:
            compiled.warned = True
            for text, where in compiled.warnings:
                warn_at(where, text)
        return compiled

    # ------------------------------------------------------------ running

    def __sweep_stage__(self, known: Mapping[str, object]) -> Unit:
        """Return this pipeline as a stage of another one."""
        inner = self._compile()
        parameters = tuple(
            Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation, False)
            for name, annotation in inner.inputs.items()
        )
        signature = Signature(repr(self), parameters, MISSING, "", True, False, True, tuple(inner.problems))
        return Unit("pipeline", self.run, signature, nested=inner, structure=inner.structure, within=self._within)

    def _within(self, hooks: Sequence[Mapping[str, object]]) -> Compiled:
        return self._compile(hooks=hooks)

    def run(
        self,
        inputs: Mapping[str, object] | None = None,
        /,
        *,
        name: str | None = None,
        store: str | Path | None = None,
        resume: Literal["auto", "never", "must"] = "auto",
        durability: Durability = "process",
        **more_inputs: object,
    ) -> State:
        """Check, then run. Returns the last State; inside an event loop, await it.

        Args:
            inputs: Inputs by name (for names that clash with the arguments below).
            name: Makes the run durable: it is journaled, and goes on where it stopped. Inside of a run that is
                kept it is kept anyhow, as ``Pipeline``, ``Pipeline#2`` … of the stage that runs it.
            store: SQLite file; None = ``$SWEEP_STORE`` or ``./sweep.db``.
            resume: Go on with the latest unfinished run of that name, never, or insist.
            durability: ``"process"`` survives kill -9, ``"power"`` a power cut.
            **more_inputs: Inputs by name.

        Raises:
            ContractError: The pipeline does not fit together, or inputs are missing or unknown.
            ContractViolation: A value broke its contract.
            ResumeRefused: ``resume="must"`` and the pipeline has changed.
        """
        values = {**(inputs or {}), **more_inputs}

        async def main(owns_loop: bool) -> State:
            return await run_pipeline(self._checked, values, name, store, resume, durability, owns_loop)

        return launch(State, main, "run()")


def _wrong(name: object, what: object) -> list[str]:
    """Return what is wrong with a stage by itself."""
    problem = name_problem("stage", name)
    if problem is None and not callable(what) and not hasattr(what, "__sweep_stage__"):
        problem = f"stage {name!r}: {what!r} is no function, pipeline or experiment"
    return [] if problem is None else [problem]


def _wrong_turn(kind: str, name: str, predicate: object) -> list[str]:
    """Return what is wrong with the name and the predicate of a loop or a branch."""
    problem = name_problem(kind, name)
    found = [] if problem is None else [problem]
    if not callable(predicate):
        return [*found, f"{kind} {name!r}: the predicate {predicate!r} is no function"]
    return found + arity_problems(f"{kind} {name!r}: the predicate ", predicate, "the State")


def _wrong_map(name: str, over: object, concurrency: object, on_failure: object) -> list[str]:
    """Return what is wrong with the arguments of a map."""
    problems = []
    if not isinstance(over, str | Ref):
        problems.append(f"map {name!r}: over={over!r}: expected the name of a field that holds the items")
    if isinstance(concurrency, bool) or not isinstance(concurrency, int) or concurrency < 1:
        problems.append(f"map {name!r}: concurrency={concurrency!r}: expected a whole number >= 1")
    if on_failure not in ("stop", "continue"):
        problems.append(f"map {name!r}: on_failure={on_failure!r}: expected 'stop' or 'continue'")
    return problems


def _side(side: str, what: object, where: str, problems: list[str]) -> Side:
    """Return one side of a branch: the stages of a pipeline, or a single stage named after the side."""
    if not isinstance(what, Pipeline):
        problems += _wrong(side, what)
        return Side((Stage(side, what, where),))
    if what._open:
        problems.append(f"the {side} side has an open loop: close it with end_loop()")
    return Side(what._done, what._declared, what._hooks)
