"""`pipeline compare A B`: compares two runs, two stores, or two defenses, attacks or models."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pipeline.commands.session import Session
from pipeline.grid.selection import SECTIONS, asked, matches
from pipeline.problems import BadInput, suggestion
from pipeline.report.views.comparison import Comparison, Place, Side, compare
from pipeline.store.layout import MARKER
from pipeline.store.ledger import CellEntry, Invocation, Ledger
from pipeline.store.store import Store

RUN = re.compile(r"last(?:~([0-9]{1,6}))?|[0-9a-f]{4,8}")
"""Names a run: `last`, `last~N`, or an identifier that `list runs` prints."""

IN_LEDGER = ("model", "attack", "defense", "seed", "cell")
"""Keys of `--only` for cells of which only what a ledger holds is known."""


@dataclass(frozen=True)
class RunListed:
    """A run as listed by `pipeline list runs`."""

    identifier: str
    invocation: Invocation

    def facts(self) -> dict[str, object]:
        """The run as plain values."""
        found = self.invocation
        scored = [cell for cell in found.cells.values() if cell.facts is not None]
        return {
            "run": self.identifier,
            "time": time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(found.time)),
            "grid": found.grid,
            "cells": len(scored),
            "computed": sum(cell.computed for cell in scored),
            "command": " ".join(found.command),
            "user": found.user,
            "host": found.host,
            "version": found.version,
        }


def runs_of(ledger: Ledger) -> list[RunListed]:
    """The runs on a store that scored any cell, latest first."""
    found = (RunListed(name, run) for name, run in ledger.runs.items() if _scored(run.cells))
    return list(found)[::-1]


def _with_last(store: Store, before: str | None, grid: str | None) -> tuple[str, str]:
    """What the last run is compared with, and the last run, as `last~N`.

    Args:
        before: The latest earlier run that shares a scored cell with it, if None.
        grid: The grid of the last run, if one was named.

    Raises:
        BadInput: If there is no such run.
    """
    runs = runs_of(Ledger(store.backend))
    places = (place for place, run in enumerate(runs) if grid in (None, run.invocation.grid))
    if (last := next(places, None)) is None:
        of = "" if grid is None else f" of grid {grid}"
        raise BadInput(f"compare: store {store.address} has no run{of} that scored a cell")
    after = f"last~{last}" if last else "last"
    if before is not None:
        return before, after
    if (earlier := _run_before(runs, last)) is None:
        raise BadInput(
            f"compare: store {store.address} has no earlier run of these cells of grid "
            f"{runs[last].invocation.grid}; run it again after a change, or name two defenses, "
            "attacks or models of the grid"
        )
    return earlier, after


def _run_before(runs: Sequence[RunListed], place: int) -> str | None:
    """The latest run before the one at `place` that shares a scored cell with it, as `last~N`."""
    later = runs[place].invocation
    cells = _scored(later.cells).keys()
    for back, run in enumerate(runs[place + 1 :], place + 1):
        if run.invocation.grid == later.grid and cells & _scored(run.invocation.cells).keys():
            return f"last~{back}"
    return None


def comparison(
    open_grid: Callable[[], Session],
    store: str,
    before: str | None,
    after: str | None,
    *,
    grid: str | None,
    only: Sequence[str] = (),
    others: Sequence[str] = (),
) -> Comparison:
    """Compare two sides: stores, runs, `STORE@RUN`, or names of the grid.

    By default the last run is compared with the latest earlier one that shares a cell with it.

    Args:
        grid: Compare only cells, and by default the last run, of this grid, if it was named.
        only: The `--only` options.
        others: Further options that were given. They choose or change the cells of a grid, which
            runs and stores do not depend on.

    Raises:
        BadInput: If there are such options for runs or stores, if a side is not recognised, or if
            they have no cell in common.
    """
    if after is None:
        before, after = _with_last(Store(store), before, grid)
    assert before is not None
    sides = [_source(text, store) for text in (before, after)]
    if sides[0] is None and sides[1] is None:
        return compare(*_variants(open_grid(), before, after))
    for text, source in zip((before, after), sides, strict=True):
        if source is None:
            raise BadInput(
                f"compare {text}: no store and no run; `pipeline list runs` has those of {store}"
            )
    if others:
        raise BadInput(
            f"compare {before} {after}: runs and stores are compared as they are; leave out "
            f"{', '.join(others)}, or name two defenses, attacks or models of a grid"
        )
    first, second = (source for source in sides if source is not None)
    grids = {grid} if grid is not None else first.grids() & second.grids()
    whole = first.side(before, grids), second.side(after, grids)
    if not whole[0].cells.keys() & whole[1].cells.keys():
        hint = _instead(first, second, after, grid)
        raise BadInput(f"compare {before} {after}: they have no scored cell in common{hint}")
    found = first.side(before, grids, only), second.side(after, grids, only)
    if not found[0].cells and not found[1].cells:
        raise BadInput(f"compare {before} {after}: no scored cell of theirs matches every --only")
    return compare(*found)


@dataclass(frozen=True)
class _Source:
    """A selection of a store's runs; the latest score of each cell counts.

    run: which one it is, if it is one.
    """

    store: Store
    runs: Sequence[Invocation]
    run: RunListed | None = None

    def grids(self) -> set[str]:
        return {run.grid for run in self.runs if _scored(run.cells)}

    def side(self, name: str, grids: set[str], only: Sequence[str] = ()) -> Side:
        """The scores in some grids that match the `--only` options.

        name: as typed; that of a run is followed by which it is.
        """
        if self.run is not None:
            known = self.run.facts()
            which = "" if self.run.identifier in name else f"{known['run']}, "
            name = f"{name} ({which}{known['time']})"
        several = len(grids) > 1
        cells = {
            _place(cell, run.grid if several else ""): entry
            for run in self.runs
            if run.grid in grids
            for cell, entry in _scored(run.cells).items()
        }
        wanted: dict[str, list[str]] = {}
        for key, pattern in asked(only, IN_LEDGER):
            wanted.setdefault(key, []).append(pattern)
        cells = {
            place: entry
            for place, entry in cells.items()
            if matches(partial(_value, place), wanted)
        }
        return Side(name, self.store, cells)


def _scored(cells: Mapping[str, CellEntry]) -> dict[str, CellEntry]:
    return {name: entry for name, entry in cells.items() if entry.facts is not None}


def _value(place: Place, key: str) -> str:
    return str(getattr(place, key))


def _place(cell: str, grid: str) -> Place:
    """Parse the name of a cell in a ledger, of which nothing else is known."""
    name, sign, seed = cell.rpartition("/seed")
    known = sign and seed.isdigit()
    parts = (name if known else cell).split("/", 2)
    model, attack, defense = (*parts, "", "")[:3]
    return Place(model, attack, defense, int(seed) if known else 0, grid)


def _source(text: str, store: str) -> _Source | None:
    """The store or the run that a side names; None if it names neither."""
    address, sign, run = text.rpartition("@")
    if sign and RUN.fullmatch(run) and _is_store(address):
        return _one_run(Store(address), run)
    if _is_store(text):
        found = Store(text)
        return _Source(found, Ledger(found.backend).invocations)
    if RUN.fullmatch(text):
        return _one_run(Store(store), text)
    return None


def _is_store(text: str) -> bool:
    return "://" in text or (Path(text) / MARKER).is_file()


def _one_run(store: Store, name: str) -> _Source:
    runs = runs_of(Ledger(store.backend))
    if not runs:
        raise BadInput(f"compare {name}: store {store.address} has no run that scored a cell")
    place = RUN.fullmatch(name)
    if name.startswith("last"):
        back = int((place and place[1]) or 0)
        if back >= len(runs):
            raise BadInput(
                f"compare {name}: store {store.address} has only {len(runs)} runs with scores"
            )
        return _Source(store, [runs[back].invocation], runs[back])
    found = [run for run in runs if run.identifier.startswith(name)]
    if len(found) != 1:
        known = suggestion(name, [run.identifier for run in runs])
        what = "several runs begin like this" if found else f"no such run{known}"
        raise BadInput(f"compare {name}: {what}")
    return _Source(store, [found[0].invocation], found[0])


def _instead(first: _Source, second: _Source, after: str, grid: str | None) -> str:
    """Why two sides have no cell in common, and the run that does with the second, if it is one."""
    if grid is not None:
        return f" of grid {grid}"
    if second.run is None:
        apart = first.grids() and second.grids() and not first.grids() & second.grids()
        return "; only cells of grids with the same name are compared" if apart else ""
    runs = runs_of(Ledger(second.store.backend))
    cells = f"cells of {after} (grid {second.run.invocation.grid})"
    earlier = _run_before(runs, runs.index(second.run))
    if earlier is None:
        return f"; no earlier run has {cells}"
    address, sign, _ = after.rpartition("@")
    return f"; the latest earlier run with {cells} is {address}{sign}{earlier}"


def _variants(session: Session, before: str, after: str) -> tuple[Side, Side]:
    """The two sides for two defenses, attacks or models of a grid; all else is paired."""
    names = {
        "defense": {cell.defense for cell in session.grid.cells},
        "attack": {cell.attack for cell in session.grid.cells},
        "model": {cell.model for cell in session.grid.cells},
    }
    for what, known in names.items():
        labels = {name: session.grid.label(SECTIONS[what], name) for name in (before, after)}
        if known.issuperset(labels.values()):
            break
    else:
        everything = set().union(*names.values())
        unknown = next((name for name in (before, after) if name not in everything), None)
        if unknown is None:
            raise BadInput(
                f"compare {before} {after}: name two defenses, two attacks or two models of grid "
                f"'{session.grid.name}'"
            )
        raise BadInput(
            f"compare {unknown}: no store, no run, and no defense, attack or model of grid "
            f"'{session.grid.name}'{suggestion(unknown, everything)}"
        )
    sides = [
        Side(name, session.store, dict(_cells(session, what, labels[name])))
        for name in (before, after)
    ]
    for side in sides:
        if not side.cells:
            raise BadInput(
                f"compare {side.name}: the store has no score of it; "
                f"pipeline run --grid {session.grid.name} --only '{what}={side.name}'"
            )
    return sides[0], sides[1]


def _cells(session: Session, what: str, name: str) -> Iterator[tuple[Place, CellEntry]]:
    """The scored cells of a variant, with the variant's name blanked for pairing."""
    for cell in session.cells:
        node = session.scores[cell.name]
        if getattr(cell, what) != name or (record := session.record(node)) is None:
            continue
        names = {"model": cell.model, "attack": cell.attack, "defense": cell.defense, what: ""}
        place = Place(**names, seed=cell.seed)
        yield place, CellEntry(node.digest, record.content, record.facts)
