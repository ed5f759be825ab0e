"""`akidb-mlx bridge`: AkiDB's line protocol, a JSON object per line on standard input, one back on standard output."""

import argparse
import logging
import os
import sys
from collections.abc import Callable
from typing import Annotated, Any, BinaryIO

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import to_json

from akidb_mlx.cli.options import add_config_options, read_config
from akidb_mlx.config.embedder_config import EmbedderConfig
from akidb_mlx.embedder import Embedder
from akidb_mlx.errors import AkiDBMLXError
from akidb_mlx.pipeline.surrogates import mended_json

__all__ = ["EXAMPLE", "Bridge", "add_arguments", "run"]

EXAMPLE = "akidb-mlx bridge --local-files-only"

_log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options; they hold for every model that the other side asks for."""
    add_config_options(parser)


def run(args: argparse.Namespace) -> int:
    """Answer until the other side closes our standard input."""
    # Whatever else this process prints goes to standard error: a stray line would break the protocol.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    logging.getLogger("akidb_mlx").setLevel(logging.INFO)
    config = read_config(args, EmbedderConfig)
    with Bridge(lambda **fields: Embedder.load(config.with_changes(**fields))) as bridge, answers:
        bridge.serve(sys.stdin.buffer, answers)
    return 0


class _Message(BaseModel):
    model_config = ConfigDict(strict=True)


class _Request(_Message):
    method: str
    params: dict[str, Any] = {}


class _LoadModel(_Message):
    model: Annotated[str, Field(min_length=1)]
    cache_dir: str | None = None


class _EmbedBatch(_Message):
    model: str
    inputs: list[str]
    normalize: bool | None = None


class Bridge:
    """The models that the other side has loaded, by the names it gave them."""

    def __init__(self, load: Callable[..., Embedder]) -> None:
        """`load(model=…, cache_dir=…)` makes an embedder."""
        self._load = load
        self._embedders: dict[str, Embedder] = {}
        self._methods = {"ping": self._ping, "load_model": self._load_model, "embed_batch": self._embed_batch}

    def serve(self, requests: BinaryIO, answers: BinaryIO) -> None:
        """Answer each line in turn, until there is none; a bad line is answered too."""
        _log.info("ready")
        for line in requests:
            if line.strip():
                answers.write(to_json(self.answer(line)) + b"\n")
                answers.flush()

    def answer(self, line: bytes) -> dict[str, Any]:
        """The answer to one line; never raises."""
        try:
            request = _Request.model_validate_json(line)
            method = self._methods.get(request.method)
            if method is None:
                return _error(f"unknown method {request.method!r}; there are {', '.join(self._methods)}")
            return {"status": "ok", **method(request.params)}
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            if problem["type"] == "json_invalid" and (mended := mended_json(line)):
                return self.answer(mended)
            where = ".".join(map(str, problem["loc"]))
            return _error(f"{where}: {problem['msg']}" if where else problem["msg"])
        except AkiDBMLXError as error:
            return _error(str(error))
        except Exception as error:  # the other side waits for a line, whatever happens here
            _log.exception("a request failed")
            return _error(f"{type(error).__name__}: {error}")

    def __enter__(self) -> "Bridge":
        return self

    def __exit__(self, *exc: object) -> None:
        for embedder in self._embedders.values():
            embedder.close()

    def _ping(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"message": "pong"}

    def _load_model(self, params: dict[str, Any]) -> dict[str, Any]:
        asked = _LoadModel.model_validate(params)
        embedder = self._embedders.get(asked.model)
        if embedder is not None:
            return {"message": "already loaded", "dimension": embedder.dimension}
        fields = {"model": asked.model, "cache_dir": asked.cache_dir}
        embedder = self._load(**{name: value for name, value in fields.items() if value is not None})
        self._embedders[asked.model] = embedder
        _log.info("loaded %s", asked.model)
        return {"message": "loaded", "dimension": embedder.dimension}

    def _embed_batch(self, params: dict[str, Any]) -> dict[str, Any]:
        """Vectors of documents, as `EmbeddingService.embed` gives them."""
        asked = _EmbedBatch.model_validate(params)
        embedder = self._embedders.get(asked.model)
        if embedder is None:
            return _error(f"{asked.model!r} is not loaded; send load_model first")
        rows = embedder.encode_document(asked.inputs, normalize=asked.normalize)
        return {"dimension": rows.shape[1], "embeddings": rows.tolist(), "count": len(rows)}


def _error(message: str) -> dict[str, Any]:
    return {"status": "error", "message": message}
