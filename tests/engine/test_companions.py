"""What a pass gave besides: kept by text, given away once, within bounds."""

import numpy as np
import pytest

from akidb_mlx.engine.companions import Companions
from akidb_mlx.model.encoding import Encoding

WIDTH = 256


def encoding(*ids, prompt_length=0):
    return Encoding(np.array(ids, np.int32), prompt_length)


def row(value):
    """Dense and sparse rows of a kilobyte each."""
    numbers = np.full(WIDTH, value, np.float32)
    return {"dense": numbers, "sparse": (np.arange(WIDTH // 2, dtype=np.int32), numbers[: WIDTH // 2])}


@pytest.fixture
def companions():
    return Companions(most_bytes=3 * 4 * WIDTH)


def test_what_was_not_asked_for_is_given_away_once(companions):
    companions.keep(encoding(1, 2), row(7.0), {"dense"})
    assert companions.bytes == 4 * WIDTH
    asked = [encoding(3), encoding(1, 2), encoding(1, 2)]
    found = companions.take(asked, ["sparse"])
    assert sorted(found) == [1, 2] and found[1]["sparse"][1][0] == 7.0 and found[2] is found[1]
    assert companions.bytes == 0 and not companions.take(asked, ["sparse"])


def test_of_two_heads_both_must_be_there(companions):
    companions.keep(encoding(1), row(1.0), {"sparse"})
    assert not companions.take([encoding(1)], ["dense", "sparse"])
    assert list(companions.take([encoding(1)], ["dense"])) == [0]


def test_another_prompt_is_another_row(companions):
    companions.keep(encoding(1, 2), row(1.0), {"dense"})
    assert not companions.take([encoding(1, 2, prompt_length=1)], ["sparse"])


def test_all_asked_for_keeps_nothing(companions):
    companions.keep(encoding(1), row(1.0), {"dense", "sparse"})
    assert companions.bytes == 0 and not companions.take([encoding(1)], ["dense"])


def test_the_oldest_go_first(companions):
    for place in range(5):
        companions.keep(encoding(place), row(float(place)), {"dense"})
    assert companions.bytes == 3 * 4 * WIDTH
    assert sorted(companions.take([encoding(place) for place in range(5)], ["sparse"])) == [2, 3, 4]


def test_kept_anew_it_counts_once(companions):
    for value in (1.0, 2.0):
        companions.keep(encoding(1), row(value), {"dense"})
    assert companions.bytes == 4 * WIDTH
    assert companions.take([encoding(1)], ["sparse"])[0]["sparse"][1][0] == 2.0
    companions.keep(encoding(1), row(1.0), {"dense"})
    companions.forget()
    assert companions.bytes == 0 and not companions.take([encoding(1)], ["sparse"])


def test_in_a_forked_child_a_lock_that_was_held_does_no_harm(companions):
    companions.keep(encoding(1), row(1.0), {"dense"})
    companions._lock.acquire()  # by a thread that the child does not have
    companions.forget()
    assert not companions.take([encoding(1)], ["sparse"])
    companions.keep(encoding(1), row(1.0), {"dense"})
    assert companions.take([encoding(1)], ["sparse"])
