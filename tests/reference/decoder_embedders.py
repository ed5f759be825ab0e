"""Cases of decoders that are published as embedders, most of which see both ways: the form in which they are published.

The reference is the same weights under transformers' own class with `is_causal: false`; what the checkpoints' own code
does besides is written here in the reference's words (a Dense layer, an end token) or as a formula (whole numbers).
"""
# ruff: noqa: E501 -- a case a row reads as a table.

import shutil
from functools import partial

import edits
import mistakes
import models
import numpy as np
import torch
import transformers as hf
from case import Case, Dense, edit_json, edit_weights
from safetensors.torch import load_file
from tiny_tokenizers import make_byte_bpe, make_gemma_bpe

HALF, BRAIN = torch.float16, torch.bfloat16
IDENTITY = "torch.nn.modules.linear.Identity"
QWEN = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
ended_tokens, bare_tokens = (partial(make_byte_bpe, 300, QWEN, layout) for layout in ("$A <|endoftext|>", "$A"))
llama_tokens = partial(make_byte_bpe, 300, ("<|begin_of_text|>", "<|end_of_text|>"), "<|begin_of_text|> $A")
mistral_tokens = partial(make_gemma_bpe, layout="<s> $A", specials=("<unk>", "<s>", "</s>"), prepend=True)
gemma_tokens = partial(make_gemma_bpe, layout="<bos> $A <eos>")

TASK = "Given a web search query, retrieve relevant passages that answer the query"
INSTRUCT = {"query": f"Instruct: {TASK}\nQuery: "}
NVIDIA = {"query": "query: ", "passage": "passage: "}
VOYAGE = {
    "query": "Represent the query for retrieving supporting documents: ",
    "document": "Represent the document for retrieval: ",
}
STELLA = {
    "s2p_query": f"Instruct: {TASK}.\nQuery: ",
    "s2s_query": "Instruct: Retrieve semantically similar text.\nQuery: ",
}
GRIT = {"query": f"<|user|>\n{TASK}\n<|embed|>\n", "document": "<|embed|>\n"}
QWEN_TOKENIZER = {
    "tokenizer_class": "Qwen2Tokenizer",
    "add_bos_token": False,
    "add_prefix_space": False,
    "errors": "replace",
    "eos_token": "<|endoftext|>",
}
OWN_QWEN2 = {name: f"modeling_qwen.Qwen2{kind}" for name, kind in
             (("AutoModel", "Model"), ("AutoModelForCausalLM", "ForCausalLM"), ("AutoModelForSequenceClassification", "ForSequenceClassification"))}  # fmt: skip
MINISTRAL = {
    "type": "yarn", "rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 16,
    "max_position_embeddings": 64, "beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0,
    "llama_4_scaling_beta": 0.1,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 5000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
TWO_BASES = {
    "full_attention": {"rope_type": "default", "rope_theta": 50000.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 300.0},
}
TILES = {"max_seq_length": 96, "lengths": (4, 5, 8, 9, 32, 33, 64, 65)}
CAUSAL = {"mask": {"is_causal": True}}


def window(size):
    return {"window": {"sliding_window": 512}, "window off by one": {"sliding_window": size - 1}, **CAUSAL}


def without_scale(parameters):
    return {"queries' scale": {"rope_parameters": {**parameters, "llama_4_scaling_beta": 0.0}}}


def config(**changes):
    """Fields of config.json; those that are ... go."""

    def edit(content):
        for key, value in changes.items():
            content.pop(key, None) if value is ... else content.update({key: value})

    return lambda folder: edit_json(folder / "config.json", edit)


def linear_in_the_main_file(folder):
    """voyage-4-nano's head: the Dense layer's weight beside `model.*`, before pooling in the checkpoint's own code."""
    weight = load_file(folder / "2_Dense" / "model.safetensors")["linear.weight"]
    edits.add_prefix("model.")(folder)
    edit_weights(folder, lambda tensors: {**tensors, "linear.weight": weight})
    shutil.rmtree(folder / "2_Dense")
    edit_json(folder / "modules.json", lambda rows: rows.remove(next(row for row in rows if row["path"] == "2_Dense")))
    edit_json(folder / "1_Pooling" / "config.json", lambda content: content.update(embedding_dimension=len(weight)))


def own_qwen2_tokenizer(folder):
    """Alibaba's: what ends a text stands in its code and in `add_eos_token`, not in tokenizer.json."""
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    edit_json(folder / "tokenizer.json", lambda content: content.update(post_processor=level))
    named = {"AutoTokenizer": ["tokenization_qwen.Qwen2Tokenizer", "tokenization_qwen.Qwen2TokenizerFast"]}
    edit_json(folder / "tokenizer_config.json", lambda content: content.update(auto_map=named, add_eos_token=True))


def dense_by_width(folder):
    """stella names the folder by the width that its publishers chose."""
    (folder / "2_Dense").rename(folder / "2_Dense_1024")
    edit_json(folder / "modules.json", lambda rows: rows[2].update(path="2_Dense_1024"))


def quantizer(folder):
    """pplx-embed's third module, and no file of prompts."""
    row = {"idx": 2, "name": "2", "path": "", "type": "st_quantize.FlexibleQuantizer", "kwargs": ["quantization"]}
    edit_json(folder / "modules.json", lambda rows: rows.append(row))
    (folder / "config_sentence_transformers.json").unlink()


def whole_numbers(rows, exact):
    """What that module gives by default; no exact number may be so near a half that another order of sums decides."""
    wide = 127 * np.tanh(rows.astype(np.float64))
    margin = np.abs(wide - np.floor(wide) - 0.5).min()
    assert margin > 5e-4 or not exact, f"too near a half, {margin}: take other sizes"
    return np.clip(np.round(wide), -128, 127).astype(np.float32)


def without_sidecars(name):
    """A folder with nothing of sentence-transformers'; its README names the model that it is a copy of."""

    def strip(folder):
        for file in ("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"):
            (folder / file).unlink()
        shutil.rmtree(folder / "1_Pooling")
        (folder / "README.md").write_text(f"---\nbase_model: {name}\n---\n", encoding="utf-8")

    return strip


def pplx(**changes):
    named = {"AutoConfig": "configuration.PPLXQwen3Config", "AutoModel": "modeling.PPLXQwen3Model"}
    return config(model_type="bidirectional_pplx_qwen3", architectures=["PPLXQwen3Model"], auto_map=named,
                  use_bidirectional_attention=True, use_cache=False, is_causal=..., **changes)  # fmt: skip


# fmt: off
CASES = (
    # ── Own code that is known: no checkpoint says in config.json alone what its tokens see ──
    Case("voyage-4-nano", "qwen3", "voyage-4-nano as published: use_bidirectional_attention, own code, `linear.weight` beside `model.*`, prompts on both sides",
         models.decoder(hf.Qwen3Model, head_dim=16, is_causal=False, rope_parameters={"rope_type": "default", "rope_theta": 500.0}), bare_tokens,
         dense=(Dense(48, bias=False, activation=IDENTITY),), prompts=VOYAGE, dtype=BRAIN, tokenizer_config=QWEN_TOKENIZER, must_matter=CAUSAL, prepare=edits.transformers_4_config,
         disguise=edits.each(linear_in_the_main_file, config(architectures=["Qwen3ForCausalLM"], auto_map={"AutoModel": "modeling_qwen3_bidirectional.Qwen3BidirectionalModel"},
                                                             use_bidirectional_attention=True, num_labels=48, is_causal=..., sliding_window=None, use_sliding_window=False))),
    Case("heads-128-voyage", "qwen3", "the same saved anew: id2label for num_labels, the code's repository named, eight heads of 128, four to each head of keys",
         models.decoder(hf.Qwen3Model, head_dim=128, num_attention_heads=8, intermediate_size=32, is_causal=False, rope_parameters={"rope_type": "default", "rope_theta": 500.0}),
         bare_tokens, dense=(Dense(48, bias=False, activation=IDENTITY),), dtype=BRAIN, tokenizer_config=QWEN_TOKENIZER, **TILES, must_matter={**CAUSAL, "grouping": mistakes.keys_in_turn},
         disguise=edits.each(linear_in_the_main_file, config(auto_map={"AutoModel": "voyageai/voyage-4-nano--modeling_qwen3_bidirectional.Qwen3BidirectionalModel"}, is_causal=...,
                                                             use_bidirectional_attention=True, id2label={str(i): f"LABEL_{i}" for i in range(48)}, label2id={f"LABEL_{i}": i for i in range(48)}))),
    Case("pplx-embed", "qwen3", "pplx-embed-v1 as published: a model_type of its own, whole numbers by a module of its own, nothing normalised",
         models.decoder(hf.Qwen3Model, head_dim=16, is_causal=False, intermediate_size=82), bare_tokens, normalize=False, dtype=BRAIN, tokenizer_config=QWEN_TOKENIZER, must_matter=CAUSAL,
         output=whole_numbers, disguise=edits.each(pplx(), quantizer)),
    Case("heads-128-pplx", "qwen3", "the same without the module: the numbers as they are; eight heads of 128, four to each head of keys",
         models.decoder(hf.Qwen3Model, head_dim=128, num_attention_heads=8, intermediate_size=32, is_causal=False), bare_tokens, normalize=False, dtype=HALF,
         tokenizer_config=QWEN_TOKENIZER, **TILES, must_matter={**CAUSAL, "grouping": mistakes.keys_in_turn}, disguise=pplx()),
    Case("stella-1.5b", "qwen2", "stella_en_1.5B_v5 as published: own code for the model and the tokenizer, which ends each text; 2_Dense_1024 with a bias, not normalised",
         models.decoder(hf.Qwen2Model, is_causal=False, rope_parameters={"rope_type": "default", "rope_theta": 500.0}), ended_tokens, normalize=False, prompts=STELLA,
         dense=(Dense(48, bias=True, activation=IDENTITY),), tokenizer_config=QWEN_TOKENIZER, must_matter=CAUSAL, dtype=HALF, prepare=edits.transformers_4_config,
         disguise=edits.each(dense_by_width, own_qwen2_tokenizer, config(architectures=["Qwen2ForCausalLM"], auto_map=OWN_QWEN2, is_causal=...))),
    Case("heads-64-gte-qwen2", "qwen2", "gte-Qwen2 as first published, is_causal nowhere; heads of 64; the last token is what its tokenizer's code adds",
         models.decoder(hf.Qwen2Model, hidden_size=128, num_attention_heads=2, num_key_value_heads=2, intermediate_size=48, is_causal=False), ended_tokens, "lasttoken",
         prompts=INSTRUCT, tokenizer_config=QWEN_TOKENIZER, dtype=HALF, **TILES, must_matter=CAUSAL,
         disguise=edits.each(own_qwen2_tokenizer, config(auto_map=OWN_QWEN2, is_causal=...))),
    Case("gritlm", "mistral", "GritLM-7B as published, without sidecars: both ways by its authors' package, the mean over the text alone, a window of 8 to each side",
         models.decoder(hf.MistralModel, vocab_size=360, sliding_window=8, is_causal=False, rope_parameters={"rope_type": "default", "rope_theta": 500.0}), mistral_tokens,
         include_prompt=False, prompts=GRIT, length_from="tokenizer_config.json", tokenizer_config={"tokenizer_class": "LlamaTokenizer", "pad_token": "</s>", "add_bos_token": True, "add_eos_token": False},
         dtype=BRAIN, must_matter=window(8), prepare=edits.transformers_4_config,
         disguise=edits.each(without_sidecars("GritLM/GritLM-7B"), config(architectures=["MistralForCausalLM"], is_causal=..., auto_map={
             "AutoModel": "modeling_gritlm7b.MistralModel", "AutoModelForCausalLM": "modeling_gritlm7b.MistralForCausalLM", "AutoModelForSequenceClassification": "modeling_gritlm7b.MistralForSequenceClassification"}))),
    Case("heads-64-llama-bidirec", "llama_bidirec", "NVIDIA's later files: use_bidirectional_attention and temperature; eight heads of 64, four to each head of keys",
         models.decoder(hf.LlamaModel, is_causal=False, head_dim=64, num_attention_heads=8, intermediate_size=32, rope_parameters=LLAMA3), llama_tokens, dtype=BRAIN, **TILES, prompts=NVIDIA,
         must_matter={**CAUSAL, "grouping": mistakes.keys_in_turn},
         disguise=edits.each(edits.published_llama_bidirectional, config(use_bidirectional_attention=True, temperature=0.02,
                             auto_map={"AutoConfig": "llama_bidirectional_model.LlamaBidirectionalConfig", "AutoModel": "llama_bidirectional_model.LlamaBidirectionalModel"}))),
    Case("kalm-mini-v2", "qwen2", "KaLM's mini v2: is_causal false in config.json, the mean of all tokens, spaces round the line's end in the prompt",
         models.decoder(hf.Qwen2Model, is_causal=False, tie_word_embeddings=True, rope_parameters={"rope_type": "default", "rope_theta": 500.0}), bare_tokens, dtype=BRAIN,
         prompts={"query": f"Instruct: {TASK} \n Query: "}, tokenizer_config=QWEN_TOKENIZER, must_matter=CAUSAL, prepare=edits.transformers_4_config),
    Case("octen-embedding", "qwen3", "Octen's: a space before documents, saved by transformers 5, without sidecars: prompts and pooling by its name",
         models.decoder(hf.Qwen3Model, head_dim=16), ended_tokens, "lasttoken", causal=True, dtype=BRAIN, length_from="tokenizer_config.json",
         prompts={"query": f"Instruct: {TASK}\nQuery:", "document": " "}, tokenizer_config=QWEN_TOKENIZER, disguise=without_sidecars("Octen/Octen-Embedding-0.6B")),
    # ── Ministral 3 ──
    Case("ministral3", "ministral3", "Nemotron-3-Embed as published: yarn, queries that grow with their position, both ways, pooling in config.json",
         models.decoder(hf.Ministral3Model, head_dim=16, max_position_embeddings=64, is_causal=False, tie_word_embeddings=True, rope_parameters=MINISTRAL), llama_tokens, prompts=NVIDIA, dtype=BRAIN,
         prepare=config(pooling="avg"), must_matter={**CAUSAL, **without_scale(MINISTRAL)}),
    Case("heads-128-ministral3", "ministral3", "Ministral 3 itself: causal, `model.` keys, an untied head; eight heads of 128, four to each head of keys; the last token",
         models.decoder(hf.Ministral3ForCausalLM, head_dim=128, num_attention_heads=8, intermediate_size=32, max_position_embeddings=128, tie_word_embeddings=False,
                        rope_parameters={**MINISTRAL, "original_max_position_embeddings": 32, "llama_4_scaling_beta": 0.4}),
         llama_tokens, "lasttoken", causal=True, dtype=BRAIN, **TILES,
         must_matter={"grouping": mistakes.keys_in_turn, **without_scale({**MINISTRAL, "original_max_position_embeddings": 32})}),
    Case("ministral3-bidirec", "ministral3", "NVIDIA's own model_type for it; a window of 8 to each side",
         models.decoder(hf.Ministral3Model, head_dim=16, max_position_embeddings=64, is_causal=False, sliding_window=8, rope_parameters=MINISTRAL), llama_tokens, dtype=HALF,
         must_matter=window(8), disguise=config(model_type="ministral3_bidirec", architectures=["Ministral3BidirectionalModel"], is_causal=..., pooling="avg", temperature=1.0)),
    # ── Windows to both sides: a count of tokens, where causal ones hold the token itself ──
    Case("heads-64-mistral", "mistral", "is_causal false, a window of 20 to each side; eight heads of 64, four to each head of keys",
         models.decoder(hf.MistralModel, head_dim=64, num_attention_heads=8, intermediate_size=32, sliding_window=20, is_causal=False), llama_tokens, dtype=BRAIN, **TILES,
         must_matter={**window(20), "grouping": mistakes.keys_in_turn}),
    Case("qwen3-both-ways", "qwen3", "is_causal false and use_bidirectional_attention, which its class does not read; the second layer sees 8 tokens to each side",
         models.decoder(hf.Qwen3Model, head_dim=8, use_sliding_window=True, sliding_window=8, max_window_layers=1, is_causal=False), ended_tokens, "lasttoken", dtype=BRAIN,
         prepare=config(use_bidirectional_attention=True), must_matter=window(8)),
    Case("phi3-both-ways", "phi3", "is_causal false, every layer sees 8 tokens to each side", models.decoder(hf.Phi3Model, partial_rotary_factor=0.5, sliding_window=8, is_causal=False),
         bare_tokens, dtype=BRAIN, must_matter=window(8)),
    Case("gemma-both-ways", "gemma", "is_causal false", models.decoder(hf.GemmaModel, vocab_size=340, head_dim=16, num_key_value_heads=1, is_causal=False), gemma_tokens,
         dtype=BRAIN, must_matter=CAUSAL),
    Case("gemma2-both-ways", "gemma2", "is_causal false: every other layer sees 8 tokens to each side; two heads to each head of keys, soft-capped scores",
         models.decoder(hf.Gemma2Model, vocab_size=340, head_dim=16, query_pre_attn_scalar=24, sliding_window=8, attn_logit_softcapping=2.0, is_causal=False), gemma_tokens, dtype=BRAIN,
         must_matter=window(8)),
    Case("gemma3-both-ways", "gemma3_text", "is_causal false: 8 tokens to each side, not the half of them", models.gemma3(is_causal=False, sliding_window_pattern=3, rope_parameters=TWO_BASES),
         gemma_tokens, dtype=BRAIN, must_matter=window(8)),
    Case("gemma3-both-flags", "gemma3_text", "is_causal false beside use_bidirectional_attention: half a window and one token more to each side",
         models.gemma3(is_causal=False, use_bidirectional_attention=True, sliding_window_pattern=3, rope_parameters=TWO_BASES), gemma_tokens, dtype=BRAIN,
         must_matter={"window": {"sliding_window": 512}, "window off by one": {"sliding_window": 6}, "one flag": {"is_causal": True}}),
)
# fmt: on
