"""Recipe: what decides the rows, settled from what the files say and what the user says."""

import functools
import logging
from dataclasses import dataclass

from akidb_mlx.checkpoint.facts import Checkpoint, read_checkpoint
from akidb_mlx.checkpoint.hub import Resolved
from akidb_mlx.checkpoint.locate import resolve
from akidb_mlx.config.embedder_config import EmbedderConfig
from akidb_mlx.device.choice import Device, choose_device
from akidb_mlx.errors import ConfigError, UnsupportedModelError

__all__ = ["Recipe", "read_recipe", "warn_once"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """What decides the rows: the checkpoint's facts with the user's word on top."""

    checkpoint: Checkpoint
    device: Device
    pooling: tuple[str, ...]
    max_seq_length: int | None


def read_recipe(config: EmbedderConfig, source: Resolved | None = None) -> Recipe:
    """Find the checkpoint, read it and settle what config and checkpoint say; loads no weights."""
    source = source or resolve(config.model, config.revision, config.cache_dir, config.local_files_only)
    checkpoint = read_checkpoint(source.path, source.name, source.revision)
    device = choose_device(config.device, config.memory_limit_mb)
    return Recipe(checkpoint, device, _settle_pooling(config, checkpoint), _settle_length(config, checkpoint))


def _settle_pooling(config: EmbedderConfig, checkpoint: Checkpoint) -> tuple[str, ...]:
    if config.pooling is None:
        if checkpoint.pooling is None and checkpoint.left_out:
            raise UnsupportedModelError(
                f"{checkpoint.path / 'modules.json'} names {checkpoint.left_out[0]}, which a conversion has left out, "
                "and no known family says what was there: copy it from the original, or look pooling up in the model's "
                "documentation and set it (normalize follows modules.json)"
            )
        if checkpoint.pooling is None:
            raise UnsupportedModelError(
                f"{checkpoint.name} does not say how its token vectors become one (no modules.json, no known "
                'family); look it up in the model\'s documentation and set pooling and normalize (pooling="mean" and '
                "normalize=False are what sentence-transformers takes then)"
            )
        return checkpoint.pooling
    if checkpoint.pooling is not None and checkpoint.pooling != (config.pooling,):
        warn_once(
            f'{checkpoint.name} was trained with pooling "{"+".join(checkpoint.pooling)}" '
            f'({checkpoint.sources["pooling"]}), but "{config.pooling}" is set ({config.source_of("pooling")}): '
            "delete that setting to follow the checkpoint"
        )
    return (config.pooling,)


def _settle_length(config: EmbedderConfig, checkpoint: Checkpoint) -> int | None:
    asked = config.max_seq_length
    if asked is None:
        return checkpoint.max_seq_length
    if checkpoint.max_positions is not None and asked > checkpoint.max_positions:
        raise ConfigError(
            f"max_seq_length is {asked} ({config.source_of('max_seq_length')}), but {checkpoint.name} has positions "
            f"for {checkpoint.max_positions} tokens; set at most that"
        )
    return asked


@functools.cache
def warn_once(message: str) -> None:
    """Log a warning, but only once in this process."""
    _log.warning(message)
