"""Servers of the tests' own on loopback, in a thread or a process; plain HTTP to talk to them."""

import contextlib
import http.client
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import uvicorn

from akidb_mlx import EmbedderConfig
from akidb_mlx.config.model_config import ModelConfig
from akidb_mlx.server import Models, ServerSettings, create_app
from akidb_mlx.server.serve import listen
from support.waiting import PATIENCE_S, until


@dataclass
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def error(self):
        """The error, in OpenAI's shape; also under two other names, and nothing else. On Ollama's routes a text."""
        assert set(self.json) == {"error", "message", "detail"}, self.body
        if isinstance(self.json["error"], str):
            assert {self.json["message"], self.json["detail"]} == {self.json["error"]}
            return {"message": self.json["error"]}
        assert {self.json["message"], self.json["detail"]} == {self.json["error"]["message"]}
        assert set(self.json["error"]) == {"message", "type", "param", "code"}, self.body
        assert b"Traceback" not in self.body
        return self.json["error"]


class Client:
    """One connection that is kept alive."""

    def __init__(self, port, timeout=PATIENCE_S):
        self.port = port
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.connection.close()

    def call(self, method, path, body=None, headers=None):
        """`body`: bytes, a text or an iterator of bytes (sent in chunks) as they are, anything else as JSON."""
        headers = dict(headers or {})
        if body is not None and not isinstance(body, bytes | str | Iterator):
            body = json.dumps(body)
        if body is not None:
            headers.setdefault("Content-Type", "application/json")
        self.connection.request(method, path, body, headers)
        answer = self.connection.getresponse()
        return Answer(answer.status, answer.headers, answer.read())

    def get(self, path, headers=None):
        return self.call("GET", path, headers=headers)

    def post(self, path, body, headers=None):
        return self.call("POST", path, body, headers)

    def embed(self, texts, model, **more):
        return self.post("/v1/embeddings", {"input": texts, "model": model, **more})


@dataclass
class Serving:
    port: int
    app: object
    server: uvicorn.Server
    loop_thread: threading.Thread

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    @property
    def state(self):
        return self.app.state.server

    def client(self, **options):
        return Client(self.port, **options)


@contextlib.contextmanager
def serving(models, api_key=None, load=None, at=0, **settings):
    """A server in a thread of this process, on a free port or `at` one.

    `models` maps names to configurations or embedders' models.
    """
    configs = {name: one if isinstance(one, ModelConfig) else EmbedderConfig(model=one) for name, one in models.items()}
    app = create_app(Models(configs, *([load] if load else [])), ServerSettings(**settings), api_key)
    as_served = {"http": "h11", "ws": "none", "lifespan": "on", "log_config": None, "access_log": False}
    config = uvicorn.Config(app, **as_served, timeout_keep_alive=PATIENCE_S)
    server = uvicorn.Server(config)
    listener = listen("127.0.0.1", at)
    port = listener.getsockname()[1]
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        until(lambda: server.started)
        yield Serving(port, app, server, thread)
    finally:
        server.should_exit = True
        thread.join(PATIENCE_S)
        listener.close()
        assert not thread.is_alive()


@dataclass
class ServeProcess:
    process: subprocess.Popen
    port: int
    log: list
    raw: list

    def client(self, **options):
        return Client(self.port, **options)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def stop(self, signal_):
        self.process.send_signal(signal_)
        return self.process.wait(PATIENCE_S)


@contextlib.contextmanager
def serve_process(*arguments, variables=None, python=sys.executable):
    """`akidb-mlx serve` on a free port, once it listens; `log` holds its lines, read as JSON."""
    command = [python, "-m", "akidb_mlx", "serve", "--port", "0", *map(str, arguments)]
    environment = {**os.environ, **(variables or {})}
    log, raw = [], []

    def read(stream):
        for line in stream:
            raw.append(line)
            with contextlib.suppress(ValueError):
                log.append(json.loads(line))

    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        reader = threading.Thread(target=read, args=(process.stderr,), daemon=True)
        reader.start()
        try:
            until(lambda: any(one["message"] == "listening" for one in log) or process.poll() is not None)
            assert process.poll() is None, raw
            url = next(one["url"] for one in log if one["message"] == "listening")
            yield ServeProcess(process, int(url.rpartition(":")[2]), log, raw)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait(PATIENCE_S)
            reader.join(PATIENCE_S)
