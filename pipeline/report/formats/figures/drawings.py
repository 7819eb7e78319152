"""Figures of a report: their files, captions and embedding in Markdown."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.grid.cells import Grid
from pipeline.plan.words import counted
from pipeline.report.cache import kept
from pipeline.report.formats.markdown import markdown_table
from pipeline.report.scores import Scores
from pipeline.report.views.adaptive import Robustness
from pipeline.report.views.costs import costs
from pipeline.report.views.epsilons import epsilons
from pipeline.report.views.pictures import (
    Artifacts,
    NoPicture,
    Picture,
    class_probabilities,
    pictures,
)
from pipeline.report.views.sweeps import Sweep, sweep
from pipeline.report.views.table import View
from pipeline.report.views.training import Training
from pipeline.report.views.verdict_panels import verdict_panels
from pipeline.report.words.numbers import images_of
from pipeline.report.words.table import images_line

if TYPE_CHECKING:
    from pipeline.report.formats.figures.style import FileKind

FIGURES = Path(__file__).parent


@dataclass(frozen=True)
class DrawnFile:
    """A file of a figure: its content as data, and the function that draws it with matplotlib."""

    shown: Any
    kind: FileKind
    draw: Callable[[Any, Path, FileKind], None]

    def content(self) -> bytes:
        """The bytes of the file, cached; see `pipeline.report.cache`."""
        code = sorted(FIGURES.glob("*.py"))
        parts = [self.draw.__name__, self.shown, self.kind, version("matplotlib")]
        return kept(code, parts, self._drawn)

    def _drawn(self) -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"figure.{self.kind}"
            self.draw(self.shown, path, self.kind)
            return path.read_bytes()


ROBUSTNESS_CAPTION = """\
Each line leads from the accuracy under the replayed attack that lowers it most to the accuracy
under the adaptive attack on the same images, with Wilson 95 % intervals; the cross is the accuracy
where each image counts under the attack that is most successful on it."""
COSTS_CAPTION = """\
Each point is the accuracy of a defense under the attack of this table that lowers it most, with the
Wilson 95 % interval over images. Passes are forward and backward passes of the network for one
image, as counted while the defense ran. Points of equal or almost equal passes are drawn side by
side, so that only the middle of such a row is at its place on the axis."""

VERDICTS_CAPTION = """\
A point is the worst-case accuracy with a defense, the line that without one, each with its Wilson
95 % interval over images; a circle is the accuracy under replayed examples. The verdict is that of
the gain image by image, so overlapping intervals do not contradict it."""
NO_PANEL = """
Without a panel, since every verdict is "cannot tell": {models}."""

EPSILONS_CAPTION = """\
Accuracy under an APGD that knows the defense, at each epsilon, as measured by the integrity cards
with Wilson 95 % intervals. Number of images: {images}. It must not rise with epsilon, and at the
largest epsilon it must not exceed chance."""

TRAININGS_CAPTION = """\
Loss and accuracy are means over an epoch, measured while its weights were being updated, on the
training images as the recipe uses them: mixed, or adversarial. Accuracies on test images are in the
tables."""

FEW_DRAWS_CAPTION = """
These are few-draw accuracies and differ from those of the table: to save time, a prediction of a
card is the mean over fewer draws than the defense makes ({draws})."""


@dataclass(frozen=True)
class Drawing:
    """A figure.

    Attributes:
        markdown: Markdown that embeds it.
        alt: Alternative text for people who cannot see it.
        caption: Caption in Markdown.
        files: Files by extension.
        pictures: The images that it shows.
    """

    markdown: str
    alt: str = ""
    caption: str = ""
    files: Mapping[str, DrawnFile] = field(default_factory=dict)
    pictures: Sequence[Picture] = ()


def drawing(view: View, stem: str, grid: Grid, artifacts: Artifacts | None) -> Drawing | None:
    """The figure that a table defines; None if it has none, or nothing is scored yet.

    Args:
        stem: Stem of the file names.
        artifacts: Access to images and probabilities.
    """
    if view.table.figure is None:
        return None
    if view.table.figure.probabilities:
        return _pictures(view, stem, grid, artifacts)
    curves = sweep(view, grid)
    if curves is None:
        return None
    files = _files(curves, _sweep)
    caption = " ".join(filter(None, [_curves_caption(curves), images_line(view)]))
    markdown = f"{_embedded(curves.quantity, stem)}\n\n{caption}\n"
    return Drawing(markdown, f"Accuracy against {curves.quantity}", caption, files)


def cost_drawing(view: View, stem: str, grid: Grid, scores: Scores) -> Drawing | None:
    """Accuracy against cost, see `views.costs`; None if there is nothing to draw."""
    found = costs(view, grid, scores)
    if found is None:
        return None
    files = {"svg": DrawnFile(found, "svg", _costs)}
    alt = "Lowest accuracy of each defense by number of passes"
    left_out = ""
    if found.left_out:
        count = counted(len(found.left_out), "row")
        left_out = f"{count} left out, without an adaptive accuracy: {', '.join(found.left_out)}."
    caption = " ".join(filter(None, [COSTS_CAPTION, left_out, images_line(view)]))
    return Drawing(f"![{alt}]({stem}.svg)\n\n{caption}\n", alt, caption, files)


def epsilon_drawing(view: View, stem: str, grid: Grid, scores: Scores) -> Drawing | None:
    """Accuracy against epsilon, see `views.epsilons`; None if no card of the table has values."""
    found = epsilons(view, grid, scores)
    if found is None:
        return None
    files = {"svg": DrawnFile(found, "svg", _epsilons)}
    counts = {(p.model, curve.defense): curve.images for p in found.panels for curve in p.curves}
    caption = EPSILONS_CAPTION.format(images=images_of(counts))
    if few := found.few_draws:
        listed = ", ".join(f"{defense} {draws}" for defense, draws in few.items())
        caption += FEW_DRAWS_CAPTION.format(draws=listed)
    alt = "Accuracy of each defense against the epsilon of the attack"
    return Drawing(f"![{alt}]({stem}.svg)\n\n{caption}\n", alt, caption, files)


def robustness_drawing(rows: Sequence[Robustness], stem: str) -> Drawing | None:
    """Adaptive and replayed accuracy of each defense; None without adaptive attacks."""
    if not rows:
        return None
    files = {"svg": DrawnFile(rows, "svg", _robustness)}
    alt = "Accuracy of each defense under a replayed and under an adaptive attack"
    return Drawing(
        f"![{alt}]({stem}.svg)\n\n{ROBUSTNESS_CAPTION}\n", alt, ROBUSTNESS_CAPTION, files
    )


def verdict_drawing(facts: Iterable[Mapping[str, Any]], stem: str) -> Drawing | None:
    """Verdicts of defenses, from the lines of `verdicts.csv`; None if none was computed."""
    panels = verdict_panels(facts)
    if not panels:
        return None
    shown = [panel for panel in panels if panel.tells] or panels
    files = {"svg": DrawnFile(shown, "svg", _verdicts)}
    alt = "Worst-case accuracy of each defense, and its verdict"
    caption = VERDICTS_CAPTION
    if len(shown) < len(panels):
        models = dict.fromkeys(panel.model for panel in panels if panel not in shown)
        caption += NO_PANEL.format(models=", ".join(models))
    return Drawing(f"![{alt}]({stem}.svg)\n\n{caption}\n", alt, caption, files)


def training_drawing(trainings: Sequence[Training], stem: str) -> Drawing | None:
    """Training curves; None if nothing was trained."""
    if not trainings:
        return None
    files = {"svg": DrawnFile(trainings, "svg", _trainings)}
    alt = "Loss and accuracy of each training against its epochs"
    markdown = f"![{alt}]({stem}.svg)\n\n{TRAININGS_CAPTION}\n"
    return Drawing(markdown, alt, TRAININGS_CAPTION, files)


def _pictures(view: View, stem: str, grid: Grid, artifacts: Artifacts | None) -> Drawing | None:
    if artifacts is None or all(
        entry.accuracy is None for row in view.rows for entry in row.entries
    ):
        return None
    try:
        found = pictures(view, grid, artifacts)
    except NoPicture as reason:
        caption = f"The figure is not drawn: {reason}."
        return Drawing(f"{caption}\n", caption=caption)
    files = _files(found, _shown_pictures)
    lines = [_embedded("an image before and after the attack", stem), ""]
    for picture in found:
        lines += [_rule(picture, picture.perturbation.times), "", *_probabilities(picture), ""]
    rules = " ".join(_rule(picture, picture.perturbation.times) for picture in found)
    return Drawing("\n".join(lines), "An image before and after the attack", rules, files, found)


def _files(shown: Any, draw: Callable[[Any, Path, FileKind], None]) -> dict[str, DrawnFile]:
    kinds: tuple[FileKind, ...] = ("svg", "png")
    return {kind: DrawnFile(shown, kind, draw) for kind in kinds}


# matplotlib is imported only when something is drawn that is not cached


def _sweep(shown: Any, path: Path, kind: FileKind) -> None:
    from pipeline.report.formats.figures.sweeps import draw_sweep

    draw_sweep(shown, path, kind)


def _costs(shown: Any, path: Path, kind: FileKind) -> None:
    from pipeline.report.formats.figures.points import draw_costs

    draw_costs(shown, path, kind)


def _epsilons(shown: Any, path: Path, kind: FileKind) -> None:
    from pipeline.report.formats.figures.points import draw_epsilons

    draw_epsilons(shown, path, kind)


def _robustness(shown: Any, path: Path, kind: FileKind) -> None:
    from pipeline.report.formats.figures.points import draw_robustness

    draw_robustness(shown, path, kind)


def _verdicts(shown: Any, path: Path, kind: FileKind) -> None:
    from pipeline.report.formats.figures.verdicts import draw_verdicts

    draw_verdicts(shown, path, kind)


def _trainings(shown: Any, path: Path, kind: FileKind) -> None:
    from pipeline.report.formats.figures.training import draw_trainings

    draw_trainings(shown, path, kind)


def _shown_pictures(shown: Any, path: Path, kind: FileKind) -> None:
    from pipeline.report.formats.figures.pictures import draw_pictures

    draw_pictures(shown, path, kind)


def _embedded(what: str, stem: str) -> str:
    return f"![{what}]({stem}.png)\n\nThe same without pixels: [{stem}.svg]({stem}.svg)."


def _curves_caption(curves: Sweep) -> str:
    words = ["Shaded: Wilson 95 % intervals over images."]
    if any(curve.level for curve in curves.curves):
        words.append("Thin lines without marks: those without this parameter.")
    if curves.published:
        names = dict.fromkeys(table for one in curves.published for table in one.printed_in)
        words.append(
            f"Large hollow marks: published accuracies ({', '.join(names)}), the only published "
            "points of these curves."
        )
        if any(reference.other for reference in curves.published):
            words.append("They are for another network, recipe or setting, as listed above.")
    return " ".join(words)


def _rule(picture: Picture, times: float) -> str:
    right = "right when clean and wrong under the attack"
    if picture.clean_answer is None:
        right = "wrong under the attack (this grid does not ask it about clean images)"
    return (
        f"The image is the first one, in the fixed order of the test images, that "
        f"`{picture.model}` gets {right}: image {picture.place} under `{picture.attack}`, of class "
        f"{picture.label}. The perturbation is shown {times:g} times as large, around grey. "
        f"Below are the probabilities of the classes, the highest of each column in bold; "
        f"`adversarial` is the attacked image without a defense."
    )


def _probabilities(picture: Picture) -> list[str]:
    columns = dict(class_probabilities(picture))
    rows = [
        [
            f"{place} (true)" if place == picture.label else str(place),
            *(_probability(values, place) for values in columns.values()),
        ]
        for place in range(max(map(len, columns.values())))
    ]
    return markdown_table(["class"], list(columns), rows)


def _probability(values: Sequence[float], place: int) -> str:
    value = values[place]
    words = f"{value:.3f}" if value >= 0.0005 else f"{value:.1e}"
    return f"**{words}**" if value == max(values) else words
