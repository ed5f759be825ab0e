"""RerankerCheckpoint: what a reranker *is*, read from its files, each fact with the file it came from. No MLX here.

The files and their order of precedence are those of sentence-transformers 6.2's CrossEncoder.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from akidb_mlx.checkpoint.chat_template import RENDERED
from akidb_mlx.checkpoint.config_defaults import complete_config
from akidb_mlx.checkpoint.fact import Fact, value_of
from akidb_mlx.checkpoint.heads import HeadFacts
from akidb_mlx.checkpoint.jina import in_known_words
from akidb_mlx.checkpoint.json_file import read_json
from akidb_mlx.checkpoint.kinds import refuse_embedders
from akidb_mlx.checkpoint.layout import Layout, find_files
from akidb_mlx.checkpoint.model_facts import ModelFacts, file_facts, read_quantization
from akidb_mlx.checkpoint.modules import read_modules, read_usage
from akidb_mlx.checkpoint.scoring import Scoring, read_activation, read_scoring
from akidb_mlx.checkpoint.tokenizer_facts import TokenizerFacts, read_tokenizer_facts
from akidb_mlx.errors import CheckpointError, UnsupportedModelError

__all__ = ["RerankerCheckpoint", "read_reranker_checkpoint"]


@dataclass(frozen=True, kw_only=True)
class RerankerCheckpoint(ModelFacts):
    """The facts of a reranker's folder."""

    head: HeadFacts
    num_labels: int
    activation: str
    """What makes scores of the model's numbers, by torch's name in lower case; as written where it is not known."""


def read_reranker_checkpoint(path: Path, name: str | None = None, revision: str | None = None) -> RerankerCheckpoint:
    """Read all facts of the checkpoint in folder `path`; raise where a file is missing or contradicts another."""
    root_config, has_modules = path / "config.json", (path / "modules.json").exists()
    refuse_embedders(path, read_json(root_config) if root_config.exists() else {}, has_modules=has_modules)
    modules = read_modules(path)
    layout = find_files(path, path / modules[0][1] if modules else path)
    config = in_known_words(read_json(layout.config_file), layout.config_file, layout.weight_files)
    if not isinstance(config.get("model_type"), str):
        raise CheckpointError(f"{layout.config_file} has no model_type: it does not say which architecture this is")
    completed = complete_config(config, layout.config_file)
    config = completed.config
    _refuse_own_code(layout, config)
    tokenizer = read_tokenizer_facts(layout, config, saved=bool(modules), scores=True)
    scoring = read_scoring(layout, config, tokenizer, modules)
    usage = read_usage(path) if modules else None
    activation = read_activation(layout, config, scoring.num_labels, saved=bool(modules))
    quantization = read_quantization(layout, config)
    prompts = None if usage is None else usage.prompts
    facts: Mapping[str, Fact[Any] | None] = {
        "architecture": Fact(config, layout.relative(layout.config_file)),
        "head": scoring.head,
        "activation": activation,
        "prompts": prompts,
        "max_seq_length": tokenizer.max_seq_length,
        "quantization": quantization,
    }
    return RerankerCheckpoint(
        **file_facts(layout, config, tokenizer, quantization, revision),
        name=name or str(path),
        config_defaults=completed.defaults,
        prompts=value_of(prompts, {}),
        default_prompt_name=None if usage is None else usage.default_prompt_name,
        tokenizer_rules=_rules(scoring, tokenizer),
        sources={name: fact.source for name, fact in facts.items() if fact is not None},
        head=scoring.head.value,
        num_labels=scoring.num_labels,
        activation=activation.value,
        chat=scoring.chat,
    )


def _rules(scoring: Scoring, tokenizer: TokenizerFacts) -> Mapping[str, Any]:
    """Further keywords of `Tokenizer`."""
    if scoring.chat is not None:
        return RENDERED
    return {**tokenizer.tokenizer_rules, "pairs": True, "truncation": tokenizer.processing.truncation}


def _refuse_own_code(layout: Layout, config: Mapping[str, Any]) -> None:
    named = config.get("auto_map")
    own = named.get("AutoModelForSequenceClassification") if isinstance(named, Mapping) else None
    if own and config["model_type"] not in ("new", "nomic_bert"):  # whose heads are known
        raise UnsupportedModelError(
            f"{layout.config_file}: auto_map names the checkpoint's own code for its scores ({own}), which is never run"
        )
