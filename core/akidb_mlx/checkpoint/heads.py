"""What makes rows of a backbone's hidden states, as the files say it: one class per kind of head. No MLX here."""

from dataclasses import dataclass
from pathlib import Path

__all__ = ["ClassificationHead", "Dense", "HeadFacts", "JointHead", "PooledHead", "TokenLogitHead", "TokenWeightsHead"]


@dataclass(frozen=True)
class Dense:
    """One Dense module after pooling: `activation(x @ weight.T + bias)`, optionally plus `x`."""

    name: str
    """Folder of the module, or the key prefix where the main file carries its weights."""
    in_features: int
    out_features: int
    bias: bool
    activation: str
    residual: bool = False
    weight_file: Path | None = None
    """None: the weights are in the main file under `name`."""


@dataclass(frozen=True)
class PooledHead:
    """Pooling modes side by side, then Dense layers; vectors, or scores where the last layer gives those."""

    pooling: tuple[str, ...]
    dense: tuple[Dense, ...] = ()


@dataclass(frozen=True)
class ClassificationHead:
    """The architecture's own layers for `labels` numbers a row (transformers' ForSequenceClassification)."""

    labels: int


@dataclass(frozen=True)
class TokenLogitHead:
    """A language model's logit of one token, less another's, where the text ends."""

    true_token_id: int
    false_token_id: int | None = None


@dataclass(frozen=True)
class TokenWeightsHead:
    """A linear layer's weight per token, the greatest of equal tokens (BGE-M3's sparse vectors)."""

    weight_file: Path
    vocabulary: int
    left_out: tuple[int, ...]
    """Tokens that have no weight."""


@dataclass(frozen=True)
class JointHead:
    """Several heads over one backbone, which come from files of their own as they are asked for."""


HeadFacts = PooledHead | ClassificationHead | TokenLogitHead | TokenWeightsHead | JointHead
