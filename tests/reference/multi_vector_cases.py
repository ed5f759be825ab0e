"""The table of late-interaction models: one row a checkpoint."""

import functools
import string

import amendments
import models
import torch
import transformers as hf
from multi_vector_case import Layer, MultiVectorCase
from multi_vector_edits import changed, each, jinas_colbert, pylate, stanford, with_added, with_unused
from reranker_tokenizers import bert_tokens, llama_tokens, qwen_end_tokens, roberta_tokens
from tiny_tokenizers import XLM_SPECIALS, make_unigram, make_wordpiece

PUNCTUATION = {"skiplist_words": list(string.punctuation)}
FIXED = {"strategy": "fixed", "length": 14}
MIN = {"strategy": "min", "length": 10}
BERT = {"tokenizer_class": "BertTokenizer"}
LEFT = {"padding_side": "left"}
UNUSED = {"query": "[unused0] ", "document": "[unused1] "}
FAR = {"local_attention": 64}
GELU, TANH = torch.nn.GELU, torch.nn.Tanh
NARROW = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
WIDE = {"hidden_size": 64, "num_attention_heads": 1, "intermediate_size": 32, "num_hidden_layers": 1}
Q_AND_D = {"query_prefix": "[Q] ", "document_prefix": "[D] "}
LFM2 = {"vocab_size": 304, "hidden_size": 16, "intermediate_size": 48, "num_key_value_heads": 1}
LFM2_PYLATE = {**Q_AND_D, "query_length": 14, "document_length": 24, "attend_to_expansion_tokens": False, **PUNCTUATION}


JINA_MARKS = ("<mask>", "[QueryMarker]", "[DocumentMarker]")
JINA_METADATA = {
    "query_maxlen": 14,
    "doc_maxlen": 22,
    "mask_punctuation": True,
    "attend_to_mask_tokens": True,
    "query_token_id": "[QueryMarker]",
    "doc_token_id": "[DocumentMarker]",
}
JINA = {"tokenizer_class": "XLMRobertaTokenizer", "mask_token": "<mask>"}
jina_tokens = functools.partial(make_unigram, specials=(*XLM_SPECIALS, *JINA_MARKS))


def jina_v3(**config):
    rope = {"rope_type": "default", "rope_theta": 300.0}
    sizes = {"vocab_size": 220, "intermediate_size": 32, "num_hidden_layers": 2, "max_position_embeddings": 64}
    settings = hf.JinaEmbeddingsV3Config(**{**sizes, "rope_parameters": rope, **config})
    return lambda: hf.JinaEmbeddingsV3Model(settings, add_pooling_layer=False)


def bert(name, checks, tokenizer=bert_tokens, model=None, **facts):
    tokenizer_config = {**BERT, **facts.pop("tokenizer_config", {})}
    return MultiVectorCase(
        name, "bert", checks, model or models.bert(), tokenizer, tokenizer_config=tokenizer_config, **facts
    )


CASES = [
    bert(
        "fixed",
        "queries filled up with [MASK] that no token sees; markers in pieces: nobody registered them",
        with_unused(),
        mask=PUNCTUATION,
        expansion=FIXED,
        prompts=UNUSED,
    ),
    bert("fixed-attend", "all tokens see the added ones", mask=PUNCTUATION, expansion={**FIXED, "attend": True}),
    bert(
        "min",
        "long queries are not cut at the length that short ones are filled up to, but at query_length",
        mask=PUNCTUATION,
        expansion=MIN,
        query_length=18,
    ),
    bert(
        "min-attend-token",
        "a named token fills up; no query_length",
        mask=PUNCTUATION,
        expansion={**MIN, "attend": True, "token": "[SEP]"},
    ),
    bert(
        "markers-registered",
        "markers that the tokenizer's files hold as special tokens",
        with_unused(registered=True),
        mask=PUNCTUATION,
        expansion=FIXED,
        prompts=UNUSED,
    ),
    bert(
        "skip-both-sides",
        "the skiplist also on queries, [MASK] in it, words that are no tokens",
        mask={
            "skiplist_words": [*string.punctuation, "[MASK]", "the", "no such word"],
            "skiplist_tasks": ["query", "document"],
        },
        expansion=FIXED,
    ),
    bert(
        "keep-only",
        "documents keep some tokens alone, some documents none",
        mask={**PUNCTUATION, "keep_only_token_ids": list(range(60, 200))},
        expansion=MIN,
    ),
    bert(
        "no-normalize-mean",
        "lengths count; the score is the mean",
        normalize=False,
        similarity="meanmaxsim",
        mask=PUNCTUATION,
    ),
    bert(
        "two-dense",
        "two layers with biases, an activation, a residual of another width",
        dense=(Layer(12, bias=True, activation=GELU), Layer(8, bias=True, activation=TANH, residual=True)),
        mask=PUNCTUATION,
    ),
    bert(
        "token-pooling",
        "half of the document vectors are left, scaled once more",
        mask=PUNCTUATION,
        expansion=FIXED,
        token_pooling={"pool_factor": 2.0},
        document_length=36,
    ),
    bert(
        "token-pooling-old",
        "a file that says nothing of scaling means none; two rows protected",
        mask=PUNCTUATION,
        token_pooling={"pool_factor": 1.5, "num_protected_tokens": 2},
        document_length=36,
        prepare=changed("*_HierarchicalTokenPooling/config.json", drop=["normalize_embeddings"]),
    ),
    bert(
        "left-padding",
        "a fixed length is filled up before the text, and positions move",
        expansion=FIXED,
        mask=PUNCTUATION,
        tokenizer_config=LEFT,
    ),
    bert("fp16", "stored in half precision", mask=PUNCTUATION, expansion=FIXED, dtype=torch.float16),
    bert(
        "heads-64",
        "heads as wide as real ones",
        model=models.bert(**WIDE),
        mask=PUNCTUATION,
        expansion=FIXED,
        dtype=torch.float16,
    ),
    bert(
        "pylate",
        "PyLate's keys; its markers are added tokens; a saved prompt after the prefix",
        with_added("[Q] ", "[D] "),
        model=models.bert(vocab_size=202),
        prompts={"query": "ask: ", "document": "[D] tell: "},
        prepare=pylate(
            **Q_AND_D, query_length=14, document_length=24, attend_to_expansion_tokens=False, do_query_expansion=True
        ),
    ),
    bert(
        "pylate-no-expansion",
        "query_length is a limit where nothing is filled up; words of its own are skipped",
        with_unused(),
        prepare=pylate(
            query_prefix="[unused0]",
            document_prefix="[unused1]",
            query_length=12,
            document_length=20,
            do_query_expansion=False,
            skiplist_words=[",", "the"],
        ),
    ),
    bert(
        "pylate-bare",
        "the class alone: no expansion, no markers; punctuation is skipped all the same",
        prepare=pylate(),
    ),
    bert(
        "pylate-older",
        "no class in the file, but PyLate's keys",
        with_unused(),
        prepare=pylate(
            None,
            query_prefix="[unused0] ",
            document_prefix="[unused1] ",
            query_length=14,
            attend_to_expansion_tokens=True,
        ),
    ),
    bert(
        "stanford",
        "the layer beside the transformer's weights; markers become special tokens",
        with_unused(),
        prepare=stanford(
            {"query_maxlen": 14, "doc_maxlen": 22, "dim": 8, "similarity": "l2", "mask_punctuation": True}
        ),
    ),
    bert(
        "stanford-defaults",
        "no artifact.metadata: 32 tokens, punctuation skipped",
        with_unused(),
        prepare=stanford(None),
    ),
    bert(
        "stanford-punctuation",
        "punctuation counts, all tokens see the added ones",
        with_unused(),
        prepare=stanford(
            {
                "query_maxlen": 14,
                "doc_maxlen": 22,
                "mask_punctuation": False,
                "attend_to_mask_tokens": True,
                "query_token_id": "[unused0]",
                "doc_token_id": "[unused1]",
            }
        ),
    ),
    MultiVectorCase(
        "jina-colbert-v2",
        "jina-xlm-roberta",
        "Jina's rotary XLM-R under Stanford's layer; markers of its own, all tokens see the added ones",
        jina_v3(hidden_size=16, num_attention_heads=2),
        jina_tokens,
        tokenizer_config=JINA,
        prepare=stanford(JINA_METADATA, "roberta."),
        disguise=jinas_colbert,
    ),
    MultiVectorCase(
        "jina-colbert-v2-heads-64",
        "jina-xlm-roberta",
        "the same with two heads of 64, in bfloat16",
        jina_v3(hidden_size=128, num_attention_heads=2, num_hidden_layers=1),
        jina_tokens,
        tokenizer_config=JINA,
        prepare=stanford(JINA_METADATA, "roberta."),
        disguise=jinas_colbert,
        dtype=torch.bfloat16,
    ),
    MultiVectorCase(
        "modernbert",
        "modernbert",
        "windows beside tokens that nobody sees",
        models.modernbert(**FAR),
        make_wordpiece,
        dense=(Layer(12),),
        mask=PUNCTUATION,
        expansion={"strategy": "fixed", "length": 18},
        document_length=None,
        max_seq_length=60,
        salt=" 1",
    ),
    MultiVectorCase(
        "roberta",
        "roberta",
        "positions of added tokens; of a byte-level vocabulary only the bare comma is skipped",
        models.roberta(**NARROW),
        roberta_tokens,
        mask=PUNCTUATION,
        expansion=FIXED,
        tokenizer_config={"tokenizer_class": "RobertaTokenizer"},
    ),
    MultiVectorCase(
        "qwen3",
        "qwen3",
        "a causal model: its end token fills up, and sees the text alone",
        models.decoder(hf.Qwen3Model, **{**NARROW, "num_key_value_heads": 1, "head_dim": 16}),
        qwen_end_tokens,
        mask=PUNCTUATION,
        expansion=FIXED,
    ),
    MultiVectorCase(
        "qwen3-left-attend",
        "qwen3",
        "a causal model that is filled up on the left",
        models.decoder(hf.Qwen3Model, **{**NARROW, "num_key_value_heads": 1, "head_dim": 16}),
        qwen_end_tokens,
        mask=PUNCTUATION,
        expansion={**FIXED, "attend": True},
        tokenizer_config=LEFT,
    ),
    MultiVectorCase(
        "lfm2",
        "lfm2",
        "LFM2-ColBERT-350M's kind: no mask token; convolutions take the end tokens that fill up for padding",
        models.lfm2(**LFM2),
        with_added("[Q] ", "[D] ", to=llama_tokens),
        dtype=torch.bfloat16,
        prepare=pylate(**LFM2_PYLATE, do_query_expansion=True),
    ),
    MultiVectorCase(
        "lfm2-bidirectional",
        "lfm2",
        "LFM2.5-ColBERT-350M's kind: own code, whose centred convolutions take the end tokens that fill up for text",
        models.lfm2(**LFM2, is_causal=False),
        with_added("[Q] ", "[D] ", to=llama_tokens),
        prepare=each(
            pylate(**LFM2_PYLATE, do_query_expansion=True),
            changed("config.json", architectures=["Lfm2BidirectionalModel"], disable_flash_attention=True),
        ),
        amend=functools.partial(amendments.centre_convolutions, zeroes_padding=False),
    ),
]
