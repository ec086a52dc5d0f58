"""Runs a compiled pipeline: one function for a stage, one for a loop, one for a sequence."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any

import anyio

from sweep.clock import current_clock
from sweep.errors import ContractViolation, HookError, RunInChild, SweepError, in_words
from sweep.pipeline.contracts import Accepted
from sweep.pipeline.hooks import ask, compose, named
from sweep.pipeline.isolation import Carried, Job, NoSession, received, within
from sweep.pipeline.mapping import keep_failures, note, run_map, together
from sweep.pipeline.records import accept, commit, restore
from sweep.pipeline.runtime import ACTIVATION, Activation, Frame, Handle, Place, Saving
from sweep.pipeline.session import facts_of, session_of, stage_context
from sweep.pipeline.state import State
from sweep.pipeline.steps import Binding, BranchStep, Compiled, LoopStep, ParallelStep, StageStep, Step, result_names
from sweep.pipeline.subtypes import Verdict, subtype
from sweep.pipeline.unread import read_ahead
from sweep.tracker.stream import say
from sweep.trial import Resources

__all__ = ["execute", "reached"]


async def execute(compiled: Compiled, state: State, frame: Frame, *, prefix: str = "", suffix: str = "") -> State:
    """Run the steps of a pipeline from a State with all its inputs, and return the last State."""
    outer = frame.contracts, frame.hooks
    frame.contracts, frame.hooks = compiled.contracts, compiled.hooks
    try:
        return await _sequence(compiled.steps, state, frame, prefix, suffix)
    finally:
        frame.contracts, frame.hooks = outer


async def _sequence(steps: Iterable[Step], state: State, frame: Frame, prefix: str, suffix: str) -> State:
    for step in steps:
        if isinstance(step, StageStep):
            accepted = await _stage(step, state, frame, f"{prefix}{step.name}{suffix}")
            state = state._with(accepted.updates, accepted.models)
        elif isinstance(step, LoopStep):
            state = await _loop(step, state, frame, prefix, suffix)
        elif isinstance(step, BranchStep):
            state = await _branch(step, state, frame, f"{prefix}{step.name}{suffix}")
        else:
            state = await _parallel(step, state, frame, prefix, suffix)
    return state


# ---------------------------------------------------------------- stage


async def _stage(step: StageStep, state: State, frame: Frame, key: str) -> Accepted:
    """Run a stage, or restore it; return what it adds to the State."""
    act = Activation(frame, step, key, state)
    handle, stream = frame.handle, frame.root.stream
    run_id = handle.run_id if handle else 0
    if handle is not None:
        found = await restore(act, handle)
        if found is not None:
            if stream:
                stream.emit("stage.restored", run_id, act.path)
            return found
    if await _skipped(act, handle):
        stream.emit("stage.skipped", run_id, act.path)
        return Accepted({}, None, {})
    if handle is not None and handle.resumed:
        await _read_inputs(act)
    if stream:
        stream.emit("stage.started", run_id, act.path, state=state, inputs=_arguments(step.bindings, act))
        act.started = current_clock().now()
    try:
        accepted = await _attempted(act)
    except Exception as error:  # whatever the stage raises
        note(error, f"in stage {act.path!r} ({step.where})")
        _tell_end(act, run_id, error=in_words(error))
        raise
    if handle is not None:
        await commit(act, handle, accepted)
    _tell_end(act, run_id, output=accepted.output)
    await _afterwards(act, accepted)
    return accepted


def _tell_end(act: Activation, run_id: int, *, output: object = None, error: str | None = None) -> None:
    """Tell the sinks how a stage has ended."""
    stream = act.frame.root.stream
    if stream:
        seconds = current_clock().now() - act.started
        facts = {"output": output, "error": error, "attempt": act.attempt, "cached": act.cached, "seconds": seconds}
        stream.emit("stage.ended", run_id, act.path, **facts)


async def _attempted(act: Activation) -> Accepted:
    """Run the stage through its hooks, with the activation in context."""
    step = act.step
    if step.call is None:
        step.call = compose(step.hooks, _leaf)
    token = ACTIVATION.set(act)
    try:
        act.kwargs = _arguments(step.bindings, act)
        return await step.call(act)
    finally:
        ACTIVATION.reset(token)


async def _leaf(act: Activation) -> Accepted:
    """Call the function itself, then transform and contract."""
    step = act.step
    unit = step.unit
    if step.items is not None:
        item = step.items.step
        if item.call is None:
            item.call = compose(item.hooks, _leaf)
        returned: object = await run_map(act, step.items, item.call)
    elif unit.nested is not None:
        returned = await _nested(act, unit.nested)
    elif unit.kind == "function" and (act.frame.place is not None or "isolate" in step.hooks):
        returned = await _elsewhere(act)
    else:
        returned = await _here(act)
    if unit.kind == "experiment":
        returned = await _asked_of(returned, act)
    transform = step.hooks.get("transform")
    if transform is not None:
        returned = await ask(transform, act.path, returned)
    accepted = accept(act, returned)
    if step.items is not None or unit.nested is not None:
        keep_failures(returned, accepted)
    return accepted


async def _here(act: Activation) -> Any:
    """Call the function in this process."""
    step = act.step
    unit, kwargs, args = step.unit, act.kwargs or {}, list[Any]()
    if step.context_name is not None:
        kwargs = {**kwargs, step.context_name: stage_context(act)}
    if unit.positional:
        kwargs = dict(kwargs)
        args = [kwargs.pop(name) for name in unit.positional if name in kwargs]
    try:
        if unit.signature.is_async:
            returned = await unit.function(*args, **kwargs)
        else:
            returned = await act.frame.root.threads.run(unit.function, *args, **kwargs)
        return await returned if inspect.isawaitable(returned) else returned
    finally:
        if act.saving is not None:
            await _saved(act, act.saving)


async def _saved(act: Activation, saving: Saving) -> None:
    """Wait until what the stage saved last is kept."""
    act.saving = None
    with anyio.CancelScope(shield=True):
        await act.frame.root.threads.run(saving.wait)


async def _elsewhere(act: Activation) -> object:
    """Call the function in a child of our own, or where the executor of the sweep places it."""
    step = act.step
    unit, frame, kwargs = step.unit, act.frame, act.kwargs or {}
    if step.isolated is None:
        step.isolated = Carried(unit.function, unit.positional, step.context_name)
    carried = step.isolated
    if step.hooks.get("isolate"):
        directory = None if frame.handle is None else frame.handle.store.run_directory(frame.handle.run_id)
        resources = step.hooks.get("resources") or Resources(cpus=frame.root.slots.cpus)
        job = Job(carried, kwargs, step.context_name, resources, facts_of(act), directory, directory)
        return await frame.root.isolation.run(job, session_of(act) or NoSession(), act.deadline)
    if frame.place is None:
        return await _here(act)
    if frame.place.apart:
        return await (_apart(act, frame.place, carried) if act.apart else _here(act))
    function = unit.function
    if unit.positional:
        kwargs = dict(kwargs)
        function = partial(function, *[kwargs.pop(name) for name in unit.positional if name in kwargs])
    act.frame = replace(frame, place=None)  # runs that it starts are part of its own slot
    try:
        return await frame.place.run(act, function, kwargs, step.context_name)
    finally:
        act.frame = frame


async def _apart(act: Activation, place: Place, carried: Carried) -> object:
    """Call the function in a process of the executor's; one that starts runs there is no leaf: it is called here."""
    step = act.step
    try:
        return received(await place.run(act, carried, within(act.kwargs or {}, act.deadline), step.context_name))
    except RunInChild:
        known, name = act.frame.root.orchestrators, (step.name, step.where)
        if name not in known:
            say(f"stage {act.path!r} starts runs of its own: it is called again in this process, their leaves by the executor")
        known.add(name)
        return await _here(act)


async def _nested(act: Activation, compiled: Compiled) -> object:
    """Run a sub-pipeline in place; return the fields its stage's contract asks for, for an item what it comes to."""
    frame, step = act.frame, act.step
    inner = frame.below(frame.handle, frame.path if frame.handle is not None else act.path, owner=frame.owner)
    prefix = f"{act.key}/" if frame.handle is not None else ""
    state = await execute(compiled, State(act.kwargs), inner, prefix=prefix)
    if step.is_item:
        found = {name: state[name] for name in result_names(compiled.steps) if name in state}
        return next(iter(found.values())) if len(found) == 1 else found or None
    if step.contract is None:
        return None
    names = [name for name in step.contract.fields if name in state]
    await read_ahead(frame.root.threads, map(state._fields.get, names))
    return {name: state[name] for name in names}


async def _asked_of(result: Any, act: Activation) -> object:
    """Return what a contract asks of an experiment: fields of its State or its summary, else the result itself.

    An item of a map is the result where its contract takes a mapping, else the value the experiment came to.
    """
    step = act.step
    if step.item_contract is not None:
        takes_mapping = subtype(dict[str, Any], step.item_contract.annotation) is not Verdict.REFUTED
        return result if takes_mapping else result.value
    if step.contract is None:
        return result
    state, names = result.state, step.contract.fields
    if not all(name in result or name in state for name in names):
        return result
    await read_ahead(act.frame.root.threads, map(state._fields.get, names))
    return {name: result[name] if name in result else state[name] for name in names}


def _arguments(bindings: tuple[Binding, ...], act: Activation) -> dict[str, object]:
    state = act.state
    fields, hands_on = state._fields, _hands_on(act.step)
    kwargs: dict[str, object] = {}
    for binding in bindings:
        source = binding.source
        if source == "field":
            kwargs[binding.parameter] = fields[binding.key] if hands_on and binding.key in fields else state[binding.key]
        elif source == "constant":
            kwargs[binding.parameter] = binding.key
        elif source == "state":
            kwargs[binding.parameter] = state
        elif source == "model":
            kwargs[binding.parameter] = state._model(binding.key)
        elif source == "maybe" and binding.key in fields:
            kwargs[binding.parameter] = fields[binding.key] if hands_on else state[binding.key]
    return kwargs


async def _read_inputs(act: Activation) -> None:
    """Read what the stage takes of an earlier session, where the loop does not wait for it."""
    if _hands_on(act.step):
        return
    fields, models = act.state._fields, act.state._models
    for binding in act.step.bindings:
        held = fields.get(binding.key) if binding.source in ("field", "maybe") else None
        await read_ahead(act.frame.root.threads, (models[binding.key] if binding.source == "model" else held,))


def _hands_on(step: StageStep) -> bool:
    """Whether a stage only hands its inputs on to stages of its own, which read what they take."""
    return step.unit.nested is not None and "cache" not in step.hooks


async def _skipped(act: Activation, handle: Handle | None) -> bool:
    condition = act.step.hooks.get("skip_if")
    if condition is None:
        return False
    entry = handle.journal.get(act.key) if handle is not None else None
    if entry is not None and entry.kind == "skipped":
        return True
    if not await ask(condition, act.path, act.state):
        return False
    if handle is not None:
        handle.journal.put(act.key, "skipped", None)
    return True


async def _afterwards(act: Activation, accepted: Accepted) -> None:
    """Call the hooks that follow the commit."""
    for name in ("metrics", "after"):
        hooks = act.step.hooks.get(name)
        if hooks is None:
            continue
        data = accepted.output if name == "after" else dict(accepted.updates)
        for hook in hooks:
            try:
                await ask(hook, act.path, data)
            except Exception as error:  # whatever the user's hook raises
                raise HookError(act.path, name, accepted.output, error) from error


# ---------------------------------------------------------------- loop


async def _loop(step: LoopStep, state: State, frame: Frame, prefix: str, suffix: str) -> State:
    handle = frame.handle
    mark = f"{prefix}{step.name}{suffix}!loop"
    entry = handle.journal.get(mark) if handle is not None else None
    last = int(entry.value) if entry is not None and entry.value is not None else None
    index = 0
    while True:
        inner = f"{suffix}.{index}" if suffix else f"#{index}"
        if last is not None:
            goes_on = index < last
        else:
            begun = handle is not None and reached(step.body, prefix, inner, handle)
            goes_on = begun or await _holds(step, state, frame)
        if not goes_on:
            break
        if step.max_iterations is not None and index >= step.max_iterations:
            raise SweepError(
                f"loop {step.name!r} ({step.where}): its predicate {named(step.predicate)} still holds after "
                f"max_iterations={step.max_iterations}; "
                "raise the limit, or mend what should make the predicate false"
            )
        state = await _sequence(step.body, state, frame, prefix, inner)
        index += 1
    if handle is not None and last is None:
        handle.journal.put(mark, "loop", str(index))
        await handle.commit(frame.root.threads)
    return state


def reached(steps: Iterable[Step], prefix: str, suffix: str, handle: Handle) -> bool:
    """Whether an earlier session has journaled anything of these steps."""
    return any(_reached(step, prefix, suffix, handle) for step in steps)


def _reached(step: Step, prefix: str, suffix: str, handle: Handle) -> bool:
    if isinstance(step, ParallelStep):
        return reached(step.stages, prefix, suffix, handle)
    if handle.journal.has(f"{prefix}{step.name}{suffix}"):
        return True
    return isinstance(step, LoopStep) and reached(step.body, prefix, f"{suffix}.0" if suffix else "#0", handle)


# ---------------------------------------------------------------- branch, parallel


async def _branch(step: BranchStep, state: State, frame: Frame, key: str) -> State:
    """Take the side that the predicate says, or that an earlier session took; committed before its stages begin."""
    handle = frame.handle
    entry = None if handle is None else handle.journal.get(f"{key}!branch")
    if entry is not None:
        takes = entry.value == "then"
    else:
        takes = await _holds(step, state, frame)
        if handle is not None:
            handle.journal.put(f"{key}!branch", "branch", "then" if takes else "otherwise")
            await handle.commit(frame.root.threads)
    return await _sequence(step.then if takes else step.otherwise, state, frame, f"{key}/", "")


async def _holds(step: LoopStep | BranchStep, state: State, frame: Frame) -> bool:
    """Ask a predicate."""
    try:
        return bool(await ask(step.predicate, f"{frame.path}/{step.name}", state))
    except Exception as error:  # whatever the user's predicate raises
        kind = "loop" if isinstance(step, LoopStep) else "branch"
        error.add_note(f"in the predicate of {kind} {step.name!r} ({step.where})")
        raise


async def _parallel(step: ParallelStep, state: State, frame: Frame, prefix: str, suffix: str) -> State:
    """Run stages at once on the same State, and add what all of them give."""
    outcomes: dict[str, Accepted] = {}

    async def run(stage: StageStep) -> None:
        outcomes[stage.name] = await _stage(stage, state, frame, f"{prefix}{stage.name}{suffix}")

    calls: list[Callable[[], Awaitable[None]]] = [partial(run, stage) for stage in step.stages]
    await together(calls, f"of {len(calls)} parallel stages")
    givers: dict[str, str] = {}
    for stage in step.stages:
        accepted = outcomes[stage.name]
        for name, value in accepted.updates.items():
            if name in givers:
                expected = f"a field that only one parallel stage sets; {givers[name]!r} sets it, too"
                raise ContractViolation(
                    f"{frame.path}/{stage.name}" if frame.path else stage.name, name, value, expected
                )
        givers.update(dict.fromkeys(accepted.updates, stage.name))
        state = state._with(accepted.updates, accepted.models)
    return state
