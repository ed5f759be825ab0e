"""Files become vectors: what is read, what is written, what is refused and why."""

import csv
import datetime
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from akidb_mlx import Embedder
from akidb_mlx.corpus import embed_corpus, embedding, quantize, read_corpus, read_recipe
from akidb_mlx.errors import BackendError, ConfigError, InputError
from support.checkpoints import REFERENCE, read_case
from support.comparison import assert_close

WORDS = ["river", "stone", "lantern", "harbour", "violin", "copper", "meadow", "signal", "winter", "paper"]


@pytest.fixture
def small_parts(monkeypatch):
    """A commit after every few rows."""
    monkeypatch.setattr(embedding, "_PART_BYTES", 60_000)


def texts(count):
    return [f"{WORDS[i % 10]} {WORDS[i // 10 % 10]} {i}" for i in range(count)]


def jsonl(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def rejects(output):
    return [json.loads(line) for line in Path(f"{output}.rejects.jsonl").read_text().splitlines()]


def matrix(table):
    column = table["embedding"].combine_chunks()
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)


# what is read


def test_parquet_has_ids_vectors_kept_columns_and_the_recipe(tiny, tmp_path):
    source = jsonl(tmp_path / "in.jsonl", [{"id": i, "text": t, "tag": "x"} for i, t in enumerate(texts(40))])
    summary = embed_corpus([source], tmp_path / "out.parquet", tiny)
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.column_names == ["id", "embedding", "text", "tag"]
    assert table.schema.field("embedding").type == pa.list_(pa.field("element", pa.float32()), 16)
    assert table["id"].to_pylist() == list(range(40))
    assert table["text"].to_pylist() == texts(40)
    assert_close(matrix(table), tiny.encode_document(texts(40)), tolerance=3e-6)
    assert not np.allclose(matrix(table), tiny.encode(texts(40)), atol=1e-2)  # it was the document prompt
    assert (summary.rows, summary.rejected, summary.finished_before) == (40, 0, False)
    assert summary.tokens > 40
    recipe = json.loads(table.schema.metadata[b"akidb_mlx"])
    assert recipe == read_recipe(tmp_path / "out.parquet")
    assert recipe["fingerprint"] == tiny.fingerprint
    assert recipe["prompts"]["document"] == "passage text: "
    assert (recipe["output_dtype"], recipe["rows"], recipe["dimension"]) == ("float32", 40, 16)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.parquet"]


def test_all_formats_give_the_same_vectors(tiny, tmp_path):
    rows = [{"key": f"k{i}", "body": t} for i, t in enumerate(texts(30))]
    jsonl(tmp_path / "a.jsonl", rows)
    for name, delimiter in (("a.csv", ","), ("a.tsv", "\t")):
        with (tmp_path / name).open("w", newline="") as stream:
            writer = csv.DictWriter(stream, ["key", "body"], delimiter=delimiter)
            writer.writeheader()
            writer.writerows(rows)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet", row_group_size=7)
    tables = []
    for name in ("a.jsonl", "a.csv", "a.tsv", "a.parquet"):
        out = tmp_path / f"{name}.out.parquet"
        embed_corpus([tmp_path / name], out, tiny, text_column="body", id_column="key")
        tables.append(pq.read_table(out))
    for table in tables:
        assert table["id"].to_pylist() == [row["key"] for row in rows]
        assert_close(matrix(table), matrix(tables[0]), tolerance=3e-6)


def test_a_folder_is_read_by_name_and_a_text_file_is_one_row(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs/deep").mkdir(parents=True)
    (tmp_path / "docs/b.md").write_text("﻿copper violin", encoding="utf-8")
    (tmp_path / "docs/a.txt").write_text("river\nstone")
    (tmp_path / "docs/deep/c.rst").write_text("winter")
    (tmp_path / "docs/picture.png").write_bytes(b"\x89PNG")
    (tmp_path / "docs/.hidden.txt").write_text("no")
    embed_corpus(["docs"], "docs/out.parquet", tiny)
    table = pq.read_table("docs/out.parquet")
    assert table["id"].to_pylist() == ["docs/a.txt", "docs/b.md", "docs/deep/c.rst"]
    assert table["text"].to_pylist() == ["river\nstone", "copper violin", "winter"]
    assert embed_corpus(["docs"], "docs/out.parquet", tiny).finished_before  # the output is no input


def test_without_an_id_column_rows_are_named_by_file_and_number(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.jsonl").write_text('{"text": "one"}\n\n{"text": "two"}\n')
    Path("b.csv").write_text('text\n"three\nlines"\nfour\n')
    embed_corpus(["a.jsonl", "b.csv"], "out.parquet", tiny)
    assert pq.read_table("out.parquet")["id"].to_pylist() == ["a.jsonl:1", "a.jsonl:3", "b.csv:1", "b.csv:2"]


def test_a_column_id_is_the_id_where_every_table_has_one(tiny, tmp_path):
    first = jsonl(tmp_path / "a.jsonl", [{"id": 7, "text": "one"}])
    second = jsonl(tmp_path / "b.jsonl", [{"id": "x", "text": "two"}])
    embed_corpus([first, second], tmp_path / "out.parquet", tiny)
    assert pq.read_table(tmp_path / "out.parquet")["id"].to_pylist() == ["7", "x"]  # text, where they disagree
    third = jsonl(tmp_path / "c.jsonl", [{"text": "three"}])
    with pytest.raises(InputError, match="a column 'id'"):
        read_corpus([first, third], tmp_path / "o.parquet")


def test_parquet_types_of_kept_columns_stay(tiny, tmp_path):
    table = pa.table(
        {
            "text": texts(3),
            "small": pa.array([1, None, 3], pa.int16()),
            "when": pa.array([1_234_567_891_234_567_891] * 3, pa.timestamp("ns", "UTC")),
            "tags": pa.array([["a"], [], None], pa.list_(pa.string())),
            "kind": pa.array(["p", "q", "p"]).dictionary_encode(),
        }
    )
    pq.write_table(table, tmp_path / "in.parquet")
    embed_corpus([tmp_path / "in.parquet"], tmp_path / "out.parquet", tiny)
    kept = pq.read_table(tmp_path / "out.parquet").select(table.column_names)
    assert kept.equals(table)


def test_columns_whose_types_disagree_become_text(tiny, tmp_path, small_parts):
    values = [1, "two", {"three": 3}, [4], None, True, {}, 2**70, "\ud800"]
    records = [{"text": t, "mixed": values[i % 9], "late": 1 if i > 50 else None} for i, t in enumerate(texts(60))]
    embed_corpus([jsonl(tmp_path / "in.jsonl", records)], tmp_path / "out.parquet", tiny)
    table = pq.read_table(tmp_path / "out.parquet")
    shown = ["1", "two", '{"three": 3}', "[4]", None, "true", "{}", str(2**70), "\ufffd"]
    assert table["mixed"].to_pylist()[:9] == shown
    assert table["late"].type == pa.int64()


def test_keep_chooses_the_columns(tiny, tmp_path):
    source = jsonl(tmp_path / "in.jsonl", [{"id": 1, "text": "one", "a": 1, "b": 2}])
    for keep, names in ((["b"], ["id", "embedding", "b"]), ([], ["id", "embedding"])):
        embed_corpus([source], tmp_path / "out.parquet", tiny, keep=keep, overwrite=True)
        assert pq.read_schema(tmp_path / "out.parquet").names == names


def test_an_empty_corpus_gives_an_empty_output(tiny, tmp_path):
    (tmp_path / "in.jsonl").write_text("")
    for name in ("o.parquet", "o.jsonl", "o.npy"):
        assert embed_corpus([tmp_path / "in.jsonl"], tmp_path / name, tiny).rows == 0
    assert pq.read_table(tmp_path / "o.parquet").num_rows == 0
    assert np.load(tmp_path / "o.npy").shape == (0, 16)


# what is rejected


def test_bad_rows_go_to_the_rejects_with_their_reason_and_the_run_goes_on(tmp_path, small_parts):
    lines = [
        b'{"id": 1, "text": "good"}',
        b'{"id": 2, "text": ',
        b'{"id": 3}',
        b'{"id": 4, "text": 5}',
        b'["a list"]',
        b'{"id": null, "text": "x"}',
        b'{"id": 7, "text": "\xff"}',
        b'{"id": 8, "text": "' + b"word " * 100 + b'"}',
        b'{"id": [9], "text": "x"}',
        b'{"id": 10, "text": "x", "embedding": [1]}',
        b'{"id": 11, "text": "also good \\ud800"}',
        b'{"id": 12, "text": ""}',
    ]
    (tmp_path / "in.jsonl").write_bytes(b"\n".join(lines * 20))
    with Embedder.load(REFERENCE / "bert-prompts", on_overlong="error") as strict:
        summary = embed_corpus([tmp_path / "in.jsonl"], tmp_path / "out.parquet", strict)
    assert (summary.rows, summary.rejected) == (60, 180)
    assert pq.read_table(tmp_path / "out.parquet")["id"].to_pylist() == [1, 11, 12] * 20
    told = rejects(tmp_path / "out.parquet")
    assert [reject["row"] for reject in told[:10]] == [2, 3, 4, 5, 6, 7, 8, 9, 10, 14]
    reasons = [reject["reason"] for reject in told[:9]]
    for reason, expected in zip(
        reasons,
        [
            "no valid JSON",
            "no text in column text",
            "column text holds a int, not text",
            "no JSON object",
            "no id",
            "not UTF-8",
            "the text has more than 48 tokens",
            "the id is a list",
            "column embedding is the output's own",
        ],
        strict=True,
    ):
        assert expected in reason
    assert told[1]["source"].endswith("in.jsonl")
    assert told[6]["id"] == 8
    assert told[6]["text"] == "word " * 100


def test_csv_rows_that_do_not_fit_are_rejected(tiny, tmp_path):
    (tmp_path / "in.csv").write_bytes(
        b'\xef\xbb\xbfid,text,note\n007,"a, ""quoted""\ntext",n\n1,short\n2,caf\xe9,n\n\n3,caf\xc3\xa9,\n'
    )
    embed_corpus([tmp_path / "in.csv"], tmp_path / "out.parquet", tiny)
    table = pq.read_table(tmp_path / "out.parquet")
    assert table["id"].to_pylist() == ["007", "3"]  # CSV has no types: nothing is taken for a number
    assert table["text"].to_pylist() == ['a, "quoted"\ntext', "café"]
    assert [reject["reason"] for reject in rejects(tmp_path / "out.parquet")] == [
        "2 fields where the header has 3",
        "not UTF-8",
    ]


def test_a_text_file_that_is_not_utf8_is_one_reject(tiny, tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/a.txt").write_bytes(b"caf\xe9")
    (tmp_path / "docs/b.txt").write_text("fine")
    assert embed_corpus([tmp_path / "docs"], tmp_path / "out.parquet", tiny).rows == 1
    assert "not UTF-8" in rejects(tmp_path / "out.parquet")[0]["reason"]


def test_a_device_that_fails_on_everything_ends_the_run(tiny, tmp_path):
    class Broken:
        config, dimension, fingerprint, info, stats = tiny.config, 16, tiny.fingerprint, tiny.info, tiny.stats

        def encode_stream(self, given, chunk_size, *, side, on_error):
            for place, _ in enumerate(given):
                on_error(place, BackendError("out of order"))
                yield np.full((1, 16), np.nan, np.float32)

    source = jsonl(tmp_path / "in.jsonl", [{"text": t} for t in texts(5)])
    with pytest.raises(BackendError, match="out of order"):
        embed_corpus([source], tmp_path / "out.parquet", Broken())


# rows that have a vector already


def test_given_vectors_are_kept_bad_ones_rejected_and_only_the_rest_is_embedded(tiny, tmp_path, small_parts):
    given = np.eye(16, dtype=np.float32)
    bad = [[1.0] * 15, [float("nan")] * 16, [5.0] * 16, "no vector"]
    records = []
    for i, text in enumerate(texts(100)):
        vector = given[i % 16].tolist() if i % 3 == 0 else None
        records.append({"id": i, "text": text, "vec": bad[i // 25] if i % 25 == 1 else vector})
    del records[99]["vec"]
    source = jsonl(tmp_path / "in.jsonl", records)
    before = tiny.stats()["texts"]
    summary = embed_corpus([source], tmp_path / "out.parquet", tiny, embedding_column="vec")
    missing = [r["id"] for r in records if r.get("vec") is None]
    assert tiny.stats()["texts"] - before == len(missing)
    assert (summary.rejected, summary.rows, summary.given) == (4, 96, 96 - len(missing))
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.column_names == ["id", "embedding", "text"]
    rows = dict(zip(table["id"].to_pylist(), matrix(table), strict=True))
    assert all(np.array_equal(rows[i], given[i % 16]) for i in rows if i not in missing)
    expected = tiny.encode_document([texts(100)[i] for i in missing])
    assert_close([rows[i] for i in missing], expected, tolerance=3e-6)
    reasons = " | ".join(reject["reason"] for reject in rejects(tmp_path / "out.parquet"))
    for expected in ("its vector has 15 numbers", "NaN", "length 20, not 1", "not a sequence"):
        assert expected in reasons


def test_an_earlier_output_is_completed_but_not_another_models(tiny, tmp_path):
    source = jsonl(tmp_path / "in.jsonl", [{"id": i, "text": t} for i, t in enumerate(texts(20))])
    embed_corpus([source], tmp_path / "a.parquet", tiny)
    table = pq.read_table(tmp_path / "a.parquet")
    vectors_ = [None if i % 2 else row for i, row in enumerate(matrix(table).tolist())]
    holes = table.set_column(1, "embedding", pa.array(vectors_, pa.list_(pa.float32(), 16)))
    pq.write_table(holes, tmp_path / "b.parquet")
    summary = embed_corpus([tmp_path / "b.parquet"], tmp_path / "c.parquet", tiny, embedding_column="embedding")
    assert (summary.rows, summary.given) == (20, 10)
    assert_close(matrix(pq.read_table(tmp_path / "c.parquet")), matrix(table), tolerance=3e-6)
    with (
        Embedder.load(REFERENCE / "bert-cls") as other,
        pytest.raises(ConfigError, match=r"vectors in .*b\.parquet were made by another recipe"),
    ):
        embed_corpus([tmp_path / "b.parquet"], tmp_path / "d.parquet", other, embedding_column="embedding")
    embed_corpus([source], tmp_path / "e.parquet", tiny, output_dtype="int8")
    with pytest.raises(ConfigError, match="are int8"):
        embed_corpus([tmp_path / "e.parquet"], tmp_path / "f.parquet", tiny, embedding_column="embedding")


def test_csv_vectors_are_json(tiny, tmp_path):
    row = np.eye(16)[3].tolist()
    with (tmp_path / "in.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["text", "vec"], ["one", json.dumps(row)], ["two", ""], ["three", "[1,"]])
    summary = embed_corpus([tmp_path / "in.csv"], tmp_path / "o.parquet", tiny, embedding_column="vec")
    assert (summary.rows, summary.given, summary.rejected) == (2, 1, 1)


# what is written


def test_jsonl_gives_the_same_float32(tiny, tmp_path):
    when = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)
    pq.write_table(pa.table({"text": texts(9), "when": [when] * 9}), tmp_path / "in.parquet")
    embed_corpus([tmp_path / "in.parquet"], tmp_path / "a.parquet", tiny)
    embed_corpus([tmp_path / "in.parquet"], tmp_path / "a.jsonl", tiny)
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    table = pq.read_table(tmp_path / "a.parquet")
    assert np.array_equal(np.array([row["embedding"] for row in rows], np.float32), matrix(table))
    assert rows[0]["id"].endswith("in.parquet:1")
    assert rows[0]["when"].startswith("2026-01-02")
    assert read_recipe(tmp_path / "a.jsonl")["fingerprint"] == tiny.fingerprint


def test_npy_has_its_rows_beside_it(tiny, tmp_path):
    source = jsonl(tmp_path / "in.jsonl", [{"id": i, "text": t} for i, t in enumerate(texts(9))])
    for dtype, numpy_dtype, width in (
        ("float32", "f4", 16),
        ("float16", "f2", 16),
        ("int8", "i1", 16),
        ("binary", "u1", 2),
    ):
        out = tmp_path / f"{dtype}.npy"
        embed_corpus([source], out, tiny, output_dtype=dtype)
        array = np.load(out)
        assert (array.dtype, array.shape) == (np.dtype(numpy_dtype), (9, width))
        rows = [json.loads(line) for line in Path(f"{out}.rows.jsonl").read_text().splitlines()]
        assert [row["id"] for row in rows] == list(range(9))
        assert read_recipe(out)["output_dtype"] == dtype


def test_rows_of_whole_numbers_need_no_scale(tmp_path):
    """pplx-embed's: int8 is what the reference gives, a bit is the sign before rounding."""
    folder, facts, reference = read_case("pplx-embed")
    source = jsonl(tmp_path / "in.jsonl", [{"id": i, "text": text} for i, text in enumerate(facts["texts"])])
    with Embedder.load(folder, dtype="float32") as embedder:
        for dtype, calibration in (("int8", {"scale": 1.0}), ("binary", {"zeros": "signed", "bit_order": "big"})):
            out = tmp_path / f"{dtype}.npy"
            embed_corpus([source], out, embedder, output_dtype=dtype)
            assert read_recipe(out)["calibration"] == calibration
        numbers = reference["embeddings"]
        assert np.load(tmp_path / "int8.npy").tolist() == numbers.astype(int).tolist()
        bits = np.unpackbits(np.load(tmp_path / "binary.npy"), axis=1)
        assert bits.tolist() == (~np.signbit(numbers)).astype(int).tolist()


@pytest.mark.parametrize("dtype", ["float16", "int8", "binary"])
def test_smaller_numbers_mean_the_same_in_every_format(tiny, tmp_path, dtype, small_parts):
    source = jsonl(tmp_path / "in.jsonl", [{"id": i, "text": t} for i, t in enumerate(texts(50))])
    exact = tiny.encode_document(texts(50))
    arrays = []
    for suffix in (".parquet", ".jsonl", ".npy"):
        out = tmp_path / f"out{suffix}"
        embed_corpus([source], out, tiny, output_dtype=dtype)
        recipe = read_recipe(out)
        if suffix == ".parquet":
            arrays.append(matrix(pq.read_table(out)))
        elif suffix == ".npy":
            arrays.append(np.load(out))
        else:
            arrays.append(
                np.array([json.loads(line)["embedding"] for line in out.read_text().splitlines()]).astype(
                    arrays[0].dtype
                )
            )
    assert arrays[0].dtype == {"float16": np.float16, "int8": np.int8, "binary": np.uint8}[dtype]
    for array in arrays[1:]:
        assert np.abs(array.astype(float) - arrays[0]).max() <= (0 if dtype == "binary" else 1)
    if dtype == "binary":
        bits = np.unpackbits(arrays[0], axis=1).astype(bool)
        assert np.array_equal(bits[np.abs(exact) > 1e-5], (exact > 0)[np.abs(exact) > 1e-5])
    else:
        scale = recipe["calibration"].get("scale", 1.0)
        np.testing.assert_allclose(arrays[0] * np.float32(scale), exact, atol=0.51 * scale if dtype == "int8" else 1e-3)


def test_parquet_spends_a_byte_on_an_int8_and_an_eighth_on_a_bit(tiny, tmp_path):
    source = jsonl(tmp_path / "in.jsonl", [{"id": i, "text": t} for i, t in enumerate(texts(2000))])
    sizes = {}
    for dtype in ("float32", "float16", "int8", "binary"):
        embed_corpus([source], tmp_path / f"{dtype}.parquet", tiny, output_dtype=dtype, keep=[])
        group = pq.ParquetFile(tmp_path / f"{dtype}.parquet").metadata.row_group(0)
        sizes[dtype] = group.column(1).total_compressed_size / 2000
    assert sizes["float32"] <= 66
    assert sizes["float16"] <= 34
    assert sizes["int8"] <= 18
    assert sizes["binary"] <= 2.5


def test_one_int8_scale_for_the_whole_corpus_and_for_a_later_one(tiny, tmp_path, small_parts):
    """A range per chunk would give equal texts other numbers in each part."""
    source = jsonl(tmp_path / "in.jsonl", [{"id": i, "text": texts(10)[i % 10]} for i in range(100)])
    embed_corpus([source], tmp_path / "a.parquet", tiny, output_dtype="int8")
    rows = matrix(pq.read_table(tmp_path / "a.parquet")).reshape(10, 10, 16)
    assert np.abs(rows.astype(int) - rows[0]).max() <= 1
    assert np.abs(rows).max() == 127
    scale = read_recipe(tmp_path / "a.parquet")["calibration"]["scale"]
    np.testing.assert_allclose(rows[0] * scale, tiny.encode_document(texts(10)), atol=0.51 * scale)
    one = jsonl(tmp_path / "one.jsonl", [{"id": 3, "text": texts(10)[3]}])
    embed_corpus([one], tmp_path / "b.parquet", tiny, output_dtype="int8", calibration=tmp_path / "a.parquet")
    later = matrix(pq.read_table(tmp_path / "b.parquet"))[0].astype(int)
    assert np.abs(later - rows[0, 3]).max() <= 1
    query = quantize(tiny.encode_document([texts(10)[3]]), "int8", read_recipe(tmp_path / "a.parquet")["calibration"])
    assert np.abs(query[0].astype(int) - rows[0, 3]).max() <= 1
    embed_corpus([one], tmp_path / "c.parquet", tiny, output_dtype="int8")
    assert np.abs(matrix(pq.read_table(tmp_path / "c.parquet"))).max() == 127  # its own scale, without
    with pytest.raises(ConfigError, match="calibration is for"):
        read_corpus([one], tmp_path / "d.parquet", calibration=tmp_path / "a.parquet")


def test_the_file_does_not_depend_on_where_the_parts_end(tiny, tmp_path, monkeypatch):
    source = jsonl(tmp_path / "in.jsonl", [{"id": i, "text": t} for i, t in enumerate(texts(60))])
    monkeypatch.setattr("akidb_mlx.corpus.writers._GROUP", 25)
    groups = []
    for size in (5_000, 10**9):
        monkeypatch.setattr(embedding, "_PART_BYTES", size)
        embed_corpus([source], tmp_path / f"{size}.parquet", tiny)
        file = pq.ParquetFile(tmp_path / f"{size}.parquet")
        groups.append([file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)])
    assert groups == [[25, 25, 10]] * 2


# a second run


def test_a_finished_output_is_left_as_it_is(tiny, tmp_path):
    source = jsonl(tmp_path / "in.jsonl", [{"text": t} for t in texts(5)] + [{"text": None}])
    for name in ("o.parquet", "o.jsonl", "o.npy"):
        first = embed_corpus([source], tmp_path / name, tiny)
        before = (tmp_path / name).stat().st_mtime_ns
        again = embed_corpus([source], tmp_path / name, tiny)
        assert again.finished_before
        assert (again.rows, again.rejected) == (first.rows, first.rejected) == (5, 1)
        assert (tmp_path / name).stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"pooling": "cls"}, r'pooling was \["mean"\] and is now \["cls"\]|pooling was "mean" and is now "cls"'),
        ({"document_prompt": "doc: "}, 'document_prompt was null and is now "doc: "'),
        ({"truncate_dim": 8}, "dimension was 16 and is now 8"),
        ({"max_seq_length": 20}, "max_seq_length was 48 and is now 20"),
        ({"on_overlong": "error"}, 'on_overlong was "truncate" and is now "error"'),
    ],
)
def test_another_recipe_in_the_output_is_an_error_that_names_it(tiny, tmp_path, change, told):
    source = jsonl(tmp_path / "in.jsonl", [{"text": t} for t in texts(5)])
    embed_corpus([source], tmp_path / "o.parquet", tiny)
    with Embedder.load(REFERENCE / "bert-prompts", **change) as other:
        with pytest.raises(ConfigError, match=told):
            embed_corpus([source], tmp_path / "o.parquet", other)
        embed_corpus([source], tmp_path / "o.parquet", other, overwrite=True)
        assert embed_corpus([source], tmp_path / "o.parquet", other).finished_before


def test_another_model_other_inputs_and_foreign_files_are_errors(tiny, tmp_path):
    source = jsonl(tmp_path / "in.jsonl", [{"text": t} for t in texts(5)])
    out = tmp_path / "o.parquet"
    embed_corpus([source], out, tiny)
    with Embedder.load(REFERENCE / "bert-mean") as other, pytest.raises(ConfigError, match="model_name was"):
        embed_corpus([source], out, other)
    with pytest.raises(ConfigError, match=r'output_dtype was "float32" and is now "int8"'):
        embed_corpus([source], out, tiny, output_dtype="int8")
    with pytest.raises(ConfigError, match=r"keep was null and is now \[\]"):
        embed_corpus([source], out, tiny, keep=[])
    same = source.read_text()
    source.write_text(same[:-4] + ("y" if same[-4] == "x" else "x") + same[-3:])
    with pytest.raises(ConfigError, match="an input file was changed"):
        embed_corpus([source], out, tiny)
    source.write_text(same)
    embed_corpus([source], out, tiny)  # touched, and the same
    source.write_text(source.read_text() + '{"text": "more"}\n')
    with pytest.raises(ConfigError, match=r"inputs was 1 file\(s\) of \d+ bytes and is now 1 file"):
        embed_corpus([source], out, tiny)
    pq.write_table(pa.table({"a": [1]}), tmp_path / "foreign.parquet")
    np.save(tmp_path / "foreign.npy", np.eye(3))
    for name in ("foreign.parquet", "foreign.npy"):
        with pytest.raises(ConfigError, match=f"{name} carries no recipe"):
            embed_corpus([source], tmp_path / name, tiny)
    with pytest.raises(InputError, match=r"cannot read the recipe of .*gone\.npy"):
        read_recipe(tmp_path / "gone.npy")


def test_the_same_weights_elsewhere_are_the_same_model(tiny, tmp_path):
    import shutil

    shutil.copytree(REFERENCE / "bert-prompts", tmp_path / "copy")
    source = jsonl(tmp_path / "in.jsonl", [{"text": t} for t in texts(5)])
    embed_corpus([source], tmp_path / "o.parquet", tiny)
    with Embedder.load(tmp_path / "copy") as copy:
        assert embed_corpus([source], tmp_path / "o.parquet", copy).finished_before


# what is refused before a model is loaded


def test_bad_inputs_are_refused_at_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    jsonl(Path("a.jsonl"), [{"body": "x", "n": 1}])
    Path("a.csv").write_text("body,n\nx,1\n")
    Path("double.csv").write_text("text,text\nx,y\n")
    Path("bad.parquet").write_text("no parquet")
    Path("picture.png").write_text("")
    Path("vectors.csv").write_text("text,embedding\nx,\n")
    Path("empty").mkdir()
    cases = [
        (["gone.jsonl"], {}, "cannot read gone.jsonl: No such file"),
        (["a.jsonl"], {}, r"a.jsonl has no column 'text' \(it has body, n\)"),
        (["a.csv"], {"text_column": "body", "id_column": "key"}, "no column 'key'.*the id column"),
        (["a.csv"], {"text_column": "body", "embedding_column": "vec"}, "no column 'vec'.*the embedding column"),
        (["a.csv"], {"text_column": "body", "keep": ["m"]}, "no column 'm' to keep"),
        (["double.csv"], {}, "two columns of one name"),
        (["bad.parquet"], {}, "cannot read bad.parquet"),
        (["picture.png"], {}, "no known format"),
        (["empty"], {}, "no file to read in empty"),
        (["vectors.csv"], {}, "a column 'embedding', a name that the output needs"),
    ]
    for inputs, options, message in cases:
        with pytest.raises(InputError, match=message):
            read_corpus(inputs, "out.parquet", **options)
    with pytest.raises(InputError, match="both input and output"):
        read_corpus(["a.jsonl"], "a.jsonl", text_column="body")
    for output, message in (("out.txt", "must end in .parquet, .jsonl, .npy"), ("no/out.npy", "does not exist")):
        with pytest.raises(ConfigError, match=message):
            read_corpus(["a.jsonl"], output, text_column="body")


def test_impossible_output_types_are_refused(tiny, tmp_path):
    source = jsonl(tmp_path / "in.jsonl", [{"text": "x"}])
    with pytest.raises(ConfigError, match="it may be float32, float16, int8, uint8, binary, ubinary"):
        embed_corpus([source], tmp_path / "o.npy", tiny, output_dtype="int4")
    with (
        Embedder.load(REFERENCE / "bert-prompts", truncate_dim=12) as odd,
        pytest.raises(ConfigError, match="12 dimensions do not fill bytes"),
    ):
        embed_corpus([source], tmp_path / "o.npy", odd, output_dtype="binary")


def test_a_file_that_breaks_on_the_way_keeps_what_was_done(tiny, tmp_path, small_parts):
    body = '"' + "x" * (2**24 + 10)
    (tmp_path / "in.csv").write_text("text\n" + "\n".join(texts(200)) + "\n" + body)
    with pytest.raises(
        OSError, match=r"in\.csv cannot be read any further: field larger .* rows are safe in .*o\.npy\.parts"
    ):
        embed_corpus([tmp_path / "in.csv"], tmp_path / "o.npy", tiny)
    (tmp_path / "o.npy.parts/00000000.arrow").write_text("torn")
    with pytest.raises(ConfigError, match="is damaged"):
        embed_corpus([tmp_path / "in.csv"], tmp_path / "o.npy", tiny)
