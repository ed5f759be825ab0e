"""The demo on a user's own folder: what it reads and leaves out, and lines that fit the terminal."""

import importlib.metadata
from itertools import islice
from types import SimpleNamespace

import pytest

from akidb_mlx.cli import demo_answers, main
from akidb_mlx.cli.demo_answers import Hit, show
from akidb_mlx.cli.demo_documents import Document, descriptions, read_folder, within
from akidb_mlx.errors import InputError
from support.checkpoints import PROMPTS
from support.packages import needs

LONG = "x" * 90
COMMANDS_OF_TERMINALS = "\x1b[31mred\x1b]0;title\x07"


@pytest.fixture
def notes(tmp_path):
    """A folder as people have them."""
    folder = tmp_path / "notes"
    (folder / "b.md").mkdir(parents=True)
    (folder / "a.md").write_text(f"{COMMANDS_OF_TERMINALS} refunds take five days. {LONG}")
    (folder / "b.md" / "tea.txt").write_text("\ufeffTea is grown on hills.", encoding="utf-8")
    (folder / ".#lock.md").symlink_to("nowhere")
    (folder / "broken.txt").symlink_to("nowhere")
    (folder / "latin.txt").write_bytes("Die Straße".encode("latin-1"))
    (folder / "wide.txt").write_bytes("tea".encode("utf-16"))
    (folder / "binary.txt").write_bytes(b"PK\0\0")
    (folder / "empty.markdown").write_text(" \n")
    for hidden in (".git", "node_modules/inner"):
        (folder / hidden).mkdir(parents=True)
        (folder / hidden / "left.md").write_text("not the user's")
    return folder


def test_what_is_read_and_what_is_left_out(notes):
    documents, left_out = read_folder(notes)
    assert [document.name for document in documents] == ["a.md", "b.md/tea.txt"]
    assert documents[1].text == "Tea is grown on hills."
    assert dict(left_out) == {
        "binary.txt": "not text",
        "broken.txt": "No such file or directory",
        "empty.markdown": "empty",
        "latin.txt": "not UTF-8",
        "wide.txt": "not UTF-8",
    }


def test_a_folder_without_text_says_why(tmp_path):
    (tmp_path / "latin.txt").write_bytes(b"\xdf")
    with pytest.raises(InputError, match=r"no \.txt or \.md file with text in it \(latin\.txt: not UTF-8\)"):
        read_folder(tmp_path)
    with pytest.raises(InputError, match="is no folder"):
        read_folder(tmp_path / "nowhere")


README = """# Title

[![badge](https://x)](https://y) Tea is grown on hills, and it is picked by hand in early spring.

```python
print("a block of code that has many words in it, none of which is prose")
```

| a | table | of | many | words | is | no | prose | either |

<!-- nor is a comment, however many words somebody has put into it --> Too short.
"""


def test_descriptions_are_prose_without_badges_tables_and_code(monkeypatch):
    def package(name, text):
        return SimpleNamespace(name=name, metadata=SimpleNamespace(get_payload=lambda: text, get=lambda _: None))

    packages = [package("tea", README), package("bare", "# Nothing\n\nToo short."), package("tea", "twice " * 20)]
    monkeypatch.setattr(importlib.metadata, "distributions", lambda: packages)
    assert list(descriptions()) == [Document("tea", "Tea is grown on hills, and it is picked by hand in early spring.")]


def test_there_are_real_descriptions():
    assert all(len(document.text.split()) >= 8 for document in islice(descriptions(), 3))


def test_first_paragraphs_within_the_budget_of_tokens(minilm):
    """10,000 tokens for each of two; a paragraph of one word has three."""
    long, short = "\n\n".join(["tea"] * 5000), "one paragraph"
    kept = list(within(minilm, [Document("long", long), Document("short", short)]))
    assert [document.name for document in kept] == ["long", "short"]
    assert kept[0].text == "\n\n".join(["tea"] * 3333) and kept[1].text == short


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_the_whole_fits_the_terminal(columns, notes, monkeypatch, capsys):
    needs("langchain_core", "langchain_text_splitters", "llama_index.core")
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("HOME", str(notes.parent))
    code = main(["demo", "--docs", "~/notes", "--ask", f"where is tea grown, {LONG}?", "--model", str(PROMPTS)])
    out = capsys.readouterr().out
    assert code == 0 and "2 documents: a.md, b.md/tea.txt" in out
    assert "5 files left out: binary.txt (not text)" in out
    long = [line for line in out.splitlines() if len(line) > columns and str(PROMPTS) not in line]
    assert not long
    assert not set("\x1b\x07") & set(out) and "\\x1b[31mred" in out
    assert out.count("tea.txt") == (3 if columns == 200 else 2)  # the list, and each framework or both at once


def test_answers_that_differ_stand_under_each_other_where_it_is_narrow(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "50")
    show("what?", [Hit(0.5, "left", "one")], [Hit(0.5, "right", "two")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:] == [
        "▶ what?",
        "  LangChain · InMemoryVectorStore",
        "   0.500 left",
        "         one",
        "  LlamaIndex · VectorStoreIndex",
        "   0.500 right",
        "         two",
    ]
    assert demo_answers.named(1, "document", ["a.md"]) == "1 document: a.md"
    assert demo_answers.named(8, "document", list("abcdefgh")).endswith("f …")
