"""From a checked pipeline to its run: inputs, the frame, the durable run, the result."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sweep.errors import ContractError, NotStorable, did_you_mean
from sweep.pipeline.annotations import describe
from sweep.pipeline.checker import Compiled
from sweep.pipeline.durable import Opened, Resume, RunSpec, open_child, open_top
from sweep.pipeline.planning import announce, plan_of
from sweep.pipeline.records import payload_type
from sweep.pipeline.runner import execute
from sweep.pipeline.runtime import Activation, Frame, Root, current_activation, open_root
from sweep.pipeline.state import State
from sweep.store.writer import Durability

__all__ = ["complete", "finished_state", "keep_state", "run_pipeline"]

END = "!end"


async def run_pipeline(
    checked: Callable[..., Compiled],
    values: Mapping[str, Any],
    name: str | None,
    store: str | Path | None,
    resume: Resume,
    durability: Durability,
    owns_loop: bool,
    hooks: Mapping[str, Any],
) -> State:
    """Run a pipeline at the top, or below the stage activation in which this is called."""
    parent = current_activation()
    inherited = () if parent is None else parent.frame.hooks
    compiled = checked(hooks=inherited)
    state = State(complete(compiled, values, "run"))
    frame_hooks = (*inherited, hooks) if hooks else inherited
    if parent is not None:
        return await _below(parent, compiled, state, name, frame_hooks)
    async with open_root(owns_loop) as root:
        if name is None:
            return await execute(compiled, state, Frame(root, hooks=frame_hooks))
        spec = _spec(name, compiled, values)
        async with open_top(root, spec, store, resume, durability) as opened:
            return await _durable(root, opened, compiled, state, frame_hooks)


async def _below(
    parent: Activation, compiled: Compiled, state: State, name: str | None, hooks: tuple[Mapping[str, Any], ...]
) -> State:
    frame = parent.frame
    if name is None or frame.handle is None:
        return await execute(compiled, state, Frame(frame.root, None, parent.path, hooks))
    async with open_child(parent, _spec(name, compiled, dict(state._fields))) as opened:
        return await _durable(frame.root, opened, compiled, state, hooks)


def _spec(name: str, compiled: Compiled, values: Mapping[str, Any]) -> RunSpec:
    from sweep.fingerprint import structure_hash

    identity = {
        "structure": compiled.structure,
        "inputs": {key: structure_hash(repr(one)) for key, one in values.items()},
    }
    return RunSpec(name, "pipeline", identity, dict(values))


async def _durable(
    root: Root, opened: Opened, compiled: Compiled, state: State, hooks: tuple[Mapping[str, Any], ...]
) -> State:
    if opened.request is not None:
        announce(opened, plan_of(compiled, opened))
    if opened.finished:
        found = finished_state(opened, compiled)
        if found is not None:
            return found
    handle = opened.handle
    kind = "run.resumed" if opened.before else "run.started"
    root.stream.emit(kind, handle.run_id, handle.path)
    last = await execute(compiled, state, Frame(root, handle, handle.path, hooks))
    keep_state(opened, compiled, last)
    root.stream.emit("run.ended", handle.run_id, handle.path, status="completed")
    return last


def complete(compiled: Compiled, values: Mapping[str, Any], stage: str) -> dict[str, Any]:
    """Return the inputs, checked against their contracts.

    Raises:
        ContractError: Inputs are missing or unknown.
        ContractViolation: An input breaks its contract.
    """
    missing = [name for name in compiled.inputs if name not in values]
    unknown = [name for name in values if name not in compiled.contracts]
    problems = [
        f"input {name!r}: {describe(compiled.inputs[name])} is missing{did_you_mean(name, unknown)}" for name in missing
    ]
    there_are = f"; inputs: {', '.join(compiled.inputs)}" if compiled.inputs else "; the pipeline has no inputs"
    problems += [f"unknown input {name!r}{did_you_mean(name, compiled.inputs) or there_are}" for name in unknown]
    if problems:
        raise ContractError("pipeline inputs", problems)
    return {name: compiled.contracts[name].validate(value, stage) for name, value in values.items()}


def keep_state(opened: Opened, compiled: Compiled, state: State) -> None:
    """Journal the last State, so that a finished run is read and never run again."""
    handle = opened.handle
    try:
        expected = payload_type_of(compiled)
        text = handle.journal.encode(dict(state._fields), expected, place=f"the State of {handle.path!r}")
    except NotStorable as error:
        warnings.warn(
            f"{error} The run is finished, but its State cannot be read back later.", RuntimeWarning, stacklevel=2
        )
        return
    handle.journal.put(END, "end", text)


def payload_type_of(compiled: Compiled) -> Any:
    """Return the annotation of a whole State."""
    from sweep.pipeline.contracts import OutputContract

    return payload_type(OutputContract(None, {}), compiled.contracts)


def finished_state(opened: Opened, compiled: Compiled) -> State | None:
    """Return the State of a finished run, or None if it was not kept."""
    entry = opened.handle.journal.get(END)
    if entry is None or entry.value is None:
        return None
    values = opened.handle.journal.decode(END, entry.value, payload_type_of(compiled))
    return State({name: compiled.contracts[name].validate(value, opened.handle.path) for name, value in values.items()})
