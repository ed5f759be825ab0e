"""Probes of a loaded model: does it behave as an embedder must, and does it give a reference's vectors?"""

import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from akidb_mlx.doctor.findings import Finding, Outcome, judge_float32
from akidb_mlx.doctor.limits import LIMITS
from akidb_mlx.embedder import Embedder
from akidb_mlx.errors import ConfigError
from akidb_mlx.pipeline.loaded_model import measure_float32
from akidb_mlx.vectors import Embeddings, finish

__all__ = ["examine"]

TEXTS = (
    "The cat sits on the mat",
    "A feline rests on the carpet",
    "The weather is sunny today",
    "Interest rates rose for the third time this year, and house prices fell in most cities.",
    "Wie komme ich zum Bahnhof?",
    "a",
)
QUESTION, ANSWER, OTHER_ANSWER = (
    "What is the capital of China?",
    "The capital of China is Beijing.",
    "Gravity is a force that attracts two bodies towards each other.",
)
# Least cosine with a reference's vectors.
_LEAST_COSINES = {"float32": 0.99999, "float16": 0.999, "bfloat16": 0.99}
_LEAST_COSINE_QUANTIZED = 0.9
# A limit beyond is tried at this length: attention over 32,768 tokens takes minutes on a CPU.
_LONGEST_TRIED = {"cpu": 2048, "metal": 8192, "cuda": 8192}


def examine(embedder: Embedder, reference: Path | None = None) -> Iterator[Finding]:
    """Probe by probe; a failed one does not stop the others.

    `reference` is a file of make_reference.py.
    """
    for name, probe in _PROBES.items():
        try:
            yield Finding(name, *probe(embedder))
        except Exception as error:
            yield Finding(name, False, f"{type(error).__name__}: {error}")
    if reference is not None:
        yield from _compare(embedder, reference)


def _terminator(embedder: Embedder) -> Outcome:
    """Last-token pooling needs an end token, also on texts that are cut; cls pooling a first one."""
    pooling = embedder._loaded.recipe.pooling
    texts = [*TEXTS, _long_text(embedder, embedder.max_seq_length or 64)]
    token_ids = [encoding.token_ids for encoding in embedder._path.encoder.encode(texts, "").encodings]
    outcomes = []
    for mode, place, what in (("last_token", -1, "end"), ("cls", 0, "begin")):
        if mode in pooling:
            found = {int(ids[place]) for ids in token_ids}
            same = len(found) == 1
            good = f"all texts {what} with token {min(found)}, also when they are cut"
            outcomes.append((same, good if same else f"texts {what} with different tokens: {mode} pooling needs one"))
    if not outcomes:
        return None, f"{'+'.join(pooling)} pooling needs none"
    return all(passed for passed, _ in outcomes), "; ".join(detail for _, detail in outcomes)


def _precision(embedder: Embedder) -> Outcome:
    dtype = embedder.info()["dtype"]
    if dtype != "float32":
        return None, f"computed in {dtype}"
    return judge_float32(measure_float32(embedder._loaded.recipe.device))


def _batch(embedder: Embedder) -> Outcome:
    alone = np.concatenate([embedder.encode([text]) for text in TEXTS])
    return _equal(embedder, embedder.encode(TEXTS), alone, "together and alone")


def _order(embedder: Embedder) -> Outcome:
    return _equal(embedder, embedder.encode(TEXTS), embedder.encode(TEXTS[::-1])[::-1], "in both orders")


def _padding(embedder: Embedder) -> Outcome:
    padded = embedder.encode([TEXTS[-1], _long_text(embedder, 256)])[:1]
    return _equal(embedder, padded, embedder.encode([TEXTS[-1]]), "beside a long text and alone")


def _limit(embedder: Embedder) -> Outcome:
    limit, kind = embedder.max_seq_length, embedder._loaded.recipe.device.kind
    tried = min(limit or 512, _LONGEST_TRIED[kind])
    text = _long_text(embedder, tried)
    texts = [text, f"{text} {text}"] if tried == limit else [text]
    rows = embedder.encode(texts)
    finite = bool(np.isfinite(rows).all() and np.abs(rows).sum(axis=1).all())
    stated = "no limit" if limit is None else f"limit {limit}"
    return finite, f"{tried} tokens ({stated}): {'finite' if finite else 'not finite, or all zero'}"


def _prompts(embedder: Embedder) -> Outcome:
    query, document = embedder._prompts.query, embedder._prompts.document
    if query == document:
        return None, "queries and documents have the same prompt" if query else "no prompts"
    difference = float(np.abs(embedder.encode_query(TEXTS) - embedder.encode_document(TEXTS)).max())
    return difference > 1e-3, f"query {query!r} and document {document!r} differ by {difference:.2g}"


def _similarity(embedder: Embedder) -> Outcome:
    rows = embedder.encode(TEXTS[:3])
    similar, different = _cosine(rows[0], rows[1]), _cosine(rows[0], rows[2])
    detail = f"cat/feline {similar:.4f}, cat/weather {different:.4f}"
    return similar > different, detail


def _retrieval(embedder: Embedder) -> Outcome:
    query = embedder.encode_query([QUESTION])[0]
    rows = embedder.encode_document([ANSWER, OTHER_ANSWER])
    right, wrong = _cosine(query, rows[0]), _cosine(query, rows[1])
    return right > wrong, f"question/answer {right:.4f}, question/other answer {wrong:.4f}"


def _shape(embedder: Embedder) -> Outcome:
    rows = embedder.encode(TEXTS)
    if rows.shape != (len(TEXTS), embedder.dimension) or rows.dtype != np.float32:
        return False, f"{rows.shape} {rows.dtype} instead of ({len(TEXTS)}, {embedder.dimension}) float32"
    lengths = np.linalg.norm(rows, axis=1)
    if embedder._normalize and not np.abs(lengths - 1).max() <= 1e-5:  # so that NaN fails
        return False, f"lengths from {lengths.min():.6f} to {lengths.max():.6f} instead of 1"
    return True, f"{embedder.dimension} numbers{', unit length' if embedder._normalize else ', not normalised'}"


_PROBES: dict[str, Callable[[Embedder], Outcome]] = {
    "shape and length": _shape,
    "precision of float32": _precision,
    "terminator": _terminator,
    "batch = single": _batch,
    "order": _order,
    "padding": _padding,
    "at the length limit": _limit,
    "query ≠ document": _prompts,
    "similar above different": _similarity,
    "answer above other": _retrieval,
}


def _compare(embedder: Embedder, file: Path) -> Iterator[Finding]:
    """Cosines with a reference's vectors; the file says for which texts."""
    try:
        with np.load(file, allow_pickle=False) as content:
            reference = dict(content)
        texts = [str(text) for text in reference.pop("texts")]
        made_with = json.loads(str(reference.pop("made_with", "{}")))
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise ConfigError(
            f"{file} is no reference file ({error!r}); make one with python -m akidb_mlx.make_reference"
        ) from None
    encoders = {
        "embeddings": embedder.encode,
        "query": embedder.encode_query,
        "document": embedder.encode_document,
    }
    if "tokens" in reference:
        yield Finding("reference: tokens", *_as_many(embedder.count_tokens(texts), reference["tokens"].tolist()))
    about = ", ".join(f"{name} {version}" for name, version in made_with.items())
    for name, encode in encoders.items():
        if name in reference:
            passed, detail = _against(embedder, encode(texts), reference[name].astype(np.float32))
            yield Finding(f"reference: {name}", passed, f"{detail}{f' ({about})' if about else ''}")


def _as_many(ours: list[int], theirs: list[int]) -> Outcome:
    different = [place for place, pair in enumerate(zip(ours, theirs, strict=True)) if pair[0] != pair[1]]
    if not different:
        return True, f"as many in each of {len(ours)} texts"
    first = different[0]
    return False, f"{len(different)} texts differ: text {first} has {ours[first]}, the reference's has {theirs[first]}"


def _against(embedder: Embedder, ours: Embeddings, theirs: Embeddings) -> Outcome:
    if ours.shape != theirs.shape:
        return False, f"the reference has shape {theirs.shape}, this model gives {ours.shape}"
    cosines = np.array([_cosine(a, b) for a, b in zip(ours, theirs, strict=True)])
    info = embedder.info()
    least = _LEAST_COSINE_QUANTIZED if info["quantization"] else _LEAST_COSINES[info["dtype"]]
    worst = int(cosines.argmin())
    return (
        bool(cosines[worst] >= least),
        f"least cosine {cosines[worst]:.6f} (text {worst}; at least {least} wanted), "
        f"largest difference {np.abs(ours - theirs).max():.2g}",
    )


def _equal(embedder: Embedder, a: Embeddings, b: Embeddings, how: str) -> Outcome:
    difference = float(np.abs(_unit(a) - _unit(b)).max())
    tolerance = LIMITS[embedder.info()["dtype"]].rows
    return difference <= tolerance, f"{how} they differ by {difference:.2g} (at most {tolerance:g})"


def _unit(rows: Embeddings) -> Embeddings:
    return finish(rows, rows.shape[1], normalize=True)


def _cosine(a: Embeddings, b: Embeddings) -> float:
    return float(_unit(a[None])[0] @ _unit(b[None])[0])


def _long_text(embedder: Embedder, tokens: int) -> str:
    """A text of at least `tokens` tokens before any limit: each repetition has one at least."""
    return " ".join([TEXTS[3]] * (tokens // 8 + 1))
