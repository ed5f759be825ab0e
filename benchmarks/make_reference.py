"""Make the file that `akidb-mlx doctor MODEL --reference FILE.npz` compares with, using sentence-transformers.

    python benchmarks/make_reference.py Qwen/Qwen3-Embedding-0.6B qwen3.npz [--texts FILE] [--trust-remote-code]

Run it where sentence-transformers and torch are installed (akidb-mlx need not be). The file holds `texts`,
`embeddings` (encode), `query` (encode_query) and `document` (encode_document, with the passage prompt where there is
no document prompt), float32, computed in float32 on the CPU, each text alone, and the versions. FILE has one text
a line.
"""

import argparse
import json
from pathlib import Path

import numpy as np

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a Hub id or a folder")
    parser.add_argument("output", type=Path, help="the .npz file to write")
    parser.add_argument("--texts", type=Path, metavar="FILE", help="one text a line, in place of the built-in ones")
    parser.add_argument("--trust-remote-code", action="store_true", help="run the checkpoint's own code")
    args = parser.parse_args()

    import sentence_transformers
    import torch
    import transformers

    texts = args.texts.read_text(encoding="utf-8").splitlines() if args.texts else list(TEXTS)
    model = sentence_transformers.SentenceTransformer(
        args.model,
        device="cpu",
        trust_remote_code=args.trust_remote_code,
        model_kwargs={"dtype": torch.float32},
    ).float()
    alone = {"batch_size": 1, "convert_to_numpy": True}
    # akidb-mlx takes the passage prompt where there is no document prompt; sentence-transformers takes none.
    prompt_name = next((name for name in ("document", "passage", "corpus") if model.prompts.get(name)), None)
    packages = (sentence_transformers, transformers, torch)
    np.savez_compressed(
        args.output,
        texts=np.array(texts),
        embeddings=model.encode(texts, **alone).astype(np.float32),
        query=model.encode_query(texts, **alone).astype(np.float32),
        document=model.encode(texts, prompt_name=prompt_name or "document", **alone).astype(np.float32),
        made_with=np.array(json.dumps({package.__name__: package.__version__ for package in packages})),
    )
    print(f"{args.output}: {len(texts)} texts, {model.get_embedding_dimension()} dimensions")


if __name__ == "__main__":
    main()
