"""Texts → token ids: cut where the model ends, special tokens kept, never padded."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from tokenizers import Tokenizer as HFTokenizer
from tokenizers import models, normalizers, pre_tokenizers, processors

from akidb_mlx import Embedder
from akidb_mlx.checkpoint.facts import read_checkpoint
from akidb_mlx.errors import CheckpointError, ConfigError, InputError
from akidb_mlx.pipeline import tokenizer as tokenizer_module
from akidb_mlx.pipeline.tokenizer import Tokenizer
from support.checkpoints import REFERENCE

CASES = sorted(folder.parent.name for folder in REFERENCE.glob("bert-*/reference.json"))
CLS, SEP, UNKNOWN, FIRST = 0, 1, 2, 3
WORDS = ["a", "b", "c", "\ufffd", "ab", "A"]


def make_file(folder, template="[CLS] $A [SEP]", edit=lambda tokenizer: None):
    """A tokenizer.json with one token a word: "a" is 3, "b" 4, "c" 5, U+FFFD 6, "ab" 7, "A" 8."""
    vocabulary = {"[CLS]": CLS, "[SEP]": SEP, "[UNK]": UNKNOWN}
    vocabulary |= {word: FIRST + place for place, word in enumerate(WORDS)}
    tokenizer = HFTokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(["[CLS]", "[SEP]", "[UNK]"])
    if template:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=template, pair=None, special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
        )
    edit(tokenizer)
    file = folder / "tokenizer.json"
    tokenizer.save(str(file))
    return file


def ids(tokenizer, text):
    (row,) = tokenizer.tokenize([text]).token_ids
    assert row.dtype == np.int32
    return row.tolist()


# ── limits ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("words", [0, 1, 7, 8, 9, 1008])
def test_texts_are_cut_so_that_the_special_tokens_stay(tmp_path, words):
    tokenizer = Tokenizer(make_file(tmp_path), 10)
    cut = tokenizer.tokenize([" ".join(["a"] * words)])
    kept = min(words, 8)
    assert cut.token_ids[0].tolist() == [CLS, *[FIRST] * kept, SEP]
    assert cut.truncated == ([0] if words > 8 else [])


def test_texts_are_cut_some_at_a_time(tmp_path, monkeypatch):
    """What that takes of memory is bounded, whatever the texts' lengths; places are those of the call."""
    texts = ["a", "", "b " * 30, "a b", "c", "ab", "a " * 9, "A"]
    whole = Tokenizer(make_file(tmp_path), 10).tokenize(texts, 5)
    given = []
    encoded = Tokenizer._encoded
    monkeypatch.setattr(tokenizer_module, "_MOST_CHARACTERS", 4)
    monkeypatch.setattr(Tokenizer, "_encoded", lambda self, *piece: given.append(piece) or encoded(self, *piece))
    cut = Tokenizer(make_file(tmp_path), 10).tokenize(texts, 5)
    assert given == [(["a", ""], 5), (["b " * 30], 7), (["a b", "c"], 8), (["ab"], 10), (["a " * 9], 11), (["A"], 12)]
    assert [row.tolist() for row in cut.token_ids] == [row.tolist() for row in whole.token_ids]
    assert cut.truncated == whole.truncated == [2, 6]


@pytest.mark.parametrize("words", [9, 10, 11, 1010])
def test_an_end_token_is_never_cut_off(tmp_path, words):
    tokenizer = Tokenizer(make_file(tmp_path, "$A [SEP]"), 10)
    assert ids(tokenizer, " ".join(["a"] * words)) == [FIRST] * 9 + [SEP]


def test_without_special_tokens_all_of_the_limit_is_text(tmp_path):
    tokenizer = Tokenizer(make_file(tmp_path, None), 3)
    assert ids(tokenizer, "a b c a") == [3, 4, 5]
    assert tokenizer.last_token() is None


def test_without_a_limit_nothing_is_cut(tmp_path):
    tokenizer = Tokenizer(make_file(tmp_path), None)
    cut = tokenizer.tokenize(["a " * 20_000])
    assert len(cut.token_ids[0]) == 20_002 and cut.truncated == []


def test_a_limit_of_one_word_is_enough(tmp_path):
    assert ids(Tokenizer(make_file(tmp_path), 3), "a b c") == [CLS, FIRST, SEP]


@pytest.mark.parametrize("limit", [1, 2])
def test_a_limit_that_leaves_no_room_for_text(tmp_path, limit):
    with pytest.raises(ConfigError, match=rf"max_seq_length is {limit}, but 2 special tokens .* at least 3"):
        Tokenizer(make_file(tmp_path), limit)


def test_cut_texts_are_counted_by_their_place(tmp_path):
    tokenizer = Tokenizer(make_file(tmp_path), 4)
    assert tokenizer.tokenize(["a", "a b c", "a b", "a b c a"]).truncated == [1, 3]


def test_the_left_side_is_cut_where_the_checkpoint_says_so(tmp_path):
    assert ids(Tokenizer(make_file(tmp_path), 4, truncation_side="left"), "a b c") == [CLS, 4, 5, SEP]


@pytest.mark.parametrize(("side", "kept"), [(None, [4, 5]), ("right", [3, 4]), ("left", [4, 5])])
def test_the_side_that_only_the_file_states(tmp_path, side, kept):
    file = make_file(tmp_path, edit=lambda tokenizer: tokenizer.enable_truncation(3, direction="left"))
    assert ids(Tokenizer(file, 4, truncation_side=side), "a b c") == [CLS, *kept, SEP]


def test_a_state_counts_in_place_of_the_file(tmp_path):
    state = make_file(tmp_path, "$A [SEP]").read_text(encoding="utf-8")
    assert ids(Tokenizer(make_file(tmp_path), None, state=state), "a b") == [3, 4, SEP]


def test_special_tokens_in_a_text_are_words_where_the_checkpoint_says_so(tmp_path):
    file = make_file(tmp_path)
    assert ids(Tokenizer(file, None), "a[SEP]b") == [CLS, 3, SEP, 4, SEP]
    assert ids(Tokenizer(file, None, split_special_tokens=True), "a[SEP]b") == [CLS, UNKNOWN, SEP]


def test_truncation_and_padding_baked_into_the_file_do_not_leak(tmp_path):
    def bake(tokenizer):
        tokenizer.enable_truncation(3)
        tokenizer.enable_padding(length=20, direction="left")

    file = make_file(tmp_path, edit=bake)
    assert json.loads(file.read_text())["truncation"] and json.loads(file.read_text())["padding"]
    assert ids(Tokenizer(file, 6), "a b c a") == [CLS, 3, 4, 5, 3, SEP]
    assert ids(Tokenizer(file, None), "a b c a b") == [CLS, 3, 4, 5, 3, 4, SEP]
    assert len(ids(Tokenizer(file, 6), "a b c a b")) == 6


# ── text ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("text", ["\ud800", "\udfff", "\udc80", "\udead"])
def test_a_lone_surrogate_is_the_replacement_character(tmp_path, text):
    tokenizer = Tokenizer(make_file(tmp_path), None)
    assert ids(tokenizer, f"a {text} b") == ids(tokenizer, "a \ufffd b") == [CLS, 3, 6, 4, SEP]


def test_lone_surrogates_take_nothing_with_them(tmp_path):
    tokenizer = Tokenizer(make_file(tmp_path), None)
    assert ids(tokenizer, "a \ud800") == ids(tokenizer, "a \ufffd")
    assert ids(tokenizer, "\ud800 a \udc00 b") == ids(tokenizer, "\ufffd a \ufffd b")


def test_all_of_unicode_passes(tmp_path):
    tokenizer = Tokenizer(make_file(tmp_path), None)
    assert ids(tokenizer, "a 🍵 Straße 東京 \x00 \u200b b")[-2:] == [4, SEP]


def test_no_texts(tmp_path):
    assert Tokenizer(make_file(tmp_path), 10).tokenize([]).token_ids == []


def test_an_empty_text_has_its_special_tokens(tmp_path):
    assert ids(Tokenizer(make_file(tmp_path), 10), "") == [CLS, SEP]


def test_a_text_without_tokens_is_an_error_that_names_it(tmp_path):
    tokenizer = Tokenizer(make_file(tmp_path, None), 10)
    with pytest.raises(InputError, match=r"text 1 \(''\) has no tokens"):
        tokenizer.tokenize(["a", ""])
    with pytest.raises(InputError, match=r"text 258 \('  '\) has no tokens"):
        tokenizer.tokenize(["a", "b", "  "], first_index=256)


def test_lower_casing_on_request(tmp_path):
    file = make_file(tmp_path)
    assert ids(Tokenizer(file, None), "A") == [CLS, 8, SEP]
    assert ids(Tokenizer(file, None, do_lower_case=True), "A") == [CLS, 3, SEP]


def test_lower_casing_comes_before_the_files_own_normalizer(tmp_path):
    def only_small_letters(tokenizer):
        tokenizer.normalizer = normalizers.Replace("A", "b")

    file = make_file(tmp_path, edit=only_small_letters)
    assert ids(Tokenizer(file, None), "A") == [CLS, 4, SEP]
    assert ids(Tokenizer(file, None, do_lower_case=True), "A") == [CLS, 3, SEP]


def test_a_normalizer_that_lower_cases_stays_as_it_is(tmp_path):
    def small_letters_later(tokenizer):
        tokenizer.normalizer = normalizers.Sequence([normalizers.Replace("A", "b"), normalizers.Lowercase()])

    file = make_file(tmp_path, edit=small_letters_later)
    assert ids(Tokenizer(file, None, do_lower_case=True), "A") == ids(Tokenizer(file, None), "A") == [CLS, 4, SEP]


# ── prompts ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("template", "length"), [("[CLS] $A [SEP]", 3), ("$A [SEP]", 2), ("[CLS] $A", 3), (None, 2)])
def test_a_prompts_length_is_without_a_special_token_at_its_end(tmp_path, template, length):
    tokenizer = Tokenizer(make_file(tmp_path, template), 10)
    assert tokenizer.prompt_length("a b") == length


def test_dropout_is_of_training(tmp_path):
    """A BPE tokenizer that was saved with it would cut words in other ways at each call."""
    state = json.loads((REFERENCE / "qwen3-embedding" / "tokenizer.json").read_text(encoding="utf-8"))
    state["model"]["dropout"] = 0.5
    (tmp_path / "tokenizer.json").write_text(json.dumps(state))
    tokenizer = Tokenizer(tmp_path / "tokenizer.json", 64)
    plain = Tokenizer(REFERENCE / "qwen3-embedding" / "tokenizer.json", 64)
    text = ["one two three four five six seven eight nine ten"]
    for _ in range(20):
        assert tokenizer.tokenize(text).token_ids[0].tolist() == plain.tokenize(text).token_ids[0].tolist()


def test_the_last_token_is_the_post_processors(tmp_path):
    assert Tokenizer(make_file(tmp_path), 10).last_token() == "[SEP]"
    assert Tokenizer(make_file(tmp_path, "[CLS] $A"), 10).last_token() is None


# ── files ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("content", ["", "{", "{}", "[]", '{"version": "1.0", "model": {"type": "Unheard"}}'])
def test_a_file_that_is_no_tokenizer(tmp_path, content):
    file = tmp_path / "tokenizer.json"
    file.write_text(content)
    with pytest.raises(CheckpointError, match="tokenizer.json cannot be read .*download it again"):
        Tokenizer(file, 10)


@pytest.mark.parametrize("name", CASES)
def test_token_ids_are_those_that_the_reference_fed_its_model(name):
    facts = json.loads((REFERENCE / name / "reference.json").read_text(encoding="utf-8"))
    checkpoint = read_checkpoint(REFERENCE / name)
    assert checkpoint.max_seq_length == facts["max_seq_length"]
    tokenizer = Tokenizer(
        checkpoint.tokenizer_file,
        checkpoint.max_seq_length,
        do_lower_case=checkpoint.do_lower_case,
        truncation_side=checkpoint.truncation_side,
    )
    cut = tokenizer.tokenize(facts["texts"])
    assert [row.tolist() for row in cut.token_ids] == facts["token_ids"]


# ── threads ──────────────────────────────────────────────────────────────────────────────────────────


def test_sixteen_threads_share_a_tokenizer(tmp_path):
    tokenizer = Tokenizer(make_file(tmp_path), 12)
    texts = [" ".join(WORDS[i % 3] for i in range(n)) for n in range(40)]
    expected = [row.tolist() for row in tokenizer.tokenize(texts).token_ids]
    with ThreadPoolExecutor(16) as pool:
        for found in pool.map(lambda _: tokenizer.tokenize(texts), range(200)):
            assert [row.tolist() for row in found.token_ids] == expected


BEFORE = {"type": "TemplateProcessing", "pair": [{"Sequence": {"id": "A", "type_id": 0}}]}
BEFORE |= {
    "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}},
}
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
PROCESSORS = {
    "a template": BEFORE,
    "a sequence in a sequence": {"type": "Sequence", "processors": [{"type": "Sequence", "processors": [BEFORE]}]},
    "bytes and a template": {"type": "Sequence", "processors": [BYTE_LEVEL, BEFORE]},
    "bytes": BYTE_LEVEL,
    "nothing": None,
}
FIXED = {"strategy": {"Fixed": 16}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 1, "pad_type_id": 0}
FIXED |= {"pad_token": "<pad>"}


@pytest.mark.parametrize("padding", [None, FIXED], ids=["", "padded"])
@pytest.mark.parametrize("name", PROCESSORS)
def test_an_end_token_is_put_once_whatever_the_post_processor(tmp_path, name, padding):
    state = json.loads((REFERENCE / "mistral-e5" / "tokenizer.json").read_text(encoding="utf-8"))
    state |= {"post_processor": PROCESSORS[name], "padding": padding}
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps(state), encoding="utf-8")
    plain = Tokenizer(file, 48).tokenize(["harbour"]).token_ids[0].tolist()
    for _ in range(2):  # a file that appends it already stays as it is
        tokenizer = Tokenizer(file, 48, append="</s>")
        assert tokenizer.tokenize(["harbour"]).token_ids[0].tolist() == [*plain, 2]
        assert len(tokenizer.tokenize(["harbour " * 100]).token_ids[0]) == 48
        state["post_processor"] = json.loads(tokenizer._tokenizer.to_str())["post_processor"]
        file.write_text(json.dumps(state), encoding="utf-8")


@pytest.mark.checkpoint("bert-prompts")
def test_a_word_that_neither_the_vocabulary_nor_an_unknown_token_covers(folder):
    """tokenizers raises a bare Exception for it, which names no text."""
    file = folder / "tokenizer.json"
    state = json.loads(file.read_text(encoding="utf-8"))
    state["model"]["unk_token"] = "[NOWHERE]"
    file.write_text(json.dumps(state), encoding="utf-8")
    with Embedder.load(folder, tokenizer="file") as embedder:
        texts = ["row", "row", "☃", "row"]
        with pytest.raises(InputError, match=r"text 2 cannot be tokenised .*UNK.*leave it out \(it begins '☃'\)"):
            embedder.encode(texts)
        told = {}
        rows = np.concatenate(list(embedder.encode_stream(texts, on_error=told.__setitem__)))
        assert list(told) == [2] and np.isnan(rows[2]).all() and np.isfinite(rows[[0, 1, 3]]).all()
