"""One call's options, and what it used."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from akidb_mlx.checkpoint.processing import Side
from akidb_mlx.errors import AkiDBMLXError
from akidb_mlx.model.host_rows import Rows

__all__ = ["Call", "OnError", "Usage"]

Given = TypeVar("Given")
OnError = Callable[[int, AkiDBMLXError], None]


@dataclass
class Usage:
    """What one call read; filled in while it runs."""

    tokens: int = 0
    """Tokens that the model read: prompt and special tokens too, what was cut off not."""
    truncated_texts: int = 0


@dataclass(frozen=True)
class Call(Generic[Given]):
    """One call's settled options."""

    prompt: str
    finish: Callable[[Rows], Given]
    """The model's rows, all of a call's or of a chunk's → what the caller gets of them."""
    urgent: bool = False
    """Whether it overtakes what is not."""
    urgent_batches: int = 1
    """The most batches of its tokens that are queued as urgent at a time; more wait with all others."""
    side: Side | None = None
    """What the texts are, where that is known."""
    task: str | None = None
    """Whose adapter computes them."""
    on_overlong: str = "truncate"
    max_tokens: int | None = None
    first: int = 0
    """The first text's place in what the user gave, for messages."""
    usage: Usage = field(default_factory=Usage)
    errors: dict[int, AkiDBMLXError] | None = None
    """Why texts have no row, by place, where that is not to end the call."""
    wait: bool = False
    """Whether to wait where the queue is full."""
