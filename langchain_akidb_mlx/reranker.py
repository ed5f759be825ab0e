"""AkiDBMLXReranker: LangChain's document compressor and cross-encoder over `akidb_mlx.Reranker`."""

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from langchain_core.callbacks import Callbacks
from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import BaseDocumentCompressor, Document
from pydantic import AliasChoices, Field

from akidb_mlx import Ranked
from akidb_mlx.adapters.base import RerankerAdapter
from akidb_mlx.config.options import ModelName
from langchain_akidb_mlx.frozen import FrozenModel

__all__ = ["AkiDBMLXReranker"]

_OWN = -1  # as in LangChain's other rerankers


class AkiDBMLXReranker(FrozenModel, RerankerAdapter, BaseDocumentCompressor, BaseCrossEncoder):
    """Documents reranked by how well they answer a query, on this machine with MLX.

    The scores are those of sentence-transformers' CrossEncoder.

    Setup:
        `pip install "akidb-mlx[langchain]"`; on Linux also one of the extras `cpu`, `cuda12`, `cuda13`.

    Key init args:
        model (or model_name):
            A local folder, `package:NAME` or a Hub id.
        activation, prompt, max_seq_length, …:
            Every field of `akidb_mlx.RerankerConfig`. What is not given comes from `AKIDB_MLX_RERANKER_*` variables,
            then the `reranker:` section of a YAML file, then the checkpoint; all of it is read once, here, and shows
            in the fields.
        reranker:
            A ready `akidb_mlx.Reranker` (or a `FakeReranker`) in place of all these.
        top_n, score_threshold:
            How many documents are kept at most (None: all), and the least score that is.
        metadata_key:
            Where a document's score stands in its metadata.

    Instantiate:
        Nothing is loaded until the first use (or `load()`); objects with the same settings share one model.

        ```python
        from langchain_akidb_mlx import AkiDBMLXReranker

        reranker = AkiDBMLXReranker(model="cross-encoder/ms-marco-MiniLM-L6-v2", top_n=5)
        ```

    Rerank what a retriever finds:
        ```python
        from langchain_classic.retrievers import ContextualCompressionRetriever

        retriever = ContextualCompressionRetriever(
            base_compressor=reranker, base_retriever=store.as_retriever(search_kwargs={"k": 50})
        )
        retriever.invoke("What is MLX?")[0].metadata["relevance_score"]
        ```

    Rerank documents:
        ```python
        reranker.compress_documents(documents, "What is MLX?")
        reranker.rerank(["MLX is an array framework.", "A second text."], "What is MLX?")
        ```

    Async:
        ```python
        await reranker.acompress_documents(documents, "What is MLX?")
        await reranker.arerank(documents, "What is MLX?")
        ```

    Raises:
        ConfigError: (a `ValueError`) an unknown name or a bad value.
    """

    if TYPE_CHECKING:  # both names are taken, and both can be read
        model: ModelName = Field(default_factory=ModelName)
        model_name: ModelName = Field(default_factory=ModelName)
    else:
        model: ModelName = Field(
            default="",
            validation_alias=AliasChoices("model", "model_name"),
            description="A local folder, package:NAME (an installed package with a model), or a Hub id.",
        )
    top_n: int | None = Field(
        default=3, gt=0, strict=True, description="Documents that are kept at most. None keeps all."
    )
    score_threshold: float | None = Field(
        default=None,
        strict=True,
        allow_inf_nan=False,
        description="Documents below this score are left out. Its scale is the model's: see `activation`.",
    )
    metadata_key: str = Field(
        default="relevance_score", min_length=1, description="The key of a document's metadata that holds its score."
    )

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """The best documents, best first: copies with their score in the metadata; ids are kept.

        Examples:
            >>> documents = [Document("snow"), Document("a harbour")]
            >>> [document.metadata for document in compressor.compress_documents(documents, "where do boats lie?")]
            [{'relevance_score': 0...}, {'relevance_score': 0...}]
        """
        texts = _contents(documents)
        return self._compressed(documents, self._lazy.rank(query, texts, self.top_n))

    async def acompress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """`compress_documents` without blocking the event loop.

        Examples:
            >>> documents = [Document("snow"), Document("a harbour")]
            >>> len(asyncio.run(compressor.acompress_documents(documents, "where do boats lie?")))
            2
        """
        texts = _contents(documents)
        return self._compressed(documents, await self._lazy.arank(query, texts, self.top_n))

    def rerank(
        self, documents: Sequence[str | Document | Mapping[str, Any]], query: str, *, top_n: int | None = _OWN
    ) -> list[dict[str, Any]]:
        """`{"index", "relevance_score"}` of the best documents, best first; `index` is the place in `documents`.

        A document may be a text, a Document or `{"text": …}`. `top_n` is the object's own where it is -1; None: all.

        Examples:
            >>> compressor.rerank(["snow", "a harbour"], "where do boats lie?", top_n=1)
            [{'index': ..., 'relevance_score': 0...}]
        """
        return self._results(self._lazy.rank(query, _texts(documents), self._wanted(top_n)))

    async def arerank(
        self, documents: Sequence[str | Document | Mapping[str, Any]], query: str, *, top_n: int | None = _OWN
    ) -> list[dict[str, Any]]:
        """`rerank` without blocking the event loop.

        Examples:
            >>> len(asyncio.run(compressor.arerank(["snow", "a harbour"], "where do boats lie?", top_n=1)))
            1
        """
        return self._results(await self._lazy.arank(query, _texts(documents), self._wanted(top_n)))

    def score(self, text_pairs: list[tuple[str, str]]) -> list[float]:
        """The score of each pair (query, text), in their order, for `CrossEncoderReranker`.

        Raises:
            InputError: the model gives several scores for a pair.

        Examples:
            >>> len(compressor.score([("where do boats lie?", "a harbour")]))
            1
        """
        return self._lazy.score(text_pairs)

    def _wanted(self, top_n: int | None) -> int | None:
        return self.top_n if top_n == _OWN else top_n

    def _kept(self, ranking: Sequence[Ranked]) -> list[Ranked]:
        threshold = self.score_threshold
        return [ranked for ranked in ranking if threshold is None or ranked.score >= threshold]

    def _results(self, ranking: Sequence[Ranked]) -> list[dict[str, Any]]:
        return [{"index": place, "relevance_score": score} for place, score in self._kept(ranking)]

    def _compressed(self, documents: Sequence[Document], ranking: Sequence[Ranked]) -> list[Document]:
        return [self._scored(documents[place], score) for place, score in self._kept(ranking)]

    def _scored(self, document: Document, score: float) -> Document:
        metadata = {**copy.deepcopy(document.metadata), self.metadata_key: score}
        return document.model_copy(update={"metadata": metadata})


def _contents(documents: Sequence[Document]) -> list[str]:
    """Their texts; TypeError names what is no Document."""
    for place, document in enumerate(_listed(documents)):
        if not isinstance(document, Document):
            raise TypeError(f"item {place} is a {type(document).__name__}, not a Document; rerank() takes texts too")
    return [document.page_content for document in documents]


def _texts(documents: Sequence[str | Document | Mapping[str, Any]]) -> list[str]:
    return [_text(document, place) for place, document in enumerate(_listed(documents))]


def _text(document: Any, place: int) -> str:
    if isinstance(document, Document):
        return document.page_content
    text = document.get("text") if isinstance(document, Mapping) else document
    if not isinstance(text, str):
        what = "has no text" if isinstance(document, Mapping) else f"is a {type(document).__name__}"
        raise TypeError(f'item {place} {what}; a document is a str, a Document or {{"text": …}}')
    return text


def _listed(documents: Any) -> Sequence[Any]:
    if not isinstance(documents, Sequence) or isinstance(documents, str | bytes):
        raise TypeError(f"documents must be a list, not a {type(documents).__name__}; wrap one document in a list")
    return documents
