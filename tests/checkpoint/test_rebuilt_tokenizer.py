"""The tokenizer of a folder is AutoTokenizer's: ids, pairs, types, the side that is cut; by the table and by asking."""

import json
import shutil
import subprocess
import sys
from random import Random

import pytest

from akidb_mlx.checkpoint import ask_transformers
from akidb_mlx.checkpoint import rebuilt_tokenizer as module
from akidb_mlx.checkpoint.rebuilt_tokenizer import RebuiltTokenizer, rebuild_tokenizer
from akidb_mlx.checkpoint.tokenizer_classes import BY_MODEL_TYPE, CLASSES, OVERRULED
from akidb_mlx.errors import CheckpointError
from akidb_mlx.pipeline.tokenizer import Tokenizer
from support.checkpoints import CASES, REFERENCE
from support.tokenizers import CHANGES, FAMILIES, PAIRS, TEXTS, change_files, read, write

FOLDERS = [name for name in CASES if (REFERENCE / name / "tokenizer_config.json").exists()]


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    module._remembered.cache_clear()


@pytest.fixture
def here():
    """transformers in this process, which is asked here then."""
    return pytest.importorskip("transformers")


def auto(folder):
    """What AutoTokenizer gives, None where it raises."""
    from transformers import AutoTokenizer, logging

    logging.set_verbosity(logging.CRITICAL)
    try:
        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception:
        return None


def theirs(tokenizer):
    """Ids of texts whole and cut, ids and types of pairs, and what goes into the model."""
    whole = [tokenizer(text, verbose=False)["input_ids"] for text in TEXTS]
    cut = [tokenizer(text, truncation=True, max_length=6)["input_ids"] for text in TEXTS]
    pairs = [tokenizer([one], [two], return_token_type_ids=True) for one, two in PAIRS]
    rows = [(pair["input_ids"][0], pair["token_type_ids"][0]) for pair in pairs]
    return {"whole": whole, "cut": cut, "pairs": rows, "names": tuple(tokenizer.model_input_names)}


def ours(folder, rebuilt):
    """The same of what is made here."""

    def ids(length):
        tokenizer = Tokenizer(
            folder / "tokenizer.json",
            length,
            truncation_side=rebuilt.truncation_side,
            state=rebuilt.state,
            split_special_tokens=rebuilt.split_special_tokens,
            zero_if_empty=True,
        )
        rows = [row.tolist() for row in tokenizer.tokenize(TEXTS).token_ids]
        return tokenizer._tokenizer, [[] if row == [-1] else row for row in rows]

    backend, whole = ids(None)
    pairs = [backend.encode(one, two) for one, two in PAIRS]
    rows = [(pair.ids, pair.type_ids) for pair in pairs]
    return {"whole": whole, "cut": ids(6)[1], "pairs": rows, "names": rebuilt.input_names}


# ── the matrix ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", FOLDERS)
def test_every_reference_folder_has_autotokenizers_ids(name, here):
    folder = REFERENCE / name
    expected = theirs(auto(folder))
    table = module._by_table(folder)
    assert ours(folder, module._asked(folder)) == expected
    if table is not None:
        assert ours(folder, table) == expected


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_has_autotokenizers_ids(name, tmp_path, here):
    folder = FAMILIES[name].write(tmp_path / "model")
    expected = theirs(auto(folder))
    table = module._by_table(folder)
    assert ours(folder, module._asked(folder)) == expected
    assert (table is not None) == (name not in UNSURE)
    if table is not None:
        assert ours(folder, table) == expected


UNSURE = {"electra", "camembert", "llama", "cohere", "gpt_neox"}


def check_changed(folder, random, changes=()):
    """Change a folder's files and compare; whether the table knew it."""
    changes = change_files(folder, random, changes)
    tokenizer, table = auto(folder), module._by_table(folder)
    expected = tokenizer and or_error(theirs, tokenizer)
    if table is not None:
        assert or_error(ours, folder, table) == expected, changes
    try:
        asked = module._asked(folder)
    except CheckpointError:
        assert expected in (None, "error"), changes
    else:
        assert or_error(ours, folder, asked) == expected, changes
    return table is not None


def or_error(encode, *args):
    """Some files make a tokenizer that raises at its first unknown word."""
    try:
        return encode(*args)
    except Exception:
        return "error"


@pytest.mark.parametrize("name", FAMILIES)
def test_changed_files_have_autotokenizers_ids(name, tmp_path, here):
    random, known, folder = Random(name), 0, tmp_path / "model"
    alone = [(change,) for change in dict.fromkeys(CHANGES)]
    for changes in [*alone, *alone, *[()] * 8]:
        shutil.rmtree(folder, ignore_errors=True)
        known += check_changed(FAMILIES[name].write(folder), random, changes)
    assert known >= (0 if name in UNSURE else 3)  # else nothing is shown of the table


# ── the table ────────────────────────────────────────────────────────────────────────────────────────


def test_the_table_names_what_transformers_has_for_each_model_type(here):
    from transformers.models.auto import tokenization_auto as auto_classes

    has = dict(auto_classes.TOKENIZER_MAPPING_NAMES)
    has = {kind: "TokenizersBackend" if name == "MistralCommonBackend" else name for kind, name in has.items()}
    assert {kind: has.get(kind) for kind in BY_MODEL_TYPE} == dict(BY_MODEL_TYPE)
    assert auto_classes.MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS & set(BY_MODEL_TYPE) == OVERRULED


def test_every_row_of_the_table_is_met_by_a_family(tmp_path, here):
    met = {rebuild_tokenizer(FAMILIES[name].write(tmp_path / name) / "tokenizer.json").class_name for name in FAMILIES}
    assert met >= set(CLASSES)


# ── who is asked, and what is kept ───────────────────────────────────────────────────────────────────


@pytest.fixture
def unsure(tmp_path):
    """A folder of which the table knows nothing."""
    return FAMILIES["llama"].write(tmp_path / "model")


@pytest.fixture
def asked(monkeypatch):
    """The folders of which transformers was asked, in this process."""
    folders, ask = [], ask_transformers.ask
    monkeypatch.setattr(module, "_can_start_python", lambda: False)
    monkeypatch.setattr(ask_transformers, "ask", lambda folder: folders.append(folder) or ask(folder))
    return folders


def fresh():
    module._remembered.cache_clear()


def test_an_answer_is_kept_until_a_file_changes(unsure, asked):
    file = unsure / "tokenizer.json"
    one = rebuild_tokenizer(file)
    assert one.class_name == "LlamaTokenizer" and one.state is not None and "pre_tokenizer" in str(one)
    fresh()
    assert rebuild_tokenizer(file) == one and len(asked) == 1
    write(unsure / "tokenizer_config.json", {**read(unsure / "tokenizer_config.json"), "add_prefix_space": False})
    assert rebuild_tokenizer(file).digest != one.digest and len(asked) == 2


def test_an_answer_of_another_version_does_not_count(unsure, asked, monkeypatch):
    rebuild_tokenizer(unsure / "tokenizer.json")
    version = module.importlib.metadata.version
    monkeypatch.setattr(module.importlib.metadata, "version", lambda name: version(name) + "0")
    rebuild_tokenizer(unsure / "tokenizer.json")
    assert len(asked) == 2


@pytest.mark.parametrize("damage", [lambda text: "", lambda text: text[:-9], lambda text: text.replace("tea", "pot")])
def test_a_torn_answer_is_asked_again(unsure, asked, tmp_path, damage):
    one = rebuild_tokenizer(unsure / "tokenizer.json")
    fresh()
    (stored,) = (tmp_path / "cache" / "akidb-mlx" / "tokenizers").iterdir()
    stored.write_text(damage(stored.read_text(encoding="utf-8")), encoding="utf-8")
    assert rebuild_tokenizer(unsure / "tokenizer.json") == one and len(asked) == 2


def test_where_nothing_can_be_kept_it_is_asked_again(unsure, asked, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    one = rebuild_tokenizer(unsure / "tokenizer.json")
    fresh()
    assert rebuild_tokenizer(unsure / "tokenizer.json") == one and len(asked) == 2


def test_the_file_as_it_stands_is_nobodys_to_ask(unsure, asked):
    assert rebuild_tokenizer(unsure / "tokenizer.json", "file") == RebuiltTokenizer()
    assert asked == []


def test_where_the_table_is_sure_nobody_is_asked(tmp_path, asked):
    folder = FAMILIES["bert"].write(tmp_path / "bert")
    assert rebuild_tokenizer(folder / "tokenizer.json").class_name == "BertTokenizer" and asked == []


PROGRAM = """
import sys, json
from pathlib import Path
from akidb_mlx.checkpoint.rebuilt_tokenizer import rebuild_tokenizer
rebuilt = rebuild_tokenizer(Path(sys.argv[1]))
print(json.dumps([rebuilt.class_name, rebuilt.digest, "transformers" in sys.modules]))
"""


def in_a_fresh_process(file, program=PROGRAM):
    done = subprocess.run([sys.executable, "-c", program, str(file)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_another_process_is_asked_so_that_transformers_stays_out_of_this_one(unsure):
    name, digest, imported = in_a_fresh_process(unsure / "tokenizer.json")
    assert name == "LlamaTokenizer" and not imported
    assert digest == rebuild_tokenizer(unsure / "tokenizer.json").digest


def test_where_no_process_can_be_started_this_one_asks(unsure):
    embedded = f"import sys; sys.executable = '/bin/akidb'\n{PROGRAM}"
    name, _, imported = in_a_fresh_process(unsure / "tokenizer.json", embedded)
    assert name == "LlamaTokenizer" and imported


def test_neither_code_of_the_checkpoint_nor_the_network(unsure, monkeypatch):
    mark = unsure / "ran"
    (unsure / "own.py").write_text(f"open({str(mark)!r}, 'w')\nclass Config: pass\nclass Words: pass\n")
    own = {"AutoConfig": "own.Config", "AutoModel": "own.Config"}
    write(unsure / "config.json", {"model_type": "unheard_of", "auto_map": own})
    closed = f"import socket\ndef no(*_): raise AssertionError('network')\nsocket.socket.connect = no\n{PROGRAM}"
    embedded = f"import sys; sys.executable = '/bin/akidb'\n{closed}"
    name, _, imported = in_a_fresh_process(unsure / "tokenizer.json", embedded)
    assert name == "LlamaTokenizer" and imported and not mark.exists()
    assert in_a_fresh_process(unsure / "tokenizer.json")[0] == name and not mark.exists()


def test_a_tokenizer_of_the_checkpoints_own_is_not_asked_about(unsure, asked):
    said = {"auto_map": {"AutoTokenizer": ["own.Words", None]}, "tokenizer_class": "Words"}
    write(unsure / "tokenizer_config.json", said)
    assert rebuild_tokenizer(unsure / "tokenizer.json") == RebuiltTokenizer() and asked == []


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"tokenizer_class": "LlamaTokenizer", "bos_token": 5}, "bos_token"),
        ({"tokenizer_class": "ByT5Tokenizer"}, "splits texts in Python"),
    ],
)
def test_what_transformers_cannot_make_is_one_clear_error(unsure, asked, said, reason):
    write(unsure / "tokenizer_config.json", said)
    with pytest.raises(CheckpointError, match=f'(?s)transformers 5.*{reason}.*tokenizer="file"'):
        rebuild_tokenizer(unsure / "tokenizer.json")
    assert rebuild_tokenizer(unsure / "tokenizer.json", "file") == RebuiltTokenizer()
