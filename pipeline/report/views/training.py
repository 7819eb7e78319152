"""Trainings of a grid's models, epoch by epoch, as recorded in the store."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.grid.cells import Cell, Grid
from pipeline.grid.nodes import models_behind
from pipeline.plan.words import counted
from pipeline.problems import BadInput
from pipeline.report.facts import number
from pipeline.report.views.pictures import Artifacts
from pipeline.store.reading import Malformed, parsed
from pipeline.store.records import Record, hardware
from pipeline.store.store import Damaged
from tasks.training.recipe import TrainSpec

MEASURED_ON = {
    "adversarial": "adversarial training images",
    "iat": "mixed training images",
    "mixup": "mixed training images",
}
"""What a recipe's training accuracy is measured on."""


@dataclass(frozen=True)
class TrainingEpoch:
    """One epoch.

    Attributes:
        loss: Mean over the batches.
        accuracy: Percentage of training images as augmented by the recipe, see
            `tasks.training.train.State`.
        seconds: Duration; None if it was not recorded.
    """

    loss: float
    accuracy: float
    learning_rate: float
    seconds: float | None


@dataclass(frozen=True)
class Training:
    """A model's training: short description of the recipe, epochs, and hardware.

    hardware: that of the process that finished the training.
    """

    model: str
    recipe: str
    of: str
    epochs: tuple[TrainingEpoch, ...]
    hardware: str

    @property
    def hours(self) -> float | None:
        """Total duration; None if that of any epoch is unknown."""
        seconds = [epoch.seconds for epoch in self.epochs]
        return None if None in seconds else sum(filter(None, seconds)) / 3600

    @property
    def words(self) -> str:
        """Summary in one line."""
        last, hours = self.epochs[-1], self.hours
        took = counted(len(self.epochs), "epoch") + ("" if hours is None else f" in {hours:.2g} h")
        return (
            f"`{self.model}`: {self.recipe}; {took} on {self.hardware}; "
            f"last epoch: loss {last.loss:.3f}, {last.accuracy:.1f} % of {self.of} right"
        )


def trainings(grid: Grid, artifacts: Artifacts | None) -> list[Training]:
    """Trainings of the grid's models, in order, without those that are not in the store.

    A model with several seeds has one for each.
    """
    found: dict[str, Training] = {}
    for cell in grid.cells if artifacts is not None else ():
        assert artifacts is not None
        model = artifacts.scores[cell.name].parents[0][1].parent("model")
        for own, node in models_behind(cell, model):
            name = f"{own.model}, seed {cell.seed}" if cell.seed else own.model
            if name in found or not isinstance(own.model_spec, TrainSpec):
                continue
            record = artifacts.store.known(node.kind, node.digest)
            if record is not None and (epochs := _epochs(artifacts, record)):
                found[name] = _training(name, own, record, epochs)
    return list(found.values())


def _training(name: str, cell: Cell, record: Record, epochs: Sequence[TrainingEpoch]) -> Training:
    spec = cell.model_spec
    assert isinstance(spec, TrainSpec)
    recipe = spec.recipe
    words = f"{recipe.method}, batches of {recipe.batch_size}, {recipe.precision}"
    where = ", ".join(hardware(record).values()) or "unknown hardware"
    return Training(name, words, MEASURED_ON[recipe.method], tuple(epochs), where)


def _epochs(artifacts: Artifacts, record: Record) -> list[TrainingEpoch]:
    """The epochs of a record; empty if its file is missing or invalid."""
    try:
        text = artifacts.store.path(record, "history.json").read_bytes()
        history = parsed(text, list[dict[str, Any]])
    except (Damaged, BadInput, OSError, Malformed):
        return []
    timings = record.facts.get("timings")
    seconds = timings.get("seconds") if isinstance(timings, Mapping) else None
    times: Sequence[object] = seconds if isinstance(seconds, list) else []
    epochs = []
    for place, facts in enumerate(history):
        loss, accuracy = number(facts, "loss"), number(facts, "accuracy")
        if loss is None or accuracy is None:
            return []
        took = times[place] if place < len(times) else None
        epochs.append(
            TrainingEpoch(
                loss,
                100 * accuracy,
                number(facts, "learning_rate") or math.nan,
                float(took) if isinstance(took, int | float) else None,
            )
        )
    return epochs
