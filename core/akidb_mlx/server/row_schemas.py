"""What our own routes take and give, by which the remote classes ask: rows as bytes, tokens, what a model is."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, model_validator

from akidb_mlx.server.schemas import INPUT_TYPE, InputType, RequestBody

__all__ = ["DescribeRequest", "DescribeResponse", "RowsRequest", "TokensRequest", "TokensResponse"]

RowKind = Literal["embedder", "reranker", "sparse", "multi_vector"]
_Count = Annotated[int, Field(ge=1)]
# Option of a call → the kind that has it.
_OPTIONS: dict[str, RowKind] = {
    "truncate_dim": "embedder",
    "normalize": "embedder",
    "task": "embedder",
    "max_active_dims": "sparse",
    "token_pooling": "multi_vector",
    "activation": "reranker",
}


class _OwnRequest(RequestBody):
    model: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="A name that `/v1/models` lists; by default the first of this kind."
    )
    kind: RowKind = Field("embedder", description="What the model is asked as.")
    settings: dict[str, Any] = Field(
        default_factory=dict,
        description="Fields of the kind's configuration that decide results and are not as served: prompts, "
        "truncate_dim, normalize, … What the loaded model is made with must be as it is.",
    )


class DescribeRequest(_OwnRequest):
    """A model with a client's settings."""


class _InputsRequest(_OwnRequest):
    texts: Annotated[list[str], Field(min_length=1)] | None = Field(None, description="Of all kinds but a reranker.")
    pairs: Annotated[list[tuple[str, str]], Field(min_length=1, strict=False)] | None = Field(
        None, description="A reranker's: [query, text] each."
    )
    prompt: str | None = Field(None, description="Put before each text, or each query of a pair. By default the side's")
    input_type: InputType | None = Field(None, description=INPUT_TYPE)

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        wanted, other = ("pairs", "texts") if self.kind == "reranker" else ("texts", "pairs")
        if getattr(self, wanted) is None or getattr(self, other) is not None:
            raise ValueError(f"kind {self.kind} takes {wanted}, and no {other}")
        if self.kind == "reranker" and self.input_type is not None:
            raise ValueError("kind reranker takes no input_type: a pair has both sides")
        return self

    @property
    def inputs(self) -> list[Any]:
        """Texts or pairs."""
        return self.texts or self.pairs or []


class RowsRequest(_InputsRequest):
    """Texts or pairs to compute rows or scores of, and how."""

    truncate_dim: _Count | None = Field(
        None, description="An embedder's: keep only this many dimensions, the first ones."
    )
    normalize: bool | None = Field(None, description="An embedder's: whether rows are scaled to unit length.")
    task: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="An embedder's with an adapter for each task: which of them computes."
    )
    max_active_dims: _Count | None = Field(None, description="A sparse encoder's: most entries of a row.")
    token_pooling: Annotated[float, Field(ge=1, allow_inf_nan=False)] | None = Field(
        None, description="A multi-vector model's: of this many vectors of a document about one is left."
    )
    activation: Literal["identity", "sigmoid", "softmax", "tanh"] | None = Field(
        None, description="A reranker's: what makes scores of the model's numbers."
    )
    on_overlong: Literal["truncate", "error"] | None = Field(
        None, description="Whether texts beyond the model's limit are cut, or refused. By default as configured."
    )
    first: Annotated[int, Field(ge=0, le=2**53)] = Field(
        0, description="The first text's place in what the user gave: messages name a text by its place."
    )
    partial: bool = Field(
        False,
        description="A text that has no row is no error of the request: the answer's array `errors` is JSON that maps "
        "its place to [class, message, seconds after which to try again or null].",
    )
    truncated: bool = Field(
        False, description="The answer's array `truncated` has the places of the texts that were cut."
    )
    fingerprint: str | None = Field(None, description="409 where the model has another one.")

    @model_validator(mode="after")
    def _own_options(self) -> Self:
        for name, kind in _OPTIONS.items():
            if getattr(self, name) is not None and kind != self.kind:
                raise ValueError(f"{name} is for kind {kind}, not {self.kind}")
        return self

    @property
    def options(self) -> dict[str, Any]:
        """Those of its kind."""
        return {name: getattr(self, name) for name, kind in _OPTIONS.items() if kind == self.kind}


class TokensRequest(_InputsRequest):
    """Texts or pairs whose tokens are counted."""

    truncate: bool = Field(True, description="An embedder's: false counts what is not read too.")

    @model_validator(mode="after")
    def _of_an_embedder(self) -> Self:
        if not self.truncate and self.kind != "embedder":
            raise ValueError("truncate: false is for kind embedder")
        return self


class TokensResponse(BaseModel):
    """Tokens of each text: with prompt, template and special tokens, after truncation."""

    model: str
    fingerprint: str
    tokens: list[int]


class _Prompts(BaseModel):
    named: dict[str, str]
    default_name: str | None
    query: str
    document: str


class _Limits(BaseModel):
    max_texts: int
    max_request_bytes: int
    max_request_tokens: int


class DescribeResponse(BaseModel):
    """A model as it is served, with the request's settings; `info` is what `info()` says."""

    model: str
    kind: RowKind
    fingerprint: str
    dtype: str | None = Field(description="As asked for, which the fingerprint counts.")
    dimension: int | None
    full_dimension: int | None
    num_labels: int | None
    max_seq_length: int | None
    calibration: dict[str, Any] | None = Field(description="An embedder's for int8 and uint8, where it has one.")
    prompts: _Prompts
    limits: _Limits
    version: str
    info: dict[str, Any]
