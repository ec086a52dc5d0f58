"""Every error of sweep, in one tree.

::

    SweepError
    ├── ContractError          two stages do not fit (found before anything runs)
    ├── ContractViolation      a value broke its contract (at run time)
    ├── StageTimeout           a stage overran its timeout            (also TimeoutError)
    ├── HookError              an `after` or `metrics` hook raised
    ├── SpaceError             a search space or a parameter value is wrong
    ├── StrategyError          an optimizer or scheduler broke its protocol
    ├── PlacementError         resources were asked for that do not exist
    ├── TrialFailed            a trial ended by error, signal, timeout or loss
    ├── ItemFailed             an item of a map failed in an earlier session
    ├── NoResult               there is nothing to read: no trial completed
    ├── NotAwaited             a pending result was read inside an event loop
    ├── NotStorable            a value cannot be written to the store
    ├── ResumeRefused          a run cannot be resumed exactly
    ├── RunLocked              another process owns the run
    ├── RunInChild             a run was started inside a child process, which never opens the store
    ├── RunNotFound            no such run in the store
    ├── StoreError
    │   ├── StoreCorrupt       a row or blob does not read back
    │   ├── StoreTooNew        written by a newer version of sweep
    │   └── StoreUnwritable    read-only, missing directory, disk full
    ├── MissingExtra           an optional package is not installed   (also ImportError)
    └── ConfigError
        ├── UnknownName        a key, view, scope or flag nobody knows
        └── ConfigFileMissing  a config file or group option that does not exist (also FileNotFoundError)

    BaseException
    ├── TrialStopped           raised by ``ctx.report``: the scheduler stopped this trial
    └── TrialPaused            raised by ``ctx.report``: the scheduler paused this trial

Errors take facts, the class words the message. ``near_miss`` is the one place
where "did you mean" is written.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

__all__ = [
    "ConfigError",
    "ConfigFileMissing",
    "ContractError",
    "ContractViolation",
    "HookError",
    "ItemFailed",
    "MissingExtra",
    "NoResult",
    "NotAwaited",
    "NotStorable",
    "PlacementError",
    "ResumeRefused",
    "RunInChild",
    "RunLocked",
    "RunNotFound",
    "SpaceError",
    "StageTimeout",
    "StoreCorrupt",
    "StoreError",
    "StoreTooNew",
    "StoreUnwritable",
    "StrategyError",
    "SweepError",
    "TrialFailed",
    "TrialPaused",
    "TrialStopped",
    "UnknownName",
    "did_you_mean",
    "in_words",
    "near_miss",
    "shortened",
]


def near_miss(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that ``name`` was probably meant to be.

    Example:
        >>> near_miss("learning_rte", ["learning_rate", "depth"])
        'learning_rate'
    """
    names = list(known)
    folded = {str(other).lower(): str(other) for other in names}
    found = difflib.get_close_matches(name.lower(), folded, n=1, cutoff=0.7)
    return folded[found[0]] if found else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` or ``""``.

    Example:
        >>> did_you_mean("depht", ["depth"])
        "; did you mean 'depth'?"
    """
    meant = near_miss(name, known)
    return f"; did you mean {meant!r}?" if meant is not None else ""


def in_words(error: BaseException) -> str:
    """Return class and message of an exception, shortened; whatever its own ``__str__`` does.

    Example:
        >>> in_words(ValueError("too large")), in_words(KeyboardInterrupt())
        ('ValueError: too large', 'KeyboardInterrupt')
    """
    message = _legible(str, error)
    return f"{type(error).__name__}: {shortened(message)}" if message else type(error).__name__


def shortened(text: str, limit: int = 10_000) -> str:
    """Return a text without the middle of what is longer than ``limit`` characters.

    Example:
        >>> shortened("a" * 50 + "b" * 50, 10)
        'aaaaa … (90 characters left out) … bbbbb'
    """
    half = limit // 2
    return text if len(text) <= limit else f"{text[:half]} … ({len(text) - 2 * half} characters left out) … {text[-half:]}"


def _legible(read: Callable[[object], str], value: object) -> str:
    try:
        return read(value)
    except Exception as error:  # noqa: BLE001  # a class of the user's may raise anything here, and we are telling of another error
        return f"<no {read.__name__}: {type(error).__name__}>"


class SweepError(Exception):
    """Base of every error that sweep raises on purpose; pickles with all its facts."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (type(self), self.args, self.__dict__.copy())


def _restored(cls: type[SweepError], args: tuple[Any, ...], facts: dict[str, Any]) -> SweepError:
    """Rebuild an error from its message and facts: its constructor takes the facts, not the message."""
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(facts)
    return error


class ContractError(SweepError):
    """The pipeline does not fit together; raised before anything runs.

    Args:
        where: What was checked, for example ``"pipeline 'train'"``.
        problems: One complete sentence for each mismatch, all of them.

    Attributes:
        problems: The sentences, in the order of the pipeline.
    """

    def __init__(self, where: str, problems: Sequence[str]) -> None:
        self.where = where
        self.problems = list(problems)
        count = len(self.problems)
        head = f"{where}: {count} problem{'s' if count != 1 else ''}"
        super().__init__("\n".join([head, *(f"  - {problem}" for problem in self.problems)]))


class ContractViolation(SweepError):
    """A value broke its contract at run time; nothing downstream has run.

    Attributes:
        stage: Path of the stage, for example ``"loop/train#3"``.
        field: Path of the field inside the contract, for example ``"trials[2].lr"``.
        value: The offending value itself.
    """

    def __init__(self, stage: str, field: str, value: object, expected: str, hint: str = "") -> None:
        self.stage, self.field, self.value, self.expected = stage, field, value, expected
        shown = _legible(repr, value)
        shown = shown if len(shown) <= 200 else shown[:197] + "..."
        tail = f"; {hint}" if hint else ""
        super().__init__(
            f"stage {stage!r}, field {field!r}: got {shown} ({type(value).__name__}), expected {expected}{tail}"
        )


class StageTimeout(SweepError, TimeoutError):
    """A stage overran its timeout.

    Attributes:
        stage: Path of the stage.
        seconds: The timeout in seconds.
    """

    def __init__(self, stage: str, seconds: float, note: str = "") -> None:
        self.stage, self.seconds = stage, seconds
        super().__init__(f"stage {stage!r} did not finish within its timeout of {seconds:g} s{note}")


class HookError(SweepError):
    """An ``after`` or ``metrics`` hook raised; the stage's value is kept.

    Attributes:
        stage: Path of the stage.
        hook: ``"after"`` or ``"metrics"``.
        value: The output of the stage, already committed.
    """

    def __init__(self, stage: str, hook: str, value: object, cause: BaseException) -> None:
        self.stage, self.hook, self.value = stage, hook, value
        super().__init__(
            f"stage {stage!r}: its {hook!r} hook raised {in_words(cause)} "
            "(the stage's output is kept; mend the hook and resume)"
        )


class SpaceError(SweepError):
    """A search space or a value for it is wrong.

    Attributes:
        parameter: Dotted name of the parameter, or ``""``.
        problems: Each wrong parameter with what is wrong with it.
    """

    def __init__(self, parameter: str, message: str) -> None:
        self.parameter = parameter
        self.problems: tuple[tuple[str, str], ...] = ((parameter, message),)
        super().__init__(f"parameter {parameter!r}: {message}" if parameter else message)


class StrategyError(SweepError):
    """An optimizer or a scheduler broke its protocol."""


class PlacementError(SweepError):
    """More resources were asked for than exist; said at once, never waited for.

    Attributes:
        asked: What was asked for, by name.
        available: What there is, by name.
    """

    def __init__(self, what: str, asked: object, available: object) -> None:
        self.asked, self.available = asked, available
        super().__init__(f"{what} asks for {asked}, available: {available}; ask for less or use another executor")


class TrialFailed(SweepError):
    """A trial ended by an error of its own, a signal, a time limit or a lost host.

    Attributes:
        kind: ``"error"``, ``"timeout"`` or ``"lost"``.
        exit_code: Exit code of the child process, if there was one.
        signal: Name of the signal that ended it, for example ``"SIGSEGV"``.
        traceback: The trial's own traceback as text, or ``""``.
    """

    def __init__(
        self,
        message: str,
        *,
        kind: str = "error",
        exit_code: int | None = None,
        signal: str | None = None,
        traceback: str = "",
    ) -> None:
        self.kind, self.exit_code, self.signal, self.traceback = kind, exit_code, signal, traceback
        super().__init__(message)


class ItemFailed(SweepError):
    """An item of a map failed, in an earlier session of the run.

    Attributes:
        kind: Name of the class of its error.
        message: What that error said.
    """

    def __init__(self, kind: str, message: str) -> None:
        self.kind, self.message = kind, message
        super().__init__(f"{kind}: {message}" if message else kind)

    def __reduce__(self) -> tuple[type[ItemFailed], tuple[str, str]]:
        return type(self), (self.kind, self.message)


class NoResult(SweepError):
    """There is nothing to read, for example the best trial when none completed."""


class NotAwaited(SweepError):
    """A pending result was read inside an event loop."""

    def __init__(self, what: str = "run()") -> None:
        super().__init__(f"this result is pending: write `await …{what}` inside an event loop")


class NotStorable(SweepError):
    """A value cannot be written to the store.

    Attributes:
        place: Path of the offending part, for example ``"state['model']"``.
        value_type: The type that cannot be stored.
    """

    def __init__(self, place: str, value_type: type, hint: str = "") -> None:
        self.place, self.value_type = place, value_type
        name = f"{value_type.__module__}.{value_type.__qualname__}"
        tail = f"; {hint}" if hint else "; return plain data, a pydantic model, a dataclass, an array or a tensor"
        super().__init__(f"{place} is a {name}, which cannot be stored{tail}")


class ResumeRefused(SweepError):
    """A run cannot be resumed exactly; nothing has run.

    Attributes:
        diff: One line for each difference.
    """

    def __init__(self, run: str, diff: Sequence[str], remedy: str) -> None:
        self.run, self.diff = run, list(diff)
        lines = [f"run {run!r} cannot be resumed exactly:", *(f"  - {line}" for line in self.diff), f"  {remedy}"]
        super().__init__("\n".join(lines))


class RunLocked(SweepError):
    """Another process owns the run.

    Attributes:
        owner: What is known of it: host, process id, start time.
    """

    def __init__(self, run: str, owner: str) -> None:
        self.run, self.owner = run, owner
        super().__init__(f"run {run!r} is being worked on by {owner}; wait for it, or stop it: sweep stop {run}")


class RunInChild(SweepError):
    """A run was started inside a child process of a sweep, which never opens the store."""

    def __init__(self, level: str, name: str) -> None:
        super().__init__(
            f"{level} {name!r} was started inside a child process of a sweep, which never opens the store; pass it as "
            "the objective instead, use executor='inline' or 'thread', or take isolate='process' off the stage"
        )


class RunNotFound(SweepError):
    """No such run in the store."""

    def __init__(self, run: str, store: str, known: Iterable[str] = ()) -> None:
        self.run, self.store = run, store
        super().__init__(f"no run {run!r} in {store}{did_you_mean(run, known)} (list them: sweep ls)")


class StoreError(SweepError):
    """The store cannot be used."""


class StoreCorrupt(StoreError):
    """A row or a blob does not read back as it was written."""


class StoreTooNew(StoreError):
    """The store was written by a newer version of sweep."""

    def __init__(self, path: str, found: int, known: int) -> None:
        self.path, self.found, self.known = path, found, known
        super().__init__(
            f"{path} has schema version {found}, this sweep knows up to {known}; "
            "upgrade sweep, or name another store (store=, SWEEP_STORE, --store)"
        )


class StoreUnwritable(StoreError):
    """The store cannot be written: read-only, missing directory, disk full."""


class MissingExtra(SweepError, ImportError):
    """An optional package is not installed.

    Attributes:
        package: The package that could not be imported.
        extra: The extra of sweep that installs it.
    """

    def __init__(self, what: str, package: str, extra: str, instead: str = "") -> None:
        self.package, self.extra = package, extra
        tail = f" ({instead})" if instead else ""
        super().__init__(f"{what} needs the package {package!r}: pip install 'sweep[{extra}]'{tail}")


class ConfigError(SweepError):
    """A configuration is wrong; the message names key, layer and place."""


class UnknownName(ConfigError):
    """A key, view, scope or flag nobody knows.

    Attributes:
        name: The unknown name.
        known: The names that exist.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str], where: str = "") -> None:
        self.kind, self.name, self.known = kind, name, sorted(str(other) for other in known)
        place = f" ({where})" if where else ""
        listed = ", ".join(self.known[:12]) + (", …" if len(self.known) > 12 else "")
        there_are = f"; there are: {listed}" if self.known else "; there are none"
        super().__init__(f"unknown {kind} {name!r}{place}{did_you_mean(name, self.known) or there_are}")


class ConfigFileMissing(ConfigError, FileNotFoundError):
    """A config file, or the option of a config group, does not exist."""

    def __init__(self, what: str, known: Iterable[str] = ()) -> None:
        names = sorted(known)
        there_are = f"; there are: {', '.join(names)}" if names else ""
        super().__init__(f"{what} does not exist{there_are}")


class TrialStopped(BaseException):
    """Raised by ``ctx.report``: the scheduler stopped this trial.

    A ``BaseException`` so that a training loop's ``except Exception`` does not swallow it.
    """


class TrialPaused(BaseException):
    """Raised by ``ctx.report``: the scheduler paused this trial; it may go on later from its checkpoint."""
