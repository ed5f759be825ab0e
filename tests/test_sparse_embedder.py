"""SparseEmbedder: what users may pass, entries, queries without the model, sharing, lifetime, streams."""

import asyncio
import copy
import hashlib
import inspect
import json
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields

import numpy as np
import pytest

from akidb_mlx import Embedder, EmbedderConfig, SparseConfig, SparseEmbedder, SparseEmbedderProtocol, SparseRows
from akidb_mlx.config.sparse_config import SPARSE_FIELDS
from akidb_mlx.errors import ClosedError, ConfigError, InputError, QueueFullError, UnsupportedModelError
from akidb_mlx.sparse_scores import greatest, similarity, similarity_pairwise
from akidb_mlx.testing import FakeSparseEmbedder
from support.checkpoints import MINILM, SPARSE, TINY_RERANKER
from support.comparison import assert_close
from support.device import held_device
from support.pairwise import LEFT, PAIRWISE, RIGHT
from support.waiting import PATIENCE_S, auntil, until
from support.weights import save_weights

BERT, PROMPTS = SPARSE / "bert-max", SPARSE / "bert-sum"
STATIC, LATENTS, PLAIN = SPARSE / "bert-static-queries", SPARSE / "bert-autoencoder", SPARSE / "bert-plain"
TEXTS = ["Our garden has 12 apple trees.", "Snow fell through the night.", "warm bread", "Trees.", ""]
# Two computations of one text in other company; the weights are random, which amplifies rounding.
OURS = 5e-6


@pytest.fixture(scope="module")
def bert():
    with SparseEmbedder.load(BERT) as embedder:
        yield embedder


@pytest.fixture(scope="module")
def static():
    with SparseEmbedder.load(STATIC) as embedder:
        yield embedder


@pytest.fixture(scope="module")
def latents():
    with SparseEmbedder.load(LATENTS) as embedder:
        yield embedder


def same(a, b):
    """Equal but for rounding, which may also decide whether an entry near zero is there."""
    assert_close(a.to_dense(), b.to_dense(), OURS)


def rows_of(*dicts, dimension=10):
    rows = [(np.array(sorted(row), np.int32), np.array([row[i] for i in sorted(row)], np.float32)) for row in dicts]
    return SparseRows.of(rows, dimension)


# ── what may be passed ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["bert", "static"])
@pytest.mark.parametrize("call", ["encode", "encode_query", "encode_document"])
def test_what_is_no_list_of_texts_is_named(name, call, request):
    embedder = request.getfixturevalue(name)
    for given, words in (("a", "texts must be a list"), ({"a"}, "texts must be a list"), (["a", 7], "item 1 is a int")):
        with pytest.raises(TypeError, match=words):
            getattr(embedder, call)(given)
        with pytest.raises(TypeError, match=words):
            asyncio.run(getattr(embedder, f"a{call}")(given))


@pytest.mark.parametrize("name", ["bert", "static", "latents"])
def test_nothing_gives_nothing(name, request):
    embedder = request.getfixturevalue(name)
    for rows in (embedder.encode([]), embedder.encode_query([]), asyncio.run(embedder.aencode_document([]))):
        assert len(rows) == 0 and rows.dimension == embedder.dimension
        assert rows.indptr.tolist() == [0] and rows.values.dtype == np.float32
    assert embedder.similarity(embedder.encode([]), embedder.encode(TEXTS)).shape == (0, 5)


def test_an_empty_text_has_a_row_of_its_special_tokens(bert, static):
    assert len(bert.encode_document([""])[0][0]) > 0
    assert len(static.encode_document([""])[0][0]) > 0
    rows = static.encode_query(["", "a"])
    with SparseEmbedder.load(STATIC, query_prompt="") as bare:
        assert [len(indices) for indices, _ in bare.encode_query(["", "a"])] == [0, 1]
    assert len(rows[0][0]) > 0  # the prompt's tokens count


def test_lone_surrogates_count_as_the_replacement(bert, static):
    same(bert.encode(["a \ud800"]), bert.encode(["a \ufffd"]))
    same(static.encode_query(["a \ud800"]), static.encode_query(["a \ufffd"]))


@pytest.mark.parametrize("name", ["bert", "static", "latents"])
def test_max_active_dims_must_be_a_number_of_entries(name, request):
    embedder = request.getfixturevalue(name)
    for wrong in (0, -3):
        with pytest.raises(InputError, match=f"max_active_dims is {wrong}; it must be at least 1"):
            embedder.encode_query(TEXTS, max_active_dims=wrong)
    for odd in (2.0, True, "3"):
        with pytest.raises(TypeError, match="max_active_dims must be a whole number"):
            embedder.encode(TEXTS, max_active_dims=odd)
    with pytest.raises(ConfigError, match="max_active_dims = 0"):
        SparseConfig(max_active_dims=0)


def test_the_calls_number_of_entries_wins_upwards_too():
    with SparseEmbedder.load(SPARSE / "bert-max-active-dims") as few, SparseEmbedder.load(BERT) as many:
        assert few.max_active_dims == 6 and many.max_active_dims is None
        assert {len(indices) for indices, _ in few.encode(TEXTS)} == {6}
        assert {len(indices) for indices, _ in few.encode(TEXTS, max_active_dims=9)} == {9}
        assert min(len(indices) for indices, _ in few.encode(TEXTS, max_active_dims=500)) > 50
        whole, cut = many.encode(TEXTS), many.encode(TEXTS, max_active_dims=4)
        for (indices, values), (kept, weights) in zip(whole, cut, strict=True):
            order = np.sort(np.argsort(-values, kind="stable")[:4])
            assert_close(weights, values[order], OURS)
            assert kept.tolist() == indices[order].tolist()
    with SparseEmbedder.load(BERT, max_active_dims=3) as three:
        assert {len(indices) for indices, _ in three.encode(TEXTS)} == {3}


def test_an_autoencoders_number_replaces_k(latents):
    assert latents.max_active_dims == 12 and latents.dimension == 64
    assert {len(indices) for indices, _ in latents.encode(TEXTS, max_active_dims=20)} == {20}
    assert max(len(indices) for indices, _ in latents.encode(TEXTS, max_active_dims=64)) < 64  # only those above 0
    with pytest.raises(InputError, match="max_active_dims is 65; .* has 64 latents"):
        latents.encode(TEXTS, max_active_dims=65)
    with pytest.raises(ConfigError, match=r"max_active_dims is 65 \(argument\)"):
        SparseEmbedder.load(LATENTS, max_active_dims=65)
    with pytest.raises(InputError, match="its latents are no words"):
        latents.decode(latents.encode(TEXTS))


def test_of_equal_entries_the_lower_places_stay():
    row = np.arange(6, dtype=np.int32), np.array([1, -2, 2, 0.5, 2, -2], np.float32)
    for count, kept in ((1, [1]), (3, [1, 2, 4]), (4, [1, 2, 4, 5]), (5, [0, 1, 2, 4, 5]), (9, [0, 1, 2, 3, 4, 5])):
        indices, values = greatest(row, count)
        assert indices.tolist() == kept and values.tolist() == row[1][kept].tolist()


def test_rows_are_not_truncated_by_place(bert):
    with pytest.raises(ConfigError, match="max_active_dims keeps the greatest entries"):
        SparseEmbedder.load(BERT, truncate_dim=10)
    with pytest.raises(TypeError, match="truncate_dim"):
        bert.encode(TEXTS, truncate_dim=10)


def test_overlong_texts_are_counted_or_refused(bert, static):
    long = "snow fell " * 60
    for embedder, call in ((bert, "encode"), (static, "encode_query"), (static, "encode_document")):
        before = embedder.stats()["truncated_texts"]
        getattr(embedder, call)(["a", long])
        assert embedder.stats()["truncated_texts"] == before + 1
        with (
            SparseEmbedder.load(embedder.config, on_overlong="error") as strict,
            pytest.raises(InputError, match="text 1 has more than 24 tokens"),
        ):
            getattr(strict, call)(["a", long])
    assert bert.count_tokens([long, "a"]) == [24, 3]
    assert static.count_tokens([long, "a"], side="query") == [24, 1]


# ── prompts and sides ────────────────────────────────────────────────────────────────────────────────


def test_prompts_stand_before_the_text():
    with SparseEmbedder.load(PROMPTS) as embedder:
        said = embedder.info()["prompts"]
        assert set(said) == {"query", "document", "passage", "title"}
        for side in ("query", "document"):
            by_hand = embedder.encode([said[side] + text for text in TEXTS], prompt="")
            same(getattr(embedder, f"encode_{side}")(TEXTS), by_hand)
            same(embedder.encode(TEXTS, prompt_name=side), by_hand)
        same(embedder.encode(TEXTS), embedder.encode(TEXTS, prompt=""))
        with pytest.raises(InputError, match="has no prompt called 'other'"):
            embedder.encode(TEXTS, prompt_name="other")
        with SparseEmbedder.load(PROMPTS, query_prompt="q ", document_prompt="") as other:
            assert other._loaded is embedder._loaded
            assert other.fingerprint != embedder.fingerprint
            same(other.encode_query(TEXTS), embedder.encode(TEXTS, prompt="q "))
            same(other.encode_document(TEXTS), embedder.encode(TEXTS, prompt=""))


def test_a_passage_prompt_is_no_documents_as_in_the_reference():
    folder = SPARSE / "bert-sum-log1p"  # a default prompt, none for documents
    with SparseEmbedder.load(folder) as embedder:
        same(embedder.encode(TEXTS), embedder.encode(TEXTS, prompt_name="title"))
        same(embedder.encode_document(TEXTS), embedder.encode(TEXTS, prompt=""))


def test_static_queries_need_no_device(static):
    expected = static.encode_query(TEXTS)
    with held_device():
        assert static.encode_query(TEXTS).values.tolist() == expected.values.tolist()
        assert asyncio.run(static.aencode_query(TEXTS)).values.tolist() == expected.values.tolist()
        chunks = list(static.encode_stream(TEXTS, 2, side="query"))
    assert [len(chunk) for chunk in chunks] == [2, 2, 1]
    assert SparseRows.concatenate(chunks).values.tolist() == expected.values.tolist()


def test_a_token_counts_once_and_specials_as_any(static):
    rows = static.encode(["bread warm bread"], prompt="")  # documents by default
    with SparseEmbedder.load(STATIC, query_prompt="") as bare:
        once, twice, special = bare.encode_query(["warm bread", "bread warm bread", "[CLS]"])
    assert once[0].tolist() == twice[0].tolist() and once[1].tolist() == twice[1].tolist()
    assert len(special[0]) == 1
    assert len(rows[0][0]) > len(once[0])


def test_many_static_queries_in_an_event_loop(static):
    texts = [f"{text} {number}" for number in range(800) for text in TEXTS]
    same(asyncio.run(static.aencode_query(texts))[:100], static.encode_query(texts[:100]))


def test_without_a_default_way_a_side_must_be_said():
    with SparseEmbedder.load(SPARSE / "distilbert-no-default-route") as embedder:
        assert len(embedder.encode_query(TEXTS)) == len(embedder.encode_document(TEXTS)) == 5
        with pytest.raises(InputError, match="call encode_query or encode_document"):
            embedder.encode(TEXTS)
        with pytest.raises(InputError, match="call encode_query or encode_document"):
            list(embedder.encode_stream(TEXTS))


def test_a_plain_masked_language_model_must_be_told_how(tmp_path):
    with pytest.raises(UnsupportedModelError, match='set pooling \\("splade_max" is what sentence-transformers takes'):
        SparseEmbedder.load(PLAIN)
    with (
        SparseEmbedder.load(PLAIN, pooling="splade_max") as most,
        SparseEmbedder.load(PLAIN, pooling="splade_sum") as sums,
    ):
        assert most.fingerprint != sums.fingerprint
        assert (sums.encode(TEXTS).to_dense() >= most.encode(TEXTS).to_dense() - 1e-5).all()
        assert (most.info()["pooling"], sums.info()["pooling"]) == ("splade_max", "splade_sum")
        assert sums.info()["sources"]["pooling"] == "argument"
    with pytest.raises(ConfigError, match="pooling = 'mean'"):
        SparseConfig(pooling="mean")
    with pytest.raises(ConfigError, match="is a sparse autoencoder"):
        SparseEmbedder.load(LATENTS, pooling="splade_max")


# ── similarity and words ─────────────────────────────────────────────────────────────────────────────


def test_similarities_by_hand():
    a, b = rows_of({1: 3, 4: 4}, {}), rows_of({4: 2}, {1: 3, 4: 4}, {2: 1})
    assert similarity(a, b, "dot").tolist() == [[8, 25, 0], [0, 0, 0]]
    assert_close(similarity(a, b, "cosine"), [[0.8, 1, 0], [0, 0, 0]])
    assert_close(similarity(a, b, "euclidean"), [[-(13**0.5), 0, -(26**0.5)], [-2, -5, -1]])
    assert similarity(a, b, "manhattan").tolist() == [[-5, 0, -8], [-2, -7, -1]]


@pytest.mark.parametrize("kind", sorted(PAIRWISE))
def test_pairs_have_the_references_scores(kind):
    a, b = (rows_of(*({3: x, 7: y} for x, y in side)) for side in (LEFT, RIGHT))
    assert_close(similarity_pairwise(a, b, kind), PAIRWISE[kind])
    assert similarity_pairwise(rows_of({}), rows_of({}), kind).tolist() == [0]
    with pytest.raises(InputError, match="4 rows and 1 rows are no pairs"):
        similarity_pairwise(a, b[:1], kind)


def test_pairs_of_a_models_rows(bert):
    rows, others = bert.encode(TEXTS), bert.encode_query(TEXTS[::-1])
    assert_close(bert.similarity_pairwise(rows, others), np.diag(bert.similarity(rows, others)), 1e-5)
    with pytest.raises(TypeError, match="similarity takes SparseRows"):
        bert.similarity_pairwise(rows, others.to_dense())


def test_similarity_of_more_rows_than_a_block_and_what_it_refuses(bert):
    many = rows_of(*({number % 7: 1.0 + number} for number in range(600)))
    scores = similarity(many, many[:300], "dot")
    assert_close(scores, many.to_dense() @ many[:300].to_dense().T)
    with pytest.raises(InputError, match="rows of one dimension, not of 10 and 200"):
        bert.similarity(many, bert.encode(TEXTS))
    with pytest.raises(TypeError, match="similarity takes SparseRows, not a ndarray"):
        bert.similarity(bert.encode(TEXTS), bert.encode(TEXTS).to_dense())


def test_decoded_words_are_heaviest_first(bert):
    decoded = bert.decode(bert.encode(TEXTS))
    assert [len(row) for row in decoded] == np.diff(bert.encode(TEXTS).indptr).tolist()
    weights = [weight for _, weight in decoded[0]]
    assert weights == sorted(weights, reverse=True)
    assert bert.decode(bert.encode(TEXTS), top_k=2)[0] == decoded[0][:2]
    assert {type(value) for row in decoded for pair in row for value in pair} == {str, float}
    ties = rows_of({5: 1, 7: 2, 6: 2}, dimension=200)
    assert [weight for _, weight in bert.decode(ties)[0]] == [2, 2, 1]
    assert bert.decode(ties)[0][0][0] == bert._loaded.tokenizer.token(6)
    for wrong in (0, -1):
        with pytest.raises(InputError, match="top_k is"):
            bert.decode(ties, top_k=wrong)
    with pytest.raises(InputError, match="the rows have 10 dimensions"):
        bert.decode(rows_of({1: 2}))
    with pytest.raises(TypeError, match="decode takes SparseRows"):
        bert.decode([{1: 2}])


def test_places_beyond_the_tokenizer_are_none():
    with SparseEmbedder.load(SPARSE / "xlm-roberta") as embedder:
        assert embedder.decode(rows_of({239: 1.0}, dimension=240)) == [[(None, 1.0)]]


# ── settings ─────────────────────────────────────────────────────────────────────────────────────────


def test_variables_and_a_section_of_the_file(monkeypatch, tmp_path):
    (tmp_path / "embedding_config.yaml").write_text(
        "model: some/embedder\nreranker:\n  model: a/reranker\nsparse:\n  model: a/sparse\n  max_active_dims: 64\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AKIDB_MLX_SPARSE_POOLING", "splade_sum")
    config = SparseConfig()
    assert (config.model, config.max_active_dims, config.pooling) == ("a/sparse", 64, "splade_sum")
    assert config.source_of("pooling") == "AKIDB_MLX_SPARSE_POOLING"
    assert config.source_of("max_active_dims").endswith("embedding_config.yaml: sparse.max_active_dims")
    assert EmbedderConfig().model == "some/embedder"
    monkeypatch.setenv("AKIDB_MLX_SPARSE_TRUNCATE_DIM", "8")
    with pytest.raises(ConfigError, match="unknown environment variable AKIDB_MLX_SPARSE_TRUNCATE_DIM"):
        SparseConfig()


def test_every_field_that_decides_rows_is_in_the_fingerprint(bert):
    changed = {
        "max_seq_length": 20,
        "dtype": "float32",
        "pooling": "splade_sum",
        "max_active_dims": 4,
        "query_prompt": "q ",
        "document_prompt": "d ",
        "tokenizer": "file",
        "exact_reference": True,
    }
    same = {"tokenizer", "exact_reference"}  # of this checkpoint's tokens
    assert set(changed) == SPARSE_FIELDS - {"model", "revision"}
    for name, value in changed.items():
        with SparseEmbedder.load(BERT, **{name: value}) as other:
            assert (other.fingerprint == bert.fingerprint) is (name in same), name


def test_the_weights_of_queries_count_in_the_fingerprint(static, latents, tmp_path):
    import shutil

    import mlx.core as mx

    for embedder, folder, file, name in (
        (static, STATIC, "query_0_SparseStaticEmbedding/model.safetensors", "weight"),
        (latents, LATENTS, "2_SparseAutoEncoder/model.safetensors", "pre_bias"),
    ):
        copied = shutil.copytree(folder, tmp_path / folder.name)
        with SparseEmbedder.load(copied) as equal:
            assert equal.fingerprint == embedder.fingerprint
        with mx.stream(mx.cpu):
            weights = mx.load(str(copied / file))
            save_weights(copied / file, {**weights, name: weights[name] + 1})
        with SparseEmbedder.load(copied) as other:
            assert other.fingerprint != embedder.fingerprint


def test_info_says_what_decides(bert, static, latents):
    facts = static.info()
    assert facts["queries"] == "a weight per token, without the model"
    assert facts["sources"]["queries"] == "query_0_SparseStaticEmbedding/model.safetensors"
    assert facts["sources"]["head"] == "document_1_SpladePooling/config.json"
    assert bert.info()["head"] == "splade_max, relu"
    assert bert.info()["similarity"] == "dot" and bert.info()["dimension"] == 200
    assert latents.info()["head"] == "pooling mean, then an autoencoder of 64 latents"
    assert latents.info()["sources"]["max_active_dims"] == "config_sentence_transformers.json"
    json.dumps([facts, bert.info(), latents.info()])


def test_no_field_of_a_recipe_is_forgotten(bert):
    assert {field.name for field in fields(bert._loaded.recipe)} == {
        "checkpoint",
        "device",
        "head",
        "max_seq_length",
        "side_lengths",
    }


# ── kinds ────────────────────────────────────────────────────────────────────────────────────────────


def test_other_kinds_are_refused_by_name_and_the_reverse():
    for folder in (BERT, STATIC, LATENTS):
        with pytest.raises(UnsupportedModelError, match=r"load it with akidb_mlx\.SparseEmbedder"):
            Embedder.load(folder)
    with pytest.raises(UnsupportedModelError, match=r"load it with akidb_mlx\.Embedder"):
        SparseEmbedder.load(MINILM)
    with pytest.raises(UnsupportedModelError, match=r"akidb_mlx\.Reranker"):
        SparseEmbedder.load(TINY_RERANKER)
    with pytest.raises(TypeError, match="SparseEmbedder takes a SparseConfig, not a EmbedderConfig"):
        SparseEmbedder.load(EmbedderConfig(model=str(BERT)))


# ── sharing, lifetime, many callers ──────────────────────────────────────────────────────────────────


def test_equal_settings_share_one_model(loads):
    with SparseEmbedder.load(BERT, max_seq_length=19) as one, SparseEmbedder.load(BERT, max_seq_length=19) as two:
        assert one._loaded is two._loaded
        one.close()
        assert len(two.encode(TEXTS)) == 5
    assert len(loads) == 1
    assert not two.healthy
    with pytest.raises(ClosedError, match="is closed; load it again"):
        two.encode(TEXTS)


def test_copies_and_pickles_are_loaded_again(static):
    for other in (pickle.loads(pickle.dumps(static)), copy.deepcopy(static)):
        with other:
            assert other._loaded is static._loaded
            assert other.fingerprint == static.fingerprint
    assert repr(static) == f"SparseEmbedder({str(STATIC)!r}, dimension=200)"
    assert isinstance(static, SparseEmbedderProtocol)


@pytest.mark.parametrize("name", ["bert", "static", "latents"])
def test_threads_and_tasks_equal_serial(name, request):
    embedder = request.getfixturevalue(name)
    # Not TEXTS[1]: one of these checkpoints' random weights amplify its rounding to 9e-6 between alone and in a batch.
    texts = [f"{(TEXTS[0], *TEXTS[2:4])[number % 3]} {number % 9}" for number in range(36)]
    expected = embedder.encode_document(texts)
    with ThreadPoolExecutor(12) as pool:
        same(SparseRows.concatenate(list(pool.map(lambda text: embedder.encode_document([text]), texts))), expected)

    async def together():
        return await asyncio.gather(*(embedder.aencode_document([text]) for text in texts))

    same(SparseRows.concatenate(asyncio.run(together())), expected)


async def test_a_cancelled_call_leaves_the_queue(bert):
    with held_device():
        call = asyncio.create_task(bert.aencode(TEXTS * 3))
        await auntil(lambda: bert.stats()["queued_tokens"] > 0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await auntil(lambda: bert.stats()["queued_tokens"] == 0)


def test_a_full_queue_refuses():
    with SparseEmbedder.load(BERT, max_queued_tokens=24) as small, held_device():
        waiting = threading.Thread(target=small.encode, args=(TEXTS[:1],))
        waiting.start()
        until(lambda: small.stats()["queued_tokens"] > 0)
        with pytest.raises(QueueFullError, match="max_queued_tokens=24"):
            small.encode(["another " * 20])
    waiting.join(PATIENCE_S)


def test_a_stream_equals_encode_and_tells_what_has_no_row(bert):
    texts = [f"text {number}" for number in range(30)]
    chunks = list(bert.encode_stream(texts, 8))
    assert [len(chunk) for chunk in chunks] == [8, 8, 8, 6]
    same(SparseRows.concatenate(chunks), bert.encode(texts))

    async def collected():
        return [chunk async for chunk in bert.aencode_stream(texts, 8, side="document", max_active_dims=3)]

    same(SparseRows.concatenate(asyncio.run(collected())), bert.encode_document(texts, max_active_dims=3))
    told = {}
    with SparseEmbedder.load(STATIC, on_overlong="error") as strict:
        for side in ("query", "document"):
            mixed = ["a", "snow fell " * 60, "b"]
            rows = SparseRows.concatenate(list(strict.encode_stream(mixed, 2, side=side, on_error=told.__setitem__)))
            assert [len(indices) > 0 for indices, _ in rows] == [True, False, True]
            assert list(told) == [1] and "more than 24 tokens" in str(told.pop(1))
            with pytest.raises(InputError, match="text 1 has more than 24 tokens"):
                list(strict.encode_stream(mixed, 2, side=side))


def test_the_usage_of_a_call(bert, static):
    rows, usage = asyncio.run(bert.aencode_with_usage(TEXTS, "document"))
    same(rows, bert.encode_document(TEXTS))
    assert usage.tokens == sum(bert.count_tokens(TEXTS))
    for embedder in (bert, static):
        with pytest.raises(InputError, match="the texts have more than 10 tokens together"):
            asyncio.run(embedder.aencode_with_usage(TEXTS, "query", max_tokens=10))


# ── the fake ─────────────────────────────────────────────────────────────────────────────────────────


def test_the_fake_is_as_strict_and_words_in_common_are_places_in_common():
    fake = FakeSparseEmbedder()
    assert isinstance(fake, SparseEmbedderProtocol)
    rows = fake.encode(["Warm bread", "bread, WARM", "bread bread", "snow", ""])
    assert rows[0][0].tolist() == rows[1][0].tolist() and rows[0][1].tolist() == rows[1][1].tolist()
    assert rows[2][0].tolist()[0] in rows[0][0].tolist()
    assert (np.diff(rows[0][0]) > 0).all() and rows[0][1].dtype == np.float32
    scores = fake.similarity(rows, rows)
    assert scores[0, 2] > 0 == scores[0, 3] and not scores[4].any()
    digests = [hashlib.sha256(f"word:{word}".encode()).digest() for word in ("warm", "bread")]
    places = {int.from_bytes(digest[:8], "big") % 30_522: 1 + digest[8] / 256 for digest in digests}
    assert rows.to_dicts()[0] == dict(sorted(places.items()))
    assert [len(indices) for indices, _ in fake.encode_document(["a b c"], max_active_dims=2)] == [2]
    assert len(asyncio.run(fake.aencode_query(["a"]))[0][0]) == 1
    with pytest.raises(TypeError, match="texts must be a list"):
        fake.encode("a")
    with pytest.raises(InputError, match="max_active_dims is 0"):
        fake.encode(["a"], max_active_dims=0)
    assert fake.fingerprint != FakeSparseEmbedder(10).fingerprint


def test_what_it_has():
    public = {name for name in dir(SparseEmbedder) if not name.startswith("_")}
    calls = {"encode", "encode_query", "encode_document", "encode_stream"}
    own = {
        "similarity",
        "similarity_pairwise",
        "decode",
        "count_tokens",
        "dimension",
        "max_active_dims",
        "aencode_with_usage",
    }
    shared = {"load", "max_seq_length", "healthy", "fingerprint", "info", "stats", "close", "with_settings", "keep_for"}
    assert public == calls | {f"a{name}" for name in calls} | own | shared
    for name in public:
        assert inspect.getdoc(getattr(SparseEmbedder, name)), name
    for name in calls:
        sync, other = (inspect.signature(getattr(SparseEmbedder, one)).parameters for one in (name, f"a{name}"))
        assert list(sync) == list(other)
        assert sync["max_active_dims"].default is None
    only = {"pooling", "max_active_dims", "query_prompt", "document_prompt"}
    from akidb_mlx.config.options import ModelOptions

    assert set(SparseConfig.model_fields) == set(ModelOptions.model_fields) | only | {"model"}
