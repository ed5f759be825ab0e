"""MLX's CPU build says that it has a Metal device: Linux then runs what a Mac would choose.

`AKIDB_TEST_DEVICE=metal` makes conftest.py run this file and put its folder on PYTHONPATH, so that child processes
import it as they start.

Pretended is what MLX says of the machine, and all that follows from it is real: one device thread, batches started
ahead, large parts and batches, the stored dtype, quantised weights kept packed, no life after a fork. The arithmetic,
the memory and the speed stay the CPU's: no kernel of Metal's is tested.
"""

import importlib.abc
import importlib.machinery
import sys

# The smallest Mac there is, in MLX 0.32's words.
MACHINE = {
    "architecture": "applegpu_g13g",
    "device_name": "pretended over the CPU",
    "max_buffer_length": 3_758_096_384,
    "max_recommended_working_set_size": 5_368_709_120,
    "memory_size": 8_589_934_592,
    "resource_limit": 499_000,
}


def pretend(mx):
    """Change what MLX says of the machine."""
    device_info = mx.device_info

    def pretended_info(device=None):
        return dict(MACHINE) if device is None or device == mx.gpu else device_info(device)

    mx.is_available = lambda device: True
    mx.metal.is_available = lambda: True
    mx.device_info = pretended_info


class AfterImport(importlib.abc.MetaPathFinder):
    """Pretends as soon as mlx.core is there: importing it here would come before akidb_mlx's BLAS."""

    def find_spec(self, name, path=None, target=None):
        spec = importlib.machinery.PathFinder.find_spec(name, path, target) if name == "mlx.core" else None
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            pretend(module)

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, AfterImport())
