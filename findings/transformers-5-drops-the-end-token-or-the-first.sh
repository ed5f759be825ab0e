#!/usr/bin/env bash
# transformers 5.24.0 (tokenizers 0.23.3) beside 4.57.6: "add_eos_token": true in tokenizer_config.json (beside
#   "add_bos_token": true), with a tokenizer.json whose template adds only <s>; LlamaTokenizer, GemmaTokenizer.
# Guess: both versions frame a text as <s> … </s>; if version 5 no longer reads the file's key, then the same key as an
#   argument of from_pretrained still adds </s> to the frame that there is.
# What happens: version 5 does not read the key beside tokenizer.json: no </s>, `add_eos_token` is False, no warning. As an
#   argument it makes the frame anew: </s> comes and <s> goes, though the file says add_bos_token: true. Only both
#   arguments together give version 4's ids.
# Whom it hits: last-token embedders on Llama, Mistral and Gemma (E5-Mistral's way of writing it): the vector is read from
#   the text's last piece instead of </s>; and who mends that by the obvious argument has no <s> any more.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export HF_HUB_OFFLINE=1
cat > make.py <<'PY'
import json, os
from tokenizers import Tokenizer, models, normalizers, processors

merges = [("▁", "t"), ("▁t", "e"), ("▁te", "a")]
vocabulary = {piece: number for number, piece in enumerate("<unk> <s> </s> ▁ t e a ▁t ▁te ▁tea".split())}
tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
said = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "add_bos_token": True, "add_eos_token": True}
for kind in ("Llama", "Gemma"):
    os.mkdir(kind)
    tokenizer.save(f"{kind}/tokenizer.json")
    json.dump({"model_type": kind.lower()}, open(f"{kind}/config.json", "w"))
    json.dump({"tokenizer_class": f"{kind}Tokenizer", **said}, open(f"{kind}/tokenizer_config.json", "w"))
PY
cat > frames.py <<'PY'
import transformers

for kind in ("Llama", "Gemma"):
    for asked in ({}, {"add_eos_token": True}, {"add_bos_token": True, "add_eos_token": True}):
        tokenizer = transformers.AutoTokenizer.from_pretrained(kind, **asked)
        pieces = tokenizer.convert_ids_to_tokens(tokenizer("tea").input_ids)
        print(transformers.__version__, kind, "+".join(asked) or "file", *pieces)
PY
for version in 4.57.6 5.24.0; do
    python3 -m venv "venv-$version"
    "venv-$version/bin/pip" -q install --disable-pip-version-check "transformers==$version"
    [ -d Llama ] || "venv-$version/bin/python" make.py
    "venv-$version/bin/python" frames.py 2> err | tee -a seen || { cat err; exit 1; }
done
for kind in Llama Gemma; do
    grep -qx "4.57.6 $kind file <s> .* </s>" seen
    grep -qx "4.57.6 $kind add_eos_token <s> .* </s>" seen
    grep -qx "5.24.0 $kind file <s> .*[^>]" seen
    grep -qx "5.24.0 $kind add_eos_token [^<].* </s>" seen
    grep -qx "5.24.0 $kind add_bos_token+add_eos_token <s> .* </s>" seen
done
