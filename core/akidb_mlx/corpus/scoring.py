"""A reranker in an embedder's place: pairs in, rows of one score out, so that a run of pairs is a run of texts."""

from collections.abc import Iterable, Iterator, Sequence
from os import PathLike
from typing import Any

from akidb_mlx.config.reranker_config import RerankerConfig
from akidb_mlx.corpus.embed import Summary, read_corpus
from akidb_mlx.errors import ConfigError
from akidb_mlx.reranker import Pair, Reranker
from akidb_mlx.vectors import Embeddings

__all__ = ["PairScorer", "rerank_corpus"]


class PairScorer:
    """What `Corpus.embed` wants of an encoder, by a reranker; close that yourself."""

    dimension = 1

    def __init__(self, reranker: Reranker) -> None:
        """Score with `reranker`.

        Raises:
            ConfigError: it has several labels, of which none says which is the score.
        """
        if reranker.num_labels != 1:
            raise ConfigError(
                f"{reranker.config.model} gives {reranker.num_labels} scores per pair; a column holds one: take a "
                "reranker with one label, or Reranker.predict"
            )
        self._reranker = reranker

    @property
    def config(self) -> RerankerConfig:
        """The reranker's."""
        return self._reranker.config

    @property
    def fingerprint(self) -> str:
        """The reranker's."""
        return self._reranker.fingerprint

    def info(self) -> dict[str, Any]:
        """The reranker's."""
        return self._reranker.info()

    def stats(self) -> dict[str, Any]:
        """The reranker's."""
        return self._reranker.stats()

    def encode_stream(
        self, texts: Iterable[Pair], chunk_size: int = 256, *, side: Any = None, on_error: Any = None
    ) -> Iterator[Embeddings]:
        """(≤ chunk_size, 1) scores in order; a pair without one has NaN, after `on_error(place, error)`."""
        chunks = self._reranker.predict_stream(texts, chunk_size, on_error=on_error)
        return (scores.reshape(-1, 1) for scores in chunks)


def rerank_corpus(
    inputs: Sequence[str | PathLike[str]],
    output: str | PathLike[str],
    reranker: Reranker,
    *,
    query_column: str = "query",
    show_progress: bool = False,
    **options: Any,
) -> Summary:
    """Score the pairs of tables: `read_corpus` with its options, then a column `score` beside the kept ones."""
    corpus = read_corpus(inputs, output, query_column=query_column, **options)
    return corpus.embed(PairScorer(reranker), show_progress=show_progress)
