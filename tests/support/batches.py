"""Batches for a backbone alone."""

import numpy as np

from akidb_mlx.model.device_batch import DeviceBatch
from akidb_mlx.model.encoding import Encoding
from akidb_mlx.model.padded_batch import pad_batch


def batch_of(rows):
    """Token ids of one length."""
    return DeviceBatch.of(pad_batch([Encoding(np.array(row, np.int32)) for row in rows], len(rows[0])))
