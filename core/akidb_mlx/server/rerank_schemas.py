"""What the rerank routes take and give, in text-embeddings-inference's words and in Cohere's, Jina's, Voyage's, vLLM's.

What may be left out may also be null, for some of their clients send it so.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, WithJsonSchema

from akidb_mlx.server.schemas import TRUNCATE, CourtesyFields, Natural, TokenUsage, Truncate, Whole

__all__ = [
    "RankedText",
    "RerankRequest",
    "RerankResponse",
    "RerankTextsRequest",
    "ScoreRequest",
    "ScoreResponse",
    "VoyageRerankResponse",
]

_Name = Annotated[str, Field(min_length=1)]
_Count = Natural
_Texts = Annotated[list[str], Field(min_length=1)]


def _lowered(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


def _one_or_many(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _text_of(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    if not isinstance(value.get("text"), str):
        raise ValueError("should be a text, or an object with one under `text`")
    return value["text"]


_Document = Annotated[
    str,
    BeforeValidator(_text_of),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string"},
                {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
            ]
        }
    ),
]
_Direction = Annotated[
    Literal["left", "right"],
    BeforeValidator(_lowered),
    WithJsonSchema({"type": "string", "pattern": "^([Ll][Ee][Ff][Tt]|[Rr][Ii][Gg][Hh][Tt])$"}),
]
_OneOrMany = Annotated[
    _Texts,
    BeforeValidator(_one_or_many),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}),
]


class _RerankOptions(CourtesyFields):
    """What all rerank routes take."""

    model: _Name | None = Field(None, description="A name that `/v1/models` lists; by default the first reranker.")
    truncate: Truncate | None = Field(None, description=TRUNCATE)
    raw_scores: bool | None = Field(None, description="The model's own numbers instead of 0 to 1.")


class RerankTextsRequest(_RerankOptions):
    """text-embeddings-inference's request."""

    query: str
    texts: _Texts
    top_n: _Count | None = Field(None, description="At most this many results; 0 or nothing: all.")
    return_text: bool | None = Field(None, description="Send each text back.")
    truncation_direction: _Direction | None = Field(
        None, description="Where texts are cut, in any case; the model decides, another direction is refused."
    )


class RerankRequest(_RerankOptions):
    """The request of Cohere (both versions), Jina, vLLM and infinity; with `top_k` or `truncation` Voyage's."""

    query: str
    documents: Annotated[list[_Document], Field(min_length=1)]
    top_n: _Count | None = Field(None, description="At most this many results; 0 or nothing: all.")
    top_k: _Count | None = Field(None, description="Voyage's name for top_n.")
    return_documents: bool | None = Field(None, description="Send each document back.")
    truncation: bool | None = Field(None, description="Voyage's name for truncate.")
    use_activation: bool | None = Field(None, description="vLLM's name for the opposite of raw_scores.")
    rank_fields: Annotated[list[Literal["text"]], Field(max_length=1)] | None = Field(
        None, description="Only the field `text` is ranked."
    )
    max_tokens_per_doc: Whole | None = Field(
        None, description="Not below the model's own limit, at which pairs are cut anyway."
    )
    truncate_prompt_tokens: Whole | None = Field(None, description="As max_tokens_per_doc; -1 is the model's limit.")
    max_chunks_per_doc: Whole | None = Field(None, description="Taken and ignored: documents are not cut in chunks.")

    @property
    def is_voyages(self) -> bool:
        """Whether it has Voyage's words, whose client reads `data` where all others read `results`."""
        return bool({"top_k", "truncation"} & self.model_fields_set)


class ScoreRequest(_RerankOptions):
    """The request of vLLM: one text against many, or as many against as many."""

    text_1: _OneOrMany | None = None
    text_2: _OneOrMany | None = None
    queries: _OneOrMany | None = Field(None, description="Another name of text_1.")
    documents: _OneOrMany | None = Field(None, description="Another name of text_2.")
    use_activation: bool | None = Field(None, description="vLLM's name for the opposite of raw_scores.")
    truncate_prompt_tokens: Whole | None = Field(None, description="Not below the model's limit; -1 is that limit.")


class RankedText(BaseModel):
    """An entry of text-embeddings-inference's list."""

    index: int
    score: float
    text: str | None = None


class _Returned(BaseModel):
    text: str


class _Result(BaseModel):
    index: int
    relevance_score: float
    document: _Returned | None = None


class _Tokens(BaseModel):
    input_tokens: int


class _BilledUnits(BaseModel):
    search_units: int


class _Meta(BaseModel):
    tokens: _Tokens
    billed_units: _BilledUnits


class RerankResponse(BaseModel):
    """Cohere's, Jina's and vLLM's answer, best first."""

    id: str
    model: str
    results: list[_Result]
    usage: TokenUsage
    meta: _Meta


class VoyageRerankResponse(BaseModel):
    """Voyage's answer, best first."""

    object: Literal["list"]
    data: list[_Result]
    model: str
    usage: TokenUsage


class _Score(BaseModel):
    index: int
    object: Literal["score"]
    score: float


class ScoreResponse(BaseModel):
    """The answer of vLLM, in the order of the pairs."""

    id: str
    object: Literal["list"]
    created: int
    model: str
    data: list[_Score]
    usage: TokenUsage
