"""Edits of a reranker's folder: the files of other versions, and what conversions by MLX's tools write."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import edits
import torch
from case import edit_json, edit_weights

Edit = Callable[[Path], None]
QUANTIZE = Path(__file__).parent / "quantize_with_mlx.py"
PACKED = "packed"


def config(**facts: Any) -> Edit:
    """More facts in config.json; None takes one away."""
    return changed("config.json", **facts)


def changed(file: str, **facts: Any) -> Edit:
    def edit(folder: Path) -> None:
        edit_json(folder / file, lambda content: apply(content, facts))

    return edit


def apply(content: dict[str, Any], facts: dict[str, Any]) -> None:
    for name, value in facts.items():
        if value is None:
            content.pop(name, None)
        else:
            content[name] = value


def jinas_xlm_roberta(folder: Path) -> None:
    """Jina's own implementation of XLM-R: its names of weights, one matrix for queries, keys and values, its config."""
    names = (
        ("embeddings.LayerNorm", "emb_ln"),
        ("encoder.layer.", "encoder.layers."),
        ("attention.output.dense", "mixer.out_proj"),
        ("attention.output.LayerNorm", "norm1"),
        ("intermediate.dense", "mlp.fc1"),
        ("output.dense", "mlp.fc2"),
        ("output.LayerNorm", "norm2"),
    )

    def rename(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        renamed = {}
        for name, tensor in tensors.items():
            for old, new in names:
                name = name.replace(old, new)
            renamed[name] = tensor
        for name in [name for name in renamed if ".attention.self.query." in name]:
            parts = [renamed.pop(name.replace("query", part)) for part in ("query", "key", "value")]
            renamed[name.replace("attention.self.query", "mixer.Wqkv")] = torch.cat(parts)
        return renamed

    edit_weights(folder, rename)
    code = "jinaai/xlm-roberta-flash-implementation"
    auto = {
        "AutoConfig": f"{code}--configuration_xlm_roberta.XLMRobertaFlashConfig",
        "AutoModel": f"{code}--modeling_xlm_roberta.XLMRobertaModel",
        "AutoModelForSequenceClassification": f"{code}--modeling_xlm_roberta.XLMRobertaForSequenceClassification",
    }
    own = {"auto_map": auto, "emb_pooler": None, "load_trained_adapters": False, "lora_adaptations": None}
    own |= {"lora_alpha": 1, "lora_dropout_p": 0.0, "lora_main_params_trainable": False, "lora_rank": 4}
    own |= {"matryoshka_dimensions": None, "position_embedding_type": "absolute", "truncate_dim": None}
    own |= {"use_flash_attn": True, "use_reentrant": False}
    edit_json(folder / "config.json", lambda content: content.update(own))


def v4_activation(path: str) -> Edit:
    """What sentence-transformers 4 and 5 wrote."""
    return config(sentence_transformers={"activation_fn": path, "version": "4.1.0"})


def pair_template(*ends: dict[str, Any]) -> Edit:
    """Another layout for pairs in tokenizer.json."""

    def edit(folder: Path) -> None:
        edit_json(folder / "tokenizer.json", lambda content: content["post_processor"].update(pair=list(ends)))

    return edit


def template_in_tokenizer_config(template: str) -> Edit:
    return changed("tokenizer_config.json", chat_template=template)


def position_ids_in(prefix: str) -> Edit:
    def edit(folder: Path) -> None:
        edit_weights(folder, lambda tensors: {**tensors, f"{prefix}.embeddings.position_ids": torch.arange(64)[None]})

    return edit


def published_gte(folder: Path) -> None:
    """gte-multilingual-reranker's names, whose code lives in a repository of its own."""
    edits.published_gte_config(20000.0, 8.0)(folder)
    code = "Alibaba-NLP/new-impl--modeling.NewForSequenceClassification"
    config(architectures=["NewForSequenceClassification"], auto_map={"AutoModelForSequenceClassification": code})(
        folder
    )
    edits.renamed("gte.", "new.")(folder)


def quantized(bits: int, group_size: int = 32) -> Edit:
    """The weights as MLX rounds them; the packed ones wait in a folder of their own for `packed`."""

    def edit(folder: Path) -> None:
        python = os.environ.get("MLX_PYTHON", "python")
        subprocess.run(
            [python, str(QUANTIZE), str(folder), str(folder / PACKED), str(bits), str(group_size)], check=True
        )

    return edit


def packed(folder: Path) -> None:
    """The form that is shipped: packed weights, and config.json that says so."""
    for path in (folder / PACKED).iterdir():
        shutil.move(path, folder / path.name)
    (folder / PACKED).rmdir()
