"""Every public object that travels between processes, and what it pickles to; run as a script it prints the latter."""

import hashlib
import json
import pickle
import sys
from pathlib import Path

from akidb_mlx import (
    Embedder,
    EmbedderConfig,
    HybridEmbedder,
    MultiVectorEmbedder,
    Reranker,
    RerankerConfig,
    SparseEmbedder,
)
from langchain_akidb_mlx import AkiDBMLXEmbeddings, AkiDBMLXReranker
from llama_index_akidb_mlx import AkiDBMLXEmbedding, AkiDBMLXRerank, AkiDBMLXSparseEmbedding
from support.checkpoints import TINY_RERANKER


def objects(folder):
    """By name; `folder` has a model with dense, sparse and multi-vector rows."""
    sparse = AkiDBMLXSparseEmbedding(model_name=folder, embed_batch_size=7)
    return {
        "config": EmbedderConfig(model=folder, pooling="cls", query_prompt="find: ", truncate_dim=8),
        "reranker config": RerankerConfig(model=TINY_RERANKER),
        "Embedder": Embedder.load(folder),
        "SparseEmbedder": SparseEmbedder.load(folder),
        "MultiVectorEmbedder": MultiVectorEmbedder.load(folder),
        "HybridEmbedder": HybridEmbedder.load(folder),
        "Reranker": Reranker.load(TINY_RERANKER),
        "LangChain": AkiDBMLXEmbeddings(model=folder, query_prompt="find: ", show_progress=True),
        "LangChain's reranker": AkiDBMLXReranker(
            model=TINY_RERANKER, top_n=5, score_threshold=0.1, metadata_key="score"
        ),
        "LlamaIndex": AkiDBMLXEmbedding(model_name=folder, truncate_dim=8, embed_batch_size=9, num_workers=2),
        "LlamaIndex's reranker": AkiDBMLXRerank(model_name=TINY_RERANKER),
        "LlamaIndex's sparse": sparse,
        "for Milvus": sparse.for_milvus(),
    }


def pickles(made):
    """The bytes of each, and of the private state of those that are pydantic's."""
    private = {
        f"{name}, private": pickle.dumps(thing.__pydantic_private__)
        for name, thing in made.items()
        if hasattr(thing, "lazy_class")
    }
    return {name: pickle.dumps(thing) for name, thing in made.items()} | private


def digests(found):
    return {name: hashlib.sha256(data).hexdigest() for name, data in found.items()}


if __name__ == "__main__":
    json.dump(digests(pickles(objects(Path(sys.argv[1])))), sys.stdout)
