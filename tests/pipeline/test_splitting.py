"""Texts cut by the model's own tokens: nothing is lost, no chunk is over-long, none but a last one half empty."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as HFTokenizer

from akidb_mlx import Embedder
from akidb_mlx.errors import ConfigError
from akidb_mlx.splitting import splitter_for
from akidb_mlx.testing import FakeEmbedder
from langchain_akidb_mlx import AkiDBMLXEmbeddings
from llama_index_akidb_mlx import AkiDBMLXEmbedding
from support.checkpoints import MINILM, PROMPTS, REFERENCE
from support.packages import needs

PARAGRAPH = (
    "Wild yeast makes sourdough rise slowly; the lactic bacteria beside it give the sour taste. It wants a warm place! "
    "Who'd have thought that a jar of flour and water, left alone for 3.5 days, begins to bubble?\n"
)
TEXT = "\n\n".join(f"{i}. {PARAGRAPH * (i % 3 + 1)}Über Nacht geht der Teig auf. 面包需要时间。" for i in range(30))
# One of each kind of tokenizer, with prompts, another cut side and a chat template among them.
KINDS = ["bert-prompts", "xlm-roberta-cls", "qwen3-embedding", "modernbert-cls", "left-truncation", "chat-qwen3"]
HERE = [name for name in KINDS if (REFERENCE / name).is_dir()]


def words_of(text):
    return "".join(text.split())


@pytest.mark.parametrize("name", HERE)
def test_counts_without_truncation(name):
    with Embedder.load(REFERENCE / name) as embedder:
        texts = ["short", TEXT, "a " * 500, "ünïcode " * 300]
        whole, cut = embedder.count_tokens(texts, truncate=False), embedder.count_tokens(texts)
        assert [min(count, embedder.max_seq_length) for count in whole] == cut
        assert whole[0] == cut[0] and whole[1] > 5 * cut[1]


def test_counts_are_the_tokenizers_own():
    plain = HFTokenizer.from_file(str(PROMPTS / "tokenizer.json"))
    plain.no_truncation()
    plain.no_padding()
    texts = ["", "short", TEXT, "x" * 5000]
    with Embedder.load(PROMPTS) as embedder:
        found = embedder.count_tokens(texts, "passage text: ", truncate=False)
        assert found == [len(plain.encode("passage text: " + text).ids) for text in texts]
        splitter = splitter_for(embedder)
        assert [splitter.length(text) for text in texts] == [
            len(plain.encode(text, add_special_tokens=False).ids) for text in texts
        ]


@pytest.mark.parametrize("overlap", [0, 5])
@pytest.mark.parametrize("name", HERE)
def test_chunks_are_read_whole_and_nothing_is_lost(name, overlap):
    with Embedder.load(REFERENCE / name) as embedder:
        splitter = splitter_for(embedder, overlap=overlap)
        chunks = splitter.split(TEXT)
        counts = splitter.count([chunk.text for chunk in chunks])
        assert max(counts) <= embedder.max_seq_length
        embedder.encode_document([chunk.text for chunk in chunks])
        assert embedder.stats()["truncated_texts"] == 0
        lengths = [splitter.length(chunk.text) for chunk in chunks]
        assert min(lengths) >= splitter.chunk_tokens // 2 - 3
        assert all(TEXT[chunk.start : chunk.end] == chunk.text for chunk in chunks)
        ends = [0, *(chunk.end for chunk in chunks)]
        if overlap:
            assert sum(chunk.start < end for chunk, end in zip(chunks[1:], ends[1:], strict=False)) > len(chunks) / 5
        else:
            assert words_of("".join(chunk.text for chunk in chunks)) == words_of(TEXT)
        assert all(not TEXT[end : chunk.start].strip() for chunk, end in zip(chunks, ends, strict=False))


def test_cuts_are_where_texts_may_be_cut(minilm):
    splitter = splitter_for(minilm, 100)
    chunks = splitter.split(TEXT)
    before = [TEXT[: chunk.start].rstrip()[-1] for chunk in chunks[1:]]
    assert sum(one in ".!?;。" for one in before) > 0.8 * len(before)
    whole = splitter.split("one short text ")
    assert [(chunk.text, chunk.start) for chunk in whole] == [("one short text ", 0)]
    assert [chunk.text for chunk in splitter.split("")] == [""]


@settings(max_examples=60)
@given(st.text(max_size=400), st.integers(20, 40), st.integers(0, 4))
def test_any_text(text, most, overlap):
    embedder = shared()
    splitter = splitter_for(embedder, most, overlap)
    chunks = splitter.split(text)
    counts = splitter.count([chunk.text for chunk in chunks])
    assert all(count <= most or splitter.length(chunk.text) <= 1 for count, chunk in zip(counts, chunks, strict=True))
    if not overlap and splitter.length(text):
        valid = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        assert words_of("".join(chunk.text for chunk in chunks)) == words_of(valid)


def shared(loaded=[]):  # noqa: B006  # hypothesis takes no fixtures of a module
    if not loaded:
        loaded.append(Embedder.load(REFERENCE / "xlm-roberta-cls" if "xlm-roberta-cls" in HERE else PROMPTS))
    return loaded[0]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"max_tokens": 100}, "chunks of 100 tokens would be cut: the model reads 48"),
        ({"max_tokens": 5}, "the prompt and special tokens take"),
        ({"overlap": 25}, "an overlap of 25 tokens does not fit chunks of"),
        ({"overlap": -1}, "does not fit"),
    ],
)
def test_numbers_that_do_not_fit(tiny, options, told):
    with pytest.raises(ConfigError, match=told):
        splitter_for(tiny, **options)


# ── the frameworks' splitters ────────────────────────────────────────────────────────────────────────


@pytest.fixture(params=[MINILM, str(PROMPTS)], ids=["minilm", "prompts"])
def model(request):
    return request.param


def well_filled(chunks, adapter):
    """No chunk is cut, and few are less than half full."""
    with Embedder.load(adapter.load().config) as embedder:
        before = embedder.stats()["truncated_texts"]
        embedder.encode_document(chunks)
        assert embedder.stats()["truncated_texts"] == before
    lengths = [adapter.token_length(chunk) for chunk in chunks]
    assert max(lengths) <= adapter.max_chunk_tokens
    if adapter.max_chunk_tokens > 100:  # else a sentence is half a chunk
        assert sum(length < adapter.max_chunk_tokens / 2 for length in lengths) <= max(1, 0.1 * len(lengths))


def test_langchains_splitter(model):
    needs("langchain_text_splitters")
    from langchain_text_splitters import RecursiveCharacterTextSplitter

    embeddings = AkiDBMLXEmbeddings(model=model)
    splitter = RecursiveCharacterTextSplitter(
        ["\n\n", "\n", " ", ""],
        chunk_size=embeddings.max_chunk_tokens,
        chunk_overlap=0,
        length_function=embeddings.token_length,
    )
    chunks = splitter.split_text(TEXT.replace("\n\n", "\n"))
    assert len(chunks) > 5
    well_filled(chunks, embeddings)


def test_llama_indexs_splitters(model):
    from llama_index.core.node_parser import SentenceSplitter, TokenTextSplitter
    from llama_index.core.schema import Document, MetadataMode

    embed_model = AkiDBMLXEmbedding(model_name=model)
    for kind in (SentenceSplitter, TokenTextSplitter):
        splitter = kind(chunk_size=embed_model.max_chunk_tokens, chunk_overlap=0, tokenizer=embed_model.tokenize)
        nodes = splitter.get_nodes_from_documents([Document(text=TEXT)])
        assert len(nodes) > 5
        well_filled([node.get_content(MetadataMode.EMBED) for node in nodes], embed_model)


def test_what_has_no_tokenizer():
    with pytest.raises(ConfigError, match="FakeEmbedder has no tokenizer"):
        AkiDBMLXEmbeddings(embedder=FakeEmbedder(8)).token_length("a")
