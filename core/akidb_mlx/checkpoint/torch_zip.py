"""Weights that torch.save wrote (`pytorch_model.bin`), read as data: without torch, and nothing in them is run.

A view of a storage is checked number by number before it is made. No MLX here.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from akidb_mlx.checkpoint.torch_archive import Archive, NotTensorsError, TornError, open_archive
from akidb_mlx.checkpoint.torch_pickle import MOST_BYTES, Tensor, read_pickle
from akidb_mlx.errors import CheckpointError, UnsupportedModelError

__all__ = ["is_torch_file", "read_torch_arrays", "read_torch_header"]

_KINDS = {
    "BF16": "<u2",
    "BOOL": "u1",
    "F16": "<f2",
    "F32": "<f4",
    "F64": "<f8",
    "I16": "<i2",
    "I32": "<i4",
    "I64": "<i8",
    "I8": "i1",
    "U16": "<u2",
    "U32": "<u4",
    "U64": "<u8",
    "U8": "u1",
}
_MOST_AXES = 32
_MOST_ROWS = 2**31 - 1  # MLX counts each axis in 32 bits
_MOST_NUMBER = 2**63 - 1
_LONGEST_NAME = 1000
# Tied weights are one view under several names. Other views may share bytes, but not without end.
_MOST_SHARING = 2


class _View(NamedTuple):
    """A checked view: offset and strides in bytes of its storage's entry."""

    entry: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    strides: tuple[int, ...]

    @property
    def size(self) -> int:
        return math.prod(self.shape) * np.dtype(_KINDS[self.dtype]).itemsize


def is_torch_file(file: Path) -> bool:
    """Whether its name says that torch.save wrote it."""
    return file.suffix in (".bin", ".pt")


def read_torch_header(file: Path) -> dict[str, dict[str, Any]]:
    """As `safetensors_header.read_header`, whose offsets count from each tensor's own first byte here.

    Raises:
        CheckpointError: the file is torn, or not what torch.save writes.
        UnsupportedModelError: it names what is no tensor (code to run, say), or is of the form before torch 1.6.
    """
    _, views = _open(file)
    return {
        name: {"dtype": view.dtype, "shape": list(view.shape), "data_offsets": [0, view.size]}
        for name, view in views.items()
    }


def read_torch_arrays(file: Path) -> Iterator[tuple[tuple[str, ...], str, NDArray[Any]]]:
    """(names, dtype by safetensors' name, array) of each tensor, those of tied weights once.

    Arrays are contiguous, mapped where the file allows it, else copied; bfloat16 comes as the bits in uint16, bool as
    0 and 1 in uint8. Errors as `read_torch_header`.
    """
    archive, views = _open(file)
    names: dict[_View, list[str]] = {}
    for name, view in views.items():
        names.setdefault(view, []).append(name)
    for view, tied in names.items():
        yield tuple(tied), view.dtype, _array(archive, view)


def _open(file: Path) -> tuple[Archive, dict[str, _View]]:
    try:
        _refuse_old_form(file)
        archive = open_archive(file)
        if "byteorder" in archive.entries and archive.bytes_of("byteorder", 16) != b"little":
            raise TornError("its numbers are not in little-endian order")
        content = read_pickle(archive.bytes_of("data.pkl", MOST_BYTES))
        if not isinstance(content, dict) or not content:
            raise NotTensorsError("does not hold names and tensors")
        views = {_checked_name(name): _check(name, tensor, archive) for name, tensor in content.items()}
        stored = sum(entry.size for entry in archive.entries.values())
        if sum(view.size for view in set(views.values())) > _MOST_SHARING * stored:
            raise TornError("its tensors take far more memory than the file has bytes")
    except NotTensorsError as error:
        raise UnsupportedModelError(
            f"{file} {error}; only plain tensors are read, and nothing of it was run. Take the model's safetensors, or "
            "a file with nothing but its tensors"
        ) from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} is no whole file of torch's ({error}); download it again") from None
    return archive, views


def _refuse_old_form(file: Path) -> None:
    """Before 1.6 torch wrote one pickle behind the other; before 0.2 a tar."""
    with file.open("rb") as stream:
        begin = stream.read(262)
    if begin[:1] == b"\x80" or begin[257:] == b"ustar":
        stem = "model" if file.name == "pytorch_model.bin" else file.stem
        target = file.with_name(f"{stem}.safetensors")
        load = f"torch.load({str(file)!r}, 'cpu', weights_only=True)"
        tensors = f"{{name: tensor.clone().contiguous() for name, tensor in {load}.items()}}"
        command = f"import torch; from safetensors.torch import save_file; save_file({tensors}, {str(target)!r})"
        raise UnsupportedModelError(
            f"{file} is in the form of torch before 1.6, which is not read; convert it where torch is installed: "
            f'python -c "{command}"'
        )


def _checked_name(name: str) -> str:
    if not name.isprintable() or len(name) > _LONGEST_NAME:
        raise TornError("it has a tensor whose name is no text")
    return name


def _check(name: str, tensor: object, archive: Archive) -> _View:
    """Nothing beyond the storage, nothing twice, and each number within its bounds."""
    if not isinstance(tensor, Tensor):
        raise NotTensorsError(f"has {type(tensor).__name__} where tensors are, called {name[:80]}")
    entry, itemsize = f"data/{tensor.storage.key}", np.dtype(_KINDS[tensor.dtype]).itemsize
    if entry not in archive.entries:
        raise TornError(f"it lacks the numbers of {name}")
    size = archive.entries[entry].size
    stated = tensor.storage.elements * (1 if tensor.storage.dtype is None else itemsize)
    if stated != size:
        raise TornError(f"the numbers of {name} should have {stated} bytes and have {size}")
    shape, strides = _counts(tensor.shape, _MOST_ROWS), _counts(tensor.stride, _MOST_NUMBER)
    (offset,) = _counts((tensor.offset,), _MOST_NUMBER)
    if len(shape) != len(strides) or math.prod(rows for rows in shape if rows) > _MOST_NUMBER // itemsize:
        raise TornError(f"{name} has an impossible shape, stride or offset")
    if 0 in shape:
        return _View(entry, tensor.dtype, shape, 0, (itemsize,) * len(shape))
    last = offset + sum((rows - 1) * stride for rows, stride in zip(shape, strides, strict=True))
    if (last + 1) * itemsize > size:
        raise TornError(f"{name} reaches beyond its storage")
    if _meets_itself(shape, strides):
        raise NotTensorsError(f"has a tensor with one number in several places, {name}")
    # An axis of one row is never stepped along, whatever its stride.
    steps = tuple((stride if rows > 1 else 1) * itemsize for rows, stride in zip(shape, strides, strict=True))
    return _View(entry, tensor.dtype, shape, offset * itemsize, steps)


def _counts(numbers: object, most: int) -> tuple[int, ...]:
    """A tuple of whole numbers from 0 to `most`."""
    if type(numbers) is not tuple or len(numbers) > _MOST_AXES:
        raise TornError("it has a tensor with an impossible shape, stride or offset")
    if not all(type(number) is int and 0 <= number <= most for number in numbers):
        raise TornError("it has a tensor with an impossible shape, stride or offset")
    return numbers


def _meets_itself(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether an axis does not step over all that the narrower ones span; so are expanded tensors."""
    span = 0
    for stride, rows in sorted(zip(strides, shape, strict=True)):
        if rows > 1:
            if stride <= span:
                return True
            span += (rows - 1) * stride
    return False


def _array(archive: Archive, view: _View) -> NDArray[Any]:
    kind = np.dtype(_KINDS[view.dtype])
    if 0 in view.shape:
        return np.zeros(view.shape, kind)
    start, size = archive.entries[view.entry]
    # The buffer is the storage alone: NumPy compares strides and offset with it once more.
    array = np.ndarray(view.shape, kind, archive.data[start : start + size], view.offset, view.strides)
    return np.require(array, requirements=["C", "A"])
