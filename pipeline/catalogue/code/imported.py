"""Finds the user's own modules that code imports, without importing them."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from importlib.util import resolve_name
from pathlib import Path

from pipeline.catalogue.code.syntax import ModuleSource, read_sources

OURS = frozenset({"tasks", "pipeline", "__main__"})
INSTALLED = frozenset({"site-packages", "dist-packages"})
"""Names of folders of installed libraries."""


def module_file(name: str) -> tuple[str, Path] | None:
    """The module that importing a dotted name executes last, and its file.

    For `package.module.Class` this is `package.module`. None if there is no such Python file.
    """
    first, *rest = name.split(".")
    try:
        spec = importlib.util.find_spec(first)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    origin = Path(spec.origin or "")
    found = (first, origin) if origin.suffix == ".py" and origin.is_file() else None
    folders = [Path(place) for place in spec.submodule_search_locations or ()]
    dotted = first
    for part in rest:
        dotted = f"{dotted}.{part}"
        for folder in folders:
            if (folder / part).is_dir():
                file, folders = folder / part / "__init__.py", [folder / part]
            else:
                file, folders = folder / f"{part}.py", []
            if file.is_file():
                found = dotted, file
            if file.is_file() or folders:
                break
        else:
            break
    return found


def own_modules(code: ModuleSource, module: str = "") -> dict[str, ModuleSource]:
    """The user's own modules that code imports, and those that they import in turn, by name.

    These are the modules of the same package, and all that are neither Python's, nor installed
    libraries, nor this program's. An installation that refers to a working copy (`pip install
    --editable`) is one's own. Only import statements are followed.

    Args:
        code: The code.
        module: Name of its module, if it is part of a package.
    """
    package = module.partition(".")[0]
    found: dict[str, ModuleSource] = {}
    waiting = [(_parent(module), code)] if module else [("", code)]
    while waiting:
        files: dict[str, Path] = {}
        for parent, source in waiting:
            files |= {
                name: path
                for name, path in _imported(source, parent, package)
                if name not in found and name != module
            }
        sources = read_sources(files.values())
        found |= {name: sources[path] for name, path in files.items()}
        waiting = [
            (name if path.name == "__init__.py" else name.rpartition(".")[0], sources[path])
            for name, path in files.items()
        ]
    return found


def _parent(module: str) -> str:
    """The package to which a module's relative imports refer."""
    place = module_file(module)
    is_package = place is not None and place[1].name == "__init__.py"
    return module if is_package else module.rpartition(".")[0]


def _imported(source: ModuleSource, parent: str, package: str) -> Iterator[tuple[str, Path]]:
    for name in source.imports:
        try:
            absolute = resolve_name(name, parent or None)
        except ImportError:
            continue
        first = absolute.partition(".")[0]
        if first in OURS or first in sys.stdlib_module_names:
            continue
        place = module_file(absolute)
        if place is not None and (first == package or not INSTALLED & {*place[1].parts}):
            yield place
