"""numpy arrays and torch tensors as bytes, in the formats that other tools open too.

An array is written as ``.npy`` (format versions 1.0 and 3.0, see numpy's
``numpy.lib.format``), the tensors of one value together as one ``.safetensors``
file (https://github.com/huggingface/safetensors, "Format"). Both are written and
read piece by piece, so that a value of any size costs its own memory once.

The header of ``.npy`` is written here and not by numpy, so that the same array
has the same bytes, and with them the same address, under every version of numpy.
"""

from __future__ import annotations

import io
import json
import math
import tokenize
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, final

from sweep.errors import MissingExtra

if TYPE_CHECKING:
    import numpy
    import torch

__all__ = [
    "TensorFile",
    "array_chunks",
    "array_refusal",
    "finished_tensor",
    "new_tensor",
    "read_array",
    "tensor_chunks",
    "tensor_dtype",
    "tensor_file_chunks",
    "tensor_refusal",
]

_PIECE = 4 << 20  # bytes handled at once
_MAX_NPY_HEADER = 10_000  # numpy refuses to read a longer one
_ARRAY_KINDS = "biufcSUVmM"
_MAX_TENSOR_HEADER = 100 << 20  # as in safetensors' own reader
_SAFETENSORS = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "uint16": "U16",
    "int16": "I16",
    "uint32": "U32",
    "int32": "I32",
    "uint64": "U64",
    "int64": "I64",
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "float64": "F64",
    "complex64": "C64",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
}
# torch's dtypes that safetensors has no name for: written there as flat bytes.
_OTHER_DTYPES = frozenset({"complex32", "complex128", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"})


def array_refusal(array: numpy.ndarray[Any, Any]) -> str:
    """Return why ``array`` cannot be written, as a remedy, or ``""``."""
    import numpy

    dtype = array.dtype
    if dtype.hasobject:
        return "an array of dtype object holds anything; give it a real dtype, or return array.tolist()"
    if dtype.kind not in _ARRAY_KINDS:
        return f"the .npy format has no dtype {dtype}; convert the array with astype"
    if _has_holes(dtype):
        return "its dtype has unused bytes between fields; use numpy.lib.recfunctions.repack_fields(array)"
    try:
        same = numpy.lib.format.descr_to_dtype(numpy.lib.format.dtype_to_descr(dtype)) == dtype
    except (TypeError, ValueError):
        same = False
    if not same or len(_npy_header(array)) > _MAX_NPY_HEADER:
        return f"the .npy format cannot describe dtype {dtype}; convert the array with astype"
    return ""


def array_chunks(array: numpy.ndarray[Any, Any]) -> Iterator[bytes]:
    """Yield the ``.npy`` bytes of ``array``, a few megabytes at a time.

    Args:
        array: Any shape, any dtype that :func:`array_refusal` lets pass; Fortran order is kept.
    """
    import numpy

    yield _npy_header(array)
    pieces = numpy.nditer(
        array,
        flags=["external_loop", "buffered", "zerosize_ok"],
        buffersize=_PIECE // array.dtype.itemsize if array.dtype.itemsize else 0,
        order="F" if _is_fortran(array) else "C",
    )
    for piece in pieces:  # one operand, so arrays, whatever numpy's stubs say
        yield numpy.asarray(piece).tobytes("C")


def read_array(file: BinaryIO) -> numpy.ndarray[Any, Any]:
    """Read an array from ``.npy`` bytes; never unpickles.

    Raises:
        ValueError: These are no ``.npy`` bytes, or they hold objects.
    """
    import numpy

    array: numpy.ndarray[Any, Any]
    try:
        array = numpy.lib.format.read_array(file, allow_pickle=False, max_header_size=_MAX_NPY_HEADER)
    except (SyntaxError, tokenize.TokenError, MemoryError, OverflowError) as error:  # how numpy meets a damaged header
        raise ValueError(f"these are no .npy bytes: {error}") from error
    return array


def tensor_refusal(tensor: torch.Tensor) -> str:
    """Return why ``tensor`` cannot be written, as a remedy, or ``""``."""
    import torch

    if tensor.layout != torch.strided:
        return f"a tensor of layout {tensor.layout} is not stored; return tensor.to_dense()"
    if not tensor.is_leaf or tensor.grad is not None:
        return "its autograd history would be lost; return tensor.detach()"
    if tensor.device.type == "meta":
        return "a tensor on the meta device has no values"
    if tensor.is_quantized or tensor_dtype(tensor) not in {*_SAFETENSORS, *_OTHER_DTYPES}:
        return f"a tensor of dtype {tensor.dtype} is not stored; convert it to another dtype"
    return ""


def tensor_dtype(tensor: torch.Tensor) -> str:
    """Return the dtype's name, for example ``"bfloat16"``."""
    return str(tensor.dtype).removeprefix("torch.")


def tensor_chunks(tensor: torch.Tensor) -> Iterator[memoryview]:
    """Yield the tensor's bytes in C order, at most a few megabytes copied at a time.

    Raises:
        MissingExtra: numpy is not installed; torch hands its memory out through it.
    """
    try:
        import numpy  # noqa: F401 - only to say at once, and in our words, that it is missing
    except ImportError as error:
        raise MissingExtra("storing a tensor", "numpy", "torch") from error
    for slab in _slabs(tensor.detach()):
        yield _raw(slab.cpu().contiguous().resolve_conj().resolve_neg())


def tensor_file_chunks(tensors: Sequence[torch.Tensor]) -> Iterator[bytes | memoryview]:
    """Yield the bytes of a ``.safetensors`` file with ``tensors`` under the names ``"0"``, ``"1"``, ….

    Wide dtypes come first, so that each tensor is aligned to its own item size.
    """
    order = sorted(range(len(tensors)), key=lambda index: -tensors[index].dtype.itemsize)
    entries: dict[str, object] = {}
    end = 0
    for index in order:
        tensor, start = tensors[index], end
        size = tensor.numel() * tensor.dtype.itemsize
        known = _SAFETENSORS.get(tensor_dtype(tensor))
        shape = list(tensor.shape) if known else [size]
        end = start + size
        entries[str(index)] = {"dtype": known or "U8", "shape": shape, "data_offsets": [start, end]}
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    yield len(header).to_bytes(8, "little") + header
    for index in order:
        yield from tensor_chunks(tensors[index])


@final
class TensorFile:
    """A ``.safetensors`` file open for reading.

    Args:
        file: At its start; stays the caller's to close.

    Raises:
        ValueError: This is no such file.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        length = int.from_bytes(file.read(8), "little")
        if length > _MAX_TENSOR_HEADER:
            raise ValueError("no safetensors file: its header is too long")
        self._entries = json.loads(file.read(length))
        self._start = 8 + length
        self._size = file.seek(0, io.SEEK_END) - self._start

    def read(self, name: str, dtype: str, shape: Sequence[int]) -> torch.Tensor:
        """Return the tensor ``name`` in memory of its own, on the CPU.

        Raises:
            KeyError: No tensor of that name.
            ValueError: It has another size, or lies outside the file.
        """
        start, end = self._entries[name]["data_offsets"]
        if not 0 <= start <= end <= self._size:
            raise ValueError(f"tensor {name!r} lies outside its file")
        self._file.seek(self._start + start)
        return new_tensor(dtype, shape, self._pieces(end - start), end - start)

    def _pieces(self, size: int) -> Iterator[bytes]:
        while size > 0:
            piece = self._file.read(min(size, _PIECE))
            if not piece:
                return
            size -= len(piece)
            yield piece


def new_tensor(dtype: str, shape: Sequence[int], pieces: Iterable[bytes], size: int) -> torch.Tensor:
    """Return a new CPU tensor filled with ``pieces``, which are ``size`` bytes together.

    Raises:
        ValueError: ``dtype`` is unknown, or ``shape`` does not take exactly ``size`` bytes.
    """
    import torch

    if dtype not in _SAFETENSORS and dtype not in _OTHER_DTYPES:
        raise ValueError(f"no dtype of a stored tensor: {dtype!r}")
    kind: torch.dtype = getattr(torch, dtype)
    if any(type(extent) is not int or extent < 0 for extent in shape) or math.prod(shape) * kind.itemsize != size:
        raise ValueError(f"{size} bytes do not make a {dtype} tensor of shape {list(shape)}")
    flat = torch.empty(size, dtype=torch.uint8)  # as bytes, because the experimental dtypes warn when made
    memory, at = _raw(flat), 0
    for piece in pieces:
        memory[at : at + len(piece)] = piece
        at += len(piece)
    if at != size:
        raise ValueError(f"{at} of {size} bytes of a tensor are there")
    return flat.view(kind).reshape(tuple(shape)) if size else torch.empty(tuple(shape), dtype=kind)


def finished_tensor(tensor: torch.Tensor, is_parameter: bool, requires_grad: bool, device: str) -> torch.Tensor:
    """Return ``tensor`` as it was: a parameter or not, on its device if this machine has that, else on the CPU."""
    import torch

    if device != "cpu" and _exists(torch.device(device)):
        tensor = tensor.to(device)
    if is_parameter:
        return torch.nn.Parameter(tensor, requires_grad)
    return tensor.requires_grad_() if requires_grad else tensor


def _exists(device: torch.device) -> bool:
    import torch

    if device.type == "cuda":
        return torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()
    return device.type == "mps" and torch.backends.mps.is_available()


def _npy_header(array: numpy.ndarray[Any, Any]) -> bytes:
    """Return magic, version, and the header padded so that the data starts at a multiple of 64."""
    import numpy

    described = repr(
        {
            "descr": numpy.lib.format.dtype_to_descr(array.dtype),
            "fortran_order": _is_fortran(array),
            "shape": tuple(int(extent) for extent in array.shape),
        }
    )
    plain = described.isascii() and len(described) < 0xFF00
    version, width, coded = (b"\x01\x00", 2, "ascii") if plain else (b"\x03\x00", 4, "utf-8")
    text = described.encode(coded)
    text += b" " * (-(6 + 2 + width + len(text) + 1) % 64) + b"\n"
    return b"\x93NUMPY" + version + len(text).to_bytes(width, "little") + text


def _has_holes(dtype: numpy.dtype[Any]) -> bool:
    """Tell whether a structured dtype has padding, whose bytes are nobody's (and differ from time to time)."""
    if dtype.subdtype is not None:
        return _has_holes(dtype.subdtype[0])
    if dtype.names is None:
        return False
    inner = [dtype[name] for name in dtype.names]
    return sum(field.itemsize for field in inner) != dtype.itemsize or any(map(_has_holes, inner))


def _is_fortran(array: numpy.ndarray[Any, Any]) -> bool:
    return bool(array.flags.f_contiguous and not array.flags.c_contiguous)


def _slabs(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """Cut ``tensor`` along its first dimensions into parts of at most a few megabytes, in C order."""
    import torch

    size = tensor.numel() * tensor.dtype.itemsize
    if size <= _PIECE or tensor.dim() == 0:
        yield tensor
        return
    rows = max(1, _PIECE * tensor.shape[0] // size)
    for part in torch.split(tensor, rows):
        yield from _slabs(part[0] if part.shape[0] == 1 else part)


def _raw(tensor: torch.Tensor) -> memoryview:
    """Return the memory of a contiguous CPU tensor, flat, as bytes; nothing is copied."""
    import torch

    flat: Any = tensor.reshape(-1).view(torch.uint8).numpy()  # numpy's stubs hide the buffer it is
    return memoryview(flat)
