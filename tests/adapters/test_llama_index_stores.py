"""AkiDBMLXEmbedding in real vector stores, and through LangChain; each is skipped where its package is absent."""

import asyncio

import pytest
from llama_index.core import StorageContext, VectorStoreIndex
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.schema import TextNode

from akidb_mlx import errors
from langchain_akidb_mlx import AkiDBMLXEmbeddings
from llama_index_akidb_mlx import (
    AkiDBMLXEmbedding,
    AkiDBMLXSparseEmbedding,
    check_recipe,
    ensure_recipe,
    recipe_metadata,
)
from support.checkpoints import MINILM
from support.comparison import assert_close
from support.device import stalled, unmeasured
from support.joint import make_joint_folder
from support.packages import needs
from support.texts import TEXTS
from support.waiting import auntil

# What other packages warn about is theirs to mend.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def embedding(minilm):
    return AkiDBMLXEmbedding(model_name=MINILM)


def nodes():
    return [TextNode(text=text, id_=f"00000000-0000-0000-0000-00000000000{i}") for i, text in enumerate(TEXTS)]


def finds_the_exact_text_first(index):
    retriever = index.as_retriever(similarity_top_k=1)
    for text in TEXTS:
        assert retriever.retrieve(text)[0].text == text
    assert retriever.retrieve("an animal naps in the sun")[0].text == TEXTS[1]


def index_in(store, embedding):
    context = StorageContext.from_defaults(vector_store=store)
    index = VectorStoreIndex(nodes(), storage_context=context, embed_model=embedding)
    finds_the_exact_text_first(index)
    return index


def test_chroma(embedding, tmp_path, monkeypatch):
    monkeypatch.setenv("ANONYMIZED_TELEMETRY", "False")
    needs("chromadb", "llama_index.vector_stores.chroma")
    import chromadb
    from llama_index.vector_stores.chroma import ChromaVectorStore

    client = chromadb.PersistentClient(str(tmp_path), chromadb.Settings(anonymized_telemetry=False))
    collection = client.create_collection("texts", metadata=recipe_metadata(embedding))
    index_in(ChromaVectorStore(chroma_collection=collection), embedding)
    again = client.get_collection("texts")
    check_recipe(again.metadata, embedding)
    store = ChromaVectorStore(chroma_collection=again)
    finds_the_exact_text_first(VectorStoreIndex.from_vector_store(store, embed_model=embedding))
    with pytest.raises(errors.ConfigError, match="pooling 'mean' → 'cls'"):
        check_recipe(again.metadata, AkiDBMLXEmbedding(model_name=MINILM, pooling="cls"), "texts")


def test_faiss_persisted_with_its_recipe(embedding, tmp_path):
    needs("faiss", "llama_index.vector_stores.faiss")
    import faiss
    from llama_index.core import load_index_from_storage
    from llama_index.vector_stores.faiss import FaissVectorStore

    folder = str(tmp_path / "index")
    ensure_recipe(folder, embedding)
    index_in(FaissVectorStore(faiss_index=faiss.IndexFlatIP(384)), embedding).storage_context.persist(folder)
    ensure_recipe(folder, embedding)
    store = FaissVectorStore.from_persist_dir(folder)
    context = StorageContext.from_defaults(vector_store=store, persist_dir=folder)
    finds_the_exact_text_first(load_index_from_storage(context, embed_model=embedding))
    with pytest.raises(errors.ConfigError, match="document_prompt None → 'passage: '"):
        ensure_recipe(folder, AkiDBMLXEmbedding(model_name=MINILM, document_prompt="passage: "))


async def test_qdrant(embedding):
    needs("qdrant_client", "llama_index.vector_stores.qdrant")
    import qdrant_client
    from llama_index.vector_stores.qdrant import QdrantVectorStore

    store = QdrantVectorStore("texts", client=qdrant_client.QdrantClient(":memory:"))
    index_in(store, embedding)


async def test_qdrant_async(embedding):
    needs("qdrant_client", "llama_index.vector_stores.qdrant")
    import qdrant_client
    from llama_index.vector_stores.qdrant import QdrantVectorStore

    store = QdrantVectorStore("texts", aclient=qdrant_client.AsyncQdrantClient(":memory:"))
    pipeline = IngestionPipeline(transformations=[embedding], vector_store=store)
    await pipeline.arun(nodes=nodes())
    retriever = VectorStoreIndex.from_vector_store(store, embed_model=embedding).as_retriever(similarity_top_k=1)
    found = await asyncio.gather(*(retriever.aretrieve(text) for text in TEXTS))
    assert [each[0].text for each in found] == TEXTS


async def test_qdrant_hybrid_in_one_pass(tmp_path):
    needs("qdrant_client", "llama_index.vector_stores.qdrant")
    import qdrant_client
    from llama_index.vector_stores.qdrant import QdrantVectorStore

    folder = make_joint_folder(tmp_path)
    dense, sparse = AkiDBMLXEmbedding(model_name=folder), AkiDBMLXSparseEmbedding(model_name=folder)
    store = QdrantVectorStore(
        "texts",
        client=qdrant_client.QdrantClient(":memory:"),
        enable_hybrid=True,
        sparse_doc_fn=sparse.qdrant_doc_fn,
        sparse_query_fn=sparse.qdrant_query_fn,
    )
    context = StorageContext.from_defaults(vector_store=store)
    index = VectorStoreIndex(nodes(), storage_context=context, embed_model=dense)
    told = dense.load().stats()
    assert (told["rows"], told["companion_rows"]) == (len(TEXTS), len(TEXTS))
    retriever = index.as_retriever(vector_store_query_mode="hybrid", similarity_top_k=3, sparse_top_k=3, hybrid_top_k=3)
    for text in TEXTS:
        assert text in [found.text for found in retriever.retrieve(text)]
    assert dense.load().stats()["rows"] == told["rows"] + len(TEXTS)
    only_sparse = index.as_retriever(vector_store_query_mode="sparse", similarity_top_k=5)
    embedder = sparse.load()
    scores = embedder.similarity(embedder.encode_query(TEXTS[:1]), embedder.encode_document(TEXTS))[0]
    found = {one.text: one.score for one in only_sparse.retrieve(TEXTS[0])}
    assert_close([found[text] for text in TEXTS], scores, 1e-5)


def test_lancedb(embedding, tmp_path):
    needs("lancedb", "llama_index.vector_stores.lancedb")
    from llama_index.vector_stores.lancedb import LanceDBVectorStore

    index_in(LanceDBVectorStore(uri=str(tmp_path), mode="overwrite"), embedding)


def test_a_store_takes_the_vectors_that_nodes_bring(embedding):
    needs("qdrant_client", "llama_index.vector_stores.qdrant")
    import qdrant_client
    from llama_index.vector_stores.qdrant import QdrantVectorStore

    given = nodes()
    for node, row in zip(given, embedding.load().encode_document(TEXTS), strict=True):
        node.embedding = row.tolist()
    before = embedding.load().stats()["texts"]
    store = QdrantVectorStore("texts", client=qdrant_client.QdrantClient(":memory:"))
    context = StorageContext.from_defaults(vector_store=store)
    index = VectorStoreIndex(embedding(given), storage_context=context, embed_model=embedding)
    assert embedding.load().stats()["texts"] == before
    finds_the_exact_text_first(index)


async def test_langchain_embedding_over_ours_makes_far_fewer_forwards_than_texts(minilm):
    needs("llama_index.embeddings.langchain")
    from llama_index.embeddings.langchain import LangchainEmbedding

    ours = AkiDBMLXEmbeddings(model=MINILM)
    embedder = ours.load()
    wrapped = LangchainEmbedding(ours, embed_batch_size=10)
    texts = [f"{text} number {i}" for i in range(20) for text in TEXTS]
    before = embedder.stats()
    with unmeasured(embedder), stalled(embedder) as device:
        call = asyncio.create_task(wrapped.aget_text_embedding_batch(texts))
        # It asks for each text by itself, all at once.
        await auntil(lambda: embedder.stats()["requests"] - before["requests"] == len(texts))
        device.open()
        rows = await call
    assert embedder.stats()["batches"] - before["batches"] <= len(texts) / 5
    assert_close(rows, embedder.encode_document(texts))
