"""The types of the standard library that the codec writes as a list of parts.

A row of :data:`PARTS` is: the kind written in the text, the exact type, what splits
a value into parts (themselves storable), and what builds it from them again.
Adding a row is all it takes to store another such type.
"""

from __future__ import annotations

import collections
import datetime
import decimal
import fractions
import pathlib
import uuid
import zoneinfo
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

__all__ = ["PARTS", "Kind"]

Kind: TypeAlias = tuple[str, type, Callable[[Any], Iterable[object]], Callable[..., object]]


def _timezone_parts(zone: datetime.timezone) -> tuple[object, ...]:
    offset, name = zone.utcoffset(None), zone.tzname(None)
    return (offset,) if name == datetime.timezone(offset).tzname(None) else (offset, name)


def _zone_parts(zone: zoneinfo.ZoneInfo) -> tuple[str]:
    if zone.key is None:
        raise TypeError("a ZoneInfo without a key cannot be found again")
    return (zone.key,)


def _moment_parts(moment: datetime.datetime | datetime.time) -> tuple[object, ...]:
    text = moment.replace(tzinfo=None, fold=0).isoformat()
    if moment.fold:
        return text, moment.tzinfo, moment.fold
    return (text,) if moment.tzinfo is None else (text, moment.tzinfo)


def _datetime(text: str, zone: datetime.tzinfo | None = None, fold: int = 0) -> datetime.datetime:
    return datetime.datetime.fromisoformat(text).replace(tzinfo=zone, fold=fold)


def _time(text: str, zone: datetime.tzinfo | None = None, fold: int = 0) -> datetime.time:
    return datetime.time.fromisoformat(text).replace(tzinfo=zone, fold=fold)


def _deque(bound: int | None, *items: object) -> collections.deque[object]:
    return collections.deque(items, bound)


def _path_kind(kind: type[pathlib.PurePath]) -> Kind:
    return kind.__name__, kind, lambda path: (str(path),), kind


PARTS: tuple[Kind, ...] = (
    ("complex", complex, lambda number: (number.real, number.imag), complex),
    ("decimal", decimal.Decimal, lambda number: (str(number),), decimal.Decimal),
    ("fraction", fractions.Fraction, lambda number: (number.numerator, number.denominator), fractions.Fraction),
    ("range", range, lambda value: (value.start, value.stop, value.step), range),
    ("slice", slice, lambda value: (value.start, value.stop, value.step), slice),
    ("date", datetime.date, lambda day: (day.isoformat(),), datetime.date.fromisoformat),
    ("time", datetime.time, _moment_parts, _time),
    ("datetime", datetime.datetime, _moment_parts, _datetime),
    ("timedelta", datetime.timedelta, lambda span: (span.days, span.seconds, span.microseconds), datetime.timedelta),
    ("timezone", datetime.timezone, _timezone_parts, datetime.timezone),
    ("zone", zoneinfo.ZoneInfo, _zone_parts, zoneinfo.ZoneInfo),
    ("uuid", uuid.UUID, lambda value: (str(value),), uuid.UUID),
    ("deque", collections.deque, lambda items: (items.maxlen, *items), _deque),
    _path_kind(pathlib.PurePosixPath),
    _path_kind(pathlib.PureWindowsPath),
    _path_kind(pathlib.PosixPath),
    _path_kind(pathlib.WindowsPath),
)
