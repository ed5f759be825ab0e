"""Who is freed for whom, and when: decided by a clock that the test sets, without threads or weights."""

import math
import threading

import pytest

import akidb_mlx  # noqa: F401  # before mlx
from akidb_mlx.device.memory import Memory, Room
from akidb_mlx.engine.residency import Keep, Residence, Residency


class Network:
    def __init__(self):
        self.here = True

    def let_go(self):
        self.here = False


class Holder:
    """A model of ten bytes."""

    closed = False

    def __init__(self, host, name, size=10):
        self.runtime, self.rows_wait, self.failed = self, False, []
        self.model = Network()
        self.residence = Residence(name, size, lambda: load(host, size), host.memory, last_used=0.0, loaded_at=0.0)
        host.memory.hold(size)
        host.holders.append(self)

    def place(self, network):
        self.model = network

    def drain(self):
        return self.failed.append


def load(host, size):
    """As `load_model`, which asks before it reads."""
    host.residency.make_room(size, host.memory, "for another")
    return Network()


class Host:
    def __init__(self, limit):
        self.condition, self.holders, self.computing = threading.Condition(), [], []
        self.memory = Memory(lambda: Room(*[max(0, limit - self.memory.taken.weights)] * 2, "a limit"))
        self.residency = Residency(self)

    def computes(self, holder):
        return holder in self.computing

    def clear_cache(self):
        pass


@pytest.fixture
def host():
    return Host(25 / 0.9)  # nine tenths are given out


def away(host, holder):
    host.memory.let_go(holder.residence.size)
    holder.place(None)


def test_it_expires_by_its_keepers_longest_time(host):
    a = Holder(host, "a")
    assert not host.residency.due(1e9) and host.residency.wait_s(0) is None  # nobody said anything
    a.residence.keeps = {"one": Keep(3.0), "other": Keep(5.0)}
    assert not host.residency.due(4.9) and host.residency.wait_s(1.0) == 4.0
    assert host.residency.due(5.0)
    a.residence.keeps["third"] = Keep(math.inf)
    assert not host.residency.due(1e9)


@pytest.mark.parametrize("busy", ["rows_wait", "calls", "computes"])
def test_it_does_not_expire_while_it_is_used(host, busy):
    a = Holder(host, "a")
    a.residence.keeps = {"one": Keep(5.0)}
    assert host.residency.due(6.0)
    if busy == "rows_wait":
        a.rows_wait = True
    elif busy == "calls":
        a.residence.calls = 1
    else:
        host.computing.append(a)
    assert not host.residency.due(6.0)
    assert host.residency.wait_s(6.0) is None  # rather than look again and again


def test_the_least_recently_used_goes_for_who_waits(host):
    a, b, c = (Holder(host, name) for name in "abc")
    away(host, c)
    a.residence.last_used, b.residence.last_used = 2.0, 1.0
    assert not host.residency.due(3.0)
    c.rows_wait = True
    assert host.residency.due(3.0)
    gone = b.model
    host.residency.work()
    assert (a.model is None, b.model is None, c.model is None) == (False, True, False)
    assert (gone.here, b.residence.frees, c.residence.loads) == (False, 1, 2)
    assert host.memory.taken.weights == 20


def test_what_nobody_holds_goes_first_and_what_computes_stays(host):
    a, b, c = (Holder(host, name) for name in "abc")
    a.residence.last_used, b.residence.last_used, c.residence.last_used = 1.0, 2.0, 3.0
    c.residence.keeps = {"gone": Keep(60.0, held=False)}
    host.computing.append(a)
    host.residency.make_room(5, host.memory, "for d")
    assert [one.model is None for one in (a, b, c)] == [False, False, True]
    host.residency.make_room(13, host.memory, "for d")
    assert [one.model is None for one in (a, b, c)] == [False, True, True]


def test_nothing_is_freed_in_vain(host):
    a, b = Holder(host, "a"), Holder(host, "b")
    host.residency.make_room(26, host.memory, "for a large one")
    assert a.model is not None and b.model is not None
    host.residency.make_room(24, host.memory, "for one that fits alone")
    assert a.model is None and b.model is None


def test_a_busy_model_has_its_turn(host):
    """Half a second, and five times what loading took: otherwise three busy models would load all the time."""
    a, b, c = (Holder(host, name) for name in "abc")
    away(host, c)
    for busy in (a, b, c):
        busy.rows_wait = True
    a.residence.loaded_at, b.residence.loaded_at, b.residence.load_s = 10.0, 10.0, 2.0
    assert not host.residency.due(10.4) and host.residency.wait_s(10.4) == pytest.approx(0.1)
    assert host.residency.due(10.5)  # a's turn is over
    a.residence.load_s = 3.0
    assert not host.residency.due(19.9) and host.residency.wait_s(12.0) == pytest.approx(8.0)
    assert host.residency.due(20.0)
    b.rows_wait = False
    assert host.residency.due(10.0)  # an idle one goes at once


def test_an_error_is_the_waiting_requests(host):
    a = Holder(host, "a")
    away(host, a)
    a.rows_wait, before = True, RuntimeError("no such file")

    def fails():
        raise before

    a.residence.load = fails
    host.residency.work()
    (error,) = a.failed
    assert "no such file" in str(error) and a.model is None and not a.residence.wanted
