"""Both frameworks' sparse classes: the core's rows, one load and one pass with the dense ones, copies, event loops."""

import asyncio
import copy
import json
import pickle
import sys
import types
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from llama_index.core.base.embeddings.base_sparse import BaseSparseEmbedding
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events.embedding import SparseEmbeddingEndEvent, SparseEmbeddingStartEvent
from pydantic import Field

from akidb_mlx import Embedder, HybridEmbedder, MultiVectorEmbedder, SparseConfig, SparseEmbedder, SparseRows, errors
from akidb_mlx.adapters.lazy_sparse import LazySparseEmbedder
from akidb_mlx.testing import FakeSparseEmbedder
from langchain_akidb_mlx import AkiDBMLXEmbeddings
from llama_index_akidb_mlx import AkiDBMLXEmbedding, AkiDBMLXSparseEmbedding
from support.comparison import assert_close
from support.device import stalled
from support.joint import make_joint_folder
from support.packages import needs
from support.texts import TEXTS
from support.waiting import auntil, beside_a_turning_loop

PROMPTED = {"query_prompt": "find: ", "document_prompt": "text: "}
CLOSE = 5e-6  # in another batch


@pytest.fixture(scope="module")
def m3(tmp_path_factory):
    return make_joint_folder(tmp_path_factory.mktemp("sparse"))


@pytest.fixture(scope="module")
def core(m3):
    with SparseEmbedder.load(m3, **PROMPTED) as embedder:
        yield embedder


def llama_index(m3, **options):
    return AkiDBMLXSparseEmbedding(**{"model_name": m3, **PROMPTED, **options})


def langchain(m3, **options):
    needs("langchain_qdrant")
    from langchain_akidb_mlx.sparse import AkiDBMLXSparseEmbeddings

    return AkiDBMLXSparseEmbeddings(**{"model": m3, **PROMPTED, **options})


def assert_rows(given, expected):
    """Dictionaries, SparseVectors or pairs of lists, of plain numbers, against SparseRows."""
    assert len(given) == len(expected)
    for row, (indices, values) in zip(given, expected, strict=True):
        if isinstance(row, dict):
            row = list(row), list(row.values())
        elif not isinstance(row, tuple):
            row = row.indices, row.values
        assert {type(place) for place in row[0]} == {int} and {type(value) for value in row[1]} == {float}
        assert row[0] == indices.tolist()
        assert_close(row[1], values, CLOSE)
    json.dumps([row for row in given if isinstance(row, dict)])


# ── what comes out ───────────────────────────────────────────────────────────────────────────────────


async def test_llama_indexs_rows_are_the_cores(m3, core):
    sparse = llama_index(m3, embed_batch_size=2)
    queries, documents = core.encode_query(TEXTS), core.encode_document(TEXTS)
    assert not np.array_equal(queries.values, documents.values)
    assert_rows([sparse.get_query_embedding(text) for text in TEXTS], queries)
    assert_rows([await sparse.aget_query_embedding(text) for text in TEXTS], queries)
    assert_rows([sparse.get_text_embedding(text) for text in TEXTS], documents)
    assert_rows([await sparse.aget_text_embedding(text) for text in TEXTS], documents)
    assert_rows(sparse.get_text_embedding_batch(TEXTS), documents)
    assert_rows(await sparse.aget_text_embedding_batch(TEXTS), documents)
    for function, expected in ((sparse.qdrant_doc_fn, documents), (sparse.qdrant_query_fn, queries)):
        indices, values = function(TEXTS)
        assert_rows(list(zip(indices, values, strict=True)), expected)
    scores = core.similarity(queries, documents)
    one, other = sparse.get_query_embedding(TEXTS[0]), sparse.get_text_embedding(TEXTS[3])
    assert_close(sparse.similarity(one, dict(reversed(other.items()))), scores[0, 3], 1e-5)


async def test_langchains_rows_are_the_cores(m3, core):
    sparse = langchain(m3)
    queries, documents = core.encode_query(TEXTS), core.encode_document(TEXTS)
    assert_rows([sparse.embed_query(text) for text in TEXTS], queries)
    assert_rows([await sparse.aembed_query(text) for text in TEXTS], queries)
    assert_rows(sparse.embed_documents(TEXTS), documents)
    assert_rows(await sparse.aembed_documents(TEXTS), documents)


async def test_milvus_gets_dictionaries(m3, core):
    queries, documents = core.encode_query(TEXTS), core.encode_document(TEXTS)
    made = llama_index(m3).for_milvus()
    assert_rows(made.encode_queries(TEXTS), queries)
    assert_rows(made.encode_documents(TEXTS), documents)
    assert_rows(await made.async_encode_queries(TEXTS), queries)
    assert_rows(await made.async_encode_documents(TEXTS), documents)


async def test_langchains_milvus_too(m3, core):
    queries, documents = core.encode_query(TEXTS), core.encode_document(TEXTS)
    made = langchain(m3).for_milvus()
    assert_rows([made.embed_query(TEXTS[0]), await made.aembed_query(TEXTS[1])], queries[:2])
    assert_rows(made.embed_documents(TEXTS), documents)
    assert_rows(await made.aembed_documents(TEXTS), documents)


def test_milvuss_stores_know_it_for_sparse(m3, monkeypatch):
    """They tell sparse from dense by `isinstance`."""

    class BaseSparseEmbeddingFunction(ABC):
        @abstractmethod
        def encode_queries(self, queries): ...

    utils = types.ModuleType("llama_index.vector_stores.milvus.utils")
    utils.BaseSparseEmbeddingFunction = BaseSparseEmbeddingFunction
    for name in ("llama_index.vector_stores", "llama_index.vector_stores.milvus"):
        package = types.ModuleType(name)
        package.__path__, package.__spec__ = [], types.SimpleNamespace(name=name)
        monkeypatch.setitem(sys.modules, name, package)
    monkeypatch.setitem(sys.modules, utils.__name__, utils)
    assert isinstance(llama_index(m3).for_milvus(), BaseSparseEmbeddingFunction)


async def test_no_texts_load_nothing_and_a_wrong_item_is_named(m3):
    nowhere = AkiDBMLXSparseEmbedding(model_name="nobody/nothing")
    assert nowhere.get_text_embedding_batch([]) == await nowhere.aget_text_embedding_batch([]) == []
    assert nowhere.qdrant_doc_fn([]) == nowhere.qdrant_query_fn([]) == ([], [])
    assert await nowhere._lazy.aembed_queries([]) == []
    with pytest.raises(TypeError, match="item 1"):
        llama_index(m3).qdrant_doc_fn(["a", 3])


# ── settings ─────────────────────────────────────────────────────────────────────────────────────────


def test_every_option_is_a_field_and_reaches_the_rows(m3, core):
    assert set(SparseConfig.model_fields) - {"model"} <= set(AkiDBMLXSparseEmbedding.model_fields)
    short = llama_index(m3, max_active_dims=2)
    assert_rows(short.get_text_embedding_batch(TEXTS), core.encode_document(TEXTS, max_active_dims=2))
    with pytest.raises(errors.ConfigError, match="max_active_dims keeps the greatest"):
        llama_index(m3, truncate_dim=8)
    with pytest.raises(errors.ConfigError, match="max_active_dims"):
        llama_index(m3, max_active_dim=8)
    with pytest.raises(errors.ConfigError, match="settled at construction"):
        short.max_active_dims = 3


def test_it_has_variables_of_its_own(m3, monkeypatch):
    monkeypatch.setenv("AKIDB_MLX_SPARSE_MODEL", str(m3))
    monkeypatch.setenv("AKIDB_MLX_MODEL", "nobody/nothing")
    assert AkiDBMLXSparseEmbedding().model_name == str(m3)


def test_a_ready_embedder_or_a_hybrid_ones_sparse_face(m3, core):
    with pytest.raises(errors.ConfigError, match="leave out document_prompt, model_name, query_prompt"):
        llama_index(m3, embedder=core)
    ready = AkiDBMLXSparseEmbedding(embedder=core)
    assert ready.load() is core and ready.model_name == str(m3)
    with HybridEmbedder.load(m3) as hybrid, MultiVectorEmbedder.load(m3) as multi:
        assert AkiDBMLXSparseEmbedding(embedder=hybrid).load() is hybrid.sparse
        assert AkiDBMLXEmbedding(embedder=hybrid).load() is hybrid.dense
        for adapter, wrong in (
            (AkiDBMLXSparseEmbedding, hybrid.dense),
            (AkiDBMLXSparseEmbedding, multi),
            (AkiDBMLXEmbedding, hybrid.sparse),
            (AkiDBMLXEmbeddings, multi),
        ):
            with pytest.raises(TypeError, match=f"embedder is a {type(wrong).__name__}, another kind of model"):
                adapter(embedder=wrong)
    with pytest.raises(TypeError, match="no encode_query; see SparseEmbedderProtocol"):
        AkiDBMLXSparseEmbedding(embedder=object())


def test_the_fake_one_needs_no_model():
    sparse = AkiDBMLXSparseEmbedding(embedder=FakeSparseEmbedder())
    row, other = sparse.get_text_embedding_batch(["tides follow the moon", "yeast makes gas"])
    query = sparse.get_query_embedding("the moon")
    assert sparse.similarity(query, row) > 2 > sparse.similarity(query, other) == 0


def test_an_embedder_of_ones_own(tmp_path):
    class Letters:
        dimension, fingerprint = 26, "letters"

        def encode_document(self, texts, *, show_progress=False):
            rows = [np.unique([ord(letter) - 97 for letter in text if letter.isalpha()]) for text in texts]
            return SparseRows.of([(row.astype(np.int32), np.ones(len(row), np.float32)) for row in rows], 26)

        encode_query = encode_document

        async def aencode_document(self, texts, *, show_progress=False):
            return self.encode_document(texts)

        aencode_query = aencode_document

    sparse = AkiDBMLXSparseEmbedding(embedder=Letters())
    assert sparse.model_name == "Letters-letters"
    assert sparse.get_text_embedding_batch(["abba", ""]) == [{0: 1.0, 1: 1.0}, {}]
    assert asyncio.run(sparse.aget_query_embedding("cab")) == {0: 1.0, 1: 1.0, 2: 1.0}
    many = ["ab"] * 300  # in several turns of the event loop
    assert asyncio.run(sparse.aget_text_embedding_batch(many)) == sparse.get_text_embedding_batch(many)
    with pytest.raises(pickle.PicklingError):
        pickle.dumps(sparse)


def test_copies_dictionaries_and_pickles(m3, core):
    sparse = llama_index(m3, embed_batch_size=7, max_batch_tokens=1234)
    told = sparse.to_dict()
    assert told["class_name"] == "AkiDBMLXSparseEmbedding" and told["query_prompt"] == "find: "
    assert not {"embed_batch_size", "num_workers", "max_batch_tokens", "device", "embedder"} & set(told)
    before = json.dumps(told)
    rows = sparse.get_text_embedding_batch(TEXTS)
    again = AkiDBMLXSparseEmbedding.from_json(sparse.to_json())
    for one in (again, pickle.loads(pickle.dumps(sparse)), copy.deepcopy(sparse)):
        assert json.dumps(one.to_dict()) == before
        assert_rows(one.get_text_embedding_batch(TEXTS), core.encode_document(TEXTS))
    assert len(pickle.dumps(sparse)) < 10_000 and rows == sparse.get_text_embedding_batch(TEXTS)
    assert pickle.loads(pickle.dumps(sparse)).embed_batch_size == 7
    assert sparse.model_copy(update={"max_active_dims": 1}).max_active_dims == 1
    assert isinstance(sparse, BaseSparseEmbedding)


def test_langchains_settings_and_copies(m3, core):
    made = langchain(m3)
    with pytest.raises(errors.ConfigError, match="max_active_dims keeps the greatest"):
        langchain(m3, truncate_dim=8)
    assert_rows(pickle.loads(pickle.dumps(made)).embed_documents(TEXTS), core.encode_document(TEXTS))
    assert made.model_copy(update={"query_prompt": ""}).query_prompt == ""


def test_events_are_sent_for_each_batch(m3):
    class Handler(BaseEventHandler):
        events: list = Field(default_factory=list)

        def handle(self, event, **_):
            if isinstance(event, SparseEmbeddingStartEvent | SparseEmbeddingEndEvent):
                self.events.append(event)

    handler = Handler()
    root = get_dispatcher()
    root.add_event_handler(handler)
    try:
        llama_index(m3, embed_batch_size=3).get_text_embedding_batch(TEXTS)
    finally:
        root.event_handlers.remove(handler)
    assert [type(event).__name__[15:] for event in handler.events] == ["StartEvent", "EndEvent"] * 2
    assert handler.events[0].model_dict["model_name"] == str(m3)
    assert [len(event.chunks) for event in handler.events[1::2]] == [3, 2]


# ── one model, one pass ──────────────────────────────────────────────────────────────────────────────


def counted(embedder, call):
    before = embedder.stats()
    call()
    after = embedder.stats()
    return {name: after[name] - before[name] for name in ("rows", "batches", "companion_rows")}


def test_dense_and_sparse_of_the_same_texts_are_one_pass_from_the_first_text_on(m3, loads):
    # Nothing is loaded before the first use, so that the sparse head must come with the dense one's.
    options = {"max_batch_tokens": 4021}
    dense = AkiDBMLXEmbedding(model_name=m3, **options)
    sparse = AkiDBMLXSparseEmbedding(model_name=m3, **options)
    other = AkiDBMLXSparseEmbedding(model_name=m3, max_batch_tokens=4022)
    first = dense.get_text_embedding_batch(TEXTS)
    assert dense.load().stats()["rows"] == len(TEXTS)
    assert len(loads) == 1 and other._lazy._face is None
    told = counted(dense.load(), lambda: sparse.get_text_embedding_batch(TEXTS))
    assert told == {"rows": 0, "batches": 0, "companion_rows": len(TEXTS)}
    told = counted(dense.load(), lambda: (sparse.get_query_embedding("tea"), dense.get_query_embedding("tea")))
    assert told == {"rows": 1, "batches": 1, "companion_rows": 1}
    with Embedder.load(m3) as alone, SparseEmbedder.load(m3) as alone_sparse:
        assert_close(first, alone.encode_document(TEXTS), CLOSE)
        assert_rows(sparse.get_text_embedding_batch(TEXTS), alone_sparse.encode_document(TEXTS))


async def test_async_too_and_whichever_comes_first(m3):
    options = {"max_batch_tokens": 4023}
    dense, sparse = AkiDBMLXEmbeddings(model=m3, **options), AkiDBMLXSparseEmbedding(model_name=m3, **options)
    await sparse.aget_text_embedding_batch(TEXTS)
    await dense.aembed_documents(TEXTS)
    told = dense.load().stats()
    assert (told["rows"], told["companion_rows"]) == (len(TEXTS), len(TEXTS))


def test_a_failure_of_the_other_is_the_others(m3, monkeypatch):
    options = {"max_batch_tokens": 4024}
    dense, sparse = AkiDBMLXEmbedding(model_name=m3, **options), AkiDBMLXSparseEmbedding(model_name=m3, **options)

    def broken(self, config):
        raise errors.BackendError("not now")

    monkeypatch.setattr(LazySparseEmbedder, "_make", broken)
    assert len(dense.get_text_embedding("tea")) == 32
    with pytest.raises(errors.BackendError, match="not now"):
        sparse.get_text_embedding("tea")
    monkeypatch.undo()
    assert sparse.get_text_embedding("tea")


def test_sixteen_threads_load_once_and_equal_serial(m3, core, loads):
    sparse = llama_index(m3, max_batch_tokens=4025)
    dense = AkiDBMLXEmbedding(model_name=m3, max_batch_tokens=4025)
    texts = [f"{text} {i}" for i in range(4) for text in TEXTS]
    with ThreadPoolExecutor(16) as pool:
        together = [pool.submit(face, text) for text in texts for face in (sparse.get_text_embedding, dense)][::2]
        assert_rows([one.result() for one in together], core.encode_document(texts))
    assert len(loads) == 1


async def test_the_event_loop_is_never_blocked(m3, monkeypatch):
    from akidb_mlx.model import loading

    monkeypatch.setattr(loading, "load_model", beside_a_turning_loop(loading.load_model))
    sparse = llama_index(m3, max_batch_tokens=4026)
    assert await sparse.aget_text_embedding("tea")
    with stalled(sparse.load()) as device:
        call = asyncio.create_task(sparse.aget_text_embedding_batch([f"{i} tea" for i in range(300)]))
        await auntil(lambda: device.batches)
        device.open()
        assert len(await call) == 300
