"""Make the file that `akidb-mlx doctor MODEL --reference FILE.npz` compares with, using sentence-transformers.

    python -m akidb_mlx.make_reference Qwen/Qwen3-Embedding-0.6B qwen3.npz [--texts FILE] [--trust-remote-code]

It needs sentence-transformers and torch, which akidb-mlx never installs. Where they are but akidb-mlx is not, a copy of
this file runs alone.

Of n texts the file holds, as a compressed .npz: `texts` (n), `tokens` (n, how many the model reads of each, without a
prompt; left out for static models), `embeddings` (encode), `query` (encode_query) and `document` (encode_document, with
the passage prompt where there is no document prompt), each (n, dimension) float32, computed in float32 on the CPU, each
text alone; and `made_with`, the versions as JSON.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["main", "make_reference"]

TEXTS = (
    "The cat sits on the mat",
    "A feline rests on the carpet",
    "Dogs are loyal animals",
    "The weather is sunny today",
    "What is the capital of China?",
    "The capital of China is Beijing.",
    "Explain gravity",
    "Gravity is a force that attracts two bodies towards each other. It gives weight to physical objects.",
    "Wie komme ich zum Bahnhof?",
    "東京の天気は晴れです。",
    "def add(a, b):\n    return a + b",
    "a",
    "A sentence that goes on and on until it is longer than most models read. " * 60,
)


def make_reference(model_name: str, texts: list[str], *, trust_remote_code: bool = False) -> dict[str, Any]:
    """What the file holds, by name; `model_name` is a Hub id or a folder."""
    import sentence_transformers
    import torch
    import transformers

    model = sentence_transformers.SentenceTransformer(
        model_name, device="cpu", trust_remote_code=trust_remote_code, model_kwargs={"dtype": torch.float32}
    ).float()
    alone = {"batch_size": 1, "convert_to_numpy": True}
    # akidb-mlx takes the passage prompt where there is no document prompt; sentence-transformers takes none.
    prompt_name = next((name for name in ("document", "passage", "corpus") if model.prompts.get(name)), "document")
    packages = (sentence_transformers, transformers, torch)
    content = {
        "texts": np.array(texts),
        "embeddings": model.encode(texts, **alone).astype(np.float32),
        "query": model.encode_query(texts, **alone).astype(np.float32),
        "document": model.encode(texts, prompt_name=prompt_name, **alone).astype(np.float32),
        "made_with": np.array(json.dumps({package.__name__: package.__version__ for package in packages})),
    }
    tokenize = getattr(model, "preprocess", None) or model.tokenize  # its name before version 6
    masks = [tokenize([text]).get("attention_mask") for text in texts]
    if all(mask is not None for mask in masks):
        content["tokens"] = np.array([int(mask.sum()) for mask in masks])
    return content


def read_texts(file: Path) -> list[str]:
    """A list of strings from a .json file, else the lines of a file."""
    content = file.read_text(encoding="utf-8")
    return list(json.loads(content)) if file.suffix == ".json" else content.splitlines()


def main(arguments: list[str] | None = None) -> int:
    """The command; 2 where sentence-transformers is missing."""
    parser = argparse.ArgumentParser(
        prog="python -m akidb_mlx.make_reference", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("model", help="a Hub id or a folder")
    parser.add_argument("output", type=Path, help="the .npz file to write")
    parser.add_argument("--texts", type=Path, metavar="FILE", help="a text per line, or a list in .json; else our own")
    parser.add_argument("--trust-remote-code", action="store_true", help="run the checkpoint's own code")
    args = parser.parse_args(arguments)
    texts = read_texts(args.texts) if args.texts else list(TEXTS)
    model = str(Path(args.model).expanduser()) if args.model.startswith("~") else args.model
    try:
        content = make_reference(model, texts, trust_remote_code=args.trust_remote_code)
    except ModuleNotFoundError as error:
        sys.stderr.write(f"{error}; a reference needs it: pip install sentence-transformers\n")
        return 2
    np.savez_compressed(args.output, **content)
    sys.stdout.write(f"{args.output}: {len(texts)} texts, {content['embeddings'].shape[1]} dimensions\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
