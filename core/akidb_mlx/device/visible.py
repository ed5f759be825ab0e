"""Which GPUs a process would see, asked of the driver: for a process that never opens one itself."""

import ctypes
import os
from collections.abc import Callable
from importlib.metadata import distributions

__all__ = ["CUDA_VARIABLE", "visible_gpus"]

CUDA_VARIABLE = "CUDA_VISIBLE_DEVICES"
_BUILDS = ("mlx-cuda", "mlx_cuda")


def visible_gpus(count: "Callable[[], int] | None" = None) -> list[str]:
    """What CUDA_VISIBLE_DEVICES calls each GPU that MLX may use here; none without CUDA, also on a Mac."""
    if not any(str(one.metadata["Name"]).startswith(_BUILDS) for one in distributions()):
        return []
    there = (count or _count)()
    said = os.environ.get(CUDA_VARIABLE)
    names = [str(number) for number in range(there)] if said is None else [name.strip() for name in said.split(",")]
    return names[:there]


def _count() -> int:
    """By the driver, which reads CUDA_VISIBLE_DEVICES itself; no GPU is opened."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    number = ctypes.c_int(0)
    if cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(number)):
        return 0
    return number.value
