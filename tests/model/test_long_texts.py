"""Long texts on the CPU: attention and networks in blocks give what all at once gives, in bounded memory."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys

import mlx.core as mx
import numpy as np
import pytest

from akidb_mlx import Embedder
from akidb_mlx.device.memory import Room
from akidb_mlx.errors import InputError
from akidb_mlx.model.layers import cpu_kernels
from akidb_mlx.model.layers.activations import ACTIVATIONS
from akidb_mlx.model.layers.attention import attend
from akidb_mlx.model.layers.masks import LongMask, make_causal_mask, make_mask
from akidb_mlx.model.layers.post_norm import PostNormLayer
from support.checkpoints import CASES, REFERENCE, read_case
from support.comparison import assert_close
from support.device import DEVICE
from support.waiting import PATIENCE_S

LENGTH, CHANNELS = 37, 8
ONE_PER_FAMILY = sorted({read_case(name)[1]["family"]: name for name in CASES}.values())
LONG = 8192
on_cpu = pytest.mark.skipif(sys.platform != "linux", reason="blocks are the CPU build's")


@pytest.fixture
def tiny_blocks(monkeypatch):
    """Blocks of few queries and few tokens, also for short texts."""
    monkeypatch.setattr(cpu_kernels, "LONG", 3)
    monkeypatch.setattr(cpu_kernels, "BLOCK_BYTES", 700)


def exact(queries, keys, values, seen, bias, scale):
    queries, keys, values = (np.array(array, np.float64) for array in (queries, keys, values))
    group = queries.shape[1] // keys.shape[1]
    keys, values = keys.repeat(group, axis=1), values.repeat(group, axis=1)
    scores = np.where(seen, queries @ keys.swapaxes(-1, -2) * scale + bias, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True) @ values


def masks(rng, heads):
    """Name, mask, who sees whom, what is added."""
    real = np.arange(LENGTH) < np.array([LENGTH, 20])[:, None]
    attention_mask = mx.array(real)
    ahead = np.arange(LENGTH) - np.arange(LENGTH)[:, None]
    padding, itself, everything = real[:, None, None, :], ahead == 0, np.ones((LENGTH, LENGTH), bool)
    bias = rng.standard_normal((1, heads, LENGTH, LENGTH)).astype(np.float32)
    return {
        "none": (None, everything, 0),
        "padding": (make_mask(attention_mask, LENGTH), padding, 0),
        "window": (make_mask(None, LENGTH, 5), np.abs(ahead) <= 5, 0),
        "window and padding": (make_mask(attention_mask, LENGTH, 5), (np.abs(ahead) <= 5) & padding | itself, 0),
        "causal": ("causal", ahead <= 0, 0),
        "causal window": (make_causal_mask(LENGTH, 5), (ahead <= 0) & (ahead > -5), 0),
        "bias": (mx.array(bias), everything, bias),
    }


@on_cpu
@pytest.mark.parametrize("kind", ["none", "padding", "window", "window and padding", "causal", "causal window", "bias"])
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_blocks_give_exact_attention(tiny_blocks, kind, kv_heads):
    if kind == "bias" and kv_heads < 4:
        pytest.skip("no model has both")
    rng = np.random.default_rng(0)
    with mx.stream(mx.cpu):
        given = [
            mx.array(rng.standard_normal((2, count, LENGTH, CHANNELS)).astype(np.float32))
            for count in (4, kv_heads, kv_heads)
        ]
        mask, seen, bias = masks(rng, 4)[kind]
        if "window" in kind:
            assert isinstance(mask, LongMask)
        attended = np.array(attend(*given, mask, CHANNELS**-0.5))
    assert_close(attended, exact(*given, seen, bias, CHANNELS**-0.5), 5e-6)


@on_cpu
@pytest.mark.parametrize("length", [256, 512, 4096])
def test_many_tokens_that_count_little_count_right_together(length):
    """As in trained models: one token has much of the attention, the many others some thousandths each."""
    rng = np.random.default_rng(length)
    queries, keys, values = (rng.standard_normal((1, 2, length, 16)).astype(np.float32) for _ in range(3))
    keys[:, :, 0] += 2 * queries.mean(axis=2)
    queries *= 3
    with mx.stream(mx.cpu):
        attended = np.array(attend(*map(mx.array, (queries, keys, values)), None, 0.25))
    assert_close(attended, exact(queries, keys, values, True, 0, 0.25), 2e-6)


@on_cpu
@pytest.mark.parametrize("name", [*ONE_PER_FAMILY, "deberta-v2-convolution", "heads-64-lfm2", "llama-dynamic"])
def test_blocks_give_the_references_vectors(tiny_blocks, name):
    folder, facts, reference = read_case(name)
    with Embedder.load(folder, dtype="float32", device="cpu") as embedder:
        encoders = {"embeddings": embedder.encode, "query": embedder.encode_query, "document": embedder.encode_document}
        for kind in encoders.keys() & reference.keys():
            assert_close(encoders[kind](facts["texts"]), reference[kind], 1e-5)


@on_cpu
@pytest.mark.parametrize("mask", [None, "causal"])
def test_a_layer_keeps_keys_values_and_one_more(request, mask):
    """Beside its input: queries or results, keys, values and a block's arrays; and what MLX keeps for reuse."""
    length, width = 4096, 256
    limit = mx.set_cache_limit(512 << 20)  # all that is freed is kept, and seen
    request.addfinalizer(lambda: mx.set_cache_limit(limit))
    with mx.stream(mx.cpu):
        layer = PostNormLayer(width, 4, 2 * width, ACTIVATIONS["gelu"], 1e-12)
        x = mx.random.normal((1, length, width))
        mx.eval(layer.parameters(), x)
        mx.clear_cache()
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        mx.eval(layer(x, mask))
        peak, freed = mx.get_peak_memory() - before, mx.get_cache_memory()
    assert peak <= 3 * x.nbytes + 4 * cpu_kernels.BLOCK_BYTES + 2_000_000
    assert freed <= 45_000_000


CHILD = """
import json, resource, sys
import numpy as np
from akidb_mlx import Embedder
from akidb_mlx.errors import InputError
more = int(sys.argv[2])
with Embedder.load(sys.argv[1], max_seq_length=8_192, max_queued_tokens=100_000, device="cpu") as embedder:
    short = embedder.encode(["a short text"])
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + more, used + more))
    text = "a " * 10_000
    found = {"tokens": embedder.count_tokens([text])[0]}
    try:
        found["finite"] = bool(np.isfinite(embedder.encode([text])).all())
    except InputError as error:
        found["error"] = str(error)
    found["as_before"] = float(np.abs(embedder.encode(["a short text"]) - short).max())
    print(json.dumps(found))
"""


def embed_long_text(folder, more):
    """What becomes of 8,192 tokens where the address space may grow by `more` bytes."""
    done = subprocess.run([sys.executable, "-c", CHILD, str(folder), str(more)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module", params=["heads-64-modernbert", "heads-128-qwen3", "heads-64-deberta-v2"])
def long_checkpoint(tmp_path_factory, request):
    """Windows and global attention; a causal decoder with shared keys; what relative positions add."""
    folder = tmp_path_factory.mktemp("long") / "model"
    shutil.copytree(REFERENCE / request.param, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 16_384}))
    return folder


@on_cpu
def test_a_long_text_fits_where_its_scores_would_not(long_checkpoint):
    found = embed_long_text(long_checkpoint, 1_000_000_000)
    assert found["tokens"] >= 8_192
    assert found["finite"]
    assert found["as_before"] <= 1e-6


FORKS = """
import os, sys
from akidb_mlx import Embedder
from akidb_mlx.model.layers import cpu_kernels
cpu_kernels._FREED_BYTES = 0
with Embedder.load(sys.argv[1], max_seq_length=1024, device="cpu") as embedder:
    text = "a " * 1024
    row = embedder.encode([text])
    child = os.fork()
    if not child:
        os._exit(int(abs(embedder.encode([text]) - row).max() > 1e-6))
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@on_cpu
@pytest.mark.skipif(not DEVICE.survives_fork, reason="arrays in a GPU's buffers do not survive a fork")
def test_a_forked_child_computes_long_texts(long_checkpoint):
    with subprocess.Popen([sys.executable, "-c", FORKS, str(long_checkpoint)], start_new_session=True) as process:
        try:
            assert process.wait(PATIENCE_S) == 0
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


@on_cpu
def test_a_text_that_never_fits_is_refused_and_others_go_on(long_checkpoint, monkeypatch):
    with Embedder.load(long_checkpoint, max_seq_length=LONG, max_queued_tokens=100_000, device="cpu") as embedder:
        memory = embedder._loaded.engine.runtime.memory
        monkeypatch.setattr(memory, "_measure", lambda: Room(60_000_000, 60_000_000, "a limit of 60 MB"))
        memory.forget()
        short = embedder.encode(["a short text"])
        with pytest.raises(InputError, match=r"text 1 has 8192 tokens.*a limit of 60 MB"):
            embedder.encode(["a short text", "a " * 10_000])
        assert_close(embedder.encode(["a short text"]), short, 1e-6)


@on_cpu
@pytest.mark.parametrize("shape", [(1, 64), (1, 512), (2, 512), (1, 4096)])
def test_the_estimate_grows_with_tokens_and_not_with_their_square(long_checkpoint, shape):
    rows, length = shape
    with Embedder.load(long_checkpoint, device="cpu") as embedder:
        estimate = embedder._loaded.engine.model.activation_bytes
        assert estimate(2 * rows, length) > estimate(rows, length)
        assert estimate(1, 16_384) < 5 * estimate(1, 4096)
