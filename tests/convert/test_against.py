"""Two models compared: by hand-made numbers, with themselves, and on the command line."""

import json

import numpy as np
import pytest

from akidb_mlx import Embedder, Reranker
from akidb_mlx.cli import main
from akidb_mlx.convert import convert
from akidb_mlx.doctor import comparison
from akidb_mlx.doctor.comparison import compare
from akidb_mlx.doctor.texts import Texts, docstrings, read_docstrings, read_texts
from akidb_mlx.errors import ConfigError, InputError
from support.checkpoints import REFERENCE

FOLDER = REFERENCE / "heads-64-bert"
LINES = [f"{word} {other}" for word in ("red", "green", "blue", "grey") for other in ("cat", "dog", "sea", "sky")]


@pytest.fixture
def lines(tmp_path):
    file = tmp_path / "texts.txt"
    file.write_text("\n".join([*LINES, "", LINES[0]]), encoding="utf-8")
    return file


def run(capsys, *arguments):
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as ended:
        code = ended.code
    out, err = capsys.readouterr()
    return code, out, err


# ── numbers by hand ──────────────────────────────────────────────────────────────────────────────────


def test_what_is_kept_of_the_ten_nearest():
    scores = np.array([np.arange(12.0), np.arange(12.0)], np.float32)
    others = scores.copy()
    others[1, [0, 11]] = 11, 0  # the nearest has become the farthest
    assert comparison._kept(scores, scores, same=False) == 1
    assert comparison._kept(scores, others, same=False) == pytest.approx((10 + 9) / 20)


def test_a_text_does_not_find_itself():
    """Twelve texts: each has eleven others, of which ten count; for the first, one of them is another."""
    scores = np.eye(12, dtype=np.float32) * 9 - np.arange(12, dtype=np.float32)
    others = scores.copy()
    others[0, 11] = 8
    assert comparison._kept(scores, others, same=True) == pytest.approx((11 * 10 + 9) / 120)


def test_cosines_of_rows():
    rows = np.array([[1, 0], [3, 4], [0, 0], [1, 1]], np.float32)
    others = np.array([[0, 2], [3, 4], [0, 0], [0, 0]], np.float32)
    assert comparison._cosines(rows, others) == pytest.approx([0, 1, 1, 0])
    assert comparison._cosines(rows, others[:2]) is None
    assert comparison._cosines(None, None) is None


# ── the texts ────────────────────────────────────────────────────────────────────────────────────────


def test_the_texts_that_ship():
    texts = read_docstrings(50)
    assert len(texts.queries) == len(texts.documents) == 50 and not texts.same and texts.ours
    assert len(docstrings()) > 300 and all(map(str.strip, texts.documents))


def test_texts_of_the_user(lines):
    texts = read_texts(lines)
    assert texts == Texts("texts.txt", LINES, LINES) and texts.same


def test_texts_that_cannot_be(tmp_path):
    (tmp_path / "few.txt").write_text("one\ntwo\none")
    with pytest.raises(InputError, match=r"few\.txt has 2 different lines; .* 12 at least"):
        read_texts(tmp_path / "few.txt")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    for name in ("bytes", "nothing"):
        with pytest.raises(InputError, match="cannot be read as text"):
            read_texts(tmp_path / name)


# ── models ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "name",
    [
        "heads-64-bert",
        pytest.param("sparse/bert-max", marks=pytest.mark.slow),
        pytest.param("multi_vector/two-dense", marks=pytest.mark.slow),
        pytest.param("rerankers/bert", marks=pytest.mark.slow),
    ],
)
def test_a_model_keeps_all_of_itself(capsys, lines, name):
    code, out, _ = run(
        capsys, "doctor", REFERENCE / name, "--against", REFERENCE / name, "--texts", lines, "--json", "--device", "cpu"
    )
    assert code in (0, 1)  # its own probes: the weights are random
    told = {one["probe"]: one["detail"] for one in json.loads(out)["findings"] if one["probe"].startswith("against")}
    assert told["against: recall@10"].startswith("1.000;")
    if name.startswith("rerankers"):
        assert told["against: largest difference of scores"].startswith("0;")
    else:
        assert told["against: least cosine"].startswith("1.0000;")


@pytest.mark.parametrize("ours", [True, False])
def test_what_is_cut_of_its_own_texts_is_not_told(caplog, ours):
    """Both share one loaded model, which tells once; the user's texts are told of."""
    texts = Texts("", LINES, [f"{line} and more " * 40 for line in LINES], ours=ours)
    with Embedder.load(FOLDER) as one, Embedder.load(FOLDER, normalize=False) as other:
        compare(one, other, texts)
        assert one.stats()["truncated_texts"] and other.stats()["truncated_texts"]
    assert caplog.text.count("are cut there") == (0 if ours else 1)


def test_two_kinds_are_not_compared():
    with Embedder.load(FOLDER) as one, Reranker.load(REFERENCE / "rerankers/bert") as other:
        with pytest.raises(ConfigError, match="another kind"):
            compare(one, other, Texts("", LINES, LINES))


def test_convert_ends_with_a_table(capsys, tmp_path, lines):
    out = tmp_path / "packed"
    code, told, err = run(capsys, "convert", FOLDER, out, "--bits", 2, "--group-size", 32, "--texts", lines)
    assert (code, err) == (0, "")
    assert told.startswith(f"{out}: 13 layers in 2 bit affine in groups of 32, mix alike; weights ")
    for word in ("weights in files", "in memory", "texts/s", "recall@10", "least cosine", "(16 queries"):
        assert word in told
    assert "--mix layers8 keep more" in told


def test_convert_in_json(capsys, tmp_path, lines):
    code, told, _ = run(capsys, "convert", FOLDER, tmp_path / "a", "--group-size", 32, "--texts", lines, "--json")
    said = json.loads(told)
    assert code == 0 and said["packing"] == {"group_size": 32, "bits": 8, "mode": "affine", "mix": "alike"}
    assert 0.99 < said["comparison"]["least_cosine"] <= said["comparison"]["median_cosine"]
    assert said["comparison"]["first"]["weight_bytes"] == said["bytes_before"] > said["bytes_after"]
    code, told, _ = run(capsys, "convert", FOLDER, tmp_path / "b", "--group-size", 32, "--no-compare", "--json")
    assert code == 0 and json.loads(told)["comparison"] is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["convert", FOLDER], "OUT"),
        (["convert", FOLDER, "TMP/a", "--bits", "7"], "MLX packs no 7 bit"),
        (["convert", FOLDER, "TMP", "--bits", "8"], "exists"),
        (["convert", FOLDER, "TMP/a", "--texts", "TMP/none"], "cannot be read"),
        (["doctor", FOLDER, "--texts", "TMP/none"], "--against compares"),
        (["doctor", FOLDER, "--against", REFERENCE / "rerankers/bert", "--texts", "TMP/texts.txt"], "reranker"),
    ],
)
def test_mistakes(capsys, tmp_path, lines, arguments, said):
    code, out, err = run(capsys, *[str(one).replace("TMP", str(tmp_path)) for one in arguments])
    assert code == 2 and said in err and err.count("\n") == 1
    assert out == "" or arguments[0] == "doctor"
    assert sorted(tmp_path.iterdir()) == [lines]


def test_a_packed_model_against_the_whole(tmp_path, lines):
    done = convert(FOLDER, tmp_path / "packed", bits=4, group_size=32)
    with Embedder.load(FOLDER) as whole, Embedder.load(done.path) as packed:
        found = compare(whole, packed, read_texts(lines))
        rows, others = whole.encode(LINES), packed.encode(LINES)
    assert found.least_cosine == pytest.approx(float((rows * others).sum(axis=1).min()), abs=1e-5)
    assert found.recall_at_10 < 1 and found.second.weight_bytes < found.first.weight_bytes
