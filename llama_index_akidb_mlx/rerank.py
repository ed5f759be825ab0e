"""AkiDBMLXRerank: LlamaIndex's node postprocessor over `akidb_mlx.Reranker`."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from llama_index.core.callbacks import CBEventType, EventPayload
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import BaseNode, MetadataMode, NodeWithScore, QueryBundle
from pydantic import ConfigDict, Field

from akidb_mlx import Ranked
from akidb_mlx.adapters.base import RerankerAdapter
from akidb_mlx.config.options import ModelName
from llama_index_akidb_mlx.settled import SettledComponent

__all__ = ["AkiDBMLXRerank"]

_dispatcher = get_dispatcher(__name__)
_RETRIEVAL_SCORE = "retrieval_score"


class AkiDBMLXRerank(SettledComponent, RerankerAdapter, BaseNodePostprocessor):
    """Nodes reranked by how well they answer a query, on this machine with MLX.

    The scores are those of sentence-transformers' CrossEncoder.

    `pip install "akidb-mlx[llama-index]"`; on Linux also one of the extras `cpu`, `cuda12`, `cuda13`.

    `model_name` (or `model`) is a local folder, `package:NAME` or a Hub id; further arguments are every field of
    `akidb_mlx.RerankerConfig`, `top_n` and `keep_retrieval_score`. What is not given comes from
    `AKIDB_MLX_RERANKER_*` variables, then the `reranker:` section of a YAML file, then the checkpoint; all of it is
    read once, here, and shows in the fields. `reranker` is a ready `akidb_mlx.Reranker` (or a `FakeReranker`) in
    place of a model and its settings.

    Nothing is loaded until the first use (or `load()`); objects with the same settings share one model. Nodes are
    given back with their new scores as new objects; yours are left alone. `top_n` may be changed at any time.

    Examples:
        ```python
        from llama_index_akidb_mlx import AkiDBMLXRerank

        rerank = AkiDBMLXRerank(model_name="cross-encoder/ms-marco-MiniLM-L6-v2", top_n=5)
        engine = index.as_query_engine(similarity_top_k=50, node_postprocessors=[rerank])
        ```

    Raises:
        ConfigError: (a `ValueError`) an unknown name or a bad value.
    """

    model_config = ConfigDict(protected_namespaces=(), validate_assignment=True)

    if TYPE_CHECKING:  # both names are taken, and both can be read
        model: ModelName = Field(default_factory=ModelName)
        model_name: ModelName = Field(default_factory=ModelName)
    else:
        model_name: ModelName = Field(
            default="", description="A local folder, package:NAME (an installed package with a model), or a Hub id."
        )
    top_n: int = Field(default=2, gt=0, strict=True, description="Nodes that are kept at most.")
    keep_retrieval_score: bool = Field(
        default=False,
        description="Keep the score that a node came with as metadata `retrieval_score`, unseen by LLM and embedder.",
    )

    @classmethod
    def class_name(cls) -> str:
        """The name under which it is serialised.

        Examples:
            >>> AkiDBMLXRerank.class_name()
            'AkiDBMLXRerank'
        """
        return "AkiDBMLXRerank"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        query = _query_of(query_bundle)
        if not nodes:
            return []
        with self._announced(nodes, query) as best:
            best += self._reranked(nodes, self._lazy.rank(query, _texts(nodes), self.top_n))
        return best

    async def _apostprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        query = _query_of(query_bundle)
        if not nodes:
            return []
        with self._announced(nodes, query) as best:
            best += self._reranked(nodes, await self._lazy.arank(query, _texts(nodes), self.top_n))
        return best

    @contextmanager
    def _announced(self, nodes: list[NodeWithScore], query: str) -> Iterator[list[NodeWithScore]]:
        """Both kinds of LlamaIndex's events around what fills the list that this gives."""
        best: list[NodeWithScore] = []
        _dispatcher.event(ReRankStartEvent(query=query, nodes=nodes, top_n=self.top_n, model_name=self.model_name))
        payload: dict[str, Any] = {
            EventPayload.NODES: nodes,
            EventPayload.MODEL_NAME: self.model_name,
            EventPayload.QUERY_STR: query,
            EventPayload.TOP_K: self.top_n,
        }
        with self.callback_manager.event(CBEventType.RERANKING, payload=payload) as event:
            yield best
            event.on_end(payload={EventPayload.NODES: best})
        _dispatcher.event(ReRankEndEvent(nodes=best))

    def _reranked(self, nodes: Sequence[NodeWithScore], ranking: Sequence[Ranked]) -> list[NodeWithScore]:
        return [self._scored(nodes[place], score) for place, score in ranking]

    def _scored(self, found: NodeWithScore, score: float) -> NodeWithScore:
        node = _with_retrieval_score(found.node, found.score) if self.keep_retrieval_score else found.node
        return found.model_copy(update={"node": node, "score": score})


def _query_of(query_bundle: QueryBundle | None) -> str:
    if query_bundle is None:
        raise ValueError("reranking needs the query: pass query_str= or query_bundle= to postprocess_nodes")
    return query_bundle.query_str


def _texts(nodes: Sequence[NodeWithScore]) -> list[str]:
    return [node.node.get_content(MetadataMode.EMBED) for node in nodes]


def _with_retrieval_score(node: BaseNode, score: float | None) -> BaseNode:
    """A copy of a node that knows the score it was found with, and keeps that from LLM and embedder."""
    changes: dict[str, Any] = {"metadata": {**node.metadata, _RETRIEVAL_SCORE: score}}
    for name in ("excluded_llm_metadata_keys", "excluded_embed_metadata_keys"):
        hidden = getattr(node, name)
        changes[name] = hidden if _RETRIEVAL_SCORE in hidden else [*hidden, _RETRIEVAL_SCORE]
    return node.model_copy(update=changes)
