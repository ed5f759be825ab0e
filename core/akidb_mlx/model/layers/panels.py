"""A linear layer whose weight lies as the CPU's products read it."""

import mlx.core as mx
import mlx.nn as nn

__all__ = ["PanelLinear", "panel_width"]

# OpenBLAS multiplies without packing its operands anew each time where rows × inputs × outputs is less than this;
# products of a short text's tokens stay under it.
_UNPACKED, _SHORT = 1_000_000, 20
_LEAST, _MOST = 32, 64


class PanelLinear(nn.Module):
    """`x @ weight.T + bias`, the weight cut into panels of some outputs each, (panels, inputs, outputs of one).

    A panel is read once from one end to the other, by few tokens. Of many tokens the BLAS makes a copy of its own for
    each panel: they are faster with the weight as it was, which is kept beside the panels where `whole` says so.
    """

    def __init__(self, layer: nn.Linear, *, whole: bool) -> None:
        """Lay the weight of `layer` out anew; without `whole` that takes no more memory."""
        super().__init__()
        outputs, inputs = layer.weight.shape
        width = panel_width(outputs, inputs)
        self.weight = mx.contiguous(layer.weight.reshape(outputs // width, width, inputs).swapaxes(1, 2))
        self.bias = layer.bias
        if whole:
            self.whole = layer.weight

    def __call__(self, x: mx.array) -> mx.array:
        """(…, inputs) → (…, outputs)."""
        if "whole" in self:
            return mx.addmm(self.bias, x, self.whole.T)
        inputs = self.weight.shape[1]
        return mx.addmm(self.bias, x, self.weight.swapaxes(0, 1).reshape(inputs, -1))


def panel_width(outputs: int, inputs: int) -> int:
    """Outputs of one panel: so few that products of a short text need no packing, but vectors of full width."""
    most = min(_MOST, max(_LEAST, _UNPACKED // (_SHORT * inputs)))
    width = next(width for width in range(most, 0, -1) if outputs % width == 0)
    return width if width >= min(_LEAST // 2, outputs) else outputs
