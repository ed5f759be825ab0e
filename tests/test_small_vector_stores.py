"""Which packing which vector store takes: the table of docs/corpora.md, each row on the store itself.

A store is right where it finds for a query what the formula of its metric finds on the numbers that it was given.
"""

import numpy as np
import pytest

from akidb_mlx.small_vectors import calibrate_on, dequantize, quantize
from support.packages import needs

pytestmark = [pytest.mark.filterwarnings("default")]  # the stores' own warnings are not ours

DIMENSION, COUNT, NEAREST = 64, 60, 5
_RANDOM = np.random.default_rng(7)
FLOATS = _RANDOM.standard_normal((COUNT, DIMENSION)).astype(np.float32)
FLOATS /= np.linalg.norm(FLOATS, axis=1, keepdims=True)
QUERIES = FLOATS[:6] + 0.05 * _RANDOM.standard_normal((6, DIMENSION)).astype(np.float32)
CALIBRATION = calibrate_on(FLOATS)


def small(rows, output_dtype):
    return quantize(rows, output_dtype, CALIBRATION)


def products(output_dtype):
    """(queries, COUNT) products of the numbers that are stored."""
    queries, rows = (small(one, output_dtype).astype(np.float64) for one in (QUERIES, FLOATS))
    return queries @ rows.T


def cosines():
    queries, rows = (small(one, "int8").astype(np.float64) for one in (QUERIES, FLOATS))
    return products("int8") / np.linalg.norm(queries, axis=1)[:, None] / np.linalg.norm(rows, axis=1)


def distances(output_dtype):
    queries, rows = (small(one, output_dtype).astype(np.float64) for one in (QUERIES, FLOATS))
    return np.linalg.norm(queries[:, None] - rows[None], axis=-1)


def hamming():
    bits = [np.unpackbits(small(one, "ubinary"), axis=1) for one in (QUERIES, FLOATS)]
    return (bits[0][:, None] != bits[1][None]).sum(axis=-1)


def assert_nearest(found, scores):
    """The ids that a store gives have the best scores, in order; equal ones may stand in any."""
    for places, row in zip(found, scores, strict=True):
        assert np.allclose(row[np.asarray(places, int)], np.sort(row)[::-1][:NEAREST], rtol=1e-5)


# ── bits ─────────────────────────────────────────────────────────────────────────────────────────────


def test_ubinary_is_what_faiss_takes_and_binary_is_not():
    needs("faiss")
    import faiss

    index = faiss.IndexBinaryFlat(DIMENSION)
    index.add(small(FLOATS, "ubinary"))
    told, found = index.search(small(QUERIES, "ubinary"), NEAREST)
    assert_nearest(found, -hamming())
    assert np.array_equal(told, np.sort(hamming(), axis=1)[:, :NEAREST])
    with pytest.raises((TypeError, AssertionError)):
        index.add(small(FLOATS, "binary"))


def test_ubinary_is_what_usearch_takes():
    needs("usearch.index")
    from usearch.index import Index

    index = Index(ndim=DIMENSION, dtype="b1", metric="hamming")
    index.add(np.arange(COUNT), small(FLOATS, "ubinary"))
    found = index.search(small(QUERIES, "ubinary"), NEAREST, exact=True)
    assert_nearest(found.keys, -hamming())


def test_ubinary_is_what_lancedb_takes(tmp_path):
    needs("lancedb")
    import lancedb
    import pyarrow as pa

    bits = small(FLOATS, "ubinary")
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(bits.reshape(-1)), bits.shape[1])
    table = lancedb.connect(tmp_path).create_table("a", pa.table({"id": np.arange(COUNT), "vector": vectors}))
    found = [
        [row["id"] for row in table.search(query).distance_type("hamming").limit(NEAREST).to_list()]
        for query in small(QUERIES, "ubinary")
    ]
    assert_nearest(found, -hamming())


def test_pgvector_takes_bits_in_the_order_of_dimensions():
    """Its text form, which the server reads: the first dimension first."""
    needs("pgvector")
    from pgvector import Bit, HalfVector

    bits = np.unpackbits(small(FLOATS[:1], "ubinary"), axis=1)[0].astype(bool)
    assert str(Bit(bits).to_text()) == "".join("1" if number > 0 else "0" for number in FLOATS[0])
    assert Bit(bits).to_binary()[4:] == small(FLOATS[:1], "ubinary").tobytes()
    assert HalfVector(small(FLOATS[:1], "float16")[0]).to_list() == small(FLOATS[:1], "float16")[0].tolist()


# ── whole numbers ────────────────────────────────────────────────────────────────────────────────────


def test_int8_is_what_usearch_takes():
    needs("usearch.index")
    from usearch.index import Index

    index = Index(ndim=DIMENSION, dtype="i8", metric="cos")
    index.add(np.arange(COUNT), small(FLOATS, "int8"))
    assert_nearest(index.search(small(QUERIES, "int8"), NEAREST, exact=True).keys, cosines())


def test_uint8_is_what_faiss_signed_codes_are_made_of():
    """FAISS' 8-bit codes are bytes from 0: those that it decodes to themselves are uint8's."""
    needs("faiss")
    import faiss

    index = faiss.IndexScalarQuantizer(DIMENSION, faiss.ScalarQuantizer.QT_8bit_direct, faiss.METRIC_L2)
    index.add(small(FLOATS, "uint8").astype(np.float32))
    _, found = index.search(small(QUERIES, "uint8").astype(np.float32), NEAREST)
    assert_nearest(found, -distances("uint8"))
    signed = faiss.IndexScalarQuantizer(
        DIMENSION, faiss.ScalarQuantizer.QT_8bit_direct_signed, faiss.METRIC_INNER_PRODUCT
    )
    signed.add(small(FLOATS, "int8").astype(np.float32))
    _, found = signed.search(small(QUERIES, "int8").astype(np.float32), NEAREST)
    assert_nearest(found, products("int8"))


@pytest.mark.parametrize(("output_dtype", "datatype"), [("uint8", "UINT8"), ("float16", "FLOAT16")])
def test_qdrant_takes_uint8_with_euclid(output_dtype, datatype):
    needs("qdrant_client")
    from qdrant_client import QdrantClient, models

    client = QdrantClient(":memory:")
    vectors = models.VectorParams(
        size=DIMENSION, distance=models.Distance.EUCLID, datatype=getattr(models.Datatype, datatype)
    )
    client.create_collection("a", vectors_config=vectors)
    client.upload_collection("a", vectors=small(FLOATS, output_dtype), ids=list(range(COUNT)))
    found = [
        [point.id for point in client.query_points("a", query=query.astype(float).tolist(), limit=NEAREST).points]
        for query in small(QUERIES, output_dtype)
    ]
    assert_nearest(found, -distances(output_dtype))
    client.close()


# ── metrics ──────────────────────────────────────────────────────────────────────────────────────────


def test_uint8_wants_a_distance_and_int8_takes_any_metric():
    """uint8's zero is 128: its products and cosines rank otherwise, its distances are int8's."""
    assert np.array_equal(distances("uint8"), distances("int8"))
    exact = np.argsort(-(QUERIES @ FLOATS.T), axis=1)[:, :NEAREST]
    by_int8 = np.argsort(-products("int8"), axis=1)[:, :NEAREST]
    by_uint8 = np.argsort(-products("uint8"), axis=1)[:, :NEAREST]
    kept = [np.mean([len({*a} & {*b}) for a, b in zip(exact, found, strict=True)]) for found in (by_int8, by_uint8)]
    assert kept[0] > 4.5 and kept[1] < 4


def test_a_float_query_sorts_candidates_again():
    """More of the nearest are right than by the bits alone."""
    exact = np.argsort(-(QUERIES @ FLOATS.T), axis=1)[:, :NEAREST]
    candidates = np.argsort(hamming(), axis=1, kind="stable")[:, : 4 * NEAREST]
    stored = dequantize(small(FLOATS, "int8"), "int8", CALIBRATION)
    again = [
        places[np.argsort(-(stored[places] @ query))][:NEAREST]
        for places, query in zip(candidates, QUERIES, strict=True)
    ]
    kept = [
        np.mean([len({*a} & {*b}) for a, b in zip(exact, found, strict=True)])
        for found in (candidates[:, :NEAREST], again)
    ]
    assert kept[1] > kept[0]
