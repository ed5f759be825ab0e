"""Facts of static models (a vector a token, no transformer): StaticEmbedding's and model2vec's. No MLX here."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from akidb_mlx.checkpoint.json_file import read_field, read_json
from akidb_mlx.checkpoint.safetensors_header import read_header
from akidb_mlx.errors import CheckpointError

__all__ = ["MODEL2VEC", "read_static"]

MODEL2VEC = "model2vec"
_MODEL2VEC_LENGTH = 512  # where its config.json is silent


def read_static(
    config: Mapping[str, Any], facts: dict[str, Any], sources: dict[str, str], *, is_alone: bool
) -> dict[str, Any]:
    """Put lengths and the tokenizer's rules into `facts`; gives what an architecture needs to know.

    `is_alone`: without modules.json model2vec's own rules hold, else sentence-transformers'.
    """
    facts["tokenizer_rules"] = {"special_tokens": False, "zero_if_empty": True}
    if is_alone:
        _read_model2vec(config, facts, sources)
    else:
        _read_truncation(facts, sources)
    return {"model_type": "static", "vocab_size": _rows(facts["weight_files"][0])}


def _read_model2vec(config: Mapping[str, Any], facts: dict[str, Any], sources: dict[str, str]) -> None:
    file: Path = facts["config_file"]
    facts["pooling"], sources["pooling"] = ("mean",), file.name
    facts["normalize"], sources["normalize"] = read_field(file, config, "normalize", bool, False), file.name
    facts["max_seq_length"] = config.get("max_length", _MODEL2VEC_LENGTH)
    sources["max_seq_length"] = file.name if "max_length" in config else "model2vec's default"
    facts["tokenizer_rules"] |= {"drop_unknown": True, "cut_characters": True}


def _read_truncation(facts: dict[str, Any], sources: dict[str, str]) -> None:
    """sentence-transformers has no limit here, but leaves on what tokenizer.json itself truncates."""
    truncation = read_json(facts["tokenizer_file"]).get("truncation")
    if truncation:
        facts["max_seq_length"] = int(truncation["max_length"])
        facts["truncation_side"] = str(truncation.get("direction", "Right")).lower()
        sources["max_seq_length"] = facts["tokenizer_file"].relative_to(facts["path"]).as_posix()


def _rows(file: Path) -> int:
    """How many tokens have a vector."""
    header = read_header(file)
    for name in ("mapping", "embedding.weight", "embeddings"):
        if name in header:
            return int(header[name]["shape"][0])
    raise CheckpointError(f"{file} has neither `embedding.weight` nor `embeddings`; download the checkpoint again")
