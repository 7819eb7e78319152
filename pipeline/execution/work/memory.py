"""Memory of worker processes: reuse of freed memory, and detection of leaks."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import platform
import resource
import threading
from collections.abc import Iterator
from pathlib import Path

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Parameter numbers of `mallopt` in the GNU C library."""
KEPT_BYTES = 2**31 - 1
NOTED_BYTES = 64 * 2**20
"""Growth of a process by one node below this size is ignored."""
RETURN_S = 3.0
"""Time between two returns of freed memory while a node runs."""
LEAK_BYTES = 2**30
"""Total growth by nodes with user code after which a process is not used again."""

_grown: dict[str, int] = {}
_given_up: list[str] = []


def resident_bytes() -> int:
    """Resident memory of this process; 0 if unknown."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * resource.getpagesize()


def note_growth(node: str, count: int) -> None:
    """Record by how many bytes a node has left the process larger."""
    if count < NOTED_BYTES:
        return
    _grown[node] = _grown.get(node, 0) + count
    if sum(_grown.values()) > LEAK_BYTES:
        give_up(f"{node} grew it by {count / 1e9:.1f} GB")


def grown_by_others() -> str:
    """Which earlier node holds the most memory of this process, for messages; empty if none."""
    if not _grown:
        return ""
    node = max(_grown, key=lambda name: _grown[name])
    size = f"{_grown[node] / 1e9:.1f} GB"
    return f"; an earlier node holds {size} of this process: {node}"


def give_up(reason: str) -> None:
    """Mark this process as not to be used for another node, if that is possible."""
    _given_up.append(reason)


def unusable() -> str | None:
    """Why this process should not compute another node; None if it can."""
    return _given_up[0] if _given_up else None


def return_freed_memory(above: float) -> None:
    """Return freed memory to the system if this process holds more than `above` bytes.

    Tensors of many sizes leave gaps that those of the next node do not fit into, so a process that
    keeps freed memory grows from node to node, and within a long one (fragmentation).
    """
    if resident_bytes() > above and platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


@contextlib.contextmanager
def bounded(above: float, every: float = RETURN_S) -> Iterator[None]:
    """Return freed memory while a block runs and after it, if the process holds more than `above`.

    Args:
        above: Bound in bytes.
        every: Time in seconds between two returns. The system has to clear returned memory before
            it is used again.
    """
    done = threading.Event()

    def watch() -> None:
        while not done.wait(every):
            return_freed_memory(above)

    watcher = threading.Thread(target=watch, name="freed-memory", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
        return_freed_memory(above)


@functools.cache
def keep_freed_memory() -> bool:
    """Let malloc keep up to 2 GiB of freed memory; False if that cannot be set.

    By default, memory of large tensors is returned to the system when freed, and the system has to
    clear new pages for the next ones.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    given = library.mallopt(M_MMAP_MAX, 0), library.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
    return all(given)
