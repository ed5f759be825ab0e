"""File descriptors: how many connections they leave room for, and more of them where that is allowed."""

import logging
import os
import resource
from pathlib import Path

__all__ = ["connections_within", "raise_limit"]

_log = logging.getLogger(__name__)
# Kept for what a process opens besides connections: weights, sockets to the Hub, pipes.
_OTHERS = 32
# Where the system says that there is no limit, it has one all the same; macOS refuses more than 10,240.
_MOST = 10_240


def raise_limit(max_requests: int) -> int:
    """Let this process open what `max_requests` connections need, or as many as it may; gives how many connections.

    Says so once where that is fewer.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max_requests + _open_now() + _OTHERS
    most = _MOST if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < min(wanted, most):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, most), hard))
        except (OSError, ValueError) as error:
            _log.debug("the limit of open files stays %d: %s", soft, error)
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    room = connections_within(soft)
    if soft != resource.RLIM_INFINITY and room < max_requests:
        _log.warning(
            "only %d files may be open, so %d connections are served at a time and others wait; "
            "for max_requests=%d allow %d (ulimit -n)",
            soft,
            room,
            max_requests,
            wanted,
        )
    return room


def connections_within(limit: int) -> int:
    """Connections that a limit of open files leaves room for, beside what is open and what may come; at least one."""
    return 2**31 if limit == resource.RLIM_INFINITY else max(1, limit - _open_now() - _OTHERS)


def _open_now() -> int:
    folder = Path("/dev/fd")
    try:
        return len(os.listdir(folder))  # noqa: PTH208  # of numbers, not of paths
    except OSError:
        return 16
