"""Chains of sentence-transformers' modules for rerankers that are not classifiers."""

from pathlib import Path
from typing import Any

import torch
from case import randomise
from reranker_case import Modules
from sentence_transformers.base.modules import Dense, Transformer
from sentence_transformers.cross_encoder.modules import LogitScore
from sentence_transformers.sentence_transformer.modules import Pooling


def logit_score(true: str, false: str | None, message_format: str | None = None, **processing: Any) -> Modules:
    """A causal language model whose score is the logit of `true` less that of `false`.

    `processing` is the Transformer's `processing_kwargs`; `message_format` is "flat" or "structured", else inferred.
    """

    def build(folder: Path, stored: dict[str, Any]) -> list[torch.nn.Module]:
        options: dict[str, Any] = {"processing_kwargs": processing} if processing else {}
        if message_format:
            call = {"method": "forward", "method_output_name": "logits"}
            config = {"text": call, "message": {**call, "format": message_format}}
            options |= {"modality_config": config, "module_output_name": "causal_logits"}
        transformer = Transformer(str(folder), transformer_task="text-generation", model_kwargs=dict(stored), **options)
        ids = [None if token is None else transformer.tokenizer.convert_tokens_to_ids(token) for token in (true, false)]
        assert ids[0] != ids[1] and ids[0] is not None
        return [transformer, LogitScore(*ids)]

    return build


def pooled(name: str, pooling: str, layers: list[dict[str, Any]], **processing: Any) -> Modules:
    """A backbone, a pooling and Dense layers, of which the last writes `scores`."""

    def build(folder: Path, stored: dict[str, Any]) -> list[torch.nn.Module]:
        options = {"processing_kwargs": processing} if processing else {}
        transformer = Transformer(str(folder), model_kwargs=dict(stored), **options)
        width = transformer.get_embedding_dimension()
        modules: list[torch.nn.Module] = [transformer, Pooling(width, pooling)]
        for index, layer in enumerate(layers):
            last = index == len(layers) - 1
            dense = Dense(width, **layer, module_output_name="scores" if last else None)
            randomise(dense, f"{name} dense {index}")
            modules.append(dense)
            width = dense.out_features
        return modules

    return build


def classifier(**processing: Any) -> Modules:
    """A sequence classifier with `processing_kwargs`."""

    def build(folder: Path, stored: dict[str, Any]) -> list[torch.nn.Module]:
        return [
            Transformer(
                str(folder),
                transformer_task="sequence-classification",
                model_kwargs=dict(stored),
                processing_kwargs=processing,
            )
        ]

    return build
