"""What a checkpoint's files say, before a known family or code of its own adds to it. No MLX here."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from akidb_mlx.checkpoint.fact import Fact
from akidb_mlx.checkpoint.layout import Layout
from akidb_mlx.checkpoint.modules import Head, Usage
from akidb_mlx.checkpoint.tokenizer_facts import TokenizerFacts

__all__ = ["Said"]


@dataclass(frozen=True)
class Said:
    """Each reader's part."""

    name: str
    layout: Layout
    architecture: Fact[Mapping[str, Any]]
    """config.json's fields."""
    head: Head
    tokenizer: TokenizerFacts
    quantization: Fact[Mapping[str, Any]] | None
    usage: Usage

    @property
    def config(self) -> Mapping[str, Any]:
        """config.json's fields."""
        return self.architecture.value
