"""AkiDBMLXEmbeddings in real vector stores, caches and chains; each is skipped where its package is absent."""

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.language_models import FakeListChatModel

from akidb_mlx import MultiVectorEmbedder, errors
from langchain_akidb_mlx import AkiDBMLXEmbeddings, check_recipe, ensure_recipe, recipe_metadata
from support.checkpoints import MINILM, PROMPTS
from support.comparison import assert_close
from support.joint import make_joint_folder
from support.packages import needs
from support.texts import TEXTS

# What other packages warn about is theirs to mend.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def embeddings(minilm):
    return AkiDBMLXEmbeddings(model=MINILM)


def forwards(adapter):
    return adapter.load().stats()["batches"]


def finds_the_exact_text_first(store):
    for text in TEXTS:
        assert store.similarity_search(text, k=1)[0].page_content == text
    retriever = store.as_retriever(search_kwargs={"k": 1})
    assert retriever.invoke("an animal naps in the sun")[0].page_content == TEXTS[1]


async def finds_it_async_too(store):
    await store.aadd_documents([Document("A dog barks at the postman.", metadata={"number": 9})])
    assert (await store.asimilarity_search("a dog barks", k=1))[0].page_content == "A dog barks at the postman."
    found = await store.as_retriever(search_kwargs={"k": 1}).abatch(TEXTS)
    assert [documents[0].page_content for documents in found] == TEXTS


# ── vector stores ────────────────────────────────────────────────────────────────────────────────────


async def test_faiss(embeddings, tmp_path):
    needs("faiss", "langchain_community.vectorstores")
    from langchain_community.vectorstores import FAISS

    store = FAISS.from_texts(TEXTS, embeddings)
    finds_the_exact_text_first(store)
    assert len(store.max_marginal_relevance_search("food", k=3, fetch_k=5)) == 3
    ensure_recipe(tmp_path / "index", embeddings)
    store.save_local(str(tmp_path / "index"))
    ensure_recipe(tmp_path / "index", embeddings)
    again = FAISS.load_local(str(tmp_path / "index"), embeddings, allow_dangerous_deserialization=True)
    finds_the_exact_text_first(again)
    await finds_it_async_too(again)
    with pytest.raises(errors.ConfigError, match="pooling 'mean' → 'cls'"):
        ensure_recipe(tmp_path / "index", AkiDBMLXEmbeddings(model=MINILM, pooling="cls"))


def test_faiss_from_vectors_that_are_there(embeddings):
    needs("faiss", "langchain_community.vectorstores")
    from langchain_community.vectorstores import FAISS

    rows = np.array(embeddings.embed_documents(TEXTS))
    before = forwards(embeddings)
    pairs = list(zip(TEXTS, embeddings.validate_vectors(rows), strict=True))
    store = FAISS.from_embeddings(pairs, embeddings, relevance_score_fn=lambda distance: 1 - distance / 4)
    assert forwards(embeddings) == before
    finds_the_exact_text_first(store)
    for text in TEXTS:
        (first, best), *others = store.similarity_search_with_relevance_scores(text, k=3)
        assert first.page_content == text
        assert all(0 <= score < best <= 1 for _, score in others)
        (kept,) = store.similarity_search_with_relevance_scores(text, k=3, score_threshold=0.95)
        assert kept[0].page_content == text
    rows[3, 7] = np.nan
    with pytest.raises(errors.InputError, match="row 3 holds NaN"):
        embeddings.validate_vectors(rows)


async def test_chroma(embeddings, tmp_path, monkeypatch):
    monkeypatch.setenv("ANONYMIZED_TELEMETRY", "False")
    needs("chromadb", "langchain_chroma")
    from langchain_chroma import Chroma

    def opened(**options):
        return Chroma("texts", embeddings, persist_directory=str(tmp_path), **options)

    store = opened(collection_metadata=recipe_metadata(embeddings))
    store.add_texts(TEXTS)
    finds_the_exact_text_first(store)
    assert len(store.max_marginal_relevance_search("food", k=3, fetch_k=5)) == 3
    again = opened()
    finds_the_exact_text_first(again)
    await finds_it_async_too(again)
    metadata = again._client.get_collection("texts").metadata
    check_recipe(metadata, embeddings)
    with pytest.raises(errors.ConfigError, match="dimension 384 → 64"):
        check_recipe(metadata, AkiDBMLXEmbeddings(model=MINILM, truncate_dim=64), "texts")


async def test_qdrant(embeddings):
    needs("qdrant_client", "langchain_qdrant")
    from langchain_qdrant import QdrantVectorStore

    store = QdrantVectorStore.from_texts(TEXTS, embeddings, location=":memory:", collection_name="texts")
    finds_the_exact_text_first(store)
    assert len(store.max_marginal_relevance_search("food", k=3, fetch_k=5)) == 3
    found = await store.as_retriever(search_kwargs={"k": 1}).abatch(TEXTS)
    assert [documents[0].page_content for documents in found] == TEXTS


def both_of(folder):
    from langchain_akidb_mlx.sparse import AkiDBMLXSparseEmbeddings

    return AkiDBMLXEmbeddings(model=folder), AkiDBMLXSparseEmbeddings(model=folder)


async def test_qdrant_hybrid_in_one_pass(tmp_path):
    needs("qdrant_client", "langchain_qdrant")
    from langchain_qdrant import QdrantVectorStore, RetrievalMode

    dense, sparse = both_of(make_joint_folder(tmp_path))
    texts = [f"{one[:9]} {other[-9:]}" for one in TEXTS for other in TEXTS]
    store = QdrantVectorStore.from_texts(
        texts,
        dense,
        sparse_embedding=sparse,
        retrieval_mode=RetrievalMode.HYBRID,
        location=":memory:",
        collection_name="texts",
        batch_size=16,
    )
    told = dense.load().stats()
    assert (told["rows"], told["companion_rows"]) == (len(texts) + 1, len(texts))  # and a probe for the width
    for text in texts[::4]:
        assert store.similarity_search(text, k=1)[0].page_content == text
    assert dense.load().stats()["rows"] == told["rows"] + len(texts[::4])
    found = await store.as_retriever(search_kwargs={"k": 1}).abatch(TEXTS)
    assert {type(documents[0]) for documents in found} == {Document}


def test_qdrant_sparse_scores_are_the_cores(tmp_path):
    needs("qdrant_client", "langchain_qdrant")
    from langchain_qdrant import QdrantVectorStore, RetrievalMode

    _, sparse = both_of(make_joint_folder(tmp_path))
    store = QdrantVectorStore.from_texts(
        ["", *TEXTS],  # an empty row among them
        sparse_embedding=sparse,
        retrieval_mode=RetrievalMode.SPARSE,
        location=":memory:",
        collection_name="texts",
    )
    embedder = sparse.load()
    scores = embedder.similarity(embedder.encode_query(TEXTS[:1]), embedder.encode_document(TEXTS))[0]
    found = {one.page_content: score for one, score in store.similarity_search_with_score(TEXTS[0], k=6)}
    assert_close([found.get(text, 0.0) for text in TEXTS], scores, 1e-5)


def test_multi_vectors_in_qdrant_score_as_maxsim(tmp_path):
    needs("qdrant_client")
    from qdrant_client import QdrantClient, models

    client = QdrantClient(":memory:")
    with MultiVectorEmbedder.load(make_joint_folder(tmp_path)) as multi:
        client.create_collection(
            "texts",
            vectors_config=models.VectorParams(
                size=multi.dimension,
                distance=models.Distance.DOT,
                multivector_config=models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM),
            ),
        )
        rows = multi.encode_document(TEXTS)
        client.upsert("texts", [models.PointStruct(id=i, vector=row.tolist()) for i, row in enumerate(rows)])
        query = multi.encode_query(["an animal naps in the sun"])
        found = client.query_points("texts", query=query[0].tolist(), limit=5).points
        scores = {point.id: point.score for point in found}
        # BGE-M3's score is the mean over the query's tokens, Qdrant's their sum.
        assert_close([scores[i] for i in range(5)], multi.similarity(query, rows)[0] * len(query[0]), 1e-5)


def test_multi_vectors_in_lancedb_score_as_maxsim(tmp_path):
    needs("lancedb")
    import lancedb
    import pyarrow as pa

    with MultiVectorEmbedder.load(make_joint_folder(tmp_path)) as multi:
        rows = multi.encode_document(TEXTS)
        vectors = pa.ListArray.from_arrays(
            pa.array(rows.offsets, pa.int32()),
            pa.FixedSizeListArray.from_arrays(rows.vectors.ravel(), multi.dimension),
        )
        table = lancedb.connect(tmp_path).create_table("texts", pa.table({"text": TEXTS, "vectors": vectors}))
        query = multi.encode_query(["an animal naps in the sun"])
        found = table.search(query[0]).distance_type("cosine").limit(5).to_list()
        tokens = len(query[0])
        scores = {one["text"]: 1 - one["_distance"] / tokens for one in found}
        assert_close([scores[text] for text in TEXTS], multi.similarity(query, rows)[0], 1e-5)


async def test_lancedb(embeddings, tmp_path):
    needs("lancedb", "langchain_community.vectorstores")
    from langchain_community.vectorstores import LanceDB

    numbers = [{"number": i} for i in range(5)]  # LanceDB has no column without fields
    store = LanceDB.from_texts(TEXTS, embeddings, numbers, uri=str(tmp_path), mode="append")
    finds_the_exact_text_first(store)
    assert len(store.max_marginal_relevance_search("food", k=3, fetch_k=5)) == 3
    await finds_it_async_too(store)


# ── caches, splitters, chains ────────────────────────────────────────────────────────────────────────


async def test_cache_backed_embeddings_second_pass_makes_no_forward(embeddings, tmp_path):
    needs("langchain_classic")
    from langchain_classic.embeddings import CacheBackedEmbeddings
    from langchain_classic.storage import LocalFileStore
    from langchain_core.stores import InvalidKeyException

    def cached(underlying):
        return CacheBackedEmbeddings.from_bytes_store(
            underlying,
            LocalFileStore(str(tmp_path / "documents")),
            namespace=underlying.cache_namespace,
            query_embedding_cache=LocalFileStore(str(tmp_path / "queries")),
            key_encoder="sha256",
        )

    with pytest.raises(InvalidKeyException):  # as LangChain's own example names it
        LocalFileStore(str(tmp_path / "named")).mset([(embeddings.model, b"")])

    first = cached(embeddings)
    rows, query = first.embed_documents(TEXTS), first.embed_query("tea")
    before = forwards(embeddings)
    again = cached(AkiDBMLXEmbeddings(model=MINILM))
    assert again.embed_documents(TEXTS) == await again.aembed_documents(TEXTS) == rows
    assert again.embed_query("tea") == query
    assert forwards(embeddings) == before
    short = cached(AkiDBMLXEmbeddings(model=MINILM, truncate_dim=64))
    assert {len(row) for row in short.embed_documents(TEXTS)} == {64}


def test_cache_backed_sides_are_apart_with_a_store_each(tmp_path):
    needs("langchain_classic")
    from langchain_classic.embeddings import CacheBackedEmbeddings
    from langchain_classic.storage import InMemoryByteStore

    embeddings = AkiDBMLXEmbeddings(model=PROMPTS)
    cached = CacheBackedEmbeddings.from_bytes_store(
        embeddings,
        InMemoryByteStore(),
        namespace=embeddings.cache_namespace,
        query_embedding_cache=InMemoryByteStore(),
        key_encoder="sha256",
    )
    document, query = cached.embed_documents(["tea"])[0], cached.embed_query("tea")
    assert_close(query, embeddings.embed_query("tea"))
    assert not np.allclose(document, query, atol=1e-3)


def test_semantic_chunker(embeddings):
    needs("langchain_experimental.text_splitter")
    from langchain_experimental.text_splitter import SemanticChunker

    text = " ".join(
        ["Cats sleep most of the day.", "A kitten naps in the sun.", "My cat purrs on the sofa."] * 2
        + ["The central bank raised interest rates.", "Inflation fell to two percent.", "Bond yields rose."] * 2
    )
    chunks = SemanticChunker(embeddings, breakpoint_threshold_amount=80).split_text(text)
    assert len(chunks) >= 2
    assert "kitten" in chunks[0]
    assert "bank" not in chunks[0]


async def test_langgraph_store(embeddings):
    needs("langgraph.store.memory")
    from langgraph.store.memory import InMemoryStore

    store = InMemoryStore(index={"embed": embeddings, "dims": 384})
    for i, text in enumerate(TEXTS):
        store.put(("notes",), str(i), {"text": text})
    assert store.search(("notes",), query="a pet naps", limit=1)[0].value["text"] == TEXTS[1]
    await store.aput(("notes",), "dog", {"text": "A dog barks at the postman."})
    found = await store.asearch(("notes",), query="a dog", limit=1)
    assert found[0].value["text"] == "A dog barks at the postman."


async def test_multi_query_retriever(embeddings):
    needs("langchain_classic")
    from langchain_classic.retrievers import MultiQueryRetriever
    from langchain_core.vectorstores import InMemoryVectorStore

    store = InMemoryVectorStore.from_texts(TEXTS, embeddings)
    answers = ["a pet that naps\nhow dough is leavened\nwhat lawmakers decided"] * 2
    retriever = MultiQueryRetriever.from_llm(
        store.as_retriever(search_kwargs={"k": 1}), FakeListChatModel(responses=answers)
    )
    expected = {TEXTS[1], TEXTS[3], TEXTS[4]}
    assert {document.page_content for document in retriever.invoke("three things")} == expected
    assert {document.page_content for document in await retriever.ainvoke("three things")} == expected


def test_index_into_a_real_store_twice_embeds_nothing(embeddings):
    needs("qdrant_client", "langchain_qdrant")
    from langchain_core.indexing import InMemoryRecordManager, index
    from langchain_qdrant import QdrantVectorStore

    store = QdrantVectorStore.from_texts(["seed"], embeddings, location=":memory:", collection_name="texts")
    records = InMemoryRecordManager("here")
    records.create_schema()
    documents = [Document(text, metadata={"source": str(i)}) for i, text in enumerate(TEXTS)]

    def again():
        # Qdrant takes UUIDs for ids, which is what "sha1" gives.
        return index(documents, records, store, cleanup="incremental", source_id_key="source", key_encoder="sha1")

    assert again()["num_added"] == 5
    before = forwards(embeddings)
    assert again()["num_skipped"] == 5
    assert forwards(embeddings) == before
