"""GELU and attention for MLX's CPU build, whose transcendental functions are scalar and take half of a forward.

Both first let the device catch up: MLX holds a thread while some hundred operations of all threads wait, so that one
that runs far ahead keeps the others' cores idle, and a query beside a batch of documents waits three times as long.

Both replace exp by a polynomial raised to a power of two, which are products and sums that the compiler
vectorises. The form is that of Abramowitz and Stegun 7.1.28; the coefficients were fitted for float32.
Measured over all inputs: GELU is off by less than 7e-7, exp(-t) by less than 2e-6.
"""

import mlx.core as mx

__all__ = ["attention", "catch_up", "computes_on_cpu", "gelu"]

_ERFC = (2.493349620e-02, 1.025834867e-02, 1.390520472e-03, -8.002941808e-05, 1.986555028e-05)
_EXP = (6.24998885e-02, 1.95349206e-03, 4.03714436e-05, 7.29524419e-07)


def computes_on_cpu(x: mx.array) -> bool:
    """Whether these kernels serve: float32 on the CPU."""
    return x.dtype == mx.float32 and mx.default_device() == mx.cpu


def catch_up(*arrays: mx.array) -> None:
    """On the CPU, wait until these are computed; call it twice or so a layer."""
    if computes_on_cpu(arrays[0]):
        mx.eval(*arrays)


def gelu(x: mx.array) -> mx.array:
    """`x × Φ(x)`, exact GELU: with erfc(|x| / √2) = 1 / p(|x|)³² it is (x + |x| - |x| erfc) / 2."""
    catch_up(x)
    size = mx.abs(x)
    return (x + size - size / _power(size, _ERFC, 5)) * 0.5


def attention(queries: mx.array, keys: mx.array, values: mx.array, mask: mx.array | None, scale: float) -> mx.array:
    """Softmax attention over (rows, heads, length, head_dim) with as many keys' heads as queries'.

    `mask` is True where a token sees another, or is added to the scores.
    """
    catch_up(queries, keys, values)
    scores = (queries * scale) @ keys.swapaxes(-1, -2)
    if mask is not None:
        scores = mx.where(mask, scores, -mx.inf) if mask.dtype == mx.bool_ else scores + mask
    weights = 1.0 / _power(mx.max(scores, axis=-1, keepdims=True) - scores, _EXP, 4)
    # The sum as a product of matrices, which a tuned BLAS does on vectors; MLX's own is scalar.
    return (weights @ values) / (weights @ mx.ones((weights.shape[-1], 1)))


def _power(x: mx.array, coefficients: tuple[float, ...], squarings: int) -> mx.array:
    """`(1 + c₀x + c₁x² + …) ** (2 ** squarings)`; infinite where that is beyond float32."""
    polynomial = x * coefficients[-1]
    for coefficient in coefficients[-2::-1]:
        polynomial = (polynomial + coefficient) * x
    polynomial = polynomial + 1.0
    for _ in range(squarings):
        polynomial = mx.square(polynomial)
    return polynomial
