"""MaxSim on the device: the numbers of `akidb_mlx.maxsim`, block by block."""

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from akidb_mlx.maxsim import EMPTY_DOCUMENT
from akidb_mlx.multi_vectors import MultiVectors

__all__ = ["maxsim_block"]


def maxsim_block(queries: MultiVectors, documents: MultiVectors) -> NDArray[np.float32]:
    """(n, m) float32 sums of n queries and m documents; call it on a thread that touches MLX.

    The products are as many numbers as the texts have vectors once each side is padded to its longest.
    """
    some, _ = _padded(queries)
    others, lengths = _padded(documents)
    flat = some.reshape(-1, some.shape[2])
    products = others @ flat.T  # (documents, longest document, all queries' tokens)
    real = mx.arange(others.shape[1])[None, :] < lengths[:, None]
    best = mx.where(real[:, :, None], products, -mx.inf).max(axis=1)
    # Padding of a query is zero vectors: with any document's vector they give 0.
    sums = best.reshape(len(documents), *some.shape[:2]).sum(axis=2)
    return np.array(mx.where(lengths[:, None] > 0, sums, float(EMPTY_DOCUMENT)).T)


def _padded(texts: MultiVectors) -> tuple[mx.array, mx.array]:
    """(texts, longest, dimension) with zeros after each text's vectors, at least one; (texts,) lengths."""
    lengths = np.diff(texts.offsets)
    padded = np.zeros((len(texts), max(1, int(lengths.max(initial=0))), texts.dimension), np.float32)
    padded[np.arange(padded.shape[1]) < lengths[:, None]] = texts.vectors
    return mx.array(padded), mx.array(lengths.astype(np.int32))
