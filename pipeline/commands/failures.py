"""`pipeline failures CELL`: where a defense fails, by class, confusion and image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pipeline.commands.records import cell_record
from pipeline.commands.session import Session
from pipeline.grid.cells import Cell
from pipeline.plan.words import counted
from pipeline.problems import BadInput
from pipeline.report.answers import NotTested, stored_answers
from pipeline.report.views.failures import Failures, Moved, failures
from pipeline.report.words.failures import listed, share
from pipeline.report.words.numbers import accuracy, gain

PAIRS = 10
"""Maximum number of confusions that are printed, the most frequent ones."""


def failures_of(session: Session, cell: Cell) -> Failures:
    """Analyse the failures of a cell's defense.

    Raises:
        BadInput: If the cell has no score; the message has the command that computes it.
    """
    node = session.scores[cell.name]
    if session.record(node) is None:
        raise BadInput(
            f"{cell.name}: not computed; pipeline run --grid {session.grid.name} "
            f"--only 'cell={cell.name}'"
        )
    try:
        known = {name: session.scores[name] for name in session.facts()}
        per_image = stored_answers(session.store, known)
        return failures(cell, session.grid, per_image, session.store, session.scores)
    except NotTested as reason:
        raise BadInput(str(reason)) from None


def failures_facts(cell: Cell, found: Failures) -> dict[str, object]:
    """The analysis for programs."""

    def moved(images: Sequence[Moved]) -> list[dict[str, object]]:
        return [vars(each) for each in images]

    return {
        **cell_record(cell),
        "classes": [vars(each) for each in found.classes],
        "confusion_before": None if found.before is None else found.before.tolist(),
        "confusion_after": None if found.after is None else found.after.tolist(),
        "images_won": moved(found.won),
        "images_lost": moved(found.lost),
        "images_that_everything_breaks": list(found.always),
        "images_that_nothing_breaks": list(found.never),
        "of_images": found.common,
        "of_cells": list(found.cells),
    }


def failures_lines(cell: Cell, found: Failures) -> Iterator[str]:
    """The analysis for people."""
    width = max(5, *(len(each.name) for each in found.classes))
    yield cell.name
    compared = any(each.before is not None for each in found.classes)
    none = "none   " if compared else ""
    yield f"  {'class':{width}}  images  {none}{cell.defense}"
    for each in sorted(found.classes, key=lambda one: one.after):
        before = f"{accuracy(each.before):5}  " if compared else ""
        change = "" if each.before is None else f"  ({gain(each.after - each.before)})"
        line = f"  {each.name:{width}}  {each.images:6}  {before}{accuracy(each.after):5}{change}"
        yield line.rstrip()
    if not compared and cell.defense_spec.kind != "none":
        yield "nothing to compare with: the same cell without a defense has no score in this grid"
    names, pairs = found.names, found.pairs()
    if found.after is None:
        yield "which class is taken for which: the store has no predicted classes of this score"
    elif pairs:
        yield "taken for another class, of all answers about that class:"
    for true, named, count in pairs[:PAIRS]:
        assert found.after is not None
        total = int(found.after[true].sum())
        before = "" if found.before is None else f" (none: {share(found.before, true, named)})"
        pair = f"{names.get(true, true)} → {names.get(named, named)}"
        yield f"  {pair:{2 * width + 3}}  {100 * count / total:.0f} %{before}"
    if found.won or found.lost:
        yield f"won beside none: {listed([each.image for each in found.won])}"
        yield f"lost beside none: {listed([each.image for each in found.lost])}"
    if found.cells:
        cells = counted(len(found.cells), "attacked cell")
        of = f"of {found.common} images in {cells} of {cell.model}"
        yield f"that everything breaks, {of}: {listed(found.always)}"
        yield f"that nothing breaks, {of}: {listed(found.never)}"
