"""What all commands share: the common flags, stdout for data, stderr for people."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, final

import click

if TYPE_CHECKING:
    from sweep.store.writer import Store

__all__ = ["Face", "age", "environment", "flags", "plain", "short", "table", "value_sources"]

F = TypeVar("F", bound=Callable[..., object])

_COLOURS = {"completed": "green", "running": "cyan", "failed": "red", "interrupted": "yellow", "aborted": "red"}


@final
@dataclass(frozen=True, slots=True)
class Face:
    """The common flags of one call.

    Attributes:
        store: Path of the store, or None for ``$SWEEP_STORE`` or ``./sweep.db``.
        json: Print one JSON document on stdout.
        quiet: Say nothing on stderr but errors.
        debug: Trace stages, and show whole tracebacks.
    """

    store: str | None
    json: bool
    quiet: bool
    debug: bool

    @property
    def path(self) -> Path:
        """Absolute path of the store."""
        from sweep.store.writer import default_store

        return (Path(self.store) if self.store else default_store()).resolve()

    def open(self, *, write: bool = False) -> Store:
        """Open the store, which must exist.

        Raises:
            StoreError: It does not exist or cannot be read.
        """
        from sweep.store.writer import Store, default_store

        return Store(self.store or default_store(), create=False, readonly=not write)

    def show(self, data: object, text: str | Callable[[], str]) -> None:
        """Print data on stdout: as JSON, or as text for people."""
        if self.json:
            click.echo(json.dumps(plain(data), indent=2))
        else:
            written = text() if callable(text) else text
            if written:
                click.echo(written)

    def say(self, text: str) -> None:
        """Write a line for people to stderr."""
        if not self.quiet:
            click.echo(f"sweep: {text}", err=True)


def flags(command: F) -> F:
    """Give a command ``--store --json -q --debug``; it gets them as its first argument, a :class:`Face`."""

    @click.option("--store", metavar="FILE", help="The store; default: $SWEEP_STORE or ./sweep.db.")
    @click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
    @click.option("-q", "--quiet", is_flag=True, help="Say nothing on stderr but errors.")
    @click.option("--debug", is_flag=True, help="Trace every stage; show whole tracebacks.")
    @click.pass_context
    @functools.wraps(command)
    def wrapped(
        ctx: click.Context, /, *args: object, store: str | None, as_json: bool, quiet: bool, debug: bool, **kwargs: object
    ) -> object:
        face = Face(store, as_json, quiet, debug)
        ctx.find_root().obj = face
        with environment(SWEEP_QUIET="1") if quiet else contextlib.nullcontext():
            return command(face, *args, **kwargs)

    return wrapped  # type: ignore[return-value]  # click's decorators keep the function


def value_sources(command: F) -> F:
    """Give a command ``--config FILE`` and ``--env PREFIX``.

    It gets the files as words, before its ``values``: so they are kept with a run, and a resume reads them again.
    """

    @click.option("--config", "files", metavar="FILE", multiple=True, help="Read values from a file.")
    @click.option("--env", metavar="PREFIX", help="Read values from variables: APP_MODEL__LR is model.lr with APP_.")
    @functools.wraps(command)
    def wrapped(*args: object, files: tuple[str, ...], values: tuple[str, ...], **kwargs: object) -> object:
        words = (*(word for file in files for word in ("--config", file)), *values)
        return command(*args, values=words, **kwargs)

    return wrapped  # type: ignore[return-value]  # click's decorators keep the function


@contextlib.contextmanager
def environment(**variables: str | None) -> Iterator[None]:
    """Set environment variables (None: unset) and put them back."""
    before = {name: os.environ.get(name) for name in variables}
    _set(variables)
    try:
        yield
    finally:
        _set(before)


def _set(variables: Mapping[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def plain(value: object) -> object:
    """Return a value as JSON data; NaN and infinity become null, what JSON lacks becomes text."""
    if isinstance(value, Enum):
        return plain(value.value)
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(one) for one in value]
    return plain(value.model_dump()) if hasattr(value, "model_dump") else str(value)


def short(value: object, width: int = 24) -> str:
    """Return a value in a few characters.

    Example:
        >>> short(0.123456), short(None), short("x" * 30)
        ('0.1235', '-', 'xxxxxxxxxxxxxxxxxxxxx...')
    """
    if value is None:
        return "-"
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text if len(text) <= width else text[: width - 3] + "..."


def age(seconds: float | None) -> str:
    """Return a time span in one unit.

    Example:
        >>> age(42), age(7200), age(None)
        ('42s', '2h', '-')
    """
    if seconds is None:
        return "-"
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f}{unit}"
    return f"{max(0.0, seconds):.1f}s" if seconds < 10 else f"{seconds:.0f}s"


def table(rows: Sequence[Sequence[object]], indent: str = "") -> str:
    """Return rows (the first one the header) as aligned columns; statuses are coloured on a terminal."""
    cells = [[one if isinstance(one, str) else short(one) for one in row] for row in rows]
    widths = [max(len(row[index]) for row in cells) for index in range(len(cells[0]))] if cells else []
    lines = []
    for number, row in enumerate(cells):
        padded = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        if number == 0:
            lines.append(indent + click.style("  ".join(padded).rstrip(), bold=True))
        else:
            lines.append((indent + "  ".join(_coloured(cell) for cell in padded)).rstrip())
    return "\n".join(lines)


def _coloured(cell: str) -> str:
    colour = _COLOURS.get(cell.split("#")[0].strip())
    return cell if colour is None else click.style(cell, fg=colour)
