"""Linear layers as MLX computes them with the fewest operations."""

from typing import Any, Self

import mlx.core as mx
import mlx.nn as nn

__all__ = ["Product", "add_product", "settle_products"]


class Product(nn.Linear):
    """nn.Linear that keeps the view of its weight that products want, (in, out); it takes no memory."""

    @classmethod
    def of(cls, linear: nn.Linear) -> Self:
        """Share a layer's weights, which are there."""
        made = cls.__new__(cls)
        nn.Module.__init__(made)
        for name in ("weight", "bias"):
            if name in linear:
                made[name] = linear[name]
        made._across = linear.weight.T  # not a parameter, by its name
        return made

    def __call__(self, x: mx.array) -> mx.array:
        """(…, in) → (…, out)."""
        return mx.addmm(self.bias, x, self._across) if "bias" in self else x @ self._across


def add_product(x: mx.array, layer: nn.Module, y: mx.array) -> mx.array:
    """`x + layer(y)` of the same shape; of (tokens, width) in one operation where the layer has no bias."""
    if isinstance(layer, Product) and x.ndim == 2 and "bias" not in layer:
        return mx.addmm(x, y, layer._across)
    added: mx.array = x + layer(y)
    return added


def settle_products(model: nn.Module) -> None:
    """Once the weights are there: have each nn.Linear keep its view."""
    made: list[mx.array] = []

    def settled(part: Any) -> Any:
        if isinstance(part, list):
            return [settled(one) for one in part]
        if type(part) is not nn.Linear:
            return part
        product = Product.of(part)
        made.append(product._across)
        return product

    for parent in model.modules():
        for name, part in list(parent.items()):
            if isinstance(part, list) or type(part) is nn.Linear:
                parent[name] = settled(part)
    mx.eval(made)  # views that nobody has made yet would belong to one thread's stream
