"""What is no reranker, or one that is not computed here: refused with words, as the list beside the cases says.

`refused.json` holds edits of good folders: files of text, keys of JSON files, weights that go or come.
"""

import json
import shutil

import mlx.core as mx
import numpy as np
import pytest

from akidb_mlx import Reranker
from akidb_mlx.errors import AkiDBMLXError, UnsupportedModelError
from support.checkpoints import REFERENCE, RERANKERS
from support.comparison import assert_close
from support.weights import save_weights

REFUSED = json.loads((RERANKERS / "refused.json").read_text(encoding="utf-8"))
# What the reference computes and so do we: no reason to refuse.
COMPUTED = {
    "no-truncation": "the length of the position table still cuts, beyond which the reference ends in an error",
}


def edit_json(file, keys):
    said = json.loads(file.read_text(encoding="utf-8"))
    for key, value in keys.items():
        if value is None:
            said.pop(key, None)
        else:
            said[key] = value
    file.write_text(json.dumps(said), encoding="utf-8")


def build(name, folder):
    row = REFUSED[name]
    shutil.copytree(REFERENCE / row["source"], folder)
    for file in row.get("remove", ()):
        path = folder / file
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for file, source in row.get("copy", {}).items():
        shutil.copyfile(REFERENCE / source, folder / file)
    for file, text in row.get("text", {}).items():
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_text(text, encoding="utf-8")
    for file, keys in row.get("json", {}).items():
        edit_json(folder / file, keys)
    dropped, added = row.get("drop_weights", ()), row.get("add_weights", {})
    if dropped or added:
        file = folder / "model.safetensors"
        with mx.stream(mx.cpu):
            weights = {key: value for key, value in mx.load(str(file)).items() if key not in dropped}
            weights |= {key: mx.array(np.ones(shape, np.float32)) for key, shape in added.items()}
            save_weights(file, weights)
    return folder


@pytest.mark.parametrize("name", sorted(set(REFUSED) - set(COMPUTED)))
def test_it_is_refused(name, tmp_path):
    with pytest.raises(AkiDBMLXError) as refusal:
        Reranker.load(build(name, tmp_path / "model"), device="cpu").close()
    assert len(str(refusal.value)) > 30


@pytest.mark.parametrize("name", [name for name in sorted(REFUSED) if name.startswith("activation-")])
def test_a_user_who_knows_better_sets_the_activation(name, tmp_path):
    folder = build(name, tmp_path / "model")
    with pytest.raises(UnsupportedModelError, match=r"the activation is .*, known are .* Set activation where you"):
        Reranker.load(folder, device="cpu").close()
    with (
        Reranker.load(folder, activation="tanh", device="cpu") as reranker,
        Reranker.load(REFERENCE / REFUSED[name]["source"], activation="tanh", device="cpu") as whole,
    ):
        assert np.array_equal(reranker.predict([("a", "b")]), whole.predict([("a", "b")]))
        with pytest.raises(UnsupportedModelError):  # though the loaded model could be shared
            Reranker.load(folder, device="cpu").close()


@pytest.mark.parametrize("name", sorted(COMPUTED))
def test_it_is_computed(name, tmp_path):
    with Reranker.load(build(name, tmp_path / "model"), device="cpu") as reranker:
        assert np.isfinite(reranker.predict([("a query", "a text " * 100)])).all()


def expected(name):
    """The reference's logits, and the pairs that they are of."""
    facts = json.loads((RERANKERS / name / "expected.json").read_text(encoding="utf-8"))
    shared = json.loads((RERANKERS / "pairs.json").read_text(encoding="utf-8"))
    pairs = [tuple(facts["own_pairs"].get(label) or shared[label]) for label in facts["labels"]]
    return pairs, np.load(RERANKERS / name / "expected.npz")["logits"]


def scores(folder, pairs):
    with Reranker.load(folder, activation="identity", dtype="float32", device="cpu") as reranker:
        return reranker.predict(pairs)


def test_a_head_beside_the_table_is_read_whatever_the_config_says_of_a_tie(tmp_path):
    folder = shutil.copytree(RERANKERS / "qwen3-reranker-untied", tmp_path / "model")
    edit_json(folder / "config.json", {"tie_word_embeddings": True})
    pairs, logits = expected("qwen3-reranker-untied")
    assert_close(scores(folder, pairs), logits, 1e-5)  # beside the reference, as in test_reranker_parity


def test_the_map_of_special_tokens_is_not_read_beside_a_list_of_added_tokens(tmp_path):
    folder = shutil.copytree(RERANKERS / "llama-reranker", tmp_path / "model")
    added = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["added_tokens"]
    listed = {str(token.pop("id")): token for token in added}
    edit_json(folder / "tokenizer_config.json", {"added_tokens_decoder": listed})
    without = scores(folder, [("a", "b")])
    (folder / "special_tokens_map.json").write_text(json.dumps({"bos_token": "<|im_end|>"}), encoding="utf-8")
    assert_close(scores(folder, [("a", "b")]), without)


def test_a_template_reads_special_tokens_of_other_names(tmp_path):
    """As the reference, whose scores for both folders are equal."""
    named, spelled = (shutil.copytree(RERANKERS / "qwen3-reranker", tmp_path / name) for name in ("named", "spelled"))
    edit_json(named / "tokenizer_config.json", {"extra_special_tokens": {"my_token": "<|im_start|>"}})
    for folder, start in ((named, "{{ my_token }}"), (spelled, "<|im_start|>")):
        template = folder / "chat_template.jinja"
        template.write_text(start + template.read_text(encoding="utf-8"), encoding="utf-8")
    assert_close(scores(named, [("a", "b")]), scores(spelled, [("a", "b")]))
