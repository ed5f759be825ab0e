"""Sparse rows, vectors of tokens, and all three forms: written, read again, interrupted, refused."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from akidb_mlx import Embedder, HybridEmbedder, MultiVectorEmbedder, SparseEmbedder
from akidb_mlx.cli import main
from akidb_mlx.corpus import embed_corpus, embedding, open_vectors, read_corpus, read_output, read_recipe
from akidb_mlx.corpus.parts import Parts
from akidb_mlx.errors import ConfigError
from akidb_mlx.multi_vectors import MultiVectors
from akidb_mlx.sparse_rows import SparseRows
from support.checkpoints import REFERENCE
from support.comparison import assert_close

SPARSE, MULTI = REFERENCE / "sparse" / "bert-max", REFERENCE / "multi_vector" / "pylate"
TEXTS = [f"{'river stone ' * (i % 4)}lantern {i}" for i in range(60)]
KINDS = ("sparse", "multi", "hybrid")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A checkpoint of each kind."""
    hybrid = tmp_path_factory.mktemp("hybrid") / "m3"
    shutil.copytree(REFERENCE / "xlm-roberta-cls", hybrid)
    for name in ("sparse_linear", "colbert_linear"):
        shutil.copy(REFERENCE / "hybrid" / f"{name}.safetensors", hybrid)
    return {"sparse": SPARSE, "multi": MULTI, "hybrid": hybrid}


@pytest.fixture(scope="module", params=KINDS)
def encoder(request, folders):
    face = {"sparse": SparseEmbedder, "multi": MultiVectorEmbedder, "hybrid": HybridEmbedder}[request.param]
    with face.load(folders[request.param]) as loaded:
        yield loaded


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "in.jsonl"
    rows = [{"id": i, "text": text, "n": i} for i, text in enumerate(TEXTS)] + [{"id": 99, "text": None}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def kind_of(encoder):
    return {"SparseEmbedder": "sparse", "MultiVectorEmbedder": "multi"}.get(type(encoder).__name__, "hybrid")


def assert_sparse(rows, expected, tolerance=3e-6):
    assert rows.dimension == expected.dimension
    assert len(rows) == len(expected)
    assert_close(rows.to_dense(), expected.to_dense(), tolerance)


def assert_multi(rows, expected, tolerance=3e-6):
    assert rows.offsets.tolist() == expected.offsets.tolist()
    assert_close(rows.vectors.astype(np.float32), expected.vectors, tolerance)


def assert_rows(rows, expected, tolerance=3e-6):
    if isinstance(expected, SparseRows):
        assert_sparse(rows, expected, tolerance)
    elif isinstance(expected, MultiVectors):
        assert_multi(rows, expected, tolerance)
    else:
        assert_close(rows.dense, expected.dense, tolerance)
        assert_sparse(rows.sparse, expected.sparse, tolerance)
        assert_multi(rows.multi, expected.multi, tolerance)


def read(output):
    """Ids and rows of a Parquet output, whose batches are put together."""
    batches = list(read_output(output, batch_size=1000))
    assert len(batches) == 1
    return batches[0][0], batches[0][1]


def test_parquet_has_what_encode_document_gives(encoder, tmp_path, source):
    kind = kind_of(encoder)
    summary = embed_corpus([source], tmp_path / "out.parquet", encoder)
    assert (summary.rows, summary.rejected) == (len(TEXTS), 1)
    size = (tmp_path / "out.parquet").stat().st_size
    assert summary.bytes == size
    assert f"({size / len(TEXTS):,.0f} bytes per row)" in str(summary)
    ids, rows = read(tmp_path / "out.parquet")
    assert ids == list(range(len(TEXTS)))
    assert_rows(rows, encoder.encode_document(TEXTS))
    schema = pq.read_schema(tmp_path / "out.parquet")
    own = {"sparse": ["sparse"], "multi": ["vectors"], "hybrid": ["embedding", "sparse", "vectors"]}[kind]
    assert schema.names == ["id", *own, "text", "n"]
    if "sparse" in own:
        lists = pa.struct({"indices": pa.list_(pa.int32()), "values": pa.list_(pa.float32())})
        assert schema.field("sparse").type == lists
    if "vectors" in own:
        assert pa.types.is_fixed_size_list(schema.field("vectors").type.value_type)
    recipe = read_recipe(tmp_path / "out.parquet")
    assert recipe["kind"] == kind
    assert recipe["fingerprint"] == encoder.fingerprint
    assert "backend" not in json.dumps(recipe)
    assert embed_corpus([source], tmp_path / "out.parquet", encoder).finished_before


def test_json_lines_have_the_same_numbers(encoder, tmp_path, source):
    embed_corpus([source], tmp_path / "out.jsonl", encoder)
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    expected = encoder.encode_document(TEXTS)
    sparse = expected if isinstance(expected, SparseRows) else getattr(expected, "sparse", None)
    multi = expected if isinstance(expected, MultiVectors) else getattr(expected, "multi", None)
    assert [row["n"] for row in rows] == list(range(len(TEXTS)))
    if sparse is not None:
        pairs = [
            (np.array(r["sparse"]["indices"], np.int32), np.array(r["sparse"]["values"], np.float32)) for r in rows
        ]
        assert_sparse(SparseRows.of(pairs, sparse.dimension), sparse)
    if multi is not None:
        assert_multi(MultiVectors.of([np.array(row["vectors"], np.float32) for row in rows], multi.dimension), multi)


def test_float16_halves_the_vectors_of_tokens(encoder, tmp_path, source):
    if kind_of(encoder) == "sparse":
        with pytest.raises(ConfigError, match="of kind sparse it may be float32"):
            embed_corpus([source], tmp_path / "out.parquet", encoder, output_dtype="float16")
        return
    embed_corpus([source], tmp_path / "out.parquet", encoder, output_dtype="float16")
    _, rows = read(tmp_path / "out.parquet")
    assert (rows if isinstance(rows, MultiVectors) else rows.multi).vectors.dtype == np.float16
    assert_rows(rows, encoder.encode_document(TEXTS), 1e-3)
    with pytest.raises(ConfigError, match="it may be float32, float16"):
        embed_corpus([source], tmp_path / "int8.parquet", encoder, output_dtype="int8")


def test_one_array_and_its_offsets_are_mapped_into_memory(folders, tmp_path, source, monkeypatch):
    monkeypatch.setattr("akidb_mlx.corpus.writers._group", lambda parts, form: 7)
    with MultiVectorEmbedder.load(folders["multi"]) as encoder:
        for dtype in ("float32", "float16"):
            out = tmp_path / f"{dtype}.npy"
            summary = embed_corpus([source], out, encoder, output_dtype=dtype)
            multi = open_vectors(out)
            assert isinstance(multi.vectors, np.memmap)
            assert multi.vectors.dtype == dtype
            assert_multi(multi, encoder.encode_document(TEXTS), 1e-3 if dtype == "float16" else 3e-6)
            files = [out, *(tmp_path / f"{out.name}.{name}" for name in ("offsets.npy", "rows.jsonl", "meta.json"))]
            assert summary.bytes == sum(file.stat().st_size for file in files)
            assert embed_corpus([source], out, encoder, output_dtype=dtype).finished_before
        (tmp_path / "empty.jsonl").write_text("")
        embed_corpus([tmp_path / "empty.jsonl"], tmp_path / "empty.npy", encoder)
        assert len(open_vectors(tmp_path / "empty.npy")) == 0


def test_a_run_goes_on_where_it_was(encoder, tmp_path, source, monkeypatch):
    embed_corpus([source], tmp_path / "whole.parquet", encoder)
    monkeypatch.setattr(embedding, "_PART_BYTES", 60_000)
    real = Parts.add

    def interrupted(parts, *args):
        real(parts, *args)
        if len(parts.facts) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Parts, "add", interrupted)
    with pytest.raises(KeyboardInterrupt):
        embed_corpus([source], tmp_path / "out.parquet", encoder)
    monkeypatch.setattr(Parts, "add", real)
    assert embed_corpus([source], tmp_path / "out.parquet", encoder).resumed > 0
    assert_rows(read(tmp_path / "out.parquet")[1], read(tmp_path / "whole.parquet")[1])
    tables = [pq.read_table(tmp_path / name).select(["id", "text", "n"]) for name in ("out.parquet", "whole.parquet")]
    assert tables[0].equals(tables[1])


def test_columns_named_as_other_kinds_rows_are_kept_as_they_are(folders, tmp_path):
    (tmp_path / "in.jsonl").write_text('{"text": "a", "embedding": [1], "vectors": "x"}\n')
    with SparseEmbedder.load(folders["sparse"]) as encoder:
        embed_corpus([tmp_path / "in.jsonl"], tmp_path / "out.parquet", encoder)
        ((_, rows, records),) = read_output(tmp_path / "out.parquet")
        assert_sparse(rows, encoder.encode_document(["a"]))
    assert records == [{"text": "a", "embedding": [1], "vectors": "x"}]


def test_a_text_that_is_refused_is_a_reject(folders, tmp_path, source):
    for kind, face in (("sparse", SparseEmbedder), ("multi", MultiVectorEmbedder), ("hybrid", HybridEmbedder)):
        rows = [{"text": "short"}, {"text": "word " * 3000}, {"text": "end"}]
        source.write_text("".join(json.dumps(row) + "\n" for row in rows))
        with face.load(folders[kind], on_overlong="error") as strict:
            summary = embed_corpus([source], tmp_path / f"{kind}.parquet", strict)
        assert (summary.rows, summary.rejected) == (2, 1)


def test_what_does_not_fit_is_refused_with_words(folders, tmp_path, source, tiny):
    for kind, said in (("sparse", "rows of kind sparse"), ("hybrid", "rows of kind hybrid")):
        with pytest.raises(ConfigError, match=said):
            read_corpus([source], tmp_path / "out.npy", kind=kind)
    with pytest.raises(ConfigError, match="embedding_column is for dense vectors"):
        read_corpus([source], tmp_path / "out.parquet", kind="multi", embedding_column="n")
    with pytest.raises(ConfigError, match="kind is 'late'"):
        read_corpus([source], tmp_path / "out.parquet", kind="late")
    with pytest.raises(ConfigError, match="of kind sparse, but the encoder is of kind dense"):
        embed_corpus([source], tmp_path / "out.parquet", tiny, kind="sparse")
    with Embedder.load(folders["hybrid"]) as dense, HybridEmbedder.load(folders["hybrid"]) as hybrid:
        embed_corpus([source], tmp_path / "out.parquet", dense)
        with pytest.raises(ConfigError, match="it holds embeddings, not rows of three forms"):
            embed_corpus([source], tmp_path / "out.parquet", hybrid)


@pytest.mark.parametrize("kind", KINDS)
def test_the_command(folders, tmp_path, source, capsys, kind):
    out = tmp_path / "out.parquet"
    command = ["embed", str(source), "--to", str(out), "--no-progress", "--kind", kind, "--model", str(folders[kind])]
    assert main(command) == 0
    assert "bytes per row" in capsys.readouterr().out
    assert read_recipe(out)["kind"] == kind
    wrong = ["embed", str(source), "--to", str(tmp_path / "no.parquet"), "--kind", kind, "--model"]
    assert main([*wrong, str(REFERENCE / "bert-mean")]) == 2
    assert str(REFERENCE / "bert-mean") in capsys.readouterr().err
    if kind != "sparse":
        assert main([*wrong, str(folders[kind]), "--max-active-dims", "3"]) == 2
        assert f"--max-active-dims is for --kind sparse, not {kind}" in capsys.readouterr().err
