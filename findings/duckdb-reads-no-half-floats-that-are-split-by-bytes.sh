#!/usr/bin/env bash
# duckdb 2.0.1 reading what pyarrow 26.0.1 writes: float16 with the encoding BYTE_STREAM_SPLIT.
# Guess: an encoding that is read for float32 and float64 is read for float16 as well, which the format allows since 2.11.
# What happens: float32 is read right; of float16 the file ends in an error, while the same column in plain encoding is read.
# Whom it hits: whoever stores embeddings as float16 and takes the encoding that makes float32 ones smallest.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" -q install --disable-pip-version-check duckdb==2.0.1 pyarrow==26.0.1 numpy
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

numbers = np.linspace(-1, 1, 100)
seen = {}
for dtype in ("float32", "float16"):
    table = pa.table({"x": pa.array(numbers.astype(dtype))})
    for encoding in ("PLAIN", "BYTE_STREAM_SPLIT"):
        file = f"{dtype}-{encoding}.parquet"
        pq.write_table(table, file, use_dictionary=False, column_encoding={"x": encoding})
        assert pq.read_table(file).equals(table)
        try:
            read = np.array(duckdb.sql(f"SELECT x FROM '{file}'").fetchall(), float)[:, 0]
            seen[dtype, encoding] = bool(np.array_equal(read, table["x"].to_numpy().astype(float)))
        except duckdb.Error as error:
            seen[dtype, encoding] = type(error).__name__
        print(duckdb.__version__, pa.__version__, dtype, encoding, seen[dtype, encoding])
assert seen["float32", "PLAIN"] is seen["float32", "BYTE_STREAM_SPLIT"] is seen["float16", "PLAIN"] is True
assert seen["float16", "BYTE_STREAM_SPLIT"] is not True
PY
