#!/usr/bin/env bash
# transformers 5.24.0 (torch 2.13.0): a model whose rotary positions are of type "dynamic" (NTK by length), one text per
#   call, no padding.
# Guess: the base grows with the length of the text at hand beyond max_position_embeddings, and is the plain one up to
#   it; so a text's vector is the same whatever was computed before.
# What happens: the base of the longest text so far stays in force for every later text that is at least as long as
#   max_position_embeddings, that length itself included; only a shorter text sets it back. The same text of 64 or 80
#   tokens (64 positions trained) has another vector after one of 400 tokens, and its first one again after one of 10.
# Whom it hits: indexes and evaluations made with such models: vectors depend on the order of the texts, and on who else
#   uses the process. A fresh process, or a short text before each long one, gives the vectors that the paper means.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export HF_HUB_OFFLINE=1
cat > compare.py <<'PY'
import torch
import transformers
from transformers import LlamaConfig, LlamaModel

torch.manual_seed(0)
sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}
config = LlamaConfig(
    vocab_size=64, max_position_embeddings=64, num_key_value_heads=4, initializer_range=0.4, rope_parameters=rope, **sizes
)
model = LlamaModel(config).eval()


def vector(length):
    with torch.no_grad():
        row = model((torch.arange(length) % 60)[None]).last_hidden_state[0].mean(0)
    return row / row.norm()


first = {length: vector(length) for length in (64, 80)}
vector(400)
after = {length: vector(length) for length in (64, 80)}
vector(10)
again = {length: vector(length) for length in (80,)}
print("transformers", transformers.__version__)
for name, rows in (("after 400 tokens", after), ("after 400, then 10", again)):
    for length, row in rows.items():
        print(f"{length} tokens, {name}: cosine with the first {float(row @ first[length]):.3f}")
PY
python3 -m venv venv
venv/bin/pip -q install --disable-pip-version-check transformers==5.24.0 torch==2.13.0 2> err || { cat err; exit 1; }
venv/bin/python compare.py 2> err | tee seen || { cat err; exit 1; }
cosine() { sed -n "s/^$1: cosine with the first //p" seen; }
less() { awk -v a="$1" -v b="$2" 'BEGIN { exit !(a < b) }'; }
less "$(cosine "64 tokens, after 400 tokens")" 0.95
less "$(cosine "80 tokens, after 400 tokens")" 0.95
less 0.9999 "$(cosine "80 tokens, after 400, then 10")"
