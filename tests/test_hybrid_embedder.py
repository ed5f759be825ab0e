"""BGE-M3's three outputs: against its published formulas, in one pass, together and one by one."""

import asyncio
import pickle
import shutil

import numpy as np
import pytest

from akidb_mlx import Embedder, HybridEmbedder, MultiVectorEmbedder, SparseEmbedder
from akidb_mlx.errors import CheckpointError, ClosedError, InputError, UnsupportedModelError
from support.checkpoints import MINILM, REFERENCE, read_case
from support.comparison import assert_close
from support.device import held_device

HEADS = REFERENCE / "hybrid"
FROM_REFERENCE = 1e-5


@pytest.fixture(scope="module", params=[".pt", ".safetensors"])
def folder(request, tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("hybrid"), request.param)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("hybrid"), ".safetensors")


def make_folder(parent, suffix, names=("sparse_linear", "colbert_linear")):
    folder = parent / "m3"
    shutil.copytree(REFERENCE / "xlm-roberta-cls", folder)
    for name in names:
        shutil.copy(HEADS / f"{name}{suffix}", folder)
    return folder


@pytest.fixture(scope="module")
def texts():
    return read_case("xlm-roberta-cls")[1]["texts"]


@pytest.fixture(scope="module")
def expected():
    return dict(np.load(HEADS / "expected.npz"))


def assert_sparse(rows, expected):
    for place, (indices, values) in enumerate(rows):
        assert indices.tolist() == expected[f"indices{place}"].tolist(), place
        if len(values):
            assert_close(values, expected[f"values{place}"], FROM_REFERENCE)


def assert_multi(rows, expected):
    for place, vectors in enumerate(rows):
        assert vectors.shape == expected[f"vectors{place}"].shape, place
        assert_close(vectors, expected[f"vectors{place}"], FROM_REFERENCE)


def test_the_three_together_are_those_of_the_formulas(folder, texts, expected):
    with HybridEmbedder.load(folder) as hybrid:
        rows = hybrid.encode_document(texts)
        assert_close(rows.dense, expected["dense"], FROM_REFERENCE)
        assert_sparse(rows.sparse, expected)
        assert_multi(rows.multi, expected)
        assert len(rows) == len(texts) and hybrid.stats()["rows"] == len(set(texts))


def test_each_alone_is_the_same(folder, texts, expected):
    with Embedder.load(folder) as dense, SparseEmbedder.load(folder) as sparse:
        assert_close(dense.encode(texts), expected["dense"], FROM_REFERENCE)
        assert_sparse(sparse.encode_query(texts), expected)
    with MultiVectorEmbedder.load(folder) as multi:
        assert_multi(multi.encode_document(texts), expected)


def test_the_last_one_frees_the_model(plain, texts):
    dense, sparse = Embedder.load(plain), SparseEmbedder.load(plain)
    engine = dense._loaded.engine
    assert sparse._loaded.engine is engine
    dense.close()
    assert not engine.closed and list(engine.model.head.heads) == ["sparse"]
    assert len(sparse.encode(texts[:2])) == 2
    sparse.close()
    assert engine.closed
    with pytest.raises(ClosedError):
        dense.encode(["a"])


def test_dense_then_sparse_of_the_same_texts_is_one_pass(plain, texts):
    """As Qdrant's hybrid mode asks."""
    with Embedder.load(plain) as dense, SparseEmbedder.load(plain) as sparse:
        rows = dense.encode_document(texts)
        before = dense.stats()
        found = sparse.encode_document([*texts, "one more"])
        after = dense.stats()
        assert after["rows"] == before["rows"] + 1 and after["companion_rows"] == len(texts)
        assert after["batches"] == before["batches"] + 1
        alone = sparse.encode_document(texts)  # they were given away
        assert dense.stats()["rows"] == after["rows"] + len(set(texts))
        for (indices, values), (others, numbers) in zip(alone, found, strict=False):
            assert indices.tolist() == others.tolist()
            assert np.abs(values - numbers).max(initial=0) < 5e-6
        assert dense.encode_document(texts).shape == rows.shape


def test_both_at_once_are_one_row(plain):
    async def both(dense, sparse):
        with held_device():
            tasks = [asyncio.create_task(face.aencode_document(["one", "two"])) for face in (dense, sparse)]
            while dense.stats()["texts"] < 4:  # until both wait
                await asyncio.sleep(0.001)
        return await asyncio.gather(*tasks)

    with Embedder.load(plain) as dense, SparseEmbedder.load(plain) as sparse:
        rows, entries = asyncio.run(both(dense, sparse))
        assert rows.shape[0] == len(entries) == 2
        assert dense.stats()["rows"] == 2


def test_streams_and_async(plain, texts, expected):
    async def several(hybrid):
        rows = await hybrid.aencode_query(texts[:3])
        chunks = [chunk async for chunk in hybrid.aencode_stream(iter(texts[:3]), 2)]
        usage = (await hybrid.aencode_with_usage(texts[:3], "document"))[1]
        return rows, chunks, usage

    with HybridEmbedder.load(plain) as hybrid:
        rows, chunks, usage = asyncio.run(several(hybrid))
        assert_close(rows.dense, expected["dense"][:3], FROM_REFERENCE)
        assert [len(chunk) for chunk in chunks] == [2, 1]
        assert usage.tokens == sum(hybrid.count_tokens(texts[:3]))
        told = {}
        with HybridEmbedder.load(plain, on_overlong="error") as strict:
            whole = next(strict.encode_stream(["a", "a " * 60, "b"], side="document", on_error=told.__setitem__))
        assert list(told) == [1] and np.isnan(whole.dense[1]).all()
        assert [len(indices) for indices, _ in whole.sparse][1] == 0 and len(whole.multi[1]) == 0
        empty = hybrid.encode([])
        assert empty.dense.shape == (0, 32) and len(empty.sparse) == len(empty.multi) == 0


def test_scores_of_each_form(plain, texts):
    with HybridEmbedder.load(plain) as hybrid:
        rows = hybrid.encode_document(texts[1:5])
        scores = hybrid.similarity(rows, rows)
        assert scores.dense.shape == scores.sparse.shape == scores.multi.shape == (4, 4)
        assert np.allclose(np.diag(scores.dense), 1, atol=1e-5) and np.allclose(np.diag(scores.multi), 1, atol=1e-5)
        dense = rows.sparse.to_dense()
        assert np.allclose(scores.sparse, dense @ dense.T, atol=1e-5)


def test_what_it_tells_and_how_it_travels(plain, folder):
    with HybridEmbedder.load(plain) as hybrid:
        facts = hybrid.info()
        assert facts["kind"] == "hybrid" and facts["multi_vector"]["similarity"] == "meanmaxsim"
        again = pickle.loads(pickle.dumps(hybrid))
        assert again.fingerprint == hybrid.fingerprint != hybrid.dense.fingerprint
        again.close()
        with Embedder.load(REFERENCE / "xlm-roberta-cls") as bare:
            assert bare.fingerprint == hybrid.dense.fingerprint
    with pytest.raises(ClosedError):
        hybrid.encode(["a"])


def test_refused(tmp_path, plain):
    with pytest.raises(UnsupportedModelError, match=r"has no sparse_linear\.safetensors or sparse_linear\.pt"):
        HybridEmbedder.load(MINILM)
    some = make_folder(tmp_path, ".pt", ["sparse_linear"])
    with pytest.raises(UnsupportedModelError, match="has no colbert_linear"):
        HybridEmbedder.load(some)
    with SparseEmbedder.load(some) as sparse:
        assert len(sparse.encode(["a"])) == 1
    with pytest.raises(UnsupportedModelError, match=r"load it with akidb_mlx\.Embedder"):
        MultiVectorEmbedder.load(some)
    shutil.copy(HEADS / "colbert_linear.pt", some / "sparse_linear.pt")
    with pytest.raises(CheckpointError, match=r"sparse_linear\.pt has a layer of 32 → 24, where 32 → 1 is needed"):
        SparseEmbedder.load(some)
    with Embedder.load(some) as dense:  # which does not need it
        assert dense.encode(["a"]).shape == (1, 32)
    with HybridEmbedder.load(plain) as hybrid, pytest.raises(InputError, match="has no prompt called"):
        hybrid.encode(["a"], prompt_name="nonesuch")
