"""Both frameworks' classes with `base_url`: LangChain's suites, LlamaIndex's pipelines, an index of either place."""

import asyncio
import json
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_tests.integration_tests import EmbeddingsIntegrationTests
from langchain_tests.unit_tests import EmbeddingsUnitTests
from llama_index.core import StorageContext, VectorStoreIndex, load_index_from_storage
from llama_index.core.embeddings.loading import load_embed_model
from llama_index.core.ingestion import IngestionCache, IngestionPipeline
from llama_index.core.ingestion.pipeline import get_transformation_hash
from llama_index.core.schema import NodeWithScore, TextNode

from akidb_mlx import Embedder, RemoteEmbedder, RerankerConfig, SparseConfig, errors
from akidb_mlx.recipe import ensure_recipe, recipe_of
from langchain_akidb_mlx import AkiDBMLXEmbeddings, AkiDBMLXReranker
from llama_index_akidb_mlx import AkiDBMLXEmbedding, AkiDBMLXRerank, AkiDBMLXSparseEmbedding
from support.checkpoints import MINILM, PROMPTS, REFERENCE, TINY_RERANKER
from support.comparison import assert_close
from support.serving import serving
from support.texts import TEXTS

SPLADE = str(REFERENCE / "sparse" / "bert-max")
_servers = {}


@pytest.fixture(scope="module", autouse=True)
def server():
    models = {
        "minilm": MINILM,
        "prompts": PROMPTS,
        "rerank": RerankerConfig(model=TINY_RERANKER),
        "splade": SparseConfig(model=SPLADE),
    }
    with serving(models) as running:
        _servers["one"] = running
        yield running


# ── LangChain ────────────────────────────────────────────────────────────────────────────────────────


class TestUnit(EmbeddingsUnitTests):
    @property
    def embeddings_class(self):
        return AkiDBMLXEmbeddings

    @property
    def embedding_model_params(self):
        return {"model": MINILM, "base_url": _servers["one"].url}


class TestIntegration(EmbeddingsIntegrationTests):
    @property
    def embeddings_class(self):
        return AkiDBMLXEmbeddings

    @property
    def embedding_model_params(self):
        return {"model": MINILM, "base_url": _servers["one"].url}


def langchain(server, **options):
    return AkiDBMLXEmbeddings(model=PROMPTS, base_url=server.url, **options), AkiDBMLXEmbeddings(
        model=PROMPTS, **options
    )


def test_lists_are_equal_number_for_number(server):
    for options in ({}, {"truncate_dim": 8, "query_prompt": "q: "}, {"normalize": False}):
        there, here = langchain(server, **options)
        assert there.embed_query("tea") == here.embed_query("tea")
        assert there.embed_documents(["tea"]) == here.embed_documents(["tea"])
        assert asyncio.run(there.aembed_query("tea")) == here.embed_query("tea")
        assert asyncio.run(there.aembed_documents(["tea"])) == here.embed_documents(["tea"])
        assert there.cache_namespace == here.cache_namespace
        assert isinstance(there.load(), RemoteEmbedder)
        assert there.embed_documents([]) == []


def test_nothing_is_asked_before_the_first_use(monkeypatch):
    there = AkiDBMLXEmbeddings(model="nobody/nothing", base_url="http://127.0.0.1:9")
    assert there.embed_documents([]) == []
    assert "base_url='http://127.0.0.1:9'" in repr(there)
    with pytest.raises(errors.BackendError, match="akidb-mlx serve --model nobody/nothing --port 9"):
        there.embed_query("x")
    with pytest.raises(errors.BackendError):
        asyncio.run(there.aembed_query("x"))


@pytest.mark.parametrize("make", [AkiDBMLXEmbeddings, AkiDBMLXEmbedding])
@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"base_url": "127.0.0.1"}, errors.ConfigError, "base_url is '127.0.0.1', where it should be"),
        ({"base_url": 8000}, TypeError, "base_url must be a str"),
        ({"api_key": "k"}, errors.ConfigError, "api_key is for a server; give base_url too"),
        ({"fingerprint": "0"}, errors.ConfigError, "fingerprint is for a server"),
        ({"base_url": "http://here", "timeout_s": 0}, errors.ConfigError, "timeout_s is 0"),
        ({"base_url": "http://here", "device": "cpu"}, errors.ConfigError, "device: how to compute is the server's"),
        ({"bas_url": "http://here"}, errors.ConfigError, "base_url"),
    ],
    ids=str,
)
def test_what_cannot_be_meant_is_refused_at_once(make, options, error, said):
    with pytest.raises(error, match=said):
        make(model=PROMPTS, **options)


def test_a_ready_remote_embedder_stays_one(server):
    with RemoteEmbedder.load(PROMPTS, base_url=server.url) as ready:
        for made in (AkiDBMLXEmbeddings(embedder=ready), AkiDBMLXEmbedding(embedder=ready)):
            assert made.base_url == server.url
            again = pickle.loads(pickle.dumps(made))
            assert again.base_url == server.url and isinstance(again.load(), RemoteEmbedder)
            assert isinstance(made.model_copy(update={"truncate_dim": 8}).load(), RemoteEmbedder)
        with pytest.raises(errors.ConfigError, match="leave out base_url"):
            AkiDBMLXEmbeddings(embedder=ready, base_url=server.url)


def test_equality_copies_and_pickles(server):
    there, here = langchain(server)
    other = AkiDBMLXEmbeddings(model=PROMPTS, base_url=server.url)
    assert there == other and hash(there) == hash(other)
    assert there != here and there.model_copy(update={"base_url": None}) == here
    assert there.model_copy(update={"timeout_s": 5.0}) != there
    keyed = AkiDBMLXEmbeddings(model=PROMPTS, base_url=server.url, api_key="secret")
    assert "secret" not in repr(keyed) + str(keyed) + keyed.model_dump_json()
    assert keyed.model_copy(update={"truncate_dim": 8}).api_key.get_secret_value() == "secret"
    assert keyed.model_copy(update={"base_url": None}).api_key is None
    before = pickle.dumps(keyed)
    assert keyed.embed_query("a") == here.embed_query("a")
    assert pickle.dumps(keyed) == before and len(before) < 1000
    assert pickle.loads(before) == keyed
    assert here.model_copy(update={"base_url": server.url}) == there


def test_an_index_of_either_place_opens_in_the_other(server, tmp_path):
    there, here = langchain(server, truncate_dim=8)
    for name, makes, opens in (("a", there, here), ("b", here, there)):
        ensure_recipe(tmp_path / name, makes)
        ensure_recipe(tmp_path / name, opens)
        with pytest.raises(errors.ConfigError, match="dimension 8 → 16"):
            ensure_recipe(tmp_path / name, langchain(server)[0])
    assert recipe_of(there) == recipe_of(here)
    made_here = InMemoryVectorStore.from_documents([Document(text) for text in TEXTS], here)
    made_there = InMemoryVectorStore.from_documents([Document(text) for text in TEXTS], there)
    found = [store.similarity_search(TEXTS[0], 3) for store in (made_here, made_there)]
    made_here.embedding = there
    found.append(made_here.similarity_search(TEXTS[0], 3))
    assert len({tuple(one.page_content for one in each) for each in found}) == 1


def test_a_fingerprint_is_asked_for(server):
    wanted = langchain(server)[1].load().fingerprint
    langchain_there = AkiDBMLXEmbeddings(model=PROMPTS, base_url=server.url, fingerprint=wanted)
    assert langchain_there.embed_query("a")
    other = AkiDBMLXEmbedding(model_name=PROMPTS, base_url=server.url, fingerprint=wanted, truncate_dim=8)
    with pytest.raises(errors.ConfigError, match=f"gives rows of the fingerprint .*, not {wanted}"):
        other.get_query_embedding("a")


def test_sixteen_threads(server):
    there, here = langchain(server)
    texts = [f"text {place}" for place in range(160)]
    with ThreadPoolExecutor(16) as threads:
        rows = list(threads.map(there.embed_query, texts))
    assert_close(rows, here.load().encode_query(texts))


def test_rerankers_of_both(server):
    documents = [Document("a harbour in the snow"), Document("the engine of a train")]
    there = AkiDBMLXReranker(model=TINY_RERANKER, base_url=server.url, top_n=2)
    here = AkiDBMLXReranker(model=TINY_RERANKER, top_n=2)
    assert_close(
        [one["relevance_score"] for one in there.rerank(documents, "train")],
        [one["relevance_score"] for one in here.rerank(documents, "train")],
    )
    found = there.compress_documents(documents, "train")
    assert [one.page_content for one in found] == [
        one.page_content for one in here.compress_documents(documents, "train")
    ]
    assert [one.page_content for one in asyncio.run(there.acompress_documents(documents, "train"))] == [
        one.page_content for one in found
    ]
    assert there.score([("a", "b")]) == here.score([("a", "b")])
    nodes = [NodeWithScore(node=TextNode(text=one.page_content), score=0.5) for one in documents]
    for made in (
        AkiDBMLXRerank(model_name=TINY_RERANKER, base_url=server.url),
        AkiDBMLXRerank(model_name="rerank", base_url=server.url),
    ):
        best = made.postprocess_nodes(nodes, query_str="train")
        assert [one.node.text for one in best] == [one.page_content for one in found]
    assert pickle.loads(pickle.dumps(there)).score([("a", "b")]) == there.score([("a", "b")])


def test_sparse_classes_of_both(server):
    there, here = (
        AkiDBMLXSparseEmbedding(model_name=SPLADE, base_url=server.url),
        AkiDBMLXSparseEmbedding(model_name=SPLADE),
    )
    assert there.get_query_embedding("a train") == here.get_query_embedding("a train")
    assert there.get_text_embedding("a train") == here.get_text_embedding("a train")
    assert there.for_milvus().encode_queries(["a"]) == here.for_milvus().encode_queries(["a"])
    assert there.similarity({1: 2.0}, {1: 3.0}) == 6.0
    assert recipe_of(there) == recipe_of(here)
    qdrant = pytest.importorskip("langchain_akidb_mlx.sparse", exc_type=ImportError)
    made = qdrant.AkiDBMLXSparseEmbeddings(model=SPLADE, base_url=server.url, max_active_dims=4)
    assert made.embed_query("a train") == qdrant.AkiDBMLXSparseEmbeddings(model=SPLADE, max_active_dims=4).embed_query(
        "a train"
    )


# ── LlamaIndex ───────────────────────────────────────────────────────────────────────────────────────


def llama_index(server, **options):
    return AkiDBMLXEmbedding(model_name=PROMPTS, base_url=server.url, **options), AkiDBMLXEmbedding(
        model_name=PROMPTS, **options
    )


def nodes():
    return [TextNode(text=text, id_=str(place)) for place, text in enumerate(TEXTS)]


def test_a_pipeline_and_its_cache(server):
    there, here = llama_index(server)
    cache = IngestionCache()
    found = IngestionPipeline(transformations=[there], cache=cache).run(nodes=nodes())
    again = IngestionPipeline(transformations=[there], cache=cache).run(nodes=nodes())
    expected = IngestionPipeline(transformations=[here]).run(nodes=nodes())
    assert_close([one.embedding for one in found], [one.embedding for one in expected])
    assert [one.embedding for one in again] == [one.embedding for one in found]
    assert_close(
        [
            one.embedding
            for one in asyncio.run(IngestionPipeline(transformations=[there], disable_cache=True).arun(nodes=nodes()))
        ],
        [one.embedding for one in found],
    )
    others = [
        llama_index(server, truncate_dim=8)[0],
        here,
        AkiDBMLXEmbedding(model_name=PROMPTS, base_url="http://127.0.0.1:9"),
    ]
    hashes = {get_transformation_hash(nodes(), one) for one in (there, *others)}
    assert len(hashes) == 4
    timed = AkiDBMLXEmbedding(model_name=PROMPTS, base_url=server.url, timeout_s=5.0, api_key="k")
    assert get_transformation_hash(nodes(), timed) == get_transformation_hash(nodes(), there)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_pipeline_with_workers(server):
    there, _ = llama_index(server)
    found = IngestionPipeline(transformations=[there], disable_cache=True).run(nodes=nodes(), num_workers=2)
    assert_close(sorted(one.embedding for one in found), sorted(there.get_text_embedding_batch(TEXTS)))


def test_an_index_is_saved_here_and_opened_there(server, tmp_path):
    there, here = llama_index(server)
    VectorStoreIndex(nodes(), embed_model=here).storage_context.persist(tmp_path / "i")
    opened = load_index_from_storage(StorageContext.from_defaults(persist_dir=str(tmp_path / "i")), embed_model=there)
    best = opened.as_retriever(similarity_top_k=1).retrieve(TEXTS[2])
    expected = VectorStoreIndex(nodes(), embed_model=here).as_retriever(similarity_top_k=1).retrieve(TEXTS[2])
    assert best[0].node.node_id == expected[0].node.node_id
    assert best[0].score == pytest.approx(expected[0].score, abs=1e-6)


def test_dictionaries_and_json_say_where_but_no_key(server):
    there = AkiDBMLXEmbedding(model_name=PROMPTS, base_url=server.url, api_key="secret", timeout_s=5.0, truncate_dim=8)
    said = there.to_dict()
    assert said["base_url"] == server.url and "secret" not in there.to_json() + json.dumps(said)
    assert "timeout_s" not in said and "api_key" not in said and "fingerprint" not in said
    again = load_embed_model(said)
    assert isinstance(again.load(), RemoteEmbedder)
    assert again.get_query_embedding("a") == there.get_query_embedding("a")
    for name, value in (("base_url", "http://127.0.0.1:9"), ("api_key", "k"), ("timeout_s", 1.0), ("fingerprint", "0")):
        with pytest.raises(errors.ConfigError, match=f"{name} is settled at construction"):
            setattr(there, name, value)
    # What is here says nothing of a server, so that keys of caches stay what they were.
    assert not {"base_url", "fingerprint"} & set(AkiDBMLXEmbedding(model_name=PROMPTS).to_dict())


def test_the_two_frameworks_share_connections_and_vectors(server):
    rows = AkiDBMLXEmbeddings(model="prompts", base_url=server.url).embed_documents(["tea"])
    assert AkiDBMLXEmbedding(model_name="prompts", base_url=server.url).get_text_embedding_batch(["tea"]) == rows
    with Embedder.load(PROMPTS) as here:
        assert np.array_equal(np.array(rows, np.float32), here.encode_document(["tea"]))
