"""MaxSim by the device threads: blocks of bounded size, between which batches go on."""

from functools import partial

import numpy as np
from numpy.typing import NDArray

from akidb_mlx.device.choice import Device
from akidb_mlx.engine.device_threads import DEVICE_THREADS
from akidb_mlx.maxsim import Similarity, finish_scores, refuse_other_widths
from akidb_mlx.multi_vectors import MultiVectors
from akidb_mlx.vectors import Embeddings

__all__ = ["device_maxsim"]

# float32 numbers of one block, products and padded vectors together (256 MiB).
_BLOCK = 2**26


def device_maxsim(queries: MultiVectors, documents: MultiVectors, similarity: Similarity, device: Device) -> Embeddings:
    """`akidb_mlx.maxsim.maxsim`, computed on the device."""
    refuse_other_widths(queries, documents)
    scores = np.empty((len(queries), len(documents)), np.float32)
    # By length, so that little is padded.
    order = np.argsort(np.diff(documents.offsets), kind="stable")
    for some in _cut(np.diff(queries.offsets), int(_BLOCK**0.5) // 4, queries.dimension):
        part = queries[some]
        tokens = len(part) * max(1, int(np.diff(part.offsets).max(initial=0)))
        for block in _cut(np.diff(documents.offsets)[order], _BLOCK, tokens + documents.dimension):
            places = order[block]
            others = MultiVectors.of([documents[int(place)] for place in places], documents.dimension)
            scores[some, places] = DEVICE_THREADS.run(partial(_run, part, others, device)).result()
    return finish_scores(scores, queries, similarity)


def _cut(lengths: NDArray[np.int64], most: int, per_token: int) -> list[slice]:
    """Texts in turn whose padded tokens × `per_token` are at most `most`, or one text."""
    blocks: list[slice] = []
    start = longest = 0
    for place, length in enumerate(lengths.tolist()):
        longest = max(longest, length, 1)
        if place > start and (place - start + 1) * longest * per_token > most:
            blocks.append(slice(start, place))
            start, longest = place, max(length, 1)
    return [*blocks, slice(start, len(lengths))] if len(lengths) else []


def _run(queries: MultiVectors, documents: MultiVectors, device: Device) -> Embeddings:
    from akidb_mlx.model.maxsim import maxsim_block

    with device.stream():
        return maxsim_block(queries, documents)
