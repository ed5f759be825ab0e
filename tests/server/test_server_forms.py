"""Sparse, multi-vector and hybrid models: each on its route, with the reference's numbers."""

import base64
import gc
import importlib.util
import shutil

import numpy as np
import pytest

from akidb_mlx import Embedder, HybridEmbedder, MultiVectorEmbedder, SparseConfig, SparseEmbedder
from akidb_mlx.config.hybrid_config import HybridConfig
from akidb_mlx.config.multi_vector_config import MultiVectorConfig
from support.checkpoints import REFERENCE, read_multi_vector_case, read_sparse_case
from support.comparison import assert_close
from support.serving import serving

FROM_REFERENCE = 1e-5
TEXTS = ["a harbour in the snow", "the engine of a train", ""]


@pytest.fixture(scope="module")
def m3(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hybrid") / "m3"
    shutil.copytree(REFERENCE / "xlm-roberta-cls", folder)
    for name in ("sparse_linear", "colbert_linear"):
        shutil.copy(REFERENCE / "hybrid" / f"{name}.safetensors", folder)
    return folder


@pytest.fixture(scope="module")
def server(m3):
    models = {
        "dense": REFERENCE / "bert-mean",
        "splade": SparseConfig(model=str(REFERENCE / "sparse" / "bert-max")),
        "colbert": MultiVectorConfig(model=str(REFERENCE / "multi_vector" / "fixed")),
        "m3": HybridConfig(model=str(m3)),
    }
    with serving(models) as running:
        yield running


@pytest.fixture
def client(server):
    with server.client() as client:
        yield client


def as_dense(rows, dimension):
    dense = np.zeros((len(rows), dimension), np.float32)
    for place, row in enumerate(rows):
        assert [entry["index"] for entry in row] == sorted({entry["index"] for entry in row})
        for entry in row:
            assert set(entry) == {"index", "value"}
            dense[place, entry["index"]] = entry["value"]
    return dense


def test_embed_sparse_gives_the_references_rows_in_the_order_of_their_places(client):
    _, facts, arrays, texts = read_sparse_case("bert-max")
    answer = client.post("/embed_sparse", {"inputs": texts, "input_type": "document", "truncate": None})
    assert answer.status == 200, answer.body
    assert_close(
        as_dense(answer.json, facts["dimension"]), arrays["document"], FROM_REFERENCE * arrays["document"].max()
    )
    one = client.post(
        "/embed_sparse", {"inputs": texts[2], "model": "splade:document", "truncation_direction": "Right"}
    )
    assert_close(
        as_dense(one.json, facts["dimension"]), arrays["document"][2:3], FROM_REFERENCE * arrays["document"].max()
    )
    few = client.post("/embed_sparse", {"inputs": texts[:3], "max_active_dims": 2}).json
    assert max(map(len, few)) == 2


def test_terms_are_the_heaviest_in_words(client):
    with SparseEmbedder.load(REFERENCE / "sparse" / "bert-max") as sparse:
        expected = sparse.decode(sparse.encode_document(TEXTS), 3)
    answer = client.post("/api/v1/terms", {"texts": TEXTS, "top_k": 3, "input_type": "document"}).json
    assert [[term["term"] for term in row] for row in answer["terms"]] == [
        [term for term, _ in row] for row in expected
    ]
    assert_close(answer["terms"][0][0]["weight"], expected[0][0][1])
    assert answer["model"] == "splade"
    assert len(answer["counts"]) == 3


def test_pooling_gives_a_vector_per_token(client):
    _, facts, arrays, texts = read_multi_vector_case("fixed")
    for side in ("query", "document"):
        answer = client.post("/pooling", {"input": texts, "model": f"colbert:{side}", "task": "token_embed"})
        assert answer.status == 200, answer.body
        assert answer.json["object"] == "list"
        assert [item["index"] for item in answer.json["data"]] == list(range(len(texts)))
        assert {item["object"] for item in answer.json["data"]} == {"pooling"}
        rows = [np.array(item["data"], np.float32).reshape(-1, facts["dimension"]) for item in answer.json["data"]]
        assert [len(row) for row in rows] == np.diff(arrays[f"{side}_offsets"]).tolist()
        assert_close(np.concatenate(rows), arrays[side], FROM_REFERENCE)
        coded = client.post("/pooling", {"input": texts, "input_type": side, "encoding_format": "base64"}).json
        flat = [np.frombuffer(base64.b64decode(item["data"]), "<f4") for item in coded["data"]]
        assert_close(np.concatenate(flat), np.concatenate(rows).ravel(), 5e-6)
        assert coded["usage"]["prompt_tokens"] > 0


def test_matches_are_maxsims_pairs(client):
    with MultiVectorEmbedder.load(REFERENCE / "multi_vector" / "fixed") as multi:
        query, text = multi.encode_query([TEXTS[0]]), multi.encode_document([TEXTS[1]])
        score, tokens = multi.similarity(query, text)[0, 0], multi.tokens([TEXTS[0]], side="query")[0]
    answer = client.post("/api/v1/matches", {"query": TEXTS[0], "text": TEXTS[1], "top_k": 100}).json
    assert_close(answer["score"], score)
    assert sorted(pair["query_token"] for pair in answer["matches"]) == sorted(tokens)
    similarities = [pair["similarity"] for pair in answer["matches"]]
    assert similarities == sorted(similarities, reverse=True)
    assert_close(sum(similarities), score)
    assert len(client.post("/api/v1/matches", {"query": "a", "text": "b", "top_k": 1}).json["matches"]) == 1


def test_hybrid_gives_all_forms_and_each_on_its_route(client, m3):
    with HybridEmbedder.load(m3) as hybrid:
        expected = hybrid.encode_document(TEXTS)
    answer = client.post("/api/v1/hybrid", {"texts": TEXTS, "input_type": "document"})
    assert answer.status == 200, answer.body
    for place, item in enumerate(answer.json["data"]):
        assert item["index"] == place
        assert_close(item["dense"], expected.dense[place])
        indices, values = expected.sparse[place]
        assert item["sparse"]["indices"] == indices.tolist()
        assert_close(item["sparse"]["values"], values)
        assert_close(item["multi_vector"], expected.multi[place])
    coded = client.post("/api/v1/hybrid", {"texts": TEXTS, "forms": ["dense"], "encoding_format": "base64"}).json
    assert set(coded["data"][0]) == {"index", "dense"}
    assert len(base64.b64decode(coded["data"][0]["dense"])) == 4 * hybrid.dimension
    dense = client.embed(TEXTS, "m3").json["data"]
    assert_close([item["embedding"] for item in dense], expected.dense)
    assert client.post("/embed_sparse", {"inputs": TEXTS, "model": "m3"}).status == 200
    assert client.post("/pooling", {"input": TEXTS, "model": "m3"}).status == 200


def test_models_say_their_kind_and_a_wrong_one_names_the_right_route(client):
    kinds = {card["id"]: card["kind"] for card in client.get("/v1/models").json["data"]}
    assert kinds == {"dense": "embedder", "splade": "sparse", "colbert": "multi_vector", "m3": "hybrid"}
    for path, body, message in (
        (
            "/v1/embeddings",
            {"input": "a", "model": "splade"},
            "'splade' is a sparse encoder: POST /embed_sparse take it",
        ),
        ("/embed_sparse", {"inputs": "a", "model": "dense"}, "'dense' is an embedder"),
        ("/embed_sparse", {"inputs": "a", "model": "colbert"}, "each sparse encoder that is served: splade, m3"),
        ("/pooling", {"input": "a", "model": "splade"}, "each multi-vector model that is served: colbert, m3"),
        ("/api/v1/hybrid", {"texts": ["a"], "model": "dense"}, "each hybrid model that is served: m3"),
    ):
        answer = client.post(path, body)
        assert (answer.status, answer.error["code"]) == (400, "wrong_kind"), path
        assert message in answer.error["message"]
    assert client.post("/rerank", {"query": "a", "texts": ["b"]}).status == 404
    tags = {model["name"].partition(":")[0] for model in client.get("/api/tags").json["models"]}
    assert tags == {"dense", "m3"}


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/embed_sparse", {"inputs": []}, "inputs"),
        ("/embed_sparse", {"inputs": ["a", None]}, "inputs"),
        ("/embed_sparse", {"inputs": "a", "max_active_dims": 0}, "max_active_dims"),
        ("/embed_sparse", {"texts": ["a"]}, "inputs"),
        ("/pooling", {"input": "a", "task": "embed"}, "task"),
        ("/pooling", {"input": "a", "truncate_prompt_tokens": 1}, "truncate_prompt_tokens"),
        ("/api/v1/hybrid", {"texts": ["a"], "forms": ["other"]}, "forms"),
        ("/api/v1/hybrid", {"texts": ["a"], "model": "m3:query", "prompt_name": "x"}, "prompt_name"),
    ],
)
def test_mistakes_are_400(client, path, body, param):
    answer = client.post(path, body)
    assert (answer.status, answer.error["param"]) == (400, param), answer.body


def test_another_direction_of_cutting_is_refused(client):
    assert client.post("/embed_sparse", {"inputs": "a", "truncation_direction": "Left"}).status == 422


def test_one_folder_under_three_options_is_a_hybrid_model(m3):
    import argparse

    from akidb_mlx.cli import serve

    parser = argparse.ArgumentParser()
    serve.add_arguments(parser)
    said = [f"x={m3}", f"y={REFERENCE / 'bert-mean'}"]
    args = parser.parse_args(["--model", *said[:1], "--sparse", said[0], "--multi", said[0], "--model", said[1]])
    configs, _ = serve.read_models(args)
    assert {name: type(config).__name__ for name, config in configs.items()} == {
        "x": "HybridConfig",
        "y": "EmbedderConfig",
    }
    args = parser.parse_args(["--model", said[0], "--sparse", f"x={REFERENCE / 'sparse' / 'bert-max'}"])
    with pytest.raises(Exception, match="two models have the same name"):
        serve.read_models(args)
    for option in ("--reranker", "--model"):
        args = parser.parse_args(["--model", said[0], option, said[0]])
        with pytest.raises(Exception, match="two models have the same name"):
            serve.read_models(args)


@pytest.fixture
def left_open():
    """Connections that a client never closes are collected here, where the warning of each is ignored."""
    yield
    gc.collect()


@pytest.mark.skipif(importlib.util.find_spec("haystack_integrations") is None, reason="needs huggingface-api-haystack")
@pytest.mark.filterwarnings("ignore")
def test_haystacks_sparse_embedder(server, left_open):
    api = pytest.importorskip("haystack_integrations.components.embedders.huggingface_api")
    from haystack import Document

    document_embedder = getattr(api, "HuggingFaceTEISparseDocumentEmbedder", None)
    if document_embedder is None:
        pytest.skip("this version has no sparse embedder")
    documents = [Document(content=text) for text in TEXTS[:2] * 20]  # more than its batch of 32
    found = document_embedder(api_base_url=server.url).run(documents)["documents"]
    with SparseEmbedder.load(REFERENCE / "sparse" / "bert-max") as sparse:
        expected = sparse.encode(TEXTS[:2])
    for place, document in enumerate(found):
        indices, values = expected[place % 2]
        assert document.sparse_embedding.indices == indices.tolist()
        assert_close(document.sparse_embedding.values, values)


def test_dense_stays_what_it_was(client):
    with Embedder.load(REFERENCE / "bert-mean") as embedder:
        assert_close([item["embedding"] for item in client.embed(TEXTS, "dense").json["data"]], embedder.encode(TEXTS))
