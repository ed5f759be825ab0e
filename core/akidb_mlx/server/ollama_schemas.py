"""What Ollama's routes take and give. What may be left out may also be null, for its clients send it so."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from akidb_mlx.config.options import read_duration
from akidb_mlx.server.schemas import INPUT_TYPE, TRUNCATE, InputType, Natural, RequestBody, Truncate

__all__ = [
    "OllamaEmbedRequest",
    "OllamaEmbedResponse",
    "OllamaEmbeddingsRequest",
    "OllamaEmbeddingsResponse",
    "OllamaErrorResponse",
    "OllamaModel",
    "OllamaModels",
    "OllamaRunning",
    "OllamaRunningModels",
    "OllamaShowRequest",
    "OllamaShowResponse",
    "OllamaVersion",
]


def _none_one_or_many(value: Any) -> Any:
    """A list of texts; nothing is none of them, by which Ollama's users load a model ahead of time."""
    if isinstance(value, str):
        return [value]
    if value is not None and not isinstance(value, list):
        raise ValueError("should be a text or a list of texts")
    return value or []


_Inputs = Annotated[
    list[str],
    BeforeValidator(_none_one_or_many),
    WithJsonSchema(
        {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}, {"type": "null"}], "default": []}
    ),
]
_Name = Annotated[str, Field(min_length=1)]


class _OllamaRequest(RequestBody):
    model: _Name = Field(description="A name that `/api/tags` lists.")
    options: dict[str, Any] | None = Field(
        None, description="Of these only `num_ctx` bears on vectors: texts longer than it says are refused."
    )
    keep_alive: Annotated[float | None, BeforeValidator(read_duration)] = Field(
        None,
        allow_inf_nan=False,
        description="From now on, seconds without a request until the model's weights are freed, or a text such as "
        '"5m"; a negative number: never. By default as configured.',
        json_schema_extra={"anyOf": [{"type": "number"}, {"type": "string"}, {"type": "null"}]},
    )
    input_type: InputType | None = Field(None, description=f"{INPUT_TYPE} Or say it in the name: MODEL:query.")

    @property
    def num_ctx(self) -> int | None:
        """Tokens of a text that the caller expects to be read."""
        said = (self.options or {}).get("num_ctx")
        return said if isinstance(said, int) and not isinstance(said, bool) and said > 0 else None


class OllamaEmbedRequest(_OllamaRequest):
    """Ollama's request for vectors of one text or many."""

    input: _Inputs = Field(default_factory=list, description="One text, or a list; none loads the model.")
    truncate: Truncate | None = Field(None, description=TRUNCATE)
    dimensions: Natural | None = Field(
        None, description="Keep only this many dimensions, the first; 0 or nothing: all."
    )


class OllamaEmbeddingsRequest(_OllamaRequest):
    """Ollama's older request for the vector of one text."""

    prompt: str | None = Field(None, description="One text; none loads the model.")


class OllamaEmbedResponse(BaseModel):
    """A vector for each text; times in nanoseconds."""

    model: str
    embeddings: list[list[float]]
    total_duration: int
    load_duration: int
    prompt_eval_count: int


class OllamaEmbeddingsResponse(BaseModel):
    """The vector of the one text; empty without a text."""

    embedding: list[float]


class OllamaDetails(BaseModel):
    """What is told of a model's files."""

    parent_model: str = ""
    format: str = "safetensors"
    family: str = ""
    families: list[str] = []
    parameter_size: str = ""
    quantization_level: str = ""


class OllamaModel(BaseModel):
    """An entry of the list; what is known only of a loaded model is empty until then."""

    name: str
    model: str
    modified_at: str
    size: int
    digest: str
    details: OllamaDetails


class OllamaModels(BaseModel):
    """The embedders that are served."""

    models: list[OllamaModel]


class OllamaRunning(BaseModel):
    """A model whose weights are in memory."""

    name: str
    model: str
    size: int
    size_vram: int
    digest: str
    details: dict[str, Any]
    expires_at: str


class OllamaRunningModels(BaseModel):
    """Those whose weights are in memory."""

    models: list[OllamaRunning]


class OllamaShowRequest(RequestBody):
    """Which model to tell about."""

    model: _Name | None = Field(None, description="A name that `/api/tags` lists.")
    name: _Name | None = Field(None, description="The same, from older clients.")
    system: str | None = Field(None, description="Taken and ignored.")
    template: str | None = Field(None, description="Taken and ignored.")
    options: dict[str, Any] | None = Field(None, description="Taken and ignored.")
    verbose: bool | None = Field(None, description="Taken and ignored.")

    @property
    def called(self) -> str:
        """The name under either name."""
        return self.model or self.name or ""

    @model_validator(mode="after")
    def _one(self) -> Self:
        if not self.called:
            raise ValueError("model is required")
        return self


class OllamaShowResponse(BaseModel):
    """About one model, loaded for it if need be."""

    model_config = ConfigDict(protected_namespaces=())

    modelfile: str = ""
    parameters: str = ""
    template: str = ""
    details: OllamaDetails
    model_info: dict[str, Any]
    capabilities: list[Literal["embedding"]] = ["embedding"]
    modified_at: str


class OllamaVersion(BaseModel):
    """This server's own version."""

    version: str


class OllamaErrorResponse(BaseModel):
    """Ollama's shape of an error, and the same text under the names of the other routes."""

    error: str
    message: str
    detail: str
