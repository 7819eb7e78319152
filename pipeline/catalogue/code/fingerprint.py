"""Detects changes of the code that may invalidate stored results.

That is the code of `tasks`, and of `pipeline.catalogue.sources`, which decides the pixels and
labels of a data set. `fingerprints.json`, next to the code of `tasks`, records the digest of each
module's syntax tree and the version of each spec class. If the code of a node differs from this
record, the change is settled when the version of a class that is responsible for the code was
raised: the node's digest changes with it, so that no old artifact is reused. Otherwise the user has
to decide: raise a version, or run `pipeline accept`.

A check records the changes that versions settle in the section `nodes`, only for the kinds of node
that it checked. So the next edit is noticed, and other nodes that share the code are still checked.
`accept` records the current state of all code and empties `nodes`.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.catalogue.code.digests import SOURCES, TASKS, Code
from pipeline.problems import BadInput
from pipeline.store.files import replace_text
from tasks.specs import Kind, Spec

RECORD = "fingerprints.json"


class UndecidedCode(BadInput):
    """Code changed, and no version or `pipeline accept` says whether results change with it."""


@dataclass(frozen=True)
class KindCode:
    """One kind of node: the spec classes in it, and the modules that perform it.

    A class is responsible for the modules that its own module imports. Classes that are not a
    `Kind` describe the node itself, so they are also responsible for the modules that perform it.
    """

    classes: frozenset[type[Spec]]
    modules: frozenset[str] = frozenset()


@dataclass
class Fingerprints:
    """The content of a fingerprint file. `nodes` overrides the rest for single kinds of node."""

    modules: dict[str, str] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)
    nodes: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)

    def of(self, node: str) -> tuple[dict[str, str], dict[str, int]]:
        """The module digests and class versions last recorded for a kind of node."""
        own = self.nodes.get(node, {})
        return (
            {**self.modules, **own.get("modules", {})},
            {**self.versions, **own.get("versions", {})},
        )

    def decide(self, node: str, modules: Mapping[str, str], versions: Mapping[str, int]) -> None:
        """Record the current digests and versions of a kind of node."""
        self.nodes[node] = {
            "modules": {k: v for k, v in modules.items() if self.modules.get(k) != v},
            "versions": {k: v for k, v in versions.items() if self.versions.get(k) != v},
        }

    def text(self) -> str:
        """The JSON text of the file; `nodes` is left out if it is empty."""
        content: dict[str, object] = {"modules": self.modules, "versions": self.versions}
        if self.nodes:
            content["nodes"] = self.nodes
        return json.dumps(content, indent=1, sort_keys=True) + "\n"


def check(entries: Collection[KindCode], folder: Path = TASKS) -> list[str]:
    """Check that no code of these nodes changed without a decision.

    Returns:
        Lines to show to the user: which versions were recorded, or why they could not be.

    Raises:
        UndecidedCode: If code changed and no version was raised for it.
    """
    code, record = _code(folder), read_record(folder)
    said: dict[str, None] = {}
    for entry in entries:
        said.update(dict.fromkeys(_check_node(entry, code, record)))
    if said:
        try:
            replace_text(folder / RECORD, record.text())
        except OSError as error:
            shown = f"{folder.name}/{RECORD}"
            return [f"{shown}: not writable ({error.strerror}), so further edits go unnoticed"]
    return list(said)


def accept(folder: Path = TASKS) -> Path:
    """Record the current state of all code and versions; returns the path of the file."""
    path = folder / RECORD
    replace_text(path, present(folder).text())
    return path


def present(folder: Path = TASKS) -> Fingerprints:
    """The fingerprints of the current code. Imports every module of the package."""
    code = _code(folder, fresh=True)
    classes = {_name(cls): cls.version for module in code.paths for cls in _spec_classes(module)}
    return Fingerprints(modules=code.digests, versions=classes)


def read_record(folder: Path = TASKS) -> Fingerprints:
    """Read the fingerprint file; BadInput if it is missing or damaged."""
    shown = f"{folder.name}/{RECORD}"
    try:
        content = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return Fingerprints(**content)
    except FileNotFoundError:
        raise BadInput(f"{shown}: missing; restore it, or run `pipeline accept`") from None
    except (ValueError, TypeError):
        raise BadInput(f"{shown}: damaged; restore it, or run `pipeline accept`") from None


def _code(folder: Path, *, fresh: bool = False) -> Code:
    sources = folder.parent / SOURCES
    return Code(folder, sources if sources.is_dir() else None, fresh=fresh)


def _check_node(entry: KindCode, code: Code, record: Fingerprints) -> Iterator[str]:
    owned = _owned(entry, code)
    node = " + ".join(sorted(map(_name, owned)))
    digests, versions = record.of(node)
    for cls in sorted(owned, key=_name):
        if cls.version < versions.get(_name(cls), cls.version):
            raise UndecidedCode(
                f"{_shown(cls.__module__, code)}: {cls.__name__}.version is {cls.version}, below "
                f"the recorded {versions[_name(cls)]}; restore it, or run `pipeline accept` if "
                f"the code is that of version {cls.version} again"
            )
    now = {module: code.digests[module] for module in frozenset().union(*owned.values())}
    changed = {module for module, digest in now.items() if digests.get(module) != digest}
    for module in sorted(changed):
        owners = [cls for cls, modules in owned.items() if module in modules]
        if not any(_decides(cls, versions, module in digests) for cls in owners):
            cls = min(owners, key=lambda cls: _rank(cls, module))
            raise UndecidedCode(
                f"{_shown(module, code)}: this code changed; if results change, raise the "
                f"version of {_name(cls)}, if they do not, run `pipeline accept`"
            )
    raised = {_name(cls): cls.version for cls in owned}
    if changed or any(versions.get(name) != version for name, version in raised.items()):
        record.decide(node, now, raised)
        for name, version in raised.items():
            if versions.get(name) != version:
                yield f"{name}: version {version} recorded (before: {versions.get(name, 'none')})"


def _owned(entry: KindCode, code: Code) -> dict[type[Spec], frozenset[str]]:
    """The package's spec classes of a node, each with the modules it is responsible for."""
    classes = [cls for cls in entry.classes if cls.__module__ in code.sources]
    performing = code.closure(entry.modules)
    return {
        cls: code.closure([cls.__module__]) | (frozenset() if issubclass(cls, Kind) else performing)
        for cls in classes
    }


def _decides(cls: type[Spec], versions: Mapping[str, int], module_known: bool) -> bool:
    """Whether a class's version settles a change: it was raised, or class and module are new."""
    recorded = versions.get(_name(cls))
    return not module_known if recorded is None else cls.version > recorded


def _rank(cls: type[Spec], module: str) -> tuple[bool, bool, str]:
    """Sort key for the class that an error names: one of that module, else the node's spec."""
    return cls.__module__ != module, not cls.__name__.endswith("Spec"), _name(cls)


def _spec_classes(module: str) -> Iterator[type[Spec]]:
    for value in vars(importlib.import_module(module)).values():
        if isinstance(value, type) and issubclass(value, Spec) and value.__module__ == module:
            yield value


def _shown(module: str, code: Code) -> str:
    return code.paths[module].relative_to(code.folder.parent).as_posix()


def _name(cls: type[Spec]) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
