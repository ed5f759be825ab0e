"""`akidb-mlx download MODEL`."""

import argparse
import sys

from akidb_mlx.checkpoint.locate import download
from akidb_mlx.cli.options import add_config_options, add_model_argument, read_config
from akidb_mlx.config.embedder_config import EmbedderConfig

__all__ = ["EXAMPLE", "add_arguments", "run"]

EXAMPLE = "akidb-mlx download sentence-transformers/all-MiniLM-L6-v2"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_model_argument(parser)
    add_config_options(parser, only=("revision", "cache_dir"))


def run(args: argparse.Namespace) -> int:
    """Bring the files here and print their folder."""
    config = read_config(args, EmbedderConfig)
    sys.stdout.write(f"{download(config.model, config.revision, config.cache_dir).path}\n")
    return 0
