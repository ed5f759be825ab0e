"""Ways to compute that may be faster on a user's machine, off unless AKIDB_TUNING names them.

None changes what is computed beyond the last bits. `akidb-mlx bench MODEL --compare` measures each.
"""

import functools
import os
from typing import Final

from akidb_mlx.errors import ConfigError

__all__ = ["FUSED_HEAD", "KERNELS", "RESIDENT", "TUNINGS", "VARIABLE", "is_on", "keep_resident", "prepare"]

VARIABLE: Final = "AKIDB_TUNING"
FUSED_HEAD: Final = 64
"""Channels of a head from which on Metal's fused attention has kernels."""
RESIDENT: Final = "resident"
KERNELS: Final = "kernels"
TUNINGS: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "pad_heads": ("attention heads of fewer than 64 channels are padded to 64", ("metal", "cuda")),
    "joint_rope": ("rotary positions turn queries and keys in one go, without copies", ("metal", "cuda")),
    KERNELS: ("sums with norms, GELU, gates, means and rotary positions by kernels of our own", ("cuda",)),
    RESIDENT: ("macOS keeps the weights in the GPU's memory between calls", ("metal",)),
}
"""Name → what it does, and the kinds of devices where it may help."""
# How often MLX tells macOS that the weights are still wanted (milliseconds); what the user has set wins.
_REFRESH = {"MLX_METAL_RESIDENCY_REFRESH_INTERVAL_MS": "1000"}


@functools.cache
def _on() -> frozenset[str]:
    said = frozenset(name.strip() for name in os.environ.get(VARIABLE, "").split(",") if name.strip())
    if unknown := sorted(said - TUNINGS.keys()):
        raise ConfigError(f"{VARIABLE} names {', '.join(unknown)}; it may name {', '.join(TUNINGS)}")
    return said


def is_on(name: str) -> bool:
    """Whether the variable named it when it was first asked for; ConfigError where that names what is none."""
    return name in _on()


def prepare(kind: str) -> None:
    """Before MLX first uses a device of this kind."""
    if is_on(RESIDENT) and kind == "metal":
        for variable, value in _REFRESH.items():
            os.environ.setdefault(variable, value)


def keep_resident(weights: int) -> None:
    """Have macOS keep so many bytes of this process in the GPU's memory, within what it recommends."""
    import mlx.core as mx

    most = int(mx.device_info(mx.gpu)["max_recommended_working_set_size"])
    mx.set_wired_limit(min(weights, most))
