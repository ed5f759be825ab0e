"""sentence-transformers' files beside the transformer: modules.json and what it names, and the prompts."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from akidb_mlx.checkpoint.json_file import read_field, read_json
from akidb_mlx.checkpoint.safetensors_header import read_header
from akidb_mlx.errors import CheckpointError, UnsupportedModelError

__all__ = ["POOLING_NAMES", "STATIC", "Dense", "read_head", "read_modules", "read_prompts"]

STATIC = "StaticEmbedding"
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


def read_modules(path: Path) -> list[tuple[str, str]]:
    """(class name, folder) of each module in modules.json, in order; empty where the file is absent."""
    file = path / "modules.json"
    if not file.exists():
        return []
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
        modules = [(str(entry["type"]).rsplit(".", 1)[-1], str(entry["path"])) for entry in entries]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(
            f"{file} is not sentence-transformers' list of modules ({error!r}); download it again"
        ) from None
    if not modules or modules[0][0] not in ("Transformer", STATIC):
        first = modules[0][0] if modules else "nothing"
        raise UnsupportedModelError(
            f"{file}: the first module is {first}; only Transformer and {STATIC} are supported there"
        )
    return modules


def read_head(path: Path, modules: list[tuple[str, str]], facts: dict[str, Any], sources: dict[str, str]) -> None:
    """Put what follows the first module into `facts`: pooling, Dense layers, normalisation."""
    dense: list[Dense] = []
    facts["normalize"] = False
    sources["normalize"] = "modules.json"
    if modules[0][0] == STATIC:
        facts["pooling"], sources["pooling"] = ("mean",), "modules.json"
    for kind, folder in modules[1:]:
        if facts["normalize"]:
            raise UnsupportedModelError(f"{path / 'modules.json'}: {kind} follows Normalize, which must come last")
        if kind == "Pooling" and "pooling" not in facts and not dense:
            file = path / folder / "config.json"
            facts["pooling"], facts["include_prompt"] = _read_pooling(file)
            sources["pooling"] = file.relative_to(path).as_posix()
        elif kind == "Dense" and "pooling" in facts:
            dense.append(_read_dense(path / folder, path / modules[0][1], f"dense.{len(dense)}"))
        elif kind == "Normalize":
            facts["normalize"] = True
        elif kind != "Dropout":  # Dropout does nothing outside training
            known = f"Transformer, {STATIC}, Pooling, Dense, Normalize, Dropout"
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
        spelled = said if isinstance(said, list) else [said]
        unknown = [mode for mode in spelled if not isinstance(mode, str) or mode not in POOLING_NAMES]
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
    return modes, read_field(file, config, "include_prompt", bool, True)


def _read_dense(folder: Path, main: Path, folded: str) -> Dense:
    """A Dense module; its weights are its own, or in a file of the folder `main` under the name `folded`."""
    file = folder / "config.json"
    config = read_json(file)
    activation = read_field(file, config, "activation_function", str, "torch.nn.modules.activation.Tanh")
    if activation not in _ACTIVATIONS:
        raise UnsupportedModelError(
            f"{file}: activation_function {activation!r} is not supported; known: {', '.join(_ACTIVATIONS)}"
        )
    for key in ("module_input_name", "module_output_name"):
        if config.get(key) not in (None, "sentence_embedding"):
            raise UnsupportedModelError(f"{file}: {key} {config[key]!r}: only sentence_embedding is supported")
    sizes = read_field(file, config, "in_features", int), read_field(file, config, "out_features", int)
    bias, residual = read_field(file, config, "bias", bool, True), read_field(file, config, "use_residual", bool, False)
    for weight_file in (folder / "model.safetensors", folder / "pytorch_model.bin"):
        if weight_file.exists():
            return Dense(folder.name, *sizes, bias, _ACTIVATIONS[activation], residual, weight_file)
    if any(f"{folded}.weight" in read_header(shard) for shard in main.glob("model*.safetensors")):
        return Dense(folded, *sizes, bias, _ACTIVATIONS[activation], residual)
    raise CheckpointError(f"{folder / 'model.safetensors'} is missing: this checkpoint's Dense layer has no weights")


def read_prompts(path: Path, facts: dict[str, Any], sources: dict[str, str]) -> None:
    """Put what config_sentence_transformers.json says into `facts`."""
    file = path / "config_sentence_transformers.json"
    if not file.exists():
        return
    config = read_json(file)
    prompts = config.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(value is None or isinstance(value, str) for value in prompts.values()):
        raise CheckpointError(f"{file}: `prompts` must map names to texts, not {prompts!r}")
    facts["prompts"] = {str(key): value or "" for key, value in prompts.items()}
    default = config.get("default_prompt_name")
    if default is not None and default not in list(facts["prompts"]):
        raise CheckpointError(f"{file}: default_prompt_name {default!r} is none of {sorted(facts['prompts'])}")
    facts["default_prompt_name"] = default
    sources["prompts"] = file.name
    if config.get("truncate_dim") is not None:
        facts["truncate_dim"] = read_field(file, config, "truncate_dim", int)
        sources["truncate_dim"] = file.name
    similarity = config.get("similarity_fn_name")
    if similarity is not None:
        if similarity not in _SIMILARITIES:
            raise UnsupportedModelError(f"{file}: similarity_fn_name {similarity!r}; known: {', '.join(_SIMILARITIES)}")
        facts["similarity"] = similarity
        sources["similarity"] = file.name
