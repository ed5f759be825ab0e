#!/usr/bin/env bash
# transformers 5.24.0 beside 4.57.6 (torch 2.13.0): a BERT cross-encoder whose tokenizer is a PreTrainedTokenizerFast
#   (trained with the tokenizers library and wrapped), saved by version 4.
# Guess: tokenizer.json's pair template has types 0 and 1, BERT has a table for them, so both versions feed them; the
#   generic class takes tokenizer.json "as it is".
# What happens: the ids are the same, but the generic class of version 5 has another list of model inputs, without
#   token_type_ids, and version 4 wrote the list down only where it differed from its own. The types are left out, BERT
#   takes 0 for all, and every pair has another score. No warning.
# Whom it hits: pair models (rerankers, NLI) with tokenizers of their own: scores and thresholds move with the upgrade.
#   Remedy: "model_input_names": ["input_ids", "token_type_ids", "attention_mask"] in tokenizer_config.json.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export HF_HUB_OFFLINE=1
cat > make.py <<'PY'
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

words = "[PAD] [UNK] [CLS] [SEP] what is tea warm rain".split()
tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer.post_processor = processors.TemplateProcessing(
    single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
)
marks = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=32, **marks).save_pretrained("model")
torch.manual_seed(0)
sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
config = BertConfig(vocab_size=len(words), num_labels=1, initializer_range=0.5, **sizes)
BertForSequenceClassification(config).save_pretrained("model")
PY
cat > score.py <<'PY'
import torch, transformers
from transformers import AutoModelForSequenceClassification, AutoTokenizer

model = AutoModelForSequenceClassification.from_pretrained("model").eval()
for said in ({}, {"model_input_names": ["input_ids", "token_type_ids", "attention_mask"]}):
    tokenizer = AutoTokenizer.from_pretrained("model", **said)
    pair = tokenizer("what is tea", "warm rain", return_tensors="pt")
    types = pair["token_type_ids"].tolist()[0] if "token_type_ids" in pair else None
    with torch.no_grad():
        score = model(**pair).logits.item()
    print(transformers.__version__, "inputs named" if said else "as saved", pair["input_ids"].tolist()[0], types, f"{score:.4f}")
PY
python3 -m venv venv
venv/bin/pip -q install --disable-pip-version-check transformers==5.24.0 torch==2.13.0
venv/bin/pip -q install --disable-pip-version-check --target four transformers==4.57.6
run() { venv/bin/python "$@" 2> err || { cat err; exit 1; }; }
PYTHONPATH=four run make.py
PYTHONPATH=four run score.py | tee seen
run score.py | tee -a seen
ids="\[2, 4, 5, 6, 3, 7, 8, 3\]"
types="\[0, 0, 0, 0, 0, 1, 1, 1\]"
grep -q "^4.57.6 as saved $ids $types" seen
grep -q "^5.24.0 as saved $ids None" seen
grep -q "^5.24.0 inputs named $ids $types" seen
score() { awk -v start="$1" 'index($0, start) == 1 { print $NF }' seen; }
[ "$(score "4.57.6 as saved")" = "$(score "5.24.0 inputs named")" ]
[ "$(score "4.57.6 as saved")" != "$(score "5.24.0 as saved")" ]
