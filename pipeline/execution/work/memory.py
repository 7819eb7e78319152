"""Memory of a process that asks for the same large tensors again and again."""

from __future__ import annotations

import ctypes
import functools
import platform

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""What `mallopt` of the GNU C library calls them."""
KEPT_BYTES = 2**31 - 1


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
