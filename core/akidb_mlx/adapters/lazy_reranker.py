"""A reranker that loads on first use, with Python floats for scores."""

from collections.abc import Sequence

from akidb_mlx.adapters.lazy import Lazy
from akidb_mlx.config.multi_vector_config import MultiVectorConfig
from akidb_mlx.config.reranker_config import RerankerConfig
from akidb_mlx.errors import InputError
from akidb_mlx.remote.reranker import RemoteReranker
from akidb_mlx.reranker import Pair, Ranked, Reranker, RerankerProtocol

__all__ = ["LazyReranker"]


class LazyReranker(Lazy[RerankerConfig, RerankerProtocol]):
    """Scores come as Python floats; nothing to score gives nothing, without loading anything."""

    config_class = RerankerConfig
    remote_class = RemoteReranker
    argument = "reranker"
    protocol = "RerankerProtocol"
    needs = ("predict", "rank", "apredict", "arank")
    also_takes = (MultiVectorConfig,)  # which rank by MaxSim

    def _make(self, config: RerankerConfig) -> RerankerProtocol:
        return Reranker.load(config)

    def rank(self, query: str, texts: Sequence[str], top_k: int | None) -> list[Ranked]:
        """Texts by their score, best first, equal ones in the given order; at most `top_k`."""
        return _plain(self.load().rank(query, texts, top_k)) if texts else []

    async def arank(self, query: str, texts: Sequence[str], top_k: int | None) -> list[Ranked]:
        """`rank` without blocking the event loop."""
        return _plain(await (await self.aload()).arank(query, texts, top_k)) if texts else []

    def score(self, pairs: Sequence[Pair]) -> list[float]:
        """The score of each pair, in their order; InputError where the model gives several a pair."""
        if isinstance(pairs, list | tuple) and not pairs:
            return []
        scores = self.load().predict(pairs)
        if scores.ndim != 1:
            raise InputError(
                f"this model gives {scores.shape[1]} scores for a pair, where one is wanted: take a reranker of one "
                "label, or load().predict and the label that you mean"
            )
        plain: list[float] = scores.tolist()
        return plain


def _plain(ranking: Sequence[Ranked]) -> list[Ranked]:
    """Whatever numbers a reranker of one's own gives."""
    return [Ranked(int(place), float(score)) for place, score in ranking]
