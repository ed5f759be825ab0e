"""Facts of static models (a vector per token, no transformer): StaticEmbedding's and model2vec's. No MLX here."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from akidb_mlx.checkpoint.fact import Fact
from akidb_mlx.checkpoint.json_file import read_field, read_json
from akidb_mlx.checkpoint.layout import Layout
from akidb_mlx.checkpoint.modules import Head
from akidb_mlx.checkpoint.safetensors_header import read_header
from akidb_mlx.checkpoint.tokenizer_facts import TokenizerFacts
from akidb_mlx.errors import CheckpointError

__all__ = ["MODEL2VEC", "STATIC_TYPE", "StaticFacts", "read_static"]

MODEL2VEC = "model2vec"
STATIC_TYPE = "static"
_MODEL2VEC_LENGTH = 512  # where its config.json is silent
_RULES = {"special_tokens": False, "zero_if_empty": True}


@dataclass(frozen=True)
class StaticFacts:
    """What a static model's files say in place of a transformer's."""

    config: Mapping[str, Any]
    """What an architecture needs to know."""
    head: Head
    tokenizer: TokenizerFacts


def read_static(config: Mapping[str, Any], layout: Layout, head: Head | None) -> StaticFacts:
    """`head` is what modules.json says; without one model2vec's own rules hold, else sentence-transformers'."""
    if head is None:
        head, tokenizer = _read_model2vec(config, layout.config_file)
    else:
        tokenizer = _read_truncation(layout)
    return StaticFacts({"model_type": STATIC_TYPE, "vocab_size": _rows(layout.weight_files[0])}, head, tokenizer)


def _read_model2vec(config: Mapping[str, Any], file: Path) -> tuple[Head, TokenizerFacts]:
    normalize = read_field(file, config, "normalize", bool, False)
    head = Head(pooling=Fact(("mean",), file.name), normalize=Fact(normalize, file.name))
    source = file.name if "max_length" in config else "model2vec's default"
    length = None
    if config.get("max_length", _MODEL2VEC_LENGTH) is not None:
        length = Fact(read_field(file, config, "max_length", int, _MODEL2VEC_LENGTH), source)
    rules = _RULES | {"drop_unknown": True, "cut_characters": True}
    return head, TokenizerFacts(max_seq_length=length, tokenizer_rules=rules)


def _read_truncation(layout: Layout) -> TokenizerFacts:
    """sentence-transformers has no limit here, but leaves on what tokenizer.json itself truncates."""
    truncation = read_json(layout.tokenizer_file).get("truncation")
    if not truncation:
        return TokenizerFacts(tokenizer_rules=_RULES)
    if not isinstance(truncation, Mapping):
        raise CheckpointError(f"{layout.tokenizer_file}: truncation must be an object, not {truncation!r}")
    length = read_field(layout.tokenizer_file, truncation, "max_length", int)
    return TokenizerFacts(
        max_seq_length=Fact(length, layout.relative(layout.tokenizer_file)),
        truncation_side=str(truncation.get("direction", "Right")).lower(),
        tokenizer_rules=_RULES,
    )


def _rows(file: Path) -> int:
    """How many tokens have a vector."""
    header = read_header(file)
    for name in ("mapping", "embedding.weight", "embeddings"):
        if name in header:
            return int(header[name]["shape"][0])
    raise CheckpointError(f"{file} has neither `embedding.weight` nor `embeddings`; download the checkpoint again")
