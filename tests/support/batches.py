"""Batches for a backbone alone."""

import mlx.core as mx
import numpy as np

from akidb_mlx.model.device_batch import DeviceBatch
from akidb_mlx.model.encoding import Encoding
from akidb_mlx.model.padded_batch import pad_batch


def batch_of(rows):
    """Token ids of one length."""
    return DeviceBatch.of(pad_batch([Encoding(np.array(row, np.int32)) for row in rows], len(rows[0])))


def peak_bytes(model, rows, length):
    """MLX's count of what a batch takes at its peak, whose last row is a token shorter; call it on a device thread."""
    lengths = [length] * (rows - 1) + [length - 1]
    batch = pad_batch([Encoding(np.full(count, 5, np.int32)) for count in lengths], length)
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    mx.eval(model(batch))
    return mx.get_peak_memory() - before
