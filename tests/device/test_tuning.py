"""Ways to compute that are off by default: the reference's rows with each, and off unless they are named."""

import mlx.core as mx
import numpy as np
import pytest

from akidb_mlx import Embedder
from akidb_mlx.bench import compare
from akidb_mlx.cli import main
from akidb_mlx.config.embedder_config import EmbedderConfig
from akidb_mlx.device import choice, tuning
from akidb_mlx.device.memory import Taken
from akidb_mlx.errors import ConfigError
from akidb_mlx.model.layers import attention
from support.checkpoints import PROMPTS, read_case
from support.comparison import assert_close


@pytest.fixture
def turned_on(monkeypatch):
    """Some ways on, computed as on a GPU; the sizes of heads that MLX's attention sees, and rope's shapes."""
    seen = {"heads": [], "turned": []}
    fused, rope = mx.fast.scaled_dot_product_attention, mx.fast.rope

    def attend(queries, *args, **kwargs):
        seen["heads"].append(queries.shape[-1])
        return fused(queries, *args, **kwargs)

    def turn(x, *args, **kwargs):
        seen["turned"].append(x.shape[1])
        return rope(x, *args, **kwargs)

    def make(*names):
        monkeypatch.setattr(tuning, "_on", lambda: frozenset(names))
        monkeypatch.setattr(attention.cpu_kernels, "computes_on_cpu", lambda _: False)
        monkeypatch.setattr(mx.fast, "scaled_dot_product_attention", attend)
        monkeypatch.setattr(mx.fast, "rope", turn)
        return seen

    return make


def rows_of(name):
    folder, facts, reference = read_case(name)
    with Embedder.load(folder, dtype="float32") as embedder:
        assert_close(embedder.encode(facts["texts"]), reference["embeddings"], 1e-5)  # as the parity suite


@pytest.mark.parametrize("name", ["eurobert-mean", "modernbert-cls", "gte-base-en", "nomic-transformers-5"])
def test_padded_heads_give_the_references_rows(turned_on, name):
    seen = turned_on("pad_heads")
    rows_of(name)
    assert set(seen["heads"]) == {64}


def test_heads_of_64_are_left_alone(turned_on, monkeypatch):
    seen = turned_on("pad_heads")
    shape = (2, 3, 5, 64)
    attention.attend(mx.ones(shape), mx.ones(shape), mx.ones(shape), None, 0.1)
    padded = []
    monkeypatch.setattr(mx, "pad", lambda *args: padded.append(args))
    attention.attend(mx.ones(shape), mx.ones(shape), mx.ones(shape), None, 0.1)
    assert seen["heads"] == [64, 64]
    assert not padded


@pytest.mark.parametrize("name", ["modernbert-cls", "gte-base-en", "nomic-transformers-5", "eurobert-mean"])
def test_queries_and_keys_turned_together_give_the_references_rows(turned_on, name):
    seen = turned_on("joint_rope")
    rows_of(name)
    together = list(seen["turned"])
    seen["turned"].clear()
    turned_on()
    rows_of(name)
    assert len(together) < len(seen["turned"])
    assert max(together) > max(seen["turned"])


def test_weights_are_told_to_macos_only_where_it_is_on(monkeypatch):
    told = []
    monkeypatch.setattr(mx, "set_wired_limit", told.append)
    monkeypatch.setattr(mx, "device_info", lambda *_: {"max_recommended_working_set_size": 1000})
    taken = Taken()  # not what other tests' models take
    monkeypatch.setattr(choice, "_taken", lambda _: taken)
    for on in (False, True):
        monkeypatch.setattr(tuning, "_on", lambda on=on: frozenset(["resident"] if on else []))
        choice._memory.cache_clear()
        memory = choice._memory("metal", None)
        memory.hold(700)
        memory.hold(500)
        memory.let_go(500)
        memory.let_go(700)
    choice._memory.cache_clear()
    assert told == [700, 1000, 700, 0]


def test_a_name_that_is_none_is_refused(monkeypatch, capsys):
    tuning._on.cache_clear()
    monkeypatch.setenv(tuning.VARIABLE, "pad_heads, nonsense")
    with pytest.raises(ConfigError, match=r"AKIDB_TUNING names nonsense; it may name pad_heads, joint_rope, "):
        tuning.is_on("pad_heads")
    monkeypatch.setenv(tuning.VARIABLE, "pad_heads,")
    assert tuning.is_on("pad_heads")
    assert not tuning.is_on("joint_rope")
    tuning._on.cache_clear()
    assert main(["bench", str(PROMPTS), "--compare", "nonsense"]) == 2
    assert "there is no 'nonsense' to compare" in capsys.readouterr().err


@pytest.mark.slow
def test_bench_shows_a_way_beside_the_plain_one(monkeypatch):
    monkeypatch.delenv(tuning.VARIABLE, raising=False)
    (one,) = compare(EmbedderConfig(model=str(PROMPTS)), ["pad_heads"], 0.1)
    for median, least, most in (one.tokens_per_s, one.query_ms, one.query_after_a_pause_ms):
        assert 0 < least <= median <= most
    assert one.largest_difference < 1e-5
    assert np.isfinite(one.largest_difference)
