"""Models with packed weights: `convert` writes one, and says what it is."""

from akidb_mlx.convert.conversion import Conversion, convert
from akidb_mlx.model.packing import MIXES, MODES, Packing

__all__ = ["MIXES", "MODES", "Conversion", "Packing", "convert"]
