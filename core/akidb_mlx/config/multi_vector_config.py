"""MultiVectorConfig: a late-interaction model and how to run it."""

from typing import Any, ClassVar, Final

from pydantic_settings import SettingsConfigDict

from akidb_mlx.config.model_config import ModelConfig, fields_that_change
from akidb_mlx.config.options import DEFAULT_MULTI_VECTOR, ModelName, MultiVectorOptions, vectors_field
from akidb_mlx.config.sources import MULTI_VECTOR, Said, Source
from akidb_mlx.errors import ConfigError

__all__ = ["TOKEN_VECTOR_FIELDS", "MultiVectorConfig"]


class MultiVectorConfig(MultiVectorOptions, ModelConfig):
    """A late-interaction model and how to run it; frozen, and equal to another of the same values.

    Values come from the arguments really given (None included), then `AKIDB_MLX_MULTI_VECTOR_*` variables, then the
    `multi_vector:` section of the first file found of `$AKIDB_CONFIG`, `./embedding_config.yaml`,
    `~/.config/akidb/embedding_config.yaml`, then defaults. Copies, unpickled configs and child processes read none
    of this again.

    Raises:
        ConfigError: an unknown name, a bad value or a bad file.
    """

    model_config = SettingsConfigDict(env_prefix=MULTI_VECTOR.prefix)

    source: ClassVar[Source] = MULTI_VECTOR
    model: ModelName = vectors_field(
        "A local folder, package:NAME (an installed package with a model), or a Hub id.",
        DEFAULT_MULTI_VECTOR,
    )

    @classmethod
    def _arguments(cls, given: Any) -> Said:
        if "truncate_dim" in given:
            raise ConfigError(
                "truncate_dim (argument): the vectors of late interaction are not cut, for scores of their first "
                'dimensions are other scores; to store less take output_dtype="float16" or token_pooling'
            )
        return super()._arguments(given)


TOKEN_VECTOR_FIELDS: Final = fields_that_change(MultiVectorConfig, "vectors")
