"""Edits of a sparse encoder's folder: the files of other versions, and what publishers ship."""

import json
from pathlib import Path

import edits
import torch
from case import edit_json, edit_weights, write_json
from reranker_edits import changed, config
from safetensors.torch import load_file

OLD = "sentence_transformers.sparse_encoder.models"


def decoder_beside_tie(folder: Path) -> None:
    config(tie_word_embeddings=True)(folder)


def legacy(folder: Path) -> None:
    """Files as sentence-transformers 5.0 wrote them, over weights as BERT's first checkpoints have them."""
    rows = [
        {"idx": 0, "name": "0", "path": "", "type": f"{OLD}.MLMTransformer"},
        {"idx": 1, "name": "1", "path": "1_SpladePooling", "type": f"{OLD}.SpladePooling"},
    ]
    write_json(folder / "modules.json", rows)
    pooling = {"pooling_strategy": "max", "activation_function": "relu", "word_embedding_dimension": 200}
    write_json(folder / "1_SpladePooling" / "config.json", pooling)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 22, "do_lower_case": False})
    changed("config.json", tie_word_embeddings=None)(folder)
    edits.rename_to_gamma_beta(folder)
    relation = {"cls.seq_relationship.weight": torch.ones(2, 16), "cls.seq_relationship.bias": torch.ones(2)}
    positions = {"bert.embeddings.position_ids": torch.arange(64)[None]}
    edit_weights(folder, lambda tensors: {**tensors, **relation, **positions})


def published_gte(theta: float, factor: float):
    """gte's names, whose code lives in a repository of its own."""

    def edit(folder: Path) -> None:
        edits.published_gte_config(theta, factor)(folder)
        code = "Alibaba-NLP/new-impl--modeling.NewForMaskedLM"
        config(architectures=["NewForMaskedLM"], auto_map={"AutoModelForMaskedLM": code})(folder)
        edits.renamed("gte.", "new.")(folder)
        edits.renamed("lm_head.layer_norm.", "lm_head.norm.")(folder)

    return edit


def with_idf_file(folder: Path) -> None:
    """The weights as words with numbers; a word that is no token has what the unknown token shall have."""
    home = folder / "query_0_SparseStaticEmbedding"
    weights = load_file(home / "model.safetensors")["weight"].tolist()
    vocabulary = json.loads((home / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    unknown = vocabulary["[UNK]"]
    words = {word: weights[number] for word, number in vocabulary.items() if weights[number] and number != unknown}
    write_json(home / "idf.json", words | {"[UNK]": 9.0, "noword": weights[unknown]})
    (home / "model.safetensors").unlink()
    edit_json(home / "config.json", lambda said: said.update(path="idf.json"))
