"""The lazy face of a package: its public names are imported where they are first used."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from sweep.errors import did_you_mean

__all__ = ["lazy"]


def lazy(package: str, homes: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return a package's ``__getattr__`` and ``__dir__`` (PEP 562), so that importing it costs nothing.

    Args:
        package: The ``__name__`` of the package.
        homes: Modules below it, each with the public names it holds, in one text.

    Example:
        >>> load, names = lazy("sweep", {"clock": "Clock current_clock"})
        >>> "current_clock" in names()
        True
        >>> load("Clocks")
        Traceback (most recent call last):
        AttributeError: module 'sweep' has no attribute 'Clocks'; did you mean 'Clock'?
    """
    home = {name: module for module, names in homes.items() for name in names.split()}

    def load(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}{did_you_mean(name, home)}")
        value = getattr(import_module(f"{package}.{home[name]}"), name)
        setattr(sys.modules[package], name, value)
        return value

    return load, lambda: sorted({*home, *vars(sys.modules[package])})
