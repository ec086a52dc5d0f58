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

import base64
import collections
import contextlib
import dataclasses
import enum
import io
import json
import math
import re
import reprlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias, final

from sweep.errors import NotStorable, StoreCorrupt
from sweep.store import arrays
from sweep.store.blobs import BlobSink, BlobSource, MemoryBlobs
from sweep.store.classes import (
    BUILTINS,
    Classes,
    class_path,
    is_model,
    is_namedtuple,
    make_dataclass,
    make_enum,
    make_model,
    make_namedtuple,
    other_attributes,
    remedy,
)
from sweep.store.parts import PARTS

__all__ = ["EXACT_TYPES", "FORMAT_VERSION", "INLINE_BYTES", "MAX_DEPTH", "Classes", "decode", "encode", "references"]

FORMAT_VERSION = 1
"""Raised when a text may hold what an older sweep cannot read."""

INLINE_BYTES = 2048
"""Arrays, tensors and bytes of at most this size stand in the text, longer ones in blobs."""

MAX_DEPTH = 100
"""Containers in containers; deeper values are refused, so that reading never exhausts the stack."""

Json: TypeAlias = Any  # what json.dumps takes as it is
_INT_LIMIT = 1 << 63
_TAG = '{"$":'  # cannot appear in a text in any other way: quotes inside a string are escaped
_SURROGATE = re.compile("[\ud800-\udfff]")
_REFERENCE = re.compile(r'"b":"([0-9a-f]{64}\.[a-z0-9]{1,16})"')
_FACTORIES: Mapping[str, Any] = {kind.__name__: kind for kind in (bool, dict, float, int, list, set, str)}


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON")


_JSON = json.JSONEncoder(ensure_ascii=False, check_circular=False, allow_nan=False, separators=(",", ":"))
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
    if _is_plain(value, MAX_DEPTH - 1):
        with contextlib.suppress(ValueError):  # NaN or infinity
            text = _JSON.encode(value)
            if _is_unicode(text):
                return text
    try:
        return _Encoder(blobs, _classes(expected), place).text(value)
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
            return _Decoder(blobs, _classes(expected), files).value(tree)
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


def _is_plain(value: object, depth: int) -> bool:
    """Tell whether json writes ``value`` as it is, but for NaN, infinity and lone surrogates."""
    items: Iterable[object]
    if type(value) is dict:
        for key in value:
            if type(key) is not str or key == "$":
                return False
        items = value.values()
    elif type(value) is list:
        items = value
    else:
        items = (value,)
    for item in items:
        kind = type(item)
        if kind is str or kind is float or kind is bool or item is None:
            continue
        if kind is int:
            if -_INT_LIMIT <= item < _INT_LIMIT:  # type: ignore[operator]  # an int, as just asked
                continue
            return False
        if (kind is dict or kind is list) and depth and _is_plain(item, depth - 1):
            continue
        return False
    return True


# --- writing ---------------------------------------------------------------------------------------------------------


@final
class _Encoder:
    """One value on its way to text; of no more use after an error.

    ``_trail`` is the way from the root to what is being written, for errors;
    ``_open`` the ids of the containers on it, to see cycles.
    """

    def __init__(self, blobs: BlobSink, classes: Classes, place: str, *, verify: bool = True) -> None:
        self._blobs, self._classes, self._place, self._verify = blobs, classes, place, verify
        self._trail: list[tuple[str, object]] = []
        self._open: set[int] = set()
        self._tensors: dict[object, tuple[int, Any]] = {}
        self._waiting: list[dict[str, Json]] = []

    def text(self, value: object) -> str:
        """Return the text of ``value``, after putting its blobs."""
        tree = self.value(value)
        if self._tensors:  # all in one file: one sync for a whole state dict
            data = arrays.tensor_file_chunks([tensor for _, tensor in self._tensors.values()])
            address = self._blobs.put(data, ".safetensors")
            for node in self._waiting:
                node["b"] = address
        return _JSON.encode(tree)

    def value(self, value: object) -> Json:
        """Return what json writes for ``value``."""
        write = _WRITERS.get(type(value))
        return write(self, value) if write is not None else self._rarer(value)

    def _rarer(self, value: Any) -> Json:
        """Write what is not known by its exact type."""
        kind = type(value)
        package = kind.__module__.partition(".")[0]
        if hasattr(kind, "__sweep_encode__"):
            return self._enclosed(value, lambda: self._mapping(value.__sweep_encode__()))
        if isinstance(value, enum.Enum):
            return self._enum(value)
        if package == "numpy":
            return self._numpy(value)
        if package == "torch":
            return self._torch(value)
        if is_namedtuple(kind):
            return self._enclosed(value, lambda: self._namedtuple(value))
        if is_model(kind):
            return self._enclosed(value, lambda: self._model(value))
        if dataclasses.is_dataclass(kind):
            return self._enclosed(value, lambda: self._dataclass(value))
        raise self._refusal(kind, remedy(kind))

    def _refusal(self, kind: type, hint: str) -> NotStorable:
        steps = [_step(form, key) for form, key in self._trail]
        if len(steps) > 12:
            steps[6:-3] = ["…"]
        return NotStorable(self._place + "".join(steps), kind, hint)

    # containers

    def _enclosed(self, value: object, write: Callable[[], Json]) -> Json:
        """Run ``write`` with ``value`` as the innermost container, refusing cycles and bottomless values."""
        if id(value) in self._open:
            raise self._refusal(type(value), "it contains itself")
        if len(self._open) >= MAX_DEPTH:
            raise self._refusal(type(value), f"it is nested more than {MAX_DEPTH} deep; flatten it")
        self._open.add(id(value))
        node = write()
        self._open.discard(id(value))
        return node

    def _at(self, form: str, key: object, value: object) -> Json:
        self._trail.append((form, key))
        node = self.value(value)
        self._trail.pop()  # not on an error, which wants to know the way
        return node

    def _items(self, items: Iterable[object]) -> list[Json]:
        nodes = []
        for index, item in enumerate(items):
            nodes.append(self._at("[", index, item))
        return nodes

    def _named(self, items: Iterable[tuple[str, object]]) -> dict[str, Json]:
        nodes = {}
        for name, item in items:
            nodes[name] = self._at(".", name, item)
        return nodes

    def _mapping(self, mapping: Mapping[Any, object]) -> Json:
        """Write a mapping as an object if its keys allow it, else as pairs."""
        if not all(type(key) is str and key != "$" and _is_unicode(key) for key in mapping):
            return {"$": "dict", "v": self._pairs(mapping)}
        nodes = {}
        for key, item in mapping.items():
            nodes[key] = self._at("[", key, item)
        return nodes

    def _pairs(self, mapping: Mapping[Any, object]) -> list[Json]:
        nodes = []
        for key, item in mapping.items():
            nodes.append([self._at(" key ", key, key), self._at("[", key, item)])
        return nodes

    def write_dict(self, value: dict[Any, object]) -> Json:
        return self._enclosed(value, lambda: self._mapping(value))

    def write_list(self, value: list[object]) -> Json:
        return self._enclosed(value, lambda: self._items(value))

    def write_tuple(self, value: tuple[object, ...]) -> Json:
        return self._enclosed(value, lambda: {"$": "tuple", "v": self._items(value)})

    def write_set(self, value: Iterable[object]) -> Json:
        return self._enclosed(value, lambda: {"$": type(value).__name__, "v": self._elements(value)})

    def _elements(self, value: Iterable[object]) -> list[Json]:
        nodes = []
        for item in value:
            nodes.append(self._at(" element ", item, item))
        return sorted(nodes, key=_JSON.encode)

    def write_parts(self, tag: str, value: object, split: Callable[[Any], Iterable[object]]) -> Json:
        try:
            parts = split(value)
        except TypeError as error:
            raise self._refusal(type(value), str(error)) from error
        return self._enclosed(value, lambda: {"$": tag, "v": self._items(parts)})

    def write_special_dict(self, value: Mapping[Any, object], *head: Json) -> Json:
        def write() -> Json:
            parts = [*head, self._pairs(value)]
            attributes = getattr(value, "__dict__", None)  # torch hangs _metadata on a state dict
            return {"$": type(value).__name__, "v": [*parts, self._mapping(attributes)] if attributes else parts}

        return self._enclosed(value, write)

    def write_defaultdict(self, value: collections.defaultdict[Any, Any]) -> Json:
        factory = value.default_factory
        name = getattr(factory, "__name__", None)
        if factory is not None and _FACTORIES.get(str(name)) is not factory:
            raise self._refusal(type(value), "its default_factory is no builtin type; return dict(value)")
        return self.write_special_dict(value, name)

    # classes

    def _enum(self, value: enum.Enum) -> Json:
        kind = type(value)
        member = value.value if isinstance(value, enum.Flag) else value.name
        self._verified(kind, lambda _: make_enum(kind, member) is value)
        return {"$": "enum", "t": class_path(kind), "v": [member]}

    def _namedtuple(self, value: Any) -> Json:
        kind = type(value)
        self._verified(kind, lambda _: len(kind._fields) == len(value) and not other_attributes(value, {}))
        nodes = [self._at(".", name, item) for name, item in zip(kind._fields, value, strict=True)]
        return {"$": "namedtuple", "t": class_path(kind), "v": nodes}

    def _dataclass(self, value: Any) -> Json:
        kind = type(value)
        if isinstance(value, BUILTINS):
            raise self._refusal(kind, remedy(kind))  # it holds more than its fields
        names = [field.name for field in dataclasses.fields(value)]
        unset = [name for name in names if not hasattr(value, name)]
        if unset:
            raise self._refusal(kind, f"its fields {unset} were never set")
        fields = {name: getattr(value, name) for name in names}

        def same(trusted: bool) -> bool:
            made = make_dataclass(kind, fields, trusted)
            others = other_attributes(value, fields), other_attributes(made, fields)
            return self._same(fields, {name: getattr(made, name) for name in names}) and self._same(*others)

        nodes = self._named(fields.items())
        self._verified(kind, same)
        return {"$": "dataclass", "t": class_path(kind), "v": nodes}

    def _model(self, value: Any) -> Json:
        kind = type(value)
        fields = {name: value.__dict__[name] for name in kind.model_fields if name in value.__dict__}
        extra, private = value.__pydantic_extra__, dict(value.__pydantic_private__ or {})
        unset = [name for name in fields if name not in value.model_fields_set]

        def same(trusted: bool) -> bool:
            made = make_model(kind, {"fields": fields, "extra": extra, "unset": unset}, trusted)
            for name, itself in (made.__pydantic_private__ or {}).items():
                if name in private and self._same(private[name], itself):
                    del private[name]  # need not be stored: it comes by itself
            others = other_attributes(value, fields), other_attributes(made, fields)
            anew = {name: made.__dict__[name] for name in fields}
            return self._same(fields, anew) and self._same(extra, made.__pydantic_extra__) and self._same(*others)

        node = {"$": "model", "t": class_path(kind), "v": self._named(fields.items())}
        self._verified(kind, same)
        more = {"x": extra and self._mapping(extra), "u": unset, "p": self._named(private.items())}
        return {**node, **{key: part for key, part in more.items() if part}}

    def _verified(self, kind: type, same: Callable[[bool], bool]) -> None:
        """Make sure, when writing, that reading will find the class and make the same instance of it."""
        try:
            found = self._classes.find(class_path(kind))
        except StoreCorrupt:
            hint = "its class is not found by its name; move it to the top of its module, or name it in the contract"
            raise self._refusal(kind, hint) from None
        if found is not kind:
            raise self._refusal(kind, "another class now has its name; make the value anew")
        try:
            kept = not self._verify or same(self._classes.trusts(kind))
        except (ValueError, TypeError) as error:
            raise self._refusal(kind, f"it could not be read back: {error}") from error
        if not kept:
            hint = "made anew from its fields it differs; keep its constructor and validators from changing their input"
            hint += "" if self._classes.trusts(kind) else ", or name the class in the contract so that they may run"
            raise self._refusal(kind, hint)

    def _same(self, one: object, other: object) -> bool:
        """Tell whether two values are equal in type and value, which is: have the same text."""
        if one is other:
            return True
        if type(one) is not type(other):
            return False
        if type(one) is dict and type(other) is dict:
            return self._same([*one], [*other]) and self._same([*one.values()], [*other.values()])
        if isinstance(one, list | tuple) and isinstance(other, list | tuple):
            return len(one) == len(other) and all(map(self._same, one, other))
        texts = []
        for value in (one, other):
            try:
                # Without verifying, or each level of models in models would double the work.
                texts.append(_Encoder(MemoryBlobs(), self._classes, "", verify=False).text(value))
            except NotStorable:
                return False
        return texts[0] == texts[1]

    # bytes, numpy, torch

    def write_bytes(self, value: bytes | bytearray) -> Json:
        tag = type(value).__name__
        if len(value) <= INLINE_BYTES:
            return {"$": tag, "v": [_base64(value)]}
        return {"$": tag, "b": self._blobs.put(value, ".bin")}

    def _numpy(self, value: Any) -> Json:
        import numpy

        kind = type(value)
        if kind is numpy.ndarray:
            return self._array(value)
        if not isinstance(value, numpy.generic):
            raise self._refusal(kind, "return a plain array: numpy.array(value)")
        name = "bool" if kind is numpy.bool_ else kind.__name__
        plain = value.item()
        if isinstance(value, str):  # neither item() nor an array keeps zeros at the end
            plain = "".join(value)
        elif isinstance(value, bytes):
            plain = bytes(value)
        elif type(plain) not in (bool, int, float) or isinstance(value, numpy.datetime64 | numpy.timedelta64):
            plain = numpy.asarray(value)
        return {"$": "numpy", "v": [name, self.value(plain)]}

    def _array(self, value: Any) -> Json:
        refused = arrays.array_refusal(value)
        if refused:
            raise self._refusal(type(value), refused)
        if value.nbytes <= INLINE_BYTES:
            return {"$": "array", "v": [_base64(b"".join(arrays.array_chunks(value)))]}
        return {"$": "array", "b": self._blobs.put(arrays.array_chunks(value), ".npy")}

    def _torch(self, value: Any) -> Json:
        import torch

        kind = type(value)
        if kind is torch.Size:
            return {"$": "torch.Size", "v": list(value)}
        if kind in (torch.dtype, torch.device):
            return {"$": f"torch.{kind.__name__}", "v": [str(value).removeprefix("torch.")]}
        if kind not in (torch.Tensor, torch.nn.Parameter):
            raise self._refusal(kind, remedy(kind))
        refused = arrays.tensor_refusal(value)
        if refused:
            raise self._refusal(kind, refused)
        node = self._tensor(value)
        form = {"p": kind is torch.nn.Parameter, "g": value.requires_grad, "at": str(value.device)}
        node.update({key: part for key, part in form.items() if part and part != "cpu"})
        return node

    def _tensor(self, value: Any) -> dict[str, Json]:
        kind, shape = arrays.tensor_dtype(value), list(value.shape)
        if value.numel() * value.dtype.itemsize <= INLINE_BYTES:
            return {"$": "tensor", "v": [kind, shape, _base64(b"".join(arrays.tensor_chunks(value)))]}
        memory = (str(value.device), value.data_ptr(), value.stride(), value.is_conj(), value.is_neg())
        same = (*memory, kind, tuple(shape), type(value), value.requires_grad)  # tied weights stay tied
        index, _ = self._tensors.setdefault(same, (len(self._tensors), value))
        node = {"$": "tensor", "v": [kind, shape, str(index)], "b": ""}  # the address comes when all are known
        self._waiting.append(node)
        return node


def _write_int(_: _Encoder, value: int) -> Json:
    return value if -_INT_LIMIT <= value < _INT_LIMIT else {"$": "int", "v": [hex(value)]}


def _write_float(_: _Encoder, value: float) -> Json:
    return value if math.isfinite(value) else {"$": "float", "v": [repr(value)]}


def _write_str(_: _Encoder, value: str) -> Json:
    return value if _is_unicode(value) else {"$": "str", "v": [_base64(value.encode("utf-8", "surrogatepass"))]}


def _write_as_it_is(_: _Encoder, value: object) -> Json:
    return value


def _writer_of_parts(tag: str, split: Callable[[Any], Iterable[object]]) -> Callable[[_Encoder, Any], Json]:
    return lambda encoder, value: encoder.write_parts(tag, value, split)


_WRITERS: Mapping[type, Callable[[_Encoder, Any], Json]] = {
    type(None): _write_as_it_is,
    bool: _write_as_it_is,
    int: _write_int,
    float: _write_float,
    str: _write_str,
    dict: _Encoder.write_dict,
    list: _Encoder.write_list,
    tuple: _Encoder.write_tuple,
    set: _Encoder.write_set,
    frozenset: _Encoder.write_set,
    bytes: _Encoder.write_bytes,
    bytearray: _Encoder.write_bytes,
    collections.OrderedDict: _Encoder.write_special_dict,
    collections.Counter: _Encoder.write_special_dict,
    collections.defaultdict: _Encoder.write_defaultdict,
    **{kind: _writer_of_parts(tag, split) for tag, kind, split, _ in PARTS},
}
EXACT_TYPES = frozenset(_WRITERS)  # their instances are written, but for what containers hold; of subclasses not


def _step(form: str, key: object) -> str:
    """Word one step of the way into a value: ``.lr``, ``['model']``, ``[2]``, `` key (1, 2)``."""
    if form == ".":
        return f".{key}"
    words = reprlib.Repr()
    words.maxstring = words.maxother = 80
    return f"{form}{words.repr(key)}" + ("]" if form == "[" else "")


def _is_unicode(text: str) -> bool:
    return text.isascii() or _SURROGATE.search(text) is None


def _base64(data: bytes | bytearray) -> str:
    return base64.b64encode(data).decode("ascii")


# --- reading ---------------------------------------------------------------------------------------------------------


@final
class _Decoder:
    """One text on its way to a value; ``files`` closes what it opens."""

    def __init__(self, blobs: BlobSource, classes: Classes, files: contextlib.ExitStack) -> None:
        self._blobs, self._classes, self._files = blobs, classes, files
        self._tensor_files: dict[str, arrays.TensorFile] = {}
        self._tensors: dict[str, Any] = {}

    def value(self, node: Json) -> Any:
        """Return the value of one node of the parsed text."""
        if type(node) is list:
            return list(map(self.value, node))
        if type(node) is not dict:
            return node
        if "$" not in node:
            return {key: self.value(item) for key, item in node.items()}
        tag = node["$"]
        read = _READERS.get(tag) if isinstance(tag, str) else None
        if read is None:
            raise StoreCorrupt(f"a stored value is of kind {tag!r}, which this sweep does not know; upgrade sweep")
        try:
            return read(self, node)
        except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, RuntimeError) as error:
            raise StoreCorrupt(f"a stored value of kind {tag!r} does not read back: {error}") from error

    def parts(self, node: Json) -> list[Any]:
        return list(map(self.value, node["v"]))

    def pairs(self, pairs: Json) -> dict[Any, Any]:
        return {self.value(key): self.value(item) for key, item in pairs}

    def enum(self, node: Json) -> object:
        return make_enum(self._classes.find(node["t"]), node["v"][0])

    def namedtuple(self, node: Json) -> object:
        return make_namedtuple(self._classes.find(node["t"]), self.parts(node))

    def dataclass(self, node: Json) -> object:
        kind = self._classes.find(node["t"])
        fields = {name: self.value(item) for name, item in node["v"].items()}
        return make_dataclass(kind, fields, self._classes.trusts(kind))

    def model(self, node: Json) -> object:
        kind = self._classes.find(node["t"])
        state = {
            "fields": {name: self.value(item) for name, item in node["v"].items()},
            "extra": self.value(node["x"]) if "x" in node else None,
            "unset": node.get("u", ()),
            "private": {name: self.value(item) for name, item in node.get("p", {}).items()},
        }
        return make_model(kind, state, self._classes.trusts(kind))

    def bytes_of(self, node: Json) -> bytes:
        if "b" not in node:
            return base64.b64decode(node["v"][0], validate=True)
        with self._blobs.open(node["b"]) as file:
            return file.read()

    def array(self, node: Json) -> Any:
        if "b" not in node:
            return arrays.read_array(io.BytesIO(self.bytes_of(node)))
        with self._blobs.open(node["b"]) as file:
            return arrays.read_array(file)

    def numpy(self, node: Json) -> Any:
        import numpy

        name, item = node["v"]
        plain = self.value(item)
        if isinstance(plain, numpy.ndarray):
            return plain[()]
        kind = numpy.bool_ if name == "bool" else getattr(numpy, name)
        if not (isinstance(kind, type) and issubclass(kind, numpy.number | numpy.bool_ | numpy.str_ | numpy.bytes_)):
            raise ValueError(f"{name!r} is no plain scalar of numpy")
        return kind(plain)

    def tensor(self, node: Json) -> Any:
        key = json.dumps(node, sort_keys=True)
        if "b" in node and key in self._tensors:
            return self._tensors[key]
        kind, shape, what = node["v"]
        if "b" in node:
            tensor = self._tensor_file(node["b"]).read(what, kind, shape)
        else:
            data = base64.b64decode(what, validate=True)
            tensor = arrays.new_tensor(kind, shape, [data], len(data))
        flags = bool(node.get("p")), bool(node.get("g"))
        self._tensors[key] = made = arrays.finished_tensor(tensor, *flags, node.get("at", "cpu"))
        return made

    def _tensor_file(self, address: str) -> arrays.TensorFile:
        if address not in self._tensor_files:
            file = self._files.enter_context(self._blobs.open(address))
            self._tensor_files[address] = arrays.TensorFile(file)
        return self._tensor_files[address]

    def torch(self, node: Json) -> Any:
        import torch

        if node["$"] == "torch.Size":
            return torch.Size(node["v"])
        if node["$"] == "torch.device":
            return torch.device(node["v"][0])
        found = getattr(torch, node["v"][0])
        if not isinstance(found, torch.dtype):
            raise ValueError(f"{node['v'][0]!r} is no dtype of torch")
        return found


def _reader_of_parts(build: Callable[..., object]) -> Callable[[_Decoder, Json], object]:
    return lambda decoder, node: build(*map(decoder.value, node["v"]))


def _reader_of_dict(kind: type[Any]) -> Callable[[_Decoder, Json], object]:
    def read(decoder: _Decoder, node: Json) -> object:
        pairs, *attributes = node["v"]
        made = kind(decoder.pairs(pairs))
        for named in attributes:
            vars(made).update(decoder.value(named))
        return made

    return read


def _read_defaultdict(decoder: _Decoder, node: Json) -> object:
    name, pairs = node["v"]
    return collections.defaultdict(None if name is None else _FACTORIES[name], decoder.pairs(pairs))


_READERS: Mapping[str, Callable[[_Decoder, Json], Any]] = {
    "float": lambda decoder, node: float(node["v"][0]),
    "int": lambda decoder, node: int(node["v"][0], 16),
    "str": lambda decoder, node: base64.b64decode(node["v"][0]).decode("utf-8", "surrogatepass"),
    "dict": lambda decoder, node: decoder.pairs(node["v"]),
    "tuple": lambda decoder, node: tuple(map(decoder.value, node["v"])),
    "set": lambda decoder, node: set(map(decoder.value, node["v"])),
    "frozenset": lambda decoder, node: frozenset(map(decoder.value, node["v"])),
    "OrderedDict": _reader_of_dict(collections.OrderedDict),
    "Counter": _reader_of_dict(collections.Counter),
    "defaultdict": _read_defaultdict,
    "bytes": _Decoder.bytes_of,
    "bytearray": lambda decoder, node: bytearray(decoder.bytes_of(node)),
    "enum": _Decoder.enum,
    "namedtuple": _Decoder.namedtuple,
    "dataclass": _Decoder.dataclass,
    "model": _Decoder.model,
    "array": _Decoder.array,
    "numpy": _Decoder.numpy,
    "tensor": _Decoder.tensor,
    "torch.Size": _Decoder.torch,
    "torch.dtype": _Decoder.torch,
    "torch.device": _Decoder.torch,
    **{tag: _reader_of_parts(build) for tag, _, _, build in PARTS},
}
