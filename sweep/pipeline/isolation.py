"""``isolate="process"``: a stage's function in a child process of its own, which can be killed.

One fork server serves a whole tree; it starts on first use and ends with the tree.
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from sweep.clock import current_clock
from sweep.context import Context, Session
from sweep.errors import ContractError, shortened
from sweep.threads import WorkerThreads
from sweep.trial import Decision, Resources

__all__ = ["Carried", "Isolation", "Job", "NoSession", "received", "within"]

_REMAINING = "sweep: seconds left"


@final
@dataclass(frozen=True, slots=True)
class Job:
    """One call for a child.

    Attributes:
        function: A :class:`Carried` function.
        kwargs: Its arguments.
        context_name: The parameter that takes the context.
        resources: Its cpus become threads; its memory is enforced.
        facts: Arguments of the context.
        directory: The run's directory, or None.
        output: Where the child's stdout and stderr go, or None for ours.
        level: What messages call it.
    """

    function: Callable[..., object]
    kwargs: Mapping[str, object]
    context_name: str | None
    resources: Resources
    facts: Mapping[str, Any] = field(default_factory=dict)
    directory: Path | None = None
    output: Path | None = None
    level: str = "stage"


@final
class Isolation:
    """The fork server of a tree, if one is needed.

    Args:
        threads: Where sessions save and load.
    """

    def __init__(self, threads: WorkerThreads) -> None:
        self._threads = threads
        self._server: Any = None

    async def run(self, job: Job, session: Session, deadline: float | None) -> Any:
        """Run one call in a child and return its value; cancelling the call kills the child.

        Raises:
            ContractError: The function cannot be sent to a child.
            TrialFailed: The child died or was lost.
            Exception: What the function raised.
        """
        from sweep.process import ForkServer  # it needs cloudpickle, which is slow to import

        if self._server is None:
            self._server = ForkServer(self._threads)
        try:
            await self._server.preload([job.function])
        except ContractError as error:
            place = f"stage {job.facts.get('path')!r}, isolate='process'"
            told = (text.replace("objective", "stage") for text in error.problems)
            problems = [text.replace("use executor='thread' or 'inline'", "leave isolate= out") for text in told]
            raise ContractError(place, problems) from error
        kwargs = within(job.kwargs, deadline)
        sent = Job(job.function, kwargs, job.context_name, job.resources, job.facts, job.directory, job.output)
        return received(await self._server.run(sent, session))

    async def close(self) -> None:
        """End the server and all children."""
        if self._server is not None:
            await self._server.close()


def within(kwargs: Mapping[str, object], deadline: float | None) -> dict[str, object]:
    """Return arguments for a :class:`Carried` function, with the seconds that are left before its deadline."""
    return {**kwargs, **({} if deadline is None else {_REMAINING: deadline - current_clock().now()})}


def received(answer: tuple[str, Any, str]) -> Any:
    """Return what a :class:`Carried` function returned in its process.

    Raises:
        Exception: What it raised there.
    """
    kind, value, text = answer
    if kind == "value":
        return value
    from sweep.process.wire import load_error  # it needs cloudpickle, which is slow to import

    raised = load_error(value)
    if isinstance(raised, StopIteration):
        raised = RuntimeError("it raised StopIteration, which cannot pass through a coroutine")
    raised.add_note(f"in a child process:\n{text.rstrip()}")
    raise raised


@final
@dataclass(frozen=True, slots=True)
class Carried:
    """A function as it runs in the child: what it raises comes back as itself.

    Attributes:
        function: The stage's function.
        positional: Parameters that cannot be given by name.
        context_name: The parameter that takes the context.
    """

    function: Callable[..., object]
    positional: tuple[str, ...] = ()
    context_name: str | None = None

    @property
    def __wrapped__(self) -> Callable[..., object]:
        """The function, by which messages are to call it."""
        return self.function

    def __call__(self, **kwargs: Any) -> object:
        """Call it; an async function gives a coroutine of the same."""
        left = kwargs.pop(_REMAINING, None)
        if left is not None and self.context_name is not None:
            ctx: Context = kwargs[self.context_name]
            ctx.deadline = current_clock().now() + left
        args = [kwargs.pop(name) for name in self.positional if name in kwargs]
        with _Answer() as answer:
            value = self.function(*args, **kwargs)
            if inspect.isawaitable(value):
                return _awaited(value)
            answer.found = "value", value, ""
        return answer.found


async def _awaited(value: Awaitable[object]) -> tuple[str, object, str]:
    with _Answer() as answer:
        answer.found = "value", await value, ""
    return answer.found


@final
class _Answer:
    """What a function came to: what it raises in the block is kept, to be raised again in the owner."""

    found: tuple[str, object, str]

    def __enter__(self) -> _Answer:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, Exception):
            self.found = _raised(error)
        return isinstance(error, Exception)


def _raised(error: Exception) -> tuple[str, object, str]:
    from sweep.process.wire import dump_error

    own = error.__traceback__
    shown = error.with_traceback(own.tb_next) if own is not None and own.tb_next is not None else error
    return "error", [bytes(part) for part in dump_error(error)], shortened("".join(traceback.format_exception(shown)))


@final
class NoSession:
    """The session of a run that is not kept: nothing is recorded, nothing is there to load."""

    next_decision: int | None = None

    def report(self, step: int, metrics: Mapping[str, float]) -> Decision:
        """Take a report; nobody decides."""
        return Decision.CONTINUE

    def save(self, value: object) -> None:
        """Drop a checkpoint."""

    def load(self) -> object | None:
        """Return None."""
        return None

    def log(self, message: str) -> None:
        """Drop a line."""

    def log_metric(self, name: str, value: float, step: int | None) -> None:
        """Drop a metric."""

    def log_artifact(self, path: Path) -> None:
        """Drop a file."""
