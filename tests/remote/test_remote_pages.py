"""The pages' blocks about servers run, with MiniLM and a server of the test's own in place of what they name."""

import re

import numpy as np
import pytest

from akidb_mlx import Embedder, RerankerConfig
from support.checkpoints import MINILM, TINY_RERANKER
from support.comparison import assert_close
from support.places import DOCS
from support.serving import serving

BLOCKS = {
    (page, name): code
    for page in ("server", "langchain", "llama-index")
    for name, code in re.findall(
        r"<!-- (classes|rows|remote|two) -->\n```python\n(.*?)```", (DOCS / f"{page}.md").read_text("utf-8"), re.DOTALL
    )
}
MACS = ("http://mac-one.local:8000", "http://mac-two.local:8000")
NAMES = {"Qwen/Qwen3-Embedding-0.6B": MINILM, "cross-encoder/ms-marco-MiniLM-L6-v2": str(TINY_RERANKER)}


@pytest.fixture(scope="module")
def server():
    with serving({"m": MINILM, "r": RerankerConfig(model=TINY_RERANKER)}) as running:
        yield running


@pytest.mark.parametrize("block", BLOCKS, ids=" ".join)
def test_a_block_runs(server, minilm, block):
    code = BLOCKS[block]
    for url in ("http://127.0.0.1:8000", "unix:///home/me/akidb.sock", *MACS):
        code = code.replace(url, server.url)
    for name, ours in NAMES.items():
        code = code.replace(name, ours)
    space = {}
    exec(code, space)
    expected = minilm.encode_query(["What is MLX?"])
    if "texts" in space:
        assert_close(space["rows"], minilm.encode_document(space["texts"]))
    elif "rows" in space:
        assert np.array_equal(space["rows"], expected)
    if "embeddings" in space:
        assert space["embeddings"].embed_query("What is MLX?") == expected[0].tolist()
    if "embed_model" in space:
        assert space["embed_model"].get_query_embedding("What is MLX?") == expected[0].tolist()


def test_every_page_has_its_blocks():
    assert set(BLOCKS) == {
        ("server", "classes"),
        ("server", "rows"),
        ("server", "two"),
        ("langchain", "remote"),
        ("llama-index", "remote"),
    }
    assert Embedder.__name__ in (DOCS / "server.md").read_text("utf-8")
