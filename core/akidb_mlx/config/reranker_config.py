"""RerankerConfig: a reranker and how to run it."""

from typing import ClassVar, Final

from pydantic_settings import SettingsConfigDict

from akidb_mlx.config.model_config import ModelConfig, fields_that_change
from akidb_mlx.config.options import DEFAULT_RERANKER, ModelName, RerankerOptions, vectors_field
from akidb_mlx.config.sources import RERANKER, Source

__all__ = ["SCORE_FIELDS", "RerankerConfig"]


class RerankerConfig(RerankerOptions, ModelConfig):
    """A reranker and how to run it; frozen, and equal to another of the same values wherever they came from.

    Values come from the arguments really given (None included), then `AKIDB_MLX_RERANKER_*` variables, then the
    `reranker:` section of the first file found of `$AKIDB_CONFIG`, `./embedding_config.yaml`,
    `~/.config/akidb/embedding_config.yaml`, then defaults. Copies, unpickled configs and child processes read none
    of this again.

    Raises:
        ConfigError: an unknown name, a bad value or a bad file.
    """

    model_config = SettingsConfigDict(env_prefix=RERANKER.prefix)

    source: ClassVar[Source] = RERANKER
    model: ModelName = vectors_field(
        "A local folder, package:NAME (an installed package with a model), or a Hub id.",
        DEFAULT_RERANKER,
    )


SCORE_FIELDS: Final = fields_that_change(RerankerConfig, "vectors")
