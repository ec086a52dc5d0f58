"""Runs a map: n workers pull one iterator, results stay in order, each item is kept by itself.

An item's outcome is journaled under ``name[3]`` and counts as finished once committed; items that
finish while a commit is due ride in it. The outcome of the whole map then takes their place.
"""

from __future__ import annotations

import traceback
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Final, final

import anyio
from anyio.lowlevel import checkpoint

from sweep.errors import ContractError, ContractViolation, RunLocked, StoreError, SweepError, in_words
from sweep.pipeline.contracts import Accepted
from sweep.pipeline.hooks import Call
from sweep.pipeline.records import commit_item, restore_item
from sweep.pipeline.runtime import ACTIVATION, Activation, Handle
from sweep.pipeline.steps import Items, Results
from sweep.threads import WorkerThreads

__all__ = ["keep_failures", "note", "run_map", "together"]

_OPEN: Final = object()
_TURNS = 32
"""Items after which a worker lets others have the loop, whatever its items do."""
_FATAL = (ContractError, StoreError, RunLocked)
"""Errors that are no failure of an item: they end the map under ``on_failure="continue"``, too."""


async def run_map(act: Activation, items: Items, call: Call) -> Results:
    """Run a map's stage for every item and return the ordered results.

    Args:
        act: The activation of the map.
        items: What it does with each item.
        call: The item's stage inside its hooks.

    Raises:
        Exception: An item's failure, under ``on_failure="stop"``.
    """
    return await _Mapping(act, items, call).run()


def keep_failures(returned: object, accepted: Accepted) -> None:
    """Put the failures of items back on results that a contract has copied into plain lists."""
    for name, value in accepted.updates.items():
        source = returned.get(name) if isinstance(returned, Mapping) else returned
        if isinstance(source, Results) and type(value) is list:
            accepted.updates[name] = Results(value, source.failures)


@final
class _Mapping:
    """One run of a map."""

    def __init__(self, act: Activation, items: Items, call: Call) -> None:
        self.act, self.items, self.call, self.step = act, items, call, items.step
        self.handle = act.frame.handle if act.step.checkpointed else None
        self.commits = None if self.handle is None else _Commits(self.handle, act.frame.root.threads)
        self.shared = {name: one for name, one in (act.kwargs or {}).items() if name in _names(items)}
        self.failures: dict[int, Exception] = {}
        self.results = Results()

    async def run(self) -> Results:
        source = self.source()
        workers = [lambda: self.work(source)] * self.items.concurrency
        await together(workers, f"items of map {self.act.path!r}")
        if not self.failures and "retry" not in self.act.step.hooks:
            return self.results  # a copy only where another attempt may need what this one has left open
        return Results((None if one is _OPEN else one for one in self.results), self.failures)

    def source(self) -> Iterator[tuple[int, object]]:
        """Return the items; another attempt goes on with what the one before has finished."""
        act, items = self.act, self.act.state[self.items.over]
        if not isinstance(items, Iterable) and not hasattr(items, "__getitem__"):
            raise ContractViolation(act.path, self.items.over, items, "something that has items")
        iterator = iter(items)
        if act.results is not None and iterator is items:
            raise SweepError(
                f"map {act.path!r}: {self.items.over!r} is used up after one pass; give a list to try again"
            )
        self.results = act.results = Results() if act.results is None else act.results
        return enumerate(iterator)

    async def work(self, source: Iterator[tuple[int, object]]) -> None:
        results = self.results
        for turn, (index, item) in enumerate(source, 1):
            if index == len(results):
                results.append(_OPEN)
            if results[index] is _OPEN:
                results[index] = await self.one(index, item)
            if turn % _TURNS == 0:
                await checkpoint()

    async def one(self, index: int, item: object) -> object:
        """Return an item's result, restored or run; a failed one that stops nobody stays open."""
        act = Activation(self.act.frame, self.step, f"{self.act.key}[{index}]", self.act.state)
        if self.handle is not None and self.handle.resumed:
            found = await restore_item(act, self.handle)
            if found is not None:
                return found.output
        act.kwargs, act.deadline = {**self.shared, self.items.parameter: item}, self.act.deadline
        ACTIVATION.set(act)
        try:
            accepted = await self.call(act)
        except Exception as error:  # noqa: BLE001  # raised again, or kept as the item's failure
            self.failed(index, act, error)
            return _OPEN
        if self.handle is not None and self.commits is not None:
            await commit_item(act, self.handle, accepted)
            await self.commits.commit()
        return accepted.output

    def failed(self, index: int, act: Activation, error: Exception) -> None:
        """Note a failure, or raise it."""
        note(error, f"in item {act.path!r} ({self.act.step.where})")
        if not self.items.goes_on or isinstance(error, _FATAL):
            raise error
        self.failures[index] = error
        handle = self.handle
        text = f"item {act.path!r} failed: {in_words(error)}"
        act.frame.root.stream.emit("warning", handle.run_id if handle else 0, act.path, message=text)


def _names(items: Items) -> set[str]:
    return {binding.parameter for binding in items.step.bindings}


@final
class _Ride:
    """One commit and all that wait for it."""

    __slots__ = ("done", "error")

    def __init__(self) -> None:
        self.done = anyio.Event()
        self.error: BaseException | None = None


@final
class _Commits:
    """Commits for many: whoever comes while one is due rides in it."""

    def __init__(self, handle: Handle, threads: WorkerThreads) -> None:
        self._handle, self._threads = handle, threads
        self._due: _Ride | None = None

    async def commit(self) -> None:
        """Return when what was queued before is committed.

        Raises:
            StoreError: It cannot be.
        """
        ride = self._due
        if ride is not None:
            await ride.done.wait()
            if ride.error is not None:
                raise ride.error
            return
        self._due = ride = _Ride()
        with anyio.CancelScope(shield=True):
            await checkpoint()  # who finishes in this turn of the loop comes along
            self._due = None
            try:
                await self._handle.commit(self._threads)
            except BaseException as error:  # whatever it is, all who ride along are to know
                ride.error = error
                raise
            finally:
                ride.done.set()


# ---------------------------------------------------------------- several at once


async def together(calls: Sequence[Callable[[], Awaitable[None]]], what: str) -> None:
    """Run calls in one task group.

    Args:
        calls: What to run.
        what: What a group of failures calls them.

    Raises:
        Exception: The failure of one.
        ExceptionGroup: The failures of several, with a line each.
        TrialStopped: A scheduler's decision, unwrapped.
        TrialPaused: A scheduler's decision, unwrapped.
        SystemExit: Of the first that leaves.
        KeyboardInterrupt: Of the first that is left.
    """
    found: dict[int, Exception | SystemExit | KeyboardInterrupt] = {}

    async def guarded(index: int, call: Callable[[], Awaitable[None]]) -> None:
        try:
            await call()
        except (Exception, SystemExit, KeyboardInterrupt) as error:  # noqa: BLE001  # raised again below: asyncio would let go of the loop
            found[index] = error
            group.cancel_scope.cancel()

    try:
        async with anyio.create_task_group() as group:
            for index, call in enumerate(calls):
                group.start_soon(guarded, index, call)
    except BaseExceptionGroup as several:
        raise _unwrapped(several) from None
    every = {id(found[index]): found[index] for index in sorted(found)}.values()
    failures = [error for error in every if isinstance(error, Exception)]
    if len(failures) < len(every):
        raise next(error for error in every if not isinstance(error, Exception))
    if len(failures) == 1:
        raise failures[0]
    if failures:
        lines = [f"  {_one_line(error)}" for error in failures]
        raise ExceptionGroup("\n".join([f"{len(failures)} {what} failed:", *lines]), failures)


def note(error: Exception, place: str) -> None:
    """Add the place of a failure to its notes, once."""
    if place not in getattr(error, "__notes__", ()):
        with suppress(TypeError):  # its own notes are no list
            Exception.add_note(error, place)  # whatever its class makes of the method


def _unwrapped(several: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the decision of a scheduler that a group contains, or the first of its exceptions (none is a failure)."""
    from sweep.process.child import decision_in  # the child runner is not needed before

    error: BaseException = decision_in(several) or several
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _one_line(error: Exception) -> str:
    text = "".join(traceback.format_exception_only(error)).strip()
    notes = [one for one in getattr(error, "__notes__", ()) if one.startswith("in ")]
    return f"{notes[0] + ': ' if notes else ''}{text.splitlines()[0][:500]}"
