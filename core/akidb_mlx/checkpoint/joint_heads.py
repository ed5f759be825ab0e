"""BGE-M3's further heads: linear layers in files of their own beside an embedder. No MLX here."""

from pathlib import Path

__all__ = ["MULTI_VECTOR", "SPARSE", "find_joint_head", "has_joint_heads"]

SPARSE, MULTI_VECTOR = "sparse_linear", "colbert_linear"


def find_joint_head(path: Path, name: str) -> Path | None:
    """The file in folder `path` that holds the linear layer `name`; safetensors before torch's own."""
    files = (path / f"{name}{suffix}" for suffix in (".safetensors", ".pt"))
    return next((file for file in files if file.exists()), None)


def has_joint_heads(path: Path) -> bool:
    """Whether the model in folder `path` has several heads over one backbone, which then share its passes."""
    return any(find_joint_head(path, name) is not None for name in (SPARSE, MULTI_VECTOR))
