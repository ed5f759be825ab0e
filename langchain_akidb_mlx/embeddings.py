"""AkiDBMLXEmbeddings: LangChain's `Embeddings` over `akidb_mlx.Embedder`."""

import re
from typing import TYPE_CHECKING

from langchain_core.embeddings import Embeddings
from numpy.typing import ArrayLike
from pydantic import AliasChoices, Field

from akidb_mlx.adapters.base import EmbedderAdapter
from akidb_mlx.config.options import ModelName
from langchain_akidb_mlx.frozen import FrozenModel

__all__ = ["AkiDBMLXEmbeddings"]


class AkiDBMLXEmbeddings(FrozenModel, EmbedderAdapter, Embeddings):
    """Text embeddings computed on this machine with MLX, equal to those of sentence-transformers.

    Setup:
        `pip install "akidb-mlx[langchain]"`; on Linux also one of the extras `cpu`, `cuda12`, `cuda13`.

    Key init args:
        model (or model_name):
            A local folder, `package:NAME`, a Hub id or an alias.
        truncate_dim, query_prompt, document_prompt, normalize, max_seq_length, …:
            Every field of `akidb_mlx.EmbedderConfig`. What is not given comes from `AKIDB_MLX_*` variables, then
            a YAML file, then the checkpoint; all of it is read once, here, and shows in the fields.
        embedder:
            A ready `akidb_mlx.Embedder` (or a `FakeEmbedder`) in place of all these.
        show_progress:
            A progress bar over documents.

    Instantiate:
        Nothing is loaded until the first use (or `load()`); objects with the same settings share one model.

        ```python
        from langchain_akidb_mlx import AkiDBMLXEmbeddings

        embeddings = AkiDBMLXEmbeddings(model="Qwen/Qwen3-Embedding-0.6B", truncate_dim=256)
        ```

    Embed single text:
        ```python
        embeddings.embed_query("What is MLX?")  # with the model's query prompt
        ```

    Embed multiple texts:
        ```python
        embeddings.embed_documents(["MLX is an array framework.", "A second text."])
        ```

    Async:
        ```python
        await embeddings.aembed_query("What is MLX?")
        await embeddings.aembed_documents(["MLX is an array framework."])
        ```

    Raises:
        ConfigError: (a `ValueError`) an unknown name or a bad value.
    """

    show_progress: bool = Field(default=False, description="Show a progress bar over documents.")

    if TYPE_CHECKING:  # both names are taken, and both can be read
        model: ModelName = Field(default_factory=ModelName)
        model_name: ModelName = Field(default_factory=ModelName)
    else:
        model: ModelName = Field(
            default="",
            validation_alias=AliasChoices("model", "model_name"),
            description="A local folder, package:NAME (an installed package with a model), a Hub id, or an alias.",
        )

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embed documents, with the model's document prompt if it has one; in their order.

        Examples:
            >>> len(embeddings.embed_documents(["a text", "another"])[0])
            384
        """
        return self._lazy.embed_documents(texts, show_progress=self.show_progress)

    def embed_query(self, text: str) -> list[float]:
        """Embed a query, with the model's query prompt if it has one.

        Examples:
            >>> len(embeddings.embed_query("what is MLX?"))
            384
        """
        return self._lazy.embed_query(text)

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """`embed_documents` without blocking the event loop.

        Examples:
            >>> len(asyncio.run(embeddings.aembed_documents(["a text"])))
            1
        """
        return await self._lazy.aembed_documents(texts, show_progress=self.show_progress)

    async def aembed_query(self, text: str) -> list[float]:
        """`embed_query` without blocking the event loop; concurrent queries share forward passes.

        Examples:
            >>> len(asyncio.run(embeddings.aembed_query("what is MLX?")))
            384
        """
        return await self._lazy.aembed_query(text)

    async def async_embed_query(self, text: str) -> list[float]:
        """`aembed_query` by the name that neo4j-graphrag calls it.

        Examples:
            >>> len(asyncio.run(embeddings.async_embed_query("what is MLX?")))
            384
        """
        return await self.aembed_query(text)

    def validate_vectors(self, vectors: ArrayLike, *, unit_length: bool = False) -> list[list[float]]:
        """Vectors made elsewhere, for `from_embeddings`; InputError names the row that cannot be taken.

        Examples:
            >>> len(embeddings.validate_vectors([[0.0] * 384]))
            1
        """
        rows: list[list[float]] = self._lazy.validate(vectors, unit_length=unit_length).tolist()
        return rows

    @property
    def cache_namespace(self) -> str:
        """For `CacheBackedEmbeddings`: changes exactly when the vectors would. Loads the model.

        Give queries a store of their own there: the same text has another vector as a query.

        Examples:
            >>> narrow = embeddings.model_copy(update={"truncate_dim": 128})
            >>> narrow.cache_namespace == embeddings.cache_namespace
            False
        """
        name = re.sub(r"[^\w.-]+", "_", self.model.rstrip("/").rsplit("/", 1)[-1], flags=re.ASCII)
        return f"{name}-{self.load().fingerprint[:16]}-"
