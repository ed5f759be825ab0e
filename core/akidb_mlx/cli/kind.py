"""What kind of model a command was given: its files decide, and with them which configuration is read."""

import argparse

from akidb_mlx.checkpoint.kinds import kind_of
from akidb_mlx.checkpoint.locate import resolve
from akidb_mlx.cli.options import add_config_options, add_more_options, read_config
from akidb_mlx.config.embedder_config import EmbedderConfig
from akidb_mlx.config.reranker_config import RerankerConfig
from akidb_mlx.errors import ConfigError

__all__ = ["add_both_options", "read_either_config"]


def add_both_options(parser: argparse.ArgumentParser, *, but: frozenset[str] = frozenset()) -> None:
    """The options of embedders, then those that only rerankers have."""
    parser.add_argument(
        "--kind",
        choices=("embedder", "reranker"),
        help="by default what MODEL's files say; a language model whose files say nothing is an embedder",
    )
    add_config_options(parser, but=but)
    add_more_options(parser, RerankerConfig, "configuration of rerankers")


def read_either_config(args: argparse.Namespace) -> EmbedderConfig | RerankerConfig:
    """The configuration of the kind that MODEL is; without MODEL and --kind an embedder's.

    Raises:
        ConfigError: an option was given that only the other kind has.
    """
    config = read_config(args, EmbedderConfig)
    if _kind(args, config) == "reranker":
        _refuse(args, EmbedderConfig, RerankerConfig, f"embedders; {config.model} is a reranker")
        return read_config(args, RerankerConfig)
    _refuse(args, RerankerConfig, EmbedderConfig, f"rerankers; {config.model} is an embedder")
    return config


def _kind(args: argparse.Namespace, config: EmbedderConfig) -> str:
    if args.kind is not None:
        return str(args.kind)
    if "model" not in args:
        return "embedder"
    return kind_of(resolve(config.model, config.revision, config.cache_dir, config.local_files_only).path)


def _refuse(
    args: argparse.Namespace,
    of: type[EmbedderConfig] | type[RerankerConfig],
    but: type[EmbedderConfig] | type[RerankerConfig],
    told: str,
) -> None:
    """Raise for a given option that is a field of the one configuration and not of the other."""
    for name in vars(args):
        if name in of.model_fields and name not in but.model_fields:
            raise ConfigError(f"--{name.replace('_', '-')} is for {told}")
