"""Available memory, divided among the nodes that run on a machine at the same time."""

from __future__ import annotations

from pathlib import Path

PROCESS_BYTES = int(0.8e9)
"""Memory of a process with torch and this program before any work; measured 0.7 to 1.0 GB."""


KEPT = 0.2
"""Freed memory that a worker keeps at its peak, as a share of its bound; measured up to 0.16.

It returns what it has freed only where it reports progress.
"""


def worker_bytes(memory_gb: float) -> float:
    """Bound above which a worker returns freed memory, if its batches may take `memory_gb`."""
    return PROCESS_BYTES + memory_gb * 1e9


def peak_bytes(memory_gb: float) -> float:
    """Largest memory of a worker process whose batches may take `memory_gb`."""
    return (1 + KEPT) * worker_bytes(memory_gb)


def memory_bytes() -> int | None:
    """Memory of this machine or container; None if unknown.

    Read from /proc and cgroups (v1 and v2), on Linux only.
    """
    known = [_system("MemTotal"), *map(_limit, CONTROL_GROUPS)]
    return min((each for each in known if each is not None), default=None)


def available_bytes() -> int | None:
    """Memory that is currently free or can be freed; None if unknown."""
    return _system("MemAvailable")


def share_bytes(workers: int) -> float | None:
    """Memory for the data of each of `workers` concurrent processes; None if unknown."""
    total, free = memory_bytes(), available_bytes()
    if total is None:
        return None
    own = total / workers - PROCESS_BYTES
    return max(0.0, own if free is None else min(own, free))


CONTROL_GROUPS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


def _limit(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _system(name: str) -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for line in lines:
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0]) * 1024
    return None
