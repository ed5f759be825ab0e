"""What Jina's own code, which is never run, makes of its models' files: told in the words that are known here.

Config.json of JinaBERT (v2) says BERT, that of v3 names no architecture, that of v5 not which of two. No MLX here.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from akidb_mlx.checkpoint.safetensors_header import read_header
from akidb_mlx.errors import CheckpointError, UnsupportedModelError

__all__ = ["OWN_MODULE", "in_known_words", "own_module_gives", "task_names"]

Config = Mapping[str, Any]
OWN_MODULE = "custom_st.Transformer"
"""modules.json's name for the module of v3 and v5, whose code lies in the checkpoint."""
_FLASH_CONFIG = "XLMRobertaFlashConfig"
_FLASH_BASE = 10000.0  # where XLMRobertaFlashConfig says nothing
_V3, _V5 = "jina_embeddings_v3", "jina_embeddings_v5"
# Read elsewhere, or of training and of how it computes; the rest stays in what config.json says.
_OF_TASKS = ("lora_adaptations", "lora_alpha", "lora_rank", "task_instructions", "task_names")


def in_known_words(config: Config, file: Path, weight_files: Sequence[Path]) -> Config:
    """config.json, read from `file`, with the model_type and the fields that architectures here have.

    Raises:
        CheckpointError, UnsupportedModelError: it is Jina's, and says what its code does not compute.
    """
    kind = config.get("model_type")
    if kind == "bert" and config.get("position_embedding_type") == "alibi":
        return {**_known(config), "model_type": "jina_bert"}
    if _is_flash(config):
        return _of_flash(config, file)
    if kind == _V5:
        # Small's layers have what nano's have not.
        causal = any(name.endswith("layers.0.self_attn.q_norm.weight") for name in _weight_names(weight_files))
        return {**_known(config, *_OF_TASKS), "model_type": "qwen3" if causal else "eurobert"}
    return config


def task_names(config: Config) -> tuple[str, ...]:
    """The tasks that config.json names, in their order; empty where it names none."""
    for key in ("lora_adaptations", "task_names"):
        said = config.get(key)
        if said is None:
            continue
        if not isinstance(said, list) or not said or not all(isinstance(name, str) and name for name in said):
            raise CheckpointError(f"config.json: {key} must be a list of names, not {said!r}")
        return tuple(said)
    return ()


def own_module_gives(config: Config) -> Literal["hidden states", "rows"] | None:
    """What comes out of `OWN_MODULE` beside this config.json; None where nothing says what it does."""
    if _is_flash(config) and config.get("lora_adaptations") is not None:
        return "hidden states"
    return "rows" if config.get("model_type") == _V5 else None


def _is_flash(config: Config) -> bool:
    """Whether it is of the implementation of XLM-R that v3, its reranker and its ColBERT share."""
    if config.get("model_type") not in (None, "xlm-roberta"):
        return False
    named = config.get("auto_map")
    code = str(named.get("AutoConfig")) if isinstance(named, Mapping) else ""
    return code.endswith(_FLASH_CONFIG) or config.get("lora_adaptations") is not None


def _of_flash(config: Config, file: Path) -> Config:
    positions = config.get("position_embedding_type", "absolute")
    known = _known(config, *_OF_TASKS, "rotary_emb_base", "use_flash_attn")
    if positions == "absolute":
        return {**known, "model_type": "xlm-roberta"}
    if positions != "rotary":
        raise UnsupportedModelError(
            f"{file}: position_embedding_type is {positions!r}; Jina's XLM-R has absolute or rotary ones"
        )
    base = config.get("rotary_emb_base", _FLASH_BASE)
    if isinstance(base, bool) or not isinstance(base, int | float):
        raise CheckpointError(f"{file}: rotary_emb_base must be a number, not {base!r}")
    return {**known, "model_type": _V3, "rope_theta": float(base)}


def _known(config: Config, *without: str) -> dict[str, Any]:
    """Without the name of code that is not run, and the fields that are read elsewhere."""
    return {key: value for key, value in config.items() if key not in ("auto_map", *without)}


def _weight_names(files: Iterable[Path]) -> Iterable[str]:
    return (name for file in files for name in read_header(file))
