"""What ``sweep resume`` asks of the run it enters again, through the environment.

A run is entered again by importing its file or executing its script once more, so the wish has to
reach the run from outside of any code: ``SWEEP_RESUME`` holds an id, or a request as JSON.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

from sweep.errors import SweepError

__all__ = ["Plan", "PlanLine", "Planned", "Request", "Reran", "requested"]

RESUME_VARIABLE = "SWEEP_RESUME"


@final
@dataclass(frozen=True, slots=True)
class Request:
    """One run that is to go on.

    Attributes:
        run: Its id.
        store: Absolute path of its store, or "" for whichever the program opens.
        redo: Stages that are to run again although they have finished, as :func:`~sweep.pipeline.redo.find_stages` reads them.
        allow_changed: Go on although structure or contracts have changed.
        dry_run: Only make the plan, and raise it as :class:`Planned`.
        name: The run's name.
        trial: Do not go on with the run: run this trial of it alone, as a new run.

    Example:
        >>> Request.from_text("7").run, Request.from_text(Request(7, redo=("train",)).to_text()).redo
        (7, ('train',))
    """

    run: int
    store: str = ""
    redo: tuple[str, ...] = ()
    allow_changed: bool = False
    dry_run: bool = False
    name: str = ""
    trial: int | None = None

    def to_text(self) -> str:
        """Return it as the value of the environment variable."""
        return json.dumps(asdict(self))

    @classmethod
    def from_text(cls, text: str) -> Request:
        """Read the value of the environment variable.

        Raises:
            SweepError: It is neither an id nor a request.
        """
        try:
            data = json.loads(text)
            facts: dict[str, Any] = {"run": data} if isinstance(data, int) else dict(data)
            return cls(**{**facts, "redo": tuple(facts.get("redo", ()))})
        except (ValueError, TypeError) as error:
            raise SweepError(f"{RESUME_VARIABLE}={text!r}: expected the id of a run; unset it") from error

    def means(self, store: Path, run_id: int) -> bool:
        """Whether it asks for this run of this store."""
        return run_id == self.run and self.store in ("", str(store.resolve()))


def requested() -> Request | None:
    """Return what this process was asked to go on with, or None."""
    text = os.environ.get(RESUME_VARIABLE)
    return Request.from_text(text) if text else None


@final
@dataclass(frozen=True, slots=True)
class PlanLine:
    """What a resume does with one stage, trial or child run.

    Attributes:
        path: Its place below the run.
        action: ``restored``, ``runs again``, ``goes on``, ``runs``, ``skipped``, ``waits`` or ``finished``.
        note: Why, or from where.
        changed: Its code has changed since it finished.
    """

    path: str
    action: str
    note: str = ""
    changed: bool = False


@final
@dataclass(frozen=True, slots=True)
class Plan:
    """What a resume will do, before it does it.

    Example:
        >>> print(Plan(3, "digits", (PlanLine("load", "restored"), PlanLine("train", "runs again", "cut short"))))
        digits (run 3):
          load   restored
          train  runs again  (cut short)
    """

    run_id: int
    path: str
    lines: tuple[PlanLine, ...] = ()

    def to_data(self) -> dict[str, object]:
        """Return it as plain data."""
        return {"run_id": self.run_id, "path": self.path, "plan": [asdict(line) for line in self.lines]}

    def __str__(self) -> str:
        width = max((len(line.path) for line in self.lines), default=0)
        rows = [f"{self.path} (run {self.run_id}):"]
        for line in self.lines:
            note = f"  ({line.note})" if line.note else ""
            rows.append(f"  {line.path:<{width}}  {line.action}{note}")
        return "\n".join(rows)


class Planned(BaseException):
    """Raised by a run that was only asked for its plan; it has changed nothing.

    A ``BaseException``, so that a script's ``except Exception`` does not swallow it.

    Attributes:
        plan: The plan.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        super().__init__(str(plan))


class Reran(BaseException):
    """Raised by a sweep that was only asked to run one of its trials alone.

    Attributes:
        result: The new run's result.
    """

    def __init__(self, result: Any) -> None:
        self.result = result
        super().__init__(f"run {result.run_id}")
