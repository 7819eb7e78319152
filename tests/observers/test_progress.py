"""Progress: what a person sees of a run, live or in a log."""

from __future__ import annotations

import io
import os
import pty
import re

import pytest
from cells import digits_cell, graph_of
from rich.console import Console

from pipeline.execution.events import (
    CellScored,
    Done,
    Event,
    Failure,
    NodeDone,
    NodeFailed,
    NodeProgress,
    NodeStarted,
    RunFinished,
    RunStarted,
    SetAside,
)
from pipeline.grid.cells import Cell, Grid
from pipeline.grid.graph import Graph, Node
from pipeline.observers.progress import LiveProgress, PlainProgress, make_progress
from pipeline.observers.tally import Tally
from pipeline.plan.words import duration
from tasks.attacks.clean import Clean
from tasks.attacks.pgd import PGD
from tasks.defenses.guo import Guo
from tasks.defenses.none import NoDefense
from tasks.networks.small import Small
from tasks.progress import Progress
from tasks.training.recipe import Recipe, TrainSpec

CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")


IAT = TrainSpec(network=Small(), recipe=Recipe(method="iat", epochs=4))
CELLS = tuple(
    digits_cell("demo-iat", attack, defense, images=600, redraws=1, model_spec=IAT)
    for attack in (("clean", Clean()), ("pgd10", PGD()))
    for defense in (("none", NoDefense()), ("guo", Guo()))
)
GRID = Grid("demo", "The demo", CELLS, ())
GRAPH: Graph
SCORES: dict[str, Node]
GRAPH, SCORES = graph_of(CELLS)
TODO = {"dataset": 1, "train": 1, "craft": 2, "defend": 8, "score": 4}


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def nodes(kind: str) -> list[Node]:
    return [node for node in GRAPH if node.kind == kind]


def done(node: Node, seconds: float) -> NodeDone:
    return NodeDone(node, Done(node.digest, "content", {}, {"seconds": seconds}))


def scored(cell: Cell, accuracy: float, before: float | None = None) -> CellScored:
    old = None if before is None else {"accuracy": before, "images": 600}
    facts = {"accuracy": accuracy, "images": 600}
    return CellScored(cell, SCORES[cell.name], facts, old, computed=True)


def finished(**changed: object) -> RunFinished:
    values: dict[str, object] = {
        "grid": GRID,
        "scored": {cell.name: {} for cell in CELLS},
        "missing": {},
        "computed": TODO,
        "seconds": 200.0,
    }
    return RunFinished(**{**values, **changed})  # type: ignore[arg-type]


STARTED = RunStarted(GRID, TODO, 3, "ray (local, 2 CPUs)")


def plain(events: list[Event], *, terminal: bool = False) -> list[str]:
    output = io.StringIO()
    observer = PlainProgress(Console(file=output, width=80, force_terminal=terminal))
    for event in events:
        observer.notify(event)
    observer.close()
    return output.getvalue().splitlines()


def live(events: list[Event], *, width: int = 80) -> str:
    """Everything a live display wrote, escape sequences taken out."""
    output = io.StringIO()
    console = Console(file=output, width=width, force_terminal=True)
    observer = LiveProgress(console, clock=Clock())
    for event in events:
        observer.notify(event)
    observer.close()
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output.getvalue()).replace("\r", "")


def test_the_graph_of_these_tests_has_the_nodes_that_are_announced():
    assert {kind: len(nodes(kind)) for kind in TODO} == TODO


def test_plain_lines_tell_the_start_and_each_cell():
    lines = plain([STARTED, scored(CELLS[3], 53.21)])
    assert lines[0] == (
        "demo: 1 dataset, 1 train, 2 craft, 8 defend, 4 score to do, 3 stored; "
        "executor: ray (local, 2 CPUs)"
    )
    assert lines[1:] == ["demo-iat/pgd10/guo  53.2 %"]


def test_a_score_is_told_beside_the_one_before():
    lines = plain([scored(CELLS[3], 53.2, before=50.0), scored(CELLS[2], 3.0, before=3.0)])
    assert lines == ["demo-iat/pgd10/guo  50.0 → 53.2 %", "demo-iat/pgd10/none  3.0 %, unchanged"]


def test_plain_lines_hold_no_control_characters_even_on_a_terminal():
    node = nodes("craft")[0]
    failure = Failure(node.digest, "boom\r\n\x1b[31mred\x07")
    events: list[Event] = [
        STARTED,
        NodeStarted(node),
        NodeFailed(node, failure, [CELLS[2].name], 4),
        SetAside("craft", "ab" * 32, "half\na file"),
        scored(CELLS[0], 90.0),
        finished(missing={"a": "b\x1b[2J\n"}, set_aside=1),
    ]
    lines = plain(events, terminal=True)
    assert len(lines) == 7
    assert not any(CONTROL.search(line) for line in lines)


def test_a_failure_names_its_node_its_reason_and_the_cells_lost():
    node = nodes("craft")[0]
    cells = [cell.name for cell in CELLS[2:]]
    (line,) = plain([STARTED, NodeFailed(node, Failure(node.digest, "no memory"), cells, 4)])[1:]
    assert line == (
        "failed: craft demo-iat/pgd10, images 0 to 500: no memory; 2 cells cannot be scored"
    )


def test_of_failures_for_one_reason_the_first_is_told_and_every_one_with_verbose():
    failed = [
        NodeFailed(node, Failure(node.digest, reason), [], 0)
        for node, reason in zip(
            (*nodes("craft"), *nodes("train")), ("no memory",) * 2 + ("other",) * 9, strict=False
        )
    ]
    told = [line for line in said(STARTED, *failed) if line.startswith("failed: ")]
    assert [line.rpartition(": ")[2] for line in told] == ["no memory", "other"]
    every = [line for line in said(STARTED, *failed, verbose=True) if line.startswith("failed: ")]
    assert len(every) == len(failed) > 2


def test_nodes_are_named_in_the_words_of_their_grid():
    tally = Tally(Clock())
    tally.notify(STARTED)
    assert tally.name(nodes("dataset")[0]) == "dataset digits"
    assert tally.name(nodes("train")[0]) == "train demo-iat"
    names = {tally.name(node) for node in nodes("defend")}
    assert names == {
        f"defend {cell.name}, images {part}"
        for cell in CELLS
        for part in ("0 to 500", "500 to 600")
    }


def test_an_artifact_set_aside_is_told_in_one_line():
    (line,) = plain([SetAside("craft", "ab" * 32, "weights.bin does not match its checksum")])
    assert line == (
        "set aside: craft abababababab, to be computed again: "
        "weights.bin does not match its checksum"
    )


def test_a_heartbeat_comes_every_fifteen_seconds_and_no_sooner():
    clock, output = Clock(), io.StringIO()
    observer = PlainProgress(Console(file=output, width=80), clock=clock)
    train = nodes("train")[0]
    for event in (STARTED, NodeStarted(train)):
        observer.notify(event)
    for place in range(61):
        clock.now = 1000.0 + place
        note = f"epoch {place // 15}/9, loss 0.51"
        observer.notify(NodeProgress(train.digest, Progress(place, 120, note)))
    lines = output.getvalue().splitlines()[1:]
    assert len(lines) == 4
    said = "0 of 16 nodes, at least about 1 min left; train demo-iat: epoch 4/9, loss 0.51"
    assert lines[-1] == said


def test_before_any_data_nothing_is_said_of_the_time_left():
    tally = Tally(Clock())
    tally.notify(STARTED)
    tally.notify(NodeStarted(nodes("train")[0]))
    assert tally.estimate is None


def test_the_estimate_adds_mean_seconds_of_what_is_left_of_each_kind():
    clock = Clock()
    tally = Tally(clock)
    tally.notify(RunStarted(GRID, {"craft": 2, "defend": 8, "score": 4}, 2, "inline"))
    first, _ = nodes("craft")
    tally.notify(NodeStarted(first))
    clock.now += 10
    tally.notify(done(first, 10.0))
    assert str(tally.estimate) == "at least about 10 s left"
    for node, seconds in zip(nodes("defend")[:2], (2.0, 4.0), strict=True):
        tally.notify(NodeStarted(node))
        clock.now += seconds
        tally.notify(done(node, seconds))
    assert tally.estimate is not None
    assert tally.estimate.seconds == pytest.approx(10 + 6 * 3)
    assert str(tally.estimate) == "about 28 s left"


def test_the_estimate_is_shared_by_nodes_that_run_beside_each_other():
    clock = Clock()
    tally = Tally(clock)
    tally.notify(RunStarted(GRID, {"defend": 8}, 0, "ray (local, 4 CPUs)"))
    clock.now += 5
    for node in nodes("defend")[:4]:
        tally.notify(NodeStarted(node))
        tally.notify(done(node, 5.0))
    assert tally.parallelism == pytest.approx(4.0)
    assert tally.estimate is not None
    assert tally.estimate.seconds == pytest.approx(5.0)


def test_one_long_node_is_not_divided_by_many_workers():
    clock = Clock()
    tally = Tally(clock)
    tally.notify(RunStarted(GRID, {"defend": 5}, 0, "ray (local, 4 CPUs)"))
    clock.now += 8
    for node in nodes("defend")[:4]:
        tally.notify(NodeStarted(node))
        tally.notify(done(node, 8.0))
    assert tally.estimate is not None
    assert tally.estimate.seconds == pytest.approx(8.0)


def test_a_resumed_training_is_judged_by_what_was_watched_of_it():
    clock = Clock()
    tally = Tally(clock)
    train = nodes("train")[0]
    tally.notify(RunStarted(GRID, {"train": 1}, 0, "inline"))
    tally.notify(NodeStarted(train))
    tally.notify(NodeProgress(train.digest, Progress(50, 100)))
    clock.now += 20
    tally.notify(NodeProgress(train.digest, Progress(60, 100)))
    assert tally.estimate is not None
    assert tally.estimate.seconds == pytest.approx(80.0)


def test_what_a_failure_blocks_is_no_longer_waited_for():
    clock = Clock()
    tally = Tally(clock)
    tally.notify(RunStarted(GRID, {"craft": 2, "defend": 2}, 0, "inline"))
    for node, event in zip(nodes("craft"), ("done", "failed"), strict=True):
        tally.notify(NodeStarted(node))
        clock.now += 10
        failure = NodeFailed(node, Failure(node.digest, "boom"), ["a", "b"], 2)
        tally.notify(done(node, 10.0) if event == "done" else failure)
    assert tally.estimate is None
    assert tally.counts == "1 of 4 nodes, 1 failed, 2 cells cannot be scored"


def test_what_is_computed_again_comes_on_top_of_the_plan():
    tally = Tally(Clock())
    tally.notify(RunStarted(GRID, {"craft": 1}, 0, "inline"))
    craft = nodes("craft")[0]
    for node in (craft, nodes("dataset")[0], craft):
        tally.notify(NodeStarted(node))
        tally.notify(done(node, 1.0))
    assert tally.counts == "3 of 3 nodes"


def test_the_summary_counts_what_was_scored_and_computed():
    (line,) = plain([finished()])
    assert line == (
        "demo: 4 of 4 cells scored in 3 min 20 s; "
        "computed 1 dataset, 1 train, 2 craft, 8 defend, 4 score"
    )


def test_the_summary_of_a_run_with_nothing_to_do_says_so():
    assert plain([finished(computed={})]) == ["demo: all 4 cells stored, nothing to compute"]


def test_the_summary_groups_missing_cells_by_reason():
    missing = {**{f"cell{place}": "no memory" for place in range(5)}, "other": "worker died"}
    lines = plain([finished(missing=missing, scored={}, interrupted=True)])
    assert "interrupted" in lines[0]
    assert lines[1].startswith("demo: 0 of 6 cells scored")
    assert lines[2:] == [
        "missing: cell0, cell1, cell2 and 2 more: no memory",
        "missing: other: worker died",
    ]


def test_the_live_display_shows_bars_notes_scores_and_what_is_left():
    train, craft = nodes("train")[0], nodes("craft")[0]
    text = live(
        [
            STARTED,
            done(nodes("dataset")[0], 1.0),
            NodeStarted(train),
            NodeProgress(train.digest, Progress(2, 4, "epoch 3/4, loss 0.512")),
            scored(CELLS[3], 53.2, before=50.0),
            NodeFailed(craft, Failure(craft.digest, "no memory"), [CELLS[2].name], 4),
        ]
    )
    assert re.search(r"train +━+╺━+ +0/1", text)
    assert re.search(r"dataset +━+ +1/1", text)
    assert re.search(r"craft +━+ +0/2 +1 failed", text)
    assert "train demo-iat: epoch 3/4, loss 0.512" in text
    assert "demo-iat/pgd10/guo  50.0 → 53.2 %" in text
    assert "1 of 16 nodes, 1 failed, 1 cell cannot be scored" in text
    assert "0 of 0 nodes" not in text
    assert "failed: craft demo-iat/pgd10, images 0 to 500: no memory" in " ".join(text.split())


def test_the_live_display_keeps_within_a_narrow_terminal():
    train = nodes("train")[0]
    note = "epoch 3/4, " + "loss 0.512, " * 10
    events = [STARTED, NodeStarted(train), NodeProgress(train.digest, Progress(2, 4, note))]
    assert max(map(len, live(events, width=60).splitlines())) <= 60


def test_the_live_display_leaves_the_summary_behind():
    text = live([STARTED, scored(CELLS[0], 90.0), finished()], width=200)
    assert text.splitlines()[-1].startswith("demo: 4 of 4 cells scored in 3 min 20 s")


def test_nothing_of_the_display_goes_to_stdout(capsys: pytest.CaptureFixture[str]):
    live([STARTED, scored(CELLS[0], 90.0), finished()])
    plain([STARTED, scored(CELLS[0], 90.0), finished()])
    assert capsys.readouterr().out == ""


def test_what_is_printed_during_the_display_still_reaches_stdout(
    capsys: pytest.CaptureFixture[str],
):
    observer = LiveProgress(Console(file=io.StringIO(), force_terminal=True))
    observer.notify(STARTED)
    print("a table")  # noqa: T201
    observer.close()
    assert capsys.readouterr().out == "a table\n"


def test_the_live_display_is_for_a_terminal_and_not_for_quiet_runs(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert isinstance(make_progress(Console(file=io.StringIO()), quiet=False), PlainProgress)
    ours, theirs = pty.openpty()
    with os.fdopen(ours), os.fdopen(theirs, "w") as terminal:
        assert isinstance(make_progress(Console(file=terminal), quiet=False), LiveProgress)
        assert isinstance(make_progress(Console(file=terminal), quiet=True), PlainProgress)
        assert isinstance(make_progress(Console(file=terminal), plain=True), PlainProgress)
        monkeypatch.setenv("TERM", "dumb")
        assert isinstance(make_progress(Console(file=terminal), quiet=False), PlainProgress)


def said(*events: Event, **how: bool) -> list[str]:
    console = Console(file=io.StringIO(), width=200)
    observer = make_progress(console, **how)
    for event in events:
        observer.notify(event)
    observer.close()
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert not CONTROL.search(text)
    return text.splitlines()


def test_a_quiet_run_says_what_goes_wrong_and_how_it_ended_and_nothing_else():
    (craft, *_) = nodes("craft")
    failed = NodeFailed(craft, Failure(craft.digest, "no memory"), [CELLS[2].name], 4)
    events = (STARTED, done(nodes("train")[0], 3.0), scored(CELLS[0], 50.0), failed, finished())
    first, last = said(*events, quiet=True)
    assert first.startswith("failed: craft demo-iat/pgd10")
    assert last.startswith("demo: 4 of 4 cells scored")


def test_a_verbose_run_says_a_line_for_each_finished_node_with_its_seconds():
    train = nodes("train")[0]
    lines = said(STARTED, done(train, 200.0), finished(), verbose=True)
    assert lines[1] == f"done: train demo-iat in 3 min 20 s; {train.digest[:12]}"
    assert len(lines) == len(said(STARTED, done(train, 200.0), finished())) + 1


def test_what_was_left_out_of_a_network_is_said_once_however_many_nodes_say_it():
    line = "network net.py:make: it is not laid out channels-last: so laid out,\nit raises"
    crafts = nodes("craft")[:2]
    events = [
        NodeDone(node, Done(node.digest, "content", {}, {"seconds": 1.0, "said": [line]}))
        for node in crafts
    ]
    lines = said(STARTED, *events, finished())
    assert lines.count(line.replace("\n", " ")) == 1
    assert len(lines) == len(said(STARTED, finished())) + 1


def test_a_verbose_run_shows_the_traceback_of_a_failure_and_no_secret_of_it():
    craft = nodes("craft")[0]
    detail = 'Traceback:\n  File "pgd.py", line 3\n\x1b[2J http://me:pw@host/x'
    failed = NodeFailed(craft, Failure(craft.digest, "no memory", detail), [], 0)
    short = said(STARTED, failed, finished())
    assert not any("pgd.py" in line for line in short)
    lines = said(STARTED, failed, finished(), verbose=True)
    place = next(place for place, line in enumerate(lines) if line.startswith("failed: "))
    shown = ["Traceback:", '  File "pgd.py", line 3', "[2J http://host/x"]
    assert lines[place + 1 : place + 4] == shown


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "0 s"),
        (59.6, "1 min"),
        (200, "3 min 20 s"),
        (7500, "2 h 5 min"),
        (3 * 86400 + 4 * 3600, "3 d 4 h"),
    ],
)
def test_durations_are_told_in_two_units(seconds: float, words: str):
    assert duration(seconds) == words
