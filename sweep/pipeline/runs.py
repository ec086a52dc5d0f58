"""From a checked pipeline to its run: inputs, the frame, the durable run, the result."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

from sweep.errors import ContractError, NotStorable, did_you_mean
from sweep.pipeline.annotations import Annotation, describe
from sweep.pipeline.contracts import OutputContract
from sweep.pipeline.durable import Opened, Resume, RunSpec, open_child, open_top
from sweep.pipeline.hooks import NO_TERMINAL, at_terminal
from sweep.pipeline.nodes import warn_at
from sweep.pipeline.planning import announce, plan_of
from sweep.pipeline.records import (
    NO_STORE,
    content_of,
    note_failures,
    payload_type,
    plain,
    stored_fields,
    with_failures,
)
from sweep.pipeline.runner import execute
from sweep.pipeline.runtime import Activation, Frame, Handle, Root, current_activation, open_root
from sweep.pipeline.state import State
from sweep.pipeline.steps import Compiled, StageStep
from sweep.pipeline.unread import Unread
from sweep.store.codec import Classes
from sweep.store.writer import Durability

__all__ = ["as_input", "complete", "finished_state", "keep_state", "run_pipeline"]

END = "!end"
UNNAMED = "Pipeline"
"""Name of a child run that was given none: in a run that is kept, nothing that has finished is lost."""


async def run_pipeline(
    checked: Callable[..., Compiled],
    values: Mapping[str, object],
    name: str | None,
    store: str | Path | None,
    resume: Resume,
    durability: Durability,
    owns_loop: bool,
) -> State:
    """Run a pipeline at the top, or below the stage activation in which this is called."""
    parent = current_activation()
    inherited = () if parent is None else parent.frame.hooks
    compiled = checked(hooks=inherited)
    state = State(complete(compiled, values, name))
    if parent is not None:
        async with parent.lending():
            return await _below(parent, compiled, state, name)
    async with open_root(owns_loop) as root:
        if name is None:
            if compiled.caches:
                raise ContractError("run", [f"{place}: {NO_STORE}" for place in compiled.caches])
            return await execute(compiled, state, Frame(root))
        spec = await _spec(root, name, compiled, values)
        async with open_top(root, spec, store, resume, durability) as opened:
            return await _durable(opened, compiled, state, Frame(root, opened.handle, opened.handle.path))


async def _below(parent: Activation, compiled: Compiled, state: State, name: str | None) -> State:
    outer = parent.frame
    if outer.handle is None:
        return await execute(compiled, state, outer.below(None, parent.path, owner=outer.owner))
    spec = await _spec(outer.root, name or UNNAMED, compiled, state._fields)
    async with open_child(parent, spec) as opened:
        frame = outer.below(opened.handle, opened.handle.path, owner=outer.owner)
        return await _durable(opened, compiled, state, frame)


async def _spec(root: Root, name: str, compiled: Compiled, values: Mapping[str, object]) -> RunSpec:
    inputs: dict[str, str] = {}
    for key, value in values.items():
        try:
            inputs[key] = await content_of(root.threads, value, f"input {key!r} of {name!r}")
        except NotStorable as error:
            inputs[key] = _name_of(value)
            _warn_of_input(root, compiled, error)
    return RunSpec(name, "pipeline", {"structure": compiled.structure, "inputs": inputs}, dict(values))


def _name_of(value: object) -> str:
    """Return what a resume compares of an input that cannot be stored: its name, or that of its class."""
    named = value if hasattr(value, "__module__") and hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}.{named.__qualname__}"


def _warn_of_input(root: Root, compiled: Compiled, error: NotStorable) -> None:
    """Warn, once in a tree, of an input that a resume will not have."""
    text = str(error).partition("; return ")[0]
    if compiled.steps and text not in root.said:
        root.said.add(text)
        warn_at(
            compiled.steps[0].where,
            f"{text}. The value goes on in memory; a resume takes the one that it is given and compares no more than its "
            "class (give plain data, and make the value of it in a stage)",
        )


async def _durable(opened: Opened, compiled: Compiled, state: State, frame: Frame) -> State:
    if opened.request is not None:
        announce(opened, plan_of(compiled, opened))
    if opened.finished:
        found = await finished_state(frame.root, opened, compiled)
        if found is not None:
            return found
    handle, stream = opened.handle, frame.root.stream
    stream.emit("run.resumed" if opened.before else "run.started", handle.run_id, handle.path)
    last = await execute(compiled, state, frame)
    await keep_state(frame.root, opened, compiled, last)
    stream.emit("run.ended", handle.run_id, handle.path, status="completed")
    return last


def complete(compiled: Compiled, values: Mapping[str, object], name: str | None) -> dict[str, object]:
    """Return the inputs of a run, checked against their contracts.

    Raises:
        ContractError: Inputs are missing or unknown.
        ContractViolation: An input breaks its contract.
    """
    problems = _wrong_inputs(compiled, values)
    if problems:
        where = f" ({compiled.steps[0].where})" if compiled.steps else ""
        raise ContractError(f"inputs of {'the pipeline' if name is None else repr(name)}{where}", problems)
    if compiled.breakpoints and not at_terminal():
        raise ContractError(name or "run", [f"{place}: {NO_TERMINAL}" for place in compiled.breakpoints])
    return {key: compiled.contracts[key].validate(value, name or "run") for key, value in values.items()}


def _wrong_inputs(compiled: Compiled, values: Mapping[str, object]) -> list[str]:
    """Return which inputs are missing, and which there are not."""
    missing = {key: annotation for key, annotation in compiled.inputs.items() if key not in values}
    unknown = [key for key in values if key not in compiled.contracts]
    problems = [f"input {key!r}: {describe(one)} is missing{did_you_mean(key, unknown)}" for key, one in missing.items()]
    there_are = f"; inputs: {', '.join(compiled.inputs)}" if compiled.inputs else "; the pipeline has no inputs"
    for key in unknown:
        hint = did_you_mean(key, compiled.inputs) or as_input(compiled, key) or there_are
        problems.append(f"unknown input {key!r}{hint}")
    return problems


def as_input(compiled: Compiled, name: str) -> str:
    """Return how ``name`` becomes an input, where a bare parameter of that name takes the State instead."""
    for step in compiled.steps:
        for binding in getattr(step, "bindings", ()):
            if binding.source == "state" and binding.parameter == name:
                return (
                    f"; the one bare parameter {name!r} of stage {step.name!r} takes the State: "
                    f"annotate it, or declare Pipeline({name}=…)"
                )
    return ""


async def keep_state(root: Root, opened: Opened, compiled: Compiled, state: State) -> None:
    """Journal the last State, so that a finished run is read and never run again; in a thread where it may be large."""
    handle, model = opened.handle, _last_model(compiled)
    values = plain(state._fields)
    if model is not None and model in state._models:
        values[""] = state._models[model]
    with suppress(NotStorable):  # the stage that gave it has said so: it runs again
        encode = partial(_text_of, handle, values, payload_type_of(compiled))
        is_small = all(isinstance(value, str | int | float | bool | None) for value in values.values())
        text = encode() if is_small else await root.threads.run(encode)
        handle.journal.put(END, "end", text)
        note_failures(handle, END, state._fields)


def _text_of(handle: Handle, values: dict[str, object], expected: Classes) -> str:
    """Encode the fields of a State; what nobody has read since an earlier session wrote it stays as it stands there."""
    kept: dict[str, str] = {}
    for name, value in list(values.items()):
        text = value.text if type(value) is Unread and value.root_id == handle.root_id else ""
        if text:
            kept[name] = text
            del values[name]
        elif type(value) is Unread:
            values[name] = value.read()
    text = handle.journal.encode(values, expected, place=f"the State of {handle.path!r}")
    parts = [text[1:-1], *(f"{json.dumps(name)}:{node}" for name, node in kept.items())]
    return f"{{{','.join(part for part in parts if part)}}}"


def _last_model(compiled: Compiled) -> Annotation:
    """Return the model that the last stage gives, which is the run's value."""
    last = compiled.steps[-1] if compiled.steps else None
    return last.contract.model if isinstance(last, StageStep) and last.contract is not None else None


def payload_type_of(compiled: Compiled) -> Classes:
    """Return the annotation of a whole State, with the last model under ``""``."""
    return payload_type(OutputContract(_last_model(compiled), {}), compiled.contracts)


async def finished_state(root: Root, opened: Opened, compiled: Compiled) -> State | None:
    """Return the State of a finished run, or None if it was not kept."""
    entry = opened.handle.journal.get(END)
    if entry is None or entry.value is None:
        return None
    handle = opened.handle

    def check(name: str, value: object) -> object:
        return compiled.contracts[name].validate(value, handle.path) if name else value

    expected = payload_type_of(compiled)
    fields = await stored_fields(root.threads, handle.journal, END, entry.value, expected, check)
    models = {_last_model(compiled): fields.pop("")} if "" in fields else {}
    with_failures(opened.handle, END, fields)
    return State(fields, models)
