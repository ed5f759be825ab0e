"""What is no sparse encoder, or one that is not computed here: refused with words."""
# ruff: noqa: E501 -- a refusal a row reads as a table.

import json
import shutil

import mlx.core as mx
import pytest

from akidb_mlx import SparseEmbedder
from akidb_mlx.errors import AkiDBMLXError, CheckpointError, UnsupportedModelError
from support.checkpoints import REFERENCE, SPARSE
from support.weights import save_weights

BERT, UNTIED, LATENTS = "sparse/bert-max", "sparse/bert-untied", "sparse/bert-autoencoder"
ROUTER, IDF, PLAIN, MODERN = (
    "sparse/bert-static-queries",
    "sparse/bert-idf-file",
    "sparse/bert-plain",
    "sparse/modernbert",
)
QUERIES, OWN = "query_0_SparseStaticEmbedding", "config_sentence_transformers.json"
ST = "sentence_transformers.sparse_encoder.modules."


def set_in(file, **keys):
    def edit(folder):
        said = json.loads((folder / file).read_text(encoding="utf-8")) | keys
        said = {key: value for key, value in said.items() if value is not None}
        (folder / file).write_text(json.dumps(said), encoding="utf-8")

    return edit


def types(*kinds):
    """Other modules than modules.json has; a folder that a class has is there already."""

    def edit(folder):
        rows = [{"idx": i, "name": str(i), "path": path, "type": ST + kind} for i, (kind, path) in enumerate(kinds)]
        (folder / "modules.json").write_text(json.dumps(rows), encoding="utf-8")

    return edit


def weights(file="model.safetensors", drop=(), **add):
    def edit(folder):
        with mx.stream(mx.cpu):
            held = {key: value for key, value in mx.load(str(folder / file)).items() if key not in drop}
            save_weights(folder / file, held | add)

    return edit


def drop(file):
    return lambda folder: (folder / file).unlink()


def text(file, content):
    return lambda folder: (folder / file).write_text(content, encoding="utf-8")


def router(**keys):
    return set_in("router_config.json", **keys)


CHAIN, SPLADE, SAE = (
    ("Transformer", ""),
    ("SpladePooling", "1_SpladePooling"),
    ("SparseAutoEncoder", "2_SparseAutoEncoder"),
)
ONLY_QUERIES = {"structure": {"query": [QUERIES]}}
TWICE_STATIC = {"structure": {"query": [QUERIES], "document": [QUERIES]}}
MAPPED = {"parameters": {"default_route": "document", "route_mappings": {"(None, 'text')": "document"}}}
OUTSIDE = {"structure": {"query": ["../x"], "document": ["document_0_Transformer"]}}
FOREIGN = {"types": {QUERIES: "mypackage.Idf"}}
HEAD = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}

REFUSED = {
    "a masked language model that says nothing of pooling": (PLAIN, (), "does not say how its logits become one row"),
    "a backbone that says nothing at all": (
        PLAIN, (set_in("config.json", architectures=["BertModel"]),), "which has no weight for each word of a vocabulary"),
    "no architecture named": (PLAIN, (set_in("config.json", architectures=None),), "whose architectures are not named"),
    "no module after the transformer": (BERT, (types(CHAIN),), "nothing after the transformer; a sparse encoder has"),
    "a module that is not known": (BERT, (types(CHAIN, SPLADE, ("LambdaPooling", "")),), "SpladePooling, LambdaPooling after"),
    "another first module": (BERT, (types(("CLIPModel", "")),), "the first module is CLIPModel; only Transformer and MLM"),
    "hidden states where logits are wanted": (
        BERT, (set_in("sentence_bert_config.json", transformer_task="feature-extraction"),), "but SpladePooling takes what 'fill-mask'"),
    "logits where hidden states are wanted": (
        LATENTS, (set_in("sentence_bert_config.json", transformer_task="fill-mask"),), "SparseAutoEncoder takes what 'feature-ext"),
    "another output": (BERT, (set_in("sentence_bert_config.json", modality_config=HEAD),), "modality_config"),
    "a pooling strategy that is not known": (BERT, (set_in("1_SpladePooling/config.json", pooling_strategy="mean"),), "known: max, sum"),
    "an activation that is not known": (
        BERT, (set_in("1_SpladePooling/config.json", activation_function="gelu"),), "known: relu, log1p_relu"),
    "a key of pooling that is not known": (BERT, (set_in("1_SpladePooling/config.json", scale=2),), "scale is not known"),
    "max_active_dims of nothing": (BERT, (set_in(OWN, max_active_dims=0),), "max_active_dims is 0; it must be at least 1"),
    "max_active_dims of no number": (BERT, (set_in(OWN, max_active_dims="8"),), "max_active_dims must be of type int"),
    "a similarity that is not known": (BERT, (set_in(OWN, similarity_fn_name="maxsim"),), "similarity_fn_name 'maxsim'"),
    "code of the checkpoint's own": (
        BERT, (set_in("config.json", auto_map={"AutoModelForMaskedLM": "modeling.Own"}),), "which is never run"),
    "an architecture without a verified head": (
        BERT, (set_in("config.json", model_type="nomic_bert"),), "as a sparse encoder is not supported; supported: bert"),
    "an untied decoder that is not there": (
        UNTIED, (weights(drop=("cls.predictions.decoder.weight",)),), "lacks cls.predictions.decoder.weight, which config.json"),
    "an untied decoder's bias that is not there": (UNTIED, (weights(drop=("cls.predictions.decoder.bias",)),), "lacks decoder.bias"),
    "a bias that is not there": (BERT, (weights(drop=("cls.predictions.bias",)),), "lacks decoder.bias"),
    "a layer of the head that is not there": (
        BERT, (weights(drop=("cls.predictions.transform.dense.weight",)),), "lacks dense.weight"),
    "a weight too much in the head": (
        BERT, (weights(**{"cls.predictions.more.weight": mx.ones((2,))}),), "does not use: cls.predictions.more.weight"),
    "a bias that config.json does not speak of": (MODERN, (weights(**{"head.dense.bias": mx.ones((16,))}),), "does not use: dense.bias"),
    "a head of another width": (BERT, (set_in("config.json", vocab_size=190),), "has shape"),
    "an autoencoder without weights": (LATENTS, (drop("2_SparseAutoEncoder/model.safetensors"),), "SparseAutoEncoder has no weights"),
    "an autoencoder with a weight too much": (
        LATENTS, (weights("2_SparseAutoEncoder/model.safetensors", more=mx.ones((2,))),), "does not use: more"),
    "an autoencoder without a weight": (
        LATENTS, (weights("2_SparseAutoEncoder/model.safetensors", drop=("decoder.linear.weight",)),), "lacks weight"),
    "an autoencoder of another input": (LATENTS, (set_in("2_SparseAutoEncoder/config.json", input_dim=8),), "pre_bias has shape (16,); config.json wants (8,)"),
    "an autoencoder with more to keep than it has": (LATENTS, (set_in("2_SparseAutoEncoder/config.json", k=65),), "make no model"),
    "an autoencoder's key that is not known": (LATENTS, (set_in("2_SparseAutoEncoder/config.json", act="x"),), "act is not known"),
    "an autoencoder without pooling": (LATENTS, (types(CHAIN, SAE),), "no Pooling before it"),
    "max_active_dims above the latents": (LATENTS, (set_in(OWN, max_active_dims=65),), "max_active_dims is 65"),
    "a Router without documents": (ROUTER, (router(**ONLY_QUERIES),), "only query and document are supported"),
    "a Router of static documents": (ROUTER, (router(**TWICE_STATIC),), "a transformer with SpladePooling for documents"),
    "a Router that goes by modality": (ROUTER, (router(**MAPPED),), "route_mappings"),
    "a Router that names no folder in here": (ROUTER, (router(**OUTSIDE),), "none of `types`, or no folder in here"),
    "a Router with code of its own": (ROUTER, (router(**FOREIGN),), "mypackage.Idf is code of the checkpoint's own"),
    "a Router without its file": (ROUTER, (drop("router_config.json"),), "router_config.json is missing"),
    "a default way that is not there": (ROUTER, (router(parameters={"default_route": "x"}),), "neither query nor document"),
    "a module after a Router": (
        ROUTER, (types(("Router", ""), ("Normalize", "1_Normalize")),), "Normalize after a Router is not supported"),
    "queries without weights": (ROUTER, (drop(f"{QUERIES}/model.safetensors"),), "queries have no weights"),
    "queries with a weight too much": (
        ROUTER, (weights(f"{QUERIES}/model.safetensors", more=mx.ones((2,))),), "wanted is `weight` alone"),
    "queries of another width": (
        ROUTER, (weights(f"{QUERIES}/model.safetensors", weight=mx.ones((199,))),), "has weights for 199 tokens, and documents have 200"),
    "queries whose weights are no floats": (
        ROUTER, (weights(f"{QUERIES}/model.safetensors", weight=mx.ones((200,), mx.int32)),), "where floats are wanted"),
    "queries without a tokenizer": (ROUTER, (drop(f"{QUERIES}/tokenizer.json"),), "tokenizer.json is missing"),
    "a key of queries that is not known": (ROUTER, (set_in(f"{QUERIES}/config.json", scale=1),), "scale is not known"),
    "words' weights that are elsewhere": (IDF, (set_in(f"{QUERIES}/config.json", path="other/idf.json"),), "which is no file of this checkpoint"),
    "words' weights outside": (IDF, (set_in(f"{QUERIES}/config.json", path="../idf.json"),), "which is no file of this checkpoint"),
    "words' weights of another form": (IDF, (text(f"{QUERIES}/idf.json", '["a"]'),), "must map words to numbers"),
    "words' weights that are torn": (IDF, (text(f"{QUERIES}/idf.json", '{"a": 1'),), "cannot be read as JSON"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused(name, tmp_path):
    source, edits, words = REFUSED[name]
    folder = shutil.copytree(REFERENCE / source, tmp_path / "model")
    for edit in edits:
        edit(folder)
    with pytest.raises(AkiDBMLXError) as refusal:
        SparseEmbedder.load(folder, device="cpu").close()
    assert words in str(refusal.value)


def test_a_word_that_is_no_token_where_the_tokenizer_knows_no_unknown_one(tmp_path):
    folder = shutil.copytree(SPARSE / "bert-idf-file", tmp_path / "model")
    file = folder / QUERIES / "tokenizer.json"
    said = json.loads(file.read_text(encoding="utf-8"))
    said["model"] = {"type": "WordLevel", "vocab": said["model"]["vocab"], "unk_token": "absent"}
    file.write_text(json.dumps(said), encoding="utf-8")
    with pytest.raises(UnsupportedModelError, match="'noword' is no token of"):
        SparseEmbedder.load(folder, device="cpu")


def test_a_static_model_is_no_sparse_encoder():
    with pytest.raises((CheckpointError, UnsupportedModelError), match=r"akidb_mlx\.Embedder"):
        SparseEmbedder.load(REFERENCE / "static-root")
