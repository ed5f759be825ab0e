"""sentence-transformers' files beside the transformer: modules.json and what it names, and how to use the model."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from akidb_mlx.checkpoint.broken_files import is_there, refuse_broken_files
from akidb_mlx.checkpoint.fact import Fact
from akidb_mlx.checkpoint.heads import Dense
from akidb_mlx.checkpoint.json_file import read_field, read_json
from akidb_mlx.checkpoint.safetensors_header import read_header
from akidb_mlx.errors import CheckpointError, UnsupportedModelError

__all__ = [
    "NO_OTHERS",
    "OURS",
    "POOLING_NAMES",
    "STATIC",
    "WHOLE_NUMBERS",
    "Head",
    "Usage",
    "read_dense",
    "read_head",
    "read_modules",
    "read_pooling_modes",
    "read_usage",
]

STATIC = "StaticEmbedding"
NO_OTHERS: Mapping[str, str] = MappingProxyType({})
OURS = "sentence_transformers."  # whose classes are computed here
_PYLATE_DENSE = "pylate.models.Dense.Dense"  # which is sentence-transformers' own
# pplx-embed's own, known: without a caller's word it makes whole numbers of a row (`WHOLE_NUMBERS`).
_QUANTIZER = "st_quantize.FlexibleQuantizer"
WHOLE_NUMBERS = "int8_tanh"
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
_CLASSES = ("Tanh", "GELU", "ReLU", "SiLU", "Sigmoid")
_ACTIVATIONS = {
    "torch.nn.modules.linear.Identity": "identity",
    **{f"torch.nn.modules.activation.{name}": name.lower() for name in _CLASSES},
    "torch.nn.Identity": "identity",
    **{f"torch.nn.{name}": name.lower() for name in _CLASSES},
}
_POOLING_KEYS = (
    "embedding_dimension",
    "word_embedding_dimension",
    "module_input_name",
    "module_output_name",
    "pooling_mode",
    "include_prompt",
    *_POOLING_FLAGS,
)
_VECTOR = "sentence_embedding"
_SIMILARITIES = ("cosine", "dot", "euclidean", "manhattan")
# Another spelling, which the reference does not know and takes for none: then it compares by cosine.
_UNREAD_SIMILARITY = "dot_product"


def read_modules(
    path: Path, first: Sequence[str] = ("Transformer", STATIC), known: Mapping[str, str] = NO_OTHERS
) -> list[tuple[str, str]]:
    """(class name, folder) of each module in modules.json, in order; empty where the file is absent.

    `first`: the classes that the first may be of; `known`: names of the checkpoint's own code whose module here stands
    for it.
    """
    file = path / "modules.json"
    refuse_broken_files(path)
    if not file.exists():
        return []
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
        modules = [(str(entry["type"]), str(entry["path"])) for entry in entries]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(
            f"{file} is not sentence-transformers' list of modules ({error!r}); download it again"
        ) from None
    modules = [(known.get(kind, kind), folder) for kind, folder in modules]
    for kind, _ in modules:
        if not kind.startswith(OURS) and kind not in (_PYLATE_DENSE, _QUANTIZER):
            raise UnsupportedModelError(f"{file}: {kind} is code of the checkpoint's own, which is never run")
    modules = [(kind.rsplit(".", 1)[-1], folder) for kind, folder in modules]
    if not modules or modules[0][0] not in first:
        found = modules[0][0] if modules else "nothing"
        raise UnsupportedModelError(
            f"{file}: the first module is {found}; only {' and '.join(first)} are supported there"
        )
    refuse_broken_files(path, (folder for _, folder in modules))
    return modules


@dataclass(frozen=True)
class Head:
    """What makes rows of hidden states; the fields are `Checkpoint`'s."""

    pooling: Fact[tuple[str, ...]] | None = None
    include_prompt: bool = True
    dense: Fact[tuple[Dense, ...]] | None = None
    normalize: Fact[bool] | None = None
    output: Fact[str] | None = None
    """What the row becomes after all layers; None for what it is."""
    left_out: tuple[str, ...] = ()
    """Folders that modules.json names and a conversion to MLX has not copied."""


@dataclass(frozen=True)
class Usage:
    """How the model is meant to be used; the fields are `Checkpoint`'s."""

    prompts: Fact[dict[str, str]] | None = None
    default_prompt_name: str | None = None
    similarity: Fact[str] | None = None
    truncate_dim: Fact[int] | None = None


def read_head(path: Path, modules: list[tuple[str, str]], *, scores: bool = False) -> Head:
    """What follows the first module: pooling, Dense layers, normalisation; `scores`: the last Dense is a reranker's."""
    pooling: Fact[tuple[str, ...]] | None = Fact(("mean",), "modules.json") if modules[0][0] == STATIC else None
    include_prompt, normalize = True, False
    dense: list[Dense] = []
    left_out: list[str] = []
    becomes: Fact[str] | None = None
    for kind, folder in modules[1:]:
        has_row = pooling is not None or bool(left_out)
        is_there = (path / folder / "config.json").exists()
        if becomes is not None:
            raise UnsupportedModelError(f"{path / 'modules.json'}: {kind} follows {_QUANTIZER}, which must come last")
        _refuse_misplaced(path / "modules.json", kind, folder, has_row=has_row, normalize=normalize)
        if kind in ("Pooling", "Dense") and not is_there and modules[0][0] != STATIC:
            left_out.append(folder)
        elif kind == "Pooling" and modules[0][0] != STATIC and not left_out:
            # It reads tokens' vectors: nothing that came before it is in its row.
            pooling, include_prompt = _read_pooling(path, folder)
            dense, normalize = [], False
        elif kind == "Dense":
            output = "scores" if scores and folder == modules[-1][1] else _VECTOR
            dense.append(read_dense(path / folder, path / modules[0][1], f"dense.{len(dense)}", output=output))
        elif kind == "Normalize":
            _refuse_other_keys(path / folder / "config.json")
            normalize = has_row  # without one it does nothing
        elif kind == _QUANTIZER.rsplit(".", 1)[1] and has_row and not normalize and not scores:
            becomes = Fact(WHOLE_NUMBERS, "modules.json")
        elif kind != "Dropout":  # Dropout does nothing outside training
            known = f"Transformer, {STATIC}, Pooling, Dense, Normalize, Dropout"
            raise UnsupportedModelError(
                f"{path / 'modules.json'}: module {kind} ({folder or '.'}) is not supported here; known: {known}"
            )
    layers = Fact(tuple(dense), ", ".join(layer.name for layer in dense)) if dense else None
    return Head(pooling, include_prompt, layers, Fact(normalize, "modules.json"), becomes, tuple(left_out))


def _refuse_misplaced(file: Path, kind: str, folder: str, *, has_row: bool, normalize: bool) -> None:
    if kind == "Dense" and normalize:
        raise UnsupportedModelError(f"{file}: {kind} follows Normalize, which must come last")
    if kind in ("Dense", "Dropout") and not has_row:
        raise UnsupportedModelError(
            f"{file}: {kind} ({folder}) has no Pooling before it; download the checkpoint again"
        )


def _read_pooling(path: Path, folder: str) -> tuple[Fact[tuple[str, ...]], bool]:
    """The modes, and whether the prompt's tokens count."""
    file = path / folder / "config.json"
    config = read_json(file)
    _refuse_other_keys(file, "token_embeddings")
    _account_for_pooling(file, config)
    modes = read_pooling_modes(file, config)
    # A null counts as false there.
    include_prompt = config.get("include_prompt", True) is not None and read_field(
        file, config, "include_prompt", bool, True
    )
    return Fact(modes, file.relative_to(path).as_posix()), include_prompt


def _account_for_pooling(file: Path, config: Mapping[str, Any]) -> None:
    """Whoever writes more there has another class in mind: the reference cannot make its own of it."""
    unknown = config.keys() - set(_POOLING_KEYS)
    if unknown:
        raise UnsupportedModelError(f"{file}: {min(unknown)} is not known; known: {', '.join(_POOLING_KEYS)}")


def read_pooling_modes(file: Path, config: Mapping[str, Any]) -> tuple[str, ...]:
    """The modes that Pooling's settings in `file` say, in the new form or the old."""
    return _named_modes(file, config["pooling_mode"]) if "pooling_mode" in config else _flagged_modes(file, config)


def _named_modes(file: Path, said: object) -> tuple[str, ...]:
    spelled: list[Any] = said if isinstance(said, list) else [said]
    unknown = [mode for mode in spelled if not isinstance(mode, str) or mode not in POOLING_NAMES]
    if unknown or not spelled:
        raise UnsupportedModelError(
            f"{file}: unknown pooling_mode {unknown or said!r}; known: {', '.join(POOLING_NAMES)}"
        )
    return tuple(POOLING_NAMES[mode] for mode in spelled)


def _flagged_modes(file: Path, config: Mapping[str, object]) -> tuple[str, ...]:
    """Of the old form; as the reference the mean where no flag is set."""
    flags = {key: value for key, value in config.items() if key.startswith("pooling_mode_")}
    unknown = [key for key, value in flags.items() if value and key not in _POOLING_FLAGS]
    if unknown:
        raise UnsupportedModelError(f"{file}: unknown {unknown[0]}; known: {', '.join(_POOLING_FLAGS)}")
    return tuple(mode for key, mode in _POOLING_FLAGS.items() if flags.get(key)) or ("mean",)


def _refuse_other_keys(file: Path, given: str = _VECTOR, output: str = _VECTOR) -> None:
    """Modules hand on a dictionary: only the usual entries of it are computed here."""
    config = read_json(file) if file.is_file() else {}
    for key, usual in (("module_input_name", given), ("module_output_name", output)):
        unsaid = _VECTOR if key == "module_output_name" and given == _VECTOR else usual
        if config.get(key, unsaid) not in (None, usual):
            raise UnsupportedModelError(f"{file}: {key} {config[key]!r}: only {usual} is supported")


def read_dense(folder: Path, main: Path, folded: str, *, given: str = _VECTOR, output: str = _VECTOR) -> Dense:
    """A Dense module; its weights are its own, or in a file of the folder `main` under the name `folded`.

    `given` and `output` are the entries of the modules' dictionary that it may read and write.
    """
    file = folder / "config.json"
    config = read_json(file)
    activation = read_field(file, config, "activation_function", str, "torch.nn.modules.activation.Tanh")
    if activation not in _ACTIVATIONS:
        raise UnsupportedModelError(
            f"{file}: activation_function {activation!r} is not supported; known: {', '.join(_ACTIVATIONS)}"
        )
    _refuse_other_keys(file, given, output)
    sizes = read_field(file, config, "in_features", int), read_field(file, config, "out_features", int)
    if min(sizes) < 1:
        raise CheckpointError(f"{file}: in_features and out_features must be at least 1, not {sizes}")
    bias, residual = read_field(file, config, "bias", bool, True), read_field(file, config, "use_residual", bool, False)
    for weight_file in (folder / "model.safetensors", folder / "pytorch_model.bin"):
        if is_there(weight_file):
            return Dense(folder.name, *sizes, bias, _ACTIVATIONS[activation], residual, weight_file)
    if any(f"{folded}.weight" in read_header(shard) for shard in main.glob("model*.safetensors")):
        return Dense(folded, *sizes, bias, _ACTIVATIONS[activation], residual)
    raise CheckpointError(f"{folder / 'model.safetensors'} is missing: this checkpoint's Dense layer has no weights")


def read_usage(path: Path, similarities: Sequence[str] | None = _SIMILARITIES) -> Usage:
    """What config_sentence_transformers.json says; `similarities`: the functions that may be named, None for any."""
    file = path / "config_sentence_transformers.json"
    if not file.exists():
        return Usage()
    config = read_json(file)
    said = config.get("prompts") or {}
    if not isinstance(said, dict) or not all(value is None or isinstance(value, str) for value in said.values()):
        raise CheckpointError(f"{file}: `prompts` must map names to texts, not {said!r}")
    prompts = {str(key): value or "" for key, value in said.items()}
    default = config.get("default_prompt_name")
    if default in ("query", "document"):  # the reference has both always, if empty ones
        prompts.setdefault(default, "")
    if default is not None and default not in list(prompts):
        raise CheckpointError(f"{file}: default_prompt_name {default!r} is none of {sorted(prompts)}")
    width = None
    if config.get("truncate_dim") is not None:
        width = Fact(read_field(file, config, "truncate_dim", int), file.name)
    similarity, where = config.get("similarity_fn_name"), file.name
    if similarity == _UNREAD_SIMILARITY:
        similarity, where = "cosine", f"{file.name}: sentence-transformers does not read {similarity!r}"
    if similarity is not None and similarities is not None and similarity not in similarities:
        raise UnsupportedModelError(f"{file}: similarity_fn_name {similarity!r}; known: {', '.join(similarities)}")
    return Usage(
        prompts=Fact(prompts, file.name),
        default_prompt_name=default,
        similarity=None if similarity is None else Fact(similarity, where),
        truncate_dim=width,
    )
