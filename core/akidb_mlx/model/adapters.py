"""Low-rank adapters (Hu et al. 2021, arXiv:2106.09685) on a loaded backbone, which all tasks share.

Each task has a backbone of its own that holds the same weights and adds `B A x` to some layers' outputs: nothing is
switched, so that tasks may be computed at the same time, and packed weights stay as they are.
"""

import copy
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from akidb_mlx.checkpoint.adapters import Adapter
from akidb_mlx.checkpoint.model_facts import ModelFacts
from akidb_mlx.errors import CheckpointError, UnsupportedModelError
from akidb_mlx.model.architectures.base import Backbone, rename
from akidb_mlx.model.weights import Weights, read_weights

__all__ = ["AdaptedEmbedding", "AdaptedLinear", "adapted_backbones", "claim_stacks"]

Pairs = dict[str, dict[str, mx.array]]
"""Layer → its A (rank, in) and B (out, rank); of a table A (entries, rank) and B (rank, width)."""
_STACKED = re.compile(r"(.+)\.parametrizations\.weight\.(?:0\.lora_([AB])|original)$")
_PEFT = re.compile(r"(?:base_model\.model\.)?(.+)\.lora_(?:([AB])\.weight|embedding_([AB]))$")


class AdaptedLinear(nn.Module):
    """`base(x) + b(a(x))`."""

    def __init__(self, base: nn.Module, a: mx.array, b: mx.array) -> None:
        """Share `base`, packed or not; A is (rank, in) and B (out, rank), the scale in it."""
        super().__init__()
        self.base = base
        self.a, self.b = _linear(a), _linear(b)

    @property
    def weight(self) -> mx.array:
        """The shared weight."""
        weight: mx.array = self.base.weight
        return weight

    def __call__(self, x: mx.array) -> mx.array:
        """(…, in) → (…, out)."""
        out: mx.array = self.base(x) + self.b(self.a(x))
        return out


class AdaptedEmbedding(nn.Module):
    """`base(ids) + a[ids] b`."""

    def __init__(self, base: nn.Module, a: mx.array, b: mx.array) -> None:
        """Share `base`, packed or not; A is (entries, rank) and B (rank, width), the scale in it."""
        super().__init__()
        self.base = base
        self.a, self.b = a, b

    def __call__(self, token_ids: mx.array) -> mx.array:
        """(…,) → (…, width)."""
        out: mx.array = self.base(token_ids) + self.a[token_ids] @ self.b
        return out


def claim_stacks(checkpoint: ModelFacts, weights: Weights) -> dict[str, Pairs]:
    """Take the adapters out of the model's own weights, where each layer has a stack of them; task → its pairs."""
    stacks: dict[str, dict[str, mx.array]] = {}
    for key in [key for key in weights if _STACKED.match(key)]:
        match, weight = _STACKED.match(key), weights.pop(key)
        assert match is not None
        layer, part = match.groups()
        if part is None:
            weights[f"{layer}.weight"] = weight
        else:
            stacks.setdefault(layer, {})[part] = weight
    stacked = [adapter for adapter in checkpoint.adapters if adapter.place is not None]
    if bool(stacks) is not bool(stacked):
        what = "stacks of adapters, of which config.json says nothing" if stacks else "no stacks of adapters"
        raise CheckpointError(f"{checkpoint.weight_files[0]} has {what} (lora_adaptations)")
    for layer, parts in stacks.items():
        if parts.keys() != {"A", "B"} or any(len(part) != len(stacked) for part in parts.values()):
            raise CheckpointError(
                f"{checkpoint.weight_files[0]}: {layer} has no lora_A and lora_B for each of the {len(stacked)} tasks"
            )
    return {
        adapter.task: {
            layer: {part: stack[adapter.place] for part, stack in parts.items()} for layer, parts in stacks.items()
        }
        for adapter in stacked
    }


def adapted_backbones(
    checkpoint: ModelFacts, backbone: Backbone, stacks: Mapping[str, Pairs], dtype: mx.Dtype
) -> dict[str, Backbone]:
    """Task → a backbone that shares the loaded one's weights and adds the task's, in the dtype to compute in."""
    made = {}
    for adapter in checkpoint.adapters:
        file = adapter.weight_file or checkpoint.weight_files[0]
        pairs = stacks[adapter.task] if adapter.weight_file is None else _read(adapter.weight_file)
        _check_targets(adapter, pairs, file)
        pairs = _joined(pairs, backbone, file)
        made[adapter.task] = _Copy(pairs, adapter, file, dtype).of(backbone)
    return made


def _read(file: Path) -> Pairs:
    """As PEFT saves them."""
    pairs: Pairs = {}
    for key, weight in read_weights([file]).items():
        match = _PEFT.match(key)
        if match is None:
            raise UnsupportedModelError(f"{file}: {key} is no weight of a plain LoRA; merge the adapter first")
        layer, of_linear, of_table = match.groups()
        pairs.setdefault(layer, {})[of_linear or of_table] = weight if of_linear else weight.T
    return pairs


def _check_targets(adapter: Adapter, pairs: Pairs, file: Path) -> None:
    """A and B for all that the files name, in every layer alike."""
    for layer, parts in sorted(pairs.items()):
        if parts.keys() != {"A", "B"}:
            raise CheckpointError(f"{file}: {layer} has only one of lora_A and lora_B")
        a, b = parts["A"].shape, parts["B"].shape
        if {adapter.rank} not in ({a[0], b[1]}, {a[1], b[0]}):  # of a layer, of a table
            raise CheckpointError(f"{file}: {layer} has adapters of shapes {a} and {b}; the rank is {adapter.rank}")
    ends = Counter(layer.rpartition(".")[2] for layer in pairs)
    missing = sorted(set(adapter.targets or ()) - ends.keys())
    uneven = sorted(end for end, count in ends.items() if 1 < count < max(ends.values()))
    if missing or uneven or not pairs:
        what = missing or uneven or ["every layer"]
        raise CheckpointError(f"{file} lacks the adapter's weights for {what[0]}; download the model again")


def _joined(pairs: Pairs, backbone: Backbone, file: Path) -> Pairs:
    """Under our names, and one pair where the backbone computes several layers together."""
    names = rename({f"{layer}.weight": pair["A"] for layer, pair in pairs.items()}, backbone.renames)
    ours = {name.removesuffix(".weight"): pair for name, pair in zip(names, pairs.values(), strict=True)}
    live = sorted(path for path, _ in backbone.named_modules())
    for joined, theirs in {**backbone.fused, **backbone.joined}.items():
        for parent in [path.removesuffix(f".{joined}") for path in live if path.endswith(f".{joined}")]:
            parts = [f"{parent}.{their}" for their in theirs]
            found = [part for part in parts if part in ours]
            if found and found != parts:
                raise UnsupportedModelError(
                    f"{file} adapts {found[0]} and not all of what is computed together with it ({', '.join(theirs)}); "
                    "merge the adapter first"
                )
            if found:
                ours[f"{parent}.{joined}"] = _side_by_side([ours.pop(part) for part in parts])
    return ours


def _side_by_side(pairs: list[dict[str, mx.array]]) -> dict[str, mx.array]:
    """One pair that gives the outputs of several for the same input: B has a block for each."""
    ranks, sizes = [pair["A"].shape[0] for pair in pairs], [pair["B"].shape[0] for pair in pairs]
    b = mx.zeros((sum(sizes), sum(ranks)), pairs[0]["B"].dtype)
    row = column = 0
    for pair, size, rank in zip(pairs, sizes, ranks, strict=True):
        b[row : row + size, column : column + rank] = pair["B"]
        row, column = row + size, column + rank
    return {"A": mx.concatenate([pair["A"] for pair in pairs]), "B": b}


class _Copy:
    """Copies a backbone's tree, not its arrays, and puts one adapter's pairs where they belong."""

    def __init__(self, pairs: Pairs, adapter: Adapter, file: Path, dtype: mx.Dtype) -> None:
        self._pairs, self._adapter, self._file, self._dtype = pairs, adapter, file, dtype
        self._left = set(pairs)

    def of(self, backbone: Backbone) -> Backbone:
        made: Backbone = self._node("", backbone)
        if self._left:
            raise UnsupportedModelError(f"{self._file} adapts {min(self._left)}, which the model does not have")
        return made

    def _node(self, path: str, node: Any) -> Any:
        if isinstance(node, list):
            return [self._node(f"{path}.{place}", item) for place, item in enumerate(node)]
        if not isinstance(node, nn.Module):
            return node
        name = path.removeprefix(".")
        if name in self._pairs:
            self._left.discard(name)
            return self._adapted(name, node)
        made = copy.copy(node)
        for key, child in node.items():
            made[key] = self._node(f"{path}.{key}", child)
        return made

    def _adapted(self, name: str, layer: nn.Module) -> nn.Module:
        a, b = (self._pairs[name][part].astype(mx.float32) for part in ("A", "B"))
        b = b * self._adapter.scale
        is_table = isinstance(layer, nn.Embedding | nn.QuantizedEmbedding)
        shape, wanted = (a.shape[0], b.shape[1]) if is_table else (b.shape[0], a.shape[1]), _shape(layer)
        if shape != wanted:
            raise CheckpointError(f"{self._file} adapts {name} to shape {shape}; the model's weight has {wanted}")
        kind = AdaptedEmbedding if is_table else AdaptedLinear
        return kind(layer, a.astype(self._dtype), b.astype(self._dtype))


def _shape(layer: nn.Module) -> tuple[int, int]:
    """Of a layer's weight, unpacked."""
    outputs, inputs = layer.weight.shape
    return outputs, inputs * 32 // layer.bits if "scales" in layer else inputs


def _linear(weight: mx.array) -> nn.Linear:
    """A layer without bias."""
    layer = nn.Linear(1, 1, bias=False)
    layer.weight = weight
    return layer
