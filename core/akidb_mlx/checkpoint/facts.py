"""Checkpoint: what an embedder *is*, read from its files, each fact with the file it came from. No MLX here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from akidb_mlx.checkpoint.adapters import Adapter, read_adapters
from akidb_mlx.checkpoint.chat_template import RENDERED, ChatTemplate, find_chat_template
from akidb_mlx.checkpoint.config_defaults import complete_config
from akidb_mlx.checkpoint.fact import Fact, sources_of, value_of
from akidb_mlx.checkpoint.fill_in import FamilyFacts, fill_in
from akidb_mlx.checkpoint.heads import Dense
from akidb_mlx.checkpoint.jina import OWN_MODULE, in_known_words, own_module_gives
from akidb_mlx.checkpoint.json_file import read_json
from akidb_mlx.checkpoint.kinds import refuse_other_kinds
from akidb_mlx.checkpoint.layout import Layout, find_files
from akidb_mlx.checkpoint.model_facts import ModelFacts, file_facts, read_quantization
from akidb_mlx.checkpoint.modules import (
    NO_OTHERS,
    OURS,
    POOLING_NAMES,
    STATIC,
    Head,
    read_head,
    read_modules,
    read_usage,
)
from akidb_mlx.checkpoint.processing import Side
from akidb_mlx.checkpoint.rebuilt_tokenizer import RebuiltTokenizer, TokenizerKind
from akidb_mlx.checkpoint.said import Said
from akidb_mlx.checkpoint.static_models import MODEL2VEC, STATIC_TYPE, read_static
from akidb_mlx.checkpoint.tokenizer_facts import read_tokenizer_facts
from akidb_mlx.errors import CheckpointError, UnsupportedModelError

__all__ = ["POOLING_NAMES", "Checkpoint", "Dense", "read_checkpoint"]


@dataclass(frozen=True, kw_only=True)
class Checkpoint(ModelFacts):
    """The facts of an embedder's folder. Sequences keep the order in which they are applied."""

    pooling: tuple[str, ...] | None
    """Pooling modes, concatenated; None where the files do not say."""
    include_prompt: bool = True
    dense: tuple[Dense, ...] = ()
    normalize: bool | None = None
    output: str | None = None
    """What rows become after all layers (`modules.WHOLE_NUMBERS`); None for what they are."""
    left_out: tuple[str, ...] = ()
    """Folders of modules that modules.json names and that are not there."""
    side_lengths: Mapping[Side, int] = field(default_factory=dict)
    """Usable tokens of what is known to be a "query" or a "document", where the files say another number."""
    similarity: str = "cosine"
    truncate_dim: int | None = None
    """The width that the checkpoint itself wants."""
    matryoshka: tuple[int, ...] | None = None
    """Widths that the model was trained to be cut to."""
    truncation_layer_norm: bool = False
    """Whether a Matryoshka cut is taken after a layer norm without weights (nomic-embed v1.5)."""
    suggestions: tuple[str, ...] = ()
    """What the family's documentation recommends and the files leave out."""
    task_required: bool = False
    """Whether the model has no use without one of its adapters."""

    def rebuilt_tokenizer(self, kind: TokenizerKind) -> RebuiltTokenizer:
        """The tokenizer as sentence-transformers has it; a static model has only the file."""
        return super().rebuilt_tokenizer("file" if self.model_type == STATIC_TYPE else kind)


def read_checkpoint(path: Path, name: str | None = None, revision: str | None = None) -> Checkpoint:
    """Read all facts of the checkpoint in folder `path`; raise where a file is missing or contradicts another."""
    root_config, has_modules = path / "config.json", (path / "modules.json").exists()
    refuse_other_kinds(path, read_json(root_config) if root_config.exists() else {}, has_modules=has_modules)
    own = own_module_gives(read_json(root_config)) if root_config.exists() else None
    modules = read_modules(path, known={OWN_MODULE: f"{OURS}Transformer"} if own else NO_OTHERS)
    head = read_head(path, modules) if modules else None
    layout = find_files(path, path / modules[0][1] if modules else path)
    is_static = bool(modules) and modules[0][0] == STATIC
    has_config = layout.config_file.exists()
    published: Mapping[str, Any] = read_json(layout.config_file) if has_config or not is_static else {}
    config = in_known_words(published, layout.config_file, layout.weight_files)
    defaults: Mapping[str, Any] = {}
    if is_static or config.get("model_type") == MODEL2VEC:
        static = read_static(config, layout, head)
        config, head, tokenizer = static.config, static.head, static.tokenizer
    elif not isinstance(config.get("model_type"), str):
        raise CheckpointError(f"{layout.config_file} has no model_type: it does not say which architecture this is")
    else:
        completed = complete_config(config, layout.config_file)
        config, defaults = completed.config, completed.defaults
        tokenizer = read_tokenizer_facts(layout, config, saved=bool(modules))
        if own == "hidden states" and modules:
            tokenizer = replace(tokenizer, tokenizer_rules={**tokenizer.tokenizer_rules, "strip": True})
        if tokenizer.processing.truncation == "only_second":
            raise UnsupportedModelError(f"{layout.folder}: truncation 'only_second': an embedder has one text")
    said = Said(
        name=name or str(path),
        layout=layout,
        architecture=Fact(config, layout.relative(layout.config_file) if has_config else "modules.json"),
        head=_own_rows(head or Head()) if own == "rows" else head or Head(),
        tokenizer=tokenizer,
        quantization=read_quantization(layout, config),
        usage=read_usage(path),
    )
    said, family = fill_in(said, has_modules=bool(modules))
    made = _put_together(said, family, _chat(said, family, saved=bool(modules)), revision)
    adapters = read_adapters(layout, published)
    sources = {**made.sources, "adapters": _source_of_adapters(layout, adapters)} if adapters else made.sources
    return replace(made, config_defaults=defaults, adapters=adapters, task_required=own == "rows", sources=sources)


def _own_rows(head: Head) -> Head:
    """Jina v5's own module gives the last token's hidden states, at unit length."""
    source = f"config.json: jina_embeddings_v5 ({OWN_MODULE})"
    return replace(head, pooling=head.pooling or Fact(("last_token",), source), normalize=Fact(True, source))


def _source_of_adapters(layout: Layout, adapters: Sequence[Adapter]) -> str:
    files = [adapter.weight_file or layout.config_file for adapter in adapters]
    return ", ".join(dict.fromkeys(map(layout.relative, files)))


def _chat(said: Said, family: FamilyFacts, *, saved: bool) -> ChatTemplate | None:
    """What texts are put through.

    No known family puts its texts through the template that a conversion without modules.json may carry.
    """
    kind = said.config["model_type"]
    if kind == STATIC_TYPE or (family.is_known and not saved):
        return None
    return find_chat_template(said.layout.folder, kind, said.tokenizer.processing, saved=saved)


def _put_together(said: Said, family: FamilyFacts, chat: ChatTemplate | None, revision: str | None) -> Checkpoint:
    layout, head, tokenizer, usage = said.layout, said.head, said.tokenizer, said.usage
    return Checkpoint(
        **file_facts(layout, said.config, tokenizer, said.quantization, revision),
        name=said.name,
        pooling=value_of(head.pooling, None),
        include_prompt=head.include_prompt,
        dense=value_of(head.dense, ()),
        normalize=value_of(head.normalize, None),
        output=value_of(head.output, None),
        left_out=head.left_out,
        side_lengths=tokenizer.processing.side_lengths,
        prompts=value_of(usage.prompts, {}),
        default_prompt_name=usage.default_prompt_name,
        similarity=value_of(usage.similarity, "cosine"),
        tokenizer_rules=tokenizer.tokenizer_rules if chat is None else RENDERED,
        chat=chat,
        truncate_dim=value_of(usage.truncate_dim, None),
        matryoshka=value_of(family.matryoshka, None),
        truncation_layer_norm=family.truncation_layer_norm,
        sources={**sources_of(said, head, tokenizer, usage, family), **family.config_sources},
        suggestions=family.suggestions,
    )
