"""`akidb-mlx doctor`: a sound model passes, and each fault shows in its own line."""

import json
import shutil
import sys
from types import ModuleType
from typing import ClassVar

import numpy as np
import pytest

from akidb_mlx import Embedder, make_reference
from akidb_mlx.cli import main
from akidb_mlx.doctor import examine, report
from akidb_mlx.doctor.model import _PROBES
from akidb_mlx.errors import ConfigError
from akidb_mlx.pipeline import loaded_model
from support.checkpoints import PROMPTS, REFERENCE

QWEN = REFERENCE / "qwen3-embedding"
# Random weights know nothing of meaning.
MEANING = {"similar above different", "answer above other"}


def outcomes(embedder, reference=None):
    return {finding.probe: finding for finding in examine(embedder, reference)}


class Spoilt:
    """An embedder with a fault in `encode`."""

    def __init__(self, embedder, spoil):
        self._embedder, self._spoil = embedder, spoil

    def __getattr__(self, name):
        return getattr(self._embedder, name)

    def encode(self, texts):
        return self._spoil(self._embedder.encode(texts))


def test_minilm_passes(minilm):
    found = outcomes(minilm)
    assert found.keys() == _PROBES.keys()
    assert [finding.passed for finding in found.values()].count(False) == 0
    assert found["similar above different"].detail == "cat/feline 0.5612, cat/weather -0.0046"
    assert found["terminator"].passed is None


@pytest.mark.parametrize("name", ["qwen3-embedding", "bert-cls", "static-root", "embeddinggemma", "bert-last-token"])
def test_sound_models_pass(name):
    with Embedder.load(REFERENCE / name) as embedder:
        found = outcomes(embedder)
    assert {probe for probe, finding in found.items() if finding.passed is False} <= MEANING


def test_a_missing_terminator(tmp_path):
    folder = shutil.copytree(QWEN, tmp_path / "model")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["post_processor"] = None
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with Embedder.load(folder) as embedder:
        finding = outcomes(embedder)["terminator"]
    assert finding.passed is False
    assert "texts end with different tokens" in finding.detail


def test_rows_that_depend_on_their_batch(minilm):
    def spoil(rows):
        return rows if len(rows) == 1 else rows[:, ::-1]

    found = outcomes(Spoilt(minilm, spoil))
    assert found["batch = single"].passed is False
    assert found["padding"].passed is False


def test_rows_in_the_wrong_order(minilm):
    found = outcomes(Spoilt(minilm, lambda rows: rows[np.argsort(rows[:, 0])]))
    assert found["order"].passed is False


def test_rows_that_are_not_finite(minilm):
    found = outcomes(Spoilt(minilm, lambda rows: rows * np.nan))
    assert found["at the length limit"].passed is False
    assert found["shape and length"].passed is False


def test_rows_of_another_length(minilm):
    assert outcomes(Spoilt(minilm, lambda rows: rows * 2))["shape and length"].passed is False


def test_products_in_fewer_bits_than_float32(minilm, monkeypatch):
    assert outcomes(minilm)["precision of float32"].passed is True
    monkeypatch.setattr(loaded_model, "float32_error", lambda: 3e-4)
    finding = outcomes(minilm)["precision of float32"]
    assert finding.passed is False
    assert "set MLX_ENABLE_TF32=0" in finding.detail


def test_vectors_that_mean_nothing(minilm):
    found = outcomes(Spoilt(minilm, lambda rows: np.roll(rows, 1, axis=0)))
    assert found["similar above different"].passed is False


def test_prompts_without_effect():
    with Embedder.load(QWEN) as embedder:
        broken = Spoilt(embedder, lambda rows: rows)
        broken.encode_query = embedder.encode_document
        finding = outcomes(broken)["query ≠ document"]
    assert finding.passed is False


def test_a_probe_that_raises_is_a_failure_and_the_others_go_on(minilm):
    def spoil(rows):
        raise RuntimeError("boom")

    found = outcomes(Spoilt(minilm, spoil))
    assert found["order"].passed is False
    assert found["order"].detail == "RuntimeError: boom"
    assert found["answer above other"].passed is True


# ── a reference's vectors ────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def reference_file(tmp_path):
    facts = json.loads((QWEN / "reference.json").read_text())
    vectors = np.load(QWEN / "reference.npz")
    file = tmp_path / "reference.npz"
    np.savez(
        file,
        texts=np.array(facts["texts"]),
        **vectors,
        made_with=np.array(json.dumps({"sentence_transformers": "6.2.0"})),
    )
    return file


def test_equal_vectors_pass(reference_file):
    with Embedder.load(QWEN) as embedder:
        found = outcomes(embedder, reference_file)
    for name in ("embeddings", "query", "document"):
        assert found[f"reference: {name}"].passed is True
    assert "(sentence_transformers 6.2.0)" in found["reference: query"].detail


def test_another_pooling_fails(reference_file):
    with Embedder.load(QWEN, pooling="mean") as embedder:
        finding = outcomes(embedder, reference_file)["reference: embeddings"]
    assert finding.passed is False
    assert "at least 0.99999 wanted" in finding.detail


def test_another_width_fails(reference_file):
    with Embedder.load(QWEN, truncate_dim=16) as embedder:
        finding = outcomes(embedder, reference_file)["reference: embeddings"]
    assert finding.passed is False
    assert "the reference has shape (14, 32), this model gives (14, 16)" in finding.detail


def test_other_tokens_fail(reference_file):
    with Embedder.load(QWEN) as embedder:
        content = dict(np.load(reference_file))
        tokens = embedder.count_tokens(content["texts"].tolist())
        np.savez(reference_file, **content, tokens=tokens)
        assert outcomes(embedder, reference_file)["reference: tokens"].passed is True
        np.savez(reference_file, **content, tokens=[*tokens[:5], 1 + tokens[5], *tokens[6:]])
        finding = outcomes(embedder, reference_file)["reference: tokens"]
    assert finding.passed is False
    assert finding.detail == f"1 texts differ: text 5 has {tokens[5]}, the reference's has {1 + tokens[5]}"


@pytest.mark.parametrize("content", [b"", b"not a zip file", None])
def test_a_file_that_is_no_reference(tmp_path, content):
    file = tmp_path / "reference.npz"
    if content is None:
        np.savez(file, vectors=np.zeros(3))
    else:
        file.write_bytes(content)
    with (
        Embedder.load(QWEN) as embedder,
        pytest.raises(ConfigError, match=r"is no reference file.*akidb_mlx\.make_reference"),
    ):
        list(examine(embedder, file))


# ── making a reference ───────────────────────────────────────────────────────────────────────────────


class SentenceTransformer:
    """What make_reference uses of sentence-transformers' class, computed by us: the form is tested, not the numbers."""

    prompts: ClassVar = {"query": "told by the checkpoint", "document": ""}
    masked = True

    def __init__(self, model_name, **options):
        self.embedder = Embedder.load(model_name)

    def float(self):
        return self

    def encode(self, texts, *, batch_size, convert_to_numpy, prompt_name=None):
        assert (batch_size, convert_to_numpy) == (1, True)
        return (self.embedder.encode_document if prompt_name == "document" else self.embedder.encode)(texts)

    def encode_query(self, texts, *, batch_size, convert_to_numpy):
        return self.embedder.encode_query(texts)

    def preprocess(self, texts):
        (count,) = self.embedder.count_tokens(texts)
        return {"attention_mask": np.ones((1, count), int)} if self.masked else {"input_ids": np.ones(count, int)}


@pytest.fixture
def sentence_transformers(monkeypatch):
    for name in ("sentence_transformers", "torch", "transformers"):
        module = ModuleType(name)
        module.__version__, module.SentenceTransformer, module.float32 = "1.2.3", SentenceTransformer, "float32"
        monkeypatch.setitem(sys.modules, name, module)


@pytest.mark.parametrize(
    ("name", "content"), [("texts.txt", "a\nb c\n"), ("texts.json", '["a\\nb", "c", "", "d e f"]')]
)
def test_a_reference_that_was_made_is_read(sentence_transformers, tmp_path, capsys, name, content):
    texts = tmp_path / name
    texts.write_text(content)
    assert make_reference.main([str(QWEN), str(tmp_path / "r.npz"), "--texts", str(texts)]) == 0
    assert "r.npz: " in capsys.readouterr().out
    expected = content.splitlines() if name.endswith("txt") else json.loads(content)
    assert np.load(tmp_path / "r.npz")["texts"].tolist() == expected
    with Embedder.load(QWEN) as embedder:
        found = outcomes(embedder, tmp_path / "r.npz")
    assert {probe for probe in found if probe.startswith("reference: ")} == {
        f"reference: {what}" for what in ("tokens", "embeddings", "query", "document")
    }
    assert all(finding.passed for probe, finding in found.items() if probe.startswith("reference: "))
    assert "transformers 1.2.3" in found["reference: query"].detail


def test_a_reference_without_masks_counts_no_tokens(sentence_transformers, monkeypatch, tmp_path):
    monkeypatch.setattr(SentenceTransformer, "masked", False)
    assert "tokens" not in make_reference.make_reference(str(QWEN), ["a"])


def test_a_reference_needs_sentence_transformers(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    assert make_reference.main([str(QWEN), str(tmp_path / "r.npz")]) == 2
    assert capsys.readouterr().err.endswith("a reference needs it: pip install sentence-transformers\n")


# ── the command ──────────────────────────────────────────────────────────────────────────────────────


def test_exit_codes_and_lines(reference_file, capsys):
    assert main(["doctor", str(REFERENCE / "static-root")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(_PROBES)
    assert lines[0].startswith("pass  shape and length")
    assert main(["doctor", str(QWEN), "--pooling", "mean", "--reference", str(reference_file)]) == 1
    assert "FAIL  reference: embeddings" in capsys.readouterr().out
    assert main(["doctor", str(QWEN), "--reference", "nowhere.npz"]) == 2


def test_json(capsys):
    assert main(["doctor", str(REFERENCE / "static-root"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["passed"] is True
    assert found["findings"][0] == {
        "probe": "shape and length",
        "passed": True,
        "detail": "32 numbers, unit length",
    }


def test_report(minilm):
    found = report(list(examine(minilm)), minilm)
    assert found["passed"] is True
    assert found["fingerprint"] == minilm.fingerprint


@pytest.mark.parametrize("command", [["doctor"], ["bench", "--seconds", "0.01"]], ids=lambda command: command[0])
def test_their_own_long_texts_are_no_warning(command, caplog, capsys):
    main([command[0], str(PROMPTS), *command[1:]])  # some probes fail: the model is random
    assert not caplog.records
    with Embedder.load(PROMPTS) as embedder:  # another one is told
        embedder.encode(["long " * 100])
    assert [record.getMessage() for record in caplog.records if "are cut there" in record.getMessage()]
