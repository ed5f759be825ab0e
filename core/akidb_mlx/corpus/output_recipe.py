"""How vectors were made: what an output carries, and what tells whether a run may go on with it."""

import json
from collections.abc import Mapping
from typing import Any

__all__ = ["differences", "make_recipe"]

# Of Embedder.info(): what matching queries need; effective/facts.py marks them, the order is the file's.
_MODEL_FACTS = (
    "model_name",
    "revision",
    "pooling",
    "normalize",
    "prompts",
    "query_prompt",
    "document_prompt",
    "max_seq_length",
    "dimension",
    "similarity",
    "quantization",
)
_RUN_FACTS = (
    "text_column",
    "id_column",
    "embedding_column",
    "keep",
    "on_overlong",
    "output_dtype",
    "calibrated_by",
    "inputs",
)
_SHOWN = 100
_VERSION = 1  # of what a recipe holds


def make_recipe(info: Mapping[str, Any], fingerprint: str, dtype: str | None, **run_facts: Any) -> dict[str, Any]:
    """Plain JSON values; what the fingerprint sums up, in words, and what this run was told."""
    recipe = {
        "version": _VERSION,
        "fingerprint": fingerprint,
        **{name: info[name] for name in _MODEL_FACTS},
        "dtype": dtype,
        **{name: run_facts[name] for name in _RUN_FACTS},
    }
    plain: dict[str, Any] = json.loads(json.dumps(recipe))  # as it will be read again
    return plain


def differences(made: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """What keeps a run from going on with what another one made, or ""."""
    told = []
    if made.get("fingerprint") != wanted["fingerprint"]:
        told = [_change(name, made, wanted) for name in (*_MODEL_FACTS, "dtype") if made.get(name) != wanted[name]]
        told = told or ["the model's weights or tokenizer have changed"]
    told += [_change(name, made, wanted) for name in _RUN_FACTS if made.get(name) != wanted[name]]
    return "; ".join(told)


def _change(name: str, made: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    old, new = made.get(name), wanted[name]
    shown = _shown(old), _shown(new)
    if name == "inputs" and shown[0] == shown[1]:
        return "an input file was changed or renamed since"
    return f"{name} was {shown[0]} and is now {shown[1]}"


def _shown(value: Any) -> str:
    if isinstance(value, dict) and "digest" in value:
        return f"{value['files']} file(s) of {value['bytes']:,} bytes"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
