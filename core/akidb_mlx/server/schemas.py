"""What requests may say and what answers hold, as pydantic models; the OpenAPI document is made of them."""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from akidb_mlx.small_vectors import OutputDtype

__all__ = [
    "AkiDBEmbedRequest",
    "AkiDBEmbedResponse",
    "EmbeddingsRequest",
    "EmbeddingsResponse",
    "ErrorResponse",
    "Health",
    "ModelCard",
    "ModelList",
    "ModelStats",
    "Stats",
    "Workers",
]


def _one_or_many(value: Any) -> Any:
    """A list of one or more; LangChain's OpenAI client sends ids of OpenAI's own tokenizer, which mean nothing here."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        raise ValueError("should be a text or a list of texts")
    if not value:
        raise ValueError("should hold at least one text")
    first = value[0][0] if isinstance(value[0], list) and value[0] else value[0]
    if isinstance(first, int) and not isinstance(first, bool):
        raise ValueError(
            "holds token ids, which belong to another model's tokenizer; send text "
            "(with LangChain's OpenAIEmbeddings: check_embedding_ctx_length=False)"
        )
    return value


def _truncate_by_word(value: Any) -> Any:
    """Cohere's and NVIDIA's words for true and false."""
    said = value.upper() if isinstance(value, str) else value
    if said == "START":
        raise ValueError("START is not done, texts are cut at the end; send END, NONE, true or false")
    return {"END": True, "NONE": False}.get(said, value) if isinstance(said, str) else value


def _whole(value: Any) -> Any:
    """JSON has one kind of number: 8.0 is 8."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _not_streamed(value: bool) -> bool:
    if value:
        raise ValueError("an answer comes whole; leave stream out")
    return value


Truncate = Annotated[
    bool,
    BeforeValidator(_truncate_by_word),
    WithJsonSchema(
        {"anyOf": [{"type": "boolean"}, {"type": "string", "pattern": "^([Ee][Nn][Dd]|[Nn][Oo][Nn][Ee])$"}]}
    ),
]
TRUNCATE = "Whether texts beyond the model's limit are cut (END too) or refused (NONE too). By default as configured."
Whole = Annotated[int, BeforeValidator(_whole)]
Natural = Annotated[int, Field(ge=0), BeforeValidator(_whole)]
Positive = Annotated[int, Field(ge=1), BeforeValidator(_whole)]


class RequestBody(BaseModel):
    """A field that nobody knows is an error."""

    model_config = ConfigDict(extra="forbid", strict=True)


# Cohere's and NVIDIA's words → ours.
_SIDES = {"passage": "document", "search_document": "document", "search_query": "query"}
InputType = Annotated[
    Literal["query", "document"],
    BeforeValidator(lambda value: _SIDES.get(value, value) if isinstance(value, str) else value),
    WithJsonSchema({"enum": ["query", "document", *_SIDES], "type": "string"}),
]
INPUT_TYPE = "Apply the model's prompt for queries or documents (passages); queries overtake documents."
_Texts = Annotated[list[str], Field(min_length=1)]
_OneOrMany = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}


class CourtesyFields(RequestBody):
    """What clients of other servers send and nothing here depends on."""

    user: str | None = Field(None, description="Taken and ignored.")
    metadata: dict[str, Any] | None = Field(None, description="Taken and ignored.")
    priority: Whole | None = Field(None, description="Taken and ignored.")
    stream: (
        Annotated[bool, AfterValidator(_not_streamed), WithJsonSchema({"const": False, "type": "boolean"})] | None
    ) = Field(None, description="Only false: an answer comes whole.")


class EmbeddingsRequest(CourtesyFields):
    """OpenAI's request; `input_type`, `prompt_name`, `task` and `truncate` are this server's own."""

    input: Annotated[list[str], BeforeValidator(_one_or_many), WithJsonSchema(_OneOrMany)] = Field(
        description="One text, or a list."
    )
    model: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="A name that `/v1/models` lists; may be left out where just one embedder is served."
    )
    dimensions: Positive | None = Field(
        None, description="Keep only this many dimensions, the first; the vectors are scaled to unit length again."
    )
    encoding_format: Literal["float", "base64"] | None = Field(
        None, description="Numbers (default), or base64 of little-endian float32 (of output_dtype's bytes)."
    )
    input_type: InputType | None = Field(None, description=INPUT_TYPE)
    prompt_name: str | None = Field(None, description="Apply the model's prompt of this name.")
    task: Annotated[str, Field(min_length=1)] | None = Field(
        None,
        description="Jina's name for what the vectors are for, of a model with an adapter for each task; "
        '"retrieval.query" and "retrieval.passage" say the side, and with it the prompt, too.',
    )
    truncate: Truncate | None = Field(None, description=TRUNCATE)
    truncation: bool | None = Field(None, description="Voyage's name for truncate.")
    output_dimension: Positive | None = Field(None, description="Voyage's name for dimensions.")
    output_dtype: Literal["float", "int8", "uint8", "binary", "ubinary"] | None = Field(
        None,
        description="Voyage's: of this type, in base64 its bytes. int8 and uint8 need the model's calibration.",
    )

    @model_validator(mode="after")
    def _one_name_each(self) -> Self:
        for name, other in (("truncate", "truncation"), ("dimensions", "output_dimension")):
            both = getattr(self, name), getattr(self, other)
            if None not in both and both[0] != both[1]:
                raise ValueError(f"{name} and {other} contradict each other; send one")
        return self

    @property
    def wanted_truncate(self) -> bool | None:
        """`truncate` under either name."""
        return self.truncation if self.truncate is None else self.truncate

    @property
    def wanted_dtype(self) -> OutputDtype:
        """`output_dtype` by our name."""
        said = self.output_dtype
        return "float32" if said is None or said == "float" else said

    @property
    def wanted_dimensions(self) -> int | None:
        """`dimensions` under either name."""
        return self.output_dimension if self.dimensions is None else self.dimensions


class AkiDBEmbedRequest(RequestBody):
    """AkiDB's request."""

    texts: _Texts
    model: Annotated[str, Field(min_length=1)] | None = Field(None, description="By default the first one served.")
    pooling: str | None = Field(None, description="Must be the model's own, where it is given.")
    normalize: bool | None = Field(None, description="By default as the model says.")
    input_type: InputType | None = Field(None, description=f"{INPUT_TYPE} By default documents.")


class TokenUsage(BaseModel):
    """What the model read, special tokens and prompt included."""

    prompt_tokens: int
    total_tokens: int


class _EmbeddingItem(BaseModel):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | list[int] | str


class EmbeddingsResponse(BaseModel):
    """OpenAI's answer; the token counts are what the model read, special tokens and prompt included."""

    object: Literal["list"]
    data: list[_EmbeddingItem]
    model: str
    usage: TokenUsage


class _AkiDBUsage(BaseModel):
    total_tokens: int
    duration_ms: int


class AkiDBEmbedResponse(BaseModel):
    """AkiDB's answer."""

    embeddings: list[list[float]]
    model: str
    dimension: int
    usage: _AkiDBUsage


class ModelCard(BaseModel):
    """OpenAI's entry of a model; what follows `loaded` is known once it is loaded, and some is of one kind alone."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "akidb-mlx"
    kind: Literal["embedder", "reranker", "sparse", "multi_vector", "hybrid"]
    loaded: bool
    dimension: int | None = None
    num_labels: int | None = Field(
        default=None, description="Scores that a reranker gives a pair; the routes take one."
    )
    max_seq_length: int | None = None
    prompts: list[str] | None = None


class ModelList(BaseModel):
    """OpenAI's list of models."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


HealthStatus = Literal["ok", "loading", "stopping", "unhealthy"]


class Workers(BaseModel):
    """The processes behind one address."""

    answering: int = Field(description="Which of them answers this, from 0.")
    serving: int = Field(description="How many are ready now.")
    of: int = Field(description="How many there should be.")


class Health(BaseModel):
    """Whether to send requests here."""

    status: HealthStatus
    live: Literal[True] = True
    ready: bool = Field(description="False while models are preloaded, and from the start of a shutdown.")
    worker: bool = Field(description="False where the thread that computes has ended unexpectedly.")
    version: str
    workers: Workers | None = Field(default=None, description="Where several processes serve (--workers).")


class ModelStats(BaseModel):
    """One model: whether its weights are in memory now, and what it has done."""

    kind: Literal["embedder", "reranker", "sparse", "multi_vector", "hybrid"]
    loaded: bool = Field(description="False before its first request, and while its weights are freed.")
    weights_bytes: int = Field(0, description="What they take now.")
    loads: int = 0
    unloads: int = 0
    idle_s: float | None = Field(None, description="Seconds since its last request.")
    keep_alive: float | None = Field(None, description="Seconds without a request until its weights are freed.")
    memory_limit_mb: int | None = Field(None, description="What all models together may take, as it was loaded with.")
    requests: int = 0
    texts: int = 0
    tokens: int = 0
    queued_tokens: int = 0


class Stats(BaseModel):
    """What is in memory, model by model."""

    models: dict[str, ModelStats]
    weights_bytes: int = Field(description="Of all models of the process; names that share a model count once.")
    resident_bytes: int = Field(description="RAM of the process.")


class _Error(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(BaseModel):
    """OpenAI's shape of an error, and its message where Cohere's, Jina's and Voyage's clients look for it."""

    error: _Error
    message: str
    detail: str
