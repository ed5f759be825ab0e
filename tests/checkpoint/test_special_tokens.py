"""Which special tokens the files name: as AutoTokenizer has them; only those count at a prompt's end."""

import json
import shutil

import pytest

from akidb_mlx import Embedder
from akidb_mlx.checkpoint.special_tokens import read_special_tokens
from support.checkpoints import REFERENCE

END = "[D]"
NAMED = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
}
FLAGS = dict.fromkeys(("lstrip", "rstrip", "normalized", "single_word"), False)
DECODER = {"added_tokens_decoder": {"200": {"content": END, "special": True}}}
# What tokenizer_config.json says more, what special_tokens_map.json says, whether the end token is named.
FILES = {
    "nowhere": ({}, None, False),
    "listed among the added tokens": (DECODER, None, False),
    "additional": ({"additional_special_tokens": [END]}, None, True),
    "extra, a list": ({"extra_special_tokens": [END]}, None, True),
    "extra, by name": ({"extra_special_tokens": {"end_mark": END}}, None, True),
    "in the map": ({}, {"eos_token": END}, True),
    "in the map's list": ({}, {"additional_special_tokens": [END]}, True),
    "in a map that is not read": (DECODER, {"eos_token": END}, False),
    "eos_token": ({"eos_token": END}, None, True),
    "an object": ({"eos_token": {"__type": "AddedToken", "content": END, **FLAGS}}, None, True),
}


def build(folder, case):
    """A BERT whose texts end in `[D]`, a special token, with a prompt that pooling leaves out."""
    more, said, _ = FILES[case]
    shutil.copytree(REFERENCE / "bert-exclude-prompt", folder)
    file = folder / "tokenizer.json"
    tokenizer = json.loads(file.read_text(encoding="utf-8"))
    number = tokenizer["model"]["vocab"]["[UNK]"]
    del tokenizer["model"]["vocab"]["[UNK]"]
    tokenizer["model"] |= {"unk_token": "[PAD]", "vocab": {**tokenizer["model"]["vocab"], END: number}}
    unknown = next(token for token in tokenizer["added_tokens"] if token["content"] == "[UNK]")
    unknown["content"] = END
    tokenizer["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": "[CLS]", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
            {"SpecialToken": {"id": END, "type_id": 0}},
        ],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {
            token: {"id": token, "ids": [tokenizer["model"]["vocab"][token]], "tokens": [token]}
            for token in ("[CLS]", END)
        },
    }
    file.write_text(json.dumps(tokenizer), encoding="utf-8")
    config = {**NAMED, "unk_token": "[PAD]", "model_max_length": 48, **more}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    if said is not None:
        (folder / "special_tokens_map.json").write_text(json.dumps(said), encoding="utf-8")
    return folder, config


@pytest.mark.parametrize("case", FILES)
def test_names_are_autotokenizers(tmp_path, case):
    transformers = pytest.importorskip("transformers")
    folder, config = build(tmp_path / "model", case)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    assert read_special_tokens(folder, config).contents == set(theirs.all_special_tokens)
    assert (END in theirs.all_special_tokens) is FILES[case][2]


@pytest.mark.parametrize("case", FILES)
def test_only_a_named_end_token_is_left_out_of_the_prompts_length(tmp_path, case):
    with Embedder.load(build(tmp_path / "model", case)[0]) as embedder:
        prompt = "search for: "
        tokens = embedder.count_tokens([prompt])[0]
        (encoding,) = embedder._path.encoder.encode(["harbour"], prompt).encodings
        assert encoding.prompt_length == tokens - FILES[case][2]
