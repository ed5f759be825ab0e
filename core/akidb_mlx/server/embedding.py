"""What all embedding routes do: a model's name and side, then texts → vectors."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from akidb_mlx.checkpoint.processing import Side
from akidb_mlx.effective.tasks import side_of_task
from akidb_mlx.embedder import Usage
from akidb_mlx.server.models import ServedModel
from akidb_mlx.server.problems import Problem
from akidb_mlx.server.state import State
from akidb_mlx.small_vectors import OutputDtype
from akidb_mlx.vectors import Embeddings

__all__ = ["Wanted", "embed", "embed_as", "side_of"]


@dataclass(frozen=True)
class Wanted:
    """What a request says besides its texts; None where it says nothing."""

    model: str
    side: Side | None = None
    prompt_name: str | None = None
    dimensions: int | None = None
    truncate: bool | None = None
    normalize: bool | None = None
    task: str | None = None


async def embed(
    state: State, texts: list[str], wanted: Wanted, *, default_side: Side | None = None
) -> tuple[Embeddings, Usage]:
    """(n, dimension) vectors and what they used; `default_side` holds where neither name nor request says one.

    Raises:
        Problem: no such model, or not an embedder; wishes that contradict each other or that it cannot fulfil.
        What `Embedder.aencode_with_usage` raises.
    """
    side = side_of(state, wanted)
    model = await state.model(wanted.model, "embedder")
    _check_dimensions(model, wanted)
    return await model.embedder.aencode_with_usage(
        texts,
        side=side or (default_side if wanted.prompt_name is None else None),
        prompt_name=wanted.prompt_name,
        truncate_dim=wanted.dimensions,
        normalize=wanted.normalize,
        on_overlong=None if wanted.truncate is None else "truncate" if wanted.truncate else "error",
        max_tokens=state.settings.max_request_tokens,
        task=wanted.task,
    )


async def embed_as(
    state: State, texts: list[str], wanted: Wanted, dtypes: Sequence[OutputDtype]
) -> tuple[dict[OutputDtype, NDArray[Any]], Usage]:
    """As `embed`, in several types of numbers at once; a Problem where the model has no calibration for one."""
    model = await state.model(wanted.model, "embedder")
    _check_dimensions(model, wanted)
    blank = np.zeros((1, wanted.dimensions or model.embedder.dimension), np.float32)
    for dtype in dtypes:  # before anything is computed
        model.embedder.quantize(blank, dtype)
    rows, usage = await embed(state, texts, wanted)
    return {dtype: model.embedder.quantize(rows, dtype) for dtype in dtypes}, usage


def side_of(state: State, wanted: Wanted) -> Side | None:
    """What the texts are, by the request, the tag of its model's name or the half of a task that it names.

    Raises:
        Problem: request and name contradict each other.
    """
    named = state.addressed(wanted.model).side
    if wanted.side is not None and named not in (None, wanted.side):
        said = f"input_type says {wanted.side} and the model's name {wanted.model!r} {named}; leave one out"
        raise Problem(400, said, param="input_type")
    side = wanted.side or named or (None if wanted.prompt_name or not wanted.task else side_of_task(wanted.task))
    if side is not None and wanted.prompt_name is not None:
        said = "input_type" if wanted.side else f"the model's name {wanted.model!r}"
        raise Problem(400, f"{said} decides the prompt; give that or prompt_name, not both", param="prompt_name")
    return side


def _check_dimensions(model: ServedModel, wanted: Wanted) -> None:
    full = model.embedder.full_dimension
    if wanted.dimensions is not None and wanted.dimensions > full:
        said = f"dimensions is {wanted.dimensions}; {wanted.model} has 1 to {full} dimensions"
        raise Problem(400, said, param="dimensions")
