"""Checks of constructor arguments: the error names argument, value and expectation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

from sweep.errors import StrategyError, did_you_mean

__all__ = ["one_of", "real", "whole"]


def whole(owner: str, name: str, value: object, least: int = 1) -> int:
    """Return ``value`` if it is a whole number of at least ``least``.

    Raises:
        StrategyError: It is not.

    Example:
        >>> whole("ASHAScheduler", "grace_period", 0)
        Traceback (most recent call last):
        ...
        sweep.errors.StrategyError: ASHAScheduler(grace_period=0): expected a whole number >= 1
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise StrategyError(f"{owner}({name}={value!r}): expected a whole number >= {least}")
    return value


def real(owner: str, name: str, value: object, low: float, high: float, expected: str) -> float | Fraction:
    """Return ``value`` if it is a number with ``low < value <= high``.

    Raises:
        StrategyError: It is not; ``expected`` says what it should be.
    """
    number = isinstance(value, int | float | Fraction) and not isinstance(value, bool)
    if not number or not low < value <= high or not math.isfinite(value):  # type: ignore[operator,arg-type]  # a number
        raise StrategyError(f"{owner}({name}={value!r}): expected {expected}")
    return value  # type: ignore[return-value]  # tested above


def one_of(owner: str, name: str, value: object, known: Sequence[str]) -> str:
    """Return ``value`` if it is one of ``known``.

    Raises:
        StrategyError: It is not; a near miss is named.
    """
    if value not in known:
        listed = ", ".join(repr(option) for option in known)
        raise StrategyError(f"{owner}({name}={value!r}): expected one of {listed}{did_you_mean(str(value), known)}")
    return str(value)
