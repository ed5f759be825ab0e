"""docs/tools.md: its Python runs with a tiny model, where the tool is there, and each text has its side."""

import asyncio
import re
import runpy
import sqlite3

import numpy as np
import pytest

from akidb_mlx import Embedder
from langchain_akidb_mlx import AkiDBMLXEmbeddings
from support.checkpoints import PROMPTS
from support.packages import needs
from support.places import DOCS

# What the tools warn of and leave open is not ours.
pytestmark = pytest.mark.filterwarnings("default", "ignore::pytest.PytestUnraisableExceptionWarning")

PAGE = (DOCS / "tools.md").read_text(encoding="utf-8")
BLOCKS = {
    name: (modules.replace(",", " ").split(), code)
    for name, modules, code in re.findall(r"<!-- ([\w-]+):?(.*?) -->\n```python\n(.*?)```", PAGE, re.DOTALL)
}
BEES, SEA, ASKED = "Bees dance to show the way.", "Tides follow the moon.", "how do bees talk?"


@pytest.fixture
def run(tiny, tmp_path, monkeypatch):
    """Runs a block in an empty folder, as it would be behind the page's first one; gives its names."""
    monkeypatch.chdir(tmp_path)

    def run(name):
        modules, code = BLOCKS[name]
        needs(*modules)
        space = {"MODEL": str(PROMPTS), "embedder": tiny}
        space |= {"embeddings": AkiDBMLXEmbeddings(model=PROMPTS), "AkiDBMLXEmbeddings": AkiDBMLXEmbeddings}
        exec(BLOCKS["mark"][1], space)
        page = tmp_path / f"{name.replace('-', '_')}_block.py"
        page.write_text(code.replace("intfloat/e5-small-v2", str(PROMPTS)), encoding="utf-8")
        return runpy.run_path(str(page), space)

    return run


def is_query(row, text, embedder):
    """Whether it is the vector of the query, not of the document; neither is an error."""
    query, document = embedder.encode_query([text])[0], embedder.encode_document([text])[0]
    assert np.abs(query - document).max() > 1e-3
    near = [bool(np.allclose(row, one, atol=1e-5)) for one in (query, document)]
    assert sum(near) == 1, text
    return near[0]


def test_every_block_is_run_by_a_test():
    tests = {name.removeprefix("test_").replace("_", "-") for name in globals() if name.startswith("test_")}
    assert set(BLOCKS) <= tests and PAGE.count("```python") == len(BLOCKS) + 1


def test_the_first_block_and_the_table():
    assert "embeddings = AkiDBMLXEmbeddings(model=MODEL)" in PAGE
    linked = set(re.findall(r"\]\(#([\w-]+)\)", PAGE))
    headings = {line[3:].lower().replace(",", "").replace(" ", "-") for line in PAGE.splitlines() if line[:3] == "## "}
    assert linked == headings - {"a-mark-for-tools-with-one-function"}


def test_mark(run, tiny):
    space = run("mark")
    rows = space["by_mark"]([BEES, "\x1f" + ASKED, SEA, "\x1f" + BEES])
    sides = [is_query(row, text, tiny) for row, text in zip(rows, [BEES, ASKED, SEA, BEES], strict=True)]
    assert sides == [False, True, False, True]


def test_langgraph(run, tiny):
    store = run("langgraph")["store"]
    for name, text in (("bees", BEES), ("sea", SEA)):
        store.put(("user",), name, {"text": text})
    found = store.search(("user",), query=ASKED)
    best = tiny.similarity(tiny.encode_query([ASKED]), tiny.encode_document([BEES, SEA]))[0]
    assert np.allclose(sorted(item.score for item in found), sorted(best), atol=1e-5)


@pytest.mark.slow
def test_langgraph_sqlite(run, tiny):
    if not hasattr(sqlite3.Connection, "enable_load_extension"):
        pytest.skip("needs a Python whose sqlite3 loads extensions")
    (found,) = run("langgraph-sqlite")["found"]
    assert found.value == {"text": BEES}
    expected = tiny.similarity(tiny.encode_query([ASKED]), tiny.encode_document([BEES]))[0, 0]
    assert found.score == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.slow
def test_mem0(run, tiny, monkeypatch):
    monkeypatch.setenv("MEM0_TELEMETRY", "False")
    monkeypatch.setenv("MEM0_DIR", "mem0")
    monkeypatch.setenv("OPENAI_API_KEY", "none is called")
    memory = run("mem0")["memory"]
    try:
        memory.add(BEES, user_id="7", infer=False)
        found = memory.search(ASKED, filters={"user_id": "7"}, threshold=0)["results"]
    finally:
        memory.close()
    assert [one["memory"] for one in found] == [BEES]
    assert is_query(memory.embedding_model.embed(ASKED, "search"), ASKED, tiny)
    assert not is_query(memory.embedding_model.embed(BEES, "add"), BEES, tiny)


@pytest.mark.slow
def test_lightrag(run, tiny):
    embed = run("lightrag")["embedding_func"]
    assert is_query(asyncio.run(embed([ASKED], context="query"))[0], ASKED, tiny)
    assert not is_query(asyncio.run(embed([BEES], context="document"))[0], BEES, tiny)


@pytest.mark.slow
def test_dspy(run, tiny):
    space = run("dspy")
    scores = tiny.similarity(tiny.encode_query([ASKED]), tiny.encode_document([BEES, SEA]))[0]
    assert space["found"] == [[BEES, SEA][int(scores.argmax())]]
    assert not is_query(space["search"].corpus_embeddings[0], BEES, tiny)
    assert is_query(space["search"].embedder(ASKED), ASKED, tiny)


@pytest.mark.slow
def test_txtai(run, tiny):
    space = run("txtai")
    scores = tiny.similarity(tiny.encode_query([ASKED]), tiny.encode_document([BEES, SEA]))[0]
    assert space["found"][0] == (int(scores.argmax()), pytest.approx(float(scores.max()), abs=1e-5))
    assert space["again"].search(ASKED, 1) == space["found"]


@pytest.mark.slow
def test_chonkie(run, tiny):
    space = run("chonkie")
    text = " ".join([BEES, SEA] * 6)
    assert "".join(chunk.text for chunk in space["chunker"](text)) == text
    assert not is_query(space["Local"]().embed_batch([BEES])[0], BEES, tiny)


@pytest.mark.slow
def test_semantic_router(run):
    assert run("semantic-router")["router"]("how do bees talk?").name in ("bees", "sea")


@pytest.mark.slow
def test_nemo(run, tiny):
    run("nemo")
    from nemoguardrails.embeddings.basic import BasicEmbeddingsIndex
    from nemoguardrails.embeddings.index import IndexItem

    async def search():
        index = BasicEmbeddingsIndex(embedding_model=str(PROMPTS), embedding_engine="akidb-mlx")
        await index.add_items([IndexItem(text=text, meta={}) for text in (BEES, SEA)])
        await index.build()
        return index, await index.search(BEES, max_results=1)

    index, found = asyncio.run(search())
    assert found[0].text == BEES and not is_query(index.embeddings[0], BEES, tiny)


@pytest.mark.slow
def test_paper_qa(run, tiny):
    space = run("paper-qa")
    model, modes = space["embedding_model"], space["EmbeddingModes"]
    assert not is_query(asyncio.run(model.embed_document(BEES)), BEES, tiny)
    model.set_mode(modes.QUERY)
    assert is_query(asyncio.run(model.embed_document(ASKED)), ASKED, tiny)


@pytest.mark.slow
def test_crewai(run, tiny):
    space = run("crewai")
    local = space["Local"]()
    assert is_query(local.embed_query([ASKED])[0], ASKED, tiny) and not is_query(local([BEES])[0], BEES, tiny)


@pytest.mark.slow
def test_haystack(run, tiny):
    space = run("haystack")
    from haystack.components.retrievers.in_memory import InMemoryEmbeddingRetriever
    from haystack.document_stores.in_memory import InMemoryDocumentStore

    store = InMemoryDocumentStore(embedding_similarity_function="cosine")
    documents = [space["Document"](content=text) for text in (BEES, SEA)]
    store.write_documents(space["LocalDocumentEmbedder"]().run(documents=documents)["documents"])
    row = space["LocalTextEmbedder"]().run(text=ASKED)["embedding"]
    found = InMemoryEmbeddingRetriever(store).run(query_embedding=row, top_k=2)["documents"]
    scores = tiny.similarity(tiny.encode_query([ASKED]), tiny.encode_document([BEES, SEA]))[0]
    assert [one.content for one in found] == [[BEES, SEA][place] for place in scores.argsort()[::-1]]


@pytest.mark.slow
def test_bertopic(run, tiny):
    topics = run("bertopic")["topics"]
    assert not is_query(topics.embedding_model.embed([BEES])[0], BEES, tiny)


@pytest.mark.slow
def test_keybert(run):
    keywords = run("keybert")["keywords"]
    assert "bees" in [word for word, _ in keywords]


@pytest.mark.slow
def test_pydantic_ai(run, tiny):
    local = run("pydantic-ai")["local"]
    assert is_query(asyncio.run(local.embed_query(ASKED))[0], ASKED, tiny)
    assert not is_query(asyncio.run(local.embed_documents([BEES]))[0], BEES, tiny)


@pytest.mark.slow
def test_neo4j_graphrag(run, tiny):
    space = run("neo4j-graphrag")
    from neo4j_graphrag.components.types import TextChunk, TextChunks
    from neo4j_graphrag.types import EmbedderModel

    chunks = TextChunks(chunks=[TextChunk(text=BEES, index=0)])
    embedded = asyncio.run(space["chunk_embedder"].run(text_chunks=chunks)).chunks[0]
    assert not is_query(embedded.metadata["embedding"], BEES, tiny)
    taken = EmbedderModel(embedder=space["embeddings"]).embedder
    assert is_query(asyncio.run(taken.async_embed_query(ASKED)), ASKED, tiny)


@pytest.mark.slow
def test_datasets(run, tiny, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    space = run("datasets")
    assert not is_query(space["embedded"]["vector"][0], BEES, tiny)
    from datasets.fingerprint import Hasher
    from datasets.utils._dill import dumps

    with Embedder.load(PROMPTS) as unused:
        before = Hasher.hash(unused)
        unused.encode(["a"])
        assert Hasher.hash(unused) == before == Hasher.hash(tiny) and len(dumps(tiny)) < 10_000


@pytest.mark.slow
def test_marimo(run, tiny):
    _, names = run("marimo")["app"].run()
    assert is_query(names["row"], ASKED, tiny)


@pytest.mark.slow
def test_streamlit(run, tiny):
    assert is_query(run("streamlit")["row"], ASKED, tiny)


@pytest.mark.slow
def test_mlflow(run, tiny):
    assert not is_query(run("mlflow")["rows"][0], BEES, tiny)
