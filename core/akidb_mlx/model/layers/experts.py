"""Mixtures of experts (Shazeer et al. 2017, arXiv:1701.06538): each token goes through a few of many networks."""

from collections.abc import Callable
from functools import partial
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from numpy.typing import NDArray

from akidb_mlx.model.layers import cpu_kernels
from akidb_mlx.model.layers.activations import Activation

__all__ = ["ExpertLinear", "Experts", "Mixture", "Router"]

_ROWS = 512  # of one expert that the CPU computes at a time


class Router(nn.Module):
    """Which experts a token goes to, and how much each counts.

    Always in float32 and never quantised: two experts are often nearly equal, and another choice is another vector.
    """

    def __init__(
        self,
        width: int,
        experts: int,
        chosen: int,
        *,
        normalise: bool,
        corrected: bool = False,
        least: float = 0.0,
        sigmoid: bool = False,
        added: float = 0.0,
        factor: float = 1.0,
    ) -> None:
        """Make one that chooses `chosen` of `experts` by the greatest softmax, of equal ones the first.

        `normalise`: divide those chosen by their sum, or by `least` where that is more. `corrected`: a bias of each
        expert that counts in the choice alone (Wang et al. 2024, arXiv:2408.15664). `sigmoid`: of each score, in the
        softmax's place; `added`: to the sum that they are divided by; `factor`: of them all, at last.
        """
        super().__init__()
        self.weight = mx.zeros((experts, width))
        if corrected:
            self.correction = mx.zeros((experts,))
        self.chosen, self._normalise, self._least = chosen, normalise, least
        self._sigmoid, self._added, self._factor = sigmoid, added, factor

    def __call__(self, x: mx.array) -> tuple[mx.array, mx.array]:
        """(tokens, width) → the experts and their float32 weights, both (tokens, chosen)."""
        scores = x.astype(mx.float32) @ self.weight.T
        weights = mx.sigmoid(scores) if self._sigmoid else mx.softmax(scores, axis=-1)
        ranked = weights + self.correction if "correction" in self else weights
        experts = mx.argsort(-ranked, axis=-1)[:, : self.chosen]
        weights = mx.take_along_axis(weights, experts, axis=-1)
        if self._normalise:
            weights = weights / (mx.maximum(weights.sum(axis=-1, keepdims=True), self._least) + self._added)
        return experts, weights * self._factor


class ExpertLinear(nn.Module):
    """A linear layer of each expert, without bias."""

    def __init__(self, width: int, outputs: int, experts: int) -> None:
        """Make `experts` layers of these widths."""
        super().__init__()
        self.weight = mx.zeros((experts, outputs, width))

    def sorted(self, x: mx.array, experts: mx.array) -> mx.array:
        """(n, 1, width) and the expert of each, (n,) in rising order → (n, 1, outputs)."""
        # On CUDA MLX 0.32.4 multiplies sorted float32 rows as TF32.
        exact = x.dtype != mx.float32 or mx.metal.is_available()
        return mx.gather_mm(x, self.weight.swapaxes(-1, -2), rhs_indices=experts, sorted_indices=exact)

    def one(self, x: mx.array, expert: int) -> mx.array:
        """(n, width) → (n, outputs), all by one expert."""
        product: mx.array = x @ self.weight[expert, ...].T  # a view; without the dots it would be a copy
        return product

    def to_quantized(self, group_size: int, bits: int, mode: str = "affine") -> "PackedExpertLinear":
        """The same packed; `nn.quantize` asks for it."""
        return PackedExpertLinear(self.weight, group_size, bits, mode)


class PackedExpertLinear(nn.Module):
    """The same with packed weights."""

    def __init__(self, weight: mx.array, group_size: int, bits: int, mode: str) -> None:
        """Pack (experts, outputs, width)."""
        super().__init__()
        self.weight, self.scales, *biases = mx.quantize(weight, group_size, bits, mode=mode)
        self.biases = biases[0] if biases else None
        self._packing: dict[str, Any] = {"group_size": group_size, "bits": bits, "mode": mode}

    def sorted(self, x: mx.array, experts: mx.array) -> mx.array:
        """As `ExpertLinear.sorted`."""
        parts = (self.weight, self.scales, self.get("biases"))
        return mx.gather_qmm(x, *parts, rhs_indices=experts, transpose=True, sorted_indices=True, **self._packing)

    def one(self, x: mx.array, expert: int) -> mx.array:
        """As `ExpertLinear.one`."""
        biases = self.get("biases")
        weight, scales = self.weight[expert, ...], self.scales[expert, ...]  # views, as above
        parts = (weight, scales, None if biases is None else biases[expert, ...])
        return mx.quantized_matmul(x, *parts, transpose=True, **self._packing)


class Experts(nn.Module):
    """The networks: `down(activation(gate) × up)`, or `down(activation(up))` without a gate."""

    def __init__(self, width: int, inner: int, experts: int, act: Activation, *, gated: bool) -> None:
        """Make `experts` networks with `inner` channels between."""
        super().__init__()
        if gated:
            self.gate_proj = ExpertLinear(width, inner, experts)
        self.up_proj = ExpertLinear(width, inner, experts)
        self.down_proj = ExpertLinear(inner, width, experts)
        self._activation = act

    def __call__(self, x: mx.array, experts: mx.array) -> mx.array:
        """(tokens, width) and each token's experts, (tokens, chosen) → what each gives, (tokens, chosen, width)."""
        return self.by_expert(x, experts) if mx.default_device() == mx.cpu else self.gathered(x, experts)

    def gathered(self, x: mx.array, experts: mx.array) -> mx.array:
        """All in three products that gather their matrices, as fits a GPU, which then need not tell the host."""
        chosen, flat = experts.shape[1], experts.flatten()
        order = mx.argsort(flat)
        flat = flat[order]
        # Contiguous: MLX 0.32.4 reads other rows of a view with a new axis on CUDA.
        rows = mx.contiguous(x[order // chosen][:, None])
        given = self._network(rows, lambda layer, x: layer.sorted(x, flat))[:, 0]
        return given[mx.argsort(order)].reshape(*experts.shape, -1)

    def by_expert(self, x: mx.array, experts: mx.array) -> mx.array:
        """Expert by expert, as fits the CPU: of MLX's products there only the plain ones go through a BLAS."""
        flat = np.array(experts).ravel()
        order = np.argsort(flat, kind="stable")
        tokens, ends = order // experts.shape[1], np.cumsum(np.bincount(flat))
        given, start = [], 0
        for expert, end in enumerate(ends.tolist()):
            while start < end:
                stop = min(start + _ROWS, end)
                rows = x[mx.array(tokens[start:stop])]
                given.append(self._network(rows, partial(_multiply, expert)))
                mx.eval(given[-1])
                start = stop
        return mx.concatenate(given)[mx.array(_places(order))].reshape(*experts.shape, -1)

    def _network(self, x: mx.array, multiply: Callable[[Any, mx.array], mx.array]) -> mx.array:
        up = multiply(self.up_proj, x)
        inner = self._activation(multiply(self.gate_proj, x)) * up if "gate_proj" in self else self._activation(up)
        return multiply(self.down_proj, inner)


class Mixture(nn.Module):
    """The sum of what the chosen experts give, times their weights; a network for all tokens may be added."""

    def __init__(self, router: Router, experts: Experts, *, bias: int | None = None) -> None:
        """Put them together; `bias`: the width of one that is added to the sum."""
        super().__init__()
        self.router, self.experts = router, experts
        if bias is not None:
            self.bias = mx.zeros((bias,))

    def share(self, network: nn.Module, width: int, *, gated: bool) -> None:
        """Add a network that every token goes through; `gated`: times the sigmoid of a product with the token."""
        self.shared = network
        if gated:
            self.shared_gate = nn.Linear(width, 1, bias=False)

    @property
    def channels(self) -> int:
        """Numbers per token at the peak: its copies for the chosen experts, and what those give."""
        products = sum(layer.weight.shape[1] for layer in self.experts.children().values())
        return self.router.chosen * (products + self.router.weight.shape[1])

    def __call__(self, x: mx.array) -> mx.array:
        """(rows, length, width) → the same shape."""
        return cpu_kernels.in_blocks(self._of_block, x)

    def _of_block(self, x: mx.array) -> mx.array:
        tokens = x.reshape(-1, x.shape[-1])
        experts, weights = self.router(tokens)
        given = (self.experts(tokens, experts) * weights[..., None]).sum(axis=1).astype(x.dtype).reshape(x.shape)
        if "bias" in self:
            given = given + self.bias
        if "shared" in self:
            shared = self.shared(x)
            given = given + (mx.sigmoid(self.shared_gate(x)) * shared if "shared_gate" in self else shared)
        return given


def _multiply(expert: int, layer: ExpertLinear | PackedExpertLinear, x: mx.array) -> mx.array:
    return layer.one(x, expert)


def _places(order: NDArray[np.intp]) -> NDArray[np.intp]:
    """Where each went."""
    places = np.empty_like(order)
    places[order] = np.arange(len(order))
    return places
