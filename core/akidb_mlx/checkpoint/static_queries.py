"""Queries without the model: a weight for each token that stands in them (SparseStaticEmbedding). No MLX here."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from akidb_mlx.checkpoint.json_file import read_field, read_json
from akidb_mlx.checkpoint.rebuilt_tokenizer import RebuiltTokenizer, TokenizerKind, rebuild_tokenizer
from akidb_mlx.checkpoint.safetensors_header import read_header
from akidb_mlx.checkpoint.torch_zip import is_torch_file, read_torch_arrays
from akidb_mlx.errors import CheckpointError, UnsupportedModelError

__all__ = ["StaticQueries", "read_static_queries"]

_WEIGHT = "weight"
_WITHOUT_TOKENS = frozenset({"frozen", "path"})


@dataclass(frozen=True)
class StaticQueries:
    """How a query becomes a row: its tokens, each once, times their weights."""

    tokenizer_file: Path
    max_seq_length: int | None
    """Tokens of a query that count, as tokenizer_config.json says it; None for any number."""
    truncation_side: str | None
    source: str
    """The file of the weights, relative to the checkpoint's folder."""
    weights: NDArray[np.float32] = field(repr=False, compare=False)
    """(dimension,)."""

    def rebuilt_tokenizer(self, kind: TokenizerKind) -> RebuiltTokenizer:
        """The tokenizer as sentence-transformers has it, or the file as it stands."""
        return rebuild_tokenizer(self.tokenizer_file, kind)


def read_static_queries(path: Path, folder: str) -> StaticQueries:
    """The SparseStaticEmbedding in `folder` of the checkpoint `path`; its weights are read whole, 4 bytes per token."""
    home = path / folder
    file = home / "config.json"
    said = read_json(file)
    unknown = said.keys() - _WITHOUT_TOKENS
    if unknown:
        raise UnsupportedModelError(f"{file}: {min(unknown)} is not known")
    tokenizer_file = home / "tokenizer.json"
    if not tokenizer_file.exists():
        raise CheckpointError(f"{tokenizer_file} is missing; download the checkpoint again")
    stated = home / "tokenizer_config.json"
    config = read_json(stated) if stated.exists() else {}
    side = config.get("truncation_side")
    if side not in (None, "left", "right"):
        raise CheckpointError(f"{stated}: truncation_side is {side!r}; it must be left or right")
    limit = config.get("model_max_length")
    length = int(limit) if isinstance(limit, int | float) and 0 < limit < 10**9 else None  # 1e30: no limit
    if said.get("path") is not None:
        weight_file = _idf_file(path, home, file, read_field(file, said, "path", str))
        weights = _read_idf(weight_file, tokenizer_file)
    else:
        weight_file = _weight_file(home)
        weights = _read_weight(weight_file)
    return StaticQueries(tokenizer_file, length, side, weight_file.relative_to(path).as_posix(), weights)


def _weight_file(home: Path) -> Path:
    for file in (home / "model.safetensors", home / "pytorch_model.bin"):
        if file.exists():
            return file
    raise CheckpointError(f"{home / 'model.safetensors'} is missing: queries have no weights; download it again")


def _read_weight(file: Path) -> NDArray[np.float32]:
    header = read_header(file)
    if set(header) != {_WEIGHT} or len(header[_WEIGHT]["shape"]) != 1:
        raise UnsupportedModelError(f"{file} holds {sorted(header)}; wanted is `{_WEIGHT}` alone, a number per token")
    tensor = header[_WEIGHT]
    if is_torch_file(file):
        raw = next(array for names, _, array in read_torch_arrays(file) if _WEIGHT in names).tobytes()
    else:
        data = file.read_bytes()
        start = 8 + int.from_bytes(data[:8], "little")
        first, last = tensor["data_offsets"]
        raw = data[start + first : start + last]
    return _floats(file, tensor["dtype"], raw)


def _floats(file: Path, dtype: str, raw: bytes) -> NDArray[np.float32]:
    if dtype == "BF16":  # the upper half of a float32
        return (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
    plain = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}
    if dtype not in plain:
        raise UnsupportedModelError(f"{file}: `{_WEIGHT}` is stored as {dtype}, where floats are wanted")
    return np.frombuffer(raw, plain[dtype]).astype(np.float32)


def _idf_file(path: Path, home: Path, file: Path, said: str) -> Path:
    """The reference looks where the process works and on the Hub; here it is a file of the checkpoint or an error."""
    if not said.endswith(".json"):
        raise UnsupportedModelError(f"{file}: path {said!r}: only a .json file of the checkpoint's own is supported")
    if not Path(said).is_absolute() and ".." not in Path(said).parts:
        for folder in (home, path):
            if (folder / said).is_file():
                return folder / said
    raise UnsupportedModelError(
        f"{file}: the words' weights are in {said!r}, which is no file of this checkpoint; copy it to {home} and name "
        "it there, or save the model again with sentence-transformers, which writes them as weights"
    )


def _read_idf(file: Path, tokenizer_file: Path) -> NDArray[np.float32]:
    """The weight of each token; a word that is none gives its weight to the unknown token, as in the reference."""
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} cannot be read as JSON ({error}); download it again") from None
    if not isinstance(said, dict) or not all(_is_number(value) for value in said.values()):
        raise CheckpointError(f"{file} must map words to numbers")
    known, unknown = _vocabulary(tokenizer_file)
    weights = np.zeros(len(known), np.float32)
    for word, weight in said.items():
        number = known.get(word, unknown)
        if number is None or number >= len(weights):
            raise UnsupportedModelError(f"{file}: {word!r} is no token of {tokenizer_file}")
        weights[number] = weight
    return weights


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _vocabulary(file: Path) -> tuple[dict[str, int], int | None]:
    """Token → its number, and the unknown token's."""
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises bare Exception
        raise CheckpointError(f"{file} cannot be read ({error}); download it again") from None
    token = getattr(tokenizer.model, "unk_token", None)
    return tokenizer.get_vocab(), None if token is None else tokenizer.token_to_id(token)
