"""`pipeline show CELL`: everything about a cell: parameters, artifacts and score."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import yaml

from pipeline.commands.records import cell_record
from pipeline.commands.session import Session
from pipeline.grid.cells import Cell
from pipeline.grid.graph import Graph, Node
from pipeline.observers.tracking.runs import score_key
from pipeline.observers.tracking.server import default_uri, name_in_ledger
from pipeline.plan.why import why
from pipeline.report.facts import interval, number
from pipeline.report.paper import references_of
from pipeline.report.words.numbers import accuracy, interval_words, rough

REMEMBERED = 10
"""Maximum number of earlier scores shown."""


def story(
    session: Session, cell: Cell, mlflow_uri: str | None, again: Sequence[str] = ()
) -> dict[str, object]:
    """Everything about a cell, as plain values for YAML or JSON.

    again: further options of the command that computes the cell again.
    """
    node = session.scores[cell.name]
    record = session.store.state(node.kind, node.digest).record
    told: dict[str, object] = {
        **cell_record(cell),
        "grid": session.grid.name,
        "state": why(
            cell.name,
            session.grid.name,
            node,
            session.graph,
            session.store,
            session.ledger,
        ),
        "images": cell.images,
        "redraws": cell.redraws,
        "precision": cell.precision,
        "specs": {
            "attack": cell.attack_spec.model_dump(mode="json"),
            "defense": cell.defense_spec.model_dump(mode="json"),
            "model": cell.model_spec.model_dump(mode="json"),
            "dataset": cell.dataset_spec.model_dump(mode="json"),
        },
    }
    card = session.examined().of(cell.name)
    if card is not None:
        told["card"] = {
            "verdict": card.verdict,
            "examined": card.of,
            "images": card.images,
            "checks": {
                finding.check: f"{finding.verdict}: {finding.words}" for finding in card.findings
            },
        }
    if record is not None:
        told["score"] = dict(record.facts)
        server = name_in_ledger(mlflow_uri or default_uri(Path.cwd()), session.ledger)
        told["mlflow_run"] = session.ledger.logged_as(server, score_key(cell, record))
    reference = references_of(session.grid, session.catalogue).get(cell.name)
    if reference is not None:
        told["published"] = {
            "accuracy": reference.published.value,
            "is_a_bound": reference.published.upper_bound,
            "printed_in": list(reference.printed_in),
            "other": reference.other,
        }
    if history := _history(session, cell):
        told["history"] = history
    told["artifacts"] = [_artifact(session, ancestor) for ancestor in Graph([node])]
    words = session.grid.run_words([f"cell={cell.name}"], force=True)
    # the command of a judged grid has all its options
    told["again"] = shlex.join(words if session.grid.command else [*words, *again])
    return told


def _artifact(session: Session, node: Node) -> dict[str, object]:
    """An artifact that a cell depends on: where it is, and how it was computed."""
    entry: dict[str, object] = {"kind": node.kind, "digest": node.digest}
    found = session.store.known(node.kind, node.digest)
    if found is None:
        return {**entry, "state": "not in the store"}
    folder = session.store.whereabouts(found) or "in another store"
    left_out = {"versions", "own_modules"}
    how = {key: value for key, value in found.how.items() if key not in left_out}
    return {**entry, "folder": folder, "content": found.content, **how}


def story_lines(told: Mapping[str, object]) -> Iterator[str]:
    """The same for people: a summary, followed by the rest as YAML."""
    yield str(told["cell"])
    yield from (f"  {line}" for line in _headline(told))
    yield ""
    below = {key: value for key, value in told.items() if key not in ANSWERED}
    readable = _readable(below)
    told_as = yaml.safe_dump(readable, sort_keys=False, allow_unicode=True, width=WIDTH)
    yield from told_as.splitlines()


WIDTH = 64
"""Line width at which values are wrapped."""
MEASURED = frozenset({"score", "published", "card"})
"""Sections whose numbers are measured and therefore rounded; settings are shown exactly."""
ANSWERED = frozenset({"cell", "model", "attack", "defense", "dataset", "seed", "state", "again"})
"""Keys that the summary has covered."""


def _headline(told: Mapping[str, object]) -> Iterator[str]:
    score = told.get("score")
    state = told["state"]
    lines = state if isinstance(state, list) else [str(state)]
    if isinstance(score, Mapping):
        within = interval_words(interval(score))
        words = f"{accuracy(number(score, 'accuracy'))} %"
        yield words + (f", 95 % interval {within}" if within else "")
    else:
        yield "no score"
    yield f"{told['defense']} on {told['model']} under {told['attack']}, seed {told['seed']}"
    redraws = f", {told['redraws']} redraws" if told["redraws"] != 1 else ""
    images = "1 image" if told["images"] == 1 else f"{told['images']} images"
    yield f"{images} of {told['dataset']}{redraws}"
    card = told.get("card")
    if isinstance(card, Mapping):
        yield f"integrity card: {card['verdict']}"
    for line in lines:
        yield line.removeprefix(f"{told['cell']}: ")
    yield f"compute again: {told['again']}"


def _readable(value: object, key: str = "", *, measured: bool = False) -> object:
    """Format numbers and dates for people."""
    measured = measured or key in MEASURED
    if isinstance(value, Mapping):
        return {
            name: _readable(inner, str(name), measured=measured) for name, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [_readable(inner, key, measured=measured) for inner in value]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    told = _number(value, key)
    if measured and isinstance(told, float):
        return round(told, 1) if abs(told) >= 1 else float(f"{told:.2g}")
    return told


def _number(value: float, key: str) -> object:
    if key == "written":
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(value))
    if "seconds" in key:
        return f"{rough(value)} s" if value < 100 else f"{value:,.0f} s"
    if key.endswith("bytes"):
        return f"{value / 1e6:,.1f} MB"
    return f"{value:,}" if isinstance(value, int) and value >= 10_000 else value


def _history(session: Session, cell: Cell) -> list[str]:
    """The cell's scores in earlier runs, latest last."""
    found = []
    for invocation in session.ledger.invocations:
        entry = invocation.cells.get(cell.name)
        if invocation.grid == session.grid.name and entry is not None and entry.facts is not None:
            when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(invocation.time))
            found.append(f"{when}  {accuracy(number(entry.facts, 'accuracy'))} %")
    return found[-REMEMBERED:]
