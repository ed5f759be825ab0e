"""What is known of a model when its files are silent, and what is refused because nobody knows."""

import json
import logging
import shutil

import mlx.core as mx
import numpy as np
import pytest

from akidb_mlx import Embedder
from akidb_mlx.checkpoint.facts import read_checkpoint
from akidb_mlx.checkpoint.families import FAMILIES
from akidb_mlx.cli import main
from akidb_mlx.config.options import POOLING_MODES
from akidb_mlx.errors import CheckpointError, UnsupportedModelError
from support.checkpoints import REFERENCE, read_case
from support.comparison import assert_close
from support.weights import save_weights

SIDECARS = ("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json")


@pytest.fixture
def stripped(tmp_path):
    """A checkpoint without sentence-transformers' files, as mlx-lm's converter leaves it."""

    def make(name, readme=None):
        folder = tmp_path / name
        shutil.copytree(REFERENCE / name, folder)
        for file in SIDECARS:
            (folder / file).unlink(missing_ok=True)
        for module in folder.glob("[1-9]_*"):
            shutil.rmtree(module)
        if readme is not None:
            (folder / "README.md").write_text(readme, encoding="utf-8")
        return folder

    return make


def edit_json(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


# ── found by name ────────────────────────────────────────────────────────────────────────────────────


def test_by_the_exact_hub_id(stripped):
    checkpoint = read_checkpoint(stripped("bert-cls"), "BAAI/bge-small-en-v1.5")
    assert (checkpoint.pooling, checkpoint.normalize) == (("cls",), True)
    assert checkpoint.prompts["query"] == "Represent this sentence for searching relevant passages: "
    for fact in ("pooling", "normalize", "prompts"):
        assert checkpoint.sources[fact] == "family table: bge-en, by its name"


@pytest.mark.parametrize(
    "front",
    [
        "base_model: intfloat/e5-base-v2",
        "license: mit\nbase_model:\n- some/other\n- intfloat/e5-base-v2\ntags:\n- x",
        'base_model: ["intfloat/e5-base-v2"]',
    ],
)
def test_by_base_model_in_the_readme(stripped, front):
    checkpoint = read_checkpoint(stripped("bert-mean", f"---\n{front}\n---\n# A conversion"), "someone/e5-mlx")
    assert checkpoint.pooling == ("mean",)
    assert checkpoint.prompts == {"query": "query: ", "document": "passage: "}
    assert checkpoint.sources["pooling"] == "family table: e5, README.md: base_model"


@pytest.mark.parametrize(
    ("name", "readme"),
    [
        ("me/bge-small-en-v1.5-finetuned", None),
        ("bge-small-en-v1.5", None),
        ("me/x", "---\ntags: [BAAI/bge-small-en-v1.5]\n---\nbase_model: BAAI/bge-small-en-v1.5"),
        ("me/x", "base_model: BAAI/bge-small-en-v1.5"),
        ("me/x", "# A model\n---\nbase_model: BAAI/bge-small-en-v1.5\n---\n"),
    ],
)
def test_never_by_a_part_of_a_name_nor_from_the_readmes_text(stripped, name, readme):
    checkpoint = read_checkpoint(stripped("bert-cls", readme), name)
    assert checkpoint.pooling is None
    assert "pooling" not in checkpoint.sources


# ── found by facts in the files ──────────────────────────────────────────────────────────────────────


def test_qwen3_embedding_by_what_its_tokenizer_appends(stripped):
    folder = stripped("qwen3-embedding")
    assert read_checkpoint(folder).pooling is None  # a Qwen3 whose tokenizer appends another token
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    end = tokenizer["post_processor"]["special_tokens"]["<|endoftext|>"]
    end["ids"] = [151643]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    checkpoint = read_checkpoint(folder)
    assert checkpoint.pooling == ("last_token",)
    assert checkpoint.prompts["query"].endswith("\nQuery:")
    assert checkpoint.sources["prompts"].endswith("tokenizer.json: the post-processor appends 151643")
    tokenizer["post_processor"] = {
        "type": "Sequence",
        "processors": [{"type": "ByteLevel"}, tokenizer["post_processor"]],
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert read_checkpoint(folder).pooling == ("last_token",)


def test_embeddinggemma_by_its_attention_with_dense_layers_in_the_main_file():
    checkpoint = read_checkpoint(REFERENCE / "embeddinggemma-folded")
    assert checkpoint.pooling == ("mean",)
    assert [(layer.name, layer.in_features, layer.out_features) for layer in checkpoint.dense] == [
        ("dense.0", 32, 64),
        ("dense.1", 64, 32),
    ]
    assert checkpoint.prompts["document"] == "title: none | text: "


def test_modules_json_with_dense_weights_in_the_main_file(tmp_path):
    """A conversion that kept sentence-transformers' files: their order and sizes, the main file's weights."""
    folder = shutil.copytree(REFERENCE / "embeddinggemma", tmp_path / "model")
    file = str(folder / "model.safetensors")
    folded = {}
    for index, module in enumerate(("2_Dense", "3_Dense")):
        weights = folder / module / "model.safetensors"
        folded[f"dense.{index}.weight"] = mx.load(str(weights))["linear.weight"]
        mx.eval(folded)
        weights.unlink()
    save_weights(file, mx.load(file) | folded)
    facts = json.loads((folder / "reference.json").read_text())
    with Embedder.load(folder) as embedder:
        rows = embedder.encode(facts["texts"])
    assert_close(rows, np.load(folder / "reference.npz")["embeddings"], 1e-5)


def test_embeddinggemma_without_its_dense_layers_is_refused(tmp_path):
    shutil.copytree(REFERENCE / "embeddinggemma-folded", tmp_path / "model")
    file = str(tmp_path / "model" / "model.safetensors")
    weights = mx.load(file)
    save_weights(file, {key: weight for key, weight in weights.items() if not key.startswith("dense.1")})
    with pytest.raises(CheckpointError, match=r"has 2 Dense layers after pooling, but .* nor weights called dense.1"):
        read_checkpoint(tmp_path / "model")


def test_nvidias_llama_says_its_pooling_in_config_json(stripped):
    checkpoint = read_checkpoint(stripped("llama-bidirec-published"))
    assert checkpoint.pooling == ("mean",)
    assert checkpoint.sources["pooling"] == "config.json"
    assert checkpoint.normalize is None


def test_gte_qwen2_sees_both_ways_by_its_name(stripped):
    """Its own code does; config.json does not say so."""
    folder = stripped("qwen2-bidirectional")
    config = json.loads((folder / "config.json").read_text())
    del config["is_causal"]
    config["auto_map"] = {"AutoModel": "modeling_qwen.Qwen2Model"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedModelError, match=r"own code .modeling_qwen.Qwen2Model.*is_causal"):
        Embedder.load(folder, pooling="last_token", normalize=True)
    checkpoint = read_checkpoint(folder, "Alibaba-NLP/gte-Qwen2-1.5B-instruct")
    assert checkpoint.config["is_causal"] is False
    assert checkpoint.sources["is_causal"].startswith("family table: gte-Qwen2")


# ── what files say stays ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.checkpoint("bert-mean")
def test_sentence_transformers_files_win_and_what_they_leave_out_is_suggested(folder, capsys):
    (folder / "README.md").write_text("---\nbase_model: BAAI/bge-base-en-v1.5\n---\n")
    checkpoint = read_checkpoint(folder)
    assert checkpoint.pooling == ("mean",)  # the files', not the table's cls
    assert checkpoint.prompts == {}
    assert checkpoint.suggestions == (
        "query_prompt='Represent this sentence for searching relevant passages: ' "
        "(bge-en's; the checkpoint's files name none)",
    )
    assert main(["info", str(folder)]) == 0
    assert "suggested" in capsys.readouterr().out
    assert main(["info", str(folder), "--query-prompt", ""]) == 0
    assert "suggested" not in capsys.readouterr().out


@pytest.mark.checkpoint("xlm-roberta-e5")
def test_a_passage_prompt_stands_for_the_document_prompt(folder):
    checkpoint = read_checkpoint(folder, "intfloat/multilingual-e5-small")
    assert checkpoint.suggestions == ()


def test_a_family_only_lowers_the_length(stripped):
    folder = stripped("bert-mean")  # 64 positions
    assert read_checkpoint(folder, "sentence-transformers/all-MiniLM-L6-v2").max_seq_length == 64
    edit_json(folder / "config.json", max_position_embeddings=512)
    checkpoint = read_checkpoint(folder, "sentence-transformers/all-MiniLM-L6-v2")
    assert checkpoint.max_seq_length == 256
    assert checkpoint.sources["max_seq_length"].startswith("family table: all-MiniLM-L6")


def test_a_user_who_contradicts_the_table_is_told(stripped, caplog):
    folder = stripped("bert-cls", "---\nbase_model: BAAI/bge-base-en-v1.5\n---\n")
    with caplog.at_level(logging.WARNING), Embedder.load(folder, pooling="mean") as embedder:
        assert embedder.info()["pooling"] == "mean"
    assert 'was trained with pooling "cls" (family table: bge-en, README.md: base_model)' in caplog.text


# ── nobody knows ─────────────────────────────────────────────────────────────────────────────────────


def test_a_chat_model_is_refused_until_somebody_says_how_to_pool(stripped):
    folder = stripped("qwen3-causal-lm")
    with pytest.raises(UnsupportedModelError, match=r"does not say how its token vectors become one.*set pooling"):
        Embedder.load(folder)
    with pytest.raises(UnsupportedModelError, match=r"does not say whether its vectors are scaled.*set normalize"):
        Embedder.load(folder, pooling="last_token")
    with Embedder.load(folder, pooling="last_token", normalize=True) as embedder:
        assert embedder.encode(["a"]).shape == (1, 32)


# ── widths that a model was trained to be cut to ─────────────────────────────────────────────────────


@pytest.mark.checkpoint("bert-mean")
def test_trained_widths_from_the_model_card(folder, caplog):
    with caplog.at_level(logging.WARNING), Embedder.load(folder, truncate_dim=8):
        assert "nothing says that" in caplog.text
    card = '* Loss: MatryoshkaLoss with\n```json\n{\n  "matryoshka_dims": [\n 16,\n 8\n ]\n}\n```'
    (folder / "README.md").write_text(card)
    caplog.clear()
    with Embedder.load(folder, truncate_dim=8) as embedder:
        assert embedder.info()["matryoshka"] == [8, 16]
        assert embedder.info()["sources"]["matryoshka"] == "README.md"
    assert "nothing says that" not in caplog.text


@pytest.mark.checkpoint("bert-mean")
def test_a_width_that_the_checkpoint_itself_wants(folder):
    edit_json(folder / "config_sentence_transformers.json", truncate_dim=8)
    with Embedder.load(folder) as embedder, Embedder.load(folder, truncate_dim=16) as whole:
        assert embedder.dimension == 8
        rows = whole.encode(["a b c"])[:, :8]
        assert_close(embedder.encode(["a b c"]), rows / np.linalg.norm(rows))


@pytest.mark.checkpoint("nomic-published")
def test_a_row_changes_nothing_that_modules_json_has_the_reference_compute(folder):
    (folder / "README.md").write_text("---\nbase_model: nomic-ai/nomic-embed-text-v1.5\n---\n")
    with Embedder.load(folder) as embedder:
        whole, cut = (embedder.encode(["a sentence"], truncate_dim=size, normalize=False) for size in (None, 8))
        assert_close(cut, whole[:, :8], 1e-6)
    (folder / "README.md").write_text("---\nbase_model: Alibaba-NLP/gte-Qwen2-1.5B-instruct\n---\n")
    assert "is_causal" not in read_checkpoint(folder).config
    # As published it names code of its own, by which the reference sees both ways.
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "modeling_qwen.Qwen2Model"}}))
    assert read_checkpoint(folder).config["is_causal"] is False


def test_nomic_cuts_after_a_layer_norm(folder):
    (folder / "modules.json").unlink()
    (folder / "README.md").write_text("---\nbase_model: nomic-ai/nomic-embed-text-v1.5\n---\n")
    with Embedder.load(folder, normalize=True) as embedder:
        whole, cut = (embedder.encode(["a sentence"], truncate_dim=size, normalize=False) for size in (None, 8))
        centred = whole - whole.mean()
        expected = (centred / np.sqrt((centred**2).mean() + 1e-5))[:, :8]
        assert_close(cut, expected, 1e-5)
        assert np.linalg.norm(embedder.encode(["a sentence"], truncate_dim=8)) == pytest.approx(1, abs=1e-6)


# ── the table ────────────────────────────────────────────────────────────────────────────────────────


def test_the_table_is_sound():
    ids = [name.casefold() for family in FAMILIES for name in family.ids]
    assert len(ids) == len(set(ids))
    assert all(name.count("/") == 1 for name in ids)
    assert all(family.pooling in POOLING_MODES for family in FAMILIES)
    qwen, others = (
        FAMILIES[0].query_prompt,
        [f for f in FAMILIES if f.name in ("e5-instruct", "gte-Qwen2", "e5-mistral")],
    )
    assert qwen.endswith("Query:")  # without a space, the others with one
    assert all(family.query_prompt.endswith("Query: ") for family in others)


# ── the command ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", sorted(folder.parent.name for folder in REFERENCE.glob("*/reference.json")))
def test_info_knows_what_the_loaded_model_knows(name, capsys):
    """Dimension and fingerprint come from the files alone."""
    assert main(["info", str(REFERENCE / name), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    with Embedder.load(REFERENCE / name) as embedder:
        assert (facts["dimension"], facts["fingerprint"]) == (embedder.dimension, embedder.fingerprint)
        assert facts["max_seq_length"] == embedder.max_seq_length
        known = embedder.info()
    assert facts["refused"] is None
    assert {key: facts[key] for key in ("pooling", "prompts", "sources", "dtype")} == {
        key: known[key] for key in ("pooling", "prompts", "sources", "dtype")
    }


def test_info_says_where_each_fact_comes_from(capsys):
    assert main(["info", str(REFERENCE / "embeddinggemma-folded")]) == 0
    lines = capsys.readouterr().out.splitlines()
    table = "(family table: EmbeddingGemma, config.json: use_bidirectional_attention)"
    for fact in ("pooling", "dense", "normalize", "prompts"):
        assert any(line.startswith(fact) and line.endswith(table) for line in lines)
    assert any(line.startswith("max_seq_length") and line.endswith("48  (tokenizer_config.json)") for line in lines)
    assert main(["info", str(REFERENCE / "bert-cls"), "--pooling", "mean", "--truncate-dim", "8"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("pooling ") and "mean  (argument" in line for line in lines)
    assert any(line.startswith("dimension") and line.endswith(" 8") for line in lines)


def test_info_says_what_loading_would_refuse(tmp_path, capsys):
    folder = shutil.copytree(REFERENCE / "llama-linear", tmp_path / "model")
    edit_json(folder / "config.json", model_type="mamba")
    assert main(["info", str(folder)]) == 1
    assert "refused" in capsys.readouterr().out.splitlines()[0]


def test_info_of_a_model_that_nobody_knows_how_to_pool(stripped, capsys):
    assert main(["info", str(stripped("qwen3-causal-lm"))]) == 2
    assert "set pooling and normalize" in capsys.readouterr().err


def leave_out_folders(folder, readme=""):
    """As mlx-embeddings converts: the root's files are copied, the modules' folders are not."""
    for inner in [inner for inner in folder.iterdir() if inner.is_dir()]:
        shutil.rmtree(inner)
    (folder / "README.md").write_text(readme, encoding="utf-8")


CONVERTED = "---\ntags:\n- mlx\n---\nThe Model was converted to MLX format from [{}](https://x) using mlx-lm.\n"


@pytest.mark.parametrize(
    ("name", "readme"),
    [
        ("bert-cls", CONVERTED.format("BAAI/bge-small-en-v1.5")),
        ("bert-cls", CONVERTED.format("`BAAI/bge-small-en-v1.5`")),
        ("bert-cls", "---\nbase_model: BAAI/bge-small-en-v1.5\n---\n"),
        ("bert-cls", "\ufeff---\nbase_model: BAAI/bge-small-en-v1.5\n---\n"),
        ("xlm-roberta-cls", CONVERTED.format("BAAI/bge-m3")),
        ("qwen3-embedding", "---\nbase_model: Qwen/Qwen3-Embedding-0.6B\n---\n"),
    ],
)
def test_a_conversion_that_left_out_the_modules_folders(tmp_path, name, readme):
    reference, facts, arrays = read_case(name)
    folder = tmp_path / "converted"
    shutil.copytree(reference, folder)
    leave_out_folders(folder, readme)
    with Embedder.load(folder, dtype="float32") as embedder:
        assert embedder.info()["sources"]["pooling"].startswith("family table")
        assert_close(embedder.encode(facts["texts"]), arrays["embeddings"], 1e-5)


def test_a_conversion_whose_family_nobody_knows(folder):
    """Its pooling is the user's to say; normalisation stays as modules.json has it."""
    before = read_checkpoint(folder)
    leave_out_folders(folder)
    with pytest.raises(UnsupportedModelError, match=r"1_Pooling, which a conversion has left out.*set it"):
        Embedder.load(folder)
    with Embedder.load(folder, pooling=before.pooling[0]) as embedder:
        assert embedder.info()["normalize"] is before.normalize


@pytest.mark.parametrize("name", ["bert-cls", "bert-old-two-flags", "bert-exclude-prompt"])
def test_a_conversion_that_keeps_poolings_settings_in_config(tmp_path, name):
    reference, facts, arrays = read_case(name)
    folder = tmp_path / "converted"
    shutil.copytree(reference, folder)
    stated = json.loads((folder / "1_Pooling" / "config.json").read_text(encoding="utf-8"))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    leave_out_folders(folder)
    (folder / "config.json").write_text(json.dumps(config | {"pooling_config": stated}), encoding="utf-8")
    with Embedder.load(folder, dtype="float32") as embedder:
        assert embedder.info()["sources"]["pooling"] == "config.json: pooling_config"
        assert_close(embedder.encode(facts["texts"]), arrays["embeddings"], 1e-5)
        if "query" in arrays:
            assert_close(embedder.encode_query(facts["texts"]), arrays["query"], 1e-5)


@pytest.mark.checkpoint("bert-dense")
def test_a_conversion_that_lost_a_dense_layer(folder):
    leave_out_folders(folder)
    with pytest.raises(CheckpointError, match=r"1_Pooling and 2_Dense, which a conversion has left out"):
        Embedder.load(folder, pooling="cls")


def without_end_token(folder):
    """tokenizer.json whose post-processor appends nothing."""
    file = folder / "tokenizer.json"
    tokenizer = json.loads(file.read_text(encoding="utf-8"))
    processor = tokenizer["post_processor"]
    parts = processor.get("processors", [processor])
    template = next(part for part in parts if part["type"] == "TemplateProcessing")
    assert "SpecialToken" in template["single"].pop()
    file.write_text(json.dumps(tokenizer), encoding="utf-8")


def configure_tokenizer(folder, **fields):
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


@pytest.mark.parametrize("tokenizer_class", ["LlamaTokenizer", "LlamaTokenizerFast"])
@pytest.mark.checkpoint("mistral-e5")
def test_an_end_token_that_only_the_configuration_names(folder, tokenizer_class):
    _, facts, arrays = read_case("mistral-e5")
    without_end_token(folder)
    configure_tokenizer(folder, tokenizer_class=tokenizer_class)
    with Embedder.load(folder, dtype="float32") as embedder:
        other, plain = embedder.encode(facts["texts"]), embedder.fingerprint
    configure_tokenizer(folder, add_eos_token=True)
    with Embedder.load(folder, dtype="float32") as embedder:
        assert_close(embedder.encode(facts["texts"]), arrays["embeddings"], 1e-5)
        assert embedder.fingerprint != plain
    assert np.abs(other - arrays["embeddings"]).max() > 0.01


@pytest.mark.checkpoint("mistral-e5")
def test_an_end_token_that_the_tokenizer_lacks(folder):
    without_end_token(folder)
    configure_tokenizer(folder, tokenizer_class="LlamaTokenizer", add_eos_token=True, eos_token="<|nowhere|>")
    with pytest.raises(CheckpointError, match=r"lacks the token '<\|nowhere\|>'"):
        Embedder.load(folder)


OWN_TOKENIZER = {"AutoTokenizer": ["tokenization_qwen.Qwen2Tokenizer", "tokenization_qwen.Qwen2TokenizerFast"]}


@pytest.mark.checkpoint("qwen3-embedding")
def test_a_tokenizers_own_code_is_refused_unless_its_family_is_known(folder):
    configure_tokenizer(folder, auto_map=OWN_TOKENIZER)
    with pytest.raises(UnsupportedModelError, match=r"Qwen2TokenizerFast\), which is never run"):
        Embedder.load(folder)
    without_end_token(folder)
    end = {"content": "<|endoftext|>", "special": True}
    configure_tokenizer(folder, eos_token=end)
    checkpoint = read_checkpoint(folder, "Alibaba-NLP/gte-Qwen2-1.5B-instruct")
    assert checkpoint.tokenizer_rules["append"] == "<|endoftext|>"


@pytest.mark.checkpoint("bert-minilm-like")
def test_a_conversion_that_lost_its_length_too(folder):
    leave_out_folders(folder, "---\nbase_model: sentence-transformers/all-MiniLM-L6-v2\n---\n")
    (folder / "sentence_bert_config.json").unlink()
    config = folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"max_position_embeddings": 512}))
    configure_tokenizer(folder, model_max_length=512)
    checkpoint = read_checkpoint(folder)
    assert checkpoint.max_seq_length == 256
    assert checkpoint.sources["max_seq_length"].startswith("family table")


@pytest.mark.checkpoint("embeddinggemma")
@pytest.mark.parametrize("lost", ["1_Pooling", "2_Dense"])
def test_a_conversion_that_copied_some_of_the_folders(folder, lost):
    shutil.rmtree(folder / lost)
    if lost == "1_Pooling":
        before = read_checkpoint(REFERENCE / "embeddinggemma")
        after = read_checkpoint(folder)
        assert (after.pooling, len(after.dense)) == (before.pooling, len(before.dense))
    else:
        with pytest.raises(CheckpointError, match=r"2_Dense, which a conversion has left out"):
            read_checkpoint(folder)


# ── a prompt that is not pooled ──────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "pooled"),
    [("hkunlp/instructor-large", False), ("hkunlp/instructor-xl", False), ("me/instructor-large", True)],
)
def test_instructors_prompts_are_left_out_by_their_exact_names(tmp_path, name, pooled):
    """As the reference does, though their files say nothing of it."""
    folder = tmp_path / "model"
    shutil.copytree(REFERENCE / "t5-instructor", folder)
    edit_json(folder / "1_Pooling" / "config.json", include_prompt=True)
    assert read_checkpoint(folder, name).include_prompt is pooled


@pytest.mark.parametrize("name", ["sentence-transformers/sentence-t5-base", "hkunlp/instructor-base"])
def test_a_t5_without_its_dense_layer_is_refused(stripped, name):
    with pytest.raises(CheckpointError, match="has 1 Dense layers after pooling"):
        read_checkpoint(stripped("t5-sentence"), name)
