"""How much memory there is: the machine's, a cgroup's, an address space; and weights that do not fit."""

import resource
import subprocess
import sys

import pytest

from akidb_mlx import Embedder
from akidb_mlx.device import memory
from akidb_mlx.device.memory import Memory, Room
from akidb_mlx.errors import BackendError
from support.checkpoints import MINILM

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and cgroups")


def test_the_machines_memory_bounds_all():
    room = memory.measure_host()
    assert 0 < room.free <= room.possible
    assert room.limit


@linux
def test_the_tightest_limit_counts(monkeypatch):
    monkeypatch.setattr(memory, "_machine", lambda: iter([Room(100, 60, "RAM")]))
    monkeypatch.setattr(memory, "_cgroups", lambda: iter([Room(50, 50, "cgroup"), Room(80, 20, "its parent")]))
    monkeypatch.setattr(memory, "_address_space", lambda: iter([]))
    assert memory.measure_host() == Room(50, 20, "cgroup")


@linux
def test_an_address_space_bounds_what_is_left():
    script = "from akidb_mlx.device.memory import measure_host as m; r = m(); print(r.possible, r.free, r.limit)"
    limit = 2**31
    out = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    ).stdout.split(maxsplit=2)
    assert 0 < int(out[1]) <= int(out[0]) < limit
    assert "ulimit -v" in out[2]


@pytest.mark.parametrize("version", [1, 2])
def test_cgroups_of_both_versions(tmp_path, monkeypatch, version):
    """A container's own limit, and a tighter one above it."""
    mount, groups = tmp_path / "cgroup", tmp_path / "groups"
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if version == 1 else ("memory.max", "memory.current")
    root = mount / "memory" if version == 1 else mount
    inner = root / "pod" / "app"
    inner.mkdir(parents=True)
    for folder, limit, usage in ((inner, 4_000_000_000, 300), (inner.parent, 3_000_000_000, 500)):
        (folder / names[0]).write_text(f"{limit}\n")
        (folder / names[1]).write_text(f"{usage}\n")
        (folder / "memory.stat").write_text("cache 7\ninactive_file 200\n")
    (root / names[0]).write_text("max\n" if version == 2 else "9223372036854771712\n")
    groups.write_text("3:memory:/pod/app\n2:cpu:/x\n" if version == 1 else "0::/pod/app\n")
    limited = memory._limited_cgroups.__wrapped__(1, mount, groups)
    assert [limit for _, limit, _ in limited] == [4_000_000_000, 3_000_000_000]
    monkeypatch.setattr(memory, "_limited_cgroups", lambda process: limited)
    assert [room.free for room in memory._cgroups()] == [4_000_000_000 - 100, 3_000_000_000 - 300]


def test_memory_is_looked_up_anew_where_much_is_needed():
    rooms = [Room(1000, 1000, ""), Room(1000, 500, ""), Room(1000, 300, "")]
    asked = Memory(lambda: rooms.pop(0))
    assert asked.room() == 900
    assert asked.room(100) == 900  # little: what was found a moment ago will do
    assert asked.room(400) == 450
    asked.reserve(200)
    assert asked.room(0, fresh=True) == 270 - 200
    asked.release(200)
    assert asked.reserved == 0


# ── weights ──


def test_weights_that_do_not_fit_are_refused_before_they_are_read():
    with pytest.raises(BackendError, match=r"its weights take 0\.09 GB in float32, and 0\.00 GB are free") as caught:
        Embedder.load(MINILM, memory_limit_mb=1)
    assert "AKIDB_MLX_MEMORY_LIMIT_MB" in str(caught.value)


def test_the_users_limit_holds_for_batches_too():
    with Embedder.load(MINILM, memory_limit_mb=2000) as embedder:
        assert embedder.encode(["a"]).shape == (1, 384)
        room = embedder._loaded.engine.runtime.memory.possible()
        assert 0 < room[0] < 2000 * 2**20 and room[1] == "memory_limit_mb=2000"
