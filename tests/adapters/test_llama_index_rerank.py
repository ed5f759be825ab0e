"""AkiDBMLXRerank: what comes out, events, query and chat engines."""

import asyncio
import copy
import json
import logging
import pickle
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from llama_index.core import VectorStoreIndex
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload, LlamaDebugHandler
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.llms import MockLLM
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import IndexNode, MetadataMode, NodeWithScore, QueryBundle, TextNode

from akidb_mlx import Reranker, RerankerConfig, errors
from akidb_mlx.testing import FakeEmbedder, FakeReranker
from llama_index_akidb_mlx import AkiDBMLXEmbedding, AkiDBMLXRerank
from support.rerankers import NoExecutor, NumPyNumbers, OnlyAsync, Scripted
from support.texts import TEXTS

QUERY = "What does a cat do?"
SCORES = {TEXTS[0]: 0.25, TEXTS[1]: 1.0, TEXTS[2]: -0.5, TEXTS[3]: 0.25, TEXTS[4]: 0.75}
BEST_FIRST = [TEXTS[1], TEXTS[4], TEXTS[0], TEXTS[3], TEXTS[2]]  # 0 and 3 are equal


def scripted(**options):
    return AkiDBMLXRerank(reranker=Scripted(SCORES), **options)


def found_nodes(texts=TEXTS, **more):
    return [NodeWithScore(node=TextNode(text=text, id_=f"id-{i}", **more), score=i / 8) for i, text in enumerate(texts)]


def texts_of(nodes):
    return [node.text for node in nodes]


def dumped(nodes):
    return [node.to_dict() for node in nodes]


async def both(rerank, nodes, query=QUERY):
    """What sync and async give, which is the same."""
    one, other = (
        rerank.postprocess_nodes(nodes, query_str=query),
        await rerank.apostprocess_nodes(nodes, query_str=query),
    )
    assert dumped(one) == dumped(other)
    return one


# ── what comes out ───────────────────────────────────────────────────────────────────────────────────


async def test_the_best_nodes_come_first_with_their_own_scores():
    found = await both(scripted(top_n=5), found_nodes())
    assert isinstance(scripted(), BaseNodePostprocessor)
    assert texts_of(found) == BEST_FIRST
    assert [node.score for node in found] == [SCORES[text] for text in BEST_FIRST]
    assert [node.node_id for node in found] == [f"id-{TEXTS.index(text)}" for text in BEST_FIRST]


@pytest.mark.parametrize("seed", range(5))
async def test_every_node_keeps_its_score_in_any_order(seed):
    texts = [f"text number {i} of many" for i in range(50)]
    random.Random(seed).shuffle(texts)
    fake = FakeReranker()
    expected = dict(zip(texts, fake.predict([(QUERY, text) for text in texts]).tolist(), strict=True))
    found = await both(AkiDBMLXRerank(reranker=fake, top_n=50), found_nodes(texts))
    assert {node.text: node.score for node in found} == expected
    assert [node.score for node in found] == sorted(expected.values(), reverse=True)


async def test_equal_nodes_keep_their_order():
    found = await both(AkiDBMLXRerank(reranker=FakeReranker(), top_n=9), found_nodes(["same"] * 9))
    assert [node.node_id for node in found] == [f"id-{i}" for i in range(9)]


async def test_top_n_and_its_change_at_run_time():
    rerank = scripted()
    for top_n in (2, 4, 1, 99):
        rerank.top_n = top_n
        assert texts_of(await both(rerank, found_nodes())) == BEST_FIRST[:top_n]
    assert scripted().top_n == 2
    for wrong in (0, -1, "3", True, None):
        with pytest.raises(errors.ConfigError, match="^top_n = .*should "):
            rerank.top_n = wrong
    assert rerank.top_n == 99


@pytest.mark.parametrize("keep", [False, True])
async def test_the_callers_nodes_and_scores_are_left_alone(keep):
    given = found_nodes(metadata={"author": "Ada"}, excluded_llm_metadata_keys=["author"])
    before, ids = copy.deepcopy(dumped(given)), [id(node) for node in given]
    found = await both(scripted(top_n=5, keep_retrieval_score=keep), given)
    assert (dumped(given), [id(node) for node in given]) == (before, ids)
    assert not {id(node) for node in found} & set(ids)


async def test_the_retrieval_score_is_kept_where_neither_llm_nor_embedder_reads_it():
    given = found_nodes(metadata={"author": "Ada"})
    found = await both(scripted(top_n=5, keep_retrieval_score=True), given)
    for node in found:
        number = int(node.node_id.removeprefix("id-"))
        assert node.node.metadata == {"author": "Ada", "retrieval_score": number / 8}
        for mode in (MetadataMode.LLM, MetadataMode.EMBED):
            assert node.node.get_content(mode) == given[number].node.get_content(mode)
    again = await both(scripted(top_n=5, keep_retrieval_score=True), found)
    assert texts_of(again) == BEST_FIRST
    assert again[0].node.metadata["retrieval_score"] == 1.0  # what it was found with this time
    assert again[0].node.excluded_llm_metadata_keys == again[0].node.excluded_embed_metadata_keys == ["retrieval_score"]
    assert "retrieval_score" not in (await both(scripted(), given))[0].node.metadata


async def test_a_node_that_has_no_score_and_one_of_another_class():
    given = [NodeWithScore(node=IndexNode(text=TEXTS[0], index_id="elsewhere", obj={"a": 1}))]
    (found,) = await both(scripted(keep_retrieval_score=True), given)
    assert (type(found.node), found.node.index_id, found.node.obj) == (IndexNode, "elsewhere", {"a": 1})
    assert (found.score, found.node.metadata) == (0.25, {"retrieval_score": None})


async def test_what_is_scored_is_the_text_that_would_be_embedded():
    given = found_nodes(["text"], metadata={"author": "Ada", "secret": "x"}, excluded_embed_metadata_keys=["secret"])
    content = given[0].node.get_content(MetadataMode.EMBED)
    assert "Ada" in content and "secret" not in content
    fake = Scripted({content: 0.5})
    await both(AkiDBMLXRerank(reranker=fake), given, " a\nquery ")
    assert fake.asked == [(" a\nquery ", content)] * 2


@pytest.mark.parametrize("fake", [FakeReranker(), NumPyNumbers()])
async def test_scores_are_plain_floats_that_json_takes(fake):
    found = await both(AkiDBMLXRerank(reranker=fake, top_n=5, keep_retrieval_score=True), found_nodes())
    assert {type(node.score) for node in found} == {float}
    json.dumps([dumped(found), [node.to_json() for node in found]])


async def test_no_query_is_an_error_and_no_nodes_are_none():
    rerank = AkiDBMLXRerank(model="nobody/nothing")
    assert await both(rerank, []) == []
    for nodes in ([], found_nodes()):
        with pytest.raises(ValueError, match="reranking needs the query: pass query_str= or query_bundle="):
            rerank.postprocess_nodes(nodes)
        with pytest.raises(ValueError, match="reranking needs the query"):
            await rerank.apostprocess_nodes(nodes)
    found = scripted().postprocess_nodes(found_nodes(), QueryBundle(QUERY, custom_embedding_strs=["other"]))
    assert texts_of(found) == BEST_FIRST[:2]


# ── construction, dictionaries, pickling ─────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"top_m": 3}, "unknown argument top_m; did you mean top_n?"),
        ({"keep_retrieval_scores": True}, "did you mean keep_retrieval_score?"),
        ({"max_seq_length": 0}, "max_seq_length = 0 (argument): should be greater than 0"),
        ({"trust_remote_code": True}, "unknown argument trust_remote_code"),
        ({"model": "a", "model_name": "b"}, "model and model_name mean the same"),
        ({"reranker": FakeReranker(), "activation": "sigmoid"}, "leave out activation, or reranker="),
    ],
)
def test_bad_options_are_refused_at_construction_in_one_line(options, said):
    with pytest.raises(errors.ConfigError) as caught:
        AkiDBMLXRerank(**options)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_its_own_options_are_checked_too():
    for options in ({"top_n": 0}, {"top_n": None}, {"top_n": True}, {"keep_retrieval_score": "perhaps"}):
        with pytest.raises(errors.ConfigError, match=rf"^{next(iter(options))} = .* \(argument\): should "):
            AkiDBMLXRerank(model="x", **options)
    with pytest.raises(TypeError, match="reranker is no reranker but"):
        AkiDBMLXRerank(reranker=FakeReranker)


def test_every_option_of_the_configuration_is_an_option_with_a_description():
    fields = AkiDBMLXRerank.model_fields
    assert set(RerankerConfig.model_fields) - set(fields) == {"model"}
    assert all(field.description for name, field in fields.items() if name != "callback_manager")


def test_what_decides_scores_is_settled_and_the_rest_may_be_assigned():
    rerank = AkiDBMLXRerank(model="x")
    for name in ("model_name", "prompt", "activation", "max_batch_tokens", "reranker"):
        with pytest.raises(errors.ConfigError, match=f"{name} is settled at construction"):
            setattr(rerank, name, None)
    rerank.keep_retrieval_score = True
    rerank.callback_manager = CallbackManager([])
    assert rerank.keep_retrieval_score


def test_both_spellings_of_the_model_and_a_short_repr():
    assert AkiDBMLXRerank(model="x").to_dict() == AkiDBMLXRerank(model_name="x").to_dict()
    assert AkiDBMLXRerank(model_name=Path("some/folder")).model_name == "some/folder"
    assert repr(AkiDBMLXRerank(model="x", prompt="q: ")) == "AkiDBMLXRerank(model='x', prompt='q: ')"
    assert str(scripted()) == "AkiDBMLXRerank(reranker=Scripted)"
    assert AkiDBMLXRerank(model="x").model_copy(update={"model": "y", "top_n": 7}).top_n == 7


def test_dictionary_and_json_round_trips(monkeypatch):
    rerank = AkiDBMLXRerank(model="x", prompt="q: ", top_n=7, keep_retrieval_score=True, cache_dir="~/models")
    monkeypatch.setenv("AKIDB_MLX_RERANKER_PROMPT", "other")
    again = [
        AkiDBMLXRerank.from_dict(rerank.to_dict()),
        AkiDBMLXRerank.from_json(rerank.to_json()),
        AkiDBMLXRerank(**rerank.to_dict()),
        AkiDBMLXRerank.model_validate_json(rerank.model_dump_json()),
    ]
    for each in again:
        assert (each.model_name, each.prompt, each.top_n, each.keep_retrieval_score) == ("x", "q: ", 7, True)
        assert each.to_dict() == rerank.to_dict()
    assert rerank.to_dict()["class_name"] == AkiDBMLXRerank.class_name() == "AkiDBMLXRerank"
    assert {"cache_dir", "device", "reranker", "callback_manager"} & set(rerank.to_dict()) == set()


def test_pickling_reads_no_environment_and_leaves_the_live_object_unharmed(monkeypatch, caplog):
    rerank = AkiDBMLXRerank(model="x", top_n=7, max_batch_tokens=999)
    handler = LlamaDebugHandler(print_trace_on_end=False)
    handler.lock = threading.Lock()
    rerank.callback_manager = CallbackManager([handler])
    with caplog.at_level(logging.WARNING):
        data = pickle.dumps(rerank)
    assert "CallbackManager cannot be pickled" in caplog.text
    assert rerank.callback_manager.handlers == [handler]
    monkeypatch.setenv("AKIDB_MLX_RERANKER_PROMPT", "other")
    again = pickle.loads(data)
    assert (again.top_n, again.prompt, again.max_batch_tokens) == (7, None, 999)
    again.top_n = 3
    assert again.top_n == 3
    with pytest.raises(pickle.PicklingError, match="reranker=Scripted has no configuration"):
        pickle.dumps(scripted())


def test_a_deep_copy_shares_the_model():
    rerank = scripted()
    assert copy.deepcopy(rerank).load() is rerank.load()


# ── event loops and threads ──────────────────────────────────────────────────────────────────────────


async def test_the_event_loop_goes_on_and_none_of_its_threads_are_used():
    fake = OnlyAsync()
    rerank = AkiDBMLXRerank(reranker=fake)
    with NoExecutor():
        call = asyncio.create_task(rerank.apostprocess_nodes(found_nodes(), query_str=QUERY))
        await fake.entered_by(call)
        fake.opened.set()
        assert len(await call) == 2


async def test_concurrent_calls_get_each_their_own_from_one_load(monkeypatch):
    loads = []
    monkeypatch.setattr(Reranker, "load", lambda config: loads.append(config) or FakeReranker())
    rerank = AkiDBMLXRerank(model="x", top_n=5)
    queries = [f"{QUERY} ({i})" for i in range(97)]
    found = await asyncio.gather(*(rerank.apostprocess_nodes(found_nodes(), query_str=query) for query in queries))
    serial = [rerank.postprocess_nodes(found_nodes(), query_str=query) for query in queries]
    with ThreadPoolExecutor(16) as pool:
        threaded = pool.map(lambda query: rerank.postprocess_nodes(found_nodes(), query_str=query), queries)
    expected = [[(node.node_id, node.score) for node in nodes] for nodes in serial]
    for together in (found, threaded):
        assert [[(node.node_id, node.score) for node in nodes] for nodes in together] == expected
    assert [config.model for config in loads] == ["x"]


# ── events ───────────────────────────────────────────────────────────────────────────────────────────


class Events(BaseEventHandler):
    seen: list

    def handle(self, event, **kwargs):
        if isinstance(event, ReRankStartEvent | ReRankEndEvent):
            self.seen.append(event)


@pytest.fixture
def events():
    handler, root = Events(seen=[]), get_dispatcher()
    root.add_event_handler(handler)
    yield handler.seen
    root.event_handlers.remove(handler)


async def test_both_kinds_of_events(events):
    handler = LlamaDebugHandler(print_trace_on_end=False)
    rerank = scripted(callback_manager=CallbackManager([handler]))
    given = found_nodes()
    for call in (rerank.postprocess_nodes, rerank.apostprocess_nodes):
        events.clear()
        handler.flush_event_logs()
        found = call(given, query_str=QUERY)
        found = await found if asyncio.iscoroutine(found) else found
        started, ended = events
        assert (type(started), type(ended)) == (ReRankStartEvent, ReRankEndEvent)
        assert (started.query, started.top_n, started.model_name) == (QUERY, 2, rerank.model_name)
        assert (started.nodes, ended.nodes) == (given, found)
        ((first, last),) = handler.get_event_pairs(CBEventType.RERANKING)
        assert first.payload == {
            EventPayload.NODES: given,
            EventPayload.MODEL_NAME: rerank.model_name,
            EventPayload.QUERY_STR: QUERY,
            EventPayload.TOP_K: 2,
        }
        assert last.payload == {EventPayload.NODES: found}


async def test_no_nodes_send_no_events_and_a_failure_ends_the_callbacks_event(events):
    handler = LlamaDebugHandler(print_trace_on_end=False)
    rerank = scripted(callback_manager=CallbackManager([handler]))
    await both(rerank, [])
    assert (events, handler.get_event_pairs(CBEventType.RERANKING)) == ([], [])
    with pytest.raises(KeyError):
        rerank.postprocess_nodes(found_nodes(["not in the script"]), query_str=QUERY)
    ((_, last),) = handler.get_event_pairs(CBEventType.RERANKING)
    assert isinstance(last.payload[EventPayload.EXCEPTION], KeyError)
    assert [type(event) for event in events] == [ReRankStartEvent]


# ── LlamaIndex's own engines ─────────────────────────────────────────────────────────────────────────


@pytest.fixture
def index():
    nodes = [TextNode(text=text, id_=str(i)) for i, text in enumerate(TEXTS)]
    return VectorStoreIndex(nodes, embed_model=AkiDBMLXEmbedding(embedder=FakeEmbedder(16)))


async def test_a_retriever_query_engine(index):
    engine = RetrieverQueryEngine.from_args(
        index.as_retriever(similarity_top_k=5), llm=MockLLM(), node_postprocessors=[scripted(top_n=3)]
    )
    for response in (engine.query(QUERY), await engine.aquery(QUERY)):
        assert texts_of(response.source_nodes) == BEST_FIRST[:3]
    assert texts_of(engine.retrieve(QueryBundle(QUERY))) == BEST_FIRST[:3]
    assert texts_of(await engine.aretrieve(QueryBundle(QUERY))) == BEST_FIRST[:3]


async def test_what_the_llm_reads_has_no_scores_in_it(index):
    plain = index.as_query_engine(similarity_top_k=5, llm=MockLLM(), node_postprocessors=[scripted(top_n=3)])
    rerank = scripted(top_n=3, keep_retrieval_score=True)
    keeping = index.as_query_engine(similarity_top_k=5, llm=MockLLM(), node_postprocessors=[rerank])
    response = keeping.query(QUERY)  # MockLLM says what it is told
    assert TEXTS[1] in str(response)
    assert str(response) == str(plain.query(QUERY)) == str(await keeping.aquery(QUERY))
    assert all("retrieval_score" in node.metadata for node in response.source_nodes)


async def test_the_indexs_nodes_are_as_they_were(index):
    before = {name: node.to_dict() for name, node in index.docstore.docs.items()}
    rerank = scripted(top_n=5, keep_retrieval_score=True)
    engine = index.as_query_engine(similarity_top_k=5, llm=MockLLM(), node_postprocessors=[rerank])
    engine.query(QUERY)
    await engine.aquery(QUERY)
    assert {name: node.to_dict() for name, node in index.docstore.docs.items()} == before


async def test_a_chat_engine(index):
    engine = index.as_chat_engine(
        chat_mode="context",
        llm=MockLLM(),
        similarity_top_k=5,
        node_postprocessors=[scripted(top_n=2)],
        memory=ChatMemoryBuffer.from_defaults(token_limit=3000),  # the usual one leaves a database open
    )
    for response in (engine.chat(QUERY), await engine.achat(QUERY)):
        assert texts_of(response.source_nodes) == BEST_FIRST[:2]
    streamed = engine.stream_chat(QUERY)
    "".join(streamed.response_gen)
    assert texts_of(streamed.source_nodes) == BEST_FIRST[:2]
    streamed = await engine.astream_chat(QUERY)
    async for _ in streamed.async_response_gen():
        pass
    assert texts_of(streamed.source_nodes) == BEST_FIRST[:2]
