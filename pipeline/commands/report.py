"""`pipeline report`, and the end of `pipeline run`: prints the tables and writes the files."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.catalogue.claims import claims
from pipeline.commands.output import discard_stdout, print_json
from pipeline.commands.records import cell_record, swept_values
from pipeline.commands.view import StoredGrid
from pipeline.grid.cells import Grid
from pipeline.observers.tracking.results import Results
from pipeline.observers.tracking.server import name_in_ledger
from pipeline.problems import BadInput, Unwritable, reader_gone, reason_of, unwritable
from pipeline.report.scores import Scores
from pipeline.report.views.verdicts import conclusion, verdict_rows
from pipeline.report.words.verdicts import judged_sentence, plain

if TYPE_CHECKING:
    from pipeline.execution.events import RunFinished

FOR_FILES = ("polars", "matplotlib", "great_tables")
"""Packages that are needed to write a report's files, but not to compute."""


@dataclass(frozen=True)
class Reported:
    """Result of reporting.

    Attributes:
        page: Path of the report's page; None if no files were written.
        doubts: Warnings about the grid's models and attacks, one line each.
        unread: Why not everything could be printed on stdout; None if it was.
    """

    page: Path | None
    doubts: Sequence[str]
    unread: str | None = None


def report_grid(
    view: StoredGrid,
    reports: Path,
    *,
    as_json: bool,
    finished: RunFinished | None = None,
    uri: str = "",
    again: Sequence[str] = (),
    judged: str | None = None,
) -> Reported:
    """Print the tables of the results in the store, and write the report's files.

    Nothing is computed: no network is queried. If a library that the files need is not installed, a
    message says so and no files are written.

    Args:
        view: The grid and its store.
        reports: Folder for the files.
        as_json: Print JSON instead of tables.
        finished: Result of the run, if the report follows one.
        uri: Tracking server that the page links to, if that has web pages.
        again: Further options of commands, shown in the report, that compute a cell again.
        judged: The defense that the grid is about: only its verdicts follow the tables, and the
            JSON has its overall answer.

    Raises:
        BadInput, Unwritable: If the files cannot be written; raised after printing.
    """
    links = _links(view, uri)
    scores = known_scores(view, finished)
    doubts = [doubt.line for doubt in scores.doubts]
    page, trouble, unread = None, None, None
    try:
        page = _files(view, scores, reports, links, again)
    except (BadInput, Unwritable) as error:
        trouble = error
    try:
        if as_json:
            _answer(view.grid, scores, finished, doubts, judged)
        else:
            _print(view, scores, judged)
    except (OSError, SystemExit) as error:
        if reader_gone(error):
            unread = "the reader of stdout is gone"
        elif isinstance(error, OSError):
            unread = f"stdout cannot be written: {reason_of(error)}"
        else:
            raise
        discard_stdout()
    if trouble is not None:
        raise trouble
    return Reported(page, doubts, unread)


def check_folder(folder: Path) -> None:
    """Check in advance that a report's files can be written into a folder, without making it.

    Raises:
        BadInput: If they cannot.
    """
    if _absent():
        return
    if (reason := unwritable(folder)) is not None:
        raise BadInput(f"reports {folder}: cannot be written: {reason}; choose another: --reports")


def _absent() -> list[str]:
    """The packages that are needed to write a report's files and are not installed."""
    return [name for name in FOR_FILES if importlib.util.find_spec(name) is None]


def _links(view: StoredGrid, uri: str) -> dict[str, str]:
    """Page of each cell on the tracking server, by cell name, if the server has pages."""
    known = Results(
        view.grid,
        view.scores,
        view.store,
        view.ledger,
        name_in_ledger(uri, view.ledger),
        snapshot=view.snapshot,
    )
    return known.links(uri)


def known_scores(view: StoredGrid, finished: RunFinished | None = None) -> Scores:
    """All data for a report of the grid's cells, as found in the store."""
    from pipeline.report.paper import references_of

    cards = view.examined()
    nodes = view.scores.items()
    unreplaced = {n: view.unreplaced[s.digest] for n, s in nodes if s.digest in view.unreplaced}
    return Scores(
        facts=cards.facts,
        missing={**unreplaced, **(finished.missing if finished is not None else {})},
        digests={name: node.digest for name, node in view.scores.items()},
        published=references_of(view.grid, view.catalogue),
        by_class=view.test_images_by_class(),
        per_image=cards.per_image,
        cards=cards.all(),
        doubts=cards.sanity.doubts() if cards.sanity is not None else (),
        claims=claims(view.catalogue),
        devices=view.devices_by_cell(),
    )


def _files(
    view: StoredGrid,
    scores: Scores,
    reports: Path,
    links: Mapping[str, str],
    again: Sequence[str],
) -> Path | None:
    """Write the files; returns the path of the page, or None if a library is missing.

    Raises:
        BadInput, Unwritable: If they cannot be written.
    """
    if absent := _absent():
        from rich.console import Console

        line = f"no files of tables written: not installed: {', '.join(absent)}"
        Console(stderr=True).print(line, markup=False, highlight=False, soft_wrap=True)
        return None
    from pipeline.report.views.pictures import Artifacts
    from pipeline.report.writer import write_report

    # user code may print, and stdout is for results
    with contextlib.redirect_stdout(sys.stderr):
        return write_report(
            view.grid,
            scores,
            reports,
            view.provenance(),
            Artifacts(view.store, view.scores, view.exhibits),
            again=[word for word in again if word != "--force"],
            links=links,
        )


def _print(view: StoredGrid, scores: Scores, judged: str | None) -> None:
    """Print the tables of the selected cells, fitted to the terminal."""
    from rich.console import Console

    from pipeline.report.formats.terminal import render_terminal

    console = Console()
    bold, width = console.is_terminal, console.width
    shown = render_terminal(
        view.grid, scores, width=width, asked=view.cells, judged=judged, bold=bold
    )
    console.print(shown)


def _answer(
    grid: Grid,
    scores: Scores,
    finished: RunFinished | None,
    doubts: Sequence[str],
    judged: str | None,
) -> None:
    """Print scores, verdicts and the result of the run as JSON."""
    rows = verdict_rows(grid, scores)
    own = [row for row in rows if row.defense == judged]
    overall: dict[str, object] = {}
    if own:
        found = conclusion(own)
        overall = {"conclusion": found, "sentence": plain(judged_sentence(own, found))}
    told: dict[str, object] = {
        "grid": grid.name,
        **overall,
        "verdicts": [row.facts() for row in rows],
        "cells": [
            {
                **cell_record(cell),
                "parameters": swept_values(cell, grid.tables),
                **scores.facts[cell.name],
            }
            for cell in grid.cells
            if cell.name in scores.facts
        ],
        "doubts": list(doubts),
    }
    if finished is not None:
        told |= {
            "missing": finished.missing,
            "computed": finished.computed,
            "seconds": finished.seconds,
            "interrupted": finished.interrupted,
        }
    print_json(told)
