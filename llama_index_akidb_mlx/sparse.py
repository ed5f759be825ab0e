"""AkiDBMLXSparseEmbedding: LlamaIndex's `BaseSparseEmbedding` over `akidb_mlx.SparseEmbedder`."""

import importlib.util
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from llama_index.core.base.embeddings.base_sparse import BaseSparseEmbedding
from llama_index.core.schema import BaseComponent
from pydantic import ConfigDict, Field

from akidb_mlx import SparseRows
from akidb_mlx.adapters.base import SparseAdapter
from akidb_mlx.adapters.lazy_sparse import PlainRow
from akidb_mlx.adapters.milvus import SparseForMilvus, as_dictionary
from akidb_mlx.config.options import ModelName
from llama_index_akidb_mlx.settled import SettledComponent

__all__ = ["AkiDBMLXSparseEmbedding"]


class AkiDBMLXSparseEmbedding(SettledComponent, SparseAdapter, BaseSparseEmbedding, BaseComponent):
    """Learned sparse vectors computed on this machine with MLX, equal to those of sentence-transformers.

    `pip install "akidb-mlx[llama-index]"`; on Linux also one of the extras `cpu`, `cuda12`, `cuda13`.

    `model_name` (or `model`) is a local folder, `package:NAME` or a Hub id: SPLADE, an inference-free or autoencoder
    model, or BGE-M3. Further arguments are every field of `akidb_mlx.SparseConfig` and LlamaIndex's own. What is not
    given comes from `AKIDB_MLX_SPARSE_*` variables, then the `sparse:` section of a YAML file, then the checkpoint; all
    of it is read once, here, and shows in the fields. `embedder` is a ready `akidb_mlx.SparseEmbedder` (or a
    `FakeSparseEmbedder`) in place of a model and its settings.

    Nothing is loaded until the first use (or `load()`); objects with the same settings share one model, and the dense
    and the sparse class of one BGE-M3 share its passes. What changes rows is serialised; what changes only speed is
    not. Stores do not take the object itself: Qdrant's takes `qdrant_doc_fn` and `qdrant_query_fn`, Milvus's
    `for_milvus()`.

    Examples:
        ```python
        from llama_index.vector_stores.qdrant import QdrantVectorStore
        from llama_index_akidb_mlx import AkiDBMLXSparseEmbedding

        sparse = AkiDBMLXSparseEmbedding(model_name="BAAI/bge-m3")
        store = QdrantVectorStore(
            "texts",
            client=client,
            enable_hybrid=True,
            sparse_doc_fn=sparse.qdrant_doc_fn,
            sparse_query_fn=sparse.qdrant_query_fn,
        )
        ```

    Raises:
        ConfigError: (a `ValueError`) an unknown name or a bad value.
    """

    model_config = ConfigDict(protected_namespaces=())  # `model_name` is no clash, whatever the base class says

    if TYPE_CHECKING:  # both names are taken, and both can be read
        model: ModelName = Field(default_factory=ModelName)
        model_name: ModelName = Field(default_factory=ModelName)
    else:
        model_name: ModelName = Field(
            default="", description="A local folder, package:NAME (an installed package with a model), or a Hub id."
        )
    embed_batch_size: int = Field(
        default=512,
        gt=0,
        le=2048,
        exclude=True,
        description="Texts a call; the engine makes its own batches, by tokens.",
    )
    num_workers: int | None = Field(
        default=None, exclude=True, description="Concurrent calls of the async batch methods."
    )

    @classmethod
    def class_name(cls) -> str:
        """The name under which it is serialised.

        Examples:
            >>> AkiDBMLXSparseEmbedding.class_name()
            'AkiDBMLXSparseEmbedding'
        """
        return "AkiDBMLXSparseEmbedding"

    def qdrant_doc_fn(self, texts: list[str]) -> tuple[list[list[int]], list[list[float]]]:
        """Positions and values of documents' rows: QdrantVectorStore's `sparse_doc_fn`.

        Examples:
            >>> places, weights = sparse_model.qdrant_doc_fn(["two words"])
            >>> len(places[0]) == len(weights[0])
            True
        """
        return _apart(self._lazy.embed_documents(texts))

    def qdrant_query_fn(self, texts: list[str]) -> tuple[list[list[int]], list[list[float]]]:
        """Positions and values of queries' rows: QdrantVectorStore's `sparse_query_fn`.

        Examples:
            >>> places, weights = sparse_model.qdrant_query_fn(["two words"])
            >>> len(places[0]) == len(weights[0])
            True
        """
        return _apart(self._lazy.embed_queries(texts))

    def for_milvus(self) -> SparseForMilvus:
        """The same rows as MilvusVectorStore's `sparse_embedding_function`.

        Examples:
            >>> len(sparse_model.for_milvus().encode_queries(["two words"]))
            1
        """
        if _is_there("llama_index.vector_stores.milvus"):
            from llama_index.vector_stores.milvus.utils import BaseSparseEmbeddingFunction

            BaseSparseEmbeddingFunction.register(SparseForMilvus)  # the store passes over anything else
        return SparseForMilvus(self._lazy)

    def similarity(self, embedding1: Mapping[int, float], embedding2: Mapping[int, float]) -> float:
        """By the model's own function, the dot product unless its files say otherwise; loads the model.

        LlamaIndex's own is the cosine, which such models were not trained for.

        Examples:
            >>> sparse_model.similarity({3: 0.5, 7: 1.0}, {7: 0.5})
            0.5
        """
        embedder = self._lazy.load()
        some, others = (_rows(each, embedder.dimension) for each in (embedding1, embedding2))
        return float(embedder.similarity(some, others)[0, 0])

    def _get_query_embedding(self, query: str) -> dict[int, float]:
        return as_dictionary(self._lazy.embed_queries([query])[0])

    def _get_text_embedding(self, text: str) -> dict[int, float]:
        return self._get_text_embeddings([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[dict[int, float]]:
        return [as_dictionary(row) for row in self._lazy.embed_documents(texts)]

    async def _aget_query_embedding(self, query: str) -> dict[int, float]:
        return as_dictionary((await self._lazy.aembed_queries([query]))[0])

    async def _aget_text_embedding(self, text: str) -> dict[int, float]:
        return (await self._aget_text_embeddings([text]))[0]

    async def _aget_text_embeddings(self, texts: list[str]) -> list[dict[int, float]]:
        return [as_dictionary(row) for row in await self._lazy.aembed_documents(texts)]


def _apart(rows: Sequence[PlainRow]) -> tuple[list[list[int]], list[list[float]]]:
    return [indices for indices, _ in rows], [values for _, values in rows]


def _rows(row: Mapping[int, float], dimension: int) -> SparseRows:
    """One row of sorted entries."""
    indices = np.array(sorted(row), np.int32)
    return SparseRows.of([(indices, np.array([row[place] for place in indices.tolist()], np.float32))], dimension)


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # not even the package that it is in
        return False
