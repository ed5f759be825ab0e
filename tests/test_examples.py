"""Each example runs, from an empty folder; one whose packages are absent is skipped."""

import os
import re
import subprocess
import sys

import pytest

from support.checkpoints import MINILM, REFERENCE, TINY_RERANKER
from support.joint import make_joint_folder
from support.packages import needs
from support.places import EXAMPLES
from support.waiting import PATIENCE_S

NEEDS = {
    "langchain_hybrid": ["langchain_classic", "langchain_qdrant", "langchain_text_splitters"],
    "langchain_rag": ["langchain_chroma", "langchain_text_splitters"],
    "langchain_rerank": ["langchain_classic"],
    "llama_index_hybrid": ["llama_index.vector_stores.qdrant", "qdrant_client"],
    "llama_index_rag": ["llama_index.vector_stores.qdrant", "qdrant_client"],
    "llama_index_rerank": [],
    "semantic_chunking": [],
    "switch_models": [],
    "web_handler": ["starlette", "httpx"],
}
SAYS = {
    "langchain_rag": [
        "second run: 0 passages embedded, 7 known",
        "Why is the bread sour? → Wild yeast makes the gas, and lactic bacteria give the sour taste. (sourdough)",
        "What moves the sea? → Tides follow the moon. (tides)",
        "(vectors)",
    ],
    "langchain_rerank": ["Which function gives the middle value? 50 of ", " passages found; the best of them:"],
    "llama_index_rerank": ["Which function gives the middle value? 50 of ", " passages found; the best of them:"],
    "llama_index_rag": ["first run: 3 passages, 3 embedded", "second run: 3 passages, 0 embedded", "(tides)"],
    "semantic_chunking": [
        "2: The central bank raised its rate again. Inflation had reached five percent.",
        "3: Sourdough rises slowly.",
    ],
    "switch_models": [
        "refused: the vectors of index-old were made with another recipe: dimension 384 → 128",
        "old: Wild yeast makes sourdough rise.",
        "new: Wild yeast makes sourdough rise.",
    ],
}
ARGUMENTS = {"langchain_rerank": [TINY_RERANKER], "llama_index_rerank": [TINY_RERANKER]}
QUESTIONS = ("What if the finally clause raises too?", "Can a lambda contain statements?")
KEEP_AN_INDEX = {"langchain_rag", "llama_index_rag", "switch_models"}


def test_every_example_is_tested():
    assert {file.stem for file in EXAMPLES.glob("*.py")} == set(NEEDS)


@pytest.mark.parametrize("name", sorted(SAYS))
def test_example(name, tmp_path):
    needs(*NEEDS[name])
    environment = {**os.environ, "AKIDB_MLX_MODEL": MINILM, "ANONYMIZED_TELEMETRY": "False"}
    outputs = []
    for _ in range(1 + (name in KEEP_AN_INDEX)):  # the second time it finds it
        done = subprocess.run(
            [sys.executable, str(EXAMPLES / f"{name}.py"), *map(str, ARGUMENTS.get(name, []))],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_S,
        )
        assert done.returncode == 0, done.stderr
        outputs.append(done.stdout)
    for line in SAYS[name]:
        assert line in outputs[0]
    if name in ARGUMENTS:
        scores = [float(line.split()[0]) for line in outputs[0].splitlines() if line.startswith("  ")]
        assert len(scores) == 10 and len(set(scores)) > 2
        assert scores[:5] == sorted(scores[:5], reverse=True) and scores[5:] == sorted(scores[5:], reverse=True)


@pytest.mark.parametrize(
    ("name", "language_model"),
    [
        ("langchain_hybrid", "qwen2-causal-lm"),
        ("llama_index_hybrid", None),
        pytest.param("langchain_hybrid", None, marks=pytest.mark.slow),
        pytest.param("llama_index_hybrid", "qwen2-causal-lm", marks=pytest.mark.slow),
    ],
)
def test_hybrid_example(name, language_model, tmp_path):
    """From text to answer; a random language model answers with nonsense, none with the prompt."""
    needs(*NEEDS[name])
    models = [make_joint_folder(tmp_path), TINY_RERANKER, *([REFERENCE / language_model] if language_model else [])]
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py"), *map(str, models)],
        cwd=tmp_path,
        capture_output=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr.decode()
    said = done.stdout.decode()
    passages, read = map(
        int, re.match(r"(\d+) passages, (\d+) texts read for dense and sparse vectors\n", said).groups()
    )
    assert passages > 60 and read <= passages + 1  # one pass for both, and a probe for the vectors' width
    assert said.count("3 passages kept: ") == 2
    assert all(len(re.findall(rf"^{re.escape(question)}$", said, re.MULTILINE)) == 1 for question in QUESTIONS)
    assert ("Query: Can a" in said or "Question: Can a" in said) == (language_model is None)


def test_web_handler(monkeypatch):
    needs(*NEEDS["web_handler"])
    from starlette.testclient import TestClient

    monkeypatch.setenv("AKIDB_MLX_MODEL", MINILM)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import web_handler

    with TestClient(web_handler.app) as client:
        reply = client.get("/search", params={"q": "How does bread rise?"})
        assert (reply.status_code, reply.json()["passage"]) == (200, "Wild yeast makes sourdough rise.")
        assert client.get("/search").status_code == 200
