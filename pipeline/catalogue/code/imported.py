"""Finds the user's own modules that code imports, without importing them."""

from __future__ import annotations

import importlib.util
import sys
import sysconfig
from collections.abc import Collection
from importlib.util import resolve_name
from pathlib import Path

from pipeline.catalogue.code.digests import TASKS
from pipeline.catalogue.code.syntax import ModuleSource, read_sources

OURS = frozenset({"tasks", "pipeline", "__main__"})
FOLDERS = (TASKS, TASKS.parent / "pipeline")
"""Folders of this program."""
LIBRARIES = frozenset({"site-packages", "dist-packages"})
"""Names of folders of installed libraries."""
STANDARD = tuple({Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")})
"""Folders of Python's own modules."""


def is_installed(path: Path) -> bool:
    """Whether a file is Python's or an installed library's, and so is not a user's own code."""
    return bool(LIBRARIES & {*path.parts}) or any(map(path.is_relative_to, STANDARD))


def module_files(name: str) -> dict[str, Path]:
    """The files that importing a dotted name executes, by module, from the outermost package.

    For `package.module.Class` these are `package` and `package.module`. A module that is no Python
    file is left out.
    """
    first, *rest = name.split(".")
    try:
        spec = importlib.util.find_spec(first)
    except (ImportError, ValueError):
        return {}
    if spec is None:
        return {}
    origin = Path(spec.origin or "")
    found = {first: origin} if origin.suffix == ".py" and origin.is_file() else {}
    folders = [Path(place) for place in spec.submodule_search_locations or ()]
    for count, part in enumerate(rest, start=2):
        place = next((folder / part for folder in folders if _is_module(folder / part)), None)
        if place is None:
            break
        # a package comes before a module of its name, and a folder without code after it
        file, folders = place / "__init__.py", [place]
        if not file.is_file() and place.with_suffix(".py").is_file():
            file, folders = place.with_suffix(".py"), []
        if file.is_file():
            found[".".join([first, *rest][:count])] = file
    return found


def _is_module(place: Path) -> bool:
    return place.is_dir() or place.with_suffix(".py").is_file()


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
    waiting = {module: code}
    while waiting:
        files: dict[str, Path] = {}
        for name, source in waiting.items():
            files |= _imported(source, name, package)
        files = {name: path for name, path in files.items() if name not in {module, *found}}
        sources = read_sources(files.values(), whole=True)
        waiting = {name: sources[path] for name, path in files.items()}
        found |= waiting
    return found


def uncovered(before: Collection[str], covered: Collection[str]) -> dict[str, Path]:
    """The user's own modules that this process has imported since, and that no digest covers.

    Args:
        before: Names of the modules that had been imported before.
        covered: Names of the modules in the digest.
    """
    # multiprocessing gives the script that runs a second name
    known = {_file(name) for name in before}
    found = {}
    for name in sys.modules.keys() - {*before, *covered}:
        path = _file(name)
        ours = any(map(path.is_relative_to, FOLDERS))
        if path in known or ours or is_installed(path):
            continue
        if path.suffix == ".py" and path.is_file():
            found[name] = path
    return found


def _file(module: str) -> Path:
    """The file of a module that is imported; an empty path without one."""
    return Path(getattr(sys.modules.get(module), "__file__", None) or "")


def _imported(source: ModuleSource, module: str, package: str) -> dict[str, Path]:
    """The user's own modules that a module imports, and their packages."""
    places = module_files(module) if module else {}
    is_package = module in places and places[module].name == "__init__.py"
    parent = module if is_package else module.rpartition(".")[0]
    found: dict[str, Path] = {}
    for name in (*source.imports, *filter(None, [parent])):
        try:
            absolute = resolve_name(name, parent or None)
        except ImportError:
            continue
        first = absolute.partition(".")[0]
        if first in OURS:
            continue
        files = module_files(absolute)
        if first == package or not any(map(is_installed, files.values())):
            found |= files
    return found
