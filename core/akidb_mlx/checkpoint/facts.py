"""Checkpoint: what a model *is*, read from its files, each fact with the file it came from. No MLX here."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from akidb_mlx.checkpoint.fill_in import fill_silent
from akidb_mlx.checkpoint.json_file import read_field, read_json
from akidb_mlx.checkpoint.modules import POOLING_NAMES, STATIC, Dense, read_head, read_modules, read_prompts
from akidb_mlx.checkpoint.static_models import MODEL2VEC, read_static
from akidb_mlx.errors import CheckpointError

__all__ = ["POOLING_NAMES", "Checkpoint", "Dense", "read_checkpoint", "read_json"]


@dataclass(frozen=True)
class Checkpoint:
    """The facts of one checkpoint folder. Sequences keep the order in which they are applied."""

    path: Path
    name: str
    revision: str | None
    config: Mapping[str, Any]
    config_file: Path
    model_type: str
    weight_files: tuple[Path, ...]
    tokenizer_file: Path
    pooling: tuple[str, ...] | None
    """Pooling modes, concatenated; None where the files do not say."""
    include_prompt: bool = True
    dense: tuple[Dense, ...] = ()
    normalize: bool | None = None
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    similarity: str = "cosine"
    max_seq_length: int | None = None
    """Usable tokens of a text, special tokens included; None where nothing bounds it."""
    max_positions: int | None = None
    """Positions that the architecture has; a user's max_seq_length cannot be greater."""
    do_lower_case: bool = False
    truncation_side: str = "right"
    tokenizer_rules: Mapping[str, Any] = field(default_factory=dict)
    """Further keywords of `Tokenizer`, where more than tokenizer.json decides."""
    truncate_dim: int | None = None
    """The width that the checkpoint itself wants."""
    matryoshka: tuple[int, ...] | None = None
    """Widths that the model was trained to be cut to."""
    truncation_layer_norm: bool = False
    """Whether a Matryoshka cut is taken after a layer norm without weights (nomic-embed v1.5)."""
    quantization: Mapping[str, Any] | None = None
    sources: Mapping[str, str] = field(default_factory=dict)
    """Fact → the file (relative to `path`) or table that it came from."""
    suggestions: tuple[str, ...] = ()
    """What the family's documentation recommends and the files leave out."""


def read_checkpoint(path: Path, name: str | None = None, revision: str | None = None) -> Checkpoint:
    """Read all facts of the checkpoint in folder `path`; raise where a file is missing or contradicts another."""
    modules = read_modules(path)
    facts: dict[str, Any] = {"path": path, "name": name or str(path), "revision": revision}
    sources: dict[str, str] = {}
    first = path
    if modules:
        first = path / modules[0][1]
        read_head(path, modules, facts, sources)
    facts["weight_files"], facts["tokenizer_file"] = _weight_files(first), _tokenizer_file(first)
    config_file = facts["config_file"] = first / "config.json"
    is_static = bool(modules) and modules[0][0] == STATIC
    config = read_json(config_file) if config_file.exists() or not is_static else {}
    if is_static or config.get("model_type") == MODEL2VEC:
        config = read_static(config, facts, sources, is_alone=not modules)
    elif not isinstance(config.get("model_type"), str):
        raise CheckpointError(f"{config_file} has no model_type: it does not say which architecture this is")
    else:
        _read_lengths(path, first, config, facts, sources)
    sources["architecture"] = _relative(config_file, path) if config_file.exists() else "modules.json"
    quantization = config.get("quantization") or config.get("quantization_config")
    if quantization is not None:
        if not isinstance(quantization, dict):
            raise CheckpointError(f"{config_file}: `quantization` must be an object, not {quantization!r}")
        sources["quantization"] = _relative(config_file, path)
    read_prompts(path, facts, sources)
    config = fill_silent(config, facts, sources, has_sidecars=bool(modules))
    return Checkpoint(
        config=config,
        model_type=config["model_type"],
        quantization=quantization,
        pooling=facts.pop("pooling", None),
        sources=sources,
        **facts,
    )


def _relative(file: Path, root: Path) -> str:
    return file.relative_to(root).as_posix()


def _read_lengths(
    path: Path, transformer: Path, config: dict[str, Any], facts: dict[str, Any], sources: dict[str, str]
) -> None:
    """As sentence-transformers: its own max_seq_length, else the lesser of tokenizer and positions.

    A table of learned positions bounds either, which there would end in an index error.
    """
    limits: dict[str, int] = {}
    config_source = _relative(transformer / "config.json", path)
    positions = config.get("max_position_embeddings")
    if not isinstance(positions, int) or isinstance(positions, bool) or positions < 1:
        positions = None
    tokenizer_file = transformer / "tokenizer_config.json"
    limit = _read_tokenizer_config(tokenizer_file, config, facts)
    if limit is not None:
        limits[_relative(tokenizer_file, path)] = limit
    if positions is not None:
        limits[config_source] = positions
    sentence_file = next((f for f in sorted(transformer.glob("sentence_*_config.json"))), None)
    if sentence_file is not None:
        sentence = read_json(sentence_file)
        facts["do_lower_case"] = read_field(sentence_file, sentence, "do_lower_case", bool, False)
        if sentence.get("max_seq_length") is not None:
            limits = {_relative(sentence_file, path): read_field(sentence_file, sentence, "max_seq_length", int)}
    learned = _LEARNED_POSITIONS.get(config["model_type"])
    if learned is not None and positions is not None:
        config_file = transformer / "config.json"
        first = read_field(config_file, config, "pad_token_id", int) + 1 if learned == "after padding" else 0
        positions -= first
        limits[config_source] = positions
    facts["max_positions"] = positions
    if limits:
        source = min(limits, key=lambda key: limits[key])
        facts["max_seq_length"], sources["max_seq_length"] = limits[source], source
        if limits[source] < 1:
            raise CheckpointError(f"{path / source} states a length of {limits[source]} tokens")


def _read_tokenizer_config(file: Path, config: Mapping[str, Any], facts: dict[str, Any]) -> int | None:
    """Put what it says of the tokenizer into `facts`; gives its limit, where it states one."""
    tokenizer = read_json(file) if file.exists() else {}
    facts["tokenizer_rules"] = _tokenizer_rules(tokenizer, config)
    facts["truncation_side"] = side = tokenizer.get("truncation_side", "right")
    if side not in ("left", "right"):
        raise CheckpointError(f"{file}: truncation_side is {side!r}; it must be left or right")
    limit = tokenizer.get("model_max_length")
    # 1e30 stands for "no limit".
    return int(limit) if isinstance(limit, int | float) and 0 < limit < 10**9 else None


def _tokenizer_rules(tokenizer: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """Transformers makes these tokenizers' normalizer anew from tokenizer_config.json, whatever tokenizer.json says."""
    kind = str(tokenizer.get("tokenizer_class") or _TOKENIZERS.get(config["model_type"])).removesuffix("Fast")
    if kind not in _TOKENIZERS.values():
        return {}
    normalizer = {
        "lowercase": bool(tokenizer.get("do_lower_case", True)),
        "strip_accents": tokenizer.get("strip_accents"),
        "handle_chinese_chars": bool(tokenizer.get("tokenize_chinese_chars", True)),
    }
    return {"bert_normalizer": normalizer}


_TOKENIZERS = {"bert": "BertTokenizer", "distilbert": "DistilBertTokenizer", "mpnet": "MPNetTokenizer"}
# Where positions are a table; RoBERTa's kin count from pad_token_id + 1, so that 514 rows hold 512 tokens.
_LEARNED_POSITIONS = {
    "bert": "from zero",
    "camembert": "after padding",
    "distilbert": "from zero",
    "mpnet": "after padding",
    "roberta": "after padding",
    "xlm-roberta": "after padding",
}


def _weight_files(folder: Path) -> tuple[Path, ...]:
    """Safetensors, or what torch.save wrote where there are none."""
    for weights in (folder / "model.safetensors", folder / "pytorch_model.bin"):
        index = folder / f"{weights.name}.index.json"
        if index.exists():
            return _shards(index)
        if weights.exists():
            return (weights,)
    other = sorted(file.name for pattern in ("*.bin", "*.pt") for file in folder.glob(pattern))
    hint = f"{other[0]} is not the name of a model's weights; download those" if other else "download it again"
    raise CheckpointError(f"{folder} lacks model.safetensors (or pytorch_model.bin); {hint}")


def _shards(index: Path) -> tuple[Path, ...]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(f, str) for f in weight_map.values()):
        raise CheckpointError(f"{index} has no weight_map from names to files; download it again")
    files = tuple(index.parent / name for name in sorted(set(weight_map.values())))
    missing = [file.name for file in files if not file.exists()]
    if missing:
        raise CheckpointError(f"{index.parent} lacks {', '.join(missing)}; download the checkpoint again")
    return files


def _tokenizer_file(folder: Path) -> Path:
    file = folder / "tokenizer.json"
    if not file.exists():
        command = f"AutoTokenizer.from_pretrained({str(folder)!r}).save_pretrained({str(folder)!r})"
        raise CheckpointError(
            f"{file} is missing; make it where transformers is installed: "
            f'python -c "from transformers import AutoTokenizer; {command}"'
        )
    return file
