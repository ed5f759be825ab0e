"""What the routes of sparse, multi-vector and hybrid models take and give. What may be left out may also be null."""

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, Field, WithJsonSchema

from akidb_mlx.server.schemas import (
    INPUT_TYPE,
    TRUNCATE,
    CourtesyFields,
    InputType,
    Positive,
    RequestBody,
    TokenUsage,
    Truncate,
    Whole,
)

__all__ = [
    "HybridRequest",
    "HybridResponse",
    "MatchesRequest",
    "MatchesResponse",
    "PoolingRequest",
    "PoolingResponse",
    "SparseRequest",
    "SparseValue",
    "TermsRequest",
    "TermsResponse",
]

_MODEL = "A name that `/v1/models` lists; by default the first of this kind."
_Name = Annotated[str, Field(min_length=1)]
_Texts = Annotated[list[str], Field(min_length=1)]
_OneOrMany = Annotated[
    _Texts,
    BeforeValidator(lambda value: [value] if isinstance(value, str) else value),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}),
]
_Direction = Annotated[
    Literal["left", "right"],
    BeforeValidator(lambda value: value.lower() if isinstance(value, str) else value),
    WithJsonSchema({"type": "string", "pattern": "^([Ll][Ee][Ff][Tt]|[Rr][Ii][Gg][Hh][Tt])$"}),
]


class _FormRequest(CourtesyFields):
    model: _Name | None = Field(None, description=_MODEL)
    truncate: Truncate | None = Field(None, description=TRUNCATE)
    prompt_name: str | None = Field(None, description="Apply the model's prompt of this name.")
    input_type: InputType | None = Field(None, description=INPUT_TYPE)


class SparseRequest(_FormRequest):
    """text-embeddings-inference's request; `model` and `input_type` are this server's own."""

    inputs: _OneOrMany = Field(description="One text, or a list.")
    truncation_direction: _Direction | None = Field(
        None, description="Where texts are cut, in any case; the model decides, another direction is refused."
    )
    max_active_dims: Positive | None = Field(
        None, description="Keep this many entries of each row, the heaviest. By default as the model says."
    )


class SparseValue(BaseModel):
    """An entry of a row: rows are lists of these, in the order of `index`."""

    index: int
    value: float


class TermsRequest(_FormRequest):
    """The strongest terms of texts."""

    texts: _Texts
    top_k: Positive | None = Field(20, description="At most this many of each.")


class _Term(BaseModel):
    term: str | None
    weight: float


class TermsResponse(BaseModel):
    """Terms of each text, heaviest first, and how many its row has."""

    model: str
    terms: list[list[_Term]]
    counts: list[int]
    usage: TokenUsage


class PoolingRequest(_FormRequest):
    """vLLM's request for a vector per token; `truncate`, `prompt_name` and `input_type` are this server's own."""

    input: _OneOrMany = Field(description="One text, or a list.")
    task: str | None = Field(None, description="Only token_embed is done here.")
    encoding_format: Literal["float", "base64"] | None = Field(
        None, description="Numbers (default), or base64 of all numbers of a text as little-endian float32."
    )
    truncate_prompt_tokens: Whole | None = Field(None, description="Not below the model's limit; -1 is that limit.")


class _Pooled(BaseModel):
    index: int
    object: Literal["pooling"]
    data: list[list[float]] | str


class PoolingResponse(BaseModel):
    """vLLM's answer, in the order of the texts."""

    id: str
    object: Literal["list"]
    created: int
    model: str
    data: list[_Pooled]
    usage: TokenUsage


class MatchesRequest(RequestBody):
    """A query and a text whose tokens are compared."""

    query: str
    text: str
    model: _Name | None = Field(None, description=_MODEL)
    top_k: Positive | None = Field(20, description="At most this many pairs.")


class _Match(BaseModel):
    query_token: str
    text_token: str
    similarity: float


class MatchesResponse(BaseModel):
    """Each token of the query beside the token of the text that is most like it, best pairs first; and the score."""

    model: str
    score: float
    matches: list[_Match]
    usage: TokenUsage


class HybridRequest(_FormRequest):
    """Texts in several forms, computed in one pass."""

    texts: _Texts
    forms: Annotated[list[Literal["dense", "sparse", "multi_vector"]], Field(min_length=1)] | None = Field(
        None, description="Which forms come back; by default all three."
    )
    encoding_format: Literal["float", "base64"] | None = Field(
        None, description="Of dense rows and vectors per token: numbers (default), or base64 of little-endian float32."
    )


class _SparseRow(BaseModel):
    indices: list[int]
    values: list[float]


class _HybridItem(BaseModel):
    index: int
    dense: list[float] | str | None = None
    sparse: _SparseRow | None = None
    multi_vector: list[list[float]] | str | None = None


class HybridResponse(BaseModel):
    """The forms of each text, in the order of the texts."""

    object: Literal["list"]
    data: list[_HybridItem]
    model: str
    usage: TokenUsage
