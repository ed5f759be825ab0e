"""One row of the table of late-interaction models, and the writer that makes a checkpoint folder of it."""

import math
import tempfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from case import randomise, write_tokenizer
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.base.modules import Normalize, Transformer
from sentence_transformers.base.modules.dense import Dense
from sentence_transformers.multi_vector_encoder.modules import HierarchicalTokenPooling, MultiVectorMask
from tokenizers import Tokenizer

TOKENS = "token_embeddings"


@dataclass(frozen=True)
class Layer:
    """A Dense module."""

    out_features: int
    bias: bool = False
    activation: Callable[[], torch.nn.Module] = torch.nn.Identity
    residual: bool = False


@dataclass(frozen=True)
class MultiVectorCase:
    """A tiny late-interaction model: how it is built, how it is shipped."""

    name: str
    family: str
    checks: str  # what a wrong implementation would get wrong here
    model: Callable[[], torch.nn.Module]
    tokenizer: Callable[[], Tokenizer]
    salt: str = ""  # other weights, where a name's own are badly conditioned
    dense: tuple[Layer, ...] = (Layer(8),)
    normalize: bool = True
    mask: Mapping[str, Any] = field(default_factory=dict)
    expansion: Mapping[str, Any] | None = None
    query_length: int | None = None
    document_length: int | None = 24
    token_pooling: Mapping[str, Any] | None = None
    similarity: str = "maxsim"
    prompts: Mapping[str, str] = field(default_factory=dict)
    max_seq_length: int = 40
    length_from: str = "tokenizer_config.json"
    tokenizer_config: Mapping[str, Any] = field(default_factory=dict)
    template: str = ""
    dtype: torch.dtype = torch.float32
    prepare: Callable[[Path], None] | None = None  # edits that the reference sees too
    disguise: Callable[[Path], None] | None = None  # edits after the reference was computed
    amend: Callable[[torch.nn.Module], None] | None = None  # what own code changes in the class that is loaded


def write_model(case: MultiVectorCase, folder: Path) -> None:
    """Write the whole folder as sentence-transformers saves it, then edit it into another publisher's form."""
    with tempfile.TemporaryDirectory() as temporary:
        plain = Path(temporary) / "plain"
        plain.mkdir()
        model = case.model()
        randomise(model, case.name + case.salt)
        model.to(case.dtype).save_pretrained(plain)
        write_tokenizer(case, plain)
        encoder = MultiVectorEncoder(
            modules=_modules(case, plain),
            device="cpu",
            prompts=dict(case.prompts) or None,
            similarity_fn_name=case.similarity,
        )
        encoder.save_pretrained(str(folder), create_model_card=False)
        for path in folder.rglob("*.json"):  # a saved folder must not name the place where it was made
            assert str(plain) not in path.read_text(encoding="utf-8"), path
    if case.prepare:
        case.prepare(folder)


def _modules(case: MultiVectorCase, plain: Path) -> list[torch.nn.Module]:
    transformer = Transformer(
        str(plain),
        model_kwargs={"dtype": case.dtype},
        query_length=case.query_length,
        document_length=case.document_length,
        query_expansion=dict(case.expansion) if case.expansion else None,
    )
    modules: list[torch.nn.Module] = [transformer]
    width = transformer.get_embedding_dimension()
    generator = torch.Generator().manual_seed(zlib.crc32(f"{case.name}{case.salt} dense".encode()))
    for layer in case.dense:
        dense = Dense(
            width,
            layer.out_features,
            bias=layer.bias,
            activation_function=layer.activation(),
            module_input_name=TOKENS,
            use_residual=layer.residual,
        )
        for parameter in dense.parameters():  # drawn anew by each construction: pinned here
            scale = 1.4 / math.sqrt(parameter.shape[-1]) if parameter.ndim == 2 else 0.3
            parameter.data = torch.randn(parameter.shape, generator=generator) * scale
        modules.append(dense.to(case.dtype))
        width = layer.out_features
    modules.append(MultiVectorMask(**case.mask))
    if case.normalize:
        modules.append(Normalize(module_input_name=TOKENS))
    if case.token_pooling is not None:
        modules.append(HierarchicalTokenPooling(**case.token_pooling))
    return modules
