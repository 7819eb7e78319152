"""Digests of Python modules: of a package's, and of a user's module including what it imports."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterable, Mapping
from functools import cached_property
from importlib.util import resolve_name
from pathlib import Path

import tasks
from pipeline.catalogue.code.syntax import ModuleSource, parse, read_sources

TASKS = Path(tasks.__file__).parent
SOURCES = Path("pipeline", "catalogue", "sources")
"""The code beside `tasks` that decides a result: how data sets are read from files."""


class Code:
    """The modules of a package as they are on disk now.

    beside: Another folder of modules below the package's parent folder.
    fresh: Whether to bypass the cache of digests.
    """

    def __init__(self, folder: Path, beside: Path | None = None, *, fresh: bool = False) -> None:
        self.folder = folder
        files = [path for place in (folder, beside) if place for path in place.rglob("*.py")]
        paths = {_module(folder, path): path for path in sorted(files)}
        if fresh:
            sources = {path: parse(path) for path in paths.values()}
        else:
            sources = read_sources(paths.values())
        self.paths: Mapping[str, Path] = paths
        self.sources: Mapping[str, ModuleSource] = {
            name: sources[path] for name, path in paths.items()
        }
        self._direct: dict[str, frozenset[str]] = {}

    def closure(self, modules: Iterable[str]) -> frozenset[str]:
        """Those of the given modules that are the package's, and all that they import in turn."""
        waiting = [module for module in modules if module in self.sources]
        found = set(waiting)
        while waiting:
            new = self._imported(waiting.pop()) - found
            found |= new
            waiting.extend(new)
        return frozenset(found)

    def known(self, names: Iterable[str]) -> frozenset[str]:
        """The package's modules that importing these dotted names would execute."""
        parts = [self._by_place(name).split(".") for name in names]
        every = {".".join(part[: end + 1]) for part in parts for end in range(len(part))}
        return frozenset(every & self.sources.keys())

    def _imported(self, module: str) -> frozenset[str]:
        if module not in self._direct:
            package = self.paths[module].name == "__init__.py"
            parent = module if package else module.rpartition(".")[0]
            names = (resolve_name(name, parent) for name in self.sources[module].imports)
            self._direct[module] = self.known([*names, parent])
        return self._direct[module]

    @staticmethod
    def _by_place(name: str) -> str:
        """Resolve a public short name of `tasks` to the module's full dotted name."""
        head, _, rest = name.removeprefix("tasks.").partition(".")
        place = tasks.PUBLIC.get(head) if name.startswith("tasks.") else None
        return name if place is None else f"{place}.{rest}".rstrip(".")

    @cached_property
    def digests(self) -> dict[str, str]:
        """Digest of each module's syntax tree, by module name."""
        return {name: source.digest for name, source in self.sources.items()}


def source_modules(
    name: str, own: ModuleSource, imported: Mapping[str, ModuleSource], folder: Path = TASKS
) -> dict[str, str]:
    """Digests of the modules that a user's code consists of, by name.

    These are the code itself, under the given name, the package's modules that it or one of
    `imported` imports, and `imported`: the user's other modules that it imports (see
    `pipeline.catalogue.code.imported`).
    """
    code = Code(folder)
    names = {
        name
        for source in (own, *imported.values())
        for name in source.imports
        if not name.startswith(".")
    }
    return {
        name: own.digest,
        **{module: code.digests[module] for module in sorted(code.closure(code.known(names)))},
        **{module: imported[module].digest for module in sorted(imported)},
    }


def source_digest(modules: Mapping[str, str], imported: Container[str]) -> str:
    """Digest of a user's code, 64 hexadecimal digits, from its `source_modules`."""
    parts = (f"{name} {seen}" if name in imported else seen for name, seen in modules.items())
    return hashlib.sha256(",".join(parts).encode()).hexdigest()


def _module(folder: Path, path: Path) -> str:
    parts = path.relative_to(folder.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
