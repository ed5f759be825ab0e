"""The shell blocks of README and docs: every command is one that the command line takes, and does what it says.

Tiny models and files of the test's own stand for what a block names; a server of its own answers `curl`.
"""

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from akidb_mlx import Embedder, RerankerConfig, cli
from akidb_mlx.small_vectors import calibrate_on
from support.checkpoints import MINILM, MULTI_VECTOR, RERANKERS, TINY_RERANKER
from support.packages import needs
from support.places import DOCS, ROOT
from support.serving import serving
from test_readme import SHELL

TEXTS = ["A harbour in the fog.", "The bread needs an hour in the oven.", "Parcels go by freight."]
STANDS_FOR = {
    "sentence-transformers/all-MiniLM-L6-v2 minilm-8bit": f"{MINILM} minilm-8bit --texts passages.txt",  # fewer texts
    "sentence-transformers/all-MiniLM-L6-v2": MINILM,
    "Qwen/Qwen3-Embedding-0.6B": MINILM,
    "Qwen/Qwen3-Reranker-0.6B": str(RERANKERS / "jina-reranker-v2-heads-64"),
    "cross-encoder/ms-marco-MiniLM-L6-v2": str(TINY_RERANKER),
    "lightonai/GTE-ModernColBERT-v1": str(MULTI_VECTOR / "fixed"),
    "--model minilm": f"--model {MINILM}",
    "MODEL": MINILM,
}
# These take a minute, a cluster, a server's place or a service manager: other tests run them.
ONLY_READ = re.compile(r"akidb-mlx (serve|service)|doctor .*--device|--engine ray|reference\.npz")
LINES = [
    (name, line)
    for name, block in SHELL
    for line in block.replace("\\\n", " ").splitlines()
    if line.startswith("akidb-mlx")
]


@pytest.mark.parametrize(("name", "line"), LINES, ids=[name for name, _ in LINES])
def test_the_command_line_takes_it(name, line):
    assert cli._parse(shlex.split(line)[1:]).run


def argv(line):
    for published, here in STANDS_FOR.items():
        line = line.replace(published, here)
    return shlex.split(line)[1:]


@pytest.fixture
def files():
    """What the blocks read, in the folder that the test runs in."""
    lines = "".join(json.dumps({"id": i, "text": one}) + "\n" for i, one in enumerate(TEXTS))
    for name in ("articles", "articles-1", "articles-2"):
        Path(f"{name}.jsonl").write_text(lines)
    pairs = [{"id": i, "question": "what is baked?", "passage": one} for i, one in enumerate(TEXTS)]
    Path("pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    Path("passages.txt").write_text("".join(f"{one} {other}\n" for one in TEXTS for other in [*TEXTS, "", "An end."]))


RUNS = {}
for _name, _line in LINES:
    if not ONLY_READ.search(_line):
        RUNS.setdefault(_name, []).append(_line)


@pytest.mark.parametrize("name", RUNS)
def test_it_does_what_it_says(name, files, capsys):
    for line in RUNS[name]:
        assert cli.main(argv(line)) == 0, capsys.readouterr().err
        if " --to " in line:
            table = pq.read_table(line.partition("--to ")[2].split()[0])
            assert table["id"].to_pylist()[:3] == [0, 1, 2]
    assert capsys.readouterr().out or "--to" in line


CURLS = [(name, line) for name, block in SHELL for line in block.replace("\\\n", " ").splitlines() if "curl" in line]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    scale = tmp_path_factory.mktemp("scale") / "scale.json"
    with Embedder.load(MINILM) as embedder:
        scale.write_text(json.dumps(calibrate_on(embedder.encode_document(TEXTS))))
    models = {
        "Qwen/Qwen3-Embedding-0.6B": MINILM,
        "minilm": Embedder.load(MINILM, calibration=scale).config,
        "cross-encoder/ms-marco-MiniLM-L6-v2": RerankerConfig(model=TINY_RERANKER),
    }
    with serving(models) as running:
        yield running


@pytest.mark.parametrize(("name", "line"), CURLS, ids=[name for name, _ in CURLS])
def test_curl_is_answered(name, line, server):
    if shutil.which("curl") is None:
        pytest.skip("needs curl")
    words = shlex.split(line.replace("http://127.0.0.1:8000", server.url))
    said = json.loads(subprocess.run([*words, "-s"], capture_output=True, check=True, text=True).stdout)
    assert "error" not in said, said
    rows = said.get("data") or said.get("results") or said["embeddings"]["int8"]
    assert len(rows) == (2 if "rerank" in line else 1)


def test_openais_client_is_answered(server):
    needs("openai")
    block = next(
        b for b in re.findall(r"```python\n(.*?)```", (DOCS / "server.md").read_text(), re.DOTALL) if "OpenAI" in b
    )
    space = {}
    exec(block.replace("http://127.0.0.1:8000", server.url).replace("client.emb", "answer = client.emb"), space)
    assert len(space["answer"].data[0].embedding) == 384
    space["client"].close()


def test_no_block_of_the_pages_is_forgotten():
    """A page with a Python block is one of those that some test runs."""
    pages = {page.name for page in [ROOT / "README.md", *DOCS.rglob("*.md")] if "```python" in page.read_text("utf-8")}
    run = {"README.md", "coming-from.md", "index.md", "langchain.md", "llama-index.md", "models.md", "splitting.md"}
    assert pages == run | {"corpora.md", "hybrid.md", "mteb.md", "server.md", "tools.md"}
