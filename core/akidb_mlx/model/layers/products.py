"""Linear layers as MLX computes them with the fewest operations."""

from typing import Any, Self

import mlx.core as mx
import mlx.nn as nn

__all__ = ["Product", "add_product", "settle_products"]

_ACROSS = "_across"  # not a parameter, by its name


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
        made[_ACROSS] = linear.weight.T
        return made

    def __call__(self, x: mx.array) -> mx.array:
        """(…, in) → (…, out)."""
        bias = self.get("bias")  # as items, for attributes of a module take longer than the product takes to start
        return x @ self[_ACROSS] if bias is None else mx.addmm(bias, x, self[_ACROSS])


def add_product(x: mx.array, layer: nn.Module, y: mx.array) -> mx.array:
    """`x + layer(y)` of the same shape; of (tokens, width) in one operation where the layer has no bias."""
    if isinstance(layer, Product) and x.ndim == 2 and "bias" not in layer:
        return mx.addmm(x, y, layer[_ACROSS])
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
        made.append(product[_ACROSS])
        return product

    for parent in model.modules():
        for name, part in list(parent.items()):
            if isinstance(part, list) or type(part) is nn.Linear:
                parent[name] = settled(part)
    mx.eval(made)  # views that nobody has made yet would belong to one thread's stream
