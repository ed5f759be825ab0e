"""A linear layer whose weight lies as the CPU's products read it."""

import mlx.core as mx
import mlx.nn as nn

__all__ = ["PanelLinear"]

_MOST, _LEAST = 64, 16  # outputs of a panel: vectors of full width; fewer waste most of a product


class PanelLinear(nn.Module):
    """`x @ weight.T + bias`, the weight cut into panels of some outputs each, (panels, inputs, outputs of one).

    A panel is read once from one end to the other. The layer takes the memory of the one that it is made of.
    """

    def __init__(self, layer: nn.Linear) -> None:
        """Lay the weight of `layer` out anew."""
        super().__init__()
        outputs, inputs = layer.weight.shape
        width = next(width for width in range(_MOST, 0, -1) if outputs % width == 0)
        width = width if width >= min(_LEAST, outputs) else outputs
        self.weight = mx.contiguous(layer.weight.reshape(outputs // width, width, inputs).swapaxes(1, 2))
        self.bias = layer.bias

    def __call__(self, x: mx.array) -> mx.array:
        """(…, inputs) → (…, outputs)."""
        inputs = self.weight.shape[1]
        return mx.addmm(self.bias, x, self.weight.swapaxes(0, 1).reshape(inputs, -1))
