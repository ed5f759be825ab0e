"""The class for rerankers: what users may pass, rankings, sharing, lifetime, a queue, streams."""

import asyncio
import copy
import json
import multiprocessing
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields

import numpy as np
import pytest

from akidb_mlx import Embedder, Ranked, Reranker, RerankerConfig, RerankerProtocol
from akidb_mlx.config.reranker_config import SCORE_FIELDS
from akidb_mlx.errors import ClosedError, ConfigError, InputError, QueueFullError, UnsupportedModelError
from akidb_mlx.scores import finish_scores, ranking
from support.checkpoints import PROMPTS, RERANKERS
from support.comparison import assert_close
from support.device import DEVICE, held_device, stalled, unmeasured
from support.waiting import PATIENCE_S, auntil, until

BERT, LABELS, CHAT = RERANKERS / "bert-prompts", RERANKERS / "bert-three-labels", RERANKERS / "qwen3-reranker"
QUERY = "Which trees grow in the garden?"
DOCUMENTS = ["Our garden has 12 apple trees.", "Snow fell through the night.", "warm bread", "Trees.", ""]
PAIRS = [(QUERY, document) for document in DOCUMENTS]
# Two computations of one pair in other company; the weights are random, which amplifies rounding.
OURS = 5e-6


@pytest.fixture(scope="module")
def bert():
    with Reranker.load(BERT) as reranker:
        yield reranker


@pytest.fixture(scope="module")
def chat():
    with Reranker.load(CHAT) as reranker:
        yield reranker


# ── what may be passed ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        ("a text", "pairs must be a list of"),
        ({"a": "b"}, "pairs must be a list of"),
        (["a", "b"], "item 0 is a str, not a pair"),
        (("a", "b"), r"put one pair in a list: \[\(query, text\)\]"),
        ([("a", "b"), ("a", "b", "c")], "item 1 is a tuple of 3, not a pair"),
        ([("a",)], "item 0 is a tuple of 1, not a pair"),
        ([("a", None)], "the text of item 0 is a NoneType, not a str"),
        ([(7, "a")], "the query of item 0 is a int, not a str"),
        ([{"query": "a", "document": "b"}], "item 0 is a dict, not a pair"),
    ],
)
def test_what_is_no_pair_is_named(bert, pairs, words):
    with pytest.raises(TypeError, match=words):
        bert.predict(pairs)
    with pytest.raises(TypeError, match=words):
        asyncio.run(bert.apredict(pairs))


def test_nothing_gives_nothing(bert):
    scores = bert.predict([])
    assert (scores.shape, scores.dtype) == ((0,), np.float32)
    assert bert.rank(QUERY, []) == [] == asyncio.run(bert.arank(QUERY, []))
    with Reranker.load(LABELS) as labels:
        assert labels.predict([]).shape == (0, 3)


def test_pairs_may_be_lists(bert):
    assert_close(bert.predict([list(pair) for pair in PAIRS]), bert.predict(PAIRS), OURS)


def test_lone_surrogates_count_as_the_replacement(bert):
    assert_close(bert.predict([("a \ud800", "b \udfff c")]), bert.predict([("a \ufffd", "b \ufffd c")]), OURS)


def test_a_pair_without_tokens_is_told():
    with Reranker.load(RERANKERS / "qwen3-dense-scores") as reranker:
        if reranker.count_tokens([("", "")])[0]:
            assert np.isfinite(reranker.predict([("", "")])).all()
    with (
        Reranker.load(RERANKERS / "qwen2-classifier") as reranker,
        pytest.raises(InputError, match="pair 1 has no tokens, hence no score"),
    ):
        reranker.predict([("a", "b"), ("", "")])


def test_overlong_pairs_are_counted_or_refused(bert):
    before = bert.stats()["truncated_texts"]
    long = (QUERY, "a text " * 500)
    assert bert.count_tokens([long]) == [bert.max_seq_length]
    bert.predict([long])
    assert bert.stats()["truncated_texts"] == before + 1
    with (
        Reranker.load(BERT, on_overlong="error") as strict,
        pytest.raises(InputError, match=f"pair 1 has more than {bert.max_seq_length} tokens"),
    ):
        strict.predict([("a", "b"), long])


@pytest.mark.parametrize("name", ["relu", "", "Sigmoid", 3])
def test_an_unknown_activation_is_an_error(bert, name):
    with pytest.raises(InputError, match="there are identity, sigmoid, tanh, softmax"):
        bert.predict(PAIRS, activation=name)


def test_softmax_wants_several_labels(bert):
    with pytest.raises(InputError, match="softmax gives 1 for every pair"):
        bert.predict(PAIRS, activation="softmax")
    with pytest.raises(ConfigError, match=r"activation is softmax \(argument\)"):
        Reranker.load(BERT, activation="softmax")
    with Reranker.load(LABELS, activation="softmax") as labels:
        assert_close(labels.predict(PAIRS).sum(axis=1), np.ones(len(PAIRS)))


def test_an_embedder_is_refused_by_name_and_the_reverse():
    with pytest.raises(UnsupportedModelError, match=r"load it with akidb_mlx\.Embedder"):
        Reranker.load(PROMPTS)
    for name in ("bert", "bert-saved"):
        with pytest.raises(UnsupportedModelError, match=r"akidb_mlx\.Reranker"):
            Embedder.load(RERANKERS / name)


# ── activations and rankings by hand ─────────────────────────────────────────────────────────────────


def test_activations_by_hand():
    rows = np.array([[-200.0], [-1.0], [0.0], [2.0], [200.0]], np.float32)
    assert_close(finish_scores(rows, "sigmoid"), [0, 0.2689414213699951, 0.5, 0.8807970779778823, 1])
    assert_close(finish_scores(rows, "tanh"), [-1, -0.7615941559557649, 0, 0.9640275800758169, 1])
    assert finish_scores(rows, "identity").tolist() == [-200, -1, 0, 2, 200]
    two = np.array([[0.0, 0.0], [1.0, 3.0]], np.float32)
    assert_close(finish_scores(two, "softmax"), [[0.5, 0.5], [0.11920292202211755, 0.8807970779778823]])
    assert finish_scores(two, "identity").shape == (2, 2)


def test_equal_scores_keep_the_given_order():
    assert ranking(np.array([1, 2, 2, 0, 2], np.float32), None) == [(1, 2.0), (2, 2.0), (4, 2.0), (0, 1.0), (3, 0.0)]
    assert ranking(np.array([1, 2], np.float32), 1) == [Ranked(1, 2.0)]
    assert ranking(np.array([1, 2], np.float32), 0) == []


def test_rank_is_predict_sorted(bert):
    ranked, scores = bert.rank(QUERY, DOCUMENTS), bert.predict(PAIRS)
    assert [entry.corpus_id for entry in ranked] == np.argsort(-scores, kind="stable").tolist()
    assert_close([entry.score for entry in ranked], np.sort(scores)[::-1], OURS)
    assert bert.rank(QUERY, DOCUMENTS, top_k=2) == ranked[:2]
    assert {type(value) for entry in ranked for value in entry} == {int, float}
    json.dumps(ranked)


def test_rank_refuses_what_it_cannot_rank(bert):
    with pytest.raises(InputError, match="top_k is -1"):
        bert.rank(QUERY, DOCUMENTS, top_k=-1)
    with pytest.raises(TypeError, match="top_k must be a whole number"):
        bert.rank(QUERY, DOCUMENTS, top_k=True)
    with pytest.raises(TypeError, match="query must be a str"):
        bert.rank(None, DOCUMENTS)
    with pytest.raises(TypeError, match="documents must be a list of str"):
        bert.rank(QUERY, "a document")
    with Reranker.load(LABELS) as labels, pytest.raises(InputError, match="gives 3 scores for a pair"):
        labels.rank(QUERY, DOCUMENTS)


@pytest.mark.parametrize("name", ["bert", "chat"])
def test_a_prompt_is_a_text(name, request):
    reranker = request.getfixturevalue(name)
    with pytest.raises(TypeError, match="prompt must be a str, not a int"):
        reranker.predict(PAIRS, prompt=5)


# ── prompts and settings ─────────────────────────────────────────────────────────────────────────────


def test_prompts_stand_before_the_query(bert):
    said = bert.info()["prompts"]
    assert set(said) == {"query", "question"}
    by_hand = [(said["question"] + query, text) for query, text in PAIRS]
    plain = bert.predict(by_hand, prompt="")
    assert_close(bert.predict(PAIRS, prompt_name="question"), plain, OURS)
    assert_close(bert.predict(PAIRS, prompt=said["question"]), plain, OURS)
    assert_close(bert.predict(PAIRS), bert.predict(PAIRS, prompt_name="query"), OURS)
    with Reranker.load(BERT, prompt=said["question"]) as other:
        assert_close(other.predict(PAIRS), plain, OURS)
        assert other.fingerprint != bert.fingerprint
    with pytest.raises(InputError, match="has no prompt called 'passage'; it has 'query', 'question'"):
        bert.predict(PAIRS, prompt_name="passage")


def test_the_users_activation_wins(bert):
    assert bert.activation == "sigmoid"
    with Reranker.load(BERT, activation="identity") as other:
        assert other.activation == "identity"
        assert_close(other.predict(PAIRS), bert.predict(PAIRS, activation="identity"), OURS)
        assert other._loaded is bert._loaded
        assert other.fingerprint != bert.fingerprint


def test_variables_and_a_section_of_the_file(monkeypatch, tmp_path):
    (tmp_path / "embedding_config.yaml").write_text(
        "model: some/embedder\nreranker:\n  model: a/reranker\n  dtype: float16\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AKIDB_MLX_RERANKER_MAX_SEQ_LENGTH", "77")
    monkeypatch.setenv("AKIDB_MLX_DTYPE", "bfloat16")
    config = RerankerConfig()
    assert (config.model, config.dtype, config.max_seq_length) == ("a/reranker", "float16", 77)
    assert config.source_of("max_seq_length") == "AKIDB_MLX_RERANKER_MAX_SEQ_LENGTH"
    assert config.source_of("dtype").endswith("embedding_config.yaml: reranker.dtype")
    from akidb_mlx import EmbedderConfig

    assert (EmbedderConfig().model, EmbedderConfig().dtype) == ("some/embedder", "bfloat16")
    monkeypatch.setenv("AKIDB_MLX_RERANKER_POOLING", "cls")
    with pytest.raises(ConfigError, match="unknown environment variable AKIDB_MLX_RERANKER_POOLING"):
        RerankerConfig()


@pytest.mark.parametrize(
    "name", ["AKIDB_MLX_RERANK_MODEL", "AKIDB_MLX_RERANKERMODEL", "AKIDB_MLX_RERANKER", "AKIDB_MLX_reranker_model"]
)
def test_variables_that_can_only_mean_a_reranker_are_not_left_unread(name, monkeypatch):
    monkeypatch.setenv(name, "a/reranker")
    with pytest.raises(ConfigError, match=f"unknown environment variable {name}; did you mean AKIDB_MLX_RERANKER_MODE"):
        RerankerConfig()


@pytest.mark.parametrize("section", ["rerankr", "Reranker", "rerank", "rerankers"])
def test_a_section_nearly_called_so_is_told(section, monkeypatch, tmp_path):
    from akidb_mlx import EmbedderConfig

    (tmp_path / "embedding_config.yaml").write_text(f"embedding:\n  model: a\n{section}:\n  model: b\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=rf"unknown section {section} in .*yaml; did you mean reranker\?"):
        RerankerConfig()
    assert EmbedderConfig().model == "a"
    (tmp_path / "embedding_config.yaml").write_text(f"model: a\n{section}:\n  model: b\n")
    with pytest.raises(ConfigError, match=rf"unknown key in .*: {section}; did you mean reranker\?"):
        EmbedderConfig()


def test_every_field_that_decides_scores_is_in_the_fingerprint(bert):
    changed = {
        "max_seq_length": 20,
        "dtype": "float32",
        "activation": "tanh",
        "prompt": "other ",
        "tokenizer": "file",
        "exact_reference": True,
    }
    assert set(changed) == SCORE_FIELDS - {"model", "revision"}
    # Where the file stands as it is, and no end token is put that the reference leaves out.
    same = {"tokenizer", "exact_reference"}
    for name, value in changed.items():
        with Reranker.load(BERT, **{name: value}) as other:
            assert (other.fingerprint == bert.fingerprint) is (name in same), name


def test_the_template_counts_in_the_fingerprint(chat, tmp_path):
    import shutil

    folder = shutil.copytree(CHAT, tmp_path / "model")
    with Reranker.load(folder) as copied:
        assert copied.fingerprint == chat.fingerprint
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text().replace("Say yes or no", "Say no or yes"))
    with Reranker.load(folder) as changed:
        assert changed.fingerprint != chat.fingerprint
        assert not np.allclose(changed.predict(PAIRS), chat.predict(PAIRS), atol=1e-6)


# ── sharing and lifetime ─────────────────────────────────────────────────────────────────────────────


def test_equal_settings_share_one_model(loads):
    with Reranker.load(BERT, max_seq_length=31) as one, Reranker.load(BERT, max_seq_length=31) as two:
        assert one._loaded is two._loaded
        one.close()
        assert np.isfinite(two.predict(PAIRS)).all()
    assert len(loads) == 1
    assert not two.healthy
    two.close()
    with pytest.raises(ClosedError, match="the reranker is closed; load it again"):
        two.predict(PAIRS)


def test_a_reranker_that_is_closed_midway_speaks_of_no_embedder():
    reranker = Reranker.load(BERT, max_seq_length=30)
    with ThreadPoolExecutor(2) as pool:
        with held_device():
            waiting = pool.submit(reranker.predict, PAIRS)
            until(lambda: reranker.stats()["queued_tokens"])
            closing = pool.submit(reranker.close)
            with pytest.raises(ClosedError, match="the model was closed while this request waited"):
                waiting.result(PATIENCE_S)
        closing.result(PATIENCE_S)


def test_copies_and_pickles_are_loaded_again(bert):
    for other in (pickle.loads(pickle.dumps(bert)), copy.deepcopy(bert)):
        with other:
            assert other._loaded is bert._loaded
            assert other.fingerprint == bert.fingerprint
    assert repr(bert) == f"Reranker({str(BERT)!r}, num_labels=1)"
    assert isinstance(bert, RerankerProtocol)


@pytest.mark.skipif(not DEVICE.survives_fork, reason="a GPU's process cannot fork")
def test_a_forked_child_scores(bert):
    expected = bert.predict(PAIRS)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=lambda: queue.put(bert.predict(PAIRS)))
    child.start()
    assert_close(queue.get(timeout=PATIENCE_S), expected, OURS)
    child.join(PATIENCE_S)
    assert child.exitcode == 0


def test_info_says_what_decides(chat, bert):
    facts = chat.info()
    assert facts["head"] == "logit of token 259 less that of 258"
    assert facts["chat_template"] == "chat_template.jinja"
    assert facts["sources"]["activation"] == "config_sentence_transformers.json"
    assert bert.info()["token_types"] is True
    assert facts["stats"]["requests"] == chat.stats()["requests"]
    json.dumps(facts)


# ── many callers ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["bert", "chat"])
def test_threads_and_tasks_equal_serial(name, request):
    reranker = request.getfixturevalue(name)
    pairs = [(f"{QUERY} {i % 7}", DOCUMENTS[i % 5] + f" {i}") for i in range(60)]
    expected = reranker.predict(pairs, activation="identity")
    with ThreadPoolExecutor(16) as pool:
        rows = list(pool.map(lambda pair: reranker.predict([pair], activation="identity")[0], pairs))
    assert_close(rows, expected, OURS)

    async def together():
        return await asyncio.gather(*(reranker.apredict([pair], activation="identity") for pair in pairs))

    assert_close(np.concatenate(asyncio.run(together())), expected, OURS)


def test_equal_pairs_of_several_requests_are_computed_once(bert):
    before = bert.stats()
    with unmeasured(bert), stalled(bert) as device, ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(bert.predict, PAIRS) for _ in range(8)]
        until(lambda: bert.stats()["requests"] - before["requests"] == 8)
        device.open()
        rows = [call.result(PATIENCE_S) for call in calls]
    assert_close(rows, [rows[0]] * 8)
    assert bert.stats()["texts"] - before["texts"] == 8 * len(PAIRS)
    assert bert.stats()["rows"] - before["rows"] <= 2 * len(PAIRS)  # those that a core had taken before


async def test_a_cancelled_call_leaves_the_queue(bert):
    with held_device():
        call = asyncio.create_task(bert.apredict(PAIRS * 3))
        await auntil(lambda: bert.stats()["queued_tokens"] > 0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await auntil(lambda: bert.stats()["queued_tokens"] == 0)
    assert np.isfinite(bert.predict(PAIRS)).all()


def test_a_full_queue_refuses():
    with Reranker.load(BERT, max_queued_tokens=40) as small, held_device():
        waiting = threading.Thread(target=small.predict, args=(PAIRS[:1],))
        waiting.start()
        until(lambda: small.stats()["queued_tokens"] > 0)
        with pytest.raises(QueueFullError, match="max_queued_tokens=40"):
            small.predict([(QUERY, "another " * 20)])
    waiting.join(PATIENCE_S)


def test_a_stream_equals_predict_and_tells_what_has_no_score():
    with Reranker.load(RERANKERS / "qwen2-classifier") as reranker:
        pairs = [(f"question {i}", f"text {i}") for i in range(50)]
        told = {}
        mixed = [*pairs[:20], ("", ""), *pairs[20:]]
        chunks = list(reranker.predict_stream(mixed, 8, on_error=told.__setitem__))
        assert [len(chunk) for chunk in chunks] == [8] * 6 + [3]
        scores = np.concatenate(chunks)
        assert np.isnan(scores[20]).all()
        assert list(told) == [20] and "no tokens" in str(told[20])
        assert_close(np.delete(scores, 20, axis=0), reranker.predict(pairs), OURS)
        with pytest.raises(InputError, match="no tokens"):
            list(reranker.predict_stream(mixed, 8))
        with pytest.raises(TypeError, match="item 1 is a str"):
            list(reranker.predict_stream([("a", "b"), "c"]))


def test_the_usage_of_a_call(bert):
    scores, usage = asyncio.run(bert.apredict_with_usage(PAIRS, activation="identity"))
    assert_close(scores, bert.predict(PAIRS, activation="identity"), OURS)
    assert usage.tokens == sum(bert.count_tokens(PAIRS, bert._prompts.query))
    with pytest.raises(InputError, match="the pairs have more than 10 tokens together"):
        asyncio.run(bert.apredict_with_usage(PAIRS, max_tokens=10))


def test_no_field_of_a_recipe_is_forgotten(bert):
    assert {field.name for field in fields(bert._loaded.recipe)} == {
        "checkpoint",
        "device",
        "max_seq_length",
        "token_types",
    }


def test_another_kinds_configuration_is_told():
    from akidb_mlx import EmbedderConfig

    with pytest.raises(TypeError, match="Reranker takes a RerankerConfig, not a EmbedderConfig"):
        Reranker.load(EmbedderConfig(model=str(PROMPTS)))
    with pytest.raises(TypeError, match="Embedder takes a EmbedderConfig, not a RerankerConfig"):
        Embedder.load(RerankerConfig(model=str(BERT)))
