"""SparseConfig: a sparse encoder and how to run it."""

from collections.abc import Mapping
from typing import Any, ClassVar, Final

from pydantic_settings import SettingsConfigDict

from akidb_mlx.config.model_config import ModelConfig, fields_that_change
from akidb_mlx.config.options import DEFAULT_SPARSE, ModelName, SparseOptions, vectors_field
from akidb_mlx.config.sources import SPARSE, Said, Source
from akidb_mlx.errors import ConfigError

__all__ = ["SPARSE_FIELDS", "SparseConfig", "refuse_truncate_dim"]


class SparseConfig(SparseOptions, ModelConfig):
    """A sparse encoder and how to run it; frozen, and equal to another of the same values wherever they came from.

    Values come from the arguments really given (None included), then `AKIDB_MLX_SPARSE_*` variables, then the
    `sparse:` section of the first file found of `$AKIDB_CONFIG`, `./embedding_config.yaml`,
    `~/.config/akidb/embedding_config.yaml`, then defaults. Copies, unpickled configs and child processes read none
    of this again.

    Raises:
        ConfigError: an unknown name, a bad value or a bad file.
    """

    model_config = SettingsConfigDict(env_prefix=SPARSE.prefix)

    source: ClassVar[Source] = SPARSE
    model: ModelName = vectors_field(
        "A local folder, package:NAME (an installed package with a model), or a Hub id.",
        DEFAULT_SPARSE,
    )

    @classmethod
    def _arguments(cls, given: Mapping[str, Any]) -> Said:
        refuse_truncate_dim(given)
        return super()._arguments(given)


def refuse_truncate_dim(given: Mapping[str, Any]) -> None:
    """Raise ConfigError where arguments hold what only dense vectors have."""
    if "truncate_dim" in given:
        raise ConfigError(
            "truncate_dim is not for sparse rows, each of whose places is a word: max_active_dims keeps the greatest "
            "entries"
        )


SPARSE_FIELDS: Final = fields_that_change(SparseConfig, "vectors")
