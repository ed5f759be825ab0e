"""What a user's type checker sees: this file is never run, mypy and pyright read it (`make check`, `make types`)."""

import asyncio
from pathlib import Path

import numpy as np
import numpy.typing as npt
from langchain_core.embeddings import Embeddings
from llama_index.core.base.embeddings.base import BaseEmbedding

from akidb_mlx import (
    Embedder,
    EmbedderConfig,
    EmbedderProtocol,
    EmbeddingService,
    HybridEmbedder,
    MultiVectorEmbedder,
    Ranked,
    Reranker,
    RerankerConfig,
    SparseEmbedder,
    SparseRows,
)
from akidb_mlx.testing import FakeEmbedder
from langchain_akidb_mlx import AkiDBMLXEmbeddings, AkiDBMLXReranker
from llama_index_akidb_mlx import AkiDBMLXEmbedding, AkiDBMLXRerank, AkiDBMLXSparseEmbedding

Rows = npt.NDArray[np.float32]


def load(folder: Path) -> Rows:
    """A name, a folder, a configuration; options by keyword."""
    with Embedder.load(folder, truncate_dim=256, device="cpu") as embedder:
        rows: Rows = embedder.encode_document(["a text"], normalize=True)
        counts: list[int] = embedder.count_tokens(["a text"])
        width: int = embedder.dimension
        assert rows.shape == (1, width) and counts
    with Embedder.load(EmbedderConfig(model="BAAI/bge-m3", pooling="cls")) as embedder:
        return embedder.encode_query(["a question"])


def take(embedder: EmbedderProtocol) -> None:
    """The fake is one too."""
    embedder.encode_document(["a text"])


take(FakeEmbedder())
embeddings: Embeddings = AkiDBMLXEmbeddings(model="BAAI/bge-m3")
narrow = AkiDBMLXEmbeddings(model="folder", truncate_dim=256)
embed_model: BaseEmbedding = AkiDBMLXEmbedding(model_name="BAAI/bge-m3")
node_postprocessor = AkiDBMLXRerank(model_name="folder", top_n=3)
compressor = AkiDBMLXReranker(model="BAAI/bge-reranker-v2-m3", top_n=3)

# Both names, each as a name or a path; read as a name.
FOLDER = Path("folder")
AkiDBMLXEmbeddings(model_name="folder", pooling="cls")
AkiDBMLXEmbedding(model="folder", truncate_dim=256)
AkiDBMLXRerank(model="folder")
AkiDBMLXReranker(model_name="folder")
named: list[str] = [
    AkiDBMLXEmbeddings(model=FOLDER).model,
    AkiDBMLXEmbeddings(model_name=FOLDER).model_name,
    AkiDBMLXEmbedding(model=FOLDER).model,
    AkiDBMLXEmbedding(model_name=FOLDER).model_name,
    AkiDBMLXReranker(model=FOLDER).model_name,
    AkiDBMLXRerank(model_name=FOLDER).model,
    AkiDBMLXSparseEmbedding(model_name=FOLDER).model,
]
AkiDBMLXEmbeddings(model=3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
AkiDBMLXEmbedding(model_name=None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
AkiDBMLXEmbeddings(model="folder", cache_dir="models", calibration=FOLDER, keep_alive="5m", pooling="lasttoken")
AkiDBMLXEmbeddings(model="folder", base_url="http://127.0.0.1:8000", api_key="sesame")
AkiDBMLXEmbeddings(pooling="median")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
config = EmbedderConfig(model=FOLDER, keep_alive=300, cache_dir=None)
told: tuple[str, float | None, Path | None] = (config.model, config.keep_alive, config.cache_dir)
RerankerConfig(model=FOLDER)
EmbeddingService(FOLDER)


async def other_kinds() -> None:
    """Rerankers, sparse rows, multi-vectors."""
    with Reranker.load("a") as reranker:
        best: list[Ranked] = reranker.rank("a question", ["a text"], top_k=1)
        scores: Rows = await reranker.apredict([("a question", "a text")])
        assert best and scores.size
    with SparseEmbedder.load("b", max_active_dims=64) as sparse:
        entries: SparseRows = sparse.encode_query(["a question"])
        assert len(entries)
    with MultiVectorEmbedder.load("c", token_pooling=2) as multi:
        assert multi.rank("a question", ["a text"]) and len(multi.encode_document(["a text"]))
    with HybridEmbedder.load("d") as hybrid:
        assert hybrid.encode_document(["a text"]).sparse is not None


asyncio.run(other_kinds())
