"""Figures of example images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from pipeline.report.formats.figures.style import STYLE, FileKind, save
from pipeline.report.views.pictures import Picture


def draw_pictures(pictures: Sequence[Picture], path: Path, kind: FileKind) -> None:
    """Draw each image clean and attacked, and the magnified perturbation, in one row each."""
    with mpl.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(7.5, 3.2 * len(pictures)), layout="constrained")
        rows = figure.subplots(len(pictures), 3, squeeze=False)
        for axes, picture in zip(rows, pictures, strict=True):
            for place, (heading, pixels) in zip(axes, _images(picture), strict=True):
                grey = pixels.shape[2] == 1
                place.imshow(
                    pixels[:, :, 0] if grey else pixels,
                    cmap="gray" if grey else None,
                    vmin=0,
                    vmax=1,
                    interpolation="nearest",
                )
                place.set_title(heading, fontsize=10)
                place.set_axis_off()
        save(figure, path, kind)


def _images(picture: Picture) -> list[tuple[str, np.ndarray]]:
    change = picture.perturbation
    attacked = next(iter(picture.answers.values()))
    before = [f"clean: class {picture.label}"]
    if picture.clean_answer is not None:
        before = [_seen("clean", picture.clean_answer)]
    return [
        (before[0], picture.clean),
        (_seen(picture.attack, attacked), picture.adversarial),
        (f"perturbation, {change.times:g} times\n(grey: no change)", change.pixels),
    ]


def _seen(heading: str, answer: np.ndarray) -> str:
    return f"{heading}\nseen as class {answer.argmax()} ({answer.max():.2f})"
