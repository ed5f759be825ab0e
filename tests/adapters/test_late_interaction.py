"""Late interaction behind both frameworks: a MultiVectorEmbedder in place of a reranker, real and fake."""

import numpy as np
import pytest
from langchain_core.documents import Document
from llama_index.core.schema import NodeWithScore, TextNode

from akidb_mlx import MultiVectorEmbedder
from akidb_mlx.testing import FakeMultiVectorEmbedder
from langchain_akidb_mlx import AkiDBMLXReranker
from llama_index_akidb_mlx import AkiDBMLXRerank
from support.checkpoints import read_multi_vector_case
from support.comparison import assert_close

FOLDER, FACTS, ARRAYS, TEXTS = read_multi_vector_case("fixed")
PLACE = FACTS["labels"].index("question")
QUERY = TEXTS[PLACE]


@pytest.fixture(scope="module", params=["real", "fake"])
def reranker(request):
    """(a reranker, the texts' scores: the reference's, or the fake's own)."""
    if request.param == "fake":
        fake = FakeMultiVectorEmbedder()
        yield fake, fake.predict([(QUERY, text) for text in TEXTS])
    else:
        with MultiVectorEmbedder.load(FOLDER, dtype="float32") as embedder:
            yield embedder, ARRAYS["similarity"][PLACE]


async def test_langchain(reranker):
    real, expected = reranker
    compressor = AkiDBMLXReranker(reranker=real, top_n=None)
    documents = [Document(text, metadata={"place": place}) for place, text in enumerate(TEXTS)]
    found = compressor.compress_documents(documents, QUERY)
    assert [one.metadata["place"] for one in found] == np.argsort(-expected, kind="stable").tolist()
    scores = [one.metadata["relevance_score"] for one in found]
    assert {type(score) for score in scores} == {float}
    assert_close(scores, np.sort(expected)[::-1], 1e-5)
    again = await compressor.acompress_documents(documents, QUERY)
    assert_close([one.metadata["relevance_score"] for one in again], scores, 1e-5)
    assert_close(compressor.score([(QUERY, text) for text in TEXTS]), expected, 1e-5)


async def test_llama_index(reranker):
    real, expected = reranker
    rerank = AkiDBMLXRerank(reranker=real, top_n=3)
    nodes = [NodeWithScore(node=TextNode(text=text, id_=str(place))) for place, text in enumerate(TEXTS)]
    best = [str(place) for place in np.argsort(-expected, kind="stable")[:3]]
    for found in (
        rerank.postprocess_nodes(nodes, query_str=QUERY),
        await rerank.apostprocess_nodes(nodes, query_str=QUERY),
    ):
        assert [one.node.id_ for one in found] == best
        assert_close([one.score for one in found], np.sort(expected)[::-1][:3], 1e-5)
