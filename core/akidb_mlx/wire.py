"""Rows as bytes: what `POST /api/v1/rows` answers, written by the server and read by the remote classes. Pure NumPy."""

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from akidb_mlx.errors import InputError
from akidb_mlx.multi_vectors import MultiVectors
from akidb_mlx.sparse_rows import SparseRows

__all__ = [
    "ARRAYS",
    "DIMENSION",
    "ERROR",
    "FINGERPRINT",
    "MAX_SEQ_LENGTH",
    "TOKENS",
    "TRUNCATED",
    "arrays_of",
    "pack",
    "unpack",
]

# Headers of an answer.
ARRAYS: Final = "X-Akidb-Arrays"
"""The arrays of the body in turn, each `NAME DTYPE SIZE…`, with "; " between them."""
DIMENSION: Final = "X-Akidb-Dimension"
FINGERPRINT: Final = "X-Akidb-Fingerprint"
TOKENS: Final = "X-Akidb-Tokens"
"""What the model read."""
TRUNCATED: Final = "X-Akidb-Truncated-Texts"
MAX_SEQ_LENGTH: Final = "X-Akidb-Max-Seq-Length"
"""Where those texts were cut."""
ERROR: Final = "X-Akidb-Error"
"""The class of an error, of `akidb_mlx.errors`."""

_DTYPES = frozenset({"float16", "float32", "int32", "int64", "uint8"})
Arrays = Mapping[str, NDArray[Any]]


def arrays_of(rows: NDArray[np.float32] | SparseRows | MultiVectors) -> dict[str, NDArray[Any]]:
    """The arrays that make rows of any form: `rows` (n, dimension) or (n,), or those of the form's class."""
    if isinstance(rows, SparseRows):
        return {"indptr": rows.indptr, "indices": rows.indices, "values": rows.values}
    if isinstance(rows, MultiVectors):
        return {"vectors": rows.vectors, "offsets": rows.offsets}
    return {"rows": rows}


def pack(arrays: Arrays) -> tuple[str, bytes]:
    """The header that describes them, and their numbers one after the other: little endian, rows first (C order)."""
    described = "; ".join(" ".join([name, str(one.dtype), *map(str, one.shape)]) for name, one in arrays.items())
    return described, b"".join(one.astype(one.dtype.newbyteorder("<"), copy=False).tobytes() for one in arrays.values())


def unpack(described: str, body: bytes) -> dict[str, NDArray[Any]]:
    """`pack`'s arrays, which are read-only; InputError where header and body do not fit."""
    arrays: dict[str, NDArray[Any]] = {}
    start = 0
    for one in described.split("; "):
        name, dtype, *sizes = one.split(" ")
        if dtype not in _DTYPES or not all(size.isdecimal() for size in sizes):
            raise InputError(f"the answer describes an array that cannot be read: {one!r}")
        shape = tuple(map(int, sizes))
        count, item = math.prod(shape), np.dtype(dtype).newbyteorder("<")
        end = start + count * item.itemsize
        if end > len(body):
            raise InputError(f"the answer has {len(body)} bytes, which are too few for {described}")
        arrays[name] = np.frombuffer(body, item, count, start).reshape(shape).astype(dtype, copy=False)
        start = end
    if start != len(body):
        raise InputError(f"the answer has {len(body)} bytes, of which {described} are {start}")
    return arrays
