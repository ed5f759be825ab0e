"""The table of architectures: `model_type` of config.json → the class that computes it."""

from collections.abc import Callable, Mapping
from typing import Any

from akidb_mlx.architectures.base import Backbone
from akidb_mlx.architectures.bert import Bert
from akidb_mlx.architectures.distilbert import DistilBert
from akidb_mlx.architectures.eurobert import EuroBert
from akidb_mlx.architectures.gte import Gte
from akidb_mlx.architectures.modernbert import ModernBert
from akidb_mlx.architectures.mpnet import MPNet
from akidb_mlx.architectures.nomic_bert import NomicBert
from akidb_mlx.architectures.roberta import Roberta
from akidb_mlx.errors import UnsupportedModelError

__all__ = ["ARCHITECTURES", "Backbone", "make_backbone"]

ARCHITECTURES: dict[str, Callable[[Mapping[str, Any]], Backbone]] = {
    "bert": Bert,
    "camembert": Roberta,
    "distilbert": DistilBert,
    "eurobert": EuroBert,
    "gte": Gte,
    "modernbert": ModernBert,
    "mpnet": MPNet,
    "new": Gte,
    "nomic_bert": NomicBert,
    "roberta": Roberta,
    "xlm-roberta": Roberta,
}


def make_backbone(config: Mapping[str, Any]) -> Backbone:
    """The backbone that a config.json describes, its weights still to be loaded."""
    model_type = config.get("model_type")
    if model_type not in ARCHITECTURES:
        known = ", ".join(sorted(ARCHITECTURES))
        raise UnsupportedModelError(f"model_type {model_type!r} is not supported; supported: {known}")
    return ARCHITECTURES[str(model_type)](config)
