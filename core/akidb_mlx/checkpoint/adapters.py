"""Low-rank adapters (LoRA), one for each task of a model: in PEFT's folders, or stacked in the model's own weights.

No MLX here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from akidb_mlx.checkpoint.jina import task_names
from akidb_mlx.checkpoint.json_file import read_field, read_json
from akidb_mlx.checkpoint.layout import Layout
from akidb_mlx.errors import CheckpointError, UnsupportedModelError

__all__ = ["Adapter", "read_adapters"]

Config = Mapping[str, Any]
_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# Fields of PEFT's file under which its plain formula holds; of all others it says how the adapter was made.
_PLAIN: Mapping[str, tuple[Any, ...]] = {
    "alora_invocation_tokens": (None,),
    "alpha_pattern": (None, {}),
    "bias": (None, "none"),
    "exclude_modules": (None, []),
    "fan_in_fan_out": (None, False),
    "init_lora_weights": (None, True, False, "gaussian"),
    "layer_replication": (None,),
    "layers_pattern": (None, []),
    "layers_to_transform": (None, []),
    "lora_bias": (None, False),
    "modules_to_save": (None, []),
    "rank_pattern": (None, {}),
    "target_parameters": (None, []),
    "trainable_token_indices": (None, []),
    "use_bdlora": (None, False),
    "use_dora": (None, False),
    "use_qalora": (None, False),
    "use_rslora": (None, False),
}
_OTHERS = frozenset(
    {
        *("auto_mapping", "base_model_name_or_path", "inference_mode", "lora_alpha", "lora_dropout", "megatron_core"),
        *("peft_type", "peft_version", "qalora_group_size", "r", "revision", "runtime_config", "target_modules"),
        "task_type",
    }
)


@dataclass(frozen=True)
class Adapter:
    """What one task adds to a model's layers: `scale` × B × A to each weight that has an A and a B."""

    task: str
    rank: int
    scale: float
    targets: tuple[str, ...] | None = None
    """Ends of the layers' names; None where the weights alone say them."""
    place: int | None = None
    """Which of the stacks in the model's own weights."""
    weight_file: Path | None = None
    """Where it has a file of its own."""


def read_adapters(layout: Layout, config: Config) -> tuple[Adapter, ...]:
    """Those of a checkpoint whose config.json, as published, is `config`; empty where it has none.

    Raises:
        CheckpointError: one that config.json names is not there, or contradicts it.
        UnsupportedModelError: one is not computed by PEFT's plain formula.
    """
    names = task_names(config)
    if config.get("lora_adaptations") is not None:
        file = layout.config_file
        rank, scale = _read_scale(file, config, "lora_rank")
        return tuple(Adapter(name, rank, scale, place=place) for place, name in enumerate(names))
    if config.get("model_type") == "jina_embeddings_v5":
        if not names:
            raise CheckpointError(f"{layout.config_file} lacks task_names, the tasks that the model has adapters for")
        return tuple(_read_folder(layout.folder / "adapters" / name, name) for name in names)
    if config.get("model_type") == "jina_embeddings_v3":
        folders = sorted(file.parent for file in layout.folder.glob(f"*/{_CONFIG}"))
        return tuple(_read_folder(folder, folder.name) for folder in folders)
    return ()


def _read_folder(folder: Path, task: str) -> Adapter:
    """An adapter as PEFT saves it."""
    file = folder / _CONFIG
    for part in (file, folder / _WEIGHTS):
        if not part.exists():
            raise CheckpointError(f"{part} is missing, the adapter of the task {task!r}; download the model again")
    said = read_json(file)
    if said.get("peft_type") != "LORA":
        raise UnsupportedModelError(f"{file}: peft_type is {said.get('peft_type')!r}; only LORA is supported")
    for key, value in said.items():
        if value not in _PLAIN[key] if key in _PLAIN else key not in _OTHERS and value:
            raise UnsupportedModelError(f"{file}: {key} is {value!r}, which is not supported; merge the adapter first")
    rank, scale = _read_scale(file, said, "r")
    targets = said.get("target_modules")
    ends = tuple(sorted(targets)) if isinstance(targets, list) and all(isinstance(t, str) for t in targets) else None
    return Adapter(task, rank, scale, ends, weight_file=folder / _WEIGHTS)


def _read_scale(file: Path, said: Config, rank_key: str) -> tuple[int, float]:
    """The rank, and alpha / rank."""
    rank, alpha = read_field(file, said, rank_key, int), said.get("lora_alpha")
    if rank < 1 or isinstance(alpha, bool) or not isinstance(alpha, int | float):
        raise CheckpointError(f"{file}: {rank_key} must be at least 1 and lora_alpha a number, not {rank}, {alpha!r}")
    return rank, alpha / rank
