"""LFM2: which of its two kinds a checkpoint is, and what is refused."""

import json
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from akidb_mlx.checkpoint.config_defaults import complete_config
from akidb_mlx.errors import AkiDBMLXError
from akidb_mlx.model.architectures import make_backbone
from akidb_mlx.model.device_batch import DeviceBatch
from akidb_mlx.model.encoding import Encoding
from akidb_mlx.model.layers import cpu_kernels
from akidb_mlx.model.layers.short_convolution import ShortConvolution
from akidb_mlx.model.padded_batch import pad_batch
from support.checkpoints import REFERENCE

BIDIRECTIONAL = ["Lfm2BidirectionalModel"]


def make(name="lfm2-is-causal-false", drop=(), **changes):
    file = REFERENCE / name / "config.json"
    config = json.loads(file.read_text(encoding="utf-8")) | changes
    for key in drop:
        del config[key]
    return make_backbone(complete_config(config, file).config)


@pytest.mark.parametrize(
    ("declared", "causal", "centred"),
    [
        ({"architectures": ["Lfm2ForCausalLM"]}, True, False),
        ({"architectures": ["Lfm2ForCausalLM"], "is_causal": False}, False, False),
        ({"architectures": BIDIRECTIONAL}, False, True),
        ({"architectures": BIDIRECTIONAL, "is_causal": False, "mlx": {"head": "embedding"}}, False, True),
        (
            {"architectures": None, "auto_map": {"AutoModel": "x/y--modeling.Lfm2BidirectionalModel"}},
            False,
            True,
        ),
        ({"auto_map": {"AutoModel": "modeling_other.Lfm2OtherModel"}, "is_causal": True}, True, False),
    ],
)
def test_what_the_files_declare(declared, causal, centred):
    backbone = make(drop=["is_causal"] if "is_causal" not in declared else (), **declared)
    assert (backbone._causal, backbone._centred) == (causal, centred)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": BIDIRECTIONAL, "is_causal": True}, "is_causal is True; for lfm2 only None, False"),
        ({"auto_map": {"AutoModel": "modeling_other.Lfm2OtherModel"}}, "auto_map names the checkpoint's own code"),
        ({"mlx": {"head": "embedding"}}, "architectures does not name Lfm2BidirectionalModel"),
        ({"conv_dim": 64}, "conv_dim is 64; for lfm2 only None, 32"),
        ({"theta": 7.0}, "theta is 7.0"),
        ({"use_pos_enc": False}, "use_pos_enc is False"),
        ({"layer_types": ["conv", "sliding_attention", "conv"]}, "layer_types 'sliding_attention' is not supported"),
        ({"layer_types": ["conv"]}, "1 layer_types for 3 layers"),
        ({"sliding_window": 8}, "'sliding_window' .8. is not known for lfm2"),
    ],
)
def test_what_is_not_computed_is_refused(changes, message):
    with pytest.raises(AkiDBMLXError, match=message):
        make(drop=["is_causal"] if "is_causal" not in changes else (), **changes)


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("kernel", [1, 2, 3, 4])
def test_a_convolution_in_blocks_is_the_same(monkeypatch, kernel, centred):
    """Blocks of three tokens, which read their neighbours in others."""
    monkeypatch.setattr(cpu_kernels, "LONG", 3)
    rng = np.random.default_rng(kernel)
    layer = ShortConvolution(4, kernel, bias=True, centred=centred)
    layer.update({"kernel": mx.array(rng.standard_normal((4, kernel))), "bias": mx.array(rng.standard_normal(4))})
    x = mx.array(rng.standard_normal((1, 11, 4)).astype(np.float32))
    kept = mx.array([[True] * 8 + [False] * 3])
    whole = layer(x, kept)
    blocks = cpu_kernels.in_blocks_of_neighbours(
        lambda part, place: layer(part, kept[:, place]), x, layer.before, layer.after
    )
    assert mx.abs(whole - blocks).max() < 1e-6


def test_padding_reaches_no_token():
    """Also through centred convolutions, whose last tokens read what is behind them."""
    backbone = make(architectures=BIDIRECTIONAL)
    for layer in backbone.layers[::2]:
        layer.convolution.kernel = mx.ones(layer.convolution.kernel.shape)  # zeros until weights are loaded
    rows = [Encoding(np.array(ids, np.int32)) for ids in ([3, 9, 4], [5, 7, 8, 6, 2])]
    padded = pad_batch(rows, 5)
    other = replace(padded, input_ids=np.array([[3, 9, 4, 11, 12], [5, 7, 8, 6, 2]], np.int32))
    one, another = (backbone(DeviceBatch.of(batch)) for batch in (padded, other))
    assert mx.array_equal(one[0, :3], another[0, :3])
