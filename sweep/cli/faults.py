"""Failures for people: which exit code, and what is worth reading of it."""

from __future__ import annotations

import sys
import traceback
import warnings
from pathlib import Path
from typing import TextIO

import click

from sweep import errors

__all__ = ["LoadError", "NotThere", "exit_code", "plain_warnings", "report"]

_USAGE = (
    errors.ContractError, errors.ConfigError, errors.SpaceError, errors.PlacementError, errors.ResumeRefused,
    errors.MissingExtra,
)  # fmt: skip
_STORE = (errors.StoreError, errors.RunLocked)
_MACHINERY = ("anyio", "asyncio", "trio", "click", "concurrent", "threading.py", "runpy.py", "<frozen")


class LoadError(Exception):
    """The user's file raised while it was imported; the cause is what it raised."""


class NotThere(errors.ConfigError):
    """A file, or a name in it, that does not exist."""


def exit_code(error: BaseException) -> int:
    """Return the exit code of a failure.

    Example:
        >>> exit_code(errors.RunNotFound("digits", "sweep.db")), exit_code(ValueError("in a stage"))
        (3, 1)
    """
    if isinstance(error, errors.RunNotFound | NotThere):
        return 3
    if isinstance(error, _STORE):
        return 4
    return 2 if isinstance(error, (*_USAGE, LoadError)) else 1


def report(error: Exception, *, debug: bool) -> None:
    """Write a failure to stderr: our own as one block, the user's with the traceback from their code on."""
    if debug:
        text = "".join(traceback.format_exception(error))
    elif isinstance(error, errors.TrialFailed) and error.traceback:
        text = f"{error.traceback.rstrip()}\nsweep: {error}"
    elif isinstance(error, errors.SweepError):
        text = "\n".join([f"{_word(error)}: {error}", *(f"  {note}" for note in getattr(error, "__notes__", ()))])
    elif isinstance(error, LoadError):
        text = f"{_users(error.__cause__ or error)}\nsweep: {error}"
    else:
        text = _users(error)
    click.echo(text.rstrip(), err=True)


def _word(error: errors.SweepError) -> str:
    plain = type(error) in (errors.SweepError, NotThere)
    return "error" if plain else type(error).__name__


def _users(error: BaseException) -> str:
    """Return a traceback without the frames of the machinery around the user's code."""
    told = traceback.TracebackException.from_exception(error)
    _strip(told)
    return "".join(told.format())


def _strip(told: traceback.TracebackException) -> None:
    frames = list(told.stack)
    last = max((index for index, frame in enumerate(frames) if not _is_machinery(frame.filename)), default=-1)
    told.stack[:] = [frame for index, frame in enumerate(frames) if index > last or not _is_machinery(frame.filename)]
    if last < 0:
        told.stack[:] = [] if told.exc_type is SyntaxError else frames[-1:]  # that one tells its own place
    for other in (told.__cause__, told.__context__, *(told.exceptions or ())):
        if other is not None:
            _strip(other)


def _is_machinery(filename: str) -> bool:
    package = f"{Path(errors.__file__).parent}/"
    if filename.startswith(package):
        return True
    path = Path(filename)
    return any(path.name.startswith(word) or word in path.parts for word in _MACHINERY)


def plain_warnings() -> None:
    """Show warnings as one line each, as messages of ours are, instead of with a line of our source."""

    def show(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, file: TextIO | None = None,
        line: str | None = None,
    ) -> None:  # fmt: skip
        ours = _is_machinery(filename)
        place = "" if ours else f" ({filename}:{lineno}, {category.__name__})"
        (file or sys.stderr).write(f"sweep: warning: {message}{place}\n")

    warnings.showwarning = show
