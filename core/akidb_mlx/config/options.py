"""The options' fields and types, each marked by what it changes: vectors or only the run."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
)

from akidb_mlx.config.sources import expand_home

__all__ = [
    "ACTIVATIONS",
    "DEFAULT_MODEL",
    "DEFAULT_MULTI_VECTOR",
    "DEFAULT_RERANKER",
    "DEFAULT_SPARSE",
    "MODEL_ALIASES",
    "POOLING_MODES",
    "POOLING_SPELLINGS",
    "Activation",
    "EmbedderOptions",
    "ModelName",
    "ModelOptions",
    "MultiVectorOptions",
    "PoolingMode",
    "RerankerOptions",
    "SparseOptions",
    "SpladePooling",
    "read_duration",
    "vectors_field",
]


MODEL_ALIASES: Final = {
    "qwen3-0.6b-4bit": "mlx-community/Qwen3-Embedding-0.6B-4bit-DWQ",
    "gemma-300m-4bit": "mlx-community/embeddinggemma-300m-4bit",
}

DEFAULT_MODEL: Final = MODEL_ALIASES["qwen3-0.6b-4bit"]

DEFAULT_RERANKER: Final = "cross-encoder/ms-marco-MiniLM-L6-v2"

DEFAULT_SPARSE: Final = "ibm-granite/granite-embedding-30m-sparse"
DEFAULT_MULTI_VECTOR: Final = "lightonai/GTE-ModernColBERT-v1"

Activation = Literal["identity", "sigmoid", "tanh", "softmax"]

ACTIVATIONS: Final[tuple[Activation, ...]] = get_args(Activation)

PoolingMode = Literal["cls", "mean", "max", "last_token", "mean_sqrt_len", "weighted_mean"]

POOLING_MODES: Final[tuple[PoolingMode, ...]] = get_args(PoolingMode)

SpladePooling = Literal["splade_max", "splade_sum"]

# sentence-transformers' names for the same modes, in its files and in users' settings
POOLING_SPELLINGS: Final[dict[str, PoolingMode]] = {
    "lasttoken": "last_token",
    "mean_sqrt_len_tokens": "mean_sqrt_len",
    "weightedmean": "weighted_mean",
}


def _refuse_bool(value: Any) -> Any:
    """Refuse True and False where a number is wanted; pydantic would read them as 1 and 0."""
    if isinstance(value, bool):
        raise ValueError("should be a number, not a boolean")
    return value


def read_duration(value: Any) -> Any:
    """Seconds of a text such as "5m", "1h30m" or "-1s", as Ollama writes them; anything else as it is."""
    if isinstance(value, str) and (said := _DURATION.fullmatch(value.strip())):
        seconds = sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(said[0]))
        return -seconds if said[0].startswith("-") else seconds
    return _refuse_bool(value)


def _path_as_text(value: Any) -> Any:
    value = os.fspath(value) if isinstance(value, os.PathLike) else value
    return str(expand_home(Path(value))) if isinstance(value, str) and value.startswith("~") else value


def _no_torch_device(value: Any) -> Any:
    """Name the device that another library's word stands for."""
    if isinstance(value, str) and value.partition(":")[0] in ("mps", "cuda", "metal"):
        raise ValueError(
            "should be 'gpu', as Metal and CUDA are both called here, or 'cpu'; without it the GPU is taken"
        )
    return value


def _spelled(spellings: Mapping[str, str]) -> BeforeValidator:
    """Take another spelling for the name that it stands for."""
    return BeforeValidator(lambda value: spellings.get(value, value) if isinstance(value, str) else value)


_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)", re.ASCII)
_DURATION: Final = re.compile(f"-?(?:{_PART.pattern})+", re.ASCII)

_Limit = Annotated[int, Field(gt=0), BeforeValidator(_refuse_bool)]

_Duration = Annotated[float, Field(gt=0, allow_inf_nan=False), BeforeValidator(_refuse_bool)]

_Factor = Annotated[float, Field(ge=1, allow_inf_nan=False), BeforeValidator(_refuse_bool)]

# Not Field(min_length=1): before pydantic 2.12 that loses the validators behind it where a field has a default.
_Name = Annotated[str, StringConstraints(min_length=1)]

if TYPE_CHECKING:
    from akidb_mlx.config.argument import Argument

    ModelName = Argument[str | os.PathLike[str], str]
    PathArgument = Argument[str | os.PathLike[str] | None, Path | None]
    DurationArgument = Argument[float | str | None, float | None]
    PoolingArgument = Argument[
        PoolingMode | Literal["lasttoken", "mean_sqrt_len_tokens", "weightedmean"] | None, PoolingMode | None
    ]
else:  # what pydantic reads of them
    ModelName = Annotated[_Name, _spelled(MODEL_ALIASES), BeforeValidator(_path_as_text)]
    PathArgument = Annotated[Path, AfterValidator(expand_home)] | None
    DurationArgument = Annotated[float, Field(ge=0, allow_inf_nan=False), BeforeValidator(read_duration)] | None
    PoolingArgument = Annotated[PoolingMode, _spelled(POOLING_SPELLINGS)] | None


def vectors_field(description: str, default: Any = None) -> Any:
    """A field that changes vectors: one made under another value of it is stale."""
    return Field(default, description=description, json_schema_extra={"changes": "vectors"})


def run_field(description: str, default: Any = None) -> Any:
    """A field that says only how and where vectors are computed."""
    return Field(default, description=description, json_schema_extra={"changes": "run"})


class ModelOptions(BaseModel):
    """Options of any kind of model, but for the model itself."""

    model_config = ConfigDict(protected_namespaces=())

    revision: _Name | None = vectors_field(
        "Commit, tag or branch of a model on the Hub; pin a commit for vectors that never change."
    )
    max_seq_length: _Limit | None = vectors_field(
        "Tokens of a text that are read, prompt included. None takes the checkpoint's limit."
    )
    tokenizer: Literal["file"] | None = vectors_field(
        '"file" takes tokenizer.json as it stands, as transformers 4 did. None takes what transformers 5 makes of the '
        "checkpoint's files, as sentence-transformers does."
    )
    exact_reference: bool | None = vectors_field(
        "True gives sentence-transformers' numbers also where others are meant: cut rows are not scaled again, only a "
        "prompt called document serves documents, no end token is put where it ignores the flag."
    )
    dtype: Literal["float32", "float16", "bfloat16"] | None = vectors_field(
        "Number format of the model's weights. None takes the checkpoint's (on a CPU float32)."
    )
    device: Annotated[Literal["gpu", "cpu"], BeforeValidator(_no_torch_device)] | None = run_field(
        "Where to compute. None takes the GPU (Metal or CUDA) where there is one, else the CPU."
    )
    on_overlong: Literal["truncate", "error"] = run_field(
        "What to do with a text of more than max_seq_length tokens.", "truncate"
    )
    max_batch_tokens: _Limit | None = run_field(
        "Most tokens in one forward pass, padding included; a longer text goes alone. None: by device."
    )
    max_queued_tokens: _Limit | None = run_field(
        "Most tokens that may wait for the device; beyond that a request is refused (QueueFullError). None: 1,000,000, "
        "on CUDA 4,000,000."
    )
    query_latency_target_ms: _Duration = run_field(
        "While queries wait, batches of documents shrink to take about this many milliseconds.", 20.0
    )
    tokenizer_processes: Annotated[int, Field(ge=0), BeforeValidator(_refuse_bool)] | None = run_field(
        "Processes beside this one that cut the texts of long calls into tokens, so that Python's lock does not hold a "
        "fast GPU up; 0: none. None: by device."
    )
    cache_limit_mb: Annotated[int, Field(ge=0), BeforeValidator(_refuse_bool)] | None = run_field(
        "Most freed memory in MiB that MLX keeps for reuse, for all of the process; 0 keeps none. None: MLX's own "
        "limit, and on a GPU less, by device."
    )
    memory_limit_mb: _Limit | None = run_field(
        "Most memory in MiB that weights and batches of all models of the process may take: for a model that has no "
        "room the least recently used one is freed, until it is called again. None: what the machine leaves, on a Mac "
        "what macOS recommends for the GPU."
    )
    keep_alive: DurationArgument = run_field(
        "Seconds without a call until a model's weights are freed, to be loaded again by the next call; also text such "
        'as "5m". None: not while anybody holds the model, and a minute after nobody does.'
    )
    cache_dir: PathArgument = run_field(
        "Folder of downloaded models. None takes the Hub's own (HF_HOME, HF_HUB_CACHE)."
    )
    local_files_only: bool = run_field("Never reach for the network; a model that is not here is an error.", False)


class EmbedderOptions(ModelOptions):
    """Every option of an embedder but the model itself; the adapters inherit these fields."""

    pooling: PoolingArgument = vectors_field(
        "How token vectors become one: it wins over what the checkpoint says. None follows the checkpoint."
    )
    normalize: bool | None = vectors_field("Scale each embedding to unit length. None follows the checkpoint.")
    truncate_dim: _Limit | None = vectors_field(
        "Keep only this many dimensions, the first (Matryoshka models). None keeps all."
    )
    query_prompt: str | None = vectors_field('Text put before each query; "" puts none. None takes the checkpoint\'s.')
    document_prompt: str | None = vectors_field(
        'Text put before each document; "" puts none. None takes the checkpoint\'s.'
    )
    calibration: PathArgument = run_field(
        "File with the scale for calls that want int8 or uint8: an output of `embed --output-dtype int8`, or JSON."
    )
    task: _Name | None = vectors_field(
        "Whose adapter computes, of a model that has one for each task (Jina v3, v5). One with a half for queries and "
        "one for documents may be named whole. None: the halves for retrieval where there are, else none."
    )


class RerankerOptions(ModelOptions):
    """Every option of a reranker but the model itself; the adapters inherit these fields."""

    activation: Activation | None = vectors_field(
        "What makes scores of the model's numbers: sigmoid gives 0 to 1, identity the numbers themselves. None follows "
        "the checkpoint."
    )
    prompt: str | None = vectors_field(
        "Text put before each query, or a chat template's instruction; \"\" puts none. None takes the checkpoint's."
    )


class SparseOptions(ModelOptions):
    """Every option of a sparse encoder but the model itself; the adapters inherit these fields."""

    pooling: SpladePooling | None = vectors_field(
        "How the logits of a text's tokens become one row. None follows the checkpoint; a plain masked language model "
        "needs it."
    )
    max_active_dims: _Limit | None = vectors_field(
        "Keep only this many entries of a row, the greatest. None follows the checkpoint."
    )
    query_prompt: str | None = vectors_field('Text put before each query; "" puts none. None takes the checkpoint\'s.')
    document_prompt: str | None = vectors_field(
        'Text put before each document; "" puts none. None takes the checkpoint\'s.'
    )


class MultiVectorOptions(ModelOptions):
    """Every option of a late-interaction model but the model itself."""

    query_length: _Limit | None = vectors_field(
        "Tokens of a query, prompt and special tokens included: where the model fills queries up to a fixed length, "
        "that one, otherwise the most. None follows the checkpoint."
    )
    document_length: _Limit | None = vectors_field(
        "Most tokens of a document, prompt and special tokens included. None follows the checkpoint."
    )
    query_prompt: str | None = vectors_field('Text put before each query; "" puts none. None takes the checkpoint\'s.')
    document_prompt: str | None = vectors_field(
        'Text put before each document; "" puts none. None takes the checkpoint\'s.'
    )
    output_dtype: Literal["float32", "float16"] = vectors_field(
        "Number format of the vectors that come out; float16 takes half the space.", "float32"
    )
    token_pooling: _Factor | None = vectors_field(
        "Merge a document's vectors that are much alike, so that about one in this many is left. None merges no more "
        "than the checkpoint says."
    )
