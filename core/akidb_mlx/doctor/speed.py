"""A few figures of the device's speed; they inform, nothing is judged by them."""

import time
from collections.abc import Callable

import mlx.core as mx

from akidb_mlx.device.choice import Device
from akidb_mlx.doctor.findings import Outcome
from akidb_mlx.doctor.limits import LIMITS
from akidb_mlx.model.layers.attention import attend

__all__ = ["FIGURES"]

_SIDES = {"metal": 4096, "cuda": 4096, "cpu": 256}
_ROWS = {"metal": 64, "cuda": 64, "cpu": 2}
_LEAST_S = 0.2
_REST_S = 5.0


def _product_rates(device: Device) -> Outcome:
    """Products of square matrices, by dtype."""
    size = _SIDES[device.kind]
    rates = []
    for dtype in LIMITS:
        a, b = (mx.random.normal((size, size)).astype(getattr(mx, dtype)) for _ in range(2))
        seconds = _seconds(lambda a=a, b=b: a @ b)  # type: ignore[misc]
        rates.append(f"{dtype} {2 * size**3 / seconds / 1e12:.3g}")
    return None, f"{', '.join(rates)} TFLOP/s at {size} × {size}"


def _attention_by_head(device: Device) -> Outcome:
    """Whether heads of 32 take longer than half of heads of 64: then they are not fused."""
    rows = _ROWS[device.kind]
    dtype = getattr(mx, device.dtype("float16", None))
    times = []
    for head in (32, 64):
        x = mx.random.normal((rows, 12, 256, head)).astype(dtype)
        times.append(_seconds(lambda x=x: attend(x, x, x, None, 1.0)))  # type: ignore[misc]
    return None, f"heads of 32 take {times[0] / times[1]:.2f} of the time of heads of 64"


def _after_a_rest(device: Device) -> Outcome:
    """One small operation when the device is busy, and after some seconds of rest."""
    if device.kind == "cpu":
        return None, "a CPU does not fall asleep"
    x = mx.ones((1, 384))
    busy = _seconds(lambda: x @ x.T)
    time.sleep(_REST_S)
    began = time.perf_counter()
    mx.eval(x @ x.T)
    rested = time.perf_counter() - began
    return None, f"a small operation takes {busy * 1e3:.2f} ms, after {_REST_S:.0f} s of rest {rested * 1e3:.2f} ms"


def _seconds(work: Callable[[], mx.array]) -> float:
    """Seconds a call, over a fifth of a second, after the first."""
    mx.eval(work())
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < _LEAST_S:
        mx.eval(work())
        count += 1
    return (time.perf_counter() - began) / count


FIGURES: dict[str, Callable[[Device], Outcome]] = {
    "speed of products": _product_rates,
    "speed of attention": _attention_by_head,
    "speed after a rest": _after_a_rest,
}
