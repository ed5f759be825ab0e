"""What an implementation of sparse encoders may get wrong, as changes of the reference's loaded model."""

import torch
from sentence_transformers import SparseEncoder
from sentence_transformers.base.modules import Router


def chain(model: SparseEncoder) -> list[torch.nn.Module]:
    first = model[0]
    return list(first.sub_modules["document"]) if isinstance(first, Router) else list(model)


def other_strategy(model: SparseEncoder) -> None:
    pooling = chain(model)[1]
    pooling.pooling_strategy = "sum" if pooling.pooling_strategy == "max" else "max"


def other_activation(model: SparseEncoder) -> None:
    pooling = chain(model)[1]
    pooling.activation_function = "relu" if pooling.activation_function == "log1p_relu" else "log1p_relu"


def without_bias(model: SparseEncoder) -> None:
    chain(model)[0].model.get_output_embeddings().bias.data.zero_()


def tied(model: SparseEncoder) -> None:
    network = chain(model)[0].model
    network.get_output_embeddings().weight = network.get_input_embeddings().weight


def other_normalize(model: SparseEncoder) -> None:
    encoder = chain(model)[-1]
    encoder.normalize = not encoder.normalize


def another_k(model: SparseEncoder) -> None:
    model.max_active_dims += 1
