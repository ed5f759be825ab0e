"""The table of docs/corpora.md: which tools read what `embed` writes, as what, and what they refuse.

Each tool is tested where it is installed; Daft wants an earlier pyarrow than this project, hence a place of its own.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from akidb_mlx import Embedder
from akidb_mlx.corpus import embed_corpus
from akidb_mlx.corpus.writers import parquet_options
from support.checkpoints import REFERENCE
from support.packages import needs
from support.places import DOCS

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]  # the tools' own warnings are not ours

DTYPES = ("float32", "float16", "int8", "binary")
COUNT = 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """TYPE.parquet, null-TYPE.parquet whose third row has no vector, and folders with two types in either order."""
    folder = tmp_path_factory.mktemp("written")
    rows = [{"id": i, "text": f"text {i} of some {i * 7 % 5}"} for i in range(COUNT)]
    (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with Embedder.load(REFERENCE / "bert-prompts") as embedder:
        for dtype in DTYPES:
            embed_corpus([folder / "in.jsonl"], folder / f"{dtype}.parquet", embedder, output_dtype=dtype)
    for dtype in ("float32", "float16"):
        table = pq.read_table(folder / f"{dtype}.parquet")
        rows = table["embedding"].to_pylist()
        rows[2] = None
        table = table.set_column(1, "embedding", pa.array(rows, table["embedding"].type))
        pq.write_table(
            table, folder / f"null-{dtype}.parquet", **parquet_options(table.schema, {"output_dtype": dtype})
        )
    for name, dtypes in (("int8 first", ("int8", "float32")), ("float32 first", ("float32", "int8"))):
        (folder / name).mkdir()
        for place, dtype in enumerate(dtypes):
            shutil.copy(folder / f"{dtype}.parquet", folder / name / f"{place}.parquet")
    return folder


def matrix(folder, dtype):
    """The rows of a file, read by NumPy's way."""
    column = pq.read_table(folder / f"{dtype}.parquet")["embedding"].combine_chunks()
    return column.flatten().to_numpy(zero_copy_only=False).reshape(COUNT, -1)


def same(rows, folder, dtype):
    """Whether a tool's rows are the file's, number by number."""
    return np.array_equal(np.array([list(row) for row in rows]), matrix(folder, dtype))


def read_by_duckdb(files):
    import duckdb

    found = duckdb.sql(f"select embedding from read_parquet({files}) order by file_row_number, filename").fetchall()
    return [row for (row,) in found]


def read_by_polars(files):
    import polars

    return polars.read_parquet(files)["embedding"].to_list()


def read_by_pandas(files):
    import pandas

    return list(pandas.read_parquet(files)["embedding"])


def read_by_pyarrow(files):
    return pq.read_table(files)["embedding"].to_pylist()


def read_by_datasets(files):
    import datasets

    place = Path(files[0]).parent / "cache"
    shutil.rmtree(place, ignore_errors=True)
    loaded = datasets.load_dataset("parquet", data_files=files, cache_dir=str(place), split="train")
    return loaded["embedding"][:]


def read_by_daft(files):
    import daft

    return list(daft.read_parquet(files).to_pydict()["embedding"])


READERS = {
    "duckdb": read_by_duckdb,
    "polars": read_by_polars,
    "pandas": read_by_pandas,
    "pyarrow": read_by_pyarrow,
    "datasets": read_by_datasets,
    "daft": read_by_daft,
}


@pytest.mark.parametrize("tool", READERS)
def test_every_type_is_read_as_it_is_and_a_missing_vector_is_null(folder, tool):
    needs(tool)
    for dtype in DTYPES:
        assert same(READERS[tool]([str(folder / f"{dtype}.parquet")]), folder, dtype), dtype
    for dtype in ("float32", "float16"):
        rows = READERS[tool]([str(folder / f"null-{dtype}.parquet")])
        assert [row is None for row in rows] == [False, False, True, False, False]
        assert np.array_equal(list(rows[3]), matrix(folder, dtype)[3])


# What comes of int8 and float32 in one folder, by which comes first: an error, or one's numbers as the other's type.
MIXED = {
    "duckdb": ("floats as int8", "int8 as floats"),
    "polars": ("error", "error"),
    "pandas": ("error", "int8 as floats"),
    "pyarrow": ("error", "int8 as floats"),
    "datasets": ("error", "int8 as floats"),
    "daft": ("floats as int8", "int8 as floats"),
}


@pytest.mark.parametrize("tool", READERS)
def test_two_types_in_one_folder_are_read_wrongly_or_not_at_all(folder, tool):
    needs(tool)
    for name, expected in zip(("int8 first", "float32 first"), MIXED[tool], strict=True):
        try:
            rows = READERS[tool](sorted(map(str, (folder / name).glob("*.parquet"))))
        except Exception:
            assert expected == "error", name
            continue
        assert len(rows) == 2 * COUNT
        whole = [np.equal(np.mod(row, 1), 0).all() for row in rows]
        assert expected == ("floats as int8" if all(whole) else "int8 as floats"), name


def test_ray_data_reads_each_type(folder):
    needs("ray.data")
    import ray

    ray.init(num_cpus=2, log_to_driver=False, logging_level="ERROR", include_dashboard=False)
    try:
        for dtype in DTYPES:
            table = ray.data.read_parquet(str(folder / f"{dtype}.parquet"))
            assert pa.types.is_fixed_size_list(table.schema().types[1])
            rows = {row["id"]: row["embedding"] for row in table.take_all()}
            assert same([rows[i] for i in range(COUNT)], folder, dtype)
        for name in ("int8 first", "float32 first"):
            rows = ray.data.read_parquet(str(folder / name)).take_all()
            assert sum(np.equal(np.mod(row["embedding"], 1), 0).all() for row in rows) == COUNT  # int8 as floats
        rows = ray.data.read_parquet(str(folder / "null-float32.parquet")).take_all()
        assert [row["id"] for row in rows if row["embedding"] is None] == [2]
    finally:
        ray.shutdown()


def test_lance_keeps_the_types_and_searches_floats_and_bits(folder, tmp_path):
    needs("lance")
    import lance

    for dtype in (*DTYPES, "null-float32", "null-float16"):
        table = pq.read_table(folder / f"{dtype}.parquet")
        dataset = lance.write_dataset(table, str(tmp_path / dtype))
        assert dataset.to_table()["embedding"].combine_chunks().equals(table["embedding"].combine_chunks())
        nearest = {"column": "embedding", "q": table["embedding"][1].values, "k": 1}
        if dtype == "int8":
            with pytest.raises(ValueError, match="element type Int8"):
                dataset.to_table(nearest=nearest)
        else:
            assert dataset.to_table(nearest=nearest).num_rows == 1
        if "float" in dtype:
            assert dataset.to_table(nearest=nearest)["id"].to_pylist() == [1]


def test_what_is_appended_takes_the_first_type_in_lancedb_and_is_refused_by_lance(folder, tmp_path):
    needs("lance", "lancedb")
    import lance
    import lancedb

    first, second = (pq.read_table(folder / f"{dtype}.parquet") for dtype in ("int8", "float32"))
    lance.write_dataset(first, str(tmp_path / "lance"))
    with pytest.raises(OSError, match="different schema"):
        lance.write_dataset(second, str(tmp_path / "lance"), mode="append")
    table = lancedb.connect(tmp_path / "database").create_table("a", first)
    table.add(second)
    assert not np.any(table.to_arrow()["embedding"].to_pylist()[-1])  # zeros


def test_lancedb_takes_each_type_but_no_missing_vector(folder, tmp_path):
    needs("lancedb")
    import lancedb

    database = lancedb.connect(tmp_path / "lance")
    for dtype in DTYPES:
        assert database.create_table(dtype, pq.read_table(folder / f"{dtype}.parquet")).count_rows() == COUNT
    for dtype in ("float32", "float16"):
        (found,) = database[dtype].search(matrix(folder, dtype)[1], vector_column_name="embedding").limit(1).to_list()
        assert found["id"] == 1
    with pytest.raises(Exception, match="on_bad_vectors"):
        database.create_table("missing", pq.read_table(folder / "null-float32.parquet"))


def test_usearch_takes_each_type_as_it_is(folder):
    needs("usearch.index")
    from usearch.index import Index

    for dtype, kind, metric in (
        ("float32", "f32", "cos"),
        ("float16", "f16", "cos"),
        ("int8", "i8", "cos"),
        ("binary", "b1", "hamming"),
    ):
        rows = matrix(folder, dtype)
        index = Index(ndim=rows.shape[1] * (8 if dtype == "binary" else 1), dtype=kind, metric=metric)
        index.add(np.arange(COUNT), rows)
        assert index.search(rows[1], 1).distances[0] <= 1e-3
        if dtype != "binary":  # bits may be alike
            assert index.search(rows[1], 1).keys[0] == 1


def test_faiss_takes_floats_int8_as_floats_and_bits(folder):
    needs("faiss")
    import faiss

    for dtype in DTYPES:
        rows = matrix(folder, dtype)
        index = faiss.IndexBinaryFlat(rows.shape[1] * 8) if dtype == "binary" else faiss.IndexFlatIP(rows.shape[1])
        index.add(rows if dtype == "binary" else rows.astype(np.float32))
        _, places = index.search(rows[1:2] if dtype == "binary" else rows[1:2].astype(np.float32), 1)
        if dtype == "binary":
            assert np.array_equal(rows[places[0, 0]], rows[1])
        elif dtype != "int8":  # of int8 rows products rank by length too
            assert places[0, 0] == 1


def test_qdrant_takes_floats_and_int8(folder):
    needs("qdrant_client")
    from qdrant_client import QdrantClient, models

    for dtype in ("float32", "float16", "int8"):
        rows = matrix(folder, dtype)
        client = QdrantClient(":memory:")
        vectors = models.VectorParams(size=rows.shape[1], distance=models.Distance.COSINE)
        client.create_collection("a", vectors_config=vectors)
        client.upload_collection("a", vectors=rows, ids=list(range(COUNT)))
        (found,) = client.query_points("a", query=rows[1].astype(float).tolist(), limit=1).points
        assert found.id == 1


def test_the_page_has_a_row_for_each_tool():
    page = (DOCS / "corpora.md").read_text(encoding="utf-8")
    table = page[page.index("## Who reads it") :]
    tools = [
        "pyarrow",
        "pandas",
        "polars",
        "DuckDB",
        "datasets",
        "Daft",
        "Ray Data",
        "Lance",
        "LanceDB",
        "usearch",
        "FAISS",
    ]
    for tool in [*tools, "Qdrant"]:
        assert f"| {tool} " in table, tool
