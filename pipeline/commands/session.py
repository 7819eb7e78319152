"""A grid opened on a store: what the commands work with."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import __version__
from pipeline.catalogue.catalogue import Catalogue, config_folders
from pipeline.catalogue.code.fingerprint import Entry, check
from pipeline.catalogue.devices import read_devices
from pipeline.execution.events import Observers, RunFinished
from pipeline.execution.executors.starter import Starter
from pipeline.execution.runner import Run
from pipeline.execution.settings import Settings, read_settings
from pipeline.execution.signals import interruptible
from pipeline.execution.watch import Watch
from pipeline.grid.builder import Overrides, load_grid
from pipeline.grid.card_sizes import CardSize
from pipeline.grid.digests import spec_classes
from pipeline.grid.graph import Node
from pipeline.grid.kinds import KINDS
from pipeline.grid.opened import OpenedGrid
from pipeline.grid.selection import selected
from pipeline.plan.estimate import Estimate, estimate
from pipeline.plan.look import Look
from pipeline.plan.planning import Plan, make_plan
from pipeline.plan.speeds import known_speeds
from pipeline.problems import BadInput, Unwritable
from pipeline.sanitize import clean
from pipeline.sanitize import command as fit_to_show
from pipeline.store.ledger import Invocation, Ledger
from pipeline.store.records import Made, how_made
from pipeline.store.store import Record, Store
from tasks.data.spec import DatasetSpec
from tasks.registry import absent
from tasks.specs import Kind, Spec

if TYPE_CHECKING:
    from pipeline.report.answers import PerImage
    from pipeline.report.cards import Card, Cards
    from pipeline.report.sanity import Sanity
    from pipeline.report.scores import Facts


@dataclass(kw_only=True)
class Session(OpenedGrid):
    """A grid that is opened on a store: what the store holds of it, and how the rest is run."""

    store: Store
    settings: Settings
    devices: Path
    ledger: Ledger = field(init=False)
    seen: Look | None = None
    """What a run saw of the store at its end, where it had done all; see `look`."""
    unwritten: str | None = None
    """Why a run could not be written into the ledger."""
    details: str | None = None
    """Where the last run's ledger keeps the tracebacks of what failed, if anything did."""

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.store.ground)

    def examined(self) -> Cards:
        """The integrity cards of the grid's cells as the store holds them now."""
        from pipeline.report.answers import stored_answers
        from pipeline.report.cards import Cards

        answers, facts = stored_answers(self.store, self.scores), self.facts()
        sane = self._sanity(facts, answers)
        return Cards(self.grid, self.cards, self.store, facts, answers, sane)

    def _sanity(self, facts: Mapping[str, Facts], answers: PerImage) -> Sanity:
        """What is known anyway of whether the grid's models and attacks make sense."""
        from pipeline.report.sanity import Sanity

        look = self.look()

        def facts_of(node: Node) -> Facts:
            record = look.standing(node, self.graph)
            return {} if record is None else record.facts

        return Sanity(self.grid.cells, facts, self.scores, facts_of, answers)

    def known_cards(self) -> dict[str, Card]:
        """The cards of cells, by the cells' names, whose models were examined."""
        found = self.examined().all()
        return {name: card for name, card in found.items() if card.verdict != "skipped"}

    def look(self) -> Look:
        """Into the store: what this session's last run saw at its end, if it had done all."""
        return self.seen or Look(self.store)

    def check_code(self) -> list[str]:
        """Stop, as BadInput, at code that changed undecided; returns what versions decided."""
        return check(
            [Entry(classes, frozenset(KINDS[kind].modules)) for kind, classes in self.meant_classes]
        )

    def check_libraries(self) -> None:
        """BadInput where the cells to compute need a library that is not installed here."""
        classes = frozenset[type[Spec]]().union(*(classes for _, classes in self.meant_classes))
        libraries = {cls: cls.library for cls in classes if issubclass(cls, Kind) and cls.library}
        lacking = {cls: name for cls, name in libraries.items() if find_spec(name) is None}
        for node in self.meant if lacking else ():
            for cls, library in lacking.items():
                if cls in spec_classes(node.spec) and self.record(node) is None:
                    raise BadInput(f"{node.kind} of {cls.__name__}: {absent(library)}")

    def plan(self, forced: set[str] | None = None) -> Plan:
        """What the meant cells and their cards lack."""
        return make_plan(self.graph, self.leaves, self.store, forced=forced or ())

    def estimate(self, plan: Plan, *, device: str | None = None, workers: int = 1) -> Estimate:
        """How long a plan's work takes on a named device; see `estimate`."""
        return estimate(
            self.graph,
            plan.todo,
            self.store,
            devices=read_devices(self.devices),
            train_images={cell.dataset_spec: cell.train_images for cell in self.grid.cells},
            device=device,
            workers=workers,
            measured=known_speeds() if device is None else None,
        )

    def record(self, node: Node) -> Record | None:
        """A node's record if it counts as there."""
        return self.look().standing(node, self.graph)

    def facts(self) -> dict[str, Mapping[str, object]]:
        """The scores that the store holds, of any cell of the grid."""
        look = self.look()
        records = {name: look.standing(node, self.graph) for name, node in self.scores.items()}
        return {name: record.facts for name, record in records.items() if record is not None}

    def test_images_by_class(self) -> dict[str, list[int]]:
        """How many test images of each class the data sets have that the store holds."""
        nodes = {node.spec: node for node in self.graph if isinstance(node.spec, DatasetSpec)}
        counts = {}
        for name, spec in {cell.dataset: cell.dataset_spec for cell in self.grid.cells}.items():
            record = self.record(nodes[spec])
            found = record.facts.get("test_images_by_class") if record is not None else None
            if isinstance(found, list):
                counts[name] = [int(count) for count in found]
        return counts

    def made(self) -> dict[str, object]:
        """How what the store holds of this grid was computed: devices and library versions."""
        look = self.look()
        made: set[Made] = set()
        for node in self.graph:
            if not node.info.uses_network:
                continue
            glimpse = look.glimpse(node.kind, node.digest)
            if glimpse is not None:
                made.add(glimpse.made)
            elif (record := self.store.known(node.kind, node.digest)) is not None:
                made.add(how_made(record))
        found: dict[str, set[str]] = {}
        for key, value in itertools.chain.from_iterable(made):
            found.setdefault(key, set()).add(value)
        # records may have been imported: their words are not this machine's
        return {clean(key): clean(", ".join(sorted(values))) for key, values in found.items()}

    def run(
        self,
        observers: Observers,
        *,
        inline: bool,
        address: str | None,
        workers: int | None,
        forced: set[str],
        until: float | None = None,
    ) -> RunFinished:
        """Compute what is missing, to the end or to a Unix time, and write it into the ledger."""
        self.seen = self.details = None
        if address is None:
            self.check_libraries()
        watch = Watch(observers.notify, limit_s=self.settings.node_timeout_s)
        observers = Observers([*observers.members, watch])

        starter = Starter(
            store=self.store,
            settings=self.settings,
            notify=observers.notify,
            inline=inline,
            address=address,
            workers=workers,
            until=until,
        )
        run = Run(
            grid=self.grid,
            graph=self.graph,
            scores=self.chosen,
            cards=self.chosen_cards,
            store=self.store,
            ledger=self.ledger,
            observers=observers,
            start_executor=starter.chosen,
            start_local=starter.local,
            forced=forced,
            cluster_first=address is not None,
            until=until,
        )
        self.ledger.want(node.digest for node in self.meant)
        try:
            with interruptible():
                finished = run.execute()
            self.seen = run.seen
            return finished
        finally:
            watch.close()
            self._write_down(run)

    def _write_down(self, run: Run) -> None:
        """Write a run into the ledger, and the tracebacks of what failed beside it."""
        invocation = Invocation(
            grid=self.grid.name,
            command=fit_to_show(["pipeline", *sys.argv[1:]]),
            version=__version__,
            cells=run.entries(),
        )
        try:
            key = self.ledger.write(invocation)
            if details := run.failure_details():
                place = self.ledger.keep_details(key, details)
                self.details = f"{self.store.address.partition('?')[0]}/{place}"
        except Unwritable as problem:
            # what was computed is there all the same, and is reported
            self.unwritten = str(problem)


def open_session(
    grid: str,
    *,
    store: Path | str,
    configs: Sequence[Path] = (),
    only: Sequence[str] = (),
    overrides: Overrides | None = None,
    settings: Path | None = None,
    device: str | None = None,
    card: CardSize = "quarter",
) -> Session:
    """Read a grid's configs and the settings; BadInput, located, where they do not fit."""
    folders = config_folders(configs)
    catalogue = Catalogue(folders)
    loaded = load_grid(catalogue, grid, overrides)
    how = read_settings(settings or _first_file(folders, "settings.yaml"))
    if device is not None:
        how = how.model_copy(update={"device": device})
    return Session(
        catalogue=catalogue,
        grid=loaded,
        cells=selected(loaded, only),
        card=card,
        store=Store(store),
        settings=how,
        devices=_first_file(folders, "devices.yaml"),
    )


def _first_file(folders: Sequence[Path], name: str) -> Path:
    """A file of the first folder that has it; the program's own folder has every one."""
    return next(folder / name for folder in folders if (folder / name).exists())
