"""What frameworks pass as texts, checked before they cut it into batches."""

from akidb_mlx.pipeline.inputs import checked

__all__ = ["checked"]
