"""One hash of everything that decides vectors, equal on every machine."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from akidb_mlx.checkpoint.adapters import Adapter
from akidb_mlx.checkpoint.chat_template import ChatTemplate
from akidb_mlx.checkpoint.digests import digest_of
from akidb_mlx.checkpoint.facts import Checkpoint
from akidb_mlx.checkpoint.heads import AutoEncoderHead, Dense, HeadFacts, PooledHead, TokenWeightsHead
from akidb_mlx.checkpoint.model_facts import ModelFacts
from akidb_mlx.checkpoint.multi_vector_facts import MultiVectorCheckpoint
from akidb_mlx.checkpoint.rebuilt_tokenizer import RebuiltTokenizer
from akidb_mlx.checkpoint.reranker_facts import RerankerCheckpoint
from akidb_mlx.checkpoint.sparse_facts import SparseCheckpoint

__all__ = ["combined", "fingerprint"]

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


def combined(fingerprints: Sequence[str]) -> str:
    """One fingerprint (hex) of several."""
    return hashlib.sha256("\n".join(fingerprints).encode()).hexdigest()


def _content(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """What is hashed, in plain values; `effective/facts.py` names the keys in which `info`'s facts count."""
    checkpoint: ModelFacts = recipe["checkpoint"]
    tokenizer: RebuiltTokenizer = recipe["tokenizer"]
    idle = _NOT_ARCHITECTURE | checkpoint.config_defaults.keys()
    return {
        **recipe,
        "tokenizer": [tokenizer.digest or digest_of(checkpoint.tokenizer_file), tokenizer.split_special_tokens],
        "checkpoint": {
            "weights": [digest_of(file) for file in checkpoint.weight_files],
            "architecture": {key: value for key, value in checkpoint.config.items() if key not in idle},
            "do_lower_case": checkpoint.do_lower_case,
            "truncation_side": checkpoint.truncation_side or tokenizer.truncation_side or "right",
            "tokenizer_rules": dict(checkpoint.tokenizer_rules),
            **_of_kind(checkpoint),
        },
        **({"head": _head(recipe["head"])} if "head" in recipe else {}),
        "version": _VERSION,
    }


def _of_kind(checkpoint: ModelFacts) -> dict[str, Any]:
    """What only one kind of model has."""
    if isinstance(checkpoint, Checkpoint):
        return {
            # Only where there is one, so that all others keep their fingerprints.
            **({} if checkpoint.chat is None else {"chat": _chat(checkpoint.chat)}),
            **({"adapters": _adapters(checkpoint.adapters)} if checkpoint.adapters else {}),
            **({} if checkpoint.output is None else {"output": checkpoint.output}),
            "dense": _dense(checkpoint.dense),
            "include_prompt": checkpoint.include_prompt,
            "truncation_layer_norm": checkpoint.truncation_layer_norm,
        }
    if isinstance(checkpoint, SparseCheckpoint):
        static = checkpoint.static_queries
        weights = None if static is None else digest_of(checkpoint.path / static.source)
        return {"include_prompt": checkpoint.include_prompt, "static_queries": weights}
    if isinstance(checkpoint, MultiVectorCheckpoint):
        return {
            "head": [_dense(checkpoint.head.dense), checkpoint.head.normalize, checkpoint.head.first],
            "chat": _chat(checkpoint.chat),
        }
    assert isinstance(checkpoint, RerankerCheckpoint)
    return {"head": _head(checkpoint.head), "chat": _chat(checkpoint.chat)}


def _head(head: HeadFacts) -> list[Any]:
    """Its kind, and what it is made of; a file of its own by its content."""
    if isinstance(head, PooledHead):
        whole = [True] if head.whole_numbers else []  # only where it is so, as above
        return [type(head).__name__, [head.pooling, _dense(head.dense), *whole]]
    if isinstance(head, AutoEncoderHead):
        own = {"pooled": _head(head.pooled), "weight_file": digest_of(head.weight_file), "k": None}
        return [type(head).__name__, {**vars(head), **own}]
    if isinstance(head, TokenWeightsHead):
        return [type(head).__name__, {**asdict(head), "weight_file": digest_of(head.weight_file)}]
    return [type(head).__name__, asdict(head)]


def _chat(chat: ChatTemplate | None) -> dict[str, Any] | None:
    return None if chat is None else {**asdict(chat), "source": None}


def _adapters(adapters: Sequence[Adapter]) -> list[list[Any]]:
    """Of a stack in the model's own weights the place, of others the file's content."""
    return [
        [adapter.task, adapter.scale, digest_of(adapter.weight_file) if adapter.weight_file else adapter.place]
        for adapter in adapters
    ]


def _dense(layers: Sequence[Dense]) -> list[list[Any]]:
    return [
        [layer.in_features, layer.out_features, layer.bias, layer.activation, layer.residual]
        + ([digest_of(layer.weight_file)] if layer.weight_file else [])
        for layer in layers
    ]
