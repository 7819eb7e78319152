"""How much memory there is on a machine for each of the nodes that run there at once."""

from __future__ import annotations

from pathlib import Path

PROCESS_BYTES = int(0.8e9)
"""What torch and this program take of a process before the first row; measured 0.7 to 1.0 GB."""


def worker_bytes(memory_gb: float) -> float:
    """The most that a worker process takes whose rows at once may take `memory_gb`."""
    return PROCESS_BYTES + memory_gb * 1e9


def memory_bytes() -> int | None:
    """What this machine, or the container that the process is in, has; None where it does not say.

    Read on Linux, from /proc and from control groups of either version.
    """
    known = [_system("MemTotal"), *map(_limit, CONTROL_GROUPS)]
    return min((each for each in known if each is not None), default=None)


def available_bytes() -> int | None:
    """What is free of it, or can be made free, now."""
    return _system("MemAvailable")


def share_bytes(workers: int) -> float | None:
    """What the rows of one of `workers` processes beside one another may take; None if unknown."""
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
