"""AkiDBMLXEmbedding: pipelines, caches, events, workers; and what users of other integrations suffered."""

import asyncio
import copy
import json
import logging
import multiprocessing
import pickle
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import llama_index.core
import numpy as np
import pytest
from llama_index.core import Settings, StorageContext, VectorStoreIndex, load_index_from_storage
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.callbacks import CallbackManager, CBEventType, LlamaDebugHandler
from llama_index.core.embeddings.loading import load_embed_model
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.ingestion.pipeline import get_transformation_hash
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events.embedding import EmbeddingEndEvent, EmbeddingStartEvent
from llama_index.core.node_parser import SemanticSplitterNodeParser, TokenTextSplitter
from llama_index.core.schema import Document, MetadataMode, QueryBundle, TextNode
from llama_index.core.storage.kvstore import SimpleKVStore
from pydantic import Field

from akidb_mlx import errors
from akidb_mlx.testing import FakeEmbedder
from llama_index_akidb_mlx import AkiDBMLXEmbedding, ensure_recipe
from support.checkpoints import MINILM, PROMPTS
from support.comparison import assert_close, assert_unit_length
from support.device import DEVICE
from support.texts import TEXTS
from support.waiting import PATIENCE_S


@pytest.fixture(autouse=True)
def _tokenizer_without_network(monkeypatch):
    # In a spawned worker a splitter waits for ever on a download otherwise.
    cache = Path(llama_index.core.__file__).parent / "_static" / "tiktoken_cache"
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(cache))


@pytest.fixture
def embedding(minilm):
    return AkiDBMLXEmbedding(model_name=MINILM)


@pytest.fixture
def prompted():
    return AkiDBMLXEmbedding(model_name=PROMPTS)


class Counting(FakeEmbedder):
    """Notes what it embeds, by side."""

    def __init__(self, dimension=8):
        super().__init__(dimension)
        self.queries, self.documents = [], []

    def encode_query(self, texts):
        self.queries.append(list(texts))
        return super().encode_query(texts)

    def encode_document(self, texts, *, show_progress=False):
        self.documents.append(list(texts))
        return super().encode_document(texts)


def forwards(adapter):
    return adapter.load().stats()["batches"]


def nodes():
    return [TextNode(text=text, id_=str(i)) for i, text in enumerate(TEXTS)]


# ── what comes out ───────────────────────────────────────────────────────────────────────────────────


def test_vectors_are_plain_floats_that_json_takes(embedding):
    rows = [embedding.get_query_embedding("one"), embedding.get_text_embedding("one")]
    rows += embedding.get_text_embedding_batch(["one", "two"])
    rows += asyncio.run(embedding.aget_text_embedding_batch(["one", "two"]))
    rows += [asyncio.run(embedding.aget_query_embedding("one")), asyncio.run(embedding.aget_text_embedding("one"))]
    for row in rows:
        assert type(row) is list
        assert {type(number) for number in row} == {float}
    json.dumps(rows)


def test_vectors_are_those_of_the_core(embedding, minilm):
    assert_close(embedding.get_text_embedding_batch(TEXTS), minilm.encode_document(TEXTS))
    assert_close(embedding.get_query_embedding(TEXTS[0]), minilm.encode_query(TEXTS[:1])[0])


async def test_sync_and_async_agree_and_apply_the_prompts(prompted):
    plain = AkiDBMLXEmbedding(model_name=PROMPTS, query_prompt="", document_prompt="")
    query, text = prompted.get_query_embedding("tea"), prompted.get_text_embedding("tea")
    assert_close(query, plain.get_query_embedding("search for: tea"))
    assert_close(text, plain.get_text_embedding("passage text: tea"))
    assert not np.allclose(query, text, atol=1e-3)
    assert_close(await prompted.aget_query_embedding("tea"), query)
    assert_close(await prompted.aget_text_embedding("tea"), text)
    assert_close(await prompted.aget_text_embedding_batch(["tea"]), [text])
    assert_close(prompted.get_text_embedding_batch(["tea"]), [text])
    assert_close(prompted.get_agg_embedding_from_queries(["tea", "tea"]), query)


def test_no_texts_and_empty_texts(embedding):
    assert AkiDBMLXEmbedding(model_name="nobody/nothing").get_text_embedding_batch([]) == []
    assert asyncio.run(AkiDBMLXEmbedding(model_name="nobody/nothing").aget_text_embedding_batch([])) == []
    assert np.isfinite(embedding.get_text_embedding_batch(["", "text"])).all()


@pytest.mark.parametrize("batch_size", [1, 3, 2048])
def test_a_small_batch_size_gives_the_same_vectors(embedding, batch_size):
    texts = [f"{text} {'and more ' * (i % 7)}" for i in range(4) for text in TEXTS]
    small = AkiDBMLXEmbedding(model_name=MINILM, embed_batch_size=batch_size)
    assert_close(small.get_text_embedding_batch(texts), embedding.get_text_embedding_batch(texts))
    assert_close(asyncio.run(small.aget_text_embedding_batch(texts)), embedding.get_text_embedding_batch(texts))


@pytest.mark.parametrize("workers", [None, 4])
def test_progress_on_both_paths(embedding, capsys, workers):
    texts = TEXTS * 4
    quiet = embedding.get_text_embedding_batch(texts)
    assert capsys.readouterr().err == ""
    loud = AkiDBMLXEmbedding(model_name=MINILM, embed_batch_size=5, num_workers=workers)
    assert_close(loud.get_text_embedding_batch(texts, show_progress=True), quiet)
    assert "20/20" in capsys.readouterr().err
    assert_close(asyncio.run(loud.aget_text_embedding_batch(texts, show_progress=True)), quiet)
    assert "20/20" in capsys.readouterr().err


def test_the_bar_moves_within_a_batch(monkeypatch):
    updates = []

    class Bar:
        def __init__(self, total, **_):
            updates.append([])

        def update(self, texts):
            updates[-1].append(texts)

        def close(self):
            pass

    monkeypatch.setattr("tqdm.tqdm", Bar)
    model = AkiDBMLXEmbedding(model_name=PROMPTS, max_batch_tokens=400)
    nodes = [TextNode(text=f"text {i} " * (i % 5 + 1)) for i in range(200)]
    VectorStoreIndex(nodes, embed_model=model, show_progress=True)
    asyncio.run(model.aget_text_embedding_batch([node.text for node in nodes], show_progress=True))
    assert [sum(bar) for bar in updates] == [200, 200] and all(len(bar) > 3 for bar in updates)


def test_truncate_dim(minilm):
    embedding = AkiDBMLXEmbedding(model_name=MINILM, truncate_dim=64)
    rows = np.array([embedding.get_query_embedding("one"), *embedding.get_text_embedding_batch(["two", "three"])])
    assert rows.shape == (3, 64)
    assert_unit_length(rows)


def test_metadata_is_part_of_what_is_embedded(embedding):
    node = TextNode(text="the text", metadata={"author": "Ada"})
    (done,) = embedding([node])
    assert_close(done.embedding, embedding.get_text_embedding(node.get_content(MetadataMode.EMBED)))
    assert "Ada" in node.get_content(MetadataMode.EMBED)


# ── construction ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"truncate_dims": 3}, "unknown argument truncate_dims; did you mean truncate_dim?"),
        ({"embed_batchsize": 3}, "unknown argument embed_batchsize; did you mean embed_batch_size?"),
        ({"truncate_dim": 0}, "truncate_dim = 0 (argument): should be greater than 0"),
        ({"max_seq_length": -5}, "max_seq_length = -5 (argument): should be greater than 0"),
        ({"model": "a", "model_name": "b"}, "model and model_name mean the same"),
        ({"embedder": FakeEmbedder(8), "truncate_dim": 4}, "leave out truncate_dim, or embedder="),
    ],
)
def test_bad_options_are_refused_at_construction_in_one_line(options, said):
    with pytest.raises(errors.ConfigError) as caught:
        AkiDBMLXEmbedding(**options)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_llama_indexs_own_options_are_checked_too():
    with pytest.raises(errors.ConfigError, match="^embed_batch_size = 0 .argument.: should be greater than 0$"):
        AkiDBMLXEmbedding(model_name=MINILM, embed_batch_size=0)
    with pytest.raises(TypeError, match="embeddings_cache must be of type BaseKVStore"):
        AkiDBMLXEmbedding(model_name=MINILM, embeddings_cache={})


def test_building_an_object_loads_nothing():
    embedding = AkiDBMLXEmbedding(model_name="nobody/nothing", local_files_only=True)
    for _ in range(2):
        with pytest.raises(errors.ModelNotFoundError, match="nobody/nothing"):
            embedding.get_query_embedding("x")
    assert embedding.embed_batch_size >= 512


def test_what_decides_vectors_is_settled_and_the_rest_may_be_assigned(embedding):
    for name in ("truncate_dim", "model_name", "query_prompt", "max_batch_tokens", "embedder"):
        with pytest.raises(errors.ConfigError, match=f"{name} is settled at construction"):
            setattr(embedding, name, None)
    embedding.embed_batch_size = 7
    embedding.num_workers = 2
    embedding.callback_manager = CallbackManager([])
    assert (embedding.embed_batch_size, embedding.num_workers) == (7, 2)


def test_both_spellings_of_the_model():
    assert AkiDBMLXEmbedding(model="x").to_dict() == AkiDBMLXEmbedding(model_name="x").to_dict()
    assert AkiDBMLXEmbedding(model_name=Path("some/folder")).model_name == "some/folder"
    alias = AkiDBMLXEmbedding(model_name="gemma-300m-4bit")
    assert alias.model_name == "mlx-community/embeddinggemma-300m-4bit"


def test_repr_is_short(embedding):
    assert repr(embedding) == str(embedding) == f"AkiDBMLXEmbedding(model='{MINILM}')"


def test_a_ready_embedder_is_taken(minilm):
    embedding = AkiDBMLXEmbedding(embedder=minilm)
    assert embedding.load() is minilm
    assert embedding.to_dict() == AkiDBMLXEmbedding(model_name=MINILM).to_dict()
    fakes = [AkiDBMLXEmbedding(embedder=FakeEmbedder(dimension)) for dimension in (8, 16)]
    assert [len(fake.get_query_embedding("x")) for fake in fakes] == [8, 16]
    assert str(fakes[0].to_dict()) != str(fakes[1].to_dict())


# ── serialisation and the ingestion cache's key ──────────────────────────────────────────────────────


@pytest.mark.parametrize("cache", [None, SimpleKVStore()])
def test_dictionary_and_json_round_trips(cache):
    embedding = AkiDBMLXEmbedding(
        model_name=MINILM, truncate_dim=64, query_prompt="q: ", embeddings_cache=cache, cache_dir="~/models"
    )
    again = [
        AkiDBMLXEmbedding.from_dict(embedding.to_dict()),
        AkiDBMLXEmbedding.from_json(embedding.to_json()),
        load_embed_model(embedding.to_dict()),
        AkiDBMLXEmbedding(**embedding.to_dict()),
        AkiDBMLXEmbedding.model_validate_json(embedding.model_dump_json()),
    ]
    for each in again:
        assert type(each) is AkiDBMLXEmbedding
        assert each.to_dict() == embedding.to_dict()
    assert embedding.to_dict()["class_name"] == AkiDBMLXEmbedding.class_name() == "AkiDBMLXEmbedding"
    assert AkiDBMLXEmbedding.from_dict(embedding.to_dict(), embed_batch_size=3).embed_batch_size == 3


def _key(**options):
    return get_transformation_hash(nodes(), AkiDBMLXEmbedding(**{"model_name": MINILM, **options}))


@pytest.mark.parametrize(
    "options",
    [
        {"model_name": str(PROMPTS)},
        {"revision": "abc"},
        {"truncate_dim": 64},
        {"document_prompt": "passage: "},
        {"query_prompt": "query: "},
        {"normalize": False},
        {"max_seq_length": 64},
        {"pooling": "cls"},
        {"dtype": "bfloat16"},
    ],
)
def test_the_key_changes_with_what_changes_vectors(options):
    assert _key(**options) != _key()


@pytest.mark.parametrize(
    "options",
    [
        {"embed_batch_size": 3},
        {"num_workers": 4},
        {"embeddings_cache": SimpleKVStore()},
        {"callback_manager": CallbackManager([])},
        {"max_batch_tokens": 99},
        {"device": "cpu"},
        {"cache_dir": "/tmp/somewhere"},
        {"local_files_only": True},
    ],
)
def test_the_key_does_not_change_with_what_changes_speed(options):
    assert _key(**options) == _key()


def test_the_key_is_stable_under_use_pickling_and_workers(embedding):
    before = get_transformation_hash(nodes(), embedding)
    embedding.get_text_embedding("use it")
    assert get_transformation_hash(nodes(), embedding) == before
    assert get_transformation_hash(nodes(), pickle.loads(pickle.dumps(embedding))) == before
    assert get_transformation_hash(nodes(), copy.deepcopy(embedding)) == before
    assert get_transformation_hash(nodes(), AkiDBMLXEmbedding(embedder=embedding.load())) == before


def test_the_key_uses_the_configuration_as_resolved_at_construction(monkeypatch):
    monkeypatch.setenv("AKIDB_MLX_TRUNCATE_DIM", "64")
    embedding = AkiDBMLXEmbedding(model_name=MINILM)
    before = get_transformation_hash(nodes(), embedding)
    monkeypatch.setenv("AKIDB_MLX_TRUNCATE_DIM", "32")
    assert get_transformation_hash(nodes(), embedding) == before == _key(truncate_dim=64)
    again = pickle.loads(pickle.dumps(embedding))
    assert again.truncate_dim == AkiDBMLXEmbedding.from_dict(embedding.to_dict()).truncate_dim == 64


def test_metadata_that_nobody_reads_keeps_equal_contents_apart_in_the_ingestion_cache():
    """LlamaIndex joins the contents of nodes for its key; what docs/llama-index.md says against it."""

    def cut(size, **own):
        text = "abcdefgh"
        parts = [text[at : at + size] for at in range(0, len(text), size)]
        return [TextNode(text=part, **own) for part in parts]

    def told(size):
        names = {"source": "a.txt", "cut": size}
        own = {"excluded_embed_metadata_keys": [*names], "excluded_llm_metadata_keys": [*names]}
        return cut(size, metadata=names, **own)

    fake = FakeEmbedder(4)
    pipeline = IngestionPipeline(transformations=[AkiDBMLXEmbedding(embedder=fake)])
    assert len(pipeline.run(nodes=cut(2))) == 4
    assert len(pipeline.run(nodes=cut(4))) == 4  # two were given
    first, second = (pipeline.run(nodes=told(size)) for size in (2, 4))
    assert [len(first), len(second)] == [4, 2]
    assert_close([node.embedding for node in second], fake.encode_document(["abcd", "efgh"]))
    pipeline.disable_cache = True
    assert len(pipeline.run(nodes=cut(4))) == 2


def test_a_persisted_pipeline_reloaded_makes_no_forward(embedding, tmp_path):
    pipeline = IngestionPipeline(transformations=[TokenTextSplitter(chunk_size=64, chunk_overlap=0), embedding])
    documents = [Document(text=" ".join(TEXTS * 3), doc_id="one")]
    first = pipeline.run(documents=documents)
    pipeline.persist(str(tmp_path / "pipeline"))
    again = IngestionPipeline(
        transformations=[TokenTextSplitter(chunk_size=64, chunk_overlap=0), AkiDBMLXEmbedding(model_name=MINILM)]
    )
    again.load(str(tmp_path / "pipeline"))
    before = forwards(embedding)
    second = again.run(documents=documents)
    assert forwards(embedding) == before
    assert [node.embedding for node in second] == [node.embedding for node in first]
    other = AkiDBMLXEmbedding(model_name=MINILM, document_prompt="passage: ")
    again.transformations[1] = other
    assert again.run(documents=documents)[0].embedding != first[0].embedding


# ── pickling, copies, workers ────────────────────────────────────────────────────────────────────────


def test_pickle_is_small_and_leaves_the_live_object_unharmed(embedding, caplog):
    row = embedding.get_text_embedding("x")
    lock = LlamaDebugHandler(print_trace_on_end=False)
    lock.lock = threading.Lock()
    embedding.callback_manager = CallbackManager([lock])
    with caplog.at_level(logging.WARNING):
        data = pickle.dumps(embedding)
    assert len(data) < 10_000
    assert "CallbackManager cannot be pickled" in caplog.text
    assert embedding.callback_manager.handlers == [lock]
    assert_close(embedding.get_text_embedding("x"), row)
    again = pickle.loads(data)
    assert_close(again.get_text_embedding("x"), row)
    assert again.callback_manager.handlers == []


def test_unpickling_reads_neither_environment_nor_file_and_keeps_the_rest(monkeypatch):
    data = pickle.dumps(AkiDBMLXEmbedding(model_name=MINILM, embed_batch_size=9, max_batch_tokens=999))
    monkeypatch.setenv("AKIDB_MLX_TRUNCATE_DIM", "7")
    monkeypatch.setenv("AKIDB_CONFIG", "/no/such/file.yaml")
    again = pickle.loads(data)
    assert (again.truncate_dim, again.embed_batch_size, again.max_batch_tokens) == (None, 9, 999)


def test_pickling_an_embedder_without_configuration_is_an_error():
    fake = AkiDBMLXEmbedding(embedder=FakeEmbedder(8))
    with pytest.raises(pickle.PicklingError, match="FakeEmbedder has no configuration"):
        pickle.dumps(fake)
    assert len(fake.get_query_embedding("still works")) == 8


def test_deepcopy_of_a_retriever_shares_the_engine(embedding):
    retriever = VectorStoreIndex(nodes(), embed_model=embedding).as_retriever(similarity_top_k=1)
    again = copy.deepcopy(retriever)
    assert again._embed_model.load() is embedding.load()
    assert again.retrieve("a cat")[0].text == TEXTS[1]


def test_a_copy_with_changes_is_checked_and_embeds_with_them(embedding):
    short = embedding.model_copy(update={"truncate_dim": 32, "embed_batch_size": 5})
    assert len(short.get_query_embedding("x")) == short.truncate_dim == 32
    assert (short.embed_batch_size, embedding.embed_batch_size, embedding.truncate_dim) == (5, 512, None)
    with pytest.raises(errors.ConfigError, match="did you mean truncate_dim"):
        embedding.model_copy(update={"truncate_dims": 32})
    assert embedding.model_copy(update={"model_name": str(PROMPTS)}).model_name == str(PROMPTS)


def _pipeline(embedding):
    return IngestionPipeline(
        transformations=[TokenTextSplitter(chunk_size=32, chunk_overlap=0), embedding], disable_cache=True
    )


@pytest.fixture
def documents():
    return [Document(text=f"{text} Number {i}.", doc_id=str(i)) for i, text in enumerate(TEXTS * 2)]


@pytest.mark.slow
def test_a_pipeline_with_two_processes_equals_serial(embedding, documents):
    serial = _pipeline(embedding).run(documents=documents)
    parallel = _pipeline(embedding).run(documents=documents, num_workers=2)
    assert [node.text for node in parallel] == [node.text for node in serial]
    assert_close([node.embedding for node in parallel], [node.embedding for node in serial])
    assert len(embedding.get_query_embedding("the live object")) == 384


@pytest.mark.slow
async def test_an_async_pipeline_with_two_processes_finishes(embedding, documents):
    serial = _pipeline(embedding).run(documents=documents)  # so that the parent's engine is at work before the fork
    run = asyncio.wait_for(_pipeline(embedding).arun(documents=documents, num_workers=2), PATIENCE_S)
    if multiprocessing.get_start_method() == "fork" and not DEVICE.survives_fork:
        with pytest.raises(errors.BackendError, match='forked.*"spawn"'):
            await run
        return
    parallel = await run
    assert_close([node.embedding for node in parallel], [node.embedding for node in serial])


async def test_an_async_pipeline(embedding, documents):
    done = await _pipeline(embedding).arun(documents=documents)
    serial = _pipeline(embedding).run(documents=documents)
    assert_close([node.embedding for node in done], [node.embedding for node in serial])


async def test_a_long_async_batch_waits_for_room_rather_than_fail():
    embedding = AkiDBMLXEmbedding(model_name=PROMPTS, max_queued_tokens=64, embed_batch_size=8)
    texts = [f"{text} number {i}" for i in range(20) for text in TEXTS]
    assert_close(await embedding.aget_text_embedding_batch(texts), embedding.get_text_embedding_batch(texts))


def test_sixteen_threads_equal_serial(embedding):
    texts = [f"{text} ({i})" for i in range(6) for text in TEXTS]
    serial = embedding.get_text_embedding_batch(texts)
    with ThreadPoolExecutor(16) as pool:
        assert_close(list(pool.map(embedding.get_text_embedding, texts)), serial)


# ── caches ───────────────────────────────────────────────────────────────────────────────────────────


async def test_a_cache_hit_makes_no_forward_and_sides_differ():
    cache = SimpleKVStore()
    embedding = AkiDBMLXEmbedding(model_name=PROMPTS, embeddings_cache=cache)
    query, text = embedding.get_query_embedding("tea"), embedding.get_text_embedding("tea")
    assert not np.allclose(query, text, atol=1e-3)
    bare = AkiDBMLXEmbedding(model_name=PROMPTS)
    assert_close(query, bare.get_query_embedding("tea"))
    assert_close(text, bare.get_text_embedding("tea"))
    before = forwards(embedding)
    assert embedding.get_query_embedding("tea") == query
    assert embedding.get_text_embedding("tea") == text
    assert embedding.get_text_embedding_batch(["tea", "tea"]) == [text, text]
    assert await embedding.aget_query_embedding("tea") == query
    assert await embedding.aget_text_embedding("tea") == text
    assert await embedding.aget_text_embedding_batch(["tea"]) == [text]
    assert forwards(embedding) == before


async def test_async_queries_do_not_leak_their_side():
    embedding = AkiDBMLXEmbedding(model_name=PROMPTS, embeddings_cache=SimpleKVStore())
    both = [embedding.aget_query_embedding("tea"), embedding.aget_text_embedding("tea")] * 8
    rows = await asyncio.gather(*both)
    bare = AkiDBMLXEmbedding(model_name=PROMPTS)
    assert_close(rows[0::2], [bare.get_query_embedding("tea")] * 8)
    assert_close(rows[1::2], [bare.get_text_embedding("tea")] * 8)


def test_two_recipes_share_a_cache_safely():
    cache = SimpleKVStore()
    for options in ({}, {"document_prompt": "other: "}, {"truncate_dim": 8}):
        cached = AkiDBMLXEmbedding(model_name=PROMPTS, embeddings_cache=cache, **options)
        bare = AkiDBMLXEmbedding(model_name=PROMPTS, **options)
        assert_close(cached.get_text_embedding("tea"), bare.get_text_embedding("tea"))
    assert len(cache.to_dict()) == 3


def test_the_cache_is_kept_apart_however_it_is_set(tmp_path):
    cache = SimpleKVStore()
    embedding = AkiDBMLXEmbedding(model_name=PROMPTS)
    embedding.embeddings_cache = cache
    assert not np.allclose(embedding.get_query_embedding("tea"), embedding.get_text_embedding("tea"), atol=1e-3)
    short = embedding.model_copy(update={"truncate_dim": 8})
    assert len(short.get_text_embedding("tea")) == 8
    embedding.embeddings_cache.persist(str(tmp_path / "cache.json"))  # the store's own methods are there
    before = forwards(embedding)
    again = AkiDBMLXEmbedding(
        model_name=PROMPTS, embeddings_cache=SimpleKVStore.from_persist_path(str(tmp_path / "cache.json"))
    )
    assert again.get_text_embedding("tea") == embedding.get_text_embedding("tea")
    assert pickle.loads(pickle.dumps(again)).get_text_embedding("tea") == again.get_text_embedding("tea")
    assert forwards(embedding) == before
    embedding.embeddings_cache = None
    assert_close(embedding.get_query_embedding("tea"), again.get_query_embedding("tea"))
    with pytest.raises(TypeError, match="must be a BaseKVStore, not a dict"):
        embedding.embeddings_cache = {}


def test_a_cache_has_all_of_a_stores_methods():
    embedding = AkiDBMLXEmbedding(model_name=PROMPTS, embeddings_cache=SimpleKVStore())
    cache = embedding.embeddings_cache
    cache.put("key", {"a": 1}, "mine")
    asyncio.run(cache.aput("other", {"b": 2}, "mine"))
    assert cache.get_all("mine") == asyncio.run(cache.aget_all("mine")) == {"key": {"a": 1}, "other": {"b": 2}}
    assert cache.delete("key", "mine")
    assert asyncio.run(cache.adelete("other", "mine"))
    assert cache.get("key", "mine") is asyncio.run(cache.aget("other", "mine")) is None
    assert not hasattr(cache, "no_such_method")


# ── the framework around it ──────────────────────────────────────────────────────────────────────────


def test_settings_take_it(embedding, monkeypatch):
    monkeypatch.setattr(Settings, "_embed_model", None)
    Settings.embed_model = embedding
    assert Settings.embed_model is embedding
    index = VectorStoreIndex(nodes())
    assert index.as_retriever(similarity_top_k=1).retrieve("bakery")[0].text == TEXTS[3]


def test_a_retriever_makes_exactly_one_query_call():
    counting = Counting()
    embedding = AkiDBMLXEmbedding(embedder=counting)
    index = VectorStoreIndex(nodes(), embed_model=embedding)
    assert (counting.queries, len(counting.documents)) == ([], 1)
    index.as_retriever(similarity_top_k=2).retrieve("a question")
    assert (counting.queries, len(counting.documents)) == ([["a question"]], 1)
    asyncio.run(index.as_retriever().aretrieve("another"))
    assert (counting.queries, len(counting.documents)) == ([["a question"], ["another"]], 1)
    index.as_retriever().retrieve(QueryBundle("with a vector", embedding=[1.0] * 8))
    assert len(counting.queries) == 2


async def test_an_index_finds_the_exact_text_first(embedding):
    for use_async in (False, True):
        index = VectorStoreIndex(nodes(), embed_model=embedding, use_async=use_async)
        retriever = index.as_retriever(similarity_top_k=1)
        for text in TEXTS:
            assert retriever.retrieve(text)[0].text == text
            assert (await retriever.aretrieve(text))[0].text == text


class Events(BaseEventHandler):
    seen: list

    def handle(self, event, **kwargs):
        if isinstance(event, EmbeddingStartEvent | EmbeddingEndEvent):
            self.seen.append(event)


@pytest.fixture
def events():
    handler, root = Events(seen=[]), get_dispatcher()
    root.add_event_handler(handler)
    yield handler.seen
    root.event_handlers.remove(handler)


def test_exactly_a_start_and_an_end_event_with_the_models_name(embedding, events):
    calls = [
        lambda: embedding.get_query_embedding("x"),
        lambda: embedding.get_text_embedding("x"),
        lambda: embedding.get_text_embedding_batch(["x", "y"]),
        lambda: asyncio.run(embedding.aget_query_embedding("x")),
        lambda: asyncio.run(embedding.aget_text_embedding("x")),
        lambda: asyncio.run(embedding.aget_text_embedding_batch(["x", "y"])),
    ]
    for call in calls:
        events.clear()
        call()
        assert [type(event) for event in events] == [EmbeddingStartEvent, EmbeddingEndEvent]
        assert events[0].model_dict["model_name"] == MINILM
        assert events[0].model_dict["class_name"] == "AkiDBMLXEmbedding"


def test_a_query_is_traced_as_any_other_embeddings(embedding):
    from llama_index.core.instrumentation.span_handlers import SimpleSpanHandler

    class Plain(BaseEmbedding):
        def _get_query_embedding(self, query):
            return [0.0]

        _get_text_embedding = _get_query_embedding

        async def _aget_query_embedding(self, query):
            return [0.0]

    handler, root = SimpleSpanHandler(), get_dispatcher()
    root.add_span_handler(handler)
    try:
        for model in (embedding, Plain()):
            model.get_query_embedding("x")
            asyncio.run(model.aget_query_embedding("x"))
    finally:
        root.span_handlers.remove(handler)
    names = [span.id_.split("-")[0].split(".")[1] for span in handler.completed_spans]
    assert names[:4] == names[4:]


def test_the_callback_manager_sees_the_calls(minilm):
    handler = LlamaDebugHandler(print_trace_on_end=False)
    embedding = AkiDBMLXEmbedding(model_name=MINILM, callback_manager=CallbackManager([handler]))
    embedding.get_text_embedding_batch(["x", "y"])
    embedding.get_query_embedding("x")
    assert len(handler.get_event_pairs(CBEventType.EMBEDDING)) == 2


def test_a_rate_limiter_is_asked(minilm):
    limits = pytest.importorskip("llama_index.core.rate_limiter", reason="this llama-index-core has no rate limiter")

    class Asked(limits.TokenBucketRateLimiter):
        times: list = Field(default_factory=list)

        def acquire(self, num_tokens=0):
            self.times.append("sync")
            super().acquire(num_tokens)

        async def async_acquire(self, num_tokens=0):
            self.times.append("async")
            await super().async_acquire(num_tokens)

    limiter = Asked(requests_per_minute=600)
    embedding = AkiDBMLXEmbedding(model_name=MINILM, rate_limiter=limiter)
    embedding.get_query_embedding("x")
    embedding.get_text_embedding_batch(["x"])
    asyncio.run(embedding.aget_text_embedding_batch(["x"]))
    assert limiter.times == ["sync", "sync", "async"]
    assert "rate_limiter" not in embedding.to_dict()


def test_semantic_splitter(embedding):
    text = " ".join(
        ["Cats sleep most of the day.", "A kitten naps in the sun.", "My cat purrs on the sofa."] * 2
        + ["The central bank raised interest rates.", "Inflation fell to two percent.", "Bond yields rose."] * 2
    )
    splitter = SemanticSplitterNodeParser(
        embed_model=embedding,
        buffer_size=1,
        breakpoint_percentile_threshold=80,
        sentence_splitter=lambda text: re.split(r"(?<=[.]) ", text),
    )
    chunks = splitter.get_nodes_from_documents([Document(text=text)])
    assert len(chunks) >= 2
    assert not any("kitten" in chunk.text and "bank raised" in chunk.text for chunk in chunks[:1])


def test_sentence_embedding_optimizer(embedding):
    from llama_index.core.postprocessor import SentenceEmbeddingOptimizer
    from llama_index.core.schema import NodeWithScore

    node = NodeWithScore(node=TextNode(text="Cats sleep a lot. It rained. The budget passed. Taxes rose. Bonds fell."))
    optimizer = SentenceEmbeddingOptimizer(
        embed_model=embedding,
        percentile_cutoff=0.2,
        tokenizer_fn=lambda text: [f"{part}." for part in text.split(". ") if part],
    )
    (done,) = optimizer.postprocess_nodes([node], QueryBundle("sleeping animals"))
    assert "Cats" in done.node.text
    assert "Bonds" not in done.node.text


def test_an_index_persisted_with_its_recipe(embedding, tmp_path):
    folder = str(tmp_path / "index")
    ensure_recipe(folder, embedding)
    VectorStoreIndex(nodes(), embed_model=embedding).storage_context.persist(folder)
    ensure_recipe(folder, embedding)
    index = load_index_from_storage(StorageContext.from_defaults(persist_dir=folder), embed_model=embedding)
    assert index.as_retriever(similarity_top_k=1).retrieve(TEXTS[2])[0].text == TEXTS[2]
    with pytest.raises(errors.ConfigError, match="pooling 'mean' → 'max'"):
        ensure_recipe(folder, AkiDBMLXEmbedding(model_name=MINILM, pooling="max"))


# ── vectors from elsewhere ───────────────────────────────────────────────────────────────────────────


def test_nodes_with_vectors_are_taken_and_validated(embedding):
    given = nodes()
    given[1].embedding = np.full(384, 0.5, np.float32)
    before = embedding.load().stats()["texts"]
    done = embedding(given)
    assert done is given
    assert embedding.load().stats()["texts"] - before == 4
    assert given[1].embedding == [0.5] * 384
    assert type(given[1].embedding[0]) is float
    assert_close(given[0].embedding, embedding.get_text_embedding(TEXTS[0]))
    index = VectorStoreIndex(given, embed_model=embedding)
    assert index.as_retriever(similarity_top_k=1).retrieve(TEXTS[0])[0].text == TEXTS[0]


@pytest.mark.parametrize(
    ("vector", "said"),
    [
        ([1.0, 2.0], "has 2 numbers; the model's dimension is 384"),
        ([float("nan")] * 384, "holds NaN"),
        ([float("inf")] * 384, "holds NaN or infinity"),
    ],
)
async def test_a_node_with_an_unusable_vector_is_named(embedding, vector, said):
    given = nodes()
    given[3].embedding = vector
    with pytest.raises(errors.InputError, match=f"the embedding of node 3 \\(3\\) {said}"):
        embedding(given)
    with pytest.raises(errors.InputError, match=f"the embedding of node 3 \\(3\\) {said}"):
        await embedding.acall(given)


async def test_a_pipeline_keeps_the_vectors_that_are_there():
    counting = Counting()
    pipeline = IngestionPipeline(transformations=[AkiDBMLXEmbedding(embedder=counting)], disable_cache=True)
    given = nodes()
    for node in given[:4]:
        node.embedding = [1.0] * 8
    for done in (pipeline.run(nodes=copy.deepcopy(given)), await pipeline.arun(nodes=copy.deepcopy(given))):
        assert [node.embedding == [1.0] * 8 for node in done] == [True] * 4 + [False]
    assert counting.documents == [[TEXTS[4]], [TEXTS[4]]]
