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

    A panel is read once from one end to the other. It has the memory of the layer that it is made of.
    """

    def __init__(self, layer: nn.Linear) -> None:
        """Lay the weight of `layer` out anew."""
        super().__init__()
        outputs, inputs = layer.weight.shape
        width = panel_width(outputs, inputs)
        self.weight = mx.contiguous(layer.weight.reshape(outputs // width, width, inputs).swapaxes(1, 2))
        self.bias = layer.bias

    def __call__(self, x: mx.array) -> mx.array:
        """(…, inputs) → (…, outputs)."""
        inputs = self.weight.shape[1]
        weight = self.weight.swapaxes(0, 1).reshape(inputs, -1)
        return mx.addmm(self.bias, x, weight)


def panel_width(outputs: int, inputs: int) -> int:
    """Outputs of one panel: so few that products of a short text need no packing, but vectors of full width."""
    most = min(_MOST, max(_LEAST, _UNPACKED // (_SHORT * inputs)))
    width = next(width for width in range(most, 0, -1) if outputs % width == 0)
    return width if width >= min(_LEAST // 2, outputs) else outputs
