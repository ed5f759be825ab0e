"""What an implementation of rerankers may get wrong, as changes of the reference's loaded model."""

from collections.abc import Callable
from typing import Any

import torch
from sentence_transformers import CrossEncoder
from tokenizers.normalizers import BertNormalizer
from tokenizers.processors import TemplateProcessing

Mistake = Callable[[CrossEncoder], None]


def no_token_types(model: CrossEncoder) -> None:
    """Both texts are of type 0."""
    for path, part in model[0].model.named_modules():
        if path.endswith("token_type_embeddings"):
            part.weight.data[:] = part.weight.data[:1].clone()


def config(**changes: Any) -> Mistake:
    """Other values in the transformer's config, and in the model where it copied them."""

    def apply(model: CrossEncoder) -> None:
        for name, value in changes.items():
            setattr(model[0].model.config, name, value)
            if hasattr(model[0].model, name):
                setattr(model[0].model, name, value)

    return apply


def replaced(path: str, part: Callable[[], torch.nn.Module]) -> Mistake:
    """Another module in place of the one at `path` of the transformer."""

    def apply(model: CrossEncoder) -> None:
        parent, _, name = path.rpartition(".")
        setattr(model[0].model.get_submodule(parent), name, part())

    return apply


def without_bias(path: str) -> Mistake:
    def apply(model: CrossEncoder) -> None:
        model.get_submodule(path).bias.data.zero_()

    return apply


def tanh_as(path: str, other: Callable[[torch.Tensor], torch.Tensor]) -> Mistake:
    """`other` where the code of the module at `path` calls torch.tanh."""
    return called_as(path, torch, "tanh", other)


def relu_as(path: str, other: Callable[[torch.Tensor], torch.Tensor]) -> Mistake:
    """`other` where the code of the module at `path` makes an nn.ReLU."""
    return called_as(path, torch.nn, "ReLU", lambda: other)


def called_as(path: str, owner: Any, name: str, other: Callable[..., Any]) -> Mistake:
    def apply(model: CrossEncoder) -> None:
        part = model[0].model.get_submodule(path)
        forward = part.forward

        def changed(*args: Any, **kwargs: Any) -> Any:
            kept = getattr(owner, name)
            setattr(owner, name, other)
            try:
                return forward(*args, **kwargs)
            finally:
                setattr(owner, name, kept)

        part.forward = changed

    return apply


def feed_types(model: CrossEncoder) -> None:
    """Token types 0 and 1 where the checkpoint's tokenizer feeds none or zeros; BERT's layout."""
    preprocess = model[0].preprocess

    def changed(*args: Any, **kwargs: Any) -> dict[str, Any]:
        features = preprocess(*args, **kwargs)
        ids = features["input_ids"]
        separators = ids == model.tokenizer.sep_token_id
        features["token_type_ids"] = (separators.cumsum(1) - separators.long() > 0).long()
        return features

    model[0].preprocess = changed


def tokenizer(**changes: Any) -> Mistake:
    """Other attributes of the tokenizer."""

    def apply(model: CrossEncoder) -> None:
        for name, value in changes.items():
            setattr(model.tokenizer, name, value)

    return apply


def keep_case(model: CrossEncoder) -> None:
    """The tokenizer's normalizer without the Lowercase before it."""
    model.tokenizer.backend_tokenizer.normalizer = BertNormalizer(lowercase=False)


def tied_head(model: CrossEncoder) -> None:
    """The embedding table in place of lm_head."""
    language_model = model[0].model
    language_model.lm_head.weight.data = language_model.get_input_embeddings().weight.data.clone()


def logit_scale(value: float) -> Mistake:
    """Cohere's model copies the scale."""

    def apply(model: CrossEncoder) -> None:
        model[0].model.logit_scale = value

    return apply


def processing(**kwargs: Any) -> Mistake:
    """Other processing: text={…}, chat_template={…}."""

    def apply(model: CrossEncoder) -> None:
        model[0].processing_kwargs = {**model[0].processing_kwargs, **kwargs}

    return apply


def no_prompt(model: CrossEncoder) -> None:
    model.default_prompt_name = None


def limit(tokens: int) -> Mistake:
    """Another max_seq_length."""

    def apply(model: CrossEncoder) -> None:
        model.max_seq_length = tokens
        for bucket in model[0].processing_kwargs.values():
            bucket.pop("max_length", None)

    return apply


def template(text: str) -> Mistake:
    def apply(model: CrossEncoder) -> None:
        model.tokenizer.chat_template = text

    return apply


def without_false(model: CrossEncoder) -> None:
    """The true token's logit alone."""
    model[1].false_token_id = None


def module(index: int, **changes: Any) -> Mistake:
    """Other attributes of the module at `index`: another pooling, no residual."""

    def apply(model: CrossEncoder) -> None:
        for name, value in changes.items():
            setattr(model[index], name, value)

    return apply


def pair_layout(separators: int) -> Mistake:
    """Another number of separators between the texts."""

    def apply(model: CrossEncoder) -> None:
        tokenizer = model.tokenizer
        begin, end = tokenizer.cls_token or tokenizer.bos_token, tokenizer.sep_token or tokenizer.eos_token
        layout = " ".join([f"{begin} $A", *[end] * separators, f"$B {end}"])
        ids = [(token, tokenizer.convert_tokens_to_ids(token)) for token in (begin, end)]
        single = f"{begin} $A {end}"
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=single, pair=layout, special_tokens=ids)

    return apply
