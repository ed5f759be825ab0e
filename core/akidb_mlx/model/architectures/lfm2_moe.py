"""LFM2 with experts (LFM2-8B-A1B): in all layers but the first some, a mixture in the network's place."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import mlx.core as mx

from akidb_mlx.errors import CheckpointError
from akidb_mlx.model.architectures.base import read, rename
from akidb_mlx.model.architectures.decoder_table import Family
from akidb_mlx.model.architectures.lfm2 import FAMILY, Lfm2
from akidb_mlx.model.architectures.mixtures import gather_experts
from akidb_mlx.model.layers.activations import ACTIVATIONS
from akidb_mlx.model.layers.experts import Experts, Mixture, Router

__all__ = ["Lfm2Moe"]

_FIELDS = (
    *("moe_intermediate_size", "norm_topk_prob", "num_dense_layers", "num_experts", "num_experts_per_tok"),
    *("output_router_logits", "routed_scaling_factor", "use_expert_bias"),
)
# mlx-lm's names of a network without experts.
_MLX_LM = (("gate", "w1"), ("up", "w3"), ("down", "w2"))
_RENAMES = (
    *((rf"\.feed_forward\.{theirs}_proj\.", f".feed_forward.{ours}.") for theirs, ours in _MLX_LM),
    (r"\.feed_forward\.expert_bias$", ".mlp.router.correction"),
    (r"\.feed_forward\.(gate|experts|switch_mlp)\.", r".mlp.\1."),
)


class Lfm2Moe(Lfm2):
    """Hidden states of the last layer, normed."""

    family: ClassVar[Family] = replace(FAMILY, known=(*FAMILY.known, *_FIELDS))

    def __init__(self, config: Mapping[str, Any]) -> None:
        """Make the backbone that config.json describes."""
        read(config, "layer_types", list)
        super().__init__({**config, "block_auto_adjust_ff_dim": False})
        for layer in self.layers[read(config, "num_dense_layers", int) :]:
            layer.mlp = _make_mixture(config)

    def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
        """The checkpoint's weights under our names, all experts of a layer in one array."""
        return super().sanitize(gather_experts(rename(weights, _RENAMES)))


def _make_mixture(config: Mapping[str, Any]) -> Mixture:
    width, inner = read(config, "hidden_size", int), read(config, "moe_intermediate_size", int)
    experts, chosen = read(config, "num_experts", int), read(config, "num_experts_per_tok", int)
    if not 0 < chosen <= experts:
        raise CheckpointError(f"config.json: num_experts_per_tok is {chosen}, with {experts} experts")
    router = Router(
        width,
        experts,
        chosen,
        normalise=read(config, "norm_topk_prob", bool),
        corrected=read(config, "use_expert_bias", bool),
        sigmoid=True,
        added=1e-6,
        factor=read(config, "routed_scaling_factor", float),
    )
    return Mixture(router, Experts(width, inner, experts, ACTIVATIONS["silu"], gated=True))
