"""Facts that a checkpoint's files leave out, from its README and the table of families. No MLX here."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from akidb_mlx.checkpoint.fact import Fact, value_of
from akidb_mlx.checkpoint.families import Family, find_family
from akidb_mlx.checkpoint.heads import Dense
from akidb_mlx.checkpoint.json_file import read_field, read_json
from akidb_mlx.checkpoint.modules import Head, Usage, read_pooling_modes
from akidb_mlx.checkpoint.own_code import as_own_code_does
from akidb_mlx.checkpoint.safetensors_header import read_header
from akidb_mlx.checkpoint.said import Said
from akidb_mlx.checkpoint.tokenizer_facts import TokenizerFacts
from akidb_mlx.errors import CheckpointError, UnsupportedModelError

__all__ = ["FamilyFacts", "fill_in"]

Config = Mapping[str, Any]
# mlx-lm's and mlx-embeddings' converters write it.
_CONVERTED = re.compile(r"converted to MLX format from\s+\[`?([\w.-]+/[\w.-]+)`?\]", re.IGNORECASE)
# NVIDIA's embedders, by model_type.
_NVIDIA = ("llama_bidirec", "ministral3", "ministral3_bidirec")
# The prompts that stand for each side.
_SAME_SIDE = {"query": ("query",), "document": ("document", "passage", "corpus")}


@dataclass(frozen=True)
class FamilyFacts:
    """What only the README and the table of families say; but for the last two, the fields are `Checkpoint`'s."""

    matryoshka: Fact[tuple[int, ...]] | None = None
    truncation_layer_norm: bool = False
    suggestions: tuple[str, ...] = ()
    config_sources: Mapping[str, str] = field(default_factory=dict)
    """Field that config.json lacks → where its value was found."""
    is_known: bool = False
    """Whether the table has it."""


def fill_in(said: Said, *, has_modules: bool) -> tuple[Said, FamilyFacts]:
    """What the files say with what their family says where they say nothing.

    What is in sentence-transformers' files stays, also what they leave empty: that is only suggested.
    """
    said, code_sources = as_own_code_does(said)
    readme = _read_readme(said.layout.path / "README.md")
    matryoshka = _trained_dimensions(readme, said.usage)
    names = [(said.name, "by its name"), *((name, "README.md: base_model") for name in _base_models(readme))]
    names += [(name, "README.md: converted from") for name in _CONVERTED.findall(readme)]
    found = find_family(names, said.config, lambda: read_json(said.layout.tokenizer_file))
    said = replace(said, head=_pooling_from_config(said))
    if found is None:
        _refuse_own_tokenizer(said)
        _refuse_lost_dense(said)
        return said, FamilyFacts(matryoshka, config_sources=code_sources)
    family, reason = found
    source = f"family table: {reason}"
    said = replace(said, tokenizer=_with_own_tokenizer(said, family))
    suggestions: tuple[str, ...] = ()
    # Beside modules.json only what the checkpoint's own code does, which config.json names and which is never run.
    fills = not has_modules or bool(said.config.get("auto_map"))
    missing = {key: value for key, value in family.config.items() if key not in said.config} if fills else {}
    filled = replace(said, architecture=replace(said.architecture, value={**said.config, **missing}))
    if has_modules and said.head.left_out:
        filled = replace(filled, head=_fill_left_out(said, family, source))
        if not said.tokenizer.has_own_length:
            filled = replace(filled, tokenizer=_fill_length(said, family, source))
    elif not has_modules:
        filled = replace(filled, head=_fill_head(said, family, source), tokenizer=_fill_length(said, family, source))
    if not family.include_prompt and (not has_modules or said.name in family.ids):
        filled = replace(filled, head=replace(filled.head, include_prompt=False))
    if has_modules or said.usage.prompts is not None:
        suggestions = _suggestions(family, said.usage)
    elif family.prompts:
        filled = replace(filled, usage=replace(said.usage, prompts=Fact(family.prompts, source)))
    return filled, FamilyFacts(
        matryoshka=matryoshka or _family_dimensions(filled, family, source),
        truncation_layer_norm=family.truncation_layer_norm and not has_modules,
        suggestions=suggestions,
        config_sources={**code_sources, **dict.fromkeys(missing, source)},
        is_known=True,
    )


def _refuse_own_tokenizer(said: Said) -> None:
    if said.tokenizer.own_code is not None:
        raise UnsupportedModelError(
            f"{said.layout.folder / 'tokenizer_config.json'}: auto_map names the checkpoint's own tokenizer "
            f"({said.tokenizer.own_code.name}), which is never run, and no known family says what it does: "
            "load a known model by its name on the Hub, or put `base_model: OWNER/NAME` in README.md's front matter"
        )


def _with_own_tokenizer(said: Said, family: Family) -> TokenizerFacts:
    """What the tokenizer's own code does, which the family tells."""
    tokenizer = said.tokenizer
    if tokenizer.own_code is None:
        return tokenizer
    if not family.tokenizer_appends_end:
        _refuse_own_tokenizer(said)
    return replace(tokenizer, tokenizer_rules={**tokenizer.tokenizer_rules, "append": tokenizer.own_code.end})


def _refuse_lost_dense(said: Said) -> None:
    """Without pooling's folder a user can say what it was; without Dense's weights nobody can."""
    if len(said.head.left_out) > (said.head.pooling is None):
        raise CheckpointError(
            f"{said.layout.path / 'modules.json'} names {' and '.join(said.head.left_out)}, which a conversion has "
            "left out, and no known family says what was there; copy them from the original"
        )


def _fill_left_out(said: Said, family: Family, source: str) -> Head:
    """What modules.json names and a conversion has not copied; the rest stays as modules.json has it."""
    head = said.head
    lost_dense = len(head.left_out) - (head.pooling is None)
    if lost_dense and (head.dense or lost_dense != family.dense):
        _refuse_lost_dense(said)
    pooling = head.pooling or Fact((family.pooling,), source)
    if not lost_dense:
        return replace(head, pooling=pooling)
    return replace(head, pooling=pooling, dense=Fact(_folded_dense(family, said), source))


def _fill_head(said: Said, family: Family, source: str) -> Head:
    head = replace(said.head, pooling=said.head.pooling or Fact((family.pooling,), source))
    if family.normalize is not None:
        head = replace(head, normalize=Fact(family.normalize, source))
    if family.output is not None:
        head = replace(head, output=Fact(family.output, source))
    if family.dense:
        head = replace(head, dense=Fact(_folded_dense(family, said), source))
    return head


def _fill_length(said: Said, family: Family, source: str) -> TokenizerFacts:
    """The family's length where it is less than what the files say."""
    known = value_of(said.tokenizer.max_seq_length, None)
    if family.max_seq_length is None or (known is not None and known <= family.max_seq_length):
        return said.tokenizer
    return replace(said.tokenizer, max_seq_length=Fact(family.max_seq_length, source))


def _folded_dense(family: Family, said: Said) -> tuple[Dense, ...]:
    """Dense layers in the main file, as mlx-community ships EmbeddingGemma; in their numbers' order."""
    header = {name: tensor for file in said.layout.weight_files for name, tensor in read_header(file).items()}
    layers, width = [], _width(said)
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


def _width(said: Said) -> int:
    key = "hidden_size" if "hidden_size" in said.config else "d_model"  # T5's name
    return read_field(said.layout.config_file, said.config, key, int)


def _pooling_from_config(said: Said) -> Head:
    """NVIDIA's embedders say their pooling in config.json, some conversions what the folder of Pooling said."""
    head, stated = said.head, said.config.get("pooling_config")
    if head.pooling is not None:
        return head
    if said.config.get("model_type") in _NVIDIA and said.config.get("pooling") == "avg":
        return replace(head, pooling=Fact(("mean",), "config.json"))
    if not isinstance(stated, dict) or not any(key.startswith("pooling_mode") for key in stated):
        return head
    modes = read_pooling_modes(said.layout.config_file, stated)
    include_prompt = read_field(said.layout.config_file, stated, "include_prompt", bool, True)
    # The first folder that modules.json names and that is not there is Pooling's.
    return replace(
        head,
        pooling=Fact(modes, "config.json: pooling_config"),
        include_prompt=include_prompt,
        left_out=head.left_out[1:],
    )


def _suggestions(family: Family, usage: Usage) -> tuple[str, ...]:
    said = value_of(usage.prompts, {})
    return tuple(
        f"{name}_prompt={prompt!r} ({family.name}'s; the checkpoint's files name none)"
        for name, prompt in family.prompts.items()
        if prompt and not any(said.get(other) for other in _SAME_SIDE[name])
    )


def _read_readme(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return ""


def _base_models(readme: str) -> list[str]:
    """`base_model` of the front matter: one, or a list."""
    front = re.match(r"---\s*\n(.*?)\n---", readme, re.DOTALL)
    block = front and re.search(r"^base_model:[ \t]*(.*(?:\n[ \t]*-.*)*)", front.group(1), re.MULTILINE)
    return re.findall(r"[\w.-]+/[\w.-]+", block.group(1)) if block else []


def _trained_dimensions(readme: str, usage: Usage) -> Fact[tuple[int, ...]] | None:
    """What sentence-transformers' model card says of a training with MatryoshkaLoss, else its own width."""
    found = re.search(r'"matryoshka_dims":\s*\[([\d\s,]+)\]', readme)
    sizes = sorted(int(number) for number in re.findall(r"\d+", found.group(1))) if found else []
    if sizes:
        return Fact(tuple(sizes), "README.md")
    width = usage.truncate_dim
    return None if width is None else Fact((width.value,), width.source)


def _family_dimensions(said: Said, family: Family, source: str) -> Fact[tuple[int, ...]] | None:
    """The family's widths that this model has."""
    if not family.matryoshka:
        return None
    dense, config = value_of(said.head.dense, ()), said.config
    width = config.get("hidden_size") or config.get("n_embd") or max(family.matryoshka)
    width = dense[-1].out_features if dense else width
    sizes = tuple(size for size in family.matryoshka if size <= width)
    return Fact(sizes, source) if sizes else None
