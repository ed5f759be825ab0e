"""What any kind of model is, read from its files, each fact with the file it came from. No MLX here."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self, TypedDict

from akidb_mlx.checkpoint.adapters import Adapter
from akidb_mlx.checkpoint.chat_template import ChatTemplate
from akidb_mlx.checkpoint.fact import Fact, value_of
from akidb_mlx.checkpoint.layout import Layout
from akidb_mlx.checkpoint.rebuilt_tokenizer import RebuiltTokenizer, TokenizerKind, rebuild_tokenizer
from akidb_mlx.checkpoint.safetensors_header import read_float_dtype
from akidb_mlx.checkpoint.tokenizer_facts import TokenizerFacts
from akidb_mlx.errors import CheckpointError

__all__ = ["FileFacts", "ModelFacts", "file_facts", "read_quantization"]

# Published in float16 though their hidden states are too large for it: of T5 the reference takes float32 for most.
_WIDENED = frozenset({"jina_bert", "mt5", "t5", "umt5"})


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """The facts of a folder that every kind of model has; a kind adds its own."""

    path: Path
    name: str
    revision: str | None
    config: Mapping[str, Any]
    config_file: Path
    model_type: str
    weight_files: tuple[Path, ...]
    tokenizer_file: Path
    config_defaults: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `config` that the file leaves to transformers' class for this model_type."""
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    max_seq_length: int | None = None
    """Usable tokens of a text, special tokens included; None where nothing bounds it."""
    max_positions: int | None = None
    """Positions that the architecture has; a user's max_seq_length cannot be greater."""
    do_lower_case: bool = False
    truncation_side: str | None = None
    """Which end of a text is cut off; None where only tokenizer.json says so."""
    tokenizer_rules: Mapping[str, Any] = field(default_factory=dict)
    """Further keywords of `Tokenizer`, where more than tokenizer.json decides."""
    chat: ChatTemplate | None = None
    """What texts are put through before the tokenizer."""
    quantization: Mapping[str, Any] | None = None
    adapters: tuple[Adapter, ...] = ()
    """One for each task that the model can be put to."""
    sources: Mapping[str, str] = field(default_factory=dict)
    """Fact → the file (relative to `path`) or table that it came from."""

    @property
    def float_dtype(self) -> str:
        """The dtype that a GPU computes in where nobody says another: that of the files, but for some in float16."""
        stored = read_float_dtype(self.weight_files)
        return "float32" if stored == "float16" and self.model_type in _WIDENED else stored

    def without_end_token(self) -> Self:
        """The same without the end token that the files state and sentence-transformers leaves out."""
        rules = {key: value for key, value in self.tokenizer_rules.items() if key != "append"}
        return replace(self, tokenizer_rules=rules)

    def rebuilt_tokenizer(self, kind: TokenizerKind) -> RebuiltTokenizer:
        """The tokenizer as sentence-transformers has it, or the file as it stands."""
        return rebuild_tokenizer(self.tokenizer_file, kind)


class FileFacts(TypedDict):
    """The fields of `ModelFacts` that are read in the same way for every kind."""

    path: Path
    revision: str | None
    config: Mapping[str, Any]
    config_file: Path
    model_type: str
    weight_files: tuple[Path, ...]
    tokenizer_file: Path
    max_seq_length: int | None
    max_positions: int | None
    do_lower_case: bool
    truncation_side: str | None
    quantization: Mapping[str, Any] | None


def file_facts(
    layout: Layout,
    config: Mapping[str, Any],
    tokenizer: TokenizerFacts,
    quantization: Fact[Mapping[str, Any]] | None,
    revision: str | None,
) -> FileFacts:
    """What layout, config.json and tokenizer say of a model of any kind."""
    return {
        "path": layout.path,
        "revision": revision,
        "config": config,
        "config_file": layout.config_file,
        "model_type": config["model_type"],
        "weight_files": layout.weight_files,
        "tokenizer_file": layout.tokenizer_file,
        "max_seq_length": value_of(tokenizer.max_seq_length, None),
        "max_positions": tokenizer.max_positions,
        "do_lower_case": tokenizer.do_lower_case,
        "truncation_side": tokenizer.truncation_side,
        "quantization": value_of(quantization, None),
    }


def read_quantization(layout: Layout, config: Mapping[str, Any]) -> Fact[Mapping[str, Any]] | None:
    """How MLX packed the weights, as config.json says; None where they are not."""
    said = config.get("quantization") or config.get("quantization_config")
    if said is None:
        return None
    if not isinstance(said, dict):
        raise CheckpointError(f"{layout.config_file}: `quantization` must be an object, not {said!r}")
    return Fact(said, layout.relative(layout.config_file))
