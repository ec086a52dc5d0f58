"""Which classes the codec writes, told from the class alone, before there is a value."""

from __future__ import annotations

import dataclasses
import enum
import io
from abc import ABCMeta
from collections import abc

from sweep.store.classes import BUILTINS, class_path, is_model, is_namedtuple, subclasses
from sweep.store.codec import EXACT_TYPES

__all__ = ["is_storable"]

_NEVER = (type, abc.Iterator, abc.AsyncIterator, abc.Awaitable, io.IOBase)
_TORCH = ("Tensor", "Parameter", "Size", "dtype", "device")


def is_storable(kind: type) -> bool | None:
    """Say whether values of a class can be written; what they hold is another question.

    Returns:
        False only if no value can be: neither an instance of the class itself nor one of a subclass that
        is imported. None where the class does not tell (an abstract one, a base of storable ones).

    Example:
        >>> is_storable(dict), is_storable(abc.Iterator), is_storable(abc.Sequence)
        (True, False, None)
    """
    if _is_written(kind):
        return True
    if class_path(kind) == "collections.abc:Callable" or issubclass(kind, _NEVER):
        return False
    if kind is object or isinstance(kind, ABCMeta) or getattr(kind, "_is_protocol", False):
        return None
    return None if any(map(_is_written, subclasses([kind]))) else False


def _is_written(kind: type) -> bool:
    """Whether instances of exactly this class are written; the order is the codec's."""
    if kind in EXACT_TYPES or hasattr(kind, "__sweep_encode__") or issubclass(kind, enum.Enum):
        return True
    package = kind.__module__.partition(".")[0]
    if package == "numpy":
        import numpy

        plain = issubclass(kind, numpy.generic) and not issubclass(kind, numpy.object_)
        return kind is numpy.ndarray or plain
    if package == "torch":
        return kind.__name__ in _TORCH
    if is_namedtuple(kind) or is_model(kind):
        return True
    return dataclasses.is_dataclass(kind) and not issubclass(kind, BUILTINS)
