"""Reading what was written: the recipe, and ids, vectors and columns in batches."""

import json
from collections.abc import Callable, Iterator
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from akidb_mlx.corpus.arrays import read_sparse, read_token_vectors, read_vectors
from akidb_mlx.corpus.forms import COMPUTED
from akidb_mlx.corpus.plain import plain_values
from akidb_mlx.errors import InputError
from akidb_mlx.hybrid_embedder import Hybrid
from akidb_mlx.multi_vectors import MultiVectors

__all__ = ["KEY", "beside", "open_vectors", "read_output", "read_recipe", "records_of", "size_of"]

KEY = b"akidb_mlx"


def read_recipe(output: str | PathLike[str]) -> dict[str, Any]:
    """How a file's vectors were made: model, prompts, fingerprint, calibration, columns.

    Raises:
        InputError: it cannot be read, or `akidb-mlx embed` did not write it.
    """
    output = Path(output)
    try:
        if output.suffix == ".parquet":
            text = (pq.read_schema(output).metadata or {}).get(KEY, b"null")
        else:
            output.stat()
            meta = beside(output, "meta.json")
            text = meta.read_bytes() if meta.exists() else b"null"
        recipe: dict[str, Any] | None = json.loads(text)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(f"cannot read the recipe of {output}: {' '.join(str(error).split())}") from None
    if recipe is None:
        raise InputError(f"{output} carries no recipe: akidb-mlx did not write it")
    return recipe


def read_output(
    output: str | PathLike[str], batch_size: int = 1024
) -> Iterator[tuple[list[Any], Any, list[dict[str, Any]]]]:
    """Ids, (n, dimension) vectors and the kept columns of a Parquet output, a batch at a time.

    The vectors are NumPy's: as Python floats they would take eight times the memory. A row without a vector, as
    `akidb_mlx.ray` writes for texts that have none, is NaN. Times that Python has no object for are text. Instead of an
    array the other kinds of rows are `SparseRows`, `MultiVectors` or a `Hybrid`.

    Raises:
        InputError: no file of vectors, or a row without one where numbers cannot be NaN.
    """
    with pq.ParquetFile(output) as file:
        own = _computed(file.schema_arrow)
        if not own:
            raise InputError(f"{output} has no column 'embedding'; a table of scores is read with pyarrow or pandas")
        first = 0
        for batch in file.iter_batches(batch_size):
            table = pa.table(batch)
            rows = {name: _read_rows(table, name, first, output) for name in own}
            records = records_of(table.drop_columns(["id", *own]))
            yield plain_values(table["id"]), _together(rows), records
            first += len(batch)


_TYPES: dict[str, Callable[[pa.DataType], bool]] = {
    "embedding": pa.types.is_fixed_size_list,
    "sparse": pa.types.is_struct,
    "vectors": lambda type_: pa.types.is_list(type_) and pa.types.is_fixed_size_list(type_.value_type),
}


def _computed(schema: pa.Schema) -> list[str]:
    """The columns of a file's rows: by its recipe; of a file without one (Ray's) by their names and types."""
    recipe = json.loads((schema.metadata or {}).get(KEY, b"null"))
    if recipe is not None:
        return [name for name in COMPUTED[recipe.get("kind", "dense")] if name != "score"]
    return [name for name, fits in _TYPES.items() if name in schema.names and fits(schema.field(name).type)]


def _read_rows(table: pa.Table, name: str, first: int, output: Any) -> Any:
    if name == "embedding":
        return read_vectors(table[name], first)
    if name == "vectors":
        return read_token_vectors(table[name])
    dimension = (table.schema.field(name).metadata or {}).get(b"dimension")
    if dimension is None:
        raise InputError(f"{output} does not say the dimension of its column {name!r}: another program wrote it")
    return read_sparse(table[name], int(dimension))


def _together(rows: dict[str, Any]) -> Any:
    """The rows of one kind; of a hybrid's three a `Hybrid`."""
    if len(rows) == 1:
        return next(iter(rows.values()))
    return Hybrid(rows["embedding"], rows["sparse"], rows["vectors"])


def open_vectors(output: str | PathLike[str]) -> MultiVectors:
    """The vectors of tokens of OUT.npy and OUT.offsets.npy, mapped into memory: read where they are used.

    Raises:
        InputError: one of the two cannot be read.
    """
    output = Path(output)
    try:
        offsets = np.load(beside(output, "offsets.npy"), mmap_mode="r")
        return MultiVectors(np.load(output, mmap_mode="r"), offsets)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read the vectors of tokens in {output}: {error}") from None


def size_of(output: Path) -> int:
    """Bytes that an output takes, with its side files but for the rejects."""
    files = [output, *(beside(output, name) for name in ("meta.json", "rows.jsonl", "offsets.npy"))]
    return sum(file.stat().st_size for file in files if file.exists())


def records_of(table: pa.Table) -> list[dict[str, Any]]:
    """A table's rows as Python's values."""
    columns = [plain_values(column) for column in table.columns]
    names = table.column_names
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)] or [
        {} for _ in range(len(table))
    ]


def beside(output: Path, name: str) -> Path:
    """The name of a file that belongs to an output."""
    return output.with_name(f"{output.name}.{name}")
