"""What a classifier that reads a row's first token needs of the last layer: the same states, and no others computed."""

import mlx.core as mx
import numpy as np
import pytest

import akidb_mlx  # noqa: F401  # before mlx
from akidb_mlx.engine.device_threads import DEVICE_THREADS
from akidb_mlx.model.architectures import make_backbone
from akidb_mlx.model.device_batch import DeviceBatch
from akidb_mlx.model.encoding import Encoding
from akidb_mlx.model.layers import cpu_kernels
from akidb_mlx.model.padded_batch import pad_batch
from support.comparison import assert_close
from support.waiting import PATIENCE_S

ALBERT = {"model_type": "albert", "embedding_size": 8, "num_hidden_groups": 2, "inner_group_num": 1}
DEBERTA = {
    "model_type": "deberta-v2",
    "relative_attention": True,
    "position_buckets": 8,
    "position_biased_input": False,
    "max_relative_positions": -1,
    "pos_att_type": "p2c|c2p",
    "share_att_key": True,
    "conv_kernel_size": 3,
}
BERT = {
    "model_type": "bert",
    "vocab_size": 100,
    "hidden_size": 16,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "intermediate_size": 32,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 600,
    "type_vocab_size": 2,
    "pad_token_id": 0,
}


def states(lengths, see=lambda backbone: None, **config):
    """First states and those of the whole, of random weights and rows."""

    def compute():
        with mx.stream(mx.cpu):
            mx.random.seed(1)
            backbone = make_backbone(BERT | config)
            rng = np.random.default_rng(2)
            rows = [Encoding(rng.integers(1, 100, length).astype(np.int32), second_start=3) for length in lengths]
            batch = DeviceBatch.of(pad_batch(rows, max(lengths)))
            whole = np.array(backbone(batch))
            see(backbone)
            return np.array(backbone.first_states(batch)), whole

    return DEVICE_THREADS.run(compute).result(PATIENCE_S)


@pytest.mark.parametrize("config", [{}, ALBERT, DEBERTA], ids=["bert", "albert", "deberta"])
@pytest.mark.parametrize("lengths", [[9], [9, 9], [9, 4, 6], [cpu_kernels.LONG + 20, 30]], ids=str)
def test_they_are_the_first_of_all(lengths, config):
    first, whole = states(lengths, **config)
    assert first.shape == (len(lengths), 1, 16)
    assert np.ptp(whole, axis=1).min() > 0.1  # tokens differ
    assert_close(first, whole[:, :1], 2e-6)


def test_the_last_network_computes_one_token_a_row():
    seen = []

    def see(backbone):
        layer, up = backbone.layers[-1], backbone.layers[-1].up
        layer["up"] = lambda x: (seen.append(x.shape), up(x))[1]

    states([9, 4, 6], see)
    assert seen == [(3, 16)]
