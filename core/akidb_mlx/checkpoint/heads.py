"""What makes rows of a backbone's hidden states, as the files say it: one class per kind of head. No MLX here."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

__all__ = [
    "AutoEncoderHead",
    "ClassificationHead",
    "Dense",
    "HeadFacts",
    "JointHead",
    "PooledHead",
    "SpladeHead",
    "TokenLogitHead",
    "TokenVectorsHead",
    "TokenWeightsHead",
]


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
    of_tokens: bool = False
    """Whether the checkpoint applies it to tokens, before pooling: which is the same, but for the maximum."""


@dataclass(frozen=True)
class PooledHead:
    """Pooling modes side by side, then Dense layers; vectors, or scores where the last layer gives those."""

    pooling: tuple[str, ...]
    dense: tuple[Dense, ...] = ()
    whole_numbers: bool = False
    """Whether the row then becomes round(127 · tanh), whole numbers from -127 to 127 (pplx-embed)."""


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
class SpladeHead:
    """A masked language model's logits, one weight per entry of the vocabulary: max or sum over a text's tokens."""

    strategy: Literal["max", "sum"]
    activation: Literal["relu", "log1p_relu"]
    """"relu": log(1 + relu); "log1p_relu": that once more, log(1 + log(1 + relu))."""


@dataclass(frozen=True)
class AutoEncoderHead:
    """Pooling, Dense layers, then a sparse autoencoder's latents, of which the greatest count."""

    pooled: PooledHead
    input_dim: int
    hidden_dim: int
    k: int
    """How many latents count where nobody says another number."""
    normalize: bool
    """Whether the pooled row is first put to mean 0 and deviation 1."""
    weight_file: Path


@dataclass(frozen=True)
class TokenVectorsHead:
    """A row per token: Dense layers, then unit length where the files say so."""

    dense: tuple[Dense, ...]
    normalize: bool
    first: int = 0
    """Leading tokens that give no row."""


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


HeadFacts = (
    PooledHead
    | ClassificationHead
    | TokenLogitHead
    | SpladeHead
    | AutoEncoderHead
    | TokenVectorsHead
    | TokenWeightsHead
    | JointHead
)
