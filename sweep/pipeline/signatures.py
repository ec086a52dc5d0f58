"""What a function says of itself: parameters, annotations, place.

:func:`read_signature` never raises over user code: what cannot be read becomes a
sentence in ``problems``, which ``check()`` lists with all other problems.
"""

from __future__ import annotations

import collections.abc as abc
import contextlib
import dataclasses
import enum
import functools
import inspect
import os
import sys
import types
from collections.abc import Callable, Mapping
from typing import Any, Final, final

import typing_extensions

from sweep.errors import did_you_mean
from sweep.pipeline.annotations import Annotation, split

__all__ = ["MISSING", "Missing", "Parameter", "Signature", "read_signature"]


@final
class Missing(enum.Enum):
    """The class of :data:`MISSING`, for annotations."""

    MISSING = "no annotation"


#: Stands where there is no annotation, or one that cannot be resolved.
MISSING: Final = Missing.MISSING


@final
@dataclasses.dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a function.

    Attributes:
        name: Its name.
        kind: As ``inspect.Parameter.kind``.
        annotation: Resolved, with ``Annotated`` kept; ``MISSING`` without one.
        has_default: It may be left out.
    """

    name: str
    kind: inspect._ParameterKind
    annotation: Annotation
    has_default: bool

    @property
    def variadic(self) -> bool:
        """It is ``*args`` or ``**kwargs``."""
        return self.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)

    @property
    def required(self) -> bool:
        """It must be given: it has no default and is not variadic."""
        return not self.has_default and not self.variadic


@final
@dataclasses.dataclass(frozen=True, slots=True)
class Signature:
    """What a callable says of itself.

    Attributes:
        name: Name for messages.
        parameters: In order, without ``self`` and without what a partial has given positionally.
        returns: Resolved return annotation; what awaiting it gives, if it is awaitable; ``MISSING`` without one.
        where: ``"file:line"``, or the module's name where there is no source.
        is_async: Calling it gives an awaitable.
        is_generator: Calling it gives a generator, sync or async.
        known: Whether a signature could be read at all; some builtins have none.
        problems: Sentences about annotations that could not be resolved.
    """

    name: str
    parameters: tuple[Parameter, ...]
    returns: Annotation
    where: str
    is_async: bool
    is_generator: bool
    known: bool = True
    problems: tuple[str, ...] = ()


def read_signature(function: Callable[..., object]) -> Signature:
    """Read parameters, annotations and place of any callable.

    Functions, lambdas, bound methods, partials, instances with ``__call__`` and
    classes (their constructor; the result is the class) are understood. String
    annotations are resolved in the function's module, class and closure.

    Args:
        function: The callable.

    Returns:
        The facts; unresolvable annotations are ``MISSING`` with a sentence in ``problems``.

    Example:
        >>> def train(lr: "float", steps: int = 3) -> "list[float]": ...
        >>> facts = read_signature(train)
        >>> [(p.name, p.annotation, p.has_default) for p in facts.parameters], facts.returns
        ([('lr', <class 'float'>, False), ('steps', <class 'int'>, True)], list[float])
    """
    code = _innermost(function)
    name, where = _name_of(function), _where(code)
    try:
        read = inspect.signature(function)
    except (ValueError, TypeError):
        return Signature(name, (), MISSING, where, _is_async(function), _is_generator(function), known=False)
    problems: list[str] = []
    scope = _Scope(code, f"{name} ({where})", problems)
    parameters = tuple(
        Parameter(
            parameter.name,
            parameter.kind,
            scope.resolve(parameter.annotation, f"of parameter {parameter.name!r}"),
            parameter.default is not inspect.Parameter.empty,
        )
        for parameter in read.parameters.values()
    )
    if inspect.isclass(function):
        return Signature(name, parameters, function, where, False, False, problems=tuple(problems))
    returns, awaitable = _awaited(scope.resolve(read.return_annotation, "of its return value"))
    is_async = awaitable or _is_async(function)
    return Signature(name, parameters, returns, where, is_async, _is_generator(function), problems=tuple(problems))


def _awaited(annotation: Annotation) -> tuple[Annotation, bool]:
    """Return what awaiting gives, and whether the annotation says that it must be awaited."""
    origin, args = split(annotation)
    if origin in (abc.Awaitable, abc.Coroutine):
        return (args[-1] if args else MISSING), True
    return annotation, False


# ---------------------------------------------------------------- the code behind a callable


def _called(function: Any) -> Any:
    """Return the function that runs when ``function`` is called, its wrappers kept."""
    while isinstance(function, functools.partial):
        function = function.func
    if inspect.isclass(function) or inspect.isroutine(function):
        return function
    return getattr(type(function), "__call__", function)  # noqa: B004  (the method is wanted, not the answer)


def _innermost(function: Any) -> Any:
    """Return the function or class that carries code, annotations and namespace."""
    inner = inspect.unwrap(_called(function))
    while isinstance(inner, functools.partial | types.MethodType):
        inner = inspect.unwrap(inner.func if isinstance(inner, functools.partial) else inner.__func__)
    return inner


def _is_async(function: object) -> bool:
    called = _called(function)
    return inspect.iscoroutinefunction(called) or inspect.iscoroutinefunction(_innermost(function))


def _is_generator(function: object) -> bool:
    code = _innermost(function)
    return inspect.isgeneratorfunction(code) or inspect.isasyncgenfunction(code)


def _name_of(function: object) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    return str(name).rpartition("<locals>.")[2]


def _where(code: object) -> str:
    """Return ``"file:line"``, the file relative to the working directory where it lies below it."""
    held = getattr(code, "__code__", None)
    if held is not None:
        return f"{_short(held.co_filename)}:{held.co_firstlineno}"
    if inspect.isclass(code):
        try:
            return f"{_short(inspect.getsourcefile(code) or '')}:{inspect.getsourcelines(code)[1]}"
        except (OSError, TypeError):  # builtin, or typed into a prompt
            return str(code.__module__)
    return str(getattr(code, "__module__", None) or type(code).__module__)


def _short(path: str) -> str:
    below = os.path.join(os.getcwd(), "")
    return path.removeprefix(below)


# ---------------------------------------------------------------- resolving annotations


@final
class _Scope:
    """Where the string annotations of one function are looked up, each on its own."""

    def __init__(self, code: object, told: str, problems: list[str]) -> None:
        self._told, self._problems = told, problems
        module = sys.modules.get(getattr(code, "__module__", None) or "", types.ModuleType("unknown"))
        self._globals: dict[str, Any] = getattr(code, "__globals__", None) or vars(module)
        self._locals = _enclosing(code, self._globals)

    def resolve(self, annotation: Annotation, what: str) -> Annotation:
        """Return the annotation with all forward references replaced."""
        if annotation is inspect.Parameter.empty:
            return MISSING
        carrier = types.SimpleNamespace(__annotations__={"it": annotation})
        try:
            hints = typing_extensions.get_type_hints(carrier, self._globals, dict(self._locals), include_extras=True)
            return hints["it"]
        except NameError as error:
            missing = error.name or str(error)
            meant = did_you_mean(missing, [*self._globals, *self._locals])
            remedy = meant or "; import or define it where the function is defined, not inside another function"
            self._problems.append(f"{self._told}: annotation {annotation!r} {what}: no name {missing!r}{remedy}")
        except (TypeError, AttributeError, SyntaxError, ValueError) as error:
            self._problems.append(f"{self._told}: annotation {annotation!r} {what} cannot be read: {error}")
        return MISSING


def _enclosing(code: object, names: Mapping[str, object]) -> dict[str, Any]:
    """Return the names around a function: its class, its closure, its type parameters."""
    found: dict[str, object] = {}
    owner = names.get(str(getattr(code, "__qualname__", "")).partition(".")[0])
    if inspect.isclass(code):
        owner = code
        found[code.__name__] = code
    if inspect.isclass(owner):
        found.update(vars(owner))
        found.update({parameter.__name__: parameter for parameter in getattr(owner, "__type_params__", ())})
    if inspect.isfunction(code):
        for name, cell in zip(code.__code__.co_freevars, code.__closure__ or (), strict=False):
            with contextlib.suppress(ValueError):  # an empty cell: the name is assigned later
                found[name] = cell.cell_contents
    found.update({parameter.__name__: parameter for parameter in getattr(code, "__type_params__", ())})
    return found
