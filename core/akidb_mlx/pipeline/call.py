"""One call's options, and what it used."""

from collections.abc import Callable
from dataclasses import dataclass, field

from akidb_mlx.errors import AkiDBMLXError

__all__ = ["Call", "OnError", "Usage"]


OnError = Callable[[int, AkiDBMLXError], None]


@dataclass
class Usage:
    """What one call read; filled in while it runs."""

    tokens: int = 0
    """Tokens that the model read: prompt and special tokens too, what was cut off not."""
    truncated_texts: int = 0


@dataclass(frozen=True)
class Call:
    """One call's settled options."""

    prompt: str
    dimension: int
    normalize: bool
    urgent: bool = False
    on_overlong: str = "truncate"
    max_tokens: int | None = None
    usage: Usage = field(default_factory=Usage)
    errors: dict[int, AkiDBMLXError] | None = None
    """Why texts have no row, by place, where that is not to end the call."""
    wait: bool = False
    """Whether to wait where the queue is full."""
