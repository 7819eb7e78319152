"""Whether the code is still the code that results were made with.

`fingerprints.json`, beside the code of `tasks`, records the digest of every module's syntax
tree and the version of every spec class. A node whose code differs from the record is decided
where a class that answers for that code has a higher version: its digest is then another one,
and nothing old is served. Else a person decides: by raising a version, or by `pipeline accept`.

A check records what versions decided, under `nodes` and for the checked nodes alone, so that
the next edit is seen, and so that other nodes that share the code still ask. `accept` records
everything as it is now and empties `nodes`.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.catalogue.code.digests import TASKS, Code
from pipeline.problems import BadInput
from pipeline.store.files import replace_text
from tasks.specs import Kind, Spec

RECORD = "fingerprints.json"


class UndecidedCode(BadInput):
    """Code that changed, and nobody has said whether its results did."""


@dataclass(frozen=True)
class KindCode:
    """One kind of node: the spec classes in it, and the modules that perform it.

    A class answers for the modules that its own imports. The classes that are no `Kind`
    describe the node itself, so they answer for the performing modules as well.
    """

    classes: frozenset[type[Spec]]
    modules: frozenset[str] = frozenset()


@dataclass
class Fingerprints:
    """What a fingerprint file holds. `nodes` overrides the rest for some kinds of node."""

    modules: dict[str, str] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)
    nodes: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)

    def of(self, node: str) -> tuple[dict[str, str], dict[str, int]]:
        """The digests and the versions that a kind of node was last decided with."""
        own = self.nodes.get(node, {})
        return (
            {**self.modules, **own.get("modules", {})},
            {**self.versions, **own.get("versions", {})},
        )

    def decide(self, node: str, modules: Mapping[str, str], versions: Mapping[str, int]) -> None:
        """Record a kind of node as it is now."""
        self.nodes[node] = {
            "modules": {k: v for k, v in modules.items() if self.modules.get(k) != v},
            "versions": {k: v for k, v in versions.items() if self.versions.get(k) != v},
        }

    def text(self) -> str:
        """The file's text; without `nodes` where it is empty."""
        content: dict[str, object] = {"modules": self.modules, "versions": self.versions}
        if self.nodes:
            content["nodes"] = self.nodes
        return json.dumps(content, indent=1, sort_keys=True) + "\n"


def check(entries: Collection[KindCode], folder: Path = TASKS) -> list[str]:
    """Raise UndecidedCode where code of these nodes changed and no version decides it.

    Returns lines for the user: which versions were recorded, or why they could not be.
    """
    code, record = Code(folder), read_record(folder)
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
    """Record all code and all versions as they are now; returns the file."""
    path = folder / RECORD
    replace_text(path, present(folder).text())
    return path


def present(folder: Path = TASKS) -> Fingerprints:
    """What `accept` would record. Imports every module of the package."""
    code = Code(folder, fresh=True)
    classes = {_name(cls): cls.version for module in code.paths for cls in _spec_classes(module)}
    return Fingerprints(modules=code.digests, versions=classes)


def read_record(folder: Path = TASKS) -> Fingerprints:
    """The fingerprint file; BadInput where there is none."""
    shown = f"{folder.name}/{RECORD}"
    try:
        content = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return Fingerprints(**content)
    except FileNotFoundError:
        raise BadInput(f"{shown}: missing; restore it, or run `pipeline accept`") from None
    except (ValueError, TypeError):
        raise BadInput(f"{shown}: damaged; restore it, or run `pipeline accept`") from None


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
    """The package's classes of a node, each with the modules it answers for."""
    classes = [cls for cls in entry.classes if cls.__module__ in code.sources]
    performing = code.closure(entry.modules)
    return {
        cls: code.closure([cls.__module__]) | (frozenset() if issubclass(cls, Kind) else performing)
        for cls in classes
    }


def _decides(cls: type[Spec], versions: Mapping[str, int], module_known: bool) -> bool:
    """Whether a class says that code changed: a new class says so of new modules only."""
    recorded = versions.get(_name(cls))
    return not module_known if recorded is None else cls.version > recorded


def _rank(cls: type[Spec], module: str) -> tuple[bool, bool, str]:
    """Whose version to raise: a class of that very module, else the node's own spec."""
    return cls.__module__ != module, not cls.__name__.endswith("Spec"), _name(cls)


def _spec_classes(module: str) -> Iterator[type[Spec]]:
    for value in vars(importlib.import_module(module)).values():
        if isinstance(value, type) and issubclass(value, Spec) and value.__module__ == module:
            yield value


def _shown(module: str, code: Code) -> str:
    return code.paths[module].relative_to(code.folder.parent).as_posix()


def _name(cls: type[Spec]) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
