"""FakeEmbedder, for users' own tests: as strict as the real one, and always the same."""

import hashlib

import numpy as np
import pytest

from akidb_mlx import EmbedderProtocol
from akidb_mlx.testing import FakeEmbedder
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
