"""Warns during a run if a model is implausible, by its clean accuracy or its outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pipeline.execution.events import Event, NodeDone
from pipeline.grid.cells import Cell
from pipeline.grid.graph import Node
from pipeline.report.answers import PerImage
from pipeline.report.sanity import Sanity
from tasks.defenses.none import NoDefense


class Doubts:
    """An observer that checks each undefended model as soon as its clean images are scored.

    So a broken model is reported before hours of work.

    Args:
        cells: The cells of the run, by name.
        scores: Score node of each cell, by cell name.
        answers: Access to the stored predictions.
        say: Prints a line.
    """

    def __init__(
        self,
        cells: Mapping[str, Cell],
        scores: Mapping[str, Node],
        answers: PerImage,
        say: Callable[[str], None],
    ) -> None:
        self._telling = {
            scores[name].digest: cell
            for name, cell in cells.items()
            if not cell.attack_spec.crafts and isinstance(cell.defense_spec, NoDefense)
        }
        self._scores, self._answers, self._say = scores, answers, say

    def notify(self, event: Event) -> None:
        """See `Observer.notify`."""
        if not isinstance(event, NodeDone):
            return
        cell = self._telling.pop(event.node.digest, None)
        if cell is None:
            return
        facts = {cell.name: event.done.facts}
        found = Sanity([cell], facts, self._scores, lambda _: {}, self._answers)
        for doubt in found.doubts():
            self._say(f"doubt: {doubt.line}")

    def close(self) -> None:
        """See `Observer.close`."""
