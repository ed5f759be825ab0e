"""Files of any size become vectors or scores, and survive interruption; needs the extra `[corpus]` (pyarrow).

In the order of the flow: sources → columns → schema → readers → embedding → parts → writers; `embed` is the whole, and
`forms` says what is computed for a row.
"""

import importlib.util

from akidb_mlx.errors import ConfigError

if importlib.util.find_spec("pyarrow") is None:
    raise ConfigError('reading and writing corpora needs pyarrow: pip install "akidb-mlx[corpus]"')

from akidb_mlx.corpus.embed import Corpus, Summary, embed_corpus, read_corpus
from akidb_mlx.corpus.embedding import Encoder
from akidb_mlx.corpus.encoders import load_encoder
from akidb_mlx.corpus.output import open_vectors, read_output, read_recipe
from akidb_mlx.corpus.quantization import quantize
from akidb_mlx.corpus.scoring import PairScorer, rerank_corpus

__all__ = [
    "Corpus",
    "Encoder",
    "PairScorer",
    "Summary",
    "embed_corpus",
    "load_encoder",
    "open_vectors",
    "quantize",
    "read_corpus",
    "read_output",
    "read_recipe",
    "rerank_corpus",
]
