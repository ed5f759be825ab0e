"""What a batch's masks are made into is this thread's alone."""

import threading

import mlx.core as mx

from akidb_mlx.model.layers import attention


def test_a_batch_that_ends_takes_no_other_threads_masks():
    mask = mx.array([[[[True, False]]]])

    def made():
        return attention._of_scores(mask, mx.float32, (1, 1, 1, 2))

    first = made()
    other = threading.Thread(target=attention.forget_masks)
    other.start()
    other.join()
    assert made() is first
    attention.forget_masks()
    assert made() is not first
    attention.forget_masks()
