"""One row of the table of cases, and the writer that makes a checkpoint folder of it."""

import json
import math
import shutil
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

OLD_POOLING_FLAGS = {
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean": "pooling_mode_mean_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}
OLD_MODULES = "sentence_transformers.models"
NEW_MODULES = {
    "Transformer": "sentence_transformers.base.modules.transformer",
    "Pooling": "sentence_transformers.sentence_transformer.modules.pooling",
    "Dense": "sentence_transformers.base.modules.dense",
    "Normalize": "sentence_transformers.base.modules.normalize",
}
SPECIAL_TOKEN_ROLES = {
    "pad_token": ("[PAD]", "<pad>", "<|endoftext|>", "<|end_of_text|>"),
    "unk_token": ("[UNK]", "<unk>"),
    "cls_token": ("[CLS]", "<s>"),
    "sep_token": ("[SEP]", "</s>"),
    "mask_token": ("[MASK]", "<mask>"),
    "bos_token": ("<bos>", "<s>", "<|begin_of_text|>"),
    "eos_token": ("<eos>", "</s>", "<|im_end|>", "<|end_of_text|>", "<|endoftext|>"),
}
# Larger than the other weights, so that attention is far from uniform and a wrong mask or position shows.
QUERIES_AND_KEYS = ("query", "key", "q_proj", "k_proj", "qkv", "q_lin", "k_lin", "attn.q", "attn.k")


@dataclass(frozen=True)
class Dense:
    """A sentence-transformers Dense module: a linear layer after pooling."""

    out_features: int
    bias: bool = True
    activation: str = "torch.nn.modules.activation.Tanh"


@dataclass(frozen=True)
class Case:
    """A tiny checkpoint: how it is built, how it is shipped, and which facts its vectors must depend on."""

    name: str
    family: str
    checks: str  # what a wrong implementation would get wrong here
    model: Callable[[], torch.nn.Module]
    tokenizer: Callable[[], Tokenizer]
    pooling: str | tuple[str, ...] = "mean"
    normalize: bool = True
    dense: tuple[Dense, ...] = ()
    include_prompt: bool = True
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    max_seq_length: int = 48
    length_from: str = "sentence_bert_config.json"  # or "tokenizer_config.json", or "config.json"
    dtype: torch.dtype = torch.float32
    shard_size: str = "5GB"
    old_files: bool = False  # the file forms before sentence-transformers 5.4
    transformer_folder: str = ""  # old checkpoints keep the transformer and its tokenizer in "0_Transformer"
    lowercase: bool = False
    tokenizer_config: Mapping[str, Any] = field(default_factory=dict)
    template: str = ""  # chat_template.jinja, through which each text goes
    message_format: str = "flat"  # or "structured"
    transformer: Mapping[str, Any] = field(default_factory=dict)  # further keys of sentence_bert_config.json
    prepare: Callable[[Path], None] | None = None  # edits that the reference sees too
    disguise: Callable[[Path], None] | None = None  # edits after the reference was computed
    rebuilt: bool = False  # transformers 5 makes another tokenizer than tokenizer.json holds
    # What the checkpoint's own module makes of the reference's rows, and whether those are exact.
    output: Callable[[Any, bool], Any] | None = None
    usable_length: int | None = None  # tokens the position table has room for, if less than stated
    lengths: tuple[int, ...] = ()  # tokens of further texts
    causal: bool = False
    amend: Callable[[torch.nn.Module], None] | None = None  # what own code changes in the class that is loaded
    padding_matters: bool = False  # the reference itself changes with left padding: compare with texts alone
    neighbours_matter: bool = False  # the same where a batch's longest text decides the others' positions
    refusal_allowed: bool = False  # rare; an implementation may refuse it, but not compute something else
    # Changes of the config, or of the loaded transformer.
    must_matter: Mapping[str, Mapping[str, Any] | Callable[[torch.nn.Module], None]] = field(default_factory=dict)

    @property
    def pooling_modes(self) -> tuple[str, ...]:
        return (self.pooling,) if isinstance(self.pooling, str) else self.pooling


def write_checkpoint(case: Case, folder: Path) -> None:
    """Write the whole folder: weights, tokenizer and sentence-transformers' files."""
    home = folder / case.transformer_folder
    home.mkdir(parents=True)
    model = case.model()
    randomise(model, case.name)
    model.to(case.dtype).save_pretrained(home, max_shard_size=case.shard_size)
    write_tokenizer(case, home)
    write_modules(case, folder, width_of(model.config.get_text_config()))
    if case.prepare:
        case.prepare(folder)


def width_of(config: Any) -> int:
    """Channels of the hidden states: EmbeddingGemma 2 brings them to the width of the embeddings."""
    return getattr(config, "embedding_dim", None) or config.hidden_size


def randomise(model: torch.nn.Module, name: str) -> None:
    """Weights so large that a wrong mask, position, base or pooling shows; norms and biases random too."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    modules = dict(model.named_modules())
    embeddings = {f"{path}.weight": part for path, part in modules.items() if isinstance(part, torch.nn.Embedding)}
    for path, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if path in embeddings:
            parameter.data = noise / getattr(embeddings[path], "scalar_embed_scale", 1.0)
        elif parameter.ndim >= 2:
            gain = 2.0 if any(part in path for part in QUERIES_AND_KEYS) else 1.4
            parameter.data = noise * gain / math.sqrt(parameter.shape[-1])
        elif path.endswith("bias"):
            parameter.data = noise * 0.2
        else:  # a norm's weight: Gemma stores it less one and starts at 0, the others at 1
            parameter.data = parameter.data.float().mean().round() + noise * 0.3


def write_tokenizer(case: Case, folder: Path) -> None:
    tokenizer = case.tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    roles = {
        role: next((token for token in tokens if tokenizer.token_to_id(token) is not None), None)
        for role, tokens in SPECIAL_TOKEN_ROLES.items()
    }
    stated = {
        **{role: token for role, token in roles.items() if token},
        "tokenizer_class": "PreTrainedTokenizerFast",
        # The value that transformers writes for "no limit".
        "model_max_length": case.max_seq_length if case.length_from == "tokenizer_config.json" else int(1e30),
        **case.tokenizer_config,
    }
    write_json(folder / "tokenizer_config.json", stated)
    if case.template:
        (folder / "chat_template.jinja").write_text(case.template, encoding="utf-8")


def write_modules(case: Case, folder: Path, width: int) -> None:
    """modules.json and what it names, in the old or the new form."""
    modules = ["Transformer", "Pooling", *("Dense" for _ in case.dense)] + ["Normalize"] * case.normalize
    rows = []
    for index, kind in enumerate(modules):
        where = f"{index}_{kind}" if index else case.transformer_folder
        package = OLD_MODULES if case.old_files else NEW_MODULES[kind]
        rows.append({"idx": index, "name": str(index), "path": where, "type": f"{package}.{kind}"})
    write_json(folder / "modules.json", rows)
    write_json(folder / "1_Pooling" / "config.json", pooling_config(case, width))
    write_dense(case, folder, width * len(case.pooling_modes))
    transformer: dict[str, Any] = {"do_lower_case": case.lowercase}
    if case.length_from == "sentence_bert_config.json":
        transformer = {"max_seq_length": case.max_seq_length, **transformer}
    if case.template:
        call = {"method": "forward", "method_output_name": "last_hidden_state"}
        messages = {"text": call, "message": {**call, "format": case.message_format}}
        transformer |= {"modality_config": messages, "module_output_name": "token_embeddings"}
    transformer |= case.transformer
    write_json(folder / case.transformer_folder / "sentence_bert_config.json", transformer)
    facts: dict[str, Any] = {"__version__": {"sentence_transformers": "2.2.2" if case.old_files else "6.2.0"}}
    if case.prompts or not case.old_files:
        facts |= {"prompts": dict(case.prompts), "default_prompt_name": case.default_prompt_name}
        facts["similarity_fn_name"] = "cosine"
    write_json(folder / "config_sentence_transformers.json", facts)


def pooling_config(case: Case, width: int) -> dict[str, Any]:
    if case.old_files:
        flags = {flag: mode in case.pooling_modes for mode, flag in OLD_POOLING_FLAGS.items()}
        return {"word_embedding_dimension": width, **flags, "include_prompt": case.include_prompt}
    mode = case.pooling if isinstance(case.pooling, str) else list(case.pooling)
    return {"embedding_dimension": width, "pooling_mode": mode, "include_prompt": case.include_prompt}


def write_dense(case: Case, folder: Path, in_features: int) -> None:
    generator = torch.Generator().manual_seed(zlib.crc32(f"{case.name} dense".encode()))
    for index, dense in enumerate(case.dense, start=2):
        shape = (dense.out_features, in_features)
        weight = torch.randn(shape, generator=generator) * 1.4 / math.sqrt(in_features)
        tensors = {"linear.weight": weight.to(case.dtype)}
        if dense.bias:
            bias = torch.randn(dense.out_features, generator=generator) * 0.3
            tensors["linear.bias"] = bias.to(case.dtype)
        where = folder / f"{index}_Dense"
        facts = {"in_features": in_features, "out_features": dense.out_features, "bias": dense.bias}
        write_json(where / "config.json", facts | {"activation_function": dense.activation})
        save_file(tensors, where / "model.safetensors", metadata={"format": "pt"})
        in_features = dense.out_features


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_facts(path: Path, facts: dict[str, Any]) -> None:
    """JSON with one line a key: long lists of numbers stay small."""
    lines = (f"  {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in facts.items())
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def edit_json(path: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    edit(content)
    indent = None if path.name == "tokenizer.json" else 2
    path.write_text(json.dumps(content, indent=indent, ensure_ascii=False) + "\n", encoding="utf-8")


def edit_weights(folder: Path, edit: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    """Rewrite the (only) weights file with other names or more tensors."""
    path = folder / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in edit(load_file(path)).items()}
    save_file(tensors, path, metadata={"format": "pt"})


def copy_checkpoint(source: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
