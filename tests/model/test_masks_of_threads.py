"""What a batch's masks are made into is this thread's alone."""

import threading

import mlx.core as mx

from akidb_mlx.model.layers import attention


def test_a_batch_that_ends_takes_no_other_threads_masks():
    mask = mx.array([[[[True, False]]]])
    first = attention._added(mask, mx.float32)
    other = threading.Thread(target=attention.forget_masks)
    other.start()
    other.join()
    assert attention._added(mask, mx.float32) is first
    attention.forget_masks()
    assert attention._added(mask, mx.float32) is not first
    attention.forget_masks()
