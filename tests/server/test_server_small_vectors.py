"""Smaller vectors over HTTP: Voyage's output_dtype and Cohere's /v2/embed, with the embedder's own numbers."""

import base64
import importlib.util
import json

import numpy as np
import pytest

from akidb_mlx import Embedder, EmbedderConfig
from akidb_mlx.corpus import embed_corpus
from support.checkpoints import PROMPTS, REFERENCE
from support.comparison import assert_close
from support.serving import serving

TEXTS = ["a harbour in the snow", "the engine of a train", "a lamp", "the lamp of a harbour"]
NUMPY = {"int8": np.int8, "uint8": np.uint8, "binary": np.int8, "ubinary": np.uint8}


@pytest.fixture(scope="module")
def embedder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("index")
    (folder / "in.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    with Embedder.load(PROMPTS) as plain:
        embed_corpus([folder / "in.jsonl"], folder / "index.parquet", plain, output_dtype="int8")
    with Embedder.load(PROMPTS, calibration=folder / "index.parquet") as embedder:
        yield embedder


@pytest.fixture(scope="module")
def server(embedder):
    with serving({"small": embedder.config, "plain": EmbedderConfig(model=str(REFERENCE / "bert-mean"))}) as running:
        yield running


@pytest.fixture
def client(server):
    with server.client() as client:
        yield client


WIDTH = 16


def assert_near(found, expected):
    """Equal but where a float lies between two numbers, which what shares a batch may decide."""
    assert found.dtype == expected.dtype and found.shape == expected.shape
    if expected.shape[1] == WIDTH:
        assert np.abs(found.astype(int) - expected).max() <= 1
    else:
        assert np.array_equal(found, expected)


@pytest.mark.parametrize("encoding_format", [None, "float", "base64"])
@pytest.mark.parametrize("output_dtype", NUMPY)
def test_voyages_output_dtype(client, embedder, output_dtype, encoding_format):
    answer = client.embed(
        TEXTS, "small", output_dtype=output_dtype, encoding_format=encoding_format, input_type="query"
    )
    rows = [item["embedding"] for item in answer.json["data"]]
    if encoding_format == "base64":
        rows = [np.frombuffer(base64.b64decode(row), NUMPY[output_dtype]) for row in rows]
    else:
        assert all(isinstance(number, int) for row in rows for number in row)
    assert_near(np.array(rows, NUMPY[output_dtype]), embedder.encode_query(TEXTS, output_dtype=output_dtype))


def test_floats_stay_as_they_are(client, embedder):
    answer = client.embed(TEXTS, "small", output_dtype="float", encoding_format="base64")
    rows = [np.frombuffer(base64.b64decode(item["embedding"]), "<f4") for item in answer.json["data"]]
    assert_close(np.array(rows), embedder.encode(TEXTS))


@pytest.mark.parametrize(
    ("model", "options", "said"),
    [
        ("plain", {"output_dtype": "int8"}, "int8 and uint8 need a calibration"),
        ("small", {"output_dtype": "int8", "dimensions": 8}, "made of 16 dimensions, and these vectors have 8"),
        ("small", {"output_dtype": "ubinary", "dimensions": 9}, "9 dimensions do not fill bytes"),
        ("small", {"output_dtype": "float16"}, "output_dtype"),
    ],
)
def test_what_cannot_be_is_400(client, embedder, model, options, said):
    before = embedder.stats()["requests"]
    answer = client.embed(TEXTS, model, **options)
    assert (answer.status, said in answer.error["message"]) == (400, True)
    assert embedder.stats()["requests"] == before


# ── Cohere ───────────────────────────────────────────────────────────────────────────────────────────


def test_cohere_gives_each_type_that_is_asked_for(client, embedder):
    types = ["float", "int8", "uint8", "binary", "ubinary", "base64"]
    body = {"model": "small", "texts": TEXTS, "input_type": "search_document", "embedding_types": types}
    answer = client.post("/v2/embed", body).json
    assert answer["embeddings"].keys() == {*types} and answer["texts"] == TEXTS
    prompt = embedder.info()["prompts"]["document"]
    assert answer["meta"]["billed_units"]["input_tokens"] == sum(embedder.count_tokens(TEXTS, prompt))
    assert answer["meta"]["api_version"] == {"version": "2"} and answer["response_type"] == "embeddings_by_type"
    floats = embedder.encode_document(TEXTS)
    assert_close(answer["embeddings"]["float"], floats)
    decoded = [np.frombuffer(base64.b64decode(row), "<f4") for row in answer["embeddings"]["base64"]]
    assert_close(np.array(decoded), floats)
    for output_dtype, numpy in NUMPY.items():
        found = np.array(answer["embeddings"][output_dtype], numpy)
        assert_near(found, embedder.encode_document(TEXTS, output_dtype=output_dtype))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, lambda one: one.encode(TEXTS)),
        ({"input_type": "search_query"}, lambda one: one.encode_query(TEXTS)),
        ({"input_type": "clustering"}, lambda one: one.encode(TEXTS)),
        ({"output_dimension": 8, "truncate": "END", "priority": 1}, lambda one: one.encode(TEXTS, truncate_dim=8)),
    ],
)
def test_coheres_floats(client, embedder, options, expected):
    answer = client.post("/v2/embed", {"model": "small", "texts": TEXTS, **options}).json
    assert answer["embeddings"].keys() == {"float"}
    assert_close(answer["embeddings"]["float"], expected(embedder))


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"texts": []}, "texts"),
        ({"texts": "a"}, "texts"),
        ({"images": ["data:"]}, "images"),
        ({"embedding_types": []}, "embedding_types"),
        ({"embedding_types": ["int4"]}, "embedding_types"),
        ({"truncate": "START"}, "truncate"),
        ({"input_type": "image"}, "input_type"),
        ({"output_dimension": 17}, "dimensions"),
        ({"texts": ["long " * 100], "truncate": "NONE"}, None),
        ({"model": "plain", "embedding_types": ["float", "int8"]}, None),
    ],
)
def test_coheres_mistakes(client, options, param):
    answer = client.post("/v2/embed", {"model": "small", "texts": TEXTS, **options})
    assert (answer.status, answer.error["param"]) == (400, param)


def test_coheres_sdk(server, embedder):
    if importlib.util.find_spec("cohere") is None:
        pytest.skip("needs cohere (the extra [clients])")
    import cohere

    sdk = cohere.ClientV2("sesame", base_url=server.url)
    types = ["float", "int8", "ubinary"]
    answer = sdk.embed(model="small", texts=TEXTS, input_type="search_query", embedding_types=types)
    assert_close(answer.embeddings.float_, embedder.encode_query(TEXTS))
    assert_near(np.array(answer.embeddings.int8, np.int8), embedder.encode_query(TEXTS, output_dtype="int8"))
    assert_near(np.array(answer.embeddings.ubinary, np.uint8), embedder.encode_query(TEXTS, output_dtype="ubinary"))
    with pytest.raises(cohere.BadRequestError, match="need a calibration"):
        sdk.embed(model="plain", texts=TEXTS, input_type="search_query", embedding_types=["uint8"])


@pytest.mark.filterwarnings("ignore")
def test_voyages_sdk(server, embedder):
    if importlib.util.find_spec("voyageai") is None:
        pytest.skip("needs voyageai (the extra [clients])")
    import voyageai

    sdk = voyageai.Client("sesame", base_url=f"{server.url}/v1")
    for output_dtype, numpy in NUMPY.items():
        found = sdk.embed(TEXTS, "small", input_type="document", output_dtype=output_dtype).embeddings
        assert_near(np.array(found, numpy), embedder.encode_document(TEXTS, output_dtype=output_dtype))
