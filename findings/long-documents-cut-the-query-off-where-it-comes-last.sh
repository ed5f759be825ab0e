#!/usr/bin/env bash
# sentence-transformers 6.2.0 (transformers 5.24.0, torch 2.13.0): CrossEncoder of a causal model whose chat template puts
#   the document before the query, and a pair longer than max_seq_length.
# Guess: truncation="longest_first", the library's setting for pairs, takes tokens from the longer text, the document, as
#   it does for other cross-encoders; the template's parts and the query stay.
# What happens: the pair is one text by then, cut on the right. The template's last tokens are written back over the end, so
#   the prompt looks whole, but the query is gone: all queries give a long document one and the same score. No warning. With
#   the query first the same pair loses the document's end only.
# Whom it hits: rerankers with the document first (so that its keys can be kept for several queries): long documents are
#   ranked by themselves, and nothing but their length shows which.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export HF_HUB_OFFLINE=1
python3 -m venv venv
venv/bin/pip -q install --disable-pip-version-check torch==2.13.0 sentence-transformers==6.2.0 transformers==5.24.0
cat > cut.py <<'PY'
import torch
from sentence_transformers import CrossEncoder
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

words = "<pad> <unk> yes no judge query document : ? warm tea cold rain what is green 0 1 2 3 4".split()
plain = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
marks = {"pad_token": "<pad>", "unk_token": "<unk>", "padding_side": "left", "model_max_length": 16}
tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, **marks)
torch.manual_seed(0)
sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": 16}
config = Qwen3Config(vocab_size=len(words), num_key_value_heads=1, pad_token_id=0, initializer_range=0.3, **sizes)
language_model = Qwen3ForCausalLM(config)
seen = {}
for order in (("query", "document"), ("document", "query")):
    parts = "".join(
        f"{{% for m in messages if m.role == '{role}' %}}{role} : {{{{ m.content }}}} {{% endfor %}}" for role in order
    )
    tokenizer.chat_template = parts + "judge ?"
    language_model.save_pretrained("model")
    tokenizer.save_pretrained("model")
    model = CrossEncoder("model")
    for name, document in (("short", "green tea"), ("long", "green tea " * 9)):
        pairs = [("what is rain", document), ("cold tea ?", document)]
        prompt = tokenizer.decode(model.preprocess(pairs[:1])["input_ids"][0])
        seen[order[0], name] = model.predict(pairs).tolist()
        print(f"{order[0]} first, {name} document: two queries score {seen[order[0], name]}; read: {prompt}")
for key, (one, other) in seen.items():
    assert (one == other) == (key == ("document", "long"))
PY
venv/bin/python cut.py 2> err || { cat err; exit 1; }
! grep -i -E "trunc|length" err
