"""What kind of model a command was given: its files decide, and with them which configuration is read."""

import argparse
from typing import TypeVar

from akidb_mlx.checkpoint.kinds import kind_of
from akidb_mlx.checkpoint.locate import resolve
from akidb_mlx.cli.options import add_config_options, add_more_options, read_config
from akidb_mlx.config.embedder_config import EmbedderConfig
from akidb_mlx.config.hybrid_config import HybridConfig
from akidb_mlx.config.model_config import ModelConfig
from akidb_mlx.config.multi_vector_config import MultiVectorConfig
from akidb_mlx.config.reranker_config import RerankerConfig
from akidb_mlx.config.sparse_config import SparseConfig
from akidb_mlx.embedder import Embedder
from akidb_mlx.errors import ConfigError
from akidb_mlx.hybrid_embedder import HybridEmbedder
from akidb_mlx.multi_vector_embedder import MultiVectorEmbedder
from akidb_mlx.reranker import Reranker
from akidb_mlx.sparse_embedder import SparseEmbedder

__all__ = ["AnyConfig", "AnyFace", "add_kind_options", "load_of_kind", "read_config_of_kind"]

AnyConfig = EmbedderConfig | RerankerConfig | SparseConfig | MultiVectorConfig
AnyFace = Embedder | Reranker | SparseEmbedder | MultiVectorEmbedder | HybridEmbedder
C = TypeVar("C", bound=ModelConfig)
# Kind → its configuration, and what its models are called.
_KINDS: dict[str, tuple[type[AnyConfig], str]] = {
    "embedder": (EmbedderConfig, "an embedder"),
    "reranker": (RerankerConfig, "a reranker"),
    "sparse": (SparseConfig, "a sparse encoder"),
    "multi_vector": (MultiVectorConfig, "a multi-vector model"),
    "hybrid": (HybridConfig, "a hybrid model"),
}

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
        choices=tuple(_KINDS),
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
    kind = args.kind or _kind_of_files(args)
    config, what = _KINDS[kind]
    for name in vars(args):
        owners = [one for one, (other, _) in _KINDS.items() if name in other.model_fields]
        if owners and kind not in owners:
            those = _PLURALS[owners[0]]
            model = read_config(args, config).model
            raise ConfigError(f"--{name.replace('_', '-')} is for {those}; {model} is {what}")
    return read_config(args, config)


def load_of_kind(config: AnyConfig) -> AnyFace:
    """The model of this configuration; whoever asks closes it."""
    if isinstance(config, RerankerConfig):
        return Reranker.load(config)
    if isinstance(config, SparseConfig):
        return SparseEmbedder.load(config)
    if isinstance(config, MultiVectorConfig):
        return MultiVectorEmbedder.load(config)
    return HybridEmbedder.load(config.plain()) if isinstance(config, HybridConfig) else Embedder.load(config)


def _kind_of_files(args: argparse.Namespace) -> str:
    if "model" not in args:
        return "embedder"
    config = read_config(args, EmbedderConfig)
    return kind_of(resolve(config.model, config.revision, config.cache_dir, config.local_files_only).path)
