"""The table of decoders: what mlx-lm's class of a model_type computes, what is left to us, and what is refused."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from akidb_mlx.checkpoint.config_defaults import declared_fields
from akidb_mlx.errors import CheckpointError, UnsupportedModelError
from akidb_mlx.model.architectures.base import allow
from akidb_mlx.model.architectures.mixtures import MIXTURES

__all__ = ["DECODERS", "FULL", "SLIDING", "Family", "account_for", "layer_kinds"]

FULL, SLIDING = "full_attention", "sliding_attention"
Config = Mapping[str, Any]


def _all_full(config: Config, count: int) -> Sequence[str]:
    return [FULL] * count


def _all_sliding(config: Config, count: int) -> Sequence[str]:
    return [FULL if config.get("sliding_window") is None else SLIDING] * count


def _all_sliding_if_used(config: Config, count: int) -> Sequence[str]:
    return _all_sliding(config, count) if config.get("use_sliding_window") else _all_full(config, count)


def _upper_sliding(config: Config, count: int) -> Sequence[str]:
    """Qwen's: the window holds from one layer on, and may be stated but switched off."""
    first = config.get("max_window_layers", count) if config.get("use_sliding_window") else count
    kinds = config.get("layer_types") or [SLIDING if index >= first else FULL for index in range(count)]
    if SLIDING in kinds and not config.get("use_sliding_window"):  # then its class has no window
        raise UnsupportedModelError(
            "config.json: layer_types has sliding_attention, and use_sliding_window is not true"
        )
    return list(kinds)


def _every_other_sliding(config: Config, count: int) -> Sequence[str]:
    return config.get("layer_types") or [FULL if index % 2 else SLIDING for index in range(count)]


def _gemma3_kinds(config: Config, count: int) -> Sequence[str]:
    if config.get("layer_types"):
        return list(config["layer_types"])
    every = config.get("sliding_window_pattern")
    if every is None:
        raise CheckpointError("config.json has neither layer_types nor sliding_window_pattern")
    return [SLIDING if (index + 1) % every else FULL for index in range(count)]


def _every_fourth_full(config: Config, count: int) -> Sequence[str]:
    """By a pattern, of which the last is full; one of letters says nothing to the reference."""
    every = config.get("sliding_window_pattern", 4)
    if not config.get("layer_types") and (isinstance(every, str) or not config.get("sliding_window")):
        raise UnsupportedModelError(
            "config.json lacks layer_types, and no sliding_window_pattern says them in a number"
        )
    return config.get("layer_types") or [SLIDING if (index + 1) % every else FULL for index in range(count)]


def _fourth_full(config: Config, count: int) -> Sequence[str]:
    """The same without a pattern of the file's."""
    return _every_fourth_full({**config, "sliding_window_pattern": 4}, count)


def _root_of_width(config: Config) -> float:
    return float(config["hidden_size"]) ** 0.5


@dataclass(frozen=True)
class Family:
    """One model_type."""

    module: str
    """mlx-lm's file."""
    activation: str = "silu"
    """What its network computes; another one in config.json replaces it."""
    activation_key: str = "hidden_act"
    kinds: Callable[[Config, int], Sequence[str]] = _all_full
    """Each layer's kind of attention, full or sliding."""
    known: tuple[str, ...] = ()
    """Fields of config.json that its class ignores and we compute."""
    only: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """Fields that neither computes, with the values that change nothing; the first is the default."""
    needed: tuple[str, ...] = ()
    """Fields for which its class has a default of its own."""
    biases: tuple[str, ...] = ()
    """Layers of attention that `attention_bias` gives biases, which its class ignores."""
    scale: Callable[[Config], float] | None = None
    """Factor of the token embeddings."""
    interleaved: bool = False
    """Whether rotary positions turn channels (2i, 2i + 1)."""
    partial: bool = False
    """Whether they turn a part of each head, which config.json must state."""
    ropes: tuple[str, ...] = ("default", "linear", "llama3", "yarn", "dynamic", "longrope", "proportional")
    """Kinds of rotary settings that its class takes."""
    causal: bool = True
    """Whether tokens see only what is before them, where config.json does not say (`is_causal`)."""
    given: Mapping[str, Any] = field(default_factory=dict)
    """What its class wants to be given and we compute, or no class has."""
    norm: str = "norm"
    """Its name for the last norm."""
    network: tuple[str, str] | None = None
    """Its names for the two layers of a network without a gate."""
    mask_array: bool = False
    """Its attention wants the causal mask as an array."""
    plain: bool = False
    """Whether attention is projections, norms of each head or none, rotary positions: then ours joins products."""
    norms_after: bool = False
    """Whether what attention and network give is normed too before it is added; of the plain ones."""
    norms_add_one: bool = False
    """Whether norms multiply by one more than their weights."""


_NVIDIA = ("pooling", "temperature")
_QWEN = ("sliding_window", "use_sliding_window", "max_window_layers", "layer_types")
# transformers' own bidirectional Gemma 1 and 2 is broken (it masks differently by implementation).
_GEMMA = {"use_bidirectional_attention": (None, False), "hidden_activation": (None, "gelu_pytorch_tanh")}

_NO_WINDOW = {"use_sliding_window": (False,)}
# Their own attention is causal wherever a batch has no padding, whatever the mask.
_CAUSAL = {"is_causal": (True,)}

# Of classes whose tokens see both ways by their name.
_BOTH_WAYS = {"is_causal": (False,), "use_bidirectional_attention": (True,)}

# Each row is verified by a case in tests/reference.
DECODERS: dict[str, Family] = {
    "apertus": Family(
        "apertus",
        activation="xielu",
        biases=("q_proj", "k_proj", "v_proj", "o_proj"),
        only={"mlp_bias": (False,), "post_norm": (False,), "qk_norm": (True,)},
        given={"mlp_bias": False, "attention_bias": False, "post_norm": False, "qk_norm": True},
    ),
    "bidirectional_pplx_qwen3": Family("qwen3", only=_BOTH_WAYS, known=_QWEN, causal=False, plain=True),
    "cohere": Family("cohere", interleaved=True),
    "cohere2": Family(
        "cohere2",
        kinds=_every_fourth_full,
        known=("sliding_window", "layer_types"),
        only={"layer_norm_bias": (False,)},
        interleaved=True,
    ),
    "ernie4_5": Family("ernie4_5", interleaved=True),
    "exaone4": Family(
        "exaone4",
        kinds=_every_fourth_full,
        known=("sliding_window", "layer_types"),
        given={"sliding_window_pattern": None, "sliding_window": None, "rope_scaling": None},
    ),
    "ernie4_5_moe": Family("ernie4_5", interleaved=True),
    "gemma": Family("gemma", activation="gelu", scale=_root_of_width, only=_GEMMA, plain=True, norms_add_one=True),
    "gemma2": Family(
        "gemma2",
        activation="gelu_pytorch_tanh",
        activation_key="hidden_activation",
        kinds=_every_other_sliding,
        known=("sliding_window", "sliding_window_size", "layer_types"),
        only=_GEMMA | {"hidden_act": (None, "gelu_pytorch_tanh")},
        needed=("query_pre_attn_scalar", "attn_logit_softcapping"),
        scale=_root_of_width,
        mask_array=True,
        norms_add_one=True,
    ),
    "gemma3_text": Family(
        "gemma3_text",
        activation="gelu_pytorch_tanh",
        activation_key="hidden_activation",
        kinds=_gemma3_kinds,
        known=(
            "sliding_window",
            "layer_types",
            "_sliding_window_pattern",
            "rope_local_base_freq",
            "use_bidirectional_attention",
        ),
        only={"attn_logit_softcapping": (None,)},
        needed=("query_pre_attn_scalar", "rms_norm_eps"),
        scale=_root_of_width,
        plain=True,
        norms_after=True,
        norms_add_one=True,
    ),
    "glm": Family("glm", interleaved=True, partial=True),
    "glm4": Family("glm4", interleaved=True, partial=True),
    "granite": Family("granite", scale=lambda config: float(config["embedding_multiplier"])),
    "granitemoe": Family("granite", scale=lambda config: float(config["embedding_multiplier"])),
    "helium": Family("helium", interleaved=True),
    "hunyuan_v1_dense": Family("hunyuan_v1_dense", only={"use_qk_norm": (True,)}),
    "internlm3": Family("llama", plain=True),
    "llama": Family("llama", plain=True),
    "llama_bidirec": Family("llama", only=_BOTH_WAYS, known=_NVIDIA, causal=False, plain=True),
    "ministral3": Family("llama", kinds=_all_sliding, known=("sliding_window", *_NVIDIA), plain=True),
    "ministral3_bidirec": Family(
        "llama",
        kinds=_all_sliding,
        known=("sliding_window", *_NVIDIA),
        only=_BOTH_WAYS,
        causal=False,
        plain=True,
    ),
    "mistral": Family("llama", kinds=_all_sliding, known=("sliding_window",), plain=True),
    "mixtral": Family("llama", kinds=_all_sliding, known=("sliding_window",), plain=True),
    "nemotron": Family("nemotron", activation="relu2", partial=True, only=_CAUSAL),
    "olmo": Family("llama", only={"clip_qkv": (None,)}, given={"rms_norm_eps": 1e-5}, plain=True),
    "olmo2": Family("olmo2"),
    "olmo3": Family("olmo3", kinds=_fourth_full, known=("sliding_window", "layer_types")),
    "phi": Family(
        "phi",
        activation="gelu_new",
        network=("fc1", "fc2"),
        norm="final_layernorm",
        only={"qk_layernorm": (False,)},
        partial=True,
    ),
    "olmoe": Family("olmoe", only={"clip_qkv": (None,)}),
    "phi3": Family("phi3", kinds=_all_sliding, known=("sliding_window",), partial=True, ropes=("default", "longrope")),
    "qwen2": Family("qwen2", kinds=_upper_sliding, known=_QWEN, plain=True),
    "qwen2_moe": Family(
        "qwen2", known=("max_window_layers", "sliding_window"), only={"qkv_bias": (True,)} | _NO_WINDOW, plain=True
    ),
    "qwen3": Family(
        "qwen3",
        kinds=_upper_sliding,
        known=_QWEN,
        biases=("q_proj", "k_proj", "v_proj", "o_proj"),
        plain=True,
    ),
    "qwen3_moe": Family(
        "qwen3",
        kinds=_all_sliding_if_used,
        known=("sliding_window", "use_sliding_window"),
        biases=("q_proj", "k_proj", "v_proj", "o_proj"),
        plain=True,
    ),
    "seed_oss": Family("seed_oss"),
    "smollm3": Family("smollm3", known=("sliding_window",)),
    "starcoder2": Family(
        "starcoder2", network=("c_fc", "c_proj"), kinds=_all_sliding, known=("sliding_window", "use_bias")
    ),
    "stablelm": Family("stablelm", partial=True, only=_CAUSAL),
}

# Computed by us, for all.
_COMPUTED = """
    head_dim hidden_act hidden_activation is_causal max_position_embeddings original_max_position_embeddings
    partial_rotary_factor rope_parameters rope_scaling rope_theta
"""
# Without effect on hidden states.
_INERT = """
    _name_or_path architectures attention_dropout attn_pdrop auto_map bos_token_id cache_implementation
    chunk_size_feed_forward classifier_dropout do_sample dtype embd_pdrop embedding_dropout eod_token_id
    eos_token_id final_logit_softcapping hidden_dropout id2label initializer_range is_decoder is_encoder_decoder
    label2id logits_scaling mlp_dropout model_type num_labels num_logits_to_keep output_attentions
    output_hidden_states pad_token_id pretraining_tp problem_type quantization quantization_config resid_pdrop
    residual_dropout return_dict sep_token_id task_specific_params tie_word_embeddings tokenizer_class torch_dtype
    torchscript transformers_version unsloth_fixed unsloth_version use_cache
"""
# Read of any config, by the masks or the layers, whether its class has it or not; or what changes the class itself.
_GENERIC = """
    attention_bias attention_chunk_size head_dim is_causal layer_types mlp_bias partial_rotary_factor rope_parameters
    rope_scaling rope_theta sliding_window use_bidirectional_attention use_sliding_window
"""
# Of classes that are not computed here, and what trainers and early versions wrote: no class above reads them.
_OF_OTHERS = """
    _attn_implementation attn_implementation cls_token_id decoder_start_token_id directionality
    embedding_size finetuning_task gradient_checkpointing layerdrop max_length mask_token_id
    n_positions output_past pooler_fc_size pooler_num_attention_heads pooler_num_fc_layers pooler_size_per_head
    pooler_type position_embedding_type pruned_heads resid_pdrop scale_attn_weights seq_length summary_type
    tokenizer_name unk_token_id
"""
# Switches that only some classes have: off for the others.
_OFF: Mapping[str, tuple[Any, ...]] = {
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "rope_traditional": (False,),
    "use_bidirectional_attention": (False,),
    "use_mrope": (False,),
    "use_sliding_window": (False,),
}
# Computed as another model_type's class.
_CLASS = {
    "bidirectional_pplx_qwen3": "qwen3",
    "embedding_gemma2": "embedding_gemma2_text",
    "llama_bidirec": "llama",
    "ministral3_bidirec": "ministral3",
}
# Fields that mlx-lm's class reads but that we compute ourselves.
_OURS = frozenset({"layer_types", "rope_traditional", "sliding_window"})


def account_for(family: Family, config: Config, fields: Collection[str]) -> None:
    """Refuse config.json where it says what neither mlx-lm's class (which reads `fields`) nor we compute."""
    accounted = {*fields, *_COMPUTED.split(), *_INERT.split(), *family.known} - (_OURS - set(family.known))
    if family.biases:
        accounted.add("attention_bias")
    mixture = MIXTURES.get(config["model_type"])
    accounted |= _without_effect(config["model_type"]) | set(mixture.fields if mixture else ())
    for key, value in config.items():
        if value is None or (key == "layer_types" and set(value) == {FULL}):
            continue
        if key == "use_bidirectional_attention" and key not in family.only and config.get("is_causal") is False:
            continue  # the class does not read it, and is_causal says the same
        if key == "use_bidirectional_attention" and value and key not in {*family.only, *family.known}:
            raise UnsupportedModelError(
                f"config.json: use_bidirectional_attention is {value!r}, which the reference does not read for "
                f"{config['model_type']}; if tokens see both ways, say so with is_causal false, else delete it"
            )
        limits = family.only.get(key) or (_OFF.get(key) if key not in accounted else None)
        if limits is not None:
            allow(config, key, limits)
        elif key not in accounted:
            raise UnsupportedModelError(
                f"config.json: {key!r} ({value!r}) is not known for {config['model_type']} and might change vectors; "
                "delete it there if transformers ignores it"
            )
    for key in family.needed:
        if config.get(key) is None:
            raise CheckpointError(f"config.json lacks {key!r}, which {config['model_type']} needs")


def _without_effect(kind: str) -> frozenset[str]:
    """Fields that other classes have and this one does not read: transformers keeps them as attributes."""
    known = declared_fields() | set(_OF_OTHERS.split())
    return frozenset(known - declared_fields(_CLASS.get(kind, kind)) - set(_GENERIC.split()))


def layer_kinds(family: Family, config: Config, count: int) -> list[str]:
    """Full or sliding attention, layer by layer."""
    kinds = list(family.kinds(config, count))
    unknown = sorted(set(kinds) - {FULL, SLIDING})
    if unknown:
        raise UnsupportedModelError(f"config.json: layer_types {unknown[0]!r} is not supported")
    if len(kinds) != count:
        raise CheckpointError(f"config.json: {len(kinds)} layer_types for {count} layers")
    if SLIDING in kinds and config.get("sliding_window") is None:
        raise CheckpointError("config.json has sliding layers and no sliding_window")
    return kinds
