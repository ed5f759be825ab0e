"""RemoteEmbedder: `Embedder` over a model that a server has."""

from typing import Any, ClassVar

from numpy.typing import NDArray

from akidb_mlx.checkpoint.processing import Side
from akidb_mlx.config.embedder_config import EmbedderConfig
from akidb_mlx.config.model_config import ModelConfig
from akidb_mlx.embedder import Embedder
from akidb_mlx.errors import InputError
from akidb_mlx.remote.face import RemoteFace, concatenated
from akidb_mlx.remote.model import Kind, RemoteModel
from akidb_mlx.remote.path import RemoteCall
from akidb_mlx.small_vectors import FLOATS, OutputForm

__all__ = ["RemoteEmbedder"]


class RemoteEmbedder(RemoteFace[EmbedderConfig], Embedder):
    """An `Embedder` whose model a server has: the same methods, vectors and errors. Make one with `load`.

    Vectors are those of an `Embedder` with these settings on the server's device, bit by bit. Nothing is loaded in
    this process; long calls go as several requests at a time.
    """

    _remote_kind: ClassVar[Kind] = Kind("embedder", "--model")
    _config_class: ClassVar[type[ModelConfig]] = EmbedderConfig

    def __init__(self, config: EmbedderConfig, model: RemoteModel, fingerprint: str | None = None) -> None:
        """Use `load` instead."""
        self._dimension = int(model.described["dimension"])
        super().__init__(config, model, fingerprint)

    def _call(
        self,
        prompt: str,
        truncate_dim: int | None,
        normalize: bool | None,
        side: Side | None = None,
        *,
        on_overlong: str | None = None,
        max_tokens: int | None = None,
        task: str | None = None,
        form: OutputForm = FLOATS,
    ) -> RemoteCall[NDArray[Any]]:
        self._check_open()
        if task is not None:
            raise self._refuse("task", f"take with_settings(task={task!r}), which shares the server's model")
        dimension = self.dimension if truncate_dim is None else self._checked_dimension(truncate_dim, InputError)
        if form != FLOATS:
            form = self._checked_form(form, dimension)
        options: dict[str, Any] = {"truncate_dim": truncate_dim, "normalize": normalize}
        return RemoteCall(
            prompt,
            lambda parts: self._quantized(concatenated(parts, (0, dimension)), form),
            urgent=side == "query",
            side=side,
            on_overlong=on_overlong or self.config.on_overlong,
            max_tokens=max_tokens,
            options=options,
        )
