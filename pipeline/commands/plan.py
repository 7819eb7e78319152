"""`pipeline plan`: what a run would compute, and which published numbers it would cover."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from pipeline.catalogue.paper import published
from pipeline.catalogue.sources.locate import UNNAMED
from pipeline.commands.records import cell_record
from pipeline.commands.session import Session
from pipeline.execution.work.budget import KEPT, PROCESS_BYTES, peak_bytes
from pipeline.grid.coverage import Coverage
from pipeline.grid.kinds import KINDS, NODE_KINDS
from pipeline.plan.estimate import Estimate
from pipeline.plan.planning import Plan
from pipeline.plan.speeds import remember_speed
from pipeline.plan.why import changed_cells
from pipeline.plan.words import counted

SHOWN = 20
"""Maximum number of cells listed by name without `--all`."""
COMPARED = 100
"""Maximum number of cells whose old artifacts are examined for what changed."""


def plan_lines(
    session: Session,
    *,
    forced: set[str],
    every: bool,
    device: str | None,
    workers: int,
    measures: bool = False,
) -> Iterator[str]:
    """The plan for people.

    Args:
        forced: Digests of nodes to compute again.
        every: List all cells to compute.
        device, workers: What to estimate for; see `Session.estimate`.
        measures: Measure the speed of this machine's CPU if it is unknown, which takes some
            seconds.
    """
    made = session.plan(forced)
    # before any output, so that an unknown device is the only message
    estimated = _estimated(session, made, device, workers, measures=measures)
    yield from _absent(session, made)
    yield from session.notes()
    todo = [name for name, node in session.chosen.items() if node.digest in made.todo]
    yield from _named(todo, every=every)
    if made.todo:
        counts = made.by_kind(session.graph)
        nodes = ", ".join(f"{count} {kind}" for kind, count in counts.items())
        yield f"{len(todo)} of {len(session.cells)} cells to compute: {nodes}"
        for change, count in _changed(session, todo).items():
            yield f"changed since {counted(count, 'cell')} had a score: {change}"
        yield from estimated.lines()
        each = worker_gb(session, counts)
        yield (
            f"memory: about {each:.1f} GB a worker, {each * workers:.1f} GB with "
            f"{counted(workers, 'worker')} (`memory_gb` of settings.yaml, "
            f"{PROCESS_BYTES / 1e9:.1f} GB for the program, and {100 * KEPT:.0f} % for freed "
            "memory that is kept)"
        )
    else:
        yield f"nothing to do: {counted(len(session.cells), 'cell')} of grid '{session.grid.name}'"
    yield from coverage(session).lines()


def plan_facts(
    session: Session,
    *,
    forced: set[str],
    device: str | None,
    workers: int,
    measures: bool = False,
) -> dict[str, Any]:
    """The plan for programs; see `plan_lines`."""
    made = session.plan(forced)
    covered = coverage(session)
    return {
        "grid": session.grid.name,
        "cells": [
            {**cell_record(cell), "digest": session.chosen[cell.name].digest}
            for cell in session.cells
            if session.chosen[cell.name].digest in made.todo
        ],
        "nodes": made.by_kind(session.graph),
        "reasons": dict(made.todo),
        "changed": _changed(
            session, [name for name, node in session.chosen.items() if node.digest in made.todo]
        ),
        "estimate": _estimated(session, made, device, workers, measures=measures).facts(),
        "worker_gb": worker_gb(session, made.by_kind(session.graph)),
        "published": {
            "numbers": sum(len(number.tables) for number in covered.numbers.values()),
            "not covered": ["/".join(key) for key in covered.missing],
            "cells with": [cell.name for cell in covered.beside],
            "cells without": [cell.name for cells in covered.alone.values() for cell in cells],
        },
    }


def _estimated(
    session: Session, plan: Plan, device: str | None, workers: int, *, measures: bool
) -> Estimate:
    found = session.estimate(plan, device=device, workers=workers)
    if device is not None or not measures or not found.assumed:
        return found
    from pipeline.execution.work.calibration import calibrate

    for precision in found.assumed:
        remember_speed(precision, calibrate(precision))
    return session.estimate(plan, device=device, workers=workers)


def worker_gb(session: Session, kinds: Collection[str]) -> float:
    """Peak memory of a worker process that computes nodes of these kinds, in GB.

    It depends on the settings' memory limits only, since the batch size is chosen to fit them.
    """
    batched = [kind for kind in NODE_KINDS if kind in kinds and KINDS[kind].batched]
    budgets = (session.settings.of(kind).memory_gb for kind in batched)
    return peak_bytes(max(budgets, default=0.0)) / 1e9


def coverage(session: Session) -> Coverage:
    """The published numbers that the selected cells cover."""
    return Coverage(published(session.catalogue), session.cells, session.grid.tables)


def _changed(session: Session, todo: Collection[str]) -> dict[str, int]:
    """What changed since the cells to compute were last scored, and for how many of them."""
    scores = {name: session.chosen[name] for name in todo}
    grid, store = session.grid.name, session.store
    return changed_cells(grid, scores, store, session.ledger, most=COMPARED)


def _named(cells: Collection[str], *, every: bool) -> Iterator[str]:
    shown = len(cells) if every else SHOWN
    yield from list(cells)[:shown]
    if len(cells) > shown:
        yield f"... and {len(cells) - shown} more (--all names them)"


def _absent(session: Session, made: Plan) -> Iterator[str]:
    """A line for each data set that a run would download first, and each file it asks for."""
    files = {cell.dataset: cell.files for cell in session.cells}
    for name, places in files.items():
        if not all(role == UNNAMED or Path(path).exists() for role, path in places):
            yield f"data set '{name}' is not here yet: a run downloads it, or --data {name}=FOLDER"
    for digest in made.todo:
        if message := dict(session.graph[digest].files).get(UNNAMED):
            yield f"a run needs one more option: {message}"
