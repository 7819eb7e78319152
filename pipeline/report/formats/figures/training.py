"""Figure of training curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.ticker import MaxNLocator

from pipeline.report.formats.figures.style import COLOURS, MANNERS, FileKind, save, sheet
from pipeline.report.views.training import Training


def draw_trainings(trainings: Sequence[Training], path: Path, kind: FileKind) -> None:
    """Draw loss and training accuracy against epochs, in two panels, with a line for each model."""
    with sheet(9.2, 3.8 + 0.22 * len(trainings)) as figure:
        loss, accuracy = figure.subplots(1, 2)
        for place, training in enumerate(trainings):
            look = {
                "color": COLOURS[place % len(COLOURS)],
                "linestyle": MANNERS[place % len(MANNERS)][1],
                "marker": MANNERS[place % len(MANNERS)][0],
                "markersize": 3.5,
                "label": f"{training.model} ({training.of})",
            }
            epochs = range(1, len(training.epochs) + 1)
            loss.plot(epochs, [epoch.loss for epoch in training.epochs], **look)
            accuracy.plot(epochs, [epoch.accuracy for epoch in training.epochs], **look)
        loss.set_ylabel("training loss")
        accuracy.set_ylabel("training accuracy (%)")
        for axes in (loss, accuracy):
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        handles, labels = loss.get_legend_handles_labels()
        figure.legend(handles=handles, labels=labels, loc="outside lower center", fontsize=9)
        save(figure, path, kind)
