"""What a parameter's value may be: plain data that JSON can carry, types kept exactly.

A trial's parameters are journaled, so every value has to survive the store: None,
bool, int, float, text, and lists, tuples and dicts of these. ``1``, ``1.0``, ``True``
and ``"1"`` are four different values. JSON has no tuple and no infinity; these are
written with a tag (``{"$tuple": [1, 2]}``, ``{"$float": "inf"}``), and a dict whose
keys look like a tag is escaped (``{"$dict": {...}}``).
"""

from __future__ import annotations

import json
import math
from collections.abc import Hashable
from typing import Any, TypeAlias

__all__ = ["Params", "canonical", "decode", "encode", "fresh", "key", "plain"]

Params: TypeAlias = dict[str, Any]
"""Parameters by dotted name, flat; each a value of its distribution."""

_SCALARS = (type(None), bool, int, float, str)


def plain(value: object) -> Any:
    """Return ``value`` with a numpy scalar (also one inside a container) made the Python value it stands for.

    Containers are copied, so that nobody else's later change reaches the result.
    """
    if type(value) in _SCALARS:
        return value
    if type(value) is list:
        return [plain(item) for item in value]
    if type(value) is tuple:
        return tuple(plain(item) for item in value)
    if isinstance(value, dict):  # dict subclasses of configuration libraries are data too
        return {name: plain(item) for name, item in value.items()}
    if type(value).__module__ == "numpy" and getattr(value, "ndim", None) == 0:
        return value.item()  # type: ignore[attr-defined]  # a numpy scalar; numpy is not imported for it
    return value


def encode(value: object) -> object:
    """Return ``value`` as JSON data with tags.

    Raises:
        ValueError: It, or something inside it, is not plain data; the message says what.
    """
    if type(value) is float and math.isinf(value):
        return {"$float": "inf" if value > 0 else "-inf"}
    if type(value) in _SCALARS and value == value:  # only NaN differs from itself
        return value
    if type(value) is list:
        return [encode(item) for item in value]
    if type(value) is tuple:
        return {"$tuple": [encode(item) for item in value]}
    if type(value) is dict and all(type(name) is str for name in value):
        data = {name: encode(item) for name, item in value.items()}
        return {"$dict": data} if _has_tag(data) else data
    raise ValueError(_refusal(value))


def _has_tag(data: dict[str, object]) -> bool:
    return any(name.startswith("$") for name in data)


def _refusal(value: object) -> str:
    if type(value) is float:
        return "NaN equals nothing, not even itself; use None for 'no value'"
    if type(value) is dict:
        shown = f"{value!r}, a dict with keys that are not text,"
    else:
        shown = f"the {'class' if isinstance(value, type) else type(value).__name__} {value!r}"
    return (
        f"{shown} cannot be journaled; values are None, bool, int, float, text, or lists, tuples and dicts of these: "
        "use names and map them to objects in the objective"
    )


def decode(data: object) -> Any:
    """Undo `encode`.

    Raises:
        ValueError: ``data`` has a tag nobody knows.
    """
    if isinstance(data, list):
        return [decode(item) for item in data]
    if not isinstance(data, dict):
        return data
    if len(data) == 1 and _has_tag(data):
        return _untagged(data)
    return {name: decode(item) for name, item in data.items()}


def _untagged(data: dict[str, object]) -> object:
    [(tag, content)] = data.items()
    if tag == "$tuple" and isinstance(content, list):
        return tuple(decode(item) for item in content)
    if tag == "$float" and content in ("inf", "-inf"):
        return float(str(content))
    if tag == "$dict" and isinstance(content, dict):
        return {name: decode(item) for name, item in content.items()}
    raise ValueError(f"unknown tag {tag!r} in {data!r}")


def canonical(value: object) -> str:
    """Return the one JSON text of ``value``: equal texts are equal values of equal types.

    Raises:
        ValueError: As `encode`.

    Example:
        >>> canonical({"b": 1.0, "a": (1, True)})
        '{"a":{"$tuple":[1,true]},"b":1.0}'
    """
    return json.dumps(encode(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def key(value: object) -> Hashable:
    """Return what tells ``value`` from every other value, its type included.

    Example:
        >>> key(1) == key(1.0), key([1]) == key([1])
        (False, True)
    """
    cls = type(value)
    if cls in _SCALARS:
        return cls, value
    try:
        return cls, canonical(value)
    except ValueError:
        return cls, id(value)


def fresh(value: object) -> Any:
    """Return ``value`` itself, or a deep copy of a container, so that nobody changes a space by changing params."""
    if type(value) is list:
        return [fresh(item) for item in value]
    if type(value) is tuple:
        return tuple(fresh(item) for item in value)
    if type(value) is dict:
        return {name: fresh(item) for name, item in value.items()}
    return value
