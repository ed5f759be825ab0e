"""Fine-tunes of chat models, whose texts go through a chat template; parity itself is in model/test_parity.py."""

import json
import shutil

import pytest

from akidb_mlx import Embedder
from akidb_mlx.errors import AkiDBMLXError, InputError
from support.checkpoints import REFERENCE, read_case
from support.comparison import assert_close

CHAT = "qwen3-chat"
DATED = "{{ messages[0].content }} {{ date_string if date_string is defined else strftime_now('%d %b %Y') }}"


def copy(name, folder):
    shutil.copytree(REFERENCE / name, folder)
    return folder


def change(file, **fields):
    said = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    file.write_text(json.dumps(said | fields), encoding="utf-8")


def without_sidecars(name, folder):
    copy(name, folder)
    for file in ("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"):
        (folder / file).unlink()
    return folder


def fingerprint(folder, **fields):
    with Embedder.load(folder, **fields) as embedder:
        return embedder.fingerprint


def test_info_names_the_template():
    with Embedder.load(REFERENCE / CHAT) as chat, Embedder.load(REFERENCE / "qwen3-embedding") as plain:
        assert chat.info()["chat_template"] == "chat_template.jinja"
        assert plain.info()["chat_template"] is None


@pytest.mark.parametrize(
    "edit",
    [
        lambda folder: (folder / "chat_template.jinja").write_text("{{ messages[-1].content }}<|im_end|>"),
        lambda folder: change(
            folder / "sentence_bert_config.json", processing_kwargs={"chat_template": {"add_generation_prompt": True}}
        ),
        lambda folder: change(
            folder / "sentence_bert_config.json", processing_kwargs={"chat_template": {"restore_suffix": False}}
        ),
        lambda folder: change(folder / "sentence_bert_config.json", modality_config=None),
        lambda folder: change(folder / "sentence_bert_config.json", processing_kwargs={"text": {"max_length": 50}}),
    ],
    ids=["template", "arguments", "suffix", "no template", "length"],
)
def test_the_template_and_its_settings_count_in_the_fingerprint(tmp_path, edit):
    folder = copy(CHAT, tmp_path / "model")
    one = fingerprint(folder)
    edit(folder)
    assert fingerprint(folder) != one


def test_where_the_template_stands_does_not_count(tmp_path):
    folder = copy(CHAT, tmp_path / "model")
    one = fingerprint(folder)
    file = folder / "chat_template.jinja"
    change(folder / "tokenizer_config.json", chat_template=file.read_text(encoding="utf-8"))
    file.unlink()
    assert fingerprint(folder) == one


def test_a_plain_folder_with_a_template_uses_it_as_the_reference_does(tmp_path):
    """No modules.json, no known family, but the tokenizer has a chat template."""
    folder = without_sidecars(CHAT, tmp_path / "model")
    _, facts, reference = read_case(CHAT)
    with Embedder.load(folder, pooling="last_token", normalize=True, max_seq_length=96) as embedder:
        assert_close(embedder.encode(facts["texts"]), reference["embeddings"], 1e-5)


def test_a_known_familys_conversion_does_not_use_its_template(tmp_path):
    folder = without_sidecars("qwen3-embedding", tmp_path / "model")
    (folder / "README.md").write_text("---\nbase_model: Qwen/Qwen3-Embedding-0.6B\n---\n")
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }} and more")
    _, facts, reference = read_case("qwen3-embedding")
    with Embedder.load(folder, max_seq_length=facts["max_seq_length"]) as embedder:
        assert embedder.info()["chat_template"] is None
        assert_close(embedder.encode(facts["texts"]), reference["embeddings"], 1e-5)


def test_a_date_that_the_files_set_is_no_date(tmp_path):
    folder = copy(CHAT, tmp_path / "model")
    (folder / "chat_template.jinja").write_text(DATED)
    with pytest.raises(AkiDBMLXError, match="prints the date"):
        Embedder.load(folder)
    arguments = {"chat_template": {"date_string": "26 Jul 2024"}}
    change(folder / "sentence_bert_config.json", processing_kwargs=arguments)
    with Embedder.load(folder) as embedder:
        assert embedder.encode(["a"]).shape == (1, 32)


def test_a_template_that_knows_no_prompt_is_refused_with_one(tmp_path):
    folder = copy(CHAT, tmp_path / "model")
    (folder / "chat_template.jinja").write_text(
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system message') }}{% endif %}"
        "{{ messages[0].content }}"
    )
    with Embedder.load(folder) as embedder:
        assert embedder.encode(["a"]).shape == (1, 32)
        with pytest.raises(AkiDBMLXError, match="no system message"):
            embedder.encode_query(["a"])


def test_a_limit_that_holds_no_text_is_refused_at_once():
    with pytest.raises(InputError, match="all of which the chat template takes"):
        Embedder.load(REFERENCE / CHAT, max_seq_length=5)


def test_one_text_for_two_sides_is_refused(tmp_path):
    folder = copy("bert-mean", tmp_path / "model")
    change(folder / "sentence_bert_config.json", processing_kwargs={"text": {"truncation": "only_second"}})
    with pytest.raises(AkiDBMLXError, match="an embedder has one text"):
        Embedder.load(folder)


# ── lengths by side ──────────────────────────────────────────────────────────────────────────────────

LONG = "harbour " * 100


def test_lengths_by_side_are_told_and_count_in_the_fingerprint(tmp_path):
    folder = copy("bert-side-lengths", tmp_path / "model")
    with Embedder.load(folder) as embedder:
        assert embedder.info()["side_lengths"] == {"query": 12, "document": 56}
        one = embedder.fingerprint
    change(folder / "sentence_bert_config.json", query_length=13)
    assert fingerprint(folder) != one


def test_an_error_names_the_length_of_the_side():
    with Embedder.load(REFERENCE / "bert-side-lengths", on_overlong="error") as embedder:
        for encode, limit in (
            (embedder.encode_query, 12),
            (embedder.encode_document, 56),
            (embedder.encode, embedder.max_seq_length),
        ):
            with pytest.raises(InputError, match=f"more than {limit} tokens"):
                encode([LONG])


async def test_every_way_of_a_side_has_its_length():
    with Embedder.load(REFERENCE / "bert-side-lengths") as embedder:
        row = embedder.encode_query([LONG])
        assert_close(await embedder.aencode_query([LONG]), row)
        assert_close((await embedder.aencode_with_usage([LONG], side="query"))[0], row)
        assert_close(next(embedder.encode_stream([LONG], side="query")), row)


def test_a_users_length_bounds_the_sides_too():
    with Embedder.load(REFERENCE / "bert-side-lengths", max_seq_length=10) as embedder:
        assert embedder.info()["side_lengths"] == {"query": 10, "document": 10}


def test_a_length_for_each_call_wins_over_those_of_the_sides(tmp_path):
    folder = copy("bert-side-lengths", tmp_path / "model")
    change(folder / "sentence_bert_config.json", processing_kwargs={"text": {"max_length": 20}})
    with Embedder.load(folder) as embedder:
        assert embedder.info()["side_lengths"] is None and embedder.max_seq_length == 20
