"""``--budget``: a number of trials, a time, or limits by name."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from sweep.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from sweep.trial import Budget

__all__ = ["read_budget", "read_span"]

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_SPAN = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")
_LIMITS = ("trials", "seconds", "cost", "resource")


def read_span(text: str) -> float:
    """Return a time such as ``90s``, ``15m``, ``2h``, ``30d`` in seconds.

    Raises:
        ConfigError: It is none.

    Example:
        >>> read_span("15m")
        900.0
    """
    found = _SPAN.fullmatch(text)
    if found is None:
        raise ConfigError(f"{text!r} is no time; write for example 90s, 15m, 2h, 30d")
    return float(found[1]) * _UNITS[found[2]]


def read_budget(text: str) -> int | Budget:
    """Return a budget: ``40``, ``15m``, or ``trials=40,seconds=600``.

    Raises:
        ConfigError: It is none.

    Example:
        >>> read_budget("40"), read_budget("trials=40,cost=2.5")
        (40, Budget(trials=40, seconds=None, cost=2.5, resource=None))
    """
    from sweep.trial import Budget

    try:
        if text.isdigit() and int(text) > 0:
            return int(text)
        if _SPAN.fullmatch(text):
            return Budget(seconds=read_span(text))
        if "=" not in text:
            raise ConfigError(f"--budget {text}: expected trials (40), a time (15m), or trials=40,seconds=600")
        limits = dict(part.split("=", 1) for part in text.split(","))
        unknown = next((name for name in limits if name not in _LIMITS), None)
        if unknown is not None:
            near = did_you_mean(unknown, _LIMITS) or f"; limits: {', '.join(_LIMITS)}"
            raise ConfigError(f"--budget {text}: unknown limit {unknown!r}{near}")
        trials = int(limits.pop("trials")) if "trials" in limits else None
        return Budget(trials=trials, **{name: float(value) for name, value in limits.items()})
    except ValueError as error:
        raise ConfigError(f"--budget {text}: {error}") from error
