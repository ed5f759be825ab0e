"""How many cores this process may use: affinity, its cgroup's quota, the variables that bound a BLAS."""

import os
import sys
from contextlib import suppress
from pathlib import Path

__all__ = ["CORES_OF_A_PROCESS", "THREAD_VARIABLES", "available_cores"]

CORES_OF_A_PROCESS = 4
"""Cores that a process keeps busy which cuts texts into tokens: more of them add less than another process does."""


THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")  # in OpenBLAS's order


def available_cores() -> int:
    """Cores to compute on: as the user's variables say, else the lesser of CPU affinity and cgroup quota."""
    for name in THREAD_VARIABLES:
        value = os.environ.get(name, "").split(",")[0].strip()
        if value.isdecimal() and int(value) > 0:
            return int(value)
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return min(cores, _quota() or cores)


def _quota(mount: Path = Path("/sys/fs/cgroup"), groups: Path = Path("/proc/self/cgroup")) -> int | None:
    """Read the cgroups' CPU quota (versions 1 and 2), in cores rounded up; None where there is none."""
    lines = groups.read_text().splitlines() if groups.exists() else []
    quotas = set()
    for _, controllers, path in (line.split(":", 2) for line in lines):
        if controllers and "cpu" not in controllers.split(","):
            continue
        group = Path(path.lstrip("/"))
        for folder in (mount / controllers, mount / ("cpu" if controllers else "unified")):
            for part in (group, *group.parents):  # an ancestor's holds too; a container may see only the last
                quotas.add(_read_quota(folder / part))
    return min(quotas - {0}, default=None)


def _read_quota(group: Path) -> int:
    """Read one cgroup's quota in cores; 0 where it sets none ("max" in version 2, -1 in version 1)."""
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        with suppress(OSError, ValueError):
            limit, period = map(int, " ".join((group / name).read_text() for name in names).split())
            return -(-limit // period)
    return 0
