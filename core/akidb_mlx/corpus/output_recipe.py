"""How vectors were made: what an output carries, and what tells whether a run may go on with it."""

import json
from collections.abc import Mapping
from typing import Any

__all__ = ["differences", "make_recipe"]

# Of Embedder.info(): what matching queries need; effective/facts.py marks them, the order is the file's.
_EMBEDDER_FACTS = (
    "model_name",
    "revision",
    "pooling",
    "normalize",
    "prompts",
    "query_prompt",
    "document_prompt",
    "task",
    "max_seq_length",
    "exact_reference",
    "dimension",
    "similarity",
    "quantization",
)
# Of Reranker.info(): what the scores mean.
_RERANKER_FACTS = (
    "model_name",
    "revision",
    "activation",
    "prompts",
    "prompt",
    "tokenizer",
    "max_seq_length",
    "exact_reference",
    "quantization",
)
# What the other kinds' rows mean, of their info().
_SPARSE_FACTS = (
    *("model_name", "revision", "head", "pooling", "queries", "max_active_dims", "prompts", "query_prompt"),
    *("document_prompt", "similarity", "max_seq_length", "tokenizer", "exact_reference", "quantization", "dimension"),
)
_MULTI_FACTS = (
    *("model_name", "revision", "dense", "normalize", "expansion", "skiplist", "token_pooling", "prompts"),
    *("query_prompt", "document_prompt", "similarity", "max_seq_length", "side_lengths", "tokenizer"),
    *("exact_reference", "quantization", "dimension"),
)
_FACTS = {
    "dense": _EMBEDDER_FACTS,
    "reranker": _RERANKER_FACTS,
    "sparse": _SPARSE_FACTS,
    "multi": _MULTI_FACTS,
    "hybrid": (*_EMBEDDER_FACTS, "sparse", "multi_vector"),
}
_HOLDS = {
    "dense": "embeddings",
    "reranker": "scores",
    "sparse": "sparse rows",
    "multi": "vectors of tokens",
    "hybrid": "rows of three forms",
}
_RUN_FACTS = (
    "query_column",
    "text_column",
    "id_column",
    "embedding_column",
    "keep",
    "on_overlong",
    "split",
    "overlap",
    "output_dtype",
    "calibrated_by",
    "inputs",
)
_SHOWN = 100
_VERSION = 1  # of what a recipe holds


def make_recipe(
    info: Mapping[str, Any], fingerprint: str, dtype: str | None, kind: str = "dense", **run_facts: Any
) -> dict[str, Any]:
    """Plain JSON values; what the fingerprint sums up, in words, and what this run was told. `kind`: see `forms`."""
    facts = {name: info.get(name) if kind == "reranker" else info[name] for name in _FACTS[kind]}
    for name, own in (("sparse", _SPARSE_FACTS), ("multi_vector", _MULTI_FACTS)) if kind == "hybrid" else ():
        facts[name] = {fact: value for fact, value in info[name].items() if fact in own}
    recipe = {
        "version": _VERSION,
        **({} if kind == "dense" else {"kind": kind}),
        "fingerprint": fingerprint,
        **facts,
        "dtype": dtype,
        **{name: run_facts[name] for name in _RUN_FACTS if name in run_facts},
    }
    plain: dict[str, Any] = json.loads(json.dumps(recipe))  # as it will be read again
    return plain


def differences(made: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """What keeps a run from going on with what another one made, or ""."""
    old, new = (recipe.get("kind", "dense") for recipe in (made, wanted))
    if old != new:
        return f"it holds {_HOLDS.get(old, old)}, not {_HOLDS[new]}"
    told = []
    if made.get("fingerprint") != wanted["fingerprint"]:
        told = [_change(name, made, wanted) for name in (*_FACTS[new], "dtype") if made.get(name) != wanted[name]]
        told = told or ["the model's weights or tokenizer have changed"]
    run_facts = [name for name in _RUN_FACTS if name in wanted or name in ("split", "overlap")]
    told += [_change(name, made, wanted) for name in run_facts if made.get(name) != wanted.get(name)]
    return "; ".join(told)


def _change(name: str, made: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    old, new = made.get(name), wanted.get(name)
    shown = _shown(old), _shown(new)
    if name == "inputs" and shown[0] == shown[1]:
        return "an input file was changed or renamed since"
    return f"{name} was {shown[0]} and is now {shown[1]}"


def _shown(value: Any) -> str:
    if isinstance(value, dict) and "digest" in value:
        return f"{value['files']} file(s) of {value['bytes']:,} bytes"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
