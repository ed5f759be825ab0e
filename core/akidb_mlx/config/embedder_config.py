"""How to run a model, as the user said it: arguments, then `AKIDB_MLX_*`, then one YAML file, then defaults.

`None` always means that the checkpoint or the device decides.
"""

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
)
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict

from akidb_mlx.config.sources import PREFIX, Said, find_file, read_environment, read_file, refuse_unknown, shown
from akidb_mlx.errors import ConfigError

__all__ = [
    "DEFAULT_MODEL",
    "MODEL_ALIASES",
    "POOLING_MODES",
    "POOLING_SPELLINGS",
    "RUN_FIELDS",
    "VECTOR_FIELDS",
    "EmbedderConfig",
    "EmbedderOptions",
    "ModelName",
    "PoolingMode",
]

MODEL_ALIASES: Final = {
    "qwen3-0.6b-4bit": "mlx-community/Qwen3-Embedding-0.6B-4bit-DWQ",
    "gemma-300m-4bit": "mlx-community/embeddinggemma-300m-4bit",
}
DEFAULT_MODEL: Final = MODEL_ALIASES["qwen3-0.6b-4bit"]

PoolingMode = Literal["cls", "mean", "max", "last_token", "mean_sqrt_len", "weighted_mean"]
POOLING_MODES: Final[tuple[PoolingMode, ...]] = get_args(PoolingMode)
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


def _path_as_text(value: Any) -> Any:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _spelled(spellings: Mapping[str, str]) -> BeforeValidator:
    """Take another spelling for the name that it stands for."""
    return BeforeValidator(lambda value: spellings.get(value, value) if isinstance(value, str) else value)


_Limit = Annotated[int, Field(gt=0), BeforeValidator(_refuse_bool)]
_Duration = Annotated[float, Field(gt=0, allow_inf_nan=False), BeforeValidator(_refuse_bool)]
_Folder = Annotated[Path, AfterValidator(Path.expanduser)]
_Name = Annotated[str, Field(min_length=1)]
ModelName = Annotated[_Name, _spelled(MODEL_ALIASES), BeforeValidator(_path_as_text)]


def _vectors(description: str, default: Any = None) -> Any:
    """A field that changes vectors: one made under another value of it is stale."""
    return Field(default, description=description, json_schema_extra={"changes": "vectors"})


def _run(description: str, default: Any = None) -> Any:
    """A field that says only how and where vectors are computed."""
    return Field(default, description=description, json_schema_extra={"changes": "run"})


class EmbedderOptions(BaseModel):
    """Every option but the model itself; the adapters inherit these fields."""

    model_config = ConfigDict(protected_namespaces=())

    revision: _Name | None = _vectors(
        "Commit, tag or branch of a model on the Hub; pin a commit for vectors that never change."
    )
    pooling: Annotated[PoolingMode, _spelled(POOLING_SPELLINGS)] | None = _vectors(
        "How token vectors become one: it wins over what the checkpoint says. None follows the checkpoint."
    )
    normalize: bool | None = _vectors("Scale each embedding to unit length. None follows the checkpoint.")
    max_seq_length: _Limit | None = _vectors(
        "Tokens of a text that are read, prompt included. None takes the checkpoint's limit."
    )
    truncate_dim: _Limit | None = _vectors(
        "Keep only the first so many dimensions (Matryoshka models). None keeps all."
    )
    query_prompt: str | None = _vectors('Text put before each query; "" puts none. None takes the checkpoint\'s.')
    document_prompt: str | None = _vectors('Text put before each document; "" puts none. None takes the checkpoint\'s.')
    dtype: Literal["float32", "float16", "bfloat16"] | None = _vectors(
        "Number format of the model's weights. None takes the checkpoint's (on a CPU float32)."
    )
    device: Literal["gpu", "cpu"] | None = _run(
        "Where to compute. None takes the GPU (Metal or CUDA) where there is one, else the CPU."
    )
    on_overlong: Literal["truncate", "error"] = _run(
        "What to do with a text of more than max_seq_length tokens.", "truncate"
    )
    max_batch_tokens: _Limit | None = _run(
        "Most tokens in one forward pass, padding included; a longer text goes alone. None: by device."
    )
    max_queued_tokens: _Limit = _run(
        "Most tokens that may wait for the device; beyond that a request is refused (QueueFullError).",
        1_000_000,
    )
    query_latency_target_ms: _Duration = _run(
        "While queries wait, batches of documents shrink to take about this many milliseconds.", 20.0
    )
    cache_limit_mb: Annotated[int, Field(ge=0), BeforeValidator(_refuse_bool)] | None = _run(
        "Most freed memory in MiB that MLX keeps for reuse; 0 keeps none. None: by device."
    )
    memory_limit_mb: _Limit | None = _run(
        "Most memory in MiB that weights and batches may take. None: what the machine leaves, on a Mac what macOS "
        "recommends for the GPU."
    )
    cache_dir: _Folder | None = _run("Folder of downloaded models. None takes the Hub's own (HF_HOME, HF_HUB_CACHE).")
    local_files_only: bool = _run("Never reach for the network; a model that is not here is an error.", False)


class EmbedderConfig(EmbedderOptions, BaseSettings):
    """A model and how to run it; frozen, and equal to another of the same values wherever they came from.

    Values come from the arguments really given (None included), then `AKIDB_MLX_*` variables, then the first
    file found of `$AKIDB_CONFIG`, `./embedding_config.yaml`, `~/.config/akidb/embedding_config.yaml`, then
    defaults. Of a file with an `embedding:` section (AkiDB's own) only that is read, where AkiDB's names are
    taken too: `model_name`, `max_tokens`, `auto_download`, and `batch_size`, which is unused. Of any other
    file every key must be a field. Copies, unpickled configs and child processes read none of this again.

    Raises:
        ConfigError: an unknown name, a bad value or a bad file.
    """

    model_config = SettingsConfigDict(frozen=True, extra="forbid", protected_namespaces=(), env_prefix=PREFIX)

    model: ModelName = _vectors(
        "A local folder, package:NAME (an installed package with a model), a Hub id, or an alias.",
        DEFAULT_MODEL,
    )
    _origins: dict[str, str] = PrivateAttr(default_factory=dict)

    def __init__(self, /, **given: Any) -> None:
        """Take what is given, then the environment, then the first file found."""
        arguments, path = _arguments(given), find_file()
        self._fill((read_file(path, _fields()) if path else {}) | read_environment(_fields()) | arguments)

    @classmethod
    def exact(cls, **fields: Any) -> Self:
        """These fields and plain defaults, without environment and files; for what was resolved before."""
        return cls._of(_arguments(fields))

    @classmethod
    def from_yaml(cls, path: str | os.PathLike[str], **given: Any) -> Self:
        """Like the constructor, with this file in place of the one that would be found."""
        return cls._of(read_file(Path(path), _fields()) | read_environment(_fields()) | _arguments(given))

    @classmethod
    def from_section(cls, section: Mapping[str, Any], where: str, **given: Any) -> Self:
        """One model's section of a larger file; what it leaves out comes from the environment, then defaults."""
        refuse_unknown(f"key in {where}:", section, _fields())
        said = {name: (value, f"{where}.{name}") for name, value in section.items()}
        return cls._of(read_environment(_fields()) | said | _arguments(given))

    def with_changes(self, **fields: Any) -> Self:
        """A checked copy with these fields changed; the others keep value and origin."""
        kept: Said = {name: (getattr(self, name), origin) for name, origin in self._origins.items()}
        return self._of(kept | _arguments(fields))

    def source_of(self, field: str) -> str:
        """Where a field's value was said: "argument", a variable, "FILE: KEY", or "default"."""
        refuse_unknown("field", [field], _fields())
        return self._origins.get(field, "default")

    @classmethod
    def _of(cls, said: Said) -> Self:
        config = cls.__new__(cls)
        config._fill(said)
        return config

    def _fill(self, said: Said) -> None:
        # BaseModel's: BaseSettings' own sources ignore unknown names and forget where a value came from
        try:
            BaseModel.__init__(self, **{name: value for name, (value, _) in said.items()})
        except ValidationError as error:
            problems = "; ".join(_explain(problem, said) for problem in error.errors(include_url=False))
            raise ConfigError(problems) from None
        self._origins = {name: origin for name, (_, origin) in said.items()}

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.__dict__ == self.__dict__

    def __hash__(self) -> int:
        return hash(tuple(self.__dict__.items()))


def _fields() -> Collection[str]:
    return EmbedderConfig.model_fields


def _fields_that_change(what: str) -> frozenset[str]:
    extras = {name: field.json_schema_extra for name, field in EmbedderConfig.model_fields.items()}
    return frozenset(name for name, extra in extras.items() if extra == {"changes": what})


VECTOR_FIELDS: Final = _fields_that_change("vectors")
RUN_FIELDS: Final = _fields_that_change("run")


def _explain(problem: ErrorDetails, said: Said) -> str:
    """One pydantic problem in a line: field, value, origin, what is allowed."""
    name = str(problem["loc"][0])
    value, origin = said[name]
    allowed = problem["msg"].removeprefix("Value error, ").removeprefix("Input ")
    quote = " (put it in quotes)" if problem["type"] == "string_type" and ": " in origin else ""
    return f"{name} = {shown(value)} ({origin}): {allowed}{quote}"


def _arguments(given: dict[str, Any]) -> Said:
    refuse_unknown("argument", given, _fields())
    return {name: (value, "argument") for name, value in given.items()}
