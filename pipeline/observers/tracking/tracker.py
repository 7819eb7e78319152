"""An observer that logs to MLflow: one parent run per invocation, one child run per result.

Only the driver logs, in a separate thread, which imports MLflow when there is something to log.
Each result is logged once to each server: the ledger records what was logged, and a key on the
server detects duplicates after a crash. If a server fails, logging is suspended and tried again at
the end of the run.
"""

from __future__ import annotations

import math
import queue
import shlex
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.execution.events import CellScored, Event, NodeDone, RunFinished, RunStarted
from pipeline.execution.signals import wait_for
from pipeline.grid.cells import Cell, Grid
from pipeline.grid.graph import Node
from pipeline.observers.tracking.client import Server, hide_warnings
from pipeline.observers.tracking.database import WAY_OUT, database_path
from pipeline.observers.tracking.description import story
from pipeline.observers.tracking.results import Results
from pipeline.observers.tracking.runs import Metric, metric_names
from pipeline.observers.tracking.server import (
    DATABASE,
    is_web,
    name_in_ledger,
    named,
    wrong_with,
)
from pipeline.observers.tracking.view import cells_page
from pipeline.plan.snapshot import Snapshot
from pipeline.problems import BadInput
from pipeline.problems.sanitize import clean, page, scrubbed, without_secrets
from pipeline.problems.sanitize import command as fit_to_show
from pipeline.store.ledger import Ledger
from pipeline.store.store import Store

if TYPE_CHECKING:
    from pipeline.report.cards import Card

INTERRUPTED_S = 10.0
"""How long MLflow is waited for after Ctrl-C, so that the parent run gets its status."""
OUTDATED = "out-of-date database schema"
"""Part of MLflow's message about a database that has to be migrated."""


LOCKED = "database is locked"
"""Part of SQLite's message about a database that another program writes to for too long."""


class Tracker:
    """Logs a run to one tracking server.

    Args:
        scores: Score node of every cell of the grid, computed in this run or not.
        system_metrics: Log system metrics of this machine.
        cards, snapshot, again: See `Results`.

    Attributes:
        problem: After `finish`, one line that says what was not logged, or None.
        page: Page of the grid's cells on a web server; None if nothing was logged to one.
    """

    def __init__(
        self,
        uri: str,
        *,
        ledger: Ledger,
        store: Store,
        grid: Grid,
        scores: Mapping[str, Node],
        command: Sequence[str],
        version: str,
        system_metrics: bool = False,
        cards: Callable[[], Mapping[str, Card]] = dict,
        snapshot: Callable[[], Snapshot] | None = None,
        again: Sequence[str] = (),
    ) -> None:
        hide_warnings()
        self.problem: str | None = None
        self.page: str | None = None
        self._uri = uri
        self._address = without_secrets(uri)
        known = name_in_ledger(uri, ledger)
        self._results = Results(grid, scores, store, ledger, known, cards, snapshot, again)
        self._tags = {
            "command": shlex.join(fit_to_show(command)),
            "version": version,
            "executor": "none",
        }
        self._began = time.time()
        self._computed: Counter[str] = Counter()
        self._before: dict[str, Mapping[str, object]] = {}
        self._system_metrics = system_metrics
        self._end: RunFinished | None = None
        self._report: Path | None = None
        self._tasks: queue.SimpleQueue[Node | Cell | threading.Event | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._ended: str | None = None
        self._server: Server | None = None
        self._trouble: str | None = None

    def notify(self, event: Event) -> None:
        """Queue what has to be logged; the first artifact starts the thread."""
        if isinstance(event, RunStarted):
            self._tags["executor"] = event.executor
        elif isinstance(event, RunFinished):
            self._end = event
        elif isinstance(event, NodeDone) and not event.done.found:
            self._computed[event.node.kind] += 1
            self._started()
            if event.node.info.trains:
                self._tasks.put(event.node)
        elif isinstance(event, CellScored) and event.computed:
            if event.before is not None:
                self._before[event.cell.name] = event.before
            self._tasks.put(event.cell)

    def owes(self) -> bool:
        """Whether the store holds results of this grid that have not been logged."""
        results = self._results
        return bool(results.owed() or results.unregistered() or results.untagged())

    def settle(self) -> None:
        """Log all pending results and wait for completion, so that their runs are known."""
        if self._closed or (self._thread is None and not self.owes()):
            return
        self._started()
        settled = threading.Event()
        self._tasks.put(settled)
        wait_for(settled.wait, settled.is_set)

    def finish(self, report: Path | None = None) -> None:
        """Log everything pending, the parent run's metrics and the report's files; sets `problem`.

        Does nothing if nothing was computed and nothing is pending.
        """
        if self._closed:
            return
        self._closed = True
        if self._thread is None and not self.owes():
            return
        self._report = report
        self._wait()

    def close(self, ended: str | None = None) -> None:
        """End logging without a report; it also ends a call of `finish` that was interrupted.

        ended: Status of the parent run if the program ends early, `FAILED` or `KILLED`.
        """
        self._ended, self._closed = ended, True
        if self._thread is not None:
            self._wait(INTERRUPTED_S if ended == "KILLED" else math.inf)

    def _wait(self, seconds: float = math.inf) -> None:
        """Wait until the thread has logged everything, at most some seconds; sets `problem`."""
        thread = self._started()
        self._tasks.put(None)
        until = time.monotonic() + seconds
        wait_for(thread.join, lambda: not thread.is_alive() or time.monotonic() > until)
        if self._trouble is not None:
            self.problem = f"MLflow at {self._trouble}; {self._waiting()}"

    def _waiting(self) -> str:
        cells = sum(isinstance(result, Cell) for result in self._results.owed())
        if cells == 0:
            return "the summary of this run was not logged"
        wait, are = ("s wait", "are") if cells > 1 else (" waits", "is")
        return f"{cells} cell{wait} in the store and {are} logged by the next run"

    def _started(self) -> threading.Thread:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
            self._thread.start()
        return self._thread

    def _work(self) -> None:
        self._attempt(self._open)
        while (task := self._tasks.get()) is not None:
            if isinstance(task, threading.Event):
                self._unless_in_trouble(self._log_owed)
                task.set()
            else:
                self._unless_in_trouble(partial(self._log, task))
        self._attempt(self._complete)

    def _unless_in_trouble(self, task: Callable[[], object]) -> None:
        if self._trouble is None:
            self._attempt(task)

    def _attempt(self, task: Callable[[], object]) -> None:
        self._trouble = None
        try:
            task()
        except BadInput as problem:
            self._trouble = str(problem)
        except Exception as error:  # noqa: BLE001  no tracking server may fail a run
            self._trouble = wrong_with(self._uri) or self._said_of(error)

    def _said_of(self, error: Exception) -> str:
        """Message about a failing server, with a remedy if there is one."""
        if OUTDATED in str(error):
            return (
                f"{self._address} is of another version of MLflow: "
                f"`mlflow db upgrade {self._address}` migrates an earlier one; make a copy first"
            )
        line = clean(scrubbed(str(error), self._uri), 160) or type(error).__name__
        unopened = self._server is None and database_path(self._uri) is not None
        # another program's lock is no reason to move a database that is whole
        unopened = unopened and LOCKED not in str(error)
        way_out = f"; where it is not whole, {WAY_OUT}" if unopened else ""
        return f"{self._address} cannot be used: {line}{way_out}"

    def _open(self) -> Server:
        if self._server is None:
            self._check()
            began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self._began))
            grid = self._results.grid.name
            server = Server(self._uri, grid, self._results.grid.title)
            self._note_database(server.identity)
            server.begin(f"{grid} {began}", {**self._tags, "grid": grid}, self._began)
            if is_web(self._uri):
                self.page = cells_page(page(self._uri), server.experiment, saved=True)
            if self._system_metrics:
                server.watch_machine()
            self._server = server
        return self._server

    def _note_database(self, identity: str | None) -> None:
        """Switch to the name of the database that is open; a new one has nothing logged yet."""
        results = self._results
        known = named(self._uri, identity)
        if identity is not None and results.ledger.logged_as(self._address, DATABASE) != identity:
            results.ledger.mark_logged(self._address, DATABASE, identity)
        if known != results.server:
            self._results = replace(results, server=known)

    def _check(self) -> None:
        if (problem := wrong_with(self._uri)) is not None:
            raise BadInput(problem)

    def _log(self, result: Node | Cell) -> None:
        if (child := self._results.child(result)) is not None:
            self._results.mark(child, self._open().child(child))

    def _log_owed(self) -> None:
        for result in self._results.owed():
            self._log(result)

    def _complete(self) -> None:
        """Log everything pending, then the parent run's metrics and files."""
        self._check()
        server = self._open()
        self._log_owed()
        for tagged in self._results.untagged():
            if server.experiment_of(tagged.run_id) is not None:
                server.tag(tagged.run_id, "card", tagged.verdict)
                server.add(tagged.run_id, tagged.points)
            self._results.mark_tagged(tagged)
        self._register(server)
        # a stored score that this run was to replace and did not is none of its results
        missing = self._end.missing if self._end is not None else {}
        found = self._results.standing()
        standing = {name: record for name, record in found.items() if name not in missing}
        scored = {name: record.facts for name, record in standing.items()}
        under_all = self._results.under_all_attacks(standing)
        for untold in self._results.untold(standing, under_all):
            # the run of a cell shared by grids belongs to one of them
            if server.experiment_of(untold.run_id) == server.experiment:
                server.add(untold.run_id, [Metric("all_attacks", untold.accuracy)])
            self._results.mark_told(untold)
        by_place = self._results.by_place(under_all)
        places = metric_names("all_attacks", by_place)
        points = list(map(Metric, places.values(), by_place.values()))
        names = metric_names("accuracy", self._results.scores)
        points += [Metric(names[name], float(str(f["accuracy"]))) for name, f in scored.items()]
        points += [Metric(f"computed/{kind}", count) for kind, count in self._computed.items()]
        points += [Metric("cells", len(names)), Metric("cells_scored", len(scored))]
        note = story(
            self._results.grid,
            self._tags["command"],
            self._computed,
            scored,
            self._before,
            self._report,
        )
        parameters = {name: self._tags[name] for name in ("version", "executor")}
        parameters["grid"] = self._results.grid.name
        server.end(points, self._report, self._status(), note, parameters)

    def _register(self, server: Server) -> None:
        """Register missing networks, after the computation, since this needs a CPU.

        A network that cannot be traced is not registered; its run is tagged with the reason.
        """
        for trained in self._results.unregistered():
            from pipeline.observers.tracking.models import network, registered_name

            record = trained.record
            tags = {
                "digest": record.digest,
                "content": record.content,
                "dataset": trained.cell.dataset,
                "seed": str(trained.cell.seed),
            }
            name = registered_name(trained.cell.model)
            if server.experiment_of(trained.run_id) is None:
                # deleted, or another database at the same address, whose content is unknown
                self._results.mark_registered(trained)
                continue
            try:
                module, example = network(trained, self._results.store)
                server.register(name, module, example, run_id=trained.run_id, tags=tags)
            except Exception as error:  # noqa: BLE001  a network may do what no trace can follow
                line = clean(error, 160) or type(error).__name__
                server.tag(trained.run_id, "not_registered", line)
            self._results.mark_registered(trained)

    def _status(self) -> str:
        if self._ended is not None:
            return self._ended
        if self._end is None:
            return "FAILED" if self._computed else "FINISHED"
        if self._end.interrupted:
            return "KILLED"
        return "FAILED" if self._end.missing else "FINISHED"
