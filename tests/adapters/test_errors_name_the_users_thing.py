"""Errors say which text is meant: its place in what the user gave, its first characters, its node."""

import asyncio
import copy
import pickle

import pytest
from llama_index.core import VectorStoreIndex
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.schema import TextNode

from akidb_mlx import Embedder
from akidb_mlx.errors import BackendError, InputError
from langchain_akidb_mlx import AkiDBMLXEmbeddings
from llama_index_akidb_mlx import AkiDBMLXEmbedding
from support.checkpoints import PROMPTS

LONG = "word " * 300
SHOWN = "'word word word word word word word word …'"


@pytest.fixture
def embed_model():
    return AkiDBMLXEmbedding(model_name=PROMPTS, on_overlong="error", embed_batch_size=20)


@pytest.fixture
def nodes():
    """Text 64 is too long, the 65th that is embedded: one has its vector."""
    nodes = [TextNode(text=f"node {i}", id_=f"id-{i}") for i in range(70)]
    nodes[3].embedding = [1.0] + [0.0] * 15
    nodes[64] = TextNode(text=LONG, id_="the-long-one")
    return nodes


@pytest.mark.parametrize(
    "embed",
    [
        lambda model, nodes: model(nodes),
        lambda model, nodes: asyncio.run(model.acall(nodes)),
        lambda model, nodes: IngestionPipeline(transformations=[model], disable_cache=True).run(nodes=nodes),
    ],
    ids=["call", "acall", "pipeline"],
)
def test_a_node_and_its_id(embed_model, nodes, embed):
    with pytest.raises(InputError) as caught:
        embed(embed_model, nodes)
    said = str(caught.value)
    assert said.startswith("node 64 (the-long-one) has more than 48 tokens") and said.endswith(f"(it begins {SHOWN})")
    assert caught.value.place == 64


@pytest.mark.parametrize("use_async", [False, True])
def test_an_index_of_nodes(embed_model, nodes, use_async):
    """LlamaIndex gives the texts alone here."""
    nodes = [node for node in nodes if node.embedding is None]
    with pytest.raises(InputError, match=r"text 63 has more than 48 tokens .*\(it begins 'word word"):
        VectorStoreIndex(nodes, embed_model=embed_model, use_async=use_async)


def test_the_place_in_what_was_given(embed_model):
    texts = ["fine"] * 64 + [LONG] + ["fine"] * 5
    for embed in (
        embed_model.get_text_embedding_batch,
        lambda some: asyncio.run(embed_model.aget_text_embedding_batch(some)),
    ):
        with pytest.raises(InputError, match="text 64 has more than 48 tokens"):
            embed(texts)
    with pytest.raises(TypeError, match="item 65 is a NoneType"):
        embed_model.get_text_embedding_batch([*texts[:64], "fine", None])
    embeddings = AkiDBMLXEmbeddings(model=PROMPTS, on_overlong="error")
    with pytest.raises(InputError, match=r"text 64 has more than 48 tokens .*\(it begins 'word word"):
        embeddings.embed_documents(texts)


def test_streams_say_it_too():
    with Embedder.load(PROMPTS, on_overlong="error") as embedder:
        with pytest.raises(InputError, match=r"text 64 has more .*\(it begins 'word word"):
            list(embedder.encode_stream(iter(["fine"] * 64 + [LONG]), 10))
        told = {}
        list(embedder.encode_stream(iter(["fine"] * 64 + [LONG, "x"]), 10, on_error=told.__setitem__))
        assert list(told) == [64] and told[64].text == LONG and "(it begins 'word" in str(told[64])


@pytest.mark.parametrize("copied", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))], ids=["copy", "pickle"])
@pytest.mark.parametrize("kind", [InputError, BackendError])
def test_they_stay_whole_in_other_threads_and_processes(kind, copied):
    error = copied(kind("text 3 is bad").at(3).about("tea"))
    assert (str(error), error.place, error.text) == ("text 3 is bad (it begins 'tea')", 3, "tea")
    assert str(copied(error.renumbered(9, "node 9 (n)"))) == "node 9 (n) is bad (it begins 'tea')"


# ── what is no list of texts ─────────────────────────────────────────────────────────────────────────


class Table:
    """As pandas' and others' tables."""

    columns = ("text", "n")

    def __iter__(self):
        return iter(self.columns)

    def __len__(self):
        return 2


@pytest.mark.parametrize(
    ("texts", "told"),
    [
        ("hello", "wrap one text in a list"),
        (Table(), "a Table, whose columns' names would be read; give one column"),
        ({"id": "text"}, r"a dict, whose keys would be read; give list\(….values\(\)\)"),
        ({"b", "a"}, r"a set, which has no order; give sorted\(…\)"),
    ],
    ids=["str", "table", "mapping", "set"],
)
def test_what_would_be_read_as_something_else(texts, told, embed_model):
    embeddings = AkiDBMLXEmbeddings(model=PROMPTS)
    with Embedder.load(PROMPTS) as embedder:
        for call in (
            embedder.encode,
            embedder.encode_document,
            lambda some: list(embedder.encode_stream(some)),
            embeddings.embed_documents,
            lambda some: asyncio.run(embeddings.aembed_documents(some)),
            embed_model.get_text_embedding_batch,
            lambda some: asyncio.run(embed_model.aget_text_embedding_batch(some)),
        ):
            with pytest.raises(TypeError, match=told):
                call(texts)


def test_a_generator_wants_a_list():
    with pytest.raises(TypeError, match=r"not a generator; give list\(…\) of it"):
        AkiDBMLXEmbeddings(model=PROMPTS).embed_documents(text for text in ("a", "b"))


def test_a_series_is_a_list():
    pandas = pytest.importorskip("pandas")
    series = pandas.Series(["a", "b"], index=[0, 2])
    assert len(AkiDBMLXEmbeddings(model=PROMPTS).embed_documents(series)) == 2
    assert len(AkiDBMLXEmbedding(model_name=PROMPTS).get_text_embedding_batch(series)) == 2
    with pytest.raises(TypeError, match="a DataFrame, whose columns' names"):
        AkiDBMLXEmbeddings(model=PROMPTS).embed_documents(pandas.DataFrame({"a": ["x"]}))
