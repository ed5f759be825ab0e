"""RerankerCheckpoint: what a reranker *is*, read from its files, each fact with the file it came from. No MLX here.

The files and their order of precedence are those of sentence-transformers 6.2's CrossEncoder.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from akidb_mlx.checkpoint.chat_template import ChatTemplate
from akidb_mlx.checkpoint.fact import Fact, value_of
from akidb_mlx.checkpoint.heads import HeadFacts
from akidb_mlx.checkpoint.json_file import read_json
from akidb_mlx.checkpoint.kinds import refuse_embedders
from akidb_mlx.checkpoint.layout import Layout, find_files
from akidb_mlx.checkpoint.model_facts import ModelFacts, read_quantization
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
    chat: ChatTemplate | None = None


def read_reranker_checkpoint(path: Path, name: str | None = None, revision: str | None = None) -> RerankerCheckpoint:
    """Read all facts of the checkpoint in folder `path`; raise where a file is missing or contradicts another."""
    modules = read_modules(path)
    root_config = path / "config.json"
    refuse_embedders(path, read_json(root_config) if root_config.exists() else {}, modules)
    layout = find_files(path, path / modules[0][1] if modules else path)
    config = read_json(layout.config_file)
    if not isinstance(config.get("model_type"), str):
        raise CheckpointError(f"{layout.config_file} has no model_type: it does not say which architecture this is")
    _refuse_own_code(layout, config)
    scoring = read_scoring(layout, config, modules)
    tokenizer = read_tokenizer_facts(layout, config, scores=True)
    usage = read_usage(path) if modules else None
    activation = read_activation(layout, config, scoring.num_labels, saved=bool(modules))
    quantization = read_quantization(layout, config)
    prompts = None if usage is None else usage.prompts
    length = _length(scoring, tokenizer)
    facts: Mapping[str, Fact[Any] | None] = {
        "architecture": Fact(config, layout.relative(layout.config_file)),
        "head": scoring.head,
        "activation": activation,
        "prompts": prompts,
        "max_seq_length": length,
        "quantization": quantization,
    }
    return RerankerCheckpoint(
        path=path,
        name=name or str(path),
        revision=revision,
        config=config,
        config_file=layout.config_file,
        model_type=config["model_type"],
        weight_files=layout.weight_files,
        tokenizer_file=layout.tokenizer_file,
        prompts=value_of(prompts, {}),
        default_prompt_name=None if usage is None else usage.default_prompt_name,
        max_seq_length=value_of(length, None),
        max_positions=tokenizer.max_positions,
        do_lower_case=tokenizer.do_lower_case,
        truncation_side=tokenizer.truncation_side,
        tokenizer_rules={**tokenizer.tokenizer_rules, **_pair_rules(scoring)},
        quantization=value_of(quantization, None),
        sources={name: fact.source for name, fact in facts.items() if fact is not None},
        head=scoring.head.value,
        num_labels=scoring.num_labels,
        activation=activation.value,
        chat=scoring.chat,
    )


def _length(scoring: Scoring, tokenizer: TokenizerFacts) -> Fact[int | None] | None:
    """What holds for each call, else for the model; a table of positions bounds either."""
    if scoring.truncation == "do_not_truncate":
        return Fact(tokenizer.max_positions, "processing_kwargs")
    length = scoring.max_length or tokenizer.max_seq_length
    if length is None or length.value is None or tokenizer.max_positions is None:
        return length
    return Fact(min(length.value, tokenizer.max_positions), length.source)


def _pair_rules(scoring: Scoring) -> dict[str, Any]:
    """Further keywords of `Tokenizer`."""
    if scoring.chat is not None:
        return {"special_tokens": False}  # the template holds them
    return {"pairs": True, "truncation": scoring.truncation}


def _refuse_own_code(layout: Layout, config: Mapping[str, Any]) -> None:
    named = config.get("auto_map")
    own = named.get("AutoModelForSequenceClassification") if isinstance(named, Mapping) else None
    if own and config["model_type"] not in ("new", "nomic_bert"):  # whose heads are known
        raise UnsupportedModelError(
            f"{layout.config_file}: auto_map names the checkpoint's own code for its scores ({own}), which is never run"
        )
