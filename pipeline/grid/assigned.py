"""Parameters that the command line sets: `--set guo.draws=10 --set attack.epsilon=4`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.catalogue.documents import Document, Place, read_value
from pipeline.grid.parameters import AnySpec, changed, has_parameter, no_owner, owned
from pipeline.problems import BadInput


@dataclass(frozen=True)
class _CommandLine(Document):
    """The settings of a command line, whose problems are told as its options."""

    path: Path = Path("--set")
    value: dict[str, object] = field(default_factory=dict)

    def problem(self, place: Place, message: str) -> BadInput:
        """A one-line problem of a setting, or of all of them."""
        name = str(place[0]) if place else ""
        if name not in self.value:
            return BadInput(f"{self.path}: {message}")
        return BadInput(f"--set {name}={self.value[name]}: {message}")


def assignments(options: Sequence[str]) -> dict[str, object]:
    """What `--set OWNER.PARAMETER=VALUE` says, by parameter; a value is read as in a config."""
    found: dict[str, object] = {}
    for option in options:
        name, sign, text = option.partition("=")
        name = name.strip()
        if not sign or "." not in name:
            raise BadInput(f"--set {option}: expected NAME.PARAMETER=VALUE, such as guo.draws=10")
        if name in found:
            raise BadInput(f"--set {name}: given twice")
        found[name] = read_value(text, _CommandLine(path=Path(f"--set {name}")))
    return found


class Assigned:
    """Settings for all cells of a grid, and which of them were of use."""

    def __init__(self, values: Mapping[str, object]) -> None:
        self._document = _CommandLine(value=dict(values))
        self._used: set[str] = set()
        self._owners: set[str] = set()

    def applied(self, spec: AnySpec, owner: str, word: str | None = None) -> AnySpec:
        """A spec with what is set of its owner.

        word: `attack` or `model`, which stands for all of them that have the parameter.
        """
        self._owners.add(owner)
        if word is not None:
            self._owners.add(word)
            shared = owned(self._document.value, word)
            fitting = {key: value for key, value in shared.items() if has_parameter(spec, key)}
            spec = self._changed(spec, fitting, word)
        return self._changed(spec, owned(self._document.value, owner), owner)

    def refuse(self, owner: str, message: str) -> None:
        """BadInput where anything is set of an owner that has nothing to set."""
        for key in owned(self._document.value, owner):
            raise self._document.problem((f"{owner}.{key}",), message)

    def _changed(self, spec: AnySpec, changes: Mapping[str, object], owner: str) -> AnySpec:
        self._used.update(f"{owner}.{key}" for key in changes)
        return changed(spec, changes, self._document, (), f"{owner}.")

    def check(self) -> None:
        """BadInput for a setting that nothing in the grid has."""
        for name in self._document.value:
            if name in self._used:
                continue
            owner, _, parameter = name.partition(".")
            if owner in self._owners and owner in {"attack", "model"}:
                message = f"no {owner} of this grid has '{parameter}'"
            else:
                message = no_owner(name, self._owners)
            raise self._document.problem((name,), message)
