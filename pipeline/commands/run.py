"""`pipeline run`: computes, logs to MLflow, reports, and prints how the run ended."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import __version__
from pipeline.commands.options import UNEXPECTED, RunOptions
from pipeline.commands.report import Reported, check_folder, report_grid
from pipeline.commands.session import Session
from pipeline.execution.events import Observer, Observers, RunFinished
from pipeline.execution.signals import STOPPED, stopping
from pipeline.problems import BadInput, Unwritable
from pipeline.problems.sanitize import without_secrets
from tasks.registry import installs

if TYPE_CHECKING:
    from rich.console import Console

    from pipeline.observers.tracking.tracker import Tracker

NO_MLFLOW = "not installed; the results wait in the store, and a run with it logs them"
DOUBTS_SHOWN = 8
"""Maximum number of warnings printed at the end of a run."""
RETRIES = 5
"""Maximum number of cells that a suggested retry command lists by name."""


def run_grid(
    session: Session,
    options: RunOptions,
    *,
    only: Sequence[str],
    again: Sequence[str] = (),
    judged: str | None = None,
    followed: Callable[[RunFinished], bool] = lambda _: False,
) -> int:
    """Run the selected cells; returns the exit code.

    Args:
        only: The `--only` options as typed.
        again: Further options for the suggested retry commands.
        judged: See `report_grid`.
        followed: Whether a run is followed by another one, which then reports for both.
    """

    def say(line: str) -> None:
        # not via the console, whose lock the interrupted code may hold
        with contextlib.suppress(OSError):
            os.write(sys.stderr.fileno(), f"{line}\n".encode())

    with stopping(say):
        return _run_grid(session, options, only, again, judged, followed)


def _run_grid(
    session: Session,
    options: RunOptions,
    only: Sequence[str],
    again: Sequence[str],
    judged: str | None,
    followed: Callable[[RunFinished], bool],
) -> int:
    from rich.console import Console

    from pipeline.observers.progress import make_progress
    from pipeline.observers.tracking.server import default_uri

    began = time.time()
    minutes = options.stop_after
    errors = Console(stderr=True)
    check_folder(options.reports / session.grid.name)
    decided = session.check_code()
    if options.inline and (options.address or options.workers):
        raise BadInput(
            "--inline runs in this process; it goes with neither --address nor --workers"
        )
    adopted = session.store.prepare()
    uri = options.mlflow_uri or default_uri(Path.cwd())
    forced = session.forced(options.start) if options.force else set()
    tracker = _tracker(session, uri, again, system_metrics=options.system_metrics)
    progress = make_progress(
        errors, quiet=options.quiet, plain=options.as_json, verbose=options.verbose
    )
    contracts = session.check_contracts()
    for line in (*decided, *contracts, *session.notes(), *filter(None, [adopted])):
        errors.print(line, markup=False, highlight=False, soft_wrap=True)
    try:
        with closing(progress):
            finished = session.run(
                Observers([progress, _doubts(session, errors), *([tracker] if tracker else [])]),
                inline=options.inline,
                address=options.address,
                workers=options.workers,
                forced=forced,
                until=None if minutes is None else began + 60 * minutes,
            )
        if followed(finished):
            if tracker is not None:
                tracker.close()
            return _exit_code(finished, ())
        return _report(session, options, finished, tracker, only=only, again=again, judged=judged)
    except BaseException as error:
        if tracker is not None:
            tracker.close("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise


def _report(
    session: Session,
    options: RunOptions,
    finished: RunFinished,
    tracker: Tracker | None,
    *,
    only: Sequence[str],
    again: Sequence[str],
    judged: str | None,
) -> int:
    """Report a finished run, on stdout, in files and in MLflow; returns the exit code."""
    from rich.console import Console

    from pipeline.observers.tracking.server import default_uri, is_web

    errors, uri = Console(stderr=True), options.mlflow_uri or default_uri(Path.cwd())
    problems = _unwritten(session, finished)
    reported = Reported(None, ())
    try:
        if tracker is not None and is_web(uri):
            tracker.settle()  # now, so that the page can link to the runs
        reported = report_grid(
            session,
            options.reports,
            as_json=options.as_json,
            finished=finished,
            uri=uri,
            again=again,
            judged=judged,
        )
    except (BadInput, Unwritable) as trouble:
        problems[str(trouble)] = 2 if isinstance(trouble, BadInput) else 1
    if reported.unread:
        problems[reported.unread] = UNEXPECTED
    if tracker is not None:
        tracker.finish(reported.page.parent if reported.page else None)
    server = NO_MLFLOW if tracker is None else _where_logged(tracker, uri)
    _closing_words(session, finished, reported, server, errors.print, only=only, again=again)
    if tracker is not None and tracker.problem is not None:
        problems[tracker.problem] = 2
    for problem in problems:
        errors.print(f"error: {problem}", markup=False, highlight=False, soft_wrap=True)
    return _exit_code(finished, problems.values())


def _unwritten(session: Session, finished: RunFinished) -> dict[str, int]:
    """Why the run could not be written to the ledger, with the exit code.

    Empty if a failed node has reported the same reason.
    """
    if session.unwritten is None or session.unwritten in finished.missing.values():
        return {}
    return {session.unwritten: 1}


def _doubts(session: Session, errors: Console) -> Observer:
    """An observer that warns early if a model's results are implausible."""
    from pipeline.observers.doubts import Doubts
    from pipeline.report.answers import stored_answers

    def say(line: str) -> None:
        errors.print(line, markup=False, highlight=False, soft_wrap=True)

    cells = {cell.name: cell for cell in session.cells}
    return Doubts(cells, session.scores, stored_answers(session.store, session.scores), say)


def _tracker(
    session: Session, uri: str, again: Sequence[str], *, system_metrics: bool
) -> Tracker | None:
    """The observer that logs to MLflow; None if it is not installed."""
    if system_metrics and importlib.util.find_spec("psutil") is None:
        raise BadInput(f"--system-metrics needs psutil: {installs('system-metrics')}")
    if importlib.util.find_spec("mlflow") is None:
        return None
    from pipeline.observers.tracking.tracker import Tracker

    return Tracker(
        uri,
        ledger=session.ledger,
        store=session.store,
        grid=session.grid,
        scores=session.scores,
        command=["pipeline", *sys.argv[1:]],
        version=__version__,
        system_metrics=system_metrics,
        cards=session.known_cards if session.cards else dict,
        snapshot=session.snapshot,
        again=again,
    )


def _where_logged(tracker: Tracker, uri: str) -> str | None:
    """Where to view the logged results: the server's page, or the database and the command.

    None for a database that is not there, since it could not be made or nothing was logged.
    """
    from pipeline.observers.tracking.database import database_path
    from pipeline.observers.tracking.server import is_web

    database = database_path(uri)
    if database is not None and not database.is_file():
        return None
    known = without_secrets(uri)
    return (tracker.page or known) if is_web(uri) else f"{known}  (pipeline ui)"


def _closing_words(
    session: Session,
    finished: RunFinished,
    reported: Reported,
    server: str | None,
    say: Any,
    *,
    only: Sequence[str],
    again: Sequence[str],
) -> None:
    def line(text: str) -> None:
        say(text, markup=False, highlight=False, soft_wrap=True)

    for doubt in reported.doubts[:DOUBTS_SHOWN]:
        line(f"doubt   {doubt}")
    if (more := len(reported.doubts) - DOUBTS_SHOWN) > 0:
        line(f"doubt   {more} more are listed below the tables")
    for reason, names in _by_reason(finished.failed_leaves).items():
        others = f" and {len(names) - 1} more" if len(names) > 1 else ""
        line(f"failed  {names[0]}{others}: {reason}")
        words = session.grid.run_words(only)
        line(f"again   {shlex.join([*words, *again])}")
    for reason, names in _by_reason({} if finished.interrupted else finished.missing).items():
        # for many cells the run's own selection, which computes only what is missing
        chosen = only if len(names) > RETRIES else [f"cell={name}" for name in names]
        words = session.grid.run_words(chosen)
        line(f"failed  {reason}")
        line(f"again   {shlex.join([*words, *again])}")
    if session.details is not None:
        line(f"details {session.details}")
    if reported.page is not None:
        line(f"report  {reported.page}")
    line(f"store   {session.store.address}")
    if server is not None:
        line(f"MLflow  {server}")


def _by_reason(failed: Mapping[str, str]) -> dict[str, list[str]]:
    """Names by the reason why they failed."""
    reasons: dict[str, list[str]] = {}
    for name, reason in failed.items():
        reasons.setdefault(reason, []).append(name)
    return reasons


def _exit_code(finished: RunFinished, problems: Iterable[int]) -> int:
    """The exit code of a run: the first of 130, 1, 2 and 4 that applies, or 0.

    A script that gets 130 repeats the command. 1 comes before 2 because results, the ledger or the
    report are then incomplete; after a wrong MLflow address everything is in the store.

    Args:
        problems: 1, 2 or 4 for each problem after the last node.
    """
    if finished.interrupted:
        return STOPPED
    if finished.missing or finished.failed_leaves:
        return 1
    return min(problems, default=0)
