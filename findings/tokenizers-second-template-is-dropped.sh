#!/usr/bin/env bash
# tokenizers 0.23.3: processors.Sequence of two TemplateProcessing, one for the token before a text, one for that after it.
# Guess: post-processors of a sequence are applied one after the other, so both tokens are added.
# What happens: only the first template's token is added, in either order, without a word; yet
#   num_special_tokens_to_add counts both, so that a truncated text also loses a token for the one that is not there.
#   A ByteLevel processor before the template is applied as expected.
# Whom it hits: who adds an end token to a decoder's tokenizer for last-token pooling by wrapping the post-processor that
#   it has: the vectors are those of another token.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" -q install --disable-pip-version-check tokenizers==0.23.3
"$folder/venv/bin/python" - <<'PY'
from tokenizers import Tokenizer, models, pre_tokenizers, processors

tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 1, "c": 2, "<s>": 3, "</s>": 4}, unk_token="a"))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
before = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 3)])
after = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 4)])
seen = {}
for name, parts in {
    "before, after": [before, after],
    "after, before": [after, before],
    "byte level, after": [processors.ByteLevel(), after],
}.items():
    tokenizer.no_truncation()
    tokenizer.post_processor = processors.Sequence(parts)
    whole = tokenizer.encode("a b c").tokens
    tokenizer.enable_truncation(4)
    seen[name] = whole, tokenizer.num_special_tokens_to_add(False), tokenizer.encode("a b c").tokens
    print(f"{name}: {whole}, counted {seen[name][1]}, truncated to 4: {seen[name][2]}")
assert seen["before, after"] == (["<s>", "a", "b", "c"], 2, ["<s>", "a", "b"])
assert seen["after, before"] == (["a", "b", "c", "</s>"], 2, ["a", "b", "</s>"])
assert seen["byte level, after"] == (["a", "b", "c", "</s>"], 1, ["a", "b", "c", "</s>"])
PY
