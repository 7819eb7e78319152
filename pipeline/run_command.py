"""`pipeline run` and `pipeline report`: compute, tell, write, print."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.events import Observers, RunFinished
from pipeline.problems import BadInput
from pipeline.report_tables import Scores
from pipeline.session import Session, program_version

RETRIES = 5
"""Cells that a command to retry names one by one."""


def run_grid(session: Session, options: Mapping[str, Any]) -> int:
    """Run the chosen cells; returns the exit code."""
    from rich.console import Console

    from pipeline.progress import make_progress
    from pipeline.tracking import Tracker
    from pipeline.tracking_server import default_uri, shown

    errors = Console(stderr=True)
    decided = session.check_code()
    if options["inline"] and (options["address"] or options["workers"]):
        raise BadInput(
            "--inline runs in this process; it goes with neither --address nor --workers"
        )
    session.store.prepare()
    uri = options["mlflow_uri"] or default_uri(Path.cwd())
    forced = session.forced(options["start"]) if options["force"] else set()
    tracker = Tracker(
        uri,
        ledger=session.ledger,
        store=session.store,
        grid=session.grid,
        scores=session.scores,
        command=["pipeline", *sys.argv[1:]],
        version=program_version(),
    )
    progress = make_progress(errors, quiet=options["quiet"] or options["as_json"])
    for line in decided:
        errors.print(line, markup=False, highlight=False)
    try:
        finished = session.run(
            Observers([progress, tracker]),
            inline=options["inline"],
            address=options["address"],
            workers=options["workers"],
            forced=forced,
        )
    except BaseException:
        tracker.close()
        raise
    finally:
        progress.close()
    report = report_grid(session, options["reports"], as_json=options["as_json"], finished=finished)
    tracker.finish(report.parent)
    _closing_words(session, finished, report, shown(uri), errors.print)
    if tracker.problem is not None:
        errors.print(f"error: {tracker.problem}", markup=False, highlight=False, soft_wrap=True)
    return _exit_code(finished, tracker.problem)


def report_grid(
    session: Session, reports: Path, *, as_json: bool, finished: RunFinished | None = None
) -> Path:
    """Write the tables of what the store holds and print them; returns the front page's path."""
    from rich.console import Console

    from pipeline.report import write_report
    from pipeline.report_terminal import render_terminal

    scores = Scores(
        facts=session.facts(),
        missing=finished.missing if finished is not None else {},
        digests={name: node.digest for name, node in session.scores.items()},
    )
    page = write_report(session.grid, scores, reports, session.made())
    if as_json:
        answer: dict[str, object] = {"grid": session.grid.name, "cells": scores.facts}
        if finished is not None:
            answer |= {
                "missing": finished.missing,
                "computed": finished.computed,
                "seconds": finished.seconds,
                "interrupted": finished.interrupted,
            }
        json.dump(answer, sys.stdout, indent=1)
        sys.stdout.write("\n")
    else:
        console = Console()
        console.print(render_terminal(session.grid, scores, width=console.width))
    return page


def _closing_words(
    session: Session, finished: RunFinished, page: Path, server: str, say: Any
) -> None:
    def line(text: str) -> None:
        say(text, markup=False, highlight=False, soft_wrap=True)

    for reason, names in _by_reason(finished).items():
        only = " ".join(f"--only cell={name}" for name in names[:RETRIES])
        more = f"  (and {len(names) - RETRIES} more)" if len(names) > RETRIES else ""
        line(f"failed  {reason}")
        line(f"again   pipeline run --grid {session.grid.name} {only}{more}")
    line(f"report  {page}")
    line(f"store   {session.store.root}")
    line(f"MLflow  {server}  (pipeline ui)")


def _by_reason(finished: RunFinished) -> dict[str, list[str]]:
    if finished.interrupted:
        return {}
    reasons: dict[str, list[str]] = {}
    for name, reason in finished.missing.items():
        reasons.setdefault(reason, []).append(name)
    return reasons


def _exit_code(finished: RunFinished, problem: str | None) -> int:
    if finished.interrupted:
        return 130
    if finished.missing:
        return 1
    return 2 if problem is not None else 0
