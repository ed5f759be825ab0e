"""Make BGE-M3's further heads for a tiny checkpoint, and what its published formulas give with them.

    python generate_hybrid.py

sentence-transformers has no class for these, so the reference is written here from the paper (Chen et al. 2024, section
3.2) and from what the published heads are: linear layers over the last hidden states. Needs torch and transformers.
"""

import json
import os
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

import numpy as np
import torch
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer

HERE = Path(__file__).parent
BASE, WIDTH, DIMENSION, SEED = HERE / "xlm-roberta-cls", 32, 24, 14


def main() -> None:
    torch.manual_seed(SEED)
    sparse, multi = torch.nn.Linear(WIDTH, 1), torch.nn.Linear(WIDTH, DIMENSION)
    for layer in (sparse, multi):
        torch.nn.init.normal_(layer.weight, std=0.4)
    folder = HERE / "hybrid"
    folder.mkdir(exist_ok=True)
    for layer, name in ((sparse, "sparse_linear"), (multi, "colbert_linear")):
        torch.save(layer.state_dict(), folder / f"{name}.pt")
        save_file(layer.state_dict(), folder / f"{name}.safetensors")
    model = SentenceTransformer(str(BASE), device="cpu")
    texts = json.loads((BASE / "reference.json").read_text(encoding="utf-8"))["texts"]
    specials = {model.tokenizer.convert_tokens_to_ids(token) for token in ("<s>", "</s>", "<pad>", "<unk>")}
    arrays = {"dense": model.encode(texts)}
    for place, text in enumerate(texts):
        tokens = model.tokenize([text])
        with torch.no_grad():
            hidden = model[0].model(tokens["input_ids"], tokens["attention_mask"]).last_hidden_state[0]
            weights = torch.relu(sparse(hidden))[:, 0]
            vectors = torch.nn.functional.normalize(multi(hidden[1:]), dim=-1)
        entries: dict[int, float] = {}
        for token, weight in zip(tokens["input_ids"][0].tolist(), weights.tolist(), strict=True):
            if token not in specials and weight > entries.get(token, 0.0):
                entries[token] = weight
        arrays[f"indices{place}"] = np.array(sorted(entries), np.int32)
        arrays[f"values{place}"] = np.array([entries[token] for token in sorted(entries)], np.float32)
        arrays[f"vectors{place}"] = vectors.numpy()
    np.savez_compressed(folder / "expected.npz", **arrays)


if __name__ == "__main__":
    main()
