"""A checkpoint → the same one with packed weights: all is checked before anything is written, and it appears whole."""

import os
import shutil
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Final, Literal

import mlx.core as mx
from huggingface_hub import split_state_dict_into_shards_factory

from akidb_mlx.checkpoint.hub import Resolved
from akidb_mlx.checkpoint.kinds import Kind, kind_of
from akidb_mlx.checkpoint.locate import resolve
from akidb_mlx.checkpoint.model_facts import ModelFacts
from akidb_mlx.config.sources import expanded
from akidb_mlx.convert.facts import READERS, changed, head_of, reads_words
from akidb_mlx.convert.folder import copy_sidecars, files_beside, free_bytes, write_config, write_index, write_readme
from akidb_mlx.device.choice import choose_device
from akidb_mlx.errors import BackendError, ConfigError, UnsupportedModelError
from akidb_mlx.model.adapters import claim_stacks
from akidb_mlx.model.architectures import make_backbone
from akidb_mlx.model.heads.loading import claim_weights
from akidb_mlx.model.loading import backbone_weights
from akidb_mlx.model.packing import Mix, Packed, Packing, pack, settle_mix, settle_packing
from akidb_mlx.model.quantization import packed as packed_layers
from akidb_mlx.model.quantization import quantize_modules
from akidb_mlx.model.weights import Weights, cast_weights, fill, read_weights

__all__ = ["Conversion", "convert"]

StoredDtype = Literal["float32", "float16", "bfloat16"]
_DTYPES: Final = ("float32", "float16", "bfloat16")
_SHARD: Final = "5GB"
_PATTERN: Final = "model{suffix}.safetensors"
_SLACK: Final = 16 * 2**20  # headers, and what a disk rounds up


@dataclass(frozen=True)
class Conversion:
    """What was written."""

    path: Path
    kind: Kind
    packing: Packing
    mix: str
    layers: int
    """How many are packed."""
    bytes_before: int
    """Of the weights; Dense layers and heads in files of their own are not counted."""
    bytes_after: int
    notes: tuple[str, ...] = ()
    """What the user should know."""


def convert(
    model: str | PathLike[str],
    out: str | PathLike[str],
    *,
    bits: int | None = None,
    group_size: int | None = None,
    mode: str = "affine",
    mix: str = "alike",
    stored_dtype: StoredDtype | None = None,
    kind: Kind | None = None,
    revision: str | None = None,
    cache_dir: Path | None = None,
    local_files_only: bool = False,
) -> Conversion:
    """Pack a model's weights into a new folder, which has all its other files too.

    Args:
        model: a folder, package:NAME, or a Hub id.
        out: the new folder; it must not exist, but its parent must.
        bits: per number; by default 8, or what the mode has.
        group_size: how many numbers share a scale; by default 64, or what the mode has.
        mode: affine, mxfp4, mxfp8 or nvfp4.
        mix: "alike"; "edges8": the table of words, first and last layer in 8 bit; "layers8": all but that table.
        stored_dtype: of what stays float, scales too, and what a GPU computes in; by default as it is.
        kind: by default what the files say.
        revision: of a model on the Hub.
        cache_dir: where the Hub's files are kept.
        local_files_only: whether to do without the network.

    Raises:
        ConfigError: no such packing; `out` exists or cannot be there.
        UnsupportedModelError: weights that are packed already, groups that do not divide them, a model without layers.
        BackendError: the disk is too small.
        ModelNotFoundError, CheckpointError: as `Embedder.load`.
    """
    wanted, chosen = settle_packing(mode, bits, group_size), settle_mix(mix)
    if stored_dtype not in (None, *_DTYPES):
        raise ConfigError(f"stored_dtype is {stored_dtype!r}; it may be {', '.join(_DTYPES)}")
    source = resolve(os.fspath(model), revision, cache_dir, local_files_only)
    target = _checked_target(expanded(out, "out"), source.path)
    settled = kind or kind_of(source.path)
    facts = READERS[settled](source.path, source.name, source.revision)
    with choose_device().stream():
        packed = _pack(facts, wanted, chosen, stored_dtype)
        size = sum(weight.nbytes for weight in packed.weights.values())
        beside = files_beside(facts.path, facts.config_file.parent)
        _check_room(target.parent, size + sum(file.stat().st_size for file in beside))
        told = f"{wanted}, mix {mix}, {packed.layers} layers"
        _write(target, facts, source, packed, beside, told, settled)
    before = sum(file.stat().st_size for file in facts.weight_files)
    notes = tuple(_notes(facts, wanted, stored_dtype))
    return Conversion(target, settled, wanted, mix, packed.layers, before, size, notes)


def _checked_target(target: Path, source: Path) -> Path:
    if target.exists() or target.is_symlink():
        raise ConfigError(f"{target} exists; name a folder that does not, or remove it")
    if not target.parent.is_dir():
        raise ConfigError(f"the folder {target.parent} of {target.name} does not exist")
    if target.parent.resolve().is_relative_to(source.resolve()):
        raise ConfigError(f"{target} would lie in the model's own folder; name a place outside")
    return target


def _pack(facts: ModelFacts, wanted: Packing, mix: Mix, stored_dtype: str | None) -> Packed:
    """The packed weights, of which it is known that they load; nothing is computed yet."""
    file = facts.weight_files[0]
    if facts.quantization is not None:
        raise UnsupportedModelError(f"{facts.config_file}: the weights are packed already; convert the original")
    if facts.model_type == "static":
        raise UnsupportedModelError(f"{file}: a static model is one table without layers, which is not packed")
    if any(adapter.place is not None for adapter in facts.adapters):
        raise UnsupportedModelError(f"{file}: a stack of adapters lies over each layer, which is not packed")
    weights = read_weights(facts.weight_files)
    if already := packed_layers(weights):
        raise UnsupportedModelError(f"{file}: {min(already)} is packed already; convert the original")
    if stored_dtype is not None:
        weights = cast_weights(weights, getattr(mx, stored_dtype))
    backbone = make_backbone(facts.config)
    packed = pack(weights, backbone, wanted, mix, file, words=not reads_words(facts))
    _check_loads(facts, packed.weights)
    return packed


def _check_loads(facts: ModelFacts, weights: Weights) -> None:
    """As a load would take them; what it computes with is never evaluated."""
    rest, backbone = dict(weights), make_backbone(facts.config)
    claim_weights(head_of(facts), rest, facts)
    claim_stacks(facts, rest)
    rest = backbone_weights(backbone, rest, facts)
    quantize_modules(backbone, rest, facts.config_file, mx.float32)
    fill(backbone, rest, facts.weight_files[0])


def _check_room(folder: Path, size: int) -> None:
    free = free_bytes(folder)
    if size + _SLACK > free:
        raise BackendError(
            f"the disk of {folder} has {free / 1e9:.2f} GB free, and the conversion takes {size / 1e9:.2f} GB"
        )


def _write(
    target: Path, facts: ModelFacts, source: Resolved, packed: Packed, beside: list[Path], told: str, kind: Kind
) -> None:
    """Into a folder beside, which gets its name when all is there; what fails leaves nothing."""
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    partial.mkdir()
    try:
        copy_sidecars(beside, facts.path, partial)
        folder = partial / facts.config_file.parent.relative_to(facts.path)
        folder.mkdir(parents=True, exist_ok=True)
        _save(packed.weights, folder)
        write_config(facts.config_file, folder / facts.config_file.name, packed.settings)
        write_readme(partial, source.name, source.revision, told)
        if lost := changed(facts, READERS[kind](partial)):
            raise UnsupportedModelError(
                f"{facts.name}: beside packed weights its files would say something else of {', '.join(lost)}; "
                "say it in the files of the original first (README.md's base_model, sentence-transformers' files)"
            )
        if target.exists():
            raise ConfigError(f"{target} was made by someone else meanwhile; name another folder")
        partial.rename(target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _save(weights: Weights, folder: Path) -> None:
    """Shards of up to 5 GB, and their index where there are several; each is computed as it is written."""
    split = split_state_dict_into_shards_factory(
        weights, get_storage_size=lambda weight: weight.nbytes, filename_pattern=_PATTERN, max_shard_size=_SHARD
    )
    for name, keys in split.filename_to_tensors.items():
        shard: dict[str, Any] = {key: weights.pop(key) for key in keys}
        mx.save_safetensors(str(folder / name), shard, metadata={"format": "mlx"})
    if split.is_sharded:
        write_index(folder / "model.safetensors.index.json", split.metadata, split.tensor_to_filename)


def _notes(facts: ModelFacts, wanted: Packing, stored_dtype: str | None) -> list[str]:
    floats = stored_dtype or facts.float_dtype
    notes = []
    if wanted.bits == 1:
        notes.append("1 bit is refused on CUDA, where MLX computes it wrong")
    if wanted.group_size == 128 and floats == "float32":
        notes.append('groups of 128 are refused on CUDA in float32; load with dtype="bfloat16", or take 64')
    if reads_words(facts):
        notes.append("the table of words may be the head too, and stays in floats")
    return notes
