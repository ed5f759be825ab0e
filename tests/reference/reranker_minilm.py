"""Logits of 1,000 pairs by all-MiniLM-L6-v2's real backbone and pooler under a classifier drawn from a seed.

    python reranker_minilm.py MODEL_FOLDER ../minilm_texts.json ../reference_minilm_reranker.npz

No published reranker's weights come with a Python package, so that this one is realistic in size and text, but not in
what its scores mean. The .npz holds no weights and no texts: with `SEED` and NumPy anyone can make the folder again.

| array | what |
|---|---|
| `pairs` | (1000, 2) int16: places of the first and the second text in minilm_texts.json |
| `logits` | (1000,) float32: before the activation, each pair alone |
| `tokens` | (1000,) int16: tokens of each pair after truncation to 512 |
| `versions` | JSON |

The folder is a copy of the package's `model` without sentence-transformers' files: `bert.` before each weight's name,
`classifier.weight` and `classifier.bias` of `make_head()` beside them, and in config.json `architectures`
BertForSequenceClassification, `id2label` {"0": "LABEL_0"}, `label2id` {"LABEL_0": 0}.
"""

import json
import logging
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import reranker_mistakes as mistakes
import sentence_transformers
import torch
import transformers
from case import edit_json, edit_weights
from reranker_reference import features, load, logits_of

log = logging.getLogger("reranker_minilm")
SEED = 20261129
PAIRS, LONG = 1000, 40
SHORT = 300  # characters
WIDTH = 384
LEFT_OUT = ("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json", "1_Pooling", "README.md")


def make_head() -> dict[str, np.ndarray]:
    """`classifier.weight` (1, 384) and `classifier.bias` (1,), float32, the first numbers of the seed."""
    generator = np.random.default_rng(SEED)
    weight = generator.standard_normal((1, WIDTH)).astype(np.float32) * np.float32(0.3)
    return {"classifier.weight": weight, "classifier.bias": generator.standard_normal(1).astype(np.float32)}


def make_folder(source: Path, folder: Path) -> None:
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns(*LEFT_OUT))
    head = {name: torch.from_numpy(values) for name, values in make_head().items()}
    edit_weights(folder, lambda tensors: {f"bert.{name}": tensor for name, tensor in tensors.items()} | head)
    facts = {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
    architecture = {"architectures": ["BertForSequenceClassification"]}
    edit_json(folder / "config.json", lambda config: config.update(architecture | facts))


def choose_pairs(texts: list[str]) -> np.ndarray:
    """(1000, 2) places, each pair once: 960 of short texts, 40 with a long one, so that a test is quick."""
    generator = np.random.default_rng(SEED + 1)
    places = np.stack(np.divmod(np.arange(len(texts) ** 2), len(texts)), axis=1).astype(np.int16)
    lengths = np.array([len(text) for text in texts])
    long = lengths[places].max(axis=1) > SHORT
    chosen = (generator.permutation(places[kind])[:count] for kind, count in ((~long, PAIRS - LONG), (long, LONG)))
    return np.concatenate(list(chosen))


def main(source: str, texts_file: str, output: str) -> None:
    texts = json.loads(Path(texts_file).read_text(encoding="utf-8"))
    places = choose_pairs(texts)
    pairs = [(texts[first], texts[second]) for first, second in places]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        make_folder(Path(source), folder)
        model = load(folder)
        assert (model.max_seq_length, model.num_labels) == (512, 1)
        logits = logits_of(model, pairs)
        tokens = np.array([features(model, pair)["input_ids"].shape[1] for pair in pairs], dtype=np.int16)
        again = logits_of(load(folder).double(), pairs[:100])
        mistaken = load(folder)
        mistakes.no_token_types(mistaken)
        moved = np.abs(logits_of(mistaken, pairs[:100]) - logits[:100]).max()
    assert moved > 1e-2, f"token types do not show: {moved}"
    assert np.abs(again - logits[:100]).max() < 4e-6 * max(1, np.abs(logits).max()), "badly conditioned"
    packages = (sentence_transformers, transformers, torch)
    versions = json.dumps({package.__name__: package.__version__ for package in packages})
    np.savez_compressed(output, pairs=places, logits=logits, tokens=tokens, versions=np.array(versions))
    spread = f"{logits.min():.3f} … {logits.max():.3f}, deviation {logits.std():.3f}"
    log.info("%d pairs of %d to %d tokens, logits %s", len(pairs), tokens.min(), tokens.max(), spread)
    log.info("without token types they move by %.3f", moved)


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s")
    log.setLevel(logging.INFO)
    main(*sys.argv[1:])
