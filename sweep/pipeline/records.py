"""What the journal and the cache know of one stage activation."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from typing_extensions import is_typeddict

from sweep.clock import current_clock
from sweep.errors import ContractError, ContractViolation, ItemFailed, NotStorable, StoreCorrupt, in_words
from sweep.fingerprint import Fingerprinter, stable_json, structure_hash
from sweep.pipeline.contracts import Accepted, FieldContract, OutputContract
from sweep.pipeline.nodes import Cache, warn_at
from sweep.pipeline.runtime import Activation, Handle
from sweep.pipeline.steps import Results, StageStep, text_of
from sweep.pipeline.unread import Unread, read_parts
from sweep.store.blobs import NoBlobs
from sweep.store.codec import Classes, encode
from sweep.store.journal import Entry, Journal
from sweep.threads import WorkerThreads

__all__ = [
    "ATTEMPTS", "NO_STORE", "UNSTORED", "accept", "attempts_before", "cache_key", "cached", "code_text", "commit", "commit_item",
    "content_of", "decoded", "failed_attempt", "forget_attempt", "keep_in_cache", "kept", "note_failures", "payload_type",
    "plain", "restore", "restore_item", "stored_fields", "with_failures",
]  # fmt: skip

_BLOB = '"b":"'
"""What a text has that refers to a file."""
STAGE, DONE, UNSTORED, ATTEMPTS, FAILURES = "stage", "done", "unstored", "attempts", "failures"
_NOTHING = Accepted({}, None, {})
NO_STORE = "cache= shares outputs through a store; run the pipeline under a name: run(name=…)"


def accept(act: Activation, returned: object) -> Accepted:
    """Say what a stage's return value means, and check it.

    Raises:
        ContractViolation: It does not fit the contract.
    """
    contract = act.step.contract
    if contract is None:
        item = act.step.item_contract
        return Accepted({}, returned, {}) if item is None else item.accept(act.path, returned)
    return contract.accept(act.path, returned, act.frame.contracts)


def payload(contract: OutputContract, accepted: Accepted) -> dict[str, object]:
    """Return what is stored of an outcome: the model under ``""``, or the fields by name."""
    if contract.model is None:
        return plain(accepted.updates)
    own = contract.fields
    return {"": accepted.output, **{name: value for name, value in accepted.updates.items() if name not in own}}


def payload_type(contract: OutputContract, contracts: Mapping[str, FieldContract]) -> Classes:
    """Return the classes under which a payload is stored and read back."""
    fields = {name: known.annotation for name, known in contracts.items()}
    fields.update(contract.annotations if contract.model is None else {"": contract.model})
    return Classes(*fields.values())


def _classes(act: Activation, contract: OutputContract) -> Classes:
    """Return the classes of a stage's payload, read once."""
    step = act.step
    if step.classes is None:
        step.classes = payload_type(contract, act.frame.contracts)
    return step.classes


# ---------------------------------------------------------------- checkpoint


def kept(step: StageStep, key: str, handle: Handle) -> Entry | None:
    """Return the journal's entry that a resume restores for a stage, or None if the stage is to run."""
    if not step.checkpointed:
        return None
    entry = handle.journal.get(key)
    return entry if entry is not None and entry.kind in (STAGE, DONE) else None


async def restore(act: Activation, handle: Handle) -> Accepted | None:
    """Return the journaled outcome of an activation, or None if it is to run."""
    step = act.step
    entry = kept(step, act.key, handle)
    if entry is None:
        return None
    _compare_code(act, handle, entry)
    if entry.kind == DONE or step.contract is None:
        return _NOTHING
    found = await _restored(act, handle, step.contract, str(entry.value))
    handle.journal.forget(act.key)
    with_failures(handle, act.key, found.updates)
    return found


async def _restored(act: Activation, handle: Handle, contract: OutputContract, text: str) -> Accepted:
    """Read and check a stored outcome; what it has of large arrays in files is read when it is wanted."""
    threads, journal, expected = act.frame.root.threads, handle.journal, _classes(act, contract)
    known = {**act.frame.contracts, **contract.fields}

    def check(name: str, value: object) -> object:
        with _saved_before(act, handle):
            if not name:
                return contract.accept(act.path, value, act.frame.contracts)
            return known[name].validate(value, act.path) if name in known else value

    values = await stored_fields(threads, journal, act.key, text, expected, check)
    found = Accepted({}, None, {}) if "" not in values else _whole(contract, values.pop(""))
    found.updates.update(values)
    if any(name not in known for name in values) or any(name not in found.updates for name in contract.fields if not found.models):
        with _saved_before(act, handle):  # the contract is another one now: it says what is wrong
            return contract.accept(act.path, values, act.frame.contracts)
    return found


def _whole(contract: OutputContract, model: Any) -> Accepted:
    """Return the outcome of a stage that gives a model, which may be still unread."""
    if type(model) is not Unread or is_typeddict(contract.model):  # the keys of that are its own affair
        found: Accepted = model.read() if type(model) is Unread else model
        return found
    updates = {name: model.part(partial(_field_of, name)) for name in contract.fields}
    return Accepted(updates, None, {contract.model: model.part(lambda found: found.output)})


def _field_of(name: str, found: Accepted) -> object:
    return found.updates[name]


@contextmanager
def _saved_before(act: Activation, handle: Handle) -> Iterator[None]:
    try:
        yield
    except ContractViolation as error:
        error.add_note(
            f"this output was saved by an earlier session of run {handle.path!r}; redo it: --redo {act.step.name}"
        )
        raise


def _compare_code(act: Activation, handle: Handle, entry: Entry) -> None:
    """Warn, once a stage, that the code has changed since its output was saved."""
    step = act.step
    if entry.code is None or step.warned or code_id(act, handle) in (None, entry.code):
        return
    step.warned = True
    warn_at(
        step.where,
        f"stage {act.path!r}: its code has changed since it finished; the saved output is used "
        f"(redo it: sweep resume {handle.root_id} --redo {step.name})",
    )


def code_id(act: Activation, handle: Handle) -> int | None:
    """Return the definition id of the stage's code."""
    step = act.step
    if not step.unit.code:
        return None
    text = step.code or code_text(step, act.frame.root.fingerprints)
    return handle.store.definition("code", text, step.unit.signature.name)


def code_text(step: StageStep, fingerprints: Fingerprinter) -> str:
    """Return the fingerprint of a stage's code, its transform included."""
    if step.code is None:
        hooks = [step.hooks["transform"]] if "transform" in step.hooks else []
        step.code = "+".join(fingerprints.code_fingerprint(one) for one in (*step.unit.code, *hooks))
    return step.code


def contract_id(act: Activation, handle: Handle) -> int | None:
    """Return the definition id of the stage's contract."""
    step = act.step
    if step.contract is None:
        return None
    if step.promise is None:
        text = text_of(step.contract)
        step.promise = structure_hash(text), stable_json(text)
    return handle.store.definition("contract", *step.promise)


async def commit(act: Activation, handle: Handle, accepted: Accepted) -> None:
    """Journal an outcome.

    Raises:
        NotStorable: It cannot be kept, and ``checkpoint=True`` insists.
    """
    step = act.step
    if not step.checkpointed:
        return
    text, kind = None, DONE
    if step.contract is not None:
        try:
            text, kind = await _encoded(act, handle.journal, step.contract, accepted), STAGE
        except NotStorable as error:
            _cannot_keep(act, error)
            kind = UNSTORED
    ids = (code_id(act, handle), contract_id(act, handle))
    handle.journal.put(act.key, kind, text, code=ids[0], contract=ids[1])
    note_failures(handle, act.key, accepted.updates)
    if step.items is not None and kind != UNSTORED:
        handle.journal.discard_below(f"{act.key}[")  # what is kept of single items; the whole takes their place
    await handle.commit(act.frame.root.threads)


async def commit_item(act: Activation, handle: Handle, accepted: Accepted) -> None:
    """Queue the outcome of one item of a map for the next commit."""
    step = act.step
    text, kind = None, DONE
    if step.keeps_value:
        try:
            place, encode = f"item {act.path!r}, output", handle.journal.encode
            text = await encoded(act.frame.root.threads, encode, accepted.output, _item_classes(step), place=place)
            kind = STAGE
        except NotStorable as error:
            _cannot_keep(act, error)
            kind = UNSTORED
    handle.journal.put(act.key, kind, text, code=code_id(act, handle))


async def restore_item(act: Activation, handle: Handle) -> Accepted | None:
    """Return the journaled outcome of one item of a map, or None if it is to run."""
    step = act.step
    entry = kept(step, act.key, handle)
    if entry is None:
        return None
    _compare_code(act, handle, entry)
    threads, value = act.frame.root.threads, None
    if entry.value is not None:
        value = await decoded(threads, handle.journal, act.key, entry.value, _item_classes(step))
    handle.journal.forget(act.key)
    return Accepted({}, value, {}) if step.item_contract is None else step.item_contract.accept(act.path, value)


def _item_classes(step: StageStep) -> Classes:
    if step.classes is None:
        step.classes = Classes(Any if step.item_contract is None else step.item_contract.annotation)
    return step.classes


async def _encoded(act: Activation, journal: Journal, contract: OutputContract, accepted: Accepted) -> str:
    """Encode an outcome."""
    data, expected = payload(contract, accepted), _classes(act, contract)
    return await encoded(act.frame.root.threads, journal.encode, data, expected, place=f"stage {act.path!r}, output")


async def encoded(threads: WorkerThreads, encode: Callable[..., str], value: object, *more: object, place: str) -> str:
    """Encode a value; in a thread where it may be large, so that the loop goes on."""
    return encode(value, *more, place=place) if is_small(value) else await threads.run(encode, value, *more, place=place)


async def decoded(threads: WorkerThreads, journal: Journal, key: str, text: str, expected: Classes) -> Any:
    """Decode a stored value; in a thread where it has arrays in files, so that the loop goes on."""
    if _BLOB not in text:
        return journal.decode(key, text, expected)
    return await threads.run(journal.decode, key, text, expected)


async def stored_fields(
    threads: WorkerThreads, journal: Journal, key: str, text: str, expected: Classes, check: Callable[[str, object], object]
) -> dict[str, Any]:
    """Read stored fields, each checked; large arrays in files are read and checked when they are wanted."""
    if _BLOB in text and journal.get(f"{key}!{FAILURES}") is None:  # failures belong to the values themselves
        return await threads.run(read_parts, journal, key, text, expected, check)
    value = await decoded(threads, journal, key, text, expected)
    return {name: check(name, one) for name, one in value.items()}


async def content_of(threads: WorkerThreads, value: object, place: str = "value") -> str:
    """Return a hash of a value's content; of what is large in a thread.

    Raises:
        NotStorable: It has no content that could be written.
    """
    return structure_hash(await encoded(threads, encode, value, NoBlobs(), place=place))


def is_small(value: Any) -> bool:
    """Whether a value is encoded in no time: a scalar, or a few of them."""
    if isinstance(value, str | int | float | bool | None):
        return True
    parts = value.values() if type(value) is dict else value if type(value) in (list, tuple) else None
    return parts is not None and len(parts) <= 16 and all(isinstance(one, str | int | float | None) for one in parts)


# ---------------------------------------------------------------- failures of items


def note_failures(handle: Handle, key: str, values: Mapping[str, object]) -> None:
    """Journal the errors that results carry, in words."""
    found = {
        name: {index: in_words(error).partition(": ")[::2] for index, error in value.failures.items()}
        for name, value in values.items()
        if type(value) is Results and value.failures
    }
    if found:
        handle.journal.put(f"{key}!{FAILURES}", FAILURES, json.dumps(found))


def plain(values: Mapping[str, object]) -> dict[str, object]:
    """Return values as they are stored: results of maps are plain lists."""
    return {name: list(one) if type(one) is Results else one for name, one in values.items()}


def with_failures(handle: Handle, key: str, values: dict[str, Any]) -> None:
    """Put journaled errors back on restored results."""
    if list not in map(type, values.values()):
        return
    entry = handle.journal.get(f"{key}!{FAILURES}")
    found = {} if entry is None or entry.value is None else json.loads(entry.value)
    for name, errors in found.items():
        if isinstance(values.get(name), list):
            values[name] = Results(values[name], {int(index): ItemFailed(*words) for index, words in errors.items()})


def _cannot_keep(act: Activation, error: NotStorable) -> None:
    if act.step.hooks.get("checkpoint") is True:
        raise error
    if act.step.warned or (act.step.items is not None and act.step.items.step.warned):
        return
    act.step.warned = True
    warn_at(
        act.step.where,
        f"{error}. The value goes on in memory; a resume begins again before stage {act.step.name!r} "
        "(checkpoint=False says that this is meant)",
    )


# ---------------------------------------------------------------- retries


def attempts_before(act: Activation) -> int:
    """Return how many attempts earlier sessions have used up."""
    handle = act.frame.handle
    entry = None if handle is None else handle.journal.get(f"{act.key}!{ATTEMPTS}")
    return 0 if entry is None or entry.value is None else int(entry.value)


async def failed_attempt(act: Activation, error: Exception) -> None:
    """Keep the count of attempts, before the wait for the next one begins."""
    handle = act.frame.handle
    run_id = handle.run_id if handle else 0
    act.frame.root.stream.emit("stage.retried", run_id, act.path, attempt=act.attempt, error=in_words(error))
    if handle is not None:
        handle.journal.put(f"{act.key}!{ATTEMPTS}", ATTEMPTS, str(act.attempt))
        await handle.commit(act.frame.root.threads)


def forget_attempt(act: Activation) -> None:
    """Make ready for another attempt: what the stages of a sub-pipeline have finished is theirs again."""
    handle = act.frame.handle
    if handle is not None and act.step.unit.nested is not None:
        handle.journal.reload(f"{act.key}/")


# ---------------------------------------------------------------- cache


async def cache_key(act: Activation, spec: bool | Cache) -> str:
    """Return what a stage's code and arguments are known by in the cache; found before the stage can change them.

    Raises:
        ContractError: The run is not kept in a store, so there is no cache to share.
        NotStorable: An argument has no content that could be compared.
    """
    handle = act.frame.handle
    if handle is None:
        raise ContractError(f"stage {act.path!r}", [NO_STORE])
    kwargs = dict(act.kwargs or {})
    basis = spec.key(kwargs) if isinstance(spec, Cache) and spec.key is not None else kwargs
    place = f"arguments of the cached stage {act.path!r}"
    try:
        text = await act.frame.root.threads.run(encode, basis, NoBlobs(), place=place)
    except NotStorable as error:
        error.add_note("the cache compares a stage's arguments; give Cache(key=…) that returns plain data")
        raise
    code_id(act, handle)
    return structure_hash([act.step.name, act.step.code, text_of(act.step.contract), text])


async def cached(act: Activation, spec: bool | Cache, key: str) -> Accepted | None:
    """Return an output that some run of this store has computed for the same code and arguments, or None."""
    handle = act.frame.handle
    if handle is None:
        return None
    how = spec if isinstance(spec, Cache) else Cache()
    row = handle.store.row("SELECT at FROM journal WHERE run_id=0 AND key=?", (key,))
    if row is None or (how.ttl is not None and current_clock().wall() - row[0] > how.ttl):
        return None
    contract = act.step.contract
    if contract is None:
        return _NOTHING
    shared = Journal(handle.store, 0, 0, fresh=True)
    try:
        text = shared.fetch(key)
    except StoreCorrupt:  # computed again, which mends it
        return None
    if text is None:
        return None
    value = await decoded(act.frame.root.threads, shared, key, text, _classes(act, contract))
    return contract.accept(act.path, value[""] if set(value) == {""} else value, act.frame.contracts)


async def keep_in_cache(act: Activation, key: str, accepted: Accepted) -> None:
    """Share an output with all runs of this store."""
    handle, contract = act.frame.handle, act.step.contract
    if handle is None or contract is None:
        return
    shared = Journal(handle.store, 0, 0, fresh=True)
    shared.put(key, "cache", await _encoded(act, shared, contract, accepted))
