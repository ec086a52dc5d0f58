"""Explicit values: what files, the environment and the command line say."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from sweep.config import files
from sweep.config.adict import leaves
from sweep.config.commandline import Arguments, Assignment, parse_text

__all__ = ["Explicit", "environment_of", "from_environment", "from_file", "sources"]


@final
@dataclass(frozen=True, slots=True)
class Explicit:
    """Explicit values of one source.

    Attributes:
        kind: ``"file"``, ``"environment"`` or ``"command line"``.
        name: Name of the source.
        items: The values.
    """

    kind: str
    name: str
    items: Sequence[Assignment]


def from_file(path: str) -> Explicit:
    """Read a config file.

    Raises:
        ConfigError: It is missing or malformed.
    """
    return Explicit("file", path, [Assignment(key, value, None, path) for key, value in leaves(files.read(path))])


def environment_of(prefix: str | None) -> list[tuple[str, str]]:
    """Return the variables that begin with ``prefix``, by name; none where there is no prefix."""
    if prefix is None:
        return []
    return sorted((name, text) for name, text in os.environ.items() if name.startswith(prefix) and name != prefix)


def from_environment(prefix: str | None) -> Explicit:
    """Read the environment: ``TRAIN_MODEL__LR`` with the prefix ``TRAIN_`` is ``model.lr``."""
    start = len(prefix or "")
    items = [
        parse_text(tuple(name[start:].lower().split("__")), text, f"{name}={text}") for name, text in environment_of(prefix)
    ]
    return Explicit("environment", f"{prefix}*", items)


def sources(words: Arguments, prefix: str | None = None) -> list[Explicit]:
    """Return all explicit sources of a command line, the lowest first; empty ones are left out.

    Raises:
        ConfigError: A file is missing or malformed.
    """
    found = [*map(from_file, words.files), from_environment(prefix), Explicit("command line", "", words.assignments)]
    return [source for source in found if source.items]
