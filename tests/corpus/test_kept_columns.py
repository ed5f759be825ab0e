"""Kept columns: their types are settled from all inputs before anything is embedded, and no number is rounded."""

import json
import re
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from akidb_mlx.corpus import embed_corpus, embedding, read_corpus
from akidb_mlx.corpus.json_types import Seen
from akidb_mlx.corpus.parts import Parts
from akidb_mlx.corpus.schema import settle_schema
from akidb_mlx.errors import InputError

BIG = 2**53 + 1


def shards(folder, *columns):
    """A Parquet file for each column `x`."""
    files = []
    for place, column in enumerate(columns):
        count = len(column)
        rows = {"id": [f"{place}.{i}" for i in range(count)], "text": [f"row {place} {i}" for i in range(count)]}
        files.append(folder / f"{place}.parquet")
        pq.write_table(pa.table({**rows, "x": column}), files[-1])
    return files


def lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def settled(inputs, folder, **options):
    corpus = read_corpus(inputs, folder / "out.parquet", **options)
    return settle_schema(corpus.sources, corpus.columns)


def interrupt(monkeypatch, after):
    """End a run behind its so-many-th part."""
    real = Parts.add

    def add(parts, *args):
        real(parts, *args)
        if len(parts.facts) == after:
            monkeypatch.setattr(Parts, "add", real)
            raise KeyboardInterrupt

    monkeypatch.setattr(Parts, "add", add)


@pytest.mark.parametrize(
    ("columns", "common"),
    [
        ([pa.array([7]), pa.nulls(1)], pa.int64()),
        ([pa.array([7]), pa.array([8], pa.int32())], pa.int64()),
        ([pa.array([7]), pa.array([2.5])], pa.float64()),
        ([pa.array([7, BIG]), pa.array([2.5])], pa.string()),
        ([pa.array([0.5], pa.float32()), pa.array([0.25])], pa.float64()),
        ([pa.array([1], pa.timestamp("s")), pa.array([1], pa.timestamp("ns"))], pa.timestamp("ns")),
        ([pa.array([10**12], pa.timestamp("s")), pa.array([1], pa.timestamp("ns"))], pa.string()),
        ([pa.array([{"a": 1}]), pa.array([{"a": 1, "b": 2}])], pa.struct({"a": pa.int64(), "b": pa.int64()})),
        ([pa.array([{"a": BIG}]), pa.array([{"a": 2.5}])], pa.string()),
        ([pa.array([[1]]), pa.array([[2.5]])], pa.list_(pa.float64())),
        ([pa.array([[BIG]]), pa.array([[2.5]])], pa.string()),
        ([pa.array([5], pa.uint64()), pa.array([-1])], pa.int64()),
        ([pa.array([2**63 + 1], pa.uint64()), pa.array([-1])], pa.string()),
        ([pa.array(["a"]), pa.array([1])], pa.string()),
        ([pa.array(["a"]).dictionary_encode(), pa.array(["b"])], pa.string()),
        ([pa.array([1], pa.decimal128(30, 10)), pa.array([0.1])], pa.float64()),
        ([pa.array([Decimal("1234567890.0123456789")]), pa.array([0.1])], pa.string()),
        ([pa.array([1], pa.timestamp("us", "UTC")), pa.array([1], pa.timestamp("us"))], pa.string()),
        ([pa.nulls(2), pa.nulls(1)], pa.string()),
        ([pa.array([b"1" * 16], pa.uuid()), pa.nulls(1)], pa.uuid()),
    ],
    ids=lambda value: " and ".join(str(one.type) for one in value) if isinstance(value, list) else str(value),
)
def test_shards_whose_types_differ_have_arrows_common_type_if_it_rounds_nothing(tmp_path, columns, common):
    for order in (columns, columns[::-1]):
        files = shards(tmp_path, *order)
        assert settled(files, tmp_path).field("x").type == common


def test_the_type_does_not_depend_on_where_a_part_ends(tiny, tmp_path, monkeypatch):
    columns = [
        pa.array([0.1] * 40, pa.float32()),
        pa.array([0.1] * 40),
        pa.array([None] * 40, pa.int8()),
        pa.array([{"n": i} for i in range(40)]),
    ]
    for pair in ([0, 1], [2, 0], [3, 0]):
        files, tables = shards(tmp_path, *(columns[i] for i in pair)), []
        for size in (20_000, 10**9):
            monkeypatch.setattr(embedding, "_PART_BYTES", size)
            embed_corpus(files, tmp_path / "out.parquet", tiny, overwrite=True)
            tables.append(pq.read_table(tmp_path / "out.parquet").drop_columns("embedding"))
        assert tables[0].equals(tables[1])


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ([1, 2.5], pa.float64()),
        ([BIG, 2.5], pa.string()),
        ([-BIG, 2.5], pa.string()),
        ([2**63, 1], pa.uint64()),
        ([2**63, -1], pa.string()),
        ([{"time": BIG}, {"time": 0.25}], pa.string()),
        ([[BIG], [0.25]], pa.string()),
        ([{"a": 1}, {"b": None}], pa.struct({"a": pa.int64(), "b": pa.string()})),
        ([{}, None], pa.string()),
        ([[], [None]], pa.list_(pa.string())),
        ([True, None], pa.bool_()),
        ([True, 1], pa.string()),
        ([{f"key {i}": i for i in range(300)}], pa.string()),
        ([None, None], pa.string()),
    ],
)
def test_values_of_json_lines_find_their_type(tiny, tmp_path, monkeypatch, values, told):
    records = [{"id": i, "text": f"row {i}", "x": value} for i, value in enumerate(values)]
    source = lines(tmp_path / "in.jsonl", records)
    assert settled([source], tmp_path).field("x").type == told
    monkeypatch.setattr(embedding, "_PART_BYTES", 3_000)  # a part a row
    embed_corpus([source], tmp_path / "out.parquet", tiny)
    got = pq.read_table(tmp_path / "out.parquet")["x"].to_pylist()
    if told == pa.string():
        assert [value and json.loads(value) for value in got] == values
    elif not pa.types.is_struct(told):
        assert got == values


def test_only_rows_that_can_be_used_decide_the_types(tiny, tmp_path):
    records = [{"id": 1, "text": "a", "x": 1}, {"id": 2, "x": "text"}, {"id": [3], "text": "c", "x": 0.5}]
    assert settled([lines(tmp_path / "in.jsonl", records)], tmp_path).field("x").type == pa.int64()


def test_deep_values_become_text(tiny, tmp_path):
    deep = 1
    for _ in range(200):
        deep = [deep]
    embed_corpus([lines(tmp_path / "in.jsonl", [{"text": "a", "x": deep}])], tmp_path / "out.parquet", tiny)
    assert json.loads(pq.read_table(tmp_path / "out.parquet")["x"][0].as_py()) == deep


def test_formats_have_one_schema_in_order_of_appearance(tiny, tmp_path):
    first = lines(tmp_path / "a.jsonl", [{"id": 1, "text": "one", "n": 5, "only": [1]}])
    second = tmp_path / "b.csv"
    second.write_text("id,text,code\n2,two,007\n")
    (third,) = shards(tmp_path, pa.array([1.5]))
    table = pq.read_table(third)
    pq.write_table(table.rename_columns(["id", "text", "n"]), third)
    (tmp_path / "d.txt").write_text("four")
    embed_corpus([first, second, third, tmp_path / "d.txt"], tmp_path / "out.parquet", tiny)
    rows = pq.read_table(tmp_path / "out.parquet").drop_columns("embedding").to_pylist()
    assert rows[:3] == [
        {"id": "1", "text": "one", "n": 5.0, "only": [1], "code": None},
        {"id": "2", "text": "two", "n": None, "only": None, "code": "007"},
        {"id": "0.0", "text": "row 0 0", "n": 1.5, "only": None, "code": None},
    ]
    assert rows[3]["text"] == "four"


def test_numbers_of_json_do_not_lose_to_parquets_fractions(tmp_path):
    first = lines(tmp_path / "a.jsonl", [{"id": "1", "text": "one", "x": BIG}])
    files = shards(tmp_path, pa.array([1.5]))
    assert settled([first, *files], tmp_path).field("x").type == pa.string()


def test_extension_types_and_categories_survive(tiny, tmp_path):
    table = pa.table(
        {
            "text": ["a", "b"],
            "key": pa.array([b"1" * 16, b"2" * 16], pa.uuid()),
            "doc": pa.array(['{"a": 1}', "[]"], pa.json_()),
            "grid": pa.FixedShapeTensorArray.from_numpy_ndarray(np.ones((2, 2, 2), np.float32)),
        }
    )
    named = pa.field("own", pa.int64(), metadata={"ARROW:extension:name": "my.type", "ARROW:extension:metadata": "m"})
    table = table.append_column(named, pa.array([1, 2]))
    pq.write_table(table, tmp_path / "a.parquet")
    pq.write_table(table.slice(1), tmp_path / "b.parquet")
    embed_corpus([tmp_path / "a.parquet", tmp_path / "b.parquet"], tmp_path / "out.parquet", tiny)
    kept = pq.read_table(tmp_path / "out.parquet")
    assert kept.select(table.column_names).equals(pa.concat_tables([table, table.slice(1)]))
    assert kept.schema.field("own").metadata[b"ARROW:extension:name"] == b"my.type"
    embed_corpus([tmp_path / "a.parquet"], tmp_path / "out.jsonl", tiny)
    row = json.loads((tmp_path / "out.jsonl").read_text().splitlines()[0])
    assert row["key"] == "31313131-3131-3131-3131-313131313131"
    assert row["grid"] == [1, 1, 1, 1]


def test_many_categories_of_narrow_indices(tiny, tmp_path, monkeypatch):
    """An index of a byte has no place for two shards' categories."""
    monkeypatch.setattr(embedding, "_PART_BYTES", 100_000)
    narrow = pa.dictionary(pa.int8(), pa.string())
    columns = [pa.array([f"{shard} {i}" for i in range(100)]).dictionary_encode().cast(narrow) for shard in "ab"]
    embed_corpus(shards(tmp_path, *columns), tmp_path / "out.parquet", tiny)
    got = pq.read_table(tmp_path / "out.parquet")["x"]
    assert got.type == pa.dictionary(pa.int32(), pa.string())
    assert got.to_pylist() == [f"{shard} {i}" for shard in "ab" for i in range(100)]


def test_ids_that_are_a_number_and_text_in_one_file_do_not_become_one(tiny, tmp_path):
    records = [{"id": id_, "text": f"row {i}"} for i, id_ in enumerate([5, "5", "6", 7, "007", "x"])]
    summary = embed_corpus([lines(tmp_path / "in.jsonl", records)], tmp_path / "out.parquet", tiny)
    assert pq.read_table(tmp_path / "out.parquet")["id"].to_pylist() == ["5", "6", "7", "007", "x"]
    assert summary.rejected == 1
    (reject,) = map(json.loads, (tmp_path / "out.parquet.rejects.jsonl").read_text().splitlines())
    assert reject["row"] == 2
    assert 'the id "5" is text, and the number 5 is another id' in reject["reason"]


def test_ids_of_shards_have_one_type(tiny, tmp_path):
    for place, ids in enumerate((pa.array([1, 2], pa.int32()), pa.array([2**63], pa.uint64()), pa.array(["x"]))):
        pq.write_table(pa.table({"id": ids, "text": ["a"] * len(ids)}), tmp_path / f"{place}.parquet")
    files = [tmp_path / f"{i}.parquet" for i in range(3)]
    for count, type_, ids in (
        (1, pa.int64(), [1, 2]),
        (2, pa.string(), ["1", "2", str(2**63)]),
        (3, pa.string(), None),
    ):
        embed_corpus(files[:count], tmp_path / "out.parquet", tiny, overwrite=True)
        column = pq.read_table(tmp_path / "out.parquet")["id"]
        assert column.type == type_
        assert ids is None or column.to_pylist() == ids


def test_the_name_of_a_column_that_is_no_text_is_a_reject(tiny, tmp_path):
    (tmp_path / "in.jsonl").write_text(
        '{"text": "a"}\n{"text": "b", "\\ud800": 1}\n{"text": "c", "m": {"\\ud800": 1}}\n'
    )
    assert embed_corpus([tmp_path / "in.jsonl"], tmp_path / "out.parquet", tiny).rejected == 1
    assert pq.read_table(tmp_path / "out.parquet")["m"].to_pylist() == [None, '{"\ufffd": 1}']


def test_a_file_that_changes_during_the_run_costs_only_the_rows_that_changed(tiny, tmp_path, monkeypatch):
    source = lines(tmp_path / "in.jsonl", [{"id": i, "text": f"row {i}", "n": i} for i in range(20)])
    real = settle_schema

    def settle(*args):
        schema = real(*args)
        source.write_text(source.read_text().replace('"n": 7', '"n": "seven"'))
        return schema

    monkeypatch.setattr("akidb_mlx.corpus.embed.settle_schema", settle)
    summary = embed_corpus([source], tmp_path / "out.parquet", tiny)
    assert (summary.rows, summary.rejected) == (19, 1)
    assert "have not the types they had" in (tmp_path / "out.parquet.rejects.jsonl").read_text()


def test_a_run_that_goes_on_keeps_what_was_settled(tiny, tmp_path, monkeypatch):
    files = shards(tmp_path, pa.array(range(60)), pa.array([i / 2 for i in range(60)]))
    embed_corpus(files, tmp_path / "whole.parquet", tiny)
    monkeypatch.setattr(embedding, "_PART_BYTES", 60_000)
    interrupt(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        embed_corpus(files, tmp_path / "out.parquet", tiny)
    monkeypatch.setattr("akidb_mlx.corpus.embed.settle_schema", None)  # it is not asked again
    assert embed_corpus(files, tmp_path / "out.parquet", tiny).resumed > 0
    tables = [pq.read_table(tmp_path / name).drop_columns("embedding") for name in ("out.parquet", "whole.parquet")]
    assert tables[0].equals(tables[1])


def test_parts_of_a_release_that_settled_nothing_are_not_lost(tiny, tmp_path, monkeypatch):
    files = shards(tmp_path, pa.array(range(60)), pa.array([i / 2 for i in range(60)]))
    monkeypatch.setattr(embedding, "_PART_BYTES", 60_000)
    interrupt(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        embed_corpus(files, tmp_path / "out.parquet", tiny)
    folder = tmp_path / "out.parquet.parts"
    (folder / "schema.arrow").unlink()
    for part in folder.glob("*.arrow"):  # its own types, without a column that later rows have
        with part.open("rb") as stream:
            table = pa.ipc.open_file(stream).read_all()
        table = table.set_column(3, "x", table["x"].cast(pa.int64()))
        with pa.ipc.new_file(part, table.schema) as writer:
            writer.write_table(table)
    assert embed_corpus(files, tmp_path / "out.parquet", tiny).resumed > 0
    table = pq.read_table(tmp_path / "out.parquet")
    assert table["x"].to_pylist() == [*map(float, range(60)), *(i / 2 for i in range(60))]


def test_nested_columns_are_compressed(tiny, tmp_path):
    sentence = "A sentence that says the same thing again. " * 5
    records = [{"id": i, "text": "t", "tags": [sentence, sentence], "meta": {"title": sentence}} for i in range(300)]
    embed_corpus([lines(tmp_path / "in.jsonl", records)], tmp_path / "out.parquet", tiny)
    group = pq.ParquetFile(tmp_path / "out.parquet").metadata.row_group(0)
    columns = [group.column(i) for i in range(group.num_columns)]
    assert {column.compression for column in columns} == {"ZSTD"}
    encodings = {column.path_in_schema: column.encodings for column in columns}
    assert "BYTE_STREAM_SPLIT" in encodings["embedding.list.element"]
    for path in ("tags.list.element", "meta.title"):
        assert "RLE_DICTIONARY" in encodings[path]


def test_two_columns_of_one_name_are_refused(tmp_path):
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array([1]), pa.array([2])], ["text", "n", "n"])
    pq.write_table(table, tmp_path / "in.parquet")
    with pytest.raises(InputError, match=re.escape("two columns of one name: text, n, n")):
        read_corpus([tmp_path / "in.parquet"], tmp_path / "out.parquet")


def test_values_one_by_one_or_together_tell_the_same():
    values = [1, -5, None, {"a": [1, {"b": 2.5}]}, {"c": "x"}, {"a": []}]
    together, one_by_one = Seen(), Seen()
    together.add(values)
    for value in values:
        one_by_one.add([value])
    for seen in (together, one_by_one):
        assert (seen.low, seen.high) == (-5, 1)
        assert seen.type() is None
        assert list(seen.fields) == ["a", "c"]
        assert seen.fields["a"].item.fields["b"].type() == pa.float64()
