"""Coverage of the paper: which published numbers have a cell, and which cells have none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter

from pipeline.catalogue.paper import Key, Published
from pipeline.grid.cells import Cell, Table

NAMED = 6
"""Maximum number of items listed by name; of more, only the count is given."""


def key(cell: Cell) -> Key:
    """The key under which the published number of a cell would be."""
    return (cell.stands_for or cell.model, cell.attack, cell.defense)


@dataclass(frozen=True)
class Coverage:
    """Compares cells of a grid with the published numbers."""

    numbers: Mapping[Key, Published]
    cells: Sequence[Cell]
    tables: Sequence[Table]

    @property
    def beside(self) -> list[Cell]:
        """Cells that have a published number."""
        return [cell for cell in self.cells if key(cell) in self.numbers]

    @property
    def alone(self) -> dict[str, list[Cell]]:
        """Cells without a published number, grouped by the first table that contains them."""
        found: dict[str, list[Cell]] = {}
        told = {cell.name for cell in self.beside}
        for table in self.tables:
            cells = [cell for cell in self._of(table) if cell.name not in told]
            if cells:
                found.setdefault(table.name, []).extend(cells)
                told.update(cell.name for cell in cells)
        return found

    @property
    def missing(self) -> dict[Key, Published]:
        """Published numbers without a cell."""
        covered = {key(cell) for cell in self.cells}
        return {key: number for key, number in self.numbers.items() if key not in covered}

    def lines(self) -> Iterator[str]:
        """A summary for people: numbers that are covered or not, and cells without a number."""
        total, missing = _count(self.numbers.values()), self.missing
        left = _count(missing.values())
        if left == total:
            yield f"none of the {total} published numbers is covered: no cell here is one of theirs"
            return
        yield (
            f"{total - left} of the {total} published numbers are covered "
            f"({_cells(len(self.beside))})"
        )
        if left:
            yield f"not covered: {self._left(missing)}"
        alone = self.alone
        if alone:
            count = sum(map(len, alone.values()))
            yield f"{_cells(count)} without a published number:"
        for table in self.tables:
            if table.name in alone:
                yield f"  {table.name}: {self._alone(table, alone[table.name])}"

    def _left(self, missing: Mapping[Key, Published]) -> str:
        if len(missing) <= NAMED:
            return ", ".join(map("/".join, missing))
        of = Counter(table for number in self.numbers.values() for table in number.tables)
        left = Counter(table for number in missing.values() for table in number.tables)
        return ", ".join(
            f"all {of[table]} of {table}"
            if left[table] == of[table]
            else f"{left[table]} of {table}"
            for table in sorted(left)
        )

    def _alone(self, table: Table, cells: Sequence[Cell]) -> str:
        """Describe cells of a table: all, or by complete rows and columns, then single names."""
        mine = self._of(table)
        if len(cells) == len(mine):
            return f"all {len(cells)}"
        told: list[str] = []
        rest = list(cells)
        for part in ("defense", "attack", "model"):
            name = attrgetter(part)
            sizes, alone = Counter(map(name, mine)), Counter(map(name, cells))
            whole = {name(cell): None for cell in rest if alone[name(cell)] == sizes[name(cell)]}
            told += whole
            rest = [cell for cell in rest if name(cell) not in whole]
        told += [cell.name for cell in rest[:NAMED]]
        if len(rest) > NAMED:
            told.append(f"{len(rest) - NAMED} more")
        return f"{len(cells)} of {len(mine)}: {', '.join(told)}"

    def _of(self, table: Table) -> list[Cell]:
        return [
            cell
            for cell in self.cells
            if cell.model in table.models
            and cell.attack in table.attacks
            and cell.defense in table.defenses
        ]


def _count(numbers: Iterable[Published]) -> int:
    """How many numbers the paper prints; one that is in two tables counts twice."""
    return sum(len(number.tables) for number in numbers)


def _cells(count: int) -> str:
    return f"{count} cell" if count == 1 else f"{count} cells"
