"""config.json as transformers' class for its model_type reads it: types checked, aliases, defaults. No MLX here.

`config_fields.json` holds what the classes say, written from them by tests/reference/config_fields.py.
"""

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from akidb_mlx.errors import CheckpointError, UnsupportedModelError

__all__ = ["Completed", "complete_config", "declared_fields"]

Json = Mapping[str, Any]
# What decides hidden states or the length of texts; other fields that are absent stay so.
_DECIDING = """
    activation activation_function attention_bias attention_multiplier attention_out_bias attn_logit_softcapping
    block_auto_adjust_ff_dim block_ffn_dim_multiplier block_multiple_of conv_bias conv_L_cache d_ff d_kv d_model
    decoder_sparse_step dim embedding_dim embedding_multiplier embedding_size feed_forward_proj head_dim hidden_act
    hidden_activation hidden_dim hidden_size hidden_size_per_layer_input inner_group_num intermediate_size
    layer_norm_eps layer_norm_epsilon local_attention logits_scaling max_position_embeddings max_relative_positions
    max_window_layers mlp_bias moe_intermediate_size moe_k moe_layer_end_index moe_layer_interval
    moe_layer_start_index moe_norm_min moe_num_experts moe_num_shared_experts n_embd n_head n_heads n_layer n_layers
    n_positions no_rope_layer_interval norm_bias norm_eps norm_epsilon norm_topk_prob num_attention_heads
    num_dense_layers num_experts num_experts_per_tok num_heads num_hidden_groups num_hidden_layers
    num_key_value_heads num_layers num_local_experts original_max_position_embeddings pad_token_id pooler_hidden_act
    position_biased_input qkv_bias query_pre_attn_scalar relative_attention relative_attention_max_distance
    relative_attention_num_buckets residual_multiplier rms_norm_eps rotary_dim routed_scaling_factor
    shared_expert_intermediate_size sliding_window task_type_vocab_size type_vocab_size use_bias use_expert_bias
    use_parallel_residual use_qk_norm use_qkv_bias use_task_id vocab_size
"""
_TYPES: Mapping[str, tuple[type, ...]] = {
    "bool": (bool,),
    "dict": (dict,),
    "float": (float,),
    "int": (int,),
    "list": (list,),
    "null": (type(None),),
    "str": (str,),
}
# Where the class makes a number of others of a null, or of nothing, and nobody after us does.
_FROM_OTHERS: Mapping[str, tuple[str, ...]] = {
    "head_dim": ("cohere2", "ernie4_5", "ernie4_5_moe", "exaone4", "internlm3", "seed_oss"),
    "num_key_value_heads": (
        "apertus",
        "cohere",
        "cohere2",
        "ernie4_5",
        "eurobert",
        "granite",
        "granitemoe",
        "hunyuan_v1_dense",
        "internlm3",
        "mixtral",
        "olmo",
        "olmo3",
        "olmoe",
        "phi",
        "qwen2",
        "qwen3",
        "seed_oss",
    ),
}
# Earlier names of fields, which win over them; no attribute map has them.
_RENAMED = {"lfm2": {"block_ff_dim": "intermediate_size"}}
# Earlier names of the rotary base: kind of layer → where files from before rope_parameters say it.
_BASES = {
    "gemma3_text": {"full_attention": "rope_theta", "sliding_attention": "rope_local_base_freq"},
    "modernbert": {"full_attention": "global_rope_theta", "sliding_attention": "local_rope_theta"},
}
# Whose class reads the earlier form too, though each kind of layer has settings of its own.
_FLAT_TOO = frozenset({"olmo3"})
# Whose rotary settings are the class's all together, where the file has none.
_WHOLE_ROPE = frozenset({"ministral3"})
# Numbers from which a class makes layer_types where there are none; it does not declare them.
_PATTERNS = {"gemma3_text": ("sliding_window_pattern", 6), "modernbert": ("global_attn_every_n_layers", 3)}
# Models of several kinds of input: where the tower for texts is described, and which class describes it.
_TOWERS = {"embedding_gemma2": ("text_config", "embedding_gemma2_text")}
_OF_ALL = """
    architectures audio_token_id image_token_id model_type quantization quantization_config video_token_id
"""
# Machinery of any class that changes the model layer by layer, and whose layers are made so here.
_BY_LAYER, _KNOWN_BY_LAYER = "per_layer_config", ("embedding_gemma2", "embedding_gemma2_text")


@dataclass(frozen=True)
class Completed:
    """config.json with what its class adds."""

    config: Json
    defaults: Json = field(default_factory=dict)
    """Field that the file lacks, or has as a null that stands for it → the class's default."""


def complete_config(config: Json, file: Path) -> Completed:
    """`config`, read from `file`, with its class's defaults; as it stands where transformers has no class for it.

    Raises:
        CheckpointError: a field is of a type that transformers refuses.
        UnsupportedModelError: the file asks for what no class here computes.
    """
    kind = str(config.get("model_type"))
    if config.get(_BY_LAYER) and kind not in _KNOWN_BY_LAYER:
        raise UnsupportedModelError(f"{file}: {_BY_LAYER} is not supported")
    config, kind = _tower(config, kind, file)
    known = _table().get(kind)
    if known is None or (
        kind == "nomic_bert" and "n_embd" in config
    ):  # the published NomicBERT's, whose class is its own
        return Completed(config)
    said = dict(config)
    for alias, name in {**known["aliases"], **_RENAMED.get(kind, {})}.items():
        if alias in said:  # set after the fields, as attributes of other names
            said[name] = said.pop(alias)
    declared = known["fields"]
    for name, (_, *types) in declared.items():
        if name in said:
            _check_type(file, name, said[name], types)
    defaults = _defaults(kind, known, said)
    return Completed({**said, **defaults}, defaults)


def _tower(config: Json, kind: str, file: Path) -> tuple[Json, str]:
    """What config.json says of texts in place of what it says of all, and the class for it; the model_type stays."""
    if kind not in _TOWERS:
        return config, kind
    name, kind = _TOWERS[kind]
    said = config.get(name) or {}
    if not isinstance(said, dict):
        raise CheckpointError(f"{file}: {name} must be an object, not {said!r}")
    whole = {key: value for key, value in config.items() if key in _OF_ALL.split()}
    return {**said, **whole}, kind


def declared_fields(kind: str | None = None) -> frozenset[str]:
    """Fields that the class of a model_type has; without one, those of all classes together."""
    kinds = _table() if kind is None else {kind: _table().get(kind, {"fields": {}})}
    return frozenset(name for known in kinds.values() for name in known["fields"])


@functools.cache
def _table() -> dict[str, Any]:
    text = files(__package__).joinpath("config_fields.json").read_text(encoding="utf-8")
    table: dict[str, Any] = json.loads(text)
    return table


def _defaults(kind: str, known: Json, said: Json) -> dict[str, Any]:
    """What the class puts where `said` has nothing."""
    declared = known["fields"]
    known_as = known["aliases"]  # qwen3_moe's num_experts, which the class keeps as num_local_experts
    defaults = {
        known_as.get(name, name): row[0]
        for name, row in declared.items()
        if _may_add(name, row[0], said) and known_as.get(name) not in said
    }
    defaults |= _rotary_defaults(kind, known["rope"], said)
    if kind in _PATTERNS and said.get("layer_types") is None and _PATTERNS[kind][0] not in said:
        defaults |= [_PATTERNS[kind]]
    for name, kinds in _FROM_OTHERS.items():
        if kind in kinds and {**said, **defaults}.get(name) is None:
            defaults[name] = _from_others(name, {**said, **defaults})
    return defaults


def _may_add(name: str, default: Any, said: Json) -> bool:
    return name in _DECIDING.split() and name not in said and default is not None


def _check_type(file: Path, name: str, value: Any, types: list[str]) -> None:
    if "any" in types or not types:
        return
    fits = any(isinstance(value, kind) for named in types for kind in _TYPES[named])
    if not fits or (isinstance(value, bool) and "bool" not in types):
        raise CheckpointError(
            f"{file}: {name} must be {' or '.join(types)}, not {value!r}; transformers' class refuses it too"
        )


def _rotary_defaults(kind: str, default: Json | None, said: Json) -> dict[str, Any]:
    """The base, and the part of a head that is turned, where neither form of the settings says them."""
    if default is None:
        return {}
    if kind in _WHOLE_ROPE:
        length = said.get("max_position_embeddings", default["max_position_embeddings"])
        whole = {"rope_parameters": {**default, "max_position_embeddings": length}}
        return {} if {"rope_parameters", "rope_scaling", "rope_theta"} & said.keys() else whole
    nested = said.get("rope_parameters")
    stated: Json = nested if isinstance(nested, Mapping) else {}
    bases = _BASES.get(kind)
    by_kind = any(isinstance(value, Mapping) for value in default.values())
    if bases is None and (by_kind or default.get("rope_type", "default") != "default"):
        return _whole_rope(kind, default, {**said, **stated}, by_kind=by_kind)
    if bases is None:
        return {name: value for name, value in default.items() if name not in {"rope_type", *said, *stated}}
    return {
        name: default[layer]["rope_theta"]
        for layer, name in bases.items()
        if name not in said and "rope_theta" not in (stated.get(layer) or {})
    }


def _whole_rope(kind: str, default: Json, said: Json, *, by_kind: bool) -> dict[str, Any]:
    """Settings that a class has all together, for each kind of layer or scaled; a base where others are said."""
    others = ("rope_parameters", "rope_scaling", *(("rope_theta",) if kind in _FLAT_TOO else ()))
    if not any(said.get(name) for name in others):
        return {"rope_parameters": default}
    return {} if by_kind or "rope_theta" in said else {"rope_theta": default["rope_theta"]}


def _from_others(name: str, config: Json) -> int:
    heads: int = config["num_attention_heads"]
    return heads if name == "num_key_value_heads" else config["hidden_size"] // max(heads, 1)
