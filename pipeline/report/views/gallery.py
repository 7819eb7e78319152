"""Images through an attack and a defense, as the report's page shows them.

Which images is a rule, not a choice: of each class the first one, in the data set's fixed
order, that the bare model gets right when clean and wrong under the attack, whatever the
defense then makes of it. What the defense added is computed anew, from the stored weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.grid.cells import Cell, Grid
from pipeline.report.views.exhibits import Exhibit
from pipeline.report.views.pictures import Artifacts
from pipeline.store.store import Damaged

CLASSES = 10
"""Classes that are shown of a data set with more."""


@dataclass(frozen=True)
class Gallery:
    """The images of one model. key: of the contents that they follow from.

    problem: why there are none, in one line.
    """

    cell: Cell
    key: str
    exhibits: tuple[Exhibit, ...] = ()
    problem: str = ""

    @property
    def absent(self) -> list[int]:
        """Classes of which no image fits the rule."""
        found = {exhibit.label for exhibit in self.exhibits}
        return [] if self.problem else sorted(set(_classes(self.cell)) - found)


def galleries(
    grid: Grid, artifacts: Artifacts, known: Mapping[str, tuple[Exhibit, ...]]
) -> list[Gallery]:
    """A gallery for each model with a defended cell.

    Of the model's cells the first is shown whose defense is the counter-perturbation alone,
    else the first defended one; a bare cell of the same examples must be in the grid. known:
    exhibits by the keys of their galleries, which are not made again.
    """
    found = []
    for model in dict.fromkeys(cell.model for cell in grid.cells):
        pair = _pair([cell for cell in grid.cells if cell.model == model], artifacts)
        if pair is not None:
            found.append(_gallery(*pair, artifacts, known))
    return found


def _gallery(
    bare: Cell, shown: Cell, artifacts: Artifacts, known: Mapping[str, tuple[Exhibit, ...]]
) -> Gallery:
    nodes = [artifacts.scores[cell.name] for cell in (bare, shown)]
    records = [artifacts.store.known(node.kind, node.digest) for node in nodes]
    if None in records:
        return Gallery(shown, "", problem="not computed")
    key = "-".join(f"{record.digest}.{record.content}" for record in records if record)
    if key in known:
        return Gallery(shown, key, known[key])
    try:
        for node in nodes:
            for _, parent in node.parents:
                artifacts.store.required(parent.kind, parent.digest)
    except Damaged as problem:
        return Gallery(shown, key, problem=str(problem))
    # only here: a report of what is known, or cannot be, imports no torch
    from pipeline.report.views.recomputed import exhibits
    from tasks.evaluation.defend import BadDefense

    try:
        found = exhibits(nodes[0], nodes[1], artifacts.store, _classes(shown))
        return Gallery(shown, key, tuple(found))
    except (Damaged, BadDefense) as problem:
        return Gallery(shown, key, problem=str(problem))


def _pair(cells: Sequence[Cell], artifacts: Artifacts) -> tuple[Cell, Cell] | None:
    """A bare cell, and the defended one that is shown of those with the very same examples."""
    bare = {
        _examples(cell, artifacts): cell
        for cell in reversed(cells)
        if cell.defense_spec.kind == "none" and cell.attack_spec.crafts
    }
    defended = [
        cell
        for cell in cells
        if cell.defense_spec.kind != "none" and _examples(cell, artifacts) in bare
    ]
    if not defended:
        return None
    counters = (cell for cell in defended if cell.defense_spec.kind == "counter")
    shown = next(counters, defended[0])
    return bare[_examples(shown, artifacts)], shown


def _examples(cell: Cell, artifacts: Artifacts) -> tuple[str, ...]:
    """Digests of the examples of each shard; those of an adaptive attack are its defense's own."""
    shards = artifacts.scores[cell.name].parents
    return tuple(node.parent("examples").digest for _, node in shards)


def _classes(cell: Cell) -> range:
    return range(min(CLASSES, cell.dataset_spec.classes))
