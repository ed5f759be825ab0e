"""What people and their clients do first: no model named, a key in another case, half an emoji, a page of elsewhere."""

import base64
import socket

import numpy as np
import pytest

from akidb_mlx import Embedder
from akidb_mlx.errors import ConfigError
from akidb_mlx.server import ServerSettings
from akidb_mlx.server.serve import listen
from akidb_mlx.server.settings import read_api_key
from support.checkpoints import PROMPTS, REFERENCE
from support.comparison import assert_close
from support.serving import serve_process, serving
from support.waiting import PATIENCE_S, until


@pytest.fixture(scope="module")
def server():
    with serving({"prompts": PROMPTS}) as running:
        with running.client() as client:
            client.embed("the model is loaded from here on", "prompts")
        yield running


@pytest.fixture
def client(server):
    with server.client() as client:
        yield client


def rows(answer):
    return np.array([one["embedding"] for one in answer.json["data"]], np.float32)


def test_the_one_model_may_be_left_out(client):
    answer = client.post("/v1/embeddings", {"input": "a text"})
    assert answer.status == 200 and answer.json["model"] == "prompts"
    with serving({"one": PROMPTS, "two": REFERENCE / "bert-mean"}) as several, several.client() as other:
        answer = other.post("/v1/embeddings", {"input": "a text"})
        assert answer.status == 400 and answer.json["error"]["message"] == "say which model; there are one, two"
        assert answer.json["error"]["param"] == "model"


def test_who_is_told_of_cut_texts(client):
    answer = client.post("/v1/embeddings", {"input": ["short", "word " * 100, "word " * 90]})
    assert answer.headers["X-Truncated-Texts"] == "2"
    assert "X-Truncated-Texts" not in client.post("/v1/embeddings", {"input": ["short"]}).headers
    answer = client.post("/api/v1/embed", {"texts": ["word " * 100]})
    assert answer.headers["X-Truncated-Texts"] == "1"


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        (r"cut \ud83d", "cut \ufffd"),
        (r"\ude00 and \ud83d\ude00", "\ufffd and \U0001f600"),
        (r"C:\\ud83d and \uD83D", "C:\\ud83d and \ufffd"),
    ],
)
def test_half_an_emoji_is_read_as_everywhere_else(client, sent, read):
    body = f'{{"input": ["fine", "{sent}"], "model": "prompts"}}'.encode()
    answer = client.call("POST", "/v1/embeddings", body, {"Content-Type": "application/json"})
    assert answer.status == 200
    with Embedder.load(PROMPTS) as embedder:
        assert_close(rows(answer), embedder.encode(["fine", read]))
    body = body.replace(b'"fine", ', b"").replace(b'"input"', b'"texts"')
    assert client.call("POST", "/api/v1/embed", body, {"Content-Type": "application/json"}).status == 200


def test_what_is_no_json_is_still_refused(client):
    for body in (rb'{"input": "cut \ud83d", ', rb'{"input": "\ud83"}', b"\xff"):
        answer = client.call("POST", "/v1/embeddings", body, {"Content-Type": "application/json"})
        assert answer.status == 400 and "no valid JSON" in answer.json["error"]["message"]


@pytest.mark.parametrize("sent", ["Bearer sesame", "bearer sesame", "BEARER  sesame", "Bearer   sesame "])
def test_the_scheme_has_no_case(sent):
    with serving({"m": PROMPTS}, api_key="sesame") as running, running.client() as client:
        assert client.get("/v1/models", {"Authorization": sent}).status == 200
        for wrong in ("sesame", "Basic sesame", "Bearersesame", "Bearer", "Bearer sesame x"):
            assert client.get("/v1/models", {"Authorization": wrong}).status == 401


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"caf\xc3\xa9", "no client can send this key"),
        ("\u201csesame\u201d".encode(), "no client can send this key"),
        (b"one\ntwo\n", "no client can send this key"),
        (b"nul\x00", "no client can send this key"),
        (b"\n", "holds no API key"),
    ],
)
def test_a_key_that_no_client_can_send(tmp_path, content, problem):
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(ConfigError, match=problem):
        read_api_key(ServerSettings(api_key_file=tmp_path / "key"))


def test_a_byte_order_mark_is_no_part_of_a_key(tmp_path):
    (tmp_path / "key").write_bytes(b"\xef\xbb\xbfsesame\r\n")
    assert read_api_key(ServerSettings(api_key_file=tmp_path / "key")) == "sesame"


def test_a_page_of_elsewhere_may_send_what_openais_client_sends():
    origin = "https://notes.example.org"
    with serving({"m": PROMPTS}, cors_origins=(origin,)) as running, running.client() as client:
        wanted = "authorization,content-type,x-stainless-os,x-stainless-retry-count,openai-organization,x-request-id"
        asked = {"Origin": origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": wanted}
        answer = client.call("OPTIONS", "/v1/embeddings", headers=asked)
        assert answer.status == 200
        assert set(wanted.split(",")) <= set(answer.headers["Access-Control-Allow-Headers"].replace(" ", "").split(","))
        answer = client.post("/v1/embeddings", {"input": "word " * 100}, {"Origin": origin})
        exposed = answer.headers["Access-Control-Expose-Headers"]
        assert {one.strip() for one in exposed.split(",")} == {"Retry-After", "X-Request-Id", "X-Truncated-Texts"}
        answer = client.call("OPTIONS", "/v1/embeddings", headers={**asked, "Origin": "https://other.example.org"})
        assert "Access-Control-Allow-Origin" not in answer.headers


def ask(port, request):
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as connection:
        connection.sendall(request)
        return connection.makefile("rb").readline()


def test_health_without_a_host(server):
    assert b" 200 " in ask(server.port, b"GET /health HTTP/1.0\r\n\r\n")
    for host, status in ((b"localhost.", b" 200 "), (b"localhost.:80", b" 200 "), (b"evil.example.org", b" 403 ")):
        request = b"GET /health HTTP/1.1\r\nHost: " + host + b"\r\nConnection: close\r\n\r\n"
        assert status in ask(server.port, request)


def test_every_network_is_both_families():
    if not socket.has_dualstack_ipv6():
        pytest.skip("needs IPv6")
    with listen("::", 0) as listener:
        socket.create_connection(("127.0.0.1", listener.getsockname()[1]), timeout=PATIENCE_S).close()
        socket.create_connection(("::1", listener.getsockname()[1]), timeout=PATIENCE_S).close()


def test_a_port_that_is_taken():
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(OSError, match=f"port {port} of 127.0.0.1 is taken by another program.*--port N"):
            listen("127.0.0.1", port)


def test_the_command_takes_a_model_and_greets(capfd):
    with (
        serve_process(str(PROMPTS), "--reranker", REFERENCE / "rerankers" / "bert") as server,
        server.client() as client,
    ):
        until(lambda: client.get("/health").status == 200)
        names = [one["id"] for one in client.get("/v1/models").json["data"]]
        assert names == [str(PROMPTS), str(REFERENCE / "rerankers" / "bert")]
        answer = client.post("/v1/embeddings", {"input": "a", "encoding_format": "base64"})
        assert len(base64.b64decode(answer.json["data"][0]["embedding"])) == 64
        said = []
        until(lambda: said.append(capfd.readouterr().out) or "open http" in "".join(said))
        assert "".join(said).endswith(f"open http://127.0.0.1:{server.port}/ (Ctrl-C ends it)\n")
    assert len(server.log) == len(server.raw)  # the log itself is JSON, line by line
