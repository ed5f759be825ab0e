"""Every late-interaction model gives MultiVectorEncoder's rows and scores in float32: 1e-5 × max(1, largest)."""

import numpy as np
import pytest

from akidb_mlx.engine.device_threads import DEVICE_THREADS
from akidb_mlx.model.padded_batch import pad_batch
from akidb_mlx.multi_vector_embedder import MultiVectorEmbedder
from support.checkpoints import MULTI_VECTOR_CASES, read_multi_vector_case
from support.comparison import assert_close

SIDES = {"query": "query", "document": "document", "plain": None}
# Two computations of one text in other company; the weights are random, which amplifies rounding.
OURS = 5e-6


@pytest.fixture(scope="module", params=MULTI_VECTOR_CASES)
def case(request):
    folder, facts, arrays, texts = read_multi_vector_case(request.param)
    with MultiVectorEmbedder.load(folder, dtype="float32") as embedder:
        yield embedder, facts, arrays, texts


def encode(embedder, texts, side, **options):
    method = {"query": embedder.encode_query, "document": embedder.encode_document, "plain": embedder.encode}[side]
    return method(texts, **options)


def test_rows_equal_the_references(case):
    """How many vectors each text has, and the vectors, as a query, as a document and as neither."""
    embedder, facts, arrays, texts = case
    assert embedder.dimension == facts["dimension"]
    for side in SIDES:
        found = encode(embedder, texts, side)
        assert found.offsets.tolist() == arrays[f"{side}_offsets"].tolist(), side
        assert found.vectors.dtype == np.float32
        assert_close(found.vectors, arrays[side], 1e-5)
    if "pooled" in arrays:
        found = embedder.encode_document(texts, token_pooling=3)
        assert found.offsets.tolist() == arrays["pooled_offsets"].tolist()
        assert_close(found.vectors, arrays["pooled"], 1e-5)


def test_each_text_alone_equals_the_references(case):
    """Without company: another batch, no padding."""
    embedder, _, _, texts = case
    for side in SIDES:
        whole = encode(embedder, texts, side)
        for place in range(0, len(texts), 4):
            alone = encode(embedder, [texts[place]], side)
            assert_close(alone.vectors, whole[place], OURS)


def test_a_query_beside_documents_equals_the_references(case):
    """In one batch, padded: tokens that nobody sees stay so, and the padding is another thing."""
    embedder, _, arrays, texts = case
    prompts = {side: embedder._prompts.choose(side=side) for side in ("query", "document")}
    queries, documents = (
        embedder._path.encoder.encode(texts, prompt, 0, side).encodings for side, prompt in prompts.items()
    )
    mixed = [*queries, *documents[-4:]]
    padded = pad_batch(mixed, max(map(len, mixed)))
    network = embedder._loaded.engine.live_model
    device = embedder._loaded.recipe.device

    def compute():
        with device.stream():
            return [np.array(part) for part in network(padded)]

    *arrays_, computed = DEVICE_THREADS.run(compute).result()
    rows, finite = network.head.to_host(arrays_, padded, len(queries))
    assert finite.all() and computed.all()
    assert_close(np.concatenate(list(rows)), arrays["query"], 1e-5)


def test_scores_equal_the_references(case):
    embedder, _, arrays, texts = case
    expected = arrays["similarity"]
    real = expected > -1e8
    queries, documents = embedder.encode_query(texts), embedder.encode_document(texts)
    for on_device in (False, True):
        found = embedder.similarity(queries, documents, on_device=on_device)
        assert_close(found[real], expected[real], 1e-5)
        assert (found[~real] == expected[~real]).all()


def test_tokens_equal_the_references(case):
    embedder, facts, _, texts = case
    for side, what in SIDES.items():
        prompt = embedder._prompts.choose(side=what)
        encodings = embedder._path.encoder.encode(texts, prompt, 0, what).encodings
        assert [encoding.token_ids.tolist() for encoding in encodings] == facts["token_ids"][side]
        assert embedder.count_tokens(texts, prompt, side=what) == [len(ids) for ids in facts["token_ids"][side]]


def test_facts_equal_the_references(case):
    embedder, facts, _, _ = case
    assert embedder.info()["similarity"] == facts["similarity"]
    for side, prompt in facts["prompts"].items():
        assert embedder._prompts.choose(side=SIDES[side]) == (prompt or "")
