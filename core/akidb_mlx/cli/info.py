"""`akidb-mlx info MODEL`."""

import argparse
import json
import sys
from typing import Any

from akidb_mlx.cli.kind import add_both_options, read_either_config
from akidb_mlx.cli.options import add_model_argument
from akidb_mlx.config.embedder_config import EmbedderConfig
from akidb_mlx.config.reranker_config import RerankerConfig
from akidb_mlx.device.precision import describe_error
from akidb_mlx.effective.describe import describe, read_dimension
from akidb_mlx.effective.facts import FACTS
from akidb_mlx.effective.fingerprint import fingerprint
from akidb_mlx.effective.prompts import fingerprint_facts
from akidb_mlx.effective.recipe import Recipe, read_recipe
from akidb_mlx.effective.reranker_recipe import (
    RERANKER_FACTS,
    RerankerRecipe,
    read_reranker_recipe,
    reranker_fingerprint_facts,
)
from akidb_mlx.errors import CheckpointError, UnsupportedModelError
from akidb_mlx.pipeline.loaded_model import measure_float32

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_model_argument(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_both_options(parser)


def run(args: argparse.Namespace) -> int:
    """Print the recipe."""
    config = read_either_config(args)
    facts = _reranker_facts(config) if isinstance(config, RerankerConfig) else _embedder_facts(config)
    if args.json:
        sys.stdout.write(json.dumps(facts, indent=2, ensure_ascii=False) + "\n")
        return 0
    sources, suggestions, refused = (facts.pop(name, None) for name in ("sources", "suggestions", "refused"))
    sources = sources or {}
    width = max(map(len, facts))
    for name, value in facts.items():
        shown = "–" if value in (None, [], {}) else value
        source = f"  ({sources[name]})" if sources.get(name, "default") != "default" else ""
        sys.stdout.write(f"{name:<{width}}  {shown}{source}\n")
    for suggestion in suggestions or ():
        sys.stdout.write(f"{'suggested':<{width}}  {suggestion}\n")
    if refused:
        sys.stdout.write(f"{'refused':<{width}}  {refused}\n")
    return 0


def _embedder_facts(config: EmbedderConfig) -> dict[str, Any]:
    recipe = read_recipe(config)
    dimension = read_dimension(config, recipe)
    precision = describe_error(measure_float32(recipe.device))
    facts = describe(config, recipe, FACTS) | {"dimension": dimension, "float32": precision}
    # Where nobody says whether to normalise there is no recipe yet; `encode` says what to set.
    known = facts["normalize"] is not None
    facts["fingerprint"] = fingerprint(fingerprint_facts(config, recipe, dimension)) if known else None
    facts["refused"] = _refusal(recipe)
    return facts


def _reranker_facts(config: RerankerConfig) -> dict[str, Any]:
    recipe = read_reranker_recipe(config)
    return describe(config, recipe, RERANKER_FACTS) | {
        "float32": describe_error(measure_float32(recipe.device)),
        "fingerprint": fingerprint(reranker_fingerprint_facts(config, recipe)),
        "refused": _refusal(recipe),
    }


def _refusal(recipe: Recipe | RerankerRecipe) -> str | None:
    """Why loading it would fail, as far as config.json tells."""
    from akidb_mlx.model.architectures import make_backbone  # weights are made when they are read, not here

    try:
        make_backbone(recipe.checkpoint.config)
    except (UnsupportedModelError, CheckpointError) as error:
        return str(error)
    return None
