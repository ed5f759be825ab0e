#!/usr/bin/env bash
# sentence-transformers 6.2.0 (transformers 5.24.0, torch 2.13.0): CrossEncoder of a causal model with a chat template for
#   the roles query and document, and predict(prompt=…).
# Guess: the prompt stands before the query, as for other cross-encoders; or, for it becomes a system message, a template
#   that does not know that role is refused, as one is that drops the document ("… roles …" ValueError).
# What happens: only the roles of the pair are checked. The prompt goes into the system message, the template skips it, and
#   every score is that of no prompt. No error, no warning.
# Whom it hits: instruction-tuned rerankers whose template has its instruction written in: another task's instruction is
#   accepted and changes nothing; comparisons of prompts show "no effect".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export HF_HUB_OFFLINE=1
python3 -m venv venv
venv/bin/pip -q install --disable-pip-version-check torch==2.13.0 sentence-transformers==6.2.0 transformers==5.24.0
cat > prompt.py <<'PY'
import torch
from sentence_transformers import CrossEncoder
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

words = "<pad> <unk> yes no judge query document system : ? warm tea cold rain what is only green 0 1 2 3 4".split()
plain = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
marks = {"pad_token": "<pad>", "unk_token": "<unk>", "padding_side": "left", "model_max_length": 64}
tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, **marks)
torch.manual_seed(0)
sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": 16}
config = Qwen3Config(vocab_size=len(words), num_key_value_heads=1, pad_token_id=0, initializer_range=0.3, **sizes)
language_model = Qwen3ForCausalLM(config)
pairs = [("what is tea", "warm tea"), ("what is tea", "cold rain")]


def scores(roles, prompt):
    cases = "".join(f"{{% if m.role == '{role}' %}}{role} : {{{{ m.content }}}} {{% endif %}}" for role in roles)
    tokenizer.chat_template = f"{{% for m in messages %}}{cases}{{% endfor %}}judge ?"
    language_model.save_pretrained("model")
    tokenizer.save_pretrained("model")
    try:
        found = CrossEncoder("model").predict(pairs, prompt=prompt).tolist()
    except ValueError as error:
        found = f"ValueError: {error}"[:110]
    print(f"template of {', '.join(roles)}; prompt {prompt!r}: {found}")
    return found


without = ("query", "document")
assert scores(without, "only green") == scores(without, None)
assert scores(("system", *without), "only green") != scores(("system", *without), None)
assert "ValueError" in scores(("system", "query"), "only green")
PY
venv/bin/python prompt.py 2> err || { cat err; exit 1; }
! grep -i -E "system|prompt" err
