"""SPLADE's head by slices of the vocabulary: the same rows, in bounded memory."""

import mlx.core as mx
import numpy as np
import pytest

from akidb_mlx import SparseEmbedder
from akidb_mlx.checkpoint.heads import SpladeHead
from akidb_mlx.model.heads import splade
from akidb_mlx.model.heads.sparse import SparseHead
from akidb_mlx.model.heads.splade import Splade
from support.checkpoints import read_sparse_case
from support.comparison import assert_close

CONFIG = {"model_type": "bert", "vocab_size": 250_000, "layer_norm_eps": 1e-12, "hidden_act": "gelu"}


@pytest.mark.parametrize("name", ["bert-log1p", "bert-sum", "modernbert-biases", "xlm-roberta"])
def test_slices_give_the_references_rows(name, monkeypatch):
    """Of 7 words and more, the last one shorter, with padding and without."""
    folder, _, arrays, texts = read_sparse_case(name)
    monkeypatch.setattr(splade, "_LEAST_WORDS", 7)
    monkeypatch.setattr(splade, "_CACHE_BYTES", 4 * 24 * 7)
    monkeypatch.setattr(splade, "_SLICE_BYTES", 4 * 24 * 7)
    sliced = []
    weights = Splade._weights
    monkeypatch.setattr(Splade, "_weights", lambda self, *args: (sliced.append(args[2:]), weights(self, *args))[1])
    with SparseEmbedder.load(folder, dtype="float32", max_batch_tokens=200) as embedder:
        assert_close(embedder.encode_document(texts).to_dense(), arrays["document"], 1e-5)
    starts = {start for start, _ in sliced}
    assert {0, 7, 14} <= starts and all(end - start < embedder.dimension for start, end in sliced)


@pytest.mark.parametrize("strategy", ["max", "sum"])
@pytest.mark.parametrize(("rows", "length"), [(1, 16), (4, 256), (256, 256), (1, 8192), (1, 1_000_000)])
def test_memory_is_bounded_whatever_the_vocabulary(strategy, rows, length):
    with mx.stream(mx.cpu):
        head = Splade(CONFIG, 32, SpladeHead(strategy, "relu"))
    for on_cpu in (False, True):
        head._on_cpu = on_cpu
        assert 4 * rows * length * head._words(rows * length) * head._arrays <= 256 << 20
        # Beside what every layer has of its tokens: the rows twice, and a slice.
        assert head.activation_bytes(rows, length) - 4 * rows * length * 3 * 32 <= 2 * 4 * rows * 250_000 + (256 << 20)
    assert head.max_rows * 4 * 250_000 <= 256 << 20


def test_what_is_zero_stays_on_the_device_and_what_is_not_finite_is_told():
    head = SparseHead(5)
    rows = np.array([[0, 2, 0, 0, 3], [0, 0, 0, 0, 0], [1, np.nan, 0, 0, 0], [9, 9, 9, 9, 9]], np.float32)
    given, finite = head.to_host([rows], None, 3)
    assert finite.tolist() == [True, True, False]
    assert given[0][0].tolist() == [1, 4] and given[0][1].tolist() == [2, 3]
    assert given[0][0].dtype == np.int32 and given[0][1].base is None
    assert given[1][0].tolist() == [] and given.shape == (3,)
    assert head.blank(2).tolist() == [None, None]
