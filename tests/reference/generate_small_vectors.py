"""Make the expected numbers of small vectors: sentence-transformers' quantize_embeddings on rows of unit length.

    python generate_small_vectors.py

Some rows have numbers beyond the range of the data that the calibration is given, some zeros.
"""

from pathlib import Path

import numpy as np
from sentence_transformers.util import quantize_embeddings

HERE = Path(__file__).parent


def main() -> None:
    random = np.random.default_rng(0)
    rows = random.standard_normal((9, 24)).astype(np.float32) * random.uniform(0.2, 2, 24).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    rows[0, :3], rows[1, 3] = 0, -0.0
    data = rows[:6]
    arrays = {"rows": rows, "data": data}
    for precision in ("int8", "uint8", "binary", "ubinary"):
        arrays[precision] = quantize_embeddings(rows, precision=precision, calibration_embeddings=data)
    (HERE / "small_vectors").mkdir(exist_ok=True)
    np.savez(HERE / "small_vectors" / "expected.npz", **arrays)


if __name__ == "__main__":
    main()
