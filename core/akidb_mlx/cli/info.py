"""`akidb-mlx info MODEL`."""

import argparse
import json
import sys

from akidb_mlx.cli.options import add_config_options, add_model_argument, read_config
from akidb_mlx.info import describe
from akidb_mlx.loaded import read_recipe

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_model_argument(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_config_options(parser)


def run(args: argparse.Namespace) -> int:
    """Print the recipe."""
    config = read_config(args)
    facts = describe(config, read_recipe(config))
    if args.json:
        sys.stdout.write(json.dumps(facts, indent=2, ensure_ascii=False) + "\n")
        return 0
    sources = facts.pop("sources")
    width = max(map(len, facts))
    for name, value in facts.items():
        shown = "–" if value in (None, [], {}) else value
        source = f"  ({sources[name]})" if name in sources and sources[name] != "default" else ""
        sys.stdout.write(f"{name:<{width}}  {shown}{source}\n")
    return 0
