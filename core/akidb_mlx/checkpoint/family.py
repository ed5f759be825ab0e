"""What must be known of one family of models when their files are silent. No MLX here."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["TASK", "Family", "ids"]

Config = Mapping[str, Any]
TASK = "Given a web search query, retrieve relevant passages that answer the query"


@dataclass(frozen=True)
class Family:
    """One row; None where the models differ or their documentation does not say."""

    name: str
    ids: tuple[str, ...]
    pooling: str
    normalize: bool | None = True
    query_prompt: str = ""
    document_prompt: str = ""
    max_seq_length: int | None = None
    """Only where it is less than what tokenizer and config.json say."""
    include_prompt: bool = True
    """Whether pooling reads a prompt's tokens; false also for its exact names, whatever their files say."""
    dense: int = 0
    """Dense layers without bias and activation, in the main file under `dense.0`, `dense.1` …"""
    matryoshka: tuple[int, ...] | None = None
    truncation_layer_norm: bool = False
    config: Config = field(default_factory=dict)
    """Fields of config.json that its code takes for granted."""
    output: str | None = None
    """What rows become after all layers (`modules.WHOLE_NUMBERS`); None for what they are."""
    tokenizer_appends_end: bool = False
    """Whether its tokenizer's own code puts the end token after each text."""

    @property
    def prompts(self) -> dict[str, str]:
        """By sentence-transformers' names; none where both are empty."""
        said = {"query": self.query_prompt, "document": self.document_prompt}
        return said if any(said.values()) else {}


def ids(owner: str, names: str) -> tuple[str, ...]:
    """Hub ids of names in one string."""
    return tuple(f"{owner}/{name}" for name in names.split())
