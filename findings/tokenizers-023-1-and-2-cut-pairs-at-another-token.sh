#!/usr/bin/env bash
# tokenizers 0.22.2, 0.23.1, 0.23.2, 0.23.3: a pair of texts cut by longest_first to an odd number of tokens.
# Guess: which text keeps the odd token is the same in all of them; releases of one minor version cut alike.
# What happens: where both texts are longer than half of what is left and the first is the longer one, it keeps the odd
#   token in 0.22.2 and 0.23.3; in 0.23.1 and 0.23.2 the second text does. Of pairs with the longer text second, or equal
#   ones, nothing changed, and batches are cut as single pairs are.
# Whom it hits: cross-encoders read other tokens of a long query with a long text, so scores change with a patch release;
#   transformers 5.23 and 5.24 allow both kinds (tokenizers >= 0.23.1).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
for version in 0.22.2 0.23.1 0.23.2 0.23.3; do
  "$folder/venv/bin/pip" -q install --disable-pip-version-check "tokenizers==$version"
  "$folder/venv/bin/python" - "$version" <<'PY'
import sys

import tokenizers
from tokenizers import Tokenizer, models, pre_tokenizers

tokenizer = Tokenizer(models.WordLevel({**{str(word): word for word in range(80)}, "[UNK]": 80}, unk_token="[UNK]"))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer.enable_truncation(7)


def kept(first, second):
    texts = " ".join(map(str, range(first))), " ".join(map(str, range(40, 40 + second)))
    ids = tokenizer.encode(*texts).ids
    assert ids == tokenizer.encode_batch([texts])[0].ids
    return sum(number < 40 for number in ids), sum(number >= 40 for number in ids)


seen = {lengths: kept(*lengths) for lengths in ((10, 9), (9, 10), (10, 10))}
print(tokenizers.__version__, {f"{a} + {b} into 7": f"{c} + {d}" for (a, b), (c, d) in seen.items()})
assert tokenizers.__version__ == sys.argv[1]
odd_to_second = sys.argv[1] in ("0.23.1", "0.23.2")
assert seen == {(10, 9): (3, 4) if odd_to_second else (4, 3), (9, 10): (3, 4), (10, 10): (3, 4)}
PY
done
