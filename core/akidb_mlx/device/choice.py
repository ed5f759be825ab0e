"""Metal, CUDA or CPU: the one place that decides how to compute."""

import contextlib
import functools
import importlib.util
import logging
import os
import re
import sys
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

from akidb_mlx.device import tuning
from akidb_mlx.device.cache_folder import cache_folder
from akidb_mlx.device.cores import CORES_OF_A_PROCESS, available_cores
from akidb_mlx.device.memory import Memory, Room, Taken, measure_host
from akidb_mlx.device.shapes import Shapes
from akidb_mlx.errors import BackendError, ConfigError

__all__ = ["FORKED", "Device", "choose_device", "require_backend"]

_log = logging.getLogger(__name__)
_EXTRAS = (
    'MLX has no backend here. On Linux install exactly one: pip install "akidb-mlx[cpu]", '
    '"akidb-mlx[cuda12]" or "akidb-mlx[cuda13]"'
)
FORKED = (
    "this process was forked from one that uses the GPU, which a child cannot share; "
    'start it with multiprocessing\'s "spawn", or fork before the first model is loaded'
)
_NO_METAL = (
    "MLX finds no Metal device on this Mac, and without one its macOS build cannot compute on the CPU either. "
    "A virtual machine or a sandbox may hide the GPU; Python must be the native (arm64) one"
)
# MLX reads these at the first use of the GPU; what the user has set wins.
# float32 is float32: MLX's own default are products with 10 bits (TF32) on Macs from M5 on and on CUDA.
_GPU = {"MLX_ENABLE_TF32": "0"}
# Plans of attention that are kept (256 by itself) and graphs (400): a model has some hundred shapes. MLX raises once a
# cache was missed twice as often as it is large, which a server that runs for long always reaches. Operations that are
# launched together, where they are small: fewer launches. How much memory they may hold together stays MLX's own
# default: without that bound a large batch's temporaries add up to most of a GPU.
_CUDA = {
    "MLX_CUDA_SDPA_CACHE_SIZE": "2048",
    "MLX_CUDA_GRAPH_CACHE_SIZE": "2048",
    "MLX_ENABLE_CACHE_THRASHING_CHECK": "0",
    "MLX_MAX_OPS_PER_BUFFER": "100",
}
_MIB = 2**20
# GPU memory that batches leave to CUDA itself, for kernels that are loaded when first used, graphs, cuBLAS and cuDNN:
# where CUDA finds none for them its context is lost.
_CUDA_OWN = 512 * _MIB
_MOST_PROCESSES = 4
_NO_GPU_MEMORY = (
    "MLX could not open the GPU ({error}): its memory is taken. Close other programs that use it, or use another GPU "
    "(CUDA_VISIBLE_DEVICES), and start this process again"
)


@dataclass(frozen=True)
class Device:
    """Where the model runs and what follows from it."""

    kind: Literal["metal", "cuda", "cpu"]
    name: str
    max_batch_tokens: int
    """Padded tokens of a batch that fill the device."""
    shapes: Shapes
    """What batches are padded to: few shapes suit a GPU, little padding a CPU."""
    cache_limit_mb: int | None
    """Freed memory that MLX may keep for reuse after a batch; None for as much as it does by itself."""
    survives_fork: bool
    full_batch_ms: int = 60
    """What a batch takes that fills the device, while no queries wait (milliseconds)."""
    cpu_lanes: int = 0
    """Batches that compute at the same time, each on a core; 0 on a GPU.

    MLX's CPU build computes all but products of matrices on one core: a batch on each of two cores saves more than
    two threads in the BLAS, and a busy neighbour slows one of them only.
    """
    first_batch_tokens: int | None = None
    """Padded tokens of a batch until the device's speed is known; None for as many as fill it."""
    plans_shapes: bool = False
    """Whether kernels are planned anew for each shape, so that a shape's first batch says nothing of the speed."""
    max_queued_tokens: int = 1_000_000
    """Tokens that may wait for it; batches are filled from them."""
    tokenizer_processes: int = 0
    """That cut texts into tokens beside this one, where the device is so fast that Python's lock holds it up."""
    memory: Memory = field(default_factory=lambda: Memory(measure_host), compare=False, repr=False)
    """What its batches may take; one for all models on it."""

    def dtype(self, stored: str, requested: str | None) -> str:
        """The dtype to compute in: as requested, else as stored on a GPU; float32 on the CPU.

        MLX's CPU build multiplies 16-bit floats 40 times slower than 32-bit ones, which go through a BLAS.
        """
        if requested is not None:
            return requested
        return "float32" if self.kind == "cpu" else stored

    def stream(self) -> contextlib.AbstractContextManager[object]:
        """Where its work is done, for a `with` on the thread that does it; for a GPU MLX's default."""
        if self.kind != "cpu":
            return contextlib.nullcontext()
        import mlx.core as mx

        return mx.stream(mx.cpu)

    @property
    def keeps_quantization(self) -> bool:
        """Whether quantised weights stay as they are; the CPU multiplies them ten times slower than float32."""
        return self.kind != "cpu"


def require_backend() -> None:
    """Raise BackendError unless MLX can be imported with a backend that starts."""
    if importlib.util.find_spec("mlx") is None:
        raise BackendError(_EXTRAS if sys.platform == "linux" else "MLX is not installed: pip install mlx")
    try:
        import mlx.core  # noqa: F401
    except ImportError as error:
        if "out of memory" in str(error):
            raise BackendError(_NO_GPU_MEMORY.format(error=error)) from None
        raise BackendError(f"{_EXTRAS} ({error})" if sys.platform == "linux" else f"MLX: {error}") from None


def choose_device(requested: Literal["gpu", "cpu"] | None = None, memory_limit_mb: int | None = None) -> Device:
    """The GPU where there is one, unless the CPU is asked for; `memory_limit_mb` overrules what it may take.

    Raises:
        BackendError: MLX is missing, has no backend or sees no Metal device on a Mac; a forked child of a process
            that uses a GPU.
        ConfigError: a GPU is asked for and there is none.
    """
    require_backend()
    import mlx.core as mx

    for variable, value in _GPU.items():
        os.environ.setdefault(variable, value)
    metal = mx.metal.is_available()  # only whether MLX was built for Metal
    gpu = mx.is_available(mx.gpu)
    if metal and not gpu:
        raise BackendError(_NO_METAL)
    if requested == "gpu" and not gpu:
        raise ConfigError('device is "gpu", but MLX finds none here; leave the setting out or set "cpu"')
    if gpu:
        _refuse_forked()
    tuning.prepare("metal" if metal else "cuda" if gpu else "cpu")
    if requested == "cpu" or not gpu:
        return _cpu(_memory("cpu", memory_limit_mb), beside_gpu=gpu)
    return _metal(_memory("metal", memory_limit_mb)) if metal else _cuda(_memory("cuda", memory_limit_mb))


def _cpu(memory: Memory, *, beside_gpu: bool) -> Device:
    """The CPU. In a build for GPUs arrays lie in the GPU's buffers, and MLX has one default device per process.

    There one thread computes, so that the default is changed and restored in order.
    """
    import mlx.core as mx

    name = str(mx.device_info(mx.cpu).get("device_name", "CPU"))
    lanes = 1 if beside_gpu else available_cores()
    return Device("cpu", name, 1024, Shapes(32), None, survives_fork=not beside_gpu, cpu_lanes=lanes, memory=memory)


def _metal(memory: Memory) -> Device:
    import mlx.core as mx

    facts = mx.device_info(mx.gpu)
    # Macs have 8 to 512 GB: a sixteenth of it, within bounds.
    cache = min(max(int(facts["memory_size"]) // 16 // _MIB, 512), 4096)
    return Device(
        "metal",
        str(facts.get("device_name", "GPU")),
        16_384,
        Shapes(16),
        cache,
        survives_fork=False,
        first_batch_tokens=1024,  # a tenth of a second to a second on the slowest Macs, by model
        memory=memory,
    )


def _cuda(memory: Memory) -> Device:
    import mlx.core as mx

    for variable, value in _CUDA.items():
        os.environ.setdefault(variable, value)
    name = str(mx.device_info(mx.gpu).get("device_name", "GPU"))
    _keep_kernels(name)
    # For each new shape of attention cuDNN plans for 35 to 90 ms, now and then for a second.
    shapes = Shapes(16, length_multiple=8, full_tokens=65_536, small_tokens=1024)
    return Device(
        "cuda",
        name,
        65_536,
        shapes,
        8192,
        survives_fork=False,
        full_batch_ms=100,
        plans_shapes=True,
        max_queued_tokens=4_000_000,
        tokenizer_processes=min(_MOST_PROCESSES, available_cores() // CORES_OF_A_PROCESS),
        memory=memory,
    )


def _keep_kernels(gpu: str) -> None:
    """Have MLX keep the kernels that it compiles in the user's cache folder: its own place is a temporary one.

    MLX finds them by name alone, so each of its versions and each kind of GPU has a folder.
    """
    variable = "MLX_PTX_CACHE_DIR"
    if variable in os.environ:
        return
    with contextlib.suppress(OSError, PackageNotFoundError):
        folder = cache_folder() / "kernels" / version("mlx") / re.sub(r"\W+", "-", gpu)
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            os.environ[variable] = str(folder)


def _measure_metal() -> Room:
    """What macOS recommends for the GPU, less MLX's arrays; what other programs take is not told."""
    import mlx.core as mx

    total = int(mx.device_info(mx.gpu)["max_recommended_working_set_size"])
    left = max(0, total - mx.get_active_memory())
    return Room(left, left, f"{total / 1e9:.1f} GB that macOS recommends for the GPU")


def _measure_cuda() -> Room:
    import mlx.core as mx

    facts = mx.device_info(mx.gpu)
    total, cached = int(facts["total_memory"]), mx.get_cache_memory()
    own_left = int(facts["free_memory"]) - _CUDA_OWN
    free = own_left + cached if own_left > 0 else 0
    possible = max(free, total - mx.get_active_memory() - _CUDA_OWN)
    return Room(possible, free, f"{total / 1e9:.1f} GB of GPU memory")


_MEASURES = {"cpu": measure_host, "metal": _measure_metal, "cuda": _measure_cuda}


@functools.cache
def _taken(kind: str) -> Taken:
    """One count for all models on a device: a limit counts those that were loaded with another one too."""
    return Taken()


@functools.cache
def _memory(kind: str, limit_mb: int | None) -> Memory:
    measure, taken = _MEASURES[kind], _taken(kind)
    tell = tuning.keep_resident if kind == "metal" and tuning.is_on(tuning.RESIDENT) else None
    if limit_mb is None:
        return Memory(measure, taken, tell)

    def limited() -> Room:
        # Our models' alone: what others in this process hold in MLX, a language model perhaps, is not ours to count.
        left = max(0, limit_mb * _MIB - taken.weights)
        free = left if kind == "metal" else min(left, measure().free)  # macOS only recommends
        return Room(left, free, f"memory_limit_mb={limit_mb}")

    return Memory(limited, taken, tell)


_gpu_opened_by: int | None = None


def _refuse_forked() -> None:
    """Remember which process opened the GPU; a forked child of it cannot use it, nor anything in its buffers."""
    global _gpu_opened_by
    _gpu_opened_by = _gpu_opened_by or os.getpid()
    if _gpu_opened_by != os.getpid():
        raise BackendError(FORKED)
