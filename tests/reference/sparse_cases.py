"""The table of sparse encoders: one row a checkpoint."""
# ruff: noqa: E501 -- a case a row reads as a table.

import models
import sparse_mistakes as mistakes
import torch
import transformers as hf
from reranker_tokenizers import bert_tokens, mpnet_tokens, roberta_tokens, xlm_tokens
from sparse_case import SparseCase
from sparse_edits import decoder_beside_tie, legacy, published_gte, with_idf_file
from sparse_modules import autoencoder, routed, splade

BERT = {"tokenizer_class": "BertTokenizer"}
ROBERTA, XLM = {"tokenizer_class": "RobertaTokenizer"}, {"tokenizer_class": "XLMRobertaTokenizer"}
SMALL = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
FIND = {"query": "Find what this asks for: ", "document": "text: ", "passage": "passage: ", "title": "title: "}

splades = {"strategy": mistakes.other_strategy, "activation": mistakes.other_activation, "bias": mistakes.without_bias}
latents = {"normalize": mistakes.other_normalize, "k": mistakes.another_k}


def bert(**options):
    return models.bert(hf.BertForMaskedLM, **options)


def modernbert(**options):
    return models.modernbert(hf.ModernBertForMaskedLM, **{**SMALL, **options})


# fmt: off
CASES: tuple[SparseCase, ...] = (
    SparseCase("bert-max", "bert", "max of log(1 + relu), tied decoder", bert(), bert_tokens, splade(), BERT, mistakes=splades),
    SparseCase("bert-log1p", "bert", "the logarithm twice", bert(), bert_tokens, splade("max", "log1p_relu"), BERT, mistakes=splades),
    SparseCase("bert-sum", "bert", "sum over the tokens, special ones too; prompts for both sides, and one of passages that counts for nothing; cosine",
               bert(), bert_tokens, splade("sum"), BERT, prompts=FIND, similarity="cosine", mistakes=splades),
    SparseCase("bert-sum-log1p", "bert", "sum, the logarithm twice; a default prompt; euclidean", bert(), bert_tokens, splade("sum", "log1p_relu"), BERT,
               prompts={"query": "q: ", "title": "title: "}, default_prompt_name="title", similarity="euclidean", mistakes=splades),
    SparseCase("bert-untied", "bert", "a decoder of its own with a bias of its own; relu inside", bert(tie_word_embeddings=False, hidden_act="relu"), bert_tokens, splade(), BERT,
               mistakes=splades | {"tie": mistakes.tied}),
    SparseCase("bert-untied-beside-tie", "bert", "the file has a decoder, config.json says that it is tied", bert(tie_word_embeddings=False), bert_tokens, splade(), BERT,
               prepare=decoder_beside_tie, mistakes=splades),
    SparseCase("bert-legacy", "bert", "files of sentence-transformers 5.0 (MLMTransformer, word_embedding_dimension, max_seq_length), gamma and beta, position ids, BERT's other head",
               bert(), bert_tokens, splade(), BERT, prepare=legacy, mistakes=splades),
    SparseCase("bert-max-active-dims", "bert", "at most 6 entries by config_sentence_transformers.json; manhattan", bert(), bert_tokens, splade(), BERT, max_active_dims=6, similarity="manhattan"),
    SparseCase("bert-plain", "bert", "no modules.json: what the reference makes of any masked language model", bert(), bert_tokens, None, BERT, mistakes=splades),
    SparseCase("bert-fp16", "bert", "weights in float16", bert(), bert_tokens, splade(), BERT, dtype=torch.float16),
    SparseCase("bert-bf16", "bert", "weights in bfloat16, sum", bert(), bert_tokens, splade("sum"), BERT, dtype=torch.bfloat16),
    SparseCase("distilbert", "distilbert", "vocab_transform, vocab_layer_norm, vocab_projector", models.distilbert(hf.DistilBertForMaskedLM, dim=16, n_heads=2, hidden_dim=32), bert_tokens, splade(), BERT, mistakes=splades),
    SparseCase("roberta", "roberta", "lm_head with exact GELU whatever hidden_act is; positions after the pad", models.roberta(hf.RobertaForMaskedLM, **SMALL, hidden_act="relu"), roberta_tokens, splade(), ROBERTA, salt="4", mistakes=splades),
    SparseCase("xlm-roberta", "xlm-roberta", "SentencePiece; a table of more rows than the tokenizer has tokens", models.roberta(hf.XLMRobertaForMaskedLM, **SMALL, vocab_size=240), xlm_tokens, splade(), XLM, mistakes=splades),
    SparseCase("camembert", "camembert", "RoBERTa's kin, untied", models.roberta(hf.CamembertForMaskedLM, **SMALL, vocab_size=230, tie_word_embeddings=False), xlm_tokens, splade("sum"), {"tokenizer_class": "PreTrainedTokenizerFast"}, mistakes=splades | {"tie": mistakes.tied}),
    SparseCase("mpnet", "mpnet", "lm_head; relative positions", models.mpnet(hf.MPNetForMaskedLM, **SMALL), mpnet_tokens, splade(), {"tokenizer_class": "MPNetTokenizer"}, salt="2", mistakes=splades),
    SparseCase("modernbert", "modernbert", "head and decoder, norms without biases", modernbert(), bert_tokens, splade("max", "log1p_relu"), {"tokenizer_class": "PreTrainedTokenizerFast"}, salt="22", mistakes=splades),
    SparseCase("modernbert-biases", "modernbert", "biases in head and norm, none in the decoder; relu in the head", modernbert(classifier_bias=True, norm_bias=True, decoder_bias=False, classifier_activation="relu", tie_word_embeddings=False), bert_tokens, splade("sum"),
               {"tokenizer_class": "PreTrainedTokenizerFast"}, mistakes={"strategy": mistakes.other_strategy, "tie": mistakes.tied}),
    SparseCase("gte", "gte", "lm_head with layer_norm, bias beside the decoder", models.gte(hf.GteForMaskedLM, **SMALL, hidden_act="gelu"), xlm_tokens, splade(), XLM, mistakes=splades),
    SparseCase("gte-published", "gte", "published form: model_type new, lm_head.norm, code in another repository", models.gte(hf.GteForMaskedLM, **SMALL, hidden_act="gelu", type_vocab_size=1, rope_parameters=models.ntk(20000.0, 8.0, 8)), xlm_tokens,
               splade("max", "log1p_relu"), XLM, salt="2", disguise=published_gte(20000.0, 8.0), mistakes=splades),
    SparseCase("bert-autoencoder", "bert", "pooling, then an autoencoder: mean and unbiased deviation first, the greatest latents, those above 0", models.bert(), bert_tokens, autoencoder(64, 12, True), BERT, mistakes=latents),
    SparseCase("bert-autoencoder-plain", "bert", "an autoencoder of the row as it is; max_active_dims wins over k; cls pooling; prompts", models.bert(), bert_tokens, autoencoder(48, 8, False, "cls"), BERT, max_active_dims=11, prompts=FIND, mistakes=latents),
    SparseCase("bert-static-queries", "bert", "Router: queries by a weight per token (one is 0, some are negative), no special tokens, prompts as tokens; another way by default", bert(), bert_tokens, routed("document", "static"), BERT, prompts={"query": "find: "}, mistakes=splades),
    SparseCase("bert-idf-file", "bert", "Router: the words' weights in idf.json, one of no token; queries by default; at most 7 entries", bert(), bert_tokens, routed("query", "idf"), BERT, max_active_dims=7, disguise=with_idf_file),
    SparseCase("distilbert-no-default-route", "distilbert", "Router that names no default way", models.distilbert(hf.DistilBertForMaskedLM, dim=16, n_heads=2, hidden_dim=32), bert_tokens, routed(None, "no default"), BERT, salt="3"),
)
