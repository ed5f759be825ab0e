"""Reranker, the class for pairs: a query and texts in, scores out."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from os import PathLike
from typing import Any, Literal, Protocol, Self, runtime_checkable

from akidb_mlx.config.options import ACTIVATIONS, Activation
from akidb_mlx.config.reranker_config import RerankerConfig
from akidb_mlx.effective.fingerprint import fingerprint
from akidb_mlx.effective.reranker_recipe import (
    RERANKER_FACTS,
    RerankerRecipe,
    read_reranker_recipe,
    reranker_fingerprint_facts,
    reranker_prompts,
    settled_activation,
)
from akidb_mlx.errors import AkiDBMLXError, InputError
from akidb_mlx.pipeline.call import Call, OnError, Usage
from akidb_mlx.pipeline.chat_renderer import ChatRenderer
from akidb_mlx.pipeline.chat_tokenizer import ChatTokenizer
from akidb_mlx.pipeline.encoders import Encoder
from akidb_mlx.pipeline.face import Face
from akidb_mlx.pipeline.inputs import checked_pair_stream, checked_ranking, positive
from akidb_mlx.pipeline.loaded_model import Kind, LoadedModel
from akidb_mlx.pipeline.pair_encoders import ChatPairEncoder, PairEncoder
from akidb_mlx.pipeline.text_pipeline import TextPipeline
from akidb_mlx.scores import Ranked, finish_scores, ranking
from akidb_mlx.vectors import Embeddings

__all__ = ["Pair", "Ranked", "Reranker", "RerankerProtocol"]

Pair = tuple[str, str] | list[str]
"""A query and a text."""

RERANKER: Kind[RerankerConfig, RerankerRecipe] = Kind(
    "reranker", read_reranker_recipe, frozenset({"activation", "prompt", "on_overlong"})
)
# The first batches of a ranking that are as urgent as a query; the rest waits with all else.
_URGENT_BATCHES = 8


@runtime_checkable
class RerankerProtocol(Protocol):
    """What the adapters need of a reranker; `Reranker` and `testing.FakeReranker` satisfy it."""

    @property
    def fingerprint(self) -> str: ...  # noqa: D102
    def predict(self, pairs: Sequence[Pair], *, show_progress: bool = False) -> Embeddings: ...  # noqa: D102
    def rank(self, query: str, documents: Sequence[str], top_k: int | None = None) -> list[Ranked]: ...  # noqa: D102
    async def apredict(self, pairs: Sequence[Pair], *, show_progress: bool = False) -> Embeddings: ...  # noqa: D102
    async def arank(self, query: str, documents: Sequence[str], top_k: int | None = None) -> list[Ranked]: ...  # noqa: D102


class Reranker(Face[RerankerConfig, RerankerRecipe]):
    """A loaded model. Make one with `Reranker.load`; rerankers with equal settings share one loaded model.

    All methods may be called from any thread, the async ones from any event loop.
    """

    _kind = RERANKER

    def __init__(self, config: RerankerConfig, loaded: LoadedModel[RerankerRecipe]) -> None:
        """Use `Reranker.load` instead."""
        self.config = config
        self._loaded = loaded
        self._checkpoint = loaded.recipe.checkpoint
        self._activation = settled_activation(config, loaded.recipe)
        self._prompts = reranker_prompts(config, loaded.recipe)
        self._path = TextPipeline(loaded, _encoder(loaded))
        super().__init__(config, loaded)

    @classmethod
    def load(cls, model: "str | PathLike[str] | RerankerConfig | None" = None, **fields: Any) -> Self:
        """Load a folder, `package:NAME`, a Hub id or a RerankerConfig; nothing takes what the config says.

        `fields` are RerankerConfig's and win over its other sources.

        Raises:
            ConfigError: an unknown option, a bad value or a bad file of settings.
            ModelNotFoundError: no model of that name is here or on the Hub.
            CheckpointError: a file of the model is missing, broken or contradicts another.
            UnsupportedModelError: the model's files ask for what is not computed here.
            BackendError: the device is not there, or has too little memory.

        Examples:
            >>> with Reranker.load("cross-encoder/ms-marco-MiniLM-L6-v2") as reranker:  # doctest: +SKIP
            ...     reranker.rank("what is MLX?", ["MLX is an array framework.", "Tides follow the moon."], top_k=1)
        """
        return cls._open(RerankerConfig, RERANKER, model, fields)

    @property
    def num_labels(self) -> int:
        """Scores of a pair.

        Examples:
            >>> reranker.num_labels
            1
        """
        return self._checkpoint.num_labels

    @property
    def activation(self) -> str:
        """What makes scores of the model's numbers: "identity", "sigmoid", "softmax" or "tanh".

        Examples:
            >>> reranker.activation
            'sigmoid'
        """
        return self._activation

    @property
    def fingerprint(self) -> str:
        """SHA-256 of everything that decides the scores (hex); equal on every machine. Computed on first use.

        Examples:
            >>> len(reranker.fingerprint)
            64
        """
        return fingerprint(reranker_fingerprint_facts(self.config, self._loaded.recipe_of_files))

    def predict(
        self,
        pairs: Sequence[Pair],
        prompt_name: str | None = None,
        prompt: str | None = None,
        activation: Activation | None = None,
        show_progress: bool = False,
    ) -> Embeddings:
        """Score pairs (query, text), the query after `prompt`, else after the one called `prompt_name`, or the default.

        Returns:
            (n,) float32, or (n, labels) where the model has several; in the order of `pairs`. Pairs beyond
            `max_seq_length` are cut, or refused with `on_overlong="error"`.

        Raises:
            TypeError: an item that is no pair of str; put a single pair in a list.
            InputError: an unknown prompt name or activation, a pair without tokens, a score that is not finite.
            QueueFullError: too much waits already. ClosedError: after `close`.

        Examples:
            >>> reranker.predict([("what is MLX?", "MLX is an array framework.")]).shape
            (1,)
        """
        return self._path.encode(_tuples(pairs), self._call(prompt_name, prompt, activation), show_progress)

    async def apredict(
        self,
        pairs: Sequence[Pair],
        prompt_name: str | None = None,
        prompt: str | None = None,
        activation: Activation | None = None,
        show_progress: bool = False,
    ) -> Embeddings:
        """`predict` without blocking the event loop; cancelling it takes its pairs out of the queue.

        Examples:
            >>> asyncio.run(reranker.apredict([("what is MLX?", "MLX is an array framework.")])).shape
            (1,)
        """
        return await self._path.aencode(_tuples(pairs), self._call(prompt_name, prompt, activation), show_progress)

    async def apredict_with_usage(
        self,
        pairs: Sequence[Pair],
        prompt_name: str | None = None,
        prompt: str | None = None,
        activation: Activation | None = None,
        on_overlong: Literal["truncate", "error"] | None = None,
        max_tokens: int | None = None,
        *,
        first: int = 0,
        errors: dict[int, AkiDBMLXError] | None = None,
    ) -> tuple[Embeddings, Usage]:
        """The scores and what they used, for a server.

        `on_overlong` wins over the configuration; more than `max_tokens` in all is an InputError. `first` is the
        first pair's place, for messages. A pair that cannot be scored is an error, or with `errors` stands there by
        its place and has NaN.

        Examples:
            >>> scores, usage = asyncio.run(reranker.apredict_with_usage([("a question", "a text")]))
            >>> scores.shape, usage.tokens > 0
            ((1,), True)
        """
        call = self._call(prompt_name, prompt, activation, on_overlong, max_tokens)
        call = replace(call, first=first, errors=errors)
        return await self._path.aencode(_tuples(pairs), call, show_progress=False), call.usage

    def rank(
        self,
        query: str,
        documents: Sequence[str],
        top_k: int | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        activation: Activation | None = None,
        show_progress: bool = False,
    ) -> list[Ranked]:
        """Documents by their score, best first, equal ones in the given order; at most `top_k`.

        Raises:
            InputError: a model of several labels; a negative `top_k`; otherwise as `predict`.

        Examples:
            >>> best = reranker.rank("what is MLX?", ["MLX is an array framework.", "Tides follow the moon."], top_k=1)
            >>> len(best), best[0]._fields
            (1, ('corpus_id', 'score'))
        """
        pairs = self._pairs(query, documents, top_k)
        return ranking(self.predict(pairs, prompt_name, prompt, activation, show_progress), top_k)

    async def arank(
        self,
        query: str,
        documents: Sequence[str],
        top_k: int | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        activation: Activation | None = None,
        show_progress: bool = False,
    ) -> list[Ranked]:
        """`rank` without blocking the event loop.

        Examples:
            >>> len(asyncio.run(reranker.arank("what is MLX?", ["MLX is an array framework."])))
            1
        """
        pairs = self._pairs(query, documents, top_k)
        return ranking(await self.apredict(pairs, prompt_name, prompt, activation, show_progress), top_k)

    def predict_stream(
        self,
        pairs: Iterable[Pair],
        chunk_size: int = 1024,
        prompt_name: str | None = None,
        prompt: str | None = None,
        activation: Activation | None = None,
        *,
        on_error: OnError | None = None,
    ) -> Iterator[Embeddings]:
        """Score any iterable in bounded memory: `predict`'s arrays of at most `chunk_size` pairs, in order.

        Less urgent than the other calls; waits for room in the queue rather than raise QueueFullError. A pair that
        cannot be scored ends the stream, or with `on_error` gives NaN, after `on_error(place, error)`.

        Examples:
            >>> pairs = (("a question", f"text {number}") for number in range(25))
            >>> [len(scores) for scores in reranker.predict_stream(pairs, chunk_size=10)]
            [10, 10, 5]
        """
        call = replace(self._call(prompt_name, prompt, activation), urgent=False)
        call = call if on_error is None else replace(call, errors={})
        return self._path.stream(checked_pair_stream(pairs), positive(chunk_size), call, on_error)

    def count_tokens(self, pairs: Sequence[Pair], prompt: str = "") -> list[int]:
        """Tokens of each pair with prompt, template and special tokens, after truncation: what the model reads.

        Examples:
            >>> len(reranker.count_tokens([("a question", "a text")]))
            1
        """
        encoder = self._path.encoder
        return [len(encoding) for encoding in encoder.encode(encoder.check(_tuples(pairs)), prompt).encodings]

    def info(self) -> dict[str, Any]:
        """The recipe with the source of each fact, the device, memory and counters; plain values.

        Examples:
            >>> reranker.info()["activation"]
            'sigmoid'
        """
        from akidb_mlx.effective.describe import describe

        return {**describe(self.config, self._loaded.recipe, RERANKER_FACTS), **self._live()}

    def __repr__(self) -> str:
        return f"Reranker({self._checkpoint.name!r}, num_labels={self.num_labels})"

    def _call(
        self,
        prompt_name: str | None,
        prompt: str | None,
        activation: str | None,
        on_overlong: str | None = None,
        max_tokens: int | None = None,
    ) -> Call[Embeddings]:
        self._check_open()
        chosen = self._prompts.query if prompt is prompt_name is None else self._prompts.choose(prompt_name, prompt)
        return Call(
            chosen,
            partial(finish_scores, activation=self._checked(activation)),
            urgent=True,
            urgent_batches=_URGENT_BATCHES,
            on_overlong=on_overlong or self.config.on_overlong,
            max_tokens=max_tokens,
        )

    def _checked(self, activation: str | None) -> str:
        if activation is None:
            return self.activation
        if activation not in ACTIVATIONS:
            raise InputError(f"activation {activation!r} is not known; there are {', '.join(ACTIVATIONS)}")
        if activation == "softmax" and self.num_labels == 1:
            raise InputError(f"softmax gives 1 for every pair, for {self._checkpoint.name} has one label; take sigmoid")
        return activation

    def _pairs(self, query: str, documents: Sequence[str], top_k: int | None) -> list[Pair]:
        if self.num_labels != 1:
            raise InputError(
                f"{self._checkpoint.name} gives {self.num_labels} scores for a pair, which rank nothing; call predict "
                "and take the label that you mean"
            )
        return [(query, document) for document in checked_ranking(query, documents, top_k)]


def _encoder(loaded: LoadedModel[RerankerRecipe]) -> Encoder[tuple[str, str]]:
    checkpoint = loaded.recipe.checkpoint
    if checkpoint.chat is None:
        return PairEncoder(loaded.tokenizer, token_types=loaded.recipe.token_types)
    renderer = ChatRenderer(checkpoint.chat, checkpoint.name, ("query", "document"))
    return ChatPairEncoder(ChatTokenizer(loaded.tokenizer, renderer))


def _tuples(pairs: Sequence[Pair]) -> Any:
    """The encoder checks them."""
    return pairs
