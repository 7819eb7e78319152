"""Parameters set on the command line: `--set guo.draws=10 --set attack.epsilon=4`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.catalogue.documents import Document, Place, read_value
from pipeline.grid.parameters import AnySpec, changed, has_parameter, no_owner, owned
from pipeline.problems import BadInput


@dataclass(frozen=True)
class _CommandLine(Document):
    """A document made of `--set` options, so that errors are reported as those of the option."""

    path: Path = Path("--set")
    value: dict[str, object] = field(default_factory=dict)

    def problem(self, place: Place, message: str) -> BadInput:
        """A one-line BadInput about the option at `place`, or about all options."""
        name = str(place[0]) if place else ""
        if name not in self.value:
            return BadInput(f"{self.path}: {message}")
        return BadInput(f"--set {name}={self.value[name]}: {message}")


def assignments(options: Sequence[str]) -> dict[str, object]:
    """Parse `--set OWNER.PARAMETER=VALUE` options; values are parsed as in a config file.

    Returns:
        The values by `OWNER.PARAMETER`.
    """
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
    """Applies `--set` options to the specs of a grid, and records which of them had an effect."""

    def __init__(self, values: Mapping[str, object]) -> None:
        self._document = _CommandLine(value=dict(values))
        self._used: set[str] = set()
        self._owners: set[str] = set()

    def applied(self, spec: AnySpec, owner: str, word: str | None = None) -> AnySpec:
        """Apply the options for one owner to its spec.

        Args:
            owner: Name of the attack, defense or model.
            word: `attack` or `model`: also apply options that begin with this word, which are for
                all specs that have the parameter.
        """
        self._owners.add(owner)
        if word is not None:
            self._owners.add(word)
            shared = owned(self._document.value, word)
            fitting = {key: value for key, value in shared.items() if has_parameter(spec, key)}
            spec = self._changed(spec, fitting, word)
        return self._changed(spec, owned(self._document.value, owner), owner)

    def refuse(self, owner: str, message: str) -> None:
        """Raise BadInput if an option sets a parameter of this owner, which has none."""
        for key in owned(self._document.value, owner):
            raise self._document.problem((f"{owner}.{key}",), message)

    def _changed(self, spec: AnySpec, changes: Mapping[str, object], owner: str) -> AnySpec:
        self._used.update(f"{owner}.{key}" for key in changes)
        return changed(spec, changes, self._document, (), f"{owner}.")

    def check(self) -> None:
        """Raise BadInput for an option that matched nothing in the grid."""
        for name in self._document.value:
            if name in self._used:
                continue
            owner, _, parameter = name.partition(".")
            if owner in self._owners and owner in {"attack", "model"}:
                message = f"no {owner} of this grid has '{parameter}'"
            else:
                message = no_owner(name, self._owners)
            raise self._document.problem((name,), message)
