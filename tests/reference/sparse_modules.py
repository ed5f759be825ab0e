"""Chains of sentence-transformers' modules that give sparse rows, with weights drawn from a name."""

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from sentence_transformers.base.modules import Router, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from sentence_transformers.sparse_encoder.modules import SparseAutoEncoder, SparseStaticEmbedding, SpladePooling

Build = Callable[[Path, dict[str, Any]], list[torch.nn.Module]]


def splade(strategy: str = "max", activation: str = "relu") -> Build:
    def build(plain: Path, stored: dict[str, Any]) -> list[torch.nn.Module]:
        return [masked_lm(plain, stored), SpladePooling(strategy, activation)]

    return build


def masked_lm(plain: Path, stored: dict[str, Any]) -> Transformer:
    return Transformer(str(plain), transformer_task="fill-mask", model_kwargs=stored)


def autoencoder(latents: int, k: int, normalize: bool, pooling: str = "mean") -> Build:
    def build(plain: Path, stored: dict[str, Any]) -> list[torch.nn.Module]:
        transformer = Transformer(str(plain), model_kwargs=stored)
        width = transformer.get_embedding_dimension()
        encoder = SparseAutoEncoder(width, latents, k=k, k_aux=4, normalize=normalize)
        generator = torch.Generator().manual_seed(zlib.crc32(f"{latents} {k} {normalize}".encode()))
        for _, parameter in encoder.named_parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.6
        return [transformer, Pooling(width, pooling), encoder]

    return build


def routed(default: str | None, seed: str) -> Build:
    """Documents by the model, queries by a weight per token; one weight is nothing and some are negative."""

    def build(plain: Path, stored: dict[str, Any]) -> list[torch.nn.Module]:
        transformer = masked_lm(plain, stored)
        generator = torch.Generator().manual_seed(zlib.crc32(seed.encode()))
        weight = torch.randn(transformer.model.config.vocab_size, generator=generator) + 1.5
        weight[40] = 0
        queries = SparseStaticEmbedding(transformer.tokenizer, weight)
        way = [transformer, SpladePooling("max")]
        return [Router.for_query_document([queries], way, default_route=default, allow_empty_key=default is not None)]

    return build
