"""SparseCheckpoint: what a sparse encoder *is*, read from its files, each fact with the file it came from. No MLX here.

The files and their order of precedence are those of sentence-transformers 6.2's SparseEncoder.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from akidb_mlx.checkpoint.config_defaults import complete_config
from akidb_mlx.checkpoint.fact import Fact, value_of
from akidb_mlx.checkpoint.heads import AutoEncoderHead, HeadFacts
from akidb_mlx.checkpoint.json_file import read_field, read_json
from akidb_mlx.checkpoint.kinds import refuse_all_but_sparse
from akidb_mlx.checkpoint.layout import Layout, find_files
from akidb_mlx.checkpoint.model_facts import ModelFacts, file_facts, read_quantization
from akidb_mlx.checkpoint.modules import Usage, read_modules, read_usage
from akidb_mlx.checkpoint.processing import Side
from akidb_mlx.checkpoint.sparse_modules import FIRST_MODULES, Route, read_sparse_head, routes
from akidb_mlx.checkpoint.static_queries import StaticQueries, read_static_queries
from akidb_mlx.checkpoint.tokenizer_facts import TokenizerFacts, read_tokenizer_facts
from akidb_mlx.errors import CheckpointError, UnsupportedModelError

__all__ = ["SparseCheckpoint", "read_sparse_checkpoint"]

_OWN_FILE = "config_sentence_transformers.json"


@dataclass(frozen=True, kw_only=True)
class SparseCheckpoint(ModelFacts):
    """The facts of a sparse encoder's folder."""

    head: HeadFacts | None
    """None: a masked language model's folder that does not say how its logits become one row."""
    dimension: int
    """Width of the rows: the vocabulary's size as config.json has it, or an autoencoder's latents."""
    include_prompt: bool = True
    max_active_dims: int | None = None
    """Most entries of a row; an autoencoder always has a number."""
    similarity: str = "dot"
    side_lengths: Mapping[Side, int] = field(default_factory=dict)
    """Usable tokens of what is known to be a "query" or a "document", where the files say another number."""
    static_queries: StaticQueries | None = None
    """What makes rows of queries without the model."""
    default_route: Side | None = None
    """With static queries: as which a text counts that is said to be neither; None: it must be said."""


def read_sparse_checkpoint(path: Path, name: str | None = None, revision: str | None = None) -> SparseCheckpoint:
    """Read all facts of the checkpoint in folder `path`; raise where a file is missing or contradicts another."""
    root_config, has_modules = path / "config.json", (path / "modules.json").exists()
    refuse_all_but_sparse(path, read_json(root_config) if root_config.exists() else {}, has_modules=has_modules)
    modules = read_modules(path, FIRST_MODULES)
    route = routes(path, modules) if modules else Route([("Transformer", "")])
    layout = find_files(path, path / route.document[0][1])
    config: Mapping[str, Any] = read_json(layout.config_file)
    if not isinstance(config.get("model_type"), str):
        raise CheckpointError(f"{layout.config_file} has no model_type: it does not say which architecture this is")
    completed = complete_config(config, layout.config_file)
    config = completed.config
    _refuse_own_code(layout, config)
    tokenizer = read_tokenizer_facts(layout, config, saved=bool(modules), scores=True)
    _refuse_other_inputs(layout, tokenizer)
    head, include_prompt = None, True
    if modules:
        head, include_prompt = read_sparse_head(layout, route.document, tokenizer)
    static = None if route.query is None else read_static_queries(path, route.query)
    usage = read_usage(path) if modules else Usage()
    most = _max_active_dims(path, value_of(head, None))
    dimension = _dimension(layout, config, value_of(head, None))
    if static is not None and len(static.weights) != dimension:
        raise CheckpointError(
            f"{path / static.source} has weights for {len(static.weights)} tokens, and documents have {dimension} "
            "dimensions: queries and documents could not be compared"
        )
    quantization = read_quantization(layout, config)
    facts: Mapping[str, Fact[Any] | None] = {
        "architecture": Fact(config, layout.relative(layout.config_file)),
        "head": head,
        "queries": None if static is None else Fact(static, static.source),
        "max_active_dims": most,
        "similarity": usage.similarity,
        "prompts": usage.prompts,
        "max_seq_length": tokenizer.max_seq_length,
        "quantization": quantization,
    }
    return SparseCheckpoint(
        **file_facts(layout, config, tokenizer, quantization, revision),
        name=name or str(path),
        config_defaults=completed.defaults,
        prompts=value_of(usage.prompts, {}),
        default_prompt_name=usage.default_prompt_name,
        tokenizer_rules=tokenizer.tokenizer_rules,
        sources={name: fact.source for name, fact in facts.items() if fact is not None},
        head=value_of(head, None),
        dimension=dimension,
        include_prompt=include_prompt,
        max_active_dims=value_of(most, None),
        similarity=value_of(usage.similarity, "dot"),
        side_lengths=tokenizer.processing.side_lengths,
        static_queries=static,
        default_route=route.default,
    )


def _max_active_dims(path: Path, head: HeadFacts | None) -> Fact[int] | None:
    """The file's number, which wins over an autoencoder's k."""
    file = path / _OWN_FILE
    config = read_json(file) if file.exists() else {}
    most = None
    if config.get("max_active_dims") is not None:
        most = Fact(read_field(file, config, "max_active_dims", int), file.name)
    elif isinstance(head, AutoEncoderHead):
        most = Fact(head.k, head.weight_file.parent.relative_to(path).as_posix())
    if most is not None and most.value < 1:
        raise CheckpointError(f"{path / most.source}: max_active_dims is {most.value}; it must be at least 1")
    return most


def _dimension(layout: Layout, config: Mapping[str, Any], head: HeadFacts | None) -> int:
    if isinstance(head, AutoEncoderHead):
        return head.hidden_dim
    return read_field(layout.config_file, config, "vocab_size", int)


def _refuse_own_code(layout: Layout, config: Mapping[str, Any]) -> None:
    named = config.get("auto_map")
    own = named.get("AutoModelForMaskedLM") if isinstance(named, Mapping) else None
    if own and config["model_type"] != "new":  # whose head is known
        raise UnsupportedModelError(
            f"{layout.config_file}: auto_map names the checkpoint's own code for its logits ({own}), which is never run"
        )


def _refuse_other_inputs(layout: Layout, tokenizer: TokenizerFacts) -> None:
    processing = tokenizer.processing
    if processing.truncation == "only_second":
        raise UnsupportedModelError(f"{layout.folder}: truncation 'only_second': a sparse encoder has one text")
    if processing.message is not None:
        raise UnsupportedModelError(
            f"{layout.folder}: a sparse encoder whose texts are messages of a chat is not supported"
        )
