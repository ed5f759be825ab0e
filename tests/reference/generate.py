"""Make the tiny checkpoints of `tests/reference` and the reference's vectors for them.

    python generate.py [case …]      # all of them without arguments

Needs torch, transformers, sentence-transformers and model2vec; downloads nothing. README.md says what the files are.
"""
# ruff: noqa: E501, I001 -- a case a row reads as a table; the environment is set before the imports that read it.

import logging
import os
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}

import amendments
import chat_templates
import conversions
import decoder_embedders
import edits
import jina
import mistakes
import models
import numpy as np
import reference
import sentence_transformers
import static
import torch
import transformers as hf
from case import Case, Dense, copy_checkpoint, write_checkpoint, write_facts
from tiny_tokenizers import (
    XLM_SPECIALS,
    make_albert_unigram,
    make_byte_bpe,
    make_gemma_bpe,
    make_t5_unigram,
    make_unigram,
    make_wordpiece,
)

HERE = Path(__file__).parent
log = logging.getLogger("generate")

IDENTITY = "torch.nn.modules.linear.Identity"
RELU = "torch.nn.modules.activation.ReLU"
HALF, BRAIN = torch.float16, torch.bfloat16

SEARCH_PROMPTS = {"query": "search for: ", "document": "passage text: "}
NOMIC_PROMPTS = {"query": "search_query: ", "document": "search_document: "}
# Qwen3-Embedding has no space after the last colon, gte-Qwen2 has one.
QWEN_PROMPTS = {"query": "Instruct: Find what answers the query\nQuery:", "document": ""}
INSTRUCT_PROMPTS = {"query": "Instruct: Find what answers the query\nQuery: "}
QWEN3_QUERY = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
GEMMA_PROMPTS = {"query": "task: search result | query: ", "document": "title: none | text: "}
GEMMA2_PROMPTS = GEMMA_PROMPTS | {"question answering": "task: question answering | query: "}

bert_tokens = make_wordpiece
cased_tokens = partial(make_wordpiece, lowercase=False)
mpnet_tokens = partial(make_wordpiece, specials=XLM_SPECIALS, layout="<s> $A </s>", unk="<unk>")
roberta_tokens = partial(make_byte_bpe, 280, XLM_SPECIALS, "<s> $A </s>", first_specials=True)
xlm_tokens = make_unigram
qwen_tokens = partial(make_byte_bpe, 300, ("<|endoftext|>", "<|im_start|>", "<|im_end|>"), "$A <|endoftext|>")
t5_tokens = make_t5_unigram
albert_tokens = make_albert_unigram
DEBERTA_SPECIALS = ("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]")
deberta_tokens = partial(make_byte_bpe, 280, DEBERTA_SPECIALS, "[CLS] $A [SEP]", first_specials=True)
deberta_v2_tokens = partial(make_unigram, specials=DEBERTA_SPECIALS, layout="[CLS] $A [SEP]", unk="[UNK]")
bare_tokens = partial(make_byte_bpe, 300, ("<|endoftext|>", "<|im_start|>", "<|im_end|>"), "$A")
llama_tokens = partial(make_byte_bpe, 300, ("<|begin_of_text|>", "<|end_of_text|>"), "<|begin_of_text|> $A")
eurobert_tokens = partial(
    make_byte_bpe, 300, ("<|begin_of_text|>", "<|end_of_text|>"), "<|begin_of_text|> $A <|end_of_text|>"
)
llama2_tokens = partial(make_gemma_bpe, layout="<s> $A", specials=("<unk>", "<s>", "</s>"), prepend=True)
gemma_tokens = partial(make_gemma_bpe, layout="<bos> $A")
embeddinggemma_tokens = partial(make_gemma_bpe, layout="<bos> $A <eos>")

DEFAULT_BASE = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 5000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}
LONG = {  # of heads of 16, half of which turns
    "rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0, 1.1, 1.3, 1.8], "long_factor": [1.0, 2.0, 5.0, 9.0],
}  # fmt: skip
PROPORTIONAL = {"rope_type": "proportional", "rope_theta": 10000.0, "partial_rotary_factor": 0.25, "factor": 2.0}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 24}
TWO_BASES = {
    "full_attention": {"rope_type": "default", "rope_theta": 50000.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 300.0},
}
ONE_BASE = {"rope_parameters": {kind: {"rope_type": "default", "rope_theta": 10000.0} for kind in TWO_BASES}}

left_padding = {"padding_side": "left"}
T5 = {"tokenizer_class": "T5Tokenizer", "extra_ids": 0, "additional_special_tokens": []}
# As trained routers are: of nearly equal experts, which 16 bit cannot tell apart, neither counts much.
sure_router = edits.each(*(edits.scaled(name, 6.0) for name in ("router.layer.weight", ".gate.weight")))
small_queries = edits.scaled("SelfAttention.q.weight", 0.25)

# GPUs have attention kernels of their own for at most 8 tokens (4 where eight heads share keys), else work in tiles of
# 32 and 64.
TILES: dict[str, Any] = {"max_seq_length": 96, "lengths": (4, 5, 8, 9, 32, 33, 64, 65)}
TWO_HEADS: dict[str, Any] = {"hidden_size": 128, "num_attention_heads": 2, "num_key_value_heads": 1}
TWO_HEADS_OF_64 = {"hidden_size": 128, "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 98}

# One row a checkpoint: name, family, what a wrong implementation gets wrong there, transformer, tokenizer, pooling, the rest.
# fmt: off
CASES: tuple[Case, ...] = (
    # ── BERT: every pooling mode and every form of sentence-transformers' own files ──
    Case("bert-cls", "bert", "first token; gelu", models.bert(), bert_tokens, "cls"),
    Case("bert-mean", "bert", "mean of the real tokens", models.bert(), bert_tokens, "mean"),
    Case("bert-max", "bert", "largest value of each dimension over real tokens; relu", models.bert(hidden_act="relu"), bert_tokens, "max"),
    Case("bert-last-token", "bert", "last real token", models.bert(), bert_tokens, "lasttoken"),
    Case("bert-mean-sqrt-len", "bert", "sum over the root of the length, unnormalised (else equal to mean); gelu_new",
         models.bert(hidden_act="gelu_new"), bert_tokens, "mean_sqrt_len_tokens", normalize=False),
    Case("bert-weighted-mean", "bert", "weights 1, 2, 3 …", models.bert(), bert_tokens, "weightedmean"),
    Case("bert-concatenation", "bert", "a list of modes, joined in its order", models.bert(), bert_tokens, ("mean", "cls")),
    Case("bert-old-pooling", "bert", "pooling_mode_* flags, word_embedding_dimension, old module paths", models.bert(), bert_tokens,
         "cls", old_files=True),
    Case("bert-old-two-flags", "bert", "two flags, joined in sentence-transformers' fixed order: cls, max, mean, …", models.bert(),
         bert_tokens, ("cls", "mean"), old_files=True, normalize=False),
    Case("bert-not-normalised", "bert", "no Normalize module: lengths differ from 1", models.bert(), bert_tokens, normalize=False),
    Case("bert-prompts", "bert", "query and document prompts, pooled with the text", models.bert(), bert_tokens, prompts=SEARCH_PROMPTS),
    Case("bert-exclude-prompt", "bert", "include_prompt: false, mean", models.bert(), bert_tokens, prompts=SEARCH_PROMPTS,
         include_prompt=False),
    Case("bert-exclude-prompt-modes", "bert", "include_prompt: false in other modes; weights keep their positions", models.bert(),
         bert_tokens, ("cls", "max", "weightedmean", "lasttoken"), prompts=SEARCH_PROMPTS, include_prompt=False, normalize=False),
    Case("bert-default-prompt", "bert", "encode applies default_prompt_name, encode_document does not", models.bert(), bert_tokens,
         prompts={"query": "search for: ", "clustering": "sort this: "}, default_prompt_name="clustering"),
    Case("bert-passage-prompt", "bert", "no document prompt: `document` holds the passage prompt's vectors", models.bert(), bert_tokens,
         prompts={"query": "query: ", "passage": "passage: "}),
    Case("bert-dense", "bert", "Dense with bias and tanh to another width, then normalised", models.bert(), bert_tokens, "cls",
         dense=(Dense(12),)),
    Case("bert-dense-unnormalised", "bert", "two Dense modules: identity without bias, then ReLU; nothing after them", models.bert(),
         bert_tokens, normalize=False, dense=(Dense(40, bias=False, activation=IDENTITY), Dense(16, activation=RELU))),
    Case("bert-fp16", "bert", "stored in float16, computed in float32", models.bert(), bert_tokens, "cls", dtype=HALF),
    Case("bert-bf16", "bert", "stored in bfloat16, Dense too, computed in float32", models.bert(), bert_tokens, dtype=BRAIN, dense=(Dense(12),)),
    Case("bert-sharded", "bert", "several weight files and their index", models.bert(), bert_tokens, shard_size="25KB"),
    Case("bert-masked-lm", "bert", "keys with `bert.`, a masked-language head to leave out", models.bert(hf.BertForMaskedLM), bert_tokens),
    Case("bert-gamma-beta", "bert", "LayerNorm.gamma and .beta, `bert.` keys", models.bert(hf.BertForMaskedLM), bert_tokens, "cls",
         old_files=True, prepare=edits.rename_to_gamma_beta),
    Case("bert-minilm-like", "bert", "tokenizer.json truncates and pads to 16; position_ids among the weights", models.bert(), bert_tokens,
         old_files=True, prepare=edits.each(edits.add_position_ids, edits.truncate_and_pad_in_tokenizer_json)),
    Case("bert-subfolder", "bert", "transformer, tokenizer and sentence_bert_config.json in 0_Transformer/", models.bert(), bert_tokens, "cls",
         old_files=True, transformer_folder="0_Transformer", normalize=False),
    Case("bert-lowercase", "bert", "do_lower_case with a tokenizer that keeps case", models.bert(), cased_tokens, old_files=True, lowercase=True),
    Case("bert-left-padding", "bert", "padding_side left: as each text alone (the reference shifts positions in a batch)", models.bert(),
         bert_tokens, "lasttoken", tokenizer_config=left_padding, padding_matters=True),
    Case("tokenizer-rebuilt-bert", "bert", "tokenizer_class BertTokenizer: do_lower_case replaces what tokenizer.json's normalizer says",
         models.bert(), bert_tokens, tokenizer_config={"tokenizer_class": "BertTokenizer", "do_lower_case": True},
         disguise=edits.contradict_in_tokenizer_json),
    Case("bert-tokenizer-length", "bert", "no max_seq_length: the tokenizer's model_max_length", models.bert(), bert_tokens, "cls",
         max_seq_length=40, length_from="tokenizer_config.json"),
    Case("bert-position-table-length", "bert", "no length anywhere: the position table", models.bert(max_position_embeddings=40),
         bert_tokens, max_seq_length=40, length_from="config.json"),
    Case("bert-defaults", "bert", "config.json leaves activation, eps, types and padding to transformers' class; fields that no class reads",
         models.bert(), bert_tokens, dtype=HALF,
         prepare=edits.leave_to_the_class("hidden_act", "layer_norm_eps", "type_vocab_size", "pad_token_id", **edits.WITHOUT_EFFECT),
         must_matter={"activation": {"hidden_act": "relu"}}),
    Case("bert-modules", "bert", "two Poolings, of which the last counts; include_prompt null is false; Normalize twice, then Dropout",
         models.bert(), bert_tokens, ("cls", "mean"), dtype=HALF, prompts=SEARCH_PROMPTS, prepare=edits.double_modules),
    Case("bert-side-prompt", "bert", "include_prompt: false with a length for queries that cuts in the prompt: its tokens are counted without it",
         models.bert(), bert_tokens, ("cls", "mean"), dtype=HALF, prompts=SEARCH_PROMPTS, include_prompt=False, normalize=False,
         transformer={"query_length": 9}),
    Case("bert-float8", "bert", "matrices stored in float8 (E4M3, E5M2), a table in float64", models.bert(), bert_tokens,
         prepare=edits.store_in_odd_dtypes),
    # ── Other encoders with position tables ──
    Case("distilbert-mean", "distilbert", "no token types, sinusoid-free positions", models.distilbert(), bert_tokens, old_files=True),
    Case("distilbert-masked-lm-cls", "distilbert", "`distilbert.` keys, vocab_* head, float16, relu",
         models.distilbert(hf.DistilBertForMaskedLM, activation="relu"), bert_tokens, "cls", dtype=HALF),
    Case("roberta-mean", "roberta", "positions from padding_idx + 1; byte-level BPE", models.roberta(), roberta_tokens),
    Case("roberta-position-offset", "roberta", "66 stated, but 66 positions are room for 64 tokens; `roberta.` keys and lm_head",
         models.roberta(hf.RobertaForMaskedLM), roberta_tokens, "cls", max_seq_length=66, usable_length=64, dtype=BRAIN),
    Case("roberta-exclude-prompt", "roberta", "include_prompt: false where the prompt's last space joins the text's first word: a token more is left out",
         models.roberta(), roberta_tokens, prompts=SEARCH_PROMPTS, include_prompt=False, dtype=HALF),
    Case("xlm-roberta-cls", "xlm-roberta", "bge-m3's kind: cls, no prompts; unigram tokenizer",
         models.roberta(hf.XLMRobertaModel, vocab_size=220), xlm_tokens, "cls"),
    Case("xlm-roberta-e5", "xlm-roberta", "multilingual-e5's kind: mean, query and passage prompts, `roberta.` keys, shards",
         models.roberta(hf.XLMRobertaForMaskedLM, vocab_size=220), xlm_tokens, prompts={"query": "query: ", "passage": "passage: "},
         dtype=HALF, shard_size="20KB", old_files=True),
    Case("camembert-mean", "camembert", "XLM-R by another name", models.roberta(hf.CamembertModel, vocab_size=220), xlm_tokens, dtype=BRAIN),
    Case("camembert-dense", "camembert", "`roberta.` keys, Dense, two token types",
         models.roberta(hf.CamembertForMaskedLM, vocab_size=220, type_vocab_size=2), xlm_tokens, "cls", dense=(Dense(12),), dtype=HALF),
    Case("mpnet-mean", "mpnet", "relative position bias shared by the layers", models.mpnet(), mpnet_tokens, old_files=True),
    Case("mpnet-long", "mpnet", "distances beyond the logarithmic buckets' 128; `mpnet.` keys", dtype=BRAIN,
         model=models.mpnet(hf.MPNetForMaskedLM, max_position_embeddings=180), tokenizer=mpnet_tokens, pooling="cls", max_seq_length=170),
    Case("tokenizer-rebuilt-mpnet", "mpnet", "tokenizer_class MPNetTokenizer, which says nothing of case: lowercase all the same",
         models.mpnet(), mpnet_tokens, tokenizer_config={"tokenizer_class": "MPNetTokenizer"}, disguise=edits.contradict_in_tokenizer_json),
    Case("mpnet-defaults", "mpnet", "pad_token_id 2: positions start after 1 all the same; activation and eps of the class",
         models.mpnet(), mpnet_tokens, dtype=HALF, prepare=edits.leave_to_the_class("hidden_act", "layer_norm_eps", pad_token_id=2)),
    # ── Rotary encoders ──
    Case("modernbert-cls", "modernbert", "first layer without a norm before attention; windows of 4 to each side in two layers of three",
         models.modernbert(), bert_tokens, "cls",
         must_matter={"window": {"local_attention": 256}, "window off by one": {"local_attention": 10}, "bases": ONE_BASE}),
    Case("modernbert-transformers-4", "modernbert", "global_rope_theta, local_rope_theta, global_attn_every_n_layers; `model.` keys, biases",
         models.modernbert(hf.ModernBertForMaskedLM, global_attn_every_n_layers=2, local_attention=6, attention_bias=True,
                           mlp_bias=True, norm_bias=True, rope_parameters=TWO_BASES), bert_tokens, dtype=BRAIN, prompts=NOMIC_PROMPTS,
         prepare=edits.transformers_4_modernbert, must_matter={"window": {"local_attention": 256}}),
    Case("modernbert-defaults", "modernbert", "config.json leaves windows' order, bases, eps, biases and activation to transformers' class",
         models.modernbert(), bert_tokens, dtype=HALF,
         prepare=edits.leave_to_the_class("layer_types", "rope_parameters", "norm_eps", "norm_bias", "hidden_activation", "attention_bias",
                                          "mlp_bias", "global_attn_every_n_layers", "global_rope_theta", "local_rope_theta"),
         must_matter={"bases": ONE_BASE, "activation": {"hidden_activation": "relu"}}),
    Case("nomic-published", "nomic_bert", "the published config's names (n_embd, rotary_emb_base …)", models.nomic_bert(), bert_tokens,
         prompts=NOMIC_PROMPTS, disguise=edits.published_nomic_config, must_matter={"base": DEFAULT_BASE}),
    Case("nomic-moe-published", "nomic_bert", "experts in every other layer, their weights as the softmax of all has them, nearly equal ones, one bias; GELU, biases, 512 tokens",
         models.nomic_moe(), xlm_tokens, max_seq_length=512, tokenizer_config={"tokenizer_class": "XLMRobertaTokenizer"}, rebuilt=True,
         prompts={"query": "search_query: ", "passage": "search_document: "}, prepare=edits.nearly_equal_experts, disguise=edits.published_nomic_moe_config,
         must_matter={**mistakes.NOMIC_MOE, "router": mistakes.experts("router rounded"), "base": {"rope_theta": 77.0}}),
    Case("nomic-transformers-5", "nomic_bert", "transformers' own config, another base, float16, unnormalised",
         models.nomic_bert(rope_parameters={"rope_type": "default", "rope_theta": 77.0}), bert_tokens, "cls", dtype=HALF, normalize=False,
         must_matter={"base": DEFAULT_BASE}),
    Case("gte-multilingual", "gte", 'model_type "new", packed qkv and up_gate, RoPE base 20000 with ntk scaling by 8',
         models.gte(rope_parameters=models.ntk(20000.0, 8.0, 8)), xlm_tokens, "cls",
         disguise=edits.published_gte_config(20000.0, 8.0), must_matter={"scaling": DEFAULT_BASE}),
    Case("gte-base-en", "gte", 'model_type "new" with `new.` keys, no token types, another ntk scaling; BERT tokenizer',
         models.gte(type_vocab_size=0, vocab_size=200, pad_token_id=0, rope_parameters=models.ntk(500.0, 2.0, 8)), bert_tokens, "cls",
         normalize=False, dtype=BRAIN, disguise=edits.each(edits.published_gte_config(500.0, 2.0), edits.add_prefix("new.")),
         must_matter={"scaling": {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}}),
    Case("gte-arctic", "gte", 'model_type "gte" with flat rope_theta and a query prompt (arctic-embed-m-v2.0)',
         models.gte(rope_parameters={"rope_type": "default", "rope_theta": 300.0}), xlm_tokens, "cls", dtype=HALF,
         prompts={"query": "query: "}, prepare=edits.arctic_gte_config),
    Case("gte-transformers-5", "gte", "transformers' own class and config, masked-language head",
         models.gte(hf.GteForMaskedLM), xlm_tokens, dtype=BRAIN),
    Case("eurobert-mean", "eurobert", "a Llama without causal mask, grouped keys", models.eurobert(vocab_size=300), eurobert_tokens,
         dtype=BRAIN, must_matter={"base": {"rope_parameters": {"rope_type": "default", "rope_theta": 300.0}}}),
    Case("eurobert-masked-lm", "eurobert", "`model.` keys, lm_head, flat rope_theta of another value, biases",
         models.eurobert(hf.EuroBertForMaskedLM, vocab_size=300, attention_bias=True, mlp_bias=True,
                         rope_parameters={"rope_type": "default", "rope_theta": 400.0}), eurobert_tokens, "cls", dtype=HALF,
         prepare=edits.transformers_4_config),
    # ── T5's encoders ──
    Case("t5-sentence", "t5", "sentence-t5's kind: scores without scale, relu, a Dense of 768 without bias; float16, whose files name no farthest distance",
         models.t5(), t5_tokens, tokenizer_config=T5, dense=(Dense(24, bias=False, activation=IDENTITY),), dtype=HALF, old_files=True,
         prepare=edits.each(small_queries, edits.leave_to_the_class("relative_attention_max_distance", "is_gated_act", "dense_act_fn",
                                                        n_positions=512, output_past=True, torch_dtype="float16")),
         must_matter={"bias": mistakes.no_t5_bias, "scale": mistakes.scaled_t5}),
    Case("t5-instructor", "t5", "instructor's kind: include_prompt false, the table of words twice, a decoder to leave out; distances beyond 128",
         models.t5(hf.T5ForConditionalGeneration, num_decoder_layers=1), t5_tokens, tokenizer_config=T5, dtype=BRAIN, max_seq_length=170,
         prompts={"query": "Represent the question for retrieving documents: ", "document": "Represent the document for retrieval: "},
         include_prompt=False, prepare=edits.each(small_queries, edits.twice("shared.weight", "encoder.embed_tokens.weight"))),
    Case("mt5-cls", "t5", "mT5: gated-gelu, here of gelu and not gelu_new as dense_act_fn says; 8 buckets up to 20",
         models.t5(hf.MT5EncoderModel, relative_attention_num_buckets=8, relative_attention_max_distance=20), t5_tokens, "cls", dtype=BRAIN,
         prepare=edits.each(small_queries, edits.leave_to_the_class(dense_act_fn="gelu")),
         must_matter={"bias": mistakes.no_t5_bias, "distance": {"relative_attention_max_distance": 128}}),
    Case("umt5-mean", "t5", "UMT5: a table of relative positions for each layer; gated-gelu", models.t5(hf.UMT5EncoderModel), t5_tokens, dtype=HALF,
         prepare=small_queries, must_matter={"tables": mistakes.first_t5_bias}),
    # ── BERT's kin ──
    Case("albert-mean", "albert", "paraphrase-albert's kind: layers share weights in groups, narrow tables; AlbertTokenizer", models.albert(),
         albert_tokens, tokenizer_config={"tokenizer_class": "AlbertTokenizer"}, old_files=True, dtype=HALF, prepare=edits.leave_to_the_class(net_structure_type=0),
         must_matter={"groups": mistakes.one_group}),
    Case("albert-masked-lm", "albert", "`albert.` keys and heads of pretraining; two layers to a group, gelu", dtype=BRAIN, pooling="cls",
         model=models.albert(hf.AlbertForPreTraining, num_hidden_layers=3, num_hidden_groups=2, inner_group_num=2, hidden_act="gelu"),
         tokenizer=albert_tokens),
    Case("electra-small", "electra", "narrow tables and a layer to the width; `electra.` keys and the discriminator's head",
         models.electra(hf.ElectraForPreTraining), bert_tokens, dtype=HALF),
    Case("ernie-task", "ernie", "text2vec's kind: the first type of task is added, four token types, eps 1e-5", models.ernie(), bert_tokens,
         dtype=HALF, old_files=True, must_matter={"task": mistakes.no_task, "another task": mistakes.another_task}),
    Case("deberta-mean", "deberta", "each head's query, key and value together; distances beyond the table's 24 rows", models.deberta(),
         deberta_tokens, tokenizer_config={"tokenizer_class": "DebertaTokenizer"}, prepare=edits.leave_to_the_class(pos_att_type="c2p|p2c"),
         must_matter={"sides": mistakes.positions_reversed, "one kind": {"pos_att_type": ["c2p"]}}),
    Case("deberta-v2-v3", "deberta-v2", "v3's kind: buckets, logarithmic beyond 8, through the layers of the contents; DebertaV2Tokenizer",
         models.deberta_v2(), deberta_v2_tokens, tokenizer_config={"tokenizer_class": "DebertaV2Tokenizer"}, dtype=HALF, max_seq_length=100,
         rebuilt=True, prepare=edits.leave_to_the_class(pos_att_type="p2c|c2p"),
         must_matter={"sides": mistakes.positions_reversed, "buckets": {"position_buckets": 16, "max_relative_positions": 128}}),
    Case("deberta-v2-convolution", "deberta-v2", "v2's kind: a convolution of groups beside the first layer, layers of their own for positions, no buckets",
         models.deberta_v2(hf.DebertaV2ForMaskedLM, share_att_key=False, position_buckets=-1, max_relative_positions=20, conv_kernel_size=3,
                           conv_act="gelu", conv_groups=2, embedding_size=24, norm_rel_ebd="none", type_vocab_size=2), deberta_v2_tokens, "cls",
         dtype=BRAIN, must_matter={"sides": mistakes.positions_reversed, "convolution": mistakes.no_convolution}),
    Case("deberta-v2-absolute", "deberta-v2", "positions of a table added to the words, none between tokens (transformers' defaults)",
         models.deberta_v2(relative_attention=False, position_biased_input=True), deberta_v2_tokens, dtype=HALF),
    # ── Causal decoders ──
    Case("qwen3-embedding", "qwen3", "keys without `model.`, nested rope_parameters, <|endoftext|> appended, left padding, prompts",
         models.decoder(hf.Qwen3Model, head_dim=16, rope_parameters={"rope_type": "default", "rope_theta": 500.0}), qwen_tokens, "lasttoken",
         causal=True, prompts=QWEN_PROMPTS, tokenizer_config=left_padding | {"tokenizer_class": "Qwen2Tokenizer", "add_bos_token": False},
         must_matter={"base": DEFAULT_BASE}),
    Case("qwen3-causal-lm", "qwen3", "`model.` keys, untied lm_head, flat rope_theta, shards; no end token, mean",
         models.decoder(hf.Qwen3ForCausalLM, head_dim=8, tie_word_embeddings=False, attention_bias=True,
                        rope_parameters={"rope_type": "default", "rope_theta": 300.0}), bare_tokens, causal=True, dtype=BRAIN,
         shard_size="20KB", prepare=edits.transformers_4_config),
    Case("qwen3-defaults", "qwen3", "config.json leaves base, eps, heads' width and windows to transformers' class; fields that it does not read",
         models.decoder(hf.Qwen3Model, head_dim=128, num_attention_heads=2, num_key_value_heads=1), qwen_tokens, "lasttoken", causal=True, dtype=HALF,
         prepare=edits.leave_to_the_class("rope_parameters", "rms_norm_eps", "head_dim", "sliding_window", "max_window_layers",
                                          "use_sliding_window", "layer_types", "hidden_act", "attention_bias", **edits.WITHOUT_EFFECT)),
    Case("qwen3-yarn", "qwen3", "yarn scaling and its attention factor",
         models.decoder(hf.Qwen3Model, head_dim=16, rope_parameters=YARN), qwen_tokens, "lasttoken", causal=True, dtype=BRAIN,
         must_matter={"scaling": DEFAULT_BASE}),
    Case("qwen3-sliding-window", "qwen3", "use_sliding_window: the second layer sees 8 tokens back, itself included",
         models.decoder(hf.Qwen3Model, head_dim=8, use_sliding_window=True, sliding_window=8, max_window_layers=1), qwen_tokens,
         "lasttoken", causal=True, dtype=BRAIN, refusal_allowed=True, must_matter={"window": {"sliding_window": 512}, "window off by one": {"sliding_window": 9}}),
    Case("qwen2-bidirectional", "qwen2", "gte-Qwen2's kind: is_causal false, sliding_window stated but off, prompt with a space",
         models.decoder(hf.Qwen2Model, is_causal=False, rope_parameters={"rope_type": "default", "rope_theta": 500.0}),
         qwen_tokens, "lasttoken", dtype=BRAIN, prompts=INSTRUCT_PROMPTS, prepare=edits.state_unused_window, must_matter={"mask": {"is_causal": True}, "base": DEFAULT_BASE}),
    Case("qwen2-causal-lm", "qwen2", "`model.` keys, flat rope_theta, weighted mean, left padding",
         models.decoder(hf.Qwen2ForCausalLM, rope_parameters={"rope_type": "default", "rope_theta": 300.0}), bare_tokens,
         "weightedmean", causal=True, dtype=HALF, tokenizer_config=left_padding, prepare=edits.transformers_4_config),
    Case("llama-nested-llama3", "llama", "llama3 scaling under rope_parameters, keys without `model.`, begin token",
         models.decoder(hf.LlamaModel, head_dim=16, rope_parameters=LLAMA3), llama_tokens, causal=True, dtype=BRAIN,
         must_matter={"scaling": {"rope_parameters": {"rope_type": "default", "rope_theta": 5000.0}}}),
    Case("llama-flat-llama3", "llama", "the same in transformers 4's form, `model.` keys, biases, inv_freq among the weights",
         models.decoder(hf.LlamaForCausalLM, attention_bias=True, mlp_bias=True, rope_parameters=LLAMA3), llama_tokens, "lasttoken",
         causal=True, dtype=HALF, prepare=edits.each(edits.transformers_4_config, edits.add_inverse_frequencies)),
    Case("llama-linear", "llama", "linear scaling, another base",
         models.decoder(hf.LlamaModel, rope_parameters={"rope_type": "linear", "rope_theta": 300.0, "factor": 3.0}), llama_tokens,
         causal=True, dtype=BRAIN, must_matter={"scaling": {"rope_parameters": {"rope_type": "default", "rope_theta": 300.0}}}),
    Case("llama-bidirectional", "llama_bidirec", "model_type llama with is_causal false",
         models.decoder(hf.LlamaModel, is_causal=False, rope_parameters={"rope_type": "default", "rope_theta": 500.0}), llama_tokens,
         dtype=BRAIN, must_matter={"mask": {"is_causal": True}}, tokenizer_config=left_padding),
    Case("llama-bidirec-published", "llama_bidirec", "model_type llama_bidirec (NVIDIA's), no is_causal in the config",
         models.decoder(hf.LlamaModel, is_causal=False, rope_parameters=LLAMA3, head_dim=16), llama_tokens, dtype=BRAIN,
         prompts={"query": "query: ", "passage": "passage: "}, disguise=edits.published_llama_bidirectional),
    Case("mistral-e5", "mistral", "e5-mistral's kind: last token is </s>, nested base, keys without `model.`, no window",
         models.decoder(hf.MistralModel, vocab_size=220, sliding_window=None, rope_parameters={"rope_type": "default", "rope_theta": 500.0}),
         xlm_tokens, "lasttoken", causal=True, dtype=BRAIN, prompts=INSTRUCT_PROMPTS, must_matter={"base": DEFAULT_BASE}),
    Case("mistral-sliding-window", "mistral", "every layer sees 8 tokens back, itself included; `model.` keys, flat base",
         models.decoder(hf.MistralForCausalLM, vocab_size=220, head_dim=16, sliding_window=8,
                        rope_parameters={"rope_type": "default", "rope_theta": 300.0}), xlm_tokens, "lasttoken", causal=True,
         dtype=HALF, refusal_allowed=True, prepare=edits.transformers_4_config,
         must_matter={"window": {"sliding_window": None}, "window off by one": {"sliding_window": 9}}),
    Case("gemma-mean", "gemma", "embeddings times the root of the width, not exact in bfloat16; norms stored less one; wide heads",
         models.decoder(hf.GemmaModel, vocab_size=340, head_dim=16, num_key_value_heads=1,
                        rope_parameters={"rope_type": "default", "rope_theta": 300.0}),
         gemma_tokens, causal=True, must_matter={"base": DEFAULT_BASE}),
    Case("gemma-causal-lm", "gemma", "`model.` keys, bfloat16 on disk: the scale is still the float32 root",
         models.decoder(hf.GemmaForCausalLM, vocab_size=340, head_dim=8), gemma_tokens, "lasttoken", causal=True, dtype=BRAIN,
         prepare=edits.transformers_4_config),
    Case("gemma2-last-token", "gemma2", "soft-capped scores, own score scale, every other layer windowed, four norms a layer",
         models.decoder(hf.Gemma2Model, vocab_size=340, head_dim=16, query_pre_attn_scalar=24, sliding_window=8,
                        attn_logit_softcapping=2.0), gemma_tokens, "lasttoken", causal=True, dtype=BRAIN,
         must_matter={"window": {"sliding_window": 512}, "cap": {"attn_logit_softcapping": 50.0}, "scale": {"query_pre_attn_scalar": 16}}),
    Case("gemma2-causal-lm", "gemma2", "`model.` keys, window never reached", dtype=BRAIN, causal=True,
         model=models.decoder(hf.Gemma2ForCausalLM, vocab_size=340, head_dim=16, attn_logit_softcapping=3.0), tokenizer=gemma_tokens,
         prepare=edits.transformers_4_config),
    Case("gemma3-layer-types", "gemma3_text", "irregular layer_types, a base for each kind, causal windows",
         models.gemma3(layer_types=["full_attention", "sliding_attention", "sliding_attention"],
                       rope_parameters=TWO_BASES), gemma_tokens, "lasttoken", causal=True, dtype=BRAIN,
         must_matter={"window": {"sliding_window": 512}, "bases": ONE_BASE}),
    Case("gemma3-transformers-4", "gemma3_text", "sliding_window_pattern, rope_local_base_freq, `model.` keys",
         models.gemma3(hf.Gemma3ForCausalLM, sliding_window_pattern=2, rope_parameters=TWO_BASES), gemma_tokens, causal=True,
         dtype=BRAIN, prepare=edits.transformers_4_gemma3, must_matter={"window": {"sliding_window": 512}}),
    # ── Tokenizers that transformers 5 makes anew, by class, or with what other files than tokenizer.json say ──
    Case("tokenizer-rebuilt-llama", "llama", "tokenizer_class LlamaTokenizer: a text's leading spaces and the mark before it",
         models.decoder(hf.LlamaModel, vocab_size=360), llama2_tokens, causal=True, rebuilt=True,
         tokenizer_config={"tokenizer_class": "LlamaTokenizer", "pad_token": "</s>"}),
    Case("tokenizer-rebuilt-xlm", "xlm-roberta", "tokenizer_class XLMRobertaTokenizer, tokenizer.json of another structure: spaces at the end",
         models.roberta(hf.XLMRobertaModel), xlm_tokens, tokenizer_config={"tokenizer_class": "XLMRobertaTokenizer"}, rebuilt=True),
    Case("tokenizer-rebuilt-qwen2", "qwen2", "tokenizer_class PreTrainedTokenizerFast: model_type qwen2 has its own class all the same",
         models.decoder(hf.Qwen2Model), bare_tokens, causal=True, prepare=edits.split_as_gpt2_in_tokenizer_json, rebuilt=True),
    Case("tokenizer-rebuilt-roberta", "roberta", "tokenizer_class RobertaTokenizer: its own post-processor and add_prefix_space",
         models.roberta(), roberta_tokens, tokenizer_config={"tokenizer_class": "RobertaTokenizer", "add_prefix_space": True},
         prepare=edits.no_post_processor_in_tokenizer_json, rebuilt=True),
    Case("tokenizer-truncation-direction", "bert", "tokenizer.json's truncation.direction Left, which nothing else says", models.bert(), bert_tokens,
         prepare=edits.cut_left_in_tokenizer_json, rebuilt=True),
    Case("tokenizer-added-tokens", "bert", "words of added_tokens.json that tokenizer.json lacks", models.bert(vocab_size=203), bert_tokens,
         prepare=edits.add_words(harbour=200, trees=201, spaces=202), rebuilt=True),
    # ── EmbeddingGemma: |q − k| < sliding_window // 2 + 1 in local layers, nothing hidden in global ones ──
    Case("embeddinggemma", "embeddinggemma", "bidirectional windows of 4 to each side, Dense 32 → 64 → 32 without bias, prompts",
         models.gemma3(use_bidirectional_attention=True, sliding_window_pattern=3, rope_parameters=TWO_BASES), embeddinggemma_tokens,
         prompts=GEMMA_PROMPTS, dense=(Dense(64, bias=False, activation=IDENTITY), Dense(32, bias=False, activation=IDENTITY)),
         length_from="tokenizer_config.json",
         must_matter={"window": {"sliding_window": 512}, "window off by one": {"sliding_window": 6}, "bases": ONE_BASE}),
    Case("embeddinggemma-folded", "embeddinggemma", "mlx-community's form: dense.0 and dense.1 in the main file, `model.` keys, no sidecars",
         models.gemma3(use_bidirectional_attention=True, sliding_window_pattern=3, rope_parameters=TWO_BASES), embeddinggemma_tokens,
         prompts=GEMMA_PROMPTS, dense=(Dense(64, bias=False, activation=IDENTITY), Dense(32, bias=False, activation=IDENTITY)),
         length_from="tokenizer_config.json", dtype=BRAIN, prepare=edits.published_embeddinggemma_config, disguise=edits.fold_dense_and_strip,
         must_matter={"window off by one": {"sliding_window": 6}}),
    # ── EmbeddingGemma 2: |q − k| <= sliding_window in local layers; norms store their weights whole ──
    Case("embedding-gemma2", "embedding_gemma2", "the published form: text_config, `language_model.` keys, other towers to leave out; full layers have wider heads",
         models.embedding_gemma2(rope_parameters=TWO_BASES), embeddinggemma_tokens, dtype=BRAIN, prompts=GEMMA2_PROMPTS,
         disguise=edits.published_embedding_gemma2,
         must_matter={"factor": mistakes.no_layer_factor, "given": mistakes.no_layer_input}),
    Case("embedding-gemma2-text", "embedding_gemma2", "the tower alone, whose class knows bases, order of layers and full layers' heads; biases",
         models.embedding_gemma2(attention_bias=True, num_hidden_layers=2, sliding_window_pattern=2, per_layer_config={1: {"head_dim": 32, "num_key_value_heads": 1}}),
         embeddinggemma_tokens, prompts=GEMMA2_PROMPTS, length_from="tokenizer_config.json", dtype=BRAIN,
         prepare=edits.leave_to_the_class("layer_types", "rope_parameters", "per_layer_config", "rms_norm_eps", "hidden_activation",
                                          sliding_window_pattern=2, global_head_dim=32, num_global_key_value_heads=1),
         must_matter={"window": {"sliding_window": 512}, "window off by one": {"sliding_window": 3}, "factor": mistakes.no_layer_factor}),
    # ── LFM2: gated convolutions over few tokens between layers of attention ──
    Case("lfm2-causal-lm", "lfm2", "the earlier form of its files: full_attn_idxs, block_ff_dim, flat base, `model.` keys; a biased convolution of four tokens, in which padding on the left counts",
         models.lfm2(hf.Lfm2ForCausalLM, conv_bias=True, conv_L_cache=4, rope_parameters={"rope_type": "default", "rope_theta": 500.0}), llama_tokens, "lasttoken",
         causal=True, dtype=BRAIN, tokenizer_config=left_padding, padding_matters=True, prepare=edits.earlier_lfm2,
         must_matter={"base": DEFAULT_BASE, "gates": mistakes.gates_in_turn}),
    Case("lfm2-is-causal-false", "lfm2", "is_causal false opens attention, and no convolution; a network's width as it is said; what the class knows by itself",
         models.lfm2(is_causal=False, block_auto_adjust_ff_dim=False), llama_tokens, dtype=HALF,
         prepare=edits.leave_to_the_class("rope_parameters", "norm_eps", "conv_bias", "conv_L_cache"),
         must_matter={"mask": {"is_causal": True}, "gates": mistakes.gates_in_turn}),
    Case("lfm2-embedding", "lfm2", "LFM2.5-Embedding-350M's form: own code whose convolutions are centred, first token, no Normalize; the formula is ours, for no class has it",
         models.lfm2(is_causal=False), llama_tokens, "cls", dtype=BRAIN, normalize=False, prompts={"query": "query: ", "document": "document: "},
         amend=amendments.centre_convolutions, disguise=edits.published_lfm2_embedding,
         must_matter={"mask": {"is_causal": True}, "convolution": amendments.causal_convolutions, "gates": mistakes.gates_in_turn}),
    Case("lfm2-moe", "lfm2_moe", "LFM2-8B-A1B's kind: experts by sigmoids, of which a bias moves the choice alone, after a first layer without; their weights make one, times a factor",
         models.lfm2_moe(routed_scaling_factor=1.5, hidden_size=64), llama_tokens, "lasttoken", causal=True, dtype=BRAIN,
         must_matter={"sum": {"norm_topk_prob": False}, "factor": {"routed_scaling_factor": 1.0}, "chosen": {"num_experts_per_tok": 1}}),
    Case("lfm2-moe-plain", "lfm2_moe", "no bias, weights as they are; heads of 64",
         models.lfm2_moe(use_expert_bias=False, norm_topk_prob=False, num_experts_per_tok=3, head_dim=64, num_attention_heads=2, num_key_value_heads=1), llama_tokens, causal=True, dtype=HALF,
         must_matter={"sum": {"norm_topk_prob": True}}),
    # ── Rotary positions by a text's own length: in a batch the reference takes the longest one's, and remembers it ──
    Case("llama-dynamic", "llama", "dynamic scaling: a base for each length beyond 24 tokens, plain up to there",
         models.decoder(hf.LlamaModel, max_position_embeddings=24, rope_parameters=DYNAMIC), llama_tokens, causal=True, dtype=BRAIN, lengths=(23, 24, 25, 30, 40),
         neighbours_matter=True, amend=amendments.forget_lengths, must_matter={"scaling": DEFAULT_BASE}),
    Case("qwen2-dynamic-flat", "qwen2", "the same in transformers 4's form, both ways, biases; the trained length it names counts for nothing",
         models.decoder(hf.Qwen2Model, is_causal=False, max_position_embeddings=30, rope_parameters=DYNAMIC | {"original_max_position_embeddings": 12}), bare_tokens, dtype=HALF,
         lengths=(29, 30, 31, 36), neighbours_matter=True, amend=amendments.forget_lengths, prepare=edits.transformers_4_config, must_matter={"scaling": DEFAULT_BASE}),
    Case("phi3-longrope", "phi3", "divisors for texts of up to 20 tokens and for longer ones, one factor on both; Phi-3's place for the trained length",
         models.decoder(hf.Phi3Model, num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=80, original_max_position_embeddings=20, partial_rotary_factor=0.5,
                        rope_parameters=LONG | {"partial_rotary_factor": 0.5}), bare_tokens, "lasttoken", causal=True, dtype=BRAIN, lengths=(19, 20, 21, 30),
         neighbours_matter=True, prepare=edits.published_phi3, must_matter={"long": mistakes.short_divisors, "factor": mistakes.no_rope_factor}),
    Case("llama-longrope", "llama", "longrope with a factor of its own and the trained length among the settings",
         models.decoder(hf.LlamaModel, head_dim=8, max_position_embeddings=64, rope_parameters=LONG | {"factor": 5.0, "original_max_position_embeddings": 24}), llama_tokens,
         causal=True, dtype=HALF, lengths=(23, 24, 25, 40), neighbours_matter=True, must_matter={"long": mistakes.short_divisors, "factor": mistakes.no_rope_factor}),
    Case("llama-proportional", "llama", "the first quarter of a head's pairs turns by the whole head's frequencies, each by half",
         models.decoder(hf.LlamaModel, head_dim=16, rope_parameters=PROPORTIONAL), llama_tokens, causal=True, dtype=BRAIN, must_matter={"scaling": DEFAULT_BASE}),
    Case("qwen3-yarn-corners", "qwen3", "yarn whose factor is left to the lengths; mscale beside mscale_all_dim, betas of 0, no truncation",
         models.decoder(hf.Qwen3Model, head_dim=16, max_position_embeddings=96,
                        rope_parameters=YARN | {"factor": None, "mscale": 0.707, "mscale_all_dim": 1.0, "beta_fast": 0, "beta_slow": 0, "truncate": False}),
         qwen_tokens, "lasttoken", causal=True, dtype=HALF, must_matter={"scaling": DEFAULT_BASE, "factor": mistakes.no_rope_factor}),
    # ── The conversions that AkiDB's aliases name; MLX_PYTHON has MLX, which packs them ──
    Case("qwen3-embedding-4bit-dwq", "qwen3", "mlx-community's Qwen3-Embedding-0.6B-4bit-DWQ: 4 bits, `model.` keys, no sidecars, the family's prompts",
         models.decoder(hf.Qwen3Model, head_dim=16), qwen_tokens, "lasttoken", causal=True, length_from="tokenizer_config.json", tokenizer_config=left_padding,
         prompts={"query": QWEN3_QUERY}, max_seq_length=64, prepare=conversions.pack_with_dense, disguise=conversions.mlx_community("Qwen/Qwen3-Embedding-0.6B")),
    Case("embeddinggemma-300m-4bit", "embeddinggemma", "mlx-community's embeddinggemma-300m-4bit: 4 bits, dense.0 and dense.1 packed in the main file, no sidecars",
         models.gemma3(use_bidirectional_attention=True, sliding_window_pattern=3, rope_parameters=TWO_BASES), embeddinggemma_tokens,
         prompts=GEMMA_PROMPTS, dense=(Dense(64, bias=False, activation=IDENTITY), Dense(32, bias=False, activation=IDENTITY)), length_from="tokenizer_config.json",
         prepare=edits.each(edits.published_embeddinggemma_config, conversions.pack_with_dense), disguise=conversions.mlx_community("google/embeddinggemma-300m", dense=True)),
    # ── Other decoders of mlx-lm, one checkpoint each ──
    Case("phi3", "phi3", "packed qkv and gate_up, part of a head rotated", models.decoder(hf.Phi3Model, partial_rotary_factor=0.5),
         bare_tokens, causal=True, dtype=BRAIN),
    Case("olmo2", "olmo2", "norms after each block, query and key norms over the whole width", models.decoder(hf.Olmo2Model),
         bare_tokens, "lasttoken", causal=True, dtype=BRAIN),
    Case("granite", "granite", "embedding, residual and attention multipliers",
         models.decoder(hf.GraniteModel, embedding_multiplier=3.0, residual_multiplier=0.4, attention_multiplier=0.2), bare_tokens,
         causal=True, dtype=BRAIN),
    Case("smollm3", "smollm3", "every second layer without RoPE", models.decoder(hf.SmolLM3Model, no_rope_layer_interval=2), bare_tokens,
         "lasttoken", causal=True, dtype=BRAIN),
    Case("ernie4_5", "ernie4_5", "interleaved RoPE, biases", models.decoder(hf.Ernie4_5Model, head_dim=8, use_bias=True), bare_tokens,
         causal=True, dtype=BRAIN),
    Case("cohere", "cohere", "attention and network side by side on one norm, interleaved RoPE, query and key norms",
         models.decoder(hf.CohereModel, use_qk_norm=True, rope_parameters={"rope_type": "default", "rope_theta": 500.0}), bare_tokens,
         causal=True, dtype=BRAIN, must_matter={"base": DEFAULT_BASE}),
    Case("glm", "glm", "half of a head rotated, interleaved; packed gate_up", models.decoder(hf.GlmModel, head_dim=16), bare_tokens, "lasttoken",
         causal=True, dtype=BRAIN),
    Case("glm4", "glm4", "norms before and after each block, half of a head rotated", models.decoder(hf.Glm4Model, head_dim=16, attention_bias=True),
         bare_tokens, causal=True, dtype=BRAIN),
    Case("helium", "helium", "interleaved RoPE", models.decoder(hf.HeliumModel, head_dim=8), bare_tokens, "lasttoken", causal=True, dtype=BRAIN),
    Case("hunyuan", "hunyuan_v1_dense", "query and key norms after RoPE", models.decoder(hf.HunYuanDenseV1Model, head_dim=8), bare_tokens,
         causal=True, dtype=BRAIN),
    Case("nemotron", "nemotron", "squared ReLU without a gate, norms stored less one, half of a head rotated",
         models.decoder(hf.NemotronModel, head_dim=8), bare_tokens, "lasttoken", causal=True, dtype=BRAIN),
    Case("seed_oss", "seed_oss", "biases in attention, none after it", models.decoder(hf.SeedOssModel, head_dim=8, attention_bias=True),
         bare_tokens, causal=True, dtype=BRAIN),
    Case("stablelm", "stablelm", "layer norms with biases, a quarter of a head rotated",
         models.decoder(hf.StableLmModel, use_qkv_bias=True, partial_rotary_factor=0.25), bare_tokens, causal=True, dtype=BRAIN),
    Case("olmo3", "olmo3", "olmo3-embed-7b's kind: norms after each block, query and key norms over the whole width, windows in three of four layers, yarn on the fourth",
         models.decoder(hf.Olmo3Model, num_hidden_layers=4, intermediate_size=32, sliding_window=8,
                        rope_parameters={"full_attention": YARN | {"rope_theta": 500000.0, "attention_factor": 1.3}, "sliding_attention": {"rope_type": "default", "rope_theta": 500000.0}}),
         bare_tokens, "lasttoken", causal=True, dtype=BRAIN, prompts=INSTRUCT_PROMPTS, prepare=edits.published_olmo3,
         must_matter={"window": {"sliding_window": 512}, "window off by one": {"sliding_window": 9}, "scaling": mistakes.unscaled_olmo3}),
    Case("cohere2", "cohere2", "attention and network side by side, windows in three of four layers, which alone have rotary positions, interleaved",
         models.decoder(hf.Cohere2Model, num_hidden_layers=3, sliding_window=8, layer_types=["full_attention", "sliding_attention", "full_attention"],
                        rope_parameters={"rope_type": "default", "rope_theta": 500.0}), bare_tokens, causal=True, dtype=BRAIN,
         must_matter={"base": DEFAULT_BASE, "window": {"sliding_window": 512}, "window off by one": {"sliding_window": 9}}),
    Case("exaone4", "exaone4", "norms after each block alone, windowed layers that alone have rotary positions",
         models.decoder(hf.Exaone4Model, num_hidden_layers=3, sliding_window=8, layer_types=["sliding_attention", "full_attention", "sliding_attention"]), bare_tokens, "lasttoken",
         causal=True, dtype=BRAIN, prepare=edits.leave_to_the_class(sliding_window_pattern="LG"), must_matter={"window off by one": {"sliding_window": 9}}),
    Case("exaone4-full", "exaone4", "no window at all: every layer has rotary positions",
         models.decoder(hf.Exaone4Model, sliding_window=None, layer_types=["full_attention"] * 2, rope_parameters=LLAMA3), bare_tokens, causal=True, dtype=HALF,
         prepare=edits.transformers_4_with_layers, must_matter={"base": DEFAULT_BASE}),
    Case("starcoder2", "starcoder2", "layer norms, biases, tanh-gelu without a gate, a window in every layer",
         models.decoder(hf.Starcoder2Model, sliding_window=8, num_key_value_heads=1), bare_tokens, causal=True, dtype=BRAIN,
         must_matter={"window": {"sliding_window": None}, "window off by one": {"sliding_window": 9}, "activation": {"hidden_act": "relu"}}),
    Case("starcoder2-no-bias", "starcoder2", "no biases, exact gelu", models.decoder(hf.Starcoder2Model, use_bias=False, hidden_act="gelu", num_key_value_heads=1), bare_tokens,
         "lasttoken", causal=True, dtype=HALF, must_matter={"activation": {"hidden_act": "relu"}}),
    Case("apertus", "apertus", "an activation with scalars of its own (xIELU), no gate, query and key norms; the class's own llama3 scaling; biases in attention",
         models.decoder(hf.ApertusModel, attention_bias=True, max_position_embeddings=65536), bare_tokens, causal=True, dtype=BRAIN,
         prepare=edits.leave_to_the_class("rope_parameters", post_norm=False, qk_norm=True, mlp_bias=False, rope_theta=5000.0), must_matter={"scalars": mistakes.plain_xielu}),
    Case("olmo", "olmo", "layer norms without weights", models.decoder(hf.OlmoModel), bare_tokens, "lasttoken", causal=True, dtype=BRAIN),
    Case("phi", "phi", "attention and network side by side on one layer norm, biases, half of a head rotated",
         models.decoder(hf.PhiModel, partial_rotary_factor=0.5, rope_parameters={"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.5}), bare_tokens,
         causal=True, dtype=BRAIN, must_matter={"base": {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}}}),
    Case("internlm3", "internlm3", "Llama's layers by other names of the biases, dynamic scaling",
         models.internlm3(head_dim=8, attention_bias=True, mlp_bias=True, max_position_embeddings=24, rope_parameters=DYNAMIC), bare_tokens, causal=True, dtype=BRAIN,
         lengths=(24, 25, 40), neighbours_matter=True, amend=amendments.forget_lengths, prepare=edits.published_internlm3, must_matter={"scaling": DEFAULT_BASE}),
    Case("gptj-weighted-mean", "gptj", "SGPT's kind: attention and network side by side on one layer norm, four channels of each head turned in pairs, `transformer.` keys; weights 1, 2, 3 …",
         models.gpt(hf.GPTJForCausalLM, rotary_dim=4), bare_tokens, "weightedmean", causal=True, dtype=BRAIN, must_matter={"turned": {"rotary_dim": 8}}),
    Case("gpt2", "gpt2", "positions of a table, weights with inputs first; scores by the layer's number", models.gpt(hf.GPT2LMHeadModel, scale_attn_by_inverse_layer_idx=True),
         bare_tokens, "lasttoken", causal=True, dtype=BRAIN, padding_matters=False, must_matter={"scale": {"scale_attn_by_inverse_layer_idx": False}}),
    Case("gpt_neox", "gpt_neox", "queries, keys and values side by side in each head, two layer norms of the same input, a quarter of a head turned, exact gelu",
         models.decoder(hf.GPTNeoXModel, rope_parameters={"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.25}), bare_tokens, causal=True, dtype=BRAIN,
         must_matter={"parallel": {"use_parallel_residual": False}, "activation": {"hidden_act": "relu"}}),
    Case("gpt_neox-sequential", "gpt_neox", "one after the other, the earlier names rotary_pct and rotary_emb_base, no biases in attention, `gpt_neox.` keys",
         models.decoder(hf.GPTNeoXForCausalLM, use_parallel_residual=False, attention_bias=False, hidden_act="gelu_new",
                        rope_parameters={"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.5}), bare_tokens, "lasttoken", causal=True, dtype=HALF,
         prepare=edits.published_neox, must_matter={"parallel": {"use_parallel_residual": True}}),
    Case("bert-side-lengths", "bert", "a length for queries and one for documents, of which one is less and one more than max_seq_length", models.bert(), bert_tokens,
         prompts=SEARCH_PROMPTS, transformer={"query_length": 12, "document_length": 56}),
    # ── Fine-tunes of chat models: each text goes through the tokenizer's chat template ──
    Case("qwen3-chat", "qwen3", "a chat template around each text, prompts as a system message, the template's end restored; the post-processor's end token unused",
         models.decoder(hf.Qwen3Model, head_dim=16), qwen_tokens, "lasttoken", causal=True, max_seq_length=96, prompts=QWEN_PROMPTS | {"document": "Remember this."},
         tokenizer_config=left_padding, template=chat_templates.CHAT,
         must_matter={"template": mistakes.no_template, "suffix": mistakes.template(restore_suffix=False), "generation prompt": mistakes.template(add_generation_prompt=True)}),
    Case("qwen3-chat-arguments", "qwen3", "arguments of the template, a length and no end restored in processing_kwargs, a default prompt; the longer max_seq_length unused",
         models.decoder(hf.Qwen3Model, head_dim=16), bare_tokens, "lasttoken", causal=True, max_seq_length=200, usable_length=80, dtype=BRAIN,
         prompts=QWEN_PROMPTS | {"document": "Remember."}, default_prompt_name="query", template=chat_templates.CHAT,
         transformer={"processing_kwargs": {"text": {"max_length": 80}, "common": {"max_length": 60, "truncation": False}, "chat_template": {"add_generation_prompt": True, "restore_suffix": False}}},
         must_matter={"template": mistakes.no_template, "suffix": mistakes.template(add_generation_prompt=True), "generation prompt": mistakes.template(restore_suffix=False)}),
    Case("llama-chat-structured", "llama", "contents as lists of parts, bos_token and eos_token from the template; mean over the prompt too, though include_prompt is false",
         models.decoder(hf.LlamaModel, head_dim=16), llama_tokens, causal=True, max_seq_length=96, prompts=SEARCH_PROMPTS, include_prompt=False, dtype=BRAIN,
         template=chat_templates.PARTS, message_format="structured", must_matter={"template": mistakes.no_template, "suffix": mistakes.template(restore_suffix=False)}),
    Case("qwen3-chat-task", "qwen3", "a template that reads what the text is for, and prints the prompt last; texts are cut at their start",
         models.decoder(hf.Qwen3Model, head_dim=16), qwen_tokens, "weightedmean", causal=True, max_seq_length=64, prompts=QWEN_PROMPTS,
         tokenizer_config={"truncation_side": "left"}, template=chat_templates.TASKS, must_matter={"template": mistakes.no_template}),
    # ── Heads as wide as real models', for which GPUs have fused attention; narrow otherwise ──
    Case("mixtral-causal-lm", "mixtral", "experts one by one (w1, w2, w3), two of four, their weights one in all; `model.` keys, lm_head",
         models.mixture(hf.MixtralForCausalLM, num_local_experts=4, sliding_window=8), llama_tokens, "lasttoken", causal=True, max_seq_length=40,
         must_matter={"chosen": {"num_experts_per_tok": 1}, "window": {"sliding_window": 512}, **mistakes.EXPERTS}),
    Case("mixtral-stacked", "mixtral", "tokens see both ways (GritLM's kind), all experts in one array with gate and up side by side, bare keys",
         models.mixture(hf.MixtralModel, num_local_experts=4, is_causal=False), llama_tokens, dtype=BRAIN, prompts={"query": "<|user|>\nfind\n<|embed|>\n", "document": "<|embed|>\n"},
         disguise=edits.stack_experts, must_matter={"mask": {"is_causal": True}, "chosen": {"num_experts_per_tok": 3}, **mistakes.EXPERTS}),
    Case("qwen3-moe", "qwen3_moe", "num_experts and transformers 4's config; weights one in all (norm_topk_prob); flat base",
         models.mixture(hf.Qwen3MoeModel, head_dim=16, num_experts=8, num_experts_per_tok=3, norm_topk_prob=True, moe_intermediate_size=24,
                        rope_parameters={"rope_type": "default", "rope_theta": 500.0}), qwen_tokens, "lasttoken", causal=True,
         prompts=QWEN_PROMPTS, tokenizer_config=left_padding, prepare=edits.each(edits.transformers_4_config, edits.say_num_experts),
         must_matter={"sum": {"norm_topk_prob": False}, "chosen": {"num_experts_per_tok": 2}, "base": DEFAULT_BASE, **mistakes.EXPERTS}),
    Case("qwen3-moe-some-layers", "qwen3_moe", "experts in the second layer alone (mlp_only_layers, decoder_sparse_step), biases, weights as they are; transformers 5's num_local_experts",
         models.mixture(hf.Qwen3MoeModel, head_dim=16, num_hidden_layers=4, num_experts=4, moe_intermediate_size=24, decoder_sparse_step=2, mlp_only_layers=[3],
                        attention_bias=True, intermediate_size=40), qwen_tokens, causal=True,
         must_matter={"sum": {"norm_topk_prob": True}, **mistakes.EXPERTS}),
    Case("qwen2-moe", "qwen2_moe", "an expert for all tokens behind a gate; weights as they are", models.mixture(hf.Qwen2MoeModel, num_experts=4, moe_intermediate_size=24,
         shared_expert_intermediate_size=40), qwen_tokens, causal=True, must_matter={"sum": {"norm_topk_prob": True}, **mistakes.EXPERTS, **mistakes.SHARED}),
    Case("qwen2-moe-normalised", "qwen2_moe", "norm_topk_prob, which mlx-lm ignores; the first layer without experts; bfloat16", models.mixture(hf.Qwen2MoeForCausalLM, num_experts=4,
         moe_intermediate_size=24, shared_expert_intermediate_size=40, norm_topk_prob=True, mlp_only_layers=[0]), qwen_tokens, "lasttoken", causal=True, dtype=BRAIN,
         must_matter={"sum": {"norm_topk_prob": False}, **mistakes.SHARED}),
    Case("olmoe", "olmoe", "query and key norms over the whole width, weights as they are", models.mixture(hf.OlmoeModel, num_experts=8, num_experts_per_tok=3, intermediate_size=24), bare_tokens,
         causal=True, must_matter={"sum": {"norm_topk_prob": True}, "chosen": {"num_experts_per_tok": 2}, **mistakes.EXPERTS}),
    Case("granitemoe", "granitemoe", "input_linear and output_linear, the four multipliers", models.mixture(hf.GraniteMoeModel, num_local_experts=4, intermediate_size=24,
         embedding_multiplier=3.0, attention_multiplier=0.3, residual_multiplier=0.6, logits_scaling=2.0), bare_tokens, causal=True,
         must_matter={"chosen": {"num_experts_per_tok": 1}, "residual": {"residual_multiplier": 1.0}, **mistakes.EXPERTS}),
    Case("ernie4_5-moe", "ernie4_5_moe", "a correction of each expert that counts in the choice alone, two networks for all tokens, the first layer without experts",
         models.mixture(hf.Ernie4_5_MoeModel, moe_num_experts=6, moe_k=2, moe_intermediate_size=16, moe_num_shared_experts=2, use_bias=True), bare_tokens, causal=True,
         must_matter={"chosen": {"moe_k": 3}, "correction": mistakes.no_correction, **mistakes.EXPERTS}),
    Case("heads-64-bert", "bert", "heads of 64", models.bert(**TWO_HEADS_OF_64), bert_tokens, "cls", dtype=HALF, **TILES,
         must_matter={"keys": mistakes.keys_of_the_next_head}),
    Case("heads-64-mpnet", "mpnet", "heads of 64 with a bias", models.mpnet(**TWO_HEADS_OF_64), mpnet_tokens, dtype=HALF, **TILES,
         must_matter={"bias": mistakes.no_relative_bias}),
    Case("heads-64-t5", "t5", "heads of 64, gated-gelu (FRIDA's kind): cls reads what the text begins with",
         models.t5(d_kv=64, num_heads=2, feed_forward_proj="gated-gelu"), t5_tokens, "cls", dtype=BRAIN, **TILES,
         prepare=edits.scaled("SelfAttention.q.weight", 0.125), must_matter={"bias": mistakes.no_t5_bias, "scale": mistakes.scaled_t5}),
    Case("heads-64-albert", "albert", "heads of 64, gelu_new, one group", models.albert(**TWO_HEADS_OF_64, embedding_size=32, num_hidden_groups=1, num_hidden_layers=2), albert_tokens,
         "cls", dtype=HALF, **TILES, must_matter={"layers": {"num_hidden_layers": 3}}),
    Case("heads-64-electra", "electra", "heads of 64, tables of the full width", models.electra(**TWO_HEADS_OF_64, embedding_size=128, num_hidden_layers=1), bert_tokens, "cls", dtype=HALF,
         **TILES, must_matter={"keys": mistakes.keys_of_the_next_head}),
    Case("heads-64-ernie", "ernie", "heads of 64, no type of task but its table", models.ernie(**TWO_HEADS_OF_64, num_hidden_layers=1, use_task_id=False), bert_tokens,
         "cls", dtype=BRAIN, **TILES, must_matter={"keys": mistakes.keys_of_the_next_head}),
    Case("deberta-heads-64", "deberta", "one head of 64; a table of 64 rows to each side", **TILES, pooling="cls",
         model=models.deberta(hidden_size=64, num_attention_heads=1, num_hidden_layers=1, intermediate_size=32, max_position_embeddings=64),
         tokenizer=deberta_tokens,
         must_matter={"sides": mistakes.positions_reversed}),
    Case("heads-64-deberta-v2", "deberta-v2", "heads of 64, 32 buckets, narrow tables and a layer to the width",
         models.deberta_v2(**TWO_HEADS_OF_64, num_hidden_layers=1, position_buckets=32, embedding_size=32), deberta_v2_tokens, "cls",
         dtype=HALF, **TILES, must_matter={"sides": mistakes.positions_reversed, "one kind": {"pos_att_type": ["c2p"]}}),
    Case("heads-64-nomic-moe", "nomic_bert", "heads of 64, two of four experts",
         models.nomic_moe(hidden_size=128, num_attention_heads=2, num_hidden_layers=2, intermediate_size=32, num_experts=4), xlm_tokens, dtype=HALF,
         disguise=edits.published_nomic_moe_config, **TILES, must_matter={**mistakes.NOMIC_MOE, "base": {"rope_theta": 77.0}}),
    Case("heads-64-modernbert", "modernbert", "heads of 64, a window of 4 to each side in the second layer",
         models.modernbert(**TWO_HEADS_OF_64, num_hidden_layers=2, global_attn_every_n_layers=2, local_attention=8, rope_parameters=TWO_BASES),
         bert_tokens, dtype=BRAIN, **TILES,
         must_matter={"window": {"local_attention": 256}, "window off by one": {"local_attention": 10}, "bases": ONE_BASE}),
    Case("heads-64-llama", "llama", "sixteen causal heads of 64, eight to each head of keys",
         models.decoder(hf.LlamaModel, head_dim=64, num_attention_heads=16, intermediate_size=32, rope_parameters=LLAMA3), llama_tokens,
         causal=True, dtype=BRAIN, **TILES,
         must_matter={"scaling": {"rope_parameters": {"rope_type": "default", "rope_theta": 5000.0}}, "grouping": mistakes.keys_in_turn}),
    Case("heads-64-olmo3", "olmo3", "two causal heads of 64 with norms over both; the first layer sees 20 tokens back, a base for each kind",
         models.decoder(hf.Olmo3Model, hidden_size=64, head_dim=64, num_attention_heads=2, num_key_value_heads=1, intermediate_size=16, sliding_window=20,
                        layer_types=["sliding_attention", "full_attention"], rope_parameters=TWO_BASES), bare_tokens, causal=True, dtype=HALF, **TILES,
         must_matter={"window": {"sliding_window": 512}, "window off by one": {"sliding_window": 21}, "bases": ONE_BASE}),
    Case("heads-64-mixtral", "mixtral", "two causal heads of 64",
         models.mixture(hf.MixtralModel, head_dim=64, hidden_size=64, num_attention_heads=2, num_key_value_heads=1, intermediate_size=32, num_local_experts=4, num_experts_per_tok=3), llama_tokens,
         causal=True, dtype=HALF, prepare=sure_router, **TILES, must_matter={"chosen": {"num_experts_per_tok": 1}, **mistakes.EXPERTS}),
    Case("heads-128-qwen3-moe", "qwen3_moe", "two causal heads of 128; mlx-lm's switch_mlp",
         models.mixture(hf.Qwen3MoeModel, head_dim=128, hidden_size=64, num_attention_heads=2, num_key_value_heads=1, moe_intermediate_size=32, num_experts=8,
                        num_experts_per_tok=4, norm_topk_prob=True), qwen_tokens, "lasttoken", causal=True, dtype=HALF, **TILES, disguise=edits.switch_mlp,
         must_matter={"sum": {"norm_topk_prob": False}, **mistakes.EXPERTS}),
    Case("heads-64-qwen2-moe", "qwen2_moe", "two causal heads of 64; mlx-lm's switch_mlp",
         models.mixture(hf.Qwen2MoeModel, **TWO_HEADS, num_experts=4, num_experts_per_tok=3, moe_intermediate_size=16, shared_expert_intermediate_size=32), qwen_tokens,
         causal=True, dtype=HALF, prepare=sure_router, **TILES, disguise=edits.switch_mlp, must_matter=mistakes.SHARED),
    Case("heads-64-olmoe", "olmoe", "two causal heads of 64; mlx-lm's switch_mlp", models.mixture(hf.OlmoeModel, **TWO_HEADS, intermediate_size=16, num_experts=4), bare_tokens,
         causal=True, dtype=HALF, **TILES, disguise=edits.switch_mlp, must_matter={"sum": {"norm_topk_prob": True}, **mistakes.EXPERTS}),
    Case("heads-64-granitemoe", "granitemoe", "two causal heads of 64; mlx-lm's switch_mlp", models.mixture(hf.GraniteMoeModel, **TWO_HEADS, intermediate_size=16, num_local_experts=4, num_experts_per_tok=3,
         attention_multiplier=0.125), bare_tokens, causal=True, dtype=HALF, prepare=sure_router, **TILES, disguise=edits.switch_mlp, must_matter=mistakes.EXPERTS),
    Case("heads-64-ernie4_5-moe", "ernie4_5_moe", "two causal heads of 64", models.mixture(hf.Ernie4_5_MoeModel, **TWO_HEADS, moe_num_experts=4, moe_k=3, moe_intermediate_size=16,
         moe_num_shared_experts=1), bare_tokens, causal=True, dtype=HALF, prepare=sure_router, **TILES, must_matter=mistakes.EXPERTS),
    Case("heads-96-llama-dynamic", "llama", "four causal heads of 96 with dynamic scaling beyond 40 tokens",
         models.decoder(hf.LlamaModel, head_dim=96, intermediate_size=16, max_position_embeddings=40, rope_parameters=DYNAMIC), llama_tokens, causal=True, dtype=BRAIN, **TILES,
         neighbours_matter=True, amend=amendments.forget_lengths, must_matter={"scaling": DEFAULT_BASE, "grouping": mistakes.keys_in_turn}),
    Case("heads-64-phi3", "phi3", "two causal heads of 64 with longrope beyond 40 tokens",
         models.decoder(hf.Phi3Model, hidden_size=128, num_attention_heads=2, num_key_value_heads=1, num_hidden_layers=1, intermediate_size=16, max_position_embeddings=160,
                        original_max_position_embeddings=40, rope_parameters={"rope_type": "longrope", "rope_theta": 10000.0, "partial_rotary_factor": 1.0,
                                                                              "short_factor": [1.0 + 0.02 * i for i in range(32)], "long_factor": [1.0 + 0.5 * i for i in range(32)], "attention_factor": 1.6}),
         bare_tokens, causal=True, dtype=BRAIN, **TILES, neighbours_matter=True, must_matter={"long": mistakes.short_divisors, "factor": mistakes.no_rope_factor}),
    Case("heads-96-qwen3", "qwen3", "eight causal heads of 96, four to each head of keys; the second layer sees 20 tokens back",
         models.decoder(hf.Qwen3Model, head_dim=96, num_attention_heads=8, intermediate_size=32, use_sliding_window=True, sliding_window=20,
                        max_window_layers=1), bare_tokens, causal=True, dtype=HALF, **TILES,
         must_matter={"window": {"sliding_window": 512}, "window off by one": {"sliding_window": 21}, "grouping": mistakes.keys_in_turn}),
    Case("heads-128-qwen3", "qwen3", "eight causal heads of 128, four to each head of keys; last token",
         models.decoder(hf.Qwen3Model, head_dim=128, num_attention_heads=8, intermediate_size=32,
                        rope_parameters={"rope_type": "default", "rope_theta": 500.0}), qwen_tokens, "lasttoken", causal=True, dtype=BRAIN,
         tokenizer_config=left_padding, **TILES, must_matter={"base": DEFAULT_BASE, "grouping": mistakes.keys_in_turn}),
    Case("heads-128-llama", "llama_bidirec", "eight heads of 128 that see both ways, all of one head of keys",
         models.decoder(hf.LlamaModel, is_causal=False, head_dim=128, num_attention_heads=8, num_key_value_heads=1, intermediate_size=32,
                        rope_parameters={"rope_type": "default", "rope_theta": 500.0}), llama_tokens, dtype=BRAIN, **TILES,
         must_matter={"mask": {"is_causal": True}, "base": DEFAULT_BASE}),
    Case("heads-256-gemma3", "gemma3_text", "four causal heads of 256, all of one head of keys; the first layer sees 20 tokens back",
         models.gemma3(head_dim=256, num_hidden_layers=2, sliding_window=20, sliding_window_pattern=2, rope_parameters=TWO_BASES), gemma_tokens,
         causal=True, dtype=BRAIN, **TILES,
         must_matter={"window": {"sliding_window": 512}, "window off by one": {"sliding_window": 21}, "bases": ONE_BASE}),
    Case("heads-64-lfm2", "lfm2", "four heads of 64 of one head of keys that see both ways, centred convolutions of three tokens",
         models.lfm2(is_causal=False, hidden_size=64, head_dim=64, num_key_value_heads=1, layer_types=["conv", "full_attention"], num_hidden_layers=2), llama_tokens, "cls", dtype=BRAIN, **TILES,
         amend=amendments.centre_convolutions, disguise=edits.published_lfm2_embedding,
         must_matter={"mask": {"is_causal": True}, "convolution": amendments.causal_convolutions}),
    Case("heads-256-embedding-gemma2", "embedding_gemma2", "two heads of 64 of two heads of keys, with a window of 8 to each side; then two of 256 of one",
         models.embedding_gemma2(head_dim=64, num_attention_heads=2, num_hidden_layers=2, sliding_window=8, layer_types=["sliding_attention", "full_attention"],
                                 per_layer_config={1: {"head_dim": 256, "num_key_value_heads": 1}}, rope_parameters=TWO_BASES),
         embeddinggemma_tokens, dtype=BRAIN, **TILES, prepare=edits.scaled("q_norm", 0.15),
         must_matter={"window": {"sliding_window": 512}, "window off by one": {"sliding_window": 7}, "bases": ONE_BASE}),
    Case("heads-256-embeddinggemma", "embeddinggemma", "two heads of 256 of one head of keys; a window of 8 to each side in the first layer",
         models.gemma3(head_dim=256, num_attention_heads=2, num_hidden_layers=2, sliding_window=16, sliding_window_pattern=2,
                       use_bidirectional_attention=True, rope_parameters=TWO_BASES), embeddinggemma_tokens, dtype=BRAIN, **TILES,
         must_matter={"window": {"sliding_window": 512}, "window off by one": {"sliding_window": 14}, "bases": ONE_BASE}),
    *decoder_embedders.CASES,
)
# fmt: on


def make(case: Case) -> str:
    """Write one case's folder; gives a line about it."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / case.name
        write_checkpoint(case, folder)
        model = reference.load(folder, amend=case.amend)
        assert model.max_seq_length == case.max_seq_length, model.max_seq_length
        model.max_seq_length = case.usable_length or case.max_seq_length
        labelled, without_tokens = reference.make_texts(model, case.lengths)
        texts = list(labelled.values())
        if not case.template:
            reference.check_tokenizer_file(case, folder, model, texts, rebuilt=case.rebuilt)
        vectors = reference.compute(case, model, texts)
        reference.check_vectors(case, model, texts, vectors)
        reference.check_pooling(case, model, texts, vectors["embeddings"])
        reference.check_order(case, model)
        plain = vectors["embeddings"]
        moved = reference.check_changes_show(case, folder, texts, vectors["embeddings"])
        if case.dtype != torch.float32:
            stored = reference.load(folder, case.dtype, case.amend)
            stored.max_seq_length = model.max_seq_length
            vectors["stored_dtype_embeddings"] = reference.compute(case, stored, texts)["embeddings"]
        if case.output:
            vectors = {name: case.output(rows, name != "stored_dtype_embeddings") for name, rows in vectors.items()}
        if case.disguise:
            case.disguise(folder)
        facts = {
            "case": case.name,
            "family": case.family,
            "checks": case.checks,
            "max_seq_length": model.max_seq_length,
            "stored_dtype": str(case.dtype).removeprefix("torch."),
            "refusal_allowed": case.refusal_allowed,
            "labels": list(labelled),
            "texts": texts,
            "token_ids": reference.token_ids(model, texts),
            "texts_without_tokens": without_tokens,
            "config_changes_that_must_show": moved,
        }
        reference.check_precision(model, texts, plain)
        write_reference(folder, vectors, facts)
        copy_checkpoint(folder, HERE / case.name)
    return describe(case.name, case.family, vectors)


def write_reference(folder: Path, vectors: dict[str, np.ndarray], facts: dict) -> None:
    packages = (sentence_transformers, hf, torch)
    facts["versions"] = {package.__name__: package.__version__ for package in packages}
    np.savez_compressed(folder / "reference.npz", **vectors)
    write_facts(folder / "reference.json", facts)


def describe(name: str, family: str, vectors: dict[str, np.ndarray]) -> str:
    size = sum(path.stat().st_size for path in (HERE / name).rglob("*") if path.is_file())
    shape = " × ".join(str(number) for number in vectors["embeddings"].shape)
    return f"{name:28} {family:16} {shape:10} {size // 1000:4} kB"


def main(names: list[str]) -> None:
    logging.basicConfig(format="%(message)s")
    log.setLevel(logging.INFO)
    hf.utils.logging.set_verbosity_error()
    hf.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    known = [case.name for case in (*CASES, *static.CASES, *jina.CASES)]
    unknown = set(names) - set(known)
    if unknown:
        sys.exit(f"unknown cases: {', '.join(sorted(unknown))}")
    for case in CASES:
        if not names or case.name in names:
            log.info(make(case))
    for case in jina.CASES:
        if not names or case.name in names:
            vectors, facts = jina.make(case, HERE / case.name)
            write_reference(HERE / case.name, vectors, facts)
            log.info(describe(case.name, "jina-bert", vectors))
    for case in static.CASES:
        if not names or case.name in names:
            vectors, facts = static.make(case, HERE / case.name)
            write_reference(HERE / case.name, vectors, facts)
            log.info(describe(case.name, "static", vectors))


if __name__ == "__main__":
    main(sys.argv[1:])
