"""Mixtures of experts among decoders: what config.json says of them, and the forms that their weights come in."""

import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from akidb_mlx.errors import CheckpointError
from akidb_mlx.model.architectures.base import read, rename
from akidb_mlx.model.architectures.joined_layers import GatedNetwork
from akidb_mlx.model.layers.activations import Activation
from akidb_mlx.model.layers.experts import Experts, Mixture, Router

__all__ = ["MIXTURES", "MixtureKind", "gather_experts", "own_name", "stack_experts"]

Config = Mapping[str, Any]


def _everywhere(config: Config, index: int) -> bool:
    return True


def _qwen_steps(config: Config, index: int) -> bool:
    step = read(config, "decoder_sparse_step", int)
    return index not in (config.get("mlp_only_layers") or ()) and (index + 1) % step == 0


def _ernie_range(config: Config, index: int) -> bool:
    first, last = (read(config, f"moe_layer_{end}_index", int) for end in ("start", "end"))
    last = read(config, "num_hidden_layers", int) - 1 if last == -1 else last
    return first <= index <= last and (index + 1) % read(config, "moe_layer_interval", int) == 0


@dataclass(frozen=True)
class MixtureKind:
    """How one model_type's are described and computed."""

    counts: tuple[str, ...] = ("num_experts", "num_local_experts")
    """config.json's names of the number of experts; transformers 5 writes the second for the first."""
    chosen: str = "num_experts_per_tok"
    inner: str = "moe_intermediate_size"
    """An expert's channels."""
    normalise: bool | None = None
    """Whether the weights of those chosen are made one in all; None: as `norm_topk_prob` says."""
    least: str | None = None
    """The least number that they are divided by."""
    corrected: bool = False
    """Whether a bias of each expert counts in the choice."""
    shared: str | None = None
    """The number of channels of a network for all tokens."""
    shared_count: str | None = None
    """How many times so wide that is; without one it is gated."""
    biases: str | None = None
    """Whether that network has biases."""
    layers: Callable[[Config, int], bool] = _everywhere
    """Whether the layer at an index has experts; the others are as in a model without."""
    others: tuple[str, ...] = ()
    """Further fields that are read, or that the class does not read."""

    @property
    def fields(self) -> tuple[str, ...]:
        """All that are accounted for; the first two and jitter are for training."""
        named = (self.chosen, self.inner, self.least, self.shared, self.shared_count, self.biases)
        said = ("norm_topk_prob",) if self.normalise is None else ()
        inert = ("output_router_logits", "router_aux_loss_coef", "router_jitter_noise")
        return (*inert, *self.counts, *said, *filter(None, named), *self.others)

    def make(self, config: Config, act: Activation) -> Mixture:
        """The network of one layer."""
        width, inner, experts = read(config, "hidden_size", int), read(config, self.inner, int), self._count(config)
        chosen = read(config, self.chosen, int)
        if not 0 < chosen <= experts:
            raise CheckpointError(f"config.json: {self.chosen} is {chosen}, with {experts} experts")
        normalise = read(config, "norm_topk_prob", bool) if self.normalise is None else self.normalise
        least = read(config, self.least, float) if self.least else 0.0
        router = Router(width, experts, chosen, normalise=normalise, corrected=self.corrected, least=least)
        mixture = Mixture(router, Experts(width, inner, experts, act, gated=True))
        times = read(config, self.shared_count, int) if self.shared_count else 1
        if self.shared and times:
            biased = bool(self.biases and config.get(self.biases))
            network = _make_network(width, times * read(config, self.shared, int), act, biased=biased)
            mixture.share(network, width, gated=self.shared_count is None)
        return mixture

    def _count(self, config: Config) -> int:
        said = {read(config, name, int) for name in self.counts if name in config}
        if len(said) != 1:
            raise CheckpointError(f"config.json: {' and '.join(self.counts)} must state one number of experts")
        return said.pop()


_QWEN = ("decoder_sparse_step", "mlp_only_layers")
_ERNIE = ("moe_layer_start_index", "moe_layer_end_index", "moe_layer_interval")

# Each row is verified by cases in tests/reference.
MIXTURES: dict[str, MixtureKind] = {
    "ernie4_5_moe": MixtureKind(
        counts=("moe_num_experts",),
        chosen="moe_k",
        normalise=True,
        least="moe_norm_min",
        corrected=True,
        shared="moe_intermediate_size",
        shared_count="moe_num_shared_experts",
        biases="use_bias",
        layers=_ernie_range,
        others=(*_ERNIE, "moe_capacity", "moe_use_aux_free", "num_nextn_predict_layers"),
    ),
    "granitemoe": MixtureKind(inner="intermediate_size", normalise=True),
    "mixtral": MixtureKind(inner="intermediate_size", normalise=True),
    "olmoe": MixtureKind(inner="intermediate_size"),
    "qwen2_moe": MixtureKind(shared="shared_expert_intermediate_size", layers=_qwen_steps, others=_QWEN),
    "qwen3_moe": MixtureKind(layers=_qwen_steps, others=_QWEN),
}

# Their names → ours.
_RENAMES = (
    (r"\.block_sparse_moe\.", ".mlp."),
    (r"\.mlp\.(?:gate|router|router\.layer)\.(weight|scales|biases)$", r".mlp.router.\1"),
    (r"\.mlp\.(?:gate\.)?moe_statics\.e_score_correction_bias$", ".mlp.router.correction"),
    (r"\.mlp\.switch_mlp\.", ".mlp.experts."),
    (r"\.mlp\.input_linear\.weight$", ".mlp.experts.gate_up_proj.weight"),
    (r"\.mlp\.output_linear\.weight$", ".mlp.experts.down_proj.weight"),
    (r"\.mlp\.experts\.(gate_up_proj|down_proj)$", r".mlp.experts.\1.weight"),
    (r"\.mlp\.experts\.(\d+)\.w1\.", r".mlp.experts.\1.gate_proj."),
    (r"\.mlp\.experts\.(\d+)\.w2\.", r".mlp.experts.\1.down_proj."),
    (r"\.mlp\.experts\.(\d+)\.w3\.", r".mlp.experts.\1.up_proj."),
    (r"\.mlp\.shared_experts?\.", ".mlp.shared."),
    (r"\.mlp\.shared_expert_gate\.", ".mlp.shared_gate."),
)
_ONE = re.compile(r"(.*\.mlp\.experts)\.(\d+)\.(\w+\.\w+)$")
_EXPERTS = ".mlp.experts."
_GATE_UP = f"{_EXPERTS}gate_up_proj.weight"


def gather_experts(weights: dict[str, mx.array]) -> dict[str, mx.array]:
    """The weights with all experts of a layer in one array, (experts, outputs, inputs), by our names.

    On disk each expert has its own, or one has gate and up side by side, or mlx-lm has put them together.
    """
    weights = rename(weights, _RENAMES)
    split: defaultdict[str, dict[int, str]] = defaultdict(dict)
    for name in weights:
        if match := _ONE.match(name):
            split[f"{match[1]}.{match[3]}"][int(match[2])] = name
    for name, parts in split.items():
        if parts.keys() == set(range(len(parts))) and name not in weights:
            weights[name] = mx.stack([weights.pop(parts[expert]) for expert in range(len(parts))])
    for name in [name for name in weights if name.endswith(_GATE_UP)]:
        gate, up = mx.split(weights.pop(name), 2, axis=1)
        weights |= {name.replace("gate_up_proj", "gate_proj"): gate, name.replace("gate_up_proj", "up_proj"): up}
    return {name: part.reshape(-1) if name.endswith(".correction") else part for name, part in weights.items()}


def own_name(name: str) -> str:
    """What we call one weight, by itself."""
    return next(iter(rename({name: mx.array(0)}, _RENAMES)))


def stack_experts(weights: dict[str, mx.array]) -> dict[str, mx.array]:
    """All experts of a layer in one array by mlx-lm's name, which `gather_experts` knows; other weights as they are."""
    gathered = gather_experts(dict(weights))
    stacked = {name: part for name, part in gathered.items() if _EXPERTS in name}
    others = {name: weight for name, weight in weights.items() if _EXPERTS not in own_name(name)}
    block = "block_sparse_moe" if any(".block_sparse_moe." in name for name in weights) else "mlp"
    return others | {name.replace(_EXPERTS, f".{block}.switch_mlp."): part for name, part in stacked.items()}


def _make_network(width: int, inner: int, act: Activation, *, biased: bool) -> nn.Module:
    gate, up = (nn.Linear(width, inner, bias=biased) for _ in range(2))
    layers = SimpleNamespace(gate_proj=gate, up_proj=up, down_proj=nn.Linear(inner, width, bias=biased))
    return GatedNetwork(layers, act)
