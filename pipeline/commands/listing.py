"""`pipeline list`: names, each with its meaning in one line, and the runs of a store."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from pipeline.catalogue.catalogue import Catalogue, Section
from pipeline.catalogue.code.own import is_reference
from pipeline.catalogue.documents import Document
from pipeline.commands.compare import runs_of
from pipeline.problems import BadInput, shown
from pipeline.problems.sanitize import clean
from pipeline.store.ledger import Ledger
from pipeline.store.store import Store
from tasks import registry
from tasks.registry import Family

SETTINGS = 3
"""Maximum number of parameters shown for an attack or a defense."""
FEWEST = 16
"""Minimum room for the words of a meaning, in characters; with less, its parameters are dropped."""
CODED: Mapping[str, Family] = {"attacks": "attacks", "defenses": "defenses"}


@dataclass(frozen=True)
class Listed:
    """A name of a section, its meaning, and the file that defines it."""

    name: str
    meaning: str
    path: str

    def facts(self) -> dict[str, object]:
        """The entry as plain values."""
        return {"name": self.name, "meaning": self.meaning, "path": self.path}


def listed_lines(found: Sequence[Listed], *, paths: bool, columns: int | None) -> Iterator[str]:
    """A line for each name, cut to `columns` characters; not cut if None."""
    width = max((len(each.name) for each in found), default=0)
    room = None if columns is None else columns - width - 2
    for each in found:
        said = each.path if paths else each.meaning if room is None else fitting(each.meaning, room)
        yield f"{each.name:{width}}  {said}".rstrip()


def fitting(meaning: str, room: int) -> str:
    """A meaning shortened to `room` characters at a word, keeping the parameters at its end.

    The parameters distinguish similar names. They are dropped if they leave no room for words.
    """
    if len(meaning) <= room:
        return meaning
    said, mark, settings = meaning.rpartition(" (")
    told = f"{mark}{settings}" if mark and settings.endswith(")") else ""
    if not told or room - len(told) < FEWEST:
        said, told = meaning, ""
    most = max(0, room - len(told) - 1)
    return f"{said[: most + 1].rpartition(' ')[0] or said[:most]}…{told}"


def listed(catalogue: Catalogue, section: Section) -> list[Listed]:
    """The names of a section, without importing user code. A broken file's entry is its error."""
    found = []
    for name, path in catalogue.names(section).items():
        try:
            meaning = _meaning(catalogue, section, name)
        except BadInput as problem:
            meaning = str(problem)
        found.append(Listed(name, clean(meaning), shown(path)))
    return found


def listed_runs(
    place: str, grid: str | None, columns: int | None, *, named: bool
) -> tuple[list[dict[str, object]], list[str]]:
    """The runs of a store, as records and as lines that fit the terminal, if there is one.

    Args:
        grid: Only runs of this grid.
        columns: Width of the terminal; None without one.
        named: Whether the store was named on the command line, so that it has to exist.

    Raises:
        BadInput: If the store was named and does not exist.
    """
    store = Store(place)
    if named:
        store.backend.check()
    runs = [run.facts() for run in runs_of(Ledger(store.backend))]
    runs = [run for run in runs if grid in (None, run["grid"])]
    lines = []
    for run in runs:
        cells = f"{run['cells']} cell{'' if run['cells'] == 1 else 's'}, {run['computed']} computed"
        line = f"{run['run']}  {run['time']}  {run['grid']:16} {cells:24}"
        fits = columns is None or len(f"{line} {run['command']}") <= columns
        # on a line of its own if it does not fit, and complete, so that it can be copied
        lines += [f"{line} {run['command']}"] if fits else [line.rstrip(), f"  {run['command']}"]
    return runs, lines


def _meaning(catalogue: Catalogue, section: Section, name: str) -> str:
    document = catalogue.document(section, name)
    value = document.value
    if section == "grids":
        entry, _ = catalogue.grid(name)
        return entry.title
    if section == "models":
        if isinstance(members := value.get("members"), list):
            return f"ensemble of {', '.join(map(str, members))} on {value.get('dataset', '?')}"
        network = value.get("network")
        kind = str(network.get("kind", "network")) if isinstance(network, dict) else "network"
        how = "from a checkpoint"
        if "checkpoint" not in value:
            recipe = value.get("recipe")
            how = f"by {recipe}" if isinstance(recipe, str) else "by a recipe of its own"
        return f"{kind} on {value.get('dataset', '?')}, {how}"
    if section == "datasets":
        dataset = catalogue.dataset(name)
        side = dataset.side_px
        return f"{dataset.count} classes, {side}x{side} pixels, {dataset.kind}"
    if section == "recipes":
        return f"{value.get('method', '?')}, {value.get('epochs', '?')} epochs"
    return _of_code(document, CODED[section])


def _of_code(document: Document, family: Family) -> str:
    """The first sentence of a class's docstring, and the parameters that a file sets."""
    kind = str(document.value.get("kind", ""))
    given = list(_settings(document.value))
    settings = ", ".join(given[:SETTINGS]) + (", …" if len(given) > SETTINGS else "")
    if is_reference(kind):
        said = _docstring_in(document.path if document.path.suffix == ".py" else None, document)
    elif kind in registry.kinds(family):
        said = inspect.getdoc(registry.kind_class(family, kind)) or ""
    else:
        said = f"unknown kind '{kind}'"
    return " ".join(filter(None, [_first_sentence(said), f"({settings})" if settings else ""]))


def _settings(value: Mapping[str, object]) -> Iterator[str]:
    for key, given in value.items():
        if key != "kind" and not isinstance(given, dict) and not _long(given):
            yield f"{key}={_plain(given)}"


def _long(given: object) -> bool:
    return isinstance(given, list) and any(isinstance(each, dict) for each in given)


def _plain(given: object) -> str:
    return yaml.safe_dump(given, default_flow_style=True, width=1000).partition("\n")[0]


def _docstring_in(path: Path | None, document: Document) -> str:
    """The docstring of the first class in a user's file, which is parsed and not executed."""
    if path is None:
        reference = str(document.value.get("kind", "")).partition(":")[0]
        if not reference.endswith(".py"):
            return f"of the package {reference.partition('.')[0]}"
        path = document.path.parent / reference
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError, RecursionError):
        return ""
    classes = (node for node in tree.body if isinstance(node, ast.ClassDef))
    docs = [ast.get_docstring(node) for node in classes]
    return next(filter(None, [*docs, ast.get_docstring(tree)]), "")


def _first_sentence(text: str) -> str:
    paragraph = " ".join(text.partition("\n\n")[0].split()).replace("`", "")
    return paragraph.partition(". ")[0].partition("; see ")[0].rstrip(".")
