"""A reranker in an embedder's place: pairs in, rows of one score out, so that a run of pairs is a run of texts."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from os import PathLike
from typing import Any

import numpy as np

from akidb_mlx.config.reranker_config import RerankerConfig
from akidb_mlx.corpus.embed import Summary, read_corpus
from akidb_mlx.errors import AkiDBMLXError, BackendError, ConfigError, InputError
from akidb_mlx.reranker import Pair, Reranker
from akidb_mlx.vectors import Embeddings

__all__ = ["PairScorer", "rerank_corpus"]

# Chunks that are read and scored ahead: while the device computes one, the next is tokenised.
_AHEAD = 2
_Scored = tuple[Embeddings, dict[int, AkiDBMLXError]]


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
                f"{reranker.config.model} gives {reranker.num_labels} scores a pair; a column holds one: take a "
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
        pairs, first = iter(texts), 0
        ahead: deque[Future[_Scored]] = deque()
        with ThreadPoolExecutor(_AHEAD) as threads:
            more = True
            while more or ahead:
                chunk = list(islice(pairs, chunk_size)) if more else []
                more = bool(chunk)
                if chunk:
                    ahead.append(threads.submit(self._score, chunk))
                if ahead and (len(ahead) == _AHEAD or not more):
                    rows, errors = ahead.popleft().result()
                    for place, error in errors.items():
                        _tell(on_error, first + place, error)
                    yield rows
                    first += len(rows)

    def _score(self, pairs: Sequence[Pair]) -> _Scored:
        """Scores, and by place the reasons of pairs that have none; a bad one is found by halves."""
        try:
            return self._reranker.predict(pairs).reshape(-1, 1), {}
        except (InputError, BackendError) as error:
            if len(pairs) == 1:
                return np.full((1, 1), np.nan, np.float32), {0: error}
        half = len(pairs) // 2
        before, errors = self._score(pairs[:half])
        after, others = self._score(pairs[half:])
        return np.concatenate([before, after]), errors | {half + place: error for place, error in others.items()}


def _tell(on_error: Any, place: int, error: AkiDBMLXError) -> None:
    if on_error is None:
        raise error
    on_error(place, error)


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
