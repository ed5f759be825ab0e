"""One row of the table of rerankers, and the writer that makes a checkpoint folder of it."""

import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from case import randomise, write_tokenizer
from sentence_transformers import CrossEncoder
from tokenizers import Tokenizer

Mistake = Callable[[CrossEncoder], None]
Modules = Callable[[Path, dict[str, Any]], list[torch.nn.Module]]


@dataclass(frozen=True)
class RerankerCase:
    """A tiny reranker: how it is built, how it is shipped, and which facts its scores must depend on."""

    name: str
    family: str
    checks: str  # what a wrong implementation would get wrong here
    model: Callable[[], torch.nn.Module]
    tokenizer: Callable[[], Tokenizer]
    salt: str = ""  # other weights, where a name's own are badly conditioned
    # Odd once the special tokens are subtracted, so that two long texts of one length do not share it equally.
    max_seq_length: int = 32
    length_from: str = "tokenizer_config.json"
    tokenizer_config: Mapping[str, Any] = field(default_factory=dict)
    template: str = ""  # chat_template.jinja
    # True: as sentence-transformers 6 saves it, with modules.json. False: a plain folder of transformers.
    saved: bool = False
    modules: Modules | None = None  # with `saved`: the chain, where it is not a lone Transformer
    activation: torch.nn.Module | None = None  # with `saved`
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    dtype: torch.dtype = torch.float32
    prepare: Callable[[Path], None] | None = None  # edits that the reference sees too
    disguise: Callable[[Path], None] | None = None  # edits after the reference was computed
    usable_length: int | None = None  # what the reference truncates to, where `max_seq_length` is not it
    own_pairs: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    refuses_some: bool = False  # the reference raises for pairs whose first text alone is too long
    longest_first: bool = True  # of the texts, the longer is cut first
    no_batch: bool = False  # the reference takes one pair a batch
    batch_matters: bool = False  # the reference gives other scores in a padded batch: compare with pairs alone
    mistakes: Mapping[str, Mistake] = field(default_factory=dict)  # each must move the scores


def write_reranker(case: RerankerCase, folder: Path) -> None:
    """Write the whole folder: weights, tokenizer, and sentence-transformers' files where it has them."""
    shutil.rmtree(folder, ignore_errors=True)
    if not case.saved:
        write_plain(case, folder)
    else:
        with tempfile.TemporaryDirectory() as temporary:
            plain = Path(temporary) / "plain"
            write_plain(case, plain)
            save(case, plain, folder)
    if case.prepare:
        case.prepare(folder)


def write_plain(case: RerankerCase, folder: Path) -> None:
    """As transformers saves it: config.json, model.safetensors and the tokenizer's files."""
    folder.mkdir(parents=True)
    model = case.model()
    randomise(model, case.name + case.salt)
    model.to(case.dtype).save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    write_tokenizer(case, folder)
    if case.template:
        (folder / "chat_template.jinja").write_text(case.template, encoding="utf-8")


def save(case: RerankerCase, plain: Path, folder: Path) -> None:
    """As sentence-transformers itself saves it."""
    stored = {"dtype": case.dtype}
    facts = {"prompts": dict(case.prompts) or None, "default_prompt_name": case.default_prompt_name}
    if case.modules is None:
        model = CrossEncoder(str(plain), device="cpu", model_kwargs=stored, activation_fn=case.activation, **facts)
    else:
        modules = case.modules(plain, stored)
        model = CrossEncoder(modules=modules, device="cpu", activation_fn=case.activation, **facts)
    model.save_pretrained(str(folder), create_model_card=False)
    drop_paths(folder, plain)


def drop_paths(folder: Path, plain: Path) -> None:
    """A saved folder must not name the place where it was made."""
    for path in folder.rglob("*.json"):
        assert str(plain) not in path.read_text(encoding="utf-8"), path
