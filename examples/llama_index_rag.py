"""Question → passages with LlamaIndex: a pipeline with a cache, Qdrant in a local folder, a retriever.

pip install "akidb-mlx[llama-index]" llama-index-vector-stores-qdrant
AKIDB_MLX_MODEL names the model (default: mlx-community/Qwen3-Embedding-0.6B-4bit-DWQ).
"""

from pathlib import Path

from llama_index.core import Document, VectorStoreIndex
from llama_index.core.ingestion import IngestionCache, IngestionPipeline
from llama_index.core.node_parser import SentenceSplitter
from llama_index.vector_stores.qdrant import QdrantVectorStore
from qdrant_client import QdrantClient

from llama_index_akidb_mlx import AkiDBMLXEmbedding, ensure_recipe

FOLDER = Path("llama_index_rag")
CACHE = FOLDER / "cache.json"
DOCUMENTS = {
    "sourdough": "Sourdough rises slowly. Wild yeast makes the gas, and lactic bacteria give the sour taste.",
    "tides": "Tides follow the moon. Twice a day the sea rises and falls, most of all when sun and moon pull in line.",
    "vectors": "An embedding is a list of numbers. Texts of similar meaning have vectors that point the same way.",
}

embed_model = AkiDBMLXEmbedding()
# A new folder gets the recipe of its vectors; one with another recipe is refused, instead of finding nonsense.
ensure_recipe(FOLDER, embed_model)
client = QdrantClient(path=str(FOLDER / "qdrant"))

# The cache's key holds all that decides vectors, so a changed setting embeds again and an unchanged one does not.
pipeline = IngestionPipeline(
    transformations=[SentenceSplitter(chunk_size=64, chunk_overlap=0), embed_model],
    vector_store=QdrantVectorStore("passages", client=client),
    cache=IngestionCache.from_persist_path(str(CACHE)) if CACHE.exists() else IngestionCache(),
)
documents = [Document(text=text, doc_id=name) for name, text in DOCUMENTS.items()]
for attempt in ("first", "second"):
    before = embed_model.load().stats()["texts"]
    nodes = pipeline.run(documents=documents)
    print(f"{attempt} run: {len(nodes)} passages, {embed_model.load().stats()['texts'] - before} embedded")
pipeline.cache.persist(str(CACHE))

index = VectorStoreIndex.from_vector_store(pipeline.vector_store, embed_model=embed_model)
retriever = index.as_retriever(similarity_top_k=1)
for question in ("Why is the bread sour?", "What moves the sea?", "How does a computer compare meanings?"):
    (found,) = retriever.retrieve(question)
    print(f"{question} → {found.text} ({found.node.ref_doc_id})")
client.close()
