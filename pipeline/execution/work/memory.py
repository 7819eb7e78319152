"""Memory of a process that asks for the same large tensors again and again."""

from __future__ import annotations

import ctypes
import functools
import platform
import resource
from pathlib import Path

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""What `mallopt` of the GNU C library calls them."""
KEPT_BYTES = 2**31 - 1
NOTED_BYTES = 64 * 2**20
"""A node that leaves its process larger by less than this is not noticed."""
LEAK_BYTES = 2**30
"""By so much nodes with code of a user's own may have grown a process that is used again."""

_grown: dict[str, int] = {}
_given_up: list[str] = []


def resident_bytes() -> int:
    """The memory that this process holds; 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * resource.getpagesize()


def note_growth(node: str, count: int) -> None:
    """Remember by how many bytes the process is larger after a node than it was before."""
    if count < NOTED_BYTES:
        return
    _grown[node] = _grown.get(node, 0) + count
    if sum(_grown.values()) > LEAK_BYTES:
        give_up(f"{node} grew it by {count / 1e9:.1f} GB")


def grown_by_others() -> str:
    """Which earlier node holds most of this process's memory, in words; empty where none does."""
    if not _grown:
        return ""
    node = max(_grown, key=lambda name: _grown[name])
    size = f"{_grown[node] / 1e9:.1f} GB"
    return f"; an earlier node holds {size} of this process: {node}"


def give_up(reason: str) -> None:
    """Let this process perform no other node, if it has a choice."""
    _given_up.append(reason)


def unusable() -> str | None:
    """Why this process is to perform no other node; None where nothing speaks against it."""
    return _given_up[0] if _given_up else None


def return_freed_memory(above: float) -> None:
    """Give freed memory back to the system where this process holds more than `above` bytes.

    Tensors of many sizes leave gaps that the next node's do not fit into, so a process that keeps
    what it frees grows from node to node.
    """
    if platform.libc_ver()[0] == "glibc" and resident_bytes() > above:
        ctypes.CDLL(None).malloc_trim(0)


@functools.cache
def keep_freed_memory() -> bool:
    """Let this process keep up to 2 GiB of what it frees; False where that cannot be said.

    Else each tensor of some megabytes goes back to the system when it is freed, and the next
    one is made of pages that the system must clear first.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    given = library.mallopt(M_MMAP_MAX, 0), library.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
    return all(given)
