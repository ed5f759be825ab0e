"""The table of rerankers: one row a checkpoint."""
# ruff: noqa: E501 -- a case a row reads as a table.

import edits
import models
import reranker_mistakes as mistakes
import reranker_templates as templates
import torch
import transformers as hf
from reranker_case import RerankerCase
from reranker_edits import (
    changed,
    config,
    jinas_xlm_roberta,
    packed,
    position_ids_in,
    published_gte,
    quantized,
    template_in_tokenizer_config,
    v4_activation,
)
from reranker_modules import classifier, logit_score, pooled
from reranker_tokenizers import (
    albert_tokens,
    bert_one_type_tokens,
    bert_tokens,
    bert_two_separators_tokens,
    cased_tokens,
    deberta_tokens,
    deberta_v2_tokens,
    eurobert_tokens,
    gemma_chat_tokens,
    gemma_tokens,
    llama_chat_tokens,
    llama_once_tokens,
    llama_tokens,
    mistral_tokens,
    mpnet_tokens,
    qwen_answer_tokens,
    qwen_bare_tokens,
    qwen_end_tokens,
    roberta_tokens,
    xlm_tokens,
)

IDENTITY, SIGMOID, TANH = torch.nn.Identity(), torch.nn.Sigmoid(), torch.nn.Tanh()
HALF, BRAIN = torch.float16, torch.bfloat16
ONE = {"num_labels": 1}

BERT = {"tokenizer_class": "BertTokenizer"}
WITH_TYPES = {"model_input_names": ["input_ids", "token_type_ids", "attention_mask"]}
WITHOUT_TYPES = {"model_input_names": ["input_ids", "attention_mask"]}
ROBERTA, XLM = {"tokenizer_class": "RobertaTokenizer"}, {"tokenizer_class": "XLMRobertaTokenizer"}
QWEN = {"tokenizer_class": "Qwen2Tokenizer", "add_bos_token": False}
LEFT = {"padding_side": "left"}

SMALL = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
NARROW = {**SMALL, "num_key_value_heads": 1, "head_dim": 16}
SHARED_HEADS = ("Cohere", "Granite", "Qwen2")  # whose heads always share the width
QWEN_PAD = {"pad_token_id": 295}  # <|endoftext|>
LOW_BASE = {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}
TWO_BASES = {
    "full_attention": {"rope_type": "default", "rope_theta": 50000.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 300.0},
}

types = {"token types": mistakes.no_token_types}
one_separator = {"separators": mistakes.pair_layout(1)}
no_suffix = {"suffix": mistakes.processing(chat_template={"restore_suffix": False})}
FIND = {"query": "Find what the query asks for."}


def bert(**options):
    return models.bert(hf.BertForSequenceClassification, **{**ONE, **options})


def modernbert(**options):
    return models.modernbert(hf.ModernBertForSequenceClassification, **{**ONE, **SMALL, **options})


def eurobert(**options):
    return models.eurobert(
        hf.EuroBertForSequenceClassification,
        **{**ONE, **SMALL, "num_key_value_heads": 1, "vocab_size": 300, "head_dim": 8, **options},
    )


def decoder(cls, **options):
    shared = {"head_dim": 8} if cls.__name__.startswith(SHARED_HEADS) else {}
    return models.decoder(cls, **{**NARROW, **shared, **options})


def qwen3_lm(**options):
    return decoder(hf.Qwen3ForCausalLM, **{**QWEN_PAD, **LOW_BASE, **options})


# fmt: off
CASES: tuple[RerankerCase, ...] = (
    # ── BERT: activations, files of each version, lengths, token types ──
    RerankerCase("bert", "bert", "plain folder: token types 0 and 1, pooler with tanh, classifier, sigmoid for one label",
                 bert(), bert_tokens, tokenizer_config=BERT,
                 mistakes=types | {"tanh": mistakes.replaced("bert.pooler.activation", torch.nn.ReLU), "bias": mistakes.without_bias("0.model.classifier"),
                                   "limit": mistakes.limit(31)}),
    RerankerCase("bert-saved", "bert", "as sentence-transformers saves it: modules.json with a lone Transformer, identity in config_sentence_transformers.json",
                 bert(), bert_tokens, tokenizer_config=BERT, saved=True, activation=IDENTITY, mistakes=types),
    RerankerCase("bert-saved-sigmoid", "bert", "config_sentence_transformers.json says sigmoid, config.json says identity twice: the first counts",
                 bert(), bert_tokens, tokenizer_config=BERT, saved=True, activation=SIGMOID,
                 prepare=edits.each(v4_activation("torch.nn.modules.linear.Identity"), config(sbert_ce_default_activation_function="torch.nn.modules.linear.Identity")),
                 mistakes=types),
    RerankerCase("bert-saved-no-activation", "bert", "modules.json, but only config.json names an activation (tanh)", bert(), bert_tokens,
                 tokenizer_config=BERT, saved=True, mistakes=types,
                 prepare=edits.each(v4_activation("torch.nn.modules.activation.Tanh"), changed("config_sentence_transformers.json", activation_fn=None))),
    RerankerCase("bert-v4-identity", "bert", "config.json: sentence_transformers.activation_fn (versions 4 and 5), which wins over the older key; no modules.json", bert(), bert_tokens,
                 tokenizer_config=BERT, mistakes=types,
                 prepare=edits.each(v4_activation("torch.nn.modules.linear.Identity"), config(sbert_ce_default_activation_function="torch.nn.modules.activation.Sigmoid"))),
    RerankerCase("bert-v4-sigmoid-three-labels", "bert", "three labels, each through a sigmoid", bert(num_labels=3), bert_tokens, tokenizer_config=BERT,
                 prepare=v4_activation("torch.nn.modules.activation.Sigmoid"), mistakes=types),
    RerankerCase("bert-v3-identity", "bert", "config.json: sbert_ce_default_activation_function (ms-marco's published form); position_ids among the weights", bert(),
                 bert_tokens, tokenizer_config=BERT, mistakes=types,
                 prepare=edits.each(config(sbert_ce_default_activation_function="torch.nn.modules.linear.Identity"), position_ids_in("bert"))),
    RerankerCase("bert-three-labels", "bert", "three labels and no activation named: identity, a row of three", bert(num_labels=3), bert_tokens,
                 tokenizer_config=BERT, mistakes=types),
    RerankerCase("bert-two-labels-saved", "bert", "two labels; relu inside", bert(num_labels=2, hidden_act="relu"), bert_tokens, tokenizer_config=BERT, saved=True,
                 mistakes=types),
    RerankerCase("bert-prompts", "bert", "two prompts and a default: before the first text only, and counted in its tokens", bert(), bert_tokens,
                 tokenizer_config=BERT, saved=True, prompts={"query": "search for: ", "question": "answer this: "}, default_prompt_name="query",
                 mistakes={"prompt": mistakes.no_prompt}),
    RerankerCase("bert-max-seq-length", "bert", "sentence_bert_config.json's max_seq_length (24) wins over the tokenizer's (32)", bert(), bert_tokens,
                 tokenizer_config=BERT, saved=True, usable_length=24, prepare=changed("sentence_bert_config.json", max_seq_length=24), mistakes=types),
    RerankerCase("bert-max-seq-length-longer", "bert", "sentence_bert_config.json's max_seq_length (48) is above the tokenizer's (32): it wins all the same", bert(),
                 bert_tokens, tokenizer_config=BERT, saved=True, usable_length=48, prepare=changed("sentence_bert_config.json", max_seq_length=48), mistakes=types),
    RerankerCase("bert-position-table-length", "bert", "no length anywhere: the position table's", bert(max_position_embeddings=32), bert_tokens,
                 tokenizer_config=BERT, length_from="config.json", mistakes=types),
    RerankerCase("bert-only-second", "bert", "processing_kwargs: max_length 24 and only the second text is cut; where the first alone is too long the reference raises",
                 bert(), bert_tokens, tokenizer_config=BERT, saved=True, modules=classifier(text={"truncation": "only_second", "max_length": 24}),
                 usable_length=24, longest_first=False, refuses_some=True,
                 mistakes={"longest_first": mistakes.processing(text={"truncation": "longest_first", "max_length": 24}), "max_length": mistakes.processing(text={"truncation": "only_second"})}),
    RerankerCase("bert-max-length", "bert", "processing_kwargs: max_length 24 below the tokenizer's 32", bert(), bert_tokens, tokenizer_config=BERT, saved=True,
                 modules=classifier(text={"max_length": 24}), usable_length=24, mistakes={"max_length": mistakes.processing(text={})}),
    RerankerCase("bert-left-truncation", "bert", "tokenizer_config.json: truncation_side left cuts both texts at their beginning", bert(), bert_tokens,
                 tokenizer_config=BERT | {"truncation_side": "left"}, mistakes={"side": mistakes.tokenizer(truncation_side="right")}),
    RerankerCase("bert-left-padding", "bert", "padding_side left: as each pair alone (the reference shifts positions in a batch)", bert(), bert_tokens,
                 tokenizer_config=BERT | LEFT, batch_matters=True, mistakes=types),
    RerankerCase("bert-fast-tokenizer", "bert", "tokenizer_class PreTrainedTokenizerFast: no token types are fed, and tokenizer.json's own layout counts (two separators)",
                 bert(), bert_two_separators_tokens, max_seq_length=33, mistakes=one_separator | {"token types": mistakes.feed_types}),
    RerankerCase("bert-rebuilt-layout", "bert", "tokenizer_class BertTokenizer: its own layout with types, whatever tokenizer.json's says (two separators, no types)",
                 bert(), bert_two_separators_tokens, tokenizer_config=BERT, mistakes=types | {"file's layout": mistakes.pair_layout(2)}),
    RerankerCase("bert-fast-with-types", "bert", "PreTrainedTokenizerFast whose model_input_names ask for token types: the file's, 0 and 1", bert(), bert_tokens,
                 tokenizer_config=WITH_TYPES, mistakes=types),
    RerankerCase("bert-types-all-zero", "bert", "the file's layout gives type 0 to both texts: type 1 is never used", bert(), bert_one_type_tokens,
                 tokenizer_config=WITH_TYPES, mistakes={"token types": mistakes.feed_types}),
    RerankerCase("bert-types-not-asked-for", "bert", "BertTokenizer whose model_input_names leave token types out", bert(), bert_tokens,
                 tokenizer_config=BERT | WITHOUT_TYPES, mistakes={"token types": mistakes.feed_types}),
    RerankerCase("bert-one-type", "bert", "a table of one token type, and a tokenizer that gives none", bert(type_vocab_size=1), bert_tokens,
                 tokenizer_config=BERT | WITHOUT_TYPES),
    RerankerCase("bert-lowercase", "bert", "do_lower_case in sentence_bert_config.json with a tokenizer that keeps case", bert(), cased_tokens,
                 tokenizer_config=WITH_TYPES, saved=True, prepare=changed("sentence_bert_config.json", do_lower_case=True), mistakes={"case": mistakes.keep_case}),
    RerankerCase("bert-fp16", "bert", "stored in float16, computed in float32; LayerNorm.gamma and .beta", bert(), bert_tokens, tokenizer_config=BERT, dtype=HALF,
                 prepare=edits.rename_to_gamma_beta, mistakes=types),
    RerankerCase("bert-bf16", "bert", "stored in bfloat16; keep_in_fp32_modules names the classifier", bert(), bert_tokens, tokenizer_config=BERT, saved=True,
                 dtype=BRAIN, prepare=changed("config_sentence_transformers.json", keep_in_fp32_modules=["0.model.classifier"]), mistakes=types),
    # ── Other encoders ──
    RerankerCase("roberta", "roberta", "classifier.dense, tanh, classifier.out_proj on the first token; two separators; byte-level BPE",
                 models.roberta(hf.RobertaForSequenceClassification, **ONE, **SMALL), roberta_tokens, tokenizer_config=ROBERTA, max_seq_length=33,
                 mistakes=one_separator | {"tanh": mistakes.tanh_as("classifier", torch.relu)}),
    RerankerCase("roberta-position-offset", "roberta", "no length but the table's 47, of which two rows are kept for padding: room for 45 tokens, where the reference raises",
                 models.roberta(hf.RobertaForSequenceClassification, **ONE, **SMALL, max_position_embeddings=47), roberta_tokens, length_from="config.json",
                 max_seq_length=47, usable_length=45, mistakes=one_separator),
    RerankerCase("xlm-roberta", "xlm-roberta", "bge-reranker's kind: two separators, no token types, unigram tokenizer",
                 models.roberta(hf.XLMRobertaForSequenceClassification, **ONE, **SMALL, vocab_size=220), xlm_tokens, tokenizer_config=XLM, max_seq_length=33,
                 mistakes=one_separator),
    RerankerCase("jina-reranker-v2", "xlm-roberta", "Jina's implementation: one matrix for queries, keys and values, its names and config.json; bfloat16", dtype=BRAIN,
                 model=models.roberta(hf.XLMRobertaForSequenceClassification, **ONE, **SMALL, vocab_size=220), tokenizer=xlm_tokens, tokenizer_config=XLM,
                 max_seq_length=33, mistakes=one_separator, disguise=jinas_xlm_roberta),
    RerankerCase("jina-reranker-v2-heads-64", "xlm-roberta", "the same, two heads of 64", dtype=BRAIN,
                 model=models.roberta(hf.XLMRobertaForSequenceClassification, **{**ONE, **SMALL, "hidden_size": 128, "num_attention_heads": 2, "num_hidden_layers": 1}, vocab_size=220),
                 tokenizer=xlm_tokens, tokenizer_config=XLM, max_seq_length=33, mistakes=one_separator, disguise=jinas_xlm_roberta),
    RerankerCase("xlm-roberta-saved", "xlm-roberta", "three labels, float16, saved with modules.json", dtype=HALF, saved=True,
                 model=models.roberta(hf.XLMRobertaForSequenceClassification, num_labels=3, **SMALL, vocab_size=220), tokenizer=xlm_tokens, tokenizer_config=XLM,
                 max_seq_length=33, mistakes=one_separator),
    RerankerCase("camembert", "camembert", "XLM-R by another name; the classifier's keys stand beside `roberta.`",
                 models.roberta(hf.CamembertForSequenceClassification, **ONE, **SMALL, vocab_size=220), xlm_tokens, max_seq_length=33, mistakes=one_separator),
    RerankerCase("distilbert", "distilbert", "pre_classifier with ReLU, then classifier; no token types", models.distilbert(hf.DistilBertForSequenceClassification,
                 **ONE, dim=16, n_heads=2, hidden_dim=32), bert_tokens, tokenizer_config={"tokenizer_class": "DistilBertTokenizer"},
                 mistakes={"relu": mistakes.relu_as("", torch.tanh), "bias": mistakes.without_bias("0.model.pre_classifier")}),
    RerankerCase("albert", "albert", "pooler with tanh, classifier; AlbertTokenizer gives no token types, and the table's first row counts",
                 models.albert(hf.AlbertForSequenceClassification, **ONE, **SMALL, num_hidden_layers=3), albert_tokens, salt=" 1", tokenizer_config={"tokenizer_class": "AlbertTokenizer"},
                 mistakes={"tanh": mistakes.replaced("albert.pooler_activation", torch.nn.ReLU), "bias": mistakes.without_bias("0.model.classifier")}),
    RerankerCase("electra", "electra", "ms-marco-electra's kind: exact gelu between two layers, though hidden_act is relu; token types; identity",
                 models.electra(hf.ElectraForSequenceClassification, **ONE, **SMALL, hidden_act="relu"), bert_tokens, tokenizer_config={"tokenizer_class": "ElectraTokenizer"},
                 prepare=config(sbert_ce_default_activation_function="torch.nn.modules.linear.Identity"),
                 mistakes=types | {"tanh": mistakes.replaced("classifier.activation", torch.nn.Tanh)}),
    RerankerCase("ernie", "ernie", "pooler with tanh, classifier; four token types", models.ernie(hf.ErnieForSequenceClassification, **ONE, **SMALL), bert_tokens,
                 tokenizer_config=BERT, mistakes=types),
    RerankerCase("deberta-v2", "deberta-v2", "mxbai-rerank-v1's kind: one label, sigmoid, pooler with exact gelu; DebertaV2Tokenizer", dtype=HALF,
                 model=models.deberta_v2(hf.DebertaV2ForSequenceClassification, **ONE, **SMALL), tokenizer=deberta_v2_tokens,
                 tokenizer_config={"tokenizer_class": "DebertaV2Tokenizer"}, prepare=config(pos_att_type="p2c|c2p"),
                 mistakes={"gelu": mistakes.config(pooler_hidden_act="tanh"), "bias": mistakes.without_bias("0.model.pooler.dense")}),
    RerankerCase("deberta-v2-nli", "deberta-v2", "nli-deberta-v3's kind: three labels, no activation named; here the pooler's is tanh, and the file has token types",
                 models.deberta_v2(hf.DebertaV2ForSequenceClassification, num_labels=3, pooler_hidden_act="tanh", type_vocab_size=2, **SMALL), deberta_v2_tokens,
                 tokenizer_config={"tokenizer_class": "DebertaV2Tokenizer"},
                 mistakes=types | {"tanh": mistakes.config(pooler_hidden_act="gelu")}),
    RerankerCase("deberta", "deberta", "nli-deberta's kind: three labels; DebertaTokenizer's own layout with two separators, whatever tokenizer.json's says",
                 models.deberta(hf.DebertaForSequenceClassification, num_labels=3, max_position_embeddings=64, **SMALL), deberta_tokens, tokenizer_config={"tokenizer_class": "DebertaTokenizer"}, max_seq_length=33,
                 mistakes={"gelu": mistakes.config(pooler_hidden_act="tanh"), "separators": mistakes.pair_layout(1)}),
    RerankerCase("mpnet", "mpnet", "RoBERTa's kind of classifier, two separators, relative positions", models.mpnet(hf.MPNetForSequenceClassification, **ONE, **SMALL),
                 mpnet_tokens, tokenizer_config={"tokenizer_class": "MPNetTokenizer"}, max_seq_length=33, mistakes=one_separator | {"tanh": mistakes.tanh_as("classifier", torch.relu)}),
    RerankerCase("modernbert-cls", "modernbert", "classifier_pooling cls; head.dense, gelu, head.norm, classifier", modernbert(classifier_pooling="cls"), bert_tokens,
                 salt=" 2", mistakes={"mean": mistakes.config(classifier_pooling="mean"), "activation": mistakes.replaced("head.act", torch.nn.SiLU)}),
    RerankerCase("modernbert-mean", "modernbert", "classifier_pooling mean (gte-reranker-modernbert's kind)", modernbert(classifier_pooling="mean"), bert_tokens,
                 saved=True, activation=IDENTITY, mistakes={"cls": mistakes.config(classifier_pooling="cls")}),
    RerankerCase("modernbert-biases", "modernbert", "classifier_bias, norm_bias, classifier_activation silu, two labels; transformers 4's config", dtype=BRAIN,
                 model=modernbert(num_labels=2, classifier_pooling="mean", classifier_bias=True, norm_bias=True, classifier_activation="silu", attention_bias=True, mlp_bias=True,
                                  global_attn_every_n_layers=2, rope_parameters=TWO_BASES), tokenizer=bert_tokens, prepare=edits.transformers_4_modernbert,
                 mistakes={"cls": mistakes.config(classifier_pooling="cls"), "activation": mistakes.replaced("head.act", torch.nn.GELU),
                           "dense's bias": mistakes.without_bias("0.model.head.dense"), "norm's bias": mistakes.without_bias("0.model.head.norm")}),
    RerankerCase("gte-transformers-5", "gte", "transformers' own class: pooler with tanh, classifier; no token types are fed", models.gte(hf.GteForSequenceClassification, **ONE, **SMALL),
                 xlm_tokens, tokenizer_config=XLM, max_seq_length=33, mistakes=one_separator),
    RerankerCase("gte-multilingual-reranker", "gte", 'model_type "new" with `new.` keys and code of its own: pooler with tanh, classifier',
                 models.gte(hf.GteForSequenceClassification, **ONE, **SMALL, type_vocab_size=1, rope_parameters=models.ntk(20000.0, 8.0, 8)), xlm_tokens, tokenizer_config=XLM,
                 max_seq_length=33, dtype=HALF, disguise=published_gte, salt=" 2", mistakes=one_separator),
    RerankerCase("gte-types", "gte", "two token types, BERT's tokenizer", models.gte(hf.GteForSequenceClassification, **ONE, **SMALL, type_vocab_size=2, vocab_size=200, pad_token_id=0),
                 bert_tokens, tokenizer_config=BERT, mistakes=types),
    RerankerCase("nomic-bert", "nomic_bert", "transformers' own class: a pooler that the embedder has not, token types", models.nomic_bert(hf.NomicBertForSequenceClassification,
                 **ONE, **SMALL), bert_tokens, tokenizer_config=BERT, mistakes=types),
    RerankerCase("eurobert-bos", "eurobert", "classifier_pooling bos: first token, dense, exact gelu, classifier", eurobert(classifier_pooling="bos"), eurobert_tokens,
                 max_seq_length=64, mistakes={"mean": mistakes.config(classifier_pooling="mean"), "gelu": mistakes.replaced("activation", torch.nn.Tanh)}),
    RerankerCase("eurobert-mean", "eurobert", "classifier_pooling mean", eurobert(classifier_pooling="mean", num_labels=2), eurobert_tokens, max_seq_length=64, dtype=HALF,
                 mistakes={"bos": mistakes.config(classifier_pooling="bos"), "late": mistakes.config(classifier_pooling="late")}),
    RerankerCase("eurobert-late", "eurobert", "classifier_pooling late: each token's logits, then their mean", eurobert(classifier_pooling="late"), eurobert_tokens,
                 max_seq_length=64, mistakes={"mean": mistakes.config(classifier_pooling="mean"), "bos": mistakes.config(classifier_pooling="bos")}),
    # ── Decoders with a classifier: the rightmost token that is not the pad token ──
    RerankerCase("qwen3-classifier", "qwen3", "the token before the <|endoftext|> that the tokenizer appends, which is the pad token; texts joined with nothing between. Two empty texts are one pad token, which counts (left-padded in a batch, the reference reads padding)",
                 decoder(hf.Qwen3ForSequenceClassification, **ONE, **QWEN_PAD, **LOW_BASE), qwen_end_tokens, tokenizer_config=QWEN | LEFT, max_seq_length=64, batch_matters=True,
                 mistakes={"last token": mistakes.config(pad_token_id=None), "limit": mistakes.limit(63)}),
    RerankerCase("qwen3-classifier-template", "qwen3", "a plain folder's chat template is used for a classifier too; a text that ends in the pad token",
                 decoder(hf.Qwen3ForSequenceClassification, num_labels=2, **QWEN_PAD), qwen_bare_tokens, tokenizer_config=QWEN, template=templates.THINKING, max_seq_length=224,
                 mistakes=no_suffix),
    RerankerCase("qwen3-classifier-saved", "qwen3", "modules.json without a message format: the template beside it is not used", dtype=BRAIN,
                 model=decoder(hf.Qwen3ForSequenceClassification, **ONE, **QWEN_PAD), tokenizer=qwen_bare_tokens, tokenizer_config=QWEN, max_seq_length=63, saved=True,
                 prompts={"query": "Instruct: find\nQuery: "}, default_prompt_name="query", prepare=template_in_tokenizer_config(templates.THINKING),
                 mistakes={"prompt": mistakes.no_prompt}),
    RerankerCase("qwen2-classifier", "qwen2", "nothing appended: the last token, but for texts that end in the pad token; three labels", decoder(hf.Qwen2ForSequenceClassification,
                 num_labels=3, **QWEN_PAD), qwen_bare_tokens, tokenizer_config=QWEN, max_seq_length=63, mistakes={"last token": mistakes.config(pad_token_id=None)}),
    RerankerCase("qwen2-classifier-other-pad", "qwen2", "the config's pad token (0) is not the tokenizer's: as each pair alone (the reference reads padding in a batch); is_causal false",
                 decoder(hf.Qwen2ForSequenceClassification, **ONE, is_causal=False), qwen_end_tokens, tokenizer_config=QWEN, max_seq_length=64, batch_matters=True,
                 mistakes={"tokenizer's pad token": mistakes.config(pad_token_id=295)}),
    RerankerCase("llama-classifier-no-pad", "llama", "pad_token_id null: the last token; a begin token before each text; the reference takes no batch",
                 decoder(hf.LlamaForSequenceClassification, **ONE, **LOW_BASE, pad_token_id=None), llama_tokens, max_seq_length=65, no_batch=True, dtype=HALF,
                 own_pairs={"the tokenizer's pad token ends the document": ("tea", "bread<|end_of_text|>")}, mistakes={"pad token": mistakes.config(pad_token_id=299), "limit": mistakes.limit(64)}),
    RerankerCase("llama-classifier", "llama", "one begin token for both texts; the pad token is the end token; saved, with identity",
                 decoder(hf.LlamaForSequenceClassification, **ONE, pad_token_id=299), llama_once_tokens, max_seq_length=64, saved=True, activation=IDENTITY,
                 own_pairs={"the tokenizer's pad token ends the document": ("tea", "bread<|end_of_text|>")}, mistakes={"last token": mistakes.config(pad_token_id=None)}),
    RerankerCase("mistral-classifier", "mistral", "unigram tokenizer, two labels, `<s>` before each text", decoder(hf.MistralForSequenceClassification, num_labels=2, vocab_size=220,
                 pad_token_id=1, sliding_window=None), mistral_tokens, max_seq_length=63, mistakes={"last token": mistakes.config(pad_token_id=None)}),
    RerankerCase("gemma-classifier", "gemma", "<bos> before each text, embeddings times the root of the width", decoder(hf.GemmaForSequenceClassification, **ONE, vocab_size=340,
                 pad_token_id=0), gemma_tokens, max_seq_length=63, salt=" 2", mistakes={"last token": mistakes.config(pad_token_id=None)}),
    RerankerCase("gemma2-classifier", "gemma2", "windows and soft-capped attention; the cap of the language head does not touch a classifier", dtype=BRAIN,
                 model=decoder(hf.Gemma2ForSequenceClassification, num_labels=2, vocab_size=340, pad_token_id=0, sliding_window=8, attn_logit_softcapping=2.0,
                               final_logit_softcapping=0.5), tokenizer=gemma_tokens, max_seq_length=63, mistakes={"last token": mistakes.config(pad_token_id=None)}),
    RerankerCase("gemma3-classifier", "gemma3_text", "a base for each kind of layer", models.gemma3(hf.Gemma3TextForSequenceClassification, **ONE, **SMALL, pad_token_id=0,
                 rope_parameters=TWO_BASES), gemma_tokens, max_seq_length=63, dtype=HALF, mistakes={"last token": mistakes.config(pad_token_id=None)}),
    # ── Generative: the logit of one token less that of another, after a chat template ──
    RerankerCase("qwen3-reranker", "qwen3", "Qwen3-Reranker's kind: chat template with query and document, logit of yes less that of no, tied, the template's end restored",
                 qwen3_lm(tie_word_embeddings=True), qwen_answer_tokens, tokenizer_config=QWEN, max_seq_length=224, template=templates.THINKING, saved=True,
                 modules=logit_score("yes", "no"), prompts=FIND | {"fact": "Does the document prove it?"}, default_prompt_name="query",
                 mistakes=no_suffix | {"prompt": mistakes.no_prompt, "false token": mistakes.without_false, "newline": mistakes.template(templates.PRINTED_NEWLINES)}),
    RerankerCase("qwen3-reranker-plain", "qwen3", "no modules.json: *ForCausalLM means yes and no; untied lm_head, template in tokenizer_config.json", qwen3_lm(tie_word_embeddings=False),
                 qwen_answer_tokens, tokenizer_config=QWEN, max_seq_length=224, prepare=template_in_tokenizer_config(templates.THINKING), mistakes=no_suffix | {"head": mistakes.tied_head}),
    RerankerCase("qwen3-reranker-untied", "qwen3", "untied, bfloat16, identity; chat_template.jinja wins over tokenizer_config.json; both last newlines are printed", dtype=BRAIN,
                 model=qwen3_lm(tie_word_embeddings=False), tokenizer=qwen_answer_tokens, tokenizer_config=QWEN, max_seq_length=224, template=templates.PRINTED_NEWLINES, saved=True,
                 modules=logit_score("yes", "no"), activation=IDENTITY, prepare=template_in_tokenizer_config(templates.DOCUMENT_FIRST),
                 mistakes=no_suffix | {"head": mistakes.tied_head, "other template": mistakes.template(templates.DOCUMENT_FIRST), "newline": mistakes.template(templates.THINKING)}),
    RerankerCase("qwen3-reranker-true-only", "qwen3", "false_token_id null: the true token's logit alone", qwen3_lm(tie_word_embeddings=True), qwen_answer_tokens,
                 tokenizer_config=QWEN, max_seq_length=224, template=templates.THINKING, saved=True, modules=logit_score("yes", None), mistakes=no_suffix),
    RerankerCase("qwen3-reranker-generation-prompt", "qwen3", "processing_kwargs: add_generation_prompt and enable_thinking reach the template", qwen3_lm(tie_word_embeddings=True),
                 qwen_answer_tokens, tokenizer_config=QWEN, max_seq_length=224, template=templates.GUARDED, saved=True,
                 modules=logit_score("yes", "no", chat_template={"add_generation_prompt": True, "enable_thinking": False}), prompts=FIND,
                 mistakes={"generation prompt": mistakes.processing(chat_template={"enable_thinking": False}), "thinking": mistakes.processing(chat_template={"add_generation_prompt": True}),
                           "suffix": mistakes.processing(chat_template={"add_generation_prompt": True, "enable_thinking": False, "restore_suffix": False})}),
    RerankerCase("qwen3-reranker-no-generation-prompt", "qwen3", "add_generation_prompt is false unless the files say so: this template's end is not rendered",
                 qwen3_lm(tie_word_embeddings=True), qwen_answer_tokens, tokenizer_config=QWEN, max_seq_length=224, template=templates.GUARDED, saved=True, modules=logit_score("yes", "no"),
                 mistakes={"generation prompt": mistakes.processing(chat_template={"add_generation_prompt": True})}),
    RerankerCase("qwen3-reranker-no-suffix", "qwen3", "processing_kwargs: restore_suffix false, max_length 200: the template's end is cut off", qwen3_lm(tie_word_embeddings=True), qwen_answer_tokens,
                 tokenizer_config=QWEN, max_seq_length=224, usable_length=200, template=templates.THINKING, saved=True,
                 modules=logit_score("yes", "no", text={"max_length": 200}, chat_template={"restore_suffix": False}),
                 mistakes={"suffix": mistakes.processing(chat_template={"restore_suffix": True}), "max_length": mistakes.processing(text={})}),
    RerankerCase("qwen3-reranker-structured", "qwen3", "message format structured: contents are lists of parts", qwen3_lm(tie_word_embeddings=True), qwen_answer_tokens,
                 tokenizer_config=QWEN, max_seq_length=128, template=templates.STRUCTURED, saved=True, modules=logit_score("yes", "no", "structured"), prompts=FIND, mistakes=no_suffix),
    RerankerCase("qwen3-reranker-structured-plain", "qwen3", "no modules.json: the format is read off the template (structured)", qwen3_lm(tie_word_embeddings=False), qwen_answer_tokens,
                 tokenizer_config=QWEN, max_seq_length=128, template=templates.STRUCTURED, mistakes=no_suffix),
    RerankerCase("qwen3-reranker-elaborate", "qwen3", "loop controls, macros, tojson that keeps < and other scripts, blocks trimmed, raise_exception, a {% generation %} block",
                 qwen3_lm(tie_word_embeddings=True), qwen_answer_tokens, tokenizer_config=QWEN, max_seq_length=160, template=templates.ELABORATE, saved=True, modules=logit_score("yes", "no"),
                 prompts=FIND, mistakes=no_suffix),
    RerankerCase("qwen2-reranker", "qwen2", "1 less 0; document first, so that the query is cut; the instruction is in the tail that is restored; a newline at the limit",
                 decoder(hf.Qwen2ForCausalLM, **QWEN_PAD, tie_word_embeddings=True), qwen_answer_tokens, tokenizer_config=QWEN, max_seq_length=128, template=templates.DOCUMENT_FIRST,
                 saved=True, modules=logit_score("1", "0"), prompts=FIND, default_prompt_name="query", mistakes=no_suffix | {"prompt": mistakes.no_prompt, "false token": mistakes.without_false}),
    RerankerCase("llama-reranker", "llama", "the template writes the begin token itself: none is added; texts are trimmed in the template", decoder(hf.LlamaForCausalLM, **LOW_BASE,
                 tie_word_embeddings=False, pad_token_id=None), llama_chat_tokens, max_seq_length=128, template=templates.BEGINS_WITH_BOS, saved=True, modules=logit_score("yes", "no"),
                 dtype=HALF, prompts=FIND, mistakes=no_suffix | {"end token": mistakes.template(templates.BEGINS_WITH_BOS.replace("{{ eos_token }}", ""))}),
    RerankerCase("gemma-reranker", "gemma", "bos from the template; byte fallback; tied", decoder(hf.GemmaForCausalLM, vocab_size=340, tie_word_embeddings=True), gemma_chat_tokens,
                 max_seq_length=160, template=templates.BEGINS_WITH_BOS, saved=True, modules=logit_score("1", "0"), prompts=FIND, salt=" 2", mistakes=no_suffix),
    RerankerCase("mistral-reranker", "mistral", "a head of its own, untied", decoder(hf.MistralForCausalLM, **LOW_BASE, tie_word_embeddings=False, pad_token_id=None, sliding_window=None),
                 llama_chat_tokens, max_seq_length=128, template=templates.BEGINS_WITH_BOS, saved=True, modules=logit_score("yes", "no"), salt=" 2", mistakes=no_suffix),
    RerankerCase("gemma3-reranker", "gemma3_text", "final_logit_softcapping, which Gemma 3 has only where it is stated; tied", decoder(hf.Gemma3ForCausalLM, vocab_size=340,
                 tie_word_embeddings=True, final_logit_softcapping=2.0, rope_parameters=TWO_BASES, sliding_window=160), gemma_chat_tokens, max_seq_length=160,
                 template=templates.BEGINS_WITH_BOS, saved=True, modules=logit_score("1", "0"), mistakes=no_suffix | {"cap": mistakes.config(final_logit_softcapping=None)}),
    RerankerCase("gemma2-reranker", "gemma2", "final_logit_softcapping bends each logit before they are subtracted", decoder(hf.Gemma2ForCausalLM, vocab_size=340, tie_word_embeddings=True,
                 final_logit_softcapping=2.0, attn_logit_softcapping=3.0, sliding_window=8), gemma_chat_tokens, max_seq_length=160, dtype=BRAIN, template=templates.BEGINS_WITH_BOS, saved=True,
                 modules=logit_score("1", "0"), mistakes=no_suffix | {"cap": mistakes.config(final_logit_softcapping=None)}),
    RerankerCase("granite-reranker", "granite", "logits_scaling divides the logits", decoder(hf.GraniteForCausalLM, logits_scaling=4.0, embedding_multiplier=3.0, residual_multiplier=0.4,
                 attention_multiplier=0.2, tie_word_embeddings=True), llama_chat_tokens, max_seq_length=128, template=templates.BEGINS_WITH_BOS, saved=True, modules=logit_score("yes", "no"), salt=" 3",
                 mistakes=no_suffix | {"scaling": mistakes.config(logits_scaling=1.0)}),
    RerankerCase("cohere-reranker", "cohere", "logit_scale multiplies the logits", decoder(hf.CohereForCausalLM, logit_scale=0.25, tie_word_embeddings=True), llama_chat_tokens,
                 max_seq_length=128, template=templates.BEGINS_WITH_BOS, saved=True, modules=logit_score("yes", "no"), dtype=BRAIN,
                 mistakes=no_suffix | {"scale": mistakes.logit_scale(1.0)}),
    # ── Backbone, Pooling and Dense that writes `scores` ──
    RerankerCase("qwen3-dense-scores", "qwen3", "lasttoken pooling reads the last token, pad token or not; Dense without bias writes scores", decoder(hf.Qwen3Model, **QWEN_PAD),
                 qwen_end_tokens, tokenizer_config=QWEN, max_seq_length=64, saved=True, activation=SIGMOID,
                 modules=pooled("qwen3-dense-scores", "lasttoken", [{"out_features": 1, "bias": False, "activation_function": IDENTITY}]),
                 mistakes={"mean": mistakes.module(1, pooling_mode="mean")}),
    RerankerCase("qwen3-dense-template", "qwen3", "the same behind a chat template", decoder(hf.Qwen3Model, **QWEN_PAD), qwen_bare_tokens, tokenizer_config=QWEN,
                 max_seq_length=224, template=templates.THINKING, saved=True, modules=pooled("qwen3-dense-template", "lasttoken", [{"out_features": 1, "activation_function": IDENTITY}]),
                 mistakes=no_suffix),
    RerankerCase("bert-dense-scores", "bert", "cls pooling, a Dense with residual and tanh, then one to two scores whose residual has its own matrix; token types",
                 models.bert(), bert_tokens, tokenizer_config=BERT, saved=True,
                 modules=pooled("bert-dense-scores", "cls", [{"out_features": 16, "activation_function": TANH, "use_residual": True},
                                                             {"out_features": 2, "activation_function": IDENTITY, "use_residual": True}]),
                 mistakes=types | {"first residual": mistakes.module(2, use_residual=False), "second residual": mistakes.module(3, use_residual=False),
                                   "mean": mistakes.module(1, pooling_mode="mean")}),
    RerankerCase("modernbert-dense-scores", "modernbert", "mean pooling over both texts and the special tokens, Dense with ReLU; tanh as the activation", models.modernbert(**SMALL), bert_tokens,
                 saved=True, activation=TANH, prompts={"query": "search for: "}, default_prompt_name="query",
                 modules=pooled("modernbert-dense-scores", "mean", [{"out_features": 8, "activation_function": torch.nn.ReLU()}, {"out_features": 1, "activation_function": IDENTITY}]),
                 mistakes={"cls": mistakes.module(1, pooling_mode="cls"), "prompt": mistakes.no_prompt}),
    # ── Packed by MLX's converters; the reference reads the unpacked numbers ──
    RerankerCase("bert-8bit", "bert", "classifier, pooler and embeddings packed in 8 bit", bert(hidden_size=32), bert_tokens, tokenizer_config=BERT,
                 prepare=quantized(8), disguise=packed, mistakes=types),
    RerankerCase("bert-4bit", "bert", "the same in 4 bit, saved with modules.json, three labels", bert(hidden_size=32, num_labels=3), bert_tokens, tokenizer_config=BERT, saved=True,
                 prepare=quantized(4), disguise=packed, mistakes=types),
    RerankerCase("qwen3-classifier-4bit", "qwen3", "score packed in 4 bit", decoder(hf.Qwen3ForSequenceClassification, **ONE, **QWEN_PAD, hidden_size=32), qwen_end_tokens,
                 tokenizer_config=QWEN, max_seq_length=64, prepare=quantized(4), disguise=packed, mistakes={"last token": mistakes.config(pad_token_id=None)}),
    RerankerCase("qwen3-reranker-4bit", "qwen3", "mlx_lm's conversion, which leaves modules.json out: tied embeddings in 4 bit, of which two rows make the score",
                 qwen3_lm(tie_word_embeddings=True, hidden_size=32), qwen_answer_tokens, tokenizer_config=QWEN, max_seq_length=224, template=templates.THINKING,
                 prepare=quantized(4), disguise=packed, mistakes=no_suffix),
    RerankerCase("qwen3-reranker-8bit", "qwen3", "8 bit, untied lm_head, with modules.json and LogitScore", qwen3_lm(tie_word_embeddings=False, hidden_size=32), qwen_answer_tokens,
                 tokenizer_config=QWEN, max_seq_length=224, template=templates.THINKING, saved=True, modules=logit_score("yes", "no"), prompts=FIND, default_prompt_name="query",
                 prepare=quantized(8), disguise=packed, mistakes=no_suffix | {"head": mistakes.tied_head}),
)
