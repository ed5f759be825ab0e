"""Cohere's /v2/embed: what a request may say and what an answer holds."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from akidb_mlx.server.schemas import CourtesyFields, Positive

__all__ = ["CohereEmbedRequest", "CohereEmbedResponse"]

EmbeddingType = Literal["float", "int8", "uint8", "binary", "ubinary", "base64"]


class CohereEmbedRequest(CourtesyFields):
    """Cohere's request for texts; images are refused, as nothing here sees them."""

    model: str = Field(min_length=1, description="A name that `/v1/models` lists.")
    texts: Annotated[list[str], Field(min_length=1)]
    input_type: Literal["search_query", "search_document", "classification", "clustering"] | None = Field(
        None, description="search_query and search_document apply the model's prompts, the others its default one."
    )
    embedding_types: Annotated[list[EmbeddingType], Field(min_length=1)] | None = Field(
        None,
        description="float (default), int8, uint8, binary, ubinary, base64 (of little-endian float32), or several.",
    )
    output_dimension: Positive | None = Field(
        None, description="Keep only this many dimensions, the first ones; the vectors are scaled to unit length again."
    )
    truncate: Literal["NONE", "END"] | None = Field(
        None, description="END cuts texts beyond the model's limit, NONE refuses them. By default as configured."
    )


class _ByType(BaseModel):
    float_: list[list[float]] | None = Field(None, alias="float")
    int8: list[list[int]] | None = None
    uint8: list[list[int]] | None = None
    binary: list[list[int]] | None = None
    ubinary: list[list[int]] | None = None
    base64: list[str] | None = None


class _ApiVersion(BaseModel):
    version: Literal["2"]


class _BilledUnits(BaseModel):
    input_tokens: int


class _Meta(BaseModel):
    api_version: _ApiVersion
    billed_units: _BilledUnits


class CohereEmbedResponse(BaseModel):
    """Cohere's answer: the vectors by their type."""

    id: str
    embeddings: _ByType
    texts: list[str]
    meta: _Meta
    response_type: Literal["embeddings_by_type"]
