"""The protocol of executors: where a leaf function runs.

An executor places one function call and carries its session; it knows nothing of
pipelines, sweeps or strategies. Orchestration stays in the owning process.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from sweep.context import Session
from sweep.trial import Resources

__all__ = ["Capacity", "Executor", "Task"]


@final
@dataclass(frozen=True, slots=True)
class Capacity:
    """What an executor has in all; None = not limited (or not known)."""

    cpus: float | None = None
    gpus: float | None = 0
    memory: int | None = None


@final
@dataclass(slots=True)
class Task:
    """One call of a leaf function, ready to be placed.

    Attributes:
        function: Sync or async function, or generator function (the caller has wrapped
            generators already: a task's function simply returns its value).
        kwargs: Arguments by name, without the context.
        context_name: Name of the parameter that takes the ``Context``, or None.
        resources: What it occupies; ``time_limit`` is enforced by the executor.
        facts: Constructor arguments of the ``Context``: run_id, path, trial, attempt, step, seed.
        directory: The run's own directory, or None.
        output: Directory for ``stdout.log`` and ``stderr.log`` of a child process, or None.
    """

    function: Callable[..., object]
    kwargs: Mapping[str, object]
    context_name: str | None = None
    resources: Resources = field(default_factory=Resources)
    facts: Mapping[str, Any] = field(default_factory=dict)
    directory: Path | None = None
    output: Path | None = None


class Executor(ABC):
    """Runs tasks somewhere. The sweep never has more than its workers in flight.

    Attributes:
        workers: Tasks at once, or None to leave it to the sweep.
        in_process: Functions run in this process: what they raise comes out as itself, and they may start runs.
    """

    workers: int | None = None
    in_process: bool = False

    def capacity(self) -> Capacity:
        """Return what there is, so that a request that cannot be met is refused at once."""
        return Capacity()

    @asynccontextmanager
    async def open(self, preload: Sequence[Callable[..., object]] = ()) -> AsyncIterator[None]:
        """Hold whatever the executor needs (a fork server, a client); re-entrant for nested sweeps.

        Args:
            preload: Functions that will be placed, so that their imports can be done once.
        """
        yield

    @abstractmethod
    async def run(self, task: Task, session: Session) -> Any:
        """Run one task and return its value. Cancelling the call ends the work (or abandons a thread).

        Raises:
            TrialStopped: The session answered a report so.
            TrialPaused: The session answered a report so.
            TrialFailed: A child died, timed out, was lost, or raised (with its traceback as text).
            PlacementError: The task asks for more than there is.
            Exception: What the function raised, where it runs in this process.
        """
