"""Reading: the text that :mod:`sweep.store.codec` describes on its way to a value."""

from __future__ import annotations

import base64
import collections
import contextlib
import io
import json
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, final

from sweep.errors import StoreCorrupt
from sweep.store import arrays
from sweep.store.blobs import BlobSource
from sweep.store.classes import Classes, make_dataclass, make_enum, make_model, make_namedtuple
from sweep.store.encoding import FACTORIES
from sweep.store.parts import PARTS

__all__ = ["Decoder"]

Json: TypeAlias = Any  # what json.loads gives


@final
class Decoder:
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


def _reader_of_parts(build: Callable[..., object]) -> Callable[[Decoder, Json], object]:
    return lambda decoder, node: build(*map(decoder.value, node["v"]))


def _reader_of_dict(kind: type[Any]) -> Callable[[Decoder, Json], object]:
    def read(decoder: Decoder, node: Json) -> object:
        pairs, *attributes = node["v"]
        made = kind(decoder.pairs(pairs))
        for named in attributes:
            vars(made).update(decoder.value(named))
        return made

    return read


def _read_defaultdict(decoder: Decoder, node: Json) -> object:
    name, pairs = node["v"]
    return collections.defaultdict(None if name is None else FACTORIES[name], decoder.pairs(pairs))


_READERS: Mapping[str, Callable[[Decoder, Json], Any]] = {
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
    "bytes": Decoder.bytes_of,
    "bytearray": lambda decoder, node: bytearray(decoder.bytes_of(node)),
    "enum": Decoder.enum,
    "namedtuple": Decoder.namedtuple,
    "dataclass": Decoder.dataclass,
    "model": Decoder.model,
    "array": Decoder.array,
    "numpy": Decoder.numpy,
    "tensor": Decoder.tensor,
    "torch.Size": Decoder.torch,
    "torch.dtype": Decoder.torch,
    "torch.device": Decoder.torch,
    **{tag: _reader_of_parts(build) for tag, _, _, build in PARTS},
}
