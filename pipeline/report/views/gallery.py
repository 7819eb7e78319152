"""Galleries of images before and after an attack and a defense, for the report's page.

The images are selected by a rule, see `tasks.evaluation.exhibit`, and are computed by a run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.grid.cells import Cell
from pipeline.grid.exhibits import ExhibitNode
from pipeline.grid.graph import Graph
from pipeline.plan.snapshot import Snapshot
from pipeline.problems import BadInput
from pipeline.report.views.exhibits import Exhibit
from pipeline.report.views.pictures import Artifacts
from pipeline.store import arrow
from pipeline.store.store import Damaged, Record, Store

COLUMNS = {
    "ids": 1,
    "labels": 1,
    "clean": 4,
    "adversarial": 4,
    "defended": 4,
    "clean_answer": 2,
    "attacked_answer": 2,
    "defended_answer": 2,
}
"""Columns of `exhibits.arrow` and their dimensions; see `tasks.evaluation.exhibit.Exhibits`."""

NOT_COMPUTED = "not computed; a run makes it where the store has the examples and answers"


@dataclass(frozen=True)
class Gallery:
    """The images of one model, of its first `classes` classes.

    problem: why there are none, in one line.
    """

    cell: Cell
    classes: int
    exhibits: tuple[Exhibit, ...] = ()
    problem: str = ""

    @property
    def absent(self) -> list[int]:
        """Classes without an image that fits the rule."""
        found = {exhibit.label for exhibit in self.exhibits}
        return [] if self.problem else sorted(set(range(self.classes)) - found)


def galleries(artifacts: Artifacts) -> list[Gallery]:
    """A gallery for each model with exhibits; if they are missing, it contains the reason."""
    snapshot = Snapshot(artifacts.store)
    return [_gallery(each, artifacts.store, snapshot) for each in artifacts.exhibits]


def _gallery(exhibited: ExhibitNode, store: Store, snapshot: Snapshot) -> Gallery:
    cell, classes, node = exhibited.defended, exhibited.classes, exhibited.node
    state = snapshot.state(node, Graph([node]))
    if state.standing is None:
        why = NOT_COMPUTED if state.status == "absent" else f"{state.status}: {state.reason}"
        return Gallery(cell, classes, problem=why)
    try:
        return Gallery(cell, classes, tuple(_read(store, state.standing)))
    except (Damaged, BadInput, arrow.BadArrow) as problem:
        return Gallery(cell, classes, problem=str(problem))


def _read(store: Store, record: Record) -> Iterator[Exhibit]:
    columns = arrow.read_arrays(store.path(record, "exhibits.arrow"), COLUMNS)
    for row in range(len(columns["ids"])):
        pixels = (columns[name][row] for name in ("clean", "adversarial", "defended"))
        answers = (columns[name][row] for name in COLUMNS if name.endswith("_answer"))
        yield Exhibit(
            int(columns["ids"][row]),
            int(columns["labels"][row]),
            *(np.ascontiguousarray(image.transpose(1, 2, 0)) for image in pixels),
            *answers,
        )
