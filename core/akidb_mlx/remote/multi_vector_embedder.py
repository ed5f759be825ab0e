"""RemoteMultiVectorEmbedder: `MultiVectorEmbedder` over a model that a server has."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from akidb_mlx.checkpoint.processing import Side
from akidb_mlx.config.model_config import ModelConfig
from akidb_mlx.config.multi_vector_config import MultiVectorConfig
from akidb_mlx.multi_vector_embedder import MultiVectorEmbedder, TokenRows, checked_factor
from akidb_mlx.multi_vectors import MultiVectors
from akidb_mlx.remote.face import RemoteFace
from akidb_mlx.remote.model import Kind
from akidb_mlx.remote.path import RemoteCall
from akidb_mlx.vectors import Embeddings

__all__ = ["RemoteMultiVectorEmbedder"]


class RemoteMultiVectorEmbedder(RemoteFace[MultiVectorConfig], MultiVectorEmbedder):
    """A `MultiVectorEmbedder` whose model a server has: the same methods, rows and errors, but `tokens`.

    MaxSim is computed here. Make one with `load`.
    """

    _remote_kind: ClassVar[Kind] = Kind("multi_vector", "--multi")
    _config_class: ClassVar[type[ModelConfig]] = MultiVectorConfig

    def similarity(self, queries: TokenRows, documents: TokenRows, *, on_device: bool = False) -> Embeddings:
        """(n, m) float32 scores of queries against documents, as `MultiVectorEmbedder.similarity`.

        Raises:
            ConfigError: `on_device`: the device is the server's.

        Examples:
            >>> queries, documents = remote.encode_query(["harbour"]), remote.encode_document(["a harbour", "snow"])
            >>> remote.similarity(queries, documents).shape
            (1, 2)
        """
        if on_device:
            raise self._refuse("similarity(on_device=True)", "leave it out, or load a MultiVectorEmbedder here")
        return super().similarity(queries, documents)

    def tokens(self, texts: Sequence[str], *, side: Side | None = None) -> list[list[str]]:
        """Refused: the tokenizer is where the model is.

        Raises:
            ConfigError: always.

        Examples:
            >>> remote.tokens(["harbour"])
            Traceback (most recent call last):
                ...
            akidb_mlx.errors.ConfigError: tokens is done where the model is, ...
        """
        raise self._refuse("tokens", "POST /api/v1/matches compares tokens, or load a MultiVectorEmbedder here")

    def _call(self, prompt: str, side: Side | None, token_pooling: float | None = None) -> RemoteCall[MultiVectors]:
        self._check_open()
        factor = None if token_pooling is None else checked_factor(token_pooling)
        return RemoteCall(
            prompt,
            self._joined,
            urgent=side == "query",
            side=side,
            on_overlong=self.config.on_overlong,
            options={"token_pooling": factor},
        )

    def _joined(self, parts: Any) -> MultiVectors:
        rows = [MultiVectors(part["vectors"], part["offsets"]) for part in parts]
        if rows:
            return MultiVectors.concatenate(rows)
        return MultiVectors(np.empty((0, self.dimension), self.config.output_dtype), np.zeros(1, np.int64))
