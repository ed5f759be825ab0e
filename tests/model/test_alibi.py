"""ALiBi: its slopes, by hand, and what it adds to the scores, whole, by blocks of queries and masked."""

import mlx.core as mx
import numpy as np
import pytest

from akidb_mlx.model.layers import attention
from akidb_mlx.model.layers.alibi import alibi_bias, alibi_numbers, alibi_slopes
from support.comparison import assert_close

POWERS_OF_TWO = [2.0**-1, 2.0**-2, 2.0**-3, 2.0**-4, 2.0**-5, 2.0**-6, 2.0**-7, 2.0**-8]


def test_slopes_by_hand():
    """A sequence of its own for each power of two; between them every second slope of the next sequence."""
    assert_close(alibi_slopes(8), POWERS_OF_TWO)
    assert_close(alibi_slopes(12), [*POWERS_OF_TWO, 2.0**-0.5, 2.0**-1.5, 2.0**-2.5, 2.0**-3.5])
    assert_close(alibi_slopes(6), [2.0**-2, 2.0**-4, 2.0**-6, 2.0**-8, 2.0**-1, 2.0**-3])
    assert_close(alibi_slopes(1), [2.0**-8])


def given(length, rows=2, heads=6):
    """Queries, keys, values, which tokens are seen, and what is added by the formula."""
    rng = np.random.default_rng(0)
    parts = [rng.standard_normal((rows, heads, length, 8)).astype(np.float32) for _ in range(3)]
    seen = np.arange(length) < np.array([length, length // 2])[:, None]
    places = np.arange(length)
    added = -alibi_slopes(heads)[:, None, None] * np.abs(places[:, None] - places[None, :])
    return parts, seen, np.where(seen[:, None, None, :], added[None], -np.inf)


def exact(parts, added, scale):
    queries, keys, values = (part.astype(np.float64) for part in parts)
    scores = queries @ keys.swapaxes(-1, -2) * scale + added
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True) @ values


@pytest.mark.parametrize("most", [1 << 25, 6 * 2 * 40 * 7], ids=["whole", "by seven queries"])
def test_what_it_adds(monkeypatch, most):
    """On a GPU in blocks too where the whole is large; here its way is taken on any device."""
    monkeypatch.setattr(attention, "_BIAS_NUMBERS", most)
    parts, seen, added = given(40)
    with mx.stream(mx.cpu):
        bias = alibi_bias(alibi_slopes(6), 40, mx.array(seen), mx.float32)
        found = np.array(attention.attend(*map(mx.array, parts), bias, 0.3))
    assert attention.query_block(2, 6, 40) == (40 if most > 1000 * 40 else 7)
    assert_close(found, exact(parts, added, 0.3), 2e-6)


def test_far_keys_that_are_not_seen_stay_so():
    """The mask is no number that ALiBi's could be added to: padding is out of sight however near or far."""
    _, seen, _ = given(900)
    with mx.stream(mx.cpu):
        bias = alibi_bias(alibi_slopes(6), 900, mx.array(seen), mx.float16)
        one, two = (np.array(bias.block(start, start + 2)[1]) for start in (0, 898))
    for block in (one, two):
        assert (block[1][..., 450:] == -np.inf).all() and np.isfinite(block[0]).all()


def test_a_blocks_memory_grows_with_the_length():
    """Of 8192 tokens all of it would be 3.2 GB for 12 heads; blocks take as much as two of them."""
    whole = 12 * 8192**2
    assert alibi_numbers(1, 8192, 12, in_blocks=True) < whole / 100
    assert alibi_numbers(1, 8192, 12, in_blocks=False) <= 4 * (1 << 25) < whole / 5
