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
from support.weights import save_weights

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
        save_weights(file, mx.load(file) | changes)

    return edit


def without(name):
    def edit(folder):
        file = str(folder / "model.safetensors")
        save_weights(file, {key: weight for key, weight in mx.load(file).items() if key != name})

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


def in_turn(*edits):
    def edit(folder):
        for each in edits:
            each(folder)

    return edit


def adapter(**changes):
    return lambda folder: edit_json(folder / "adapters" / "retrieval" / "adapter_config.json", **changes)


def adapter_weights(pattern, replacement, **changes):
    """The retrieval adapter's weights under other names, or without those that fit."""

    def edit(folder):
        adapter(**changes)(folder)
        file = str(folder / "adapters" / "retrieval" / "adapter_model.safetensors")
        kept = {
            name: part
            for name, part in mx.load(file).items()
            if replacement is not None or not re.search(pattern, name)
        }
        save_weights(file, {re.sub(pattern, replacement or "", name): part for name, part in kept.items()})

    return edit


BERT, LLAMA, QWEN, CHAT = "bert-mean", "llama-linear", "qwen3-embedding", "qwen3-chat"
V3, V5, TASK = "tasks/jina-v3", "tasks/jina-v5-nano", {"task": "retrieval"}
NOMIC_MOE = "nomic-moe-published"
TRANSFORMER, POOLING = ("Transformer", ""), ("Pooling", "1_Pooling")
REFUSALS = (
    # ── architectures ──
    Refusal("an architecture that nobody computes", BERT, config(model_type="longformer"), "model_type 'longformer' is not supported; supported: "),
    Refusal("a decoder of mlx-lm's without a reference", LLAMA, config(model_type="mamba"),
            "model_type 'mamba' is a model of mlx-lm's, but no reference has verified its vectors here, so it is refused; supported: "),
    Refusal("a model that looks at images too", LLAMA, config(model_type="qwen3_vl"), "model_type 'qwen3_vl' is a model of mlx-lm's, but"),
    Refusal("a task that the model has no adapter for", V3, lambda folder: None,
            "has no task 'clustering'; its tasks are 'retrieval.query', 'retrieval.passage', 'separation', ", {"task": "clustering"}),
    Refusal("a task of a model without adapters", BERT, lambda folder: None, "has no adapters for tasks; leave task='retrieval' out", {"task": "retrieval"}),
    Refusal("no task where the model has no use without", V5, lambda folder: None,
            "has an adapter for each task and no use without: its tasks are 'retrieval', 'text-matching', 'clustering', 'classification' (option task)"),
    Refusal("an adapter that is not there", V5, drop("adapters/clustering/adapter_model.safetensors"),
            "adapters/clustering/adapter_model.safetensors is missing, the adapter of the task 'clustering'; download the model again", TASK),
    Refusal("DoRA", V5, adapter(use_dora=True), "adapters/retrieval/adapter_config.json: use_dora is True, which is not supported; merge the adapter first", TASK),
    Refusal("rank-stabilised LoRA", V5, adapter(use_rslora=True), "use_rslora is True, which is not supported; merge the adapter first", TASK),
    Refusal("an adapter with whole modules", V5, adapter(modules_to_save=["norm"]), "modules_to_save is ['norm'], which is not supported", TASK),
    Refusal("an adapter's field that nobody knows", V5, adapter(kasa_config={"beta": 1}), "kasa_config is {'beta': 1}, which is not supported", TASK),
    Refusal("an adapter of another kind", V5, adapter(peft_type="IA3"), "adapter_config.json: peft_type is 'IA3'; only LORA is supported", TASK),
    Refusal("an adapter whose file has another rank", V5, adapter(r=3), "layers.0.mlp.down_proj has adapters of shapes (4, 48) and (32, 4); the rank is 3", TASK),
    Refusal("an adapter of a layer that the model has not", V5, adapter_weights("layers.0.self_attn.o_proj", "layers.7.self_attn.o_proj"),
            "adapters/retrieval/adapter_model.safetensors adapts layers.7.attention.out, which the model does not have", TASK),
    Refusal("an adapter with half a pair", V5, adapter_weights("layers.1.mlp.down_proj.lora_A.weight", None),
            "layers.1.mlp.down_proj has only one of lora_A and lora_B", TASK),
    Refusal("an adapter of some of what is computed together", V5, adapter_weights(r"layers.\d.self_attn.v_proj.*", None, target_modules=["q_proj", "k_proj", "o_proj"]),
            "adapts layers.0.attention.q_proj and not all of what is computed together with it (q_proj, k_proj, v_proj); merge the adapter first", TASK),
    Refusal("stacks of adapters that config.json does not name", V3, in_turn(config(lora_adaptations="absent"), modules(TRANSFORMER, POOLING)),
            "has stacks of adapters, of which config.json says nothing (lora_adaptations)"),
    Refusal("ALiBi without the kind of network (Jina v2)", BERT, config(position_embedding_type="alibi"), "config.json lacks 'feed_forward_type', which jina_bert needs"),
    Refusal("another kind of network (Jina v2)", "jina-v2-base", config(feed_forward_type="swiglu"),
            "config.json: feed_forward_type is 'swiglu'; for jina_bert only 'original', 'geglu', 'reglu' is supported"),
    Refusal("code of the checkpoint's own", BERT, config(auto_map={"AutoModel": "modeling.Other"}),
            "config.json: auto_map names the checkpoint's own code (modeling.Other), which is never run and may compute something else than bert"),
    Refusal("the same for a decoder", "qwen2-causal-lm", config(auto_map={"AutoModel": "modeling_qwen.Qwen2Model"}),
            "config.json: auto_map names the checkpoint's own code (modeling_qwen.Qwen2Model), which is never run and may compute something "
            "else than qwen2; if it differs only in what tokens see, say so there with is_causal (true or false)"),
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
    Refusal("both ways, by a field that its class does not read", "qwen3-embedding", config(use_bidirectional_attention=True),
            "config.json: use_bidirectional_attention is True, which the reference does not read for qwen3; if tokens see both ways, say so with "
            "is_causal false, else delete it"),
    Refusal("one way, where its class sees both", "llama-bidirec-published", config(is_causal=True),
            "config.json: is_causal is True; for llama_bidirec only False is supported"),
    Refusal("vectors of chunks that depend on each other (pplx-embed-context)", "pplx-embed", config(auto_map={"AutoModel": "modeling.PPLXQwen3ContextualModel"}),
            "config.json: auto_map: modeling.PPLXQwen3ContextualModel gives a vector per chunk of a document, which depends on the other chunks; that is not supported"),
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
    Refusal("NomicBERT whose experts choose the tokens", NOMIC_MOE, config(expert_choice_router=True),
            "config.json: expert_choice_router is True; for nomic_bert only False, None is supported"),
    Refusal("… whose experts' weights are made one in all", NOMIC_MOE, config(moe_normalize_expert_weights=1.0),
            "config.json: moe_normalize_expert_weights is 1.0; for nomic_bert only False, None is supported"),
    Refusal("… with experts for every token", NOMIC_MOE, config(num_shared_experts=1),
            "config.json: num_shared_experts is 1; for nomic_bert only 0, None is supported"),
    Refusal("… with narrower experts", NOMIC_MOE, config(ffn_div=2), "config.json: ffn_div is 2; for nomic_bert only 1, None is supported"),
    Refusal("… that turns a part of each head", NOMIC_MOE, config(rotary_emb_fraction=0.5),
            "config.json: rotary_emb_fraction is 0.5; for nomic_bert only 1.0 is supported"),
    Refusal("… whose keys shrink with their distance", NOMIC_MOE, config(rotary_emb_scale_base=512),
            "config.json: rotary_emb_scale_base is 512; for nomic_bert only None is supported"),
    Refusal("… with gated experts", NOMIC_MOE, config(activation_function="swiglu"),
            "config.json: activation_function is 'swiglu'; for nomic_bert only 'gelu' is supported"),
    Refusal("experts in a config that transformers saved, whose class drops them", "nomic-transformers-5", config(num_experts=8),
            "config.json: num_experts is 8; for nomic_bert only None, 0 is supported"),
    Refusal("a mixture of experts without a reference", LLAMA, config(model_type="gpt_oss"), "model_type 'gpt_oss' is a model of mlx-lm's, but no reference"),
    Refusal("OLMoE that bounds queries, keys and values", "olmoe", config(clip_qkv=8.0), "config.json: clip_qkv is 8.0; for olmoe only None is supported"),
    Refusal("Qwen2-MoE with windows", "qwen2-moe", config(use_sliding_window=True), "config.json: use_sliding_window is True; for qwen2_moe only False is supported"),
    Refusal("Qwen2-MoE without biases", "qwen2-moe", config(qkv_bias=False), "config.json: qkv_bias is False; for qwen2_moe only True is supported"),
    Refusal("more experts chosen than there are", "olmoe", config(num_experts_per_tok=9), "config.json: num_experts_per_tok is 9, with 8 experts"),
    Refusal("an expert that is missing", "mixtral-causal-lm", without("model.layers.1.block_sparse_moe.experts.2.w1.weight"),
            "lacks model.layers.1.mlp.experts.gate_proj.weight; the checkpoint is incomplete or of another kind"),
    Refusal("ERNIE 4.5's conversions by mlx-lm, which leaves the correction of its router out", "ernie4_5-moe", without("layers.1.mlp.moe_statics.e_score_correction_bias"),
            "lacks model.layers.1.mlp.router.correction; the checkpoint is incomplete or of another kind"),
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
            lambda folder: save_weights(folder / "model.safetensors", {"model.norm.weight": mx.ones(32)}),
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
