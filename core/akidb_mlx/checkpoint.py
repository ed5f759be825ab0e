"""Checkpoint: what a model *is*, read from its files, each fact with the file it came from. No MLX here."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from akidb_mlx.errors import CheckpointError, UnsupportedModelError

__all__ = ["POOLING_NAMES", "Checkpoint", "Dense", "read_checkpoint", "read_json"]

# sentence-transformers' spelling → ours, in the order in which it concatenates the old form's flags.
POOLING_NAMES = {
    "cls": "cls",
    "max": "max",
    "mean": "mean",
    "mean_sqrt_len_tokens": "mean_sqrt_len",
    "weightedmean": "weighted_mean",
    "lasttoken": "last_token",
}
_POOLING_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len",
    "pooling_mode_weightedmean_tokens": "weighted_mean",
    "pooling_mode_lasttoken": "last_token",
}
_ACTIVATIONS = {
    "torch.nn.modules.linear.Identity": "identity",
    "torch.nn.modules.activation.Tanh": "tanh",
    "torch.nn.modules.activation.GELU": "gelu",
    "torch.nn.modules.activation.ReLU": "relu",
    "torch.nn.modules.activation.SiLU": "silu",
    "torch.nn.modules.activation.Sigmoid": "sigmoid",
}
_SIMILARITIES = ("cosine", "dot", "euclidean", "manhattan")


@dataclass(frozen=True)
class Dense:
    """One Dense module after pooling: `activation(x @ weight.T + bias)`, optionally plus `x`."""

    name: str
    """Folder of the module, or the key prefix where the main file carries its weights."""
    in_features: int
    out_features: int
    bias: bool
    activation: str
    residual: bool = False
    weight_file: Path | None = None
    """None: the weights are in the main file under `name`."""


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
    matryoshka: tuple[int, ...] | None = None
    truncation_layer_norm: bool = False
    """Whether a Matryoshka cut is taken after a layer norm without weights (nomic-embed v1.5)."""
    quantization: Mapping[str, Any] | None = None
    sources: Mapping[str, str] = field(default_factory=dict)
    """Fact → the file (relative to `path`) or table that it came from."""


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; CheckpointError names the file where it is torn or something else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing; download the checkpoint again") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON ({error}); download it again") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds a {type(value).__name__}, not a JSON object")
    return value


def read_checkpoint(path: Path, name: str | None = None, revision: str | None = None) -> Checkpoint:
    """Read all facts of the checkpoint in folder `path`; raise where a file is missing or contradicts another."""
    modules = _read_modules(path)
    facts: dict[str, Any] = {"path": path, "name": name or str(path), "revision": revision}
    sources: dict[str, str] = {}
    transformer = path
    if modules:
        transformer = path / modules[0][1]
        _read_head(path, modules[1:], facts, sources)
    config_file = transformer / "config.json"
    config = read_json(config_file)
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        raise CheckpointError(f"{config_file} has no model_type: it does not say which architecture this is")
    sources["architecture"] = _relative(config_file, path)
    quantization = config.get("quantization") or config.get("quantization_config")
    if quantization is not None and not isinstance(quantization, dict):
        raise CheckpointError(f"{config_file}: `quantization` must be an object, not {quantization!r}")
    if quantization is not None:
        sources["quantization"] = _relative(config_file, path)
    _read_prompts(path, facts, sources)
    _read_lengths(path, transformer, config, facts, sources)
    return Checkpoint(
        config=config,
        config_file=config_file,
        model_type=model_type,
        weight_files=_weight_files(transformer),
        tokenizer_file=_tokenizer_file(transformer),
        quantization=quantization,
        pooling=facts.pop("pooling", None),
        sources=sources,
        **facts,
    )


def _relative(file: Path, root: Path) -> str:
    return file.relative_to(root).as_posix()


def _read_modules(path: Path) -> list[tuple[str, str]]:
    """(class name, folder) of each module in modules.json, in order; empty where the file is absent."""
    file = path / "modules.json"
    if not file.exists():
        return []
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
        modules = [(str(entry["type"]).rsplit(".", 1)[-1], str(entry["path"])) for entry in entries]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{file} is not sentence-transformers' list of modules ({error!r})") from None
    if not modules or modules[0][0] != "Transformer":
        first = modules[0][0] if modules else "nothing"
        raise UnsupportedModelError(f"{file}: the first module is {first}; only Transformer is supported there")
    return modules


def _read_head(path: Path, modules: list[tuple[str, str]], facts: dict[str, Any], sources: dict[str, str]) -> None:
    dense: list[Dense] = []
    facts["normalize"] = False
    sources["normalize"] = "modules.json"
    for kind, folder in modules:
        if facts["normalize"]:
            raise UnsupportedModelError(f"{path / 'modules.json'}: {kind} follows Normalize, which must come last")
        if kind == "Pooling" and "pooling" not in facts and not dense:
            file = path / folder / "config.json"
            facts["pooling"], facts["include_prompt"] = _read_pooling(file)
            sources["pooling"] = _relative(file, path)
        elif kind == "Dense" and "pooling" in facts:
            dense.append(_read_dense(path / folder))
        elif kind == "Normalize":
            facts["normalize"] = True
        elif kind != "Dropout":  # Dropout does nothing outside training
            known = "Transformer, Pooling, Dense, Normalize, Dropout"
            raise UnsupportedModelError(
                f"{path / 'modules.json'}: module {kind} ({folder or '.'}) is not supported here; known: {known}"
            )
    facts["dense"] = tuple(dense)
    if dense:
        sources["dense"] = ", ".join(layer.name for layer in dense)


def _read_pooling(file: Path) -> tuple[tuple[str, ...], bool]:
    config = read_json(file)
    if "pooling_mode" in config:
        said = config["pooling_mode"]
        spelled = [said] if isinstance(said, str) else list(said)
        unknown = [mode for mode in spelled if mode not in POOLING_NAMES]
        if unknown or not spelled:
            raise UnsupportedModelError(
                f"{file}: unknown pooling_mode {unknown or said!r}; known: {', '.join(POOLING_NAMES)}"
            )
        modes = tuple(POOLING_NAMES[mode] for mode in spelled)
    else:
        flags = {key: value for key, value in config.items() if key.startswith("pooling_mode_")}
        unknown = [key for key, value in flags.items() if value and key not in _POOLING_FLAGS]
        if unknown:
            raise UnsupportedModelError(f"{file}: unknown {unknown[0]}; known: {', '.join(_POOLING_FLAGS)}")
        modes = tuple(mode for key, mode in _POOLING_FLAGS.items() if flags.get(key))
        if not modes:
            raise CheckpointError(f"{file} sets no pooling mode; set one of {', '.join(_POOLING_FLAGS)} to true")
    return modes, bool(config.get("include_prompt", True))


def _read_dense(folder: Path) -> Dense:
    file = folder / "config.json"
    config = read_json(file)
    activation = config.get("activation_function", "torch.nn.modules.activation.Tanh")
    if activation not in _ACTIVATIONS:
        raise UnsupportedModelError(
            f"{file}: activation_function {activation!r} is not supported; known: {', '.join(_ACTIVATIONS)}"
        )
    for key in ("module_input_name", "module_output_name"):
        if config.get(key) not in (None, "sentence_embedding"):
            raise UnsupportedModelError(f"{file}: {key} {config[key]!r}: only sentence_embedding is supported")
    try:
        sizes = int(config["in_features"]), int(config["out_features"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{file} needs whole numbers in_features and out_features ({error!r})") from None
    weight_file = folder / "model.safetensors"
    if not weight_file.exists():
        raise CheckpointError(f"{weight_file} is missing: this checkpoint's Dense layer has no weights (safetensors)")
    residual = bool(config.get("use_residual", False))
    return Dense(folder.name, *sizes, bool(config.get("bias", True)), _ACTIVATIONS[activation], residual, weight_file)


def _read_prompts(path: Path, facts: dict[str, Any], sources: dict[str, str]) -> None:
    file = path / "config_sentence_transformers.json"
    if not file.exists():
        return
    config = read_json(file)
    prompts = config.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(value is None or isinstance(value, str) for value in prompts.values()):
        raise CheckpointError(f"{file}: `prompts` must map names to texts, not {prompts!r}")
    facts["prompts"] = {str(key): value or "" for key, value in prompts.items()}
    facts["default_prompt_name"] = config.get("default_prompt_name")
    if facts["default_prompt_name"] is not None and facts["default_prompt_name"] not in facts["prompts"]:
        raise CheckpointError(
            f"{file}: default_prompt_name {facts['default_prompt_name']!r} is none of {sorted(facts['prompts'])}"
        )
    sources["prompts"] = file.name
    similarity = config.get("similarity_fn_name")
    if similarity is not None:
        if similarity not in _SIMILARITIES:
            raise UnsupportedModelError(f"{file}: similarity_fn_name {similarity!r}; known: {', '.join(_SIMILARITIES)}")
        facts["similarity"] = similarity
        sources["similarity"] = file.name


def _read_lengths(
    path: Path, transformer: Path, config: dict[str, Any], facts: dict[str, Any], sources: dict[str, str]
) -> None:
    """As sentence-transformers: its own max_seq_length, else the lesser of tokenizer and positions.

    A table of learned positions bounds either, which there would end in an index error.
    """
    limits: dict[str, int] = {}
    config_source = _relative(transformer / "config.json", path)
    positions = config.get("max_position_embeddings")
    if not isinstance(positions, int) or positions < 1:
        positions = None
    tokenizer_file = transformer / "tokenizer_config.json"
    if tokenizer_file.exists():
        tokenizer = read_json(tokenizer_file)
        facts["truncation_side"] = tokenizer.get("truncation_side", "right")
        limit = tokenizer.get("model_max_length")
        if isinstance(limit, int | float) and 0 < limit < 10**9:  # 1e30 stands for "no limit"
            limits[_relative(tokenizer_file, path)] = int(limit)
    if positions is not None:
        limits[config_source] = positions
    sentence_file = next((f for f in sorted(transformer.glob("sentence_*_config.json"))), None)
    if sentence_file is not None:
        sentence = read_json(sentence_file)
        facts["do_lower_case"] = bool(sentence.get("do_lower_case", False))
        if sentence.get("max_seq_length") is not None:
            limits = {_relative(sentence_file, path): int(sentence["max_seq_length"])}
    learned = _LEARNED_POSITIONS.get(config["model_type"])
    if learned is not None and positions is not None:
        first = int(config.get("pad_token_id") or 0) + 1 if learned == "after padding" else 0
        positions -= first
        limits[config_source] = positions
    facts["max_positions"] = positions
    if limits:
        source = min(limits, key=lambda key: limits[key])
        facts["max_seq_length"], sources["max_seq_length"] = limits[source], source
        if limits[source] < 1:
            raise CheckpointError(f"{path / source} states a length of {limits[source]} tokens")


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
    index = folder / "model.safetensors.index.json"
    if index.exists():
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise CheckpointError(f"{index} has no weight_map")
        files = tuple(folder / name for name in sorted(set(weight_map.values())))
    else:
        files = (folder / "model.safetensors",)
    missing = [file.name for file in files if not file.exists()]
    if missing:
        other = sorted(file.name for file in folder.glob("*.bin")) or sorted(file.name for file in folder.glob("*.pt"))
        hint = f"; {other[0]} is a pickle, which is never loaded" if other else "; download the checkpoint again"
        raise CheckpointError(f"{folder} lacks {', '.join(missing)}{hint}")
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
