"""What the server tells of memory, and Ollama's keep_alive."""

from datetime import UTC, datetime

import pytest

from akidb_mlx import EmbedderConfig
from akidb_mlx.config.reranker_config import RerankerConfig
from support.checkpoints import REFERENCE, TINY_RERANKER
from support.comparison import assert_close
from support.serving import serving
from support.waiting import until

MODEL = str(REFERENCE / "bert-mean")


@pytest.fixture(scope="module")
def server():
    configs = {
        "a": EmbedderConfig(model=MODEL),
        "never-asked": EmbedderConfig(model=str(REFERENCE / "bert-cls"), keep_alive="5m", memory_limit_mb=900),
        "r": RerankerConfig(model=str(TINY_RERANKER), keep_alive=0.02),
    }
    with serving(configs) as server:
        yield server


@pytest.fixture
def client(server):
    with server.client() as client:
        yield client


def stats(client, name):
    return client.get("/stats").json["models"][name]


def metric(client, name, model):
    (line,) = [
        line
        for line in client.get("/metrics").body.decode().splitlines()
        if line.startswith(f'akidb_mlx_{name}{{model="{model}"}}')
    ]
    return float(line.rpartition(" ")[2])


def test_what_is_in_memory(client):
    assert client.embed(["tea"], "a").status == 200
    told = client.get("/stats").json
    assert told["models"]["a"]["loaded"] and told["models"]["a"]["weights_bytes"] > 0
    assert told["models"]["a"]["keep_alive"] is None
    assert told["models"]["a"]["loads"] == told["models"]["a"]["unloads"] + 1
    assert told["weights_bytes"] >= told["models"]["a"]["weights_bytes"] and told["resident_bytes"] > 2**24
    silent = told["models"]["never-asked"]
    assert (silent["loaded"], silent["keep_alive"], silent["memory_limit_mb"]) == (False, 300.0, 900)
    assert silent["idle_s"] is None and silent["loads"] == 0


def test_a_model_goes_and_comes_back(client):
    body = {"model": "r", "query": "tea", "documents": ["harbour", "green tea"]}
    first = client.call("POST", "/v1/rerank", body).json["results"]
    until(lambda: not stats(client, "r")["loaded"])
    assert stats(client, "r")["weights_bytes"] == 0
    until(lambda: metric(client, "unloads_total", "r") >= 1)
    unloads = stats(client, "r")["unloads"]
    assert metric(client, "loaded", "r") == 0
    again = client.call("POST", "/v1/rerank", body).json["results"]
    assert [result["index"] for result in again] == [result["index"] for result in first]
    assert_close([result["relevance_score"] for result in again], [result["relevance_score"] for result in first], 1e-6)
    assert stats(client, "r")["loads"] >= unloads + 1
    assert client.get("/health").status == 200  # a model that is away is no illness


def ollama(client, **more):
    return client.call("POST", "/api/embed", {"model": "a", "input": ["tea"], **more})


def test_ollamas_keep_alive(client):
    expected = ollama(client, keep_alive="5m").json["embeddings"]
    assert stats(client, "a")["keep_alive"] == 300
    (running,) = client.get("/api/ps").json["models"]
    assert running["name"] == "a:latest" and running["size"] == running["size_vram"] > 0
    left = datetime.fromisoformat(running["expires_at"]) - datetime.now(UTC)
    assert 0 < left.total_seconds() <= 300
    assert_close(ollama(client, keep_alive=0).json["embeddings"], expected, 1e-6)
    until(lambda: not stats(client, "a")["loaded"])
    assert client.get("/api/ps").json == {"models": []}
    assert_close(ollama(client, keep_alive=-1).json["embeddings"], expected, 1e-6)
    assert stats(client, "a")["keep_alive"] is None
    assert client.get("/api/ps").json["models"][0]["expires_at"] > "2200"
    ollama(client, keep_alive="-1m")
    assert stats(client, "a")["keep_alive"] is None
    ollama(client)  # what is not said changes nothing
    assert stats(client, "a")["keep_alive"] is None


@pytest.mark.parametrize("said", ["soon", [], {"s": 1}, "5 m"])
def test_what_is_no_time(client, said):
    answer = ollama(client, keep_alive=said)
    assert answer.status == 400 and "keep_alive" in answer.json["error"]


def test_files_that_changed(tmp_path, client):
    import shutil

    folder = shutil.copytree(MODEL, tmp_path / "model")
    with serving({"m": EmbedderConfig(model=str(folder), keep_alive=0.02)}) as server, server.client() as client:
        assert client.embed(["tea"], "m").status == 200
        until(lambda: not stats(client, "m")["loaded"])
        (folder / "tokenizer.json").write_text((folder / "tokenizer.json").read_text() + " ")
        answer = client.embed(["tea"], "m")
        assert answer.status == 500 and "tokenizer.json was changed since" in answer.json["message"]
        assert client.get("/api/tags").json["models"][0]["digest"] == ""
