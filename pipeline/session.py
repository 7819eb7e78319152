"""A grid opened on a store: what the commands work with."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

from pipeline.cell_nodes import CellNodes
from pipeline.config import Catalogue, config_folders
from pipeline.events import Observers, RunFinished
from pipeline.executor import Executor, InlineExecutor
from pipeline.fingerprint import Entry, check
from pipeline.graph import Graph, Node
from pipeline.grid import Cell, Grid, Overrides, load_grid
from pipeline.hashing import spec_classes
from pipeline.ledger import Invocation, Ledger
from pipeline.planning import Look, Plan, make_plan
from pipeline.runner import Run
from pipeline.selection import selected
from pipeline.settings import Settings, read_settings
from pipeline.store import Damaged, Record, Store

TASKS = {
    "dataset": ("tasks.data",),
    "train": ("tasks.train", "tasks.checkpoint"),
    "checkpoint": ("tasks.checkpoint",),
    "craft": ("tasks.craft", "tasks.frozen", "tasks.checkpoint"),
    "defend": ("tasks.defend", "tasks.frozen", "tasks.checkpoint"),
    "score": ("tasks.score",),
}
"""The modules that perform each kind of node."""


def program_version() -> str:
    """The installed version of this program."""
    return version("test-time-defense-bench")


@dataclass
class Session:
    """A grid, the cells of it that are meant, and the store they live in."""

    catalogue: Catalogue
    grid: Grid
    cells: tuple[Cell, ...]
    store: Store
    settings: Settings
    ledger: Ledger = field(init=False)

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.store.root)

    @cached_property
    def _made(self) -> tuple[Graph, dict[str, Node]]:
        return CellNodes().graph(self.grid.cells)

    @property
    def graph(self) -> Graph:
        """The graph of all the grid's cells."""
        return self._made[0]

    @property
    def scores(self) -> dict[str, Node]:
        """The score node of every cell of the grid."""
        return self._made[1]

    @property
    def chosen(self) -> dict[str, Node]:
        """The score nodes of the cells that are meant."""
        return {cell.name: self.scores[cell.name] for cell in self.cells}

    def check_code(self) -> list[str]:
        """Stop, as BadInput, at code that changed undecided; returns what versions decided."""
        entries = {(node.kind, spec_classes(node.spec)) for node in Graph(self.chosen.values())}
        return check([Entry(classes, frozenset(TASKS[kind])) for kind, classes in entries])

    def forced(self, start: str) -> set[str]:
        """Digests that --force computes again: defend and score, and craft from there."""
        kinds = {"defend", "score"} | ({"craft"} if start == "craft" else set())
        return {node.digest for node in Graph(self.chosen.values()) if node.kind in kinds}

    def plan(self, forced: set[str] | None = None) -> Plan:
        """What the meant cells lack."""
        return make_plan(self.graph, self.chosen.values(), self.store, forced=forced or ())

    def record(self, node: Node) -> Record | None:
        """A node's record if it counts as there."""
        look = Look(self.store)
        found = look.record(node.kind, node.digest)
        if isinstance(found, Damaged) or look.why_absent(node, self.graph) is not None:
            return None
        return found

    def facts(self) -> dict[str, Mapping[str, object]]:
        """The scores that the store holds, of any cell of the grid."""
        look = Look(self.store)
        facts = {}
        for name, node in self.scores.items():
            found = look.record(node.kind, node.digest)
            if isinstance(found, Record) and look.why_absent(node, self.graph) is None:
                facts[name] = found.facts
        return facts

    def made(self) -> dict[str, object]:
        """How what the store holds of this grid was computed: devices and library versions."""
        look = Look(self.store)
        found: dict[str, set[str]] = {}
        for node in self.graph:
            record = look.record(node.kind, node.digest)
            if node.kind in {"train", "craft", "defend"} and isinstance(record, Record):
                versions = record.how.get("versions")
                seen = dict(versions) if isinstance(versions, dict) else {}
                for key, value in {"device": record.how.get("device"), **seen}.items():
                    found.setdefault(key, set()).add(str(value))
        return {key: ", ".join(sorted(values)) for key, values in found.items()}

    def run(
        self,
        observers: Observers,
        *,
        inline: bool,
        address: str | None,
        workers: int | None,
        forced: set[str],
    ) -> RunFinished:
        """Compute what is missing, and write it into the ledger."""

        def report(digest: str, progress: object) -> None:
            from pipeline.events import NodeProgress
            from tasks.progress import Progress

            assert isinstance(progress, Progress)
            observers.notify(NodeProgress(digest, progress))

        def local() -> Executor:
            return InlineExecutor(self.store, self.settings, report)

        def start() -> Executor:
            if inline:
                return local()
            from pipeline.ray_executor import RayExecutor

            return RayExecutor(self.store, self.settings, report, address=address, workers=workers)

        run = Run(
            grid=self.grid,
            graph=self.graph,
            scores=self.chosen,
            store=self.store,
            ledger=self.ledger,
            observers=observers,
            start_executor=start,
            start_local=local,
            forced=forced,
        )
        try:
            return run.execute()
        finally:
            self.ledger.write(
                Invocation(
                    grid=self.grid.name,
                    command=["pipeline", *sys.argv[1:]],
                    version=program_version(),
                    cells=run.entries(),
                )
            )


def open_session(
    grid: str,
    *,
    store: Path,
    configs: Sequence[Path] = (),
    only: Sequence[str] = (),
    overrides: Overrides | None = None,
    settings: Path | None = None,
    device: str | None = None,
) -> Session:
    """Read a grid's configs and the settings; BadInput, located, where they do not fit."""
    folders = config_folders(configs)
    catalogue = Catalogue(folders)
    loaded = load_grid(catalogue, grid, overrides)
    path = settings or next(
        folder / "settings.yaml" for folder in folders if (folder / "settings.yaml").is_file()
    )
    how = read_settings(path)
    if device is not None:
        how = how.model_copy(update={"device": device})
    return Session(catalogue, loaded, selected(loaded, only), Store(store), how)
