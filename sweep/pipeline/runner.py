"""Runs a compiled pipeline: one function for a stage, one for a loop, one for a sequence."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, final

from sweep.clock import current_clock
from sweep.context import Context
from sweep.errors import HookError, SweepError
from sweep.pipeline.contracts import Accepted, OutputContract
from sweep.pipeline.hooks import ask, compose, named
from sweep.pipeline.records import accept, commit, restore
from sweep.pipeline.runtime import ACTIVATION, Activation, Frame, Handle
from sweep.pipeline.state import State
from sweep.pipeline.steps import Binding, Compiled, LoopStep, StageStep, Step
from sweep.trial import Decision

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
            state = await _stage(step, state, frame, f"{prefix}{step.name}{suffix}")
        else:
            state = await _loop(step, state, frame, prefix, suffix)
    return state


# ---------------------------------------------------------------- stage


async def _stage(step: StageStep, state: State, frame: Frame, key: str) -> State:
    act = Activation(frame, step, key, state)
    handle, stream = frame.handle, frame.root.stream
    run_id = handle.run_id if handle else 0
    if handle is not None:
        found = restore(act, handle)
        if found is not None:
            stream.emit("stage.restored", run_id, act.path)
            return state._with(found.updates, found.models)
    if await _skipped(act, handle):
        stream.emit("stage.skipped", run_id, act.path)
        return state
    if stream:
        stream.emit("stage.started", run_id, act.path, state=state, inputs=_arguments(step.bindings, act))
        act.started = current_clock().now()
    accepted = await _attempted(act)
    if handle is not None:
        await commit(act, handle, accepted)
    if stream:
        seconds = current_clock().now() - act.started
        stream.emit("stage.ended", run_id, act.path, output=accepted.output, attempt=act.attempt, seconds=seconds)
    state = state._with(accepted.updates, accepted.models)
    await _afterwards(act, accepted)
    return state


async def _attempted(act: Activation) -> Accepted:
    """Run the stage through its hooks, with the activation in context."""
    step: StageStep = act.step
    if step.call is None:
        step.call = compose(step.hooks, _leaf)
    token = ACTIVATION.set(act)
    try:
        act.kwargs = _arguments(step.bindings, act)
        accepted: Accepted = await step.call(act)
        return accepted
    except Exception as error:
        note = f"in stage {act.path!r} ({step.where})"
        if note not in getattr(error, "__notes__", ()):
            error.add_note(note)
        raise
    finally:
        ACTIVATION.reset(token)


async def _leaf(act: Activation) -> Accepted:
    """Call the function itself, then transform and contract."""
    step: StageStep = act.step
    unit, kwargs, place = step.unit, act.kwargs or {}, act.frame.place
    args: list[Any] = []
    if unit.positional:
        kwargs = dict(kwargs)
        args = [kwargs.pop(name) for name in unit.positional if name in kwargs]
    if step.context_name is not None and not (place is not None and unit.kind == "function"):
        kwargs = {**kwargs, step.context_name: stage_context(act)}
    if unit.nested is not None:
        returned = await _nested(act, unit.nested)
    elif place is not None and unit.kind == "function":
        function = partial(unit.function, *args) if args else unit.function
        returned = await place(act, function, kwargs, step.context_name)
    elif unit.signature.is_async:
        returned = await unit.function(*args, **kwargs)
    else:
        returned = await act.frame.root.threads.run(unit.function, *args, **kwargs)
    if inspect.isawaitable(returned):
        returned = await returned
    if unit.kind == "experiment" and step.contract is not None:
        returned = _asked_of(returned, step.contract)
    transform = step.hooks.get("transform")
    if transform is not None:
        returned = await ask(transform, act.path, returned)
    return accept(act, returned)


async def _nested(act: Activation, compiled: Compiled) -> Any:
    """Run a sub-pipeline in place; return the fields its stage's contract asks for."""
    frame = act.frame
    inner = frame.below(frame.handle, frame.path if frame.handle is not None else act.path, owner=frame.owner)
    prefix = f"{act.key}/" if frame.handle is not None else ""
    state = await execute(compiled, State(act.kwargs), inner, prefix=prefix)
    contract = act.step.contract
    if contract is None:
        return None
    return {name: state[name] for name in contract.fields if name in state}


def _asked_of(result: Any, contract: OutputContract) -> Any:
    """Return what a contract asks of an experiment: fields of its State or its summary, else the result itself."""
    known = {**result.state._asdict(), **result}
    return {name: known[name] for name in contract.fields} if all(name in known for name in contract.fields) else result


def _arguments(bindings: tuple[Binding, ...], act: Activation) -> dict[str, Any]:
    state = act.state
    fields = state._fields
    kwargs: dict[str, Any] = {}
    for binding in bindings:
        source = binding.source
        if source == "field":
            kwargs[binding.parameter] = state[binding.key]
        elif source == "constant":
            kwargs[binding.parameter] = binding.key
        elif source == "state":
            kwargs[binding.parameter] = state
        elif source == "model":
            kwargs[binding.parameter] = state._models[binding.key]
        elif source == "maybe" and binding.key in fields:
            kwargs[binding.parameter] = fields[binding.key]
    return kwargs


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
        for hook in hooks if isinstance(hooks, tuple) else (hooks,):
            try:
                await ask(hook, act.path, data)
            except Exception as error:
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
            goes_on = begun or bool(await ask(step.predicate, f"{frame.path}/{step.name}", state))
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
    return state


def reached(steps: Iterable[Step], prefix: str, suffix: str, handle: Handle) -> bool:
    """Whether an earlier session has journaled anything of these steps."""
    for step in steps:
        if isinstance(step, StageStep):
            key, nested = f"{prefix}{step.name}{suffix}", step.unit.nested
            if handle.journal.get(key) is not None or (nested and reached(nested.steps, f"{key}/", "", handle)):
                return True
        elif reached(step.body, prefix, f"{suffix}.0" if suffix else "#0", handle):
            return True
    return False


# ---------------------------------------------------------------- context


def stage_context(act: Activation) -> Context:
    """Return the context of a stage activation."""
    frame, handle = act.frame, act.frame.handle
    session = (
        frame.session if frame.session is not None else (StageSession(act, handle) if handle is not None else None)
    )
    return Context(
        session,
        run_id=handle.run_id if handle else 0,
        path=act.path,
        trial=frame.facts.get("trial"),
        attempt=act.attempt,
        step=frame.facts.get("step", 0),
        seed=frame.facts.get("seed", handle.seed if handle else 0),
        directory=handle.store.run_directory(handle.run_id) if handle else None,
        deadline=act.deadline,
        tracker=frame.facts.get("tracker"),
    )


@final
class StageSession:
    """The session of a stage outside a sweep: what it saves is kept under its own key."""

    next_decision: int | None = None

    def __init__(self, act: Activation, handle: Handle) -> None:
        self._act, self._handle = act, handle

    def report(self, step: int, metrics: Mapping[str, float]) -> Decision:
        """Record metrics; nobody decides."""
        for name, value in metrics.items():
            self.log_metric(name, value, step)
        return Decision.CONTINUE

    def save(self, value: Any) -> None:
        """Keep a checkpoint of the stage, in place of the one before."""
        place = f"ctx.save() in stage {self._act.path!r}"
        text = self._handle.journal.encode(value, place=place)
        self._handle.journal.replace(f"{self._act.key}!saved", "saved", text)
        self._handle.store.commit()

    def load(self) -> Any | None:
        """Return the checkpoint of an earlier attempt, or None."""
        query = "SELECT value FROM journal WHERE run_id=? AND key=?"
        key = f"{self._act.key}!saved"
        row = self._handle.store.row(query, (self._handle.run_id, key))
        return None if row is None else self._handle.journal.decode(key, row[0])

    def log(self, message: str) -> None:
        """Hand a line to the sinks."""
        self._act.frame.root.stream.emit("log", self._handle.run_id, self._act.path, message=message)

    def log_metric(self, name: str, value: float, step: int | None) -> None:
        """Queue a metric for the next commit."""
        query = "INSERT INTO metric(run_id, name, step, value) VALUES (?,?,?,?)"
        self._handle.store.add(query, (self._handle.run_id, name, step, value))
        self._act.frame.root.stream.emit(
            "metric", self._handle.run_id, self._act.path, name=name, value=value, step=step
        )

    def log_artifact(self, path: Path) -> None:
        """Note a file; it stays where it is."""
        query = "INSERT INTO artifact(run_id, name, kind, path, size, at) VALUES (?,?,?,?,?,?)"
        facts = (
            self._handle.run_id,
            path.name,
            "file",
            str(path.resolve()),
            path.stat().st_size,
            current_clock().wall(),
        )
        self._handle.store.add(query, facts)
        self._act.frame.root.stream.emit("artifact", self._handle.run_id, self._act.path, artifact=str(path))
