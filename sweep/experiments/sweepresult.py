"""The result of a sweep."""

from __future__ import annotations

import html
import json
from typing import Any

from sweep.errors import MissingExtra, NoResult
from sweep.experiments.machine import Machine
from sweep.experiments.result import RunResult
from sweep.pipeline.durable import Opened
from sweep.pipeline.runtime import Handle
from sweep.space import SearchSpace
from sweep.trial import Reason, Status, Trial

__all__ = ["SweepResult"]


_OWN = frozenset({"number", "status", "reason", "score", "step", "cost"})


class SweepResult(RunResult):
    """What a sweep found.

    Attributes:
        trials: All trials by number.
        pareto_front: Trials that none beats in every objective.
        cost: Sum of the trials' costs (seconds, or the ``cost`` metric).
        n_failed: Trials that failed.
        saved: Steps that early stopping saved, or None.
        repeats: Scores of the repeats of each completed trial by number (empty where nothing is repeated).
        text: In words, why the sweep ended.
    """

    __slots__ = ()

    @classmethod
    def of_machine(cls, name: str, opened: Opened, machine: Machine, space: SearchSpace, text: str = "") -> SweepResult:
        """Return the result that a sweep's machine holds."""
        standing, end = machine.standing, machine.finished
        best = standing.best
        failed = standing.counts[Status.FAILED]
        status = Status(end.status) if end is not None else Status.INTERRUPTED
        return cls(
            run_id=opened.handle.run_id, name=name, path=opened.handle.path, status=status,
            reason=Reason(end.reason) if end is not None else None, value=None if best is None else best.score,
            error=None if end is None or status is not Status.FAILED else end.text,
            trials=list(standing.trials), pareto_front=standing.pareto_front(), cost=standing.cost, n_failed=failed,
            best=best, saved=standing.saved(), resource=standing.resource, space=space, store=str(opened.handle.store.path),
            objectives=standing.objectives, repeats=machine.repeated(), text=text or (end.text if end is not None else ""),
        )  # fmt: skip

    @property
    def best_trial(self) -> Trial:
        """The best trial: among those at the highest resource reached.

        Raises:
            NoResult: No trial has a finite score.
        """
        self._require_finished()
        if self._facts["best"] is None:
            text, trials = self._facts["text"] or "none completed", self._facts["trials"]
            scores = [trial.score for trial in trials if trial.score is not None and trial.status is not Status.FAILED]
            if scores:
                text += f"; no score of {len(scores)} trials is finite, the last is {scores[-1]}"
            raise NoResult(f"sweep {self._facts['path']!r} has no best trial: {text}")
        found: Trial = self._facts["best"]
        return found

    @property
    def best_score(self) -> float:
        """Score of the best trial.

        Raises:
            NoResult: No trial has a finite score.
        """
        return float(self.best_trial.score)  # type: ignore[arg-type]  # a best trial has a score

    @property
    def best_params(self) -> dict[str, Any]:
        """Parameters of the best trial.

        Raises:
            NoResult: No trial has a finite score.
        """
        return dict(self.best_trial.params)

    def summary_data(self) -> dict[str, Any]:
        """Return the summary as plain data: what the mapping holds."""
        facts, best = self._facts, self._facts["best"]
        return {
            **super().summary_data(),
            "best_score": None if best is None else best.score,
            "best_params": None if best is None else dict(best.params),
            "best_trial": None if best is None else best.number,
            "n_trials": len(facts["trials"]),
            "n_failed": facts["n_failed"],
            "cost": facts["cost"],
        }

    def ranked(self, count: int | None = None) -> list[Trial]:
        """Return trials with a score, best first (completed ones before those cut short)."""
        self._require_finished()
        loss = self._facts["objectives"][0].loss
        scored = [
            trial for trial in self._facts["trials"] if trial.score is not None and trial.status is not Status.FAILED
        ]
        scored.sort(
            key=lambda trial: (
                trial.status is not Status.COMPLETED,
                0 if trial.status is Status.COMPLETED else -trial.step,
                loss(trial.score),
                trial.number,
            )
        )
        return scored[:count]

    def summary(self, count: int = 5) -> str:
        """Return a short table of the best trials and what early stopping saved."""
        from sweep.experiments.tables import summary_table

        return summary_table(self, count)

    def to_frame(self) -> Any:
        """Return a pandas DataFrame, a row for each trial: number, status, score, step, cost, parameters, metrics.

        A parameter whose name is one of ours is in the column ``params.NAME``.

        Raises:
            MissingExtra: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise MissingExtra("to_frame()", "pandas", "pandas") from error
        self._require_finished()
        rows = [
            {
                "number": trial.number, "status": str(trial.status), "reason": None if trial.reason is None else str(trial.reason),
                "score": trial.score, "step": trial.step, "cost": trial.cost,
                **{f"params.{name}" if name in _OWN else name: value for name, value in trial.params.items()},
                **{name: value for name, value in trial.metrics.items() if name not in trial.params and name not in _OWN},
            }
            for trial in self._facts["trials"]
        ]  # fmt: skip
        return pandas.DataFrame(rows)

    def write(self, handle: Handle) -> None:
        """Queue the sweep's own columns for the closing commit."""
        best = self._facts["best"]
        query = "UPDATE run SET score=?, cost=?, step=?, result=? WHERE id=?"
        summary = {key: value for key, value in self.summary_data().items() if key not in ("run_id", "path", "name")}
        resource = int(self._facts["resource"])
        values = (None if best is None else best.score, self._facts["cost"], resource, json.dumps(summary, default=str))
        handle.store.add(query, (*values, handle.run_id))

    def _repr_html_(self) -> str:
        if getattr(self, "_main", None) is not None:
            return f"<code>{html.escape(repr(self))}</code>"
        return f"<pre>{html.escape(self.summary())}</pre>"
