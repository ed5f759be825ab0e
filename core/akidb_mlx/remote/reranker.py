"""RemoteReranker: `Reranker` over a model that a server has."""

from typing import ClassVar

from akidb_mlx.config.model_config import ModelConfig
from akidb_mlx.config.reranker_config import RerankerConfig
from akidb_mlx.remote.face import RemoteFace, concatenated
from akidb_mlx.remote.model import Kind, RemoteModel
from akidb_mlx.remote.path import RemoteCall
from akidb_mlx.reranker import Reranker
from akidb_mlx.vectors import Embeddings

__all__ = ["RemoteReranker"]


class RemoteReranker(RemoteFace[RerankerConfig], Reranker):
    """A `Reranker` whose model a server has: the same methods, scores and errors. Make one with `load`."""

    _remote_kind: ClassVar[Kind] = Kind("reranker", "--reranker")
    _config_class: ClassVar[type[ModelConfig]] = RerankerConfig

    def __init__(self, config: RerankerConfig, model: RemoteModel, fingerprint: str | None = None) -> None:
        """Use `load` instead."""
        self._activation = str(model.described["info"]["activation"])
        super().__init__(config, model, fingerprint)

    def _call(
        self,
        prompt_name: str | None,
        prompt: str | None,
        activation: str | None,
        on_overlong: str | None = None,
        max_tokens: int | None = None,
    ) -> RemoteCall[Embeddings]:
        self._check_open()
        chosen = self._prompts.query if prompt is prompt_name is None else self._prompts.choose(prompt_name, prompt)
        blank = (0,) if self.num_labels == 1 else (0, self.num_labels)
        return RemoteCall(
            chosen,
            lambda parts: concatenated(parts, blank),
            urgent=True,
            on_overlong=on_overlong or self.config.on_overlong,
            max_tokens=max_tokens,
            options={"activation": self._checked(activation)},
        )
