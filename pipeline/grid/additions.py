"""Entries added on the command line: `--add defense=jpeg.py --add attack=pgd --adaptive quick`."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.catalogue.catalogue import Catalogue
from pipeline.catalogue.catalogue import Section as CatalogueSection
from pipeline.catalogue.grid_entries import TableEntry, VariantEntry, label_of, plain_label
from pipeline.grid.cells import Grid, Section
from pipeline.grid.variants import Chosen
from pipeline.problems import BadInput, suggestion

ADAPTIVE = "adaptive-"
"""Prefix of the names of the adaptive attacks; the rest is their budget."""


class Additions:
    """Adds models, attacks and defenses to every table of a grid.

    Args:
        add: Pairs of section and name or file.
        adaptive: Budget of an adaptive attack to add.

    Raises:
        BadInput: If one of them does not exist or cannot be the label of a row.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        add: Sequence[tuple[CatalogueSection, str]],
        adaptive: str | None,
    ) -> None:
        self._added = [(section, catalogue.add(section, choice)) for section, choice in add]
        for section, name in self._added:
            try:
                plain_label(name)
            except ValueError as error:
                raise BadInput(f"--add {section.removesuffix('s')}: {error}") from None
            for part in name.split("+") if section == "defenses" else [name]:
                catalogue.document(section, part)
        if adaptive is not None:
            self._added.append(("attacks", _adaptive_attack(catalogue, adaptive)))
        self._unchanged: list[str] = []

    def grown(self, table: TableEntry) -> TableEntry:
        """A table with the added models, attacks and defenses.

        In the figure of a table they are further curves. A table with a figure of class
        probabilities is not changed.
        """
        if table.figure is not None and table.figure.probabilities:
            self._unchanged.append(table.name)
            return table
        choices: dict[str, tuple[str | VariantEntry, ...]] = {
            "models": table.models,
            "attacks": table.attacks,
            "defenses": table.defenses,
        }
        for section, name in self._added:
            own = {label_of(choice): choice for choice in choices[section]}
            if name in own and own[name] != name:
                raise BadInput(
                    f"--add {section[:-1]}={name}: table '{table.name}' calls a variant "
                    f"'{name}'; rename one of them"
                )
            if name not in own:
                choices[section] = (*choices[section], name)
        return table.model_copy(update=choices)

    def notes(self, grid: Grid) -> tuple[str, ...]:
        """Say to which tables nothing was added, in lines; BadInput if these are all."""
        if not self._added or not self._unchanged:
            return ()
        what = ", ".join(f"{section[:-1]} {name}" for section, name in self._added)
        unchanged = dict.fromkeys(self._unchanged)
        if unchanged.keys() == {table.name for table in grid.tables}:
            raise BadInput(
                f"{what}: grid '{grid.name}' has only tables of class probabilities, to which "
                "nothing can be added"
            )
        return (f"{what}: not in {', '.join(unchanged)}, which shows class probabilities",)

    def refused(self, section: Section, chosen: Chosen, message: str, way: str = "") -> BadInput:
        """The error for an entry of a table, which names `--add` if the entry comes from there.

        Args:
            way: What to do instead, for an entry that was added.
        """
        if (section, chosen.choice) in self._added:
            return BadInput(f"--add {section[:-1]}={chosen.choice}: {message}{way}")
        return chosen.problem(message)


def _adaptive_attack(catalogue: Catalogue, budget: str) -> str:
    """The name of the adaptive attack of a budget."""
    known = [
        name.removeprefix(ADAPTIVE)
        for name in catalogue.names("attacks")
        if name.startswith(ADAPTIVE)
    ]
    if budget not in known:
        raise BadInput(f"--adaptive {budget}: no such budget{suggestion(budget, known)}")
    return ADAPTIVE + budget
