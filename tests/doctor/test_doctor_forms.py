"""`info`, `doctor` and `bench` of sparse, multi-vector and hybrid models."""

import json
import shutil

import numpy as np
import pytest

from akidb_mlx import HybridEmbedder, MultiVectorEmbedder, SparseEmbedder
from akidb_mlx.cli import main
from akidb_mlx.doctor import examine_hybrid, examine_multi_vector, examine_sparse
from akidb_mlx.sparse_rows import SparseRows
from support.checkpoints import REFERENCE

SPARSE, MULTI = REFERENCE / "sparse" / "bert-max", REFERENCE / "multi_vector" / "fixed"
# Of random weights nobody expects sense; the vocabulary of these has 200 words, so that rows are half full.
SENSE = {"answer above other", "similar above different", "entries"}


@pytest.fixture(scope="module")
def m3(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hybrid") / "m3"
    shutil.copytree(REFERENCE / "xlm-roberta-cls", folder)
    for name in ("sparse_linear", "colbert_linear"):
        shutil.copy(REFERENCE / "hybrid" / f"{name}.safetensors", folder)
    return folder


def outcomes(findings):
    found = {finding.probe: (finding.passed, finding.detail) for finding in findings}
    return {probe: one for probe, one in found.items() if probe.rpartition(": ")[2] not in SENSE}


def test_what_is_right_passes(m3):
    with (
        SparseEmbedder.load(SPARSE) as sparse,
        MultiVectorEmbedder.load(MULTI) as multi,
        HybridEmbedder.load(m3) as both,
    ):
        for findings in (examine_sparse(sparse), examine_multi_vector(multi), examine_hybrid(both)):
            for probe, (passed, detail) in outcomes(findings).items():
                assert passed is not False, (probe, detail)


@pytest.mark.parametrize(
    ("change", "probe", "told"),
    [
        (lambda values: -values, "entries", "none should be negative"),
        (lambda values: values * np.nan, "entries", "not all values are finite"),
        (lambda values: values * 0 + 1, "entries", "no sparse rows"),
        (lambda values: values + np.random.default_rng().random(values.shape), "batch = single", "they differ by"),
    ],
)
def test_wrong_sparse_rows_are_found(monkeypatch, change, probe, told):
    with SparseEmbedder.load(SPARSE) as sparse:
        right = SparseEmbedder.encode_document

        def wrong(self, texts, **options):
            rows = right(self, texts, **options)
            return SparseRows(rows.indptr, rows.indices, change(rows.values).astype(np.float32), rows.dimension)

        monkeypatch.setattr(SparseEmbedder, "encode_document", wrong)
        found = {finding.probe: finding for finding in examine_sparse(sparse)}[probe]
    assert found.passed is False
    assert told in found.detail


def test_wrong_token_vectors_are_found(monkeypatch):
    with MultiVectorEmbedder.load(MULTI) as multi:
        right = MultiVectorEmbedder.tokens
        monkeypatch.setattr(
            MultiVectorEmbedder, "tokens", lambda *args, **more: [one[1:] for one in right(*args, **more)]
        )
        found = {finding.probe: finding for finding in examine_multi_vector(multi)}["tokens counted"]
    assert found.passed is False
    assert "vectors for" in found.detail


def test_each_command_knows_the_kind(capsys, m3):
    for model, kind, dimension in ((SPARSE, "sparse", 200), (MULTI, "multi_vector", 8)):
        assert main(["info", str(model), "--json"]) == 0
        facts = json.loads(capsys.readouterr().out)
        assert (facts["kind"], facts["dimension"], facts["refused"]) == (kind, dimension, None)
        main(["doctor", str(model), "--json"])
        report = json.loads(capsys.readouterr().out)
        assert report["fingerprint"] == facts["fingerprint"]
        assert main(["bench", str(model), "--json", "--seconds", "0.01"]) == 0
        assert json.loads(capsys.readouterr().out)["dimension"] == dimension
    assert main(["info", str(m3), "--kind", "hybrid", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    with HybridEmbedder.load(m3) as hybrid:
        assert facts["fingerprint"] == hybrid.fingerprint
    assert facts["multi_vector"]["dimension"] == 24


def test_an_option_of_another_kind_is_refused(capsys):
    for model, option, value, told in (
        (SPARSE, "--token-pooling", "2", "--token-pooling is for multi-vector models"),
        (SPARSE, "--truncate-dim", "8", "--truncate-dim is for embedders"),
        (MULTI, "--max-active-dims", "8", "--max-active-dims is for sparse encoders"),
        (MULTI, "--activation", "identity", "--activation is for rerankers"),
    ):
        assert main(["info", str(model), option, value]) != 0
        assert told in capsys.readouterr().err
