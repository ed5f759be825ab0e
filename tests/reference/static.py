"""Static models (a vector a token, no transformer) in sentence-transformers' and model2vec's layouts."""
# ruff: noqa: E501 -- a case a row reads as a table.

import shutil
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from case import NEW_MODULES, OLD_MODULES, write_json
from edits import truncate_and_pad_in_tokenizer_json
from model2vec import StaticModel
from safetensors.numpy import save_file
from sentence_transformers import SentenceTransformer
from tiny_tokenizers import make_unigram, make_wordpiece
from tokenizers import Tokenizer

from corpus import PARAGRAPHS, TEXT
from reference import SHORT_TEXTS, cosine

NEW_STATIC = "sentence_transformers.sentence_transformer.modules.static_embedding"
DIMENSION = 32
CLUSTERS = 60


@dataclass(frozen=True)
class StaticCase:
    """A tiny static checkpoint; where it has no modules.json, the reference is model2vec."""

    name: str
    checks: str
    tokenizer: Callable[[], Tokenizer] = make_wordpiece
    folder: str = ""  # where the weights and the tokenizer lie
    modules: str | None = OLD_MODULES  # "" for the new paths, None for no modules.json
    tensor: str = "embedding.weight"  # or model2vec's "embeddings"
    normalize: bool = True
    clustered: bool = False  # model2vec's vocabulary quantisation: fewer rows, a mapping and a weight for each token
    dtype: str = "float32"
    prompts: Mapping[str, str] = field(default_factory=dict)
    model2vec_config: Mapping[str, Any] | None = None
    prepare: Callable[[Path], None] | None = None


POTION = {
    "model_type": "model2vec",
    "architectures": ["StaticModel"],
    "tokenizer_name": "baai/bge-base-en-v1.5",
    "apply_pca": DIMENSION,
    "apply_zipf": True,
    "hidden_dim": DIMENSION,
    "seq_length": 1000000,
}

CASES = (
    StaticCase("static-subfolder", "0_StaticEmbedding/, no special tokens although the tokenizer adds them, unnormalised",
               folder="0_StaticEmbedding", normalize=False),
    StaticCase("static-root", "the root folder, normalised, prompts, float16", modules="", dtype="float16",
               prompts={"query": "query: ", "document": "passage text: "}),
    StaticCase("static-truncated", "tokenizer.json's own truncation to 16 holds, its padding does not", tokenizer=make_unigram,
               prepare=truncate_and_pad_in_tokenizer_json),
    StaticCase("potion", "model2vec's files with modules.json: unknown tokens count, nothing is cut", tensor="embeddings",
               model2vec_config=POTION | {"normalize": True}),
    StaticCase("potion-clustered", "mapping and weights for each token, float16 rows", tensor="embeddings", clustered=True, dtype="float16",
               model2vec_config=POTION | {"normalize": True}),
    StaticCase("model2vec", "no modules.json: unknown tokens are dropped, 48 tokens at most", tensor="embeddings", modules=None,
               model2vec_config=POTION | {"normalize": True, "max_length": 48}),
    StaticCase("model2vec-unnormalised", "normalize false, mapping and weights, 512 tokens where nothing is said", tensor="embeddings",
               modules=None, clustered=True, model2vec_config=POTION | {"normalize": False}, tokenizer=make_unigram),
)  # fmt: skip


def make(case: StaticCase, target: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Write the checkpoint to `target`; gives the reference's vectors and the facts for reference.json."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    tokenizer = case.tokenizer()
    write(case, target, tokenizer)
    if case.prepare:
        case.prepare(target)
    long_texts = {"paragraph": PARAGRAPHS[0], "long": TEXT, "very long": f"{TEXT} {TEXT} 東京 {TEXT}"}
    texts = SHORT_TEXTS | long_texts
    rows = list(texts.values())
    vectors = model2vec_vectors(target, rows) if case.modules is None else vectors_of(case, target, rows)
    check(vectors["embeddings"], texts)
    used = Tokenizer.from_file(str(target / case.folder / "tokenizer.json"))
    used.no_padding()
    ids = [encoding.ids for encoding in used.encode_batch(rows, add_special_tokens=False)]
    return vectors, {
        "case": case.name,
        "family": "static",
        "checks": case.checks,
        "reference": "model2vec" if case.modules is None else "sentence-transformers",
        "stored_dtype": case.dtype,
        "labels": list(texts),
        "texts": rows,
        "token_ids_before_any_limit": ids,
        "texts_without_tokens": [text for text, row in zip(rows, ids, strict=True) if not row],
    }


def write(case: StaticCase, target: Path, tokenizer: Tokenizer) -> None:
    random = np.random.default_rng(zlib.crc32(case.name.encode()))
    size = tokenizer.get_vocab_size()
    rows = CLUSTERS if case.clustered else size
    tensors = {case.tensor: random.standard_normal((rows, DIMENSION)).astype(case.dtype)}
    if case.clustered:
        tensors["mapping"] = random.integers(0, rows, size)
        tensors["weights"] = random.uniform(0.2, 3.0, size).astype(np.float32)
    home = target / case.folder
    home.mkdir(exist_ok=True)
    save_file(tensors, home / "model.safetensors")
    tokenizer.save(str(home / "tokenizer.json"), pretty=False)
    if case.model2vec_config:
        write_json(target / "config.json", {**case.model2vec_config, "embedding_dtype": case.dtype})
    if case.modules is not None:
        write_modules(case, target)


def write_modules(case: StaticCase, target: Path) -> None:
    new = not case.modules
    static_package = NEW_STATIC if new else OLD_MODULES
    where = "." if case.model2vec_config else case.folder
    rows = [{"idx": 0, "name": "0", "path": where, "type": f"{static_package}.StaticEmbedding"}]
    if case.normalize:
        package = NEW_MODULES["Normalize"] if new else OLD_MODULES
        rows.append({"idx": 1, "name": "1", "path": "1_Normalize", "type": f"{package}.Normalize"})
    write_json(target / "modules.json", rows)
    if not case.model2vec_config:  # model2vec writes no such file
        facts = {"prompts": dict(case.prompts), "default_prompt_name": None, "similarity_fn_name": "cosine"}
        write_json(target / "config_sentence_transformers.json", facts)


def vectors_of(case: StaticCase, target: Path, texts: list[str]) -> dict[str, np.ndarray]:
    """sentence-transformers' vectors in float32; beside them model2vec's, where it reads the files."""
    model = SentenceTransformer(str(target), device="cpu").float()
    vectors = {"embeddings": model.encode(texts, batch_size=1)}
    assert np.abs(model.encode(texts, batch_size=len(texts)) - vectors["embeddings"]).max() < 1e-6
    if case.prompts:
        vectors |= {"query": model.encode_query(texts), "document": model.encode_document(texts)}
    if case.model2vec_config:
        vectors["model2vec"] = model2vec_vectors(target, texts)["embeddings"]
    return vectors


def model2vec_vectors(target: Path, texts: list[str]) -> dict[str, np.ndarray]:
    model = StaticModel.from_pretrained(target)
    model.embedding = model.embedding.astype(np.float32)
    return {"embeddings": model.encode(texts).astype(np.float32)}


def check(embeddings: np.ndarray, texts: Mapping[str, str]) -> None:
    assert np.isfinite(embeddings).all()
    assert not embeddings[list(texts).index("empty")].any()  # no token: zeros, even normalised
    cosines = cosine(embeddings[1:])[np.triu_indices(len(texts) - 1, 1)]
    assert np.median(cosines) < 0.9, np.median(cosines)
