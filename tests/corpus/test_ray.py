"""Ray actors give the vectors of one process; needs the extra [ray]."""

import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from akidb_mlx import Embedder, EmbedderConfig
from akidb_mlx.errors import ConfigError, InputError, ModelNotFoundError
from support.checkpoints import PROMPTS, REFERENCE
from support.comparison import assert_close

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
ray = pytest.importorskip("ray", reason="the extra [ray] is not installed")
pytest.importorskip("ray.data")

from akidb_mlx import ray as akidb_ray  # noqa: E402
from akidb_mlx.cli import main  # noqa: E402
from akidb_mlx.ray import RayEmbedder, RayEncoder, actor_options, embed_dataset  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]  # Ray's own warnings are not ours

TINY = str(PROMPTS)
ROWS = [{"key": i, "body": f"row {i} of many"} for i in range(3000)]


@pytest.fixture(scope="module")
def config():
    return EmbedderConfig(model=TINY)


@pytest.fixture(scope="module")
def expected(config):
    with Embedder.load(config) as embedder:
        return embedder.encode_document([row["body"] for row in ROWS])


@pytest.fixture(scope="module")
def cluster():
    with_core = str(Path(akidb_ray.__file__).parents[1])
    ray.init(
        num_cpus=3,
        log_to_driver=False,
        logging_level="ERROR",
        include_dashboard=False,
        runtime_env={"env_vars": {"PYTHONPATH": with_core}},
    )
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield ray
    ray.shutdown()


def matrix(column):
    column = column.combine_chunks()
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)


def by_key(table):
    table = table.sort_by("key")
    assert table["key"].to_pylist() == [row["key"] for row in ROWS]
    return matrix(table["embedding"])


# the class by itself


def test_a_batch_keeps_its_columns_and_gets_its_vectors(config, expected):
    embedder = RayEmbedder(config, text_column="body")
    table = embedder(pa.Table.from_pylist(ROWS[:20]))
    assert table.column_names == ["key", "body", "embedding"]
    assert table["embedding"].type == pa.list_(pa.float32(), 16)
    assert_close(matrix(table["embedding"]), expected[:20], tolerance=3e-6)
    arrays = embedder({"key": np.arange(20), "body": np.array([row["body"] for row in ROWS[:20]], object)})
    assert_close(arrays["embedding"], expected[:20], tolerance=3e-6)
    assert embedder({"key": np.array([]), "body": np.array([], object)})["embedding"].shape == (0, 16)
    with pytest.raises(InputError, match="no column 'body'; the dataset has title"):
        embedder({"title": np.array(["x"], object)})
    with pytest.raises(InputError, match="a column 'embedding' already"):
        embedder(table)
    with pytest.raises(TypeError, match="batch_format"):
        embedder([1])


def test_a_bad_row_is_an_error_or_told_in_a_column(config):
    strict = config.with_changes(on_overlong="error")
    batch = {"body": np.array(["good", None, "long " * 60], object)}
    with pytest.raises(InputError, match=r"row 1 of a batch.*no text.*set error_column"):
        RayEmbedder(strict, "body")(batch)
    told = RayEmbedder(strict, "body", error_column="why")
    arrays = told(batch)
    assert list(np.isnan(arrays["embedding"]).any(axis=1)) == [False, True, True]
    assert arrays["why"][:2].tolist() == [None, "no text"]
    assert "more than 48 tokens" in arrays["why"][2]
    table = told(pa.table({"body": ["good", None]}))
    assert table["embedding"].null_count == 1
    assert table["why"].to_pylist() == [None, "no text"]


def test_only_the_configuration_travels(config):
    assert len(pickle.dumps({"config": config})) < 10_000


# on a cluster


def test_two_actors_equal_one_process_by_id(cluster, config, expected, tmp_path):
    ds = embed_dataset(ray.data.from_items(ROWS), config, text_column="body", actors=2, batch_size=128)
    ds.write_parquet(str(tmp_path))
    table = pyarrow.dataset.dataset(tmp_path).to_table()
    assert table.schema.field("embedding").type.list_size == 16  # plain Parquet, without Ray's own types
    assert_close(by_key(table), expected, tolerance=3e-6)


def test_map_batches_takes_the_class(cluster, config, expected):
    ds = ray.data.from_items(ROWS).map_batches(
        RayEmbedder,
        fn_constructor_kwargs={"config": config, "text_column": "body"},
        compute=ray.data.ActorPoolStrategy(size=1),
        batch_size=500,
    )
    rows = sorted(ds.take_all(), key=lambda row: row["key"])
    assert_close([row["embedding"] for row in rows], expected, tolerance=3e-6)


def test_actors_load_once(cluster, config):
    """As many loads as actors, however many batches."""

    class Counting(RayEmbedder):
        def __call__(self, batch):
            batch = super().__call__(batch)
            names = [f"{os.getpid()}:{id(self._embedder)}"] * len(batch)
            return batch.append_column("who", pa.array(names))

    ds = ray.data.from_items(ROWS).map_batches(
        Counting,
        fn_constructor_kwargs={"config": config, "text_column": "body"},
        batch_format="pyarrow",
        batch_size=100,
        compute=ray.data.ActorPoolStrategy(size=2),
    )
    assert len({row["who"] for row in ds.select_columns("who").take_all()}) <= 2


def test_the_model_is_looked_for_before_any_actor_starts(cluster):
    with pytest.raises(ModelNotFoundError):
        embed_dataset(ray.data.from_items(ROWS), EmbedderConfig(model="package:no_such_package"))


def test_actors_share_the_cores_and_leave_one(cluster, config, monkeypatch):
    actors, options = actor_options(config, 2)
    assert (actors, options["num_cpus"]) == (2, 1.0)
    assert options["runtime_env"]["env_vars"] == {"OPENBLAS_NUM_THREADS": "1"}
    assert actor_options(config)[0] == 1
    with pytest.raises(ConfigError, match="at least one"):
        actor_options(config, 0)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 16, "GPU": 4})
    assert actor_options(config) == (4, {"num_gpus": 1})
    with pytest.raises(ConfigError, match="one actor per device"):
        actor_options(config, 5)
    assert "num_cpus" in actor_options(config.with_changes(device="cpu"), 5)[1]


def test_the_encoder_gives_rows_in_order_and_tells_bad_ones(cluster, config, expected):
    with RayEncoder(config.with_changes(on_overlong="error"), actors=2) as encoder:
        assert (encoder.dimension, encoder.fingerprint) == (16, Embedder.load(config).fingerprint)
        told = {}
        texts = [row["body"] if row["key"] % 100 else "long " * 60 for row in ROWS]
        rows = np.concatenate(list(encoder.encode_stream(iter(texts), 64, on_error=told.__setitem__)))
        assert sorted(told) == list(range(0, 3000, 100))
        good = [i for i in range(3000) if i % 100]
        assert_close(rows[good], expected[good], tolerance=3e-6)
        assert encoder.stats()["tokens"] > 3000
        with pytest.raises(InputError, match="more than 48 tokens"):
            list(encoder.encode_stream(texts, 64))


def test_an_actor_that_dies_is_replaced(cluster, config, expected):
    with RayEncoder(config, actors=2) as encoder:
        stream = encoder.encode_stream([row["body"] for row in ROWS], 100)
        rows = [next(stream)]
        ray.kill(encoder._actors[0], no_restart=False)
        assert_close(np.concatenate([*rows, *stream]), expected, tolerance=3e-6)


def test_embed_engine_ray_equals_the_local_engine(cluster, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    lines = [json.dumps(row) if row["key"] % 50 else "{torn" for row in ROWS]
    Path("in.jsonl").write_text("\n".join(lines))
    for engine in ("local", "ray"):
        more = ["--engine", engine, "--actors", "2", "--no-progress", "--model", TINY]
        command = ["embed", "in.jsonl", "--text-column", "body", "--id-column", "key", "--to", f"{engine}.parquet"]
        assert main([*command, *more]) == 0
    local, remote = (pq.read_table(f"{engine}.parquet") for engine in ("local", "ray"))
    assert local.drop_columns("embedding").equals(remote.drop_columns("embedding"))
    assert_close(matrix(remote["embedding"]), matrix(local["embedding"]), tolerance=3e-6)
    assert Path("local.parquet.rejects.jsonl").read_bytes() == Path("ray.parquet.rejects.jsonl").read_bytes()
    again = [
        "embed",
        "in.jsonl",
        "--text-column",
        "body",
        "--id-column",
        "key",
        "--to",
        "local.parquet",
        "--model",
        TINY,
    ]
    assert main([*again, "--engine", "ray"]) == 0  # one engine goes on with what the other made
    assert "nothing to do" in capsys.readouterr().out


def test_llama_index_ray_transform_component(cluster, config, expected):
    transform = pytest.importorskip(
        "llama_index.ingestion.ray.transform", reason="llama-index-ingestion-ray is missing"
    )
    from llama_index.core.schema import TextNode
    from llama_index.ingestion.ray.utils import ray_deserialize_node_batch, ray_serialize_node_batch

    from llama_index_akidb_mlx import AkiDBMLXEmbedding

    component = transform.RayTransformComponent(
        AkiDBMLXEmbedding,
        transform_kwargs={"model_name": TINY},
        map_batches_kwargs={"compute": ray.data.ActorPoolStrategy(size=2), "batch_size": 256},
    )
    nodes = [TextNode(id_=str(row["key"]), text=row["body"]) for row in ROWS[:1000]]
    ds = component(ray.data.from_arrow(ray_serialize_node_batch(nodes)))
    embedded = [node for batch in ds.iter_batches(batch_format="pyarrow") for node in ray_deserialize_node_batch(batch)]
    rows = {node.id_: node.embedding for node in embedded}
    assert_close([rows[str(i)] for i in range(1000)], expected[:1000], tolerance=3e-6)


@pytest.mark.parametrize("kind", ["sparse", "multi", "hybrid"])
def test_other_kinds_of_rows(cluster, tmp_path, kind):
    """Rows of a batch, with a text that has none; then what the encoder behind the command gives."""
    from akidb_mlx.config.multi_vector_config import MultiVectorConfig
    from akidb_mlx.config.sparse_config import SparseConfig
    from akidb_mlx.corpus import load_encoder, read_output

    folder = {"sparse": REFERENCE / "sparse" / "bert-max", "multi": REFERENCE / "multi_vector" / "pylate"}.get(kind)
    if folder is None:
        folder = shutil.copytree(REFERENCE / "xlm-roberta-cls", tmp_path / "m3")
        for name in ("sparse_linear", "colbert_linear"):
            shutil.copy(REFERENCE / "hybrid" / f"{name}.safetensors", folder)
    config = {"sparse": SparseConfig, "multi": MultiVectorConfig}.get(kind, EmbedderConfig)(model=folder)
    texts = ["river stone", "a lantern", "copper"]
    with load_encoder(config, kind) as encoder:
        expected = encoder.encode_document(texts)
        width = encoder.dimension
    table = pa.table({"id": [1, 2, 3, 4], "text": [texts[0], None, *texts[1:]]})
    batch = RayEmbedder(config, error_column="error", kind=kind)(table)
    assert batch["error"].to_pylist() == [None, "no text", None, None]
    pq.write_table(batch, tmp_path / "batch.parquet")
    (ids, rows, _) = next(read_output(tmp_path / "batch.parquet"))
    assert (ids, len(rows)) == ([1, 2, 3, 4], 4)
    parts = {"sparse": [rows], "multi": [rows]}.get(kind) or [rows.sparse, rows.multi]
    wanted = {"sparse": [expected], "multi": [expected]}.get(kind) or [expected.sparse, expected.multi]
    for part, want in zip(parts, wanted, strict=True):
        assert len(part[1][0] if isinstance(part[1], tuple) else part[1]) == 0
        for place, row in zip((0, 2, 3), want, strict=True):
            for a, b in zip(part[place], row, strict=True):
                assert_close(a, b, tolerance=3e-6)
    with RayEncoder(config, actors=1, kind=kind) as remote:
        assert remote.dimension == width
        (chunk,) = remote.encode_stream(texts, side="document")
        assert len(chunk) == 3
