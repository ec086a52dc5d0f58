"""What surrounds everything that runs: one ``Root`` per tree, one ``Activation`` per stage.

Parents are found by context, never passed by hand: ``ACTIVATION`` is the stage activation
in which the current code runs.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, final

import anyio
from anyio.lowlevel import current_token

from sweep.context import Session
from sweep.fingerprint import Fingerprinter
from sweep.pipeline.contracts import FieldContract
from sweep.pipeline.isolation import Isolation
from sweep.pipeline.nodes import Hooks
from sweep.pipeline.redo import Redo
from sweep.pipeline.state import State
from sweep.pipeline.steps import Results, StageStep
from sweep.store.journal import Journal
from sweep.store.writer import Store
from sweep.threads import WorkerThreads
from sweep.tracker.stream import Stream, listeners, say
from sweep.tracker.tracing import debugging
from sweep.turns import holding

__all__ = ["ACTIVATION", "Activation", "Frame", "Handle", "Place", "Root", "Saving", "Slots", "current_activation", "open_root"]


@final
@dataclass(frozen=True, slots=True)
class Place:
    """Where a sweep's executor runs leaf functions.

    Attributes:
        run: Runs a function with its arguments, under the name of its context's parameter.
        apart: It does so in processes of their own.
    """

    run: Callable[[Activation, Callable[..., object], Mapping[str, object], str | None], Awaitable[Any]]
    apart: bool


@final
class Slots:
    """Counts what is free of the machine's CPUs and GPUs for the whole tree; first come, first served."""

    def __init__(self, cpus: float, gpus: float) -> None:
        self.cpus, self.gpus = cpus, gpus
        self._free = {"cpus": cpus, "gpus": gpus}
        self._waiting: list[tuple[Mapping[str, float], anyio.Event]] = []

    @asynccontextmanager
    async def hold(self, cpus: float, gpus: float) -> AsyncIterator[None]:
        """Wait until that much is free, and hold it."""
        need = {"cpus": cpus, "gpus": gpus}
        if self._waiting or not self._fits(need):
            turn = (need, anyio.Event())
            self._waiting.append(turn)
            try:
                await turn[1].wait()
            except BaseException:  # whoever gives up waiting, for whatever reason, stands in nobody's way
                if turn in self._waiting:
                    self._waiting.remove(turn)
                else:
                    self._give(need)
                raise
        else:
            self._take(need)
        try:
            yield
        finally:
            self._give(need)

    def _fits(self, need: Mapping[str, float]) -> bool:
        return all(self._free[name] >= amount for name, amount in need.items())

    def _take(self, need: Mapping[str, float]) -> None:
        for name, amount in need.items():
            self._free[name] -= amount

    def _give(self, need: Mapping[str, float]) -> None:
        for name, amount in need.items():
            self._free[name] += amount
        while self._waiting and self._fits(self._waiting[0][0]):
            need, event = self._waiting.pop(0)
            self._take(need)
            event.set()


@final
class Root:
    """What one tree of runs shares.

    Attributes:
        threads: Daemon worker threads for sync functions.
        stream: The event stream.
        slots: CPUs and GPUs for stages that ask for them.
        fingerprints: Cached code fingerprints.
        isolation: Child processes for stages that ask for one.
        executors: Executors that were asked for by name: one of each for the whole tree.
        orchestrators: Name and place of stages that were found to start runs of their own.
        said: Lines about defaults that people have been told: each once in a tree.
        interrupted: Name of the signal that ended the tree, or None.
    """

    def __init__(self) -> None:
        self.threads = WorkerThreads()
        self.stream = Stream(listeners() or debugging())
        self.slots = Slots(float(os.cpu_count() or 1), 0.0)
        self.fingerprints = Fingerprinter()
        self.isolation = Isolation(self.threads)
        self.executors: dict[str, Any] = {}
        self.orchestrators: set[tuple[str, str]] = set()
        self.said: set[str] = set()
        self.interrupted: str | None = None
        self.resume_line: str | None = None


@final
@dataclass(slots=True)
class Handle:
    """A durable run that is open: its identity in the store.

    Attributes:
        store: The open store of the tree.
        run_id: This run.
        root_id: The root of its tree, which is locked.
        path: Path from the root.
        journal: Outcomes of this run.
        resumed: It was begun by an earlier session.
        redo: Stages of its tree that this session runs again although they had finished.
        seed: The run's seed, drawn once and journaled.
    """

    store: Store
    run_id: int
    root_id: int
    path: str
    journal: Journal
    resumed: bool = False
    redo: Redo = field(default_factory=Redo)
    seed: int = 0
    group: anyio.Lock = field(default_factory=anyio.Lock)

    async def commit(self, threads: WorkerThreads) -> None:
        """Commit what is queued; under ``durability="power"`` in a thread, many callers at once."""
        if self.store.durability == "process":
            self.store.commit()
            return
        async with self.group:
            with anyio.CancelScope(shield=True):
                await threads.run(self.store.commit)


@final
class Saving:
    """One piece of work in a daemon thread, and what is to follow it.

    Args:
        work: Called in the thread at once.

    Example:
        >>> done = []
        >>> saving = Saving(lambda: done.append("saved"))
        >>> saving.then(lambda: done.append("reported"))
        >>> saving.wait()
        >>> done
        ['saved', 'reported']
    """

    def __init__(self, work: Callable[[], None]) -> None:
        self._mutex = threading.Lock()
        self._error: BaseException | None = None
        self._after: list[Callable[[], None]] | None = []
        self._thread = threading.Thread(target=copy_context().run, args=(self._run, work), name="sweep-save", daemon=True)
        self._thread.start()

    def then(self, action: Callable[[], None]) -> None:
        """Call ``action`` once the work is done, in order; after work that has failed nothing follows."""
        with self._mutex:
            if self._after is not None:
                self._after.append(action)
            elif self._error is None:
                action()

    def wait(self) -> None:
        """Return when everything is done.

        Raises:
            BaseException: What the work raised.
        """
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001  # raised where it is waited for
            self._error = error
        with self._mutex:
            actions, self._after = self._after, None
            for action in actions if actions is not None and self._error is None else ():
                action()


@final
@dataclass(slots=True)
class Frame:
    """A run in progress, durable or not.

    Attributes:
        root: What the tree shares.
        handle: The durable run, or None.
        path: Path for messages.
        hooks: Global hooks in force, outermost first.
        contracts: Contract of every field of the pipeline that runs.
        facts: Facts of the context that stages get: trial, attempt, seed.
        owner: The experiment whose pipeline runs, or None.
        session: The session of the trial this run is part of, or None.
        place: Where leaf functions run (a sweep's executor), or None to run them here.
    """

    root: Root
    handle: Handle | None = None
    path: str = ""
    hooks: tuple[Hooks, ...] = ()
    owner: Any = None
    session: Session | None = None
    place: Place | None = None
    contracts: Mapping[str, FieldContract] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    def below(self, handle: Handle | None, path: str, *, owner: Any = None) -> Frame:
        """Return the frame of a run inside this one: what belongs to the trial goes on into it."""
        return Frame(self.root, handle, path, self.hooks, owner, self.session, self.place, facts=self.facts)


@final
class Activation:
    """One stage at one place in one run: loop iterations are activations of their own."""

    __slots__ = (
        "attempt", "cached", "children", "deadline", "frame", "held", "key", "kwargs", "live", "results", "saving", "started",
        "state", "step",
    )  # fmt: skip

    step: StageStep
    state: State

    def __init__(self, frame: Frame, step: Any, key: str, state: Any) -> None:  # a trial's has neither step nor State
        self.frame, self.step, self.key, self.state = frame, step, key, state
        self.attempt = 1
        self.deadline: float | None = None
        self.started = 0.0
        self.cached = False
        self.kwargs: dict[str, object] | None = None
        self.children: dict[str, int] = {}
        self.live: set[str] = set()
        self.results: Results | None = None
        self.held: holding[None] | None = None
        self.saving: Saving | None = None

    @property
    def path(self) -> str:
        """Path of the stage from the root, for messages."""
        return f"{self.frame.path}/{self.key}" if self.frame.path and self.key else self.frame.path or self.key

    @asynccontextmanager
    async def lending(self) -> AsyncIterator[None]:
        """Give back the resources that the stage holds while a run of its own works: that one's leaves take theirs."""
        held = self.held
        if held is None:
            yield
            return
        await held.lend()
        try:
            yield
        finally:
            await held.recover()

    @property
    def apart(self) -> bool:
        """Whether its function runs in another process."""
        place, step = self.frame.place, self.step
        if step.hooks.get("isolate"):
            return True
        placed = step.unit.kind == "function" and place is not None and place.apart
        return placed and (step.name, step.where) not in self.frame.root.orchestrators


ACTIVATION: ContextVar[Activation | None] = ContextVar("sweep_activation", default=None)


def current_activation() -> Activation | None:
    """Return the stage activation in which the caller runs, or None outside any run."""
    return ACTIVATION.get()


@asynccontextmanager
async def open_root(owns_loop: bool) -> AsyncIterator[Root]:
    """Make the root of a tree; where we own the loop, Ctrl-C and SIGTERM stop it in good order.

    Once: everything is cancelled, what is finished is saved, the resume line is printed.
    Twice: the process leaves at once.

    Raises:
        KeyboardInterrupt: After Ctrl-C, in an interactive interpreter.
        SystemExit: 130 after Ctrl-C, 143 after SIGTERM.
    """
    root = Root()
    with anyio.CancelScope() as scope, root.threads:
        undo = _catch_signals(root, scope) if owns_loop else None
        try:
            yield root
        finally:
            if undo is not None:
                undo()
            with anyio.CancelScope(shield=True):
                await root.isolation.close()
    if root.interrupted is not None:
        if root.resume_line is not None:
            say(f"stopped; go on with: {root.resume_line}")
        _leave(root.interrupted)


def _catch_signals(root: Root, scope: anyio.CancelScope) -> Callable[[], None] | None:
    if threading.current_thread() is not threading.main_thread():
        return None
    token = current_token()

    def caught(number: int, _: FrameType | None) -> None:
        if root.interrupted is not None:
            os._exit(128 + number)
        root.interrupted = signal.Signals(number).name
        say(f"{root.interrupted}: stopping; what is finished is saved (again = leave at once)")
        from anyio.from_thread import run_sync

        threading.Thread(target=lambda: run_sync(scope.cancel, token=token), daemon=True).start()

    before = {number: signal.signal(number, caught) for number in (signal.SIGINT, signal.SIGTERM)}

    def undo() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    return undo


def _leave(name: str) -> None:
    if name == "SIGINT" and (hasattr(sys, "ps1") or sys.flags.interactive):
        raise KeyboardInterrupt
    raise SystemExit(128 + signal.Signals[name])
