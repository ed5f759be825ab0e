"""Late-interaction models that are not computed here: refused with words that name the file and what to do."""

import json
import shutil

import mlx.core as mx
import pytest

from akidb_mlx import MultiVectorEmbedder
from akidb_mlx.errors import AkiDBMLXError
from support.checkpoints import MULTI_VECTOR, REFERENCE
from support.weights import save_weights

SENTENCE, OWN, MODULES = "sentence_bert_config.json", "config_sentence_transformers.json", "modules.json"
MASK, DENSE, NORMALIZE = "2_MultiVectorMask/config.json", "1_Dense/config.json", "3_Normalize/config.json"
POOLING = "4_HierarchicalTokenPooling/config.json"
CALL = {"method": "forward", "method_output_name": "last_hidden_state"}
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


def expansion(**changes):
    return {"query_expansion": {"strategy": "fixed", "length": 14, "attend": False, "token": None, **changes}}


def order(*kinds):
    """modules.json in another order, or of fewer modules."""

    def edit(rows):
        by_kind = {row["type"].rsplit(".", 1)[-1]: row for row in rows}
        return [by_kind[kind] for kind in kinds]

    return edit


def renamed(kind, new):
    return lambda rows: [{**row, "type": row["type"].replace(kind, new)} for row in rows]


# (folder, file, keys or an edit of its content, words)
REFUSED = {
    "length below the expansion": (
        "fixed",
        SENTENCE,
        {"query_length": 5},
        r"query_length is 5, less than the 14 .*; the reference refuses that",
    ),
    "unknown key": ("fixed", SENTENCE, expansion(side="left"), "query_expansion has side; known: strategy"),
    "unknown strategy": ("fixed", SENTENCE, expansion(strategy="max"), "strategy 'max' is neither fixed nor min"),
    "no length": ("fixed", SENTENCE, expansion(length=None), "query_expansion lacks length"),
    "token beyond the vocabulary": ("fixed", SENTENCE, expansion(token="[NONE]"), r"has no token '\[NONE\]' that"),
    "a length for each call": (
        "fixed",
        SENTENCE,
        {"processing_kwargs": {"text": {"max_length": 9}}},
        "processing_kwargs sets max_length, and queries are made longer",
    ),
    "a chat template": (
        "fixed",
        SENTENCE,
        {"modality_config": {"text": CALL, "message": {**CALL, "format": "flat"}}},
        "query_expansion beside a chat template .* which the reference refuses",
    ),
    "images": ("fixed", SENTENCE, {"modality_config": {"image": CALL}}, "modality_config is .* not supported"),
    "a layer of whole texts": (
        "fixed",
        DENSE,
        {"module_input_name": "sentence_embedding"},
        "module_input_name 'sentence_embedding': only token_embeddings is supported",
    ),
    "an unknown activation": ("fixed", DENSE, {"activation_function": "my.Own"}, "'my.Own' is not supported; known"),
    "Normalize of whole texts": (
        "fixed",
        NORMALIZE,
        {"module_input_name": None},
        "Normalize reads sentence_embedding, .*: it would do nothing",
    ),
    "no mask": ("fixed", MODULES, order("Transformer", "Dense", "Normalize"), "there is no MultiVectorMask"),
    "a layer after Normalize": (
        "fixed",
        MODULES,
        order("Transformer", "MultiVectorMask", "Normalize", "Dense"),
        r"module Dense \(1_Dense\) after Normalize is not supported",
    ),
    "token pooling in the midst": (
        "token-pooling",
        MODULES,
        order("Transformer", "Dense", "HierarchicalTokenPooling", "MultiVectorMask", "Normalize"),
        "MultiVectorMask follows HierarchicalTokenPooling, which must come last",
    ),
    "another token pooling": (
        "token-pooling",
        MODULES,
        renamed("HierarchicalTokenPooling", "LambdaTokenPooling"),
        "module LambdaTokenPooling .* is not supported here; known: Transformer, Dense, MultiVectorMask",
    ),
    "a pool factor": ("token-pooling", POOLING, {"pool_factor": 0.5}, "pool_factor must be a number of at least 1"),
    "a key of the mask": ("fixed", MASK, {"skip_stop_words": True}, "skip_stop_words is not known here"),
    "a side of the mask": ("fixed", MASK, {"skiplist_tasks": ["passage"]}, "skiplist_tasks is .*; known are query and"),
    "a word without an unknown token": (
        "qwen3",
        MASK,
        {"skiplist_words": ["no such word"]},
        "the skiplist has 'no such word', .* there is no unknown token, so that the reference fails",
    ),
    "nothing is seen on the left": (
        "qwen3",
        "tokenizer_config.json",
        {"padding_side": "left"},
        "the tokenizer pads on the left, and qwen3's tokens see only what is before them",
    ),
    "a short window": (
        "modernbert",
        "config.json",
        {"local_attention": 16},
        "filled up to 18 tokens that no other token sees, and attention reaches 8 tokens",
    ),
    "other modules than PyLate's": (
        "pylate",
        MODULES,
        renamed("pylate.models.Dense.Dense", "sentence_transformers.models.Pooling"),
        "Pooling after the transformer, where PyLate has Dense alone",
    ),
    "a prefix that is no text": ("pylate", OWN, {"query_prefix": 7}, "query_prefix must be a text, not 7"),
    "markers that are no tokens": (
        "stanford",
        "artifact.metadata",
        {"query_token_id": "[Q]"},
        r"the marker '\[Q\]' is no single token of tokenizer\.json",
    ),
    "a plain transformer": (
        "stanford",
        "config.json",
        {"architectures": ["BertModel"]},
        "BertModel, without the layer that makes vectors of its hidden states",
    ),
}


def edited(source, folder, file, change):
    shutil.copytree(MULTI_VECTOR / source, folder)
    path = folder / file
    said = json.loads(path.read_text(encoding="utf-8"))
    if callable(change):
        said = change(said)
    else:
        said.update(change)
    path.write_text(json.dumps(said), encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused(name, tmp_path):
    source, file, change, words = REFUSED[name]
    folder = edited(source, tmp_path / "model", file, change)
    if name == "a chat template":
        (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    with pytest.raises(AkiDBMLXError, match=words):
        MultiVectorEmbedder.load(folder).close()


@pytest.mark.parametrize(
    ("source", "drop", "add", "words"),
    [
        ("stanford", ["linear.weight"], {}, "lacks linear.weight, which makes vectors of an HF_ColBERT's"),
        ("stanford", [], {"linear.bias": [8]}, "weights that this architecture does not use: linear.bias"),
        ("fixed", [], {"colbert.weight": [8, 8]}, "weights that this architecture does not use: colbert.weight"),
    ],
)
def test_weights_that_are_missing_or_left_over(source, drop, add, words, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(MULTI_VECTOR / source, folder)
    file = str(folder / "model.safetensors")
    with mx.stream(mx.cpu):
        weights = {key: mx.array(value) for key, value in mx.load(file).items() if key not in drop}
        mx.eval(weights)
        save_weights(file, {**weights, **{key: mx.ones(shape) for key, shape in add.items()}})
    with pytest.raises(AkiDBMLXError, match=words):
        MultiVectorEmbedder.load(folder).close()


def test_an_embedder_and_a_reranker_are_no_late_interaction():
    with pytest.raises(AkiDBMLXError, match=r"config_sentence_transformers\.json: this is an embedding model; load"):
        MultiVectorEmbedder.load(REFERENCE / "bert-prompts")
    with pytest.raises(AkiDBMLXError, match=r"a reranker \(CrossEncoder\)"):
        MultiVectorEmbedder.load(REFERENCE / "rerankers" / "bert-saved")
