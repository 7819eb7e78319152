"""`pipeline report`, and the end of `pipeline run`: print the tables and write their files."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.catalogue.catalogue import SECTIONS
from pipeline.catalogue.claims import claims
from pipeline.commands.session import Session
from pipeline.execution.events import RunFinished
from pipeline.grid.cells import Grid
from pipeline.observers.tracking.results import Results
from pipeline.observers.tracking.server import name_in_ledger
from pipeline.problems import BadInput, Unwritable
from pipeline.report.kept import KeptReport
from pipeline.report.scores import PAGE, Scores
from pipeline.report.views.verdicts import verdict_rows
from pipeline.store.files import stamps

if TYPE_CHECKING:
    from rich.console import Console

FOR_FILES = ("polars", "matplotlib", "great_tables")
"""What writing a report's files needs, and computing does not."""


DOUBTS = "doubts"
"""Under what a kept report has what makes no sense, beside what was printed on terminals."""


@dataclass(frozen=True)
class Reported:
    """page: the path of the report's page, None where no files were written; doubts: what makes
    no sense about the grid's models and attacks, a line each."""

    page: Path | None
    doubts: Sequence[str]


def report_grid(
    session: Session,
    reports: Path,
    *,
    as_json: bool,
    finished: RunFinished | None = None,
    uri: str = "",
    again: Sequence[str] = (),
) -> Reported:
    """Write the tables of what the store holds and print them; returns what came of it.

    uri: the tracking server that the page links to, if it has pages; again: words that a
    command which computes a cell anew needs besides the grid and the cell. Where a library that
    files need is not installed, that is said, and there is no page. BadInput or Unwritable, once
    all is printed, where the files cannot be written. A run that computed nothing leaves a
    report alone that would become the same.
    """
    links = _links(session, uri)
    printer = _Printer(session, finished, as_json=as_json)
    kept = _kept(session, finished, reports, links, again)
    if kept is not None and not _computed(finished):
        text = kept.shown(printer.terminal)
        if text is not None:
            doubts = (kept.shown(DOUBTS) or "").splitlines()
            printer.repeat(text, doubts)
            return Reported(reports / session.grid.name / PAGE, doubts)
    scores = known_scores(session, finished)
    doubts = [doubt.line for doubt in scores.doubts]
    page, trouble = None, None
    try:
        page = _files(session, scores, reports, links, again)
    except (BadInput, Unwritable) as error:
        trouble = error
    text = printer.show(scores, doubts)
    if trouble is not None:
        raise trouble
    if page is not None and kept is not None:
        kept.keep(printer.terminal, text)
        kept.keep(DOUBTS, "\n".join(doubts))
    return Reported(page, doubts)


def _computed(finished: RunFinished | None) -> bool:
    return finished is not None and bool(finished.computed)


def _links(session: Session, uri: str) -> dict[str, str]:
    """Cell's name → its page on the tracking server, if that has pages."""
    known = Results(
        session.grid,
        session.scores,
        session.store,
        session.ledger,
        name_in_ledger(uri, session.ledger),
        snapshot=session.snapshot,
    )
    return known.links(uri)


def _kept(
    session: Session,
    finished: RunFinished | None,
    reports: Path,
    links: Mapping[str, str],
    again: Sequence[str],
) -> KeptReport | None:
    """What is kept of the report that would become the same; None where that cannot be known."""
    if finished is None or session.last_snapshot is None:
        return None
    parts = _made_from(session, finished, links, again)
    return KeptReport(reports / session.grid.name, parts)


def known_scores(session: Session, finished: RunFinished | None = None) -> Scores:
    """All that is reported of the grid's cells as the store holds them."""
    from pipeline.report.paper import references_of

    cards = session.examined()
    return Scores(
        facts=cards.facts,
        missing=finished.missing if finished is not None else {},
        digests={name: node.digest for name, node in session.scores.items()},
        published=references_of(session.grid, session.catalogue),
        by_class=session.test_images_by_class(),
        per_image=cards.per_image,
        cards=cards.all(),
        doubts=cards.sanity.doubts() if cards.sanity is not None else (),
        claims=claims(session.catalogue),
    )


def _files(
    session: Session,
    scores: Scores,
    reports: Path,
    links: Mapping[str, str],
    again: Sequence[str],
) -> Path | None:
    """Write the files; the page's path, None, and a line, where a library that it takes is absent.

    BadInput or Unwritable where they cannot be written.
    """
    absent = [name for name in FOR_FILES if importlib.util.find_spec(name) is None]
    if absent:
        from rich.console import Console

        line = f"no files of tables written: not installed: {', '.join(absent)}"
        Console(stderr=True).print(line, markup=False, highlight=False, soft_wrap=True)
        return None
    from pipeline.report.views.pictures import Artifacts
    from pipeline.report.writer import write_report

    # the gallery asks networks, and one of a user's own may print: stdout is the answer's
    with contextlib.redirect_stdout(sys.stderr):
        return write_report(
            session.grid,
            scores,
            reports,
            session.provenance(),
            Artifacts(session.store, session.scores),
            again=[word for word in again if word != "--force"],
            links=links,
        )


class _Printer:
    """Prints a report on stdout: tables for a person, or an answer for a program."""

    def __init__(self, session: Session, finished: RunFinished | None, *, as_json: bool) -> None:
        from rich.console import Console

        self._session, self._finished, self._as_json = session, finished, as_json
        self._console = Console()
        self.terminal = "none" if as_json else _sort_of(self._console)

    def show(self, scores: Scores, doubts: Sequence[str]) -> str:
        """Print the report; the text that a person saw."""
        if self._as_json:
            self._answer(scores, doubts)
            return ""
        from pipeline.report.formats.terminal import render_terminal

        console = self._console
        with console.capture() as printed:
            console.print(render_terminal(self._session.grid, scores, width=console.width))
        console.file.write(printed.get())
        return printed.get()

    def repeat(self, text: str, doubts: Sequence[str]) -> None:
        """Print what is known to be the report's text."""
        self._console.file.write(text)
        if self._as_json:
            self._answer(known_scores(self._session, self._finished), doubts)

    def _answer(self, scores: Scores, doubts: Sequence[str]) -> None:
        _answer(self._session.grid, scores, self._finished, doubts)


def _answer(
    grid: Grid, scores: Scores, finished: RunFinished | None, doubts: Sequence[str]
) -> None:
    """The scores, the verdicts, and how the run went, for a program."""
    answer: dict[str, object] = {
        "grid": grid.name,
        "verdicts": [row.facts() for row in verdict_rows(grid, scores)],
        "cells": scores.facts,
        "doubts": list(doubts),
    }
    if finished is not None:
        answer |= {
            "missing": finished.missing,
            "computed": finished.computed,
            "seconds": finished.seconds,
            "interrupted": finished.interrupted,
        }
    json.dump(answer, sys.stdout, indent=1)
    sys.stdout.write("\n")


def _sort_of(console: Console) -> str:
    """What decides how tables look on a terminal."""
    return f"{console.width} {console.color_system} {console.no_color} {console.encoding}"


def _made_from(
    session: Session, finished: RunFinished, links: Mapping[str, str], again: Sequence[str]
) -> Iterator[object]:
    """All that a report of a grid follows from, the code aside.

    What each artifact holds, seconds that scores took, and the names under which all is shown;
    published numbers and the like are told by the config files that they come from.
    """
    snapshot, graph = session.snapshot(), session.graph
    for node in graph:
        summary = snapshot.summary(node.kind, node.digest)
        yield node.digest, summary and summary.content
    yield session.facts()
    yield session.provenance()
    yield session.grid.title, session.grid.tables
    for cell in session.grid.cells:
        card = session.cards.get(cell.name)
        yield cell.name, cell.dataset, session.scores[cell.name].digest, card and card.digest
    yield finished.missing, links, again
    files = (session.catalogue.names(section).values() for section in SECTIONS)
    yield stamps(itertools.chain.from_iterable(files))
