"""`akidb-mlx info MODEL`."""

import argparse
import json
import os
import shutil
import sys
import textwrap
from typing import Any

from akidb_mlx.any_model import AnyConfig
from akidb_mlx.checkpoint.joint_heads import refuse_without_joint_heads
from akidb_mlx.checkpoint.locate import resolve
from akidb_mlx.cli.kind import add_kind_options, read_config_of_kind
from akidb_mlx.cli.options import add_model_argument
from akidb_mlx.config.embedder_config import VECTOR_FIELDS, EmbedderConfig
from akidb_mlx.config.hybrid_config import HybridConfig
from akidb_mlx.config.multi_vector_config import MultiVectorConfig
from akidb_mlx.config.reranker_config import RerankerConfig
from akidb_mlx.config.sparse_config import SparseConfig
from akidb_mlx.device.precision import describe_error
from akidb_mlx.effective.describe import describe, read_dimension
from akidb_mlx.effective.facts import FACTS
from akidb_mlx.effective.fingerprint import combined, fingerprint
from akidb_mlx.effective.multi_vector_recipe import (
    MULTI_VECTOR_FACTS,
    MultiVectorRecipe,
    multi_vector_fingerprint_facts,
    read_multi_vector_recipe,
)
from akidb_mlx.effective.prompts import fingerprint_facts
from akidb_mlx.effective.recipe import Recipe, read_recipe
from akidb_mlx.effective.reranker_recipe import (
    RERANKER_FACTS,
    RerankerRecipe,
    read_reranker_recipe,
    reranker_fingerprint_facts,
)
from akidb_mlx.effective.sparse_recipe import (
    SPARSE_FACTS,
    SparseRecipe,
    read_sparse_recipe,
    sparse_fingerprint_facts,
)
from akidb_mlx.errors import CheckpointError, UnsupportedModelError
from akidb_mlx.hybrid_embedder import config_as
from akidb_mlx.pipeline.loaded_model import measure_float32

__all__ = ["EXAMPLE", "add_arguments", "run"]

EXAMPLE = "akidb-mlx info sentence-transformers/all-MiniLM-L6-v2"

AnyRecipe = Recipe | RerankerRecipe | SparseRecipe | MultiVectorRecipe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_model_argument(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_kind_options(parser, only=VECTOR_FIELDS | {"device", "cache_dir", "local_files_only"})


def run(args: argparse.Namespace) -> int:
    """Print the recipe."""
    config = read_config_of_kind(args)
    facts = _facts(config)
    if args.json:
        sys.stdout.write(json.dumps(facts, indent=2, ensure_ascii=False) + "\n")
        return 1 if facts["refused"] else 0
    sources, suggestions, refused = (facts.pop(name, None) for name in ("sources", "suggestions", "refused"))
    sources = sources or {}
    width = max(map(len, facts))
    if refused:
        _say("refused", refused, width)
    for name, value in facts.items():
        shown = "–" if value in (None, [], {}) else value
        source = f"  ({sources[name]})" if sources.get(name, "default") != "default" else ""
        _say(name, f"{shown}{source}", width)
    for suggestion in suggestions or ():
        _say("suggested", suggestion, width)
    return 1 if refused else 0


def _say(name: str, value: str, width: int) -> None:
    """A fact in its line, or below its name where the terminal is narrower; a word that is longer still stays whole."""
    told = sys.stdout.isatty() or "COLUMNS" in os.environ
    columns = shutil.get_terminal_size((sys.maxsize, 24)).columns if told else sys.maxsize
    line = f"{name:<{width}}  {value}"
    if len(line) > columns:
        indent = "  "
        folded = textwrap.wrap(
            value,
            max(columns, 24),
            initial_indent=indent,
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
        line = "\n".join([name, *folded])
    sys.stdout.write(line + "\n")


def _facts(config: AnyConfig) -> dict[str, Any]:
    if isinstance(config, RerankerConfig):
        reranker = read_reranker_recipe(config)
        told = describe(config, reranker, RERANKER_FACTS)
        return _ended(told, reranker, fingerprint(reranker_fingerprint_facts(config, reranker)))
    if isinstance(config, SparseConfig):
        sparse = read_sparse_recipe(config)
        told = describe(config, sparse, SPARSE_FACTS) | {"dimension": sparse.checkpoint.dimension}
        return _ended(told, sparse, fingerprint(sparse_fingerprint_facts(config, sparse)))
    if isinstance(config, MultiVectorConfig):
        multi = read_multi_vector_recipe(config)
        told = describe(config, multi, MULTI_VECTOR_FACTS) | {"dimension": _token_width(multi)}
        return _ended(told, multi, fingerprint(multi_vector_fingerprint_facts(config, multi)))
    if isinstance(config, HybridConfig):
        return _hybrid_facts(config.plain())
    recipe = read_recipe(config)
    dimension = read_dimension(config, recipe)
    told = describe(config, recipe, FACTS) | {"dimension": dimension}
    # Where nobody says whether to normalise, or which task, there is no recipe yet; `encode` says what to set.
    known = told["normalize"] is not None and (config.task is not None or not recipe.checkpoint.task_required)
    return _ended(told, recipe, fingerprint(fingerprint_facts(config, recipe, dimension)) if known else None)


def _token_width(recipe: MultiVectorRecipe) -> int:
    """Numbers of a vector per token."""
    dense, said = recipe.checkpoint.head.dense, recipe.checkpoint.config
    return dense[-1].out_features if dense else int(said.get("hidden_size") or said.get("dim") or said["n_embd"])


def _hybrid_facts(config: EmbedderConfig) -> dict[str, Any]:
    """The dense recipe, and of the other two what is their own."""
    source = resolve(config.model, config.revision, config.cache_dir, config.local_files_only)
    refuse_without_joint_heads(source.path, source.name)
    forms = {
        "dense": _facts(config),
        "sparse": _facts(config_as(SparseConfig, config)),
        "multi_vector": _facts(config_as(MultiVectorConfig, config)),
    }
    dense = forms.pop("dense")
    prints = [facts.pop("fingerprint") for facts in (dense, *forms.values())]
    own = {
        kind: {name: fact for name, fact in facts.items() if fact != dense.get(name) and name != "sources"}
        for kind, facts in forms.items()
    }
    return {**dense, "kind": "hybrid", **own, "fingerprint": combined(prints) if all(prints) else None}


def _ended(told: dict[str, Any], recipe: AnyRecipe, print_: str | None) -> dict[str, Any]:
    """With what is told of every kind."""
    precision = describe_error(measure_float32(recipe.device))
    return told | {"float32": precision, "fingerprint": print_, "refused": _refusal(recipe)}


def _refusal(recipe: AnyRecipe) -> str | None:
    """Why loading it would fail, as far as config.json tells."""
    from akidb_mlx.model.architectures import make_backbone  # weights are made when they are read, not here

    try:
        make_backbone(recipe.checkpoint.config)
    except (UnsupportedModelError, CheckpointError) as error:
        return str(error)
    return None
