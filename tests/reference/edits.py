"""Edits of a checkpoint folder that turn what transformers 5 writes into what publishers ship, or shipped."""

import json
import re
import shutil

import torch
from case import edit_json, edit_weights
from safetensors.torch import load_file

OLD_VERSION = "4.51.0"


def each(*edits):
    def apply(folder):
        for edit in edits:
            edit(folder)

    return apply


def add_position_ids(folder):
    """Old checkpoints carry this buffer; it is no weight."""
    edit_weights(folder, lambda tensors: {**tensors, "embeddings.position_ids": torch.arange(64)[None]})


def add_inverse_frequencies(folder):
    """Old decoders carry RoPE's frequencies; they are no weights."""
    edit_weights(folder, lambda tensors: {**tensors, "layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)})


def rename_to_gamma_beta(folder):
    """The names that BERT's first checkpoints have; transformers still reads them."""

    def rename(name):
        return name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")

    edit_weights(folder, lambda tensors: {rename(name): tensor for name, tensor in tensors.items()})


def add_prefix(prefix):
    def edit(folder):
        edit_weights(folder, lambda tensors: {f"{prefix}{name}": tensor for name, tensor in tensors.items()})

    return edit


def truncate_and_pad_in_tokenizer_json(folder):
    def edit(content):
        cut = {"direction": "Right", "max_length": 16, "strategy": "LongestFirst", "stride": 0}
        pad = {"pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]", "pad_to_multiple_of": None}
        padding = {"strategy": {"Fixed": 16}, "direction": "Right", **pad}
        content |= {"truncation": cut, "padding": padding}

    edit_json(folder / "tokenizer.json", edit)


def contradict_in_tokenizer_json(folder):
    """A normalizer that transformers replaces by what tokenizer_config.json says, for BertTokenizer and its kin."""
    edit_json(folder / "tokenizer.json", lambda content: content["normalizer"].update(lowercase=False))


def cut_left_in_tokenizer_json(folder):
    """What a model has that was saved after it had encoded: the side stands nowhere else."""
    cut = {"direction": "Left", "max_length": 48, "strategy": "LongestFirst", "stride": 0}
    edit_json(folder / "tokenizer.json", lambda content: content.update(truncation=cut))


def split_as_gpt2_in_tokenizer_json(folder):
    byte_level = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    edit_json(folder / "tokenizer.json", lambda content: content.update(pre_tokenizer=byte_level, normalizer=None))


def no_post_processor_in_tokenizer_json(folder):
    edit_json(folder / "tokenizer.json", lambda content: content.update(post_processor=None))


def add_words(**numbers):
    """Words that only added_tokens.json has, with their numbers."""

    def edit(folder):
        (folder / "added_tokens.json").write_text(json.dumps(numbers) + "\n", encoding="utf-8")

    return edit


def transformers_4_config(folder):
    """Transformers 4's form: flat `rope_theta` and `rope_scaling`, `torch_dtype`, no layer types."""

    def edit(config):
        rope = config.pop("rope_parameters")
        config["torch_dtype"] = config.pop("dtype")
        config["transformers_version"] = OLD_VERSION
        config["rope_theta"] = rope.pop("rope_theta")
        config["rope_scaling"] = None if rope["rope_type"] == "default" else rope
        config.pop("layer_types", None)

    edit_json(folder / "config.json", edit)


def transformers_4_with_layers(folder):
    """The same where layer_types stays."""
    kinds = json.loads((folder / "config.json").read_text(encoding="utf-8"))["layer_types"]
    transformers_4_config(folder)
    edit_json(folder / "config.json", lambda config: config.update(layer_types=kinds))


def published_internlm3(folder):
    """InternLM3's own form: flat, with `bias` and `qkv_bias`."""
    transformers_4_config(folder)
    edit_json(
        folder / "config.json",
        lambda config: config.update(bias=config.pop("mlp_bias"), qkv_bias=config.pop("attention_bias")),
    )


def published_neox(folder):
    """GPT-NeoX's own names of the rotary settings."""

    def edit(config):
        rope = config.pop("rope_parameters")
        config["rotary_emb_base"], config["rotary_pct"] = rope["rope_theta"], rope["partial_rotary_factor"]

    edit_json(folder / "config.json", edit)


def published_olmo3(folder):
    """Olmo-3's form: one base, and a scaling that counts for full layers alone."""

    def edit(config):
        rope = config.pop("rope_parameters")["full_attention"]
        config["torch_dtype"] = config.pop("dtype")
        config["transformers_version"] = "4.57.0"
        config["rope_theta"] = rope.pop("rope_theta")
        config["rope_scaling"] = rope

    edit_json(folder / "config.json", edit)


def published_phi3(folder):
    """Phi-3-mini-128k's form: flat, the trained length beside the settings and not in them."""
    transformers_4_config(folder)

    def edit(config):
        scaling = config["rope_scaling"]
        config["partial_rotary_factor"] = scaling.pop("partial_rotary_factor")
        del scaling["rope_type"], scaling["original_max_position_embeddings"]
        scaling["type"] = "longrope"

    edit_json(folder / "config.json", edit)


def transformers_4_modernbert(folder):
    def edit(config):
        rope = config.pop("rope_parameters")
        config["torch_dtype"] = config.pop("dtype")
        config["transformers_version"] = "4.48.0"
        config["global_rope_theta"] = rope["full_attention"]["rope_theta"]
        config["local_rope_theta"] = rope["sliding_attention"]["rope_theta"]
        config["global_attn_every_n_layers"] = 2
        config["position_embedding_type"] = "absolute"  # published so; the model rotates all the same
        del config["layer_types"]

    edit_json(folder / "config.json", edit)


def transformers_4_gemma3(folder):
    """One base for global layers, one for local ones, and a pattern that says which is which."""

    def edit(config):
        rope = config.pop("rope_parameters")
        config["torch_dtype"] = config.pop("dtype")
        config["transformers_version"] = OLD_VERSION
        config["rope_theta"] = rope["full_attention"]["rope_theta"]
        config["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        config["rope_scaling"] = None
        config["sliding_window_pattern"] = 2
        del config["layer_types"]

    edit_json(folder / "config.json", edit)


def published_embeddinggemma_config(folder):
    """embeddinggemma-300m's form: layer_types beside flat bases, and a pattern whose name begins with `_`."""

    def edit(config):
        rope = config.pop("rope_parameters")
        config["torch_dtype"] = config.pop("dtype")
        config["transformers_version"] = "4.57.0.dev0"
        config["rope_theta"] = rope["full_attention"]["rope_theta"]
        config["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        config["rope_scaling"] = None
        config["_sliding_window_pattern"] = config.pop("sliding_window_pattern")

    edit_json(folder / "config.json", edit)


def published_embedding_gemma2(folder):
    """embeddinggemma-2's form: towers for texts, images and sounds, whose processor the reference would need."""
    others = (
        "vision_tower.patch_embedder.weight",
        "embed_vision.embedding_projection.weight",
        "audio_tower.conv.weight",
    )

    def towers(tensors):
        own = {f"language_model.{name}": tensor for name, tensor in tensors.items()}
        return own | {name: torch.ones(4, 4) for name in (*others, "embed_audio.embedding_projection.weight")}

    def edit(config):
        text = {**config, "dtype": "bfloat16"}
        config.clear()
        config |= {
            "architectures": ["EmbeddingGemma2Model"],
            "audio_config": {"model_type": "gemma4_audio", "hidden_size": 4, "num_hidden_layers": 1},
            "audio_token_id": 258881,
            "boa_token_id": 256000,
            "boi_token_id": 255999,
            "dtype": "bfloat16",
            "eoa_token_index": 258883,
            "eoi_token_id": 258882,
            "image_token_id": 258880,
            "initializer_range": 0.02,
            "model_type": "embedding_gemma2",
            "text_config": text,
            "transformers_version": "5.24.0",
            "video_token_id": 258884,
            "vision_config": {"model_type": "gemma4_vision", "hidden_size": 4, "num_hidden_layers": 1},
        }

    def modalities(said):
        call = {"method": "forward", "method_output_name": "last_hidden_state"}
        said["modality_config"] = dict.fromkeys(("text", "image", "audio", "video", "image+text"), call)
        said["module_output_name"] = "token_embeddings"

    edit_weights(folder, towers)
    edit_json(folder / "config.json", edit)
    edit_json(folder / "sentence_bert_config.json", modalities)
    (folder / "processor_config.json").write_text(json.dumps({"processor_class": "EmbeddingGemma2Processor"}) + "\n")


# Of LFM2's published files: names for other fields, and for how it was trained.
LFM2_FIELDS = {
    "block_mlp_init_scale": 1.0,
    "block_out_init_scale": 1.0,
    "block_use_swiglu": True,
    "block_use_xavier_init": True,
    "conv_use_xavier_init": True,
    "use_pos_enc": True,
}


def _published_lfm2(config):
    width, eps, heads = config["hidden_size"], config["norm_eps"], config["num_attention_heads"]
    config |= {**LFM2_FIELDS, "block_dim": width, "block_norm_eps": eps, "conv_dim": width, "num_heads": heads}


def earlier_lfm2(folder):
    """LFM2-350M's form, by transformers 4."""

    def edit(config):
        _published_lfm2(config)
        kinds = config.pop("layer_types")
        config["full_attn_idxs"] = [place for place, kind in enumerate(kinds) if kind == "full_attention"]
        config["block_ff_dim"] = config.pop("intermediate_size")
        config["conv_dim_out"] = config["hidden_size"]
        config["rope_theta"] = config["theta"] = config.pop("rope_parameters")["rope_theta"]
        config["torch_dtype"] = config.pop("dtype")
        config["transformers_version"] = "4.54.0.dev0"

    edit_json(folder / "config.json", edit)


def published_lfm2_embedding(folder):
    """LFM2.5-Embedding-350M's form: the class of its own code, which nothing else declares."""

    def edit(config):
        _published_lfm2(config)
        del config["is_causal"]
        config["architectures"] = ["Lfm2BidirectionalModel"]
        config["auto_map"] = {"AutoModel": "modeling_lfm2_bidirectional.Lfm2BidirectionalModel"}
        config["full_attn_idxs"] = None
        config["tie_embedding"] = True

    edit_json(folder / "config.json", edit)


def state_unused_window(folder):
    """Qwen's published configs state a window that `use_sliding_window: false` switches off."""
    edit_json(folder / "config.json", lambda config: config.update(sliding_window=8, use_sliding_window=False))


def published_nomic_config(folder):
    """nomic-embed's own config.json speaks GPT-2's words; transformers 5's class has BERT's."""

    def edit(config):
        published = {
            "architectures": ["NomicBertModel"],
            "model_type": "nomic_bert",
            "activation_function": "swiglu",
            "attn_pdrop": 0.0,
            "causal": False,
            "embd_pdrop": 0.0,
            "layer_norm_epsilon": config["layer_norm_eps"],
            "max_trained_positions": config["max_position_embeddings"],
            "mlp_fc1_bias": False,
            "mlp_fc2_bias": False,
            "n_embd": config["hidden_size"],
            "n_head": config["num_attention_heads"],
            "n_inner": config["intermediate_size"],
            "n_layer": config["num_hidden_layers"],
            "n_positions": config["max_position_embeddings"],
            "pad_vocab_size_multiple": 4,
            "parallel_block": False,
            "prenorm": False,
            "qkv_proj_bias": False,
            "rotary_emb_base": config["rope_parameters"]["rope_theta"],
            "rotary_emb_fraction": 1.0,
            "rotary_emb_interleaved": False,
            "rotary_emb_scale_base": None,
            "rotary_scaling_factor": None,
            "scale_attn_weights": True,
            "torch_dtype": "float32",
            "type_vocab_size": config["type_vocab_size"],
            "use_cache": True,
            "use_rms_norm": False,
            "vocab_size": config["vocab_size"],
        }
        config.clear()
        config.update(published)

    edit_json(folder / "config.json", edit)


def nearly_equal_experts(folder):
    """Every second row of a router a thousandth from the one before: in 16 bit they are hardly told apart."""

    def edit(tensors):
        for name in [name for name in tensors if name.endswith("router.layer.weight")]:
            rows = tensors[name].clone()
            rows[1::2] = rows[::2] + 1e-3 * rows[1::2]
            tensors[name] = rows
        return tensors

    edit_weights(folder, edit)


def published_nomic_moe_config(folder):
    """nomic-embed-text-v2-moe's own config.json."""

    def edit(config):
        published = {
            "activation_function": "gelu",
            "add_pooling_layer": False,
            "architectures": ["NomicBertModel"],
            "attn_pdrop": 0.0,
            "auto_map": {
                "AutoConfig": "nomic-ai/nomic-bert-2048--configuration_hf_nomic_bert.NomicBertConfig",
                "AutoModel": "nomic-ai/nomic-bert-2048--modeling_hf_nomic_bert.NomicBertModel",
                "AutoModelForMaskedLM": "nomic-ai/nomic-bert-2048--modeling_hf_nomic_bert.NomicBertForPreTraining",
            },
            "bos_token_id": 0,
            "causal": False,
            "dense_seq_output": True,
            "embd_pdrop": 0.1,
            "eos_token_id": 2,
            "expert_choice_router": False,
            "ffn_div": 1,
            "fused_bias_fc": True,
            "fused_dropout_add_ln": True,
            "initializer_range": 0.02,
            "layer_norm_epsilon": config["layer_norm_eps"],
            "max_trained_positions": config["max_position_embeddings"],
            "mlp_fc1_bias": True,
            "mlp_fc2_bias": True,
            "model_type": "nomic_bert",
            "moe_every_n_layers": config["moe_every_n_layers"],
            "moe_impl": "megablocks",
            "moe_normalize_expert_weights": False,
            "moe_resid_pdrop": 0.0,
            "moe_top_k": config["moe_top_k"],
            "n_embd": config["hidden_size"],
            "n_head": config["num_attention_heads"],
            "n_inner": config["intermediate_size"],
            "n_layer": config["num_hidden_layers"],
            "n_positions": config["max_position_embeddings"],
            "num_experts": config["num_experts"],
            "num_shared_experts": 0,
            "pad_token_id": 1,
            "pad_vocab_size_multiple": 64,
            "parallel_block": False,
            "parallel_block_tied_norm": False,
            "prenorm": False,
            "qkv_proj_bias": True,
            "reorder_and_upcast_attn": False,
            "resid_pdrop": 0.0,
            "rotary_emb_base": config["rope_theta"],
            "rotary_emb_fraction": 1.0,
            "rotary_emb_interleaved": False,
            "rotary_emb_scale_base": None,
            "rotary_scaling_factor": None,
            "router_aux_loss_coef": 0.1,
            "scale_attn_by_inverse_layer_idx": False,
            "scale_attn_weights": True,
            "summary_activation": None,
            "summary_first_dropout": 0.1,
            "summary_proj_to_labels": True,
            "summary_type": "cls_index",
            "summary_use_proj": True,
            "torch_dtype": config["dtype"],
            "transformers_version": "4.44.2",
            "type_vocab_size": config["type_vocab_size"],
            "use_cache": True,
            "use_flash_attn": True,
            "use_rms_norm": None,
            "use_xentropy": True,
            "vocab_size": config["vocab_size"],
        }
        config.clear()
        config.update(published)

    edit_json(folder / "config.json", edit)


def published_gte_config(rope_theta, factor=None):
    """GTE's own config.json: model_type "new", whose code lives in a repository of its own."""

    def edit(config):
        del config["rope_parameters"]
        config["torch_dtype"] = config.pop("dtype")
        config |= {
            "architectures": ["NewModel"],
            "auto_map": {"AutoModel": "Alibaba-NLP/new-impl--modeling.NewModel"},
            "model_type": "new",
            "layer_norm_type": "layer_norm",
            "logn_attention_clip1": False,
            "logn_attention_scale": False,
            "pack_qkv": True,
            "position_embedding_type": "rope",
            "rope_theta": rope_theta,
            "rope_scaling": {"factor": factor, "type": "ntk"} if factor else None,
            "transformers_version": "4.39.1",
            "unpad_inputs": False,
            "use_memory_efficient_attention": False,
        }

    return lambda folder: edit_json(folder / "config.json", edit)


def arctic_gte_config(folder):
    """arctic-embed-m-v2.0: the same model under model_type "gte", with flat RoPE fields."""
    edit_json(
        folder / "config.json",
        lambda config: config.update(
            rope_theta=config.pop("rope_parameters")["rope_theta"],
            rope_scaling=None,
            layer_norm_type="layer_norm",
            pack_qkv=True,
            position_embedding_type="rope",
        ),
    )


def published_llama_bidirectional(folder):
    """NVIDIA's embedders: a model_type of their own instead of `is_causal`, and the pooling."""

    def edit(config):
        del config["is_causal"]
        config |= {"model_type": "llama_bidirec", "architectures": ["LlamaBidirectionalModel"]}
        config["pooling"] = "avg"

    edit_json(folder / "config.json", edit)


def fold_dense_and_strip(folder):
    """As mlx-community ships EmbeddingGemma: Dense weights as root keys, `model.` prefix, no sidecars."""
    files = sorted(folder.glob("*_Dense/model.safetensors"))
    folded = {f"dense.{index}.weight": load_file(path)["linear.weight"] for index, path in enumerate(files)}
    add_prefix("model.")(folder)
    edit_weights(folder, lambda tensors: tensors | folded)
    for path in list(folder.glob("[1-9]_*")):
        shutil.rmtree(path)
    for name in ("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"):
        (folder / name).unlink()


def say_num_experts(folder):
    """Qwen3-MoE's published name, which transformers 5 saves as another."""
    edit_json(folder / "config.json", lambda config: config.update(num_experts=config.pop("num_local_experts")))


def gathered(tensors):
    """All experts of a layer in one array: layer's name → gate, up, down, (experts, outputs, inputs)."""
    one = re.compile(r"(.*\.)experts\.(\d+)\.(\w+)\.weight$")
    found, kinds = {}, {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}
    for name in [name for name in tensors if one.match(name)]:
        parent, expert, kind = one.match(name).groups()
        found.setdefault(parent, {}).setdefault(kinds.get(kind, kind), {})[int(expert)] = tensors.pop(name)
    for name in [name for name in tensors if name.endswith("input_linear.weight")]:
        parent = name.removesuffix("input_linear.weight")
        gate, up = tensors.pop(name).chunk(2, dim=1)
        found[parent] = {"gate_proj": gate, "up_proj": up, "down_proj": tensors.pop(f"{parent}output_linear.weight")}
    stacked = {
        parent: {
            kind: part if isinstance(part, torch.Tensor) else torch.stack([part[expert] for expert in sorted(part)])
            for kind, part in parts.items()
        }
        for parent, parts in found.items()
    }
    assert stacked
    return stacked


def switch_mlp(folder):
    """As mlx-lm's converter names experts."""

    def edit(tensors):
        for parent, parts in gathered(tensors).items():
            tensors |= {f"{parent}switch_mlp.{kind}.weight": part.contiguous() for kind, part in parts.items()}
        return tensors

    edit_weights(folder, edit)
    add_prefix("model.")(folder)


def stack_experts(folder):
    """As transformers 5 holds experts in memory: gate and up side by side, no `.weight`."""

    def edit(tensors):
        for parent, parts in gathered(tensors).items():
            gate_up = torch.cat([parts["gate_proj"], parts["up_proj"]], dim=1)
            tensors |= {f"{parent}experts.gate_up_proj": gate_up, f"{parent}experts.down_proj": parts["down_proj"]}
        return tensors

    edit_weights(folder, edit)


def renamed(old, new):
    """Another prefix of the weights."""

    def rename(name):
        return new + name.removeprefix(old) if name.startswith(old) else name

    return lambda folder: edit_weights(folder, lambda tensors: {rename(name): part for name, part in tensors.items()})


def leave_to_the_class(*names, **others):
    """config.json without these fields, for which transformers' class has defaults, and with some others."""

    def edit(content):
        for name in names:
            content.pop(name, None)
        content.update(others)

    return lambda folder: edit_json(folder / "config.json", edit)


# Read by no class, or not by this one.
WITHOUT_EFFECT = {
    "_attn_implementation": "sdpa",
    "cls_token_id": 2,
    "decoder_start_token_id": 2,
    "gradient_checkpointing": False,
    "pooler_type": "first_token_transform",
    "position_embedding_type": "relative_key",
}


def double_modules(folder):
    """Two Poolings, of which the last counts, two Normalize, a Dropout at the end, and include_prompt null."""

    def edit(content):
        kinds = ["Transformer", "Pooling", "Normalize", "Pooling", "Normalize", "Normalize", "Dropout"]
        paths = ["", "1_Pooling", "2_Normalize", "3_Pooling", "4_Normalize", "5_Normalize", "6_Dropout"]
        content[:] = [
            {"idx": place, "name": str(place), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for place, (kind, path) in enumerate(zip(kinds, paths, strict=True))
        ]

    edit_json(folder / "modules.json", edit)
    for path in ("2_Normalize", "3_Pooling", "4_Normalize", "5_Normalize", "6_Dropout"):
        (folder / path).mkdir(exist_ok=True)
    said = {"embedding_dimension": 16, "include_prompt": None}
    (folder / "3_Pooling" / "config.json").write_text(json.dumps({**said, "pooling_mode": "mean"}))
    (folder / "6_Dropout" / "config.json").write_text(json.dumps({"dropout": 0.1}))


def store_in_odd_dtypes(folder):
    """Matrices in float8 (E4M3 and E5M2) and a table in float64; the rest as it is."""
    kinds = {"query": torch.float8_e4m3fn, "output.dense": torch.float8_e5m2, "word": torch.float64}

    def cast(name, tensor):
        kind = next((kind for part, kind in kinds.items() if part in name and name.endswith("weight")), tensor.dtype)
        return tensor.to(kind)

    edit_weights(folder, lambda tensors: {name: cast(name, tensor) for name, tensor in tensors.items()})


def scaled(part, factor):
    """Smaller weights: T5 does not scale its scores, and trained ones have their scale in the queries."""

    def edit(tensors):
        return {name: tensor * factor if part in name else tensor for name, tensor in tensors.items()}

    return lambda folder: edit_weights(folder, edit)


def twice(old, new):
    """A tensor under a second name, as files of earlier versions have shared ones."""
    return lambda folder: edit_weights(folder, lambda tensors: {**tensors, new: tensors[old]})
