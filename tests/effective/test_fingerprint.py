"""One hash of everything that decides vectors, and of nothing else."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from akidb_mlx import Embedder
from akidb_mlx.checkpoint import digests
from akidb_mlx.checkpoint.facts import read_checkpoint
from akidb_mlx.config.embedder_config import VECTOR_FIELDS, EmbedderConfig
from akidb_mlx.corpus import output_recipe
from akidb_mlx.effective import fingerprint as module
from akidb_mlx.effective.facts import FACTS
from akidb_mlx.effective.prompts import fingerprint_facts
from akidb_mlx.effective.recipe import read_recipe

pytestmark = pytest.mark.checkpoint("bert-dense")  # BERT, CLS pooling, Dense, Normalize


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def fingerprint(folder, **fields):
    with Embedder.load(folder, **fields) as embedder:
        return embedder.fingerprint


def change(file, **fields):
    content = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**content, **fields}), encoding="utf-8")


def rebuild(folder):
    """Have transformers 5 make another tokenizer than tokenizer.json holds."""
    change(folder / "tokenizer_config.json", tokenizer_class="BertTokenizer")
    change(folder / "tokenizer.json", post_processor=None)


def test_a_tokenizer_that_is_made_anew_counts_as_what_it_is(folder):
    one = fingerprint(folder)
    rebuild(folder)
    two = fingerprint(folder)
    change(folder / "tokenizer_config.json", mask_token="[MASK]", chat_template="x")  # changes no token
    assert len({one, two, fingerprint(folder, tokenizer="file")}) == 3 and fingerprint(folder) == two
    change(folder / "tokenizer_config.json", do_lower_case=False)
    assert fingerprint(folder) != two


def test_it_is_a_sha256_and_always_the_same(folder):
    one = fingerprint(folder)
    assert len(one) == 64 and int(one, 16)
    assert fingerprint(folder) == one


def test_where_the_files_are_does_not_matter(folder, tmp_path):
    one = fingerprint(folder)
    moved = tmp_path / "elsewhere"
    folder.rename(moved)
    assert fingerprint(moved) == one


@pytest.mark.parametrize(
    "fields",
    [
        {"max_batch_tokens": 100},
        {"max_queued_tokens": 100},
        {"query_latency_target_ms": 5},
        {"tokenizer_processes": 2},
        {"on_overlong": "error"},
        {"device": "cpu"},
        {"cache_limit_mb": 10},
        {"local_files_only": True},
        {"pooling": "cls"},  # as the checkpoint says
        {"normalize": True},
        {"max_seq_length": 48},
        {"truncate_dim": 12},
        {"query_prompt": ""},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_what_does_not_decide_vectors_does_not_count(folder, fields):
    assert fingerprint(folder, **fields) == fingerprint(folder)


def test_what_config_json_says_besides_the_architecture_does_not_count(folder):
    one = fingerprint(folder)
    change(folder / "config.json", transformers_version="9", _name_or_path="x", architectures=["Y"], use_cache=False)
    assert fingerprint(folder) == one


@pytest.mark.parametrize(
    "fields",
    [
        {"pooling": "mean"},
        {"normalize": False},
        {"max_seq_length": 40},
        {"truncate_dim": 5},
        {"query_prompt": "q: "},
        {"document_prompt": "d: "},
        {"dtype": "float16"},
        {"tokenizer": "file"},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_what_decides_vectors_counts(folder, fields, caplog):
    if "tokenizer" in fields:
        rebuild(folder)
    assert fingerprint(folder, **fields) != fingerprint(folder)


def test_every_setting_that_decides_vectors_is_tested():
    tested = {"pooling", "normalize", "max_seq_length", "truncate_dim", "query_prompt", "document_prompt", "dtype"}
    tested |= {"tokenizer", "exact_reference", "task"}  # the last with models that have some (test_task_parity)
    assert tested == VECTOR_FIELDS - {"model", "revision"}  # these are found by the digests of the files


def test_the_table_of_facts_names_what_is_hashed(folder):
    config = EmbedderConfig(model=str(folder), device="cpu")
    content = module._content(fingerprint_facts(config, read_recipe(config), 12))
    untold = {"do_lower_case", "truncation_side", "tokenizer_rules", "version"}  # `info` leaves these out
    keys = set(content) - {"checkpoint"} | set(content["checkpoint"])
    # Some only of a model that has them.
    keys |= {"adapters", "chat", "exact_reference", "output", "side_lengths", "task"}
    assert {fact.hashed for fact in FACTS.values()} - {None} == keys - untold


def test_the_table_of_facts_names_who_says_them(folder):
    change(folder / "config.json", quantization={"bits": 4})
    change(folder / "config_sentence_transformers.json", similarity_fn_name="dot", truncate_dim=8)
    by_setting = {name for name, fact in FACTS.items() if fact.said_by == "setting"}
    by_file = {name for name, fact in FACTS.items() if fact.said_by == "files"}
    assert by_setting == VECTOR_FIELDS - {"model", "revision"}
    said = set(read_checkpoint(folder).sources)  # a whole folder: each fact that has a source
    elsewhere = {"query_prompt", "document_prompt", "dtype", "exact_reference", "tokenizer", "task", "adapters"}
    assert by_file | by_setting == said | elsewhere


def test_the_table_of_facts_names_what_an_output_carries():
    marked = [name for name, fact in FACTS.items() if fact.in_output]
    assert sorted([*marked, "dimension"]) == sorted(output_recipe._EMBEDDER_FACTS)


@pytest.mark.parametrize("name", ["model.safetensors", "2_Dense/model.safetensors"])
def test_one_weight_counts(folder, name):
    one = fingerprint(folder)
    weights = load_file(folder / name)
    key = sorted(weights)[0]
    weights[key] = np.ascontiguousarray(weights[key] + np.float32(1e-3))
    save_file(weights, folder / name)
    assert fingerprint(folder) != one


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("tokenizer.json", {"normalizer": {"type": "Lowercase"}}),
        ("config.json", {"layer_norm_eps": 1e-5}),
        ("config.json", {"hidden_act": "relu"}),
        ("1_Pooling/config.json", {"pooling_mode": "max"}),
        ("1_Pooling/config.json", {"include_prompt": False}),
        ("2_Dense/config.json", {"activation_function": "torch.nn.modules.linear.Identity"}),
        ("sentence_bert_config.json", {"max_seq_length": 30}),
        ("sentence_bert_config.json", {"do_lower_case": True}),
        ("config_sentence_transformers.json", {"prompts": {"query": "q: "}}),
        ("config_sentence_transformers.json", {"prompts": {"passage": "p: "}}),
        ("config_sentence_transformers.json", {"prompts": {"x": "y"}, "default_prompt_name": "x"}),
        ("tokenizer_config.json", {"truncation_side": "left"}),
    ],
)
def test_the_files_facts_count(folder, name, fields):
    one = fingerprint(folder)
    change(folder / name, **fields)
    assert fingerprint(folder) != one


def test_similarity_does_not_decide_vectors(folder):
    one = fingerprint(folder)
    change(folder / "config_sentence_transformers.json", similarity_fn_name="dot")
    assert fingerprint(folder) == one


def test_digests_are_remembered_until_a_file_changes(folder, monkeypatch):
    read = []
    sha256_of = digests.sha256_of

    def counted(file):
        read.append(file.name)
        return sha256_of(file)

    monkeypatch.setattr(digests, "sha256_of", counted)
    one = fingerprint(folder)
    assert sorted(read) == ["model.safetensors", "model.safetensors", "tokenizer.json"]
    assert fingerprint(folder) == one and len(read) == 3
    file = folder / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)  # of the same size
    assert fingerprint(folder) != one
    assert len(read) == 4


@pytest.mark.parametrize("content", ["", "[]", "{", '{"a": 5}'])
def test_a_torn_memory_does_no_harm(folder, content, tmp_path):
    one = fingerprint(folder)
    (tmp_path / "cache" / "akidb-mlx" / "digests.json").write_text(content)
    assert fingerprint(folder) == one


def test_a_cache_that_cannot_be_written_does_no_harm(folder, tmp_path, monkeypatch):
    one = fingerprint(folder)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert fingerprint(folder) == one
