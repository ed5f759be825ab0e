#!/usr/bin/env bash
# sentence-transformers 6.2.0 (torch 2.13.0, CPU): rows of quantize_embeddings(precision="int8") in util.dot_score,
#   util.semantic_search(score_function=util.dot_score) and util.pairwise_dot_score.
# Guess: int8 rows are scored as integers wide enough, or refused, as cos_sim refuses them ("Expected a floating point …").
# What happens: products and sums of dot_score are int8 themselves, so a score is the right one modulo 256, between -128 and
#   127. Of 1,000 rows the search finds hardly any by itself, though each is its own nearest; as float32 the same numbers
#   find all. pairwise_dot_score wraps its products alone and sums them as int64: another wrong number. No error, no warning.
# Whom it hits: who makes an index a quarter as large by the library's own function and keeps the dot product, which the
#   model's card names: results look random, and scores within 127 look plausible.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" -q install --disable-pip-version-check torch==2.13.0
"$folder/venv/bin/pip" -q install --disable-pip-version-check sentence-transformers==6.2.0 transformers==5.24.0
"$folder/venv/bin/python" - <<'PY'
import numpy as np
from sentence_transformers import util

rows = np.random.default_rng(0).normal(size=(1000, 384)).astype(np.float32)
rows /= np.linalg.norm(rows, axis=1, keepdims=True)
small = util.quantize_embeddings(rows, precision="int8", calibration_embeddings=rows)
floats = small.astype(np.float32)


def found(queries, corpus):
    hits = util.semantic_search(queries, corpus, score_function=util.dot_score, top_k=1)
    return sum(hit[0]["corpus_id"] == place for place, hit in enumerate(hits))


itself, right = found(small[:200], small), found(floats[:200], floats)
scores = util.dot_score(small[:3], small[:3])
exact = small[:3].astype(np.int64) @ small[:3].astype(np.int64).T
pairs = util.pairwise_dot_score(small[:3], small[:3])
print(f"of 200 rows found by themselves: {itself} as int8, {right} as float32 of the same numbers")
print(f"dot_score: {scores.dtype} {scores.diagonal().tolist()}; exact: {exact.diagonal().tolist()}")
print(f"pairwise_dot_score: {pairs.dtype} {pairs.tolist()}")
assert right == 200 and itself < 20
assert ((scores.numpy().astype(np.int64) - exact) % 256 == 0).all()
assert (np.abs(pairs.numpy()) < exact.diagonal() / 10).all()
try:
    util.cos_sim(small, small)
except RuntimeError as error:
    print("cos_sim:", str(error).splitlines()[0])
else:
    raise AssertionError("cos_sim takes int8 now")
PY
