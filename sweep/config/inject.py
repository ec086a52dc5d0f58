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
    function: Callable[..., object],
    configs: Mapping[str, object],
    types: Mapping[str, type],
    args: Sequence[object],
    kwargs: Mapping[str, object],
) -> tuple[list[object], dict[str, object]]:
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
    given = _given(signature, args, configs)
    targets = _targets(function, signature, configs, types, args, kwargs, bool(given))
    targets = {parameter: scope for parameter, scope in targets.items() if parameter not in {*kwargs, *given}}
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


def _given(signature: inspect.Signature, args: Sequence[object], configs: Mapping[str, object]) -> set[str]:
    """Return the parameters to which the caller itself gives a config by position."""
    try:
        bound = signature.bind_partial(*args).arguments
    except TypeError:
        return set()
    kinds: tuple[type, ...] = (ADict, *(type(config) for config in configs.values()))
    return {name for name, value in bound.items() if isinstance(value, kinds)}


def _targets(
    function: Callable[..., object],
    signature: inspect.Signature,
    configs: Mapping[str, object],
    types: Mapping[str, type],
    args: Sequence[object],
    kwargs: Mapping[str, object],
    has_config: bool,
) -> dict[str, str]:
    """Return the scope of each parameter that takes a config; ``has_config``: the caller passes one itself."""
    hints = _hints(function)
    found = _claimed(signature, hints, configs, types)
    unbound = [one for one in signature.parameters.values() if _is_open(one) and one.name not in {*kwargs, *found}]
    by_position = [one.name for one in unbound if one.kind in _BY_POSITION]
    if len(configs) > 1:
        for name in by_position[len(args) :]:
            meant = did_you_mean(name, configs) or f"; the scopes are: {', '.join(configs)}"
            raise ConfigError(f"{_name(function)}: parameter {name!r} is the name of no scope{meant}")
    elif not found and not has_config:
        marked = [one.name for one in unbound if _means(hints.get(one.name), ADict)]
        names = marked if len(marked) == 1 else _free(function, unbound, by_position, len(args))
        return dict.fromkeys(names, next(iter(configs)))
    return found


def _claimed(
    signature: inspect.Signature, hints: Mapping[str, object], configs: Mapping[str, object], types: Mapping[str, type]
) -> dict[str, str]:
    """Return the scope of each parameter whose annotation or name says that it takes one."""
    found: dict[str, str] = {}
    for name, parameter in signature.parameters.items():
        by_type = [scope for scope, model in types.items() if _means(hints.get(name), model)]
        if len(by_type) == 1:
            found[name] = by_type[0]
        elif name in configs and parameter.kind is not inspect.Parameter.VAR_KEYWORD:
            found[name] = name
    return found


def _is_open(parameter: inspect.Parameter) -> bool:
    keyword = parameter.kind is inspect.Parameter.KEYWORD_ONLY
    return parameter.default is parameter.empty and (keyword or parameter.kind in _BY_POSITION)


def _free(
    function: Callable[..., object], unbound: Sequence[inspect.Parameter], by_position: Sequence[str], given: int
) -> list[str]:
    """Return the one parameter that the only config fills: the first by position, else the only keyword."""
    names, own = list(by_position), by_position[:1] in (["self"], ["cls"])
    free = len(names) - given
    names = names[1:] if own else names
    by_keyword = [one.name for one in unbound if one.kind not in _BY_POSITION]
    if free <= 0 and len(by_keyword) == 1:
        return by_keyword
    if free > 1:
        raise ConfigError(
            f"{_name(function)} has {free} parameters that nothing binds: {', '.join(names)}; "
            "annotate the one that takes the config with ADict, or name it as the scope is named"
        )
    return names[:1] if free == 1 else []


def _hints(function: Callable[..., object]) -> dict[str, object]:
    try:
        return get_type_hints(function)
    except (NameError, TypeError, AttributeError):  # names of a local scope, or for type checkers only: their text
        return dict(inspect.get_annotations(function))


def _means(hint: object, kind: type) -> bool:
    return hint is kind or hint == kind.__name__


def _name(function: Callable[..., object]) -> str:
    return f"{getattr(function, '__name__', function)}()"


def _split(signature: inspect.Signature, arguments: Mapping[str, Any]) -> tuple[list[object], dict[str, Any]]:
    """Turn bound arguments into args and kwargs; by name as soon as one has been left out."""
    args: list[object] = []
    kwargs: dict[str, object] = {}
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
