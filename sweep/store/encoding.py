"""Writing: a value on its way to the text that :mod:`sweep.store.codec` describes."""

from __future__ import annotations

import base64
import collections
import dataclasses
import enum
import json
import math
import re
import reprlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias, final

from sweep.errors import NotStorable, StoreCorrupt
from sweep.store import arrays
from sweep.store.blobs import BlobSink, MemoryBlobs
from sweep.store.classes import (
    BUILTINS,
    Classes,
    class_path,
    is_model,
    is_namedtuple,
    make_dataclass,
    make_enum,
    make_model,
    other_attributes,
    remedy,
)
from sweep.store.parts import PARTS

__all__ = ["EXACT_TYPES", "FACTORIES", "INLINE_BYTES", "JSON", "MAX_DEPTH", "Encoder", "is_plain", "is_unicode"]

INLINE_BYTES = 2048
"""Arrays, tensors and bytes of at most this size stand in the text, longer ones in blobs."""

MAX_DEPTH = 100
"""Containers in containers; deeper values are refused, so that reading never exhausts the stack."""

FACTORIES: Mapping[str, Any] = {kind.__name__: kind for kind in (bool, dict, float, int, list, set, str)}
"""What a stored ``defaultdict`` may make its values with."""

JSON = json.JSONEncoder(ensure_ascii=False, check_circular=False, allow_nan=False, separators=(",", ":"))
"""Writes the trees of :class:`Encoder`."""

Json: TypeAlias = Any  # what json.dumps takes as it is
_INT_LIMIT = 1 << 63
_SURROGATE = re.compile("[\ud800-\udfff]")


def is_plain(value: object, depth: int) -> bool:
    """Tell whether json writes ``value`` as it is, but for NaN, infinity and lone surrogates."""
    items: Iterable[object]
    if type(value) is dict:
        if not all(type(key) is str and key != "$" for key in value):
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
        if (kind is dict or kind is list) and depth and is_plain(item, depth - 1):
            continue
        return False
    return True


@final
class Encoder:
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
        return JSON.encode(tree)

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
            return _write_numpy(self, value)
        if package == "torch":
            return _write_torch(self, value)
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
        if not all(type(key) is str and key != "$" and is_unicode(key) for key in mapping):
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
        return sorted(nodes, key=JSON.encode)

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
                texts.append(Encoder(MemoryBlobs(), self._classes, "", verify=False).text(value))
            except NotStorable:
                return False
        return texts[0] == texts[1]

    # torch

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


def _write_int(_: Encoder, value: int) -> Json:
    return value if -_INT_LIMIT <= value < _INT_LIMIT else {"$": "int", "v": [hex(value)]}


def _write_float(_: Encoder, value: float) -> Json:
    return value if math.isfinite(value) else {"$": "float", "v": [repr(value)]}


def _write_str(_: Encoder, value: str) -> Json:
    return value if is_unicode(value) else {"$": "str", "v": [_base64(value.encode("utf-8", "surrogatepass"))]}


def _write_as_it_is(_: Encoder, value: object) -> Json:
    return value


def _write_defaultdict(encoder: Encoder, value: collections.defaultdict[Any, Any]) -> Json:
    factory = value.default_factory
    name = getattr(factory, "__name__", None)
    if factory is not None and FACTORIES.get(str(name)) is not factory:
        raise encoder._refusal(type(value), "its default_factory is no builtin type; return dict(value)")
    return encoder.write_special_dict(value, name)


def _write_bytes(encoder: Encoder, value: bytes | bytearray) -> Json:
    tag = type(value).__name__
    if len(value) <= INLINE_BYTES:
        return {"$": tag, "v": [_base64(value)]}
    return {"$": tag, "b": encoder._blobs.put(value, ".bin")}


def _write_numpy(encoder: Encoder, value: Any) -> Json:
    import numpy

    kind = type(value)
    if kind is numpy.ndarray:
        return _write_array(encoder, value)
    if not isinstance(value, numpy.generic):
        raise encoder._refusal(kind, "return a plain array: numpy.array(value)")
    name = "bool" if kind is numpy.bool_ else kind.__name__
    plain = value.item()
    if isinstance(value, str):  # neither item() nor an array keeps zeros at the end
        plain = "".join(value)
    elif isinstance(value, bytes):
        plain = bytes(value)
    elif type(plain) not in (bool, int, float) or isinstance(value, numpy.datetime64 | numpy.timedelta64):
        plain = numpy.asarray(value)
    return {"$": "numpy", "v": [name, encoder.value(plain)]}


def _write_array(encoder: Encoder, value: Any) -> Json:
    refused = arrays.array_refusal(value)
    if refused:
        raise encoder._refusal(type(value), refused)
    if value.nbytes <= INLINE_BYTES:
        return {"$": "array", "v": [_base64(b"".join(arrays.array_chunks(value)))]}
    return {"$": "array", "b": encoder._blobs.put(arrays.array_chunks(value), ".npy")}


def _write_torch(encoder: Encoder, value: Any) -> Json:
    import torch

    kind = type(value)
    if kind is torch.Size:
        return {"$": "torch.Size", "v": list(value)}
    if kind in (torch.dtype, torch.device):
        return {"$": f"torch.{kind.__name__}", "v": [str(value).removeprefix("torch.")]}
    if kind not in (torch.Tensor, torch.nn.Parameter):
        raise encoder._refusal(kind, remedy(kind))
    refused = arrays.tensor_refusal(value)
    if refused:
        raise encoder._refusal(kind, refused)
    node = encoder._tensor(value)
    form = {"p": kind is torch.nn.Parameter, "g": value.requires_grad, "at": str(value.device)}
    node.update({key: part for key, part in form.items() if part and part != "cpu"})
    return node


def _writer_of_parts(tag: str, split: Callable[[Any], Iterable[object]]) -> Callable[[Encoder, Any], Json]:
    return lambda encoder, value: encoder.write_parts(tag, value, split)


_WRITERS: Mapping[type, Callable[[Encoder, Any], Json]] = {
    type(None): _write_as_it_is,
    bool: _write_as_it_is,
    int: _write_int,
    float: _write_float,
    str: _write_str,
    dict: Encoder.write_dict,
    list: Encoder.write_list,
    tuple: Encoder.write_tuple,
    set: Encoder.write_set,
    frozenset: Encoder.write_set,
    bytes: _write_bytes,
    bytearray: _write_bytes,
    collections.OrderedDict: Encoder.write_special_dict,
    collections.Counter: Encoder.write_special_dict,
    collections.defaultdict: _write_defaultdict,
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


def is_unicode(text: str) -> bool:
    """Tell whether a string has no lone surrogates."""
    return text.isascii() or _SURROGATE.search(text) is None


def _base64(data: bytes | bytearray) -> str:
    return base64.b64encode(data).decode("ascii")
