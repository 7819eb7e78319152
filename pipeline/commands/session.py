"""A session: a grid with its store and settings, which commands and the API work with."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from pipeline import __version__
from pipeline.catalogue.catalogue import Catalogue, config_folders
from pipeline.catalogue.code.data import IN_NO_DIGEST, data_note
from pipeline.catalogue.code.fingerprint import KindCode, check
from pipeline.catalogue.code.known import declared_at
from pipeline.catalogue.code.members import lookalikes
from pipeline.catalogue.devices import read_devices
from pipeline.catalogue.sources.locate import UNNAMED
from pipeline.commands.view import StoredGrid, open_stored_grid
from pipeline.execution.events import Observers, RunFinished
from pipeline.execution.executors.starter import Starter
from pipeline.execution.runner import Run
from pipeline.execution.settings import Settings, read_settings
from pipeline.execution.signals import interruptible
from pipeline.execution.watch import Watch
from pipeline.execution.work.contract import contract_verdict, own_parts, title
from pipeline.grid.builder import Overrides
from pipeline.grid.digests import parts_of, spec_classes
from pipeline.grid.graph import Node
from pipeline.grid.kinds import KINDS, CardSize
from pipeline.plan.estimate import Estimate, estimate
from pipeline.plan.planning import Plan
from pipeline.plan.speeds import known_speeds
from pipeline.problems import BadInput, Unwritable
from pipeline.problems.sanitize import command as fit_to_show
from pipeline.store.ledger import Invocation
from tasks.defenses.base import Defense
from tasks.registry import absent
from tasks.specs import Kind, Spec


@dataclass(kw_only=True, repr=False)
class Session(StoredGrid):
    """A grid with its store, and the settings to compute what is missing.

    Returned by `pipeline.load_grid`.
    """

    settings: Settings
    devices: Path
    unwritten: str | None = None
    """Why the last run could not be written to the ledger; None if it was."""
    details: str | None = None
    """Location of the tracebacks of the last run's failures; None if there are none."""

    def check_code(self) -> list[str]:
        """Check for undecided code changes; returns lines about versions that settled changes.

        Raises:
            BadInput: If code changed and no version was raised; see `fingerprint.check`.
        """
        return check(
            [
                KindCode(classes, frozenset(KINDS[kind].modules))
                for kind, classes in self.meant_classes
            ]
        )

    def check_needs(self, forced: set[str], *, here: bool) -> None:
        """Check that what the nodes to compute need is here.

        Args:
            forced: Digests of nodes to compute even if they are stored.
            here: Whether nodes are computed on this machine, with its libraries and devices.

        Raises:
            BadInput: If a checkpoint's file is not named, a library is not installed, or the
                settings ask for a GPU that is not there.
        """
        classes = frozenset[type[Spec]]().union(*(classes for _, classes in self.meant_classes))
        used = {cls: cls.library for cls in classes if issubclass(cls, Kind) and cls.library}
        lacking = {cls: name for cls, name in used.items() if find_spec(name) is None}
        unnamed = {node.digest: dict(node.files).get(UNNAMED) for node in self.meant}
        on_gpu = self.settings.device == "cuda"
        if not any(unnamed.values()) and not (here and (lacking or on_gpu)):
            return
        todo = self.plan(forced).todo
        if todo and here and on_gpu:
            from pipeline.execution.work.attempt import device_of

            device_of(self.settings)
        for digest in todo:
            if message := unnamed.get(digest):
                raise BadInput(message)
            node = self.graph[digest]
            for cls, library in lacking.items() if here else ():
                if cls in spec_classes(node.spec):
                    raise BadInput(f"{node.kind} of {cls.__name__}: {absent(library)}")

    def check_contracts(self) -> list[str]:
        """Check the user's own defenses and attacks on six images.

        Each version of their code is checked once.

        Returns:
            A line for each violation of the contract that does not prevent the run, and for code
            that reads files of data, whose change recomputes nothing.

        Raises:
            BadInput: If the code is not repeatable, so that its results could not be reproduced, or
                raises an exception, so that it is not known to keep the contract; with file and
                line.
        """
        found: dict[str, None] = {}
        for cell in self.cells:
            data = cell.dataset_spec
            for part in own_parts((cell.defense_spec, cell.attack_spec)):
                verdict = contract_verdict(part, channels=data.channels, side=data.side)
                if verdict.raised or not verdict.repeatable:
                    raise BadInput(verdict.line)
                if verdict.line:
                    found[f"contract: {verdict.line}"] = None
                if verdict.data:
                    found[data_note(type(part).__module__, verdict.data)] = None
        return list(found)

    def notes(self) -> list[str]:
        """Remarks for the user about the selected cells, in lines.

        They say which tables got nothing that was added, what attacks leave out on this machine,
        which of the user's own defenses are evaluated once because they draw no random numbers,
        which members of the user's own classes may be misspelt, and which stored networks were made
        by code that read files of data.
        """
        notes = list(self.grid.notes)
        notes += [note for cell in self.cells for note in cell.attack_spec.notes()]
        parts = (
            part
            for cell in self.cells
            for spec in (cell.defense_spec, cell.attack_spec, cell.model_spec)
            for part in parts_of(spec)
        )
        for part in own_parts(parts):
            for name, (what, near) in lookalikes(type(part)).items():
                notes.append(
                    f"{_named(part, name)}: `{name}` is a new {what}; did you mean `{near}`?"
                )
            if isinstance(part, Defense) and type(part).without_chance:
                told = "draws nothing from `rows`, so it is evaluated once"
                notes.append(f"{_named(part, 'transform')}: {told}")
        for node in self.meant:
            if node.info.local or node.info.trains:
                notes += self._data_notes(node)
        return list(dict.fromkeys(notes))

    def _data_notes(self, model: Node) -> list[str]:
        """What the record of a model says about files of data that its network's code has read."""
        record = self.record(model)
        said = record.how.get("said") if record is not None else None
        lines = map(str, said) if isinstance(said, list) else ()
        return [line for line in lines if IN_NO_DIGEST in line]

    def estimate(self, plan: Plan, *, device: str | None = None, workers: int = 1) -> Estimate:
        """Estimate the duration of a plan; see `pipeline.plan.estimate.estimate`."""
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
        """Compute what is missing, until done or until a Unix time; recorded in the ledger."""
        self.last_snapshot = self.details = None
        self.unreplaced = {}
        self.check_needs(forced, here=address is None)
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
            kinds={node.kind for node in self.meant if not node.info.local},
        )
        run = Run(
            grid=self.grid,
            graph=self.graph,
            scores=self.chosen,
            cards=self.chosen_cards,
            exhibits=self.chosen_exhibits,
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
            self.last_snapshot = run.outcomes.last_snapshot
            self.unreplaced = run.outcomes.unreplaced()
            return finished
        finally:
            watch.close()
            self._write_down(run)

    def _write_down(self, run: Run) -> None:
        """Record a run in the ledger, with the tracebacks of failures."""
        invocation = Invocation(
            grid=self.grid.name,
            command=fit_to_show(["pipeline", *sys.argv[1:]]),
            version=__version__,
            cells=run.outcomes.entries(),
        )
        try:
            key = self.ledger.write(invocation)
            if details := run.outcomes.failure_details():
                place = self.ledger.keep_details(key, details)
                self.details = f"{self.store.address.partition('?')[0]}/{place}"
        except Unwritable as problem:
            # the computed artifacts are stored anyway, and the problem is reported
            self.unwritten = str(problem)


def _named(part: Kind, member: str) -> str:
    """A part of the user's own, with file and line of one of its members."""
    path, line = declared_at(type(part), member) or (part.kind, 1)
    return f"{path}:{line}: {title(part)}"


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
    catalogue: Catalogue | None = None,
    command: Sequence[str] = (),
) -> Session:
    """Load a grid's configs and the settings; see `open_stored_grid`."""
    view = open_stored_grid(
        grid,
        store=store,
        configs=configs,
        only=only,
        overrides=overrides,
        card=card,
        catalogue=catalogue,
        command=command,
    )
    folders = config_folders(configs)
    how = read_settings(settings or _first_file(folders, "settings.yaml"))
    if device is not None:
        how = how.model_copy(update={"device": device})
    return Session(
        catalogue=view.catalogue,
        grid=view.grid,
        cells=view.cells,
        card=view.card,
        store=view.store,
        settings=how,
        devices=_first_file(folders, "devices.yaml"),
    )


def _first_file(folders: Sequence[Path], name: str) -> Path:
    """A file from the first folder that has it; the bundled folder has all of them."""
    return next(folder / name for folder in folders if (folder / name).exists())
