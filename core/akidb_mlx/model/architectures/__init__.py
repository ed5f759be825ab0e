"""The table of architectures: `model_type` of config.json → the class that computes it."""

from collections.abc import Callable, Mapping
from typing import Any

from akidb_mlx.errors import CheckpointError, UnsupportedModelError
from akidb_mlx.model.architectures.albert import Albert
from akidb_mlx.model.architectures.base import Backbone
from akidb_mlx.model.architectures.bert import Bert
from akidb_mlx.model.architectures.deberta import Deberta
from akidb_mlx.model.architectures.deberta_v2 import DebertaV2
from akidb_mlx.model.architectures.decoder import Decoder
from akidb_mlx.model.architectures.decoder_table import DECODERS
from akidb_mlx.model.architectures.distilbert import DistilBert
from akidb_mlx.model.architectures.electra import Electra
from akidb_mlx.model.architectures.embedding_gemma2 import EmbeddingGemma2
from akidb_mlx.model.architectures.ernie import Ernie
from akidb_mlx.model.architectures.eurobert import EuroBert
from akidb_mlx.model.architectures.gemma3 import Gemma3
from akidb_mlx.model.architectures.gpt import Gpt
from akidb_mlx.model.architectures.gte import Gte
from akidb_mlx.model.architectures.jina_bert import JinaBert
from akidb_mlx.model.architectures.jina_v3 import JinaV3
from akidb_mlx.model.architectures.lfm2 import BIDIRECTIONAL, Lfm2
from akidb_mlx.model.architectures.lfm2_moe import Lfm2Moe
from akidb_mlx.model.architectures.ministral3 import Ministral3
from akidb_mlx.model.architectures.mlx_lm import has_model
from akidb_mlx.model.architectures.modernbert import ModernBert
from akidb_mlx.model.architectures.mpnet import MPNet
from akidb_mlx.model.architectures.nomic_bert import NomicBert
from akidb_mlx.model.architectures.olmo3 import Olmo3
from akidb_mlx.model.architectures.roberta import Roberta
from akidb_mlx.model.architectures.static import Static
from akidb_mlx.model.architectures.t5 import T5

__all__ = ["ARCHITECTURES", "Backbone", "make_backbone"]

ARCHITECTURES: dict[str, Callable[[Mapping[str, Any]], Backbone]] = {
    **dict.fromkeys(DECODERS, Decoder),
    "albert": Albert,
    "bert": Bert,
    "camembert": Roberta,
    "deberta": Deberta,
    "deberta-v2": DebertaV2,
    "distilbert": DistilBert,
    "electra": Electra,
    "embedding_gemma2": EmbeddingGemma2,
    "embedding_gemma2_text": EmbeddingGemma2,
    "ernie": Ernie,
    "eurobert": EuroBert,
    "gemma3_text": Gemma3,
    "gpt2": Gpt,
    "gpt_neox": Gpt,
    "gptj": Gpt,
    "gte": Gte,
    "lfm2": Lfm2,
    "lfm2_moe": Lfm2Moe,
    "ministral3": Ministral3,
    "ministral3_bidirec": Ministral3,
    "modernbert": ModernBert,
    "jina_bert": JinaBert,
    "jina_embeddings_v3": JinaV3,
    "mpnet": MPNet,
    "mt5": T5,
    "new": Gte,
    "nomic_bert": NomicBert,
    "olmo3": Olmo3,
    "roberta": Roberta,
    "static": Static,
    "t5": T5,
    "umt5": T5,
    "xlm-roberta": Roberta,
}


# What sizes of nought, or less, or of another type raise, here and in mlx-lm's classes.
_ODD = (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError)
# These name remote code (auto_map), but it equals transformers' or our implementation.
_OWN_CODE_KNOWN = frozenset(
    {"bidirectional_pplx_qwen3", "eurobert", "gte", "llama_bidirec", "ministral3_bidirec", "new", "nomic_bert"}
)
_OWN_CLASSES_KNOWN = frozenset({("lfm2", BIDIRECTIONAL)})
# Whose tokens see what is before them alone unless config.json says otherwise (is_causal).
_CAUSAL = DECODERS.keys() | {"gpt2", "gpt_neox", "gptj", "lfm2", "lfm2_moe"}


def make_backbone(config: Mapping[str, Any]) -> Backbone:
    """The backbone that a config.json describes, its weights still to be loaded.

    Raises:
        UnsupportedModelError: what it describes is not computed here, or not faithfully.
        CheckpointError: a field is missing, or of a type or size that cannot be.
    """
    model_type = str(config.get("model_type"))
    if model_type not in ARCHITECTURES:
        known = ", ".join(sorted(ARCHITECTURES))
        reason = "is not supported"
        if has_model(model_type):
            reason = "is a model of mlx-lm's, but no reference has verified its vectors here, so it is refused"
        raise UnsupportedModelError(f"model_type {model_type!r} {reason}; supported: {known}")
    named = config.get("auto_map")
    own_code = named.get("AutoModel") if isinstance(named, Mapping) else named
    code_known = model_type in _OWN_CODE_KNOWN or (model_type, str(own_code).rsplit(".", 1)[-1]) in _OWN_CLASSES_KNOWN
    stated = model_type in _CAUSAL and "is_causal" in config
    if own_code and not code_known and not stated:
        hint = "; if it differs only in what tokens see, say so there with is_causal (true or false)"
        raise UnsupportedModelError(
            f"config.json: auto_map names the checkpoint's own code ({own_code}), which is never run and may compute "
            f"something else than {model_type}{hint if model_type in _CAUSAL else ''}"
        )
    if model_type not in _CAUSAL and config.get("is_causal"):
        raise UnsupportedModelError(
            f"config.json: is_causal is true, with which the reference gives a {model_type} text one vector alone and "
            "another in a batch; delete it: tokens of such models see both ways"
        )
    try:
        return ARCHITECTURES[model_type](config)
    except _ODD as error:
        raise CheckpointError(f"config.json describes no {model_type} that could be: {error}") from None
