"""Versions of the optional libraries that make results, such as foolbox."""

from __future__ import annotations

from functools import cache
from importlib.metadata import packages_distributions, version

UNKNOWN = "unknown"
"""Version of a library that is not installed, or not by a package manager."""


@cache
def library_version(library: str) -> str:
    """Version of the distribution that provides a library, such as `3.3.4`; else `UNKNOWN`.

    The library is not imported. Cached, since a process goes on with what it has imported even if
    another version is installed meanwhile.

    Args:
        library: The name under which it is imported, such as `art`.
    """
    names = packages_distributions().get(library, ())
    return ", ".join(sorted({version(name) for name in names})) or UNKNOWN
