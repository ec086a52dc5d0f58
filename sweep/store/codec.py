"""The file format: values as JSON text, and back with type and value kept.

What JSON has (``None``, ``bool``, ``int``, finite ``float``, ``str``, ``list``, ``dict``
with ``str`` keys) is written as plain JSON. Everything else is an object whose first
key is ``"$"``, its *kind*; ``v`` holds its parts, ``t`` the path of its class, ``b`` the
address of a blob::

    {"$":"tuple","v":[1,2]}      {"$":"dict","v":[[1,"a"]]}     {"$":"float","v":["nan"]}
    {"$":"enum","t":"m:Colour","v":["RED"]}                    {"$":"array","b":"3f…c2.npy"}

A dict that has a key ``"$"`` itself is written as pairs, so nothing a user stores can
be taken for a kind. Sets are sorted by their elements' text: equal values have equal
text. Integers beyond 64 bits go as hexadecimal, strings with lone surrogates as
base64, and every text is valid UTF-8. Objects shared within a value are written once
for each place (tensors that share memory stay shared).

Nothing is ever pickled, and reading runs no code that the store names: see
:mod:`sweep.store.classes`. What would not come back as it was is refused when it is
written: subclasses of builtins, values nested in themselves, a model whose
validators change or refuse its own fields.

The format may only grow. ``tests/golden/codec`` holds texts that must be read for ever.
"""

from __future__ import annotations

import contextlib
import json
import re
from typing import Any, TypeAlias

from sweep.errors import NotStorable, StoreCorrupt
from sweep.store.blobs import BlobSink, BlobSource
from sweep.store.classes import Classes
from sweep.store.decoding import Decoder
from sweep.store.encoding import EXACT_TYPES, INLINE_BYTES, JSON, MAX_DEPTH, Encoder, is_plain, is_unicode

__all__ = ["EXACT_TYPES", "FORMAT_VERSION", "INLINE_BYTES", "MAX_DEPTH", "Classes", "decode", "encode", "references"]

FORMAT_VERSION = 1
"""Raised when a text may hold what an older sweep cannot read."""

Json: TypeAlias = Any  # what json.dumps takes as it is
_TAG = '{"$":'  # cannot appear in a text in any other way: quotes inside a string are escaped
_REFERENCE = re.compile(r'"b":"([0-9a-f]{64}\.[a-z0-9]{1,16})"')


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON")


_PARSER = json.JSONDecoder(parse_constant=_refuse_constant)


def encode(value: object, blobs: BlobSink, expected: object = None, *, place: str = "value") -> str:
    """Return ``value`` as JSON text; arrays, tensors and long bytes go to ``blobs``.

    Args:
        value: Anything the module describes. An object with a method
            ``__sweep_encode__() -> Mapping`` is written as that mapping, a plain dict.
        blobs: When this returns, every blob the text refers to is in it.
        expected: The contract's annotation (or a :class:`Classes` made of it). Give
            the same when reading: classes it names may run their own validation.
        place: What errors call the value, for example ``"field 'state'"``.

    Raises:
        NotStorable: Naming the place inside the value, its type, and what to do.
        StoreUnwritable: A blob could not be written.

    Example:
        >>> from sweep.store.blobs import MemoryBlobs
        >>> encode({"lr": 0.1, "shape": (3, 4)}, MemoryBlobs())
        '{"lr":0.1,"shape":{"$":"tuple","v":[3,4]}}'
    """
    if is_plain(value, MAX_DEPTH - 1):
        with contextlib.suppress(ValueError):  # NaN or infinity
            text = JSON.encode(value)
            if is_unicode(text):
                return text
    try:
        return Encoder(blobs, _classes(expected), place).text(value)
    except RecursionError:  # called with little stack left
        raise NotStorable(place, type(value), "it is nested too deep for the stack that is left; flatten it") from None


def decode(text: str, blobs: BlobSource, expected: object = None) -> Any:
    """Return the value that :func:`encode` wrote.

    Args:
        text: The JSON text.
        blobs: Where its blobs are.
        expected: The contract's annotation, as when writing.

    Raises:
        StoreCorrupt: Damaged text or blob, a class that is not imported, stored
            fields that no longer fit their class, or a newer format.

    Example:
        >>> from sweep.store.blobs import MemoryBlobs
        >>> decode('{"$":"set","v":[1,2]}', MemoryBlobs())
        {1, 2}
    """
    try:
        tree = _parsed(text)
        if _TAG not in text:
            return tree
        with contextlib.ExitStack() as files:
            return Decoder(blobs, _classes(expected), files).value(tree)
    except (ValueError, RecursionError) as error:
        shown = text if len(text) <= 80 else text[:77] + "..."
        raise StoreCorrupt(f"a stored value does not read back ({error}): {shown}") from error


def _parsed(text: str) -> Json:
    """Parse what was written here: no white space round it (looking for some costs as much as a short text)."""
    tree, end = _PARSER.raw_decode(text)
    return tree if end == len(text) else _PARSER.decode(text)


def references(text: str) -> set[str]:
    """Return the addresses of all blobs that ``text`` refers to, without decoding it.

    May name more (a user's own text may look like a reference), never fewer.

    Example:
        >>> references('[1,2]')
        set()
    """
    return set(_REFERENCE.findall(text)) if '"b":"' in text else set()


def _classes(expected: object) -> Classes:
    return expected if isinstance(expected, Classes) else Classes(*(() if expected is None else (expected,)))
