"""What every test has: no environment or file of the machine's, nothing from the network; and the shared models."""

import os
import runpy
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
# MLX's CPU build says that it has a Metal device, here and in child processes; the file says what is real then.
if _device := os.environ.get("AKIDB_TEST_DEVICE"):
    if _device != "metal":
        raise pytest.UsageError(f"AKIDB_TEST_DEVICE is {_device!r}, but only metal can be pretended")
    _folder = Path(__file__).parent / "pretended_metal"
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_folder), os.environ.get("PYTHONPATH")]))
    runpy.run_path(str(_folder / "sitecustomize.py"))
for _name in [name for name in os.environ if name.startswith("AKIDB_") and name != "AKIDB_MLX_BLAS"]:
    del os.environ[_name]

import akidb_mlx  # isort: skip  # before anything that might import mlx

import shutil
import time

from hypothesis import settings

from support.alone import turn
from support.checkpoints import MINILM, PROMPTS, REFERENCE
from support.device import DEVICE

assert DEVICE.kind == (_device or DEVICE.kind), "the pretence does not reach the choice of the device"

# The same examples each time, however long they take: a busy machine is no failure.
settings.register_profile("tests", deadline=None, derandomize=True)
settings.load_profile("tests")


def pytest_report_header():
    return f"device: {DEVICE.kind} ({DEVICE.name})"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    with turn(alone=item.get_closest_marker("alone") is not None):
        return (yield)


@pytest.fixture(autouse=True)
def _no_configuration(tmp_path_factory, monkeypatch):
    """Neither the folder the tests run in nor the home of who runs them holds a configuration."""
    empty = tmp_path_factory.mktemp("cwd")
    monkeypatch.chdir(empty)
    monkeypatch.delenv("COLUMNS", raising=False)  # pytest's processes have it, though nobody looks at their output


@pytest.fixture(scope="session")
def minilm():
    """The one real model that needs no Hub, loaded once."""
    with akidb_mlx.Embedder.load(MINILM) as embedder:
        yield embedder


@pytest.fixture(scope="module")
def tiny():
    """A random BERT with a prompt for each side: 16 numbers per vector, 48 tokens per text."""
    with akidb_mlx.Embedder.load(PROMPTS) as embedder:
        yield embedder


@pytest.fixture
def loads(monkeypatch):
    """What is really loaded, each time slowly enough for others to come meanwhile."""
    from akidb_mlx.model import loading

    loads, load_model = [], loading.load_model

    def load(checkpoint, *args):
        loads.append(checkpoint)
        time.sleep(0.05)
        return load_model(checkpoint, *args)

    monkeypatch.setattr(loading, "load_model", load)
    return loads


@pytest.fixture
def folder(request, tmp_path):
    """A reference checkpoint to change or damage: bert-prompts, or what `pytest.mark.checkpoint` names."""
    mark = request.node.get_closest_marker("checkpoint")
    return shutil.copytree(REFERENCE / mark.args[0] if mark else PROMPTS, tmp_path / "model")
