"""`embed --split`: long texts become rows of chunks that are read whole, with their text's id and their place."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from akidb_mlx.cli import main
from akidb_mlx.corpus import embed_corpus, embedding, read_output, read_recipe
from akidb_mlx.corpus.parts import Parts
from akidb_mlx.errors import ConfigError, InputError
from support.checkpoints import PROMPTS
from support.comparison import assert_close

SENTENCE = "Wild yeast makes sourdough rise slowly over night. "


@pytest.fixture
def source(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [{"id": i, "text": SENTENCE * (i % 5), "n": i} for i in range(1, 13)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "in.jsonl"


def read(path):
    return pq.read_table(path).to_pylist()


@pytest.mark.parametrize("overlap", [0, 4])
def test_rows_of_chunks(source, tiny, overlap):
    cut = tiny.stats()["truncated_texts"]
    summary = embed_corpus([source], "out.parquet", tiny, split="max", overlap=overlap)
    assert tiny.stats()["truncated_texts"] == cut
    rows = read("out.parquet")
    assert list(rows[0]) == ["id", "embedding", "chunk", "text", "n"]
    assert summary.rows == len(rows) > 12 and summary.texts == 12 and summary.truncated == 0
    assert f"{len(rows)} rows of 12 texts, " in str(summary)
    for i in range(1, 13):
        mine = [row for row in rows if row["id"] == i]
        assert [row["chunk"] for row in mine] == list(range(len(mine))) and {row["n"] for row in mine} == {i}
        if not overlap:
            assert "".join("".join(row["text"] for row in mine).split()) == "".join((SENTENCE * (i % 5)).split())
        expected = tiny.encode_document([row["text"] for row in mine])
        assert_close(np.array([row["embedding"] for row in mine], np.float32), expected, tolerance=3e-6)
    recipe = read_recipe("out.parquet")
    assert (recipe["split"], recipe["overlap"], recipe["texts"]) == ("max", overlap, 12)


@pytest.mark.parametrize("suffix", [".jsonl", ".npy"])
def test_other_formats(source, tiny, suffix):
    embed_corpus([source], "whole.parquet", tiny, split=30)
    embed_corpus([source], f"out{suffix}", tiny, split=30)
    (ids, _, records), *more = read_output("whole.parquet")
    lines = Path(f"out{suffix}" if suffix == ".jsonl" else "out.npy.rows.jsonl").read_text("utf-8").splitlines()
    told = [json.loads(line) for line in lines]
    assert not more and [(row["id"], row["chunk"], row["text"]) for row in told] == [
        (id_, record["chunk"], record["text"]) for id_, record in zip(ids, records, strict=True)
    ]


def test_a_run_ends_between_texts_and_goes_on(source, tiny, monkeypatch):
    embed_corpus([source], "whole.parquet", tiny, split=30)
    monkeypatch.setattr(embedding, "_FIRST_PART_S", 0)
    monkeypatch.setattr(embedding, "_FIRST_CHUNK", 7)
    monkeypatch.setattr(embedding, "_SMALLEST_CHUNK", 7)
    real, runs = Parts.add, 0

    def interrupted(self, *args):
        real(self, *args)
        raise KeyboardInterrupt

    monkeypatch.setattr(Parts, "add", interrupted)
    while True:
        runs += 1
        try:
            embed_corpus([source], "out.parquet", tiny, split=30)
            break
        except KeyboardInterrupt:
            pass
    assert runs > 3
    one, other = read("out.parquet"), read("whole.parquet")
    assert [(row["id"], row["chunk"], row["text"]) for row in one] == [
        (row["id"], row["chunk"], row["text"]) for row in other
    ]
    assert read_recipe("out.parquet")["texts"] == 12


def test_what_a_run_may_not_go_on_with(source, tiny):
    embed_corpus([source], "out.parquet", tiny, split=30)
    for options in ({"split": 40}, {}, {"split": 30, "overlap": 2}):
        with pytest.raises(ConfigError, match=r"was made otherwise: (split|overlap) was "):
            embed_corpus([source], "out.parquet", tiny, **options)


def test_bad_rows_keep_their_place(tmp_path, monkeypatch, tiny):
    monkeypatch.chdir(tmp_path)
    rows = [{"id": 1, "text": SENTENCE * 3}, {"id": 2, "text": None}, {"id": 3, "text": SENTENCE}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + "{broken\n")
    summary = embed_corpus(["in.jsonl"], "out.parquet", tiny, split="max", keep=[])
    assert (summary.texts, summary.rejected) == (2, 2)
    assert [row["id"] for row in read("out.parquet")] == [1] * (summary.rows - 1) + [3]
    rejects = [json.loads(line) for line in Path("out.parquet.rejects.jsonl").read_text("utf-8").splitlines()]
    assert [(one["id"], one["chunk"]) for one in rejects] == [(2, 0), (None, 0)]


def test_a_column_of_that_name(tmp_path, monkeypatch, tiny):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.jsonl").write_text('{"id": 1, "text": "a", "chunk": 7}\n')
    with pytest.raises(InputError, match="has a column 'chunk', a name that the output needs"):
        embed_corpus(["in.jsonl"], "out.parquet", tiny, split=30)
    embed_corpus(["in.jsonl"], "out.parquet", tiny, split=30, keep=["text"])
    embed_corpus(["in.jsonl"], "whole.parquet", tiny)
    assert read("whole.parquet")[0]["chunk"] == 7


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--split", "100"], "chunks of 100 tokens would be cut: the model reads 48"),
        (["--split", "none"], "takes a number of tokens or max, not 'none'"),
        (["--overlap", "4"], "say how many tokens these have with split"),
        (["--split", "30", "--overlap", "20"], "an overlap of 20 tokens does not fit"),
        (["--split", "30", "--engine", "ray"], "leave --engine ray out"),
    ],
)
def test_mistakes(source, capsys, options, told):
    try:
        code = main(["embed", "in.jsonl", "--to", "out.parquet", "--model", str(PROMPTS), *options])
    except SystemExit as end:
        code = end.code
    assert code == 2 and told in capsys.readouterr().err


def test_the_command(source, capsys):
    options = ["--no-progress", "--split", "30", "--overlap", "3", "--model", str(PROMPTS)]
    assert main(["embed", "in.jsonl", "--to", "out.parquet", *options]) == 0
    assert " of 12 texts, " in capsys.readouterr().out
    assert main(["embed", "in.jsonl", "--to", "out.parquet", *options]) == 0
    assert "is finished: " in capsys.readouterr().out
