"""One row of the table of sparse encoders, and the writer that makes a checkpoint folder of it."""

import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from case import randomise, write_tokenizer
from reranker_case import drop_paths
from sentence_transformers import SparseEncoder
from tokenizers import Tokenizer

Modules = Callable[[Path, dict[str, Any]], list[torch.nn.Module]]
Mistake = Callable[[SparseEncoder], None]


@dataclass(frozen=True)
class SparseCase:
    """A tiny sparse encoder: how it is built, how it is shipped, and which facts its rows must depend on."""

    name: str
    family: str
    checks: str  # what a wrong implementation would get wrong here
    model: Callable[[], torch.nn.Module]
    tokenizer: Callable[[], Tokenizer]
    modules: Modules | None  # None: a plain folder of transformers
    tokenizer_config: Mapping[str, Any] = field(default_factory=dict)
    salt: str = ""  # other weights, where a name's own are badly conditioned
    max_seq_length: int = 24
    length_from: str = "tokenizer_config.json"
    template: str = ""
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    max_active_dims: int | None = None
    similarity: str | None = None
    dtype: torch.dtype = torch.float32
    prepare: Callable[[Path], None] | None = None  # edits that the reference sees too
    disguise: Callable[[Path], None] | None = None  # edits after the reference was computed
    mistakes: Mapping[str, Mistake] = field(default_factory=dict)  # each must move the documents' rows


def write_sparse(case: SparseCase, folder: Path) -> None:
    """Write the whole folder: weights, tokenizer, and sentence-transformers' files where it has them."""
    shutil.rmtree(folder, ignore_errors=True)
    if case.modules is None:
        write_plain(case, folder)
    else:
        with tempfile.TemporaryDirectory() as temporary:
            plain = Path(temporary) / "plain"
            write_plain(case, plain)
            model = SparseEncoder(
                modules=case.modules(plain, {"dtype": case.dtype}),
                device="cpu",
                prompts=dict(case.prompts) or None,
                default_prompt_name=case.default_prompt_name,
                max_active_dims=case.max_active_dims,
                similarity_fn_name=case.similarity,
            )
            model.save_pretrained(str(folder), create_model_card=False)
            drop_paths(folder, plain)
    if case.prepare:
        case.prepare(folder)


def write_plain(case: SparseCase, folder: Path) -> None:
    """As transformers saves it: config.json, model.safetensors and the tokenizer's files."""
    folder.mkdir(parents=True)
    model = case.model()
    randomise(model, case.name + case.salt)
    model.to(case.dtype).save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    write_tokenizer(case, folder)
