"""Real clients of rerank APIs against the server: each gets its order, its scores and its reasons."""

import importlib.util

import pytest

from akidb_mlx import RerankerConfig
from support.packages import needs
from support.reranker import StandIn, logit, sigmoid
from support.serving import serving

QUERY = "who repairs a broken grinder"
TEXTS = ["Parcels go by freight.", "a grinder", "we know who repairs a broken grinder", "", "who repairs a bike"]
BEST = sorted(range(len(TEXTS)), key=lambda index: -logit(QUERY, TEXTS[index]))
SCORES = pytest.approx([sigmoid(logit(QUERY, TEXTS[index])) for index in BEST], abs=1e-6)

# Their own code warns: of fields that it will rename, of sockets that it leaves open.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def server():
    with serving({"ce": RerankerConfig(model="stand-in")}, api_key="sesame", load=StandIn) as running:
        yield running


@pytest.fixture
def full(server):
    """The server, whose queue is full for once."""
    with server.client() as client:
        client.post("/rerank", {"query": "a", "texts": ["b"]}, {"Authorization": "Bearer sesame"})
    model = next(server.state.models.loaded).model
    model.full = True
    yield server
    model.full = False


# cohere


def test_coheres_sdk_v2(server):
    needs("cohere")
    import cohere

    client = cohere.ClientV2("sesame", base_url=server.url)
    answer = client.rerank(model="ce", query=QUERY, documents=TEXTS)
    assert [result.index for result in answer.results] == BEST
    assert [result.relevance_score for result in answer.results] == SCORES
    assert answer.id.startswith("rerank-")
    assert answer.meta.billed_units.search_units == 1
    assert answer.meta.tokens.input_tokens > 0
    answer = client.rerank(model="ce", query=QUERY, documents=TEXTS, top_n=2, max_tokens_per_doc=4096, priority=1)
    assert [result.index for result in answer.results] == BEST[:2]
    with pytest.raises(cohere.BadRequestError, match="at least 1 item"):
        client.rerank(model="ce", query=QUERY, documents=[])
    with pytest.raises(cohere.NotFoundError, match="no model is served as 'rerank-v3.5'; there is ce"):
        client.rerank(model="rerank-v3.5", query=QUERY, documents=TEXTS)
    with pytest.raises(cohere.UnauthorizedError):
        cohere.ClientV2("wrong", base_url=server.url).rerank(model="ce", query=QUERY, documents=TEXTS)


def test_coheres_sdk_v1(server):
    needs("cohere")
    import cohere

    client = cohere.Client("sesame", base_url=server.url)
    given = [{"text": text} if index % 2 else text for index, text in enumerate(TEXTS)]
    answer = client.rerank(model="ce", query=QUERY, documents=given, rank_fields=["text"], return_documents=True)
    assert [result.index for result in answer.results] == BEST
    assert [result.document.text for result in answer.results] == [TEXTS[index] for index in BEST]
    answer = client.rerank(model="ce", query=QUERY, documents=TEXTS, top_n=1, max_chunks_per_doc=10)
    assert [(result.index, result.document) for result in answer.results] == [(BEST[0], None)]


def test_coheres_sdk_hears_when_to_come_back(full):
    needs("cohere")
    import cohere

    with pytest.raises(cohere.TooManyRequestsError, match="max_queued_tokens"):
        cohere.ClientV2("sesame", base_url=full.url).rerank(
            model="ce", query="a", documents=["b"], request_options={"max_retries": 0}
        )


async def test_langchains_cohere_rerank(server):
    needs("langchain_cohere")
    from langchain_cohere import CohereRerank
    from langchain_core.documents import Document

    reranker = CohereRerank(model="ce", cohere_api_key="sesame", base_url=server.url, top_n=3)
    documents = [Document(text, metadata={"place": index}) for index, text in enumerate(TEXTS)]
    for found in (reranker.compress_documents(documents, QUERY), await reranker.acompress_documents(documents, QUERY)):
        assert [document.metadata["place"] for document in found] == BEST[:3]
        scores = [document.metadata["relevance_score"] for document in found]
        assert scores == pytest.approx([sigmoid(logit(QUERY, TEXTS[index])) for index in BEST[:3]], abs=1e-6)
    assert [result["index"] for result in reranker.rerank(TEXTS, QUERY, top_n=None)] == BEST


# LlamaIndex


def nodes():
    from llama_index.core.schema import NodeWithScore, TextNode

    return [NodeWithScore(node=TextNode(id_=str(index), text=text), score=0.5) for index, text in enumerate(TEXTS)]


def check_nodes(reranker, scores=SCORES):
    found = reranker.postprocess_nodes(nodes(), query_str=QUERY)
    assert [int(node.node.node_id) for node in found] == BEST
    assert [node.score for node in found] == scores


def test_llamaindexs_cohere_rerank(server):
    needs("llama_index.postprocessor.cohere_rerank")
    from llama_index.postprocessor.cohere_rerank import CohereRerank

    check_nodes(CohereRerank(model="ce", api_key="sesame", base_url=server.url, top_n=9))


def test_llamaindexs_jina_rerank(server):
    needs("llama_index.postprocessor.jinaai_rerank")
    from llama_index.postprocessor.jinaai_rerank import JinaRerank

    check_nodes(JinaRerank(model="ce", api_key="sesame", base_url=f"{server.url}/v1", top_n=9))
    wrong = JinaRerank(model="nope", api_key="sesame", base_url=f"{server.url}/v1")
    with pytest.raises(RuntimeError, match="no model is served as 'nope'"):
        wrong.postprocess_nodes(nodes(), query_str=QUERY)


def test_llamaindexs_tei_rerank(server):
    needs("llama_index.postprocessor.tei_rerank")
    from llama_index.postprocessor.tei_rerank import TextEmbeddingInference

    check_nodes(TextEmbeddingInference(base_url=server.url, auth_token="Bearer sesame", top_n=9))


# litellm


PROVIDERS = {"hosted_vllm": "", "infinity": "", "cohere": "", "jina_ai": "/v1", "huggingface": ""}
WITH_DOCUMENTS = ("hosted_vllm", "cohere", "jina_ai", "huggingface")  # infinity's wants them as texts


@pytest.fixture
def litellm_rerank(server, monkeypatch):
    needs("litellm")
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # or its import asks the network for prices
    import litellm

    def rerank(provider, documents, **more):
        base, connection = f"{server.url}{PROVIDERS[provider]}", {"api_key": "sesame", "max_retries": 0}
        return litellm.rerank(f"{provider}/ce", QUERY, documents, api_base=base, **connection, **more)

    return rerank


@pytest.mark.parametrize("provider", PROVIDERS)
def test_litellm(litellm_rerank, provider):
    answer = litellm_rerank(provider, TEXTS, top_n=3, return_documents=False)
    assert [result["index"] for result in answer.results][:3] == BEST[:3]
    assert len(answer.results) == 3
    assert answer.results[0]["relevance_score"] == pytest.approx(sigmoid(logit(QUERY, TEXTS[BEST[0]])), abs=1e-6)


@pytest.mark.parametrize("provider", WITH_DOCUMENTS)
def test_litellms_documents_come_back_by_default(litellm_rerank, provider):
    answer = litellm_rerank(provider, TEXTS)
    assert [result["index"] for result in answer.results] == BEST
    assert [result["document"]["text"] for result in answer.results] == [TEXTS[index] for index in BEST]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_litellm_shows_the_reason(litellm_rerank, provider):
    with pytest.raises(Exception, match="at least 1 item"):
        litellm_rerank(provider, [])


# Voyage, Haystack


def test_voyages_sdk(server):
    needs("voyageai")
    import voyageai

    client = voyageai.Client("sesame", base_url=f"{server.url}/v1")
    answer = client.rerank(QUERY, TEXTS, "ce")
    assert [result.index for result in answer.results] == BEST
    assert [result.relevance_score for result in answer.results] == SCORES
    assert answer.results[0].document == TEXTS[BEST[0]]
    assert answer.total_tokens > 0
    assert [result.index for result in client.rerank(QUERY, TEXTS, "ce", top_k=2).results] == BEST[:2]
    with pytest.raises(voyageai.error.InvalidRequestError, match="more than 48 tokens"):
        client.rerank(QUERY, ["long " * 99], "ce", truncation=False)


async def test_haystacks_tei_ranker(server, monkeypatch):
    needs("haystack_integrations.components.rankers.huggingface_api")
    monkeypatch.setenv("HAYSTACK_TELEMETRY_ENABLED", "False")
    from haystack import Document
    from haystack.utils import Secret
    from haystack_integrations.components.rankers import huggingface_api

    documents = [Document(id=str(index), content=text) for index, text in enumerate(TEXTS)]
    ranker = huggingface_api.HuggingFaceTEIRanker(url=server.url, token=Secret.from_token("sesame"), top_k=9)
    right = huggingface_api.TruncationDirection.RIGHT
    for found in (
        ranker.run(QUERY, documents)["documents"],
        ranker.run(QUERY, documents, truncation_direction=right)["documents"],
        (await ranker.run_async(QUERY, documents))["documents"],
    ):
        assert [int(document.id) for document in found] == BEST
        assert [document.score for document in found] == SCORES


@pytest.mark.skipif(importlib.util.find_spec("openai") is None, reason="needs openai (the extra [clients])")
def test_openais_sdk_lists_a_reranker(server):
    import openai

    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="sesame", max_retries=0) as client:
        assert client.models.retrieve("ce").kind == "reranker"
        with pytest.raises(openai.BadRequestError, match="'ce' is a reranker: POST /rerank"):
            client.embeddings.create(input="a", model="ce")
