"""Numbered files of one folder are read as one table: `embed` adds none of another kind."""

import json

import pytest

from akidb_mlx import Embedder
from akidb_mlx.corpus import embed_corpus
from akidb_mlx.errors import ConfigError
from support.checkpoints import REFERENCE


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps({"id": i, "text": f"row {i}"}) + "\n" for i in range(5)))
    return path


@pytest.mark.parametrize("names", [("part-1", "part-2"), ("00", "01"), ("a_1", "a_02"), ("mypart1", "mypart2")])
def test_a_numbered_file_of_another_type_is_refused(tiny, tmp_path, source, names):
    first, second = (tmp_path / f"{name}.parquet" for name in names)
    embed_corpus([source], first, tiny)
    with pytest.raises(ConfigError, match=rf"{first.name} beside it has the output_dtype float32, not float16"):
        embed_corpus([source], second, tiny, output_dtype="float16")
    with (
        Embedder.load(REFERENCE / "bert-mean") as other,
        pytest.raises(ConfigError, match=r"was made by another recipe"),
    ):
        embed_corpus([source], second, other)
    assert not second.exists()
    assert not (tmp_path / f"{second.name}.parts").exists()
    embed_corpus([source], second, tiny)
    embed_corpus([source], second, tiny, output_dtype="float16", overwrite=True)  # replacing one is no adding


def test_other_names_formats_and_foreign_files_are_no_parts(tiny, tmp_path, source):
    embed_corpus([source], tmp_path / "float32.parquet", tiny)
    (tmp_path / "part-0.parquet").write_text("not ours")
    for name in ("float16.parquet", "part-1.parquet", "part-1.npy", "a.parquet"):
        embed_corpus([source], tmp_path / name, tiny, output_dtype="float16")


def test_int8_parts_have_one_scale(tiny, tmp_path, source):
    first = tmp_path / "part-1.parquet"
    embed_corpus([source], first, tiny, output_dtype="int8")
    with pytest.raises(ConfigError, match="another scale of its int8 numbers"):
        embed_corpus([source], tmp_path / "part-2.parquet", tiny, output_dtype="int8")
    embed_corpus([source], tmp_path / "part-2.parquet", tiny, output_dtype="int8", calibration=first)
