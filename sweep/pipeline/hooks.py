"""Hooks: one signature, ``Call -> Call``, composed in one fixed order.

A ``Call`` takes an activation and returns its outcome. ``compose`` wraps the leaf in the
hooks that the stage has, outer to inner::

    cache · on_error · retry · resources · timeout · breakpoint · before · profile · function ·
    transform · contract · validate

``skip_if`` and ``checkpoint`` come before, ``metrics`` and ``after`` follow the commit: those
four are the runner's, because they belong to its journal.
"""

from __future__ import annotations

import inspect
import random
import sys
import time
from bdb import BdbQuit
from collections.abc import Awaitable, Callable
from typing import Any

from sweep.clock import current_clock
from sweep.errors import ContractError, ContractViolation, PlacementError, StageTimeout, in_words
from sweep.pipeline.contracts import Accepted
from sweep.pipeline.nodes import Cache, Hooks, Retry, warn_at
from sweep.pipeline.records import (
    accept,
    attempts_before,
    cache_key,
    cached,
    failed_attempt,
    forget_attempt,
    keep_in_cache,
)
from sweep.pipeline.runtime import Activation
from sweep.pipeline.state import State
from sweep.trial import Resources
from sweep.turns import holding

__all__ = ["NO_TERMINAL", "Call", "ask", "at_terminal", "compose", "named", "required"]


NO_TERMINAL = "breakpoint= opens a debugger, but stdin is no terminal; take it out, or run in one"

Call = Callable[[Activation], Awaitable[Accepted]]
Wrap = Callable[[Any, Call], Call]


def compose(hooks: Hooks, leaf: Call) -> Call:
    """Wrap ``leaf`` in the hooks given, the first of ``_ORDER`` outermost."""
    call = leaf
    for name, wrap in reversed(_ORDER):
        value = hooks.get(name)
        if value is not None and value is not False:
            call = wrap(value, call)
    return call


async def ask(hook: Callable[..., object], stage: str, data: object, *, second: object = None) -> Any:
    """Call a hook: two required parameters get ``(stage, data)``, or ``(data, second)`` where there is one."""
    several = required(hook) >= 2
    value = hook(data) if not several else hook(stage, data) if second is None else hook(data, second)
    return await value if inspect.isawaitable(value) else value


def required(hook: Callable[..., object]) -> int:
    """Return how many positional arguments a hook insists on (1 where that cannot be read)."""
    code = getattr(hook, "__code__", None)
    if code is not None:
        count = int(code.co_argcount) - len(getattr(hook, "__defaults__", None) or ())
        return count - (1 if inspect.ismethod(hook) else 0)
    try:
        parameters = inspect.signature(hook).parameters.values()
    except (TypeError, ValueError):
        return 1
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(one.kind in positional and one.default is one.empty for one in parameters)


def _on_error(handler: Callable[..., object], inner: Call) -> Call:
    async def call(act: Activation) -> Accepted:
        try:
            return await inner(act)
        except ContractError:
            raise
        except Exception as error:  # whatever the stage raises is the handler's
            value = await ask(handler, act.path, error, second=act.state)
            if value is None:
                raise
            return accept(act, value)

    return call


def _retry(spec: Retry | int, inner: Call) -> Call:
    how = spec if isinstance(spec, Retry) else Retry(spec)

    async def call(act: Activation) -> Accepted:
        act.attempt = first = attempts_before(act) + 1
        while True:
            try:
                return await inner(act)
            except ContractError:
                raise
            except how.on as error:
                if act.attempt > how.retries:
                    if how.retries:
                        error.add_note(f"stage {act.path!r}: attempt {act.attempt} of {how.retries + 1} (the last)")
                    raise
                await failed_attempt(act, error)
                wait = min(how.max_backoff, how.backoff * 2 ** min(act.attempt - first, 64))
                jitter = random.Random().uniform(0.5, 1) if how.jitter else 1  # noqa: S311  # spreads load, no secret
                act.attempt += 1
                act.children.clear()
                forget_attempt(act)
                await current_clock().sleep(wait * jitter)

    return call


def _resources(asked: Resources, inner: Call) -> Call:
    async def call(act: Activation) -> Accepted:
        slots = act.frame.root.slots
        if asked.cpus > slots.cpus or asked.gpus > slots.gpus:
            have = {"cpus": slots.cpus, "gpus": slots.gpus}
            raise PlacementError(f"stage {act.path!r}", {"cpus": asked.cpus, "gpus": asked.gpus}, have)
        act.held = holding(lambda: slots.hold(asked.cpus, asked.gpus))
        async with act.held:
            return await inner(act)

    return call


def _timeout(seconds: float, inner: Call) -> Call:
    async def call(act: Activation) -> Accepted:
        clock = current_clock()
        act.deadline = deadline = clock.now() + seconds
        with clock.move_on_after(seconds) as scope:
            outcome = await inner(act)
        if scope.cancelled_caught:
            note = ""
            if act.apart:
                note = "; its process was killed"
            elif not act.step.unit.signature.is_async and act.step.unit.kind == "function":
                note = "; its thread was abandoned and its late result will be dropped"
                warn_at(act.step.where, f"stage {act.path!r} timed out{note}")
            raise StageTimeout(act.path, seconds, note)
        if clock.now() > deadline:
            raise StageTimeout(act.path, seconds, ": it blocked the event loop past its deadline, or would not be cancelled")
        return outcome

    return call


def _breakpoint(condition: bool | Callable[..., object], inner: Call) -> Call:
    async def call(act: Activation) -> Accepted:
        from sweep.process import inside_child  # the child runner is not needed before

        if not inside_child() and (isinstance(condition, bool) or await ask(condition, act.path, act.state)):
            if not at_terminal():
                raise ContractError(f"stage {act.path!r}", [NO_TERMINAL])
            emit, run_id = act.frame.root.stream.emit, act.frame.handle.run_id if act.frame.handle else 0
            emit("stage.breakpoint", run_id, act.path, is_open=True)  # progress makes way
            try:
                _stop(act.state, act.path)
            except BdbQuit:
                raise KeyboardInterrupt from None  # `quit` ends the run; no hook is to catch it
            finally:
                emit("stage.breakpoint", run_id, act.path, is_open=False)
        return await inner(act)

    return call


def at_terminal() -> bool:
    """Whether somebody can answer a debugger."""
    return sys.stdin is not None and sys.stdin.isatty()


def _stop(state: State, stage: str) -> None:
    """Open the debugger (``PYTHONBREAKPOINT`` says which) with ``state`` and ``stage`` at hand."""
    breakpoint()


def _before(hooks: tuple[Callable[..., object], ...], inner: Call) -> Call:
    async def call(act: Activation) -> Accepted:
        for hook in hooks:
            await ask(hook, act.path, act.state)
        return await inner(act)

    return call


def _profile(report: bool | Callable[..., object], inner: Call) -> Call:
    async def call(act: Activation) -> Accepted:
        wall, cpu = time.perf_counter(), time.process_time()
        outcome = await inner(act)
        facts = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
        handle = act.frame.handle
        act.frame.root.stream.emit("metric", handle.run_id if handle else 0, act.path, profile=facts)
        if callable(report):
            await ask(report, act.path, facts)
        return outcome

    return call


def _validate(check: Callable[..., object], inner: Call) -> Call:
    async def call(act: Activation) -> Accepted:
        outcome = await inner(act)
        try:
            verdict = await ask(check, act.path, outcome.output)
        except Exception as error:  # whatever the user's check raises is its verdict
            raise ContractViolation(
                act.path,
                "validate",
                outcome.output,
                f"a value that {named(check)} accepts",
                in_words(error),
            ) from error
        if verdict is not None and not verdict:
            raise ContractViolation(act.path, "validate", outcome.output, f"a value that {named(check)} accepts")
        return outcome

    return call


def named(hook: Callable[..., object]) -> str:
    """Return a function's name and place, for messages."""
    code = getattr(hook, "__code__", None)
    name = getattr(hook, "__name__", repr(hook))
    return f"{name} ({code.co_filename}:{code.co_firstlineno})" if code is not None else name


def _cache(spec: bool | Cache, inner: Call) -> Call:
    async def call(act: Activation) -> Accepted:
        key = await cache_key(act, spec)
        found = await cached(act, spec, key)
        if found is not None:
            act.cached = True
            return found
        outcome = await inner(act)
        await keep_in_cache(act, key, outcome)
        return outcome

    return call


_ORDER: tuple[tuple[str, Wrap], ...] = (
    ("cache", _cache),
    ("on_error", _on_error),
    ("retry", _retry),
    ("resources", _resources),
    ("timeout", _timeout),
    ("breakpoint", _breakpoint),
    ("before", _before),
    ("profile", _profile),
    ("validate", _validate),
)
