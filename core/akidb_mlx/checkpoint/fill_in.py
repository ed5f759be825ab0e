"""Facts that a checkpoint's files leave out, from its README and the table of families. No MLX here."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from akidb_mlx.checkpoint.families import Family, find_family
from akidb_mlx.checkpoint.json_file import read_json
from akidb_mlx.checkpoint.modules import Dense
from akidb_mlx.checkpoint.safetensors_header import read_header
from akidb_mlx.errors import CheckpointError

__all__ = ["fill_silent"]

Config = Mapping[str, Any]
# The prompts that stand for each side.
_SAME_SIDE = {"query": ("query",), "document": ("document", "passage", "corpus")}


def fill_silent(
    config: Config, facts: dict[str, Any], sources: dict[str, str], *, has_sidecars: bool
) -> dict[str, Any]:
    """Add to `facts` what the model's family says and its files do not; gives config.json likewise filled.

    What is in sentence-transformers' files stays, also what they leave empty: that is only suggested.
    """
    path: Path = facts["path"]
    readme = _read_readme(path / "README.md")
    if dimensions := _trained_dimensions(readme):
        facts["matryoshka"], sources["matryoshka"] = dimensions, "README.md"
    elif "truncate_dim" in facts:
        facts["matryoshka"], sources["matryoshka"] = (facts["truncate_dim"],), sources["truncate_dim"]
    names = [(facts["name"], "by its name"), *((name, "README.md: base_model") for name in _base_models(readme))]
    found = find_family(names, config, lambda: read_json(facts["tokenizer_file"]))
    if found is None:
        _fill_from_config(config, facts, sources)
        return dict(config)
    family, reason = found
    source = f"family table: {reason}"
    if not has_sidecars:
        _fill_head(family, config, facts, sources, source)
    has_prompts = has_sidecars or "prompts" in sources
    if family.prompts and not has_prompts:
        facts["prompts"], sources["prompts"] = family.prompts, source
    facts["suggestions"] = _suggestions(family, facts) if has_prompts else ()
    if family.matryoshka and "matryoshka" not in facts:
        width = config.get("hidden_size") or config.get("n_embd") or max(family.matryoshka)
        if sizes := tuple(size for size in family.matryoshka if size <= width):
            facts["matryoshka"], sources["matryoshka"] = sizes, source
    facts["truncation_layer_norm"] = family.truncation_layer_norm
    missing = {key: value for key, value in family.config.items() if key not in config}
    sources.update(dict.fromkeys(missing, source))
    return {**config, **missing}


def _fill_head(family: Family, config: Config, facts: dict[str, Any], sources: dict[str, str], source: str) -> None:
    facts["pooling"], sources["pooling"] = (family.pooling,), source
    if family.normalize is not None:
        facts["normalize"], sources["normalize"] = family.normalize, source
    length = facts.get("max_seq_length")
    if family.max_seq_length is not None and (length is None or length > family.max_seq_length):
        facts["max_seq_length"], sources["max_seq_length"] = family.max_seq_length, source
    if family.dense:
        facts["dense"], sources["dense"] = _folded_dense(family, config, facts["weight_files"]), source


def _folded_dense(family: Family, config: Config, files: Iterable[Path]) -> tuple[Dense, ...]:
    """Dense layers in the main file, as mlx-community ships EmbeddingGemma; in their numbers' order."""
    header = {name: tensor for file in files for name, tensor in read_header(file).items()}
    layers, width = [], int(config["hidden_size"])
    for index in range(family.dense):
        name = f"dense.{index}"
        if f"{name}.weight" not in header:
            raise CheckpointError(
                f"{family.name} has {family.dense} Dense layers after pooling, but this checkpoint has neither "
                f"modules.json nor weights called {name}; take a complete one"
            )
        out_features = int(header[f"{name}.weight"]["shape"][0])
        layers.append(Dense(name, width, out_features, bias=False, activation="identity"))
        width = out_features
    return tuple(layers)


def _fill_from_config(config: Config, facts: dict[str, Any], sources: dict[str, str]) -> None:
    """NVIDIA's Llama embedders say their pooling in config.json."""
    if config.get("model_type") == "llama_bidirec" and config.get("pooling") == "avg" and "pooling" not in facts:
        facts["pooling"], sources["pooling"] = ("mean",), "config.json"


def _suggestions(family: Family, facts: Mapping[str, Any]) -> tuple[str, ...]:
    said = facts.get("prompts") or {}
    return tuple(
        f"{name}_prompt={prompt!r} ({family.name}'s; the checkpoint's files name none)"
        for name, prompt in family.prompts.items()
        if prompt and not any(said.get(other) for other in _SAME_SIDE[name])
    )


def _read_readme(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def _base_models(readme: str) -> list[str]:
    """`base_model` of the front matter: one, or a list."""
    front = re.match(r"---\s*\n(.*?)\n---", readme, re.DOTALL)
    block = front and re.search(r"^base_model:[ \t]*(.*(?:\n[ \t]*-.*)*)", front.group(1), re.MULTILINE)
    return re.findall(r"[\w.-]+/[\w.-]+", block.group(1)) if block else []


def _trained_dimensions(readme: str) -> tuple[int, ...] | None:
    """What sentence-transformers' model card says of a training with MatryoshkaLoss."""
    found = re.search(r'"matryoshka_dims":\s*\[([\d\s,]+)\]', readme)
    return tuple(sorted(int(number) for number in re.findall(r"\d+", found.group(1)))) if found else None
