#!/usr/bin/env bash
# sentence-transformers 6.2.0 (transformers 5.24.0, torch 2.13.0): Pooling with include_prompt=False (instructor-like
#   models), a prompt that ends in a space, a byte-level BPE tokenizer (GPT, RoBERTa, ModernBERT, Qwen, Llama 3).
# Guess: the prompt's tokens are left out of the mean and the text's tokens are all in it.
# What happens: the prompt is counted alone, where its last space is a token ("query", ":", "Ġ"); before a text that space
#   belongs to the first word ("query", ":", "Ġtea"). So one token too many is left out: the first word of every text. A
#   query of one token has nothing left and gets a vector of zeros, which matches everything equally. No warning. The same
#   prompt without its space leaves out what it should.
# Whom it hits: who trains or converts a model with such prompts ("query: ", "Instruct: …\nQuery: ") on these backbones:
#   short queries lose most.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export HF_HUB_OFFLINE=1
python3 -m venv venv
venv/bin/pip -q install --disable-pip-version-check torch==2.13.0 sentence-transformers==6.2.0 transformers==5.24.0
cat > pool.py <<'PY'
import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3Model

bpe = Tokenizer(models.BPE())
bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
letters = sorted(pre_tokenizers.ByteLevel.alphabet())
trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=["<pad>"], initial_alphabet=letters, show_progress=False)
bpe.train_from_iterator(["query: warm tea", "query: cold rain", "green tea, rain, warm, cold"] * 20, trainer)
tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token="<pad>", model_max_length=32)
torch.manual_seed(0)
sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": 16}
config = Qwen3Config(vocab_size=320, num_key_value_heads=1, pad_token_id=0, initializer_range=0.3, **sizes)
Qwen3Model(config).save_pretrained("model")
tokenizer.save_pretrained("model")
model = SentenceTransformer(modules=[Transformer("model"), Pooling(32, "mean", include_prompt=False)])
for prompt, text in (("query:", " warm tea"), ("query: ", "warm tea"), ("query: ", "tea"), ("query: ", "rain")):
    vector = model.encode(text, prompt=prompt)
    pieces = tokenizer.tokenize(prompt + text)
    with torch.no_grad():
        states = model[0].model(**tokenizer(prompt + text, return_tensors="pt")).last_hidden_state[0].numpy()
    pooled = [pieces[at:] for at in range(len(pieces)) if np.allclose(states[at:].mean(0), vector, atol=1e-5)]
    print(f"prompt {prompt!r}, text {text!r}: {pieces}; pooled {pooled or 'nothing'}, length {np.linalg.norm(vector):.2f}")
    expected = {" warm tea": [["Ġwarm", "Ġtea"]], "warm tea": [["Ġtea"]], "tea": [], "rain": []}[text]
    assert pieces[2:] == ["Ġ" + word for word in text.split()] and pooled == expected
    assert (np.abs(vector).max() == 0) == (not pooled)
PY
venv/bin/python pool.py 2> err || { cat err; exit 1; }
