# ruff: noqa: E501 -- tables of values read as rows.
"""Edits of a checkpoint's files: one file, one or two of its values, drawn from a seed."""

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ABSENT = object()

# Values for fields of which the checkpoints here have too few.
VALUES: dict[str, list[Any]] = {
    "_attn_implementation": ["sdpa", "eager"],
    "add_cross_attention": [True],
    "attention_bias": [True, False],
    "attention_out_bias": [True],
    "attention_multiplier": [0.5],
    "attention_probs_dropout_prob": [0.0, 0.3],
    "attn_implementation": ["sdpa", "eager"],
    "bos_token_id": [1],
    "chunk_size_feed_forward": [0, 2],
    "cls_token_id": [2],
    "decoder_start_token_id": [2],
    "directionality": ["bidi"],
    "dtype": ["float16", "bfloat16", "float32"],
    "embedding_size": [8],
    "finetuning_task": [None, "mnli"],
    "gradient_checkpointing": [False, True],
    "head_dim": [4, 8, 16],
    "hidden_act": ["gelu", "gelu_new", "gelu_fast", "gelu_python", "gelu_pytorch_tanh", "gelu_10", "gelu_accurate", "quick_gelu", "relu", "relu2", "relu6", "silu", "swish", "tanh", "mish", "sigmoid", "linear", "laplace", "leaky_relu", "hardswish", "xielu", "nonsense"],
    "is_causal": [True, False],
    "is_decoder": [True, False],
    "is_encoder_decoder": [True, False],
    "keep_in_fp32_modules": [["embeddings"]],
    "layer_norm_eps": [1e-12, 1e-5, 1e-3],
    "layer_types": [["full_attention", "full_attention"], ["sliding_attention", "full_attention"]],
    "layerdrop": [0.0],
    "max_position_embeddings": [24, 64, 512],
    "max_window_layers": [0, 1, 2],
    "mlp_bias": [True],
    "n_positions": [64],
    "norm_eps": [1e-5, 1e-3],
    "num_key_value_heads": [1, 2, 4],
    "num_labels": [2],
    "original_max_position_embeddings": [16, 4096],
    "output_past": [True],
    "output_attentions": [True],
    "output_hidden_states": [True],
    "pad_token_id": [0, 1, 2],
    "partial_rotary_factor": [0.5, 1.0],
    "pooler_fc_size": [768],
    "pooler_type": ["first_token_transform"],
    "position_embedding_type": ["absolute", "relative_key", "rope", "alibi"],
    "pruned_heads": [{}, {"0": [1]}],
    "query_pre_attn_scalar": [16, 256],
    "rms_norm_eps": [1e-5, 1e-3],
    "rope_local_base_freq": [500.0],
    "rope_parameters": [
        {"rope_type": "default", "rope_theta": 500.0},
        {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.5},
        {"rope_type": "default"},
        {"rope_type": "linear", "factor": 2.0, "rope_theta": 500.0},
        {"full_attention": {"rope_type": "default", "rope_theta": 500.0}},
        {"rope_theta": 500.0},
        {},
    ],
    "rope_scaling": [
        {"rope_type": "linear", "factor": 2.0},
        {"type": "linear", "factor": 2.0},
        {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
        {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
         "original_max_position_embeddings": 16},
        {"rope_type": "dynamic", "factor": 2.0},
        {"rope_type": "default"},
        {"type": "ntk", "factor": 2.0},
        {},
    ],
    "rope_theta": [500.0, 10000, 10000.0],
    "scale_embedding": [True],
    "sep_token_id": [3],
    "sliding_window": [4, 128],
    "tie_word_embeddings": [True, False],
    "tie_weights_": [True],
    "torch_dtype": ["float16", "bfloat16", "float32"],
    "type_vocab_size": [1, 2],
    "use_bidirectional_attention": [True, False],
    "use_mrope": [False],
    "use_sliding_window": [True, False],
}  # fmt: skip
SENTENCE = {
    "max_seq_length": [8, 16, 512, None, 16.0, "16"],
    "do_lower_case": [True, False],
    "transformer_task": ["feature-extraction", "fill-mask"],
    "module_output_name": ["token_embeddings", "other"],
    "unpad_inputs": [True, False],
    "query_length": [6],
    "document_length": [7],
    "query_expansion": [True, {"strategy": "fixed", "length": 12}],
    "processing_kwargs": [
        {"text": {"max_length": 9}},
        {"common": {"padding": True}},
        {"text": {"truncation": False}},
        {"text": {"add_special_tokens": False}},
    ],
    "modality_config": [{"text": {"method": "forward", "method_output_name": "last_hidden_state"}}],
    "model_args": [{"add_pooling_layer": False}, {"trust_remote_code": True}, {"attn_implementation": "eager"}],
    "model_kwargs": [{"attn_implementation": "sdpa"}],
    "tokenizer_args": [{}, {"do_lower_case": True}, {"model_max_length": 9}],
    "config_args": [{}, {"num_hidden_layers": 1}],
    "tokenizer_name_or_path": ["other"],
    "cache_dir": ["other"],
    "unknown_key": [1],
}
POOLING = {
    "pooling_mode": [
        "cls",
        "max",
        "mean",
        "mean_sqrt_len_tokens",
        "weightedmean",
        "lasttoken",
        ["cls", "mean"],
        [],
        "other",
    ],
    "include_prompt": [True, False, None],
    "embedding_dimension": [8, 32],
    "word_embedding_dimension": [16, 32],
    "pooling_mode_cls_token": [True, False],
    "pooling_mode_mean_tokens": [True, False],
    "pooling_mode_max_tokens": [True, False, None],
    "pooling_mode_weightedmean_tokens": [True],
    "pooling_mode_lasttoken": [True],
    "module_input_name": ["token_embeddings", "other"],
    "unknown_key": [True],
}
DENSE = {
    "bias": [True, False, None],
    "use_residual": [True, False],
    "activation_function": [
        "torch.nn.modules.activation.Tanh", "torch.nn.modules.linear.Identity", "torch.nn.modules.activation.ReLU",
        "torch.nn.modules.activation.GELU", "torch.nn.modules.activation.SiLU", "torch.nn.modules.activation.Sigmoid",
        "torch.nn.modules.activation.Mish", "torch.nn.modules.activation.ReLU6", "torch.nn.modules.activation.ELU", "torch.nn.Tanh",
        "torch.nn.Identity", "torch.nn.functional.relu", None,
    ],
    "module_input_name": ["sentence_embedding", "token_embeddings"],
    "module_output_name": ["sentence_embedding", "other", None],
    "in_features": [8],
    "unknown_key": [True],
}  # fmt: skip
USAGE = {
    "prompts": [{"query": "tea: "}, {"document": "tea: "}, {"passage": "p: "}, {"query": "q: ", "corpus": "c: "}, {}, None,
                {"query": None}, {"x": "tea: "}],
    "default_prompt_name": ["query", "x", None, "document"],
    "similarity_fn_name": ["cosine", "dot", "euclidean", "manhattan", "dot_product", "other", None],
    "truncate_dim": [4, 8, 1000, None],
    "model_type": ["SentenceTransformer", "CrossEncoder", None],
    "activation_fn": ["torch.nn.modules.activation.Sigmoid"],
    "score_functions": [["cosine"]],
    "unknown_key": [1],
}  # fmt: skip
TOKENIZER = {
    "tokenizer_class": ["PreTrainedTokenizerFast", "BertTokenizer", "BertTokenizerFast", "RobertaTokenizer", "XLMRobertaTokenizer",
                        "LlamaTokenizer", "Qwen2Tokenizer", "TokenizersBackend", "DistilBertTokenizer", None],
    "model_max_length": [9, 512, 1e30, 12.0],
    "do_lower_case": [True, False],
    "do_basic_tokenize": [True, False],
    "strip_accents": [True, False, None],
    "tokenize_chinese_chars": [True, False],
    "add_prefix_space": [True, False],
    "add_bos_token": [True, False],
    "add_eos_token": [True, False],
    "truncation_side": ["left", "right", "middle"],
    "padding_side": ["left", "right"],
    "cls_token": ["[CLS]", "[UNK]", "<s>"],
    "sep_token": ["[SEP]", "[UNK]", "</s>"],
    "unk_token": ["[UNK]", "<unk>"],
    "eos_token": ["</s>", "<eos>", "[SEP]"],
    "bos_token": ["<s>", "<bos>", "[CLS]"],
    "pad_token": ["[PAD]", "<pad>"],
    "split_special_tokens": [True, False],
    "additional_special_tokens": [["tea"], []],
    "extra_special_tokens": [["tea"], {}, {"own": "tea"}],
    "added_tokens_decoder": [{}],
    "model_input_names": [["input_ids", "attention_mask"], ["input_ids", "token_type_ids", "attention_mask"], ["input_ids"]],
    "clean_up_tokenization_spaces": [True, False],
    "legacy": [True, False],
    "from_slow": [True],
    "never_split": [None, ["tea"]],
    "backend": ["tokenizers"],
    "max_length": [9],
    "stride": [2],
    "unknown_key": [1],
}  # fmt: skip
MAP = {
    "cls_token": ["[UNK]", "[CLS]"],
    "sep_token": [
        "[UNK]",
        "[SEP]",
        {"content": "[SEP]", "lstrip": False, "rstrip": False, "normalized": False, "single_word": False},
    ],
    "unk_token": ["[UNK]"],
    "additional_special_tokens": [["tea"]],
}
NORMALIZERS = [
    None,
    {"type": "Lowercase"},
    {"type": "NFKC"},
    {"type": "Strip", "strip_left": True, "strip_right": True},
    {
        "type": "BertNormalizer",
        "clean_text": True,
        "handle_chinese_chars": True,
        "strip_accents": None,
        "lowercase": True,
    },
]
TRUNCATION = [None, {"direction": "Left", "max_length": 9, "strategy": "LongestFirst", "stride": 0},
              {"direction": "Right", "max_length": 9, "strategy": "LongestFirst", "stride": 2}]  # fmt: skip
PADDING = [None, {"strategy": {"Fixed": 16}, "direction": "Left", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0,
                  "pad_token": "[PAD]"}]  # fmt: skip
TYPES = [
    "sentence_transformers.models.Dropout",
    "sentence_transformers.models.Normalize",
    "sentence_transformers.sentence_transformer.modules.dropout.Dropout",
    "sentence_transformers.models.LayerNorm",
    "sentence_transformers.models.WeightedLayerPooling",
    "sentence_transformers.models.Pooling",
    "sentence_transformers.models.Other",
    "custom.Normalize",
]
READMES = ["Qwen/Qwen3-Embedding-0.6B", "Alibaba-NLP/gte-Qwen2-1.5B-instruct", "nomic-ai/nomic-embed-text-v1.5",
           "intfloat/e5-small-v2", "BAAI/bge-small-en-v1.5", "google/embeddinggemma-300m"]  # fmt: skip


def seen_values() -> dict[str, list[Any]]:
    """Field of config.json → values that the checkpoints here have, and some more."""
    seen = {key: list(values) for key, values in VALUES.items()}
    for file in sorted(HERE.glob("*/config.json")):
        for key, value in json.loads(file.read_text()).items():
            if value not in seen.setdefault(key, []):
                seen[key].append(value)
    seen["hidden_activation"] = seen["activation"] = seen["hidden_act"]
    del seen["model_type"], seen["auto_map"]
    return seen


SEEN = seen_values()


def draw(number: int, folder: Path) -> str:
    """Change the folder by edit `number`; says what was changed, empty where there is nothing to change."""
    rng = random.Random(number)
    kinds = [kind for kind, weight in KINDS for _ in range(weight)]
    said = []
    for _ in range(rng.choice((1, 1, 1, 2))):
        said.append(rng.choice(kinds)(rng, folder))
    return "; ".join(filter(None, said))


def _of_config(rng: random.Random, folder: Path) -> str:
    return _edit(rng, folder, "config.json", SEEN, main=True)


def _of_own_fields(rng: random.Random, folder: Path) -> str:
    """One that config.json has: taken away, null, or another value of its type."""
    file = _main(folder) / "config.json"
    content = _read(file)
    content.pop("model_type", None)
    if not content:
        return ""
    key = rng.choice(sorted(content))
    old = content[key]
    others = [value for value in [*SEEN.get(key, []), *_near(old)] if value != old or type(value) is not type(old)]
    return _set(file, key, rng.choice([ABSENT, None, *others]))


def _near(value: Any) -> list[Any]:
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value * 2, float(value), str(value)]
    if isinstance(value, float):
        return [value * 3, int(value)]
    return [[], {}] if isinstance(value, list | dict) else []


def _of(name: str, values: dict[str, list[Any]], *, main: bool = False) -> Callable[[random.Random, Path], str]:
    return lambda rng, folder: _edit(rng, folder, name, values, main=main)


def _edit(rng: random.Random, folder: Path, name: str, values: dict[str, list[Any]], *, main: bool) -> str:
    file = (_main(folder) if main else folder) / name
    content = _read(file)
    if content and rng.random() < 0.25:
        return _set(file, rng.choice(sorted(content)), rng.choice([ABSENT, None]))
    key = rng.choice(sorted(values))
    return _set(file, key, rng.choice(values[key]))


def _of_module(kind: str, values: dict[str, list[Any]]) -> Callable[[random.Random, Path], str]:
    def edit(rng: random.Random, folder: Path) -> str:
        names = [one["path"] for one in _modules(folder) if one["type"].endswith(kind)]
        return _edit(rng, folder, f"{rng.choice(names)}/config.json", values, main=False) if names else ""

    return edit


def _of_modules(rng: random.Random, folder: Path) -> str:
    """Modules taken away, doubled, swapped, put in between."""
    modules = _modules(folder)
    if not modules:
        return ""
    how, place = (
        rng.choice(("drop", "double", "swap", "insert", "insert", "type", "alone")),
        rng.randrange(len(modules)),
    )
    if how == "drop":
        del modules[place]
    elif how == "double":
        modules.insert(place, modules[place])
    elif how == "swap" and len(modules) > 2:
        place = max(1, min(place, len(modules) - 2))
        modules[place], modules[place + 1] = modules[place + 1], modules[place]
    elif how == "type":
        modules[place] = {**modules[place], "type": rng.choice(TYPES)}
    elif how == "alone":
        del modules[1:]
    else:
        kind = rng.choice(TYPES)
        modules.insert(place + 1, {"path": f"9_{kind.rsplit('.', 1)[-1]}", "type": kind})
    modules = [{**one, "idx": index, "name": str(index)} for index, one in enumerate(modules)]
    (folder / "modules.json").write_text(json.dumps(modules))
    return f"modules.json: {how} {place}: {[one['type'].rsplit('.', 1)[-1] for one in modules]}"


def _of_tokenizer_file(rng: random.Random, folder: Path) -> str:
    file = _main(folder) / "tokenizer.json"
    content = _read(file)
    if not isinstance(content.get("model"), dict):
        return ""
    how = rng.choice(
        [
            "normalizer",
            "post_processor",
            "pre_tokenizer",
            "truncation",
            "padding",
            "added",
            "flag",
            "special",
            "word",
            "dropout",
            "unk",
        ]
    )
    if how == "normalizer":
        content[how] = rng.choice(NORMALIZERS)
    elif how in ("post_processor", "pre_tokenizer"):
        content[how] = rng.choice([None, {"type": "Whitespace"}] if how == "pre_tokenizer" else [None])
    elif how in ("truncation", "padding"):
        content[how] = rng.choice(TRUNCATION if how == "truncation" else PADDING)
    elif how == "added":
        content["added_tokens"] = content.get("added_tokens", [])[: rng.randrange(5)]
    elif how in ("flag", "special") and content.get("added_tokens"):
        token = rng.choice(content["added_tokens"])
        flag = "special" if how == "special" else rng.choice(("lstrip", "rstrip", "normalized", "single_word"))
        token[flag] = not token[flag]
        how += f" {flag} of {token['content']}"
    elif how == "word":
        number = max((token["id"] for token in content.get("added_tokens", [])), default=0)
        content.setdefault("added_tokens", []).append({"id": number, "content": "garden", "single_word": False, "lstrip": False,
                                                       "rstrip": False, "normalized": False, "special": rng.random() < 0.5})  # fmt: skip
    elif how == "dropout":
        content["model"]["dropout"] = 0.5
    elif how == "unk":
        content["model"]["unk_token"] = None
    file.write_text(json.dumps(content))
    return f"tokenizer.json: {how} {content.get(how, '')}"[:150]


def _of_files(rng: random.Random, folder: Path) -> str:
    """A file taken away, emptied, torn, or linked to nowhere."""
    names = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
    if not names:
        return ""
    name, how = rng.choice(names), rng.choice(("drop", "empty", "{}", "[]", "null", "link"))
    file = folder / name
    file.unlink()
    if how == "link":
        file.symlink_to(folder / "nowhere")
    elif how != "drop":
        file.write_text("" if how == "empty" else how)
    return f"{name}: {how}"


def _of_readme(rng: random.Random, folder: Path) -> str:
    name = rng.choice(READMES)
    (folder / "README.md").write_text(f"---\nbase_model: {name}\n---\n")
    return f"README.md: {name}"


def _of_added(rng: random.Random, folder: Path) -> str:
    number = rng.choice((5, 199, 200, 500))
    (_main(folder) / "added_tokens.json").write_text(json.dumps({"garden": number}))
    return f"added_tokens.json: garden {number}"


def _of_sentence_names(rng: random.Random, folder: Path) -> str:
    kind = rng.choice(("mpnet", "roberta", "distilbert", "xlm-roberta", "albert", "other"))
    content = {"max_seq_length": rng.choice((8, 12)), "do_lower_case": rng.random() < 0.5}
    if rng.random() < 0.5:
        (_main(folder) / "sentence_bert_config.json").unlink(missing_ok=True)
    (_main(folder) / f"sentence_{kind}_config.json").write_text(json.dumps(content))
    return f"sentence_{kind}_config.json: {content}"


KINDS: tuple[tuple[Callable[[random.Random, Path], str], int], ...] = (
    (_of_config, 10),
    (_of_own_fields, 8),
    (_of("tokenizer_config.json", TOKENIZER, main=True), 6),
    (_of_tokenizer_file, 5),
    (_of("sentence_bert_config.json", SENTENCE, main=True), 4),
    (_of_modules, 4),
    (_of_module("Pooling", POOLING), 4),
    (_of_module("Dense", DENSE), 4),
    (_of("config_sentence_transformers.json", USAGE), 4),
    (_of("special_tokens_map.json", MAP, main=True), 1),
    (_of_files, 2),
    (_of_readme, 1),
    (_of_added, 1),
    (_of_sentence_names, 1),
)


def _main(folder: Path) -> Path:
    """Where the transformer lies."""
    modules = _modules(folder)
    return folder / modules[0]["path"] if modules else folder


def _modules(folder: Path) -> list[dict[str, Any]]:
    file = folder / "modules.json"
    try:
        return json.loads(file.read_text()) or []
    except (OSError, ValueError):
        return []


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _set(file: Path, key: str, value: Any) -> str:
    content = _read(file)
    if value is ABSENT:
        content.pop(key, None)
    else:
        content[key] = value
    file.parent.mkdir(parents=True, exist_ok=True)
    file.unlink(missing_ok=True)
    file.write_text(json.dumps(content))
    return f"{file.name}: {key} {'taken away' if value is ABSENT else json.dumps(value)}"


def bases() -> Iterator[str]:
    """The checkpoints that are edited: those that are small."""
    for file in sorted(HERE.glob("*/reference.json")):
        name = file.parent.name
        if not name.startswith("heads-") and "model2vec" not in name and "potion" not in name:
            yield name
