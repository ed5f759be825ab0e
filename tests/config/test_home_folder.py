"""`~` wherever a path can be said, and users without a home folder (a container's, a service's)."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from huggingface_hub import constants

from akidb_mlx import Embedder, EmbedderConfig
from akidb_mlx.checkpoint import digests, locate
from akidb_mlx.cli import main
from akidb_mlx.corpus.sources import find_sources
from akidb_mlx.device.cache_folder import cache_folder
from akidb_mlx.errors import ConfigError, ModelNotFoundError
from support.checkpoints import PROMPTS
from support.places import ROOT
from support.waiting import PATIENCE_S

MODEL = "~/models/tiny"


@pytest.fixture
def home(tmp_path, monkeypatch):
    shutil.copytree(PROMPTS, tmp_path / "models" / "tiny")
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def dimension(config=None, **given):
    with Embedder.load(config or EmbedderConfig(**given)) as embedder:
        return embedder.dimension


def test_a_model_by_argument(home):
    assert dimension(model=MODEL) == dimension(model=Path(MODEL)) == 16


def test_a_model_by_variable(home, monkeypatch):
    monkeypatch.setenv("AKIDB_MLX_MODEL", MODEL)
    assert dimension() == 16


@pytest.mark.parametrize("content", [f"model: {MODEL}", f"embedding:\n  model_name: {MODEL}"])
def test_a_model_by_file(content, home, monkeypatch):
    (home / "ours.yaml").write_text(content)
    assert dimension(EmbedderConfig.from_yaml("~/ours.yaml")) == 16
    monkeypatch.setenv("AKIDB_CONFIG", "~/ours.yaml")
    assert dimension() == 16


@pytest.mark.parametrize("arguments", [[MODEL], ["--config=~/ours.yaml"]])
def test_a_model_on_the_command_line(arguments, home, capsys):
    (home / "ours.yaml").write_text(f"model: {MODEL}")
    assert main(["download", *arguments]) == 0
    assert capsys.readouterr().out == f"{home}/models/tiny\n"
    assert main(["info", "--json", *arguments]) == 0
    assert json.loads(capsys.readouterr().out)["dimension"] == 16


def test_a_model_in_both_adapters(home):
    langchain = pytest.importorskip("langchain_akidb_mlx")
    llama_index = pytest.importorskip("llama_index_akidb_mlx")
    assert len(langchain.AkiDBMLXEmbeddings(model=MODEL).embed_query("a")) == 16
    assert len(llama_index.AkiDBMLXEmbedding(model_name=MODEL).get_query_embedding("a")) == 16


def test_a_model_of_the_server(home):
    pytest.importorskip("starlette")
    from akidb_mlx.server.settings import read_server_file

    (home / "server.yaml").write_text(f"models:\n  a: {MODEL}\n  b: {{model: {MODEL}}}\n")
    configs, _ = read_server_file(Path("~/server.yaml"))
    assert [dimension(config) for config in configs.values()] == [16, 16]


def test_a_model_of_make_reference(home, monkeypatch, capsys):
    from akidb_mlx import make_reference

    def no_library(name, *_, **__):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(make_reference, "make_reference", no_library)
    assert make_reference.main([MODEL, str(home / "x.npz")]) == 2
    assert capsys.readouterr().err.startswith(f"{home}/models/tiny;")


# no home folder


@pytest.fixture
def homeless(monkeypatch):
    """A user id that is in no list of users, and no variable."""

    def unknown(uid):
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", "~/.cache/huggingface/hub")  # as it is found at import
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(RuntimeError):
        Path.home()


def test_without_a_home_folder_nobody_looks_for_a_file_there(homeless):
    EmbedderConfig()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: EmbedderConfig(cache_dir="~/x"), "cache_dir = '~/x' (argument): HOME"),
        (lambda: EmbedderConfig.from_yaml("~/x"), "configuration file = '~/x': HOME"),
        (lambda: find_sources(["~/x"], Path("out.jsonl")), "INPUT = '~/x': HOME"),
    ],
)
def test_a_path_in_an_unknown_home_folder_is_one_clear_error(call, message, homeless):
    with pytest.raises(ConfigError) as caught:
        call()
    known = "~ is this user's home folder, which is unknown; set HOME, or say the whole path"
    assert str(caught.value) == message.replace("HOME", known)


def test_so_is_a_configuration_file(homeless, monkeypatch):
    monkeypatch.setenv("AKIDB_CONFIG", "~/x")
    with pytest.raises(ConfigError, match="AKIDB_CONFIG = '~/x': ~ is this user's home folder, which is unknown"):
        EmbedderConfig()


def test_so_is_a_model(homeless):
    with pytest.raises(ModelNotFoundError, match=r"no model '~/x': ~ is .* unknown; set HOME, or say the whole path$"):
        locate.resolve("~/x")


def test_so_is_somebody_elses_home_folder():
    with pytest.raises(ConfigError, match=r"cache_dir = '~nobody-here/x' \(argument\): no user nobody-here, or say"):
        EmbedderConfig(cache_dir="~nobody-here/x")


@pytest.mark.parametrize("call", [locate.resolve, locate.download])
def test_models_need_a_folder_that_is_said(call, homeless, tmp_path):
    with pytest.raises(ConfigError) as caught:
        call("owner/model")
    assert str(caught.value) == (
        "this user has no home folder to keep models in; set HF_HOME or AKIDB_MLX_CACHE_DIR (cache_dir) to a folder"
    )
    with pytest.raises(ModelNotFoundError, match="is not here, and local_files_only is set"):
        locate.resolve("owner/model", None, tmp_path, local_files_only=True)


def test_the_fingerprint_is_computed_each_time(homeless, folder):
    with Embedder.load(folder) as embedder:
        one = embedder.fingerprint
    assert not (digests.cache_folder() / "digests.json").exists()
    with Embedder.load(folder) as embedder:
        assert embedder.fingerprint == one


def test_the_blas_is_made_anew_each_time(homeless):
    with pytest.raises(OSError, match="this user has no home folder; set XDG_CACHE_HOME to a folder"):
        cache_folder()


@pytest.mark.parametrize("said", [{"HF_HOME": "FOLDER"}, {"AKIDB_MLX_CACHE_DIR": "FOLDER/hub"}])
def test_a_whole_program_without_a_home_folder(said, tmp_path):
    """It uses the folder that is said, and makes none called `~`."""
    snapshot = tmp_path / "hub" / "models--owner--tiny" / "snapshots" / ("c" * 40)
    shutil.copytree(PROMPTS, snapshot)
    (tmp_path / "work").mkdir()
    code = """
        import pwd, sys
        def unknown(uid):
            raise KeyError(uid)
        pwd.getpwuid = unknown
        from akidb_mlx.cli import main
        sys.exit(main(["info", "owner/tiny", "--json", "--revision", "c" * 40]))
    """
    kept = {name: value for name, value in os.environ.items() if name not in ("HOME", "XDG_CACHE_HOME", "HF_HOME")}
    said = {name: value.replace("FOLDER", str(tmp_path)) for name, value in said.items()}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=kept | said | {"PYTHONPATH": os.pathsep.join([str(ROOT / "core"), os.environ.get("PYTHONPATH", "")])},
        cwd=tmp_path / "work",
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["dimension"] == 16
    assert list((tmp_path / "work").iterdir()) == []
