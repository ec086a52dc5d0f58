"""What of a contract no store can keep, judged from its annotations before anything runs."""

from __future__ import annotations

import typing
from collections import abc
from collections.abc import Iterable, Mapping
from typing import Any

from sweep.pipeline.annotations import Record, describe, members, peel, split
from sweep.pipeline.contracts import OutputContract
from sweep.store.classes import remedy
from sweep.store.storable import is_storable

__all__ = ["unstorable"]

_STANDARD = ("builtins", "collections", "collections.abc")


def unstorable(contract: OutputContract | None) -> str:
    """Return which fields of a contract can never be stored, by name, type and remedy; ``""`` for none.

    Example:
        >>> unstorable(OutputContract(None, {"n": int, "net": abc.Callable[[int], int]}))
        "field 'net': Callable[[int], int] cannot be stored"
    """
    if contract is None:
        return ""
    record = None if contract.model is None else Record.of(contract.model)
    lines = []
    for name, annotation in _needed(contract.annotations, record).items():
        refused = _refused(annotation, ())
        if refused is not None:
            inside = "" if refused is split(peel(annotation))[0] else f" holds {describe(refused)}, which"
            hint = remedy(refused)
            lines.append(f"field {name!r}: {describe(annotation)}{inside} cannot be stored{hint and f'; {hint}'}")
    return "; ".join(lines)


def _refused(annotation: Any, around: tuple[Any, ...]) -> type | None:
    """Return the class that keeps every value of an annotation out of a store, or None if there may be others."""
    annotation = peel(annotation)
    alternatives = members(annotation)
    if alternatives is not None:
        found = [_refused(one, around) for one in alternatives]
        return found[0] if all(one is not None for one in found) else None
    origin, _ = split(annotation)
    if isinstance(origin, typing.NewType):
        return _refused(origin.__supertype__, around)
    if not isinstance(origin, type) or annotation is Any or annotation in around:
        return None
    record = Record.of(annotation)
    if not (record is not None and issubclass(record.cls, dict)) and is_storable(origin) is False:
        return origin
    inside = (_refused(part, (*around, annotation)) for part in _parts(annotation, record))
    return next((one for one in inside if one is not None), None)


def _parts(annotation: Any, record: Record | None) -> Iterable[Any]:
    """Return the annotations of what every value holds: fields, keys, items."""
    if record is not None:
        return _needed(record.fields, record).values()
    origin, args = split(annotation)
    holds = origin.__module__ in _STANDARD and issubclass(origin, abc.Collection)
    return [one for one in args if one is not Ellipsis] if holds else ()


def _needed(fields: Mapping[str, Any], record: Record | None) -> Mapping[str, Any]:
    """Return the fields that every value has: a TypedDict may leave some out."""
    if record is None or not issubclass(record.cls, dict):
        return fields
    return {name: one for name, one in fields.items() if name in record.required}
