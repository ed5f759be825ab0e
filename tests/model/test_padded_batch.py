"""Encodings → right-padded batches."""

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from akidb_mlx.device.shapes import Shapes, padded_length
from akidb_mlx.model.encoding import Encoding
from akidb_mlx.model.padded_batch import pad_batch

ids = st.lists(st.integers(0, 30_000), min_size=1, max_size=40).map(lambda row: np.array(row, np.int32))


def encoding(*ids, **marks):
    return Encoding(np.array(ids, np.int32), **marks)


def test_every_field_of_an_encoding_makes_another_row():
    one = encoding(7, 8)
    changed = {
        "token_ids": np.array([7, 9], np.int32),
        "prompt_length": 1,
        "second_start": 1,
        "attended": (0, 1),
        "kept": np.array([True, False]),
        "task": "retrieval",
    }
    assert set(changed) == {field.name for field in fields(one)}
    assert one.key == encoding(7, 8).key
    assert one.key not in {replace(one, **{name: value}).key for name, value in changed.items()}


def test_a_batch_by_hand():
    batch = pad_batch([encoding(7, 8, 9, prompt_length=2, second_start=1), encoding(5)], 4)
    assert batch.input_ids.tolist() == [[7, 8, 9, 0], [5, 0, 0, 0]]
    assert batch.lengths.tolist() == [3, 1]
    assert batch.prompt_lengths.tolist() == [2, 0]
    assert batch.second_starts.tolist() == [1, 0]
    given = {field.name: getattr(batch, field.name) for field in fields(batch)}
    assert (given.pop("attended"), given.pop("kept"), given.pop("task")) == (None, (), None)
    assert {array.dtype for array in given.values()} == {np.dtype(np.int32)}


def test_what_is_seen_and_what_is_kept_in_a_batch():
    kept = np.array([True, False, True])
    batch = pad_batch([encoding(7, 8, 9, attended=(0, 2), kept=kept), encoding(5, 6)], 4, rows=3)
    assert batch.attended.tolist() == [[0, 2], [0, 2], [0, 2]] and batch.attended.dtype == np.int32
    assert batch.kept[0] is kept and batch.kept[1:] == (None, None)


@given(rows=st.lists(ids, min_size=1, max_size=12), more=st.integers(0, 9))
def test_every_token_keeps_its_place_and_only_padding_follows(rows, more):
    length = max(map(len, rows)) + more
    batch = pad_batch(list(map(Encoding, rows)), length)
    assert batch.input_ids.shape == (len(rows), length)
    for row, padded, count in zip(rows, batch.input_ids, batch.lengths, strict=True):
        assert count == len(row)
        assert padded[:count].tolist() == row.tolist()
        assert not padded[count:].any()


@pytest.mark.parametrize(
    ("length", "padded"),
    # with 8 steps: from 2**k on, lengths are multiples of 2**k / 8
    [(1, 1), (8, 8), (9, 9), (16, 16), (17, 18), (33, 36), (100, 104), (128, 128), (129, 144), (257, 288), (512, 512)],
)
def test_padded_lengths_by_hand(length, padded):
    assert padded_length(length) == padded


@given(length=st.integers(1, 40_000), steps=st.sampled_from([4, 8, 16, 32]))
def test_padding_is_little(length, steps):
    padded = padded_length(length, steps=steps)
    assert length <= padded
    assert (padded - length) * steps < length
    if length <= steps:
        assert padded == length


@pytest.mark.parametrize("steps", [8, 32])
def test_few_shapes_occur(steps):
    shapes = {padded_length(length, steps=steps) for length in range(1025, 2049)}
    assert len(shapes) <= steps
    lengths = [padded_length(length, steps=steps) for length in range(1, 5000)]
    assert lengths == sorted(lengths)


@given(length=st.integers(1, 5000), limit=st.integers(1, 5000))
def test_no_row_is_padded_beyond_the_models_limit_or_cut(length, limit):
    padded = padded_length(length, limit)
    assert padded >= length
    assert padded <= max(length, limit)


def test_rows_are_padded_by_the_last_one_again():
    batch = pad_batch([encoding(1, 2, 3), encoding(4, prompt_length=1, second_start=1)], 4, rows=4)
    assert batch.input_ids.tolist() == [[1, 2, 3, 0], [4, 0, 0, 0], [4, 0, 0, 0], [4, 0, 0, 0]]
    assert batch.lengths.tolist() == [3, 1, 1, 1]
    assert batch.prompt_lengths.tolist() == batch.second_starts.tolist() == [0, 1, 1, 1]


@given(st.integers(1, 600), st.integers(1, 512), st.integers(0, 9), st.integers(1, 600))
def test_rows_are_taken_in_few_numbers(count, length, more, most):
    shapes = Shapes(8, length_multiple=8, full_tokens=8192, small_tokens=256)
    count = min(count, most)
    taken, padded = shapes.rows(count, length, count + more, most)
    assert 1 <= taken <= count
    assert taken <= padded <= most
    allowed = {8192 // length} if length > 4096 else {1 << shift for shift in range(14)}
    assert padded in allowed
    assert taken == padded or taken >= 0.75 * padded or padded * length <= 256


def test_rows_by_hand():
    shapes = Shapes(full_tokens=6400, small_tokens=256)
    numbers = {shapes.rows(count, 100, 1000, 1000)[1] for count in range(1, 65)}
    assert numbers == {64, 32, 16, 4, 1}
    assert shapes.rows(50, 100, 1000, 64) == (50, 64)
    assert shapes.rows(50, 100, 1000, 63) == (32, 32)  # the budget
    assert shapes.rows(40, 100, 1000, 64) == (32, 32)
    assert shapes.rows(2, 16, 2, 64) == (2, 4)  # small, and no more wait
    assert shapes.rows(2, 16, 3, 64) == (1, 1)


def test_any_number_of_rows_where_shapes_do_not_matter():
    assert Shapes().rows(37, 100, 50, 40) == (37, 37)
