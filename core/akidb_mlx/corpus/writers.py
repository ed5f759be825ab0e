"""Parts → the output, in the format of its suffix, under its name only when it is whole.

OUT.parquet carries its recipe in its metadata (key `akidb_mlx`); OUT.jsonl and OUT.npy have it beside them in
OUT.meta.json, and OUT.npy its ids and kept columns in OUT.rows.jsonl. Rejected rows are in OUT.rejects.jsonl.
"""

import io
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from akidb_mlx.corpus.arrays import make_vectors, read_vectors
from akidb_mlx.corpus.merging import fit
from akidb_mlx.corpus.output import KEY, beside, records_of
from akidb_mlx.corpus.parts import Parts, replaced
from akidb_mlx.corpus.plain import as_json
from akidb_mlx.corpus.quantization import OUTPUT_DTYPES, quantize
from akidb_mlx.errors import ConfigError

__all__ = ["FORMATS", "check_format", "parquet_options", "write_output"]

# Rows of a row group: the file does not depend on where the parts begin and end.
_GROUP = 8192


def write_output(output: Path, parts: Parts, schema: pa.Schema, recipe: Mapping[str, Any]) -> None:
    """Put the parts together. The output's own name appears last: where it is, everything is."""
    scores = recipe.get("kind") == "reranker"
    computed = ("score", pa.float32()) if scores else ("embedding", pa.list_(pa.float32(), recipe["dimension"]))
    schema = schema.remove_metadata().insert(1, pa.field(*computed))
    regrouped = _regrouped(parts, schema)
    batches = regrouped if scores else _quantized(regrouped, recipe)
    rejects = beside(output, "rejects.jsonl")
    if any(facts.rejected for facts in parts.facts):
        with replaced(rejects) as stream:
            stream.writelines(parts.rejects())
    else:
        rejects.unlink(missing_ok=True)
    if output.suffix != ".parquet":
        with replaced(beside(output, "meta.json")) as stream:
            stream.write(json.dumps(recipe, indent=2, ensure_ascii=False).encode())
    rows = sum(facts.rows for facts in parts.facts)
    with replaced(output) as stream:
        FORMATS[output.suffix](stream, output, batches, rows, recipe)


def _regrouped(parts: Parts, schema: pa.Schema) -> Iterator[pa.Table]:
    """Tables of _GROUP rows whatever the parts' sizes; the last may have fewer."""
    waiting = pa.table([pa.nulls(0, field.type) for field in schema], schema=schema)  # extension types too
    for table in parts.tables():
        waiting = pa.concat_tables([waiting, _fitted(table, schema)])
        while len(waiting) >= _GROUP:
            yield waiting.slice(0, _GROUP).combine_chunks()
            waiting = waiting.slice(_GROUP)
    yield waiting.combine_chunks()


def _fitted(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The part in the settled schema, which it has unless an earlier release wrote it."""
    names = table.column_names
    columns = [table[name] if name in names else pa.nulls(len(table)) for name in schema.names]
    return pa.table([fit(column, field.type) for column, field in zip(columns, schema, strict=True)], schema=schema)


def _quantized(tables: Iterator[pa.Table], recipe: Mapping[str, Any]) -> Iterator[pa.Table]:
    for table in tables:
        index = table.schema.get_field_index("embedding")
        rows = quantize(read_vectors(table["embedding"]), recipe["output_dtype"], recipe["calibration"])
        yield table.set_column(index, "embedding", make_vectors(rows))


Write = Callable[[BinaryIO, Path, Iterator[pa.Table], int, Mapping[str, Any]], None]


def _write_parquet(
    stream: BinaryIO, output: Path, tables: Iterator[pa.Table], rows: int, recipe: Mapping[str, Any]
) -> None:
    first = next(tables)
    schema = first.schema.with_metadata({KEY: json.dumps(recipe)})
    with pq.ParquetWriter(stream, schema, **parquet_options(schema, recipe)) as writer:
        writer.write_table(first)
        for table in tables:
            if len(table):
                writer.write_table(table)


def parquet_options(schema: pa.Schema, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """How each leaf is written: pyarrow takes no column's name for one with leaves."""
    computed = "score" if recipe.get("kind") == "reranker" else "embedding"
    leaves = _leaves(schema)
    others = [leaf for leaf in leaves if leaf.partition(".")[0] != computed]
    numbers = [leaf for leaf in leaves if leaf.partition(".")[0] == computed]
    # Parquet spends four bytes on an int8 unless it is an index into a dictionary.
    small, split = (recipe.get("output_dtype", "float32") in types for types in (("int8", "binary"), ("float32",)))
    return {
        "compression": "zstd",
        "use_dictionary": leaves if small else others,
        "write_statistics": others,
        # The first bytes of floats are alike: split from the others they compress. DuckDB 2.0 reads no float16 so.
        "column_encoding": dict.fromkeys(numbers, "BYTE_STREAM_SPLIT") if split else None,
    }


def _leaves(schema: pa.Schema) -> list[str]:
    """The paths of a schema's leaves in Parquet."""
    empty = io.BytesIO()
    with pq.ParquetWriter(empty, schema):
        pass
    columns = pq.ParquetFile(empty).schema
    return [columns.column(place).path for place in range(len(columns))]


def _write_jsonl(
    stream: BinaryIO, output: Path, tables: Iterator[pa.Table], rows: int, recipe: Mapping[str, Any]
) -> None:
    for table in tables:
        if recipe.get("kind") == "reranker":
            stream.writelines(_scored_lines(table))
            continue
        vectors = read_vectors(table["embedding"])
        # Arrow writes the shortest digits that give the same float32 again; Python would write a float64's.
        numbers = pc.cast(pa.array(vectors.astype(np.float32).reshape(-1)), pa.string())
        offsets = pa.array(np.arange(len(vectors) + 1, dtype=np.int64) * vectors.shape[1])
        joined = pc.binary_join(pa.LargeListArray.from_arrays(offsets, numbers), ",")
        for record, row in zip(records_of(table.drop_columns("embedding")), joined, strict=True):
            stream.write(f'{as_json(record)[:-1]}, "embedding": [{row.as_py()}]}}\n'.encode())


def _scored_lines(table: pa.Table) -> Iterator[bytes]:
    numbers = pc.cast(table["score"], pa.string())
    for record, number in zip(records_of(table.drop_columns("score")), numbers, strict=True):
        yield f'{as_json(record)[:-1]}, "score": {number.as_py()}}}\n'.encode()


def _write_npy(
    stream: BinaryIO, output: Path, tables: Iterator[pa.Table], rows: int, recipe: Mapping[str, Any]
) -> None:
    name = "score" if recipe.get("kind") == "reranker" else "embedding"
    dtype = np.dtype(OUTPUT_DTYPES[recipe.get("output_dtype", "float32")])
    header: dict[str, Any] | None = None
    with replaced(beside(output, "rows.jsonl")) as others:
        for table in tables:
            numbers = table[name].to_numpy() if name == "score" else read_vectors(table[name])
            if header is None:
                header = {"descr": dtype.str, "fortran_order": False, "shape": (rows, *numbers.shape[1:])}
                np.lib.format.write_array_header_1_0(stream, header)
            stream.write(np.ascontiguousarray(numbers, dtype).tobytes())
            for record in records_of(table.drop_columns(name)):
                others.write(as_json(record).encode() + b"\n")


FORMATS: dict[str, Write] = {".parquet": _write_parquet, ".jsonl": _write_jsonl, ".npy": _write_npy}


def check_format(output: Path) -> None:
    """Raise ConfigError where the suffix says no format."""
    if output.suffix not in FORMATS:
        raise ConfigError(f"cannot tell the format of {output}: its name must end in {', '.join(FORMATS)}")
