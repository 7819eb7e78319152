"""Versions of installed libraries, without importing them."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, version

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


def versions_of(distributions: Iterable[str]) -> dict[str, str]:
    """Versions of distributions such as `scikit-learn`, by name; `missing` if not installed."""
    found = {}
    for name in distributions:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "missing"
    return found
