"""What is refused rather than computed wrongly, each with its message; run as a script this writes the docs."""
# ruff: noqa: E501 -- a refusal a row reads as a table.

import akidb_mlx  # isort: skip  # noqa: F401  # before mlx, also where this runs as a script

import json
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import mlx.core as mx
import pytest

from akidb_mlx import Embedder
from akidb_mlx.errors import AkiDBMLXError
from support.checkpoints import REFERENCE
from support.places import DOCS
from support.torch_files import Names, tensor, torch_file

PAGE = DOCS / "refusals.md"


class Refusal(NamedTuple):
    """A checkpoint that is not computed."""

    what: str
    base: str
    """The tiny checkpoint that it is made from."""
    edit: Callable[[Path], object]
    message: str
    """Its beginning, without the file's path."""
    settings: dict | None = None


def config(**changes):
    return lambda folder: edit_json(folder / "config.json", **changes)


def modules(*kinds):
    def edit(folder):
        rows = [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (kind, path) in enumerate(kinds)
        ]
        (folder / "modules.json").write_text(json.dumps(rows))

    return edit


def edit_json(file, **changes):
    content = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in content.items() if value != "absent"}))


def weights(**changes):
    def edit(folder):
        file = str(folder / "model.safetensors")
        mx.save_safetensors(file, mx.load(file) | changes)

    return edit


def strip(folder):
    for name in ("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"):
        (folder / name).unlink()


def drop(name):
    return lambda folder: (folder / name).unlink()


def template(text):
    return lambda folder: (folder / "chat_template.jinja").write_text(text, encoding="utf-8")


def to_pickle(content):
    """In place of safetensors, the file that torch.save would write of such a pickle; bytes: that file."""

    def edit(folder):
        (folder / "model.safetensors").unlink()
        file = content if isinstance(content, bytes) else torch_file(content)
        (folder / "pytorch_model.bin").write_bytes(file)

    return edit


def to_other_name(folder):
    (folder / "model.safetensors").rename(folder / "adapter_model.bin")


BERT, LLAMA, QWEN, CHAT = "bert-mean", "llama-linear", "qwen3-embedding", "qwen3-chat"
TRANSFORMER, POOLING = ("Transformer", ""), ("Pooling", "1_Pooling")
REFUSALS = (
    # ── architectures ──
    Refusal("an architecture that nobody computes", BERT, config(model_type="longformer"), "model_type 'longformer' is not supported; supported: "),
    Refusal("a decoder of mlx-lm's without a reference", LLAMA, config(model_type="mamba"),
            "model_type 'mamba' is a model of mlx-lm's, but no reference has verified its vectors here, so it is refused; supported: "),
    Refusal("a model that looks at images too", LLAMA, config(model_type="qwen3_vl"), "model_type 'qwen3_vl' is a model of mlx-lm's, but"),
    Refusal("Jina v3's adapters", BERT, config(model_type="xlm-roberta", lora_adaptations=["retrieval.query"]),
            "config.json: lora_adaptations: Jina v3 switches an adapter on for each task, which is not supported"),
    Refusal("code of the checkpoint's own", BERT, config(auto_map={"AutoModel": "modeling.Other"}),
            "config.json: auto_map names the checkpoint's own code (modeling.Other), which is never run and may compute something else than bert"),
    Refusal("the same for a decoder", "qwen2-causal-lm", config(auto_map={"AutoModel": "modeling_qwen.Qwen2Model"}),
            "config.json: auto_map names the checkpoint's own code (modeling_qwen.Qwen2Model), which is never run and may compute something "
            "else than qwen2; if it differs only in what tokens see, say so there with is_causal (true or false)"),
    Refusal("ALiBi positions (Jina v2)", BERT, config(position_embedding_type="alibi"),
            "config.json: position_embedding_type is 'alibi'; for bert only 'absolute', 'relative_key', 'relative_key_query', None is supported"),
    Refusal("a field that mlx-lm's class ignores", LLAMA, config(attention_chunk_size=64),
            "config.json: 'attention_chunk_size' (64) is not known for llama and might change vectors; delete it there if transformers ignores it"),
    Refusal("rotary positions that its class refuses", "phi3",
            config(rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0, "partial_rotary_factor": 0.5}),
            "config.json: rope_type is 'linear'; for phi3 only 'default', 'longrope' is supported"),
    Refusal("LongRoPE without its divisors", LLAMA, config(rope_parameters={"rope_type": "longrope", "rope_theta": 10000.0}),
            "config.json: rope_type 'longrope' lacks a setting or has a wrong one (KeyError('short_factor'))"),
    Refusal("settings layer by layer in EmbeddingGemma 2, beyond its heads", "embedding-gemma2-text", config(per_layer_config={"1": {"intermediate_size": 8}}),
            "config.json: per_layer_config says {'intermediate_size': 8} of layer 1"),
    Refusal("a retrieval model of LFM2's that does not name its code", "lfm2-is-causal-false", config(mlx={"head": "embedding"}),
            "config.json: mlx tells of a retrieval model, and architectures does not name Lfm2BidirectionalModel; add it there if tokens see both ways"),
    Refusal("windows in a bidirectional decoder", "mistral-sliding-window", config(is_causal=False),
            "config.json: is_causal false with a sliding window is not supported"),
    Refusal("a decoder whose class is causal all the same", "nemotron", config(is_causal=False),
            "config.json: is_causal is False; for nemotron only True is supported"),
    Refusal("bidirectional Gemma 1 and 2, broken in transformers", "gemma-mean", config(use_bidirectional_attention=True),
            "config.json: use_bidirectional_attention is True; for gemma only None, False is supported"),
    Refusal("a null where a number belongs", BERT, config(layer_norm_eps=None),
            "config.json: layer_norm_eps must be float, not None; transformers' class refuses it too"),
    Refusal("a field of another type", BERT, config(pad_token_id="0"), "config.json: pad_token_id must be int or null, not '0'; transformers'"),
    Refusal("an encoder that is said to be causal", BERT, config(is_causal=True),
            "config.json: is_causal is true, with which the reference gives a bert text one vector alone and another in a batch; delete it"),
    Refusal("settings layer by layer", BERT, config(per_layer_config={"0": {"hidden_act": "relu"}}), "per_layer_config is not supported"),
    # ── what follows the transformer ──
    Refusal("no word about pooling: a chat model", "qwen3-causal-lm", strip,
            "does not say how its token vectors become one (no modules.json, no known family); look it up in the model's "
            "documentation and set pooling and normalize"),
    Refusal("… nor about normalising", "qwen3-causal-lm", strip,
            "does not say whether its vectors are scaled to unit length; set normalize", {"pooling": "last_token"}),
    Refusal("a module that is not known", BERT, modules(TRANSFORMER, POOLING, ("LayerNorm", "2_LayerNorm")),
            "module LayerNorm (2_LayerNorm) is not supported here; known: Transformer, StaticEmbedding, Pooling, Dense, Normalize, Dropout"),
    Refusal("another first module", BERT, modules(("CLIPModel", "")), "the first module is CLIPModel; only Transformer and StaticEmbedding"),
    Refusal("Normalize before the end", BERT, modules(TRANSFORMER, POOLING, ("Normalize", ""), ("Dense", "2_Dense")),
            "Dense follows Normalize, which must come last"),
    Refusal("a module of the checkpoint's own", BERT,
            lambda folder: (folder / "modules.json").write_text('[{"idx": 0, "name": "0", "path": "", "type": "custom_st.Transformer"}]'),
            "custom_st.Transformer is code of the checkpoint's own, which is never run"),
    Refusal("a reranker as sentence-transformers saves it", BERT,
            lambda folder: edit_json(folder / "config_sentence_transformers.json", model_type="CrossEncoder"),
            "this is a reranker (CrossEncoder), which scores pairs of texts; load it with akidb_mlx.Reranker"),
    Refusal("a sparse encoder", BERT,
            lambda folder: edit_json(folder / "config_sentence_transformers.json", model_type="SparseEncoder"),
            "this is a sparse encoder (SparseEncoder), whose rows are as wide as the vocabulary"),
    Refusal("a classifier without sentence-transformers' files", BERT,
            lambda folder: (strip(folder), edit_json(folder / "config.json", architectures=["BertForSequenceClassification"])),
            "this is a classifier or reranker (BertForSequenceClassification), which scores texts"),
    Refusal("queries that are filled up to a length", BERT, lambda folder: edit_json(folder / "sentence_bert_config.json", query_expansion=True),
            "query_expansion is True, which changes vectors and is not supported here"),
    Refusal("arguments of the tokenizer", BERT,
            lambda folder: edit_json(folder / "sentence_bert_config.json", tokenizer_args={"do_lower_case": False}),
            "tokenizer_args is {'do_lower_case': False}, which changes vectors and is not supported here"),
    Refusal("images beside texts", BERT,
            lambda folder: edit_json(folder / "sentence_bert_config.json", modality_config={"text": {}, "image": {}}),
            "modality_config is {'text': {}, 'image': {}}, which changes vectors and is not supported here"),
    Refusal("a chat template around each text, which is not there", CHAT, drop("chat_template.jinja"),
            "has no chat template: this model reads its texts through one, and without it its numbers mean nothing; take a checkpoint that"),
    Refusal("a chat template that loses the text", CHAT, template("{{ messages | length }}"),
            'the chat template leaves out messages of role "user", so that nothing would depend on that text; take a checkpoint'),
    Refusal("a chat template that prints the date", CHAT, template("{{ messages[0].content }} {{ strftime_now('%d %b %Y') }}"),
            'the chat template prints the date, so that a text would get another result each day; set what it takes for it (such as "date_string")'),
    Refusal("a chat template that is none", CHAT, template("{% for message in messages %}"), "the chat template cannot be rendered ("),
    Refusal("an unknown pooling", BERT, lambda folder: edit_json(folder / "1_Pooling" / "config.json", pooling_mode="attention"),
            "unknown pooling_mode ['attention']; known: cls, max, mean"),
    Refusal("EmbeddingGemma without its Dense layers", "embeddinggemma-folded",
            lambda folder: mx.save_safetensors(str(folder / "model.safetensors"), {"model.norm.weight": mx.ones(32)}),
            "EmbeddingGemma has 2 Dense layers after pooling, but this checkpoint has neither modules.json nor weights called dense.0"),
    Refusal("modules without a pooling", BERT, modules(TRANSFORMER), "modules.json names no Pooling, without which the reference gives no row per text"),
    Refusal("another adapter beside whole weights", BERT, lambda folder: (folder / "adapter_config.json").write_text("{}"),
            "adapter_config.json: the reference adds an adapter's weights to the model's, which is not supported here; merge them first"),
    Refusal("rotary settings in two forms", LLAMA, config(rope_scaling={"rope_type": "linear", "factor": 2.0}, rope_parameters={"rope_theta": 5.0}),
            "config.json has rope_scaling beside rope_parameters: delete the one that is not meant"),
    Refusal("a part of the heads turned, which the reference ignores", LLAMA, config(partial_rotary_factor=0.5),
            "config.json: partial_rotary_factor is 0.5, which the reference does not obey for llama; delete it"),
    # ── files ──
    Refusal("a link that leads nowhere", BERT, lambda folder: (drop("1_Pooling/config.json")(folder), (folder / "1_Pooling" / "config.json").symlink_to("gone")),
            "1_Pooling/config.json is a link that leads nowhere (gone); download it again, or delete it if the model has none"),
    Refusal("an empty file", BERT, lambda folder: (folder / "tokenizer_config.json").write_bytes(b""),
            "tokenizer_config.json is empty; download it again, or delete it if the model has none"),
    # ── weights ──
    Refusal("integers for floats", BERT, weights(**{"embeddings.LayerNorm.weight": mx.ones(16, mx.int8)}),
            "embeddings.norm.weight is stored as int8, where floats are wanted; take a checkpoint in float32"),
    Refusal("a dtype that is not read", BERT, lambda folder: (folder / "model.safetensors").write_bytes(
            (folder / "model.safetensors").read_bytes().replace(b'"F32"', b'"F4" ', 1)), "is stored as F4, which is not read here; take a checkpoint"),
    Refusal("a weight that nobody uses", BERT, weights(**{"adapter.weight": mx.zeros((2, 2))}),
            "has weights that this architecture does not use: adapter.weight; its vectors might be wrong"),
    Refusal("a missing weight", QWEN, config(num_hidden_layers=3, layer_types=["full_attention"] * 3),
            "lacks model.layers.2.input_layernorm.weight, model.layers.2.mlp.down_proj.weight, model.layers.2.mlp.gate_proj.weight and 8 more"),
    Refusal("a weight of another shape", BERT, config(vocab_size=100), "embeddings.word.weight has shape (200, 16); config.json wants (100, 16)"),
    Refusal("no weights", BERT, to_other_name, "lacks model.safetensors (or pytorch_model.bin); adapter_model.bin is not the name of a model's weights"),
    Refusal("a pickle with code", BERT, to_pickle({"a": Names("os", "system", ("true",))}),
            "pytorch_model.bin names os.system; only plain tensors are read, and nothing of it was run. Take the model's safetensors, or a file"),
    Refusal("a pickle with more than tensors", BERT, to_pickle({"state_dict": {"a": tensor()}}),
            "pytorch_model.bin has dict where tensors are, called state_dict; only plain tensors are read"),
    Refusal("a torn file of torch's", BERT, to_pickle(torch_file()[:-30]),
            "pytorch_model.bin is no whole file of torch's (it is cut short: it has no directory at its end); download it again"),
    Refusal("torch's form before 1.6", BERT, to_pickle(b"\x80\x02"),
            "pytorch_model.bin is in the form of torch before 1.6, which is not read; convert it where torch is installed: python -c"),
    Refusal("other quantisers' weights", LLAMA, config(quantization_config={"quant_method": "gptq", "bits": 4}),
            "weights quantised with 'gptq' are not supported; take the original weights, or an MLX conversion (mlx_lm.convert)"),
    Refusal("float16 where it overflows", "embeddinggemma", lambda folder: None,
            'gemma3_text overflows in float16; set dtype="bfloat16" or "float32"', {"dtype": "float16"}),
    # ── tokenizers ──
    Refusal("a tokenizer that does not tell padding", BERT, lambda folder: edit_json(folder / "tokenizer_config.json", model_input_names=["input_ids"]),
            "model_input_names has no attention_mask, without which the reference takes padding for text; add it"),
    Refusal("no tokenizer.json", BERT, drop("tokenizer.json"), "tokenizer.json is missing; make it where transformers is installed: python -c"),
)  # fmt: skip


def message_of(refusal, folder):
    shutil.copytree(REFERENCE / refusal.base, folder)
    refusal.edit(folder)
    try:
        Embedder.load(folder, **(refusal.settings or {})).close()
    except AkiDBMLXError as error:
        return error
    return None


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.what)
def test_refused_with_this_message(refusal, tmp_path):
    error = message_of(refusal, tmp_path / "model")
    assert error is not None, "it was loaded"
    assert refusal.message in str(error)


def test_the_docs_list_them():
    text = PAGE.read_text(encoding="utf-8")
    assert as_markdown() == text, "run python tests/test_refusals.py"


def as_markdown():
    rows = []
    for refusal in REFUSALS:
        with tempfile.TemporaryDirectory() as folder:
            error = message_of(refusal, Path(folder) / "model")
            said = str(error).replace(folder, "…")
        said = re.sub(r"(supported: )bert, .*", r"\1…", re.sub(r"supported: [a-z0-9_, -]+$", "supported: …", said))
        rows.append(f"| {refusal.what} | {type(error).__name__} | {said.replace('|', chr(92) + '|')} |")
    return HEAD + "\n".join(rows) + "\n"


HEAD = """# What is refused

A checkpoint gives the vectors of sentence-transformers, or an error that says why not and what to do. No message here
is a warning: nothing is computed after it. The table is written by `python tests/test_refusals.py` from the errors
that really come; `…` stands for the checkpoint's folder or for a list.

| what | error | message |
|---|---|---|
"""

if __name__ == "__main__":
    PAGE.write_text(as_markdown(), encoding="utf-8")
    sys.stdout.write(f"{PAGE}\n")
