"""Recipe: what decides the rows, settled from what the files say and what the user says."""

import functools
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from akidb_mlx.checkpoint.facts import Checkpoint, read_checkpoint
from akidb_mlx.checkpoint.heads import HeadFacts, PooledHead
from akidb_mlx.checkpoint.hub import Resolved
from akidb_mlx.checkpoint.locate import resolve
from akidb_mlx.checkpoint.model_facts import ModelFacts
from akidb_mlx.checkpoint.modules import WHOLE_NUMBERS
from akidb_mlx.checkpoint.processing import Side
from akidb_mlx.config.embedder_config import EmbedderConfig
from akidb_mlx.config.model_config import ModelConfig
from akidb_mlx.device.choice import Device, choose_device
from akidb_mlx.errors import ConfigError, UnsupportedModelError

__all__ = ["AnyRecipe", "Recipe", "read_recipe", "settle_length", "warn_once"]

_log = logging.getLogger(__name__)


class AnyRecipe(Protocol):
    """What decides the rows of any kind of model: the checkpoint's facts with the user's word on top."""

    @property
    def checkpoint(self) -> ModelFacts:
        """The files' word."""

    @property
    def device(self) -> Device:
        """Where it computes."""

    @property
    def head(self) -> HeadFacts:
        """What makes rows of hidden states."""

    @property
    def max_seq_length(self) -> int | None:
        """Tokens that an input may have."""

    @property
    def side_lengths(self) -> Mapping[Side, int]:
        """The same for what is known to be a query or a document, where that is another number."""


@dataclass(frozen=True)
class Recipe:
    """An embedder's: what decides the vectors."""

    checkpoint: Checkpoint
    device: Device
    pooling: tuple[str, ...]
    max_seq_length: int | None
    side_lengths: Mapping[Side, int] = field(default_factory=dict)

    @property
    def head(self) -> HeadFacts:
        """What makes rows of hidden states."""
        return PooledHead(self.pooling, self.checkpoint.dense, self.checkpoint.output == WHOLE_NUMBERS)


def read_recipe(config: EmbedderConfig, source: Resolved | None = None) -> Recipe:
    """Find the checkpoint, read it and settle what config and checkpoint say; loads no weights."""
    source = source or resolve(config.model, config.revision, config.cache_dir, config.local_files_only)
    checkpoint = read_checkpoint(source.path, source.name, source.revision)
    if config.exact_reference:
        checkpoint = checkpoint.without_end_token()
    device = choose_device(config.device, config.memory_limit_mb)
    pooling, length = _settle_pooling(config, checkpoint), settle_length(config, checkpoint)
    if "max" in pooling and any(layer.of_tokens for layer in checkpoint.dense):
        raise UnsupportedModelError(
            f"{checkpoint.name}: its own code has a linear layer before pooling ({checkpoint.sources['dense']}), "
            'with which pooling="max" is not supported; the other modes are'
        )
    return Recipe(checkpoint, device, pooling, length, _settle_sides(config, checkpoint))


def _settle_pooling(config: EmbedderConfig, checkpoint: Checkpoint) -> tuple[str, ...]:
    if config.pooling is None:
        if checkpoint.pooling is None and checkpoint.left_out:
            raise UnsupportedModelError(
                f"{checkpoint.path / 'modules.json'} names {checkpoint.left_out[0]}, which a conversion has left out, "
                "and no known family says what was there: copy it from the original, or look pooling up in the model's "
                "documentation and set it (normalize follows modules.json)"
            )
        if checkpoint.pooling is None and (checkpoint.path / "modules.json").exists():
            raise UnsupportedModelError(
                f"{checkpoint.path / 'modules.json'} names no Pooling, without which the reference gives no row per "
                "text; look it up in the model's documentation and set pooling"
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


def settle_length(config: ModelConfig, checkpoint: ModelFacts) -> int | None:
    """Tokens that an input may have: the user's word, else the checkpoint's."""
    asked = config.max_seq_length
    if asked is None:
        return checkpoint.max_seq_length
    if checkpoint.max_positions is not None and asked > checkpoint.max_positions:
        raise ConfigError(
            f"max_seq_length is {asked} ({config.source_of('max_seq_length')}), but {checkpoint.name} has positions "
            f"for {checkpoint.max_positions} tokens; set at most that"
        )
    return asked


def _settle_sides(config: EmbedderConfig, checkpoint: Checkpoint) -> dict[Side, int]:
    """The files' lengths, as far as the user and the positions allow."""
    bounds = [bound for bound in (config.max_seq_length, checkpoint.max_positions) if bound is not None]
    return {side: min([length, *bounds]) for side, length in checkpoint.side_lengths.items()}


@functools.cache
def warn_once(message: str) -> None:
    """Log a warning, but only once in this process."""
    _log.warning(message)
