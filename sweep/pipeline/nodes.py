"""What a pipeline is made of: stages, loops, branches, maps, contracts and hooks as they were written.

Here only what is wrong by itself is refused; what needs to see the whole is found by ``checker``.
"""

from __future__ import annotations

import inspect
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias, final

from sweep.errors import ContractError, did_you_mean
from sweep.pipeline.annotations import Annotation, is_annotation

__all__ = [
    "HOOKS", "ITEM_HOOKS", "Branch", "Cache", "Each", "Hooks", "Loop", "Node", "Parallel", "Ref", "Retry", "Side", "Stage",
    "Through", "classify", "contents_of", "contracted", "ref", "refuse",
]  # fmt: skip

HOOKS = (
    "skip_if", "checkpoint", "cache", "on_error", "retry", "resources", "timeout", "breakpoint", "before", "profile",
    "isolate", "transform", "validate", "metrics", "after",
)  # fmt: skip
"""All hooks, outer to inner, then the two that come after the commit."""

ITEM_HOOKS = (
    "on_error", "retry", "resources", "timeout", "breakpoint", "before", "profile", "isolate", "transform", "validate",
)  # fmt: skip
"""Hooks that wrap a single item of a map."""

Hooks: TypeAlias = Mapping[str, Any]
"""Values of hooks by name; ``classify`` lets none pass that is not of its hook's kind."""

_RESERVED = ("ctx", "state")
_FORBIDDEN = "/#[]"


@final
@dataclass(frozen=True, slots=True)
class Ref:
    """A reference to a field, to be resolved when the stage starts; made by :func:`ref`."""

    name: str


def ref(name: str) -> Ref:
    """Refer to a field in a stage's settings.

    Example:
        >>> ref("exploration_results")
        Ref(name='exploration_results')
    """
    return Ref(name)


@final
@dataclass(frozen=True, slots=True)
class Retry:
    """How a stage is tried again.

    Args:
        retries: More attempts after the first.
        backoff: Seconds before the second attempt; doubles each time.
        max_backoff: Longest wait in seconds.
        jitter: Wait a random part of it (between half and all).
        on: Exception class or classes that are worth another attempt.

    Raises:
        ValueError: A negative number, or not a whole number of retries.
    """

    retries: int
    backoff: float = 0.1
    max_backoff: float = 60
    jitter: bool = True
    on: type[Exception] | tuple[type[Exception], ...] = Exception

    def __post_init__(self) -> None:
        if isinstance(self.retries, bool) or not isinstance(self.retries, int) or self.retries < 0:
            raise ValueError(f"Retry(retries={self.retries!r}): expected a whole number >= 0")
        if self.backoff < 0 or self.max_backoff < 0:
            raise ValueError(
                f"Retry(backoff={self.backoff!r}, max_backoff={self.max_backoff!r}): expected seconds >= 0"
            )


@final
@dataclass(frozen=True, slots=True)
class Cache:
    """How a stage's output is shared between runs of one store.

    An output is found again by the stage's code, helpers of its module included, and by its arguments. What
    the code reads elsewhere does not count: files, the environment, a global that is computed at import
    (``FACTOR = int(sys.argv[1])`` counts as written, not by its value). Pass such values as arguments.

    Args:
        ttl: Seconds for which an output is good; None = for ever.
        key: Function of the stage's arguments (a mapping) to plain data; None = all of them.
    """

    ttl: float | None = None
    key: Callable[[Mapping[str, Any]], object] | None = None


@final
@dataclass(frozen=True, slots=True)
class Through:
    """A contract as it was written: ``.through(model, **fields)``."""

    model: Annotation | None
    fields: Mapping[str, Annotation]


@final
@dataclass(frozen=True, slots=True)
class Stage:
    """A stage as it was written."""

    name: str
    what: object
    where: str
    settings: Mapping[str, object] = field(default_factory=dict)
    hooks: Hooks = field(default_factory=dict)
    through: Through | None = None


@final
@dataclass(frozen=True, slots=True)
class Loop:
    """A ``loop_while`` with its body."""

    name: str
    predicate: Callable[..., object]
    max_iterations: int | None
    where: str
    body: tuple[Node, ...] = ()


@final
@dataclass(frozen=True, slots=True)
class Each:
    """What the stage of a map runs: ``what`` for each item of a field."""

    what: object
    over: str
    concurrency: int
    goes_on: bool
    settings: Mapping[str, object] = field(default_factory=dict)
    hooks: Hooks = field(default_factory=dict)


@final
@dataclass(frozen=True, slots=True)
class Side:
    """One side of a branch: the stages of a pipeline, with its declared inputs and global hooks."""

    nodes: tuple[Node, ...]
    declared: Mapping[str, Annotation] | None = None
    hooks: Hooks = field(default_factory=dict)


@final
@dataclass(frozen=True, slots=True)
class Branch:
    """A ``branch`` with its sides."""

    name: str
    predicate: Callable[..., object]
    then: Side
    otherwise: Side
    where: str


@final
@dataclass(frozen=True, slots=True)
class Parallel:
    """Stages that run at once; what one without a contract returns is the field of its name."""

    stages: tuple[Stage, ...]
    where: str


Node = Stage | Loop | Branch | Parallel


def contents_of(nodes: Sequence[Node]) -> Iterator[object]:
    """Yield what the stages run, at any depth of loops, branches, maps and parallel stages."""
    for node in nodes:
        if isinstance(node, Loop):
            yield from contents_of(node.body)
        elif isinstance(node, Branch):
            yield from contents_of((*node.then.nodes, *node.otherwise.nodes))
        elif isinstance(node, Parallel):
            yield from contents_of(node.stages)
        else:
            yield node.what.what if isinstance(node.what, Each) else node.what


def classify(
    where: str, keywords: Mapping[str, object], *, may_have_fields: bool
) -> tuple[dict[str, Annotation], dict[str, Any], dict[str, object]]:
    """Sort keywords into fields, hooks and settings.

    Raises:
        ContractError: A hook whose value is a type, or of the wrong kind.
    """
    fields: dict[str, Annotation] = {}
    hooks: dict[str, Any] = {}
    settings: dict[str, object] = {}
    problems: list[str] = []
    for name, value in keywords.items():
        if name in HOOKS:
            if is_annotation(value):
                problems.append(f"{name!r} is a hook; for a field of that name write fields={{{name!r}: …}}")
            else:
                hooks[name] = value
        elif may_have_fields and is_annotation(value):
            fields[name] = value
        else:
            settings[name] = value
    problems += [problem for name, value in hooks.items() for problem in hook_problems(name, value)]
    refuse(where, problems)
    return fields, hooks, settings


def refuse(where: str, problems: list[str]) -> None:
    """Raise the problems of a place, if there are any.

    Raises:
        ContractError: There are.
    """
    if problems:
        raise ContractError(where, problems)


def hook_problems(name: str, value: object) -> list[str]:
    """Return what is wrong with a hook's value by itself."""
    expected = _EXPECTED[name]
    if not expected[0](value):
        return [f"hook {name}={value!r}: expected {expected[1]}"]
    return arity_problems(f"hook {name}=", value, _GETS.get(name, "the output")) if callable(value) else []


def arity_problems(what: str, function: Callable[..., object], gets: str) -> list[str]:
    """Return what is wrong with the parameters of a function that is no stage: it gets one argument, or two."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # it does not tell
        return []
    parameters = signature.parameters.values()
    needed = [one.name for one in parameters if one.default is one.empty and one.kind not in _VARIADIC]
    by_name = [one.name for one in parameters if one.default is one.empty and one.kind is one.KEYWORD_ONLY]
    takes_none = all(one.kind in (one.KEYWORD_ONLY, one.VAR_KEYWORD) for one in parameters)
    if len(needed) <= 2 and not by_name and not takes_none:
        return []
    told = getattr(function, "__qualname__", repr(function)).rpartition("<locals>.")[2]
    return [f"{what}{told}{signature}: it gets {gets}, or two arguments, by position"]


def _is_seconds(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < float("inf")


def _is_retry(value: object) -> bool:
    return isinstance(value, Retry) or (isinstance(value, int) and not isinstance(value, bool) and value >= 0)


def _is_resources(value: object) -> bool:
    from sweep.trial import Resources

    return isinstance(value, Resources)


_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_GETS = {
    "skip_if": "the State", "before": "the State", "breakpoint": "the State", "on_error": "the exception",
    "transform": "the raw return value", "profile": "the figures", "metrics": "a mapping of the fields",
}  # fmt: skip
"""What a hook gets, where that is not the stage's output."""
_FUNCTION: tuple[Callable[[object], bool], str] = (callable, "a function")
_EXPECTED: dict[str, tuple[Callable[[object], bool], str]] = {
    "skip_if": _FUNCTION,
    "checkpoint": (lambda value: isinstance(value, bool), "True or False"),
    "cache": (lambda value: isinstance(value, bool | Cache), "True, False or Cache(ttl=…, key=…)"),
    "on_error": _FUNCTION,
    "retry": (_is_retry, "a whole number of retries or Retry(…)"),
    "resources": (_is_resources, "Resources(…)"),
    "timeout": (_is_seconds, "seconds > 0"),
    "breakpoint": (lambda value: isinstance(value, bool) or callable(value), "True, False or a predicate"),
    "before": _FUNCTION,
    "profile": (lambda value: isinstance(value, bool) or callable(value), "True, False or a function"),
    "isolate": (lambda value: value in (None, "process"), "'process'"),
    "transform": _FUNCTION,
    "validate": _FUNCTION,
    "metrics": _FUNCTION,
    "after": _FUNCTION,
}


def name_problem(kind: str, name: object) -> str | None:
    """Return what is wrong with the name of a stage, loop or branch, or None."""
    if not isinstance(name, str) or not name or any(mark in name for mark in _FORBIDDEN) or name != name.strip():
        return f"a {kind} needs a name without {' '.join(_FORBIDDEN)} and outer spaces, got {name!r}"
    return None


def field_problems(fields: Mapping[str, Annotation]) -> list[str]:
    """Return what is wrong with the names of fields."""
    problems = [f"{name!r} is a reserved name; call the field something else" for name in fields if name in _RESERVED]
    return problems + [f"{name!r} is no name for a field" for name in fields if not str(name).isidentifier()]


def _attach(stage: Stage, where: str, through: Through, hooks: Hooks, settings: Mapping[str, object]) -> Stage:
    """Return the stage with its contract."""
    if stage.through is not None:
        raise ContractError(
            where, [f"stage {stage.name!r} has a contract already; name all its fields in one .through"]
        )
    twice = [name for name in hooks if name in stage.hooks] + [name for name in settings if name in stage.settings]
    if twice:
        raise ContractError(where, [f"{name!r} is given in .stage and in .through; keep one" for name in twice])
    return replace(stage, through=through, hooks={**stage.hooks, **hooks}, settings={**stage.settings, **settings})


def contracted(node: Node | None, where: str, through: Through, hooks: Hooks, settings: Mapping[str, object]) -> Node:
    """Return a node with a contract: a branch has it on each side, each of parallel stages the field of its name.

    Raises:
        ContractError: A stage has a contract already, or a hook or setting is given twice; a side is a pipeline,
            which has contracts of its own; a field is no stage's; there is nothing before that could have one.
    """
    if isinstance(node, Stage):
        return _attach(node, where, through, hooks, settings)
    if node is None or isinstance(node, Loop):
        text = ".through(…) belongs right after a .stage(…), .map(…), .branch(…) or .parallel(…)"
        raise ContractError(where, [text])
    if isinstance(node, Parallel):
        return _share_among(node, where, through, hooks, settings)
    sides = []
    for side in (node.then, node.otherwise):
        stages = [one for one in side.nodes if isinstance(one, Stage) and one.through is None]
        if len(side.nodes) > 1 or len(stages) < len(side.nodes):
            text = f"the stages of branch {node.name!r} have contracts of their own; .through is for functions"
            raise ContractError(where, [text])
        sides.append(replace(side, nodes=tuple(_attach(one, where, through, hooks, settings) for one in stages)))
    return replace(node, then=sides[0], otherwise=sides[1])


def _share_among(
    node: Parallel, where: str, through: Through, hooks: Hooks, settings: Mapping[str, object]
) -> Parallel:
    names = [stage.name for stage in node.stages]
    problems = [
        f"{name!r} is no stage of parallel({', '.join(names)}){did_you_mean(name, names)}"
        for name in through.fields
        if name not in names
    ]
    problems += [f"{name!r} is no hook, and no stage of parallel({', '.join(names)})" for name in settings]
    if through.model is not None:
        problems.append("parallel stages give a field each: .through(name=type, …)")
    refuse(where, problems)
    parts = {name: Through(None, {name: annotation}) for name, annotation in through.fields.items()}
    stages = tuple(
        _attach(stage, where, parts[stage.name], hooks, settings)
        if stage.name in parts
        else replace(stage, hooks={**stage.hooks, **hooks})
        for stage in node.stages
    )
    return replace(node, stages=stages)


def caller(depth: int) -> str:
    """Return ``file:line`` of the code that called the builder."""
    frame = sys._getframe(depth)
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def warn_at(where: str, text: str) -> None:
    """Warn at a place of the user's code: ``warnings`` itself would name ours, which calls the stage."""
    file, _, line = where.rpartition(":")
    spaces = (getattr(module, "__dict__", {}) for module in list(sys.modules.values()))
    names: dict[str, Any] = next((one for one in spaces if one.get("__file__") == file), {})
    registry = names.setdefault("__warningregistry__", {})  # the same text is shown once, as by warnings.warn()
    warnings.warn_explicit(text, RuntimeWarning, file, int(line), module=names.get("__name__"), registry=registry)


def unfinished(nodes: tuple[Node, ...], loops: Sequence[tuple[Loop, tuple[Node, ...]]]) -> tuple[Node, ...]:
    """Return nodes and the loops that are still open behind them, as if these were closed."""
    inner: tuple[Node, ...] = ()
    for loop, body in reversed(loops):
        inner = (replace(loop, body=(*body, *inner)),)
    return (*nodes, *inner)


def unknown_hook(name: str) -> str:
    """Return a hint for a keyword that is nearly a hook."""
    return did_you_mean(name, HOOKS)
