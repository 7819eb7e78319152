"""Progress of a run, as a live display or as lines of a log, on stderr; stdout is for results."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pipeline.execution.events import (
    CellScored,
    Done,
    Elsewhere,
    Event,
    NodeDone,
    NodeFailed,
    NodeRetried,
    NodeSilent,
    Observer,
    RunFinished,
    RunStarted,
    SetAside,
)
from pipeline.grid.names import node_name
from pipeline.observers.tally import Tally
from pipeline.plan.words import counted, duration
from pipeline.problems.sanitize import clean, shown_lines
from pipeline.report.facts import number
from pipeline.report.words.numbers import accuracy, old_to_new

WRONG = NodeFailed | NodeRetried | SetAside
"""Events that are reported even with `quiet`."""
HEARTBEAT_S = 15.0
NAMED = 3
"""Maximum number of cells listed by name for the same reason."""
SHOWN_CELLS = 5
SHOWN_NOTES = 4


def make_progress(
    console: Console, *, quiet: bool = False, plain: bool = False, verbose: bool = False
) -> Observer:
    """The live display on a terminal, plain lines elsewhere.

    Args:
        console: Writes to stderr.
        quiet: Report only problems and the final result.
        plain: Plain lines even on a terminal.
        verbose: Also a line for each finished node.
    """
    if quiet:
        return PlainProgress(console, quiet=True)
    # the file is checked, too, since with FORCE_COLOR rich considers any log a terminal
    watched = console.is_interactive and console.file.isatty()
    if watched and not plain:
        return LiveProgress(console, verbose=verbose)
    return PlainProgress(console, verbose=verbose)


class PlainProgress:
    """Progress as lines of text without control characters.

    Reports how far the run is every 15 seconds. quiet, verbose: see `make_progress`.
    """

    def __init__(
        self,
        console: Console,
        *,
        clock: Callable[[], float] = time.monotonic,
        quiet: bool = False,
        verbose: bool = False,
    ) -> None:
        self._console = console
        self._quiet = quiet
        self._verbose = verbose
        self._clock = clock
        self._tally = Tally(clock)
        self._heartbeat = clock()

    def notify(self, event: Event) -> None:
        """See `Observer.notify`."""
        self._tally.notify(event)
        if self._quiet and not isinstance(event, WRONG | RunFinished):
            return
        for line in lines(event, self._tally, verbose=self._verbose):
            self._console.out(line, highlight=False)
        if isinstance(event, RunStarted):
            self._heartbeat = self._clock()
        elif (
            self._clock() - self._heartbeat >= HEARTBEAT_S
            and not self._quiet
            and not isinstance(event, RunFinished)
        ):
            self._heartbeat = self._clock()
            self._console.out(self._how_far(), highlight=False)

    def close(self) -> None:
        """See `Observer.close`."""

    def _how_far(self) -> str:
        estimate = self._tally.estimate
        parts = [self._tally.counts, *([str(estimate)] if estimate else [])]
        notes = [clean(note) for note in self._tally.notes(1)]
        return "; ".join([", ".join(parts), *notes])


class LiveProgress:
    """A live display with a bar for each kind of node, running nodes and the latest scores."""

    def __init__(
        self,
        console: Console,
        *,
        clock: Callable[[], float] = time.monotonic,
        verbose: bool = False,
    ) -> None:
        self._console = console
        self._verbose = verbose
        self._tally = Tally(clock)
        self._scored: deque[str] = deque(maxlen=SHOWN_CELLS)
        self._lock = threading.Lock()
        self._live = Live(
            console=console,
            get_renderable=self._display,
            refresh_per_second=4,
            transient=True,
            redirect_stdout=False,
        )

    def notify(self, event: Event) -> None:
        """See `Observer.notify`."""
        with self._lock:
            self._tally.notify(event)
            said = list(lines(event, self._tally, verbose=self._verbose))
            if isinstance(event, CellScored):
                self._scored.extend(said)
                said = []
        # outside the lock, since the display's thread holds the console when it waits for the lock
        if isinstance(event, RunFinished):
            self._live.stop()
        for line in said:
            style = "red" if isinstance(event, NodeFailed) else None
            self._console.print(Text(line), style=style, highlight=False)
        if isinstance(event, RunStarted):
            self._live.start(refresh=True)

    def close(self) -> None:
        """Remove the display, if it is still shown."""
        self._live.stop()

    def _display(self) -> RenderableType:
        with self._lock:
            return Group(*self._parts())

    def _parts(self) -> Iterator[RenderableType]:
        tally = self._tally
        bars = Table.grid(padding=(0, 2, 0, 0))
        for kind in tally.kinds:
            total, done = tally.todo[kind], tally.done[kind]
            bar = ProgressBar(total=total, completed=tally.finished(kind), width=30)
            failed = f"{tally.failed[kind]} failed" if tally.failed[kind] else ""
            bars.add_row(kind, bar, f"{done}/{total}", Text(failed, style="red"))
        yield bars
        estimate = tally.estimate
        yield _row(", ".join([tally.counts, *([str(estimate)] if estimate else [])]), "bold")
        for note in tally.notes(SHOWN_NOTES):
            yield _row(clean(note), "dim")
        for line in self._scored:
            yield _row(line, "")


def lines(event: Event, tally: Tally, *, verbose: bool = False) -> Iterator[str]:
    """The lines that report an event, if any.

    Of failures for one reason, the first is reported.

    verbose: also report each finished node, except scores, which are reported by cell, and every
    failure, with its traceback.
    """
    match event:
        case Elsewhere(node=node, by=by, grid=grid):
            told = f"{node_name(node, grid)}; its result will be used here"
            yield clean(f"another run ({by}) is computing {told}")
        case NodeDone(node=node, done=done):
            yield from map(clean, tally.news(done))
            if verbose and node.kind != "score":
                yield clean(f"done: {tally.name(node)}{_took(done)}; {node.digest[:12]}")
        case RunStarted(grid=grid, todo=todo, stored=stored, executor=executor):
            kept = f", {stored} stored" if stored else ""
            yield f"{grid.name}: {_by_kind(todo)} to do{kept}; executor: {executor}"
        case CellScored(cell=cell, facts=facts, before=before):
            yield f"{clean(cell.name)}  {_score(facts, before)}"
        case NodeFailed():
            yield from _failed(event, tally, verbose=verbose)
        case NodeRetried() | NodeSilent():
            yield _waiting(event, tally.name(event.node))
        case SetAside(kind=kind, digest=digest, reason=reason):
            yield clean(f"set aside: {kind} {digest[:12]}, to be computed again: {reason}")
        case RunFinished():
            yield from _summary(event)
        case _:
            return


def _failed(event: NodeFailed, tally: Tally, *, verbose: bool) -> Iterator[str]:
    """A failure; of several for one reason the first, since the summary counts their cells."""
    reason, detail = event.failure.reason, event.failure.detail
    if verbose or tally.reasons[reason] == 1:
        lost = f"; {counted(len(event.cells), 'cell')} cannot be scored" if event.cells else ""
        yield clean(f"failed: {tally.name(event.node)}: {reason}{lost}")
        yield from shown_lines(detail if verbose else "")


def _waiting(event: NodeRetried | NodeSilent, name: str) -> str:
    """A node that is retried or silent."""
    if isinstance(event, NodeRetried):
        return clean(f"retrying {name}: {event.reason}")
    limit = event.ended_after
    ends = f", and is ended after {duration(limit)}" if limit is not None else ""
    return clean(f"no progress: {name} has reported nothing for {duration(event.seconds)}{ends}")


def _took(done: Done) -> str:
    if done.found:
        return ", by another run"
    seconds = number(done.how, "seconds")
    return f" in {duration(seconds)}" if seconds is not None else ""


def _score(facts: Mapping[str, object], before: Mapping[str, object] | None) -> str:
    now = f"{accuracy(number(facts, 'accuracy'))} %"
    if before is None or number(before, "accuracy") is None:
        return now
    return old_to_new(before, facts) or f"{now}, unchanged"


def _summary(event: RunFinished) -> Iterator[str]:
    scored, cells = len(event.scored), len(event.scored) + len(event.missing)
    if event.interrupted:
        yield "interrupted; what is finished is kept, and the same command goes on from there"
    if not event.computed and not event.missing:
        yield f"{event.grid.name}: all {counted(cells, 'cell')} stored, nothing to compute"
    else:
        work = f"; computed {_by_kind(event.computed)}" if event.computed else ""
        yield (
            f"{event.grid.name}: {scored} of {counted(cells, 'cell')} scored "
            f"in {duration(event.seconds)}{work}"
        )
    if event.set_aside:
        yield f"set aside, as content and record differ: {counted(event.set_aside, 'artifact')}"
    reasons: dict[str, list[str]] = {}
    for name, reason in event.missing.items():
        reasons.setdefault(reason, []).append(name)
    for reason, names in reasons.items():
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        yield clean(f"missing: {', '.join(names[:NAMED])}{more}: {reason}")


def _by_kind(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in counts.items() if count) or "nothing"


def _row(text: str, style: str) -> Text:
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")
