"""EmbedderConfig: an embedder and how to run it."""

from typing import ClassVar, Final

from pydantic_settings import SettingsConfigDict

from akidb_mlx.config.model_config import ModelConfig, fields_that_change
from akidb_mlx.config.options import DEFAULT_MODEL, EmbedderOptions, ModelName, vectors_field
from akidb_mlx.config.sources import EMBEDDER, Source

__all__ = ["RUN_FIELDS", "VECTOR_FIELDS", "EmbedderConfig"]


class EmbedderConfig(EmbedderOptions, ModelConfig):
    """A model and how to run it; frozen, and equal to another of the same values wherever they came from.

    Values come from the arguments really given (None included), then `AKIDB_MLX_*` variables, then the first
    file found of `$AKIDB_CONFIG`, `./embedding_config.yaml`, `~/.config/akidb/embedding_config.yaml`, then
    defaults. Of a file with an `embedding:` section (AkiDB's own) only that is read, where AkiDB's names are
    taken too: `model_name`, `max_tokens`, `auto_download`, and `batch_size`, which is unused. Of any other
    file every key must be a field. Copies, unpickled configs and child processes read none of this again.

    Raises:
        ConfigError: an unknown name, a bad value or a bad file.
    """

    model_config = SettingsConfigDict(env_prefix=EMBEDDER.prefix)

    source: ClassVar[Source] = EMBEDDER
    model: ModelName = vectors_field(
        "A local folder, package:NAME (an installed package with a model), a Hub id, or an alias.",
        DEFAULT_MODEL,
    )


VECTOR_FIELDS: Final = fields_that_change(EmbedderConfig, "vectors")
RUN_FIELDS: Final = fields_that_change(EmbedderConfig, "run")
