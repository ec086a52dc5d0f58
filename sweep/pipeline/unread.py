"""Large values of an earlier session: they stay in their files until a stage, or the user, wants them.

That their files are there is checked when the run is opened again; what is in them, when they are read.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, Final, final

from sweep.errors import StoreCorrupt
from sweep.store.codec import Classes, references
from sweep.store.journal import Journal
from sweep.threads import WorkerThreads

__all__ = ["LARGE", "Unread", "read_ahead", "read_parts"]

LARGE: Final = 1 << 20
"""Bytes in files from which on a value is not read before it is wanted."""

_TEXT = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


@final
class Unread:
    """Stands in a State for a value that has not been read yet.

    Args:
        get: Reads it; called once.
        size: Bytes in files.
        text: How it is stored, and ``root_id`` the run whose files that means; ``""`` where it is part of something.
    """

    __slots__ = ("_get", "_lock", "_value", "root_id", "size", "text")

    def __init__(self, get: Callable[[], Any], size: int, text: str = "", root_id: int = 0) -> None:
        self._get: Callable[[], Any] | None = get
        self._lock, self._value = threading.Lock(), None
        self.size, self.text, self.root_id = size, text, root_id

    def read(self) -> Any:
        """Return the value, read from disk the first time; any thread may ask.

        Raises:
            StoreCorrupt: It does not read back.
            ContractViolation: It no longer fits its contract.
        """
        with self._lock:
            if self._get is not None:
                self._value, self._get, self.text = self._get(), None, ""  # whoever has it may change it
            return self._value

    def part(self, pick: Callable[[Any], object]) -> Unread:
        """Return what stands for a part of it."""
        return Unread(lambda: pick(self.read()), self.size)

    def __repr__(self) -> str:
        return f"<{self.size / 1e6:.0f} MB, not read yet>"


def read_parts(
    journal: Journal, key: str, text: str, expected: Classes, validate: Callable[[str, object], object]
) -> dict[str, Any]:
    """Read a stored mapping: what is small now, what is large when it is wanted.

    Each file is looked for now; what is in the large ones is checked when they are read.

    Args:
        journal: Where it is.
        key: Its key.
        text: How it is stored.
        expected: The classes under which it was stored.
        validate: Gets name and value, and returns what is wanted.

    Raises:
        StoreCorrupt: A file is missing, or what is read does not read back.
    """

    def read(nodes: Mapping[str, object]) -> dict[str, object]:
        try:
            values = journal.decode(key, _TEXT.encode(nodes), expected)
        except StoreCorrupt as error:
            names = ", ".join(repr(name) for name in nodes if name)
            raise StoreCorrupt(f"field {names}: {error}" if names else str(error)) from error
        return {name: validate(name, value) for name, value in values.items()}

    tree: dict[str, object] = json.loads(text)
    try:
        sizes = {address: journal.blobs.size(address) for address in references(text)}
    except StoreCorrupt as error:
        raise StoreCorrupt(f"{journal.store.path}, run {journal.run_id}, {key!r}: {error}; redo the stage it is of") from error
    now, found = dict[str, Any](), dict[str, Any]()
    for nodes in _groups(tree):
        size = sum(sizes[address] for address in references(_TEXT.encode(nodes)))
        if size < LARGE:
            now.update(nodes)
            continue
        together = Unread(partial(read, nodes), size)
        for name, node in nodes.items():
            alone = Unread(partial(_of, together, name), size, _TEXT.encode(node), journal.root_id)
            found[name] = alone
    found.update(read(now))
    return {name: found[name] for name in tree}


def _of(together: Unread, name: str) -> object:
    return together.read()[name]


def _groups(tree: Mapping[str, object]) -> Iterator[dict[str, object]]:
    """Yield parts that stand in files of their own: the tensors of one file stay shared."""
    groups: list[tuple[set[str], set[str]]] = []
    for name, node in tree.items():
        names, files = {name}, references(_TEXT.encode(node))
        for group in [one for one in groups if one[1] & files]:
            groups.remove(group)
            names, files = names | group[0], files | group[1]
        groups.append((names, files))
    for names, _ in groups:
        yield {name: tree[name] for name in tree if name in names}


async def read_ahead(threads: WorkerThreads, values: Iterable[object]) -> None:
    """Read what of some values has not been read, in a thread, so that the loop goes on."""
    for value in values:
        if type(value) is Unread:
            await threads.run(value.read)
