"""The tokenizer of a folder is AutoTokenizer's: ids, pairs, types, the side that is cut; by the table and by asking."""

import shutil
from random import Random

import pytest

from akidb_mlx.checkpoint import rebuilt_tokenizer as module
from akidb_mlx.errors import CheckpointError
from akidb_mlx.pipeline.tokenizer import Tokenizer
from support.checkpoints import CASES, REFERENCE
from support.tokenizers import FAMILIES, PAIRS, TEXTS, change_files

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


def check_changed(folder, random):
    """Change a folder's files and compare; whether the table knew it."""
    changes = change_files(folder, random)
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


def check_family(name, folder, seed, count):
    random, known = Random(f"{name} {seed}"), 0
    for _ in range(count):
        shutil.rmtree(folder, ignore_errors=True)
        known += check_changed(FAMILIES[name].write(folder), random)
    return known


@pytest.mark.parametrize("name", FAMILIES)
def test_changed_files_have_autotokenizers_ids(name, tmp_path, here):
    known = check_family(name, tmp_path / "model", 0, 25)
    assert known >= (0 if name in UNSURE else 3)  # else nothing is shown of the table
