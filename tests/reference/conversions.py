"""Edits that make an mlx-community conversion of a folder: 4 bits, no sidecars; MLX_PYTHON has MLX, which packs."""

import shutil

from case import edit_weights
from edits import add_prefix
from reranker_edits import PACKED, packed, quantized
from safetensors.torch import load_file


def pack_with_dense(folder):
    """4 bits in groups of 32, the Dense layers too; what the reference reads is unpacked."""
    for part in (folder, *sorted(folder.glob("*_Dense"))):
        quantized(4, 32)(part)


def mlx_community(base, *, dense=False):
    """An mlx-community conversion of a family's model: packed, `model.` keys, a README, no sidecars."""

    def edit(folder):
        layers = [load_file(part / PACKED / "model.safetensors") for part in sorted(folder.glob("*_Dense")) if dense]
        packed(folder)
        folded = {
            name.replace("linear", f"dense.{index}"): tensor
            for index, layer in enumerate(layers)
            for name, tensor in layer.items()
        }
        add_prefix("model.")(folder)
        edit_weights(folder, lambda tensors: tensors | folded)
        for path in list(folder.glob("[1-9]_*")):
            shutil.rmtree(path)
        for name in ("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"):
            (folder / name).unlink()
        (folder / "README.md").write_text(f"---\nbase_model: {base}\nlibrary_name: mlx\n---\n", encoding="utf-8")

    return edit
