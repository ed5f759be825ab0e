"""One hash of everything that decides vectors, equal on every machine."""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from akidb_mlx.checkpoint.facts import Checkpoint
from akidb_mlx.checkpoint.hub import sha256_of

__all__ = ["fingerprint"]

# Raise it where a release of ours changes vectors by more than rounding.
_VERSION = 1
# What config.json says besides the architecture.
_NOT_ARCHITECTURE = frozenset(
    {
        "_name_or_path",
        "architectures",
        "transformers_version",
        "torch_dtype",
        "dtype",
        "use_cache",
        "auto_map",
    }
)


def fingerprint(recipe: Mapping[str, Any]) -> str:
    """SHA-256 (hex) over the canonical JSON of a recipe; reads the weights once, then remembers their digest.

    Path, revision name and device do not count; the requested dtype does.
    """
    text = json.dumps(_content(recipe), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _content(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """What is hashed, in plain values; `effective/facts.py` names the keys in which `info`'s facts count."""
    checkpoint: Checkpoint = recipe["checkpoint"]
    return {
        **recipe,
        "checkpoint": {
            "weights": [_digest(file) for file in checkpoint.weight_files],
            "tokenizer": _digest(checkpoint.tokenizer_file),
            "architecture": {k: v for k, v in checkpoint.config.items() if k not in _NOT_ARCHITECTURE},
            "dense": [
                [layer.in_features, layer.out_features, layer.bias, layer.activation, layer.residual]
                + ([_digest(layer.weight_file)] if layer.weight_file else [])
                for layer in checkpoint.dense
            ],
            "include_prompt": checkpoint.include_prompt,
            "do_lower_case": checkpoint.do_lower_case,
            "truncation_side": checkpoint.truncation_side,
            "tokenizer_rules": dict(checkpoint.tokenizer_rules),
            "truncation_layer_norm": checkpoint.truncation_layer_norm,
        },
        "version": _VERSION,
    }


def _digest(file: Path) -> str:
    """SHA-256 of a file, remembered in the user's cache by path, size and time of change."""
    status = file.stat()
    key = f"{file.resolve()}:{status.st_size}:{status.st_mtime_ns}"
    memory = _cache_file()
    known = _read(memory)
    if key not in known:
        known[key] = sha256_of(file)
        _write(memory, known)
    return known[key]


def _cache_file() -> Path:
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "akidb-mlx" / "digests.json"
    except RuntimeError:  # no home folder: nothing is remembered
        return Path(os.devnull) / "digests.json"


def _read(memory: Path) -> dict[str, str]:
    try:
        known = json.loads(memory.read_text())
        return known if isinstance(known, dict) else {}
    except (OSError, ValueError):
        return {}


def _write(memory: Path, known: dict[str, str]) -> None:
    """Replace the file as a whole; where that is not allowed, the next process computes again."""
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=memory.parent, delete=False) as stream:
            json.dump(known, stream)
        Path(stream.name).replace(memory)
    except OSError:
        return
