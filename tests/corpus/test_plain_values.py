"""What columns hold as Python's values and as JSON: the same with and without pandas, valid by RFC 8259."""

import datetime
import json
import math
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from akidb_mlx.corpus import embed_corpus, read_output
from akidb_mlx.corpus.plain import as_json, as_text, plain_values
from akidb_mlx.errors import InputError

NS = 1764361523123456789


def refused(word):
    raise AssertionError(f"{word} is no JSON")


@pytest.mark.parametrize("pandas", [True, False])
def test_times_that_python_does_not_know_are_text(monkeypatch, pandas):
    if not pandas:
        monkeypatch.setitem(sys.modules, "pandas", None)
    when = datetime.datetime(2025, 11, 28, 20, 25, 23, 123456)
    assert plain_values(pa.array([NS - 789, None], pa.timestamp("ns"))) == [when, None]
    assert plain_values(pa.array([NS, NS - 789], pa.timestamp("ns"))) == [f"{when}789", when]
    assert plain_values(pa.array([NS], pa.timestamp("ns", "Europe/Berlin"))) == ["2025-11-28 21:25:23.123456789+01:00"]
    assert plain_values(pa.array([1], pa.time64("ns"))) == ["00:00:00.000000001"]
    assert plain_values(pa.array([90_000_000_000_001], pa.duration("ns"))) == ["1 day, 1:00:00.000000001"]
    assert plain_values(pa.array([-1], pa.timestamp("ns"))) == ["1969-12-31 23:59:59.999999999"]
    (far,) = plain_values(pa.array([10**14], pa.timestamp("s")))
    assert isinstance(far, str)
    nested = pa.array([{"a": [NS], "b": None}], pa.struct({"a": pa.list_(pa.timestamp("ns")), "b": pa.int8()}))
    assert plain_values(nested) == [{"a": [f"{when}789"], "b": None}]
    mapped = pa.array([[("k", NS)]], pa.map_(pa.string(), pa.timestamp("ns")))
    assert plain_values(mapped) == [[("k", f"{when}789")]]


def test_every_line_is_json():
    record = {
        "a": math.nan,
        "b": [math.inf, {"c": -math.inf}],
        "d": 1.5,
        "e": (math.nan,),
        "f": datetime.date(2026, 1, 2),
    }
    read = json.loads(as_json(record), parse_constant=refused)
    assert read == {"a": None, "b": [None, {"c": None}], "d": 1.5, "e": [None], "f": "2026-01-02"}


def test_values_as_text():
    assert as_text(datetime.date(2026, 1, 2)) == "2026-01-02"
    assert as_text(math.nan) == "nan"
    assert as_text({"a": math.nan}) == '{"a": null}'
    assert as_text("\ud800") == "\ufffd"
    assert as_text(True) == "true"


def test_outputs_of_odd_values(tiny, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    table = pa.table(
        {
            "id": [1, 2],
            "text": ["a", "b"],
            "time": pa.array([NS, None], pa.timestamp("ns")),
            "score": [math.nan, math.inf],
            "inner": [{"x": math.nan}, {"x": -math.inf}],
            "half": pa.array([np.float16(0.5), None], pa.float16()),
        }
    )
    pq.write_table(table, tmp_path / "in.parquet")
    for name, lines in (("out.jsonl", "out.jsonl"), ("out.npy", "out.npy.rows.jsonl")):
        embed_corpus([tmp_path / "in.parquet"], tmp_path / name, tiny)
        rows = [json.loads(line, parse_constant=refused) for line in (tmp_path / lines).read_text().splitlines()]
        assert [row["score"] for row in rows] == [None, None]
        assert [row["inner"] for row in rows] == [{"x": None}, {"x": None}]
        assert rows[0]["time"] == "2025-11-28 20:25:23.123456789"
        assert rows[0]["half"] == 0.5
    embed_corpus([tmp_path / "in.parquet"], tmp_path / "out.parquet", tiny)
    (_, _, records) = next(read_output(tmp_path / "out.parquet"))
    assert records[0]["time"] == rows[0]["time"]
    assert math.isnan(records[0]["score"])


def test_a_row_without_a_vector_is_nan_or_an_error_that_names_it(tmp_path):
    rows = np.arange(8, dtype=np.float32).reshape(4, 2)
    for dtype in (np.float32, np.float16, np.int8):
        values = pa.array(rows.astype(dtype).reshape(-1))
        column = pa.FixedSizeListArray.from_arrays(values, 2, mask=pa.array([False, False, True, False]))
        pq.write_table(pa.table({"id": [1, 2, 3, 4], "embedding": column}), tmp_path / "out.parquet")
        if dtype is np.int8:
            with pytest.raises(InputError, match=r"row 2 has no vector \(null\), and int8 has no NaN"):
                list(read_output(tmp_path / "out.parquet", batch_size=2))
            continue
        read = list(read_output(tmp_path / "out.parquet", batch_size=2))
        assert [ids for ids, _, _ in read] == [[1, 2], [3, 4]]
        got = np.concatenate([vectors for _, vectors, _ in read])
        assert got.dtype == dtype
        assert np.isnan(got[2]).all()
        assert np.array_equal(got[[0, 1, 3]], rows[[0, 1, 3]].astype(dtype))
        assert [records for _, _, records in read] == [[{}, {}], [{}, {}]]


def test_numbers_beyond_float16_are_rejects_and_no_error_at_the_end(tiny, tmp_path):
    class Large:
        config, dimension, fingerprint, stats = tiny.config, 16, tiny.fingerprint, tiny.stats

        def info(self):
            return tiny.info() | {"normalize": False}

        def encode_stream(self, given, chunk_size, *, side, on_error):
            for place, _ in enumerate(given):
                yield np.full((1, 16), 1e6 if place == 1 else 2.0, np.float32)

    (tmp_path / "in.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n{"text": "c"}\n')
    summary = embed_corpus([tmp_path / "in.jsonl"], tmp_path / "out.parquet", Large(), output_dtype="float16")
    assert (summary.rows, summary.rejected) == (2, 1)
    assert "1e+06, beyond float16" in (tmp_path / "out.parquet.rejects.jsonl").read_text()
