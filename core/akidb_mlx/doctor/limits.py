"""How far a device's numbers may be from exact ones, by the dtype that it computes in."""

from dataclasses import dataclass

__all__ = ["LIMITS", "Limits"]


@dataclass(frozen=True)
class Limits:
    """Errors relative to the largest exact number, from operands that were rounded to the dtype before."""

    products: float
    """float32: up to 2,048 terms summed in any order make 1.3e-6; TF32's operands would make 3e-4.
    16 bits: the result's own rounding (2⁻¹¹, 2⁻⁸) a few times, since kernels may add up parts that were rounded.
    """
    attention: float
    """Twice a product's: the weights between the two products are rounded too."""
    packed: float
    """Twice a product's: the unpacked weight is rounded too."""
    rotary: float
    """float32: exact sines leave 1e-6 at any position; MLX's own base makes 2e-4 at 8,192, Metal's fast sines may
    make 1e-4 at any. 16 bits: as a product.
    """
    elementwise: float
    """float32: our polynomials are off by less than 7e-7 (GELU), 2e-6 (softmax); GELU by tanh would be by 1e-4.
    16 bits: the rounding of a few steps.
    """
    rows: float
    """Of unit length, after two layers; float32: what is promised. 16 bits: as `doctor MODEL` compares rows."""


LIMITS = {
    "float32": Limits(products=5e-6, attention=1e-5, packed=1e-5, rotary=2e-5, elementwise=5e-6, rows=1e-5),
    "float16": Limits(products=4e-3, attention=8e-3, packed=8e-3, rotary=4e-3, elementwise=4e-3, rows=5e-3),
    "bfloat16": Limits(products=3e-2, attention=6e-2, packed=6e-2, rotary=3e-2, elementwise=3e-2, rows=3e-2),
}
