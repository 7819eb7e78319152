"""Export and import of results between stores.

By default, scores, cards, weights and the images of a report are exported with their files. Of the
artifacts that they were made from only the records are included: lineage, devices and costs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Container, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, get_args

from pipeline import __version__
from pipeline.commands.session import Session
from pipeline.commands.sharing import configs_of, unpack
from pipeline.grid.kinds import NODE_KINDS
from pipeline.plan.snapshot import Snapshot
from pipeline.problems import BadInput, reason_of, shown
from pipeline.store.bundle import Bundle, open_bundle, write_bundle
from pipeline.store.ledger import CellEntry, Invocation, Ledger
from pipeline.store.recount import contradiction
from pipeline.store.store import Damaged, Record, Store

Omitted = Literal["weights", "images"]
OMITTED: tuple[Omitted, ...] = get_args(Omitted)
"""Parts of an export that can be left out."""


@dataclass
class Arrivals:
    """Result of an import.

    Attributes:
        added: Number of artifacts added, by kind.
        there: Number of artifacts that existed already.
        told: Number of records added without files.
        devices: Devices that the results were computed on.
        clashes: Artifacts that were kept although the file has other content.
        outdated: Number of scores that count as absent, because the store holds other content of
            their ancestors.
    """

    added: Counter[str] = field(default_factory=Counter)
    there: Counter[str] = field(default_factory=Counter)
    told: Counter[str] = field(default_factory=Counter)
    devices: set[str] = field(default_factory=set)
    clashes: list[str] = field(default_factory=list)
    outdated: int = 0
    shared: list[str] = field(default_factory=list)
    """How to use the included configs, in lines."""
    adopted: str | None = None
    """Message about an adopted store of an older version; see `Store.prepare`."""

    @property
    def made_on(self) -> str:
        """Names of the devices that the results were computed on."""
        return ", ".join(sorted(self.devices)) or "an unnamed device"

    @property
    def problems(self) -> list[str]:
        """A line for each problem."""
        lines = [*filter(None, [self.adopted])]
        lines += [f"{clash} (--replace takes the file's)" for clash in self.clashes]
        if self.outdated:
            lines.append(
                f"{self.outdated} scores count as absent: this store holds other content of "
                "what they were made from"
            )
        return lines


def export_results(
    session: Session,
    path: Path,
    *,
    tensors: bool,
    without: Collection[Omitted] = (),
    options: Sequence[str] = (),
) -> Counter[str]:
    """Export the stored results of the selected cells to a bundle; returns the counts by kind.

    The grid's configs and the user's own code are included as text.

    Args:
        tensors: Include the files of all kinds of artifact.
        without: Kinds of files to leave out: those of models, or the images that a report shows.
        options: Command-line options that the grid was loaded with.

    Raises:
        BadInput: If there is nothing to export, an artifact is damaged, or the file cannot be
            written.
    """
    records = list(_standing(session, _parts(tensors=tensors, without=without)))
    whole = Counter(record.kind for record, complete in records if complete)
    if not whole:
        raise BadInput(
            f"nothing to export: store {session.store.address} holds no result of these cells"
        )
    scores = {record.digest for record, _ in records if record.kind == "score"}
    cells = {name: node.digest for name, node in session.chosen.items() if node.digest in scores}
    try:
        write_bundle(
            path,
            records,
            grid=session.grid.name,
            program=__version__,
            cells=cells,
            locate=session.store.path,
            configs=configs_of(session)[0],
            options=options,
        )
    except Damaged as damaged:
        raise BadInput(f"{damaged}; `pipeline verify --set-aside`, then run again") from None
    return whole


def not_held(
    session: Session, counts: Counter[str], *, tensors: bool, without: Collection[Omitted] = ()
) -> Iterator[str]:
    """A line for each part of an export whose files the store does not hold, or not all.

    counts, tensors, without: See `export_results`.
    """
    for part in (*OMITTED, "tensors"):
        wanted = Counter[str](node.kind for node in session.meant if node.info.exported == part)
        lacking = wanted - counts
        if lacking and part in _parts(tensors=tensors, without=without):
            kinds = ", ".join(f"{count} {kind}" for kind, count in lacking.items())
            yield (
                f"{part} not included, since the store does not hold them: {lacking.total()} of "
                f"{wanted.total()} ({kinds})"
            )


def _parts(*, tensors: bool, without: Collection[Omitted]) -> set[str]:
    return {"results", *OMITTED, *(["tensors"] if tensors else [])} - {*without}


def import_results(
    store: Store,
    path: Path,
    *,
    replace: bool,
    configs: Path | None = None,
    options: Sequence[str] = (),
) -> Arrivals:
    """Import a bundle into the store.

    Args:
        replace: Replace existing artifacts that have other content; otherwise they are kept.
        configs: Folder for the included configs; nothing uses it automatically.
        options: Command-line options that name the store.

    Raises:
        BadInput: If the bundle is invalid, in which case the store is not changed.
    """
    arrivals = Arrivals()
    with open_bundle(path, NODE_KINDS) as bundle:
        _check_facts(bundle, path)
        if configs is not None:
            arrivals.shared = unpack(bundle, configs, options)
        arrivals.adopted = store.prepare()
        try:
            # before anything is stored, so that `gc` keeps it even if this is killed
            Ledger(store.backend).want(record.digest for record in bundle.records)
            _take_in(store, bundle, arrivals, replace=replace)
        except OSError as error:
            reason = reason_of(error)
            raise BadInput(f"store {store.address}: cannot be written to: {reason}") from None
        except Damaged as damaged:
            raise BadInput(f"store {store.address}: {damaged}; import the file again") from None
        arrivals.outdated = _outdated(store, bundle.records)
        if arrivals.added:
            _note(store, bundle, path)
    return arrivals


def _check_facts(bundle: Bundle, path: Path) -> None:
    """Raise BadInput if a record contradicts its own files."""
    for record in bundle.whole():
        with TemporaryDirectory() as folder:

            def located(name: str, record: Record = record, folder: str = folder) -> Path:
                target = Path(folder) / name
                bundle.copy(record, name, target)
                return target

            said = contradiction(record, located)
        if said is not None:
            raise BadInput(f"{shown(path)}: {record.kind} {record.digest[:12]}: {said}")


def _standing(session: Session, parts: Container[str]) -> Iterator[tuple[Record, bool]]:
    """Records of the selected cells' artifacts, parents first, and whether to add their files."""
    snapshot = Snapshot(session.store)
    for node in session.meant:
        state = snapshot.state(node, session.graph)
        if state.standing is not None:
            yield state.standing, node.info.exported in parts
        elif state.status == "absent":
            known = session.store.known(node.kind, node.digest)
            if known is not None:
                yield known, False


def _take_in(store: Store, bundle: Bundle, arrivals: Arrivals, *, replace: bool) -> None:
    whole = {record.digest for record in bundle.whole()}
    for record in bundle.records:
        if "device" in record.how:
            arrivals.devices.add(str(record.how["device"]))
        if record.digest in whole:
            _take_in_whole(store, bundle, record, arrivals, replace=replace)
            continue
        known = store.known(record.kind, record.digest)
        # a record beside another store's: of an artifact that is here, the own one counts
        if known is None or (replace and known != record and store.whereabouts(known) is None):
            store.remember(record)
            arrivals.told[record.kind] += 1


def _take_in_whole(
    store: Store, bundle: Bundle, record: Record, arrivals: Arrivals, *, replace: bool
) -> None:
    kind, digest = record.kind, record.digest
    state = store.state(kind, digest)
    if state.status == "damaged":
        store.set_aside(kind, digest)
    standing = state.record
    if standing is not None and standing.content == record.content:
        arrivals.there[kind] += 1
        return
    if standing is not None and not replace:
        arrivals.clashes.append(f"{kind} {digest[:12]}: the store holds other content, which stays")
        return
    if standing is not None:
        store.set_aside(kind, digest)
    store.adopt(record, {name: partial(bundle.copy, record, name) for name in record.files})
    arrivals.added[kind] += 1


def _outdated(store: Store, records: Sequence[Record]) -> int:
    """Number of scores that were made from other content than the store holds."""
    kinds = {record.digest: record.kind for record in records}
    snapshot = Snapshot(store)

    def contradicted(record: Record) -> bool:
        for digest, content in record.lineage.items():
            ancestor = snapshot.stored(kinds[digest], digest).record if digest in kinds else None
            if ancestor is not None and ancestor.content != content:
                return True
        return False

    return sum(contradicted(record) for record in records if record.kind == "score")


def _holds(store: Store, record: Record) -> bool:
    """Whether the store has this content of an artifact, not another one."""
    found = store.state(record.kind, record.digest).record
    return found is not None and found.content == record.content


def _note(store: Store, bundle: Bundle, path: Path) -> None:
    """Record the imported cells in the ledger, so that later changes can be detected.

    Left out are those of which the store kept another score.
    """
    records = {record.digest: record for record in bundle.whole() if _holds(store, record)}
    manifest = bundle.manifest
    cells = {
        name: CellEntry(digest, records[digest].content, records[digest].facts)
        for name, digest in manifest.cells.items()
        if digest in records
    }
    Ledger(store.backend).write(
        Invocation(
            grid=manifest.grid,
            command=["pipeline", "import", str(path)],
            version=__version__,
            cells=cells,
        )
    )
