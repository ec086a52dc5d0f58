"""What a running stage or objective sees of the engine: ``ctx``.

``Context`` is the face, ``Session`` the wire behind it: in the owning process it is the
run itself, in a child process a pipe to it. A child never opens the store.
"""

from __future__ import annotations

import math
import operator
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, final

from sweep.clock import current_clock
from sweep.errors import TrialPaused, TrialStopped
from sweep.trial import Decision

__all__ = ["Context", "Session"]


class Session(Protocol):
    """The run behind a context; every method is synchronous and may be called from any thread.

    Attributes:
        next_decision: Reports below this step are one-way; None = each one needs an answer.
    """

    next_decision: int | None

    def report(self, step: int, metrics: Mapping[str, float]) -> Decision:
        """Take a report and return the scheduler's decision for it."""

    def save(self, value: Any) -> None:
        """Keep the checkpoint that belongs to the next report.

        Raises:
            NotStorable: Part of the value cannot be written.
        """

    def load(self) -> Any | None:
        """Return the latest checkpoint, or None."""

    def log(self, message: str) -> None:
        """Take a line for the run's log."""

    def log_metric(self, name: str, value: float, step: int | None) -> None:
        """Take a metric that no scheduler sees."""

    def log_artifact(self, path: Path) -> None:
        """Take a file to be kept with the run."""


@final
class Context:
    """The runtime of one stage activation or one trial attempt.

    A stage gets it by a parameter named ``ctx`` or annotated ``Context``.

    Attributes:
        run_id: Integer id of the run in its store, or 0 for a run that is not kept.
        path: Path in the run tree, for example ``"digits/trial[5]/train"``.
        trial: Number of the trial, or None outside a sweep.
        attempt: 1 for the first attempt.
        step: Step of the last report; after a resume, of the checkpoint.
        seed: Seed of this run, journaled; the same on every attempt.
        dir: Directory of this run for files of your own (made on first use).
        deadline: ``clock`` time at which this attempt times out, or None.
        tracker: The tracker of the run, or None.
    """

    def __init__(
        self,
        session: Session | None,
        *,
        run_id: int = 0,
        path: str = "",
        trial: int | None = None,
        attempt: int = 1,
        step: int = 0,
        seed: int = 0,
        directory: Path | None = None,
        deadline: float | None = None,
        tracker: Any = None,
    ) -> None:
        self._session = session
        self.run_id, self.path, self.trial, self.attempt = run_id, path, trial, attempt
        self.step, self.seed, self.deadline, self.tracker = step, seed, deadline, tracker
        self._directory = directory
        self._rng: random.Random | None = None

    def __repr__(self) -> str:
        return f"Context({self.path!r}, attempt={self.attempt}, step={self.step})"

    @property
    def rng(self) -> random.Random:
        """A private generator seeded with ``seed``."""
        if self._rng is None:
            self._rng = random.Random(self.seed)  # noqa: S311  # reproducibility, not secrecy
        return self._rng

    @property
    def dir(self) -> Path:
        """The run's own directory.

        Raises:
            RuntimeError: The run is not kept in a store.
        """
        if self._directory is None:
            raise RuntimeError(f"{self.path or 'this run'} has no directory: it is not kept in a store; give it a name")
        self._directory.mkdir(parents=True, exist_ok=True)
        return self._directory

    @property
    def remaining(self) -> float | None:
        """Seconds left before the deadline, or None without one."""
        return None if self.deadline is None else max(0.0, self.deadline - current_clock().now())

    def report(self, step: int, /, **metrics: float) -> None:
        """Report metrics after ``step`` units of work (epochs), counted from 1.

        Returns when the scheduler's decision for the step is known.

        Raises:
            TrialStopped: The scheduler stops this trial here.
            TrialPaused: The scheduler pauses this trial here.
            TypeError: A step that is no whole number, or a metric that is no number.
        """
        at = _whole(step)
        numbers = {name: _number(name, value) for name, value in metrics.items()}
        decision = Decision.CONTINUE if self._session is None else self._session.report(at, numbers)
        self.step = max(self.step, at)
        if decision is Decision.STOP:
            raise TrialStopped
        if decision is Decision.PAUSE:
            raise TrialPaused

    def save(self, value: Any) -> None:
        """Keep a checkpoint; call it before the report it belongs to.

        The two are committed together: at once where the scheduler decides something, else within a second. What
        a crash takes before that is as if the trial had not come so far. Arrays are written before this returns: in an
        async objective of a sweep large ones let everything else wait, so a sync objective suits them better.

        Args:
            value: Plain data, arrays, tensors, state dicts, pydantic models, dataclasses, nested at will.

        Raises:
            NotStorable: Part of the value cannot be written; the message names the place.
        """
        if self._session is not None:
            self._session.save(value)

    def load(self, default: Any = None) -> Any:
        """Return the latest checkpoint after a crash, a promotion or an exploit; else ``default``."""
        found = None if self._session is None else self._session.load()
        return default if found is None else found

    def log(self, message: str) -> None:
        """Write a line to the run's log."""
        if self._session is not None:
            self._session.log(str(message))

    def log_metric(self, name: str, value: float, step: int | None = None) -> None:
        """Record a metric that no scheduler sees.

        Raises:
            TypeError: The value is no number.
        """
        if self._session is not None:
            self._session.log_metric(name, _number(name, value), step)

    def log_artifact(self, path: str | Path) -> None:
        """Keep a file with the run.

        Raises:
            FileNotFoundError: There is no such file.
        """
        source = Path(path)
        if not source.is_file():
            raise FileNotFoundError(f"log_artifact({str(path)!r}): no such file")
        if self._session is not None:
            self._session.log_artifact(source)


def _whole(step: object) -> int:
    """Return a step as int (numpy integers too)."""
    try:
        at = operator.index(step)  # type: ignore[arg-type]  # that is the question
    except TypeError:
        raise TypeError(f"ctx.report({step!r}): the step must be a whole number") from None
    if isinstance(step, bool) or at < 0:
        raise TypeError(f"ctx.report({step!r}): the step must be a whole number >= 0")
    return at


def _number(name: str, value: object) -> float:
    """Return a metric as float (numpy and torch scalars too); NaN and infinity are allowed."""
    if type(value) is float:
        return value
    if isinstance(value, bool | str | bytes) or not hasattr(value, "__float__"):
        raise TypeError(f"metric {name!r}: expected a number, got {value!r} ({type(value).__name__})")
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"metric {name!r}: {value!r} does not convert to one number: {error}") from error
    except OverflowError:
        return math.inf
