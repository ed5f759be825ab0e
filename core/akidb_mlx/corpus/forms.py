"""What a run computes for each row, by the encoder's kind: the output's columns, in parts and in files."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import pyarrow as pa

from akidb_mlx.corpus.arrays import make_scores, make_sparse, make_token_vectors, make_vectors
from akidb_mlx.errors import ConfigError
from akidb_mlx.hybrid_embedder import Hybrid
from akidb_mlx.multi_vectors import MultiVectors
from akidb_mlx.sparse_rows import SparseRows

__all__ = ["COMPUTED", "KINDS", "Form", "form_of", "kind_of"]

KINDS: Final = ("dense", "sparse", "multi", "hybrid")
# The output's own columns beside `id`.
COMPUTED: Final[Mapping[str, tuple[str, ...]]] = {
    "dense": ("embedding",),
    "sparse": ("sparse",),
    "multi": ("vectors",),
    "hybrid": ("embedding", "sparse", "vectors"),
    "reranker": ("score",),
}
_OUTPUT_DTYPES = {"sparse": ("float32",), "multi": ("float32", "float16"), "hybrid": ("float32", "float16")}
_TOKEN_ROWS = 256
_ROWS = 4096


@dataclass(frozen=True)
class Form:
    """The rows of one run."""

    kind: str
    widths: Mapping[str, int]
    """Dimension of each computed column."""
    output_dtype: str

    @property
    def names(self) -> tuple[str, ...]:
        """The computed columns."""
        return COMPUTED[self.kind]

    @property
    def largest_chunk(self) -> int:
        """Most texts that are asked for at a time: each of their tokens may have a vector."""
        return _TOKEN_ROWS if "vectors" in self.names else _ROWS

    def rows(self, chunk: Any) -> Iterator[Any]:
        """A row for each text of what `encode_stream` gives."""
        return zip(chunk.dense, chunk.sparse, chunk.multi, strict=True) if self.kind == "hybrid" else iter(chunk)

    def together(self, rows: Sequence[Any]) -> Any:
        """Rows, or None where there is none, as `encode_stream` gives them."""
        if self.kind == "hybrid":
            parts = [[None if row is None else row[place] for row in rows] for place in range(3)]
            return Hybrid(*(self._joined(name, part) for name, part in zip(self.names, parts, strict=True)))
        return self._joined(self.names[0], rows)

    def _joined(self, name: str, rows: Sequence[Any]) -> Any:
        width = self.widths[name]
        if name == "sparse":
            return SparseRows.of(rows, width)
        if name == "vectors":
            return MultiVectors.of(rows, width)
        matrix = np.full((len(rows), width), np.nan, np.float32)
        for place, row in enumerate(rows):
            if row is not None:
                matrix[place] = row
        return matrix

    def size(self, row: Any) -> int:
        """Bytes of a row; None has none yet."""
        if self._fixed is not None:
            return self._fixed
        return 0 if row is None else sum(map(self.size, row)) if isinstance(row, tuple) else int(np.size(row)) * 4

    @cached_property
    def _fixed(self) -> int | None:
        """Where all rows take the same."""
        return 4 * self.widths[self.names[0]] if self.kind in ("dense", "reranker") else None

    def largest(self, row: Any) -> float:
        """Magnitude of the largest number that the output's type must hold."""
        by_name = dict(zip(self.names, row if self.kind == "hybrid" else (row,), strict=True))
        numbers = [np.abs(numbers).max(initial=0.0) for name, numbers in by_name.items() if name != "sparse"]
        return float(max(numbers, default=0.0))

    def columns(self, rows: Sequence[Any]) -> dict[str, pa.Array]:
        """The computed columns of a part. Dense vectors stay float32 until all are known; tokens' have their type."""
        parts = zip(*rows, strict=True) if self.kind == "hybrid" and rows else [rows] * len(self.names)
        return {name: self._column(name, list(part)) for name, part in zip(self.names, parts, strict=True)}

    def _column(self, name: str, rows: list[Any]) -> pa.Array:
        width = self.widths[name]
        if name == "sparse":
            return make_sparse(rows, width)
        if name == "vectors":
            return make_token_vectors(rows, width, self.output_dtype)
        matrix = np.empty((len(rows), width), np.float32)
        for place, row in enumerate(rows):
            matrix[place] = row
        return make_vectors(matrix) if name == "embedding" else make_scores(matrix)

    def fields(self) -> list[pa.Field]:
        """The computed columns' types in a part."""
        columns = self.columns([])
        metadata = {"sparse": {"dimension": str(self.widths["sparse"])}} if "sparse" in self.widths else {}
        return [pa.field(name, column.type, metadata=metadata.get(name)) for name, column in columns.items()]


def kind_of(info: Mapping[str, Any]) -> str:
    """The kind of an encoder, by what its `info` says."""
    told = str(info.get("kind", "dense"))
    return {"embedder": "dense", "multi_vector": "multi"}.get(told, told)


def form_of(info: Mapping[str, Any], dimension: int, kind: str, output_dtype: str) -> Form:
    """The form of an encoder's rows.

    Raises:
        ConfigError: the encoder is of another kind, or numbers of that kind cannot have this type.
    """
    if kind_of(info) != kind:
        raise ConfigError(f"the columns are those of kind {kind}, but the encoder is of kind {kind_of(info)}")
    allowed = _OUTPUT_DTYPES.get(kind)
    if allowed is not None and output_dtype not in allowed:
        raise ConfigError(f"output_dtype is {output_dtype!r}; of kind {kind} it may be {', '.join(allowed)}")
    if kind != "hybrid":
        return Form(kind, {COMPUTED[kind][0]: dimension}, output_dtype)
    sparse, multi = (info[name].get("dimension", dimension) for name in ("sparse", "multi_vector"))
    return Form(kind, {"embedding": dimension, "sparse": sparse, "vectors": multi}, output_dtype)
