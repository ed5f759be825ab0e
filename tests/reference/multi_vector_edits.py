"""Tokenizers with markers, and edits from sentence-transformers' files to PyLate's and Stanford's."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from case import edit_json, edit_weights, write_json
from safetensors.torch import load_file
from tiny_tokenizers import make_wordpiece
from tokenizers import AddedToken, Tokenizer

Edit = Callable[[Path], None]
MARKERS = ("[unused0]", "[unused1]")


def with_unused(*, registered: bool = False) -> Callable[[], Tokenizer]:
    """BERT's kind with [unused0] and [unused1] in the vocabulary, as special tokens or only there."""

    def build() -> Tokenizer:
        state = json.loads(make_wordpiece().to_str())
        vocabulary: dict[str, int] = state["model"]["vocab"]
        last = sorted(vocabulary, key=vocabulary.__getitem__)[-len(MARKERS) :]
        for marker, piece in zip(MARKERS, last, strict=True):
            vocabulary[marker] = vocabulary.pop(piece)
        tokenizer = Tokenizer.from_str(json.dumps(state))
        if registered:
            tokenizer.add_special_tokens([AddedToken(marker, normalized=False, special=True) for marker in MARKERS])
        return tokenizer

    return build


def with_added(*tokens: str, to: Callable[[], Tokenizer] = make_wordpiece) -> Callable[[], Tokenizer]:
    """With tokens added as PyLate adds its markers: plain, and normalised before they are looked for."""

    def build() -> Tokenizer:
        tokenizer = to()
        tokenizer.add_tokens([AddedToken(token, normalized=True) for token in tokens])
        return tokenizer

    return build


def pylate(model_type: str | None = "ColBERT", **facts: Any) -> Edit:
    """PyLate's form: Transformer and Dense alone, what else there is as keys; older versions name no class."""

    def edit(folder: Path) -> None:
        modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
        kept = modules[:2]
        kept[1]["type"] = "pylate.models.Dense.Dense"
        for row in modules[2:]:
            shutil.rmtree(folder / row["path"])
        write_json(folder / "modules.json", kept)

        def drop_names(content: dict[str, Any]) -> None:
            for key in ("module_input_name", "module_output_name"):
                content.pop(key, None)

        edit_json(folder / kept[1]["path"] / "config.json", drop_names)

        def change(content: dict[str, Any]) -> None:
            content.pop("model_type", None)
            content.update({"model_type": model_type} if model_type else {}, similarity_fn_name="MaxSim", **facts)

        edit_json(folder / "config_sentence_transformers.json", change)
        write_json(folder / "sentence_bert_config.json", {"max_seq_length": 36, "do_lower_case": False})

    return edit


def stanford(metadata: dict[str, Any] | None, prefix: str = "bert.") -> Edit:
    """Stanford's form: one file of weights, a name before the transformer's, and artifact.metadata."""

    def edit(folder: Path) -> None:
        (dense,) = folder.glob("*_Dense")
        layer = load_file(dense / "model.safetensors")
        edit_weights(
            folder,
            lambda tensors: (
                {f"{prefix}{name}": tensor for name, tensor in tensors.items()}
                | {"linear.weight": layer["linear.weight"]}
            ),
        )
        for path in [*folder.glob("[1-9]_*"), folder / "modules.json"]:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        for name in ("config_sentence_transformers.json", "sentence_bert_config.json"):
            (folder / name).unlink()
        edit_json(folder / "config.json", lambda content: content.update(architectures=["HF_ColBERT"]))
        if metadata is not None:
            (folder / "artifact.metadata").write_text(json.dumps(metadata), encoding="utf-8")

    return edit


def jinas_colbert(folder: Path) -> None:
    """config.json of jina-colbert-v2, whose implementation of XLM-R is Jina's."""
    code = "jinaai/xlm-roberta-flash-implementation"

    def publish(content: dict[str, Any]) -> None:
        rope = content.pop("rope_parameters")
        auto = {"AutoConfig": f"{code}--configuration_xlm_roberta.XLMRobertaFlashConfig"}
        auto |= {"AutoModel": f"{code}--modeling_xlm_roberta.XLMRobertaModel"}
        content.update(model_type="xlm-roberta", auto_map=auto, rotary_emb_base=rope["rope_theta"])
        content.update(position_embedding_type="rotary", use_flash_attn=True, emb_pooler=None, lora_adaptations=None)

    edit_json(folder / "config.json", publish)


def each(*edits: Edit) -> Edit:
    """One after the other."""

    def edit(folder: Path) -> None:
        for one in edits:
            one(folder)

    return edit


def changed(file: str, drop: Sequence[str] = (), **facts: Any) -> Edit:
    """Further facts of a module's file, and keys taken out of it."""

    def edit(folder: Path) -> None:
        def change(content: dict[str, Any]) -> None:
            for key in drop:
                content.pop(key, None)
            content.update(facts)

        (path,) = folder.glob(file)
        edit_json(path, change)

    return edit
