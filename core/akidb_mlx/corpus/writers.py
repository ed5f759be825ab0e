"""Parts → the output, in the format of its suffix, under its name only when it is whole.

OUT.parquet carries its recipe in its metadata (key `akidb_mlx`); OUT.jsonl and OUT.npy have it beside them in
OUT.meta.json, and OUT.npy its ids and kept columns in OUT.rows.jsonl. Rejected rows are in OUT.rejects.jsonl.
"""

import base64
import collections
import contextlib
import io
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from akidb_mlx.corpus.arrays import as_json_column, make_vectors, read_token_vectors, read_vectors
from akidb_mlx.corpus.forms import COMPUTED, Form
from akidb_mlx.corpus.merging import fit
from akidb_mlx.corpus.output import KEY, beside, records_of
from akidb_mlx.corpus.parts import Parts, replaced
from akidb_mlx.corpus.plain import as_json
from akidb_mlx.corpus.quantization import OUTPUT_DTYPES, quantize
from akidb_mlx.corpus.splitting import CHUNK
from akidb_mlx.errors import ConfigError

__all__ = ["FORMATS", "Output", "check_format", "parquet_options"]

# Rows of a row group: the file does not depend on where the parts begin and end.
_GROUP = 8192
_GROUP_BYTES = 2**25
_FLOATS = ("float32", "float16")


class Output:
    """What the parts are put together to; its own name appears last: where it is, everything is."""

    def __init__(
        self,
        path: Path,
        parts: Parts,
        schema: pa.Schema,
        form: Form,
        recipe: Mapping[str, Any],
        whole_recipe: Callable[[], Mapping[str, Any]],
    ) -> None:
        """`recipe` says what is known from the start; `whole_recipe` gives all of it once the last part is there."""
        self.path = path
        self.form = form
        self.recipe = recipe
        self._parts = parts
        self._schema = self._with_own_columns(schema.remove_metadata())
        self._whole_recipe = whole_recipe

    def _with_own_columns(self, schema: pa.Schema) -> pa.Schema:
        if self.recipe.get("split") is not None:
            schema = schema.insert(1, pa.field(CHUNK, pa.int32()))
        for place, own in enumerate(self.form.fields(), 1):
            schema = schema.insert(place, own)
        return schema

    def write(self, tables: Iterator[pa.Table]) -> None:
        """Write it of all parts' tables, which may come one by one; the whole recipe is asked for behind the last."""
        if self.recipe.get("output_dtype", "float32") not in _FLOATS or "vectors" in self.form.names:
            collections.deque(tables, maxlen=0)  # how they are made small, or grouped, is known with the last part
            tables, self.recipe = self._parts.tables(), self._whole_recipe()
        batches = _regrouped(tables, self._schema, _group(self._parts, self.form))
        if "embedding" in self.form.names:
            batches = _quantized(batches, self.recipe)
        with replaced(self.path) as stream:
            FORMATS[self.path.suffix](stream, self, batches)
            self._write_beside()

    def whole(self) -> Mapping[str, Any]:
        """The whole recipe."""
        return self._whole_recipe()

    @property
    def sizes(self) -> tuple[int, int]:
        """Rows and, where each token has one, vectors so far."""
        facts = self._parts.facts
        return sum(part.rows for part in facts), sum(part.vectors for part in facts)

    def _write_beside(self) -> None:
        rejects = beside(self.path, "rejects.jsonl")
        if any(facts.rejected for facts in self._parts.facts):
            with replaced(rejects) as stream:
                stream.writelines(self._parts.rejects())
        else:
            rejects.unlink(missing_ok=True)
        if self.path.suffix != ".parquet":
            with replaced(beside(self.path, "meta.json")) as stream:
                stream.write(json.dumps(self.whole(), indent=2, ensure_ascii=False).encode())


def _group(parts: Parts, form: Form) -> int:
    """Rows of a row group, by what a row takes on average: the parts have no say."""
    rows, vectors = (sum(getattr(facts, name) for facts in parts.facts) for name in ("rows", "vectors"))
    if not vectors:
        return _GROUP
    return min(_GROUP, max(64, int(_GROUP_BYTES * rows / (4 * form.widths["vectors"] * vectors))))


def _regrouped(tables: Iterator[pa.Table], schema: pa.Schema, group: int) -> Iterator[pa.Table]:
    """Tables of `group` rows whatever the parts' sizes; the last may have fewer."""
    waiting = pa.table([pa.nulls(0, field.type) for field in schema], schema=schema)  # extension types too
    for table in tables:
        waiting = pa.concat_tables([waiting, _fitted(table, schema)])
        while len(waiting) >= group:
            yield waiting.slice(0, group).combine_chunks()
            waiting = waiting.slice(group)
    yield waiting.combine_chunks()


def _fitted(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The part in the settled schema, which it has unless an earlier release wrote it."""
    names = table.column_names
    columns = [table[name] if name in names else pa.nulls(len(table)) for name in schema.names]
    return pa.table([fit(column, field.type) for column, field in zip(columns, schema, strict=True)], schema=schema)


def _quantized(tables: Iterator[pa.Table], recipe: Mapping[str, Any]) -> Iterator[pa.Table]:
    for table in tables:
        index = table.schema.get_field_index("embedding")
        rows = quantize(read_vectors(table["embedding"]), recipe["output_dtype"], recipe.get("calibration"))
        yield table.set_column(index, "embedding", make_vectors(rows))


Write = Callable[[BinaryIO, Output, Iterator[pa.Table]], None]


def _write_parquet(stream: BinaryIO, output: Output, tables: Iterator[pa.Table]) -> None:
    first = next(tables)
    # The schema with the recipe, as pyarrow itself would store it; but the recipe is whole only with the last part.
    options = {**parquet_options(first.schema, output.recipe), "store_schema": False}
    with pq.ParquetWriter(stream, first.schema, **options) as writer:
        writer.write_table(first)
        for table in tables:
            if len(table):
                writer.write_table(table)
        recipe = json.dumps(output.whole())
        stored = base64.b64encode(first.schema.with_metadata({KEY: recipe}).serialize().to_pybytes()).decode()
        writer.add_key_value_metadata({"ARROW:schema": stored, KEY.decode(): recipe})


def parquet_options(schema: pa.Schema, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """How each leaf is written: pyarrow takes no column's name for one with leaves."""
    own = COMPUTED[recipe.get("kind", "dense")]
    leaves = _leaves(schema)
    # Parquet spends four bytes on an int8 unless it is an index into a dictionary.
    small = recipe.get("output_dtype") in ("int8", "uint8", "binary", "ubinary")
    numbers = [path for path in leaves if path.partition(".")[0] in own and path.partition(".")[2] != _INDICES]
    others = [path for path in leaves if path not in numbers]
    # The first bytes of floats are alike: split from the others they compress. DuckDB 2.0 reads no float16 so.
    split = {path: "BYTE_STREAM_SPLIT" for path in numbers if leaves[path] == "FLOAT"}
    return {
        "compression": "zstd",
        "use_dictionary": list(leaves) if small else others,
        "write_statistics": [path for path in others if path.partition(".")[0] not in own],
        "column_encoding": split or None,
    }


_INDICES = "indices.list.element"


def _leaves(schema: pa.Schema) -> dict[str, str]:
    """The paths of a schema's leaves in Parquet, and what they are there."""
    empty = io.BytesIO()
    with pq.ParquetWriter(empty, schema):
        pass
    columns = pq.ParquetFile(empty).schema
    return {columns.column(place).path: columns.column(place).physical_type for place in range(len(columns))}


def _write_jsonl(stream: BinaryIO, output: Output, tables: Iterator[pa.Table]) -> None:
    for table in tables:
        columns = [[f'"{name}": {text}' for text in as_json_column(table[name])] for name in output.form.names]
        for record, *own in zip(records_of(table.drop_columns(list(output.form.names))), *columns, strict=True):
            stream.write(f"{as_json(record)[:-1]}, {', '.join(own)}}}\n".encode())


def _write_npy(stream: BinaryIO, output: Output, tables: Iterator[pa.Table]) -> None:
    """One array. Where tokens have vectors, all of them below one another, and OUT.offsets.npy says whose they are."""
    name = output.form.names[0]
    dtype = np.dtype(OUTPUT_DTYPES[output.recipe.get("output_dtype", "float32")])
    with contextlib.ExitStack() as files:
        others = files.enter_context(replaced(beside(output.path, "rows.jsonl")))
        offsets = None
        if name == "vectors":
            offsets = files.enter_context(replaced(beside(output.path, "offsets.npy")))
            write_header(offsets, np.dtype(np.int64), (output.sizes[0] + 1,))
            offsets.write(np.zeros(1, np.int64).tobytes())
        done, width = 0, None
        for table in tables:
            if offsets is not None:
                multi = read_token_vectors(table[name])
                numbers: Any = multi.vectors
                offsets.write((multi.offsets[1:] + done).tobytes())
            else:
                numbers = table[name].to_numpy() if name == "score" else read_vectors(table[name])
            if width is None:
                width = numbers.shape[1:]
                write_header(stream, dtype, (0, *width))  # it keeps room for any number of rows
            done += len(numbers)
            stream.write(np.ascontiguousarray(numbers, dtype).tobytes())
            for record in records_of(table.drop_columns([name])):
                others.write(as_json(record).encode() + b"\n")
        stream.seek(0)
        write_header(stream, dtype, (done, *(width or ())))


def write_header(stream: BinaryIO, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    """What NumPy writes before an array's numbers."""
    header = {"descr": dtype.str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)


FORMATS: dict[str, Write] = {".parquet": _write_parquet, ".jsonl": _write_jsonl, ".npy": _write_npy}


def check_format(output: Path, kind: str = "dense") -> None:
    """Raise ConfigError where the suffix says no format, or one that has no place for this kind of rows."""
    if output.suffix not in FORMATS:
        raise ConfigError(f"cannot tell the format of {output}: its name must end in {', '.join(FORMATS)}")
    if output.suffix == ".npy" and kind in ("sparse", "hybrid"):
        raise ConfigError(f"one array cannot hold rows of kind {kind}: write {output.stem}.parquet or .jsonl")
