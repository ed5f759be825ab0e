"""Smaller vectors: the numbers of sentence-transformers' quantize_embeddings, and one scale for all by hand."""

import json

import numpy as np
import pytest

from akidb_mlx import Embedder
from akidb_mlx.corpus import embed_corpus, read_recipe
from akidb_mlx.corpus import quantize as quantize_as_files
from akidb_mlx.errors import ConfigError, InputError
from akidb_mlx.small_vectors import (
    OUTPUT_DTYPES,
    calibrate_on,
    check_output_dtype,
    dequantize,
    quantize,
    read_calibration,
)
from support.checkpoints import PROMPTS, REFERENCE

EXPECTED = dict(np.load(REFERENCE / "small_vectors" / "expected.npz"))
ROWS = EXPECTED["rows"]
TEXTS = [f"{word} {number}" for number, word in enumerate(["harbour", "engine", "snow", "lamp"] * 5)]


@pytest.fixture(scope="module")
def embedder():
    with Embedder.load(PROMPTS) as embedder:
        yield embedder


# ── the numbers ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("output_dtype", ["int8", "uint8", "binary", "ubinary"])
def test_the_references_numbers(output_dtype):
    """Among the rows are zeros, and numbers beyond the range that the data given have."""
    found = quantize(ROWS, output_dtype, calibrate_on(EXPECTED["data"], by_dimension=True))
    assert found.dtype == EXPECTED[output_dtype].dtype == OUTPUT_DTYPES[output_dtype]
    assert np.array_equal(found, EXPECTED[output_dtype])
    assert np.abs(ROWS).max() > np.abs(EXPECTED["data"]).max() or (EXPECTED["data"].max(axis=0) < ROWS).any()


def test_one_scale_by_hand():
    rows = np.array([[1.27, -1.27, 0.014, 0.016, -0.004, 9, -9, 0]], np.float32)
    calibration = {"scale": 0.01}
    assert quantize(rows, "int8", calibration).tolist() == [[127, -127, 1, 2, 0, 127, -127, 0]]
    assert quantize(rows, "uint8", calibration).tolist() == [[255, 1, 129, 130, 128, 255, 1, 128]]
    assert quantize(rows, "ubinary").tolist() == [[0b10110100]]
    assert quantize(rows, "binary").tolist() == [[0b10110100 - 128]]
    assert quantize(rows, "float16")[0, 0] == np.float16(1.27)
    assert quantize(rows, "float32").dtype == np.float32


def test_the_scale_is_that_of_the_data_given():
    calibration = calibrate_on(np.array([[0.5, -2.54], [1, 1]]))
    assert calibration == {"dimension": 2, "rows": 2, "scale": pytest.approx(0.02)}
    assert calibrate_on(np.zeros((1, 2)))["scale"] == 1


@pytest.mark.parametrize("by_dimension", [False, True])
@pytest.mark.parametrize("output_dtype", OUTPUT_DTYPES)
def test_back_to_floats(output_dtype, by_dimension):
    calibration = calibrate_on(ROWS, by_dimension=by_dimension)
    back = dequantize(quantize(ROWS, output_dtype, calibration), output_dtype, calibration)
    assert back.dtype == np.float32 and back.shape == ROWS.shape
    if output_dtype.endswith("binary"):
        assert np.array_equal(back, np.where(ROWS > 0, 1, -1))
    else:
        step = {"float32": 0, "float16": 1e-3}.get(output_dtype, 2 * np.abs(ROWS).max() / 254)
        assert np.abs(back - ROWS).max() <= 0.501 * step + 1e-7 * (output_dtype != "float32")


def test_products_of_int8_rank_as_the_floats():
    rows = np.random.default_rng(1).standard_normal((200, 64)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    small = quantize(rows, "int8", calibrate_on(rows)).astype(np.int32)
    exact, found = (np.argsort(-(a @ a.T), axis=1)[:, :10] for a in (rows, small))
    assert np.mean([len({*a} & {*b}) / 10 for a, b in zip(exact, found, strict=True)]) > 0.97


@pytest.mark.parametrize(
    ("output_dtype", "calibration", "pattern"),
    [
        ("int4", None, "output_dtype is 'int4'; it may be float32, float16, int8, uint8, binary, ubinary"),
        ("int8", None, "int8 and uint8 need a calibration"),
        ("uint8", {"minimum": [0.0]}, "need a calibration"),
        ("int8", {"scale": 0}, "scale is 0"),
        ("int8", {"scale": float("nan")}, "scale is nan"),
        ("int8", {"scale": 1.0, "dimension": 32}, "made of 32 dimensions, and these vectors have 24"),
        ("int8", {"minimum": [0.0], "maximum": [1.0]}, r"ranges are of \(1,\), for vectors of 24"),
        ("int8", {"minimum": [1.0] * 24, "maximum": [0.0] * 24}, "ranges"),
    ],
)
def test_what_is_refused(output_dtype, calibration, pattern):
    with pytest.raises(ConfigError, match=pattern):
        quantize(ROWS, output_dtype, calibration)


def test_more_that_is_refused():
    with pytest.raises(ConfigError, match="12 dimensions do not fill bytes; set truncate_dim"):
        check_output_dtype("ubinary", 12)
    with pytest.raises(InputError, match="row 1 has a number beyond float16"):
        quantize(np.array([[1], [70000]], np.float32), "float16")
    for rows in (np.empty((0, 4)), np.ones(4), [[np.nan]]):
        with pytest.raises(InputError, match="a calibration needs rows of finite numbers"):
            calibrate_on(rows)


# ── calls ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("method", ["encode", "encode_query", "encode_document"])
@pytest.mark.parametrize("output_dtype", OUTPUT_DTYPES)
def test_calls_give_what_quantize_makes_of_their_floats(embedder, method, output_dtype):
    encode = getattr(embedder, method)
    floats = encode(TEXTS)
    calibration = calibrate_on(floats)
    found = encode(TEXTS, output_dtype=output_dtype, calibration=calibration)
    expected = quantize(floats, output_dtype, calibration)
    assert found.dtype == expected.dtype and found.shape == expected.shape
    if output_dtype.endswith("int8"):
        assert np.abs(found.astype(int) - expected).max() <= 1  # a float that lies between two numbers
    elif output_dtype.endswith("binary"):
        near = np.packbits(np.abs(floats) > 1e-5, axis=1) == 255
        assert near.any() and np.array_equal(found[near], expected[near])
    else:
        assert np.abs(found.astype(np.float32) - expected.astype(np.float32)).max() <= 1e-3
    assert encode([], output_dtype=output_dtype, calibration=calibration).shape == (0, expected.shape[1])


async def test_calls_of_an_event_loop(embedder):
    for method in ("aencode", "aencode_query", "aencode_document"):
        rows = await getattr(embedder, method)(TEXTS, output_dtype="ubinary")
        assert rows.shape == (len(TEXTS), embedder.dimension // 8) and rows.dtype == np.uint8


@pytest.mark.parametrize(
    ("options", "pattern"),
    [
        ({"output_dtype": "int8"}, "int8 and uint8 need a calibration: name an .* output as `calibration`"),
        ({"output_dtype": "int1"}, "output_dtype is 'int1'"),
        ({"output_dtype": "binary", "truncate_dim": 9}, "9 dimensions do not fill bytes"),
        ({"output_dtype": "int8", "calibration": {"scale": 1, "dimension": 16}, "truncate_dim": 8}, "of 16 dimensions"),
    ],
)
def test_a_call_is_refused_before_anything_is_computed(embedder, options, pattern):
    before = embedder.stats()["requests"]
    with pytest.raises(InputError, match=pattern):
        embedder.encode(TEXTS, **options)
    assert embedder.stats()["requests"] == before


# ── the calibration's file ───────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def outputs(embedder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("outputs")
    source = folder / "in.jsonl"
    source.write_text("".join(json.dumps({"id": i, "text": text}) + "\n" for i, text in enumerate(TEXTS)))
    for suffix in (".parquet", ".npy"):
        embed_corpus([source], folder / f"int8{suffix}", embedder, output_dtype="int8")
    for dtype in ("uint8", "ubinary", "binary"):
        embed_corpus([source], folder / f"{dtype}.npy", embedder, output_dtype=dtype)
    return folder


@pytest.mark.parametrize("name", ["int8.parquet", "int8.npy.meta.json"])
def test_a_loaded_model_takes_the_scale_of_an_index(outputs, name):
    with Embedder.load(PROMPTS, calibration=outputs / name) as embedder:
        found = embedder.encode_document(TEXTS, output_dtype="int8")
        floats = embedder.encode_document(TEXTS)
        fingerprint = embedder.fingerprint
    assert np.abs(found.astype(int) - np.load(outputs / "int8.npy")).max() <= 1
    assert read_recipe(outputs / "int8.parquet")["fingerprint"] == fingerprint
    scale = read_calibration(outputs / name)["scale"]
    assert scale == pytest.approx(np.abs(floats).max() / 127)


def test_files_have_the_same_numbers(outputs, embedder):
    floats = embedder.encode_document(TEXTS)
    scale = read_recipe(outputs / "uint8.npy")["calibration"]
    assert np.abs(np.load(outputs / "uint8.npy").astype(int) - quantize(floats, "uint8", scale)).max() <= 1
    bits = np.load(outputs / "ubinary.npy")
    assert np.array_equal(bits, np.load(outputs / "binary.npy"))  # a file's `binary` has always been plain bytes
    assert np.array_equal(quantize_as_files(floats, "binary"), quantize(floats, "ubinary"))
    assert np.unpackbits(bits ^ quantize(floats, "ubinary"), axis=1).sum() <= (np.abs(floats) < 1e-5).sum()


def test_a_scale_of_other_vectors_is_refused(outputs, tmp_path):
    with pytest.raises(ConfigError, match=r"int8\.parquet is of vectors that another recipe made"):
        Embedder.load(PROMPTS, calibration=outputs / "int8.parquet", normalize=False)
    (tmp_path / "own.json").write_text('{"scale": 0.01}')
    with Embedder.load(PROMPTS, calibration=tmp_path / "own.json") as embedder:
        assert embedder.encode(["a"], output_dtype="uint8").dtype == np.uint8


@pytest.mark.parametrize("content", [None, b"", b"[1]", b'{"scale": "x"}', b'{"calibration": {}}', b"\xff"])
def test_a_file_without_a_calibration(tmp_path, content):
    file = tmp_path / "calibration.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"calibration\.json holds no calibration of int8 vectors"):
        Embedder.load(PROMPTS, calibration=file)
