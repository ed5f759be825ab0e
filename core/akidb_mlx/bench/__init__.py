"""What a model does on this machine: embedders by the texts' length, rerankers by the candidates' number."""

from akidb_mlx.bench.comparison import Compared, compare
from akidb_mlx.bench.embedder import WORDS, Measured, load_pyplot, measure, plot
from akidb_mlx.bench.reranker import MeasuredReranker, measure_reranker

__all__ = [
    "WORDS",
    "Compared",
    "Measured",
    "MeasuredReranker",
    "compare",
    "load_pyplot",
    "measure",
    "measure_reranker",
    "plot",
]
