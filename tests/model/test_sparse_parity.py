"""Every reference sparse encoder gives SparseEncoder's rows, in float32: largest difference 1e-5 × max(1, largest)."""

import numpy as np
import pytest

from akidb_mlx import SparseEmbedder, SparseRows
from akidb_mlx.checkpoint.heads import SpladeHead
from akidb_mlx.checkpoint.sparse_facts import read_sparse_checkpoint
from akidb_mlx.model.heads.masked_lm import MASKED_LMS
from support.checkpoints import SPARSE, SPARSE_CASES, read_sparse_case
from support.comparison import assert_close

FEW = 5  # entries that the reference's `few` have


def load(folder, facts, **fields):
    """A plain masked language model needs to be told what the reference takes by itself."""
    return SparseEmbedder.load(folder, pooling="splade_max" if facts["plain"] else None, **fields)


@pytest.fixture(scope="module", params=SPARSE_CASES)
def case(request):
    folder, facts, arrays, texts = read_sparse_case(request.param)
    with load(folder, facts, dtype="float32") as embedder:
        yield embedder, facts, arrays, texts


def assert_rows(rows, expected):
    """Equal within the bound, and zero where the reference's are, but for what rounding decides."""
    assert isinstance(rows, SparseRows) and rows.dimension == expected.shape[1]
    assert rows.values.all() and rows.values.dtype == np.float32 and rows.indices.dtype == np.int32
    assert all((np.diff(indices) > 0).all() for indices, _ in rows)
    assert_close(rows.to_dense(), expected, 1e-5)
    assert ((rows.to_dense() != 0) != (expected != 0)).sum() <= 2


def test_rows_equal_the_references(case):
    """Each way the file has: of documents, of queries, of neither, with another prompt, with fewer entries."""
    embedder, facts, arrays, texts = case
    assert_rows(embedder.encode_document(texts), arrays["document"])
    assert_rows(embedder.encode_query(texts), arrays.get("query", arrays["document"]))
    assert_rows(embedder.encode_document(texts, max_active_dims=FEW), arrays["few"])
    if facts["case"] != "distilbert-no-default-route":
        assert_rows(embedder.encode(texts), arrays.get("embeddings", arrays["document"]))
    for name in arrays:
        if name.startswith("prompt_"):
            assert_rows(embedder.encode(texts, prompt_name=name.removeprefix("prompt_")), arrays[name])


def test_similarities_equal_the_references(case):
    embedder, _, arrays, texts = case
    found = embedder.similarity(embedder.encode_query(texts[:8]), embedder.encode_document(texts[:8]))
    assert found.dtype == np.float32 and found.shape == (8, 8)
    # The reference's distances are roots of differences of squares, which float32 rounds.
    assert_close(found, arrays["similarity"], 1e-5 if embedder._checkpoint.similarity != "euclidean" else 2e-4)


def test_facts_equal_the_references(case):
    embedder, facts, _, texts = case
    assert embedder.dimension == facts["dimension"]
    assert embedder.max_active_dims == facts["max_active_dims"]
    assert embedder.max_seq_length == facts["max_seq_length"]
    assert embedder.info()["similarity"] == facts["similarity"]
    assert embedder._prompts.query == facts["prompts"]["query"]
    assert embedder._prompts.document == facts["prompts"]["document"]
    if isinstance(embedder._loaded.recipe.head, SpladeHead):
        decoded = embedder.decode(embedder.encode_document(texts[:8]), top_k=4)
        assert [[token for token, _ in row] for row in decoded] == facts["decoded"]


def test_tokens_equal_the_references(case):
    embedder, facts, _, texts = case
    encoder, static = embedder._path.encoder, embedder._static
    documents = encoder.encode(texts, embedder._prompts.document, side="document").encodings
    assert [encoding.token_ids.tolist() for encoding in documents] == facts["document_token_ids"]
    prompted = [embedder._prompts.query + text for text in texts]
    if static is None:
        queries = [encoding.token_ids for encoding in encoder.encode(prompted, "", side="query").encodings]
    else:
        queries, _ = static._token_ids(prompted, 0)
    assert [ids.tolist() for ids in queries] == facts["query_token_ids"]


def test_each_text_alone_equals_the_references(case):
    """Without company: another batch, no padding."""
    embedder, _, arrays, texts = case
    for place in range(0, len(texts), 4):
        row = embedder.encode_document([texts[place]]).to_dense()
        bound = 1e-5 * max(1.0, np.abs(arrays["document"]).max())
        assert np.abs(row[0] - arrays["document"][place]).max() <= bound


def test_every_head_has_a_case():
    read = [read_sparse_checkpoint(SPARSE / name) for name in SPARSE_CASES]
    assert set(MASKED_LMS) <= {one.model_type for one in read if isinstance(one.head, SpladeHead)}


@pytest.mark.parametrize(("name", "least"), [("bert-fp16", 0.9999), ("bert-bf16", 0.97)])
def test_stored_in_16_bit(name, least):
    """The reference computes its head in 16 bit, too; here that is so on GPUs alone."""
    folder, facts, arrays, texts = read_sparse_case(name)
    with load(folder, facts) as embedder:
        found, expected = embedder.encode_document(texts).to_dense(), arrays["stored_dtype_document"]
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    assert ((found * expected).sum(axis=1) / lengths).min() >= least
