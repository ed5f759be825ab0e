"""Models with an adapter for each task, in the published form: Jina v3 (stacked, and as transformers has it) and v5.

    python task_models.py [case …]

The reference is transformers' class of the body: with merged weights where the file stacks adapters, else with PEFT's
adapters switched on. tests/reference/tasks/NAME holds each, with expected.npz: "encode TASK" (no prompt but a default),
"query TASK" and "document TASK" (the prompt of the side), "encode" without a task where that is allowed.
"""
# ruff: noqa: E501 -- a case a row reads as a table.

import os

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}

import json
import shutil
import sys
import tempfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jina
import numpy as np
import peft
import torch
import transformers as hf
from case import edit_json, randomise, write_facts, write_json
from safetensors.torch import load_file, save_file
from tiny_tokenizers import make_byte_bpe, make_unigram

TARGET = Path(__file__).parent / "tasks"
V3_TASKS = ("retrieval.query", "retrieval.passage", "separation", "classification", "text-matching")
V5_TASKS = ("retrieval", "text-matching", "clustering", "classification")
V3_PROMPTS = {
    "retrieval.query": "Represent the query for retrieving evidence documents: ",
    "retrieval.passage": "Represent the document for retrieval: ",
    "separation": "",
    "classification": "",
    "text-matching": "",
}
LIMIT = 64
BASES = {
    "v3-hf": "jinaai/jina-embeddings-v3-hf",
    "nano": "jinaai/jina-embeddings-v5-text-nano",
    "small": "jinaai/jina-embeddings-v5-text-small",
}
OWN_MODULE = {"idx": 0, "name": "transformer", "path": "", "type": "custom_st.Transformer", "kwargs": ["task"]}


@dataclass(frozen=True)
class TaskCase:
    """A tiny checkpoint of one form."""

    name: str
    form: str  # v3, v3-hf, nano, small
    checks: str
    heads: int = 4
    head: int = 8
    layers: int = 2
    hidden: int | None = None  # where heads are not shares of it
    dtype: torch.dtype = torch.bfloat16

    @property
    def width(self) -> int:
        return self.hidden or self.heads * self.head


CASES = (
    TaskCase("jina-v3", "v3", "no model_type, stacks of adapters under parametrizations, also of the tables; rotary_emb_base; scale 1/4; white space around texts does not count"),
    TaskCase("jina-v3-heads-64", "v3", "two heads of 64", heads=2, head=64, layers=1),
    TaskCase("jina-v3-hf", "v3-hf", "transformers' own class with PEFT's folders, their own ranks and scales; q, k and v apart"),
    TaskCase("jina-v5-nano", "nano", "EuroBERT sees both ways; the last token; adapters/TASK; no vector without a task"),
    TaskCase("jina-v5-small", "small", "Qwen3, causal, heads of 64, two to a head of keys", heads=2, head=64, hidden=32),
)  # fmt: skip


# ── Jina v3 as published ──


def v3_config(case: TaskCase, vocab: int) -> dict[str, Any]:
    """Every field of jina-embeddings-v3's."""
    code = "jinaai/xlm-roberta-flash-implementation"
    return {
        "_name_or_path": code,
        "architectures": ["XLMRobertaModel"],
        "attention_probs_dropout_prob": 0.1,
        "auto_map": {
            "AutoConfig": f"{code}--configuration_xlm_roberta.XLMRobertaFlashConfig",
            "AutoModel": f"{code}--modeling_lora.XLMRobertaLoRA",
            "AutoModelForMaskedLM": f"{code}--modeling_xlm_roberta.XLMRobertaForMaskedLM",
        },
        "bos_token_id": 0,
        "classifier_dropout": None,
        "emb_pooler": None,
        "eos_token_id": 2,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "hidden_size": case.width,
        "initializer_range": 0.02,
        "intermediate_size": 48,
        "layer_norm_eps": 1e-05,
        "load_trained_adapters": True,
        "lora_adaptations": list(V3_TASKS),
        "lora_alpha": 1,
        "lora_dropout_p": 0.0,
        "lora_main_params_trainable": False,
        "lora_rank": 4,
        "matryoshka_dimensions": [8, 16, case.width],
        "max_position_embeddings": LIMIT,
        "num_attention_heads": case.heads,
        "num_hidden_layers": case.layers,
        "output_past": True,
        "pad_token_id": 1,
        "position_embedding_type": "rotary",
        "rotary_emb_base": 300.0,  # so near that a base of 10000 shows
        "task_instructions": V3_PROMPTS,
        "torch_dtype": str(case.dtype).removeprefix("torch."),
        "transformers_version": "4.44.2",
        "truncate_dim": None,
        "type_vocab_size": 1,
        "use_cache": True,
        "use_flash_attn": True,
        "use_reentrant": False,
        "vocab_size": vocab,
    }


def v3_shapes(case: TaskCase, vocab: int) -> dict[str, tuple[int, ...]]:
    h, i = case.width, 48
    layer = {
        "mixer.Wqkv": (3 * h, h),
        "mixer.out_proj": (h, h),
        "norm1": (h,),
        "mlp.fc1": (i, h),
        "mlp.fc2": (h, i),
        "norm2": (h,),
    }
    tables = {"embeddings.word_embeddings!": (vocab, h), "embeddings.token_type_embeddings!": (1, h), "emb_ln": (h,)}
    return {
        **tables,
        **{f"encoder.layers.{n}.{name}": shape for n in range(case.layers) for name, shape in layer.items()},
        "pooler.dense": (h, h),
    }


def v3_stacks(case: TaskCase, tensors: Mapping[str, torch.Tensor]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Layer → its stacks of A and B; large, for they are scaled by a quarter."""
    generator = torch.Generator().manual_seed(zlib.crc32(f"{case.name} adapters".encode()))
    stacks = {}
    for name, tensor in tensors.items():
        layer = name.removesuffix(".weight")
        if tensor.ndim != 2 or "pooler" in name:
            continue
        rows, columns = tensor.shape
        table = "embeddings." in name
        a, b = ((rows, 4), (4, columns)) if table else ((4, columns), (rows, 4))
        a_values, b_values = (torch.randn((len(V3_TASKS), *shape), generator=generator) for shape in (a, b))
        stacks[layer] = (a_values.to(case.dtype), (b_values * (1.0 if table else 2.0 / columns**0.5)).to(case.dtype))
    return stacks


def write_v3(case: TaskCase, folder: Path) -> None:
    tokenizer = make_unigram()
    vocab = tokenizer.get_vocab_size() + 6
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    tensors = {
        name: tensor.to(case.dtype) for name, tensor in jina.random_tensors(v3_shapes(case, vocab), case.name).items()
    }
    stacks = v3_stacks(case, tensors)
    stored = {}
    for name, tensor in tensors.items():
        layer = name.removesuffix(".weight")
        if layer not in stacks:
            stored[f"roberta.{name}"] = tensor
            continue
        stored[f"roberta.{layer}.parametrizations.weight.original"] = tensor
        for part, stack in zip("AB", stacks[layer], strict=True):
            stored[f"roberta.{layer}.parametrizations.weight.0.lora_{part}"] = stack
    save_file(stored, folder / "model.safetensors", {"format": "pt"})
    write_json(folder / "config.json", v3_config(case, vocab))
    special = {
        "bos_token": "<s>",
        "cls_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "sep_token": "</s>",
        "unk_token": "<unk>",
    }
    settings = {
        "clean_up_tokenization_spaces": True,
        "model_max_length": LIMIT,
        "tokenizer_class": "XLMRobertaTokenizer",
    }
    write_json(folder / "tokenizer_config.json", {**special, **settings})
    rest = [
        {"idx": n, "name": str(n), "path": f"{n}_{kind}", "type": f"sentence_transformers.models.{kind}"}
        for n, kind in ((1, "Pooling"), (2, "Normalize"))
    ]
    write_json(folder / "modules.json", [OWN_MODULE, *rest])
    write_json(
        folder / "1_Pooling" / "config.json", {"word_embedding_dimension": case.width, "pooling_mode_mean_tokens": True}
    )
    versions = {"sentence_transformers": "3.0.0", "transformers": "4.41.2", "pytorch": "2.3.1+cu121"}
    write_json(
        folder / "config_sentence_transformers.json",
        {"__version__": versions, "prompts": V3_PROMPTS, "default_prompt_name": None, "similarity_fn_name": "cosine"},
    )


class V3:
    """transformers' class with a task's weights merged by the paper's formula."""

    prompts: Mapping[str, str] = V3_PROMPTS
    default_prompt = ""
    tasks = V3_TASKS
    without_task = True

    def __init__(
        self,
        folder: Path,
        dtype: torch.dtype = torch.float32,
        base: float | None = None,
        scale: float | None = None,
        tables: bool = True,
    ) -> None:
        """Read the published folder; the last three are what may be got wrong."""
        said = json.loads((folder / "config.json").read_text())
        theirs = {
            key: said[key]
            for key in (
                "vocab_size",
                "hidden_size",
                "num_hidden_layers",
                "num_attention_heads",
                "intermediate_size",
                "layer_norm_eps",
                "max_position_embeddings",
                "pad_token_id",
                "type_vocab_size",
            )
        }
        rope = {"rope_type": "default", "rope_theta": base or said["rotary_emb_base"]}
        self.config = hf.JinaEmbeddingsV3Config(**theirs, rope_parameters=rope)
        self.stored = {
            name.removeprefix("roberta."): tensor.to(dtype)
            for name, tensor in load_file(folder / "model.safetensors").items()
        }
        self.dtype, self.scale, self.tables = (
            dtype,
            said["lora_alpha"] / said["lora_rank"] if scale is None else scale,
            tables,
        )
        self.models: dict[str | None, torch.nn.Module] = {}

    def text(self, prompt: str, text: str) -> str:
        return (prompt + text).strip()  # as its own module does

    def model(self, task: str | None) -> torch.nn.Module:
        if task not in self.models:
            plain = {
                n: t for n, t in self.stored.items() if ".parametrizations." not in n and not n.startswith("pooler")
            }
            for name, original in self.stored.items():
                layer, _, end = name.partition(".parametrizations.weight.")
                if end != "original":
                    continue
                plain[f"{layer}.weight"] = original
                table = "embeddings." in layer
                if task is not None and (self.tables or not table):
                    a, b = (
                        self.stored[f"{layer}.parametrizations.weight.0.lora_{part}"][V3_TASKS.index(task)]
                        for part in "AB"
                    )
                    plain[f"{layer}.weight"] = original + self.scale * (a @ b if table else b @ a)
            with tempfile.TemporaryDirectory() as scratch:
                self.config.save_pretrained(scratch)
                save_file(
                    {n: t.contiguous() for n, t in plain.items()}, Path(scratch) / "model.safetensors", {"format": "pt"}
                )
                model, info = hf.JinaEmbeddingsV3Model.from_pretrained(
                    scratch, add_pooling_layer=False, dtype=self.dtype, output_loading_info=True
                )
            assert not any(info.values()), info
            self.models[task] = model.eval()
        return self.models[task]

    def rows(self, task: str | None, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        hidden = self.model(task)(input_ids=ids, attention_mask=mask).last_hidden_state
        return jina.mean_rows(
            hidden.float() if self.dtype == torch.bfloat16 else hidden, mask.to(hidden.dtype), normalize=True
        )


# ── Bodies of transformers with PEFT's folders ──


def write_peft(case: TaskCase, folder: Path) -> None:
    if case.form == "v3-hf":
        tokenizer = make_unigram()
        config: Any = hf.JinaEmbeddingsV3Config(
            vocab_size=tokenizer.get_vocab_size(), hidden_size=case.width, num_hidden_layers=case.layers, num_attention_heads=case.heads,
            intermediate_size=48, max_position_embeddings=LIMIT, rope_parameters={"rope_type": "default", "rope_theta": 300.0},
        )  # fmt: skip
        model = hf.JinaEmbeddingsV3Model(config, add_pooling_layer=False)
        places = {
            task.replace(".", "_").replace("-", "_"): task.replace(".", "_").replace("-", "_") for task in V3_TASKS
        }
        targets = ["word_embeddings", "token_type_embeddings", "q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2"]
    else:
        ends = ("<|begin_of_text|>", "<|end_of_text|>", "<|mask|>", "<|parallel_sep|>", "<|pad|>")
        nano = case.form == "nano"
        layout = "<|begin_of_text|> $A <|end_of_text|>" if nano else "$A <|endoftext|>"
        tokenizer = make_byte_bpe(300, ends if nano else ("<|endoftext|>", "<|im_start|>", "<|im_end|>"), layout)
        sizes = {"vocab_size": tokenizer.get_vocab_size() + 4, "hidden_size": case.width, "num_hidden_layers": case.layers, "num_attention_heads": case.heads,
                 "intermediate_size": 48, "max_position_embeddings": LIMIT, "rope_parameters": {"rope_type": "default", "rope_theta": 300.0}}  # fmt: skip
        sizes |= {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
        if nano:
            model = hf.EuroBertModel(hf.EuroBertConfig(**sizes, num_key_value_heads=case.heads, rms_norm_eps=1e-5))
        else:
            model = hf.Qwen3Model(hf.Qwen3Config(**sizes, num_key_value_heads=1, head_dim=case.head, rms_norm_eps=1e-6))
        places = {task: f"adapters/{task}" for task in V5_TASKS}
        targets = ["k_proj", "v_proj", "o_proj", "down_proj", "q_proj", "gate_proj", "up_proj"]
    randomise(model, case.name)
    model.to(case.dtype).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    if case.form != "v3-hf":  # `model.` is nowhere in the published file
        tensors = {
            name.removeprefix("model."): tensor for name, tensor in load_file(folder / "model.safetensors").items()
        }
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        publish_v5(case, folder)
    else:
        write_hf_files(case, folder)
    for number, (task, place) in enumerate(places.items()):
        rank, alpha = (4, 6) if case.form != "v3-hf" else (2 + number, 3)  # other scales than 1, and than one another
        lora = peft.LoraConfig(
            r=rank, lora_alpha=alpha, target_modules=targets, task_type="FEATURE_EXTRACTION", lora_dropout=0.1, init_lora_weights="gaussian",
        )  # fmt: skip
        adapted = peft.get_peft_model(load_body(case, folder), lora)
        generator = torch.Generator().manual_seed(zlib.crc32(f"{case.name} {task}".encode()))
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.data = (
                    torch.randn(parameter.shape, generator=generator)
                    * 0.8
                    / (parameter.shape[-1] ** 0.5 if "lora_A" in name else 2)
                ).to(case.dtype)
        adapted.save_pretrained(folder / place)
        (folder / place / "README.md").unlink(missing_ok=True)
        edit_json(
            folder / place / "adapter_config.json",
            lambda said: said.update(base_model_name_or_path=BASES[case.form], target_modules=targets),
        )


def load_body(case: TaskCase, folder: Path, dtype: torch.dtype | None = None, **config: Any) -> torch.nn.Module:
    """transformers' class, whatever the published config.json calls itself."""
    said = json.loads((folder / "config.json").read_text())
    kinds = {
        "v3-hf": (hf.JinaEmbeddingsV3Model, hf.JinaEmbeddingsV3Config),
        "nano": (hf.EuroBertModel, hf.EuroBertConfig),
        "small": (hf.Qwen3Model, hf.Qwen3Config),
    }
    cls, config_cls = kinds[case.form]
    own = {
        key: value
        for key, value in said.items()
        if key
        not in (
            "auto_map",
            "model_type",
            "architectures",
            "task_names",
            "rope_scaling",
            "rope_theta",
            "torch_dtype",
            "is_decoder",
        )
    }
    if "rope_theta" in said:
        own["rope_parameters"] = {"rope_type": "default", "rope_theta": said["rope_theta"]}
    more = {"add_pooling_layer": False} if case.form == "v3-hf" else {}
    return cls.from_pretrained(folder, config=config_cls(**{**own, **config}), dtype=dtype or case.dtype, **more).eval()


def publish_v5(case: TaskCase, folder: Path) -> None:
    """config.json with the fields of the published one, and the files beside it."""
    said = json.loads((folder / "config.json").read_text())
    auto = {
        "AutoConfig": "configuration_jina_embeddings_v5.JinaEmbeddingsV5Config",
        "AutoModel": "modeling_jina_embeddings_v5.JinaEmbeddingsV5Model",
    }
    ours = {
        "architectures": ["JinaEmbeddingsV5Model"],
        "task_names": list(V5_TASKS),
        "auto_map": auto,
        "model_type": "jina_embeddings_v5",
    }
    kept = ("attention_bias", "attention_dropout", "hidden_act", "hidden_size", "initializer_range", "intermediate_size", "max_position_embeddings",
            "num_attention_heads", "num_hidden_layers", "num_key_value_heads", "rms_norm_eps", "tie_word_embeddings", "vocab_size")  # fmt: skip
    rest = {key: said[key] for key in kept if key in said} | {
        "rope_scaling": None,
        "rope_theta": said["rope_parameters"]["rope_theta"],
        "torch_dtype": "float32",
    }
    if case.form == "nano":
        rest |= {"bos_token": "<|begin_of_text|>", "bos_token_id": 0, "eos_token": "<|end_of_text|>", "eos_token_id": 1, "hidden_dropout": 0.0,
                 "mask_token": "<|mask|>", "mask_token_id": 2, "pad_token": "<|end_of_text|>", "pad_token_id": 1, "pretraining_tp": 1,
                 "transformers_version": "4.40.0.dev0", "is_decoder": False}  # fmt: skip
        names = {
            "bos_token": "<|begin_of_text|>",
            "eos_token": "<|end_of_text|>",
            "mask_token": "<|mask|>",
            "pad_token": "<|pad|>",
        }
        tokenizer = {**names, "clean_up_tokenization_spaces": True, "extra_special_tokens": {}, "model_input_names": ["input_ids", "attention_mask"],
                     "model_max_length": int(1e30), "tokenizer_class": "PreTrainedTokenizer"}  # fmt: skip
    else:
        rest |= {"head_dim": case.head, "layer_types": ["full_attention"] * case.layers, "max_window_layers": 28, "sliding_window": None, "use_cache": True,
                 "use_sliding_window": False, "bos_token_id": 0, "eos_token_id": 0, "transformers_version": "4.51.0"}  # fmt: skip
        tokenizer = {"add_prefix_space": False, "bos_token": None, "clean_up_tokenization_spaces": False, "eos_token": "<|endoftext|>", "errors": "replace",
                     "model_max_length": 131072, "pad_token": "<|endoftext|>", "split_special_tokens": False, "tokenizer_class": "Qwen2Tokenizer", "unk_token": None}  # fmt: skip
    write_json(folder / "config.json", {**ours, **rest})
    write_json(folder / "tokenizer_config.json", tokenizer)
    write_json(folder / "modules.json", [{**OWN_MODULE, "kwargs": ["task", "truncate_dim"]}])
    versions = {"sentence_transformers": "5.1.2", "transformers": "4.57.0", "pytorch": "2.8.0"}
    prompts = {"query": "Query: ", "document": "Document: "}
    write_json(
        folder / "config_sentence_transformers.json",
        {
            "__version__": versions,
            "prompts": prompts,
            "default_prompt_name": "document",
            "similarity_fn_name": "cosine",
        },
    )


def write_hf_files(case: TaskCase, folder: Path) -> None:
    special = {
        "bos_token": "<s>",
        "cls_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "sep_token": "</s>",
        "unk_token": "<unk>",
    }
    write_json(
        folder / "tokenizer_config.json",
        {**special, "model_max_length": LIMIT, "tokenizer_class": "XLMRobertaTokenizer"},
    )
    kinds = ("Transformer", "Pooling", "Normalize")
    write_json(
        folder / "modules.json",
        [
            {
                "idx": n,
                "name": str(n),
                "path": f"{n}_{kind}" if n else "",
                "type": f"sentence_transformers.models.{kind}",
            }
            for n, kind in enumerate(kinds)
        ],
    )
    write_json(
        folder / "1_Pooling" / "config.json", {"word_embedding_dimension": case.width, "pooling_mode_mean_tokens": True}
    )


class Peft:
    """A body with PEFT's adapters, one switched on."""

    def __init__(self, case: TaskCase, folder: Path, dtype: torch.dtype = torch.float32, **config: Any) -> None:
        self.case, self.folder, self.dtype = case, folder, dtype
        places = sorted(file.parent for file in folder.rglob("adapter_config.json"))
        self.tasks = tuple(place.name for place in places)
        self.without_task = case.form == "v3-hf"
        self.prompts = {} if self.without_task else {"query": "Query: ", "document": "Document: "}
        self.default_prompt = "" if self.without_task else "Document: "
        self.plain = load_body(case, folder, dtype, **config)
        body = load_body(case, folder, dtype, **config)
        self.adapted = peft.PeftModel.from_pretrained(body, places[0], adapter_name=places[0].name)
        for place in places[1:]:
            self.adapted.load_adapter(place, adapter_name=place.name)
        self.adapted.to(dtype).eval()

    def text(self, prompt: str, text: str) -> str:
        return prompt + text

    def rows(self, task: str | None, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        if task is not None:
            self.adapted.set_adapter(task)
        model = self.plain if task is None else self.adapted.base_model.model
        hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
        hidden = hidden.float() if self.dtype == torch.bfloat16 else hidden
        if self.case.form == "v3-hf":
            return jina.mean_rows(hidden, mask.to(hidden.dtype), normalize=True)
        last = hidden[torch.arange(len(ids)), mask.sum(1).long() - 1]
        return torch.nn.functional.normalize(last, dim=-1)


# ── The run ──


def side_prompt(reference: Any, side: str, task: str) -> str:
    """The side's own prompt, else the one that is named like the task."""
    return reference.prompts.get(side) or reference.prompts.get(task, "")


def calls(reference: Any) -> dict[str, tuple[str | None, str]]:
    """Name in expected.npz → (task, prompt)."""
    said: dict[str, tuple[str | None, str]] = (
        {"encode": (None, reference.default_prompt)} if reference.without_task else {}
    )
    for task in reference.tasks:
        said[f"encode {task}"] = (task, reference.default_prompt)
        half = task.rpartition("query")[1] or task.rpartition("passage")[1]
        for side in ("query", "document"):
            if half in ("", {"query": "query", "document": "passage"}[side]):
                said[f"{side} {task}"] = (task, side_prompt(reference, side, task))
    return said


@torch.inference_mode()
def make(case: TaskCase, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (write_v3 if case.form == "v3" else write_peft)(case, folder)
    plain_config = hf.PreTrainedConfig() if case.form != "v3-hf" else None
    tokenizer = hf.AutoTokenizer.from_pretrained(folder, config=plain_config)
    labelled, without_tokens = jina.texts_of(tokenizer, LIMIT)
    # The last is white space to Python's strip alone, not to the tokenizer.
    labelled["white space around"] = "\n\t a pot of tea \n\x1f"
    texts = list(labelled.values())
    make_reference = V3 if case.form == "v3" else partial(Peft, case)
    reference = make_reference(folder)

    def encode(reference: Any, task: str | None, prompt: str) -> tuple[np.ndarray, list[list[int]]]:
        ids = [
            tokenizer(reference.text(prompt, text), truncation=True, max_length=LIMIT)["input_ids"] for text in texts
        ]
        alone = [reference.rows(task, torch.tensor([one]), torch.ones(1, len(one))) for one in ids]
        return torch.cat(alone).numpy(), ids

    vectors, token_ids = {}, {}
    for name, (task, prompt) in calls(reference).items():
        rows, ids = encode(reference, task, prompt)
        vectors[name], token_ids[name] = rows.astype(np.float32), ids
    assert all(np.isfinite(rows).all() for rows in vectors.values())
    encoded = [rows for name, rows in vectors.items() if name.startswith("encode")]
    apart = min(float(np.abs(a - b).max()) for n, a in enumerate(encoded) for b in encoded[:n])
    assert apart > 1e-2, apart
    first = next(name for name in vectors if name.startswith("encode "))
    task, prompt = calls(reference)[first]
    exact = make_reference(folder, torch.float64)
    assert np.abs(encode(exact, task, prompt)[0] - vectors[first]).max() < 3e-6
    ids = token_ids[first]
    padded = torch.tensor([one + [0] * (LIMIT - len(one)) for one in ids])
    mask = torch.tensor([[1.0] * len(one) + [0.0] * (LIMIT - len(one)) for one in ids])
    assert np.abs(reference.rows(task, padded, mask).numpy() - vectors[first]).max() < 3e-6
    mistakes: dict[str, dict[str, Any]] = {"base": {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}}
    if case.form == "v3":
        mistakes = {"base": {"base": 10000.0}, "scale": {"scale": 1.0}, "tables": {"tables": False}}
    if case.form in ("nano", "small"):
        mistakes["mask"] = {"is_causal": case.form == "nano"}
    moved = {
        what: float(np.abs(encode(make_reference(folder, **wrong), task, prompt)[0] - vectors[first]).max())
        for what, wrong in mistakes.items()
    }
    assert all(distance > 1e-3 for distance in moved.values()), moved
    if case.dtype != torch.float32:
        stored = make_reference(folder, case.dtype)
        vectors[f"stored_dtype {first}"] = encode(stored, task, prompt)[0].astype(np.float32)
    np.savez_compressed(folder / "expected.npz", **vectors)
    facts = {
        "case": case.name,
        "checks": case.checks,
        "reference": "transformers' class, merged" if case.form == "v3" else "transformers' class with PEFT",
        "max_seq_length": LIMIT,
        "stored_dtype": str(case.dtype).removeprefix("torch."),
        "tasks": list(reference.tasks),
        "without_task": reference.without_task,
        "labels": list(labelled),
        "texts": texts,
        "texts_without_tokens": without_tokens,
        "token_ids": token_ids[first],
        "config_changes_that_must_show": moved,
        "versions": {package.__name__: package.__version__ for package in (hf, torch, peft)},
    }
    write_facts(folder / "expected.json", facts)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    sys.stdout.write(f"{case.name:20} {len(vectors)} calls, {size // 1000} kB, {moved}\n")


if __name__ == "__main__":
    hf.utils.logging.set_verbosity_error()
    torch.set_num_threads(1)
    for one in CASES:
        if len(sys.argv) == 1 or one.name in sys.argv[1:]:
            make(one, TARGET / one.name)
