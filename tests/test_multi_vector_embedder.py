"""The class for late interaction: what may be passed, options, rankings, sharing, lifetime, streams."""

import asyncio
import copy
import json
import multiprocessing
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields

import numpy as np
import pytest

from akidb_mlx import (
    Embedder,
    EmbedderConfig,
    MultiVectorConfig,
    MultiVectorEmbedder,
    MultiVectorEmbedderProtocol,
    MultiVectors,
    Ranked,
    Reranker,
    RerankerProtocol,
)
from akidb_mlx.config.multi_vector_config import TOKEN_VECTOR_FIELDS
from akidb_mlx.errors import ClosedError, ConfigError, InputError, UnsupportedModelError
from akidb_mlx.maxsim import maxsim_pairs, token_pairs
from akidb_mlx.token_pooling import pool_tokens
from support.checkpoints import MULTI_VECTOR, PROMPTS, TINY_RERANKER
from support.comparison import assert_close, assert_unit_length
from support.device import DEVICE
from support.pairwise import DOCUMENTS as PAIRED
from support.pairwise import MAXSIM_PAIRWISE, QUERIES
from support.waiting import PATIENCE_S

FIXED, MIN, LEFT, KEEP = (MULTI_VECTOR / name for name in ("fixed", "min", "left-padding", "keep-only"))
QUERY = "Which trees grow in the garden?"
DOCUMENTS = ["Our garden has 12 apple trees.", "Snow fell through the night.", "warm bread", "Trees.", ""]
# Two computations of one text in other company; the weights are random, which amplifies rounding.
OURS = 5e-6


@pytest.fixture(scope="module")
def fixed():
    with MultiVectorEmbedder.load(FIXED) as embedder:
        yield embedder


@pytest.fixture(scope="module")
def least():
    with MultiVectorEmbedder.load(MIN) as embedder:
        yield embedder


def same(found, expected):
    assert found.offsets.tolist() == expected.offsets.tolist()
    assert_close(found.vectors, expected.vectors, OURS)


# ── what may be passed, and what comes out ───────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["encode", "encode_query", "encode_document"])
def test_what_is_no_list_of_texts_is_named(fixed, name):
    with pytest.raises(TypeError, match="texts must be a list of str, not a str"):
        getattr(fixed, name)("a text")
    with pytest.raises(TypeError, match="item 1 is a NoneType, not a str"):
        asyncio.run(getattr(fixed, "a" + name)(["a", None]))
    empty = getattr(fixed, name)([])
    assert isinstance(empty, MultiVectors) and len(empty) == 0 and empty.vectors.shape == (0, fixed.dimension)


def test_rows_are_arrays_of_their_own(fixed):
    rows = fixed.encode_document(DOCUMENTS)
    assert len(rows) == len(DOCUMENTS) and rows.dimension == fixed.dimension == 8
    assert rows.vectors.dtype == np.float32 and rows.vectors.flags["OWNDATA"]
    assert_unit_length(rows.vectors)
    assert [len(row) for row in fixed.encode_query(DOCUMENTS)] == [14] * 5
    assert [len(row) for row in rows] == [len(tokens) for tokens in fixed.tokens(DOCUMENTS, side="document")]
    assert fixed.count_tokens(DOCUMENTS, side="query") == [14] * 5
    assert min(fixed.count_tokens(DOCUMENTS)) < 14


def test_tokens_of_the_vectors(fixed):
    (tokens,) = fixed.tokens(["tea, bread."], side="document")
    assert (tokens[0], tokens[-1]) == ("[CLS]", "[SEP]")
    assert "," not in tokens and "." not in tokens[-3:]
    (query,) = fixed.tokens(["tea"], side="query")
    assert (
        query.count("[MASK]")
        == 14 - len(fixed.tokens(["tea"], side=None)[0]) - fixed.count_tokens(["[unused0] "])[0] + 2
    )
    (row,), (other,) = fixed.encode_query(["tea"]), fixed.encode_document(["tea, bread."])
    pairs = token_pairs(row, other)
    assert [pair.query_token for pair in pairs] == list(range(14))
    assert_close(sum(pair.score for pair in pairs), fixed.similarity([row], [other])[0, 0], 1e-5)


def test_a_text_may_have_no_vectors():
    with MultiVectorEmbedder.load(KEEP) as keep:
        rows = keep.encode_document(DOCUMENTS)
        assert len(rows[4]) == 0 and len(rows[0]) > 0
        scores = keep.similarity(keep.encode_query([QUERY]), rows)
        assert scores[0, 4] == -1e9
        assert keep.rank(QUERY, DOCUMENTS)[-1] == Ranked(4, -1e9)
        assert keep.encode_document([""]).vectors.shape == (0, 8)


def test_half_precision(fixed):
    with MultiVectorEmbedder.load(FIXED, output_dtype="float16") as half:
        rows, whole = half.encode_document(DOCUMENTS), fixed.encode_document(DOCUMENTS)
        assert rows.vectors.dtype == np.float16
        assert np.abs(rows.vectors - whole.vectors).max() < 1e-3
        assert half._loaded is fixed._loaded
        assert half.similarity(half.encode_query([QUERY]), rows).dtype == np.float32


def test_what_similarity_takes(fixed):
    queries, documents = fixed.encode_query([QUERY]), fixed.encode_document(DOCUMENTS)
    expected = fixed.similarity(queries, documents)
    assert expected.shape == (1, 5) and expected.dtype == np.float32
    plain = fixed.similarity([row.tolist() for row in queries], [row.astype(np.float64) for row in documents])
    assert_close(plain, expected, OURS)
    assert_close(fixed.similarity(queries, documents, on_device=True), expected, 1e-5)
    with pytest.raises(InputError, match=r"row 1 has shape \(8,\); vectors of tokens are \(tokens, dimension\)"):
        fixed.similarity([np.ones((2, 8)), np.ones(8)], documents)
    for other in ([np.ones((2, 7))], MultiVectors.of([np.ones((2, 7), np.float32)], 7)):
        with pytest.raises(InputError, match="7 numbers, where this model's have 8"):
            fixed.similarity(queries, other)


@pytest.mark.parametrize("kind", sorted(MAXSIM_PAIRWISE))
def test_pairs_have_the_references_scores(kind):
    queries, documents = (MultiVectors.of([np.array(row, np.float32) for row in side], 2) for side in (QUERIES, PAIRED))
    assert maxsim_pairs(queries, documents, kind).tolist() == MAXSIM_PAIRWISE[kind]


def test_pairs_of_a_models_rows(fixed):
    queries, documents = fixed.encode_query([QUERY, "tea"]), fixed.encode_document(DOCUMENTS[:2])
    expected = np.diag(fixed.similarity(queries, documents))
    assert_close(fixed.similarity_pairwise(queries, documents), expected, 1e-5)
    assert_close(fixed.similarity_pairwise([row.tolist() for row in queries], documents), expected, 1e-5)
    with pytest.raises(InputError, match="2 queries and 1 documents are no pairs"):
        fixed.similarity_pairwise(queries, documents[:1])


# ── rankings ─────────────────────────────────────────────────────────────────────────────────────────


def test_rank_and_predict_are_similarity(fixed):
    scores = fixed.similarity(fixed.encode_query([QUERY]), fixed.encode_document(DOCUMENTS))[0]
    ranked = fixed.rank(QUERY, DOCUMENTS)
    assert [entry.corpus_id for entry in ranked] == np.argsort(-scores, kind="stable").tolist()
    assert_close([entry.score for entry in ranked], np.sort(scores)[::-1], OURS)
    assert fixed.rank(QUERY, DOCUMENTS, top_k=2) == ranked[:2] == asyncio.run(fixed.arank(QUERY, DOCUMENTS, 2))
    json.dumps(ranked)
    pairs = [(QUERY, text) for text in DOCUMENTS] + [("tea", DOCUMENTS[0]), [QUERY, DOCUMENTS[2]]]
    found = fixed.predict(pairs)
    assert found.shape == (7,) and found.dtype == np.float32
    assert_close(found[:5], scores, OURS)
    assert_close(found[6], scores[2], OURS)
    assert_close(asyncio.run(fixed.apredict(pairs)), found, OURS)
    other = fixed.similarity(fixed.encode_query(["tea"]), fixed.encode_document(DOCUMENTS[:1]))
    assert_close(found[5], other[0, 0], OURS)


def test_rankings_of_nothing_and_of_bad_input(fixed):
    assert fixed.rank(QUERY, []) == asyncio.run(fixed.arank(QUERY, [])) == []
    assert fixed.predict([]).shape == asyncio.run(fixed.apredict([])).shape == (0,)
    with pytest.raises(InputError, match="top_k is -1"):
        fixed.rank(QUERY, DOCUMENTS, top_k=-1)
    with pytest.raises(TypeError, match="query must be a str"):
        fixed.rank(None, DOCUMENTS)
    with pytest.raises(TypeError, match="item 0 is a str, not a pair"):
        fixed.predict(["a", "b"])


# ── settings ─────────────────────────────────────────────────────────────────────────────────────────


def test_token_pooling_by_the_call_and_by_the_setting(fixed):
    whole = fixed.encode_document(DOCUMENTS)
    expected = [pool_tokens(row, 2) for row in whole]
    found = fixed.encode_document(DOCUMENTS, token_pooling=2)
    assert [len(row) for row in found] == [len(row) for row in expected]
    assert_close(found.vectors, np.concatenate(expected), 2e-5)
    same(asyncio.run(fixed.aencode_document(DOCUMENTS, token_pooling=2)), found)
    assert len(fixed.encode(DOCUMENTS, token_pooling=2).vectors) < len(fixed.encode(DOCUMENTS).vectors)
    with MultiVectorEmbedder.load(FIXED, token_pooling=2) as pooling:
        same(pooling.encode_document(DOCUMENTS), found)
        same(pooling.encode_document(DOCUMENTS, token_pooling=1), whole)
        same(pooling.encode_query([QUERY]), fixed.encode_query([QUERY]))
        (stream,) = pooling.encode_stream(DOCUMENTS, side="document")
        same(stream, found)
        assert pooling._loaded is fixed._loaded
    for factor, error in ((0.5, InputError), (float("nan"), InputError), ("2", TypeError), (True, TypeError)):
        with pytest.raises(error, match="token_pooling"):
            fixed.encode(["a"], token_pooling=factor)


def test_lengths_of_the_user(fixed, least):
    with MultiVectorEmbedder.load(FIXED, query_length=9, document_length=6) as short:
        assert [len(row) for row in short.encode_query(DOCUMENTS)] == [9] * 5
        assert max(short.count_tokens(DOCUMENTS, side="document")) == 6
        assert short.fingerprint != fixed.fingerprint
    with MultiVectorEmbedder.load(MIN, query_length=12) as short:
        assert {len(row) for row in short.encode_query(["tea", "a b c d e f g h i j k l m n o"])} == {10, 12}
    with pytest.raises(ConfigError, match=r"query_length is 5 \(argument\), but .* at least 10 tokens"):
        MultiVectorEmbedder.load(MIN, query_length=5)
    with pytest.raises(ConfigError, match="fills queries up to 14 tokens, but a text may have 9"):
        MultiVectorEmbedder.load(FIXED, max_seq_length=9)
    with pytest.raises(ConfigError, match="queries have? up to 999|fills queries up to 999"):
        MultiVectorEmbedder.load(FIXED, query_length=999)
    with pytest.raises(ConfigError, match=r'truncate_dim \(argument\): .* output_dtype="float16" or token_pooling'):
        MultiVectorEmbedder.load(FIXED, truncate_dim=4)


def test_prompts_of_the_user(fixed):
    assert fixed.info()["prompts"] == {"query": "[unused0] ", "document": "[unused1] "}
    with MultiVectorEmbedder.load(FIXED, query_prompt="ask: ", document_prompt="") as other:
        same(other.encode_document(["tea"]), MultiVectors.of([fixed.encode(["tea"])[0]], 8))
        same(other.encode(["tea"], prompt="ask: "), fixed.encode(["ask: tea"]))
        assert other._loaded is fixed._loaded and other.fingerprint != fixed.fingerprint
    with pytest.raises(InputError, match="has no prompt called 'other'; it has 'document', 'query'"):
        fixed.encode(["a"], prompt_name="other")


def test_a_passage_prompt_serves_documents_unless_the_reference_is_wanted(tmp_path):
    folder = shutil.copytree(MULTI_VECTOR / "min", tmp_path / "model")
    file = folder / "config_sentence_transformers.json"
    said = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**said, "prompts": {**said["prompts"], "passage": "tell: "}}), encoding="utf-8")
    with MultiVectorEmbedder.load(folder) as ours, MultiVectorEmbedder.load(folder, exact_reference=True) as exact:
        same(ours.encode_document(["tea"]), ours.encode(["tell: tea"]))
        same(exact.encode_document(["tea"]), ours.encode(["tea"]))
        assert "the prompt 'passage' serves documents" in ours.info()["differences"][0]
        assert exact.info()["differences"] == []


def test_every_field_that_decides_vectors_is_in_the_fingerprint(fixed):
    changed = {
        "max_seq_length": 20,
        "dtype": "float32",
        "query_length": 9,
        "document_length": 9,
        "query_prompt": "q",
        "document_prompt": "d",
        "output_dtype": "float16",
        "token_pooling": 2,
        "tokenizer": "file",
        "exact_reference": True,
    }
    assert set(changed) == TOKEN_VECTOR_FIELDS - {"model", "revision"}
    same_rows = {"tokenizer"}  # where the file stands as it is
    for name, value in changed.items():
        with MultiVectorEmbedder.load(FIXED, **{name: value}) as other:
            assert (other.fingerprint == fixed.fingerprint) is (name in same_rows), name


def test_fingerprints_differ_by_what_the_files_say():
    names = ("fixed", "fixed-attend", "min", "skip-both-sides", "stanford", "stanford-punctuation", "pylate-bare")
    found = set()
    for name in names:
        with MultiVectorEmbedder.load(MULTI_VECTOR / name) as embedder:
            found.add(embedder.fingerprint)
    assert len(found) == len(names)


def test_variables_and_a_section_of_the_file(monkeypatch, tmp_path):
    (tmp_path / "embedding_config.yaml").write_text(
        "model: some/embedder\nmulti_vector:\n  model: a/colbert\n  output_dtype: float16\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AKIDB_MLX_MULTI_VECTOR_QUERY_LENGTH", "48")
    config = MultiVectorConfig()
    assert (config.model, config.output_dtype, config.query_length) == ("a/colbert", "float16", 48)
    assert config.source_of("query_length") == "AKIDB_MLX_MULTI_VECTOR_QUERY_LENGTH"
    assert EmbedderConfig().model == "some/embedder"
    monkeypatch.setenv("AKIDB_MLX_MULTI_VECTOR_POOLING", "cls")
    with pytest.raises(ConfigError, match="unknown environment variable AKIDB_MLX_MULTI_VECTOR_POOLING"):
        MultiVectorConfig()
    with pytest.raises(TypeError, match="MultiVectorEmbedder takes a MultiVectorConfig, not a EmbedderConfig"):
        MultiVectorEmbedder.load(EmbedderConfig(model="x"))


# ── sharing and lifetime ─────────────────────────────────────────────────────────────────────────────


def test_other_kinds_are_refused_by_name_and_the_reverse():
    for folder, name in ((PROMPTS, "Embedder"), (TINY_RERANKER, "Reranker")):
        with pytest.raises(UnsupportedModelError, match=rf"akidb_mlx\.{name}"):
            MultiVectorEmbedder.load(folder)
    for kind in (Embedder, Reranker):
        for name in ("fixed", "pylate", "pylate-older", "stanford"):
            with pytest.raises(UnsupportedModelError, match=r"load it with akidb_mlx\.MultiVectorEmbedder"):
                kind.load(MULTI_VECTOR / name)


def test_equal_settings_share_one_model(loads):
    with (
        MultiVectorEmbedder.load(MIN, document_length=20) as one,
        MultiVectorEmbedder.load(MIN, document_length=20) as two,
    ):
        assert one._loaded is two._loaded
        one.close()
        assert len(two.encode(["tea"])) == 1
    assert len(loads) == 1
    assert not two.healthy
    for call in (lambda: two.encode(["tea"]), lambda: two.similarity([], [], on_device=True)):
        with pytest.raises(ClosedError, match="the multi-vector-embedder is closed; load it again"):
            call()


def test_copies_and_pickles_are_loaded_again(fixed):
    for other in (pickle.loads(pickle.dumps(fixed)), copy.deepcopy(fixed)):
        with other:
            assert other._loaded is fixed._loaded
            assert other.fingerprint == fixed.fingerprint
    assert repr(fixed) == f"MultiVectorEmbedder({str(FIXED)!r}, dimension=8)"
    assert isinstance(fixed, MultiVectorEmbedderProtocol)
    assert isinstance(fixed, RerankerProtocol)


@pytest.mark.skipif(not DEVICE.survives_fork, reason="a GPU's process cannot fork")
def test_a_forked_child_embeds(fixed):
    expected = fixed.encode_document(DOCUMENTS)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=lambda: queue.put(fixed.encode_document(DOCUMENTS)))
    child.start()
    same(queue.get(timeout=PATIENCE_S), expected)
    child.join(PATIENCE_S)
    assert child.exitcode == 0


def test_info_says_what_decides(fixed):
    facts = fixed.info()
    assert facts["written_by"] == "sentence-transformers"
    expected = {"strategy": "fixed", "length": 14, "attend": False, "token": "[MASK]", "side": "right"}
    assert facts["expansion"] == expected
    assert facts["sources"]["expansion"] == "sentence_bert_config.json"
    assert facts["sources"]["skiplist"].endswith("MultiVectorMask/config.json")
    assert facts["side_lengths"] == {"query": 14, "document": 24}
    assert facts["stats"]["requests"] == fixed.stats()["requests"]
    json.dumps(facts)
    with MultiVectorEmbedder.load(LEFT) as left:
        assert left.info()["expansion"]["side"] == "left"
        assert "its rows of each text alone" in left.info()["differences"][0]
    with MultiVectorEmbedder.load(MULTI_VECTOR / "stanford") as stanford:
        facts = stanford.info()
        assert (facts["written_by"], facts["markers"]) == ("Stanford", ["[unused0] ", "[unused1] "])
        assert facts["sources"]["expansion"] == "artifact.metadata"


def test_no_field_of_a_recipe_is_forgotten(fixed):
    assert {field.name for field in fields(fixed._loaded.recipe)} == {
        "checkpoint",
        "device",
        "max_seq_length",
        "side_lengths",
        "expansion",
        "unknown_token",
    }


# ── many callers, streams ────────────────────────────────────────────────────────────────────────────


def test_threads_and_tasks_equal_serial(least):
    texts = [f"{DOCUMENTS[i % 4]} {i}" for i in range(40)]
    expected = least.encode_document(texts)
    with ThreadPoolExecutor(8) as pool:
        rows = list(pool.map(lambda text: least.encode_document([text])[0], texts))
    assert_close(np.concatenate(rows), expected.vectors, OURS)

    async def together():
        return await asyncio.gather(*(least.aencode_document([text]) for text in texts))

    assert_close(MultiVectors.concatenate(asyncio.run(together())).vectors, expected.vectors, OURS)


def test_a_stream_equals_encode_and_tells_what_has_no_row():
    with MultiVectorEmbedder.load(FIXED, on_overlong="error") as strict:
        texts = [f"text {i}" for i in range(30)]
        told = {}
        mixed = [*texts[:12], "a " * 60, *texts[12:]]
        chunks = list(strict.encode_stream(mixed, 8, side="document", on_error=told.__setitem__))
        assert [len(chunk) for chunk in chunks] == [8, 8, 8, 7]
        whole = MultiVectors.concatenate(chunks)
        assert len(whole[12]) == 0
        assert list(told) == [12] and "more than 24 tokens" in str(told[12])
        expected = strict.encode_document(texts)
        assert_close(np.concatenate([row for place, row in enumerate(whole) if place != 12]), expected.vectors, OURS)
        with pytest.raises(InputError, match="text 12 has more than 24 tokens"):
            list(strict.encode_stream(mixed, 8, side="document"))

        async def chunked():
            return [chunk async for chunk in strict.aencode_stream(iter(texts), 8, side="query")]

        same(MultiVectors.concatenate(asyncio.run(chunked())), strict.encode_query(texts))


def test_the_usage_of_a_call(fixed):
    rows, usage = asyncio.run(fixed.aencode_with_usage(DOCUMENTS, "query"))
    same(rows, fixed.encode_query(DOCUMENTS))
    assert usage.tokens == 14 * 5
    with pytest.raises(InputError, match="the texts have more than 10 tokens together"):
        asyncio.run(fixed.aencode_with_usage(DOCUMENTS, "document", max_tokens=10))
