"""What two runs must share for one to go on with the other's journal."""

from __future__ import annotations

import enum
import inspect
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import PurePath

from sweep.errors import NotStorable
from sweep.fingerprint import structure_hash
from sweep.store.blobs import NoBlobs
from sweep.store.codec import EXACT_TYPES, encode

__all__ = ["constructor_arguments", "identity_of", "is_heavy"]

_MISSING = object()
_HEAVY = 1 << 20


def identity_of(value: object) -> object:
    """Return a value as plain JSON data that changes when, and only when, its meaning does.

    Objects are their class and constructor arguments, functions their qualified name (their
    code is compared by fingerprint). An object may say it itself: ``__sweep_identity__()``.

    Example:
        >>> identity_of({"lr": 0.1, "layers": (64, 64)})
        {'lr': 0.1, 'layers': [64, 64]}
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value if not isinstance(value, enum.Enum) else f"{type(value).__qualname__}.{value.name}"
    if isinstance(value, Mapping):
        return {str(key): identity_of(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [identity_of(one) for one in value]
    if isinstance(value, set | frozenset):
        return sorted(map(identity_of, value), key=repr)
    return str(value) if isinstance(value, PurePath) else _identity_of_object(value)


def _identity_of_object(value: object) -> object:
    if hasattr(value, "__sweep_identity__") and not isinstance(value, type):
        return value.__sweep_identity__()
    if isinstance(value, partial):
        return {"partial": identity_of(value.func), "with": identity_of([*value.args, value.keywords])}
    if isinstance(value, type) or (callable(value) and hasattr(value, "__qualname__")):
        module = _module_of(value)
        return f"{module}.{value.__qualname__}" if module else value.__qualname__
    return {type(value).__qualname__: _content_of(value) or identity_of(constructor_arguments(value))}


def is_heavy(value: object) -> bool:
    """Whether :func:`identity_of` a value takes so long that it belongs into a thread: it hashes a large array."""
    if isinstance(value, Mapping):
        return any(map(is_heavy, value.values()))
    if isinstance(value, list | tuple | set | frozenset):
        return any(map(is_heavy, value))
    size = len(value) if isinstance(value, bytes | bytearray) else getattr(value, "nbytes", 0)
    return isinstance(size, int) and size > _HEAVY


def _content_of(value: object) -> str | None:
    """Return a hash of what a value holds, where it is one (bytes, a date, an array), and no object of a user's."""
    if type(value) not in EXACT_TYPES and type(value).__module__.partition(".")[0] not in ("numpy", "torch"):
        return None
    try:
        return structure_hash(encode(value, NoBlobs()))
    except NotStorable:
        return None


def _module_of(value: object) -> str:
    """Return the module of a class or function, by one name however the file was entered.

    ``python train.py`` calls it ``__main__``, an import ``train``; a notebook has no name for it.
    """
    module = str(value.__module__)
    if module != "__main__":
        return module
    main = sys.modules.get("__main__")
    spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    if spec is not None:
        return str(spec.name).removesuffix(".__main__")
    return "" if file is None else PurePath(file).stem


def constructor_arguments(instance: object) -> dict[str, object]:
    """Return an object's constructor arguments, read from attributes of the same names."""
    if hasattr(instance, "model_dump"):
        return dict(instance.model_dump(mode="json"))
    found: dict[str, object] = {}
    try:
        parameters = inspect.signature(type(instance)).parameters.values()
    except (TypeError, ValueError):
        return found
    for parameter in parameters:
        value = getattr(instance, parameter.name, getattr(instance, f"_{parameter.name}", _MISSING))
        if value is not _MISSING and value is not parameter.default:
            found[parameter.name] = value
    return found
