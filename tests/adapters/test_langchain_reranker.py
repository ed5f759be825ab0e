"""AkiDBMLXReranker: what comes out, and its place in LangChain's own components."""

import asyncio
import copy
import json
import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.language_models import FakeListChatModel
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda, RunnablePassthrough
from langchain_core.vectorstores import InMemoryVectorStore

from akidb_mlx import Reranker, RerankerConfig, errors
from akidb_mlx.testing import FakeEmbedder, FakeReranker
from langchain_akidb_mlx import AkiDBMLXEmbeddings, AkiDBMLXReranker
from support.packages import needs
from support.rerankers import NoExecutor, NumPyNumbers, OnlyAsync, Scripted, SeveralLabels
from support.texts import TEXTS
from support.waiting import PATIENCE_S

QUERY = "What does a cat do?"
SCORES = {TEXTS[0]: 0.25, TEXTS[1]: 1.0, TEXTS[2]: -0.5, TEXTS[3]: 0.25, TEXTS[4]: 0.75}
BEST_FIRST = [TEXTS[1], TEXTS[4], TEXTS[0], TEXTS[3], TEXTS[2]]  # 0 and 3 are equal


def scripted(**options):
    return AkiDBMLXReranker(reranker=Scripted(SCORES), **options)


def documents(texts=TEXTS):
    return [
        Document(text, metadata={"number": i, "nested": {"tags": [i]}}, id=f"id-{i}") for i, text in enumerate(texts)
    ]


def contents(found):
    return [document.page_content for document in found]


@pytest.fixture
def loads(monkeypatch):
    """What is loaded, slowly, in place of models: fakes that know their configuration."""
    loads = []

    class Loaded(FakeReranker):
        def __init__(self, config):
            self.config = config

    def load(config):
        loads.append(config)
        time.sleep(0.05)
        return Loaded(config)

    monkeypatch.setattr(Reranker, "load", load)
    return loads


# ── what comes out ───────────────────────────────────────────────────────────────────────────────────


def test_it_is_both_a_compressor_and_a_cross_encoder():
    assert isinstance(scripted(), BaseDocumentCompressor)
    assert isinstance(scripted(), BaseCrossEncoder)


def test_the_best_documents_come_first_with_their_own_scores():
    found = scripted(top_n=None).compress_documents(documents(), QUERY)
    assert contents(found) == BEST_FIRST
    for document in found:
        number = TEXTS.index(document.page_content)
        assert document.id == f"id-{number}"
        assert document.metadata == {
            "number": number,
            "nested": {"tags": [number]},
            "relevance_score": SCORES[document.page_content],
        }


@pytest.mark.parametrize("seed", range(5))
def test_every_document_keeps_its_score_in_any_order(seed):
    import random

    texts = [f"text number {i} of many" for i in range(50)]
    random.Random(seed).shuffle(texts)
    fake = FakeReranker()
    expected = dict(zip(texts, fake.predict([(QUERY, text) for text in texts]).tolist(), strict=True))
    found = AkiDBMLXReranker(reranker=fake, top_n=None).compress_documents(documents(texts), QUERY)
    assert {document.page_content: document.metadata["relevance_score"] for document in found} == expected
    assert [document.metadata["relevance_score"] for document in found] == sorted(expected.values(), reverse=True)
    results = AkiDBMLXReranker(reranker=fake, top_n=None).rerank(texts, QUERY)
    assert {texts[one["index"]]: one["relevance_score"] for one in results} == expected


def test_equal_documents_keep_their_order():
    reranker = AkiDBMLXReranker(reranker=FakeReranker(), top_n=None)
    found = reranker.compress_documents(documents(["same"] * 9), QUERY)
    assert [document.metadata["number"] for document in found] == list(range(9))


@pytest.mark.parametrize(("top_n", "count"), [(None, 5), (1, 1), (3, 3), (99, 5)])
def test_top_n(top_n, count):
    reranker = scripted(top_n=top_n)
    assert contents(reranker.compress_documents(documents(), QUERY)) == BEST_FIRST[:count]
    assert [TEXTS[one["index"]] for one in reranker.rerank(TEXTS, QUERY)] == BEST_FIRST[:count]
    assert len(scripted().compress_documents(documents(), QUERY)) == 3


def test_top_n_of_a_call():
    reranker = scripted(top_n=2)
    assert [len(reranker.rerank(TEXTS, QUERY, top_n=top_n)) for top_n in (-1, None, 0, 1, 4)] == [2, 5, 0, 1, 4]
    with pytest.raises(errors.InputError):
        reranker.rerank(TEXTS, QUERY, top_n=-2)


@pytest.mark.parametrize(("threshold", "count"), [(None, 5), (0.25, 4), (0.26, 2), (0, 4), (-0.5, 5), (2.0, 0)])
def test_score_threshold(threshold, count):
    reranker = scripted(top_n=None, score_threshold=threshold)
    assert contents(reranker.compress_documents(documents(), QUERY)) == BEST_FIRST[:count]
    assert len(reranker.rerank(TEXTS, QUERY)) == count
    assert len(scripted(top_n=3, score_threshold=threshold).compress_documents(documents(), QUERY)) == min(3, count)


def test_the_callers_documents_are_left_alone():
    given = documents()
    before = copy.deepcopy(given)
    found = scripted(top_n=None).compress_documents(given, QUERY)
    for document in found:
        document.metadata["nested"]["tags"].append("mine")
        document.metadata["new"] = 1
    assert given == before


def test_the_score_wins_over_an_old_one_under_the_metadata_key():
    given = [Document(TEXTS[0], metadata={"relevance_score": "old", "rank": "old"})]
    (found,) = scripted().compress_documents(given, QUERY)
    assert found.metadata == {"relevance_score": 0.25, "rank": "old"}
    (found,) = scripted(metadata_key="rank").compress_documents(given, QUERY)
    assert found.metadata == {"relevance_score": "old", "rank": 0.25}


def test_a_document_of_a_subclass_stays_one():
    class Page(Document):
        page: int = 0

    (found,) = scripted().compress_documents([Page(page_content=TEXTS[0], page=7)], QUERY)
    assert (type(found), found.page) == (Page, 7)


@pytest.mark.parametrize("fake", [FakeReranker(), NumPyNumbers()])
def test_scores_are_plain_floats_that_json_takes(fake):
    reranker = AkiDBMLXReranker(reranker=fake, top_n=None)
    found = reranker.compress_documents(documents(), QUERY)
    found += asyncio.run(reranker.acompress_documents(documents(), QUERY))
    assert {type(document.metadata["relevance_score"]) for document in found} == {float}
    results = reranker.rerank(TEXTS, QUERY)
    assert {(type(one["index"]), type(one["relevance_score"])) for one in results} == {(int, float)}
    scores = reranker.score([(QUERY, text) for text in TEXTS])
    assert type(scores) is list and {type(score) for score in scores} == {float}
    json.dumps([[document.model_dump() for document in found], results, scores])


def test_scores_of_pairs_stand_in_their_order():
    reranker = scripted(top_n=1, score_threshold=0.9)
    assert reranker.score([(QUERY, text) for text in TEXTS]) == list(SCORES.values())
    assert reranker.score([]) == []
    with pytest.raises(TypeError, match="put one pair in a list"):
        reranker.score(["cat", "dog"])
    with pytest.raises(TypeError, match="item 1 is a tuple of 3"):
        reranker.score([(QUERY, "a"), (QUERY, "a", "b")])


def test_several_labels_have_no_one_score():
    with pytest.raises(errors.InputError, match="gives 3 scores for a pair, where one is wanted"):
        AkiDBMLXReranker(reranker=SeveralLabels()).score([(QUERY, "a")])


def test_rerank_takes_texts_documents_and_dictionaries():
    mixed = [TEXTS[0], Document(TEXTS[1]), {"text": TEXTS[2], "title": "unused"}]
    assert scripted().rerank(mixed, QUERY) == [
        {"index": 1, "relevance_score": 1.0},
        {"index": 0, "relevance_score": 0.25},
        {"index": 2, "relevance_score": -0.5},
    ]
    assert asyncio.run(scripted().arerank(mixed, QUERY)) == scripted().rerank(mixed, QUERY)
    assert asyncio.run(scripted().arerank(mixed, QUERY, top_n=1)) == scripted().rerank(mixed, QUERY, top_n=1)


@pytest.mark.parametrize("item", [None, 3, b"bytes", ["nested"], {"title": "no text"}, {"text": None}])
def test_what_is_no_document_is_named(item):
    with pytest.raises(TypeError, match="item 1 "):
        scripted().rerank([TEXTS[0], item], QUERY)
    with pytest.raises(TypeError, match="item 1 is a .*, not a Document"):
        scripted().compress_documents([Document(TEXTS[0]), item], QUERY)
    with pytest.raises(TypeError, match="item 0 is a str, not a Document"):
        scripted().compress_documents([TEXTS[0]], QUERY)


@pytest.mark.parametrize("given", ["a text", b"bytes", {"text": "x"}, {"a"}, 5, None, Document("x")])
def test_what_is_no_list_of_documents_is_refused(given):
    for call in (scripted().rerank, scripted().compress_documents):
        with pytest.raises(TypeError, match="documents must be a list"):
            call(given, QUERY)


def test_a_query_that_is_no_text_is_refused():
    with pytest.raises(TypeError, match="query"):
        scripted().compress_documents(documents(), None)


def test_texts_reach_the_reranker_unchanged():
    text, query = "  two\nlines\r\n\tand  spaces \u00a0", " a\nquery "
    fake = Scripted({text: 1.0})
    reranker = AkiDBMLXReranker(reranker=fake)
    reranker.compress_documents([Document(text)], query)
    reranker.score([(query, text)])
    assert fake.asked == [(query, text)] * 2


def test_nothing_to_rerank_gives_nothing_and_loads_nothing(loads):
    reranker = AkiDBMLXReranker(model="nobody/nothing")
    assert reranker.compress_documents([], QUERY) == reranker.rerank([], QUERY) == reranker.score([]) == []
    assert asyncio.run(reranker.acompress_documents((), QUERY)) == asyncio.run(reranker.arerank([], QUERY)) == []
    assert not loads


# ── construction ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"top_m": 3}, "unknown argument top_m; did you mean top_n?"),
        ({"max_length": 3}, "unknown argument max_length"),
        ({"max_seq_length": -5}, "max_seq_length = -5 (argument): should be greater than 0"),
        ({"activation": "relu"}, "activation = 'relu' (argument)"),
        ({"model": ""}, "model = '' (argument)"),
        ({"model": "a", "model_name": "b"}, "model and model_name mean the same"),
        ({"reranker": FakeReranker(), "prompt": "q: "}, "leave out prompt, or reranker="),
        ({"query_prompt": "q: "}, "unknown argument query_prompt"),
    ],
)
def test_bad_options_are_refused_at_construction_in_one_line(options, said):
    with pytest.raises(errors.ConfigError) as caught:
        AkiDBMLXReranker(**options)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {"top_n": 0},
        {"top_n": -1},
        {"top_n": True},
        {"top_n": "3"},
        {"score_threshold": "high"},
        {"score_threshold": float("nan")},
        {"metadata_key": ""},
        {"metadata_key": None},
    ],
)
def test_its_own_options_are_checked_too(options):
    with pytest.raises(errors.ConfigError, match=rf"^{next(iter(options))} = .* \(argument\): should "):
        AkiDBMLXReranker(model="x", **options)


@pytest.mark.parametrize("other", ["a string", FakeReranker, FakeEmbedder(8), object()])
def test_a_reranker_that_is_none(other):
    with pytest.raises(TypeError, match=r"reranker is no reranker but .*no predict; see RerankerProtocol"):
        AkiDBMLXReranker(reranker=other)


def test_every_option_of_the_configuration_is_an_option_with_a_description():
    fields = AkiDBMLXReranker.model_fields
    assert set(RerankerConfig.model_fields) - set(fields) == set()
    assert all(field.description for field in fields.values())


def test_the_fields_show_what_was_resolved(monkeypatch, tmp_path):
    monkeypatch.setenv("AKIDB_MLX_RERANKER_MAX_SEQ_LENGTH", "96")
    monkeypatch.setenv("AKIDB_MLX_TRUNCATE_DIM", "7")  # the embedder's
    file = tmp_path / "settings.yaml"
    file.write_text("reranker:\n  model: some/reranker\n  activation: identity\n")
    monkeypatch.setenv("AKIDB_CONFIG", str(file))
    reranker = AkiDBMLXReranker(prompt="q: ")
    assert (reranker.model, reranker.activation, reranker.max_seq_length) == ("some/reranker", "identity", 96)
    assert AkiDBMLXReranker.from_config(RerankerConfig(), top_n=7).max_seq_length == 96
    assert AkiDBMLXReranker.from_config(RerankerConfig(), top_n=7).top_n == 7


def test_another_kinds_configuration_is_refused():
    from akidb_mlx import EmbedderConfig

    with pytest.raises(TypeError, match="AkiDBMLXReranker is made of RerankerConfig, not EmbedderConfig"):
        AkiDBMLXReranker.from_config(EmbedderConfig(model="x"))
    with pytest.raises(TypeError, match="AkiDBMLXEmbeddings is made of EmbedderConfig, not RerankerConfig"):
        AkiDBMLXEmbeddings.from_config(RerankerConfig(model="x"))


def test_both_spellings_of_the_model_and_a_path():
    assert AkiDBMLXReranker(model_name="x").model == AkiDBMLXReranker(model="x").model == "x"
    assert AkiDBMLXReranker(model=Path("some/folder")).model == "some/folder"
    assert AkiDBMLXReranker.model_validate({"model_name": "x", "top_n": 8}) == AkiDBMLXReranker(model="x", top_n=8)


def test_what_is_dumped_makes_an_equal_object(monkeypatch):
    reranker = AkiDBMLXReranker(model="x", prompt="q: ", cache_dir="~/models", top_n=None, score_threshold=0.5)
    monkeypatch.setenv("AKIDB_MLX_RERANKER_PROMPT", "other")
    assert AkiDBMLXReranker(**reranker.model_dump()) == reranker
    assert AkiDBMLXReranker.model_validate_json(reranker.model_dump_json()) == reranker


def test_it_is_frozen_hashable_and_its_repr_is_short():
    reranker = AkiDBMLXReranker(model="x")
    with pytest.raises(errors.ConfigError, match="top_n is settled at construction; model_copy"):
        reranker.top_n = 5
    assert repr(reranker) == str(reranker) == "AkiDBMLXReranker(model='x')"
    other = AkiDBMLXReranker(model="x", activation="identity", local_files_only=True)
    assert repr(other) == "AkiDBMLXReranker(model='x', local_files_only=True, activation='identity')"
    assert repr(scripted()) == "AkiDBMLXReranker(reranker=Scripted)"
    assert len({reranker, AkiDBMLXReranker(model_name="x"), other, AkiDBMLXReranker(model="x", top_n=4)}) == 3


def test_a_ready_reranker_is_taken(loads, monkeypatch):
    fake = FakeReranker()
    assert AkiDBMLXReranker(reranker=fake).load() is fake
    assert AkiDBMLXReranker(reranker=fake).model == "FakeReranker"
    assert "reranker" not in AkiDBMLXReranker(reranker=fake).model_dump()
    ready = Reranker.load(RerankerConfig(model="some/model", prompt="q: "))
    monkeypatch.setenv("AKIDB_MLX_RERANKER_PROMPT", "other")
    reranker = AkiDBMLXReranker(reranker=ready)
    assert (reranker.load(), reranker.model, reranker.prompt) == (ready, "some/model", "q: ")


def test_a_copy_with_changes_is_checked(loads):
    reranker = AkiDBMLXReranker(model="x", top_n=4)
    other = reranker.model_copy(update={"prompt": "q: ", "top_n": 7})
    assert (other.prompt, other.top_n, other.load().config.prompt) == ("q: ", 7, "q: ")
    assert (reranker.prompt, reranker.top_n) == (None, 4)
    assert reranker.model_copy(update={"model_name": "y"}).model == "y"
    assert reranker.model_copy() == copy.deepcopy(reranker) == reranker
    with pytest.raises(errors.ConfigError, match="did you mean prompt"):
        reranker.model_copy(update={"promt": "q: "})
    with pytest.raises(errors.ConfigError, match="^top_n = "):
        reranker.model_copy(update={"top_n": 0})


def test_pickle_is_small_and_reads_neither_environment_nor_file(monkeypatch):
    reranker = AkiDBMLXReranker(model="x", top_n=None, score_threshold=0.5)
    data = pickle.dumps(reranker)
    assert len(data) < 10_000
    monkeypatch.setenv("AKIDB_MLX_RERANKER_PROMPT", "other")
    monkeypatch.setenv("AKIDB_CONFIG", "/no/such/file.yaml")
    again = pickle.loads(data)
    assert again == reranker
    assert (again.prompt, again.top_n, again.score_threshold) == (None, None, 0.5)


def test_pickling_a_reranker_without_configuration_is_an_error(loads):
    with pytest.raises(pickle.PicklingError, match="reranker=FakeReranker has no configuration"):
        pickle.dumps(AkiDBMLXReranker(reranker=FakeReranker()))
    ready = Reranker.load(RerankerConfig(model="some/model"))
    assert pickle.loads(pickle.dumps(AkiDBMLXReranker(reranker=ready))).model == "some/model"


# ── loading once; event loops and threads ────────────────────────────────────────────────────────────


def test_building_an_object_loads_nothing_and_a_later_error_is_not_remembered(monkeypatch):
    reranker = AkiDBMLXReranker(model="nobody/nothing")

    def broken(config):
        raise errors.ModelNotFoundError(config.model)

    monkeypatch.setattr(Reranker, "load", broken)
    for _ in range(2):
        with pytest.raises(errors.ModelNotFoundError, match="nobody/nothing"):
            reranker.compress_documents(documents(), QUERY)
        with pytest.raises(errors.ModelNotFoundError, match="nobody/nothing"):
            asyncio.run(reranker.acompress_documents(documents(), QUERY))
    monkeypatch.setattr(Reranker, "load", lambda config: FakeReranker())
    assert len(reranker.compress_documents(documents(), QUERY)) == 3


def test_sixteen_threads_on_first_use_one_load(loads):
    reranker = AkiDBMLXReranker(model="x", top_n=None)
    together = threading.Barrier(16)

    def first_use(i):
        together.wait(PATIENCE_S)
        if i % 2:
            return reranker.compress_documents(documents(), QUERY)
        return asyncio.run(reranker.acompress_documents(documents(), QUERY))

    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(first_use, range(16)))
    assert len(loads) == 1
    assert all(each == found[0] for each in found)


def test_sixteen_threads_equal_serial():
    reranker = AkiDBMLXReranker(reranker=FakeReranker(), top_n=None)
    queries = [f"{QUERY} ({i})" for i in range(64)]
    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(lambda query: reranker.rerank(TEXTS, query), queries))
    assert together == [reranker.rerank(TEXTS, query) for query in queries]


async def test_concurrent_calls_get_each_their_own(loads):
    reranker = AkiDBMLXReranker(model="x", top_n=None)
    queries = [f"{QUERY} ({i})" for i in range(97)]
    found = await asyncio.gather(*(reranker.acompress_documents(documents(), query) for query in queries))
    assert len(loads) == 1
    assert found == [reranker.compress_documents(documents(), query) for query in queries]


async def test_the_event_loop_goes_on_and_none_of_its_threads_are_used():
    fake = OnlyAsync()
    reranker = AkiDBMLXReranker(reranker=fake, top_n=None)
    with NoExecutor():
        calls = [
            asyncio.create_task(reranker.acompress_documents(documents(), QUERY)),
            asyncio.create_task(reranker.arerank(TEXTS, QUERY)),
        ]
        await fake.entered_by(*calls)
        fake.opened.set()
        assert [len(found) for found in await asyncio.gather(*calls)] == [5, 5]


async def test_the_load_does_not_block_the_event_loop(monkeypatch):
    turned = threading.Event()

    def load(config):
        assert turned.wait(PATIENCE_S), "it blocks the event loop"
        return FakeReranker()

    monkeypatch.setattr(Reranker, "load", load)
    reranker = AkiDBMLXReranker(model="x")
    with NoExecutor():
        call = asyncio.create_task(reranker.acompress_documents(documents(), QUERY))
        await asyncio.sleep(0)
        turned.set()
        assert len(await call) == 3


async def test_a_cancelled_call_leaves_it_usable():
    fake = OnlyAsync()
    reranker = AkiDBMLXReranker(reranker=fake)
    call = asyncio.create_task(reranker.acompress_documents(documents(), QUERY))
    await fake.entered_by(call)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    fake.opened.set()
    assert len(await reranker.acompress_documents(documents(), QUERY)) == 3


# ── LangChain's own components ───────────────────────────────────────────────────────────────────────


@pytest.fixture
def store():
    return InMemoryVectorStore.from_documents(documents(), AkiDBMLXEmbeddings(embedder=FakeEmbedder(16)))


async def test_contextual_compression_retriever(store):
    needs("langchain_classic")
    from langchain_classic.retrievers import ContextualCompressionRetriever

    reranker = scripted(top_n=2)
    retriever = ContextualCompressionRetriever(
        base_compressor=reranker, base_retriever=store.as_retriever(search_kwargs={"k": 5})
    )
    found = retriever.invoke(QUERY)
    assert contents(found) == [TEXTS[1], TEXTS[4]]
    assert [document.metadata["relevance_score"] for document in found] == [1.0, 0.75]
    assert found == await retriever.ainvoke(QUERY)
    assert await retriever.abatch([QUERY] * 9) == [found] * 9
    assert contents(retriever.invoke(QUERY)) == [TEXTS[1], TEXTS[4]]  # the store's documents are as they were
    nothing = InMemoryVectorStore(AkiDBMLXEmbeddings(embedder=FakeEmbedder(16))).as_retriever()
    assert ContextualCompressionRetriever(base_compressor=reranker, base_retriever=nothing).invoke(QUERY) == []


async def test_cross_encoder_reranker():
    needs("langchain_classic")
    from langchain_classic.retrievers.document_compressors import CrossEncoderReranker

    compressor = CrossEncoderReranker(model=scripted(), top_n=4)
    assert contents(compressor.compress_documents(documents(), QUERY)) == BEST_FIRST[:4]
    assert contents(await compressor.acompress_documents(documents(), QUERY)) == BEST_FIRST[:4]
    assert compressor.compress_documents([], QUERY) == []


async def test_document_compressor_pipeline():
    needs("langchain_classic", "langchain_text_splitters")
    from langchain_classic.retrievers.document_compressors import DocumentCompressorPipeline
    from langchain_text_splitters import CharacterTextSplitter

    splitter = CharacterTextSplitter(separator="|", chunk_size=1, chunk_overlap=0)
    pipeline = DocumentCompressorPipeline(transformers=[splitter, scripted(top_n=4), scripted(top_n=2)])
    whole = [Document("|".join(TEXTS), metadata={"source": "one"})]
    for found in (pipeline.compress_documents(whole, QUERY), await pipeline.acompress_documents(whole, QUERY)):
        assert contents(found) == [TEXTS[1], TEXTS[4]]
        assert found[0].metadata == {"source": "one", "relevance_score": 1.0}


async def test_in_a_chain(store):
    reranker = scripted(top_n=1)
    prompt = ChatPromptTemplate.from_template("{context} {question}")
    rerank = RunnableLambda(
        lambda given: reranker.compress_documents(given["found"], given["question"])[0].page_content,
        afunc=_arerank_in(reranker),
    )
    found = {"found": store.as_retriever(search_kwargs={"k": 5}), "question": RunnablePassthrough()}
    chain = found | RunnablePassthrough.assign(context=rerank) | prompt | FakeListChatModel(responses=["It sleeps."])
    assert chain.invoke(QUERY).content == (await chain.ainvoke(QUERY)).content == "It sleeps."
    context = (found | rerank).invoke(QUERY)
    assert context == await (found | rerank).ainvoke(QUERY) == TEXTS[1]


def _arerank_in(reranker):
    async def arerank(given):
        return (await reranker.acompress_documents(given["found"], given["question"]))[0].page_content

    return arerank


@pytest.mark.filterwarnings("ignore")  # what other packages warn about is theirs to mend
async def test_langgraph(store):
    needs("langgraph.graph")
    from typing import TypedDict

    from langgraph.graph import END, START, StateGraph

    class State(TypedDict, total=False):
        question: str
        found: list
        best: list

    retriever, reranker = store.as_retriever(search_kwargs={"k": 5}), scripted(top_n=2)

    async def retrieve(state):
        return {"found": await retriever.ainvoke(state["question"])}

    async def rerank(state):
        return {"best": await reranker.acompress_documents(state["found"], state["question"])}

    graph = StateGraph(State)
    graph.add_node("retrieve", retrieve)
    graph.add_node("rerank", rerank)
    graph.add_edge(START, "retrieve")
    graph.add_edge("retrieve", "rerank")
    graph.add_edge("rerank", END)
    app = graph.compile()
    states = await asyncio.gather(*(app.ainvoke({"question": QUERY}) for _ in range(8)))
    assert [contents(state["best"]) for state in states] == [[TEXTS[1], TEXTS[4]]] * 8
