"""A grid together with what a store holds of it, read-only."""

from __future__ import annotations

import itertools
import shlex
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.catalogue.catalogue import Catalogue, config_folders
from pipeline.grid.builder import Overrides, load_grid
from pipeline.grid.graph import Node
from pipeline.grid.kinds import CardSize
from pipeline.grid.opened import OpenedGrid
from pipeline.grid.selection import selected
from pipeline.plan.planning import Plan, make_plan
from pipeline.plan.snapshot import Snapshot
from pipeline.problems import BadInput, suggestion
from pipeline.problems.sanitize import clean
from pipeline.store.ledger import Ledger
from pipeline.store.records import Provenance, provenance_of
from pipeline.store.store import Record, Store
from tasks.data.spec import DatasetSpec

if TYPE_CHECKING:
    from pipeline.report.answers import PerImage
    from pipeline.report.cards import Card, Cards
    from pipeline.report.facts import Facts
    from pipeline.report.sanity import Sanity


@dataclass(kw_only=True, repr=False)
class StoredGrid(OpenedGrid):
    """A loaded grid and its store; nothing here writes to the store."""

    store: Store
    ledger: Ledger = field(init=False)
    last_snapshot: Snapshot | None = None
    """State of the store at the end of the last run, if it completed everything; see `snapshot`."""
    unreplaced: Mapping[str, str] = field(default_factory=dict)
    """Reasons, by digest, for the scores and cards that the last run was to compute again and did
    not. What the store has of them is of an earlier run, and is not reported."""

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.store.backend)

    def __repr__(self) -> str:
        """A summary of five lines for notebooks; the store is not read."""

        def counted(what: str, names: Iterable[str]) -> str:
            count = len(set(names))
            return f"{count} {what}{'' if count == 1 else 's'}"

        grid, cells = self.grid, self.cells
        datasets = ", ".join(dict.fromkeys(cell.dataset for cell in cells))
        of = "" if len(cells) == len(grid.cells) else f" of {len(grid.cells)}"
        parts = [
            counted("model", (cell.model for cell in cells)),
            counted("attack", (cell.attack for cell in cells)),
            counted("defense", (cell.defense for cell in cells)),
        ]
        tables = ", ".join(table.name for table in grid.tables)
        return "\n".join(
            [
                f"grid {grid.name}: {grid.title}".rstrip(": "),
                f"{len(cells)}{of} cells: {', '.join(parts)} on {datasets}",
                f"tables: {tables}",
                f"store: {self.store.address}",
                "pipeline.run(session) computes what is missing, pipeline.results(session) has it",
            ]
        )

    def examined(self) -> Cards:
        """The integrity cards of the grid's cells, as found in the store."""
        from pipeline.report.answers import stored_answers
        from pipeline.report.cards import Cards

        facts = self.facts()
        answers = stored_answers(self.store, {name: self.scores[name] for name in facts})
        sane = self._sanity(facts, answers)
        without = frozenset(self.unreplaced)
        return Cards(self.grid, self.cards, self.store, facts, answers, sane, without)

    def _sanity(self, facts: Mapping[str, Facts], answers: PerImage) -> Sanity:
        """Sanity checks of the grid's models and attacks that need no further computation."""
        from pipeline.report.sanity import Sanity

        snapshot = self.snapshot()

        def facts_of(node: Node) -> Facts:
            record = snapshot.standing(node, self.graph)
            return {} if record is None else record.facts

        return Sanity(self.grid.cells, facts, self.scores, facts_of, answers)

    def known_cards(self) -> dict[str, Card]:
        """Integrity cards by cell name, for cells whose model was examined."""
        found = self.examined().all()
        return {name: card for name, card in found.items() if card.verdict != "skipped"}

    def snapshot(self) -> Snapshot:
        """The state of the store; after a run that completed everything, as it was at its end."""
        return self.last_snapshot or Snapshot(self.store)

    def plan(self, forced: set[str] | None = None) -> Plan:
        """What is missing of the selected cells, their cards and exhibits."""
        return make_plan(
            self.graph,
            self.leaves,
            self.store,
            exhibits=self.chosen_exhibits,
            forced=forced or (),
        )

    def record(self, node: Node) -> Record | None:
        """The record of a node if its artifact is valid."""
        return self.snapshot().standing(node, self.graph)

    def facts(self) -> dict[str, Mapping[str, object]]:
        """Scores in the store of all cells of the grid, by cell name; see `unreplaced`."""
        snapshot = self.snapshot()
        records = {
            name: snapshot.standing(node, self.graph)
            for name, node in self.scores.items()
            if node.digest not in self.unreplaced
        }
        return {name: record.facts for name, record in records.items() if record is not None}

    def test_images_by_class(self) -> dict[str, list[int]]:
        """Number of test images of each class, for the data sets whose record the store has.

        The record of an import is sufficient; the files are not needed.
        """
        nodes = {node.spec: node for node in self.graph if isinstance(node.spec, DatasetSpec)}
        counts = {}
        for name, spec in {cell.dataset: cell.dataset_spec for cell in self.grid.cells}.items():
            record = self.store.known("dataset", nodes[spec].digest)
            found = record.facts.get("test_images_by_class") if record is not None else None
            if isinstance(found, list):
                counts[name] = [int(count) for count in found]
        return counts

    def provenance(self) -> dict[str, object]:
        """How the stored results were computed: days, devices, library versions.

        Includes the commit of the program that reports it, if it is known.
        """
        snapshot = self.snapshot()
        found: set[Provenance] = set()
        for node in self.graph:
            if node.info.uses_network:
                found.update(self._provenance(node, snapshot))
        values: dict[str, set[str]] = {}
        for key, value in itertools.chain.from_iterable(found):
            values.setdefault(key, set()).add(value)
        # imported records are untrusted text
        told = {clean(key): clean(", ".join(sorted(each))) for key, each in values.items()}
        days = sorted(self._days())
        if days:
            told = {"computed": " to ".join(dict.fromkeys((days[0], days[-1]))), **told}
        return {**told, **({"commit": commit} if (commit := program_commit()) else {})}

    def devices_by_cell(self) -> dict[str, str]:
        """The devices that the predictions of the scored cells were computed on, by cell name."""
        snapshot = self.snapshot()
        found = {}
        for name, node in self.scores.items():
            made = {
                dict(provenance).get("device", "None")
                for _, parent in node.parents
                for provenance in self._provenance(parent, snapshot)
            } - {"None"}
            if made:
                # imported records are untrusted text
                found[name] = clean(", ".join(sorted(made)))
        return found

    def _provenance(self, node: Node, snapshot: Snapshot) -> Iterator[Provenance]:
        """How a node's artifact was computed, if the store or an import has its record."""
        summary = snapshot.summary(node.kind, node.digest)
        if summary is not None:
            yield summary.provenance
        elif (record := self.store.known(node.kind, node.digest)) is not None:
            yield provenance_of(record)

    def _days(self) -> Iterator[str]:
        """The days on which the grid's scores were written."""
        for node in self.scores.values():
            record = self.store.known(node.kind, node.digest)
            written = record.how.get("written") if record is not None else None
            if isinstance(written, int | float):
                yield time.strftime("%Y-%m-%d", time.gmtime(written))


@cache
def program_commit() -> str | None:
    """The commit of this program, if it runs from its own git checkout."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--exclude", "*"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None


def open_stored_grid(
    grid: str,
    *,
    store: Path | str,
    configs: Sequence[Path] = (),
    only: Sequence[str] = (),
    overrides: Overrides | None = None,
    card: CardSize = "quarter",
    catalogue: Catalogue | None = None,
    command: Sequence[str] = (),
) -> StoredGrid:
    """Load a grid's configs and open its store.

    Args:
        catalogue: Used instead of a new one for `configs`, if more is registered in it.
        command: See `Grid`.

    Raises:
        BadInput: If a config is invalid.
    """
    opened = Store(store)
    if catalogue is None:
        catalogue = Catalogue(config_folders(configs))
        if grid.startswith("judge-") and grid not in catalogue.names("grids"):
            catalogue, overrides, command = _judged(grid, opened, configs, overrides) or (
                catalogue,
                overrides,
                command,
            )
    loaded = replace(load_grid(catalogue, grid, overrides), command=tuple(command))
    return StoredGrid(
        catalogue=catalogue,
        grid=loaded,
        cells=selected(loaded, only),
        card=card,
        store=opened,
    )


def _judged(
    grid: str, store: Store, configs: Sequence[Path], overrides: Overrides | None
) -> tuple[Catalogue, Overrides | None, Sequence[str]] | None:
    """What to load a grid with that `pipeline judge` built in memory, and the command that did.

    It is built again by the command line of its last run. None if the store has no run of `judge`.

    Raises:
        BadInput: If that cannot be done, as where its files are not named.
    """
    from pipeline.commands.judged import opened_again

    runs = Ledger(store.backend).invocations
    judged = {run.grid: run for run in runs if run.command[:2] == ["pipeline", "judge"]}
    if not judged:
        return None
    if (run := judged.get(grid)) is None:
        raise BadInput(f"no grid named '{grid}'{suggestion(grid, judged)}")
    try:
        return *opened_again(run, overrides or Overrides(), configs), run.command
    except BadInput as problem:
        raise BadInput(f"grid '{grid}' is of `{shlex.join(run.command)}`: {problem}") from None
