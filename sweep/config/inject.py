"""Giving configs to the functions that ask for them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_type_hints

from sweep.config.adict import ADict
from sweep.errors import ConfigError, did_you_mean

__all__ = ["fill"]

_BY_POSITION = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def fill(
    function: Callable[..., Any],
    configs: Mapping[str, Any],
    types: Mapping[str, type],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> tuple[list[Any], dict[str, Any]]:
    """Return the arguments of a call with the configs put in.

    A parameter takes a config by its annotation (a schema's model), by its name (the scope's), and
    the only config fills the one parameter that nothing else binds. A parameter that the caller
    gives is the caller's.

    Args:
        function: The function to be called.
        configs: Config by name of its scope.
        types: Schema model by name of its scope, where there is one.
        args: Arguments of the caller, by position.
        kwargs: Arguments of the caller, by name.

    Raises:
        ConfigError: It cannot be told which parameter is the config.
        TypeError: The remaining arguments do not fit the function.
    """
    signature = inspect.signature(function)
    targets = _targets(function, signature, configs, types, args, kwargs)
    callers = {*kwargs, *_given(signature, args, configs)}
    targets = {parameter: scope for parameter, scope in targets.items() if parameter not in callers}
    rest = [parameter for parameter in signature.parameters.values() if parameter.name not in targets]
    bound = signature.replace(parameters=rest).bind(*args, **kwargs)
    for parameter, scope in targets.items():
        bound.arguments[parameter] = configs[scope]
    spread = [name for name, one in signature.parameters.items() if one.kind is inspect.Parameter.VAR_KEYWORD]
    if spread:
        others = {name: config for name, config in configs.items() if name not in targets.values()}
        bound.arguments[spread[0]] = {**others, **bound.arguments.get(spread[0], {})}
    ordered = {name: bound.arguments[name] for name in signature.parameters if name in bound.arguments}
    return _split(signature, ordered)


def _given(signature: inspect.Signature, args: Sequence[Any], configs: Mapping[str, Any]) -> set[str]:
    """Return the parameters to which the caller itself gives a config by position."""
    try:
        bound = signature.bind_partial(*args).arguments
    except TypeError:
        return set()
    kinds: tuple[type, ...] = (Mapping, *map(type, configs.values()))
    return {name for name, value in bound.items() if isinstance(value, kinds)}


def _targets(
    function: Callable[..., Any],
    signature: inspect.Signature,
    configs: Mapping[str, Any],
    types: Mapping[str, type],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> dict[str, str]:
    hints = _hints(function)
    found: dict[str, str] = {}
    for parameter in signature.parameters.values():
        hint = hints.get(parameter.name)
        by_type = [scope for scope, model in types.items() if _means(hint, model)]
        if len(by_type) == 1:
            found[parameter.name] = by_type[0]
        elif parameter.name in configs and parameter.kind is not inspect.Parameter.VAR_KEYWORD:
            found[parameter.name] = parameter.name
    if found or len(configs) > 1:
        _all_bound(function, signature, configs, found, args, kwargs)
        return found
    scope = next(iter(configs))
    names = [
        one.name
        for one in signature.parameters.values()
        if one.kind in _BY_POSITION and one.default is one.empty and one.name not in kwargs
    ]
    names = names[1:] if names[:1] in (["self"], ["cls"]) else names
    free = len(names) - len(args) + (next(iter(signature.parameters), "") in ("self", "cls"))
    marked = [name for name in names if _means(hints.get(name), ADict)]
    if len(marked) == 1:
        return {marked[0]: scope}
    keyword = [
        one.name
        for one in signature.parameters.values()
        if one.kind is inspect.Parameter.KEYWORD_ONLY and one.default is one.empty and one.name not in kwargs
    ]
    if not names and len(keyword) == 1:
        return {keyword[0]: scope}
    if free > 1:
        raise ConfigError(
            f"{_name(function)} has {free} parameters that nothing binds: {', '.join(names)}; "
            f"call the one that takes the config {scope!r}, or annotate it with ADict"
        )
    return {names[0]: scope} if names and free == 1 else {}


def _all_bound(
    function: Callable[..., Any],
    signature: inspect.Signature,
    configs: Mapping[str, Any],
    found: Mapping[str, str],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> None:
    """Say which scope a parameter that nothing binds was probably meant to be."""
    open_names = [
        one.name
        for one in signature.parameters.values()
        if one.kind in _BY_POSITION and one.default is one.empty and one.name not in {*found, *kwargs}
    ]
    for name in open_names[len(args) :]:
        if len(configs) > 1:
            meant = did_you_mean(name, configs) or f"; the scopes are: {', '.join(configs)}"
            raise ConfigError(f"{_name(function)}: parameter {name!r} is the name of no scope{meant}")


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(function)
    except (NameError, TypeError, AttributeError):  # names of a local scope, or for type checkers only: their text
        return dict(inspect.get_annotations(function))


def _means(hint: Any, kind: type) -> bool:
    return hint is kind or hint == kind.__name__


def _name(function: Callable[..., Any]) -> str:
    return f"{getattr(function, '__name__', function)}()"


def _split(signature: inspect.Signature, arguments: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Turn bound arguments into args and kwargs; by name as soon as one has been left out."""
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    by_name = False
    for name, parameter in signature.parameters.items():
        if name not in arguments:
            by_name = by_name or parameter.kind in _BY_POSITION
        elif parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            args += arguments[name]
        elif parameter.kind is inspect.Parameter.VAR_KEYWORD:
            kwargs |= arguments[name]
        elif parameter.kind is inspect.Parameter.KEYWORD_ONLY or by_name:
            kwargs[name] = arguments[name]
        else:
            args.append(arguments[name])
    return args, kwargs
