"""MultiVectorCheckpoint: what a late-interaction model *is*, read from its files, each fact with its file. No MLX here.

The files and their order of precedence are those of sentence-transformers 6.2's MultiVectorEncoder, for its own saves,
PyLate's and Stanford's.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from akidb_mlx.checkpoint.chat_template import RENDERED, ChatTemplate, find_chat_template
from akidb_mlx.checkpoint.config_defaults import complete_config
from akidb_mlx.checkpoint.fact import Fact
from akidb_mlx.checkpoint.heads import TokenVectorsHead
from akidb_mlx.checkpoint.jina import in_known_words
from akidb_mlx.checkpoint.json_file import read_json
from akidb_mlx.checkpoint.kinds import refuse_all_but_multi_vector
from akidb_mlx.checkpoint.late_interaction import Expansion, Skiplist, TokenPooling
from akidb_mlx.checkpoint.layout import Layout, find_files
from akidb_mlx.checkpoint.model_facts import ModelFacts, file_facts, read_quantization
from akidb_mlx.checkpoint.modules import read_modules
from akidb_mlx.checkpoint.processing import Side
from akidb_mlx.checkpoint.token_vectors import OWN_KEYS, Said, read_native, read_pylate, read_stanford_layout
from akidb_mlx.checkpoint.tokenizer_facts import TokenizerFacts, read_tokenizer_facts
from akidb_mlx.errors import CheckpointError, UnsupportedModelError

__all__ = ["MultiVectorCheckpoint", "read_multi_vector_checkpoint"]


@dataclass(frozen=True, kw_only=True)
class MultiVectorCheckpoint(ModelFacts):
    """The facts of a late-interaction model's folder."""

    written_by: Literal["sentence-transformers", "PyLate", "Stanford", "FlagEmbedding"]
    head: TokenVectorsHead
    expansion: Expansion | None = None
    skiplist: Skiplist = field(default_factory=Skiplist)
    token_pooling: TokenPooling | None = None
    side_lengths: Mapping[Side, int] = field(default_factory=dict)
    """Usable tokens of what is known to be a "query" or a "document", where the files say another number.

    An expansion's own length is not among them.
    """
    similarity: Literal["maxsim", "meanmaxsim"] = "maxsim"
    pads_left: bool = False
    """Whether the reference fills up a batch on the left, and with it a query that is made longer to a fixed length."""


def read_multi_vector_checkpoint(
    path: Path, name: str | None = None, revision: str | None = None
) -> MultiVectorCheckpoint:
    """Read all facts of the checkpoint in folder `path`; raise where a file is missing or contradicts another."""
    modules = read_modules(path)
    root_config = path / "config.json"
    root = read_json(root_config) if root_config.exists() else {}
    refuse_all_but_multi_vector(path, root, has_modules=bool(modules))
    layout = find_files(path, path / modules[0][1] if modules else path)
    config = in_known_words(read_json(layout.config_file), layout.config_file, layout.weight_files)
    if not isinstance(config.get("model_type"), str):
        raise CheckpointError(f"{layout.config_file} has no model_type: it does not say which architecture this is")
    completed = complete_config(config, layout.config_file)
    config = completed.config
    tokenizer = read_tokenizer_facts(layout, config, saved=bool(modules), further=OWN_KEYS)
    if tokenizer.processing.truncation == "only_second":
        raise UnsupportedModelError(f"{layout.folder}: truncation 'only_second': a text has no second one")
    said = _read(layout, modules)
    chat = find_chat_template(layout.folder, config["model_type"], tokenizer.processing, saved=bool(modules))
    _check_expansion(layout, said, chat)
    quantization = read_quantization(layout, config)
    facts: Mapping[str, Fact[Any] | None] = {
        "architecture": Fact(config, layout.relative(layout.config_file)),
        "max_seq_length": tokenizer.max_seq_length,
        "quantization": quantization,
    }
    sources = {name: fact.source for name, fact in facts.items() if fact is not None}
    return MultiVectorCheckpoint(
        **file_facts(layout, config, tokenizer, quantization, revision),
        name=name or str(path),
        config_defaults=completed.defaults,
        prompts=said.prompts,
        default_prompt_name=said.default_prompt_name,
        tokenizer_rules=_rules(said, tokenizer, chat),
        chat=chat,
        sources={**sources, **said.sources},
        written_by=said.written_by,
        head=said.head,
        expansion=said.expansion,
        skiplist=said.skiplist,
        token_pooling=said.token_pooling,
        side_lengths=said.side_lengths,
        similarity=said.similarity,
        pads_left=_pads_left(layout, tokenizer),
    )


def _read(layout: Layout, modules: list[tuple[str, str]]) -> Said:
    if not modules:
        return read_stanford_layout(layout)
    own = layout.path / "config_sentence_transformers.json"
    config = read_json(own) if own.exists() else {}
    if config.get("model_type") == "MultiVectorEncoder":
        return read_native(layout, modules, config)
    return read_pylate(layout, modules, config)


def _rules(said: Said, tokenizer: TokenizerFacts, chat: ChatTemplate | None) -> Mapping[str, Any]:
    """Further keywords of `Tokenizer`."""
    rules = RENDERED if chat is not None else tokenizer.tokenizer_rules
    return {**rules, "markers": list(said.markers)} if said.markers else rules


def _check_expansion(layout: Layout, said: Said, chat: ChatTemplate | None) -> None:
    """Refuse what the reference refuses."""
    expansion = said.expansion
    if expansion is None:
        return
    where = layout.path / said.sources["expansion"]
    if chat is not None:
        raise UnsupportedModelError(
            f"{where}: query_expansion beside a chat template ({chat.source}), which the reference refuses: it would "
            "cut what the template puts around a query"
        )
    longest = said.side_lengths.get("query")
    if longest is not None and longest < expansion.length:
        raise CheckpointError(
            f"{where}: query_length is {longest}, less than the {expansion.length} tokens that each query is filled up "
            "to; the reference refuses that. Take query_length out, or lower query_expansion's length"
        )


def _pads_left(layout: Layout, tokenizer: TokenizerFacts) -> bool:
    said = tokenizer.processing.padding_side
    if said is None:
        file = layout.folder / "tokenizer_config.json"
        said = read_json(file).get("padding_side") if file.exists() else None
    return bool(said == "left")
