"""What transformers' classes say of config.json's fields, as core/akidb_mlx/checkpoint/config_fields.json holds it.

`python tests/reference/config_fields.py` writes that file; it needs transformers, not torch. tests/checkpoint compares.
"""

import dataclasses
import inspect
import json
import types
import typing
from pathlib import Path

from transformers.models.auto.configuration_auto import CONFIG_MAPPING

TYPES = """
    albert apertus bert camembert cohere cohere2 deberta deberta-v2 distilbert electra embedding_gemma2_text ernie
    ernie4_5 ernie4_5_moe eurobert exaone4 gemma gemma2 gemma3_text glm glm4 gpt2 gpt_neox gptj granite granitemoe
    gte helium hunyuan_v1_dense internlm3 jina_embeddings_v3 lfm2 lfm2_moe llama ministral3 mistral mixtral
    modernbert mpnet mt5 nemotron nomic_bert olmo olmo2 olmo3 olmoe phi phi3 qwen2 qwen2_moe qwen3 qwen3_moe roberta
    seed_oss smollm3 stablelm starcoder2 t5 umt5 xlm-roberta
"""
FILE = Path(__file__).parents[2] / "core" / "akidb_mlx" / "checkpoint" / "config_fields.json"
NAMES = {
    int: "int",
    float: "float",
    bool: "bool",
    str: "str",
    list: "list",
    dict: "dict",
    type(None): "null",
    None: "null",
}


def read_fields(model_types):
    return {kind: _of(CONFIG_MAPPING[kind]) for kind in sorted(model_types)}


def _of(kind):
    fields = {field.name: field for field in dataclasses.fields(kind) if field.init}
    return {
        "fields": {name: [_default(field), *_names(_annotation(kind, name))] for name, field in sorted(fields.items())},
        "aliases": dict(sorted(kind.attribute_map.items())),
        "rope": getattr(kind(), "rope_parameters", None),
    }  # fmt: skip


def _annotation(kind, name):
    return next(inspect.get_annotations(one)[name] for one in kind.__mro__ if name in inspect.get_annotations(one))


def _names(annotation):
    """Names of JSON's types; "any" where nothing is checked."""
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        return sorted({name for one in typing.get_args(annotation) for name in _names(one)})
    if typing.get_origin(annotation) is typing.Literal:
        return ["str"]
    origin = typing.get_origin(annotation) or annotation
    return [NAMES.get(origin, "any")] if origin is not tuple else []


def _default(field):
    value = field.default
    if value is dataclasses.MISSING:
        value = field.default_factory() if field.default_factory is not dataclasses.MISSING else None
    try:
        json.dumps(value)
    except TypeError:
        return None
    return value


def as_text(fields):
    rows = []
    for kind, said in fields.items():
        lines = [f"    {json.dumps(name)}: {json.dumps(row)}" for name, row in said["fields"].items()]
        rest = [f"   {json.dumps(key)}: {json.dumps(said[key])}" for key in ("aliases", "rope")]
        rows.append(
            f'  {json.dumps(kind)}: {{\n   "fields": {{\n'
            + ",\n".join(lines)
            + "\n   },\n"
            + ",\n".join(rest)
            + "\n  }"
        )
    return "{\n" + ",\n".join(rows) + "\n}\n"


def model_types():
    return json.loads(FILE.read_text()).keys()


if __name__ == "__main__":
    FILE.write_text(as_text(read_fields(TYPES.split())), encoding="utf-8")
