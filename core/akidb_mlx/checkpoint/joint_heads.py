"""BGE-M3's further heads: linear layers in files of their own beside an embedder. No MLX here.

sentence-transformers has no class for them; the formulas are the paper's (Chen et al. 2024, section 3.2).
"""

from dataclasses import fields
from pathlib import Path
from typing import Any

from akidb_mlx.checkpoint.facts import Checkpoint, read_checkpoint
from akidb_mlx.checkpoint.heads import Dense, TokenVectorsHead, TokenWeightsHead
from akidb_mlx.checkpoint.json_file import read_json
from akidb_mlx.checkpoint.kinds import kind_of
from akidb_mlx.checkpoint.model_facts import ModelFacts
from akidb_mlx.checkpoint.multi_vector_facts import MultiVectorCheckpoint
from akidb_mlx.checkpoint.safetensors_header import read_header
from akidb_mlx.checkpoint.sparse_facts import SparseCheckpoint
from akidb_mlx.checkpoint.special_tokens import named_token, read_special_tokens
from akidb_mlx.checkpoint.tokenizer_classes import CLASSES
from akidb_mlx.errors import CheckpointError, UnsupportedModelError

__all__ = [
    "MULTI_VECTOR",
    "SPARSE",
    "find_joint_head",
    "has_joint_heads",
    "read_joint_multi_vector",
    "read_joint_sparse",
    "refuse_without_joint_heads",
]

SPARSE, MULTI_VECTOR = "sparse_linear", "colbert_linear"
# Tokens that have no weight in a sparse row.
_WITHOUT_WEIGHT = ("cls_token", "eos_token", "pad_token", "unk_token")


def find_joint_head(path: Path, name: str) -> Path | None:
    """The file in an embedder's folder `path` that holds the linear layer `name`; safetensors before torch's own."""
    files = (path / f"{name}{suffix}" for suffix in (".safetensors", ".pt"))
    found = next((file for file in files if file.exists()), None)
    return found if found is not None and kind_of(path) == "embedder" else None


def has_joint_heads(path: Path) -> bool:
    """Whether the model in folder `path` has several heads over one backbone, which then share its passes."""
    return any(find_joint_head(path, name) is not None for name in (SPARSE, MULTI_VECTOR))


def refuse_without_joint_heads(path: Path, name: str) -> None:
    """Raise UnsupportedModelError where the model lacks one of them."""
    for layer in (SPARSE, MULTI_VECTOR):
        if find_joint_head(path, layer) is None:
            raise UnsupportedModelError(
                f"{name} has no {layer}.safetensors or {layer}.pt ({path}): it does not give dense, sparse and "
                "multi-vector rows in one pass, as BAAI/bge-m3 does. A conversion may have left the files out: copy "
                "them from the original"
            )


def read_joint_sparse(path: Path, file: Path, name: str | None = None, revision: str | None = None) -> SparseCheckpoint:
    """An embedder's facts with the weight per token in `file`."""
    embedder = read_checkpoint(path, name, revision)
    _read_shape(file, _width(embedder), 1)
    vocabulary = embedder.config["vocab_size"]
    head = TokenWeightsHead(file, vocabulary, _without_weight(embedder))
    return SparseCheckpoint(**_shared(embedder, "head", file), head=head, dimension=vocabulary)


def read_joint_multi_vector(
    path: Path, file: Path, name: str | None = None, revision: str | None = None
) -> MultiVectorCheckpoint:
    """An embedder's facts with the vector per token of `file`; the first token has none."""
    embedder = read_checkpoint(path, name, revision)
    width, out = _read_shape(file, _width(embedder), None)
    head = TokenVectorsHead((Dense(MULTI_VECTOR, width, out, True, "identity", False, file),), _normalizes(embedder), 1)
    return MultiVectorCheckpoint(
        **_shared(embedder, "head", file), head=head, written_by="FlagEmbedding", similarity="meanmaxsim"
    )


def _shared(embedder: Checkpoint, fact: str, file: Path) -> dict[str, Any]:
    """What every kind of model has."""
    facts = {field.name: getattr(embedder, field.name) for field in fields(ModelFacts)}
    sources = {name: source for name, source in embedder.sources.items() if name in facts or name == "architecture"}
    return facts | {"sources": {**sources, fact: file.name}}


def _width(embedder: Checkpoint) -> int:
    return int(embedder.config["hidden_size"])


def _normalizes(embedder: Checkpoint) -> bool:
    return bool(embedder.normalize)


def _read_shape(file: Path, width: int, out: int | None) -> tuple[int, int]:
    """(in, out) of the linear layer in a file."""
    header = read_header(file)
    shapes = {name: list(tensor["shape"]) for name, tensor in header.items()}
    weight = shapes.get("weight", [])
    if set(shapes) != {"weight", "bias"} or len(weight) != 2 or shapes["bias"] != weight[:1]:
        raise CheckpointError(f"{file} should hold a linear layer (weight and bias); it holds {shapes}")
    if weight[1] != width or out not in (None, weight[0]):
        raise CheckpointError(
            f"{file} has a layer of {weight[1]} → {weight[0]}, where {width} → {out or 'any'} is needed"
        )
    return weight[1], weight[0]


def _without_weight(embedder: Checkpoint) -> tuple[int, ...]:
    folder = embedder.tokenizer_file.parent
    file = folder / "tokenizer_config.json"
    special = read_special_tokens(folder, read_json(file) if file.exists() else {})
    known = CLASSES.get(embedder.rebuilt_tokenizer(None).class_name or "")
    try:
        names = [named_token(special, name, None if known is None else known.tokens) for name in _WITHOUT_WEIGHT]
    except LookupError as error:
        raise CheckpointError(f"{file} names no {error.args[0]}, which has no weight in a sparse row; add it") from None
    ids = _ids(embedder.tokenizer_file)
    unknown = [token for token in names if token is not None and token not in ids]
    if unknown:
        raise CheckpointError(f"{embedder.tokenizer_file} has no token {unknown[0]!r}, which {file.name} names")
    return tuple(sorted({ids[token] for token in names if token is not None}))


def _ids(file: Path) -> dict[str, int]:
    """Token → id of a tokenizer.json."""
    said = read_json(file)
    vocabulary = (said.get("model") or {}).get("vocab") or {}
    pairs = vocabulary.items() if isinstance(vocabulary, dict) else ((one[0], at) for at, one in enumerate(vocabulary))
    added = {token["content"]: token["id"] for token in said.get("added_tokens") or ()}
    return dict(pairs) | added
