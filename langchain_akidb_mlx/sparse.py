"""AkiDBMLXSparseEmbeddings: langchain-qdrant's `SparseEmbeddings` over `akidb_mlx.SparseEmbedder`."""

import importlib.util
from typing import TYPE_CHECKING

from langchain_qdrant import SparseEmbeddings, SparseVector
from pydantic import AliasChoices, Field

from akidb_mlx.adapters.base import SparseAdapter
from akidb_mlx.adapters.milvus import SparseForMilvus
from akidb_mlx.config.options import ModelName
from langchain_akidb_mlx.frozen import FrozenModel

__all__ = ["AkiDBMLXSparseEmbeddings"]


class AkiDBMLXSparseEmbeddings(FrozenModel, SparseAdapter, SparseEmbeddings):  # type: ignore[misc]  # langchain-qdrant is not read
    """Learned sparse vectors computed on this machine with MLX, equal to those of sentence-transformers.

    Setup:
        `pip install "akidb-mlx[langchain]" langchain-qdrant`; on Linux also one of the extras `cpu`, `cuda12`,
        `cuda13`.

    Key init args:
        model (or model_name):
            A local folder, `package:NAME` or a Hub id: SPLADE, an inference-free or autoencoder model, or BGE-M3.
        max_active_dims, query_prompt, document_prompt, max_seq_length, …:
            Every field of `akidb_mlx.SparseConfig`. What is not given comes from `AKIDB_MLX_SPARSE_*` variables, then
            the `sparse:` section of a YAML file, then the checkpoint; all of it is read once, here, and shows in the
            fields.
        embedder:
            A ready `akidb_mlx.SparseEmbedder` (or a `FakeSparseEmbedder`) in place of all these.
        show_progress:
            A progress bar over documents.

    Instantiate:
        Nothing is loaded until the first use (or `load()`); objects with the same settings share one model, and the
        dense and the sparse class of one BGE-M3 share its passes.

        ```python
        from langchain_akidb_mlx import AkiDBMLXEmbeddings
        from langchain_akidb_mlx.sparse import AkiDBMLXSparseEmbeddings
        from langchain_qdrant import QdrantVectorStore, RetrievalMode

        store = QdrantVectorStore.from_documents(
            documents,
            AkiDBMLXEmbeddings(model="BAAI/bge-m3"),
            sparse_embedding=AkiDBMLXSparseEmbeddings(model="BAAI/bge-m3"),
            retrieval_mode=RetrievalMode.HYBRID,
            location=":memory:",
            collection_name="texts",
        )
        ```

    Embed single text:
        ```python
        row = sparse.embed_query("What is MLX?")  # row.indices, row.values
        ```

    Embed multiple texts:
        ```python
        sparse.embed_documents(["MLX is an array framework.", "A second text."])
        ```

    Async:
        ```python
        await sparse.aembed_query("What is MLX?")
        await sparse.aembed_documents(["MLX is an array framework."])
        ```

    Raises:
        ConfigError: (a `ValueError`) an unknown name or a bad value.
    """

    if TYPE_CHECKING:  # both names are taken, and both can be read
        model: ModelName = Field(default_factory=ModelName)
        model_name: ModelName = Field(default_factory=ModelName)
    else:
        model: ModelName = Field(
            default="",
            validation_alias=AliasChoices("model", "model_name"),
            description="A local folder, package:NAME (an installed package with a model), or a Hub id.",
        )
    show_progress: bool = Field(default=False, description="Show a progress bar over documents.")

    def embed_documents(self, texts: list[str]) -> list[SparseVector]:
        """The rows of documents, with the model's document prompt if it has one; in their order.

        Examples:
            >>> len(sparse_embeddings.embed_documents(["two words"])[0].indices)
            2
        """
        return [_vector(*row) for row in self._lazy.embed_documents(texts, show_progress=self.show_progress)]

    def embed_query(self, text: str) -> SparseVector:
        """The row of a query, with the model's query prompt if it has one.

        Examples:
            >>> len(sparse_embeddings.embed_query("two words").indices)
            2
        """
        return _vector(*self._lazy.embed_queries([text])[0])

    async def aembed_documents(self, texts: list[str]) -> list[SparseVector]:
        """`embed_documents` without blocking the event loop.

        Examples:
            >>> len(asyncio.run(sparse_embeddings.aembed_documents(["two words"])))
            1
        """
        return [_vector(*row) for row in await self._lazy.aembed_documents(texts, show_progress=self.show_progress)]

    async def aembed_query(self, text: str) -> SparseVector:
        """`embed_query` without blocking the event loop; concurrent queries share forward passes.

        Examples:
            >>> len(asyncio.run(sparse_embeddings.aembed_query("two words")).values)
            2
        """
        return _vector(*(await self._lazy.aembed_queries([text]))[0])

    def for_milvus(self) -> SparseForMilvus:
        """The same rows as langchain-milvus wants them: dictionaries position → value.

        Examples:
            >>> len(sparse_embeddings.for_milvus().embed_query("two words"))
            2
        """
        if importlib.util.find_spec("langchain_milvus") is not None:
            from langchain_milvus.utils.sparse import BaseSparseEmbedding

            BaseSparseEmbedding.register(SparseForMilvus)  # its store takes anything else for dense
        return SparseForMilvus(self._lazy, show_progress=self.show_progress)


def _vector(indices: list[int], values: list[float]) -> SparseVector:
    return SparseVector(indices=indices, values=values)
