"""RemoteSparseEmbedder: `SparseEmbedder` over a model that a server has."""

from typing import Any, ClassVar

from akidb_mlx import sparse_scores
from akidb_mlx.checkpoint.processing import Side
from akidb_mlx.config.model_config import ModelConfig
from akidb_mlx.config.sparse_config import SparseConfig
from akidb_mlx.remote.face import RemoteFace
from akidb_mlx.remote.model import Kind, RemoteModel
from akidb_mlx.remote.path import RemoteCall
from akidb_mlx.sparse_embedder import SparseEmbedder
from akidb_mlx.sparse_rows import SparseRows

__all__ = ["RemoteSparseEmbedder"]


class RemoteSparseEmbedder(RemoteFace[SparseConfig], SparseEmbedder):
    """A `SparseEmbedder` whose model a server has: the same methods, rows and errors, but `decode`.

    Make one with `load`.
    """

    _remote_kind: ClassVar[Kind] = Kind("sparse", "--sparse")
    _config_class: ClassVar[type[ModelConfig]] = SparseConfig

    def __init__(self, config: SparseConfig, model: RemoteModel, fingerprint: str | None = None) -> None:
        """Use `load` instead."""
        self._active_dims = model.described["info"]["max_active_dims"]
        self._static = None  # the server knows which way a query goes
        super().__init__(config, model, fingerprint)

    def decode(self, rows: SparseRows, top_k: int | None = None) -> list[list[tuple[str | None, float]]]:
        """Refused: the vocabulary is where the model is.

        Raises:
            ConfigError: always.

        Examples:
            >>> remote.decode(remote.encode_query(["harbour"]))
            Traceback (most recent call last):
                ...
            akidb_mlx.errors.ConfigError: decode is done where the model is, ...
        """
        raise self._refuse("decode", "POST /api/v1/terms gives texts' terms, or load a SparseEmbedder here")

    def _call(self, prompt: str, max_active_dims: int | None, side: Side | None = None) -> RemoteCall[SparseRows]:
        self._check_open()
        sparse_scores.check_active_dims(max_active_dims)
        return RemoteCall(
            prompt,
            self._joined,
            urgent=side == "query",
            side=side,
            on_overlong=self.config.on_overlong,
            options={"max_active_dims": max_active_dims},
        )

    def _joined(self, parts: Any) -> SparseRows:
        rows = [SparseRows(part["indptr"], part["indices"], part["values"], self.dimension) for part in parts]
        return SparseRows.concatenate([SparseRows.of([], self.dimension), *rows])
