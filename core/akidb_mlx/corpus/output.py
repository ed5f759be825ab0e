"""Reading what was written: the recipe, and ids, vectors and columns in batches."""

import json
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from akidb_mlx.corpus.arrays import read_vectors
from akidb_mlx.corpus.plain import plain_values
from akidb_mlx.errors import InputError

__all__ = ["KEY", "beside", "read_output", "read_recipe", "records_of"]

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
) -> Iterator[tuple[list[Any], NDArray[Any], list[dict[str, Any]]]]:
    """Ids, (n, dimension) vectors and the kept columns of a Parquet output, a batch at a time.

    The vectors are NumPy's: as Python floats they would take eight times the memory. A row without a vector, as
    `akidb_mlx.ray` writes for texts that have none, is NaN. Times that Python has no object for are text.

    Raises:
        InputError: no file of vectors, or a row without one where numbers cannot be NaN.
    """
    with pq.ParquetFile(output) as file:
        if "embedding" not in file.schema_arrow.names:
            raise InputError(f"{output} has no column 'embedding'; a table of scores is read with pyarrow or pandas")
        first = 0
        for batch in file.iter_batches(batch_size):
            table = pa.table(batch)
            vectors = read_vectors(table["embedding"], first)
            yield plain_values(table["id"]), vectors, records_of(table.drop_columns(["id", "embedding"]))
            first += len(batch)


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
