"""What kind of model a command was given: its files decide, and with them which configuration is read."""

import argparse
from typing import TypeVar

from akidb_mlx.any_model import ARTICLES, CONFIGS, AnyConfig, ModelKind
from akidb_mlx.checkpoint.kinds import kind_of
from akidb_mlx.checkpoint.locate import resolve
from akidb_mlx.cli.options import add_config_options, add_more_options, read_config
from akidb_mlx.config.embedder_config import EmbedderConfig
from akidb_mlx.config.model_config import ModelConfig
from akidb_mlx.config.multi_vector_config import MultiVectorConfig
from akidb_mlx.config.reranker_config import RerankerConfig
from akidb_mlx.config.sparse_config import SparseConfig
from akidb_mlx.errors import ConfigError

__all__ = ["add_kind_options", "read_config_of_kind"]

C = TypeVar("C", bound=ModelConfig)

_PLURALS = {
    "embedder": "embedders",
    "reranker": "rerankers",
    "sparse": "sparse encoders",
    "multi_vector": "multi-vector models",
}


def add_kind_options(
    parser: argparse.ArgumentParser, *, but: frozenset[str] = frozenset(), only: frozenset[str] | None = None
) -> None:
    """The options of embedders, then those that only other kinds have; `only`: see `add_config_options`."""
    parser.add_argument(
        "--kind",
        choices=tuple(CONFIGS),
        help="by default what MODEL's files say; where they say nothing it is an embedder, and a model of three heads "
        "(BGE-M3) is one until `hybrid` asks for all of them",
    )
    add_config_options(parser, but=but, only=only)
    for config, name in ((RerankerConfig, "rerankers"), (SparseConfig, "sparse encoders")):
        add_more_options(parser, config, f"configuration of {name}")
    add_more_options(parser, MultiVectorConfig, "configuration of multi-vector models")


def read_config_of_kind(args: argparse.Namespace) -> AnyConfig:
    """The configuration of the kind that MODEL is; without MODEL and --kind an embedder's.

    Raises:
        ConfigError: an option was given that only another kind has.
    """
    kind: ModelKind = args.kind or _kind_of_files(args)
    config = CONFIGS[kind]
    for name in vars(args):
        owners = [one for one, other in CONFIGS.items() if name in other.model_fields]
        if owners and kind not in owners:
            those = _PLURALS[owners[0]]
            model = read_config(args, config).model
            raise ConfigError(f"--{name.replace('_', '-')} is for {those}; {model} is {ARTICLES[kind]}")
    return read_config(args, config)


def _kind_of_files(args: argparse.Namespace) -> ModelKind:
    if "model" not in args:
        return "embedder"
    config = read_config(args, EmbedderConfig)
    return kind_of(resolve(config.model, config.revision, config.cache_dir, config.local_files_only).path)
