"""Scope and MultiScope: views, files, environment and command line, put together and given to functions."""

from __future__ import annotations

import functools
import inspect
import os
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar, cast, final

from sweep.config.adict import ADict, leaves
from sweep.config.commandline import (
    Arguments,
    Assignment,
    Explicit,
    environment_of,
    from_environment,
    from_file,
    parse_arguments,
    sources,
)
from sweep.config.inject import fill
from sweep.config.layers import History, diff, history_of
from sweep.config.resolve import Resolution, resolve
from sweep.config.schema import Schema
from sweep.config.views import RULE, LazyBlock, Plan, View, manual_text, plan_views
from sweep.errors import ConfigError, UnknownName

if TYPE_CHECKING:
    from argparse import ArgumentParser

    from pydantic import BaseModel

__all__ = ["MultiScope", "Scope"]

F = TypeVar("F", bound=Callable[..., object])

_REMEMBERED = 64  # command lines whose config is kept, for tasks that each have their own

# Per task and thread, by scope: the words that scope.parse() was given, the configs in use above
# the present call, and the scopes being resolved.
_words: ContextVar[Mapping[_Configurable, tuple[str, ...]]] = ContextVar("sweep_scope_words", default={})  # noqa: B039  # never changed, replaced
_in_use: ContextVar[Mapping[Scope, Resolution]] = ContextVar("sweep_scope_in_use", default={})  # noqa: B039  # never changed, replaced
_resolving: ContextVar[tuple[_Configurable, ...]] = ContextVar("sweep_scope_resolving", default=())


@contextmanager
def _using(found: Mapping[Scope, Resolution]) -> Iterator[None]:
    token = _in_use.set({**_in_use.get(), **found})
    try:
        yield
    finally:
        _in_use.reset(token)


def _above(scopes: Sequence[Scope]) -> Mapping[Scope, Resolution] | None:
    """Return the configs in use above the present call, if all are."""
    above = _in_use.get()
    return {scope: above[scope] for scope in scopes} if all(scope in above for scope in scopes) else None


def _refuse_circle(scope: _Configurable) -> None:
    if scope in _resolving.get():
        raise ConfigError(
            "a view of this scope uses the config that it is helping to build; read it from its argument"
        )


class _Configurable(ABC):
    """What Scope and MultiScope share: reading a command line once, and giving the result to functions."""

    def __init__(self) -> None:
        self._main = "main"
        self._of_script = False  # a function of the running script uses it, so that sys.argv is for it
        self._parsed: tuple[str, ...] | None = None
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.RLock()
        self._known: dict[object, Mapping[Scope, Resolution]] = {}  # by words and views, the latest last
        self._used: tuple[str, ...] | None = None  # the words of the latest call of a decorated function

    def __getstate__(self) -> dict[str, object]:
        state = {name: value for name, value in self.__dict__.items() if name not in ("_lock", "_known", "_used")}
        return state | {"_parsed": self._argv()}  # elsewhere sys.argv is somebody else's

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._begin()

    @property
    @abstractmethod
    def scopes(self) -> tuple[Scope, ...]:
        """The scopes it resolves."""

    @property
    @abstractmethod
    def result_type(self) -> type:
        """What :meth:`resolve` returns an instance of."""

    @abstractmethod
    def _resolve_all(self, argv: Sequence[str]) -> Mapping[Scope, Resolution]:
        """Resolve every scope for one command line; the manual ends the program."""

    @abstractmethod
    def _version(self) -> object:
        """Return what changes when views are added or the environment changes."""

    @abstractmethod
    def _value(self, resolutions: Mapping[Scope, Resolution]) -> Any:
        """Put the resolved configs together."""

    def parse(self, argv: Sequence[str] | str) -> Any:
        """Read a command line, use it for the decorated functions from now on, and return the config.

        Args:
            argv: The words, without the program's name; one text is split at white space as a shell would.

        Raises:
            ConfigError: See :meth:`resolve`.
            SystemExit: The words ask for the manual.
        """
        words = _split(argv)
        found = self._resolutions(words, fresh=True)
        self._parsed = words
        _words.set({**_words.get(), self: words})
        return self._value(found)

    def resolve(self, argv: Sequence[str] | str | None = None) -> Any:
        """Return the frozen config for a command line.

        Args:
            argv: The words, read afresh and used for nothing else; None: what :meth:`parse` was given,
                else ``sys.argv`` where the views belong to the script that runs, else none.

        Raises:
            UnknownName: An unknown key, view, scope or flag.
            ConfigError: Anything else that is wrong, with its place. Nothing is half applied.
            SystemExit: The words ask for the manual.
        """
        return self._value(self._one(argv))

    def why(self, key: str, argv: Sequence[str] | str | None = None) -> History:
        """Return what each layer did to ``key``; ``print`` it.

        Raises:
            UnknownName: No layer set it.
        """
        layers = [layer for one in self._current(argv) for layer in one.layers]
        return history_of(layers, key)

    def layers_as_data(self, argv: Sequence[str] | str | None = None) -> list[dict[str, Any]]:
        """Return the resolved layers as plain JSON data, the lowest first."""
        return [row for one in self._current(argv) for row in one.layers_as_data()]

    def diff(self, other: object, argv: Sequence[str] | str | None = None) -> list[str]:
        """Return what differs in ``other`` (a scope, mapping, model or stored layers), a line each."""
        return diff(self.layers_as_data(argv), other)

    def unread(self) -> list[str]:
        """Return the keys that were set and have not been read since.

        Raises:
            ConfigError: The config is a model, whose reads are not seen.
        """
        several = len(self.scopes) > 1
        return [f"{one.name}.{key}" if several else key for one in self._current(None) for key in one.unread()]

    @contextmanager
    def using(self, value: Any) -> Iterator[None]:
        """Give the decorated functions this very config while the block runs, in this task or thread.

        Args:
            value: What they get, of a MultiScope one for each scope in its order; it is not checked.

        Example:
            >>> scope = Scope()
            >>> @scope
            ... def train(config):
            ...     return config.lr
            >>> with scope.using(ADict(lr=0.5)):
            ...     train()
            0.5
        """
        values = [value] if len(self.scopes) == 1 else list(value)
        given = {scope: Resolution(scope.name, one, ()) for scope, one in zip(self.scopes, values, strict=True)}
        with _using(given):
            yield

    def __call__(self, function: F) -> F:
        """Decorate a function, sync or async, that takes the config.

        Raises:
            ConfigError: When it is called: see :meth:`resolve`.
            SystemExit: Instead, with status 2 and the message on stderr, where ``sys.argv`` of a script is wrong.
        """
        self._main = function.__name__
        self._of_script = self._of_script or function.__module__ == "__main__"
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def call_later(*args: object, **kwargs: object) -> Any:
                return await self._call_later(function, args, kwargs)

            return cast(F, call_later)

        @functools.wraps(function)  # it travels to other processes by value: no globals in it
        def call(*args: object, **kwargs: object) -> object:
            return self._call(function, args, kwargs)

        return cast(F, call)

    def _call(self, function: Callable[..., object], args: Sequence[object], kwargs: Mapping[str, object]) -> object:
        found, filled, named = self._filled(function, args, kwargs)
        with _using(found):
            return function(*filled, **named)

    async def _call_later(self, function: Callable[..., Any], args: Sequence[object], kwargs: Mapping[str, object]) -> object:
        found, filled, named = self._filled(function, args, kwargs)
        with _using(found):
            return await function(*filled, **named)

    def _filled(
        self, function: Callable[..., object], args: Sequence[object], kwargs: Mapping[str, object]
    ) -> tuple[Mapping[Scope, Resolution], list[object], dict[str, object]]:
        """Return the configs in use for a function, and its arguments with them put in."""
        found = _above(self.scopes) or self._for(function)
        configs = {scope.name: found[scope].value for scope in self.scopes}
        types = {scope.name: scope.result_type for scope in self.scopes if scope.result_type is not ADict}
        return found, *fill(function, configs, types, args, kwargs)

    def _for(self, function: Callable[..., object]) -> Mapping[Scope, Resolution]:
        self._main = function.__name__
        try:
            self._used = self._argv(function.__module__)
            return self._resolutions(self._used)
        except ConfigError as error:
            if getattr(error, "__notes__", None) or function.__module__ != "__main__" or not self._reads_argv():
                raise  # a view failed, and its lines matter; or a caller that can catch it
            sys.stderr.write(f"{os.path.basename(sys.argv[0])}: error: {error}\n")
            raise SystemExit(2) from error  # a wrong word on a script's command line, as argparse has it

    def _current(self, argv: Sequence[str] | str | None) -> list[Resolution]:
        above = _above(self.scopes) if argv is None else None
        return list((above or self._one(argv)).values())

    def _one(self, argv: Sequence[str] | str | None) -> Mapping[Scope, Resolution]:
        return self._resolutions(self._argv()) if argv is None else self._resolving(_split(argv))

    def _argv(self, module: str | None = None) -> tuple[str, ...]:
        words = _words.get().get(self, self._parsed)
        if words is not None:
            return words
        if module is None and self._used is not None:
            return self._used
        if module is None:
            views = [view.call.__module__ for scope in self.scopes for view in scope.views.values()]
            module = "__main__" if self._of_script or "__main__" in views else ""
        return tuple(sys.argv[1:]) if module == "__main__" and self._reads_argv() else ()

    def _reads_argv(self) -> bool:
        """Whether ``sys.argv`` is a script's command line, and nobody has given words: no notebook, no prompt."""
        script = hasattr(sys.modules.get("__main__"), "__file__") or sys.argv[:1] == ["-c"]
        return script and _words.get().get(self, self._parsed) is None

    def _resolutions(self, argv: tuple[str, ...], *, fresh: bool = False) -> Mapping[Scope, Resolution]:
        """Resolve, once for each command line: views run once."""
        _refuse_circle(self)
        with self._lock:
            key = (argv, self._version())
            if fresh or key not in self._known:
                found = self._resolving(argv)
                self._known.pop(key, None)
                self._known = {**dict(list(self._known.items())[1 - _REMEMBERED :]), key: found}
            return self._known[key]

    def _resolving(self, argv: tuple[str, ...]) -> Mapping[Scope, Resolution]:
        _refuse_circle(self)
        token = _resolving.set((*_resolving.get(), self))
        try:
            return self._resolve_all(argv)
        finally:
            _resolving.reset(token)


@final
class Scope(_Configurable):
    """One namespace of configuration.

    Args:
        schema: A pydantic model: typed keys, defaults, constraints; the config is an instance of it.
        name: Names the scope in a MultiScope, in messages, and the parameter that takes it.
        parser: An ``argparse`` parser whose flags are read too (nothing is patched).
        env_prefix: Environment variables that begin with it are values: ``TRAIN_MODEL__LR`` with the
            prefix ``TRAIN_`` is ``model.lr``.
        strict: Without a schema: make every unknown key an error, not only near misses.

    Example:
        >>> scope = Scope()
        >>> @scope.observe(default=True)
        ... def config(cfg):
        ...     cfg.lr = 0.001
        ...     cfg.model = "resnet50"
        >>> @scope
        ... def train(cfg):
        ...     return f"{cfg.model} with lr={cfg.lr}"
        >>> _ = scope.parse(["lr=0.01", "model=%resnet101%"])
        >>> train()
        'resnet101 with lr=0.01'
    """

    def __init__(
        self,
        schema: type[BaseModel] | None = None,
        *,
        name: str = "config",
        parser: ArgumentParser | None = None,
        env_prefix: str | None = None,
        strict: bool = False,
    ) -> None:
        super().__init__()
        if schema is not None and not (isinstance(schema, type) and hasattr(schema, "model_fields")):
            raise ConfigError(f"Scope(schema): a pydantic model class is expected, not {schema!r}")
        if not name.isidentifier():
            raise ConfigError(f"Scope(name={name!r}): the name is to be an identifier")
        self.name, self.strict = name, strict
        self._schema = Schema(schema) if schema is not None else None
        self._parser, self._prefix = parser, env_prefix
        self._manuals = ADict.auto()
        self.views: dict[str, View] = {}

    @property
    def scopes(self) -> tuple[Scope, ...]:
        """This scope."""
        return (self,)

    @property
    def result_type(self) -> type:
        """The schema's model, or ADict."""
        return ADict if self._schema is None else self._schema.model

    def observe(
        self,
        name: str | None = None,
        *,
        default: bool = False,
        priority: int = 0,
        lazy: bool = False,
        needs: str | Sequence[str] = (),
        chain_with: str | Sequence[str] = (),
    ) -> Callable[[F], F]:
        """Decorate a function that sets values: a view.

        Args:
            name: What the command line calls it (default: the function's name).
            default: Apply it always; else only when it is named.
            priority: Higher applies later (defaults before named views, lazy ones last).
            lazy: Run it after the command line: it sees everything, and never overrides an explicit value.
            needs: Views that apply with it, before it.
            chain_with: The same as ``needs``.

        Raises:
            ConfigError: The name is taken, reserved, or could not be written on a command line.
        """
        if callable(name):
            raise ConfigError("write @scope.observe() with parentheses")
        chained = [*_several(needs), *_several(chain_with)]

        def add(function: F) -> F:
            if inspect.iscoroutinefunction(function):
                raise ConfigError(f"view {name or function.__name__!r} is async; a view is a plain function")
            view = View(name or function.__name__, function, default, priority, lazy, tuple(dict.fromkeys(chained)))
            if view.name in self.views:
                raise ConfigError(
                    f"view {view.name!r} exists already in scope {self.name!r} ({self.views[view.name].where}); "
                    "give one of them another name: observe(name=…)"
                )
            if (
                view.name == "manual"
                or view.name.startswith("-")
                or "=" in view.name
                or view.name.split() != [view.name]
            ):
                raise ConfigError(f"{view.name!r} cannot be the name of a view: the command line reads it otherwise")
            self.views = {**self.views, view.name: view}
            return function

        return add

    def manual(self, function: F) -> F:
        """Decorate a function that describes keys: ``cfg.lr = "Learning rate"``; shown by the word ``manual``."""
        function(self._manuals)
        return function

    @staticmethod
    def lazy() -> LazyBlock:
        """Return a context for the end of a view whose block runs after the command line has been read."""
        return LazyBlock()

    def _version(self) -> object:
        return tuple(self.views), tuple(environment_of(self._prefix))

    def _value(self, resolutions: Mapping[Scope, Resolution]) -> Any:
        return resolutions[self].value

    def _resolve_all(self, argv: Sequence[str]) -> Mapping[Scope, Resolution]:
        words = parse_arguments(argv, self._parser)
        if words.manual:
            _print_manual(self._manual(words, self._main), self._parser)
        return {self: self._resolve(words)}

    def _manual(self, words: Arguments, main: str) -> str:
        plan = self._plan(words)
        texts = ADict(self._schema.describe() if self._schema is not None else {})
        texts.merge(self._manuals)
        inputs = [*words.files, *(item.source for item in words.assignments)]
        return manual_text(self.name, self.views, plan, inputs, main, texts)

    def _plan(self, words: Arguments) -> Plan:
        keys = () if self._schema is None else self._schema.model.model_fields
        return plan_views(self.views, words.views, f"scope {self.name!r}", keys)

    def _resolve(self, words: Arguments, below: Sequence[Explicit] = ()) -> Resolution:
        plan = self._plan(words)
        explicit = sources(words, self._prefix, below)
        return resolve(self.name, self._schema, self.strict, self.views, plan, words.flag_defaults, explicit)


@final
class MultiScope(_Configurable):
    """Several scopes with one command line; their keys and priorities do not touch.

    On the command line a key is led by its scope's name (``model.lr=0.1``); a view's name alone
    suffices where one scope has it, else ``model.big``.

    Args:
        *scopes: The scopes, of different names.
        env_prefix: Environment variables: ``APP_MODEL__LR`` is ``lr`` of the scope ``model``.

    Raises:
        ConfigError: No scope, or two of one name.

    Example:
        >>> model, data = Scope(name="model"), Scope(name="data")
        >>> @model.observe(default=True)
        ... def model_config(model):
        ...     model.lr = 0.1
        >>> @data.observe(default=True)
        ... def data_config(data):
        ...     data.lr = 0.001
        >>> both = MultiScope(model, data)
        >>> both.resolve(["data.lr=1"]).to_dict()
        {'model': {'lr': 0.1}, 'data': {'lr': 1.0}}
    """

    def __init__(self, *scopes: Scope, env_prefix: str | None = None) -> None:
        super().__init__()
        names = [scope.name for scope in scopes]
        twice = [name for name in names if names.count(name) > 1]
        if not scopes:
            raise ConfigError("MultiScope needs scopes")
        if twice:
            raise ConfigError(f"two scopes are named {twice[0]!r}; name them: Scope(name=…)")
        self._scopes, self._prefix = scopes, env_prefix

    @property
    def scopes(self) -> tuple[Scope, ...]:
        """The scopes, in the order in which they were given."""
        return self._scopes

    @property
    def result_type(self) -> type:
        """ADict: the configs by the names of their scopes."""
        return ADict

    def _version(self) -> object:
        return tuple(scope._version() for scope in self._scopes), tuple(environment_of(self._prefix))

    def _value(self, resolutions: Mapping[Scope, Resolution]) -> Any:
        together = ADict()
        for scope in self._scopes:
            dict.__setitem__(together, scope.name, resolutions[scope].value)  # the very configs, so that reads count
        return together.freeze()

    def _resolve_all(self, argv: Sequence[str]) -> Mapping[Scope, Resolution]:
        parsers = [scope._parser for scope in self._scopes if scope._parser is not None]
        if len(parsers) > 1:
            raise ConfigError("one scope of a MultiScope may have a parser, not several")
        words = parse_arguments(argv, parsers[0] if parsers else None)
        shares = self._shares(words)
        if words.manual:
            text = "\n".join(scope._manual(shares[scope], self._main) for scope in self._scopes)
            _print_manual(text, parsers[0] if parsers else None)
        below: dict[Scope, list[Explicit]] = {scope: [] for scope in self._scopes}
        for source in [*map(from_file, words.files), from_environment(self._prefix)]:
            for scope, items in self._sorted(source.items).items():
                below[scope].append(replace(source, items=items))
        return {scope: scope._resolve(shares[scope], below[scope]) for scope in self._scopes}

    def _shares(self, words: Arguments) -> dict[Scope, Arguments]:
        items = self._sorted(words.assignments)
        shares = {scope: Arguments(items.get(scope, []), manual=words.manual) for scope in self._scopes}
        for name in words.views:
            scope, view = self._owner(name)
            shares[scope].views.append(view)
        for scope in self._scopes:
            if scope._parser is not None:
                shares[scope].flags, shares[scope].flag_defaults = words.flags, words.flag_defaults
        return shares

    def _owner(self, name: str) -> tuple[Scope, str]:
        first, _, rest = name.partition(".")
        for scope in self._scopes:
            if scope.name == first and rest:
                return scope, rest
        owners = [scope for scope in self._scopes if name in scope.views]
        if len(owners) == 1:
            return owners[0], name
        if owners:
            named = " or ".join(f"{scope.name}.{name}" for scope in owners)
            raise ConfigError(f"view {name!r} is in {len(owners)} scopes; write {named}")
        lead = {scope: f"{scope.name}." if rest else "" for scope in self._scopes}
        raise UnknownName("view", name, {f"{lead[scope]}{view}" for scope in self._scopes for view in scope.views})

    def _sorted(self, items: Sequence[Assignment]) -> dict[Scope, list[Assignment]]:
        """Hand each value to its scope, without the scope's name."""
        found: dict[Scope, list[Assignment]] = {}
        by_name = {scope.name: scope for scope in self._scopes}
        for item in items:
            name = item.path[0]
            if name not in by_name:
                where = f"{item.source}; a key begins with its scope: {next(iter(by_name))}.{item.source}"
                raise UnknownName("scope", str(name), by_name, where)
            if len(item.path) == 1 and not isinstance(item.value, Mapping):
                raise ConfigError(f"{item.source!r}: {name!r} is a scope; write {name}.KEY=…")
            inner = leaves(item.value) if len(item.path) == 1 else None
            parts = [replace(item, path=path, value=value, text=None) for path, value in inner or ()]
            found.setdefault(by_name[name], []).extend(parts if inner else [replace(item, path=item.path[1:])])
        return found


def _several(names: str | Sequence[str]) -> Sequence[str]:
    return [names] if isinstance(names, str) else names


def _split(argv: Sequence[str] | str) -> tuple[str, ...]:
    if isinstance(argv, str):
        import shlex

        return tuple(shlex.split(argv))
    return tuple(argv)


def _print_manual(text: str, parser: ArgumentParser | None) -> None:
    flags = f"{parser.format_help()}\n" if parser is not None else ""
    sys.stdout.write(f"{flags}{text}\n{RULE}\n")
    raise SystemExit(0)
