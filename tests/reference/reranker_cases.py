"""The table of rerankers: one row a checkpoint."""
# ruff: noqa: E501 -- a case a row reads as a table.

import models
import reranker_mistakes as mistakes
import torch
import transformers as hf
from reranker_case import RerankerCase
from reranker_modules import logit_score
from reranker_templates import THINKING
from reranker_tokenizers import (
    bert_tokens,
    qwen_answer_tokens,
    qwen_end_tokens,
    roberta_tokens,
    xlm_tokens,
)

BERT = {"tokenizer_class": "BertTokenizer"}
QWEN = {"tokenizer_class": "Qwen2Tokenizer", "add_bos_token": False}
# The ids of <|endoftext|>, of which one is the tokenizer's pad token.
QWEN_PAD = {"pad_token_id": 295}
LOW_BASE = {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}

SMALL = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
NARROW = {**SMALL, "num_key_value_heads": 1}
bert = models.bert(hf.BertForSequenceClassification, num_labels=1)
types = {"token types": mistakes.no_token_types}

# fmt: off
CASES: tuple[RerankerCase, ...] = (
    RerankerCase("bert", "bert", "plain folder: token types 0 and 1, pooler with tanh, classifier, sigmoid for one label",
                 bert, bert_tokens, tokenizer_config=BERT,
                 mistakes=types | {"tanh": mistakes.replaced("bert.pooler.activation", torch.nn.ReLU), "bias": mistakes.without_bias("0.model.classifier"),
                                   "limit": mistakes.limit(31)}),
    RerankerCase("bert-saved", "bert", "as sentence-transformers saves it: modules.json with a lone Transformer, activation in config_sentence_transformers.json",
                 bert, bert_tokens, tokenizer_config=BERT, saved=True, activation=torch.nn.Identity(), mistakes=types),
    RerankerCase("bert-three-labels", "bert", "three labels: a row of three, identity by default", models.bert(hf.BertForSequenceClassification, num_labels=3),
                 bert_tokens, tokenizer_config=BERT, mistakes=types),
    RerankerCase("roberta", "roberta", "classifier.dense, tanh, classifier.out_proj on the first token; two separators; byte-level BPE",
                 models.roberta(hf.RobertaForSequenceClassification, num_labels=1, **SMALL), roberta_tokens, tokenizer_config={"tokenizer_class": "RobertaTokenizer"},
                 max_seq_length=33, mistakes={"separators": mistakes.pair_layout(1)}),
    RerankerCase("xlm-roberta", "xlm-roberta", "bge-reranker's kind: two separators, no token types, unigram tokenizer",
                 models.roberta(hf.XLMRobertaForSequenceClassification, num_labels=1, vocab_size=220, **SMALL), xlm_tokens,
                 tokenizer_config={"tokenizer_class": "XLMRobertaTokenizer"}, max_seq_length=33, mistakes={"separators": mistakes.pair_layout(1)}),
    RerankerCase("modernbert-cls", "modernbert", "classifier_pooling cls; head.dense, gelu, head.norm, classifier",
                 models.modernbert(hf.ModernBertForSequenceClassification, num_labels=1, **SMALL, classifier_pooling="cls"), bert_tokens,
                 mistakes={"mean": mistakes.config(classifier_pooling="mean")}),
    RerankerCase("modernbert-mean", "modernbert", "classifier_pooling mean (gte-reranker-modernbert's kind)",
                 models.modernbert(hf.ModernBertForSequenceClassification, num_labels=1, **SMALL, classifier_pooling="mean"), bert_tokens,
                 mistakes={"cls": mistakes.config(classifier_pooling="cls")}),
    RerankerCase("qwen3-classifier", "qwen3", "the rightmost token that is not the pad token: the one before the <|endoftext|> that the tokenizer appends",
                 models.decoder(hf.Qwen3ForSequenceClassification, num_labels=1, head_dim=16, **NARROW, **QWEN_PAD, **LOW_BASE), qwen_end_tokens, tokenizer_config=QWEN,
                 max_seq_length=64,
                 mistakes={"last token": mistakes.config(pad_token_id=None), "limit": mistakes.limit(63)}),
    RerankerCase("qwen3-reranker", "qwen3", "Qwen3-Reranker's kind: chat template with query and document, logit of yes less that of no, tied, the template's end restored",
                 models.decoder(hf.Qwen3ForCausalLM, head_dim=16, **NARROW, tie_word_embeddings=True, **LOW_BASE), qwen_answer_tokens, tokenizer_config=QWEN,
                 max_seq_length=224, template=THINKING, saved=True, modules=logit_score("yes", "no"),
                 prompts={"query": "Find what the query asks for."}, default_prompt_name="query",
                 mistakes={"suffix": mistakes.processing(chat_template={"restore_suffix": False}), "prompt": mistakes.no_prompt,
                           "false token": mistakes.without_false}),
)
