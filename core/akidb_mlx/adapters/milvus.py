"""SparseForMilvus: sparse rows in the form in which Milvus's stores of both frameworks want them."""

from collections.abc import Sequence

from akidb_mlx.adapters.lazy_sparse import LazySparseEmbedder, PlainRow

__all__ = ["SparseForMilvus", "as_dictionary"]


class SparseForMilvus:
    """Rows as dictionaries position → value, by the methods that the Milvus stores call.

    The adapters' `for_milvus()` makes one: langchain-milvus calls the four methods named embed, LlamaIndex's store
    the four named encode.
    """

    def __init__(self, lazy: LazySparseEmbedder, *, show_progress: bool = False) -> None:
        """Use an adapter's `for_milvus()` instead."""
        self._lazy = lazy
        self._show_progress = show_progress

    def embed_query(self, query: str) -> dict[int, float]:
        """The row of a query."""
        return self.encode_queries([query])[0]

    def embed_documents(self, texts: Sequence[str]) -> list[dict[int, float]]:
        """The rows of documents, in their order."""
        return [as_dictionary(row) for row in self._lazy.embed_documents(texts, show_progress=self._show_progress)]

    async def aembed_query(self, query: str) -> dict[int, float]:
        """`embed_query` without blocking the event loop."""
        return (await self.async_encode_queries([query]))[0]

    async def aembed_documents(self, texts: Sequence[str]) -> list[dict[int, float]]:
        """`embed_documents` without blocking the event loop."""
        rows = await self._lazy.aembed_documents(texts, show_progress=self._show_progress)
        return [as_dictionary(row) for row in rows]

    def encode_queries(self, queries: Sequence[str]) -> list[dict[int, float]]:
        """The rows of queries, in their order."""
        return [as_dictionary(row) for row in self._lazy.embed_queries(queries)]

    def encode_documents(self, documents: Sequence[str]) -> list[dict[int, float]]:
        """As `embed_documents`."""
        return self.embed_documents(documents)

    async def async_encode_queries(self, queries: Sequence[str]) -> list[dict[int, float]]:
        """`encode_queries` without blocking the event loop."""
        return [as_dictionary(row) for row in await self._lazy.aembed_queries(queries)]

    async def async_encode_documents(self, documents: Sequence[str]) -> list[dict[int, float]]:
        """`encode_documents` without blocking the event loop."""
        return await self.aembed_documents(documents)


def as_dictionary(row: PlainRow) -> dict[int, float]:
    """Position → value."""
    return dict(zip(*row, strict=True))
