"""What stands for a model in users' own tests: as strict as the real ones, and always the same."""

import hashlib

import numpy as np
import pytest

from akidb_mlx import EmbedderProtocol, MultiVectorEmbedderProtocol, Ranked, Reranker, RerankerProtocol, errors
from akidb_mlx.testing import FakeEmbedder, FakeMultiVectorEmbedder, FakeReranker
from support.checkpoints import TINY_RERANKER
from support.comparison import assert_close, assert_unit_length

TEXTS = ["", "a", "Snow fell through the night.", "tea 🍵", "\ud800"]


def test_it_satisfies_the_protocol():
    assert isinstance(FakeEmbedder(), EmbedderProtocol)


@pytest.mark.parametrize("dimension", [1, 2, 384, 1024])
def test_vectors_have_their_dimension_and_unit_length(dimension):
    rows = FakeEmbedder(dimension).encode(TEXTS)
    assert rows.shape == (5, dimension) and rows.dtype == np.float32
    assert_unit_length(rows)
    assert FakeEmbedder(dimension).encode([]).shape == (0, dimension)


def test_a_text_has_one_vector_alone_and_in_company():
    fake = FakeEmbedder(8)
    together = fake.encode(TEXTS)
    for text, row in zip(TEXTS, together, strict=True):
        assert (fake.encode([text])[0] == row).all()
        assert (FakeEmbedder(8).encode([text])[0] == row).all()
    assert len({row.tobytes() for row in together}) == 5


def test_vectors_are_these_on_every_machine():
    rows = FakeEmbedder(4).encode(["harbour"])
    seed = int.from_bytes(hashlib.sha256(b"harbour").digest(), "big")
    expected = np.random.default_rng(seed).standard_normal(4)
    assert_close(rows[0], expected / np.linalg.norm(expected))


def test_queries_are_not_documents():
    fake = FakeEmbedder(64)
    query, document = fake.encode_query(TEXTS), fake.encode_document(TEXTS)
    assert (document == fake.encode(TEXTS)).all()
    assert np.abs((query * document).sum(axis=1)).max() < 0.7


async def test_the_async_face():
    fake = FakeEmbedder(8)
    assert (await fake.aencode(TEXTS) == fake.encode(TEXTS)).all()
    assert (await fake.aencode_query(TEXTS) == fake.encode_query(TEXTS)).all()
    assert (await fake.aencode_document(TEXTS) == fake.encode_document(TEXTS)).all()


def test_fingerprints_differ_by_dimension():
    assert FakeEmbedder(8).fingerprint == FakeEmbedder(8).fingerprint != FakeEmbedder(9).fingerprint


@pytest.mark.parametrize("dimension", [0, -1, 1.5, True, "8", None])
def test_a_wrong_dimension(dimension):
    with pytest.raises(ValueError, match="dimension"):
        FakeEmbedder(dimension)


@pytest.mark.parametrize("texts", ["text", b"text", None, 5, {"a"}, {"a": 1}, ["a", None], ["a", 5], iter("a")])
def test_it_refuses_what_the_real_one_refuses(texts):
    with pytest.raises(TypeError):
        FakeEmbedder().encode(texts)
    with pytest.raises(TypeError):
        FakeEmbedder().encode_query(texts)


# ── the reranker ─────────────────────────────────────────────────────────────────────────────────────

QUERY = "What does a harbour do?"


def test_a_fake_reranker_satisfies_the_protocol():
    assert isinstance(FakeReranker(), RerankerProtocol)
    assert len(FakeReranker().fingerprint) == 64


def test_a_pair_has_one_score_alone_and_in_company():
    fake, pairs = FakeReranker(), [(QUERY, text) for text in TEXTS]
    together = fake.predict(pairs)
    assert together.dtype == np.float32 and together.shape == (5,)
    assert [fake.predict([pair])[0] for pair in pairs] == together.tolist()
    assert (FakeReranker().predict([list(pair) for pair in pairs]) == together).all()
    assert len(set(together.tolist())) == 5


def test_scores_are_spread_over_0_to_1():
    scores = FakeReranker().predict([(QUERY, str(number)) for number in range(1000)])
    assert scores.min() >= 0 and scores.max() < 1
    assert np.histogram(scores, 4, (0, 1))[0].min() > 200


def test_scores_are_these_on_every_machine():
    expected = int.from_bytes(hashlib.sha256(b"3:teaharbour").digest()[:3], "big") / 2**24
    assert FakeReranker().predict([("tea", "harbour")]).tolist() == [expected]


def test_where_the_query_ends_counts():
    scores = FakeReranker().predict([("ab", "c"), ("a", "bc"), ("c", "ab"), ("", "abc")])
    assert len(set(scores.tolist())) == 4


def test_a_ranking_is_sorted_and_names_its_places():
    fake = FakeReranker()
    scores = fake.predict([(QUERY, text) for text in TEXTS]).tolist()
    ranking = fake.rank(QUERY, TEXTS)
    assert ranking == sorted([Ranked(place, score) for place, score in enumerate(scores)], key=lambda one: -one[1])
    assert [fake.rank(QUERY, TEXTS, top_k) for top_k in (0, 2, 5, 99)] == [[], ranking[:2], ranking, ranking]
    assert {(type(place), type(score)) for place, score in ranking} == {(int, float)}


def test_equal_documents_keep_their_order():
    assert [one.corpus_id for one in FakeReranker().rank(QUERY, ["same"] * 7)] == list(range(7))


async def test_the_rerankers_async_face():
    fake, pairs = FakeReranker(), [(QUERY, text) for text in TEXTS]
    assert (await fake.apredict(pairs) == fake.predict(pairs)).all()
    assert await fake.arank(QUERY, TEXTS, 3) == fake.rank(QUERY, TEXTS, 3)


@pytest.fixture(scope="module", params=["fake", "real"])
def either(request):
    if request.param == "fake":
        yield FakeReranker()
    else:
        with Reranker.load(TINY_RERANKER) as reranker:
            yield reranker


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        ("a pair", "pairs must be a list of .query, text., not a str"),
        (None, "pairs must be a list of .query, text., not a NoneType"),
        ({("q", "a")}, "not a set"),
        (iter([("q", "a")]), "pairs must be a list"),
        (["cat", "dog"], "item 0 is a str, not a pair .query, text.; put one pair in a list"),
        (("cat", "dog"), "item 0 is a str, not a pair .query, text.; put one pair in a list"),
        ([("q", "a"), ("q", "a", "b")], "item 1 is a tuple of 3"),
        ([["q"]], "item 0 is a list of 1"),
        ([("q", "a"), {"query": "q", "document": "a"}], "item 1 is a dict, not a pair"),
        ([("q", "a"), ("q", "a"), ("q", 3)], "the text of item 2 is a int, not a str"),
        ([(None, "a")], "the query of item 0 is a NoneType, not a str"),
    ],
)
def test_what_is_no_list_of_pairs_is_refused(either, pairs, said):
    with pytest.raises(TypeError, match=said):
        either.predict(pairs)


@pytest.mark.parametrize("documents", ["text", b"text", None, 5, {"a"}, {"a": 1}, ["a", None], iter("a")])
def test_what_is_no_list_of_documents_is_refused(either, documents):
    with pytest.raises(TypeError):
        either.rank(QUERY, documents)


def test_a_query_that_is_no_text_and_a_top_k_that_is_no_number(either):
    with pytest.raises(TypeError, match="query must be a str, not a list"):
        either.rank([QUERY], TEXTS)
    for top_k in (True, 1.5, "3"):
        with pytest.raises(TypeError, match="top_k must be a whole number"):
            either.rank(QUERY, TEXTS, top_k)
    with pytest.raises(errors.InputError, match="top_k is -1; it must be at least 0"):
        either.rank(QUERY, TEXTS, -1)


def test_nothing_to_score(either):
    assert either.rank(QUERY, []) == []
    assert either.predict([]).shape == (0,) and either.predict([]).dtype == np.float32


# ── late interaction ─────────────────────────────────────────────────────────────────────────────────


def test_a_fake_multi_vector_embedder_satisfies_both_protocols():
    fake = FakeMultiVectorEmbedder(8)
    assert isinstance(fake, MultiVectorEmbedderProtocol) and isinstance(fake, RerankerProtocol)
    assert fake.fingerprint == FakeMultiVectorEmbedder(8).fingerprint != FakeMultiVectorEmbedder(9).fingerprint
    with pytest.raises(ValueError, match="dimension must be a whole number"):
        FakeMultiVectorEmbedder(0)


async def test_a_word_has_a_vector_wherever_it_stands():
    fake = FakeMultiVectorEmbedder(16)
    rows = fake.encode_document(["red tea and tea", "tea", ""])
    assert [len(row) for row in rows] == [4, 1, 0] and rows.vectors.dtype == np.float32
    assert (rows[0][1] == rows[0][3]).all() and (rows[0][1] == rows[1][0]).all()
    assert_unit_length(rows.vectors)
    seed = int.from_bytes(hashlib.sha256(b"tea").digest(), "big")
    expected = np.random.default_rng(seed).standard_normal(16)
    assert_close(rows[1][0], expected / np.linalg.norm(expected))
    assert (await fake.aencode_query(["tea"])).vectors.tolist() == rows[1].tolist()
    assert (await fake.aencode_document(["tea"])).vectors.tolist() == rows[1].tolist()


async def test_a_score_counts_the_words_that_are_shared():
    fake = FakeMultiVectorEmbedder(256)
    texts = ["snow fell", "green tea and bread", "tea", ""]
    ranked = fake.rank("green tea", texts)
    assert [entry.corpus_id for entry in ranked] == [1, 2, 0, 3]
    assert_close(ranked[0].score, 2.0)
    assert ranked == await fake.arank("green tea", texts)
    (best,) = fake.rank("tea", texts, top_k=1)
    assert best.corpus_id in (1, 2) and type(best.score) is float
    assert (await fake.apredict([("tea", "tea")])).tolist() == fake.predict([("tea", "tea")]).tolist()
    with pytest.raises(TypeError, match="query must be a str"):
        fake.rank(3, texts)
