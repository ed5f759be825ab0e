"""Metal, CUDA or CPU: the one place that decides how to compute."""

import importlib.util
import os
import sys
from dataclasses import dataclass
from typing import Literal

from akidb_mlx import blas
from akidb_mlx.errors import BackendError, ConfigError
from akidb_mlx.shapes import Shapes

__all__ = ["Device", "choose_device", "require_backend"]

_EXTRAS = (
    'MLX has no backend here. On Linux install exactly one: pip install "akidb-mlx[cpu]", '
    '"akidb-mlx[cuda12]" or "akidb-mlx[cuda13]"'
)
# MLX reads them at the first use of the GPU; the user's own win. Plans of attention that are kept (256 by itself), and
# operations that are launched together, where they are small: fewer launches. How much memory they may hold together
# stays MLX's own default: without that bound a large batch's temporaries add up to most of a GPU.
_CUDA = {"MLX_CUDA_SDPA_CACHE_SIZE": "2048", "MLX_MAX_OPS_PER_BUFFER": "100"}


@dataclass(frozen=True)
class Device:
    """Where the model runs and what follows from it."""

    kind: Literal["metal", "cuda", "cpu"]
    name: str
    max_batch_tokens: int
    """Padded tokens of a batch that fill the device."""
    shapes: Shapes
    """What batches are padded to: few shapes suit a GPU, little padding a CPU."""
    cache_limit_mb: int
    """Freed memory that MLX may keep for reuse."""
    survives_fork: bool
    full_batch_ms: int = 60
    """What a batch takes that fills the device, while no queries are about."""
    cpu_lanes: int = 0
    """Batches that compute at the same time, each on a core; 0 on a GPU.

    MLX's CPU build computes all but products of matrices on one core: a batch on each of two cores saves more than
    two threads in the BLAS, and a busy neighbour slows one of them only.
    """

    def dtype(self, stored: str, requested: str | None) -> str:
        """The dtype to compute in: as requested, else as stored on a GPU; float32 on the CPU.

        MLX's CPU build multiplies 16-bit floats 40 times slower than 32-bit ones, which go through a BLAS.
        """
        if requested is not None:
            return requested
        return "float32" if self.kind == "cpu" else stored

    @property
    def keeps_quantization(self) -> bool:
        """Whether quantised weights stay as they are; the CPU multiplies them ten times slower than float32."""
        return self.kind != "cpu"


def require_backend() -> None:
    """Raise BackendError unless MLX can be imported with a backend."""
    if importlib.util.find_spec("mlx") is None:
        raise BackendError(_EXTRAS if sys.platform == "linux" else "MLX is not installed: pip install mlx")
    try:
        import mlx.core  # noqa: F401
    except ImportError as error:
        raise BackendError(f"{_EXTRAS} ({error})" if sys.platform == "linux" else f"MLX: {error}") from None


def choose_device(requested: Literal["gpu", "cpu"] | None = None) -> Device:
    """The GPU where there is one, unless the CPU is asked for."""
    require_backend()
    import mlx.core as mx

    metal = mx.metal.is_available()
    gpu = metal or mx.is_available(mx.gpu)
    if requested == "gpu" and not gpu:
        raise ConfigError('device is "gpu", but MLX finds none here; leave the setting out or set "cpu"')
    if requested == "cpu" or not gpu:
        name = str(mx.device_info(mx.cpu).get("device_name", "CPU"))
        return Device("cpu", name, 1024, Shapes(32), cache_limit_mb=512, survives_fork=True, cpu_lanes=blas.threads())
    name = str(mx.device_info(mx.gpu).get("device_name", "GPU"))
    if metal:
        return Device("metal", name, 16_384, Shapes(16), cache_limit_mb=2048, survives_fork=False)
    for variable, value in _CUDA.items():
        os.environ.setdefault(variable, value)
    # For each new shape of attention cuDNN plans for 35 to 90 ms, now and then for a second.
    shapes = Shapes(16, length_multiple=8, full_tokens=65_536, small_tokens=1024)
    return Device("cuda", name, 65_536, shapes, cache_limit_mb=8192, survives_fork=False, full_batch_ms=100)
