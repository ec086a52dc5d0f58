"""Results of runs: finished, or pending until awaited; read-only mappings of their summary."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sweep.deferred import Deferred
from sweep.errors import did_you_mean
from sweep.pipeline.state import State
from sweep.store.runs import RunRow
from sweep.trial import Reason, Status

__all__ = ["RunResult"]


class RunResult(Deferred, Mapping[str, Any]):
    """What a run left behind.

    Reading a pending result raises ``NotAwaited``; awaiting a finished one gives itself.
    As a mapping it holds its summary, so that a contract ``dict`` accepts it.

    Attributes:
        run_id: Integer id in the store; 0 for a run that was not kept.
        name: Name of the run.
        path: Path from its root.
        status: How it ended.
        reason: Why.
        state: The last State.
        value: Output of the last contracted stage; of a sweep, its best score.
        children: Results of the direct child runs, in the order in which they began.
        error: One line on why it failed, or None.
    """

    __slots__ = ("_facts",)
    _FACTS = ("run_id", "name", "path", "status", "reason", "state", "value", "children", "error")

    _facts: dict[str, Any]

    def __init__(
        self,
        *,
        run_id: int = 0,
        name: str = "",
        path: str = "",
        status: Status = Status.COMPLETED,
        reason: Reason | None = Reason.COMPLETED,
        state: State | None = None,
        value: Any = None,
        children: list[RunResult] | None = None,
        error: str | None = None,
        **more: Any,
    ) -> None:
        self._main = None
        self._facts = {
            "run_id": run_id, "name": name, "path": path, "status": status, "reason": reason,
            "state": state if state is not None else State(), "value": value, "children": children or [],
            "error": error, **more,
        }  # fmt: skip

    def _adopt(self, finished: Any) -> None:
        self._facts = finished._facts

    @classmethod
    def of_row(cls, row: RunRow, path: str) -> RunResult:
        """Return what the store knows of a run (without its State)."""
        return RunResult(
            run_id=row.id,
            name=row.name,
            path=path,
            status=row.status,
            reason=row.reason,
            value=row.score,
            error=row.error,
        )

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        self._require_finished()
        try:
            return self._facts[name]
        except KeyError:
            known = [*self._facts, *(one for one in dir(type(self)) if not one.startswith("_"))]
            raise AttributeError(f"a {type(self).__name__} has no {name!r}{did_you_mean(name, known)}") from None

    def summary_data(self) -> dict[str, Any]:
        """Return the summary as plain data: what the mapping holds."""
        self._require_finished()
        facts = self._facts
        plain = {name: facts[name] for name in ("run_id", "name", "path", "status", "value", "error")}
        return {**plain, "status": str(facts["status"])}

    def __getitem__(self, name: str) -> Any:
        return self.summary_data()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.summary_data())

    def __len__(self) -> int:
        return len(self.summary_data())

    __hash__ = None  # type: ignore[assignment]  # a mapping, compared by content

    def __repr__(self) -> str:
        if getattr(self, "_main", None) is not None:
            return f"{type(self).__name__}(pending: await …{self._what})"
        return (
            f"{type(self).__name__}({self._facts['path']!r}, {self._facts['status']}, value={self._facts['value']!r})"
        )
